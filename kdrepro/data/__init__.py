"""Data sets: images as uint8 tensors with a fingerprint, and corpora of speech.

A corpus (see `kdrepro.speech.corpus.Corpus`) gives utterances; `kdrepro.frames.load_speech` makes frames of it.
"""

from kdrepro.data.digits import digits
from kdrepro.data.images import ImageData
from kdrepro.data.mnist import fetch_mnist, mnist
from kdrepro.speech.folder import speech_folder
from kdrepro.speech.synthesis import synthetic_speech
from kdrepro.speech.timit import timit

__all__ = ["ImageData", "digits", "fetch_mnist", "mnist", "speech_folder", "synthetic_speech", "timit"]
