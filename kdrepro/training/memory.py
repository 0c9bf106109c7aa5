"""How much memory this process may have."""

import math
import os
from pathlib import Path


def machine_memory() -> int:
    """Bytes of the machine, or as many of them as its container allows."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _memory_limit()))


def _memory_limit(file: Path = Path("/sys/fs/cgroup/memory.max")) -> float:
    """What a container allows its processes, in bytes; infinite where there is no limit, or no container."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # the file of no limit says "max"
        return math.inf
