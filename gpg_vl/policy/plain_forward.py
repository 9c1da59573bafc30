"""Compute log-probabilities of completions the plain way: one row per completion.

Every row holds its own prompt and images, and all logits exist at once. This is slow and simple;
the tests compare the group forward against it. `UnsharedForward` is an `nn.Module` whose `forward`
takes whole groups, so that the module that accelerate prepares is the module that is called.

Shape letters: R rows (completions), L longest prompt + completion, N completion tokens of all rows
(flat: concatenated), V vocabulary, D width.
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
        """Return the scores of all completion tokens, group by group, completion by completion."""
        policy = self.policy
        with policy.autocast():
            logits_NV = self.model.lm_head(plain_states(policy, asked))
        tokens_N = completion_tokens(asked, policy.device)
        logprobs_N, entropy_N = score(logits_NV, tokens_N, self.temperature, policy.banned_ids)
        if loss is None:
            return Scores(logprobs_N, entropy_N, logprobs_N.new_zeros(()))
        index_N = torch.arange(len(tokens_N), device=policy.device)
        return Scores(logprobs_N, entropy_N, loss(logprobs_N, index_N))


def plain_states(policy: Policy, asked: Sequence[PromptAndAnswers]) -> Tensor:
    """Compute the state from which each completion token is predicted, [N, D].

    Every completion is a row with its own prompt and images.
    """
    prompts: list[Prompt] = []
    rows: list[Tensor] = []
    spans: list[slice] = []
    for prompt, completions in asked:
        for completion in completions:
            prompts.append(prompt)
            rows.append(torch.tensor(prompt.input_ids + completion.token_ids))
            # The state at position i predicts the token at i + 1, so the span starts one earlier.
            first = len(prompt.input_ids) - 1
            spans.append(slice(first, first + len(completion.token_ids)))
    masks = [torch.ones_like(row) for row in rows]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=policy.pad_id).to(policy.device)
    visible = pad_sequence(masks, batch_first=True).to(policy.device)
    inputs = tower_inputs(prompts, policy.model)
    types = picture_tokens(policy.model, input_ids)
    positions, _ = prompt_positions(
        policy.model.model, input_ids, visible, types, inputs.get("image_grid_thw")
    )
    output = policy.model.model(
        input_ids=input_ids,
        attention_mask=visible,
        position_ids=positions,
        use_cache=False,
        **token_inputs(policy.model, types),
        **inputs,
    )
    pairs = zip(output.last_hidden_state, spans, strict=True)
    return torch.cat([states_LD[span] for states_LD, span in pairs])


def completion_tokens(asked: Sequence[PromptAndAnswers], device: torch.device) -> Tensor:
    """Return the ids of all completion tokens, [N], group by group, completion by completion."""
    token_ids: list[int] = []
    for _, completions in asked:
        for completion in completions:
            token_ids.extend(completion.token_ids)
    return torch.tensor(token_ids, device=device)


def allowed_logits(logits: Tensor, temperature: float, banned_ids: Sequence[int]) -> Tensor:
    """Return the logits of the sampling policy, [..., V], in float32 or wider.

    They are divided by the temperature, and placeholders are impossible (minus infinity).
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    banned = torch.zeros(wide.shape[-1], dtype=torch.bool, device=wide.device)
    banned[list(banned_ids)] = True
    return (wide / temperature).masked_fill(banned, -torch.inf)


def score(
    logits_NV: Tensor, tokens_N: Tensor, temperature: float, banned_ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return [N] log-probabilities of the tokens and [N] entropies of their distributions, in nats.

    The entropies carry no gradient.
    """
    all_NV = allowed_logits(logits_NV, temperature, banned_ids).log_softmax(-1)
    with torch.no_grad():
        # The clamp avoids 0 * -infinity, which is NaN, at banned ids.
        finite_NV = all_NV.clamp(min=torch.finfo(all_NV.dtype).min)
        entropy_N = -(all_NV.exp() * finite_NV).sum(-1)
    return all_NV.gather(-1, tokens_N[:, None]).squeeze(-1), entropy_N
