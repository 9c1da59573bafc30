"""Find out why an engine disagrees with the trainer: one experiment for each known fault.

An experiment names its cause if it makes the gap vanish (it leaves no more than rounding), and does
so again with other answers. Nothing is concluded from a gap that is hardly larger than rounding,
and nothing from likelihood: if no experiment explains the gap, its cause is unknown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpg_vl.policy.plain_forward import PromptAndAnswers, allowed_logits, plain_states
from gpg_vl.rollout.gate.altered_prompts import (
    with_grey_pictures,
    with_new_pictures,
    with_new_words,
    without_pictures,
)
from gpg_vl.rollout.gate.rounding import Gap, portions, score
from gpg_vl.types import Completion, Prompt

if TYPE_CHECKING:
    from gpg_vl.rollout.gate.vision_gate import GateCheck

REPEATS = 2
"""Number of times that an experiment must succeed."""
COMPLETIONS = 8
"""Completions per prompt in an experiment."""
MIN_EXCESS = 2.0
"""Smallest gap, in multiples of what is allowed, of which a cause is looked for. The answers of
each experiment must show as much too: an experiment that could not have shown the fault explains
nothing."""
CANDIDATES = 512
"""Number of most likely tokens among which a cut of the distribution is looked for."""
SHARE_ERROR = 1e-5
"""Rounding error of the sums of probabilities in an engine's top-p."""
TOP_K = tuple(range(1, 101))
TOP_P = tuple(percent / 100 for percent in range(1, 100))
Hypothesis = tuple[str, Callable[["GateCheck", Sequence[PromptAndAnswers]], bool]]
"""A sentence that names the cause, and a function that returns whether it is the cause."""


def cause(check: "GateCheck", gap: Gap, answered: Sequence[PromptAndAnswers]) -> str:
    """Return the cause of a gap that rounding does not explain, as a sentence.

    Args:
        answered: the answers of the check that failed.

    Returns:
        The cause; or that it is unknown, and what to look at.
    """
    if gap.excess < MIN_EXCESS:
        return (
            f"Cause unknown: {gap.excess:.2g} times what is allowed is too little to tell one from "
            "another"
        )
    for sentence, explains in _experiments(check):
        if explains(check, answered):
            return f"Cause: {sentence}"
    cut = _cut(check)
    if cut:
        return f"Cause: {cut}"
    return (
        "Cause unknown: it is not the temperature, the ban of placeholders, a lost or stale "
        "picture, a stale prefix, top-k or top-p. Look at the weights that it serves (another "
        "checkpoint, an update or a tied head, lm_head, that has not landed) and at penalties"
    )


def _experiments(check: "GateCheck") -> Iterator[Hypothesis]:
    """Yield the experiments that can show something in this check."""
    temperature = check.gate.sampling.temperature
    has_pictures = any(prompt.images for prompt in check.gate.prompts)
    raw = (
        f"temperature: it samples at {temperature:g} and reports raw log-probabilities; start "
        "it with processed_logprobs"
    )
    unbanned = (
        "the ban: the engine counts image and video placeholders among the possible tokens; it "
        "must obey logit_bias"
    )
    prefix_cache = (
        "stale prefix cache: new words in front of the same picture agree; the prefix cache "
        "must be reset with the weights"
    )
    encoder_cache = (
        "stale encoder cache: new pictures agree; the encoder cache must be reset with the weights"
    )
    processor = (
        "only pictures disagree: processor mismatch (image backend, pixel limits), or the "
        "tower has old weights"
    )
    weights = (
        "stale weights: the answers are those of the last check, while the trainer's weights have "
        "changed; the update has not landed"
    )
    yield raw, _reports_raw
    yield unbanned, _ignores_the_ban
    if has_pictures:
        yield "image lost: the engine answers alike with and without the picture", _ignores_pictures
    yield prefix_cache, _agrees_on_new_words
    if has_pictures:
        yield encoder_cache, _agrees_on_new_pictures
        yield processor, _agrees_without_pictures
    if check.version:  # version 0: no update has been sent yet
        yield weights, _repeats_last_answers


def _vanishes(check: "GateCheck", alter: Callable[..., Prompt]) -> bool:
    """Return whether the gap vanishes with other prompts, in every repeat.

    Each time as many answers to the gate's own prompts must show the fault.

    Args:
        alter: returns the other prompt, as `with_new_words` does; its address is the version and
            the number of the repeat.
    """
    for repeat in range(REPEATS):
        address = (check.version, repeat)
        prompts = [alter(prompt, check.policy, *address) for prompt in check.gate.prompts]
        altered = check.gap(check.sample(prompts, COMPLETIONS))
        if not altered.within_limits:
            return False
        original = check.gap(check.sample(check.gate.prompts, COMPLETIONS))
        if not original.excess >= MIN_EXCESS:  # `not >=` is also true for NaN
            return False
    return True


def _is_explained(check: "GateCheck", altered: Callable[[Sequence[PromptAndAnswers]], Gap]) -> bool:
    """Return whether the gap vanishes with another way of scoring, in every repeat.

    The right way of scoring must show the fault in the same answers.

    Args:
        altered: returns the gap of answers in the other way of scoring.
    """
    repeats = [check.sample(check.gate.prompts, COMPLETIONS) for _ in range(REPEATS)]
    for answered in repeats:
        if not altered(answered).within_limits:
            return False
        if not check.gap(answered).excess >= MIN_EXCESS:
            return False
    return True


def _reports_raw(check: "GateCheck", _: Sequence[PromptAndAnswers]) -> bool:
    if check.gate.sampling.temperature == 1:
        return False
    unbanned = replace(check.policy, banned_ids=())
    return _is_explained(check, lambda answered: check.gap(answered, unbanned, 1.0))


def _ignores_the_ban(check: "GateCheck", _: Sequence[PromptAndAnswers]) -> bool:
    unbanned = replace(check.policy, banned_ids=())
    return _is_explained(check, lambda answered: check.gap(answered, unbanned))


def _repeats_last_answers(check: "GateCheck", answered: Sequence[PromptAndAnswers]) -> bool:
    """Return whether the first answer to every prompt is that of the last check.

    First answers are sampled with the same seeds in every check, so only equal weights give equal
    tokens and log-probabilities.
    """
    now, before = check.first_answers(answered), check.gate.last_answers
    if now.keys() != before.keys():
        return False
    firsts: list[PromptAndAnswers] = []
    for index, completion in now.items():
        if completion.token_ids != before[index].token_ids:
            return False
        firsts.append((answered[index][0], [completion]))
    now_N = check.logprobs(list(now.values()))
    before_N = check.logprobs([before[index] for index in now])
    return check.make_gap(firsts, now_N - before_N, check.gap(firsts).noise_N).within_limits


def _ignores_pictures(check: "GateCheck", _: Sequence[PromptAndAnswers]) -> bool:
    """Return whether the engine answers a picture, a grey one and noise alike, and the trainer
    does not.
    """
    shown = check.repeat_for_replicas([prompt for prompt in check.gate.prompts if prompt.images])
    grey = [with_grey_pictures(prompt, check.policy) for prompt in shown]
    if not _answers_alike(check, shown, grey):
        return False
    noise = [with_new_pictures(prompt, check.policy, check.version) for prompt in shown]
    return _answers_alike(check, shown, noise)


def _answers_alike(check: "GateCheck", shown: Sequence[Prompt], hidden: Sequence[Prompt]) -> bool:
    """Return whether the engine answers both lists of prompts alike, and the trainer does not."""
    shown_answers = _greedy_answers(check, shown)
    hidden_answers = _greedy_answers(check, hidden)
    # The trainer scores the same answers behind both lists of prompts.
    with_pictures: list[PromptAndAnswers] = []
    without: list[PromptAndAnswers] = []
    for index, answer in enumerate(shown_answers):
        if answer.token_ids != hidden_answers[index].token_ids:
            return False
        with_pictures.append((shown[index], [answer]))
        without.append((hidden[index], [answer]))
    shown_N, hidden_N = check.logprobs(shown_answers), check.logprobs(hidden_answers)
    gap = check.gap(with_pictures)
    trainer_shown_N = shown_N - gap.gap_N
    trainer_N = trainer_shown_N - score(check.policy, without, check.gate.sampling.temperature)
    engine_sees_none = check.make_gap(with_pictures, shown_N - hidden_N, gap.noise_N).within_limits
    trainer_gap = check.make_gap(with_pictures, trainer_N, gap.noise_N)
    return engine_sees_none and not trainer_gap.within_limits


def _greedy_answers(check: "GateCheck", prompts: Sequence[Prompt]) -> list[Completion]:
    greedy = replace(check.sampling, greedy=True)
    groups = check.engine.generate(prompts, greedy, [[0]] * len(prompts))
    return [completion for (completion,) in groups]


def _agrees_on_new_words(check: "GateCheck", _: Sequence[PromptAndAnswers]) -> bool:
    return _vanishes(check, with_new_words)


def _agrees_on_new_pictures(check: "GateCheck", _: Sequence[PromptAndAnswers]) -> bool:
    return _vanishes(check, with_new_pictures)


def _agrees_without_pictures(check: "GateCheck", _: Sequence[PromptAndAnswers]) -> bool:
    # There is only one way to remove all pictures, so it takes no address.
    return _vanishes(check, lambda prompt, policy, *_: without_pictures(prompt, policy))


def _cut(check: "GateCheck") -> str:
    """Return a sentence that names top-k or top-p as the cause; empty if neither is.

    The cut of the trainer's own distribution that fits some answers best must make the gap vanish
    in other answers.
    """
    fitted = check.sample(check.gate.prompts, COMPLETIONS)
    gap, mass_NK = check.gap(fitted), _mass(check, fitted)
    errors: dict[float, float] = {}
    for cut in (*TOP_K, *TOP_P):
        # top-k 1 is an int and top-p 0.01 to 0.99 are floats, so no two keys are equal.
        errors[cut] = float(_unexplained(gap.gap_N, mass_NK, cut).abs().mean())
    best = min(errors, key=lambda cut: errors[cut])

    def with_cut(answered: Sequence[PromptAndAnswers]) -> Gap:
        gap = check.gap(answered)
        left_N = _unexplained(gap.gap_N, _mass(check, answered), best)
        return check.make_gap(answered, left_N, gap.noise_N)

    if not _is_explained(check, with_cut):
        return ""
    name = f"top-k {best}" if isinstance(best, int) else f"top-p {best:g}"
    return (
        f"truncated sampling: {name} is on and explains all of it; no top-k, top-p or penalty may "
        "be (--generation-config vllm)"
    )


@torch.no_grad()
def _mass(check: "GateCheck", answered: Sequence[PromptAndAnswers]) -> Tensor:
    """Return the trainer's probability of the k most likely tokens, [N, CANDIDATES]."""
    policy, temperature = check.policy, check.gate.sampling.temperature
    masses: list[Tensor] = []
    for prompt_and_answers in answered:
        for portion in portions(prompt_and_answers):
            with policy.autocast():
                logits_NV = policy.model.lm_head(plain_states(policy, [portion]))
            probabilities_NV = allowed_logits(logits_NV, temperature, policy.banned_ids).softmax(-1)
            candidates = min(CANDIDATES, probabilities_NV.shape[-1])
            likeliest_NK = probabilities_NV.topk(candidates).values
            masses.append(likeliest_NK.double().cumsum(-1).cpu())
    return torch.cat(masses)


def _unexplained(gap_N: Tensor, mass_NK: Tensor, cut: float) -> Tensor:
    """Return what a cut does not explain of a gap, [N].

    Args:
        cut: top-k if it is an int, else top-p.
    """
    if isinstance(cut, int):
        return gap_N + _log_kept(mass_NK, cut)
    # The engine's sums are rounded too, so a token at the border of top-p may be in or out: take
    # the variant that explains most.
    shares = (cut, cut - SHARE_ERROR, cut + SHARE_ERROR)
    variants_3N = torch.stack([gap_N + _log_kept(mass_NK, share) for share in shares])
    return variants_3N.gather(0, variants_3N.abs().argmin(0, keepdim=True))[0]


def _log_kept(mass_NK: Tensor, cut: float) -> Tensor:
    """Return the log of the probability that a cut keeps, [N].

    Top-k keeps the k most likely tokens, top-p the fewest that hold the share; all of it where the
    candidates do not.
    """
    if isinstance(cut, int):
        return mass_NK[:, min(cut, mass_NK.shape[1]) - 1].log()
    enough_NK = mass_NK >= cut
    first_N = enough_NK.int().argmax(-1)
    kept_N = mass_NK.gather(-1, first_N[:, None]).squeeze(-1)
    return torch.where(enough_NK.any(-1), kept_N, 1.0).log()
