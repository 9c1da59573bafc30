"""Run many checks of the vision gate on correct engines, to see how near chance comes to a limit.

    # random models: narrow and wide, with flat and with peaked distributions
    python benchmarks/gate_checks.py --checks 200
    # a real checkpoint, for instance from `python -m tests.real.smollm2 FOLDER`
    python benchmarks/gate_checks.py --checks 50 --model FOLDER
    # the real vLLM in this process; also with --model
    python benchmarks/gate_checks.py --checks 20 --engine vllm

Seeds, precisions, temperatures (0.7 to 1.2) and lengths vary from check to check. Each check is a
line, appended to a file. Ends with 1 if a check fails or a figure exceeds half its limit
(`gate/excess` above 0.5).
"""

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config.schema import Config
from gpg_vl.data.recipes.digits import Task, digits
from gpg_vl.errors import MismatchError
from gpg_vl.experiment import Experiment
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.types import Prompt

TASKS: tuple[Task, ...] = ("count", "compare", "box", "add")
DTYPES = ("bfloat16", "float32")
TEMPERATURES, LENGTHS = (0.7, 0.85, 1.0, 1.2), (8, 24, 64)
MAX_SHARE = 0.5
"""Largest share of a limit that a correct engine may reach."""
MODELS: dict[str, tuple[dict[str, Any], float]] = {
    "tiny qwen2_5_vl": ({"family": "qwen2_5_vl"}, 1.0),
    "tiny qwen3_vl, sharp": ({"family": "qwen3_vl"}, 3.0),
    "tiny qwen2_vl": ({"family": "qwen2_vl"}, 1.0),
    "wide": ({"hidden": 512, "layers": 12}, 1.0),
    "wide, sharp": ({"hidden": 512, "layers": 12}, 3.0),
    "wide, sharper": ({"hidden": 512, "layers": 12}, 5.0),
}
"""Name -> shape, and factor of the head's weights: random models have flat distributions, trained
ones peaked (sharp) distributions."""
ENGINES: dict[str, Any] = {
    "transformers": "transformers",
    "vllm": {
        "kind": "vllm",
        "window": 1024,
        "cache_gib": 0.25,
        "rows": 32,
        "options": {"block_size": 32, "skip_mm_profiling": True},
    },
}
"""Name -> `rollout.engine`, small enough for any machine."""


@dataclass(frozen=True)
class Case:
    """One check."""

    model: str
    dtype: str
    engine: str
    temperature: float
    length: int
    """Maximum length of an answer, in tokens."""
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checks", type=int, default=12, help="number of checks")
    parser.add_argument("--model", type=Path, help="a checkpoint instead of the random models")
    parser.add_argument("--engine", default="transformers", choices=ENGINES)
    parser.add_argument("--first", type=int, default=0, help="number of the first check")
    parser.add_argument("--to", type=Path, default=Path("gate_checks.jsonl"))
    options = parser.parse_args()
    models = [str(options.model)] if options.model else list(MODELS)
    shares: list[float] = []
    all_cases = cases(models, options.engine)
    for case in itertools.islice(all_cases, options.first, options.first + options.checks):
        figures = check(case)
        share = figures["gate/excess"]
        shares.append(share)
        row = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            **asdict(case),
            "model": Path(case.model).name,
            **figures,
        }
        with options.to.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(
            f"{share:.2f} of the limit: {row['model']}, {case.dtype}, T {case.temperature}, "
            f"{case.length} tokens",
            flush=True,
        )
    print(f"{len(shares)} checks, the largest figure is {max(shares):.2f} of its limit")
    sys.exit(max(shares) > MAX_SHARE)


def cases(models: list[str], engine: str) -> Iterator[Case]:
    """Yield endless cases; precision changes fastest, then model, temperature and length."""
    for seed in itertools.count():
        for place, (model, dtype) in enumerate(itertools.product(models, DTYPES)):
            temperature = TEMPERATURES[(seed + place) % len(TEMPERATURES)]
            length = LENGTHS[(seed + place) % len(LENGTHS)]
            yield Case(model, dtype, engine, temperature, length, seed)


def check(case: Case) -> dict[str, float]:
    """Return what the gate measures, under its names in the run folder."""
    experiment = experiment_of(case)
    policy = experiment.policy()
    if case.model in MODELS:
        _, sharpness = MODELS[case.model]
        with torch.no_grad():
            policy.model.lm_head.weight.mul_(sharpness)
    sampling = Sampling(max_tokens=case.length, temperature=case.temperature)
    gate = VisionGate(prompts=tuple(prompts_of(policy, case)), sampling=sampling, seed=case.seed)
    with closing(experiment.engine(policy)) as engine:
        try:
            return gate.check(engine, policy, 0)
        except MismatchError as error:
            print(error)
            return {"gate/excess": math.inf}


def experiment_of(case: Case) -> Experiment:
    """Return model and engine of a case as an experiment."""
    policy: dict[str, Any] = {"dtype": case.dtype}
    if case.model in MODELS:
        policy["tiny"], _ = MODELS[case.model]
    else:
        policy["model"] = case.model
    config = Config.model_validate(
        {
            "seed": case.seed if case.model in MODELS else 0,
            "data": [{"recipe": "digits"}],
            "policy": policy,
            "rollout": {"engine": ENGINES[case.engine]},
        }
    )
    return Experiment.resolve(config)


def prompts_of(policy: Policy, case: Case) -> list[Prompt]:
    """Return a question of each task.

    A real model is asked for sentences, so that its answers differ.
    """
    style: Style = AnswerOnly()
    if case.model not in MODELS:
        style = Style(think="absent", instruction="Explain in a few sentences.")
    samples = [next(digits(task, seed=case.seed, count=1)) for task in TASKS]
    return [encode(sample, style, policy) for sample in samples]


if __name__ == "__main__":
    main()
