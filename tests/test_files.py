"""Writing: whole or not at all, also on a full or a read-only disk, and what killed processes leave."""

import errno
import os
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import files, training
from kdrepro.errors import InputError, printable
from kdrepro.files import atomic_write, read_if_there, remove_stale, set_aside
from kdrepro.store import Store
from kdrepro.training import Batches, Recipe, loop
from kdrepro.training.checkpoint import Checkpoint
from kdrepro.verdicts import records

resource = pytest.importorskip("resource")

CONFIG = {"network": {"widths": [64, 40, 10]}, "seed": 0}
RECIPE = Recipe(epochs=4, batch_size=128, learning_rate=1e-2, precision="fp32")
CODES = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO]
WHAT_TO_DO = "make room or choose a folder that is writable; what was saved so far is kept"


class FullDisk:
    """Lets this many bytes through, then fails as the system does."""

    def __init__(self, monkeypatch, room: int = 0, code: int = errno.ENOSPC):
        self.room, self.code, self.real = room, code, os.fdopen
        monkeypatch.setattr(os, "fdopen", self.open)

    def open(self, *arguments):
        file, disk = self.real(*arguments), self

        class Writer:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def write(self, content):
                file.write(content[: disk.room])
                disk.room -= len(content)
                if disk.room < 0:
                    raise OSError(disk.code, os.strerror(disk.code))

        return Writer()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("code", CODES)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, code):
    atomic_write(tmp_path / "a", b"old")
    FullDisk(monkeypatch, room=3, code=code)
    with pytest.raises(OSError, match=os.strerror(code)):
        atomic_write(tmp_path / "a", b"a longer one")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_rename_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    atomic_write(tmp_path / "a", b"old")

    def refuse(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_setting_aside_what_another_process_has_moved(tmp_path):
    assert set_aside(tmp_path / "gone") is None
    for n in (1, 2):
        (tmp_path / "a").write_bytes(b"%d" % n)
        assert set_aside(tmp_path / "a") == tmp_path / f"a.damaged-{n}"


def test_reading_what_is_not_there_and_what_cannot_be_read(tmp_path):
    assert read_if_there(tmp_path / "gone") is None
    (tmp_path / "a").write_bytes(b"x")
    assert read_if_there(tmp_path / "a") == b"x"
    assert read_if_there(tmp_path / "a" / "b") is None
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\): see to its permissions"):
        read_if_there(tmp_path)


def test_visible_files_are_all_but_the_systems_own(tmp_path):
    for name in ("a/1", "a/b/2", "a/.hidden", "__MACOSX/a/1", ".git/x", "Thumbs.db", "3"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert files.visible_files(tmp_path) == ["3", "a/1", "a/b/2", "c/1", "c/b/2", "gone"]
    assert [path.name for path in files.visible_folders(tmp_path)] == ["a", "c"]
    with pytest.raises(InputError, match="nowhere cannot be read"):
        files.visible_files(tmp_path / "nowhere")


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name))
def test_names_of_any_bytes_can_be_printed_and_told_apart(raw):
    name = os.fsdecode(raw)
    printable(name).encode()
    str(InputError(f"{name} is wrong.")).encode()
    assert "\n" not in str(InputError(f"{name} is wrong."))
    assert printable(printable(name)) == printable(name)
    text = raw.decode("utf-8", "ignore")
    assert printable(text) == text
    composed, decomposed = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
    assert files.composed(composed) == files.composed(decomposed)
    assert files.same_name(composed) == files.same_name(decomposed)


def test_what_is_left_out_is_said_by_endings(tmp_path):
    assert files.left_out("r", []) == ""
    names = ["b.TXT", "a.txt", "c/x", os.fsdecode(b"\xe9.md")]
    assert files.left_out("r", names) == "4 files in r (2 .txt, 1 .md, 1 no ending; the first is a.txt)"


def test_only_what_is_old_is_stale(tmp_path):
    for name in ("new.part", "old.part", "old.txt"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("oldfolder.part", "newfolder.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_bytes(b"x")
    long_ago = time.time() - files.STALE - 100
    for name in ("old.part", "old.txt", "oldfolder.part"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    remove_stale(tmp_path, "*.part")
    assert names(tmp_path) == ["new.part", "newfolder.part", "old.txt"]


# --- a training on a disk that gets full ----------------------------------------------------------


def trainer(digits, at_epoch=lambda row: None, objective=training.hard_targets):
    def train(network, checkpoint):
        batches = Batches(digits.train_images[:256], digits.train_labels[:256], batch_size=128)
        training.fit(network, batches, objective, RECIPE, checkpoint=checkpoint, progress=at_epoch)

    return train


def weights(network) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


@pytest.fixture
def undisturbed(digits, tmp_path_factory):
    return weights(Store(tmp_path_factory.mktemp("undisturbed")).train_or_load(CONFIG, trainer(digits)))


def stops(root: Path, train, said: str, epoch: int) -> None:
    """The training stops with one sentence and keeps this epoch's checkpoint, and nothing half-written."""
    store = Store(root, warn=pytest.fail)
    with pytest.raises(InputError, match=said) as caught:
        store.train_or_load(CONFIG, train)
    assert "\n" not in str(caught.value)
    kept = Checkpoint(store.folder(CONFIG) / "checkpoint.safetensors", warn=pytest.fail).load()
    assert kept[1]["epoch"] == epoch
    assert names(store.folder(CONFIG)) == ["checkpoint.safetensors"]
    assert all(tensor.isfinite().all() for tensor in kept[0].values())


def test_a_disk_that_gets_full_in_a_training(tmp_path, monkeypatch, digits, undisturbed):
    def fill(row):
        if row["epoch"] == 2:
            FullDisk(patch, room=1000)

    with monkeypatch.context() as patch:
        said = rf"Cannot write the checkpoint .*No space left on device\): {WHAT_TO_DO}"
        stops(tmp_path, trainer(digits, fill), said, epoch=2)
    assert torch.equal(weights(Store(tmp_path).train_or_load(CONFIG, trainer(digits))), undisturbed)


def test_a_real_limit_of_the_system(tmp_path, digits, undisturbed):
    """A limit on the size of files: what is written before it is met really is on the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(row):
        if row["epoch"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))

    try:
        said = rf"Cannot write the checkpoint .*File too large\): {WHAT_TO_DO}"
        stops(tmp_path, trainer(digits, limit), said, epoch=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(weights(Store(tmp_path).train_or_load(CONFIG, trainer(digits))), undisturbed)


def test_a_disk_that_is_full_when_the_network_is_finished(tmp_path, monkeypatch, digits, undisturbed):
    def fill(row):
        if row["epoch"] == 4:
            FullDisk(patch)

    with monkeypatch.context() as patch:
        said = rf"Cannot write to the store .*No space left on device\): {WHAT_TO_DO}"
        stops(tmp_path, trainer(digits, fill), said, epoch=4)
    assert Store(tmp_path).entry(CONFIG) is None
    assert torch.equal(weights(Store(tmp_path).train_or_load(CONFIG, trainer(digits))), undisturbed)


def spoiled(student_logits, batch):
    """One objective for a training and its resumption, whatever a test puts in the place of `hard_targets`."""
    return training.hard_targets(student_logits, batch)


def from_step(step, change):
    """`hard_targets` that change every loss from this step on."""
    steps, real = 0, training.hard_targets

    def changed(logits, batch):
        nonlocal steps
        steps += 1
        loss = real(logits, batch)
        return change(loss, logits) if steps >= step else loss

    return changed


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("every_step", [True, False])
def test_a_loss_that_is_no_number(tmp_path, monkeypatch, digits, undisturbed, bad, every_step):
    """The checkpoint that is left is from before, also where it is saved within an epoch."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1 if every_step else 60)
    said = "The training loss is (nan|inf) in epoch 3: lower the learning rate"
    with monkeypatch.context() as patch:
        patch.setattr(training, "hard_targets", from_step(5, lambda loss, logits: loss * bad))
        stops(tmp_path, trainer(digits, objective=spoiled), said, epoch=2)
    assert torch.equal(weights(Store(tmp_path).train_or_load(CONFIG, trainer(digits, objective=spoiled))), undisturbed)


class NoGradient(torch.autograd.Function):
    """0, and a gradient that is no number."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return x.sum() * 0

    @staticmethod
    def backward(ctx, gradient):
        return (gradient * float("nan")).expand(ctx.shape)


def test_weights_that_are_no_numbers_behind_a_loss_that_is_one(tmp_path, monkeypatch, digits, undisturbed):
    """A gradient may be infinite where the loss is not, at the very last step too."""
    said = "The network has weights that are not finite in epoch 4: lower the learning rate"
    with monkeypatch.context() as patch:
        patch.setattr(training, "hard_targets", from_step(8, lambda loss, logits: loss + NoGradient.apply(logits)))
        stops(tmp_path, trainer(digits, objective=spoiled), said, epoch=3)
    assert torch.equal(weights(Store(tmp_path).train_or_load(CONFIG, trainer(digits, objective=spoiled))), undisturbed)


# --- a store that is read-only --------------------------------------------------------------------


def refused(train):
    raise AssertionError("it was trained for nothing")


def test_a_read_only_store_is_said_before_the_training(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = rf"Cannot write to the store .*Read-only file system\): {WHAT_TO_DO}"
    with pytest.raises(InputError, match=said):
        Store(tmp_path / "store").train_or_load(CONFIG, refused)
    with pytest.raises(InputError, match=said):
        Store(tmp_path / "store").train_or_load_many([CONFIG], refused)
    with pytest.raises(InputError, match=said):
        Store(tmp_path / "store").compute_or_load({"a": 1}, lambda: {"x": np.zeros(3)})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_without_permission(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match=r"Cannot write to the store .*Permission denied"):
            Store(tmp_path).train_or_load(CONFIG, refused)
    finally:
        tmp_path.chmod(0o755)


def test_a_finished_network_of_a_read_only_store_is_loaded(tmp_path, monkeypatch, digits, undisturbed):
    Store(tmp_path).train_or_load(CONFIG, trainer(digits))
    FullDisk(monkeypatch)
    monkeypatch.setattr(Path, "mkdir", None)
    assert torch.equal(weights(Store(tmp_path).train_or_load(CONFIG, refused)), undisturbed)


def test_a_damaged_file_that_cannot_be_set_aside(tmp_path, monkeypatch, digits):
    store = Store(tmp_path)
    store.train_or_load(CONFIG, trainer(digits))
    (store.folder(CONFIG) / "network.safetensors").write_bytes(b"x")

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=r"Cannot write to the store .*Read-only file system"):
        store.train_or_load(CONFIG, refused)


# --- records --------------------------------------------------------------------------------------

RECORD = {"chapter": "c", "preset": "smoke", "data": {"name": "d"}, "claims": {}, "provenance": {}}


@pytest.mark.parametrize("room", [0, 100, 400])
def test_a_record_on_a_full_disk(tmp_path, monkeypatch, room):
    """What was there stays: both files can still be read."""
    path = tmp_path / "results" / "c.json"
    records.write(path, RECORD, {"a": np.arange(5)})
    FullDisk(monkeypatch, room)
    with pytest.raises(InputError, match=rf"Cannot write the record .*c\.json .*{WHAT_TO_DO}"):
        records.write(path, {**RECORD, "preset": "full" * 200}, {"a": np.arange(9)})
    assert names(path.parent) == ["c.json", "c.npz"]
    assert records.read(path) == RECORD
    with np.load(path.with_suffix(".npz")) as arrays:
        assert len(arrays["a"]) in (5, 9)
