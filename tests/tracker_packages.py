"""Packages of experiment trackers in tests: a stand-in, and a reader of what W&B writes."""

import struct
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest


class Package:
    """A stand-in for a tracker's package, which records every call."""

    __version__ = "9.9"

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.calls: list[tuple[str, Any]] = []
        for name in names:
            monkeypatch.setitem(sys.modules, name, self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def record(*args: Any, **given: Any) -> Any:
            self.calls.append((name, [*args, given] if args else given))
            return self

        return record

    def of(self, name: str) -> list[Any]:
        return [given for called, given in self.calls if called == name]


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of a file of W&B: protobuf messages in blocks of 32 KiB, as in LevelDB."""
    messages = import_module("wandb.proto.wandb_internal_pb2")
    content, place, message = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        message += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole of a message, or its last part
            record = messages.Record()
            record.ParseFromString(message)
            yield record
            message = b""
