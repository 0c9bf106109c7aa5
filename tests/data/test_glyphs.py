"""Glyphs: the same images whoever draws them, and what cannot be asked for."""

import subprocess
import sys

import joblib
import pytest
import torch

from kdrepro import data
from kdrepro.errors import InputError

glyphs_module = sys.modules["kdrepro.data.glyphs"]  # kdrepro.data.glyphs itself is the function
FEW = {"per_class": 5, "validation_per_class": 2, "test_per_class": 3, "size": 16}


@pytest.fixture(scope="module")
def seven() -> data.ImageData:
    return data.glyphs(7, **FEW)


@pytest.fixture(scope="module")
def thirty() -> data.ImageData:
    return data.glyphs(30, per_class=40, validation_per_class=2, test_per_class=20, size=16)


def never(*_, **__):
    raise AssertionError("This was not to be called.")


def test_what_it_returns(seven):
    assert seven.train_images.shape == (35, 16, 16)
    assert seven.validation_images.shape == (14, 16, 16)
    assert seven.test_images.shape == (21, 16, 16)
    assert seven.train_images.dtype == torch.uint8
    assert seven.train_labels.tolist() == [k for k in range(7) for _ in range(5)]
    assert seven.test_labels.bincount().tolist() == [3] * 7
    assert seven.class_names == tuple("aàáâãäå")
    assert seven.classes == 7
    other = data.glyphs(2, **FEW | {"size": 32, "validation_per_class": 0})
    assert other.train_images.shape == (10, 32, 32)
    assert other.validation_images is None


def test_the_settings_decide_the_images(seven):
    prints = [data.glyphs(7, **FEW | change).fingerprint for change in ({}, {"seed": 1}, {"size": 32})]
    assert prints[0] == seven.fingerprint
    assert len(set(prints)) == 3


def test_no_image_is_in_two_splits(thirty):
    together = torch.cat([thirty.train_images, thirty.validation_images, thirty.test_images]).flatten(1)
    assert len({bytes(x.numpy()) for x in together}) == len(together) == 30 * 62


def test_other_classes_and_numbers_change_nothing(seven, thirty):
    for k in range(7):
        assert torch.equal(seven.train_images[5 * k : 5 * k + 5], thirty.train_images[40 * k : 40 * k + 5])
        assert torch.equal(seven.test_images[3 * k : 3 * k + 3], thirty.test_images[20 * k : 20 * k + 3])


def test_ink_is_bright_and_the_shape_tells_the_class(thirty):
    """Better than chance by far with nothing but class means, and worse than perfect."""
    means = torch.stack([thirty.train_images[thirty.train_labels == k].float().mean(0) for k in range(30)])
    assert (means[:, 5:11, 5:11].mean((1, 2)) > means[:, 0].mean(1)).all()
    apart = torch.cdist(thirty.test_images.flatten(1).float(), means.flatten(1))
    right = (apart.argmin(1) == thirty.test_labels).float().mean()
    assert 0.15 < right < 0.9


@pytest.mark.parametrize(("worth", "asked"), [(71, 1), (35, 2), (20, 3), (1, 7)])
def test_processes_are_as_many_as_are_worth_it(seven, monkeypatch, worth, asked):
    """Seventy images; at most a process a class. Which of them draws a class changes nothing."""
    seen, alone = [], joblib.Parallel(n_jobs=1)

    def parallel(n_jobs):
        seen.append(n_jobs)
        return alone

    monkeypatch.setattr(joblib, "Parallel", parallel)
    monkeypatch.setattr(glyphs_module, "WORTH_A_WORKER", worth)
    monkeypatch.setattr(glyphs_module.os, "cpu_count", lambda: 16)
    assert data.glyphs(7, **FEW).fingerprint == seven.fingerprint
    assert seen == [asked]


SCRIPT = f"""
import sys
from kdrepro import data
sys.modules["kdrepro.data.glyphs"].WORTH_A_WORKER = 35
sys.modules["kdrepro.data.glyphs"].os.cpu_count = lambda: 2
print(data.glyphs(7, **{FEW}).fingerprint)
"""


@pytest.mark.slow
def test_processes_draw_the_same_and_need_no_guard(seven, tmp_path):
    """A user's script without `if __name__ == "__main__"` is run once, not once a process."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == [seven.fingerprint], done.stderr


def test_drawn_once(seven, tmp_path, monkeypatch):
    data.glyphs(7, **FEW, cache=tmp_path)
    monkeypatch.setattr(glyphs_module, "draw_class", never)
    found = data.glyphs(7, **FEW, cache=tmp_path)
    assert found.fingerprint == seven.fingerprint
    assert found.class_names == seven.class_names
    with pytest.raises(AssertionError):
        data.glyphs(7, **FEW, seed=1, cache=tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"size": 28}, "size of 16 or 32 pixels, not 28"),
        ({"classes": 1}, "classes of glyphs must be at least 2, not 1"),
        ({"per_class": 0}, "per_class of glyphs must be at least 1, not 0"),
        ({"validation_per_class": -1}, "validation_per_class of glyphs must be at least 0, not -1"),
        ({"test_per_class": 0}, "test_per_class of glyphs must be at least 1, not 0"),
        ({"seed": -1}, "seed of glyphs must be at least 0, not -1"),
    ],
)
def test_what_cannot_be(wrong, said):
    with pytest.raises(InputError, match=said):
        data.glyphs(**{"classes": 3} | FEW | wrong)
