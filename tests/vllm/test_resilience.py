"""Servers die, restart, hang, fail single requests: the run goes on with the right weights, or
stops with a checkpoint to resume from.

The servers are real and the kills are SIGKILL; what is killed is the whole process group. What
needs a server of its own runs nightly.
"""

import inspect
import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gpg_vl import run_folder
from gpg_vl.config import loading
from gpg_vl.errors import EngineLostError, UserError
from gpg_vl.experiment import Experiment
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.vllm import server_engine, weight_files
from gpg_vl.rollout.vllm.http_client import RetryableError, Server
from gpg_vl.rollout.vllm.server_engine import ServerEngine
from gpg_vl.training.loop import train
from tests.asking import prompts
from tests.conftest import ROOT
from tests.vllm.conftest import Served, build, move, server_spec
from tests.vllm.test_contract import WORST, seeds, worst_gap

TESTS = ROOT / "tests"
SAMPLING = Sampling(max_tokens=8, temperature=1.0)
STEPS = 5


def config(folder: Path, engine: dict[str, Any], *knobs: str) -> Any:
    """The small run with another engine; the gate looks before every step."""
    usual = (
        f"folder={folder}",
        f"steps={STEPS}",
        "evaluation.benchmark=null",
        "rollout.gate.every=1",
        "checkpoint.every=100",
    )
    given = loading.load(
        str(TESTS / "small.yaml"), [*usual, "policy.tiny.family=qwen2_5_vl", *knobs]
    )
    return given.model_copy(update={"rollout": given.rollout.model_copy(update={"engine": engine})})


def metrics(run: Path) -> list[dict[str, Any]]:
    return run_folder.metric_rows(run)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> Path:
    """The checkpoint that the servers of the small run serve: its policy before the warm-up."""
    from gpg_vl.policy.load import load_policy

    folder = tmp_path_factory.mktemp("small")
    given = loading.load(str(TESTS / "small.yaml"), [])
    load_policy(given.policy, seed=given.seed).save(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small_model, serve, fork_server) -> Path:
    """The run whose servers live."""
    folder = tmp_path_factory.mktemp("undisturbed")
    served = serve(small_model).wait()
    train(
        Experiment.resolve(config(folder, server_spec(fork_server, served))), log=lambda line: None
    )
    served.kill()
    return folder / "small"


class Accidents:
    """Kills the server at chosen moments of a run, and starts it again a moment later."""

    def __init__(
        self, served: Served, monkeypatch: pytest.MonkeyPatch, *, restart: bool = True
    ) -> None:
        self.served = served
        self.restart = restart
        self.due: dict[str, tuple[int, ...]] = {}
        """Call -> which of them meet a kill."""
        self.seen: dict[str, int] = {}
        self.happened: list[str] = []
        for owner, name in (
            (ServerEngine, "_generate_group"),
            (Server, "load_weights"),
            (ServerEngine, "_reset_caches"),
            (ServerEngine, "update_weights"),
        ):
            monkeypatch.setattr(owner, name, self.watched(name, getattr(owner, name)))

    def watched(self, name: str, original: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            self.count(name)
            return original(*args, **more)

        async def awaited(*args: Any, **more: Any) -> Any:
            self.count(name)
            return await original(*args, **more)

        return awaited if inspect.iscoroutinefunction(original) else call

    def count(self, name: str) -> None:
        self.seen[name] = self.seen.get(name, 0) + 1
        if self.seen[name] in self.due.get(name, ()):
            self.kill(name)
        if self.seen[name] in self.due.get(f"{name}, a moment later", ()):
            threading.Timer(0.01, self.kill, [f"{name}, a moment later"]).start()

    def kill(self, when: str) -> None:
        self.happened.append(when)
        self.served.kill()
        if self.restart:
            threading.Timer(0.5, self.served.start).start()


def same_course(one: Path, other: Path) -> None:
    """The two runs drew and learnt the same, so every repeated step was repeated with its seeds
    and the right weights."""
    for key in ("reward", "length", "loss", "grad_norm"):
        assert [row.get(key) for row in metrics(one)] == pytest.approx(
            [row.get(key) for row in metrics(other)], rel=1e-3
        ), key


@pytest.mark.nightly
def test_killed_at_any_moment_the_run_goes_on(
    undisturbed, small_model, serve, fork_server, tmp_path, monkeypatch
):
    """Before the first answer, in a rollout, before, in and after an update, between the steps."""
    served = serve(small_model)  # nobody has waited for it yet
    accidents = Accidents(served, monkeypatch)
    accidents.due = {
        "_generate_group": (1, 60),
        "load_weights": (3,),
        "load_weights, a moment later": (5,),
        "_reset_caches": (6,),
        "update_weights": (4,),
    }
    train(
        Experiment.resolve(
            config(tmp_path, server_spec(fork_server, served, handover=str(fork_server.handover)))
        ),
        log=lambda line: None,
    )
    served.kill()
    planned = [moment for moment, calls in accidents.due.items() for _ in calls]
    assert sorted(accidents.happened) == sorted(planned)
    assert len(metrics(tmp_path / "small")) == STEPS
    assert max(row["gate/worst"] for row in metrics(tmp_path / "small")) <= WORST
    same_course(undisturbed, tmp_path / "small")


@pytest.mark.nightly
@pytest.mark.parametrize(("moment", "step"), [("_generate_group", 0), ("load_weights", 2)])
def test_gone_for_good_the_run_stops_with_a_checkpoint_and_resumes(
    moment, step, undisturbed, small_model, serve, fork_server, tmp_path, monkeypatch
):
    served = serve(small_model).wait()
    with monkeypatch.context() as patch:
        accidents = Accidents(served, patch, restart=False)
        accidents.due = (
            {"_generate_group": (40,)} if moment == "_generate_group" else {"load_weights": (3,)}
        )
        with pytest.raises(
            UserError,
            match=rf"stopped after step {step}: no answer in .* s .*gpg-vl train --resume",
        ):
            train(
                Experiment.resolve(
                    config(tmp_path, server_spec(fork_server, served, deadline=1.0))
                ),
                log=lambda line: None,
            )
    run = tmp_path / "small"
    assert int(run_folder.newest_checkpoint(run).name) == step
    served.start()
    train(
        Experiment.resolve(config(tmp_path, server_spec(fork_server, served))),
        resume=run,
        log=lambda line: None,
    )
    served.kill()
    same_course(undisturbed, run)


@pytest.mark.nightly
def test_several_servers_share_the_prompts_and_all_take_the_weights(
    serve, fork_server, policy_of, monkeypatch
):
    both = [serve("qwen2_5_vl"), serve("qwen2_5_vl")]
    policy = policy_of("qwen2_5_vl")
    asked_by: dict[str, int] = {}
    group = ServerEngine._generate_group

    def counted(self, server, *question):
        asked_by[server.url] = asked_by.get(server.url, 0) + 1
        return group(self, server, *question)

    monkeypatch.setattr(ServerEngine, "_generate_group", counted)
    asked = prompts(policy, each=2)
    with closing(
        build(policy, server_spec(fork_server, *[served.wait() for served in both]))
    ) as engine:
        for version in (1, 2):
            move(policy, version)
            engine.update_weights(policy, version)
            answers = engine.generate(asked, SAMPLING, seeds(len(asked), 4))
            assert worst_gap(policy, asked, answers, temperature=1.0) <= WORST
    assert asked_by == {served.url: 10 for served in both}

    # Of two processes, each has a server of its own.
    with closing(build(policy, server_spec(fork_server, *both, rank=1, ranks=2))) as second:
        assert [server.url for server in second.own_servers] == [both[1].url]
    for served in both:
        served.kill()


@pytest.fixture
def engine(shared, policy_of):
    policy = policy_of("qwen2_5_vl")
    return shared("server", "qwen2_5_vl").sampling_from(policy)


@pytest.mark.nightly
def test_a_server_that_is_told_to_end_is_not_waited_for_in_vain(
    small_model, serve, fork_server, policy_of, monkeypatch
):
    """Asked politely, vLLM stops listening and keeps the connections open on which it owes
    answers."""
    monkeypatch.setattr(server_engine, "HEALTH_INTERVAL", 0.5)
    served, policy = serve("qwen2_5_vl").wait(), policy_of("qwen2_5_vl")
    long = Sampling(max_tokens=400, temperature=1.0)
    with closing(build(policy, server_spec(fork_server, served, deadline=120.0))) as engine:
        asked = prompts(policy)
        expected = engine.generate(asked, long, seeds(5, 8))
        post = Server.post

        async def ended(self, path, body=None):
            if path == "/inference/v1/generate" and not ending:
                ending.append(threading.Timer(0.1, end))
                ending[0].start()
            return await post(self, path, body)

        def end():
            os.kill(served.pid, signal.SIGTERM)
            threading.Timer(1, served.start).start()

        ending: list[threading.Timer] = []
        monkeypatch.setattr(Server, "post", ended)
        assert engine.generate(asked, long, seeds(5, 8)) == expected
        assert ending
    served.kill()


def test_an_update_that_another_trainer_left_open_is_closed(engine):
    engine.generate(prompts(engine.policy), SAMPLING, seeds(5, 2))
    engine._wait_for(engine.own_servers[0].post("/pause?mode=abort&clear_cache=false"))
    engine._wait_for(engine.own_servers[0].post("/start_weight_update"))  # and then it was killed
    move(engine.policy, 3)
    engine.update_weights(engine.policy, 10**6)
    asked = prompts(engine.policy)
    assert (
        worst_gap(
            engine.policy, asked, engine.generate(asked, SAMPLING, seeds(5, 2)), temperature=1.0
        )
        <= WORST
    )


def test_a_lost_answer_to_an_update_is_made_good(engine, monkeypatch):
    take, lost = Server.load_weights, []

    async def answer_lost(self, update):
        await take(self, update)
        if not lost:
            lost.append(update)
            raise RetryableError("ReadError")

    monkeypatch.setattr(Server, "load_weights", answer_lost)
    move(engine.policy, 4)
    engine.update_weights(engine.policy, 10**6 + 1)
    asked = prompts(engine.policy)
    assert (
        worst_gap(
            engine.policy, asked, engine.generate(asked, SAMPLING, seeds(5, 2)), temperature=1.0
        )
        <= WORST
    )
    assert lost


def test_what_another_run_trained_does_not_stay(engine, policy_of, fork_server):
    """A run that trains the tower leaves its tower in the server; the next run freezes it and
    would never send one."""
    move(engine.policy, 5)
    engine.update_weights(engine.policy, 10**6 + 2)
    engine.generate(prompts(engine.policy), SAMPLING, seeds(5, 1))
    policy = policy_of("qwen2_5_vl", vision="frozen", projector="frozen")
    with closing(
        build(
            policy,
            {
                "kind": "server",
                "servers": [engine.own_servers[0].url],
                "handover": str(fork_server.handover),
            },
        )
    ) as other:
        asked = prompts(policy)
        assert (
            worst_gap(policy, asked, other.generate(asked, SAMPLING, seeds(5, 2)), temperature=1.0)
            <= WORST
        )
        assert other.needs_verification


def test_whoever_interrupts_the_waiting_leaves_at_once(policy_of, fork_server):
    engine = build(
        policy_of("qwen2_5_vl"),
        {
            "kind": "server",
            "servers": ["http://127.0.0.1:9"],
            "handover": str(fork_server.handover),
        },
    )
    # What a shell starts in the background ignores SIGINT.
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
    start = time.monotonic()
    with closing(engine), pytest.raises(KeyboardInterrupt):
        engine.max_model_len()
    assert time.monotonic() - start < 10
    signal.signal(signal.SIGINT, usual)


def test_one_failing_request_is_repeated_alone(engine, monkeypatch):
    asked = prompts(engine.policy)
    expected = engine.generate(asked, SAMPLING, seeds(5, 2))
    group, calls = ServerEngine._generate_group, []

    async def flaky(self, server, prompt, *more):
        calls.append(prompt.sample.id)
        if calls.count(prompt.sample.id) == 1 and prompt is asked[2]:
            raise RetryableError("HTTP 503: try again")
        return await group(self, server, prompt, *more)

    monkeypatch.setattr(ServerEngine, "_generate_group", flaky)
    assert engine.generate(asked, SAMPLING, seeds(5, 2)) == expected
    assert sorted(calls) == sorted([prompt.sample.id for prompt in asked] + [asked[2].sample.id])


def test_what_keeps_failing_on_a_healthy_server_ends_with_a_sentence_and_without_a_partial_group(
    engine, monkeypatch
):
    monkeypatch.setattr(server_engine, "FIRST_PAUSE", 0.01)
    group = ServerEngine._generate_group

    async def poisoned(self, server, prompt, *more):
        if prompt.sample.id.startswith("digits/train/add"):
            raise RetryableError("HTTP 500: poisoned")
        return await group(self, server, prompt, *more)

    monkeypatch.setattr(ServerEngine, "_generate_group", poisoned)
    start = time.monotonic()
    with pytest.raises(
        EngineLostError, match=r"no answer in .* s \(HTTP 500: poisoned\); start the server again"
    ):
        engine.generate(prompts(engine.policy), SAMPLING, seeds(5, 2))
    assert time.monotonic() - start < 60


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(shared, policy_of, monkeypatch):
    engine = shared("server", "qwen2_5_vl").sampling_from(policy_of("qwen2_5_vl"))
    asked = prompts(engine.policy)
    expected = engine.generate(asked, SAMPLING, seeds(5, 2))
    post, late = Server.post, []

    async def slow_once(self, path, body=None):
        if path == "/inference/v1/generate" and not late:
            late.append(path)
            return await self._request("POST", path, {"json": body, "timeout": 0.001})
        return await post(self, path, body)

    monkeypatch.setattr(Server, "post", slow_once)
    assert engine.generate(asked, SAMPLING, seeds(5, 2)) == expected
    assert late


def test_a_server_takes_weights_from_its_folder_alone(engine, tmp_path):
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"")
    server = engine.own_servers[0]
    engine.generate(prompts(engine.policy), SAMPLING, seeds(5, 2))
    engine._wait_for(server.post("/start_weight_update"))
    with pytest.raises(EngineLostError, match=r"is not a \.safetensors file inside"):
        engine._wait_for(server.load_weights({"names": ["a"], "path": str(outside)}))
    asked = prompts(engine.policy)
    answers = engine.generate(asked, SAMPLING, seeds(5, 2))  # a refused update has touched nothing
    assert worst_gap(engine.policy, asked, answers, temperature=1.0) <= WORST


@pytest.mark.nightly
def test_altered_and_missing_tensors_are_refused(serve, fork_server, policy_of, monkeypatch):
    served = serve("qwen2_vl").wait()
    policy = policy_of("qwen2_vl")
    checksums = weight_files.checksums
    monkeypatch.setattr(
        weight_files,
        "checksums",
        lambda tensors: {**checksums(tensors), "model.language_model.norm.weight": "0" * 64},
    )
    engine = build(policy, server_spec(fork_server, served))
    with (
        closing(engine),
        pytest.raises(EngineLostError, match="is not what was sent: its checksum differs"),
    ):
        engine.generate(prompts(policy), SAMPLING, seeds(5, 2))
    served.kill()
