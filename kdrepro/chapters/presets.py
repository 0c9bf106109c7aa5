"""The sizes of every experiment, read from notebooks/presets/<preset>.yaml and validated before anything trains.

A preset may name a `base`: it then lists only what differs from it. A file of one's own, anywhere, and single changes
make presets that are not the book's: their runs go to folders of their own, and say what differs.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kdrepro import paths
from kdrepro.chapters.sizes import (
    AcousticEnsemble,
    After2015,
    DarkKnowledge,
    DistilBack,
    Mixtures,
    Mnist,
    Pitfalls,
    Sizes,
    SoftTargetsSizes,
    Specialists,
    SpeechSizes,
)
from kdrepro.errors import InputError, nearest
from kdrepro.files import not_yaml

CHAPTERS: dict[str, type[Sizes]] = {
    "01-dark-knowledge": DarkKnowledge,
    "02-mnist": Mnist,
    "03-acoustic-ensemble": AcousticEnsemble,
    "04-soft-targets": SoftTargetsSizes,
    "05-specialists": Specialists,
    "06-mixtures": Mixtures,
    "07-distil-back": DistilBack,
    "08-pitfalls": Pitfalls,
    "09-after-2015": After2015,
}


def is_speech(chapter: str) -> bool:
    """Whether a chapter is about speech, and not about images."""
    return issubclass(CHAPTERS[chapter], SpeechSizes)


class _File(BaseModel):
    """A whole preset file, with its base."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str  # the folder of its runs
    data: Literal["digits", "mnist"]
    chapters: dict[str, Any]


class Preset(_File):
    """The sizes that a run has.

    origin: the book's preset that it starts from; itself, where it is one. changed: by dotted name, what differs from
    that, before and after. own_data: what is read in the place of the book's data sets (see `own_data.parse`), or "".
    """

    origin: str
    changed: dict[str, tuple[Any, Any]] = {}
    own_data: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it is not one of the book's."""
        return self.name != self.origin


def names() -> list[str]:
    """The book's presets."""
    return sorted(path.stem for path in paths.PRESETS.glob("*.yaml"))


def load(name: str | Path, changes: str | Sequence[str] | None = (), own_data: str | None = None) -> Preset:
    """Read a preset, merge it with its base, change it, and validate what results.

    name: one of the book's, or the path of a .yaml file that names its `base`. changes: `CHAPTER.KEY=VALUE`, several in
    a list or with ";" between; keys of keys with dots, places in lists by number, values as in YAML.
    Raises InputError: an unknown preset, an unknown key (with the nearest valid one), a wrong type.
    """
    name, wanted = str(name), [_change(one) for one in _listed(changes)]
    try:
        merged, origin = _merged(name)
        for keys, value in wanted:
            merged = _replaced(merged, keys, value)
    except RecursionError:  # of YAML's anchors
        raise InputError(f"Preset {name} holds a key that contains itself: write its value out.") from None
    found = _whole(name, merged, origin)
    if not (is_file(name) or wanted or own_data):
        return found
    before = load(origin)
    changed = dict(_differences(_plain(before), _plain(found)))
    if not (is_file(name) or changed or own_data):
        return found
    own = {"origin": origin, "changed": changed, "own_data": own_data or ""}
    return found.model_copy(update={**own, "name": _own_name(name, own)})


def is_file(name: str) -> bool:
    """Whether a preset's name is that of a file, and not of one of the book's."""
    return name.endswith((".yaml", ".yml")) or "/" in name


def _whole(name: str, merged: Mapping[str, Any], origin: str) -> Preset:
    """What a merged preset says, validated."""
    preset = _validated(_File, {**merged, "name": name}, name, "")
    unknown = [chapter for chapter in preset.chapters if chapter not in CHAPTERS]
    if unknown:
        raise InputError(f"Preset {name}: there is no chapter {unknown[0]!r}{nearest(unknown[0], CHAPTERS)}.")
    chapters = {
        chapter: _validated(model, preset.chapters.get(chapter, {}), name, f"chapters.{chapter}.")
        for chapter, model in CHAPTERS.items()
    }
    return Preset(name=name, data=preset.data, chapters=chapters, origin=origin)


def for_search(preset: Preset, chapter: str, name: str) -> Preset:
    """The preset for one of a chapter's searches: with what it changes in the chapter's sizes, and no other search."""
    sizes = preset.chapters[chapter]
    search = sizes.searches[name]
    sizes = sizes.but(**{**getattr(search, "sizes", {}), "searches": {name: search}})
    return preset.model_copy(update={"chapters": {**preset.chapters, chapter: sizes}})


def with_seeds(preset: Preset, chapter: str, count: int) -> Preset:
    """The preset for a run of that many seeds: no sweep or control of the chapter on specialists has more of them."""
    sizes = preset.chapters[chapter]
    fewer = {
        name: min(getattr(sizes, name), count) for name in ("sweep_seeds", "control_seeds") if hasattr(sizes, name)
    }
    return preset.model_copy(update={"chapters": {**preset.chapters, chapter: sizes.model_copy(update=fewer)}})


def check_chapter(chapter: str) -> str:
    """The chapter's full name; its number or an unambiguous part of it will do. Raises InputError."""
    matches = [name for name in CHAPTERS if chapter == name or chapter.zfill(2) == name.split("-")[0]]
    matches = matches or [name for name in CHAPTERS if chapter and chapter in name]
    if len(matches) != 1:
        raise InputError(
            f"There is no chapter {chapter!r}{nearest(chapter, CHAPTERS)}: choose from {', '.join(CHAPTERS)}."
        )
    return matches[0]


def _merged(name: str, seen: tuple[str, ...] = (), beside: Path = Path()) -> tuple[dict[str, Any], str]:
    """A preset's content with that of its base, and the book's preset that it starts from.

    beside: the folder that a base which is a file is looked for in.
    """
    if not paths.PRESETS.exists():
        paths.need_book()
    known, path = names(), beside / paths.expanded(name) if is_file(name) else paths.PRESETS / f"{name}.yaml"
    if not is_file(name) and name not in known:
        own = f", or give the path of a .yaml file that begins with `base: {known[-1]}`" if known else ""
        raise InputError(f"There is no preset {name!r}{nearest(name, known)}: choose from {', '.join(known)}{own}.")
    if not path.is_file():
        raise InputError(f"There is no preset file {path}: correct the path, or choose from {', '.join(known)}.")
    if str(path) in seen:
        raise InputError(f"Preset {name} is its own base ({' -> '.join([*seen, str(path)])}).")
    content = _read(path)
    base = content.pop("base", None)
    if base is None and is_file(name):
        raise InputError(f"{path} names no preset to start from: add a line `base: {known[-1]}` ({', '.join(known)}).")
    if base is None:
        return content, name
    merged, origin = _merged(str(base), (*seen, str(path)), path.parent)
    return _overlaid(merged, content), origin if is_file(name) else name


def _listed(changes: str | Sequence[str] | None) -> list[str]:
    given = changes.split(";") if isinstance(changes, str) else list(changes or ())
    return [text for one in given if (text := str(one).strip())]


def _change(text: str) -> tuple[list[str], Any]:
    """The keys and the value of `CHAPTER.KEY=VALUE`. Raises InputError."""
    dotted, equals, value = text.partition("=")
    first, *rest = dotted.strip().split(".")
    if not equals or not (rest or first == "data"):
        raise InputError(f"{text!r} changes no size: write CHAPTER.KEY=VALUE, 02-mnist.distilled.temperature=10 say.")
    try:
        read = yaml.safe_load(value)
    except (TypeError, *not_yaml()) as error:
        raise InputError(f"The value of {text!r} is not valid YAML: {' '.join(str(error).split())}.") from None
    return [first] if first == "data" else ["chapters", check_chapter(first), *rest], read


def _replaced(content: Any, keys: Sequence[str], value: Any) -> Any:
    """A copy of nested keys and lists in which one value is another; what is not there is left to be validated."""
    if not keys:
        return value
    first, *rest = keys
    if isinstance(content, list) and first.isdecimal() and int(first) < len(content):
        return [_replaced(one, rest, value) if i == int(first) else one for i, one in enumerate(content)]
    inner = content if isinstance(content, dict) else {}
    return {**inner, first: _replaced(inner.get(first), rest, value)}


def _plain(preset: Preset) -> dict[str, Any]:
    """What two presets can be compared by."""
    return {"data": preset.data, **{name: sizes.model_dump() for name, sizes in preset.chapters.items()}}


def _differences(before: Any, after: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What differs, by dotted name: both values. Lists are compared as wholes."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before != after:
            yield name, (before, after)
        return
    for key in dict.fromkeys([*before, *after]):
        yield from _differences(before.get(key), after.get(key), f"{name}.{key}".lstrip("."))


def _own_name(name: str, own: Mapping[str, Any]) -> str:
    """A folder's name for the runs of a preset that is not the book's: each has its own."""
    digest = hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:8]
    parts = [Path(name).stem if is_file(name) else name]
    if own["own_data"]:
        parts.append(Path(own["own_data"].partition(":")[2].partition(",")[0]).stem)
    return "-".join([*(re.sub(r"[^\w.-]+", "-", part) for part in parts), digest])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, TypeError, *not_yaml()) as error:
        raise InputError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name} must hold keys and values, not {type(content).__name__}.")
    return content


def _overlaid(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        both = isinstance(value, dict) and isinstance(old, dict)
        # Images of another kind have other sizes.
        both = both and value.get("kind", old.get("kind")) == old.get("kind")
        merged[key] = _overlaid(old, value) if both else value
    return merged


def _validated(model: type[BaseModel], content: Any, preset: str, prefix: str) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key, known = str(first["loc"][-1]), _keys(model, first["loc"])
            deeper = [name for name in known if name.endswith(f".{key}")]
            near = nearest(key, deeper or [name for name in known if "." not in name])
            raise InputError(f"Preset {preset}: unknown key {where}{near}.") from None
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise InputError(f"Preset {preset}: {where}: {first['msg']}{got}.") from None


def _keys(model: Any, location: tuple) -> list[str]:
    """The fields of the model in which the last part of an error's location was looked for, and `field.inner` ones."""
    for part in location[:-1]:
        if isinstance(part, int):  # a place in a list
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        model = next(iter(_models(field)), None)
    fields = getattr(model, "model_fields", {})
    inner = [f"{name}.{key}" for name, field in fields.items() for one in _models(field) for key in one.model_fields]
    return [*fields, *inner]


def _models(field: Any) -> list[type[BaseModel]]:
    """The models that a field may hold."""
    return [a for a in (field.annotation, *get_args(field.annotation)) if hasattr(a, "model_fields")]
