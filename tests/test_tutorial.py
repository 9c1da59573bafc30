"""The tutorial, word for word, on a folder of pictures made here; and `gpg-vl data` from
published files to a trained model."""

import csv
import json
import re
import shlex
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from gpg_vl.evaluation import records
from tests import published
from tests.commands import gpg_vl
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
COLOURS = ("red", "green", "blue", "yellow")
QUICK = [
    "steps=2",
    "warmup.steps=30",
    "warmup.optimizer.lr=3e-3",
    "rollout.max_rounds=2",
    "policy.tiny.hidden=32",
    "policy.tiny.layers=1",
    "policy.tiny.vision_hidden=16",
    "policy.tiny.vision_layers=1",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def pictures(folder: Path) -> None:
    """Pictures of one or two stripes of colour, one in four of them to be tested on."""
    (folder / "pictures").mkdir(parents=True)
    tables = {"train": list[list[str]](), "test": list[list[str]]()}
    shown = [pair for count in (1, 2) for pair in combinations(COLOURS, count)]
    for number in range(24):
        picture, colours = Image.new("RGB", (56, 56), "black"), shown[number % len(shown)]
        for place, colour in enumerate(colours):
            picture.paste(colour, (4, 4 + 20 * place, 52 - number, 20 + 20 * place))
        picture.save(folder / "pictures" / f"{number:03d}.png")
        row = [f"pictures/{number:03d}.png", "Which colours are in the picture?", " ".join(colours)]
        tables["test" if number % 4 == 3 else "train"].append(row)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["picture", "question", "truth"], *rows])


def command(*words: str) -> str:
    done = gpg_vl(*words, cwd=Path())
    assert done.returncode == 0, done.printed
    return done.stdout


def test_the_tutorial_runs_from_pictures_to_a_compared_model(tmp_path, monkeypatch):
    pictures(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    for block in [*blocks("python"), *blocks("yaml")]:
        (named,) = re.findall(r"\A# (\S+\.(?:py|yaml))\n", block)
        Path(named).write_text(block)
    outputs = {}
    for line in "".join(blocks("bash")).splitlines():
        words = shlex.split(line)[1:]
        outputs[tuple(words[:1])] = command(*words, *(QUICK if words[0] == "train" else []))
    assert "colours: the exploit suite earns what it may" in outputs["audit",]
    assert re.search(
        r"mind  colours: best constant of those tried, '(red|green|blue|yellow)', earns",
        outputs["audit",],
    )
    assert "none of 6 test pictures is among 18 training pictures" in outputs["audit",]
    assert "30 steps of 8 prompts x 8 answers" in outputs["plan",]
    assert "held-out greedy accuracy" in outputs["train",]
    assert "difference" in outputs["compare",]
    assert "on blank images" in outputs["evaluate",]
    after = records.load(Path("after.jsonl"))
    assert [record.greedy for record in after] == [
        record.greedy
        for record in records.load(Path("runs/colours/evaluation/held_out-after.jsonl"))
    ]
    assert {record.reason.split(":")[0] for record in after} <= {
        "right",
        "wrong",
        "unreadable",
        "malformed",
        "truncated",
    }


@pytest.mark.parametrize(
    ("answer", "earned"),
    [
        *(("red green", 1.0), ("green red", 1.0), ("red", 0.5), ("red green blue", 0.5)),
        *(("red blue", 0), ("red red", 0), ("", 0), ("red green blue yellow", 0)),
    ],
)
def test_the_tutorials_verifier_gives_part_marks(answer, earned, tmp_path):
    from gpg_vl.config import plugins
    from gpg_vl.types import Sample

    (tmp_path / "rewards.py").write_text(blocks("python")[0])
    verifier = plugins.build(
        "./rewards.py:Colours", {}, base_dir=tmp_path, key="verifiers.colours", given={}
    )
    sample = Sample(id="a", question="?", answer_kind="colours", answer="red green")
    assert verifier.grade(answer, sample).accuracy == pytest.approx(earned)


def test_the_verifier_that_the_tutorial_warns_of_is_found_out(tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in [*blocks("python"), *blocks("yaml")]:
        Path(re.findall(r"\A# (\S+)\n", block)[0]).write_text(block)
    mended = (
        "marks = len(true & set(named)) / len(true) - len(others & set(named)) / max(1, "
        "len(others))"
    )
    code = Path("rewards.py").read_text()
    assert mended in code
    Path("rewards.py").write_text(
        code.replace(mended, "marks = len(true & set(named)) / len(true | set(named))")
    )
    (answer,) = re.findall(
        r"best constant of those tried, '([a-z ]+)', earns", command("audit", "colours.yaml")
    )
    assert set(answer.split()) == set(COLOURS)


def test_published_files_become_rows_that_a_config_reads(tmp_path, monkeypatch):
    published.clevr(tmp_path / "clevr")
    monkeypatch.chdir(tmp_path)
    output = command("data", "clevr", "--from", "clevr", "--to", "rows", "--head", "2")
    assert (
        "clevr: 2 rows earn the full reward with their own answer (number with picture 2)" in output
    )
    rows = [json.loads(line) for line in Path("rows/samples.jsonl").read_text().splitlines()]
    assert [(row["answer"], Path("rows", row["images"][0]).is_file()) for row in rows] == [
        (3, True),
        (10, True),
    ]
    assert "left out: 1 rows" in command("data", "clevr", "--from", "clevr", "--to", "all")
    assert json.loads(Path("all/left_out.jsonl").read_text()) == {
        "id": "clevr/train/2",
        "why": "its answer 'yes' is no count",
    }
    assert "reference answers: 2 rows" in command(
        "audit", "digits", "data=[{files: rows/samples.jsonl}]", "evaluation.benchmark=null"
    )
    assert "superclevr: 4 rows" in command(
        "data", "superclevr", "pictures=false", "--from", str(_superclevr(tmp_path))
    )
    for words, sentence in (
        (["clevr", "--from", "clevr", "--to", "rows"], "--to rows: holds rows already"),
        (["clevr", "--from", "nowhere"], "nowhere holds no data/train-*.parquet"),
        (["clever"], "did you mean clevr?"),
        (["clevr", "spilt=train", "--from", "clevr"], "spilt: no such key; did you mean split?"),
    ):
        done = gpg_vl("data", *words, cwd=Path())
        assert done.returncode == 2, done.printed
        assert sentence in done.stderr


def test_rows_of_a_kind_of_ones_own_are_checked_by_the_configs_verifier(tmp_path, monkeypatch):
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in [*blocks("python"), *blocks("yaml")]:
        Path(re.findall(r"\A# (\S+)\n", block)[0]).write_text(block)
    Path("scenes.py").write_text(
        "from gpg_vl.types import Sample\n\n\n"
        "def scenes():\n"
        "    for colour in ('red', 'mauve'):\n"
        "        yield Sample(id=colour, question='Which?', answer_kind='colours', answer=colour)\n"
    )
    without = gpg_vl("data", "./scenes.py:scenes", cwd=Path())
    assert without.returncode == 2
    assert "answer_kind 'colours' has no verifier" in without.stderr
    output = command("data", "./scenes.py:scenes", "--config", "colours.yaml", "--to", "rows")
    assert "1 rows earn the full reward with their own answer (colours 1)" in output
    assert "mauve: " in output
    Path("taken").write_text("precious")
    for to in ("taken", "taken/rows"):
        refused = gpg_vl(
            "data", "./scenes.py:scenes", "--config", "colours.yaml", "--to", to, cwd=Path()
        )
        assert refused.returncode == 2
        assert "taken is a file, expected a folder" in refused.stderr
    assert Path("taken").read_text() == "precious"


def test_a_set_is_written_without_being_held_in_memory(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.chdir(tmp_path)
    Path("many.py").write_text(
        "import io, os\n\nfrom PIL import Image\n\nfrom gpg_vl.types import Sample\n\n\ndef "
        "many(last=1):\n    for number in range(40):\n        encoded = io.BytesIO()\n       "
        " Image.frombytes('RGB', (512, 128), os.urandom(512 * 128 * 3)).save(encoded, 'PNG', "
        "compress_level=0)\n        picture, name = encoded.getvalue(), min(number, 39 - last)\n  "
        "      yield Sample(id=str(name), question='?', answer_kind='number', answer=1, "
        "images=(picture,), sizes=((512, 128),))\n"
    )
    tracemalloc.start()
    output = command("data", "./many.py:many", "last=0", "--to", "rows")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "40 rows earn the full reward" in output
    assert peak < 5_000_000  # 40 pictures have 7.9 MB
    command("data", "./many.py:many", "--to", "doubled")
    rows = Path("doubled/samples.jsonl").read_text().splitlines()
    assert [json.loads(row)["id"] for row in rows[-2:]] == ["38", "38#2"], "no row is lost"


def _superclevr(folder: Path) -> Path:
    published.superclevr(folder / "superclevr")
    return folder / "superclevr"
