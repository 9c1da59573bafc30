"""Pages of --help, and mistakes on the command line as sentences.

A new command needs a line in `GROUPS` and its examples in `EXAMPLES`.
"""

import re
import sys
import textwrap
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from gpg_vl.errors import UserError

GROUPS = {
    "start": {
        "init": "write a config from your rows and a model",
        "data": "say what rows are; turn a published data set into rows",
        "configs": "list the shipped configs and benchmarks",
        "show": "print a config, every knob with its sentence",
        "knobs": "explain the knobs (settings) of a config",
        "schema": "print the JSON schema of configs, for an editor",
    },
    "before": {
        "audit": "can this run learn? exit 1 with the reason if it cannot",
        "plan": "answers, memory, disk and time that a config asks for",
        "rollout": "sample and score answers without training",
    },
    "train": {
        "train": "train a policy",
        "sft": "only the supervised warm-up of a config",
        "serve": "start a vLLM server that samples for a run",
    },
    "after": {
        "report": "a run as one HTML page: is it learning, what does it answer?",
        "watch": "the same page, live, while a run goes on",
        "evaluate": "accuracy on held-out questions, with 95 % intervals",
        "compare": "two evaluations of the same questions, side by side",
        "export": "a folder that transformers, peft and vLLM load",
    },
}
"""The commands in the order of their use, with the line of each on the first page."""

EXAMPLES = {
    "init": ("gpg-vl init rows.jsonl --model Qwen/Qwen2.5-VL-3B-Instruct",),
    "data": (
        "gpg-vl data rows.jsonl",
        "gpg-vl data geoqa --from downloads/geoqa --to rows",
    ),
    "configs": ("gpg-vl configs", "gpg-vl configs --benchmarks"),
    "show": ("gpg-vl show digits steps=50", "gpg-vl show digits --all > mine.yaml"),
    "knobs": ("gpg-vl knobs rollout", "gpg-vl knobs optimizer.lr", "gpg-vl knobs boxes"),
    "schema": ("gpg-vl schema > gpg_vl.schema.json",),
    "audit": ("gpg-vl audit digits --head 100",),
    "plan": ("gpg-vl plan digits rollout.group_size=16",),
    "rollout": ("gpg-vl rollout digits --model runs/digits --groups 2",),
    "train": (
        "gpg-vl train",
        "gpg-vl train digits_count steps=50 optimizer.lr=2e-4",
        "gpg-vl train --resume runs/digits",
    ),
    "sft": ("gpg-vl sft digits name=imitation",),
    "serve": ("gpg-vl serve digits rollout.engine=server --show",),
    "report": (
        "gpg-vl report runs/digits",
        "gpg-vl report --compare runs/digits runs/other",
    ),
    "watch": ("gpg-vl watch runs/digits",),
    "evaluate": (
        "gpg-vl evaluate digits --model runs/digits",
        "gpg-vl evaluate digits_count --answers answers.jsonl mode=lenient",
    ),
    "compare": ("gpg-vl compare runs/digits runs/other",),
    "export": (
        "gpg-vl export runs/digits --to digits_model",
        "gpg-vl export runs/digits --to digits_model --merged --dtype bfloat16",
    ),
}
"""Commands as they are typed, below the sentence of each command."""


VALUES = {"str": "TEXT", "list[str]": "TEXT", "int": "N", "path": "PATH"}
"""Type of an option -> word for its value."""


OPTIONS = "-h --help, --version; --install-completion lets TAB complete commands and knobs"
"""Options of the first page, on its last line."""


WIDEST_NAME = 24
"""Characters of the longest name that a sentence is written beside, not below."""


class Command(TyperCommand):
    """A command: its page has examples, arguments, options last; a mistake is a sentence."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        with formatter.section("Examples"):
            for line in EXAMPLES.get(str(self.name), ()):
                formatter.write(f"  {line}\n")
        self.format_options(ctx, formatter)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line."""
        pieces = ["[OPTIONS]"]
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                name = _argument(param)
                pieces.append(name if param.required else f"[{name}]")
        return pieces

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options."""
        arguments: list[tuple[str, str]] = []
        options: list[tuple[str, str]] = []
        for param in self.get_params(ctx):
            names, sentence = param.get_help_record(ctx) or ("", "")
            sentence = sentence.replace("  [required]", "").replace(" [default: no-blank]", "")
            if param.param_type_name == "argument":
                arguments.append((_argument(param), sentence))
            else:
                options.append((_plain(names), sentence))
        for heading, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                width = max(min(len(name), WIDEST_NAME) for name, _ in rows) + 4
                with formatter.section(heading):
                    for name, sentence in rows:
                        _write(formatter, f"  {name}".ljust(width), sentence)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words behind the command; what typer refuses becomes a sentence."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            from gpg_vl.cli import hints

            raise UserError(hints.in_a_sentence(error, ctx, given)) from None


class Commands(TyperGroup):
    """All commands: the first page, and the messages of the program."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  # of typer
        """Return the commands in the order of their use."""
        ordered: list[str] = []
        for sentences in GROUPS.values():
            ordered += [name for name in sentences if name in self.commands]
        return [*ordered, *(name for name in self.commands if name not in ordered)]

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002  # of typer
        """Write the first page: a line for each command, in groups, and the options last."""
        formatter.write("Usage: gpg-vl COMMAND ...     gpg-vl COMMAND --help explains one\n")
        formatter.write_text(str(self.help))
        formatter.write_text("gpg-vl train alone runs offline on two CPU cores, in ten minutes.")
        formatter.write("\n")
        for group, sentences in GROUPS.items():
            heading = group
            for name, sentence in sentences.items():
                if name in self.commands:
                    _write(formatter, f"{heading:<8}{name:<10}", sentence)
                    heading = ""
        formatter.write("\n")
        formatter.write(f"{OPTIONS}\n")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words in front of the command; none at all asks for the first page."""
        given = list(args)
        try:
            return super().parse_args(ctx, args or ["--help"])
        except typer.TyperException as error:
            from gpg_vl.cli import hints

            raise UserError(hints.in_a_sentence(error, ctx, given)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that the first word names.

        Raises:
            UserError: there is none; the message contains the nearest.
        """
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            from gpg_vl.cli import hints

            raise UserError(hints.no_such_command(args, list(self.commands)))
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, standalone_mode: bool = True, **more: Any) -> Any:
        """Run the program; a mistake of the user's is a sentence on stderr and exit code 2."""
        try:
            code = super().main(*args, standalone_mode=False, **more)
        except UserError as error:
            print_error(error)
            code = 2
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)  # a command may return anything
        return code


def print_error(error: UserError) -> None:
    """Print a sentence on stderr; a terminal breaks its lines between words."""
    console = Console(stderr=True)
    message = f"gpg-vl: {error}"
    if console.is_terminal:
        message = in_lines(message, console.width)
    console.print(message, markup=False, highlight=False, soft_wrap=True)


def in_lines(message: str, width: int) -> str:
    """Break a message between words; a path and a command in backticks stay whole.

    Example:
        in_lines("go on with `gpg-vl train`", 20) == "go on with\\n`gpg-vl train`"
    """
    blank = "\ue000"  # of a command, until the lines are made
    message = re.sub(r"`[^`\n]*`", lambda quoted: quoted[0].replace(" ", blank), message)
    lines: list[str] = []
    for line in message.splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            replace_whitespace=False,
        )
    return "\n".join(lines).replace(blank, " ")


def _write(formatter: Any, begin: str, sentence: str) -> None:
    """Write a line of a page; what does not fit goes on below the beginning of its sentence."""
    indent = " " * len(begin)
    if len(begin) > WIDEST_NAME + 4:
        formatter.write(f"{begin}\n")
        begin = indent = " " * 4
    lines = textwrap.wrap(
        sentence,
        formatter.width,
        initial_indent=begin,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    formatter.write("\n".join(lines) + "\n")


def _argument(param: Any) -> str:
    """Return the name of an argument: CONFIG, KEY=VALUE..."""
    name = str(param.metavar or param.name.upper())
    return name if param.nargs == 1 or name.endswith("...") else f"{name}..."


def _plain(names: str) -> str:
    """Return an option with a word for its value: --head N, not --head <int range>."""
    name, _, kind = names.partition(" <")
    word = VALUES.get(re.sub(r"( range)?>$", "", kind))
    return f"{name} {word}" if word else names
