"""A folder of one's own: recordings with times in samples or seconds, and a sentence for each fault."""

import os
import pickle
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import TONE, long_textgrid, riff, wrong

from kdrepro import paths
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
        (SECONDS.replace("0.25", "0.2751"), "line 3: .*past the end of the recording"),
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


# --- every kind of times, format and place ----------------------------------------------------------

EXPECTED = (Segment("sil", 0, 800), Segment("a", 800, 1600), Segment("sil", 1600, 4000))
TIMES = {
    "one.csv": SECONDS,
    "one.phn": "0 800 sil\n800 1600 a\n1600 4000 sil\n",
    "one.TextGrid": long_textgrid(phones=[(0, 0.05, ""), (0.05, 0.1, "a"), (0.1, 0.25, "")]),
    "one.txt": "0.05\t0.1\ta\r\n0.1\t0.25\t\r\n",
}


@pytest.mark.parametrize("name", TIMES)
def test_every_kind_of_times_gives_the_same_phones(own, name):
    (own / "anna" / "one.csv").unlink()
    (own / "anna" / name).write_text(TIMES[name])
    corpus = mine(own)
    assert corpus.phones == ("a", "sil")
    assert corpus.utterances("anna")[0].phones == EXPECTED


def test_gaps_need_a_label_of_silence(own):
    for speaker in ("anna", "bob", "carla", "dan"):
        (own / speaker / "one.csv").unlink()
        (own / speaker / "one.TextGrid").write_text(TIMES["one.TextGrid"])
    assert mine(own, silences=["h#"]).utterances("bob")[0].phones[0] == Segment("h#", 0, 800)
    wrong("one.TextGrid has no label from 0.000 to 0.050 s: give `silences`", mine, own, silences=())


def test_words_of_a_textgrid_and_of_a_file_of_their_own(own):
    (own / "anna" / "one.csv").unlink()
    words = [(0, 0.05, ""), (0.05, 0.1, "Weg"), (0.1, 0.25, "")]
    rows = [(0, 0.05, ""), (0.05, 0.1, "a"), (0.1, 0.25, "")]
    (own / "anna" / "one.TextGrid").write_text(long_textgrid(words=words, phones=rows))
    assert mine(own).utterances("anna")[0].words == (Segment("weg", 800, 1600),)
    (own / "anna" / "one.words.txt").write_text("0.05\t0.09\tHin\n")
    assert mine(own).utterances("anna")[0].words == (Segment("hin", 800, 1440),)


def test_what_was_said_may_lie_beside_the_times(own):
    (own / "anna" / "one.txt").write_text("0 4000 She had your dark suit.\n")
    with pytest.warns(UserWarning, match=r"Not used: 1 file in .* \(1 .txt; the first is anna/one.txt\)"):
        assert mine(own).utterances("anna")[0].phones == EXPECTED
    (own / "anna" / "one.txt").write_text("0\t0.25\ta\n")
    wrong("one.csv and one.txt are both there", mine, own)


@pytest.mark.parametrize("ending", ["ogg", "opus", "mp3", "aiff", "au", "caf", "w64", "WAV", "Flac"])
def test_every_format_that_libsndfile_reads_is_used(own, ending):
    (own / "anna" / "one.flac").unlink()
    kinds = {"opus": ("OGG", "OPUS"), "ogg": ("OGG", "VORBIS")}
    kind, subtype = kinds.get(ending, (ending.upper(), None))
    tone = np.repeat(TONE, 4)[: 4 * 4000] if ending == "opus" else TONE
    with (own / "anna" / f"one.{ending}").open("wb") as file:
        soundfile.write(file, tone, 48000 if ending == "opus" else RATE, format=kind, subtype=subtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        corpus = mine(own)
    (one,) = corpus.utterances("anna")
    assert one.name == "anna/one"
    assert 0.2 < np.abs(one.waveform).max() < 0.3


def test_folders_within_a_speakers(own):
    (own / "anna" / "chapter" / "1").mkdir(parents=True)
    for name in ("one.flac", "one.csv"):
        (own / "anna" / name).rename(own / "anna" / "chapter" / "1" / name)
    assert [one.name for one in mine(own).utterances("anna")] == ["anna/chapter/1/one"]


def test_an_archive_within_a_folder(own, tmp_path_factory):
    root = tmp_path_factory.mktemp("download")
    own.rename(root / "corpus-1.0")
    assert mine(root).speakers() == {"train": ("anna", "bob"), "validation": ("carla",), "test": ("dan",)}


def test_labels_and_speakers_in_the_names_of_files(tmp_path):
    for speaker in ("jackson", "george", "lucas"):
        for digit in (0, 7):
            soundfile.write(tmp_path / f"{digit}_{speaker}_32.wav", TONE[: 1000 * (digit + 1)], RATE)
    pattern = r"(?P<label>\d)_(?P<speaker>[a-z]+)_\d+"
    chosen = {"validation_speakers": "lucas", "test_speakers": "george", "silences": ()}
    corpus = speech_folder(tmp_path, pattern=pattern, **chosen)
    assert corpus.speakers() == {"train": ("jackson",), "validation": ("lucas",), "test": ("george",)}
    assert corpus.phones == ("0", "7")
    zero, seven = corpus.utterances("jackson")
    assert (zero.name, zero.phones, zero.words) == ("0_jackson_32", *[(Segment("0", 0, 1000),)] * 2)
    assert seven.phones == (Segment("7", 0, 4000),)
    other = speech_folder(tmp_path, pattern=r"(?P<label>.)_(?P<speaker>[a-z]+)_(\d+)", **chosen)
    assert other.fingerprint() == corpus.fingerprint()
    wrong("6 recordings, none in a folder of a speaker: say with `pattern`", speech_folder, tmp_path, **chosen)
    for bad, said in {
        "(": "is no regular expression",
        r"(?P<label>\d)_.*": "has no group `speaker`",
        r"(?P<speaker>x+)": "finds no speaker in the names .*the first of 6 is 0_george_32.wav",
    }.items():
        wrong(said, speech_folder, tmp_path, pattern=bad, **chosen)
    soundfile.write(tmp_path / "notes.wav", TONE, RATE)
    with pytest.warns(UserWarning, match=r"Not used: 1 file .* the first is notes.wav"):
        speech_folder(tmp_path, pattern=pattern, **chosen)


# --- names ------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_and_said_once(own):
    (own / "notes").mkdir()
    (own / "zoe").mkdir()
    for name in ("anna/one.m4a", "zoe/one.m4a", "zoe/one.csv", "lone.wav", "anna/two.csv", ".DS_Store"):
        (own / name).touch()
    with pytest.warns(UserWarning, match="Not used") as caught:
        corpus = mine(own)
    assert [len(speakers) for speakers in corpus.speakers().values()] == [2, 1, 1]
    (text,) = [str(warning.message) for warning in caught]
    assert "5 files in " in text
    assert "(2 .csv, 2 .m4a, 1 .wav; the first is anna/one.m4a)" in text
    assert "2 folders without recordings that can be read (notes, zoe)" in text


def test_a_recording_gets_the_times_of_exactly_its_name(own):
    soundfile.write(own / "anna" / "ONE.wav", TONE, RATE)
    wrong(r"ONE.wav has no file of its own: one.csv may be that of a recording one", mine, own)
    (own / "anna" / "ONE.csv").write_text(SECONDS.replace(",a", ",zz"))
    upper, lower = mine(own).utterances("anna")
    assert (upper.name, upper.phones[1].label) == ("anna/ONE", "zz")
    assert (lower.name, lower.phones[1].label) == ("anna/one", "a")


def test_another_case_will_do_where_nothing_collides(own):
    (own / "anna" / "one.csv").rename(own / "anna" / "ONE.CSV")
    assert mine(own).utterances("anna")[0].phones == EXPECTED
    (own / "anna" / "One.csv").write_text(SECONDS)
    wrong("ONE.CSV and One.csv are both there", mine, own)


def test_composed_and_decomposed_letters(own):
    composed, decomposed = (unicodedata.normalize(form, "Gänge") for form in ("NFC", "NFD"))
    (own / "anna" / "one.flac").rename(own / "anna" / f"{composed}.flac")
    (own / "anna" / "one.csv").rename(own / "anna" / f"{decomposed}.csv")
    for speaker, form in (("bob", "NFC"), ("carla", "NFD")):
        label = unicodedata.normalize(form, "ã")
        (own / speaker / "one.csv").write_text(SECONDS.replace(",a", f",{label}"))
    corpus = mine(own, phones=["a", unicodedata.normalize("NFD", "ã"), "sil"])
    assert mine(own).phones == ("a", "sil", "ã")
    assert corpus.utterances("anna")[0].phones == EXPECTED
    assert {corpus.utterances(who)[0].phones[1].label for who in ("bob", "carla")} == {"ã"}


def test_speakers_whose_names_look_alike(own):
    (own / "dan").rename(own / unicodedata.normalize("NFD", "dän"))
    assert mine(own, test_speakers=["dän"]).speakers()["test"] == (unicodedata.normalize("NFD", "dän"),)
    (own / "bob").rename(own / "dän")
    said = r"two names that look alike, 'da\\u0308n' and 'd\\xe4n'"
    wrong(said, mine, own, test_speakers=["dän"])


def test_speakers_whose_names_differ_in_case(own):
    (own / "bob").rename(own / "Anna")
    with pytest.warns(UserWarning, match="The speakers Anna and anna .* differ in upper and lower case only"):
        assert mine(own).speakers()["train"] == ("Anna", "anna")


IN_ASCII = """
import os, sys
from kdrepro.speech.folder import speech_folder
corpus = speech_folder(os.fsdecode(sys.argv[1]), validation_speakers="bob", test_speakers="d\\xe4n")
print(sys.getfilesystemencoding(), ascii(corpus.speakers()), ascii(corpus.phones), corpus.fingerprint())
print(ascii(corpus.utterances("\\xe4nn")[0].name))
"""


def test_an_environment_in_ascii_reads_the_same(tmp_path):
    """A container without a locale: the names are the same bytes, and what is made of them is the same corpus."""
    for speaker in ("änn", "bob", "dän"):
        (tmp_path / speaker).mkdir()
        (tmp_path / speaker / "weiß.wav").write_bytes(riff())
        (tmp_path / speaker / "weiß.csv").write_text(SECONDS.replace(",a", ",ã"), "utf-8")
    command = [sys.executable, "-c", IN_ASCII, tmp_path]
    plain = {**os.environ, "PYTHONPATH": str(paths.ROOT), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    found = [
        subprocess.run(command, stdout=subprocess.PIPE, text=True, env=plain | mode).stdout
        for mode in ({"PYTHONUTF8": "0"}, {"PYTHONUTF8": "1"})
    ]
    in_ascii, in_utf8 = (text.partition(" ") for text in found)
    assert in_ascii[0] in ("ascii", "utf-8")  # where there is nothing but UTF-8
    assert in_ascii[2] == in_utf8[2] != ""


NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: (
        not set(b"/\0") & set(name) and not name.startswith(b".") and name not in (b"desktop.ini", b"Thumbs.db")
    )
)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@given(st.lists(NAMES, min_size=2, max_size=2), st.sampled_from([".flac", ".FLAC"]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_names_of_any_bytes(tmp_path_factory, raw, ending):
    """Whatever its name, a speaker is found, told apart, read, printed and given a fingerprint."""
    root = tmp_path_factory.mktemp("names")
    speaker, name = map(os.fsdecode, raw)
    for one in (speaker, "_b_", "_c_"):
        (root / one).mkdir(exist_ok=True)
        (root / one / "x.flac").with_name(f"{name}{ending}").write_bytes(riff())
        (root / one / f"{name}.phn").write_text("0 4000 a\n")
    if speaker in ("_b_", "_c_"):
        return
    corpus = speech_folder(root, validation_speakers="_b_", test_speakers="_c_", silences=())
    (shown,) = corpus.speakers()["train"]
    shown.encode()
    (one,) = corpus.utterances(shown)
    one.name.encode()
    assert len(corpus.fingerprint()) == 16
    chosen = speech_folder(root, validation_speakers=speaker, test_speakers="_c_", silences=())
    assert chosen.speakers()["validation"] == (shown,)
    (root / speaker / f"{name}.phn").write_bytes(b"0 x a\n")
    wrong("line 1: '0 x a' is not `start end label`", corpus.utterances, shown)
