"""Chapter 3: Table 1, what its text quotes, what its systems cost, and figures of speech."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdrepro.acoustic import frames, posteriors, soft_targets
from kdrepro.acoustic.frames import WINDOW_FRAMES, Frames
from kdrepro.chapters import figures
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.speech import CURVE_FRAMES, Folded, Found, Score, SpeechExperiment, evenly, mean_percent, percent
from kdrepro.networks import parameter_count
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.shards import LEFT, RIGHT
from kdrepro.training import lanes
from kdrepro.verdicts import stats, wording

# The paper's Table 1: frame accuracy and word error rate.
PAPER = {"baseline": (0.589, 0.109), "ensemble": (0.611, 0.107), "distilled": (0.608, 0.107)}


def table1(found: Found) -> pd.DataFrame:
    """The paper's Table 1 with ours beside it, for every data set: means over seeds with their 95 % intervals."""
    lines = []
    for system, (accuracy, errors) in PAPER.items():
        line = {"system": system, ("paper", "frame accuracy"): percent(accuracy), ("paper", "WER"): percent(errors)}
        for run, scores in found:
            kind = "WER" if run.is_synthetic else "PER"
            line[run.data.name, "frame accuracy"] = mean_percent([s.frame_accuracy for s in scores[system]])
            line[run.data.name, kind] = mean_percent([s.error_rate for s in scores[system]])
        lines.append(line)
    table = pd.DataFrame(lines).set_index("system")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def table1_texts(claims: Mapping[str, Any], error_metric: str = "word_error_rate") -> dict[str, str]:
    """What the text quotes of Table 1's claims in a record; a dash for a share of a gain that is 0."""
    means = {system: claims[f"speech.{system}"]["mean"] for system in PAPER}
    words = [mean[error_metric] for mean in means.values()]
    return {
        **{system: percent(mean["frame_accuracy"]) for system, mean in means.items()},
        "kept": wording.written("recovered", claims["speech.recovered"]["mean"].get("recovered")),
        "verdict": claims["speech.recovered"]["verdict"],
        "kept_words": wording.written("recovered", share_kept(*words)),
        "wer": "{:.1f}, {:.1f} and {:.1f} %".format(*(100 * rate for rate in words)),
    }


def share_kept(baseline: float, ensemble: float, distilled: float) -> float | None:
    """The share of the way from the baseline to the ensemble that the distilled net goes; None where there is none."""
    return (distilled - baseline) / (ensemble - baseline) if ensemble != baseline else None


def control_texts(control: pd.DataFrame, ensemble: Score) -> dict[str, str]:
    """What the text quotes of the longer training: `control` has a row a system, with its rates in per cent."""
    right, wrong = control["frame accuracy, %"], control["error rate, %"]
    kept = share_kept(right["longer baseline"], 100 * ensemble.frame_accuracy, right["distilled"])
    return {
        "kept_longer": wording.written("recovered", kept),
        "words_longer": f"{wrong['longer baseline']:.1f} %",
        "words_distilled": f"{wrong['distilled']:.1f} %",
        "words_ensemble": percent(ensemble.error_rate),
    }


def temperature_texts(found: pd.DataFrame) -> dict[str, str]:
    """The best temperature of a sweep, what it reaches, and what T = 2 does, a dash where that was not tried."""
    at = found.groupby("temperature")["frame accuracy, %"].mean()
    two = f"{at[2]:.1f} %" if 2 in at else "–"
    return {"at_two": two, "at_best": f"{at.max():.1f} %", "best_t": f"{at.idxmax():g}"}


def states_kept(top_k: int | None, states: int) -> str:
    """How much of a frame's soft targets is stored, in words."""
    return "all states" if top_k is None or top_k >= states else f"{top_k} states"


def accuracy_in_training(run: SpeechExperiment, net: Folded, most: int = CURVE_FRAMES) -> float:
    """Frame accuracy on at most so many of all training frames, evenly spaced; the mean over folds."""
    found = []
    for fold, trained in enumerate(net):
        split = run.data.parts[fold].train
        which = evenly(len(split), most)
        config = {"training_accuracy": trained.key, "frames": len(which), "data": run.data.parts[fold].fingerprint}
        computed = run.store.compute_or_load(
            config, lambda t=trained, s=split, w=which: {"accuracy": posteriors.accuracy(t.network, s, w, run.device)}
        )
        found.append(float(computed["accuracy"]))
    return float(np.mean(found))


def divergences(
    run: SpeechExperiment, members: Sequence[Folded], nets: Mapping[str, Folded], most: int = 10_000
) -> pd.DataFrame:
    """Mean KL(ensemble || net) in nats at T = 1, a row a net, on training and on validation frames of fold 0.

    members: of the ensemble. most: at most so many frames of a split are looked at, evenly spaced.
    """
    speech = run.data.parts[0]
    teachers = [folded[0] for folded in members]

    def compute(split: frames.Frames, net: Trained) -> dict[str, float]:
        which = evenly(len(split), most)
        total = 0.0
        for inputs in split.windows(run.device, which=which):
            p = posteriors.mean_log_probabilities([t.network for t in teachers], inputs)
            q = posteriors.mean_log_probabilities([net.network], inputs)
            total += (p.exp() * (p - q)).sum().item()
        return {"nats": total / len(which)}

    lines: dict[str, dict[str, float]] = {}
    for name, folded in nets.items():
        lines[name] = {}
        for kind, split in (("training frames", speech.train), ("other speakers' frames", speech.validation)):
            key = [t.key for t in teachers]
            config = {"divergence": folded[0].key, "of": key, "on": kind, "most": most, "data": speech.fingerprint}
            found = run.store.compute_or_load(config, lambda s=split, n=folded[0]: compute(s, n))
            lines[name][kind] = float(found["nats"])
    return pd.DataFrame.from_dict(lines, orient="index")


def paired_tests(found: Found) -> pd.DataFrame:
    """Systems two at a time: differences over test speakers (seeds averaged) and over seeds, and McNemar's counts."""
    lines = []
    for run, scores in found:
        for first, second in (("ensemble", "baseline"), ("distilled", "baseline"), ("ensemble", "distilled")):
            a, b = (np.mean([s.by_speaker() for s in scores[name]], axis=0) for name in (first, second))
            mean, ends, p = stats.paired(a, b)
            only_b, only_a, p_frames = stats.mcnemar(~scores[first][0].correct, ~scores[second][0].correct)
            lines.append(
                {
                    "data": run.data.name,
                    "systems": f"{first} − {second}",
                    "points, mean over speakers": f"{100 * mean:+.2f}",
                    "95 % over speakers": "–" if ends is None else "{:+.2f} to {:+.2f}".format(*(100 * np.array(ends))),
                    "p, speakers": "–" if p is None else f"{p:.1e}",
                    "frames only the first / second gets right": f"{only_a:,} / {only_b:,}",
                    "p, frames": f"{p_frames:.1e}",
                }
            )
    return pd.DataFrame(lines).set_index(["data", "systems"])


def ensemble_sizes(
    run: SpeechExperiment, members: Sequence[Folded], split: str = "test"
) -> tuple[np.ndarray, np.ndarray]:
    """Frame accuracy of each member alone and of the average of the first n, two arrays [members]; fold 0."""
    networks, speech = [folded[0] for folded in members], run.data.parts[0].split(split)
    config = {"ensemble_sizes": [net.key for net in networks], "split": split, "data": run.data.fingerprint}

    def compute() -> dict[str, np.ndarray]:
        right, done = np.zeros((2, len(networks))), 0
        for inputs in speech.windows(run.device):
            targets, total = speech.targets[done : done + len(inputs)], None
            done += len(inputs)
            for i, net in enumerate(networks):
                p = posteriors.mean_log_probabilities([net.network], inputs).exp_()
                right[0, i] += int((p.argmax(1).cpu() == targets).sum())
                total = p if total is None else total.add_(p)
                right[1, i] += int((total.argmax(1).cpu() == targets).sum())
        return {"accuracy": right / done}

    return tuple(run.store.compute_or_load(config, compute)["accuracy"])


def cost(net: Trained, repeats: int = 21) -> dict[str, float]:
    """What a net costs to use: parameters, microseconds a frame one at a time, and its share of real time in batches.

    Measured on this machine's processor, one thread, in single precision.
    """
    network = copy.deepcopy(net.network).cpu()
    single = _seconds(lambda count: network(torch.zeros(count, WINDOW_FRAMES * COEFFICIENTS)), 1, repeats)
    batch = _seconds(lambda count: network(torch.zeros(count, WINDOW_FRAMES * COEFFICIENTS)), 1000, repeats)
    # 1,000 frames are 10 s of speech.
    return {"parameters": parameter_count(network), "µs a frame, alone": 1e6 * single, "real-time factor": batch / 10}


@torch.no_grad()
def _seconds(compute: Callable[[int], Any], count: int, repeats: int = 11) -> float:
    """The median time of compute(count) on one thread, the first time left out."""
    taken = []
    with lanes.threads(1):
        for _ in range(repeats + 1):
            began = time.perf_counter()
            compute(count)
            taken.append(time.perf_counter() - began)
    return float(np.median(taken[1:]))


def top_k_table(
    run: SpeechExperiment, members: Sequence[Folded], kept: Sequence[int], temperatures: Sequence[float]
) -> pd.DataFrame:
    """What storing only the k largest of the ensemble's predictions loses and saves, on validation frames of fold 0.

    The last row computes them from the networks each time. Times are those of one thread for a batch of 256.
    """
    networks = [copy.deepcopy(folded[0].network).cpu() for folded in members]
    inputs = next(run.data.parts[0].validation.windows("cpu", chunk=4096))
    whole = posteriors.mean_log_probabilities(networks, inputs)
    classes = whole.shape[1]
    lines = []
    for k in [*(k for k in kept if k < classes), classes]:
        best = whole.half() if k == classes else whole.topk(k, dim=1)
        read = partial(_read_stored, best, whole.exp().mean(0))
        line: dict[str, Any] = {"states kept": str(k) if k < classes else f"all {k}"}
        for t in temperatures:
            p, q = (whole / t).log_softmax(1), (read(len(whole)) / t).log_softmax(1)
            line[f"KL at T = {t:g}, nats"] = f"{(p.exp() * (p - q)).sum(1).mean().item():.1e}"
        size = 4 * k if k < classes else 2 * classes
        lines.append(line | {"bytes a frame": size, "ms a batch": round(1e3 * _seconds(read, 256), 2)})
    anew = _seconds(lambda count: posteriors.mean_log_probabilities(networks, inputs[:count]), 256)
    lines.append({"states kept": "none: computed", "bytes a frame": 0, "ms a batch": round(1e3 * anew, 2)})
    return pd.DataFrame(lines).set_index("states kept").fillna("0")


def _read_stored(best: Any, prior: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` frames of what `soft_targets.SoftTargets` would have read from disk."""
    if isinstance(best, torch.Tensor):
        return best[:count].float()
    return soft_targets.spread_rest(best.values[:count].half().float(), best.indices[:count], len(prior), prior)


def decoding_speed(run: SpeechExperiment, net: Folded) -> float:
    """Seconds that decoding an hour of speech takes, one thread, without the net; on test utterances of fold 0."""
    recognizer, split = run.recognizer(0), run.data.parts[0].test
    utterances, found = next(posteriors.by_utterance([net[0].network], split, "arithmetic", run.device))
    found = [one.cpu() for one in found]
    with lanes.threads(1):
        began = time.perf_counter()
        recognizer.recognize(found)
        took = time.perf_counter() - began
    return took * 360_000 / sum(u["frames"] for u in utterances)


def temperature_figure(found: pd.DataFrame, level: float) -> Figure:
    """Frame accuracy over the temperature, a dot a seed; `level`, in per cent, is that of hard targets."""
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    figures.sweep(ax, found, "temperature", "frame accuracy, %")
    ax.axhline(level, ls="--", color=COLOURS[1], label="hard targets")
    ax.set_ylim(min(ax.get_ylim()[0], level - 0.5), max(ax.get_ylim()[1], level + 0.5))
    at = sorted(set(found["temperature"]))
    ax.set_xticks(at, [f"{t:g}" for t in at])
    ax.minorticks_off()
    ax.legend(loc="upper right")
    return figure


def sizes_figure(alone: np.ndarray, growing: np.ndarray) -> Figure:
    """Frame accuracies of `ensemble_sizes`: each member alone, and the average of the first n."""
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    count = np.arange(1, len(growing) + 1)
    ax.plot(count, 100 * growing, "o-", color=COLOURS[0], label="average of the first n")
    ax.plot(count, 100 * alone, "o", color=COLOURS[1], label="the n-th member alone")
    ax.set(xlabel="n", ylabel="test frames right, %")
    ax.set_xticks(count)
    ax.legend()
    return figure


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
        found = posteriors.mean_log_probabilities([folded[0].network for folded in members], inputs)
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
    found = posteriors.mean_log_probabilities([folded[0].network for folded in members], inputs).cpu()
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
