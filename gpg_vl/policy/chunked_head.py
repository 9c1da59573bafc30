"""Compute log-probabilities, entropies, loss and gradient from hidden states, chunk by chunk.

This is a chunked (fused) linear cross-entropy: it never holds logits of shape [tokens, vocabulary].
The weights of a policy-gradient step are known before the forward. So the loss of a chunk and its
gradient are computed while the logits of that chunk exist, and these logits are freed before the
next chunk begins.

Liger's chunked losses know a temperature and a probability ratio, but not banned ids, entropies or
a loss of the caller's own.

Shape letters: N completion tokens of a batch (flat: all completions concatenated), n tokens of one
chunk, V vocabulary, D width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpg_vl.errors import UserError
from gpg_vl.policy.load import compute_dtype

TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities [n], flat indices of these tokens [n]) -> loss []. The loss must be a sum over
tokens, so that the losses of chunks add up to the loss of the batch."""
CHUNK = 1 << 24
"""Logits that exist at a time: 64 MiB in float32, about 110 tokens of a 152k vocabulary."""


class Scores(NamedTuple):
    """Log-probabilities and entropies of completion tokens (flat), and the loss over them."""

    logprobs_N: Tensor
    """Log-probability of each token, at the sampling temperature, with placeholders banned."""
    entropy_N: Tensor
    """Entropy of the distribution that each token was sampled from, in nats; without gradient."""
    loss: Tensor
    """[] value of the token loss; zero if there is none."""


class LogitsRule(NamedTuple):
    """Changes that turn the logits of the model into those of the sampling policy."""

    temperature: float
    banned_ids: tuple[int, ...]


def check_head(model: Any) -> None:
    """Refuse a model whose logits are more than one matrix product.

    Raises:
        UserError: the model has a bias in its head, another kind of head, or caps its logits.
    """
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if type(model.lm_head) is not nn.Linear or model.lm_head.bias is not None or cap:
        raise UserError(
            f"policy.model: {model.config.model_type} caps or shifts its logits, which the chunked "
            "head does not support"
        )


def score_in_chunks(
    hidden_ND: Tensor,
    head: nn.Linear,
    tokens_N: Tensor,
    rule: LogitsRule,
    loss: TokenLoss | None,
    index_N: Tensor,
) -> Scores:
    """Compute the scores of tokens that are predicted from `hidden_ND`.

    Only the loss carries a gradient, to the hidden states and to the weight of the head.

    Args:
        index_N: flat index of each token, passed on to `loss`.
    """
    return Scores(*_ChunkedScores.apply(hidden_ND, head.weight, tokens_N, rule, loss, index_N))


class _ChunkedScores(torch.autograd.Function):
    """Autograd function of `score_in_chunks`: the gradient is computed in `forward`."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        tokens_N: Tensor,
        rule: LogitsRule,
        loss: TokenLoss | None,
        index_N: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return [N] log-probabilities, [N] entropies and the loss; keep its gradient in `ctx`."""
        device = hidden_ND.device
        dtype = compute_dtype(hidden_ND)
        wide = torch.promote_types(dtype, torch.float32)
        needs_hidden_grad = ctx.needs_input_grad[0] and loss is not None
        needs_weight_grad = ctx.needs_input_grad[1] and loss is not None
        ctx.hidden_grad_ND = torch.empty_like(hidden_ND) if needs_hidden_grad else None
        weight_grad_VD = None
        if needs_weight_grad:
            # Hundreds of chunks are added: a sum in half precision would lose the later ones.
            sum_dtype = torch.promote_types(weight_VD.dtype, torch.float32)
            weight_grad_VD = torch.zeros_like(weight_VD, dtype=sum_dtype)
        logprobs_N = torch.empty(len(tokens_N), dtype=wide, device=device)
        entropy_N = torch.empty_like(logprobs_N)
        total_loss = torch.zeros((), dtype=wide, device=device)
        # The type is cast by hand below: the logits must be wide, and autocast would narrow them.
        with torch.autocast(device.type, enabled=False):
            weight = weight_VD.detach().to(dtype)
            size = max(1, CHUNK // len(weight))
            for start in range(0, len(tokens_N), size):
                chunk = slice(start, start + size)
                hidden = hidden_ND[chunk].detach().to(dtype)
                logprobs_nV = _logprobs((hidden @ weight.T).to(wide), rule)
                probabilities_nV = logprobs_nV.exp()
                logprobs_N[chunk] = logprobs_nV.gather(-1, tokens_N[chunk, None]).squeeze(-1)
                entropy_N[chunk] = -torch.linalg.vecdot(probabilities_nV, logprobs_nV)
                if loss is None:
                    continue
                value, grad_n = _value_and_grad(loss, logprobs_N[chunk], index_N[chunk])
                total_loss += value
                if not (needs_hidden_grad or needs_weight_grad):
                    continue
                grad_nV = _logits_grad(probabilities_nV, tokens_N[chunk], grad_n, rule).to(dtype)
                if ctx.hidden_grad_ND is not None:
                    ctx.hidden_grad_ND[chunk] = (grad_nV @ weight).to(ctx.hidden_grad_ND.dtype)
                if weight_grad_VD is not None:
                    weight_grad_VD += grad_nV.T @ hidden
        ctx.weight_grad_VD = None
        if weight_grad_VD is not None:
            ctx.weight_grad_VD = weight_grad_VD.to(weight_VD.dtype)
        ctx.mark_non_differentiable(logprobs_N, entropy_N)
        return logprobs_N, entropy_N, total_loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradient of `forward` by the gradient of the loss; possible once only."""
        hidden_grad_ND, ctx.hidden_grad_ND = ctx.hidden_grad_ND, None
        weight_grad_VD, ctx.weight_grad_VD = ctx.weight_grad_VD, None
        loss_grad = grads[2]
        if hidden_grad_ND is not None:
            hidden_grad_ND.mul_(loss_grad)
        if weight_grad_VD is not None:
            weight_grad_VD.mul_(loss_grad)
        return hidden_grad_ND, weight_grad_VD, None, None, None, None


def _logprobs(logits_nV: Tensor, rule: LogitsRule) -> Tensor:
    """Overwrite logits with log-probabilities, [n, V].

    The logit of a banned id becomes so low that its probability is 0, but it stays finite: an
    infinity times a probability of 0 would make the entropy NaN.
    """
    if rule.temperature != 1:
        logits_nV /= rule.temperature
    logits_nV[:, list(rule.banned_ids)] = torch.finfo(logits_nV.dtype).min / 2
    return logits_nV.sub_(logits_nV.logsumexp(-1, keepdim=True))


def _logits_grad(
    probabilities_nV: Tensor, tokens_n: Tensor, grad_n: Tensor, rule: LogitsRule
) -> Tensor:
    """Overwrite probabilities with the gradient of the loss with respect to the logits, [n, V].

    The log-probability of token t has the gradient (one_hot(t) - probabilities) / temperature.
    """
    grad_nV = probabilities_nV.mul_(-grad_n[:, None])
    grad_nV = grad_nV.scatter_add_(-1, tokens_n[:, None], grad_n[:, None])
    return grad_nV.div_(rule.temperature)


def _value_and_grad(loss: TokenLoss, logprobs_n: Tensor, index_n: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss [] of a chunk and its gradient [n] with respect to the log-probabilities."""
    with torch.enable_grad():
        leaf_n = logprobs_n.detach().requires_grad_()
        value = loss(leaf_n, index_n)
    return value.detach(), torch.autograd.grad(value, leaf_n)[0]
