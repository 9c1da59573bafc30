"""`gpg-vl init`: from somebody's rows and a model to a config that is audited and trained."""

import base64
import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from gpg_vl.config.loading import load, load_benchmark
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.data.sources import is_test_row, read_source
from gpg_vl.policy import adapter_files
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight import starting_settings
from gpg_vl.preflight.starting_settings import Model
from gpg_vl.types import LeftOut, Sample
from tests import published_sizes
from tests.commands import gpg_vl
from tests.published import parquet, written

ROWS = 30
NAMES = ("red", "green", "blue")
SHAPE = ("hidden=32", "layers=1", "vision_hidden=16", "vision_layers=1")
QUICK = (
    *("steps=1", "warmup.steps=2", "rollout.max_rounds=1", "rollout.gate.every=0"),
    *(f"policy.tiny.{size}" for size in SHAPE),
)


def shade(number: int) -> Image.Image:
    """A picture of its own for each number: no two have the same pixels."""
    image = Image.new("RGB", (56, 42), NAMES[number % 3])
    image.paste("white", (2, 2, 4 + number, 30))
    return image


def picture(path: Path, number: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade(number).save(path)
    return path.name


def encoded(number: int) -> bytes:
    path = Path(f"encoded{number}.png")
    picture(path, number)
    content = path.read_bytes()
    path.unlink()
    return content


def labels_in_csv() -> str:
    rows = [
        [f"pictures/{picture(Path(f'pictures/{n}.png'), n)}", "Which colour?", NAMES[n % 3]]
        for n in range(ROWS)
    ]
    with Path("rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["picture", "question", "truth"], *rows])
    return "rows.csv"


def chats() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        url = "data:image/png;base64," + base64.b64encode(encoded(n)).decode()
        asked = [
            {"type": "text", "text": f"How wide is bar {n}?"},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": str(n + 2)}]
        rows.append({"messages": turns})
    written(Path("chats.jsonl"), rows)
    return "chats.jsonl"


def choices() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        image = f"pictures/{picture(Path(f'pictures/{n}.png'), n)}"
        row = {"question": "Which?", "choices": NAMES, "answer": NAMES[n % 3], "image": image}
        rows.append(row)
    written(Path("choices.jsonl"), rows)
    return "choices.jsonl"


def boxes() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        image = f"pictures/{picture(Path(f'pictures/{n}.png'), n)}"
        box = [2, 2, 5 + n, 31]
        rows.append({"image": image, "question": f"Where is bar {n}?", "bbox": box})
    written(Path("boxes.jsonl"), rows)
    return "boxes.jsonl"


def numbers() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        image = f"pictures/{picture(Path(f'pictures/{n}.png'), n)}"
        rows.append({"photo": image, "problem": "How wide?", "solution": f"<answer>{n}</answer>"})
    written(Path("numbers.json"), rows)
    return "numbers.json"


def folder_with_metadata() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        name = picture(Path(f"photos/train/{n}.png"), n)
        rows.append({"file_name": name, "question": "How wide?", "answer": n})
    written(Path("photos/train/metadata.jsonl"), rows)
    return "photos"


def folder_of_classes() -> str:
    for n in range(ROWS):
        picture(Path(f"flowers/{NAMES[n % 3]}/{n}.png"), n)
    return "flowers"


def embedded() -> str:
    rows = [
        {"image": {"bytes": encoded(n), "path": None}, "question": "How wide?", "answer": str(n)}
        for n in range(ROWS)
    ]
    parquet(Path("embedded.parquet"), rows)
    return "embedded.parquet"


def words_alone() -> str:
    rows = [{"question": f"What is {n} + 4?", "answer": n + 4} for n in range(ROWS)]
    written(Path("sums.jsonl"), rows)
    return "sums.jsonl"


def values() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        image = f"pictures/{picture(Path(f'pictures/{n}.png'), n)}"
        rows.append({"image": image, "question": "How long is it?", "answer": f"{n} cm"})
    written(Path("values.jsonl"), rows)
    return "values.jsonl"


def shards() -> str:
    for split, first in (("train", 0), ("test", 20)):
        rows = [
            {"image": {"bytes": encoded(n), "path": None}, "problem": "How wide?", "answer": str(n)}
            for n in range(first, first + 10)
        ]
        parquet(Path(f"data/{split}-00000-of-00001.parquet"), rows)
    return "data/train-*.parquet"


def reasoned() -> str:
    rows: list[dict[str, Any]] = []
    for n in range(ROWS):
        image = f"pictures/{picture(Path(f'pictures/{n}.png'), n)}"
        solution = f"<think>from 2 to {n + 4}</think><answer>{n}</answer>"
        row = {"image": image, "question": "How wide?", "answer": n, "solution": solution}
        rows.append(row)
    written(Path("reasoned.jsonl"), rows)
    return "reasoned.jsonl"


KINDS: dict[str, tuple[Callable[[], str], str]] = {
    "CSV of pictures with labels": (labels_in_csv, "label"),
    "chats with pictures in the text": (chats, "number"),
    "choices": (choices, "choice"),
    "boxes": (boxes, "boxes"),
    "numbers": (numbers, "number"),
    "a folder with metadata": (folder_with_metadata, "number"),
    "a folder of classes": (folder_of_classes, "label"),
    "parquet with embedded pictures": (embedded, "number"),
    "words alone": (words_alone, "number"),
    "values": (values, "value"),
    "shards with a test split": (shards, "number"),
    "worked solutions": (reasoned, "number"),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    home = tmp_path / "my data"  # a blank in the name: what is printed is quoted
    home.mkdir()
    monkeypatch.chdir(home)
    return home


def output(*words: object, code: int = 0) -> str:
    done = gpg_vl(*words, cwd=Path())
    assert done.returncode == code, done.printed
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_config_is_audited_and_trained(kind, folder, monkeypatch):
    make, answer_kind = KINDS[kind]
    printed = output("init", make())
    assert f"{answer_kind} " in printed
    config, benchmark = load("mine.yaml"), load_benchmark("mine_held_out.yaml")
    assert config.evaluation.benchmark == "mine_held_out.yaml"
    assert benchmark.max_tokens == config.rollout.max_tokens
    monkeypatch.chdir(folder.parent)  # the commands that are printed can be pasted anywhere
    audit, plan, train = re.findall(r"gpg-vl (?:audit|plan|train) .*", printed)
    audited = output(*shlex.split(audit)[1:])
    assert "no problem found" in audited
    output(*shlex.split(plan)[1:])
    output(*shlex.split(train)[1:], *QUICK)
    assert Path("runs/mine/evaluation/mine_held_out-after.jsonl").is_file()


def test_what_was_decided_is_printed_in_few_lines_and_stands_in_the_config(folder):
    printed = output("init", labels_in_csv(), "--to", "colours.yaml")
    text = Path("colours.yaml").read_text()
    assert len(printed.splitlines()) < 25
    assert max(map(len, text.splitlines())) <= 80
    assert "# A tiny model answers rows.csv: label with picture 30.\n" in text
    assert yaml.safe_load(text)["rollout"] == {
        "groups_per_step": 8,
        "group_size": 8,
        # "green" is 4 tokens; with both tags and the end 7; a quarter more, and one
        "max_tokens": 10,
    }
    assert "the longest true answer of the rows that were tried has 7\n" in printed
    assert re.search("held out:   [0-9]+ of 30 rows", printed)
    commands = [line.partition("gpg-vl ")[2] for line in printed.splitlines()[-3:]]
    path = shlex.quote(str(folder / "colours.yaml"))
    assert commands == [f"audit {path}", f"plan {path}", f"train {path}"]


def test_no_row_is_in_both_parts_and_none_is_lost(folder):
    output("init", labels_in_csv())
    (train,), (test,) = load("mine.yaml").data, load_benchmark("mine_held_out.yaml").data
    parts = [
        {row.id for row in read_source(source, base_dir=folder, key="data")}
        for source in (train, test, train.model_copy(update={"part": "all"}))
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == parts[2]
    assert 2 <= len(parts[1]) <= 12


def test_why_rows_are_left_out_is_said_once(folder):
    labels_in_csv()
    rows = Path("rows.csv").read_text().splitlines()
    for place in (3, 9):
        rows[place] = rows[place].rpartition(",")[0] + ","
    Path("rows.csv").write_text("\n".join(rows) + "\n")
    done = gpg_vl("init", "rows.csv", cwd=Path())
    assert done.returncode == 0, done.printed
    assert done.stdout.count("missing or empty") == 1
    assert "left out:   2" in done.stdout


@pytest.mark.parametrize("words", [("rows.csv",), ("rows.csv", "--to", "mine.yaml")])
def test_nothing_is_overwritten(words, folder):
    labels_in_csv()
    Path("mine_held_out.yaml").write_text("precious")
    done = gpg_vl("init", *words, cwd=Path())
    assert done.returncode == 2
    assert "mine_held_out.yaml: exists already" in done.stderr
    Path("mine.yaml").write_text("")
    both = "--to mine.yaml and mine_held_out.yaml: exist already; choose another name"
    assert both in gpg_vl("init", *words, cwd=Path()).stderr
    Path("mine.yaml").unlink()
    Path("rows.csv").unlink()  # the target is checked before the rows are read
    assert "mine_held_out.yaml: exists already" in gpg_vl("init", *words, cwd=Path()).stderr
    assert Path("mine_held_out.yaml").read_text() == "precious"
    assert not Path("mine.yaml").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.csv"], "nowhere.csv does not exist"),
        (["rows.csv", "--model", "./nowhere"], "nowhere"),
        (["rows.csv", "--model", "pictures"], "gpg-vl: --model: "),
        (["rows.csv", "--to", "mine.yml/x.yaml"], "there is no folder"),
        (["rows.csv", "--to", "mine.json"], "expected a name that ends in .yaml"),
        (["rows.csv", "columns.anser=truth"], "anser"),
        (
            ["rows.csv", "colums.answer=x"],
            "gpg-vl: colums.answer=x: no such key; did you mean columns?",
        ),
    ],
)
def test_a_problem_is_told_and_nothing_is_written(words, sentence, folder):
    labels_in_csv()
    before = set(folder.iterdir())
    done = gpg_vl("init", *words, cwd=Path())
    assert done.returncode == 2, done.printed
    assert sentence in done.stderr
    assert set(folder.iterdir()) == before


def test_a_stop_in_the_audit_leaves_no_files(folder, monkeypatch):
    labels_in_csv()

    def stopped(experiment: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpg_vl.preflight.audit.audit", stopped)
    output("init", "rows.csv", code=130)
    assert not list(Path().glob("*.yaml"))


def test_data_that_cannot_be_learnt_are_told_and_the_command_fails(folder):
    rows = [
        {"question": f"How many in {n}?", "answer": 3, "image": picture(Path(f"{n}.png"), n)}
        for n in range(ROWS)
    ]
    written(Path("same.jsonl"), rows)
    printed = output("init", "same.jsonl", code=1)
    assert "problem:    number: one answer is always right" in printed
    assert "next:       mend what is a problem above" in printed


def test_few_rows_are_all_trained_on_unless_some_are_asked_for(folder):
    rows = [
        {"question": f"How many in {n}?", "answer": n, "image": picture(Path(f"{n}.png"), n)}
        for n in range(8)
    ]
    written(Path("few.jsonl"), rows)
    assert "held out:   none: of 8 rows none can be spared" in output("init", "few.jsonl")
    assert load("mine.yaml").evaluation.benchmark is None
    output("init", "few.jsonl", "--to", "some.yaml", "--held-out", 3)
    (test,) = load_benchmark("some_held_out.yaml").data
    held = list(read_source(test, base_dir=folder, key="data"))
    assert 2 <= len(held) <= 5
    output("init", "few.jsonl", "--to", "none.yaml", "--held-out", 0)
    assert not Path("none_held_out.yaml").exists()


def test_what_a_person_must_decide_stands_in_the_config(folder):
    rows = [
        {"question": f"Is {n} wide?", "answer": n % 2, "image": picture(Path(f"{n}.png"), n)}
        for n in range(ROWS)
    ]
    written(Path("truths.jsonl"), rows)
    output("init", "truths.jsonl")
    assert "# To decide: all answers are 0 or 1; if they stand for no and yes" in " ".join(
        Path("mine.yaml").read_text().split("\n#   ")
    )


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_model_of_ones_own_is_trained_by_its_absolute_path(family, folder, checkpoints):
    Path("models").mkdir()
    Path("models/mine").symlink_to(checkpoints(family))
    printed = output("init", labels_in_csv(), "--model", "models/mine")
    config = load("mine.yaml")
    assert Path(config.policy.model).is_absolute()
    assert "A small model, 1." in printed
    assert "no problem found" in output("audit", "mine.yaml")
    output("train", "mine.yaml", *QUICK[:4])


def test_a_real_model_gets_the_settings_of_the_paper(folder, checkpoints, monkeypatch):
    monkeypatch.setattr(starting_settings, "SMALL_MODEL", 0)
    printed = output("init", boxes(), "--model", checkpoints("qwen2_5_vl"))
    config = load("mine.yaml")
    assert (config.policy.dtype, config.policy.vision) == ("bfloat16", "frozen")
    assert (config.optimizer.lr, config.warmup.steps) == (1e-6, 0)
    assert isinstance(config.prompt, dict)
    assert "(x1,y1),(x2,y2) in <answer>" in config.prompt["instruction"]
    assert config.rollout.max_tokens == 576  # 512 of a thought and the box, in steps of 64
    assert "The model thinks first" in printed
    assert load_benchmark("mine_held_out.yaml").verifiers == {
        "boxes": {"kind": "boxes", "threshold": 0.5}
    }
    quick = ("warmup.steps=0", "rollout.max_tokens=8", "evaluation.benchmark=null")
    output("train", "mine.yaml", *QUICK[:4], *quick)


def test_worked_solutions_decide_the_style_and_the_warm_up(folder, checkpoints, monkeypatch):
    output("init", reasoned())
    assert load("mine.yaml").prompt == "think"
    assert "Supervised steps on the worked solutions first" in Path("mine.yaml").read_text()
    monkeypatch.setattr(starting_settings, "SMALL_MODEL", 0)
    output("init", "reasoned.jsonl", "--model", checkpoints("qwen2_vl"), "--to", "real.yaml")
    config = load("real.yaml")
    assert (config.warmup.steps, config.warmup.optimizer.lr) == (30, 1e-5)
    rows = [json.loads(line) for line in Path("reasoned.jsonl").read_text().splitlines()]
    written(Path("other.jsonl"), [{**row, "solution": "It is wide."} for row in rows])
    printed = output("init", "other.jsonl", "--to", "other.yaml")
    assert "to decide:  the column solution holds worked solutions that do not end" in printed
    assert load("other.yaml").warmup.steps == 0


@pytest.mark.parametrize(
    ("thought", "prompt"),
    [
        ("", "answer"),
        ("<think>", {"kind": "think", "think": "opened"}),
        ("</think>", "answer"),
    ],
)
def test_the_style_fits_the_chat_template(thought, prompt, folder):
    sample = Sample(id="a", question="?", answer_kind="number", answer=4)
    tiny = Model.of("tiny")
    model = Model(tiny.name, tiny.parameters, tiny.reader, thought)
    chosen = starting_settings.choose([sample], model).parts[0]
    assert chosen.value == prompt
    style = starting_settings.build_style(chosen.value, Path())
    assert style.misfit(thought) == ""


@pytest.mark.parametrize(
    ("gb", "trains", "lr", "said"),
    [
        (None, {}, 1e-6, ""),
        (141.0, {}, 1e-6, ""),
        (24.0, {"language": "lora"}, 1e-5, "The GPU of 24 GB is too small to train all of it"),
        (10.0, {"language": "lora", "quantise": "nf4"}, 1e-5, "in 4 bits: pip install"),
        (4.0, {}, 1e-6, ""),  # nothing fits: the audit says so
    ],
)
def test_a_small_gpu_gets_adapters(gb, trains, lr, said, tmp_path, monkeypatch):
    monkeypatch.setattr("gpg_vl.preflight.memory.gpu_here", lambda: gb)
    size = size_of(PolicyConfig(model=str(published_sizes.write("Qwen2.5-VL-3B", tmp_path))))
    tiny = Model.of("tiny")
    model = Model("someone/3B", size.total, tiny.reader, "", size)
    solved = Sample(id="a", question="?", answer_kind="number", answer=4)
    settings = {part.key: part for part in starting_settings.choose([solved], model).parts}
    policy = settings["policy"]
    expected = {"model": "someone/3B", "dtype": "bfloat16", "vision": "frozen", **trains}
    assert policy.value == expected
    assert said in policy.why
    assert settings["optimizer"].value == {"lr": lr}
    assert ("ten times" in settings["optimizer"].why) == bool(trains)


def test_an_adapter_on_a_small_gpu_is_trained_on_as_it_is(tmp_path, monkeypatch):
    """It has no tensors of the projector, which a config trains as a whole by default."""
    monkeypatch.setattr("gpg_vl.preflight.memory.gpu_here", lambda: 24.0)
    size = size_of(PolicyConfig(model=str(published_sizes.write("Qwen2.5-VL-3B", tmp_path))))
    matrix = f"{adapter_files.PREFIX}model.language_model.layers.0.self_attn.q_proj.lora_"
    shapes = {f"{matrix}A.weight": (4, 2048), f"{matrix}B.weight": (2048, 4)}
    adapter = AdapterFiles(folder=tmp_path, settings={"r": 4}, shapes=shapes)
    tiny = Model.of("tiny")
    model = Model("someone/adapter", size.total, tiny.reader, "", size, adapter)
    solved = Sample(id="a", question="?", answer_kind="number", answer=4)
    settings = {part.key: part.value for part in starting_settings.choose([solved], model).parts}
    assert settings["policy"] == {
        "model": "someone/adapter",
        "dtype": "bfloat16",
        "language": "lora",
        "projector": "frozen",
        "vision": "frozen",
    }


def test_huge_pictures_are_made_smaller_and_it_is_said(folder):
    Image.effect_noise((1200, 900), 40).convert("RGB").save("huge.png")
    rows = [{"question": f"What is {n}?", "answer": n, "image": "huge.png"} for n in range(8)]
    written(Path("huge.jsonl"), rows)
    printed = output("init", "huge.jsonl")
    assert load("mine.yaml").policy.max_pixels == 200_704
    assert "Pictures of up to 1,080,000 pixels are made smaller" in " ".join(printed.split())


# --- parts ----------------------------------------------------------------------------------------


def test_rows_of_one_picture_are_in_one_part_wherever_it_lies():
    def row(path: str, question: str) -> Sample:
        return Sample(
            id=question, question=question, images=(Path(path),), answer_kind="number", answer=1
        )

    for number in range(50):
        name = f"pictures/{number}.png"
        parts = {
            is_test_row(row(f"/home/me/{name}", "How many?"), 0.3),
            is_test_row(row(f"/data/{name}", "Which colour?"), 0.3),
        }
        assert len(parts) == 1


def test_a_part_has_about_its_share_and_a_larger_share_holds_a_smaller_one():
    rows = [LeftOut(f"row {number}", "") for number in range(4000)]
    tenth = {row.id for row in rows if is_test_row(row, 0.1)}
    third = {row.id for row in rows if is_test_row(row, 0.3)}
    assert 340 < len(tenth) < 460  # 400 and three deviations of 19
    assert 1110 < len(third) < 1290
    assert tenth < third


def test_half_of_a_character_is_in_a_part():
    sample = Sample(id="a", question="\ud83d?", answer_kind="number", answer=1)
    assert is_test_row(sample, 0.999999)


def test_the_head_of_a_part_counts_its_own_rows(folder):
    labels_in_csv()
    output("init", "rows.csv")
    (test,) = load_benchmark("mine_held_out.yaml").data
    two = test.model_copy(update={"head": 2})
    assert len(list(read_source(two, base_dir=folder, key="data"))) == 2
