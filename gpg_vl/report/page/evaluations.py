"""Write the evaluations of a run as tables, and their questions as the page's script reads them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gpg_vl.errors import UserError
from gpg_vl.evaluation.compare import Comparison, common, compare, matched, remarks
from gpg_vl.evaluation.records import Record
from gpg_vl.evaluation.statistics import Interval, interval
from gpg_vl.report.page.contents import Evaluation, RunContents, evenly
from gpg_vl.report.page.gallery import first_word
from gpg_vl.report.page.pictures import PagePictures
from gpg_vl.report.page.texts import plain, shortened, single_line
from gpg_vl.run_folder.small_pictures import small_picture_path

Change = Literal["turned right", "turned wrong", "better", "worse", "still right", "still wrong"]
MOST_ITEMS: dict[Change, int] = {
    "turned right": 120,
    "turned wrong": 120,
    "better": 60,
    "worse": 60,
    "still right": 40,
    "still wrong": 100,
}
"""Questions of each kind that a page shows."""
_NUMBER = re.compile(r"\d+(\.\d+)?")
"""A number in a reason: "wrong: IoU 0.23" and "wrong: IoU 0.16" are one kind."""
LEAST_P = 1e-12
"""Smaller p values are not told apart."""
MOST_COLUMNS = 8
"""Evaluations in a table; of more the first, the last, and some between."""
MOST_TAGS = 40
"""Rows of a table; of more tags those with the most questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Accuracy of an evaluation on the questions of one tag."""

    percent: str
    interval: str
    """`[81.4, 87.6]`; empty = it has none."""
    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedRow:
    """Two evaluations of the same questions, of one tag or of all."""

    tag: str
    count: int
    first: Cell
    second: Cell
    difference: str
    verdict: Literal["better", "worse", "no difference seen"]
    gained: int
    lost: int
    p: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """A table of two evaluations of the same questions."""

    title: str
    sides: tuple[str, str]
    rows: Sequence[PairedRow]
    remarks: Sequence[str] = ()
    """Caveats: settings that differ, questions without a digest."""
    problem: str = ""
    """Sentence on why the two cannot be compared; empty = they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Answers of one kind of reason, the last evaluation of them."""

    reason: str
    count: int
    share: str
    examples: Sequence[str]
    """Texts of some of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkPart:
    """All that a page shows of a benchmark."""

    name: str
    columns: Sequence[str]
    """Names of the evaluations: "before", "step 50", "after", "grey pictures"."""
    blank: Sequence[bool] = ()
    """True for each evaluation with grey pictures."""
    rows: Sequence[tuple[str, Sequence[Cell | None]]]
    """Tag -> a cell of each evaluation."""
    paired: Sequence[Paired] = ()
    failures: Sequence[Failures] = ()
    """Of the last evaluation that is no control."""
    last: str = ""
    """Name of that evaluation."""
    changes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Number of questions of each kind of change, shown or not."""
    items: Sequence[dict[str, Any]] = ()
    """Questions for the page's script."""


def benchmark_parts(run: RunContents, pictures: PagePictures) -> list[BenchmarkPart]:
    """Return what is shown of each benchmark that a run was evaluated on."""
    by_name: dict[str, list[Evaluation]] = {}
    for evaluation in run.evaluations:
        by_name.setdefault(evaluation.benchmark, []).append(evaluation)
    parts: list[BenchmarkPart] = []
    for name, evaluations in by_name.items():
        parts.append(_part(name, evaluations, run.path, pictures))
    return parts


def _part(
    name: str, evaluations: Sequence[Evaluation], run: Path, pictures: PagePictures
) -> BenchmarkPart:
    sighted = [evaluation for evaluation in evaluations if not evaluation.blank]
    controls = [evaluation for evaluation in evaluations if evaluation.blank]
    paired: list[Paired] = []
    if len(sighted) > 1:
        paired.append(paired_table(sighted[0].records, sighted[-1].records, _sides(sighted)))
    for control in controls:
        if sighted:
            sides = ("grey pictures", label(sighted[-1]))
            paired.append(paired_table(control.records, sighted[-1].records, sides))
    columns = [*evenly(sighted, MOST_COLUMNS), *controls[:1]]
    first, last = (sighted[0], sighted[-1]) if sighted else (columns[0], columns[-1])
    changes, items = items_of(first.records, last.records, columns, run, pictures)
    return BenchmarkPart(
        name=single_line(name),
        columns=[label(evaluation) for evaluation in columns],
        blank=[evaluation.blank for evaluation in columns],
        rows=_rows(columns),
        paired=paired,
        failures=_failures(last.records),
        last=label(last),
        changes=changes,
        items=items,
    )


def label(evaluation: Evaluation) -> str:
    """Return the name of an evaluation in a table."""
    words = {"before": "before", "after": "after", "blank": "after"}
    name = words.get(evaluation.when, f"step {evaluation.step}")
    return "grey pictures" if evaluation.blank else name


def _sides(sighted: Sequence[Evaluation]) -> tuple[str, str]:
    return label(sighted[0]), label(sighted[-1])


def _rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, Sequence[Cell | None]]]:
    """Return the rows of the table: all questions, then each tag."""
    tags = Counter[str]()
    for evaluation in evaluations:
        for record in evaluation.records:
            tags[record.tag] += 1
    rows: list[tuple[str, Sequence[Cell | None]]] = []
    if len(tags) > 1:
        rows.append(("all", [_cell_of(evaluation.records) for evaluation in evaluations]))
    for tag, _ in tags.most_common(MOST_TAGS):
        cells: list[Cell | None] = []
        for evaluation in evaluations:
            own = [record for record in evaluation.records if record.tag == tag]
            cells.append(_cell_of(own) if own else None)
        rows.append((single_line(tag, 60), cells))
    return rows


def _cell_of(some: Sequence[Record]) -> Cell:
    return _cell(interval([record.greedy for record in some]))


def _cell(figure: Interval) -> Cell:
    percent, _, rest = str(figure).partition(" ")
    return Cell(
        percent=percent,
        interval="" if "no interval" in rest else rest,
        mean=figure.mean,
        low=max(0.0, figure.low),
        high=min(1.0, figure.high),
        count=figure.count,
    )


def paired_table(
    first: Sequence[Record], second: Sequence[Record], sides: tuple[str, str]
) -> Paired:
    """Return the table of two evaluations, over the questions that both were asked."""
    title = f"{sides[0]} and {sides[1]}"
    before, after = common(first, second)
    try:
        rows = [_paired_row(row) for row in compare(before, after)]
        asked = len({record.key for record in first} & {record.key for record in second})
        caveats = _remarks(before, after)
        if asked > len(before):
            caveats.append(f"{asked - len(before):,} questions were changed in between: left out")
        return Paired(title=title, sides=sides, rows=rows, remarks=caveats)
    except UserError as error:
        return Paired(title=title, sides=sides, rows=(), problem=plain(str(error)))


def _remarks(before: Sequence[Record], after: Sequence[Record]) -> list[str]:
    """Return caveats, but that a control with grey pictures was made with them."""
    lines = [plain(remark) for remark in remarks(before, after)]
    return [remark for remark in lines if not remark.startswith("blank differs")]


def _paired_row(row: Comparison) -> PairedRow:
    verdict: Literal["better", "worse", "no difference seen"] = "no difference seen"
    if row.difference.low > 0:
        verdict = "better"
    elif row.difference.high < 0:
        verdict = "worse"
    sign = "+" if row.difference.mean > 0 else ""
    return PairedRow(
        tag=single_line(row.name, 60),
        count=row.difference.count,
        first=_cell(row.first),
        second=_cell(row.second),
        difference=f"{sign}{row.difference}",
        verdict=verdict,
        gained=row.gained,
        lost=row.lost,
        p=f"{row.p:.2g}" if row.p >= LEAST_P else f"below {LEAST_P:g}",
    )


def _failures(some: Sequence[Record]) -> list[Failures]:
    """Return the answers that were not read as right, by the kind of their reason."""
    by_reason: dict[str, list[Record]] = {}
    for record in some:
        if first_word(record.reason) != "right":
            reason = _NUMBER.sub("N", single_line(record.reason, 90)) or "no reason"
            by_reason.setdefault(reason, []).append(record)
    rows: list[Failures] = []
    for reason, found in sorted(by_reason.items(), key=lambda pair: -len(pair[1]))[:8]:
        rows.append(
            Failures(
                reason=reason,
                count=len(found),
                share=f"{100 * len(found) / len(some):.1f} %",
                examples=[shortened(record.text, 400) for record in found[:3]],
            )
        )
    return rows


def change(before: Record, after: Record) -> Change:
    """Return how the score of a question changed."""
    if after.greedy == before.greedy:
        return "still right" if after.greedy > 0.5 else "still wrong"
    if after.greedy >= 1 > before.greedy and before.greedy <= 0:
        return "turned right"
    if before.greedy >= 1 > after.greedy and after.greedy <= 0:
        return "turned wrong"
    return "better" if after.greedy > before.greedy else "worse"


def items_of(
    first: Sequence[Record],
    last: Sequence[Record],
    evaluations: Sequence[Evaluation],
    run: Path,
    pictures: PagePictures,
) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """Return how many questions changed in which way, and those that the page shows.

    Args:
        evaluations: those whose answers are shown beside each other.
        run: folder that small pictures of the questions may lie in.
    """
    before, after = common(first, last)
    try:
        pairs = matched(before, after)
    except UserError:  # the table says why
        return {}, []
    counts = Counter[str]()
    chosen: list[tuple[Change, Record]] = []
    for old, new in pairs:
        kind = change(old, new)
        counts[kind] += 1
        if counts[kind] <= MOST_ITEMS[kind]:
            chosen.append((kind, new))
    by_key: list[dict[tuple[str, str], Record]] = []
    for evaluation in evaluations:
        # records of older releases do not say their sources
        by_id = {("", record.id): record for record in evaluation.records}
        by_key.append(by_id | {record.key: record for record in evaluation.records})
    # the questions that changed get their pictures first
    chosen.sort(key=lambda pair: list(MOST_ITEMS).index(pair[0]))
    items: list[dict[str, Any]] = []
    for kind, record in chosen:
        answers = [_answer(own.get(record.key, own.get(("", record.id)))) for own in by_key]
        items.append(_item(kind, record, answers, run, pictures))
    return dict(counts), items


def _item(
    kind: Change,
    record: Record,
    answers: Sequence[dict[str, Any] | None],
    run: Path,
    pictures: PagePictures,
) -> dict[str, Any]:
    """Return a question of a benchmark as the page's script reads it."""
    images: list[dict[str, Any]] = []
    for place in range(len(record.images)):
        images.append(pictures.add(run, picture_of(record, place, run)))
    return {
        "change": kind,
        "id": single_line(record.id),
        "tag": single_line(record.tag, 60),
        "question": shortened(record.question),
        "choices": [single_line(choice, 200) for choice in record.choices],
        "truth": shortened(record.truth, 600),
        "images": images,
        "boxed": max(record.boxed_image, 1) - 1,
        "true_boxes": [list(box) for box in record.truth_pixels],
        "answers": answers,
    }


def picture_of(record: Record, place: int, run: Path) -> dict[str, Any]:
    """Return how to find a picture of a question: its small copy in the run, or its own file.

    Args:
        place: number of the picture, from 0.
    """
    found: dict[str, Any] = {"why": "it was not kept"}
    if place < len(record.sizes):
        found["size"] = list(record.sizes[place])
    if place < len(record.picture_names):
        found["copy"] = small_picture_path(Path(), record.picture_names[place])
    name = record.images[place]
    if Path(name).is_absolute():
        found["original"] = name
    elif (run / "images" / name).is_file():
        found["file"] = f"images/{name}"
    return found


def _answer(record: Record | None) -> dict[str, Any] | None:
    """Return the greedy answer of an evaluation; None = it did not ask the question."""
    if record is None:
        return None
    reason = plain(record.reason)
    return {
        "text": shortened(record.text, 2000),
        "score": round(record.greedy, 4),
        "read": single_line(record.answer, 300),
        "reason": single_line(reason, 300),
        "kind": first_word(reason),
        "boxes": [list(box) for box in record.boxes_pixels],
    }
