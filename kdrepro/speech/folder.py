"""Speech of one's own: a folder of recordings for each speaker, with phone times beside each recording."""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kdrepro import paths
from kdrepro.errors import InputError, nearest, printable
from kdrepro.files import (
    check_distinct,
    composed,
    counted,
    left_out,
    pattern_with,
    same_name,
    visible_files,
    visible_folders,
)
from kdrepro.speech import audio
from kdrepro.speech.corpus import RATE, SPLITS
from kdrepro.speech.label_files import Files, Recordings, reading, several
from kdrepro.speech.time_files import is_label_track, read_segments, with_silence

PHONE_TIMES = (".phn", ".csv", ".textgrid", ".txt")
WORD_TIMES = (".wrd", ".words.csv", ".words.txt")

Spoken = list[tuple[str, str]]  # of a speaker's recordings: name from the root on, and the label that is in it or ""


@dataclass(frozen=True)
class SpeechFolder(Recordings):
    """A corpus in a folder: `speech_folder` reads one. files: those of the utterances of each speaker."""

    name: str
    phones: tuple[str, ...]
    silences: tuple[str, ...]
    splits: dict[str, tuple[str, ...]] = field(hash=False)
    files: dict[str, tuple[Files, ...]] = field(hash=False, repr=False)

    @property
    def scored_as(self) -> Mapping[str, str]:
        """Each phone counts as itself, and all silences as the first of them."""
        return {phone: self.silences[0] if phone in self.silences else phone for phone in self.phones}

    def fingerprint(self) -> str:
        """16 hex digits over the names and contents of all files used, the phones, and who is in which split.

        It does not depend on where the folder is. It reads every recording. Raises InputError when one is no longer
        there.
        """
        settings = (self.phones, self.silences, sorted(self.splits.items()))
        digest = hashlib.sha256(repr(settings).encode())
        for files in (files for speaker in sorted(self.files) for files in self.files[speaker]):
            digest.update(files.name.encode() + files.label.encode())
            for path in filter(None, (files.audio, files.phones, files.words)):
                with reading(), path.open("rb") as file:
                    digest.update(os.fsencode(path.suffix) + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]


def speech_folder(
    root: Path | str,
    *,
    phones: Sequence[str] | None = None,
    silences: Sequence[str] = ("sil",),
    validation_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
    pattern: str | None = None,
) -> SpeechFolder:
    """Take `root`/<speaker>/<name>.wav as a corpus, with the times of its phones beside each recording.

    A recording may have any format that libsndfile reads (flac, ogg, opus, mp3, aiff, au, ...), and may lie in folders
    within the speaker's. The times are in one of

    - <name>.phn: lines `start end label`, in samples at the recording's own rate;
    - <name>.csv: a header `start,end,label`, in seconds (or the Montreal Forced Aligner's `Begin,End,Label,Type,...`);
    - <name>.TextGrid: Praat's, long or short, with an interval tier `phones` (or `<speaker> - phones`);
    - <name>.txt: a label track as Audacity exports it, start, end and label with tabs between, in seconds.

    Phones follow one another from 0 on, silence included; ends and starts that are within one sample at 16 kHz of
    each other are taken as one. In a TextGrid and a label track, what has no label is the first of `silences`. A
    waveform ends where its last phone does. Words, if there are any, are in <name>.wrd, <name>.words.csv or
    <name>.words.txt the same way, gaps allowed, or in the TextGrid's tier `words`. Example:

        mine/anna/one.wav
        mine/anna/one.csv:  start,end,label
                            0,0.21,sil
                            0.21,0.304,w
                            ...
        mine/bob/one.wav, mine/bob/one.csv, mine/carla/..., mine/dan/...

        corpus = speech_folder("mine", validation_speakers=["carla"], test_speakers=["dan"])
        corpus.speakers()  # {"train": ("anna", "bob"), "validation": ("carla",), "test": ("dan",)}
        corpus.utterances("anna")[0].phones[1]  # Segment(label="w", start=3360, end=4864)

    pattern: for recordings that say in their names who speaks: a regular expression that a recording's name from
    `root` on, without its ending, matches as a whole, with a group `speaker`. With a group `label` too, a recording
    without times is that one label, as phone and as word, from beginning to end. The Free Spoken Digit Dataset,
    recordings/7_jackson_32.wav: pattern=r"(?P<label>\\d)_(?P<speaker>[a-z]+)_\\d+", silences=().
    phones: every label there may be; None takes those that occur, sorted. silences: those of them that are no
    speech, () if there is none. validation_speakers and test_speakers must be given; the others are trained on.
    Labels are taken in normal form C; names that are not UTF-8 have `\\xe9` and the like in the place of such bytes.
    Only label files are read here, and those only for `phones=None`; recordings are read by `utterances`.
    Files and folders that are not used are counted in one warning. Raises InputError when the folder, a speaker or a
    file is missing, the labels cannot be read, and names are alike so that files could be mixed up.
    """
    root = existing(root)
    name = printable(root.resolve().name)
    root, names, recordings = _found(root, pattern)
    splits = _splits(root, list(recordings), _as_names(validation_speakers), _as_names(test_speakers))
    files = _files(root, recordings, _Beside(root, names))
    _say_what_is_left(root, names, files)
    silences = _as_names(silences)
    known = _labels(files, silences) if phones is None else tuple(dict.fromkeys(map(composed, phones)))
    for silence in silences:
        if silence not in known:
            raise InputError(
                f"The silence {silence!r} is not a phone of {root}{nearest(silence, known)}; it has {several(known)}: "
                "name in `silences` the labels that are no speech, or give silences=()."
            )
    return SpeechFolder(name, known, silences, splits, files)


def speakers_of(root: Path | str, pattern: str | None = None) -> list[str]:
    """Who speaks in a folder of recordings, sorted; pattern: see `speech_folder`. Raises InputError."""
    return sorted(_found(existing(root), pattern)[2])


def existing(root: Path | str) -> Path:
    """A folder of recordings, which is there. Raises InputError."""
    root = paths.expanded(root)
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give the one that holds a folder of recordings for each speaker.")
    return root


def _found(root: Path, pattern: str | None) -> tuple[Path, list[str], Mapping[str, Spoken]]:
    """The folder without others around it, its files, and what each speaker has spoken."""
    root, names = _unwrapped(root, visible_files(root))
    return root, names, _by_speaker(root, names) if pattern is None else _by_pattern(root, names, pattern)


def _as_names(given: Sequence[str]) -> tuple[str, ...]:
    """A lone string is one name, not its letters."""
    return (composed(given),) if isinstance(given, str) else tuple(map(composed, given))


def _unwrapped(root: Path, names: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """The folder that holds the speakers, and what is below it: an archive often has one more around them."""
    places = [PurePosixPath(name).parts for name in names if _is_recording(name)]
    if len({parts[0] for parts in places}) != 1 or any(len(parts) < 3 for parts in places):
        return root, names
    inner = root / places[0][0]
    return inner, visible_files(inner)


def _is_recording(name: str) -> bool:
    return name.lower().endswith(audio.ENDINGS)


def _by_speaker(root: Path, names: Sequence[str]) -> dict[str, Spoken]:
    """The recordings of each speaker, a speaker a folder."""
    found: dict[str, Spoken] = {}
    for name in filter(_is_recording, names):
        speaker, inner, _ = name.partition("/")
        if inner:
            found.setdefault(speaker, []).append((name, ""))
    if not found:
        flat = sum(map(_is_recording, names))
        way = "say with `pattern` who speaks, or put them" if flat else "put them"
        fault = (
            f"{root} holds {flat:,} recordings, none in a folder of a speaker"
            if flat
            else f"{root} holds no recordings"
        )
        raise InputError(f"{fault}: {way} at <speaker>/<name>.wav or .flac, each speaker in a folder.")
    return _named(root, found)


def _by_pattern(root: Path, names: Sequence[str], pattern: str) -> dict[str, Spoken]:
    """The recordings of each speaker, who is in their names."""
    expression = pattern_with("speaker", pattern, "name")
    found: dict[str, Spoken] = {}
    recordings = [name for name in names if _is_recording(name)]
    for name in recordings:
        if match := expression.fullmatch(composed(_stem(name))):
            groups = match.groupdict()
            found.setdefault(groups["speaker"] or "", []).append((name, groups.get("label") or ""))
    if not found or "" in found:
        first = f"the first of {len(recordings):,} is {recordings[0]}" if recordings else "there is none"
        raise InputError(
            f"`pattern` {pattern!r} finds no speaker in the names of recordings in {root} ({first}): it must match "
            "the whole name from there on, without its ending."
        )
    return _named(root, found)


def _named(root: Path, found: Mapping[str, Spoken]) -> dict[str, Spoken]:
    """The same by names that can be printed. Raises InputError for speakers whose names look alike."""
    check_distinct(found, str(root))
    by_form: dict[str, str] = {}
    for speaker in sorted(found):
        other = by_form.setdefault(same_name(speaker), speaker)
        if other != speaker:
            text = (
                f"The speakers {other} and {speaker} of {root} differ in upper and lower case only, and count as two."
            )
            warnings.warn(printable(text), stacklevel=4)
    return {printable(speaker): found[speaker] for speaker in sorted(found)}


def _splits(
    root: Path, speakers: Sequence[str], validation: Sequence[str], test: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The speakers of each split, sorted. Raises InputError where the two given are not some speakers each."""
    by_form = {composed(speaker): speaker for speaker in speakers}
    chosen = {}
    for argument, given in (("validation_speakers", validation), ("test_speakers", test)):
        if not given:
            raise InputError(f"Give `{argument}`, some of the speakers of {root}: it has {several(speakers)}.")
        for speaker in given:
            if composed(speaker) not in by_form:
                raise InputError(
                    f"`{argument}` names {speaker!r}, who is not in {root}{nearest(speaker, speakers)}; "
                    f"it has {several(speakers)}."
                )
        chosen[argument] = {by_form[composed(speaker)] for speaker in given}
    validating, tested = chosen.values()
    if both := sorted(validating & tested):
        raise InputError(f"{both[0]!r} is in `validation_speakers` and in `test_speakers`: choose one of them.")
    train = {*speakers} - validating - tested
    if not train:
        raise InputError(f"No speaker of {root} is left to train on: name fewer for validation and test.")
    return {split: tuple(sorted(names)) for split, names in zip(SPLITS, (train, validating, tested), strict=True)}


class _Beside:
    """Finds the files beside a recording: those of exactly its name, else those of its name in another case or form.

    Where several recordings have such names, each takes only files of exactly its own.
    """

    def __init__(self, root: Path, names: Sequence[str]):
        self.root = root
        self.by_form: dict[str, list[str]] = {}
        self.stems: dict[str, set[str]] = {}
        for name in names:
            self.by_form.setdefault(same_name(name), []).append(name)
            if _is_recording(name):
                self.stems.setdefault(same_name(_stem(name)), set()).add(_stem(name))

    def only(self, recording: str, endings: Sequence[str]) -> str | None:
        """The one file with one of these endings. Raises InputError when there are several, or it may be another's."""
        stem = _stem(recording)
        alike = [name for ending in endings for name in self.by_form.get(same_name(stem) + ending, ())]
        there = [name for name in alike if not name.lower().endswith(".txt") or is_label_track(self.root / name)]
        found = [name for name in there if name.startswith(stem)] or there
        if len(found) > 1:
            raise InputError(f"{self.root / found[0]} and {Path(found[1]).name} are both there: keep one of them.")
        others = self.stems[same_name(stem)] - {stem}
        if found and others and not found[0].startswith(stem):
            raise InputError(
                f"{self.root / recording} has no file of its own: {Path(found[0]).name} may be that of a recording "
                f"{Path(min(others)).name}, and the names differ in case or in their letters' form only; name each as "
                "its recording."
            )
        return found[0] if found else None


def _stem(name: str) -> str:
    """A recording's name without its ending."""
    return name[: -len(PurePosixPath(name).suffix)] if PurePosixPath(name).suffix else name


def _files(root: Path, recordings: Mapping[str, Spoken], beside: _Beside) -> dict[str, tuple[Files, ...]]:
    """The files of each speaker's recordings, by name. Raises InputError where one has no times, or two kinds."""
    return {
        speaker: tuple(_files_of(root, name, label, beside) for name, label in spoken)
        for speaker, spoken in recordings.items()
    }


def _files_of(root: Path, name: str, label: str, beside: _Beside) -> Files:
    beside.only(name, audio.ENDINGS)
    times, words = (beside.only(name, endings) for endings in (PHONE_TIMES, WORD_TIMES))
    if times is None and not label:
        stem = PurePosixPath(_stem(name)).name
        raise InputError(
            f"{root / name} has no phone times beside it: add {stem}.phn or {stem}.csv, {stem}.TextGrid, or a label "
            f"track of Audacity, {stem}.txt."
        )
    return Files(
        printable(_stem(name)),
        root / name,
        None if times is None else root / times,
        None if words is None else root / words,
        label if times is None else "",
    )


def _say_what_is_left(root: Path, names: Sequence[str], files: Mapping[str, Sequence[Files]]) -> None:
    """One warning of the files and folders that are not used, by kind."""
    used = {path for of in files.values() for one in of for path in (one.audio, one.phones, one.words) if path}
    said = [left_out(root, (name for name in names if root / name not in used))]
    heard = {name.partition("/")[0] for name in names if _is_recording(name)}
    empty = [path.name for path in visible_folders(root) if path.name not in heard]
    if empty:
        said.append(
            printable(f"{counted(len(empty), 'folder')} without recordings that can be read ({several(empty)})")
        )
    if any(said):
        text = f"Not used: {' and '.join(filter(None, said))}; what is read is a recording of a speaker and its times."
        warnings.warn(text, stacklevel=3)


def _labels(files: Mapping[str, Sequence[Files]], silences: Sequence[str]) -> tuple[str, ...]:
    """All phone labels that occur, sorted."""
    found: set[str] = set()
    for speaker, spoken in files.items():
        for one in spoken:
            if one.phones is None:
                found.add(one.label)
            else:
                segments = with_silence(read_segments(one.phones, RATE, "phones", speaker), silences, one.phones)
                found |= {segment.label for segment in segments}
    return tuple(sorted(found))
