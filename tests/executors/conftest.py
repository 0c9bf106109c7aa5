"""A part of chapter 2 at smoke, wherever its networks are trained, and what came of it."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from kdrepro import chapters, executors
from kdrepro.executors import options, tasks


class Here:
    """A cluster whose only worker is this process. dying: how often each task's worker dies first."""

    def __init__(self, dying: int = 0, workers: int = 2):
        self.workers, self.dying = workers, dying
        self.parts, self.given, self.order, self.tries, self.said, self.closed = {}, {}, [], {}, [], 0

    def share(self, shared):
        assert shared.token not in self.parts
        self.parts[shared.token] = shared.content

    def submit(self, packed):
        handles = [object() for _ in packed]
        self.given |= dict(zip(handles, packed, strict=True))
        return handles

    def ended(self, seconds):
        done, self.given = self.given, {}
        return [(handle, self._outcome(task)) for handle, task in done.items()]

    def _outcome(self, task):
        self.order.append(task.name)
        self.tries[task.owner] = self.tries.get(task.owner, 0) + 1
        if self.tries[task.owner] <= self.dying:
            return tasks.DiedError("killed by a test")
        try:
            return tasks.carry_out(task, self.parts.__getitem__, self.said.append)
        except Exception as error:
            return error

    def lines(self):
        said, self.said = self.said, []
        return said

    def close(self):
        self.closed += 1


@pytest.fixture
def here():
    """Makes a cluster of this process."""
    return Here


@pytest.fixture
def workers(tmp_path):
    """Makes workers on a cluster; they are closed at the end."""
    made = []

    def make(cluster, tell=lambda line: None, **given):
        made.append(executors.Workers(options.Options(executor="ray", **given), tmp_path, tell, cluster))
        return made[-1]

    yield make
    for one in made:
        one.close()


def chapter_2(seeds: int = 2):
    """Teachers, plain nets and students, and the record of two claims."""
    run = chapters.start("02-mnist", preset="smoke", seeds=seeds)
    teachers = run.train_seeds(run.sizes.teacher, name="teacher")
    plain = run.train_seeds(run.sizes.plain, name="plain")
    distilled = run.train_seeds(run.sizes.distilled, teachers, name="distilled")
    try:
        run.claim("mnist.plain", plain, errors=run.errors(plain))
        run.claim("mnist.distilled", [*teachers, *distilled], errors=run.errors(distilled))
        run.publish_predictions("distilled", distilled)
        return outcome(run.finish(), run.store)
    finally:
        if run.workers is not None:
            run.workers.close()


def outcome(record: Path, store) -> dict:
    """What must be the same bit for bit: claims without their seconds, predictions, networks."""
    claims = json.loads(record.read_text())["claims"]
    for claim in claims.values():
        del claim["seconds"]
    with np.load(io.BytesIO(record.with_suffix(".npz").read_bytes())) as arrays:
        predictions = {name: arrays[name].tobytes() for name in arrays}
    networks = {key: store.place.read(f"{key}/network.safetensors") for key in store.place.keys()}  # noqa: SIM118
    return {"claims": claims, "predictions": predictions, "networks": networks}


@pytest.fixture(scope="session")
def in_this_process(tmp_path_factory) -> dict:
    """What a run on one thread of one process comes to."""
    import torch

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDREPRO_RUNS", str(tmp_path_factory.mktemp("runs")))
        torch.set_num_threads(1)
        try:
            return chapter_2()
        finally:
            torch.set_num_threads(before)


@pytest.fixture
def run_chapter_2():
    return chapter_2
