"""Reproduce the rules by which authors scored their own models, for `mode: reference`.

The rules keep their errors, so that the authors' figures can be reproduced. Each rule names its
source. Nothing here is fit for training: an empty answer is a right class, "737" is "737-300",
several boxes merge into one.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from gpg_vl import boxes
from gpg_vl.boxes import Box
from gpg_vl.parsing import markup
from gpg_vl.parsing.letters import letters_of
from gpg_vl.verifiers import math_worker
from gpg_vl.verifiers.base import Grade

MAX_BOXES = 1000
"""Boxes of one answer that are scored; matching them takes boxes times truths."""
MAX_TEXT = 20_000
"""Characters that math-verify reads, from the end of a whole completion."""
R1V_SECONDS = 10.0
"""Longest comparison of R1-V's rule for geometry, in seconds."""
ChoiceRule = Literal["mmmu", "mmmu_pro", "visual_thinker"]
_COUNT = re.compile(r"<answer>\s*(\d+)\s*</answer>")
_RECORD_BOX = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]")  # [10, 20, 60, 80]
_REAL = r"\s*(-?(?:\d+(?:\.\d+)?|\.\d+))\s*"
_ANY_BOX = re.compile(rf"\[{_REAL},{_REAL},{_REAL},{_REAL}\]")  # [10.5, 20, -.5, 80]
_LONE_LETTER = re.compile(r"(?:^|(?<=[\s(\[]))[A-H](?=$|[\s)\]])")  # (C)
_PAIR_BOX = re.compile(  # (10, 20), (60, 80)
    r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)"
)


def single_line_answer(text: str) -> str:
    """Return the first `<answer>` block that stands on one line, else the whole text.

    Source: Visual-RFT, R1-V.
    """
    for line in text.split("\n"):
        block = _answer_block(line)
        if block is not None:
            return block
    return text


def _answer_block(text: str) -> str | None:
    """Return the inside of the first complete `<answer>` block.

    The same as the authors' `<answer>(.*?)</answer>`, but in linear time.
    """
    start = text.find("<answer>")
    if start < 0:
        return None
    start += len("<answer>")
    end = text.find("</answer>", start)
    if end < 0:
        return None
    return text[start:end]


def r1v_count(text: str) -> int | None:
    """Read a whole number between answer tags, in the first such block.

    Source: R1-V src/eval/test_qwen2vl_counting_superclevr.py.
    """
    match = _COUNT.search(text)
    if match is None:
        return None
    # Python refuses to read more than 4300 digits; no count has more than eighteen
    return int(match[1][-18:])


def r1v_geoqa(text: str, truth: str) -> Grade:
    """Score a completion as R1-V's evaluator of geometry does.

    math-verify reads the whole completion, and the truth as it is stored.

    Source: R1-V src/eval/test_qwen2vl_geoqa.py.
    """
    reply = math_worker.WORKER.ask(R1V_SECONDS, answer=text[-MAX_TEXT:], truth=truth, swapped=True)
    if reply is None:
        return Grade(0.0, "", "unreadable: took too long")
    return Grade.of(reply["right"], reply["read"])


def vlm_r1_box(text: str) -> Box | None:
    """Read the box that VLM-R1 scores.

    Source: VLM-R1 src/eval/test_rec_r1.py and test_rec_baseline.py. A text with tags is read by the
    first: the last list of four whole numbers inside braces of its first complete answer block. A
    text without any is read by the second: the first list of four numbers.
    """
    inside = _answer_block(text)
    if inside is None:
        return _first_box_without_tags(text)
    opened = inside.find("{")
    closed = inside.rfind("}")
    last: re.Match[str] | None = None
    for match in _RECORD_BOX.finditer(inside):
        if -1 < opened < match.start() and match.end() <= closed:
            last = match
    if last is None:
        return None
    return Box(*map(float, last.groups()))


def _first_box_without_tags(text: str) -> Box | None:
    if "<think>" in text or "<answer>" in text:
        return None
    match = _ANY_BOX.search(text)
    if match is None:
        return None
    return Box(*map(float, match.groups()))


def vlm_r1_iou(a: Box, b: Box) -> float:
    """Compute VLM-R1's IoU.

    Corners are the last pixels inside for the overlap (minus one, plus one), and edges for the
    areas.

    Source: VLM-R1 src/eval/test_rec_r1.py.
    """
    left, top = max(a.x1, b.x1), max(a.y1, b.y1)
    right, bottom = min(a.x2 - 1, b.x2 - 1), min(a.y2 - 1, b.y2 - 1)
    shared = 0.0
    if left < right and top < bottom:
        shared = (right - left + 1) * (bottom - top + 1)
    union = a.area + b.area - shared
    if not union:
        return 0.0
    return shared / union


def lisa_reward(text: str, truth: Box) -> float:
    """Compute Visual-RFT's reward GIoU + 1 of boxes in thousandths, without its clamp.

    Unbounded for reversed boxes. With several boxes the first two corners of all first corners are
    taken: `(a),(b),(c),(d)` becomes the box from a to c.

    Source: Visual-RFT src/virft/src/open_r1/grpo_lisa.py.

    Args:
        text: the whole completion.
        truth: the true box, in shares of width and height.
    """
    block = _answer_block(text)
    pairs = _PAIR_BOX.findall(text if block is None else block)
    if not pairs:
        return 0.0
    numbers = list(pairs[0])
    if len(pairs) > 1:
        numbers = [*pairs[0][:2], *pairs[1][:2]]
    # the last twelve digits, so that no number is infinite
    given = Box(*(float(number[-12:]) / 1000 for number in numbers))
    # `giou` is meant for proper boxes; of a reversed one it computes what the authors' code does
    try:
        return boxes.giou(given, truth) + 1
    except ZeroDivisionError:  # the union or the hull has no area
        return 0.0


def virft_label(text: str, truth: str) -> bool:
    """Score a class name as Visual-RFT's reward and evaluator of classification do.

    Lower case, no spaces or underscores, then one contains the other. Without the reward's symbolic
    stage, math-verify on the whole completion: no class name is an expression, but for "737-300".

    Source: Visual-RFT src/virft/src/open_r1/grpo_classification.py.
    """
    given = _squeezed(single_line_answer(text).strip())
    class_name = _squeezed(truth)
    return given in class_name or class_name in given


def _squeezed(name: str) -> str:
    return name.lower().replace(" ", "").replace("_", "").strip()


def virft_detection(text: str, truths: Sequence[Box]) -> tuple[float, float]:
    """Compute Visual-RFT's rewards of `[{'Position': [...], 'Confidence': c}, ...]`.

    By confidence, each box takes the free truth with the largest IoU above 0.5. The IoU reward is
    the matched IoU over max(boxes, truths); the confidence reward is the mean of c for matched and
    1 - c for other boxes, clipped to [0, 1]. "No Objects" earns nothing, even where it is right.

    The symbolic stage before it (math-verify on the whole completion reads the second number of the
    first box, and pays both in full when it is the truth's) is left out: it is a property of that
    library's version.

    Source: Visual-RFT src/virft/src/open_r1/grpo.py.

    Returns:
        (IoU reward, confidence reward).
    """
    unique = dict(_virft_records(single_line_answer(text))[:MAX_BOXES])
    if not unique:
        return 0.0, 0.0
    free = list(truths)
    shared = 0.0
    sure = 0.0
    for box, confidence in sorted(unique.items(), key=lambda item: -item[1]):
        overlaps = [boxes.iou(box, truth) if box.proper else 0.0 for truth in free]
        best = max(range(len(free)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] > 0.5:
            shared += overlaps[best]
            sure += confidence
            del free[best]
        else:
            sure += 1 - confidence
    return shared / max(len(truths), len(unique)), min(1.0, max(0.0, sure / len(unique)))


def _virft_records(text: str) -> list[tuple[Box, float]]:
    """Read a detection as Visual-RFT does: its repairs, then JSON.

    Where there is a code fence, a bare record or one malformed field, nothing is read.
    """
    repaired = text.strip().replace("[[", "[").replace("]]", "]")
    repaired = repaired.replace("\n", "").replace("'", '"')
    if not repaired.endswith("]"):
        # cut off by the length limit: what follows the last complete record is dropped
        repaired = repaired.rpartition("},")[0] + "}]"
    try:
        return [_virft_record(item) for item in json.loads(repaired)]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []


def _virft_record(item: Any) -> tuple[Box, float]:
    edges = [float(edge) for edge in item["Position"]]
    confidence = float(item["Confidence"])
    return Box(*edges), confidence


def mmmu_choice(
    text: str, choices: Sequence[str], rule: ChoiceRule, letters: Sequence[str] = ()
) -> int | None:
    """Read an option as `parse_multi_choice_response` of MMMU or MMMU-Pro does.

    Without its random draw where nothing is found.

    Source: MMMU eval/eval_utils.py and MMMU-Pro evaluate.py.

    Args:
        text: the whole completion.
        choices: words of the options.
        rule: mmmu or mmmu_pro.
        letters: letters of the options; empty = A, B, C in their order.
    """
    letters = letters_of(choices, letters)
    if rule == "mmmu_pro" and "Answer:" in text:
        end = text.rpartition("Answer:")[2]
        behind = [index for index, letter in enumerate(letters) if letter in end]
        if len(behind) == 1:
            return behind[0]
    for sign in ",.!?;:'":
        text = text.strip(sign)
    text = f" {text} "
    forms = ("({})", " {} ") if rule == "mmmu" else ("({})", "{} ", "{}.")
    for form in forms:
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            # MMMU-Pro finds "A." too, but searches the last one as " A "
            searched = form if form == "({})" else " {} "
            return letters.index(_last_mentioned(found, searched, text))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    named = [index for index, option in enumerate(choices) if option.lower() in lower]
    return max(named, key=lambda index: (lower.rfind(choices[index].lower()), -index), default=None)


def _last_mentioned(letters: Sequence[str], form: str, text: str) -> str:
    """Return the letter whose last mention stands last; of two without any, the first letter."""
    last = letters[0]
    for letter in letters[1:]:
        if text.rfind(form.format(letter)) > text.rfind(form.format(last)):
            last = letter
    return last


def visual_thinker_choice(text: str, truth: str) -> bool:
    """Score a choice as VisualThinker's reward on SAT does, without its numeric stage.

    Right are the exact words of the truth, and a last lone capital letter that is the truth.

    Source: VisualThinker-R1-Zero src/open-r1-multimodal/src/open_r1/grpo.py.
    """
    given = single_line_answer(text).strip()
    right_answer = single_line_answer(truth).strip()
    letters = _LONE_LETTER.findall(given)
    return given == right_answer or (bool(letters) and letters[-1] == right_answer)


def reading(text: str) -> str:
    """Return the text that a reference rule reads, shortened for a record."""
    return markup.folded(single_line_answer(text))[:200]
