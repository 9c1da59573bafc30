"""Run what several processes do together, all in one launch.

A small run, gradients of given groups, an update for which one process has too little memory, and
a run of which one process loses its engine.
`python -m tests.two_ranks FOLDER` under torchrun; test_processes starts two, and does the same in
its own process for one.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from gpg_vl.config import loading
from gpg_vl.config.schema import OptimizerConfig, PolicyConfig
from gpg_vl.data.recipes.digits import Task
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.methods.gpg import Gpg
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy
from gpg_vl.training.learner import Learner
from gpg_vl.training.loop import train
from gpg_vl.training.processes import Processes, start_accelerator
from gpg_vl.types import Group
from tests.asking import make_learner, prompts, random_completions, take_update
from tests.hand_made import group

HERE = Path(__file__).parent
KNOBS = (
    "rollout.max_rounds=1",
    "steps=2",
    "evaluation.benchmark=null",
    "policy.dtype=float64",
    "warmup.steps=40",
    "learner.rehearse=true",
)

INFORMATIVE, ZERO_VARIANCE = [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]
CASES: dict[str, list[list[tuple[Task, list[float]]]]] = {
    "mixed": [
        [("count", INFORMATIVE), ("add", INFORMATIVE)],
        [("compare", INFORMATIVE), ("box", ZERO_VARIANCE)],
    ],
    "one rank has zero variance": [
        [("count", INFORMATIVE), ("box", INFORMATIVE)],
        [("choice", ZERO_VARIANCE), ("add", ZERO_VARIANCE)],
    ],
    "one rank has lost all its rows": [
        [("count", INFORMATIVE), ("add", INFORMATIVE)],
        [],
    ],
    "one rank has only text": [
        [("count", INFORMATIVE), ("compare", INFORMATIVE)],
        [("add", INFORMATIVE), ("add", INFORMATIVE)],
    ],
}
"""What each of two ranks holds: (task, rewards) of its groups."""
EXACT = PolicyConfig(vision="full", dtype="float64")
BUDGETS = (1 << 20, 1)
"""Tokens at once: everything, and one completion of one group."""


def main(folder: Path) -> None:
    small_run(folder)
    write_gradients(folder)
    out_of_memory_on_one(folder)
    rounded_weights(folder)
    lost_on_one(folder)
    start_accelerator().wait_for_everyone()  # gloo aborts now and then whom the other has left


def small_run(folder: Path, *knobs: str) -> Path:
    """Take two steps of the small config and return the run folder."""
    config = loading.load(str(HERE / "small.yaml"), [f"folder={folder}", *KNOBS, *knobs])
    return train(Experiment.resolve(config), log=lambda line: None)


def lost_on_one(folder: Path) -> None:
    """Start a run of which the second process loses its engine.

    Every process writes down why it stopped.
    """
    try:
        small_run(
            folder, "name=lost", "rollout.engine=lost_engine.py:LostOnOne", "checkpoint.every=100"
        )
    except UserError as error:
        (folder / f"stopped.rank{Processes(start_accelerator()).rank}.txt").write_text(str(error))


def write_gradients(folder: Path) -> None:
    accelerator = start_accelerator()
    for place, case in enumerate(CASES):
        for tokens in BUDGETS:
            gradients = gradients_of(case, tokens, accelerator)
            if accelerator.is_main_process:
                torch.save(gradients, folder / f"{place}-{tokens}.pt")


def out_of_memory_on_one(folder: Path) -> None:
    """Take one update of which the second process can compute one group at a time, not two.

    Every process writes down its gradients and the metrics of the update.
    """
    accelerator = start_accelerator()
    learner, groups = learner_and_groups("one rank has only text", BUDGETS[0], accelerator)
    forward = learner.forward.forward
    tried: list[int] = []

    def small_memory(asked: Any, loss: Any = None) -> Any:
        tried.append(len(asked))
        if len(asked) > 1 and not accelerator.is_main_process:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return forward(asked, loss)

    learner.forward.forward = small_memory  # type: ignore[method-assign]
    metrics = take_update(learner, groups).metrics
    found = {"gradients": named_gradients(learner), "metrics": dict(metrics), "tried": tried}
    torch.save(found, folder / f"memory.rank{accelerator.process_index}.pt")


def rounded_weights(folder: Path) -> None:
    """Take two updates of weights in bfloat16, and write down those of every process."""
    accelerator = start_accelerator()
    learner, groups = learner_and_groups(
        "mixed", 1, accelerator, PolicyConfig(vision="full", dtype="bfloat16"), torch.bfloat16
    )
    for _ in range(2):
        assert not take_update(learner, groups).skipped
    learner.optimizer.zero_grad()
    weights = learner.forward.model.state_dict()
    torch.save(weights, folder / f"rounded.rank{accelerator.process_index}.pt")


def gradients_of(
    case: str, tokens: int, accelerator: Accelerator
) -> dict[str, torch.Tensor | None]:
    """Return the gradients of one update on a case's groups, spread over all processes."""
    learner, groups = learner_and_groups(case, tokens, accelerator)
    assert not take_update(learner, groups).skipped
    return named_gradients(learner)


def named_gradients(learner: Learner) -> dict[str, torch.Tensor | None]:
    return {name: parameter.grad for name, parameter in learner.forward.model.named_parameters()}


def learner_and_groups(
    case: str,
    tokens: int,
    accelerator: Accelerator,
    policy_config: PolicyConfig = EXACT,
    weights: torch.dtype = torch.float64,
) -> tuple[Learner, tuple[Group, ...]]:
    """Make a learner, and this process's groups of a case."""
    processes = Processes(accelerator)
    policy = load_policy(policy_config, seed=0)
    policy.model.to(weights)
    if processes.count == 1:
        held = [own for rank in CASES[case] for own in rank]
    else:
        held = CASES[case][processes.rank]
    first = 0 if processes.rank == 0 else len(CASES[case][0])
    groups = tuple(
        group(
            rewards,
            random_completions(4, longest=7, seed=first + place),
            asked=prompts(policy, [task])[0],
        )
        for place, (task, rewards) in enumerate(held)
    )
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens)
    config = OptimizerConfig(clip_norm=1e9)
    estimator = Gpg(min_informative=0.0)
    learner = make_learner(forward, estimator, config, accelerator=accelerator, tokens=tokens)
    return learner, groups


if __name__ == "__main__":
    main(Path(sys.argv[1]))
