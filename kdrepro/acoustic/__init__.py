"""From frames of speech to error rates: cases, soft targets, decoding graphs, search.

`load_speech` makes frames of a corpus, `FrameBatches` cases of frames, `Recognizer` words or phones of a network's
answers.
"""

from kdrepro.acoustic.batches import FrameBatches
from kdrepro.acoustic.frames import Frames, Speech, load_speech, share_of
from kdrepro.acoustic.graphs import Entry, Graph, phone_loop, word_graph
from kdrepro.acoustic.posteriors import accuracy, by_utterance, mean_log_probabilities
from kdrepro.acoustic.recognition import Recognizer
from kdrepro.acoustic.soft_targets import SoftTargets, store_soft_targets
from kdrepro.acoustic.viterbi import decode, scaled_log_likelihoods, viterbi

__all__ = [
    "Entry",
    "FrameBatches",
    "Frames",
    "Graph",
    "Recognizer",
    "SoftTargets",
    "Speech",
    "accuracy",
    "by_utterance",
    "decode",
    "load_speech",
    "mean_log_probabilities",
    "phone_loop",
    "scaled_log_likelihoods",
    "share_of",
    "store_soft_targets",
    "viterbi",
    "word_graph",
]
