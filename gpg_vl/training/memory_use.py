"""Measure the memory that a process uses, for the row of a step."""

import os
import resource
import sys
from pathlib import Path

import torch

_RESIDENT = Path("/proc/self/statm")


def memory_gb(device: torch.device) -> float:
    """Return the memory that this process uses, in GB (10^9 bytes).

    On a GPU: the largest amount that tensors took since the last call. On a CPU: what the process
    holds now; where the system does not say that, the most that it has held so far.
    """
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e9
    return _resident_bytes() / 1e9


def _resident_bytes() -> int:
    if _RESIDENT.exists():
        pages = int(_RESIDENT.read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # Linux counts in KiB
