"""TIMIT in both layouts: generated files, and the sample itself where it is there."""

import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from recordings import LINES, SAMPLE, TONE, riff, sentence, sphere, wrong

from kdrepro.speech.corpus import RATE, SPLITS, Segment
from kdrepro.speech.timit import CORE_TEST, DEVELOPMENT, FOLDS, PHONES, SCORED_AS, SILENCES, timit, unknown_layout


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


# --- the sample's layout ----------------------------------------------------------------------------


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


def test_a_layout_that_is_none(tmp_path):
    (tmp_path / "timit" / "speakers" / "fcjf0").mkdir(parents=True)
    assert unknown_layout(tmp_path) == tmp_path / "timit"
    text = wrong("timit is there, but not in a layout of TIMIT: .*drN-<speaker>.*TRAIN/DRn", timit, tmp_path)
    assert "move it away" in text
    (tmp_path / "timit").rename(tmp_path / "else")
    (tmp_path / "timit.zip").touch()  # as NLTK's downloader leaves it
    wrong("timit.zip is there, but not in a layout of TIMIT: .*; unpack it", timit, tmp_path)


def test_a_layout_that_is_known_or_absent_is_not_unknown(sample, tmp_path_factory):
    assert unknown_layout(sample) is None
    assert unknown_layout(tmp_path_factory.mktemp("empty")) is None


def test_two_copies_of_one_sentence(sample):
    folder = sample / "timit" / SAMPLE[0]
    sentence(folder, "sx0", case=str.upper)
    wrong(r"SX0.\w+ and sx0.\w+ are both there, of one sentence: keep one of them", timit, sample)


def test_two_folders_of_one_speaker(sample):
    sentence(sample / "timit" / SAMPLE[0].upper(), "sx0")
    wrong("DR1-FAB10 and .*dr1-fab10 are both there under one name", timit, sample)


def test_copies_of_recordings_are_no_sentences_of_their_own(sample):
    sentence(sample / "timit" / SAMPLE[0], "sx0 (1)")
    with pytest.warns(UserWarning, match=r"Not used: 1 file .*the first is sx0 \(1\).wav"):
        corpus = timit(sample)
    assert [one.name for one in corpus.files["fab10"]] == ["fab10/sx0"]


def test_an_incomplete_sample(sample):
    shutil.rmtree(sample / "timit" / SAMPLE[3])
    wrong("15 speakers where the TIMIT sample has", timit, sample)


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


# --- the whole corpus -------------------------------------------------------------------------------


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


def test_a_speaker_in_two_parts_or_regions(whole):
    for there, said in (
        ("TEST/DR5/F0000", "has the speaker f0000 in TRAIN and in TEST"),
        ("TEST/DR3/MDAB0", "one name"),
    ):
        sentence(whole / "TIMIT" / there, "SX9", case=str.upper)
        wrong(said, timit, whole)
        shutil.rmtree(whole / "TIMIT" / there)


def test_an_incomplete_whole_corpus(whole):
    for folder, said in (("TEST/DR1/MDAB0", "mdab0 is not in TEST"), ("TRAIN/DR1/F0000", "461 speakers are in TRAIN")):
        path, hidden = whole / "TIMIT" / folder, whole / "hidden"
        path.rename(hidden)
        wrong(f"not the whole TIMIT .{said}", timit, whole)
        hidden.rename(path)


# --- the sample itself ------------------------------------------------------------------------------


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
