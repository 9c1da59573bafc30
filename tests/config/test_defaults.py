"""Every knob by its default and its borders, written out: a run that was started from a short
file depends on each of them."""

from typing import Any

import pytest

from gpg_vl.config import loading
from gpg_vl.config.schema import BenchmarkSpec, Config, Section, Source
from gpg_vl.errors import UserError

SOURCE = {"data": [{"recipe": "digits"}]}


def flat(values: dict[str, Any], key: str = "") -> dict[str, Any]:
    """Values by dotted key; sections are opened, lists and empty mappings are not."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            flat(value, f"{key}{name}.")
            if isinstance(value, dict) and value
            else {f"{key}{name}": value}
        )
    return found


PARTS = ("language", "projector", "vision")
OPTIMIZER = {
    "kind": "adamw",
    **{f"{part}.{knob}": None for part in PARTS for knob in ("lr", "weight_decay")},
    "weight_decay": 0.0,
    "schedule": "constant",
    "clip_norm": 1.0,
    "betas": (0.9, 0.99),
}
DEFAULTS: dict[str, Any] = {
    "name": "run",
    "folder": "runs",
    "seed": 0,
    "steps": 100,
    "prompt": "think",
    "policy.model": "tiny",
    "policy.tiny.family": "qwen2_5_vl",
    "policy.tiny.hidden": 128,
    "policy.tiny.layers": 4,
    "policy.tiny.vision_hidden": 64,
    "policy.tiny.vision_layers": 2,
    "policy.language": "full",
    "policy.projector": "full",
    "policy.vision": "frozen",
    "policy.lora.rank": 16,
    "policy.lora.alpha": 32.0,
    "policy.lora.dropout": 0.0,
    "policy.lora.targets": (),
    "policy.dtype": "float32",
    "policy.weights": "float32",
    "policy.quantise": "none",
    "policy.frame": "auto",
    "policy.min_pixels": None,
    "policy.max_pixels": None,
    "policy.image_backend": "auto",
    "policy.feature_cache_mb": 512,
    "policy.feature_folder": None,
    "rollout.engine": "transformers",
    "rollout.gate.every": 20,
    "rollout.gate.prompts": 4,
    "rollout.gate.mean": None,
    "rollout.gate.worst": None,
    "rollout.groups_per_step": 16,
    "rollout.group_size": 8,
    "rollout.max_tokens": 256,
    "rollout.temperature": 1.0,
    "rollout.max_rounds": 20,
    "rollout.carry_over": 0,
    "rollout.max_lost": 0.05,
    "rollout.max_faults": 0.2,
    "rollout.idle_steps": 5,
    "verifiers": {},
    "reward.mode": "strict",
    "reward.combine": "gate",
    "reward.accuracy": 1.0,
    "reward.format": 0.0,
    "reward.truncated": "zero",
    "estimator": "gpg",
    **{
        f"optimizer.{name}": value
        for name, value in {**OPTIMIZER, "lr": 1e-6, "warmup_steps": 10}.items()
    },
    "learner.updates_per_rollout": 1,
    "learner.tokens_per_microbatch": "auto",
    "learner.shared_prefix": True,
    "learner.checkpointing": "auto",
    "learner.rehearse": "auto",
    "learner.max_bad_steps": 3,
    "trackers": (),
    "trackers_pictures": False,
    "tracking.project": "gpg_vl",
    "tracking.entity": None,
    "tracking.tags": (),
    "warmup.steps": 0,
    "warmup.batch_size": 48,
    "warmup.data": (),
    **{
        f"warmup.optimizer.{name}": value
        for name, value in {**OPTIMIZER, "lr": 1e-3, "warmup_steps": 30}.items()
    },
    "evaluation.benchmark": None,
    "evaluation.every": 0,
    "evaluation.head": None,
    "evaluation.blank": True,
    "checkpoint.every": 50,
    "checkpoint.keep_last": 2,
    "checkpoint.keep_best": 1,
    "run_folder.pictures": "sample",
    "run_folder.pictures_mb": 1000,
    "report.every": 50,
    "hardware.gpus": 1,
    "hardware.gb": None,
}
OF_A_BENCHMARK = {
    "prompt": None,
    "verifiers": {},
    "mode": "strict",
    "frame": "pixels",
    "beside": None,
    "average_precision": None,
    "group_by": "task",
    "totals": {},
    "samples": 4,
    "max_tokens": 256,
    "temperature": 1.0,
}
OF_A_SOURCE = {
    "options": {},
    "files": None,
    "hub": None,
    "subset": None,
    "split": "train",
    "columns": {},
    "defaults": {},
    "image_root": None,
    "image_hosts": (),
    "answer_index": None,
    "box_format": "xyxy",
    "decimal": ".",
    "head": None,
    "part": "all",
    "test_share": 0.1,
    "weight": 1,
}


def test_every_knob_has_the_default_that_is_written_here():
    found = flat(loading.parse(Config, SOURCE, "mine").model_dump())
    (source,) = found.pop("data")
    assert found == DEFAULTS
    assert source == {"recipe": "digits", **OF_A_SOURCE}


def test_every_knob_of_a_benchmark_has_its_default():
    found = loading.parse(BenchmarkSpec, {"name": "mine", **SOURCE}, "mine").model_dump()
    assert {
        key: value for key, value in found.items() if key not in ("name", "data")
    } == OF_A_BENCHMARK


BORDERS: list[tuple[str, Any, list[Any]]] = [
    ("steps", 0, [-1, 0.5]),
    ("policy.tiny.hidden", 32, [0, 16, 48]),
    ("policy.tiny.layers", 1, [0]),
    ("policy.tiny.vision_hidden", 16, [0, 24]),
    ("policy.tiny.vision_layers", 1, [0]),
    ("policy.min_pixels", 1, [0]),
    ("policy.max_pixels", 1, [0]),
    ("policy.feature_cache_mb", 0, [-1]),
    ("rollout.gate.every", 0, [-1]),
    ("rollout.gate.prompts", 1, [0]),
    ("rollout.gate.mean", 1e-9, [0.0, -1.0]),
    ("rollout.gate.worst", 1e-9, [0.0]),
    ("rollout.groups_per_step", 1, [0]),
    ("rollout.group_size", 2, [1]),
    ("rollout.max_tokens", 1, [0]),
    ("rollout.temperature", 1e-9, [0.0]),
    ("rollout.max_rounds", 1, [0]),
    ("rollout.carry_over", 0, [2, -1]),
    ("rollout.carry_over", 1, []),
    ("rollout.max_lost", 0.0, [-0.01, 1.01]),
    ("rollout.max_lost", 1.0, []),
    ("rollout.max_faults", 0.0, [-0.01, 1.01]),
    ("rollout.max_faults", 1.0, []),
    ("rollout.idle_steps", 1, [0]),
    ("reward.accuracy", 0.0, [-0.1]),
    ("reward.format", 0.0, [-0.1]),
    ("optimizer.lr", 1e-12, [0.0]),
    ("optimizer.weight_decay", 0.0, [-0.1]),
    ("optimizer.warmup_steps", 0, [-1]),
    ("optimizer.clip_norm", 1e-9, [0.0]),
    ("learner.updates_per_rollout", 1, [0]),
    ("learner.tokens_per_microbatch", 1, [0, "most"]),
    ("learner.max_bad_steps", 1, [0]),
    ("warmup.steps", 0, [-1]),
    ("warmup.batch_size", 1, [0]),
    ("evaluation.every", 0, [-1]),
    ("evaluation.head", 1, [0]),
    ("checkpoint.every", 1, [0]),
    ("checkpoint.keep_last", 1, [0]),
    ("checkpoint.keep_best", 0, [-1]),
    ("run_folder.pictures_mb", 0, [-1]),
    ("report.every", 0, [-1]),
    ("hardware.gpus", 1, [0]),
    ("hardware.gb", 0.5, [0.0]),
    ("data.0.head", 1, [0]),
    ("data.0.test_share", 0.5, [0, 1]),
    ("data.0.weight", 1, [0]),
]


@pytest.mark.parametrize(("key", "fine", "refused"), BORDERS)
def test_every_number_has_its_borders(key, fine, refused):
    assert (key in DEFAULTS) or key.startswith("data.0.")
    loading.load("digits", [f"{key}={fine}"])
    for value in refused:
        with pytest.raises(UserError, match=f"{key}: got {value!r}, expected"):
            loading.load("digits", [f"{key}={value}"])


@pytest.mark.parametrize(
    ("key", "fine", "refused"),
    [("samples", 0, -1), ("max_tokens", 1, 0), ("temperature", 1e-9, 0.0)],
)
def test_every_number_of_a_benchmark_has_its_borders(key, fine, refused):
    given = {"name": "mine", **SOURCE}
    assert getattr(loading.parse(BenchmarkSpec, {**given, key: fine}, "mine"), key) == fine
    with pytest.raises(UserError, match=f"{key}: got"):
        loading.parse(BenchmarkSpec, {**given, key: refused}, "mine")


WORDS = {
    "policy.tiny.family": ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"],
    "policy.language": ["frozen", "full"],
    "policy.dtype": ["float32", "bfloat16", "float64"],
    "policy.frame": ["auto", "pixels", "norm1", "norm1000", "resized"],
    "policy.image_backend": ["auto", "pil", "torchvision"],
    "reward.mode": ["strict", "lenient", "reference"],
    "reward.combine": ["gate", "sum"],
    "reward.truncated": ["zero", "score", "drop"],
    "optimizer.schedule": ["constant", "linear", "cosine"],
}


@pytest.mark.parametrize("key", WORDS)
def test_a_knob_of_words_takes_these_and_no_others(key):
    for word in WORDS[key]:
        loading.load("digits", [f"{key}={word}"])
    with pytest.raises(UserError, match=f"{key}: got 'other', expected") as caught:
        loading.load("digits", [f"{key}=other"])
    assert all(f"'{word}'" in str(caught.value) for word in WORDS[key])


@pytest.mark.parametrize(
    "names",
    [[], ["recipe", "files"], ["recipe", "hub"], ["files", "hub"], ["recipe", "files", "hub"]],
)
def test_a_source_has_one_origin(names):
    with pytest.raises(
        UserError,
        match=f"a source needs exactly one of recipe, files, hub; got {', '.join(names) or 'none'}",
    ):
        loading.parse(Source, dict.fromkeys(names, "x"), "mine")
    for name in ("recipe", "files", "hub"):
        loading.parse(Source, {name: "x"}, "mine")


def test_no_section_has_other_defaults_than_its_class():
    """Otherwise a key that is set would change the defaults of the keys beside it."""

    def check(kind):
        for name, field in kind.model_fields.items():
            section = field.annotation
            if isinstance(section, type) and issubclass(section, Section):
                assert field.get_default(call_default_factory=True) == section(), name
                check(section)

    check(Config)


@pytest.mark.parametrize(
    ("knobs", "settled"),
    [
        ([], False),
        (["learner.tokens_per_microbatch=5"], False),
        (["learner.checkpointing=true"], False),
        (["learner.tokens_per_microbatch=5", "learner.checkpointing=false"], True),
    ],
)
def test_a_learner_is_settled_where_no_auto_is_left(knobs, settled):
    assert loading.load("digits", knobs).learner.is_settled == settled


def test_numbers_may_name_a_run_and_its_folder():
    made = loading.parse(Config, {**SOURCE, "name": 7, "folder": 2024}, "mine")
    assert str(made.run_path) == "2024/7"
    assert isinstance(made, Section)
