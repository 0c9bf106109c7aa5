"""Figures of speech: spectrograms with their labels, what was decoded, soft targets around a boundary."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro import frames
from kdrepro.figures import COLOURS
from kdrepro.frames import Frames
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.shards import LEFT, RIGHT
from kdrepro.speech_experiments import Folded, SpeechExperiment


def features_of(split: Frames, utterance: Mapping[str, Any]) -> np.ndarray:
    """The normalised log-mel coefficients of an utterance, [frames, 40]."""
    return _padded(split, utterance)[LEFT : LEFT + utterance["frames"]].astype(np.float32)


def labelled_spectrograms(split: Frames, speakers: int = 3, seconds: float = 1.6) -> Figure:
    """The beginning of an utterance of several speakers, with the boundaries and names of its phones."""
    first_of = {}
    for utterance in split.utterances:
        first_of.setdefault(utterance["speaker"], utterance)
    chosen = list(first_of.values())
    speakers = min(speakers, len(chosen))
    chosen = [chosen[i * len(chosen) // speakers] for i in range(speakers)]
    figure, axes = plt.subplots(len(chosen), 1, figsize=(7.6, 1.75 * len(chosen)), squeeze=False)
    for ax, utterance in zip(axes.flat, chosen, strict=True):
        shown = min(int(100 * seconds), utterance["frames"])
        _spectrogram(ax, features_of(split, utterance)[:shown])
        _labels(ax, [p for p in utterance["phones"] if p[1] < shown - 2], shown, COEFFICIENTS + 1)
        ax.set_title(utterance["name"], fontsize=8, loc="left", pad=14)
    axes[-1, 0].set_xlabel("frame (10 ms)")
    return figure


def decoded_utterance(run: SpeechExperiment, systems: Mapping[str, Sequence[Folded]], seconds: float = 2.5) -> Figure:
    """A test utterance of fold 0: spectrogram, reference, and what each system's states were decoded to."""
    split, recognizer = run.data.parts[0].test, run.recognizer(0)
    utterances = split.utterances
    utterance = next((u for u in utterances if u["frames"] >= 100 * seconds), utterances[0])
    shown = min(int(100 * seconds), utterance["frames"])
    reference = [(w, a, b) for w, _, a, b in utterance["words"]] if recognizer.words else utterance["phones"]
    lines = {"reference": reference}
    inputs = _windows(split, utterance).to(run.device)
    for name, members in systems.items():
        found = frames.mean_log_probabilities([folded[0].network for folded in members], inputs)
        lines[name] = [tuple(one) for one in recognizer.recognize([found])[0]]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.6, 3.6), sharex=True, height_ratios=(3, 0.75 * len(lines)))
    _spectrogram(top, features_of(split, utterance)[:shown])
    for i, labels in enumerate(lines.values()):
        for label, start, end in labels:
            if start < shown:
                _box(bottom, label, start, min(end, shown), -i)
    bottom.set_yticks([-i for i in range(len(lines))], list(lines))
    bottom.set(ylim=(-len(lines) + 0.5, 0.5), xlabel="frame (10 ms)")
    bottom.grid(False)
    return figure


def boundary(
    run: SpeechExperiment, members: Sequence[Folded], temperatures: Sequence[float], margin: int = 9, states: int = 6
) -> Figure:
    """The ensemble's soft targets around a boundary within a word, one panel a temperature; fold 0's test frames."""
    speech = run.data.parts[0]
    utterance, at = _a_boundary(speech.test, set(speech.corpus.silences), margin)
    inputs = _windows(speech.test, utterance)[at - margin : at + margin].to(run.device)
    found = frames.mean_log_probabilities([folded[0].network for folded in members], inputs).cpu()
    names = speech.states.names()
    figure, axes = plt.subplots(1, len(temperatures), figsize=(7.6, 3.2), sharey=True, squeeze=False)
    top = found.exp().max(0).values.topk(states).indices.tolist()
    for ax, t in zip(axes.flat, temperatures, strict=True):
        p = torch.softmax(found / t, 1)
        for k, state in enumerate(top):
            ax.plot(
                range(-margin, margin), p[:, state], "o-", ms=3, color=COLOURS[k % len(COLOURS)], label=names[state]
            )
        ax.axvline(-0.5, color="black", ls="--", lw=1)
        ax.set(xlabel="frames from the boundary", title=f"T = {t:g}")
    axes[0, 0].set_ylabel("probability")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=states // 2, fontsize=9)
    return figure


def _a_boundary(split: Frames, silences: set[str], margin: int) -> tuple[Mapping[str, Any], int]:
    """An utterance, and the frame where one long phone that is no silence gives way to another."""
    for least in range(margin, 0, -1):
        for utterance in split.utterances:
            for (one, start, end), (other, _, last) in zip(utterance["phones"], utterance["phones"][1:], strict=False):
                if {one, other} & silences or end < margin or end + margin > utterance["frames"]:
                    continue
                if end - start >= least and last - end >= least:
                    return utterance, end
    raise ValueError("The split has no utterance that is long enough.")


def _windows(split: Frames, utterance: Mapping[str, Any]) -> torch.Tensor:
    return frames.cut_windows(torch.from_numpy(_padded(split, utterance)), torch.arange(utterance["frames"]))


def _padded(split: Frames, utterance: Mapping[str, Any]) -> np.ndarray:
    """A copy of an utterance's stored features with their context on both sides, float16."""
    shard = int(np.searchsorted(split.offsets, utterance["first"], side="right")) - 1
    first = utterance["row"]
    return np.array(split.shards[shard].features[first : first + LEFT + utterance["frames"] + RIGHT])


def _spectrogram(ax: Axes, features: np.ndarray) -> None:
    ax.imshow(features.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest", vmin=-2, vmax=2.5)
    ax.set_ylabel("mel filter")
    ax.grid(False)


def _labels(ax: Axes, phones: Sequence[tuple[str, int, int]], shown: int, height: float) -> None:
    for label, start, end in phones:
        ax.axvline(start - 0.5, color="white", lw=0.8)
        ax.text((start + min(end, shown)) / 2 - 0.5, height, label, ha="center", va="bottom", fontsize=7)


def _box(ax: Axes, label: str, start: int, end: int, y: float) -> None:
    ax.plot([start - 0.5, start - 0.5], [y - 0.4, y + 0.4], color="grey", lw=0.8)
    ax.text((start + end) / 2 - 0.5, y, label or "·", ha="center", va="center", fontsize=8, clip_on=True)
