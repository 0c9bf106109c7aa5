"""Log-mel coefficients against torchaudio, a slow reference, and signals whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdrepro.speech import features
from kdrepro.speech.corpus import RATE
from kdrepro.speech.features import COEFFICIENTS, FFT, STEP, WINDOW_SAMPLES, log_mel


def reference(waveform: np.ndarray) -> np.ndarray:
    """One frame at a time, one filter at a time, in double precision."""
    emphasised = [float(waveform[0])] + [waveform[t] - 0.97 * waveform[t - 1] for t in range(1, len(waveform))]
    edges = features.hertz(np.linspace(features.mel(60.0), features.mel(7600.0), COEFFICIENTS + 2))
    rows = []
    for i in range(len(waveform) // STEP):
        first = i * STEP + STEP // 2 - WINDOW_SAMPLES // 2
        samples = np.array(
            [emphasised[t] if 0 <= t < len(emphasised) else 0.0 for t in range(first, first + WINDOW_SAMPLES)]
        )
        hamming = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / (WINDOW_SAMPLES - 1))
        angles = np.outer(np.arange(FFT // 2 + 1), np.arange(WINDOW_SAMPLES)) * 2 * np.pi / FFT
        power = (np.cos(angles) @ (samples * hamming)) ** 2 + (np.sin(angles) @ (samples * hamming)) ** 2
        row = []
        for low, peak, high in zip(edges, edges[1:], edges[2:], strict=False):
            frequencies = np.arange(FFT // 2 + 1) * RATE / FFT
            weights = np.interp(frequencies, [low, peak, high], [0, 1, 0])
            row.append(np.log(power @ weights + 1e-10))
        rows.append(row)
    return np.array(rows)


def test_equals_the_reference():
    waveform = np.random.default_rng(0).normal(0, 0.1, 2000).astype(np.float32)
    found = log_mel(waveform)
    assert found.dtype == np.float32
    assert found.shape == (12, COEFFICIENTS)
    np.testing.assert_allclose(found, reference(waveform), atol=2e-3)


def test_filters_are_torchaudios():
    functional = pytest.importorskip("torchaudio.functional")
    theirs = functional.melscale_fbanks(FFT // 2 + 1, 60.0, 7600.0, COEFFICIENTS, RATE, norm=None, mel_scale="htk")
    np.testing.assert_allclose(features.mel_filters(), theirs.numpy(), atol=1e-4)


def test_spectrogram_is_torchaudios():
    transforms = pytest.importorskip("torchaudio.transforms")
    waveform = np.random.default_rng(1).normal(0, 0.1, 8000).astype(np.float32)
    made = transforms.MelSpectrogram(
        RATE, FFT, WINDOW_SAMPLES, STEP, 60.0, 7600.0, n_mels=COEFFICIENTS, mel_scale="htk", center=False, power=2.0,
        window_fn=lambda n: torch.hamming_window(n, periodic=False),
    )  # fmt: skip
    emphasised = np.append(waveform[:1], waveform[1:] - np.float32(0.97) * waveform[:-1])
    # torch centres a window of 400 in its 512 samples; ours begins 120 samples before the frame's.
    padded = np.pad(emphasised, (120 + 56, 400))
    theirs = (made(torch.from_numpy(padded)).T + 1e-10).log()[:50]
    np.testing.assert_allclose(log_mel(waveform), theirs.numpy(), atol=2e-3)


@given(st.integers(STEP, 5000))
def test_frame_count(samples):
    assert len(log_mel(np.zeros(samples, np.float32))) == features.frame_count(samples) == samples // 160


@given(st.integers(1, 38))
def test_a_tone_excites_its_filter(k):
    centre = features.hertz(np.linspace(features.mel(60.0), features.mel(7600.0), COEFFICIENTS + 2))[k + 1]
    tone = np.sin(2 * np.pi * centre * np.arange(RATE // 4) / RATE).astype(np.float32)
    found = log_mel(tone)[2:-2].mean(0)
    assert abs(int(found.argmax()) - k) <= (1 if k < 8 else 0)  # the lowest filters are narrower than an FFT's line
    assert found[k] - np.median(found) > 6


@given(st.integers(200, 7800))
def test_an_impulse_is_in_the_frame_of_its_sample(sample):
    waveform = np.zeros(8000, np.float32)
    waveform[sample] = 1
    energy = np.exp(log_mel(waveform)).sum(1)
    frame, within = divmod(sample, STEP)
    # Pre-emphasis makes two samples of it: those at a frame's edge are half in the next.
    assert energy.argmax() in (
        {frame, frame + 1} if within >= STEP - 2 else {frame - 1, frame} if within < 1 else {frame}
    )


def test_louder_is_a_constant_more():
    waveform = np.random.default_rng(2).normal(0, 0.1, 1600).astype(np.float32)
    np.testing.assert_allclose(log_mel(4 * waveform) - log_mel(waveform), np.log(16), atol=1e-3)


def test_silence_is_the_floor():
    assert log_mel(np.zeros(1600, np.float32)) == pytest.approx(np.log(1e-10), rel=1e-6)


@given(st.floats(0, 8000))
def test_mel_there_and_back(frequency):
    assert features.hertz(features.mel(frequency)) == pytest.approx(frequency, abs=1e-6)
    assert features.mel(1000) == pytest.approx(1000, abs=0.1)
