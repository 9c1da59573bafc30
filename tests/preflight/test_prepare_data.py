"""`gpg-vl data ... --to`: whole, or not there at all."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.data import rows
from gpg_vl.preflight import prepare_data
from tests.commands import gpg_vl

RECIPE = """
from gpg_vl.errors import UserError
from gpg_vl.types import Sample


def scenes(fail: str = ""):
    for number in range(6):
        if number == 3 and fail == "user":
            raise UserError("row 3 has a mistake")
        if number == 3 and fail == "ctrl-c":
            raise KeyboardInterrupt
        yield Sample(id=f"q{number}", question="How many?", answer_kind="number", answer=number)
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory: a recipe, a file of rows, an empty folder, and one that is full."""
    (tmp_path / "scenes.py").write_text(RECIPE)
    lines = [json.dumps({"question": "How many?", "answer": number}) + "\n" for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def below(folder: Path) -> set[str]:
    """Everything there but what Python keeps of a recipe."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if "__pycache__" not in name}


def data(*words: object) -> Any:
    return gpg_vl("data", *words, cwd=Path())


SOURCES = ["./scenes.py:scenes", "rows.jsonl"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("to", ["new", "empty", "my rows/ü 模型"])
def test_rows_get_their_name_when_they_are_complete(source, to, here):
    (here / "my rows").mkdir()
    before = below(here)
    done = data(source, "--to", to)
    assert done.returncode == 0, done.printed
    own = {f"{to}/{name}" for name in ("images", "left_out.jsonl", "samples.jsonl")}
    assert below(here) - before - {to} == own
    assert len((here / to / "samples.jsonl").read_text().splitlines()) == 6
    assert (here / to).stat().st_mode & 0o777 == (here / "full").stat().st_mode & 0o777
    again = data(source, "--to", to)
    assert again.returncode == 2
    assert "holds rows already; choose another folder" in again.stderr


@pytest.mark.parametrize("to", ["new", "empty"])
@pytest.mark.parametrize("fail", ["user", "ctrl-c"])
def test_what_fails_in_the_middle_leaves_nothing(fail, to, here):
    before = below(here)
    done = data("./scenes.py:scenes", f"fail={fail}", "--to", to)
    assert done.returncode != 0
    assert below(here) == before


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("to", ["new", "empty"])
@pytest.mark.parametrize("where", ["a row", "what is left out"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(where, to, source, here, monkeypatch):
    def full(*given: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    owner, name = (rows, "_row") if where == "a row" else (prepare_data, "_write_left_out")
    monkeypatch.setattr(owner, name, full)
    before = below(here)
    done = data(source, "--to", to)
    assert done.returncode == 2
    assert done.stderr == (
        f"gpg-vl: --to {to}: no space left on that disk; nothing is kept. Make room, or choose "
        "another\n"
    )
    assert below(here) == before


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("full", "--to full: holds other files; choose a new folder, or an empty one"),
        ("nowhere/rows", "--to nowhere/rows: there is no folder nowhere"),
        ("rows.jsonl", "rows.jsonl is a file, expected a folder"),
        ("rows.jsonl/rows", "rows.jsonl is a file, expected a folder"),
        ("/proc/rows", "--to: /proc/rows cannot be made: "),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_before_anything_is_read(
    to, why, source, here, monkeypatch
):
    monkeypatch.setattr(prepare_data, "validated", lambda *_, **__: pytest.fail("it is read"))
    monkeypatch.setattr(
        "gpg_vl.preflight.propose_config.recognise", lambda *_, **__: pytest.fail("it is read")
    )
    before = below(here)
    done = data(source, "--to", to)
    assert done.returncode == 2
    assert why in done.stderr
    assert below(here) == before


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("nowhere/mine.yaml", "there is no folder nowhere"),
        ("/proc/mine.yaml", "/proc cannot be made"),
        ("full/mine.yaml", "exists already"),
    ],
)
def test_a_config_that_cannot_be_written_is_refused_before_anything_is_read(
    to, why, here, monkeypatch
):
    (here / "full" / "mine.yaml").write_text("mine")
    monkeypatch.setattr(
        "gpg_vl.preflight.propose_config.recognise", lambda *_, **__: pytest.fail("it is read")
    )
    done = data("rows.jsonl", "--to", to)
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.parametrize("to", ["mine.yaml", "new"])
def test_a_reader_that_stops_reading_costs_no_file(to, here):
    """As in `gpg-vl data rows.jsonl --to mine.yaml | head`: the pipe is closed at once."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gpg_vl", "data", "rows.jsonl", "--to", to]
    subprocess.run(command, stdout=writing, stderr=subprocess.DEVNULL, check=False)
    os.close(writing)
    written = here / to if to.endswith(".yaml") else here / to / "samples.jsonl"
    assert written.read_text()
    assert not list(here.glob(".gpg_vl-*"))
