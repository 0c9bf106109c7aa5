"""espeak-ng through ctypes: text to a waveform with the times of its phones and words.

The library and its voices come with the wheel `espeakng-loader` (GPL-3), an optional dependency that is loaded at run
time only. One synthesiser a process: espeak keeps global state, and what it says depends on what it said before, so
that the same waveform comes only from the same order of calls in a fresh process.
"""

import atexit
import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from kdrepro.errors import InputError

# From espeak-ng's speak_lib.h.
_SYNCHRONOUS = 2
_PHONEME_EVENTS, _DONT_EXIT = 0x0001, 0x8000
_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_LIST_END, _WORD, _PHONEME = 0, 1, 7
_PATH_BYTES = 160  # N_PATH_HOME of its speech.h, with the 0 at the end; a longer path is cut off


class _Name(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Voice(NamedTuple):
    """Who speaks. rate: words a minute (80-450); pitch and pitch_range: 0-99, as espeak-ng counts them."""

    accent: str
    variant: str
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50


class Spoken(NamedTuple):
    """waveform: float32 [samples] at `Espeak.rate`. phones: (label, first sample). words: (text, first sample)."""

    waveform: np.ndarray
    phones: list[tuple[str, int]]
    words: list[tuple[str, int]]


class Espeak:
    """The synthesiser of this process. Raises InputError when the library is not there."""

    def __init__(self):
        loader = _loader()
        self._library = ctypes.CDLL(loader.get_library_path())
        data = os.fsencode(_short(loader.get_data_path()))
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS | _DONT_EXIT)
        if self.rate <= 0:
            raise InputError(
                f"espeak-ng does not start with the data in {os.fsdecode(data)}: reinstall espeakng-loader."
            )
        self._callback = _Callback(self._collect)  # kept, or ctypes would free it under espeak
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: Voice) -> Spoken:
        """Speak ASCII text. Raises InputError for a voice that espeak-ng does not have."""
        if self._library.espeak_SetVoiceByName(f"{voice.accent}+{voice.variant}".encode()):
            raise InputError(f"espeak-ng has no voice {voice.accent}+{voice.variant}: choose another accent.")
        for parameter, value in ((_RATE, voice.rate), (_PITCH, voice.pitch), (_RANGE, voice.pitch_range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces, self._phones, self._words = [], [], []
        raw = text.encode("ascii") + b"\0"
        if self._library.espeak_Synth(raw, ctypes.c_size_t(len(raw)), 0, 1, 0, _UTF8, None, None):
            raise InputError(f"espeak-ng could not say {text!r} as {voice.accent}+{voice.variant}.")
        waveform = np.frombuffer(b"".join(self._pieces), "<i2").astype(np.float32) / 32768
        words = [(text[at : at + length], sample) for at, length, sample in self._words]
        return Spoken(waveform, self._phones, words)

    def _collect(self, samples, count: int, events) -> int:
        if count > 0:
            self._pieces.append(ctypes.string_at(samples, 2 * count))
        i = 0
        while (event := events[i]).type != _LIST_END:
            if event.type == _PHONEME:
                self._phones.append((event.id.string.decode("utf-8", "replace"), event.sample))
            elif event.type == _WORD:
                self._words.append((event.text_position - 1, event.length, event.sample))
            i += 1
        return 0


def check() -> None:
    """Raises InputError, with how to get it, when espeak-ng is not installed."""
    _loader()


def _loader() -> ModuleType:
    try:
        import espeakng_loader
    except (ImportError, OSError):
        raise InputError(
            "espeak-ng is not installed, so no speech can be made: pip install 'kdrepro[speech]' (or espeakng-loader); "
            "the chapters on digits and MNIST, and speech from recordings (TIMIT, a folder), run without it."
        ) from None
    return espeakng_loader


def _short(path: str) -> str:
    """The path, or a link to it where it is longer than espeak-ng can take. Raises InputError when none is shorter."""
    if len(os.fsencode(path)) < _PATH_BYTES:
        return path
    folder = tempfile.mkdtemp(prefix="espeak-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    link = Path(folder) / "espeak-ng-data"
    try:
        link.symlink_to(Path(path).absolute(), target_is_directory=True)
    except OSError as error:
        raise _too_long(path) from error
    if len(os.fsencode(link)) >= _PATH_BYTES:
        raise _too_long(path)
    return str(link)


def _too_long(path: str) -> InputError:
    return InputError(
        f"espeak-ng takes paths of less than {_PATH_BYTES} bytes, and its data is in {path}, and no shorter link to it "
        f"can be made in {tempfile.gettempdir()}: install into a folder with a shorter path, or set TMPDIR to one."
    )
