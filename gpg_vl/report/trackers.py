"""Send metrics to experiment trackers (TensorBoard, trackio, Weights & Biases...) by accelerate.

Each package is imported only where a config names it. TensorBoard, trackio and DVCLive write local
files; W&B does so with WANDB_MODE=offline.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any

from gpg_vl.errors import UserError

PROJECT = "gpg_vl"
"""Name of the project under which a tracker lists all runs."""
MAX_WAITING = 1000
"""Steps that may wait for a slow tracker; then it is switched off."""
POLL_SECONDS = 0.1
"""Longest time until an idle tracker notices the end of the run."""
FINISH_SECONDS = 30.0
"""Longest wait at the end of a run for what a tracker still has to send."""
_IN_EXTRA = ("tensorboard", "trackio", "wandb")


def check_installed(names: Sequence[str]) -> None:
    """Check that every tracker can be imported, before anything is trained.

    Raises:
        UserError: one cannot; the message contains the command that installs it.
    """
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise UserError(not_installed(name)) from None


def not_installed(name: str) -> str:
    """Return the sentence that says how to install a tracker."""
    package = "'gpg-vl[trackers]'" if name in _IN_EXTRA else name
    return f"trackers: {name} is not installed; pip install {package}, or leave it out"


def open_tracker(
    name: str, run: Path, config: Mapping[str, Any], *, log: Callable[[str], None] = print
) -> "QueuedTracker":
    """Start a tracker and return the callback that sends it the metrics of a step.

    A tracker never stops or delays a run: a thread of its own talks to it. After its first error,
    or if it falls far behind, it is switched off with a warning.

    Args:
        name: a name of the config key `trackers`.
        run: the run folder; its name is the name of the run in the tracker.
        config: the resolved config.
        log: receives the warning.

    Raises:
        UserError: the package is not installed; the message contains the command that installs it.
    """
    check_installed([name])
    tracking: Any = import_module("accelerate.tracking")
    tracking.PartialState()  # accelerate's trackers need it; a training process has it already
    tracker_class = tracking.LOGGER_TYPE_TO_CLASS[name]
    return QueuedTracker(name, lambda: _start(tracker_class, name, run, dict(config)), log)


def _start(tracker_class: Any, name: str, run: Path, config: dict[str, Any]) -> Any:
    """Start accelerate's tracker for a run, and send it the config."""
    tracker = tracker_class(**_arguments(name, run, config))
    tracker.start()
    if name == "comet_ml":
        tracker.tracker.set_name(run.name)
    if name in ("comet_ml", "aim", "mlflow", "clearml", "dvclive"):
        tracker.store_init_configuration(config)
    return tracker


def _arguments(name: str, run: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the constructor arguments of a tracker; accelerate names the project `run_name`."""
    resumable = {"name": run.name, "config": config, "resume": "allow"}
    arguments: dict[str, dict[str, Any]] = {
        # writes into run/tensorboard; config.yaml lies beside that folder
        "tensorboard": {"run_name": "tensorboard", "logging_dir": str(run)},
        "trackio": {"run_name": PROJECT, **resumable},
        "wandb": {"run_name": PROJECT, **resumable, "dir": str(run), "id": run.name},
        "comet_ml": {"run_name": PROJECT},
        # None: the repository of the environment variable AIM or of the working directory
        "aim": {"run_name": run.name, "logging_dir": None, "experiment": PROJECT},
        "mlflow": {"experiment_name": PROJECT, "run_name": run.name},
        "clearml": {"run_name": PROJECT, "task_name": run.name},
        "dvclive": {"dir": str(run / "dvclive")},
        "swanlab": {
            "run_name": PROJECT,
            "experiment_name": run.name,
            "config": config,
            "logdir": str(run / "swanlab"),
        },
    }
    return arguments[name]


class QueuedTracker:
    """Callback that gives metrics to a thread and never waits for it.

    One thread per tracker, because mlflow and trackio keep their current run per thread. A call
    that never returns keeps only this thread, which ends with the program.
    """

    def __init__(self, name: str, start: Callable[[], Any], log: Callable[[str], None]) -> None:
        self._name = name
        self._log = log
        self._steps: Queue[tuple[int, dict[str, float]]] = Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._error = ""
        self._is_on = True
        self._thread = threading.Thread(
            target=self._work, args=(start,), name=f"tracker {name}", daemon=True
        )
        self._thread.start()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue the metrics of a step."""
        self._report_error()
        if not self._is_on:
            return
        try:
            self._steps.put_nowait((step, dict(metrics)))
        except Full:
            self._switch_off(f"it is {MAX_WAITING} steps behind")

    def close(self) -> None:
        """Let the tracker send what it still has, for a limited time."""
        if self._is_on:
            self._closing.set()
            self._thread.join(FINISH_SECONDS)
            if self._thread.is_alive():
                self._switch_off(f"it has not finished within {FINISH_SECONDS:g} seconds")
        self._report_error()

    def _work(self, start: Callable[[], Any]) -> None:
        """Start the tracker and send it each step, until the end or its first error."""
        try:
            tracker = start()
            while not (self._closing.is_set() and self._steps.empty()):
                with suppress(Empty):
                    step, metrics = self._steps.get(timeout=POLL_SECONDS)
                    tracker.log(metrics, step=step)
            tracker.finish()
        # also SystemExit: some trackers exit the program when a login fails
        except BaseException as error:
            self._error = f"{type(error).__name__}: {error}"

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
