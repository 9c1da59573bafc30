"""Every part of a run's fingerprint, one at a time."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl.config.loading import override, parse
from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UserError
from gpg_vl.run_folder import RunFolder, json_value
from gpg_vl.training import resume_check
from gpg_vl.types import LeftOut, Sample
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number

SAMPLE = Sample(
    id="q1",
    question="How many?",
    answer_kind="number",
    answer=3,
    choices=("a", "b"),
    frame="pixels",
    solution="three",
    images=(b"picture",),
    sizes=((3, 2),),
)

# --- the words of the config ----------------------------------------------------------------------


def config(**more: Any) -> dict[str, Any]:
    return Config(**{"data": (Source(recipe="digits"),), **more}).model_dump(mode="json")


BOUND = {
    "seed=1": {"seed": 1},
    "data.0.recipe": {"data": [{"recipe": "mine"}]},
    "data.0.weight": {"data": [{"recipe": "digits", "weight": 2}]},
    "data.0.options.task": {"data": [{"recipe": "digits", "options": {"task": "add"}}]},
    "data.1": {"data": [{"recipe": "digits"}, {"recipe": "digits"}]},
    "prompt": {"prompt": "answer"},
    "policy.vision": {"policy": {"vision": "full"}},
    "policy.dtype": {"policy": {"dtype": "bfloat16"}},
    "rollout.group_size": {"rollout": {"group_size": 4}},
    "rollout.temperature": {"rollout": {"temperature": 0.5}},
    "rollout.engine": {"rollout": {"engine": "vllm"}},
    "rollout.engine.sleep": {"rollout": {"engine": {"kind": "server", "sleep": 1}}},
    "rollout.max_rounds": {"rollout": {"max_rounds": 3}},
    "rollout.carry_over": {"rollout": {"carry_over": 1}},
    "verifiers.number": {"verifiers": {"number": "value"}},
    "reward.mode": {"reward": {"mode": "lenient"}},
    "reward.format": {"reward": {"format": 0.5}},
    "estimator": {"estimator": "grpo"},
    "optimizer.lr": {"optimizer": {"lr": 1e-5}},
    "optimizer.betas.1": {"optimizer": {"betas": [0.9, 0.95]}},
    "optimizer.schedule": {"optimizer": {"schedule": "cosine"}},
    "learner.updates_per_rollout": {"learner": {"updates_per_rollout": 2}},
    "learner.tokens_per_microbatch": {"learner": {"tokens_per_microbatch": 5}},
    "warmup.steps": {"warmup": {"steps": 5}},
    "evaluation.benchmark": {"evaluation": {"benchmark": "digits"}},
}
"""Knobs that bind a run, among them every one of which somebody may think that it does not."""
FREE = {
    "trackers": {"trackers": ["wandb"]},
    "trackers_pictures": {"trackers_pictures": True},
    "tracking": {"tracking": {"project": "mine"}},
    "run_folder": {"run_folder": {"pictures": "all"}},
    "name": {"name": "other"},
    "folder": {"folder": "elsewhere"},
    "steps": {"steps": 7},
    "checkpoint.every": {"checkpoint": {"every": 7}},
    "checkpoint.keep_last": {"checkpoint": {"keep_last": 7}},
    "evaluation.every": {"evaluation": {"every": 7}},
    "evaluation.head": {"evaluation": {"head": 7}},
    "evaluation.blank": {"evaluation": {"blank": False}},
    "report.every": {"report": {"every": 7}},
    "rollout.gate.every": {"rollout": {"gate": {"every": 7}}},
    "rollout.gate.mean": {"rollout": {"gate": {"mean": 7}}},
    "hardware.gb": {"hardware": {"gb": 7}},
    "hardware.gpus": {"hardware": {"gpus": 7}},
}


@pytest.mark.parametrize("key", BOUND)
def test_a_knob_that_changes_what_is_learnt_is_reported(key):
    differences = list(resume_check.config_differences(config(), config(**BOUND[key])))
    assert differences
    assert any(line.startswith(key.partition("=")[0]) for line in differences)


@pytest.mark.parametrize("key", FREE)
def test_a_knob_that_does_not_is_free(key):
    assert list(resume_check.config_differences(config(), config(**FREE[key]))) == []


@pytest.mark.parametrize(
    "knob", ["servers", "handover", "transfer", "deadline", "timeout", "at_once", "remote"]
)
def test_where_servers_stand_is_free(knob):
    sides = [
        {"rollout": {"engine": {"kind": "server", **more}}} for more in ({}, {knob: 1}, {knob: 2})
    ]
    for one, other in ((0, 1), (1, 0), (1, 2)):
        assert (
            list(resume_check.config_differences(config(**sides[one]), config(**sides[other])))
            == []
        )


@pytest.mark.parametrize(
    ("schedule", "free"), [("constant", True), ("linear", False), ("cosine", False)]
)
def test_more_steps_are_free_only_where_the_learning_rate_does_not_depend_on_them(schedule, free):
    sides = [config(steps=steps, optimizer={"schedule": schedule}) for steps in (10, 20)]
    assert list(resume_check.config_differences(*sides)) == ([] if free else ["steps: 10 -> 20"])


def test_steps_of_the_warm_up_are_not_the_steps():
    assert list(resume_check.config_differences(config(), config(warmup={"steps": 5}))) == [
        "warmup.steps: 0 -> 5"
    ]


def test_differences_are_told_from_then_to_now_in_order_of_their_names():
    begun = {"b": {"x": 1, "y": [1, 2]}, "a": 1, "gone": 5}
    now = {"b": {"x": 2, "y": [1, 3, 4]}, "a": 1, "new": {}, "none": []}
    differences = [
        "b.x: 1 -> 2",
        "b.y.1: 2 -> 3",
        "b.y.2: None -> 4",
        "gone: 5 -> None",
        "new: None -> {}",
        "none: None -> []",
    ]
    assert list(resume_check.config_differences(begun, now)) == differences


def test_the_environment_is_reported_where_exact_resume_depends_on_it():
    then = {
        "python": "3.11",
        "platform": "a",
        "packages": {"torch": "2", "numpy": "1"},
        "threads": 1,
        "device": "cpu",
        "processes": 1,
    }
    then |= {"image_backend": "pil", "config_folder": "/a"}
    now = {
        "python": "3.12",
        "platform": "b",
        "packages": {"torch": "3", "numpy": "1"},
        "threads": 2,
        "device": "cuda",
        "processes": 4,
    }
    now |= {"image_backend": "torchvision", "config_folder": "/b"}
    assert list(resume_check.environment_differences(then, then)) == []
    assert list(resume_check.environment_differences(then, now)) == [
        "device: cpu -> cuda",
        "image_backend: pil -> torchvision",
        "packages.torch: 2 -> 3",
        "platform: a -> b",
        "processes: 1 -> 4",
        "python: 3.11 -> 3.12",
        "threads: 1 -> 2",
    ]
    assert list(resume_check.environment_differences({}, {"threads": 2})) == ["threads: None -> 2"]
    sides = [{"packages": {"torch": "2", name: "1"}} for name in ("numpy", "vllm")]
    assert list(resume_check.environment_differences(*sides)) == [
        "packages.numpy: 1 -> None",
        "packages.vllm: None -> 1",
    ]


# --- the file -------------------------------------------------------------------------------------


def own(**more: Any) -> dict[str, Any]:
    return {
        "config": config(),
        "data": "1234",
        "sources": {"verifiers.number": "aa", "verifiers.box": "bb"},
        **more,
    }


@pytest.mark.parametrize(
    ("now", "differences"),
    [
        ({}, []),
        ({"data": "4321"}, ["the data: rows or images differ"]),
        ({"config": config(seed=3)}, ["seed: 0 -> 3"]),
        ({"config": config(name="other")}, []),
        (
            {"sources": {"verifiers.number": "cc", "verifiers.box": "bb"}},
            ["verifiers.number: its source file has changed"],
        ),
        (
            {"sources": {"verifiers.number": "aa", "verifiers.box": "cc"}},
            ["verifiers.box: its source file has changed"],
        ),
        # of a newer release
        (
            {"sources": {"verifiers.number": "aa", "verifiers.box": "bb", "verifiers.new": "cc"}},
            [],
        ),
        ({"sources": {"verifiers.number": "aa"}}, []),
        (
            {"config": config(seed=3), "data": "4321", "sources": {"verifiers.box": "cc"}},
            [
                "seed: 0 -> 3",
                "the data: rows or images differ",
                "verifiers.box: its source file has changed",
            ],
        ),
    ],
)
def test_a_run_that_differs_is_refused_unless_that_is_allowed(now, differences, tmp_path):
    resume_check.write(tmp_path, own())
    assert json.loads((tmp_path / "identity.json").read_text()) == own()
    assert resume_check.check(tmp_path, own(**now), allow_changed=True) == differences
    if not differences:
        assert resume_check.check(tmp_path, own(**now), allow_changed=False) == []
        return
    with pytest.raises(UserError) as refused:
        resume_check.check(tmp_path, own(**now), allow_changed=False)
    assert str(refused.value) == (
        f"{tmp_path} was started with other settings or data: {'; '.join(differences)}. "
        "Change it back, start a new run, or pass --allow-changed"
    )


def test_a_run_of_a_release_without_a_knob_goes_on_where_it_is_at_its_default():
    begun = config()
    del begun["optimizer"]["kind"], begun["policy"]["lora"], begun["learner"]
    assert list(resume_check.config_differences(begun, config())) == []
    now = config(policy={"lora": {"rank": 4}}, optimizer={"kind": "adamw8bit"})
    assert list(resume_check.config_differences(begun, now)) == [
        "optimizer.kind: adamw -> adamw8bit",
        "policy.lora.rank: 16 -> 4",
    ]


def test_another_verifier_is_no_changed_source_file(tmp_path):
    verifiers = {"number": "./mine.py:Mine"}
    begun = own(config=config(verifiers=verifiers), sources={"verifiers.number": "aa"})
    resume_check.write(tmp_path, begun)
    for other, difference in (
        ("number", "verifiers.number: ./mine.py:Mine -> number"),
        ({"kind": "number"}, "verifiers.number: ./mine.py:Mine -> None"),
    ):
        now = own(config=config(verifiers={"number": other}), sources={"verifiers.number": "bb"})
        found = resume_check.check(tmp_path, now, allow_changed=True)
        assert difference in found
        assert "verifiers.number: its source file has changed" not in found
    changed = {**begun, "sources": {"verifiers.number": "bb"}}
    assert resume_check.check(tmp_path, changed, allow_changed=True) == [
        "verifiers.number: its source file has changed"
    ]


def test_a_changed_config_is_refused_by_the_configs_alone(tmp_path):
    """Only knobs that may not change count, as after loading; `auto` is what the run began with."""
    settled = config(learner={"tokens_per_microbatch": 4096, "checkpointing": False})
    resume_check.check_config(tmp_path, Config.model_validate(settled))  # nothing was begun
    resume_check.write(tmp_path, own(config=settled))

    def check(*overrides: str) -> None:
        values = override(Config, json_value(settled), overrides)
        resume_check.check_config(tmp_path, parse(Config, values, "x"))

    check()
    check("steps=99", "learner.tokens_per_microbatch=auto", "checkpoint.keep_last=7")
    for knob, difference in (
        ("optimizer.lr=0.5", r"optimizer\.lr: .* -> 0\.5\. Change it back"),
        ("learner.tokens_per_microbatch=9", r"tokens_per_microbatch: 4096 -> 9\."),
        ("policy.model=other/model", r"policy\.model: tiny -> other/model\."),
    ):
        with pytest.raises(UserError, match=difference):
            check(knob)


def test_a_run_is_finished_when_its_last_step_is_saved_and_evaluated(tmp_path):
    def saved(step: int, score: float | None) -> None:
        folder = tmp_path / "checkpoints" / f"{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.json").write_text(json.dumps({"score": score}))

    def finished(steps: int = 2, benchmark: str | None = "digits") -> bool:
        return resume_check.is_finished(tmp_path, of(steps, benchmark))

    def of(steps: int, benchmark: str | None) -> Config:
        return Config.model_validate(config(steps=steps, evaluation={"benchmark": benchmark}))

    assert not finished()
    saved(0, None)
    assert [finished(0), finished(1), finished(2)] == [True, False, False]
    saved(1, 0.5)
    saved(2, None)
    assert finished(benchmark=None)
    assert finished(1)
    assert not finished()
    saved(2, 0.5)
    assert not finished()
    records = tmp_path / "evaluation" / "digits-after.jsonl"
    records.parent.mkdir()
    records.write_text("")
    assert [finished(1), finished(2), finished(3)] == [True, True, False]
    saved(2, None)
    assert not finished()  # left before the score was saved
    more = resume_check.how_to_take_more(tmp_path, of(2, None))
    assert more.endswith(f"`gpg-vl train --resume {tmp_path} steps=M` goes on to step M")
    falling = of(2, None).optimizer.model_copy(update={"schedule": "linear"})
    falls = of(2, None).model_copy(update={"optimizer": falling})
    more = resume_check.how_to_take_more(tmp_path, falls)
    assert more.endswith(" steps=M --allow-changed` goes on to step M")


def test_rows_that_can_no_longer_be_used_are_named(tmp_path):
    RunFolder(tmp_path).unused_rows([LeftOut("bad", "no number", "x")])
    begun: dict[str, Any] = {"config": {}, "data": "1", "sources": {}}
    resume_check.write(tmp_path, begun)

    def differences(*unused: LeftOut) -> list[str]:
        now = {**begun, "data": "2"}
        return resume_check.check(tmp_path, now, allow_changed=True, unused=unused)

    bad, gone = LeftOut("bad", "no number", "x"), LeftOut("q1", "image a.png is gone", "x")
    assert differences(bad) == ["the data: rows or images differ"]
    assert differences(bad, gone) == [
        "the data: rows or images differ (1 row is left out now that had been used; q1: image "
        "a.png is gone)"
    ]
    assert (
        "(2 rows are left out now that had been used; bad:"
        in differences(bad._replace(source="y"), gone)[0]
    )


@pytest.mark.parametrize("as_once", [False, True])
def test_a_number_that_is_infinite_is_no_difference(as_once, tmp_path):
    """JSON has no infinity: it is null, which an older release wrote as a token."""
    own = {"config": config(optimizer={"clip_norm": float("inf")}), "data": "", "sources": {}}
    if as_once:
        (tmp_path / "identity.json").write_text(json.dumps(own))
    else:
        resume_check.write(tmp_path, own)
        assert "Infinity" not in (tmp_path / "identity.json").read_text()
    assert resume_check.check(tmp_path, json_value(own), allow_changed=False) == []


def test_the_fingerprint_is_of_config_rows_weights_and_source_files():
    verifiers = VerifierSet(by_kind={"number": Number()}, truncated="zero")
    given = Config(data=(Source(recipe="digits"),))

    def of(
        weights: tuple[int, ...] = (1, 2), rows: tuple[Any, ...] = ([SAMPLE], [])
    ) -> dict[str, Any]:
        experiment: Any = SimpleNamespace(
            config=given, train_data=Dataset(rows, weights, seed=0), verifiers=verifiers
        )
        return resume_check.run_fingerprint(experiment)

    assert of().keys() == {"config", "data", "sources"}
    assert of()["config"] == config()
    assert of()["sources"].keys() == {"verifiers.number"}
    assert len(of()["sources"]["verifiers.number"]) == 16
    assert of() == of()
    assert of()["data"] != of(weights=(2, 1))["data"]
    assert of()["data"] != of(rows=([replace(SAMPLE, answer=4)], []))["data"]
