"""Say at the end of a run what was gained and what to do next, or how a stopped run goes on.

Every command is on a line of its own and works in any folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from gpg_vl.config import resources
from gpg_vl.config.schema import Config
from gpg_vl.errors import UserError, command, is_launched, train_command
from gpg_vl.evaluation import records
from gpg_vl.evaluation.compare import compare
from gpg_vl.run_folder import complete_checkpoints, metric_rows, page_path

AFTER_WARMUP = {"trying the tasks", "checking the engine"}
"""Phases of which one at least follows the warm-up, before the first step."""
SHARE = 10
"""The first and the last of so many parts of a run are compared where there is no benchmark."""


def last_lines(run: Path, config: Config) -> Iterator[str]:
    """Yield what a run has gained and what can be done with it."""
    yield from held_out_gain(run) or reward_course(run)
    yield f"run folder: {run.absolute()}"
    yield from _page(run)
    form = "adapter for peft" if config.policy.trains_adapters else "model for plain transformers"
    yield f"{form}; its README.md has a program that asks it:"
    yield f"  {complete_checkpoints(run)[-1].absolute() / 'policy'}"
    if config.policy.trains_adapters:
        merged = run.with_name(f"{run.name}_merged")
        yield "one plain model of adapter and base:"
        yield f"  {command('gpg-vl', 'export', run, '--to', merged, '--merged')}"
    rollout = command("gpg-vl", "rollout", run / "config.yaml", "--model", run)
    labels, commands = ["ask it training questions (sampled)"], [rollout]
    benchmark: str | Path | None = config.evaluation.benchmark
    if benchmark:
        if benchmark.endswith((".yaml", ".yml")):
            benchmark = resources.find("evaluation", benchmark, config.base_dir)
        labels.append("held-out ones (greedy)")
        commands.append(command("gpg-vl", "evaluate", benchmark, "--model", run))
    compared = [command("gpg-vl", "compare", *pair) for pair in before_and_after(run)]
    if compared:
        labels.append("see what changed")
    yield f"{', '.join(labels)}:"
    for line in (*commands, *compared):
        yield f"  {line}"


def how_to_go_on(run: Path, phases: Sequence[str], *, warms_up: bool = False) -> Iterator[str]:
    """Yield what is kept of a run that was stopped, and how it goes on.

    Args:
        phases: that the program has gone through, the last one being where it was stopped.
        warms_up: the run has a warm-up, whose result is kept.
    """
    saved = complete_checkpoints(run)
    if saved:
        dots = " (... = the options that it was launched with)" if is_launched() else ""
        yield f"stopped; step {int(saved[-1].name)} is saved. Go on with{dots}:"
        yield f"  {train_command('--resume', run)}"
        yield from _page(run)
        return
    kept = "nothing is kept"
    if warms_up and AFTER_WARMUP.intersection(phases):
        kept = "the warm-up is kept and will not be repeated"
    where = f" ({phases[-1]})" if phases else ""
    yield f"stopped before the first step{where}; {kept}: start again with the same command"


def _page(run: Path) -> list[str]:
    """Return a line that names the page of a run; none without a page."""
    path = page_path(run)
    return [f"see it: {path.absolute()}"] if path.exists() else []


def held_out_gain(run: Path) -> list[str]:
    """Return the accuracy on held-out questions before and after the run; empty if not known.

    The table above it has the interval of the difference.
    """
    for before, after in before_and_after(run):
        try:
            whole, *_ = compare(records.load(before), records.load(after))
        except UserError:  # the table says why
            continue
        course = f"{100 * whole.first.mean:.1f} % -> {100 * whole.second.mean:.1f} %"
        if whole.difference.low <= 0 <= whole.difference.high:
            return [f"held-out accuracy: {course}, no difference seen"]
        verb = "gained" if whole.difference.mean > 0 else "lost"
        return [f"{verb}: held-out accuracy {course}"]
    return []


def before_and_after(run: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the records of each benchmark before and after a run."""
    for before in sorted((run / "evaluation").glob("*-before.jsonl")):
        after = before.with_name(f"{before.stem.removesuffix('-before')}-after.jsonl")
        if after.exists():
            yield before, after


def reward_course(run: Path) -> list[str]:
    """Return the mean reward at the beginning and at the end; empty without two steps.

    It says neither gained nor lost: each step asks other questions, so it goes up and down.
    """
    rewards: list[tuple[int, float]] = []
    for row in metric_rows(run):
        if row.get("reward") is not None:
            rewards.append((row["step"], row["reward"]))
    count = max(1, len(rewards) // SHARE)
    if len(rewards) < 2:
        return []
    parts: list[str] = []
    for some in (rewards[:count], rewards[-count:]):
        steps = f"step {some[0][0]}" if count == 1 else f"steps {some[0][0]} to {some[-1][0]}"
        parts.append(f"{fmean(reward for _, reward in some):.3f} ({steps})")
    return [f"mean reward of sampled answers: {' -> '.join(parts)}"]
