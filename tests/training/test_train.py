"""Whole runs: what a run folder holds, what stops a run, and that a resumed run goes on where it
was."""

import gzip
import json
import re
import shlex
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl import run_folder
from gpg_vl.config import loading
from gpg_vl.config.schema import Config, Source
from gpg_vl.data import rows as sample_rows
from gpg_vl.data.recipes.digits import digits
from gpg_vl.errors import UserError
from gpg_vl.evaluation import evaluate
from gpg_vl.evaluation import records as eval_records
from gpg_vl.experiment import Experiment, Log
from gpg_vl.training import learner, loop, setup
from gpg_vl.training.processes import Processes
from tests.strict_json import strict_rows

HERE = Path(__file__).parents[1]


def small(folder: Path, *overrides: str) -> Config:
    return loading.load(str(HERE / "small.yaml"), [f"folder={folder}", *overrides])


def train(config: Config, log: Log = lambda line: None, **options) -> Path:
    return loop.train(Experiment.resolve(config), log=log, **options)


def run(folder: Path, *overrides: str, **options) -> Path:
    return train(small(folder, *overrides), **options)


def set_up(config: Config, log: Log = lambda line: None) -> setup.TrainingRun:
    return setup.set_up(Experiment.resolve(config), log=log)


@pytest.fixture(scope="module")
def warmups(tmp_path_factory) -> Path:
    """A folder where the small warm-up has been done once; runs of this module share it."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def whole(warmups) -> tuple[Path, list[str]]:
    """A finished run, and what it logged."""
    lines: list[str] = []
    callbacks = [lambda step, row: lines.append(f"step {step}")]
    done = train(small(warmups, "name=whole"), lines.append, callbacks=callbacks)
    return done, lines


def metrics(run: Path) -> list[dict[str, float]]:
    """Return the rows of the training steps, without the time of day."""
    return timeless(run, "step")


def of_the_machine(key: str) -> bool:
    """True for figures that differ between two equal runs: time and memory."""
    return "second" in key or key == "memory_gb"


def timeless(run: Path, kind: Literal["step", "held_out", "warmup"]) -> list[dict[str, float]]:
    rows = run_folder.metric_rows(run, kind)
    return [{key: row[key] for key in row if key != "time"} for row in rows]


def rollouts(run: Path, step: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.open(run / "rollouts" / f"{step:06d}.jsonl.gz", "rt")]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "policy" / "model.safetensors")


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_run_folder_holds_all_there_is_to_know(warmups, whole):
    done, lines = whole
    assert done == warmups / "whole"
    # `auto`, resolved on a CPU
    settled = ("learner.tokens_per_microbatch=16384", "learner.checkpointing=false")
    assert loading.load_run(done) == small(warmups, "name=whole", *settled)
    assert {"python", "packages", "threads", "image_backend"} <= set(
        json.loads((done / "environment.json").read_text())
    )
    rows = metrics(done)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    logged = {
        "reward",
        "part/accuracy",
        "part/format",
        "reward/add",
        "informative",
        "all_max",
        "all_min",
        "alpha",
        "rounds",
        "length",
    }
    logged |= {
        "truncated",
        "entropy",
        "grad_norm",
        "clipped",
        "tokens_per_second",
        "memory_gb",
        "seconds/encode",
        "seconds/sample",
        "seconds/score",
    }
    trained = next(row for row in rows if not row["skipped"])
    assert logged | {"seconds/update", "faults", "lr"} <= set(trained)
    row = rollouts(done, 1)[0]
    assert {"id", "question", "truth", "used", "answers"} <= set(row)
    assert {"text", "reward", "parts", "reason", "logprobs", "version"} <= set(row["answers"][0])  # type: ignore[index]
    assert [path.name for path in sorted((done / "checkpoints").iterdir())] == ["000002", "000004"]
    assert {path.name for path in (done / "evaluation").iterdir()} == {
        "small-before.jsonl",
        "small-000002.jsonl",
        "small-after.jsonl",
        "small-blank.jsonl",
        "pictures",
    }
    for when, step in (("before", 0), ("000002", 2), ("after", 4)):
        records = strict_rows(done / "evaluation" / f"small-{when}.jsonl")
        assert records[0]["about"]["model"] == f"whole, step {step}"
        assert records[0]["settings"]["prompt"] == "answer"
        assert all({"question", "truth", "kind"} <= record.keys() for record in records)
        assert [record["id"] for record in records if record.get("images")], "of choices"
    assert "step 4" in lines
    assert any(line.startswith("held out, after: add ") for line in lines)


def test_mean_reward_is_that_of_the_sampled_groups(whole):
    done, _ = whole
    for row in metrics(done):
        drawn = rollouts(done, int(row["step"]))
        rewards = [answer["reward"] for group in drawn for answer in group["answers"]]  # type: ignore[attr-defined]
        assert row["reward"] == pytest.approx(sum(rewards) / len(rewards))
        assert len(drawn) == 4 * row["rounds"]


def test_same_config_same_run(warmups, whole):
    again = run(warmups, "name=again")
    first, _ = whole
    assert same(first / "checkpoints" / "000004", again / "checkpoints" / "000004")
    assert rollouts(first, 4) == rollouts(again, 4)
    other = run(warmups, "name=other", "seed=1", "steps=1")
    assert rollouts(first, 1) != rollouts(other, 1)


CARRYING = (
    "rollout.carry_over=1",
    "estimator.kind=gpg",
    "estimator.min_informative=1.0",
    "rollout.groups_per_step=2",
    "rollout.max_rounds=8",
)


EIGHT_BITS = ("optimizer.kind=adamw8bit", "optimizer.weight_decay=0.1", "optimizer.vision.lr=1e-4")


@pytest.mark.parametrize(("cut", "knobs"), [(2, ()), (1, CARRYING), (3, EIGHT_BITS)])
def test_four_steps_are_some_and_the_rest(cut, knobs, warmups):
    knobs = (*knobs, "checkpoint.every=1")
    whole = run(warmups, f"name=whole{cut}", *knobs)
    run(warmups, f"name=halves{cut}", *knobs, f"steps={cut}")
    state = json.loads(
        (warmups / f"halves{cut}" / "checkpoints" / f"{cut:06d}" / "state.json").read_text()
    )
    assert any(state["carried"]) == (cut == 1)  # a carried group really waits at this cut
    halves = run(warmups, f"name=halves{cut}", *knobs, resume=warmups / f"halves{cut}")
    assert same(whole / "checkpoints" / "000004", halves / "checkpoints" / "000004")
    for step in range(1, 5):
        assert rollouts(whole, step) == rollouts(halves, step)
    timeless = [
        [{key: row[key] for key in row if not of_the_machine(key)} for row in metrics(path)]
        for path in (whole, halves)
    ]
    assert timeless[0] == timeless[1]


def test_auto_is_resolved_by_the_hardware_written_down_and_kept(warmups, monkeypatch):
    done = run(warmups, "name=settled", "steps=2", "hardware.gb=24", "checkpoint.every=2")
    learner = loading.load(str(done / "config.yaml")).learner
    # the most that auto takes, on 24 GB
    assert (learner.tokens_per_microbatch, learner.checkpointing) == (65536, False)
    lines: list[str] = []
    for gb in (None, 0.001):  # neither another machine nor another wish resolves it anew
        monkeypatch.setattr(setup, "gpu_here", lambda gb=gb: gb)
        given = small(warmups, "name=settled", f"steps={3 if gb is None else 4}")
        train(given, lines.append, resume=done)
        assert loading.load(str(done / "config.yaml")).learner == learner
    assert not any("changed" in line or "warning" in line for line in lines)


def test_the_smallest_gpu_decides_for_all(warmups, monkeypatch):
    """Three processes, two of them on GPUs of 80 and of 24 GB."""
    lines, sizes, settle = list[str](), [], setup.settle

    def noted(workload):
        sizes.append(workload.machine.gb)
        return settle(workload)

    monkeypatch.setattr(setup, "settle", noted)
    monkeypatch.setattr(setup, "gpu_here", lambda: 80.0)
    monkeypatch.setattr(
        Processes,
        "all_gather",
        lambda self, value: [value, 24.0, None] if value == 80.0 else [value],
    )
    set_up(small(warmups, "name=unequal", "steps=0"), lines.append)
    assert sizes == [24.0]
    assert not any("hardware.gb" in line for line in lines)
    set_up(small(warmups, "name=overstated", "steps=0", "hardware.gb=80"), lines.append)
    assert sizes == [24.0, 80.0]
    assert any("hardware.gb is 80, the smallest GPU here has 24" in line for line in lines)


def test_a_run_that_does_not_fit_is_warned(warmups, monkeypatch):
    lines: list[str] = []
    set_up(small(warmups, "name=narrow", "steps=0", "hardware.gb=0.5"), lines.append)
    assert any(
        line.startswith("warning: 2.") and "it has 0.5; gpg-vl plan says what to change" in line
        for line in lines
    ), lines


def test_resume_drops_what_was_written_after_the_checkpoint(warmups):
    done = run(warmups, "name=rewound", "steps=3", "checkpoint.every=2")
    (done / "checkpoints" / "000003" / "state.json").unlink()  # killed while it was being written
    assert run_folder.newest_checkpoint(done).name == "000002"
    again = run(warmups, "name=rewound", "steps=3", "checkpoint.every=2", resume=done)
    assert [row["step"] for row in metrics(again)] == [1, 2, 3]
    assert len(list((again / "rollouts").iterdir())) == 3


def test_warmup_runs_once(warmups, whole):
    lines: list[str] = []
    train(small(warmups, "name=warm", "steps=0"), lines.append)
    assert any(line.startswith("warm-up: read from") for line in lines)
    assert not any(line.startswith("warm-up 40/40") for line in lines)


def test_warmup_teaches_the_format(whole):
    before = eval_records.load(whole[0] / "evaluation" / "small-before.jsonl")
    assert sum(record.reason in {"right", "wrong"} for record in before if record.tag == "add") >= 6


def test_an_existing_run_is_not_written_over(warmups, whole):
    with pytest.raises(
        UserError, match="holds a run already; continue it with `gpg-vl train --resume"
    ):
        run(warmups, "name=whole")


def test_all_wrong_stops_with_a_sentence(tmp_path):
    knobs = (
        "warmup.steps=0",
        "evaluation.benchmark=null",
        "rollout.idle_steps=2",
        "rollout.max_rounds=1",
        "rollout.max_tokens=2",
        "steps=9",
    )
    stop = r"stopped at step 2: 2 steps in a row without an informative group.*everything is wrong"
    with pytest.raises(UserError, match=stop) as stopped:
        run(tmp_path, *knobs)
    rows = metrics(tmp_path / "small")
    assert [row["skipped"] for row in rows] == [1.0, 1.0]
    anew = re.search(r"Start anew, for instance: `gpg-vl train (.*)`", str(stopped.value))
    assert anew
    name, *more = shlex.split(anew[1])
    begun = loading.load(name, more)
    assert (begun.run_path, begun.warmup.steps) == (tmp_path / "small-2", 300)
    lines: list[str] = []
    with pytest.raises(UserError, match=stop):
        train(loading.load_run(tmp_path / "small"), lines.append, resume=tmp_path / "small")
    assert any("will take the same steps again" in line for line in lines)


@pytest.mark.usefixtures("whole")  # its warm-up, which has good steps
def test_three_bad_steps_stop_with_a_sentence_and_the_batches(warmups, monkeypatch):
    monkeypatch.setattr(learner, "_clip", lambda *given: torch.tensor(float("nan")))
    with pytest.raises(UserError, match=r"3 non-finite steps in a row; lower optimizer.lr"):
        run(warmups, "name=bad", "steps=20", "rollout.idle_steps=20")
    assert len(list((warmups / "bad" / "bad_steps").iterdir())) == 3


def test_a_reference_exists_only_for_a_divergence(warmups):
    plain = small(warmups, "name=plain", "estimator=grpo", "steps=1")
    assert set_up(plain).learner.reference is None
    done = run(warmups, "name=kl", "estimator.kind=grpo", "estimator.kl=0.1", "steps=1")
    assert not metrics(done)[0]["skipped"]


@pytest.mark.parametrize("estimator", ["dr_grpo", "rloo", "reinforce"])
def test_every_estimator_runs(estimator, warmups):
    done = run(
        warmups,
        f"name={estimator}",
        f"estimator={estimator}",
        "steps=1",
        "evaluation.benchmark=null",
    )
    assert metrics(done)[0]["rounds"] == 1


def test_two_updates_need_a_ratio(warmups):
    with pytest.raises(
        UserError, match=r"learner.updates_per_rollout: 2 with estimator Gpg: Gpg has no ratio"
    ):
        run(warmups, "name=two", "learner.updates_per_rollout=2")


def test_the_divergence_is_from_the_same_reference_after_a_resume(warmups):
    knobs = ("estimator.kind=grpo", "estimator.kl=0.5", "evaluation.benchmark=null")
    whole = run(warmups, "name=kl_whole", *knobs)
    run(warmups, "name=kl_halves", *knobs, "steps=2")
    halves = run(warmups, "name=kl_halves", *knobs, resume=warmups / "kl_halves")
    assert same(whole / "checkpoints" / "000004", halves / "checkpoints" / "000004")


def test_the_best_evaluated_checkpoint_survives(warmups, monkeypatch):
    scores = iter([0.0, 0.9, 0.1, 0.1])
    unscripted = evaluate.run_benchmark

    def scripted(*args, **options):
        score = next(scores)
        return [replace(record, greedy=score) for record in unscripted(*args, **options)]

    monkeypatch.setattr(evaluate, "run_benchmark", scripted)
    done = run(
        warmups,
        "name=best",
        "steps=6",
        "evaluation.blank=false",
        "evaluation.every=2",
        "checkpoint.every=50",
        "checkpoint.keep_last=1",
    )
    assert sorted(path.name for path in (done / "checkpoints").iterdir()) == ["000002", "000006"]


def test_a_verifier_that_always_fails_is_reported_as_such(tmp_path):
    source = (
        "def broken(text, sample):\n    raise TypeError('no such column')\n\n\n"
        "def build():\n    return broken\n"
    )
    (tmp_path / "broken.py").write_text(source)
    part = {"kind": f"{tmp_path / 'broken.py'}:build"}
    knobs = (
        "rollout.idle_steps=1",
        "rollout.max_faults=1",
        "warmup.steps=0",
        "evaluation.benchmark=null",
        "reward.truncated=score",
    )
    given = small(tmp_path, *knobs)
    given = given.model_copy(
        update={"verifiers": dict.fromkeys(("number", "boxes", "choice"), part)}
    )
    lines: list[str] = []
    with pytest.raises(
        UserError, match=r"nothing could be scored: fault: TypeError: no such column"
    ):
        train(given, lines.append)
    assert any("the verifier failed on" in line for line in lines)


def test_the_evaluations_of_a_run_tell_what_they_leave_out_and_where_a_verifier_fails(tmp_path):
    rows = [
        {"id": f"q{number}", "question": "?", "answer_kind": "number", "answer": answer}
        for number, answer in enumerate((3, "many"))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {"id": "q2", "question": "?", "answer_kind": "own", "answer": "x"}
    (tmp_path / "own.jsonl").write_text(json.dumps(own) + "\n")
    (tmp_path / "own.py").write_text(
        "def own():\n    return lambda text, sample: sample.columns['weight']\n"
    )
    spec = (
        "name: some\n"
        "data: [{files: rows.jsonl}, {files: own.jsonl}]\n"
        "verifiers: {own: ./own.py:own}\n"
        "mode: lenient\n"
        "max_tokens: 3\n"
    )
    (tmp_path / "some.yaml").write_text(spec)
    lines: list[str] = []
    given = small(
        tmp_path, "steps=0", "warmup.steps=0", f"evaluation.benchmark={tmp_path / 'some.yaml'}"
    )
    train(given, lines.append)
    assert "some: 1 question is left out, 2 are asked; q1: answer 'many' is not a number" in lines
    assert (
        "warning: the verifier failed on answers to 1 question of 2, which count as wrong; q2: "
        "fault: KeyError: 'weight'" in lines
    )


def test_a_thinking_style_needs_solutions_to_imitate(tmp_path):
    with pytest.raises(UserError, match=r"prompt style requires a thought"):
        run(tmp_path, "prompt=think")


def test_a_solution_longer_than_the_limit_is_not_taught(tmp_path):
    with pytest.raises(UserError, match=r"has \d+ tokens, rollout.max_tokens is 3"):
        run(tmp_path, "rollout.max_tokens=3")


def test_nothing_is_written_before_a_mistake_is_found(tmp_path):
    with pytest.raises(UserError, match="nonesuch"):
        run(tmp_path, "evaluation.benchmark=nonesuch")
    assert not (tmp_path / "small").exists()


def test_accuracy_is_accuracy_whatever_the_reward(warmups):
    done = run(warmups, "name=paid", "steps=0", "reward.combine=sum", "reward.format=0.5")
    records = eval_records.load(done / "evaluation" / "small-before.jsonl")
    assert {record.greedy for record in records} <= {0.0, 1.0}


@pytest.fixture
def begun(warmups, request) -> Path:
    """A run of two steps on a data file and a verifier of the user's."""
    folder = warmups / request.node.name.replace("[", "_").replace("]", "")
    folder.mkdir()
    sample_rows.write(digits("add", count=12, difficulty=1), folder)
    (folder / "near.py").write_text(
        (HERE.parent / "gpg_vl" / "verifiers" / "number.py").read_text()
    )
    (folder / "mine.yaml").write_text(
        "name: begun\n" + "data: [{files: samples.jsonl}]\n"
        "prompt: answer\n"
        "steps: 2\n"
        "verifiers: {number: './near.py:Number'}\n"
        "policy:\n"
        "  vision: full\n"
        "  tiny: {hidden: 32, layers: 1, vision_hidden: 16, vision_layers: 1}\n"
        "rollout:\n"
        "  {groups_per_step: 4, group_size: 4, max_tokens: 8, max_rounds: 1, idle_steps: 50}\n"
    )
    train(loading.load(str(folder / "mine.yaml"), [f"folder={folder}"]))
    return folder


def go_on(folder: Path, *overrides: str, **options) -> list[str]:
    lines: list[str] = []
    given = loading.load_run(folder / "begun", overrides)
    train(given, lines.append, resume=folder / "begun", **options)
    return lines


def test_resume_may_go_further_and_says_what_it_restored(begun):
    lines = go_on(begun, "steps=3", "checkpoint.every=1")
    assert any(
        line.startswith(
            "resumed from step 2 of 3 (weights, optimizer, schedule, 8 prompts used, 0 groups "
            "waiting)"
        )
        for line in lines
    )


def test_resume_refuses_a_changed_config(begun):
    with pytest.raises(
        UserError,
        match=(
            r"was started with other settings or data: optimizer.lr: 1e-06 -> 0.01; "
            r"rollout.group_size: 4 -> 8\. Change it back"
        ),
    ):
        go_on(begun, "steps=3", "rollout.group_size=8", "optimizer.lr=0.01")
    assert any(
        "changed, as allowed: rollout.group_size" in line
        for line in go_on(begun, "steps=3", "rollout.group_size=8", allow_changed=True)
    )


def test_resume_refuses_changed_data(begun):
    rows = (begun / "samples.jsonl").read_text().replace("+1", "+0")
    (begun / "samples.jsonl").write_text(rows)
    with pytest.raises(UserError, match=r"the data: rows or images differ"):
        go_on(begun, "steps=3")


def test_resume_refuses_a_changed_verifier(begun):
    with (begun / "near.py").open("a") as file:
        file.write("# stricter\n")
    with pytest.raises(UserError, match=r"verifiers.number: its source file has changed"):
        go_on(begun, "steps=3")


def test_resume_tells_another_number_of_threads(begun):
    torch.set_num_threads(2)
    try:
        assert any("threads: 1 -> 2" in line for line in go_on(begun, "steps=3"))
    finally:
        torch.set_num_threads(1)


def test_a_checkpoint_carries_its_model_card(whole):
    card = (whole[0] / "checkpoints" / "000004" / "policy" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "# whole, step 4" in card
    assert "`{recipe: digits, options: {task: add, count: 40, difficulty: 1}, weight: 2}`" in card
    assert "| small-after | add | 12 |" in card


def picture_rows(folder: Path, count: int) -> None:
    sample_rows.write(digits("choice", count=count, difficulty=2), folder)


def on_pictures(folder: Path, *knobs: str) -> Config:
    source = (Source(files=str(folder / "samples.jsonl")),)
    return small(
        folder, "evaluation.benchmark=null", "warmup.steps=1", "rollout.idle_steps=50", *knobs
    ).model_copy(update={"data": source})


def test_a_picture_that_vanishes_is_left_out_and_counted(tmp_path, monkeypatch):
    picture_rows(tmp_path, 8)
    train_step = loop.train_step

    def vanishing(run):
        if run.state.step == 1:
            next(iter((tmp_path / "images").iterdir())).unlink()
        return train_step(run)

    monkeypatch.setattr(loop, "train_step", vanishing)
    lines: list[str] = []
    done = train(on_pictures(tmp_path, "rollout.max_lost=0.9"), lines.append)
    lost = [line for line in lines if "left out: " in line and "does not exist" in line]
    assert len(lost) == 1, "once, however often it is drawn"
    assert metrics(done)[-1]["lost"] >= 1
    (row,) = [json.loads(line) for line in (done / "left_out.jsonl").read_text().splitlines()]
    assert row["why"].startswith("image ")
    assert f"step {row['step']}: left out: {row['id']}: {row['why']}" in lost[0]


def test_a_few_bad_rows_are_left_out_and_the_run_goes_on_and_is_resumed(tmp_path):
    """One cut picture of eight is more than rollout.max_lost, and one row never ends a run."""
    picture_rows(tmp_path, 8)
    picture = next(iter((tmp_path / "images").iterdir()))
    whole = picture.read_bytes()
    picture.write_bytes(whole[: len(whole) // 2])
    lines: list[str] = []
    knobs = ("steps=12", "rollout.max_rounds=1", "checkpoint.every=4")
    config = on_pictures(tmp_path, *knobs)
    done = train(config, lines.append)
    assert metrics(done)[-1]["lost"] >= 2
    listed = (done / "left_out.jsonl").read_text()
    assert len(listed.splitlines()) == 1
    longer = config.model_copy(update={"steps": 16})
    train(longer, lines.append, resume=done)
    assert metrics(done)[-1]["step"] == 16
    assert (done / "left_out.jsonl").read_text() == listed


def test_data_that_are_nearly_all_bad_stop_the_run_in_its_first_steps(tmp_path):
    picture_rows(tmp_path, 40)
    for picture in sorted((tmp_path / "images").iterdir())[:-2]:
        whole = picture.read_bytes()
        picture.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"stopped at step [123]: \d+ of \d+ samples could not"):
        train(on_pictures(tmp_path, "warmup.steps=0", "rollout.max_rounds=4"))
    listed = (tmp_path / "small" / "left_out.jsonl").read_text()
    assert len(listed.splitlines()) >= 10


def test_too_many_lost_pictures_stop_the_run(tmp_path, monkeypatch):
    picture_rows(tmp_path, 8)
    train_step = loop.train_step

    def burning(run):
        for path in (tmp_path / "images").iterdir():
            path.write_bytes(b"")
        return train_step(run)

    monkeypatch.setattr(loop, "train_step", burning)
    with pytest.raises(
        UserError,
        match=(
            r"samples could not become prompts, more than rollout.max_lost = 0.05; the last: image"
        ),
    ):
        train(on_pictures(tmp_path))


def test_a_verifier_that_fails_too_often_stops_the_run(tmp_path):
    source = (
        "def moody(text, sample):\n    raise ValueError('bad hair day')\n\n\n"
        "def build():\n    return moody\n"
    )
    (tmp_path / "moody.py").write_text(source)
    part = {"kind": f"{tmp_path / 'moody.py'}:build"}
    given = small(
        tmp_path,
        "warmup.steps=0",
        "evaluation.benchmark=null",
        "reward.truncated=score",
        "rollout.idle_steps=50",
    )
    given = given.model_copy(
        update={"verifiers": dict.fromkeys(("number", "boxes", "choice"), part)}
    )
    with pytest.raises(
        UserError,
        match=(
            r"the verifier failed on \d+ of \d+ answers: fault: ValueError: bad hair day. Their "
            r"texts and traces are in"
        ),
    ):
        train(given)
    answers = [answer for group in rollouts(tmp_path / "small", 1) for answer in group["answers"]]  # type: ignore[attr-defined]
    assert all("moody.py" in answer["reason"] and answer["reward"] is None for answer in answers)


def test_a_prompt_longer_than_the_window_is_left_out_never_truncated(policy_of):
    from gpg_vl.errors import UnusableSampleError
    from gpg_vl.policy.encode import encode
    from gpg_vl.prompts import AnswerOnly

    policy = replace(policy_of(), window=20)
    short, long = next(digits("add", count=1)), next(digits("box", count=1))
    assert encode(short, AnswerOnly(), policy)
    with pytest.raises(
        UnusableSampleError, match=r"its prompt has \d+ tokens, the model's window is 20"
    ):
        encode(long, AnswerOnly(), policy)


def test_two_threads_resume_as_exactly_as_one(warmups):
    torch.set_num_threads(2)
    try:
        whole = run(warmups, "name=two_threads")
        run(warmups, "name=two_halves", "steps=2")
        halves = run(warmups, "name=two_halves", resume=warmups / "two_halves")
    finally:
        torch.set_num_threads(1)
    assert same(whole / "checkpoints" / "000004", halves / "checkpoints" / "000004")
    assert rollouts(whole, 4) == rollouts(halves, 4)


def test_a_cut_after_a_skipped_step_goes_on_the_same(warmups):
    knobs = (
        "rollout.max_rounds=1",
        "rollout.groups_per_step=1",
        "rollout.idle_steps=50",
        "evaluation.benchmark=null",
        "checkpoint.every=1",
    )
    whole = run(warmups, "name=skips", "steps=6", *knobs)
    skipped = [int(row["step"]) for row in metrics(whole) if row["skipped"]]
    assert skipped
    assert len(skipped) < 6
    cut = skipped[0] if skipped[0] < 6 else skipped[0] - 1
    run(warmups, "name=cut", f"steps={cut}", *knobs)
    halves = run(warmups, "name=cut", "steps=6", *knobs, resume=warmups / "cut")
    assert same(whole / "checkpoints" / "000006", halves / "checkpoints" / "000006")


def test_tensorboard_is_reported_every_step(warmups):
    done = run(
        warmups, "name=board", "trackers=[tensorboard]", "evaluation.benchmark=null", "steps=2"
    )
    events = import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator(str(done / "tensorboard"))
    events.Reload()
    assert [scalar.step for scalar in events.Scalars("reward")] == [1, 2]
    assert events.Scalars("reward")[1].value == pytest.approx(metrics(done)[1]["reward"])
    (last,) = events.Tensors("answers/text_summary")
    assert last.step == 2
    assert events.Tags()["images"] == []


def test_a_tracker_that_is_not_logged_in_is_found_before_weights_are_loaded(
    monkeypatch, warmups, tmp_path
):
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(Experiment, "policy", lambda *given, **more: pytest.fail("loaded"))
    with pytest.raises(UserError, match="trackers: wandb is not logged in; run `wandb login`, or"):
        run(warmups, "name=untracked", "trackers=[wandb]")
    assert not (warmups / "untracked").exists()


def test_a_missing_tracker_says_which_extra_to_install(monkeypatch, warmups):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        UserError, match=r"trackers: wandb is not installed; pip install 'gpg-vl\[trackers\]'"
    ):
        run(warmups, "name=untracked", "trackers=[wandb]")
    assert not (warmups / "untracked").exists()
