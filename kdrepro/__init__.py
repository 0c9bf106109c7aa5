"""kdrepro: Hinton, Vinyals & Dean (2015), "Distilling the Knowledge in a Neural Network", number by number."""

import getpass
import os
import tempfile

__version__ = "0.1.0"


def _cache_of_nameless_users() -> None:
    """Name PyTorch's cache where the user id has no name, as in `docker run --user 12345`.

    PyTorch names it after the user at an optimiser's first step, and would end there in getpass's error.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # by Python's version and system
        folder = os.path.join(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)


_cache_of_nameless_users()
