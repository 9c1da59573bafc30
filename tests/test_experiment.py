"""An experiment makes each part once, and says early what does not fit."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl import experiment as experiments
from gpg_vl import progress
from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.schema import BenchmarkSpec, Config, Source
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.experiment import Experiment
from gpg_vl.policy import askable
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.types import LeftOut, Prompt, Sample
from tests.hand_made import prompt

HERE = Path(__file__).parent


def small(*knobs: str) -> Config:
    return loading.load(str(HERE / "small.yaml"), list(knobs))


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Parts in the order in which they were made."""
    parts: list[str] = []
    for name in ("style", "verifiers", "estimator"):
        build = getattr(experiments, f"build_{name}")

        def counted(*given: Any, name: str = name, build: Any = build) -> Any:
            parts.append(name)
            return build(*given)

        monkeypatch.setattr(experiments, f"build_{name}", counted)
    monkeypatch.setattr(experiments, "check_template", lambda style, processor, key="prompt": None)
    monkeypatch.setattr(askable.Limits, "of", lambda processor, window: None)
    return parts


def policy_in(frame: Frame) -> Any:
    return SimpleNamespace(frame=frame, processor="processor", window=100)


def test_each_part_is_made_once_on_the_way_to_a_run(made):
    experiment = Experiment.resolve(small())
    settled = experiment.config.learner.model_copy(update={"tokens_per_microbatch": 77})
    config = experiment.config.model_copy(update={"learner": settled})
    ready = experiment.with_config(config).for_policy(policy_in(experiment.frame))
    assert (ready.style, ready.estimator) == (experiment.style, experiment.estimator)
    assert ready.verifiers is experiment.verifiers
    assert sorted(made) == ["estimator", "style", "verifiers"]


def test_only_verifiers_are_made_again_for_a_model_with_another_frame(made):
    experiment = Experiment.resolve(small())
    ready = experiment.for_policy(policy_in(Frame(kind="norm1")))
    assert ready.verifiers is not experiment.verifiers
    assert ready.verifiers.by_kind["boxes"].frame == Frame(kind="norm1")  # type: ignore[attr-defined]
    assert ready.style is experiment.style
    assert sorted(made) == ["estimator", "style", "verifiers", "verifiers"]


@pytest.mark.parametrize(
    ("knob", "again"),
    [
        ("prompt=think", {"style", "verifiers"}),
        ("reward.format=0.5", {"verifiers"}),
        ("estimator=rloo", {"estimator"}),
        ("rollout.groups_per_step=8", {"estimator"}),
        ("learner.updates_per_rollout=1", set()),
        ("steps=1", set()),
    ],
)
def test_a_changed_config_has_the_parts_that_the_change_touches_anew(knob, again, made):
    experiment = Experiment.resolve(small())
    made.clear()
    changed = experiment.with_config(small(knob))
    _ = changed.style, changed.verifiers, changed.estimator
    assert set(made) == again


def test_parts_of_another_folder_are_others(made, tmp_path):
    experiment = Experiment.resolve(small())
    made.clear()
    moved = experiment.with_config(experiment.config.at(tmp_path))
    _ = moved.style, moved.verifiers, moved.estimator
    assert set(made) == {"style", "verifiers", "estimator"}


def test_nothing_is_made_before_it_is_used(made):
    assert Experiment.of(small()).config.name == "small"
    assert made == []


def test_a_mistake_in_a_part_shows_when_it_is_resolved():
    with pytest.raises(UserError, match="estimator: got 'gpgg'"):
        Experiment.resolve(small("estimator=gpgg"))
    Experiment.of(small("estimator=gpgg"))  # rollout and evaluate need no method


def test_the_config_in_a_run_folder_knows_where_the_run_was_started(tmp_path):
    """So the command that a run prints at its end finds ./rewards.py again."""
    own, run = tmp_path / "own", tmp_path / "runs" / "mine"
    own.mkdir()
    run.mkdir(parents=True)
    (own / "own.yaml").write_text("data: [{recipe: digits}]\n")
    config = loading.load(str(own / "own.yaml"))
    assert config.base_dir == own
    (run / "config.yaml").write_text(loading.dump(config))
    (run / "environment.json").write_text(f'{{"config_folder": "{own}"}}')
    assert loading.load(str(run / "config.yaml")).base_dir == own
    assert loading.load_run(run).base_dir == own
    (run / "checkpoints" / "000000").mkdir(parents=True)
    (run / "checkpoints" / "000000" / "state.json").write_text("{}")
    assert loading.load_for_model(str(run)).base_dir == own


# --- style and benchmark --------------------------------------------------------------------------


def parts_of(config: Config) -> Experiment:
    """The parts of a config, for boxes in thousandths; none is made before it is asked for."""
    return Experiment(config, Frame(kind="norm1000"))


def asked(name: str) -> Sample:
    return Sample(id=name, question="?", answer_kind="number", answer=3)


@pytest.mark.parametrize(("think", "fits"), [("required", True), ("none", False)])
def test_a_style_that_the_template_breaks_is_refused(think, fits, monkeypatch):
    style: Any = SimpleNamespace(misfit=lambda thought: "" if fits else f"no room for {thought}")
    monkeypatch.setattr("gpg_vl.policy.encode.template_thought", lambda processor: "<think>")
    if fits:
        experiments.check_template(style, "processor")
        return
    with pytest.raises(UserError, match=r"^mine: prompt: no room for <think>$"):
        experiments.check_template(style, "processor", "mine: prompt")


def test_a_benchmark_is_the_named_one_or_that_of_the_config(tmp_path, monkeypatch):
    """Its rows are looked for in its own folder, its seed is the run's."""
    calls: list[Any] = []
    spec = SimpleNamespace(data="rows", name="mine", base_dir=Path("home"))
    left_out = (LeftOut("c", "unlucky"),)
    found = Dataset(([asked("a")], [asked("b")]), (1, 1), 6, left_out=left_out)
    monkeypatch.setattr(
        experiments,
        "load_benchmark",
        lambda name, base_dir, overrides: calls.append((name, base_dir, overrides)) or spec,
    )
    monkeypatch.setattr(
        Experiment,
        "benchmark_parts",
        lambda parts, own_spec: calls.append((parts, own_spec)) or ("style", "verifiers"),
    )
    monkeypatch.setattr(experiments, "check_template", lambda *given: calls.append(given))
    monkeypatch.setattr(
        experiments,
        "read_dataset",
        lambda data, verifiers, *, base_dir, seed, phase: (
            calls.append((data, verifiers, base_dir, seed)) or found
        ),
    )
    policy: Any = SimpleNamespace(processor="processor")
    config = small("evaluation.benchmark=own", "seed=6").at(tmp_path)
    parts = parts_of(config)
    made = parts.benchmark(policy, "other", ["samples=0"])
    assert calls == [
        ("other", tmp_path, ["samples=0"]),
        (parts, spec),
        ("style", "processor", "other: prompt"),
        ("rows", "verifiers", Path("home"), 6),
    ]
    assert [it.id for it in made.questions] == ["a", "b"]
    assert (made.seed, made.left_out) == (6, left_out)
    assert (made.spec, made.style, made.verifiers) == (spec, "style", "verifiers")
    calls.clear()
    parts.benchmark(policy)
    assert calls[0] == ("own", tmp_path, ())


def test_a_benchmark_asks_in_its_own_words_or_in_those_of_the_run():
    config = small("prompt=think", "reward.format=0.5", "reward.combine=sum")
    spec = BenchmarkSpec(
        name="mine", data=(Source(recipe="digits"),), verifiers={"number": "value"}, mode="lenient"
    )
    for chosen, kind in ((None, Style), ("answer", AnswerOnly)):
        own_spec = spec.model_copy(update={"prompt": chosen})
        style, verifiers = parts_of(config).benchmark_parts(own_spec)
        assert type(style) is kind
        number: Any = verifiers.by_kind["number"]
        assert (
            type(number).__name__,
            number.mode,
            number.combine,
            number.accuracy_weight,
            number.format_weight,
        ) == ("Value", "lenient", "gate", 1.0, 0.0), "accuracy, whatever the run is rewarded for"
        assert verifiers.whole


def test_the_words_of_a_benchmark_are_looked_for_beside_it_and_those_of_a_run_beside_the_config(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("home", "own"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"words_{folder}.py").write_text(
            "from dataclasses import dataclass\n\n"
            "from gpg_vl.prompts import AnswerOnly\n\n\n"
            "@dataclass(frozen=True)\n"
            "class Words(AnswerOnly):\n"
            f"    instruction: str = '{folder}'\n"
        )
    config = small("prompt=./words_own.py:Words").at(tmp_path / "own")
    spec = BenchmarkSpec(name="mine", data=(Source(recipe="digits"),)).at(tmp_path / "home")
    for chosen, instruction in ((None, "own"), ("./words_home.py:Words", "home")):
        own_spec = spec.model_copy(update={"prompt": chosen})
        style, _ = parts_of(config).benchmark_parts(own_spec)
        assert style.instruction == instruction


# --- the gate of a config -------------------------------------------------------------------------


def test_the_gate_asks_early_questions_that_fit_those_with_pictures_first():
    """Of sixteen: the odd ones have a picture, the fifth cannot be asked and the seventh has no
    room."""
    asked: list[int] = []

    def prompt_at(index: int) -> Prompt:
        asked.append(index)
        if index == 5:
            raise UnusableSampleError("gone")
        return prompt(index, images=index % 2, tokens=100 if index == 7 else 2)

    engine: Any = SimpleNamespace(max_model_len=lambda: 10, max_images=lambda: 9)
    knobs = [
        "rollout.gate.every=3",
        "rollout.gate.prompts=4",
        "rollout.gate.mean=0.5",
        "rollout.gate.worst=2",
        "rollout.max_tokens=8",
    ]
    parts = parts_of(small(*knobs, "rollout.temperature=0.7", "seed=3"))
    gate = parts.gate(prompt_at, engine)
    assert gate is not None
    assert asked == list(range(16))
    assert [it.sample.id for it in gate.prompts] == ["q1", "q3", "q9", "q11"]
    spare = [13, 15, 0, 2, 4, 6, 8, 10, 12, 14]
    assert [it.sample.id for it in gate.spare] == [f"q{number}" for number in spare]
    assert (gate.sampling.max_tokens, gate.sampling.temperature) == (8, 0.7)
    assert not gate.sampling.greedy
    assert (gate.seed, gate.mean, gate.worst) == (3, 0.5, 2)


def test_a_gate_that_nobody_wants_or_that_has_nothing_to_ask_is_none():
    engine: Any = SimpleNamespace(max_model_len=lambda: 10, max_images=lambda: 9)
    without_gate = parts_of(small("rollout.gate.every=0"))
    assert without_gate.gate(lambda index: pytest.fail("asked"), engine) is None
    full: Any = SimpleNamespace(max_model_len=lambda: 8, max_images=lambda: 9)
    with_gate = parts_of(small("rollout.gate.every=1"))
    assert with_gate.gate(prompt, full) is None  # 1 + 8 tokens


# --- method and rewards ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (["estimator=gpg"], ""),
        (
            ["estimator=gpg", "learner.updates_per_rollout=2"],
            r"learner\.updates_per_rollout: 2 with estimator Gpg: Gpg has no ratio",
        ),
        (["estimator=grpo", "learner.updates_per_rollout=2"], ""),
        (["estimator=rloo", "learner.updates_per_rollout=1"], ""),
        (["estimator=gpg", "rollout.carry_over=1"], ""),
        (
            ["estimator={kind: gpg, min_informative: 0}", "rollout.carry_over=1"],
            "carry_over: 1 with estimator Gpg and min_informative 0",
        ),
        (["estimator={kind: gpg, min_informative: 0}"], ""),
        (
            ["estimator=grpo", "rollout.carry_over=1"],
            "carry_over: 1 with estimator Grpo and min_informative 0",
        ),
    ],
)
def test_a_method_must_bear_what_is_asked_of_it(knobs, message):
    config = small(*knobs, "rollout.groups_per_step=6", "rollout.max_tokens=9")
    if message:
        with pytest.raises(UserError, match=message):
            experiments.build_estimator(config)
        return
    made: Any = experiments.build_estimator(config)
    assert (getattr(made, "groups_per_step", 6), getattr(made, "max_tokens", 9)) == (6, 9)
    assert hasattr(made, "groups_per_step") == (type(made).__name__ == "Gpg")


def test_a_knob_of_a_verifier_needs_no_kind_beside_it():
    made = parts_of(small("verifiers.boxes.measure=giou")).verifiers.by_kind["boxes"]
    assert (type(made).__name__, made.measure) == ("Boxes", "giou")
    with pytest.raises(UserError, match="expected a name or a mapping with `kind: NAME`"):
        parts_of(small("verifiers.stars.best=5")).verifiers  # noqa: B018


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "def own(completions, answer, **more): return [1.0]",
            "verifiers.number: the function ./own.py:own needs completions, answer, which is not "
            "given here; expected a class derived from gpg_vl.RuleVerifier",
        ),
        ("def own(**more): return [1.0]", "'./own.py:own' makes [1.0], expected a class derived"),
    ],
)
def test_a_reward_function_of_another_library_is_no_verifier(function, message, tmp_path):
    (tmp_path / "own.py").write_text(function)
    config = loading.load("digits", ["verifiers.number=./own.py:own"]).at(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        Experiment.resolve(config)


def test_rewards_of_a_config_reach_every_verifier():
    config = small(
        "reward={mode: lenient, combine: sum, accuracy: 0.75, format: 0.25, truncated: drop}",
    )
    made = experiments.build_verifiers(
        {"number": "value", "mine": "number"},
        AnswerOnly(),
        Frame(kind="norm1000"),
        config.reward,
        HERE,
    )
    assert made.truncated == "drop"
    assert {
        "choice",
        "number",
        "boxes",
        "detection",
        "label",
        "value",
        "expression",
        "mine",
    } <= made.by_kind.keys()
    number: Any = made.by_kind["number"]
    assert type(number).__name__ == "Value"
    assert (number.mode, number.combine, number.accuracy_weight, number.format_weight) == (
        "lenient",
        "sum",
        0.75,
        0.25,
    )
    assert type(number.style) is AnswerOnly
    boxes: Any = made.by_kind["boxes"]
    assert boxes.frame.kind == "norm1000"


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        (["policy.frame=norm1"], "norm1"),
        (["policy.tiny.family=qwen2_5_vl"], "resized"),
        (["policy.tiny.family=qwen2_vl"], "norm1000"),
        (["policy.model=who/knows"], "norm1000"),
        (["policy.model=who/knows", "policy.tiny.family=qwen2_5_vl"], "norm1000"),
    ],
)
def test_the_frame_of_answers_is_known_without_the_model(knobs, kind):
    assert Experiment.resolve(small(*knobs)).frame.kind == kind


def test_an_engine_is_given_where_it_runs(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from gpg_vl.rollout.engine import RolloutEngine\n\n\n"
        "class Mine(RolloutEngine):\n"
        "    def __init__(self, policy, rank, ranks, log, depth=1):\n"
        "        self.given = policy, rank, ranks, log, depth\n\n"
        "    def generate(self, prompts, sampling, seeds): ...\n\n"
        "    def update_weights(self, policy, version): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    policy: Any = "policy"
    config = small("rollout.engine={kind: './mine.py:Mine', depth: 3}").at(tmp_path)
    made: Any = parts_of(config).engine(policy, rank=1, ranks=2, log=print)
    assert made.given == ("policy", 1, 2, print, 3)


def test_what_is_read_is_named_for_its_use_and_a_recipe_says_how_much(monkeypatch):
    phases: list[tuple[str, int | None]] = []

    def noted(rows: Any, name: str, total: Any) -> Any:
        phases.append((name, total()))
        return rows

    monkeypatch.setattr(progress, "is_shown", lambda: True)
    monkeypatch.setattr(progress, "counted", noted)

    def digits(count: int, head: int | None = None) -> Source:
        return Source(recipe="digits", options={"task": "count", "count": count}, head=head)

    config = small()
    warmup = config.warmup.model_copy(update={"steps": 1, "data": (digits(9, head=5),)})
    config = config.model_copy(update={"data": (digits(3), digits(4)), "warmup": warmup})
    experiment = Experiment.of(config)
    spec = BenchmarkSpec(name="b", data=(digits(2),))
    _ = experiment.train_data, experiment.warmup_data
    experiments.read_benchmark(spec, *experiment.benchmark_parts(spec), seed=0)
    assert phases == [
        ("training data 1/2", 3),
        ("training data 2/2", 4),
        ("warm-up data", 5),
        ("held-out questions", 2),
    ]
