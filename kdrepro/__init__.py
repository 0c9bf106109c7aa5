"""kdrepro: Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", number by number."""

__version__ = "0.1.0"
