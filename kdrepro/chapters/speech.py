"""Chapters on speech: acoustic models by plan, trained together, their ensembles, and their scores.

A data set may be cut into folds (the TIMIT sample's 16 speakers into four); then every network exists once a fold, and
a score is over the test speakers of all folds together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
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
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.verdicts import stats, wording

CURVE_FRAMES = 30_000  # at most so many frames of a split are looked at for a learning curve
Folded = tuple[Trained, ...]  # one network, trained once a fold


@dataclass(frozen=True)
class Score:
    """How a system does on test speakers, of all folds one after the other.

    correct: bool [frames]. speaker: int [frames], whose frame it is. errors: int [utterances, 4]: substitutions,
    insertions, deletions and length of the reference, after decoding; None where that was not asked for.
    """

    correct: np.ndarray
    speaker: np.ndarray
    errors: np.ndarray | None = None

    @property
    def frame_accuracy(self) -> float:
        """The share of test frames whose state is right."""
        return float(self.correct.mean())

    @property
    def error_rate(self) -> float:
        """Substitutions, insertions and deletions per word (or phone) of the reference."""
        return float(self.errors[:, :3].sum() / self.errors[:, 3].sum())

    def by_speaker(self) -> np.ndarray:
        """Frame accuracy of each test speaker."""
        return np.bincount(self.speaker, self.correct) / np.bincount(self.speaker)


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

    def describe(self) -> str:
        """Name and size, for a reader."""
        sizes = [[len(split) for split in (p.train, p.validation, p.test)] for p in self.parts]
        train, validation, test = (f"{n:,}" for n in np.mean(sizes, axis=0).round().astype(int))
        folds = f" ({len(self.parts)} folds by speaker; mean sizes)" if len(self.parts) > 1 else ""
        return f"{self.name}, {train} training, {validation} validation and {test} test frames{folds}"


@dataclass
class SpeechExperiment(Experiment):
    """One chapter on one data set of speech; its data is a `Folds`."""

    _recognizers: dict[int, Recognizer] = field(default_factory=dict, init=False)  # by fold, once asked for

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
            network.eval()
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
        self, system: Folded | Sequence[Folded], *, how: str = "arithmetic", decode: bool = False, split: str = "test"
    ) -> Score:
        """A network's score, or that of an ensemble averaged as `how` says, on "test" or "validation" speakers.

        decode: also count the errors after decoding (see `recognition.Recognizer`).
        """
        ensemble = [system] if isinstance(system[0], Trained) else list(system)
        parts = [self._score_fold([m[f] for m in ensemble], how, decode, split, f) for f in range(len(self.data.parts))]
        speakers = np.cumsum([0, *(part["speakers"] for part in parts)])
        return Score(
            np.concatenate([np.unpackbits(part["correct"], count=int(part["frames"])) for part in parts]).astype(bool),
            np.concatenate([_speakers(self.data.parts[f].split(split)) + n for f, n in enumerate(speakers[:-1])]),
            np.concatenate([part["errors"] for part in parts]) if decode else None,
        )

    def _score_fold(self, ensemble: list[Trained], how: str, decode: bool, split: str, fold: int) -> dict:
        recognizer = self.recognizer(fold) if decode else None
        config = {
            "score": [trained.key for trained in ensemble],
            "how": how if len(ensemble) > 1 else "",
            "decode": [recognizer.acoustic_scale, recognizer.insertion_penalty] if recognizer else None,
            "split": split,
            **self._data_config(fold),
        }
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
            return result | ({"errors": np.concatenate(errors)} if decode else {})

        return self.store.compute_or_load(config, compute)

    def recognizer(self, fold: int) -> Recognizer:
        """The decoder of a fold, its scale and penalty chosen on validation speakers with the first baseline."""
        if fold not in self._recognizers:
            self._recognizers[fold] = self._tuned_recognizer(fold)
        return self._recognizers[fold]

    def _tuned_recognizer(self, fold: int) -> Recognizer:
        speech = self.data.parts[fold]
        (baseline,) = self.train_many([self.request(self.plans.member, 0, fold=fold, name="baseline")])
        recognizer = Recognizer.of(speech)
        config = {"recognizer": baseline.key, "grid": recognizer.grid, **self._data_config(fold)}

        def compute() -> dict[str, np.ndarray]:
            self.log(f"{self._place(fold)}decoder: scale and penalty on validation speakers")
            return recognizer.tuned(baseline.network, speech.validation, self.device)

        chosen = self.store.compute_or_load(config, compute)
        return recognizer.with_weights(float(chosen["acoustic_scale"]), float(chosen["insertion_penalty"]))

    def publish_scores(self, name: str, scores: Sequence[Score]) -> None:
        """Keep which test frames these get right, packed bits [seeds, frames / 8], and their decoding errors."""
        self.predictions[f"{name}.correct"] = np.stack([np.packbits(score.correct) for score in scores])
        self.predictions["frames"] = np.array(len(scores[0].correct))
        self.predictions["speaker"] = scores[0].speaker.astype(np.uint16)
        if scores[0].errors is not None:
            self.predictions[f"{name}.errors"] = np.stack([score.errors for score in scores]).astype(np.uint16)


def evenly(frames: torch.Tensor | int, most: int) -> torch.Tensor:
    """At most so many of these frames (or of the first n), evenly spaced: int64."""
    which = torch.arange(frames) if isinstance(frames, int) else frames
    return which[:: max(1, -(-len(which) // most))]


def _speakers(split: frames.Frames) -> np.ndarray:
    """The speaker of each frame, numbered as they come: int [frames]."""
    names = [utterance["speaker"] for utterance in split.utterances]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.repeat([number[name] for name in names], [utterance["frames"] for utterance in split.utterances])


Scores = Mapping[str, Sequence[Score]]  # system -> one score a seed, or one for all seeds
Found = Sequence[tuple[SpeechExperiment, Scores]]  # a data set each


def rows(run: SpeechExperiment, nets: Sequence[Folded], **columns: Any) -> list[dict[str, Any]]:
    """A row a network (a seed): the given columns, frame accuracy and the error rate after decoding, in per cent."""
    found = []
    for net in nets:
        score = run.score(net, decode=True)
        figures = {"frame accuracy, %": 100 * score.frame_accuracy, "error rate, %": 100 * score.error_rate}
        found.append({**columns, "seed": net[0].seed, **figures})
    return found


def mean_percent(values: Sequence[float]) -> str:
    """The mean of shares of 1 over seeds, with its 95 % interval, in per cent."""
    mean, ends = stats.mean_ci(values)
    return percent(mean) + ("" if ends is None else " [{:.1f}, {:.1f}]".format(*(100 * e for e in ends)))


def percent(value: float) -> str:
    """A share of 1 in per cent."""
    return wording.written("frame_accuracy", value)
