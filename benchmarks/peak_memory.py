"""Measure the peak memory of a rollout and of an update, beside what `gpg-vl plan` says of them.

    python benchmarks/peak_memory.py --model FOLDER

Each method runs in a fresh process: first on a tiny model, then on the given one, of which a
rollout of two groups whose answers all have the full length is measured, and an update of random
ones, a group at a time: the second meets the gradients of the first, as in a run.
Megabytes are resident memory (on a GPU: allocated memory) above that after the tiny model. The
allocator of the C library returns large pieces at once here: else the small tensors of adapters
between them keep up to a third more of a process resident. `plan` is asked about the same
workload, with the real number of tokens of a prompt.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frameworks import EndlessExperiment, Row, config_of, no_log, random_groups, update
from fresh_process import Record, markdown, record
from profiler import MEGABYTE, memory, peak, release_unused_memory, reset_peak

from gpg_vl.config.loading import override, parse
from gpg_vl.config.schema import Config
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight.memory import Limits, Machine, Workload, items, total
from gpg_vl.rollout.collect import collect
from gpg_vl.training.setup import TrainingRun, set_up

LORA = "policy.language=lora"
METHODS = {
    "full": "",
    "full, autocast": "policy.dtype=bfloat16",
    "LoRA": LORA,
    "LoRA, bfloat16": f"{LORA} policy.dtype=bfloat16",
    "NF4 + LoRA": f"{LORA} policy.quantise=nf4",
    "NF4 + LoRA, bfloat16": f"{LORA} policy.quantise=nf4 policy.dtype=bfloat16",
    "8-bit Adam": "optimizer.kind=adamw8bit",
    "bfloat16 weights": "policy.dtype=bfloat16 policy.weights=bfloat16",
    "bfloat16, 8-bit Adam": (
        "policy.dtype=bfloat16 policy.weights=bfloat16 optimizer.kind=adamw8bit"
    ),
}
"""Words beside the config, by method."""
RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Environment in which glibc maps every piece of 64 KiB and more by itself, and unmaps it again."""


@dataclass(frozen=True, kw_only=True)
class Measured(Workload):
    """Workload whose prompts have the number of tokens that was counted."""

    picture_tokens: int
    prompt_tokens: int

    @property
    def picture(self) -> int:
        """Visual tokens of a prompt."""
        return self.picture_tokens

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return self.prompt_tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a model")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--pixels", type=int, default=448, help="side of the picture")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128, help="tokens of an answer")
    parser.add_argument("--one", choices=list(METHODS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    row = Row(
        name="peak",
        pixels=options.pixels,
        group_size=options.group_size,
        length=options.length,
        groups=2,
        laps=1,
        vision="frozen",
        tokens=1 << 16,
    )
    if options.one:
        print(json.dumps(measure(row, Path(options.model), METHODS[options.one])))
        return
    size = ["--pixels", str(row.pixels), "--group-size", str(row.group_size)]
    size += ["--length", str(row.length), "--model", options.model]
    lines: list[tuple[str, ...]] = []
    for method in options.methods:
        found = record(__file__, ["--one", method, *size], RETURN_AT_ONCE)
        line = [method]
        for phase in ("rollout", "update"):
            measured, planned = found[phase], found[f"{phase} planned"]
            line += [f"{measured:,.0f}", f"{planned:,.0f}", f"{planned / measured - 1:+.0%}"]
        lines.append(tuple(line))
    head = ("method", "rollout MB", "plan", "off", "update MB", "plan", "off")
    print(markdown(head, lines))


def measure(row: Row, model: Path, words: str) -> Record:
    """Measure one method, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        # The same on a tiny model, so that all libraries are in memory, with their buffers.
        _phases(_run(row, Path("tiny"), words, Path(folder) / "tiny"), row, 0)
        release_unused_memory()
        libraries = memory()
        run = _run(row, model, words, Path(folder) / "real")
        found = _phases(run, row, libraries)
        config = run.config
    workload = _workload(run, config)
    planned = total(items(workload, Limits(workload.group, row.checkpointing)))
    # The update is followed by the optimizer's step, and both are within the measured phase.
    return {
        **found,
        "rollout planned": planned.rollout / MEGABYTE,
        "update planned": max(planned.update, planned.step) / MEGABYTE,
    }


def _run(row: Row, model: Path, words: str, folder: Path) -> TrainingRun:
    """Set a run up whose first update is like all others."""
    config = config_of(row, model, folder)
    values = override(Config, config.model_dump(mode="json"), words.split())
    config = parse(Config, values, "method").at(folder)
    run = set_up(EndlessExperiment.resolve(config), log=no_log)
    run.learner.needs_comparison = False  # its second forward is not of every update
    run.learner.tokens_per_microbatch = 1  # a group is larger, and goes alone
    return run


def _phases(run: TrainingRun, row: Row, libraries: int) -> dict[str, float]:
    """Measure the second rollout and the second update: the first makes the moments."""
    found: dict[str, float] = {}
    for _ in range(2):
        release_unused_memory()
        reset_peak()
        collect(run.rollouts, run.state.cursor)
        found["rollout"] = (peak() - libraries) / MEGABYTE
        release_unused_memory()
        reset_peak()
        update(run, random_groups(run, row, row.groups))
        found["update"] = (peak() - libraries) / MEGABYTE
    return found


def _workload(run: TrainingRun, config: Config) -> Measured:
    prompt: Any = run.rollouts.prompt_at(0)
    token = run.policy.model.config.image_token_id
    return Measured(
        config=config,
        size=size_of(config.policy),
        machine=Machine(gb=None),
        picture_tokens=sum(each == token for each in prompt.input_ids),
        prompt_tokens=len(prompt.input_ids),
    )


if __name__ == "__main__":
    main()
