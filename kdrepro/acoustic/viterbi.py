"""Exact Viterbi search through a decoding graph, without a beam.

It carries tokens: every state keeps its score and the frame in which its path entered the chain, so no back pointers
are kept for single states.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from kdrepro.acoustic.graphs import LOG_HALF, Graph
from kdrepro.training import lanes

COLUMNS = 300_000  # states, and pairs of classes, times utterances: what waits neither for Python nor for memory


class Decoded(NamedTuple):
    """A recognised phone or word, in the frames start_frame <= t < end_frame."""

    label: str
    start_frame: int
    end_frame: int


def scaled_log_likelihoods(logits: torch.Tensor, log_prior: torch.Tensor) -> torch.Tensor:
    """log p(state | frame) - log p(state): the likelihood of the frame but for a factor common to all states.

    logits: [..., C]. log_prior: [C], natural logs, finite: floor the prior of a state that training never saw.
    Raises ValueError for other shapes and for a prior that is not finite.
    """
    if log_prior.dim() != 1 or logits.shape[-1:] != log_prior.shape:
        raise ValueError(f"log_prior is {list(log_prior.shape)} but logits are {list(logits.shape)}.")
    if not torch.isfinite(log_prior).all():
        raise ValueError("log_prior must be finite.")
    return logits.log_softmax(-1) - log_prior


def decode(
    log_likelihoods: Sequence[torch.Tensor],
    graph: Graph,
    *,
    batch: int | None = None,
    acoustic_scale: float | Sequence[float] = 1.0,
    insertion_penalty: float | Sequence[float] = 0.0,
) -> list[list[Decoded]]:
    """The best paths of many utterances, in their order, by `viterbi` on batches of similar lengths.

    log_likelihoods: [T_i, E] for every utterance, of one dtype and on one device. acoustic_scale, insertion_penalty:
    one for all, or one for each: the same utterances with several of both are decoded together. batch: utterances at
    once; None for as many as are fast on this graph. Runs on one thread.
    Raises ValueError as `viterbi` does, and for a batch below 1.
    """
    rows = len(graph.states) + len(graph.start_log_prob) ** 2
    batch = max(32, COLUMNS // rows) if batch is None else batch
    if batch < 1:
        raise ValueError(f"batch must be at least 1, not {batch}.")
    scales, penalties = (
        torch.as_tensor(given, dtype=torch.float64).expand(len(log_likelihoods))
        for given in (acoustic_scale, insertion_penalty)
    )
    order = sorted(range(len(log_likelihoods)), key=lambda i: len(log_likelihoods[i]))
    paths: list[list[Decoded]] = [[] for _ in order]
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        utterances = [log_likelihoods[i] for i in chosen]
        # The search's steps take microseconds: a second thread saves a quarter, and on a busy machine waiting for it
        # at every step makes the search 25 times slower.
        with lanes.threads(1):
            found, _ = viterbi(
                pad_sequence(utterances, batch_first=True),
                torch.tensor([len(u) for u in utterances]),
                graph,
                acoustic_scale=scales[chosen],
                insertion_penalty=penalties[chosen],
            )
        for i, path in zip(chosen, found, strict=True):
            paths[i] = path
    return paths


@torch.no_grad()
def viterbi(
    log_likelihoods: torch.Tensor,
    lengths: torch.Tensor,
    graph: Graph,
    *,
    acoustic_scale: float | torch.Tensor = 1.0,
    insertion_penalty: float | torch.Tensor = 0.0,
) -> tuple[list[list[Decoded]], torch.Tensor]:
    """The best path of every utterance through the graph, and its score.

    log_likelihoods: float32 or float64 [B, T, E], scaled likelihoods of the E emission states; frames after an
    utterance's length may hold anything. lengths: integers [B], frames. A path's score is the sum of acoustic_scale
    times its frames' log_likelihoods and of the graph's log-probabilities (LOG_HALF also where it leaves the last
    state of a chain, the last one's included), less insertion_penalty for every chain; both are one for all, or [B].
    Returns B paths and scores [B]: no labels and -inf where no path fits, say in an utterance too short. Of equal
    scores, staying in a state wins over entering it, and the lower index of class and chain over the higher.
    Memory: 6 T K B bytes for K chains in float32, besides a few [S, B].
    Raises ValueError naming the argument that does not fit, and for NaN or +inf within an utterance.
    """
    counts = _check_search(log_likelihoods, lengths, graph, acoustic_scale, insertion_penalty)
    scale, penalty = (torch.as_tensor(one, dtype=torch.float64).cpu() for one in (acoustic_scale, insertion_penalty))
    network = _Network.of(graph, penalty, log_likelihoods)
    history = _forward(log_likelihoods, network, scale.to(log_likelihoods))
    return _trace(history, counts, network, graph.chain_label)


def _check_search(log_likelihoods, lengths, graph, acoustic_scale, insertion_penalty) -> list[int]:
    """The lengths as a list, if all arguments of `viterbi` fit."""
    if log_likelihoods.dim() != 3 or log_likelihoods.dtype not in (torch.float32, torch.float64):
        found = f"{log_likelihoods.dtype} {list(log_likelihoods.shape)}"
        raise ValueError(f"log_likelihoods must be float32 or float64 [utterances, frames, states], not {found}.")
    utterances, frames, emissions = log_likelihoods.shape
    if emissions <= graph.states.max():
        raise ValueError(f"log_likelihoods has {emissions} states but the graph uses {int(graph.states.max()) + 1}.")
    if list(lengths.shape) != [utterances] or lengths.is_floating_point():
        raise ValueError(f"lengths must be integers [{utterances}], not {lengths.dtype} {list(lengths.shape)}.")
    counts = lengths.tolist()
    if any(not 0 <= count <= frames for count in counts):
        raise ValueError(f"lengths must lie in 0..{frames}, the frames of log_likelihoods, not {counts}.")
    for name, given in (("acoustic_scale", acoustic_scale), ("insertion_penalty", insertion_penalty)):
        values = torch.as_tensor(given)
        if list(values.shape) not in ([], [utterances]):
            raise ValueError(f"{name} must be one number, or {utterances} of them, not {list(values.shape)}.")
        if not torch.isfinite(values).all() or (name == "acoustic_scale" and not (values > 0).all()):
            what = "positive and finite" if name == "acoustic_scale" else "finite"
            raise ValueError(f"{name} must be {what}, not {given}.")
    peaks = [utterance[:count].amax() for utterance, count in zip(log_likelihoods, counts, strict=True) if count]
    if peaks and not (torch.stack(peaks) < math.inf).all():
        raise ValueError("log_likelihoods holds NaN or +inf.")
    return counts


class _Network(NamedTuple):
    """A graph laid out for the search: a row for every state, and before each chain one that holds who enters it.

    With that extra row, "move on" is a shift by one row for all states at once, the first of a chain included.
    """

    emission: torch.Tensor  # [R] emission index of every row, R = S + K; any for the rows of entry
    entries: torch.Tensor  # [K] the row before each chain
    exits: torch.Tensor  # [K] the row of each chain's last state
    chain_class: torch.Tensor  # [K]
    chain_log_prob: torch.Tensor  # [K, 1]
    between: torch.Tensor  # [C, C, B or 1], start [C, B or 1], end [C]: the bigram, with what else a chain costs
    start: torch.Tensor
    end: torch.Tensor
    members: list[torch.Tensor]  # the chains of every class
    groups: tuple[torch.Tensor, torch.Tensor]  # of `_groups`

    @classmethod
    def of(cls, graph: Graph, insertion_penalty: torch.Tensor, like: torch.Tensor) -> "_Network":
        """The network of a graph, in the dtype and on the device of `like`."""
        chains = torch.arange(len(graph.first))
        repeats = graph.last - graph.first + 1
        repeats_with_entry = torch.repeat_interleave(chains, repeats + 1)
        # Row r of chain k is state r - k - 1; the row of entry would be the last of the chain before.
        state = (torch.arange(len(repeats_with_entry)) - repeats_with_entry - 1).clamp_min(0)
        members = [torch.nonzero(graph.chain_class == c)[:, 0] for c in range(len(graph.start_log_prob))]
        return cls(
            emission=graph.states[state].to(like.device),
            entries=(graph.first + chains).to(like.device),
            exits=(graph.last + chains + 1).to(like.device),
            chain_class=graph.chain_class.to(like.device),
            chain_log_prob=graph.chain_log_prob[:, None].to(like),
            # Every frame is charged LOG_HALF. Going from chain to chain pays it once, as it should; the first entry
            # pays one too many, and the end one too few.
            between=(graph.class_log_prob[:, :, None] - insertion_penalty).to(like),
            start=(graph.start_log_prob[:, None] - insertion_penalty - LOG_HALF).to(like),
            end=(graph.end_log_prob + LOG_HALF).to(like),
            members=members,
            groups=tuple(index.to(like.device) for index in _groups(members)),
        )

    def best_of_classes(self, chains: torch.Tensor) -> torch.Tensor:
        """The maximum over the chains of every class: [K, B] -> [C, B]."""
        for index in self.groups:
            chains = chains.index_select(0, index.reshape(-1)).view(*index.shape, -1).amax(1)
        return chains


def _groups(members: list[torch.Tensor], width: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tables of indices, [G, <= width] and [C, ...], that find the maximum of every class in two steps.

    In one step every class would be as costly as the largest; torch's segmented maxima are slower than both.
    """
    pieces = [chains.split(width) for chains in members]
    ends = np.cumsum([len(p) for p in pieces])
    of_class = [torch.arange(end - len(p), end) for p, end in zip(pieces, ends, strict=True)]
    return _rectangle([piece for p in pieces for piece in p]), _rectangle(of_class)


def _rectangle(rows: list[torch.Tensor]) -> torch.Tensor:
    """Rows of different lengths as one tensor; the first index, repeated, fills the short ones."""
    longest = max(map(len, rows))
    return torch.stack([torch.cat([row, row[:1].expand(longest - len(row))]) for row in rows])


class _History(NamedTuple):
    """What the search remembers of every frame: the scores of paths that leave a chain after it."""

    chain_exit: torch.Tensor  # [T, K, B]
    entered: torch.Tensor  # int16 or int32 [T, K, B], the frame in which that path entered the chain
    class_exit: torch.Tensor  # [T, C, B], the best of each class

    @classmethod
    def empty(cls, frames: int, utterances: int, network: _Network) -> "_History":
        chains, classes = len(network.exits), len(network.end)
        new = network.end.new_empty
        small = torch.int16 if frames <= torch.iinfo(torch.int16).max else torch.int32
        shape = (frames, chains, utterances)
        return cls(new(shape), new(shape, dtype=small), new(frames, classes, utterances))


def _forward(log_likelihoods: torch.Tensor, network: _Network, scale: torch.Tensor) -> _History:
    """Carry the tokens through all frames.

    Utterances are columns, so that a row, and the choice of rows, is contiguous. Frames beyond an utterance's end
    change its column only, and nobody looks at them there.
    """
    utterances, frames, emissions = log_likelihoods.shape
    history = _History.empty(frames, utterances, network)
    new, rows, classes = log_likelihoods.new_empty, len(network.emission), len(network.end)
    score, next_score = (torch.full_like(new(rows, utterances), -math.inf) for _ in range(2))
    # Frames of entry are floats, exact up to 2^24, because lerp is 20 times as fast as where.
    entered, next_entered = (torch.zeros_like(score) for _ in range(2))
    moves, emitted = new(rows - 1, utterances), new(rows, utterances)
    emission, pairs = new(emissions, utterances), new(classes, classes, utterances)
    for t in range(frames):
        if t == 0:
            enter = network.start.expand(classes, utterances)
        else:
            enter = torch.add(network.between, history.class_exit[t - 1][:, None], out=pairs).amax(0)
        enter = enter.index_select(0, network.chain_class).add_(network.chain_log_prob)
        score.index_copy_(0, network.entries, enter)
        entered.index_fill_(0, network.entries, t)

        torch.gt(score[:-1], score[1:], out=moves)
        torch.maximum(score[:-1], score[1:], out=next_score[1:])
        torch.lerp(entered[1:], entered[:-1], moves, out=next_entered[1:])
        torch.mul(log_likelihoods[:, t].t(), scale, out=emission).add_(LOG_HALF)
        next_score.add_(torch.index_select(emission, 0, network.emission, out=emitted))
        score, next_score, entered, next_entered = next_score, score, next_entered, entered

        torch.index_select(score, 0, network.exits, out=history.chain_exit[t])
        history.entered[t] = entered.index_select(0, network.exits)
        history.class_exit[t] = network.best_of_classes(history.chain_exit[t])
    return history


def _trace(
    history: _History, counts: list[int], network: _Network, labels: Sequence[str]
) -> tuple[list[list[Decoded]], torch.Tensor]:
    """Follow the best path of every utterance back from its last frame; arguments and result as of `viterbi`."""
    chain_exit, entered, class_exit = (tensor.cpu().numpy() for tensor in history)
    between, end = network.between.expand(-1, -1, len(counts)).cpu().numpy(), network.end.cpu().numpy()
    members = [chains.numpy() for chains in network.members]
    paths: list[list[Decoded]] = [[] for _ in counts]
    scores = torch.full((len(counts),), -math.inf, dtype=network.end.dtype)
    for b, count in enumerate(counts):
        leave = class_exit[count - 1, :, b] + end if count else np.array([-math.inf])
        scores[b] = float(leave.max())
        while count and leave.max() > -math.inf:
            word_class = leave.argmax()
            chains = members[word_class]
            chain = chains[chain_exit[count - 1, chains, b].argmax()]
            start = int(entered[count - 1, chain, b])
            paths[b].append(Decoded(labels[chain], start, count))
            if start == 0:
                break
            leave = class_exit[start - 1, :, b] + between[:, word_class, b]
            count = start
        paths[b].reverse()
    return paths, scores.to(network.end.device)
