"""Running the chapters' notebooks with papermill."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdrepro import experiments, paths, presets
from kdrepro.errors import InputError

# papermill's options: the environment's own kernel, no progress bar of its own, and no word from the kernel
# on how it talks to this process.
QUIET = {"kernel_name": "python3", "progress_bar": False, "extra_arguments": ["--IPKernelApp.log_level=ERROR"]}


def in_order() -> list[str]:
    """The chapters that are written, those first whose networks others need."""
    return sorted(presets.CHAPTERS, key=lambda chapter: (chapter != "02-mnist", chapter))


def checked(
    chapters: Sequence[str], preset: str, seeds: Any, first_seed: Any, device: str, data_root: str | None
) -> dict[str, Any]:
    """The notebook parameters, after everything that `experiments.start` needs has been looked at.

    Raises InputError before a kernel is started.
    """
    for chapter in chapters:
        experiments.check(chapter, preset, seeds, first_seed, device, data_root)
    return {
        "preset": preset,
        "seeds": None if seeds is None else int(seeds),
        "first_seed": int(first_seed),
        "device": device,
        "data_root": None if data_root is None else str(Path(data_root).resolve()),
    }


def run(chapter: str, parameters: dict[str, Any]) -> Path:
    """Execute a chapter; returns the executed notebook in runs/<preset>/notebooks/.

    Raises InputError with the notebook's own sentence when bad input stopped it, and with the failing
    cell's error otherwise; what was trained until then is in the store.
    """
    try:
        import papermill
        from papermill.exceptions import PapermillExecutionError
    except ImportError:
        raise InputError("papermill is not installed: pip install 'kdrepro[notebooks]'.") from None
    output = paths.runs(parameters["preset"]) / "notebooks" / f"{chapter}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(paths.NOTEBOOKS / f"{chapter}.ipynb", output, parameters, **QUIET)
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from None
        said = f"{error.ename}: {error.evalue}"
        raise InputError(f"Chapter {chapter} stopped at a cell with {said}; its traceback is in {output}.") from None
    return output


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
        self.path = experiments.log_path(chapter, preset)
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
