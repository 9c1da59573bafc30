"""Setting a run up, part by part, without loading a model.

What each part is given, what decides between two of them, and what is refused.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from gpg_vl import experiment, run_folder
from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.models import RUN_FILES
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.policy import adapter_files
from gpg_vl.preflight.memory import Limits, Machine
from gpg_vl.training import checkpoint, resume_check, setup, sft, warmup_cache
from gpg_vl.training.checkpoint import State
from gpg_vl.types import LeftOut, Sample, Update
from gpg_vl.verifiers.dispatch import VerifierSet
from tests.adapted import moved, tiny
from tests.hand_made import group

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
            made.append((name, given, named)) or SimpleNamespace(name=name, policy=POLICY)
        )

    for name in ("GroupForward", "UnsharedForward", "Learner"):
        monkeypatch.setattr(setup, name, maker(name))
    monkeypatch.setattr(
        "gpg_vl.policy.load.load_policy",
        lambda config, *, seed, path, log: made.append(("policy", seed, path)) or FIRST,
    )
    return made


POLICY: Any = SimpleNamespace(sharing=SimpleNamespace(why_not=""), adapters=None)
FIRST: Any = SimpleNamespace(model=torch.nn.Linear(2, 1))
ACCELERATOR: Any = SimpleNamespace(
    device="cpu", is_main_process=True, wait_for_everyone=lambda: None
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
        "seed": 0,
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
    kept = warmup_cache.cache_path(parts.config, parts.warmup_data)
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
    reference = made_parts[-1][2]["reference"]
    assert (reference.forward.name, reference.first.keys()) == ("GroupForward", {"weight", "bias"})
    made_parts.clear()
    cold = parts_of(small(tmp_path, "warmup.steps=0", *knobs))
    setup._learner(cold, POLICY, processes(), print)
    assert ("policy", 5, None) in made_parts, "without a warm-up the config's own"


ADAPTERS: Any = SimpleNamespace(read=lambda files, key: [(f"{key}: {files}", torch.ones(1))])


@pytest.mark.parametrize("steps", [0, 3])
def test_new_adapters_are_turned_off_for_a_divergence_and_warmed_up_ones_are_read(
    steps, tmp_path, made_parts, monkeypatch
):
    knobs = (f"warmup.steps={steps}", "estimator={kind: grpo, kl: 0.01}", "policy.language=lora")
    parts = parts_of(small(tmp_path, *knobs))
    monkeypatch.setattr(POLICY, "adapters", ADAPTERS)
    monkeypatch.setattr(adapter_files, "read", lambda folder, key: folder)
    kept = warmup_cache.cache_path(parts.config, parts.warmup_data)
    if steps:
        kept.mkdir(parents=True)
        (kept / "config.json").write_text("{}")
    setup._learner(parts, POLICY, processes(), print)
    first = made_parts[-1][2]["reference"].first
    assert first == ({f"checkpoint: {kept}": torch.ones(1)} if steps else None)
    assert not any(name == "policy" for name, *_ in made_parts), "its base is in memory already"


@pytest.mark.parametrize("adapter", ["some", None])
def test_an_adapter_of_the_hub_that_is_trained_on_is_where_a_divergence_begins(
    adapter, tmp_path, made_parts, monkeypatch
):
    """Without its adapter, the model is not the policy that the run began with."""
    asked: list[str] = []
    found = SimpleNamespace(adapter=adapter)
    monkeypatch.setattr(setup, "find_model", lambda name: asked.append(name) or found)
    monkeypatch.setattr(POLICY, "adapters", ADAPTERS)
    knobs = ("estimator={kind: grpo, kl: 0.01}", "policy.language=lora", "policy.model=lab/some")
    setup._learner(parts_of(small(tmp_path, "warmup.steps=0", *knobs)), POLICY, processes(), print)
    assert asked == ["lab/some"]
    first = made_parts[-1][2]["reference"].first
    assert first == ({"policy.model: some": torch.ones(1)} if adapter else None)


@pytest.mark.parametrize("is_another", [False, True])
def test_a_kept_adapter_is_not_put_on_another_base_model(is_another, tmp_path):
    for name in ("base", "other"):
        policy = tiny(language="full", dtype="float32")
        (moved(policy) if name == "other" else policy).save(tmp_path / name)
    policy = tiny(model=str(tmp_path / "base"), dtype="float32")
    policy.save(tmp_path / "kept")
    now = tmp_path / ("other" if is_another else "base")
    parts = parts_of(small(tmp_path, f"policy.model={now}", "policy.language=lora"))
    if is_another:
        with pytest.raises(UserError, match=r"checkpoint: .*kept: its adapter was trained on othe"):
            setup._starting_values(parts, policy, tmp_path / "kept")
        return
    values = setup._starting_values(parts, policy, tmp_path / "kept")
    assert values is not None
    assert values.keys() == {name for name, _ in policy.model.named_parameters() if "lora" in name}


@pytest.mark.parametrize("main", [True, False])
def test_a_warm_up_is_made_where_there_is_none_and_kept_by_the_main_process(
    main, tmp_path, monkeypatch
):
    parts, events = parts_of(small(tmp_path, "seed=5")), []
    done, before = (
        SimpleNamespace(
            model=SimpleNamespace(to=lambda device, name=name: events.append((name, device))),
            adapters=None,
        )
        for name in ("warmed up", "before")
    )
    accelerator = SimpleNamespace(device="here", wait_for_everyone=lambda: events.append("wait"))
    own = processes(2, rank=0 if main else 1, accelerator=accelerator)
    kept = warmup_cache.cache_path(parts.config, parts.warmup_data)
    losses = [{"time": "now", "warmup/step": 1, "warmup/loss": 0.5}]
    monkeypatch.setattr(setup, "warm_up", lambda *given: events.append("warm up") or losses)
    monkeypatch.setattr(
        warmup_cache, "store", lambda policy, place, rows: events.append(("store", place, rows))
    )
    monkeypatch.setattr(warmup_cache, "losses", lambda place: [("kept in", place)])
    monkeypatch.setattr(
        "gpg_vl.policy.load.load_policy",
        lambda config, *, seed, path, log: events.append(("load", seed, path)) or done,
    )
    assert setup._warmed_up(parts, before, own, print) == (done, [("kept in", kept)])
    loading = [("load", 5, kept), ("before", "cpu"), ("warmed up", "here")]
    assert events == [
        "warm up",
        *([("store", kept, losses)] if main else []),
        "wait",
        *loading,
    ]
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    events.clear()
    lines: list[str] = []
    setup._warmed_up(parts, before, own, lines.append)
    assert lines == [f"warm-up: read from {kept}"]
    assert events == loading


@pytest.mark.parametrize(
    ("steps", "logged"), [(25, [*range(2, 25, 2), 25]), (5, [1, 2, 3, 4, 5]), (10, [*range(1, 11)])]
)
def test_a_warm_up_logs_about_ten_times_how_far_it_is(steps, logged, tmp_path, monkeypatch):
    lines: list[str] = []
    given: list[Any] = []

    def warm_up(imitation, config, accelerator, limits, seed, on_step, log):
        given.append((imitation, config, limits))
        assert seed not in (4, 0), "the run's own draws are others"
        for step in range(1, config.steps + 1):
            on_step(step, Update(metrics={"loss": 0.5}))

    monkeypatch.setattr(sft, "warm_up", warm_up)
    sources = {"warmup.data": ([sample("own")],), "data": ([sample("training")],)}
    monkeypatch.setattr(
        experiment,
        "read_dataset",
        lambda data, verifiers, *, base_dir, seed, key="data", purpose="data", **_: Dataset(
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
    rows = setup.warm_up(parts, POLICY, processes(), lines.append)
    assert [row["warmup/step"] for row in rows] == [*range(1, steps + 1)]
    assert {row["warmup/loss"] for row in rows} == {0.5}
    begins = [line.partition(":")[0] for line in lines]
    assert begins == [f"warm-up {step}/{steps}" for step in logged]
    assert "loss 0.500" in lines[0]
    imitation, warmup, limits = given[0]
    assert imitation.dataset == Dataset(sources["warmup.data"], (1,), 4, "warmup")
    assert (imitation.style, imitation.verifiers) == (parts.style, parts.verifiers)
    assert imitation.max_lost == 0.05
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
    monkeypatch.setattr(resume_check, "check", lambda run, own, **more: changed)
    monkeypatch.setattr(resume_check, "environment_differences", lambda begun, now: iter(differs))
    run_folder.write_header(tmp_path, "", {})
    is_unchanged = setup._report_differences(
        tmp_path, setup._Origin({}, {}), [], allow_changed=True, log=lines.append
    )
    assert is_unchanged == unchanged
    assert lines == [
        *(f"changed, as allowed: {line}" for line in changed),
        *(f"not as it was, so the last bits may differ: {line}" for line in differs),
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_only_the_main_process_writes_the_folder_and_has_trackers(rank, tmp_path, monkeypatch):
    """Pictures of questions go to a tracker where the config says so."""
    events: list[Any] = []
    monkeypatch.setattr(
        setup,
        "open_tracker",
        lambda name, run, known, **more: (
            *(name, run, known["steps"], known["environment"]),
            more["pictures"],
        ),
    )
    monkeypatch.setattr(
        run_folder,
        "write_header",
        lambda *given, is_resumed: events.append(("header", is_resumed)) or given[2],
    )
    monkeypatch.setattr(resume_check, "write", lambda *given: events.append("fingerprint"))
    accelerator = SimpleNamespace(wait_for_everyone=lambda: events.append("wait"))
    own = processes(2, rank, accelerator=accelerator)
    parts: Any = SimpleNamespace(
        config=small(tmp_path, "trackers=[wandb]", "trackers_pictures=true"),
        verifiers=VerifierSet(by_kind={}),
    )
    callback: Any = "own"
    here = setup._Origin({}, {"gpu": "H100"})
    made: Any = setup._open_folder(parts, tmp_path, here, [callback], own, print, None)
    assert events == (["wait"] if rank else [("header", True), "fingerprint", "wait"])
    assert not (tmp_path / "metrics.jsonl").exists(), "a run that goes on keeps its logs"
    setup._open_folder(parts, tmp_path, here, [], own, print, ())
    assert (tmp_path / "metrics.jsonl").exists() == (not rank)
    assert made.callbacks == ["own"]
    assert made.trackers == ([] if rank else [("wandb", tmp_path, 4, {"gpu": "H100"}, True)])
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
        folder=SimpleNamespace(path=tmp_path, rewind=lambda step: events.append(("rewind", step))),
        log=events.append,
    )
    setup._restore(run, tmp_path, False)
    assert run.state is state
    assert events[:4] == [
        ("state", tmp_path, "prompt_at", "processes", events.append),
        ("learner", tmp_path, "learner", {"unchanged": False}),
        ("update_weights", "policy", 5),
        ("rewind", 7),
    ]
    assert events[4].startswith(
        "resumed from step 7 of 9 (weights, optimizer, schedule, 56 prompts used, 1 groups "
        "waiting): "
    )


@pytest.mark.parametrize(
    ("used", "is_unchanged", "warns"),
    [
        ([1, 0, 0], True, True),
        ([1, 0, 0], False, False),
        ([0, 0, 1], True, False),
        ([0, 1, 0], True, False),
        ([], True, False),
    ],
)
def test_a_run_that_would_stop_again_for_want_of_groups_is_warned(
    used, is_unchanged, warns, tmp_path, monkeypatch
):
    """Two steps in a row are the limit; the logs of them are still there."""
    folder = run_folder.RunFolder(tmp_path)
    for step, informative in enumerate(used, 1):
        row = {"used_informative": float(informative), "skipped": float(not informative)}
        folder.metrics(step, row)
    monkeypatch.setattr(checkpoint, "load_state", lambda *given: State())
    monkeypatch.setattr(checkpoint, "load_learner", lambda *given, **more: None)
    lines: list[str] = []
    run: Any = SimpleNamespace(
        config=small(tmp_path, "rollout.idle_steps=2"),
        policy="policy",
        processes="processes",
        learner="learner",
        rollouts=SimpleNamespace(prompt_at="prompt_at"),
        engine=SimpleNamespace(update_weights=lambda *given: None),
        folder=folder,
        log=lines.append,
    )
    setup._restore(run, tmp_path, is_unchanged)
    assert any("will take the same steps again" in line for line in lines) == warns
    assert run_folder.metric_rows(tmp_path) == [], "it is looked for before they are dropped"


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


def test_the_environment_is_that_of_this_run(tmp_path, monkeypatch):
    policy: Any = SimpleNamespace(device="cuda:0", image_backend="pil")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H200 of {device}")
    environment = setup._environment(policy, processes(3, others=["L4", None]), tmp_path)
    own = {
        "threads": torch.get_num_threads(),
        "device": "cuda:0",
        "processes": 3,
        "image_backend": "pil",
        "config_folder": str(tmp_path),
        "gpus": ["H200 of cuda:0", "L4"],
        "cuda": torch.version.cuda,
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
    """An existing run is refused before anything is loaded, the engine has the warmed-up weights
    before the gate checks it, and a checkpoint is restored last, into parts that are complete."""
    noted: list[Any] = []
    replace_parts(monkeypatch, noted)
    monkeypatch.setattr(run_folder, "newest_checkpoint", lambda run: Newest())
    monkeypatch.setattr(resume_check, "run_fingerprint", lambda *given: {})
    monkeypatch.setattr(run_folder, "refuse_to_overwrite", lambda run: noted.append("refuse"))
    for name in RUN_FILES if resume else ():
        (tmp_path / name).write_text("{}")
    parts: Any = Parts(small(tmp_path, f"steps={steps}", f"warmup.steps={warmup}"), noted)
    run: Any = setup.set_up(parts, resume=tmp_path if resume else None, log=noted.append)
    refused = ["trackers checked"] if resume else ["trackers checked", "refuse"]
    loaded = [("policy", "newest policy" if resume else None), "template checked"]
    listed_in = (tmp_path if resume else parts.config.run_path) / "left_out.jsonl"
    reported = [f"left out: 1 row, listed in {listed_in}", "  1 like q9: unlucky"]
    place = events.index("folder") + 1
    events = [*events[:place], ("unused rows", ["q9"], resume), *events[place:]]
    assert noted == [*refused, *loaded, *reported, *events]
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
        self.verifiers = VerifierSet(by_kind={})
        self.estimator = SimpleNamespace(min_informative=0.0)
        sources = tuple[list[Sample], ...]([] for _ in config.data)
        self.train_data = Dataset(sources, (1,), 0, left_out=(LeftOut("q9", "unlucky"),))

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
    return SimpleNamespace(
        name="folder",
        close=lambda: noted.append("close folder"),
        unused_rows=lambda rows, is_resumed: noted.append(
            ("unused rows", [row.id for row in rows], is_resumed)
        ),
    )


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
        "_check_trackers": note("trackers checked", None),
        "_settled": lambda parts, *given: parts.config,
        "_environment": lambda *given: {},
        "_report_differences": note("differences", "same"),
        "_warmed_up": note("warm up", (named_policy("warmed"), [])),
        "_open_folder": note("folder", named_folder(noted)),
        "_learner": note("learner", "learner"),
        "_restore": lambda run, saved, is_unchanged, rewind: noted.append(
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


def test_processes_that_read_different_rows_are_refused_and_the_row_is_named():
    """Each would train on another row at an index, without a word."""
    rows = [
        Sample(id=name, question="?", answer_kind="number", answer=3, source="a") for name in "xyz"
    ]
    data = Dataset((rows,), (1,), 0)
    setup._check_same_rows(data, processes(2, others=[]))
    gone = LeftOut("y", "takes longer than 5 s", "a")
    of_other = iter(["another digest", {("a", "y"): gone}, 2])
    apart: Any = SimpleNamespace(all_gather=lambda own: [own, next(of_other)])
    with pytest.raises(
        UserError, match=r"different rows \(3 and 2 of them\); process 1 leaves out y: takes longer"
    ):
        setup._check_same_rows(data, apart)


def test_a_run_goes_on_with_an_adapter_of_a_folder_or_of_the_hub(tmp_path, monkeypatch):
    """A divergence is measured from that adapter, and not from the model under it."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny(language="full").save(base)
    tiny(model=str(base)).save(adapter)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(adapter))
    expected = {"tiny": False, str(base): False, str(adapter): True, "lab/adapter": True}
    for name, begins_so in expected.items():
        config = small(tmp_path, f"policy.model={name}", "policy.language=lora")
        assert (setup._starting_adapter(config) is not None) == begins_so, name
