"""The nouns of gpg_vl, in the order in which a training step meets them.

Sample -> Prompt -> Completion -> Verdict -> Group -> Update

Every object is born complete: no field is filled in later. A scored group is another type than an unscored list of completions.
Shape letters: B groups, G completions of a group, T tokens of a completion, L tokens of an expanded prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


Size = tuple[int, int]
"""Width and height in pixels."""
ZERO_VARIANCE_RANGE = 1e-6
"""A group whose highest and lowest reward differ by no more than this says nothing. On raw rewards: rounding residue cannot speak."""
AnswerKind = str
"""What an answer is made of: choice, number, value, expression, boxes, detection, label, or the name that a user gives to their own."""


class LeftOut(NamedTuple):
    """A row of a data set that is not used.

    Example:
        LeftOut("sat/17", "2 images; the published experiment uses rows of one image")
    """

    id: str
    """Of the row."""
    why: str
    """In words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question, the images it is about, and its truth.

    Example:
        Sample(id="digits/7", question="Where is the digit 3?", images=(Path("7.png"),), sizes=((56, 56),),
               answer_kind="boxes", answer=[[12, 5, 44, 37]], tags={"task": "box"})
    """

    id: str
    """Unique in its data set; seeds, journals and reports name the sample by it."""
    question: str
    """The words of the question, without images, answer format or chat template."""
    images: tuple[Path | bytes, ...] = ()
    """Paths or encoded bytes (PNG, JPEG...); empty for a text-only question, several for a question about several."""
    sizes: tuple[Size, ...] = ()
    """Original width and height of each image, in pixels."""
    answer_kind: AnswerKind
    """Which verifier scores it."""
    answer: Any
    """The truth, as JSON: a choice's text or letter, a number, a list of boxes [x1, y1, x2, y2]."""
    choices: tuple[str, ...] = ()
    """The closed set of options, where there is one."""
    frame: str = "pixels"
    """Coordinate frame of the truth's boxes: pixels | norm1 | norm1000."""
    solution: str = ""
    """A worked text to imitate in the warm-up; empty = the answer in the prompt style's format."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """What benchmarks group by, for instance {"task": "count"}."""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Every other column of the row, for verifiers of one's own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A sample as the model reads it. Made once; sampler and trainer both use this object, so they cannot differ.

    Example:
        Prompt(sample=sample, text="<|im_start|>user...", input_ids=(151644, ...), features={"pixel_values": ...})
    """

    sample: Sample
    """Where it comes from."""
    text: str
    """The chat text, one placeholder an image (not expanded)."""
    input_ids: tuple[int, ...]
    """[L] token ids, each image's placeholder expanded to its number of visual tokens."""
    features: Mapping[str, Tensor]
    """The processor's other outputs of this prompt alone: mm_token_type_ids [1, L], pixel_values, image_grid_thw [images, 3]..."""
    pictures: tuple[str, ...] = ()
    """A digest of each picture's processed pixels, in order: equal pictures are looked at once."""
    images: tuple[Image, ...] = ()
    """What the processor was shown, in order, as RGB: an engine with a processor of its own is shown the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer.

    Example:
        Completion(token_ids=(91, 22, 92, 4), logprobs=(-0.1, -1.2, -0.1, 0.0), text="<answer>3</answer>", finish="stop", version=12)
    """

    token_ids: tuple[int, ...]
    """[T] sampled ids, the end id included where one was reached."""
    logprobs: tuple[float, ...]
    """[T] log-probability of each sampled id under the policy that sampled it: temperature and placeholder ban included."""
    text: str
    """Decoded with special tokens, less the one final end id."""
    finish: Literal["stop", "length"]
    """Whether it ended by an end id or ran into the length limit."""
    version: int
    """Number of updates the sampling policy had seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a verifier says of one answer.

    Example:
        Verdict(reward=0.0, parts={"accuracy": 0.0, "format": 1.0}, answer="4", reason="wrong")
    """

    reward: float
    """In [0, 1] before weighting; NaN = could not be scored (a fault of ours, never of the answer)."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the reward is made of, for instance accuracy and format."""
    answer: str = ""
    """What was read out of the text."""
    reason: str = ""
    """Why: first word of a closed set (right, wrong, malformed, truncated, fault...), more words after a colon."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """One prompt, its G completions and their verdicts: the unit of sampling, of advantage and of the update."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    """[G]"""
    verdicts: tuple[Verdict, ...]
    """[G] aligned with completions."""
    draw: int
    """How many prompts had been drawn since the start of the run: addresses the group's random streams."""

    @property
    def rewards(self) -> tuple[float, ...]:
        """[G] rewards, NaN where a completion could not be scored."""
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def task(self) -> str:
        """What the question asks for: its `task` tag, else its kind of answer."""
        return self.prompt.sample.tags.get("task", self.prompt.sample.answer_kind)

    @property
    def informative(self) -> bool:
        """Whether its scored rewards differ: only then has the group something to say under a group baseline."""
        scored = [reward for reward in self.rewards if reward == reward]  # NaN is not equal to itself
        return len(scored) > 1 and max(scored) - min(scored) > ZERO_VARIANCE_RANGE

    @property
    def lengths(self) -> tuple[int, ...]:
        """[G] tokens of each completion, the end id included."""
        return tuple(len(completion.token_ids) for completion in self.completions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What one optimizer step did, or why there was none."""

    skipped: str = ""
    """Empty when the parameters moved; else the reason: "no informative group", "non-finite gradient"..."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """Loss, gradient norm before clipping, entropy, learning rate..."""


Mode = Literal["strict", "lenient", "reference"]
"""strict: the prompt style's grammar | lenient: foreign answers, see `last_answer` | reference: what the authors' code did."""
