"""What is wrong with a distillation: `doctor` tries a user's loss, networks and stored logits with numbers."""

from kdrepro.diagnosis.examination import doctor
from kdrepro.diagnosis.finding import Finding

__all__ = ["Finding", "doctor"]
