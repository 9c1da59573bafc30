"""Compute with the policy as it was before the first step, without a second model.

A divergence (KL) is measured from there. Only what is trained differs: its first values are kept,
and take the place of the present ones for a while. Where adapters began at zero, nothing is kept:
without them the model is what it was.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The first policy, computed by the forward of the present one."""

    forward: GroupForward | UnsharedForward
    first: Mapping[str, Tensor] | None
    """First values of the parameters that are trained, by name; None = adapters that began at
    zero."""

    @torch.no_grad()
    def logprobs(self, asked: Sequence[PromptAndAnswers]) -> Tensor:
        """Return [N]: the log-probabilities of all completion tokens, as the forward does."""
        with self._as_it_was():
            return self.forward(asked).logprobs_N

    @contextmanager
    def _as_it_was(self) -> Generator[None, None, None]:
        """Give the model its first values, for a while."""
        policy = self.forward.policy
        if self.first is None:
            assert policy.adapters is not None
            with policy.adapters.off():
                yield
            return
        parameters = dict(policy.model.named_parameters())
        present = {name: parameters[name].data for name in self.first}
        try:
            for name, value in self.first.items():
                parameters[name].data = value
            yield
        finally:
            for name, value in present.items():
                parameters[name].data = value


def first_values(policy: Policy) -> dict[str, Tensor]:
    """Return copies of the parameters that are trained, by name."""
    values: dict[str, Tensor] = {}
    for name, parameter in policy.model.named_parameters():
        if parameter.requires_grad:
            values[name] = parameter.detach().clone()
    return values
