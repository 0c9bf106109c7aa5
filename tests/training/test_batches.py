"""Cases of a training: shuffled, shifted and mirrored anew for each epoch, with a teacher's logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_cases import here, network

from kdrepro import training
from kdrepro.training import Batches, batches


def test_an_epoch_holds_every_case_once_with_its_own_label_and_logits(generator):
    inputs = torch.arange(50).float().unsqueeze(1)
    batches = Batches(inputs, torch.arange(50), batch_size=16, teacher_logits=inputs.repeat(1, 3))
    steps = list(batches.epoch(generator))
    assert len(steps) == len(batches) == 4
    assert max(len(b.inputs) for b in steps) - min(len(b.inputs) for b in steps) <= 1
    assert sorted(torch.cat([b.labels for b in steps]).tolist()) == list(range(50))
    for b in steps:
        assert torch.equal(b.inputs[:, 0].long(), b.labels)
        assert torch.equal(b.teacher_logits[:, 2].long(), b.labels)


class Sampler:
    """The first `count` cases of a random order."""

    def __init__(self, cases, count):
        self.cases, self.count = cases, count

    def __len__(self):
        return self.count

    def draw(self, generator):
        return torch.randperm(self.cases, generator=generator)[: self.count]


def test_an_epoch_has_the_cases_that_the_sampler_draws(generator):
    batches = Batches(torch.arange(50.0).view(50, 1), torch.arange(50), batch_size=4, sampler=Sampler(50, 10))
    assert (batches.cases, len(batches)) == (10, 3)
    epochs = [torch.cat([batch.labels for batch in batches.epoch(generator)]) for _ in range(2)]
    assert [len(labels.unique()) for labels in epochs] == [10, 10]
    assert set(epochs[0].tolist()) != set(epochs[1].tolist())
    for batch in batches.epoch(generator):
        assert torch.equal(batch.inputs[:, 0].long(), batch.labels)


def test_cases_and_device_of_batches():
    batches = Batches(torch.zeros(7, 2), batch_size=3)
    assert (batches.cases, len(batches), batches.device) == (7, 3, torch.device("cpu"))


def test_teacher_sees_the_same_view_as_the_student(generator, digits):
    teacher = network(1)
    batches = Batches(digits.train_images, digits.train_labels, batch_size=64, jitter=1, teacher=teacher)
    batch = next(iter(batches.epoch(generator)))
    torch.testing.assert_close(batch.teacher_logits, teacher.eval()(training.as_inputs(batch.inputs)))


def test_cached_logits_with_jitter_are_refused(digits):
    cached = here(torch.zeros(len(digits.train_images), 10))
    with pytest.raises(ValueError, match="jitter"):
        Batches(digits.train_images, digits.train_labels, jitter=1, teacher_logits=cached)


def test_bad_batches():
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="labels"):
        Batches(x, torch.zeros(3))
    with pytest.raises(ValueError, match="teacher_logits"):
        Batches(x, teacher_logits=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="empty"):
        Batches(x[:0])
    with pytest.raises(ValueError, match="not both"):
        Batches(x, teacher=network().cpu(), teacher_logits=torch.zeros(4, 2))


def test_labels_on_another_device_are_refused():
    with pytest.raises(ValueError, match="labels is on meta but inputs is on cpu: move one of them"):
        Batches(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64, device="meta"))


# --- shifts and flips -------------------------------------------------------------------------------


def shift_reference(images, pixels, generator):
    """One image at a time, pixel by pixel."""
    count, height, width = images.shape
    side = 2 * pixels + 1
    shifts = torch.randint(side * side, (count,), generator=generator)
    out = torch.zeros_like(images)
    for n in range(count):
        down, right = divmod(shifts[n].item(), side)
        for y in range(height):
            for x in range(width):
                sy, sx = y + down - pixels, x + right - pixels
                if 0 <= sy < height and 0 <= sx < width:
                    out[n, y, x] = images[n, sy, sx]
    return out


@given(st.integers(0, 2**31 - 1), st.integers(0, 3))
@settings(max_examples=25)
def test_shift_equals_reference(seed, pixels):
    images = torch.randint(0, 256, (11, 6, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    fast = training.shift_images(images, pixels, torch.Generator().manual_seed(seed))
    slow = shift_reference(images, pixels, torch.Generator().manual_seed(seed))
    assert torch.equal(fast, slow)


def test_every_shift_occurs_equally_often(generator):
    images = torch.zeros(50_000, 5, 5, dtype=torch.uint8)
    images[:, 2, 2] = 1
    shifted = training.shift_images(images, 2, generator)
    assert (shifted.sum((1, 2)) == 1).all()
    share = shifted.float().mean(0)
    assert ((share - 1 / 25).abs() < 0.004).all()


def test_shifts_of_colour_images_are_those_of_each_channel():
    images = torch.randint(0, 256, (9, 3, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    together = training.shift_images(images, 2, torch.Generator().manual_seed(1))
    for channel in range(3):
        alone = training.shift_images(images[:, channel], 2, torch.Generator().manual_seed(1))
        assert torch.equal(together[:, channel], alone)


def test_flips_mirror_about_half_of_the_images(generator):
    images = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3).repeat(400, 1, 1, 1)
    flipped = training.flip_images(images, generator)
    mirrored = (flipped == images.flip(-1)).all(dim=(1, 2, 3))
    assert (flipped[~mirrored] == images[~mirrored]).all()
    assert 150 < mirrored.sum() < 250


IMAGES = {
    "flat": (torch.zeros(4, 64), 1, r"move images \[N, ..., H, W\]"),
    "channels last": (torch.zeros(4, 8, 8, 3), 1, r"channels last.*permute\(0, 3, 1, 2\)"),
    "further than the image": (torch.zeros(4, 8, 6), 6, "jitter must lie between 0 and 5 pixels"),
    "negative": (torch.zeros(4, 8, 8), -1, "jitter must lie between 0 and 7 pixels"),
}


@pytest.mark.parametrize(("inputs", "jitter", "sentence"), IMAGES.values(), ids=IMAGES)
def test_what_cannot_be_moved_as_images_are(inputs, jitter, sentence):
    with pytest.raises(ValueError, match=sentence):
        Batches(inputs, jitter=jitter)


def test_probabilities_are_no_teacher_logits():
    p = torch.rand(5, 4).softmax(1)
    with pytest.raises(ValueError, match=r"teacher_logits holds probabilities.*pass their logarithm"):
        Batches(torch.zeros(5, 2), teacher_logits=p)
    Batches(torch.zeros(5, 2), teacher_logits=p.log())
    Batches(torch.zeros(5, 2), teacher_logits=torch.zeros(5, 4))


# --- cutout and mixed images ------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 4, 5, 9])
def test_cutout_blacks_out_one_square_an_image(generator, side):
    images = torch.full((300, 3, 9, 10), 9, dtype=torch.uint8)
    found = batches.cut_out(images, side, generator)
    gone = found == 0
    assert (gone == gone[:, :1]).all()  # in every channel alike
    assert (found[~gone] == 9).all()
    for image in gone[:, 0]:
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        assert 1 <= len(rows) <= side
        assert 1 <= len(columns) <= side
        assert image.sum() == len(rows) * len(columns)  # a rectangle: the square, or what of it is inside
        assert len(rows) == rows[-1] - rows[0] + 1


def test_cutout_reaches_every_pixel(generator):
    found = batches.cut_out(torch.ones(4000, 6, 6), 2, generator)
    share = (found == 0).float().mean(0)
    assert share.min() > 0.02  # a corner: one of 36 centres, or of a few more
    assert share[2:5, 2:5].std() < 0.03


def test_mixed_images_lie_between_two_of_the_images(generator):
    images = torch.tensor([0.0, 1.0, 10.0]).view(3, 1, 1).expand(3, 2, 2).repeat(400, 1, 1)
    found, mixed = batches.mix_images(images, 0.4, generator, at_once=7)
    assert mixed.float().mean().item() == pytest.approx(0.4, abs=0.05)
    assert torch.equal(found[~mixed], images[~mixed])
    assert (found[mixed] == found[mixed][:, :1, :1]).all()  # every pixel at the image's one weight
    assert ((found >= 0) & (found <= 10)).all()
    assert (found[mixed][:, 0, 0] % 1 != 0).float().mean() > 0.5
    whole, _ = batches.mix_images(images.to(torch.uint8), 1.0, generator)
    assert whole.dtype == torch.uint8


def test_mixed_cases_have_no_label_and_are_the_teachers(digits):
    teacher = network()
    given = Batches(digits.train_images, digits.train_labels, mix=0.5, cutout=3, teacher=teacher, batch_size=100)
    seen = list(given.epoch(torch.Generator().manual_seed(0)))
    labels = torch.cat([batch.labels for batch in seen])
    assert 0.4 < (labels == -100).float().mean() < 0.6
    for batch in seen[:2]:
        torch.testing.assert_close(batch.teacher_logits, training.logits(teacher, batch.inputs))
    plain = Batches(digits.train_images, digits.train_labels)
    assert Batches(digits.train_images, digits.train_labels, cutout=3).fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mix": 1.5}, "mix must lie between 0 and 1"),
        ({"cutout": 9}, "cutout must lie between 0 and 8 pixels"),
        ({"cutout": 2, "teacher_logits": torch.zeros(5, 3)}, "cannot be used with cutout or mix"),
    ],
)
def test_cutout_and_mix_that_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        Batches(torch.zeros(5, 8, 8), torch.zeros(5, dtype=torch.int64), **options)
