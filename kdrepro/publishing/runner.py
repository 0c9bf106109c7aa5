"""Running the chapters' notebooks with papermill."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdrepro import paths
from kdrepro.chapters import experiment, presets
from kdrepro.chapters.start import check
from kdrepro.errors import InputError
from kdrepro.files import remove_stale, writing

# papermill's options: the environment's own kernel, no progress bar of its own, and no word from the kernel
# on how it talks to this process. A kernel that is no longer needed is killed at once: asked politely in the middle of
# a cell it complains of its closed connection, and nothing that a chapter writes needs a farewell.
QUIET = {
    "kernel_name": "python3",
    "progress_bar": False,
    "extra_arguments": ["--IPKernelApp.log_level=ERROR"],
    "shutdown_kernel": "immediate",
}


def in_order() -> list[str]:
    """The chapters that are written, those first whose networks others need."""
    return sorted(presets.CHAPTERS, key=lambda chapter: (chapter != "02-mnist", chapter))


def checked(
    chapters: Sequence[str], preset: str, seeds: Any, first_seed: Any, device: str, data_root: str | None
) -> dict[str, Any]:
    """The notebook parameters, after everything that `chapters.start` needs has been looked at.

    Raises InputError before a kernel is started.
    """
    for chapter in chapters:
        check(chapter, preset, seeds, first_seed, device, data_root)
    return {
        "preset": preset,
        "seeds": None if seeds is None else int(seeds),
        "first_seed": int(first_seed),
        "device": device,
        "data_root": None if data_root is None else str(Path(data_root).expanduser().resolve()),
    }


def run(chapter: str, parameters: dict[str, Any]) -> Path:
    """Execute a chapter; returns the executed notebook in runs/<preset>/notebooks/.

    It is put there when it has ended, well or with an error; a run that is interrupted or killed leaves what is there.
    Raises InputError with the notebook's own sentence when bad input stopped it, with the failing cell's error
    otherwise, and when the kernel dies or the folder cannot be written; what was trained until then is in the store.
    """
    try:
        import papermill
        from nbclient.exceptions import DeadKernelError
        from papermill.exceptions import PapermillExecutionError
    except ImportError:
        raise InputError("papermill is not installed: pip install 'kdrepro[notebooks]'.") from None
    output = paths.runs(parameters["preset"]) / "notebooks" / f"{chapter}.ipynb"
    try:
        with writing(f"the notebook {output}"), _replacing(output) as part:
            papermill.execute_notebook(paths.NOTEBOOKS / f"{chapter}.ipynb", part, parameters, **QUIET)
    except PapermillExecutionError as error:
        raise _of_cell(error, chapter, output) from None
    except DeadKernelError:
        raise InputError(
            f"The kernel of chapter {chapter} died, most likely because memory ran out: free some and give the same "
            "command again; it goes on from the last checkpoint."
        ) from None
    return output


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


def refresh_source(chapter: str) -> None:
    """Re-execute a source notebook at its own defaults (smoke) and keep the outputs in it."""
    import nbformat
    import papermill

    source = paths.NOTEBOOKS / f"{chapter}.ipynb"
    executed = paths.runs("smoke") / "sources" / f"{chapter}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(source, executed, **QUIET)
    notebook = nbformat.read(executed, 4)
    strip_metadata(notebook)
    nbformat.write(notebook, executed)
    shutil.move(executed, source)


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
