import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.data.recognise.propose import Recognised, recognise
from gpg_vl.errors import UserError
from tests.public_formats import FORMATS, check_samples, samples_and_reasons
from tests.published import picture, written

NAMES = {
    "Data": "rows.jsonl",
    "LLaVA conversations": "llava.json",
    "VLM-R1 lines": "clevr.jsonl",
    "ShareGPT of LLaMA-Factory": "mllm.json",
    "Alpaca of LLaMA-Factory": "alpaca.json",
    "OpenAI messages": "messages.jsonl",
    "TRL prompts": "trl.parquet",
    "verl": "train.parquet",
    "EasyR1": "geometry3k.parquet",
    "R1-V": "clevr.parquet",
    "Visual-RFT classification": "flowers.parquet",
    "ms-swift": "swift.jsonl",
    "ms-swift grounding": "grounding.jsonl",
    "MMMU": "mmmu.parquet",
    "ScienceQA": "scienceqa.parquet",
    "A-OKVQA": "aokvqa.parquet",
    "ChartQA": "train_human.json",
    "DocVQA and TextVQA": "docvqa.parquet",
    "VQAv2": "vqav2.parquet",
    "RefCOCO of lmms-lab": "refcoco.parquet",
    "VLMEvalKit TSV": "MMBench.tsv",
    "Excel": "excel.csv",
    "pandas": "table.parquet",
    "A folder with metadata": "pictures",
    "save_to_disk": "saved",
    "Shards": "data/train-*.parquet",
}
"""What a user would name for each public format; one row or two prove less than a real file."""


@pytest.mark.parametrize("heading", NAMES)
def test_what_is_proposed_reads_a_public_format(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = FORMATS[heading]
    made.make(tmp_path)
    recognised = recognise(NAMES[heading], Path())
    samples, _ = samples_and_reasons([recognised.source], Path())
    check_samples(samples, made.expected)


def recognised(tmp_path: Path, rows: Sequence[dict[str, Any]], **given: Any) -> Recognised:
    """What is recognised in some rows with a picture of 80 x 60."""
    picture(tmp_path / "a.png", size=(80, 60))
    with_picture = [{"image": "a.png", "question": "Which?", **row} for row in rows]
    written(tmp_path / "rows.jsonl", with_picture)
    return recognise("rows.jsonl", tmp_path, given)


def proposed(found: Recognised) -> dict[str, Any]:
    """The keys of the source beside the file."""
    keys = found.source.model_dump(exclude_defaults=True)
    del keys["files"]
    return keys


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        (["3", "4", 5], "number"),
        (["<think>so</think><answer> 3 </answer>", "\\boxed{4}", "$5$"], "number"),
        (["2\\sqrt{3}", "50 cm", "\\frac{1}{2}"], "value"),
        (["[1, 2)", "x^2 + 1", "\\{1, 2\\}"], "expression"),
        (["cat", "dog", "cat"], "label"),
        ([["net", "netting"], ["cat"]], "label"),
        ([[10, 5, 40, 30], [1, 2, 79, 59]], "boxes"),
        (["[[10, 5, 40, 30]]", "[[1, 2, 79, 59]]"], "boxes"),
    ],
)
def test_the_kind_comes_from_the_answers(answers, kind, tmp_path):
    found = recognised(tmp_path, [{"answer": answer} for answer in answers])
    assert found.source.defaults == {"answer_kind": kind}


def test_a_row_that_names_its_kind_needs_no_default(tmp_path):
    found = recognised(tmp_path, [{"answer": "3", "answer_kind": "number"}])
    assert found.source.defaults == {}
    assert found.layout == "rows of gpg_vl's own format"


CHOICES = ["cat", "dog", "cow"]


@pytest.mark.parametrize(
    ("answers", "index"),
    [
        ([0, 2], 0),  # 0 is no number of an option counted from 1
        ([1, 3], 1),  # 3 is no place of three options counted from 0
        (["0", "1"], 0),
        ([2.0, 3.0], 1),
        (["A", "C"], None),
        (["cat", "cow"], None),
    ],
)
def test_a_place_of_an_option_is_proved_by_its_smallest_or_largest(answers, index, tmp_path):
    rows = [{"answer": answer, "choices": CHOICES} for answer in answers]
    found = recognised(tmp_path, rows)
    assert found.source.answer_index == index
    assert found.source.defaults == {"answer_kind": "choice"}
    assert not found.questions


@pytest.mark.parametrize("answers", [[1, 2], [1, 1]])
def test_a_place_that_both_ways_would_fit_is_asked(answers, tmp_path):
    found = recognised(tmp_path, [{"answer": answer, "choices": CHOICES} for answer in answers])
    assert found.source.answer_index is None
    (question,) = found.questions
    assert "if 1 is the first option: answer_index=1, if 0 is: answer_index=0" in question


def test_numbers_that_fit_neither_way_are_no_places(tmp_path):
    found = recognised(tmp_path, [{"answer": answer, "choices": CHOICES} for answer in (0, 3)])
    assert found.source.answer_index is None
    assert "no places of options" in found.questions[0]


def test_a_number_that_is_the_words_of_an_option_proves_nothing(tmp_path):
    rows = [{"answer": 3, "choices": ["1", "2", "3"]}]
    assert proposed(recognised(tmp_path, rows)) == {"defaults": {"answer_kind": "choice"}}


def test_a_number_that_may_be_the_place_of_another_option_is_asked(tmp_path):
    rows = [{"answer": "2", "choices": ["1", "2", "3"]}]
    found = recognised(tmp_path, rows)
    assert found.source.answer_index is None
    assert "if they are places of options" in found.questions[0]


def test_only_rows_with_options_prove_places(tmp_path):
    rows = [{"answer": "3", "choices": ["1", "3"]}, {"answer": "0", "choices": None}]
    assert recognised(tmp_path, rows).source.answer_index is None
    # of three places the second is empty: 2 is the third, counted from 0
    rows = [{"answer": place, "choices": ["cat", None, "dog"]} for place in (0, 2)]
    assert recognised(tmp_path, rows).source.answer_index == 0


def test_chats_with_several_questions_are_told(tmp_path):
    pair = {"user": "Which?", "assistant": "cat"}
    found = recognised(tmp_path, [{"question": None, "texts": [pair, pair]}])
    assert found.layout == "The Cauldron rows: pairs of user and assistant"
    assert "1 of 1 chats have several questions" in found.questions[0]


def test_an_answer_may_be_a_turn_of_the_assistant(tmp_path):
    turn = [{"role": "assistant", "content": "3"}]
    found = recognised(tmp_path, [{"completion": turn}])
    assert found.source.columns == {"answer": "completion"}
    assert found.source.defaults == {"answer_kind": "number"}


def test_options_in_columns_of_their_own(tmp_path):
    row = {"answer": "B", "option_a": "cat", "option_b": "dog", "option_c": None}
    found = recognised(tmp_path, [row])
    assert found.source.columns == {"choices": ("option_a", "option_b", "option_c")}


def test_rows_without_options_beside_rows_with_them_are_told(tmp_path):
    rows = [{"answer": "A", "choices": CHOICES}] * 3 + [{"answer": "4", "choices": None}]
    found = recognised(tmp_path, rows)
    assert found.questions == (
        "1 of 4 rows have no options and are left out; a column answer_kind in the rows says the "
        "kind of each, or a second source of the same file with another answer_kind can read them",
    )


@pytest.mark.parametrize(
    ("boxes", "box_format", "frame"),
    [
        ([[8, 6, 40, 30], [0, 0, 80, 60]], "xyxy", None),
        ([[40, 30, 20, 15], [0, 0, 80, 60]], "xywh", None),  # 20 is left of 40
        ([[0.1, 0.1, 0.5, 0.5], [0.5, 0.5, 0.9, 1.0]], "xyxy", "norm1"),
        ([[0.75, 0.75, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]], "cxcywh", "norm1"),
        ([[100, 100, 500, 500], [0, 0, 1000, 1000]], "xyxy", "norm1000"),  # of 80 x 60 pixels
        ([[8, 6, 40, 6, 40, 30, 8, 30], [0, 0, 80, 0, 80, 60]], "polygon", None),
    ],
)
def test_the_numbers_of_boxes_tell_their_format_and_frame(boxes, box_format, frame, tmp_path):
    rows = [{"answer": box} for box in boxes] * 20
    found = recognised(tmp_path, rows)
    assert found.source.box_format == box_format
    assert found.source.defaults.get("frame") == frame
    assert not found.questions


def test_a_few_boxes_that_fit_two_ways_are_asked(tmp_path):
    found = recognised(tmp_path, [{"answer": [8, 6, 32, 24]}])
    assert found.source.box_format == "xyxy"
    assert "too few to prove it (xywh in pixels would fit, too)" in found.questions[0]


def test_boxes_that_fit_no_way_are_asked(tmp_path):
    found = recognised(tmp_path, [{"answer": [8, 6, 4000, 3000]}] * 20)
    assert "do not lie inside their pictures" in found.questions[0]


def test_numbers_that_may_be_thousandths_of_a_large_picture_are_asked(tmp_path):
    picture(tmp_path / "large.png", size=(2000, 1500))
    rows = [{"image": "large.png", "answer": [80, 60, 999, 900]}] * 20
    found = recognised(tmp_path, rows)
    assert (
        "if the numbers are thousandths of the picture: defaults.frame=norm1000"
        in (found.questions[0])
    )


@pytest.mark.parametrize("place", ["pictures", "data/train2017", "../pictures"])
def test_the_folder_of_the_pictures_is_found(place, tmp_path, monkeypatch):
    work = tmp_path / "work"
    picture(work / place / "deep" / "b.png")
    written(work / "rows.jsonl", [{"img_path": "deep/b.png", "question": "?", "answer": 3}])
    monkeypatch.chdir(work)
    found = recognise("rows.jsonl", Path())
    assert proposed(found) == {
        "columns": {"images": "img_path"},
        "defaults": {"answer_kind": "number"},
        "image_root": place,
    }


def test_pictures_that_are_nowhere_are_asked_for(tmp_path):
    found = recognised(tmp_path, [{"image": "lost/b.png", "answer": 3}])
    assert found.source.image_root is None
    assert "name the folder that their paths start at: image_root=FOLDER" in found.questions[0]


def test_hosts_are_asked_for_and_never_proposed(tmp_path):
    found = recognised(tmp_path, [{"image": "https://images.example.org/1.png", "answer": 3}])
    assert found.source.image_hosts == ()
    assert "image_hosts=[images.example.org]" in found.questions[0]


def test_a_column_that_is_called_as_a_picture_but_holds_none_is_told(tmp_path):
    written(tmp_path / "rows.jsonl", [{"image_id": 17, "question": "?", "answer": 3}])
    found = recognise("rows.jsonl", tmp_path)
    assert "column 'image_id' is called as one with pictures, but holds 17" in found.questions[0]


def test_rows_without_a_question_are_asked_one(tmp_path):
    picture(tmp_path / "a.png")
    written(tmp_path / "rows.jsonl", [{"file_name": "a.png", "label": "rose"}] * 2)
    found = recognise("rows.jsonl", tmp_path)
    assert found.layout == "pictures with the name of a class each"
    assert proposed(found) == {
        "columns": {"answer": "label", "images": "file_name"},
        "defaults": {"question": "What is in the picture?", "answer_kind": "label"},
    }
    assert "no column holds a question" in found.questions[0]


def test_rows_without_an_answer_are_told(tmp_path):
    found = recognised(tmp_path, [{"score": True}])
    assert "no column looks like the true answer; name it: columns.answer=NAME" in found.questions


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["3", "4", "cat", "dog"], "2 of 4 answers are numbers and the others are words"),
        (["3", "4", "cat", "dog"], "add a column answer_kind to the rows"),
        (["3", "4", "cat", "dog"], "with number or label in each; or make a file for each kind"),
        (["3", "4", "A", "C"], "number, label or choice in each, and a column choices with the"),
        (["A", "B", "A"], "the answers are letters, but no column holds the options"),
        (["It is a large red bus on a road in town."], "the answers are sentences"),
        (["1,234", "2,500"], "is read as that of thousands"),
        ([*["3"] * 9, "many"], "1 of 10 answers are no numbers; their rows are left out"),
    ],
)
def test_answers_that_no_kind_fits_well_are_told(answers, words, tmp_path):
    found = recognised(tmp_path, [{"answer": answer} for answer in answers])
    assert words in found.questions[0]


def test_a_box_in_four_columns_is_found(tmp_path):
    rows = [{"XMin": 0.1, "XMax": 0.5, "YMin": 0.2, "YMax": 0.9}] * 2
    source = recognised(tmp_path, rows).source
    assert source.columns == {"answer": ("XMin", "YMin", "XMax", "YMax")}
    assert source.defaults == {"answer_kind": "boxes", "frame": "norm1"}
    samples, reasons = samples_and_reasons([source], tmp_path)
    assert reasons == []
    assert samples[0].answer == [[0.1, 0.2, 0.5, 0.9]]
    words = [{"left": "cat", "top": "dog", "right": "cow", "bottom": "hen", "answer": 3}]
    assert recognised(tmp_path, words).source.columns == {}


def test_what_the_user_settles_is_not_changed(tmp_path):
    rows = [{"answer": 1, "gold": "cat", "choices": CHOICES}]
    found = recognised(
        tmp_path, rows, columns={"answer": "gold"}, defaults={"answer_kind": "label"}, weight=3
    )
    assert found.source.columns == {"answer": "gold"}
    assert found.source.defaults == {"answer_kind": "label"}
    assert found.source.weight == 3


def test_columns_that_nothing_uses_are_named(tmp_path):
    rows = [{"answer": 3, "split": "train", "meta": {"author": "x"}, "empty": None, "none": []}]
    assert recognised(tmp_path, rows).unused == ("split", "meta")


def test_an_id_is_taken_only_where_all_differ(tmp_path):
    rows = [{"answer": 3, "question_id": number} for number in (7, 8)]
    assert recognised(tmp_path, rows).source.columns == {"id": "question_id"}
    rows = [{"answer": 3, "question_id": 7}] * 2
    assert recognised(tmp_path, rows).source.columns == {}


def test_a_broken_row_does_not_hinder(tmp_path):
    good = json.dumps({"question": "?", "answer": 3})
    (tmp_path / "rows.jsonl").write_text(f"{{broken\n{good}\n")
    assert recognise("rows.jsonl", tmp_path).looked_at == 1


def test_rows_that_are_all_broken_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=r"rows\.jsonl: no row can be read: line 1: not JSON"):
        recognise("rows.jsonl", tmp_path)


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    written(tmp_path / "rows.jsonl", [{"question": "?", "answer": 3}])
    with pytest.raises(UserError, match=r"did you mean rows\.jsonl\?"):
        recognise("row.jsonl", tmp_path)


def test_a_folder_of_splits_is_read_as_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FORMATS["Shards"].make(tmp_path)
    assert recognise("data", Path()).source.hub == "data"
    assert recognise("data", Path(), {"split": "test"}).source.split == "test"


def test_a_file_of_coco_says_that_it_has_several_tables(tmp_path):
    content = {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}
    written(tmp_path / "instances.json", content)
    words = "several lists of rows: images, annotations; .*; a file of COCO is read by recipe: coco"
    with pytest.raises(UserError, match=words):
        recognise("instances.json", tmp_path)


def test_a_picture_of_the_same_name_in_several_folders_is_asked_for(tmp_path, monkeypatch):
    for number in ("1", "2"):  # as ScienceQA has them: the folder is the id of the row
        picture(tmp_path / "train" / number / "image.png")
    written(tmp_path / "rows.jsonl", [{"image": "image.png", "question": "?", "answer": 3}] * 2)
    monkeypatch.chdir(tmp_path)
    found = recognise("rows.jsonl", Path())
    assert found.source.image_root is None
    assert "are in several folders, train/1 and train/2;" in found.questions[0]


def test_the_decoded_picture_wins_over_the_path_it_had(tmp_path):
    rows = [{"image": "images/1.jpg", "decoded_image": "a.png", "answer": 3}]
    assert recognised(tmp_path, rows).source.columns == {"images": "decoded_image"}


@pytest.mark.parametrize("column", ["message", "input", "contents", "body.messages"])
def test_a_chat_asks_under_any_name(column, tmp_path):
    chat: Any = [{"role": "user", "content": "How many?"}]
    for name in reversed(column.split(".")):
        chat = {name: chat}
    written(tmp_path / "rows.jsonl", [{**chat, "answer": 3}])
    found = recognise("rows.jsonl", tmp_path)
    assert found.source.columns == {"question": column}
    (sample,), _ = samples_and_reasons([found.source], tmp_path)
    assert (sample.question, sample.answer) == ("How many?", 3)


def test_a_question_in_words_is_asked_also_beside_a_chat(tmp_path):
    chat = [{"role": "user", "content": "Other?"}, {"role": "assistant", "content": "4"}]
    found = recognised(tmp_path, [{"trace": chat, "answer": 3}])
    assert found.source.columns == {}


def test_pictures_that_the_words_name_are_pictures(tmp_path):
    picture(tmp_path / "a.png")
    written(tmp_path / "rows.jsonl", [{"query": "<img>a.png</img> How many?", "response": "3"}])
    found = recognise("rows.jsonl", tmp_path)
    assert found.questions == ()
    (sample,), _ = samples_and_reasons([found.source], tmp_path)
    assert sample.images == (tmp_path / "a.png",)


def test_rows_with_several_boxes_are_a_detection(tmp_path):
    boxes = [[10, 5, 40, 30], [1, 2, 79, 59]]
    found = recognised(tmp_path, [{"answer": boxes}] * 2 + [{"answer": boxes[:1]}])
    assert found.source.defaults["answer_kind"] == "detection"
    found = recognised(tmp_path, [{"answer": boxes}] + [{"answer": boxes[:1]}] * 2)
    assert found.source.defaults["answer_kind"] == "boxes"


def test_headers_may_be_spelt_as_people_do(tmp_path):
    rows = [{"Option A": "cat", "Option B": "dog", "Correct Answer": "B", "answer": None}]
    found = recognised(tmp_path, rows)
    assert found.source.columns["choices"] == ("Option A", "Option B")
    assert found.source.columns["answer"] == "Correct Answer"


def test_columns_may_be_fields_of_one_column(tmp_path):
    picture(tmp_path / "a.png")
    rows = [{"png": "a.png", "json": {"question": "How many?", "answer": 3}}]  # WebDataset
    written(tmp_path / "rows.jsonl", rows)
    columns = recognise("rows.jsonl", tmp_path).source.columns
    assert columns == {"question": "json.question", "answer": "json.answer", "images": "png"}


def test_vague_names_inside_another_column_are_no_true_answer(tmp_path):
    rows = [{"question": "Is it?", "found": "yes", "metadata": {"category": "animals"}}]
    found = recognised(tmp_path, rows)
    assert found.source.columns == {}
    assert "no column looks like the true answer" in found.questions[0]


def test_missing_shards_are_told(tmp_path):
    for number in (0, 2):
        written(tmp_path / f"train-0000{number}-of-00003.jsonl", [{"question": "?", "answer": 3}])
    found = recognise("train-*.jsonl", tmp_path)
    assert found.questions[0].startswith("2 of the 3 files train-* are here")


def test_answers_beside_the_correct_one_are_the_options(tmp_path):
    row = {"answers": ["yes, it is", "no"], "correct_answer": "no"}  # SAT
    found = recognised(tmp_path, [row])
    assert found.source.columns == {"answer": "correct_answer", "choices": "answers"}
    assert found.source.defaults == {"answer_kind": "choice"}
    assert "if every one of them is right: columns.answer=answers" in found.questions[0]
    repeated = {"answers": ["net", "net", "netting"], "correct_answer": "net"}
    assert recognised(tmp_path, [repeated]).source.defaults == {"answer_kind": "label"}


def test_options_in_one_text_of_a_column_option(tmp_path):
    rows = [{"answer": "B", "option": "A. 1; B. 2; C. No correct answer"}]  # We-Math
    assert recognised(tmp_path, rows).source.columns == {"choices": "option"}


def test_a_box_may_be_a_record(tmp_path):
    rows = [{"bbox": {"x1": 8, "y1": 6, "x2": 40, "y2": 30}, "meta": {"x1": 1}}] * 20
    source = recognised(tmp_path, rows).source
    assert source.columns == {"answer": "bbox"}
    assert source.defaults == {"answer_kind": "boxes"}


@pytest.mark.parametrize("name", ["img_filename", "filepath", "scan"])
def test_a_column_of_pictures_is_found_by_its_name_or_its_cells(name, tmp_path):
    picture(tmp_path / "a.png")
    rows = [{name: "a.png", "link": "https://example.org/a.png", "question": "?", "answer": 3}]
    written(tmp_path / "rows.jsonl", rows)
    assert recognise("rows.jsonl", tmp_path).source.columns == {"images": name}


def test_several_columns_that_may_hold_the_pictures_are_asked(tmp_path):
    rows = [{"left_image": "a.png", "right_image": "b.png", "question": "?", "answer": 3}]  # NLVR2
    written(tmp_path / "rows.jsonl", rows)
    found = recognise("rows.jsonl", tmp_path)
    assert found.source.columns == {}
    assert "pictures may be in 'left_image', 'right_image'" in found.questions[0]
    written(tmp_path / "rows.jsonl", [{"image_0": "a.png", "image_1": "b.png", "question": "?"}])
    found = recognise("rows.jsonl", tmp_path)
    assert found.source.columns == {"images": ("image_0", "image_1")}


def test_pictures_may_start_above_the_folder_of_the_rows(tmp_path, monkeypatch):
    picture(tmp_path / "train2014" / "1.png")
    row = {"image": "train2014/1.png", "question": "?", "answer": 3}
    written(tmp_path / "jsons" / "train.jsonl", [row])
    monkeypatch.chdir(tmp_path)
    assert recognise("jsons/train.jsonl", Path()).source.image_root == "."


def test_pictures_of_another_set_beside_are_not_compared(tmp_path, monkeypatch):
    for folder in ("mine/pictures", "others"):
        picture(tmp_path / folder / "1.png")
    written(tmp_path / "mine" / "rows.jsonl", [{"image": "1.png", "question": "?", "answer": 3}])
    monkeypatch.chdir(tmp_path / "mine")
    found = recognise("rows.jsonl", Path())
    assert (found.source.image_root, found.questions) == ("pictures", ())


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": None, "caption": "A bed.", "answer": "yes"}, "taken from column 'caption'"),
        ({"category": "biology"}, "taken from column 'category', which may be the subject"),
        ({"answer": "(482, 512)"}, "if they are points in the picture"),
        ({"elements": [{"text": "OK", "box": [1, 2, 3, 4]}]}, "each cell of 'elements' is a list"),
    ],
)
def test_what_may_mean_something_else_is_asked(row, words, tmp_path):
    assert words in recognised(tmp_path, [row]).questions[0]


def test_zero_and_one_may_stand_for_words(tmp_path):
    rows = [{"answer": answer} for answer in (0, 1, 1)]
    assert "if they stand for no and yes" in recognised(tmp_path, rows).questions[0]
    assert recognised(tmp_path, [*rows, {"answer": 2}]).questions == ()


def test_markup_is_no_inequality(tmp_path):
    found = recognised(tmp_path, [{"answer": "<step> Look. </step> <step> A cat. </step>"}])
    assert found.source.defaults == {"answer_kind": "label"}
