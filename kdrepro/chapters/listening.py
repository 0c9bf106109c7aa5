"""Utterances to listen to: their sound, their spectrogram, and below it what was said and what was recognised."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from kdrepro.acoustic import frames, posteriors
from kdrepro.acoustic.frames import Frames
from kdrepro.acoustic.recognition import phones_of
from kdrepro.chapters.speech import Decoder, Folded, SpeechExperiment
from kdrepro.speech import shards
from kdrepro.speech.corpus import RATE
from kdrepro.speech.shards import LEFT, RIGHT, SHARD_SPEAKERS

MOST_BYTES = 100_000  # of an utterance's sound
SECONDS = (1.2, 4.0)  # of an utterance that is shown
Label = tuple[str, int, int]  # what, from which frame on, up to which


def chosen(run: SpeechExperiment, count: int = 3) -> list[Mapping[str, Any]]:
    """Test utterances of fold 0: of each of its first speakers the first of a length that can be shown."""
    found: dict[str, Mapping[str, Any]] = {}
    for utterance in run.data.parts[0].test.utterances:
        if SECONDS[0] <= utterance["frames"] / 100 <= SECONDS[1]:
            found.setdefault(utterance["speaker"], utterance)
    return list(found.values())[:count]


def sounds(run: SpeechExperiment, utterances: Sequence[Mapping[str, Any]]) -> list[HTML]:
    """A player for each utterance, with what it plays in the page itself; one sentence where the sound is not ours.

    Synthetic speech is made again, by the same process as for the shard.
    """
    if not run.is_synthetic:
        sentence = f"The recordings of {run.data.name} are not copied into a page: play the files that the run read."
        return [HTML(f"<p>{escape(sentence)}</p>")]
    corpus = run.data.parts[0].corpus
    speakers = list(dict.fromkeys(one["speaker"] for one in run.data.parts[0].test.utterances))[:SHARD_SPEAKERS]
    last = max(speakers.index(one["speaker"]) for one in utterances)
    spoken = {one.name: one.waveform for one in shards.utterances_again(corpus, speakers[: last + 1])}
    return [_player(one["name"], spoken[one["name"]]) for one in utterances]


def _player(name: str, waveform: np.ndarray) -> HTML:
    content = base64.b64encode(ogg(waveform)).decode()
    return HTML(
        f'<p><audio controls preload="none" aria-label="{escape(name)}" src="data:audio/ogg;base64,{content}">'
        f"</audio> {escape(name)}</p>"
    )


def ogg(waveform: np.ndarray) -> bytes:
    """A waveform at `RATE` as Ogg Vorbis. Raises ValueError where that takes `MOST_BYTES` or more."""
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, np.clip(waveform, -1, 1), RATE, format="OGG", subtype="VORBIS")
    if len(content.getvalue()) >= MOST_BYTES:
        raise ValueError(f"{len(waveform) / RATE:.1f} s of sound take {len(content.getvalue()):,} bytes: show less.")
    return content.getvalue()


def heard(
    run: SpeechExperiment,
    utterances: Sequence[Mapping[str, Any]],
    systems: Mapping[str, tuple[Sequence[Folded], Decoder]],
) -> Figure:
    """Utterances of fold 0, one below the other: spectrogram, the phones and words that were said, and each system's.

    systems: by name its networks and its decoder; where that recognises phones, there are no words.
    """
    lines = [recognised(run, utterance, systems) for utterance in utterances]
    rows = max(map(len, lines))
    figure, axes = plt.subplots(
        2 * len(lines),
        1,
        figsize=(7.6, len(lines) * (1.4 + 0.32 * rows)),
        height_ratios=[3, 0.8 * rows] * len(lines),
        squeeze=False,
    )
    for utterance, found, top, bottom in zip(utterances, lines, axes[::2, 0], axes[1::2, 0], strict=True):
        spectrogram(top, features_of(run.data.parts[0].test, utterance))
        top.set_title(utterance["name"], fontsize=8, loc="left")
        top.tick_params(labelbottom=False)
        for i, labels in enumerate(found.values()):
            boxes(bottom, labels, -i)
        bottom.set_yticks([-i for i in range(len(found))], list(found), fontsize=8)
        bottom.set(xlim=top.get_xlim(), ylim=(-len(found) + 0.4, 0.6))
        bottom.grid(False)
    axes[-1, 0].set_xlabel("frame (10 ms)")
    for bottom in axes[1::2, 0]:
        apart(figure, bottom.texts)
    return figure


def recognised(
    run: SpeechExperiment, utterance: Mapping[str, Any], systems: Mapping[str, tuple[Sequence[Folded], Decoder]]
) -> dict[str, list[Label]]:
    """What was said in an utterance and what each system made of it, phones first, then words where it knows any."""
    phones: dict[str, list[Label]] = {"said, phones": list(utterance["phones"])}
    words: dict[str, list[Label]] = {}
    inputs = windows(run.data.parts[0].test, utterance).to(run.device)
    for name, (networks, (recognizer, *_)) in systems.items():
        found = posteriors.mean_log_probabilities([net[0].network for net in networks], inputs)
        phones[f"{name}, phones"] = [tuple(one) for one in phones_of(run.data.parts[0], found)]
        if recognizer.words:
            words[f"{name}, words"] = [tuple(one) for one in recognizer.recognize([found])[0]]
    said = [(word, start, end) for word, _, start, end in utterance["words"]]
    return phones | ({"said, words": said} | words if words else {})


def labelled_spectrograms(split: Frames, speakers: int = 3, seconds: float = 1.6) -> Figure:
    """The beginning of an utterance of several speakers, with the boundaries and names of its phones."""
    first_of: dict[str, Mapping[str, Any]] = {}
    for utterance in split.utterances:
        first_of.setdefault(utterance["speaker"], utterance)
    spoken = list(first_of.values())
    speakers = min(speakers, len(spoken))
    figure, axes = plt.subplots(speakers, 1, figsize=(7.6, 1.75 * speakers), squeeze=False)
    for ax, i in zip(axes.flat, range(speakers), strict=True):
        utterance = spoken[i * len(spoken) // speakers]
        shown = min(int(100 * seconds), utterance["frames"])
        spectrogram(ax, features_of(split, utterance)[:shown])
        for label, start, end in (one for one in utterance["phones"] if one[1] < shown - 2):
            ax.axvline(start - 0.5, color="white", lw=0.8)
            middle = (start + min(end, shown)) / 2 - 0.5
            ax.text(middle, ax.get_ylim()[1] + 1, label, ha="center", va="bottom", fontsize=7)
        ax.set_title(utterance["name"], fontsize=8, loc="left", pad=20)
        apart(figure, ax.texts, steps=(0, 1, 2))
    axes[-1, 0].set_xlabel("frame (10 ms)")
    return figure


def boxes(ax: Axes, labels: Sequence[Label], y: float) -> None:
    """Labels side by side at a height, each between the lines where it begins and ends; silences have none."""
    for label, start, end in labels:
        ax.plot([start - 0.5, start - 0.5], [y - 0.4, y + 0.4], color="grey", lw=0.8)
        ax.text((start + end) / 2 - 0.5, y, label or "·", ha="center", va="center", fontsize=7, clip_on=True)


def apart(figure: Figure, texts: Sequence[Text], steps: Sequence[int] = (0, 1, -1)) -> None:
    """Move texts of one axes that would overlap up or down, make smaller what still does, and hide it at last.

    steps: where a text may go, in heights of itself above its place.
    """
    figure.draw_without_rendering()  # a constrained layout settles first
    placed: list[Text] = []
    for text in texts:
        place = text.get_position()
        for size in (7, 6, 5, 4):
            text.set_fontsize(size)
            if any(_fits(figure, text, place, step, placed) for step in steps):
                break
        else:
            text.set_visible(False)
        placed.append(text)


def _fits(figure: Figure, text: Text, place: tuple[float, float], step: int, placed: Sequence[Text]) -> bool:
    """Whether a text is clear of the others when it is so many of its heights above a place; it stays there."""
    renderer = figure.canvas.get_renderer()
    height = text.get_window_extent(renderer).height
    pixels = text.axes.transData.transform(place) + np.array([0, step * height])
    text.set_position(tuple(text.axes.transData.inverted().transform(pixels)))
    box = text.get_window_extent(renderer)
    return not any(one.get_visible() and box.overlaps(one.get_window_extent(renderer)) for one in placed)


def features_of(split: Frames, utterance: Mapping[str, Any]) -> np.ndarray:
    """The normalised log-mel coefficients of an utterance, [frames, 40]."""
    return _padded(split, utterance)[LEFT : LEFT + utterance["frames"]].astype(np.float32)


def windows(split: Frames, utterance: Mapping[str, Any]) -> torch.Tensor:
    """What a net sees of each frame of an utterance: [frames, 1040]."""
    return frames.cut_windows(torch.from_numpy(_padded(split, utterance)), torch.arange(utterance["frames"]))


def _padded(split: Frames, utterance: Mapping[str, Any]) -> np.ndarray:
    """A copy of an utterance's stored features with their context on both sides, float16."""
    shard = int(np.searchsorted(split.offsets, utterance["first"], side="right")) - 1
    first = utterance["row"]
    return np.array(split.shards[shard].features[first : first + LEFT + utterance["frames"] + RIGHT])


def spectrogram(ax: Axes, features: np.ndarray) -> None:
    """Normalised coefficients [frames, 40] as an image."""
    ax.imshow(features.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest", vmin=-2, vmax=2.5)
    ax.set_ylabel("mel filter")
    ax.grid(False)
