"""What a run depends on beside its words: is the run that goes on the one that was begun?

A new run writes `identity.json`: the resolved config, a digest of the data, and one of every source file that its parts are written in. A
resumed run that differs is refused with a sentence that names the difference; another machine, version or thread count is only told,
because it can change the last bits but not the meaning.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpg_vl.config import plugins
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset, fingerprint
from gpg_vl.errors import UserError
from gpg_vl.verifiers.dispatch import VerifierSet

_SERVERS = tuple(f"rollout.engine.{knob}" for knob in ("servers", "handover", "transfer", "deadline", "timeout", "at_once", "remote"))
FREE = ("name", "folder", "checkpoint.", "evaluation.every", "evaluation.head", "rollout.gate.", "hardware.", *_SERVERS)
"""Keys that may change in mid-run without changing what is learnt; so may `steps` under a constant learning rate."""
REPORTED = ("python", "platform", "packages", "threads", "device", "processes", "image_backend")
"""What of the environment exact resume depends on."""


def run_fingerprint(config: Config, questions: Dataset, checks: VerifierSet) -> dict[str, Any]:
    """What `identity.json` holds."""
    sources = {f"verifiers.{kind}": plugins.source_hash(verifier) for kind, verifier in checks.by_kind.items()}
    return {"config": config.model_dump(mode="json"), "data": fingerprint(questions.sources, repr(questions.weights)), "sources": sources}


def write(run: Path, own: Mapping[str, Any]) -> None:
    """Write it into a run folder."""
    (run / "identity.json").write_text(json.dumps(own, indent=1) + "\n")


def check(run: Path, own: Mapping[str, Any], *, allow_changed: bool) -> list[str]:
    """The differences between a run that was begun and the one that goes on.

    Raises:
        UserError: there are some, and they were not allowed.
    """
    begun = json.loads((run / "identity.json").read_text())
    found = [*config_differences(begun["config"], own["config"])]
    if begun["data"] != own["data"]:
        found.append("the data: rows or images differ")
    found += [
        f"{name}: its source file has changed"
        for name, fingerprint in own["sources"].items()
        if begun["sources"].get(name, fingerprint) != fingerprint
    ]
    if found and not allow_changed:
        raise UserError(f"{run} was begun otherwise: {'; '.join(found)}. Change it back, start a new run, or say --allow-changed")
    return found


def config_differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """`key: then -> now` for every knob that matters."""
    then_flat, now_flat = dict(_flat(begun)), dict(_flat(now))
    free = (*FREE, "steps") if now_flat.get("optimizer.schedule") == "constant" else FREE
    for key in sorted(then_flat.keys() | now_flat.keys()):
        if then_flat.get(key) != now_flat.get(key) and not key.startswith(free):
            yield f"{key}: {then_flat.get(key)} -> {now_flat.get(key)}"


def environment_differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of the environment is not as it was."""
    then_flat, now_flat = (dict(_flat({key: side.get(key) for key in REPORTED})) for side in (begun, now))
    for key in sorted(then_flat.keys() | now_flat.keys()):
        if then_flat.get(key) != now_flat.get(key):
            yield f"{key}: {then_flat.get(key)} -> {now_flat.get(key)}"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{key}.{place}")
    else:
        yield key, value
