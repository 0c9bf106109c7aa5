"""TIMIT's labels in the phones that an aligner knows, and the aligner's beside them."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from kdrepro.errors import InputError, NotInstalledError
from kdrepro.speech import relabelled
from kdrepro.speech.align import SILENCE, Aligned
from kdrepro.speech.corpus import Segment, Utterance
from kdrepro.speech.timit import PHONES


class Spoken:
    """A corpus in memory, as far as `Relabelled` asks it."""

    name = "timit-sample"

    def __init__(self):
        labels = [
            ("h#", 0, 100),
            ("tcl", 100, 200),
            ("t", 200, 300),
            ("ix", 300, 400),
            ("q", 400, 500),
            ("pau", 500, 600),
        ]
        self.one = Utterance(
            "one",
            "ann",
            np.zeros(600, np.float32),
            tuple(Segment(*label) for label in labels),
            (Segment("tea", 100, 400),),
        )

    def fingerprint(self):
        return "f"

    def speakers(self):
        return {"train": ("ann",), "validation": (), "test": ("bob",)}

    def utterances(self, speaker):
        return [dataclasses.replace(self.one, speaker=speaker)]


def test_every_label_of_timit_has_one_that_both_know():
    assert set(relabelled.COMMON) == set(PHONES)
    assert len(relabelled.PHONES) == 38  # of the dictionary's 39 and silence, without ao and zh
    assert {"bcl", "dx", "zh", "ax", "pau"}.isdisjoint(relabelled.PHONES)
    assert set(relabelled.COMMON[stop] for stop in ("bcl", "b")) == {"b"}


def test_closures_join_their_stops_and_silences_one_another():
    found = relabelled.Relabelled(Spoken(), aligned=False).utterances("ann")[0].phones
    assert found == (
        Segment(SILENCE, 0, 100),
        Segment("t", 100, 300),
        Segment("ih", 300, 400),
        Segment(SILENCE, 400, 600),
    )


def test_training_utterances_alone_are_aligned(monkeypatch):
    phones = (Segment("sil", 0, 90), Segment("t", 90, 250), Segment("zh", 250, 600))
    asked = []

    def align(waveform, words):
        asked.append(list(words))
        return Aligned(phones, (Segment("tea", 90, 600),))

    monkeypatch.setattr(relabelled, "align", align)
    corpus = relabelled.Relabelled(Spoken(), aligned=True)
    (train,), (test,) = corpus.utterances("ann"), corpus.utterances("bob")
    assert asked == [["tea"]]
    assert [phone.label for phone in train.phones] == ["sil", "t", "sh"]
    assert train.words[0].start == 90
    by_hand = relabelled.Relabelled(Spoken(), aligned=False)
    assert test.phones == by_hand.utterances("bob")[0].phones
    assert corpus.fingerprint() != by_hand.fingerprint()
    assert (corpus.name, by_hand.name) == ("timit-sample-aligned", "timit-sample-by-hand")
    assert all(one.end == two.start for one, two in pairwise(train.phones))


def test_what_the_aligner_loses_is_left_out(monkeypatch):
    def lose(waveform, words):
        raise InputError("None of 4 passes could align 'tea'")

    def absent(waveform, words):
        raise NotInstalledError("To align needs pocketsphinx, which is not installed: pip install 'kdrepro[align]'.")

    corpus = relabelled.Relabelled(Spoken(), aligned=True)
    monkeypatch.setattr(relabelled, "align", lose)
    assert corpus.utterances("ann") == []
    monkeypatch.setattr(relabelled, "align", absent)
    with pytest.raises(NotInstalledError, match="pip install"):
        corpus.utterances("ann")
