"""Updates on given groups, spread over however many processes there are; the main one writes the gradients. Run by test_distributed."""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator

from gpg_vl.config import OptimizerConfig, PolicyConfig
from gpg_vl.estimators import Gpg
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy
from gpg_vl.recipes.digits import Task
from gpg_vl.training.distributed import Ranks, start_accelerator
from gpg_vl.training.learner import Learner

from .asking import group, prompts, random_completions

SPEAKS, SILENT = [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]
CASES: dict[str, list[list[tuple[Task, list[float]]]]] = {
    "mixed": [[("count", SPEAKS), ("add", SPEAKS)], [("compare", SPEAKS), ("box", SILENT)]],
    "one rank is silent": [[("count", SPEAKS), ("box", SPEAKS)], [("choice", SILENT), ("add", SILENT)]],
    "one rank has only text": [[("count", SPEAKS), ("compare", SPEAKS)], [("add", SPEAKS), ("add", SPEAKS)]],
}
"""What each of two ranks holds: (task, rewards) of its groups."""
BUDGETS = (1 << 20, 1)
"""Tokens at once: everything, and one completion of one group."""


def main(folder: Path) -> None:
    accelerator = start_accelerator()
    for place, case in enumerate(CASES):
        for tokens in BUDGETS:
            gradients = one_step(case, tokens, accelerator)
            if accelerator.is_main_process:
                torch.save(gradients, folder / f"{place}-{tokens}.pt")


def one_step(case: str, tokens: int, accelerator: Accelerator) -> dict[str, torch.Tensor | None]:
    ranks = Ranks(accelerator)
    policy = load_policy(PolicyConfig(vision="full", dtype="float64"), seed=0)
    held = [own for rank in CASES[case] for own in rank] if ranks.count == 1 else CASES[case][ranks.rank]
    first = 0 if ranks.rank == 0 else len(CASES[case][0])
    groups = tuple(
        group(prompts(policy, [task])[0], random_completions(4, longest=7, seed=first + place), rewards)
        for place, (task, rewards) in enumerate(held)
    )
    forward = GroupForward(policy, 1.0, tokens_at_once=tokens)
    learner = Learner(forward, OptimizerConfig(clip_norm=1e9), accelerator, total_steps=1, tokens_per_microbatch=tokens)
    update = learner.update(groups, Gpg(min_informative=0.0), *ranks.matrices(groups), version=0)
    assert not update.skipped
    return {name: parameter.grad for name, parameter in policy.model.named_parameters()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
