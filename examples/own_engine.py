"""An engine: who samples the answers. This one writes them one by one, without any cache."""

import torch

from gpg_vl import RolloutEngine
from gpg_vl.policy.plain_forward import allowed_logits, plain_states
from gpg_vl.types import Completion


class OneByOne(RolloutEngine):
    """Slow and simple: the whole prompt and answer go through the model for every token."""

    def __init__(self, policy):
        self.policy, self.version = policy, 0

    def update_weights(self, policy, version):
        self.policy, self.version = policy, version  # the trainer's own weights, nothing to copy

    @torch.no_grad()
    def generate(self, prompts, sampling, seeds):
        groups = []
        for prompt, own_seeds in zip(prompts, seeds, strict=True):
            groups.append([self._answer(prompt, sampling, seed) for seed in own_seeds])
        return groups

    def _answer(self, prompt, sampling, seed):
        draw = torch.Generator().manual_seed(seed)  # the answer depends on its seed alone
        ids, logprobs = [], []
        while len(ids) < sampling.max_tokens and not set(ids[-1:]) & set(self.policy.end_ids):
            logprobs_V = self._next_token(prompt, ids, sampling.temperature)
            greedy = int(logprobs_V.argmax())
            drawn = int(torch.multinomial(logprobs_V.exp(), 1, generator=draw))
            ids.append(greedy if sampling.greedy else drawn)
            logprobs.append(float(logprobs_V[ids[-1]]))
        finish = "stop" if ids[-1] in self.policy.end_ids else "length"
        return self._completion(ids, logprobs, finish)

    def _next_token(self, prompt, ids, temperature):
        placeholder = self._completion([*ids, 0], [], "length")  # its last state predicts token 0
        state_D = plain_states(self.policy, [(prompt, [placeholder])])[-1]
        logits_V = self.policy.model.lm_head(state_D)
        return allowed_logits(logits_V, temperature, self.policy.banned_ids).log_softmax(-1)

    def _completion(self, ids, logprobs, finish):
        return Completion(
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
            text=self.policy.decode(ids),
            finish=finish,
            version=self.version,
        )
