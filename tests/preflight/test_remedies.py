"""Changes that make a run fit, each on a made-up model of 10^9 parameters."""

import re
from dataclasses import replace

import pytest

from gpg_vl.config import loading
from gpg_vl.preflight import memory, remedies
from gpg_vl.preflight.memory import Machine, Workload
from tests.workloads import MODEL, adapter_on, run_of

LARGE_ROLLOUT = ("rollout.groups_per_step=64", "rollout.group_size=16", "rollout.max_tokens=4096")

LARGE = replace(MODEL, parameters={**MODEL.parameters, "language": 8 * 10**9})
"""8.2 billion parameters."""


def test_a_rollout_that_does_not_fit_samples_fewer_groups_at_once():
    long = run_of(*LARGE_ROLLOUT, gb=24.0)
    fitting = [words for words, changed in remedies.changes(long) if memory.fits(changed)]
    (offer,) = [words for words in fitting if words.startswith("rollout.engine")]
    assert re.fullmatch(r"rollout\.engine\.prompts_at_once=\d+", offer)


def test_fewer_groups_at_once_leave_the_other_knobs_of_the_engine_as_they_are():
    engine = "rollout.engine={kind: transformers, merge: true}"
    long = run_of(*LARGE_ROLLOUT, "policy.dtype=bfloat16", engine, gb=24.0)
    ((_, changed),) = remedies.changes(long)
    kind, options = changed.engine
    assert (kind, options["merge"]) == ("transformers", True)
    assert options["prompts_at_once"] < 32


def test_fewer_groups_at_once_are_added_to_a_change_after_which_only_the_rollout_is_too_large():
    large = replace(MODEL, parameters={**MODEL.parameters, "language": 5 * 10**9})
    run = run_of(*LARGE_ROLLOUT, "policy.dtype=bfloat16", gb=32.0, size=large)
    offers = remedies.problems(run)[1:]
    lora = [words for words in offers if words.startswith("policy.language=lora")]
    assert lora
    for words in lora:
        assert "rollout.engine.prompts_at_once=" in words


def offered(run: Workload) -> list[str]:
    """Return the keys that are offered as changes."""
    keys: list[str] = []
    for words, _ in remedies.changes(run):
        keys += re.findall(r"([\w.]+)=", words)
    return keys


@pytest.mark.parametrize(
    ("knobs", "change"),
    [
        (("learner.checkpointing=false",), "learner.checkpointing"),
        (("learner.tokens_per_microbatch=16000",), "learner.tokens_per_microbatch"),
        (("rollout.engine=vllm",), "rollout.engine.sleep"),
        (("policy.dtype=float32",), "policy.dtype"),
        (LARGE_ROLLOUT, "rollout.engine.prompts_at_once"),
    ],
)
def test_each_change_of_computing_is_offered_where_it_changes_something(knobs, change):
    gb = 80.0 if change == "rollout.engine.sleep" else 24.0
    assert offered(run_of("policy.dtype=bfloat16", gb=gb)) == []
    assert offered(run_of("policy.dtype=bfloat16", *knobs, gb=gb)) == [change]


@pytest.mark.parametrize(
    "knobs",
    [
        ("learner.checkpointing=true",),
        ("rollout.engine={kind: vllm, sleep: 1}",),
        ("rollout.engine={kind: vllm, sleep: 2}",),
    ],
)
def test_no_change_is_offered_that_is_made_already(knobs):
    assert offered(run_of("policy.dtype=bfloat16", *knobs, gb=80.0)) == []


EIGHT, HALF = "optimizer.kind=adamw8bit", "policy.weights=bfloat16"
MERGER = "model.visual.merger.mlp.0.weight"
LORA, NF4 = "policy.language=lora optimizer.lr=1e-05", "policy.quantise=nf4"


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ((), [EIGHT, HALF, f"{EIGHT} {HALF}", LORA, f"{LORA} {NF4}"]),
        (
            ("policy.vision=full",),
            [
                "policy.vision=frozen",
                EIGHT,
                HALF,
                f"{EIGHT} {HALF}",
                f"policy.vision=frozen {EIGHT} {HALF}",
                "policy.language=lora policy.vision=frozen optimizer.lr=1e-05",
                f"policy.language=lora policy.vision=frozen optimizer.lr=1e-05 {NF4}",
            ],
        ),
        ((EIGHT, HALF), [LORA, f"{LORA} {NF4}"]),
        (
            (EIGHT, HALF, "optimizer.lr=1e-5"),
            ["policy.language=lora", f"policy.language=lora {NF4}"],
        ),
        (("policy.language=lora",), [EIGHT, NF4]),
        (("policy.language=lora", "policy.vision=full"), ["policy.vision=frozen", EIGHT,
            f"policy.vision=frozen {EIGHT}", NF4]),
        (("policy.language=lora", NF4, EIGHT), []),
        # with a frozen tower, nothing would be left to train
        (("policy.vision=full", "policy.language=frozen", "policy.projector=frozen", EIGHT), []),
    ],
)  # fmt: skip
def test_changes_of_training_from_the_least_to_the_most(knobs, expected):
    """No card holds this run, so that all of them are offered."""
    run = run_of("policy.dtype=bfloat16", "optimizer.lr=1e-6", *knobs, gb=1.0)
    assert [words for words, _ in remedies.changes(run)] == expected


def test_a_change_to_half_weights_or_adapters_changes_the_type_of_the_forward():
    run = run_of("policy.dtype=float64", "learner.checkpointing=true", gb=1.0)
    all_words = [words for words, _ in remedies.changes(run)]
    assert all_words[1] == "policy.dtype=bfloat16 policy.weights=bfloat16"
    assert all_words[2] == "policy.language=lora policy.dtype=bfloat16"  # its rate is high enough
    for _, changed in remedies.changes(run):
        assert changed.config.policy.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("ends", "whole", "parts", "reset"),
    [
        ({}, (), "policy.language=lora policy.projector=frozen", " policy.weights=float32"),
        ({"model.visual.blocks.0.attn.qkv": (100, 300)}, (MERGER,),
            "policy.language=lora policy.vision=lora", ""),
    ],
)  # fmt: skip
def test_an_adapter_is_trained_on_in_the_parts_that_it_is_for(ends, whole, parts, reset):
    ends = {"model.language_model.layers.0.self_attn.q_proj": (1000, 1000), **ends}
    adapter = adapter_on(ends, whole=whole)
    knobs = ("policy.dtype=bfloat16", "optimizer.lr=1e-6", EIGHT, HALF)
    merged = replace(run_of(*knobs, gb=1.0), adapter=adapter)
    lora = f"{parts} optimizer.lr=1e-05"
    expected = [f"{lora}{reset}", f"{lora} {NF4}{reset}"]
    assert [words for words, _ in remedies.changes(merged)] == expected


def test_a_change_empties_what_it_leaves_without_use():
    knobs = ("policy.dtype=bfloat16", "policy.vision=full", EIGHT, "policy.language=lora", NF4)
    run = run_of(*knobs, "optimizer.vision.lr=1e-5", gb=1.0)
    ((words, changed),) = remedies.changes(run)
    assert words == "policy.vision=frozen optimizer.vision.lr=null"
    assert changed.config.optimizer.vision.lr is None


def test_no_change_is_offered_that_training_refuses():
    """The tower of the adapter is whole; and a target of the tower matches no language model."""
    adapter = adapter_on(
        {"model.language_model.layers.0.self_attn.q_proj": (1000, 1000)},
        whole=(MERGER, "model.visual.patch_embed.proj.weight"),
    )
    knobs = ("policy.dtype=bfloat16", "policy.language=lora", "policy.vision=full", EIGHT, NF4)
    run = replace(run_of(*knobs, gb=1.0), adapter=adapter)
    assert [words for words, _ in remedies.changes(run)] == []
    useless = run_of("policy.dtype=bfloat16", EIGHT, HALF, "policy.lora.targets=[fc1]", gb=1.0)
    assert [words for words, _ in remedies.changes(useless)] == []


def test_what_does_not_fit_says_what_to_change():
    assert remedies.problems(run_of(gb=24.0)) == []
    assert remedies.problems(run_of(gb=None)) == []
    too_large = run_of(
        "learner.checkpointing=false",
        "learner.tokens_per_microbatch=16000",
        "policy.vision=full",
        gb=22.0,
    )
    assert remedies.problems(too_large) == [
        "32.1 GB are needed on a GPU at the peak, it has 22",
        "learner.checkpointing=true (21.2 GB)",
        "learner.tokens_per_microbatch=3328 (21.8 GB)",
        "hardware.gb=40 (larger GPUs, nothing else changed)",
    ]


def test_what_is_trained_changes_only_where_computing_otherwise_is_not_enough():
    small_gpu = run_of("learner.checkpointing=false", "policy.vision=full", gb=16.0)
    half = f"policy.dtype=bfloat16 {HALF}"
    lora = "policy.language=lora policy.vision=frozen policy.dtype=bfloat16"
    assert remedies.problems(small_gpu) == [
        "23.1 GB are needed on a GPU at the peak, it has 16",
        f"{half} (16.0 GB)",
        f"{EIGHT} {half} (16.0 GB)",
        f"policy.vision=frozen {EIGHT} {half} (16.0 GB)",
        f"{lora} (13.5 GB)",
        f"{lora} {NF4} (13.5 GB)",  # rows of 1000 and 2000 numbers are no whole blocks
        "hardware.gb=24 (larger GPUs, nothing else changed)",
    ]


def test_where_nothing_is_enough_all_changes_name_the_gpu_that_they_need():
    large = replace(MODEL, parameters={**MODEL.parameters, "language": 15 * 10**9})
    run = run_of("learner.checkpointing=false", "policy.dtype=bfloat16", gb=24.0, size=large)
    assert remedies.problems(run)[1:] == [
        f"learner.checkpointing=true policy.language=lora {NF4} hardware.gb=40"
    ]


def test_a_vllm_that_cannot_hold_the_model_is_given_more_of_the_gpu():
    """Of 40 GB it has 16, and needs 16.3 for 8.15 x 10^9 parameters in bfloat16."""
    knobs = ("policy.language=lora", "policy.dtype=bfloat16", "rollout.engine=vllm")
    lacks, *solutions = remedies.problems(run_of(*knobs, gb=40.0, size=LARGE))
    assert lacks.startswith("vLLM holds the whole model a second time and needs 16.4 GB, more than")
    assert re.match(r"rollout\.engine\.memory=0\.42 \(\d+\.\d GB\)", solutions[0])
    # on 24 GB nothing is enough; a change for a larger GPU is not offered where none is needed
    lacks, *solutions = remedies.problems(run_of(*knobs, gb=24.0, size=LARGE))
    assert "GB are needed on a GPU at the peak, it has 24" in lacks
    assert solutions == ["hardware.gb=48 (larger GPUs, nothing else changed)"]


def test_adapters_in_float64_are_offered_4_bits_only_with_a_type_that_has_them():
    knobs = ("policy.language=lora", "policy.dtype=float64")
    offers = offered(run_of(*knobs, gb=16.0, size=LARGE))
    assert "policy.quantise" in offers


def test_a_model_that_no_gpu_holds_is_told_to_be_smaller():
    huge = replace(MODEL, parameters={"language": 10**12})
    config = loading.load("digits", ["policy.model=/somewhere"])
    none = remedies.problems(Workload(config=config, size=huge, machine=Machine(gb=80.0)))
    assert none[1].startswith("policy.model: a smaller one; no GPU holds this one whole")
