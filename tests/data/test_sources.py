"""Files in a folder and in a zip: read in place, and a zip that is damaged or means harm is refused."""

import stat
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import encoded, picture, write

from kdrepro.data.pictures import decode_all
from kdrepro.data.sources import Folder, Zip, digest
from kdrepro.errors import InputError

FILES = {f"{k}/{i}.png": encoded(picture(10 * k + i, 6, 6), "PNG") for k in range(2) for i in range(2)}


def zipped(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("in/0")
        archive.writestr("beside.txt", "not looked at")
        for name, content in FILES.items():
            archive.writestr(f"in/{name}", content, zipfile.ZIP_STORED if name.startswith("1") else None)
    return path


def unpacked(folder: Path) -> Path:
    for name, content in FILES.items():
        write(folder / name, content)
    return folder


def test_a_zip_and_its_folder_hold_the_same(tmp_path):
    for source in (Zip(zipped(tmp_path / "a.zip"), "in"), Folder(unpacked(tmp_path / "a"))):
        assert {name: source.read(name) for name in source.names()} == FILES
        assert source.names() == sorted(FILES)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "a.zip"]


def test_a_digest_changes_with_names_and_contents(tmp_path):
    def digests(path: Path, name: str, content: bytes) -> list[str]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"in/{name}", content)
        write(path.with_suffix("") / name, content)
        return [digest(source, [name]) for source in (Zip(path, "in"), Folder(path.with_suffix("")))]

    kinds = [("a", b"12"), ("b", b"12"), ("a", b"123")]
    made = [digests(tmp_path / f"{i}.zip", *kind) for i, kind in enumerate(kinds)]
    assert len({one for pair in made for one in pair}) == 6
    assert digests(tmp_path / "again.zip", *kinds[0])[0] == made[0][0]


@pytest.mark.parametrize(
    "name",
    [
        "in/../../outside",
        "in/train/n01/images/../../../../../outside.JPEG",
        "../outside",
        "..",
        "/etc/outside",
        "C:/outside",
        "C:outside",
        "..\\outside",
        "in\\..\\..\\outside",
        "\\\\server\\outside",
    ],
)
def test_a_zip_with_a_member_outside_of_its_folder_is_refused(tmp_path, name):
    path = zipped(tmp_path / "a" / "b" / "c.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(InputError, match=r"holds a member that points outside of its folder .* download it again"):
        Zip(path, "in")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["c.zip"]


def test_a_zip_with_a_link_is_refused(tmp_path):
    link = zipfile.ZipInfo("in/0/9.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = zipped(tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, b"/etc/passwd")
    with pytest.raises(InputError, match=r"points outside of its folder \('in/0/9.png'\)"):
        Zip(path, "in")


@pytest.mark.parametrize("size", ["compress_size", "file_size"])
def test_sizes_that_a_zip_cannot_have(tmp_path, size):
    source = Zip(zipped(tmp_path / "a.zip"), "in")
    setattr(source.members["0/0.png"], size, 2**63)
    with pytest.raises(zipfile.BadZipFile, match="a size that no picture has"):
        source.read("0/0.png")


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1, -30])
def test_a_zip_cut_short(tmp_path, kept):
    path = zipped(tmp_path / "a.zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=r"a.zip is not a whole zip .* download it again"):
        Zip(path, "in")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_threads_read_one_source_at_once(tmp_path, kind):
    """Four hundred times at once, each gets its own file."""
    source = Folder(unpacked(tmp_path / "a")) if kind == "folder" else Zip(zipped(tmp_path / "a.zip"), "in")
    names = source.names() * 100
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read, names)) == [FILES[name] for name in names]


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.integers(0, 2000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_zip_stops_its_reader(tmp_path, changes, end):
    content = bytearray(zipped(tmp_path / "any.zip").read_bytes())
    for place, value in changes:
        content[place % len(content)] = value
    (tmp_path / "any.zip").write_bytes(content[: max(end, len(content) // 2)])
    try:
        source = Zip(tmp_path / "any.zip", "in")
    except InputError:
        return
    images, _ = decode_all(source, source.names(), 4)
    assert len(images) == len(source.names())


def test_threads_read_members_with_extra_fields_each_its_own(tmp_path):
    """As in archives that Unix tools make: Python 3.13's zipfile skips such a field from where another thread is."""
    path, content = tmp_path / "extra.zip", {f"{i:03d}.bin": bytes([i]) * (500 + 7 * i) for i in range(200)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name)
            member.extra = b"UT\x05\x00\x03\x00\x00\x00\x00"
            archive.writestr(member, data)
    source = Zip(path, "")
    with ThreadPoolExecutor(8) as pool:
        names = list(content) * 5
        assert list(pool.map(source.read, names)) == [content[name] for name in names]
