"""A published data set as rows of our own on disk: read by its recipe, checked by its verifiers, with a list of what is left out."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpg_vl.boxes import Frame
from gpg_vl.config import resources
from gpg_vl.config.loading import load, override
from gpg_vl.config.schema import RewardConfig, Source
from gpg_vl.data import rows as sample_rows
from gpg_vl.data.dataset import validated
from gpg_vl.errors import UserError
from gpg_vl.experiment import build_style, build_verifiers
from gpg_vl.prompts import Style
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet

SHOWN = 5
"""Rows that are left out and shown; the file has them all."""


def prepare(
    recipe: str, options: Sequence[str], *, source: Path | None, to: Path | None, head: int | None, config: str | None = None
) -> Iterator[str]:
    """Read, check and write, row by row; lines that tell it.

    Args:
        options: OPTION=VALUE of the recipe.
        source: the folder of the published files; None = where the recipe looks, or the hub.
        to: a folder that does not hold rows yet; None = only tell.
        config: an experiment by name or file whose prompt and verifiers check the rows; None = the shipped ones.

    Raises:
        UserError: files are missing or broken, no row is usable, or there are rows in `to` already.
    """
    if to and (to / "samples.jsonl").exists():
        raise UserError(f"--to {to}: holds rows already; choose another folder")
    if to and (file := next((path for path in (to, *to.parents) if path.is_file()), None)):
        raise UserError(f"--to {to}: {file} is a file, expected a folder")
    given: dict[str, Any] = override(Source, {}, options)
    asked = Source(recipe=recipe, options={**given, **({"folder": str(source)} if source else {})}, head=head)
    left_out: list[LeftOut] = []
    rows = validated(asked, _checks(config), folder=Path(), key=recipe, told=left_out.append)
    kinds: Counter[str] = Counter()
    examples: list[str] = []
    used = _counted(rows, kinds, examples)
    count = sample_rows.write(used, to) if to else sum(1 for _ in used)
    told = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    yield f"{recipe}: {count} rows earn full marks with their own answer ({told})"
    yield f"example: {examples[0]}"
    yield f"left out: {len(left_out)} rows"
    yield from (f"  {left.id}: {left.why}" for left in left_out[:SHOWN])
    if to:
        lines = (json.dumps({"id": left.id, "why": left.why}, ensure_ascii=False) + "\n" for left in left_out)
        (to / "left_out.jsonl").write_text("".join(lines))
        yield f"written: {to / 'samples.jsonl'} (a config reads it with data: [{{files: {to / 'samples.jsonl'}}}])"


def _counted(rows: Iterator[Sample], kinds: Counter[str], examples: list[str]) -> Iterator[Sample]:
    """The rows as they pass: counted by kind, the first of them shown."""
    for sample in rows:
        kinds[f"{sample.answer_kind}{' with picture' if sample.images else ''}"] += 1
        if not examples:
            examples.append(f"{sample.question!r} -> {sample.answer!r}")
        yield sample


def _checks(config: str | None) -> VerifierSet:
    frame = Frame(kind="norm1000")
    if config is None:
        return build_verifiers({}, Style(), frame, RewardConfig(), Path())
    given, folder = load(config), resources.find("configs", config).parent
    return build_verifiers(given.verifiers, build_style(given.prompt, folder), frame, given.reward, folder)
