"""Forced alignment: times of synthetic speech, of TIMIT where it is here, and a folder that `speech_folder` reads."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kdrepro.errors import InputError, NotInstalledError
from kdrepro.speech import espeak
from kdrepro.speech.align import align, align_folder, words_of
from kdrepro.speech.audio import _resample, read_audio
from kdrepro.speech.corpus import RATE
from kdrepro.speech.folder import speech_folder

TEXT = "She had your dark suit in greasy wash water all year."

pocketsphinx = pytest.importorskip("pocketsphinx", reason="forced alignment needs the extra align")


@pytest.fixture(scope="module")
def spoken():
    """Waveform at 16 kHz, with the first samples of its words."""
    speaker = espeak.Espeak()
    said = speaker.say(TEXT, espeak.Voice("en-us", "m3", rate=140))
    return _resample(said.waveform, speaker.rate), [(word, at * RATE // speaker.rate) for word, at in said.words]


def whole(found, samples):
    phones = found.phones
    assert (phones[0].start, phones[-1].end) == (0, samples)
    assert all(one.end == following.start for one, following in pairwise(phones))
    assert all(one.start < one.end for one in phones)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('She\'d said: "it’s half-past!"', ["she'd", "said", "it's", "half", "past"]),
        ("'Quoted' 22 Café ...", ["quoted", "caf"]),
        ("", []),
    ],
)
def test_words_of_a_transcript(text, words):
    assert words_of(text) == words


def test_words_of_synthetic_speech_start_where_they_do(spoken):
    waveform, expected = spoken
    found = align(waveform, words_of(TEXT))
    whole(found, len(waveform))
    assert [word.label for word in found.words] == words_of(TEXT)
    apart = np.array([one.start - at for one, (_, at) in zip(found.words, expected, strict=True)]) / RATE
    assert np.median(np.abs(apart)) < 0.05
    assert {"sh", "dh", "ah", "sil"} & {phone.label for phone in found.phones}


def test_what_cannot_be_aligned_is_said(spoken):
    with pytest.raises(InputError, match="no words to align"):
        align(spoken[0], [])
    with pytest.raises(InputError, match="'xqzt': write it as it is said"):
        align(spoken[0], ["xqzt", "year"])
    with pytest.raises(InputError, match="None of 4 passes could align"):
        align(np.zeros(RATE // 20, np.float32), words_of(TEXT))


def test_without_the_library_one_sentence_says_so(monkeypatch, spoken, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    with pytest.raises(NotInstalledError, match=r"kdrepro\[align\]"):
        align(spoken[0], ["year"])
    (tmp_path / "anna").mkdir()
    with pytest.raises(NotInstalledError):  # once, and not of each recording
        align_folder(tmp_path)


def test_a_folder_is_aligned_and_read_and_gone_on_with(spoken, tmp_path):
    for speaker in ("anna", "bob", "carla"):
        (tmp_path / speaker).mkdir()
        soundfile.write(tmp_path / speaker / "one.wav", spoken[0], RATE)
        (tmp_path / speaker / "one.lab").write_text(TEXT)
    soundfile.write(tmp_path / "bob" / "two.wav", np.zeros(RATE // 20, np.float32), RATE)
    (tmp_path / "bob" / "two.lab").write_text(TEXT)
    seen = []
    failed = align_folder(tmp_path, progress=lambda recording, found: seen.append(recording))
    assert [one.recording for one in failed] == [tmp_path / "bob" / "two.wav"]
    assert len(seen) == 4
    (tmp_path / "bob" / "two.wav").unlink()
    corpus = speech_folder(tmp_path, validation_speakers=["bob"], test_speakers=["carla"])
    (one,) = corpus.utterances("anna")
    found = align(read_audio(tmp_path / "anna" / "one.wav"), words_of(TEXT))
    assert one.phones == found.phones
    assert one.words == found.words
    assert align_folder(tmp_path, progress=lambda recording, found: seen.append(recording)) == []
    assert len(seen) == 4  # nothing was done twice


def test_transcripts_by_name_and_none_at_all(spoken, tmp_path):
    (tmp_path / "anna").mkdir()
    soundfile.write(tmp_path / "anna" / "one.wav", spoken[0], RATE)
    with pytest.raises(InputError, match=r"No recording in .* has a transcript"):
        align_folder(tmp_path)
    assert align_folder(tmp_path, {"anna/one": TEXT}) == []
    assert (tmp_path / "anna" / "one.words.csv").read_text().splitlines()[0] == "start,end,label"
    with pytest.raises(InputError, match="There is no folder"):
        align_folder(tmp_path / "nowhere")


@pytest.mark.slow
def test_words_of_timit_start_where_hands_put_them():
    root = Path(os.environ.get("KDREPRO_DATA", "")) / "timit"
    recordings = sorted(root.glob("dr*/*.wav"))[::8] if os.environ.get("KDREPRO_DATA") else []
    if not recordings:
        pytest.skip("TIMIT's sample is not here: set KDREPRO_DATA to the folder that holds timit/")
    apart, lost = [], 0
    for recording in recordings:
        hand = [line.split() for line in recording.with_suffix(".wrd").read_text().splitlines()]
        text = " ".join(recording.with_suffix(".txt").read_text().split()[2:])
        waveform = read_audio(recording)
        try:
            found = align(waveform, words_of(text))
        except InputError:
            lost += 1
            continue
        whole(found, len(waveform))
        if len(hand) == len(found.words):
            apart += [(one.start - int(start)) / RATE for one, (start, *_) in zip(found.words, hand, strict=True)]
    assert lost <= len(recordings) / 10
    assert np.median(np.abs(apart)) < 0.02
    assert np.mean(np.abs(apart) < 0.05) > 0.8
