"""The table of sample answers: short, readable whatever the texts hold, pictures only if asked."""

import html
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gpg_vl.report.answer_table import CHARACTERS, answer_table, as_markdown

HOSTILE = "a | b\n![x](http://x/y.png) <script>alert(1)</script> `c` **d** \x00 \ud800 \x1b[1m"


def answer(text: str = "7", **given: Any) -> dict[str, Any]:
    """Make an answer as a row of `rollouts/` has it."""
    return {"text": text, "answer": "7", "reward": 1.0, "reason": "right", **given}


def group(*answers: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Make a row of `rollouts/`."""
    row = {"source": "digits", "tags": {"task": "add"}, "question": "3+4?", "truth": 7}
    return {**row, "images": [], "answers": list(answers), **given}


def drawn(path: Path, size: tuple[int, int]) -> dict[str, Any]:
    """Draw a picture; return it as a row of `rollouts/` names one that is not kept."""
    Image.new("RGB", size, "red").save(path)
    return {"file": None, "original": str(path)}


def test_every_answer_is_a_row_beside_its_question():
    table = answer_table(50, [group(answer(), answer("6", answer="6", reward=0.0, reason="wrong"))])
    asked = [50, "add", "3+4?", "7"]
    assert table.columns == [
        *("step", "task", "question", "truth", "answer", "read", "reward", "reason"),
    ]
    assert table.rows == [[*asked, "7", "7", 1.0, "right"], [*asked, "6", "6", 0.0, "wrong"]]


def test_weights_are_a_column_where_there_are_some():
    carried = group(answer())  # sampled, not used in this step
    table = answer_table(50, [group(answer(weight=-0.5), answer(weight=None)), carried])
    assert table.columns[-1] == "weight"
    assert [row[-1] for row in table.rows] == [-0.5, None, None]


def test_a_question_without_a_task_is_told_by_its_source_and_a_list_is_json():
    (row,) = answer_table(1, [group(answer(), tags={}, truth=[[1, 2, 3, 4]])]).rows
    assert (row[1], row[3]) == ("digits", "[[1, 2, 3, 4]]")


def test_an_answer_without_a_reward_has_an_empty_cell():
    (row,) = answer_table(1, [group(answer(reward=None, reason="fault: x"))]).rows
    assert row[-2:] == [None, "fault: x"]


def test_a_long_text_is_cut():
    table = answer_table(1, [group(answer("y" * 100_000), answer("y" * CHARACTERS))])
    assert [row[4] for row in table.rows] == ["y" * (CHARACTERS - 1) + "…", "y" * CHARACTERS]
    (row,) = answer_table(1, [group(answer("\x00" * CHARACTERS))]).rows
    assert len(str(row[4])) == CHARACTERS, "what is written out counts"


def test_what_no_tracker_can_store_is_written_out():
    (row,) = answer_table(1, [group(answer(HOSTILE, answer="\ud800"), truth=["\ud800"])]).rows
    text = str(row[4])
    assert text.endswith("\\x00 \\ud800 \\x1b[1m")
    assert text.startswith("a | b\n![x]"), "a table is no markup"
    assert (row[3], row[5]) == ('["\\ud800"]', "\\ud800")
    assert json.loads(json.dumps(row, ensure_ascii=False).encode()) == row


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")
def test_markdown_shows_every_text_as_it_is():
    """As TensorBoard makes it, whose table and line breaks are the only markup."""
    table = answer_table(1, [group(answer(HOSTILE, reason="# x"), question="| --- |\n\n- y")])
    library: Any = import_module("tensorboard.plugin_util")
    page = library.markdown_to_safe_html(as_markdown(table.columns, table.rows))
    assert page.count("<tr>") == 2
    assert page.count("<td>") == len(table.columns)
    for tag in ("<img", "<script", "<code", "<strong", "<h1", "<li", "<a "):
        assert tag not in page
    read = html.unescape(page)
    assert "a | b<br>![x](http://x/y.png) <script>alert(1)</script> `c` **d** \\x00" in read
    assert "<td>| --- |<br><br>- y</td>" in read


def test_a_tracker_of_texts_gets_lines_that_a_spreadsheet_reads():
    table = answer_table(1, [group(answer('say "7", then\nstop'))])
    first, second = table.as_csv().split("\n", 1)
    assert first == "step,task,question,truth,answer,read,reward,reason"
    assert second == '1,add,3+4?,7,"say ""7"", then\nstop",7,1.0,right\n'


def test_pictures_are_small_and_made_once_for_each_question(tmp_path):
    Image.new("RGB", (900, 300), "red").save(tmp_path / "kept.png")
    kept = {"file": "kept.png", "original": "/nowhere.png"}
    small = drawn(tmp_path / "small.png", (30, 40))
    groups = [
        group(answer()),
        group(answer(), answer(), images=[kept, small]),
        group(answer(), images=[small]),
        group(answer(), images=[{"file": None, "original": str(tmp_path / "gone.png")}]),
        group(answer(), images=[{"file": None}]),
    ]
    shown: list[Image.Image] = []
    columns, rows = answer_table(1, groups, pictures_of=tmp_path).with_pictures(
        lambda picture: shown.append(picture) or f"picture {len(shown)}"
    )
    assert columns[-1] == "picture"
    assert [row[-1] for row in rows] == [None, "picture 1", "picture 1", "picture 2", None, None]
    assert [picture.size for picture in shown] == [(320, 107), (30, 40)]


def test_no_picture_is_opened_unless_it_is_asked_for(tmp_path, monkeypatch):
    found = drawn(tmp_path / "x.png", (30, 40))
    monkeypatch.setattr("gpg_vl.report.answer_table.open_picture", None)
    table = answer_table(1, [group(answer(), images=[found])])
    columns, rows = table.with_pictures(lambda picture: picture)
    assert "picture" not in columns
    assert len(rows[0]) == len(columns)
    assert str(tmp_path) not in table.as_csv()
