"""Compare predicted memory with what a process holds, and the limits with sums made by hand."""

import re
import resource
import subprocess
import sys
from dataclasses import replace
from inspect import signature

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from gpg_vl.config import loading
from gpg_vl.config.schema import Config, PolicyConfig, Tiny
from gpg_vl.policy import chunked_head
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.sizes import size_of, size_of_model
from gpg_vl.preflight import memory
from gpg_vl.preflight.memory import Limits, Machine, Workload
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.rollout.vllm.in_process import VllmEngine
from tests.asking import prompts
from tests.hand_made import completion
from tests.held import MID, held, one_step
from tests.published_sizes import write
from tests.workloads import MODEL, run_of


def config_of(*knobs: str) -> Config:
    return loading.load("digits", knobs)


def predicted_bytes(workload: Workload) -> dict[str, float]:
    """Return the bytes of each item while the optimizer steps."""
    listed = memory.items(workload, memory.settle(workload))
    return {item.name: item.step for item in listed}


@pytest.mark.parametrize("vision", ["frozen", "full"])
@pytest.mark.parametrize("shape", [Tiny(), MID], ids=["tiny", "mid"])
def test_what_stays_is_what_a_process_holds_item_by_item(shape, vision):
    policy = load_policy(PolicyConfig(tiny=shape, vision=vision), seed=0)
    found = held(policy, one_step(policy))
    config = Config.model_validate(
        {"data": [{"recipe": "digits"}], "policy": {"tiny": shape.model_dump(), "vision": vision}}
    )
    workload = Workload(config=config, size=size_of(config.policy), machine=Machine(gb=None))
    predicted = predicted_bytes(workload)
    assert found["weights, trained (float32)"] > 0
    for name, count in found.items():  # only AdamW's step counters are not predicted
        assert predicted.get(name, 0) == pytest.approx(count, rel=1e-4), name


def test_float64_takes_twice_as_much():
    policy = load_policy(PolicyConfig(dtype="float64"), seed=0)
    found = held(policy, one_step(policy))
    config = config_of("policy.dtype=float64", "policy.vision=frozen")
    workload = Workload(config=config, size=size_of(config.policy), machine=Machine(gb=None))
    predicted = predicted_bytes(workload)
    for name, count in found.items():
        assert predicted[name] == pytest.approx(count, rel=1e-4), name


# --- what layers save for the backward pass -------------------------------------------------------


def saved(
    shape: Tiny,
    dtype: str,
    *,
    checkpointing: bool = False,
    vision: str = "frozen",
    pictures: bool = False,
) -> tuple[float, int, int]:
    """Count the bytes that a forward saves for its backward, without weights and their copies.

    Returns:
        Bytes, tokens and patches.
    """
    policy = load_policy(PolicyConfig(tiny=shape, dtype=dtype, vision=vision), seed=0)
    (prompt,) = prompts(policy, ["count" if pictures else "add"])
    answers = [completion([(7 * row + place) % 300 + 3 for place in range(60)]) for row in range(7)]
    own = {parameter.untyped_storage()._cdata for parameter in policy.model.parameters()}
    weights: set[tuple[int, ...]] = set()  # shapes of the matrices and of their transposes
    for parameter in policy.model.parameters():
        if parameter.dim() == 2:
            weights |= {tuple(parameter.shape), tuple(parameter.shape)[::-1]}
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage()._cdata
        if place not in own and tuple(tensor.shape) not in weights:
            seen.setdefault(place, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        GroupForward(policy, 1.0, checkpointing=checkpointing)(
            [(prompt, answers)], lambda logprobs_n, index_n: logprobs_n.sum()
        )
    patches = int(prompt.features["image_grid_thw"].prod()) if pictures else 0
    saved_bytes = sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    return float(saved_bytes), len(prompt.input_ids) + 7 * 59, patches


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_layer_of_the_language_model_saves_what_is_predicted(family, dtype):
    shapes = [Tiny(family=family, hidden=320, layers=layers) for layers in (1, 2)]
    (one, tokens, _), (two, _, _) = (saved(shape, dtype) for shape in shapes)
    stack = size_of(PolicyConfig(tiny=shapes[0])).language
    assert memory.layer_bytes(stack, dtype) == pytest.approx((two - one) / tokens, rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_layer_of_a_trained_tower_saves_what_is_predicted(family, dtype):
    shapes = [Tiny(family=family, vision_hidden=160, vision_layers=layers) for layers in (2, 3)]
    (two, _, patches), (three, _, _) = (
        saved(shape, dtype, vision="full", pictures=True) for shape in shapes
    )
    stack = size_of(PolicyConfig(tiny=shapes[0])).tower
    assert memory.layer_bytes(stack, dtype) == pytest.approx((three - two) / patches, rel=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_with_checkpointing_a_layer_saves_its_input(dtype):
    (one, tokens, _), (two, _, _) = (
        saved(Tiny(hidden=320, layers=layers), dtype, checkpointing=True) for layers in (1, 2)
    )
    assert (two - one) / tokens == 4 * 320


# --- by hand --------------------------------------------------------------------------------------


def test_the_arithmetic_knows_the_defaults_of_the_engines_and_of_the_head():
    """`plan` does not load torch, so it cannot ask them."""
    engine = signature(TransformersEngine).parameters
    assert engine["prompts_at_once"].default == memory.PROMPTS_AT_ONCE
    assert VllmEngine.memory == memory.VLLM_MEMORY
    assert memory.MAX_LOGITS_AT_ONCE == chunked_head.CHUNK


def test_items_by_hand():
    run = run_of(kl=0.1)
    assert (run.trained, run.picture, run.prompt, run.group) == (850_000_000, 100, 356, 500)
    single = 4 * 4 * 2000 + 24 * 1000 + 10.4 * 1000 + 8 * 500
    assert memory.layer_bytes(MODEL.language, "float32") == single == 70_400
    half = 2 * 4 * 2000 + 26 * 1000 + 5.4 * 1000 + 5 * 500
    assert memory.layer_bytes(MODEL.language, "bfloat16") == half == 49_900
    assert memory.settle(run) == Limits(16384, False)
    by_name = {item.name: item for item in memory.items(run, Limits(1000, False))}
    assert by_name["weights, trained (float32)"].rollout == by_name["gradients"].update == 3.4e9
    assert by_name["weights, frozen (float32)"].step == 0.6e9
    assert by_name["AdamW's two moments"].rollout == 6.8e9
    assert by_name["AdamW's temporaries"].step == 3.4e9  # foreach, on a CPU
    assert by_name["AdamW's temporaries"].update == 0
    assert by_name["reference model (estimator.kl)"].rollout == 4e9
    assert by_name["gradient of the head"].update == 8 * 1000 * 1000
    # Ten layers, and one more while its gradient is computed.
    assert by_name["activations"].update == 1000 * 11 * 70_400
    assert by_name["keys and values (rollout)"].rollout == 32 * 500 * 10 * 500 * 8
    assert "gradients of a split group" not in by_name
    split = {item.name: item.update for item in memory.items(run, Limits(499, False))}
    assert split["gradients of a split group"] == 3.4e9


def test_a_trained_tower_and_autocast_by_hand():
    run = run_of("policy.vision=full", "policy.dtype=bfloat16", gb=80.0)
    by_name = {item.name: item for item in memory.items(run, Limits(1000, False))}
    assert by_name["bfloat16 copies (autocast)"].rollout == 2e9
    assert "weights, frozen (float32)" not in by_name
    assert "AdamW's temporaries" not in by_name  # fused, on a GPU
    tower = 2 * 2 * 200 + 16 * 100 + 6.3 * 100
    # Two groups, 400 patches each.
    both = 1000 * 11 * 49_900 + 2 * 100 * 4 * 5 * tower
    assert by_name["activations"].update == pytest.approx(both)
    assert by_name["keys and values (rollout)"].rollout == 32 * 500 * 10 * 500 * 6
    assert by_name["CUDA context, fragments"].step == 2e9 + 0.05 * 80e9


@pytest.mark.parametrize(
    ("engine", "awake", "asleep"),
    [("vllm", 32e9, 32e9), ("{kind: vllm, sleep: 1, memory: 0.5}", 40e9, 1e9)],
)
def test_a_vllm_on_the_same_gpu_holds_its_share_while_it_is_awake(engine, awake, asleep):
    every = memory.items(run_of(f"rollout.engine={engine}", gb=80.0), Limits(1000, False))
    (found,) = [item for item in every if item.name.startswith("vLLM")]
    assert (found.rollout, found.update) == (awake, asleep)


def test_auto_takes_what_fits():
    whole = run_of(gb=24.0)
    room = 24e9 - 2e9 - 0.05 * 24e9 - 3.4e9 * 4 - 0.6e9 - 8e6
    tokens = int(room / (11 * 70_400 + 16 * 1000)) // 256 * 256
    assert memory.settle(whole) == Limits(tokens, False) == Limits(8192, False)
    # 0.322e9: 407 tokens, less than a group; with checkpointing, ten inputs and one layer a token.
    room = 17.4e9 - 2e9 - 0.05 * 17.4e9 - 14.208e9
    tokens = int(room / (10 * 4000 + 70_400 + 16 * 1000)) // 256 * 256
    assert memory.settle(run_of(gb=17.4)) == Limits(tokens, True) == Limits(2304, True)
    both_set = run_of("learner.checkpointing=true", "learner.tokens_per_microbatch=77", gb=24.0)
    assert memory.settle(both_set) == Limits(77, True)
    fits_whole = run_of("learner.tokens_per_microbatch=8000", gb=24.0)
    assert memory.settle(fits_whole) == Limits(8000, False)
    too_large = run_of("learner.tokens_per_microbatch=8400", gb=24.0)
    assert memory.settle(too_large) == Limits(8400, True)
    assert memory.settle(run_of(gb=None)) == Limits(16384, False)


def test_a_group_larger_than_the_largest_budget_is_not_split_where_it_fits():
    long = run_of("rollout.group_size=64", "rollout.max_tokens=2048", gb=288.0)
    assert long.group > memory.MAX_TOKENS_AT_ONCE
    settled = memory.settle(long)
    assert settled.tokens >= long.group
    assert not settled.checkpointing


LARGE_ROLLOUT = ("rollout.groups_per_step=64", "rollout.group_size=16", "rollout.max_tokens=4096")


@pytest.mark.parametrize(
    ("knobs", "groups"),
    [((), 32), (("rollout.engine={kind: transformers, prompts_at_once: 2}",), 2)],
)
def test_a_rollout_holds_the_rows_that_are_sampled_at_once(knobs, groups):
    listed = memory.items(run_of(*knobs), Limits(1000, False))
    every = {item.name: item.rollout for item in listed}
    assert every["keys and values (rollout)"] == groups * 500 * 10 * 500 * 8
    assert every["logits"] == (3 * 4 + 24) * groups * 8 * 1000


def test_a_rollout_that_does_not_fit_samples_fewer_groups_at_once():
    long = run_of(*LARGE_ROLLOUT, gb=24.0)
    fitting = [words for words, changed in memory.changes(long) if memory.fits(changed)]
    (offer,) = [words for words in fitting if words.startswith("rollout.engine=")]
    assert offer.startswith("rollout.engine={kind: transformers, prompts_at_once: ")


def offered(run: Workload) -> list[str]:
    """Return the keys that are offered as changes."""
    keys: list[str] = []
    for words, _ in memory.changes(run):
        keys += re.findall(r"([\w.]+)=", words)
    return keys


@pytest.mark.parametrize(
    ("knobs", "change"),
    [
        (("learner.checkpointing=false",), "learner.checkpointing"),
        (("learner.tokens_per_microbatch=16000",), "learner.tokens_per_microbatch"),
        (("policy.vision=full",), "policy.vision"),
        (("rollout.engine=vllm",), "rollout.engine.sleep"),
        (("policy.dtype=float32",), "policy.dtype"),
        (LARGE_ROLLOUT, "rollout.engine"),
    ],
)
def test_each_change_is_offered_where_it_changes_something_and_nowhere_else(knobs, change):
    assert offered(run_of("policy.dtype=bfloat16", gb=24.0)) == []
    assert offered(run_of("policy.dtype=bfloat16", *knobs, gb=24.0)) == [change]


@pytest.mark.parametrize(
    "knobs",
    [
        ("learner.checkpointing=true",),
        # with a frozen tower, nothing would be left to train
        ("policy.vision=full", "policy.language=frozen", "policy.projector=frozen"),
        ("rollout.engine={kind: vllm, sleep: 1}",),
        ("rollout.engine={kind: vllm, sleep: 2}",),
    ],
)
def test_no_change_is_offered_that_is_made_already(knobs):
    assert offered(run_of("policy.dtype=bfloat16", *knobs, gb=24.0)) == []


def test_what_does_not_fit_says_what_to_change():
    assert memory.problems(run_of(gb=24.0)) == []
    assert memory.problems(run_of(gb=None)) == []
    too_large = run_of(
        "learner.checkpointing=false",
        "learner.tokens_per_microbatch=16000",
        "policy.vision=full",
        gb=22.0,
    )
    assert memory.problems(too_large) == [
        "32.1 GB are needed on a GPU at the peak, it has 22",
        "learner.checkpointing=true (21.2 GB)",
        "learner.tokens_per_microbatch=3328 (21.8 GB)",
        "hardware.gb=40 (larger GPUs, nothing else changed)",
    ]
    small_gpu = run_of("learner.checkpointing=false", "policy.vision=full", gb=16.0)
    everything = "learner.checkpointing=true policy.vision=frozen policy.dtype=bfloat16"
    assert memory.problems(small_gpu)[-1] == f"{everything} hardware.gb=24"
    huge = replace(MODEL, parameters={"language": 72 * 10**9})
    config = config_of("policy.model=/somewhere")
    none = memory.problems(Workload(config=config, size=huge, machine=Machine(gb=80.0)))
    assert none[1].startswith("policy.model: a smaller one; no GPU holds this one whole")


def test_more_processes_have_fewer_groups_each():
    one, eight = (run_of(gb=80.0, processes=processes) for processes in (1, 8))
    assert (one.groups, eight.groups) == (32, 4)
    assert memory.needed(eight) < memory.needed(one)


# --- the command ----------------------------------------------------------------------------------


def test_a_plan_of_a_large_model_takes_under_three_seconds(tmp_path):
    spent: list[float] = []
    for name in ("Qwen2.5-VL-3B", "Qwen2.5-VL-7B"):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = ["plan", "geoqa", f"policy.model={write(name, tmp_path)}"]
        done = subprocess.run(
            [sys.executable, "-m", "gpg_vl", *command], capture_output=True, text=True, check=False
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == (0 if name.endswith("3B") else 1), done.stdout + done.stderr
        # CPU seconds, which do not depend on what else the machine does
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert max(spent) < 3


def test_the_sizes_of_a_built_model_are_those_of_its_file():
    policy = load_policy(PolicyConfig(), seed=0)
    assert size_of_model(policy.model) == size_of(PolicyConfig())
