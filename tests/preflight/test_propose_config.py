"""`gpg-vl data FILE`: what rows are, what of them can be used, and a config that reads them."""

import json
from pathlib import Path

import pytest
import yaml

from gpg_vl.config.loading import load
from gpg_vl.preflight.propose_config import names_rows
from tests.commands import gpg_vl
from tests.published import picture, written

COLUMNS = 80


def output(*arguments: object) -> str:
    done = gpg_vl("data", *arguments, cwd=Path())
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*arguments: object) -> str:
    done = gpg_vl("data", *arguments, cwd=Path())
    assert done.returncode == 2, done.stdout
    return done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with ten counting rows, one of them without its picture."""
    home = tmp_path / "home"  # pictures are also looked for beside it, where other tests have some
    home.mkdir()
    monkeypatch.chdir(home)
    rows: list[dict[str, object]] = []
    for number in range(10):
        picture(Path("pictures") / f"{number}.png", size=(80, 60))
        rows.append(
            {
                "id": f"q{number}",
                "photo": f"{number}.png",
                "problem": f"How many squares are in picture {number}?",
                "solution": f"<answer> {number} </answer>",
                "author": "me",
            }
        )
    Path("pictures/7.png").unlink()
    written(Path("rows.jsonl"), rows)
    return home


def test_rows_are_told_in_eighty_columns(folder):
    printed = output("rows.jsonl")
    assert printed.startswith(
        "recognised: R1-V and Visual-RFT rows: problem and solution (rows.jsonl)\n"
        "tried:      9 of the first 10 rows earn the full reward with their own answer\n"
        "            (number with picture 9)\n"
        "left out:   1\n"
        "  1 like q7: image "
    )
    assert "not used:   author\n" in printed
    assert (
        "\nsample q0\n"
        "  question  How many squares are in picture 0?\n"
        "  answer    0 (number)\n"
        "  pictures  80 x 60\n"
    ) in printed
    assert printed.count("\nsample ") == 3
    assert max(map(len, printed.split("lines of a config")[0].splitlines())) <= COLUMNS


def test_the_config_that_is_written_reads_the_rows(folder):
    printed = output("rows.jsonl", "--to", "mine.yaml")
    assert f"written:    {folder}/mine.yaml\n" in printed
    assert f"next:       gpg-vl audit {folder}/mine.yaml\n" in printed
    text = Path("mine.yaml").read_text()
    assert text.startswith("# A tiny model answers rows.jsonl: number with picture 9.\n")
    assert yaml.safe_load(text)["data"] == [
        {
            "files": "rows.jsonl",
            "columns": {"question": "problem", "answer": "solution", "images": "photo"},
            "defaults": {"answer_kind": "number"},
            "image_root": "pictures",
        }
    ]
    (source,) = load("mine.yaml").data
    assert source.defaults == {"answer_kind": "number"}
    audited = gpg_vl("audit", "mine.yaml", cwd=Path())
    assert audited.returncode == 0, audited.stdout
    assert "reference answers: 9 rows earn the full reward" in audited.stdout
    assert "exists already; choose another name" in refusal("rows.jsonl", "--to", "mine.yaml")


def test_paths_in_a_config_elsewhere_lead_to_the_rows(folder, monkeypatch):
    Path("configs").mkdir()
    output("rows.jsonl", "--to", "configs/mine.yaml")
    (source,) = yaml.safe_load(Path("configs/mine.yaml").read_text())["data"]
    assert source["files"] == "../rows.jsonl"
    assert source["image_root"] == "../pictures"
    monkeypatch.chdir("/")
    audited = gpg_vl("audit", folder / "configs/mine.yaml", cwd=Path())
    assert "reference answers: 9 rows earn the full reward" in audited.stdout


def test_keys_of_the_source_are_settled_on_the_command_line(folder):
    printed = output("rows.jsonl", "columns.answer=id", "defaults.answer_kind=label", "--head", 2)
    assert "tried:      2 of the first 2 rows" in printed
    assert "  answer    q0 (label)\n" in printed
    assert "image_roots" in refusal("rows.jsonl", "image_roots=x")


def test_rows_are_written_in_our_own_format(folder):
    printed = output("rows.jsonl", "--to", "rows")
    assert "rows.jsonl: 9 rows earn the full reward with their own answer" in printed
    lines = Path("rows/samples.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (len(lines), first["answer"]) == (9, 0)
    assert first["question"] == "How many squares are in picture 0?"
    assert Path("rows", first["images"][0]).is_file()
    assert "recognised: rows of gpg_vl's own format" in output("rows/samples.jsonl")


def test_what_a_person_must_decide_is_in_the_config_too(folder):
    rows = [{"question": "?", "choices": ["cat", "dog"], "answer": 1, "image": "0.png"}]
    written(Path("options.jsonl"), rows)
    printed = output("options.jsonl")
    assert "to decide:  the truths are whole numbers up to 1 beside options" in printed
    assert "tried:      0 of the first 1 rows" in printed
    refused = refusal("options.jsonl", "--to", "mine.yaml")
    assert "to decide: the truths are whole numbers up to 1 beside options" in refused
    assert not Path("mine.yaml").exists(), "no row could be used"
    assert "tried:      1 of the first 1 rows" in output("options.jsonl", "answer_index=1")


def test_a_truth_that_its_own_verifier_cannot_read_is_left_out(folder):
    answers = [*"123456789", "many"]
    rows = [{"question": "?", "answer": each, "image": "pictures/0.png"} for each in answers]
    written(Path("counts.jsonl"), rows)
    printed = output("counts.jsonl")
    assert "tried:      9 of the first 10 rows earn the full reward" in printed
    assert "counts.jsonl row 10: answer 'many' is not a number" in printed
    assert "1 of 10 answers are no numbers; their rows are left out" in printed


def test_a_question_whose_marks_do_not_agree_with_its_pictures_is_left_out(folder):
    row = {"question": "<image><image>?", "answer": 1, "image": "pictures/0.png"}
    written(Path("marks.jsonl"), [row])
    assert "the text has 2 marks of pictures (<image>), the row has 1 pictures" in " ".join(
        output("marks.jsonl").split()
    )


def test_a_long_cell_is_cut(folder):
    row = {"question": "long " * 10_000, "answer": "x" * 100_000, "image": "pictures/0.png"}
    written(Path("long.jsonl"), [row])
    assert len(output("long.jsonl")) < 3000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["row.jsonl"], "did you mean rows.jsonl?"),
        (["nowhere/rows.jsonl"], "nowhere/rows.jsonl does not exist"),
        (["*.parquet"], "*.parquet matches no file"),
        (["rows.jsonl", "--from", "there"], "--from there is for recipes"),
        (["rows.jsonl", "--to", "nowhere/mine.yaml"], "there is no folder nowhere"),
        (["rows.jsonl", "answer"], "expected key=value"),
        (["rows.jsonl", "recipe=digits"], "a source needs exactly one of recipe, files, hub"),
    ],
)
def test_what_cannot_be_done_is_advice(arguments, words, folder):
    assert words in refusal(*arguments)


@pytest.mark.parametrize(
    ("name", "is_rows"),
    [
        ("digits", False),
        ("./scenes.py:scenes", False),
        ("my_lab.data:scenes", False),
        ("rows.jsonl", True),
        ("rows.csv.gz", True),
        ("data/train-*.parquet", True),
        ("OWNER/NAME", True),
        (".", True),
        ("digit", False),  # a recipe that is told the nearest name
    ],
)
def test_a_name_of_rows_is_no_recipe(name, is_rows):
    assert names_rows(name) == is_rows
