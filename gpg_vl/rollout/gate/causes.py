"""Why an engine disagrees with the trainer: experiments, one for each known fault.

A cause is named where its experiment makes the gap vanish, that is, leaves no more than rounding, and does so again with other answers.
Nothing is concluded from a gap that is hardly more than rounding, and nothing from likelihood: what no experiment explains is unknown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpg_vl.policy.plain_forward import PromptAndAnswers, allowed_logits, plain_states
from gpg_vl.rollout.gate.altered_prompts import with_grey_pictures, with_new_pictures, with_new_words, without_pictures
from gpg_vl.rollout.gate.rounding import Gap, few, score
from gpg_vl.types import Prompt

if TYPE_CHECKING:
    pass


TWICE = 2
"""An experiment must succeed so often."""
AT_ONCE = 8
"""Answers to each question in an experiment."""
CLEAR = 2.0
"""A gap must be so many times what is allowed before a cause is looked for, and in each experiment's own answers too: an experiment that
could not have shown the fault explains nothing."""
CANDIDATES = 512
"""Likeliest tokens among which a cut of the distribution is looked for."""
BORDER = 1e-5
"""How exactly an engine adds probabilities up."""
KEPT = tuple(range(1, 101))
SHARES = tuple(percent / 100 for percent in range(1, 100))
Experiment = tuple[str, Callable[["Look", Sequence[PromptAndAnswers]], bool]]


def cause(look: "Look", gap: Gap, asked: Sequence[PromptAndAnswers]) -> str:
    """The cause of a gap that rounding does not explain, as a sentence; or that it is unknown, and what to look at."""
    if gap.excess < CLEAR:
        return f"Cause unknown: {gap.excess:.2g} times what is allowed is too little to tell one from another"
    named = next((words for words, explains in _experiments(look) if explains(look, asked)), "") or _cut(look)
    if named:
        return f"Cause: {named}"
    return (
        "Cause unknown: it is not the temperature, the ban of placeholders, a lost or stale picture, a stale prefix, top-k or top-p. Look "
        "at the weights that it serves (another checkpoint, an update or a tied head, lm_head, that has not landed) and at penalties"
    )


def _experiments(look: "Look") -> Iterator[Experiment]:
    temperature = look.gate.sampling.temperature
    yield f"temperature: it samples at {temperature:g} and reports raw log-probabilities; start it with processed_logprobs", _reports_raw
    yield "the ban: the engine counts image and video placeholders among the possible tokens; it must obey logit_bias", _ignores_the_ban
    if any(prompt.images for prompt in look.gate.prompts):
        yield "image lost: the engine answers alike with and without the picture", _ignores_pictures
    yield (
        "stale prefix cache: new words in front of the same picture agree; the prefix cache must be reset with the weights",
        _likes_new_words,
    )
    if any(prompt.images for prompt in look.gate.prompts):
        yield "stale encoder cache: new pictures agree; the encoder cache must be reset with the weights", _likes_new_pictures
        yield "only pictures disagree: processor mismatch (image backend, pixel limits), or the tower has old weights", _likes_no_pictures
    if look.version:
        yield (
            "stale weights: it says what it said at the last look, while the trainer has moved; the update has not landed",
            _says_the_same_again,
        )


def _vanishes(look: "Look", prompts: Callable[[int], Sequence[Prompt]]) -> bool:
    """Whether other prompts leave nothing but rounding, again and again, where as many answers to the gate's own show the fault."""
    return all(
        look.gap(look.ask(prompts(time), AT_ONCE)).holds and look.gap(look.ask(look.gate.prompts, AT_ONCE)).excess >= CLEAR
        for time in range(TWICE)
    )


def _is_explained(look: "Look", altered: Callable[[Sequence[PromptAndAnswers]], Gap]) -> bool:
    """Whether another way of scoring leaves nothing but rounding, again and again, where the right way shows the fault."""
    answers = [look.ask(look.gate.prompts, AT_ONCE) for _ in range(TWICE)]
    return all(altered(asked).holds and look.gap(asked).excess >= CLEAR for asked in answers)


def _reports_raw(look: "Look", _: Sequence[PromptAndAnswers]) -> bool:
    unbanned = replace(look.policy, banned_ids=())
    return look.gate.sampling.temperature != 1 and _is_explained(look, lambda asked: look.gap(asked, unbanned, 1.0))


def _ignores_the_ban(look: "Look", _: Sequence[PromptAndAnswers]) -> bool:
    return _is_explained(look, lambda asked: look.gap(asked, replace(look.policy, banned_ids=())))


def _says_the_same_again(look: "Look", asked: Sequence[PromptAndAnswers]) -> bool:
    """Whether every question's first answer, drawn with the same numbers as at the last look, is what it was then."""
    now, then = look.first_said(asked), look.gate.heard
    if now.keys() != then.keys() or any(now[place].token_ids != then[place].token_ids for place in now):
        return False
    firsts = [(asked[place][0], [now[place]]) for place in now]
    said = [look.in_line([side[place] for place in now]) for side in (now, then)]
    return look.beside_rounding(firsts, said[0] - said[1], look.noise(firsts)).holds


def _ignores_pictures(look: "Look", _: Sequence[PromptAndAnswers]) -> bool:
    """Whether the engine says the same of a picture, of a grey one and of noise, where the trainer does not."""
    shown = look.for_every_copy([prompt for prompt in look.gate.prompts if prompt.images])
    others = (
        [with_grey_pictures(prompt, look.policy) for prompt in shown],
        [with_new_pictures(prompt, look.policy, look.version) for prompt in shown],
    )
    return all(_hears_no_difference(look, shown, hidden) for hidden in others)


def _hears_no_difference(look: "Look", shown: Sequence[Prompt], hidden: Sequence[Prompt]) -> bool:
    greedy = replace(look.sampling, greedy=True)
    answers = [[completion for (completion,) in look.engine.generate(prompts, greedy, [[0]] * len(prompts))] for prompts in (shown, hidden)]
    if [completion.token_ids for completion in answers[0]] != [completion.token_ids for completion in answers[1]]:
        return False
    with_, without = ([(prompt, [said]) for prompt, said in zip(prompts, answers[0], strict=True)] for prompts in (shown, hidden))
    noise_N, temperature = look.noise(with_), look.gate.sampling.temperature
    own_N = score(look.policy, with_, temperature) - score(look.policy, without, temperature)
    said_N = look.in_line(answers[0]) - look.in_line(answers[1])
    return look.beside_rounding(with_, said_N, noise_N).holds and not look.beside_rounding(with_, own_N, noise_N).holds


def _likes_new_words(look: "Look", _: Sequence[PromptAndAnswers]) -> bool:
    return _vanishes(look, lambda time: [with_new_words(prompt, look.policy, look.version, time) for prompt in look.gate.prompts])


def _likes_new_pictures(look: "Look", _: Sequence[PromptAndAnswers]) -> bool:
    return _vanishes(look, lambda time: [with_new_pictures(prompt, look.policy, look.version, time) for prompt in look.gate.prompts])


def _likes_no_pictures(look: "Look", _: Sequence[PromptAndAnswers]) -> bool:
    return _vanishes(look, lambda _: [without_pictures(prompt, look.policy) for prompt in look.gate.prompts])


def _cut(look: "Look") -> str:
    """Top-k or top-p, where cutting the trainer's own distribution likewise makes the gap vanish; empty = neither does.

    The cut is fitted to some answers and must then explain others.
    """
    fitted = look.ask(look.gate.prompts, AT_ONCE)
    gap, mass_NK = look.gap(fitted), _mass(look, fitted)
    errors = {cut: float(_left(gap.gap_N, mass_NK, cut).abs().mean()) for cut in [*KEPT, *SHARES]}
    best = min(errors, key=lambda cut: errors[cut])

    def cut_likewise(asked: Sequence[PromptAndAnswers]) -> Gap:
        gap = look.gap(asked)
        return look.beside_rounding(asked, _left(gap.gap_N, _mass(look, asked), best), gap.noise_N)

    if not _is_explained(look, cut_likewise):
        return ""
    told = f"top-k {best}" if isinstance(best, int) else f"top-p {best:g}"
    return f"truncated sampling: {told} is on and explains all of it; no top-k, top-p or penalty may be (--generation-config vllm)"


@torch.no_grad()
def _mass(look: "Look", asked: Sequence[PromptAndAnswers]) -> Tensor:
    """[N, CANDIDATES] the trainer's probability of the likeliest token, of the two likeliest, and so on."""
    policy, temperature = look.policy, look.gate.sampling.temperature
    masses: list[Tensor] = []
    for some in (some for question in asked for some in few(question)):
        with policy.autocast():
            logits_NV = policy.model.lm_head(plain_states(policy, [some]))
        probabilities_NV = allowed_logits(logits_NV, temperature, policy.banned_ids).softmax(-1)
        likeliest_NK = probabilities_NV.topk(min(CANDIDATES, probabilities_NV.shape[-1])).values
        masses.append(likeliest_NK.double().cumsum(-1).cpu())
    return torch.cat(masses)


def _left(gap_N: Tensor, mass_NK: Tensor, cut: float) -> Tensor:
    """[N] what a cut does not explain. The engine's sums are rounded too, so a token at the border of a share may be in or out."""
    if isinstance(cut, int):
        return gap_N + _kept(mass_NK, cut)
    sides_3N = torch.stack([gap_N + _kept(mass_NK, cut + aside) for aside in (0.0, -BORDER, BORDER)])
    return sides_3N.gather(0, sides_3N.abs().argmin(0, keepdim=True))[0]


def _kept(mass_NK: Tensor, cut: float) -> Tensor:
    """[N] logarithm of the probability that is left by the `cut` likeliest tokens, or by the fewest that hold this share of it."""
    if isinstance(cut, int):
        return mass_NK[:, min(cut, mass_NK.shape[1]) - 1].log()
    enough_NK = mass_NK >= cut
    first_N = enough_NK.int().argmax(-1)
    return torch.where(enough_NK.any(-1), mass_NK.gather(-1, first_N[:, None]).squeeze(-1), 1.0).log()
