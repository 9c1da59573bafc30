"""Send a run to experiment trackers (TensorBoard, trackio, Weights & Biases...) by accelerate.

A tracker gets the figures, tables of sample answers, and at the end the page of the run. No picture
of a question goes to it, by any of these, unless the config says so.

Each package is imported only where a config names it. TensorBoard, trackio and DVCLive write local
files; W&B does so with WANDB_MODE=offline.

There are two axes: the step of the run, for its own figures and for those of held-out questions,
and the step of the warm-up. A resumed run sends the steps after its checkpoint once more.
"""

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from gpg_vl.config.schema import TrackingConfig
from gpg_vl.report.answer_table import answer_table
from gpg_vl.report.tracker_checks import check_installed
from gpg_vl.report.tracker_sends import SEND_PAGE, SEND_TABLE, STEP, WITH_PICTURES

MAX_WAITING = 1000
"""Steps that may wait for a slow tracker; then it is switched off."""
POLL_SECONDS = 0.1
"""Longest time until an idle tracker notices the end of the run."""
FINISH_SECONDS = 30.0
"""Longest wait at the end of a run for what a tracker still has to send."""
WARMUP_STEP = "warmup/step"
"""Axis of the figures of the warm-up."""


def open_tracker(
    name: str,
    run: Path,
    config: Mapping[str, Any],
    *,
    tracking: TrackingConfig | None = None,
    pictures: bool = False,
    log: Callable[[str], None] = print,
) -> "QueuedTracker":
    """Start a tracker and return the callback that sends it the metrics of a step.

    A tracker never stops or delays a run: a thread of its own talks to it. After its first error,
    or if it falls far behind, it is switched off with a warning.

    Args:
        name: a name of the config key `trackers`.
        run: the run folder; its name is the name of the run in the tracker.
        config: what the tracker shows beside the run: the resolved config, and under `environment`
            where it runs and each start of it.
        tracking: project, entity and tags; None = the defaults.
        pictures: whether pictures of questions are sent too.
        log: receives the warning.

    Raises:
        UserError: the package is not installed; the message contains the command that installs it.
    """
    check_installed([name])
    tracking = tracking or TrackingConfig()
    library: Any = import_module("accelerate.tracking")
    library.PartialState()  # accelerate's trackers need it; a training process has it already
    tracker_class = library.LOGGER_TYPE_TO_CLASS[name]
    return QueuedTracker(
        name,
        lambda: _start(tracker_class, name, run, dict(config), tracking),
        log,
        run=run,
        label=_label(run, config),
        pictures=pictures,
    )


def _start(
    tracker_class: Any, name: str, run: Path, config: dict[str, Any], tracking: TrackingConfig
) -> Any:
    """Start accelerate's tracker for a run, and send it the config."""
    tracker = tracker_class(**_arguments(name, run, config, tracking))
    tracker.start()
    if name == "comet_ml":
        tracker.tracker.set_name(_label(run, config))
        if tracking.tags:
            tracker.tracker.add_tags(list(tracking.tags))
    if name == "aim":
        for tag in tracking.tags:
            tracker.tracker.add_tag(tag)
    if name == "wandb":
        for axis in (STEP, WARMUP_STEP):
            tracker.tracker.define_metric(axis)
        tracker.tracker.define_metric("*", step_metric=STEP)
    if name in ("comet_ml", "aim", "mlflow", "clearml", "dvclive"):
        tracker.store_init_configuration(config)
    return tracker


def _arguments(
    name: str, run: Path, config: dict[str, Any], tracking: TrackingConfig
) -> dict[str, Any]:
    """Return the constructor arguments of a tracker; accelerate names the project `run_name`."""
    project = tracking.project
    label = _label(run, config)
    starts: Sequence[Mapping[str, str]] = config.get("environment", {}).get("starts", ())
    named = {"run_name": project, "name": label, "config": config}
    arguments: dict[str, dict[str, Any]] = {
        # writes into run/tensorboard; config.yaml lies beside that folder
        "tensorboard": {"run_name": "tensorboard", "logging_dir": str(run)},
        "trackio": {**named, "resume": "allow" if len(starts) > 1 else "never"},
        "wandb": {**named, "resume": "allow", "dir": str(run), "id": _wandb_id(label, starts)},
        "comet_ml": {"run_name": project},
        # None: the repository of the environment variable AIM or of the working directory
        "aim": {"run_name": label, "logging_dir": None, "experiment": project},
        "mlflow": {"experiment_name": project, "run_name": label},
        # a task that is used again loses what it holds
        "clearml": {"run_name": project, "task_name": label, "reuse_last_task_id": False},
        # a tracker that does not resume deletes what lies there
        "dvclive": {"dir": str(run / "dvclive"), "resume": (run / "dvclive").is_dir()},
        "swanlab": {
            "run_name": project,
            "experiment_name": label,
            "config": config,
            "logdir": str(run / "swanlab"),
        },
    }
    return arguments[name] | _entity_and_tags(name, tracking)


def _label(run: Path, config: Mapping[str, Any]) -> str:
    """Return the name of a run in a tracker: `sweep-lr1` for `name=sweep/lr1`."""
    return str(config.get("name", run.name)).replace("/", "-")


def _wandb_id(label: str, starts: Sequence[Mapping[str, str]]) -> str:
    """Return what W&B knows a run by: another run of the same name does not go on with it.

    Example:
        _wandb_id("digits", [{"time": "2026-11-30T08:22:05.117+00:00"}]) == "digits-20261130082205"
    """
    if not starts:
        return label
    digits = re.sub(r"\D", "", starts[0]["time"])
    return f"{label}-{digits[:14]}"


def _entity_and_tags(name: str, tracking: TrackingConfig) -> dict[str, Any]:
    """Return the arguments for the knobs that are set and that a tracker takes when it starts."""
    arguments: dict[str, Any] = {}
    entity_argument = {"wandb": "entity", "comet_ml": "workspace", "swanlab": "workspace"}
    if tracking.entity and name in entity_argument:
        arguments[entity_argument[name]] = tracking.entity
    if tracking.tags and name in ("wandb", "swanlab", "clearml"):
        arguments["tags"] = list(tracking.tags)
    if tracking.tags and name == "mlflow":
        # its tags are pairs, and their names may not hold every character
        arguments["tags"] = {"tags": ", ".join(tracking.tags)}
    return arguments


class Row(NamedTuple):
    """Figures that wait for a tracker.

    Example:
        Row(12, {"reward": 0.5})
    """

    step: int
    """Step of the run, or of the warm-up."""
    metrics: Mapping[str, float]
    is_warmup: bool = False


class Answers(NamedTuple):
    """Answers of a step that wait for a tracker, as rows of `rollouts/`."""

    step: int
    groups: Sequence[Mapping[str, Any]]


class Page(NamedTuple):
    """The page of the run, which waits for a tracker."""

    path: Path


def _send_row(name: str, tracker: Any, row: Row, warmup_names: set[str]) -> None:
    """Send figures under their step.

    W&B drops a row whose step is below one that it has seen, and has one counter for all figures.
    So it counts by itself, and the step is a figure that the others are drawn over.

    Args:
        warmup_names: figures that W&B draws over the step of the warm-up; new ones are added.
    """
    if name != "wandb":
        tracker.log(dict(row.metrics), step=row.step)
        return
    axis = WARMUP_STEP if row.is_warmup else STEP
    if row.is_warmup:
        for figure in row.metrics.keys() - warmup_names:
            tracker.tracker.define_metric(figure, step_metric=WARMUP_STEP)
            warmup_names.add(figure)
    tracker.log({axis: row.step, **row.metrics})


class QueuedTracker:
    """Callback that gives metrics to a thread and never waits for it.

    One thread per tracker, because mlflow and trackio keep their current run per thread. A call
    that never returns keeps only this thread, which ends with the program.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], Any],
        log: Callable[[str], None],
        *,
        run: Path,
        label: str,
        pictures: bool,
    ) -> None:
        self._name = name
        self._log = log
        self._run = run
        self._label = label
        self._pictures = pictures
        self._waiting: Queue[Row | Answers | Page] = Queue()
        self._room = MAX_WAITING
        self._closing = threading.Event()
        self._error = ""
        self._is_on = True
        self._thread = threading.Thread(
            target=self._work, args=(start,), name=f"tracker {name}", daemon=True
        )
        self._thread.start()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue the metrics of a step, or the figures of held-out questions after it."""
        self._put(Row(step, _numbers(metrics)))

    def warmup(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue the figures of a step of the warm-up, which is done: all its steps come at once."""
        self._report_error()
        if self._is_on:
            self._room += 1
            own = {name: value for name, value in metrics.items() if name != WARMUP_STEP}
            self._waiting.put(Row(step, _numbers(own), is_warmup=True))

    def answers(self, step: int, groups: Sequence[Mapping[str, Any]]) -> None:
        """Queue answers of a step, if the tracker shows tables.

        Args:
            groups: rows of `rollouts/`; they hold no pictures, only where pictures are.
        """
        if self._name in SEND_TABLE:
            self._put(Answers(step, groups))

    def page(self, path: Path) -> None:
        """Queue the page of the run, if the tracker takes files."""
        if self._name in SEND_PAGE:
            self._put(Page(path))

    def close(self) -> None:
        """Let the tracker send what it still has, for a limited time."""
        if self._is_on:
            self._closing.set()
            self._thread.join(FINISH_SECONDS)
            if self._thread.is_alive():
                self._switch_off(f"it has not finished within {FINISH_SECONDS:g} seconds")
        self._report_error()

    def _put(self, one: Row | Answers | Page) -> None:
        """Queue something, unless the tracker is too far behind."""
        self._report_error()
        if not self._is_on:
            return
        if self._waiting.qsize() >= self._room:
            self._switch_off(f"it is {MAX_WAITING} steps behind")
        else:
            self._waiting.put(one)

    def _work(self, start: Callable[[], Any]) -> None:
        """Start the tracker and send it what comes, until the end or its first error."""
        try:
            tracker = start()
            warmup_names: set[str] = set()
            with ExitStack() as until_finished:
                while not (self._closing.is_set() and self._waiting.empty()):
                    with suppress(Empty):
                        one = self._waiting.get(timeout=POLL_SECONDS)
                        self._send(tracker, one, warmup_names, until_finished)
                tracker.finish()
        # also SystemExit: some trackers exit the program when a login fails
        except BaseException as error:
            self._error = f"{type(error).__name__}: {error}"

    def _send(
        self,
        tracker: Any,
        one: Row | Answers | Page,
        warmup_names: set[str],
        until_finished: ExitStack,
    ) -> None:
        """Send what has waited; the only place where a picture can reach a tracker.

        Args:
            until_finished: keeps a file that the tracker may read until its end.
        """
        if isinstance(one, Row):
            _send_row(self._name, tracker, one, warmup_names)
        elif isinstance(one, Answers):
            shows_pictures = self._pictures and self._name in WITH_PICTURES
            pictures_of = self._run if shows_pictures else None
            table = answer_table(one.step, one.groups, pictures_of=pictures_of)
            SEND_TABLE[self._name](tracker, table)
        else:
            page = one.path
            if not self._pictures:
                page = until_finished.enter_context(_without_pictures(self._run, page))
            SEND_PAGE[self._name](tracker, page, self._label)

    def _report_error(self) -> None:
        if self._error and self._is_on:
            self._switch_off(self._error)

    def _switch_off(self, reason: str) -> None:
        """Stop sending, and warn once."""
        self._is_on = False
        self._closing.set()
        self._log(
            f"warning: tracker {self._name} is switched off, the run is not affected: {reason}"
        )


@contextmanager
def _without_pictures(run: Path, page: Path) -> Iterator[Path]:
    """Write a page of a run that holds no picture, and delete it afterwards."""
    # only a run that sends its page needs what pages are made of
    from gpg_vl.report.page.write import write_page

    with TemporaryDirectory(prefix="gpg-vl-") as folder:
        yield write_page([run], Path(folder) / page.name, pictures=False)


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number: no time stamp, and no NaN, which some trackers refuse."""
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, int | float) and math.isfinite(value):
            numbers[name] = value
    return numbers
