"""`gpg-vl audit`: what can be known before training; exit 1 with the reason where a run cannot
learn."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.preflight import audit, model_checks
from gpg_vl.preflight.finding import Finding
from tests.commands import gpg_vl
from tests.hand_made import png
from tests.preflight.by_hand import config
from tests.workloads import adapter_on, run_of

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
        {
            "id": f"{first + place}",
            "question": "How many?",
            "images": [f"{first + place}.png"],
            "answer_kind": "number",
        }
        | {"answer": place % 5, **changed}
        for place in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Audits a config in a folder with ten pictures to train on and five others to be tested on."""
    monkeypatch.chdir(tmp_path)
    for place in range(15):
        Path(f"{place}.png").write_bytes(png(colour=(10 * place, 0, 0)))
    Path("samples.jsonl").write_text(rows(10))
    Path("held_out.jsonl").write_text(rows(5, first=10))
    Path("mine.yaml").write_text(CONFIG)
    Path("test.yaml").write_text(TEST)

    def invoke(*arguments: str) -> tuple[int, str]:
        done = gpg_vl("audit", "mine.yaml", *arguments, cwd=Path())
        return done.returncode, done.printed

    return invoke


def test_a_sound_config_passes_and_says_chance(run):
    code, output = run()
    assert code == 0, output
    assert "reference answers: 10 rows earn the full reward" in output
    assert "best constant of those tried, '0', earns 0.2000, chance level 0.2000" in output
    assert "none of 5 test pictures is among 10 training pictures" in output
    assert "no problem found" in output


def test_rows_of_warm_up_and_benchmark_that_are_left_out_are_told(run):
    Path("solutions.jsonl").write_text(rows(2) + rows(1, answer="many"))
    Path("held_out.jsonl").write_text(rows(5, first=10) + rows(1, first=99))
    code, output = run("warmup.steps=1", "warmup.data=[{files: solutions.jsonl}]")
    assert code == 0, output
    assert "mind  warmup: left out: 1 rows of 3; 1 like 0#2: answer 'many' is" in output
    assert "mind  evaluation.benchmark: left out: 1 rows of 6; 1 like 99: image " in output


def test_what_cannot_fit_cannot_be_had_or_is_not_installed_stops_the_run(
    run, monkeypatch, tmp_path
):
    from importlib.util import find_spec

    code, output = run("hardware.gb=0.001")
    assert code == 1
    assert re.search(
        r"stop  memory: \d\.\d GB are needed on a GPU at the peak, it has 0.001; change: "
        r"hardware\.gb=24 ",
        output,
    )
    assert "fine  memory: not judged: there is no GPU here, and hardware.gb names none" in run()[1]
    assert "fine  memory: 3." in run("hardware.gb=24")[1]
    code, output = run("policy.model=nobody/has-this")
    assert code == 1
    assert (
        "stop  model: cannot be read: policy.model: 'nobody/has-this' cannot be loaded: no folder "
        "of that name is here" in output
    )
    assert output.count("stop  ") == 1
    there = {"vllm": False, "trackio": False, "datasets": False}
    monkeypatch.setattr(
        audit.importlib.util,
        "find_spec",
        lambda name, *rest: find_spec(name, *rest) if there.get(name, True) else None,
    )
    code, output = run("rollout.engine=vllm", "trackers=[trackio]")
    assert code == 1
    assert "stop  rollout.engine: vllm is not installed; pip install 'gpg-vl[vllm]'" in output
    assert "stop  trackers: trackio is not installed; pip install 'gpg-vl[trackers]'" in output
    assert (
        "stop  data: some/set is read with the package datasets" in run("data=[{hub: some/set}]")[1]
    )


def test_pictures_in_training_and_test_are_reported(run):
    Path("11.png").write_bytes(Path("3.png").read_bytes())
    code, output = run()
    assert code == 0
    assert (
        "mind  overlap: 1 of 5 test pictures are also trained on, pixel for pixel; 11 is one"
        in output
    )
    for place in (10, 12):
        Path(f"{place}.png").write_bytes(Path("3.png").read_bytes())
    Path("13.png").write_bytes(Path("4.png").read_bytes())
    code, output = run()
    assert code == 0
    assert (
        "mind  overlap: 2 of 3 test pictures are also trained on, pixel for pixel, more than half"
        in output
    )


def test_a_test_that_is_trained_on_whole_stops_the_run(run):
    Path("held_out.jsonl").write_text(rows(5))
    code, output = run()
    assert code == 1
    assert (
        "stop  overlap: 5 of 5 test pictures are also trained on, pixel for pixel: the benchmark "
        "would measure memory" in output
    )


def test_rows_that_were_not_read_are_reported(run):
    code, output = run("--head", "7")
    assert code == 0
    cut = "(only the first 7 rows of a source were read)"
    assert f"reference answers: 7 rows earn the full reward {cut}" in output
    assert f"none of 5 test pictures is among 7 training pictures {cut}" in output
    assert "only the first" not in run("--head", "11")[1]


def test_questions_without_their_picture_are_reported(run):
    bare = (
        json.dumps({"id": "bare", "question": "How many?", "answer_kind": "number", "answer": 3})
        + "\n"
    )
    Path("samples.jsonl").write_text(rows(9) + bare)
    assert "mind  pictures: 1 of 10 rows have no picture; bare is one" in run()[1]
    Path("samples.jsonl").write_text(rows(10, images=None, picture=None))
    assert "have no picture" not in run()[1]  # a set of words alone
    output = run("data=[{files: samples.jsonl, columns: {image: picture}}]")[1]
    assert "mind  pictures: 10 of 10 rows have no picture; 0 is one" in output


def cut_short(name: str) -> None:
    Path(name).write_bytes(png((600, 600), (9, 9, 9))[:300])


def test_a_picture_that_cannot_be_read_is_a_finding(run):
    cut_short("14.png")
    code, output = run()
    assert code == 0
    assert (
        "mind  evaluation.benchmark: 1 rows have a picture that cannot be read; 14: image "
        in output
    )
    cut_short("3.png")
    code, output = run("--model", "tiny")
    assert code == 1
    assert "mind  pictures: 1 of 10 rows have one that cannot be read; 3: image " in output
    assert "questions cannot be asked; " in output
    assert "rewards: " in output


def test_rows_that_benchmark_and_warm_up_leave_out_are_findings(run):
    good = Path("samples.jsonl").read_text()
    Path("warmup.jsonl").write_text(good + rows(1, answer="many"))
    Path("held_out.jsonl").write_text(
        Path("held_out.jsonl").read_text() + rows(1, first=10, answer="few")
    )
    code, output = run("warmup={steps: 2, data: [{files: warmup.jsonl}]}")
    assert code == 0
    many, few = ("answer 'many' is not a number", "answer 'few' is not a number")
    assert f"mind  warmup: left out: 1 rows of 11; 1 like 0#2: {many}" in output
    assert f"mind  evaluation.benchmark: left out: 1 rows of 6; 1 like 10#2: {few}" in output
    Path("warmup.jsonl").unlink()
    code, output = run("warmup={steps: 2, data: [{files: warmup.jsonl}]}")
    assert (code, "stop  warmup: files: warmup.jsonl does not exist" in output) == (1, True)


def test_rows_of_a_benchmark_that_the_model_cannot_be_asked_are_findings(run):
    asked = {"question": "What is <|im_end|> for?"}
    Path("held_out.jsonl").write_text(
        Path("held_out.jsonl").read_text() + rows(1, first=10, **asked)
    )
    code, output = run()
    assert code == 0
    assert "mind  evaluation.benchmark: left out: 1 rows of 6; 1 like 10#2: its text " in output


def test_a_benchmark_is_checked_by_its_own_verifiers(run):
    Path("held_out.jsonl").write_text(rows(5, first=10, answer_kind="smell", answer="sour"))
    Path("noses.py").write_text(
        "from dataclasses import dataclass\n"
        "from gpg_vl.verifiers.base import Grade, RuleVerifier\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Smell(RuleVerifier):\n"
        "    def grade(self, answer, sample):\n"
        "        return Grade(float(answer == sample.answer), answer, 'right')\n\n"
        "    def reference_answer(self, sample):\n"
        "        return sample.answer\n"
    )
    assert "answer_kind 'smell' has no verifier" in run()[1]
    Path("test.yaml").write_text(TEST + 'verifiers: {smell: "./noses.py:Smell"}\n')
    code, output = run()
    assert code == 0, output
    assert "none of 5 test pictures" in output


def test_the_engine_of_an_audit_is_closed(run, monkeypatch):
    from gpg_vl.rollout.transformers_engine import TransformersEngine

    closed: list[object] = []
    monkeypatch.setattr(TransformersEngine, "close", lambda engine: closed.append(engine))
    run("--model", "tiny")
    assert len(closed) == 1


def test_naming_everything_is_tried_as_a_constant(run):
    Path("samples.jsonl").write_text(
        rows(5, answer_kind="words", answer="a b")
        + rows(5, first=5, answer_kind="words", answer="c")
    )
    Path("rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "from gpg_vl.verifiers.base import Grade, RuleVerifier\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Words(RuleVerifier):\n"
        "    def grade(self, answer, sample):\n"
        "        found = set(answer.split())\n"
        "        right = set(sample.answer.split()) <= found <= set('abc')\n"
        "        return Grade(float(right), answer, 'right')\n\n"
        "    def reference_answer(self, sample):\n"
        "        return sample.answer\n"
    )
    code, output = run('verifiers={words: "./rewards.py:Words"}')
    assert code == 1
    assert (
        "stop  words: one answer is always right, whatever the truth is: best constant of those "
        "tried, 'a b c', earns 1.0000" in output
    )


@pytest.mark.parametrize(
    ("prepare", "overrides", "reason"),
    [
        (
            lambda: Path("samples.jsonl").write_text(rows(10, answer=3)),
            (),
            "one answer is always right, so there is nothing to learn",
        ),
        (
            lambda: Path("samples.jsonl").write_text(rows(10, answer="many")),
            (),
            "all 10 rows are unusable; 0: answer 'many' is not a number",
        ),
        (lambda: None, ("rollout.max_tokens=2",), "answers: the shortest right answer takes"),
        (
            lambda: Path("samples.jsonl").write_text(rows(10, question="why? " * 9000)),
            (),
            "all 10 rows are unusable; 0: its text has 45,000 characters",
        ),
        (
            lambda: Path("held_out.jsonl").unlink(),
            (),
            "evaluation.benchmark: files: held_out.jsonl does not exist",
        ),
    ],
)
def test_what_cannot_learn_exits_1_with_the_reason(run, prepare, overrides, reason):
    prepare()
    code, output = run(*overrides)
    assert code == 1, output
    assert reason in output
    assert "cannot learn: " in output.splitlines()[-1]


def test_a_reward_that_can_be_fooled_exits_1(run):
    Path("rewards.py").write_text(
        "from dataclasses import dataclass\n"
        "from gpg_vl.verifiers.base import Grade, RuleVerifier\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Generous(RuleVerifier):\n"
        "    def grade(self, answer, sample):\n"
        "        right = str(sample.answer) in answer or len(answer) > 40\n"
        "        return Grade(float(right), answer, 'right')\n\n"
        "    def reference_answer(self, sample):\n"
        "        return str(sample.answer)\n"
    )
    code, output = run('verifiers={number: "./rewards.py:Generous"}')
    assert code == 1
    assert "the reward can be fooled" in output


def test_the_authors_rules_have_holes_and_that_is_worth_knowing(run):
    Path("samples.jsonl").write_text(
        rows(10, answer_kind="label", answer="rose", choices=["rose", "iris"])
    )
    code, output = run("reward.mode=reference")
    assert "mind  label: the authors' rule has holes" in output
    assert code == 1  # and here every row has the same answer


def test_naming_every_class_is_a_hole_of_the_authors_rule_and_does_not_stop_their_experiment(run):
    names = ("rose", "iris", "lily")
    Path("samples.jsonl").write_text(
        "".join(
            rows(3, first=3 * place, answer_kind="label", answer=name, choices=names)
            for place, name in enumerate(names)
        )
    )
    code, output = run("reward.mode=reference")
    assert (
        "mind  label: one answer is always right, whatever the truth is: best constant of those "
        "tried, 'rose iris lily'" in output
    )
    assert code == 0, output


def test_a_model_is_asked_and_one_that_says_nothing_right_stops_the_run(run):
    code, output = run("--model", "tiny")
    assert code == 1
    assert "reasons: " in output
    assert "rewards: 0.00 [32] 0.00, mean 0.000" in output
    assert "informative: 0 % of 16 groups" in output
    assert "no group is informative, so there is no gradient" in output


@pytest.mark.parametrize(
    ("changed", "lost", "start"),
    [
        ({"rollout": {"engine": "vllm"}}, "vllm", "rollout.engine: vllm is not installed"),
        (
            {"rollout": {"engine": {"kind": "vllm"}}},
            "vllm",
            "rollout.engine: vllm is not installed",
        ),
        ({"rollout": {"engine": "transformers"}}, "vllm", None),
        ({"trackers": ["wandb"]}, "wandb", "trackers: wandb is not installed"),
        ({"trackers": ["wandb"]}, "trackio", None),
        (
            {"data": [{"hub": "who/what"}]},
            "datasets",
            "data: who/what is read with the package datasets",
        ),
        (
            {"warmup": {"data": [{"hub": "warm/up"}]}},
            "datasets",
            "data: warm/up is read with the package datasets",
        ),
        (
            {"evaluation": {"benchmark": "test.yaml"}},
            "datasets",
            "data: held/out is read with the package datasets",
        ),
        ({}, "datasets", None),
        ({"policy": {"language": "lora"}}, "peft", "policy: lora needs peft, which is not"),
        ({"policy": {"language": "lora"}}, "bitsandbytes", None),
        ({}, "peft", None),
        (
            {"policy": {"language": "lora", "quantise": "nf4"}},
            "bitsandbytes",
            "policy.quantise: nf4 needs bitsandbytes, which is not installed: pip install",
        ),
        (
            {"optimizer": {"kind": "adamw8bit"}},
            "bitsandbytes",
            "optimizer.kind: adamw8bit needs bitsandbytes, which is not",
        ),
        (
            {"warmup": {"steps": 3, "optimizer": {"kind": "adamw8bit"}}},
            "bitsandbytes",
            "warmup.optimizer.kind: adamw8bit needs bitsandbytes, which is not",
        ),
        ({"warmup": {"optimizer": {"kind": "adamw8bit"}}}, "bitsandbytes", None),
    ],
)
def test_a_package_is_missed_only_where_it_is_needed(changed, lost, start, tmp_path, monkeypatch):
    (tmp_path / "test.yaml").write_text("name: test\ndata: [{hub: held/out}]\n")
    monkeypatch.setattr(
        audit.importlib.util, "find_spec", lambda name: None if name == lost else name
    )
    given = config(**changed).at(tmp_path)
    found = list(audit.packages(given, audit._benchmark_sources(given)))
    assert [each.level for each in found] == (["stop"] if start else [])
    assert all(each.text.startswith(str(start)) for each in found)


def test_the_package_of_an_adapter_that_a_run_begins_with_is_missed(monkeypatch):
    adapter = AdapterFiles(
        folder=Path("/somewhere"), settings={}, shapes={}, about_base={"quantise": "nf4"}
    )
    assert not list(audit.packages(config(), (), adapter))
    for lost, why in {"peft": "a LoRA adapter needs peft", "bitsandbytes": "needs bits"}.items():
        installed = {"peft", "bitsandbytes"} - {lost}
        monkeypatch.setattr(
            audit.importlib.util, "find_spec", lambda name, here=installed: name in here or None
        )
        (found,) = audit.packages(config(), (), adapter)
        assert found.level == "stop"
        assert found.text.startswith("policy.model: /somewhere: ")
        assert why in found.text


def test_adapters_that_training_would_refuse_stop():
    run = run_of("policy.language=lora", "policy.projector=frozen")
    assert not list(audit.adapters(run))
    tower = adapter_on({"model.visual.blocks.0.attn.qkv": (100, 300)})
    (found,) = audit.adapters(replace(run, adapter=tower))
    assert found.level == "stop"
    assert "has no matrix in language, and policy.language is lora" in found.text


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UserError("the template thinks"), "the template thinks"),
        (OSError("no\n  such file"), "no such file"),
        (ValueError("no such class"), "no such class"),
    ],
)
def test_a_template_that_does_not_fit_and_a_model_that_is_not_there_are_reported(
    error, why, monkeypatch, tmp_path
):
    """The rows are checked all the same, without a model."""

    def fails(given):
        raise error

    monkeypatch.setattr(model_checks, "reader_of", fails)
    row = '{"question": "How many?", "answer_kind": "number", "answer": %d}\n'
    (tmp_path / "a.jsonl").write_text("".join(row % answer for answer in range(9)))
    given = Experiment.resolve(config(evaluation={"benchmark": None}).at(tmp_path))
    found = list(audit.audit(given))
    assert Finding("stop", f"prompts: not checked: {why}") in found
    assert Finding("fine", "reference answers: 9 rows earn the full reward") in found
    assert not [finding for finding in found if finding.text.startswith("lengths")]


def test_a_verifier_that_fails_on_every_row_of_a_kind_stops_the_run(run):
    Path("own.py").write_text(
        "from gpg_vl import Grade, RuleVerifier\n"
        "class Own(RuleVerifier):\n"
        "    def grade(self, answer, sample):\n"
        "        return Grade.of(abs(sample.answer) < 1, answer)\n"
        "    def reference_answer(self, sample):\n"
        "        return sample.answer\n"
    )
    with Path("samples.jsonl").open("a") as file:
        file.write(rows(3, first=10, answer_kind="label", answer="cat"))
    code, output = run('verifiers={label: "./own.py:Own"}', "evaluation.benchmark=null")
    assert code == 1, output
    assert "mind  left out: 3 rows of 13; 3 like 10: Own fails on it: TypeError" in output
    assert "left out: all 3 rows of kind label: their verifier fails; mend it" in output
    assert "cannot learn" in output


OWN = """from gpg_vl import Grade, RuleVerifier
class Own(RuleVerifier):
    def grade(self, answer, sample):
        return {grade}
    def reference_answer(self, sample):
        return str(sample.answer)
"""


def test_a_verifier_that_fails_on_some_answers_is_a_sentence_and_stops(run):
    Path("own.py").write_text(OWN.format(grade="Grade.of(int(answer) == sample.answer, answer)"))
    code, output = run("verifiers.number=./own.py:Own", "evaluation.benchmark=null")
    assert code == 1, output
    assert "Own fails where hostile or constant answers are tried: ValueError: invalid" in output
    assert "(own.py line 4)" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("grade", "why"),
    [
        ("1.0", "TypeError: grade returned 1.0, expected Grade(accuracy, answer, reason)"),
        ("Grade(2, answer, 'right')", "TypeError: grade returned accuracy 2, expected 0 to 1"),
    ],
)
def test_what_is_no_grade_is_said_in_words(grade, why, run):
    Path("own.py").write_text(OWN.format(grade=grade))
    code, output = run("verifiers.number=./own.py:Own", "evaluation.benchmark=null")
    assert code == 1
    assert f"Own fails on it: {why}" in " ".join(output.split())


def test_a_task_whose_rows_all_miss_the_full_reward_stops_the_run_and_a_stray_row_does_not(run):
    Path("own.py").write_text(OWN.format(grade="Grade(0.5, answer, 'right')"))
    with Path("samples.jsonl").open("a") as file:
        file.write(rows(1, first=10, answer_kind="label", answer="cat"))
    own = 'verifiers={label: "./own.py:Own"}'
    code, output = run(own, "evaluation.benchmark=null")
    assert code == 1, output
    assert "cannot learn: left out: the only row of kind label: mend them" in output
    with Path("samples.jsonl").open("a") as file:
        file.write(rows(30, first=11, images=[]))
    code, output = run(own, "evaluation.benchmark=null")
    assert code == 0, output
    assert "mind  left out: the only row of kind label: mend them" in output
