"""Log-mel filterbank coefficients, the paper's input: 40 a frame, a frame every 10 ms (Section 4)."""

from functools import lru_cache

import numpy as np
import scipy.fft

from kdrepro.speech.corpus import RATE

COEFFICIENTS = 40
STEP = 160  # samples: 10 ms
WINDOW_SAMPLES = 400  # samples: 25 ms
FFT = 512
LOWEST, HIGHEST = 60.0, 7600.0  # Hz
FLOOR = 1e-10  # of a filter's energy; about -100 dB


def frame_count(samples: int) -> int:
    """Frames of a waveform; frame i is centred on the middle of samples [i * STEP, (i + 1) * STEP)."""
    return samples // STEP


def log_mel(waveform: np.ndarray) -> np.ndarray:
    """Natural log of the mel filters' energies, float32 [frame_count(samples), COEFFICIENTS].

    waveform: [samples] at 16 kHz. 25 ms Hamming windows, pre-emphasis of 0.97, filters evenly spaced in mel between
    60 and 7,600 Hz. Empty for less than a frame.
    """
    frames = frame_count(len(waveform))
    if frames == 0:
        return np.zeros((0, COEFFICIENTS), np.float32)
    margin = (WINDOW_SAMPLES - STEP) // 2
    emphasised = np.append(waveform[:1], waveform[1:] - 0.97 * waveform[:-1]).astype(np.float32)
    padded = np.pad(emphasised, (margin, margin))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::STEP][:frames]
    power = np.abs(scipy.fft.rfft(windows * _hamming(), FFT, axis=1)) ** 2
    return np.log(power.astype(np.float32) @ mel_filters() + FLOOR)


@lru_cache(1)
def _hamming() -> np.ndarray:
    return np.hamming(WINDOW_SAMPLES).astype(np.float32)


@lru_cache(1)
def mel_filters() -> np.ndarray:
    """Triangular filters, float32 [FFT // 2 + 1, COEFFICIENTS], each with a peak of 1."""
    edges = hertz(np.linspace(mel(LOWEST), mel(HIGHEST), COEFFICIENTS + 2))
    frequencies = np.arange(FFT // 2 + 1)[:, None] * RATE / FFT
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def mel(frequency: np.ndarray | float) -> np.ndarray:
    """Hertz to mel (O'Shaughnessy's formula)."""
    return 2595 * np.log10(1 + np.asarray(frequency) / 700)


def hertz(mels: np.ndarray | float) -> np.ndarray:
    """Mel to hertz."""
    return 700 * (10 ** (np.asarray(mels) / 2595) - 1)
