"""From a name in a config to an object: `boxes`, `my_lab.rewards:Stars`, or `./rewards.py:Stars` beside the YAML file.

A short name is only an alias of an import path; the aliases live with the parts they name. A part that is a frozen dataclass is its own
config: the keys beside `kind` are its fields, checked by pydantic.
"""

import ast
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

from gpg_vl.errors import UserError

_OURS = Path(__file__).parents[1]
_STDLIB = str(Path(traceback.__file__).parent)


def resolve(name: str, aliases: Mapping[str, str], folder: Path) -> Any:
    """The object behind a name.

    Args:
        aliases: short name -> import path.
        folder: where a relative `./file.py:Name` is looked for (the config's own folder).

    Raises:
        UserError: unknown alias (with the nearest), no such module, file or attribute.
    """
    path = aliases.get(name, name)
    module_name, _, attribute = path.rpartition(":")
    if not module_name or not attribute:
        nearest = get_close_matches(name, aliases, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(sorted(aliases))}"
        raise UserError(f"got {name!r}, expected a known name or an import path such as my_lab.rewards:Stars; {hint}")
    if not module_name.endswith(".py") and not all(map(str.isidentifier, module_name.split("."))):
        raise UserError(f"{path}: {module_name!r} is neither a module such as my_lab.rewards nor a file such as ./rewards.py")
    module = _load_file(folder / module_name) if module_name.endswith(".py") else _import(module_name)
    if not hasattr(module, attribute):
        raise UserError(f"{path}: {module_name} has no {attribute!r}; it is the name of a class or function defined there")
    return getattr(module, attribute)


def build(spec: str | Mapping[str, Any], aliases: Mapping[str, str], *, folder: Path, key: str, given: Mapping[str, Any]) -> Any:
    """A part from its spec: `{"kind": name, **fields}` or just the name.

    Args:
        key: where the spec stands in the config, for messages.
        given: what the run knows (prompt style, coordinate frame, group size...); handed over where the part has a field of that name
            which the spec does not set.
    """
    options = {"kind": spec} if isinstance(spec, str) else dict(spec)
    kind = options.pop("kind", None)
    if not isinstance(kind, str):
        raise UserError(f"{key}: got {spec!r}, expected a name or a mapping with `kind: NAME`")
    try:
        part: Any = resolve(kind, aliases, folder)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    accepted = [field.name for field in fields(part)] if is_dataclass(part) else list(inspect.signature(part).parameters)
    for option in options:
        if option not in accepted:
            raise UserError(unknown_key(f"{key}.{option}", option, accepted))
    inherited = {name: value for name, value in given.items() if name in accepted and name not in options}
    try:
        if is_dataclass(part):
            checked: TypeAdapter[Any] = TypeAdapter(cast(Any, part))
            return checked.validate_python(options | inherited)
        return part(**options | inherited) if isinstance(part, type) else validate_call(part)(**options | inherited)
    except ValidationError as error:
        raise UserError(f"{key}: {first_complaint(error)}") from None


def unknown_key(key: str, option: str, known: list[str]) -> str:
    """The sentence for a key that does not exist, with its nearest neighbour."""
    nearest = get_close_matches(option, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known) or 'nothing'}"
    return f"{key}: no such key; {hint}"


def first_complaint(error: ValidationError) -> str:
    """Pydantic's first complaint as `key: got, expected`."""
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"] if not str(step).startswith(("function-", "literal[")))
    if first["type"].startswith("missing"):
        return f"{place}: missing; this key must be set"
    told = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    return f"{place}: got {first['input']!r}; {told}" if place else told


def source_hash(part: Any) -> str:
    """A digest of the file in which a part is written, so that a run can tell whether its rewards have changed since."""
    owner = part if inspect.isfunction(part) else cast(Any, part if isinstance(part, type) else type(part))
    file = inspect.getsourcefile(owner)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


def told_with_place(error: Exception, file: Path | None = None) -> Exception:
    """A mistake in a file of the user's as a sentence with file and line; anything else stays as it is.

    Args:
        file: the user's file; default: the last file of the trace that belongs neither to gpg_vl nor to a library.
    """
    if isinstance(error, UserError):
        return error
    if isinstance(error, SyntaxError) and error.filename:
        return UserError(f"{error.filename} line {error.lineno}: {error.msg}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename, file)]
    return UserError(f"{frames[-1].filename} line {frames[-1].lineno}: {type(error).__name__}: {error}") if frames else error


def _is_users(name: str, file: Path | None) -> bool:
    if file is not None:
        return Path(name).resolve() == file.resolve()
    return (
        not name.startswith("<") and "site-packages" not in name and not Path(name).resolve().is_relative_to(_OURS) and _STDLIB not in name
    )


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise  # the module exists and misses something itself: that is a bug there, with its own traceback
        raise UserError(f"no module named {name!r}; is it installed, or does it stand beside the config as ./{name}.py:Name?") from None


def _belongs_to(name: str, file: Path) -> bool:
    """Whether `import name` would give this file, and not a library or another file of that name."""
    found = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
    return found is not None and found.origin == str(file)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: no such file; a path with ./ is looked for beside the config")
    where = path.resolve()
    if str(where.parent) not in sys.path:
        sys.path.append(str(where.parent))  # it may import its neighbours, and worker processes import it by name
    name = where.stem if _belongs_to(where.stem, where) else f"{where.stem}_{hashlib.sha256(str(where).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, where)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise told_with_place(error, path) from error
    return module


def fields_of(path: str) -> list[tuple[str, str, str]]:
    """The fields of a shipped class as (name, default, sentence), read from its source without importing what it needs."""
    module, _, name = path.rpartition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    classes = {node.name: node for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.ClassDef)}
    rows: dict[str, tuple[str, str, str]] = {}
    for owner in [*(base.id for base in classes[name].bases if isinstance(base, ast.Name) and base.id in classes), name]:
        body = classes[owner].body
        for field, sentence in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and "ClassVar" not in ast.unparse(field.annotation):
                told = sentence.value.value if isinstance(sentence, ast.Expr) and isinstance(sentence.value, ast.Constant) else ""
                rows[field.target.id] = (field.target.id, ast.unparse(field.value) if field.value else "required", str(told))
    return list(rows.values())
