"""The commands that measure: evaluate, compare."""

import json
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from gpg_vl.cli.application import (
    app,
    check_named_model,
    check_parent,
    console,
    print_line,
    silence_libraries,
    with_sentences,
)
from gpg_vl.cli.completion import complete_benchmark
from gpg_vl.errors import SHOWN_CHARACTERS, UserError, command, one_line, shown


@app.command()
@with_sentences
def evaluate(
    benchmarks: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCHMARK... [KEY=VALUE]...",
            help="Benchmarks by name (gpg-vl configs --benchmarks) or YAML files; then knobs "
            "(gpg-vl knobs benchmark).",
            autocompletion=complete_benchmark,
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="A run, a checkpoint, a folder of a model or a hub id.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="Score these recorded answers (.jsonl of id, text) instead."),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--map", help="Our column=column of --answers: id=idx,text=response."),
    ] = None,
    blank: Annotated[
        bool, typer.Option("--blank", help="Show grey pictures: what is left is guessing.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            help="File (.jsonl; a folder for several) for a record per question; the same again "
            "goes on."
        ),
    ] = None,
) -> None:
    """Greedy accuracy and pass@k on held-out questions, with 95 % intervals.

    Knobs are the run's with --model (the benchmark's begin with benchmark.), else the benchmark's.
    Exit 1 where a verifier of your own failed.
    """
    names = list(dict.fromkeys(item for item in benchmarks if "=" not in item))
    knob_values = [item for item in benchmarks if "=" in item]
    _check_evaluation(names, model, answers, columns, blank)
    path_of = _record_paths(names, to)
    if answers is not None:
        with _leaves_on_ctrl_c("stopped; nothing is kept; start again"):
            failed = _score_recorded(names[0], answers, columns or (), knob_values, to)
    else:
        kept = "nothing is kept without --to; start again"
        if to:
            again = _command(names, str(model), knob_values, blank, to)
            kept = f"the same command goes on from there: {again}"
        with _leaves_on_ctrl_c(f"stopped; {kept}"):
            failed = _evaluate_model(names, str(model), knob_values, blank, path_of)
    for path in filter(None, map(path_of, names)):
        print_line(f"records: {path.resolve()}")
    for line in failed:
        print_line(line)
    if failed:
        raise typer.Exit(1)


@contextmanager
def _leaves_on_ctrl_c(sentence: str) -> Generator[None, None, None]:
    """Print a sentence at once when the user presses Ctrl-C, then leave with 130.

    Parts that are being loaded or closed may take their time after that; a second Ctrl-C does not
    wait for them.
    """
    printed: list[str] = []

    def on_ctrl_c(number: int, frame: FrameType | None) -> None:
        del number, frame
        if not printed:
            printed.append(sentence)
            print_line(sentence)
        raise KeyboardInterrupt

    # Python allows handlers only in the main thread; a shell ignores Ctrl-C for what it put aside
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if is_main and before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, on_ctrl_c)
    try:
        yield
    except KeyboardInterrupt:
        if not printed:
            print_line(sentence)
        raise typer.Exit(130) from None
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)


def _command(
    names: Sequence[str], model: str, overrides: Sequence[str], blank: bool, to: Path
) -> str:
    """Return the command of an evaluation as it can be pasted into a shell in any folder."""
    words: list[str | Path] = []
    for word in (*names, "--model", model):
        words.append(Path(word) if Path(word).exists() else word)
    words += overrides
    if blank:
        words.append("--blank")
    return command("gpg-vl", "evaluate", *words, "--to", to)


def _evaluate_model(
    names: Sequence[str],
    model: str,
    overrides: Sequence[str],
    blank: bool,
    path_of: Callable[[str], Path | None],
) -> list[str]:
    """Evaluate a model and print the figures; return a sentence per benchmark that failed."""
    check_named_model(model, "--model")
    from gpg_vl.experiment import check_benchmarks

    check_benchmarks(names, model, overrides)  # before torch is imported
    silence_libraries()
    from gpg_vl.config.loading import BENCHMARK_PREFIX
    from gpg_vl.evaluation.evaluate import evaluate_benchmarks
    from gpg_vl.report.display import Counting

    failed: list[str] = []
    with Counting(console) as counting:
        evaluated = evaluate_benchmarks(
            names,
            model,
            overrides,
            blank=blank,
            on_progress=counting.progress,
            path_of=path_of,
            log=print_line,
        )
        for name, (benchmark, records) in zip(names, evaluated, strict=True):
            title = f"{name} on blank images" if blank else name
            failed += _print_figures(name, title, benchmark, records, BENCHMARK_PREFIX)
            _print_not_asked(benchmark, path_of(name))
    return failed


def _score_recorded(
    name: str, answers: Path, columns: Sequence[str], overrides: Sequence[str], to: Path | None
) -> list[str]:
    """Score recorded answers and print the figures; return a sentence if a verifier failed."""
    from gpg_vl.config import loading
    from gpg_vl.evaluation import recorded_answers, records
    from gpg_vl.experiment import benchmark_for_recorded_answers

    if to and to.exists():
        recorded_answers.check_replaceable(to)
        print_line(f"written over: {to}")
    texts = recorded_answers.read_answers(answers, columns)
    knob_values = [item.removeprefix(loading.BENCHMARK_PREFIX) for item in overrides]
    benchmark = benchmark_for_recorded_answers(name, knob_values)
    if benchmark.missing:
        print_line(benchmark.missing)
    scored = recorded_answers.score_answers(benchmark, texts, answers)
    if to:
        records.save(scored, to)
        records.save_left_out(benchmark.left_out, to)
    return _print_figures(name, name, benchmark, scored, "")


def _print_figures(name: str, title: str, benchmark: Any, records: Any, prefix: str) -> list[str]:
    """Print the tables of a benchmark; return a sentence if a verifier failed on answers.

    Args:
        prefix: what stands before the knobs of the benchmark on the command line.
    """
    from gpg_vl.evaluation import metrics
    from gpg_vl.evaluation.records import failures
    from gpg_vl.report.console import precision_table, results_table

    console.print(results_table(title, records, benchmark.spec))
    kind = benchmark.spec.average_precision
    if kind:
        precisions = metrics.detection(benchmark, records)
        console.print(precision_table(f"average precision ({kind})", precisions))
    advice = benchmark.format_advice(records, prefix)
    if advice:
        print_line(advice)
    failure = failures(records)
    return [f"{name}: {failure}"] if failure else []


def _print_not_asked(benchmark: Any, path: Path | None) -> None:
    """Print how many questions could not be asked, and where they are listed."""
    from gpg_vl.evaluation.records import left_out_path

    if not benchmark.not_asked:
        return
    listed = f"; all are in {left_out_path(path)}" if path else ""
    print_line(f"{benchmark.not_asked}{listed}")


def _record_paths(names: list[str], to: Path | None) -> Callable[[str], Path | None]:
    """Return where the records of a benchmark are written.

    What cannot be written is refused before a model is loaded.
    """
    from gpg_vl.config.paths import check_writable

    if to is None:
        return lambda name: None
    if any(parent.is_file() for parent in to.parents):
        raise UserError(f"--to {to}: a folder above it is a file")
    stems = [Path(name).stem for name in names]
    if len(names) == 1:
        if to.is_dir():
            raise UserError(
                f"--to {to}: is a folder, expected a .jsonl file for one benchmark, for instance "
                f"{to / (stems[0] + '.jsonl')}"
            )
        check_writable(to.parent, "--to")
        return lambda name: to
    if to.is_file():
        raise UserError(f"--to {to}: is a file, expected a folder for {len(names)} benchmarks")
    repeated = [stem for stem in stems if stems.count(stem) > 1]
    if repeated:
        raise UserError(
            f"--to {to}: several benchmarks would be written to {repeated[0]}.jsonl; rename one, "
            "or take them one by one"
        )
    check_writable(to, "--to")
    return lambda name: to / f"{Path(name).stem}.jsonl"


def _check_evaluation(
    names: list[str],
    model: str | None,
    answers: Path | None,
    columns: list[str] | None,
    blank: bool,
) -> None:
    if not names:
        from gpg_vl.config import resources

        shipped = ", ".join(resources.names("evaluation"))
        raise UserError(f"no benchmark named; shipped: {shipped}")
    if (model is None) == (answers is None):
        raise UserError(
            "expected exactly one of --model (who answers) and --answers (a file of recorded "
            "answers)"
        )
    if answers is None:
        if columns:
            raise UserError("--map names the columns of an --answers file; there is none")
        return
    if blank:
        raise UserError(
            "--blank shows a model grey pictures; recorded answers were given already: leave it out"
        )
    if len(names) > 1:
        raise UserError(f"--answers belongs to one benchmark, got {len(names)}: name one")


@app.command()
@with_sentences
def compare(
    first: Annotated[
        Path, typer.Argument(help="Records written by evaluate --to, or a run folder.")
    ],
    second: Annotated[Path, typer.Argument(help="The same of another model.")],
    changed: Annotated[
        int, typer.Option(min=0, help="How many questions that changed are shown.")
    ] = 5,
    to: Annotated[
        Path | None,
        typer.Option(help="Also write every question that changed to this .jsonl file."),
    ] = None,
) -> None:
    """Two evaluations of the same questions: paired difference, p value, and what changed."""
    from gpg_vl.evaluation import compare as comparing
    from gpg_vl.report.console import paired_table
    from gpg_vl.run_folder import json_value

    check_parent(to)
    lines: list[str] = []
    evaluations = comparing.read(first, second)
    differences = comparing.config_differences(first, second)
    if differences:
        # on a terminal it is broken between words: a key that is cut cannot be copied
        line = f"settings that differ: {differences}"
        console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)
    sides = comparing.sides(first, second)
    for name, (before, after) in evaluations.items():
        title = f"{name}: {first} and {second}"
        console.print(paired_table(title, comparing.compare(before, after), sides))
        for remark in comparing.remarks(before, after):
            print_line(f"mind: {remark}")
        pairs = comparing.changed(before, after)
        for old, new in pairs[:changed]:
            print_line(
                f"  {one_line(old.id)}: {old.greedy:.2f} {shown(old.answer)} -> "
                f"{new.greedy:.2f} {shown(new.answer)}"
            )
            asked = old if old.question else new
            if asked.question:  # older records do not hold it
                print_line(f"    {_question_line(asked)}")
        if len(pairs) > changed:
            more = f"{len(pairs) - changed} more" if changed else len(pairs)
            print_line(f"  {more} changed; --changed {len(pairs)} shows all")
        for old, new in pairs:
            row = {
                "benchmark": name,
                "id": old.id,
                "source": old.source,
                "question": old.question or new.question,
                "truth": json_value(new.truth if old.truth is None else old.truth),
                "images": list(old.images or new.images),
                "first": old.greedy,
                "second": new.greedy,
                "texts": [old.text, new.text],
            }
            lines.append(json.dumps(row, ensure_ascii=False, default=str) + "\n")
    if to:
        to.write_text("".join(lines), encoding="utf-8", errors="replace")


def _question_line(record: Any) -> str:
    """Return question, truth and pictures of a record in one line."""
    pictures = "".join(f"; {one_line(name)}" for name in record.images)
    return (
        f"{one_line(record.question, SHOWN_CHARACTERS)}  "
        f"(truth: {one_line(record.truth, SHOWN_CHARACTERS)}{pictures})"
    )
