"""Compare the group forward with plain rows."""

from collections.abc import Sequence
from typing import Any

import torch
from case import SMALL, Case, Figures, questions, random_completions, relative_error
from torch import Tensor

from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward

MAX_TIMES_ROUNDING = 10
"""Allowed error of the group forward, as a multiple of the rounding: the difference of plain rows
from themselves in another batch."""


def exactness(case: Case, *, dtype: str) -> Figures:
    """Compare the group forward with plain rows, and plain rows with themselves in other batches.

    Raises:
        ArithmeticError: the difference is larger than rounding explains.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    policy = case.policy(SMALL, dtype)
    asked: list[PromptAndAnswers] = []
    one_by_one: list[list[PromptAndAnswers]] = []
    for prompt in questions(policy, 1, "count", "add"):
        completions = random_completions(policy, 4, 6 if case.toy else 48)
        asked.append((prompt, completions))
        for completion in completions:
            one_by_one.append([(prompt, [completion])])
    group, plain = GroupForward(policy, temperature=0.9), UnsharedForward(policy, temperature=0.9)
    expected = _scores_and_gradients(policy, plain, [asked])
    alone = _scores_and_gradients(policy, plain, one_by_one)
    found = _scores_and_gradients(policy, group, [asked])
    eps = torch.finfo(policy.dtype).eps
    for what, own, reference, again in zip(
        ("log-probabilities", "gradient"), found, expected, alone, strict=True
    ):
        error, rounding = relative_error(own, reference), relative_error(again, reference)
        yield {f"{what}: relative error": error, f"{what}: of plain rows alone": rounding}
        if not error <= MAX_TIMES_ROUNDING * max(rounding, eps):
            raise ArithmeticError(
                f"{what}: the group forward differs from plain rows by {error:.1e}, plain rows "
                f"from themselves by {rounding:.1e}; expected at most {MAX_TIMES_ROUNDING} times "
                "that. Train with learner.shared_prefix=false on this GPU, and report it"
            )


def _scores_and_gradients(
    policy: Policy, forward: Any, batches: Sequence[Sequence[PromptAndAnswers]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return log-probabilities, and the gradient of a weighted sum of them.

    Each token has a weight of its own, so an error in one token cannot cancel that of another.
    """
    policy.model.zero_grad(set_to_none=True)
    values, start = list[Tensor](), 0
    for asked in batches:

        def weighted_sum(logprobs_n: Tensor, index_n: Tensor, start: int = start) -> Tensor:
            return (logprobs_n * torch.cos(1.0 + start + index_n)).sum()

        scores = forward(asked, weighted_sum)
        scores.loss.backward()
        values.append(scores.logprobs_N.detach())
        start += len(values[-1])
    gradients: list[Tensor] = []
    for parameter in policy.model.parameters():
        if parameter.grad is not None:
            gradients.append(parameter.grad)
    return [torch.cat(values)], gradients
