"""Show values in a bounded number of characters: no bytes of a picture, no long text, no long list.

For the `repr` of samples, prompts and groups, which a notebook, a traceback and a failed assertion
print.
"""

import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

MAX_CHARACTERS = 500
"""Largest number of characters of one value."""

_KINDS = {
    b"\x89PNG": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF8": "gif",
    b"RIFF": "webp",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
    b"BM": "bmp",
}
"""First bytes of a picture -> the name of its format."""


class _Short(reprlib.Repr):
    """`reprlib` with pictures by their format and size, and with mappings of any type."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 5
        self.maxtuple = self.maxlist = self.maxdict = 10
        self.maxstring = 200
        self.maxother = 200

    def repr_bytes(self, value: bytes | bytearray | memoryview, level: int) -> str:
        """Return the format and the size of what may be a picture."""
        del level
        start = bytes(value[:4])
        names = [name for magic, name in _KINDS.items() if start.startswith(magic)]
        return f"<{names[0] if names else 'bytes'}, {_size(len(value))}>"

    repr_bytearray = repr_memoryview = repr_bytes

    def repr_int(self, x: int, level: int) -> str:
        """Return a whole number; one beyond Python's own limit by its number of bits."""
        if x.bit_length() > 4096:
            return f"<int of {x.bit_length():,} bits>"
        return super().repr_int(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        """Return any other object; mappings and subclasses of the basic types as those."""
        if isinstance(x, Mapping):
            return self.repr_dict(dict(x), level)
        if isinstance(x, bytes | bytearray):
            return self.repr_bytes(x, level)
        if type(x).__repr__ is tuple.__repr__ or type(x).__repr__ is list.__repr__:
            return self.repr_list(list(x), level)
        return super().repr_instance(x, level)


_SHORT = _Short()


def _size(count: int) -> str:
    """Return a number of bytes with the unit that a file manager shows."""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def of(value: Any) -> str:
    """Return a value in at most MAX_CHARACTERS characters.

    Example:
        of((png,)) == "(<png, 48 kB>,)"
    """
    text = _SHORT.repr(value)
    if len(text) > MAX_CHARACTERS:
        return text[: MAX_CHARACTERS - 3] + "..."
    return text


def of_fields(self: Any) -> str:
    """Return a dataclass with those of its fields that differ from their defaults: a `__repr__`."""
    shown: list[str] = []
    for field in fields(self):
        value = getattr(self, field.name)
        if not _is_default(field, value):
            shown.append(f"{field.name}={of(value)}")
    return f"{type(self).__name__}({', '.join(shown)})"


def _is_default(field: Field[Any], value: Any) -> bool:
    """Return True for a value that the field has when nothing is given."""
    if field.default is not MISSING:
        return type(value) is type(field.default) and bool(value == field.default)
    return field.default_factory is not MISSING and value == field.default_factory()
