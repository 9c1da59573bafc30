"""Write a config as YAML with the sentence of each knob above it."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from gpg_vl.config.knobs import sentences_of
from gpg_vl.config.schema import Section


def with_sentences(config: Section, *, everything: bool = False, width: int = 100) -> str:
    """Return a config as YAML that loads as the same config.

    Args:
        config: the config.
        everything: also the knobs that are at their defaults.
        width: of the comments, in characters.
    """
    return "\n".join(_lines(config, "", everything, width)) + "\n"


def _lines(section: Section, indent: str, everything: bool, width: int) -> Iterator[str]:
    """Yield the lines of a section; the knobs of the outermost one are set apart by empty lines."""
    values = section.model_dump(mode="json", exclude_defaults=not everything)
    short = section.model_dump(mode="json", exclude_defaults=True)
    sentences = sentences_of(type(section))
    is_first = True
    for name in type(section).model_fields:
        if name not in values:
            continue
        if not is_first and not indent:
            yield ""
        is_first = False
        inner = getattr(section, name)
        # no sentence of its own: the first line of the section's
        sentence = sentences.get(name) or (type(inner).__doc__ or "").partition("\n")[0]
        yield from textwrap.wrap(
            sentence,
            width,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        if isinstance(inner, Section):
            yield f"{indent}{name}:"
            yield from _lines(inner, f"{indent}  ", everything, width)
        else:
            # of a source of rows, only what differs from its defaults, which are many
            value = short.get(name, values[name])
            yield textwrap.indent(_dumped(name, value), indent)


def _dumped(name: str, value: Any) -> str:
    """Return a knob as YAML; the mappings inside a value are one line each if they are short."""
    is_short = isinstance(value, dict | list) and max(map(len, _texts(value)), default=0) <= 60
    text = yaml.safe_dump(
        {name: value},
        default_flow_style=None if value and is_short else False,
        sort_keys=False,
        allow_unicode=True,
        width=96,
    )
    return text.rstrip("\n")


def _texts(value: Any) -> Iterator[str]:
    """Yield every text inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        parts: Any = value.values() if isinstance(value, dict) else value  # pyright: ignore[reportUnknownVariableType]
        for inner in parts:
            yield from _texts(inner)
