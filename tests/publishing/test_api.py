"""The API reference: every public name is on the page, and docstrings become what Sphinx reads without a warning."""

import importlib
import re

import pytest

from kdrepro import paths
from kdrepro.publishing import docstrings

PAGE = (paths.BOOK / "api.md").read_text()
ROOMS = (
    "losses",
    "ensembles",
    "biases",
    "diagnosis",
    "networks",
    "training",
    "specialists",
    "store",
    "data",
    "acoustic",
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_on_the_page(room):
    module = importlib.import_module(f"kdrepro.{room}")
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    documented = set(re.findall(rf"\.\. auto\w+:: kdrepro\.{room}\.(\w+)", PAGE))
    there = {n for n in names if isinstance(getattr(module, n), type) or hasattr(getattr(module, n), "__code__")}
    assert documented == there


def test_docstrings_become_lists_and_examples():
    lines = ["What `it` does with a_b.", "", "    x = 1", ""]
    lines += ["teacher_logits: [N, ...], as `as_cases` has it:", "    more of it."]
    lines += ["y, **more: two at once", "`MLP`s go on, `a` b `c`.", "Raises ValueError."]
    docstrings.rewrite(lines)
    assert lines == [
        "What ``it`` does with a\\_b.",
        "",
        "::",
        "",
        "    x = 1",
        "",
        "",
        "- **teacher\\_logits**: [N, ...], as ``as_cases`` has it:",
        "  more of it.",
        "",
        "- **y, \\*\\*more**: two at once",
        "  ``MLP``\\ s go on, ``a`` b ``c``.",
        "",
        "Raises ValueError.",
        "",
    ]
