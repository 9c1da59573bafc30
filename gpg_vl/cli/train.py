"""The commands that train or sample: train, sft, rollout, serve."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpg_vl.cli.application import (
    ConfigName,
    Overrides,
    app,
    check_model,
    check_parent,
    console,
    load_config,
    print_line,
    silence_libraries,
    with_sentences,
)
from gpg_vl.errors import UserError, one_line, shown

if TYPE_CHECKING:
    from gpg_vl.config.schema import Config


@app.command()
@with_sentences
def train(
    config: ConfigName = "",
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run folder from its newest checkpoint.")
    ] = None,
    from_step: Annotated[
        int | None,
        typer.Option(
            "--from",
            metavar="STEP",
            min=0,
            help="With --resume: from this earlier checkpoint. What came after it is dropped.",
        ),
    ] = None,
    allow_changed: Annotated[
        bool,
        typer.Option(
            "--allow-changed", help="Resume although config, data or verifiers have changed."
        ),
    ] = False,
) -> None:
    """Train a policy. Without arguments: the offline digits run."""
    if from_step is not None and resume is None:
        raise UserError(
            f"--from {from_step} names a checkpoint of a run that goes on: give --resume RUN too"
        )
    loaded = load_config(config, overrides, resume)
    if resume is None:
        check_model(loaded)
    else:
        _check_resume(resume, loaded, from_step, allow_changed=allow_changed)
    _check_before_loading(loaded, resume)
    if resume is not None and _is_finished(resume, loaded, from_step):
        return
    written = _run(loaded, resume=resume, from_step=from_step, allow_changed=allow_changed)
    if os.environ.get("RANK", "0") == "0":
        _print_results(written, loaded)


def _check_resume(
    resume: Path, config: "Config", from_step: int | None, *, allow_changed: bool
) -> None:
    """Refuse a checkpoint that does not exist and a changed config before torch is imported."""
    from gpg_vl.config.models import checkpoint_of, find_run
    from gpg_vl.training.resume_check import check_config

    run = find_run(resume)
    if from_step is not None:
        checkpoint_of(run, from_step)
    if not allow_changed:
        check_config(run, config)


def _is_finished(resume: Path, config: "Config", from_step: int | None) -> bool:
    """Return True if nothing is left to do, and say so, before torch is imported."""
    from gpg_vl.config.models import find_run
    from gpg_vl.run_folder import newest_checkpoint
    from gpg_vl.training.resume_check import how_to_take_more, is_finished

    run = find_run(resume)
    goes_back = from_step is not None and from_step < int(newest_checkpoint(run).name)
    if goes_back or not is_finished(run, config):
        return False
    if os.environ.get("RANK", "0") == "0":
        print_line(how_to_take_more(run, config))
    return True


def _check_before_loading(config: "Config", resume: Path | None = None) -> None:
    """Refuse what cannot be made, files that are not there and a taken folder before torch loads.

    Raises:
        UserError: as `Experiment.resolve`, or for a source, the benchmark or the run folder.
    """
    from gpg_vl import run_folder
    from gpg_vl.config.paths import check_writable
    from gpg_vl.experiment import Experiment
    from gpg_vl.preflight.plan import check_sources

    check_sources(Experiment.resolve(config), own_recipes=False)
    if resume is None:
        check_writable(config.run_path, "folder")
        run_folder.refuse_to_overwrite(config.run_path)


def _run(
    config: "Config",
    *,
    resume: Path | None = None,
    from_step: int | None = None,
    allow_changed: bool = False,
) -> Path:
    """Train with a display and return the run folder.

    Raises:
        Exit: the run was asked to stop; how it goes on is printed.
    """
    from gpg_vl.report.display import Display

    with Display(console) as display:
        try:
            display.phase("loading libraries")
            silence_libraries()
            from gpg_vl.experiment import Experiment
            from gpg_vl.training.loop import train as run

            return run(
                Experiment.resolve(config),
                resume=resume,
                from_step=from_step,
                callbacks=[display.step],
                log=display.log,
                allow_changed=allow_changed,
            )
        except KeyboardInterrupt:
            from gpg_vl.config.models import find_run
            from gpg_vl.report.last_screen import how_to_go_on

            warms_up = config.warmup.steps > 0
            run_path = find_run(resume) if resume else config.run_path
            for line in how_to_go_on(run_path, display.phases, warms_up=warms_up):
                display.log(line)
            raise typer.Exit(130) from None


def _print_results(run: Path, config: "Config") -> None:
    from gpg_vl.evaluation.records import load
    from gpg_vl.report.console import comparison_table
    from gpg_vl.report.last_screen import before_and_after, last_lines

    for before, after in before_and_after(run):
        try:
            console.print(comparison_table(load(before), load(after)))
        except UserError as error:  # the run is done all the same
            print_line(f"{before.stem} and {after.stem} are not compared: {error}")
    for line in last_lines(run, config):
        print_line(line)


@app.command()
@with_sentences
def sft(config: ConfigName = "digits", overrides: Overrides = None) -> None:
    """Run only the supervised warm-up of a config, and evaluate it."""
    loaded = load_config(config, overrides)
    if not loaded.warmup.steps:
        raise UserError("warmup.steps: got 0, expected at least 1; nothing would be trained")
    check_model(loaded)
    only_warmup = loaded.model_copy(update={"steps": 0})
    _check_before_loading(only_warmup)
    written = _run(only_warmup)
    if os.environ.get("RANK", "0") == "0":
        _print_results(written, only_warmup)


@app.command("rollout")
@with_sentences
def try_rollout(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A run, a checkpoint, a folder of a model or a hub id instead of the config's."
        ),
    ] = None,
    groups: Annotated[int, typer.Option(min=1, help="How many questions to ask.")] = 4,
    to: Annotated[
        Path | None,
        typer.Option(help="Also write every answer with its verdict to this .jsonl file."),
    ] = None,
) -> None:
    """Sample and score groups without training: what does the policy answer and earn?"""
    loaded = load_config(config, overrides)
    check_parent(to)
    check_model(loaded, model)
    from gpg_vl.preflight.plan import check_each
    from gpg_vl.report.display import Display

    check_each("data", loaded.data, loaded.base_dir, own_recipes=False)

    with Display(console, lines=False) as display:
        display.phase("loading libraries")
        silence_libraries()
        from gpg_vl.experiment import Experiment
        from gpg_vl.preflight.try_rollout import sample_and_score

        experiment = Experiment.of(loaded)
        for line in sample_and_score(experiment, model=model, count=groups, to=to):
            print_line(line)


@app.command()
@with_sentences
def serve(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    host: Annotated[
        str,
        typer.Option(help="Who may connect: whoever reaches the server can change its weights."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = 8000,
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
    from gpg_vl.config.models import TINY, find
    from gpg_vl.config.paths import check_writable

    loaded = load_config(config, overrides)
    served = loaded.runs_path / "served" / loaded.name
    if loaded.policy.model == TINY:
        check_writable(served, "folder")
    elif find(loaded.policy.model).folder is not None:  # a hub id is left to vLLM
        check_model(loaded)
    silence_libraries()
    from gpg_vl.rollout.vllm.launch import server_options, vllm_command

    options = server_options(loaded.rollout.engine)
    command = vllm_command(
        loaded.policy,
        seed=loaded.seed,
        folder=served,
        host=host,
        port=port,
        window=window,
        transfer=options.transfer,
        handover=options.handover,
        images=options.images,
        more=[*options.sleeping, *_words(vllm)],
    )
    if show:
        print(command)
    else:
        command.replace_this_process()


def _words(vllm: str) -> list[str]:
    """Return the further arguments for vLLM, taken apart as a shell does."""
    try:
        return shlex.split(vllm)
    except ValueError as error:
        raise UserError(
            f"--vllm: got {shown(vllm)}, expected words as in a shell: {one_line(error).lower()}"
        ) from None
