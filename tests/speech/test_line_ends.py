"""Recordings that were copied as text are put right."""

import numpy as np
import pytest

from kdrepro.speech.line_ends import CR, LF, restored


def speech_like(seed: int, samples: int = 40_000) -> np.ndarray:
    """A smooth 16-bit waveform, loud enough to use all bytes."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    smooth = np.convolve(noise, np.hanning(24), mode="same")
    return np.round(6000 * smooth / np.abs(smooth).max()).astype("<i2")


def copied_as_text(samples: np.ndarray) -> np.ndarray:
    """What universal newlines make of the samples' bytes: CR LF and CR both become LF."""
    data = samples.tobytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return np.frombuffer(data[: len(data) // 2 * 2], "<i2")


def waveform(samples: np.ndarray) -> np.ndarray:
    return (samples / 32768).astype(np.float32)


@pytest.mark.parametrize("losses", [1, 2, 5])
def test_lost_bytes_are_put_back_where_they_were(losses):
    rng = np.random.default_rng(losses)
    samples = speech_like(losses)
    data = np.frombuffer(samples.tobytes(), np.uint8).copy()
    data[data == CR] += 1  # none but those that are put in now
    at = 2 * rng.choice(np.arange(2000, 38_000, 1000), losses, replace=False) + rng.integers(0, 2, losses)
    for i in at:
        data[i], data[i + 1] = CR, LF
    original = np.frombuffer(data.tobytes(), "<i2")
    damaged = copied_as_text(original)
    assert np.abs(damaged.astype(int) - original[: len(damaged)]).max() > 20_000  # half a sample off is noise
    found = np.rint(restored(waveform(damaged)) * 32768).astype(int)
    same = found[: len(damaged)] == original[: len(damaged)]
    assert same.mean() > 0.995  # a loss is found to within a few bytes


def test_changed_upper_bytes_are_put_right():
    samples = np.round(8000 * np.sin(np.arange(40_000) / 5)).astype("<i2")
    samples[np.isin(samples & 0xFF, (CR, LF))] += 1  # no loss, only changes
    damaged = copied_as_text(samples)
    found = np.rint(restored(waveform(damaged)) * 32768).astype(int)
    far = [int((np.abs(one - samples.astype(int)) > 700).sum()) for one in (damaged, found)]
    assert far[0] > 300
    assert far[1] < far[0] / 10


def test_a_sound_recording_is_left_alone():
    samples = speech_like(0)
    assert (np.frombuffer(samples.tobytes(), np.uint8) == CR).any()
    sound = waveform(samples)
    assert restored(sound) is sound
    short = waveform(np.full(100, 7, "<i2"))
    assert restored(short) is short  # too short to tell
