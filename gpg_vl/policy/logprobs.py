"""Log-probabilities of completions the plain way: every completion is a row of its own, prompt and image included.

The slow twin of the group forward, and its oracle. An `nn.Module` whose `forward` takes whole groups, so that what accelerate prepares is
the module that is called.

Shape letters: R rows (completions), L longest prompt + completion, N completion tokens of all rows in one line, V vocabulary, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gpg_vl.policy.load import Policy
from gpg_vl.types import Completion, Prompt

Asked = tuple[Prompt, Sequence[Completion]]
"""A prompt and the completions of it that are scored."""


class Scores(NamedTuple):
    """What the policy says of completion tokens, all rows in one line."""

    logprobs_N: Tensor
    """Log-probability of each token, at the sampling temperature, placeholders banned."""
    entropy_N: Tensor
    """Entropy of the distribution each token was drawn from, in nats; carries no gradient."""


class PlainForward(nn.Module):
    """Scores of completions, one row each."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        super().__init__()
        self.model = policy.model
        self.temperature = temperature
        self.banned_ids = list(policy.banned_ids)
        self.pad_id = policy.pad_id
        self.dtype = policy.dtype

    def forward(self, asked: Sequence[Asked]) -> Scores:
        """The scores of all completion tokens, group by group, completion by completion."""
        pairs = [(prompt, completion) for prompt, completions in asked for completion in completions]
        device = self.model.get_input_embeddings().weight.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            hidden_ND = self._hidden(pairs, device)
            logits_NV = self.model.lm_head(hidden_ND)
        return score(logits_NV, completion_tokens(asked, device), self.temperature, self.banned_ids)

    def _hidden(self, pairs: Sequence[tuple[Prompt, Completion]], device: torch.device) -> Tensor:
        """[N, D] the state from which each completion token is predicted."""
        rows = [torch.tensor(prompt.input_ids + completion.token_ids) for prompt, completion in pairs]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=self.pad_id).to(device)
        visible = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(device)
        inputs = gather_features([prompt for prompt, _ in pairs], input_ids.shape[1], self.model.dtype, device)
        positions, _ = self.model.model.get_rope_index(
            input_ids, inputs["mm_token_type_ids"], image_grid_thw=inputs.get("image_grid_thw"), attention_mask=visible
        )
        output = self.model.model(input_ids=input_ids, attention_mask=visible, position_ids=positions, use_cache=False, **inputs)
        states = output.last_hidden_state
        return torch.cat(
            [
                states[row, len(prompt.input_ids) - 1 : len(prompt.input_ids) + len(completion.token_ids) - 1]
                for row, (prompt, completion) in enumerate(pairs)
            ]
        )


def completion_tokens(asked: Sequence[Asked], device: torch.device) -> Tensor:
    """[N] every completion token, group by group, completion by completion."""
    return torch.tensor([token for _, completions in asked for completion in completions for token in completion.token_ids], device=device)


def gather_features(
    prompts: Sequence[Prompt], length: int, dtype: torch.dtype, device: torch.device, *, left: bool = False
) -> dict[str, Tensor]:
    """The processor's outputs of several prompts as one model input; token types are zero (text) beyond each prompt."""
    types = torch.zeros(len(prompts), length, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        size = len(prompt.input_ids)
        types[row, length - size if left else 0 : length if left else size] = prompt.features["mm_token_type_ids"][0]
    inputs = {"mm_token_type_ids": types.to(device)}
    for name in ("pixel_values", "image_grid_thw"):
        shown = [prompt.features[name] for prompt in prompts if name in prompt.features]
        if shown:
            joined = torch.cat(shown).to(device)
            inputs[name] = joined.to(dtype) if joined.is_floating_point() else joined
    return inputs


def allowed_logits(logits: Tensor, temperature: float, banned_ids: Sequence[int]) -> Tensor:
    """[..., V] logits of the policy itself: at its temperature, placeholders impossible; float32 or wider."""
    wide = logits.float() if logits.dtype in {torch.bfloat16, torch.float16} else logits
    banned = torch.zeros(wide.shape[-1], dtype=torch.bool, device=wide.device)
    banned[list(banned_ids)] = True
    return (wide / temperature).masked_fill(banned, -torch.inf)


def score(logits_NV: Tensor, tokens_N: Tensor, temperature: float, banned_ids: Sequence[int]) -> Scores:
    """Log-probability of each token and entropy of each distribution."""
    all_NV = allowed_logits(logits_NV, temperature, banned_ids).log_softmax(-1)
    with torch.no_grad():
        entropy_N = -(all_NV.exp() * all_NV.clamp(min=torch.finfo(all_NV.dtype).min)).sum(-1)
    return Scores(all_NV.gather(-1, tokens_N[:, None]).squeeze(-1), entropy_N)
