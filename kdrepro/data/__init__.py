"""Real data, read from where it is, as uint8 tensors with a fingerprint."""

from kdrepro.data.digits import digits
from kdrepro.data.images import ImageData
from kdrepro.data.mnist import fetch_mnist, mnist

__all__ = ["ImageData", "digits", "fetch_mnist", "mnist"]
