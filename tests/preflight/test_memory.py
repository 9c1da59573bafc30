"""Compare predicted memory with what a process holds, and the limits with sums made by hand."""

import resource
import subprocess
import sys
from inspect import signature

import pytest

from gpg_vl.config import loading
from gpg_vl.config.schema import Config, PolicyConfig, Tiny
from gpg_vl.policy import chunked_head
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.sizes import size_of, size_of_model
from gpg_vl.preflight import memory
from gpg_vl.preflight.memory import Limits, Machine, Workload
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.rollout.vllm.in_process import VllmEngine
from tests.held import MID, held, one_step
from tests.published_sizes import write
from tests.workloads import run_of


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


# --- by hand --------------------------------------------------------------------------------------

TYPES = ("float32", "bfloat16")


def test_the_arithmetic_knows_the_defaults_of_the_engines_and_of_the_head():
    """`plan` does not load torch, so it cannot ask them."""
    engine = signature(TransformersEngine).parameters
    assert engine["prompts_at_once"].default == memory.PROMPTS_AT_ONCE
    assert VllmEngine.memory == memory.VLLM_MEMORY
    assert memory.MAX_LOGITS_AT_ONCE == chunked_head.CHUNK


def test_items_by_hand():
    run = run_of(kl=0.1)
    assert (run.trained, run.picture, run.prompt, run.group) == (850_000_000, 100, 356, 500)
    assert memory.settle(run) == Limits(16384, False)
    by_name = {item.name: item for item in memory.items(run, Limits(1000, False))}
    assert by_name["weights, trained (float32)"].rollout == by_name["gradients"].update == 3.4e9
    assert by_name["weights, frozen (float32)"].step == 0.6e9
    assert by_name["AdamW's two moments"].rollout == 6.8e9
    assert by_name["AdamW's temporaries"].step == 3.4e9  # foreach, on a CPU
    assert by_name["AdamW's temporaries"].update == 0
    assert by_name["starting weights (estimator.kl)"].rollout == 3.4e9
    assert by_name["gradient of the head"].update == 8 * 1000 * 1000
    # Ten layers of 70,400 bytes a token, and one more while its gradient is computed.
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


def test_what_a_vllm_holds_at_least_by_hand():
    """10^9 parameters in bfloat16, and 500 tokens of 10 layers, 500 keys of 4 bytes and 500 values
    of 2."""
    run = run_of("policy.dtype=bfloat16", "rollout.engine=vllm", gb=80.0)
    assert memory.vllm_needs(run) == 2e9 + 500 * 10 * 500 * 6
    assert not memory.vllm_lacks(run)
    small = "rollout.engine={kind: vllm, memory: 0.02}"
    starved = run_of("policy.dtype=bfloat16", small, gb=80.0)
    assert memory.vllm_lacks(starved)
    assert not memory.fits(starved)
    (found,) = [item for item in memory.items(starved, Limits(1000, False)) if "vLLM" in item.name]
    assert found.rollout == memory.vllm_needs(run)
    own = "rollout.engine={kind: vllm, cache_gib: 2}"
    wide, narrow = (run_of(f"policy.dtype={dtype}", own, gb=80.0) for dtype in TYPES)
    for given, count in ((wide, 4e9), (narrow, 2e9)):
        (found,) = [item for item in memory.items(given, Limits(1000, False)) if "vL" in item.name]
        assert found.rollout == count + 2 * 2**30
        assert not memory.vllm_lacks(given)


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


@pytest.mark.parametrize(
    ("knobs", "groups"),
    [((), 32), (("rollout.engine={kind: transformers, prompts_at_once: 2}",), 2)],
)
def test_a_rollout_holds_the_rows_that_are_sampled_at_once(knobs, groups):
    listed = memory.items(run_of(*knobs), Limits(1000, False))
    every = {item.name: item.rollout for item in listed}
    assert every["keys and values (rollout)"] == groups * 500 * 10 * 500 * 8
    assert every["logits"] == (3 * 4 + 24) * groups * 8 * 1000


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
