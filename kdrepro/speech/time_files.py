"""Times of phones and words in the files that people have: .phn and .wrd, CSV, Praat's TextGrids, Audacity's labels.

Labels come in normal form C, so that one phone written in two ways is one. What has no label in a TextGrid, in a label
track or in a CSV of tiers is a gap: a segment whose label is "".
"""

import csv
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdrepro.errors import InputError
from kdrepro.files import same_name
from kdrepro.speech.audio import at_rate
from kdrepro.speech.corpus import RATE, Segment

HEADER = ("start", "end", "label")
TIERS_HEADER = ("begin", "end", "label", "type")  # the Montreal Forced Aligner's; a column `speaker` may follow
# A tier's name, with its speaker in front where there are several: the Montreal Forced Aligner's, and WebMAUS's.
TIERS = {
    "phones": re.compile(r"(?:(.*\S)\s+-\s+)?(?:phones?|phonemes?|mau)", re.IGNORECASE),
    "words": re.compile(r"(?:(.*\S)\s+-\s+)?(?:words?|ort-mau)", re.IGNORECASE),
}
LABEL_LINE = re.compile(r"(-?\d[\d.,]*(?:e-?\d+)?)\t(-?\d[\d.,]*(?:e-?\d+)?)(?:\t(.*))?", re.IGNORECASE)

Row = tuple[int, int, str]  # start, end, label


def read_segments(path: Path, rate: int, tier: str = "phones", speaker: str = "") -> list[Segment]:
    """The segments of a file of times, at `RATE`.

    rate: of the recording, in which a .phn or .wrd counts. tier and speaker: which part of a file that has several,
    tier "phones" or "words"; no words tier gives no words.
    Raises InputError for a file that cannot be read, a line of another form, and a file without such phones.
    """
    kind = path.suffix.lower()
    if kind == ".csv":
        return _read_csv(path, tier, speaker)
    if kind == ".textgrid":
        return _read_textgrid(path, tier, speaker)
    return _read_label_track(path) if kind == ".txt" else read_times(path, rate)


def read_words_beside(path: Path, speaker: str) -> list[Segment]:
    """The words in a file of phone times that has a tier of words too; none in any other."""
    tiered = path.suffix.lower() == ".textgrid" or (path.suffix.lower() == ".csv" and _has_tiers(_header(path)))
    return read_segments(path, RATE, "words", speaker) if tiered else []


def with_silence(segments: Sequence[Segment], silences: Sequence[str], path: Path) -> list[Segment]:
    """The same with each gap labelled as the first of the silences. Raises InputError when there is none."""
    gap = next((segment for segment in segments if not segment.label), None)
    if gap is not None and not silences:
        raise InputError(
            f"{path} has no label from {gap.start / RATE:.3f} to {gap.end / RATE:.3f} s: give `silences`, whose first "
            "is the label of such stretches."
        )
    return [segment if segment.label else segment._replace(label=silences[0]) for segment in segments]


def read_times(path: Path, rate: int) -> list[Segment]:
    """The lines `start end label` of a .phn or .wrd file; times in samples at the recording's own rate.

    Returns segments at `RATE`. Raises InputError for a file that cannot be read and for a line of another form.
    """
    segments = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            start, end, label = line.split()
            segments.append(Segment(label, at_rate(int(start), rate), at_rate(int(end), rate)))
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{path}, line {number}: {line.strip()!r} is not `start end label` with the times as whole samples."
            ) from error
    return segments


def read_text(path: Path) -> str:
    """A label file's text, labels in normal form C. Raises InputError when it is neither UTF-8 nor UTF-16."""
    try:
        content = path.read_bytes()
        return unicodedata.normalize("NFC", content.decode(_encoding(content)).removeprefix("\ufeff"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): copy it again.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 (byte {error.start}): save it as UTF-8.") from error


def _encoding(content: bytes) -> str:
    """Praat writes UTF-8 or UTF-16 as it likes, and editors take the mark in front away."""
    if content[:2] == b"\xff\xfe" or content[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if content[:2] == b"\xfe\xff" or content[:1] == b"\0" else "utf-8"


def is_label_track(path: Path) -> bool:
    """Whether a .txt holds labels as Audacity exports them, and not, say, what was said in some encoding."""
    try:
        lines = _label_lines(read_text(path))
    except InputError:
        return False
    return bool(lines) and all(LABEL_LINE.fullmatch(line) for _, line in lines)


def _label_lines(text: str) -> list[tuple[int, str]]:
    """The lines with their numbers, without empty ones and those that give a label's frequencies."""
    lines = enumerate(text.splitlines(), 1)
    return [(number, line) for number, line in lines if line.strip() and not line.startswith("\\")]


def _read_label_track(path: Path) -> list[Segment]:
    rows = []
    for number, line in _label_lines(read_text(path)):
        match = LABEL_LINE.fullmatch(line)
        try:
            start, end = (_sample(time.replace(",", ".")) for time in match.groups()[:2])
        except (AttributeError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}: {line!r} is not start, end and label with tabs between, as Audacity exports "
                "labels."
            ) from error
        if start == end:
            raise InputError(f"{path}, line {number}: {line!r} is a point in time: give the label a length.")
        rows.append((start, end, (match[3] or "").strip()))
    return _following(sorted(rows, key=lambda row: row[0]), gaps=True)


def _read_textgrid(path: Path, tier: str, speaker: str) -> list[Segment]:
    found = [(match[1] or "", one) for one in _tiers(path) if (match := TIERS[tier].fullmatch(one["name"].strip()))]
    if len(found) > 1:
        found = [(who, one) for who, one in found if same_name(who) == same_name(speaker)]
    if len(found) == 1:
        (_, one) = found[0]
        rows = [(_sample(start), _sample(end), label.strip()) for start, end, label in one["entries"]]
        return _following(rows, gaps=True)
    if tier == "words":
        return []
    names = ", ".join(repr(one["name"]) for one in _tiers(path))
    raise InputError(
        f"{path} has no one tier of {tier} for {speaker or 'its speaker'}: of its tiers ({names or 'none'}) name one "
        f"`{tier}`, or `{speaker or 'SPEAKER'} - {tier}`."
    )


def _tiers(path: Path) -> list[dict[str, Any]]:
    """The interval tiers of a TextGrid, checked to be whole: the parser drops what is cut off."""
    from praatio.utilities.textgrid_io import parseTextgridStr

    text = re.sub(r"\r\n?", "\n", read_text(path)) + "\n"
    text = re.sub(r"(?<== )\d[\d.]*e-\d+ *$", lambda time: f"{float(time[0]):.12f}", text, flags=re.MULTILINE)  # 1e-05
    try:
        tiers = parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        stated = int(re.search(r"\d+", text.split("\n")[6])[0]) if text.startswith("File type") else len(tiers)
        intervals = [tier for tier in tiers if tier["class"] == "IntervalTier"]
        whole = stated == len(tiers) and all(_is_whole(tier) for tier in intervals)
        below_zero = re.search(r"^\s*x?min\s*=\s*-[0.]*[1-9]", text, re.MULTILINE)  # the parser drops the sign
    except Exception as error:  # a parser of regular expressions raises nearly anything
        raise InputError(
            f"{path} cannot be read as a TextGrid: open it in Praat and save it as a text file."
        ) from error
    if below_zero or not whole:
        fault = "has times below 0" if below_zero else "is cut short or leaves time out at a tier's end"
        raise InputError(f"{path} {fault}: save it again in Praat.")
    return intervals


def _is_whole(tier: dict[str, Any]) -> bool:
    return bool(tier["entries"]) and _sample(tier["entries"][-1].end) >= _sample(tier["xmax"]) - 1


def _header(path: Path) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in next(_rows(_csv(path), path), ()))


def _has_tiers(header: Sequence[str]) -> bool:
    return tuple(cell.lower() for cell in header[: len(TIERS_HEADER)]) == TIERS_HEADER


def _csv(path: Path) -> Any:
    return csv.reader(io.StringIO(read_text(path)), skipinitialspace=True)


def _read_csv(path: Path, tier: str, speaker: str) -> list[Segment]:
    """The rows `start,end,label`, in seconds; of a CSV of tiers those of one tier, and of one speaker."""
    header, rows = _header(path), _csv(path)
    plain = tuple(cell.lower() for cell in header) == HEADER
    if not plain and not _has_tiers(header):
        raise InputError(f"{path} starts with {','.join(header)!r}: its first line must be `{','.join(HEADER)}`.")
    rest = [(row, rows.line_num) for row in _rows(rows, path)][1:]
    if plain:
        return _following([_parse(row, path, line) for row, line in rest], gaps=False)
    chosen = [(row, line) for row, line in rest if row[3:4] == [tier]]
    speakers = {row[4] for row, _ in chosen if len(row) > 4}
    if len(speakers) > 1:
        chosen = [(row, line) for row, line in chosen if same_name("".join(row[4:5])) == same_name(speaker)]
    return _following([_parse(row[:3], path, line) for row, line in chosen], gaps=True)


def _following(rows: Iterable[Row], *, gaps: bool) -> list[Segment]:
    """Segments from rows; times a sample apart are one that was rounded to two. gaps: fill what is between them."""
    segments: list[Segment] = []
    for start, end, label in rows:
        due = segments[-1].end if segments else 0
        if abs(start - due) <= 1:
            start = due
        if gaps and start > due:
            segments.append(Segment("", due, start))
        segments.append(Segment(label, start, end))
    return segments


def _rows(rows: Iterable[list[str]], path: Path) -> Iterator[list[str]]:
    """Those that are not empty."""
    try:
        yield from filter(None, rows)
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as csv ({error}): write it again.") from error


def _sample(seconds: float | str) -> int:
    """The sample at `RATE` of a time. Raises ValueError for what is no finite number."""
    try:
        return round(float(seconds) * RATE)
    except OverflowError as error:  # round(inf)
        raise ValueError(f"{seconds} is not finite") from error


def _parse(row: Sequence[str], path: Path, line: int) -> Row:
    try:
        start, end = (_sample(cell) for cell in row[:2])
        (label,) = (cell.strip() for cell in row[2:])
        if not label:
            raise ValueError
    except ValueError as error:
        raise InputError(
            f"{path}, line {line}: {','.join(row)!r} is not `start,end,label` with the times in seconds."
        ) from error
    return start, end, label
