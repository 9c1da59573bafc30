"""What a person sees: lines of progress, tables, and the sentences of the commands, without a process for each."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console

from gpg_vl import cli, journal, loading, shelves
from gpg_vl.benchmark import Record
from gpg_vl.comparison import Comparison
from gpg_vl.config import BenchmarkSpec, Source
from gpg_vl.display import Counting, Display, paired_table, precision_table, results_table, summary
from gpg_vl.intervals import Interval
from gpg_vl.training import trackers
from gpg_vl.types import UserError

HERE = Path(__file__).parent


METRICS = {"reward": 0.5, "informative": 0.25, "alpha": 1.5, "seconds/sample": 1.25, "seconds/update": 0.5, "loss": 3.0}
SHOWN = "reward 0.500  informative 25 %  alpha 1.50  sample 1.25 update 0.50 s"

# --- progress ---------------------------------------------------------------------------------------------------------


def test_a_step_is_shown_as_one_line_and_a_skipped_one_says_so():
    assert summary(METRICS) == SHOWN
    assert summary({**METRICS, "skipped": 1.0}) == f"skipped  {SHOWN}"
    assert summary({**METRICS, "skipped": 0.0}) == SHOWN


@pytest.mark.parametrize(
    ("total", "told"),
    [(4, [1, 2, 3, 4]), (40, [1, *range(2, 41, 2)]), (45, [1, *range(2, 46, 2), 45]), (3000, [1, *range(150, 3001, 150)])],
)
def test_elsewhere_than_on_a_terminal_about_twenty_steps_are_told(total, told, capsys):
    shown = Console(width=100, force_terminal=False)
    with Display(shown, total) as display:
        for step in range(1, total + 1):
            display.step(step, METRICS)
        display.say("[a] line")
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("step")] == [f"step {step}/{total}  {SHOWN}" for step in told]
    assert printed[-1] == "[a] line"


def test_questions_are_counted_in_about_twenty_lines(capsys):
    with Counting(Console(width=100, force_terminal=False)) as counting:
        for done in range(101):
            counting.told("small", done, 100)
        counting.told("empty", 0, 0)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:20] == [f"small: {done} of 100 questions" for done in range(5, 101, 5)]


# --- tables -----------------------------------------------------------------------------------------------------------


def record(number: int, tag: str, greedy: float, each: tuple[float, ...] = (), **more: Any) -> Record:
    return Record(id=f"q{number}", tag=tag, greedy=greedy, sampled=math.nan, text="", answer="", reason="", each=each, **more)


def cells(table: Any) -> list[list[str]]:
    """Rows of a table as they stand in it."""
    return [list(row) for row in zip(*(list(column.cells) for column in table.columns), strict=True)]


def test_results_by_task_by_hand():
    """Two tasks; pass@1, 2 and 3 of three answers; how many kept the format."""
    rows = [
        record(1, "[a]", 1.0, (1.0, 0.0, 0.0), well_formed=1.0),
        record(2, "[a]", 0.0, (0.0, 0.0, 1.0)),
        record(3, "b", 1.0, (1.0,) * 3),
    ]
    spec = BenchmarkSpec(name="small", data=(Source(recipe="digits"),), totals={"all": ()})
    made = cells(results_table("title", rows, spec))
    assert [row[:3] for row in made] == [
        ["\\[a]", "2", "greedy"],
        ["", "", "pass@1"],
        ["", "", "pass@2"],
        ["", "", "pass@3"],
        ["", "", "well-formed"],
        ["b", "1", "greedy"],
        ["", "", "pass@1"],
        ["", "", "pass@2"],
        ["", "", "pass@3"],
        ["all", "3", "greedy"],
    ]
    means = [row[3].replace("\\", "").partition(" ")[0] for row in made]
    assert means == ["50.0", "33.3", "66.7", "100.0", "100.0", "100.0", "100.0", "100.0", "100.0", "66.7"]


def test_a_second_reading_stands_beside_where_there_is_one():
    spec = BenchmarkSpec(name="small", data=(Source(recipe="digits"),), beside="reference")
    both = cells(results_table("title", [record(1, "a", 1.0, beside=0.0), record(2, "a", 1.0, beside=1.0)], spec))
    assert [row[2] for row in both] == ["greedy", "reference"]
    assert both[1][3].startswith("50.0")
    assert [row[2] for row in cells(results_table("title", [record(1, "a", 1.0)], spec))] == ["greedy"]
    assert [row[2] for row in cells(results_table("title", [record(1, "a", 1.0, beside=0.0)]))] == ["greedy"]


def test_two_evaluations_stand_side_by_side():
    first, second, difference = (Interval(mean=mean, low=0.1, high=0.9, count=4) for mean in (0.25, 0.75, 0.5))
    row = Comparison(name="all", first=first, second=second, difference=difference, gained=3, lost=1, p=0.0312)
    made = cells(paired_table("title", [row], ("before", "after")))
    assert [cell[:3] for cell in made] == [
        ["all", "4", "before"],
        ["", "", "after"],
        ["", "", "difference"],
        ["", "", "better, worse"],
    ]
    assert [cell[3].replace("\\", "") for cell in made] == [str(first), str(second), str(difference), "3, 1 questions, p = 0.031"]
    assert cells(precision_table("title", {"AP": first}))[0][:2] == ["AP", "4"]


# --- words of the commands --------------------------------------------------------------------------------------------


def refused(told: str) -> Any:
    return pytest.raises(UserError, match=told)


@pytest.mark.parametrize(
    ("names", "model", "answers", "columns", "blank", "told"),
    [
        (["a"], "m", None, None, False, ""),
        (["a", "b"], "m", None, None, True, ""),
        (["a"], None, Path("x"), ["id=i"], False, ""),
        ([], "m", None, None, False, "no benchmark named; shipped: "),
        (["a"], None, None, None, False, "expected exactly one of --model"),
        (["a"], "m", Path("x"), None, False, "expected exactly one of --model"),
        (["a"], None, Path("x"), None, True, "--blank shows a model grey pictures"),
        (["a", "b"], None, Path("x"), None, False, "--answers belongs to one benchmark, got 2: name one"),
        (["a"], "m", None, ["id=i"], False, "--map names the columns of an --answers file; there is none"),
    ],
)
def test_options_that_do_not_go_together_are_told(names, model, answers, columns, blank, told):
    if not told:
        cli._check_evaluation(names, model, answers, columns, blank)
        return
    with refused(told):
        cli._check_evaluation(names, model, answers, columns, blank)


def test_records_of_one_benchmark_are_a_file_and_of_several_a_folder_of_files(tmp_path):
    assert cli._places(["a", "b"], None)("a") is None
    assert cli._places(["a"], tmp_path / "x.jsonl")("a") == tmp_path / "x.jsonl"
    several = cli._places(["a", "dir/b.yaml"], tmp_path / "new")
    assert [several("a"), several("dir/b.yaml")] == [tmp_path / "new" / "a.jsonl", tmp_path / "new" / "b.jsonl"]
    (tmp_path / "file").write_text("")
    for names, to, told in (
        (["a"], tmp_path / "file" / "x.jsonl", "a folder above it is a file"),
        (["a"], tmp_path, "is a folder, expected a .jsonl file for one benchmark, for instance .*a.jsonl"),
        (["a", "b"], tmp_path / "file", "is a file, expected a folder for 2 benchmarks"),
        (["a", "dir/a.yaml"], tmp_path, "several benchmarks would be written to a.jsonl"),
    ):
        with refused(told):
            cli._places(names, to)


def test_a_config_is_named_or_left_out_or_that_of_the_run(tmp_path):
    config, folder = cli._load("", ["steps=7"], None)
    assert (config.name, config.steps, folder) == ("digits", 7, shelves.folder("configs"))
    config, _ = cli._load("steps=7", ["seed=3"], None)
    assert (config.name, config.steps, config.seed) == ("digits", 7, 3)
    config, folder = cli._load(str(HERE / "small.yaml"), [], None)
    assert (config.name, folder) == ("small", HERE)
    with refused(r"--resume .*: no config\.yaml there, so it is not a run folder"):
        cli._load("", [], tmp_path)
    journal.start(tmp_path, loading.dump(config), {"config_folder": str(HERE)})
    config, folder = cli._load("", ["steps=9"], tmp_path)
    assert (config.name, config.steps, folder) == ("small", 9, HERE)
    with refused("got both CONFIG 'digits' and --resume .*; a run goes on with its own config"):
        cli._load("digits", [], tmp_path)


def test_how_to_go_on_is_told_by_the_last_whole_checkpoint(tmp_path):
    assert cli._how_to_go_on(tmp_path) == "stopped before the first checkpoint; start again with the same command"
    for step in (2, 10):
        (tmp_path / "checkpoints" / f"{step:06d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"{step:06d}" / "state.json").write_text("{}")
    assert cli._how_to_go_on(tmp_path) == f"stopped; go on from step 10 with: gpg-vl train --resume {tmp_path}"


def test_a_mistake_is_a_sentence_and_a_bug_keeps_its_trace(capsys):
    def mistaken() -> None:
        raise UserError("[a] mistake")

    def broken() -> None:
        raise KeyError("bug")

    with pytest.raises(typer.Exit) as left:
        cli.sentences(mistaken)()
    assert left.value.exit_code == 2
    assert capsys.readouterr().err == "gpg-vl: [a] mistake\n"
    with pytest.raises(KeyError):
        cli.sentences(broken)()
    assert cli.sentences(lambda number: number + 1)(2) == 3


@pytest.mark.parametrize("rank", ["0", "1"])
def test_results_are_told_by_the_main_process(rank, tmp_path, monkeypatch):
    from gpg_vl.training import train

    monkeypatch.setenv("RANK", rank)
    told: list[Any] = []
    asked: list[Any] = []
    monkeypatch.setattr(cli, "_quiet", lambda: None)
    monkeypatch.setattr(cli, "_tell_results", told.append)
    monkeypatch.setattr(train, "train", lambda *given, **more: asked.append((given, more)) or tmp_path)
    cli.train(str(HERE / "small.yaml"), ["steps=3"], None, True)
    assert told == [tmp_path] * (rank == "0")
    ((config, folder), more) = asked[0]
    assert (config.steps, folder, more["resume"], more["allow_changed"], len(more["sinks"])) == (3, HERE, None, True, 1)


def test_a_run_that_is_stopped_says_how_to_go_on_and_ends_with_130(tmp_path, monkeypatch, capsys):
    from gpg_vl.training import train

    def stopped(*given: Any, **more: Any) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_quiet", lambda: None)
    monkeypatch.setattr(train, "train", stopped)
    with pytest.raises(typer.Exit) as left:
        cli.train(str(HERE / "small.yaml"), [f"folder={tmp_path}"], None, False)
    assert left.value.exit_code == 130
    assert "stopped before the first checkpoint; start again with the same command" in capsys.readouterr().out


def test_before_and_after_are_compared_where_both_are_there(tmp_path, monkeypatch):
    (tmp_path / "evaluation").mkdir()
    for name in ("a-before", "a-after", "b-before", "a-000002"):
        (tmp_path / "evaluation" / f"{name}.jsonl").write_text(json.dumps({"id": "q1"}))
    compared: list[Any] = []
    monkeypatch.setattr("gpg_vl.benchmark.load", lambda path: path.stem)
    monkeypatch.setattr("gpg_vl.display.comparison_table", lambda before, after: compared.append((before, after)) or "table")
    cli._tell_results(tmp_path)
    assert compared == [("a-before", "a-after")]


# --- trackers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_is_told_the_run_its_config_and_every_step(name, tmp_path, monkeypatch):
    told: list[Any] = []

    def log(metrics: Any, *, step: int) -> None:
        told.append((step, metrics))

    package = SimpleNamespace(init=lambda **given: told.append(given) or SimpleNamespace(log=log), log=log)
    monkeypatch.setattr(trackers, "import_module", lambda asked: package if asked == name else pytest.fail(asked))
    sink = trackers.open_tracker(name, tmp_path / "mine", {"steps": 2})
    sink(3, {"reward": 0.5})
    assert told[0]["name"] == "mine"
    assert (told[0]["project"], told[0]["config"], told[0]["resume"]) == ("gpg_vl", {"steps": 2}, "allow")
    assert name == "trackio" or (told[0]["id"], told[0]["dir"]) == ("mine", str(tmp_path / "mine"))
    assert told[1:] == [(3, {"reward": 0.5})]


def test_every_tracker_that_is_named_must_be_there(monkeypatch):
    def there(name: str) -> Any:
        if name == "wandb":
            raise ModuleNotFoundError(name)

    monkeypatch.setattr(trackers, "import_module", there)
    trackers.check_installed(["trackio", "tensorboard"])
    with refused(r"trackers: wandb is not installed; pip install 'gpg-vl\[trackers\]'"):
        trackers.check_installed(["trackio", "wandb"])


def test_on_a_terminal_a_bar_shows_the_step_and_no_line_is_told(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    shown = Console(width=160, force_terminal=True, record=True)
    display = Display(shown, 40)  # its bar is not started: nothing is drawn
    display.step(7, METRICS)
    (task,) = display.bar.tasks
    assert (task.completed, task.total, task.fields["numbers"]) == (7, 40, SHOWN)
    assert shown.export_text() == ""
    assert not display.bar.disable
    assert Display(Console(force_terminal=False), 40).bar.disable
    counting = Counting(shown)
    counting.told("[a]", 50, 100)
    assert counting.status.status == "\\[a]: 50 of 100 questions"
    assert shown.export_text() == ""
