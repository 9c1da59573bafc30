"""Knobs as a program writes them, `steps=50` or {"optimizer.lr": 1e-5}, as `key=value` texts."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from gpg_vl.config.schema import Section
from gpg_vl.errors import UserError, shown

Overrides = str | Sequence[str] | Mapping[str, Any]
"""Knobs that differ: "steps=50", ["steps=50", "optimizer.lr=1e-5"] or {"optimizer.lr": 1e-5}."""


def as_key_values(overrides: Overrides, knobs: Mapping[str, Any] | None = None) -> list[str]:
    """Return knobs as the `key=value` of the command line, the last of a key counts.

    A mapping is the knobs of a section, so `optimizer={"lr": 1e-5}` leaves the others of the
    optimizer as they are; one with a `kind` is a part, which takes the place of the whole part.

    Args:
        overrides: texts, or a mapping by key.
        knobs: further knobs, which win.

    Raises:
        UserError: a value is nothing that a config can hold.

    Example:
        as_key_values(["seed=1"], {"warmup": {"steps": 3}}) == ["seed=1", "warmup.steps=3"]
    """
    if isinstance(overrides, str):
        written = [overrides]
    elif isinstance(overrides, Mapping):
        written = list(_written("", overrides))
    else:
        written = list(overrides)
    for item in cast(list[Any], written):
        if not isinstance(item, str):
            raise UserError(
                f"overrides: got {shown(item)}, expected texts such as 'steps=50', or a mapping "
                "such as {'steps': 50}"
            )
    return [*written, *_written("", knobs or {})]


def _written(before: str, values: Mapping[Any, Any]) -> Iterator[str]:
    """Yield a key=value for every knob of a section.

    Args:
        before: the key of the section, with a dot behind it.
    """
    for name, value in values.items():
        if not isinstance(name, str) or not name or "=" in name:
            raise UserError(f"overrides: got the key {shown(name)}, expected a key such as 'steps'")
        if isinstance(value, Mapping) and value and "kind" not in value:
            yield from _written(f"{before}{name}.", cast(Mapping[Any, Any], value))
        else:
            yield f"{before}{name}={_json(before + name, value)}"


def _json(key: str, value: Any) -> str:
    """Return a value as JSON, which YAML reads back as it is."""

    def plain(other: Any) -> Any:
        if isinstance(other, Path):
            return str(other)
        if isinstance(other, Section):
            return other.model_dump(mode="json")
        raise UserError(
            f"{key}: got {shown(other)} ({type(other).__name__}), expected a text, a number, true "
            "or false, or a list or mapping of these; a part of your own is named, "
            "'./rewards.py:Stars'"
        )

    return json.dumps(value, ensure_ascii=False, default=plain)
