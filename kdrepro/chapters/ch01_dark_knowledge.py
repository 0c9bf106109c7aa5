"""Chapter 1: what Section 2 says of gradients, learning rates and training cases, as numbers; its figures."""

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from kdrepro.chapters import figures
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.figures import COLOURS
from kdrepro.chapters.sizes import Training
from kdrepro.losses import soften
from kdrepro.networks import MLP
from kdrepro.verdicts import recompute, stats, wording

# --- which 2 looks like a 3 ---------------------------------------------------------------------------------------


def by_odds(log_p: torch.Tensor, labels: torch.Tensor, digit: int, first: int, second: int) -> torch.Tensor:
    """Images of a digit that are classified as it, in falling order of the odds of class `first` against `second`.

    log_p: [N, C] log-probabilities; labels: [N]. Returns indices [n]: of all images of the digit where none of them is
    classified as it.
    """
    of_digit = labels == digit
    right = of_digit & (log_p.argmax(1) == digit)
    which = torch.nonzero(right if right.any() else of_digit).squeeze(1)
    return which[(log_p[which, first] - log_p[which, second]).argsort().flip(0)]


# --- gradients ------------------------------------------------------------------------------------------------------


def against_limit(gradient: torch.Tensor, difference: torch.Tensor, temperature: float) -> tuple[float, float]:
    """How far Eq. 2 is from Eq. 4: the mean angle in degrees, and the mean ratio of norms, over the cases.

    gradient: Eq. 2, [B, C]. difference: z - v, [B, C], with which N T^2 times the gradient is compared (N = C).
    """
    cosine = F.cosine_similarity(gradient, difference, dim=1).clamp(-1, 1)
    scaled = difference.shape[1] * temperature**2 * gradient.norm(dim=1)
    return torch.rad2deg(torch.arccos(cosine)).mean().item(), (scaled / difference.norm(dim=1)).mean().item()


def case_gradients(
    network: MLP, inputs: torch.Tensor, losses: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each case's gradient g over all weights and biases: |g|^2, and g · mean g, [B] each; dropout is off.

    inputs: [B, ...] floats. losses: logits [B, C] -> the loss of each case [B]. `recompute.relative_variance` makes
    of them the variance from case to case.

    A case's gradient for a layer's weights is the outer product of the layer's input h and the loss's
    gradient d at its output, so its squared norm is |h|^2 |d|^2 and needs no matrix of its own.
    """
    network.eval()
    layers = [*network.hidden, network.output]
    h, seen, outputs = inputs.flatten(1), [], []
    for layer in layers:
        seen.append(h)
        outputs.append(F.linear(h, layer.weight, layer.bias))
        h = F.relu(outputs[-1])
    deltas = torch.autograd.grad(losses(outputs[-1]).sum(), outputs)
    pairs = [(h.detach(), d) for h, d in zip(seen, deltas, strict=True)]
    squares = sum((h.square().sum(1) + 1) * d.square().sum(1) for h, d in pairs)
    along = sum(((d @ (d.T @ h / len(h))) * h).sum(1) + d @ d.mean(0) for h, d in pairs)
    return squares.cpu().numpy(), along.cpu().numpy()


def soft_losses(student_logits: torch.Tensor, teacher_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """The paper's cross-entropy with the soft targets for each case: [B, C], [B, C] -> [B]."""
    log_q = F.log_softmax(student_logits / temperature, dim=-1)
    return -(soften(teacher_logits, temperature) * log_q).sum(-1)


def gradients_of_targets(
    network: MLP,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    temperatures: Sequence[float],
) -> dict[float, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """`case_gradients` of "hard" and of "soft" targets at the same weights, by the temperature of the soft ones.

    inputs: [B, ...] floats; labels: [B]; teacher_logits: [B, C].
    """
    hard = case_gradients(network, inputs, lambda z: F.cross_entropy(z, labels, reduction="none"))
    return {
        t: {"hard": hard, "soft": case_gradients(network, inputs, lambda z, t=t: soft_losses(z, teacher_logits, t))}
        for t in temperatures
    }


def variance_ratio(gradients: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> float:
    """The relative variance of soft targets' gradients over that of hard ones', of `gradients_of_targets`."""
    soft, hard = (recompute.relative_variance(*gradients[kind]) for kind in ("soft", "hard"))
    return float(soft / hard)


# --- ensembles --------------------------------------------------------------------------------------------------------


def ensembles_without_one(teachers: Sequence[Trained]) -> list[list[Trained]]:
    """An ensemble for each teacher: all the others; all of them where the others would not be several."""
    if len(teachers) < 3:
        return [list(teachers)] * len(teachers)
    return [[*teachers[:i], *teachers[i + 1 :]] for i in range(len(teachers))]


# --- learning rates and training cases ------------------------------------------------------------------------------


def rate_ratios(rates: pd.DataFrame, factors: Sequence[float]) -> pd.DataFrame:
    """How many times the learning rate soft targets bear, a row a factor of `recompute.highest_rates`.

    Geometric means over seeds, with their interval.

    rates: a row a network, with its seed, targets ("hard targets" or "soft targets"), rate and errors.
    """
    curves = rates.pivot(index=["targets", "seed"], columns="rate", values="errors")
    tables = {kind: {rate: part[rate].to_numpy() for rate in part} for kind, part in curves.groupby("targets")}
    rows = []
    for factor in factors:
        passed = {kind: recompute.highest_rates(table, factor) for kind, table in tables.items()}
        mean, ends = stats.mean_ci(np.log(passed["soft targets"] / passed["hard targets"]))
        row = {"times the best": factor, **{f"rate, {kind}": f"{rate.mean():.4f}" for kind, rate in passed.items()}}
        spread = wording.interval(None if ends is None else np.exp(ends), "{:.2f}")
        rows.append({**row, "ratio": round(np.exp(mean), 2), "95 % over seeds": spread})
    return pd.DataFrame(rows).set_index("times the best")


# --- figures --------------------------------------------------------------------------------------------------------


def softening_figure(example: torch.Tensor, logits: Sequence[torch.Tensor], temperatures: Sequence[float]) -> Figure:
    """Left: the soft targets of one case over the temperature. Right: the mean entropy of all cases', a line a teacher.

    example: logits [C]. logits: of each teacher, [N, C].
    """
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4))
    curves = np.stack([soften(example, t).numpy() for t in temperatures])
    named = example.argsort(descending=True)[:4].tolist()
    for c in range(curves.shape[1]):
        colour, label = (COLOURS[named.index(c)], str(c)) if c in named else ("lightgrey", None)
        axes[0].plot(temperatures, curves[:, c], color=colour, label=label, zorder=3 if label else 1)
    axes[0].set(xscale="log", xlabel="temperature", ylabel="probability")
    axes[0].legend(title="class")
    for v in logits:
        entropies = [-(soften(v, t) * torch.log_softmax(v / t, -1)).sum(1).mean().item() for t in temperatures]
        axes[1].plot(temperatures, entropies, lw=1, color=COLOURS[0])
    axes[1].axhline(math.log(len(example)), color="black", ls=":")
    axes[1].set(xscale="log", xlabel="temperature", ylabel="mean entropy (nats)")
    return figure


def t2_figure(temperatures: Sequence[float], norms: Sequence[Sequence[float]], hard_norms: Sequence[float]) -> Figure:
    """Left: the soft targets' gradient norm over the temperature, a line a seed. Right: over the hard one's, and T^2.

    norms: [seeds, temperatures], before T^2. hard_norms: [seeds].
    """
    t, n = np.array(temperatures), np.array(norms)
    balance = n / np.array(hard_norms)[:, None]
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4))
    for ax in axes:  # before a limit is set, which would keep the other one as it is on a linear scale: below zero
        ax.set(xscale="log", yscale="log", xlabel="temperature")
    axes[0].plot(t, n.T, "o-", color=COLOURS[0], ms=4, lw=1)
    axes[0].plot(t, n[0, -1] * (t[-1] / t) ** 2, "k:", label="∝ 1/T²")
    axes[0].set(ylabel="gradient norm", ylim=(None, 10 * n[0].max()))
    for i, b in enumerate(balance):
        axes[1].plot(t, b * t**2, color=COLOURS[0], label="with T²" if i == 0 else None)
        axes[1].plot(t, b, color=COLOURS[1], label="without" if i == 0 else None)
    axes[1].set(ylabel="soft / hard gradient norm")
    for ax in axes:
        ax.legend()
    return figure


def lines_by_seed(ax: Axes, frame: pd.DataFrame, y: str, by: str) -> None:
    """y over the temperature T: a line a seed, a colour for each value of `by`."""
    for i, (name, part) in enumerate(frame.groupby(by, sort=False)):
        for j, (_, line) in enumerate(part.groupby("seed")):
            ax.plot(line["T"], line[y], "o-", ms=3, lw=1, color=COLOURS[i], label=name if j == 0 else None)
    ax.set_xscale("log")


def limit_figure(limit: pd.DataFrame) -> Figure:
    """`against_limit` over the temperature: rows with seed, T, logits (their kind), angle and ratio."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4))
    for ax, y, label in zip(axes, ("angle", "ratio"), ("angle (degrees)", "ratio of norms"), strict=True):
        lines_by_seed(ax, limit, y, "logits")
        ax.set(xlabel="temperature", ylabel=label)
    axes[1].axhline(1, color="black", ls=":")
    axes[0].legend()
    return figure


def matching_figure(matching: pd.DataFrame, plans: Mapping[str, Training]) -> Figure:
    """Test errors over the temperature, a panel a student; T is infinite in the rows of logit matching."""
    groups = list(matching.groupby("student", sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(7.6, 3.4), squeeze=False)
    for ax, (name, part) in zip(axes.flat, groups, strict=True):
        finite = np.isfinite(part["T"])
        figures.sweep(ax, part[finite], "T", "errors")
        ax.axhline(part[~finite]["errors"].mean(), color="black", ls=":", label="logit matching")
        units = " – ".join(map(str, plans[name].network.hidden))
        ax.set(title=f"{name}: {units} units", xlabel="temperature", ylabel="test errors")
        ax.legend()
    return figure


def data_curves_figure(less: pd.DataFrame, shares: Sequence[float]) -> Figure:
    """Test errors during training, a panel for each of these shares of the cases.

    less: a row a network, with its share, targets and the network itself (`net`, with a history).
    """
    figure, axes = plt.subplots(1, len(shares), figsize=(7.6, 3.3), squeeze=False)
    for ax, share in zip(axes.flat, shares, strict=True):
        groups = less[less["share"] == share].groupby("targets")["net"]
        figures.learning_curves(ax, {name: [net.history for net in nets] for name, nets in groups}, "errors")
        first = ax is axes[0, 0]
        ax.set(title=f"{100 * share:g} % of the cases", yscale="log", ylabel="test errors" if first else "")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        ax.yaxis.set_major_formatter("{x:.0f}")
        ax.yaxis.set_minor_formatter("")
        ax.get_legend().remove()
    # One for all: the panels are too small for it.
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
