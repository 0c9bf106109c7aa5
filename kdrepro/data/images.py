"""What every loader of labelled images returns."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kdrepro.checks import NO_LABEL, all_labelled, as_labels, as_tensor


@dataclass(frozen=True)
class ImageData:
    """Labelled images, split into training and test cases, and validation cases where the data set has them.

    train_images, test_images: uint8, grey [N, H, W] with 0 as background, or colour [N, 3, H, W].
    train_labels, test_labels: int64 [N]. classes: how many. class_names: one a class, or none at all.
    validation_images, validation_labels: of the same kinds, or None.
    fingerprint: hex digest of all tensors, part of every stored configuration.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: int
    fingerprint: str
    class_names: tuple[str, ...] = ()
    validation_images: torch.Tensor | None = None
    validation_labels: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        name: str,
        train_images: Any,
        train_labels: Any,
        test_images: Any,
        test_labels: Any,
        classes: int,
        *,
        class_names: Sequence[str] = (),
        validation_images: Any = None,
        validation_labels: Any = None,
    ) -> "ImageData":
        """Make one from its tensors, computing the fingerprint.

        Tensors or arrays; validation images and labels, or neither.
        Raises ValueError for one without the other, images that are not uint8 [N, H, W] or [N, 1 or 3, H, W] of one
        size, labels that are none of the classes, and when there are names but not one a class.
        """
        if class_names and len(class_names) != classes:
            raise ValueError(f"{len(class_names)} class names were given for {classes} classes.")
        if (validation_images is None) != (validation_labels is None):
            raise ValueError("Validation images and labels come together.")
        pairs = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
        if validation_images is not None:
            pairs["validation"] = (validation_images, validation_labels)
        images = {f"{split}_images": _images(x, f"{split}_images") for split, (x, _) in pairs.items()}
        labels = {
            f"{split}_labels": _labels(y, len(images[f"{split}_images"]), classes, f"{split}_labels")
            for split, (_, y) in pairs.items()
        }
        if len({tuple(one.shape[1:]) for one in images.values()}) > 1:
            sizes = ", ".join(f"{name} {list(one.shape)}" for name, one in images.items())
            raise ValueError(f"All images must have one size, but there are {sizes}.")
        data = cls(name, classes=classes, fingerprint="", class_names=tuple(class_names), **images, **labels)
        digest = hashlib.sha256()
        for tensor in data.tensors().values():
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy())
        return replace(data, fingerprint=digest.hexdigest()[:16])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Images and labels by name, in the order of the fingerprint."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def describe(self) -> str:
        """Name and size, for a reader."""
        counts = [f"{len(self.train_images):,} training"]
        if self.validation_images is not None:
            counts.append(f"{len(self.validation_images):,} validation")
        text = f"{self.name}, {', '.join(counts)} and {len(self.test_images):,} test cases"
        return text + (f" of {self.classes:,} named classes" if self.class_names else "")

    def to(self, device: torch.device | str) -> "ImageData":
        """The same data with all tensors on a device."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def with_validation(self, cases: int, seed: int = 0) -> "ImageData":
        """Hold out `cases` training cases and put them in the place of the test set.

        For choosing hyper-parameters without a look at the test set. Deterministic in `seed`. Validation cases that
        the data set has of its own are left out.
        """
        if not 0 < cases < len(self.train_images):
            raise ValueError(f"cases must lie between 1 and {len(self.train_images) - 1}, not {cases}.")
        order = torch.randperm(len(self.train_images), generator=torch.Generator().manual_seed(seed))
        held_out, kept = order[:cases], order[cases:]
        x, y = self.train_images.cpu(), self.train_labels.cpu()
        split = (x[kept], y[kept], x[held_out], y[held_out])
        return ImageData.of(f"{self.name}-validation", *split, self.classes, class_names=self.class_names)


def _images(value: Any, name: str) -> torch.Tensor:
    images = as_tensor(value, name)
    if images.dtype != torch.uint8:
        raise ValueError(f"{name} must be uint8 (0 to 255), not {images.dtype}: scale the pixels, and pass .to(uint8).")
    if images.dim() not in (3, 4) or (images.dim() == 4 and images.shape[1] not in (1, 3)):
        raise ValueError(f"{name} must be grey [N, H, W] or colour [N, 3, H, W], not {list(images.shape)}.")
    return images


def _labels(value: Any, cases: int, classes: int, name: str) -> torch.Tensor:
    labels = as_labels(value, cases, classes, name)
    if not all_labelled(labels):
        raise ValueError(f"{name} holds {NO_LABEL}: here every case needs a label, so leave those out that have none.")
    return labels
