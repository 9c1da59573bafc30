"""The rules by which authors scored their own models, for `mode: reference`: holes and all, so that their figures can be reproduced.

Each function names its source. Nothing here is fit for training: an empty answer is a right class, "737" is "737-300", several boxes merge
into one.
"""

import json
import re
from collections.abc import Sequence
from typing import Literal

from gpg_vl import boxes
from gpg_vl.boxes import Box
from gpg_vl.parsing import markup

MOST = 1000
"""Boxes of one answer that are scored; matching them takes boxes times truths."""
ChoiceRule = Literal["mmmu", "mmmu_pro", "visual_thinker"]
_COUNT = re.compile(r"<answer>\s*(\d+)\s*</answer>")
_RECORD_BOX = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)]")
_REAL = r"\s*(-?(?:\d+(?:\.\d+)?|\.\d+))\s*"
_ANY_BOX = re.compile(rf"\[{_REAL},{_REAL},{_REAL},{_REAL}\]")
_LONE_LETTER = re.compile(r"(?:^|(?<=[\s(\[]))[A-H](?=$|[\s)\]])")
_PAIR_BOX = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def single_line_answer(text: str) -> str:
    """Visual-RFT, R1-V: the first `<answer>` block that stands on one line, else the whole text."""
    blocks = (_block(line) for line in text.split("\n"))
    return next((block for block in blocks if block is not None), text)


def _block(text: str) -> str | None:
    """The inside of the first complete `<answer>` block: `<answer>(.*?)</answer>`, but in linear time."""
    opened = text.find("<answer>") + len("<answer>")
    closed = text.find("</answer>", opened) if opened >= len("<answer>") else -1
    return text[opened:closed] if closed >= 0 else None


def r1v_count(text: str) -> int | None:
    """R1-V src/eval/test_qwen2vl_counting_superclevr.py: a whole number between answer tags, the first such block."""
    match = _COUNT.search(text)
    return int(match[1][-18:]) if match else None


def vlm_r1_box(text: str) -> Box | None:
    """VLM-R1 src/eval/test_rec_r1.py and test_rec_baseline.py.

    A text with tags is read by the first: the last list of four whole numbers inside braces of its first complete answer block. A text
    without any is read by the second: the first list of four numbers.
    """
    inside = _block(text)
    if inside is None:
        if "<think>" in text or "<answer>" in text:
            return None
        match = _ANY_BOX.search(text)
        return Box(*map(float, match.groups())) if match else None
    opened, closed = inside.find("{"), inside.rfind("}")
    found = [match for match in _RECORD_BOX.finditer(inside) if -1 < opened < match.start() and match.end() <= closed]
    return Box(*map(float, found[-1].groups())) if found else None


def vlm_r1_iou(a: Box, b: Box) -> float:
    """VLM-R1's IoU: corners are last pixels for the overlap (minus one, plus one) and edges for the areas."""
    left, top = max(a.x1, b.x1), max(a.y1, b.y1)
    right, bottom = min(a.x2 - 1, b.x2 - 1), min(a.y2 - 1, b.y2 - 1)
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    union = a.area + b.area - shared
    return shared / union if union else 0.0


def lisa_reward(text: str, truth: Box) -> float:
    """Visual-RFT src/virft/src/open_r1/grpo_lisa.py, without its clamp: GIoU + 1 of boxes in thousandths, unbounded for reversed boxes.

    With several boxes the first two corners of all first corners are taken: `(a),(b),(c),(d)` becomes the box from a to c.
    """
    block = _block(text)
    pairs = _PAIR_BOX.findall(text if block is None else block)
    if not pairs:
        return 0.0
    numbers = [float(number[-12:]) for number in pairs[0]]
    if len(pairs) > 1:
        numbers = [float(number[-12:]) for pair in pairs[:2] for number in pair[:2]]
    given = Box(*(number / 1000 for number in numbers))
    wide, high = min(given.x2, truth.x2) - max(given.x1, truth.x1), min(given.y2, truth.y2) - max(given.y1, truth.y1)
    shared = max(0.0, wide) * max(0.0, high)
    union = given.area + truth.area - shared
    hull_wide, hull_high = max(given.x2, truth.x2) - min(given.x1, truth.x1), max(given.y2, truth.y2) - min(given.y1, truth.y1)
    hull = hull_wide * hull_high
    return shared / union - (hull - union) / hull + 1 if union and hull else 0.0


def virft_label(text: str, truth: str) -> bool:
    """Visual-RFT, reward and evaluator of classification: lower case, no spaces or underscores, then one contains the other.

    Without the reward's symbolic stage, math-verify on the whole completion: no class name is an expression, but for "737-300".
    """
    given, wanted = (words.lower().replace(" ", "").replace("_", "").strip() for words in (single_line_answer(text).strip(), truth))
    return given in wanted or wanted in given


def virft_detection(text: str, truths: Sequence[Box]) -> tuple[float, float]:
    """Visual-RFT src/virft/src/open_r1/grpo.py: (IoU reward, confidence reward) of `[{'Position': [...], 'Confidence': c}, ...]`.

    By confidence, each box takes the free truth with the largest IoU above 0.5; matched IoU over max(boxes, truths), and the mean of c for
    matched and 1 - c for other boxes, clipped to [0, 1]. "No Objects" earns nothing, even where it is right. The symbolic stage before it
    (math-verify on the whole completion reads the second number of the first box, and pays both in full when it is the truth's) is left
    out: it is a property of that library's version.
    """
    unique = dict(_virft_records(single_line_answer(text))[:MOST])
    free, shared, sure = list(truths), 0.0, 0.0
    for box, confidence in sorted(unique.items(), key=lambda item: -item[1]):
        overlaps = [boxes.iou(box, truth) if box.proper else 0.0 for truth in free]
        best = max(range(len(free)), key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] > 0.5:
            shared += overlaps[best]
            sure += confidence
            del free[best]
        else:
            sure += 1 - confidence
    if not unique:
        return 0.0, 0.0
    return shared / max(len(truths), len(unique)), min(1.0, max(0.0, sure / len(unique)))


def _virft_records(text: str) -> list[tuple[Box, float]]:
    """Visual-RFT's reading of a detection: its repairs, then JSON. A fence, a bare record or one field amiss and nothing is read."""
    repaired = text.strip().replace("[[", "[").replace("]]", "]").replace("\n", "").replace("'", '"')
    if not repaired.endswith("]"):
        repaired = repaired.rpartition("},")[0] + "}]"
    try:
        items = json.loads(repaired)
        several = [([float(edge) for edge in item["Position"]], float(item["Confidence"])) for item in items]
        return [(Box(*edges), confidence) for edges, confidence in several]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []


def mmmu_choice(text: str, choices: Sequence[str], rule: ChoiceRule) -> int | None:
    """MMMU eval/eval_utils.py and MMMU-Pro evaluate.py, `parse_multi_choice_response`, without its random draw where nothing is found."""
    letters = [chr(ord("A") + index) for index in range(len(choices))]
    if rule == "mmmu_pro" and "Answer:" in text:
        behind = [letter for letter in letters if letter in text.rpartition("Answer:")[2]]
        if len(behind) == 1:
            return letters.index(behind[0])
    for mark in ",.!?;:'":
        text = text.strip(mark)
    text = f" {text} "
    forms = ("({})", " {} ") if rule == "mmmu" else ("({})", "{} ", "{}.")
    for form in forms:
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            where = form if form == "({})" else " {} "
            return letters.index(max(found, key=lambda letter: (text.rfind(where.format(letter)), -letters.index(letter))))
    if len(text.split()) <= 5:
        return None
    lower = text.lower()
    named = [index for index, option in enumerate(choices) if option.lower() in lower]
    return max(named, key=lambda index: (lower.rfind(choices[index].lower()), -index), default=None)


def visual_thinker_choice(text: str, truth: str) -> bool:
    """VisualThinker's reward on SAT, less its numeric stage: the very words of the truth, or the last lone capital letter is it."""
    given, wanted = single_line_answer(text).strip(), single_line_answer(truth).strip()
    alone = _LONE_LETTER.findall(given)
    return given == wanted or (bool(alone) and alone[-1] == wanted)


def reading(text: str) -> str:
    """What a reference rule saw, shortened for a record."""
    return markup.folded(single_line_answer(text))[:200]
