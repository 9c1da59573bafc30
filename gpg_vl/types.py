"""The types of gpg_vl, in the order in which a training step uses them.

Sample -> Prompt -> Completion -> Verdict -> Group -> Batch -> Update

Every object is born complete: no field is filled in later. A scored group is another type than an
unscored list of completions.

Shape letters: B groups, G completions of a group, T tokens of a completion, L tokens of a prompt
whose image placeholders are expanded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gpg_vl import short_repr
from gpg_vl.errors import UserError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""

Corners = tuple[float, float, float, float]
"""Left, upper, right and lower edge of a box, in pixels of a picture as a person sees it."""

AnswerKind = str
"""Kind of an answer: choice, number, value, expression, boxes, detection, label, or your own."""

Mode = Literal["strict", "lenient", "reference"]
"""strict: the grammar of the prompt style, for training | lenient: answers of models that were not
asked in that style | reference: the published rule of the authors."""

NOTHING_INFORMATIVE = "no informative group"
NON_FINITE = "non-finite"
"""Reasons why a step did not move the parameters; the second goes on with what was not finite."""

ZERO_VARIANCE_RANGE = 1e-6
"""A group whose highest and lowest reward differ by no more than this has zero variance. It is
compared with raw rewards, so that rounding of advantages cannot make a group informative."""


class Turn(NamedTuple):
    """One turn of a chat before the question.

    Example:
        Turn("system", "You are a careful counter.")
    """

    role: str
    """system | user | assistant."""
    text: str
    """Words of the turn; a mark such as <image> is the place of a picture."""


class LeftOut(NamedTuple):
    """A row of a data set that is not used.

    Example:
        LeftOut("sat/17", "2 images; the published experiment uses rows of one image")
    """

    id: str
    """Id of the row."""
    why: str
    """Reason, in words."""
    source: str = ""
    """Name of the source that the row is from; empty = not known."""

    @classmethod
    def of(cls, sample: Sample, why: str) -> LeftOut:
        """Return a sample with the reason why it is left out, in which its id is not repeated."""
        return cls(sample.id, why.removeprefix(f"{one_line(sample.id)}: "), sample.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question, the images it is about, and its true answer.

    Lists are taken as tuples. A value of a type that a field does not hold is a `UserError`.

    Example:
        Sample(id="digits/7", question="Where is the digit 3?", images=(Path("7.png"),),
               sizes=((56, 56),), answer_kind="boxes", answer=[[12, 5, 44, 37]],
               tags={"task": "box"})
    """

    id: str = ""
    """Unique in its source; seeds, run folders and reports name the sample by it. Without one, a
    digest of the question, its pictures and its answer takes its place."""
    question: str
    """Words of the question, without answer format or chat template. A mark such as <image> or
    <image 2> is the place of a picture; without marks the pictures come first."""
    context: tuple[Turn, ...] = ()
    """Turns before the question: the system message of its row, earlier questions and answers."""
    images: tuple[Path | bytes, ...] = ()
    """Paths or encoded bytes (PNG, JPEG...); empty for a question about no image."""
    sizes: tuple[Size, ...] = ()
    """Original width and height of each image, in pixels."""
    answer_kind: AnswerKind
    """Name of the verifier that scores it."""
    answer: Any
    """True answer, as JSON: a choice's text or letter, a number, a list of boxes
    [x1, y1, x2, y2]. A list for a number, value, expression or label holds several accepted
    answers: any one of them is right."""
    choices: tuple[str, ...] = ()
    """Closed set of options, if there is one, without letters."""
    letters: tuple[str, ...] = ()
    """Letter of each option; empty = A, B, C... in their order."""
    frame: str = "pixels"
    """Coordinate frame of the true boxes: pixels | norm1 | norm1000."""
    answer_image: int = 0
    """Number of the image that the true boxes are in, counted from 1; 0 = there is only one."""
    solution: str = ""
    """Worked text to imitate in the warm-up; empty = the answer in the prompt style's format."""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tags that benchmarks group by, for instance {"task": "count"}."""
    source: str = ""
    """Name of the source that it was read from: a file, a hub data set or a recipe."""
    columns: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Every other column of the row, for verifiers of your own."""

    __repr__ = short_repr.of_fields

    def __post_init__(self) -> None:
        for name in _TEXTS:
            _check(isinstance(getattr(self, name), str), self, name, "a text")
        for name in ("tags", "columns"):
            _check(isinstance(getattr(self, name), Mapping), self, name, "a mapping by name")
        _check(
            type(self.answer_image) is int,
            self,
            "answer_image",
            "the number of an image, 1 for the first",
        )
        for name, (read_item, expected) in _SEQUENCES.items():
            items = _items(getattr(self, name), read_item)
            _check(items is not None, self, name, expected)
            object.__setattr__(self, name, items)
        if not self.id:
            object.__setattr__(self, "id", _digest(self))

    @property
    def boxed_size(self) -> Size:
        """Width and height in pixels of the image that the true boxes are in."""
        return self.sizes[max(self.answer_image, 1) - 1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A sample as the model reads it. Sampler and trainer use the same object, so they agree.

    Example:
        Prompt(sample=sample, text="<|im_start|>user...", input_ids=(151644, ...),
               features={"pixel_values": ...})
    """

    sample: Sample
    """The sample it was made from."""
    text: str
    """Chat text, one placeholder per image (not expanded)."""
    input_ids: tuple[int, ...]
    """[L] token ids, each image's placeholder expanded to its number of visual tokens."""
    features: Mapping[str, Tensor]
    """Other outputs of the processor for this prompt alone: mm_token_type_ids [1, L],
    pixel_values, image_grid_thw [images, 3]..."""
    pictures: tuple[str, ...] = ()
    """Digest of each picture's processed pixels, in order: equal pictures are encoded once."""
    images: tuple[Image, ...] = ()
    """Images given to the processor, in order, as RGB; engines with their own processor get
    the same."""

    __repr__ = short_repr.of_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer.

    Example:
        Completion(token_ids=(91, 22, 92, 4), logprobs=(-0.1, -1.2, -0.1, 0.0),
                   text="<answer>3</answer>", finish="stop", version=12)
    """

    token_ids: tuple[int, ...]
    """[T] sampled ids, the end id included if one was reached."""
    logprobs: tuple[float, ...]
    """[T] log-probability of each sampled id under the policy that sampled it, with temperature
    and without image placeholders."""
    text: str
    """Decoded with special tokens, without the final end id."""
    finish: Literal["stop", "length"]
    """stop: an end id was sampled | length: the length limit was reached."""
    version: int
    """Number of updates that the sampling policy had seen."""

    __repr__ = short_repr.of_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The score of one answer.

    Example:
        Verdict(reward=0.0, parts={"accuracy": 0.0, "format": 1.0}, answer="4", reason="wrong")
    """

    reward: float
    """In [0, 1] before weighting; NaN = could not be scored (an error of a verifier, never of the
    answer)."""
    parts: Mapping[str, float] = field(default_factory=dict[str, float])
    """Parts of the reward, for instance accuracy and format."""
    answer: str = ""
    """Answer that was read out of the text."""
    reason: str = ""
    """Reason: first word of a closed set (right, wrong, malformed, truncated, fault...), details
    after a colon."""
    boxes: tuple[Corners, ...] = ()
    """Boxes of the answer that were scored, in pixels of the picture, to draw them; empty = it has
    none, or none that lies in the picture."""

    @property
    def verifier_error(self) -> str:
        """First line of the error of a verifier; empty = it did not fail."""
        if not self.reason.startswith("fault"):
            return ""
        return self.reason.partition("\n")[0]  # the lines below are the traceback


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """One prompt, its G completions and their verdicts: the unit of sampling and of the update."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    """[G]"""
    verdicts: tuple[Verdict, ...]
    """[G] aligned with completions."""
    prompt_index: int
    """Index of the prompt in the endless order of the data; addresses the random streams."""

    __repr__ = short_repr.of_fields

    @property
    def rewards(self) -> tuple[float, ...]:
        """[G] rewards, NaN where a completion could not be scored."""
        return tuple(verdict.reward for verdict in self.verdicts)

    @property
    def lengths(self) -> tuple[int, ...]:
        """[G] tokens of each completion, the end id included."""
        return tuple(len(completion.token_ids) for completion in self.completions)

    @property
    def task(self) -> str:
        """The sample's `task` tag, else its answer kind."""
        sample = self.prompt.sample
        return sample.tags.get("task", sample.answer_kind)

    @property
    def informative(self) -> bool:
        """True if the scored rewards differ: a group baseline needs that to learn anything."""
        scored = [reward for reward in self.rewards if not math.isnan(reward)]
        return len(scored) > 1 and max(scored) - min(scored) > ZERO_VARIANCE_RANGE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """The groups of one step: this process's own, and the rewards and lengths of all processes."""

    groups: tuple[Group, ...]
    """Groups of this process."""
    rewards_BG: Tensor
    """[B, G] float64 rewards of all processes in rank order, NaN where unscored."""
    lengths_BG: Tensor
    """[B, G] tokens of each completion of all processes."""
    own_rows: slice
    """Rows of the two matrices that belong to this process."""

    __repr__ = short_repr.of_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Result of one optimizer step, or the reason why there was none."""

    skipped: str = ""
    """Reason why the parameters did not move ("no informative group", "non-finite gradient"...);
    empty if they did."""
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    """Loss, gradient norm before clipping, entropy, learning rate..."""

    @property
    def was_idle(self) -> bool:
        """True if there was nothing to learn from."""
        return self.skipped == NOTHING_INFORMATIVE

    @property
    def is_non_finite(self) -> bool:
        """True if the loss or its gradient was not finite."""
        return self.skipped.startswith(NON_FINITE)


# --- the fields of a sample -----------------------------------------------------------------------


_TEXTS = ("id", "question", "answer_kind", "frame", "solution", "source")


def _check(holds: bool, sample: Sample, name: str, expected: str) -> None:
    """Raise a `UserError` on a field of a sample that does not hold what it should."""
    if holds:
        return
    value = getattr(sample, name)
    raise UserError(
        f"Sample: {name}: got {short_repr.of(value)} ({type(value).__name__}), expected {expected}"
    )


def _items(value: Any, read_item: Any) -> tuple[Any, ...] | None:
    """Read the items of a tuple or list; None where it is neither, or has another kind of item."""
    if not isinstance(value, tuple | list):
        return None
    items: tuple[Any, ...] = tuple(map(read_item, value))  # pyright: ignore[reportUnknownArgumentType]
    return None if None in items else items


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _picture(value: Any) -> Path | bytes | None:
    return value if isinstance(value, Path | bytes) else None


def _size(value: Any) -> Size | None:
    """Read width and height in pixels; None where they are no two positive whole numbers."""
    try:
        width, height = map(index, value)
    except (TypeError, ValueError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _turn(value: Any) -> Turn | None:
    """Read a turn of a chat; None where it is no (role, text)."""
    if isinstance(value, Turn):
        return value
    parts = _items(value, _text)
    return Turn(*parts) if parts is not None and len(parts) == 2 else None


_SEQUENCES = {
    "context": (_turn, "turns such as (Turn('system', 'You count.'),)"),
    "images": (_picture, "paths or encoded bytes such as (Path('7.png'),)"),
    "sizes": (_size, "width and height of each image in pixels, such as ((640, 480),)"),
    "choices": (_text, "texts such as ('cat', 'dog')"),
    "letters": (_text, "texts such as ('A', 'B')"),
}
"""Field -> how one item is read, and what is expected."""


def _digest(sample: Sample) -> str:
    """Return a short digest of what makes a sample another one than its neighbours."""
    asked = (sample.question, sample.context, sample.answer_kind, sample.answer, sample.choices)
    try:
        written = repr(asked)
    except Exception:  # an answer of the user's own type whose `repr` fails, or a number too long
        written = short_repr.of(asked)
    digest = hashlib.sha256(written.encode("utf-8", "surrogatepass"))
    for image in sample.images:
        content = image if isinstance(image, bytes) else b"path:" + bytes(image)
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]
