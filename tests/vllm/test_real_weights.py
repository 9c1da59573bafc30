"""Real pretrained weights in front of the real vLLM, in both precisions; only where GPG_VL_REAL
names a folder, as in CI."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.data.recipes.digits import digits
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import load_policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate.vision_gate import VisionGate
from tests.vllm.conftest import IN_PROCESS, build, move

FOLDER = os.environ.get("GPG_VL_REAL")


@pytest.fixture(scope="module")
def smolqwen() -> Path:
    from tests.real.smollm2 import checkpoint

    assert FOLDER
    return checkpoint(Path(FOLDER))


def multiplied(policy, version):
    for parameter in policy.model.parameters():
        parameter.data.mul_(1 + 2.0**-6)  # survives rounding to bfloat16


def moved(policy, version):
    move(policy, version, size=0.01)


FULL = {"vision": "full"}
IN_4_BITS = {"language": "lora", "projector": "frozen", "quantise": "nf4"}


@pytest.mark.parametrize(
    ("dtype", "knobs", "update"),
    [
        ("float32", FULL, multiplied),
        ("bfloat16", FULL, multiplied),
        pytest.param("bfloat16", IN_4_BITS, moved, marks=pytest.mark.nightly),
    ],
)
def test_the_gate_opens_before_and_after_an_update(dtype, knobs, update, smolqwen):
    policy = load_policy(PolicyConfig(model=str(smolqwen), dtype=dtype, **knobs), seed=0)
    style = Style(think="absent", instruction="Explain in a sentence.")
    asked = [encode(next(digits(task, count=1)), style, policy) for task in ("add", "count")]
    gate = VisionGate(
        prompts=tuple(asked), sampling=Sampling(max_tokens=32, temperature=0.8), seed=0
    )
    with closing(build(policy, {**IN_PROCESS, "cache_gib": 0.25})) as engine:
        for version in (0, 1):
            engine.update_weights(policy, version)
            measured = gate.check(engine, policy, version)
            assert measured["gate/excess"] < 0.6, measured
            update(policy, version)
