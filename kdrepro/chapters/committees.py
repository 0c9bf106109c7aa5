"""Chapters on specialists: a generalist, its specialists, and what Eq. 5 makes of their predictions."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kdrepro import specialists, training
from kdrepro.chapters.experiment import Request, Trained
from kdrepro.chapters.images import ImageExperiment, begun_from
from kdrepro.chapters.sizes import Specialist
from kdrepro.checks import NO_LABEL
from kdrepro.data import families
from kdrepro.data.characters import glyph_classes
from kdrepro.ensembles import Average
from kdrepro.specialists import HalfSpecial, combining
from kdrepro.store import build
from kdrepro.training import as_inputs
from kdrepro.verdicts import stats, wording

ON_VALIDATION = "validation_conditional_accuracy"  # in a specialist's history
ON_HALVES = [f"{ON_VALIDATION}_of_half_{i}" for i in (1, 2)]  # where one half chooses and the other measures
# How many numbers of a matrix [cases, classes] are worked on at a time: in Eq. 5, and where clusters are sought. Of
# thousands of classes, all at once would be many gigabytes; those of 200 classes are one part.
OF_ANSWERS, OF_CLUSTERS = 2**22, 2**25


@dataclass(frozen=True)
class Committee:
    """A generalist with its specialists. subsets: each one's special classes, index tensors [S]."""

    generalist: Trained
    specialists: list[Trained]
    subsets: list[torch.Tensor]

    def first(self, count: int) -> "Committee":
        """With its first `count` specialists only."""
        return Committee(self.generalist, self.specialists[:count], self.subsets[:count])

    @property
    def full(self) -> bool:
        """Whether the specialists have a full softmax, and no dustbin."""
        return any(s.plan.output == "full" for s in self.specialists)

    @property
    def seconds(self) -> float:
        """What training the specialists took."""
        return sum(s.seconds for s in self.specialists)


@dataclass(frozen=True)
class Answers:
    """What a system gets right, of what it says of a split's cases, which may be too much to be kept.

    right: which cases, bool [N]. conditional: of each specialist's special cases, how many are right where the answer
    is restricted to its classes, [specialists].
    """

    right: np.ndarray
    conditional: np.ndarray


@dataclass
class SpecialistExperiment(ImageExperiment):
    """One chapter on a generalist and specialists, at one preset; its data is an `ImageData` with a validation set."""

    # --- networks -------------------------------------------------------------------------------

    def generalists(self) -> list[Trained]:
        """The preset's generalist, one a seed: trained, or loaded where another chapter has trained it."""
        return self.train_seeds(self.sizes.generalist, name="generalist")

    def clusters(self, generalist: Trained, method: str = "kmeans", size: int | None = None) -> list[torch.Tensor]:
        """The special classes of each specialist, from the generalist's predictions on training images.

        size: special classes of each, None for the preset's. See `specialists.cluster_classes`.
        """
        p = (logits.softmax(1) for logits in self.logits_in_parts(generalist, "train", OF_CLUSTERS))
        count, size = self.sizes.specialists, self.sizes.special_classes if size is None else size
        return specialists.cluster_classes(p, count, size, seed=generalist.seed, method=method)

    def random_subsets(self, generalist: Trained) -> list[torch.Tensor]:
        """Subsets of the same number and size, drawn at random."""
        generator = torch.Generator().manual_seed(generalist.seed)
        return specialists.random_subsets(
            self.sizes.specialists, self.sizes.special_classes, self.data.classes, generator=generator
        )

    def committee(
        self, plan: Specialist, generalist: Trained, subsets: Sequence[torch.Tensor], name: str = "specialist"
    ) -> Committee:
        """Load these specialists of a generalist from the store; train together those that are missing.

        A specialist's name in the store holds its classes and its generalist and nothing of the others, so that any
        one can be trained alone.
        """
        requests = [self._specialist(plan, generalist, subset, f"{name} {i}") for i, subset in enumerate(subsets)]
        return Committee(generalist, self.train_many(requests), list(subsets))

    def _specialist(self, plan: Specialist, generalist: Trained, subset: torch.Tensor, name: str) -> Request:
        plan, views = self.settled(plan), {"jitter": generalist.plan.jitter, "flip": generalist.plan.flip}
        views |= {"cutout": cutout} if (cutout := generalist.plan.cutout) else {}  # which came later
        views |= {"looked at": ON_HALVES} if plan.curve else {}  # so too: older ones have a history without them
        config = {
            "specialist": {**plan.model_dump(), **views, "classes": subset.tolist()},
            "generalist": generalist.key,
            "network": {**self.architecture(generalist.plan), "classes": self._outputs(plan, subset)},
            "seed": generalist.seed,
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
        }
        return Request(
            config,
            plan,
            generalist.seed,
            self._specialist_objective(plan, subset),
            partial(self._specialist_batches, plan, generalist, subset),
            f"{name}, seed {generalist.seed}",
            begun_from(generalist) if plan.output == "full" else self._cut_down(generalist, subset),
            self._validation(plan, subset) if plan.curve else None,
            max(1, plan.curve),
            ON_VALIDATION if plan.early_stopping else None,
            (generalist,),
        )

    def _outputs(self, plan: Specialist, subset: torch.Tensor) -> int:
        return self.data.classes if plan.output == "full" else len(subset) + 1

    def _cut_down(self, generalist: Trained, special: torch.Tensor) -> Callable[[Mapping[str, Any]], nn.Module]:
        """A `build` for the store: the generalist's weights, its last layer cut down to classes and a dustbin."""

        def cut_down(config: Mapping[str, Any]) -> nn.Module:
            network = build(config)
            weights = {name: tensor.cpu() for name, tensor in generalist.network.state_dict().items()}
            output = nn.Linear(generalist.network.output.in_features, self.data.classes)
            output.load_state_dict({"weight": weights["output.weight"], "bias": weights["output.bias"]})
            cut = specialists.with_dustbin(output, special).state_dict()
            network.load_state_dict({**weights, **{f"output.{name}": tensor for name, tensor in cut.items()}})
            return network

        return cut_down

    def _specialist_batches(self, plan: Specialist, generalist: Trained, subset: torch.Tensor) -> training.Batches:
        labels = self.labels_of(plan.fraction, generalist.seed)
        own = specialists.specialist_labels(labels, subset, self.data.classes)
        return training.Batches(
            self.data.train_images,
            labels if plan.output == "full" else own,
            batch_size=plan.recipe.batch_size,
            jitter=generalist.plan.jitter,
            flip=generalist.plan.flip,
            cutout=generalist.plan.cutout,
            sampler=HalfSpecial(labels, subset),
            teacher=None if plan.soft == "none" else generalist.network,
        )

    def labels_of(self, fraction: float, seed: int) -> torch.Tensor:
        """The training labels [N], -100 but for a share of each class's cases, drawn by the seed: at least one."""
        labels = self.data.train_labels
        if fraction == 1:
            return labels
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
        counts = torch.bincount(labels, minlength=self.data.classes)
        rank = _rank_in_class(labels[order], self.data.classes)
        kept = order[rank < (fraction * counts).round().clamp(min=1)[labels[order]]]
        return torch.full_like(labels, NO_LABEL).index_copy_(0, kept, labels[kept])

    def _specialist_objective(self, plan: Specialist, subset: torch.Tensor) -> training.Objective:
        if plan.soft == "none":
            return training.hard_targets
        return specialists.kept_knowledge(subset, self.data.classes, plan.temperature, plan.soft)

    def _validation(self, plan: Specialist, subset: torch.Tensor) -> Callable[[nn.Module], dict[str, float]]:
        """A specialist's accuracy on validation images of its special classes, among those; and on each half of them.

        Every second image of a class is of the first half, whichever specialist looks at it.
        """
        columns = subset if plan.output == "full" else torch.arange(len(subset))

        def evaluate(network: nn.Module) -> dict[str, float]:
            # Chosen here: a worker has the images, and needs not be sent them with every specialist.
            labels = specialists.specialist_labels(self.data.validation_labels, subset, self.data.classes)
            special = labels < len(subset)
            half = _rank_in_class(self.data.validation_labels, self.data.classes)[special] % 2
            images, labels = self.data.validation_images[special], labels[special]
            found = training.logits(network, images)[:, columns.to(self.device)].argmax(1)
            right = (found == labels).float()
            parts = {ON_VALIDATION: right} | {name: right[half == i] for i, name in enumerate(ON_HALVES)}
            # Of one image a class there is no second half: both are the whole then.
            return {name: round((part if len(part) else right).mean().item(), 6) for name, part in parts.items()}

        return evaluate

    @property
    def families(self) -> list[str]:
        """The kind of thing that each class is; see `data.glyphs` and `data.families`.

        Of data of one's own, of which nobody has said it, one and the same.
        """
        if self.preset.own_data:
            return ["class"] * self.data.classes
        if self.sizes.images.kind == "glyphs":
            return [family for _, family in glyph_classes(self.data.classes)]
        return [families.TINY_IMAGENET[wnid] for wnid in sorted(families.TINY_IMAGENET)]

    # --- evaluation -----------------------------------------------------------------------------

    def images_and_labels(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Of "train", "validation" or "test"."""
        return getattr(self.data, f"{split}_images"), getattr(self.data, f"{split}_labels")

    def specialist_logits(self, committee: Committee, split: str, top_n: int) -> list[torch.Tensor]:
        """Each specialist's logits [N, S + 1], or [N, C] with a full softmax, uncorrected.

        Of the cases that make it active; 0 for all others.
        """
        p = self.logits(committee.generalist, split)
        parts = [specialists.active(p[part].softmax(1), committee.subsets, top_n) for part in self._parts(len(p))]
        active = torch.cat(parts)
        images, _ = self.images_and_labels(split)
        found = []
        for i, (trained, subset) in enumerate(zip(committee.specialists, committee.subsets, strict=True)):
            which = active[:, i]
            # Which cases these are depends on the generalist's logits, which another device has in another last digit.
            cases = hashlib.sha256(which.cpu().numpy().tobytes()).hexdigest()
            config = {"logits": trained.key, "split": split, "of": committee.generalist.key, "cases": cases}
            computed = self.store.compute_or_load(
                config, lambda t=trained, w=which: {"logits": training.logits(t.network, images[w]).cpu().numpy()}
            )
            logits = torch.zeros(len(images), self._outputs(trained.plan, subset), device=self.device)
            logits[which] = torch.from_numpy(computed["logits"]).to(self.device)
            found.append(logits)
        return found

    def logits_in_parts(
        self, trained: Trained, split: str = "test", numbers: int | None = None
    ) -> Iterator[torch.Tensor]:
        """What `logits` returns, some cases at a time; kept for the next time only where one part is enough.

        numbers: the most of a part; None for as many as Eq. 5 works on.
        """
        images, _ = self.images_and_labels(split)
        parts = self._parts(len(images), numbers)
        if len(parts) == 1:
            yield self.logits(trained, split)
            return
        for part in parts:
            yield training.logits(trained.network, images[part])

    def _parts(self, cases: int, numbers: int | None = None) -> list[slice]:
        """Parts of so many cases, each with as many numbers [cases, classes] as are worked on at a time."""
        each = max(1, (OF_ANSWERS if numbers is None else numbers) // self.data.classes)
        return [slice(first, min(first + each, cases)) for first in range(0, cases, each)]

    def combined(self, committee: Committee, **options: Any) -> torch.Tensor:
        """Eq. 5's q [N, C] for every case of a split. options: of `combined_in_parts`."""
        return torch.cat(list(self.combined_in_parts(committee, **options)))

    def combined_in_parts(
        self,
        committee: Committee,
        *,
        top_n: int | None = None,
        correction: str = "prior",
        split: str = "test",
        how: str = "eq5",
    ) -> Iterator[torch.Tensor]:
        """Eq. 5's q [n, C] for some cases of a split at a time, all in their order.

        top_n: None for the preset's. correction: of the dustbins, "prior" for (1 - f) / f, "words" for 0.5 / f, the
        paper's words taken literally, "none" for none. how: "mean" for the plain mean of full distributions in the
        place of Eq. 5's minimum, each dustbin shared among its classes in proportion to the generalist's opinion.
        """
        top_n = self.sizes.top_n if top_n is None else top_n
        logits = self._asked(committee, split, top_n)
        for part in self._parts(len(self.images_and_labels(split)[0])):
            opinions = self._opinions(committee, logits, correction, split, part)
            yield self._combination(committee, *opinions, top_n, how)

    def _combination(
        self,
        committee: Committee,
        generalist: torch.Tensor,
        p: list[torch.Tensor],
        subsets: list[torch.Tensor],
        top_n: int,
        how: str,
    ) -> torch.Tensor:
        """What `combined_in_parts` makes of opinions."""
        if not committee.full and how == "eq5":
            return specialists.combine(generalist, p, subsets, top_n=top_n)
        active = specialists.active(generalist, subsets, top_n)
        if committee.full:  # then the arithmetic mean minimises Eq. 5
            total = generalist + sum(active[:, i : i + 1] * one for i, one in enumerate(p))
            return total / (1 + active.sum(1, keepdim=True))
        start = generalist.clamp(min=1e-12)
        return combining.em_step(start / start.sum(1, keepdim=True), generalist, p, subsets, active)

    def opinions(
        self, committee: Committee, *, top_n: int
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """What Eq. 5 combines on test cases, float64: the generalist's p [N, C], the specialists' p, and their classes.

        Of a specialist's p, shaped as in `specialist_logits`, only the rows where it is active mean something.
        """
        return self._opinions(committee, self._asked(committee, "test", top_n), "prior", "test", slice(None))

    def _asked(self, committee: Committee, split: str, top_n: int) -> list[torch.Tensor]:
        """Each specialist's logits of all cases that any n which this chapter looks at asks it about."""
        most = max([top_n, self.sizes.top_n, *self.sizes.compared_top_n])
        return self.specialist_logits(committee, split, most)

    def _opinions(
        self, committee: Committee, logits: Sequence[torch.Tensor], correction: str, split: str, cases: slice
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """What `opinions` returns, of some cases. logits: of all cases, one of `_asked` a specialist."""
        p = [
            self._corrected(one[cases].double(), subset, correction, committee.full).softmax(1)
            for one, subset in zip(logits, committee.subsets, strict=True)
        ]
        return self.logits(committee.generalist, split)[cases].double().softmax(1), p, committee.subsets

    def _corrected(self, logits: torch.Tensor, subset: torch.Tensor, correction: str, full: bool) -> torch.Tensor:
        """Logits with the prior of special against other classes put right, as `correction` says."""
        oversampling = self._oversampling(subset, correction)
        if full:
            return specialists.correct_full(logits, subset, oversampling)
        return specialists.correct_dustbin(logits, oversampling)

    def _oversampling(self, subset: torch.Tensor, correction: str) -> float:
        share = HalfSpecial(self.data.train_labels, subset).share
        return {"prior": specialists.oversampling(share), "words": 0.5 / share, "none": 1.0}[correction]

    def as_teacher(self, committee: Committee) -> Trained:
        """The committee as one cumbersome model, whose logits are log q of Eq. 5 at the preset's n: to distil from."""
        corrections = [self._oversampling(subset, "prior") for subset in committee.subsets]
        networks = [s.network for s in committee.specialists]
        together = specialists.Combined(
            committee.generalist.network, networks, committee.subsets, corrections, self.sizes.top_n
        )
        members = [committee.generalist, *committee.specialists]
        return self._together(together, {"combined": [m.key for m in members], "top_n": self.sizes.top_n}, members)

    def average_as_teacher(self, members: Sequence[Trained]) -> Trained:
        """An ensemble of full networks as one cumbersome model, whose logits are the log of their mean."""
        return self._together(Average([m.network for m in members]), {"average": [m.key for m in members]}, members)

    def _together(self, network: nn.Module, config: dict[str, Any], members: Sequence[Trained]) -> Trained:
        took = [{"seconds": sum(m.seconds for m in members)}]
        return Trained(network.eval(), self.store.key(config), members[0].seed, members[0].plan, took)

    def right(self, q: torch.Tensor, split: str = "test") -> np.ndarray:
        """Which cases a distribution [N, C] gets right: bool [N]."""
        return (q.argmax(1) == self.images_and_labels(split)[1]).cpu().numpy()

    def conditional_right(self, q: torch.Tensor, subsets: Sequence[torch.Tensor], split: str = "test") -> np.ndarray:
        """For each specialist's special cases, whether q restricted to its classes gets them right: bool, joined."""
        labels = self.images_and_labels(split)[1]
        return np.concatenate([_right_among(q, labels, subset).cpu().numpy() for subset in subsets])

    def answers(self, parts: Iterable[torch.Tensor], subsets: Sequence[torch.Tensor], split: str = "test") -> Answers:
        """What a system gets right. parts: its distributions or logits [n, C], of all cases of the split in order."""
        labels, right, counts = self.images_and_labels(split)[1], [], np.zeros(len(subsets), np.int64)
        for q in parts:
            own, labels = labels[: len(q)], labels[len(q) :]
            right.append((q.argmax(1) == own).cpu().numpy())
            counts += np.array([int(_right_among(q, own, subset).sum()) for subset in subsets], np.int64)
        return Answers(np.concatenate(right), counts)


def _rank_in_class(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Of each case, how many before it are of its class: int64 [N]."""
    order = labels.argsort(stable=True)
    counts = torch.bincount(labels, minlength=classes)
    rank = torch.arange(len(labels), device=labels.device) - (counts.cumsum(0) - counts)[labels[order]]
    return torch.empty_like(rank).index_copy_(0, order, rank)


def _right_among(q: torch.Tensor, labels: torch.Tensor, subset: torch.Tensor) -> torch.Tensor:
    """Of the cases [N] of a subset's classes, whether q [N, C] restricted to these gets them right: bool."""
    position = specialists.specialist_labels(labels, subset, q.shape[1])
    special = position < len(subset)
    return q[special][:, subset.to(q.device)].argmax(1) == position[special]


def gains(run: SpecialistExperiment, committees: Sequence[Committee], **options: Any) -> pd.DataFrame:
    """A row a seed: accuracy of the generalist and of Eq. 5's answer, over all cases and conditional.

    options: of `SpecialistExperiment.combined`.
    """
    rows = []
    for committee in committees:
        before = run.logits(committee.generalist).softmax(1)
        after = run.combined(committee, **options)
        row: dict[str, Any] = {"seed": committee.generalist.seed}
        row["accuracy"], row["accuracy +"] = run.right(before).mean(), run.right(after).mean()
        subsets = committee.subsets
        row["conditional"] = run.conditional_right(before, subsets).mean()
        row["conditional +"] = run.conditional_right(after, subsets).mean()
        row["relative gain"] = row["accuracy +"] / row["accuracy"] - 1
        row["relative gain, conditional"] = row["conditional +"] / row["conditional"] - 1
        rows.append(row)
    return pd.DataFrame(rows).set_index("seed")


def paired_tests(pairs: Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]) -> pd.DataFrame:
    """Two systems at a time, on the same test cases: the difference over seeds, and McNemar's counts of each seed.

    pairs: name -> (which cases the first gets right, one bool array [N] a seed; the same for the second).
    """
    lines = []
    for name, (first, second) in pairs.items():
        mean, ends, p = stats.paired([r.mean() for r in first], [r.mean() for r in second])
        counts = [stats.mcnemar(~a, ~b) for a, b in zip(first, second, strict=True)]
        lines.append(
            {
                "systems": name,
                "points": f"{100 * mean:+.2f}",
                "95 % over seeds": wording.interval(ends, "{:+.2f}", 100),
                "p, seeds": "–" if p is None else f"{p:.1e}",
                "p of each seed, over cases": ", ".join(f"{p:.0e}" for *_, p in counts),
            }
        )
    return pd.DataFrame(lines).set_index("systems")


def cost(run: SpecialistExperiment, committee: Committee, top_n: int) -> dict[str, float]:
    """What the specialists cost beside their generalist: training images and seconds, parameters, nets a test case."""
    generalist = committee.generalist
    active = specialists.active(run.logits(generalist).softmax(1), committee.subsets, top_n)
    labels = run.labels_of(committee.specialists[0].plan.fraction if committee.specialists else 1.0, generalist.seed)
    seen = [specialists.HalfSpecial(labels, s) for s in committee.subsets]
    images = sum(len(s) * t.plan.recipe.epochs for s, t in zip(seen, committee.specialists, strict=True))
    return {
        "images seen": images / (len(run.data.train_images) * generalist.plan.recipe.epochs),
        "seconds": committee.seconds / generalist.seconds,
        "parameters": sum(t.parameters for t in committee.specialists) / generalist.parameters,
        "nets a case": 1 + active.float().sum(1).mean().item(),
    }


def work_of(run: SpecialistExperiment, trained: Trained) -> int:
    """Operations of a network's convolutions and matrix products for one image; a multiplication and addition are two.

    Not for `SpecialistExperiment.as_teacher`, whose work depends on the image.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trained.network(as_inputs(run.data.test_images[:1]))
    return counter.get_total_flops()


def ensemble(run: SpecialistExperiment, members: Sequence[Trained]) -> torch.Tensor:
    """The arithmetic mean of full networks' distributions over the test cases, [N, C]."""
    return torch.stack([run.logits(member).softmax(1) for member in members]).mean(0)


def ensemble_right(run: SpecialistExperiment, members: Sequence[Trained]) -> np.ndarray:
    """Which test cases the arithmetic mean of full networks gets right: bool [N]."""
    return run.right(ensemble(run, members))


def packed(right: Sequence[np.ndarray]) -> np.ndarray:
    """Of each seed, which cases a system gets right, as packed bits [seeds, cases / 8]: what is published."""
    return np.stack([np.packbits(one) for one in right])
