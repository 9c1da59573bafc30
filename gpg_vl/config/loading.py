"""Read a config from YAML files and `key=value`; every mistake becomes a sentence with its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from gpg_vl.config import models, resources
from gpg_vl.config.knobs import knobs_of
from gpg_vl.config.mistakes import got_and_expected, own_steps
from gpg_vl.config.plugins import unknown_key
from gpg_vl.config.schema import BenchmarkSpec, Config, PolicyConfig, Section, Source
from gpg_vl.errors import UserError, one_line, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_BOOL, _TEXT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
BENCHMARK_PREFIX = "benchmark."
"""Start of a knob of the benchmark, among the knobs of the run."""

MAX_MISTAKES = 5
"""Largest number of mistakes that a message lists."""

Kind = TypeVar("Kind", bound=Section)


class _Mistake(NamedTuple):
    """One wrong key of a config."""

    sentence: str
    is_typed: bool
    """True if a `key=value` is at fault, not the file."""


class _Yaml(yaml.SafeLoader):
    """YAML as in its version 1.2: only true and false are truth values, a key stands once.

    In YAML 1.1 the words yes, no, on and off are, too, so that `choices: [yes, no]` would hold no
    words. The library takes the last of two equal keys and says nothing.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping as it is written.

        Raises:
            MarkedYAMLError: a key stands twice.
        """
        composer: Any = super()
        node: yaml.MappingNode = composer.compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value} stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return node

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
    """Return the knobs of a run, and without their `benchmark.` those of its benchmark.

    Raises:
        UserError: a knob of the benchmark alone is written without `benchmark.`.
    """
    prefix = BENCHMARK_PREFIX
    of_run = [item for item in overrides if not item.startswith(prefix)]
    for item in of_run:
        section = item.partition("=")[0].partition(".")[0]
        if section in BenchmarkSpec.model_fields and section not in Config.model_fields:
            raise UserError(
                f"{one_line(item)}: no such key of a run; did you mean {prefix}{section}?"
            )
    of_benchmark = [item.removeprefix(prefix) for item in overrides if item.startswith(prefix)]
    return of_run, of_benchmark


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping from a file.

    Raises:
        UserError: the file cannot be read, or is no YAML mapping.
    """
    try:
        content: object = yaml.load(path.read_text(encoding="utf-8"), _Yaml)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a day such as 2026-02-30
        message = one_line(error).replace('in "<unicode string>", ', "at ")
        raise UserError(f"{path}: not YAML: {message}") from None
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
        mistakes = _in_sentences(kind, error, overrides)
    head = f"{len(mistakes)} mistakes"
    of_file = not any(mistake.is_typed for mistake in mistakes)
    lines = [f"{origin}: {head}" if of_file else head]
    for mistake in mistakes[:MAX_MISTAKES]:
        is_placed = mistake.is_typed or (of_file and len(mistakes) > 1)
        lines.append(mistake.sentence if is_placed else f"{origin}: {mistake.sentence}")
    if len(mistakes) == 1:
        raise UserError(lines[1])
    if len(mistakes) > MAX_MISTAKES:
        lines.append(f"and {len(mistakes) - MAX_MISTAKES} more")
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
        for depth in range(len(sections)):
            default = _default_of(kind, sections[: depth + 1])
            parent = _enter(parent, sections[: depth + 1], default, item)
        _set(parent, last, _scalar(text), item)
    return values


def _enter(parent: Any, steps: Sequence[str], default: Any, item: str) -> Any:
    """Return the section under the last of some steps, making it if it is missing.

    A part that is given by its name alone becomes a mapping with its kind:
    `estimator.scale=std` on top of `estimator: gpg` gives {kind: gpg, scale: std}.
    """
    step = steps[-1]
    is_list = isinstance(parent, list)
    place: Any = _index(parent, step, item) if is_list else step
    section: Any = parent[place] if is_list else parent.get(step)  # pyright: ignore[reportUnknownVariableType]
    if section is None:
        section = default
    if isinstance(section, str) and not is_list:
        section = {"kind": section}
    if isinstance(section, tuple):
        section = [_plain(part) for part in section]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(section, Section) or section is None:
        section = {}
    if not isinstance(section, dict | list):
        key = one_line(".".join(steps))
        raise UserError(
            f"{one_line(item)}: {key} is {shown(section)}, which has no keys; set {key} itself"  # pyright: ignore[reportUnknownArgumentType]
        )
    parent[place] = section
    return section  # pyright: ignore[reportUnknownVariableType]


def _plain(part: Any) -> Any:
    """Return an item of a list as YAML holds it."""
    return part.model_dump(mode="json") if isinstance(part, Section) else part


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
    kind: type[Section], error: ValidationError, overrides: Sequence[str]
) -> list[_Mistake]:
    """Return each of pydantic's errors as `key: got, expected`."""
    # A knob that takes a word or a number has one error per alternative.
    errors: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for found in error.errors():
        steps = own_steps(found["loc"])
        if found["type"] == "missing" and isinstance(steps[-1], int):
            del steps[-1]  # an item of a list: the list is too short
        errors.setdefault(tuple(steps), []).append(found)
    # a list without its wrong items is too short: that follows from the mistake inside it
    for steps in list(errors):
        inner = [other for other in errors if other[: len(steps)] == steps and other != steps]
        if inner:
            del errors[steps]
    mistakes: list[_Mistake] = []
    for steps, found in errors.items():
        sentence, typed = _in_a_sentence(kind, steps, found), _typed(steps, overrides)
        if found[0]["type"] == "extra_forbidden" and _leads_to(typed, steps):
            sentence = f"{one_line(typed)}: {sentence.partition(': ')[2]}"
        mistakes.append(_Mistake(sentence, bool(typed)))
    return mistakes


def _typed(steps: Sequence[int | str], overrides: Sequence[str]) -> str:
    """Return the last `key=value` that sets a key, what is below it or around it; empty = none."""
    for item in reversed(overrides):
        own = item.partition("=")[0].split(".")
        if steps and (_leads_to(item, steps) or own == [str(step) for step in steps[: len(own)]]):
            return item
    return ""


def _leads_to(item: str, steps: Sequence[int | str]) -> bool:
    """Return True if a `key=value` sets a key or what is below it."""
    key = [str(step) for step in steps]
    return item.partition("=")[0].split(".")[: len(key)] == key


def _in_a_sentence(
    kind: type[Section], steps: Sequence[int | str], found: Sequence[ErrorDetails]
) -> str:
    """Return one mistake as `key: got, expected`.

    Args:
        kind: the section that was read.
        steps: the way to the key.
        found: the errors of the key.
    """
    key, first = one_line(".".join(map(str, steps))), found[0]
    if first["type"] in ("extra_forbidden", "invalid_key"):
        return _unknown_key(kind, key, steps)
    if first["type"] == "missing" and not isinstance(first["input"], tuple | list):
        return f"{key}: missing; this key must be set"
    if first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    sentence = f"{key}: {got_and_expected(found)}"
    if first["type"] == "model_type" and first["input"] is not None:
        page = "source" if first.get("ctx", {}).get("class_name") == Source.__name__ else key
        sentence += f"; gpg-vl knobs {page} lists them"
    return sentence


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
