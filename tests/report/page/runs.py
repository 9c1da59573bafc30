"""Runs as a page reads them, made of rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpg_vl.evaluation.records import Record
from gpg_vl.report.page.contents import Evaluation, RunContents


def contents(
    steps: Sequence[dict[str, Any]] = (),
    *,
    name: str = "mine",
    held_out: Sequence[dict[str, Any]] = (),
    warmup: Sequence[dict[str, Any]] = (),
    evaluations: Sequence[Evaluation] = (),
) -> RunContents:
    return RunContents(
        path=Path("runs") / "mine",
        name=name,
        state="finished",
        total_steps=len(steps),
        config={},
        environment={},
        steps=steps,
        held_out=held_out,
        warmup=warmup,
        groups=(),
        group_count=0,
        sampled_steps=0,
        read_steps=0,
        evaluations=evaluations,
        left_out=(),
        checkpoints=(),
    )


def evaluation(
    step: int, scores: dict[str, Sequence[float]], *, blank: bool = False, benchmark: str = "digits"
) -> Evaluation:
    """An evaluation with these scores of each tag."""
    records: list[Record] = []
    for tag, greedy in scores.items():
        for number, score in enumerate(greedy):
            records.append(
                Record(
                    id=f"{tag}-{number}", tag=tag, greedy=score, text="", answer="", reason="right"
                )
            )
    when = "blank" if blank else f"{step:06d}"
    return Evaluation(benchmark=benchmark, when=when, step=step, blank=blank, records=records)
