"""From an acoustic model's states to words or phones: a data set's recogniser, its weights, its errors."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from torch import nn

from kdrepro.acoustic import posteriors
from kdrepro.acoustic.frames import Frames, Speech
from kdrepro.acoustic.graphs import Graph, graph_of_phones, graph_of_words, phone_loop, phone_pairs
from kdrepro.acoustic.viterbi import decode, scaled_log_likelihoods

SCALES = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)  # of the acoustic log-likelihoods, against the language model
PENALTIES = (-2.0, 0.0, 2.0)  # of every word or phone
TUNING_UTTERANCES = 150  # of the validation speakers, evenly picked


@dataclass(frozen=True)
class Recognizer:
    """Decodes with a graph, and counts the errors as its data set is scored.

    Words, where the corpus tags them with the classes of its grammar: a lexicon of the pronunciations heard in
    training, with a bigram or trigram over word classes. Else phones: a loop over them with a bigram, folded as the
    corpus says (61 to 39 for TIMIT). log_prior: of the states in training. acoustic_scale and insertion_penalty: see
    `decode`. order: of the language model.
    """

    speech: Speech
    graph: Graph
    log_prior: torch.Tensor
    words: bool
    acoustic_scale: float = 1.0
    insertion_penalty: float = 0.0
    order: int = 2

    @classmethod
    def of(cls, speech: Speech, order: int = 2) -> "Recognizer":
        """The recognizer of a data set, all of it estimated on training utterances.

        order: 2 for a bigram, 3 for a trigram over classes; phones have a bigram in either case.
        """
        counts = torch.bincount(speech.train.targets, minlength=len(speech.states)).double() + 0.5
        words = any(tag for u in speech.train.utterances[:1] for _, tag, *_ in u["words"])
        graph = graph_of_words(speech, order) if words else graph_of_phones(speech)
        return cls(speech, graph, (counts / counts.sum()).log().float(), words, order=order if words else 2)

    @property
    def grid(self) -> list[list[float]]:
        """The pairs of scale and penalty that `tuned` tries."""
        return [list(pair) for pair in product(SCALES, PENALTIES)]

    def with_weights(self, acoustic_scale: float, insertion_penalty: float) -> "Recognizer":
        """The same recognizer, with these two in place of its own."""
        return replace(self, acoustic_scale=acoustic_scale, insertion_penalty=insertion_penalty)

    def tuned(
        self,
        networks: Sequence[nn.Module],
        validation: Frames,
        how: str = "arithmetic",
        device: torch.device | str = "cpu",
    ) -> dict[str, Any]:
        """The scale and penalty with the fewest errors on validation utterances, and the error rate of each pair.

        networks: of one system, averaged as `how` says where they are several.
        """
        step = max(1, len(validation.utterances) // TUNING_UTTERANCES)
        said, found = [], []
        for utterances, log_probabilities in posteriors.by_utterance(networks, validation, how, device):
            chosen = [i for i, u in enumerate(utterances) if (u["index"] % step) == 0]
            said += [utterances[i] for i in chosen]
            found += [log_probabilities[i] for i in chosen]
        rates = self.error_rates(said, found)
        best = self.grid[int(np.argmin(rates))]
        return {"acoustic_scale": best[0], "insertion_penalty": best[1], "rates": rates}

    def error_rates(self, utterances: Sequence[Mapping], log_probabilities: Sequence[torch.Tensor]) -> np.ndarray:
        """The error rate at each pair of the grid, [pairs]; all pairs are decoded together."""
        scores, pairs = self._scores(log_probabilities), len(self.grid)
        scales, penalties = (np.repeat(each, len(scores)).tolist() for each in zip(*self.grid, strict=True))
        paths = decode(scores * pairs, self.graph, acoustic_scale=scales, insertion_penalty=penalties)
        counts = self._counted(list(utterances) * pairs, paths).reshape(pairs, -1, 4).sum(1)
        return counts[:, :3].sum(1) / counts[:, 3]

    def recognize(self, log_probabilities: Sequence[torch.Tensor]) -> list[list[Any]]:
        """Decoded words or phones with their frames, silences among them; log_probabilities: [frames, states] each."""
        scores = self._scores(log_probabilities)
        return decode(scores, self.graph, acoustic_scale=self.acoustic_scale, insertion_penalty=self.insertion_penalty)

    def _scores(self, log_probabilities: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [scaled_log_likelihoods(one, self.log_prior.to(one.device)) for one in log_probabilities]

    def scored(self, labels: Sequence[str]) -> list[str]:
        """Decoded labels as they count: without silences, phones folded."""
        if self.words:
            return [label for label in labels if label]
        as_scored = self.speech.corpus.scored_as
        return [as_scored[label] for label in labels if as_scored[label]]

    def reference(self, utterance: Mapping[str, Any]) -> list[str]:
        """What was said, as it counts."""
        if self.words:
            return [word for word, *_ in utterance["words"]]
        return self.scored([phone for phone, *_ in utterance["phones"]])

    def errors(self, utterances: Sequence[Mapping], log_probabilities: Sequence[torch.Tensor]) -> np.ndarray:
        """int [utterances, 4]: substitutions, insertions, deletions, length of the reference.

        Of an alignment with the fewest errors, each of which counts one.
        """
        return self._counted(utterances, self.recognize(log_probabilities))

    def _counted(self, utterances: Sequence[Mapping], paths: Sequence[Sequence[Any]]) -> np.ndarray:
        """`errors` of decoded paths."""
        said = [self.reference(utterance) for utterance in utterances]
        heard = [self.scored([one.label for one in path]) for path in paths]
        rows = [(*error_counts(a, b), len(a)) for a, b in zip(said, heard, strict=True)]
        return np.array(rows, np.int64).reshape(-1, 4)


def error_counts(reference: Sequence[str], hypothesis: Sequence[str]) -> tuple[int, int, int]:
    """Substitutions, insertions and deletions of an alignment with the fewest errors: Levenshtein's distance."""
    kinds = Counter(step.tag for step in Levenshtein.editops(reference, hypothesis))
    return kinds["replace"], kinds["insert"], kinds["delete"]


def phones_of(speech: Speech, log_probabilities: torch.Tensor, least: int = 3) -> list[Any]:
    """The phones of one utterance, whatever its recognizer's units: a loop over them with a bigram.

    log_probabilities: [frames, states]. A phone's score is its states' together, over how frequent they are in
    training; each lasts `least` frames or more.
    """
    phones = speech.corpus.phones
    of_state = torch.tensor([phone for (phone, *_), _ in sorted(speech.states.index.items(), key=lambda one: one[1])])
    counts = torch.bincount(of_state[speech.train.targets.long()], minlength=len(phones)).double() + 0.5
    together = torch.full((len(log_probabilities), len(phones)), 1e-30)
    together.index_add_(1, of_state, log_probabilities.cpu().exp())
    graph = phone_loop(phones, {phone: (i,) * least for i, phone in enumerate(phones)}, phone_pairs(speech))
    likelihoods = together.log() - (counts / counts.sum()).log().float()
    return decode([likelihoods], graph, acoustic_scale=0.5)[0]
