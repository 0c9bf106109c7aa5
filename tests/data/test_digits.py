"""The digits that come with scikit-learn."""

import torch

from kdrepro import data


def test_digits(digits):
    assert digits.train_images.shape == (1297, 8, 8)
    assert digits.test_images.shape == (500, 8, 8)
    assert digits.train_images.dtype == torch.uint8
    assert digits.train_images.max() == 255
    assert digits.train_labels.unique().tolist() == list(range(10))
    assert digits.fingerprint == data.digits().fingerprint
