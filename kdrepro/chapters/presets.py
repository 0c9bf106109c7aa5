"""The sizes of every experiment, read from notebooks/presets/<preset>.yaml and validated before anything trains.

A preset may name a `base`: it then lists only what differs from it.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from kdrepro import paths
from kdrepro.chapters.sizes import (
    AcousticEnsemble,
    DarkKnowledge,
    DistilBack,
    Mixtures,
    Mnist,
    Sizes,
    SoftTargetsSizes,
    Specialists,
    SpeechSizes,
)
from kdrepro.errors import InputError, nearest
from kdrepro.verdicts.claims import NOT_YAML

CHAPTERS: dict[str, type[Sizes]] = {
    "01-dark-knowledge": DarkKnowledge,
    "02-mnist": Mnist,
    "03-acoustic-ensemble": AcousticEnsemble,
    "04-soft-targets": SoftTargetsSizes,
    "05-specialists": Specialists,
    "06-mixtures": Mixtures,
    "07-distil-back": DistilBack,
}


def is_speech(chapter: str) -> bool:
    """Whether a chapter is about speech, and not about images."""
    return issubclass(CHAPTERS[chapter], SpeechSizes)


class Preset(BaseModel):
    """A whole preset file."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    name: str
    data: Literal["digits", "mnist"]
    chapters: dict[str, Any]


def names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in paths.PRESETS.glob("*.yaml"))


def load(name: str) -> Preset:
    """Read, merge with its base and validate a preset.

    Raises InputError: an unknown preset, an unknown key (with the nearest valid one), a wrong type.
    """
    try:
        merged = _merged(name)
    except RecursionError:  # of YAML's anchors
        raise InputError(f"Preset {name} holds a key that contains itself: write its value out.") from None
    preset = _validated(Preset, {**merged, "name": name}, name, "")
    unknown = [chapter for chapter in preset.chapters if chapter not in CHAPTERS]
    if unknown:
        raise InputError(f"Preset {name}: there is no chapter {unknown[0]!r}{nearest(unknown[0], CHAPTERS)}.")
    chapters = {
        chapter: _validated(model, preset.chapters.get(chapter, {}), name, f"chapters.{chapter}.")
        for chapter, model in CHAPTERS.items()
    }
    return preset.model_copy(update={"chapters": chapters})


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


def _merged(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    paths.need_book()
    if name not in names():
        raise InputError(f"There is no preset {name!r}{nearest(name, names())}: choose from {', '.join(names())}.")
    if name in seen:
        raise InputError(f"Preset {name} is its own base ({' -> '.join([*seen, name])}).")
    content = _read(paths.PRESETS / f"{name}.yaml")
    base = content.pop("base", None)
    return content if base is None else _overlaid(_merged(base, (*seen, name)), content)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, TypeError, *NOT_YAML) as error:
        raise InputError(f"{path.name} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path.name} must hold keys and values, not {type(content).__name__}.")
    return content


def _overlaid(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _overlaid(base[key], value) if both else value
    return merged


def _validated(model: type[BaseModel], content: Any, preset: str, prefix: str) -> Any:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = prefix + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            raise InputError(
                f"Preset {preset}: unknown key {where}{nearest(key, _keys(model, first['loc']))}."
            ) from None
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise InputError(f"Preset {preset}: {where}: {first['msg']}{got}.") from None


def _keys(model: Any, location: tuple) -> list[str]:
    """The fields of the model in which the last part of an error's location was looked for."""
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            return []
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if hasattr(a, "model_fields")]
        model = inner[0] if inner else None
    return list(getattr(model, "model_fields", {}))
