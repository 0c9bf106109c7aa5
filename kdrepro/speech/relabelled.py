"""TIMIT with the labels of a forced aligner beside those of people, in phones that both know.

CMU's dictionary has 39 phones, TIMIT 61: closures count as their stops, and what the dictionary does not tell apart as
one. Only training utterances are aligned; validation and test keep the labels of people, so that both are judged alike.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kdrepro.errors import InputError, NotInstalledError
from kdrepro.speech import timit
from kdrepro.speech.align import PASSES, SILENCE, align
from kdrepro.speech.corpus import Segment, Utterance
from kdrepro.speech.timit import Timit

VERSION = 1  # raised when the same recordings would get other labels
# Beside Lee & Hon's 39 classes: closures and flaps are stops to the dictionary, glottal stops silence.
_STOPS = {f"{stop}cl": stop for stop in "bdgptk"} | {"dx": "d"}
COMMON = {
    phone: _STOPS.get(phone) or timit.SCORED_AS[phone] or SILENCE for phone in timit.PHONES
}  # TIMIT's label -> the common one
PHONES = tuple(sorted(set(COMMON.values())))


@dataclass(frozen=True)
class Relabelled:
    """TIMIT in the common phones. aligned: whether training utterances have the aligner's times and phones.

    Those that it loses are left out there.
    """

    corpus: Timit
    aligned: bool
    phones: tuple[str, ...] = PHONES
    silences: tuple[str, ...] = (SILENCE,)

    @property
    def name(self) -> str:
        """TIMIT's, with whose labels it has."""
        return f"{self.corpus.name}-{'aligned' if self.aligned else 'by-hand'}"

    @property
    def scored_as(self) -> Mapping[str, str]:
        """Every phone counts as itself."""
        return {phone: phone for phone in self.phones}

    def fingerprint(self) -> str:
        """Of the recordings and of who has labelled them."""
        passes = PASSES if self.aligned else ()
        content = f"{VERSION} {self.corpus.fingerprint()} {self.aligned} {passes} {COMMON}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def speakers(self) -> Mapping[str, Sequence[str]]:
        """As TIMIT's."""
        return self.corpus.speakers()

    def utterances(self, speaker: str) -> list[Utterance]:
        """A speaker's utterances. Raises InputError as TIMIT's, and where pocketsphinx is needed and not there."""
        spoken = self.corpus.utterances(speaker)
        if not self.aligned or speaker not in self.corpus.speakers()["train"]:
            return [replace(one, phones=folded(one.phones, COMMON)) for one in spoken]
        return [found for one in spoken if (found := _aligned(one)) is not None]


def _aligned(utterance: Utterance) -> Utterance | None:
    """The utterance with the aligner's phones and words; None where it loses it."""
    words = [word.label for word in utterance.words]
    try:
        found = align(utterance.waveform, words)
    except NotInstalledError:
        raise
    except InputError:
        return None
    return replace(utterance, phones=folded(found.phones, {"zh": "sh", "ao": "aa"}), words=found.words)


def folded(phones: Sequence[Segment], names: Mapping[str, str]) -> tuple[Segment, ...]:
    """Phones under their other names; a closure and its stop, and silences, that follow one another become one."""
    found: list[Segment] = []
    for label, start, end in phones:
        one = Segment(names.get(label, label), start, end)
        if found and found[-1].label == one.label and one.label in (SILENCE, *"bdgptk"):
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(one)
    return tuple(found)
