"""Experiment trackers: what their packages receive, and that a broken one costs a run nothing."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from gpg_vl.config.schema import TrackerName, TrackingConfig
from gpg_vl.report import trackers
from gpg_vl.run_folder import RunFolder
from tests.tracker_packages import Package, wandb_records


def test_the_config_takes_what_accelerate_offers():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(get_args(TrackerName)) == set(LOGGER_TYPE_TO_CLASS)
    assert get_args(TrackerName)[:3] == ("tensorboard", "trackio", "wandb")


NAMED = {"project": "gpg_vl", "name": "mine", "config": {"steps": 2}}


def test_trackio_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    package = Package(monkeypatch, "trackio")
    track = trackers.open_tracker("trackio", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track(4, {"reward": 0.6})
    track.close()
    assert package.of("init") == [NAMED | {"resume": "never"}]
    assert package.of("log") == [
        [{"reward": 0.5}, {"step": 3}],
        [{"reward": 0.6}, {"step": 4}],
    ]


def test_wandb_counts_by_itself_and_draws_over_the_step_of_the_run_or_of_the_warm_up(
    tmp_path, monkeypatch
):
    package = Package(monkeypatch, "wandb")
    track = trackers.open_tracker("wandb", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    for step in (1, 2):
        track.warmup(step, {"warmup/step": step, "warmup/loss": 1 / step})
    track(3, {"reward": 0.5})
    track(3, {"held_out": 0.25})
    track(2, {"reward": 0.25})  # resumed from a checkpoint before
    track.close()
    own = {"resume": "allow", "id": "mine", "dir": str(tmp_path / "mine")}
    assert package.of("init") == [NAMED | own]
    assert package.of("define_metric") == [
        ["step", {}],
        ["warmup/step", {}],
        ["*", {"step_metric": "step"}],
        ["warmup/loss", {"step_metric": "warmup/step"}],
    ]
    assert package.of("log") == [
        [{"warmup/step": 1, "warmup/loss": 1.0}, {"step": None}],
        [{"warmup/step": 2, "warmup/loss": 0.5}, {"step": None}],
        [{"step": 3, "reward": 0.5}, {"step": None}],
        [{"step": 3, "held_out": 0.25}, {"step": None}],
        [{"step": 2, "reward": 0.25}, {"step": None}],
    ]


def test_swanlab_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    package = Package(monkeypatch, "swanlab")
    package.config = {}  # type: ignore[attr-defined]
    track = trackers.open_tracker("swanlab", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track.close()
    (started,) = package.of("init")
    assert (started["project"], started["experiment_name"]) == ("gpg_vl", "mine")
    assert (started["config"], started["logdir"]) == ({"steps": 2}, str(tmp_path / "mine/swanlab"))
    assert package.of("log") == [[{"reward": 0.5}, {"step": 3}]]


def test_comet_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    package = Package(monkeypatch, "comet_ml")
    track = trackers.open_tracker("comet_ml", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track.close()
    assert package.of("start") == [{"project_name": "gpg_vl"}]
    assert package.of("set_name") == [["mine", {}]]
    assert package.of("log_parameters") == [[{"steps": 2}, {}]]
    assert package.of("log_metric") == [["reward", 0.5, {"step": 3}]]


def test_clearml_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    package = Package(monkeypatch, "clearml")
    package.Task = package  # type: ignore[attr-defined]
    package.current_task = lambda: None  # type: ignore[attr-defined]
    track = trackers.open_tracker("clearml", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track.close()
    assert package.of("init") == [
        {"project_name": "gpg_vl", "task_name": "mine", "reuse_last_task_id": False}
    ]
    assert package.of("connect_configuration") == [[{"steps": 2}, {}]]
    (reported,) = package.of("report_scalar")
    assert (reported["title"], reported["value"], reported["iteration"]) == ("reward", 0.5, 3)


def test_mlflow_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    package = Package(monkeypatch, "mlflow")
    package.search_experiments = lambda filter_string: []  # type: ignore[attr-defined]
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    package.utils = SimpleNamespace(validation=limits)  # type: ignore[attr-defined]
    track = trackers.open_tracker("mlflow", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track.close()
    assert package.of("create_experiment")[0]["name"] == "gpg_vl"
    assert package.of("start_run")[0]["run_name"] == "mine"
    assert package.of("log_params") == [[{"steps": 2}, {}]]
    assert package.of("log_metrics") == [[{"reward": 0.5}, {"step": 3}]]


def test_aim_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    made: list[Any] = []

    class Run(dict[str, Any]):
        def __init__(self, **given: Any) -> None:
            super().__init__()
            self.given, self.tracked = given, []
            made.append(self)

        def track(self, value: float, **where: Any) -> None:
            self.tracked.append((value, where))

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Run=Run))
    track = trackers.open_tracker("aim", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track.close()
    (run,) = made
    assert (run.given, run.name) == ({"repo": None, "experiment": "gpg_vl"}, "mine")
    assert run["hparams"] == {"steps": 2}
    assert run.tracked == [(0.5, {"name": "reward", "step": 3})]


def test_dvclive_receives_the_run_its_config_and_every_step(tmp_path, monkeypatch):
    package = Package(monkeypatch, "dvclive", "dvclive.plots")
    package.Metric = SimpleNamespace(could_log=lambda value: True)  # type: ignore[attr-defined]
    track = trackers.open_tracker("dvclive", tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track.close()
    assert package.of("Live") == [{"dir": str(tmp_path / "mine/dvclive"), "resume": False}]
    assert package.of("log_params") == [[{"steps": 2}, {}]]
    assert package.of("log_metric") == [["reward", 0.5, {}]]
    assert package.step == 3  # type: ignore[attr-defined]


def test_a_resumed_run_keeps_what_dvclive_has_written(tmp_path, monkeypatch):
    package = Package(monkeypatch, "dvclive", "dvclive.plots")
    (tmp_path / "mine" / "dvclive").mkdir(parents=True)
    trackers.open_tracker("dvclive", tmp_path / "mine", {}, log=pytest.fail).close()
    assert package.of("Live")[0]["resume"] is True


# --- project, entity, tags ------------------------------------------------------------------------


TRACKING = TrackingConfig(project="cats", entity="team", tags=("a, b", "c"))


def opened(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """Start a tracker with all knobs; return what its package was asked."""
    package: Any = Package(monkeypatch, name)
    package.Task, package.current_task = package, lambda: None
    package.search_experiments = lambda filter_string: []
    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
    package.utils = SimpleNamespace(validation=limits)
    package.config = {}
    trackers.open_tracker(name, run, {}, tracking=TRACKING, log=pytest.fail).close()
    return package


@pytest.mark.parametrize(
    ("name", "call", "given"),
    [
        ("wandb", "init", {"project": "cats", "entity": "team", "tags": ["a, b", "c"]}),
        ("swanlab", "init", {"project": "cats", "workspace": "team", "tags": ["a, b", "c"]}),
        ("trackio", "init", {"project": "cats"}),
        ("comet_ml", "start", {"project_name": "cats", "workspace": "team"}),
        ("clearml", "init", {"project_name": "cats", "tags": ["a, b", "c"]}),
        ("mlflow", "create_experiment", {"name": "cats"}),
        ("mlflow", "start_run", {"tags": {"tags": "a, b, c"}}),
    ],
)
def test_project_entity_and_tags_reach_a_tracker_where_it_takes_them(
    name, call, given, tmp_path, monkeypatch
):
    (started,) = opened(name, tmp_path / "mine", monkeypatch).of(call)
    assert started.items() >= given.items()
    taken = {"entity", "workspace", "tags"} & {key for key, value in started.items() if value}
    assert taken <= given.keys() | {"tags"}


def test_comet_gets_its_tags_after_the_start(tmp_path, monkeypatch):
    assert opened("comet_ml", tmp_path, monkeypatch).of("add_tags") == [[["a, b", "c"], {}]]


def test_aim_gets_its_tags_one_by_one(tmp_path, monkeypatch):
    tags: list[str] = []

    class Run(dict[str, Any]):
        def __init__(self, **given: Any) -> None:
            super().__init__()
            tags.append(given["experiment"])

        def add_tag(self, tag: str) -> None:
            tags.append(tag)

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "aim", SimpleNamespace(Run=Run))
    trackers.open_tracker("aim", tmp_path, {}, tracking=TRACKING, log=pytest.fail).close()
    assert tags == ["cats", "a, b", "c"]


# --- the real packages, offline -------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from gpg_vl.config.schema import TrackingConfig
from gpg_vl.report.trackers import open_tracker

run, begin = Path(sys.argv[1]), int(sys.argv[2])
times = ["2026-11-30T08:22:05.117+00:00", "2026-11-30T09:00:00.000+00:00"]
environment = {"python": "3.11", "starts": [{"time": time} for time in times[: 1 + begin]]}
known = {"steps": 4, "data": [{"recipe": "digits"}], "environment": environment}
tracking = TrackingConfig(project="cats", tags=("a",))
for name in ("wandb", "trackio", "tensorboard"):
    track = open_tracker(name, run, known, tracking=tracking)
    if not begin:
        for step in (1, 2, 3):
            track.warmup(step, {"warmup/step": step, "warmup/loss": 1 / step})
        track(0, {"held_out": 0.0})
    for step in range(begin + 1, begin + 4):
        track(step, {"reward": step / 8, "time": "2026-11-30T08:00:00Z", "gate": float("nan")})
        if step % 2 == 0:
            track(step, {"held_out": step / 4})
    track.close()
"""
STEPS = [1, 2, 3, 2, 3, 4]
"""Steps of the run below: killed after step 3, resumed from a checkpoint of step 1."""


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> Path:
    """A run that is killed and resumed, each in a process of its own, in the files of the real
    trackers."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "mine").mkdir()
    offline = {
        **os.environ,
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(folder / "trackio"),
        "HOME": str(folder),
    }
    for begin in (0, 1):
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(folder / "mine"), str(begin)],
            capture_output=True,
            text=True,
            env=offline,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr
        assert "switched off" not in done.stdout
    return folder


def test_the_real_wandb_loses_no_step(tracked):
    name = "mine-20261130082205"
    kept = sorted(tracked.glob(f"mine/wandb/offline-run-*-{name}/run-{name}.wandb"))
    records = [record for path in kept for record in wandb_records(path)]
    begun = next(record.run for record in records if record.HasField("run"))
    assert (begun.project, list(begun.tags)) == ("cats", ["a"])
    assert {item.key for item in begun.config.update} >= {"steps", "data", "environment"}
    drawn_over = {
        record.metric.name or record.metric.glob_name: record.metric.step_metric
        for record in records
        if record.HasField("metric")
    }
    assert drawn_over["*"] == "step"
    assert drawn_over["warmup/loss"] == "warmup/step"
    rows: list[dict[str, Any]] = []
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or item.nested_key[0]: item.value_json for item in items})
    own = [{key: json.loads(value) for key, value in row.items() if key[0] != "_"} for row in rows]
    assert own[:4] == [
        *({"warmup/step": step, "warmup/loss": 1 / step} for step in (1, 2, 3)),
        {"step": 0, "held_out": 0.0},
    ]
    assert [(row["step"], row["reward"]) for row in own if "reward" in row] == [
        (step, step / 8) for step in STEPS
    ]
    assert [(row["step"], row["held_out"]) for row in own[4:] if "held_out" in row] == [
        (2, 0.5),
        (2, 0.5),
        (4, 1.0),
    ]


def test_the_real_trackio_loses_no_step(tracked):
    with contextlib.closing(sqlite3.connect(tracked / "trackio" / "cats.db")) as kept:
        rows = kept.execute("select step, metrics from metrics order by rowid").fetchall()
        configs = kept.execute("select config from configs").fetchall()
    found = [(step, json.loads(numbers)) for step, numbers in rows]
    assert [it for it in found if "warmup/loss" in it[1]] == [
        (step, {"warmup/loss": 1 / step}) for step in (1, 2, 3)
    ]
    assert [(step, it) for step, it in found if "reward" in it] == [
        (step, {"reward": step / 8}) for step in STEPS
    ]
    assert [(step, it["held_out"]) for step, it in found if "held_out" in it] == [
        (0, 0.0),
        (2, 0.5),
        (2, 0.5),
        (4, 1.0),
    ]
    assert json.loads(configs[0][0])["environment"]["python"] == "3.11"


def test_the_real_tensorboard_loses_no_step(tracked):
    library = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = library.EventAccumulator(str(tracked / "mine" / "tensorboard"))
    events.Reload()
    figures = {
        name: {scalar.step: scalar.value for scalar in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }
    assert figures["reward"] == {step: step / 8 for step in (1, 2, 3, 4)}
    assert figures["held_out"] == {0: 0.0, 2: 0.5, 4: 1.0}
    assert figures["warmup/loss"] == pytest.approx({step: 1 / step for step in (1, 2, 3)})
    assert set(figures) == {"reward", "held_out", "warmup/loss"}
    assert not events.Tags()["tensors"]


# --- a tracker that fails -------------------------------------------------------------------------

OFF = "warning: tracker trackio is switched off, the run is not affected: "


class Broken:
    """A stand-in for trackio whose calls do what a test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, start: Any, log: Any) -> None:
        self.start, self.log_step, self.calls = start, log, 0
        monkeypatch.setitem(sys.modules, "trackio", self)

    def init(self, **given: Any) -> Any:
        self.start()
        return self

    def log(self, values: Any, step: int) -> None:
        self.calls += 1
        self.log_step()

    def finish(self) -> None:
        self.calls += 1


def fail() -> None:
    raise ConnectionError("no server")


def test_a_tracker_is_finished_at_the_end_of_a_run(tmp_path, monkeypatch):
    package = Package(monkeypatch, "trackio")
    track = trackers.open_tracker("trackio", tmp_path / "mine", {}, log=pytest.fail)
    assert not package.of("finish")
    RunFolder(tmp_path, trackers=[track]).close()
    assert len(package.of("finish")) == 1


@pytest.mark.parametrize("error", [ConnectionError("no server"), SystemExit("no login")])
def test_a_tracker_that_fails_is_reported_once_and_switched_off(error, tmp_path, monkeypatch):
    def fail() -> None:
        raise error

    package, warnings = Broken(monkeypatch, lambda: None, fail), []
    track = trackers.open_tracker("trackio", tmp_path, {}, log=warnings.append)
    assert not warnings
    track(0, {"reward": 0.0})
    track._thread.join(5)
    for step in (1, 2):
        track(step, {"reward": 0.0})
    track.close()  # a tracker that is off is not called
    assert warnings == [f"{OFF}{type(error).__name__}: {error}"]
    assert package.calls == 1


def test_a_tracker_that_does_not_start_is_switched_off(tmp_path, monkeypatch):
    package, warnings = Broken(monkeypatch, fail, fail), []
    track = trackers.open_tracker("trackio", tmp_path, {}, log=warnings.append)
    track._thread.join(5)
    track(1, {"reward": 0.0})
    track.close()
    assert warnings == [f"{OFF}ConnectionError: no server"]
    assert package.calls == 0


def test_a_tracker_that_blocks_never_delays_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "MAX_WAITING", 2)
    released = threading.Event()
    package, warnings = Broken(monkeypatch, lambda: None, released.wait), []
    track = trackers.open_tracker("trackio", tmp_path, {}, log=warnings.append)
    for step in range(1, 6):  # the warm-up is done: however long it was, its steps come at once
        track.warmup(step, {"warmup/loss": 0.0})
    track(0, {"reward": 0.0})
    track(1, {"reward": 0.0})
    assert not warnings
    for step in range(2, 6):  # one is on its way, two wait
        track(step, {"reward": 0.0})
    assert warnings == [f"{OFF}it is 2 steps behind"]
    track.close()
    released.set()
    assert package.calls <= 1


def test_a_tracker_that_does_not_finish_ends_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.05)
    released, warnings = threading.Event(), list[str]()
    Broken(monkeypatch, lambda: None, released.wait)
    track = trackers.open_tracker("trackio", tmp_path, {}, log=warnings.append)
    track(0, {"reward": 0.0})
    track.close()
    released.set()
    assert warnings == [f"{OFF}it has not finished within 0.05 seconds"]


def test_a_step_that_a_tracker_gets_may_change_afterwards(tmp_path, monkeypatch):
    package = Package(monkeypatch, "trackio")
    track = trackers.open_tracker("trackio", tmp_path, {}, log=pytest.fail)
    metrics = {"reward": 0.5}
    track(1, metrics)
    metrics["reward"] = 0.0
    track.close()
    assert package.of("log") == [[{"reward": 0.5}, {"step": 1}]]


def test_runs_in_folders_of_one_name_are_runs_of_their_own(tmp_path, monkeypatch):
    package = Package(monkeypatch, "wandb")
    for name in ("a/x", "b/x"):
        track = trackers.open_tracker("wandb", tmp_path / name, {"name": name}, log=pytest.fail)
        track.close()
    assert [given["id"] for given in package.of("init")] == ["a-x", "b-x"]


def test_a_run_that_is_begun_again_under_its_name_is_another_one(tmp_path, monkeypatch):
    """Its folder was deleted, or `folder` is another one: its steps are not mixed with the old."""
    first, second = "2026-11-30T08:22:05.117+00:00", "2026-11-30T09:10:00.000+00:00"
    found: list[Any] = []
    for times in ([first], [first, second], [second]):
        known = {"name": "a", "environment": {"starts": [{"time": time} for time in times]}}
        for name, what in (("wandb", "id"), ("trackio", "resume")):
            package = Package(monkeypatch, name)
            trackers.open_tracker(name, tmp_path / "a", known, log=pytest.fail).close()
            found.append(package.of("init")[0][what])
    assert found == [
        *("a-20261130082205", "never"),
        *("a-20261130082205", "allow"),
        *("a-20261130091000", "never"),
    ]
