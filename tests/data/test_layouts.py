"""Layouts that people have: classes and splits by folders, by names and by a table; other tasks' by their names."""

import unicodedata
import warnings
from pathlib import Path

import pytest
from image_files import encoded, fill, picture, rows, write

from kdrepro import data
from kdrepro.errors import InputError


def counts(images) -> list[list[int]]:
    """Images of each class in training, validation and test."""
    labels = (images.train_labels, images.validation_labels, images.test_labels)
    return [[] if one is None else one.bincount(minlength=images.classes).tolist() for one in labels]


def quietly(root, **more):
    """What must be read without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return data.image_folder(root, **{"size": 8} | more)


def refused(said, root, **more) -> str:
    with pytest.raises(InputError, match=said) as caught:
        data.image_folder(root, **{"size": 8} | more)
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def three(root: Path, train="train", validation="val", test="test") -> Path:
    for start, (name, each) in enumerate(((train, 6), (validation, 2), (test, 3))):
        if name:
            fill(root / name, each=each, start=1000 * start)
    return root


@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid", "test"),
        ("train", "val", "test"),
        ("train", "validation", "test"),
        ("training", "validation", "testing"),
        ("Train", "Valid", "Test"),
    ],
)
def test_three_splits_are_what_they_are_called(tmp_path, names):
    own = quietly(three(tmp_path, *names))
    assert counts(own) == [[6] * 3, [2] * 3, [3] * 3]
    alone = quietly(tmp_path / names[1], validation_per_class=0, test_per_class=1)
    assert rows(own.validation_images) == rows(alone.train_images, alone.test_images)
    assert counts(quietly(tmp_path, validation_per_class=1, test_per_class=2, per_class=4)) == [
        [4] * 3,
        [1] * 3,
        [2] * 3,
    ]
    assert quietly(tmp_path, validation_per_class=0).validation_images is None


@pytest.mark.parametrize("other", ["val", "valid", "validation", "test", "testing", "dev", "eval"])
def test_of_two_splits_the_other_is_the_test_set(tmp_path, other):
    own = quietly(three(tmp_path, validation=other, test=""))
    assert counts(own) == [[5] * 3, [1] * 3, [2] * 3]


def test_the_smallest_archives_are_unwrapped(tmp_path):
    fill(tmp_path / "a" / "archive" / "train")
    fill(tmp_path / "a" / "archive" / "test", each=2)
    (tmp_path / "a" / "__MACOSX" / "archive").mkdir(parents=True)
    own = quietly(tmp_path / "a")
    assert (own.name, counts(own)[2]) == ("a", [2] * 3)
    fill(tmp_path / "b" / "dogs-vs-cats" / "train")
    assert counts(quietly(tmp_path / "b")) == [[4] * 3, [1] * 3, [1] * 3]


def test_two_folders_of_one_split(tmp_path):
    refused("val and valid are both there for validation: keep one of them", three(tmp_path, "train", "val", "valid"))


def test_test_images_without_labels_are_left_out_and_said(tmp_path):
    three(tmp_path, test="")
    for name in ("1.jpg", "unknown/2.jpg"):
        write(tmp_path / "test" / name, encoded(picture(1)))
    with pytest.warns(UserWarning, match=r"Not used: 2 files .*\(2 .jpg; the first is test/1.jpg\)"):
        own = data.image_folder(tmp_path, size=8)
    assert counts(own) == [[5] * 3, [1] * 3, [2] * 3]


def test_a_val_that_is_not_sorted(tmp_path):
    fill(tmp_path / "train")
    write(tmp_path / "val" / "1.jpg", encoded(picture(1)))
    refused("val is not sorted into folders of classes as .*train is: sort it, or give `labels`", tmp_path)
    (tmp_path / "wnids.txt").write_text("a b c")
    write(tmp_path / "val" / "images" / "1.jpg", encoded(picture(1)))
    refused("This is Tiny ImageNet, which data.tiny_imagenet reads as it is", tmp_path)


def test_a_flat_folder_of_two_splits_is_no_problem_of_two_classes(tmp_path):
    for i in range(6):
        for split in ("train", "test"):
            write(tmp_path / split / f"{'cat' if i % 2 else 'dog'}.{i}.jpg", encoded(picture(i)))
    refused("train has 0 class folders .*its 6 images lie in it directly: say their classes with `pattern`", tmp_path)
    own = quietly(tmp_path, pattern=r"(?P<label>[a-z]+)\.\d+")
    assert own.class_names == ("cat", "dog")
    assert counts(own) == [[2, 2], [1, 1], [3, 3]]


def test_labels_in_the_names_of_files(tmp_path):
    for i in range(4):
        for label in ("Abyssinian", "great_pyrenees"):
            write(tmp_path / "images" / f"{label}_{i}.jpg", encoded(picture(i)))
    write(tmp_path / "images" / "cover.jpg", encoded(picture(9)))
    with pytest.warns(UserWarning, match="Not used: 1 file .* the first is cover.jpg"):
        own = data.image_folder(tmp_path, size=8, pattern=r"(?P<label>.+)_\d+")
    assert (own.class_names, counts(own)) == (("Abyssinian", "great_pyrenees"), [[2, 2], [1, 1], [1, 1]])
    for bad, said in {
        "(": "is no regular expression",
        "cat": "has no group `label`",
        "(?P<label>x+)": "has 0 classes by `pattern` or `labels`.* the first image is",
    }.items():
        refused(said, tmp_path, pattern=bad)
    refused("Give `pattern` or `labels`, not both", tmp_path, pattern="(?P<label>x)", labels="a.csv")


TABLES = {
    "with a header": "filename,label\n{}",
    "of another order": "label;file_name\n{}",
    "of Kaggle": "id,breed\n{}",
    "without a header": "{}",
    "with a mark": "\ufefffilename,label\r\n{}",
    "with more columns": "index,image,width,class\n{}",
}


@pytest.mark.parametrize("kind", TABLES)
def test_labels_in_a_table(tmp_path, kind):
    lines = []
    for i in range(8):
        write(tmp_path / "all" / f"{i}.jpg", encoded(picture(i)))
        name, label = (f"{i}" if "Kaggle" in kind else f"all/{i}.jpg"), ("cat" if i % 2 else "dog")
        lines.append(
            {"of another order": f"{label};{name}", "with more columns": f"{i},{name},64,{label}"}.get(
                kind, f"{name},{label}"
            )
        )
    (tmp_path / "labels.csv").write_text(TABLES[kind].format("\n".join(lines)) + "\n", "utf-8")
    (tmp_path / "other").mkdir()
    with pytest.warns(UserWarning, match=r"1 file in .*\(1 .csv; the first is labels.csv"):
        own = data.image_folder(tmp_path, size=8, labels="labels.csv")
    assert (own.class_names, counts(own)) == (("cat", "dog"), [[2, 2], [1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("filename,label\n0.jpg,\n", "line 2: it gives no class for 0.jpg"),
        ("filename,label\n9.jpg,cat\n", "line 2: it gives '9.jpg', of which .* has not exactly one image"),
        ("filename,label\n0.jpg,cat\n0.jpg,dog\n", "line 3: 0.jpg is dog here and cat above"),
        ("a,b,c\n0.jpg,cat,1\n", "starts with 'a,b,c': its first line must name the columns, `filename,label`"),
        ("", "its first line must name the columns"),
        ("filename,label\n0.jpg,cat\n", "has 1 classes by `pattern` or `labels`"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path, table, said):
    for i in range(2):
        write(tmp_path / f"{i}.jpg", encoded(picture(i)))
    (tmp_path / "t.csv").write_text(table)
    refused(said, tmp_path, labels=tmp_path / "t.csv")


def test_a_table_names_files_in_any_normal_form_and_folder(tmp_path):
    lines = ["filename,label"]
    for folder in ("x", "y"):
        for i in range(4):
            write(tmp_path / folder / unicodedata.normalize("NFD", f"bär{folder}{i}.jpg"), encoded(picture(i)))
            lines.append(f"bär{folder}{i}.jpg,{folder}")
    (tmp_path / "t.csv").write_text("\n".join(lines), "utf-8")
    with pytest.warns(UserWarning, match="t.csv"):
        assert counts(data.image_folder(tmp_path, size=8, labels="t.csv")) == [[2, 2], [1, 1], [1, 1]]
    write(tmp_path / "y" / "bärx0.jpg", encoded(picture(0)))
    refused("line 2: it gives 'bärx0.jpg', of which .* has not exactly one image", tmp_path, labels="t.csv")


def test_a_table_that_is_not_there(tmp_path):
    refused("gone.csv cannot be read", fill(tmp_path), labels="gone.csv")


def detection_by_yolo(root):
    for split in ("train", "valid"):
        write(root / split / "images" / "1.jpg", encoded(picture(1)))
        write(root / split / "labels" / "1.txt", b"0 0.5 0.5 1 1")


def several_labels(root):
    fill(root / "train")
    fill(root / "valid")
    write(root / "train" / "_classes.csv", b"filename,a,b")


def coco(root):
    for split in ("train", "valid", "test"):
        write(root / split / "1.jpg", encoded(picture(1)))
        write(root / split / "_annotations.coco.json", b"{}")


def voc(root):
    write(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / "1.jpg", encoded(picture(1)))
    write(root / "VOCdevkit" / "VOC2012" / "Annotations" / "1.xml", b"")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (detection_by_yolo, "YOLO's layout, for object detection"),
        (several_labels, "Roboflow's export with several labels an image"),
        (coco, "Roboflow's COCO export, for object detection"),
        (voc, "the layout of Pascal VOC, for object detection"),
    ],
)
def test_layouts_of_other_tasks_are_refused_by_their_names(tmp_path, make, said):
    make(tmp_path)
    assert "Folder Structure" in refused(said, tmp_path)


def test_what_is_left_out_is_counted_and_said_once(tmp_path):
    fill(tmp_path)
    for name in ("a/x.heic", "a/y.heic", "b/notes.txt", "b/old/0.jpg", "a/.DS_Store", "c/Thumbs.db", "lone.jpg"):
        write(tmp_path / name, b"")
    with pytest.warns(UserWarning, match="Not used") as caught:
        data.image_folder(tmp_path, size=8)
    (text,) = [str(warning.message) for warning in caught]
    assert "5 files in " in text
    assert "(2 .heic, 2 .jpg, 1 .txt; the first is a/x.heic)" in text


def test_every_format_is_used(tmp_path):
    fill(tmp_path, "ab", each=8)
    kinds = {"webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "TIFF": "TIFF", "gif": "GIF", "ppm": "PPM", "jp2": "JPEG2000"}
    for ending, kind in {**kinds, "jpg": "GIF", "jfif": "JPEG"}.items():
        write(tmp_path / "c" / f"{ending}.{ending}", encoded(picture(7), kind))
    own = quietly(tmp_path)
    assert [sum(of) for of in zip(*counts(own), strict=True)] == [8, 8, 9]


def test_classes_that_look_alike_are_refused_by_name(tmp_path):
    fill(tmp_path, [unicodedata.normalize("NFC", "müll"), unicodedata.normalize("NFD", "müll"), "c"])
    refused(r"two names that look alike, '(mu\\u0308ll|m\\xfcll)' and", tmp_path)


def test_classes_match_across_splits_in_any_normal_form(tmp_path):
    fill(tmp_path / "train", [unicodedata.normalize("NFC", "müll"), "c"])
    fill(tmp_path / "test", [unicodedata.normalize("NFD", "müll"), "c"], each=2)
    own = quietly(tmp_path)
    assert (own.class_names, counts(own)[2]) == (("c", "müll"), [2, 2])


def test_classes_that_differ_in_case_count_as_two(tmp_path):
    fill(tmp_path, ["A", "a", "c"])
    with pytest.warns(UserWarning, match="The classes A and a of .* differ in upper and lower case only"):
        assert data.image_folder(tmp_path, size=8).class_names == ("A", "a", "c")


def test_a_link_in_a_circle(tmp_path):
    fill(tmp_path)
    (tmp_path / "a" / "all").symlink_to(tmp_path)
    assert counts(quietly(tmp_path)) == [[4] * 3, [1] * 3, [1] * 3]
