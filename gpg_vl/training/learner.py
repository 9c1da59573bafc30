"""The update: raise the weighted log-likelihood of what was sampled, in micro-batches of whole groups.

`loss = -sum(weight * log p)` with weights that already contain every denominator, so pieces add up: micro-batches, ranks and skipped groups
cannot change the answer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from gpg_vl.config.schema import OptimizerConfig
from gpg_vl.errors import UserError
from gpg_vl.methods.estimator import Estimator, k3
from gpg_vl.policy.chunked_head import Scores
from gpg_vl.policy.families import parts
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward
from gpg_vl.training.microbatches import WeightedGroup, is_idle, padded_tokens, per_token, plan_microbatches
from gpg_vl.training.processes import Processes
from gpg_vl.types import Group, Update

Forward = UnsharedForward | GroupForward
COMPARED_TOKENS = 32
"""Of an answer, when the group forward is held against plain rows."""


@dataclass(frozen=True, slots=True, eq=False)
class StepLoss:
    """An estimator's loss of a micro-batch's tokens, with all that it needs beside their log-probabilities."""

    estimator: Estimator
    weights_N: Tensor
    """What each token weighs."""
    sampled_N: Tensor | None
    """Log-probabilities under the sampling policy; NaN or None = the present one sampled it, so the ratio is exactly 1 now."""
    shares_N: Tensor
    """What each token weighs in the divergence."""
    reference_N: Tensor | None
    """Log-probabilities under the reference; None = no divergence."""

    def __call__(self, logprobs_n: Tensor, line_n: Tensor) -> Tensor:
        """[] the loss of the tokens at these places in the line."""
        before_n = logprobs_n.detach()
        if self.sampled_N is not None:
            sampled_n = self.sampled_N[line_n].to(logprobs_n)
            before_n = torch.where(sampled_n.isnan(), before_n, sampled_n)
        loss = self.estimator.objective(logprobs_n, before_n, self.weights_N[line_n].to(logprobs_n))
        if self.reference_N is None:
            return loss
        return loss + self.estimator.kl * (self.shares_N[line_n].to(logprobs_n) * k3(logprobs_n, self.reference_N[line_n])).sum()


class Learner:
    """Owns the optimizer."""

    def __init__(
        self,
        forward: Forward,
        config: OptimizerConfig,
        accelerator: Accelerator,
        *,
        total_steps: int,
        tokens_per_microbatch: int,
        updates_per_rollout: int = 1,
        reference: Forward | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """
        Args:
            say: is told, before the first update, how exactly the group forward agrees with plain rows on a real group.
        """
        self.config = config
        self.accelerator = accelerator
        self.ranks = Processes(accelerator)
        self.tokens_per_microbatch = tokens_per_microbatch
        self.updates_per_rollout = updates_per_rollout
        self.reference = reference
        self.say = say
        self.bare = forward
        self.trained = [parameter for parameter in forward.parameters() if parameter.requires_grad]
        # one kernel on a GPU, without a second set of gradients; on a CPU its last bits differ, so runs go on as they began
        kernel = {"fused": True} if accelerator.device.type == "cuda" else {"foreach": True}
        optimizer = torch.optim.AdamW(self.trained, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, **kernel)
        self.schedule = LambdaLR(optimizer, _schedule(config, total_steps * updates_per_rollout))
        self.forward: nn.Module
        self.forward, self.optimizer = accelerator.prepare(forward, optimizer)

    def update(
        self, groups: Sequence[Group], estimator: Estimator, rewards_BG: Tensor, lengths_BG: Tensor, mine: slice, version: int
    ) -> Update:
        """One rollout's optimizer steps.

        Args:
            rewards_BG, lengths_BG: of all ranks.
            mine: the rows that `groups` stand for.
            version: of the policy now; completions of an older one get their ratio.
        """
        weights_BG = estimator.weights(rewards_BG, lengths_BG)
        shares_BG = estimator.shares(rewards_BG, lengths_BG)
        if not self.ranks.total(int(bool((weights_BG[mine] != 0).any()) or estimator.kl > 0)):
            return Update(skipped="no informative group")
        rows = zip(groups, weights_BG[mine].tolist(), shares_BG[mine].tolist(), strict=True)
        weighted = [WeightedGroup(group, tuple(weights), tuple(shares)) for group, weights, shares in rows]
        by_length = sorted((item.asked for item in weighted), key=lambda asked: (not asked[0].pictures, len(asked[0].input_ids)))
        self.compare_once(by_length[0] if by_length else None, rewards_BG.shape[1])
        batches = self._plan([item for item in weighted if estimator.kl > 0 or any(item.weights)], weighted)
        sampled = [self._sampled(batch, version, fresh_too=self.updates_per_rollout > 1) for batch in batches]
        update = self._step_in_memory(batches, sampled, estimator)
        if update.skipped:
            return update
        for _ in range(self.updates_per_rollout - 1):
            further = self._step_in_memory(batches, sampled, estimator)
            if further.skipped:
                break  # the step counts as taken: weights have moved before
            update = further
        return update

    @property
    def shared(self) -> bool:
        """Whether prompts are computed once per group."""
        return isinstance(self.bare, GroupForward) and self.bare.shares

    def state_dict(self) -> dict[str, Any]:
        """Optimizer moments, schedule, and what was decided about sharing: the next step of a resumed run depends on all three."""
        decided = self.bare.policy.sharing.why_not if self.say is None and isinstance(self.bare, GroupForward) else None
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(), "why_not_shared": decided}

    def load_state_dict(self, saved: Mapping[str, Any], *, unchanged: bool) -> None:
        """Go on from a saved state; the group forward is held against plain rows anew only where config or machine have changed."""
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        decided = saved.get("why_not_shared")
        if decided is not None and unchanged and isinstance(self.bare, GroupForward):
            self.say, self.bare.policy.sharing.why_not = None, decided

    def compare_once(self, asked: PromptAndAnswers | None, answers: int) -> None:
        """Before the group forward is relied on: hold two answers against plain rows.

        Plain rows it is where they differ by more than rounding explains, in whatever type.

        Args:
            asked: a prompt and answers to it; None = this process has none.
            answers: to a prompt in training.
        """
        if self.say is None or not isinstance(self.bare, GroupForward) or not self.bare.shares:
            return
        told, self.say, policy = self.say, None, self.bare.policy
        found = self.ranks.everybodys((*_compared(self.bare, asked), _cost_of_plain_rows(asked, answers)) if asked else (True, "", 0.0))
        fault = next((words for holds, words, _ in found if not holds), "")
        if not fault:
            words = next(filter(None, (words for _, words, _ in found)), "")
            told(f"image and prompt are computed once per group; held against plain rows on a real group: {words}")
            return
        policy.sharing.why_not = "the group forward disagrees with plain rows"
        cost = f"image and prompt are computed for every answer, {max(cost for *_, cost in found):.1f} times the tokens"
        told(f"warning: the group forward {fault}: plain rows from here on ({cost})")

    def _step_in_memory(self, batches: list[list[WeightedGroup]], sampled: list[Tensor | None], estimator: Estimator) -> Update:
        """One optimizer step; out of memory, the whole step again with micro-batches of half the size, which adds up to the same.

        Raises:
            UserError: a single group does not fit.
        """
        splits = 0
        while True:
            try:
                update = self._step(batches, sampled, estimator)
                return replace(update, metrics={**update.metrics, "memory_splits": float(splits)})
            except RuntimeError as error:
                if not _is_out_of_memory(error) or self.ranks.count > 1:
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            if any(len(batch) > 1 for batch in batches):
                batches, sampled = _halved(batches, sampled)
            else:
                self._split_further(batches)
            splits += 1

    def _split_further(self, batches: list[list[WeightedGroup]]) -> None:
        """Halve the completions of a group that go through the model at once.

        Raises:
            UserError: they go one by one already.
        """
        tokens = max(padded_tokens(batch, shared=self.shared) for batch in batches)
        one_by_one = max(padded_tokens([batch[0].alone]) for batch in batches)
        if not (isinstance(self.bare, GroupForward) and self.shared) or (self.bare.tokens_at_once or tokens) <= one_by_one:
            raise UserError(
                f"out of memory with one group of {tokens} tokens; set learner.checkpointing to true, or lower rollout.group_size, "
                "rollout.max_tokens or policy.max_pixels"
            )
        fewer = max(one_by_one, min(self.bare.tokens_at_once or tokens, tokens) // 2)
        for forward in (self.bare, self.reference):
            if isinstance(forward, GroupForward):
                forward.tokens_at_once = fewer

    def _step(self, batches: list[list[WeightedGroup]], sampled: list[Tensor | None], estimator: Estimator) -> Update:
        """One optimizer step over all micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        losses, entropies, tokens = 0.0, 0.0, 0
        for batch, sampled_N in zip(batches, sampled, strict=True):
            loss, scores = self._loss(batch, sampled_N, estimator)
            self.accelerator.backward(loss * self.ranks.count)  # ranks are averaged by the wrapper; the loss is already a global share
            losses += float(loss.detach())
            if not is_idle(batch):
                entropies += float(scores.entropy_N.sum())
                tokens += len(scores.entropy_N)
        norm = float(nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm))
        everybodys = self.ranks.everybodys((losses, entropies, tokens))
        losses, entropies, tokens = (sum(own[place] for own in everybodys) for place in range(3))
        told = {"loss": losses, "grad_norm": norm, "entropy": entropies / max(tokens, 1), "trained_tokens": float(tokens)}
        if not (math.isfinite(losses) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            return Update(skipped="non-finite loss" if not math.isfinite(losses) else "non-finite gradient", metrics=told)
        self.optimizer.step()
        told |= {"lr": float(self.schedule.get_last_lr()[0]), "clipped": float(norm > self.config.clip_norm)}
        self.schedule.step()
        return Update(metrics=told)

    def _loss(self, batch: list[WeightedGroup], sampled_N: Tensor | None, estimator: Estimator) -> tuple[Tensor, Scores]:
        asked = [item.asked for item in batch]
        reference_N = None
        if estimator.kl > 0 and self.reference is not None:
            with torch.no_grad():
                reference_N = self.reference(asked).logprobs_N
        device = self.accelerator.device
        weights_N, shares_N = (per_token(batch, of, device) for of in (lambda item: item.weights, lambda item: item.shares))
        scores: Scores = self.forward(asked, StepLoss(estimator, weights_N, sampled_N, shares_N, reference_N))
        return scores.loss + self._anchor(), scores

    def _anchor(self) -> Tensor:
        """Zero, but touching every trained parameter: a batch without images gives the tower a gradient of zero, not none.

        So ranks never wait for a gradient that does not come, and Adam counts the same steps whatever the number of ranks.
        """
        return 0.0 * torch.stack([parameter.view(-1)[0] for parameter in self.trained]).sum()

    def _sampled(self, batch: list[WeightedGroup], version: int, *, fresh_too: bool) -> Tensor | None:
        """[N] log-probabilities under the sampling policy; NaN = the present policy sampled it, so the ratio is exactly 1 now.

        `fresh_too`: before several updates also the present policy's own have to be written down.
        """
        stale = [
            logprob if completion.version != version else math.nan
            for item in batch
            for completion in item.group.completions
            for logprob in completion.logprobs
        ]
        stale_N = torch.tensor(stale, device=self.accelerator.device)
        if not fresh_too:
            return None if bool(stale_N.isnan().all()) else stale_N
        with torch.no_grad():
            present_N = self.forward([item.asked for item in batch]).logprobs_N
        return torch.where(stale_N.isnan(), present_N, stale_N.to(present_N.dtype))

    def _plan(self, live: list[WeightedGroup], everyone: list[WeightedGroup]) -> list[list[WeightedGroup]]:
        """Micro-batches of whole groups under the token budget, as many on every rank: a rank with fewer repeats one without weight."""
        tower_trains = any(parameter.requires_grad for part, _, parameter in parts(self.bare.model) if part == "vision")
        batches = plan_microbatches(live, self.tokens_per_microbatch, shared=self.shared, tower_trains=tower_trains)
        idle = WeightedGroup(everyone[0].group, (0.0,) * len(everyone[0].weights), (0.0,) * len(everyone[0].weights)) if everyone else None
        missing = self.ranks.largest(len(batches)) - len(batches)
        return batches + [[idle]] * missing if idle is not None else batches


def _compared(forward: GroupForward, asked: PromptAndAnswers) -> tuple[bool, str]:
    """Whether the first tokens of two answers come out alike, and the figures; or what a kernel complained of."""
    prompt, completions = asked
    cut = slice(COMPARED_TOKENS)
    short = [replace(said, token_ids=said.token_ids[cut], logprobs=said.logprobs[cut]) for said in completions[:2]]
    try:
        agreement = forward.agreement((prompt, short))
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise UserError(
                f"out of memory with two answers to a prompt of {len(prompt.input_ids)} tokens; lower policy.max_pixels"
            ) from None
        return False, f"does not run here ({' '.join(str(error).split())[:200]})"
    return agreement.holds, str(agreement) if agreement.holds else f"is off from plain rows by {agreement}, more than rounding explains"


def _cost_of_plain_rows(asked: PromptAndAnswers, answers: int) -> float:
    """How many times the tokens of the group forward plain rows compute, for so many answers like these."""
    prompt, completions = asked
    own = sum(len(completion.token_ids) for completion in completions) / len(completions)
    return answers * (len(prompt.input_ids) + own) / (len(prompt.input_ids) + answers * own)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA's own error class, and the CPU allocator's words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _halved(batches: list[list[WeightedGroup]], sampled: list[Tensor | None]) -> tuple[list[list[WeightedGroup]], list[Tensor | None]]:
    """Every micro-batch of several groups as two."""
    pieces: list[list[WeightedGroup]] = []
    parts: list[Tensor | None] = []
    for batch, sampled_N in zip(batches, sampled, strict=True):
        cut = (len(batch) + 1) // 2
        tokens = sum(sum(item.group.lengths) for item in batch[:cut])
        for piece, part in ((batch[:cut], slice(tokens)), (batch[cut:], slice(tokens, None))):
            if piece:
                pieces.append(piece)
                parts.append(None if sampled_N is None else sampled_N[part])
    return pieces, parts


def _schedule(config: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        done = max(0, step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        if config.schedule == "linear":
            return rise * max(0.0, 1 - done)
        if config.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return rise

    return factor
