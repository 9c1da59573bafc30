"""The run folder, the numbers of a step, added up by hand, and the timer."""

import gzip
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from gpg_vl import run_folder
from gpg_vl.errors import UserError
from gpg_vl.rollout import timer as timing
from gpg_vl.rollout.timer import Timer
from gpg_vl.run_folder import RunFolder, log, machine
from gpg_vl.training import metrics, resume_check
from gpg_vl.training.metrics import StepStatistics
from gpg_vl.types import Group, LeftOut, Sample, Update, Verdict
from tests.hand_made import completion, prompt

TIME = "2026-11-30T08:22:05.117+00:00"
PNG, JPG, WEBP, GIF = b"\x89PNG\r\n", b"\xff\xd8\xff", b"RIFF1234WEBP", b"GIF89a"


def group(
    draw: int,
    rewards: list[float],
    *,
    task: str = "add",
    lengths: list[int] | None = None,
    finish: Literal["stop", "length"] = "stop",
    parts: list[dict[str, float]] | None = None,
    images: tuple[Any, ...] = (),
) -> Group:
    sample = Sample(
        id=f"q{draw}",
        question="1 + 1?",
        answer_kind="number",
        answer=2,
        tags={"task": task},
        images=images,
    )
    lengths = lengths or [1] * len(rewards)
    completions = [
        completion((5,) * length, -0.5, text=f"{place}", finish=finish, version=4)
        for place, length in enumerate(lengths)
    ]
    own_parts = parts or [{} for _ in rewards]
    verdicts = [
        Verdict(reward=reward, parts=part, answer="2", reason="right")
        for reward, part in zip(rewards, own_parts, strict=True)
    ]
    return Group(
        prompt=replace(prompt(), sample=sample),
        completions=tuple(completions),
        verdicts=tuple(verdicts),
        prompt_index=draw,
    )


# --- the numbers of a step ------------------------------------------------------------------------

MIXED = group(
    0,
    [1.0, 0.0, math.nan],
    lengths=[1, 2, 6],
    parts=[{"accuracy": 1.0, "format": 1.0}, {"accuracy": 0.0, "format": 0.5}, {}],
)
ALL_RIGHT = group(
    1,
    [1.0, 1.0, 1.0],
    task="box",
    lengths=[4, 4, 4],
    finish="length",
    parts=[{"accuracy": 1.0, "format": 0.0}] * 3,
)
ALL_WRONG = group(
    2, [0.0, math.nan, 0.0], lengths=[1, 1, 1], parts=[{"accuracy": 0.0, "format": 0.25}] * 3
)
UNSCORED = group(3, [math.nan] * 3, task="box", lengths=[2, 2, 2])
SAMPLED = [MIXED, ALL_RIGHT, ALL_WRONG, UNSCORED]


def test_the_row_of_a_step_by_hand():
    """Four groups of three answers; 2 + 3 + 2 + 0 = 7 of them scored, their rewards add up to 1
    + 3 + 0 = 4."""
    sums = metrics.step_statistics(SAMPLED, [MIXED, ALL_WRONG], full_reward=1.0)
    update = Update(metrics={"loss": 0.25, "entropy": 2.0})
    row = metrics.step_metrics(
        sums, update, rounds=3, alpha=0.75, seconds={"sample": 1.5, "update": 0.5}
    )
    assert row == pytest.approx(
        {
            "reward": 4 / 7,
            "part/accuracy": 4 / 7,
            "part/format": (1.0 + 0.5 + 0 + 0.25 * 2) / 7,
            "reward/add": 1 / 4,
            "reward/box": 3 / 3,
            "informative": 1 / 4,
            "all_max": 1 / 4,
            "all_min": 1 / 4,
            "alpha": 0.75,
            "rounds": 3,
            "faults": 1 + 0 + 1 + 3,
            "used_informative": 1,
            "length": (9 + 12 + 3 + 6) / 12,
            "truncated": 3 / 12,
            "skipped": 0,
            "loss": 0.25,
            "entropy": 2.0,
            "seconds/sample": 1.5,
            "seconds/update": 0.5,
            "seconds": 2.0,
            "tokens_per_second": 30 / 2.0,
        }
    )


@pytest.mark.parametrize(
    ("rewards", "full_reward", "all_max", "all_min"),
    [
        ([1.0, 1.0], 1.0, 1, 0),
        ([1.0, 1.0], 1.5, 0, 0),  # accuracy 1 and format 0.5: the format was missed by all
        ([1.5, 1.5], 1.5, 1, 0),
        ([0.1 + 0.2, 0.3], 0.3, 1, 0),  # rounding is no difference
        ([0.5, 0.5], 1.0, 0, 0),
        ([0.0, 0.0], 1.0, 0, 1),
        ([0.0, 1.0], 1.0, 0, 0),
        ([math.nan, 1.0], 1.0, 1, 0),
        ([math.nan, math.nan], 1.0, 0, 0),
    ],
)
def test_groups_that_are_all_right_or_all_wrong_are_counted(rewards, full_reward, all_max, all_min):
    sums = metrics.step_statistics([group(0, rewards)], [], full_reward)
    assert (sums["all_max"], sums["all_min"]) == (all_max, all_min)


def test_sums_of_several_processes_are_the_sums_of_all_groups():
    apart = [
        metrics.step_statistics(SAMPLED[:1], [MIXED], 1.0),
        metrics.step_statistics(SAMPLED[1:], [], 1.0),
        metrics.step_statistics([], [], 1.0),
    ]
    assert metrics.sum_statistics(apart) == metrics.step_statistics(SAMPLED, [MIXED], 1.0)
    assert metrics.sum_statistics([]) == StepStatistics()


def test_a_step_that_sampled_nothing_has_a_row():
    row = metrics.step_metrics(
        metrics.step_statistics([], [], 1.0),
        Update(skipped="no informative group"),
        rounds=1,
        alpha=0.0,
        seconds={},
    )
    assert (
        row["reward"],
        row["length"],
        row["skipped"],
        row["seconds"],
        row["tokens_per_second"],
    ) == (0, 0, 1.0, 0, 0)


def strict(path: Path) -> Any:
    """Read a file as parsers of JSON do that take no token NaN."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{path}: {token}")

    return json.loads(path.read_text(), parse_constant=refuse)


# --- the files ------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def test_what_was_drawn_is_written_once_and_what_was_used_is_marked(tmp_path):
    """Group 9 was carried over: used, and not drawn in this step."""
    carried = group(9, [1.0, 0.0])
    weights = [[0.5, -0.5], [0.25, 0.0, math.nan]]
    RunFolder(tmp_path).rollouts(51, [carried, MIXED], [MIXED, ALL_RIGHT], weights)
    written = rows(tmp_path / "rollouts" / "000051.jsonl.gz")
    assert [(row["draw"], row["used"]) for row in written] == [(9, True), (0, True), (1, False)]
    of_answers = [[answer["weight"] for answer in row["answers"]] for row in written]
    assert of_answers == [[0.5, -0.5], [0.25, 0.0, None], [None] * 3], "null: it has none"
    RunFolder(tmp_path, rank=2).rollouts(51, [], [ALL_RIGHT])
    assert [row["draw"] for row in rows(tmp_path / "rollouts" / "000051.rank2.jsonl.gz")] == [1]


def test_a_group_is_written_word_for_word():
    made = run_folder.group_row(
        group(
            4,
            [math.nan, 1.0],
            lengths=[2, 1],
            parts=[{}, {"accuracy": 1.0}],
            images=(Path("a/b.png"), PNG),
        ),
        used=True,
        weights=[0.0, -0.25],
    )
    assert made.keys() == {
        "draw",
        "used",
        "id",
        "source",
        "question",
        "truth",
        "tags",
        "images",
        "answers",
    }
    assert (
        made["draw"],
        made["used"],
        made["id"],
        made["question"],
        made["truth"],
        made["tags"],
    ) == (4, True, "q4", "1 + 1?", 2, {"task": "add"})
    assert made["images"] == [
        {"file": None, "original": str(Path.cwd() / "a" / "b.png")},
        {"file": None},
    ]
    first, second = made["answers"]
    assert first == {
        "text": "0",
        "token_ids": [5, 5],
        "logprobs": [-0.5, -0.5],
        "finish": "stop",
        "version": 4,
        "reward": None,
        "parts": {},
        "answer": "2",
        "reason": "right",
        "weight": 0.0,
    }
    assert (second["reward"], second["parts"], second["weight"]) == (1.0, {"accuracy": 1.0}, -0.25)


def test_the_same_step_makes_the_same_bytes(tmp_path):
    """Runs are compared file by file: no time and no name is in the archive."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).rollouts(1, [], [MIXED])
    one, two = (
        (tmp_path / name / "rollouts" / "000001.jsonl.gz").read_bytes() for name in ("one", "two")
    )
    assert one == two
    assert one[3:8] == b"\0\0\0\0\0"  # no flags, so no name; and four bytes of no time


def test_no_number_is_null_in_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "now", lambda: TIME)
    written = RunFolder(tmp_path)
    written.metrics(1, {"reward": math.nan, "loss": math.inf, "lr": -math.inf, "alpha": 0.5})
    assert strict(tmp_path / "metrics.jsonl") == {
        "step": 1,
        "time": TIME,
        "reward": None,
        "loss": None,
        "lr": None,
        "alpha": 0.5,
    }
    written.rollouts(1, [], [UNSCORED])
    assert [
        answer["reward"] for answer in rows(tmp_path / "rollouts" / "000001.jsonl.gz")[0]["answers"]
    ] == [None] * 3
    path = written.dump(1, "non-finite loss", [UNSCORED], [[math.nan, math.inf, 0.5]])
    answers = strict(path)["groups"][0]["answers"]
    assert answers[0]["reward"] is None
    assert [answer["weight"] for answer in answers] == [None, None, 0.5]


def test_metrics_are_appended_and_every_callback_is_called(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "now", lambda: TIME)
    calls: list[Any] = []
    written = RunFolder(
        tmp_path,
        [
            lambda step, numbers: calls.append((1, step, numbers)),
            lambda step, numbers: calls.append((2, step, numbers)),
        ],
    )
    written.metrics(1, {"reward": 0.5})
    written.metrics(2, {"reward": 0.75})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "time": TIME, "reward": 0.5},
        {"step": 2, "time": TIME, "reward": 0.75},
    ]
    assert calls == [
        (1, 1, {"reward": 0.5}),
        (2, 1, {"reward": 0.5}),
        (1, 2, {"reward": 0.75}),
        (2, 2, {"reward": 0.75}),
    ]
    other = RunFolder(tmp_path, [lambda step, numbers: calls.append(step)], rank=1)
    other.metrics(3, {"reward": 1.0})
    assert len(calls) == 4, "only the main process calls them"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_trackers_are_closed_and_callbacks_of_the_caller_are_not(tmp_path):
    events: list[str] = []

    class Tracker:
        def __call__(self, step, numbers):
            events.append("metrics")

        def close(self):
            events.append("closed")

    class Display:
        def __call__(self, step, numbers):
            events.append("display")

        def close(self):
            events.append("not mine to close")

    written = RunFolder(tmp_path, [Display()], trackers=[Tracker()])
    written.metrics(1, {"reward": 0.5})
    written.close()
    assert events == ["display", "metrics", "closed"]


@pytest.mark.parametrize(("rank", "name"), [(0, "000007.json"), (3, "000007.rank3.json")])
def test_a_bad_batch_is_kept_with_its_reason(rank, name, tmp_path):
    weights = [[0.5, -0.5, 0.0], [0.0] * 3]
    folder = RunFolder(tmp_path, rank=rank)
    path = folder.dump(7, "non-finite gradient", [MIXED, ALL_RIGHT], weights)
    assert path == tmp_path / "bad_steps" / name
    found = json.loads(path.read_text())
    assert (found["step"], found["reason"], [row["draw"] for row in found["groups"]]) == (
        7,
        "non-finite gradient",
        [0, 1],
    )
    assert {row["used"] for row in found["groups"]} == {True}


@pytest.mark.parametrize(
    ("start", "kind"),
    [(PNG, "png"), (JPG, "jpg"), (WEBP, "webp"), (GIF, "gif"), (b"BM12", "image"), (b"", "image")],
)
def test_a_picture_is_named_after_its_content(start, kind):
    name = run_folder.image_name(start + b"1")
    assert name.endswith(f".{kind}")
    assert len(name.partition(".")[0]) == 16
    assert name == run_folder.image_name(start + b"1") != run_folder.image_name(start + b"2")


def test_a_run_goes_back_to_a_step_and_not_beyond(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "now", lambda: "T")
    written = RunFolder(tmp_path)
    for step in (1, 2, 3):
        written.metrics(step, {"reward": 0.5})
        for rank in (0, 1):
            RunFolder(tmp_path, rank=rank).rollouts(step, [], [MIXED])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')  # killed while it was writing
    RunFolder(tmp_path, rank=1).rewind(2)
    assert len(list((tmp_path / "rollouts").iterdir())) == 6, "the main process does"
    written.rewind(2)
    rewound = '{"step": 1, "time": "T", "reward": 0.5}\n{"step": 2, "time": "T", "reward": 0.5}\n'
    assert (tmp_path / "metrics.jsonl").read_text() == rewound
    assert {path.name for path in (tmp_path / "rollouts").iterdir()} == {
        f"00000{step}{rank}.jsonl.gz" for step in (1, 2) for rank in ("", ".rank1")
    }
    RunFolder(tmp_path / "new").rewind(0)


# --- what is left out -----------------------------------------------------------------------------


def listed(folder: Path) -> list[tuple[int, str, str, str]]:
    lines = (folder / "left_out.jsonl").read_text("utf-8").split("\n")[:-1]
    rows = [json.loads(line) for line in lines]
    return [(row["step"], row["source"], row["id"], row["why"]) for row in rows]


def test_each_row_that_is_lost_is_listed_once(tmp_path):
    folder = RunFolder(tmp_path)
    folder.unused_rows([LeftOut("a", "no number"), LeftOut("a", "no picture")])
    gone, cut = LeftOut("a", "gone", "x"), LeftOut("a", "cut é", "y")
    assert folder.lost_rows(3, [gone]) == [gone]
    assert folder.lost_rows(4, [gone, cut, gone]) == [cut]
    assert folder.lost_rows(5, [cut]) == []
    assert folder.num_lost_rows == 2
    assert listed(tmp_path) == [
        (0, "", "a", "no number"),
        (0, "", "a", "no picture"),
        (3, "x", "a", "gone"),
        (4, "y", "a", "cut é"),
    ]


def test_a_run_that_goes_on_lists_no_row_twice_and_forgets_later_steps(tmp_path):
    folder = RunFolder(tmp_path)
    folder.unused_rows([LeftOut("a", "no number", "x")])
    one, two = LeftOut("one", "gone \u2028 line", "x"), LeftOut("two", "gone", "x")
    folder.lost_rows(3, [one])
    folder.lost_rows(5, [two])
    with (tmp_path / "left_out.jsonl").open("a") as file:
        file.write('{"step": 6, "id"')  # killed while it was writing
    again = RunFolder(tmp_path)
    again.rewind(4)
    assert again.num_lost_rows == 1
    assert again.lost_rows(5, [one, two]) == [two]
    assert again.num_lost_rows == 2
    assert [row[:3] for row in listed(tmp_path)] == [
        (0, "x", "a"),
        (3, "x", "one"),
        (5, "x", "two"),
    ]


def test_a_run_that_goes_on_lists_what_reading_leaves_out_now(tmp_path):
    begun = RunFolder(tmp_path)
    begun.unused_rows([LeftOut("a", "no number", "x"), LeftOut("b", "gone", "x")])
    begun.lost_rows(3, [LeftOut("one", "cut", "x")])
    with begun.left_out_path.open("a") as file:
        file.write('{"step": 6, "id"')  # killed while it was writing
    RunFolder(tmp_path).unused_rows([LeftOut("c", "gone", "x")], is_resumed=True)
    assert listed(tmp_path) == [(0, "x", "c", "gone"), (3, "x", "one", "cut")]
    assert run_folder.left_out_rows(tmp_path) == [
        (0, LeftOut("c", "gone", "x")),
        (3, LeftOut("one", "cut", "x")),
    ]


def test_a_row_that_a_step_lost_and_reading_leaves_out_now_is_listed_once(tmp_path):
    RunFolder(tmp_path).lost_rows(3, [LeftOut("a", "gone", "x"), LeftOut("a", "gone", "y")])
    RunFolder(tmp_path).unused_rows([LeftOut("a", "gone", "x")], is_resumed=True)
    assert listed(tmp_path) == [(0, "x", "a", "gone"), (3, "y", "a", "gone")]


def test_a_new_run_begins_its_list_anew_and_only_the_main_process_writes(tmp_path):
    (tmp_path / "left_out.jsonl").write_text("of a run that was killed\n")
    other = RunFolder(tmp_path, rank=1)
    other.unused_rows([LeftOut("a", "why")])
    assert other.lost_rows(1, [LeftOut("b", "why")]) == []
    assert other.num_lost_rows == 0
    assert (tmp_path / "left_out.jsonl").read_text() == "of a run that was killed\n"
    RunFolder(tmp_path).unused_rows([])
    assert not (tmp_path / "left_out.jsonl").exists()


def test_half_a_letter_in_an_id_is_written_as_a_question_mark(tmp_path):
    RunFolder(tmp_path).lost_rows(1, [LeftOut("\ud83d", "why")])
    assert listed(tmp_path) == [(1, "", "?", "why")]


# --- a new run ------------------------------------------------------------------------------------


def test_a_run_is_written_over_by_nobody(tmp_path):
    run = tmp_path / "deep" / "run"
    run_folder.refuse_to_overwrite(run)
    assert not run.parent.exists()
    run_folder.make_parent(run)
    assert run.parent.is_dir()
    assert not run.exists()
    (run / "checkpoints" / "000000.part").mkdir(parents=True)
    (run / "rollouts").mkdir()
    run_folder.refuse_to_overwrite(run)  # killed before it had saved anything
    (run / "metrics.jsonl").write_text('{"step": 0, "time": "T", "warmup/step": 1}\n')
    run_folder.refuse_to_overwrite(run)  # killed after its warm-up
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "time": "T"}\n')
    with pytest.raises(
        UserError, match=r"holds a run already; continue it with `gpg-vl train --resume .*run`"
    ):
        run_folder.refuse_to_overwrite(run)
    (run / "metrics.jsonl").unlink()
    (run / "checkpoints" / "000000").mkdir()
    (run / "checkpoints" / "000000" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run already"):
        run_folder.refuse_to_overwrite(run)


def test_a_folder_that_cannot_be_made_has_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"folder: .* cannot be made: .*; choose another `folder=`"):
        run_folder.make_parent(tmp_path / "file" / "below" / "run")


def test_what_runs_and_where_is_written_down_also_when_a_run_goes_on(tmp_path):
    for words in ("first", "second"):
        run_folder.write_header(
            tmp_path / "run", f"name: {words}\n", {"threads": 1, "config_folder": f"/{words}"}
        )
        assert (tmp_path / "run" / "config.yaml").read_text() == f"name: {words}\n"
        assert run_folder.read_environment(tmp_path / "run") == {
            "threads": 1,
            "config_folder": f"/{words}",
            "starts": [],
        }
        assert run_folder.config_folder(tmp_path / "run") == Path(f"/{words}")


def test_a_run_that_is_killed_while_it_is_resumed_keeps_its_header(tmp_path, monkeypatch):
    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    run_folder.write_header(tmp_path, "name: é\n", {"threads": 1})
    resume_check.write(tmp_path, {"data": "a"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        for write in (
            lambda: run_folder.write_header(tmp_path, "name: b\n", {"threads": 2}),
            lambda: resume_check.write(tmp_path, {"data": "b"}),
        ):
            with pytest.raises(KeyboardInterrupt):
                write()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_environment_names_versions_and_what_it_is_reported(monkeypatch):
    environment = run_folder.environment(threads=3, device="cpu")
    machine_facts = {"python", "platform", "packages", "cpu", "cores", "memory_gb", "driver"}
    assert environment.keys() == machine_facts | {"threads", "device", "starts"}
    assert re.fullmatch(r"3\.\d+\.\d+\S*", environment["python"])
    installed = environment["packages"]
    required = {"torch", "transformers", "accelerate", "numpy", "pillow", "tokenizers"}
    assert required <= installed.keys()
    monkeypatch.setattr(machine, "version", lambda name: "1")  # as if all of them were there
    every = {
        "gpg_vl",
        "torch",
        "transformers",
        "accelerate",
        "numpy",
        "pillow",
        "tokenizers",
        "torchvision",
        "vllm",
    }
    assert set(run_folder.environment()["packages"]) == every
    monkeypatch.undo()
    assert all(installed.values()), "what is not installed is not named"
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package-anywhere"))
    assert run_folder.environment()["packages"].keys() == {"torch"}


# --- the clock ------------------------------------------------------------------------------------


def test_seconds_are_added_up_by_phase_until_they_are_read(monkeypatch):
    ticks = iter([0.0, 1.0, 10.0, 12.5, 20.0, 24.0, 30.0, 30.5])
    monkeypatch.setattr(timing, "perf_counter", lambda: next(ticks))
    timer = Timer()
    with timer("sample"):
        pass
    with timer("update"):
        pass
    with pytest.raises(ValueError, match="broken"), timer("sample"):
        raise ValueError("broken")
    assert timer.read() == {"sample": 5.0, "update": 2.5}
    assert timer.read() == {}
    with timer("sample"):
        pass
    assert timer.read() == {"sample": 0.5}
