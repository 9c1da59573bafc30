"""From states to log-probabilities, entropies, loss and gradient in one chunked pass that never holds `[tokens, vocabulary]`.

The weights of a policy-gradient step are known before the forward, so a chunk's loss and its gradient are made while its logits exist, and
the logits are gone before the next chunk. The kernels that do the same elsewhere (Liger, cut cross-entropy) need Triton and know neither
the sampling temperature, nor banned ids, nor entropies, nor a ratio inside the loss; this is a page and runs anywhere.

Shape letters: N completion tokens in a line, n those of a chunk, V vocabulary, D width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gpg_vl.errors import UserError

TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""(log-probabilities [n], their places in the line [n]) -> loss []: a sum over tokens, so pieces of a line add up."""
CHUNK = 1 << 24
"""Logits that exist at a time: 64 MiB in float32, about 110 tokens of a 152k vocabulary."""


class Scores(NamedTuple):
    """What the policy says of completion tokens, all completions in one line, and what that costs."""

    logprobs_N: Tensor
    """Log-probability of each token, at the sampling temperature, placeholders banned."""
    entropy_N: Tensor
    """Entropy of the distribution each token was drawn from, in nats; carries no gradient."""
    loss: Tensor
    """[] what the token loss made of the log-probabilities; zero without one."""


class Rule(NamedTuple):
    """What makes logits a policy."""

    temperature: float
    banned_ids: tuple[int, ...]


def check_head(model: Any) -> None:
    """Refuse a model whose logits are more than one matrix product.

    Raises:
        UserError: they are.
    """
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if type(model.lm_head) is not nn.Linear or model.lm_head.bias is not None or cap:
        raise UserError(f"policy.model: {model.config.model_type} caps or shifts its logits, which the chunked head does not know")


def score_in_chunks(hidden_ND: Tensor, head: nn.Linear, tokens_N: Tensor, rule: Rule, loss: TokenLoss | None, line_N: Tensor) -> Scores:
    """The scores of tokens predicted from `hidden_ND`; the loss carries the gradient to states and head, the other two carry none."""
    return Scores(*_Chunked.apply(hidden_ND, head.weight, tokens_N, rule, loss, line_N))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, tokens_N: Tensor, rule: Rule, loss: TokenLoss | None, line_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[N] log-probabilities, [N] entropies and the loss; its gradient is made here too, while a chunk's [n, V] is at hand."""
        device = hidden_ND.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
        wants_hidden, wants_weight = (wanted and loss is not None for wanted in ctx.needs_input_grad[:2])
        ctx.hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        ctx.weight = torch.zeros_like(weight_VD) if wants_weight else None
        wide = torch.promote_types(dtype, torch.float32)
        logprobs_N = torch.empty(len(tokens_N), dtype=wide, device=hidden_ND.device)
        entropy_N, total = torch.empty_like(logprobs_N), torch.zeros((), dtype=wide, device=hidden_ND.device)
        with torch.autocast(device, enabled=False):
            weight = weight_VD.detach().to(dtype)
            for start in range(0, len(tokens_N), size := max(1, CHUNK // len(weight))):
                chunk = slice(start, start + size)
                hidden = hidden_ND[chunk].detach().to(dtype)
                logprobs_nV = _logprobs((hidden @ weight.T).to(wide), rule)
                probabilities_nV = logprobs_nV.exp()
                logprobs_N[chunk] = logprobs_nV.gather(-1, tokens_N[chunk, None]).squeeze(-1)
                entropy_N[chunk] = -torch.linalg.vecdot(probabilities_nV, logprobs_nV)
                if loss is None:
                    continue
                value, slope_n = _value_and_grad(loss, logprobs_N[chunk], line_N[chunk])
                total += value
                if not (wants_hidden or wants_weight):
                    continue
                gradient_nV = probabilities_nV.mul_(-slope_n[:, None]).scatter_add_(-1, tokens_N[chunk, None], slope_n[:, None])
                gradient = gradient_nV.div_(rule.temperature).to(dtype)
                if ctx.hidden is not None:
                    ctx.hidden[chunk] = (gradient @ weight).to(ctx.hidden.dtype)
                if ctx.weight is not None:
                    ctx.weight += gradient.T @ hidden
        ctx.mark_non_differentiable(logprobs_N, entropy_N)
        return logprobs_N, entropy_N, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The gradient made in `forward` times the loss's own slope; it can be had once."""
        made, ctx.hidden, ctx.weight = (ctx.hidden, ctx.weight), None, None
        hidden, weight = (None if gradient is None else gradient.mul_(slopes[2]) for gradient in made)
        return hidden, weight, None, None, None, None


def _logprobs(logits_nV: Tensor, rule: Rule) -> Tensor:
    """[n, V] log-probabilities in the place of the logits; a banned id's is so low that its probability is 0, yet finite."""
    if rule.temperature != 1:
        logits_nV /= rule.temperature
    logits_nV[:, list(rule.banned_ids)] = torch.finfo(logits_nV.dtype).min / 2
    return logits_nV.sub_(logits_nV.logsumexp(-1, keepdim=True))


def _value_and_grad(loss: TokenLoss, logprobs_n: Tensor, line_n: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf_n = logprobs_n.detach().requires_grad_()
        value = loss(leaf_n, line_n)
    return value.detach(), torch.autograd.grad(value, leaf_n)[0]
