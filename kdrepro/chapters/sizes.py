"""The sizes of every chapter's experiment, as the presets hold them."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from kdrepro.settings import Settings
from kdrepro.training import Recipe

Fraction = Annotated[float, Field(gt=0, le=1)]
Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Digit = Annotated[int, Field(ge=0, le=9)]
Changes = dict[str, Any]  # of a plan's fields, those of its network and its recipe too


class Sizes(Settings):
    """A part of a preset: validated, never changed, and refused with an unknown key."""

    def but(self, **changes: Any) -> Self:
        """A copy with some fields replaced, validated again."""
        return type(self)(**{**self.model_dump(), **changes})


class Network(Sizes):
    """Hidden layers and dropout of an MLP; its input and output sizes come from the data."""

    hidden: list[Annotated[int, Field(ge=1)]]
    input_dropout: float = Field(0.0, ge=0, lt=1)
    hidden_dropout: float = Field(0.0, ge=0, lt=1)
    initial_std: float | None = Field(None, gt=0, allow_inf_nan=False)  # None: by the fan-in

    def of(self, inputs: int, classes: int) -> dict[str, Any]:
        """The arguments of `networks.MLP` for cases of so many inputs."""
        return {"widths": [inputs, *self.hidden, classes], **self.model_dump(exclude={"hidden"}, exclude_none=True)}


class Training(Sizes):
    """One kind of network and all that decides how it is trained, except its seed and its teacher."""

    later: ClassVar[frozenset[str]] = frozenset({"labelled", "label_in_targets", "beta"})

    network: Network
    recipe: Recipe
    jitter: int = Field(0, ge=0)  # pixels, each way
    loss: Literal["hard", "soft", "logits", "dkd", "standardised"] = "hard"
    temperature: Temperature = 1.0
    soft_weight: float = Field(1.0, ge=0, le=1)
    beta: float | None = Field(None, ge=0, allow_inf_nan=False)  # dkd's, of the classes that are not the label
    teachers: Literal["arithmetic", "geometric"] = "arithmetic"  # how several teachers are averaged
    fraction: Fraction = 1.0  # share of the training cases
    classes: list[Annotated[int, Field(ge=0)]] | None = None  # whose cases are trained on; None for all
    labelled: Fraction = 1.0  # share of the cases whose label is known
    label_in_targets: float = Field(0.0, ge=0, le=1)  # weight of the correct label within the soft targets
    curve: int = Field(0, ge=0)  # note test errors every so many epochs; never used to choose anything

    def but(self, *, hidden: list[int] | None = None, **changes: Any) -> "Training":
        """A copy with some fields replaced; those of the network and of the recipe may be named directly."""
        merged = self.model_dump()
        if hidden is not None:
            merged["network"]["hidden"] = hidden
        for name, value in changes.items():
            part = next((p for p in ("recipe", "network") if name in type(getattr(self, p)).model_fields), None)
            (merged[part] if part else merged)[name] = value
        return type(self)(**merged)

    @model_validator(mode="after")
    def _beta_is_dkds(self) -> Self:
        if (self.loss == "dkd") != (self.beta is not None):
            raise ValueError("loss dkd needs beta, and no other loss has one")
        return self

    @model_validator(mode="after")
    def _hard_targets_have_no_temperature(self) -> Self:
        if self.loss == "hard" and (self.soft_weight != 1.0 or self.temperature != 1.0):
            raise ValueError("temperature and soft_weight mean nothing when loss is hard")
        if self.label_in_targets and (self.loss != "soft" or self.jitter or self.labelled < 1):
            raise ValueError("label_in_targets needs loss soft, all labels, and images that are not moved")
        return self


class SpeechTraining(Training):
    """One kind of acoustic model, trained on frames of speech."""

    loss: Literal["hard", "soft", "logits"] = "hard"
    sampling: Literal["utterances", "frames"] = "utterances"  # what `fraction` is a share of; by speaker
    early_stopping: bool = False  # keep the weights of the epoch that was best on validation frames; needs a curve

    @model_validator(mode="after")
    def _early_stopping_needs_a_curve(self) -> Self:
        if self.early_stopping and not self.curve:
            raise ValueError("early_stopping needs curve: every how many epochs the validation frames are looked at")
        return self


class SyntheticCorpus(Sizes):
    """The arguments of `data.synthetic_speech`."""

    name: str = "synthetic"  # only a corpus of that name decides claims
    hours: float = Field(gt=0)
    validation_hours: float = Field(gt=0)
    test_hours: float = Field(gt=0)
    seed: int = 0
    minutes_per_speaker: float = Field(2.0, gt=0)
    words_per_class: int | None = Field(None, ge=1)
    snr: tuple[float, float] = (0.0, 15.0)  # dB
    fresh_seed: int = 20  # of the test speakers and sentences of a confirmation; nothing else is made of it

    def arguments(self, fresh: bool = False) -> dict[str, Any]:
        """Of `data.synthetic_speech`; fresh: with other test speakers, who say other sentences."""
        given = self.model_dump(exclude={"fresh_seed"})
        return given | ({"test_seed": self.fresh_seed} if fresh else {})


class Soft(Sizes):
    """What a net on soft targets has that differs from a net on labels; all else of its training is the same."""

    temperature: Temperature
    soft_weight: float = Field(1.0, gt=0, le=1)
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)  # None: that of the training
    early_stopping: bool | None = None  # None: as the training


class Systems(Sizes):
    """Acoustic models of equal budgets: one training, passes, batch and schedule, for labels and for soft targets.

    training: on labels; what is written there holds for both. soft: what soft targets change of it.
    """

    training: SpeechTraining
    soft: Soft

    @property
    def distilled(self) -> SpeechTraining:
        """On soft targets, for as long."""
        changed = self.soft.model_dump(exclude_none=True)
        return self.training.but(loss="soft", **changed)

    @model_validator(mode="after")
    def _trains_on_labels(self) -> Self:
        if self.training.loss != "hard":
            raise ValueError("training is that of the nets on labels: its loss must be hard")
        _ = self.distilled  # refused where it does not fit
        return self


class Ensembles(Systems):
    """Members of ensembles, each a baseline too (`training`), and the nets that are distilled from an ensemble."""

    ensembles: int = Field(1, ge=1)  # disjoint ones, each with as many members and as many students


class Synthetic(Ensembles):
    """Synthetic speech and the acoustic models that are trained on it."""

    corpus: SyntheticCorpus
    states: int = Field(ge=3)  # tied tri-phone states


class TimitSizes(Ensembles):
    """TIMIT, with three states a phone, and the acoustic models that are trained on it."""


class SpeechSearch(Sizes):
    """A search on validation speakers, who are in the place of the test speakers, of synthetic speech.

    members: nets of the ensemble that teaches those students whose loss is soft. students: by name, what differs from
    the chapter's training, or from its part `of`.
    """

    seeds: int = Field(ge=1)
    members: int = Field(1, ge=1)
    of: Literal["synthetic", "little"] = "synthetic"
    students: dict[str, dict[str, Any]] = Field(min_length=1)


class SpeechSizes(Sizes):
    """What the chapters on speech share."""

    seeds: int = Field(ge=1)
    minutes: float
    synthetic: Synthetic
    timit: TimitSizes | None = None
    top_k: int | None = Field(
        None, ge=1
    )  # soft targets kept a frame (all, from as many as states on); None: computed for every batch
    sweep_seeds: int = Field(ge=1)
    searches: dict[str, SpeechSearch] = {}

    @model_validator(mode="after")
    def _searches_name_fields_of_plans(self) -> Self:
        for search in self.searches.values():
            for change in search.students.values():
                getattr(self, search.of).training.but(**change)
        return self


class AcousticEnsemble(SpeechSizes):
    """Chapter 3."""

    members: int = Field(ge=2)  # of an ensemble; at least as many as seeds
    sweep_fraction: Fraction  # share of the training utterances that the nets of all sweeps are trained on
    sweep_epochs: int = Field(ge=1)  # of all nets of the sweeps
    temperatures: list[Temperature]
    equal_soft_weight: float = Field(gt=0, lt=1)  # the other reading of the paper's relative weight
    small: list[list[Annotated[int, Field(ge=1)]]]  # hidden layers of the students smaller than a member
    compared_k: list[Annotated[int, Field(ge=1)]]  # soft targets a frame, whose cost and error are measured


class SoftTargetsSizes(SpeechSizes):
    """Chapter 4; the nets of its full data are trained by `synthetic.training`, as chapter 3's members."""

    little: Systems  # on a share of the data: labels and soft targets, for as long
    timit_little: Systems | None = None
    fractions: list[Fraction]  # of the curve
    teacher_shares: list[Fraction]  # of the passes of a full net, that the candidates for the teacher make
    teacher_temperatures: list[Temperature]  # of their soft targets

    @model_validator(mode="after")
    def _the_full_nets_are_candidates(self) -> Self:
        if 1.0 not in self.teacher_shares:
            raise ValueError("teacher_shares must have 1 among them, the full nets themselves")
        if self.little.soft.temperature not in self.teacher_temperatures:
            raise ValueError("teacher_temperatures must have little.soft.temperature among them")
        return self


class Convolutional(Sizes):
    """Stages of a `networks.ConvNet`; its input and output sizes come from the data."""

    later: ClassVar[frozenset[str]] = frozenset({"blocks"})

    channels: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)
    blocks: list[Annotated[int, Field(ge=0)]] | None = None  # residual blocks of each stage; None for one each
    dropout: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _a_number_a_stage(self) -> Self:
        if self.blocks is not None and len(self.blocks) != len(self.channels):
            raise ValueError(f"blocks needs a number for each of the {len(self.channels)} stages of channels")
        return self

    def of(self, in_channels: int, classes: int) -> dict[str, Any]:
        """The arguments of `networks.ConvNet`, or of `networks.MixtureOfExperts`."""
        return {**self.model_dump(), "in_channels": in_channels, "classes": classes}


class ConvTraining(Training):
    """One kind of convolutional network, trained on images."""

    later: ClassVar[frozenset[str]] = Training.later | {"cutout", "mix"}

    network: Convolutional
    flip: bool = False  # mirror images at random
    cutout: int = Field(0, ge=0)  # side of a square that is blacked out, pixels
    mix: float = Field(0.0, ge=0, le=1)  # share of the images that are mixed with another one, for soft targets

    @model_validator(mode="after")
    def _mixed_images_have_soft_targets(self) -> Self:
        if self.mix and self.loss == "hard":
            raise ValueError("mix needs a teacher: a mixed image has no label")
        return self

    @model_validator(mode="after")
    def _no_weight_constraint(self) -> Self:
        if self.recipe.max_norm is not None:
            raise ValueError("max_norm is for fully connected networks")
        return self


class Specialist(Sizes):
    """How a specialist is trained from its generalist, with the generalist's shifts, flips and cutouts."""

    later: ClassVar[frozenset[str]] = frozenset({"fraction"})

    recipe: Recipe
    output: Literal["dustbin", "full"] = "dustbin"  # special classes and a dustbin, or all classes
    soft: Literal["none", "class", "case"] = "none"  # the generalist's soft targets, see `specialists.kept_knowledge`
    temperature: Temperature = 1.0  # of those
    early_stopping: bool = False  # keep the epoch that was best on validation images of its classes; needs a curve
    curve: int = Field(0, ge=0)
    fraction: Fraction = 1.0  # share of each class's training images, other ones for each seed

    def but(self, **changes: Any) -> "Specialist":
        """A copy with some fields replaced; fields of the recipe may be named directly."""
        merged = self.model_dump()
        for name, value in changes.items():
            (merged["recipe"] if name in Recipe.model_fields else merged)[name] = value
        return type(self)(**merged)

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        if self.early_stopping and not self.curve:
            raise ValueError("early_stopping needs curve: every how many epochs the validation images are looked at")
        if self.soft != "none" and self.output != "full":
            raise ValueError("soft targets of other classes need an output for them: output must be full")
        if self.soft == "none" and self.temperature != 1.0:
            raise ValueError("temperature means nothing without soft targets")
        return self


class Mixture(Convolutional):
    """A mixture of experts; `channels` are those of each expert."""

    experts: int = Field(ge=2)
    gate_channels: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)


class MixtureTraining(ConvTraining):
    """A mixture of experts and how it is trained."""

    network: Mixture


class Glyphs(Sizes):
    """The arguments of `data.glyphs`."""

    kind: Literal["glyphs"]
    classes: int = Field(ge=2)
    per_class: int = Field(ge=1)
    validation_per_class: int = Field(ge=1)
    test_per_class: int = Field(ge=1)
    size: int = Field(16, ge=8)
    seed: int = 0


class TinyImagenet(Sizes):
    """The arguments of `data.tiny_imagenet`."""

    kind: Literal["tiny-imagenet"]
    size: Literal[32, 64] = 32
    per_class: int | None = Field(None, ge=1)  # training images; None for all
    # Training and validation images are those numbered below; the others, where a copy has them, confirm.
    numbered_below: int | None = Field(None, ge=1)


# Of chapter 7's students, in a search.
TEACHERS = ("generalist", "generalist + specialists", "two generalists")


class Specialised(Sizes):
    """What the chapters on specialists share."""

    seeds: int = Field(ge=1)
    minutes: float
    images: Glyphs | TinyImagenet = Field(discriminator="kind")
    generalist: ConvTraining
    specialist: Specialist
    specialists: int = Field(ge=1)  # how many
    special_classes: int = Field(ge=1)  # of each
    top_n: int = Field(1, ge=1)  # classes of the generalist that make a specialist active
    compared_top_n: list[Annotated[int, Field(ge=1)]] = []
    sweep_seeds: int = Field(ge=1)
    searches: dict[str, "CommitteeSearch"] = {}

    @model_validator(mode="after")
    def _searches_name_fields_of_plans(self) -> Self:
        for search in self.searches.values():
            if search.teachers and search.of != "student":
                raise ValueError(f"a search of a {search.of} has no teachers")
            if unknown := set(search.teachers) - set(TEACHERS):
                raise ValueError(f"a student has one of the teachers {', '.join(TEACHERS)}, not {unknown.pop()!r}")
            plan = getattr(self.but(**{**search.sizes, "searches": {}}), search.of, None)
            if plan is None:
                raise ValueError(f"a search of a {search.of} needs one, and this chapter has none")
            for change in search.students.values():
                plan.but(**change)
        return self


class SecondImages(Specialised):
    """Another data set for Tables 2 to 4, which does not decide."""

    least_cases: int = Field(1, ge=1)
    longer_epochs: int = Field(ge=1)


class Specialists(Specialised):
    """Chapter 5."""

    second: SecondImages | None = None

    compared_counts: list[Annotated[int, Field(ge=1)]]  # numbers of specialists, of those that are there
    compared_sizes: list[Annotated[int, Field(ge=1)]]  # special classes of a specialist
    least_cases: int = Field(1, ge=1)  # of a row of Table 4 that its rank correlation counts
    longer_epochs: int = Field(ge=1)  # that a generalist goes on for, from its weights, as long as its specialists
    control_seeds: int = Field(ge=1)  # of the other clustering and of the other sizes
    convergence_cases: int = Field(200, ge=1)  # test images on which the two solutions of Eq. 5 are compared


class Mixtures(Specialised):
    """Chapter 6."""

    long: Specialist  # long enough, and of few enough images, to overfit; all kinds of output and targets are like it
    compared_fractions: list[Fraction] = []  # of each class's images: where do specialists overfit? For the first seed
    soft_temperature: Temperature  # of the generalist's soft targets
    mixture: MixtureTraining
    mixture_seeds: int = Field(ge=1)
    exchange_steps: int = Field(ge=1)  # of a training on two processes, whose exchange is counted


class DistilBack(Specialised):
    """Chapter 7."""

    student: ConvTraining  # of the generalist's size; soft targets
    longer_epochs: int = Field(ge=1)  # that the generalist goes on for instead, as in chapter 5

    @model_validator(mode="after")
    def _student_is_a_student(self) -> Self:
        if self.student.loss != "soft":
            raise ValueError("the student needs soft targets: its loss must be soft")
        return self


class DarkKnowledge(Sizes):
    """Chapter 1."""

    seeds: int = Field(ge=1)
    minutes: float  # budget on two CPU cores, the teachers of chapter 2 left out
    student: Training  # the wide student of the sweeps: soft targets alone
    sweep_seeds: int = Field(ge=1)  # of the wide student's sweeps
    narrow: Training  # a student too small for all that the teacher knows: soft targets alone
    narrower: list[Annotated[int, Field(ge=1)]]  # hidden layers of a smaller one still, trained like it
    temperatures: list[Temperature]  # of the sweep against logit matching
    limit_temperatures: list[Temperature]  # of the 1/T^2 law and the high-temperature limit
    mean_temperatures: list[Temperature]  # of the students of an ensemble
    balance_soft_weight: Annotated[float, Field(gt=0, lt=1)]
    balance_temperatures: list[Temperature]
    learning_rates: list[Annotated[float, Field(gt=0)]]
    learning_rate_epochs: int = Field(ge=1)
    fractions: list[Fraction]
    fraction_steps: int = Field(ge=1)  # of every network of the data-size sweep, whatever its fraction
    hard_recipe: dict[str, Any]  # what differs where hard targets of that sweep have a recipe of their own
    gradient_cases: int = Field(ge=2)
    searches: dict[str, "Search"] = {}

    @model_validator(mode="after")
    def _changes_name_fields_of_plans(self) -> Self:
        changes = [self.hard_recipe, *(c for search in self.searches.values() for c in search.students.values())]
        for change in changes:
            self.student.but(**change)
        return self


class Width(Sizes):
    """Students of one width in the temperature sweep; all else is the distilled net's."""

    hidden: list[Annotated[int, Field(ge=1)]]
    seeds: int = Field(ge=1)  # students at each temperature, of the narrow widths, of the others at those above 8
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)


class Search(Sizes):
    """A search on training images alone: every student of every teacher, with the same seeds.

    teachers, students: by name, what differs from Section 3's teacher, and from the student that the chapter tunes.
    Students of hard targets have no teacher; where all are, there need be none.
    """

    held_out: int = Field(ge=1)  # training images in the place of the test set
    seeds: int = Field(ge=1)  # of the students; a teacher has the first of them
    teachers: dict[str, Changes]
    students: dict[str, Changes]


class CommitteeSearch(Search):
    """A search of the generalist, of its specialists, or of chapter 7's student.

    The generalists of the last two are those of the search's seeds. teachers: of the student, among `TEACHERS`, without
    changes; two generalists if none is named.
    """

    of: Literal["generalist", "specialist", "student"] = "generalist"
    sizes: Changes = {}  # what else is not the chapter's: other images, and what learns from them


class Mnist(Sizes):
    """Chapter 2."""

    seeds: int = Field(ge=1)
    minutes: float
    teacher: Training
    plain: Training
    distilled: Training
    headline: Changes = {}  # what differs from it in the first section's distilled nets, which may train for longer
    students_each: int = Field(1, ge=1)  # of those for each teacher; a seed's figure is their mean
    soft_weights: list[Annotated[float, Field(ge=0, le=1)]]
    labelled: Fraction  # share of the transfer set's labels that are known, where not all are
    label_in_targets: list[Annotated[float, Field(gt=0, lt=1)]]  # weights of a label within the soft targets
    sweep_epochs: int = Field(ge=1)
    sweep_seeds: int = Field(ge=1)
    temperatures: list[Temperature]
    widths: list[Width]  # the narrowest last
    narrower: Width  # beyond the paper, decides nothing
    turn_seeds: int = Field(ge=1)  # of the students that each digit is left out for in turn
    kept_digits: list[list[Digit]]  # ever smaller transfer sets, the last one of 7s and 8s only
    searches: dict[str, Search] = {}

    @model_validator(mode="after")
    def _changes_name_fields_of_plans(self) -> "Mnist":
        for search in self.searches.values():
            for plan, changes in ((self.teacher, search.teachers), (self.distilled, search.students)):
                for change in changes.values():
                    plan.but(**change)
        self.distilled.but(**self.headline)
        return self


class Pitfalls(Sizes):
    """Chapter 8: teachers and students are chapter 2's, the teachers trained less long and the students narrower."""

    seeds: int = Field(ge=1)  # teachers
    minutes: float
    teacher_epochs: int = Field(ge=1)
    students_each: int = Field(1, ge=1)  # of each teacher, with a fault and without; a seed's figure is their mean
    hidden: list[Annotated[int, Field(ge=1)]]
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    alpha: float = Field(0.9, gt=0, lt=1)  # soft weight where it is turned round; the others have that of chapter 2
    smoothing: float = Field(0.1, gt=0, lt=1)  # of a teacher's labels


class Photographs(Specialised):
    """Chapter 5's images and generalist, which teaches a smaller net; it does not decide.

    methods: by name, what differs from `student`; of the loss "hard", it has no teacher.
    """

    student: ConvTraining
    methods: dict[str, Changes]

    @model_validator(mode="after")
    def _methods_are_plans(self) -> Self:
        for change in self.methods.values():
            self.student.but(**change)
        return self


class After2015(Sizes):
    """Chapter 9: teachers, plain nets and students are chapter 2's; here is what differs, and what is compared.

    wide, narrow: by method, what differs from chapter 2's distilled net; "hinton" is the paper's loss. published: the
    settings at which standardised logits and the paper's loss were compared, and the latter at those of the former.
    """

    seeds: int = Field(ge=1)
    minutes: float
    wide: dict[str, Changes]
    narrow: dict[str, Changes]
    published: dict[str, Changes]
    epochs: int = Field(ge=1)  # of the wide students
    long_epochs: int = Field(ge=1)  # of those that are patient, and of what they are compared with
    members: int = Field(ge=2)  # teachers of an ensemble's student
    smoothed_epochs: int = Field(ge=1)  # of the teachers on smoothed labels, and on labels as they are
    smoothing: float = Field(0.1, gt=0, lt=1)
    fidelity_cases: int = Field(ge=2)  # images of each kind whose divergence is kept
    second: Photographs | None = None
    searches: dict[str, Search] = {}

    @model_validator(mode="after")
    def _methods_are_plans(self) -> Self:
        soft = Training(network=Network(hidden=[1]), recipe=Recipe(epochs=1), loss="soft")
        searched = [change for search in self.searches.values() for change in search.students.values()]
        for change in (*self.wide.values(), *self.narrow.values(), *self.published.values(), *searched):
            soft.but(**change)
        return self

    @model_validator(mode="after")
    def _all_methods_are_there(self) -> Self:
        for name in ("wide", "narrow"):
            if set(getattr(self, name)) != {"hinton", "dkd", "standardised"}:
                raise ValueError(f"{name} must have hinton, dkd and standardised")
        settings = ("hinton, published", "hinton, as standardised", "standardised, published")
        if set(self.published) != set(settings):
            raise ValueError(f"published must have {'; '.join(settings)}")
        return self
