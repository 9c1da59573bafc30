"""`gpg-vl audit`: what can be known before training; exit 1 with the reason where a run cannot learn."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpg_vl import audit
from gpg_vl.cli import app

from .published import png

CONFIG = """# A config of the user's.
name: mine
data: [{files: samples.jsonl}]
prompt: answer
steps: 1
policy: {vision: full, tiny: {hidden: 32, layers: 1, vision_hidden: 16, vision_layers: 1}}
rollout: {groups_per_step: 2, group_size: 2, max_tokens: 12, max_rounds: 1}
evaluation: {benchmark: test.yaml}
"""
TEST = "name: test\ndata: [{files: held_out.jsonl}]\nprompt: answer\n"


def rows(count: int, first: int = 0, **changed: object) -> str:
    made = [
        {"id": f"{first + place}", "question": "How many?", "images": [f"{first + place}.png"], "answer_kind": "number"}
        | {"answer": place % 5, **changed}
        for place in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Audits a config in a folder with ten pictures to train on and five others to be tested on."""
    monkeypatch.chdir(tmp_path)
    for place in range(15):
        Path(f"{place}.png").write_bytes(png((10 * place, 0, 0)))
    Path("samples.jsonl").write_text(rows(10))
    Path("held_out.jsonl").write_text(rows(5, first=10))
    Path("mine.yaml").write_text(CONFIG)
    Path("test.yaml").write_text(TEST)

    def invoke(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["audit", "mine.yaml", *arguments])
        assert "Traceback" not in done.output
        return done.exit_code, done.output

    return invoke


def test_a_sound_config_passes_and_says_chance(run):
    code, told = run()
    assert code == 0, told
    assert "gold answers: 10 rows earn full marks" in told
    assert "best constant '0' earns 0.2000, chance level 0.2000" in told
    assert "none of 5 test pictures is among 10 training pictures" in told
    assert "nothing stands in the way" in told


def test_pictures_in_training_and_test_are_told(run):
    Path("11.png").write_bytes(Path("3.png").read_bytes())
    code, told = run()
    assert code == 0
    assert "mind  overlap: 1 of 5 test pictures are also trained on, pixel for pixel; 11 is one" in told


@pytest.mark.parametrize(
    ("prepare", "overrides", "reason"),
    [
        (lambda: Path("samples.jsonl").write_text(rows(10, answer=3)), (), "one answer is always right, so there is nothing to learn"),
        (
            lambda: Path("samples.jsonl").write_text(rows(10, answer="many")),
            (),
            "all 10 rows are unusable; 0: answer 'many' is not a number",
        ),
        (lambda: None, ("rollout.max_tokens=2",), "answers: the barest right answer takes"),
        (lambda: Path("samples.jsonl").write_text(rows(10, question="why? " * 9000)), (), "prompts cannot be asked"),
        (lambda: Path("held_out.jsonl").unlink(), (), "evaluation.benchmark: files: held_out.jsonl does not exist"),
    ],
)
def test_what_cannot_learn_exits_1_with_the_reason(run, prepare, overrides, reason):
    prepare()
    code, told = run(*overrides)
    assert code == 1, told
    assert reason in told
    assert "cannot learn: " in told.splitlines()[-1]


def test_a_reward_that_can_be_fooled_exits_1(run):
    Path("rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "from gpg_vl.verifiers.verifier import Graded, Mark\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Generous(Graded):\n"
        "    def mark(self, answer, sample):\n"
        "        return Mark(float(str(sample.answer) in answer or len(answer) > 40), answer, 'right')\n\n"
        "    def gold(self, sample):\n"
        "        return str(sample.answer)\n"
    )
    code, told = run('verifiers={number: "./rewards.py:Generous"}')
    assert code == 1
    assert "the reward can be fooled" in told


def test_the_authors_rules_have_holes_and_that_is_worth_knowing(run):
    Path("samples.jsonl").write_text(rows(10, answer_kind="label", answer="rose", choices=["rose", "iris"]))
    code, told = run("reward.mode=reference")
    assert "mind  label: the authors' rule has holes" in told
    assert code == 1  # and here every row has the same answer


def test_a_model_is_asked_and_one_that_says_nothing_right_stops_the_run(run):
    code, told = run("--model", "tiny")
    assert code == 1
    assert "reasons: " in told
    assert "rewards: 0.00 [32] 0.00, mean 0.000" in told
    assert "informative: 0 % of 16 groups" in told
    assert "no group speaks, so there is no gradient" in told


def test_the_histogram_by_hand():
    assert audit.histogram([0, 0, 1, float("nan")]) == "0.00 [2 0 0 0 0 0 0 0 0 1] 1.00, mean 0.333"
    assert audit.histogram([0.5, 0.5]) == "0.50 [2] 0.50, mean 0.500"
    assert audit.histogram([float("nan")]) == "none, 1 faults"
