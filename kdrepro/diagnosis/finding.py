"""What the doctor says, and the names of the faults that it knows."""

from dataclasses import dataclass

# The mistakes of published code, by the names that chapter 8 gives them.
CLASS_MEAN = "KL averaged over the classes"
NO_T2 = "T² left out"
TRAIN_MODE = "teacher in train mode"
MOVED = "cached logits of other images"
SHUFFLED = "cached logits in another order"
ONE_LOG = "log on one side only"
NOT_FINITE = "NaN from p log p"
ALPHA = "α the wrong way round"
HALF = "soft targets in half precision"
RELU = "ReLU on the logits"
SWAPPED = "student and teacher swapped"
TEST_CHOICE = "chosen on test cases"
SMOOTHED = "label-smoothed teacher"
# And others that numbers tell.
NO_TEACHER = "the teacher has no say"
SIGN = "pushed away from the teacher"
INTO_TEACHER = "gradient into the teacher"
PROBABILITIES = "probabilities for logits"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. fault: its name; found: what was measured; mend: what to do."""

    fault: str
    found: str
    mend: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.found} {self.mend}"
