"""Running the chapters' notebooks with papermill."""

import importlib.util
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import filelock

from kdrepro import paths
from kdrepro.chapters import experiment, presets
from kdrepro.chapters.own_data import parse, written
from kdrepro.chapters.start import check, check_writable
from kdrepro.errors import InputError
from kdrepro.files import remove_stale, writing
from kdrepro.publishing import slices
from kdrepro.verdicts import records

# papermill's options: no progress bar of its own, and no word from the kernel on how it talks to this process. A kernel
# that is no longer needed is killed at once: asked politely in the middle of a cell it complains of its closed
# connection, and nothing that a chapter writes needs a farewell.
QUIET = {
    "kernel_name": "python3",
    "progress_bar": False,
    "extra_arguments": ["--IPKernelApp.log_level=ERROR"],
    "shutdown_kernel": "immediate",
    "start_timeout": 600,  # seconds; a minute is not enough where a busy or cold disk holds the packages
}


CONFIRMING = 10  # the first of the seeds that no choice has seen


@dataclass(frozen=True)
class Part:
    """Of a chapter, what is run: all of it, what one claim needs, or, with fresh seeds to confirm, all claims."""

    claim: str = ""
    confirm: bool = False

    @property
    def into(self) -> str:
        """The folder of the preset's runs that it is put into; "" for a whole chapter, as it is."""
        folders = [experiment.CONFIRM] if self.confirm else ["claims"] if self.claim else []
        return "/".join([*folders, *filter(None, [self.claim])])


WHOLE = Part()


def in_order() -> list[str]:
    """The chapters that are written, those first whose networks others need."""
    return sorted(presets.CHAPTERS, key=lambda chapter: (chapter != "02-mnist", chapter))


def checked(
    chapters: Sequence[str],
    preset: str,
    seeds: Any,
    first_seed: Any,
    device: str,
    data_root: str | None,
    changes: Sequence[str] = (),
    own_data: str | None = None,
) -> dict[str, Any]:
    """The notebook parameters, after everything that `chapters.start` needs has been looked at.

    Raises InputError before a kernel is started.
    """
    _check_name("KDREPRO_RUNS", str(paths.runs("")))
    preset = str(paths.expanded(preset).resolve()) if presets.is_file(preset) else preset
    own_data = own_data and written(parse(own_data))
    own = {"changes": list(changes), "own_data": own_data}
    for name, path in (("preset", preset), ("data_root", data_root), ("own_data", own_data)):
        _check_name(name, path)
    for chapter in chapters:
        check(chapter, preset, seeds, first_seed, device, data_root, **own)
    return {name: value for name, value in own.items() if value} | {
        "preset": preset,
        "seeds": None if seeds is None else int(seeds),
        "first_seed": int(first_seed),
        "device": device,
        "data_root": None if data_root is None else str(paths.data_root(data_root).resolve()),
    }


def _check_name(what: str, path: str | None) -> None:
    """Raises InputError for a path that a notebook, which is UTF-8, cannot hold."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} is {path}, whose bytes are not UTF-8: rename that folder, or link to it.") from None


def run(chapter: str, parameters: dict[str, Any], part: Part = WHOLE) -> Path:
    """Execute a chapter, or a part of it; returns the executed notebook, in the folder that `place` says.

    It is put there when it has ended, well or with an error; a run that is interrupted or killed leaves what is there.
    Raises InputError with the notebook's own sentence when bad input stopped it, with the failing cell's error
    otherwise, when the kernel does not start or dies, when the folder cannot be written, and when the chapter is
    already running at this preset; what was trained until then is in the store.
    """
    output = place(chapter, parameters, part) / "notebooks" / f"{chapter}.ipynb"
    with _alone(chapter, of_parameters(parameters).name), _source(chapter, part) as source:
        _execute(chapter, source, output, parameters)
    return output


@contextmanager
def _source(chapter: str, part: Part) -> Iterator[Path]:
    """The chapter's source, or a notebook of what is wanted of it."""
    source = paths.NOTEBOOKS / f"{chapter}.ipynb"
    if not part.into:
        yield source
        return
    import nbformat

    whole = nbformat.read(source, 4)
    made = slices.of_claim(whole, part.claim, part.into)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        nbformat.write(made, Path(folder) / source.name)
        yield Path(folder) / source.name


def place(chapter: str, parameters: dict[str, Any], part: Part = WHOLE) -> Path:
    """The folder of a run's notebook and records: a part's own, and within it as `records.place` says."""
    preset, count, first = of_parameters(parameters), parameters["seeds"], parameters["first_seed"]
    count = preset.chapters[chapter].seeds if count is None else count
    return records.place(paths.runs(preset.name) / part.into, chapter, range(first, first + max(1, count)))


def of_parameters(parameters: Mapping[str, Any]) -> presets.Preset:
    """The preset that a notebook of these parameters runs at."""
    return presets.load(parameters["preset"], parameters.get("changes", ()), parameters.get("own_data"))


def check_frozen(preset: str, chapter: str, claim: str) -> None:
    """Raises InputError where a confirmation would be none: rules or sizes not committed, or a second look.

    At smoke, which decides nothing, there is no such thing.
    """
    if preset == "smoke":
        return
    loose = records.uncommitted(paths.CLAIMS, paths.NOTEBOOKS, paths.ROOT / "kdrepro")
    if loose:
        raise InputError(
            f"{loose[0]} has changes that are not committed: commit rules, recipes and sizes first, since fresh seeds "
            "confirm only what was frozen before them."
        )
    for path in sorted((paths.runs(preset) / "confirm").rglob(f"results/{chapter}*.json")):
        if again := [claim_id for claim_id in records.read(path)["claims"] if claim in ("", claim_id)]:
            raise InputError(
                f"{again[0]} was run with fresh seeds already, in {path}: a second look decides nothing; publish that, "
                "or if rule or recipe have changed since, take it away, and say so in the claim's history."
            )
    for record in map(records.read, records.files(chapter)):
        for claim_id, entry in record["claims"].items():
            if "confirm" in entry and claim == claim_id:
                raise InputError(
                    f"{claim_id} was confirmed with seeds {entry['confirm']['seeds']} already: a second look decides "
                    "nothing; if its rule or recipe has changed since, take its `confirm` out of the record, and say "
                    "so in the claim's history."
                )


def refresh_source(chapter: str) -> None:
    """Re-execute a source notebook at its own defaults (smoke) and keep the outputs in it. Raises InputError."""
    import nbformat

    paths.need_book()
    check_writable(paths.runs("smoke"))
    executed = paths.runs("smoke") / "sources" / f"{chapter}.ipynb"
    with _alone(chapter, "smoke"):
        _execute(chapter, paths.NOTEBOOKS / f"{chapter}.ipynb", executed, {})
    notebook = nbformat.read(executed, 4)
    strip_metadata(notebook)
    nbformat.write(notebook, executed)
    shutil.move(executed, paths.NOTEBOOKS / f"{chapter}.ipynb")


@contextmanager
def _alone(chapter: str, preset: str) -> Iterator[None]:
    """Keep other runs of a chapter away: two would train the same networks and write one log. Raises InputError.

    The system gives the lock back when the process ends, however it does.
    """
    path = experiment.log_path(chapter, preset).with_suffix(".lock")
    lock = filelock.FileLock(path, timeout=0, mode=0o666)
    try:
        with writing(f"the log of {chapter}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"{chapter} is already running at {preset} in {paths.runs(preset)}: wait until it has ended, or set "
            "KDREPRO_RUNS to another folder for this run."
        ) from None
    except (OSError, NotImplementedError) as error:  # a network drive may know no locks
        warnings.warn(
            f"{path} cannot be locked ({error}): see to it yourself that {chapter} runs only once.", stacklevel=2
        )
    try:
        yield
    finally:
        lock.release()


def _execute(chapter: str, source: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute a source notebook into `output`. Raises InputError for whatever stops it."""
    missing = [name for name in ("papermill", "ipykernel") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"{missing[0]} is not installed: pip install 'kdrepro[notebooks]'.")
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from zmq import ZMQError

    from kdrepro.publishing import kernel

    logging.getLogger("papermill").disabled = True  # it says beforehand what the sentences below say
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            with writing(f"the notebook {output}"), _replacing(output) as part:
                manager = kernel.of_this_python(errors, Path(folder))
                papermill.execute_notebook(
                    _literal(source), _literal(part), parameters, kernel_manager_class=manager, **QUIET
                )
        except PapermillExecutionError as error:
            raise _of_cell(error, chapter, output) from None
        except DeadKernelError:
            raise InputError(
                f"The kernel of chapter {chapter} died, most likely because memory ran out: free some and give the "
                "same command again; it goes on from the last checkpoint."
            ) from None
        except (RuntimeError, ZMQError) as error:
            raise InputError(
                f"The kernel of chapter {chapter} did not start ({_last_line(errors) or error}): mend what it names, "
                f"or give Python its kernel again by `{sys.executable} -m pip install --force-reinstall ipykernel`."
            ) from None


def _literal(path: Path) -> str:
    """A path as papermill takes it, which puts parameters in the place of {names}."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _last_line(errors: IO[bytes]) -> str:
    """The last line that a process wrote, which in a traceback is the error."""
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A file to execute into: it takes its place at the end or at a cell's error, and is dropped otherwise."""
    from papermill.exceptions import PapermillExecutionError

    output.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(output.parent, f".{output.stem}.*.ipynb")
    part = output.with_name(f".{output.stem}.{os.getpid()}.ipynb")
    try:
        yield part
        os.replace(part, output)
    except PapermillExecutionError:
        os.replace(part, output)
        raise
    finally:
        part.unlink(missing_ok=True)


def _of_cell(error: Any, chapter: str, output: Path) -> BaseException:
    """What a cell's error is to the user."""
    if error.ename == "InputError":
        return InputError(error.evalue)
    if error.ename == "KeyboardInterrupt":
        return KeyboardInterrupt()
    said = f"{error.ename}: {error.evalue}"
    return InputError(f"Chapter {chapter} stopped at a cell with {said}; its traceback is in {output}.")


def strip_metadata(notebook: Any) -> None:
    """Drop, in place, what says when and where a notebook ran: timings, paths, the kernel's build."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in ("tags", "mystnb")}


class Log:
    """The lines that a running chapter adds to its log."""

    def __init__(self, chapter: str, preset: str):
        self.path = experiment.log_path(chapter, preset)
        self.position = self.path.stat().st_size if self.path.exists() else 0

    def new_lines(self) -> list[str]:
        """What was added since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.position)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.position += len(whole)
        return whole.decode("utf-8", "replace").splitlines()


def is_step(line: str) -> bool:
    """Whether a log line tells of one epoch among several."""
    return ": epoch " in line


def worker(line: str) -> str:
    """Who has written a log line: a worker's name, or "" for the run itself."""
    found = re.match(r"[\d:]+ \[(\S+/\d+)\] ", line)
    return found[1] if found else ""
