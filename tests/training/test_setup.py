"""Putting a run together, part by part: what each is given, what decides between two of them, and what is refused. No model is loaded."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl import experiment, run_folder
from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.schema import BenchmarkSpec, Config, Source
from gpg_vl.data import dataset
from gpg_vl.data import sources as data_sources
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.experiment import build_gate, solution
from gpg_vl.preflight import learnability
from gpg_vl.preflight.memory import Limits, Machine
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.training import checkpoint, resume_check, setup, sft, warmup_cache
from gpg_vl.training.checkpoint import State
from gpg_vl.types import Group, LeftOut, Prompt, Sample, Update
from tests.hand_made import group, prompt

HERE = Path(__file__).parents[1]


def small(folder: Path, *knobs: str) -> Config:
    return loading.load(str(HERE / "small.yaml"), [f"folder={folder}", "evaluation.benchmark=null", *knobs])


def sample(name: str = "q1", **more: Any) -> Sample:
    return Sample(**{"id": name, "question": "?", "answer_kind": "number", "answer": 3, **more})


def processes(count: int = 1, rank: int = 0, told: Any = None) -> Any:
    """This process among others, who say `told`."""
    return SimpleNamespace(count=count, rank=rank, is_main=rank == 0, everybodys=lambda own: [own] if told is None else [own, *told])


# --- `auto` and the hardware ------------------------------------------------------------------------------------------

NO_KL: Any = SimpleNamespace(kl=0.0)


def settled(config: Config, *, resume: Path | None = None, here: float | None = None, others: list[Any] | None = None, patch: Any) -> Any:
    """Budget and checkpointing that a run ends up with, and what is said."""
    said: list[str] = []
    patch.setattr(setup, "gpu_here", lambda: here)
    made = setup._settled(config, resume, NO_KL, processes(1 + len(others or []), told=others), said.append)
    assert made.model_copy(update={"learner": config.learner}) == config, "nothing else is changed"
    return (made.learner.tokens_per_microbatch, made.learner.checkpointing), said


@pytest.mark.parametrize(
    ("knobs", "limits"),
    [
        ([], (16384, False)),
        (["hardware.gb=24"], (65536, False)),
        (["learner.tokens_per_microbatch=77"], (77, False)),
        (["learner.checkpointing=true"], (16384, True)),
        (["learner.checkpointing=true", "hardware.gb=24"], (65536, True)),
        (["learner.tokens_per_microbatch=77", "hardware.gb=24"], (77, False)),
    ],
)
def test_auto_is_what_fits_and_what_is_said_stays(knobs, limits, tmp_path, monkeypatch):
    assert settled(small(tmp_path, *knobs), patch=monkeypatch) == (limits, [])


def test_a_run_that_goes_on_keeps_what_auto_was(tmp_path, monkeypatch):
    """However large the GPU is where it goes on; and what was said anew is a change, not `auto`."""
    begun = small(tmp_path, "learner.tokens_per_microbatch=77", "learner.checkpointing=true")
    (tmp_path / "config.yaml").write_text(loading.dump(begun))
    for here in (None, 0.001, 141.0):
        assert settled(small(tmp_path), resume=tmp_path, here=here, patch=monkeypatch) == ((77, True), [])
    own = small(tmp_path, "learner.tokens_per_microbatch=99")
    assert settled(own, resume=tmp_path, patch=monkeypatch) == ((99, True), [])
    (tmp_path / "config.yaml").write_text("name: old\nlearner: {checkpointing: true}\n")  # of a release without the other knob
    assert settled(small(tmp_path, "hardware.gb=24"), resume=tmp_path, patch=monkeypatch) == ((65536, True), [])


@pytest.mark.parametrize(
    ("named", "here", "others", "warned"),
    [
        (80, None, None, ""),
        (80, 80.0, None, ""),
        (80, 72.0, None, ""),  # what is printed on the box is met within a tenth
        (80, 71.9, None, "hardware.gb is 80, the smallest GPU here has 72"),
        (80, 80.0, [24.0, None], "hardware.gb is 80, the smallest GPU here has 24"),
        (80, 24.0, [80.0], "hardware.gb is 80, the smallest GPU here has 24"),
        (24, 80.0, None, ""),
        (0.5, None, None, "it has 0.5; gpg-vl plan says what to change"),
        (None, 0.5, None, "it has 0.5; gpg-vl plan says what to change"),
        (None, 80.0, [0.5], "it has 0.5; gpg-vl plan says what to change"),
    ],
)
def test_a_gpu_that_is_too_small_is_told(named, here, others, warned, tmp_path, monkeypatch):
    knobs = [f"hardware.gb={named}"] if named else []
    _, said = settled(small(tmp_path, *knobs), here=here, others=others, patch=monkeypatch)
    assert len(said) == bool(warned)
    assert not warned or (said[0].startswith("warning: ") and warned in said[0])


def test_groups_that_processes_cannot_share_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    accelerator = SimpleNamespace(process_index=0, num_processes=3, is_main_process=True)
    monkeypatch.setattr(setup, "start_accelerator", lambda: accelerator)
    monkeypatch.setattr(setup, "build_estimator", lambda *given: pytest.fail("read on"))
    with pytest.raises(UserError, match="4 cannot be shared by 3 processes; make it a multiple"):
        setup.set_up(small(tmp_path), HERE)


# --- learner, reference, warm-up --------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch) -> list[Any]:
    """What the parts of a learner are made with."""
    made: list[Any] = []

    def maker(name: str) -> Any:
        return lambda *given, **named: (
            made.append((name, given, named))
            or SimpleNamespace(to=lambda device: SimpleNamespace(requires_grad_=lambda wanted: (name, device, wanted)))
        )

    for name in ("GroupForward", "PlainForward", "Learner"):
        monkeypatch.setattr(setup, name, maker(name))
    monkeypatch.setattr(setup, "load_policy", lambda config, *, seed, path=None: made.append(("policy", seed, path)) or "another policy")
    return made


POLICY: Any = SimpleNamespace(sharing=SimpleNamespace(why_not=""))
ACCELERATOR: Any = SimpleNamespace(device="here", is_main_process=True, wait_for_everyone=lambda: None)


def test_a_learner_is_made_of_what_the_config_says(tmp_path, told):
    knobs = ["steps=9", "learner.tokens_per_microbatch=77", "learner.checkpointing=true", "rollout.temperature=0.5"]
    config = small(tmp_path, *knobs, "learner.updates_per_rollout=3", "estimator=grpo")
    say = print
    setup._learner(config, HERE, POLICY, NO_KL, ACCELERATOR, say)
    assert [name for name, *_ in told] == ["GroupForward", "Learner"]
    assert told[0][1:] == ((POLICY, 0.5), {"tokens_at_once": 77, "checkpointing": True})
    assert told[1][1][1:] == (config.optimizer, ACCELERATOR)
    assert told[1][2] == {"total_steps": 9, "tokens_per_microbatch": 77, "updates_per_rollout": 3, "reference": None, "say": say}


def test_rows_of_their_own_are_made_where_they_are_wished(tmp_path, told):
    setup._learner(small(tmp_path, "learner.shared_prefix=false"), HERE, POLICY, NO_KL, ACCELERATOR, print)
    assert told[0][:2] == ("PlainForward", (POLICY, 1.0))


def test_why_answers_are_rows_of_their_own_is_said(tmp_path, told):
    said: list[str] = []
    alone: Any = SimpleNamespace(sharing=SimpleNamespace(why_not="linear attention"))
    setup._learner(small(tmp_path), HERE, alone, NO_KL, ACCELERATOR, said.append)
    assert said == ["linear attention: every answer is a row of its own"]


def test_a_divergence_is_from_the_warmed_up_policy_of_the_same_seed(tmp_path, told):
    config, kl = small(tmp_path, "seed=5"), SimpleNamespace(kl=0.01)
    kept = warmup_cache.cache_path(config, HERE)
    with pytest.raises(UserError, match=r"the warmed-up policy, which estimator\.kl compares with, is gone; start the run anew"):
        setup._learner(config, HERE, POLICY, kl, ACCELERATOR, print)
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    told.clear()
    setup._learner(config, HERE, POLICY, kl, ACCELERATOR, print)
    assert ("policy", 5, kept) in told
    assert told[-1][2]["reference"] == ("GroupForward", "here", False), "it is not trained"
    told.clear()
    setup._learner(small(tmp_path, "warmup.steps=0", "seed=5"), HERE, POLICY, kl, ACCELERATOR, print)
    assert ("policy", 5, None) in told, "without a warm-up the config's own"


@pytest.mark.parametrize("main", [True, False])
def test_a_warm_up_is_made_where_there_is_none_and_kept_by_the_main_process(main, tmp_path, monkeypatch):
    config, done, events = small(tmp_path, "seed=5"), SimpleNamespace(model=SimpleNamespace()), []
    done.model.to = lambda device: events.append(("to", device))
    accelerator: Any = SimpleNamespace(device="here", is_main_process=main, wait_for_everyone=lambda: events.append("wait"))
    kept = warmup_cache.cache_path(config, HERE)
    monkeypatch.setattr(setup, "warm_up", lambda *given: events.append("warm up"))
    monkeypatch.setattr(warmup_cache, "store", lambda policy, place: events.append(("keep", place)))
    monkeypatch.setattr(setup, "load_policy", lambda config, *, seed, path: events.append(("load", seed, path)) or done)
    questions: Any = None
    assert setup._warmed_up(config, HERE, POLICY, questions, accelerator, print) is done
    assert events == ["warm up", *([("keep", kept)] if main else []), "wait", ("load", 5, kept), ("to", "here")]
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    events.clear()
    said: list[str] = []
    setup._warmed_up(config, HERE, POLICY, questions, accelerator, said.append)
    assert said == [f"warm-up: read from {kept}"]
    assert events == [("load", 5, kept), ("to", "here")]


@pytest.mark.parametrize(("steps", "told"), [(25, [*range(2, 25, 2), 25]), (5, [1, 2, 3, 4, 5]), (10, [*range(1, 11)])])
def test_a_warm_up_tells_about_ten_times_how_far_it_is(steps, told, tmp_path, monkeypatch):
    said: list[str] = []
    given: list[Any] = []

    def warm_up(policy, imitation, config, accelerator, tell, limits, say):
        given.append((imitation, config, limits))
        for step in range(1, config.steps + 1):
            tell(step, Update(metrics={"loss": 0.5}))

    monkeypatch.setattr(sft, "warm_up", warm_up)
    monkeypatch.setattr(setup, "build_verifiers", lambda *given: "checks")
    source, other = ([sample("own")],), ([sample("training")],)
    monkeypatch.setattr(setup, "read_questions", lambda sources, checks, *, folder, key: Dataset(sources=source, weights=(1,), left_out=()))
    training = Dataset(sources=other, weights=(1,), left_out=())
    policy: Any = SimpleNamespace(frame=None)
    config = small(tmp_path, f"warmup.steps={steps}", "rollout.max_tokens=9", "seed=4", "learner.tokens_per_microbatch=77")
    setup.warm_up(config, HERE, policy, training, ACCELERATOR, said.append)
    assert [line.partition(":")[0] for line in said] == [f"warm-up {step}/{steps}" for step in told]
    assert "loss 0.500" in said[0]
    imitation, warmup, limits = given[0]
    assert (imitation.stream.sources, imitation.stream.seed, imitation.stream.purpose) == (source, 4, "warmup")
    assert (imitation.max_tokens, warmup, limits) == (9, config.warmup, Limits(77, False))
    setup.warm_up(small(tmp_path, "warmup.data=[]"), HERE, policy, training, ACCELERATOR, said.append)
    assert given[1][0].stream.sources == other, "the training data, where it has none of its own"


# --- going on ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "differs", "unchanged"), [([], [], True), (["seed: 0 -> 1"], [], False), ([], ["threads: 1 -> 2"], False)]
)
def test_whether_all_is_as_it_was_is_known_and_what_is_not_is_told(changed, differs, unchanged, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(resume_check, "check", lambda run, own, *, allow_changed: changed)
    monkeypatch.setattr(resume_check, "environment_differences", lambda begun, now: iter(differs))
    run_folder.write_header(tmp_path, "", {})
    assert setup._tell_differences(tmp_path, {}, {}, allow_changed=True, say=said.append) == unchanged
    told = [f"changed, as allowed: {line}" for line in changed]
    assert said == told + [f"not as it was, so the last bits may differ: {line}" for line in differs]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_main_process_writes_the_folder_and_has_trackers(rank, tmp_path, monkeypatch):
    events: list[Any] = []
    monkeypatch.setattr(setup, "open_tracker", lambda name, run, config: (name, run, config["steps"]))
    monkeypatch.setattr(run_folder, "write_header", lambda *given: events.append("start"))
    monkeypatch.setattr(resume_check, "write", lambda *given: events.append("identity"))
    ranks = processes(2, rank)
    ranks.accelerator = SimpleNamespace(wait_for_everyone=lambda: events.append("wait"))
    config = small(tmp_path, "trackers=[wandb]")
    made = setup._open_journal(config, tmp_path, {}, {}, ["own"], ranks)
    assert events == (["wait"] if rank else ["start", "identity", "wait"])
    assert made.sinks == (["own"] if rank else ["own", ("wandb", tmp_path, 4)])
    assert (made.folder, made.rank) == (tmp_path, rank)


def test_a_checkpoint_brings_state_moments_version_and_journal_back(tmp_path, monkeypatch):
    events: list[Any] = []
    state = State(step=7, cursor=56, version=5, carried=(group([1.0, 0.0]),))
    monkeypatch.setattr(checkpoint, "load_state", lambda *given: events.append(("state", *given)) or state)
    monkeypatch.setattr(checkpoint, "load_learner", lambda *given, **more: events.append(("learner", *given, more)))
    trainer: Any = SimpleNamespace(
        config=small(tmp_path, "steps=9"),
        policy="policy",
        ranks="ranks",
        learner="learner",
        drawing=SimpleNamespace(ask="ask", engine=SimpleNamespace(refresh=lambda *given: events.append(("refresh", *given)))),
        journal=SimpleNamespace(rewind=lambda step: events.append(("rewind", step))),
        say=events.append,
    )
    setup._restore(trainer, tmp_path, False)
    assert trainer.state is state
    assert events[:4] == [
        ("state", tmp_path, "ask", "ranks"),
        ("learner", tmp_path, "learner", {"unchanged": False}),
        ("refresh", "policy", 5),
        ("rewind", 7),
    ]
    assert events[4].startswith("resumed from step 7 of 9 (weights, optimizer, schedule, 56 prompts drawn, 1 groups waiting): ")


def test_how_groups_are_drawn_on_a_process(tmp_path):
    """With six groups a step and a share of 0.4 of them that must speak: 2.4, so three."""
    config = small(tmp_path, "rollout.groups_per_step=6", "seed=3")
    ranks, method = processes(2, rank=1), SimpleNamespace(min_informative=0.4)
    made: Any = setup._drawing(config, "engine", "ask", "checks", method, ranks)
    assert (made.engine, made.ask, made.verifiers, made.config) == ("engine", "ask", "checks", config.rollout)
    assert (made.wanted, made.seed, made.rank, made.ranks, made.share) == (3, 3, 1, 2, 3)
    assert made.everybodys is ranks.everybodys
    assert made.clock.read() == {}


def test_the_environment_is_that_of_this_run(tmp_path):
    policy: Any = SimpleNamespace(device="cuda:0", image_backend="pil")
    told = setup._environment(policy, processes(3), tmp_path)
    own = {"threads": torch.get_num_threads(), "device": "cuda:0", "processes": 3, "image_backend": "pil", "config_folder": str(tmp_path)}
    assert own.items() <= told.items()
    assert {"python", "platform", "packages"} <= told.keys()


def test_memory_is_reckoned_for_every_process(tmp_path, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(setup, "settle", lambda run: seen.append((run.machine, run.kl)) or Limits(5, True))
    monkeypatch.setattr(setup, "faults", lambda run: [])
    monkeypatch.setattr(setup, "gpu_here", lambda: 24.0)
    kl: Any = SimpleNamespace(kl=0.5)
    made = setup._settled(small(tmp_path), None, kl, processes(3, told=[24.0, 80.0]), print)
    assert seen == [(Machine(gb=24.0, processes=3), 0.5)]
    assert (made.learner.tokens_per_microbatch, made.learner.checkpointing) == (5, True)


@pytest.mark.parametrize(
    ("steps", "resume", "warmup", "events"),
    [
        (3, False, 4, ["engine", "warm up", "journal", ("refresh", "warmed", 0), "gate", "learner", "warn"]),
        (3, False, 0, ["engine", "journal", ("refresh", "policy", 0), "gate", "learner", "warn"]),
        (0, False, 4, ["engine", "warm up", "journal", ("refresh", "warmed", 0), "gate", "learner"]),
        (3, True, 4, ["differences", "engine", "journal", ("refresh", "policy", 0), "gate", "learner", ("restore", "newest", "same")]),
    ],
)
def test_the_parts_are_put_together_in_this_order(steps, resume, warmup, events, tmp_path, monkeypatch):
    """What counts: an existing run is refused before anything is made, the engine has the warmed-up weights before the gate looks through
    it, and a checkpoint comes back last, into parts that are whole."""
    noted: list[Any] = []
    for name, made in assembled(noted).items():
        monkeypatch.setattr(setup, name, made)
    monkeypatch.setattr(run_folder, "newest_checkpoint", lambda run: Newest())
    monkeypatch.setattr(resume_check, "run_fingerprint", lambda *given: {})
    monkeypatch.setattr(run_folder, "refuse_to_overwrite", lambda run: noted.append("refuse"))
    config = small(tmp_path, f"steps={steps}", f"warmup.steps={warmup}")
    trainer = setup.set_up(config, HERE, resume=tmp_path if resume else None, say=noted.append)
    assert noted == ["left out q9: unlucky", *([] if resume else ["refuse"]), *events]
    assert (trainer.learner, trainer.journal, trainer.gate) == ("learner", "journal", "gate")


class Newest:
    """The newest checkpoint of a run."""

    def __truediv__(self, name: str) -> str:
        return f"newest {name}"


def assembled(noted: list[Any]) -> dict[str, Any]:
    """Every part that a run is put together of, played."""
    engine = SimpleNamespace(
        refresh=lambda policy, version: noted.append(("refresh", policy.name, version)), close=lambda: noted.append("close")
    )
    accelerator = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True, device="here")

    def policy(name: str) -> Any:
        return SimpleNamespace(name=name, model=SimpleNamespace(to=lambda device: None), processor=None, frame=None)

    questions = Dataset(sources=([sample()],), weights=(1,), left_out=(LeftOut("q9", "unlucky"),))

    def note(words: Any, made: Any) -> Any:
        return lambda *given, **more: noted.append(words) or made

    return {
        "start_accelerator": lambda: accelerator,
        "_settled": lambda config, *given: config,
        "load_policy": lambda *given, **more: policy("policy"),
        "build_style": lambda *given: "style",
        "check_template": lambda *given: None,
        "build_verifiers": lambda *given: "checks",
        "read_questions": lambda *given, **more: questions,
        "_environment": lambda *given: {},
        "_tell_differences": note("differences", "same"),
        "build_engine": note("engine", engine),
        "_warmed_up": note("warm up", policy("warmed")),
        "_open_journal": note("journal", "journal"),
        "build_gate": note("gate", "gate"),
        "_learner": note("learner", "learner"),
        "_restore": lambda trainer, saved, unchanged: noted.append(("restore", "newest", unchanged)),
        "_warn": note("warn", None),
    }


def test_an_engine_that_nobody_will_close_is_closed(tmp_path, monkeypatch):
    noted: list[Any] = []
    for name, made in assembled(noted).items():
        monkeypatch.setattr(setup, name, made)
    monkeypatch.setattr(resume_check, "run_fingerprint", lambda *given: {})
    monkeypatch.setattr(run_folder, "refuse_to_overwrite", lambda run: None)

    def broken(*given: Any) -> Any:
        raise UserError("no learner")

    monkeypatch.setattr(setup, "_learner", broken)
    with pytest.raises(UserError, match="no learner"):
        setup.set_up(small(tmp_path), HERE, say=noted.append)
    assert noted[-1] == "close"
    monkeypatch.setattr(setup, "_learner", lambda *given: "learner")
    noted.clear()
    setup.set_up(small(tmp_path), HERE, say=noted.append)
    assert "close" not in noted


# --- questions --------------------------------------------------------------------------------------------------------


class Checks:
    """Refuses the answer 13."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Any] = {}

    def complaint(self, it: Sample) -> str:
        return "unlucky" if it.answer == 13 else ""


CHECKS: Any = Checks()


def rows(monkeypatch: pytest.MonkeyPatch, *sources: list[Sample], left: str = "") -> tuple[Source, ...]:
    """Sources that hold these rows; the first may leave one out by itself."""
    given = dict(zip(("0", "1", "2"), sources, strict=False))

    def read(source: Source, *, folder: Path, key: str, told: Any) -> Any:
        if left and source.recipe == "0":
            told(LeftOut(left, "not used"))
        return iter(given[str(source.recipe)])

    monkeypatch.setattr(data_sources, "read", read)
    return tuple(Source(recipe=name, weight=1 + int(name)) for name in list(given)[: len(sources)])


def test_rows_whose_own_answer_fails_are_left_out_and_told(monkeypatch, tmp_path):
    first, second = [sample("a"), sample("b", answer=13), sample("c")], [sample("a"), sample("d")]
    found = read_dataset(rows(monkeypatch, first, second, left="x"), CHECKS, folder=tmp_path)
    assert [[it.id for it in source] for source in found.sources] == [["a", "c"], ["a", "d"]], "ids may meet in two sources"
    assert found.weights == (1, 2)
    assert found.left_out == (LeftOut("x", "not used"), LeftOut("b", "unlucky"))
    stream = found.stream(7, "data")
    assert (stream.sources, stream.weights, stream.seed, stream.purpose) == (found.sources, (1, 2), 7, "data")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([sample("a"), sample("b"), sample("a")], r"data\.0: the id 'a' names several rows \(and 0 other ids do\); ids must be unique"),
        ([sample("a"), sample("b"), sample("a"), sample("b"), sample("b")], r"the id 'a' names several rows \(and 1 other ids do\)"),
        ([sample("a"), sample("a", answer=13)], "the id 'a' names several rows"),
        ([sample("a", answer=13), sample("b", answer=13)], r"data\.0: all 2 rows are unusable; a: unlucky"),
        ([], r"data\.0: the data set is empty"),
    ],
)
def test_a_source_of_which_nothing_is_sound_is_refused(given, told, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=told):
        read_dataset(rows(monkeypatch, given), CHECKS, folder=tmp_path)


def test_a_source_is_named_by_its_place(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"warmup\.data\.1: the data set is empty"):
        read_dataset(rows(monkeypatch, [sample("a")], []), CHECKS, folder=tmp_path, key="warmup.data")


@pytest.mark.parametrize(
    ("given", "style", "told"),
    [
        ({"solution": "<think>so</think><answer>3</answer>"}, Style(), "<think>so</think><answer>3</answer>"),
        ({"solution": "<think>so"}, SimpleNamespace(opening="<think>", think="required"), "so"),
        ({}, AnswerOnly(), "<answer>gold</answer>"),
        ({"answer_kind": "own"}, AnswerOnly(), "<answer>3</answer>"),
    ],
)
def test_a_solution_or_the_gold_answer_is_imitated(given, style, told):
    checks: Any = SimpleNamespace(by_kind={"number": SimpleNamespace(gold=lambda it: "gold"), "own": SimpleNamespace()})
    assert solution(sample(**given), style, checks) == told


def test_a_thought_is_made_up_for_nobody():
    with pytest.raises(UserError, match="prompt style wants a thought, but q1 has no `solution` column to imitate"):
        solution(sample(), Style(think="required"), CHECKS)


@pytest.mark.parametrize(("think", "fits"), [("required", True), ("none", False)])
def test_a_style_that_the_template_breaks_is_refused(think, fits, monkeypatch):
    style: Any = SimpleNamespace(misfit=lambda thought: "" if fits else f"no room for {thought}")
    monkeypatch.setattr(experiment, "template_thought", lambda processor: "<think>")
    if fits:
        experiment.check_template(style, "processor")
        return
    with pytest.raises(UserError, match=r"^mine: prompt: no room for <think>$"):
        experiment.check_template(style, "processor", "mine: prompt")


def test_a_benchmark_is_the_named_one_or_that_of_the_config(tmp_path, monkeypatch):
    """Its rows are looked for in its own folder, its seed is the run's."""
    asked: list[Any] = []
    spec = SimpleNamespace(data="rows", name="mine")
    found = Dataset(sources=([sample("a")], [sample("b")]), weights=(1, 1), left_out=(LeftOut("c", "unlucky"),))
    monkeypatch.setattr(
        experiment, "load_benchmark", lambda name, folder, overrides: asked.append((name, folder, overrides)) or (spec, Path("home"))
    )
    monkeypatch.setattr(experiment, "build_ruler", lambda *given: asked.append(given[1:]) or ("style", "checks"))
    monkeypatch.setattr(experiment, "check_template", lambda *given: asked.append(given))
    monkeypatch.setattr(dataset, "read_dataset", lambda data, checks, *, folder: asked.append((data, checks, folder)) or found)
    policy: Any = SimpleNamespace(frame="frame", processor="processor")
    config = small(tmp_path, "evaluation.benchmark=own", "seed=6")
    made = experiment.examination(config, tmp_path, policy, "other", ["samples=0"])
    assert asked == [
        ("other", tmp_path, ["samples=0"]),
        (Path("home"), config, tmp_path, "frame"),
        ("style", "processor", "other: prompt"),
        ("rows", "checks", Path("home")),
    ]
    assert ([it.id for it in made.questions], made.seed, made.left_out) == (["a", "b"], 6, found.left_out)
    assert (made.spec, made.style, made.checks) == (spec, "style", "checks")
    asked.clear()
    experiment.examination(config, tmp_path, policy)
    assert asked[0] == ("own", tmp_path, ())


def test_a_benchmark_asks_in_its_own_words_or_in_those_of_the_run(tmp_path):
    config = small(tmp_path, "prompt=think", "reward.format=0.5", "reward.combine=sum")
    spec = BenchmarkSpec(name="mine", data=(Source(recipe="digits"),), verifiers={"number": "value"}, mode="lenient")
    for chosen, kind in ((None, Style), ("answer", AnswerOnly)):
        style, checks = experiment.build_ruler(spec.model_copy(update={"prompt": chosen}), HERE, config, HERE, Frame())
        assert type(style) is kind
        number: Any = checks.by_kind["number"]
        assert (type(number).__name__, number.mode, number.combine, number.accuracy_weight, number.format_weight) == (
            "Value",
            "lenient",
            "gate",
            1.0,
            0.0,
        ), "accuracy, whatever the run is rewarded for"
        assert checks.whole


def test_the_words_of_a_benchmark_are_looked_for_beside_it_and_those_of_a_run_beside_the_config(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("home", "own"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"words_{folder}.py").write_text(
            "from dataclasses import dataclass\n\nfrom gpg_vl.prompts import AnswerOnly\n\n\n"
            f"@dataclass(frozen=True)\nclass Words(AnswerOnly):\n    instruction: str = '{folder}'\n"
        )
    config = small(tmp_path, "prompt=./words_own.py:Words")
    spec = BenchmarkSpec(name="mine", data=(Source(recipe="digits"),))
    for chosen, told in ((None, "own"), ("./words_home.py:Words", "home")):
        given = spec.model_copy(update={"prompt": chosen})
        style, _ = experiment.build_ruler(given, tmp_path / "home", config, tmp_path / "own", Frame())
        assert style.instruction == told


# --- the gate of a config ---------------------------------------------------------------------------------------------


def test_the_gate_asks_early_questions_that_fit_those_with_pictures_first(tmp_path):
    """Of sixteen: the odd ones have a picture, the fifth cannot be asked and the seventh has no room."""
    asked: list[int] = []

    def ask(index: int) -> Prompt:
        asked.append(index)
        if index == 5:
            raise UnusableSampleError("gone")
        return prompt(index, images=index % 2, tokens=100 if index == 7 else 2)

    engine: Any = SimpleNamespace(longest=lambda: 10)
    knobs = ["rollout.gate.every=3", "rollout.gate.prompts=4", "rollout.gate.mean=0.5", "rollout.gate.worst=2", "rollout.max_tokens=8"]
    gate = build_gate(small(tmp_path, *knobs, "rollout.temperature=0.7", "seed=3"), ask, engine)
    assert gate is not None
    assert asked == list(range(16))
    assert [it.sample.id for it in gate.prompts] == ["q1", "q3", "q9", "q11"]
    assert [it.sample.id for it in gate.spare] == ["q13", "q15", "q0", "q2", "q4", "q6", "q8", "q10", "q12", "q14"]
    assert (gate.sampling.max_tokens, gate.sampling.temperature, gate.sampling.greedy) == (8, 0.7, False)
    assert (gate.seed, gate.mean, gate.worst) == (3, 0.5, 2)


def test_a_gate_that_nobody_wants_or_that_has_nothing_to_ask_is_none(tmp_path):
    engine: Any = SimpleNamespace(longest=lambda: 10)
    assert build_gate(small(tmp_path, "rollout.gate.every=0"), lambda index: pytest.fail("asked"), engine) is None
    full: Any = SimpleNamespace(longest=lambda: 8)
    assert build_gate(small(tmp_path, "rollout.gate.every=1"), prompt, full) is None  # 1 + 8 tokens


# --- method and rewards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        (["estimator=gpg"], ""),
        (["estimator=gpg", "learner.updates_per_rollout=2"], r"learner\.updates_per_rollout: 2 with estimator Gpg: Gpg has no ratio"),
        (["estimator=grpo", "learner.updates_per_rollout=2"], ""),
        (["estimator=rloo", "learner.updates_per_rollout=1"], ""),
        (["estimator=gpg", "rollout.carry_over=1"], ""),
        (["estimator={kind: gpg, min_informative: 0}", "rollout.carry_over=1"], "carry_over: 1 with estimator Gpg and min_informative 0"),
        (["estimator={kind: gpg, min_informative: 0}"], ""),
        (["estimator=grpo", "rollout.carry_over=1"], "carry_over: 1 with estimator Grpo and min_informative 0"),
    ],
)
def test_a_method_must_bear_what_is_asked_of_it(knobs, told, tmp_path):
    config = small(tmp_path, *knobs, "rollout.groups_per_step=6", "rollout.max_tokens=9")
    if told:
        with pytest.raises(UserError, match=told):
            experiment.build_estimator(config, HERE)
        return
    made: Any = experiment.build_estimator(config, HERE)
    assert (getattr(made, "groups_per_step", 6), getattr(made, "max_tokens", 9)) == (6, 9)
    assert hasattr(made, "groups_per_step") == (type(made).__name__ == "Gpg")


def test_rewards_of_a_config_reach_every_verifier(tmp_path):
    config = small(tmp_path, "reward={mode: lenient, combine: sum, accuracy: 0.75, format: 0.25, truncated: drop}")
    made = experiment.build_verifiers({"number": "value", "mine": "number"}, AnswerOnly(), Frame(kind="norm1000"), config.reward, HERE)
    assert made.truncated == "drop"
    assert {"choice", "number", "boxes", "detection", "label", "value", "expression", "mine"} <= made.by_kind.keys()
    number: Any = made.by_kind["number"]
    assert type(number).__name__ == "Value"
    assert (number.mode, number.combine, number.accuracy_weight, number.format_weight) == ("lenient", "sum", 0.75, 0.25)
    assert type(number.style) is AnswerOnly
    boxes: Any = made.by_kind["boxes"]
    assert boxes.frame.kind == "norm1000"


def test_an_engine_is_told_where_it_runs(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from gpg_vl.rollout.engine import RolloutEngine\n\n\nclass Mine(RolloutEngine):\n"
        "    def __init__(self, policy, rank, ranks, say, depth=1):\n        self.told = policy, rank, ranks, say, depth\n\n"
        "    def generate(self, prompts, sampling, seeds): ...\n\n    def refresh(self, policy, version): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    policy: Any = "policy"
    made: Any = experiment.build_engine({"kind": "./mine.py:Mine", "depth": 3}, policy, tmp_path, rank=1, ranks=2, say=print)
    assert made.told == ("policy", 1, 2, print, 3)


# --- before the first step --------------------------------------------------------------------------------------------

SPEAKS, WRONG, RIGHT = [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]
BOX = prompt(kind="boxes", task="box")


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([group(SPEAKS)] * 5, ""),
        ([group(SPEAKS)] + [group(WRONG)] * 4, ""),  # 20 %
        ([group(SPEAKS)] + [group(WRONG)] * 5, "add: only 17 % of its groups are informative (mean accuracy 0.08); raise warmup.steps"),
        ([group(RIGHT)] * 3, "add: only 0 % of its groups are informative (mean accuracy 1.00); it is solved: raise its difficulty"),
        ([group([0.51, 0.51])] * 3, "add: only 0 % of its groups are informative (mean accuracy 0.51); it is solved"),
        ([group([0.5, 0.5])] * 3, "add: only 0 % of its groups are informative (mean accuracy 0.50); raise warmup.steps"),
        (
            [group([1.5, 1.5], parts=[{"accuracy": 0.25}] * 2)] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.25); raise",
        ),
        ([group([1.0, math.nan])] * 3, "add: only 0 % of its groups are informative (mean accuracy 1.00); it is solved"),
        ([group([math.nan, math.nan])] * 3, "add: only 0 % of its groups are informative (mean accuracy nan); raise warmup.steps"),
        ([group([0.3, 0.51], asked=BOX)] * 3, ""),
        ([group([0.2, 0.5], asked=BOX)] * 3, "box: sampled accuracy (IoU) is 0.35; below 0.4 an IoU reward tends to one"),
        ([group([0.2, 0.5])] * 3, ""),
    ],
)
def test_what_reinforcement_has_little_to_work_with_is_told(groups, told):
    found = learnability.warning_for(groups)
    assert found.startswith(told)
    assert bool(found) == bool(told)


def test_twelve_questions_of_each_source_are_tried(monkeypatch):
    """The third of the first source cannot be asked, the second source has no room at all; draws are negative: they are nobody's."""
    asked: list[Any] = []

    class Ask:
        def __init__(self, stream: Any, style: Any, policy: Any) -> None:
            self.name, self.told = stream.sources[0][0].id, (stream.weights, stream.seed, stream.purpose)
            assert self.told == ((1,), 9, "probe")

        def __call__(self, index: int) -> Prompt:
            if self.name == "a" and index == 2:
                raise UnusableSampleError("gone")
            return prompt(index, tokens=99 if self.name == "b" else 1, task=self.name)

    def sample_groups(drawing: Any, given: Any) -> list[Group]:
        asked.append([draw for draw, _ in given])
        return [group(WRONG, asked=it) for _, it in given]

    monkeypatch.setattr(learnability, "Asker", Ask)
    monkeypatch.setattr(learnability, "sample_groups", sample_groups)
    reads: list[int] = []
    drawing: Any = SimpleNamespace(
        seed=9,
        engine=SimpleNamespace(longest=lambda: 50),
        config=SimpleNamespace(max_tokens=8),
        clock=SimpleNamespace(read=lambda: reads.append(1)),
    )
    questions = Dataset(sources=([sample("a")], [sample("b")], [sample("c")]), weights=(5, 6, 7), left_out=())
    policy: Any = None
    told = list(learnability.learnability_warnings(drawing, questions, Style(), policy))
    assert asked == [[-1, -2, *range(-4, -13, -1)], list(range(-1, -13, -1))]
    assert [line.partition(":")[0] for line in told] == ["a", "c"]
    assert reads == [1], "these seconds belong to no step"
