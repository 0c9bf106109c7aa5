"""Tables of the chapters on speech, and the metrics that their claims are decided by."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdrepro import claims, frames, lanes, stats
from kdrepro.experiments import Trained
from kdrepro.frames import COEFFICIENTS, WINDOW
from kdrepro.networks import parameter_count
from kdrepro.presets import SpeechTraining
from kdrepro.speech_experiments import CURVE_FRAMES, Folded, Score, SpeechExperiment

Scores = Mapping[str, Sequence[Score]]  # system -> one score a seed, or one for all seeds
Found = Sequence[tuple[SpeechExperiment, Scores]]  # a data set each

# The paper's Table 1: frame accuracy and word error rate.
PAPER = {"baseline": (0.589, 0.109), "ensemble": (0.611, 0.107), "distilled": (0.608, 0.107)}

# Its Table 5: frame accuracy in training and on the test set.
PAPER_SOFT = {"all, hard": (0.634, 0.589), "little, hard": (0.673, 0.445), "little, soft": (0.654, 0.570)}


def rows(run: SpeechExperiment, nets: Sequence[Folded], **columns: Any) -> list[dict[str, Any]]:
    """A row a network (a seed): the given columns, frame accuracy and the error rate after decoding, in per cent."""
    found = []
    for net in nets:
        score = run.score(net, decode=True)
        figures = {"frame accuracy, %": 100 * score.frame_accuracy, "error rate, %": 100 * score.error_rate}
        found.append({**columns, "seed": net[0].seed, **figures})
    return found


def table1(found: Found) -> pd.DataFrame:
    """The paper's Table 1 with ours beside it, for every data set: means over seeds with their 95 % intervals."""
    lines = []
    for system, (accuracy, errors) in PAPER.items():
        line = {"system": system, ("paper", "frame accuracy"): _percent(accuracy), ("paper", "WER"): _percent(errors)}
        for run, scores in found:
            kind = "WER" if run.is_synthetic else "PER"
            line[run.data.name, "frame accuracy"] = _mean([s.frame_accuracy for s in scores[system]])
            line[run.data.name, kind] = _mean([s.error_rate for s in scores[system]])
        lines.append(line)
    table = pd.DataFrame(lines).set_index("system")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def claim_table1(run: SpeechExperiment, members: Sequence[Folded], distilled: Sequence[Folded], scores: Scores) -> None:
    """Record the claims of Table 1: a value a seed, whose baseline is the member of that seed; one ensemble for all."""
    baseline = np.array([s.frame_accuracy for s in scores["baseline"]])
    student = np.array([s.frame_accuracy for s in scores["distilled"]])
    ensemble = scores["ensemble"][0].frame_accuracy
    errors = {name: [s.error_rate for s in found] for name, found in scores.items()}
    ten = [net for folded in members for net in folded]
    both = ten + [net for folded in distilled for net in folded]
    run.claim(
        "speech.baseline",
        ten,
        frame_accuracy=baseline,
        gain_of_ensemble=ensemble - baseline,
        **{run.error_metric: errors["baseline"]},
    )
    run.claim(
        "speech.ensemble",
        ten,
        pooled={"frame_accuracy": ensemble, run.error_metric: errors["ensemble"][0]},
        relative_gain=(ensemble - baseline) / baseline,
    )
    run.claim(
        "speech.distilled",
        both,
        frame_accuracy=student,
        relative_gain=(student - baseline) / baseline,
        **{run.error_metric: errors["distilled"]},
    )
    run.claim("speech.recovered", both, recovered=(student - baseline) / (ensemble - baseline))


def regulariser_plans(run: SpeechExperiment, fraction: float | None = None) -> dict[str, SpeechTraining]:
    """Chapter 4's two plans, "hard" and "soft", for a share of the utterances; None for the chapter's own share.

    For another share than the chapter's the epochs are changed: with soft targets so that about as many steps are
    taken, one pass at the least; with hard targets, which overfit, by the root of that. On all of the data there is
    "hard" only, chapter 3's member: the net whose soft targets the others get.
    """
    plans = {"hard": run.sizes.hard, "soft": run.sizes.soft}
    if not run.is_synthetic:
        plans = {"hard": run.sizes.timit_hard, "soft": run.sizes.timit_soft}
    if fraction is None or fraction == plans["hard"].fraction:
        return plans
    if fraction == 1:
        return {"hard": run.plans.member}
    changed = {}
    for kind, plan in plans.items():
        epochs = max(1, round(plan.recipe.epochs * plan.fraction / fraction))
        if kind == "hard":
            # Fewer passes do on more data, but not in proportion: it overfits less.
            epochs = max(1, round(plan.recipe.epochs * (plan.fraction / fraction) ** 0.5))
        changed[kind] = plan.but(fraction=fraction, epochs=epochs, curve=max(1, epochs // 10))
    return changed


def table5(found: Sequence[tuple[SpeechExperiment, Mapping[str, Sequence[Folded]], Scores]]) -> pd.DataFrame:
    """The paper's Table 5 with ours beside it, for every data set: means over seeds with their 95 % intervals."""
    lines = []
    for system, (train, test) in PAPER_SOFT.items():
        line: dict[Any, Any] = {
            "system": system,
            ("paper", "train"): _percent(train),
            ("paper", "test"): _percent(test),
        }
        for run, nets, scores in found:
            name, kind = run.data.name, "WER" if run.is_synthetic else "PER"
            line[name, "train"] = _mean([train_accuracy(net) for net in nets[system]])
            line[name, "test"] = _mean([score.frame_accuracy for score in scores[system]])
            line[name, kind] = _mean([score.error_rate for score in scores[system]])
        lines.append(line)
    table = pd.DataFrame(lines).set_index("system")
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def train_accuracy(net: Folded) -> float:
    """Frame accuracy on what a net was trained on, the mean over folds, at the epoch whose weights it has."""
    found = []
    for trained in net:
        rows = [row for row in trained.history if "train_frame_accuracy" in row]
        best = max(rows, key=lambda row: row["validation_frame_accuracy"]) if trained.plan.early_stopping else rows[-1]
        found.append(best["train_frame_accuracy"])
    return float(np.mean(found))


def accuracy_in_training(run: SpeechExperiment, net: Folded, most: int = CURVE_FRAMES) -> float:
    """Frame accuracy on at most so many of all training frames, evenly spaced; the mean over folds."""
    found = []
    for fold, trained in enumerate(net):
        split = run.data.parts[fold].train
        which = torch.arange(0, len(split), max(1, -(-len(split) // most)))
        config = {"training_accuracy": trained.key, "frames": len(which), "data": run.data.parts[fold].fingerprint}
        computed = run.store.compute_or_load(
            config, lambda t=trained, s=split, w=which: {"accuracy": frames.accuracy(t.network, s, w, run.device)}
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
        which = torch.arange(0, len(split), max(1, -(-len(split) // most)))
        total = 0.0
        for inputs in split.windows(run.device, which=which):
            p = frames.mean_log_probabilities([t.network for t in teachers], inputs)
            q = frames.mean_log_probabilities([net.network], inputs)
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


def claim_table5(run: SpeechExperiment, nets: Mapping[str, Sequence[Folded]], scores: Scores) -> None:
    """Record the claims of Table 5, one value a seed."""
    test = {system: np.array([score.frame_accuracy for score in found]) for system, found in scores.items()}
    train = {system: np.array([train_accuracy(net) for net in found]) for system, found in nets.items()}
    errors = {system: {run.error_metric: [score.error_rate for score in found]} for system, found in scores.items()}
    trained = {system: [one for net in found for one in net] for system, found in nets.items()}
    full, hard, soft = "all, hard", "little, hard", "little, soft"

    def common(system: str) -> dict[str, Any]:
        return {"frame_accuracy": test[system], "train_frame_accuracy": train[system], **errors[system]}

    run.claim("soft.full", trained[full], **common(full), gain_over_hard3=test[full] - test[hard])
    run.claim("soft.hard3", trained[hard], **common(hard), overfit=train[hard] - test[hard])
    recovered = (test[soft] - test[hard]) / (test[full] - test[hard])
    run.claim("soft.soft3", trained[full] + trained[hard] + trained[soft], recovered=recovered, **common(soft))


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


def ensemble_sizes(run: SpeechExperiment, members: Sequence[Folded], split: str = "test"):
    """Frame accuracy of each member alone and of the average of the first n, two arrays [members]; fold 0."""
    networks, speech = [folded[0] for folded in members], run.data.parts[0].split(split)
    config = {"ensemble_sizes": [net.key for net in networks], "split": split, "data": run.data.fingerprint}

    def compute() -> dict[str, np.ndarray]:
        right, done = np.zeros((2, len(networks))), 0
        for inputs in speech.windows(run.device):
            targets, total = speech.targets[done : done + len(inputs)], None
            done += len(inputs)
            for i, net in enumerate(networks):
                p = frames.mean_log_probabilities([net.network], inputs).exp_()
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
    single = _seconds(lambda count: network(torch.zeros(count, WINDOW * COEFFICIENTS)), 1, repeats)
    batch = _seconds(lambda count: network(torch.zeros(count, WINDOW * COEFFICIENTS)), 1000, repeats)
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
    whole = frames.mean_log_probabilities(networks, inputs)
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
    anew = _seconds(lambda count: frames.mean_log_probabilities(networks, inputs[:count]), 256)
    lines.append({"states kept": "none: computed", "bytes a frame": 0, "ms a batch": round(1e3 * anew, 2)})
    return pd.DataFrame(lines).set_index("states kept").fillna("0")


def _read_stored(best: Any, prior: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` frames of what `frames.SoftTargets` would have read from disk."""
    if isinstance(best, torch.Tensor):
        return best[:count].float()
    return frames.spread_rest(best.values[:count].half().float(), best.indices[:count], len(prior), prior)


def decoding_speed(run: SpeechExperiment, net: Folded) -> float:
    """Seconds that decoding an hour of speech takes, one thread, without the net; on test utterances of fold 0."""
    recognizer, split = run.recognizer(0), run.data.parts[0].test
    utterances, found = next(frames.by_utterance([net[0].network], split, "arithmetic", run.device))
    found = [one.cpu() for one in found]
    with lanes.threads(1):
        began = time.perf_counter()
        recognizer.recognize(found)
        took = time.perf_counter() - began
    return took * 360_000 / sum(u["frames"] for u in utterances)


def _mean(values: Sequence[float]) -> str:
    mean, ends = stats.mean_ci(values)
    return _percent(mean) + ("" if ends is None else " [{:.1f}, {:.1f}]".format(*(100 * e for e in ends)))


def _percent(value: float) -> str:
    return claims.written("frame_accuracy", value)
