"""Write the logs of a run."""

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from gpg_vl.config.paths import write_whole
from gpg_vl.run_folder.journal import TrueBoxes, group_row, no_boxes
from gpg_vl.run_folder.json_lines import (
    append_row,
    json_text,
    keep_rows,
    now,
    read_rows,
    rewind_rows,
)
from gpg_vl.run_folder.kept_pictures import Choice, KeptPictures
from gpg_vl.run_folder.left_out import LEFT_OUT, append_left_out, left_out_lines, left_out_rows
from gpg_vl.run_folder.metric_rows import METRICS, row_kind
from gpg_vl.types import Group, LeftOut

Callback = Callable[[int, Mapping[str, float]], None]
"""Called with the number and the metrics of each step, for instance a display."""


class Tracker(Protocol):
    """A callback that has to be closed at the end of a run, and gets the other rows too.

    Figures of held-out questions come with the step that they belong to. A tracker that has a
    method `warmup(step, numbers)` also gets the losses of the warm-up, with its own steps; one that
    has `answers(step, groups)` gets sample answers, as rows of `rollouts/`, and one that has
    `page(path)` the page of the run at its end.
    """

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of a step, or the figures of an evaluation after it."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


SHOWN_GROUPS = 8
"""Groups of a step whose answers a tracker gets."""


class RunFolder:
    """Writes the logs of a run."""

    def __init__(
        self,
        path: Path,
        callbacks: Sequence[Callback] = (),
        rank: int = 0,
        trackers: Sequence[Tracker] = (),
        *,
        answers_every: int = 50,
        pictures: Choice = "sample",
        pictures_mb: float = 1000,
        true_boxes: TrueBoxes = no_boxes,
        all_gather: Callable[[Any], list[Any]] = lambda own: [own],
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Prepare to write; nothing is written yet.

        Args:
            callbacks: called after each training step.
            answers_every: steps after which the trackers get sample answers; 0 = at the end only.
            pictures: groups whose pictures are kept.
            pictures_mb: largest size of all kept pictures, in MB.
            true_boxes: returns the true boxes of a sample in pixels, to write them beside the
                answers.
            all_gather: returns one small value per process, in rank order.
            log: called with a line for the user.
        """
        self.path = path
        self.callbacks = callbacks
        self.rank = rank
        self.trackers = trackers
        self._answers_every = answers_every
        self._unsent: tuple[int, list[dict[str, Any]]] | None = None  # answers of the last step
        self._true_boxes = true_boxes
        self._pictures = KeptPictures(
            path, choice=pictures, max_mb=pictures_mb, rank=rank, all_gather=all_gather, log=log
        )
        self._lost = set[tuple[str, str]]()  # source and id; only the main process knows them

    @property
    def left_out_path(self) -> Path:
        """File that lists the rows which the run does not use."""
        return self.path / LEFT_OUT

    @property
    def num_lost_rows(self) -> int:
        """Number of different rows that could not become prompts when they were drawn."""
        return len(self._lost)

    def unused_rows(self, rows: Sequence[LeftOut], *, is_resumed: bool = False) -> None:
        """Begin the list of what is left out, with the rows that reading left out (step 0).

        Args:
            is_resumed: the rows that were lost in earlier steps stay in the list, each row once.
        """
        if self.rank:
            return
        earlier = left_out_rows(self.path) if is_resumed else []
        listed = {(row.source, row.id) for row in rows}
        lines = left_out_lines(0, rows)
        for step, row in earlier:
            if step and (row.source, row.id) not in listed:
                lines += left_out_lines(step, [row])
        if lines:  # whole: a run that is killed here has lost no row
            write_whole(self.left_out_path, "".join(lines), errors="replace")
        else:
            self.left_out_path.unlink(missing_ok=True)

    def lost_rows(self, step: int, rows: Iterable[LeftOut]) -> list[LeftOut]:
        """List rows that could not become prompts in a step, each row of the data once.

        Returns:
            The rows that were not listed before; only the main process knows them.
        """
        new: list[LeftOut] = []
        if self.rank:
            return new
        for row in rows:
            if (row.source, row.id) not in self._lost:
                self._lost.add((row.source, row.id))
                new.append(row)
        append_left_out(self.left_out_path, step, new)
        return new

    def begin(self, warmup: Sequence[Mapping[str, Any]] = ()) -> None:
        """Begin the logs of a new run with the losses of its warm-up.

        What a run wrote that was killed before it saved anything is dropped.

        Args:
            warmup: a row of each step, with its time and `warmup/step`.
        """
        if self.rank:
            return
        self._pictures.begin()
        lines = [json_text({"step": 0, **row}) + "\n" for row in warmup]
        (self.path / METRICS).write_text("".join(lines))
        for take in self._takers("warmup"):
            for row in warmup:
                take(int(row["warmup/step"]), {key: row[key] for key in row if key != "time"})

    def metrics(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append the row of a training step and call the callbacks; only the main process does."""
        if self.rank:
            return
        append_row(self.path / METRICS, {"step": step, "time": now(), **numbers})
        for callback in (*self.callbacks, *self.trackers):
            callback(step, numbers)

    def held_out(self, step: int, figures: Mapping[str, float]) -> None:
        """Append the row of an evaluation on held-out questions; only the main process does.

        A step has one: an evaluation that is made again, because the run was left before it was
        saved, takes the place of the first.
        """
        if self.rank:
            return
        path = self.path / METRICS
        if any(row["step"] == step and row_kind(row) == "held_out" for row in read_rows(path)):
            keep_rows(path, lambda row: row["step"] != step or row_kind(row) != "held_out")
        append_row(path, {"step": step, "time": now(), **figures})
        for tracker in self.trackers:
            tracker(step, figures)

    def close(self) -> None:
        """Let the trackers send what they still have, and answers of the last step."""
        self._send_answers()
        for tracker in self.trackers:
            tracker.close()

    def send_page(self, page: Path) -> None:
        """Give the trackers the page of the run; once, before they are closed."""
        for take in self._takers("page"):
            take(page)

    def rollouts(
        self,
        step: int,
        used: Iterable[Group],
        fresh: Iterable[Group],
        weights: Sequence[Sequence[float]] = (),
    ) -> None:
        """Write what a step sampled and which groups it used, and keep pictures of them.

        Args:
            weights: [B, G] of the answers of the used groups, in their order.
        """
        used = list(used)
        weights_of = _weights_of(used, weights)
        groups = {group.prompt_index: group for group in [*used, *fresh]}
        self._pictures.keep(step, list(groups.values()))
        lines: list[str] = []
        rows: list[dict[str, Any]] = []
        for group in groups.values():
            row = self._row(group, weights_of.get(group.prompt_index))
            rows.append(row)
            lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        path = self._file("rollouts", step, ".jsonl.gz")
        # No time and no file name inside, so that equal steps give equal bytes.
        with (
            path.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file,
        ):
            # the name of a picture need not be UTF-8
            file.write("".join(lines).encode("utf-8", "backslashreplace"))
        if self.trackers:
            rows.sort(key=lambda row: row["draw"])
            self._unsent = step, rows[:SHOWN_GROUPS]
            if self._answers_every and step % self._answers_every == 0:
                self._send_answers()

    def dump(
        self,
        step: int,
        reason: str,
        groups: Iterable[Group],
        weights: Sequence[Sequence[float]],
    ) -> Path:
        """Keep the batch of a step that went wrong, for inspection.

        Args:
            weights: [B, G] of the answers, in the order of the groups.
        """
        groups = list(groups)
        weights_of = _weights_of(groups, weights)
        path = self._file("bad_steps", step, ".json")
        rows = [self._row(group, weights_of[group.prompt_index]) for group in groups]
        path.write_text(json_text({"step": step, "reason": reason, "groups": rows}))
        return path

    def rewind(self, step: int) -> None:
        """Delete what was written after a checkpoint's step.

        Every process calls it; only the main one deletes.
        """
        self._pictures.rewind(step)
        if self.rank:
            return
        for path in (self.path / "rollouts").glob("*.jsonl.gz"):
            if int(path.name.split(".")[0]) > step:
                path.unlink()
        rewind_rows(self.path / METRICS, step)
        self._lost.clear()
        for row in rewind_rows(self.left_out_path, step):
            if row["step"]:
                self._lost.add((row["source"], row["id"]))

    def _send_answers(self) -> None:
        """Give the trackers the answers of the last step, once."""
        if self._unsent is not None:
            step, groups = self._unsent
            self._unsent = None
            for take in self._takers("answers"):
                take(step, groups)

    def _takers(self, name: str) -> list[Callable[..., None]]:
        """Return a method of every tracker that has it."""
        methods = [getattr(tracker, name, None) for tracker in self.trackers]
        return [method for method in methods if method is not None]

    def _row(self, group: Group, weights: Sequence[float] | None) -> dict[str, Any]:
        """Return the row of a group; it is used if its answers have weights."""
        return group_row(
            group,
            used=weights is not None,
            weights=weights,
            reference=self._pictures.reference,
            true_boxes=self._true_boxes,
        )

    def _file(self, folder: str, step: int, suffix: str) -> Path:
        """Return this process's own file of a step, in a folder that exists."""
        own = f".rank{self.rank}" if self.rank else ""
        path = self.path / folder / f"{step:06d}{own}{suffix}"
        path.parent.mkdir(exist_ok=True)
        return path


def _weights_of(
    groups: Sequence[Group], weights: Sequence[Sequence[float]]
) -> dict[int, Sequence[float]]:
    """Return the weights of the answers of each group by its prompt index."""
    of_groups: dict[int, Sequence[float]] = {}
    for group, of_answers in zip(groups, weights, strict=True):
        of_groups[group.prompt_index] = of_answers
    return of_groups
