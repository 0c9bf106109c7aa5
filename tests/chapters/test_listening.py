"""Utterances to listen to: the sound of the shard, labels that do not collide, and what may be played at all."""

import base64
import re
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import soundfile
import torch

from kdrepro.chapters import listening
from kdrepro.speech.corpus import RATE
from kdrepro.speech.features import log_mel


def sound_of(player, path):
    path.write_bytes(base64.b64decode(re.search(r"base64,([^\"]+)", player.data)[1]))
    return soundfile.read(path)


def test_players_hold_the_sound_that_the_nets_heard(speech_run, tmp_path):
    """Made again by another process, it has the features of the shard, but for what Vorbis and noise leave of them."""
    chosen = listening.chosen(speech_run, 2)
    assert len({one["speaker"] for one in chosen}) == len(chosen) == 2
    test = speech_run.data.parts[0].test
    for utterance, player in zip(chosen, listening.sounds(speech_run, chosen), strict=True):
        waveform, rate = sound_of(player, tmp_path / "x.ogg")
        assert rate == RATE
        assert (tmp_path / "x.ogg").stat().st_size < listening.MOST_BYTES
        found, expected = log_mel(waveform.astype(np.float32)), listening.features_of(test, utterance)
        assert abs(len(found) - len(expected)) <= 1
        count = min(len(found), len(expected))
        assert np.corrcoef(found[:count, 10], expected[:count, 10])[0, 1] > 0.95
        assert f'aria-label="{utterance["name"]}"' in player.data
        assert "http" not in player.data


def test_recordings_of_people_are_not_copied_into_a_page(speech_run, monkeypatch):
    monkeypatch.setattr(type(speech_run), "is_synthetic", property(lambda run: False))
    (said,) = listening.sounds(speech_run, listening.chosen(speech_run))
    assert "are not copied into a page" in said.data
    assert "<audio" not in said.data


def test_sound_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="show less"):
        listening.ogg(np.random.default_rng(0).uniform(-1, 1, 30 * RATE))


def overlapping(figure, texts):
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_visible()]
    return [(a, b) for a, b in combinations(boxes, 2) if a.overlaps(b)]


def test_labels_do_not_collide(speech_run, speech_members):
    test = speech_run.data.parts[0].test
    spectrograms = listening.labelled_spectrograms(test, speakers=5)
    assert len(spectrograms.axes) == 2  # as many as there are speakers
    for ax in spectrograms.axes:
        assert len(ax.texts) > 5
        assert not overlapping(spectrograms, ax.texts)
    utterances = listening.chosen(speech_run)
    decoder = speech_run.decoder(speech_members[0])
    systems = {"one": (speech_members[:1], decoder), "both": (speech_members, decoder)}
    figure = listening.heard(speech_run, utterances, systems)
    assert len(figure.axes) == 2 * len(utterances)
    utterance, bottom = utterances[-1], figure.axes[-1]
    names = [label.get_text() for label in bottom.get_yticklabels()]
    assert names == ["said, phones", "one, phones", "both, phones", "said, words", "one, words", "both, words"]
    assert not overlapping(figure, bottom.texts)
    said = [text.get_text() for text in bottom.texts]
    assert next(word for word, *_ in utterance["words"]) in said
    plt.close("all")


def test_crowded_labels_move_then_shrink_then_go():
    figure, ax = plt.subplots(figsize=(3, 1))
    ax.set(xlim=(0, 100), ylim=(-2, 2))
    listening.boxes(ax, [("word", i, i + 1) for i in range(0, 40, 4)], 0)
    assert overlapping(figure, ax.texts)
    listening.apart(figure, ax.texts)
    assert not overlapping(figure, ax.texts)
    assert len({text.get_position()[1] for text in ax.texts}) > 1
    assert any(text.get_visible() for text in ax.texts)
    plt.close("all")


def test_features_and_windows_are_those_of_the_split(speech_run):
    test = speech_run.data.parts[0].test
    utterance = test.utterances[3]
    windows = torch.cat(list(test.windows()))[utterance["first"] : utterance["first"] + utterance["frames"]]
    features = listening.features_of(test, utterance)
    assert np.array_equal(features, windows.view(-1, 26, 40)[:, 20].float().numpy())
    assert torch.equal(listening.windows(test, utterance), windows)
