"""Setting a run up, part by part, without loading a model.

What each part is given, what decides between two of them, and what is refused.
"""

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
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.experiment import Experiment
from gpg_vl.preflight import learnability
from gpg_vl.preflight.memory import Limits, Machine
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.training import checkpoint, resume_check, setup, sft, warmup_cache
from gpg_vl.training.checkpoint import State
from gpg_vl.training.sft import solution
from gpg_vl.types import Group, LeftOut, Prompt, Sample, Update
from gpg_vl.verifiers.number import Number
from tests.hand_made import group, prompt

HERE = Path(__file__).parents[1]


def small(folder: Path, *knobs: str) -> Config:
    return loading.load(
        str(HERE / "small.yaml"), [f"folder={folder}", "evaluation.benchmark=null", *knobs]
    )


def parts_of(config: Config) -> Experiment:
    """The parts of a config, for boxes in thousandths; none is made before it is asked for."""
    return Experiment(config, Frame(kind="norm1000"))


def sample(name: str = "q1", **more: Any) -> Sample:
    return Sample(**{"id": name, "question": "?", "answer_kind": "number", "answer": 3, **more})


def processes(count: int = 1, rank: int = 0, others: Any = None, accelerator: Any = None) -> Any:
    """This process among others, who give these values."""
    return SimpleNamespace(
        count=count,
        rank=rank,
        is_main=rank == 0,
        all_gather=lambda own: [own] if others is None else [own, *others],
        accelerator=accelerator or ACCELERATOR,
    )


# --- `auto` and the hardware ----------------------------------------------------------------------


def settled(
    config: Config,
    *,
    resume: Path | None = None,
    here: float | None = None,
    others: list[Any] | None = None,
    patch: Any,
) -> Any:
    """Budget and checkpointing that a run ends up with, and what is logged."""
    lines: list[str] = []
    patch.setattr(setup, "gpu_here", lambda: here)
    all_processes = processes(1 + len(others or []), others=others)
    made = setup._settled(parts_of(config), resume, all_processes, lines.append)
    assert made.model_copy(update={"learner": config.learner}) == config, "nothing else is changed"
    return (made.learner.tokens_per_microbatch, made.learner.checkpointing), lines


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
    """However large the GPU is where it goes on. A value that is set anew is a change."""
    begun = small(tmp_path, "learner.tokens_per_microbatch=77", "learner.checkpointing=true")
    (tmp_path / "config.yaml").write_text(loading.dump(begun))
    for here in (None, 0.001, 141.0):
        assert settled(small(tmp_path), resume=tmp_path, here=here, patch=monkeypatch) == (
            (77, True),
            [],
        )
    own = small(tmp_path, "learner.tokens_per_microbatch=99")
    assert settled(own, resume=tmp_path, patch=monkeypatch) == ((99, True), [])
    # of a release without the other knob
    (tmp_path / "config.yaml").write_text("name: old\nlearner: {checkpointing: true}\n")
    assert settled(small(tmp_path, "hardware.gb=24"), resume=tmp_path, patch=monkeypatch) == (
        (65536, True),
        [],
    )


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
def test_a_gpu_that_is_too_small_is_reported(named, here, others, warned, tmp_path, monkeypatch):
    knobs = [f"hardware.gb={named}"] if named else []
    _, lines = settled(small(tmp_path, *knobs), here=here, others=others, patch=monkeypatch)
    assert len(lines) == bool(warned)
    assert not warned or (lines[0].startswith("warning: ") and warned in lines[0])


def test_groups_that_processes_cannot_share_are_refused_before_anything_is_read(
    tmp_path, monkeypatch
):
    accelerator = SimpleNamespace(process_index=0, num_processes=3, is_main_process=True)
    monkeypatch.setattr(setup, "start_accelerator", lambda: accelerator)
    monkeypatch.setattr(setup, "_settled", lambda *given: pytest.fail("read on"))
    with pytest.raises(UserError, match="4 cannot be shared by 3 processes; make it a multiple"):
        setup.set_up(parts_of(small(tmp_path)))


# --- learner, reference, warm-up ------------------------------------------------------------------


@pytest.fixture
def made_parts(monkeypatch) -> list[Any]:
    """What the parts of a learner are made with."""
    made: list[Any] = []

    def maker(name: str) -> Any:
        return lambda *given, **named: (
            made.append((name, given, named))
            or SimpleNamespace(
                to=lambda device: SimpleNamespace(
                    requires_grad_=lambda wanted: (name, device, wanted)
                )
            )
        )

    for name in ("GroupForward", "UnsharedForward", "Learner"):
        monkeypatch.setattr(setup, name, maker(name))
    monkeypatch.setattr(
        "gpg_vl.policy.load.load_policy",
        lambda config, *, seed, path, log: made.append(("policy", seed, path)) or "another policy",
    )
    return made


POLICY: Any = SimpleNamespace(sharing=SimpleNamespace(why_not=""))
ACCELERATOR: Any = SimpleNamespace(
    device="here", is_main_process=True, wait_for_everyone=lambda: None
)


def test_a_learner_is_made_of_what_the_config_says(tmp_path, made_parts):
    knobs = [
        "steps=9",
        "learner.tokens_per_microbatch=77",
        "learner.checkpointing=true",
        "rollout.temperature=0.5",
    ]
    config = small(tmp_path, *knobs, "learner.updates_per_rollout=3", "estimator=grpo")
    parts = parts_of(config)
    setup._learner(parts, POLICY, processes(), print)
    assert [name for name, *_ in made_parts] == ["GroupForward", "Learner"]
    assert made_parts[0][1:] == ((POLICY, 0.5), {"tokens_at_once": 77, "checkpointing": True})
    assert made_parts[1][1][1:] == (parts.estimator, config.optimizer, ACCELERATOR)
    assert made_parts[1][2] == {
        "total_steps": 9,
        "tokens_per_microbatch": 77,
        "updates_per_rollout": 3,
        "reference": None,
        "log": print,
    }


def test_rows_of_their_own_are_made_where_they_are_wished(tmp_path, made_parts):
    parts = parts_of(small(tmp_path, "learner.shared_prefix=false"))
    setup._learner(parts, POLICY, processes(), print)
    assert made_parts[0][:2] == ("UnsharedForward", (POLICY, 1.0))


@pytest.mark.usefixtures("made_parts")
def test_why_answers_are_rows_of_their_own_is_logged(tmp_path):
    lines: list[str] = []
    alone: Any = SimpleNamespace(sharing=SimpleNamespace(why_not="linear attention"))
    setup._learner(parts_of(small(tmp_path)), alone, processes(), lines.append)
    assert lines == ["linear attention: every answer is a row of its own"]


def test_a_divergence_is_from_the_warmed_up_policy_of_the_same_seed(tmp_path, made_parts):
    knobs = ("seed=5", "estimator={kind: grpo, kl: 0.01}")
    parts = parts_of(small(tmp_path, *knobs))
    kept = warmup_cache.cache_path(parts.config)
    with pytest.raises(
        UserError,
        match=(
            r"the warmed-up policy, which estimator\.kl compares with, is gone; start the run anew"
        ),
    ):
        setup._learner(parts, POLICY, processes(), print)
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    made_parts.clear()
    setup._learner(parts, POLICY, processes(), print)
    assert ("policy", 5, kept) in made_parts
    assert made_parts[-1][2]["reference"] == ("GroupForward", "here", False), "it is not trained"
    made_parts.clear()
    cold = parts_of(small(tmp_path, "warmup.steps=0", *knobs))
    setup._learner(cold, POLICY, processes(), print)
    assert ("policy", 5, None) in made_parts, "without a warm-up the config's own"


@pytest.mark.parametrize("main", [True, False])
def test_a_warm_up_is_made_where_there_is_none_and_kept_by_the_main_process(
    main, tmp_path, monkeypatch
):
    parts, done, events = parts_of(small(tmp_path, "seed=5")), SimpleNamespace(), []
    done.model = SimpleNamespace()
    done.model.to = lambda device: events.append(("to", device))
    accelerator = SimpleNamespace(device="here", wait_for_everyone=lambda: events.append("wait"))
    own = processes(2, rank=0 if main else 1, accelerator=accelerator)
    kept = warmup_cache.cache_path(parts.config)
    monkeypatch.setattr(setup, "warm_up", lambda *given: events.append("warm up"))
    monkeypatch.setattr(
        warmup_cache, "store", lambda policy, place: events.append(("store", place))
    )
    monkeypatch.setattr(
        "gpg_vl.policy.load.load_policy",
        lambda config, *, seed, path, log: events.append(("load", seed, path)) or done,
    )
    assert setup._warmed_up(parts, POLICY, own, print) is done
    assert events == [
        "warm up",
        *([("store", kept)] if main else []),
        "wait",
        ("load", 5, kept),
        ("to", "here"),
    ]
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    events.clear()
    lines: list[str] = []
    setup._warmed_up(parts, POLICY, own, lines.append)
    assert lines == [f"warm-up: read from {kept}"]
    assert events == [("load", 5, kept), ("to", "here")]


@pytest.mark.parametrize(
    ("steps", "logged"), [(25, [*range(2, 25, 2), 25]), (5, [1, 2, 3, 4, 5]), (10, [*range(1, 11)])]
)
def test_a_warm_up_logs_about_ten_times_how_far_it_is(steps, logged, tmp_path, monkeypatch):
    lines: list[str] = []
    given: list[Any] = []

    def warm_up(policy, imitation, config, accelerator, limits, on_step, log):
        given.append((imitation, config, limits))
        for step in range(1, config.steps + 1):
            on_step(step, Update(metrics={"loss": 0.5}))

    monkeypatch.setattr(sft, "warm_up", warm_up)
    sources = {"warmup.data": ([sample("own")],), "data": ([sample("training")],)}
    monkeypatch.setattr(
        experiment,
        "read_dataset",
        lambda data, verifiers, *, base_dir, seed, key="data", purpose="data": Dataset(
            sources[key], (1,), seed, purpose
        ),
    )
    config = small(
        tmp_path,
        f"warmup.steps={steps}",
        "rollout.max_tokens=9",
        "seed=4",
        "learner.tokens_per_microbatch=77",
    )
    parts = parts_of(config)
    setup.warm_up(parts, POLICY, processes(), lines.append)
    begins = [line.partition(":")[0] for line in lines]
    assert begins == [f"warm-up {step}/{steps}" for step in logged]
    assert "loss 0.500" in lines[0]
    imitation, warmup, limits = given[0]
    assert imitation.dataset == Dataset(sources["warmup.data"], (1,), 4, "warmup")
    assert (imitation.style, imitation.verifiers) == (parts.style, parts.verifiers)
    assert (imitation.max_tokens, warmup, limits) == (9, config.warmup, Limits(77, False))
    without_data = small(tmp_path, "warmup.data=[]", "seed=4")
    setup.warm_up(parts_of(without_data), POLICY, processes(), lines.append)
    assert given[1][0].dataset == Dataset(sources["data"], (1,), 4, "warmup"), (
        "the training data, where it has none of its own"
    )


# --- going on -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "differs", "unchanged"),
    [([], [], True), (["seed: 0 -> 1"], [], False), ([], ["threads: 1 -> 2"], False)],
)
def test_whether_all_is_as_it_was_is_known_and_what_is_not_is_reported(
    changed, differs, unchanged, tmp_path, monkeypatch
):
    lines: list[str] = []
    monkeypatch.setattr(resume_check, "check", lambda run, own, *, allow_changed: changed)
    monkeypatch.setattr(resume_check, "environment_differences", lambda begun, now: iter(differs))
    run_folder.write_header(tmp_path, "", {})
    is_unchanged = setup._report_differences(tmp_path, {}, {}, allow_changed=True, log=lines.append)
    assert is_unchanged == unchanged
    assert lines == [
        *(f"changed, as allowed: {line}" for line in changed),
        *(f"not as it was, so the last bits may differ: {line}" for line in differs),
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_main_process_writes_the_folder_and_has_trackers(rank, tmp_path, monkeypatch):
    events: list[Any] = []
    monkeypatch.setattr(
        setup, "open_tracker", lambda name, run, knobs, *, log: (name, run, knobs["steps"])
    )
    monkeypatch.setattr(run_folder, "write_header", lambda *given: events.append("header"))
    monkeypatch.setattr(resume_check, "write", lambda *given: events.append("fingerprint"))
    accelerator = SimpleNamespace(wait_for_everyone=lambda: events.append("wait"))
    own = processes(2, rank, accelerator=accelerator)
    config = small(tmp_path, "trackers=[wandb]")
    callback: Any = "own"
    made: Any = setup._open_folder(config, tmp_path, {}, {}, [callback], own, print)
    assert events == (["wait"] if rank else ["header", "fingerprint", "wait"])
    assert made.callbacks == ["own"]
    assert made.trackers == ([] if rank else [("wandb", tmp_path, 4)])
    assert (made.path, made.rank) == (tmp_path, rank)


def test_a_checkpoint_brings_state_moments_version_and_run_folder_back(tmp_path, monkeypatch):
    events: list[Any] = []
    state = State(step=7, cursor=56, version=5, carried=(group([1.0, 0.0]),))
    monkeypatch.setattr(
        checkpoint, "load_state", lambda *given: events.append(("state", *given)) or state
    )
    monkeypatch.setattr(
        checkpoint, "load_learner", lambda *given, **more: events.append(("learner", *given, more))
    )
    engine = SimpleNamespace(
        update_weights=lambda *given: events.append(("update_weights", *given))
    )
    run: Any = SimpleNamespace(
        config=small(tmp_path, "steps=9"),
        policy="policy",
        processes="processes",
        learner="learner",
        rollouts=SimpleNamespace(prompt_at="prompt_at"),
        engine=engine,
        folder=SimpleNamespace(rewind=lambda step: events.append(("rewind", step))),
        log=events.append,
    )
    setup._restore(run, tmp_path, False)
    assert run.state is state
    assert events[:4] == [
        ("state", tmp_path, "prompt_at", "processes"),
        ("learner", tmp_path, "learner", {"unchanged": False}),
        ("update_weights", "policy", 5),
        ("rewind", 7),
    ]
    assert events[4].startswith(
        "resumed from step 7 of 9 (weights, optimizer, schedule, 56 prompts used, 1 groups "
        "waiting): "
    )


def test_how_groups_are_drawn_on_a_process(tmp_path):
    """With six groups a step and a share of 0.4 of them that must be informative: 2.4, so 3."""
    config = small(tmp_path, "rollout.groups_per_step=6", "seed=3")
    own = processes(2, rank=1)
    parts: Any = SimpleNamespace(
        config=config,
        estimator=SimpleNamespace(min_informative=0.4),
        verifiers="verifiers",
        train_data="train_data",
        prompt_at=lambda policy, data: (policy, data),
    )
    engine: Any = "engine"
    made: Any = setup._rollout_context(parts, POLICY, engine, own)
    assert (made.engine, made.verifiers, made.config) == ("engine", "verifiers", config.rollout)
    assert made.prompt_at == (POLICY, "train_data")
    assert (made.min_informative_groups, made.seed, made.rank, made.ranks) == (3, 3, 1, 2)
    assert made.groups_per_rank == 3
    assert made.all_gather is own.all_gather
    assert made.timer.read() == {}


def test_the_environment_is_that_of_this_run(tmp_path):
    policy: Any = SimpleNamespace(device="cuda:0", image_backend="pil")
    environment = setup._environment(policy, processes(3), tmp_path)
    own = {
        "threads": torch.get_num_threads(),
        "device": "cuda:0",
        "processes": 3,
        "image_backend": "pil",
        "config_folder": str(tmp_path),
    }
    assert own.items() <= environment.items()
    assert {"python", "platform", "packages"} <= environment.keys()


def test_memory_is_counted_for_every_process(tmp_path, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(
        setup, "settle", lambda work: seen.append((work.machine, work.kl)) or Limits(5, True)
    )
    monkeypatch.setattr(setup, "problems", lambda work: [])
    monkeypatch.setattr(setup, "gpu_here", lambda: 24.0)
    parts = parts_of(small(tmp_path, "estimator={kind: grpo, kl: 0.5}"))
    made = setup._settled(parts, None, processes(3, others=[24.0, 80.0]), print)
    assert seen == [(Machine(gb=24.0, processes=3), 0.5)]
    assert (made.learner.tokens_per_microbatch, made.learner.checkpointing) == (5, True)


@pytest.mark.parametrize(
    ("steps", "resume", "warmup", "events"),
    [
        (
            3,
            False,
            4,
            [
                "engine",
                "warm up",
                "folder",
                ("update_weights", "warmed", 0),
                "gate",
                "learner",
                "warn",
            ],
        ),
        (
            3,
            False,
            0,
            ["engine", "folder", ("update_weights", "policy", 0), "gate", "learner", "warn"],
        ),
        (
            0,
            False,
            4,
            ["engine", "warm up", "folder", ("update_weights", "warmed", 0), "gate", "learner"],
        ),
        (
            3,
            True,
            4,
            [
                "differences",
                "engine",
                "folder",
                ("update_weights", "policy", 0),
                "gate",
                "learner",
                ("restore", "newest", "same"),
            ],
        ),
    ],
)
def test_the_parts_are_put_together_in_this_order(
    steps, resume, warmup, events, tmp_path, monkeypatch
):
    """An existing run is refused before an engine starts, the engine has the warmed-up weights
    before the gate checks it, and a checkpoint is restored last, into parts that are complete."""
    noted: list[Any] = []
    replace_parts(monkeypatch, noted)
    monkeypatch.setattr(run_folder, "newest_checkpoint", lambda run: Newest())
    monkeypatch.setattr(resume_check, "run_fingerprint", lambda *given: {})
    monkeypatch.setattr(run_folder, "refuse_to_overwrite", lambda run: noted.append("refuse"))
    parts: Any = Parts(small(tmp_path, f"steps={steps}", f"warmup.steps={warmup}"), noted)
    run: Any = setup.set_up(parts, resume=tmp_path if resume else None, log=noted.append)
    begins = [("policy", "newest policy" if resume else None), "template checked"]
    assert noted == [*begins, "left out q9: unlucky", *([] if resume else ["refuse"]), *events]
    assert (run.learner, run.folder.name, run.gate) == ("learner", "folder", "gate")
    assert run.policy.name == ("warmed" if warmup and not resume else "policy")


class Newest:
    """The newest checkpoint of a run."""

    def __truediv__(self, name: str) -> str:
        return f"newest {name}"


class Parts:
    """An experiment whose parts are names, and which notes what is made."""

    def __init__(self, config: Config, noted: list[Any]) -> None:
        self.config, self.noted = config, noted
        self.verifiers = "verifiers"
        self.estimator = SimpleNamespace(min_informative=0.0)
        self.train_data = SimpleNamespace(left_out=(LeftOut("q9", "unlucky"),))

    def with_config(self, config: Config) -> Any:
        assert config == self.config
        return self

    def for_policy(self, policy: Any) -> Any:
        self.noted.append("template checked")
        return self

    def policy(self, checkpoint: Any, *, log: Any) -> Any:
        self.noted.append(("policy", checkpoint))
        return named_policy("policy")

    def engine(self, policy: Any, *, rank: int, ranks: int, log: Any) -> Any:
        self.noted.append("engine")
        return SimpleNamespace(
            update_weights=lambda policy, version: self.noted.append(
                ("update_weights", policy.name, version)
            ),
            close=lambda: self.noted.append("close"),
        )

    def prompt_at(self, policy: Any, dataset: Any) -> Any:
        return "prompt_at"

    def gate(self, prompt_at: Any, engine: Any) -> Any:
        self.noted.append("gate")
        return "gate"


def named_folder(noted: list[Any]) -> Any:
    return SimpleNamespace(name="folder", close=lambda: noted.append("close folder"))


def named_policy(name: str) -> Any:
    return SimpleNamespace(name=name, model=SimpleNamespace(to=lambda device: None))


def replace_parts(monkeypatch: pytest.MonkeyPatch, noted: list[Any]) -> None:
    """Replace every other part that a run is set up of."""
    accelerator = SimpleNamespace(
        process_index=0, num_processes=1, is_main_process=True, device="here"
    )

    def note(event: Any, made: Any) -> Any:
        return lambda *given, **more: noted.append(event) or made

    replaced = {
        "start_accelerator": lambda: accelerator,
        "_settled": lambda parts, *given: parts.config,
        "_environment": lambda *given: {},
        "_report_differences": note("differences", "same"),
        "_warmed_up": note("warm up", named_policy("warmed")),
        "_open_folder": note("folder", named_folder(noted)),
        "_learner": note("learner", "learner"),
        "_restore": lambda run, saved, is_unchanged: noted.append(
            ("restore", "newest", is_unchanged)
        ),
        "_warn_about_weak_tasks": note("warn", None),
    }
    for name, made in replaced.items():
        monkeypatch.setattr(setup, name, made)


def test_an_engine_that_nobody_will_close_is_closed(tmp_path, monkeypatch):
    noted: list[Any] = []
    replace_parts(monkeypatch, noted)
    monkeypatch.setattr(resume_check, "run_fingerprint", lambda *given: {})
    monkeypatch.setattr(run_folder, "refuse_to_overwrite", lambda run: None)

    def broken(*given: Any) -> Any:
        raise UserError("no learner")

    monkeypatch.setattr(setup, "_learner", broken)
    parts: Any = Parts(small(tmp_path), noted)
    with pytest.raises(UserError, match="no learner"):
        setup.set_up(parts, log=noted.append)
    assert noted[-2:] == ["close folder", "close"]
    monkeypatch.setattr(setup, "_learner", lambda *given: "learner")
    noted.clear()
    setup.set_up(parts, log=noted.append)
    assert "close" not in noted


# --- data -----------------------------------------------------------------------------------------


class Checks:
    """Refuses the answer 13."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Any] = {}

    def validation_error(self, it: Sample) -> str:
        return "unlucky" if it.answer == 13 else ""


CHECKS: Any = Checks()


def rows(
    monkeypatch: pytest.MonkeyPatch, *sources: list[Sample], left: str = ""
) -> tuple[Source, ...]:
    """Sources that hold these rows; the first may leave one out by itself."""
    given = dict(zip(("0", "1", "2"), sources, strict=False))

    def read_source(source: Source, *, base_dir: Path, key: str, on_left_out: Any) -> Any:
        if left and source.recipe == "0":
            on_left_out(LeftOut(left, "not used"))
        return iter(given[str(source.recipe)])

    monkeypatch.setattr(dataset, "read_source", read_source)
    return tuple(Source(recipe=name, weight=1 + int(name)) for name in list(given)[: len(sources)])


def test_rows_whose_own_answer_fails_are_left_out_and_reported(monkeypatch, tmp_path):
    first, second = [sample("a"), sample("b", answer=13), sample("c")], [sample("a"), sample("d")]
    sources = rows(monkeypatch, first, second, left="x")
    found = read_dataset(sources, CHECKS, base_dir=tmp_path, seed=7)
    assert [[it.id for it in source] for source in found.sources] == [
        ["a", "c"],
        ["a", "d"],
    ], "ids may meet in two sources"
    assert found.weights == (1, 2)
    assert found.left_out == (LeftOut("x", "not used"), LeftOut("b", "unlucky"))
    assert (found.seed, found.purpose) == (7, "data")
    assert [it.id for it in found.samples] == ["a", "c", "a", "d"]
    again = found.for_purpose("warmup")
    assert (again.sources, again.weights, again.seed, again.purpose) == (
        found.sources,
        (1, 2),
        7,
        "warmup",
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [sample("a"), sample("b"), sample("a")],
            r"data\.0: the id 'a' names several rows \(and 0 other ids do\); ids must be unique",
        ),
        (
            [sample("a"), sample("b"), sample("a"), sample("b"), sample("b")],
            r"the id 'a' names several rows \(and 1 other ids do\)",
        ),
        ([sample("a"), sample("a", answer=13)], "the id 'a' names several rows"),
        (
            [sample("a", answer=13), sample("b", answer=13)],
            r"data\.0: all 2 rows are unusable; a: unlucky",
        ),
        ([], r"data\.0: the data set is empty"),
    ],
)
def test_a_source_of_which_nothing_is_sound_is_refused(given, message, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=message):
        read_dataset(rows(monkeypatch, given), CHECKS, base_dir=tmp_path, seed=0)


def test_a_source_is_named_by_its_place(monkeypatch, tmp_path):
    sources = rows(monkeypatch, [sample("a")], [])
    with pytest.raises(UserError, match=r"warmup\.data\.1: the data set is empty"):
        read_dataset(sources, CHECKS, base_dir=tmp_path, seed=0, key="warmup.data")


class FixedReference(Number):
    """A verifier that writes the reference answer in its own way."""

    def reference_answer(self, sample: Sample) -> str:
        return "the reference"


@pytest.mark.parametrize(
    ("given", "style", "text"),
    [
        (
            {"solution": "<think>so</think><answer>3</answer>"},
            Style(),
            "<think>so</think><answer>3</answer>",
        ),
        ({"solution": "<think>so"}, SimpleNamespace(opening="<think>", think="required"), "so"),
        ({}, AnswerOnly(), "<answer>the reference</answer>"),
        ({"answer_kind": "own"}, AnswerOnly(), "<answer>3</answer>"),
    ],
)
def test_a_solution_or_the_reference_answer_is_imitated(given, style, text):
    verifiers: Any = SimpleNamespace(by_kind={"number": FixedReference(), "own": SimpleNamespace()})
    assert solution(sample(**given), style, verifiers) == text


def test_a_thought_is_made_up_for_nobody():
    with pytest.raises(
        UserError,
        match="prompt style requires a thought, but q1 has no `solution` column to imitate",
    ):
        solution(sample(), Style(think="required"), CHECKS)


@pytest.mark.parametrize(("think", "fits"), [("required", True), ("none", False)])
def test_a_style_that_the_template_breaks_is_refused(think, fits, monkeypatch):
    style: Any = SimpleNamespace(misfit=lambda thought: "" if fits else f"no room for {thought}")
    monkeypatch.setattr("gpg_vl.policy.encode.template_thought", lambda processor: "<think>")
    if fits:
        experiment.check_template(style, "processor")
        return
    with pytest.raises(UserError, match=r"^mine: prompt: no room for <think>$"):
        experiment.check_template(style, "processor", "mine: prompt")


def test_a_benchmark_is_the_named_one_or_that_of_the_config(tmp_path, monkeypatch):
    """Its rows are looked for in its own folder, its seed is the run's."""
    calls: list[Any] = []
    spec = SimpleNamespace(data="rows", name="mine", base_dir=Path("home"))
    left_out = (LeftOut("c", "unlucky"),)
    found = Dataset(([sample("a")], [sample("b")]), (1, 1), 6, left_out=left_out)
    monkeypatch.setattr(
        experiment,
        "load_benchmark",
        lambda name, base_dir, overrides: calls.append((name, base_dir, overrides)) or spec,
    )
    monkeypatch.setattr(
        Experiment,
        "benchmark_parts",
        lambda parts, own_spec: calls.append((parts, own_spec)) or ("style", "verifiers"),
    )
    monkeypatch.setattr(experiment, "check_template", lambda *given: calls.append(given))
    monkeypatch.setattr(
        experiment,
        "read_dataset",
        lambda data, verifiers, *, base_dir, seed: (
            calls.append((data, verifiers, base_dir, seed)) or found
        ),
    )
    policy: Any = SimpleNamespace(processor="processor")
    config = small(tmp_path, "evaluation.benchmark=own", "seed=6").at(tmp_path)
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


def test_a_benchmark_asks_in_its_own_words_or_in_those_of_the_run(tmp_path):
    config = small(tmp_path, "prompt=think", "reward.format=0.5", "reward.combine=sum")
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
    config = small(tmp_path, "prompt=./words_own.py:Words").at(tmp_path / "own")
    spec = BenchmarkSpec(name="mine", data=(Source(recipe="digits"),)).at(tmp_path / "home")
    for chosen, instruction in ((None, "own"), ("./words_home.py:Words", "home")):
        own_spec = spec.model_copy(update={"prompt": chosen})
        style, _ = parts_of(config).benchmark_parts(own_spec)
        assert style.instruction == instruction


# --- the gate of a config -------------------------------------------------------------------------


def test_the_gate_asks_early_questions_that_fit_those_with_pictures_first(tmp_path):
    """Of sixteen: the odd ones have a picture, the fifth cannot be asked and the seventh has no
    room."""
    asked: list[int] = []

    def prompt_at(index: int) -> Prompt:
        asked.append(index)
        if index == 5:
            raise UnusableSampleError("gone")
        return prompt(index, images=index % 2, tokens=100 if index == 7 else 2)

    engine: Any = SimpleNamespace(max_model_len=lambda: 10)
    knobs = [
        "rollout.gate.every=3",
        "rollout.gate.prompts=4",
        "rollout.gate.mean=0.5",
        "rollout.gate.worst=2",
        "rollout.max_tokens=8",
    ]
    parts = parts_of(small(tmp_path, *knobs, "rollout.temperature=0.7", "seed=3"))
    gate = parts.gate(prompt_at, engine)
    assert gate is not None
    assert asked == list(range(16))
    assert [it.sample.id for it in gate.prompts] == ["q1", "q3", "q9", "q11"]
    spare = [13, 15, 0, 2, 4, 6, 8, 10, 12, 14]
    assert [it.sample.id for it in gate.spare] == [f"q{number}" for number in spare]
    assert (gate.sampling.max_tokens, gate.sampling.temperature) == (8, 0.7)
    assert not gate.sampling.greedy
    assert (gate.seed, gate.mean, gate.worst) == (3, 0.5, 2)


def test_a_gate_that_nobody_wants_or_that_has_nothing_to_ask_is_none(tmp_path):
    engine: Any = SimpleNamespace(max_model_len=lambda: 10)
    without_gate = parts_of(small(tmp_path, "rollout.gate.every=0"))
    assert without_gate.gate(lambda index: pytest.fail("asked"), engine) is None
    full: Any = SimpleNamespace(max_model_len=lambda: 8)
    with_gate = parts_of(small(tmp_path, "rollout.gate.every=1"))
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
def test_a_method_must_bear_what_is_asked_of_it(knobs, message, tmp_path):
    config = small(tmp_path, *knobs, "rollout.groups_per_step=6", "rollout.max_tokens=9")
    if message:
        with pytest.raises(UserError, match=message):
            experiment.build_estimator(config)
        return
    made: Any = experiment.build_estimator(config)
    assert (getattr(made, "groups_per_step", 6), getattr(made, "max_tokens", 9)) == (6, 9)
    assert hasattr(made, "groups_per_step") == (type(made).__name__ == "Gpg")


def test_rewards_of_a_config_reach_every_verifier(tmp_path):
    config = small(
        tmp_path,
        "reward={mode: lenient, combine: sum, accuracy: 0.75, format: 0.25, truncated: drop}",
    )
    made = experiment.build_verifiers(
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
    config = small(tmp_path, "rollout.engine={kind: './mine.py:Mine', depth: 3}").at(tmp_path)
    made: Any = parts_of(config).engine(policy, rank=1, ranks=2, log=print)
    assert made.given == ("policy", 1, 2, print, 3)


# --- before the first step ------------------------------------------------------------------------

INFORMATIVE, WRONG, RIGHT = [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]
BOX = prompt(kind="boxes", task="box")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([group(INFORMATIVE)] * 5, ""),
        ([group(INFORMATIVE)] + [group(WRONG)] * 4, ""),  # 20 %
        (
            [group(INFORMATIVE)] + [group(WRONG)] * 5,
            "add: only 17 % of its groups are informative (mean accuracy 0.08); raise warmup.steps",
        ),
        (
            [group(RIGHT)] * 3,
            (
                "add: only 0 % of its groups are informative (mean accuracy 1.00); it is solved: "
                "raise its difficulty"
            ),
        ),
        (
            [group([0.51, 0.51])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.51); it is solved",
        ),
        (
            [group([0.5, 0.5])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.50); raise warmup.steps",
        ),
        (
            [group([1.5, 1.5], parts=[{"accuracy": 0.25}] * 2)] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.25); raise",
        ),
        (
            [group([1.0, math.nan])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 1.00); it is solved",
        ),
        (
            [group([math.nan, math.nan])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy nan); raise warmup.steps",
        ),
        ([group([0.3, 0.51], asked=BOX)] * 3, ""),
        (
            [group([0.2, 0.5], asked=BOX)] * 3,
            "box: sampled accuracy (IoU) is 0.35; below 0.4 an IoU reward tends to one",
        ),
        ([group([0.2, 0.5])] * 3, ""),
    ],
)
def test_what_reinforcement_has_little_to_work_with_is_reported(groups, message):
    found = learnability.warning_for(groups)
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_twelve_questions_of_each_source_are_tried(monkeypatch):
    """The third of the first source cannot be asked, the second source has no room at all; the
    indices are negative: no step uses them."""
    asked: list[Any] = []

    def prompts_of(policy: Any, source: Dataset) -> Any:
        assert (source.weights, source.seed, source.purpose) == ((1,), 9, "probe")
        name = source.sources[0][0].id

        def prompt_at(index: int) -> Prompt:
            if name == "a" and index == 2:
                raise UnusableSampleError("gone")
            return prompt(index, tokens=99 if name == "b" else 1, task=name)

        return prompt_at

    def sample_groups(context: Any, given: Any) -> list[Group]:
        asked.append([index for index, _ in given])
        return [group(WRONG, asked=it) for _, it in given]

    monkeypatch.setattr(learnability, "sample_groups", sample_groups)
    reads: list[int] = []
    context: Any = SimpleNamespace(
        seed=9,
        engine=SimpleNamespace(max_model_len=lambda: 50),
        config=SimpleNamespace(max_tokens=8),
        timer=SimpleNamespace(read=lambda: reads.append(1)),
    )
    data = Dataset(([sample("a")], [sample("b")], [sample("c")]), (5, 6, 7), seed=0)
    parts: Any = SimpleNamespace(train_data=data, prompt_at=prompts_of)
    policy: Any = None
    warnings = list(learnability.learnability_warnings(context, parts, policy))
    assert asked == [[-1, -2, *range(-4, -13, -1)], list(range(-1, -13, -1))]
    assert [line.partition(":")[0] for line in warnings] == ["a", "c"]
    assert reads == [1], "these seconds belong to no step"
