"""Is it exact: the group forward against plain rows."""

from collections.abc import Sequence
from typing import Any

import torch
from case import SMALL, Case, Told, drawn, questions, relative_error
from torch import Tensor

from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward

UNPROVOKED = 10
"""The group forward may be off from plain rows by so many times what plain rows are off from themselves in another batch."""


def exactness(case: Case, *, dtype: str) -> Told:
    """The group forward against plain rows, beside what plain rows themselves are off in another batch.

    Raises:
        ArithmeticError: it is off by more than rounding explains.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    policy = case.policy(SMALL, dtype)
    asked = [(prompt, drawn(policy, 4, 6 if case.toy else 48)) for prompt in questions(policy, 1, "count", "add")]
    group, plain = GroupForward(policy, temperature=0.9), UnsharedForward(policy, temperature=0.9)
    expected = _scores_and_gradients(policy, plain, [asked])
    alone = _scores_and_gradients(policy, plain, [[(prompt, [each])] for prompt, completions in asked for each in completions])
    found = _scores_and_gradients(policy, group, [asked])
    eps = torch.finfo(policy.dtype).eps
    for what, mine, theirs, other in zip(("log-probabilities", "gradient"), found, expected, alone, strict=True):
        error, noise = relative_error(mine, theirs), relative_error(other, theirs)
        yield {f"{what}: relative error": error, f"{what}: of plain rows alone": noise}
        if not error <= UNPROVOKED * max(noise, eps):
            raise ArithmeticError(
                f"{what}: the group forward is off from plain rows by {error:.1e}, plain rows from themselves by {noise:.1e}; expected at "
                f"most {UNPROVOKED} times that. Train with learner.shared_prefix=false on this card, and report it"
            )


def _scores_and_gradients(policy: Policy, forward: Any, batches: Sequence[Sequence[PromptAndAnswers]]) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities, and the gradient of a sum of them in which each token has a sign and a weight of its own."""
    policy.model.zero_grad(set_to_none=True)
    values, start = list[Tensor](), 0
    for asked in batches:
        scores = forward(asked, lambda logprobs_n, line_n, start=start: (logprobs_n * torch.cos(1.0 + start + line_n)).sum())
        scores.loss.backward()
        values.append(scores.logprobs_N.detach())
        start += len(values[-1])
    return [torch.cat(values)], [parameter.grad for parameter in policy.model.parameters() if parameter.grad is not None]
