"""The commands. Heavy imports wait until a command runs, so `--help` and a typo answer at once."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperCommand

from gpg_vl import prompts, run_folder, verifiers
from gpg_vl import rollout as rollout_parts
from gpg_vl.config import loading, plugins, resources
from gpg_vl.config.schema import BenchmarkSpec, Config, Section, Source, knobs
from gpg_vl.errors import UserError
from gpg_vl.methods import ESTIMATORS

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__import__("gpg_vl").__doc__)
console = Console()

SHIPPED_PARTS = {
    "estimator": ESTIMATORS,
    "prompt": prompts.ALIASES,
    "rollout.engine": {kind: path for kind, path in rollout_parts.ALIASES.items() if kind != "transformers"},
    "verifiers": verifiers.ALIASES,
}

ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="A shipped config by name, or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Knobs that differ, for instance steps=50.")]


class WithKnobs(TyperCommand):
    """A command whose --help ends with every knob and its sentence."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's own help, then the knobs."""
        super().format_help(ctx, formatter)
        console.print(_knob_table("every knob of a config (key=value)", Config))
        console.print(_knob_table("a source, under data: and warmup.data:", Source))
        for key, aliases in SHIPPED_PARTS.items():
            for name, path in aliases.items():
                if rows := plugins.fields_of(path):
                    console.print(_table(f"{key}: {{kind: {name}, ...}}", rows))


class WithBenchmarks(TyperCommand):
    """A command whose --help ends with the shipped benchmarks and the knobs of one."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's own help, then the benchmarks."""
        super().format_help(ctx, formatter)
        table = Table("benchmark", "what it is", title="shipped benchmarks", title_justify="left", expand=True)
        for name in resources.names("evaluation"):
            table.add_row(name, escape(resources.summary_line("evaluation", name)))
        console.print(table)
        console.print(_knob_table("every knob of a benchmark (benchmark.key=value with --model, key=value with --answers)", BenchmarkSpec))


def sentences(command: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A user's mistake prints its sentence and exits with 2; a bug keeps its traceback."""

    @wraps(command)
    def told(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            Console(stderr=True).print(f"gpg-vl: {error}", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from None

    return told


@app.command(cls=WithKnobs)
@sentences
def train(
    config: ConfigName = "",
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder from its newest checkpoint.")] = None,
    allow_changed: Annotated[bool, typer.Option("--allow-changed", help="Resume although config, data or verifiers have changed.")] = False,
) -> None:
    """Train a policy. Without arguments: the offline digits run."""
    given, folder = _load(config, overrides, resume)
    if resume is None:
        _look_at_model(given)
    _quiet()
    from gpg_vl.report.console import Display
    from gpg_vl.training.loop import train as run

    with Display(console, given.steps) as display:
        try:
            written = run(given, folder, resume=resume, sinks=[display.step], say=display.say, allow_changed=allow_changed)
        except KeyboardInterrupt:
            display.say(_how_to_go_on(resume or given.run_folder))
            raise typer.Exit(130) from None
    if os.environ.get("RANK", "0") == "0":
        _tell_results(written)


@app.command(cls=WithKnobs)
@sentences
def sft(config: ConfigName = "digits", overrides: Overrides = None) -> None:
    """Run only the supervised warm-up of a config, and evaluate it."""
    given, folder = _load(config, overrides, None)
    if not given.warmup.steps:
        raise UserError("warmup.steps: got 0, expected at least 1; nothing would be trained")
    _look_at_model(given)
    _quiet()
    from gpg_vl.training.loop import train as run

    written = run(given.model_copy(update={"steps": 0}), folder, say=_say)
    _say(f"policy: {written / 'checkpoints' / '000000' / 'policy'}")


@app.command(cls=WithKnobs)
@sentences
def rollout(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="A run folder, a checkpoint folder or a hub id instead of the config's policy.")] = None,
    groups: Annotated[int, typer.Option(min=1, help="How many questions to ask.")] = 4,
    to: Annotated[Path | None, typer.Option(help="Also write every answer with its verdict to this .jsonl file.")] = None,
) -> None:
    """Sample and score groups without training: what does the policy answer, and what does that earn?"""
    given, folder = _load(config, overrides, None)
    if to and not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    if model is None:
        _look_at_model(given)
    _quiet()
    from gpg_vl.preflight.try_rollout import sample_and_score

    for line in sample_and_score(given, folder, model=model, count=groups, to=to):
        _say(line)


@app.command(cls=WithKnobs)
@sentences
def serve(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    host: Annotated[str, typer.Option(help="Who may connect: whoever reaches the server can change its weights.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Where it listens.")] = 8000,
    window: Annotated[int, typer.Option(min=1, help="Longest prompt and completion together, in tokens.")] = 8192,
    vllm: Annotated[str, typer.Option(help="Further arguments for vLLM, for instance '--tensor-parallel-size 2'.")] = "",
    show: Annotated[bool, typer.Option("--show", help="Only print the command.")] = False,
) -> None:
    """Serve a config's policy with vLLM, as `rollout.engine: {kind: server}` needs it. Needs vLLM, the extra `vllm`."""
    given, _ = _load(config, overrides, None)
    _quiet()
    from gpg_vl.rollout.vllm.launch import server_options, vllm_command

    transfer, handover, sleeping = server_options(given.rollout.engine)
    command = vllm_command(
        given.policy,
        seed=given.seed,
        folder=Path(given.folder) / "served" / given.name,
        host=host,
        port=port,
        window=window,
        transfer=transfer,
        handover=handover,
        more=[*sleeping, *shlex.split(vllm)],
    )
    if show:
        print(command)
    else:
        command.replace_this_process()


@app.command(cls=WithBenchmarks)
@sentences
def evaluate(
    benchmarks: Annotated[
        list[str], typer.Argument(metavar="BENCHMARK... [KEY=VALUE]...", help="Shipped benchmarks by name, or YAML files; then knobs.")
    ],
    model: Annotated[str | None, typer.Option(help="A run folder, a checkpoint folder or a hub id.")] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Score these recorded answers (.jsonl of id, text) instead; no model needed.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--map", help="Our column=theirs in --answers: id=idx,text=response.")] = None,
    blank: Annotated[bool, typer.Option(help="Show grey pictures instead: what is left is guessing.")] = False,
    to: Annotated[
        Path | None, typer.Option(help="Where to write a record per question (.jsonl; a folder for several). The same again goes on.")
    ] = None,
) -> None:
    """Greedy accuracy and pass@k (pass@1 is the mean of the sampled answers) on held-out questions, with 95 % intervals.

    KEY=VALUE are knobs of the run's config with --model (those of the benchmark begin with benchmark.), of the benchmark with --answers
    (mode=lenient verifiers.boxes.policy=first). Exit 1 where a verifier of one's own failed on answers.
    """
    names = list(dict.fromkeys(item for item in benchmarks if "=" not in item))
    overrides = [item for item in benchmarks if "=" in item]
    _check_evaluation(names, model, answers, columns, blank)
    path_of = _places(names, to)
    _quiet()
    from gpg_vl.evaluation import recorded_answers
    from gpg_vl.evaluation import records as eval_records
    from gpg_vl.evaluation.evaluate import evaluate_benchmarks
    from gpg_vl.report.console import Counting

    failed: list[str] = []
    with Counting(console) as counting:
        try:
            if answers is None:
                taken = evaluate_benchmarks(names, str(model), overrides, blank=blank, told=counting.told, to=path_of, say=_say)
            else:
                given = [item.removeprefix("benchmark.") for item in overrides]
                taken = iter([recorded_answers.score(names[0], answers, columns or (), given, to=to, say=_say)])
            for name, (exam, records) in zip(names, taken, strict=True):
                _tell_figures(f"{name}{' on blank images' if blank else ''}", exam, records)
                failed += [f"{name}: {told}" for told in (eval_records.failures(records),) if told]
        except KeyboardInterrupt:
            _say(f"stopped; {_what_is_kept(to, answers)}")
            raise typer.Exit(130) from None
    for line in failed:
        _say(line)
    if failed:
        raise typer.Exit(1)


def _what_is_kept(to: Path | None, answers: Path | None) -> str:
    """Of an evaluation that is stopped: a model's answers are written as they come, the scores of recorded ones at the end."""
    if answers is not None:
        return "nothing is kept; start again"
    return "the same command goes on from there" if to else "nothing is kept without --to; start again"


def _places(names: list[str], to: Path | None) -> Callable[[str], Path | None]:
    """Where the records of a benchmark are written; what cannot be written is told before a model is loaded."""
    if to is None:
        return lambda name: None
    if any(parent.is_file() for parent in to.parents):
        raise UserError(f"--to {to}: a folder above it is a file")
    if len(names) == 1:
        if to.is_dir():
            raise UserError(
                f"--to {to}: is a folder, expected a .jsonl file for one benchmark, for instance {to / (Path(names[0]).stem + '.jsonl')}"
            )
        return lambda name: to
    if to.is_file():
        raise UserError(f"--to {to}: is a file, expected a folder for {len(names)} benchmarks")
    stems = [Path(name).stem for name in names]
    if doubled := [stem for stem in stems if stems.count(stem) > 1]:
        raise UserError(f"--to {to}: several benchmarks would be written to {doubled[0]}.jsonl; rename one, or take them one by one")
    return lambda name: to / f"{Path(name).stem}.jsonl"


def _check_evaluation(names: list[str], model: str | None, answers: Path | None, columns: list[str] | None, blank: bool) -> None:
    if not names:
        raise UserError(f"no benchmark named; shipped: {', '.join(resources.names('evaluation'))}")
    if (model is None) == (answers is None):
        raise UserError("expected exactly one of --model (who answers) and --answers (a file of recorded answers)")
    if answers is not None and (blank or len(names) > 1):
        several = f"--answers belongs to one benchmark, got {len(names)}: name one"
        raise UserError("--blank shows a model grey pictures; recorded answers were given already: leave it out" if blank else several)
    if columns and answers is None:
        raise UserError("--map names the columns of an --answers file; there is none")


def _tell_figures(title: str, exam: Any, records: Any) -> None:
    from gpg_vl.evaluation import metrics
    from gpg_vl.report.console import precision_table, results_table

    console.print(results_table(title, records, exam.spec))
    if exam.spec.average_precision:
        console.print(precision_table(f"average precision ({exam.spec.average_precision})", metrics.detection(exam, records)))


@app.command()
@sentences
def compare(
    first: Annotated[Path, typer.Argument(help="Records written by evaluate --to, or a run folder.")],
    second: Annotated[Path, typer.Argument(help="The same of another model.")],
    changed: Annotated[int, typer.Option(min=0, help="How many questions that changed are shown.")] = 5,
    to: Annotated[Path | None, typer.Option(help="Also write every question that changed to this .jsonl file.")] = None,
) -> None:
    """Two evaluations of the same questions: paired difference with 95 % interval and p value, and what changed."""
    from gpg_vl.evaluation import compare as comparing
    from gpg_vl.report.console import paired_table

    if to and not to.parent.is_dir():
        raise UserError(f"--to {to}: there is no folder {to.parent}")
    written: list[str] = []
    for name, (before, after) in comparing.read(first, second).items():
        console.print(paired_table(f"{name}: {first} and {second}", comparing.compare(before, after)))
        for remark in comparing.remarks(before, after):
            _say(f"mind: {remark}")
        moved = comparing.changed(before, after)
        for old, new in moved[:changed]:
            _say(f"  {old.id}: {old.greedy:.2f} {old.answer!r} -> {new.greedy:.2f} {new.answer!r}")
        rows = ({"id": old.id, "first": old.greedy, "second": new.greedy, "texts": [old.text, new.text]} for old, new in moved)
        written += [json.dumps({"benchmark": name, **row}, ensure_ascii=False) + "\n" for row in rows]
    if to:
        to.write_text("".join(written))


@app.command(cls=WithKnobs)
@sentences
def audit(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Also ask this model: a run folder, a checkpoint folder or a hub id.")] = None,
    head: Annotated[int, typer.Option(min=1, help="Rows of each source that are looked at.")] = 1000,
) -> None:
    """Before training: can this run learn? Exit 1 with the reason where it cannot."""
    given, folder = _load(config, overrides, None)
    _quiet()
    from gpg_vl.preflight.audit import audit as examine

    stops: list[str] = []
    for finding in examine(given, folder, model=model, head=head):
        _say(f"{finding.level:4}  {finding.text}")
        stops += [finding.text] if finding.level == "stop" else []
    _say(f"cannot learn: {stops[0]}" if stops else "nothing stands in the way")
    if stops:
        raise typer.Exit(1)


@app.command(cls=WithKnobs)
@sentences
def plan(config: ConfigName = "digits", overrides: Overrides = None) -> None:
    """What a config asks for: answers, tokens, memory, disk. Nothing is loaded. Exit 1 where it does not fit the hardware it names.

    Data, prompt, rewards, method and benchmark are resolved, of the model only config.json is read.
    """
    given, folder = _load(config, overrides, None)
    from gpg_vl.preflight.plan import plan as planned

    told = planned(given, folder)
    for line in told.lines:
        _say(line)
    if told.faults:
        raise typer.Exit(1)


@app.command()
@sentences
def data(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe, or one of yours: ./scenes.py:scenes")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[OPTION=VALUE]...", help="The recipe's options: split=test.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="The folder of the published files.")] = None,
    to: Annotated[Path | None, typer.Option(help="A new folder for samples.jsonl, images/ and left_out.jsonl.")] = None,
    head: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Check the rows with this config's prompt and verifiers: those of your own kinds.")
    ] = None,
) -> None:
    """Read a published data set into rows: every row is checked by its own verifier, what is left out is listed with the reason."""
    from gpg_vl.preflight.prepare_data import prepare

    for line in prepare(recipe, list(options or ()), source=source, to=to, head=head, config=config):
        _say(line)


def _how_to_go_on(run: Path) -> str:
    from gpg_vl import run_folder

    kept = run_folder.complete_checkpoints(run)
    if not kept:
        return "stopped before the first checkpoint; start again with the same command"
    return f"stopped; go on from step {int(kept[-1].name)} with: gpg-vl train --resume {run}"


def _load(name: str, overrides: list[str] | None, resume: Path | None) -> tuple[Config, Path]:
    """The config and its folder; `gpg-vl train steps=2` means the default config with an override."""
    given = list(overrides or ())
    if "=" in name:
        name, given = "", [name, *given]
    if name and resume:
        raise UserError(f"got both CONFIG {name!r} and --resume {resume}; a run goes on with its own config: leave CONFIG out")
    name = name or "digits"
    if resume is None:
        return loading.load(name, given), resources.find("configs", name).parent
    kept = resume / "config.yaml"
    if not kept.is_file():
        raise UserError(f"--resume {resume}: no config.yaml there, so it is not a run folder")
    return loading.load(str(kept), given), run_folder.config_folder(resume)


def _look_at_model(given: Config) -> None:
    """A model that cannot be trained is told at once, before torch and transformers are imported."""
    from gpg_vl.policy.model_folder import find_model

    if given.policy.model != "tiny":
        find_model(given.policy.model)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _quiet() -> None:
    """Progress bars of other libraries would tear ours."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _tell_results(run: Path) -> None:
    from gpg_vl.evaluation.records import load
    from gpg_vl.report.console import comparison_table

    for before in sorted((run / "evaluation").glob("*-before.jsonl")):
        after = before.with_name(before.name.replace("-before", "-after"))
        if after.exists():
            try:
                console.print(comparison_table(load(before), load(after)))
            except UserError as error:  # the run is done all the same
                _say(f"{before.stem} and {after.stem} are not compared: {error}")
    _say(f"run folder: {run}")
    _say(f"try it:     gpg-vl rollout {run / 'config.yaml'} --model {run}")


def _knob_table(title: str, kind: type[Section]) -> Table:
    return _table(title, list(knobs(kind)))


def _table(title: str, rows: list[tuple[str, str, str]]) -> Table:
    table = Table("key", "default", "what it does", title=title, title_justify="left", expand=True)
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    return table


def main() -> None:
    """Entry point of `gpg-vl`."""
    try:
        app(prog_name="gpg-vl")
    except KeyboardInterrupt:
        sys.exit(130)
