"""Define the commands. Heavy imports wait until a command runs, so `--help` answers at once."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

import gpg_vl
from gpg_vl import prompts, rollout, run_folder, verifiers
from gpg_vl.config import loading, plugins, resources
from gpg_vl.config.schema import BenchmarkSpec, Config, Section, Source, knobs
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.experiment import Experiment, benchmark_for_recorded_answers
from gpg_vl.methods import ESTIMATORS

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help=gpg_vl.__doc__,
)
console = Console()

ENGINES = dict(rollout.ALIASES)
del ENGINES["transformers"]  # it has no knobs that a user would set

SHIPPED_PARTS = {
    "estimator": ESTIMATORS,
    "prompt": prompts.ALIASES,
    "rollout.engine": ENGINES,
    "verifiers": verifiers.ALIASES,
}
"""Parts whose knobs are listed by --help."""

ConfigName = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A shipped config by name, or a YAML file.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Knobs that differ, for instance steps=50."),
]


class WithKnobs(TyperCommand):
    """A command whose --help ends with every knob and its sentence."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the command's own help, then the knobs."""
        super().format_help(ctx, formatter)
        console.print(_knob_table("every knob of a config (key=value)", Config))
        console.print(_knob_table("a source, under data: and warmup.data:", Source))
        for key, aliases in SHIPPED_PARTS.items():
            for name, path in aliases.items():
                rows = plugins.fields_of(path)
                if rows:
                    console.print(_table(f"{key}: {{kind: {name}, ...}}", rows))


class WithBenchmarks(TyperCommand):
    """A command whose --help ends with the shipped benchmarks and the knobs of one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the command's own help, then the benchmarks."""
        super().format_help(ctx, formatter)
        table = Table(
            "benchmark",
            "what it is",
            title="shipped benchmarks",
            title_justify="left",
            expand=True,
        )
        for name in resources.names("evaluation"):
            table.add_row(name, escape(resources.summary_line("evaluation", name)))
        console.print(table)
        title = (
            "every knob of a benchmark (benchmark.key=value with --model, key=value with --answers)"
        )
        console.print(_knob_table(title, BenchmarkSpec))


def with_sentences(command: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a user's mistake print its sentence and exit with 2; a bug keeps its traceback."""

    @wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            Console(stderr=True).print(
                f"gpg-vl: {error}", markup=False, highlight=False, soft_wrap=True
            )
            raise typer.Exit(2) from None

    return wrapped


@app.command(cls=WithKnobs)
@with_sentences
def train(
    config: ConfigName = "",
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder from its newest checkpoint.")
    ] = None,
    allow_changed: Annotated[
        bool,
        typer.Option(
            "--allow-changed", help="Resume although config, data or verifiers have changed."
        ),
    ] = False,
) -> None:
    """Train a policy. Without arguments: the offline digits run."""
    loaded = _load(config, overrides, resume)
    if resume is None:
        _check_model(loaded)
    _silence_libraries()
    from gpg_vl.report.console import Display
    from gpg_vl.training.loop import train as run

    experiment = Experiment.resolve(loaded)
    with Display(console, loaded.steps) as display:
        try:
            written = run(
                experiment,
                resume=resume,
                callbacks=[display.step],
                log=display.log,
                allow_changed=allow_changed,
            )
        except KeyboardInterrupt:
            display.log(_how_to_resume(resume or loaded.run_folder))
            raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") == "0":
        _print_results(written)


@app.command(cls=WithKnobs)
@with_sentences
def sft(config: ConfigName = "digits", overrides: Overrides = None) -> None:
    """Run only the supervised warm-up of a config, and evaluate it."""
    loaded = _load(config, overrides)
    if not loaded.warmup.steps:
        raise UserError("warmup.steps: got 0, expected at least 1; nothing would be trained")
    _check_model(loaded)
    _silence_libraries()
    from gpg_vl.training.loop import train as run

    only_warmup = loaded.model_copy(update={"steps": 0})
    written = run(Experiment.resolve(only_warmup), log=_print)
    _print(f"policy: {written / 'checkpoints' / '000000' / 'policy'}")


@app.command("rollout", cls=WithKnobs)
@with_sentences
def try_rollout(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A run folder, a checkpoint folder or a hub id instead of the config's policy."
        ),
    ] = None,
    groups: Annotated[int, typer.Option(min=1, help="How many questions to ask.")] = 4,
    to: Annotated[
        Path | None,
        typer.Option(help="Also write every answer with its verdict to this .jsonl file."),
    ] = None,
) -> None:
    """Sample and score groups without training: what does the policy answer and earn?"""
    loaded = _load(config, overrides)
    _check_parent(to)
    if model is None:
        _check_model(loaded)
    _silence_libraries()
    from gpg_vl.preflight.try_rollout import sample_and_score

    experiment = Experiment.of(loaded)
    for line in sample_and_score(experiment, model=model, count=groups, to=to):
        _print(line)


@app.command(cls=WithKnobs)
@with_sentences
def serve(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    host: Annotated[
        str,
        typer.Option(help="Who may connect: whoever reaches the server can change its weights."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where it listens.")] = 8000,
    window: Annotated[
        int,
        typer.Option(min=1, help="Longest prompt and completion together, in tokens."),
    ] = 8192,
    vllm: Annotated[
        str,
        typer.Option(help="Further arguments for vLLM, for instance '--tensor-parallel-size 2'."),
    ] = "",
    show: Annotated[bool, typer.Option("--show", help="Only print the command.")] = False,
) -> None:
    """Serve a config's policy with vLLM, for `rollout.engine: {kind: server}`. Extra `vllm`."""
    loaded = _load(config, overrides)
    _silence_libraries()
    from gpg_vl.rollout.vllm.launch import server_options, vllm_command

    options = server_options(loaded.rollout.engine)
    command = vllm_command(
        loaded.policy,
        seed=loaded.seed,
        folder=Path(loaded.folder) / "served" / loaded.name,
        host=host,
        port=port,
        window=window,
        transfer=options.transfer,
        handover=options.handover,
        images=options.images,
        more=[*options.sleeping, *shlex.split(vllm)],
    )
    if show:
        print(command)
    else:
        command.replace_this_process()


@app.command(cls=WithBenchmarks)
@with_sentences
def evaluate(
    benchmarks: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCHMARK... [KEY=VALUE]...",
            help="Shipped benchmarks by name, or YAML files; then knobs.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="A run folder, a checkpoint folder or a hub id.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="Score these recorded answers (.jsonl of id, text) instead; no model needed."
        ),
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--map", help="Our column=the file's column in --answers: id=idx,text=response."
        ),
    ] = None,
    blank: Annotated[
        bool, typer.Option(help="Show grey pictures instead: what is left is guessing.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Where to write a record per question (.jsonl; a folder for several). "
            "The same again goes on."
        ),
    ] = None,
) -> None:
    """Greedy accuracy and pass@k on held-out questions, with 95 % intervals.

    pass@1 is the mean of the sampled answers. KEY=VALUE are knobs of the run's config with --model
    (those of the benchmark begin with benchmark.), of the benchmark with --answers (mode=lenient
    verifiers.boxes.policy=first). Exit 1 where a verifier of one's own failed on answers.
    """
    names = list(dict.fromkeys(item for item in benchmarks if "=" not in item))
    knob_values = [item for item in benchmarks if "=" in item]
    _check_evaluation(names, model, answers, columns, blank)
    path_of = _record_paths(names, to)
    if answers is not None:
        failed = _score_recorded(names[0], answers, columns or (), knob_values, to)
    else:
        failed = _evaluate_model(names, str(model), knob_values, blank, path_of, to)
    for line in failed:
        _print(line)
    if failed:
        raise typer.Exit(1)


def _evaluate_model(
    names: Sequence[str],
    model: str,
    overrides: Sequence[str],
    blank: bool,
    path_of: Callable[[str], Path | None],
    to: Path | None,
) -> list[str]:
    """Evaluate a model and print the figures; return a sentence per benchmark that failed."""
    _silence_libraries()
    from gpg_vl.evaluation.evaluate import evaluate_benchmarks
    from gpg_vl.report.console import Counting

    failed: list[str] = []
    with Counting(console) as counting:
        try:
            evaluated = evaluate_benchmarks(
                names,
                model,
                overrides,
                blank=blank,
                on_progress=counting.progress,
                path_of=path_of,
                log=_print,
            )
            for name, (benchmark, records) in zip(names, evaluated, strict=True):
                title = f"{name} on blank images" if blank else name
                failed += _print_figures(name, title, benchmark, records)
                _print_not_asked(benchmark, path_of(name))
        except KeyboardInterrupt:
            if to:
                _print("stopped; the same command goes on from there")
            else:
                _print("stopped; nothing is kept without --to; start again")
            raise typer.Exit(130) from None
    return failed


def _score_recorded(
    name: str, answers: Path, columns: Sequence[str], overrides: Sequence[str], to: Path | None
) -> list[str]:
    """Score recorded answers and print the figures; return a sentence if a verifier failed."""
    from gpg_vl.evaluation import recorded_answers, records

    try:
        if to and to.exists():
            recorded_answers.check_replaceable(to)
            _print(f"written over: {to}")
        texts = recorded_answers.read_answers(answers, columns)
        knob_values = [item.removeprefix(loading.BENCHMARK_PREFIX) for item in overrides]
        benchmark = benchmark_for_recorded_answers(name, knob_values)
        if benchmark.missing:
            _print(benchmark.missing)
        scored = recorded_answers.score_answers(benchmark, texts, answers)
        if to:
            records.save(scored, to)
            records.save_left_out(benchmark.left_out, to)
        return _print_figures(name, name, benchmark, scored)
    except KeyboardInterrupt:
        _print("stopped; nothing is kept; start again")
        raise typer.Exit(130) from None


def _print_figures(name: str, title: str, benchmark: Any, records: Any) -> list[str]:
    """Print the tables of a benchmark; return a sentence if a verifier failed on answers."""
    from gpg_vl.evaluation import metrics
    from gpg_vl.evaluation.records import failures
    from gpg_vl.report.console import precision_table, results_table

    console.print(results_table(title, records, benchmark.spec))
    kind = benchmark.spec.average_precision
    if kind:
        precisions = metrics.detection(benchmark, records)
        console.print(precision_table(f"average precision ({kind})", precisions))
    failure = failures(records)
    return [f"{name}: {failure}"] if failure else []


def _print_not_asked(benchmark: Any, path: Path | None) -> None:
    """Print how many questions could not be asked, and where they are listed."""
    from gpg_vl.evaluation.records import left_out_path

    if not benchmark.not_asked:
        return
    listed = f"; all are in {left_out_path(path)}" if path else ""
    _print(f"{benchmark.not_asked}{listed}")


def _record_paths(names: list[str], to: Path | None) -> Callable[[str], Path | None]:
    """Return where the records of a benchmark are written.

    What cannot be written is refused before a model is loaded.
    """
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
        return lambda name: to
    if to.is_file():
        raise UserError(f"--to {to}: is a file, expected a folder for {len(names)} benchmarks")
    repeated = [stem for stem in stems if stems.count(stem) > 1]
    if repeated:
        raise UserError(
            f"--to {to}: several benchmarks would be written to {repeated[0]}.jsonl; rename one, "
            "or take them one by one"
        )
    return lambda name: to / f"{Path(name).stem}.jsonl"


def _check_evaluation(
    names: list[str],
    model: str | None,
    answers: Path | None,
    columns: list[str] | None,
    blank: bool,
) -> None:
    if not names:
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

    _check_parent(to)
    lines: list[str] = []
    for name, (before, after) in comparing.read(first, second).items():
        title = f"{name}: {first} and {second}"
        console.print(paired_table(title, comparing.compare(before, after)))
        for remark in comparing.remarks(before, after):
            _print(f"mind: {remark}")
        pairs = comparing.changed(before, after)
        for old, new in pairs[:changed]:
            _print(
                f"  {one_line(old.id)}: {old.greedy:.2f} {shown(old.answer)} -> "
                f"{new.greedy:.2f} {shown(new.answer)}"
            )
        for old, new in pairs:
            row = {
                "benchmark": name,
                "id": old.id,
                "source": old.source,
                "first": old.greedy,
                "second": new.greedy,
                "texts": [old.text, new.text],
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    if to:
        to.write_text("".join(lines))


@app.command(cls=WithKnobs)
@with_sentences
def audit(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(help="Also ask this model: a run folder, a checkpoint folder or a hub id."),
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows of each source.")
    ] = None,
) -> None:
    """Before training: can this run learn? Exit 1 with the reason where it cannot."""
    loaded = _load(config, overrides)
    _silence_libraries()
    from gpg_vl.preflight.audit import audit as run_audit

    stops: list[str] = []
    for finding in run_audit(Experiment.resolve(loaded), model=model, head=head):
        _print(f"{finding.level:4}  {finding.text}")
        if finding.level == "stop":
            stops.append(finding.text)
    if not stops:
        _print("no problem found")
        return
    _print(f"cannot learn: {stops[0]}")
    raise typer.Exit(1)


@app.command(cls=WithKnobs)
@with_sentences
def plan(config: ConfigName = "digits", overrides: Overrides = None) -> None:
    """Answers, tokens, memory and disk that a config asks for. Nothing is loaded.

    Data, prompt, rewards, method and benchmark are resolved, of the model only config.json is read.
    Exit 1 where it does not fit the hardware it names.
    """
    loaded = _load(config, overrides)
    from gpg_vl.preflight.plan import plan as make_plan

    made = make_plan(Experiment.resolve(loaded))
    for line in made.lines:
        _print(line)
    if made.problems:
        raise typer.Exit(1)


@app.command()
@with_sentences
def data(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A file, a folder or a pattern of rows, a data set of the hub; a shipped recipe, "
            "or one of yours: ./scenes.py:scenes",
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="The recipe's options: split=test. Of rows, keys of their source: "
            "columns.answer=gold.",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="The folder of the published files.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for samples.jsonl, images/ and left_out.jsonl; of rows also a new "
            "file mine.yaml for a config that reads them."
        ),
    ] = None,
    head: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="Check the rows with this config's prompt and verifiers: those of your own kinds."
        ),
    ] = None,
) -> None:
    """Tell what rows are and which config reads them; or read a published data set into rows.

    Every row is checked by its own verifier; what is left out is told with the reason.
    """
    from gpg_vl.preflight.prepare_data import prepare
    from gpg_vl.preflight.propose_config import names_rows, propose_config

    knobs = list(options or ())
    if not names_rows(name):
        lines = prepare(name, knobs, source=source, to=to, head=head, config=config)
    elif source is not None:
        raise UserError(f"--from {source} is for recipes; {name} names its rows itself")
    else:
        lines = propose_config(name, knobs, to=to, head=head, config=config)
    for line in lines:
        _print(line)


def _load(name: str, overrides: list[str] | None, resume: Path | None = None) -> Config:
    """Load a config; `gpg-vl train steps=2` means the default config with an override."""
    knob_values = list(overrides or ())
    if "=" in name:
        name, knob_values = "", [name, *knob_values]
    if name and resume:
        raise UserError(
            f"got both CONFIG {shown(name)} and --resume {resume}; a run goes on with its own "
            "config: leave CONFIG out"
        )
    if resume is None:
        return loading.load(name or "digits", knob_values)
    if not (resume / "config.yaml").is_file():
        raise UserError(f"--resume {resume}: no config.yaml there, so it is not a run folder")
    return loading.load_run(resume, knob_values)


def _check_model(config: Config) -> None:
    """Refuse a model that cannot be trained before torch and transformers are imported."""
    from gpg_vl.policy.model_folder import find_model

    if config.policy.model != "tiny":
        find_model(config.policy.model)


def _check_parent(to: Path | None) -> None:
    if to and not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")


def _how_to_resume(run: Path) -> str:
    saved = run_folder.complete_checkpoints(run)
    if not saved:
        return "stopped before the first checkpoint; start again with the same command"
    return f"stopped; go on from step {int(saved[-1].name)} with: gpg-vl train --resume {run}"


def _print(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _silence_libraries() -> None:
    """Hide progress bars of other libraries, which would break ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _print_results(run: Path) -> None:
    from gpg_vl.evaluation.records import load
    from gpg_vl.report.console import comparison_table

    for before in sorted((run / "evaluation").glob("*-before.jsonl")):
        after = before.with_name(before.name.replace("-before", "-after"))
        if after.exists():
            try:
                console.print(comparison_table(load(before), load(after)))
            except UserError as error:  # the run is done all the same
                _print(f"{before.stem} and {after.stem} are not compared: {error}")
    _print(f"run folder: {run}")
    _print(f"try it:     gpg-vl rollout {run / 'config.yaml'} --model {run}")


def _knob_table(title: str, kind: type[Section]) -> Table:
    return _table(title, list(knobs(kind)))


def _table(title: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table("key", "default", "what it does", title=title, title_justify="left", expand=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def main() -> None:
    """Run `gpg-vl`."""
    try:
        app(prog_name="gpg-vl")
    except KeyboardInterrupt:
        sys.exit(130)
