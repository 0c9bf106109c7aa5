"""Which characters the glyphs are of: thousands that matplotlib's fonts draw, in families of look-alikes."""

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kdrepro.errors import InputError, needed

# The first of these fonts that has a character is its main font, by which twins are told. matplotlib's other fonts
# are left out: Computer Modern's character maps are TeX's, not Unicode's.
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "STIXGeneral",
    "STIXGeneralItalic",
    "STIXGeneralBol",
)

# Ten characters each, so that a small number of classes has several kinds of confusion.
FIRST_FAMILIES = {
    "a with marks": "aàáâãäåāăą",
    "arrows": "←↑→↓↔↕↖↗↘↙",
    "e with marks": "eèéêëēĕėęě",
    "box drawings": "┌┐└┘├┤┬┴┼│",
    "round letters and digits": "OQCGDΘ0689",
    "triangles": "▲△▶▷▼▽◀◁◢◣",
    "upright strokes": "Il1|!iıjtf",
    "circled digits": "①②③④⑤⑥⑦⑧⑨⑩",
    "relations": "<>≤≥=≠≡≈∼≃",
    "u with marks": "uùúûüũūŭůű",
}

# After those, letters by script (the first word of the Unicode name), with the numbers and the signs among them.
NUMBERS, SIGNS, LETTERS = "NUMBERS", "SIGNS", "LETTERS"
SCRIPTS = ("LATIN", NUMBERS, "GREEK", "CYRILLIC", SIGNS, "ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC", "CANADIAN")
SCRIPTS += ("COPTIC", "NKO", "LAO", "OGHAM", "TIFINAGH", "LISU", "OLD", "MATHEMATICAL", "MODIFIER", LETTERS)

# A block of signs is one family. Signs elsewhere are left out: playing cards and domino tiles need more pixels.
SIGN_BLOCKS = {
    "arrow signs": [(0x2190, 0x21FF), (0x27F0, 0x27FF), (0x2900, 0x297F), (0x2B00, 0x2B4C)],
    "operators": [(0x2200, 0x22FF)],
    "box drawing": [(0x2500, 0x257F)],
    "blocks": [(0x2580, 0x259F)],
    "geometric shapes": [(0x25A0, 0x25FF), (0x2B4D, 0x2BFF)],
    "punctuation": [(0x0020, 0x00BF), (0x2010, 0x205F), (0x2E00, 0x2E7F), (0x3000, 0x303F)],
    "marks": [(0x00C0, 0x1FFF), (0xA700, 0xA7FF)],
    "currency": [(0x20A0, 0x20CF)],
    "letter-like signs": [(0x2070, 0x209F), (0x2100, 0x218F), (0x1D400, 0x1D7FF)],
    "technical signs": [(0x2300, 0x243F)],
    "enclosed signs": [(0x2460, 0x24FF)],
    "symbols": [(0x2600, 0x26FF)],
    "dingbats": [(0x2700, 0x27BF)],
    "brackets and more operators": [(0x27C0, 0x27EF), (0x2980, 0x29FF)],
    "supplemental operators": [(0x2A00, 0x2AFF)],
    "braille": [(0x2801, 0x28FF)],
    "hexagrams": [(0x4DC0, 0x4DFF)],
    "faces": [(0x1F600, 0x1F64F)],
    "tetragrams": [(0x1D300, 0x1D35F)],
}

SMALLEST_FAMILY = 3  # smaller ones of a script are put together
EM = 0.86  # of the cell's height: the letters with their marks just fit
CENTRE = 0.36  # ems that the cell's centre lies above the base line
ROOM = 0.94  # of the cell that ink may fill; what is larger is drawn smaller
TWINS = 0.15  # two drawings that differ by less, relative to their norm, are one class


def glyph_classes(n: int) -> list[tuple[str, str]]:
    """The first n characters with the family of each, families whole except perhaps the last.

    The order is fixed, so that a smaller n gives the beginning of a larger one: the ten families of
    FIRST_FAMILIES, then SCRIPTS, in each of which a letter with all its marks is a family. A character that its main
    font draws like an earlier one (Latin A, Greek Alpha, Cyrillic A) is left out.
    Raises InputError when there are fewer than n such characters.
    """
    fonts = Fonts()
    kept: list[tuple[str, str]] = []
    drawings = np.zeros((0, 32 * 32), np.float32)
    candidates = list(_in_order(fonts))
    for start in range(0, len(candidates), 256):
        some = candidates[start : start + 256]
        new = np.stack([_thumbnail(fonts, character) for character, _ in some])
        taken = _without_twins(drawings, new)
        kept += [some[i] for i in taken]
        drawings = np.concatenate([drawings, new[taken]])
        if len(kept) >= n > 0:
            return kept[:n]
    raise InputError(
        f"There are {len(kept):,} different glyphs in matplotlib's fonts: ask for 1 to as many, not {n:,}."
    )


class Fonts:
    """The fonts by name: which have a character, and its drawing."""

    def __init__(self):
        matplotlib = needed("matplotlib", "plots", "data.glyphs")
        ft2font = needed("matplotlib.ft2font", "plots", "data.glyphs")
        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        self.paths = {name: folder / f"{name}.ttf" for name in FONTS}
        self.characters = {name: set(ft2font.FT2Font(str(path)).get_charmap()) for name, path in self.paths.items()}
        self._faces: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}

    def having(self, character: str) -> list[str]:
        """The names of the fonts that have a character, its main font first."""
        return [name for name in FONTS if ord(character) in self.characters[name]]

    def draw(self, character: str, font: str, pixels: int) -> np.ndarray:
        """A character in a cell, uint8 [pixels, pixels], ink 255 on 0.

        Its height over the base line is kept, so that marks and signs can be told by it; across it is centred.
        All zeros where the font has no ink for the character.
        """
        em = round(EM * pixels)
        ink, base = self._ink(character, font, em)
        if max(ink.size) > ROOM * pixels:
            em = int(em * ROOM * pixels / max(ink.size))
            ink, base = self._ink(character, font, em)
        margin = int((1 - ROOM) / 2 * pixels)
        top = round(pixels / 2 + CENTRE * em) - base
        top = max(margin, min(pixels - margin - ink.height, top))
        cell = Image.new("L", (pixels, pixels))
        cell.paste(ink, ((pixels - ink.width) // 2, top))
        return np.asarray(cell)

    def _ink(self, character: str, font: str, em: int) -> tuple[Image.Image, int]:
        """The drawing cut to its ink, and how many rows of it are above the base line."""
        if (font, em) not in self._faces:
            self._faces[font, em] = ImageFont.truetype(str(self.paths[font]), em, layout_engine=ImageFont.Layout.BASIC)
        canvas = Image.new("L", (5 * em, 4 * em))
        ImageDraw.Draw(canvas).text((2 * em, 2 * em), character, 255, self._faces[font, em], anchor="ls")
        box = canvas.getbbox() or (0, 0, 1, 1)
        return canvas.crop(box), 2 * em - box[1]


def _in_order(fonts: Fonts) -> Iterator[tuple[str, str]]:
    """Every character that can be a class, with its family."""
    for family, characters in FIRST_FAMILIES.items():
        yield from ((character, family) for character in characters)
    groups: dict[str, dict[str, list[str]]] = {script: {} for script in SCRIPTS}
    groups[SIGNS] = {block: [] for block in SIGN_BLOCKS}
    first = set("".join(FIRST_FAMILIES.values()))
    for character in map(chr, sorted(set().union(*fonts.characters.values()))):
        if character not in first and (found := _family(character)):
            script, family = found
            groups[script].setdefault(family, []).append(character)
    for script, families in groups.items():
        rest = []
        for family, characters in families.items():
            if len(characters) < SMALLEST_FAMILY:
                rest += characters
            else:
                yield from ((character, family) for character in characters)
        yield from ((character, f"other {script.lower()}") for character in rest)


def _family(character: str) -> tuple[str, str] | None:
    """The script (or NUMBERS, SIGNS) and the family of a character; None where it is not to be a class."""
    name, kind = unicodedata.name(character, ""), unicodedata.category(character)[0]
    if not name or re.search("^MATHEMATICAL.*(BOLD|ITALIC|SANS-SERIF|MONOSPACE)", name):
        return None  # those are the styles of other classes' fonts
    if kind == "N":
        return NUMBERS, "fractions" if "FRACTION" in name else name.rpartition(" ")[0].lower()
    if kind in "SP":
        block = next(
            (b for b, parts in SIGN_BLOCKS.items() if any(lo <= ord(character) <= hi for lo, hi in parts)), None
        )
        return block and (SIGNS, block)
    if kind != "L":
        return None
    script = name.split()[0]
    if script in ("MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER"):
        script, family = "MATHEMATICAL", name.rpartition(" ")[0]
    elif script == "CANADIAN":
        family = re.sub("[AEIOU]+$", "", name) + "-"  # a consonant with every vowel
    else:
        family = re.split(" WITH | (?:ISOLATED|INITIAL|MEDIAL|FINAL) FORM", name)[0]
    return script if script in SCRIPTS else LETTERS, family.lower()


def _thumbnail(fonts: Fonts, character: str) -> np.ndarray:
    """The drawing in the main font as float32 [32 * 32]."""
    drawn = fonts.draw(character, fonts.having(character)[0], 64)
    return drawn.reshape(32, 2, 32, 2).mean((1, 3), dtype=np.float32).reshape(-1)


def _without_twins(earlier: np.ndarray, new: np.ndarray) -> list[int]:
    """Which of the new drawings [n, pixels] are like none of the earlier ones and of those before them."""
    together = np.concatenate([earlier, new])
    power = (together**2).sum(1)
    apart = power[len(earlier) :, None] + power[None] - 2 * new @ together.T  # squared distances
    alike = apart < TWINS**2 * np.maximum(power[len(earlier) :, None], power[None])
    taken: list[int] = []
    for i in range(len(new)):
        rivals = [*range(len(earlier)), *(len(earlier) + j for j in taken)]
        if power[len(earlier) + i] > 0 and not alike[i, rivals].any():
            taken.append(i)
    return taken
