"""Glyphs: families of characters, the same images whoever draws them, and what cannot be asked for."""

import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro import data
from kdrepro.data.characters import FIRST_FAMILIES, FONTS, Fonts, glyph_classes, glyph_name
from kdrepro.data.drawing import CHUNK, Drawing, draw_class
from kdrepro.errors import InputError

characters_module = sys.modules["kdrepro.data.characters"]
glyphs_module = sys.modules["kdrepro.data.glyphs"]  # kdrepro.data.glyphs itself is the function
FEW = {"per_class": 5, "validation_per_class": 2, "test_per_class": 3, "size": 16}


@pytest.fixture(scope="module")
def fonts() -> Fonts:
    return Fonts()


@pytest.fixture(scope="module")
def thousands() -> list[tuple[str, str]]:
    return glyph_classes(5000)


def never(*_, **__):
    raise AssertionError("This was not to be called.")


# --- which characters -------------------------------------------------------------------------------------------------


def test_the_first_hundred_are_ten_families():
    assert glyph_classes(100) == [(c, family) for family, characters in FIRST_FAMILIES.items() for c in characters]
    assert set(map(len, FIRST_FAMILIES.values())) == {10}


def test_a_smaller_number_is_the_beginning(thousands):
    for n in (1, 60, 200, 700):
        assert glyph_classes(n) == thousands[:n]


def test_families_are_whole(thousands):
    families = [family for _, family in thousands]
    runs = [f for i, f in enumerate(families) if i == 0 or families[i - 1] != f]
    assert len(runs) == len(set(runs))
    sizes = Counter(families)
    assert sum(5 <= size <= 40 for size in sizes.values()) > 100
    # ten have a family of their own above
    assert {c for c, f in thousands if f == "latin small letter c"} >= set("cçćĉċč")
    assert {c for c, f in thousands if f == "mathematical double-struck digit"} == set("𝟘𝟙𝟚𝟛𝟜𝟝𝟞𝟟𝟠𝟡")


def test_every_class_is_a_named_character_once(thousands):
    characters = [c for c, _ in thousands]
    assert len(set(characters)) == len(characters)
    assert {unicodedata.category(c)[0] for c in characters} <= set("LNSP")
    assert glyph_name("é") == "LATIN SMALL LETTER E WITH ACUTE"
    assert all(map(glyph_name, characters))


def test_twins_are_one_class(thousands):
    characters = {c for c, _ in thousands}
    for latin, twins in {"O": "ΟО", "A": "ΑА", "x": "х", "P": "ΡР"}.items():
        assert latin in characters
        assert not characters & set(twins)


def test_no_two_classes_have_one_drawing(thousands, fonts):
    drawn = {fonts.draw(c, fonts.having(c)[0], 64).tobytes() for c, _ in thousands}
    assert len(drawn) == len(thousands)
    assert bytes(64 * 64) not in drawn


def test_more_than_there_are(monkeypatch):
    monkeypatch.setattr(characters_module, "_in_order", lambda fonts: [(c, "letters") for c in "aAаΑbé"])
    with pytest.raises(InputError, match=r"There are 4 different glyphs in matplotlib's fonts: .* not 1,000"):
        glyph_classes(1000)


def test_a_drawing_keeps_its_height_and_its_room(fonts):
    def middle(character):
        rows = fonts.draw(character, "DejaVuSans", 64).any(1).nonzero()[0]
        return rows.mean()

    assert middle("'") < middle("-") < middle(",")
    for character in "Ệ█ﬃǄ⟿😀":
        drawn = fonts.draw(character, fonts.having(character)[0], 64)
        edge = np.concatenate([drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]])
        assert drawn.any(), character
        assert not edge.any(), character


def test_most_letters_come_in_many_fonts(fonts):
    assert fonts.having("é") == list(FONTS)
    assert fonts.having("⠿")[0] == "DejaVuSans"


# --- the images -------------------------------------------------------------------------------------------------------


def test_what_it_returns():
    glyphs = data.glyphs(7, **FEW)
    assert glyphs.train_images.shape == (35, 16, 16)
    assert glyphs.validation_images.shape == (14, 16, 16)
    assert glyphs.test_images.shape == (21, 16, 16)
    assert glyphs.train_images.dtype == torch.uint8
    assert glyphs.train_labels.tolist() == [k for k in range(7) for _ in range(5)]
    assert glyphs.test_labels.bincount().tolist() == [3] * 7
    assert glyphs.class_names == tuple("aàáâãäå")
    assert glyphs.classes == 7
    assert data.glyphs(2, **FEW | {"size": 32}).train_images.shape == (10, 32, 32)
    assert data.glyphs(2, **FEW | {"validation_per_class": 0}).validation_images is None


def test_the_settings_decide_the_images():
    prints = [data.glyphs(3, **FEW | change).fingerprint for change in ({}, {}, {"seed": 1}, {"size": 32})]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_no_image_is_in_two_splits():
    glyphs = data.glyphs(4, per_class=30, validation_per_class=10, test_per_class=10, size=16)
    together = torch.cat([glyphs.train_images, glyphs.validation_images, glyphs.test_images]).flatten(1)
    assert len({bytes(x.numpy()) for x in together}) == len(together) == 200


@given(st.integers(1, 2 * CHUNK), st.integers(1, 2 * CHUNK), st.sampled_from("é↗█"), st.integers(0, 2**40))
@settings(max_examples=15)
def test_few_images_are_the_first_of_many(fonts, few, many, character, seed):
    few, many = sorted((few, many))
    drawn = draw_class(fonts, character, Drawing(many, 0, 1, 16, seed))
    assert drawn.shape == (many + 1, 16, 16)
    first = draw_class(fonts, character, Drawing(few, 2, 1, 16, seed))
    assert np.array_equal(first[:few], drawn[:few])
    assert np.array_equal(first[-1], drawn[-1])


def test_other_classes_change_nothing():
    few, more = data.glyphs(3, **FEW), data.glyphs(12, **FEW)
    assert torch.equal(few.train_images, more.train_images[:15])


def test_ink_is_bright_and_the_shape_tells_the_class():
    """Better than chance by far with nothing but class means, and worse than perfect."""
    glyphs = data.glyphs(30, per_class=40, validation_per_class=0, test_per_class=20, size=16)
    means = torch.stack([glyphs.train_images[glyphs.train_labels == k].float().mean(0) for k in range(30)])
    assert (means[:, 5:11, 5:11].mean((1, 2)) > means[:, 0].mean(1)).all()
    apart = torch.cdist(glyphs.test_images.flatten(1).float(), means.flatten(1))
    right = (apart.argmin(1) == glyphs.test_labels).float().mean()
    assert 0.15 < right < 0.9


def test_a_small_request_starts_no_process(monkeypatch):
    monkeypatch.setattr(glyphs_module.subprocess, "Popen", never)
    seen = []
    data.glyphs(
        60, per_class=60, validation_per_class=10, test_per_class=10, size=16, progress=lambda *a: seen.append(a)
    )
    assert seen == [(k, 60) for k in range(1, 61)]


def test_a_worker_draws_the_same(fonts):
    drawing = Drawing(5, 2, 3, 16, seed=3)
    for k, images in glyphs_module._in_workers("éb█", drawing, 1):
        assert np.array_equal(images, draw_class(fonts, "éb█"[k], drawing))


def test_the_order_in_which_workers_finish_means_nothing(monkeypatch):
    def backwards(*arguments):
        return reversed(list(glyphs_module._here(*arguments)))

    monkeypatch.setattr(glyphs_module, "_in_workers", backwards)
    assert data.glyphs(5, **FEW, workers=2).fingerprint == data.glyphs(5, **FEW, workers=1).fingerprint


def test_a_worker_that_dies_is_said(monkeypatch):
    monkeypatch.setattr(glyphs_module.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="draws glyphs ended with 1"):
        data.glyphs(5, **FEW, workers=2)


def test_drawn_once(tmp_path, monkeypatch):
    made = data.glyphs(3, **FEW, cache=tmp_path)
    monkeypatch.setattr(glyphs_module, "draw_class", never)
    found = data.glyphs(3, **FEW, cache=tmp_path)
    assert found.fingerprint == made.fingerprint
    assert found.class_names == made.class_names
    with pytest.raises(AssertionError):
        data.glyphs(3, **FEW, seed=1, cache=tmp_path)


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
