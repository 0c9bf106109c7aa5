"""The paper in one page, read aloud: speech of a built page's own text, made when the site is built.

The text of the page is the transcript. The recording is not kept with the sources; where espeak-ng or soundfile is
missing, or the book has no such page, the site has no player and is otherwise the same.
"""

import re
import unicodedata
from pathlib import Path

import numpy as np

from kdrepro.errors import InputError
from kdrepro.speech.espeak import Espeak, Voice

PAGE = Path("book") / "one-page.html"
RECORDING = Path("_static") / "one-page.ogg"
PLACE = '<div id="read-aloud"></div>'  # of the player, in the page's source
VOICE = Voice("en", "f3", rate=155, pitch=45)
PAUSE = 0.4  # seconds, after each paragraph
SPOKEN = {"§": "Section ", "→": " to ", "−": "minus ", "–": ", ", "—": ", ", "’": "'", "“": '"', "”": '"', "&": "and"}


def add_to(site: Path) -> bool:
    """Give the page of a built site its recording and a player; whether it has them now.

    site: the folder of the site's first page.
    """
    page = site / PAGE
    if not page.exists():
        return False
    html = page.read_text(encoding="utf-8")
    try:
        seconds = record(paragraphs(html), site / RECORDING)
    except InputError:  # no espeak-ng, no player
        return False
    minutes = f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
    player = (
        f'<figure class="read-aloud"><figcaption>Read aloud by espeak-ng, {minutes} minutes; the text below is the '
        f'transcript.</figcaption><audio controls preload="none" src="../{RECORDING.as_posix()}" '
        'aria-label="The paper in one page, read aloud"></audio></figure>'
    )
    page.write_text(html.replace(PLACE, player), encoding="utf-8")
    return True


def paragraphs(html: str) -> list[str]:
    """What is to be said of a page: its headings and paragraphs, in ASCII, those that only refer elsewhere left out."""
    from bs4 import BeautifulSoup

    article = BeautifulSoup(html, "html.parser").find("article")
    found = article.find_all(["h1", "h2", "p"]) if article else []
    texts = []
    for element in found:
        for anchor in element.select("a.headerlink"):
            anchor.decompose()
        text = spoken(element.get_text())
        if text and not text.startswith("Tested:"):
            texts.append(text)
    return texts


def spoken(text: str) -> str:
    """Text as espeak-ng takes it: ASCII, on one line."""
    for sign, word in SPOKEN.items():
        text = text.replace(sign, word)
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"\s+", " ", ascii_text).strip()


def record(texts: list[str], path: Path) -> float:
    """Say paragraphs one after the other into an Ogg Vorbis file; returns its seconds.

    Raises InputError where espeak-ng or soundfile is not installed.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise InputError("soundfile is not installed, so nothing can be recorded: pip install soundfile.") from error
    espeak = Espeak()
    path.parent.mkdir(parents=True, exist_ok=True)
    silence = np.zeros(round(PAUSE * espeak.rate), np.float32)
    frames = 0
    with soundfile.SoundFile(path, "w", espeak.rate, 1, format="OGG", subtype="VORBIS") as file:
        for text in texts:
            for part in (espeak.say(text, VOICE).waveform, silence):
                file.write(part)
                frames += len(part)
    return frames / espeak.rate
