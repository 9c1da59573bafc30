"""Update the policy: raise the weighted log-likelihood of what was sampled, in micro-batches.

`loss = -sum(weight * log p)` with weights that already contain every denominator, so pieces add up:
micro-batches, processes and skipped groups cannot change the result.

Shape letters: B groups, G completions of a group, N tokens of all completions of a micro-batch in
one row, n some of these N tokens.
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
from gpg_vl.errors import UserError, one_line
from gpg_vl.methods.estimator import Estimator, k3
from gpg_vl.policy.chunked_head import Scores
from gpg_vl.policy.families import parts
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward
from gpg_vl.training.microbatches import (
    WeightedGroup,
    is_idle,
    padded_tokens,
    per_token,
    plan_microbatches,
)
from gpg_vl.training.processes import Processes
from gpg_vl.types import NON_FINITE, NOTHING_INFORMATIVE, Batch, Completion, Prompt, Update

Forward = UnsharedForward | GroupForward

COMPARED_TOKENS = 32
"""Tokens of an answer that the group forward and plain rows are compared on."""


@dataclass(frozen=True, slots=True, eq=False)
class StepLoss:
    """An estimator's loss of a micro-batch's tokens, with all that it needs but the policy."""

    estimator: Estimator
    weights_N: Tensor
    """Weight of each token."""
    sampled_N: Tensor | None
    """Log-probabilities under the sampling policy. NaN or None: the present policy sampled it, so
    the ratio is exactly 1 now."""
    shares_N: Tensor
    """Weight of each token in the divergence."""
    reference_N: Tensor | None
    """Log-probabilities under the reference; None = no divergence."""

    def __call__(self, logprobs_n: Tensor, index_n: Tensor) -> Tensor:
        """Return []: the loss of the tokens at these places among the N."""
        before_n = logprobs_n.detach()
        if self.sampled_N is not None:
            sampled_n = self.sampled_N[index_n].to(logprobs_n)
            before_n = torch.where(sampled_n.isnan(), before_n, sampled_n)
        weights_n = self.weights_N[index_n].to(logprobs_n)
        loss = self.estimator.objective(logprobs_n, before_n, weights_n)
        if self.reference_N is None:
            return loss
        divergence_n = k3(logprobs_n, self.reference_N[index_n])
        shares_n = self.shares_N[index_n].to(logprobs_n)
        return loss + self.estimator.kl * (shares_n * divergence_n).sum()


class Learner:
    """Owns the optimizer, and steps it."""

    def __init__(
        self,
        forward: Forward,
        estimator: Estimator,
        config: OptimizerConfig,
        accelerator: Accelerator,
        *,
        total_steps: int,
        tokens_per_microbatch: int,
        updates_per_rollout: int = 1,
        reference: Forward | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Make the optimizer and wrap the forward for several processes.

        Args:
            log: gets a line before the first update: how exactly the group forward agrees with
                plain rows on a real group. None = they are not compared.
        """
        self.estimator = estimator
        self.config = config
        self.accelerator = accelerator
        self.processes = Processes(accelerator)
        self.tokens_per_microbatch = tokens_per_microbatch
        self.updates_per_rollout = updates_per_rollout
        self.reference = reference
        self.log = log
        self.needs_comparison = log is not None
        self.unwrapped = forward
        self.trained = [item for item in forward.parameters() if item.requires_grad]
        # On a GPU: one fused kernel, without a second set of gradients. Not on a CPU: its last
        # bits differ there, and a run has to go on as it began.
        on_gpu = accelerator.device.type == "cuda"
        kernel = {"fused": True} if on_gpu else {"foreach": True}
        optimizer = torch.optim.AdamW(
            self.trained,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            **kernel,
        )
        self.schedule = LambdaLR(optimizer, _schedule(config, total_steps * updates_per_rollout))
        self.forward: nn.Module
        self.forward, self.optimizer = accelerator.prepare(forward, optimizer)

    def update(self, batch: Batch, weights_BG: Tensor, version: int) -> Update:
        """Take the optimizer steps of one rollout.

        Args:
            weights_BG: what the estimator made of the batch's rewards, for all processes.
            version: of the policy now; completions of an older one get their ratio.
        """
        trains_all = self.estimator.kl > 0  # the divergence is of all groups
        own_weights = weights_BG[batch.own_rows]
        has_work = trains_all or bool((own_weights != 0).any())
        if not self.processes.any(has_work):
            return Update(skipped=NOTHING_INFORMATIVE)
        items = self._weighted_groups(batch, weights_BG)
        self.compare_once(_cheapest(items), batch.rewards_BG.shape[1])
        live = [item for item in items if trains_all or any(item.weights)]
        batches = self._plan(live, items)
        sampled: list[Tensor | None] = []
        for microbatch in batches:
            sampled.append(self._sampled_logprobs(microbatch, version))
        update = self._step_in_memory(batches, sampled)
        if update.skipped:
            return update
        for _ in range(self.updates_per_rollout - 1):
            further = self._step_in_memory(batches, sampled)
            if further.skipped:
                break  # the step counts as taken: weights have moved before
            update = further
        return update

    @property
    def shared(self) -> bool:
        """True if prompts are computed once per group."""
        return isinstance(self.unwrapped, GroupForward) and self.unwrapped.shares

    def state_dict(self) -> dict[str, Any]:
        """Return optimizer moments, schedule, and the decision about sharing prompts.

        The next step of a resumed run depends on all three.
        """
        why_not_shared = None
        if isinstance(self.unwrapped, GroupForward) and not self.needs_comparison:
            why_not_shared = self.unwrapped.policy.sharing.why_not
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "why_not_shared": why_not_shared,
        }

    def load_state_dict(self, saved: Mapping[str, Any], *, unchanged: bool) -> None:
        """Go on from a saved state.

        Args:
            unchanged: config and machine are as they were, so that the decision about sharing
                prompts is taken over; else the two forwards are compared anew.
        """
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        why_not_shared = saved.get("why_not_shared")
        if why_not_shared is None or not unchanged:
            return
        if isinstance(self.unwrapped, GroupForward):
            self.needs_comparison = False
            self.unwrapped.policy.sharing.why_not = why_not_shared

    def compare_once(self, asked: PromptAndAnswers | None, group_size: int) -> None:
        """Compare the group forward with plain rows on two answers, before it is relied on.

        If they differ by more than rounding explains, plain rows are used from then on.

        Args:
            asked: a prompt and answers to it; None = this process has none.
            group_size: answers to a prompt in training.
        """
        forward = self.unwrapped
        if not self.needs_comparison or not isinstance(forward, GroupForward):
            return
        if not forward.shares or self.log is None:
            return
        self.needs_comparison = False
        own = (True, "", 0.0)
        if asked is not None:
            holds, figures = _compared(forward, asked)
            own = (holds, figures, _cost_of_plain_rows(asked, group_size))
        results = self.processes.all_gather(own)
        failures = [figures for holds, figures, _ in results if not holds]
        if not failures:
            figures = next((figures for _, figures, _ in results if figures), "")
            self.log(
                "image and prompt are computed once per group; compared with plain rows on a real "
                f"group: {figures}"
            )
            return
        forward.policy.sharing.why_not = "the group forward disagrees with plain rows"
        times = max(cost for *_, cost in results)
        self.log(
            f"warning: the group forward {failures[0]}: plain rows from here on (image and prompt "
            f"are computed for every answer, {times:.1f} times the tokens)"
        )

    def _weighted_groups(self, batch: Batch, weights_BG: Tensor) -> list[WeightedGroup]:
        shares_BG = torch.zeros_like(weights_BG)
        if self.estimator.kl > 0:
            shares_BG = self.estimator.shares(batch.rewards_BG, batch.lengths_BG)
        weights = weights_BG[batch.own_rows].tolist()
        shares = shares_BG[batch.own_rows].tolist()
        items: list[WeightedGroup] = []
        for group, own_weights, own_shares in zip(batch.groups, weights, shares, strict=True):
            items.append(WeightedGroup(group, tuple(own_weights), tuple(own_shares)))
        return items

    def _plan(
        self, live: list[WeightedGroup], items: list[WeightedGroup]
    ) -> list[list[WeightedGroup]]:
        """Plan micro-batches of whole groups, as many on every process.

        A process with fewer repeats a group without weight.
        """
        tower_trains = False
        for part, _, parameter in parts(self.unwrapped.model):
            tower_trains = tower_trains or (part == "vision" and parameter.requires_grad)
        batches = plan_microbatches(
            live, self.tokens_per_microbatch, shared=self.shared, tower_trains=tower_trains
        )
        most = self.processes.all_reduce_max(len(batches))
        if not most:
            return batches
        spare = self._spare_group(items)
        return batches + [[spare.without_weight]] * (most - len(batches))

    def _spare_group(self, items: Sequence[WeightedGroup]) -> WeightedGroup:
        """Return a group of this process, or that of another one if all its rows were lost.

        Without it the others would wait for this process in their forward.
        """
        own = items[0] if items else None
        if self.processes.any(own is None):
            offered = self.processes.all_gather(own)
            own = own or next(group for group in offered if group is not None)
        assert own is not None  # some process has a group
        return own

    def _sampled_logprobs(self, batch: list[WeightedGroup], version: int) -> Tensor | None:
        """Return [N]: log-probabilities under the sampling policy.

        NaN: the present policy sampled the token, so its ratio is exactly 1. None: all are NaN. If
        several updates follow, the present policy's own are computed too, because after the first
        of them it is no longer the one that sampled.
        """
        stale: list[float] = []
        for item in batch:
            for completion in item.group.completions:
                if completion.version == version:
                    stale += [math.nan] * len(completion.logprobs)
                else:
                    stale += completion.logprobs
        stale_N = torch.tensor(stale, device=self.accelerator.device)
        is_present_N = stale_N.isnan()
        if self.updates_per_rollout == 1:
            return None if bool(is_present_N.all()) else stale_N
        with torch.no_grad():
            present_N = self.forward([item.asked for item in batch]).logprobs_N
        return torch.where(is_present_N, present_N, stale_N.to(present_N.dtype))

    def _step_in_memory(
        self, batches: list[list[WeightedGroup]], sampled: list[Tensor | None]
    ) -> Update:
        """Take one optimizer step; out of memory, take it again with smaller pieces.

        Micro-batches of half the size add up to the same.

        Raises:
            UserError: a single group does not fit.
        """
        splits = 0
        while True:
            try:
                update = self._step(batches, sampled)
            except RuntimeError as error:
                if not _is_out_of_memory(error) or self.processes.count > 1:
                    raise
            else:
                return replace(update, metrics={**update.metrics, "memory_splits": float(splits)})
            self.optimizer.zero_grad(set_to_none=True)
            if any(len(batch) > 1 for batch in batches):
                batches, sampled = _halved(batches, sampled)
            else:
                self._split_groups(batches)
            splits += 1

    def _split_groups(self, batches: list[list[WeightedGroup]]) -> None:
        """Halve the completions of a group that go through the model at once.

        Raises:
            UserError: they go one by one already.
        """
        tokens = max(padded_tokens(batch, shared=self.shared) for batch in batches)
        one_by_one = max(padded_tokens([batch[0].alone]) for batch in batches)
        at_once = tokens
        can_split = isinstance(self.unwrapped, GroupForward) and self.shared
        if isinstance(self.unwrapped, GroupForward):
            at_once = self.unwrapped.tokens_at_once or tokens
        if not can_split or at_once <= one_by_one:
            raise UserError(
                f"out of memory with one group of {tokens} tokens; set learner.checkpointing to "
                "true, or lower rollout.group_size, rollout.max_tokens or policy.max_pixels"
            )
        fewer = max(one_by_one, min(at_once, tokens) // 2)
        for forward in (self.unwrapped, self.reference):
            if isinstance(forward, GroupForward):
                forward.tokens_at_once = fewer

    def _step(self, batches: list[list[WeightedGroup]], sampled: list[Tensor | None]) -> Update:
        """Take one optimizer step over all micro-batches."""
        self.optimizer.zero_grad(set_to_none=True)
        own_loss, own_entropy, own_tokens = 0.0, 0.0, 0
        for batch, sampled_N in zip(batches, sampled, strict=True):
            scores = self._scores(batch, sampled_N)
            loss = scores.loss + self._anchor()
            # DDP averages gradients over processes, but the loss is already a global share.
            self.accelerator.backward(loss * self.processes.count)
            own_loss += float(loss.detach())
            if not is_idle(batch):
                own_entropy += float(scores.entropy_N.sum())
                own_tokens += len(scores.entropy_N)
        norm = float(nn.utils.clip_grad_norm_(self.trained, self.config.clip_norm))
        loss, entropy, tokens = 0.0, 0.0, 0
        for of_one in self.processes.all_gather((own_loss, own_entropy, own_tokens)):
            loss += of_one[0]
            entropy += of_one[1]
            tokens += of_one[2]
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "entropy": entropy / max(tokens, 1),
            "trained_tokens": float(tokens),
        }
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            what = "gradient" if math.isfinite(loss) else "loss"
            return Update(skipped=f"{NON_FINITE} {what}", metrics=metrics)
        self.optimizer.step()
        metrics["lr"] = float(self.schedule.get_last_lr()[0])
        metrics["clipped"] = float(norm > self.config.clip_norm)
        self.schedule.step()
        return Update(metrics=metrics)

    def _scores(self, batch: list[WeightedGroup], sampled_N: Tensor | None) -> Scores:
        """Run the forward of one micro-batch with the loss of its tokens."""
        asked = [item.asked for item in batch]
        reference_N = None
        if self.estimator.kl > 0 and self.reference is not None:
            with torch.no_grad():
                reference_N = self.reference(asked).logprobs_N
        device = self.accelerator.device
        weights_N = per_token([item.weights for item in batch], batch).to(device)
        shares_N = per_token([item.shares for item in batch], batch).to(device)
        step_loss = StepLoss(self.estimator, weights_N, sampled_N, shares_N, reference_N)
        return self.forward(asked, step_loss)

    def _anchor(self) -> Tensor:
        """Return zero, computed from every trained parameter.

        A batch without images then gives the tower a gradient of zero instead of none. So no
        process waits for a gradient that does not come, and Adam counts the same steps whatever the
        number of processes.
        """
        return 0.0 * torch.stack([parameter.view(-1)[0] for parameter in self.trained]).sum()


def _cheapest(items: Sequence[WeightedGroup]) -> PromptAndAnswers | None:
    """Return the shortest prompt, one with a picture if there is any, and its answers."""
    if not items:
        return None
    shortest = min(items, key=lambda item: is_text_then_length(item.group.prompt))
    return shortest.asked


def is_text_then_length(prompt: Prompt) -> tuple[bool, int]:
    """Return what sorts prompts to compare: those with a picture first, then the short ones."""
    return not prompt.pictures, len(prompt.input_ids)


def _compared(forward: GroupForward, asked: PromptAndAnswers) -> tuple[bool, str]:
    """Return whether two answers score alike both ways, with the figures or a kernel's error."""
    prompt, completions = asked
    short: list[Completion] = []
    for completion in completions[:2]:
        token_ids = completion.token_ids[:COMPARED_TOKENS]
        logprobs = completion.logprobs[:COMPARED_TOKENS]
        short.append(replace(completion, token_ids=token_ids, logprobs=logprobs))
    try:
        agreement = forward.agreement((prompt, short))
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise UserError(
                f"out of memory with two answers to a prompt of {len(prompt.input_ids)} tokens; "
                "lower policy.max_pixels"
            ) from None
        return False, f"does not run here ({one_line(error, limit=200)})"
    if agreement.holds:
        return True, str(agreement)
    return False, f"differs from plain rows by {agreement}, more than rounding explains"


def _cost_of_plain_rows(asked: PromptAndAnswers, group_size: int) -> float:
    """Return how many times the group forward's tokens plain rows compute, for such answers."""
    prompt, completions = asked
    prompt_tokens = len(prompt.input_ids)
    answer_tokens = sum(len(item.token_ids) for item in completions) / len(completions)
    plain = group_size * (prompt_tokens + answer_tokens)
    return plain / (prompt_tokens + group_size * answer_tokens)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return True for CUDA's own error class, or the words of the CPU allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _halved(
    batches: list[list[WeightedGroup]], sampled: list[Tensor | None]
) -> tuple[list[list[WeightedGroup]], list[Tensor | None]]:
    """Split every micro-batch of several groups in two."""
    halves: list[list[WeightedGroup]] = []
    sampled_halves: list[Tensor | None] = []
    for batch, sampled_N in zip(batches, sampled, strict=True):
        middle = (len(batch) + 1) // 2
        tokens = sum(sum(item.group.lengths) for item in batch[:middle])
        for half, own_tokens in (
            (batch[:middle], slice(tokens)),
            (batch[middle:], slice(tokens, None)),
        ):
            if half:
                halves.append(half)
                sampled_halves.append(None if sampled_N is None else sampled_N[own_tokens])
    return halves, sampled_halves


def _schedule(config: OptimizerConfig, total_steps: int) -> Callable[[int], float]:
    """Return the factor of the learning rate at a step, counted from 0.

    The first step has 1/warmup_steps of it, not 0: a step without an update would be wasted.
    """

    def factor(step: int) -> float:
        rise = 1.0
        if config.warmup_steps:
            rise = min(1.0, (step + 1) / config.warmup_steps)
        decay_steps = max(1, total_steps - config.warmup_steps)
        done = max(0, step - config.warmup_steps) / decay_steps
        if config.schedule == "linear":
            return rise * max(0.0, 1 - done)
        if config.schedule == "cosine":
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return rise

    return factor
