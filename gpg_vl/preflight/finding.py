"""Define a finding: one sentence of the audit."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["fine", "mind", "stop"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of the audit."""

    level: Level
    """fine | mind: worth knowing | stop: the run cannot learn what it is meant to."""
    text: str
