"""Speech of one's own: a folder of recordings for each speaker, with phone times beside each recording."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdrepro.errors import InputError, nearest
from kdrepro.speech.corpus import RATE, SPLITS
from kdrepro.speech.label_files import Files, Recordings, read_segments, reading, several

AUDIO = (".wav", ".flac")
PHONE_TIMES = (".phn", ".csv")
WORD_TIMES = (".wrd", ".words.csv")


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
            digest.update(files.name.encode())
            for path in filter(None, (files.audio, files.phones, files.words)):
                with reading(), path.open("rb") as file:
                    digest.update(path.suffix.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]


def speech_folder(
    root: Path | str,
    *,
    phones: Sequence[str] | None = None,
    silences: Sequence[str] = ("sil",),
    validation_speakers: Sequence[str] = (),
    test_speakers: Sequence[str] = (),
) -> SpeechFolder:
    """Take `root`/<speaker>/<name>.wav (or .flac) as a corpus, with the times of its phones beside each recording.

    Either <name>.phn: lines `start end label`, in samples at the recording's own rate. Or <name>.csv: a header
    `start,end,label`, in seconds. Phones follow one another from 0 on, silence included; ends and starts that are
    within one sample at 16 kHz of each other are taken as one. Words, if there are any, are in <name>.wrd or
    <name>.words.csv the same way, gaps allowed. Example:

        mine/anna/one.wav
        mine/anna/one.csv:  start,end,label
                            0,0.21,sil
                            0.21,0.304,w
                            ...
        mine/bob/one.wav, mine/bob/one.csv, mine/carla/..., mine/dan/...

        corpus = speech_folder("mine", validation_speakers=["carla"], test_speakers=["dan"])
        corpus.speakers()  # {"train": ("anna", "bob"), "validation": ("carla",), "test": ("dan",)}
        corpus.utterances("anna")[0].phones[1]  # Segment(label="w", start=3360, end=4864)

    phones: every label there may be; None takes those that occur, sorted. silences: those of them that are no
    speech, () if there is none. validation_speakers and test_speakers must be given; the others are trained on.
    Only label files are read here, and those only for `phones=None`; recordings are read by `utterances`.
    Raises InputError when the folder, a speaker or a file is missing, or the labels cannot be read.
    """
    root = Path(root)
    folders = _speaker_folders(root)
    splits = _splits(root, list(folders), _as_names(validation_speakers), _as_names(test_speakers))
    files = {speaker: _files(folder, speaker) for speaker, folder in folders.items()}
    known = _labels(files) if phones is None else tuple(dict.fromkeys(phones))
    silences = _as_names(silences)
    for silence in silences:
        if silence not in known:
            raise InputError(
                f"The silence {silence!r} is not a phone of {root}{nearest(silence, known)}; it has {several(known)}: "
                "name in `silences` the labels that are no speech, or give silences=()."
            )
    return SpeechFolder(root.resolve().name, known, silences, splits, files)


def _as_names(given: Sequence[str]) -> tuple[str, ...]:
    """A lone string is one name, not its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _speaker_folders(root: Path) -> dict[str, Path]:
    """The folders that hold recordings, by speaker."""
    if not root.is_dir():
        raise InputError(f"There is no folder {root}: give the one that holds a folder of recordings for each speaker.")
    folders = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and _recordings(path)}
    if not folders:
        raise InputError(
            f"{root} holds no recordings: put them at <speaker>/<name>.wav or .flac, each speaker in a folder."
        )
    return folders


def _recordings(folder: Path) -> list[Path]:
    paths = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in paths if path.suffix.lower() in AUDIO)


def _splits(
    root: Path, speakers: Sequence[str], validation: Sequence[str], test: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The speakers of each split, sorted. Raises InputError where the two given are not some speakers each."""
    for argument, given in (("validation_speakers", validation), ("test_speakers", test)):
        if not given:
            raise InputError(f"Give `{argument}`, some of the speakers of {root}: it has {several(speakers)}.")
        for speaker in given:
            if speaker not in speakers:
                raise InputError(
                    f"`{argument}` names {speaker!r}, who is not in {root}{nearest(speaker, speakers)}; "
                    f"it has {several(speakers)}."
                )
    both = sorted({*validation} & {*test})
    if both:
        raise InputError(f"{both[0]!r} is in `validation_speakers` and in `test_speakers`: choose one of them.")
    train = {*speakers} - {*validation} - {*test}
    if not train:
        raise InputError(f"No speaker of {root} is left to train on: name fewer for validation and test.")
    return {split: tuple(sorted(names)) for split, names in zip(SPLITS, (train, {*validation}, {*test}), strict=True)}


def _files(folder: Path, speaker: str) -> tuple[Files, ...]:
    """The files of a speaker's recordings, by name. Raises InputError where one has no times, or two kinds of them."""
    by_name = {path.name.lower(): path for path in sorted(folder.iterdir())}
    found = []
    for audio in _recordings(folder):
        _only(audio, AUDIO, by_name)
        times = _only(audio, PHONE_TIMES, by_name)
        if times is None:
            raise InputError(f"{audio} has no phone times beside it: add {audio.stem}.phn or {audio.stem}.csv.")
        found.append(Files(f"{speaker}/{audio.stem}", audio, times, _only(audio, WORD_TIMES, by_name)))
    return tuple(found)


def _only(audio: Path, endings: Sequence[str], by_name: Mapping[str, Path]) -> Path | None:
    """The file beside the recording with one of these endings, or None. Raises InputError when there are two."""
    there = [path for ending in endings if (path := by_name.get((audio.stem + ending).lower()))]
    if len(there) > 1:
        raise InputError(f"{there[0]} and {there[1].name} are both there: keep one of them.")
    return there[0] if there else None


def _labels(files: Mapping[str, Sequence[Files]]) -> tuple[str, ...]:
    """All phone labels that occur, sorted."""
    paths = (one.phones for several_files in files.values() for one in several_files)
    return tuple(sorted({segment.label for path in paths for segment in read_segments(path, RATE)}))
