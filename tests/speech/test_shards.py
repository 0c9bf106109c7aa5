"""Preparing a corpus: what is kept, what is made anew, and what a shard holds."""

import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from kdrepro import paths
from kdrepro.acoustic.frames import load_speech
from kdrepro.errors import InputError
from kdrepro.speech import shards
from kdrepro.speech.corpus import RATE, Segment, Utterance
from kdrepro.speech.features import COEFFICIENTS, log_mel
from kdrepro.speech.folder import speech_folder
from kdrepro.speech.shards import LEFT, RIGHT
from kdrepro.speech.states import NO_CONTEXT, monophone_states

PHONES = ("sil", "a", "b", "c")


@dataclass(frozen=True)
class Spoken:
    """A corpus of given utterances, to be prepared in this process."""

    said: tuple[Utterance, ...]
    name: str = "spoken"
    phones: tuple[str, ...] = PHONES
    silences: tuple[str, ...] = ("sil",)

    def utterances(self, speaker):
        return [u for u in self.said if u.speaker == speaker]


def spoken(name, speaker, *lengths, words=()) -> Utterance:
    """An utterance of noise: sil, a, b, c, sil, ... of these lengths in samples; words by their phones' numbers."""
    edges = np.cumsum([0, *lengths]).tolist()
    labels = ["sil", "a", "b", "c"]
    phones = tuple(Segment(labels[i % 4], edges[i], edges[i + 1]) for i in range(len(lengths)))
    random = np.random.default_rng(sum(map(ord, name + speaker)))
    said = tuple(Segment(f"w{i}", phones[i].start, phones[j].end) for i, j in words)
    return Utterance(name, speaker, random.normal(0, 0.1, edges[-1]).astype(np.float32), phones, said)


def recorded(root, silent=None):
    """A folder of three speakers, one a split; what `silent` says is 5 ms long."""
    for speaker in ("ann", "bob", "cat"):
        (root / speaker).mkdir(parents=True)
        samples = 80 if speaker == silent else 8000
        soundfile.write(root / speaker / "one.wav", np.random.default_rng(0).normal(0, 0.1, samples), RATE)
        half = samples // 2
        (root / speaker / "one.phn").write_text(f"0 {half} sil\n{half} {samples} a\n")
    return speech_folder(root, validation_speakers=["bob"], test_speakers=["cat"])


@pytest.fixture
def corpus(tmp_path):
    return recorded(tmp_path / "folder")


def state_of(folder):
    return {p.relative_to(folder): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def test_prepared_once(corpus, tmp_path):
    seen = []
    folder, paths = shards.prepare(corpus, tmp_path / "cache", progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {split: [p.name for p in found] for split, found in paths.items()} == {
        split: [f"{split}-0000"] for split in ("train", "validation", "test")
    }
    before = state_of(folder)
    assert shards.prepare(corpus, tmp_path / "cache", progress=lambda *row: seen.append(row)) == (folder, paths)
    assert state_of(folder) == before
    assert len(seen) == 3

    for path in paths["test"][0].iterdir():  # a deleted shard alone is made anew
        path.unlink()
    paths["test"][0].rmdir()
    shards.prepare(corpus, tmp_path / "cache")
    after = state_of(folder)
    assert set(after) == set(before)
    same = [path for path in before if str(path).startswith(("train", "validation"))]
    assert {path: after[path] for path in same} == {path: before[path] for path in same}


def test_other_recordings_and_versions_go_to_other_folders(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_in_own_process", lambda job: job[2].mkdir(parents=True))

    def folder():
        return shards.prepare(corpus, tmp_path / "cache")[0]

    first = folder()
    assert folder() == first
    with monkeypatch.context() as patch:
        patch.setattr(shards, "VERSION", shards.VERSION + 1)
        second = folder()
    soundfile.write(tmp_path / "folder" / "ann" / "one.wav", np.random.default_rng(1).normal(0, 0.1, 8000), RATE)
    assert len({first, second, folder()}) == 3


def test_a_fault_of_the_corpus_comes_out_of_its_process(tmp_path):
    corpus = recorded(tmp_path / "folder", silent="bob")
    with pytest.raises(
        InputError, match=r"speaker bob of .* has no utterance of at least 10 ms: leave it out"
    ) as caught:
        shards.prepare(corpus, tmp_path / "cache", workers=1)
    assert "\n" not in str(caught.value)
    # What was finished is kept (the next one may have begun), and nothing half-made is left.
    left = {path.name for path in (tmp_path / "cache").glob("*/*")}
    assert {"train-0000"} <= left <= {"train-0000", "test-0000"}


def test_a_process_that_dies_is_named(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match=r"prepares .*0000 died"):
        shards.prepare(corpus, tmp_path / "cache", workers=1)


SCRIPT = """
import sys
from dataclasses import dataclass
from pathlib import Path
import numpy as np
{beside}
from kdrepro.speech import shards
from kdrepro.speech.corpus import Segment, Utterance

LENGTH = 3200

@dataclass
class Mine:
    name: str = "mine"
    phones: tuple = ("a", "ü")
    silences: tuple = ()

    def fingerprint(self):
        return "0"

    def speakers(self):
        return {{"train": ["a"], "validation": ["b"], "test": ["c"]}}

    def utterances(self, speaker):
        return [Utterance(speaker, speaker, np.zeros(LENGTH, np.float32), (Segment("{label}", 0, LENGTH),))]

{held}
_, paths = shards.prepare(corpus, Path(sys.argv[1]), workers=1)
print([shards.load(path).frames for of in paths.values() for path in of])
"""


def run_script(folder, *, beside="", held="corpus = Mine()", label="a", **environment):
    """A user's script in a folder of its own, run from elsewhere."""
    (script := folder / "script.py").write_text(SCRIPT.format(beside=beside, held=held, label=label))
    command = [sys.executable, str(script), str(folder / "cache")]
    where = {**os.environ, "PYTHONPATH": str(paths.ROOT), **environment}
    return subprocess.run(command, capture_output=True, cwd="/", env=where)


def test_a_corpus_of_a_users_own_script(tmp_path):
    done = run_script(tmp_path)
    assert (done.returncode, done.stdout.decode()) == (0, "[20, 20, 20]\n"), done.stderr.decode()


def test_a_corpus_of_a_module_beside_a_users_script(tmp_path):
    (tmp_path / "beside_me.py").write_text("class Base:\n    pass\n")
    held = "class Two(Mine, beside_me.Base): pass\ncorpus = Two()"
    done = run_script(tmp_path, beside="import beside_me", held=held)
    assert (done.returncode, done.stdout.decode()) == (0, "[20, 20, 20]\n"), done.stderr.decode()


def test_a_corpus_that_cannot_be_sent_is_one_sentence(tmp_path):
    done = run_script(tmp_path, held="corpus = Mine()\nimport threading\ncorpus.lock = threading.Lock()")
    said = done.stderr.decode().splitlines()[-1]
    assert "InputError: The corpus mine cannot be sent to the processes that prepare it (" in said
    assert "plain data only" in said


def test_a_class_that_the_processes_cannot_find_is_one_sentence(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_pickled", lambda job: b"cgone_module\nGone\n.")
    with pytest.raises(
        InputError, match=r"class of this corpus cannot be found .*gone_module.*define it in your script"
    ):
        shards.prepare(corpus, tmp_path / "cache", workers=1)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_workers_sentence_comes_through_any_terminal(corpus, tmp_path, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    (tmp_path / "folder" / "ann" / "one.phn").write_text("0 8000 ü\n", "utf-8")
    with pytest.raises(InputError, match=r"one.phn, line 1: 'ü' is not a phone of this corpus"):
        shards.prepare(corpus, tmp_path / "cache", workers=1)


def test_a_long_name_of_a_corpus(tmp_path):
    corpus = recorded(tmp_path / ("n" * 250))
    _, found = shards.prepare(corpus, tmp_path / "cache")
    assert shards.load(found["test"][0]).frames == 50
    assert corpus.name == "n" * 250


def test_names_that_are_not_utf8_survive_in_a_shard(tmp_path):
    recorded(tmp_path / "folder")
    root = (tmp_path / "folder").rename(tmp_path / os.fsdecode(b"n\xe4me"))
    (root / "ann").rename(root / os.fsdecode(b"andr\xe9"))
    corpus = speech_folder(root, validation_speakers="bob", test_speakers="cat")
    speech = load_speech(corpus, tmp_path / "cache")
    (one,) = speech.train.utterances
    assert (corpus.name, one["speaker"], one["name"]) == (r"n\xe4me", r"andr\xe9", r"andr\xe9/one")


def test_interrupted_preparation_leaves_nothing_half_made(tmp_path, monkeypatch):
    corpus, path = Spoken((spoken("u", "s", 1600, 1600),)), tmp_path / "corpus" / "train-0000"

    class Full:
        def __call__(self, file, *_):
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", Full())
        with pytest.raises(InputError, match=r"Cannot write the shard .*No space left on device.*make room"):
            shards.make_shard(corpus, ["s"], path)
    assert list(path.parent.iterdir()) == []
    shards.make_shard(corpus, ["s"], path)
    assert shards.load(path).frames == 20


def test_a_killed_process_leaves_no_shard(corpus, tmp_path, monkeypatch):
    """Killed while it writes: there is no folder of the shard's name, and the next run makes it."""
    dying = "import os, signal, numpy; numpy.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "

    def run(command, **options):
        return real([*command[:2], dying + command[2]], **options)

    real = subprocess.run
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", run)
        with pytest.raises(RuntimeError, match="died"):
            shards.prepare(corpus, tmp_path / "cache", workers=1)
    assert not list((tmp_path / "cache").glob("*/[!.]*"))
    _, paths = shards.prepare(corpus, tmp_path / "cache")
    assert all(shards.load(path).frames == 50 for found in paths.values() for path in found)


@pytest.mark.parametrize("name", ["features.npy", "segments.npy", "utterances.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "garbage"])
def test_a_damaged_shard_is_one_sentence(tmp_path, name, damage):
    path = tmp_path / "train-0000"
    shards.make_shard(Spoken((spoken("u", "s", *[1600] * 8),)), ["s"], path)
    file = path / name
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "garbage": b"\x00\xff" * 200}[damage])
    with pytest.raises(InputError, match=r"The shard .*train-0000 is damaged .*delete that folder"):
        shards.load(path)


def test_features_that_do_not_fit(tmp_path):
    path = tmp_path / "train-0000"
    shards.make_shard(Spoken((spoken("u", "s", 1600, 1600),)), ["s"], path)
    features = np.load(path / "features.npy")
    for wrong in (features[:-1], features[:, 1:], features[:, 0]):
        np.save(path / "features.npy", wrong)
        with pytest.raises(InputError, match=r"damaged \(its arrays do not fit together\)"):
            shards.load(path)


def test_what_is_in_a_shard(tiny):
    for shard in tiny.train.shards:
        assert shard.features.dtype == np.float16
        assert shard.features.shape == (sum(u["frames"] + LEFT + RIGHT for u in shard.utterances), COEFFICIENTS)
        assert np.isfinite(shard.features).all()
        assert len(shard.window_rows()) == shard.frames == len(shard.targets(tiny.states))
        row = 0
        for i, utterance in enumerate(shard.utterances):
            assert utterance["row"] == row
            row += utterance["frames"] + LEFT + RIGHT
            mine = shard.segments[shard.segments[:, 0] == i]
            assert (mine[:, 4] < mine[:, 5]).all()
            assert mine[:, 4].tolist() == [0, *mine[:-1, 5].tolist()]
            assert mine[-1, 5] == utterance["frames"]
            for _, tag, start, end in utterance["words"]:
                assert tag
                assert 0 <= start <= end <= utterance["frames"]
        assert (np.diff(shard.segments[:, 0]) >= 0).all()


def test_speakers_are_normalised_one_by_one(tiny):
    shard = tiny.train.shards[0]
    speakers = sorted({u["speaker"] for u in shard.utterances})
    assert len(speakers) == 2
    for speaker in speakers:
        rows = [
            shard.features[u["row"] + LEFT : u["row"] + LEFT + u["frames"]]
            for u in shard.utterances
            if u["speaker"] == speaker
        ]
        together = np.concatenate(rows).astype(np.float64)
        np.testing.assert_allclose(together.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(together.std(0), 1, atol=5e-3)


def test_a_coefficient_that_never_changes_is_zero():
    (found,) = shards.normalised([np.full((10, COEFFICIENTS), -3.0, np.float32)])
    assert (found == 0).all()


def test_features_are_the_utterances_own(tmp_path):
    said = (spoken("u", "s", 1600, 3200), spoken("v", "s", 900, 1700), spoken("w", "t", 2000, 2000))
    shards.make_shard(Spoken(said), ["s", "t"], tmp_path / "shard")
    shard = shards.load(tmp_path / "shard")
    assert [(u["name"], u["speaker"], u["frames"]) for u in shard.utterances] == [
        ("u", "s", 30),
        ("v", "s", 16),
        ("w", "t", 25),
    ]
    first = shards.normalised([log_mel(u.waveform) for u in said[:2]])
    for wanted, utterance in zip(
        [*first, *shards.normalised([log_mel(said[2].waveform)])], shard.utterances, strict=True
    ):
        row, frames = utterance["row"], utterance["frames"]
        np.testing.assert_allclose(shard.features[row + LEFT : row + LEFT + frames], wanted, atol=4e-3)
        # The edges are repeated.
        assert (shard.features[row : row + LEFT] == shard.features[row + LEFT]).all()
        end = row + LEFT + frames
        assert (shard.features[end : end + RIGHT] == shard.features[end - 1]).all()


def test_contexts_stay_within_words_and_beside_speech(tmp_path):
    # sil a b c | sil a b c: words "a b", "c" and, with a pause in it, "a b"; the last c is in no word.
    utterance = spoken("u", "s", *[1600] * 8, words=[(1, 2), (3, 3), (5, 6)])
    shards.make_shard(Spoken((utterance,)), ["s"], tmp_path / "shard")
    found = shards.load(tmp_path / "shard").segments
    sil, a, b, c, none = 0, 1, 2, 3, NO_CONTEXT
    assert found[:, 1:4].tolist() == [
        [sil, none, none],
        [a, none, b],
        [b, a, none],
        [c, none, none],
        [sil, none, none],
        [a, none, b],
        [b, a, none],
        [c, none, none],
    ]
    assert found[:, 4].tolist() == list(range(0, 80, 10))


def test_a_pause_within_a_word_has_no_context_and_gives_none(tmp_path):
    shards.make_shard(Spoken((spoken("u", "s", *[1600] * 6, words=[(2, 5)]),)), ["s"], tmp_path / "shard")
    found = shards.load(tmp_path / "shard").segments
    assert found[2:, 1:4].tolist() == [[2, -1, 3], [3, 2, -1], [0, -1, -1], [1, -1, -1]]


def test_contexts_of_the_tiny_corpus(tiny):
    """Every neighbour is the phone beside it, and one of two neighbours never names the other alone."""
    silence = tiny.corpus.phones.index("sil")
    for shard in tiny.train.shards:
        rows = shard.segments.tolist()
        for before, after in pairwise(rows):
            if before[0] == after[0] and before[5] == after[4] and silence not in (before[1], after[1]):
                assert (before[3], after[2]) in {(after[1], before[1]), (NO_CONTEXT, NO_CONTEXT)}
        assert (shard.segments[shard.segments[:, 1] == silence][:, 2:4] == NO_CONTEXT).all()
        assert (shard.segments[:, 2:4] != NO_CONTEXT).any()
        assert not (shard.segments[:, 2:4] == silence).any()


def test_phones_too_short_for_a_frame_are_left_out(tmp_path):
    shards.make_shard(Spoken((spoken("u", "s", 1600, 20, 20, 1560),)), ["s"], tmp_path / "shard")
    shard = shards.load(tmp_path / "shard")
    assert shard.segments[:, [1, 4, 5]].tolist() == [[0, 0, 10], [3, 10, 20]]
    assert shard.targets(monophone_states(PHONES)).tolist() == np.repeat([0, 1, 2, 9, 10, 11], [3, 4, 3] * 2).tolist()


def test_utterances_shorter_than_a_frame_are_left_out(tmp_path):
    said = (spoken("u", "s", 50, 60), spoken("v", "s", 1600, 1600))
    shards.make_shard(Spoken(said), ["s"], tmp_path / "shard")
    assert [u["name"] for u in shards.load(tmp_path / "shard").utterances] == ["v"]


@pytest.mark.slow
def test_fewer_states_than_three_a_phone(corpus, tmp_path):
    """As `tied_states` says it."""
    with pytest.raises(InputError, match="at least three a phone, 6 for 2 phones, not 5"):
        load_speech(corpus, tmp_path / "cache", 5)


def test_a_cache_that_cannot_be_written(corpus, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="Cannot write the shard"):
        shards.prepare(corpus, tmp_path / "file", workers=1)


def test_speakers_say_it_again(corpus):
    """In a process of its own, in the order of a shard."""
    found = shards.utterances_again(corpus, ["ann"])
    assert [one.name for one in found] == [one.name for one in corpus.utterances("ann")]
    for again, one in zip(found, corpus.utterances("ann"), strict=True):
        assert np.array_equal(again.waveform, one.waveform)
    with pytest.raises(InputError, match="no speaker 'eve'"):
        shards.utterances_again(corpus, ["eve"])
