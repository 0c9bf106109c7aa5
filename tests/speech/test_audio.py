"""Recordings in three formats and any rate, and a sentence for each fault."""

import contextlib
import os
import sys

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import TONE, riff, sphere, wrong

from kdrepro.errors import InputError
from kdrepro.speech.audio import read_audio
from kdrepro.speech.corpus import RATE


@pytest.mark.parametrize("ending", ["wav", "flac", "sph"])
def test_the_three_formats_read_alike(tmp_path, ending):
    path = tmp_path / f"tone.{ending}"
    if ending == "sph":
        path.write_bytes(sphere())
    else:
        soundfile.write(path, TONE, RATE)
    read = read_audio(path)
    assert read.dtype == np.float32
    assert np.array_equal(read, TONE.astype(np.float32) / 32768)
    assert np.array_equal(read, read_audio(str(path)))


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_another_rate_keeps_the_pitch_and_the_length(tmp_path, rate):
    time = np.arange(rate // 4) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), rate)
    read = read_audio(tmp_path / "a.wav")
    assert abs(len(read) - RATE / 4) <= 1
    middle = slice(1000, 3000)
    due = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(read)) / RATE)
    assert np.abs(read - due)[middle].max() < 0.01
    assert read.dtype == np.float32


def test_channels_are_averaged(tmp_path):
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE)
    assert read_audio(tmp_path / "a.wav") == pytest.approx(0.125, abs=1e-4)


def test_samples_stay_within_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 3.0, -3.0]), RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav").tolist() == [0.5, 1, -1]


def test_a_sphere_file_ends_where_its_header_says(tmp_path):
    (tmp_path / "a.wav").write_bytes(sphere(count=3000))
    assert len(read_audio(tmp_path / "a.wav")) == 3000


def test_streams_of_unknown_length_are_read_whole_or_refused(tmp_path):
    content = riff()
    (tmp_path / "a.wav").write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])
    assert len(read_audio(tmp_path / "a.wav")) == len(TONE)
    soundfile.write(tmp_path / "a.flac", TONE, RATE)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36 bits of the number of samples
    content[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(content)
    wrong("does not say how long it is", read_audio, tmp_path / "a.flac")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "cannot be read as audio"),
        (riff()[:3000], "was cut short: its header promises 8,000 bytes of samples and it holds 2,956"),
        (riff()[:30], "cannot be read as audio"),
        (riff(TONE[:0]), "holds no samples"),
        (sphere()[:3024], "was cut short: its header promises 4,000 samples and it holds 1,000"),
        (sphere()[:1024], "was cut short"),
        (sphere()[:60], "header that cannot be read"),
        (sphere()[:300], "was cut short"),
        (sphere(TONE[:0]), "holds no samples|cannot be read"),
        (sphere(coding="pcm,embedded-shorten-v2.00"), "compressed with shorten.*sph2pipe"),
        (b"NIST_1A\n    what", "header that cannot be read"),
        (sphere(count=-1), "header that cannot be read"),
        (sphere().replace(b"channel_count -i 1", b"channel_count -i 0"), "header that cannot be read"),
        (riff(rate=1), "states 1 samples per second"),
        (riff(rate=999_999_937), "states 999,999,937 samples per second"),
    ],
)
def test_bad_recordings_are_named(tmp_path, content, said):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert str(path) in wrong(said, read_audio, path)


def test_a_flac_cut_short_and_no_file(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).normal(0, 0.1, 50_000), RATE)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[:-2000])
    wrong("a.flac (cannot be read as audio|was cut short)", read_audio, tmp_path / "a.flac")
    wrong("b.flac is not there", read_audio, tmp_path / "b.flac")


def test_samples_that_are_no_numbers(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([0.5, np.nan]), RATE, subtype="FLOAT")
    wrong("not finite", read_audio, tmp_path / "a.wav")


def test_without_soundfile_the_message_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.wav").write_bytes(riff())
    monkeypatch.setitem(sys.modules, "soundfile", None)
    wrong(r"pip install 'kdrepro\[speech\]'", read_audio, tmp_path / "a.wav")


@given(
    st.binary(max_size=80)
    | st.binary(max_size=80).map(lambda tail: sphere()[:60] + tail)
    | st.binary(max_size=80).map(lambda tail: riff()[:36] + tail)
)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_crash_the_reader(tmp_path, content):
    (tmp_path / "f.wav").write_bytes(content)
    with contextlib.suppress(InputError):
        read_audio(tmp_path / "f.wav")


@pytest.mark.parametrize("ending", ["aiff", "au", "w64", "rf64", "mp3", "flac", "caf", "ogg"])
def test_every_format_that_is_cut_short_is_refused(tmp_path, ending):
    """libsndfile reads most of these as far as they go, without a word."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 32000), RATE)
    whole = path.read_bytes()
    assert len(read_audio(path)) == 32000
    path.write_bytes(whole[: len(whole) // 2])
    wrong("cut short|cannot be read|holds no samples", read_audio, path)


def test_an_mp3_that_does_not_state_its_length_is_refused(tmp_path):
    """libsndfile guesses its length, from the first frames, and reads no more: of these 24 seconds 4.5."""
    path = tmp_path / "a.mp3"
    noise = np.concatenate([np.random.default_rng(0).normal(0, 0.3, 4 * RATE), np.full(20 * RATE, 1e-6)])
    with soundfile.SoundFile(path, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE") as file:
        file.write(noise)
    content = path.read_bytes()
    tag = b"ID3\x04\0\0" + bytes([0, 0, 10, 0]) + bytes(10 * 128)  # 1,280 bytes before the first frame
    path.write_bytes(tag + content)
    assert len(read_audio(path)) == 24 * RATE
    second = content.index(content[:2], 4)
    for before in (b"", tag):
        path.write_bytes(before + content[second:])
        wrong("a.mp3 does not say how long it is: convert it to wav or flac", read_audio, path)


def test_an_ogg_file_that_is_cut_short_or_holds_several_streams_is_refused(tmp_path):
    """libsndfile reads the first as far as it goes, and of the second the first stream, without a word."""
    path = tmp_path / "a.ogg"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 10 * RATE), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    wrong("a.ogg was cut short: its stream has no end", read_audio, path)
    path.write_bytes(whole + whole)
    wrong("a.ogg holds several streams one after the other", read_audio, path)


def test_a_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(riff())
    assert len(read_audio(path)) == len(TONE)
    path.write_bytes(b"RIFF")
    assert r"caf\xe9.wav cannot be read" in wrong("cannot be read", read_audio, path)
