"""Say what was meant by words on the command line that cannot be read."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer

from gpg_vl.errors import UserError, one_line, shown


def in_a_sentence(error: Any, ctx: Any, words: Sequence[str]) -> str:
    """Return the sentence for words that typer refuses.

    Args:
        error: typer's exception.
        ctx: typer's context of the command.
        words: the words behind the command.
    """
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        return _no_such_option(option, ctx, words)
    message = error.format_message()
    if isinstance(error, typer.BadParameter) and error.param is not None:
        option = error.param.opts[0]
        name = option if option.startswith("-") else str(error.param.metavar or option.upper())
        message = f"{name}{_reason(error)}"
    else:
        message = f"{message[:1].lower()}{message[1:]}".replace("(s)", "")
    return f"{message.rstrip('.')}; see {ctx.command_path} --help"


def _reason(error: Any) -> str:
    """Return why typer refuses a value, as the end of a sentence about its option."""
    from pydantic import ValidationError

    from gpg_vl.config.mistakes import got_and_expected

    if isinstance(error.__cause__, ValidationError):
        return f": {got_and_expected(error.__cause__.errors()[:1])}"
    if not error.message:
        return " is missing"
    return f": {error.message[:1].lower()}{error.message[1:]}"


def _no_such_option(option: str, ctx: Any, words: Sequence[str]) -> str:
    """Return the sentence for an option that a command does not have."""
    word, value = _as_written(option, words)
    name, written = word.lstrip("-").replace("-", "_"), f"={value or 'VALUE'}"
    keys = _keys_for(ctx)
    key = _knob_named(name, keys)
    if key and ctx.parent is None:
        return f"a command comes first, for instance: gpg-vl train {key}{written}"
    if key:
        return f"{word} is no option; a knob is written {key}{written}"
    begun = f"{word} is no option of {ctx.command_path}"
    options: list[str] = []
    for param in ctx.command.get_params(ctx):
        options += [text for text in param.opts if text.startswith("--")]
    nearest = get_close_matches(word, options, n=1, cutoff=0.75)
    if nearest:
        return f"{begun}; did you mean {nearest[0]}?"
    key = _nearest_knob(name, keys)
    if key:
        return f"{begun}; did you mean the knob {key}{written}?"
    hint = ""
    if keys:
        hint = "; gpg-vl knobs lists the knobs"
    elif any("KEY=VALUE" in str(param.metavar) for param in ctx.command.params):
        hint = f"; a key is written {name}{written}"
    return f"{begun}, which has {', '.join(options)}{hint}"


def _as_written(option: str, words: Sequence[str]) -> tuple[str, str]:
    """Return the option as the user wrote it, and the value behind it; empty if there is none.

    Of `-steps` typer names only `-s`.
    """
    for place, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == option or (not option.startswith("--") and name.startswith(option)):
            following = words[place + 1] if place + 1 < len(words) else ""
            if not value and not following.startswith("-"):
                value = following
            return one_line(name), one_line(value)
    return one_line(option), ""


def _keys_for(ctx: Any) -> list[str]:
    """Return the keys of the knobs that a command takes; none if it takes none."""
    arguments = [param for param in ctx.command.params if param.param_type_name == "argument"]
    names = {param.name for param in arguments}
    if ctx.parent is not None and not names & {"overrides", "benchmarks"}:
        return []
    return _keys(benchmark="benchmarks" in names)


def _keys(*, benchmark: bool = False) -> list[str]:
    """Return the keys of a config, with those of its benchmark or without."""
    from gpg_vl.config.knobs import knobs_of
    from gpg_vl.config.schema import BenchmarkSpec, Config

    keys = [knob.key for knob in knobs_of(Config)]
    if benchmark:
        keys += [knob.key for knob in knobs_of(BenchmarkSpec, "benchmark.")]
    return keys


def _knob_named(name: str, keys: Sequence[str]) -> str:
    """Return the knob of a name, also without its section: lr is optimizer.lr; empty if none."""
    if name in keys:
        return name
    return next((key for key in keys if key.endswith(f".{name}")), "")


def _nearest_knob(name: str, keys: Sequence[str]) -> str:
    """Return the knob whose name, with its section or without, is nearest; empty if none is."""
    named = {key.rpartition(".")[2]: key for key in reversed(keys)}
    named |= {key: key for key in keys}
    nearest = get_close_matches(name, named, n=1)
    return named[nearest[0]] if nearest else ""


def no_such_command(words: Sequence[str], commands: Sequence[str]) -> str:
    """Return the sentence for a command that does not exist.

    Args:
        words: the command and what is behind it.
        commands: the names of all commands.
    """
    from gpg_vl.config import resources

    name = words[0]
    if "=" in name or name in resources.names("configs") or name.endswith(resources.ENDINGS):
        return f"a command comes first, for instance: gpg-vl train {one_line(' '.join(words))}"
    nearest = get_close_matches(name, commands, n=1)
    if nearest:
        return f"{shown(name)} is no command; did you mean {nearest[0]}?"
    return f"{shown(name)} is no command; gpg-vl --help lists them"


def check_blanks(words: Sequence[str]) -> None:
    """Refuse a knob that is written with blanks: `steps 10`, `steps = 10`, `steps= 10`.

    Raises:
        UserError: the sentence names the knob as it is written.
    """
    if not any(word and ("=" not in word or word[0] == "=" or word[-1] == "=") for word in words):
        return
    keys = _keys()
    for place, word in enumerate(words):
        following = [*words[place + 1 :], "", ""]
        key, sign, value = word.partition("=")
        if key not in keys or value:
            continue
        if not sign and following[0].startswith("="):
            value = following[0][1:] or following[1]
        elif "=" not in following[0]:
            value = following[0]
        if value:
            raise UserError(f"a knob is written without blanks: {one_line(key)}={one_line(value)}")
