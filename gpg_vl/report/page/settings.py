"""Say how a run was made: its settings, machine, data, time, and what can be done with it."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import yaml

from gpg_vl.config.schema import Config
from gpg_vl.errors import command, train_command
from gpg_vl.report.page.contents import Row, RunContents
from gpg_vl.report.page.finding import duration
from gpg_vl.report.page.texts import single_line

MOST_LEFT_OUT = 8
"""Reasons for rows that are left out which are listed."""
MOST_EXAMPLES = 3
"""Rows that are named with each reason."""
NOT_SETTINGS = {"name", "folder"}
"""Keys that say where a run is written, not what it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting that differs from its default."""

    key: str
    value: str
    default: str
    """Empty = it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOutReason:
    """Rows of the data that are not used for one reason."""

    why: str
    count: int
    examples: Sequence[str]
    """Source and id of the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Seconds that a run spent in one phase."""

    name: str
    seconds: str
    share: float
    """Of all phases, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPart:
    """Settings, machine, data, time and uses of a run."""

    settings: Sequence[Setting]
    facts: Sequence[tuple[str, str]]
    """Facts of machine and versions: name, value."""
    starts: Sequence[Mapping[str, str]]
    """Each start: time, command, directory, git."""
    data: Sequence[str]
    """Sources of the training data, as YAML."""
    left_out: Sequence[LeftOutReason]
    left_out_count: int
    phases: Sequence[Phase]
    figures: Sequence[tuple[str, str]]
    """Totals of the run: name, value."""
    checkpoints: Sequence[int]
    uses: Sequence[tuple[str, str]]
    """What can be done with the run: a sentence, and the command."""


def run_part(run: RunContents) -> RunPart:
    """Return how a run was made."""
    left_out = _left_out(run.left_out)
    data = run.config.get("data")
    sources = data if isinstance(data, list) else []
    return RunPart(
        settings=differences(run.config),
        facts=list(_facts(run.environment)),
        starts=[_texts(start) for start in run.environment.get("starts") or ()],
        data=[single_line(as_yaml(without_defaults(source)), 400) for source in sources],
        left_out=left_out,
        left_out_count=len(run.left_out),
        phases=_phases(run.steps),
        figures=list(_figures(run)),
        checkpoints=run.checkpoints,
        uses=list(_uses(run)),
    )


def differences(config: Mapping[str, Any]) -> list[Setting]:
    """Return the settings of a config that differ from the defaults of this version.

    A setting that this version does not know is one too: the run may be of another version.
    """
    defaults = dict(leaves(_defaults()))
    settings: list[Setting] = []
    for key, value in leaves(config):
        if key in NOT_SETTINGS or key == "data":
            continue
        if isinstance(value, list):  # sources of rows have many settings at their defaults
            value = [without_defaults(item) for item in value]
        if key in defaults and defaults[key] == value:
            continue
        default = single_line(as_yaml(defaults[key]), 80) if key in defaults else ""
        settings.append(
            Setting(
                key=single_line(key, 200), value=single_line(as_yaml(value), 300), default=default
            )
        )
    return settings


def leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a config by its key, as ("rollout.group_size", 8)."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(cast(Mapping[str, Any], value), f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _defaults() -> dict[str, Any]:
    """Return every setting at its default, as a YAML file holds it."""
    config = Config.model_validate({"data": [{"recipe": "none"}]})
    return config.model_dump(mode="json", exclude={"data"})


def without_defaults(source: Any) -> Any:
    """Return a source of rows with what is set."""
    if not isinstance(source, Mapping):
        return source
    usual = {"split": "train", "weight": 1, "box_format": "xyxy", "part": "all", "decimal": "."}
    usual |= {"test_share": 0.1}
    kept: dict[str, Any] = {}
    for name, value in source.items():
        if value not in (None, {}, [], ()) and usual.get(name) != value:
            kept[name] = value
    return kept


def as_yaml(value: Any) -> str:
    """Return a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.strip().removesuffix("...").strip()


def _facts(environment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts of machine and versions."""
    gpus = environment.get("gpus") or ()
    names = [single_line(gpu.get("name", gpu) if isinstance(gpu, Mapping) else gpu) for gpu in gpus]
    yield "GPUs", ", ".join(names) or "none"
    known = {
        "cpu": "CPU",
        "cores": "cores",
        "memory_gb": "memory in GB",
        "processes": "processes",
        "threads": "threads of torch",
        "driver": "driver",
        "cuda": "CUDA",
        "platform": "system",
        "python": "Python",
    }
    for key, name in known.items():
        if environment.get(key) is not None:
            yield name, single_line(environment[key])
    packages = environment.get("packages")
    for name, version in packages.items() if isinstance(packages, Mapping) else ():
        yield single_line(name), single_line(version)


def _texts(start: Mapping[str, Any]) -> dict[str, str]:
    """Return a start of the run; what was not recorded is empty."""
    return {
        name: single_line(start.get(name, ""), 1000)
        for name in ("time", "command", "directory", "git")
    }


def _left_out(rows: Sequence[Row]) -> list[LeftOutReason]:
    """Return the rows that are not used by their reasons, the most frequent first."""
    counts = Counter[str]()
    examples: dict[str, list[str]] = {}
    for row in rows:
        why = single_line(row.get("why", "no reason"), 300)
        counts[why] += 1
        name = " ".join(
            filter(None, (single_line(row.get("source", "")), single_line(row.get("id", ""))))
        )
        if counts[why] <= MOST_EXAMPLES:
            examples.setdefault(why, []).append(name)
    reasons: list[LeftOutReason] = []
    for why, count in counts.most_common(MOST_LEFT_OUT):
        reasons.append(LeftOutReason(why=why, count=count, examples=examples[why]))
    return reasons


def _phases(steps: Sequence[Row]) -> list[Phase]:
    """Return the seconds of each phase over all steps, the longest first."""
    sums: dict[str, float] = {}
    for row in steps:
        for name, value in row.items():
            if name.startswith("seconds/") and isinstance(value, int | float):
                phase = name.removeprefix("seconds/")
                sums[phase] = sums.get(phase, 0.0) + value
    total = sum(sums.values())
    phases: list[Phase] = []
    for name, seconds in sorted(sums.items(), key=lambda pair: -pair[1]):
        share = seconds / total if total else 0.0
        phases.append(Phase(name=single_line(name), seconds=duration(seconds), share=share))
    return phases


def _figures(run: RunContents) -> Iterator[tuple[str, str]]:
    """Yield the totals of a run."""
    seconds = sum(row.get("seconds") or 0.0 for row in run.steps)
    sampled = sum(
        (row.get("tokens_per_second") or 0) * (row.get("seconds") or 0) for row in run.steps
    )
    trained = sum(row.get("trained_tokens") or 0 for row in run.steps)
    yield "steps", f"{run.last_step:,}" + (f" of {run.total_steps:,}" if run.total_steps else "")
    if seconds:
        yield "time in steps, without evaluations and warm-up", duration(seconds)
        yield "seconds per step", f"{seconds / len(run.steps):.3g}"
    if sampled:
        yield "sampled tokens", f"{sampled:,.0f}"
    if trained:
        yield "trained tokens", f"{trained:,.0f}"
    times = [row["time"] for row in (*run.warmup, *run.steps, *run.held_out) if row.get("time")]
    if times:
        yield "first and last row", f"{moment(min(times))} to {moment(max(times))}"


def _uses(run: RunContents) -> Iterator[tuple[str, str]]:
    """Yield what can be done with a run, with the command of each."""
    if run.state != "finished":
        yield "Go on from its newest checkpoint:", train_command("--resume", run.path)
    if not run.checkpoints:
        return
    config = run.path / "config.yaml"
    yield "Ask it training questions:", command("gpg-vl", "rollout", config, "--model", run.path)
    evaluation = run.config.get("evaluation")
    benchmark = evaluation.get("benchmark") if isinstance(evaluation, Mapping) else None
    if benchmark:
        words = ("gpg-vl", "evaluate", benchmark, "--model", run.path)
        yield "Ask it the held-out questions:", command(*words)
    folder = run.path.with_name(f"{run.path.name}_model")
    words = ("gpg-vl", "export", run.path, "--to", folder)
    yield "Write a folder that transformers, peft and vLLM load:", command(*words)


def moment(time: str) -> str:
    """Return a time stamp to the minute, in UTC: `2026-12-01 02:06`."""
    try:
        return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return single_line(time)
