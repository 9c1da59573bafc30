"""Measure the rounding of log-probabilities, and judge whether a gap is larger than that.

Two computations that are mathematically equal differ on a machine: more so the coarser the number
type, the deeper the model and the sharper its logits. In bfloat16 a tenth of a nat is common. So
rounding is measured on the very tokens in question and never assumed: the trainer scores them in
two ways.

1. One row per completion.
2. With the prompt computed once for all completions or, in bfloat16 and for models that cannot
   share a prompt, token by token. For engines with kernels of their own also in their arithmetic:
   vLLM holds weights and activations in bfloat16 where autocast keeps some of them in float32.

Another batch size would not be a second way: its numbers are often equal to the last bit. In
bfloat16 the shared prompt is none either: its sums are those of plain rows, most are rounded to the
same number, and the few that are not may be those of other tokens than the engine's. One place more
of a logit of 20 is an eighth of a nat.

To score token by token, the trainer uses the code that its own engine samples with, so a mistake in
it would count as rounding. Hence this code is compared with plain rows in float32 first, where
rounding is small (`decoding_error`).

Shape letters: N completion tokens of all prompts, concatenated; n some of them, P prompts, R
completions of a prompt, C longest completion, D width, V vocabulary.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpg_vl.policy.decoding import begin
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward
from gpg_vl.policy.plain_forward import score as score_logits
from gpg_vl.policy.vision import Vision
from gpg_vl.policy.widened import widened
from gpg_vl.randomness import seed
from gpg_vl.types import Completion

MEAN_FACTOR, TAIL_FACTOR, WORST_FACTOR = 2.95, 3.7, 8.0
"""Allowed mean, 90 % quantile and largest gap, as multiples of the measured rounding. Two correct
engines reach 0.3 to 1.4 times the rounding, so chance does not reach half of a limit; a fault of
three times the rounding in the mean exceeds the first limit, where enough places carry it."""
BIAS_FACTOR = 8.0
"""Allowed signed mean, as a multiple of its standard error."""
ENOUGH_CARRIERS = 160
"""Number of places that must carry the rounding for these limits to hold. With fewer, chance is
larger, and the limits widen accordingly."""
MEAN_GRAINS, WORST_GRAINS = 4, 32
"""Allowed mean and largest gap, in grains, however small the measured rounding is."""
KERNEL_GRAIN = 32
"""Grain of an engine with kernels of its own, in spacings of the number type: their exponentials
are not exact to the last bit. In float32 on a CPU vLLM differs from the trainer by 2e-6 to 7e-6
nat, up to 3.4 times the rounding between the trainer's two ways."""
MAX_TOKENS_WITH_LOGITS = 512
"""Tokens whose logits exist at a time: 300 MiB in float32 with a vocabulary of 152k. In the second
way the group forward has chunks of its own."""
PROMPTS_AT_ONCE = 4
"""Prompts whose answers are scored token by token at a time: as many as `rollout.gate.prompts`."""
COMPARED_TOKENS = 32
"""Tokens of an answer whose scores are compared in float32: each takes a pass through the model."""
MAX_DECODING_ERROR = 3e-4
"""Mean difference between scores token by token and plain rows in float32, in nats, above which it
is a fault. In a tiny random model rounding makes 2e-7, and a position that is off by one 8e-4."""
MAX_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Mean difference of the trainer's two ways, in nats, above which it is a fault, not rounding."""


@torch.no_grad()
def score(policy: Policy, answered: Sequence[PromptAndAnswers], temperature: float) -> Tensor:
    """Return the trainer's log-probabilities, [N], scored a few rows at a time to save memory."""
    forward = UnsharedForward(policy, temperature)
    scores: list[Tensor] = []
    with policy.autocast():  # one context for all, so that its weight copies are made once
        for prompt_and_answers in answered:
            for portion in portions(prompt_and_answers):
                scores.append(forward([portion]).logprobs_N)
    return _concatenate(scores)


@torch.no_grad()
def score_again(
    policy: Policy,
    answered: Sequence[PromptAndAnswers],
    temperature: float,
    *,
    narrow: bool = False,
) -> Tensor:
    """Return the same log-probabilities, [N], computed in a second way.

    Args:
        narrow: hold weights and activations in the policy's number type, as engines with kernels
            of their own do.
    """
    one_by_one = bool(policy.sharing.why_not) or policy.dtype == torch.bfloat16
    with _weights_in(policy.dtype, policy) if narrow else nullcontext():
        # Without the feature cache: its features belong to the weights in their own type.
        fresh = replace(policy, vision=Vision(policy.model, None))
        if one_by_one:
            scores: list[Tensor] = []
            for together in _of_one_shape(answered):
                scores.append(_token_by_token(fresh, together, temperature))
            return _concatenate(scores)
        forward = GroupForward(fresh, temperature)
        with policy.autocast():
            return _concatenate([forward([pair]).logprobs_N for pair in answered])


@torch.no_grad()
def decoding_error(
    policy: Policy, answered: Sequence[PromptAndAnswers], temperature: float
) -> float:
    """Return how far scores token by token lie from those of plain rows, both in float32.

    Args:
        answered: a few prompts, and as many answers to each, whose first tokens are scored.

    Returns:
        Mean of the absolute differences, in nats.
    """
    short: list[PromptAndAnswers] = []
    for prompt, completions in answered:
        begun: list[Completion] = []
        for completion in completions:
            begun.append(replace(completion, token_ids=completion.token_ids[:COMPARED_TOKENS]))
        short.append((prompt, begun))
    exact = replace(policy, dtype=torch.float32, vision=Vision(policy.model, None))
    with widened(policy.model):
        found_N = _token_by_token(exact, short, temperature)
        expected_N = UnsharedForward(exact, temperature)(short).logprobs_N
    return float((found_N - expected_N).abs().mean())


def _of_one_shape(answered: Sequence[PromptAndAnswers]) -> Iterator[list[PromptAndAnswers]]:
    """Yield neighbours with as many answers each, a few at a time."""
    for _, alike in groupby(answered, key=lambda pair: len(pair[1])):
        pairs = list(alike)
        for first in range(0, len(pairs), PROMPTS_AT_ONCE):
            yield pairs[first : first + PROMPTS_AT_ONCE]


def places(answered: Sequence[PromptAndAnswers]) -> Tensor:
    """Number the place of each token, [N]; tokens after the same prompt and words share a place.

    The log-probabilities of all tokens at a place have the same normaliser, which is rounded once.
    So a place counts as one observation of rounding.
    """
    numbers: list[int] = []
    for prompt, completions in answered:
        start = seed("place", *prompt.input_ids, *prompt.pictures)
        for completion in completions:
            before = start
            for token in completion.token_ids:
                numbers.append(before)
                before = hash((before, token))  # of integers: the same in every process
    return torch.tensor(numbers, dtype=torch.int64)


def portions(prompt_and_answers: PromptAndAnswers) -> Iterator[PromptAndAnswers]:
    """Split the completions of a prompt into portions whose logits fit into memory."""
    prompt, completions = prompt_and_answers
    # Rows are padded to the longest completion.
    longest = max(len(completion.token_ids) for completion in completions)
    rows = max(1, MAX_TOKENS_WITH_LOGITS // longest)
    for first in range(0, len(completions), rows):
        yield prompt, completions[first : first + rows]


@contextmanager
def _weights_in(dtype: torch.dtype, policy: Policy) -> Generator[None, None, None]:
    """Convert the model's weights to a number type for a while; restore the same tensors after.

    Adapters are merged, as engines hold them: one matrix at a time, so that there is no second copy
    of the matrices that they are on.
    """
    adapters = policy.adapters
    with adapters.merged(dtype, at_each_use=True) if adapters else nullcontext():
        originals: list[tuple[torch.nn.Parameter, Tensor]] = []
        for parameter in policy.model.parameters():
            if parameter.is_floating_point():  # not one in 4 bits, which is computed with in dtype
                originals.append((parameter, parameter.data))
        try:
            for parameter, data in originals:
                parameter.data = data.to(dtype)
            yield
        finally:
            for parameter, data in originals:
                parameter.data = data


def _concatenate(scores: Sequence[Tensor]) -> Tensor:
    if not scores:
        return torch.empty(0, dtype=torch.float64)
    return torch.cat([logprobs_N.cpu().double() for logprobs_N in scores])


def _token_by_token(
    policy: Policy, answered: Sequence[PromptAndAnswers], temperature: float
) -> Tensor:
    """Score completions, [N], the way an engine samples them: token by token, with a cache.

    Args:
        answered: as many completions of each prompt.
    """
    rows: list[Tensor] = []
    for _, completions in answered:
        rows += [torch.tensor(completion.token_ids) for completion in completions]
    ones = [torch.ones_like(row) for row in rows]
    shape = len(answered), len(rows) // len(answered), -1
    tokens_PRC = pad_sequence(rows, True, policy.pad_id).view(shape).to(policy.device)
    real_PRC = pad_sequence(ones, True).bool().view(shape).to(policy.device)
    with policy.autocast():
        decoding = begin(policy, [prompt for prompt, _ in answered], shape[1])
        states = [decoding.first_PRD]
        for position in range(tokens_PRC.shape[2] - 1):
            states.append(decoding.append(tokens_PRC[:, :, position]))
        states_ND = torch.stack(states, 2)[real_PRC]
        scores: list[Tensor] = []
        for states_nD, tokens_n in zip(
            states_ND.split(MAX_TOKENS_WITH_LOGITS),
            tokens_PRC[real_PRC].split(MAX_TOKENS_WITH_LOGITS),
            strict=True,
        ):
            logits_nV = policy.model.lm_head(states_nD)
            scores.append(score_logits(logits_nV, tokens_n, temperature, policy.banned_ids)[0])
    return torch.cat(scores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Statistics of differences of log-probabilities, or their limits; in nats."""

    mean: float
    """Mean of the absolute values."""
    tail: float
    """90 % quantile of the absolute values."""
    worst: float
    """Largest absolute value."""
    bias: float
    """Distance of the signed mean from its expectation. For tokens that the engine sampled itself
    the expectation is not zero but a small divergence: half the mean square."""

    def __str__(self) -> str:
        return (
            f"mean {self.mean:.2g}, signed {self.bias:.2g}, 90 % below {self.tail:.2g}, worst "
            f"{self.worst:.2g} nat"
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gap:
    """Difference between an engine's and the trainer's log-probabilities, next to the rounding.

    `a + b` joins two gaps; `gap[mask_N]` selects tokens.
    """

    gap_N: Tensor
    """[N] the engine's log-probabilities minus the trainer's, in nats."""
    noise_N: Tensor
    """[N] the trainer's second way minus its first, of the same tokens, in nats."""
    places_N: Tensor
    """[N] number of each token's place (`places`)."""
    grain: float
    """Smallest difference that has a meaning, in nats: the spacing of the log-probabilities'
    number type at 1, or a multiple of it (`KERNEL_GRAIN`)."""
    mean: float | None = None
    """Allowed mean in nats; None = a multiple of the rounding."""
    worst: float | None = None
    """Allowed gap of a single token in nats; None = a multiple of the rounding."""

    @property
    def found(self) -> Figures:
        """Statistics of the gap."""
        return _figures(self.gap_N, expected=float(self.gap_N.square().mean()) / 2)

    @property
    def rounding(self) -> Figures:
        """Statistics of the difference between the trainer's two ways."""
        return _figures(self.noise_N, expected=0.0)

    @property
    def carriers(self) -> float:
        """Effective number of places that carry the rounding (participation ratio).

        All places if the rounding is the same in all, 1 if it is all in one. Sharp distributions
        have few.
        """
        sizes = self._by_place(self.noise_N.abs())
        if not sizes.any():
            return 0.0
        return float(sizes.sum().square() / sizes.square().sum())

    @property
    def allowed(self) -> Figures:
        """Limits of the gap."""
        rounding = self.rounding
        min_mean = MEAN_GRAINS * self.grain
        min_worst = WORST_GRAINS * self.grain
        # With fewer places than enough, an average over them varies more: by the root of the ratio.
        chance = math.sqrt(max(1.0, ENOUGH_CARRIERS / max(self.carriers, 1.0)))
        if self.mean is None:
            standard_error = float(self._by_place(self.noise_N).norm()) / len(self.noise_N)
            mean = max(chance * MEAN_FACTOR * rounding.mean, min_mean)
            bias = min(
                mean,
                chance * BIAS_FACTOR * standard_error + MEAN_FACTOR * rounding.bias + min_mean,
            )
            # Where few places carry the rounding, nine of ten tokens may carry none, and their
            # quantile tells little.
            spread = chance * mean
        else:
            mean = bias = spread = self.mean
        if self.worst is None:
            worst = max(chance * WORST_FACTOR * rounding.worst, min_worst)
            tail = min(worst, max(chance * TAIL_FACTOR * rounding.tail, spread, min_worst))
        else:
            worst = tail = self.worst
        return Figures(mean=mean, tail=tail, worst=worst, bias=bias)

    def _by_place(self, numbers_N: Tensor) -> Tensor:
        """Sum the numbers of the tokens at each place."""
        distinct, index_N = self.places_N.unique(return_inverse=True)
        return numbers_N.new_zeros(len(distinct)).index_add(0, index_N, numbers_N)

    def __add__(self, other: "Gap") -> "Gap":
        return replace(
            self,
            gap_N=torch.cat([self.gap_N, other.gap_N]),
            noise_N=torch.cat([self.noise_N, other.noise_N]),
            places_N=torch.cat([self.places_N, other.places_N]),
        )

    def __getitem__(self, mask_N: Tensor) -> "Gap":
        return replace(
            self,
            gap_N=self.gap_N[mask_N],
            noise_N=self.noise_N[mask_N],
            places_N=self.places_N[mask_N],
        )

    @property
    def excess(self) -> float:
        """Largest statistic divided by its limit; above 1, rounding does not explain the gap.

        Infinite if a number is not finite; 0 without tokens.
        """
        if not len(self.gap_N):
            return 0.0
        if not self.gap_N.isfinite().all():
            return float("inf")
        found, allowed = self.found, self.allowed
        return max(getattr(found, name) / getattr(allowed, name) for name in Figures.__slots__)

    @property
    def within_limits(self) -> bool:
        """True if rounding explains the gap, or there are no tokens."""
        return self.excess <= 1

    def __str__(self) -> str:
        return (
            f"{self.found} of {len(self.gap_N)} tokens; rounding alone: {self.rounding}; allowed: "
            f"{self.allowed}"
        )


def _figures(difference_N: Tensor, expected: float) -> Figures:
    size_N = difference_N.abs()
    return Figures(
        mean=float(size_N.mean()),
        tail=float(size_N.quantile(0.9)),
        worst=float(size_N.max()),
        bias=abs(float(difference_N.mean()) - expected),
    )
