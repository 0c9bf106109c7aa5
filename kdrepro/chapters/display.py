"""What a chapter shows of its record: the line on top, a claim with its verdict, a number in the text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import Markdown, display

from kdrepro.chapters.experiment import Experiment
from kdrepro.chapters.presets import Preset
from kdrepro.chapters.sizes import Specialist, Training
from kdrepro.verdicts import claims, wording
from kdrepro.verdicts.wording import duration, threads, trained_elsewhere


def headline(run: Experiment) -> Markdown:
    """The line on top of every chapter: preset, data, seeds, hardware; a warning at smoke."""
    p = run.record["provenance"]
    text = (
        f"**Preset** `{run.preset.name}` · **data** {run.data.describe()} · **seeds** {len(run.seeds)} · "
        f"**device** {p['device']} ({p['cpu']}, {threads(p)}) · torch {p['torch']} · {p['date']} · commit `{p['git']}`"
    )
    if run.preset.changed:
        text += f"\n\n**Changed** from `{run.preset.origin}`: {changes(run.preset)}."
    if run.preset.own_data:
        return Markdown(text + _on_your_data(run))
    if run.preset.origin == "smoke":
        text += (
            "\n\n```{warning}\nThis page was made by the `smoke` preset, on small data that needs no "
            "download: it shows that everything runs. Its numbers are **not comparable** with the paper's.\n```"
        )
    return Markdown(text)


def _on_your_data(run: Experiment) -> str:
    """What a page of one's own data says on top."""
    out = "".join(f" `{claim_id}` is left out: {why}." for claim_id, why in run.left_out.items())
    return (
        f"\n\n```{{note}}\nThis page was made on **your data**, `{run.preset.own_data}`, at the sizes of "
        f"`{run.preset.origin}`. Its tables show what was measured there, without the paper's values and without a "
        "verdict; where the text speaks of the paper's data, of the book's or of a verdict, it is not about this "
        f"run.{out}\n```"
    )


def changes(preset: Preset) -> str:
    """What differs from the book's preset that a run starts from."""
    return "; ".join(f"`{key}` {_value(old)} → {_value(new)}" for key, (old, new) in preset.changed.items())


def _value(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def plans(**named: Training | Specialist) -> pd.DataFrame:
    """What is trained, a row a plan: layers, targets with T and the soft targets' weight, length, batch, rate, rest."""
    return pd.DataFrame({name.replace("_", " "): _described(plan) for name, plan in named.items()}).T


def _described(plan: Training | Specialist) -> dict[str, str]:
    recipe, settings = plan.recipe, plan.model_dump()
    network, by = settings.get("network", {}), settings.get("soft", "none")
    soft = settings.get("loss") not in (None, "hard", "logits") or by != "none"
    others = {
        settings.get("output", ""): "output" in settings,
        "dropout": max(network.get("input_dropout", 0), network.get("hidden_dropout", 0), network.get("dropout", 0)),
        "max-norm": recipe.max_norm,
        "weight decay": recipe.weight_decay,
        "jitter": settings.get("jitter"),
        "cutout": settings.get("cutout"),
        "mixed images": settings.get("mix"),
        "blocks": network.get("blocks") and " – ".join(map(str, network["blocks"])),
        "averaging": recipe.averaging,
        "share of each class": settings.get("fraction") if "output" in settings else None,
        "β": settings.get("beta"),
        "constant rate": recipe.schedule == "constant",
        "early stopping": settings.get("early_stopping"),
    }
    return {
        "layers": " – ".join(map(str, network.get("hidden") or network.get("channels") or ["the generalist's"])),
        "targets": settings.get("loss") or ("hard" if by == "none" else f"hard, and soft by {by}"),
        "T": f"{plan.temperature:g}" if soft else "–",
        "soft weight": f"{settings['soft_weight']:.2g}" if soft and "soft_weight" in settings else "–",
        "epochs": str(recipe.epochs),
        "batch": str(recipe.batch_size),
        "rate": f"{recipe.optimizer} {recipe.learning_rate:g}",
        "also": ", ".join(_said(name, value) for name, value in others.items() if value),
    }


def _said(name: str, value: Any) -> str:
    return name if value is True else f"{name} {value if isinstance(value, str) else f'{value:g}'}"


def claim(run: Experiment, claim_id: str) -> Markdown:
    """A claim as measured: statement, paper, each seed, verdict with what decides and its history, command, minutes."""
    described = claims.get(claim_id)
    if claim_id in run.left_out:
        return Markdown(f"**`{claim_id}`** is left out on your data: {run.left_out[claim_id]}.")
    entry = run.record["claims"][claim_id]
    if run.preset.own_data:
        return _measured(described, entry, run.data.name)
    took = f"{duration(entry['seconds'])} of training"
    rows = [
        f"| {wording.label(name)} | {wording.written(name, described.paper.get(name))} | "
        f"{wording.written_mean(name, entry)} | {_values(name, entry['metrics'].get(name, ()))} |"
        for name in entry["mean"]
    ]
    pending = f" ({described.data} decides)" if entry["verdict"] == "not run" else ""
    lines = [
        f"**`{described.id}`** {described.statement}",
        "",
        "| metric | paper | this run: mean [95 % over seeds] | each seed |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Verdict: **{described.marked(entry['verdict'])}**{pending}. What decides:",
        "",
        *(
            f"- {'premise' if reason.verdict == 'premise' else f'for *{reason.verdict}*'}, {reason}"
            for reason in described.rule.why(entry)
        ),
        "",
        *([f"By construction: {described.by_construction}.  "] if described.by_construction else []),
        *(["† `claims.yaml` says what was changed when a result was known.  "] if described.amended else []),
        f"Command: `kdrepro reproduce {described.id} --preset {run.preset.name}` ({took})."
        if not run.preset.is_own
        else f"At sizes of your own: {took}.",
    ]
    return Markdown("\n".join(lines))


def _measured(described: claims.Claim, entry: Mapping[str, Any], data: str) -> Markdown:
    """A claim's figures on data of one's own, where the paper has none and no rule decides."""
    lines = [
        f"**`{described.id}`** asks, of the paper's data: {described.statement} On your data, {data}:",
        "",
        "| metric | mean [95 % over seeds] | each seed |",
        "|---|---|---|",
        *(
            f"| {wording.label(name)} | {wording.written_mean(name, entry)} "
            f"| {_values(name, entry['metrics'].get(name, ()))} |"
            for name in entry["mean"]
        ),
    ]
    return Markdown("\n".join(lines))


def elsewhere(runs: Iterable[Experiment], claim_id: str) -> Markdown | None:
    """What a claim comes to on the data sets that do not decide it, and the verdict that its rule would give there.

    None where there are no such data sets.
    """
    described, lines = claims.get(claim_id), []
    for run in runs:
        entry = run.record["claims"][claim_id]
        if run.data.name != described.data and not run.preset.own_data:
            verdict = described.verdict(entry, described.data)
            figure = f"{wording.label(described.metric)} {wording.written_mean(described.metric, entry)}"
            lines.append(f"On {run.data.name}, which does not decide, {figure}: by the same rule, **{verdict}**.")
    return Markdown("  \n".join(lines)) if lines else None


def show(output: Any) -> None:
    """Show what a loop or a condition makes, as if it were the last line of a cell."""
    display(output)


def glue(**texts: Any) -> None:
    """Name values that the text quotes with ``{glue:text}`name` ``; strings, already formatted.

    The value travels in the notebook's own output, so the page needs no execution.
    """
    for name, text in texts.items():
        key = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
        display({"application/papermill.record/text/plain": repr(str(text))}, metadata=key, raw=True)


def _values(metric: str, values: Sequence[float]) -> str:
    return ", ".join(wording.written(metric, v) for v in values)


def budget(run: Experiment) -> Markdown:
    """What the chapter's networks took, beside the preset's budget for two CPU cores."""
    p = run.record["provenance"]
    return Markdown(
        f"Networks that this chapter uses: {p['networks']}, trained in {duration(p['training_seconds'])} in all on "
        f"{p['device']} ({threads(p)} a training{trained_elsewhere(p)}). The preset's budget is "
        f"{duration(60 * run.sizes.minutes)} on two CPU cores."
    )
