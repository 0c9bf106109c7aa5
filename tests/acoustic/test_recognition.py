"""From states to words and phones: decoding a whole data set, and how its errors are counted."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrepro.acoustic import frames
from kdrepro.acoustic.frames import Frames, Speech
from kdrepro.acoustic.recognition import PENALTIES, SCALES, Recognizer, error_counts, phones_of
from kdrepro.speech import shards
from kdrepro.speech.corpus import Segment, Utterance
from kdrepro.speech.states import monophone_states


def perfect(split, states, of=None, sure=12.0):
    """Log-probabilities of utterances that peak at the true states."""
    found = []
    for utterance in split.utterances if of is None else of:
        targets = split.targets[utterance["first"] : utterance["first"] + utterance["frames"]].long()
        found.append((sure * torch.nn.functional.one_hot(targets, len(states)).float()).log_softmax(1))
    return found


def rate(counts):
    return counts[:, :3].sum() / counts[:, 3].sum()


@pytest.fixture(scope="module")
def words(tiny) -> Recognizer:
    """Of the tiny corpus, its words and their pronunciations known from the test speakers themselves."""
    return Recognizer.of(replace(tiny, train=tiny.test))


def test_a_perfect_acoustic_model_makes_no_errors(tiny, words):
    assert words.words
    utterances, found = tiny.test.utterances, perfect(tiny.test, tiny.states)
    for scale in SCALES:
        counts = words.with_weights(scale, 0.0).errors(utterances, found)
        assert counts[:, 3].tolist() == [len(u["words"]) for u in utterances]
        assert rate(counts) <= 0.05


def test_words_heard_in_training_are_recognized_in_other_voices(tiny):
    """The recognizer as it is made; sentences of the validation and test speakers with words that it knows."""
    recognizer = Recognizer.of(tiny)
    known = {(word, tag) for u in tiny.train.utterances for word, tag, *_ in u["words"]}
    errors = []
    for split in (tiny.validation, tiny.test):
        of = [u for u in split.utterances if all((word, tag) in known for word, tag, *_ in u["words"])]
        errors.append(recognizer.with_weights(0.3, 0.0).errors(of, perfect(split, tiny.states, of)))
    errors = np.concatenate(errors)
    assert len(errors) >= 3
    assert rate(errors) <= 0.15  # an accent may say a word as none did in training
    counts = recognizer.errors(tiny.train.utterances, perfect(tiny.train, tiny.states))
    assert rate(counts) <= 0.05


def test_decoded_words_lie_where_they_were_said(tiny, words):
    utterance = tiny.test.utterances[0]
    (path,) = words.recognize(perfect(tiny.test, tiny.states, [utterance]))
    said = [(one.label, one.start_frame, one.end_frame) for one in path if one.label]
    assert [label for label, *_ in said] == [word for word, *_ in utterance["words"]]
    for (_, start, end), (_, _, first, last) in zip(said, utterance["words"], strict=True):
        assert abs(start - first) <= 2
        assert abs(end - last) <= 2


def test_a_model_that_knows_nothing_makes_many_errors(tiny, words):
    uniform = [torch.full((u["frames"], len(tiny.states)), -np.log(200.0)) for u in tiny.test.utterances]
    assert rate(words.errors(tiny.test.utterances, uniform)) > 0.6


def test_a_penalty_gives_fewer_words(tiny, words):
    unsure = perfect(tiny.test, tiny.states, sure=3.0)
    few, many = (
        sum(map(len, words.with_weights(0.3, penalty).recognize(unsure)))  # silences included
        for penalty in (30.0, -30.0)
    )
    assert few < many


def test_prior_is_that_of_training(tiny):
    recognizer = Recognizer.of(tiny)
    counts = torch.bincount(tiny.train.targets, minlength=200) + 0.5
    torch.testing.assert_close(recognizer.log_prior.exp(), (counts / counts.sum()).float())
    assert torch.isfinite(recognizer.log_prior).all()


def test_reference_and_scored_of_words(tiny, words):
    utterance = tiny.test.utterances[0]
    assert words.reference(utterance) == [word for word, *_ in utterance["words"]]
    assert words.scored(["", "the", "", "cat", "sil"]) == ["the", "cat", "sil"]


class Answers(torch.nn.Module):
    """Answers every frame of a split in order, whatever it is asked."""

    def __init__(self, split, states, sure):
        super().__init__()
        self.rows, self.done = torch.cat(perfect(split, states, sure=sure)), 0

    def forward(self, x):
        self.done += len(x)
        return self.rows[self.done - len(x) : self.done]


def test_tuned_weights_are_the_best_of_the_grid(tiny, words):
    found = words.tuned([Answers(tiny.test, tiny.states, 4.0)], tiny.test)
    assert [len(pair) for pair in words.grid] == [2] * len(SCALES) * len(PENALTIES)
    best = words.grid[int(np.argmin(found["rates"]))]
    assert [found["acoustic_scale"], found["insertion_penalty"]] == best
    log_probabilities = perfect(tiny.test, tiny.states, sure=4.0)
    for i in (0, 5, len(words.grid) - 1):
        counts = words.with_weights(*words.grid[i]).errors(tiny.test.utterances, log_probabilities)
        assert found["rates"][i] == pytest.approx(rate(counts))
    assert len(set(found["rates"].tolist())) > 1


# --- phones ---------------------------------------------------------------------------------------

PHONES = ("pau", "a", "ax", "b", "q")
FOLDED = {"pau": "", "a": "a", "ax": "a", "b": "b", "q": ""}


@dataclass(frozen=True)
class Phones:
    """A corpus without words, some of whose phones count as one and some not at all."""

    name: str = "phones"
    phones: tuple[str, ...] = PHONES
    silences: tuple[str, ...] = ("pau",)
    scored_as: dict = field(default_factory=lambda: FOLDED)

    def utterances(self, speaker):
        random = np.random.default_rng(int(speaker))
        found = []
        for i in range(6):
            labels = ["pau", *random.choice(PHONES[1:], 8), "pau"]
            edges = np.cumsum([0, *random.integers(600, 1600, len(labels))]).tolist()
            phones = tuple(map(Segment, labels, edges, edges[1:]))
            noise = random.normal(0, 0.1, edges[-1]).astype(np.float32)
            found.append(Utterance(f"{speaker}-{i}", speaker, noise, phones))
        return found


@pytest.fixture(scope="module")
def phones(tmp_path_factory) -> Recognizer:
    folder, states = tmp_path_factory.mktemp("phones"), monophone_states(PHONES)
    for speaker in "012":
        shards.make_shard(Phones(), [speaker], folder / speaker)
    splits = [Frames([shards.load(folder / speaker)], states) for speaker in "012"]
    return Recognizer.of(Speech("phones", "0", Phones(), states, *splits))


def test_phones_are_scored_where_words_have_no_class(phones):
    assert not phones.words
    split = phones.speech.test
    counts = phones.errors(split.utterances, perfect(split, phones.speech.states))
    assert rate(counts) == 0
    assert counts[:, 3].sum() == sum(
        bool(FOLDED[label]) for utterance in split.utterances for label, *_ in utterance["phones"]
    )


def test_phones_fold_and_silences_are_dropped(phones):
    assert phones.scored(["pau", "a", "ax", "q", "b", "pau"]) == ["a", "a", "b"]
    utterance = phones.speech.test.utterances[0]
    assert phones.reference(utterance) == [
        FOLDED[label] for label, *_ in utterance["phones"] if label not in ("pau", "q")
    ]


def test_one_folded_phone_for_another_is_no_error(phones):
    """a for ax counts as right, b for a does not."""
    split, states = phones.speech.test, phones.speech.states
    swapped = {"ax-a": [3, 4, 5], "a-b": [9, 10, 11]}
    one_for_another = {}
    for name, to in swapped.items():
        log_probabilities = []
        for one in perfect(split, states):
            one = one.clone()
            source = [6, 7, 8] if name == "ax-a" else [3, 4, 5]
            peaks = one.argmax(1)
            for a, b in zip(source, to, strict=True):
                one[peaks == a] = one[peaks == a].roll(b - a, dims=1)
            log_probabilities.append(one)
        one_for_another[name] = rate(phones.errors(split.utterances, log_probabilities))
    assert one_for_another["ax-a"] == 0
    assert one_for_another["a-b"] > 0.1


def test_a_folders_recognizer(tmp_path):
    """A corpus from a folder is recognized phone by phone."""
    import soundfile

    from kdrepro.speech.folder import speech_folder

    random = np.random.default_rng(0)
    for speaker in ("ann", "bob", "cat"):
        (tmp_path / "f" / speaker).mkdir(parents=True)
        soundfile.write(tmp_path / "f" / speaker / "x.wav", random.normal(0, 0.1, 9600), 16_000)
        (tmp_path / "f" / speaker / "x.phn").write_text("0 1600 sil\n1600 4800 a\n4800 8000 b\n8000 9600 sil\n")
    corpus = speech_folder(tmp_path / "f", validation_speakers=["bob"], test_speakers=["cat"])
    speech = frames.load_speech(corpus, tmp_path / "cache")
    recognizer = Recognizer.of(speech)
    assert not recognizer.words
    assert rate(recognizer.errors(speech.test.utterances, perfect(speech.test, speech.states))) == 0


@given(st.text("abc", max_size=12), st.text("abc", max_size=12))
@settings(max_examples=200)
def test_errors_are_the_edit_distance(reference, hypothesis):
    functional = pytest.importorskip("torchaudio.functional")
    substitutions, insertions, deletions = error_counts(reference, hypothesis)
    assert substitutions + insertions + deletions == functional.edit_distance(reference, hypothesis)
    assert insertions - deletions == len(hypothesis) - len(reference)
    assert min(substitutions, insertions, deletions) >= 0


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", (0, 0, 0)),
        ("the cat sat", "a cat sat", (1, 0, 0)),
        ("the cat sat", "the sat", (0, 0, 1)),
        ("the cat sat", "the fat cat sat", (0, 1, 0)),
        ("the cat sat", "", (0, 0, 3)),
        ("", "the cat", (0, 2, 0)),
    ],
)
def test_error_counts_by_hand(reference, hypothesis, expected):
    assert error_counts(reference.split(), hypothesis.split()) == expected


def test_a_trigram_knows_the_same_words(tiny, words):
    other = Recognizer.of(replace(tiny, train=tiny.test), order=3)
    assert other.order == 3
    assert set(other.graph.chain_label) == set(words.graph.chain_label)
    found = other.with_weights(0.3, 0.0).errors(tiny.test.utterances, perfect(tiny.test, tiny.states))
    assert rate(found) <= 0.05


def test_phones_whatever_the_units_are(tiny):
    (utterance, *_) = tiny.test.utterances
    (found,) = perfect(tiny.test, tiny.states, [utterance])
    said, heard = utterance["phones"], phones_of(tiny, found)
    assert (heard[0].start_frame, heard[-1].end_frame) == (0, utterance["frames"])
    long_enough = [label for label, start, end in said if end - start >= 3]
    assert sum(error_counts(long_enough, [one.label for one in heard])) <= 0.2 * len(said)


def test_all_pairs_of_the_grid_at_once_are_each_by_itself(tiny, words):
    said = tiny.test.utterances[:4]
    found = [
        0.3 * one + torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
        for one in perfect(tiny.test, tiny.states, said)
    ]
    found = [one.log_softmax(1) for one in found]
    together = words.error_rates(said, found)
    alone = [rate(words.with_weights(*pair).errors(said, found)) for pair in words.grid]
    assert together.tolist() == alone
    assert len(set(alone)) > 1
