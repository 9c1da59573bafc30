"""The cache of sizes and validation errors: what is computed once, and what anew."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from gpg_vl.boxes import Frame
from gpg_vl.config.schema import Source
from gpg_vl.data import validation_cache
from gpg_vl.data.caches import cache_dir
from gpg_vl.data.dataset import read_dataset
from gpg_vl.errors import UserError
from gpg_vl.prompts import Style
from gpg_vl.types import Sample, Turn
from gpg_vl.verifiers.base import Grade, RuleVerifier
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import png

ROW = {"id": "a", "question": "How many?", "answer_kind": "number", "answer": 3, "image": "a.png"}
NUMBERS = VerifierSet(by_kind={"number": Number()})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set of two rows, one of which is left out, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "a.png").write_bytes(png((4, 3)))
    write(tmp_path, ROW, {**ROW, "id": "b", "answer": "many"})
    return tmp_path


@pytest.fixture
def computed(monkeypatch):
    """What was computed since the list was cleared: `size` of a picture, or ids of samples."""
    calls = []
    size, check = validation_cache.picture_size, VerifierSet.validation_error

    def counted_size(image):
        calls.append("size")
        return size(image)

    def counted_check(self, sample):
        calls.append(sample.id)
        return check(self, sample)

    monkeypatch.setattr(validation_cache, "picture_size", counted_size)
    monkeypatch.setattr(VerifierSet, "validation_error", counted_check)
    return calls


def write(folder, *rows):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


def read(folder, verifiers=NUMBERS, **source):
    found = read_dataset([Source(files="rows.jsonl", **source)], verifiers, base_dir=folder, seed=0)
    return found.samples, found.left_out


def file_of(folder):
    return folder / "cache" / "gpg_vl" / "validated" / "entries.sqlite"


def test_a_second_reading_computes_only_what_did_not_pass(folder, computed):
    """The reason why a row did not pass may have been a machine without memory or time."""
    first = read(folder)
    assert computed == ["size", "a", "b"], "both rows have one picture"
    computed.clear()
    assert read(folder) == first
    assert computed == ["b"]
    samples, (left,) = first
    assert [sample.id for sample in samples] == ["a"]
    assert samples[0].sizes == ((4, 3),)
    assert (left.id, left.why) == ("b", "answer 'many' is not a number")


def test_rows_under_another_id_or_from_another_file_are_known(folder, computed):
    """Entries are found by content."""
    read(folder)
    computed.clear()
    write(folder, {**ROW, "id": "other", "answer": "many"}, {**ROW, "id": "b"})
    samples, (left,) = read(folder)
    assert ([sample.id for sample in samples], left.id) == (["b"], "other")
    assert computed == ["other"]


@pytest.mark.parametrize("change", ["size", "time", "both", "neither"])
def test_a_changed_picture_is_opened_again(folder, computed, change):
    path = folder / "a.png"
    os.utime(path, ns=(10**18, 10**18))
    read(folder)
    computed.clear()
    pixels, more, later = (3, 4), b"", 1
    if change == "size":
        pixels, more, later = (4, 3), b" ", 0
    if change == "both":
        more = b" "
    if change == "neither":  # as rsync -t or cp -p may leave it
        later = 0
    assert len(png((3, 4))) == len(png((4, 3)))
    path.write_bytes(png(pixels) + more)
    os.utime(path, ns=(10**18, 10**18 + later))
    samples, _ = read(folder)
    # its size in pixels is part of what is judged
    assert computed == (["size", "b"] if change == "size" else ["size", "a", "b"])
    assert samples[0].sizes == (pixels,)


def test_a_picture_that_is_gone_is_told(folder):
    read(folder)
    (folder / "a.png").unlink()
    write(folder, ROW, {"question": "?", "answer_kind": "number", "answer": 1})
    _, (left,) = read(folder)
    assert f"image {folder / 'a.png'} does not exist" in left.why


SAMPLE = Sample(
    id="a",
    question="Which?",
    answer_kind="choice",
    answer="A",
    choices=("cat", "dog"),
    sizes=((4, 3),),
    columns={"more": 1},
)


@pytest.mark.parametrize(
    "change",
    [
        {"question": "What?"},
        {"answer": "B"},
        {"answer": ["A"]},
        {"choices": ("dog", "cat")},
        {"letters": ("B", "A")},
        {"frame": "norm1000"},
        {"answer_image": 1},
        {"sizes": ((4, 5),)},
        {"images": (b"picture",)},
        {"columns": {"more": 2}},
        {"columns": {"more": "1"}},
    ],
    ids=str,
)
def test_whatever_a_verifier_may_look_at_is_judged_anew(folder, computed, change):
    verifiers = VerifierSet(by_kind={"choice": Choice()})
    with validation_cache.ValidationCache(verifiers) as cache:
        for sample in (SAMPLE, replace(SAMPLE, **change), SAMPLE):
            told = cache.validation_error(sample)
            assert told == VerifierSet(by_kind=verifiers.by_kind).validation_error(sample)
    computed.clear()
    with validation_cache.ValidationCache(verifiers) as cache:
        cache.validation_error(replace(SAMPLE, **change))
        assert computed == []
        cache.validation_error(replace(SAMPLE, **change, answer_kind="other"))
        assert computed == ["a"], "a kind without a verifier"


def test_a_changed_row_is_judged_anew(folder, computed):
    with validation_cache.ValidationCache(VerifierSet(by_kind={"choice": Choice()})) as cache:
        cache.validation_error(SAMPLE)
    for change in ({"question": "What?"}, {"answer": "B"}, {"letters": ("B", "A")}):
        computed.clear()
        with validation_cache.ValidationCache(VerifierSet(by_kind={"choice": Choice()})) as cache:
            cache.validation_error(replace(SAMPLE, **change))
        assert computed == ["a"]
    computed.clear()
    same = replace(SAMPLE, id="b", tags={"task": "x"}, solution="so", context=(Turn("user", "?"),))
    with validation_cache.ValidationCache(VerifierSet(by_kind={"choice": Choice()})) as cache:
        cache.validation_error(same)
    assert computed == [], "no verifier of ours looks at these"


@pytest.mark.parametrize(
    "other",
    [
        Number(tolerance=0.5),
        Number(mode="lenient"),
        Number(combine="sum", format_weight=0.1),
        Number(accuracy_weight=2.0),
        Number(style=Style(think="never")),
        Choice(),
    ],
    ids=lambda verifier: repr(verifier)[:40],
)
def test_another_verifier_judges_anew(folder, computed, other):
    read(folder)
    computed.clear()
    write(folder, ROW)
    verifiers = VerifierSet(by_kind={"number": other})
    with validation_cache.ValidationCache(verifiers) as cache:
        cache.validation_error(Sample(id="a", question="How many?", answer_kind="number", answer=3))
    assert computed == ["a"]


def test_another_frame_judges_boxes_anew(folder, computed):
    boxed = Sample(
        id="a", question="?", answer_kind="boxes", answer=[[1, 1, 3, 3]], sizes=((4, 4),)
    )
    for frame in (Frame(kind="pixels"), Frame(kind="norm1000"), Frame(kind="pixels")):
        verifiers = VerifierSet(by_kind={"boxes": Boxes(frame=frame)})
        with validation_cache.ValidationCache(verifiers) as cache:
            cache.validation_error(boxed)
    assert computed == ["a", "a"]


def test_another_state_of_the_code_judges_anew(folder, computed, monkeypatch):
    read(folder)
    computed.clear()
    monkeypatch.setattr(validation_cache, "_code", lambda: b"other")
    read(folder)
    assert computed == ["size", "a", "b"]


# --- what is not cached ---------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Own(RuleVerifier):
    """A verifier of a user's."""

    def grade(self, answer, sample):
        return Grade.of(answer == "3", answer)

    def reference_answer(self, sample):
        return str(sample.answer)


class Plain:
    """A verifier without the base class."""

    def __call__(self, text, sample):
        raise AssertionError


class OwnStyle(Style):
    """A prompt style of a user's."""


@pytest.mark.parametrize("verifier", [Own(), Plain(), Number(style=OwnStyle())], ids=type)
def test_plug_ins_are_asked_each_time(folder, computed, verifier):
    write(folder, ROW)
    verifiers = VerifierSet(by_kind={"number": verifier})
    for sizes in (["size"], []):
        computed.clear()
        assert len(read(folder, verifiers)[0]) == 1
        assert computed == [*sizes, "a"]


def test_recipes_are_not_cached(folder, computed):
    source = Source(recipe="digits", options={"task": "count", "count": 2})
    for _ in range(2):
        computed.clear()
        read_dataset([source], NUMBERS, base_dir=folder, seed=0)
        assert len(computed) == 2
    assert not file_of(folder).exists()


# --- files that do not work -----------------------------------------------------------------------


def test_no_folder_that_can_be_written_is_no_harm(folder, computed, monkeypatch):
    (folder / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "file"))
    first = read(folder)
    # without a cache the picture is opened for each row
    assert computed == ["size", "a", "size", "b"]
    computed.clear()
    assert read(folder) == first
    assert computed == ["size", "a", "size", "b"]
    assert len(first[0]) == len(first[1]) == 1


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 500, b""])
def test_a_broken_file_is_begun_anew(folder, computed, content):
    first = read(folder)
    file_of(folder).write_bytes(content)
    assert read(folder) == first
    computed.clear()
    assert read(folder) == first
    assert computed == ["b"], "the broken file was replaced"


def test_a_file_that_another_process_keeps_is_waited_for_once(folder, computed, monkeypatch):
    """A process that was stopped in the middle of writing may keep it for hours."""
    first = read(folder)
    waits = []
    connect = sqlite3.connect
    monkeypatch.setattr(
        validation_cache.sqlite3,
        "connect",
        lambda path, timeout: connect(path, timeout=0.01, factory=counted(waits)),
    )
    with closing(connect(file_of(folder))) as other:
        with validation_cache.ValidationCache(NUMBERS) as cache:
            other.execute("BEGIN EXCLUSIVE")
            computed.clear()
            for _ in range(3):
                assert cache.size_of(folder / "a.png") == (4, 3)
            assert computed == ["size"] * 3
        assert waits == ["SELECT value FROM entries WHERE key = ?"]
        other.rollback()
    assert read(folder) == first


def counted(waits):
    class Counted(sqlite3.Connection):
        def execute(self, words, *values):
            try:
                return super().execute(words, *values)
            except sqlite3.OperationalError:
                waits.append(words)
                raise

    return Counted


def test_without_a_home_there_is_no_cache(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", homeless)
    with pytest.raises(UserError, match="no home folder for a cache; set XDG_CACHE_HOME"):
        cache_dir("validated")
    assert validation_cache.ValidationCache(NUMBERS)._file is None


def test_a_file_that_is_damaged_inside_is_no_harm(folder):
    first = read(folder)
    content = bytearray(file_of(folder).read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)  # the pages behind the list of tables
    file_of(folder).write_bytes(content)
    assert read(folder) == first


def test_a_table_of_another_form_is_no_harm(folder):
    first = read(folder)
    file_of(folder).unlink()
    file = sqlite3.connect(file_of(folder))
    file.execute("CREATE TABLE entries (name TEXT)")
    file.close()
    assert read(folder) == first
    assert read(folder) == first


def test_a_file_that_grew_too_large_is_begun_anew(folder, computed, monkeypatch):
    first = read(folder)
    monkeypatch.setattr(validation_cache, "MAX_BYTES", 100)
    computed.clear()
    assert read(folder) == first
    assert computed == ["size", "a", "b"]


def test_a_reading_that_is_broken_off_keeps_what_it_found(folder, computed):
    def broken_off():
        with validation_cache.ValidationCache(NUMBERS) as cache:
            cache.size_of(folder / "a.png")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    computed.clear()
    with validation_cache.ValidationCache(NUMBERS) as cache:
        assert cache.size_of(folder / "a.png") == (4, 3)
    assert computed == []


# --- several processes ----------------------------------------------------------------------------


def test_of_several_processes_the_first_writes(folder, computed, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    read(folder)
    computed.clear()
    read(folder)
    assert computed == ["size", "a", "b"]
    monkeypatch.setenv("RANK", "0")
    read(folder)
    computed.clear()
    monkeypatch.setenv("RANK", "1")
    read(folder)
    assert computed == ["b"]


PROGRAM = """
import sys
from pathlib import Path
from gpg_vl.config.schema import Source
from gpg_vl.data.dataset import read_dataset
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
sets = VerifierSet(by_kind={"number": Number()})
found = read_dataset([Source(files="rows.jsonl")], sets, base_dir=Path(sys.argv[1]), seed=0)
print(len(found.samples), len(found.left_out))
"""


def test_two_processes_may_read_at_once(folder, computed):
    write(folder, *({**ROW, "id": f"{it}", "answer": it} for it in range(300)))
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=300)[0] for process in both] == ["300 0\n"] * 2
    assert len(read(folder)[0]) == 300
    assert computed == []
