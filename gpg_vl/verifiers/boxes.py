"""Verify grounding: boxes in the image, scored by overlap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from statistics import fmean
from typing import Any, ClassVar, Literal, cast

from gpg_vl import boxes
from gpg_vl.boxes import Box, Frame
from gpg_vl.errors import shown
from gpg_vl.parsing import boxes as answer_boxes
from gpg_vl.parsing.boxes import Found
from gpg_vl.types import Corners, Mode, Sample, Size
from gpg_vl.verifiers import published_rules
from gpg_vl.verifiers.base import Grade, RuleVerifier, right_or_wrong

DECLARED = {"pixels": Frame(), "norm1": Frame(kind="norm1"), "norm1000": Frame(kind="norm1000")}
"""Frames in which a truth may be stored: those that depend on nothing but the image."""
TOLERANCE = 0.01
"""Share of the image's side by which an edge may lie outside the image, before the box earns
nothing: rounding is no error."""
TRUTH_ROUNDING = 1.0
"""Pixels by which an edge of a true box may lie outside the image; they are cut off."""
MAX_COORDINATE = 1e9
"""Largest absolute coordinate of a box that is scored."""
MAX_CONSTANT_BOXES = 40
"""True boxes that are tried as constant answers."""
Policy = Literal["exactly_one", "first", "last", "all"]


@dataclass(frozen=True, kw_only=True)
class Boxes(RuleVerifier):
    """Boxes scored by IoU with the truth.

    The answer's numbers are read in the frame of the model and converted once to original pixels.
    Strictly, the answer is boxes and nothing else in one of the spellings of
    `parsing.boxes.records` (a family's own grounding tokens and `<box>` tags are for lenient
    reading); a reversed or empty box earns 0, and so does one that leaves the image by more than a
    hundredth of its side; a smaller excess is cut off. Leniently, boxes are picked out of any text.
    Where answer and truth are in the same frame no size of the image is needed; in pixels, of its
    edges only the left and the upper one are known then. There is no best-of: the policy chooses
    the box that counts before the truth is compared.

    Reference mode is VLM-R1's evaluator (IoU above 0.5 by its own pixel rule), or with `measure:
    giou` Visual-RFT's reward GIoU + 1 in thousandths, clamped to [0, 2] and halved.
    """

    measure: Literal["iou", "giou"] = "iou"
    """iou | giou: (GIoU + 1) / 2, which also distinguishes far from near."""
    threshold: float | None = None
    """When set, 1 at this IoU or above and 0 below."""
    policy: Policy = "exactly_one"
    """exactly_one: an answer of two boxes earns 0 | first | last | all: boxes and truths are
    paired one to one by optimal assignment, and the sum of the scores is divided by the larger
    number."""
    most: int = 100
    """Largest number of boxes; an answer of more earns nothing."""
    spelling_loss: ClassVar[float] = 0.05
    frame: Frame = field(default_factory=Frame)
    """Frame of the model's numbers; filled from the policy."""

    def grade(self, answer: str, sample: Sample) -> Grade:
        """Score the box that `policy` chooses, or all of them.

        0 where none can be read or placed inside the image.
        """
        truths = self._truths(sample)
        given = self._read(answer)
        if given is None:
            what = "not exactly one box" if self.policy == "exactly_one" else "no box"
            return Grade(0.0, answer, f"unreadable: {what}")
        if len(given) > self.most:
            return Grade(0.0, answer, f"wrong: more than {self.most} boxes")
        if self.policy == "all":
            return self._grade_all(given, truths, sample)
        chosen = given[-1] if self.policy == "last" else given[0]
        box = self.placed(chosen, sample)
        if box is None:
            return Grade(0.0, answer, "wrong: reversed, empty or outside the image")
        overlap = boxes.iou(box, truths[0])
        reason = f"{right_or_wrong(overlap >= 0.5)}: IoU {overlap:.2f}"
        shown = in_pixels([box], sample)
        return Grade(self.score(box, truths[0]), boxes.write(box), reason, shown)

    def reference(self, text: str, sample: Sample) -> Grade:
        """Score by the authors' rule for the measure; see the class."""
        truth = self._truths(sample)[0]
        if self.measure == "giou":
            check_size(sample)  # the authors' rule is in thousandths of the image
            normed_truth = DECLARED["norm1"].from_pixels(truth, sample.boxed_size)
            raw = published_rules.lisa_reward(text, normed_truth)
            return Grade(
                min(max(raw, 0.0), 2.0) / 2,
                published_rules.reading(text),
                f"{right_or_wrong(raw >= 1.5)}: GIoU + 1 = {raw:.4f}",
            )
        given = published_rules.vlm_r1_box(text)
        if given is None:
            return Grade(0.0, "", "unreadable: no box where the authors look for one")
        box = self._to_pixels(given, sample)
        overlap = published_rules.vlm_r1_iou(box, truth)
        reason = f"{right_or_wrong(overlap > 0.5)}: IoU {overlap:.2f}"
        shown = in_pixels([box], sample)
        return Grade(float(overlap > 0.5), boxes.write(box), reason, shown)

    def reference_answer(self, sample: Sample) -> str:
        if self.mode == "strict":
            check_size(sample)
        spelt = [self.spelt(truth, sample) for truth in self._truths(sample)]
        if self.policy == "all":
            return f"[{','.join(spelt)}]"
        return spelt[0]

    def true_boxes(self, sample: Sample) -> Sequence[Corners] | None:
        return in_pixels(self._truths(sample), sample)

    def placed(self, box: Box, sample: Sample) -> Box | None:
        """Convert an answer's box to original pixels.

        None where it is reversed, empty or, strictly, outside the image. Strictly, what leaves the
        image by at most `TOLERANCE` of a side is cut off.
        """
        if self.mode == "strict" and box.proper:
            box = self._clipped(box, sample)
        if not box.proper or max(map(abs, box)) >= MAX_COORDINATE:
            return None
        return self._to_pixels(box, sample)

    def spelt(self, truth: Box, sample: Sample) -> str:
        """Write a true box in the frame of the answer, with as few digits as keep it."""
        box = self.frame.from_pixels(truth, sample.boxed_size) if sample.sizes else truth
        for digits in range(5):
            rounded = Box(*(round(edge, digits) for edge in box))
            if rounded.proper and boxes.iou(rounded, box) >= 1 - self.spelling_loss:
                return boxes.write(rounded, digits)
        return boxes.write(box, 5)

    def score(self, box: Box, truth: Box) -> float:
        """Compute the score of a box against one truth, both in pixels."""
        if self.threshold is not None:
            return float(boxes.iou(box, truth) >= self.threshold)
        if self.measure == "iou":
            return boxes.iou(box, truth)
        return (boxes.giou(box, truth) + 1) / 2

    def _read(self, answer: str) -> list[Box] | None:
        """Read the boxes of an answer; None where their number does not fit the policy."""
        records = read_boxes(answer, self.mode)
        if records is None:
            return None
        if not records and self.policy != "all":
            return None
        if len(records) != 1 and self.policy == "exactly_one":
            return None
        return [record.box for record in records]

    def _grade_all(self, given: Sequence[Box], truths: Sequence[Box], sample: Sample) -> Grade:
        placed = [self.placed(box, sample) for box in given]

        def score(row: int, column: int) -> float:
            box = placed[row]
            if box is None:
                return 0.0
            return self.score(box, truths[column])

        pairs = assign(len(given), len(truths), score)
        total = sum(paired_score for _, _, paired_score in pairs)
        accuracy = 1.0  # no boxes where none are to be found
        if given or truths:
            accuracy = total / max(len(given), len(truths))
        written = [boxes.write(box) for box in placed if box is not None]
        reason = f"{right_or_wrong(accuracy >= 0.5)}: {len(given)} boxes for {len(truths)}, mean "
        return Grade(
            accuracy,
            f"[{','.join(written)}]",
            f"{reason}{accuracy:.2f}",
            in_pixels(placed, sample),
        )

    def _clipped(self, box: Box, sample: Sample) -> Box:
        """Cut off what lies outside the image.

        A box that leaves the image by more than the tolerance is returned without area. Of an image
        in pixels whose size is not known only the left and the upper edge are.
        """
        if not sample.sizes and self.frame.kind == "pixels":
            return box if min(box.x1, box.y1) >= 0 else Box(0, 0, 0, 0)
        # shares and thousandths are the same of every size
        width, height = self.frame.units(sample.boxed_size if sample.sizes else (1, 1))
        excess = max(
            -box.x1 / width, -box.y1 / height, (box.x2 - width) / width, (box.y2 - height) / height
        )
        if excess <= TOLERANCE:
            return Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height))
        return Box(0, 0, 0, 0)

    def _to_pixels(self, box: Box, sample: Sample) -> Box:
        return self.frame.to_pixels(box, sample.boxed_size) if sample.sizes else box

    def _truths(self, sample: Sample) -> list[Box]:
        truths = truth_boxes(sample, sizeless=needs_no_size(self.frame, sample))
        if self.policy != "all" and len(truths) != 1:
            raise ValueError(
                f"answer {shown(sample.answer)} is not one box [[x1, y1, x2, y2]]; any number of "
                "boxes is answer_kind: detection, or policy: all of the verifier"
            )
        return truths

    # --- the exploit suite ------------------------------------------------------------------------

    def constant_answers(self, samples: Sequence[Sample]) -> list[str]:
        """Return the boxes of `constant_boxes` as answers."""
        return [boxes.write(box, 4) for box in constant_boxes(samples, self.frame)]

    def chance_level(self, samples: Sequence[Sample]) -> float:
        """Compute the best mean score of one box, by geometry alone."""
        return best_mean_overlap(samples, self.frame, self.score)

    def whole_image_accuracy(self, sample: Sample) -> float:
        """Compute the score of the box around the whole image, by the verifier's own measure."""
        if not sample.sizes:
            return 0.0
        truths = truth_boxes(sample)
        width, height = sample.boxed_size
        whole = Box(0, 0, float(width), float(height))
        best = max((self.score(whole, truth) for truth in truths), default=0.0)
        # with the policy `all`, one box for several truths shares its score with them
        return best / max(1, len(truths))


# --- reading --------------------------------------------------------------------------------------


def read_boxes(answer: str, mode: Mode) -> list[Found] | None:
    """Read the boxes of an answer; None where it is no list of boxes and states none either."""
    if mode == "strict":
        return answer_boxes.records(answer)
    found = answer_boxes.find(answer)
    if found or answer_boxes.states_no_objects(answer):
        return found
    return None


def needs_no_size(frame: Frame, sample: Sample) -> bool:
    """Return True where boxes can be compared although the image's size is not known.

    That is, where the truth is stored in the frame of the answer.
    """
    return not sample.sizes and frame.kind == sample.frame and frame.kind != "resized"


def check_size(sample: Sample) -> None:
    """Check that a sample says how large its image is.

    Raises:
        ValueError: it does not.
    """
    if not sample.sizes:
        raise ValueError("a box needs an image: width and height in pixels, sizes=((640, 480),)")


def in_pixels(placed: Sequence[Box | None], sample: Sample) -> tuple[Corners, ...]:
    """Return the boxes that could be placed in the picture; none where its size is not known."""
    if not sample.sizes:
        return ()
    return tuple(box for box in placed if box is not None)


def truth_boxes(sample: Sample, *, sizeless: bool = False) -> list[Box]:
    """Return the true boxes in original pixels; what is rounded beyond the edge is cut off.

    Args:
        sizeless: the image's size is not known and not needed, because the answer is in the frame
            of the truth.

    Raises:
        ValueError: no image, or none of several named; an unknown frame; no boxes, or one that is
            empty or outside the image.
    """
    if not sizeless:
        check_size(sample)
    if sample.frame not in DECLARED:
        raise ValueError(
            f"frame {shown(sample.frame)} is none of {', '.join(DECLARED)}; if the column is not "
            "the frame of the boxes, give it another name: columns: {video_frame: frame}"
        )
    if not sizeless:
        check_image(sample)
    truths: list[Box] = []
    for corners in stored_boxes(sample):
        box = corners
        where = "outside any image"
        if not sizeless:
            width, height = sample.boxed_size
            where = f"outside the image of {width} x {height} pixels"
            box = cut_to_image(corners, sample.frame, sample.boxed_size)
        if box is None or not box.proper or min(box.x1, box.y1) < 0:
            raise ValueError(f"box {shown(sample.answer)} is empty or {where}")
        truths.append(box)
    return truths


def check_image(sample: Sample) -> None:
    """Check that a sample says in which of its images its boxes are.

    Raises:
        ValueError: it has several images and names none, or one that it does not have.
    """
    count = len(sample.sizes)
    if sample.answer_image == 0 and count > 1:
        raise ValueError(
            f"the boxes are in one of {count} images, but it is not said in which; name the image: "
            "column answer_image, counted from 1"
        )
    if not 0 <= sample.answer_image <= count:
        raise ValueError(
            f"answer_image is {sample.answer_image}, but there are {count} images; expected a "
            f"number from 1 to {count}"
        )


def cut_to_image(corners: Box, frame: str, size: Size) -> Box | None:
    """Convert a true box to original pixels, and cut off what rounding moved beyond the edge.

    One pixel is rounding: annotation tools write the width as the last pixel. In shares and
    thousandths a thousandth of the side is rounding too, where that is more than a pixel.

    Args:
        frame: frame of the corners, one of `DECLARED`.
        size: width and height of the image in pixels.

    Returns:
        The box; None where more of it is outside the image.
    """
    box = DECLARED[frame].to_pixels(corners, size)
    width, height = float(size[0]), float(size[1])
    x_slack, y_slack = TRUTH_ROUNDING, TRUTH_ROUNDING
    if frame != "pixels":
        # 1e-9: the conversion to pixels rounds too
        x_slack = max(x_slack, width / 1000) + 1e-9
        y_slack = max(y_slack, height / 1000) + 1e-9
    begins_inside = box.x1 >= -x_slack and box.y1 >= -y_slack
    ends_inside = box.x2 <= width + x_slack and box.y2 <= height + y_slack
    if not (begins_inside and ends_inside):
        return None
    return Box(max(box.x1, 0.0), max(box.y1, 0.0), min(box.x2, width), min(box.y2, height))


def stored_boxes(sample: Sample) -> list[Box]:
    """Return the boxes of a sample's answer as they are stored: bare corners, or under "box".

    Raises:
        ValueError: the answer is no list of boxes.
    """
    stored: list[Box] = []
    try:
        for item in sample.answer:
            corners = cast(dict[str, Any], item)["box"] if isinstance(item, dict) else item
            if isinstance(corners, str):  # "1234" is no four numbers
                raise TypeError("a text")
            x1, y1, x2, y2 = map(float, corners)
            stored.append(Box(x1, y1, x2, y2))
    except (TypeError, ValueError, KeyError, OverflowError):
        raise ValueError(
            f"answer {shown(sample.answer)} is not one box [[x1, y1, x2, y2]]"
        ) from None
    return stored


def assign(
    rows: int, columns: int, score: Callable[[int, int], float]
) -> list[tuple[int, int, float]]:
    """Pair rows and columns one to one so that the sum of their scores is largest.

    Returns:
        (row, column, score) of each pair; each row and column is used at most once (Hungarian
        method).
    """
    if not rows or not columns:
        return []
    # slow to import, and only needed for several boxes
    optimize: Any = import_module("scipy.optimize")
    table: list[list[float]] = []
    for row in range(rows):
        table.append([score(row, column) for column in range(columns)])
    paired_rows, paired_columns = optimize.linear_sum_assignment(table, maximize=True)
    pairs: list[tuple[int, int, float]] = []
    for row, column in zip(map(int, paired_rows), map(int, paired_columns), strict=True):
        pairs.append((row, column, table[row][column]))
    return pairs


# --- the exploit suite, for boxes and detection ---------------------------------------------------


def constant_boxes(samples: Sequence[Sample], frame: Frame) -> list[Box]:
    """Return constant boxes to try as answers, in the frame of the answer.

    These are the largest box inside all images, the mean true box and the first true boxes.
    """
    sizes = [frame.units(sample.boxed_size) for sample in samples]
    smallest_width = min(width for width, _ in sizes)
    smallest_height = min(height for _, height in sizes)
    constants = [Box(0, 0, smallest_width, smallest_height)]
    truths: list[Box] = []
    for sample in samples:
        truths += [frame.from_pixels(truth, sample.boxed_size) for truth in truth_boxes(sample)]
    if truths:
        constants.append(Box(*map(fmean, zip(*truths, strict=True))))
    return constants + truths[:MAX_CONSTANT_BOXES]


def best_mean_overlap(
    samples: Sequence[Sample], frame: Frame, score: Callable[[Box, Box], float]
) -> float:
    """Compute the best mean score of one constant answer, by geometry alone.

    An answer is one of `constant_boxes`, scored against the best truth of each image, or "No
    Objects", which is right for images without any truth.
    """
    truths = [truth_boxes(sample) for sample in samples]
    best = fmean(not boxes_of_image for boxes_of_image in truths)
    for constant in constant_boxes(samples, frame):
        scores: list[float] = []
        for sample, boxes_of_image in zip(samples, truths, strict=True):
            box = frame.to_pixels(constant, sample.boxed_size)
            scores.append(max((score(box, truth) for truth in boxes_of_image), default=0.0))
        best = max(best, fmean(scores))
    return best
