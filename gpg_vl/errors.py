"""Errors that a caller may catch. A `UserError` is advice: what was got, what was expected, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class UserError(Exception):
    """A mistake of the user's, told in one sentence: what was got, what was expected, what to do. Shown without a traceback."""


class UnusableSampleError(UserError):
    """A drawn sample cannot be asked: its image is gone, or its prompt does not fit. The run leaves it out and counts it."""


class EngineLostError(UserError):
    """Whoever samples is gone and has not come back in time. Nothing of the step that was begun has been used."""


class MismatchError(UserError):
    """The engine does not see or score what the trainer does: training on its answers would be wrong."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop, and has saved what there is to save."""
