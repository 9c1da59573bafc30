"""The loop around the steps, on parts made by hand.

What a step does to the state, when a run evaluates and saves, what stops it.
"""

import contextlib
import errno
import json
import math
import re
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.config import loading
from gpg_vl.errors import EngineLostError, MismatchError, Stopped, UserError
from gpg_vl.evaluation import evaluate as evaluating
from gpg_vl.evaluation import records as eval_records
from gpg_vl.evaluation.records import Record
from gpg_vl.report.model_card import Adapter
from gpg_vl.rollout.collect import LostDraw, SampledBatch, gather_batch
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.timer import Timer
from gpg_vl.training import (
    checkpoint,
    engine_checks,
    failures,
    loop,
    milestones,
    processes,
    stop_rules,
)
from gpg_vl.training.checkpoint import State
from gpg_vl.training.failures import disk_full_explained, lost_engine_explained
from gpg_vl.training.live_page import LivePage
from gpg_vl.training.processes import Processes
from gpg_vl.training.signals import StopRequest
from gpg_vl.types import Group, LeftOut, Update
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import answers, completion, group, names, prompt

HERE = Path(__file__).parents[1]
POLICY = SimpleNamespace(device=torch.device("cpu"))


def sampled(
    *fresh: Group,
    unusable: tuple[LostDraw, ...] = (),
    surplus: tuple[Group, ...] = (),
    cursor: int = 8,
) -> SampledBatch:
    batch = gather_batch(fresh, lambda own: [own], 0)
    return SampledBatch(
        groups=fresh,
        rewards_BG=batch.rewards_BG,
        lengths_BG=batch.lengths_BG,
        own_rows=batch.own_rows,
        surplus=surplus,
        fresh=fresh,
        unusable=unusable,
        rounds=2,
        cursor=cursor,
    )


# --- several processes ----------------------------------------------------------------------------


@pytest.fixture
def ranks_of(monkeypatch):
    """This process as one of several, whose values are given: `ranks_of(1, [3, None, 5])` is the
    second of three; its own is put in."""

    def made(rank: int, others: list[Any]) -> Processes:
        accelerator: Any = SimpleNamespace(
            process_index=rank, num_processes=len(others), is_main_process=rank == 0
        )
        monkeypatch.setattr(
            processes, "gather_object", lambda own: [*others[:rank], *own, *others[rank + 1 :]]
        )
        return Processes(accelerator)

    return made


@pytest.mark.parametrize(("rank", "own"), [(0, 2), (1, 2), (2, 2)])
def test_a_sum_and_a_maximum_are_of_all_processes(rank, own, ranks_of):
    others = [3, 4, 9]
    others[rank] = own
    ranks = ranks_of(rank, others)
    assert ranks.all_reduce_sum(own) == sum(others)
    assert ranks.all_reduce_max(own) == max(others)
    assert ranks.all_gather(own) == others
    assert (ranks.rank, ranks.count, ranks.is_main) == (rank, 3, rank == 0)


def test_the_largest_may_be_ones_own_and_the_sum_may_be_smaller(ranks_of):
    ranks = ranks_of(1, [-3, None, 1])
    assert ranks.all_reduce_max(5) == 5
    assert ranks.all_reduce_sum(1) == -1


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(processes, "gather_object", lambda own: pytest.fail("nobody is there"))
    accelerator: Any = SimpleNamespace(process_index=0, num_processes=1, is_main_process=True)
    ranks = Processes(accelerator)
    assert (ranks.all_reduce_sum(4), ranks.all_reduce_max(4), ranks.all_gather("x")) == (
        4,
        4,
        ["x"],
    )


@pytest.mark.parametrize(
    ("rank", "rows"), [(0, slice(0, 1)), (1, slice(1, 3)), (2, slice(3, 3)), (3, slice(3, 4))]
)
def test_everybodys_rewards_and_lengths_stand_in_rank_order(rank, rows, ranks_of):
    """One group, two, none and one; in each short answers before long ones."""
    held = [
        (group([1.0, 0.0], answers(1, 9), draw=0),),
        (group([0.25, math.nan], answers(2, 3), draw=1), group([0.5, 0.75], answers(4, 5), draw=4)),
        (),
        (group([0.0, 0.125], answers(6, 7), draw=3),),
    ]
    others = [([it.rewards for it in own], [it.lengths for it in own]) for own in held]
    ranks = ranks_of(rank, others)
    batch = gather_batch(held[rank], ranks.all_gather, rank)
    assert batch.groups == held[rank]
    assert batch.rewards_BG.dtype == torch.float64
    torch.testing.assert_close(
        batch.rewards_BG,
        torch.tensor([[1, 0], [0.25, math.nan], [0.5, 0.75], [0, 0.125]]).double(),
        rtol=0,
        atol=0,
        equal_nan=True,
    )
    assert batch.lengths_BG.tolist() == [[1, 9], [2, 3], [4, 5], [6, 7]]
    assert batch.own_rows == rows
    own_lengths = [tuple(row) for row in batch.lengths_BG[rows].tolist()]
    assert own_lengths == [it.lengths for it in held[rank]]


def test_a_step_of_which_nothing_could_be_asked_has_no_rows(ranks_of):
    ranks = ranks_of(1, [([], []), None, ([], [])])
    batch = gather_batch((), ranks.all_gather, 1)
    assert batch.rewards_BG.shape == batch.lengths_BG.shape == (0, 1)
    assert batch.own_rows == slice(0, 0)


@pytest.mark.parametrize("value", ["1", "true", "True", "yes", "y", "on", "t", "TRUE"])
@pytest.mark.parametrize(
    "key", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"]
)
def test_a_launcher_that_divides_the_weights_is_refused_however_it_says_so(key, value, monkeypatch):
    monkeypatch.setenv(key, value)
    with pytest.raises(
        UserError, match=r"accelerate: launched with .* every GPU holds the whole model"
    ):
        processes.start_accelerator()


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "n"])
def test_a_launcher_variable_that_is_off_asks_for_nothing(value, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", value)
    assert not processes._is_set("ACCELERATE_USE_FSDP")
    assert not processes._is_set("ACCELERATE_NO_SUCH_KEY")


@pytest.mark.parametrize(
    ("precision", "fine"),
    [("no", True), ("bf16", True), ("NO", True), ("fp16", False), ("fp8", False)],
)
def test_a_loss_that_is_scaled_is_refused(precision, fine):
    if fine:
        processes._refuse([], precision)
        return
    with pytest.raises(UserError, match=f"got mixed_precision {precision}, expected no"):
        processes._refuse([], precision)


# --- a step and the state -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skipped", "version", "idle", "bad"),
    [
        ("", 6, 0, 0),
        ("no informative group", 5, 3, 0),
        ("non-finite gradient", 5, 0, 2),
        ("non-finite loss", 5, 0, 2),
    ],
)
@pytest.mark.parametrize("carry", [False, True])
def test_what_a_step_does_to_the_state(carry, skipped, version, idle, bad, tmp_path):
    before = State(
        step=7, cursor=56, version=5, idle=2, unusable=3, bad=1, carried=(group([1.0], draw=9),)
    )
    surplus = (group([1.0, 0.0], draw=10),)
    run = run_of(tmp_path, f"rollout.carry_over={int(carry)}", state=before)
    batch = sampled(cursor=72, surplus=surplus)
    by_hand = State(
        step=8,
        cursor=72,
        version=version,
        idle=idle,
        unusable=7,
        bad=bad,
        carried=surplus if carry else (),
    )
    assert loop._next_state(run, batch, Update(skipped=skipped), unusable=4) == by_hand


class Engine:
    """Notes what is asked of it."""

    def __init__(self, events: list[Any], *, needs_verification: bool = False) -> None:
        self.events, self.needs_verification = events, needs_verification

    def generate(self, prompts, sampling, seeds):
        self.events.append(("generate", [it.text for it in prompts], sampling, seeds))
        return [["answer"] * len(own) for own in seeds]

    def update_weights(self, policy, version):
        self.events.append(("update_weights", policy, version))

    def release_memory(self):
        self.events.append("release_memory")

    def close(self):
        self.events.append("close engine")


class Rows:
    """Data of four rows, of two sources."""

    samples = (1, 2, 3, 4)
    sources = ()

    def __getitem__(self, index: int) -> Any:
        return SimpleNamespace(id=f"q{index % 4}", source="one" if index % 4 < 2 else "two")


def run_of(tmp_path: Path, *knobs: str, **more: Any) -> Any:
    """A run whose parts note what is asked of them in `events`."""
    events: list[Any] = []
    accelerator = SimpleNamespace(
        process_index=0,
        num_processes=1,
        is_main_process=True,
        wait_for_everyone=lambda: events.append("wait"),
    )
    accelerated: Any = accelerator
    written = ("metrics", "rollouts", "dump", "held_out")
    folder = SimpleNamespace(
        path=tmp_path / "run",
        left_out_path=tmp_path / "run" / "left_out.jsonl",
        num_lost_rows=0,
        lost_rows=lambda step, rows: events.append(("lost", step, rows)) or rows if rows else [],
        close=lambda: events.append("close folder"),
        send_page=lambda page: events.append(("send page", page.name)),
        **{name: lambda *given, name=name: events.append((name, *given)) for name in written},
    )

    def update(batch, weights_BG, version):
        events.append(("update", batch, weights_BG, version))
        return Update(metrics={"loss": 0.5})

    learner = SimpleNamespace(
        update=update, compare_once=lambda *given: events.append(("compare", *given))
    )

    def check(engine, policy, version):
        events.append(("check", version))
        engine.needs_verification = False
        return {"gate/mean": 0.25}

    estimator = SimpleNamespace(
        weights=lambda rewards_BG, lengths_BG: rewards_BG - lengths_BG,
        alpha=lambda rewards_BG: float(len(rewards_BG)),
    )
    rollouts = SimpleNamespace(engine=Engine(events), timer=Timer())
    made = {
        "experiment": SimpleNamespace(
            style="style", train_data=Rows(), verifiers=VerifierSet(by_kind={})
        ),
        "config": loading.load(str(HERE / "small.yaml"), ["evaluation.benchmark=null", *knobs]),
        "processes": Processes(accelerated),
        "policy": POLICY,
        "rollouts": rollouts,
        "engine": rollouts.engine,
        "timer": rollouts.timer,
        "estimator": estimator,
        "learner": learner,
        "folder": folder,
        "benchmark": None,
        "gate": SimpleNamespace(
            check=check, prompts=(prompt(1),), sampling=Sampling(max_tokens=99, temperature=0.5)
        ),
        "log": lambda line: events.append(("log", line)),
        "state": State(),
        "gate_figures": {},
        "stop": StopRequest(),
        "events": events,
    }
    return SimpleNamespace(**made | more)


INFORMATIVE = group([1.0, 0.0], draw=3)


@pytest.fixture
def drawn(monkeypatch):
    """Steps that sample one informative group; what they were asked for is noted."""

    def given(*fresh: Group, **more: Any) -> None:
        def collect(context, cursor, carried):
            context.engine.events.append(("collect", cursor, carried))
            return sampled(*(fresh or (INFORMATIVE,)), cursor=cursor + 4, **more)

        monkeypatch.setattr(loop, "collect", collect)

    given()
    return given


def test_a_step_draws_updates_hands_over_and_writes_down_in_this_order(tmp_path, drawn):
    run = run_of(tmp_path, state=State(step=2, cursor=12, version=1, carried=(INFORMATIVE,)))
    assert loop.train_step(run).metrics == {"loss": 0.5}
    assert names(run.events) == [
        "collect",
        "release_memory",
        "update",
        "update_weights",
        "rollouts",
        "metrics",
    ]
    assert run.events[0] == ("collect", 12, (INFORMATIVE,))
    batch, weights_BG, version = run.events[2][1:]
    assert (batch.groups, batch.own_rows, version) == ((INFORMATIVE,), slice(0, 1), 1)
    assert (batch.rewards_BG.tolist(), batch.lengths_BG.tolist()) == ([[1, 0]], [[1, 1]])
    assert weights_BG.tolist() == [[0, -1]]
    assert run.events[3] == ("update_weights", POLICY, 2)
    assert run.events[4][1:] == (3, (INFORMATIVE,), (INFORMATIVE,), [[0, -1]])
    step, row = run.events[5][1:]
    assert step == 3
    assert {
        "reward": 0.5,
        "alpha": 1.0,
        "rounds": 2.0,
        "loss": 0.5,
        "lost": 0.0,
        "skipped": 0.0,
    }.items() <= row.items()
    assert {"seconds/update"} <= row.keys()
    assert row["memory_gb"] > 0.01
    assert not any(key.startswith("gate/") for key in row)
    assert run.state == State(step=3, cursor=16, version=2)


def test_surplus_waits_only_where_it_is_carried_over(tmp_path, drawn):
    surplus = (group([1.0, 0.0], draw=5),)
    drawn(surplus=surplus)
    for knob, carried in (("rollout.carry_over=0", ()), ("rollout.carry_over=1", surplus)):
        run = run_of(tmp_path, knob)
        loop.train_step(run)
        assert run.state.carried == carried


@pytest.mark.parametrize(
    ("every", "step", "figures", "checks", "reported"),
    [
        (2, 0, {}, 1, 0.25),
        (2, 1, {}, 0, None),
        (2, 2, {}, 1, 0.25),
        (3, 2, {}, 0, None),
        (1, 5, {}, 1, 0.25),
        (0, 0, {}, 0, None),
        (2, 2, {"gate/mean": 0.75}, 0, 0.75),  # looked at already, before the loop began
        (2, 1, {"gate/mean": 0.75}, 0, None),
    ],
)
def test_the_gate_is_looked_through_every_so_many_steps(
    every, step, figures, checks, reported, tmp_path, drawn
):
    run = run_of(
        tmp_path,
        f"rollout.gate.every={every}",
        state=State(step=step, version=7),
        gate_figures=figures,
    )
    loop.train_step(run)
    assert names(run.events).count("check") == checks
    if checks:
        assert run.events[0] == ("check", 7), "before anything is sampled"
    assert run.events[-1][2].get("gate/mean") == reported
    assert run.gate_figures == {}, "the weights have moved"


@pytest.mark.parametrize("other", [0, 1])
def test_what_a_renewed_engine_answered_is_not_learnt_from_before_a_look(
    other, tmp_path, drawn, ranks_of
):
    """A replica was restarted here or in another process: all check, or none."""
    run = run_of(tmp_path, "rollout.gate.every=0", state=State(step=1))
    run.engine.needs_verification = not other
    if other:
        others, alone = iter([True]), run.processes
        run.processes = SimpleNamespace(
            any=lambda own: own or next(others, False),
            all_gather=alone.all_gather,
            all_reduce_sum=alone.all_reduce_sum,
            is_main=True,
        )
    loop.train_step(run)
    order = names(run.events)
    assert order.index("collect") < order.index("check") < order.index("update")


def test_lost_samples_and_failing_verifiers_are_reported(tmp_path, drawn):
    drawn(
        group([math.nan, 1.0, 0.0] * 4, fault="fault: TypeError: no column\nTraceback", draw=3),
        group([math.nan, 1.0, 0.0] * 4, fault="truncated", draw=4),
        unusable=(LostDraw(101, "image gone"), LostDraw(102, "q2: too long")),
    )
    run = run_of(
        tmp_path,
        "rollout.max_faults=1",
        "rollout.max_lost=1",
        state=State(step=4, cursor=100, unusable=2),
    )
    loop.train_step(run)
    assert [event[1] for event in run.events if event[0] == "log"] == [
        "warning: step 5: the verifier failed on 4 answers, left out: fault: TypeError: no column",
        "warning: step 5: left out: q1: image gone",
        "warning: step 5: left out: q2: too long",
    ]
    assert [event[1:] for event in run.events if event[0] == "lost"] == [
        (5, [LeftOut("q1", "image gone", "one"), LeftOut("q2", "too long", "two")])
    ]
    (row,) = [event[2] for event in run.events if event[0] == "metrics"]
    assert (row["lost"], row["faults"]) == (4.0, 8.0), "answers that were dropped count too"


@pytest.mark.parametrize(("reward", "all_max"), [(1.0, 1), (0.75, 0)])
def test_the_full_reward_is_that_of_accuracy_and_format(reward, all_max, tmp_path, drawn):
    drawn(group([reward, reward], draw=3))
    run = run_of(
        tmp_path,
        "reward.combine=sum",
        "reward.accuracy=0.75",
        "reward.format=0.25",
        "rollout.idle_steps=9",
    )
    loop.train_step(run)
    (row,) = [event[2] for event in run.events if event[0] == "metrics"]
    assert row["all_max"] == all_max
    run.state = State(step=1, idle=9)
    for mean, message in ((0.91, "everything is right"), (0.9, "all alike"), (0.0, "is wrong")):
        with pytest.raises(UserError, match=message):
            stop_rules.stop_if_hopeless(run, sampled(group([mean, mean], draw=3)))


@pytest.mark.parametrize(
    ("skipped", "dumped"),
    [("", False), ("no informative group", False), ("non-finite gradient", True)],
)
def test_a_batch_is_kept_where_its_numbers_are_none(skipped, dumped, tmp_path, drawn):
    run = run_of(tmp_path, state=State(step=6))
    run.learner.update = lambda *given: Update(skipped=skipped)
    loop.train_step(run)
    assert [event[1:] for event in run.events if event[0] == "dump"] == [
        (7, skipped, (INFORMATIVE,), [[0, -1]])
    ] * dumped
    assert run.state.version == (not skipped)


# --- reasons to stop ------------------------------------------------------------------------------


def scored(right: int, faults: int) -> SampledBatch:
    rewards = [1.0] * right + [math.nan] * faults
    return sampled(
        *(
            group([reward], fault="fault: KeyError", draw=draw)
            for draw, reward in enumerate(rewards)
        )
    )


@pytest.mark.parametrize(
    ("knob", "state", "batch", "message"),
    [
        ("rollout.max_faults=0.2", State(), scored(8, 2), ""),
        (
            "rollout.max_faults=0.2",
            State(),
            scored(7, 3),
            "the verifier failed on 3 of 10 answers: fault: KeyError",
        ),
        ("rollout.max_faults=0", State(), scored(10, 0), ""),
        ("rollout.max_faults=0", State(), scored(9, 1), "the verifier failed on 1 of 10 answers"),
        ("rollout.max_faults=0", State(), scored(0, 0), ""),
        ("rollout.max_faults=1", State(), scored(0, 3), ""),
        ("rollout.max_lost=0.25", State(unusable=2, cursor=8), scored(1, 0), ""),
        (
            "rollout.max_lost=0",
            State(unusable=3, cursor=8),
            scored(1, 0),
            "3 of 8 samples could not become prompts, .* in an earlier step",
        ),
        ("rollout.max_lost=0.25", State(unusable=3, cursor=12), scored(1, 0), ""),
        ("rollout.max_lost=0.05", State(unusable=1, cursor=16), scored(1, 0), ""),
        (
            "rollout.max_lost=0.05",
            State(unusable=10, cursor=16),
            scored(1, 0),
            "10 of 16 samples could not become prompts, .* in an earlier step",
        ),
        ("rollout.max_lost=1", State(unusable=8, cursor=8), scored(1, 0), ""),
        ("rollout.idle_steps=3", State(idle=2), scored(1, 0), ""),
        (
            "rollout.idle_steps=3",
            State(idle=3),
            scored(1, 0),
            "3 steps in a row without an informative group; mean reward 1, everything",
        ),
        (
            "rollout.idle_steps=1",
            State(idle=1),
            scored(1, 0),
            "1 steps in a row without an informative group",
        ),
        ("learner.max_bad_steps=2", State(bad=1), scored(1, 0), ""),
        (
            "learner.max_bad_steps=2",
            State(bad=2),
            scored(1, 0),
            r"2 non-finite steps in a row; lower optimizer.lr \(now 0.001\)",
        ),
    ],
)
def test_a_run_stops_at_its_limits_and_not_before(knob, state, batch, message, tmp_path):
    run = run_of(
        tmp_path,
        knob,
        state=State(**{**{key: getattr(state, key) for key in State.__slots__}, "step": 12}),
    )
    if not message:
        stop_rules.stop_if_hopeless(run, batch)
        return
    with pytest.raises(UserError, match=f"stopped at step 12: {message}"):
        stop_rules.stop_if_hopeless(run, batch)


def test_the_last_sample_that_was_lost_is_named(tmp_path):
    run = run_of(tmp_path, "rollout.max_lost=0", state=State(unusable=2, cursor=8))
    lost = LostDraw(0, "image gone"), LostDraw(1, "too long")
    listed = re.escape(str(tmp_path / "run" / "left_out.jsonl"))
    with pytest.raises(UserError, match=rf"the last: too long; all are in {listed}$"):
        stop_rules.stop_if_hopeless(run, sampled(group([1.0], draw=1), unusable=lost))


def test_the_main_process_knows_how_many_rows_were_lost(tmp_path, ranks_of):
    state = State(unusable=10, cursor=100)
    run = run_of(tmp_path, "rollout.max_lost=0.05", state=state)
    for listed, stops in ((3, False), (4, True)):  # of four rows
        run.processes = ranks_of(1, [(listed, ()), None])
        assert bool(stop_rules._samples_unusable(run, scored(1, 0))) is stops


def test_a_step_of_which_nothing_could_be_asked_says_so(tmp_path):
    run = run_of(tmp_path, "rollout.idle_steps=1", state=State(idle=1))
    with pytest.raises(UserError, match="none of their samples could become a prompt; the last: x"):
        stop_rules.stop_if_hopeless(run, sampled(unusable=(LostDraw(0, "x"),)))


@pytest.mark.parametrize(
    ("others", "last"),
    [
        ([(2, (LostDraw(0, "gone"), LostDraw(3, "too long"))), None, (0, ())], "too long"),
        ([(2, ()), None, (0, ())], "in an earlier step"),
    ],
)
def test_a_sample_that_another_process_lost_is_named_too(others, last, tmp_path, ranks_of):
    run = run_of(tmp_path, "rollout.max_lost=0", state=State(unusable=2, cursor=8))
    run.processes = ranks_of(1, others)
    assert f"; the last: {last}; all are in " in stop_rules._samples_unusable(run, scored(1, 0))


def test_a_verifier_that_fails_in_another_process_stops_this_one_too(tmp_path, ranks_of):
    """All name the numbers and the error of the process that is furthest above the limit."""
    run = run_of(tmp_path, "rollout.max_faults=0.25")
    run.processes = ranks_of(0, [None, (0.5, 3, 10, "fault: A"), (1.5, 4, 10, "fault: B")])
    with pytest.raises(UserError, match="the verifier failed on 4 of 10 answers: fault: B"):
        stop_rules.stop_if_hopeless(run, scored(1, 0))
    run.processes = ranks_of(2, [(-0.5, 2, 10, "fault: A"), (0.0, 1, 4, "fault: B"), None])
    stop_rules.stop_if_hopeless(run, scored(1, 0))
    with pytest.raises(UserError, match="the verifier failed on 2 of 5 answers: fault: KeyError"):
        stop_rules.stop_if_hopeless(run, scored(3, 2))


def test_a_run_that_stops_for_its_format_says_so(tmp_path):
    run = run_of(tmp_path, "rollout.idle_steps=1", state=State(step=1, idle=1))
    asked = replace(prompt(), sample=replace(prompt().sample, answer_kind="number", answer=3))
    run.experiment.verifiers = VerifierSet(by_kind={"number": Number()})
    said = [completion(text="The answer is 3.")] * 2
    malformed = group([0.0, 0.0], said, asked=asked, parts=[{"format": 0.0}] * 2)
    with pytest.raises(
        UserError,
        match=r"everything is wrong: .*; 2 of 2 answers do not have the format of the prompt "
        r"style; lenient mode would read 100 % as right: set reward.mode=lenient, or raise warmup",
    ):
        stop_rules.stop_if_hopeless(run, sampled(malformed))


@pytest.mark.parametrize(
    ("reward", "fault", "steps", "said"),
    [
        (0.0, "", 40, "anew, for instance: `gpg-vl train {run}/config.yaml {new} warmup.steps=80`"),
        (0.0, "", 0, "anew, for instance: `gpg-vl train {run}/config.yaml {new} warmup.steps=300`"),
        (1.0, "", 40, "Then start a run with harder data"),
        (math.nan, "", 40, "for instance: `gpg-vl train {run}/config.yaml {new} rollout.max_tok"),
        (0.5, "", 40, "for instance: `gpg-vl train {run}/config.yaml {new} rollout.group_size=8`"),
        (
            math.nan,
            "fault: A",
            40,
            "\nMend it, then go on: `gpg-vl train --resume {run} --allow-changed`",
        ),
    ],
)
def test_a_run_without_informative_groups_says_what_to_type(
    reward, fault, steps, said, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", "/nowhere")
    folder = tmp_path / "my runs"
    (folder / "small-2").mkdir(parents=True)  # so that name is taken
    knobs = ("rollout.idle_steps=1", "rollout.max_faults=1", f"warmup.steps={steps}")
    run = run_of(tmp_path, *knobs, f"folder={folder}", state=State(idle=1))
    with pytest.raises(UserError) as stopped:
        stop_rules.stop_if_hopeless(run, sampled(group([reward] * 2, fault=fault, draw=0)))
    own = tmp_path / "run"
    said = said.format(run=own, new=f"'folder={folder}' name=small-3")
    assert said in str(stopped.value)
    look = f"take the same steps again.\nSee what is answered: `gpg-vl rollout {own}/config.yaml"
    assert (look in str(stopped.value)) == (not fault)


@pytest.mark.parametrize(
    ("rewards", "full_reward", "message"),
    [
        ([1.0, 1.0], 1.0, "mean reward 1, everything is right: make the questions harder"),
        ([0.91, math.nan], 1.0, "mean reward 0.91, everything is right"),
        ([0.5, 0.5], 1.0, "mean reward 0.5, the answers to one question are all alike"),
        ([0.09, 0.09], 1.0, "mean reward 0.09, everything is wrong: warm up longer or ask easier"),
        ([0.14], 1.5, "mean reward 0.14, everything is wrong"),
        ([0.0], 1.0, "mean reward 0, everything is wrong"),
        ([math.nan, math.nan], 1.0, "nothing could be scored: fault: KeyError"),
        (
            [],
            1.0,
            (
                "nothing could be scored: every completion was truncated and dropped; raise "
                "rollout.max_tokens"
            ),
        ),
    ],
)
def test_why_no_group_is_informative(rewards, full_reward, message):
    batch = sampled(
        *(
            group([reward], fault="fault: KeyError\nTraceback", draw=draw)
            for draw, reward in enumerate(rewards)
        )
    )
    assert stop_rules.why_not_informative(batch, full_reward).startswith(message)


def test_the_first_fault_is_one_line_and_dropped_answers_are_none():
    batch = sampled(
        group([math.nan], fault="truncated", draw=1),
        group([math.nan], fault="fault: A\nb", draw=2),
        group([math.nan], fault="fault: C", draw=3),
    )
    assert stop_rules.first_verifier_error(batch) == "fault: A"
    assert (
        stop_rules.first_verifier_error(sampled(group([math.nan], fault="truncated", draw=1))) == ""
    )


# --- when to evaluate and to save -----------------------------------------------------------------


@pytest.fixture
def noted(monkeypatch):
    """Evaluations and checkpoints are noted, not made."""

    def evaluate(run, when, head=None):
        run.events.append(("evaluate", when, head))
        return 0.5

    def write(page, *, is_last=False):
        page._log("page is written")
        page._is_due = False
        return True

    monkeypatch.setattr(milestones, "evaluate_held_out", evaluate)
    monkeypatch.setattr(
        milestones, "save", lambda run, score=None: run.events.append(("save", score))
    )
    monkeypatch.setattr(loop, "evaluate_held_out", milestones.evaluate_held_out)
    for module in (loop, failures):
        monkeypatch.setattr(module, "save", milestones.save)
    monkeypatch.setattr(LivePage, "write", write)


@pytest.mark.parametrize(
    ("step", "leaving", "events"),
    [
        (1, False, []),
        (2, False, [("evaluate", "000002", 4), ("save", 0.5)]),
        (3, False, [("save", None)]),
        (4, False, [("evaluate", "000004", 4), ("save", 0.5)]),
        (5, False, []),
        (6, False, [("evaluate", "000006", 4), ("save", 0.5)]),
        (7, False, [("evaluate", "after", None), ("save", 0.5)]),
        (1, True, [("save", None)]),
        # the evaluation is missing, and is made up for when the run goes on
        (2, True, [("save", None)]),
        (3, True, [("save", None)]),
    ],
)
def test_what_is_due_after_a_step_of_seven(step, leaving, events, tmp_path, noted):
    knobs = ("steps=7", "evaluation.every=2", "evaluation.head=4", "checkpoint.every=3")
    run = run_of(tmp_path, *knobs, state=State(step=step))
    milestones.after_step(run, leaving=leaving)
    assert run.events == events


def test_without_evaluations_in_between_only_the_last_step_has_one(tmp_path, noted):
    due = []
    for step in range(5):
        run = run_of(tmp_path, "steps=4", "evaluation.every=0", state=State(step=step))
        due.append(milestones.evaluation_due(run))
    assert due == ["", "", "", "", "after"]
    assert milestones.evaluation_due(run_of(tmp_path, "steps=4", "evaluation.every=2")) == "", (
        "the one before is none of these"
    )


@pytest.mark.parametrize(
    ("step", "taken", "evaluated", "missing"),
    [
        (2, [], True, True),
        (2, ["000002"], True, False),
        (2, ["before"], True, True),
        (1, [], True, False),
        (0, [], True, False),
        (4, [], True, True),
        (4, ["after"], True, False),
        (4, ["000004"], True, True),
        (2, [], False, False),
    ],
)
def test_a_run_that_was_left_before_an_evaluation_makes_it(
    step, taken, evaluated, missing, tmp_path
):
    benchmark = SimpleNamespace(spec=SimpleNamespace(name="small")) if evaluated else None
    run = run_of(
        tmp_path, "steps=4", "evaluation.every=2", state=State(step=step), benchmark=benchmark
    )
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    for when in taken:
        (tmp_path / "run" / "evaluation" / f"small-{when}.jsonl").write_text("")
    assert milestones.evaluation_is_missing(run) == missing
    run.processes = SimpleNamespace(is_main=False, any=lambda own: own)
    assert not milestones.evaluation_is_missing(run), "only the main process sees its files"
    run.processes = SimpleNamespace(is_main=False, any=lambda own: True)
    assert milestones.evaluation_is_missing(run), "and tells the others"


@pytest.mark.parametrize(("score", "missing"), [(0.5, False), (None, True)])
def test_an_evaluation_that_the_checkpoint_does_not_know_is_made_again(score, missing, tmp_path):
    """The run was killed after its records were written, before their score was saved."""
    benchmark = SimpleNamespace(spec=SimpleNamespace(name="small"))
    run = run_of(
        tmp_path, "steps=4", "evaluation.every=2", state=State(step=2), benchmark=benchmark
    )
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    (tmp_path / "run" / "evaluation" / "small-000002.jsonl").write_text("")
    (tmp_path / "run" / "checkpoints" / "000002").mkdir(parents=True)
    saved = tmp_path / "run" / "checkpoints" / "000002" / "state.json"
    saved.write_text(json.dumps({"score": score}))
    assert milestones.evaluation_is_missing(run) == missing


@pytest.mark.parametrize("main", [True, False])
def test_only_the_main_process_writes_and_all_wait_for_it(main, tmp_path, monkeypatch):
    run = run_of(
        tmp_path, "checkpoint.keep_last=3", "checkpoint.keep_best=2", state=State(step=5, version=4)
    )
    settings = SimpleNamespace(r=4, lora_alpha=8.0)
    adapters = SimpleNamespace(
        base="lab/base",
        settings=settings,
        layers=lambda: [("layers.0.q_proj", None)],
        is_quantised=False,
    )
    run.policy = SimpleNamespace(processor="processor", frame="frame", adapters=adapters)

    def waits() -> None:
        run.events.append("wait")

    run.processes = SimpleNamespace(
        is_main=main,
        accelerator=SimpleNamespace(wait_for_everyone=waits),
        all_gather=lambda own: [own, own],
    )
    monkeypatch.setattr(milestones, "template_thought", lambda processor: "<think>")
    monkeypatch.setattr(
        milestones,
        "model_card",
        lambda config, step, path, style, frame, *, opened, question, adapter: (
            ("card", step, path, style, frame, opened, adapter)
        ),
    )
    monkeypatch.setattr(checkpoint, "save", lambda *given: run.events.append(("save", *given)))
    monkeypatch.setattr(checkpoint, "prune", lambda *given: run.events.append(("prune", *given)))
    milestones.save(run, 0.5)
    path = tmp_path / "run"
    if not main:
        assert run.events == ["wait"]
        return
    assert names(run.events) == ["save", "prune", "wait"]
    assert run.events[0][1:3] == (path, 5)
    assert {"version": 4, "score": 0.5, "carried": [[], []]}.items() <= run.events[0][3].items()
    assert run.events[0][4:] == (
        run.policy,
        run.learner,
        (
            "card",
            5,
            path,
            "style",
            "frame",
            True,
            Adapter(base="lab/base", rank=4, alpha=8.0, targets=("q_proj",)),
        ),
    )
    assert run.events[1] == ("prune", path, 3, 2)


ONLY_ASKED = ("evaluation.blank=false", "run_folder.pictures_mb=0")
"""Neither a control nor small pictures: those are in test_held_out.py."""


def record(number: int, tag: str, greedy: float) -> Record:
    return Record(
        id=f"q{number}", tag=tag, greedy=greedy, sampled=math.nan, text="", answer="", reason=""
    )


@pytest.mark.parametrize(("head", "score"), [("null", 4 / 6), (1, 2 / 2), (2, 3 / 4), (9, 4 / 6)])
def test_checkpoints_are_compared_by_the_same_questions_at_every_evaluation(
    head, score, tmp_path, monkeypatch
):
    """The score is of the first `head` questions of each task, also where all of them were
    asked."""
    rows = [
        record(place, tag, greedy)
        for place, (tag, greedy) in enumerate(
            [("a", 1), ("b", 1), ("a", 0), ("b", 1), ("b", 1), ("b", 0)]
        )
    ]
    kept: list[Any] = []
    monkeypatch.setattr(evaluating, "run_benchmark", lambda benchmark, policy, engine, **how: rows)
    monkeypatch.setattr(eval_records, "save", lambda records, path: kept.append((records, path)))
    benchmark = benchmark_of("all")
    run = run_of(tmp_path, *ONLY_ASKED, f"evaluation.head={head}", benchmark=benchmark)
    assert milestones.evaluate_held_out(run, "after") == pytest.approx(score)
    assert kept == [(rows, tmp_path / "run" / "evaluation" / "small-after.jsonl")]
    assert run.events[0] == ("log", "held out, after: a 50.0 %, b 75.0 %")
    kind, step, figures = run.events[1]
    assert (kind, step, figures["held_out"]) == ("held_out", 0, pytest.approx(4 / 6))
    assert (figures["held_out/a"], figures["held_out/b"]) == (0.5, 0.75)
    assert figures["held_out/score"] == pytest.approx(score)


def test_an_evaluation_asks_as_many_as_it_is_reported_and_looks_at_an_engine_that_came_back(
    tmp_path, monkeypatch
):
    asked: list[Any] = []
    benchmark = benchmark_of("all")
    run = run_of(tmp_path, *ONLY_ASKED, benchmark=benchmark, state=State(version=3))

    def evaluate(given, policy, engine, **how):
        asked.append(given.questions)
        engine.needs_verification = len(asked) == 2
        return [record(1, "a", 1.0)]

    monkeypatch.setattr(evaluating, "run_benchmark", evaluate)
    monkeypatch.setattr(eval_records, "save", lambda records, path: run.events.append("kept"))
    milestones.evaluate_held_out(run, "000002", 3)
    assert names(run.events) == ["kept", "log", "held_out"]
    run.events.clear()
    milestones.evaluate_held_out(run, "after")
    assert asked == ["first 3", "all"]
    assert run.events[:2] == [("check", 3), "kept"], "before its answers are used"


def test_questions_that_cannot_be_asked_are_reported_and_listed(tmp_path, monkeypatch):
    def evaluate(given, policy, engine, on_left_out, **how):
        on_left_out(LeftOut("q9", "gone", "rows.jsonl"))
        return [record(1, "a", 1.0)]

    monkeypatch.setattr(evaluating, "run_benchmark", evaluate)
    run = run_of(tmp_path, *ONLY_ASKED, benchmark=benchmark_of("all"))
    assert milestones.evaluate_held_out(run, "after") == 1.0
    listed = tmp_path / "run" / "evaluation" / "small-after.left_out.jsonl"
    assert json.loads(listed.read_text())["id"] == "q9"
    assert run.events[0] == ("log", "warning: 1 not asked")


def test_held_out_answers_without_the_format_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "run_benchmark", lambda *given, **more: [record(1, "a", 0.0)])
    benchmark = benchmark_of("all", advice="small: all are cut off")
    run = run_of(tmp_path, *ONLY_ASKED, benchmark=benchmark)
    milestones.evaluate_held_out(run, "after")
    assert ("log", "warning: held out: small: all are cut off") in run.events


def benchmark_of(questions: str, advice: str = "") -> Any:
    return SimpleNamespace(
        spec=SimpleNamespace(name="small"),
        questions=questions,
        shortened=lambda head: benchmark_of(f"first {head}"),
        without=lambda unusable: SimpleNamespace(
            left_out=unusable,
            not_asked=f"{len(unusable)} not asked" if unusable else "",
            format_advice=lambda records, **how: advice,
        ),
    )


def test_another_process_does_not_evaluate(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "run_benchmark", lambda *given: pytest.fail("asked"))
    run = run_of(tmp_path, benchmark=SimpleNamespace())
    run.processes = SimpleNamespace(is_main=False, all_gather=lambda own: [own])
    assert milestones.evaluate_held_out(run, "after") is None
    assert milestones.evaluate_held_out(run_of(tmp_path), "after") is None


# --- the whole of it ------------------------------------------------------------------------------

CLOSED = (
    ("log", "page is written"),
    ("send page", "report.html"),
    "close folder",
    "close engine",
)
"""What happens at the end of a run."""


def whole(run: Any, monkeypatch: pytest.MonkeyPatch, asked_at: int | None = None) -> list[Any]:
    """A run on parts made by hand, asked to stop in a step; what happened, without the parts'
    own words."""
    monkeypatch.setattr(loop, "set_up", lambda *given, **more: asked.append((given, more)) or run)
    asked: list[Any] = []
    request: list[StopRequest] = []

    @contextlib.contextmanager
    def listening(log):
        run.stop = StopRequest()
        request.append(run.stop)
        yield run.stop

    monkeypatch.setattr(loop, "stop_request", listening)

    def step(it):
        it.state = State(step=it.state.step + 1)
        it.events.append(("step", it.state.step, request[-1].can_wait))
        if it.state.step == asked_at:
            assert request[-1].doing == f"finishing step {asked_at}, then saving"
            request[-1].receive(signal.SIGINT, 0.0)

    def rehearse(it):
        it.rehearsed = getattr(it, "rehearsed", names(it.events))

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "rehearse", rehearse)
    options: Any = {
        "resume": Path("run"),
        "from_step": 2,
        "callbacks": ["callback"],
        "log": print,
        "allow_changed": True,
    }
    assert loop.train(run.experiment, **options) == run.folder.path
    assert loop.train(run.experiment) == run.folder.path, (
        "a run that has reached its last step is done"
    )
    no_options = {
        "resume": None,
        "from_step": None,
        "callbacks": (),
        "log": print,
        "allow_changed": False,
    }
    assert [more.pop("stop") for _, more in asked] == request
    assert asked == [((run.experiment,), options), ((run.experiment,), no_options)]
    return run.events[: run.events.index("close engine") + 1]


def test_a_run_from_its_beginning_to_its_end(tmp_path, noted, monkeypatch):
    run = run_of(
        tmp_path,
        "steps=3",
        "evaluation.every=2",
        "evaluation.head=4",
        "checkpoint.every=9",
        gate=None,
    )
    assert whole(run, monkeypatch) == [
        ("evaluate", "before", None),
        ("save", None),
        ("step", 1, True),
        ("step", 2, True),
        ("evaluate", "000002", 4),
        ("save", 0.5),
        ("step", 3, True),
        ("evaluate", "after", None),
        ("save", 0.5),
        *CLOSED,
    ]


def test_the_page_is_written_between_steps_and_once_at_the_end(tmp_path, noted, monkeypatch):
    run = run_of(
        tmp_path, "steps=4", "evaluation.every=0", "checkpoint.every=2", "report.every=2", gate=None
    )
    assert whole(run, monkeypatch)[2:] == [
        ("step", 1, True),
        ("step", 2, True),
        ("save", None),
        CLOSED[0],
        ("step", 3, True),
        ("step", 4, True),
        ("evaluate", "after", None),
        ("save", 0.5),
        *CLOSED,
    ]


def test_a_resumed_run_evaluates_only_what_is_due(tmp_path, noted, monkeypatch):
    knobs = ("steps=3", "evaluation.every=2", "evaluation.head=4", "checkpoint.every=9")
    benchmark = SimpleNamespace(spec=SimpleNamespace(name="small"))
    due = run_of(tmp_path, *knobs, gate=None, state=State(step=2), benchmark=benchmark)
    assert whole(due, monkeypatch)[:3] == [
        ("evaluate", "000002", 4),
        ("save", 0.5),
        ("step", 3, True),
    ]
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    (tmp_path / "run" / "evaluation" / "small-000002.jsonl").write_text("")
    assert whole(
        run_of(tmp_path, *knobs, gate=None, state=State(step=2), benchmark=benchmark), monkeypatch
    )[0] == ("step", 3, True)


def test_a_run_that_is_asked_to_stop_finishes_its_step_and_saves_it(tmp_path, noted, monkeypatch):
    run = run_of(tmp_path, "steps=5", "evaluation.every=2", "checkpoint.every=9", gate=None)
    with pytest.raises(Stopped):
        whole(run, monkeypatch, asked_at=2)
    assert run.events[2:] == [("step", 1, True), ("step", 2, True), ("save", None), *CLOSED]


def test_a_run_that_is_asked_to_stop_in_its_last_step_ends_as_always(tmp_path, noted, monkeypatch):
    run = run_of(tmp_path, "steps=2", "evaluation.every=0", "checkpoint.every=9", gate=None)
    assert whole(run, monkeypatch, asked_at=2)[-6:] == [
        ("evaluate", "after", None),
        ("save", 0.5),
        *CLOSED,
    ]


def test_before_the_first_step_engine_and_trainer_are_compared(tmp_path, noted, monkeypatch):
    """On the shortest question with a picture, with two answers no longer than are compared."""
    run = run_of(tmp_path, "steps=1", "rollout.group_size=6", "rollout.gate.every=1")
    run.gate.prompts = (
        prompt(1, tokens=2),
        prompt(2, tokens=9, images=1),
        prompt(3, tokens=5, images=2),
        prompt(4, tokens=6, images=1),
    )
    run.gate.check = lambda engine, policy, version: (
        run.events.append("check")
        or {
            f"gate/{name}": 1.5
            for name in ("mean", "worst", "noise", "noise_worst", "allowed", "allowed_worst")
        }
    )
    run.gate.sampling = Sampling(max_tokens=9999, temperature=0.5)
    monkeypatch.setattr(engine_checks, "COMPARED_TOKENS", 32)
    events = whole(run, monkeypatch)
    assert names(events)[:5] == ["generate", "compare", "check", "log", "evaluate"]
    assert run.rehearsed == ["generate", "compare", "check", "log"]
    assert events[0] == ("generate", ["q3"], Sampling(max_tokens=32, temperature=0.5), [[0, 1]])
    assert events[1] == ("compare", (run.gate.prompts[2], ["answer", "answer"]), 6)
    assert events[3][1].startswith("engine check: fine (difference 1.5e+00 nat a token")
    run.gate.sampling = Sampling(max_tokens=5, temperature=0.5)
    run.events.clear()
    engine_checks.compare_forwards(run)
    assert run.events[0][2].max_tokens == 5


def test_words_are_compared_where_there_is_no_picture_and_nothing_without_a_gate(tmp_path):
    run = run_of(tmp_path)
    run.gate.prompts = (prompt(1, tokens=3), prompt(2, tokens=2))
    engine_checks.compare_forwards(run)
    assert run.events[0][1] == ["q2"]
    without = run_of(tmp_path, gate=None)
    engine_checks.compare_forwards(without)
    assert without.events == []
    assert engine_checks.check_gate(without) == {}


def test_what_the_first_look_told_is_one_line(tmp_path):
    run = run_of(tmp_path)
    seen = {"mean": 1, "worst": 2, "noise": 3, "noise_worst": 4, "allowed": 5, "allowed_worst": 6}
    engine_checks.log_gate_figures(
        run, {f"gate/{name}": number / 10 for name, number in seen.items()}
    )
    (event,) = run.events
    assert event[1] == "engine check: fine (difference 1.0e-01 nat a token, allowed 5.0e-01)"
    engine_checks.log_gate_figures(run, {})
    assert len(run.events) == 1


# --- what is lost on the way ----------------------------------------------------------------------


def kept(run: Path, *steps: int) -> None:
    for step in steps:
        (run / "checkpoints" / f"{step:06d}").mkdir(parents=True)
        (run / "checkpoints" / f"{step:06d}" / "state.json").write_text("{}")


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("I/O error: (os error 27)"),
    RuntimeError("I/O error: (os error 122)"),
    RuntimeError(
        "[enforce fail at inline_container.cc:603] . PytorchStreamWriter failed writing file data/1"
    ),
]
OTHER = [
    OSError(errno.ENOENT, "No such file"),
    RuntimeError("os error 2"),
    ValueError("28"),
    UserError("os error 28"),
    MismatchError("no"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_reported_with_the_step_to_go_on_from(error, tmp_path):
    with (
        pytest.raises(
            UserError,
            match=r"stopped: no space left to write below .*; make room, then start the run again",
        ),
        disk_full_explained(tmp_path),
    ):
        raise error
    kept(tmp_path, 2, 4)
    with (
        pytest.raises(
            UserError, match=r"make room, then go on from step 4 with gpg-vl train --resume "
        ),
        disk_full_explained(tmp_path),
    ):
        raise error


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_any_other_error_stays_what_it_is(error, tmp_path):
    with pytest.raises(type(error)) as met, disk_full_explained(tmp_path):
        raise error
    assert met.value is error


@pytest.mark.parametrize(
    ("there", "step", "main", "saves"),
    [((0, 2), 3, True, 1), ((0, 3), 3, True, 0), ((), 0, True, 1), ((), 3, False, 0)],
)
def test_a_run_whose_engine_is_gone_is_saved_once(there, step, main, saves, tmp_path, noted):
    run = run_of(tmp_path, state=State(step=step))
    run.processes = SimpleNamespace(is_main=main, any=lambda own: own)
    kept(tmp_path / "run", *there)
    with (
        pytest.raises(
            UserError,
            match=(
                rf"stopped after step {step}: gone\. Then go on with gpg-vl train --resume .*run$"
            ),
        ) as stopped,
        lost_engine_explained(run),
    ):
        raise EngineLostError("gone")
    assert type(stopped.value) is UserError
    assert names(run.events) == ["save"] * saves


def test_where_the_main_process_saves_all_take_part(tmp_path, noted):
    run = run_of(tmp_path)
    run.processes = SimpleNamespace(is_main=False, any=lambda own: True)
    with pytest.raises(UserError), lost_engine_explained(run):
        raise EngineLostError("gone")
    assert run.events == [("save", None)]


def test_a_run_whose_engine_samples_from_something_else_saves_nothing(tmp_path, noted):
    run = run_of(tmp_path, state=State(step=3))
    with (
        pytest.raises(MismatchError, match=r"^wrong weights$"),
        lost_engine_explained(run),
    ):
        raise MismatchError("wrong weights")
    kept(tmp_path / "run", 0, 2)
    with (
        pytest.raises(
            MismatchError,
            match=(
                r"wrong weights\. Mend it, then go on from step 2 with gpg-vl train --resume .*run$"
            ),
        ),
        lost_engine_explained(run),
    ):
        raise MismatchError("wrong weights")
    assert run.events == []
