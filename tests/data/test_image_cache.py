"""Images kept on disk: made once, found again, and never used damaged."""

import json

import numpy as np
import pytest
import torch

from kdrepro.data.image_cache import ImageRows, load_or_make
from kdrepro.errors import InputError

COUNTS = {"train": [2, 3], "validation": [0, 1], "test": [1, 1]}


def rows(skipped=()) -> ImageRows:
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4), np.uint8)
    return ImageRows(images, COUNTS, ("ä", "b"), skipped)


def never() -> ImageRows:
    raise AssertionError("It was kept.")


def test_rows_are_cut_into_splits():
    data = rows().data("few")
    assert data.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert data.validation_labels.tolist() == [1]
    assert data.test_labels.tolist() == [0, 1]
    together = torch.cat([data.train_images, data.validation_images, data.test_images])
    assert np.array_equal(together.numpy(), rows().images)


def test_no_validation_cases_are_none():
    counts = COUNTS | {"validation": [0, 0], "test": [2, 1]}
    assert ImageRows(rows().images, counts, ("a", "b")).data("few").validation_images is None


def test_kept_and_found_again(tmp_path):
    made, _ = load_or_make(tmp_path / "cache", "few", {"size": 4}, rows)
    found, skipped = load_or_make(tmp_path / "cache", "few", {"size": 4}, never)
    assert found.fingerprint == made.fingerprint
    assert found.class_names == ("ä", "b")
    assert skipped == ()
    assert torch.equal(found.train_images, made.train_images)
    assert sorted(p.suffix for p in (tmp_path / "cache").iterdir()) == [".json", ".npy"]
    with pytest.raises(AssertionError):
        load_or_make(tmp_path / "cache", "few", {"size": 5}, never)


def test_skipped_files_are_remembered(tmp_path):
    for make in (lambda: rows(("bad.png",)), never):
        assert load_or_make(tmp_path, "few", {}, make)[1] == ("bad.png",)


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_or_make(None, "few", {}, rows)
    assert list(tmp_path.iterdir()) == []


def cut_short(array, about):
    array.write_bytes(array.read_bytes()[:-7])


def one_bit(array, about):
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)


def not_an_array(array, about):
    array.write_bytes(b"")


def missing(array, about):
    array.unlink()


def not_json(array, about):
    about.write_text("{")


def not_a_dict(array, about):
    about.write_text("[]")


def other_counts(array, about):
    kept = json.loads(about.read_text())
    about.write_text(json.dumps(kept | {"counts": COUNTS | {"train": [3, 2]}}))


def wrong_counts(array, about):
    kept = json.loads(about.read_text())
    about.write_text(json.dumps(kept | {"counts": COUNTS | {"train": [3, 3]}}))


@pytest.mark.parametrize(
    "damage", [cut_short, one_bit, not_an_array, missing, not_json, not_a_dict, other_counts, wrong_counts]
)
def test_a_damaged_entry_is_named_set_aside_and_made_again(tmp_path, damage):
    made, _ = load_or_make(tmp_path, "few", {}, rows)
    (array,), (about,) = tmp_path.glob("*.npy"), tmp_path.glob("*.json")
    damage(array, about)
    with pytest.warns(UserWarning, match=r"few-.*\.npy was damaged .* made again"):
        again, _ = load_or_make(tmp_path, "few", {}, rows)
    assert again.fingerprint == made.fingerprint
    assert list(tmp_path.glob("*.json.damaged-1"))
    load_or_make(tmp_path, "few", {}, never)


def test_an_array_without_its_json_was_never_finished(tmp_path):
    load_or_make(tmp_path, "few", {}, rows)
    next(tmp_path.glob("*.json")).unlink()
    next(tmp_path.glob("*.npy")).write_bytes(b"half")
    load_or_make(tmp_path, "few", {}, rows)
    load_or_make(tmp_path, "few", {}, never)


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"Cannot write the image cache .*: make room or choose a folder that is writable"
    ):
        load_or_make(tmp_path / "file", "few", {}, never)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"Cannot write the image cache .* \(No space left on device\)"):
        load_or_make(tmp_path, "few", {}, rows)
    assert list(tmp_path.iterdir()) == []


def test_a_name_cannot_leave_the_folder(tmp_path):
    load_or_make(tmp_path / "cache", "../few", {}, rows)
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
