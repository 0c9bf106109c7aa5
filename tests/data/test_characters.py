"""Which characters are classes: families of look-alikes, no two of one drawing."""

import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest

from kdrepro.data.characters import FIRST_FAMILIES, FONTS, glyph_classes
from kdrepro.errors import InputError

characters_module = sys.modules["kdrepro.data.characters"]


@pytest.fixture(scope="module")
def thousands() -> list[tuple[str, str]]:
    return glyph_classes(5000)


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
    assert all(map(unicodedata.name, characters))


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
