"""Times of phones and words in every kind of file: the right segments, gaps, and a sentence for each fault."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recordings import long_textgrid, short_textgrid, wrong

from kdrepro.speech.corpus import RATE, Segment
from kdrepro.speech.time_files import is_label_track, read_segments, read_words_beside, with_silence

PHONES = [(0.0, 0.05, ""), (0.05, 0.1, "a"), (0.1, 0.2, 'e"'), (0.2, 0.25, "sil")]
WORDS = [(0.0, 0.05, ""), (0.05, 0.2, "eh"), (0.2, 0.25, "")]
READ = [Segment("", 0, 800), Segment("a", 800, 1600), Segment('e"', 1600, 3200), Segment("sil", 3200, 4000)]


@pytest.mark.parametrize("form", [long_textgrid, short_textgrid])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_textgrids_in_both_forms_and_all_encodings(tmp_path, form, encoding, ends):
    text = form(words=WORDS, phones=PHONES).replace("\n", ends)
    path = tmp_path / "one.TextGrid"
    path.write_bytes(text.encode(encoding))
    assert read_segments(path, 44100) == READ
    assert [word for word in read_words_beside(path, "anna") if word.label] == [Segment("eh", 800, 3200)]


def test_times_as_programs_write_them(tmp_path):
    text = long_textgrid(phones=[(0, 0.0625, "b"), (0.0625, 0.25, "a")])
    text = text.replace("xmin = 0 ", "xmin = -0").replace("= 0.0625 ", "= 6.25e-05")
    (path := tmp_path / "one.TextGrid").write_text(text)
    assert read_segments(path, RATE) == [Segment("b", 0, 1), Segment("a", 1, 4000)]


def test_a_short_textgrid_without_a_line_end_keeps_its_last_interval(tmp_path):
    (path := tmp_path / "one.textgrid").write_text(short_textgrid(phones=PHONES).rstrip())
    assert read_segments(path, RATE) == READ


@pytest.mark.parametrize("name", ["Phone", "phonemes", "MAU", "anna - phones"])
def test_names_of_tiers(tmp_path, name):
    (path := tmp_path / "one.TextGrid").write_text(long_textgrid(**{name: PHONES, "other": WORDS}))
    assert read_segments(path, RATE, speaker="bob") == READ
    assert read_words_beside(path, "bob") == []


def test_each_speaker_has_tiers_of_their_own(tmp_path):
    tiers = {"anna - phones": PHONES, "bob - phones": [(0.0, 0.25, "x")], "bob - words": [(0.0, 0.25, "y")]}
    (path := tmp_path / "one.TextGrid").write_text(long_textgrid(**tiers))
    assert read_segments(path, RATE, speaker="anna") == READ
    assert read_segments(path, RATE, speaker="BOB") == [Segment("x", 0, 4000)]
    assert read_words_beside(path, "bob") == [Segment("y", 0, 4000)]
    said = "one.TextGrid has no one tier of phones for carla: of its tiers .*'anna - phones', 'bob - phones'"
    wrong(said, read_segments, path, RATE, speaker="carla")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "one.TextGrid"),
        (lambda text: text[: text.index("    item [2]")], "is cut short or leaves time out"),
        (lambda text: text[: text.rindex("        intervals [4]")], "is cut short or leaves time out"),
        (lambda text: text.replace("xmin = 0.05", "xmin = -0.05"), "has times below 0"),
        (lambda text: text.replace('"phones"', '"segments"'), "no one tier of phones for its speaker.*'segments'"),
        (lambda text: "", "cannot be read as a TextGrid"),
        (lambda text: "[1, 2]", "cannot be read as a TextGrid"),
        (lambda text: text.replace("xmax = 0.1 ", "xmax = x "), "cannot be read as a TextGrid"),
    ],
)
def test_damaged_textgrids(tmp_path, change, said):
    (path := tmp_path / "one.TextGrid").write_text(change(long_textgrid(words=WORDS, phones=PHONES)))
    wrong(said, read_segments, path, RATE)


def test_a_file_in_no_encoding_of_text(tmp_path):
    (path := tmp_path / "one.TextGrid").write_bytes(long_textgrid(phones=[(0.0, 1.0, "ü")]).encode("latin-1"))
    wrong("one.TextGrid is not text in UTF-8", read_segments, path, RATE)


def test_a_header_in_capitals(tmp_path):
    (path := tmp_path / "one.csv").write_text("Start,End,Label\n0,0.25,a\n")
    assert read_segments(path, RATE) == [Segment("a", 0, 4000)]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_label_tracks(tmp_path, ends):
    lines = ["0.05\t0.1\ta", "\\\t120.0\t3000.0", "0.1\t0.2\te:", "0,2\t0.25\tsil", ""]
    (path := tmp_path / "one.txt").write_bytes(ends.join(lines).encode())
    assert is_label_track(path)
    found = read_segments(path, 44100)
    assert found == [
        Segment("", 0, 800),
        Segment("a", 800, 1600),
        Segment("e:", 1600, 3200),
        Segment("sil", 3200, 4000),
    ]
    assert with_silence(found, ("h#", "sil"), path)[0] == Segment("h#", 0, 800)
    wrong("no label from 0.000 to 0.050 s: give `silences`", with_silence, found, (), path)


def test_what_was_said_is_no_label_track(tmp_path):
    texts = {"a": b"She had your dark suit.\n", "b": b"0 46797 She had\n", "c": "Grüße".encode("latin-1"), "d": b"\n"}
    for name, content in texts.items():
        (path := tmp_path / f"{name}.txt").write_bytes(content)
        assert not is_label_track(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0.1\t0.1\ta", "line 2: .* is a point in time: give the label a length"),
        ("1.2.3\t4\ta", "line 2: .* is not start, end and label with tabs between"),
        ("x", "line 2: 'x' is not start, end and label"),
    ],
)
def test_wrong_label_tracks(tmp_path, line, said):
    (path := tmp_path / "one.txt").write_text(f"0\t0.1\ta\n{line}\n")
    wrong(said, read_segments, path, RATE)


def test_a_csv_of_tiers(tmp_path):
    rows = ["Begin,End,Label,Type,Speaker", "0.05,0.2,eh,words,anna", "0.05,0.1,a,phones,anna", "0.1,0.2,e,phones,anna"]
    (path := tmp_path / "one.csv").write_text("\n".join([*rows, "0.2,0.25,x,phones,bob"]))
    assert read_segments(path, RATE, speaker="anna") == [
        Segment("", 0, 800),
        Segment("a", 800, 1600),
        Segment("e", 1600, 3200),
    ]
    assert read_words_beside(path, "anna")[-1] == Segment("eh", 800, 3200)


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6), st.sampled_from(["NFC", "NFD"]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_label_is_the_same_phone_in_every_file_and_normal_form(tmp_path, label, form):
    written, expected = (unicodedata.normalize(f, label) for f in (form, "NFC"))
    files: dict[str, str] = {
        "one.TextGrid": long_textgrid(phones=[(0.0, 0.25, written)]),
        "two.TextGrid": short_textgrid(phones=[(0.0, 0.25, written)]),
        "one.txt": f"0\t0.25\t{written}\n",
        "one.phn": f"0 4000 {written}\n",
    }
    for name, text in files.items():
        Path(tmp_path / name).write_text(text, "utf-8")
        assert read_segments(tmp_path / name, RATE) == [Segment(expected, 0, 4000)]
