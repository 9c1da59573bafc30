"""vLLM in this process, played by a few lines here: what is refused before it is asked, and which
weights it is sent. No vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.errors import MismatchError, UserError
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.vllm import in_process
from tests.hand_made import prompt

SAMPLING = Sampling(max_tokens=3, temperature=0.5)
END = 9


def engine_of(**more: Any) -> Any:
    """An engine whose vLLM has started with weights 0; `sent` is whether each weight sync took the
    frozen tensors too."""
    engine: Any = object.__new__(in_process.VllmEngine)
    policy = SimpleNamespace(window=100, banned_ids=(8,), end_ids={END}, decode=str)
    known = {"policy": policy, "version": 0, "sleep": 0, "window": 8192, "images": 2}
    known |= {"_asleep": False, "_held": (policy, 0), "sent": []}
    for name, value in {**known, **more}.items():
        setattr(engine, name, value)
    engine._llm = SimpleNamespace(wake_up=lambda tags: None, sleep=lambda level: None)
    engine._sync_weights = lambda *, include_frozen: engine.sent.append(include_frozen)
    return engine


# --- what is refused ------------------------------------------------------------------------------


def test_without_vllm_a_sentence_says_which_extra_to_install(build, policy_of, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError,
        match=r"vllm is not installed; pip install 'gpg-vl\[vllm\]', or use engine: transformers",
    ):
        build(policy_of(), "vllm")


def test_a_vllm_in_this_process_serves_one_process(build, policy_of):
    with pytest.raises(UserError, match="vllm samples for one process, got 4; use kind: server"):
        build(policy_of(), "vllm", ranks=4)


@pytest.mark.parametrize(
    ("window", "policy_window", "limit"), [(4, 100, 4), (100, 4, 4), (5, 100, 0), (100, 5, 0)]
)
def test_prompt_and_answer_must_fit_the_smaller_window(window, policy_window, limit):
    """Two tokens and three; it is not said which of the two windows is the smaller one."""
    engine = engine_of(window=window)
    engine.policy.window = policy_window
    if not limit:
        engine._check(prompt(1, tokens=(1, 2)), SAMPLING)
        return
    with pytest.raises(
        UserError,
        match=f"q1: prompt and answer may have 5 tokens, the engine's window is {limit}",
    ):
        engine._check(prompt(1, tokens=(1, 2)), SAMPLING)


def test_a_prompt_must_not_have_more_images_than_vllm_was_started_for():
    engine_of()._check(prompt(1, images=2), SAMPLING)
    with pytest.raises(
        UserError, match=r"q1: it has 3 images, rollout\.engine\.images is 2; raise it"
    ):
        engine_of()._check(prompt(1, images=3), SAMPLING)


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_answers_come_back_as_were_asked_for(count):
    def choice(index: int) -> Any:
        position = {END: SimpleNamespace(logprob=-float(index))}
        return SimpleNamespace(
            index=index, token_ids=[END], logprobs=[position], finish_reason="stop"
        )

    asked = prompt(1, tokens=(1, 2))
    output = SimpleNamespace(prompt_token_ids=[1, 2], outputs=[choice(1), choice(0)])
    made = engine_of(version=5)._completions(asked, output, 2, SAMPLING)
    assert [(said.logprobs, said.version) for said in made] == [((0.0,), 5), ((-1.0,), 5)]
    with pytest.raises(MismatchError, match=f"q1: asked for {count} completions, got 2"):
        engine_of()._completions(asked, output, count, SAMPLING)


# --- which weights are sent -----------------------------------------------------------------------


def test_weights_are_sent_once_where_they_are_others_than_vllm_holds():
    engine = engine_of()
    engine._prepare()
    assert engine.sent == []
    engine.update_weights(engine.policy, 1)
    engine._prepare()
    engine._prepare()
    assert engine.sent == [False]


def test_another_policy_may_have_other_frozen_weights():
    engine = engine_of()
    engine.update_weights(SimpleNamespace(), 0)
    engine._prepare()
    engine._prepare()
    assert engine.sent == [True]


@pytest.mark.parametrize(("sleep", "sent"), [(1, []), (2, [True])])
def test_weights_that_were_dropped_in_sleep_are_sent_again(sleep, sent):
    engine = engine_of(sleep=sleep)
    engine.release_memory()
    engine._prepare()
    engine._prepare()
    assert engine.sent == sent
    assert not engine._asleep


def test_after_a_weight_sync_that_failed_all_weights_are_sent():
    """vLLM may hold some new ones, also where the old version is wanted again."""
    engine = engine_of()
    sync = engine._sync_weights

    def fails(*, include_frozen: bool) -> None:
        raise RuntimeError("out of memory")

    engine._sync_weights = fails
    engine.update_weights(engine.policy, 1)
    with pytest.raises(RuntimeError):
        engine._prepare()
    engine._sync_weights = sync
    engine.update_weights(engine.policy, 0)
    engine._prepare()
    engine._prepare()
    assert engine.sent == [True]


def test_a_vllm_that_wakes_finds_the_memory_that_torch_had_cached(monkeypatch):
    """The update's peak stays in torch's cache; vLLM maps its own memory and would find the GPU
    full."""
    done: list[str] = []
    engine = object.__new__(in_process.VllmEngine)
    engine.sleep, engine.policy, engine.version = 2, None, 1
    engine._held = (None, 1)
    engine._llm = SimpleNamespace(wake_up=lambda tags: done.append(f"wake {tags[0]}"))
    monkeypatch.setattr(engine, "_sync_weights", lambda include_frozen: done.append("weights"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("empty"))
    for there, expected in (
        (True, ["empty", "wake weights", "weights", "empty", "wake kv_cache"]),
        (False, ["wake weights", "weights", "wake kv_cache"]),
    ):
        done.clear()
        engine._asleep = True
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        engine._prepare()
        assert done == expected
