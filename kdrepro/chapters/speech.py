"""Chapters on speech: acoustic models by plan, trained together, their ensembles, and their scores.

A data set may be cut into folds (the TIMIT sample's 16 speakers into four); then every network exists once a fold, and
a score is over the test speakers of all folds together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdrepro import training
from kdrepro.acoustic import frames, posteriors, soft_targets
from kdrepro.acoustic.batches import FrameBatches
from kdrepro.acoustic.frames import Speech
from kdrepro.acoustic.recognition import Recognizer
from kdrepro.acoustic.soft_targets import SoftTargets
from kdrepro.chapters.experiment import Experiment, Request, Trained
from kdrepro.chapters.sizes import SpeechTraining
from kdrepro.speech import corpus
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.verdicts import recompute, stats, wording

CURVE_FRAMES = 30_000  # at most so many frames of a split are looked at for a learning curve
Folded = tuple[Trained, ...]  # one network, trained once a fold
Decoder = tuple[Recognizer, ...]  # one a fold


@dataclass(frozen=True)
class Score:
    """How a system does on test speakers, of all folds one after the other.

    correct: bool [frames]. speaker: int [frames], whose frame it is. errors: int [utterances, 4]: substitutions,
    insertions, deletions and length of the reference, after decoding; None where that was not asked for. said_by: int
    [utterances], the speaker of each. voice: int [speakers], whose voice each has; see `corpus.voice_of`.
    """

    correct: np.ndarray
    speaker: np.ndarray
    errors: np.ndarray | None = None
    said_by: np.ndarray | None = None
    voice: np.ndarray | None = None

    @property
    def frame_accuracy(self) -> float:
        """The share of test frames whose state is right."""
        return float(self.correct.mean())

    @property
    def error_rate(self) -> float:
        """Substitutions, insertions and deletions per word (or phone) of the reference."""
        return float(self.errors[:, :3].sum() / self.errors[:, 3].sum())

    @property
    def right(self) -> np.ndarray:
        """How many frames of each test speaker are right: int [speakers]."""
        return np.bincount(self.speaker, self.correct).astype(np.int64)

    @property
    def errors_by_speaker(self) -> np.ndarray:
        """`errors` added up for each test speaker: int [speakers, 4]."""
        found = np.zeros((self.speaker.max() + 1, 4), np.int64)
        np.add.at(found, self.said_by, self.errors)
        return found


@dataclass(frozen=True)
class Folds:
    """The folds of a data set as one thing, with its name; the fingerprint is that of all folds."""

    parts: tuple[Speech, ...]

    @property
    def name(self) -> str:
        """The data set's."""
        return self.parts[0].name

    @property
    def fingerprint(self) -> str:
        """Those of all folds in one."""
        return "-".join(part.fingerprint for part in self.parts)

    def without_test(self) -> "Folds":
        """The same with the validation speakers in the place of the test speakers, whom nobody then sees."""
        # Another fingerprint: networks of a search note other figures while they train, and are not the chapter's.
        return Folds(
            tuple(replace(p, test=p.validation, fingerprint=f"{p.fingerprint}-without-test") for p in self.parts)
        )

    def describe(self) -> str:
        """Name and size, for a reader."""
        sizes = [[len(split) for split in (p.train, p.validation, p.test)] for p in self.parts]
        train, validation, test = (f"{n:,}" for n in np.mean(sizes, axis=0).round().astype(int))
        folds = f" ({len(self.parts)} folds by speaker; mean sizes)" if len(self.parts) > 1 else ""
        return f"{self.name}, {train} training, {validation} validation and {test} test frames{folds}"


@dataclass
class SpeechExperiment(Experiment):
    """One chapter on one data set of speech; its data is a `Folds`."""

    _recognizers: dict[tuple, Recognizer] = field(default_factory=dict, init=False)  # by fold and order, once asked for

    @property
    def plans(self) -> Any:
        """This data set's part of the chapter's sizes: `sizes.Synthetic`, for one's own too, or `sizes.TimitSizes`."""
        return self.sizes.synthetic if self.is_synthetic or self.preset.own_data else self.sizes.timit

    @property
    def is_synthetic(self) -> bool:
        """Whether this is the data set that decides."""
        return self.record_name.endswith(".synthetic")

    @property
    def error_metric(self) -> str:
        """What is scored after decoding."""
        return "word_error_rate" if self.is_synthetic else "phone_error_rate"

    # --- networks -------------------------------------------------------------------------------

    @property
    def places(self) -> list[int]:
        """Of each seed, the place of its baseline in an ensemble."""
        return [seed % self.sizes.members for seed in self.seeds]

    def ensemble(self, number: int = 0) -> list[Folded]:
        """One of the data set's disjoint ensembles; its members differ in their initial weights and order of cases.

        Seeds from `members` on, those that confirm, have ensembles of their own.
        """
        return self.train(self.plans.training, self._seeds_of(number), name=f"member {number}")

    def distilled_from(
        self, number: int, plan: SpeechTraining, seeds: Sequence[int] | None = None, name: str = ""
    ) -> list[Folded]:
        """The nets distilled from that ensemble, one a seed: no member of it has the same initial weights."""
        chosen = self.students_seeds(number, seeds)
        return self.train(plan, chosen, self.ensemble(number), name=name or "distilled")

    def students_seeds(self, number: int, seeds: Sequence[int] | None = None) -> list[int]:
        """What the students of that ensemble are trained with, one a seed; nets on labels to compare with them, too."""
        others = self._seeds_of((number + 1) % max(2, self.plans.ensembles))
        return [others[seed % self.sizes.members] for seed in (self.seeds if seeds is None else seeds)]

    @property
    def members_seeds(self) -> list[int]:
        """Of each seed, what its member of the first ensemble is trained with, in the chapter that has ensembles.

        The chapter without takes them too: seeds that confirm then train no net that a second ensemble has already.
        """
        members = self.preset.chapters["03-acoustic-ensemble"].members
        return [self._members_seed(seed, 0, members) for seed in self.seeds]

    def _seeds_of(self, number: int) -> list[int]:
        members = self.sizes.members
        first = self.seeds[0] // members * members
        return [self._members_seed(seed, number, members) for seed in range(first, first + members)]

    def _members_seed(self, seed: int, number: int, members: int) -> int:
        """What a seed's member of an ensemble is trained with; ensembles have a block of seeds each."""
        return (seed // members * max(2, self.plans.ensembles) + number) * members + seed % members

    def train(
        self,
        plan: SpeechTraining,
        seeds: Sequence[int],
        teachers: Sequence[Folded] | Mapping[int, Sequence[Folded]] = (),
        name: str = "",
    ) -> list[Folded]:
        """Load the networks of this plan, one a seed (and fold), from the store; train together those that are missing.

        teachers: whose mean is matched when plan.loss is "soft", in every fold those of the fold; by seed where seeds
            have different ones. name: how the run's log calls the networks.
        """
        of = teachers if isinstance(teachers, Mapping) else dict.fromkeys(seeds, teachers)
        folds = range(len(self.data.parts))
        found = self.train_many(
            [self.request(plan, seed, [net[fold] for net in of[seed]], fold, name) for fold in folds for seed in seeds]
        )
        return [tuple(found[i :: len(seeds)]) for i in range(len(seeds))]

    def request(
        self, plan: SpeechTraining, seed: int, teachers: Sequence[Trained] = (), fold: int = 0, name: str = ""
    ) -> Request:
        """Ask for the network of this plan, seed and fold, with others: see `train_many`.

        Raises ValueError when there are teachers and plan.loss is "hard", and when there are none and it is not.
        """
        if (plan.loss == "hard") == bool(teachers):
            raise ValueError(f"A plan with loss {plan.loss!r} needs teachers if and only if its loss is soft.")
        plan = self.settled(plan)
        soft = training.soft_targets(plan.temperature, plan.soft_weight)
        return Request(
            self._config(plan, seed, teachers, fold),
            plan,
            seed,
            soft if teachers else training.hard_targets,
            partial(self._batches, plan, seed, teachers, fold),
            f"{self._place(fold)}{name or plan.loss} seed {seed}",
            evaluate=self._curve(plan, seed, fold) if plan.curve else None,
            evaluate_every=max(1, plan.curve),
            keep_best="validation_frame_accuracy" if plan.early_stopping else None,
            needs=tuple(teachers),
        )

    def _config(self, plan: SpeechTraining, seed: int, teachers: Sequence[Trained], fold: int) -> dict[str, Any]:
        """All that decides a trained network, in values that JSON can hold."""
        config = plan.model_dump(exclude={"network", "teachers", "jitter", "classes"})
        config["network"] = plan.network.of(frames.WINDOW_FRAMES * COEFFICIENTS, len(self.data.parts[fold].states))
        config |= {"seed": seed, **self._data_config(fold)}
        if teachers:
            config["teachers"] = {"keys": [t.key for t in teachers], "top_k": self.sizes.top_k}
            if len(teachers) > 1:
                config["teachers"]["how"] = plan.teachers
        return config

    def _data_config(self, fold: int) -> dict[str, Any]:
        speech = self.data.parts[fold]
        return {"data": {"name": speech.name, "fingerprint": speech.fingerprint, "states": len(speech.states)}}

    def _place(self, fold: int) -> str:
        return f"{self.data.name} fold {fold} " if len(self.data.parts) > 1 else f"{self.data.name} "

    def transfer_set(self, plan: SpeechTraining, seed: int, fold: int = 0) -> torch.Tensor:
        """The training frames of a plan's share, int64 [n], ascending; see `frames.share_of`."""
        return frames.share_of(self.data.parts[fold].train, plan.fraction, plan.sampling, seed)

    def _batches(self, plan: SpeechTraining, seed: int, teachers: Sequence[Trained], fold: int) -> FrameBatches:
        """What a network is trained on: its share of the frames, with soft targets stored or computed anew."""
        which = self.transfer_set(plan, seed, fold)
        given = {"batch_size": plan.recipe.batch_size, "device": self.device}
        if teachers and self.sizes.top_k is None:
            networks = [teacher.network for teacher in teachers]
            given["teacher"] = lambda inputs: posteriors.mean_log_probabilities(networks, inputs, plan.teachers)
        elif teachers:
            given["soft_targets"] = self._stored(plan, seed, teachers, fold, which)
        return FrameBatches(self.data.parts[fold].train, which, **given)

    def _stored(self, plan, seed: int, teachers: Sequence[Trained], fold: int, which: torch.Tensor) -> SoftTargets:
        """The soft targets of a transfer set, read from disk."""
        if len(teachers) > 1 or plan.fraction == 1:
            # An ensemble's are expensive: stored once for all frames, whatever share of them is trained on.
            folder = self.soft_targets(teachers, plan.teachers, fold, self.sizes.top_k)
            return SoftTargets(folder, which if plan.fraction < 1 else None)
        share = {"fraction": plan.fraction, "sampling": plan.sampling, "seed": seed}
        return SoftTargets(self.soft_targets(teachers, plan.teachers, fold, self.sizes.top_k, which, share))

    def soft_targets(
        self,
        teachers: Sequence[Trained],
        how: str,
        fold: int,
        top_k: int | None,
        which: torch.Tensor | None = None,
        share: Mapping[str, Any] | None = None,
    ) -> Path:
        """The folder of the mean predictions of these teachers on training frames, stored once; see `SoftTargets`.

        top_k: how many of a frame's states are kept, None for all. which: the frames, None for all; share: what chose
        them, for the name in the store.
        """
        config = {
            "soft_targets": [teacher.key for teacher in teachers],
            "how": how,
            "top_k": top_k,
            "share": dict(share or {}),
            **self._data_config(fold),
        }
        folder = self.store.folder(config)
        if not (folder / "classes").exists():
            self.log(f"{self._place(fold)}soft targets, averaged over {len(teachers)}, {top_k or 'all'} states a frame")
            networks = [teacher.network for teacher in teachers]
            split = self.data.parts[fold].train
            with self.store.writing():
                soft_targets.store_soft_targets(
                    folder, networks, split, which, how=how, top_k=top_k, device=self.device
                )
        return folder

    # --- evaluation -----------------------------------------------------------------------------

    def _curve(self, plan: SpeechTraining, seed: int, fold: int) -> Callable[[nn.Module], dict[str, float]]:
        """What a learning curve notes of a network: its accuracy on some frames of each split."""
        looked_at: dict[str, tuple[frames.Frames, torch.Tensor]] = {}

        def evaluate(network: nn.Module) -> dict[str, float]:
            if not looked_at:  # not before: a worker has the frames, and needs not be sent them
                looked_at.update(self._looked_at(plan, seed, fold))
            return {
                name: round(posteriors.accuracy(network, split, some, self.device), 6)
                for name, (split, some) in looked_at.items()
            }

        return evaluate

    def _looked_at(self, plan: SpeechTraining, seed: int, fold: int) -> dict[str, tuple[frames.Frames, torch.Tensor]]:
        speech = self.data.parts[fold]
        return {
            "train_frame_accuracy": (speech.train, evenly(self.transfer_set(plan, seed, fold), CURVE_FRAMES)),
            "validation_frame_accuracy": (speech.validation, evenly(len(speech.validation), CURVE_FRAMES)),
            "test_frame_accuracy": (speech.test, evenly(len(speech.test), CURVE_FRAMES)),
        }

    def score(
        self,
        system: Folded | Sequence[Folded],
        *,
        how: str = "arithmetic",
        decoder: Decoder | None = None,
        split: str = "test",
    ) -> Score:
        """A network's score, or that of an ensemble averaged as `how` says, on "test" or "validation" speakers.

        decoder: also count the errors after decoding with it; see `decoder`.
        """
        ensemble, folds = _members(system), range(len(self.data.parts))
        with_each = decoder or [None] * len(folds)
        parts = [self._score_fold([m[f] for m in ensemble], how, with_each[f], split, f) for f in folds]
        speakers = np.cumsum([0, *(part["speakers"] for part in parts)])
        splits = [part.split(split) for part in self.data.parts]
        return Score(
            np.concatenate([np.unpackbits(part["correct"], count=int(part["frames"])) for part in parts]).astype(bool),
            np.concatenate([_speakers(one) + n for one, n in zip(splits, speakers[:-1], strict=True)]),
            np.concatenate([part["errors"] for part in parts]) if decoder else None,
            np.concatenate([_said_by(one) + n for one, n in zip(splits, speakers[:-1], strict=True)]),
            self.voices(split),
        )

    def voices(self, split: str) -> np.ndarray:
        """Of each speaker of a split, fold by fold, the number of the voice, numbered as they come: int [speakers]."""
        names = [
            corpus.voice_of(part.corpus, speaker)
            for part in self.data.parts
            for speaker in dict.fromkeys(utterance["speaker"] for utterance in part.split(split).utterances)
        ]
        return _numbered(names)

    def _score_fold(
        self, ensemble: list[Trained], how: str, recognizer: Recognizer | None, split: str, fold: int
    ) -> dict:
        config = {
            "score": [trained.key for trained in ensemble],
            "how": how if len(ensemble) > 1 else "",
            "decode": [recognizer.acoustic_scale, recognizer.insertion_penalty] if recognizer else None,
            "split": split,
            **self._data_config(fold),
        }
        if recognizer and recognizer.order > 2:
            config["order"] = recognizer.order
        speech = self.data.parts[fold]

        def compute() -> dict[str, np.ndarray]:
            chosen = speech.split(split)
            answers, errors = [], []
            for utterances, found in posteriors.by_utterance([t.network for t in ensemble], chosen, how, self.device):
                answers += [one.argmax(1).cpu() for one in found]
                if recognizer:
                    errors.append(recognizer.errors(utterances, found))
            correct = torch.cat(answers) == chosen.targets
            count = len(set(_speakers(chosen)))
            result = {"correct": np.packbits(correct.numpy()), "frames": len(correct), "speakers": count}
            return result | ({"errors": np.concatenate(errors)} if recognizer else {})

        return self.store.compute_or_load(config, compute)

    def decoder(self, system: Folded | Sequence[Folded], order: int = 2) -> Decoder:
        """A decoder of each fold, its scale and penalty chosen for this system on validation speakers.

        Every system gets the same trials: `Recognizer.grid`. order: 2 for a bigram, 3 for a trigram.
        """
        folds = range(len(self.data.parts))
        return tuple(self._tuned([m[f] for m in _members(system)], order, f)[0] for f in folds)

    def validation_rate(self, system: Folded | Sequence[Folded], order: int = 2) -> float:
        """The error rate that a system's `decoder` has on the utterances that tuned it; the mean over folds."""
        ensemble, folds = _members(system), range(len(self.data.parts))
        return float(np.mean([self._tuned([m[f] for m in ensemble], order, f)[1] for f in folds]))

    def _tuned(self, ensemble: Sequence[Trained], order: int, fold: int) -> tuple[Recognizer, float]:
        recognizer, how = self._recognizer(fold, order), "arithmetic"
        config = {"recognizer": [net.key for net in ensemble], "how": how if len(ensemble) > 1 else ""}
        config |= {"grid": recognizer.grid, "order": order, **self._data_config(fold)}

        def compute() -> dict[str, Any]:
            self.log(f"{self._place(fold)}decoder of {ensemble[0].kind}: scale and penalty on validation speakers")
            networks = [net.network for net in ensemble]
            return recognizer.tuned(networks, self.data.parts[fold].validation, how, self.device)

        chosen = self.store.compute_or_load(config, compute)
        weights = float(chosen["acoustic_scale"]), float(chosen["insertion_penalty"])
        return recognizer.with_weights(*weights), float(np.min(chosen["rates"]))

    def _recognizer(self, fold: int, order: int) -> Recognizer:
        if (fold, order) not in self._recognizers:
            self._recognizers[fold, order] = Recognizer.of(self.data.parts[fold], order)
        return self._recognizers[fold, order]

    def publish_scores(self, name: str, scores: Sequence[Any], split: str = "test") -> None:
        """Keep how many frames of each speaker of a split these get right, and their errors after decoding.

        scores: one a seed, or a list a seed of one an ensemble. `name.right`: [seeds, (ensembles,) speakers];
        `name.errors by speaker`: [..., speakers, 4], see `Score.errors`. `frames of speaker`, `voice of speaker`:
        [speakers]. Of validation speakers: `name.validation right`, `frames of validation speaker` and so on.
        """
        of = "" if split == "test" else f"{split} "
        first = scores[0] if isinstance(scores[0], Score) else scores[0][0]
        self.predictions[f"frames of {of}speaker"] = np.bincount(first.speaker).astype(np.uint32)
        self.predictions[f"voice of {of}speaker"] = first.voice.astype(np.uint32)
        self.predictions[f"{name}.{of}right"] = _stacked(scores, lambda score: score.right).astype(np.uint32)
        if first.errors is not None:
            errors = _stacked(scores, lambda score: score.errors_by_speaker)
            self.predictions[f"{name}.{of}errors by speaker"] = errors.astype(np.uint32)

    def claim_published(self, claim_id: str, nets: Sequence[Folded]) -> dict[str, Any]:
        """Record a claim by what has been published for it (`publish_scores`), as `verify` will compute it again.

        nets: those whose training it took; see `claim`. Raises KeyError where something is not published.
        """
        found = recompute.claimed(claim_id, self.predictions)
        for metric in {"word_error_rate", "phone_error_rate"} - {self.error_metric}:
            found.pop(metric, None)
            found["pooled"].pop(metric, None)
        return self.claim(claim_id, list(chain.from_iterable(nets)), **found)


def _stacked(scores: Sequence[Any], of: Callable[[Score], np.ndarray]) -> np.ndarray:
    """What each score has, as one array; nested lists are its leading dimensions."""
    return np.stack([of(one) if isinstance(one, Score) else _stacked(one, of) for one in scores])


def _members(system: Folded | Sequence[Folded]) -> list[Folded]:
    """The networks of a system: one, or an ensemble's."""
    return [system] if isinstance(system[0], Trained) else list(system)


def evenly(frames: torch.Tensor | int, most: int) -> torch.Tensor:
    """At most so many of these frames (or of the first n), evenly spaced: int64."""
    which = torch.arange(frames) if isinstance(frames, int) else frames
    return which[:: max(1, -(-len(which) // most))]


def _said_by(split: frames.Frames) -> np.ndarray:
    """The speaker of each utterance, numbered as they come: int [utterances]."""
    return _numbered([utterance["speaker"] for utterance in split.utterances])


def _numbered(names: Sequence[str]) -> np.ndarray:
    """Each name's number, in the order in which they first come: int [names]."""
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names])


def _speakers(split: frames.Frames) -> np.ndarray:
    """The speaker of each frame, numbered as in `_said_by`: int [frames]."""
    return np.repeat(_said_by(split), [utterance["frames"] for utterance in split.utterances])


def rows(
    run: SpeechExperiment, nets: Sequence[Folded], decoder: Decoder | None = None, **columns: Any
) -> list[dict[str, Any]]:
    """A row a network (a seed): the given columns, frame accuracy and, with a decoder, the error rate, in per cent."""
    found = []
    for net in nets:
        score = run.score(net, decoder=decoder)
        figures = {"frame accuracy, %": 100 * score.frame_accuracy}
        figures |= {"error rate, %": 100 * score.error_rate} if decoder else {}
        found.append({**columns, "seed": net[0].seed, **figures})
    return found


def mean_percent(values: Sequence[float]) -> str:
    """The mean of shares of 1 over seeds, with its 95 % interval, in per cent."""
    mean, ends = stats.mean_ci(values)
    return percent(mean) + ("" if ends is None else " [{:.1f}, {:.1f}]".format(*(100 * e for e in ends)))


def percent(value: float) -> str:
    """A share of 1 in per cent."""
    return wording.written("frame_accuracy", value)
