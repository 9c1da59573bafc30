"""Sample in this process with the trainer's own weights.

The vision tower and the prompt are computed once per group; where the model's layers allow it, its
G completions share one copy of the prompt's keys and values.

Each token takes one uniform number of its completion's own random stream and inverts the cumulative
distribution. So the tokens of a completion depend only on its seed, not on the rest of the batch
(exactly in float64; in float32 up to rounding of the logits).

Shape letters: P prompts, R rows per prompt (unfinished completions, at most G), D width,
V vocabulary.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gpg_vl.errors import UserError
from gpg_vl.policy.decoding import RepeatedRows, SharedRows, begin
from gpg_vl.policy.load import Policy
from gpg_vl.policy.out_of_memory import free_memory_of, is_out_of_memory
from gpg_vl.policy.plain_forward import allowed_logits
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.types import Completion, Prompt


@dataclass(slots=True)
class _PartialCompletion:
    """A completion that is being sampled."""

    uniforms: "np.ndarray"
    """[max_tokens] uniform random numbers, one per token."""
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    done: bool = False
    """True after an end id."""


_Groups = list[list[_PartialCompletion]]
"""[P, R] completions, one list per prompt."""


@dataclass(eq=False)
class TransformersEngine(RolloutEngine):
    """Samples with plain transformers: no server, and no copy of weights but merged matrices."""

    policy: Any
    """Set by the run."""
    prompts_at_once: int = 32
    """Number of prompts in one batch; out of memory, half as many from then on."""
    merge: Literal["auto"] | bool = "auto"
    """Adapters are merged for sampling: fewer kernels for each token, and a second copy of the
    adapted matrices; auto = where that changes no number by more than rounding in float32."""
    log: Any = None
    """Set by the run. Called with a line where memory was short; None = nobody is told."""

    def __post_init__(self) -> None:
        if self.prompts_at_once < 1:
            raise UserError(
                f"rollout.engine.prompts_at_once: got {self.prompts_at_once}, expected 1 or more"
            )
        self.version = 0

    @property
    def merges(self) -> bool:
        """True if adapters are merged for sampling."""
        adapters = self.policy.adapters
        if adapters is None or self.merge != "auto":
            return adapters is not None and bool(self.merge)
        return self.policy.dtype != torch.bfloat16 and not adapters.is_quantised

    @property
    def narrow(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True if sums of matrices and adapters are rounded to bfloat16."""
        return self.merges and self.policy.dtype == torch.bfloat16

    def update_weights(self, policy: Policy, version: int) -> None:
        """Store the version; the weights are the trainer's own and need no copy."""
        self.policy = policy
        self.version = version

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> list[list[Completion]]:
        """Sample one completion per seed for each prompt; return one list per prompt.

        Raises:
            UserError: the completions of a single prompt do not fit the memory.
        """
        groups: _Groups = []
        while len(groups) < len(prompts):
            batch = slice(len(groups), len(groups) + self.prompts_at_once)
            sampled = self._sample(prompts[batch], sampling, seeds[batch])
            if sampled is None:
                self._take_half(prompts[batch], len(seeds[0]))
            else:
                groups += sampled
        return [list(map(self._completion, group)) for group in groups]

    def _sample(
        self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]
    ) -> _Groups | None:
        """Sample the completions of one batch of prompts; None = there is not enough memory."""
        groups: _Groups = []
        for group_seeds in seeds:
            group: list[_PartialCompletion] = []
            for seed in group_seeds:
                group.append(_PartialCompletion(_uniforms(seed, sampling.max_tokens)))
            groups.append(group)
        try:
            with self._merged(), self.policy.autocast():
                rows = begin(self.policy, prompts, len(seeds[0]))
                self._decode(rows, groups, sampling)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            free_memory_of(error)
            return None
        return groups

    def _take_half(self, prompts: Sequence[Prompt], group_size: int) -> None:
        """Sample half as many prompts at once from now on: each completion has its own stream.

        Raises:
            UserError: it was one prompt already.
        """
        if len(prompts) == 1:
            raise UserError(
                f"out of memory with {group_size} answers to a prompt of "
                f"{len(prompts[0].input_ids)} tokens; lower rollout.group_size, "
                "rollout.max_tokens or policy.max_pixels"
            )
        self.prompts_at_once = len(prompts) // 2
        if self.log is not None:
            self.log(
                f"out of memory while sampling: {self.prompts_at_once} prompts at once from here "
                f"on, not {len(prompts)} (rollout.engine.prompts_at_once)"
            )

    def _merged(self) -> AbstractContextManager[None]:
        """Return the context in which adapters are merged, if they are."""
        if not self.merges or self.policy.adapters is None:
            return nullcontext()
        return self.policy.adapters.merged(self.policy.dtype)

    def _decode(self, rows: SharedRows | RepeatedRows, groups: _Groups, sampling: Sampling) -> None:
        """Sample all completions of a batch of prompts to their ends, token by token."""
        hidden_PRD = rows.first_PRD
        for position in range(sampling.max_tokens):
            tokens_PR = self._draw(hidden_PRD, groups, position, sampling)
            unfinished = list(map(_unfinished, groups))
            if position + 1 == sampling.max_tokens or not any(unfinished):
                return
            if _can_drop_rows(groups, unfinished):
                tokens_PR, groups = _drop_finished(rows, tokens_PR, groups, unfinished)
            hidden_PRD = rows.append(tokens_PR)

    def _draw(
        self, hidden_PRD: Tensor, groups: _Groups, position: int, sampling: Sampling
    ) -> Tensor:
        """Sample the next token of each row, [P, R], and append it to unfinished completions."""
        policy = self.policy
        logits_PRV = allowed_logits(
            policy.model.lm_head(hidden_PRD), sampling.temperature, policy.banned_ids
        )
        logprobs_PRV = logits_PRV.log_softmax(-1)
        if sampling.greedy:
            tokens_PR = logprobs_PRV.argmax(-1)
        else:
            uniforms_PR = _uniforms_at(groups, position).to(logprobs_PRV.device)
            tokens_PR = inverse_cdf(logprobs_PRV, uniforms_PR)
        chosen_PR = logprobs_PRV.gather(-1, tokens_PR[..., None]).squeeze(-1)
        for group, ids, scores in zip(groups, tokens_PR.tolist(), chosen_PR.tolist(), strict=True):
            for answer, token, logprob in zip(group, ids, scores, strict=True):
                if not answer.done:
                    answer.token_ids.append(token)
                    answer.logprobs.append(logprob)
                    answer.done = token in policy.end_ids
        return tokens_PR

    def _completion(self, answer: _PartialCompletion) -> Completion:
        return Completion(
            token_ids=tuple(answer.token_ids),
            logprobs=tuple(answer.logprobs),
            text=self.policy.decode(answer.token_ids),
            finish="stop" if answer.done else "length",
            version=self.version,
        )


def inverse_cdf(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """Return the token at which the cumulative distribution first exceeds a uniform number.

    A token of probability 0 is never returned.

    Args:
        logprobs: [..., V].
        uniforms: [...], in [0, 1).

    Returns:
        [...] token ids.
    """
    cumulative = logprobs.double().exp().cumsum(-1)
    total = cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, (uniforms[..., None] * total), right=True).squeeze(-1)
    # Rounding can put a uniform number near 1 past the last token whose probability is above 0.
    last_possible = (cumulative < total).sum(-1)
    return drawn.minimum(last_possible)


def _uniforms(seed: int, count: int) -> "np.ndarray":
    return np.random.Generator(np.random.PCG64(seed)).random(count)


def _uniforms_at(groups: _Groups, position: int) -> Tensor:
    """Return the uniform numbers of all rows for one position, [P, R]."""
    rows: list[list[float]] = []
    for group in groups:
        rows.append([answer.uniforms[position] for answer in group])
    return torch.from_numpy(np.array(rows))


def _unfinished(group: list[_PartialCompletion]) -> list[_PartialCompletion]:
    return [answer for answer in group if not answer.done]


def _can_drop_rows(groups: _Groups, unfinished: _Groups) -> bool:
    """Return whether finished rows or prompts can be dropped from the rectangle [P, R]."""
    has_finished_prompt = not all(unfinished)
    return has_finished_prompt or max(map(len, unfinished)) < len(groups[0])


def _drop_finished(
    rows: SharedRows | RepeatedRows, tokens_PR: Tensor, groups: _Groups, unfinished: _Groups
) -> tuple[Tensor, _Groups]:
    """Drop finished prompts, and as many finished rows as the widest group allows.

    The batch stays a rectangle: groups with fewer unfinished rows are filled with finished ones.

    Returns:
        The tokens [p, r] and the completions of the rows that stay.
    """
    prompts = [index for index, group in enumerate(unfinished) if group]
    width = max(map(len, unfinished))
    flat_rows: list[list[int]] = []
    remaining: _Groups = []
    for index in prompts:
        group = groups[index]
        # A stable sort puts unfinished rows first and keeps their order.
        order = sorted(range(len(group)), key=lambda row, group=group: group[row].done)[:width]
        flat_rows.append([index * len(group) + row for row in order])
        remaining.append([group[row] for row in order])
    rows_pr = torch.tensor(flat_rows, device=tokens_PR.device)
    rows.keep(torch.tensor(prompts, device=tokens_PR.device), rows_pr)
    return tokens_PR.flatten()[rows_pr], remaining
