"""The README's table: the default run for some seeds, beside supervised controls of the same length and a look at blank images.

    python benchmarks/digits_table.py --folder runs/table --seeds 0 1 2

Per seed: `gpg-vl train` (warm-up, then GPG); the trained model on grey pictures; and, from the same warm-up, as many seconds of supervised
learning as GPG took, once on the warm-up's few labelled scenes and once on the truth of every scene that GPG was allowed to ask about.
Finished parts are read, not repeated.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import fmean

from transformers.utils import logging

from gpg_vl.config import loading, resources
from gpg_vl.config.schema import Config
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.compare import compare
from gpg_vl.evaluation.evaluate import evaluate_model
from gpg_vl.evaluation.records import Record, by_tag
from gpg_vl.evaluation.statistics import interval
from gpg_vl.training import warmup_cache
from gpg_vl.training.loop import train

CONFIGS = resources.folder("configs")


def main() -> None:
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--config", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        measure(loading.load(arguments.config, [f"folder={arguments.folder}", f"name=gpg-{seed}", f"seed={seed}"]))
    print(table(arguments.folder, arguments.seeds, loading.load(arguments.config).evaluation.benchmark or ""))


def measure(given: Config) -> None:
    run = given.run_folder
    name = given.evaluation.benchmark or ""
    if not (run / "evaluation" / f"{name}-after.jsonl").exists():
        train(given, CONFIGS)
    if not (blank := run / "evaluation" / f"{name}-blank.jsonl").exists():
        eval_records.save(evaluate_model(name, str(run), [], blank=True, told=lambda done: None), blank)
    seconds = fmean(row["seconds"] for row in steps(run)) * given.steps
    for control, sources in (("few", given.warmup.data), ("all", given.data)):
        imitate(given, control, sources, seconds)


def imitate(given: Config, control: str, sources, seconds: float) -> None:
    """Supervised learning from the same warm-up for so many seconds."""
    name = given.name.replace("gpg", f"sft-{control}")
    if (given.run_folder.with_name(name) / "checkpoints" / "000000").exists():
        return
    policy = given.policy.model_copy(update={"model": str(warmup_cache.cache_path(given, CONFIGS))})
    probe = sft(given, f"{name}-probe", policy, sources, 20)
    sft(given, name, policy, sources, round(seconds / probe))


def sft(given: Config, name: str, policy, sources, steps: int) -> float:
    """Seconds per step of a supervised run."""
    warmup = given.warmup.model_copy(update={"steps": steps, "data": sources})
    evaluation = given.evaluation if not name.endswith("-probe") else given.evaluation.model_copy(update={"benchmark": None})
    told: list[str] = []
    changed = {"name": name, "steps": 0, "policy": policy, "warmup": warmup, "evaluation": evaluation}
    train(given.model_copy(update=changed), CONFIGS, say=told.append)
    (last,) = (re.search(r", ([\d.]+) s$", line) for line in told if line.startswith(f"warm-up {steps}/{steps}"))
    assert last is not None
    print(f"{name}: {steps} steps, {last[1]} s")
    return float(last[1]) / steps


def table(folder: Path, seeds: list[int], name: str) -> str:
    heads = "task | seed | after warm-up | after GPG | difference | GPG on blank images | SFT, few labels | SFT, all labels"
    lines = [f"| {heads} |", "| --- " * 8 + "|"]
    for seed in seeds:
        gpg = folder / f"gpg-{seed}" / "evaluation"
        sides = {when: by_tag(eval_records.load(gpg / f"{name}-{when}.jsonl")) for when in ("before", "after", "blank")}
        imitations = [folder / f"sft-{kind}-{seed}" / "evaluation" / f"{name}-before.jsonl" for kind in ("few", "all")]
        controls = [by_tag(eval_records.load(path)) for path in imitations]
        for tag, before in sides["before"].items():
            after, won = sides["after"][tag], compare(before, sides["after"][tag])[0].difference
            cells = [percent(before), percent(after), str(won), percent(sides["blank"][tag])]
            lines.append(f"| {tag} | {seed} | " + " | ".join([*cells, *(percent(control[tag]) for control in controls)]) + " |")
        seconds = sum(row["seconds"] for row in steps(folder / f"gpg-{seed}"))
        lines.append(f"| *seconds of GPG* | {seed} | | {seconds:.0f} | | | | |")
    return "\n".join(lines)


def percent(records: list[Record]) -> str:
    return str(interval([record.greedy for record in records]))


def steps(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
