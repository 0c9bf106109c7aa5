"""The Jupyter kernel that chapters run in: the same whatever a user has set up for other notebooks."""

import os
import sys
from pathlib import Path
from typing import IO, Any

import matplotlib
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

# To the C library of most Linux systems (others ignore it): keep large blocks that are freed, and take memory in large
# pages. Else each step of a training is given fresh memory, which the system clears first (benchmarks/memory.py).
MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {"mmap_threshold": 2**25, "trim_threshold": 2**32, "top_pad": 2**26, "hugetlb": 1}.items()
)


def of_this_python(errors: IO[bytes], folder: Path) -> type[AsyncKernelManager]:
    """A kernel of this very Python, for nbclient: one that a user has registered as python3 may lack this package.

    errors: an open file, which takes what the kernel's process writes beside the notebook. folder: an empty one in the
    place of the user's IPython folder, whose start-up files may set other defaults (of PyTorch, say).
    """
    settings = {
        "IPYTHONDIR": str(folder),
        "PYTHONSTARTUP": "",
        "MATPLOTLIBRC": os.path.join(matplotlib.get_data_path(), "matplotlibrc"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # another leaves pages without figures
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", MEMORY),
    }

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            # Without -P and ignore-cwd, a random.py in the working directory would be taken for Python's own.
            argv = [sys.executable, "-P", "-m", "ipykernel_launcher", "--ignore-cwd", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, language="python", display_name="Python 3", env=settings)

        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(stderr=errors, **options)

    return Kernel
