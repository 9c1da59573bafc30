"""The command-line program: what all commands share.

The modules of `gpg_vl/cli/` import nothing of the package but `errors` at their top, so that
`--help` and completion answer at once; a command imports what it needs when it runs.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console

import gpg_vl
from gpg_vl.cli.completion import complete_config, complete_knob
from gpg_vl.cli.pages import Command, Commands, print_error
from gpg_vl.errors import UserError, shown

if TYPE_CHECKING:
    from gpg_vl.config.schema import Config

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Application(typer.Typer):
    """A program whose commands all have the pages and messages of `cli.pages`."""

    def command(self, name: str | None = None, **options: Any) -> Any:
        """Return the decorator that makes a function a command."""
        return super().command(name, **{"cls": Command, **options})


app = Application(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console()

ConfigName = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        help="A shipped config by name (gpg-vl configs), or a YAML file.",
        autocompletion=complete_config,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Knobs that differ, for instance steps=50 (gpg-vl knobs).",
        show_default=False,
        autocompletion=complete_knob,
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpg-vl {gpg_vl.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Reinforcement-learning fine-tuning of vision-language models (GPG)."""


def with_sentences(command: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a user's mistake print its sentence and exit with 2; a bug keeps its traceback.

    Ctrl-C exits with 130; a command that has something to say about it catches it first.
    """

    @wraps(command)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            print_error(error)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            Console(stderr=True).print("gpg-vl: stopped by Ctrl-C")
            raise typer.Exit(130) from None

    return wrapped


def load_config(name: str, overrides: list[str] | None, resume: Path | None = None) -> Config:
    """Load a config; `gpg-vl train steps=2` means the default config with an override."""
    from gpg_vl.cli import hints
    from gpg_vl.config import loading

    hints.check_blanks([name, *(overrides or ())])
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
    from gpg_vl.config.models import find_run

    return loading.load_run(find_run(resume), knob_values)


def check_model(config: Config, model: str | None = None) -> None:
    """Refuse a model that cannot be trained before torch and transformers are imported.

    Args:
        model: of the option --model; None = that of the config.
    """
    if model is not None:
        check_named_model(model, "--model")
        return
    from gpg_vl.policy.packages import check_packages

    check_packages(config.policy)
    check_named_model(config.policy.model, "policy.model")


def check_named_model(name: str, key: str) -> None:
    """Refuse a model that cannot be used before torch and transformers are imported."""
    from gpg_vl.config.models import TINY
    from gpg_vl.policy.model_folder import find_model
    from gpg_vl.policy.packages import check_packages_of

    if name == TINY:
        return
    adapter = find_model(name, key).adapter
    if adapter is not None:
        check_packages_of(adapter, key)


def check_parent(to: Path | None) -> None:
    """Refuse a file that cannot be written: its folder is missing or read-only, or it is one."""
    from gpg_vl.config.paths import check_new_file

    if to:
        check_new_file(to, "--to")


def print_line(line: str) -> None:
    """Print a line as it is, without markup and without breaking it."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def silence_libraries() -> None:
    """Hide progress bars of other libraries, which would break ours."""
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # on a CPU it asks for kernels of a hub, which are not needed
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _share_cores() -> None:
    """Let the threads of torch give up their cores soon while they wait for each other.

    By themselves they spin: 20 steps of `gpg-vl sft digits_count` took 110 s instead of 3.6 beside
    two busy programs on two cores; with this 12, and 3.6 alone as before (2026-11-30). The OpenMP
    library reads it when torch is imported; results stay the same.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def _repeat_lost_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Interrupt again where Ctrl-C came within a destructor, in which Python drops it.

    A little later: in this function it would be dropped once more.
    """
    if lost.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Run `gpg-vl`."""
    _share_cores()
    sys.unraisablehook = _repeat_lost_interrupt
    # imports make many objects and no garbage; to look for it so often takes a tenth of their time
    gc.set_threshold(20_000)
    try:
        app(prog_name="gpg-vl")
    except KeyboardInterrupt:
        sys.exit(130)
