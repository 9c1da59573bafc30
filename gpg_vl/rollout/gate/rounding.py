"""What rounding alone does to log-probabilities, and whether a gap is more than that.

Two computations that are equal on paper differ on a machine, by more the coarser the type, the deeper the model and the sharper its logits:
in bfloat16 a tenth of a nat is nothing unusual. So it is measured on the very tokens in question and never assumed. The trainer scores
them one completion a row and in a second way: with the prompt computed once for all of them or, in models that cannot do that, token by
token; and in the engine's arithmetic, since vLLM holds weights and activations in bfloat16 where autocast keeps some of them in float32.
Another batch size would be no second way, its numbers are often equal to the last bit.

Shape letters: N completion tokens of all questions in one line, R completions of a prompt, C longest completion, D width.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpg_vl.policy.decoding import begin
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.policy.plain_forward import PromptAndAnswers, UnsharedForward
from gpg_vl.policy.plain_forward import score as score_logits
from gpg_vl.policy.vision import Vision
from gpg_vl.randomness import seed

MEAN, TAIL, WORST = 2.95, 3.7, 8.0
"""Allowed mean, 90 % quantile and largest gap, as multiples of what rounding gives. Two honest engines come out at 0.3 to 1.4, so half of
a limit is not reached by chance; a fault that is three times the rounding in the mean is past the first, where enough places carry it."""
BIAS = 8.0
"""Allowed standard errors of the signed mean."""
CARRIERS = 160
"""Places that must carry the rounding for these limits to hold; with fewer, chance alone is wider, and so are they."""
SMALLEST, SMALLEST_WORST = 4, 32
"""Grains that a mean and a single gap may always have."""
COARSER = 32
"""Spacings of the type in a grain of an engine with kernels of its own: their exponentials are not exact to the last bit. In float32 vLLM's
on a CPU differ from the trainer by 2e-6 to 7e-6 nat, up to 3.4 times what the trainer's two ways do."""
AT_ONCE = 512
"""Tokens whose logits exist at a time: 300 MiB in float32 with a vocabulary of 152k."""
COARSEST = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Mean difference of the trainer's two ways, in nats, beyond which rounding is no explanation, or no basis for training."""


@torch.no_grad()
def score(policy: Policy, asked: Sequence[PromptAndAnswers], temperature: float) -> Tensor:
    """[N] the trainer's log-probabilities, a few rows at a time, so that little memory is needed."""
    forward = UnsharedForward(policy, temperature)
    with policy.autocast():  # around all: its copies of the weights are made once
        return _in_line([forward([some]).logprobs_N for question in asked for some in few(question)])


@torch.no_grad()
def score_again(policy: Policy, asked: Sequence[PromptAndAnswers], temperature: float, *, narrow: bool = False) -> Tensor:
    """[N] the same log-probabilities, computed in another way.

    Args:
        narrow: with weights and activations held in the type that the policy computes in, as engines with weights of their own do.
    """
    with _weights_in(policy.dtype, policy) if narrow else nullcontext():
        fresh = replace(policy, vision=Vision(policy.model, None))  # features of these weights are nobody else's
        if policy.sharing.why_not:
            return _in_line([_token_by_token(fresh, question, temperature) for question in asked])
        forward = GroupForward(fresh, temperature)
        with policy.autocast():
            return _in_line([forward([question]).logprobs_N for question in asked])


def places(asked: Sequence[PromptAndAnswers]) -> Tensor:
    """Number the places where tokens stand: [N], equal for tokens after the same prompt and the same words.

    Whatever the token, its log-probability there has the same normaliser, and that is rounded once: so a place counts as one observation.
    """
    numbers = list[int]()
    for prompt, completions in asked:
        start = seed("place", *prompt.input_ids, *prompt.pictures)
        for completion in completions:
            before = start
            for token in completion.token_ids:
                numbers.append(before)
                before = hash((before, token))  # of integers: the same in every process
    return torch.tensor(numbers, dtype=torch.int64)


def few(question: PromptAndAnswers) -> Iterator[PromptAndAnswers]:
    """A question's completions in portions whose logits fit into memory."""
    prompt, completions = question
    rows = max(1, AT_ONCE // max(len(completion.token_ids) for completion in completions))
    yield from ((prompt, completions[first : first + rows]) for first in range(0, len(completions), rows))


@contextmanager
def _weights_in(dtype: torch.dtype, policy: Policy) -> Generator[None, None, None]:
    """The model's weights in another type for a while; those that are trained come back untouched."""
    held = [(parameter, parameter.data) for parameter in policy.model.parameters()]
    try:
        for parameter, data in held:
            parameter.data = data.to(dtype)
        yield
    finally:
        for parameter, data in held:
            parameter.data = data


def _in_line(scores: Sequence[Tensor]) -> Tensor:
    return torch.cat([some_N.cpu().double() for some_N in scores]) if scores else torch.empty(0, dtype=torch.float64)


def _token_by_token(policy: Policy, question: PromptAndAnswers, temperature: float) -> Tensor:
    """[N] as an engine writes them: against the prompt's cache, one token after the other."""
    prompt, completions = question
    rows = [torch.tensor(completion.token_ids) for completion in completions]
    tokens_RC = pad_sequence(rows, batch_first=True, padding_value=policy.pad_id).to(policy.device)
    real_RC = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool().to(policy.device)
    with policy.autocast():
        written = begin(policy, [prompt], len(rows))
        states = [written.first_PRD] + [written.append(tokens_RC[None, :, place]) for place in range(tokens_RC.shape[1] - 1)]
        logits = policy.model.lm_head(torch.stack(states, 2)[0][real_RC])
    return score_logits(logits, tokens_RC[real_RC], temperature, policy.banned_ids)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Sizes of differences of log-probabilities, or what they may be; in nats."""

    mean: float
    """Of the absolute values."""
    tail: float
    """Their 90 % quantile."""
    worst: float
    """The largest."""
    bias: float
    """The signed mean. Tokens that the engine itself drew make its expectation a small divergence, half the mean square, not zero."""

    def __str__(self) -> str:
        return f"mean {self.mean:.2g}, signed {self.bias:.2g}, 90 % below {self.tail:.2g}, worst {self.worst:.2g} nat"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gap:
    """What somebody says of tokens less what the trainer says, beside what the trainer says differently itself."""

    gap_N: Tensor
    noise_N: Tensor
    """The trainer's second way less its first, of the same tokens."""
    places_N: Tensor
    """Where each token stands (`places`)."""
    grain: float
    """Smallest difference that can mean anything, in nats: the spacing of the type of the log-probabilities at 1, or a few (`COARSER`)."""
    mean: float | None = None
    """Allowed in nats, whatever rounding is; None = a multiple of rounding."""
    worst: float | None = None
    """Likewise, of a single token."""

    @property
    def found(self) -> Figures:
        """How large the gap is."""
        return _figures(self.gap_N, expected=float(self.gap_N.square().mean()) / 2)

    @property
    def rounding(self) -> Figures:
        """How large the trainer's own differences are."""
        return _figures(self.noise_N, expected=0.0)

    @property
    def carriers(self) -> float:
        """How many places carry the rounding: all where it is alike in all, 1 where it is all in one. Sharp distributions have few."""
        sizes = self._by_place(self.noise_N.abs())
        return float(sizes.sum().square() / sizes.square().sum()) if sizes.any() else 0.0

    @property
    def allowed(self) -> Figures:
        """How large the gap may be."""
        own, least, least_worst = self.rounding, SMALLEST * self.grain, SMALLEST_WORST * self.grain
        chance = math.sqrt(max(1.0, CARRIERS / max(self.carriers, 1.0)))
        error = float(self._by_place(self.noise_N).norm()) / len(self.noise_N)
        if self.mean is None:
            mean = max(chance * MEAN * own.mean, least)
            bias = min(mean, chance * BIAS * error + MEAN * own.bias + least)
            spread = chance * mean  # where few places carry the rounding nine tokens of ten may carry none: their quantile tells little
        else:
            mean = bias = spread = self.mean
        if self.worst is None:
            worst = max(chance * WORST * own.worst, least_worst)
            tail = min(worst, max(chance * TAIL * own.tail, spread, least_worst))
        else:
            worst = tail = self.worst
        return Figures(mean=mean, tail=tail, worst=worst, bias=bias)

    def _by_place(self, numbers_N: Tensor) -> Tensor:
        """Add up the numbers of the tokens at each place."""
        distinct, at_N = self.places_N.unique(return_inverse=True)
        return numbers_N.new_zeros(len(distinct)).index_add(0, at_N, numbers_N)

    def __add__(self, other: "Gap") -> "Gap":
        return replace(
            self,
            gap_N=torch.cat([self.gap_N, other.gap_N]),
            noise_N=torch.cat([self.noise_N, other.noise_N]),
            places_N=torch.cat([self.places_N, other.places_N]),
        )

    def __getitem__(self, some_N: Tensor) -> "Gap":
        """The gap of some of the tokens alone."""
        return replace(self, gap_N=self.gap_N[some_N], noise_N=self.noise_N[some_N], places_N=self.places_N[some_N])

    @property
    def excess(self) -> float:
        """The largest figure as a share of what it may be; above 1, rounding does not explain the gap. A NaN is infinitely large."""
        if not len(self.gap_N):
            return 0.0
        if not self.gap_N.isfinite().all():
            return float("inf")
        found, allowed = self.found, self.allowed
        return max(getattr(found, name) / getattr(allowed, name) for name in Figures.__slots__)

    @property
    def holds(self) -> bool:
        """Whether rounding explains the gap; there is none where nothing was said."""
        return self.excess <= 1

    def __str__(self) -> str:
        return f"{self.found} of {len(self.gap_N)} tokens; rounding alone: {self.rounding}; allowed: {self.allowed}"


def _figures(difference_N: Tensor, expected: float) -> Figures:
    size_N = difference_N.abs()
    bias = abs(float(difference_N.mean()) - expected)
    return Figures(mean=float(size_N.mean()), tail=float(size_N.quantile(0.9)), worst=float(size_N.max()), bias=bias)
