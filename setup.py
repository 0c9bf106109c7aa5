"""Puts the presets and the claims, which are the book's, into a wheel too; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PLACES = {"book/claims.yaml": "", "notebooks/presets/*.yaml": "presets"}


class WithTheBook(build_py):
    """Copies them beside the modules, in `kdrepro/from_book`; not in an editable installation, which has the book."""

    def run(self) -> None:
        """Build the package and copy them into it."""
        super().run()
        for pattern, folder in {}.items() if self.editable_mode else PLACES.items():
            place = Path(self.build_lib, "kdrepro", "from_book", folder)
            place.mkdir(parents=True, exist_ok=True)
            for path in Path().glob(pattern):
                shutil.copy(path, place)


setup(cmdclass={"build_py": WithTheBook})
