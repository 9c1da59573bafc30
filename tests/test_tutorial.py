"""The tutorial, word for word, on a folder of pictures made here; and `gpg-vl data` from
published files to a trained model."""

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest

from gpg_vl.evaluation import records
from tests import published
from tests.commands import gpg_vl
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
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


def programs(folder: Path) -> None:
    """Write the page's programs into a folder, and make the pictures and the table."""
    for block in blocks("python"):
        (named,) = re.findall(r"\A# (\S+\.py)\n", block)
        (folder / named).write_text(block)
    runpy.run_path(str(folder / "pictures.py"))


def command(*words: str) -> str:
    done = gpg_vl(*words, cwd=Path())
    assert done.returncode == 0, done.printed
    return done.stdout


def test_the_tutorial_runs_from_pictures_to_a_compared_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    programs(tmp_path)
    outputs: dict[str, list[str]] = {}
    for line in "".join(blocks("bash")).splitlines():
        # a run of two steps, which is made one step longer, stands for one of a hundred
        words = shlex.split(line.replace("steps=150", "steps=3"))[1:]
        is_new_run = words[0] == "train" and "--resume" not in words
        printed = command(*words, *(QUICK if is_new_run else []))
        outputs.setdefault(words[0], []).append(printed)
    (told,) = outputs["init"]
    (shown,) = blocks("text")
    for line in shown.splitlines():
        assert line.replace("/home/me/mine", str(tmp_path)) in told, line
    first, second = outputs["audit"]
    assert re.search("none of [0-9]+ test pictures is among [0-9]+ training pictures", first)
    assert "label: the exploit suite earns what it may" in second
    assert re.search(r"mind  label: best constant of those tried, '[a-z ]+', earns", second)
    assert "100 steps of 8 prompts x 8 answers" in outputs["plan"][0]
    assert "held-out greedy accuracy" in outputs["train"][0]
    assert (tmp_path / "runs/colours/checkpoints/000003/policy/README.md").is_file()
    assert all("difference" in printed for printed in outputs["compare"])
    assert "on blank images" in outputs["evaluate"][1]
    after = records.load(Path("after.jsonl"))
    assert {record.tag for record in after} == {"label"}
    assert {record.reason.split(":")[0] for record in after} <= {
        "right",
        "wrong",
        "unreadable",
        "malformed",
        "truncated",
    }
    asked = Path("ask.py").read_text()
    assert "000150" in asked
    Path("ask.py").write_text(asked.replace("000150", "000003"))
    capsys.readouterr()
    runpy.run_path("ask.py")
    assert capsys.readouterr().out.endswith("\n"), "transformers answers"


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

    (tmp_path / "rewards.py").write_text(blocks("python")[1])
    verifier = plugins.build(
        "./rewards.py:Colours", {}, base_dir=tmp_path, key="verifiers.colours", given={}
    )
    sample = Sample(id="a", question="?", answer_kind="colours", answer="red green")
    assert verifier.grade(answer, sample).accuracy == pytest.approx(earned)


def test_the_verifier_that_the_tutorial_warns_of_is_found_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs(tmp_path)
    command("init", "rows.csv")
    mended = (
        "marks = len(true & set(named)) / len(true) - len(others & set(named)) / max(1, "
        "len(others))"
    )
    code = Path("rewards.py").read_text()
    assert mended in code
    Path("rewards.py").write_text(
        code.replace(mended, "marks = len(true & set(named)) / len(true | set(named))")
    )
    audited = command("audit", "mine.yaml", "verifiers.label=./rewards.py:Colours")
    (answer,) = re.findall(r"best constant of those tried, '([a-z ]+)', earns", audited)
    assert set(answer.split()) == {"red", "green", "blue", "yellow"}


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
    monkeypatch.chdir(tmp_path)
    programs(tmp_path)
    Path("colours.yaml").write_text(
        "data: [{files: rows.csv, columns: {image: picture, answer: truth}}]\nprompt: answer\n"
        "verifiers: {colours: './rewards.py:Colours'}\n"
    )
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
