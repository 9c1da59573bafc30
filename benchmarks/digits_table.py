"""Run the default config for some seeds, with controls, and print the table of
docs/benchmarks.md.

    python benchmarks/digits_table.py --folder runs/table --seeds 0 1 2

Per seed: `gpg-vl train` (warm-up, then GPG); the trained model on grey images; and two supervised
controls from the same warm-up, trained for as many seconds as GPG took: one on the warm-up's few
labelled scenes, one on the true answers of every scene that GPG was allowed to ask about. Finished
parts are read, not repeated.
"""

import argparse
import re
from pathlib import Path
from statistics import fmean

from transformers.utils import logging

from gpg_vl.api import evaluate
from gpg_vl.config import loading
from gpg_vl.config.schema import Config, PolicyConfig, Source
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.compare import compare
from gpg_vl.evaluation.records import Record, by_tag
from gpg_vl.evaluation.statistics import interval
from gpg_vl.experiment import Experiment
from gpg_vl.run_folder import metric_rows
from gpg_vl.training import warmup_cache
from gpg_vl.training.loop import train

Sources = tuple[Source, ...]

PROBE_STEPS = 20
"""Supervised steps from which the seconds of a step are measured."""


def main() -> None:
    logging.disable_progress_bar()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--config", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for seed in options.seeds:
        knobs = [f"folder={options.folder}", f"name=gpg-{seed}", f"seed={seed}"]
        measure(loading.load(options.config, knobs))
    benchmark = loading.load(options.config).evaluation.benchmark or ""
    print(table(options.folder, options.seeds, benchmark))


def measure(config: Config) -> None:
    """Train and evaluate one seed and its controls."""
    run = config.run_path
    name = config.evaluation.benchmark or ""
    if not (run / "evaluation" / f"{name}-after.jsonl").exists():
        train(Experiment.resolve(config))
    blank = run / "evaluation" / f"{name}-blank.jsonl"
    if not blank.exists():
        eval_records.save(evaluate(name, run, blank=True), blank)
    seconds = fmean(row["seconds"] for row in steps(run)) * config.steps
    imitate(config, "few", config.warmup.data, seconds)
    imitate(config, "all", config.data, seconds)


def imitate(config: Config, control: str, sources: Sources | None, seconds: float) -> None:
    """Train supervised from the same warm-up for so many seconds."""
    name = config.name.replace("gpg", f"sft-{control}")
    if (config.run_path.with_name(name) / "checkpoints" / "000000").exists():
        return
    data = Experiment.resolve(config).warmup_data
    start = str(warmup_cache.cache_path(config, data))
    policy = config.policy.model_copy(update={"model": start})
    per_step = sft(config, f"{name}-probe", policy, sources, PROBE_STEPS)
    sft(config, name, policy, sources, round(seconds / per_step))


def sft(
    config: Config, name: str, policy: PolicyConfig, sources: Sources | None, steps: int
) -> float:
    """Train supervised, as a warm-up without RL, and return the seconds per step."""
    evaluation = config.evaluation
    if name.endswith("-probe"):
        evaluation = evaluation.model_copy(update={"benchmark": None})
    changed = {
        "name": name,
        "steps": 0,
        "policy": policy,
        "warmup": config.warmup.model_copy(update={"steps": steps, "data": sources}),
        "evaluation": evaluation,
    }
    lines: list[str] = []
    train(Experiment.resolve(config.model_copy(update=changed)), log=lines.append)
    # The last line of a warm-up: "warm-up 20/20: loss 0.512, 3.1 s"
    (last,) = (line for line in lines if line.startswith(f"warm-up {steps}/{steps}"))
    found = re.search(r", ([\d.]+) s$", last)
    assert found is not None
    print(f"{name}: {steps} steps, {found[1]} s")
    return float(found[1]) / steps


def table(folder: Path, seeds: list[int], name: str) -> str:
    """Return a Markdown table: a line per seed and task, and the seconds of each run."""
    heads = (
        "task | seed | after warm-up | after GPG | difference | GPG on blank images | SFT, few "
        "labels | SFT, all labels"
    )
    lines = [f"| {heads} |", "| --- " * 8 + "|"]
    for seed in seeds:
        run = folder / f"gpg-{seed}"
        before, after, blank = (
            records_by_tag(run, f"{name}-{when}") for when in ("before", "after", "blank")
        )
        # A control's own warm-up is its supervised training, so it is evaluated before step 1.
        few, every = (
            records_by_tag(folder / f"sft-{labels}-{seed}", f"{name}-before")
            for labels in ("few", "all")
        )
        for tag, records in before.items():
            cells = [
                percent(records),
                percent(after[tag]),
                str(compare(records, after[tag])[0].difference),
                percent(blank[tag]),
                percent(few[tag]),
                percent(every[tag]),
            ]
            lines.append(f"| {tag} | {seed} | {' | '.join(cells)} |")
        seconds = sum(row["seconds"] for row in steps(run))
        lines.append(f"| *seconds of GPG* | {seed} | | {seconds:.0f} | | | | |")
    return "\n".join(lines)


def records_by_tag(run: Path, evaluation: str) -> dict[str, list[Record]]:
    """Read one evaluation of a run."""
    return by_tag(eval_records.load(run / "evaluation" / f"{evaluation}.jsonl"))


def percent(records: list[Record]) -> str:
    """Return the greedy accuracy with its interval."""
    return str(interval([record.greedy for record in records]))


def steps(run: Path) -> list[dict[str, float]]:
    """Read the metrics of each step of a run."""
    return metric_rows(run)


if __name__ == "__main__":
    main()
