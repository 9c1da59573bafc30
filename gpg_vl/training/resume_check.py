"""Check that a resumed run is the run that was begun.

A new run writes `identity.json`: the resolved config, a digest of the data, and one of each source
file of its verifiers. A resumed run that differs is refused with a sentence that names the
difference. Another machine, version or thread count is only reported: it can change the last bits,
not the meaning.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpg_vl import run_folder
from gpg_vl.config import plugins
from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.models import find, is_same
from gpg_vl.config.paths import write_whole
from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import fingerprint
from gpg_vl.errors import UserError, train_command
from gpg_vl.experiment import Experiment
from gpg_vl.report.left_out import described
from gpg_vl.run_folder import complete_checkpoints, is_evaluated
from gpg_vl.types import LeftOut

_SERVER_KNOBS = ("servers", "handover", "transfer", "deadline", "timeout", "at_once", "remote")
MAY_CHANGE = (
    "name",
    "folder",
    "checkpoint.",
    "evaluation.every",
    "evaluation.head",
    "rollout.gate.",
    "run_folder.",
    "trackers",
    "tracking.",
    "hardware.",
    "learner.rehearse",
    *(f"rollout.engine.{knob}" for knob in _SERVER_KNOBS),
)
"""Keys that may change in mid-run without changing what is learnt; `steps` may too under a constant
learning rate."""

REPORTED = ("python", "platform", "packages", "threads", "device", "processes", "image_backend")
"""Parts of the environment that exact resume depends on."""


def run_fingerprint(experiment: Experiment) -> dict[str, Any]:
    """Return what `identity.json` holds."""
    sources: dict[str, str] = {}
    for kind, verifier in experiment.verifiers.by_kind.items():
        sources[f"verifiers.{kind}"] = plugins.source_hash(verifier)
    data = experiment.train_data
    own = {
        "config": experiment.config.model_dump(mode="json"),
        "data": fingerprint(data.sources, repr(data.weights)),
        "sources": sources,
    }
    return run_folder.json_value(own)  # as it is read again: an infinite number is null


def write(run: Path, own: Mapping[str, Any]) -> None:
    """Write the fingerprint into a run folder."""
    write_whole(run / "identity.json", run_folder.json_text(own, indent=1) + "\n")


def check(
    run: Path, own: Mapping[str, Any], *, allow_changed: bool, unused: Sequence[LeftOut] = ()
) -> list[str]:
    """Return the differences between the run that was begun and the one that goes on.

    Args:
        unused: rows that reading left out now.

    Raises:
        UserError: there are some, and they were not allowed.
    """
    begun = _begun(run)
    differences = list(config_differences(begun["config"], own["config"]))
    if begun["data"] != own["data"]:
        differences.append(f"the data: rows or images differ{_newly_unused(run, unused)}")
    for name, source_hash in own["sources"].items():
        # another verifier has another file, too, and that one has not changed
        is_other = any(each.startswith((f"{name}:", f"{name}.")) for each in differences)
        if begun["sources"].get(name, source_hash) != source_hash and not is_other:
            differences.append(f"{name}: its source file has changed")
    if differences and not allow_changed:
        raise _refusal(run, differences)
    return differences


def check_config(run: Path, config: Config) -> None:
    """Refuse a changed config as `check` does, before anything is loaded.

    Raises:
        UserError: a knob that may not change has another value than the run began with.
    """
    if not (run / "identity.json").exists():  # killed early: what follows tells
        return
    begun = _begun(run)["config"]
    now = run_folder.json_value(config.model_dump(mode="json"))
    name = config.policy.model
    model = begun.get("policy", {}).get("model", name)
    if name != model and is_same(model, find(name), config.base_dir):
        now["policy"]["model"] = model
    for knob, value in now["learner"].items():
        if value == "auto":  # a resumed run takes what it meant when the run began
            now["learner"][knob] = begun.get("learner", {}).get(knob, value)
    differences = list(config_differences(begun, now))
    if differences:
        raise _refusal(run, differences)


def is_finished(run: Path, config: Config) -> bool:
    """Return True if nothing is left to do: every step is saved, and the last one is evaluated.

    The last step is without its evaluation where that was dropped, or its records were deleted.
    """
    saved = complete_checkpoints(run)
    if not saved or int(saved[-1].name) < config.steps:
        return False
    if int(saved[-1].name) > config.steps or not (config.evaluation.benchmark and config.steps):
        return True
    spec = load_benchmark(config.evaluation.benchmark, config.base_dir)
    return is_evaluated(run, spec.name, "after", config.steps)


def how_to_take_more(run: Path, config: Config) -> str:
    """Return words for a run that is finished: that nothing is left, and how it goes on."""
    more = [train_command("--resume", run), "steps=M"]
    if config.optimizer.schedule != "constant":  # its rate falls to the last step: another course
        more.append("--allow-changed")
    return (
        f"nothing is left to do: all {config.steps} steps of {run} are done; "
        f"`{' '.join(more)}` goes on to step M"
    )


def _begun(run: Path) -> dict[str, Any]:
    """Return the fingerprint that a run was begun with."""
    return run_folder.json_value(json.loads((run / "identity.json").read_text()))


def _refusal(run: Path, differences: Sequence[str]) -> UserError:
    return UserError(
        f"{run} was started with other settings or data: {'; '.join(differences)}. "
        "Change it back, start a new run, or pass --allow-changed"
    )


def _newly_unused(run: Path, unused: Sequence[LeftOut]) -> str:
    """Return words on rows that were used when the run began and cannot be used now."""
    then: set[tuple[str, str]] = set()
    for step, row in run_folder.left_out_rows(run):
        if step == 0:
            then.add((row.source, row.id))
    new = [row for row in unused if (row.source, row.id) not in then]
    if not new:
        return ""
    rows = "1 row is" if len(new) == 1 else f"{len(new):,} rows are"
    return f" ({rows} left out now that had been used; {described(new[0])})"


def config_differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield `key: then -> now` for every knob that changes what is learnt.

    A knob that the release of the begun run did not have was at its default then.
    """
    free = MAY_CHANGE
    if now.get("optimizer", {}).get("schedule") == "constant":
        free = (*free, "steps")
    then, known = dict(_flat(begun)), dict(_flat(now))
    defaults = Config(data=(Source(recipe=""),)).model_dump(mode="json", exclude={"data"})
    for key, default in _flat(defaults):
        if key in known:
            then.setdefault(key, default)
    for key, difference in _differences(then, now):
        if not key.startswith(free):
            yield difference


def environment_differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield `key: then -> now` for the parts of the environment that exact resume depends on."""
    then_reported = {key: begun.get(key) for key in REPORTED}
    now_reported = {key: now.get(key) for key in REPORTED}
    for _, difference in _differences(then_reported, now_reported):
        yield difference


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    then_flat, now_flat = dict(_flat(then)), dict(_flat(now))
    for key in sorted(then_flat.keys() | now_flat.keys()):
        if then_flat.get(key) != now_flat.get(key):
            yield key, f"{key}: {then_flat.get(key)} -> {now_flat.get(key)}"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists, as ("rollout.engine.kind", "server")."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{key}.{place}")
    else:
        yield key, value
