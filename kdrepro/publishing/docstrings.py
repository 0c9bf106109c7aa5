"""Docstrings as they are, for autodoc: paragraphs, `name: what it is` as a list, indented lines as examples."""

import re
from typing import Any

ITEM = re.compile(r"^((?:\*{0,2}[A-Za-z_]\w*)(?:, \*{0,2}[A-Za-z_]\w*)*): (.*)$")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", lambda app, what, name, thing, options, lines: rewrite(lines))
    return {"parallel_read_safe": True}


def rewrite(lines: list[str]) -> None:
    """Change a docstring's lines, in place, into reStructuredText that says the same."""
    found, item = [], False
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        block = [line for line in paragraph.split("\n") if line.strip()]
        if block and all(line.startswith("    ") for line in block) and not item:
            found += ["::", "", *block, ""]  # an example
            continue
        for line in block:
            text, match = _literal(line.strip()), ITEM.match(line.strip())
            more = line.startswith("    ") or text.startswith(("- ", "* "))
            if match and not line.startswith("    "):
                found += ["", f"- **{_literal(match[1])}**: {_literal(match[2])}"]
                item = True
            elif text.startswith(("- ", "* ")):
                found += ["", text]
                item = True
            elif item and not more and re.match(r"(Returns|Raises|A row|Each|They|It|Layers|Cases)\b", text):
                found += ["", text]
                item = False
            else:
                found.append(f"  {text}" if item else text)
        found.append("")
        item = False
    lines[:] = found


def _literal(text: str) -> str:
    """Names in single backticks as code; what else reStructuredText would take for markup as itself."""
    parts = re.split(r"(``[^`]+``|`[^`]+`)", text)
    found = []
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        if part.startswith("`"):
            found.append(part if part.startswith("``") else f"`{part}`")
            # `MLP`s: letters that follow at once take a blank that is not shown.
            found.append("\\ " if re.match(r"\w", after) else "")
        else:
            found.append(re.sub(r"([*|_\\])", r"\\\1", part))
    return "".join(found)
