"""Experiment trackers: what their packages receive, and that a broken one costs a run nothing."""

import sys
import threading
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from gpg_vl.config.schema import TrackerName
from gpg_vl.errors import UserError
from gpg_vl.report import trackers
from gpg_vl.run_folder import RunFolder


class Package:
    """A stand-in for a tracker's package, which records every call."""

    __version__ = "9.9"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.calls: list[tuple[str, Any]] = []
        for name in names:
            monkeypatch.setitem(sys.modules, name, self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def record(*args: Any, **given: Any) -> Any:
            self.calls.append((name, [*args, given] if args else given))
            return self

        return record

    def of(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]


def test_the_config_takes_what_accelerate_offers():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert set(get_args(TrackerName)) == set(LOGGER_TYPE_TO_CLASS)
    assert get_args(TrackerName)[:3] == ("tensorboard", "trackio", "wandb")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_receives_the_run_its_config_and_every_step(name, tmp_path, monkeypatch):
    package = Package(monkeypatch, name)
    track = trackers.open_tracker(name, tmp_path / "mine", {"steps": 2}, log=pytest.fail)
    track(3, {"reward": 0.5})
    track(4, {"reward": 0.6})
    track.close()
    (started,) = package.of("init")
    expected = {"project": "gpg_vl", "name": "mine", "config": {"steps": 2}, "resume": "allow"}
    if name == "wandb":
        expected |= {"id": "mine", "dir": str(tmp_path / "mine")}
    assert started == expected
    assert package.of("log") == [
        [{"reward": 0.5}, {"step": 3}],
        [{"reward": 0.6}, {"step": 4}],
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
    assert package.of("init") == [{"project_name": "gpg_vl", "task_name": "mine"}]
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
    assert package.of("Live") == [{"dir": str(tmp_path / "mine/dvclive")}]
    assert package.of("log_params") == [[{"steps": 2}, {}]]
    assert package.of("log_metric") == [["reward", 0.5, {}]]
    assert package.step == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "package"), [("wandb", r"'gpg-vl\[trackers\]'"), ("comet_ml", "comet_ml")]
)
def test_every_tracker_that_is_named_must_be_there(name, package, monkeypatch, tmp_path):
    Package(monkeypatch, "trackio", "tensorboard")
    monkeypatch.setitem(sys.modules, name, None)
    trackers.check_installed(["trackio", "tensorboard"])
    sentence = f"trackers: {name} is not installed; pip install {package}, or leave it out"
    with pytest.raises(UserError, match=f"^{sentence}$"):
        trackers.check_installed(["trackio", name])
    with pytest.raises(UserError, match=f"^{sentence}$"):
        trackers.open_tracker(name, tmp_path, {})


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
    for step in range(6):  # one is on its way, two wait
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
