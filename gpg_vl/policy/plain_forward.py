"""Log-probabilities of completions the plain way: every completion is a row of its own, prompt and image included, all logits at once.

The slow twin of the group forward, and its oracle. An `nn.Module` whose `forward` takes whole groups, so that what accelerate prepares is
the module that is called.

Shape letters: R rows (completions), L longest prompt + completion, N completion tokens of all rows in one line, V vocabulary, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gpg_vl.policy.chunked_head import Scores, TokenLoss
from gpg_vl.policy.families import picture_tokens, prompt_positions, token_inputs
from gpg_vl.policy.load import Policy
from gpg_vl.policy.vision import tower_inputs
from gpg_vl.types import Completion, Prompt

PromptAndAnswers = tuple[Prompt, Sequence[Completion]]
"""A prompt and the completions of it that are scored."""


class UnsharedForward(nn.Module):
    """Scores of completions, one row each."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        super().__init__()
        self.model = policy.model
        self.policy = policy
        self.temperature = temperature

    def forward(self, asked: Sequence[PromptAndAnswers], loss: TokenLoss | None = None) -> Scores:
        """The scores of all completion tokens, group by group, completion by completion."""
        policy = self.policy
        with policy.autocast():
            logits_NV = self.model.lm_head(plain_states(policy, asked))
        tokens_N = completion_tokens(asked, policy.device)
        logprobs_N, entropy_N = score(logits_NV, tokens_N, self.temperature, policy.banned_ids)
        line_N = torch.arange(len(tokens_N), device=policy.device)
        return Scores(logprobs_N, entropy_N, loss(logprobs_N, line_N) if loss else logprobs_N.new_zeros(()))


def plain_states(policy: Policy, asked: Sequence[PromptAndAnswers]) -> Tensor:
    """[N, D] the state from which each completion token is predicted, every completion a row with its own prompt and images."""
    pairs = [(prompt, completion) for prompt, completions in asked for completion in completions]
    rows = [torch.tensor(prompt.input_ids + completion.token_ids) for prompt, completion in pairs]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=policy.pad_id).to(policy.device)
    visible = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(policy.device)
    inputs = tower_inputs([prompt for prompt, _ in pairs], policy.model)
    types = picture_tokens(policy.model, input_ids)
    positions, _ = prompt_positions(policy.model.model, input_ids, visible, types, inputs.get("image_grid_thw"))
    output = policy.model.model(
        input_ids=input_ids,
        attention_mask=visible,
        position_ids=positions,
        use_cache=False,
        **token_inputs(policy.model, types),
        **inputs,
    )
    spans = [(len(prompt.input_ids) - 1, len(prompt.input_ids) + len(completion.token_ids) - 1) for prompt, completion in pairs]
    return torch.cat([states[first:last] for states, (first, last) in zip(output.last_hidden_state, spans, strict=True)])


def completion_tokens(asked: Sequence[PromptAndAnswers], device: torch.device) -> Tensor:
    """[N] every completion token, group by group, completion by completion."""
    return torch.tensor([token for _, completions in asked for completion in completions for token in completion.token_ids], device=device)


def allowed_logits(logits: Tensor, temperature: float, banned_ids: Sequence[int]) -> Tensor:
    """[..., V] logits of the policy itself: at its temperature, placeholders impossible; float32 or wider."""
    wide = logits.float() if logits.dtype in {torch.bfloat16, torch.float16} else logits
    banned = torch.zeros(wide.shape[-1], dtype=torch.bool, device=wide.device)
    banned[list(banned_ids)] = True
    return (wide / temperature).masked_fill(banned, -torch.inf)


def score(logits_NV: Tensor, tokens_N: Tensor, temperature: float, banned_ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """[N] log-probability of each token and [N] entropy of each distribution, in nats; the entropy carries no gradient."""
    all_NV = allowed_logits(logits_NV, temperature, banned_ids).log_softmax(-1)
    with torch.no_grad():
        entropy_N = -(all_NV.exp() * all_NV.clamp(min=torch.finfo(all_NV.dtype).min)).sum(-1)
    return all_NV.gather(-1, tokens_N[:, None]).squeeze(-1), entropy_N
