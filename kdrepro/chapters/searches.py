"""Searches for recipes: students of several teachers, judged on training images that were held out.

Those of the chapters on speech judge acoustic models on validation speakers.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from kdrepro import paths
from kdrepro.chapters import figures
from kdrepro.chapters.committees import Committee, SpecialistExperiment
from kdrepro.chapters.experiment import Experiment, Trained
from kdrepro.chapters.images import ImageExperiment
from kdrepro.chapters.presets import is_speech
from kdrepro.chapters.sizes import DarkKnowledge, Specialised, Training
from kdrepro.chapters.speech import Folded, SpeechExperiment
from kdrepro.errors import DivergedError
from kdrepro.files import atomic_write, writing
from kdrepro.verdicts import stats, wording

Row = dict[str, Any]


def search(run: ImageExperiment | SpeechExperiment, name: str) -> list[Row]:
    """Train every student of every teacher of a search, teacher by teacher; a row a network.

    run: of `start.start_search`. What is changed are the chapter's own teacher and student, or chapter 2's; of the
    chapters on specialists the generalist, which has no teacher, its specialists (`_search_specialists`), or the
    student that begins as it (`_search_students`). A row: teacher, student ("" for the teacher itself), seed, errors on
    the held-out images, what `_fidelity` says of it, and seconds of training; errors are None where the recipe
    diverges. Of a `SpeechExperiment`, whose students have one teacher, an ensemble whose own row comes first, or none:
    wrong frames of the validation speakers.
    """
    if isinstance(run, SpeechExperiment):
        return _search_speech(run, name)
    plans, rows = run.sizes.searches[name], []
    of_committees = {"specialist": _search_specialists, "student": _search_students}
    if (of := getattr(plans, "of", "")) in of_committees:
        return of_committees[of](run, name)
    changed = run.sizes if hasattr(run.sizes, "distilled") else run.preset.chapters["02-mnist"]
    tuned, teachers = _tuned(run, changed).but(curve=0), plans.teachers or {"": {}}

    def teacher_of(name_of: str) -> Trained | None:
        plan = changed.teacher.but(curve=0, **teachers[name_of]) if plans.teachers else None
        return plan and run.train(plan, run.seeds[0], name=f"{name}: {name_of}")

    if run.workers is not None:
        for name_of in teachers:
            teacher_of(name_of)
    for name_of in teachers:
        try:
            teacher = teacher_of(name_of)
            rows += [{"teacher": name_of, "student": ""} | _row(run, teacher)] if teacher else []
        except DivergedError as error:  # and nobody learns from it
            run.log(f"{name}: {name_of}: {error}")
            rows += _diverged({"teacher": name_of, "student": ""}, run.seeds[:1])
            for student in plans.students:
                rows += _diverged({"teacher": name_of, "student": student}, run.seeds)
            write(run, name, rows)
            continue
        tries = []
        for student, change in plans.students.items():
            plan = tuned.but(**change)
            of = None if plan.loss == "hard" else teacher
            ask = partial(run.train_seeds, plan, of and [of] * len(run.seeds), name=f"{name}: {student}")
            tries.append(({"teacher": name_of, "student": student}, ask, partial(_judged, run, of)))
        _try_all(run, name, tries, rows)
    return rows


def _try_all(run: Experiment, name: str, tries: Sequence[tuple[Row, Callable, Callable]], rows: list[Row]) -> None:
    """Add the rows of each student to those there are, one a network, and keep the search's record after each.

    tries: what a row says first; what asks for the networks; what one's row says then. Workers are asked for all of
    them at once. A student that diverges has rows without errors, which ends no search.
    """
    if run.workers is not None:
        for _, ask, _ in tries:
            ask()
    for about, ask, judge in tries:
        try:
            rows += [about | judge(net) for net in ask()]
        except DivergedError as error:
            run.log(f"{name}: {about['student']}: {error}")
            rows += _diverged(about, run.seeds)
        write(run, name, rows)  # what there is so far: a search may take days


def _diverged(about: Row, seeds: Sequence[int]) -> list[Row]:
    """The rows of a recipe that diverges."""
    return [about | {"seed": seed, "errors": None, "seconds": 0.0} for seed in seeds]


def _tuned(run: ImageExperiment, changed: Any) -> Training:
    """The plan that a search changes."""
    if isinstance(run.sizes, Specialised):
        return run.sizes.generalist
    return run.sizes.student if isinstance(run.sizes, DarkKnowledge) else changed.distilled


def _judged(run: ImageExperiment, teacher: Trained | None, net: Trained) -> Row:
    """A student's row."""
    return _row(run, net) | (_fidelity(run, net, teacher) if teacher else {})


def _search_specialists(run: SpecialistExperiment, name: str) -> list[Row]:
    """The rows of a search of specialists: errors of Eq. 5's answer, of the generalist with all of them.

    A generalist's own row comes first. conditional: the share of right answers among the classes of each specialist.
    """
    wanted, generalists = run.sizes.searches[name], run.generalists()
    rows = [{"teacher": "generalist", "student": ""} | _row(run, net) for net in generalists]
    subsets = [run.clusters(net) for net in generalists]

    def committees(student: str) -> list[Committee]:
        plan, of_each = run.sizes.specialist.but(**wanted.students[student]), zip(generalists, subsets, strict=True)
        return [run.committee(plan, *of, f"{name}: {student}") for of in of_each]

    judge = partial(_together, run)
    tries = [({"teacher": "", "student": one}, partial(committees, one), judge) for one in wanted.students]
    _try_all(run, name, tries, rows)
    return rows


def _search_students(run: SpecialistExperiment, name: str) -> list[Row]:
    """The rows of a search of students that begin as a generalist, taught by each of the teachers that it names.

    If it names none, by the mean of that generalist and another one, and not by a committee, whose gain may be too
    small to be kept by anybody: with a teacher that is surely better, a recipe shows what it hands down. The
    generalists' own rows come first, then those of other teachers. Labels alone have rows beside each teacher.
    """
    wanted, one_more = run.sizes.searches[name], run.seeds[-1] + 1
    several = list(wanted.teachers) or ["two generalists"]
    seeds = [*run.seeds, one_more] if "two generalists" in several else run.seeds
    generalists = run.train_seeds(run.sizes.generalist, seeds=seeds, name="generalist")
    plans = {student: run.sizes.student.but(**change) for student, change in wanted.students.items()}
    alone = [student for student, plan in plans.items() if plan.loss == "hard"]

    def students(student: str, taught_by: Sequence[Trained] | None, of: str = "") -> list[Trained]:
        said = ", ".join(filter(None, (of, student)))
        return run.train_seeds(plans[student], taught_by, name=f"{name}: {said}", starts=generalists)

    for student in alone if run.workers is not None else ():
        students(student, None)  # beside the networks that the teachers wait for
    rows = [{"teacher": "generalist", "student": ""} | _row(run, net) for net in generalists]
    tries = []
    for system in several:
        teachers, of = _teachers(run, system, generalists), system if wanted.teachers else ""
        if system != "generalist":
            rows += [{"teacher": system, "student": ""} | _row(run, net) for net in teachers]
        judge = partial(_judged_by_seed, run, dict(zip(run.seeds, teachers, strict=True)))
        for one in plans:
            ask = partial(students, one, None) if one in alone else partial(students, one, teachers, of)
            tries.append(({"teacher": of, "student": one}, ask, judge))
    _try_all(run, name, tries, rows)
    return rows


def _teachers(run: SpecialistExperiment, system: str, generalists: Sequence[Trained]) -> list[Trained]:
    """The teachers of students that begin as these generalists, one a seed; of "two generalists" the next is one."""
    if system == "two generalists":
        return [run.average_as_teacher(pair) for pair in pairwise(generalists)]
    starts = list(generalists[: len(run.seeds)])
    if system == "generalist":
        return starts
    return [run.as_teacher(run.committee(run.sizes.specialist, net, run.clusters(net))) for net in starts]


def _judged_by_seed(run: ImageExperiment, teachers: Mapping[int, Trained], net: Trained) -> Row:
    return _judged(run, teachers[net.seed], net)


def _together(run: SpecialistExperiment, committee: Committee) -> Row:
    """What a generalist and its specialists make of the held-out images; seconds are those of the specialists."""
    q = run.combined(committee)
    return {
        "seed": committee.generalist.seed,
        "errors": int((~run.right(q)).sum()),
        "seconds": round(committee.seconds, 1),
        "conditional": round(float(run.conditional_right(q, committee.subsets).mean()), 4),
    }


def _search_speech(run: SpeechExperiment, name: str) -> list[Row]:
    """The rows of a search of a chapter on speech: first that of the ensemble that teaches, where students have one."""
    wanted, rows = run.sizes.searches[name], []
    tuned = getattr(run.sizes, wanted.of).training
    plans = {student: tuned.but(**change) for student, change in wanted.students.items()}
    seeds = [seed + max(run.seeds) + 1 for seed in range(wanted.members)]  # no student begins as one of them

    def members() -> list[Folded]:
        return run.train(run.plans.training, seeds, name=f"{name}: member")

    def nets(student: str) -> list[list[Folded]]:
        taught = () if plans[student].loss == "hard" else members()
        return [[net] for net in run.train(plans[student], run.seeds, taught, name=f"{name}: {student}")]

    judge = partial(_heard, run)
    tries = [({"teacher": "", "student": one}, partial(nets, one), judge) for one in plans]
    if any(plan.loss != "hard" for plan in plans.values()):
        teacher = f"mean of {wanted.members}" if wanted.members > 1 else "one net"
        tries.insert(0, ({"teacher": teacher, "student": ""}, lambda: [members()], judge))
    _try_all(run, name, tries, rows)
    return rows


def _heard(run: SpeechExperiment, system: Sequence[Folded]) -> Row:
    """The row of an acoustic model, or of several together; a search has one fold."""
    wrong, nets = int((~run.score(system).correct).sum()), [net for (net,) in system]
    return {"seed": nets[0].seed, "errors": wrong, "seconds": round(sum(net.seconds for net in nets), 1)}


def _fidelity(run: ImageExperiment, student: Trained, teacher: Trained) -> Row:
    """How near a student is to its teacher on the held-out images.

    gap: root mean square of what is between their centred logits, over that of the teacher's. agrees: the share of
    images with the same answer.
    """
    own, wide = (centred(run.logits(net)) for net in (student, teacher))
    gap = (own - wide).square().mean().sqrt() / wide.square().mean().sqrt()
    return {"gap": round(float(gap), 4), "agrees": round(agreement(run, student, teacher), 4)}


def agreement(run: ImageExperiment, student: Trained, teacher: Trained, split: str = "test") -> float:
    """Share of a split's images on which student and teacher answer the same."""
    answers = [run.logits(net, split).argmax(1) for net in (student, teacher)]
    return float((answers[0] == answers[1]).float().mean())


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Logits [N, C] less each case's mean, of which a softmax knows nothing."""
    return logits - logits.mean(1, keepdim=True)


def _row(run: ImageExperiment, net: Trained) -> Row:
    return {"seed": net.seed, "errors": run.errors(net), "seconds": round(net.seconds, 1)}


def place(run: Experiment, name: str) -> Path:
    """Where a search's record is."""
    return place_in(paths.runs(run.preset.name), run.chapter, name)


def place_in(runs: Path, chapter: str, name: str) -> Path:
    """The same, of a preset's runs; no spaces, which a picture's name on a page cannot have."""
    return runs / "searches" / f"{chapter}.{name.replace(' ', '-')}.json"


def write(run: Experiment, name: str, rows: Sequence[Row]) -> Path:
    """Save a search's record in the preset's runs; returns its path. Raises InputError when it cannot be written."""
    kept = ("chapter", "preset", "data", "provenance")
    record = {key: run.record[key] for key in kept} | {"search": name}
    record["plans"] = run.sizes.searches[name].model_dump()
    speech = isinstance(run, SpeechExperiment)
    record["held_out"] = len(run.data.parts[0].test if speech else run.data.test_images)
    path = place(run, name)
    with writing(f"the search's record {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, (json.dumps(record | {"rows": list(rows)}, indent=1) + "\n").encode())
    return path


def missing(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The teachers and students that a search's record has no rows of: it was ended before them."""
    seen = {(row["teacher"], row["student"]) for row in record["rows"]}
    plans = record.get("plans", {"students": {}})
    return [(t, s) for t in plans.get("teachers") or [""] for s in plans["students"] if (t, s) not in seen]


def table(record: Mapping[str, Any]) -> pd.DataFrame:
    """A search's rows, the seeds of each student together: mean errors, and what it saves.

    saved: errors less than the first student of the first teacher makes, of those that learn from as large a share of
    the cases, paired by seed, with an interval; see `savings`. kept: what a student saves as a share of what its
    teacher does; see `_kept`. What the search has not come to stands at the end.
    """
    rows, found = pd.DataFrame(record["rows"]), []
    saved, kept = savings(record), _kept(record)
    for (teacher, student), group in rows.groupby(["teacher", "student"], sort=False):
        row = {"teacher": teacher, "student": student or "(the teacher itself)", "seeds": len(group)}
        diverged = bool(group["errors"].isna().any())
        row |= {"errors": "diverges" if diverged else round(group["errors"].mean(), 1)}
        if student and not diverged:
            one = saved.loc[teacher, student]
            if one["compared with"]:
                row |= {"saved": "compared with", "95 % of it": ""}
            else:
                ends = None if np.isnan(one["half"]) else (one["saved"] - one["half"], one["saved"] + one["half"])
                row |= {"saved": f"{one['saved']:+.1f}", "95 % of it": wording.interval(ends)}
            row |= {"kept": f"{kept[teacher, student]:.1%}"} if (teacher, student) in kept else {}
            filled = group.dropna(axis=1)  # a student without a teacher has no gap to one
            of_teacher = {"gap": "{:.3f}", "agrees": "{:.2%}", "conditional": "{:.2%}"}
            row |= {name: text.format(filled[name].mean()) for name, text in of_teacher.items() if name in filled}
        found.append(row | {"minutes": round(group["seconds"].mean() / 60, 1)})
    left = {"seeds": 0, "errors": "not run", "minutes": ""}
    found += [{"teacher": t, "student": s} | left for t, s in missing(record)]
    return pd.DataFrame(found).fillna("")


# What `savings` gives of a search of which no student is judged yet, or all diverged.
NO_SAVINGS = pd.DataFrame(
    {"saved": pd.Series(dtype=float), "half": pd.Series(dtype=float), "compared with": pd.Series(dtype=bool)},
    index=pd.MultiIndex.from_arrays([[], []], names=["teacher", "student"]),
)


def savings(record: Mapping[str, Any]) -> pd.DataFrame:
    """What each student saves, a row a teacher and student.

    Students are compared with the first that learns from as large a share of the cases: more cases would save errors
    whatever the recipe. half: of the interval's width. A few seeds say little of a spread, so all students of a share
    say it together (`stats.pooled_half_width`); not a number for one seed, and for the student that is compared with.
    """
    students, found = _students(record), []
    plans = record.get("plans", {}).get("students", {})
    errors = students.pivot_table(index=["teacher", "student"], columns="seed", values="errors", sort=False)
    share = errors.index.get_level_values("student").map(lambda name: plans.get(name, {}).get("fraction", 1))
    for _, of in errors.groupby(share, sort=False):
        less = of.iloc[0] - of
        # Students that hear labels alone have a row beside each teacher, and a spread to be counted once.
        distinct = less.reset_index("student").drop_duplicates().drop(columns="student")
        half = stats.pooled_half_width(distinct.iloc[1:].to_numpy())
        first = np.arange(len(of)) == 0
        halves = np.where(first, np.nan, np.nan if half is None else half)
        found.append(pd.DataFrame({"saved": less.mean(axis=1), "half": halves, "compared with": first}))
    return pd.concat(found).loc[errors.index] if found else NO_SAVINGS


def _kept(record: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """What a student of a teacher saves as a share of what that teacher saves, where the teacher does save errors.

    On speech, over the first student. Of students that begin as a generalist, over that one, with the same seeds: its
    own students have no teacher that saves any, and labels alone have none.
    """
    rows, plans = pd.DataFrame(record["rows"]), record.get("plans", {})
    own, students = rows[rows["student"] == ""], rows[rows["student"] != ""]
    groups = [*students.groupby(["teacher", "student"], sort=False)]
    found = {}
    if plans.get("of") == "student":
        of = own.set_index(["teacher", "seed"])["errors"]
        for (teacher, student), group in groups:
            if plans["students"][student].get("loss") != "hard":
                own_of = [of[name][group["seed"]].mean() for name in ("generalist", teacher or "two generalists")]
                found[teacher, student] = *own_of, group["errors"].mean()
    elif (chapter := record.get("chapter")) and is_speech(chapter) and len(own):
        first = groups[0][1]["errors"].mean() if groups else np.nan
        found = {at: (first, own["errors"].mean(), group["errors"].mean()) for at, group in groups[1:]}
    return {at: (start - one) / (start - taught) for at, (start, taught, one) in found.items() if start > taught}


def _students(record: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of students that did not diverge."""
    rows = pd.DataFrame(record["rows"])
    return rows[(rows["student"] != "") & rows["errors"].notna()]


def figure(record: Mapping[str, Any]) -> Figure:
    """Errors over the length of training, where a search has several of several kinds; else what each student saves."""
    plans = {
        name: tuple(sorted((k, str(v)) for k, v in plan.items() if k != "epochs"))
        for name, plan in record["plans"]["students"].items()
    }
    lengths = len(set(plans.values())) < len(plans) / 2
    return _over_epochs(record, plans) if lengths else _saved(record)


def draw(path: Path, to: Path) -> None:
    """Draw what a search's record holds, as SVG."""
    figures.use_style()
    drawn, content = figure(json.loads(path.read_bytes())), io.BytesIO()
    drawn.savefig(content, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(drawn)
    atomic_write(to, content.getvalue())


def _over_epochs(record: Mapping[str, Any], plans: Mapping[str, tuple]) -> Figure:
    rows, students = pd.DataFrame(record["rows"]), _students(record)
    drawn, ax = plt.subplots(figsize=(7.2, 3.6))
    for kind in dict.fromkeys(plans.values()):
        names = [name for name in plans if plans[name] == kind]
        part = students[students["student"].isin(names)]
        if part.empty:
            continue
        epochs = part["student"].str.extract(r"(\d+) epochs")[0].astype(int)
        means = part["errors"].groupby(epochs).mean()
        label = names[0].rsplit(",", 1)[0]
        (line,) = ax.plot(means.index, means, label=label)
        ax.plot(epochs, part["errors"], "o", ms=4, color=line.get_color(), alpha=0.6)
    for teacher in rows.loc[rows["student"] == "", "errors"]:
        ax.axhline(teacher, color="black", ls=":", label="the teacher")
    ax.set(xscale="log", xlabel="epochs", ylabel=f"errors on {judged_on(record)}")
    ax.minorticks_off()
    ax.set_xticks(sorted({int(e) for e in students["student"].str.extract(r"(\d+) epochs")[0].dropna()}))
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.legend(fontsize=9)
    return drawn


def _saved(record: Mapping[str, Any]) -> Figure:
    saved = savings(record)
    teachers = saved.index.unique("teacher")
    names = [student if len(teachers) == 1 else f"{teacher}: {student}" for teacher, student in saved.index]
    drawn, ax = plt.subplots(figsize=(7.2, 0.9 + 0.33 * len(names)))
    heights = range(len(names))
    ax.errorbar(saved["saved"], heights, xerr=saved["half"], fmt="o")
    ax.axvline(0, color="black", ls=":")
    ax.set_yticks(heights, names)
    ax.invert_yaxis()
    ax.set(xlabel=f"errors saved on {judged_on(record)}")
    return drawn


def judged_on(record: Mapping[str, Any]) -> str:
    """What a search counts the errors of."""
    chapter = record.get("chapter")
    return "frames of validation speakers" if chapter and is_speech(chapter) else "held-out images"
