"""From YAML files and `key=value` to a checked config; every mistake becomes a sentence with file, key, got and expected."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from gpg_vl.config import resources
from gpg_vl.config.plugins import unknown_key
from gpg_vl.config.schema import BenchmarkSpec, Config, Section
from gpg_vl.errors import UserError

Kind = TypeVar("Kind", bound=Section)


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """An experiment by shipped name or file, with `key=value` overrides.

    Raises:
        UserError: no such file, not YAML, unknown key, wrong type, impossible combination; the sentence names file and key.
    """
    path = resources.find("configs", name)
    return parse(Config, override(Config, read_yaml(path), overrides), str(path))


def load_benchmark(name: str, beside: Path = Path(), overrides: Sequence[str] = ()) -> tuple[BenchmarkSpec, Path]:
    """A benchmark spec by shipped name or file, with `key=value` overrides, and the folder it stands in."""
    path = resources.find("evaluation", name, beside)
    return parse(BenchmarkSpec, override(BenchmarkSpec, read_yaml(path), overrides), str(path)), path.parent


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file."""
    try:
        content: object = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: got {type(content).__name__}, expected a mapping of keys to values")
    return dict(content)  # pyright: ignore[reportUnknownArgumentType]


def parse(kind: type[Kind], values: Mapping[str, Any], origin: str) -> Kind:
    """A section from plain values; `origin` names the file in messages."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {_complaint(kind, error)}") from None


def dump(config: Section) -> str:
    """The whole section as YAML, defaults included: what a run folder keeps."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def override(kind: type[Section], values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Values with `key=value` laid over them; dots lead into sections, numbers into lists.

    Raises:
        UserError: not key=value, or the way to the key leads through something that has no keys.
    """
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise UserError(f"got {item!r}, expected key=value, for instance steps=100 or optimizer.lr=1e-5")
        *sections, last = key.split(".")
        place: Any = values
        for depth, section in enumerate(sections):
            place = _enter(place, section, _default_of(kind, sections[: depth + 1]), item)
        _put(place, last, _scalar(text), item)
    return values


def _enter(place: Any, step: str, default: Any, item: str) -> Any:
    """The section under a step, made where it is missing; a part by name becomes a mapping with its kind."""
    if isinstance(place, list):
        return place[_index(place, step, item)]  # pyright: ignore[reportUnknownVariableType]
    below: Any = place.get(step)
    if below is None:
        below = default
    if isinstance(below, str):
        below = {"kind": below}
    if isinstance(below, tuple):
        below = [part.model_dump(mode="json") for part in below]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(below, Section) or below is None:
        below = {}
    if not isinstance(below, dict | list):
        raise UserError(f"{item}: {step} is {below!r}, which has no keys; set {step} itself")
    place[step] = below
    return below  # pyright: ignore[reportUnknownVariableType]


def _put(place: Any, last: str, value: Any, item: str) -> None:
    place[_index(place, last, item) if isinstance(place, list) else last] = value


def _index(place: Any, step: str, item: str) -> int:
    if not step.isdecimal() or int(step) >= len(place):
        raise UserError(f"{item}: {step!r} is no item of a list of {len(place)}; items count from 0")
    return int(step)


def _default_of(kind: type[Section], sections: Sequence[str]) -> Any:
    section: Any = kind
    for step in sections[:-1]:
        field = getattr(section, "model_fields", {}).get(step)
        section = field.annotation if field else None
    field = getattr(section, "model_fields", {}).get(sections[-1])
    return field.get_default(call_default_factory=True) if field and not field.is_required() else None


def _scalar(text: str) -> Any:
    try:
        return float(text) if "e" in text.lower() and text[0].isdigit() else yaml.safe_load(text)  # YAML 1.1 reads 1e-5 as a word
    except (ValueError, yaml.YAMLError):
        return text


def _complaint(kind: type[Section], error: ValidationError) -> str:
    first = error.errors()[0]
    place = _place(first["loc"])
    key = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        return unknown_key(key, str(place[-1]), _known_keys(kind, place[:-1]))
    ways = [other["msg"] for other in error.errors() if _place(other["loc"]) == place]  # several where a knob takes a word or a number
    message = " or ".join([ways[0], *(way.removeprefix("Input should be ") for way in ways[1:])]).removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{key}: missing; this key must be set"
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: got {first['input']!r}, expected: {message[0].lower()}{message[1:]}"


def _place(steps: Sequence[int | str]) -> list[int | str]:
    """Where a mistake is, without the names of pydantic's own branches."""
    branches = ("function-", "str", "dict[", "literal[", "constrained-", "int", "bool")
    return [step for step in steps if isinstance(step, int) or not step.startswith(branches)]


def _known_keys(kind: type[Section], place: Sequence[int | str]) -> list[str]:
    section: Any = kind
    for step in place:
        if isinstance(step, int):
            continue
        annotation = section.model_fields[step].annotation
        section = next(part for part in (annotation, *getattr(annotation, "__args__", ())) if hasattr(part, "model_fields"))
    return list(section.model_fields)
