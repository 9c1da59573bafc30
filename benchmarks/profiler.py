"""What a step costs: wall and CPU seconds by phase, memory above what was there once everything was loaded, operations counted."""

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


class Meter(Timer):
    """Measures laps (steps): one of warm-up, `laps` that count, and where wanted one more whose operations are counted.

    It is a `Clock` that reads the process's CPU time as well. On a machine that others use, CPU seconds are the honest ones.
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
        """`with meter("sample"): ...`"""
        wall, cpu = _now()
        try:
            with super().__call__(phase):
                yield
        finally:
            end_wall, end_cpu = _now()
            self.wall[phase] += end_wall - wall
            self.cpu[phase] += end_cpu - cpu

    def start(self) -> None:
        """Everything is loaded: memory counts from here, and the first lap begins."""
        give_back_unused()
        self.loaded = memory()
        forget_peak()
        self._begin()

    def lap(self) -> None:
        """A step is over, the next one begins."""
        wall, cpu = _now()
        self.wall["step"], self.cpu["step"] = wall - self.begun[0], cpu - self.begun[1]
        self.done.append((dict(self.wall), dict(self.cpu)))
        if self.counter and len(self.done) == self.laps:
            self.counter.__exit__(None, None, None)
        self.peak = peak()  # before the counter, which keeps tensors alive
        if self.counter and len(self.done) == self.laps - 1:
            self.counter.__enter__()
        self._begin()

    def _begin(self) -> None:
        self.wall.clear()
        self.cpu.clear()
        self.begun = _now()

    def result(self) -> dict[str, object]:
        """Medians over the laps that count."""
        laps = self.done[1 : 1 + self.timed]
        counted = {"operations": self.counter.get_total_flops()} if self.counter else {}
        return {
            "laps": len(laps),
            "wall": _medians([wall for wall, _ in laps]),
            "cpu": _medians([cpu for _, cpu in laps]),
            "loaded_mb": round(self.loaded / MEGABYTE, 1),
            "peak_mb": round((self.peak - self.loaded) / MEGABYTE, 1),
            **counted,
        }


def _medians(laps: list[dict[str, float]]) -> dict[str, float]:
    return {phase: round(median(lap.get(phase, 0.0) for lap in laps), 4) for phase in laps[0]}


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter(), process_time()


def memory() -> int:
    """Bytes in use now: of the card where there is one, else resident in this process."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else _resident("VmRSS")


def peak() -> int:
    """The most bytes that were in use since `forget_peak`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _resident("VmHWM")


def forget_peak() -> None:
    """Count peaks from here on. Linux can forget (proc(5), clear_refs); elsewhere what loading took stays in."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def give_back_unused() -> None:
    """Let glibc hand freed memory back (malloc_trim(3)), so that what loading left free does not hide what a step takes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def matrix_rate() -> float:
    """The best rate of large square bfloat16 matrix products on this device, in TFLOP/s."""
    cuda = torch.cuda.is_available()
    size = 8192 if cuda else 512
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda" if cuda else "cpu") for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = perf_counter()
        torch.mm(a, b)
        if cuda:
            torch.cuda.synchronize()
        best = min(best, perf_counter() - start)
    return round(2 * size**3 / best / 1e12, 3)


def _resident(field: str) -> int:
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
