"""Trying a policy without training it: which config and weights belong to a name, what makes two
evaluations one, and in which order."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl import experiment, run_folder
from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.models import find
from gpg_vl.config.schema import BenchmarkSpec, Config, PolicyConfig, Source
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UserError
from gpg_vl.evaluation import evaluate
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.experiment import Experiment
from gpg_vl.policy import askable, load
from gpg_vl.preflight import try_rollout
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import Completion, Group, LeftOut, Prompt, Sample, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value

HERE = Path(__file__).parents[1]


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder of seed 5 with checkpoints of steps 2 and 10, begun from a config in a folder
    of its own."""
    folder = tmp_path / "runs" / "mine"
    for step in (2, 10):
        policy = folder / "checkpoints" / f"{step:06d}" / "policy"
        policy.mkdir(parents=True)
        (policy / "model.safetensors").write_text(f"weights {step}")
        (policy.parent / "state.json").write_text("{}")
    config = loading.load(str(HERE / "small.yaml"), ["seed=5"])
    run_folder.write_header(folder, loading.dump(config), {"config_folder": str(HERE)})
    return folder


# --- whose config, whose weights ------------------------------------------------------------------


@pytest.mark.parametrize(
    "below", ["", "checkpoints/000002", "checkpoints/000002/policy", "checkpoints/000010/policy"]
)
def test_a_run_and_a_policy_of_it_bring_the_runs_own_config(below, run):
    config = loading.load_for_model(str(run / below), ["steps=77"])
    assert (config.seed, config.steps, config.base_dir) == (5, 77, HERE)


@pytest.mark.parametrize("below", ["checkpoints", "checkpoints/000002/policy/deeper", "elsewhere"])
def test_anything_else_is_a_checkpoint_with_defaults_around_it(below, run):
    (run / below).mkdir(exist_ok=True)
    config = loading.load_for_model(str(run / below), ["rollout.max_tokens=9"])
    assert config == Config(
        data=(Source(recipe="digits"),),
        policy=PolicyConfig(model=str(run / below)),
        rollout={"max_tokens": 9},
    )
    assert config.base_dir == Path()


@pytest.mark.parametrize("missing", ["config.yaml", "environment.json"])
def test_half_a_run_folder_is_none(missing, run):
    (run / missing).unlink()
    assert loading.load_for_model(str(run), []).seed == 0


def test_the_newest_policy_of_a_run_is_taken_or_the_named_checkpoint(run, monkeypatch):
    made: list[Any] = []
    monkeypatch.setattr(
        load,
        "load_policy",
        lambda config, *, seed, log, key: made.append((find(config.model, key).name, seed)),
    )
    monkeypatch.setattr(load, "only_asked", lambda config, key: config)  # there are no files
    experiment = Experiment.resolve(loading.load_run(run))
    experiment.policy_of(str(run))
    experiment.policy_of("some/hub")
    experiment.policy_of(str(run / "checkpoints" / "000002" / "policy"))
    named = str(run / "checkpoints" / "000002" / "policy")
    assert made == [
        (str(run / "checkpoints" / "000010" / "policy"), 5),
        ("some/hub", 5),
        (named, 5),
    ]


# --- is it the same evaluation? -------------------------------------------------------------------

SAMPLE = Sample(
    id="q1", question="?", answer_kind="number", answer=3, tags={"task": "add"}, columns={"row": 1}
)


@dataclass(frozen=True)
class Shown:
    """What a fingerprint is made of."""

    benchmark: Benchmark
    config: Config
    model: str
    blank: bool = False
    revision: str = "a"

    def print(self) -> str:
        policy: Any = SimpleNamespace(
            model=SimpleNamespace(config=SimpleNamespace(_commit_hash=self.revision))
        )
        experiment = Experiment(self.config, Frame())
        return evaluate._fingerprint(self.benchmark, experiment, self.model, policy, self.blank)


@pytest.fixture
def shown(tmp_path) -> Shown:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("1234")
    os.utime(tmp_path / "model" / "model.safetensors", ns=(10**18, 10**18))
    spec = BenchmarkSpec(name="small", data=(Source(recipe="digits"),))
    verifiers = VerifierSet(by_kind={"number": Number()}, truncated="zero")
    benchmark = Benchmark(
        spec=spec, questions=[SAMPLE], style=AnswerOnly(), verifiers=verifiers, seed=1
    )
    return Shown(benchmark, Config(data=(Source(recipe="digits"),)), str(tmp_path / "model"))


CHANGES: dict[str, Any] = {
    "a row's answer": lambda it: replace(
        it, benchmark=replace(it.benchmark, questions=[replace(SAMPLE, answer=4)])
    ),
    "a row's source": lambda it: replace(
        it, benchmark=replace(it.benchmark, questions=[replace(SAMPLE, source="other.jsonl")])
    ),
    "a row's tags": lambda it: replace(
        it, benchmark=replace(it.benchmark, questions=[replace(SAMPLE, tags={"task": "box"})])
    ),
    "a row's own columns": lambda it: replace(
        it, benchmark=replace(it.benchmark, questions=[replace(SAMPLE, columns={"row": 2})])
    ),
    "bytes in a column": lambda it: replace(
        it, benchmark=replace(it.benchmark, questions=[replace(SAMPLE, columns={"row": b"1"})])
    ),
    "one row more": lambda it: replace(
        it, benchmark=replace(it.benchmark, questions=[SAMPLE, replace(SAMPLE, id="q2")])
    ),
    "samples of the spec": lambda it: replace(
        it,
        benchmark=replace(it.benchmark, spec=it.benchmark.spec.model_copy(update={"samples": 1})),
    ),
    "max_tokens of the spec": lambda it: replace(
        it,
        benchmark=replace(
            it.benchmark, spec=it.benchmark.spec.model_copy(update={"max_tokens": 1})
        ),
    ),
    "mode of the spec": lambda it: replace(
        it,
        benchmark=replace(
            it.benchmark, spec=it.benchmark.spec.model_copy(update={"mode": "lenient"})
        ),
    ),
    "the seed": lambda it: replace(it, benchmark=replace(it.benchmark, seed=2)),
    "the verifier": lambda it: replace(
        it,
        benchmark=replace(
            it.benchmark, verifiers=VerifierSet(by_kind={"number": Value()}, truncated="zero")
        ),
    ),
    "grey pictures": lambda it: replace(it, blank=True),
    "the pixels": lambda it: replace(
        it, config=it.config.model_copy(update={"policy": PolicyConfig(max_pixels=900)})
    ),
    "the number format": lambda it: replace(
        it, config=it.config.model_copy(update={"policy": PolicyConfig(dtype="bfloat16")})
    ),
    "the prompt of the config": lambda it: replace(
        it, config=it.config.model_copy(update={"prompt": "answer"})
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_an_answer_or_its_score_depends_on_makes_another_evaluation(change, shown):
    assert CHANGES[change](shown).print() != shown.print()


def test_an_adapter_on_another_base_model_is_another_evaluation(shown, tmp_path, monkeypatch):
    (Path(shown.model) / "adapter_config.json").write_text("{}")
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_text("1234")
    files = SimpleNamespace(folder=base)
    monkeypatch.setattr(evaluate, "find_model", lambda name, key: files)
    before = shown.print()
    assert shown.print() == before
    (base / "model.safetensors").write_text("12345")
    assert shown.print() != before


def test_the_same_again_is_the_same_and_the_rest_of_the_config_does_not_count(shown):
    again = replace(shown, benchmark=replace(shown.benchmark, left_out=[LeftOut("q9", "unlucky")]))
    assert again.print() == shown.print()
    assert len(shown.print()) == 16
    for update in ({"steps": 7}, {"name": "other"}, {"seed": 9}, {"estimator": "grpo"}):
        assert (
            replace(shown, config=shown.config.model_copy(update=update)).print() == shown.print()
        )


def test_what_is_no_json_counts_by_its_kind_and_not_by_its_address(shown):
    marks = [
        replace(
            shown,
            benchmark=replace(
                shown.benchmark, questions=[replace(SAMPLE, columns={"row": object()})]
            ),
        )
        for _ in range(2)
    ]
    assert marks[0].print() == marks[1].print()


def test_bytes_count_by_their_content(shown):
    one, other = (
        replace(
            shown,
            benchmark=replace(shown.benchmark, questions=[replace(SAMPLE, columns={"row": it})]),
        )
        for it in (b"1", b"2")
    )
    assert one.print() != other.print()


def test_another_release_is_another_evaluation(shown, monkeypatch):
    before = shown.print()
    monkeypatch.setattr(evaluate, "__version__", "0.0.0")
    assert shown.print() != before


@pytest.mark.parametrize("change", ["content", "time", "name", "folder"])
def test_weights_in_files_are_known_by_name_size_and_time(change, shown, tmp_path):
    before, path = shown.print(), tmp_path / "model" / "model.safetensors"
    assert replace(shown, revision="b").print() == before, "files say more than a name does"
    if change == "content":
        path.write_text("12345")
        os.utime(path, ns=(10**18, 10**18))
    if change == "time":
        os.utime(path, ns=(10**18, 10**18 + 1))
    if change == "name":
        path.rename(path.with_name("other.safetensors"))
    if change == "folder":
        (tmp_path / "model").rename(tmp_path / "other")
        shown = replace(shown, model=str(tmp_path / "other"))
    assert shown.print() != before


def test_weights_of_a_hub_are_known_by_name_and_revision(shown):
    hub = replace(shown, model="who/model")
    assert hub.print() == replace(hub).print()
    assert (
        len(
            {
                it.print()
                for it in (hub, replace(hub, model="who/other"), replace(hub, revision="b"), shown)
            }
        )
        == 4
    )


def test_a_run_is_known_by_its_newest_policy(shown, run):
    of_run, of_policy = (
        replace(shown, model=str(path)) for path in (run, run / "checkpoints" / "000010" / "policy")
    )
    assert of_run.print() == of_policy.print()
    before = of_run.print()
    (run / "checkpoints" / "000002" / "policy" / "model.safetensors").write_text("other")
    assert of_run.print() == before
    (run / "checkpoints" / "000010" / "policy" / "model.safetensors").write_text("another length")
    assert of_run.print() != before


# --- in which order -------------------------------------------------------------------------------


class NotingExperiment(Experiment):
    """Notes what an evaluation asks of an experiment, and makes nothing."""

    noted: list[Any]

    def policy_of(self, model: str, *, log: Any = print) -> Any:
        self.noted.append("policy")
        return SimpleNamespace(frame=None)

    def benchmark(self, policy: Any, name: str | None = None, overrides: Any = ()) -> Any:
        self.noted.append(("read", name, overrides))
        is_of_boxes = name == "boxes"
        return SimpleNamespace(
            spec=SimpleNamespace(average_precision="coco" if is_of_boxes else None),
            missing="two are left out" if is_of_boxes else "",
            questions=[1, 2],
            style="style",
            without=lambda unusable: SimpleNamespace(left_out=unusable),
        )

    def engine(self, policy: Any, **more: Any) -> Any:
        self.noted.append("engine")
        return SimpleNamespace(close=lambda: self.noted.append("close"))

    def verify_engine(self, engine: Any, policy: Any, prompt_at: Any) -> None:
        self.noted.append("verify")


class NotingLog:
    """Notes when the file of an evaluation is read and finished."""

    noted: list[Any]

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path

    def records(self) -> list[Any]:
        self.noted.append(("read records", self.path))
        return []

    def finish(self, records: Any) -> None:
        self.noted.append(("finish", self.path, records))


@pytest.fixture
def events(monkeypatch) -> list[Any]:
    """Everything that an evaluation does, noted."""
    noted: list[Any] = []
    monkeypatch.setattr(NotingExperiment, "noted", noted, raising=False)
    monkeypatch.setattr(NotingLog, "noted", noted, raising=False)

    def config(model: str, knobs: Any) -> Config:
        noted.append(("config", knobs))
        return loading.load("digits")

    def run_benchmark(
        benchmark: Any,
        policy: Any,
        engine: Any,
        *,
        model: str,
        blank: bool,
        on_progress: Any,
        on_left_out: Any,
        eval_log: Any,
    ) -> list[str]:
        on_progress(2, 2)
        on_left_out(LeftOut("q", "why"))
        noted.append(("run", blank, eval_log and eval_log.path))
        return ["records"]

    monkeypatch.setattr(loading, "load_for_model", config)
    monkeypatch.setattr(evaluate, "Experiment", NotingExperiment)
    monkeypatch.setattr(evaluate, "EvalLog", NotingLog)
    monkeypatch.setattr(
        evaluate, "save_left_out", lambda rows, path: noted.append(("left out", rows, path))
    )
    monkeypatch.setattr(evaluate, "_fingerprint", lambda *given: "print")
    monkeypatch.setattr(
        evaluate.average_precision, "check_installed", lambda: noted.append("check")
    )
    monkeypatch.setattr(evaluate, "run_benchmark", run_benchmark)
    return noted


def test_everything_that_may_go_wrong_is_tried_before_anything_is_asked(events):
    path_of = {"boxes": Path("boxes.jsonl"), "words": None}
    said: list[str] = []
    counted: list[Any] = []
    taken = list(
        evaluate.evaluate_benchmarks(
            ["words", "boxes"],
            "model",
            ["steps=3", "benchmark.samples=0", "policy.dtype=float64"],
            blank=True,
            on_progress=lambda *given: counted.append(given),
            path_of=path_of.__getitem__,
            log=said.append,
        )
    )
    assert events == [
        ("config", ["steps=3", "policy.dtype=float64"]),
        "policy",
        ("read", "words", ["samples=0"]),
        ("read", "boxes", ["samples=0"]),
        "check",
        ("read records", Path("boxes.jsonl")),
        "engine",
        "verify",
        ("run", True, None),
        "verify",
        ("run", True, Path("boxes.jsonl")),
        "verify",
        ("finish", Path("boxes.jsonl"), ["records"]),
        ("left out", [LeftOut("q", "why")], Path("boxes.jsonl")),
        "close",
    ]
    assert said == ["two are left out"]
    assert counted == [("words", 2, 2), ("boxes", 2, 2)]
    assert [records for _, records in taken] == [["records"], ["records"]]


@pytest.mark.parametrize(
    ("needs_verification", "every", "checks"), [(True, 1, 1), (False, 1, 0), (True, 0, 0)]
)
def test_only_an_engine_with_weights_of_its_own_has_to_prove_them(
    needs_verification, every, checks, monkeypatch
):
    checked: list[Any] = []
    gate = SimpleNamespace(check=lambda *given: checked.append(given))
    monkeypatch.setattr(Experiment, "gate", lambda self, prompt_at, engine: gate if every else None)
    engine: Any = SimpleNamespace(needs_verification=needs_verification)
    policy: Any = object()
    experiment = Experiment.resolve(loading.load("digits"))
    experiment.verify_engine(engine, policy, lambda index: pytest.fail("asked"))
    assert checked == [(engine, policy, 0)] * checks


def test_groups_that_are_tried_out_are_reported_and_written(tmp_path, monkeypatch):
    def answered(draw: int, rewards: list[float]) -> Group:
        sample = Sample(id=f"q{draw}", question="1 + 2?", answer_kind="number", answer=3)
        said = Completion(
            token_ids=(1,), logprobs=(0.0,), text="<answer>3</answer>", finish="stop", version=0
        )
        verdicts = tuple(Verdict(reward=reward, reason="right") for reward in rewards)
        prompt = Prompt(sample=sample, text="", input_ids=(1,), features={})
        return Group(
            prompt=prompt, completions=(said,) * len(rewards), verdicts=verdicts, prompt_index=draw
        )

    groups = {0: answered(0, [1.0, 0.0]), 1: answered(1, [0.5, 0.5]), 2: answered(2, [0.0, 0.0])}
    asked: list[Any] = []
    policy = SimpleNamespace(frame=Frame(), processor=None, window=100)
    monkeypatch.setattr(
        load,
        "load_policy",
        lambda config, *, seed, path, log: asked.append(("own", seed)) or policy,
    )
    monkeypatch.setattr(
        Experiment, "policy_of", lambda self, model: asked.append(("chosen", model)) or policy
    )
    monkeypatch.setattr(experiment, "check_template", lambda style, processor: None)
    monkeypatch.setattr(askable.Limits, "of", lambda processor, window: None)
    samples = Dataset(sources=([1],), weights=(1,), seed=8)
    monkeypatch.setattr(experiment, "read_dataset", lambda *given, **more: samples)
    monkeypatch.setattr(
        Experiment,
        "prompt_at",
        lambda self, policy, dataset: lambda index: f"prompt {index} of {len(dataset.samples)}",
    )
    engine = SimpleNamespace(close=lambda: asked.append("close"), needs_verification=False)
    monkeypatch.setattr(Experiment, "engine", lambda self, policy: engine)

    def sample_round(context: Any, cursor: int, unusable: list[str]) -> list[Group]:
        count = context.groups_per_rank
        prompts = [context.prompt_at(cursor + index) for index in range(count)]
        assert prompts == [f"prompt {index} of 1" for index in range(count)]
        return [groups[index] for index in range(count)]

    monkeypatch.setattr(try_rollout, "sample_round", sample_round)
    small = Experiment.resolve(loading.load(str(HERE / "small.yaml"), ["seed=8"]))
    lines = list(
        try_rollout.sample_and_score(small, model=None, count=3, to=tmp_path / "answers.jsonl")
    )
    assert lines[:3] == [
        "q0: 1 + 2?  (truth: 3)",
        "   1.00  '<answer>3</answer>'  right",
        "   0.00  '<answer>3</answer>'  right",
    ]
    assert lines[-2:] == [
        "mean reward 0.333, informative 33 % of 3 groups",
        f"written: {tmp_path / 'answers.jsonl'}",
    ]
    written = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [(row["id"], row["used"], len(row["answers"])) for row in written] == [
        ("q0", False, 2),
        ("q1", False, 2),
        ("q2", False, 2),
    ]
    list(try_rollout.sample_and_score(small, model="other", count=1, to=None))
    assert asked == [("own", 8), "close", ("chosen", "other"), "close"]
    # A failing verifier gives no reward: it counts in no mean, and is null in the file.
    groups[1] = answered(1, [math.nan, math.nan])
    lines = list(
        try_rollout.sample_and_score(small, model=None, count=2, to=tmp_path / "answers.jsonl")
    )
    assert lines[-2] == "mean reward 0.500, informative 50 % of 2 groups"
    second = json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[1])
    assert [answer["reward"] for answer in second["answers"]] == [None, None]


def test_answers_of_another_evaluation_are_reported_before_an_engine_is_built(events, monkeypatch):
    def foreign(self: Any) -> Any:
        raise UserError("answers of another evaluation")

    monkeypatch.setattr(NotingLog, "records", foreign)
    with pytest.raises(UserError, match="another evaluation"):
        list(
            evaluate.evaluate_benchmarks(
                ["words"], "model", [], path_of=lambda name: Path("a.jsonl")
            )
        )
    assert "engine" not in events
