"""Write the first config of a user's own rows and model, and a benchmark of rows held out from it.

What the rows and the model tell is settled, with the reason above each line of YAML; what only a
person can know is listed. The files are written before anything is reported.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.config.loading import load
from gpg_vl.config.paths import check_new_file
from gpg_vl.config.schema import Source
from gpg_vl.data.sources import is_test_row, name_of, num_rows
from gpg_vl.errors import UserError, one_line
from gpg_vl.experiment import Experiment
from gpg_vl.preflight.finding import Finding
from gpg_vl.preflight.propose_config import (
    TRIED_ROWS,
    WIDTH,
    Proposal,
    Trial,
    as_yaml,
    source_in,
    wrapped,
)
from gpg_vl.preflight.starting_settings import Model, Settings, choose
from gpg_vl.report.left_out import WHY_CHARACTERS
from gpg_vl.types import Sample

MIN_ROWS = 20
"""Usable rows below which none are held out."""
HELD_OUT = 256
"""Questions that are held out at most, unless the user says how many."""
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of a small set that are tried until enough of its rows are held out."""
_TRAIN = re.compile(r"(?<![a-z])train(?![a-z])")
_OTHER_SPLITS = ("test", "validation", "val", "dev")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows to train on, and others to measure on."""

    train: Source
    test: Source | None
    """None = no rows are held out."""
    why: str
    """Sentence on the two."""


@dataclass(frozen=True, slots=True)
class Written:
    """Files that were written, and what to say about them."""

    lines: tuple[str, ...]
    has_problem: bool
    """True if the audit of the first rows finds a reason why the run cannot learn."""


def write_first_config(
    proposal: Proposal, *, model: str, to: Path, held_out: int | None = None
) -> Written:
    """Write a config and, where the rows allow it, a benchmark of other rows beside it.

    Args:
        model: tiny, a run folder, a folder of a model, or a hub id.
        to: a new .yaml file.
        held_out: number of questions to hold out; 0 = none; None = by the number of rows.

    Raises:
        UserError: a file exists, the model cannot be trained, or no row can be used.
    """
    check_new(to)
    benchmark = _benchmark_beside(to)
    used = proposal.trial.samples
    if not used:
        raise UserError(_why_none(proposal))
    settings = choose(used, Model.of(model))
    held = hold_out(proposal, held_out)
    files = {to: config_text(proposal, settings, held, to)}
    if held.test is not None:
        files[benchmark] = benchmark_text(proposal, settings, held.test, benchmark)
    for path, text in files.items():
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    try:
        findings = [each for each in _audited(to) if not _is_told(each, proposal.trial)]
    except BaseException:  # Ctrl-C too: the next try shall not find the files of this one
        for path in files:
            path.unlink()
        raise
    return Written(
        lines=tuple(_report(proposal, settings, held, list(files), findings)),
        has_problem=any(finding.level == "stop" for finding in findings),
    )


def _why_none(proposal: Proposal) -> str:
    """Return why no row can be used, and what a person has to decide."""
    first = proposal.trial.left_out[0]
    count, questions = proposal.trial.count, proposal.recognised.questions
    decide = [f"to decide: {question}" for question in questions]
    return "; ".join(
        [
            f"none of the first {count} rows of {proposal.names} can be used",
            f"{one_line(first.id)}: {first.why}",
            *(decide or [f"gpg-vl data {shlex.quote(proposal.names)} tells more"]),
        ]
    )


def check_new(to: Path) -> None:
    """Check, before rows are read, that a config and its benchmark can be written.

    Raises:
        UserError: a file exists, its folder does not or is read-only, or the name has another
            ending.
    """
    paths = (to, _benchmark_beside(to))
    for path in paths:
        if path.suffix not in (".yaml", ".yml"):
            raise UserError(f"--to {path}: expected a name that ends in .yaml")
    existing = [str(path) for path in paths if path.exists()]
    if existing:
        verb = "exists" if len(existing) == 1 else "exist"
        raise UserError(f"--to {' and '.join(existing)}: {verb} already; choose another name")
    for path in paths:
        check_new_file(path, "--to")


def _benchmark_beside(to: Path) -> Path:
    return to.with_name(f"{to.stem}_held_out.yaml")


def _audited(config: Path) -> list[Finding]:
    """Return what the audit finds in the first rows, apart from what is fine."""
    from gpg_vl.preflight.audit import audit

    experiment = Experiment.resolve(load(str(config)))
    return [each for each in audit(experiment, head=TRIED_ROWS) if each.level != "fine"]


def _is_told(finding: Finding, trial: Trial) -> bool:
    """Return True if a finding says only why rows are left out, which the trial has said."""
    whys = tuple(f": {one_line(row.why, WHY_CHARACTERS)}" for row in trial.left_out)
    return finding.level == "mind" and "left out: " in finding.text and finding.text.endswith(whys)


# --- rows that are held out -----------------------------------------------------------------------


def hold_out(proposal: Proposal, count: int | None) -> HeldOut:
    """Choose rows to measure on: another split of the same set, else a part of the rows.

    Args:
        count: number of questions; 0 = none; None = by the number of rows.
    """
    source = proposal.recognised.source
    if count == 0:
        return HeldOut(source, None, "none, as asked")
    other = _other_split(source, proposal)
    if other is not None:
        other = other.model_copy(update={"head": count or HELD_OUT})
        which = name_of(other) if other.files else f"split {other.split}"
        return HeldOut(source, other, f"the first {other.head} rows of {which}")
    if source.part != "all":
        return HeldOut(source, None, "none: part is set already")
    rows = _row_count(source, proposal.trial)
    if count is None and rows < MIN_ROWS:
        why = f"none: of {rows} rows none can be spared; get more, or give --held-out N"
        return HeldOut(source, None, why)
    share = _share(proposal.trial.samples, rows, count or min(HELD_OUT, max(4, rows // 5)))
    if share is None:
        why = "none: nearly all rows are about one picture; name a file of others as a benchmark"
        return HeldOut(source, None, why)
    parts = {"train": source, "test": source}
    for part, of_part in parts.items():
        parts[part] = of_part.model_copy(update={"part": part, "test_share": share})
    held = sum(is_test_row(sample, share) for sample in proposal.trial.samples)
    number = f"{held}" if rows == proposal.trial.count else f"about {share * rows:,.0f}"
    why = f"{number} of {rows:,} rows, chosen by the names of their pictures"
    return HeldOut(parts["train"], parts["test"], why)


def _share(samples: Sequence[Sample], rows: int, count: int) -> float | None:
    """Return the share of the rows to hold out; None = they cannot be divided."""
    wanted = min(0.5, count / max(1, rows))
    shares = [float(f"{wanted:.2g}"), *(share for share in SHARES if share > wanted)]
    for share in shares:
        held = sum(is_test_row(sample, share) for sample in samples)
        if min(2, len(samples) // 2) <= held < len(samples):
            return share
    return None


def _row_count(source: Source, trial: Trial) -> int:
    """Return about how many rows there are, at least as many as were tried."""
    if trial.count < TRIED_ROWS:
        return trial.count
    counted = num_rows(source, Path())
    return max(trial.count, counted or 0)


def _other_split(source: Source, proposal: Proposal) -> Source | None:
    """Return the source of another split that can be read in the same way; None = there is none."""
    for source_of_split in _splits_beside(source):
        try:
            trial = Trial.of(source_of_split, TRIED_ROWS, proposal.verifiers)
        except UserError:  # no such split, or other columns
            continue
        if trial.samples:
            return source_of_split
    return None


def _splits_beside(source: Source) -> Iterator[Source]:
    for split in _OTHER_SPLITS:
        if source.hub is not None and source.split == "train":
            yield source.model_copy(update={"split": split})
        if isinstance(source.files, str):
            folder, slash, name = source.files.rpartition("/")
            if _TRAIN.search(name):
                files = folder + slash + _TRAIN.sub(split, name)
                yield source.model_copy(update={"files": files})


# --- texts ----------------------------------------------------------------------------------------


def config_text(proposal: Proposal, settings: Settings, held: HeldOut, to: Path) -> str:
    """Return the config as YAML, each line below the sentence about it.

    Args:
        to: file that it is for; paths in it are relative to its folder.
    """
    trial, recognised = proposal.trial, proposal.recognised
    rows = one_line(name_of(held.train), 60)
    model = next(part.value["model"] for part in settings.parts if part.key == "policy")
    who = "A tiny model" if model == "tiny" else one_line(Path(model).name, 60)
    lines = [f"# {who} answers {rows}: {trial.kinds}."]
    used = f"{len(trial.samples)} of the first {trial.count} rows earn the full reward"
    lines += _comment(f"{recognised.layout}; {used}.")
    for question in (*recognised.questions, *settings.problems):
        lines += _comment(f"To decide: {question}.")
    lines += [f"name: {_yaml_scalar(to.stem)}"]
    lines += _comment("Steps of training. A hundred show whether it learns; then take more.")
    lines += ["steps: 100"]
    lines += _comment(
        "The rows, and which columns are the question, the true answer and the picture. Held out: "
        f"{held.why}."
    )
    lines += [as_yaml({"data": [source_in(held.train, to.parent)]}).rstrip()]
    for part in settings.parts:
        lines += _comment(f"{part.why.removesuffix('.')}.")
        lines += [f"{part.key}: {_flow(part.value)}"]
    if held.test is None:
        lines += _comment(
            "Without questions to measure on it stays unknown whether it learns: evaluation: "
            "{benchmark: NAME.yaml}."
        )
    else:
        lines += _comment("Asked before the first step, after the last, and every 25 steps.")
        values = {"benchmark": f"{to.stem}_held_out.yaml", "every": 25, "head": 64}
        lines += [f"evaluation: {_flow(values)}"]
    return "\n".join(lines) + "\n"


def benchmark_text(proposal: Proposal, settings: Settings, test: Source, to: Path) -> str:
    """Return the benchmark of the rows that are held out, as YAML."""
    rows = one_line(name_of(test), 60)
    lines = [f"# Questions of {rows} that training never sees."]
    lines += _comment(f"gpg-vl evaluate {to.name} --model MODEL asks them of any model.")
    lines += [f"name: {_yaml_scalar(to.stem)}"]
    lines += [as_yaml({"data": [source_in(test, to.parent)]}).rstrip()]
    if any(sample.answer_kind == "boxes" for sample in proposal.trial.samples):
        lines += _comment("A box is right where it overlaps the true one by half (IoU 0.5).")
        lines += ["verifiers: {boxes: {kind: boxes, threshold: 0.5}}"]
    lines += _comment("Answers that are sampled to each question, beside the greedy one.")
    lines += ["samples: 4", f"max_tokens: {settings.max_tokens}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.strip().removesuffix("...").strip()


def _yaml_scalar(text: str) -> str:
    return _flow(text)


def _report(
    proposal: Proposal,
    settings: Settings,
    held: HeldOut,
    written: Sequence[Path],
    findings: Sequence[Finding],
) -> Iterator[str]:
    """Yield what was decided and why, what a person has to decide, and the next commands."""
    yield from proposal.report()
    for problem in settings.problems:
        yield from wrapped("to decide:  ", problem)
    for part in settings.parts:
        if part.key != "verifiers":
            yield from wrapped(f"{part.key + ':':12}", part.why)
    yield from wrapped("held out:   ", held.why)
    for finding in findings:
        label = "problem:" if finding.level == "stop" else "mind:"
        yield from wrapped(f"{label:12}", finding.text)
    yield ""
    for path in written:
        yield f"written:    {shlex.quote(str(path.resolve()))}"
    config = shlex.quote(str(written[0].resolve()))
    if any(finding.level == "stop" for finding in findings):
        yield f"next:       mend what is a problem above, then: gpg-vl audit {config}"
        return
    yield f"next:       gpg-vl audit {config}"
    yield f"            gpg-vl plan {config}"
    yield f"            gpg-vl train {config}"
