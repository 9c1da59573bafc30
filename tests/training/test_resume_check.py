"""Every part of a run's fingerprint, one at a time; likewise of the path of a cached warm-up."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl.config.schema import Config, Source
from gpg_vl.data import dataset
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UserError
from gpg_vl.training import resume_check, warmup_cache
from gpg_vl.types import Sample
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

# --- the data -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"id": "q2"},
        {"question": "How many are there?"},
        {"answer_kind": "value"},
        {"answer": 4},
        {"answer": "3"},
        {"choices": ("b", "a")},
        {"choices": ()},
        {"frame": "norm1000"},
        {"solution": ""},
        {"images": (b"other",)},
        {"images": ()},
        {"images": (b"picture", b"picture")},
    ],
    ids=str,
)
def test_whatever_of_a_row_can_change_what_is_learnt_changes_the_digest(change):
    assert dataset.fingerprint([[replace(SAMPLE, **change)]]) != dataset.fingerprint([[SAMPLE]])


def test_equal_rows_have_one_digest_and_their_number_and_order_matter():
    other = replace(SAMPLE, id="q2")
    assert dataset.fingerprint([[SAMPLE]]) == dataset.fingerprint([[replace(SAMPLE)]])
    every = [[[SAMPLE, other]], [[other, SAMPLE]], [[SAMPLE]], [[SAMPLE, other, other]], []]
    assert len({dataset.fingerprint(sources) for sources in every}) == len(every)
    assert len(dataset.fingerprint([])) == 16
    assert dataset.fingerprint([[SAMPLE]], "(1, 2)") != dataset.fingerprint([[SAMPLE]], "(2, 1)")


@pytest.mark.parametrize("change", ["another name", "another size", "another time"])
def test_a_picture_in_a_file_is_known_by_name_size_and_time(change, tmp_path):
    """An edit that leaves the size is seen by the time of the file."""
    path, other = tmp_path / "picture.png", tmp_path / "other.png"
    path.write_bytes(b"1234")
    os.utime(path, ns=(10**18, 10**18))
    before = dataset.fingerprint([[replace(SAMPLE, images=(path,))]])
    assert before == dataset.fingerprint([[replace(SAMPLE, images=(path,))]])
    if change == "another name":
        path = path.rename(other)
    if change == "another size":
        path.write_bytes(b"12345")
        os.utime(path, ns=(10**18, 10**18))
    if change == "another time":
        path.write_bytes(b"4321")
        os.utime(path, ns=(10**18, 10**18 + 1))
    assert dataset.fingerprint([[replace(SAMPLE, images=(path,))]]) != before


def test_a_folder_that_was_moved_holds_the_same_data(tmp_path):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "picture.png").write_bytes(b"1234")
        os.utime(tmp_path / name / "picture.png", ns=(10**18, 10**18))
    here, there = (
        replace(SAMPLE, images=(tmp_path / name / "picture.png",)) for name in ("here", "there")
    )
    assert dataset.fingerprint([[here]]) == dataset.fingerprint([[there]])


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
    "trackers": {"trackers": ["wandb"]},
}
"""Knobs that bind a run, among them every one of which somebody may think that it does not."""
FREE = {
    "name": {"name": "other"},
    "folder": {"folder": "elsewhere"},
    "steps": {"steps": 7},
    "checkpoint.every": {"checkpoint": {"every": 7}},
    "checkpoint.keep_last": {"checkpoint": {"keep_last": 7}},
    "evaluation.every": {"evaluation": {"every": 7}},
    "evaluation.head": {"evaluation": {"head": 7}},
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


# --- the kept warm-up -----------------------------------------------------------------------------


def place(folder: Path, **more: Any) -> str:
    knobs = {"data": (Source(recipe="digits"),), "warmup": {"steps": 3}, "folder": "runs", **more}
    return warmup_cache.cache_path(Config(**knobs).at(folder)).name


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": (Source(recipe="digits", weight=2),)},
        {"prompt": "answer"},
        {"policy": {"vision": "full"}},
        {"verifiers": {"number": "value"}},
        {"reward": {"format": 0.5}},
        {"warmup": {"steps": 4}},
        {"warmup": {"steps": 3, "batch_size": 7}},
        {"warmup": {"steps": 3, "optimizer": {"lr": 0.5}}},
        {"warmup": {"steps": 3, "data": [{"recipe": "digits"}]}},
    ],
    ids=str,
)
def test_another_warm_up_is_kept_elsewhere(change, tmp_path):
    assert place(tmp_path, **change) != place(tmp_path)


def test_what_a_warm_up_does_not_depend_on_finds_the_kept_one(tmp_path):
    for change in (
        {"name": "other"},
        {"steps": 7},
        {"estimator": "grpo"},
        {"rollout": {"group_size": 4}},
        {"optimizer": {"lr": 0.5}},
    ):
        assert place(tmp_path, **change) == place(tmp_path)
    own = Config(data=(Source(recipe="digits"),), folder=str(tmp_path / "mine"))
    found = warmup_cache.cache_path(own.at(tmp_path))
    assert found.parent == tmp_path / "mine" / "warmups"
    assert len(found.name) == 12


def test_the_order_in_which_verifiers_are_named_is_no_difference(tmp_path):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(name)
    parts = {"number": "./two.py:Two", "box": "./one.py:One"}
    assert place(tmp_path, verifiers=parts) == place(
        tmp_path, verifiers=dict(reversed(parts.items()))
    )


def test_a_warm_up_of_another_release_is_not_used(tmp_path, monkeypatch):
    before = place(tmp_path)
    monkeypatch.setattr(warmup_cache, "__version__", "0.0.0")
    assert place(tmp_path) != before


@pytest.mark.parametrize(
    "named",
    [
        {"data": (Source(files="rows.jsonl"),)},
        {"data": (Source(recipe="./rows.jsonl:scenes"),)},
        {"data": (Source(recipe="digits", options={"deep": [{"er": "rows.jsonl"}]}),)},
        {"verifiers": {"number": {"kind": "./rows.jsonl:Mine"}}},
        {"prompt": "./rows.jsonl:Style"},
        {"warmup": {"steps": 3, "data": [{"files": "rows.jsonl"}]}},
    ],
    ids=str,
)
def test_a_file_that_is_named_anywhere_counts_by_its_content(named, tmp_path):
    (tmp_path / "rows.jsonl").write_text("one")
    before = place(tmp_path, **named)
    assert before == place(tmp_path, **named)
    (tmp_path / "rows.jsonl").write_text("two")
    assert place(tmp_path, **named) != before


class Weights:
    """Stands for a policy."""

    def __init__(self, words: str = "new", fails: bool = False) -> None:
        self.words, self.fails = words, fails

    def save(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text(self.words[: 2 if self.fails else None])
        if self.fails:
            raise OSError(28, "No space left on device")
        (folder / "config.json").write_text(self.words)


def keep(kept: Path, words: str = "new", *, fails: bool = False) -> None:
    policy: Any = Weights(words, fails)
    warmup_cache.store(policy, kept)


def test_a_warm_up_is_written_beside_its_place(tmp_path):
    """On the same disk: only there a renaming is whole or not at all."""
    kept, where = tmp_path / "runs" / "warmups" / "abc", []
    policy: Any = SimpleNamespace(
        save=lambda folder: [where.append(folder), Weights().save(folder)]
    )
    warmup_cache.store(policy, kept)
    assert [folder.parent for folder in where] == [kept.parent]
    assert where[0].name.startswith("abc.")


def test_a_warm_up_is_kept_whole_or_not_at_all(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    assert not warmup_cache.is_cached(kept)
    with pytest.raises(OSError, match="No space"):
        keep(kept, fails=True)
    assert not warmup_cache.is_cached(kept)
    assert not kept.exists()
    keep(kept)
    assert warmup_cache.is_cached(kept)
    assert (kept / "model.safetensors").read_text() == "new"


def test_of_two_runs_the_faster_one_keeps_its_warm_up(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    keep(kept, "first")
    keep(kept, "second")
    assert (kept / "config.json").read_text() == "first"
    assert [path.name for path in kept.parent.iterdir()] == ["abc"], "nothing is left beside it"


def test_something_else_in_its_place_is_no_warm_up(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_text("half")
    assert not warmup_cache.is_cached(kept)
    with pytest.raises(OSError, match="not empty"):
        keep(kept)
