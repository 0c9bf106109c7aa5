"""Where a notebook begins: everything that it asks for is checked, and its experiment made."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdrepro import data, executors, paths
from kdrepro.acoustic import frames
from kdrepro.chapters import experiment, presets
from kdrepro.chapters import own_data as own_data_of
from kdrepro.chapters.committees import SpecialistExperiment
from kdrepro.chapters.images import ImageExperiment
from kdrepro.chapters.presets import Preset
from kdrepro.chapters.sizes import AcousticEnsemble, Specialised
from kdrepro.chapters.speech import Folds, SpeechExperiment
from kdrepro.data.tiny_imagenet import NoFreshError
from kdrepro.errors import InputError, nearest
from kdrepro.files import remove_stale, try_folder
from kdrepro.speech import espeak, shards, timit
from kdrepro.speech.corpus import Corpus
from kdrepro.store import Store


@dataclass
class SpeechChapter:
    """The experiments of a chapter, one a data set; what they share."""

    sets: dict[str, SpeechExperiment]

    @classmethod
    def of(cls, corpora: Mapping[str, Sequence[Corpus]], chapter: str, preset: Preset, store: Store, **common) -> Any:
        """Prepare the corpora (once; they are kept in the run's folder) and make an experiment of each."""
        sizes = preset.chapters[chapter]
        sets = {}
        for name, folds in corpora.items():
            cache = paths.runs(preset.origin) / "corpora"
            states = sizes.synthetic.states if name == "synthetic" else None
            made = _told(partial(experiment.write_log, chapter, preset.name), name)
            parts = tuple(frames.load_speech(corpus, cache, states, made) for corpus in folds)
            sets[name] = SpeechExperiment(
                data=Folds(parts),
                record_name=f"{chapter}.{name}",
                chapter=chapter,
                preset=preset,
                store=store,
                **common,
            )
            sets[name].log(f"{chapter} at {preset.name}: {name}, {parts[0].hours:.2f} h of training, {common['seeds']}")
        return cls(sets)

    @property
    def main(self) -> str:
        """The name of the data set that the chapter is about: synthetic speech, or recordings of one's own."""
        return "synthetic" if "synthetic" in self.sets else next(iter(self.sets))

    @property
    def decides(self) -> SpeechExperiment:
        """The experiment on that: of the book's data sets, the one that decides the claims."""
        return self.sets[self.main]

    @property
    def sizes(self) -> Any:
        """This chapter's part of the preset."""
        return self.decides.sizes

    @property
    def seeds(self) -> list[int]:
        """Those of every data set's experiment."""
        return self.decides.seeds

    def finish(self) -> list[Path]:
        """Write the record of every data set."""
        return [run.finish() for run in self.sets.values()]


def start(
    chapter: str,
    *,
    preset: str = "smoke",
    seeds: int | None = None,
    first_seed: int = 0,
    device: str = "cpu",
    data_root: str | None = None,
    changes: str | Sequence[str] | None = (),
    own_data: str | None = None,
    into: str = "",
) -> Any:
    """Check everything that was asked for and return the chapter's experiment.

    preset: smoke, full or paper, or a .yaml file of one's own. seeds: how many, None for the preset's number.
    first_seed: the first of them. device: "cpu", "cuda" or "cuda:1". data_root: the folder of the data sets, None for
    KDREPRO_DATA or `data/`. changes: of the preset's sizes, see `presets.load`. own_data: what is read in the place of
    the book's data, see `own_data.parse`. into: a folder of the preset's runs for the record, where a part of a chapter
    is run. A run with sizes or data of one's own trains into the store of the book's preset that it starts from.
    Returns an `ImageExperiment`, for a chapter on specialists a `SpecialistExperiment`, and for one on speech its
    `SpeechChapter`.
    Raises InputError, before anything trains, when one of them is wrong.
    """
    confirm = experiment.is_to_confirm(into)
    chapter, loaded, seed_list, where, found = check(
        chapter, preset, seeds, first_seed, device, data_root, changes, own_data, confirm
    )
    common = {"chapter": chapter, "preset": loaded, "seeds": seed_list, "device": where}
    common |= _storing_and_training(chapter, loaded)
    common |= {"into": into, "left_out": own_data_of.left_out(chapter) if loaded.own_data else {}}
    if presets.is_speech(chapter):
        speech = SpeechChapter.of(found, **common)
        if confirm and "synthetic" in speech.sets:
            seed = speech.sizes.synthetic.corpus.fresh_seed
            said = f"other speakers and sentences, of seed {seed}"
            # What it confirms is of the same training speech: it bears the fingerprint that goes with the usual test.
            usual = "-".join(shards.fingerprint(replace(corpus, test_seed=None)) for corpus in found["synthetic"])
            speech.decides.record["data"] |= {"fingerprint": usual, "test": said}
        return speech
    run = _on_images(loaded.chapters[chapter])(data=found.to(where), **common)
    run.log(f"{chapter} at {loaded.name}: {found.name}, seeds {run.seeds}, {where}")
    if confirm and hasattr(loaded.chapters[chapter], "images"):
        run.record["data"]["test"] = _say_what_confirms(run, paths.data_root(data_root))
    for claim_id, why in run.left_out.items():
        run.log(f"{claim_id} is left out: {why}")
    return run


def start_search(
    chapter: str,
    name: str,
    *,
    preset: str,
    device: str = "cpu",
    data_root: str | None = None,
    changes: str | Sequence[str] | None = (),
) -> Any:
    """The experiment of one of a chapter's searches: held-out training images are in the place of its test images.

    Returns an experiment on images that is never handed a test image, or a `SpeechExperiment` on synthetic speech whose
    test speakers are the validation speakers. Raises InputError, before anything trains, when something that was asked
    for is wrong, or the chapter has no such search.
    """
    chapter = presets.check_chapter(chapter)
    searches = getattr(presets.load(preset, changes).chapters[chapter], "searches", {})
    if name not in searches:
        there = f"{nearest(name, searches)}: it has {', '.join(searches)}" if searches else ": it has none"
        raise InputError(f"{chapter} at {preset} has no search {name!r}{there}.")
    asked = (chapter, preset, searches[name].seeds, 0, device, data_root, changes)
    chapter, loaded, seeds, where, found = check(*asked, search=name)
    common = {"chapter": chapter, "preset": loaded, "seeds": seeds, "device": where}
    common |= _storing_and_training(chapter, loaded)
    if presets.is_speech(chapter):
        run = SpeechChapter.of({"synthetic": found["synthetic"]}, **common).decides
        return replace(run, data=run.data.without_test(), record={})
    if not searches[name].held_out < len(found.train_images):
        raise InputError(f"The search {name} holds out {searches[name].held_out:,} images, all that there are.")
    kind = _on_images(loaded.chapters[chapter])
    return kind(data=found.with_validation(searches[name].held_out).to(where), **common)


def _told(tell: Callable[[str], None], name: str) -> Callable[[int, int], None]:
    """A progress of hours of speech that are made, or read, for the first time: a line for each tenth of them."""

    def progress(done: int, count: int) -> None:
        if 10 * done // count > 10 * (done - 1) // count:
            tell(f"{name}: {done} of {count} parts of the speech are there")

    return progress


def _on_images(sizes: Any) -> type[ImageExperiment]:
    """What experiment a chapter of these sizes is, which is not on speech."""
    return SpecialistExperiment if isinstance(sizes, Specialised) else ImageExperiment


def _storing_and_training(chapter: str, preset: Preset) -> dict[str, Any]:
    """Where a run's networks are kept, and who trains them: this process, or what KDREPRO_EXECUTOR names."""
    run = paths.runs(preset.origin)
    store = Store(paths.store(preset.origin), warn=_on_stderr, folders=run / "store", checkpoints=paths.checkpoints())
    if isinstance(store.root, Path):
        store.folders = None
        remove_stale(store.root, f".{'[0-9a-f]' * 16}.*")  # what killed runs left half written
    options = executors.from_environment()
    if options.executor == "local":
        return {"store": store, "precision": options.precision}
    workers = executors.Workers(options, run, partial(experiment.write_log, chapter, preset.name))
    return {"store": store, "precision": options.precision, "workers": workers}


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def check(
    chapter: str,
    preset: str,
    seeds: Any,
    first_seed: Any,
    device: str,
    data_root: str | None,
    changes: str | Sequence[str] | None = (),
    own_data: str | None = None,
    confirm: bool = False,
    search: str = "",
) -> tuple[str, Preset, list[int], torch.device, Any]:
    """What `start` was asked for, looked up and validated; the images on the CPU, or the corpora of speech.

    confirm: whether test images that nothing has used take the place of the others, where there are such; of synthetic
    speech, other speakers with other sentences. search: one of the chapter's, whose sizes these are to be.

    Raises InputError for whatever is wrong with it.
    """
    chapter = presets.check_chapter(chapter)
    loaded = presets.load(preset, changes, own_data)
    loaded = presets.for_search(loaded, chapter, search) if search else loaded
    count = check_count("seeds", loaded.chapters[chapter].seeds if seeds is None else seeds, least=1)
    first = check_count("first_seed", first_seed, least=0)
    where = check_device(device)
    root = paths.data_root(data_root)
    check_writable(paths.runs(loaded.name))
    sizes, own = loaded.chapters[chapter], own_data and own_data_of.parse(own_data)
    if own:
        own_data_of.check_kind(chapter, own)
    if presets.is_speech(chapter):
        _check_members(chapter, sizes, first, count)
        named = bool(data_root or os.environ.get("KDREPRO_DATA"))
        corpus = own_data_of.recordings(own) if own else None
        found = {corpus.name: [corpus]} if corpus else _corpora(sizes, root, named=named, fresh=confirm)
    elif isinstance(sizes, Specialised):
        loaded, cache = presets.with_seeds(loaded, chapter, count), paths.runs(loaded.origin) / "images"
        if own:
            found = own_data_of.images(chapter, own, sizes.images.size, cache)
            loaded = own_data_of.fitted(loaded, chapter, found.classes)
        else:
            found = _images(sizes.images, root, cache, confirm)
    elif own:
        found = own_data_of.images(chapter, own, 0, paths.runs(loaded.origin) / "images")
    else:
        found = data.digits() if loaded.data == "digits" else data.mnist(root)
    return chapter, loaded, list(range(first, first + count)), where, found


def _check_members(chapter: str, sizes: Any, first: int, count: int) -> None:
    """Raises InputError where seeds are not of one ensemble, whose members they are in chapter 3."""
    if isinstance(sizes, AcousticEnsemble) and first % sizes.members + count > sizes.members:
        raise InputError(
            f"Each seed of {chapter} is a member of one ensemble of {sizes.members}, so seeds can't go from "
            f"{first} up to {first + count - 1}: ask for fewer, or raise {chapter}.members."
        )


def check_writable(run: Path) -> None:
    """Raises InputError where a run's folder cannot be written: said before anything is made that is kept there."""
    try:
        try_folder(run)
    except OSError as error:
        raise InputError(
            f"Cannot write the notebook, record and networks of a run into {run} ({error.strerror or error}): set "
            "KDREPRO_RUNS to a folder that is writable, or make room."
        ) from error


def beside(run: ImageExperiment, data_root: str | None = None) -> SpecialistExperiment | None:
    """The experiment of a chapter's second data set, which has a record of its own; None where the preset has none.

    Nor is there one beside data of one's own. It is trained with the first of the run's seeds. data_root: see `start`.
    """
    sizes = getattr(run.sizes, "second", None)
    if sizes is None or run.preset.own_data:
        return None
    found = _images(sizes.images, paths.data_root(data_root), paths.runs(run.preset.origin) / "images")
    found = replace(found, name=f"{sizes.images.kind}-{found.classes}")
    seeds = run.seeds[: sizes.seeds]
    sizes = sizes.model_copy(update={"sweep_seeds": min(sizes.sweep_seeds, len(seeds))})
    preset = run.preset.model_copy(update={"chapters": {**run.preset.chapters, run.chapter: sizes}})
    kept = {name: getattr(run, name) for name in ("chapter", "device", "store", "into", "workers", "precision")}
    name = f"{run.chapter}.{found.name}"
    kept |= {"seeds": seeds, "beside": run.seeds, "record_name": name}
    return SpecialistExperiment(data=found.to(run.device), preset=preset, **kept)


def _say_what_confirms(run: Any, root: Path) -> str:
    """Which test images a confirmation sees, for its record and its log; the record's data are the usual ones."""
    wanted = run.sizes.images
    below = getattr(wanted, "numbered_below", None)
    usual = "the usual test images"
    if below is not None:
        of_usual = _images(wanted, root, paths.runs(run.preset.origin) / "images").fingerprint
        fresh = run.data.fingerprint != of_usual
        run.record["data"]["fingerprint"] = of_usual  # what it confirms is of the same training images
        usual = f"training images numbered from {below} on" if fresh else f"{usual}, for want of unused ones"
    run.log(f"fresh seeds on {usual}")
    return usual


def _images(wanted: Any, root: Path, cache: Path, confirm: bool = False) -> data.ImageData:
    """Images of many classes, drawn or decoded once and kept in `cache`; to confirm, with fresh test images if any."""
    arguments = wanted.model_dump(exclude={"kind"})
    if wanted.kind == "glyphs":
        return data.glyphs(**arguments, cache=cache)
    if confirm and wanted.numbered_below is not None:
        with suppress(NoFreshError):
            return data.tiny_imagenet(root, **arguments, fresh=True, cache=cache)
    return data.tiny_imagenet(root, **arguments, cache=cache)


def _corpora(sizes: Any, root: Path, *, named: bool, fresh: bool = False) -> dict[str, list[Any]]:
    """The corpora of a chapter on speech, by name, several where one is split into folds; TIMIT only where it is.

    named: whether somebody gave the root, which must then be there. Raises InputError where it is not, and for a
    `timit` in it that is no TIMIT.
    """
    espeak.check()
    if named and not root.is_dir():
        raise InputError(
            f"There is no folder {root}, which data_root (--data-root) or KDREPRO_DATA names: correct it, or leave it "
            "out to run on synthetic speech alone."
        )
    if sizes.timit is not None and timit.unknown_layout(root) is not None:
        data.timit(root)  # says what is wrong with it
    found = {"synthetic": [data.synthetic_speech(**sizes.synthetic.corpus.arguments(fresh))]}
    if sizes.timit is not None and timit.find(root) is not None:
        first = data.timit(root)
        folds = 1 if first.name == "timit" else timit.FOLDS
        found[first.name] = [first, *(data.timit(root, fold) for fold in range(1, folds))]
    return found


def check_count(name: str, value: Any, least: int) -> int:
    """A whole number of at least `least`, also from a string of digits. Raises InputError."""
    try:
        number = int(str(value))
    except ValueError:
        number = None
    if number is None or number < least or isinstance(value, bool):
        raise InputError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    return number


def check_device(name: str) -> torch.device:
    """A device that is there. Raises InputError."""
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise InputError(f"There is no device {name!r}: use cpu or cuda.") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
    }
    if not there.get(device.type, False):
        raise InputError(
            f"The device {name!r} is not there: this machine has {_devices()}; use one of these{_why_no_gpu()}."
        )
    return device


def _devices() -> str:
    return " and ".join(["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())])


def _why_no_gpu() -> str:
    """What may keep a GPU that is there from PyTorch."""
    if torch.cuda.is_available():
        return ""
    if torch.backends.mps.is_available():
        return " (chapters run on processors and on NVIDIA's GPUs; Apple's have no float64)"
    if torch.version.cuda is None:
        return " (this PyTorch is built for the processor alone; a GPU needs another build)"
    return f" (a GPU that is there needs a driver for CUDA {torch.version.cuda}, or a PyTorch for the driver it has)"
