"""Update the policy: raise the weighted log-likelihood of what was sampled, in micro-batches.

`loss = -sum(weight * log p)` with weights that already contain every denominator, so pieces add up:
micro-batches, processes and skipped groups cannot change the result, but for the rounding of sums
and the masks of adapters with dropout.
Each process computes its own micro-batches alone, however many they are; then gradients are summed
over all processes, once.

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
from gpg_vl.errors import UserError, one_line, raise_on_all_ranks
from gpg_vl.methods.estimator import Estimator, k3
from gpg_vl.policy.chunked_head import Scores
from gpg_vl.policy.dropout import adapter_dropout
from gpg_vl.policy.families import parts
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.out_of_memory import free_memory_of, is_out_of_memory
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward
from gpg_vl.policy.reference import Reference
from gpg_vl.training.microbatches import (
    WeightedGroup,
    padded_tokens,
    per_token,
    plan_microbatches,
)
from gpg_vl.training.optimizers import make_optimizer
from gpg_vl.training.processes import Processes
from gpg_vl.types import NON_FINITE, NOTHING_INFORMATIVE, Batch, Completion, Prompt, Update

Forward = UnsharedForward | GroupForward

COMPARED_TOKENS = 32
"""Tokens of an answer that the group forward and plain rows are compared on."""
_OWN = ("initial_lr", "betas", "weight_decay", "fused", "foreach")
"""What a group of parameters has from the config and the machine, and not from a saved state; its
present learning rate follows from the first."""


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


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the micro-batches of one process, whose gradient lies in the parameters."""

    loss: float
    entropy: float
    """In nats, of all tokens."""
    tokens: int


@dataclass(slots=True, eq=False)
class _Work:
    """Micro-batches of one process in one rollout; halved where memory was short."""

    batches: list[list[WeightedGroup]]
    sampled: list[Tensor | None]
    """Log-probabilities of each under the sampling policy; None = the present one sampled it."""
    splits: int = 0
    """Times that they were halved, or that the step was begun again because another process's
    were."""


class Learner:
    """Owns the optimizer, and steps it."""

    def __init__(
        self,
        forward: Forward,
        estimator: Estimator,
        config: OptimizerConfig,
        accelerator: Accelerator,
        *,
        seed: int,
        total_steps: int,
        tokens_per_microbatch: int,
        updates_per_rollout: int = 1,
        reference: Reference | None = None,
        log: Callable[[str], None] | None = None,
    ) -> None:
        """Make the optimizer; all processes begin with the weights of the first.

        Args:
            seed: seed of the run, for the dropout of adapters and the rounding of bfloat16 weights.
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
        self.seed = seed
        self.forward = forward.to(accelerator.device)
        self.trained = [item for item in forward.parameters() if item.requires_grad]
        self.processes.take_from_first(self.trained)
        self.optimizer = make_optimizer(forward.model, config, seed=seed)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        # the rate in the log is the optimizer's own, if any part has it
        self.shown_group = rates.index(config.lr) if config.lr in rates else 0
        factor = _schedule(config, total_steps * updates_per_rollout)
        self.schedule = LambdaLR(self.optimizer, factor)

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
        live = [item for item in items if any(item.weights) or any(item.shares)]
        planned = self._plan(live)
        work = _Work(planned, [None] * len(planned))
        self._score_sampled(work, version)
        update = self._step_in_memory(work)
        if update.skipped:
            return update
        for _ in range(self.updates_per_rollout - 1):
            further = self._step_in_memory(work)
            if further.skipped:
                break  # the step counts as taken: weights have moved before
            update = further
        return update

    @property
    def shared(self) -> bool:
        """True if prompts are computed once per group."""
        return isinstance(self.forward, GroupForward) and self.forward.shares

    def state_dict(self) -> dict[str, Any]:
        """Return optimizer moments, schedule, and the decision about sharing prompts.

        The next step of a resumed run depends on all three.
        """
        why_not_shared = None
        if isinstance(self.forward, GroupForward) and not self.needs_comparison:
            why_not_shared = self.forward.policy.sharing.why_not
        return {
            "kind": self.config.kind,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "why_not_shared": why_not_shared,
        }

    def load_state_dict(self, saved: Mapping[str, Any], *, unchanged: bool) -> None:
        """Go on from a saved state, with the rates of the config.

        Args:
            unchanged: config and machine are as they were, so that the decision about sharing
                prompts is taken over; else the two forwards are compared anew.

        Raises:
            UserError: the state is of another optimizer, or of other parts of the model.
        """
        self._check_same_optimizer(saved)
        own: list[dict[str, Any]] = []
        for group in self.optimizer.param_groups:
            own.append({key: group[key] for key in _OWN if key in group})
        saved_groups = saved["optimizer"]["param_groups"]
        # Before loading: where torch puts the counts of steps depends on the kernel.
        groups = [{**group, **values} for group, values in zip(saved_groups, own, strict=True)]
        self.optimizer.load_state_dict({**saved["optimizer"], "param_groups": groups})
        self.schedule.load_state_dict(saved["schedule"])
        self._put_back(own)
        why_not_shared = saved.get("why_not_shared")
        if why_not_shared is None or not unchanged:
            return
        if isinstance(self.forward, GroupForward):
            self.needs_comparison = False
            self.forward.policy.sharing.why_not = why_not_shared

    def _put_back(self, own: Sequence[Mapping[str, Any]]) -> None:
        """Give each group of parameters what is its own: a saved state may hold other values."""
        groups, schedule = self.optimizer.param_groups, self.schedule
        for group, values, factor in zip(groups, own, schedule.lr_lambdas, strict=True):
            group.update(values, lr=values["initial_lr"] * factor(schedule.last_epoch))
        schedule.base_lrs = [group["initial_lr"] for group in groups]
        schedule._last_lr = [group["lr"] for group in groups]

    def _check_same_optimizer(self, saved: Mapping[str, Any]) -> None:
        kind = saved.get("kind", "adamw")
        if kind != self.config.kind:
            raise UserError(
                f"optimizer.kind: got {self.config.kind}, the checkpoint's is {kind}; set it to "
                f"{kind}, or start a new run from the checkpoint with policy.model="
            )
        counts = [len(group["params"]) for group in saved["optimizer"]["param_groups"]]
        own = [len(group["params"]) for group in self.optimizer.param_groups]
        if counts != own:
            raise UserError(
                f"the checkpoint's optimizer has groups of {counts} parameters, expected {own}: "
                "other parts were trained, had a rate of their own, or decayed; start a new run "
                "from the checkpoint with policy.model="
            )

    def compare_once(self, asked: PromptAndAnswers | None, group_size: int) -> None:
        """Compare the group forward with plain rows on two answers, before it is relied on.

        If they differ by more than rounding explains, plain rows are used from then on.

        Args:
            asked: a prompt and answers to it; None = this process has none.
            group_size: answers to a prompt in training.
        """
        forward = self.forward
        if not self.needs_comparison or not isinstance(forward, GroupForward):
            return
        if not forward.shares or self.log is None:
            return
        self.needs_comparison = False
        own = (True, "", 0.0)
        with raise_on_all_ranks(self.processes.all_gather):
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

    def _plan(self, live: list[WeightedGroup]) -> list[list[WeightedGroup]]:
        """Plan micro-batches of whole groups."""
        tower_trains = False
        for part, _, parameter in parts(self.forward.model):
            tower_trains = tower_trains or (part == "vision" and parameter.requires_grad)
        return plan_microbatches(
            live, self.tokens_per_microbatch, shared=self.shared, tower_trains=tower_trains
        )

    def _score_sampled(self, work: _Work, version: int) -> None:
        """Compute the log-probabilities of micro-batches under the sampling policy.

        Raises:
            UserError: a single group does not fit.
        """
        with raise_on_all_ranks(self.processes.all_gather):
            while True:
                try:
                    found = [self._sampled_logprobs(batch, version) for batch in work.batches]
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    free_memory_of(error)
                    self._halve(work)
                    work.splits += 1
                else:
                    work.sampled = found
                    break

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

    def _step_in_memory(self, work: _Work) -> Update:
        """Take one optimizer step; out of memory on any process, begin it again on all.

        A process that ran out of memory takes smaller pieces then, also in all later steps.
        Micro-batches of half the size add up to the same.

        Raises:
            UserError: a single group does not fit.
        """
        while True:
            own = self.gradients(work.batches, work.sampled)
            if not self.processes.any(own is None):
                assert own is not None
                update = self._step(own)
                splits = float(work.splits)
                return replace(update, metrics={**update.metrics, "memory_splits": splits})
            self.optimizer.zero_grad(set_to_none=True)
            with raise_on_all_ranks(self.processes.all_gather):
                if own is None:
                    self._halve(work)
            work.splits += 1

    def _halve(self, work: _Work) -> None:
        """Halve micro-batches; if each is one group, let fewer of its completions through at once.

        Raises:
            UserError: they go one by one already.
        """
        if all(len(batch) == 1 for batch in work.batches):
            self.split_groups(work.batches)
            return
        work.batches, work.sampled = _halved(work.batches, work.sampled)
        largest = max(padded_tokens(batch, shared=self.shared) for batch in work.batches)
        self.tokens_per_microbatch = min(largest, self.tokens_per_microbatch)

    def gradients(
        self, batches: Sequence[list[WeightedGroup]], sampled: Sequence[Tensor | None]
    ) -> Sums | None:
        """Compute the gradient of this process's micro-batches; no process waits for another.

        Returns:
            None if there was not enough memory; then gradients are incomplete.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss, entropy, tokens = 0.0, 0.0, 0
        try:
            for place, (batch, sampled_N) in enumerate(zip(batches, sampled, strict=True)):
                scores = self._backward(batch, sampled_N, place)
                loss += float(scores.loss.detach())
                entropy += float(scores.entropy_N.sum())
                tokens += len(scores.entropy_N)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            free_memory_of(error)
            return None
        return Sums(loss, entropy, tokens)

    def split_groups(self, batches: Sequence[Sequence[WeightedGroup]]) -> None:
        """Halve the completions of a group that go through the model at once.

        Raises:
            UserError: they go one by one already.
        """
        self._limit_tokens_at_once(self._half_of_a_group(batches))

    def half_of(self, batch: Sequence[WeightedGroup]) -> int:
        """Return the tokens of half a micro-batch: half of its groups, or half of the only one.

        Raises:
            UserError: its completions go one by one already.
        """
        if len(batch) > 1:
            return padded_tokens(batch[: (len(batch) + 1) // 2], shared=self.shared)
        return self._half_of_a_group([batch])

    def limit_tokens(self, tokens: int) -> None:
        """Let at most so many tokens through the model at once, from now on; one answer always."""
        self.tokens_per_microbatch = min(tokens, self.tokens_per_microbatch)
        self._limit_tokens_at_once(tokens)

    def _half_of_a_group(self, batches: Sequence[Sequence[WeightedGroup]]) -> int:
        """Return half of the tokens that go through the model at once, of the largest group."""
        tokens = max(padded_tokens(batch, shared=self.shared) for batch in batches)
        one_by_one = max(padded_tokens([batch[0].alone]) for batch in batches)
        at_once = tokens
        can_split = isinstance(self.forward, GroupForward) and self.shared
        if isinstance(self.forward, GroupForward):
            at_once = self.forward.tokens_at_once or tokens
        if not can_split or at_once <= one_by_one:
            raise UserError(
                f"out of memory with one group of {tokens} tokens; set learner.checkpointing to "
                "true, or lower rollout.group_size, rollout.max_tokens or policy.max_pixels"
            )
        return max(one_by_one, min(at_once, tokens) // 2)

    def _limit_tokens_at_once(self, tokens: int) -> None:
        forward = self.forward
        if isinstance(forward, GroupForward):
            forward.tokens_at_once = min(tokens, forward.tokens_at_once or tokens)

    def _step(self, own: Sums) -> Update:
        """Take one optimizer step with the gradients of all processes."""
        self._add_up_gradients()
        norm = float(_clip(self.trained, self.config.clip_norm))
        loss, entropy, tokens = 0.0, 0.0, 0
        for of_one in self.processes.all_gather(own):
            loss += of_one.loss
            entropy += of_one.entropy
            tokens += of_one.tokens
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
        metrics["lr"] = float(self.schedule.get_last_lr()[self.shown_group])
        metrics["clipped"] = float(norm > self.config.clip_norm)
        self.schedule.step()
        return Update(metrics=metrics)

    def _add_up_gradients(self) -> None:
        """Sum the gradient of each parameter over all processes.

        A batch without images has none for the tower: it counts as zero, so that all processes
        have the same to sum, and Adam counts the same steps whatever their number.
        """
        gradients: list[Tensor] = []
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.processes.sum_in_place(gradients)

    def _backward(self, batch: list[WeightedGroup], sampled_N: Tensor | None, place: int) -> Scores:
        """Run forward and backward of one micro-batch with the loss of its tokens.

        Args:
            place: of the micro-batch among those of this process; addresses its dropout.
        """
        asked = [item.asked for item in batch]
        reference_N = None
        if self.estimator.kl > 0 and self.reference is not None:
            reference_N = self.reference.logprobs(asked)
        device = self.accelerator.device
        weights_N = per_token([item.weights for item in batch], batch).to(device)
        shares_N = per_token([item.shares for item in batch], batch).to(device)
        step_loss = StepLoss(self.estimator, weights_N, sampled_N, shares_N, reference_N)
        address = self.seed, "dropout", self.schedule.last_epoch, self.processes.rank, place
        with adapter_dropout(self.forward.model, *address):
            scores: Scores = self.forward(asked, step_loss)
            if scores.loss.requires_grad:  # not that of text, where only the tower is trained
                scores.loss.backward()
        return scores


def _clip(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Scale the gradients so that their norm as one vector is at most the limit.

    Returns:
        [] the norm before; in float32 or wider, also of narrow gradients.
    """
    norms: list[Tensor] = []
    for parameter in parameters:
        assert parameter.grad is not None
        wide = torch.promote_types(parameter.dtype, torch.float32)
        norms.append(torch.linalg.vector_norm(parameter.grad, dtype=wide))
    norm = torch.linalg.vector_norm(torch.stack(norms))
    nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


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
        if is_out_of_memory(error):
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
