"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn: smoke's stand-in for MNIST."""

import torch

from kdrepro.data.images import ImageData
from kdrepro.errors import needed

TEST_CASES = 500


def digits() -> ImageData:
    """1,297 training and 500 test digits of the UCI optical recognition set, uint8 [N, 8, 8].

    The last 500 in the stored order are the test cases. Pixel counts of 0-16 are stretched to 0-255.
    Raises InputError where scikit-learn is not installed.
    """
    bunch = needed("sklearn.datasets", "sklearn", "data.digits").load_digits()
    images = torch.from_numpy(bunch.images * 255 / 16).round().to(torch.uint8)
    labels = torch.from_numpy(bunch.target).long()
    split = len(images) - TEST_CASES
    return ImageData.of("digits", images[:split], labels[:split], images[split:], labels[split:], 10)
