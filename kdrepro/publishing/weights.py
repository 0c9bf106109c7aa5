"""Published weights: of each claim the networks of its first seed, in float16, with a card that says what they are.

`book/results/weights/` holds a file for each network, `<key>.<part>.safetensors`, no part above 2 MB; `index.json`,
which says what each is and which claim it belongs to; and `README.md`, the card. Networks that would not fit, or cannot
be built from their configuration alone, are left out and named; of a claim the last, which it is about, comes first.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save
from torch import nn

from kdrepro import paths
from kdrepro.errors import InputError, nearest
from kdrepro.files import atomic_write, counted, writing
from kdrepro.store import build
from kdrepro.store.places import Place, place
from kdrepro.verdicts import claims, records

PART_BYTES, ALL_BYTES = 2_000_000, 40_000_000
CLAIM_BYTES = 8_000_000  # of a claim's networks that no claim before it has: forty specialists would take all the room


def publish(store: Path | str, folder: Path) -> list[str]:
    """Copy the published claims' networks from a store, by its folder or address; returns the names of those left out.

    What is in the folder and not in the store stays. Raises InputError when it cannot be written.
    """
    before, files = read_index(folder)["networks"], place(store)
    index: dict[str, Any] = {"claims": {}, "networks": {}, "left_out": []}
    wanted = {
        claim_id: (record, nets)
        for record in records.read_all()
        for claim_id, entry in record["claims"].items()
        if (nets := (entry.get("confirm") or entry).get("nets")) and _decides(claim_id, record)
    }
    rooms = dict.fromkeys(wanted, CLAIM_BYTES)
    with writing(f"the weights {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        for which in (slice(-1, None), slice(None)):  # first of every claim the one that it is about, then the others
            for claim_id, (record, nets) in wanted.items():
                about = {"chapter": record["chapter"], "preset": record["preset"], "seed": nets["seed"]}
                _add(index, rooms, claim_id, about, nets["keys"][which], partial(_network, before, files, folder))
        _remove_others(index, folder)
        atomic_write(folder / "index.json", (json.dumps(index, indent=1) + "\n").encode())
        atomic_write(folder / "README.md", (_card(index) + "\n").encode())
    return index["left_out"]


def _decides(claim_id: str, record: Mapping[str, Any]) -> bool:
    """Whether a record is of the data that decides the claim: the nets of others would take its nets' place."""
    return claims.get(claim_id).data == record["data"]["name"]


def load(claim_id: str, folder: Path | None = None) -> nn.Module:
    """The network that a claim is about, of its first seed: float32 on the CPU, in eval mode.

    Its weights were rounded to float16, which moves a logit by about a thousandth of itself.
    folder: of published weights; the book's where none is given.
    Raises InputError when the claim has no published weights, or the book is not here.
    """
    if folder is None:
        paths.need_book()
        folder = paths.WEIGHTS
    index = read_index(folder)
    if claim_id not in index["claims"]:
        there = ", ".join(index["claims"]) or "none yet"
        raise InputError(
            f"There are no published weights of {claim_id!r}{nearest(claim_id, index['claims'])}: there are those of "
            f"{there}."
        )
    key = index["claims"][claim_id][-1]
    network = build(index["networks"][key]["config"])
    network.load_state_dict(_joined(key, index["networks"][key]["parts"], folder))
    return network.eval()


def read_index(folder: Path) -> dict[str, Any]:
    """claims: the keys of each claim's networks, that which it is about last; networks: what each is, by key."""
    path = folder / "index.json"
    return json.loads(path.read_bytes()) if path.exists() else {"claims": {}, "networks": {}, "left_out": []}


def _add(
    index: dict, rooms: dict[str, int], claim_id: str, about: Mapping, keys: Sequence[str], network: Callable
) -> None:
    """Put networks of a claim, the last of which is needed, into the index, as far as they are to be had and fit.

    rooms: bytes that each claim has left for networks that no claim before it has. network: (key, bytes that are left)
    -> what the index says of it, or None.
    """
    kept: list[str] = []
    for key in reversed(keys):
        if key not in index["networks"]:
            held = sum(of["bytes"] for of in index["networks"].values())
            found = network(key, min(rooms[claim_id], ALL_BYTES - held))
            if found is None:
                continue
            index["networks"][key] = dict(found)
            rooms[claim_id] -= found["bytes"]
        kept.insert(0, key)
    names = {f"{claim_id}: {key}" for key in keys}
    index["left_out"] = sorted({*index["left_out"], *names} - {f"{claim_id}: {key}" for key in kept})
    if kept and kept[-1] == keys[-1]:
        index["claims"][claim_id] = kept
        for key in kept:
            index["networks"][key] |= about


def _network(before: Mapping, store: Place, folder: Path, key: str, room: int) -> dict[str, Any] | None:
    """What the index says of a network whose parts are written; None where it is not to be had, or has no room.

    before: what the index said of networks whose parts are there.
    """
    if key in before:
        return before[key] if before[key]["bytes"] <= room else None
    entry, content = (store.read(f"{key}/{name}") for name in ("entry.json", "network.safetensors"))
    try:
        entry, tensors = json.loads(entry or b""), parse(content or b"")
        build(entry["config"]).load_state_dict(tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    parts = [save(part) for part in _parts({name: t.half().contiguous() for name, t in tensors.items()})]
    if (size := sum(map(len, parts))) > room:
        return None
    for i, part in enumerate(parts):
        atomic_write(folder / f"{key}.{i}.safetensors", part)
    last = entry["history"][-1] if entry["history"] else {}
    return {"config": entry["config"], "parts": len(parts), "bytes": size, "last_row": last}


def _parts(tensors: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """The tensors in parts of at most PART_BYTES; of a larger one, rows: "name@first row"."""
    part: dict[str, torch.Tensor] = {}
    held, room = 0, PART_BYTES - 20_000  # for the header
    for name, tensor in tensors.items():
        row_bytes = tensor[0].numel() * tensor.element_size() if tensor.dim() else tensor.element_size()
        rows = max(1, room // max(1, row_bytes))
        pieces = [tensor] if tensor.dim() == 0 else tensor.split(rows)
        first = 0
        for piece in pieces:
            size = piece.numel() * piece.element_size()
            if part and held + size > room:
                yield part
                part, held = {}, 0
            part[name if len(pieces) == 1 else f"{name}@{first}"] = piece.contiguous().clone()
            held, first = held + size, first + len(piece) if piece.dim() else first
    if part:
        yield part


def _joined(key: str, parts: int, folder: Path) -> dict[str, torch.Tensor]:
    """A network's tensors from its parts, in float32 where they were rounded."""
    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for i in range(parts):
        path = folder / f"{key}.{i}.safetensors"
        try:
            found = parse(path.read_bytes())
        except OSError as error:
            raise InputError(
                f"The weights {path.name} are not there ({error.strerror}): get the book again."
            ) from error
        for name, tensor in found.items():
            base, _, first = name.partition("@")
            pieces.setdefault(base, {})[int(first or 0)] = tensor
    whole = {name: torch.cat([of[i] for i in sorted(of)]) if len(of) > 1 else of[0] for name, of in pieces.items()}
    return {name: t.float() if t.dtype == torch.float16 else t for name, t in whole.items()}


def _remove_others(index: Mapping, folder: Path) -> None:
    """Networks that no claim names any more go, and their files."""
    named = {key for keys in index["claims"].values() for key in keys}
    for key in set(index["networks"]) - named:
        del index["networks"][key]
    for path in folder.glob("*.safetensors"):
        if path.name.split(".")[0] not in named:
            path.unlink()


def _card(index: Mapping) -> str:
    """The model card, in Markdown."""
    lines = [
        "# Published weights",
        "",
        'The networks of each claim\'s first seed, in float16: `kdrepro.load("mnist.plain")` gives the one that the '
        "claim is about. Under the licence of the code (MIT); what they learned from is on the book's page on data.",
        "",
        "| claim | network | layers | chapter, preset, seed | recipe | last epoch |",
        "|---|---|---|---|---|---|",
    ]
    for claim_id, keys in index["claims"].items():
        for key in keys:
            of = index["networks"][key]
            network, recipe = of["config"]["network"], of["config"].get("recipe", {})
            layers = " - ".join(map(str, network.get("widths") or network.get("channels", [])))
            shown = ", ".join(f"{name} {value}" for name, value in recipe.items() if value is not None)
            last = ", ".join(f"{name} {value:.5g}" for name, value in of["last_row"].items())
            where = f"{of['chapter']}, {of['preset']}, {of['seed']}"
            lines.append(f"| `{claim_id}` | `{key}` | {layers} | {where} | {shown} | {last} |")
    if index["left_out"]:
        of_each = Counter(name.partition(":")[0] for name in index["left_out"])
        lines += ["", "Left out, since they would not fit or need more than their configuration (all in `index.json`):"]
        lines += ["", *(f"- `{claim_id}`: {counted(number, 'network')}" for claim_id, number in of_each.items())]
    return "\n".join(lines)
