"""Find true boxes whose numbers contradict the declared frame or box format.

Numbers say nothing of their meaning: of boxes in x, y, width, height some fit as corners, and they
are trained on the wrong places without a word. Over many rows the numbers can tell.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, product

from gpg_vl.boxes import Box
from gpg_vl.errors import one_line
from gpg_vl.preflight.finding import Finding, Level
from gpg_vl.types import Sample, Size
from gpg_vl.verifiers.boxes import (
    DECLARED,
    TRUTH_ROUNDING,
    check_image,
    cut_to_image,
    stored_boxes,
)

FORMATS = ("xyxy", "xywh", "cxcywh")
"""Box formats of four numbers."""
SHARE_LIMIT = 2.0
"""Largest number that may be a share of the picture; 1 and what rounding adds."""
LEAST_SIDE = 10
"""Side of a picture in pixels from which a box below `SHARE_LIMIT` pixels is no object."""
MIN_MISFITS = 0.05
"""Share of the rows that must contradict the declaration before another one is proposed."""
BETTER = 4
"""Times fewer rows that a proposed declaration must leave out."""
FAR_BEYOND = 1.25
"""Times a limit that a side must have, to expect boxes beyond the limit."""
MAX_CHANCE = 0.05
"""Chance, if edges lay anywhere in the picture, below which their limit is no chance."""
THOUSAND = 1000.0
MIN_BOXES = 3
"""Boxes in larger pictures without which a limit says nothing."""

_TURNED = (
    "[y1, x1, y2, x2], to be written x first, or those of photos that lie on their side without "
    "their EXIF orientation"
)
"""Boxes with x and y exchanged, in words."""

Declaration = tuple[str, str]
"""Frame and box format."""
Corners = tuple[float, float, float, float]
"""Four numbers of a box, in any format."""


@dataclass
class _Limit:
    """Tells by chance alone how likely it is that no edge lies beyond a number."""

    value: float
    log_chance: float = 0.0
    boxes: int = 0
    largest: float = 0.0

    def add(self, box: Box, units: tuple[float, float]) -> None:
        """Count a box in a picture of these sides, in units of its frame."""
        self.largest = max(self.largest, box.x2, box.y2)
        large = [side for side in units if side >= FAR_BEYOND * self.value]
        self.boxes += bool(large)
        self.log_chance += sum(math.log(self.value / side) for side in large)

    @property
    def is_kept(self) -> bool:
        """True if no edge lies beyond the limit, and not by chance."""
        if self.boxes < MIN_BOXES or self.largest > self.value * 1.001:
            return False
        return self.log_chance < math.log(MAX_CHANCE)


@dataclass
class _OwnSides:
    """Tells by chance alone how likely it is that thousandths never exceed the picture's pixels."""

    log_chance: float = 0.0
    boxes: int = 0
    is_exceeded: bool = False

    def add(self, box: Box, size: Size) -> None:
        """Count a box of thousandths in a picture of this size in pixels."""
        self.boxes += 1
        for edge, side in ((box.x2, size[0]), (box.y2, size[1])):
            self.is_exceeded |= edge > side + TRUTH_ROUNDING
            if side * FAR_BEYOND <= THOUSAND:
                self.log_chance += math.log(side / THOUSAND)

    @property
    def are_kept(self) -> bool:
        """True if no edge lies beyond the picture's pixels, and not by chance."""
        if self.boxes < MIN_BOXES or self.is_exceeded:
            return False
        return self.log_chance < math.log(MAX_CHANCE)


@dataclass
class _Counts:
    """Counts of the rows that are declared alike."""

    declared: Declaration
    rows: int = 0
    first_misfit: str = ""
    fits: Counter[Declaration] = field(default_factory=Counter[Declaration])
    """Rows that fit, for each declaration."""
    rescued: Counter[Declaration] = field(default_factory=Counter[Declaration])
    """Rows among them that do not fit as declared."""
    shares: int = 0
    """Rows whose numbers look like shares of the picture."""
    exchanged: int = 0
    """Rows that fit as declared if their numbers are y first: [y1, x1, y2, x2]."""
    own_sides: _OwnSides = field(default_factory=_OwnSides)
    hundred: _Limit = field(default_factory=lambda: _Limit(100.0))
    thousand: _Limit = field(default_factory=lambda: _Limit(THOUSAND))

    @property
    def misfits(self) -> int:
        """Number of rows that do not fit as declared."""
        return self.rows - self.fits[self.declared]

    @property
    def would_fit_turned(self) -> bool:
        """True if far fewer rows do not fit with x and y exchanged."""
        return (self.rows - self.exchanged) * BETTER <= self.misfits

    @property
    def is_mostly_wrong(self) -> bool:
        """True if most rows do not fit as declared."""
        return self.misfits * 2 > self.rows

    def add(self, name: str, boxes: Sequence[Box], size: Size) -> None:
        """Count a row that has boxes."""
        frame, box_format = self.declared
        self.rows += 1
        raw = [_numbers(box, box_format) for box in boxes]
        fitting: list[Declaration] = []
        for declaration in _declarations(box_format):
            if would_fit(raw, size, *declaration):
                fitting.append(declaration)
        self.fits.update(fitting)
        if self.declared not in fitting:
            self.rescued.update(fitting)
            self.first_misfit = self.first_misfit or name
        largest = max(map(abs, chain.from_iterable(raw)))
        self.shares += largest <= SHARE_LIMIT and min(size) >= LEAST_SIDE
        if box_format == "xyxy":
            turned = [(y1, x1, y2, x2) for x1, y1, x2, y2 in raw]
            self.exchanged += would_fit(turned, size, frame, box_format)
        for box in boxes:
            self.own_sides.add(box, size)
            self.hundred.add(box, DECLARED[frame].units(size))
            self.thousand.add(box, DECLARED[frame].units(size))


def findings(
    samples: Iterable[Sample],
    box_format: str = "xyxy",
    *,
    source: str = "",
    kinds: Collection[str] = ("boxes", "detection"),
) -> list[Finding]:
    """Return what the boxes of one source say against its frame and its box format.

    Args:
        samples: all rows of the source that could be read, also those that their verifier left
            out: they show that a declaration is wrong. Rows of other kinds and without a picture
            are passed over.
        box_format: box format that the source declares.
        source: name of the source, for the sentences; empty = there is only one.
        kinds: answer kinds whose answers are boxes.
    """
    by_frame: dict[str, _Counts] = {}
    for sample in samples:
        if sample.answer_kind not in kinds or sample.frame not in DECLARED or not sample.sizes:
            continue
        try:
            check_image(sample)
            boxes = stored_boxes(sample)
        except ValueError:
            continue  # its row is left out with this sentence, and says nothing of its numbers
        if boxes:
            counts = by_frame.setdefault(sample.frame, _Counts((sample.frame, box_format)))
            counts.add(one_line(sample.id), boxes, sample.boxed_size)
    found: list[Finding] = []
    prefix = f"boxes: {source}: " if source else "boxes: "
    for counts in by_frame.values():
        finding = _judged(counts)
        if finding is not None:
            found.append(Finding(finding.level, prefix + finding.text))
    return found


def would_fit(raw: Sequence[Corners], size: Size, frame: str, box_format: str) -> bool:
    """Return True if all boxes of a row lie inside their picture under a declaration.

    Args:
        raw: four numbers of each box, as the row has them.
        size: width and height of the picture in pixels.
    """
    for numbers in raw:
        box = cut_to_image(_corners(numbers, box_format), frame, size)
        if box is None or not box.proper:
            return False
    return True


def _declarations(box_format: str) -> list[Declaration]:
    """Return the declarations that are tried; bounds of polygons are corners, whatever else."""
    formats = FORMATS if box_format in FORMATS else (box_format,)
    return list(product(DECLARED, formats))


def _numbers(box: Box, box_format: str) -> Corners:
    """Return the numbers that a row of this format had for these corners."""
    width, height = box.x2 - box.x1, box.y2 - box.y1
    if box_format == "xywh":
        return box.x1, box.y1, width, height
    if box_format == "cxcywh":
        return box.x1 + width / 2, box.y1 + height / 2, width, height
    return box.x1, box.y1, box.x2, box.y2


def _corners(numbers: Corners, box_format: str) -> Box:
    """Return the corners that a row's numbers mean in this format."""
    x, y, width, height = numbers
    if box_format == "xywh":
        return Box(x, y, x + width, y + height)
    if box_format == "cxcywh":
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Box(*numbers)


# --- sentences ------------------------------------------------------------------------------------


def _judged(counts: _Counts) -> Finding | None:
    """Return the finding on the rows of one declaration; the surest is the only one."""
    return _on_shares(counts) or _on_misfits(counts) or _on_limits(counts)


def _on_shares(counts: _Counts) -> Finding | None:
    """Judge whether numbers of pixels or thousandths are shares of the picture."""
    if counts.declared[0] == "norm1" or counts.shares < MIN_MISFITS * counts.rows:
        return None
    level: Level = "stop" if counts.shares == counts.rows else "mind"
    formats = [name for frame, name in counts.fits if frame == "norm1"]
    formats.sort(key=lambda name: -counts.fits["norm1", name])
    declared = counts.declared[1]
    advice = "frame: norm1"
    best = formats[0] if formats else declared
    if counts.fits["norm1", best] > counts.fits["norm1", declared]:
        advice += f" and box_format: {best}"
    return Finding(
        level,
        f"{counts.shares} of {counts.rows} rows have no number above {SHARE_LIMIT:g} under frame: "
        f"{counts.declared[0]}: they look like shares of the picture; declare {advice}",
    )


def _on_misfits(counts: _Counts) -> Finding | None:
    """Judge whether rows that do not fit as declared would fit under another declaration."""
    if not counts.misfits or counts.misfits < MIN_MISFITS * counts.rows:
        return None
    better = [other for other in _declarations(counts.declared[1]) if _is_better(other, counts)]
    frame, box_format = counts.declared
    begin = (
        f"{counts.misfits} of {counts.rows} rows do not fit their picture with frame: {frame} and "
        f"box_format: {box_format} (the first: {counts.first_misfit})"
    )
    if better:
        fewest = min(_changes(other, counts.declared) for other in better)
        likely = [other for other in better if _changes(other, counts.declared) == fewest]
        advice = " or ".join(_written(other, counts.declared) for other in likely)
        if counts.would_fit_turned:
            advice += f", or if they are {_TURNED}"
        most = max(counts.fits[other] for other in likely)
        return Finding(
            _misfit_level(counts, likely),
            f"{begin}; {most} would fit with {advice}. Rows that fit by luck are trained on the "
            "wrong places: declare it, or make boxes and pictures of one size",
        )
    for name in FORMATS:
        rescued = counts.rescued[frame, name]
        if counts.misfits > 1 and rescued * 2 > counts.misfits:
            return Finding("mind", f"{begin}; {rescued} of these would fit with box_format: {name}")
    if counts.is_mostly_wrong:
        question = "are the boxes of a larger copy of the pictures?"
        if counts.would_fit_turned:
            question = f"are they {_TURNED}?"
        return Finding(
            "stop",
            f"{begin}, and no other declaration fits them. Rows that fit by luck are trained on "
            f"the wrong places: {question}",
        )
    return None


def _is_better(other: Declaration, counts: _Counts) -> bool:
    """Return True for a declaration under which far fewer rows are left out.

    Nearly every box fits into a small picture as thousandths in some format, so both settings are
    only changed where most rows contradict them.
    """
    if _changes(other, counts.declared) == 2 and not counts.is_mostly_wrong:
        return False
    return (counts.rows - counts.fits[other]) * BETTER <= counts.misfits


def _misfit_level(counts: _Counts, likely: Sequence[Declaration]) -> Level:
    """Return how sure it is that the declaration is wrong.

    One row among many may be broken. Boxes in pixels of a larger copy of the picture look like
    thousandths, so another frame is only sure where most rows contradict the declared one.
    """
    if counts.is_mostly_wrong:
        return "stop"
    is_same_frame = all(frame == counts.declared[0] for frame, _ in likely)
    return "stop" if is_same_frame and counts.misfits > 1 else "mind"


def _changes(other: Declaration, declared: Declaration) -> int:
    """Return how many of the two settings differ."""
    return (other[0] != declared[0]) + (other[1] != declared[1])


def _written(other: Declaration, declared: Declaration) -> str:
    """Write what would have to be declared instead."""
    settings: list[str] = []
    if other[0] != declared[0]:
        settings.append(f"frame: {other[0]}")
    if other[1] != declared[1]:
        settings.append(f"box_format: {other[1]}")
    return " and ".join(settings)


def _on_limits(counts: _Counts) -> Finding | None:
    """Judge whether no edge lies beyond 100 or 1000 although pictures are much larger."""
    frame = counts.declared[0]
    if frame == "norm1":
        return None
    if frame == "norm1000" and counts.own_sides.are_kept:
        return Finding(
            "mind",
            "no edge lies beyond the width and height of its own picture in pixels under frame: "
            "norm1000, although thousandths may; they look like pixels: declare frame: pixels, if "
            "a picture with its box shows it",
        )
    if counts.hundred.is_kept:
        what = "they look like percentages: divide them by 100 and declare frame: norm1"
    elif frame == "pixels" and counts.thousand.is_kept:
        what = "they look like thousandths of the picture: declare frame: norm1000"
    else:
        return None
    limit = counts.hundred if counts.hundred.is_kept else counts.thousand
    return Finding(
        "mind",
        f"no edge lies beyond {limit.value:g} under frame: {frame}, although the pictures of "
        f"{limit.boxes} boxes are larger; {what}, if a picture with its box shows it",
    )
