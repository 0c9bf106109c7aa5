"""What every loader of labelled images returns."""

import hashlib
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class ImageData:
    """Labelled images, split into training and test cases.

    train_images, test_images: uint8 [N, H, W], 0 is background. train_labels, test_labels: int64 [N].
    classes: how many. fingerprint: hex digest of all four tensors, part of every stored configuration.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: int
    fingerprint: str

    @classmethod
    def of(cls, name, train_images, train_labels, test_images, test_labels, classes) -> "ImageData":
        """Make one from its tensors, computing the fingerprint."""
        digest = hashlib.sha256()
        for tensor in (train_images, train_labels, test_images, test_labels):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy())
        tensors = (train_images, train_labels, test_images, test_labels)
        return cls(name, *tensors, classes, digest.hexdigest()[:16])

    def describe(self) -> str:
        """Name and size, for a reader."""
        return f"{self.name}, {len(self.train_images):,} training and {len(self.test_images):,} test cases"

    def to(self, device: torch.device | str) -> "ImageData":
        """The same data with all tensors on a device."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def with_validation(self, cases: int, seed: int = 0) -> "ImageData":
        """Hold out `cases` training cases and put them in the place of the test set.

        For choosing hyper-parameters without a look at the test set. Deterministic in `seed`.
        """
        if not 0 < cases < len(self.train_images):
            raise ValueError(f"cases must lie between 1 and {len(self.train_images) - 1}, not {cases}.")
        order = torch.randperm(len(self.train_images), generator=torch.Generator().manual_seed(seed))
        held_out, kept = order[:cases], order[cases:]
        x, y = self.train_images.cpu(), self.train_labels.cpu()
        return ImageData.of(f"{self.name}-validation", x[kept], y[kept], x[held_out], y[held_out], self.classes)
