"""Sources: several files, pictures from elsewhere, rows that are broken, what is written."""

import datetime
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gpg_vl.config.schema import Source
from gpg_vl.data import rows, sources
from gpg_vl.errors import UserError
from gpg_vl.types import LeftOut, Sample, Turn
from tests.hand_made import png

ROW = {"question": "How many?", "answer_kind": "number", "answer": 3}


def read(folder, **source):
    return list(sources.read_source(Source(**source), base_dir=folder, key="data.0"))


def lines(path, *given):
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [row if isinstance(row, str) else json.dumps(row) for row in given]
    path.write_text("".join(f"{text}\n" for text in texts))


def answered(*answers):
    return [{**ROW, "answer": answer} for answer in answers]


# --- files ----------------------------------------------------------------------------------------


def test_rows_without_an_id_are_numbered_in_each_file(tmp_path):
    lines(tmp_path / "data" / "part-2.jsonl", *answered(1, 2))
    lines(tmp_path / "data" / "part-10.jsonl", {**ROW, "id": None}, {**ROW, "id": "own"})
    for files in ("data", "data/part-*.jsonl", ("data/part-2.jsonl", "data/part-10.jsonl")):
        assert [sample.id for sample in read(tmp_path, files=files)] == [
            "data/part-2.jsonl row 1",
            "data/part-2.jsonl row 2",
            "data/part-10.jsonl row 1",
            "own",
        ]


def test_an_id_that_cannot_be_written_is_replaced_by_the_place_of_its_row(tmp_path):
    lines(tmp_path / "rows.jsonl", {**ROW, "id": "\ud83d"}, {**ROW, "id": 7, "answer": None})
    assert [row.id for row in read(tmp_path, files="rows.jsonl")] == ["rows.jsonl row 1", "7"]


def test_a_value_that_is_nested_too_deep_leaves_its_row_out(tmp_path):
    deep = "[" * 900 + "]" * 900
    row = f'{{"question": "?", "answer_kind": "number", "answer": {deep}}}'
    lines(tmp_path / "rows.jsonl", *answered(1), row, *answered(2))
    first, left, last = read(tmp_path, files="rows.jsonl")
    assert (first.answer, last.answer) == (1, 2)
    assert left == LeftOut(
        "rows.jsonl row 2", "a value is nested too deep, list in list in list; write it flat"
    )


def test_a_file_whose_name_is_not_utf_8_has_a_name_that_can_be_written(tmp_path):
    """As archives from Windows leave them."""
    lines(Path(os.fsdecode(os.fsencode(tmp_path) + b"/r/donn\xe9es.jsonl")), *answered(1))
    (row,) = read(tmp_path, files="r/*.jsonl")
    assert row.id == "r/donn\\udce9es.jsonl row 1"


def test_a_message_lists_no_more_columns_than_can_be_read(tmp_path):
    lines(tmp_path / "rows.jsonl", {**ROW, **dict.fromkeys(map(str, range(5000)), 1)})
    with pytest.raises(UserError, match="no row has a column 'q'; there are question") as error:
        read(tmp_path, files="rows.jsonl", columns={"id": "q"})
    assert len(str(error.value)) < 700


def test_a_file_keeps_the_name_that_the_config_gives_it(tmp_path, monkeypatch):
    lines(tmp_path / "here" / "rows.jsonl", ROW)
    monkeypatch.chdir(tmp_path / "here")
    for name in ("rows.jsonl", str(tmp_path / "here" / "rows.jsonl")):
        (sample,) = read(tmp_path / "elsewhere", files=name)
        assert sample.id == f"{name} row 1"


@pytest.mark.parametrize(
    ("head", "answers"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 4]), (9, [1, 2, 3, 4])],
)
def test_head_counts_over_several_files(head, answers, tmp_path):
    lines(tmp_path / "a.jsonl", *answered(1, 2))
    lines(tmp_path / "b.jsonl", *answered(3, 4))
    found = read(tmp_path, files=("a.jsonl", "b.jsonl"), head=head)
    assert [sample.answer for sample in found] == answers


def test_files_after_the_head_are_not_opened(tmp_path):
    lines(tmp_path / "a.jsonl", *answered(1, 2))
    (tmp_path / "b.parquet").write_bytes(b"version https://git-lfs")
    files = ("a.jsonl", "b.parquet")
    assert [sample.answer for sample in read(tmp_path, files=files, head=2)] == [1, 2]
    with pytest.raises(UserError, match="a pointer of Git LFS"):
        read(tmp_path, files=files, head=3)


def test_a_broken_row_counts_among_the_first_rows(tmp_path):
    lines(tmp_path / "a.jsonl", "broken", *answered(1, 2))
    left, sample = read(tmp_path, files="a.jsonl", head=2)
    assert (left.id, sample.answer, sample.id) == ("a.jsonl line 1", 1, "a.jsonl row 2")


def test_a_broken_row_of_any_file_is_left_out_with_file_and_line(tmp_path):
    lines(tmp_path / "a.jsonl", ROW, "broken", ROW)
    (tmp_path / "b.csv").write_text(
        "question,answer_kind,answer\nHow many?,number,4\nHow many?,5\n"
    )
    (first, left, third), (fourth, short) = (
        read(tmp_path, files="a.jsonl"),
        read(tmp_path, files="b.csv"),
    )
    assert (left.id, first.answer, third.answer) == ("a.jsonl line 2", 3, 3)
    assert fourth.answer == 4
    assert isinstance(short, LeftOut)
    assert short.id.startswith("b.csv line 3")


def test_more_rows_than_are_read_at_once_are_all_numbered(tmp_path):
    count = sources.ROWS_AT_ONCE * 2 + 3
    lines(tmp_path / "a.jsonl", *answered(*range(count)))
    found = read(tmp_path, files="a.jsonl")
    assert [sample.answer for sample in found] == list(range(count))
    assert found[-1].id == f"a.jsonl row {count}"


# --- pictures from elsewhere ----------------------------------------------------------------------


def test_pictures_are_named_from_the_folder_of_their_file(tmp_path):
    lines(tmp_path / "sub" / "a.jsonl", {**ROW, "image": "a.png"})
    (tmp_path / "sub" / "a.png").write_bytes(png((4, 3)))
    (sample,) = read(tmp_path, files="sub/a.jsonl")
    assert sample.images == (tmp_path / "sub" / "a.png",)


def test_image_root_is_the_folder_of_the_pictures(tmp_path, monkeypatch):
    lines(tmp_path / "a.jsonl", {**ROW, "image": "p.png"}, {**ROW, "image": "../p.png"})
    (tmp_path / "pictures" / "p.png").parent.mkdir()
    (tmp_path / "pictures" / "p.png").write_bytes(png((4, 3)))
    monkeypatch.setenv("HOME", str(tmp_path))
    for root in ("pictures", str(tmp_path / "pictures"), "~/pictures"):
        inside, outside = read(tmp_path, files="a.jsonl", image_root=root)
        assert inside.images == (tmp_path / "pictures" / "p.png",)
        assert "leaves the data folder" in outside.why
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    (tmp_path / "a.jsonl").rename(tmp_path / "rows" / "a.jsonl")
    assert read(tmp_path / "rows", files="a.jsonl", image_root="pictures")[0].sizes == ((4, 3),)
    with pytest.raises(UserError, match=r"^image_root: nowhere does not exist, neither beside"):
        read(tmp_path, files="rows/a.jsonl", image_root="nowhere")


def test_a_picture_is_found_from_the_working_folder_of_the_moment(tmp_path, monkeypatch):
    for name, size in (("a", (4, 3)), ("b", (5, 6))):
        lines(tmp_path / name / "rows.jsonl", {**ROW, "image": "p.png"})
        (tmp_path / name / "p.png").write_bytes(png(size))
        monkeypatch.chdir(tmp_path / name)
        (sample,) = read(Path(), files="rows.jsonl")
        assert sample.sizes == (size,)
        assert sample.images == (tmp_path / name / "p.png",)


class Handler(SimpleHTTPRequestHandler):
    """Serves files, and notes their paths."""

    def log_message(self, *given) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def host(tmp_path, monkeypatch) -> Iterator[str]:
    """Serve the folder `web` on this machine, with an empty cache beside it."""
    (tmp_path / "web").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = partial(Handler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pictures_of_listed_hosts_are_downloaded(host, tmp_path):
    for name, size in (("a", (4, 3)), ("b", (5, 6)), ("c", (7, 8))):
        (tmp_path / "web" / f"{name}.png").write_bytes(png(size))
    part = {"type": "image_url", "image_url": {"url": f"http://{host}/c.png"}}
    chat = [{"role": "user", "content": [part, {"type": "text", "text": "How many?"}]}]
    lines(
        tmp_path / "a.jsonl",
        {**ROW, "image": f"http://{host}/a.png"},
        {**ROW, "images": [f"http://{host}/b.png", f"http://{host}/a.png"]},
        {**ROW, "image": f"http://{host}/missing.png"},
        {"answer_kind": "number", "answer": 3, "messages": chat},
        {**ROW, "image": "http://127.0.0.2/a.png"},
    )
    one, two, missing, asked, other = read(tmp_path, files="a.jsonl", image_hosts=(host,))
    assert (one.sizes, two.sizes, asked.sizes) == (((4, 3),), ((5, 6), (4, 3)), ((7, 8),))
    assert "404" in missing.why
    assert "cannot be listed" in other.why
    # the pictures are kept: the files behind the addresses may go
    for path in (tmp_path / "web").iterdir():
        path.unlink()
    assert read(tmp_path, files="a.jsonl", image_hosts=(host,))[:2] == [one, two]


def test_without_a_listed_host_nothing_is_downloaded(host, tmp_path):
    (tmp_path / "web" / "a.png").write_bytes(png((4, 3)))
    lines(tmp_path / "a.jsonl", {**ROW, "image": f"http://{host}/a.png"}, ROW)
    left, sound = read(tmp_path, files="a.jsonl")
    assert left.why.endswith("download it first, or list its host under image_hosts: [HOST]")
    assert sound.answer == 3
    assert not list((tmp_path / "cache").rglob("*"))
    with pytest.raises(UserError, match=r"^image_hosts: 'a/b' is no host"):
        read(tmp_path, files="a.jsonl", image_hosts=("a/b",))


# --- writing --------------------------------------------------------------------------------------


def with_bytes(sample):
    fields = {name: getattr(sample, name) for name in sample.__slots__}
    images = [it.read_bytes() if isinstance(it, Path) else it for it in sample.images]
    return {**fields, "images": images}


WRITTEN = [
    Sample(
        id="chat",
        question="And <image 2>?",
        context=(
            Turn("system", "Count."),
            Turn("user", "<image> How many?"),
            Turn("assistant", "2"),
        ),
        images=(png((4, 3)), png((5, 6))),
        sizes=((4, 3), (5, 6)),
        answer_kind="number",
        answer=3,
    ),
    Sample(
        id="letters",
        question="Which?",
        answer_kind="choice",
        answer="F",
        choices=("dog", "cat", "cow"),
        letters=("B", "A", "F"),
    ),
    Sample(
        id="gap",
        question="Which?",
        answer_kind="choice",
        answer="C",
        choices=("x", "y"),
        letters=("A", "C"),
    ),
    Sample(
        id="words that look lettered",
        question="Which?",
        answer_kind="choice",
        answer="B. cereus",
        choices=("B. cereus", "A. niger"),
    ),
    Sample(
        id="plain", question="Which?", answer_kind="choice", answer="cat", choices=("cat", "dog")
    ),
    Sample(
        id="label",
        question="Which?",
        answer_kind="label",
        answer="E. coli",
        choices=("E. coli", "S. aureus"),
    ),
    Sample(
        id="many",
        question="Which?",
        answer_kind="choice",
        answer="name 29",
        choices=tuple(f"name {number}" for number in range(30)),
    ),
    Sample(
        id="second picture",
        question="Where?",
        images=(png((4, 3)), png((50, 60))),
        sizes=((4, 3), (50, 60)),
        answer_kind="boxes",
        answer=[[1, 2, 30.5, 40]],
        answer_image=2,
        frame="norm1000",
    ),
    Sample(id="sizes alone", question="Where?", sizes=((40, 30),), answer_kind="boxes", answer=[]),
    Sample(id="accepted", question="What?", answer_kind="label", answer=["sofa", "couch"]),
    Sample(
        id="half of a character",
        question="What?",
        answer_kind="label",
        answer="sofa",
        columns={"note": "\ud83d"},
    ),
]


@pytest.mark.parametrize("sample", WRITTEN, ids=lambda sample: sample.id)
def test_what_is_written_is_read_back(sample, tmp_path):
    assert rows.write([sample], tmp_path) == 1
    (found,) = read(tmp_path, files="samples.jsonl")
    assert with_bytes(found) == with_bytes(sample)


def test_columns_that_json_has_no_value_for_are_written_as_text(tmp_path):
    columns = {"day": datetime.date(2024, 2, 29), "raw": b"\xff\x00", "far": datetime.timedelta(1)}
    rows.write([Sample(id="1", **ROW, columns=columns)], tmp_path)
    (found,) = read(tmp_path, files="samples.jsonl")
    assert found.columns == {"day": "2024-02-29", "raw": "/wA=", "far": "1 day, 0:00:00"}
