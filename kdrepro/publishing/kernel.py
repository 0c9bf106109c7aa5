"""The Jupyter kernel that chapters run in."""

import sys
from typing import IO, Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager


def of_this_python(errors: IO[bytes]) -> type[AsyncKernelManager]:
    """A kernel of this very Python, for nbclient: one that a user has registered as python3 may lack this package.

    errors: an open file, which takes what the kernel's process writes beside the notebook.
    """

    class Kernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=argv, language="python", display_name="Python 3")

        async def start_kernel(self, **options: Any) -> None:
            await super().start_kernel(stderr=errors, **options)

    return Kernel
