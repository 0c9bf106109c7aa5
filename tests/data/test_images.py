"""What every loader of images returns: fingerprints, names, validation cases."""

import pytest
import torch

from kdrepro.data import ImageData

X = torch.arange(48, dtype=torch.uint8).view(3, 4, 4)
Y = torch.tensor([0, 1, 0])
PAIR = (X, Y, X[:2], Y[:2])
VALIDATION = {"validation_images": X[1:], "validation_labels": Y[1:]}


def test_networks_that_were_stored_are_found_again(digits):
    """Names, and that there could be validation cases, change no fingerprint of before."""
    assert digits.fingerprint == "e88082e5517e1abc"
    assert ImageData.of("few", *PAIR, 2).fingerprint == "0a82e83dc02cbc48"
    assert ImageData.of("few", *PAIR, 2, class_names=("a", "b")).fingerprint == "0a82e83dc02cbc48"


def test_validation_cases_are_part_of_the_fingerprint():
    other = {"validation_images": X[:2], "validation_labels": Y[:2]}
    prints = {ImageData.of("few", *PAIR, 2, **kind).fingerprint for kind in ({}, VALIDATION, other)}
    assert len(prints) == 3


def test_colour_images_have_a_fingerprint_of_their_own():
    colour = X[:, None].expand(3, 3, 4, 4)
    assert len({ImageData.of("few", x, Y, x, Y, 2).fingerprint for x in (X, X[:, None], colour)}) == 3


def test_describe_says_what_is_there():
    assert ImageData.of("few", *PAIR, 2).describe() == "few, 3 training and 2 test cases"
    full = ImageData.of("few", *PAIR, 2, class_names=("a", "b"), **VALIDATION)
    assert full.describe() == "few, 3 training, 2 validation and 2 test cases of 2 named classes"


def test_everything_moves_with_the_data():
    moved = ImageData.of("few", *PAIR, 2, class_names=("a", "b"), **VALIDATION).to("meta")
    assert moved.validation_images.is_meta
    assert moved.validation_labels.is_meta
    assert moved.class_names == ("a", "b")
    assert ImageData.of("few", *PAIR, 2).to("meta").validation_images is None


def test_names_stay_when_validation_cases_are_held_out():
    held = ImageData.of("few", *PAIR, 2, class_names=("a", "b"), **VALIDATION).with_validation(1)
    assert held.class_names == ("a", "b")
    assert held.validation_images is None


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="3 class names were given for 2 classes"):
        ImageData.of("few", *PAIR, 2, class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="come together"):
        ImageData.of("few", *PAIR, 2, validation_images=X)
    with pytest.raises(TypeError, match="validation_image"):
        ImageData.of("few", *PAIR, 2, validation_image=X, validation_label=Y)


def test_validation_split_is_disjoint_and_leaves_the_test_set_out(digits):
    split = digits.with_validation(297, seed=1)
    assert len(split.train_images) == 1000
    assert len(split.test_images) == 297
    rows = {bytes(x.numpy()) for x in digits.train_images.flatten(1)}
    assert {bytes(x.numpy()) for x in split.test_images.flatten(1)} <= rows
    assert split.fingerprint not in (digits.fingerprint, digits.with_validation(297, seed=2).fingerprint)
    with pytest.raises(ValueError, match="cases"):
        digits.with_validation(1297)


PAIRS = {
    "floats": ((X.float(), Y, X, Y), "train_images must be uint8"),
    "channels last": ((X[..., None], Y, X, Y), r"must be grey \[N, H, W\] or colour"),
    "another size": ((X, Y, X[:, :1], Y), "All images must have one size, but there are train_images"),
    "labels from 1 on": ((X, Y + 1, X, Y), "train_labels must lie between 0 and 1"),
    "fewer labels": ((X, Y[:-1], X, Y), "train_labels is"),
    "no label": ((X, Y, X, torch.full_like(Y, -100)), "test_labels holds -100"),
}


@pytest.mark.parametrize(("pair", "sentence"), PAIRS.values(), ids=PAIRS)
def test_what_is_no_image_data_gets_one_sentence(pair, sentence):
    with pytest.raises(ValueError, match=sentence):
        ImageData.of("few", *pair, 2)


def test_arrays_are_taken():
    arrays = [tensor.numpy() for tensor in (X, Y.int(), X, Y.int())]
    assert ImageData.of("few", *arrays, 2).fingerprint == ImageData.of("few", X, Y, X, Y, 2).fingerprint
