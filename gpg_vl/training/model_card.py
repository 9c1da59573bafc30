"""The README.md beside the weights of a checkpoint: what was trained on what, how, and what it reached."""

from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from gpg_vl import __version__, benchmark
from gpg_vl.config import Config

HEAD = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": ["gpg_vl", "reinforcement-learning"]}


def model_card(config: Config, step: int, run: Path) -> str:
    """Markdown with the metadata block that model hubs read."""
    base = {} if config.policy.model == "tiny" else {"base_model": config.policy.model}
    lines = ["---", yaml.safe_dump({**HEAD, **base}, sort_keys=False).strip(), "---", "", f"# {config.name}, step {step}", ""]
    method = f"the estimator `{_short(config.estimator)}` (loss: weighted log-likelihood)"
    lines += [f"Trained by gpg_vl {__version__} from {_start(config)} with {method}."]
    lines += ["", "| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in _method(config).items())]
    lines += ["", "## Data", "", *(f"- `{_short(source.model_dump(exclude_defaults=True))}`" for source in config.data)]
    lines += ["", "## Held-out greedy accuracy", "", *_results(run)]
    return "\n".join(
        [*lines, "", "Load it with `transformers.AutoModelForImageTextToText.from_pretrained` and `AutoProcessor.from_pretrained`.", ""]
    )


def _start(config: Config) -> str:
    name = f"a tiny {config.policy.tiny.family} with random weights" if config.policy.model == "tiny" else f"`{config.policy.model}`"
    return f"{name}, warmed up by {config.warmup.steps} supervised steps," if config.warmup.steps else name


def _method(config: Config) -> dict[str, Any]:
    trained = [f"{part} {getattr(config.policy, part)}" for part in ("language", "projector", "vision")]
    return {
        "parts": ", ".join(trained),
        "groups per step x answers": f"{config.rollout.groups_per_step} x {config.rollout.group_size}",
        "temperature": config.rollout.temperature,
        "learning rate": f"{config.optimizer.lr:g} ({config.optimizer.schedule})",
        "prompt style": f"`{_short(config.prompt)}`",
        "seed": config.seed,
    }


def _results(run: Path) -> list[str]:
    """A row per evaluation that has been made so far."""
    files = sorted((run / "evaluation").glob("*.jsonl"), key=lambda path: (path.stem.endswith("-after"), path.stem))
    rows = [
        f"| {path.stem} | {tag} | {len(records)} | {100 * fmean(record.greedy for record in records):.1f} % |"
        for path in files
        for tag, records in benchmark.by_tag(benchmark.load(path)).items()
    ]
    return ["| evaluation | task | questions | accuracy |", "| --- | --- | --- | --- |", *rows] if rows else ["Not evaluated."]


def _short(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).strip().removesuffix("...").strip()
