"""Looks through the vision gate at engines that are honest: how near does chance come to a limit?

python benchmarks/honest_looks.py --looks 200                             # random models, narrow and wide, blunt and sharp
python benchmarks/honest_looks.py --looks 50 --model FOLDER               # a real checkpoint (python -m tests.real.smollm2 FOLDER)
python benchmarks/honest_looks.py --looks 20 --engine vllm                # the real vLLM in this process; also with --model

Seeds, precisions, temperatures 0.7 to 1.2 and lengths vary from look to look. A line each, appended to a file; exit 1 where a look trips or
a figure passes half its limit (`gate/excess` above 0.5).
"""

import argparse
import itertools
import json
import math
import sys
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.data.recipes.digits import Task, digits
from gpg_vl.errors import MismatchError
from gpg_vl.experiment import build_engine
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.types import Prompt

TASKS: tuple[Task, ...] = ("count", "compare", "box", "add")
DTYPES = ("bfloat16", "float32")
TEMPERATURES, LENGTHS = (0.7, 0.85, 1.0, 1.2), (8, 24, 64)
MODELS: dict[str, tuple[dict[str, Any], float]] = {
    "tiny qwen2_5_vl": ({"family": "qwen2_5_vl"}, 1.0),
    "tiny qwen3_vl, sharp": ({"family": "qwen3_vl"}, 3.0),
    "tiny qwen2_vl": ({"family": "qwen2_vl"}, 1.0),
    "wide": ({"hidden": 512, "layers": 12}, 1.0),
    "wide, sharp": ({"hidden": 512, "layers": 12}, 3.0),
    "wide, sharper": ({"hidden": 512, "layers": 12}, 5.0),
}
"""Shape, and what the head is multiplied with: random logits are blunt, those of a trained model sharp."""


@dataclass(frozen=True)
class Case:
    """One look."""

    model: str
    dtype: str
    engine: str
    temperature: float
    length: int
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=12)
    parser.add_argument("--model", type=Path, help="a checkpoint instead of the random models")
    parser.add_argument("--engine", default="transformers", choices=("transformers", "vllm"))
    parser.add_argument("--first", type=int, default=0, help="number of the first look")
    parser.add_argument("--to", type=Path, default=Path("honest_looks.jsonl"))
    given = parser.parse_args()
    models = [str(given.model)] if given.model else [*MODELS]
    shares: list[float] = []
    for case in itertools.islice(cases(models, given.engine), given.first, given.first + given.looks):
        told = look(case)
        shares.append(told["gate/excess"])
        row = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **asdict(case), "model": Path(case.model).name, **told}
        with given.to.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        print(
            f"{told['gate/excess']:.2f} of the limit: {row['model']}, {case.dtype}, T {case.temperature}, {case.length} tokens", flush=True
        )
    print(f"{len(shares)} looks, the largest figure is {max(shares):.2f} of its limit")
    sys.exit(max(shares) > 0.5)


def cases(models: list[str], engine: str) -> "itertools.chain[Case]":
    """Endless looks; precision changes fastest, then model, temperature and length."""

    def round_of(seed: int) -> list[Case]:
        return [
            Case(model, dtype, engine, TEMPERATURES[(seed + place) % 4], LENGTHS[(seed + place) % 3], seed)
            for place, (model, dtype) in enumerate(itertools.product(models, DTYPES))
        ]

    return itertools.chain.from_iterable(map(round_of, itertools.count()))


def look(case: Case) -> dict[str, float]:
    """What the gate measured, in the journal's words."""
    policy = policy_of(case)
    sampling = Sampling(max_tokens=case.length, temperature=case.temperature)
    gate = VisionGate(prompts=tuple(prompts_of(policy, case)), sampling=sampling, seed=case.seed)
    with closing(build_engine(spec_of(case.engine), policy, Path())) as engine:
        try:
            return gate.look(engine, policy, 0)
        except MismatchError as error:
            print(error)
            return {"gate/excess": math.inf}


def policy_of(case: Case) -> Policy:
    """The model of a case."""
    if case.model not in MODELS:
        return load_policy(PolicyConfig.model_validate({"model": case.model, "dtype": case.dtype}), seed=0)
    shape, sharpness = MODELS[case.model]
    policy = load_policy(PolicyConfig.model_validate({"tiny": shape, "dtype": case.dtype}), seed=case.seed)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(sharpness)
    return policy


def prompts_of(policy: Policy, case: Case) -> list[Prompt]:
    """A question of each task; a real model is asked for sentences, so that its answers are not all alike."""
    style = AnswerOnly() if case.model in MODELS else Style(think="absent", instruction="Explain in a few sentences.")
    samples = [next(digits(task, seed=case.seed, count=1)) for task in TASKS]
    return [encode(sample, style, policy) for sample in samples]


def spec_of(engine: str) -> Any:
    """The engine, small enough for any machine."""
    if engine == "transformers":
        return engine
    return {"kind": "vllm", "window": 1024, "cache_gib": 0.25, "rows": 32, "options": {"block_size": 32, "skip_mm_profiling": True}}


if __name__ == "__main__":
    main()
