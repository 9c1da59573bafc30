"""A run cannot be lost: killed at seeded random moments, resumed each time, it ends with the
weights of the undisturbed run.

Children are forked from this process, so a run costs seconds and not the imports; SIGKILL is real.
A moment is the n-th call of one of the functions below: every one of them is hit once, and,
nightly, some of them at other moments.
"""

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gpg_vl import run_folder
from gpg_vl.config import loading
from gpg_vl.evaluation import evaluate
from gpg_vl.experiment import Experiment
from gpg_vl.policy import load
from gpg_vl.rollout import collect, transformers_engine
from gpg_vl.run_folder import kept_pictures
from gpg_vl.training import checkpoint, learner, loop, sft
from gpg_vl.verifiers import dispatch
from tests.training.test_train import (
    CARRYING,
    HERE,
    metrics,
    of_the_machine,
    rollouts,
    run,
    same,
    timeless,
)

PHASES: dict[str, tuple[object, str]] = {
    "imitate": (sft.Imitation, "__call__"),
    "evaluate": (evaluate, "run_benchmark"),
    "round": (collect, "sample_round"),
    "sample": (transformers_engine.TransformersEngine, "_draw"),
    "score": (dispatch.VerifierSet, "judge"),
    "update": (learner.Learner, "_step"),
    "begin logs": (run_folder.RunFolder, "begin"),
    "write metrics": (run_folder.RunFolder, "metrics"),
    "write held out": (run_folder.RunFolder, "held_out"),
    "keep pictures": (kept_pictures.KeptPictures, "_write"),
    "save": (checkpoint, "save"),
    "write rollouts": (run_folder.RunFolder, "rollouts"),
    "write weights": (load.Policy, "save"),
    "write optimizer": (torch, "save"),
    "sync": (checkpoint, "_sync"),
    "prune": (checkpoint, "prune"),
}
NIGHTLY = 8
"""Further kills, at random phases."""
KNOBS = ("steps=4", "checkpoint.every=1", "warmup.steps=40", *CARRYING)


def child(
    folder: Path,
    *,
    resume: bool = False,
    moment: tuple[str, int] | None = None,
    count: Path | None = None,
) -> int:
    """Run the small config in a fork, killed at the n-th call of a phase; its wait status."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1]
    try:
        calls: Counter[str] = Counter()
        for phase in PHASES:
            watch(phase, calls, moment)
        given = loading.load(str(HERE / "small.yaml"), [f"folder={folder}", *KNOBS])
        begun = folder / "small" if resume else None
        loop.train(Experiment.resolve(given), resume=begun, log=lambda line: None)
        if count:
            count.write_text(json.dumps(calls))
    except BaseException as error:
        print(repr(error), file=sys.__stderr__)
        os._exit(1)
    os._exit(0)


def watch(phase: str, calls: Counter[str], moment: tuple[str, int] | None) -> None:
    owner, name = PHASES[phase]
    original: Callable[..., object] = getattr(owner, name)

    def watched(*args: object, **options: object) -> object:
        calls[phase] += 1
        if moment == (phase, calls[phase]):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(owner, name, watched)


def moments(calls: dict[str, int]) -> list[tuple[str, int]]:
    """A moment of every phase, then random ones."""
    draw = random.Random(7)
    phases = [*PHASES, *(draw.choice(list(PHASES)) for _ in range(NIGHTLY))]
    return [(phase, draw.randint(1, calls[phase])) for phase in phases]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    # what is imported here, no child imports again
    run(folder, "name=imports", "steps=0", "warmup.steps=1", "evaluation.benchmark=null")
    assert child(folder, count=folder / "calls.json") == 0
    calls = json.loads((folder / "calls.json").read_text())
    assert set(calls) == set(PHASES)
    return folder / "small", calls


@pytest.mark.parametrize(
    "number",
    [
        *range(len(PHASES)),
        *(pytest.param(len(PHASES) + extra, marks=pytest.mark.nightly) for extra in range(NIGHTLY)),
    ],
)
def test_killed_and_resumed_is_as_if_nothing_had_happened(number, undisturbed, tmp_path):
    whole, calls = undisturbed
    moment = moments(calls)[number]
    assert os.WTERMSIG(child(tmp_path, moment=moment)) == signal.SIGKILL
    begun = bool(run_folder.complete_checkpoints(tmp_path / "small"))
    # nothing saved yet: the same command starts again
    assert child(tmp_path, resume=begun) == 0, moment
    resumed = tmp_path / "small"
    assert same(whole / "checkpoints" / "000004", resumed / "checkpoints" / "000004"), moment
    for step in range(1, 5):
        assert rollouts(whole, step) == rollouts(resumed, step), (moment, step)
    kept = [
        [{key: row[key] for key in row if not of_the_machine(key)} for row in metrics(run)]
        for run in (whole, resumed)
    ]
    assert kept[0] == kept[1], moment
    for kind in ("held_out", "warmup"):
        assert timeless(whole, kind) == timeless(resumed, kind), (moment, kind)
    # a run that was killed while it pruned may have more
    assert scores(whole).items() <= scores(resumed).items(), moment
    for name in ("pictures.jsonl", "images"):
        assert contents(whole / name) == contents(resumed / name), (moment, name)


def scores(run: Path) -> dict[str, float | None]:
    saved = run_folder.complete_checkpoints(run)
    return {path.name: run_folder.score_of(path) for path in saved}


def contents(path: Path) -> dict[str, bytes]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}
