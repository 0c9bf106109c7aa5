"""Recordings and labels that tests write, and what every fault of them must be told with."""

import struct
from pathlib import Path

import numpy as np
import pytest

from kdrepro.errors import InputError
from kdrepro.speech.corpus import RATE

TONE = np.round(8000 * np.sin(np.arange(4000) * 2 * np.pi * 440 / RATE)).astype("<i2")
LINES = "0 1000 h#\n1000 1800 sh\n1800 2600 iy\n2600 4000 h#\n"
SAMPLE = [f"dr{region}-{sex}ab{region}0" for region in range(1, 9) for sex in "fm"]


def sphere(samples=TONE, count=None, coding="pcm") -> bytes:
    """A NIST SPHERE file, as the LDC's: a header of 1024 bytes and 16-bit samples."""
    count = len(samples) if count is None else count
    fields = (
        "database_id -s5 TIMIT\nchannel_count -i 1\n"
        f"sample_count -i {count}\nsample_rate -i 16000\nsample_n_bytes -i 2\nsample_byte_format -s2 01\n"
        f"sample_sig_bits -i 16\nsample_coding -s{len(coding)} {coding}\nend_head\n"
    )
    return ("NIST_1A\n   1024\n" + fields).encode().ljust(1024) + samples.tobytes()


def riff(samples=TONE, rate=RATE) -> bytes:
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    data = struct.pack("<4sI", b"data", 2 * len(samples)) + samples.tobytes()
    return struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data


def sentence(folder: Path, name: str, lines=LINES, audio=None, words="1000 2600 She\n", case=str.lower):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / case(f"{name}.wav")).write_bytes(riff() if audio is None else audio)
    (folder / case(f"{name}.phn")).write_text(lines)
    if words:
        (folder / case(f"{name}.wrd")).write_text(words)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def long_textgrid(**tiers) -> str:
    """A TextGrid of interval tiers of (start, end, label) in seconds, as Praat writes text files."""
    end = max(rows[-1][1] for rows in tiers.values())
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", f"xmax = {end} "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for i, (name, rows) in enumerate(tiers.items(), 1):
        lines += [f"    item [{i}]:", '        class = "IntervalTier" ', f"        name = {quoted(name)} "]
        lines += ["        xmin = 0 ", f"        xmax = {end} ", f"        intervals: size = {len(rows)} "]
        for j, (start, stop, label) in enumerate(rows, 1):
            lines += [f"        intervals [{j}]:", f"            xmin = {start} ", f"            xmax = {stop} "]
            lines += [f"            text = {quoted(label)} "]
    return "\n".join(lines) + "\n"


def short_textgrid(**tiers) -> str:
    """The same as Praat writes short text files."""
    end = max(rows[-1][1] for rows in tiers.values())
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", f"{end}", "<exists>", f"{len(tiers)}"]
    for name, rows in tiers.items():
        lines += ['"IntervalTier"', quoted(name), "0", f"{end}", f"{len(rows)}"]
        lines += [f"{part}" for start, stop, label in rows for part in (start, stop, quoted(label))]
    return "\n".join(lines)


def wrong(said, function, *arguments, **named):
    """The call must raise one sentence that holds this."""
    with pytest.raises(InputError, match=said) as caught:
        function(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text
