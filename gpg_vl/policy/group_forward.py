"""Image and prompt once for the G answers of a group: the module that is trained, groups in, scores and loss out.

A batch of groups that is larger than the token budget is split by completions: the prompts go forward once, their keys and values become
leaves, each piece of completions runs forward and backward against them and adds to their gradient, and one backward through the prompts
ends it. Exact, without a second forward, and to everybody outside (accelerate, DDP) it is one forward and one backward.

Shape letters: P prompts, R rows per prompt, C longest completion, N completion tokens of a batch in one line, n those of a piece, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from gpg_vl.policy.chunked_head import Rule, Scores, TokenLoss, check_head, score_in_chunks
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers, completion_tokens, plain_states
from gpg_vl.policy.shared_prefix import Prefix, extend, prefill, use_shared_prefix
from gpg_vl.policy.vision import Vision

NOTHING = -1
"""In a rectangle of completions: padding."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Completions of several groups as a rectangle, longest first."""

    tokens_PRC: Tensor
    """Token ids."""
    line_PRC: Tensor
    """Each token's place in the line of all completion tokens, group by group; NOTHING = padding."""

    def take(self, rows: slice) -> "Rows":
        """Some rows of every prompt, no wider than they need."""
        line = self.line_PRC[:, rows]
        width = int((line != NOTHING).sum(-1).max())
        return Rows(self.tokens_PRC[:, rows, :width], line[..., :width])


def rows_of(asked: Sequence[PromptAndAnswers], pad_id: int, device: torch.device) -> Rows:
    """The rectangle of all completions."""
    places, start = list[tuple[int, int, tuple[int, ...], int]](), 0
    for group, (_, completions) in enumerate(asked):
        starts = [start := start + before for before in (0, *(len(completion.token_ids) for completion in completions))]
        order = sorted(range(len(completions)), key=lambda row: -len(completions[row].token_ids))
        places += [(group, rank, completions[row].token_ids, starts[row]) for rank, row in enumerate(order)]
    shape = (len(asked), max(len(completions) for _, completions in asked), max(len(ids) for _, _, ids, _ in places))
    tokens, line = torch.full(shape, pad_id), torch.full(shape, NOTHING)
    for group, rank, ids, first in places:
        tokens[group, rank, : len(ids)] = torch.tensor(ids)
        line[group, rank, : len(ids)] = torch.arange(first, first + len(ids))
    return Rows(tokens.to(device), line.to(device))


class GroupForward(nn.Module):
    """Scores of completions with image and prompt computed once per group; the fast twin of `PlainForward`."""

    def __init__(self, policy: Policy, temperature: float, *, tokens_at_once: int | None = None, checkpointing: bool = False) -> None:
        """
        Args:
            tokens_at_once: larger batches are split by completions; None = never.
            checkpointing: keep only the input of each layer, and run layers again in the backward.
        """
        super().__init__()
        check_head(policy.model)
        self.model = policy.model
        self.policy = policy
        self.rule = Rule(temperature, policy.banned_ids)
        self.tokens_at_once = tokens_at_once
        if self.shares:
            use_shared_prefix(policy.model)
        if checkpointing:
            checkpoint_layers(policy.model)

    @property
    def shares(self) -> bool:
        """Whether prompts are computed once per group."""
        return not self.policy.sharing.why_not

    def forward(self, asked: Sequence[PromptAndAnswers], loss: TokenLoss | None = None) -> Scores:
        """The scores of all completion tokens, group by group, completion by completion; only the loss carries a gradient."""
        with self.policy.autocast():
            if not self.shares:
                return self._plain(asked, loss)
            prefix = prefill(self.policy, [prompt for prompt, _ in asked])
            pieces = self._pieces(rows_of(asked, self.policy.pad_id, self.policy.device), prefix)
            if len(pieces) == 1:
                return self._in_line([(pieces[0], self._scores(prefix, pieces[0], loss))])
            if loss is None or not torch.is_grad_enabled():
                return self._in_line([(piece, self._scores(prefix, piece, loss)) for piece in pieces])
            return self._piecewise(prefix, pieces, loss)

    def agreement(self, asked: PromptAndAnswers) -> "Agreement":
        """This forward held against plain rows on one group.

        Raises:
            RuntimeError: a kernel does not work here.
        """
        weights_type = self.model.lm_head.weight.dtype
        exact = self if weights_type == self.policy.dtype else self._computing_in(weights_type)
        truth = exact._probe(exact._plain, asked)
        if exact is self:
            return Agreement(weights_type, _relative_errors(self._probe(self.forward, asked), truth))
        here, plain = (_relative_errors(self._probe(run, asked), truth) for run in (self.forward, self._plain))
        try:
            errors = _relative_errors(exact._probe(exact.forward, asked), truth)
        except RuntimeError as error:  # a kernel that training does not use: the narrow type alone is judged, and that is told
            if isinstance(error, torch.OutOfMemoryError):
                raise
            errors = None
        return Agreement(weights_type, errors, here, plain)

    def _computing_in(self, dtype: torch.dtype) -> "GroupForward":
        """The same forward in another type; features that were cached in this one are not used."""
        policy = replace(self.policy, dtype=dtype, vision=Vision(self.model, None))
        return GroupForward(policy, self.rule.temperature, tokens_at_once=self.tokens_at_once)

    def _probe(self, run: "Callable[[Sequence[Asked], TokenLoss | None], Scores]", asked: PromptAndAnswers) -> tuple[Tensor, Tensor]:
        """Log-probabilities of one group, and a gradient of their sum that comes through all layers."""
        in_order = [*self.model.model.get_decoder().layers[0].parameters(), *self.parameters()]
        probe = next(parameter for parameter in in_order if parameter.requires_grad)
        with self.policy.autocast():
            scores = run([asked], lambda logprobs_n, line_n: logprobs_n.sum())
        (gradient,) = torch.autograd.grad(scores.loss, probe, allow_unused=True, materialize_grads=True)
        return scores.logprobs_N.detach(), gradient

    def _plain(self, asked: Sequence[PromptAndAnswers], loss: TokenLoss | None) -> Scores:
        tokens_N = completion_tokens(asked, self.policy.device)
        line_N = torch.arange(len(tokens_N), device=tokens_N.device)
        return score_in_chunks(plain_states(self.policy, asked), self.model.lm_head, tokens_N, self.rule, loss, line_N)

    def _pieces(self, rows: Rows, prefix: Prefix) -> list[Rows]:
        """The rows in as many pieces as the budget wants, at least one row of each group in a piece."""
        prompts, count, width = rows.tokens_PRC.shape
        budget = self.tokens_at_once or prefix.visible_PL.numel() + rows.tokens_PRC.numel()
        at_once = min(count, max(1, (budget - prefix.visible_PL.numel()) // (prompts * width)))
        return [rows.take(slice(first, first + at_once)) for first in range(0, count, at_once)]

    def _scores(self, prefix: Prefix, rows: Rows, loss: TokenLoss | None) -> Scores:
        """Of the tokens of these rows, in their own order."""
        states = prefix.last_hidden_PD[:, None, None].expand(-1, rows.tokens_PRC.shape[1], 1, -1)
        if rows.tokens_PRC.shape[-1] > 1:  # the last token is only predicted
            states = torch.cat([states, extend(self.policy, prefix, rows.tokens_PRC[..., :-1], 0, None)], 2)
        real = rows.line_PRC != NOTHING
        return score_in_chunks(states[real], self.model.lm_head, rows.tokens_PRC[real], self.rule, loss, rows.line_PRC[real])

    def _in_line(self, scored: Sequence[tuple[Rows, Scores]]) -> Scores:
        """Scores of pieces in the order of the line."""
        line_N = torch.cat([rows.line_PRC[rows.line_PRC != NOTHING] for rows, _ in scored])
        order = line_N.argsort()
        logprobs_N, entropy_N = (torch.cat([getattr(scores, name) for _, scores in scored])[order] for name in ("logprobs_N", "entropy_N"))
        return Scores(logprobs_N, entropy_N, torch.stack([scores.loss for _, scores in scored]).sum())

    def _piecewise(self, prefix: Prefix, pieces: Sequence[Rows], loss: TokenLoss) -> Scores:
        """Forward and backward piece by piece against the prompts' keys and values as leaves."""
        layers = len(prefix.keys)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]

        def run(leaves: Sequence[Tensor]) -> Callable[[Rows], Scores]:
            own = replace(prefix, keys=tuple(leaves[:layers]), values=tuple(leaves[layers:-1]), last_hidden_PD=leaves[-1])
            return lambda piece: self._scores(own, piece, loss)

        left = (*prefix.keys, *prefix.values, prefix.last_hidden_PD)
        made: Any = _Piecewise.apply(run, self._in_line, pieces, len(left), *left, *parameters)
        return Scores(*made)


class _Piecewise(torch.autograd.Function):
    """Loss of all pieces; its gradient with respect to what the prompts left and to the parameters is made along the way."""

    @staticmethod
    def forward(ctx: Any, run: Any, in_line: Any, pieces: Sequence[Rows], left: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Scores of all pieces in line; one piece's graph is alive at a time.

        Args:
            run: from what the prompts left to the scores of a piece.
            in_line: puts the pieces' scores into the order that was asked for.
            left: how many of `tensors` are what the prompts left; the others are parameters.
        """
        leaves = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors[:left]]
        scores_of = run(leaves)
        sources = [*leaves, *tensors[left:]]
        wanted = [place for place, source in enumerate(sources) if source.requires_grad]
        gradients: list[Tensor | None] = [None] * len(sources)
        scored: list[tuple[Rows, Scores]] = []
        for piece in pieces:
            with torch.enable_grad():
                scores = scores_of(piece)
            found = torch.autograd.grad(scores.loss, [sources[place] for place in wanted], allow_unused=True)
            for place, gradient in zip(wanted, found, strict=True):
                sum_so_far = gradients[place]
                gradients[place] = gradient if sum_so_far is None else sum_so_far if gradient is None else sum_so_far.add_(gradient)
            scored.append((piece, Scores(scores.logprobs_N, scores.entropy_N, scores.loss.detach())))
        whole = in_line(scored)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(whole.logprobs_N, whole.entropy_N)
        return tuple(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        made, ctx.gradients = ctx.gradients, []
        return None, None, None, None, *(None if gradient is None else gradient.mul_(slopes[2]) for gradient in made)


Errors = tuple[float, float]
"""Relative errors of log-probabilities and of a gradient."""
EXACT = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest relative error where both ways compute in the type of the weights: well above its rounding, well below a wrong position."""
ROUNDING = 5.0
"""In a narrower type the group forward may lose so many times what plain rows themselves lose by it."""
NEGLIGIBLE = 0.01
"""Relative error that no narrow type is blamed for: plain rows may happen to lose next to nothing on a short group."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The group forward beside plain rows. A wrong mask or position shows in the type of the weights, a bad kernel in the narrow one."""

    weights_type: torch.dtype
    exact: Errors | None
    """Of the group forward in the type of the weights; None = its kernel does not run here in that type."""
    narrow: Errors | None = None
    """Of the group forward in the type that the policy computes in, from plain rows in that of the weights; None = the types are one."""
    plain: Errors = (0.0, 0.0)
    """Of plain rows, likewise: what the narrow type costs whoever computes in it."""

    @property
    def holds(self) -> bool:
        """Whether rounding explains all of the difference; a NaN is explained by nothing."""
        return all(error <= EXACT[self.weights_type] for error in self.exact or ()) and all(
            error <= max(ROUNDING * own, NEGLIGIBLE) for error, own in zip(self.narrow or (), self.plain, strict=False)
        )

    def __str__(self) -> str:
        kind = str(self.weights_type).removeprefix("torch.")
        told = "relative error {:.1e} of log-probabilities, {:.1e} of a gradient".format(*self.exact) if self.exact else "not comparable"
        if self.narrow is None:
            return told
        narrow, gradient = (f"{error:.1e} (plain rows: {own:.1e})" for error, own in zip(self.narrow, self.plain, strict=True))
        return f"{told} in {kind}; computed in the narrower type {narrow} and {gradient}"


def _relative_errors(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> Errors:
    values, gradients = (
        float((one.double() - other.double()).norm() / other.double().norm().clamp(min=torch.finfo(torch.float64).tiny))
        for one, other in zip(found, expected, strict=True)
    )
    return values, gradients


def checkpoint_layers(model: Any) -> None:
    """Activation checkpointing around the layers of tower and language model.

    transformers' own takes the cache away in training mode, so a prompt would leave nothing; this one leaves arguments alone.
    """
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and not isinstance(module.forward, partial):
            module.forward = partial(_checkpointed, module.forward)


def _checkpointed(layer: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return layer(*arguments, **options)
    return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False, **options)  # no dropout in these models' layers
