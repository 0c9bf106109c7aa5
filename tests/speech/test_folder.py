"""A folder of one's own: recordings with times in samples or seconds, and a sentence for each fault."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import TONE, riff, wrong

from kdrepro.speech.corpus import RATE, Segment
from kdrepro.speech.folder import speech_folder

SECONDS = "start,end,label\n0,0.05,sil\n0.05,0.1,a\n0.1,0.25,sil\n"


@pytest.fixture
def own(tmp_path) -> Path:
    for speaker in ("anna", "bob", "carla", "dan"):
        (tmp_path / speaker).mkdir()
        soundfile.write(tmp_path / speaker / "one.flac", TONE, RATE)
        (tmp_path / speaker / "one.csv").write_text(SECONDS)
    return tmp_path


def mine(root, **named):
    return speech_folder(root, **{"validation_speakers": ["carla"], "test_speakers": ["dan"], **named})


def test_a_folder_of_speakers(own):
    (own / "notes").mkdir()  # no recordings: no speaker
    corpus = mine(own)
    assert corpus.speakers() == {"train": ("anna", "bob"), "validation": ("carla",), "test": ("dan",)}
    assert (corpus.phones, corpus.silences) == (("a", "sil"), ("sil",))
    assert corpus.scored_as == {"a": "a", "sil": "sil"}
    (one,) = corpus.utterances("anna")
    assert one.name == "anna/one"
    assert one.phones == (Segment("sil", 0, 800), Segment("a", 800, 1600), Segment("sil", 1600, 4000))
    assert len(one.waveform) == 4000
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy == corpus
    assert copy.fingerprint() == corpus.fingerprint()


def test_words_in_seconds_and_in_samples(own):
    (own / "anna" / "one.words.csv").write_text('start,end,label\n0.05,0.1,"A, b"\n')
    assert mine(own).utterances("anna")[0].words == (Segment("a, b", 800, 1600),)
    (own / "bob" / "one.wrd").write_text("800 1600 A\n")
    assert mine(own).utterances("bob")[0].words == (Segment("a", 800, 1600),)


def test_samples_of_another_rate_are_converted(own):
    (own / "anna" / "one.flac").unlink()
    (own / "anna" / "one.csv").unlink()
    soundfile.write(own / "anna" / "one.wav", np.zeros(11025), 44100)
    (own / "anna" / "one.phn").write_text("0 2205 sil\n2205 4409 a\n4409 11025 sil\n")
    (own / "anna" / "one.wrd").write_text("2205 4409 a\n")
    (one,) = mine(own).utterances("anna")
    assert one.phones == (Segment("sil", 0, 800), Segment("a", 800, 1600), Segment("sil", 1600, 4000))
    assert one.words == (Segment("a", 800, 1600),)


def test_seconds_that_round_apart_snap_together(own):
    rows = "start, end, label\n0.00006,0.05,sil\n0.05006,0.1,a\n0.09994,0.25006,sil\n"
    (own / "anna" / "one.csv").write_text("\ufeff" + rows, encoding="utf-8")
    (one,) = mine(own).utterances("anna")
    assert [segment.start for segment in one.phones] == [0, 800, 1600]
    assert one.phones[-1].end == 4000


@given(st.lists(st.floats(0.002, 0.1), min_size=1, max_size=20))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_times_that_follow_one_another_in_seconds_do_so_in_samples(own, durations):
    ends = np.cumsum(durations)
    rows = [f"{start:.5f},{end},a" for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    (own / "anna" / "two.csv").write_text("\n".join(["start,end,label", *rows]))
    (own / "anna" / "two.wav").write_bytes(riff(np.zeros(round(ends[-1] * RATE), "<i2")))
    phones = mine(own).utterances("anna")[1].phones
    assert [phone.end for phone in phones] == [round(end * RATE) for end in ends]
    assert [phone.start for phone in phones[1:]] == [phone.end for phone in phones[:-1]]


def test_the_fingerprint_of_a_folder(own):
    seen = {mine(own).fingerprint(), mine(own, test_speakers=["bob"]).fingerprint()}
    seen.add(mine(own, phones=["sil", "a", "b"]).fingerprint())
    (own / "anna" / "one.csv").write_text(SECONDS.replace("0.1", "0.12"))
    seen.add(mine(own).fingerprint())
    soundfile.write(own / "anna" / "one.flac", -TONE, RATE)
    seen.add(mine(own).fingerprint())
    assert len(seen) == 5


def test_speakers_must_be_given(own):
    text = wrong("Give `validation_speakers`", speech_folder, own, test_speakers=["dan"])
    assert "anna, bob, carla, dan" in text
    wrong("Give `test_speakers`", speech_folder, own, validation_speakers=["carla"])
    wrong("'dann', who is not in .*did you mean 'dan'", mine, own, test_speakers=["dann"])
    wrong("'Carla', who is not in .*did you mean 'carla'", mine, own, validation_speakers="Carla")
    wrong("'dan' is in `validation_speakers` and in", mine, own, validation_speakers=["dan"])
    wrong("left to train on", mine, own, test_speakers=["anna", "bob", "dan"])
    wrong("has no speaker 'ana'.*did you mean 'anna'", mine(own).utterances, "ana")


def test_folders_that_are_none(own, tmp_path_factory):
    wrong("There is no folder", mine, own / "absent")
    wrong("holds no recordings", mine, tmp_path_factory.mktemp("empty"))


def test_silences_must_be_phones(own):
    wrong("silence 'SIL' is not a phone of .*did you mean 'sil'", mine, own, silences="SIL")
    wrong("silence 'pau' is not a phone", mine, own, phones=["a", "sil"], silences=["sil", "pau"])
    assert mine(own, silences=()).silences == ()


def test_missing_and_doubled_files(own):
    soundfile.write(own / "anna" / "two.wav", TONE, RATE)
    wrong("two.wav has no phone times beside it: add two.phn or two.csv", mine, own)
    (own / "anna" / "two.csv").write_text(SECONDS)
    (own / "anna" / "two.phn").write_text("0 4000 a\n")
    wrong("two.phn and two.csv are both there", mine, own)
    (own / "anna" / "two.phn").unlink()
    soundfile.write(own / "anna" / "two.flac", TONE, RATE)
    wrong("two.wav and two.flac are both there", mine, own)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("", "starts with ''"),
        ("0,0.25,a\n", "starts with '0,0.25,a': its first line must be `start,end,label`"),
        ("start,end,label\n", "has no phones"),
        ("start,end,label\n0,x,a\n", "line 2: '0,x,a' is not `start,end,label`"),
        ("start,end,label\n0,0.25\n", "line 2: '0,0.25' is not"),
        ("start,end,label\n0,0.25,a,b\n", "line 2: .* is not"),
        ("start,end,label\n0,0.25,\n", "line 2: .* is not"),
        ("start,end,label\n0,nan,a\n", "line 2: .* is not"),
        ("start,end,label\n0,inf,a\n", "line 2: .* is not"),
        (SECONDS.replace("0.05,0.1", "0.06,0.1"), "one.csv after its header, line 2: .*a gap"),
        (SECONDS.replace("0.05,0.1", "0.04,0.1"), "line 2: .*an overlap"),
        (SECONDS.replace("0.05,0.1", "0.05,0.01"), "line 2: .*not after its start"),
        (SECONDS.replace("0.25", "0.2601"), "line 3: .*past the end of the recording"),
        (SECONDS.replace(",a", ",e"), "line 2: 'e' is not a phone"),
    ],
)
def test_wrong_times_in_seconds(own, rows, said):
    (own / "anna" / "one.csv").write_text(rows)
    corpus = mine(own, phones=["sil", "a"])
    assert "anna" in wrong(said, corpus.utterances, "anna")


def test_wrong_labels_are_found_when_the_phones_are_collected(own):
    (own / "anna" / "one.csv").write_text("start;end;label\n")
    wrong("its first line must be", mine, own)
