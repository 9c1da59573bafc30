"""Tables of results."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Table

from gpg_vl.config.schema import BenchmarkSpec
from gpg_vl.errors import one_line
from gpg_vl.evaluation import metrics as eval_metrics
from gpg_vl.evaluation.compare import Comparison, compare
from gpg_vl.evaluation.records import Record, by_tag
from gpg_vl.evaluation.statistics import Interval, interval

Row = tuple[str, int, Sequence[tuple[str, str]]]
"""Rows of a table with one heading: name, number of questions, and its figures (name, value)."""

SAMPLED = "greedy: the likeliest answer; pass@k: the best of k sampled answers"
"""Words below a table that has figures of both kinds."""


def results_table(title: str, records: Sequence[Record], spec: BenchmarkSpec) -> Table:
    """Return a table of the accuracy per task with 95 % intervals, then the totals of the spec.

    Several tasks without totals end in a row over all questions. It contains pass@k if there are
    sampled answers.
    """
    rows: list[Row] = []
    for tag, of_task in by_tag(records).items():
        rows.append((tag, len(of_task), list(_figures(of_task, spec))))
    totals = spec.totals or ({"all": []} if len(rows) > 1 else {})
    for name, tags in totals.items():
        figure = ("greedy", str(eval_metrics.total(records, tags)))
        rows.append((name, len(records), [figure]))
    table = _table(title, rows)
    if any(record.each for record in records):
        table.caption = SAMPLED
    return table


def _figures(records: Sequence[Record], spec: BenchmarkSpec) -> Iterator[tuple[str, str]]:
    """Yield the figures of one task as (name, value)."""
    yield "greedy", str(interval([record.greedy for record in records]))
    if spec.beside:
        second = eval_metrics.beside(records)
        if second:
            yield str(spec.beside), str(second)
    for k in tries(min(len(record.each) for record in records)):
        yield f"pass@{k}", str(eval_metrics.pass_at(records, k))
    well_formed = [record.well_formed for record in records if not math.isnan(record.well_formed)]
    if well_formed:
        yield "well-formed", f"{100 * fmean(well_formed):.1f}"


def tries(drawn: int) -> list[int]:
    """Return the k of pass@k for a number of sampled answers: 1, 2, 4... and that number."""
    if not drawn:
        return []
    powers = {2**power for power in range(drawn.bit_length())}
    return sorted(powers | {drawn})


def _table(title: str, rows: Sequence[Row]) -> Table:
    """Return a table with one figure on each line, which fits a terminal of 80 columns.

    Titles and names come from users and are escaped: they are not markup.
    """
    table = Table(title=escape(title))
    for heading in ("task", "questions", "figure", "% [95 % interval]"):
        justify = "right" if heading == "questions" else "left"
        table.add_column(escape(heading), justify=justify, overflow="fold")
    for name, questions, figures in rows:
        first_cells = (escape(one_line(name, 100)), str(questions))  # a tag may be any text
        for figure, value in figures:
            table.add_row(*first_cells, escape(figure), escape(value))
            first_cells = ("", "")
        table.add_section()
    return table


def precision_table(title: str, precisions: Mapping[str, Interval]) -> Table:
    """Return a table of average precisions with 95 % intervals."""
    table = Table("figure", "images", "%", title=escape(title))
    for name, figure in precisions.items():
        table.add_row(name, str(figure.count), escape(str(figure)))
    return table


def paired_table(
    title: str, rows: Sequence[Comparison], sides: tuple[str, str] = ("first", "second")
) -> Table:
    """Return a table of two evaluations and their difference."""
    table_rows: list[Row] = []
    for row in rows:
        figures = [
            (sides[0], str(row.first)),
            (sides[1], str(row.second)),
            ("difference", str(row.difference)),
            ("better, worse", f"{row.gained}, {row.lost} questions, p = {row.p:.2g}"),
        ]
        table_rows.append((row.name, row.difference.count, figures))
    return _table(title, table_rows)


def comparison_table(before: Sequence[Record], after: Sequence[Record]) -> Table:
    """Return a table of the greedy accuracy before and after training, and the difference."""
    return paired_table(
        "held-out greedy accuracy, % (95 % interval)", compare(before, after), ("before", "after")
    )
