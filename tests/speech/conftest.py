"""TIMIT in both layouts, as the tests write it."""

from pathlib import Path

import pytest
from recordings import SAMPLE, TONE, sentence, sphere

from kdrepro.speech.timit import CORE_TEST, DEVELOPMENT


@pytest.fixture
def sample(tmp_path) -> Path:
    """A data root whose timit/ has the sample's 16 speakers, each with an SA sentence and one of their own."""
    for number, name in enumerate(SAMPLE):
        sentence(tmp_path / "timit" / name, "sa1")
        sentence(tmp_path / "timit" / name, f"sx{number}")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The LDC's layout in upper case, with SPHERE files."""
    root = tmp_path_factory.mktemp("ldc")
    for part, speakers in (
        ("TRAIN", [f"{'FM'[n % 2]}{n:03d}0" for n in range(462)]),
        ("TEST", [*CORE_TEST, *DEVELOPMENT, "mzzz0"]),
    ):
        for number, speaker in enumerate(speakers):
            folder = root / "TIMIT" / part / f"DR{number % 8 + 1}" / speaker.upper()
            sentence(folder, "sx9", audio=sphere(TONE[:0]), words="", case=str.upper)
    sentence(root / "TIMIT" / "TEST" / "DR1" / "MDAB0", "SI1039", audio=sphere(), case=str.upper)
    sentence(root / "TIMIT" / "TEST" / "DR1" / "MDAB0", "SA1", audio=sphere(), case=str.upper)
    return root
