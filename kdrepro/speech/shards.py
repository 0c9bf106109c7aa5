"""A corpus prepared for training: shards of normalised features on disk, made in parallel, kept for the next run.

A shard is a folder: `features.npy`, float16 [rows, 40], in which every utterance has its frames with their padding;
`segments.npy`, int32, a row a phone; `utterances.json`. Its folder appears only when it is whole. Every shard is made
by a process of its own, because espeak-ng's speech depends on what it said before.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from kdrepro.errors import InputError
from kdrepro.files import read_array, replacing_folder
from kdrepro.speech.corpus import SPLITS, Corpus, Segment, Utterance
from kdrepro.speech.features import COEFFICIENTS, STEP, log_mel
from kdrepro.speech.states import NO_CONTEXT, States, positions

VERSION = 1  # raised when the same recordings would give other features
LEFT, RIGHT = 20, 5  # frames of context: with the frame itself the paper's 26
SHARD_SPEAKERS = 16
LONGEST_NAME = 50  # characters of a corpus's name in that of its folder; file systems take 255 bytes
# A shard's process finds the same modules: the corpus's class may be in one beside the user's script.
WORKER = (
    "import pickle, sys; sys.path = pickle.load(sys.stdin.buffer); from kdrepro.speech.shards import serve; serve()"
)


@dataclass(frozen=True)
class Shard:
    """One shard, its arrays mapped from disk.

    features: float16 [rows, 40]. segments: int32 [phones, 6]: utterance, phone, left and right neighbour within its
    word (or NO_CONTEXT), first frame, end frame. utterances: dicts of name, speaker, row (of its first window),
    frames, words [[word, tag, first frame, end frame], ...].
    """

    features: np.ndarray
    segments: np.ndarray
    utterances: list[dict[str, Any]]

    def __reduce__(self) -> tuple:
        """To other processes that see the same folder, its path: an array that is mapped would be copied whole."""
        if isinstance(self.features, np.memmap):
            return load, (Path(self.features.filename).parent,)
        return Shard, (self.features, self.segments, self.utterances)

    @property
    def frames(self) -> int:
        """Frames of all its utterances."""
        return sum(u["frames"] for u in self.utterances)

    def window_rows(self) -> np.ndarray:
        """The first row of each frame's window of LEFT + 1 + RIGHT rows, int64 [frames]."""
        return np.concatenate([u["row"] + np.arange(u["frames"]) for u in self.utterances])

    def targets(self, states: States) -> np.ndarray:
        """The HMM state of each frame, int32 [frames]."""
        contexts, which = np.unique(self.segments[:, 1:4], axis=0, return_inverse=True)
        of = np.array([states.of(*context) for context in contexts.tolist()], np.int32)[which.reshape(-1)]
        lengths = self.segments[:, 5] - self.segments[:, 4]
        return np.concatenate([row[positions(n)] for row, n in zip(of, lengths.tolist(), strict=True)])


def prepare(
    corpus: Corpus, cache: Path, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> tuple[Path, dict[str, list[Path]]]:
    """Make what is missing of a corpus's shards; returns its folder and the shards of each split.

    cache: the folder that all corpora are kept in. workers: processes, None for one a core.
    progress: called with the shards that are done and their number.
    Raises InputError for whatever is wrong with the corpus; shards that were finished are kept.
    """
    folder = Path(cache) / f"{corpus.name[:LONGEST_NAME]}-{fingerprint(corpus)}"
    jobs, shards = [], {split: [] for split in SPLITS}
    for split, speakers in corpus.speakers().items():
        for i in range(0, len(speakers), SHARD_SPEAKERS):
            path = folder / f"{split}-{i // SHARD_SPEAKERS:04d}"
            shards[split].append(path)
            if not path.exists():
                jobs.append((corpus, list(speakers[i : i + SHARD_SPEAKERS]), path))
    _make_all(jobs, min(workers or os.cpu_count() or 1, max(1, len(jobs))), progress)
    return folder, shards


def fingerprint(corpus: Corpus) -> str:
    """16 hex digits of a corpus's settings and of how its shards are made: the end of its folder's name."""
    return hashlib.sha256(json.dumps([VERSION, corpus.name, corpus.fingerprint()]).encode()).hexdigest()[:16]


def _make_all(jobs: Sequence[tuple], workers: int, progress: Callable[[int, int], None] | None) -> None:
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(_in_own_process, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(pending), 1):
                future.result()
                if progress:
                    progress(done, len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def utterances_again(corpus: Corpus, speakers: Sequence[str]) -> list[Utterance]:
    """What these speakers say, with its sound: that of a shard, where they are its first speakers in its order.

    Raises InputError for whatever is wrong with the corpus.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "utterances"
        _in_own_process((corpus, list(speakers), path), _keep_utterances)
        return pickle.loads(path.read_bytes())


def _keep_utterances(corpus: Corpus, speakers: Sequence[str], path: Path) -> None:
    path.write_bytes(pickle.dumps([one for speaker in speakers for one in corpus.utterances(speaker)]))


def _in_own_process(job: tuple, work: Callable[..., None] | None = None) -> None:
    """Run `make_shard`, or other work, in a fresh interpreter; unlike multiprocessing, without a guard in a script."""
    sent = pickle.dumps(sys.path) + _pickled((*job, work or make_shard))
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, capture_output=True)
    said = done.stderr.decode("utf-8", "backslashreplace").strip()  # a worker's terminal need not be UTF-8
    if done.returncode == 2:
        raise InputError(said)
    if done.returncode != 0:
        raise RuntimeError(f"The process that prepares {job[2]} died: {said[-2000:]}")


def _pickled(job: tuple) -> bytes:
    """The job with the corpus's class itself where that is in the user's script. Raises InputError when it can't be."""
    try:
        return cloudpickle.dumps(job)
    except Exception as error:  # whatever the corpus holds may refuse, in its own way
        raise InputError(
            f"The corpus {job[0].name} cannot be sent to the processes that prepare it "
            f"({' '.join(str(error).split()) or type(error).__name__}): let it hold plain data only, and open files, "
            "locks and models in `utterances`."
        ) from error


def serve() -> None:
    """The other end of `_in_own_process`, which has read its path."""
    try:
        *job, work = _unpickled(sys.stdin.buffer.read())
        work(*job)
    except InputError as error:
        sys.stderr.buffer.write(str(error).encode())
        sys.exit(2)


def _unpickled(sent: bytes) -> tuple:
    try:
        return pickle.loads(sent)
    except (AttributeError, ImportError) as error:
        raise InputError(
            f"The class of this corpus cannot be found by the processes that prepare it ({error}): define it in your "
            "script, or in a module that can be imported from there."
        ) from error


def make_shard(corpus: Corpus, speakers: Sequence[str], path: Path) -> None:
    """Prepare these speakers and put the shard in its place, whole or not at all."""
    labels = {phone: i for i, phone in enumerate(corpus.phones)}
    features, segments, utterances, row = [], [], [], 0
    for speaker in speakers:
        spoken = [u for u in corpus.utterances(speaker) if len(u.waveform) >= STEP]
        if not spoken:
            raise InputError(
                f"The speaker {speaker} of {corpus.name} has no utterance of at least 10 ms: leave it out."
            )
        for utterance, frames in zip(spoken, normalised([log_mel(u.waveform) for u in spoken]), strict=True):
            features.append(np.pad(frames, ((LEFT, RIGHT), (0, 0)), mode="edge"))
            segments.append(_segments(utterance, len(utterances), len(frames), labels, corpus.silences))
            words = [[*w] for w in _words(utterance, len(frames))]
            utterances.append(
                {"name": utterance.name, "speaker": speaker, "row": row, "frames": len(frames), "words": words}
            )
            row += len(features[-1])
    _write(path, np.concatenate(features).astype(np.float16), np.concatenate(segments), utterances)


def normalised(spoken: Sequence[np.ndarray]) -> list[np.ndarray]:
    """A speaker's frames, [frames, 40] an utterance, with mean 0 and deviation 1 over all of them per coefficient."""
    together = np.concatenate(spoken)
    mean, deviation = together.mean(0), together.std(0) + 1e-3
    return [(frames - mean) / deviation for frames in spoken]


def load(path: Path) -> Shard:
    """Map a shard from disk. Raises InputError when it is damaged."""
    try:
        shard = Shard(
            read_array(path / "features.npy", mmap_mode="r"),
            read_array(path / "segments.npy"),
            json.loads((path / "utterances.json").read_bytes()),
        )
        if _fits_together(shard):
            return shard
        reason = "its arrays do not fit together"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = str(error)
    raise InputError(f"The shard {path} is damaged ({reason}): delete that folder, and it is made anew.")


def _fits_together(shard: Shard) -> bool:
    rows = shard.features.shape
    if len(rows) != 2 or rows[1] != COEFFICIENTS or shard.segments.ndim != 2 or shard.segments.shape[1] != 6:
        return False
    padded = shard.frames + len(shard.utterances) * (LEFT + RIGHT)
    return 0 < padded == rows[0] and int((shard.segments[:, 5] - shard.segments[:, 4]).sum()) == shard.frames


def _segments(utterance: Utterance, index: int, frames: int, labels: dict[str, int], silences) -> np.ndarray:
    """Rows of `Shard.segments`; phones that no frame's centre lies in are left out."""
    edges = [_first_frame(p.start, frames) for p in utterance.phones] + [frames]
    rows = []
    for (phone, left, right), start, end in zip(_contexts(utterance, silences), edges[:-1], edges[1:], strict=True):
        if end > start:
            context = [NO_CONTEXT if c is None else labels[c] for c in (left, right)]
            rows.append((index, labels[phone], *context, start, end))
    return np.array(rows, np.int32).reshape(-1, 6)


def _contexts(utterance: Utterance, silences: Sequence[str]) -> list[tuple[str, str | None, str | None]]:
    """Each phone with its neighbours within the same word; silences, and phones outside of words, have none."""
    word_of = [_word_at(phone, utterance.words) for phone in utterance.phones]
    found = []
    for i, phone in enumerate(utterance.phones):
        neighbours = []
        for j in (i - 1, i + 1):
            inside = 0 <= j < len(word_of) and word_of[i] is not None and word_of[j] == word_of[i]
            speech = inside and utterance.phones[j].label not in silences and phone.label not in silences
            neighbours.append(utterance.phones[j].label if speech else None)
        found.append((phone.label, *neighbours))
    return found


def _word_at(phone: Segment, words: Sequence[Segment]) -> int | None:
    return next((i for i, word in enumerate(words) if word.start <= phone.start < word.end), None)


def _words(utterance: Utterance, frames: int) -> list[tuple[str, str, int, int]]:
    tags = utterance.tags or ("",) * len(utterance.words)
    return [
        (word.label, tag, _first_frame(word.start, frames), _first_frame(word.end, frames))
        for word, tag in zip(utterance.words, tags, strict=True)
    ]


def _first_frame(sample: int, frames: int) -> int:
    """The first frame whose centre is at or after a sample."""
    return min(frames, max(0, (sample + STEP // 2 - 1) // STEP))


def _write(path: Path, features: np.ndarray, segments: np.ndarray, utterances: list[dict[str, Any]]) -> None:
    try:
        with replacing_folder(path) as part:
            np.save(part / "features.npy", features)
            np.save(part / "segments.npy", segments)
            (part / "utterances.json").write_text(json.dumps(utterances))
    except OSError as error:
        raise InputError(f"Cannot write the shard {path} ({error.strerror or error}): make room.") from error
