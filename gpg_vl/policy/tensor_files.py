"""Read what a safetensors file holds from its header, without reading a tensor. No torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor in a file."""

    dtype: str
    """Data type as safetensors writes it: BF16."""
    shape: tuple[int, ...]
    start: int
    """Place of its first byte in the file."""
    end: int
    """Place behind its last byte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Header of a safetensors file."""

    size: int
    """Bytes that the file must have. A file with fewer is cut."""
    is_readable: bool = True
    """False if this is no such header, or it is cut itself."""
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    """Tensors by their names."""


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file, which may be cut or damaged.

    The format is: 8 bytes with the length of the header, the header as JSON, the tensors.
    """
    tensors: dict[str, StoredTensor] = {}
    with path.open("rb") as file:
        first = 8 + int.from_bytes(file.read(8), "little")
        if first > path.stat().st_size:
            return Header(size=first, is_readable=False)
        text = file.read(first - 8)
    try:
        for name, entry in json.loads(text).items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            tensors[name] = StoredTensor(
                dtype=str(entry["dtype"]),
                shape=tuple(map(int, entry["shape"])),
                start=first + int(start),
                end=first + int(end),
            )
    except (ValueError, KeyError, TypeError, AttributeError):  # no header at all
        return Header(size=first, is_readable=False)
    size = max((tensor.end for tensor in tensors.values()), default=first)
    return Header(size=size, tensors=tensors)
