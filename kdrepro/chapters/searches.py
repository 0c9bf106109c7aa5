"""Searches for recipes: students of several teachers, judged on training images that were held out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdrepro import paths
from kdrepro.chapters.images import ImageExperiment
from kdrepro.files import atomic_write, writing
from kdrepro.verdicts import stats

Row = dict[str, Any]


def search(run: ImageExperiment, name: str) -> list[Row]:
    """Train every student of every teacher of a search, teacher by teacher; a row a network.

    run: of `start.start_search`. What is changed are the chapter's own teacher and distilled net, or chapter 2's.
    A row: teacher, student ("" for the teacher itself), seed, errors on the held-out images, gap (the root mean square
    by which the student's centred logits miss the teacher's there, over that of the teacher's own), and seconds of
    training.
    """
    plans, rows = run.sizes.searches[name], []
    changed = run.sizes if hasattr(run.sizes, "distilled") else run.preset.chapters["02-mnist"]
    for teacher_name, changes in plans.teachers.items():
        teacher = run.train(changed.teacher.but(curve=0, **changes), run.seeds[0], name=f"{name}: {teacher_name}")
        rows.append(_row(run, teacher, teacher_name, ""))
        wide = centred(run.logits(teacher))
        for student, change in plans.students.items():
            plan = changed.distilled.but(curve=0, **change)
            for net in run.train_seeds(plan, [teacher] * len(run.seeds), name=f"{name}: {student}"):
                missed = (centred(run.logits(net)) - wide).square().mean().sqrt() / wide.square().mean().sqrt()
                rows.append(_row(run, net, teacher_name, student) | {"gap": round(float(missed), 4)})
            write(run, name, rows)  # what there is so far: a search may take days
    return rows


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Logits [N, C] less each case's mean, of which a softmax knows nothing."""
    return logits - logits.mean(1, keepdim=True)


def _row(run: ImageExperiment, net: Any, teacher: str, student: str) -> Row:
    about = {"teacher": teacher, "student": student, "seed": net.seed}
    return about | {"errors": run.errors(net), "seconds": round(net.seconds, 1)}


def place(run: ImageExperiment, name: str) -> Path:
    """Where a search's record is."""
    return paths.runs(run.preset.name) / "searches" / f"{run.chapter}.{name}.json"


def write(run: ImageExperiment, name: str, rows: Sequence[Row]) -> Path:
    """Save a search's record in the preset's runs; returns its path. Raises InputError when it cannot be written."""
    kept = ("chapter", "preset", "data", "provenance")
    record = {key: run.record[key] for key in kept} | {"search": name}
    record["plans"] = run.sizes.searches[name].model_dump()
    record["held_out"] = len(run.data.test_images)
    path = place(run, name)
    with writing(f"the search's record {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, (json.dumps(record | {"rows": list(rows)}, indent=1) + "\n").encode())
    return path


def table(record: Mapping[str, Any]) -> pd.DataFrame:
    """A search's rows, the seeds of each student together: mean errors, their interval, and what it saves.

    saved: errors less than the first student of the first teacher makes, paired by seed, with its interval.
    """
    rows = pd.DataFrame(record["rows"])
    first = None
    found = []
    for (teacher, student), group in rows.groupby(["teacher", "student"], sort=False):
        errors = group.sort_values("seed")["errors"].to_numpy()
        mean, ends = stats.mean_ci(errors)
        row = {"teacher": teacher, "student": student or "(the teacher itself)", "seeds": len(errors)}
        row |= {"errors": round(mean, 1), "95 %": _ends(ends)}
        if student:
            first = errors if first is None else first
            saved, ends, _ = stats.paired(first[: len(errors)], errors[: len(first)])
            row |= {"saved": f"{saved:+.1f}", "95 % of it": _ends(ends), "gap": f"{group['gap'].mean():.3f}"}
        found.append(row | {"minutes": round(group["seconds"].mean() / 60, 1)})
    return pd.DataFrame(found).fillna("")


def _ends(ends: tuple[float, float] | None) -> str:
    return "–" if ends is None else "{:.1f} to {:.1f}".format(*ends)
