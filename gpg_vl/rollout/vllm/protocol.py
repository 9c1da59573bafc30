"""What a vLLM is asked for one prompt, and what its answer must be; the same in this process and over HTTP.

A prompt goes in with one placeholder an image (vLLM expands it itself, and would silently expand an expanded one again) together with the
pictures; one request asks for the whole group. The expanded ids that come back must be the trainer's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from gpg_vl.errors import MismatchError, UserError
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.engine import Sampling
from gpg_vl.types import Completion, Prompt

SUPPORTED_VLLM = ">=0.30,<0.33"
"""The releases whose calls are the ones used here; the extra `gpg-vl[vllm]` states the same."""
IMPOSSIBLE = -1e9
"""Added to the logits of banned tokens: their probability is 0 in float32, as with the trainer's -inf."""
HOTTEST = 2.0
"""The highest temperature that vLLM accepts."""
TESTED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families that the engine contract is tested with on a real vLLM; others write pictures into a prompt in ways of their own."""
LARGEST_SEED = 2**62
"""vLLM adds the completion's index to the seed of a request; the sum must fit into 63 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One completion as a vLLM gives it back."""

    token_ids: tuple[int, ...]
    """[T]"""
    logprobs: tuple[float, ...]
    """[T] of each sampled token."""
    finish: str | None
    """vLLM's finish reason."""


def check_version(version: str, where: str) -> None:
    """Make sure that a vLLM is one whose calls are known.

    Raises:
        UserError: it is not.
    """
    if not SpecifierSet(SUPPORTED_VLLM).contains(version.partition("+")[0], prereleases=True):
        raise UserError(f"rollout.engine: {where} is vLLM {version}, expected {SUPPORTED_VLLM}; pip install 'gpg-vl[vllm]'")


def check_policy(policy: Policy) -> str:
    """The policy's number format by vLLM's name.

    Raises:
        UserError: vLLM does not compute in it, or the model is of a family that has not been tested with vLLM.
    """
    family, name = policy.model.config.model_type, str(policy.dtype).removeprefix("torch.")
    if family not in TESTED:
        raise UserError(f"rollout.engine: {family} is not tested with vLLM, only {', '.join(TESTED)}; take engine: transformers")
    if name == "float64":
        raise UserError("rollout.engine: vLLM knows no float64; set policy.dtype to float32 or bfloat16, or take engine: transformers")
    return name


def whole_prompts(window: int) -> dict[str, Any]:
    """vLLM's options for a CPU, where a prompt must be read in one piece.

    vLLM winds a request's random stream back when it has read a prompt in part, and torch's CPU generator cannot ("does not use offset").
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": window}


def unexpanded_ids(policy: Policy, prompt: Prompt) -> list[int]:
    """The prompt's ids with one placeholder an image."""
    return policy.processor.tokenizer(prompt.text)["input_ids"]


def sampling_fields(policy: Policy, sampling: Sampling, seeds: Sequence[int]) -> dict[str, Any]:
    """vLLM's sampling parameters for one group; every one that a checkpoint's own defaults could change is stated.

    The completions' streams are derived by vLLM from the first seed and their index, so they depend on the group's seeds alone. Greedy
    answers report log-probabilities at temperature 1.

    Raises:
        UserError: the temperature is one that vLLM refuses.
    """
    if sampling.temperature > HOTTEST and not sampling.greedy:
        raise UserError(f"rollout.temperature: got {sampling.temperature:g}, vLLM samples at most at {HOTTEST:g}")
    return {
        "n": len(seeds),
        "seed": seeds[0] % LARGEST_SEED,
        "temperature": 0.0 if sampling.greedy else sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": sampling.max_tokens,
        "min_tokens": 0,
        "logprobs": 0,
        "stop_token_ids": sorted(policy.end_ids),
        "ignore_eos": False,
        "detokenize": False,
        "logit_bias": dict.fromkeys(policy.banned_ids, IMPOSSIBLE),
    }


def check_prompt_ids(policy: Policy, prompt: Prompt, got: Sequence[int]) -> None:
    """Make sure that the engine read the prompt as the trainer does.

    Raises:
        MismatchError: it did not; says where the two part.
    """
    if tuple(got) == prompt.input_ids:
        return
    placeholder = policy.banned_ids[0]
    name = f"{prompt.sample.id}: the engine read {len(got)} prompt tokens, the trainer {len(prompt.input_ids)}"
    if _collapsed(got, placeholder) != _collapsed(prompt.input_ids, placeholder):
        raise MismatchError(f"{name}, and their text differs: tokenizer mismatch; serve the checkpoint that is trained")
    visual = [list(ids).count(placeholder) for ids in (got, prompt.input_ids)]
    raise MismatchError(
        f"{name}; the images are {visual[0]} tokens there and {visual[1]} here: processor mismatch (policy.min_pixels and max_pixels must "
        "hold there too), or an expanded placeholder was expanded again"
    )


def _collapsed(ids: Sequence[int], placeholder: int) -> list[int]:
    """Each run of placeholders as one."""
    return [token for token, run in groupby(ids) for token in ([token] if token == placeholder else run)]


def completion(policy: Policy, prompt: Prompt, answer: Answer, sampling: Sampling, version: int) -> Completion:
    """A completion born of an answer that has been checked.

    Raises:
        MismatchError: a banned token was sampled, log-probabilities are missing or no numbers, or it ends before its end.
    """
    ids, finish = answer.token_ids, answer.finish
    if banned := set(ids) & set(policy.banned_ids):
        raise MismatchError(f"{prompt.sample.id}: the engine sampled {sorted(banned)}, image or video placeholders; its ban is not obeyed")
    if len(answer.logprobs) != len(ids) or not ids or not all(map(math.isfinite, answer.logprobs)):
        raise MismatchError(f"{prompt.sample.id}: {len(ids)} tokens came with log-probabilities {answer.logprobs[:4]}...")
    ended: Literal["stop", "length"] = "stop" if ids[-1] in policy.end_ids else "length"
    if finish != ended:
        raise MismatchError(f"{prompt.sample.id}: the engine says finish {finish!r} after token {ids[-1]}, expected {ended!r}")
    if ended == "length" and len(ids) != sampling.max_tokens:
        told = f"cut off after {len(ids)} tokens, {sampling.max_tokens} were allowed"
        raise MismatchError(f"{prompt.sample.id}: {told}; the engine's window (--max-model-len) is too short, or it has a limit of its own")
    return Completion(token_ids=ids, logprobs=answer.logprobs, text=policy.decode(ids), finish=ended, version=version)
