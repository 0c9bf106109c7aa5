"""Speech on disk: recordings, TIMIT in both layouts and folders of one's own, and a sentence for each fault."""

import contextlib
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdrepro.errors import InputError
from kdrepro.speech.audio import read_audio
from kdrepro.speech.corpus import RATE, SLACK, SPLITS, Segment
from kdrepro.speech.folder import speech_folder
from kdrepro.speech.timit import CORE_TEST, DEVELOPMENT, FOLDS, PHONES, SCORED_AS, SILENCES, timit

TONE = np.round(8000 * np.sin(np.arange(4000) * 2 * np.pi * 440 / RATE)).astype("<i2")
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


def wrong(said, function, *arguments, **named):
    """The call must raise one sentence that holds this."""
    with pytest.raises(InputError, match=said) as caught:
        function(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


# Recordings


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


def test_speech_needs_no_torch():
    code = "import sys, kdrepro.speech.folder, kdrepro.speech.timit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# TIMIT: generated files

LINES = "0 1000 h#\n1000 1800 sh\n1800 2600 iy\n2600 4000 h#\n"


def sentence(folder: Path, name: str, lines=LINES, audio=None, words="1000 2600 She\n", case=str.lower):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / case(f"{name}.wav")).write_bytes(riff() if audio is None else audio)
    (folder / case(f"{name}.phn")).write_text(lines)
    if words:
        (folder / case(f"{name}.wrd")).write_text(words)


@pytest.fixture
def sample(tmp_path) -> Path:
    """A data root whose timit/ has the sample's 16 speakers, each with an SA sentence and one of their own."""
    for number, name in enumerate(SAMPLE):
        sentence(tmp_path / "timit" / name, "sa1")
        sentence(tmp_path / "timit" / name, f"sx{number}")
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The LDC's layout in upper case, with SPHERE files."""
    root = tmp_path_factory.mktemp("ldc")
    for part, speakers in (
        ("TRAIN", [f"{'FM'[n % 2]}{n:03d}0" for n in range(462)]),
        ("TEST", [*CORE_TEST, *DEVELOPMENT, "mzzz0"]),
    ):
        for number, speaker in enumerate(speakers):
            folder = root / "TIMIT" / part / f"DR{number % 8 + 1}" / speaker.upper()
            sentence(folder, "sx9", audio=sphere(TONE[:0]), words="", case=str.upper)
    sentence(root / "TIMIT" / "TEST" / "DR1" / "MDAB0", "SI1039", audio=sphere(), case=str.upper)
    sentence(root / "TIMIT" / "TEST" / "DR1" / "MDAB0", "SA1", audio=sphere(), case=str.upper)
    return root


def test_the_phones_fold_to_39_classes():
    assert len(PHONES) == len(set(PHONES)) == 61
    assert SCORED_AS.keys() == set(PHONES)
    classes = set(SCORED_AS.values()) - {""}
    assert len(classes) == 39
    assert classes - {"sil"} < set(PHONES)
    assert [phone for phone, one in SCORED_AS.items() if not one] == ["q"]
    assert {SCORED_AS[phone] for phone in (*SILENCES, "bcl", "kcl")} == {"sil"}
    assert all(SCORED_AS[one] == one for one in classes - {"sil"})
    assert [SCORED_AS[phone] for phone in ("ao", "ax-h", "ix", "zh", "nx", "ux")] == ["aa", "ah", "ih", "sh", "n", "uw"]


def check_folds(root: Path):
    tested = Counter()
    for fold in range(FOLDS):
        splits = timit(root, fold).speakers()
        assert tuple(splits) == SPLITS
        assert [len(splits[split]) for split in SPLITS] == [10, 2, 4]
        assert len({speaker for split in splits.values() for speaker in split}) == 16
        assert [sorted(Counter(s[0] for s in splits[split]).values()) for split in SPLITS] == [[5, 5], [1, 1], [2, 2]]
        region = {path.name[4:]: path.name[2] for path in (root / "timit").glob("dr?-*")}
        assert len({region[speaker] for speaker in (*splits["test"], *splits["validation"])}) == 6
        tested.update(splits["test"])
    assert len(tested) == 16
    assert set(tested.values()) == {1}


def test_four_folds_test_each_speaker_once(sample):
    check_folds(sample)


def test_an_utterance_of_the_sample(sample):
    corpus = timit(sample)
    assert (corpus.name, corpus.fold) == ("timit-sample", 0)
    (one,) = corpus.utterances("fab10")
    assert (one.name, one.speaker) == ("fab10/sx0", "fab10")
    assert len(one.waveform) == one.phones[-1].end == 4000
    assert one.phones[1] == Segment("sh", 1000, 1800)
    assert one.words == (Segment("she", 1000, 2600),)
    assert one.tags == ()


def test_the_corpus_folder_itself_is_a_root_too(sample):
    assert timit(sample / "timit").fingerprint() == timit(str(sample)).fingerprint()


def test_a_pickled_corpus_is_the_same(sample):
    corpus = timit(sample, 2)
    copy = pickle.loads(pickle.dumps(corpus))
    assert copy == corpus
    assert hash(copy) == hash(corpus)
    assert copy.scored_as["q"] == ""
    assert copy.utterances("fab10")[0].phones == corpus.utterances("fab10")[0].phones


def test_the_fingerprint_follows_what_decides_the_utterances(sample, tmp_path_factory):
    first = timit(sample).fingerprint()
    assert len(first) == 16
    assert len({timit(sample, fold).fingerprint() for fold in range(FOLDS)}) == FOLDS
    elsewhere = tmp_path_factory.mktemp("copy")
    shutil.copytree(sample / "timit", elsewhere / "timit")
    assert timit(elsewhere).fingerprint() == first
    folder = elsewhere / "timit" / SAMPLE[0]
    changes = ({"lines": LINES.replace("sh", "ch")}, {"audio": riff(TONE[:3999])}, {"words": "1000 2600 he\n"})
    seen = {first}
    for change in changes:
        sentence(folder, "sx0", **change)
        seen.add(timit(elsewhere).fingerprint())
    assert len(seen) == 4
    sentence(folder, "sx0")
    sentence(folder, "sa1", LINES.replace("sh", "ch"))  # never used
    assert timit(elsewhere).fingerprint() == first


def test_no_text_is_in_two_splits(sample):
    splits = timit(sample).speakers()
    folder = {name[4:]: sample / "timit" / name for name in SAMPLE}
    test, validation, train = splits["test"][0], splits["validation"][0], splits["train"][0]
    for speaker in (test, validation, train):
        sentence(folder[speaker], "sx400")
    for speaker in (validation, train):
        sentence(folder[speaker], "sx401")
    for speaker in splits["train"][:2]:
        sentence(folder[speaker], "sx402")
    corpus = timit(sample)
    said = {s: {u.name.partition("/")[2] for u in corpus.utterances(s)} for s in (test, validation, train)}
    assert "sx400" in said[test]
    assert said[validation] & {"sx400", "sx401"} == {"sx401"}
    assert said[train] & {"sx400", "sx401", "sx402"} == {"sx402"}


@pytest.mark.parametrize(("past", "length"), [(0, 4000), (-500, 3500), (1, 4000), (SLACK, 4000)])
def test_waveform_and_last_phone_end_together(sample, past, length):
    last = f"{4000 + past}"
    sentence(sample / "timit" / SAMPLE[0], "sx0", LINES.replace("4000", last), words=f"1000 {last} she")
    (one,) = timit(sample).utterances("fab10")
    assert len(one.waveform) == one.phones[-1].end == one.words[-1].end == length


def test_words_may_overlap_leave_gaps_and_be_absent(sample):
    folder = sample / "timit" / SAMPLE[0]
    sentence(folder, "sx0", words="1800 2600 Your\n1000 2000 HAD\n\n")
    (one,) = timit(sample).utterances("fab10")
    assert one.words == (Segment("had", 1000, 2000), Segment("your", 1800, 2600))
    (folder / "sx0.wrd").unlink()
    assert timit(sample).utterances("fab10")[0].words == ()


def test_absent_timit_names_the_folder_and_the_ways(tmp_path):
    text = wrong("TIMIT is not in", timit, tmp_path)
    for part in (str(tmp_path / "timit"), "NLTK", "LDC93S1", "KDREPRO_DATA", "smoke"):
        assert part in text
    (tmp_path / "train" / "cats").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    wrong("TIMIT is not in", timit, tmp_path)


@pytest.mark.parametrize("fold", [-1, 4, "1", None])
def test_unknown_folds(sample, fold):
    wrong("no fold .*folds 0 to 3", timit, sample, fold)


def test_an_incomplete_sample(sample):
    shutil.rmtree(sample / "timit" / SAMPLE[3])
    wrong("15 speakers where the TIMIT sample has", timit, sample)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "sx0.phn has no phones"),
        (LINES.replace("1800 2600", "1900 2600"), "line 3: iy starts at sample 1900 where 1800 was due .a gap"),
        (LINES.replace("1800 2600", "1700 2600"), "line 3: .*an overlap"),
        (LINES.replace("0 1000", "10 1000", 1), "line 1: .*a gap"),
        ("0 0 h#\n0 4000 sh\n", "line 1: .*not after its start"),
        (LINES.replace("4000", "4161"), "line 4: .*past the end of the recording .4000 samples"),
        ("0 4000 h#\n4000 4050 sh\n", "the last phone, sh, starts at sample 4000, past the end"),
        (LINES.replace("sh", "zz"), "line 2: 'zz' is not a phone"),
        (LINES.replace("1800 2600", "1800.0 2600"), "line 3: '1800.0 2600 iy' is not `start end label`"),
        ("0 1000\n", "line 1: '0 1000' is not"),
        ("0 1000 h# sh\n", "line 1: .* is not"),
        ("\xff".join("ab"), "sx0.phn, line 1"),
    ],
)
def test_wrong_phone_times(sample, lines, said):
    sentence(sample / "timit" / SAMPLE[0], "sx0", lines)
    assert SAMPLE[0] in wrong(said, timit(sample).utterances, "fab10")


@pytest.mark.parametrize("words", ["2000 1000 she", "-5 1000 she", "4000 4100 she"])
def test_wrong_word_times(sample, words):
    sentence(sample / "timit" / SAMPLE[0], "sx0", words=words)
    wrong("sx0.wrd, word 1: she is from sample .* not a stretch", timit(sample).utterances, "fab10")


def test_labels_that_are_no_text_or_gone(sample):
    path = sample / "timit" / SAMPLE[0] / "sx0.phn"
    corpus = timit(sample)
    path.write_bytes(b"0 1000 \xff\n")
    wrong("not text in UTF-8", corpus.utterances, "fab10")
    path.unlink()
    wrong("sx0.phn cannot be read", corpus.utterances, "fab10")


def test_a_speaker_that_is_not_there(sample):
    text = wrong("timit-sample has no speaker 'fab1'.*did you mean", timit(sample).utterances, "fab1")
    assert "mab80" in text


def test_a_recording_without_phones_and_the_reverse(sample):
    folder = sample / "timit" / SAMPLE[0]
    (folder / "sx0.phn").rename(folder / "sx99.phn")
    wrong("sx0.wav has no .phn beside it", timit, sample)
    sentence(folder, "sx0")
    wrong("sx99.phn has no .wav beside it", timit, sample)


def test_a_speaker_with_sa_only(sample):
    for path in (sample / "timit" / SAMPLE[0]).glob("sx0.*"):
        path.unlink()
    wrong("holds no SX or SI sentence", timit, sample)


def test_the_whole_corpus(whole):
    corpus = timit(whole)
    splits = corpus.speakers()
    assert (corpus.name, corpus.fold) == ("timit", 0)
    assert [len(splits[split]) for split in SPLITS] == [462, 50, 24]
    assert set(splits["test"]) == set(CORE_TEST)
    assert Counter(speaker[0] for speaker in splits["test"]) == {"m": 16, "f": 8}
    assert not {*splits["train"]} & {*CORE_TEST, *DEVELOPMENT, "mzzz0"}
    assert not {*CORE_TEST} & {*DEVELOPMENT}
    assert [files.name for files in corpus.files["mdab0"]] == ["mdab0/si1039", "mdab0/sx9"]
    assert len(timit(whole / "TIMIT").fingerprint()) == 16
    assert pickle.loads(pickle.dumps(corpus)) == corpus
    wrong("whole TIMIT has fold 0 only", timit, whole, 1)
    wrong("no speaker 'mzzz0'", corpus.utterances, "mzzz0")


def test_upper_case_sphere_files_are_read(whole):
    folder = whole / "TIMIT" / "TEST" / "DR1" / "MDAB0"
    sentence(folder, "SX9", audio=sphere(), words="", case=str.upper)
    one, two = timit(whole).utterances("mdab0")
    assert np.array_equal(one.waveform, TONE.astype(np.float32) / 32768)
    assert one.words == (Segment("she", 1000, 2600),)
    assert two.words == ()


def test_a_riff_copy_beside_a_shortened_sphere_file_is_used(whole):
    folder = whole / "TIMIT" / "TEST" / "DR1" / "MDAB0"
    sentence(folder, "SX9", audio=sphere(coding="pcm,embedded-shorten-v2.00"), words="", case=str.upper)
    wrong("shorten", timit(whole).utterances, "mdab0")
    (folder / "SX9.WAV.wav").write_bytes(riff())
    assert len(timit(whole).utterances("mdab0")[1].waveform) == 4000
    (folder / "SX9.WAV.wav").unlink()


def test_an_incomplete_whole_corpus(whole):
    for folder, said in (("TEST/DR1/MDAB0", "mdab0 is not in TEST"), ("TRAIN/DR1/F0000", "461 speakers are in TRAIN")):
        path, hidden = whole / "TIMIT" / folder, whole / "hidden"
        path.rename(hidden)
        wrong(f"not the whole TIMIT .{said}", timit, whole)
        hidden.rename(path)


# A folder of one's own

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


# TIMIT's sample itself


@pytest.fixture(scope="module")
def real() -> Path:
    given = os.environ.get("KDREPRO_DATA")
    if not given or not any((Path(given) / "timit").glob("dr1-*")):
        pytest.skip("TIMIT's sample is not here: set KDREPRO_DATA to the folder that holds timit/")
    return Path(given)


@pytest.fixture(scope="module")
def said(real) -> dict:
    """All utterances of the sample, by speaker."""
    corpus = timit(real)
    return {speaker: corpus.utterances(speaker) for speakers in corpus.speakers().values() for speaker in speakers}


def test_real_folds(real, said):
    check_folds(real)
    for fold in range(FOLDS):
        corpus = timit(real, fold)
        texts = {
            split: {files.name.partition("/")[2] for speaker in speakers for files in corpus.files[speaker]}
            for split, speakers in corpus.speakers().items()
        }
        assert [len(texts[split]) for split in SPLITS] == [80, 16, 32]
        assert len(set().union(*texts.values())) == 128
        assert not any(text.startswith("sa") for text in set().union(*texts.values()))


def test_real_utterances(said):
    assert {len(utterances) for utterances in said.values()} == {8}
    assert len(said) == 16
    seconds = sum(len(one.waveform) for utterances in said.values() for one in utterances) / RATE
    assert 300 < seconds < 500
    labels = {segment.label for utterances in said.values() for one in utterances for segment in one.phones}
    assert labels <= set(PHONES)
    for one in (one for utterances in said.values() for one in utterances):
        assert one.phones[-1].end == len(one.waveform)
        assert (one.phones[0].label, one.phones[-1].label) == ("h#", "h#")
        assert np.abs(one.waveform).max() <= 1
        starts = {segment.start for segment in one.phones}
        assert all(word.start in starts for word in one.words)


def energy_ratio(utterances, labels, high, low) -> float:
    """Log10 of the energy in the band `high` over that in `low`, in Hz, averaged over all phones so labelled."""
    ratios = []
    for one in utterances:
        for label, start, end in one.phones:
            if label in labels and end - start >= 320:
                power = np.abs(np.fft.rfft(one.waveform[start:end] * np.hanning(end - start))) ** 2
                hertz = np.linspace(0, RATE / 2, len(power))
                bands = [power[(hertz >= lower) & (hertz < upper)].sum() for lower, upper in (high, low)]
                ratios.append(np.log10((bands[0] + 1e-12) / (bands[1] + 1e-12)))
    assert ratios
    return float(np.mean(ratios))


def test_labels_fall_on_the_sounds_they_name(said):
    for speaker, utterances in said.items():
        hiss = energy_ratio(utterances, ("s", "sh"), (4000, 8000), (0, 1000))
        vowel = energy_ratio(utterances, ("iy", "aa"), (4000, 8000), (0, 1000))
        assert hiss > vowel + 1.5, speaker  # more than 30 times
        open_vowel = energy_ratio(utterances, ("aa", "ao"), (600, 1000), (200, 400))
        close_vowel = energy_ratio(utterances, ("iy",), (600, 1000), (200, 400))
        assert open_vowel > close_vowel + 0.5, speaker  # the first formant: some 750 Hz against 300
