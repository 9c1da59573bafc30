"""Tiny policies with adapters that do something."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config.schema import LoraConfig, PolicyConfig, Tiny
from gpg_vl.policy import adapters
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.vision import Vision
from tests.any_family import policy_of_family
from tests.conftest import FAMILIES

LANGUAGE: dict[str, Any] = {"language": "lora", "projector": "frozen", "vision": "frozen"}
TOWER = {**LANGUAGE, "vision": "lora"}
PROJECTOR = {**LANGUAGE, "projector": "full"}


def tiny(family: Any = "qwen2_5_vl", *, path: Path | None = None, **knobs: Any) -> Any:
    """Return a tiny policy, with adapters in its language model unless knobs say otherwise."""
    values: dict[str, Any] = {
        "model": "tiny",
        "tiny": Tiny(family=family, layers=2),
        "dtype": "float64",
        "lora": LoraConfig(rank=4),
        **LANGUAGE,
        **knobs,
    }
    return load_policy(PolicyConfig(**values), seed=0, path=path, log=lambda line: None)


def moved(policy: Any, scale: float = 0.05) -> Any:
    """New adapters begin at B = 0, where A has no gradient and the base is all there is."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((scale * noise).to(parameter.dtype))
    return policy


def adapted(family: Any, parts: dict[str, Any]) -> Any:
    """A policy of any family in float64 with adapters that do something."""
    if family in FAMILIES:
        return moved(tiny(family, **parts))
    policy = policy_of_family(family)
    config = PolicyConfig(dtype="float64", lora=LoraConfig(rank=4), **parts)
    made = adapters.add(policy.model, config, base="", base_digest="", seed=0, files=None)
    return moved(replace(policy, adapters=made, vision=Vision(policy.model, None)))
