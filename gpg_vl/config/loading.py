"""Read a config from YAML files and `key=value`; every mistake becomes a sentence with its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import ValidationError

from gpg_vl.config import models, resources
from gpg_vl.config.knobs import knobs_of
from gpg_vl.config.plugins import own_steps, unknown_key
from gpg_vl.config.schema import BenchmarkSpec, Config, PolicyConfig, Section, Source
from gpg_vl.errors import UserError, one_line, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_BOOL, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
BENCHMARK_PREFIX = "benchmark."
"""Start of a knob of the benchmark, among the knobs of the run."""

MAX_MISTAKES = 5
"""Largest number of mistakes that a message lists."""

Kind = TypeVar("Kind", bound=Section)


class _Yaml(yaml.SafeLoader):
    """YAML in which only true and false are truth values, as in YAML 1.2.

    In YAML 1.1 the words yes, no, on and off are, too, so that `choices: [yes, no]` would hold no
    words.
    """

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """Return the tag of a value; a truth value of YAML 1.1 alone is text."""
        resolver: Any = super()
        tag: str = resolver.resolve(kind, value, implicit)
        if tag == _BOOL and str(value).lower() not in {"true", "false"}:
            return _TEXT
        return tag


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """Load a config by shipped name or file, with `key=value` overrides.

    The config of a run folder keeps the folder that the run was started from: its relative files
    and plug-ins are there.

    Raises:
        UserError: no such file, not YAML, unknown key, wrong type, impossible combination; the
            sentence names file and key.
    """
    path = resources.find("configs", name)
    config = parse(Config, override(Config, read_yaml(path), overrides), str(path), overrides)
    if (path.parent / "environment.json").is_file():  # RUN/config.yaml: a copy in a run folder
        from gpg_vl import run_folder

        return _with_model(config.at(run_folder.config_folder(path.parent)))
    return _with_model(config.at(path.parent))


def _with_model(config: Config) -> Config:
    """Return a config whose model is found from the working directory, also one beside the file."""
    name = models.beside(config.policy.model, config.base_dir)
    policy = config.policy.model_copy(update={"model": name})
    return config.model_copy(update={"policy": policy})


def load_run(run: Path, overrides: Sequence[str] = ()) -> Config:
    """Load the config of a run folder; its relative files are where the run was started from."""
    return load(str(run / "config.yaml"), overrides)


def load_for_model(model: str, overrides: Sequence[str] = ()) -> Config:
    """Load the config that belongs to a model: a run's own, else defaults around a checkpoint.

    Args:
        model: a run folder, one of its checkpoints, any folder of a model, or a hub id.

    Raises:
        UserError: it is a path that leads nowhere, or a mistake as in `load`.
    """
    found = models.find(model, "model")
    if found.run is not None:
        return load_run(found.run, overrides)
    bare = Config(data=(Source(recipe="digits"),), policy=PolicyConfig(model=found.name))
    values = override(Config, bare.model_dump(mode="json"), overrides)
    return parse(Config, values, model, overrides)


def load_benchmark(
    name: str, base_dir: Path = Path(), overrides: Sequence[str] = ()
) -> BenchmarkSpec:
    """Load a benchmark spec by shipped name or file, with `key=value` overrides.

    Args:
        base_dir: folder where a file is looked for before the working directory.
    """
    path = resources.find("evaluation", name, base_dir)
    values = override(BenchmarkSpec, read_yaml(path), overrides)
    return parse(BenchmarkSpec, values, str(path), overrides).at(path.parent)


def split_knobs(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the knobs of a run, and without their `benchmark.` those of its benchmark."""
    prefix = BENCHMARK_PREFIX
    of_run = [item for item in overrides if not item.startswith(prefix)]
    of_benchmark = [item.removeprefix(prefix) for item in overrides if item.startswith(prefix)]
    return of_run, of_benchmark


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a file."""
    try:
        content: object = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: {error}; save it as UTF-8") from None
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: got {type(content).__name__}, expected a mapping of keys to values"
        )
    return dict(content)  # pyright: ignore[reportUnknownArgumentType]


def parse(
    kind: type[Kind], values: Mapping[str, Any], origin: str, overrides: Sequence[str] = ()
) -> Kind:
    """Check plain values and make a section of them.

    Args:
        origin: names the file in messages.
        overrides: `key=value` that have been put over the file; it is not blamed for them.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        sentences = _in_sentences(kind, error, origin, overrides)
    if len(sentences) == 1:
        raise UserError(sentences[0])
    lines = [f"{origin}: {len(sentences)} mistakes", *sentences[:MAX_MISTAKES]]
    if len(sentences) > MAX_MISTAKES:
        lines.append(f"and {len(sentences) - MAX_MISTAKES} more")
    raise UserError("\n  ".join(lines))


def dump(config: Section) -> str:
    """Return a whole section as YAML, defaults included: what a run folder keeps."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def override(
    kind: type[Section], values: dict[str, Any], overrides: Sequence[str]
) -> dict[str, Any]:
    """Put `key=value` over plain values; dots lead into sections, numbers into lists.

    Raises:
        UserError: not key=value, or the way to the key leads through something that has no keys.
    """
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise UserError(
                f"got {shown(item)}, expected key=value, for instance steps=100 or "
                "optimizer.lr=1e-5"
            )
        *sections, last = key.split(".")
        parent: Any = values
        for depth, section in enumerate(sections):
            default = _default_of(kind, sections[: depth + 1])
            parent = _enter(parent, section, default, item)
        _set(parent, last, _scalar(text), item)
    return values


def _enter(parent: Any, step: str, default: Any, item: str) -> Any:
    """Return the section under a step, making it if it is missing.

    A part that is given by its name alone becomes a mapping with its kind:
    `estimator.scale=std` on top of `estimator: gpg` gives {kind: gpg, scale: std}.
    """
    if isinstance(parent, list):
        return parent[_index(parent, step, item)]  # pyright: ignore[reportUnknownVariableType]
    section: Any = parent.get(step)
    if section is None:
        section = default
    if isinstance(section, str):
        section = {"kind": section}
    if isinstance(section, tuple):
        section = [part.model_dump(mode="json") for part in section]  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(section, Section) or section is None:
        section = {}
    if not isinstance(section, dict | list):
        raise UserError(
            f"{one_line(item)}: {one_line(step)} is {shown(section)}, which has no keys; set "
            f"{one_line(step)} itself"
        )
    parent[step] = section
    return section  # pyright: ignore[reportUnknownVariableType]


def _set(parent: Any, last: str, value: Any, item: str) -> None:
    if isinstance(parent, list):
        parent[_index(parent, last, item)] = value
    else:
        parent[last] = value


def _index(items: Any, step: str, item: str) -> int:
    if not step.isdecimal() or int(step) >= len(items):
        raise UserError(
            f"{one_line(item)}: {shown(step)} is no item of a list of {len(items)}; items count "
            "from 0"
        )
    return int(step)


def _default_of(kind: type[Section], sections: Sequence[str]) -> Any:
    """Return the default of a nested section; None if there is none."""
    section: Any = kind
    for step in sections[:-1]:
        field = getattr(section, "model_fields", {}).get(step)
        section = field.annotation if field else None
    field = getattr(section, "model_fields", {}).get(sections[-1])
    if field is None or field.is_required():
        return None
    return field.get_default(call_default_factory=True)


def _scalar(text: str) -> Any:
    """Read a value as YAML does, but 1e-5 as a number: YAML 1.1 takes it for a word."""
    try:
        if "e" in text.lower() and text[0].isdigit():
            return float(text)
        return yaml.load(text, _Yaml)
    except (ValueError, yaml.YAMLError):
        return text


def _in_sentences(
    kind: type[Section], error: ValidationError, origin: str, overrides: Sequence[str]
) -> list[str]:
    """Return each of pydantic's errors as `key: got, expected`.

    The only one begins with the file, or with the `key=value` if that was at fault.
    """
    # A knob that takes a word or a number has one error per alternative.
    mistakes: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for found in error.errors():
        mistakes.setdefault(tuple(own_steps(found["loc"])), []).append(found)
    # a list without its wrong items is too short: that follows from the mistake inside it
    for steps in list(mistakes):
        inner = [other for other in mistakes if other[: len(steps)] == steps and other != steps]
        if inner:
            del mistakes[steps]
    sentences: list[str] = []
    for steps, found in mistakes.items():
        sentence, typed = _in_a_sentence(kind, steps, found), _typed(steps, overrides)
        if typed and found[0]["type"] == "extra_forbidden":
            sentence = f"{one_line(typed)}: {sentence.partition(': ')[2]}"
        elif len(mistakes) == 1 and not typed.startswith(".".join(map(str, steps)) + "="):
            sentence = f"{origin}: {sentence}"
        sentences.append(sentence)
    return sentences


def _typed(steps: Sequence[int | str], overrides: Sequence[str]) -> str:
    """Return the last `key=value` that sets a key or what is below it; empty = none does."""
    key = [str(step) for step in steps]
    for item in reversed(overrides):
        if key and item.partition("=")[0].split(".")[: len(key)] == key:
            return item
    return ""


def _in_a_sentence(
    kind: type[Section], steps: Sequence[int | str], found: Sequence[ErrorDetails]
) -> str:
    """Return one mistake as `key: got, expected`.

    Args:
        kind: the section that was read.
        steps: the way to the key.
        found: the errors of the key.
    """
    key, first = ".".join(map(str, steps)), found[0]
    if first["type"] == "extra_forbidden":
        return _unknown_key(kind, key, steps)
    if first["type"] == "missing":
        return f"{key}: missing; this key must be set"
    alternatives = [other["msg"] for other in found]
    expected = [alternatives[0]]
    expected += [text.removeprefix("Input should be ") for text in alternatives[1:]]
    message = " or ".join(expected).removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key}: got {shown(first['input'])}, expected: {message[0].lower()}{message[1:]}"


def _unknown_key(kind: type[Section], key: str, steps: Sequence[int | str]) -> str:
    """Return the message for a key that does not exist, with the nearest or the one meant."""
    known = _known_keys(kind, steps[:-1])
    option = str(steps[-1])
    if not get_close_matches(option, known, n=1):
        # group_size for rollout.group_size: the section is missing
        elsewhere = {knob.key.rpartition(".")[2]: knob.key for knob in reversed([*knobs_of(kind)])}
        nearest = get_close_matches(option, elsewhere, n=1)
        if nearest:
            return f"{one_line(key)}: no such key; did you mean {elsewhere[nearest[0]]}?"
    return unknown_key(key, option, known)


def _known_keys(kind: type[Section], steps: Sequence[int | str]) -> list[str]:
    section: Any = kind
    for step in steps:
        if isinstance(step, int):
            continue
        annotation = section.model_fields[step].annotation
        for part in (annotation, *getattr(annotation, "__args__", ())):
            if hasattr(part, "model_fields"):
                section = part
                break
    return list(section.model_fields)
