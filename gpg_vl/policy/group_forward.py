"""Compute image and prompt once for all answers of a group: the module that is trained.

Groups go in; scores and the loss come out. A batch of groups that is larger than the token budget
is split by completions into pieces. The prompts go forward once, and their keys and values become
leaves. Each piece runs forward and backward against these leaves and adds to their gradient. One
backward through the prompts ends it. This is exact and needs no second forward. Seen from outside,
it is one forward and one backward.

Shape letters: P prompts, R rows per prompt, C longest completion, N completion tokens of a batch
(flat: all completions concatenated), n tokens of one piece, D width.
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

from gpg_vl.policy.chunked_head import LogitsRule, Scores, TokenLoss, check_head, score_in_chunks
from gpg_vl.policy.dropout import drops_inputs
from gpg_vl.policy.load import Policy
from gpg_vl.policy.out_of_memory import is_out_of_memory
from gpg_vl.policy.plain_forward import PromptAndAnswers, completion_tokens, plain_states
from gpg_vl.policy.shared_prefix import Prefix, extend, prefill, use_shared_prefix
from gpg_vl.policy.vision import Vision
from gpg_vl.policy.widened import held_wide, widened

PADDING = -1
"""Flat index of a padding token in a rectangle of completions."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Completions of several groups as a rectangle; each group has its longest first."""

    tokens_PRC: Tensor
    """Token ids."""
    index_PRC: Tensor
    """Flat index of each token among all completion tokens, group by group; PADDING elsewhere."""

    def take(self, rows: slice) -> "Rows":
        """Return some rows of every prompt, cut to the longest completion among them."""
        index = self.index_PRC[:, rows]
        width = int((index != PADDING).sum(-1).max())
        return Rows(self.tokens_PRC[:, rows, :width], index[..., :width])


def rows_of(asked: Sequence[PromptAndAnswers], pad_id: int, device: torch.device) -> Rows:
    """Arrange all completions in a rectangle [P, R, C]."""
    max_rows = max(len(completions) for _, completions in asked)
    max_length = 0
    for _, completions in asked:
        for completion in completions:
            max_length = max(max_length, len(completion.token_ids))
    shape = (len(asked), max_rows, max_length)
    tokens, index = torch.full(shape, pad_id), torch.full(shape, PADDING)
    first = 0  # flat index of the first token of a completion, in the order of the input
    for group, (_, completions) in enumerate(asked):
        starts: list[int] = []
        for completion in completions:
            starts.append(first)
            first += len(completion.token_ids)
        longest_first = sorted(
            range(len(completions)), key=lambda number: -len(completions[number].token_ids)
        )
        for row, number in enumerate(longest_first):
            ids, start = completions[number].token_ids, starts[number]
            tokens[group, row, : len(ids)] = torch.tensor(ids)
            index[group, row, : len(ids)] = torch.arange(start, start + len(ids))
    return Rows(tokens.to(device), index.to(device))


class GroupForward(nn.Module):
    """Scores of completions, with image and prompt computed once per group.

    It computes the same as `UnsharedForward`, faster.
    """

    def __init__(
        self,
        policy: Policy,
        temperature: float,
        *,
        tokens_at_once: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        """
        Args:
            tokens_at_once: larger batches are split by completions; None = never.
            checkpointing: keep only the input of each layer, and run layers again in the backward.
        """
        super().__init__()
        check_head(policy.model)
        self.model = policy.model
        self.policy = policy
        self.rule = LogitsRule(temperature, policy.banned_ids)
        self.tokens_at_once = tokens_at_once
        if self.shares:
            use_shared_prefix(policy.model)
        if checkpointing:
            checkpoint_layers(policy.model)

    @property
    def shares(self) -> bool:
        """True if prompts are computed once per group."""
        return not self.policy.sharing.why_not

    def forward(self, asked: Sequence[PromptAndAnswers], loss: TokenLoss | None = None) -> Scores:
        """Return the scores of all completion tokens, group by group, completion by completion.

        Only the loss carries a gradient.
        """
        with self.policy.autocast():
            if not self.shares:
                return self._plain(asked, loss)
            prefix = prefill(self.policy, [prompt for prompt, _ in asked])
            pieces = self._pieces(rows_of(asked, self.policy.pad_id, self.policy.device), prefix)
            if loss is None or len(pieces) == 1 or not torch.is_grad_enabled():
                scored = [(piece, self._scores(prefix, piece, loss)) for piece in pieces]
                return _in_input_order(scored)
            return self._piecewise(prefix, pieces, loss)

    def agreement(self, asked: PromptAndAnswers) -> "Agreement":
        """Compare this forward with plain rows on one group.

        Raises:
            RuntimeError: a kernel does not work on this machine.
        """
        if self.policy.dtype != torch.bfloat16:
            expected = self._logprobs_and_grad(self._plain, asked)
            found = self._logprobs_and_grad(self.forward, asked)
            return Agreement(self.policy.dtype, _relative_errors(found, expected))
        weights_type = torch.float32  # that of trained weights, which others are widened to
        exact = self._computing_in(weights_type)
        with widened(self.model), held_wide(self._compared_parameter()):
            expected = exact._logprobs_and_grad(exact._plain, asked)
        narrow = _relative_errors(self._logprobs_and_grad(self.forward, asked), expected)
        plain = _relative_errors(self._logprobs_and_grad(self._plain, asked), expected)
        try:
            with widened(self.model), held_wide(self._compared_parameter()):
                found = exact._logprobs_and_grad(exact.forward, asked)
            errors = _relative_errors(found, expected)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # A kernel that training does not use may lack this type. Then only the narrow type is
            # judged, and the report says so.
            errors = None
        return Agreement(weights_type, errors, narrow, plain)

    def _computing_in(self, dtype: torch.dtype) -> "GroupForward":
        """Return the same forward in another type; features cached in this type are not used."""
        policy = replace(self.policy, dtype=dtype, vision=Vision(self.model, None))
        return GroupForward(policy, self.rule.temperature, tokens_at_once=self.tokens_at_once)

    def _logprobs_and_grad(
        self,
        run: Callable[[Sequence[PromptAndAnswers], TokenLoss | None], Scores],
        asked: PromptAndAnswers,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of one group, and the gradient of their sum."""
        parameter = self._compared_parameter()
        with self.policy.autocast():
            scores = run([asked], lambda logprobs_n, index_n: logprobs_n.sum())
        (gradient,) = torch.autograd.grad(
            scores.loss, parameter, allow_unused=True, materialize_grads=True
        )
        return scores.logprobs_N.detach(), gradient

    def _compared_parameter(self) -> nn.Parameter:
        """Return the parameter whose gradient is compared.

        It is the first trained one of the first layer, so that its gradient passes through all
        layers. It is no A of an adapter, whose gradient is zero where B is.
        """
        first_layer = self.model.model.get_decoder().layers[0]
        for name, parameter in [*first_layer.named_parameters(), *self.named_parameters()]:
            if parameter.requires_grad and ".lora_A." not in name:
                return parameter
        raise ValueError("no parameter is trained")

    def _plain(self, asked: Sequence[PromptAndAnswers], loss: TokenLoss | None) -> Scores:
        """Return the scores with one row per completion, as `UnsharedForward` does."""
        tokens_N = completion_tokens(asked, self.policy.device)
        index_N = torch.arange(len(tokens_N), device=tokens_N.device)
        states_ND = plain_states(self.policy, asked)
        return score_in_chunks(states_ND, self.model.lm_head, tokens_N, self.rule, loss, index_N)

    def _pieces(self, rows: Rows, prefix: Prefix) -> list[Rows]:
        """Split the rows into pieces that fit the token budget, with one row per group at least."""
        prompts, count, width = rows.tokens_PRC.shape
        prompt_tokens = prefix.visible_PL.numel()
        budget = self.tokens_at_once or prompt_tokens + rows.tokens_PRC.numel()
        rows_at_once = (budget - prompt_tokens) // (prompts * width)
        rows_at_once = min(count, max(1, rows_at_once))
        return [
            rows.take(slice(first, first + rows_at_once)) for first in range(0, count, rows_at_once)
        ]

    def _scores(self, prefix: Prefix, rows: Rows, loss: TokenLoss | None) -> Scores:
        """Return the scores of the tokens of these rows, flat in the order of the rectangle."""
        row_count, width = rows.tokens_PRC.shape[1:]
        # The last state of the prompt predicts the first token of every row: [P, R, 1, D].
        states_PRCD = prefix.last_hidden_PD[:, None, None].expand(-1, row_count, 1, -1)
        if width > 1:  # the last token is only predicted, it predicts nothing
            further = extend(self.policy, prefix, rows.tokens_PRC[..., :-1], 0, None)
            states_PRCD = torch.cat([states_PRCD, further], 2)
        real = rows.index_PRC != PADDING
        return score_in_chunks(
            states_PRCD[real],
            self.model.lm_head,
            rows.tokens_PRC[real],
            self.rule,
            loss,
            rows.index_PRC[real],
        )

    def _piecewise(self, prefix: Prefix, pieces: Sequence[Rows], loss: TokenLoss) -> Scores:
        """Run forward and backward piece by piece.

        The tensors of the prefix are the inputs of the autograd function, so that its backward
        passes their summed gradients on through the prompts, in one go.
        """

        def score_piece(piece: Rows, prefix_tensors: Sequence[Tensor]) -> Scores:
            return self._scores(_with_tensors(prefix, prefix_tensors), piece, loss)

        prefix_tensors = (*prefix.keys, *prefix.values, prefix.last_hidden_PD)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        outputs: Any = _Piecewise.apply(
            score_piece,
            pieces,
            len(prefix_tensors),
            *prefix_tensors,
            *parameters,
        )
        return Scores(*outputs)


def _in_input_order(scored: Sequence[tuple[Rows, Scores]]) -> Scores:
    """Join the scores of pieces and sort them by flat index."""
    indices: list[Tensor] = []
    logprobs: list[Tensor] = []
    entropies: list[Tensor] = []
    losses: list[Tensor] = []
    for rows, scores in scored:
        indices.append(rows.index_PRC[rows.index_PRC != PADDING])
        logprobs.append(scores.logprobs_N)
        entropies.append(scores.entropy_N)
        losses.append(scores.loss)
    order = torch.cat(indices).argsort()
    logprobs_N = torch.cat(logprobs)[order]
    entropy_N = torch.cat(entropies)[order]
    return Scores(logprobs_N, entropy_N, torch.stack(losses).sum())


def _with_tensors(prefix: Prefix, tensors: Sequence[Tensor]) -> Prefix:
    """Return the prefix with other keys, values and last states, in this order."""
    layers = len(prefix.keys)
    return replace(
        prefix,
        keys=tuple(tensors[:layers]),
        values=tuple(tensors[layers:-1]),
        last_hidden_PD=tensors[-1],
    )


class _Piecewise(torch.autograd.Function):
    """Loss of all pieces, with the gradient computed in `forward`.

    The gradient is that of the tensors of the prefix and of the parameters.
    """

    @staticmethod
    def forward(
        ctx: Any,
        score_piece: Callable[[Rows, Sequence[Tensor]], Scores],
        pieces: Sequence[Rows],
        prefix_count: int,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return the scores of all pieces; the graph of only one piece exists at a time.

        Args:
            score_piece: computes the scores of a piece from the tensors of the prefix.
            prefix_count: number of `tensors` that belong to the prefix; the others are parameters.
        """
        leaves = [
            tensor.detach().requires_grad_(tensor.requires_grad)
            for tensor in tensors[:prefix_count]
        ]
        sources = [*leaves, *tensors[prefix_count:]]
        trained = [position for position, source in enumerate(sources) if source.requires_grad]
        gradients: list[Tensor | None] = [None] * len(sources)
        scored: list[tuple[Rows, Scores]] = []
        for piece in pieces:
            with torch.enable_grad():
                scores = score_piece(piece, leaves)
            found = torch.autograd.grad(
                scores.loss, [sources[position] for position in trained], allow_unused=True
            )
            for position, gradient in zip(trained, found, strict=True):
                gradients[position] = _added(gradients[position], gradient)
            # Detached, so that the graph of this piece is freed before the next one.
            scored.append((piece, scores._replace(loss=scores.loss.detach())))
        joined = _in_input_order(scored)
        ctx.gradients = gradients
        ctx.mark_non_differentiable(joined.logprobs_N, joined.entropy_N)
        return tuple(joined)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients of `forward` by the gradient of the loss; possible once only."""
        gradients: list[Tensor | None] = ctx.gradients
        ctx.gradients = []
        loss_grad = grads[2]
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(loss_grad)
        no_grads = (None, None, None)  # of the three arguments before the tensors
        return (*no_grads, *gradients)


def _added(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """Add a gradient to a sum, in place; None stands for zero.

    A piece of single-token completions has no gradient for the layers, which it does not use.
    """
    if total is None:
        return gradient
    if gradient is None:
        return total
    return total.add_(gradient)


Errors = tuple[float, float]
"""Relative errors of log-probabilities and of a gradient."""
EXACT = {torch.float64: 1e-5, torch.float32: 1e-3}
"""Largest relative error where both forwards compute in the type of the weights: well above its
rounding, well below the effect of a wrong position."""
ROUNDING = 5.0
"""Largest error of the group forward in a narrower type, as a multiple of the error of plain rows
in that type."""
NEGLIGIBLE = 0.01
"""Relative error that is always allowed in a narrow type: on a short group, plain rows may have
almost no error by chance."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Result of comparing the group forward with plain rows.

    A wrong mask or position shows in the type of the weights, a bad kernel in the narrow type.
    """

    weights_type: torch.dtype
    exact: Errors | None
    """Errors of the group forward in the type of the weights; None = its kernel does not run here
    in that type."""
    narrow: Errors | None = None
    """Errors of the group forward in the type that the policy computes in, compared with plain rows
    in the type of the weights; None = the types are the same."""
    plain: Errors = (0.0, 0.0)
    """Errors of plain rows in the type that the policy computes in: the cost of the narrow type
    itself."""

    @property
    def holds(self) -> bool:
        """True if rounding explains all of the difference; a NaN is never explained."""
        # Written with <=, which is False for a NaN.
        exact_holds = narrow_holds = True
        if self.exact is not None:
            limit = EXACT[self.weights_type]
            exact_holds = self.exact[0] <= limit and self.exact[1] <= limit
        if self.narrow is not None:
            for error, own in zip(self.narrow, self.plain, strict=True):
                narrow_holds = narrow_holds and error <= max(ROUNDING * own, NEGLIGIBLE)
        return exact_holds and narrow_holds

    def __str__(self) -> str:
        exact = "not comparable"
        if self.exact is not None:
            logprobs_error, grad_error = self.exact
            exact = (
                f"relative error {logprobs_error:.1e} of log-probabilities, {grad_error:.1e} of a "
                "gradient"
            )
        if self.narrow is None:
            return exact
        kind = str(self.weights_type).removeprefix("torch.")
        logprobs = f"{self.narrow[0]:.1e} (plain rows: {self.plain[0]:.1e})"
        gradient = f"{self.narrow[1]:.1e} (plain rows: {self.plain[1]:.1e})"
        return f"{exact} in {kind}; computed in the narrower type {logprobs} and {gradient}"


def _relative_errors(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> Errors:
    """Return the relative errors of log-probabilities and of a gradient."""
    return _relative_error(found[0], expected[0]), _relative_error(found[1], expected[1])


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of the expected tensor."""
    found, expected = found.double(), expected.double()
    size = expected.norm().clamp(min=torch.finfo(torch.float64).tiny)
    return float((found - expected).norm() / size)


def checkpoint_layers(model: Any) -> None:
    """Wrap the layers of vision tower and language model in activation checkpointing, once.

    The checkpointing of transformers removes the cache in training mode, so the keys and values of
    a prompt would be lost. This one leaves the arguments unchanged.
    """
    for module in model.modules():
        if not isinstance(module, GradientCheckpointingLayer):
            continue
        if not isinstance(module.forward, partial):
            module.forward = partial(_checkpointed, module.forward)


def _checkpointed(layer: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a layer; where gradients are enabled, run it again in the backward."""
    if not torch.is_grad_enabled():
        return layer(*arguments, **options)
    # The random state costs time to save, and only a dropout in the layer draws from it.
    owner = getattr(layer, "__self__", None)
    draws = isinstance(owner, nn.Module) and drops_inputs(owner.modules())
    return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=draws, **options)
