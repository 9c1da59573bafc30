"""Real models' recorded answers, read where they lie: ../shared/recorded beside the checkout, or
the folder in GPG_VL_RECORDED."""

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.types import Sample, Verdict

ROOT = Path(__file__).parent.parent
HOMES = (Path(os.environ.get("GPG_VL_RECORDED", "")), ROOT.parent / "shared" / "recorded")


@cache
def home() -> Path | None:
    """The folder of the recorded material; None where this machine has none."""
    return next(
        (folder.resolve() for folder in HOMES if (folder / "REFERENCE.json").is_file()), None
    )


needed = pytest.mark.skipif(
    home() is None, reason="the recorded answers are not on this machine; set GPG_VL_RECORDED"
)


@cache
def read(name: str) -> Any:
    """A .json or .jsonl file of the recorded material."""
    folder = home()
    assert folder is not None
    text = (folder / name).read_text()
    return (
        [json.loads(line) for line in text.splitlines() if line.strip()]
        if name.endswith(".jsonl")
        else json.loads(text)
    )


def reference(name: str) -> dict[str, Any]:
    """The figures that a right evaluator gives for a file."""
    return read("REFERENCE.json")[name]


def right(verdicts: Iterable[Verdict]) -> int:
    """How many are fully right."""
    return sum(verdict.parts["accuracy"] == 1.0 for verdict in verdicts)


def sample(kind: str, answer: Any, **fields: Any) -> Sample:
    """A question that only its truth matters of."""
    return Sample(
        **{"id": "recorded", "question": "?", "answer_kind": kind, "answer": answer, **fields}
    )


def verdicts(
    verifier: Callable[[str, Sample], Verdict], answers: Iterable[tuple[str, Sample]]
) -> list[Verdict]:
    """The verdicts on (text, sample) pairs, in order."""
    return [verifier(text, asked) for text, asked in answers]
