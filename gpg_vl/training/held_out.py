"""Ask the held-out questions during a run, and write down what was answered.

After the last step they are also asked with grey pictures: what is left is guessing.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from gpg_vl import progress
from gpg_vl.errors import one_line, raise_on_all_ranks
from gpg_vl.evaluation import evaluate, records
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.evaluation.records import Record
from gpg_vl.run_folder import evaluation_path
from gpg_vl.run_folder.small_pictures import keep_small_pictures
from gpg_vl.training import metrics
from gpg_vl.training.setup import TrainingRun
from gpg_vl.training.signals import EvaluationDroppedError
from gpg_vl.types import LeftOut


def evaluate_held_out(run: TrainingRun, when: str, head: int | None = None) -> float | None:
    """Return the mean greedy accuracy on held-out questions; None without a benchmark.

    None also if a request to stop ended the evaluation. Nothing of it is kept then.

    Args:
        when: before, after, or the number of the step.
        head: only so many questions of each row of the table.
    """
    with raise_on_all_ranks(run.processes.all_gather):
        if run.benchmark is None or not run.processes.is_main:
            return None
        benchmark = run.benchmark.shortened(head) if head else run.benchmark
        name = f"step {run.state.step}" if when.isdigit() else when
        try:
            with run.stop.droppable(f"leaving the evaluation, saving step {run.state.step}"):
                asked, evaluated = _asked(run, benchmark, f"evaluating, {name}")
                guessed: Sequence[Record] = ()
                if when == "after" and run.config.evaluation.blank:
                    guessed = _guessed(run, asked)
                if run.engine.needs_verification and run.gate:
                    run.gate.check(run.engine, run.policy, run.state.version)
                _keep_pictures(run, asked, evaluated)
        except EvaluationDroppedError:
            run.log(f"the evaluation ({name}) is left; it is made when the run goes on")
            return None
    if when == "after":  # first: an evaluation is made again if its own records are missing
        _save_control(guessed, evaluation_path(run.folder.path, benchmark.spec.name, "blank"))
    path = evaluation_path(run.folder.path, benchmark.spec.name, when)
    records.save(evaluated, path)
    records.save_left_out(asked.left_out, path)
    _report(run, when, asked, evaluated, guessed)
    figures = metrics.held_out_figures(evaluated, run.config.evaluation.head, guessed)
    run.folder.held_out(run.state.step, figures)
    return figures["held_out/score"]


def _asked(
    run: TrainingRun, benchmark: Benchmark, phase: str, *, blank: bool = False
) -> tuple[Benchmark, list[Record]]:
    """Ask a benchmark; return it without the questions that could not be asked, and the records.

    Args:
        phase: what the display says.
        blank: show grey pictures.
    """
    progress.phase(phase, len(benchmark.questions), "questions")
    unusable: list[LeftOut] = []
    evaluated = evaluate.run_benchmark(
        benchmark,
        run.policy,
        run.engine,
        model=f"{run.config.name}, step {run.state.step}",
        blank=blank,
        on_left_out=unusable.append,
    )
    return benchmark.without(unusable), evaluated


def _guessed(run: TrainingRun, asked: Benchmark) -> list[Record]:
    """Ask the questions that have pictures with grey ones, greedily; return no record if none has.

    Args:
        asked: the benchmark with the questions that could be asked.
    """
    questions = [sample for sample in asked.questions if sample.sizes]
    if not questions:
        return []
    control = replace(asked, questions=questions, spec=asked.spec.model_copy(update={"samples": 0}))
    _, guessed = _asked(run, control, "evaluating, grey pictures", blank=True)
    return guessed


def _save_control(guessed: Sequence[Record], path: Path) -> None:
    """Write the records of the control; without one, that of an earlier last step goes."""
    if guessed:
        records.save(guessed, path)
    else:
        path.unlink(missing_ok=True)


def _keep_pictures(run: TrainingRun, asked: Benchmark, evaluated: Sequence[Record]) -> None:
    """Keep small copies of the pictures of the questions that were asked."""
    if not run.config.run_folder.pictures_mb:
        return
    images: dict[str, Path | bytes] = {}
    for sample, record in zip(asked.questions, evaluated, strict=True):
        for image, name in zip(sample.images, record.picture_names, strict=True):
            if name:
                images.setdefault(name, image)
    if images:
        keep_small_pictures(run.folder.path, images)


def _report(
    run: TrainingRun,
    when: str,
    asked: Benchmark,
    evaluated: Sequence[Record],
    guessed: Sequence[Record],
) -> None:
    """Say how accurate the answers are, and what went wrong."""
    if asked.not_asked:
        run.log(f"warning: {asked.not_asked}")
    run.log(f"held out, {when}: {_by_task(evaluated)}")
    if guessed:
        run.log(f"held out, grey pictures: {_by_task(guessed)}")
    advice = asked.format_advice(evaluated, is_trained=True)
    if advice:
        run.log(f"warning: held out: {advice}")
    failures = records.failures(evaluated)
    if failures:
        run.log(f"warning: {failures}")


def _by_task(evaluated: Sequence[Record]) -> str:
    """Return the accuracy of each row of the table in words."""
    parts: list[str] = []
    for tag, rows in records.by_tag(evaluated).items():
        parts.append(f"{one_line(tag, 100)} {100 * fmean(record.greedy for record in rows):.1f} %")
    return ", ".join(parts)
