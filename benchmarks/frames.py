"""Frames a second of training acoustic models: this package beside an ordinary PyTorch loop over the same shards.

    python benchmarks/frames.py                # minutes; prints a table, writes nothing
    python benchmarks/frames.py --quick        # seconds, a small corpus and net

Both take the same steps of the same recipe in float32 on one thread, labels alone, as the nets of chapter 3's table do.
Before anything is timed, both take one step from the same weights on the same batch and must lose as much. The bound is
what the machine's matrix rate allows: operations of the products alone, see `flops.training`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flops
import torch
from torch import nn

from kdrepro import acoustic, data, training
from kdrepro.acoustic.frames import WINDOW_FRAMES, Frames, Speech
from kdrepro.networks import MLP
from kdrepro.speech.features import COEFFICIENTS
from kdrepro.training import lanes

INPUTS = WINDOW_FRAMES * COEFFICIENTS
SIZES = {"hours": 0.5, "states": 400, "hidden": (256, 256, 256), "batch_size": 128, "networks": 4, "repeats": 3}
QUICK = SIZES | {"hours": 0.02, "states": 160, "hidden": (64, 64), "networks": 2, "repeats": 2}
TOLERANCE = 1e-5  # nats between the losses of one step


def recipe(sizes: Mapping[str, Any]) -> training.Recipe:
    """One pass, in float32."""
    return training.Recipe(epochs=1, batch_size=sizes["batch_size"], learning_rate=1e-3, precision="fp32")


def widths(sizes: Mapping[str, Any], speech: Speech) -> list[int]:
    """The layers of the nets."""
    return [INPUTS, *sizes["hidden"], len(speech.states)]


def networks(sizes: Mapping[str, Any], speech: Speech, count: int) -> list[MLP]:
    """This many, each of its own seed."""
    return [MLP(widths(sizes, speech), generator=torch.Generator().manual_seed(i)) for i in range(count)]


def ours(sizes: Mapping[str, Any], speech: Speech, count: int) -> Callable[[], None]:
    """This package trains so many nets, one of them by `fit`, more by `fit_many`."""
    nets = networks(sizes, speech, count)
    batches = [acoustic.FrameBatches(speech.train, batch_size=sizes["batch_size"]) for _ in nets]
    if count == 1:
        return lambda: training.fit(nets[0], batches[0], training.hard_targets, recipe(sizes), seed=0)
    each = {"seeds": list(range(count))}
    return lambda: training.fit_many(nets, batches, [training.hard_targets] * count, [recipe(sizes)] * count, **each)


class Windows(torch.utils.data.Dataset):
    """The frames as an ordinary data set has them: a window and its state at a time, cut from the shard in memory."""

    def __init__(self, frames: Frames):
        self.features, self.rows = frames.read(range(len(frames.shards)), "cpu")
        self.targets = frames.targets.long()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, which: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rows = self.rows[which].tolist()
        inputs = [self.features[row : row + WINDOW_FRAMES].reshape(-1).float() for row in rows]
        return list(zip(inputs, self.targets[which], strict=True))


def plain(sizes: Mapping[str, Any], speech: Speech) -> Callable[[], None]:
    """An ordinary loop: a DataLoader, `nn.Sequential`, AdamW, a schedule that is stepped."""
    network = sequential(networks(sizes, speech, 1)[0])
    loader = torch.utils.data.DataLoader(Windows(speech.train), batch_size=sizes["batch_size"], shuffle=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(loader))

    def train() -> None:
        for inputs, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
            schedule.step()

    return train


def sequential(net: MLP) -> nn.Sequential:
    """The same net in PyTorch's own layers, with the same weights."""
    linear = [one for one in net.modules() if isinstance(one, nn.Linear)]
    layers = [layer for one in linear for layer in (nn.Linear(one.in_features, one.out_features), nn.ReLU())][:-1]
    found = nn.Sequential(*layers)
    found.load_state_dict({f"{2 * i}.{k}": v for i, one in enumerate(linear) for k, v in one.state_dict().items()})
    return found


def difference(sizes: Mapping[str, Any], speech: Speech) -> float:
    """How far apart the losses of the two are on the same batch from the same weights, in nats."""
    (net,) = networks(sizes, speech, 1)
    batch = next(acoustic.FrameBatches(speech.train, batch_size=64).epoch(torch.Generator().manual_seed(0)))
    with torch.no_grad():
        own = training.hard_targets(net(batch.inputs.float()), batch)
        other = nn.functional.cross_entropy(sequential(net)(batch.inputs.float()), batch.labels)
    return abs(own.item() - other.item())


def measure(sizes: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Frames a second of each arm, the median of the repeats in turn, and the bound of the matrix rate, one thread.

    Raises ValueError where the two do not compute the same.
    """
    corpus = data.synthetic_speech(sizes["hours"], validation_hours=0.01, test_hours=0.01, minutes_per_speaker=0.5)
    speech = acoustic.load_speech(corpus, folder, sizes["states"])
    if (apart := difference(sizes, speech)) > TOLERANCE:
        raise ValueError(f"The plain loop's loss differs from ours by {apart:.1e} nats: they do not do the same work.")
    arms = {"plain PyTorch loop": 1, "kdrepro, one net": 1, f"kdrepro, {sizes['networks']} nets": sizes["networks"]}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    matrix = []
    with lanes.threads(1):
        for _ in range(sizes["repeats"]):
            matrix.append(max(flops.matrix_rate(n, torch.float32, torch.device("cpu"), 0.2) for n in (256, 512, 1024)))
            for name, count in arms.items():
                train = plain(sizes, speech) if name.startswith("plain") else ours(sizes, speech, count)
                began = time.perf_counter()
                train()
                rates[name].append(count * len(speech.train) / (time.perf_counter() - began))
    bound = statistics.median(matrix) * 1e9 / flops.training(widths(sizes, speech))
    found = {name: statistics.median(each) for name, each in rates.items()}
    return {"frames_per_second": found, "bound": bound, "gflops": statistics.median(matrix)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="seconds, on a small corpus")
    sizes = QUICK if parser.parse_args().quick else SIZES
    with tempfile.TemporaryDirectory() as folder:
        found = measure(sizes, Path(folder))
    layers = " - ".join(map(str, sizes["hidden"]))
    print(f"{sizes['hours']:g} h, hidden layers {layers}, batches of {sizes['batch_size']}, float32, one thread")
    for name, rate in found["frames_per_second"].items():
        print(f"{name:20} {rate:>10,.0f} frames/s, {rate / found['bound']:.0%} of what the matrix rate allows")
    print(f"{'bound':20} {found['bound']:>10,.0f} frames/s at {found['gflops']:.0f} GFLOP/s")


if __name__ == "__main__":
    main()
