"""Measure in bytes what a process holds after a step, to compare the plan with it."""

from typing import Any

from gpg_vl.config.schema import Tiny
from gpg_vl.methods.gpg import Gpg
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.training.learner import Learner
from tests.asking import make_learner, prompts, random_completions, take_update
from tests.hand_made import group

MID = Tiny(hidden=512, layers=6, vision_hidden=256, vision_layers=4)
"""About 20 million parameters."""


def one_step(policy: Any) -> Learner:
    """Return a learner that has taken one step on two groups, one of them with a picture."""
    asked = prompts(policy, ["count", "add"])
    groups = tuple(
        group([1.0, 0.0], random_completions(2, longest=5, seed=seed), asked=prompt)
        for seed, prompt in enumerate(asked)
    )
    learner = make_learner(GroupForward(policy, 1.0), Gpg(min_informative=0.0), tokens=1 << 14)
    assert not take_update(learner, groups).skipped
    return learner


def held(policy: Any, learner: Learner) -> dict[str, int]:
    """Return the bytes of the tensors that stay, under the names of the plan."""
    parameters = list(policy.model.parameters())
    wide = f"float{8 * parameters[0].element_size()}"
    optimizer: Any = learner.optimizer
    states = [value for state in optimizer.state.values() for value in state.values()]
    return {
        f"weights, trained ({wide})": sum(
            parameter.nbytes for parameter in parameters if parameter.requires_grad
        ),
        f"weights, frozen ({wide})": sum(
            parameter.nbytes for parameter in parameters if not parameter.requires_grad
        ),
        "gradients": sum(
            parameter.grad.nbytes for parameter in parameters if parameter.grad is not None
        ),
        "AdamW's two moments": sum(value.nbytes for value in states),
    }
