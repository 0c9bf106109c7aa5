"""Recordings in the formats that libsndfile reads, and NIST SPHERE files, as one channel at 16 kHz."""

import math
import os
import re
import struct
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np

from kdrepro.errors import InputError
from kdrepro.speech.corpus import RATE

# What files that libsndfile reads are called; what is in one of them is told by its content.
ENDINGS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"),
    *(".w64", ".rf64", ".wave", ".sph", ".nist"),
)
STREAMED = 0x7FFF_0000  # a wav's data size from here on is a program's word for "unknown"
RATES = (4_000, 400_000)  # the least and the greatest that a recording may have
UNKNOWN = 1 << 31  # samples, 37 hours: more than this is libsndfile's word for "unknown", or a damaged header


def read_audio(path: Path | str) -> np.ndarray:
    """Read a recording (see `ENDINGS`) as float32 [samples] in [-1, 1] at `RATE`, its channels averaged.

    A recording at another rate is resampled. Raises InputError when the file is absent, empty, cut short (less than
    its header promises), compressed with shorten, or nothing that libsndfile can read.
    """
    return read_recording(path)[0]


def read_recording(path: Path | str) -> tuple[np.ndarray, int]:
    """What `read_audio` returns, and the file's own rate in samples per second: times may be counted in it."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there: check the name, or copy the recording again.")
    promised = _promised(path)
    samples, rate = _decode(path)
    if promised is not None:
        samples = samples[:promised]  # libsndfile goes by the file's length alone
    if not len(samples):
        raise InputError(f"{path} holds no samples: delete it, or record it again.")
    waveform = samples.mean(axis=1)
    if not np.isfinite(waveform).all():
        raise InputError(f"{path} holds samples that are not finite numbers: write it again, as 16-bit samples.")
    # Resampling, and files of floats, can overshoot.
    return np.clip(_resample(waveform, rate), -1, 1).astype(np.float32), rate


def at_rate(sample: int, rate: int) -> int:
    """The sample at `RATE` nearest to a sample counted at another rate."""
    return sample if rate == RATE else round(sample * RATE / rate)


def _decode(path: Path) -> tuple[np.ndarray, int]:
    """Float32 [samples, channels] as they are in the file, and its rate."""
    soundfile = _soundfile()
    try:
        # As bytes, for soundfile cannot encode a name that is not UTF-8.
        with soundfile.SoundFile(path if os.name == "nt" else os.fsencode(path)) as file:
            stated, rate = file.frames, file.samplerate
            if file.format == "MP3":
                _check_mp3(path)
            elif file.format == "OGG":
                _check_ogg(path)
            elif file.format in ("AIFF", "AU", "RF64", "W64"):
                _check_log(path, file.extra_info)
            samples = file.read(dtype="float32", always_2d=True) if stated < UNKNOWN else None
    except MemoryError:  # a damaged header that states more than there can be
        samples = None
    except soundfile.LibsndfileError as error:
        said = error.error_string.strip().rstrip(".") or "an unknown fault"
        raise InputError(
            f"{path} cannot be read as audio (libsndfile: {said}): it is damaged, cut short or of another format; "
            "copy it again, or convert it to wav or flac."
        ) from error
    if samples is None:
        raise InputError(f"{path} does not say how long it is: convert it to a whole wav or flac.")
    if not RATES[0] <= rate <= RATES[1]:
        raise InputError(f"{path} states {rate:,} samples per second, which is no rate of speech: write it again.")
    if len(samples) < stated:
        raise _cut_short(path, f"{stated:,} samples", f"{len(samples):,}")
    return samples, rate


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: soundfile without its libsndfile
        raise InputError(
            "Reading recordings needs the package soundfile: run `pip install 'kdrepro[speech]'`."
        ) from error
    return soundfile


def _resample(waveform: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return waveform
    from scipy.signal import resample_poly  # slow to import, and rarely needed

    divisor = math.gcd(RATE, rate)
    return resample_poly(waveform, RATE // divisor, rate // divisor)


def _promised(path: Path) -> int | None:
    """How many samples a SPHERE header states, else None. Raises InputError when a file holds less than it states.

    libsndfile shortens such wav and SPHERE files without a word.
    """
    size = path.stat().st_size
    if not size:
        raise InputError(f"{path} is empty (0 bytes): copy the recording again.")
    with path.open("rb") as file:
        magic = file.read(12)
        if magic.startswith(b"NIST_1A"):
            return _check_sphere(path, file, size)
        if magic.startswith(b"RIFF") and magic.endswith(b"WAVE"):
            _check_wav(path, file, size)
    return None


def _check_sphere(path: Path, file: BinaryIO, size: int) -> int:
    file.seek(0)
    try:
        length = int(file.read(16).split()[1])
        file.seek(0)
        lines = file.read(min(length, size)).decode("latin-1").partition("end_head")[0].splitlines()[2:]
        fields = {name: value for name, _, value in (line.split(None, 2) for line in lines if line.strip())}
        count, channels = int(fields["sample_count"]), int(fields.get("channel_count", 1))
        width = int(fields.get("sample_n_bytes", 2))
        if count < 0 or channels < 1 or width < 1:
            raise ValueError
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{path} has a NIST SPHERE header that cannot be read (no valid sample_count, channel_count or "
            "sample_n_bytes): it is damaged or cut short; copy it again."
        ) from error
    if "shorten" in fields.get("sample_coding", ""):
        raise InputError(
            f"{path} is a SPHERE file compressed with shorten, which libsndfile cannot read: "
            "expand it with `sph2pipe -f wav`, or with `w_decode -o pcm` of NIST's tools."
        )
    held = (size - length) // (channels * width)
    if held < count:
        raise _cut_short(path, f"{count:,} samples", f"{max(held, 0):,}")
    return count


def _check_wav(path: Path, file: BinaryIO, size: int) -> None:
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", header)
        if name == b"data":
            held = size - file.tell()
            if held < length < STREAMED:
                raise _cut_short(path, f"{length:,} bytes of samples", f"{held:,}")
            return
        file.seek(length + length % 2, 1)


def _check_mp3(path: Path) -> None:
    """libsndfile guesses the length of an MP3 that does not state it, and reads no more than it has guessed."""
    with path.open("rb") as file:
        tag = file.read(10)
        before = sum(byte << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True)) + 10
        file.seek(before if tag.startswith(b"ID3") else 0)
        head = file.read(400)
    if not any(word in head for word in (b"Xing", b"Info", b"VBRI")):
        raise InputError(f"{path} does not say how long it is: convert it to wav or flac.")


def _check_ogg(path: Path) -> None:
    """libsndfile reads an Ogg file without an end as far as it goes, and of several streams the first."""
    flags = [page[1][0] for page in re.finditer(rb"OggS\0(.)", path.read_bytes(), re.DOTALL)]
    first, last = 2, 4  # of a stream's pages, in the pages' flags
    if not flags or not flags[-1] & last:
        raise InputError(f"{path} was cut short: its stream has no end; copy it again, or convert it to wav or flac.")
    if any(flag & first for flag in flags[1:]):
        raise InputError(f"{path} holds several streams one after the other: convert it to one wav or flac.")


def _check_log(path: Path, log: str) -> None:
    """Refuse a file that libsndfile notes to be cut short, and reads as far as it goes without a word."""
    for stated, held in re.findall(r": (\d+) \(should be (\d+)\)", log):
        if int(held) + 1 < int(stated) < STREAMED:
            raise _cut_short(path, f"{int(stated):,} bytes", f"{int(held):,}")


def _cut_short(path: Path, promised: str, held: str) -> InputError:
    return InputError(f"{path} was cut short: its header promises {promised} and it holds {held}; copy it again.")
