"""List knobs with their defaults, allowed values and sentences: of a config, and of a shipped part.

A section of the config is read from its class, its sentences from the source: Python does not keep
the strings below fields. A part is read from its source alone and not imported: some parts import
torch or vLLM, which takes seconds.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from gpg_vl.config.schema import Part, Section

_WORDS: dict[Any, str] = {int: "whole number", float: "number", bool: "true | false", str: "text"}
_WORDS_IN_SOURCE = {kind.__name__: word for kind, word in _WORDS.items()}
_SET_BY_THE_RUN = ("Set by the run.", "Filled from")
"""Beginnings of the sentences of fields that no user sets."""


class Knob(NamedTuple):
    """One key of a config.

    Example:
        Knob("rollout.group_size", "8", "whole number >= 2", "Number of completions per prompt.")
    """

    key: str
    default: str
    """As it is written behind `key=`; empty = none."""
    allowed: str
    """Values that the key takes."""
    sentence: str
    required: bool = False


# --- sections of a config -------------------------------------------------------------------------


def knobs_of(kind: type[Section], prefix: str = "") -> Iterator[Knob]:
    """Yield the knobs of a section, those of its own sections among them.

    Args:
        prefix: the key of the section, with a dot behind it.
    """
    sentences = sentences_of(kind)
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            yield from knobs_of(section, f"{prefix}{name}.")
            continue
        required = field.is_required()
        default = "" if required else _written(field.get_default(call_default_factory=True))
        yield Knob(prefix + name, default, _allowed(field), sentences.get(name, ""), required)


def sentences_of(kind: type[Section]) -> dict[str, str]:
    """Return the sentences of the fields of a section, by their names.

    Pydantic would keep the strings below fields too, but it reads the file anew for each class when
    the classes are made, which takes a tenth of the time of `gpg-vl knobs`.
    """
    sentences: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if issubclass(owner, Section):
            described = _described(_classes(owner.__module__)[owner.__name__])
            sentences |= {ast.unparse(field.target): text for field, text in described if text}
    return sentences


def sections_of(kind: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Yield the sections inside a section, with their keys: ("rollout.gate", GateConfig)."""
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            yield prefix + name, section
            yield from sections_of(section, f"{prefix}{name}.")


def _written(value: Any) -> str:
    """Return a default as it is written in YAML; empty for none."""
    if value is None or value in ((), {}):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_written, value))}]"  # pyright: ignore[reportUnknownArgumentType]
    return str(value)


def _allowed(field: FieldInfo) -> str:
    """Return the values that a field takes: "number > 0", "frozen | full"."""
    if field.annotation in (Part, Part | None):
        return "name | {kind: NAME, ...}"
    return _kind_in_words(field.annotation) + _limits(field.metadata)


def _kind_in_words(kind: Any) -> str:
    """Return a type as a reader of YAML calls it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " | ".join(map(_written, arguments))
    if origin is Annotated:
        return _kind_in_words(arguments[0]) + _limits(arguments[1:])
    if origin in (Union, UnionType):
        kinds = [argument for argument in arguments if argument is not NoneType]
        return " | ".join(map(_kind_in_words, kinds))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_kind_in_words(arguments[0])}"
        kinds = list(dict.fromkeys(map(_kind_in_words, arguments)))
        return f"list of {len(arguments)}, each {' or '.join(kinds)}"
    if origin is dict or kind is dict:
        return "{key: value, ...}"
    if isinstance(kind, type) and issubclass(kind, Section):
        return f"{{...}} (gpg-vl knobs {kind.__name__.lower()})"
    return _WORDS.get(kind, "any")


def _limits(metadata: Any) -> str:
    """Return the limits of a number: " >= 1", " >= 0, <= 1", " >= 32, a multiple of 32"."""
    limits = [*_each_limit(metadata)]
    return f" {', '.join(limits)}" if limits else ""


def _each_limit(metadata: Any) -> Iterator[str]:
    """Yield the limits of a number."""
    for limit in metadata:
        if isinstance(limit, FieldInfo):  # Annotated[int, Field(ge=1)]
            yield from _each_limit(limit.metadata)
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            if hasattr(limit, name):
                yield f"{sign} {getattr(limit, name)}"
        multiple = getattr(limit, "multiple_of", None)
        if multiple is not None:
            yield f"a multiple of {multiple}"


# --- shipped parts, read from their source --------------------------------------------------------


def knobs_of_part(path: str, prefix: str = "") -> list[Knob]:
    """Return the fields of a shipped class that a user may set.

    Fields of base classes in the same file come first; a field without a sentence has that of the
    base class.

    Args:
        path: `module:Name`.
        prefix: written in front of each name.
    """
    module, _, name = path.rpartition(":")
    classes = _classes(module)
    bases = [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
    fields: dict[str, Knob] = {}
    for owner in (*bases, name):
        if owner in classes:
            for knob in _fields_in(classes[owner], module):
                inherited = fields.get(knob.key)
                sentence = knob.sentence or (inherited.sentence if inherited else "")
                fields[knob.key] = knob._replace(sentence=sentence)
    return [
        knob._replace(key=prefix + knob.key)
        for knob in fields.values()
        if not knob.sentence.startswith(_SET_BY_THE_RUN) and "; filled from " not in knob.sentence
    ]


def summary_of_part(path: str) -> str:
    """Return the first line of the docstring of a shipped class."""
    module, _, name = path.rpartition(":")
    return (ast.get_docstring(_classes(module)[name]) or "").partition("\n")[0]


def _classes(module: str) -> dict[str, ast.ClassDef]:
    """Return the classes at the top of a module by their names."""
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}


@cache
def _tree(module: str) -> ast.Module:
    """Return the parsed source of a module of the package, without importing it."""
    # find_spec imports the packages above a module, which are light
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text())


def _fields_in(class_def: ast.ClassDef, module: str) -> Iterator[Knob]:
    """Yield the annotated fields in the body of a class as knobs."""
    for field, sentence in _described(class_def):
        if "ClassVar" in ast.unparse(field.annotation):
            continue
        default = _value_in_source(field.value, module)
        allowed = _allowed_in_source(field.annotation, module)
        yield Knob(ast.unparse(field.target), default, allowed, sentence, field.value is None)


def _described(class_def: ast.ClassDef) -> Iterator[tuple[ast.AnnAssign, str]]:
    """Yield the annotated fields of a class, each with the string below it; empty = none."""
    body = class_def.body
    for field, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign):
            continue
        sentence = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            sentence = " ".join(str(following.value.value).split())
        yield field, sentence


def _value_in_source(node: ast.expr | None, module: str) -> str:
    """Return the default that an expression stands for; empty where there is none to show."""
    if isinstance(node, ast.Constant):
        return _written(node.value)
    if isinstance(node, ast.Tuple):
        parts = [_value_in_source(part, module) for part in node.elts]
        return f"[{', '.join(parts)}]" if parts else ""
    if isinstance(node, ast.JoinedStr):  # a name that depends on the user
        texts = [str(part.value) for part in node.values if isinstance(part, ast.Constant)]
        return "...".join([*texts, ""])
    if isinstance(node, ast.Name):
        found, home = _definition(node.id, module)
        return _value_in_source(found, home)
    return ""  # field(default_factory=dict): an empty mapping


def _allowed_in_source(node: ast.expr, module: str) -> str:
    """Return the values that an annotation allows, in the words of `_kind_in_words`."""
    if isinstance(node, ast.BinOp):
        kinds = [_allowed_in_source(side, module) for side in (node.left, node.right)]
        return " | ".join(filter(None, kinds))
    if isinstance(node, ast.Subscript):
        name, inner = ast.unparse(node.value), node.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if name == "Literal":
            return " | ".join(_value_in_source(part, module) for part in parts)
        if name in ("tuple", "list", "Sequence"):
            return f"list of {_allowed_in_source(parts[0], module)}"
        return "{key: value, ...}"
    if isinstance(node, ast.Name) and node.id in _WORDS_IN_SOURCE:
        return _WORDS_IN_SOURCE[node.id]
    if isinstance(node, ast.Name | ast.Attribute):
        found, home = _definition(ast.unparse(node), module)
        return _allowed_in_source(found, home) if found else ""
    return ""


def _definition(name: str, module: str) -> tuple[ast.expr | None, str]:
    """Return the expression that a name stands for at the top of a module, and its module.

    Args:
        name: `Scale`, or `published_rules.ChoiceRule` of an imported module.
    """
    owner, _, attribute = name.partition(".")
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value, module
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gpg_vl"):
            for alias in node.names:
                if (alias.asname or alias.name) != owner:
                    continue
                if attribute:
                    return _definition(attribute, f"{node.module}.{alias.name}")
                return _definition(alias.name, str(node.module))
    return None, module
