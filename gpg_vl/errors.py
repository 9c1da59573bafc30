"""Define the errors that a caller may catch.

A `UserError` is advice: what was got, what was expected, what to do. It is shown without a
traceback; any other exception is a bug and keeps its traceback.
"""

import os
import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """A mistake of the user's, in one sentence: got, expected, do this."""


class UnusableSampleError(UserError):
    """A sample that cannot become a prompt: its image is gone, or its prompt is too long.

    A run leaves it out and counts it.
    """


class EngineLostError(UserError):
    """The engine is gone and has not come back in time. No group of the current step was used."""


class MismatchError(UserError):
    """The engine does not compute what the trainer does: training on its answers would be wrong."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has saved its last step."""


def command(*words: object) -> str:
    """Return a command that works in any folder: paths are whole, blanks are quoted.

    Example:
        command("gpg-vl", "train", "--resume", Path("my runs/digits"))
        == "gpg-vl train --resume ~/'my runs/digits'"
    """
    return " ".join(_quoted(word) for word in words)


def _quoted(word: object) -> str:
    """Return a word as a shell takes it; a path below the home folder begins with ~."""
    if not isinstance(word, Path):
        return shlex.quote(str(word))
    path = word.absolute()
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  # Path.expanduser raises without a home
    if home in path.parents:
        return f"~/{shlex.quote(str(path.relative_to(home)))}"
    return shlex.quote(str(path))


def train_command(*words: object) -> str:
    """Return the command that trains, for as many processes as this one was launched with.

    The launcher's options are known to the user alone: three dots stand for them.

    Example:
        train_command("--resume", Path("runs/digits"))
        == "accelerate launch ... -m gpg_vl train --resume ~/runs/digits"
    """
    if is_launched():
        return f"accelerate launch ... {command('-m', 'gpg_vl', 'train', *words)}"
    return command("gpg-vl", "train", *words)


def is_launched() -> bool:
    """Return True if a launcher (accelerate, torchrun) started several processes for the run."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


SHOWN_CHARACTERS = 500
"""Largest number of characters of one value in a message."""


def shown(value: object, limit: int = SHOWN_CHARACTERS) -> str:
    """Return the `repr` of a value for a message, cut where it is long: a cell may hold a picture.

    Example:
        shown("a" * 1000, limit=8) == "'aaaa... (1,002 characters)"
    """
    if isinstance(value, str | bytes) and len(value) > 4 * limit:
        length = len(value) + 2  # a long text is not copied only to be cut
        return f"{repr(value[: 4 * limit])[: limit - 3]}... ({length:,} characters)"
    text = repr(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit - 3]}... ({len(text):,} characters)"


def one_line(text: object, limit: int = 300) -> str:
    """Return the beginning of a text or of an error's message as one line of a sentence."""
    return " ".join(str(text).split())[:limit]


@contextmanager
def raise_on_all_ranks(all_gather: Callable[[Any], list[Any]]) -> Generator[None, None, None]:
    """Raise on every process the `UserError` that one of them raised inside the block.

    Without it the other processes would wait for one that has left, until a time limit.

    Args:
        all_gather: returns the values that all processes give, in rank order.
    """
    own_error: UserError | None = None
    try:
        yield
    except UserError as error:
        own_error = error
    for error in all_gather(own_error):
        if error is not None:
            raise error
