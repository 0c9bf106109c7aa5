"""Data of one's own: read by kind, refused before anything trains, shown without the paper's values and verdicts."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from kdrepro import chapters, data, paths
from kdrepro.chapters import ch02_mnist, display, own_data, presets
from kdrepro.errors import InputError


@pytest.fixture
def archive(tmp_path):
    """An archive of images 12 x 12 of so many classes."""

    def write(classes=6, each=4, shape=(12, 12)):
        chance = np.random.default_rng(0)
        labels = np.tile(np.arange(classes), each)
        images = chance.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
        path = tmp_path / "letters.npz"
        np.savez(path, x_train=images, y_train=labels, x_test=images[: 2 * classes], y_test=labels[: 2 * classes])
        return path

    return write


@pytest.fixture
def pictures(tmp_path):
    for label in "abcde":
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / label / f"{i}.png")
    return tmp_path / "pets"


def test_what_is_parsed_is_written_again(tmp_path):
    folder = tmp_path / "my, pictures"
    folder.mkdir()
    own = own_data.parse(f"folder:{folder},size=64,per_class=10")
    assert (own.kind, own.path, own.options) == ("folder", folder, {"size": 64, "per_class": 10})
    assert own_data.parse(own_data.written(own)) == own
    own = own_data.parse(f"folder:{folder},labels={tmp_path}/of.csv,seed=3,skip_corrupt=yes")
    assert own.options == {"labels": tmp_path / "of.csv", "seed": 3, "skip_corrupt": True}
    assert own_data.parse(own_data.written(own)) == own
    voices = own_data.parse(f"recordings:{folder},test_speakers=dan+eve,silences=")
    assert voices.options == {"test_speakers": ("dan", "eve"), "silences": ()}
    assert own_data.parse(own_data.written(voices)) == voices


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("folders:.", "did you mean 'folder'"),
        (".", "is one of idx:PATH"),
        ("folder:nothing", "There is no .*nothing"),
        ("folder:", "There is no"),
        ("folder:.,sizes=3", "did you mean 'size'"),
        ("folder:.,size=big", "must be a whole number"),
        ("folder:.,skip_corrupt=maybe", "skip_corrupt must be yes or no, not 'maybe'"),
        ("npz:.,size=3", "it has none"),
    ],
)
def test_bad_texts(text, said):
    with pytest.raises(InputError, match=said):
        own_data.parse(text)


def test_every_option_of_image_folder_has_its_text():
    options = set(inspect.signature(data.image_folder).parameters) - {"root", "cache"}
    assert set(own_data.KINDS["folder"][1]) == options


def test_a_folder_of_pictures_with_a_table_and_a_corrupt_one(pictures, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    rows = ["filename,label"]
    for file in sorted(pictures.glob("*/*.png")):
        name = f"{file.parent.name}{file.name}"
        file.rename(flat / name)
        rows.append(f"{name},{file.parent.name}")
    (flat / "a0.png").write_bytes(b"nothing")
    (tmp_path / "of.csv").write_text("\n".join(rows))
    own = own_data.parse(f"folder:{flat},labels={tmp_path / 'of.csv'},seed=1,skip_corrupt=yes")
    with pytest.warns(UserWarning, match="a0.png"):
        found = own_data.images("05-specialists", own, 8, tmp_path / "cache")
    assert found.class_names == tuple("abcde")


@pytest.mark.parametrize(
    ("chapter", "kind", "of"),
    [
        ("02-mnist", "folder", "05-specialists, 06-mixtures, 07-distil-back"),
        ("02-mnist", "recordings", "03-acoustic-ensemble, 04-soft-targets"),
        ("03-acoustic-ensemble", "idx", "01-dark-knowledge, 02-mnist"),
    ],
)
def test_a_chapter_on_other_data_says_which_are_on_it(tmp_path, chapter, kind, of):
    with pytest.raises(InputError, match=of):
        chapters.start(chapter, own_data=f"{kind}:{tmp_path}")


def test_a_chapter_on_images_of_ones_own(archive):
    run = chapters.start("02-mnist", seeds=1, own_data=f"npz:{archive()}")
    assert (run.data.name, run.data.classes, run.inputs) == ("own-letters", 6, 144)
    assert run.store.root == paths.runs("smoke") / "store"
    assert run.preset.name != "smoke"
    entry = run.claim("mnist.plain", [run.train(run.sizes.plain.but(epochs=1, curve=0), 0)], errors=[3])
    assert entry["verdict"] == "not run"
    record = json.loads(run.finish().read_text())
    assert record["own"] == {"origin": "smoke", "changed": {}, "data": run.preset.own_data}
    assert not (paths.runs("smoke") / "results").exists()


def test_pages_show_neither_the_papers_values_nor_verdicts(archive):
    run = chapters.start("02-mnist", seeds=1, own_data=f"npz:{archive()}")
    run.claim("mnist.plain", [run.train(run.sizes.plain.but(epochs=1, curve=0), 0)], errors=[3])
    shown = display.claim(run, "mnist.plain").data
    assert "On your data" in shown
    assert "3" in shown
    for word in ("Verdict", "| paper", "reproduce"):
        assert word not in shown
    top = display.headline(run).data
    assert "your data" in top
    assert "no download" not in top
    assert display.elsewhere([run], "mnist.plain") is None
    table = pd.DataFrame({("paper", "a"): [1], ("this run", "a"): [2]})
    assert list(run.compared(table)) == [("this run", "a")]
    book = replace(run, preset=presets.load("smoke"))
    assert book.compared(table) is table


def test_pages_say_what_was_changed(digits):
    run = chapters.start("02-mnist", seeds=1, changes="02-mnist.distilled.temperature=7")
    assert "`02-mnist.distilled.temperature` 20 → 7" in display.headline(run).data
    assert run.record["own"]["changed"] == {"02-mnist.distilled.temperature": {"before": 20.0, "after": 7.0}}
    book = chapters.start("02-mnist", seeds=1)
    assert "own" not in book.record
    assert (
        book.train(book.sizes.plain.but(epochs=1, curve=0), 0).key
        == run.train(run.sizes.plain.but(epochs=1, curve=0), 0).key
    )


def test_few_classes_have_other_digits_left_out():
    assert ch02_mnist.chosen_digits(10) == (3, [7, 8])
    assert ch02_mnist.chosen_digits(26) == (3, [7, 8])
    assert ch02_mnist.chosen_digits(5) == (3, [3, 4])
    assert ch02_mnist.chosen_digits(4) == (3, [2, 3])


def test_unfit_images_are_refused(archive, tmp_path):
    for changes, said in (({"classes": 3}, "3 classes, too few"), ({"shape": (12, 12, 3)}, "images in colour")):
        with pytest.raises(InputError, match=said):
            chapters.start("02-mnist", own_data=f"npz:{archive(**changes)}")
    images, labels = np.zeros((8, 5, 5), np.uint8), np.arange(8) % 4
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    with pytest.raises(InputError, match="no test image of the class 3"):
        chapters.start("02-mnist", own_data=f"npz:{tmp_path / 'a.npz'}")


def test_specialists_on_a_folder_of_pictures(pictures):
    run = chapters.start("05-specialists", seeds=1, own_data=f"folder:{pictures},size=8")
    assert run.data.train_images.shape[1:] == (3, 8, 8)
    assert (run.sizes.special_classes, run.sizes.specialists) == (2, 5)
    assert run.sizes.compared_counts == [2, 4, 5]
    assert run.preset.changed["05-specialists.special_classes"] == (10, 2)
    assert run.left_out.keys() == {"specialists.table2"}
    assert run.claim("specialists.table2", [], within_over_between=[1.0]) == {}
    assert "left out" in display.claim(run, "specialists.table2").data
    assert "specialists.table2" in display.headline(run).data
    assert run.record["claims"] == {}


def test_specialists_on_an_archive_get_a_tenth_for_validation(archive):
    run = chapters.start("06-mixtures", seeds=1, own_data=f"npz:{archive(each=20)}")
    assert (len(run.data.train_images), len(run.data.validation_images)) == (108, 12)
    assert torch.equal(run.data.validation_labels.bincount(), torch.full((6,), 2))
    assert run.left_out == {}


def test_speakers_are_split_by_name(tmp_path, monkeypatch):
    for name in "abcdef":
        (tmp_path / "voices" / name).mkdir(parents=True)
        (tmp_path / "voices" / name / "one.wav").write_bytes(b"")
        (tmp_path / "voices" / name / "one.csv").write_text("start,end,label\n0,1,sil\n1,2,a\n")
    corpus = own_data.recordings(own_data.parse(f"recordings:{tmp_path / 'voices'}"))
    assert corpus.name == "own-voices"
    assert corpus.speakers() == {"train": tuple("abcd"), "validation": ("e",), "test": ("f",)}
    corpus = own_data.recordings(own_data.parse(f"recordings:{tmp_path / 'voices'},test_speakers=a+b"))
    assert corpus.speakers() == {"train": tuple("cde"), "validation": ("f",), "test": ("a", "b")}
    with pytest.raises(InputError, match="three are the least"):
        own_data.recordings(own_data.parse(f"recordings:{tmp_path / 'voices'},test_speakers=a+b+c+d+e"))
