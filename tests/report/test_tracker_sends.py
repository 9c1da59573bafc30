"""What trackers get beside figures, and that no picture reaches one that nobody asked for."""

import base64
import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import accelerate.tracking  # noqa: F401
import numpy as np
import pytest
from PIL import Image

from gpg_vl.config.schema import TrackerName
from gpg_vl.report import trackers
from gpg_vl.report.tracker_sends import SEND_PAGE, SEND_TABLE, WITH_PICTURES
from gpg_vl.run_folder import RunFolder
from tests.hand_made import group
from tests.tracker_packages import Package, wandb_records

COLUMNS = ["step", "task", "question", "truth", "answer", "read", "reward", "reason"]
ROW = [50, "add", "3+4?", "7", "seven", "7", 1.0, "right"]


def noise(size: tuple[int, int]) -> Image.Image:
    """Make a picture that no compression makes small."""
    return Image.effect_noise(size, 90).convert("RGB")


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with a kept picture, and its page."""
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    noise((64, 48)).save(folder / "images" / "a.png")
    (folder / "report.html").write_text(f"<img src='data:image/png;base64,{encoded(folder)}'>")
    return folder


def encoded(run: Path) -> str:
    return base64.b64encode((run / "images" / "a.png").read_bytes()).decode()


def rows() -> list[dict[str, Any]]:
    """Make a group with a picture, as `rollouts/` has it."""
    answer = {"text": "seven", "answer": "7", "reward": 1.0, "reason": "right"}
    asked = {"source": "digits", "tags": {"task": "add"}, "question": "3+4?", "truth": 7}
    return [{**asked, "images": [{"file": "images/a.png"}], "answers": [answer]}]


class Everything(Package):
    """A stand-in for the package of any tracker: its run, its writer and its parts record too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        # the writer of TensorBoard is torch's, which needs the real package
        super().__init__(monkeypatch, "dvclive.plots", *[name] * (name != "tensorboard"))
        self.files: list[bytes] = []
        self.config: dict[str, Any] = {}
        self.Task, self.current_task = self, lambda: None
        self.Metric = SimpleNamespace(could_log=lambda value: True)
        self.search_experiments = lambda filter_string: []
        limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        self.utils = SimpleNamespace(validation=limits)
        if name == "tensorboard":
            monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", self.SummaryWriter)

    def __setitem__(self, key: str, value: Any) -> None:
        self.calls.append((key, value))

    def received(self) -> Iterator[bytes]:
        """Yield everything that was given to it: texts, pictures, and what is in files."""
        yield from self.files
        waiting: list[Any] = [given for _, given in self.calls]
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                waiting += value
            elif isinstance(value, Image.Image | np.ndarray):
                yield b"a picture"
            elif isinstance(value, bytes):
                yield value
            elif value is not self:
                yield str(value).encode()


def keeps_files(package: Everything, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a stand-in read the files that it is given, at its very end."""
    finish = trackers.QueuedTracker._work

    def work(self: Any, start: Any) -> None:
        def started() -> Any:
            tracker = start()
            ending = tracker.finish

            def finished() -> None:
                for text in list(package.received()):
                    if len(text) < 4096 and Path(text.decode()).is_file():
                        package.files.append(Path(text.decode()).read_bytes())
                ending()

            tracker.finish = finished
            return tracker

        finish(self, started)

    monkeypatch.setattr(trackers.QueuedTracker, "_work", work)


def a_page(runs: Any, to: Path, *, pictures: bool = True) -> Path:
    """Write a page as the real one is called."""
    to.write_text(f"the page of {runs[0].name}, pictures: {pictures}")
    return to


def pages(monkeypatch: pytest.MonkeyPatch, write_page: Any = a_page) -> None:
    module = SimpleNamespace(write_page=write_page)
    monkeypatch.setitem(sys.modules, "gpg_vl.report.page.write", module)


def tracked(
    name: str, run: Path, monkeypatch: pytest.MonkeyPatch, *, pictures: bool = False
) -> Everything:
    """Send a step, its answers and the page of a run to a stand-in; return it."""
    package = Everything(monkeypatch, name)
    pages(monkeypatch)
    keeps_files(package, monkeypatch)
    track = trackers.open_tracker(name, run, {"steps": 50}, pictures=pictures, log=pytest.fail)
    track(50, {"reward": 1.0})
    track.answers(50, rows())
    track.page(run / "report.html")
    track.close()
    return package


# --- pictures stay here ---------------------------------------------------------------------------


def has_picture(package: Everything, run: Path) -> bool:
    content = (run / "images" / "a.png").read_bytes()
    marks = (content, base64.b64encode(content), b"a picture", b"\x89PNG", b"iVBORw0KGgo")
    return any(mark in given for given in package.received() for mark in marks)


@pytest.mark.parametrize("name", get_args(TrackerName))
def test_no_picture_reaches_a_tracker(name, run, monkeypatch):
    package = tracked(name, run, monkeypatch)
    assert package.calls
    assert not has_picture(package, run)
    if name in SEND_PAGE:
        assert package.files == [b"the page of mine, pictures: False"]


@pytest.mark.parametrize("name", sorted({*WITH_PICTURES, *SEND_PAGE}))
def test_pictures_reach_a_tracker_that_has_a_place_for_them_when_asked(name, run, monkeypatch):
    package = tracked(name, run, monkeypatch, pictures=True)
    assert has_picture(package, run)
    if name in SEND_PAGE:
        assert package.files == [(run / "report.html").read_bytes()]


# --- each tracker's call --------------------------------------------------------------------------


def test_tables_of_answers_go_where_there_are_tables(run, monkeypatch):
    sent = {name: tracked(name, run, monkeypatch) for name in get_args(TrackerName)}
    for name in ("wandb", "trackio"):
        assert sent[name].of("Table") == [{"columns": COLUMNS, "data": [ROW]}]
    assert sent["wandb"].of("log")[1] == [{"step": 50, "answers": sent["wandb"]}, {"step": None}]
    assert sent["trackio"].of("log")[1] == [{"answers": sent["trackio"]}, {"step": 50}]
    columns = {name: [cell] for name, cell in zip(COLUMNS, ROW, strict=True)}
    assert sent["mlflow"].of("log_table") == [[columns, "answers/000050.json", {}]]
    table = {"tabular_data": [ROW], "headers": COLUMNS}
    assert sent["comet_ml"].of("log_table") == [["answers-000050.csv", table]]
    (reported,) = sent["clearml"].of("report_table")
    assert (reported["title"], reported["table_plot"]) == ("answers", [COLUMNS, ROW])
    assert reported["iteration"] == 50
    text = ",".join(COLUMNS) + "\n50,add,3+4?,7,seven,7,1.0,right\n"
    assert sent["aim"].of("Text") == sent["swanlab"].of("Text") == [[text, {}]]
    (shown, _) = sent["tensorboard"].of("add_text")[0][:2]
    assert shown == "answers"
    assert sent.keys() - SEND_TABLE.keys() == {"dvclive"}


def test_the_page_goes_where_there_are_files(run, monkeypatch):
    sent = {name: tracked(name, run, monkeypatch) for name in sorted(SEND_PAGE)}
    for name in ("wandb", "trackio"):
        ((path, given),) = sent[name].of("log_artifact")
        assert Path(path).name == "report.html"
        assert given == {"name": "report-mine", "type": "report"}
        assert not Path(path).exists(), "it is deleted when the tracker is finished"
    assert Path(sent["mlflow"].of("log_artifact")[0]["local_path"]).name == "report.html"
    assert sent["comet_ml"].of("log_asset")[0][1] == {"file_name": "report.html"}
    ((name, given),) = sent["clearml"].of("upload_artifact")
    assert name == "report"
    assert (given["artifact_object"].name, given["wait_on_upload"]) == ("report.html", True)


def test_the_name_of_an_artifact_holds_no_sign_that_is_refused(run, monkeypatch):
    package = Everything(monkeypatch, "wandb")
    pages(monkeypatch)
    known = {"name": "sweep/größe 1:" + "x" * 200}
    track = trackers.open_tracker("wandb", run, known, log=pytest.fail)
    track.page(run / "report.html")
    track.close()
    ((_, given),) = package.of("log_artifact")
    assert given["name"] == "report-sweep-gr--e-1-" + "x" * 86


# --- what fails costs a run nothing ---------------------------------------------------------------

OFF = "warning: tracker wandb is switched off, the run is not affected: "


def test_a_page_that_cannot_be_written_is_reported_once(run, monkeypatch):
    def fail(runs: Any, to: Path, *, pictures: bool) -> Path:
        raise OSError("no space")

    Everything(monkeypatch, "wandb")
    pages(monkeypatch, fail)
    warnings: list[str] = []
    track = trackers.open_tracker("wandb", run, {}, log=warnings.append)
    track.page(run / "report.html")
    track.close()
    assert warnings == [f"{OFF}OSError: no space"]


def test_a_table_that_is_refused_is_reported_once(run, monkeypatch):
    def fail(**given: Any) -> None:
        raise TypeError("no such column")

    package: Any = Everything(monkeypatch, "wandb")
    package.Table = fail
    warnings: list[str] = []
    track = trackers.open_tracker("wandb", run, {}, log=warnings.append)
    track.answers(50, rows())
    track._thread.join(5)
    track.answers(100, rows())
    track.close()
    assert warnings == [f"{OFF}TypeError: no such column"]


def test_a_page_that_takes_too_long_does_not_hold_a_run(run, monkeypatch):
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.05)
    released = threading.Event()

    def wait(runs: Any, to: Path, *, pictures: bool) -> Path:
        released.wait()
        return a_page(runs, to, pictures=pictures)

    Everything(monkeypatch, "wandb")
    pages(monkeypatch, wait)
    warnings: list[str] = []
    track = trackers.open_tracker("wandb", run, {}, log=warnings.append)
    track.page(run / "report.html")
    track.close()
    released.set()
    track._thread.join(5)
    assert warnings == [f"{OFF}it has not finished within 0.05 seconds"]


# --- the run folder passes them on ----------------------------------------------------------------


class Taker:
    """A tracker that takes all, and says in which order."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, step: int, metrics: Any) -> None:
        self.events.append(step)

    def answers(self, step: int, groups: Any) -> None:
        self.events.append(("answers", step, [row["draw"] for row in groups]))

    def page(self, path: Path) -> None:
        self.events.append(path.name)

    def close(self) -> None:
        self.events.append("closed")


def steps_taken(folder: RunFolder, count: int) -> None:
    """Write rollouts of ten groups in each step, the last draws first."""
    for step in range(1, count + 1):
        groups = [group([0.0, 1.0], draw=draw) for draw in reversed(range(10))]
        folder.rollouts(step, groups[:2], groups, [[0.0, 0.0]] * 2)


def test_eight_groups_of_every_so_many_steps_and_of_the_last_one(tmp_path):
    taker, simple = Taker(), SimpleNamespace(close=lambda: None)
    folder = RunFolder(tmp_path, trackers=[simple, taker], answers_every=2)  # type: ignore[list-item]
    steps_taken(folder, 3)
    folder.send_page(tmp_path / "report.html")
    folder.close()
    first = list(range(8))
    assert taker.events == [("answers", 2, first), "report.html", ("answers", 3, first), "closed"]


@pytest.mark.parametrize(("every", "sent"), [(0, [3]), (3, [3]), (1, [1, 2, 3])])
def test_no_step_is_sent_twice(every, sent, tmp_path):
    taker = Taker()
    folder = RunFolder(tmp_path, trackers=[taker], answers_every=every)
    steps_taken(folder, 3)
    folder.close()
    assert [event[1] for event in taker.events[:-1]] == sent


# --- the real packages, offline -------------------------------------------------------------------

RUN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from gpg_vl.report.trackers import open_tracker
from tests.report.test_tracker_sends import a_page, hostile_rows

run, pictures = Path(sys.argv[1]), sys.argv[2] == "pictures"
sys.modules["gpg_vl.report.page.write"] = SimpleNamespace(write_page=a_page)
for name in ("wandb", "trackio", "tensorboard"):
    track = open_tracker(name, run, {"name": "a/mine"}, pictures=pictures)
    for step in (1, 2):
        track(step, {"reward": step / 8})
        track.answers(step, hostile_rows())
    track.page(run / "report.html")
    track.close()
"""
HOSTILE = "a | b\n<script>alert(1)</script> \x00 \ud800"
WRITTEN = "a | b\n<script>alert(1)</script> \\x00 \\ud800"


def hostile_rows() -> list[dict[str, Any]]:
    """Make a group without a picture, and one with it, weights and texts that harm."""
    (asked,) = rows()
    (answer,) = asked["answers"]
    odd = {**answer, "text": HOSTILE, "answer": HOSTILE, "reward": None, "reason": HOSTILE}
    answers = [{**odd, "weight": -0.5}, {**answer, "weight": 0.5}]
    unused = {**asked, "images": [], "truth": [1, 2], "answers": [{**answer, "weight": None}]}
    return [unused, {**asked, "question": HOSTILE, "truth": HOSTILE, "answers": answers}]


def sent_offline(folder: Path, pictures: str) -> Path:
    """Send a run to the real packages in a process of its own; return the folder of all files."""
    run = folder / "mine"
    (run / "images").mkdir(parents=True)
    noise((640, 480)).save(run / "images" / "a.png")
    (run / "report.html").write_text(f"the page, base64 {encoded(run)}")
    own = {"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio"), "HOME": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(run), pictures],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert "switched off" not in done.stdout
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run that was sent without pictures."""
    return sent_offline(tmp_path_factory.mktemp("plain"), "none")


@pytest.fixture(scope="module")
def pictured(tmp_path_factory) -> Path:
    """A run that was sent with pictures."""
    return sent_offline(tmp_path_factory.mktemp("pictured"), "pictures")


def written(folder: Path) -> dict[Path, bytes]:
    """Return what the trackers have written: every file but those of the run itself."""
    own = (folder / "mine" / "images" / "a.png", folder / "mine" / "report.html")
    files = [path for path in folder.rglob("*") if path.is_file() and path not in own]
    return {path: path.read_bytes() for path in files}


def with_mark(folder: Path, *marks: bytes) -> set[str]:
    """Return the tracker's folder of each file that holds one of some bytes."""
    found: set[str] = set()
    for path, content in written(folder).items():
        if any(mark in content for mark in marks):
            parts = path.relative_to(folder).parts
            found.add("wandb" if "wandb" in parts else "tensorboard" * (parts[0] == "mine"))
            found.add("trackio" if parts[0] == "trackio" else "")
    return found - {""}


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as picture:
        return picture.size


def test_the_real_trackers_hold_no_picture_that_nobody_asked_for(plain, pictured):
    marks = (b"\x89PNG", b"\xff\xd8\xff", b"iVBORw0KGgo")
    assert with_mark(plain, *marks) == set()
    assert with_mark(plain, b"seven") >= {"tensorboard", "trackio", "wandb"}
    assert with_mark(plain, b"the page of mine, pictures: False") == {"trackio", "wandb"}
    assert with_mark(pictured, *marks) == {"tensorboard", "trackio", "wandb"}
    assert with_mark(pictured, b"the page, base64") == {"trackio", "wandb"}


EXPECTED = [
    ["add", "3+4?", "[1, 2]", "seven", "7", 1.0, "right", None],
    ["add", WRITTEN, WRITTEN, WRITTEN, WRITTEN, None, WRITTEN, -0.5],
    ["add", WRITTEN, WRITTEN, "seven", "7", 1.0, "right", 0.5],
]


def test_the_real_wandb_has_the_table_of_each_step(plain, pictured):
    found: list[Any] = []
    for path in sorted(plain.rglob("*.table.json")):
        table = json.loads(path.read_text())
        assert table["columns"] == [*COLUMNS, "weight"]
        found += table["data"]
    assert sorted(found, key=lambda row: row[0]) == [
        *([1, *row] for row in EXPECTED),
        *([2, *row] for row in EXPECTED),
    ]
    (table, _) = [json.loads(path.read_text()) for path in pictured.rglob("*.table.json")]
    assert [row[-1] for row in table["data"]] == [None, "Image", "Image"]
    staged = [content for path, content in written(pictured).items() if "staging" in path.parts]
    assert {size_of(content) for content in staged if content[1:4] == b"PNG"} == {(320, 240)}


def test_the_real_wandb_has_the_page_as_a_file_of_the_run(plain):
    records = [record for path in plain.rglob("run-*.wandb") for record in wandb_records(path)]
    logged = [
        record.request.log_artifact.artifact
        for record in records
        if record.HasField("request") and record.request.HasField("log_artifact")
    ]
    logged += [record.artifact for record in records if record.HasField("artifact")]
    (page,) = [artifact for artifact in logged if artifact.type == "report"]
    assert page.name == "report-a-mine"
    assert [entry.path for entry in page.manifest.contents] == ["report.html"]


def trackio_tables(folder: Path) -> list[list[dict[str, Any]]]:
    with contextlib.closing(sqlite3.connect(folder / "trackio" / "gpg_vl.db")) as kept:
        found = kept.execute("select metrics from metrics order by step, rowid").fetchall()
    logged = [json.loads(metrics) for (metrics,) in found]
    return [metrics["answers"]["_value"] for metrics in logged if "answers" in metrics]


def test_the_real_trackio_has_the_table_of_each_step(plain, pictured):
    for step, table in enumerate(trackio_tables(plain), start=1):
        assert [list(row.values()) for row in table] == [[step, *row] for row in EXPECTED]
        assert list(table[0]) == [*COLUMNS, "weight"]
    assert len(trackio_tables(plain)) == 2
    none, first, second = [row["picture"] for row in trackio_tables(pictured)[0]]
    assert none is None
    assert first == second
    picture = pictured / "trackio" / "media" / first["file_path"]
    assert size_of(picture.read_bytes()) == (320, 240)


def events_of(folder: Path) -> Any:
    library = import_module("tensorboard.backend.event_processing.event_accumulator")
    events = library.EventAccumulator(str(folder / "mine" / "tensorboard"))
    events.Reload()
    return events


def test_the_real_tensorboard_has_the_table_of_each_step(plain, pictured):
    events = events_of(plain)
    assert events.Tags()["images"] == []
    shown = events.Tensors("answers/text_summary")
    assert [tensor.step for tensor in shown] == [1, 2]
    lines = shown[0].tensor_proto.string_val[0].decode().split("\n")
    assert lines[0] == "| " + " | ".join([*COLUMNS, "weight"]) + " |"
    assert [line.count("|") for line in lines] == [len(COLUMNS) + 2] * 5
    events = events_of(pictured)
    assert events.Tags()["images"] == ["answers/picture_1"]
    (first, second) = events.Images("answers/picture_1")
    assert (first.step, second.step) == (1, 2)
    assert size_of(first.encoded_image_string) == (320, 240)
