"""Build vLLM's requests for one prompt and check its answers; the same in process and over HTTP.

A prompt is sent with one placeholder per image, together with the images: vLLM expands placeholders
itself, and would silently expand an expanded one again. One request asks for the whole group. The
expanded ids that come back must be the trainer's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from packaging.specifiers import SpecifierSet

from gpg_vl.errors import MismatchError, UserError, one_line
from gpg_vl.policy.load import Policy
from gpg_vl.rollout.engine import Sampling
from gpg_vl.types import Completion, Prompt

SUPPORTED_VLLM = ">=0.30,<0.33"
"""vLLM releases whose interfaces are the ones used here; equal to the extra `gpg-vl[vllm]`."""
IMPOSSIBLE = -1e9
"""Bias of the logits of banned tokens: their probability is 0 in float32, as with the trainer's
-inf."""
MAX_TEMPERATURE = 2.0
"""Highest temperature that vLLM accepts."""
TESTED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Model families that are tested with a real vLLM; others put images into a prompt in other
ways."""
MAX_IMAGES = 8
"""Images of one prompt that an engine accepts by default."""
MAX_SEED = 2**62
"""Seeds are taken modulo this: vLLM adds the completion's index to the seed of a request, and the
sum must fit into 63 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One completion as vLLM returns it."""

    token_ids: tuple[int, ...]
    """[T] sampled ids."""
    logprobs: tuple[float, ...]
    """[T] log-probability of each sampled id."""
    finish: str | None
    """vLLM's finish reason."""


def check_version(version: str, where: str) -> None:
    """Check that a vLLM is a supported release.

    Args:
        where: names the vLLM in the message, for instance an address.

    Raises:
        UserError: it is not.
    """
    release = version.partition("+")[0]  # without a local part such as +cu129
    if not SpecifierSet(SUPPORTED_VLLM).contains(release, prereleases=True):
        raise UserError(
            f"rollout.engine: {where} is vLLM {version}, expected {SUPPORTED_VLLM}; pip install "
            "'gpg-vl[vllm]'"
        )


def check_policy(policy: Policy) -> str:
    """Return vLLM's name of the policy's number type.

    Raises:
        UserError: vLLM does not compute in it, or the model's family is not tested with vLLM.
    """
    family = policy.model.config.model_type
    if family not in TESTED:
        raise UserError(
            f"rollout.engine: {family} is not tested with vLLM, only {', '.join(TESTED)}; take "
            "engine: transformers"
        )
    name = str(policy.dtype).removeprefix("torch.")
    if name == "float64":
        raise UserError(
            "rollout.engine: vLLM knows no float64; set policy.dtype to float32 or bfloat16, or "
            "take engine: transformers"
        )
    return name


def shared_options(images: int) -> dict[str, Any]:
    """Return vLLM's options that decide what is sampled and reported, the same in every engine.

    Args:
        images: maximum number of images of one prompt.
    """
    return {
        "limit_mm_per_prompt": {"image": images, "video": 0},
        # Log-probabilities at the sampling temperature, with banned tokens left out.
        "logprobs_mode": "processed_logprobs",
        # The checkpoint's own generation config is not obeyed.
        "generation_config": "vllm",
    }


def whole_prompts(window: int) -> dict[str, Any]:
    """Return vLLM's options for a CPU, where a prompt must be processed in one piece.

    After a part of a prompt vLLM rewinds the request's random generator, and torch's CPU generator
    cannot do that ("does not use offset").
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": window}


def unexpanded_ids(policy: Policy, prompt: Prompt) -> list[int]:
    """Return the prompt's ids with one placeholder per image."""
    return policy.processor.tokenizer(prompt.text)["input_ids"]


def sampling_fields(policy: Policy, sampling: Sampling, seeds: Sequence[int]) -> dict[str, Any]:
    """Return vLLM's sampling parameters for one group.

    Every parameter that a checkpoint's generation config could change is set. vLLM derives the
    random streams of the completions from the first seed and their index, so they depend only on
    the group's seeds. Greedy answers report log-probabilities at temperature 1.

    Raises:
        UserError: vLLM refuses the temperature.
    """
    if sampling.temperature > MAX_TEMPERATURE and not sampling.greedy:
        raise UserError(
            f"rollout.temperature: got {sampling.temperature:g}, vLLM samples at most at "
            f"{MAX_TEMPERATURE:g}"
        )
    return {
        "n": len(seeds),
        "seed": seeds[0] % MAX_SEED,
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
    """Check that the engine's ids of the prompt are the trainer's.

    Raises:
        MismatchError: they are not; says whether texts or images differ.
    """
    if tuple(got) == prompt.input_ids:
        return
    placeholder = policy.banned_ids[0]
    problem = (
        f"{one_line(prompt.sample.id)}: the engine read {len(got)} prompt tokens, the trainer "
        f"{len(prompt.input_ids)}"
    )
    if _collapsed(got, placeholder) != _collapsed(prompt.input_ids, placeholder):
        raise MismatchError(
            f"{problem}, and their text differs: tokenizer mismatch; serve the checkpoint that is "
            "trained"
        )
    engine_tokens = list(got).count(placeholder)
    trainer_tokens = list(prompt.input_ids).count(placeholder)
    raise MismatchError(
        f"{problem}; the images are {engine_tokens} tokens there and {trainer_tokens} here: "
        "processor mismatch (policy.min_pixels and max_pixels must hold there too), or an "
        "expanded placeholder was expanded again"
    )


def _collapsed(ids: Sequence[int], placeholder: int) -> list[int]:
    """Replace each run of placeholders by one: what is left are the texts between the images."""
    collapsed: list[int] = []
    for token in ids:
        if token != placeholder or collapsed[-1:] != [placeholder]:
            collapsed.append(token)
    return collapsed


def completions(
    policy: Policy,
    prompt: Prompt,
    answers: Sequence[Answer],
    count: int,
    sampling: Sampling,
    version: int,
) -> list[Completion]:
    """Check the answers to one prompt and return them as completions.

    Args:
        count: number of answers that were asked for.

    Raises:
        MismatchError: there are more or fewer, or one of them is wrong (`completion`).
    """
    if len(answers) != count:
        raise MismatchError(
            f"{one_line(prompt.sample.id)}: asked for {count} completions, got {len(answers)}"
        )
    return [completion(policy, prompt, answer, sampling, version) for answer in answers]


def completion(
    policy: Policy, prompt: Prompt, answer: Answer, sampling: Sampling, version: int
) -> Completion:
    """Check an answer and return it as a completion.

    Raises:
        MismatchError: a banned token was sampled, log-probabilities are missing or not finite, or
            the completion ends too early.
    """
    name, ids, finish = prompt.sample.id, answer.token_ids, answer.finish
    banned = set(ids) & set(policy.banned_ids)
    if banned:
        raise MismatchError(
            f"{name}: the engine sampled {sorted(banned)}, image or video placeholders; its ban is "
            "not obeyed"
        )
    if len(answer.logprobs) != len(ids) or not ids or not all(map(math.isfinite, answer.logprobs)):
        raise MismatchError(
            f"{name}: {len(ids)} tokens came with log-probabilities {answer.logprobs[:4]}..."
        )
    expected: Literal["stop", "length"] = "stop" if ids[-1] in policy.end_ids else "length"
    if finish != expected:
        raise MismatchError(
            f"{name}: the engine reports finish {finish!r} after token {ids[-1]}, expected "
            f"{expected!r}"
        )
    if expected == "length" and len(ids) != sampling.max_tokens:
        raise MismatchError(
            f"{name}: cut off after {len(ids)} tokens, {sampling.max_tokens} were allowed; the "
            "engine's window (--max-model-len) is too short, or it has a limit of its own"
        )
    return Completion(
        token_ids=ids,
        logprobs=answer.logprobs,
        text=policy.decode(ids),
        finish=expected,
        version=version,
    )
