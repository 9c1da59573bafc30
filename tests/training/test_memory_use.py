"""The memory of a process: near what the system says, and the peak of a GPU since the last time."""

import resource
import sys

import pytest
import torch

from gpg_vl.training import memory_use
from gpg_vl.training.memory_use import memory_gb

CPU = torch.device("cpu")


def test_a_process_on_a_cpu_grows_by_what_it_allocates():
    before = memory_gb(CPU)
    held = bytearray(b"x") * 200_000_000
    assert memory_gb(CPU) - before == pytest.approx(0.2, abs=0.05)
    assert memory_gb(CPU) < 1000
    del held


def test_without_proc_it_is_the_most_so_far(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_use, "_RESIDENT", tmp_path / "none")
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert most / 1e9 <= memory_gb(CPU) <= most / 1e9 + 0.05


def test_on_a_gpu_it_is_the_peak_since_the_last_call(monkeypatch):
    peaks = [3_000_000_000]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peaks[-1])
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda device: peaks.append(1_000_000_000)
    )
    gpu = torch.device("cuda", 0)
    assert [memory_gb(gpu), memory_gb(gpu)] == [3.0, 1.0]
