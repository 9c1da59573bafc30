"""Measure what a training step costs: seconds by phase, memory, and operations.

Seconds are wall and CPU seconds. Memory is counted above what was in use once everything was
loaded.
"""

import ctypes
import gc
import resource
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpg_vl.rollout.timer import Timer

MEGABYTE = 2**20
_STATUS = Path("/proc/self/status")


class Profiler(Timer):
    """Measures laps (steps): one of warm-up, then `laps` that count.

    One more lap can follow whose operations are counted. It is a `Timer` that reads the process's
    CPU time as well: on a machine that others use, wall seconds depend on the others' work.
    """

    def __init__(self, laps: int, *, count_operations: bool = False) -> None:
        super().__init__()
        self.timed = laps
        self.counter = FlopCounterMode(display=False) if count_operations else None
        self.laps = 1 + laps + bool(self.counter)
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)
        self.done: list[tuple[dict[str, float], dict[str, float]]] = []

    @contextmanager
    def __call__(self, phase: str) -> Generator[None, None, None]:
        """Add the wall and CPU seconds of the `with` block to `phase`."""
        wall, cpu = _now()
        try:
            with super().__call__(phase):
                yield
        finally:
            end_wall, end_cpu = _now()
            self.wall[phase] += end_wall - wall
            self.cpu[phase] += end_cpu - cpu

    def start(self) -> None:
        """Begin the first lap; memory is counted above what is in use now."""
        release_unused_memory()
        self.loaded = memory()
        reset_peak()
        self._begin_lap()

    def lap(self) -> None:
        """End a step and begin the next."""
        wall, cpu = _now()
        self.wall["step"], self.cpu["step"] = wall - self.begun[0], cpu - self.begun[1]
        self.done.append((dict(self.wall), dict(self.cpu)))
        if self.counter and len(self.done) == self.laps:
            self.counter.__exit__(None, None, None)
        self.peak = peak()  # before the counter starts, because it keeps tensors alive
        if self.counter and len(self.done) == self.laps - 1:
            self.counter.__enter__()
        self._begin_lap()

    def _begin_lap(self) -> None:
        self.wall.clear()
        self.cpu.clear()
        self.begun = _now()

    def result(self) -> dict[str, object]:
        """Return the medians over the laps that count, and the memory."""
        laps = self.done[1 : 1 + self.timed]
        result: dict[str, object] = {
            "laps": len(laps),
            "wall": _medians([wall for wall, _ in laps]),
            "cpu": _medians([cpu for _, cpu in laps]),
            "loaded_mb": round(self.loaded / MEGABYTE, 1),
            "peak_mb": round((self.peak - self.loaded) / MEGABYTE, 1),
        }
        if self.counter:
            result["operations"] = self.counter.get_total_flops()
        return result


def _medians(laps: list[dict[str, float]]) -> dict[str, float]:
    medians: dict[str, float] = {}
    for phase in laps[0]:
        medians[phase] = round(median(lap.get(phase, 0.0) for lap in laps), 4)
    return medians


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter(), process_time()


def memory() -> int:
    """Return the bytes in use now: on the GPU if there is one, else resident in this process."""
    if torch.cuda.is_available():
        return torch.cuda.memory_allocated()
    return _resident("VmRSS")


def peak() -> int:
    """Return the largest number of bytes in use since `reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM")


def reset_peak() -> None:
    """Count peaks from here on.

    Linux can reset them (proc(5), clear_refs). Elsewhere the peak of loading stays included.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def release_unused_memory() -> None:
    """Return freed memory to the operating system (malloc_trim(3) of glibc).

    Otherwise a step would reuse what loading has freed, and its own use would not be seen.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def matrix_rate() -> float:
    """Return the best rate of large square bfloat16 matrix products on this device, in TFLOP/s."""
    on_gpu = torch.cuda.is_available()
    device, size = ("cuda", 8192) if on_gpu else ("cpu", 512)
    a = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    b = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    best = float("inf")
    for _ in range(10):
        start = perf_counter()
        torch.mm(a, b)
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, perf_counter() - start)
    return round(2 * size**3 / best / 1e12, 3)


def _resident(field: str) -> int:
    """Return the bytes of a field of /proc/self/status; the peak if there is no such file."""
    if not _STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, others kilobytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
