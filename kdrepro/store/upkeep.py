"""Looking after a store: what is in it, what it takes, and taking things out or away."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kdrepro.errors import InputError
from kdrepro.store.entries import Store, is_entry, sha
from kdrepro.store.leases import LEASE, Leases
from kdrepro.store.places import Folder

BATCH = 200  # entries read at once
PAIRS = (("network.safetensors", "entry.json"), ("arrays.npz", "arrays.json"))  # a file, and what describes it


@dataclass(frozen=True)
class Item:
    """A folder of a store.

    kind: "network" (finished), "begun" (with a checkpoint, or less), "arrays" or "folder" (other files). sizes: bytes
    of its files, by name. entry: what is known of a network, see `Store.entry`. holder: who trains it now.
    """

    key: str
    kind: str
    sizes: Mapping[str, int]
    entry: dict[str, Any] = field(default_factory=dict)
    holder: str = ""

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(self.sizes.values())

    @property
    def damaged(self) -> dict[str, int]:
        """Bytes of the files that were set aside, by name."""
        return {name: size for name, size in self.sizes.items() if ".damaged-" in name}


def items(store: Store, wanted: Sequence[str] = ()) -> Iterator[Item]:
    """What is in a store, in the order of its keys. wanted: only keys that begin so; none for all."""
    keys = [key for key in store.place.keys() if not wanted or key.startswith(tuple(wanted))]  # noqa: SIM118
    for start in range(0, len(keys), BATCH):
        some = keys[start : start + BATCH]
        entries = store.place.read_all([f"{key}/entry.json" for key in some])
        for key in some:
            yield _item(store, key, entries.get(f"{key}/entry.json"))


def _item(store: Store, key: str, entry: bytes | None) -> Item:
    sizes = store.place.sizes(key)
    holder = Leases(store.place).holder(key) if LEASE in sizes else ""
    parsed = _parsed(entry)
    if parsed and "network.safetensors" in sizes:
        return Item(key, "network", sizes, parsed, holder)
    kind = "arrays" if "arrays.json" in sizes else "begun" if _looks_begun(sizes) else "folder"
    return Item(key, kind, sizes, {}, holder)


def _looks_begun(sizes: Mapping[str, int]) -> bool:
    return all(name.partition(".")[0] in ("checkpoint", "network", "entry", "lease") for name in sizes)


def _parsed(entry: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(entry or b"")
    except (ValueError, RecursionError):
        return {}
    return found if is_entry(found) else {}


def one(store: Store, key: str) -> Item:
    """The item whose key begins so. Raises InputError where there is none, or more than one."""
    found = list(items(store, [key])) if key else []
    if len(found) != 1:
        what = "no network" if not found else f"{len(found)} networks"
        raise InputError(f"The store {store.root} has {what} whose name begins with {key!r}: see `kdrepro store ls`.")
    return found[0]


def named(store: Store, keys: Sequence[str]) -> list[Item]:
    """The item of each key, as `one` finds it, those that are named twice once. Raises InputError."""
    return list({item.key: item for item in (one(store, key) for key in keys)}.values())


def described(item: Item) -> dict[str, str]:
    """What a row of a table says of an item."""
    config, made = item.entry.get("config", {}), item.entry.get("made", {})
    history = item.entry.get("history") or [{}]
    network, recipe = config.get("network", {}), config.get("recipe", config.get("specialist", {}).get("recipe", {}))
    layers = network.get("widths") or network.get("channels") or []
    return {
        "key": item.key,
        "what": item.kind + (f", trained by {item.holder}" if item.holder else ""),
        "layers": " - ".join(map(str, layers)),
        "loss": str(config.get("loss", "")),
        "seed": str(config.get("seed", "")),
        "epochs": str(recipe.get("epochs", "")),
        "data": _data(config.get("data")),
        "seconds": f"{history[-1]['seconds']:.0f}" if "seconds" in history[-1] else "",
        "trained on": ", ".join(str(made[name]) for name in ("device", "precision", "date") if made.get(name)),
        "KB": f"{item.bytes / 1000:,.0f}",
    }


def _data(data: Any) -> str:
    return str(data.get("name", "")) if isinstance(data, Mapping) else str(data or "")


def usage(store: Store) -> dict[str, tuple[int, int]]:
    """How many files of each kind, and their bytes: networks, checkpoints, arrays, other files, damaged ones."""
    found: dict[str, tuple[int, int]] = {}
    for item in items(store):
        for name, size in item.sizes.items():
            kind = _kind_of_file(name)
            count, total = found.get(kind, (0, 0))
            found[kind] = count + 1, total + size
    return found


def _kind_of_file(name: str) -> str:
    if ".damaged-" in name:
        return "damaged files"
    kinds = {"network": "networks", "entry": "networks' entries", "checkpoint": "checkpoints", "arrays": "arrays"}
    return kinds.get(name.partition(".")[0], "other files")


def remove(store: Store, item: Item, damaged_only: bool = False) -> int:
    """Delete an item, or of it what was set aside; returns the bytes that are free now.

    Raises InputError for what a run trains at the moment, and when it cannot be deleted.
    """
    files = item.damaged if damaged_only else item.sizes
    if item.holder and not damaged_only:
        raise InputError(
            f"{item.key} is being trained by {item.holder}: end that run first, or wait a minute if it is gone."
        )
    # What says that a file is whole goes first, so that whoever reads meanwhile finds none, and no half.
    for name in sorted(files, key=lambda name: not name.endswith(".json")):
        with store.writing():
            if isinstance(store.place, Folder) and (store.place.root / item.key / name).is_dir():
                continue
            store.place.remove(f"{item.key}/{name}")
    if isinstance(store.place, Folder) and not damaged_only:
        with suppress(OSError):  # somebody is there again, or something lies deeper
            (store.place.root / item.key).rmdir()
    return sum(files.values())


def export(store: Store, item: Item, target: Store) -> bool:
    """Copy an item into another store, whose own stays where it has one; whether it was copied.

    Only what is whole: of a network its file and its entry, of arrays theirs. Raises InputError for a damaged file and
    when it cannot be written.
    """
    copied, there = False, target.place.sizes(item.key).keys()
    for file, about in PAIRS:
        contents = store.place.read_all([f"{item.key}/{name}" for name in (file, about)])
        if f"{item.key}/{about}" not in contents:
            continue
        described = _whole(store, item.key, contents, file, about)
        if not {file, about} <= there:
            with target.writing():
                copied = target.put(item.key, file, contents[f"{item.key}/{file}"], about, described) or copied
    return copied


def _whole(store: Store, key: str, contents: Mapping[str, bytes], file: str, about: str) -> Any:
    """What describes a file, if the file is what it says. Raises InputError."""
    try:
        described = json.loads(contents[f"{key}/{about}"])
        if sha(contents[f"{key}/{file}"]) == described["sha256"]:
            return described
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(
        f"{key}/{file} in the store {store.root} is damaged: remove it by `kdrepro store rm {key}`, and its chapter "
        "makes it again."
    )
