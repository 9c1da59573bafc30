"""Resolve a name in a config to an object and build the part that it names.

A name is `boxes`, `my_lab.rewards:Stars`, or `./rewards.py:Stars` beside the YAML file. A short
name is an alias of an import path; the aliases are listed in the packages of the parts. The config
of a part that is a frozen dataclass is the dataclass itself: the keys beside `kind` are its fields,
which pydantic checks.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError, validate_call

from gpg_vl.config.mistakes import got_and_expected, own_steps
from gpg_vl.config.paths import is_file, nearest_path
from gpg_vl.errors import UserError, one_line, shown

_PACKAGE = Path(__file__).parents[1]
_STDLIB = str(Path(traceback.__file__).parent)


def resolve(name: str, aliases: Mapping[str, str], base_dir: Path) -> Any:
    """Return the object that a name stands for.

    Args:
        name: an alias, `module:Name` or `./file.py:Name`.
        aliases: short name -> import path.
        base_dir: the folder that `./file.py` is relative to (the config's own).

    Raises:
        UserError: unknown alias (the message contains the nearest), no such module, file or
            attribute.
    """
    path = aliases.get(name, name)
    module_name, _, attribute = path.rpartition(":")
    if not module_name or not attribute:
        nearest = get_close_matches(name, aliases, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sorted(aliases))}"
        raise UserError(
            f"got {shown(name)}, expected a known name or an import path such as "
            f"my_lab.rewards:Stars; {hint}"
        )
    if module_name.endswith(".py"):
        module = _load_file(base_dir / module_name)
    elif all(map(str.isidentifier, module_name.split("."))):
        module = _import(module_name)
    else:
        raise UserError(
            f"got {shown(path)}: {shown(module_name)} is neither a module such as my_lab.rewards "
            "nor a file such as ./rewards.py"
        )
    if not hasattr(module, attribute):
        raise UserError(
            f"{one_line(path)}: {module_name} has no {shown(attribute)}; it is the name of a class "
            "or function defined there"
        )
    return getattr(module, attribute)


def build(
    spec: str | Mapping[str, Any],
    aliases: Mapping[str, str],
    *,
    base_dir: Path,
    key: str,
    given: Mapping[str, Any],
    what: str = "",
) -> Any:
    """Build a part from its spec: `{"kind": name, **fields}` or just the name.

    Args:
        spec: the value in the config.
        aliases: short name -> import path.
        base_dir: the folder that `./file.py` is relative to.
        key: the key of the spec in the config, for messages.
        given: values of the run (prompt style, coordinate frame, group size...); each is passed if
            the part has a field of that name which the spec does not set.
        what: object that is expected, for the message about a function that is none.

    Raises:
        UserError: no such part, no such field, or a value of the wrong type.
    """
    key = one_line(key)
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"kind": spec}
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise UserError(f"{key}: got {shown(spec)}, expected a name or a mapping with `kind: NAME`")
    try:
        part: Any = resolve(kind, aliases, base_dir)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    if inspect.isabstract(part):
        missing = ", ".join(sorted(part.__abstractmethods__))
        raise UserError(f"{key}: {part.__name__} does not define {missing}")
    accepted = _parameters(part)
    for option in options:
        if option not in accepted:
            raise UserError(unknown_key(f"{key}.{option}", option, accepted))
    inherited: dict[str, Any] = {}
    for name, value in given.items():
        if name in accepted and name not in options:
            inherited[name] = value
    if what and not isinstance(part, type):
        missing = [name for name in _required(part) if name not in options | inherited]
        if missing:
            raise UserError(
                f"{key}: the function {one_line(kind)} needs {', '.join(missing)}, which is not "
                f"given here; expected {what}"
            )
    try:
        return _call(part, options | inherited)
    except ValidationError as error:
        raise UserError(f"{key}: {first_error(error)}") from None


def _parameters(part: Any) -> list[str]:
    """Return the names of the fields of a dataclass, or of the parameters of a callable."""
    if _is_made_of_fields(part):
        return [field.name for field in fields(part)]
    return list(inspect.signature(part).parameters)


def _is_made_of_fields(part: Any) -> bool:
    """Return True for a dataclass; a class derived from one may have an `__init__` of its own."""
    return is_dataclass(part) and "__init__" not in _own_names(part)


def _own_names(part: Any) -> set[str]:
    """Return the names that a class and those it derives from define below the last dataclass."""
    names: set[str] = set()
    for owner in inspect.getmro(part):
        if "__dataclass_fields__" in vars(owner):
            return names
        names |= vars(owner).keys()
    return names


def _required(function: Any) -> list[str]:
    """Return the names of the parameters that a function cannot be called without."""
    required: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        is_rest = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not is_rest:
            required.append(name)
    return required


def _call(part: Any, arguments: dict[str, Any]) -> Any:
    """Make a dataclass or call a function with checked values; other classes check their own."""
    if _is_made_of_fields(part):
        adapter: TypeAdapter[Any] = TypeAdapter(part)
        return adapter.validate_python(arguments)
    if isinstance(part, type):
        return part(**arguments)
    return validate_call(part)(**arguments)


def unknown_key(key: str, option: str, known: list[str]) -> str:
    """Return the message for a key that does not exist, with the nearest known key."""
    nearest = get_close_matches(option, known, n=1)
    if nearest:
        hint = f"did you mean {nearest[0]}?"
    else:
        hint = f"known here: {', '.join(known) or 'nothing'}"
    return f"{one_line(key)}: no such key; {hint}"


def first_error(error: ValidationError) -> str:
    """Return the first error of pydantic as `key: got, expected`."""
    errors = error.errors()
    first, steps = errors[0], own_steps(errors[0]["loc"])
    key = ".".join(map(str, steps))
    own_words = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{key}: {own_words}" if key else own_words
    if first["type"].startswith("missing"):
        return f"{key}: missing; this key must be set"
    if not key:
        return f"{own_words[0].lower()}{own_words[1:]}"
    # a field that takes several kinds of values has one error for each
    return (
        f"{key}: {got_and_expected([each for each in errors if own_steps(each['loc']) == steps])}"
    )


def source_hash(part: Any) -> str:
    """Return a hash of the file that defines a part, so that a run notices changed rewards."""
    owner: Any = part
    if not inspect.isfunction(part) and not isinstance(part, type):
        owner = cast(Any, type(part))
    file = inspect.getsourcefile(owner)
    if not file:
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]


def with_file_and_line(error: Exception, file: Path | None = None) -> Exception:
    """Return an error in a file of the user as a message with file and line.

    Any other error is returned as it is.

    Args:
        error: the error.
        file: the user's file; default: the last file of the traceback that belongs neither to
            gpg_vl nor to a library.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, SyntaxError) and error.filename:
        return UserError(f"{error.filename} line {error.lineno}: {error.msg}")
    place: traceback.FrameSummary | None = None
    for frame in traceback.extract_tb(error.__traceback__):
        if _is_users(frame.filename, file):
            place = frame
    if place is None:
        return error
    return UserError(f"{place.filename} line {place.lineno}: {type(error).__name__}: {error}")


def _is_users(name: str, file: Path | None) -> bool:
    """Return whether a file of a traceback is the user's."""
    if file is not None:
        return Path(name).resolve() == file.resolve()
    return (
        not name.startswith("<")  # "<string>", "<frozen importlib._bootstrap>"
        and "site-packages" not in name
        and not Path(name).resolve().is_relative_to(_PACKAGE)
        and _STDLIB not in name
    )


def _import(name: str) -> ModuleType:
    """Import a module by name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            # the module exists, but imports one that does not: a bug there, shown with traceback
            raise
        raise UserError(
            f"no module named {shown(name)}; is it installed, or does it stand beside the config "
            f"as ./{one_line(name)}.py:Name?"
        ) from None


def _belongs_to(name: str, file: Path) -> bool:
    """Return whether `import name` gives this file, not a library or another file of that name."""
    found = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
    return found is not None and found.origin == str(file)


def _load_file(path: Path) -> ModuleType:
    """Import a file of the user as a module; the same file gives the same module."""
    if not is_file(path):
        near = nearest_path(path, "*.py")
        where = "a path with ./ is looked for beside the config"
        hint = f"did you mean {one_line(near)}?" if near else where
        raise UserError(f"{one_line(path)}: no such file; {hint}")
    file = path.resolve()
    if str(file.parent) not in sys.path:
        # the file may import its neighbours, and worker processes import it by name
        sys.path.append(str(file.parent))
    name = file.stem
    if not _belongs_to(name, file):
        # a file called like a library, or two files of one name, get a name of their own
        name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise with_file_and_line(error, path) from error
    return module
