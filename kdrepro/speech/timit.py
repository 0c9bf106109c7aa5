"""TIMIT: read American English with phone times set by hand, as NLTK's sample or as the LDC's whole corpus."""

import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from kdrepro.errors import InputError
from kdrepro.files import left_out
from kdrepro.speech.corpus import SPLITS
from kdrepro.speech.label_files import Files, Recordings, reading
from kdrepro.speech.line_ends import restored

SILENCES = ("h#", "pau", "epi")
# The 61 labels of TIMIT's phoncode.doc: silences, closures, stops, affricates, fricatives, nasals, glides, vowels.
PHONES = (
    *SILENCES,
    *("bcl", "dcl", "gcl", "pcl", "tcl", "kcl"),
    *("b", "d", "g", "p", "t", "k", "dx", "q"),
    *("jh", "ch"),
    *("s", "sh", "z", "zh", "f", "th", "v", "dh"),
    *("m", "n", "ng", "em", "en", "eng", "nx"),
    *("l", "r", "w", "y", "hh", "hv", "el"),
    *("iy", "ih", "eh", "ey", "ae", "aa", "aw", "ay", "ah", "ao", "oy", "ow", "uh", "uw", "ux", "er"),
    *("ax", "ix", "axr", "ax-h"),
)
# Lee & Hon (1989): what the 61 count as when phones are scored, 39 classes; "" is not scored.
_FOLDED = {
    "sil": (*SILENCES, "bcl", "dcl", "gcl", "pcl", "tcl", "kcl"),
    "": ("q",),
    "aa": ("ao",),
    "ah": ("ax", "ax-h"),
    "er": ("axr",),
    "hh": ("hv",),
    "ih": ("ix",),
    "l": ("el",),
    "m": ("em",),
    "n": ("en", "nx"),
    "ng": ("eng",),
    "sh": ("zh",),
    "uw": ("ux",),
}
SCORED_AS = MappingProxyType(
    {phone: phone for phone in PHONES} | {phone: one for one, several in _FOLDED.items() for phone in several}
)
# testset.doc: two men and a woman of each dialect region.
_CORE_TEST = """
    mdab0 mwbt0 felc0 mtas1 mwew0 fpas0 mjmp0 mlnt0 fpkt0 mlll0 mtls0 fjlm0
    mbpm0 mklt0 fnlp0 mcmj0 mjdh0 fmgd0 mgrt0 mnjm0 fdhc0 mjln0 mpam0 fmld0
"""
CORE_TEST = tuple(_CORE_TEST.split())
# The development set of Halberstadt (1998), 50 speakers of TEST outside the core test set: the field's usual one.
_DEVELOPMENT = """
    faks0 fdac1 fjem0 mgwt0 mjar0 mmdb1 mmdm2 mpdf0 fcmh0 fkms0 mbdg0 mbwm0 mcsh0 fadg0 fdms0 fedw0 mgjf0
    mglb0 mrtk0 mtaa0 mtdt0 mthc0 mwjg0 fnmr0 frew0 fsem0 mbns0 mmjr0 mdls0 mdlf0 mdvc0 mers0 fmah0 fdrw0
    mrcs0 mrjm4 fcal1 mmwh0 fjsj0 majc0 mjsw0 mreb0 fgjd0 fjmg0 mroa0 mteb0 mjfc0 mrjr0 fmml0 mrws1
"""
DEVELOPMENT = tuple(_DEVELOPMENT.split())
TRAINING_SPEAKERS = 462  # of the LDC's TRAIN
SAMPLE = "timit-sample"  # the name of NLTK's
FOLDS = 4  # of the sample
LAYOUTS = (
    "NLTK's sample has folders drN-<speaker> in it, the LDC's LDC93S1 TRAIN/DRn/<speaker> and TEST/DRn/<speaker>; "
    "unpack it again, or move it away to do without"
)
VERSION = 2  # raised when the same files would give other utterances
REGIONS = 8
_SENTENCE = re.compile(r"s[xi]\d+")
_REGION = re.compile("dr[1-8]", re.IGNORECASE)
_SAMPLE_FOLDER = re.compile(r"dr([1-8])-([fm]\w+)", re.IGNORECASE)


@dataclass(frozen=True)
class Timit(Recordings):
    """A TIMIT corpus on disk: `timit` finds one. files: those of the utterances that are used, of each speaker."""

    phones: ClassVar[tuple[str, ...]] = PHONES
    silences: ClassVar[tuple[str, ...]] = SILENCES
    scored_as: ClassVar[Mapping[str, str]] = SCORED_AS

    name: str
    fold: int
    splits: dict[str, tuple[str, ...]] = field(hash=False)
    files: dict[str, tuple[Files, ...]] = field(hash=False, repr=False)

    def fingerprint(self) -> str:
        """16 hex digits over the names, labels and audio sizes of the utterances used, and over who is in which split.

        It does not depend on where the corpus is, nor on upper or lower case file names. Raises InputError when a
        file is no longer there.
        """
        digest = hashlib.sha256(f"{VERSION} {self.name} {self.fold} {sorted(self.splits.items())}".encode())
        with reading():
            for files in (files for speaker in sorted(self.files) for files in self.files[speaker]):
                digest.update(f"{files.name} {files.audio.stat().st_size}".encode())
                for labels in filter(None, (files.phones, files.words)):
                    digest.update(hashlib.sha256(labels.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def _mended(self, waveform: np.ndarray) -> np.ndarray:
        return restored(waveform) if self.name == SAMPLE else waveform  # some copies of the sample are damaged


def timit(root: Path | str, fold: int = 0) -> Timit:
    """Find TIMIT in `root`/timit, or in `root` itself, and split its speakers; nothing is read but names.

    NLTK's sample (`drN-<speaker>/<sentence>.{wav,phn,wrd}`: a woman and a man of each of 8 dialect regions) is
    split into 4 folds. Fold k, 0 to 3, tests 2 women and 2 men of 4 regions, validates on a woman and a man of 2
    other regions, and trains on the other 10 speakers; over the 4 folds each speaker is tested once. The two
    SA sentences, which everyone says, are never used, and a sentence said by a test speaker is left out of
    train and validation, one said by a validation speaker out of train: no text is in two splits. (Without SA the
    sample has no sentence said by two, so nothing is left out.)

    The LDC's whole corpus, LDC93S1 (`{TRAIN,TEST}/DRn/<SPEAKER>/<SENTENCE>.{WAV,PHN,WRD}`, either case, SPHERE or
    RIFF), has one split, fold 0: the 462 speakers of TRAIN, the 24 of the core test set, and for validation the 50
    of Halberstadt's development set; the other 94 speakers of TEST are not used, nor SA. TRAIN shares no text with
    TEST. The development set shares SX texts with the core test set, as in the published results: it is kept whole.

    Raises InputError when neither is there, a speaker or a file is missing, or there is no such fold.
    """
    found = find(Path(root))
    if found is None:
        if (strange := unknown_layout(Path(root))) is not None:
            raise InputError(f"{strange} is there, but not in a layout of TIMIT: {LAYOUTS}.")
        raise InputError(
            f"TIMIT is not in {Path(root) / 'timit'}: put NLTK's sample there (its data package `timit`), or the whole "
            "corpus, LDC93S1, from the Linguistic Data Consortium, or set KDREPRO_DATA (or data_root) to the folder "
            "that holds timit/; the synthetic speech of the smoke preset needs neither."
        )
    folder, full = found
    folds = 1 if full else FOLDS
    if fold not in range(folds):
        known = "the whole TIMIT has fold 0 only" if full else f"the TIMIT sample has folds 0 to {FOLDS - 1}"
        raise InputError(f"There is no fold {fold!r}: {known}.")
    folders, splits = _split_full(folder) if full else _split_sample(folder, fold)
    files = {speaker: _files(folders[speaker], speaker) for split in splits.values() for speaker in split}
    if not full:
        files = _without_shared(files, splits)
    return Timit("timit" if full else SAMPLE, int(fold), splits, files)


def find(root: Path) -> tuple[Path, bool] | None:
    """The folder of the corpus, and whether it is the LDC's whole one; None where there is none."""
    inner = ("timit", "TIMIT", "data")  # as the LDC's disc and its copies nest it
    tops = [root / "timit", root / "TIMIT", root]
    for folder in (*tops, *(top / name for top in tops for name in inner)):
        names = {path.name.lower(): path for path in _folders(folder)}
        if {"train", "test"} <= names.keys() and any(_REGION.fullmatch(p.name) for p in _folders(names["train"])):
            return folder, True
        if any(map(_SAMPLE_FOLDER.fullmatch, names)):
            return folder, False
    return None


def unknown_layout(root: Path) -> Path | None:
    """What is called timit in a data root where `find` finds no corpus, be it packed; None where all is well."""
    there = [path for path in (root / "timit", root / "TIMIT", root / "timit.zip") if path.exists()]
    return there[0] if there and find(root) is None else None


def _by_name(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by their names in lower case. Raises InputError for two of one name."""
    found: dict[str, Path] = {}
    for path in folders:
        if (other := found.setdefault(path.name.lower(), path)) != path:
            raise InputError(f"{other} and {path} are both there under one name: keep one of them.")
    return found


def _split_sample(folder: Path, fold: int) -> tuple[dict[str, Path], dict[str, tuple[str, ...]]]:
    """The folder of each speaker of the sample, and the speakers of each split of the fold."""
    of_speakers = [path for path in _folders(folder) if _SAMPLE_FOLDER.fullmatch(path.name.lower())]
    found = {_SAMPLE_FOLDER.fullmatch(name): path for name, path in _by_name(of_speakers).items()}
    folders = {match[2]: path for match, path in found.items()}
    sexes = {sex: {int(match[1]): match[2] for match in found if match[2][0] == sex} for sex in "fm"}
    if len(folders) != 2 * REGIONS or any(len(by_region) != REGIONS for by_region in sexes.values()):
        raise InputError(
            f"{folder} has {len(folders)} speakers where the TIMIT sample has a woman and a man of each of "
            f"{REGIONS} dialect regions: fetch it again (NLTK's data package `timit`)."
        )

    def of(sex: str, *steps: int) -> list[str]:
        return [sexes[sex][(2 * fold + step) % REGIONS + 1] for step in steps]

    test = [*of("f", 0, 1), *of("m", 2, 3)]
    validation = [*of("f", 4), *of("m", 6)]
    train = folders.keys() - {*test, *validation}
    return folders, {split: tuple(sorted(who)) for split, who in zip(SPLITS, (train, validation, test), strict=True)}


def _split_full(folder: Path) -> tuple[dict[str, Path], dict[str, tuple[str, ...]]]:
    """The folder of each speaker of the whole corpus, and the speakers of each split."""
    parts = {
        name: _by_name(path for region in _folders(part) for path in _folders(region))
        for name, part in _by_name(p for p in _folders(folder) if p.name.lower() in ("train", "test")).items()
    }
    if both := sorted(parts["train"].keys() & parts["test"].keys()):
        raise InputError(f"{folder} has the speaker {both[0]} in TRAIN and in TEST: copy it again.")
    missing = [speaker for speaker in (*CORE_TEST, *DEVELOPMENT) if speaker not in parts["test"]]
    if missing or len(parts["train"]) != TRAINING_SPEAKERS:
        lack = f"{missing[0]} is not in TEST" if missing else f"{len(parts['train'])} speakers are in TRAIN"
        raise InputError(
            f"{folder} is not the whole TIMIT ({lack}, where the LDC's corpus has {TRAINING_SPEAKERS} speakers in "
            "TRAIN and 168 in TEST): copy it again."
        )
    splits = (parts["train"], DEVELOPMENT, CORE_TEST)
    return parts["test"] | parts["train"], {s: tuple(sorted(who)) for s, who in zip(SPLITS, splits, strict=True)}


def _files(folder: Path, speaker: str) -> tuple[Files, ...]:
    """The files of a speaker's SX and SI sentences, by name. Raises InputError when a sentence lacks one."""
    found: dict[str, dict[str, Path]] = {}
    strange = []
    # The longest names last: of SA1.WAV and SA1.WAV.wav, which some copies have beside it, the latter is the RIFF.
    for path in sorted(folder.iterdir(), key=lambda path: (len(path.name), path.name)):
        sentence = path.name.lower().partition(".")[0]
        if _SENTENCE.fullmatch(sentence):
            other = found.setdefault(sentence, {}).get(path.suffix.lower())
            if other is not None and len(other.name) == len(path.name):
                raise InputError(f"{other} and {path.name} are both there, of one sentence: keep one of them.")
            found[sentence][path.suffix.lower()] = path
        elif path.suffix.lower() == ".wav" and not path.name.lower().startswith(("sa", ".")):
            strange.append(path.name)
    if strange:
        text = f"Not used: {left_out(folder, strange)}; TIMIT's recordings are called SX1.WAV and the like."
        warnings.warn(text, stacklevel=5)
    for kinds in found.values():
        for needed, other in ((".phn", ".wav"), (".wav", ".phn")):
            if needed not in kinds and other in kinds:
                raise InputError(f"{kinds[other]} has no {needed} beside it: copy the corpus again.")
    complete = {sentence: kinds for sentence, kinds in sorted(found.items()) if ".phn" in kinds}
    if not complete:
        raise InputError(f"{folder} holds no SX or SI sentence with .wav and .phn: copy the corpus again.")
    return tuple(
        Files(f"{speaker}/{sentence}", kinds[".wav"], kinds[".phn"], kinds.get(".wrd"))
        for sentence, kinds in complete.items()
    )


def _without_shared(
    files: Mapping[str, tuple[Files, ...]], splits: Mapping[str, Sequence[str]]
) -> dict[str, tuple[Files, ...]]:
    """The same without a sentence that a later split says too: a text tested must not have been trained on."""
    kept, taken = {}, set()
    for split in ("test", "validation", "train"):
        for speaker in splits[split]:
            kept[speaker] = tuple(one for one in files[speaker] if _sentence(one) not in taken)
        taken |= {_sentence(one) for speaker in splits[split] for one in kept[speaker]}
    return kept


def _sentence(files: Files) -> str:
    return files.name.rpartition("/")[2]


def _folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder, by name; none where there is no such folder."""
    return (path for path in sorted(folder.iterdir()) if path.is_dir()) if folder.is_dir() else iter(())
