"""The commands before a run: audit, plan, init, data."""

import shlex
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpg_vl.cli.application import (
    ConfigName,
    Overrides,
    app,
    check_model,
    console,
    load_config,
    print_line,
    silence_libraries,
    with_sentences,
)
from gpg_vl.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpg_vl.preflight.finding import Finding
    from gpg_vl.preflight.propose_config import Proposal

MAX_WIDTH = 100
"""Longest line of a finding on a wide terminal."""


@app.command()
@with_sentences
def audit(
    config: ConfigName = "digits",
    overrides: Overrides = None,
    model: Annotated[
        str | None,
        typer.Option(help="Also ask this model: a run, a checkpoint, its folder or a hub id."),
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many rows of each source.")
    ] = None,
) -> None:
    """Before training: can this run learn? Exit 1 with the reason where it cannot."""
    loaded = load_config(config, overrides)
    if model is not None:
        check_model(loaded, model)
    silence_libraries()
    from gpg_vl.experiment import Experiment
    from gpg_vl.preflight.audit import audit as run_audit

    stop = ""
    rest: list[Finding] = []
    for finding in run_audit(Experiment.resolve(loaded), model=model, head=head):
        if finding.level == "fine":
            _print_finding(finding)
        else:  # what matters most stands next to the last line
            rest.append(finding)
    for finding in sorted(rest, key=lambda each: each.level):  # mind, stop
        _print_finding(finding)
        if not stop and finding.level == "stop":
            stop = finding.text
    if stop:
        _print_hanging("", f"cannot learn: {stop}", 0)
        raise typer.Exit(1)
    print_line(f"no problem found; next: {command_on('train', config, overrides)}")


def _print_finding(finding: "Finding") -> None:
    _print_hanging(f"{finding.level:4}  ", finding.text)


def _print_hanging(label: str, text: str, indent: int | None = None) -> None:
    """Print a text; on a terminal in lines of its width, under the label.

    Args:
        indent: of the further lines; None = below the first word of the text.
    """
    if not console.is_terminal:  # one line each, as grep and logs want them
        print_line(label + text)
        return
    lines = textwrap.wrap(
        text,
        min(console.width, MAX_WIDTH),
        initial_indent=label,
        subsequent_indent=" " * (len(label) if indent is None else indent),
        break_on_hyphens=False,
    )
    for line in lines or [label]:
        print_line(line)


def command_on(name: str, config: str, overrides: list[str] | None) -> str:
    """Return a command on a config that can be pasted in any folder."""
    words = list(overrides or ())
    if "=" in config:
        config, words = "digits", [config, *words]
    if config.endswith((".yaml", ".yml")):
        config = str(Path(config).resolve())
    return shlex.join(["gpg-vl", name, config, *words])


@app.command()
@with_sentences
def plan(config: ConfigName = "digits", overrides: Overrides = None) -> None:
    """Answers, tokens, memory and disk that a config asks for. Nothing is loaded.

    Data, prompt, rewards, method and benchmark are resolved, of the model only config.json is read.
    Exit 1 where it does not fit the hardware it names.
    """
    loaded = load_config(config, overrides)
    from gpg_vl.config.models import find
    from gpg_vl.experiment import Experiment
    from gpg_vl.preflight.plan import WIDTH as PLAN_WIDTH
    from gpg_vl.preflight.plan import plan as make_plan

    find(loaded.policy.model)  # a path that leads nowhere; a hub may be unknown
    width = console.width if console.is_terminal else PLAN_WIDTH
    made = make_plan(Experiment.resolve(loaded), width)
    for line in made.lines:
        print_line(line)
    if made.problems:
        raise typer.Exit(1)
    print_line(f"next:     {command_on('train', config, overrides)}")


RowsName = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A file, a folder or a pattern of rows, or a data set of the hub."
    ),
]
SourceKeys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys of the source of these rows that you settle: columns.answer=gold.",
    ),
]


@app.command()
@with_sentences
def init(
    name: RowsName,
    options: SourceKeys = None,
    model: Annotated[
        str, typer.Option(help="The model: tiny, a folder, a run folder or a hub id.")
    ] = "tiny",
    to: Annotated[Path, typer.Option(help="A new file for the config.")] = Path("mine.yaml"),
    held_out: Annotated[
        int | None,
        typer.Option(
            min=0, help="Questions that training never sees; 0 = none. Default: by the rows."
        ),
    ] = None,
) -> None:
    """Write a first config for your rows and a model, and a benchmark of rows held out from it.

    Every line of the config has its reason above it. Exit 1 where the audit of the first rows finds
    that the run cannot learn.
    """
    from gpg_vl.preflight.propose_config import Proposal

    def read() -> Proposal:
        return Proposal.of(name, options or (), head=None, config=None)

    _write_config(read, model, to, held_out)


def _write_config(
    read: "Callable[[], Proposal]", model: str, to: Path, held_out: int | None = None
) -> None:
    """Write a first config and print what was decided.

    Args:
        read: reads the first rows, which may take long.

    Raises:
        typer.Exit: with 1, if the run cannot learn.
    """
    silence_libraries()
    from gpg_vl.preflight.first_config import check_new, write_first_config

    check_new(to)
    proposal = read()
    written = write_first_config(proposal, model=model, to=to, held_out=held_out)
    for line in written.lines:
        print_line(line)
    if written.has_problem:
        raise typer.Exit(1)


@app.command()
@with_sentences
def data(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Rows: a file, folder, pattern or data set of the hub; or a recipe, shipped or "
            "yours: ./scenes.py:scenes",
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Options of the recipe (split=test), keys of the rows' source "
            "(columns.answer=gold).",
        ),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="The folder of the published files.")
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="A new folder for the rows and their pictures; or a new file mine.yaml for a "
            "config that reads them."
        ),
    ] = None,
    head: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    config: Annotated[
        str | None,
        typer.Option(help="Check the rows with the prompt and verifiers of this config."),
    ] = None,
) -> None:
    """Say what rows are and which config reads them; or make rows of a published set.

    Every row is checked by its own verifier; what is left out has its reason.
    """
    from gpg_vl.preflight.prepare_data import prepare
    from gpg_vl.preflight.propose_config import Proposal, names_rows, propose_config

    knobs = list(options or ())
    if not names_rows(name):
        lines = prepare(name, knobs, source=source, to=to, head=head, config=config)
    elif source is not None:
        raise UserError(f"--from {source} is for recipes; {name} names its rows itself")
    elif to is not None and to.suffix in (".yaml", ".yml"):
        _write_config(lambda: Proposal.of(name, knobs, head=head, config=config), "tiny", to)
        return
    else:
        lines = propose_config(name, knobs, to=to, head=head, config=config)
    if to is not None:
        lines = list(lines)  # a reader that closes the pipe, such as head, leaves nothing half done
    for line in lines:
        print_line(line)
