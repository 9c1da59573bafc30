"""Columns of a row: their names, values that are missing, chats, truths and options by kind."""

import json
import math

import numpy as np
import pytest

from gpg_vl.config.schema import Source
from gpg_vl.data.rows import RowFormat, renamed, sample_of
from gpg_vl.types import Turn
from tests.hand_made import png

ROW = {"question": "How many?", "answer_kind": "number", "answer": 3}
CHOICE = {"question": "Which?", "answer_kind": "choice"}
TURNS = [
    {"role": "system", "content": "Count."},
    {"role": "user", "content": "<image>How many cats?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "And dogs?"},
]
CONTEXT = (
    Turn("system", "Count."),
    Turn("user", "<image>How many cats?"),
    Turn("assistant", "2"),
)


def read(row, root=None, **knobs):
    source = Source(files="rows.jsonl", **knobs)
    row_format = RowFormat(
        image_root=root,
        answer_index=source.answer_index,
        box_format=source.box_format,
        decimal=source.decimal,
    )
    return sample_of(row, source, row_format=row_format, origin="row 1")


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ours", ["image", "images"])
@pytest.mark.parametrize("other", ["image", "images"])
@pytest.mark.parametrize("cell", [None, [], "", math.nan])
def test_a_named_column_of_pictures_wins_also_where_it_is_empty(ours, other, cell, tmp_path):
    """So no row of a set shows a picture of another column than the rest."""
    (tmp_path / "a.png").write_bytes(png((4, 3)))
    row = {**ROW, "photo": cell, other: "a.png"}
    assert read(row, tmp_path, columns={ours: "photo"}).images == ()
    row["photo"], row[other] = "a.png", "missing.png"
    assert read(row, tmp_path, columns={ours: "photo"}).sizes == ((4, 3),)


def test_a_named_column_wins_over_one_of_our_name():
    row = {**ROW, "truth": 5, "problem": "And now?"}
    sample = read(row, columns={"answer": "truth", "question": "problem"})
    assert (sample.question, sample.answer, sample.columns) == ("And now?", 5, {})
    swapped = {"question": 3, "answer": "How many?", "answer_kind": "number"}
    sample = read(swapped, columns={"question": "answer", "answer": "question"})
    assert (sample.question, sample.answer) == ("How many?", 3)
    with pytest.raises(ValueError, match=r"^column 'answer' is missing or empty"):
        read({**ROW, "truth": None}, columns={"answer": "truth"})


@pytest.mark.parametrize("empty", [None, "", " \n", math.nan])
def test_a_default_fills_a_cell_that_is_missing(empty):
    defaults = {"answer": 7, "solution": "Seven."}
    row = {**ROW, "answer": empty, "solution": empty}
    sample = read(row, defaults=defaults)
    assert (sample.answer, sample.solution) == (7, "Seven.")
    named = {**row, "truth": empty}
    assert read(named, columns={"answer": "truth"}, defaults=defaults).answer == 7
    without = {"question": "?", "answer_kind": "number"}
    assert read(without, columns={"answer": "truth"}, defaults=defaults).answer == 7


@pytest.mark.parametrize("full", [0, 0.0, "0", False, []])
def test_a_default_fills_no_other_cell(full):
    row = {**ROW, "answer_kind": "mine", "answer": full}
    assert read(row, defaults={"answer": 7}).answer == full


def test_dots_lead_into_a_columns_fields():
    row = {
        "data": {"q": "How many?", "truths": [3, 4]},
        "reward_model": '{"ground_truth": 3}',
        "a.b": "number",
        "a": {"b": "value"},
    }
    columns = {"question": "data.q", "answer": "reward_model.ground_truth", "answer_kind": "a.b"}
    sample = read(row, columns=columns)
    assert (sample.question, sample.answer, sample.answer_kind) == ("How many?", 3, "number")
    assert read(row, columns={**columns, "answer": "data.truths.-1"}).answer == 4
    with pytest.raises(ValueError, match=r"^columns: answer: the row has no column 'data\.truth'"):
        read(row, columns={**columns, "answer": "data.truth"})


def test_a_box_may_stand_in_four_columns(tmp_path):
    """As in the tables of Open Images, whose columns are XMin, XMax, YMin, YMax."""
    row = {"question": "Where?", "answer_kind": "boxes", "image": png((120, 80))}
    columns = {"answer": ("x1", "y1", "x2", "y2")}
    edges = {"x1": "10", "y1": 20.5, "x2": 30, "y2": 40}
    sample = read({**row, **edges}, tmp_path, columns=columns)
    assert (sample.answer, sample.columns) == ([[10, 20.5, 30, 40]], {})
    assert read({**row, **edges}, columns=columns, box_format="xywh").answer == [
        [10, 20.5, 40, 60.5]
    ]
    with pytest.raises(ValueError, match="None is no number"):
        read({**row, **edges, "x2": ""}, columns=columns)


def test_accepted_answers_may_stand_in_columns_of_their_own():
    row = {"question": "What?", "answer_kind": "label", "a1": "sofa", "a2": "couch", "a3": None}
    assert read(row, columns={"answer": ("a1", "a2", "a3")}).answer == ["sofa", "couch"]
    with pytest.raises(ValueError, match="a list without an answer"):
        read({**row, "a1": "", "a2": math.nan}, columns={"answer": ("a1", "a2", "a3")})


@pytest.mark.parametrize("name", ["frame", "answer_image"])
def test_a_column_that_is_called_as_ours_is_another_one_beside_no_box(name, tmp_path):
    for value in ("frame_0120.png", 120.5, [1, 2], {"number": 3}):
        sample = read({**ROW, name: value})
        assert (sample.frame, sample.answer_image) == ("pixels", 0)
        assert sample.columns == {name: value}
    assert read({**ROW, name: np.array([1, 2])}).frame == "pixels"
    boxed = {"question": "Where?", "answer_kind": "boxes", "answer": [0, 0, 9, 9]}
    with pytest.raises(ValueError, match=name):
        read({**boxed, name: [1, 2]})


def test_options_may_stand_in_columns_of_their_own():
    row = {**CHOICE, "answer": "C", "A": "cat", "B": None, "C": "dog", "D": ""}
    columns = {"choices": ("A", "B", "C", "D")}
    sample = read(row, columns=columns)
    assert (sample.choices, sample.letters, sample.answer) == (("cat", "dog"), ("A", "C"), "C")
    assert sample.columns == {}
    lacking = {**CHOICE, "answer": "B", "A": 1, "B": 2}
    assert read(lacking, columns=columns).choices == ("1", "2")


def test_a_row_of_null_ids_is_known_by_its_place():
    for empty in (None, "", math.nan):
        assert read({**ROW, "id": empty}).id == "row 1"
    assert read({**ROW, "id": 3.0}).id == "3"
    assert read({**ROW, "id": 0}).id == "0"
    assert read({**ROW, "id": 1}, columns={"id": "meta.key"}).id == "1"
    assert read({**ROW, "meta": {"key": "k"}}, columns={"id": "meta.key"}).id == "k"


def test_renaming_changes_no_row():
    row = {"problem": "?", "answer": None}
    renamed(row, Source(files="x", columns={"question": "problem"}, defaults={"answer": 3}))
    assert row == {"problem": "?", "answer": None}


# --- chats ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["messages", "prompt", "texts", "question"])
def test_a_chat_asks_its_last_turn(column, tmp_path):
    (tmp_path / "a.png").write_bytes(png((4, 3)))
    row = {"answer_kind": "number", "answer": 1, column: TURNS, "image": "a.png"}
    for chat in (TURNS, json.dumps(TURNS)):
        sample = read({**row, column: chat}, tmp_path)
        assert (sample.question, sample.context, sample.answer) == ("And dogs?", CONTEXT, 1)
        assert sample.sizes == ((4, 3),)
        assert sample.columns == {}, "it is used, so no verifier looks for it among the others"


def test_the_last_turn_of_a_chat_is_the_truth_of_a_row_without_one():
    chat = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "<answer>3</answer>"}]
    row = {"answer_kind": "number", "conversations": chat}
    sample = read(row)
    assert (sample.question, sample.context, sample.answer) == ("How many?", (), 3)
    assert read({**row, "answer": 4}).answer == 4
    assert read({**row, "answer": None}).answer == 3
    with pytest.raises(ValueError, match=r"^column 'answer' is missing or empty"):
        read({**row, "conversations": chat[:1]})


def test_names_of_objects_take_the_place_of_their_marks():
    """As ms-swift's grounding rows mean them."""
    turns = [
        {"role": "user", "content": "Is there a <ref-object>?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Find the <ref-object> and the <ref-object>."},
    ]
    row = {"messages": turns, "answer_kind": "number", "answer": 2}
    sample = read({**row, "objects": {"ref": ["cat", r"dog \1", "cow"], "bbox": []}})
    assert sample.question == r"Find the dog \1 and the cow."
    assert sample.context == (Turn("user", "Is there a cat?"), Turn("assistant", "Yes."))
    packed = {**ROW, "question": "A <ref-object>?", "objects": '{"ref": "cat"}'}
    assert read(packed).question == "A cat?"
    for objects in ({"ref": ["cat", "dog"]}, {"bbox": []}, ["cat"], None):
        with pytest.raises(ValueError, match=r"3 marks <ref-object>, but the row has [02] names"):
            read({**row, "objects": objects})
    assert read({**ROW, "objects": {"ref": ["cat"]}}).question == "How many?"
    boxed = {**ROW, "question": "What is at <bbox>?", "objects": {"bbox": [[1, 2, 3, 4]]}}
    with pytest.raises(ValueError, match=r"mark <bbox> of a box in objects\.bbox, which is not"):
        read(boxed)
    for changed in ({"objects": None}, {"question": "At <bbox>1, 2, 3, 4</bbox>?"}):
        assert read({**boxed, **changed}).question == {**boxed, **changed}["question"]


def test_a_system_message_may_stand_in_its_own_column():
    chat = [{"from": "human", "value": "How many?"}, {"from": "gpt", "value": "3"}]
    row = {"answer_kind": "number", "conversations": chat, "system": "Count well."}
    assert read(row).context == (Turn("system", "Count well."),)
    own = [{"from": "system", "value": "Count."}, *chat]
    assert read({**row, "conversations": own}).context == (Turn("system", "Count."),)
    for empty in (None, "", math.nan):
        assert read({**row, "system": empty}).context == ()
    assert read({**ROW, "system": "Count well."}).context == ()  # no chat


def test_turns_that_are_no_chat_are_told():
    row = {"answer_kind": "number", "answer": 1, "conversations": [["How many?", "1"]]}
    with pytest.raises(ValueError, match=r"^conversations is .* expected a list of turns"):
        read(row)


def test_an_answer_of_trl_is_a_turn():
    turn = [{"role": "assistant", "content": "3"}]
    assert read({**ROW, "completion": turn}, columns={"answer": "completion"}).answer == 3


def test_a_question_that_letters_the_options_otherwise_leaves_its_row_out():
    row = {"question": "Which?\nA. dog\nB. cat", "answer_kind": "choice", "answer": "A"}
    with pytest.raises(ValueError, match=r"^the question gives the letter A to 'dog'"):
        read({**row, "choices": ["cat", "dog"]})
    assert read({**row, "choices": ["dog", "cat"]}).answer == "A"


def test_a_question_that_pandas_wrote_for_an_empty_cell_is_missing():
    with pytest.raises(ValueError, match=r"^question is missing: got the text 'nan'"):
        read({**ROW, "question": "nan"})


def test_a_question_wins_over_a_chat_beside_it():
    sample = read({**ROW, "messages": TURNS, "prompt": "a text"})
    assert (sample.question, sample.context) == ("How many?", ())
    assert sample.columns == {"messages": TURNS, "prompt": "a text"}
    with pytest.raises(ValueError, match=r"^column 'question' is missing or empty"):
        read({"answer_kind": "number", "answer": 3, "prompt": "a text"})


def test_pictures_of_a_chat_stand_in_one_place(tmp_path):
    (tmp_path / "a.png").write_bytes(png((4, 3)))
    part = {"type": "image", "image": "a.png"}
    content = [{"type": "text", "text": "How many in"}, part, {"type": "text", "text": "?"}]
    row = {"answer_kind": "number", "answer": 3, "messages": [{"role": "user", "content": content}]}
    sample = read(row, tmp_path)
    assert (sample.question, sample.sizes) == ("How many in<image>?", ((4, 3),))
    with pytest.raises(
        ValueError, match=r"^the chat holds pictures, and the row beside it other ones"
    ):
        read({**row, "image": "b.png"}, tmp_path)
    assert len(read({**row, "image": "a.png"}, tmp_path).images) == 1, "the same picture"


def test_words_may_name_their_pictures(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png((4, 3)))
    row = {**ROW, "question": "Picture 1: <img>b.png</img> How many?"}  # Qwen-VL, ms-swift 1
    assert read(row, tmp_path).images == (tmp_path / "b.png",)
    assert read({**row, "image": "a.png"}, tmp_path).images == (tmp_path / "a.png",)
    turns = [
        {"from": "user", "value": "<img>a.png</img> How many?"},
        {"from": "assistant", "value": "2"},
        {"from": "user", "value": "And in <img>b.png</img>?"},
    ]
    chat = {"conversations": turns, "answer_kind": "number", "answer": 3}
    assert read(chat, tmp_path).images == (tmp_path / "a.png", tmp_path / "b.png")
    with pytest.raises(ValueError, match="leaves the data folder"):
        read({**row, "question": "<img>../x.png</img> How many?"}, tmp_path)


# --- truths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("2,5", "2.5"),
        ("-2,5", "-2.5"),
        ("1.234,5", "1234.5"),
        ("1.234", "1234"),
        ("12.345.678", "12345678"),
        ("12", "12"),
        ("2,50 m", "2.50 m"),
        (["2,5", "2,50"], ["2.5", "2.50"]),
        (2.5, 2.5),
        ("[0,5; 1,5)", "[0.5; 1.5)"),
    ],
    ids=str,
)
def test_a_decimal_comma_becomes_a_point(written, read_as):
    row = {**ROW, "answer_kind": "value", "answer": written}
    assert read(row, decimal=",").answer == read_as


@pytest.mark.parametrize(
    "written", ["2.5", "1,234,567", "1.23,4", "1,2,3", "1234.567", "12.05.2020"]
)
def test_what_is_no_number_with_a_decimal_comma_is_refused(written):
    with pytest.raises(ValueError, match="which is no number with a decimal comma"):
        read({**ROW, "answer_kind": "value", "answer": written}, decimal=",")


def test_a_comma_that_may_be_a_decimal_sign_is_refused():
    for written in ("2,5", "2,50", "-0,25", "3,1415"):
        with pytest.raises(
            ValueError, match="has a comma; if that is its decimal sign, set decimal"
        ):
            read({**ROW, "answer": written})
    assert read({**ROW, "answer": "1,234"}).answer == "1,234"  # a thousand
    assert read({**ROW, "answer_kind": "label", "answer": "2,5"}).answer == "2,5"


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy", [10, 20, 40, 60]),
        ("xywh", [10, 20, 30, 40]),
        ("cxcywh", [25, 40, 30, 40]),
        ("polygon", [10, 20, 40, 20, 40, 60]),
    ],
)
@pytest.mark.parametrize("kind", ["boxes", "detection"])
def test_boxes_are_read_in_the_declared_format(box_format, box, kind):
    row = {"question": "Where?", "answer_kind": kind, "answer": [box]}
    assert read(row, box_format=box_format).answer == [[10, 20, 40, 60]]


@pytest.mark.parametrize("cell", [2, "2", 2.0, " 2 "])
def test_the_picture_of_the_boxes_is_counted_from_one(cell):
    row = {"question": "Where?", "answer_kind": "boxes", "answer": [[1, 2, 3, 4]]}
    sizes = {"images": [png((40, 30)), png((50, 60))]}
    sample = read({**row, **sizes, "answer_image": cell})
    assert (sample.answer_image, sample.boxed_size) == (2, (50, 60))
    assert read({**row, **sizes, "answer_image": None}).answer_image == 0


@pytest.mark.parametrize("cell", [0, -1, 1.5, "first", True, [1]])
def test_a_number_of_no_picture_is_refused(cell):
    row = {"question": "Where?", "answer_kind": "boxes", "answer": [[1, 2, 3, 4]]}
    with pytest.raises(ValueError, match=r"^answer_image is .*, expected 1, 2\.\.\."):
        read({**row, "answer_image": cell})


def test_boxes_that_name_their_picture_must_agree_with_the_column():
    row = {"question": "Where?", "answer_kind": "boxes"}
    row["answer"] = [{"bbox": [1, 2, 3, 4], "image": 2}]
    assert read(row).answer_image == 2
    assert read({**row, "answer_image": 2}).answer_image == 2
    with pytest.raises(ValueError, match=r"^answer_image is 1, but the boxes name image 2"):
        read({**row, "answer_image": 1})


def test_a_truth_that_is_a_place_needs_to_be_declared():
    row = {**CHOICE, "choices": ["cat", "dog", "cow"], "answer": 1}
    assert read(row, answer_index=0).answer == "B"
    assert read(row, answer_index=1).answer == "A"
    with pytest.raises(ValueError, match="answer_index"):
        read(row)


def test_a_label_keeps_its_names_whole():
    names = ["E. coli", "S. aureus", "B. subtilis"]
    row = {"question": "Which?", "answer_kind": "label", "choices": names, "answer": "E. coli"}
    sample = read(row)
    assert (sample.choices, sample.letters, sample.answer) == (tuple(names), (), "E. coli")
    lettered = {**CHOICE, "choices": ["B. dog", "A. cat"], "answer": "A"}
    sample = read(lettered)
    assert (sample.choices, sample.letters) == (("dog", "cat"), ("B", "A"))


# --- hostile --------------------------------------------------------------------------------------

HOSTILE = (
    *(None, True, False, 0, -1, 10**400, 0.5, math.nan, math.inf, -math.inf, 1e308),
    *("", " ", "\0", "\ud800", "x" * 10_000, "a" * 300 + ".png", "{", "[", "[[[[", "{}", "[]"),
    *("[{", "{'a'", "a/" * 3000, "http://[", "data:", "data:,", "file://", "\\\\x", "../" * 99),
    *('[{"role": "user"}]', '[{"role": 3, "content": 4}]', "NaN", "Infinity", "1e999", "9" * 5000),
    *([], [None], [[]], [[[[]]]], {}, {"": None}, {"a": {"b": {}}}, [{}], [{"role": "user"}]),
    *(b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", bytearray(b"x"), {"bytes": 3}, {"path": []}),
    *([1, "a", None], [[1, 2], [3]], [math.nan], [math.inf] * 4, [[math.inf] * 2], [10**400] * 4),
    *({"role": ["user"], "content": [None]}, {"from": [3], "value": [4]}, set(), object()),
)


@pytest.mark.parametrize(
    "kind", ["number", "value", "expression", "label", "choice", "boxes", "mine"]
)
@pytest.mark.parametrize("place", range(len(HOSTILE)))
def test_no_cell_ends_the_reading(kind, place, tmp_path):
    """Each is read, or refused by a sentence that its caller leaves the row out with."""
    whole = {
        "question": "?",
        "answer_kind": kind,
        "answer": "A",
        "choices": ["A", "B"],
        "image": png((2, 2)),
    }
    columns = ("id", "question", "answer_kind", "answer", "choices", "frame", "image", "images")
    more = ("answer_image", "solution", "tags", "sizes", "system", "conversations")
    cell = HOSTILE[place]
    for name in (*columns, *more):
        row = {**whole, name: cell}
        if name == "conversations":
            del row["question"]
        for decimal in ".,":
            assert 0 < len(outcome(row, tmp_path, decimal)) < 2000


def outcome(row, folder, decimal):
    """Return the reason why a row is refused, or the id of its sample."""
    try:
        sample = read(row, folder, decimal=decimal)
    except ValueError as error:
        return str(error)
    assert sample.question.strip()
    return sample.id[:100]
