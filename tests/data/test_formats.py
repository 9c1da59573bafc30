"""Files of rows as people save and publish them: what is read, and which row is broken and why."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import re
from decimal import Decimal
from pathlib import Path
from time import monotonic

import pyarrow
import pytest
from pyarrow import feather, parquet

from gpg_vl.data.reading import formats
from gpg_vl.data.reading.formats import BadRow
from gpg_vl.errors import UserError

ROWS = [{"question": "How many?", "answer": 3}, {"question": "Wo ist die Ä?", "answer": 4}]
AS_TEXT = [{"question": "How many?", "answer": "3"}, {"question": "Wo ist die Ä?", "answer": "4"}]


@pytest.fixture
def read(tmp_path):
    """Writes a file and reads its rows."""

    def reading(name, content):
        if isinstance(content, str):
            content = content.encode()
        (tmp_path / name).write_bytes(content)
        return list(formats.read(tmp_path / name))

    return reading


def refused(sentence):
    return pytest.raises(UserError, match=re.escape(sentence))


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# --- names and packing ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.ndjson", "a.b.Jsonl"])
def test_an_ending_may_be_in_capitals(read, name):
    assert read(name, lines(ROWS)) == ROWS


def zstandard(content):
    return pyarrow.compress(content, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".gz", gzip.compress),
        (".GZ", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", zstandard),
    ],
)
def test_packed_texts_are_read_and_those_cut_short_are_named(read, ending, pack):
    table = "question,answer\r\nHow many?,3\r\nWo ist die Ä?,4\r\n".encode()
    assert read(f"a.jsonl{ending}", pack(lines(ROWS).encode())) == ROWS
    assert read(f"a.json{ending}", pack(json.dumps(ROWS).encode())) == ROWS
    assert read(f"a.csv{ending}", pack(b"\xef\xbb\xbf" + table)) == AS_TEXT
    with refused("a.jsonl" + ending + ": cannot be read: "):
        read(f"a.jsonl{ending}", pack(lines(ROWS).encode())[:-12])
    with refused("if it was cut short, download it again"):
        read(f"b.jsonl{ending}", lines(ROWS))


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("a.xlsx", ".xlsx"),
        ("a", "nameless"),
        ("a.gz", ".gz"),
        ("a.parquet.gz", ".parquet.gz"),
        ("a.txt", ".txt"),
    ],
)
def test_an_unknown_kind_of_file_is_refused(read, name, got):
    with refused(
        f"{name}: got a {got} file, expected one of .jsonl, .ndjson, .jsonlines, .json, .csv, "
        ".tsv, .parquet, .arrow, .feather; texts may be packed (.gz, .bz2, .xz, .zst) (a hub data "
        "set goes under `hub:`)"
    ):
        read(name, "")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.csv"])
def test_what_a_failed_download_leaves_is_told(read, name):
    with refused("a pointer of Git LFS instead of the file; get the file with `git lfs pull`"):
        read(name, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    with refused("a web page instead of the file; download it again"):
        read(name, "\n<!DOCTYPE html><html>Not found</html>")


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_with_and_without_a_mark_and_both_ends_of_lines(read, encoding, end):
    table = f"question,answer{end}How many?,3{end}{end}Wo ist die Ä?,4{end}"
    assert read("a.csv", table.encode(encoding)) == AS_TEXT
    assert read("a.jsonl", lines(ROWS).replace("\n", end).encode(encoding)) == ROWS
    assert read("a.json", json.dumps(ROWS, ensure_ascii=False).encode(encoding)) == ROWS


def test_a_mark_in_the_middle_is_left_by_files_that_were_joined(read):
    first, second = (line + "\n" for line in lines(ROWS).splitlines())
    assert read("a.jsonl", f"\ufeff{first}\ufeff{second}") == ROWS


def test_rows_by_id_may_be_null(read):
    content = json.dumps({"a": ROWS[0], "b": None, "c": ROWS[1]})
    assert read("a.json", content) == [
        {**ROWS[0], "id": "a"},
        BadRow("row 'b'", "got NoneType, expected an object of columns"),
        {**ROWS[1], "id": "c"},
    ]


def test_a_packed_or_binary_file_under_the_name_of_a_text_is_named(read):
    with refused("a.jsonl: packed by gzip; let its name end in .gz"):
        read("a.jsonl", gzip.compress(lines(ROWS).encode()))
    with refused("a.csv: packed by zstd; let its name end in .zst"):
        read("a.csv", zstandard(lines(ROWS).encode()))
    with refused("a.json: a parquet file; let its name end in .parquet"):
        read("a.json", b"PAR1\x15\x04")
    with refused("a.csv: a zip archive or an Excel workbook; unpack it, or save it as CSV"):
        read("a.csv", b"PK\x03\x04\x14\x00")


def test_objects_that_stand_one_after_another_are_told_from_a_file_cut_short(read):
    with refused("(char 15); write several objects as a list, or each on a line of its own"):
        read("a.json", json.dumps({"a": 1}, indent=1) + "\n  \n" + json.dumps({"a": 2}, indent=1))


def test_utf_16_that_ends_in_the_middle_is_refused(read):
    with refused("a.jsonl: not UTF-8 but broken UTF-16 (truncated data); save it as UTF-8"):
        read("a.jsonl", lines(ROWS).encode("utf-16")[:-1])


def test_one_row_in_another_encoding_is_the_fault_of_that_row(read):
    bad = "not UTF-8 (invalid continuation byte near byte {}); save it as UTF-8"
    assert read("a.jsonl", b'{"a": "d\xe9ep"}\n{"a": "flat"}\n') == [
        BadRow("line 1", bad.format(8)),
        {"a": "flat"},
    ]
    assert read("a.csv", b"a,b\nflat,1\nd\xe9ep,2\n") == [
        {"a": "flat", "b": "1"},
        BadRow("line 3", bad.format(1)),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"a": "d\xe9ep"}\n{"a": "\xe9t\xe9"}\n'),
        ("a.csv", b"a,b\nd\xe9ep,1\n"),
        ("a.csv", b"d\xe9ep,b\nflat,1\n"),
        ("a.json", b'[{"a": "d\xe9ep"}]'),
    ],
)
def test_a_file_in_another_encoding_is_refused(read, name, content):
    with pytest.raises(UserError, match=rf"{name}: .*not UTF-8 \(.* near byte \d+\); save it as"):
        read(name, content)


def test_published_json_may_be_in_the_encoding_of_windows(tmp_path):
    (tmp_path / "a.json").write_bytes('[{"a": "déep"}]'.encode("cp1252"))
    assert list(formats.read(tmp_path / "a.json", windows=True)) == [{"a": "déep"}]


# --- JSON lines -----------------------------------------------------------------------------------


def test_a_broken_line_does_not_end_the_reading(read):
    content = '{"a": 1}\n{"a": \n\n[1]\n"x"\nnull\n{"a": NaN}\n{"a": {"b": 1, "b": 2}}\n{"a": 2}'
    first, cut, array, text, null, nan, doubled, last = read("a.jsonl", content)
    assert (first, last) == ({"a": 1}, {"a": 2})
    assert cut.where == "line 2"
    assert cut.why.startswith("not JSON: Expecting value")
    assert array == BadRow("line 4", "got list, expected an object of columns")
    assert text == BadRow("line 5", "got str, expected an object of columns")
    assert null == BadRow("line 6", "got NoneType, expected an object of columns")
    assert nan["a"] != nan["a"]
    assert doubled == BadRow("line 8", "two values have the name 'b'; keep one")


@pytest.mark.parametrize(
    "hostile", ["[" * 100_000, '{"a": ' * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_a_hostile_line_is_that_lines_fault(read, hostile):
    bad, good = read("a.jsonl", f'{hostile}\n{{"a": 2}}\n')
    assert (bad.where, good) == ("line 1", {"a": 2})
    assert bad.why.startswith("not JSON: ")
    assert len(bad.why) < 200


def test_a_line_ends_at_a_line_feed_alone(read):
    question = "one\u2028two\u0085three"
    line = json.dumps({"question": question, "answer": 3}, ensure_ascii=False)
    (row,) = read("a.jsonl", line.replace(', "answer"', ',\r"answer"'))  # \r is white space
    assert row["question"] == question


def test_a_jsonl_file_that_is_one_array_is_read(read):
    assert read("a.jsonl", json.dumps(ROWS, indent=1)) == ROWS


def test_the_strict_reading_of_lines_ends_at_a_broken_one(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n[1]\n')
    rows = formats.numbered_jsonl(tmp_path / "a.jsonl")
    assert next(rows) == (1, {"a": 1})
    with refused(f"{tmp_path / 'a.jsonl'} line 3: got list, expected an object of columns"):
        next(rows)


def test_lines_are_read_one_at_a_time(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(ROWS) + '{"a": 1}\n' * 100_000)
    rows = formats.read(tmp_path / "a.jsonl")
    assert next(rows) == ROWS[0]
    assert sum(1 for _ in rows) == 100_001


# --- JSON documents -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"data": ROWS},
        {"info": {"version": 1}, "questions": ROWS, "licences": []},
        {"my own name": ROWS},
        {"question": ["How many?", "Wo ist die Ä?"], "answer": [3, 4]},
        {"question": {"0": "How many?", "1": "Wo ist die Ä?"}, "answer": {"1": 4, "0": 3}},
    ],
)
def test_the_forms_of_a_document(read, content):
    assert read("a.json", json.dumps(content, indent=2)) == ROWS
    assert read("a.json", json.dumps(content)) == ROWS


def test_documents_in_documents(read):
    assert read("a.json", json.dumps({"data": {"rows": ROWS}})) == ROWS
    by_id = [ROWS[0] | {"id": "7"}, ROWS[1] | {"id": "x"}]
    assert read("a.json", json.dumps({"dataset": {"7": ROWS[0], "x": ROWS[1]}})) == by_id


def test_names_and_cells_apart_as_pandas_writes_them(read):
    split = {"columns": ["a", "b", "c"], "index": [5, 7], "data": [[1, 2, 3], [4, None, 6]]}
    expected = [{"a": 1, "b": 2, "c": 3}, {"a": 4, "b": None, "c": 6}]
    assert read("a.json", json.dumps(split)) == expected
    del split["index"]
    assert read("a.json", json.dumps(split)) == expected
    with pytest.raises(UserError, match="two columns have the name 'a'; rename one"):
        read("a.json", json.dumps({**split, "columns": ["a", "b", "a"]}))


def test_lines_that_were_cut_out_of_a_list(read):
    assert read("a.jsonlines", lines(ROWS).replace("}\n", "},\n")) == ROWS
    broken, *_ = read("a.jsonl", json.dumps(ROWS[0], indent=1))
    assert broken.why.endswith("; write each object on one line")


def test_rows_by_id_get_their_keys_as_ids_unless_they_have_ids(read):
    content = {"7": ROWS[0], "x": ROWS[1] | {"id": 5}, "y": {"id": None}}
    assert read("a.json", json.dumps(content)) == [
        ROWS[0] | {"id": "7"},
        ROWS[1] | {"id": 5},
        {"id": "y"},
    ]


@pytest.mark.parametrize(
    "row",
    [
        ROWS[0],
        ROWS[0] | {"images": [{"path": "a.png"}], "choices": ["a", "b"]},
        {"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": "?"}]},
        {"shapes": [{"points": [[0, 0]]}], "text": ["this"]},
    ],
)
def test_one_object_may_be_one_row(read, row):
    assert read("a.json", json.dumps(row)) == [row]


def test_json_lines_in_a_json_file(read):
    assert read("a.json", lines(ROWS)) == ROWS
    good, bad = read("a.json", '{"a": 1}\n{"a": \n')
    assert good == {"a": 1}
    assert bad.where == "line 2"
    bad, good = read("a.json", '{"a": \n{"a": 1}\n')
    assert (bad.where, good) == ("line 1", {"a": 1})


def test_broken_rows_of_a_document(read):
    assert read("a.json", '[{"a": 1}, 3, {"a": 1, "a": 2}, {"a": 3}]') == [
        {"a": 1},
        BadRow("row 2", "got int, expected an object of columns"),
        BadRow("row 3", "two values have the name 'a'; keep one"),
        {"a": 3},
    ]
    assert read("a.json", '"rows"') == [BadRow("row 1", "got str, expected an object of columns")]
    assert read("a.json", '{"x": {"a": 1, "a": 2}, "y": {"a": 3}}') == [
        BadRow("row 'x'", "two values have the name 'a'; keep one"),
        {"a": 3, "id": "y"},
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (json.dumps({"train": ROWS, "test": ROWS}), "several lists of rows: train, test; write"),
        (json.dumps({"images": ROWS, "annotations": ROWS}), "lists of rows: images, annotations;"),
        ('{"1": {"a": 1}, "1": {"a": 2}}', "a.json: two values have the name '1'; keep one"),
        ('[{"a": 1}, {"a": ', "a.json: not JSON: Expecting value"),
        ('{"a": {"0": 1, "1": 2}, "b": {"0": 1}}', "'b' has 1 values, 'a' has 2"),
        ("", "a.json: not JSON: Expecting value"),
    ],
)
def test_documents_that_are_refused(read, content, sentence):
    with refused(sentence):
        read("a.json", content)


# --- tables as text -------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_header_tells_the_separator(read, separator, name):
    cells = [["question", "answer"], ['"a,b;c|d"', "2,5" if separator != "," else "2"]]
    text = "\n".join(separator.join(row) for row in cells)
    assert read(name, text) == [{"question": "a,b;c|d", "answer": cells[1][1]}]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ('question\n"How many, really?"\n', {"question": "How many, really?"}),
        ('"size, in cm";answer\n"1;2";3\n', {"size, in cm": "1;2", "answer": "3"}),
        ("size, in cm;answer\nbig;3\n4,5;6\n", {"size, in cm": "big", "answer": "3"}),
        ("sep=;\r\nquestion;answer\r\na,b;3\r\n", {"question": "a,b", "answer": "3"}),
        (" question , answer \na,3\n", {"question": "a", "answer": "3"}),
        (",question\n0,a\n", {"Unnamed: 0": "0", "question": "a"}),
        ("question,answer,\na,3,\n", {"question": "a", "answer": "3", "Unnamed: 2": ""}),
        ("question,answer\na,3,,\n", {"question": "a", "answer": "3"}),
        ("question,answer\n,,\na,3\n", {"question": "a", "answer": "3"}),
        ('question,answer\n"a ""b""\nc",3\n', {"question": 'a "b"\nc', "answer": "3"}),
        ("question,answer\r a,3\r", {"question": "a", "answer": "3"}),
        ("id,images\n1,\"['a.png', 'b.png']\"\n", {"id": "1", "images": "['a.png', 'b.png']"}),
    ],
)
def test_the_first_row_of_a_table(read, text, row):
    assert read("a.csv", text)[0] == row


def test_a_large_cell_is_read(read):
    (row,) = read("a.csv", f"question,image\na,{'x' * 2_000_000}\n")
    assert len(row["image"]) == 2_000_000


def test_a_row_with_other_cells_than_the_header_is_its_own_fault(read):
    assert read("a.csv", "question,answer\nHow, really?,3\nWhy?\nWhat?,4\n") == [
        BadRow(
            "line 2",
            "more cells (3) than the header has names (2); write a cell with a comma in it in "
            "quotes",
        ),
        BadRow("line 3", "fewer cells (1) than the header has names (2)"),
        {"question": "What?", "answer": "4"},
    ]


def test_a_stray_quote_takes_no_other_row_with_it_unseen(read):
    first, after = read("a.csv", 'question,answer\n"a"b,3\nc,4\n')
    assert first.where == "line 2"
    assert first.why.startswith("not a row of a table: ")
    assert after == {"question": "c", "answer": "4"}


def test_a_quote_that_never_closes_takes_one_line(read):
    first, *others = read("a.csv", 'question,answer\n"a,3\nc,4\nd,5\n')
    assert first.where == "line 2"
    assert "unexpected end of data; double the quotes inside a cell" in first.why
    assert others == [{"question": "c", "answer": "4"}, {"question": "d", "answer": "5"}]


def test_what_may_be_the_end_of_a_broken_row_is_no_row(read):
    rows = read("a.csv", 'question,answer\n"Look at "this".\nHow many?",3\nb,4\n5" wide,6\n')
    assert [row.where for row in rows[:2]] == ["line 2", "line 3"]
    assert rows[1].why == "it may be the end of the row above it, whose quotes are wrong"
    assert rows[2:] == [{"question": "b", "answer": "4"}, {"question": '5" wide', "answer": "6"}]


def test_rows_between_two_stray_quotes_are_not_the_words_of_one_cell(read):
    swallowed, after = read("a.tsv", 'id\tquestion\n1\t"open\n2\tb\n3\tc"\n4\td\n')
    assert swallowed.where == "lines 2 to 4"
    assert swallowed.why.startswith("a quote opens in the first of these lines")
    assert after == {"id": "4", "question": "d"}
    # a cell of several lines has no separators in them, or not as many
    (row,) = read("a.csv", 'id,question,answer\n1,"one, two,\nthree, four\nor five",3\n')
    assert row["question"] == "one, two,\nthree, four\nor five"
    # ... or commas of prose, with a blank behind each
    (row,) = read("a.csv", 'question,answer\n"Which is larger, A or B?\nAnswer briefly.",A\n')
    assert row == {"question": "Which is larger, A or B?\nAnswer briefly.", "answer": "A"}


def test_between_quotes_far_apart_only_the_first_row_is_broken(read):
    rows = read("a.csv", 'id,question\n1,"open\n2,b\n3,c\n4,"open, too\n5,e\n6,f\n7,"ok"\n')
    broken = [row.where for row in rows if isinstance(row, BadRow)]
    assert broken == ["line 2", "line 5"]
    assert [row["id"] for row in rows if not isinstance(row, BadRow)] == ["2", "3", "5", "6", "7"]
    # each of them is read once more, not all of them for each
    start = monotonic()
    assert len(read("b.csv", "id,question\n" + '1,"open\n2,b\n3,c\n' * 20_000)) == 60_000
    assert monotonic() - start < 10


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_cell_of_lines_with_a_comma_in_each_is_read_as_programs_write_it(read, quoting):
    """Its lines could each be a row, but these programs end rows with \\r\\n, or quote names."""
    question = "There are 1,200 birds.\nHow many legs?"
    for end in ["\r\n"] if quoting == csv.QUOTE_MINIMAL else ["\r\n", "\n"]:
        file = io.StringIO(newline="")
        writer = csv.writer(file, quoting=quoting, lineterminator=end)
        writer.writerows([("question", "answer"), (question, "2,400"), (question, 5)])
        first, second = read("a.csv", file.getvalue())
        assert first == {"question": question, "answer": "2,400"}
        assert second == {"question": question, "answer": "5"}


def test_quotes_may_stand_behind_a_blank(read):
    rows = read("a.csv", 'question, answer, n\nWhat?, "cat, black", 1\n')
    assert rows == [{"question": "What?", "answer": "cat, black", "n": "1"}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b, a\n1,2,3\n", "a.csv: columns 1 and 3 are both called 'a'; rename or remove one"),
        ("a,b;c\n1,2;3\n", "cannot tell whether comma or semicolon separates the cells"),
        ('"a"b,c\n1,2\n', "a.csv: header: not a row of a table"),
    ],
)
def test_headers_that_are_refused(read, text, sentence):
    with refused(sentence):
        read("a.csv", text)


# --- parquet and arrow ----------------------------------------------------------------------------

FEATURES = {
    "label": {"names": ["ant", "bee"], "_type": "ClassLabel"},
    "many": {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "List"},
    "old": [{"names": ["x", "y"], "_type": "ClassLabel"}],
    "part": {"inner": {"names": ["p", "q"], "_type": "ClassLabel"}},
    "lists": {"feature": {"l": {"names": ["m", "n"], "_type": "ClassLabel"}}, "_type": "Sequence"},
    "json": {"_type": "Json"},
    "number": {"dtype": "int64", "_type": "Value"},
    "image": {"_type": "Image"},
}
STORED = {
    "label": 1,
    "many": [1, None, 0],
    "old": [1],
    "part": {"inner": 0},
    "lists": {"l": [1, -1]},
    "json": '{"A": 1}',
    "number": 1,
    "image": {"bytes": b"x", "path": None},
}
MEANT = {
    "label": "bee",
    "many": ["y", None, "x"],
    "old": ["y"],
    "part": {"inner": "p"},
    "lists": {"l": ["n", None]},
    "json": {"A": 1},
    "number": 1,
    "image": {"bytes": b"x", "path": None},
}


def described(rows):
    metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
    return pyarrow.Table.from_pylist(rows).replace_schema_metadata(metadata)


def write(table, path):
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
        return
    new = pyarrow.ipc.new_stream if path.stem == "stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as file, new(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize("name", ["a.parquet", "a.PARQUET", "stream.arrow", "file.arrow"])
def test_labels_that_datasets_wrote_as_numbers_become_names(tmp_path, name):
    path = tmp_path / name.lower()
    write(described([STORED, STORED | {"label": -1}, STORED | {"label": None}]), path)
    path = path.rename(tmp_path / name)
    assert list(formats.read(path)) == [MEANT, MEANT | {"label": None}, MEANT | {"label": None}]


def test_values_of_tables_are_those_of_python(tmp_path):
    table = pyarrow.table(
        {
            "category": pyarrow.array(["a", "b"]).dictionary_encode(),
            "decimal": [Decimal("2.50"), None],
            "date": [datetime.date(2024, 1, 2), None],
            "large": pyarrow.array([["a.png"], []], pyarrow.large_list(pyarrow.large_string())),
            "binary": [b"x", None],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    first, second = formats.read(tmp_path / "a.parquet")
    assert first == {
        "category": "a",
        "decimal": Decimal("2.50"),
        "date": datetime.date(2024, 1, 2),
        "large": ["a.png"],
        "binary": b"x",
    }
    assert second == dict.fromkeys(first) | {"category": "b", "large": []}


def test_a_value_that_python_cannot_hold_is_the_fault_of_its_row(tmp_path):
    days = pyarrow.array([0, 10_000_000, 1], pyarrow.int32()).cast(pyarrow.date32())
    parquet.write_table(pyarrow.table({"day": days}), tmp_path / "a.parquet")
    first, bad, last = formats.read(tmp_path / "a.parquet")
    assert (first, last) == ({"day": datetime.date(1970, 1, 1)}, {"day": datetime.date(1970, 1, 2)})
    assert bad.where == "row 2"
    assert bad.why.startswith("a value cannot be read: ")


def test_rows_are_numbered_across_batches(tmp_path):
    days = pyarrow.array([0] * 130 + [10_000_000], pyarrow.int32()).cast(pyarrow.date32())
    for name in ("a.parquet", "stream.arrow"):
        write(pyarrow.table({"day": days}), tmp_path / name)
        *good, bad = formats.read(tmp_path / name)
        assert (len(good), bad.where) == (130, "row 131")


def test_a_feather_file_is_arrow(tmp_path):
    feather.write_feather(pyarrow.table({"a": [1]}), str(tmp_path / "a.feather"))
    assert list(formats.read(tmp_path / "a.feather")) == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.xlsx", "save it as CSV UTF-8 in Excel"),
        ("a.txt", "let its name end in .jsonl, .csv or .tsv"),
        ("a.tar.gz", "unpack it"),
        ("a.pkl", "pandas.read_pickle(...).to_parquet(...)"),
    ],
)
def test_what_to_do_with_other_formats(read, name, advice):
    with refused(advice):
        read(name, "x")


def test_tables_that_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": [1]}), path)
    path.write_bytes(path.read_bytes()[:-10])
    with refused("a.parquet: cannot be read: "):
        list(formats.read(path))
    (tmp_path / "a.arrow").write_bytes(b"no arrow")
    with refused("a.arrow: cannot be read: "):
        list(formats.read(tmp_path / "a.arrow"))
    twice = pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, ["a", "a"])
    write(twice, tmp_path / "stream.arrow")
    with refused("stream.arrow: two columns are called 'a'; rename or remove one"):
        list(formats.read(tmp_path / "stream.arrow"))


@pytest.mark.parametrize("metadata", ["no JSON", "[]", '{"info": {"features": [1]}}'])
def test_a_description_of_another_program_is_not_followed(tmp_path, metadata):
    table = pyarrow.table({"a": [1]}).replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(formats.read(Path(tmp_path / "a.parquet"))) == [{"a": 1}]


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize(("name", "count"), [("a.csv", 2), ("a.tsv", 2), ("a.jsonl", 3)])
def test_the_header_of_a_table_is_not_counted_as_a_row(name, count, end, tmp_path):
    (tmp_path / name).write_text("first\nsecond\nthird" + end)
    assert formats.num_rows(tmp_path / name) == count
    (tmp_path / name).write_text("")
    assert formats.num_rows(tmp_path / name) == 0
