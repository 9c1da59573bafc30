"""A run that goes on from an earlier checkpoint is the run that had been stopped there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl import run_folder
from gpg_vl.config import loading
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.run_folder import complete_checkpoints
from gpg_vl.training import checkpoint, loop, rewind
from gpg_vl.training.rewind import Rewind
from tests.commands import gpg_vl
from tests.training.test_train import CARRYING, metrics, of_the_machine, run, same

KNOBS = ("steps=6", "checkpoint.every=1", "checkpoint.keep_last=9", *CARRYING)


class LeftError(Exception):
    """The end of a process, for these tests."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the run `whole` of six steps, and `stopped`, which was left after step 3."""
    folder = tmp_path_factory.mktemp("runs")
    run(folder, "name=whole", *KNOBS)

    def leave(step: int, row: Any) -> None:
        if step == 4:
            raise LeftError

    with pytest.raises(LeftError):
        run(folder, "name=stopped", *KNOBS, callbacks=[leave])
    go_on(folder / "stopped", train_step=leave_at_once)
    return folder


@pytest.fixture
def whole(runs, tmp_path) -> Path:
    """A copy of the run of six steps."""
    return shutil.copytree(runs / "whole", tmp_path / "whole")


def leave_at_once(state: Any) -> None:
    raise LeftError


def go_on(
    folder: Path, from_step: int | None = None, train_step: Callable[[Any], Any] | None = None
) -> list[str]:
    """Resume a run; with a `train_step` that raises it is left before its first step."""
    lines: list[str] = []
    experiment = Experiment.resolve(loading.load_run(folder))
    with pytest.MonkeyPatch.context() as patch:
        if train_step is None:
            loop.train(experiment, resume=folder, from_step=from_step, log=lines.append)
        else:
            patch.setattr(loop, "train_step", train_step)
            with pytest.raises(LeftError):
                loop.train(experiment, resume=folder, from_step=from_step, log=lines.append)
    return lines


NOT_COMPARED = ("config.yaml", "identity.json", "report.html")
"""Files that say how or when a run was made; the page is made of the others."""


def content(folder: Path) -> dict[str, Any]:
    """What two runs must have alike: all but clocks, memory, their names and their pictures."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        is_left_to_others = name.startswith("images/") or path.name == "README.md"
        if path.is_dir() or is_left_to_others or name in NOT_COMPARED:
            continue
        if path.name == "metrics.jsonl":
            rows = metrics(folder)
            found[name] = [
                {key: row[key] for key in row if not of_the_machine(key)} for row in rows
            ]
        elif path.name == "environment.json":
            found[name] = {**json.loads(path.read_text()), "starts": None}
        elif path.parent.name == "evaluation":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{**row, "about": None} for row in rows]
        else:
            found[name] = path.read_bytes()
    return found


def differences(one: Path, two: Path) -> list[str]:
    first, second = content(one), content(two)
    return [
        name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)
    ]


def test_a_run_from_step_3_is_the_run_that_was_stopped_there(runs, whole):
    lines = go_on(whole, 3, leave_at_once)
    assert differences(whole, runs / "stopped") == []
    assert [path.name for path in complete_checkpoints(whole)][-1] == "000003"
    (dropped,) = [line for line in lines if line.startswith("dropped")]
    assert dropped == (
        "dropped, because later than step 3: checkpoints 4, 5, 6; rollouts and metrics of steps "
        "4, 5, 6; evaluations small-000004, small-after, small-blank"
    )
    assert any(line.startswith("resumed from step 3 of 6") for line in lines)


def test_both_end_with_the_same_weights_metrics_rollouts_and_evaluations(runs, whole):
    go_on(whole, 3)
    assert differences(whole, runs / "whole") == []
    assert same(whole / "checkpoints" / "000006", runs / "whole" / "checkpoints" / "000006")


@pytest.mark.parametrize("step", [0, 6])
def test_the_first_and_the_newest_checkpoint_are_places_to_go_on_from_too(step, runs, whole):
    lines = go_on(whole, step)
    assert differences(whole, runs / "whole") == []
    said = [line for line in lines if line.startswith("dropped")]
    assert ("nothing" in said[0]) == (step == 6)


MOMENTS: dict[str, tuple[Any, str, int]] = {
    "before anything": (Rewind, "drop", 1),
    "the first checkpoint has lost its name": (checkpoint.shutil, "rmtree", 2),
    "between two checkpoints": (rewind, "delete", 3),
    "before the evaluations": (Rewind, "evaluations", 2),
    "between two evaluations": (Path, "unlink", 2),
    "before the logs": (run_folder.RunFolder, "rewind", 1),
    "between two logs": (run_folder.log, "rewind_rows", 2),
    "while a log is written": (run_folder.json_lines, "write_whole", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_is_killed_while_it_drops_goes_on_soundly(moment, runs, whole, monkeypatch):
    owner, name, number = MOMENTS[moment]
    calls = 0
    original = getattr(owner, name)

    def killed(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise LeftError
        return original(*given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        experiment = Experiment.resolve(loading.load_run(whole))
        with pytest.raises(LeftError):
            loop.train(experiment, resume=whole, from_step=3, log=lambda line: None)
    newest = int(complete_checkpoints(whole)[-1].name)
    assert newest >= 3
    for path in complete_checkpoints(whole):
        assert below(path) == below(runs / "whole" / "checkpoints" / path.name), "half of one"
    steps = [row["step"] for row in metrics(whole) if "reward" in row]
    assert set(range(1, newest + 1)) <= set(steps), "no hole before the newest checkpoint"
    go_on(whole)
    assert differences(whole, runs / "whole") == []
    assert not list((whole / "checkpoints").glob("*.dropped"))


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- what is dropped ------------------------------------------------------------------------------


def test_only_what_belongs_to_later_steps_is_dropped(tmp_path):
    for step in (2, 4, 6):
        (tmp_path / "checkpoints" / f"{step:06d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"{step:06d}" / "state.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("steps: 6\n")
    kept = ["b-before", "b-000002", "b-000004", "mine-5", "a.v2-000004", "b-000002.left_out"]
    dropped = ["b-000006", "b-after", "a.v2-000005", "b-000006.left_out", "b-after.left_out"]
    dropped.append("b-blank")
    (tmp_path / "evaluation").mkdir()
    for name in (*kept, *dropped):
        (tmp_path / "evaluation" / f"{name}.jsonl").write_text("")
    (tmp_path / "bad_steps").mkdir()
    for name in ("000004.json", "000005.json", "000005.rank1.json"):
        (tmp_path / "bad_steps" / name).write_text("")
    back = Rewind.to(tmp_path, 4)
    assert back.described() == "checkpoints 6; evaluations a.v2-000005, b-000006, b-after, b-blank"
    back.drop()
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {
        f"{name}.jsonl" for name in kept
    }
    assert [path.name for path in (tmp_path / "bad_steps").iterdir()] == ["000004.json"]
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["000002", "000004"]


def test_the_evaluation_of_the_last_step_stays_where_the_run_goes_further(tmp_path):
    """It was of step 4; the run goes on from there to more steps."""
    (tmp_path / "checkpoints" / "000004").mkdir(parents=True)
    (tmp_path / "checkpoints" / "000004" / "state.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("steps: 4\n")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "b-after.jsonl").write_text("")
    assert Rewind.to(tmp_path, 4).described() == "nothing"


def test_many_steps_are_named_by_their_first_and_last(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 100\n")
    for step in range(100):
        (tmp_path / "checkpoints" / f"{step:06d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"{step:06d}" / "state.json").write_text("{}")
    assert Rewind.to(tmp_path, 9).described() == "checkpoints 10 to 99 (90 of them)"


def test_a_step_without_a_checkpoint_names_those_that_exist_and_nothing_is_touched(whole):
    before = content(whole)
    with pytest.raises(UserError, match=r"of step 9; .* 4, 5, 6\. How .*keep_last \(now 9\)$"):
        Rewind.to(whole, 9)
    done = gpg_vl("train", "--resume", whole, "--from", 9)
    assert done.returncode == 2
    assert content(whole) == before


def test_what_is_refused_for_another_reason_drops_nothing(whole):
    before = below(whole)
    done = gpg_vl("train", "--resume", whole, "--from", 3, "optimizer.lr=1")
    assert done.returncode == 2
    assert "optimizer.lr: 0.001 -> 1" in done.stderr
    assert below(whole) == before


def test_the_command_goes_on_from_an_earlier_checkpoint(runs, whole):
    done = gpg_vl("train", "--resume", whole, "--from", 4)
    assert done.returncode == 0
    assert "dropped, because later than step 4: checkpoints 5, 6;" in done.stdout
    assert differences(whole, runs / "whole") == []


def test_a_run_as_a_model_is_pinned_when_the_new_run_starts(whole, tmp_path):
    """The other run may save more: the resumed run keeps to the checkpoint that it began with."""
    knobs = [f"policy.model={whole}", "steps=1", "warmup.steps=0", "evaluation.benchmark=null"]
    new = run(tmp_path, "name=new", *knobs)
    pinned = str(whole / "checkpoints" / "000006" / "policy")
    config = loading.load_run(new)
    assert config.policy.model == pinned
    identity = json.loads((new / "identity.json").read_text())
    assert identity["config"]["policy"]["model"] == pinned
    shutil.copytree(whole / "checkpoints" / "000006", whole / "checkpoints" / "000007")
    lines: list[str] = []
    further = loading.load_run(new, [f"policy.model={whole}", "steps=2"])
    loop.train(Experiment.resolve(further), resume=new, log=lines.append)
    assert loading.load_run(new).policy.model == pinned
    other = [f"policy.model={whole / 'checkpoints' / '000003'}"]
    with pytest.raises(UserError, match=r"policy\.model: .*000006/policy -> .*000003/policy"):
        loop.train(Experiment.resolve(loading.load_run(new, other)), resume=new)
