"""Data sets: images as uint8 tensors with a fingerprint, and corpora of speech.

A corpus (see `kdrepro.speech.corpus.Corpus`) gives utterances; `acoustic.frames.load_speech` makes frames of it.
"""

from kdrepro.data.arrays import idx_images, npz_images
from kdrepro.data.characters import glyph_classes
from kdrepro.data.digits import digits
from kdrepro.data.folders import image_folder
from kdrepro.data.glyphs import glyphs
from kdrepro.data.images import ImageData
from kdrepro.data.mnist import fetch_mnist, mnist
from kdrepro.data.tiny_imagenet import fetch_tiny_imagenet, tiny_imagenet, tiny_imagenet_wnids
from kdrepro.speech.folder import speech_folder
from kdrepro.speech.synthesis import synthetic_speech
from kdrepro.speech.timit import timit

__all__ = [
    "ImageData",
    "digits",
    "fetch_mnist",
    "fetch_tiny_imagenet",
    "glyph_classes",
    "glyphs",
    "idx_images",
    "image_folder",
    "mnist",
    "npz_images",
    "speech_folder",
    "synthetic_speech",
    "timit",
    "tiny_imagenet",
    "tiny_imagenet_wnids",
]
