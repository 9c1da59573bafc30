"""The last screen of a run: what was gained, what to do next, how a stopped run goes on."""

import json
import math
import shlex
import subprocess
from pathlib import Path

import pytest

from gpg_vl.config import loading
from gpg_vl.errors import UserError, command
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.report.last_screen import held_out_gain, how_to_go_on, last_lines, reward_course
from gpg_vl.run_folder import refuse_to_overwrite

HERE = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with a blank in its name and checkpoints of two steps."""
    folder = tmp_path / "my runs" / "small"
    for step in (2, 10):
        (folder / "checkpoints" / f"{step:06d}").mkdir(parents=True)
        (folder / "checkpoints" / f"{step:06d}" / "state.json").write_text("{}")
    return folder


def evaluated(run: Path, when: str, *scores: float) -> None:
    rows: list[Record] = []
    for place, score in enumerate(scores):
        record = Record(
            id=f"q{place}", tag="a", greedy=score, sampled=math.nan, text="", answer="", reason=""
        )
        rows.append(record)
    records.save(rows, run / "evaluation" / f"small-{when}.jsonl")


def rewarded(run: Path, *rewards: float | None) -> None:
    rows = [{"step": step, "reward": reward} for step, reward in enumerate(rewards, 1)]
    rows.insert(1, {"step": 1, "held_out": 0.5})
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_command_has_absolute_paths_and_quotes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        command("gpg-vl", "train", "--resume", Path("my runs/it's"))
        == f"""gpg-vl train --resume '{tmp_path}/my runs/it'"'"'s'"""
    )


def test_a_path_below_the_home_folder_begins_with_its_sign(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shown = command("gpg-vl", Path("runs/a"), Path("my runs"), tmp_path, "~/a", "/b c")
    assert shown == f"gpg-vl ~/runs/a ~/'my runs' {tmp_path} '~/a' '/b c'"
    echoed = subprocess.run(
        ["sh", "-c", shown.replace("gpg-vl", "printf '%s\\n'")], capture_output=True, text=True
    )
    paths = [tmp_path / "runs/a", tmp_path / "my runs", tmp_path, "~/a", "/b c"]
    assert echoed.stdout.splitlines() == [str(path) for path in paths]


def test_what_was_gained_on_held_out_questions(run):
    assert held_out_gain(run) == []
    evaluated(run, "before", 0, 0, 0, 1)
    assert held_out_gain(run) == []
    evaluated(run, "after", 1, 1, 0, 1)
    sentence = "held-out accuracy: 25.0 % -> 75.0 %, no difference seen"
    assert held_out_gain(run) == [sentence], "4 are too few"
    evaluated(run, "after", 1)
    assert held_out_gain(run) == [], "they are not the same questions"


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (5, 15, "gained: held-out accuracy 25.0 % -> 75.0 %"),
        (15, 5, "lost: held-out accuracy 75.0 % -> 25.0 %"),
        (10, 10, "held-out accuracy: 50.0 % -> 50.0 %, no difference seen"),
        (10, 11, "held-out accuracy: 50.0 % -> 55.0 %, no difference seen"),
    ],
)
def test_a_difference_is_gained_or_lost_only_where_it_is_seen(run, before, after, sentence):
    """Of 20 questions."""
    for when, right in (("before", before), ("after", after)):
        evaluated(run, when, *right * [1], *(20 - right) * [0])
    assert held_out_gain(run)[0] == sentence


def test_the_course_of_the_reward_by_hand(run):
    assert reward_course(run) == []
    rewarded(run, 0.5)
    assert reward_course(run) == []
    rewarded(run, 0.25, None, 0.75)
    assert reward_course(run) == [
        "mean reward of sampled answers: 0.250 (step 1) -> 0.750 (step 3)"
    ]
    rewarded(run, 0.0, 0.5, *16 * [9.0], 0.75, 1.25)
    assert reward_course(run) == [
        "mean reward of sampled answers: 0.250 (steps 1 to 2) -> 1.000 (steps 19 to 20)"
    ]


def test_what_to_do_next_is_commands_for_any_folder(run, monkeypatch):
    config = loading.load(str(HERE / "small.yaml"))
    evaluated(run, "before", 0, 1)
    evaluated(run, "after", 1, 1)
    monkeypatch.chdir(run.parent)
    lines = list(last_lines(Path("small"), config))
    commands = [shlex.split(line) for line in lines if line.startswith("  gpg-vl")]
    assert commands == [
        ["gpg-vl", "rollout", f"{run}/config.yaml", "--model", str(run)],
        ["gpg-vl", "evaluate", f"{HERE}/small_benchmark.yaml", "--model", str(run)],
        [
            "gpg-vl",
            "compare",
            f"{run}/evaluation/small-before.jsonl",
            f"{run}/evaluation/small-after.jsonl",
        ],
    ]
    assert len(lines) == 8
    assert lines[1] == f"run folder: {run}"
    assert f"  {run}/checkpoints/000010/policy" in lines
    assert (
        lines[4] == "ask it training questions (sampled), held-out ones (greedy), see what changed:"
    )
    shown = [line for line in lines if str(run) not in line]
    assert max(map(len, shown)) < 80


def test_a_run_of_adapters_says_how_to_make_one_model(run, monkeypatch):
    config = loading.load(str(HERE / "small.yaml"), ["policy.language=lora"])
    monkeypatch.chdir(run.parent)
    rewarded(run, 0.25, 0.75)
    lines = list(last_lines(Path("small"), config))
    assert lines[2] == "adapter for peft; its README.md has a program that asks it:"
    assert lines[4] == "one plain model of adapter and base:"
    assert shlex.split(lines[5]) == [
        *("gpg-vl", "export", str(run), "--to", f"{run}_merged", "--merged")
    ]
    shown = [line for line in lines if str(run) not in line]
    assert max(map(len, shown)) < 80


def test_the_page_of_a_run_is_named_where_it_is_written(run, monkeypatch):
    config = loading.load(str(HERE / "small.yaml"))
    (run / "report.html").write_text("")
    monkeypatch.chdir(run.parent)
    assert list(last_lines(Path("small"), config))[1] == f"see it: {run}/report.html"
    assert list(how_to_go_on(Path("small"), []))[2:] == [f"see it: {run}/report.html"]


def test_without_a_benchmark_nothing_is_said_about_one(run):
    config = loading.load(str(HERE / "small.yaml"), ["evaluation.benchmark=null"])
    rewarded(run, 0.25, 0.75)
    lines = list(last_lines(run, config))
    assert lines[0] == "mean reward of sampled answers: 0.250 (step 1) -> 0.750 (step 2)"
    assert lines[4] == "ask it training questions (sampled):"
    assert len(lines) == 6
    shipped = loading.load("digits")
    assert f"  gpg-vl evaluate digits --model '{run}'" in list(last_lines(run, shipped))


def test_a_stopped_run_says_what_is_saved_and_how_it_goes_on(run):
    assert list(how_to_go_on(run, ["loading libraries"])) == [
        "stopped; step 10 is saved. Go on with:",
        f"  gpg-vl train --resume '{run}'",
    ]


def test_a_run_of_several_processes_goes_on_behind_its_launcher(run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert list(how_to_go_on(run, [])) == [
        "stopped; step 10 is saved. Go on with (... = the options that it was launched with):",
        f"  accelerate launch ... -m gpg_vl train --resume '{run}'",
    ]
    with pytest.raises(
        UserError, match=r"continue it with `accelerate launch \.\.\. -m gpg_vl train"
    ):
        refuse_to_overwrite(run)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert list(how_to_go_on(run, []))[1] == f"  gpg-vl train --resume '{run}'"


@pytest.mark.parametrize(
    ("phases", "warms_up", "kept"),
    [
        (["loading the model"], True, "nothing is kept"),
        (["loading the model", "warm-up"], True, "nothing is kept"),
        (["warm-up", "trying the tasks"], True, "the warm-up is kept and will not be repeated"),
        (
            ["trying the tasks", "checking the engine", "evaluating, before"],
            True,
            "the warm-up is kept and will not be repeated",
        ),
        (["trying the tasks"], False, "nothing is kept"),
    ],
)
def test_before_the_first_step_it_says_what_is_kept(phases, warms_up, kept, tmp_path):
    assert list(how_to_go_on(tmp_path, phases, warms_up=warms_up)) == [
        f"stopped before the first step ({phases[-1]}); {kept}: start again with the same command"
    ]
