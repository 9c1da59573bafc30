"""Every kind of bad input earns a sentence on one line, exit code 2, no traceback, and nothing
is written over."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import gpg_vl
from tests.hand_made import png

CONFIG = """# A config of the user's.
name: mine
data: [{files: samples.jsonl}]
prompt: answer
steps: 1
policy: {vision: full, tiny: {hidden: 32, layers: 1, vision_hidden: 16, vision_layers: 1}}
rollout: {groups_per_step: 2, group_size: 2, max_tokens: 4, max_rounds: 1}
"""
COUNT = {
    "id": "a",
    "question": "How many?",
    "images": ["a.png"],
    "answer_kind": "number",
    "answer": 1,
}
POINT = {
    "id": "a",
    "question": "Where?",
    "images": ["a.png"],
    "answer_kind": "boxes",
    "answer": [[1, 2, 30, 40]],
}
PICK = {
    "id": "a",
    "question": "Which?",
    "images": ["a.png"],
    "answer_kind": "choice",
    "answer": "cat",
    "choices": ["cat", "dog"],
}


def bomb() -> bytes:
    """A PNG of a few bytes whose header says 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + header))


def row(base: dict[str, object], **changed: object) -> Callable[[Path], None]:
    """A data set of one row, with some columns changed; None takes a column out."""
    kept = {name: value for name, value in {**base, **changed}.items() if value is not None}
    return lambda folder: (folder / "samples.jsonl").write_text(json.dumps(kept) + "\n") and None


def picture(content: bytes | None) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "a.png").unlink()
        if content is not None:
            (folder / "a.png").write_bytes(content)

    return prepare


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def config(old: str, new: str) -> Callable[[Path], None]:
    assert old in CONFIG
    return text("mine.yaml", CONFIG.replace(old, new))


def existing_run(folder: Path) -> None:
    (folder / "runs" / "mine").mkdir(parents=True)
    (folder / "runs" / "mine" / "metrics.jsonl").write_text("precious\n")


def other_architecture(folder: Path) -> None:
    (folder / "llama").mkdir()
    (folder / "llama" / "config.json").write_text(
        json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )


def nothing(folder: Path) -> None:
    """The input is fine; the command is not."""


CASES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "misspelt key": (
        config("steps: 1", "stepps: 1"),
        [],
        "mine.yaml: stepps: no such key; did you mean steps?",
    ),
    "misspelt key in a section": (
        config("group_size", "grop_size"),
        [],
        "rollout.grop_size: no such key; did you mean group_size?",
    ),
    "misspelt override": (
        nothing,
        ["optimizer.rl=1e-5"],
        "optimizer.rl=1e-5: no such key; known here: kind, lr, betas",
    ),
    "wrong type": (
        config("steps: 1", "steps: soon"),
        [],
        "mine.yaml: steps: got 'soon', expected a whole number",
    ),
    "out of range": (
        nothing,
        ["rollout.temperature=0"],
        "rollout.temperature: got 0, expected a number above 0",
    ),
    "unknown word": (
        nothing,
        ["policy.vision=melted"],
        "policy.vision: got 'melted', expected 'frozen', 'full' or 'lora'",
    ),
    "two origins": (
        config("files: samples.jsonl", "files: samples.jsonl, recipe: digits"),
        [],
        "exactly one of recipe, files, hub; got recipe, files",
    ),
    "impossible pair": (
        nothing,
        ["learner.updates_per_rollout=2"],
        "learner.updates_per_rollout: 2 with estimator Gpg",
    ),
    "another impossible pair": (
        nothing,
        ["rollout.carry_over=1", "estimator=grpo"],
        "rollout.carry_over: 1 with estimator Grpo",
    ),
    "all frozen": (
        nothing,
        ["policy.vision=frozen", "policy.language=frozen", "policy.projector=frozen"],
        "policy.language, policy.projector and policy.vision are all frozen",
    ),
    "not YAML": (text("mine.yaml", "steps: [1"), [], "mine.yaml: not YAML"),
    "no such config": (
        lambda folder: (folder / "mine.yaml").unlink(),
        [],
        "mine.yaml: no such file. Shipped configs: cars196",
    ),
    "missing file": (
        lambda folder: (folder / "samples.jsonl").unlink(),
        [],
        "files: samples.jsonl does not exist",
    ),
    "not JSON": (text("samples.jsonl", "{"), [], "samples.jsonl line 1: not JSON"),
    "empty data set": (text("samples.jsonl", ""), [], "data.0: the data set is empty"),
    "missing image": (picture(None), [], "a.png does not exist"),
    "unreadable image": (picture(b"not a picture"), [], "a.png cannot be read"),
    "truncated image": (
        picture(png((600, 600))[:300]),
        [],
        "could not become prompts, more than rollout.max_lost",
    ),
    "decompression bomb": (picture(bomb()), [], "a.png"),
    "path out of the folder": (
        row(COUNT, images=["../../etc/passwd"]),
        [],
        "leaves the data folder",
    ),
    "row without truth": (row(COUNT, answer=None), [], "column 'answer' is missing or empty"),
    "empty question": (row(COUNT, question=""), [], "column 'question' is missing or empty"),
    "kind without verifier": (
        row(COUNT, answer_kind="smell"),
        [],
        (
            "answer_kind 'smell' has no verifier; known: boxes, choice, detection, expression, "
            "label, number, value"
        ),
    ),
    "box outside": (
        row(POINT, answer=[[1, 2, 30, 400]]),
        [],
        "is empty or outside the image of 56 x 56 pixels",
    ),
    "box reversed": (row(POINT, answer=[[30, 2, 1, 40]]), [], "is empty or outside the image"),
    "choice that is no option": (
        row(PICK, answer="cow"),
        [],
        "answer 'cow' is not one of the choices ['cat', 'dog']",
    ),
    "truth that is no number": (row(COUNT, answer="many"), [], "answer 'many' is not a number"),
    "prompt beyond the window": (
        row(COUNT, question="why? " * 9000),
        [],
        "the model's window is 8192",
    ),
    "existing run": (
        existing_run,
        [],
        "holds a run already; continue it with `gpg-vl train --resume",
    ),
    "no such model": (
        nothing,
        ["policy.model=./nowhere"],
        "policy.model: './nowhere' cannot be loaded",
    ),
    "other architecture": (
        other_architecture,
        ["policy.model=./llama"],
        "policy.model: llama: is a llama; expected one of qwen2_vl",
    ),
    "unwritable folder": (nothing, ["folder=/proc/x"], "folder: /proc/x/mine cannot be made"),
    "no such benchmark": (
        nothing,
        ["evaluation.benchmark=digit"],
        "evaluation: got 'digit', which is neither shipped nor a YAML file. Did you mean digits",
    ),
    "no such tracker": (nothing, ["trackers=[wandbee]"], "trackers.0: got 'wandbee'"),
}


@pytest.mark.parametrize("name", CASES)
def test_it_gets_a_sentence(name, tmp_path, monkeypatch):
    prepare, overrides, sentence = CASES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "mine.yaml").write_text(CONFIG)
    row(COUNT)(tmp_path)
    prepare(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = gpg_vl("train", "mine.yaml", *overrides, cwd=Path())
    assert done.returncode == 2, done.printed
    sentences = [line for line in done.stderr.splitlines() if line.startswith("gpg-vl: ")]
    assert len(sentences) == 1, done.printed
    assert sentence in sentences[0]
    assert {path: path.read_bytes() for path in before} == before
