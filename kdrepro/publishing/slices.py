"""What claims need of their chapter: a notebook of those statements alone that their `run.claim` depends on.

A backward slice over the notebook's top-level statements: one is kept if it binds or changes a name that is still
needed, and then the names that it reads are needed too. So a claim trains its own networks and no others, and a
chapter's claims those that decide.
"""

import ast
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import nbformat

from kdrepro.errors import InputError

CLAIMING = ("claim", "claim_published")  # methods of an experiment
CHANGING = {"append", "extend", "insert", "update", "add", "setdefault", "pop", "remove", "sort", "clear"}  # methods
KEEPERS = "publish_"  # how functions begin that put something beside the record: kept where all that they read is there
TRAINING = ("train", "distil", "committee", "ensemble")  # how methods of an experiment begin that may train
IGNORED = {"run", "chapter"}  # every statement asks the experiment for something; that changes no other's answer


@dataclass(frozen=True)
class _Statement:
    """cell: its number. source, reads, binds (names), changes (names whose object it may change)."""

    cell: int
    node: ast.stmt
    source: str
    reads: frozenset[str]
    binds: frozenset[str]
    changes: frozenset[str]

    @property
    def whole(self) -> bool:
        """Whether it binds its names whatever happens, so that what they were before is not needed."""
        return not isinstance(self.node, ast.For | ast.If | ast.While | ast.Try | ast.AugAssign)


def of_claim(notebook: nbformat.NotebookNode, claim_id: str, into: str) -> nbformat.NotebookNode:
    """A copy of a chapter's source with the parameters, and of all else what the claim needs.

    claim_id: "" for all of the chapter's. into: the folder of the preset's runs that the record is put into. Raises
    InputError when no cell of the chapter makes this claim.
    """
    statements = [s for i, cell in enumerate(notebook.cells) if _is_code(cell) for s in _statements(i, cell.source)]
    kept = _needed(statements, claim_id)
    if not kept:
        raise InputError(f"No cell of this chapter measures {claim_id or 'a claim'}.")
    kept.append(next(s for s in reversed(statements) if "finish" in _called(s.node)))
    by_cell: dict[int, list[str]] = {}
    for statement in kept:
        by_cell.setdefault(statement.cell, []).append(_started_into(statement, into))
    found = copy.deepcopy(notebook)
    found.cells = [cell for i, cell in enumerate(found.cells) if i in by_cell or _has_parameters(cell)]
    sources = iter(by_cell.values())
    for cell in found.cells:
        if not _has_parameters(cell):
            cell.source = "\n".join(next(sources))
            cell.outputs, cell.execution_count = [], None
    return found


def _needed(statements: list[_Statement], claim_id: str) -> list[_Statement]:
    """Those that the claim depends on, in their order, and those that publish what it is made of."""
    targets = [i for i, s in enumerate(statements) if _makes(s.node, claim_id)]
    if not targets:
        return []
    chosen, needed = set(targets), {name for i in targets for name in statements[i].reads}
    for i in range(max(targets) - 1, -1, -1):
        one = statements[i]
        if i in chosen or one.binds & needed or (one.changes - IGNORED) & needed:
            chosen.add(i)
            needed = (needed - one.binds if one.whole else needed) | one.reads
    return [statements[i] for i in sorted(chosen | _keeping(statements, chosen))]


def _keeping(statements: list[_Statement], chosen: set[int]) -> set[int]:
    """Statements that put beside the record what the chosen ones have, and what else these need that trains nothing."""
    asking = set(IGNORED)  # what can train a network: the experiment, and functions that ask it
    for one in statements:
        if isinstance(one.node, ast.FunctionDef) and one.reads & asking:
            asking |= one.binds

    def needs(i: int) -> set[int] | None:
        """The statements, beside the chosen, that number i needs; None where one could train."""
        found: set[int] = set()
        for name in statements[i].reads:
            making = [j for j in range(i) if name in statements[j].binds | (statements[j].changes - IGNORED)]
            anew = [j for j in making if statements[j].whole and name in statements[j].binds]
            for j in making[making.index(anew[-1]) if anew else 0 :]:
                if j in chosen:
                    continue
                more = None if statements[j].reads & asking else needs(j)
                if more is None:
                    return None
                found |= more | {j}
        return found

    def may_train(one: _Statement) -> bool:
        return any(name in asking or name.startswith(TRAINING) for name in _called(one.node))

    keepers = [i for i, one in enumerate(statements) if i > min(chosen) and _keeps(one.node) and not may_train(one)]
    return {j for i in keepers if (found := needs(i)) is not None for j in found | {i}}


def _statements(cell: int, source: str) -> Iterable[_Statement]:
    """A cell's top-level statements; what IPython alone understands is left out."""
    lines = [line for line in source.split("\n") if not line.lstrip().startswith(("%", "!"))]
    code = "\n".join(lines)
    for node in ast.parse(code).body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        yield _Statement(
            cell,
            node,
            "\n".join(lines[first - 1 : node.end_lineno]),
            frozenset(_reads([node], set())),
            frozenset(_bound(node)),
            frozenset(_changed(node)),
        )


def _reads(body: Iterable[ast.stmt], bound: set[str]) -> set[str]:
    """The names that statements take from those before them; `bound`, those bound until here, grows on the way."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef):
            inside = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)} | _stored(node)
            found |= {n for child in node.body for n in _loaded(child)} - inside - bound
            found |= {n for child in (node.args, *node.decorator_list) for n in _loaded(child)} - inside - bound
        elif isinstance(node, ast.For | ast.While | ast.If | ast.With):
            heads = [node.iter] if isinstance(node, ast.For) else getattr(node, "items", None) or [node.test]
            found |= {n for head in heads for n in _loaded(head)} - bound
            bound |= _stored(node.target) if isinstance(node, ast.For) else {n for h in heads for n in _stored(h)}
            found |= _reads([*node.body, *getattr(node, "orelse", [])], bound)
        else:
            found |= _loaded(node) - bound
        bound |= set(_bound(node))
    return found


def _loaded(node: ast.AST) -> set[str]:
    """The names that are read in an expression, or a statement without statements in it, but for its own variables."""
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    found = {n for child in ast.iter_child_nodes(node) for n in _loaded(child)}
    if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        return found - {n for generator in node.generators for n in _stored(generator.target)}
    return found - {a.arg for a in node.args.args} if isinstance(node, ast.Lambda) else found


def _stored(node: ast.AST) -> set[str]:
    """The names that are bound in a node; not the variables of comprehensions."""
    inner = {n for c in ast.walk(node) if isinstance(c, ast.comprehension) for n in _stored(c.target)}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} - inner


def _bound(node: ast.stmt) -> Iterable[str]:
    """The names that a top-level statement binds for those after it."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    else:
        yield from _stored(node)


def _changed(node: ast.stmt) -> Iterable[str]:
    """The names whose objects a statement changes: x.append(...), x[...] = ..., x.y = ..."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in CHANGING:
            yield from _root(part.func.value)
        elif isinstance(part, ast.Subscript | ast.Attribute) and isinstance(part.ctx, ast.Store):
            yield from _root(part.value)


def _root(node: ast.AST) -> Iterable[str]:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Name):
        yield node.id


def _makes(node: ast.stmt, claim_id: str) -> bool:
    """Whether a statement records this claim, or with "" any."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in CLAIMING:
            first = part.args[0] if part.args else None
            if isinstance(first, ast.Constant) and claim_id in ("", first.value):
                return True
    return False


def _called(node: ast.stmt) -> set[str]:
    """The names of the functions and methods that a statement calls."""
    calls = [part.func for part in ast.walk(node) if isinstance(part, ast.Call)]
    return {getattr(function, "attr", "") or getattr(function, "id", "") for function in calls}


def _keeps(node: ast.stmt) -> bool:
    """Whether a statement puts something beside the record: a call of KEEPERS, or something into `run.predictions`."""
    into = [node.target] if isinstance(node, ast.AugAssign) else []
    into += [p.value for p in ast.walk(node) if isinstance(p, ast.Subscript) and isinstance(p.ctx, ast.Store)]
    return any(getattr(of, "attr", "") == "predictions" for of in into) or any(
        name.startswith(KEEPERS) for name in _called(node)
    )


def _started_into(statement: _Statement, into: str) -> str:
    """Its source, in which `chapters.start(...)` is told where the record goes."""
    node = copy.deepcopy(statement.node)
    calls = [c for c in ast.walk(node) if isinstance(c, ast.Call) and ast.unparse(c.func) == "chapters.start"]
    if not calls:
        return statement.source
    calls[0].keywords.append(ast.keyword("into", ast.Constant(into)))
    return ast.unparse(node)


def _is_code(cell: Any) -> bool:
    return cell.cell_type == "code" and not _has_parameters(cell)


def _has_parameters(cell: Any) -> bool:
    return "parameters" in cell.metadata.get("tags", [])
