"""The plan in numbers, each worked out by hand on a made-up model of 10^9 parameters; and memory
at its borders."""

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.config import loading
from gpg_vl.config.schema import RewardConfig
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.preflight import memory, plan, remedies
from gpg_vl.preflight.memory import Item, Limits, Machine, Workload
from tests import published_sizes
from tests.workloads import MODEL, run_of

HERE = Path(__file__).parents[1]


# --- what a run is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "trained"),
    [
        ([], 850_000_000),
        (["policy.vision=full"], 1_000_000_000),
        (["policy.language=frozen"], 50_000_000),
        (["policy.projector=frozen"], 800_000_000),
        (["policy.language=frozen", "policy.projector=frozen", "policy.vision=full"], 150_000_000),
        (["policy.language=frozen", "policy.projector=frozen"], 0),
    ],
)
def test_what_is_trained_is_counted_part_by_part(knobs, trained):
    assert run_of(*knobs).trained == trained


@pytest.mark.parametrize(
    ("groups", "processes", "own"), [(32, 1, 32), (32, 8, 4), (33, 8, 4), (4, 8, 1), (7, 7, 1)]
)
def test_processes_share_the_groups_of_a_step(groups, processes, own):
    assert run_of(f"rollout.groups_per_step={groups}", processes=processes).groups == own


@pytest.mark.parametrize(
    ("pixels", "tokens"),
    [
        ("78400", 100),
        ("78401", 101),
        ("784", 1),
        ("783", 1),
        ("null", 1280),
        (str(1 << 24), 21400),
        (str(1 << 30), 21400),
    ],
)
def test_a_picture_has_as_many_tokens_as_its_pixels_allow(pixels, tokens):
    """14 x 14 pixels a patch, four patches a token: 784 pixels; 2^24 pixels are 21 399.5 tokens."""
    assert run_of(f"policy.max_pixels={pixels}").picture == tokens


def test_a_group_is_a_picture_words_and_all_answers():
    run = run_of("rollout.group_size=3", "rollout.max_tokens=50")
    assert (run.prompt, run.group) == (100 + 256, 100 + 256 + 150)
    tiny = run_of("policy.model=tiny", "rollout.group_size=3", "rollout.max_tokens=50")
    assert (tiny.picture, tiny.prompt, tiny.group) == (64, 128, 278)


def test_who_samples_is_read_from_a_name_or_a_mapping():
    assert run_of("rollout.engine=vllm").engine == ("vllm", {"kind": "vllm"})
    assert run_of("rollout.engine={kind: vllm, sleep: 1}").engine == (
        "vllm",
        {"kind": "vllm", "sleep": 1},
    )


def test_hardware_is_what_is_named_or_what_is_there(monkeypatch):
    monkeypatch.setattr(memory, "gpu_here", lambda: 24.0)
    for knobs, gb, processes in (
        ([], 24.0, 1),
        (["hardware.gb=80"], 80.0, 1),
        (["hardware.gpus=4"], 24.0, 4),
    ):
        assert memory.machine_of(loading.load("digits", knobs)) == Machine(
            gb=gb, processes=processes
        )


def test_a_config_is_counted_with_its_divergence(monkeypatch):
    monkeypatch.setattr(memory, "gpu_here", lambda: None)
    config = loading.load("digits", ["hardware.gb=80", "hardware.gpus=2"])
    experiment: Any = SimpleNamespace(config=config, estimator=SimpleNamespace(kl=0.25))
    run = plan.workload_of(experiment)
    assert (run.config, run.machine, run.kl) == (config, Machine(gb=80.0, processes=2), 0.25)


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(memory, "DRIVERS", ("/no/such/driver",))
    assert memory.gpu_here() is None


@pytest.mark.parametrize("driver", ["/dev/nvidiactl", "/dev/kfd", "/dev/dxg"])
@pytest.mark.parametrize(("available", "gb"), [(True, 24.5), (False, None)])
def test_with_any_driver_torch_is_asked(available, gb, driver, monkeypatch):
    cuda = torch.cuda
    monkeypatch.setattr(os.path, "exists", lambda path: path == driver)
    monkeypatch.setattr(cuda, "is_available", lambda: available)
    monkeypatch.setattr(cuda, "current_device", lambda: 1)
    monkeypatch.setattr(
        cuda, "get_device_properties", lambda number: SimpleNamespace(total_memory=24.5e9 * number)
    )
    assert memory.gpu_here() == gb


# --- items ----------------------------------------------------------------------------------------


ROOMY = Limits(1000, False)


def by_name(run: Workload, limits: Limits = ROOMY) -> dict[str, Item]:
    return {item.name: item for item in memory.items(run, limits)}


@pytest.mark.parametrize(
    ("knobs", "name", "phases"),
    [
        # keys and values: 10 layers x 500 x 8 bytes x 500 tokens, of as many groups as are written
        # at once
        ([], "keys and values (rollout)", (32 * 500 * 40_000, 0, 0)),
        (
            ["rollout.engine={kind: transformers, prompts_at_once: 2}"],
            "keys and values (rollout)",
            (2 * 500 * 40_000, 0, 0),
        ),
        (["rollout.groups_per_step=4"], "keys and values (rollout)", (4 * 500 * 40_000, 0, 0)),
        (["policy.dtype=bfloat16"], "keys and values (rollout)", (32 * 500 * 30_000, 0, 0)),
        (["policy.dtype=float64"], "keys and values (rollout)", (32 * 500 * 80_000, 0, 0)),
        # logits of one token of 32 x 8 rows: 3 x 4 + 24 bytes; in the update of 1000 tokens 2 x 4 +
        # 2 x 4 bytes
        ([], "logits", (36 * 256 * 1000, 16 * 1000 * 1000, 0)),
        (["policy.dtype=bfloat16"], "logits", (36 * 256 * 1000, 12 * 1000 * 1000, 0)),
        (["policy.dtype=float64"], "logits", (48 * 256 * 1000, 32 * 1000 * 1000, 0)),
        (["rollout.engine=vllm"], "logits", (0, 16 * 1000 * 1000, 0)),
        # a group has but 500 tokens
        (["rollout.groups_per_step=1"], "logits", (36 * 8 * 1000, 16 * 500 * 1000, 0)),
        ([], "gradient of the head", (0, 8e6, 0)),
        (["policy.dtype=bfloat16"], "gradient of the head", (0, 6e6, 0)),
        # chunks are summed in float32
        (
            ["policy.dtype=bfloat16", "policy.weights=bfloat16"],
            "gradient of the head",
            (0, 6e6, 0),
        ),
        (["policy.dtype=bfloat16"], "weights, frozen (bfloat16)", (0.3e9,) * 3),
        (["policy.dtype=bfloat16"], "bfloat16 copies (autocast)", (1.7e9, 1.7e9, 0)),
        ([], "weights, trained (float32)", (3.4e9,) * 3),
        ([], "weights, frozen (float32)", (0.6e9,) * 3),
        (["policy.dtype=float64"], "weights, trained (float64)", (6.8e9,) * 3),
        ([], "gradients", (3.4e9,) * 3),
        ([], "AdamW's two moments", (6.8e9,) * 3),
        ([], "AdamW's temporaries", (0, 0, 3.4e9)),
    ],
)
def test_an_item_by_hand_in_its_phases(knobs, name, phases):
    item = by_name(run_of(*knobs))[name]
    assert (item.rollout, item.update, item.step) == phases


@pytest.mark.parametrize(
    ("knobs", "gb", "kl", "names"),
    [
        (
            [],
            24.0,
            0.0,
            {
                "AdamW's temporaries",
                "starting weights (estimator.kl)",
                "vLLM",
                "weights, frozen (NF4)",
                "adapters (float32)",
                "one matrix, dequantised",
                "merged matrices (rollout)",
                "gradients of a split group",
            },
        ),
        (
            ["policy.vision=full"],
            None,
            0.0,
            {"weights, frozen (float32)", "CUDA context, fragments"},
        ),
        (["policy.language=frozen"], None, 0.0, {"gradient of the head"}),
        (["rollout.engine=vllm"], None, 0.0, {"vLLM", "keys and values (rollout)"}),
        (["rollout.engine=server"], 24.0, 0.0, {"vLLM", "keys and values (rollout)"}),
    ],
)
def test_what_takes_no_bytes_is_no_item(knobs, gb, kl, names):
    assert not names & by_name(run_of(*knobs, gb=gb, kl=kl)).keys()


@pytest.mark.parametrize(
    ("knobs", "gigabytes"),
    [
        # the 90 million numbers of adapted matrices once more, in the type that is computed in
        ([], 0.36),
        (["policy.dtype=float64"], 0.72),
        (["policy.dtype=bfloat16"], 0),
        (["policy.quantise=nf4"], 0),
        (["rollout.engine={kind: transformers, merge: auto}"], 0.36),
        (["rollout.engine={kind: transformers, merge: false}"], 0),
        (["rollout.engine={kind: transformers, merge: true}", "policy.dtype=bfloat16"], 0.18),
        (["rollout.engine={kind: transformers, merge: true}", "policy.quantise=nf4"], 0.36),
        (["rollout.engine=vllm"], 0),
        (["policy.language=frozen"], 0),
    ],
)
def test_adapters_are_merged_for_sampling_where_the_engine_does(knobs, gigabytes):
    found = by_name(run_of("policy.language=lora", *knobs))
    item = found.get("merged matrices (rollout)", Item("none"))
    assert (item.rollout, item.update, item.step) == (gigabytes * 1e9, 0, 0)


@pytest.mark.parametrize(
    ("knobs", "gigabytes"),
    [
        ([], 3.4),
        (["policy.dtype=bfloat16", "policy.weights=bfloat16"], 1.7),
        # adapters that began at zero are switched off; 2,560,000 of them and the projector
        (["policy.language=lora", "warmup.steps=0"], 0),
        (["policy.language=lora", "warmup.steps=3"], 0.21024),
    ],
)
def test_starting_weights_are_kept_where_the_model_is_not_its_start(knobs, gigabytes):
    name = "starting weights (estimator.kl)"
    kept = by_name(run_of(*knobs, kl=0.1)).get(name, Item("none"))
    assert kept.update == pytest.approx(gigabytes * 1e9)
    assert name not in by_name(run_of(*knobs))


@pytest.mark.parametrize(
    ("engine", "name", "awake", "asleep"),
    [
        ("vllm", "vLLM", 32e9, 32e9),
        ("{kind: vllm, memory: 0.5}", "vLLM", 40e9, 40e9),
        ("{kind: vllm, cache_gib: 2}", "vLLM", 4e9 + 2 * 2**30, 4e9 + 2 * 2**30),
        ("{kind: vllm, sleep: 2}", "vLLM, asleep in the update", 32e9, 1e9),
    ],
)
def test_a_vllm_holds_its_share(engine, name, awake, asleep):
    item = by_name(run_of(f"rollout.engine={engine}", gb=80.0))[name]
    assert (item.rollout, item.update, item.step) == (awake, asleep, asleep)


@pytest.mark.parametrize(
    ("tokens", "shared", "split"),
    [(500, "true", False), (499, "true", True), (499, "false", False)],
)
def test_a_group_larger_than_the_budget_is_split(tokens, shared, split):
    item = by_name(run_of(f"learner.shared_prefix={shared}"), Limits(tokens, False)).get(
        "gradients of a split group", Item("")
    )
    assert (item.rollout, item.update, item.step) == (0, 3.4e9 if split else 0, 0)


@pytest.mark.parametrize(
    ("knobs", "tokens", "checkpointing", "bytes_"),
    [
        ([], 1000, False, 1000 * 11 * 70_400),
        ([], 1000, True, 1000 * (10 * 4000 + 70_400)),
        (["policy.dtype=float64"], 1000, True, 1000 * (10 * 8000 + 140_800)),
        # two groups, of which each has a picture of 400 patches
        (["policy.vision=full"], 1000, False, 1000 * 11 * 70_400 + 800 * 5 * 6030),
        (["policy.vision=full"], 999, False, 999 * 11 * 70_400 + 400 * 5 * 6030),
        # a piece of a group sees its picture all the same
        (["policy.vision=full"], 10, False, 10 * 11 * 70_400 + 400 * 5 * 6030),
        (["policy.vision=full"], 1000, True, 1000 * (10 * 4000 + 70_400) + 800 * (4 * 400 + 6030)),
    ],
)
def test_activations_by_hand(knobs, tokens, checkpointing, bytes_):
    assert memory.activations(run_of(*knobs), tokens, checkpointing) == pytest.approx(bytes_)


def test_no_more_logits_exist_at_once_than_the_head_makes():
    """2^24 of them, however many tokens and words there are."""
    wide = run_of(size=replace(MODEL, vocabulary=1_000_000))
    assert by_name(wide)["logits"].update == 16 * (1 << 24)


# --- what fits ------------------------------------------------------------------------------------


def test_the_peak_is_the_fullest_phase():
    every = [Item("a", 1, 5, 2), Item("b", 3, 1, 3), Item("c", 1, 0, 0)]
    assert memory.peak(every) == 6
    assert memory.peak([Item("a", 9, 5, 2), Item("b", 0, 1, 3)]) == 9
    assert memory.peak([Item("a", 1, 5, 2), Item("b", 0, 1, 8)]) == 10


def test_exactly_full_fits_and_a_byte_more_does_not(monkeypatch):
    run = run_of(gb=24.0)
    for needed, fits in ((24e9, True), (24e9 + 1, False)):
        monkeypatch.setattr(memory, "needed", lambda run, needed=needed: needed)
        assert memory.fits(run) == fits
    assert memory.fits(run_of())


def test_the_next_larger_gpu_that_is_sold_is_named(monkeypatch):
    monkeypatch.setattr(memory, "needed", lambda run: 47.9e9)
    assert [
        remedies._next_fitting_gpu(run_of(gb=gb)) for gb in (None, 24.0, 40.0, 48.0, 80.0, 288.0)
    ] == [
        48,
        48,
        48,
        80,
        96,
        None,
    ]
    monkeypatch.setattr(memory, "needed", lambda run: 300e9)
    assert remedies._next_fitting_gpu(run_of(gb=24.0)) is None


def test_a_budget_is_a_multiple_of_256_and_65536_at_most_unless_a_group_is_longer(monkeypatch):
    for room, most in (
        (100, 0),
        (256, 256),
        (511, 256),
        (65_535, 65_280),
        (65_536, 65_536),
        (10**9, 65_536),
    ):
        monkeypatch.setattr(
            memory, "_update_fits", lambda run, limits, room=room: limits.tokens <= room
        )
        assert memory._largest_budget(run_of(gb=24.0), False) == most
    long = run_of("rollout.max_tokens=10000", gb=24.0)  # 356 + 80000
    assert memory._largest_budget(long, False) == 80_384


@pytest.mark.parametrize(
    ("knobs", "plain", "again", "settled"),
    [
        # most tokens that fit without and with checkpointing; a group has 500
        ([], 1024, 9999, (1024, False)),
        ([], 512, 9999, (512, False)),
        ([], 256, 1024, (1024, True)),
        ([], 0, 256, (374, True)),  # neither: the prompt and one answer, 356 + 18
        ([], 0, 0, (374, True)),
        (["learner.checkpointing=false"], 256, 9999, (374, False)),
        (["learner.checkpointing=true"], 1024, 512, (512, True)),
        (["learner.tokens_per_microbatch=700"], 1024, 9999, (700, False)),
        (["learner.tokens_per_microbatch=700"], 512, 9999, (700, True)),
        (["learner.tokens_per_microbatch=700"], 512, 512, (700, True)),
        (
            ["learner.tokens_per_microbatch=700", "learner.checkpointing=false"],
            512,
            9999,
            (700, False),
        ),
        # a group has 1508: neither holds it whole
        (["rollout.group_size=64"], 1024, 1280, (1280, True)),
    ],
)
def test_auto_takes_most_tokens_and_checkpointing_only_where_a_group_needs_it(
    knobs, plain, again, settled, monkeypatch
):
    monkeypatch.setattr(
        memory,
        "_update_fits",
        lambda run, limits: limits.tokens <= (again if limits.checkpointing else plain),
    )
    assert memory.settle(run_of(*knobs, gb=24.0)) == Limits(*settled)


def test_where_nothing_is_known_of_the_hardware_auto_is_said(monkeypatch):
    for knobs, limits in (
        ([], (16384, False)),
        (["learner.tokens_per_microbatch=5"], (5, False)),
        (["learner.checkpointing=true"], (16384, True)),
    ):
        assert (
            memory.settle(run_of(*knobs))
            == memory.default_limits(run_of(*knobs).config.learner)
            == Limits(*limits)
        )


# --- what is printed ------------------------------------------------------------------------------


def words(lines: Any) -> str:
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        # weights of all and two moments of what is trained: 4 x (10^9 + 2 x 0.85 x 10^9) = 10.8 GB
        (
            ["checkpoint.keep_last=2", "checkpoint.keep_best=1"],
            (
                "10.8 GB a checkpoint, at most 43.2 GB: 3 that are kept (the best may be among the "
                "newest) and one being written"
            ),
        ),
        (
            ["checkpoint.keep_last=1", "checkpoint.keep_best=0"],
            "10.8 GB a checkpoint, at most 21.6 GB: 1 that are kept",
        ),
        # frozen weights in bfloat16: 0.3 GB less
        (["policy.dtype=bfloat16"], "10.5 GB a checkpoint"),
        (["policy.dtype=float64"], "21.6 GB a checkpoint"),
        (["policy.vision=full"], "12.0 GB a checkpoint"),
    ],
)
def test_the_disk_by_hand(knobs, expected):
    assert plan._disk(run_of(*knobs)).startswith(expected)


def test_the_disk_says_what_a_checkpoint_of_adapters_holds():
    lora = "policy.language=lora"
    assert " a checkpoint (adapters and parts set to full), at" in plan._disk(run_of(lora))
    alone = run_of(lora, "policy.projector=frozen")
    assert plan._disk(alone).startswith("30.7 MB a checkpoint (adapters alone), at most")
    tiny = plan._disk(run_of(lora, "policy.projector=frozen", "policy.model=tiny"))
    assert tiny.startswith("4.0 GB a checkpoint (adapters and the tiny model that they are on), at")


def test_small_checkpoints_are_reported_in_mb():
    small = replace(MODEL, parameters={"language": 1_000_000, "projector": 0, "vision": 0})
    assert plan._disk(run_of(size=small)).startswith("12.0 MB a checkpoint")


@pytest.mark.parametrize(
    ("knobs", "gb", "checkpointing", "expected"),
    [
        # 32 x (500 x 6 x 8e8 + 100 x 4 x 2 x 1.5e8) = 32 x (2.4e12 + 0.12e12)
        ([], None, False, "80.6 TFLOP of the update in a step and process"),
        # run again in the backward: 8 in place of 6
        ([], None, True, "106.2 TFLOP"),
        # 32 x (2.4e12 + 100 x 4 x 6 x 1.5e8)
        (["policy.vision=full"], None, False, "88.3 TFLOP"),
        # 32 x (500 x 4 x 8e8 + 0.12e12)
        (["policy.language=frozen"], None, False, "55.0 TFLOP"),
        (
            ["policy.dtype=bfloat16"],
            80.0,
            False,
            "about 0.6 s at an assumed 125 TFLOP/s (40 % of an A100); an estimate",
        ),
        ([], 80.0, False, "about 10.3 s at an assumed 7.8 TFLOP/s"),
        (["policy.dtype=float64"], 80.0, False, "about 20.7 s at an assumed 3.9 TFLOP/s"),
        ([], None, False, "; seconds are estimated for a GPU alone (hardware.gb=80), the first "),
    ],
)
def test_the_time_by_hand(knobs, gb, checkpointing, expected):
    assert expected in plan._time(run_of(*knobs, gb=gb), Limits(1000, checkpointing))


def test_the_time_of_a_small_model_is_no_row_of_zeros():
    """32 x 500 x 6 x 1e6 = 96 GFLOP, which an A100 does in a hundredth of a second."""
    small = replace(MODEL, parameters={"language": 1_000_000, "projector": 0, "vision": 0})
    on_a_cpu = plan._time(run_of(size=small), Limits(1000, False))
    assert on_a_cpu.startswith("96.0 GFLOP of the update")
    assert "about 0.1 s" in plan._time(run_of(size=small, gb=80.0), Limits(1000, False))


def test_an_embedding_of_its_own_is_looked_up_and_not_multiplied():
    """800 million less a head of a million: 32 x (500 x 6 x 0.799e9 + 0.12e12) = 80.5 TFLOP."""
    assert plan._time(run_of(size=replace(MODEL, tied=False)), Limits(1000, False)).startswith(
        "80.5 TFLOP"
    )


def test_the_table_of_memory_has_a_column_for_each_phase():
    lines = list(plan._memory(run_of("learner.tokens_per_microbatch=1000", gb=24.0)))
    assert (
        lines[0]
        == f"{'memory:':10}{'GB on a GPU of 24 GB':37}{'rollout':>11}{'update':>11}{'step':>11}"
    )
    rows = {
        line[10:47].strip(): [cell.strip() for cell in (line[47:58], line[58:69], line[69:80])]
        for line in lines[1:]
        if not line[:10].strip()
    }
    assert rows["weights, trained (float32)"] == ["3.40", "3.40", "3.40"]
    assert rows["gradient of the head"] == ["", "0.01", ""]
    assert rows["keys and values (rollout)"] == ["0.64", "", ""]
    assert rows["CUDA context, fragments"] == ["3.20", "3.20", "3.20"]
    # 3.4 + 0.6 + 3.4 + 6.8 + 3.2 = 17.4; and 0.64 + 0.0092 | 0.008 + 0.016 + 0.7744
    assert rows["sum"] == ["18.05", "18.20", "17.40"]
    printed = words(lines)
    assert (
        "model: 850,000,000 parameters trained (float32), 150,000,000 frozen (float32), whole on "
        "every GPU" in printed
    )
    assert (
        "budget: 1,000 tokens at once, checkpointing false (auto); a group is assumed to have 500 "
        "(356 of the prompt + 8 x 18)" in printed
    )
    assert words(plan._memory(run_of())).count("GB in a process") == 1


def test_a_plan_tells_a_run_in_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "gpu_here", lambda: None)
    knobs = [
        "steps=10",
        "rollout.groups_per_step=3",
        "rollout.group_size=4",
        "rollout.max_tokens=50",
        "rollout.max_rounds=7",
    ]
    config = loading.load(
        str(HERE / "small.yaml"),
        [*knobs, f"folder={tmp_path}", "reward={combine: sum, format: 0.5}"],
    )
    made = plan.plan(Experiment.resolve(config))
    printed = words(made.lines)
    # wherever its line breaks
    assert f"run: {tmp_path}/small,10stepsof3promptsx4answers".replace(" ", "") in printed.replace(
        " ", ""
    )
    assert "sampled: 12 answers a round, 120 in all; at most 7 rounds a step" in printed
    assert "tokens: at most 600 sampled in a round (50 an answer)" in printed
    reward = "reward: 1 x accuracy, plus 0.5 for the format; answers are read by the format of the"
    assert f"{reward} prompt alone" in printed
    method = "method: gpg; answers without a thought; evaluated on small_benchmark.yaml"
    assert method in printed
    assert made.problems == ()
    assert max(map(len, made.lines)) <= 80


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({}, "1 x accuracy of an answer in the format of the prompt, else 0"),
        ({"combine": "sum"}, "1 x accuracy"),
        ({"mode": "lenient"}, "1 x accuracy"),
        (
            {"accuracy": 2, "format": 1},
            "2 x accuracy of an answer in the format of the prompt, else 0, plus 1 for the format",
        ),
    ],
)
def test_a_reward_is_told_in_words(knobs, sentence):
    assert plan._reward(RewardConfig(**knobs)) == sentence


def test_the_page_on_cost_has_the_memory_of_today(tmp_path):
    page = (HERE.parent / "docs" / "cost.md").read_text()
    _, _, after = page.partition("From `gpg-vl plan geoqa`, ")
    block = after.partition("```text\n")[2].partition("```")[0]
    model = f"policy.model={published_sizes.write('Qwen2.5-VL-3B', tmp_path)}"
    planned = plan.plan(Experiment.resolve(loading.load("geoqa", [model])))
    assert block.startswith("memory: ")
    assert block.rstrip() in "\n".join(planned.lines)


def test_targets_that_match_nothing_are_refused_before_a_weight_is_loaded():
    knobs = ["policy.language=lora", "policy.projector=frozen", "policy.lora.targets=[q_prj]"]
    with pytest.raises(UserError, match=r"^policy\.lora\.targets: 'q_prj' matches no matrix"):
        plan.plan(Experiment.resolve(loading.load("digits", knobs)))


def test_a_run_in_which_nothing_is_trained_is_refused():
    frozen = ["policy.language=frozen", "policy.projector=frozen", "policy.vision=frozen"]
    with pytest.raises(UserError, match="all frozen: nothing would be trained; set one to full"):
        plan.plan(Experiment.resolve(loading.load(str(HERE / "small.yaml"), frozen)))


def test_what_does_not_fit_is_reported_with_every_way_out(monkeypatch):
    monkeypatch.setattr(plan, "workload_of", lambda experiment: run_of(gb=24.0))
    monkeypatch.setattr(
        plan, "problems", lambda run: ["it is full", "this helps", "that helps", "so does this"]
    )
    made = plan.plan(Experiment.resolve(loading.load(str(HERE / "small.yaml"))))
    assert made.problems == ("it is full", "this helps", "that helps", "so does this")
    assert made.lines[-4:] == (
        "too much: it is full",
        "change:   this helps",
        "or:       that helps",
        "or:       so does this",
    )
