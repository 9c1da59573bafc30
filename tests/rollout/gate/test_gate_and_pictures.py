"""Faults of an engine that touch pictures alone, and the ban of placeholders, on a model whose
answers owe much to their pictures."""

from dataclasses import replace

import pytest
import torch
from PIL import ImageOps

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import MismatchError
from gpg_vl.policy.encode import encode_text
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.vision import FeatureCache, Vision
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate import rounding
from gpg_vl.rollout.gate.altered_prompts import with_grey_pictures
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.rollout.transformers_engine import TransformersEngine
from tests.asking import prompts


@pytest.fixture(params=["bfloat16", pytest.param("float32", marks=pytest.mark.nightly)])
def policy(request, sighted):
    return load_policy(PolicyConfig(vision="full", dtype=request.param), seed=0, path=sighted)


@pytest.fixture
def gate(policy):
    return VisionGate(
        prompts=tuple(prompts(policy, ["box"], each=3)),
        sampling=Sampling(max_tokens=18, temperature=1.0),
        seed=0,
    )


class Altering(TransformersEngine):
    """Sees other pictures than it was given."""

    def __init__(self, policy, alter) -> None:
        super().__init__(policy)
        self.alter = alter

    def generate(self, asked, sampling, seeds):
        return super().generate([self.alter(prompt) for prompt in asked], sampling, seeds)


def test_its_answers_owe_much_to_their_pictures(policy, gate):
    measured = gate.check(TransformersEngine(policy), policy, 0)
    assert measured["visual_reliance"] > 10 * measured["gate/noise"]
    assert measured["gate/excess"] < 0.5


@pytest.mark.parametrize("policy", ["float32", "bfloat16"], indirect=True)
def test_a_lost_picture_is_named(policy, gate):
    with pytest.raises(
        MismatchError,
        match="Cause: image lost: the engine answers alike with and without the picture",
    ):
        gate.check(Altering(policy, lambda prompt: with_grey_pictures(prompt, policy)), policy, 0)


def test_another_processor_is_named(policy, gate):
    """As many tokens, other pixels: here mirrored; another backend or another mean of the pixels
    is the like."""

    def mirrored(prompt):
        return encode_text(
            prompt.text, [ImageOps.mirror(image) for image in prompt.images], prompt.sample, policy
        )

    with pytest.raises(MismatchError, match="Cause: only pictures disagree: processor mismatch"):
        gate.check(Altering(policy, mirrored), policy, 0)


def test_a_cache_of_features_that_outlived_an_update_of_the_tower_is_named(policy, gate):
    engine = TransformersEngine(
        replace(policy, vision=Vision(policy.model, FeatureCache(64, None, "")))
    )
    gate.check(engine, policy, 0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".visual." in name:
                parameter.mul_(1.6)
    engine.version = 1
    with pytest.raises(MismatchError, match="Cause: stale encoder cache: new pictures agree"):
        gate.check(engine, policy, 1)
    honest = TransformersEngine(policy)
    honest.version = 1
    assert gate.check(honest, policy, 1)["gate/excess"] < 0.5, (
        "without the cache, the same weights are no mismatch"
    )


def test_an_engine_without_the_ban_is_named(policy, gate):
    """Placeholders are made likely, and the engine counts them among the possible tokens."""
    with torch.no_grad():
        head = policy.model.lm_head.weight
        head[list(policy.banned_ids)] = head[policy.processor.tokenizer.eos_token_id].clone()

    class Unbanned(TransformersEngine):
        def generate(self, asked, sampling, seeds):
            groups, free = super().generate(asked, sampling, seeds), replace(policy, banned_ids=())

            def counting(prompt, said):
                return replace(
                    said,
                    logprobs=tuple(
                        rounding.score(free, [(prompt, [said])], sampling.temperature).tolist()
                    ),
                )

            return [
                [counting(prompt, said) for said in group]
                for prompt, group in zip(asked, groups, strict=True)
            ]

    with pytest.raises(
        MismatchError, match="Cause: the ban: the engine counts image and video placeholders"
    ):
        gate.check(Unbanned(policy), policy, 0)
