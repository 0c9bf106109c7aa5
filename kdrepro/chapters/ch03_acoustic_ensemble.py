"""Chapter 3: Table 1, what its text quotes, words, labels of an aligner, what its systems cost, and figures."""

import copy
import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdrepro import paths
from kdrepro.acoustic import frames, posteriors, soft_targets
from kdrepro.acoustic.frames import WINDOW_FRAMES, Frames
from kdrepro.chapters import figures
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.listening import windows
from kdrepro.chapters.speech import CURVE_FRAMES, Folded, Folds, Score, SpeechExperiment, evenly, mean_percent, percent
from kdrepro.networks import parameter_count
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.speech.relabelled import Relabelled
from kdrepro.training import lanes
from kdrepro.verdicts import recompute, wording

# The paper's Table 1: frame accuracy and word error rate.
PAPER = {"baseline": (0.589, 0.109), "ensemble": (0.611, 0.107), "distilled": (0.608, 0.107)}
Scores = Mapping[str, Sequence[Sequence[Score]]]  # system -> seed -> one an ensemble; ensembles have one "seed"
Found = Sequence[tuple[SpeechExperiment, Scores]]  # a data set each


def accuracies(scores: Sequence[Sequence[Score]]) -> np.ndarray:
    """Frame accuracies of a system, [seeds, ensembles]."""
    return np.array([[score.frame_accuracy for score in each] for each in scores])


def error_rates(scores: Sequence[Sequence[Score]]) -> np.ndarray:
    """Error rates of a system after decoding, [seeds, ensembles]."""
    return np.array([[score.error_rate for score in each] for each in scores])


def table1(found: Found) -> pd.DataFrame:
    """The paper's Table 1 with ours beside it, for every data set: means over seeds with their 95 % intervals.

    A seed's figure is the mean over the ensembles' nets.
    """
    lines = []
    for system, (accuracy, errors) in PAPER.items():
        line = {"system": system, ("paper", "frame accuracy"): percent(accuracy), ("paper", "WER"): percent(errors)}
        for run, scores in found:
            kind = "WER" if run.is_synthetic else "PER"
            line[run.data.name, "frame accuracy"] = mean_percent(accuracies(scores[system]).mean(1))
            line[run.data.name, kind] = mean_percent(error_rates(scores[system]).mean(1))
        lines.append(line)
    table = pd.DataFrame(lines).set_index("system")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def by_ensemble(scores: Scores) -> pd.DataFrame:
    """The systems of each ensemble by itself, in per cent, and what its students keep of its gain; means over seeds."""
    found = {system: 100 * accuracies(each).mean(0) for system, each in scores.items()}
    table = pd.DataFrame(found, index=pd.RangeIndex(1, len(found["baseline"]) + 1, name="ensemble"))
    gain = table["ensemble"] - table["baseline"]
    kept = 100 * (table["distilled"] - table["baseline"]) / gain.where(gain != 0)
    return table.assign(**{"kept of the gain": kept}).add_suffix(", %").round(2)


def table1_texts(claims: Mapping[str, Any], error_metric: str = "word_error_rate") -> dict[str, str]:
    """What the text quotes of Table 1's claims in a record; a dash for a share of a gain that is 0."""
    means = {system: claims[f"speech.{system}"]["mean"] for system in PAPER}
    errors = [mean[error_metric] for mean in means.values()]
    return {
        **{system: percent(mean["frame_accuracy"]) for system, mean in means.items()},
        "kept": wording.written("recovered", claims["speech.recovered"]["mean"].get("recovered")),
        "verdict": claims["speech.recovered"]["verdict"],
        "kept_words": wording.written("recovered", share_kept(*errors)),
        "wer": "{:.1f}, {:.1f} and {:.1f} %".format(*(100 * rate for rate in errors)),
    }


def share_kept(baseline: float, ensemble: float, distilled: float) -> float | None:
    """The share of the way from the baseline to the ensemble that the distilled net goes; None where there is none."""
    return (distilled - baseline) / (ensemble - baseline) if ensemble != baseline else None


def by_pass(systems: Mapping[str, Sequence[Folded]]) -> pd.DataFrame:
    """Accuracy on validation speakers after every pass, in per cent, a row a net and pass; the mean over folds."""
    rows = []
    for system, nets in systems.items():
        for net in nets:
            noted = [[row for row in fold.history if "validation_frame_accuracy" in row] for fold in net]
            for looks in zip(*noted, strict=True):
                accuracy = 100 * float(np.mean([look["validation_frame_accuracy"] for look in looks]))
                rows.append({"system": system, "net": net[0].key, "pass": looks[0]["epoch"], "accuracy, %": accuracy})
    return pd.DataFrame(rows)


def passes_figure(found: pd.DataFrame) -> Figure:
    """Accuracy on validation speakers over the passes, a line a net; see `by_pass`."""
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    systems = list(dict.fromkeys(found["system"]))
    for system, colour in zip(systems, figures.colours_of(systems), strict=True):
        for i, (_, one) in enumerate(found[found["system"] == system].groupby("net", sort=False)):
            ax.plot(one["pass"], one["accuracy, %"], color=colour, lw=1.1, label=system if i == 0 else None)
    ax.set(xlabel="passes over the training speech", ylabel="validation frames right, %")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return figure


def half_again(run: SpeechExperiment) -> dict[str, list[Folded]]:
    """Baselines of a few seeds as all nets are trained, and of the same seeds in half as many passes again.

    The schedule is stretched to the passes; of a half pass a whole one is made. The seeds are the first `sweep_seeds`.
    """
    plan, seeds = run.plans.training, run.members_seeds[: run.sizes.sweep_seeds]
    longer = plan.but(epochs=math.ceil(1.5 * plan.recipe.epochs))
    plans = {recompute.AS_LONG: plan, recompute.LONGER: longer}
    return {name: run.train(one, seeds, name=name) for name, one in plans.items()}


def publish_half_again(run: SpeechExperiment, nets: Mapping[str, Sequence[Folded]]) -> None:
    """Publish what `half_again`'s nets get right of the validation speakers: the premise of claims on a teacher."""
    for name, found in nets.items():
        run.publish_scores(name, [run.score(net, split="validation") for net in found], "validation")


def half_again_table(
    run: SpeechExperiment, nets: Mapping[str, Sequence[Folded]], scores: Mapping[str, Sequence[Score]]
) -> pd.DataFrame:
    """What half as many passes again change, in per cent of the frames and of the words or phones: means over seeds.

    scores: on test speakers, after decoding.
    """
    lines = []
    for name, found in nets.items():
        on_validation = np.mean([run.score(net, split="validation").frame_accuracy for net in found])
        lines.append(
            {
                "nets": name,
                "passes": found[0][0].plan.recipe.epochs,
                "seeds": len(found),
                "validation frames right, %": round(100 * on_validation, 2),
                "test frames right, %": round(100 * np.mean([one.frame_accuracy for one in scores[name]]), 2),
                "error rate, %": round(100 * np.mean([one.error_rate for one in scores[name]]), 2),
            }
        )
    return pd.DataFrame(lines).set_index("nets")


def last_rise(found: pd.DataFrame, system: str) -> float:
    """What the last fifth of the passes added to a system's validation accuracy, in points; the mean over its nets."""
    one = found[found["system"] == system].groupby("pass")["accuracy, %"].mean()
    before = max(0, len(one) - 1 - max(1, round(len(one) / 5)))
    return float(one.iloc[-1] - one.iloc[before])


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


def differences(run: SpeechExperiment) -> pd.DataFrame:
    """Systems two at a time: frames gained and errors saved, in points, with a bootstrap over test voices each.

    run: with the scores of Table 1 published; all of a system's nets together.
    """
    points = "{:+.2f}", 100
    of, lines, each = run.predictions["frames of speaker"].astype(int), [], {}
    for name in PAPER:
        right = run.predictions[f"{name}.right"].astype(int).reshape(-1, len(of)).mean(0)
        errors = run.predictions[f"{name}.errors by speaker"].astype(int).reshape(-1, len(of), 4).mean(0)
        each[name] = right.sum() / of.sum(), errors[:, :3].sum() / errors[:, 3].sum()
    for first, second in (("ensemble", "baseline"), ("distilled", "baseline"), ("ensemble", "distilled")):
        lines.append(
            {
                "data": run.data.name,
                "systems": f"{first} − {second}",
                "frames gained": f"{100 * (each[first][0] - each[second][0]):+.2f}",
                "95 % of that": wording.interval(recompute.gained_by_voices(run.predictions, first, second), *points),
                "errors saved": f"{100 * (each[second][1] - each[first][1]):+.2f}",
                "95 % of them": wording.interval(recompute.saved_by_voices(run.predictions, first, second), *points),
            }
        )
    return pd.DataFrame(lines).set_index(["data", "systems"])


def decoders_table(run: SpeechExperiment, systems: Mapping[str, Any], chosen: int) -> pd.DataFrame:
    """What tuning chose for each system on validation speakers, and the error rate there, fold 0.

    systems: by name, the first with both language models, the others with the `chosen` one.
    """
    lines = []
    for i, (system, nets) in enumerate(systems.items()):
        for order in (2, 3) if i == 0 else (chosen,):
            recognizer, rate = run.decoder(nets, order=order)[0], run.validation_rate(nets, order=order)
            line = {"system": system, "language model": {2: "bigram", 3: "trigram"}[order]}
            line |= {"acoustic scale": recognizer.acoustic_scale, "penalty": recognizer.insertion_penalty}
            lines.append(line | {"validation error rate, %": round(100 * rate, 2)})
    return pd.DataFrame(lines).set_index(["system", "language model"])


def chosen_order(run: SpeechExperiment, baseline: Folded) -> int:
    """The language model with which a baseline makes the fewest errors on validation speakers; the shorter of equals.

    A loop over phones has a bigram only.
    """
    if not run.decoder(baseline)[0].words:
        return 2
    return min((2, 3), key=lambda order: (run.validation_rate(baseline, order=order), order))


def calibration(run: SpeechExperiment, systems: Mapping[str, Sequence[Folded]], bins: int = 20) -> pd.DataFrame:
    """How far a system's confidence is from its accuracy on validation frames of fold 0, a row a system.

    systems: the networks of each. Expected calibration error over `bins` of equal width, mean confidence and accuracy
    in per cent, and the mean log loss in nats.
    """
    split, lines = run.data.parts[0].validation, {}
    for name, nets in systems.items():
        config = {"calibration": [net[0].key for net in nets], "bins": bins, "data": run.data.fingerprint}
        found = run.store.compute_or_load(config, lambda nets=nets: _calibration(run, nets, split, bins))
        count, confidence, right = np.asarray(found["bins"])
        lines[name] = {
            "confidence, %": round(100 * confidence.sum() / count.sum(), 2),
            "right, %": round(100 * right.sum() / count.sum(), 2),
            "calibration error, points": round(100 * np.abs(confidence - right).sum() / count.sum(), 2),
            "log loss, nats": round(float(found["loss"]), 3),
        }
    return pd.DataFrame.from_dict(lines, orient="index")


def _calibration(run: SpeechExperiment, nets: Sequence[Folded], split: Frames, bins: int) -> dict[str, Any]:
    """Frames, summed confidence and right answers of each bin, [3, bins], and the mean log loss."""
    table, loss, done = torch.zeros(3, bins, dtype=torch.float64), 0.0, 0
    for inputs in split.windows(run.device):
        p = posteriors.mean_log_probabilities([net[0].network for net in nets], inputs).cpu()
        targets = split.targets[done : done + len(p)].long()
        done += len(p)
        confidence, answer = p.exp().max(1)
        place = (confidence * bins).long().clamp(max=bins - 1)
        for row, values in enumerate((torch.ones_like(confidence), confidence, (answer == targets).float())):
            table[row].index_add_(0, place, values.double())
        loss -= p.gather(1, targets[:, None]).double().sum().item()
    return {"bins": table.numpy(), "loss": loss / done}


def labels_of_two(sets: Mapping[str, SpeechExperiment]) -> dict[str, SpeechExperiment]:
    """The experiments on TIMIT with labels by hand and of the aligner, in the phones of both; none without either."""
    run = next((one for one in sets.values() if one.data.name.startswith("timit")), None)
    if run is None:
        return {}
    if importlib.util.find_spec("pocketsphinx") is None:
        run.log("labels of an aligner are left out: pip install 'kdrepro[align]' would have them")
        return {}
    cache, found = paths.runs(run.preset.origin) / "corpora", {}
    for how in ("by hand", "aligned"):
        corpora = [Relabelled(part.corpus, how == "aligned") for part in run.data.parts]
        parts = tuple(frames.load_speech(corpus, cache) for corpus in corpora)
        found[how] = replace(run, data=Folds(parts), record={}, predictions={})
    return found


def lost_in_alignment(by_hand: SpeechExperiment, aligned: SpeechExperiment) -> list[str]:
    """The training utterances that the aligner lost, over all folds."""
    of_both = (by_hand, aligned)
    kept = [{u["name"] for part in run.data.parts for u in part.train.utterances} for run in of_both]
    return sorted(kept[0] - kept[1])


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
    """What a net costs to use: parameters, microseconds a frame one at a time, seconds an hour of speech in batches.

    Measured on this machine's processor, one thread, in single precision.
    """
    network = copy.deepcopy(net.network).cpu()
    single = _seconds(lambda count: network(torch.zeros(count, WINDOW_FRAMES * COEFFICIENTS)), 1, repeats)
    batch = _seconds(lambda count: network(torch.zeros(count, WINDOW_FRAMES * COEFFICIENTS)), 1000, repeats)
    hour = 360 * batch  # 1,000 frames are 10 s of speech
    return {"parameters": parameter_count(network), "µs a frame, alone": 1e6 * single, "s an hour of speech": hour}


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
    recognizer, split = run.decoder(net)[0], run.data.parts[0].test
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


def boundary(
    run: SpeechExperiment, members: Sequence[Folded], temperatures: Sequence[float], margin: int = 9, states: int = 6
) -> Figure:
    """The ensemble's soft targets around a boundary within a word, one panel a temperature; fold 0's test frames."""
    speech = run.data.parts[0]
    utterance, at = _a_boundary(speech.test, set(speech.corpus.silences), margin)
    inputs = windows(speech.test, utterance)[at - margin : at + margin].to(run.device)
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
