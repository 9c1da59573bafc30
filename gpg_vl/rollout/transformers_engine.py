"""Sampling in this process with the trainer's own weights: vision tower and prompt once per group, G answers against one copy of them.

Each token takes one uniform number of its completion's own stream and inverts the cumulative distribution, so what is drawn for a
completion depends on its seed alone, not on who else is in the batch (exactly so in float64; in float32 up to rounding of the logits).

Shape letters: P prompts, R rows per prompt (answers still being written, at most G), V vocabulary, C longest completion, T tokens so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gpg_vl.policy.decoding import RepeatedRows, SharedRows, begin
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import allowed_logits
from gpg_vl.rollout.engine import RolloutEngine, Sampling
from gpg_vl.types import Completion, Prompt


@dataclass(slots=True)
class _Answer:
    """A completion being written."""

    uniforms: "np.ndarray"
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    done: bool = False


class TransformersEngine(RolloutEngine):
    """Plain transformers, no server, no copy of the weights."""

    def __init__(self, policy: Policy, prompts_at_once: int = 32) -> None:
        self.policy = policy
        self.prompts_at_once = prompts_at_once
        self.version = 0

    def refresh(self, policy: Policy, version: int) -> None:
        """The weights are the trainer's own; only their version is noted."""
        self.policy = policy
        self.version = version

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seeds: Sequence[Sequence[int]]) -> list[list[Completion]]:
        """One list of completions per prompt, one completion per seed."""
        answers = [[_Answer(_uniforms(seed, sampling.max_tokens)) for seed in group] for group in seeds]
        for start in range(0, len(prompts), self.prompts_at_once):
            batch = slice(start, start + self.prompts_at_once)
            with self.policy.autocast():
                self._write(begin(self.policy, prompts[batch], len(seeds[0])), answers[batch], sampling)
        return [[self._completion(answer) for answer in group] for group in answers]

    def _write(self, rows: SharedRows | RepeatedRows, answers: list[list[_Answer]], sampling: Sampling) -> None:
        """Write all answers of a batch of prompts to their ends, token by token."""
        hidden_PRD = rows.first_PRD
        for position in range(sampling.max_tokens):
            tokens_PR = self._draw(hidden_PRD, answers, position, sampling)
            living = [[answer for answer in group if not answer.done] for group in answers]
            if position + 1 == sampling.max_tokens or not any(living):
                return
            if _worth_leaving(answers, living):
                tokens_PR, answers = _leave_behind(rows, tokens_PR, answers)
            hidden_PRD = rows.append(tokens_PR)

    def _draw(self, hidden_PRD: Tensor, answers: list[list[_Answer]], position: int, sampling: Sampling) -> Tensor:
        """[P, R] the next token of each row, written down where its answer is not finished."""
        policy = self.policy
        logits = allowed_logits(policy.model.lm_head(hidden_PRD), sampling.temperature, policy.banned_ids)
        logprobs = logits.log_softmax(-1)
        if sampling.greedy:
            tokens_PR = logprobs.argmax(-1)
        else:
            uniforms = torch.from_numpy(np.array([[answer.uniforms[position] for answer in group] for group in answers]))
            tokens_PR = inverse_cdf(logprobs, uniforms.to(logprobs.device))
        chosen = logprobs.gather(-1, tokens_PR[..., None]).squeeze(-1)
        for group, ids, scores in zip(answers, tokens_PR.tolist(), chosen.tolist(), strict=True):
            for answer, token, logprob in zip(group, ids, scores, strict=True):
                if not answer.done:
                    answer.token_ids.append(token)
                    answer.logprobs.append(logprob)
                    answer.done = token in policy.end_ids
        return tokens_PR

    def _completion(self, answer: _Answer) -> Completion:
        return Completion(
            token_ids=tuple(answer.token_ids),
            logprobs=tuple(answer.logprobs),
            text=self.policy.decode(answer.token_ids),
            finish="stop" if answer.done else "length",
            version=self.version,
        )


def inverse_cdf(logprobs: Tensor, uniforms: Tensor) -> Tensor:
    """[...] the token at which the cumulative distribution [..., V] first exceeds a uniform number [...]; never an impossible one."""
    cumulative = logprobs.double().exp().cumsum(-1)
    total = cumulative[..., -1:]
    drawn = torch.searchsorted(cumulative, (uniforms[..., None] * total), right=True).squeeze(-1)
    last_possible = (cumulative < total).sum(-1)
    return drawn.minimum(last_possible)


def _uniforms(seed: int, count: int) -> "np.ndarray":
    return np.random.Generator(np.random.PCG64(seed)).random(count)


def _worth_leaving(answers: list[list[_Answer]], living: list[list[_Answer]]) -> bool:
    """Whether finished rows or prompts can be dropped from the rectangle [P, R]."""
    return any(not group for group in living) or max(map(len, living)) < len(answers[0])


def _leave_behind(rows: SharedRows | RepeatedRows, tokens_PR: Tensor, answers: list[list[_Answer]]) -> tuple[Tensor, list[list[_Answer]]]:
    """Drop finished prompts, and as many finished rows as the longest-living group allows; finished ones fill shorter groups up."""
    prompts = [index for index, group in enumerate(answers) if any(not answer.done for answer in group)]
    order = [sorted(range(len(answers[index])), key=lambda row, index=index: answers[index][row].done) for index in prompts]
    width = max(sum(not answer.done for answer in answers[index]) for index in prompts)
    in_line = [[index * len(answers[0]) + row for row in kept[:width]] for index, kept in zip(prompts, order, strict=True)]
    rows_pr = torch.tensor(in_line, device=tokens_PR.device)
    rows.keep(torch.tensor(prompts, device=tokens_PR.device), rows_pr)
    kept_answers = [[answers[index][row] for row in kept[:width]] for index, kept in zip(prompts, order, strict=True)]
    return tokens_PR.flatten()[rows_pr], kept_answers
