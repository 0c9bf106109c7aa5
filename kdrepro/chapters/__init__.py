"""What the notebooks call: `start` gives a chapter its experiment, and `chNN_name` holds what only chapter NN needs."""

from kdrepro.chapters.start import beside, start

__all__ = ["beside", "start"]
