"""Read what a page shows of a run from its folder.

A run may be running, crashed, old, or copied from another machine: a file that is not there is
nothing to show, and a file that cannot be read is named on the page. Nothing is written.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gpg_vl.errors import UserError, one_line
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.report.page.contents import (
    Evaluation,
    GroupRow,
    Row,
    RunContents,
    State,
    evenly,
    time_of,
)
from gpg_vl.report.page.texts import plain
from gpg_vl.run_folder import complete_checkpoints
from gpg_vl.run_folder.left_out import LEFT_OUT
from gpg_vl.run_folder.metric_rows import METRICS, row_kind

MAX_GROUPS = 2000
"""Groups whose answers are read: rules judge them, and a page shows them or a part of them."""
MAX_STEPS = 250
"""Steps of which a page shows answers; of a longer run they are chosen at equal distances."""
SILENT_MINUTES = 10.0
"""A run that has written nothing for so long, and for twenty steps, is not running any more."""

Read = TypeVar("Read")


def read_run(
    path: Path,
    *,
    max_groups: int = MAX_GROUPS,
    has_ended: bool = False,
    now: datetime | None = None,
) -> RunContents:
    """Read a run folder.

    Args:
        max_groups: largest number of groups whose answers are returned.
        has_ended: True if it is known that the run does not go on.
        now: the present time, by which a running run is told from one that crashed.

    Raises:
        UserError: it is not the folder of a run.
    """
    problems: list[str] = []
    rows = _json_lines(path / METRICS, problems)
    config = _read(path / "config.yaml", _yaml_mapping, problems) or {}
    environment = _read(path / "environment.json", _json_mapping, problems) or {}
    if not rows and not config:
        raise UserError(
            f"{path}: not the folder of a run: it has neither metrics.jsonl nor config.yaml; name "
            "a folder that `gpg-vl train` wrote, for instance runs/digits"
        )
    kinds: dict[str, list[Row]] = {"step": [], "held_out": [], "warmup": []}
    for row in rows:
        if isinstance(row.get("step"), int):
            kinds[row_kind(row)].append(row)
    total = config.get("steps")
    total_steps = total if isinstance(total, int) else 0
    files = _rollout_files(path)
    chosen = evenly(sorted(files), MAX_STEPS)
    # where the pictures of informative groups are kept, a picture says something of the rewards
    kept = (config.get("run_folder") or {}).get("pictures")
    groups, count = _groups(
        files, chosen, max_groups, problems, pictured_first=kept != "informative"
    )
    state = _state(rows, kinds["step"], total_steps, now or datetime.now(UTC))
    return RunContents(
        path=path,
        name=plain(str(config.get("name", path.resolve().name))),
        state="stopped" if has_ended and state == "running" else state,
        total_steps=total_steps,
        config=config,
        environment=environment,
        steps=kinds["step"],
        held_out=kinds["held_out"],
        warmup=kinds["warmup"],
        groups=groups,
        group_count=count,
        sampled_steps=len(files),
        read_steps=len(chosen),
        evaluations=read_evaluations(path, kinds["step"], problems),
        left_out=_json_lines(path / LEFT_OUT, problems),
        checkpoints=[int(folder.name) for folder in complete_checkpoints(path)],
        problems=problems,
    )


def read_evaluations(path: Path, steps: Sequence[Row], problems: list[str]) -> list[Evaluation]:
    """Return the evaluations of a run: before, those at steps, after, and controls.

    Args:
        steps: rows of the training steps; the last one is where `after` belongs.
        problems: gets a sentence for each file that cannot be read.
    """
    last = int(steps[-1]["step"]) if steps else 0
    found: list[Evaluation] = []
    folder = path / "evaluation"
    for file in records.files_in(folder) if folder.is_dir() else ():
        loaded = _read(file, records.load, problems)
        if not loaded:
            continue
        stem, _, when = file.stem.rpartition("-")
        settings = loaded[0].settings
        blank = bool(settings.get("blank"))
        step = int(when) if when.isdigit() else (0 if when == "before" else _step_of(loaded, last))
        known = when.isdigit() or when in ("before", "after", "blank")
        benchmark = str(settings.get("benchmark") or (stem if known else file.stem))
        moment = "blank" if blank else when if known else file.stem
        found.append(
            Evaluation(
                benchmark=benchmark, when=moment, step=step, blank=blank, records=tuple(loaded)
            )
        )
    return sorted(found, key=lambda one: (one.benchmark, one.blank, one.step))


def _step_of(some: Sequence[Record], last: int) -> int:
    """Return the step that an evaluation at the end was made at: a run may have gone on since.

    Args:
        last: the newest step, where the records do not say it.
    """
    named = re.search(r", step (\d+)$", str(some[0].about.get("model", "")))
    return int(named[1]) if named else last


def _state(rows: Sequence[Row], steps: Sequence[Row], total: int, now: datetime) -> State:
    """Return whether a run is done, runs, or was left."""
    if steps and total and steps[-1]["step"] >= total:
        return "finished"
    times = [time for time in map(time_of, rows[-1:]) if time]
    if not times:
        return "stopped"
    seconds = [row.get("seconds") or 0.0 for row in steps[-10:]]
    allowed = timedelta(minutes=SILENT_MINUTES)
    if seconds:
        allowed = max(allowed, timedelta(seconds=20 * max(seconds)))
    return "running" if now - times[-1] < allowed else "stopped"


def _rollout_files(path: Path) -> dict[int, list[Path]]:
    """Return the files of each step's answers, one per process."""
    files: dict[int, list[Path]] = {}
    for file in sorted((path / "rollouts").glob("*.jsonl.gz")):
        number = file.name.split(".")[0]
        if number.isdigit():
            files.setdefault(int(number), []).append(file)
    return files


def _groups(
    files: Mapping[int, Sequence[Path]],
    steps: Sequence[int],
    most: int,
    problems: list[str],
    *,
    pictured_first: bool,
) -> tuple[list[GroupRow], int]:
    """Return groups of the chosen steps, and how many there are in all files that were read.

    Of each step equally many, in the order of the prompts. Rewards play no part in the choice, so
    that shares of what is shown are those of the run.

    Args:
        pictured_first: those with a kept picture come first.
    """
    steps = evenly(steps, most)
    share = max(1, most // max(1, len(steps)))
    chosen: list[GroupRow] = []
    count = 0
    for step in steps:
        rows: list[Row] = []
        for file in files[step]:
            # the files of the last step may be half written
            rows += _read(file, _rows_of_answers, problems if step != max(files) else []) or []
        count += len(rows)
        rows.sort(key=lambda row: (pictured_first and not _has_picture(row), row.get("draw", 0)))
        kept = sorted(rows[:share], key=lambda row: row.get("draw", 0))
        chosen += [GroupRow(step=step, row=_without_tokens(row)) for row in kept]
    return chosen, count


def _without_tokens(row: Row) -> Row:
    """Return a group without the ids and log-probabilities of its tokens, which take most room."""
    answers: list[Row] = []
    for answer in row.get("answers") or ():
        short = {name: answer[name] for name in answer if name not in ("token_ids", "logprobs")}
        answers.append({**short, "tokens": len(answer.get("token_ids") or ())})
    return {**row, "answers": answers}


def _has_picture(row: Row) -> bool:
    return any(image.get("file") for image in row.get("images") or ())


def _rows_of_answers(file: Path) -> list[Row]:
    """Read a file of `rollouts/`."""
    text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
    run = file.parent.parent
    rows: list[Row] = []
    for row in _parsed(text):
        images = [_picture(run, image) for image in row.get("images") or ()]
        rows.append({**row, "images": images})
    return rows


def _picture(run: Path, image: Row | str) -> Row:
    """Return how to find a picture; of runs of the first release it is a name or a path."""
    if not isinstance(image, str):
        return image
    if (run / "images" / image).is_file():
        return {"file": f"images/{image}"}
    return {"file": None, "original": image} if "/" in image else {"file": None}


def _parsed(text: str) -> Iterator[Row]:
    """Yield the JSON objects of lines. A last line that is cut off is none."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            if number == len(lines) - 1:  # it was being written
                return
            raise ValueError(f"line {number + 1} is not JSON") from None
        if isinstance(row, dict):
            yield row


def _json_lines(file: Path, problems: list[str]) -> list[Row]:
    return _read(file, lambda path: list(_parsed(_text(path))), problems) or []


def _text(file: Path) -> str:
    return file.read_text("utf-8", "replace")


def _json_mapping(file: Path) -> Mapping[str, Any]:
    value = json.loads(_text(file))
    return value if isinstance(value, dict) else {}


def _yaml_mapping(file: Path) -> Mapping[str, Any]:
    value = yaml.safe_load(_text(file))
    return value if isinstance(value, dict) else {}


def _read(file: Path, read: Callable[[Path], Read], problems: list[str]) -> Read | None:
    """Read a file; None if it is not there, or if it cannot be read.

    Args:
        problems: gets a sentence on a file that cannot be read.
    """
    if not file.exists():
        return None
    try:
        return read(file)
    except (OSError, EOFError, ValueError, yaml.YAMLError, UserError) as error:
        problems.append(f"{file.parent.name}/{file.name} cannot be read: {one_line(error)}")
        return None
