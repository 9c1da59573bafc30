"""Sampling with adapters as they are, beside sampling with merged matrices: CPU seconds of a round.

    python benchmarks/adapter_sampling.py [--model FOLDER] [--rounds 5]

The rounds of both alternate; the median of each is printed, and their ratio.
"""

import argparse
import time
from contextlib import nullcontext
from statistics import median

import torch

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.data.recipes.digits import digits
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import load_policy
from gpg_vl.prompts import AnswerOnly
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--model", default="tiny")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--prompts", type=int, default=8)
    options.add_argument("--tokens", type=int, default=32)
    given = options.parse_args()
    config = PolicyConfig(model=given.model, language="lora", projector="frozen", dtype=given.dtype)
    policy = load_policy(config, seed=0)
    assert policy.adapters is not None
    prompts = [encode(sample, AnswerOnly(), policy) for sample in digits("count", count=8)]
    engine = TransformersEngine(policy, merge=False)  # they are merged here, to be timed apart
    seeds = [list(range(8)) for _ in prompts]
    sampling = Sampling(max_tokens=given.tokens, temperature=1.0)
    seconds: dict[str, list[float]] = {"as they are": [], "merged": [], "merging": []}
    for _ in range(given.rounds + 1):
        for name in ("as they are", "merged"):
            start = time.process_time()
            with torch.no_grad():
                merged = policy.adapters.merged(policy.dtype)
                with merged if name == "merged" else nullcontext():
                    if name == "merged":
                        seconds["merging"].append(time.process_time() - start)
                    engine.generate(prompts, sampling, seeds)
            seconds[name].append(time.process_time() - start)
    medians = {name: median(values[1:]) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name}: {value:.2f} CPU s")
    print(f"as they are / merged: {medians['as they are'] / medians['merged']:.2f}")


if __name__ == "__main__":
    main()
