"""The rehearsal: as large as a micro-batch can be, and without a trace in the run."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpg_vl.errors import UserError
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.training import rehearsal
from gpg_vl.training.loop import train_step
from gpg_vl.training.microbatches import padded_tokens
from gpg_vl.training.processes import Processes
from gpg_vl.training.rehearsal import rehearse
from gpg_vl.training.setup import TrainingRun
from tests.training.test_train import metrics, of_the_machine, run, same, set_up, small, train

KNOBS = ("evaluation.benchmark=null", "checkpoint.every=2")
Rehearsed = Callable[..., TrainingRun]


@pytest.fixture
def made(tmp_path) -> Rehearsed:
    """Set a run up that rehearses; it has not done so yet."""

    def make(*knobs: str, log=lambda line: None) -> TrainingRun:
        config = small(tmp_path, *KNOBS, "warmup.steps=0", "learner.rehearse=true", *knobs)
        return set_up(config, log)

    return make


def end_of(run_folder: Path, step: int) -> Path:
    return run_folder / "checkpoints" / f"{step:06d}"


@pytest.mark.parametrize("policy", ["full", "frozen"])
def test_a_run_is_the_same_with_and_without_bit_for_bit_also_resumed(policy, tmp_path):
    """Where vision and projector are frozen, features are kept over steps."""
    frozen = (f"policy.vision={policy}", f"policy.projector={policy}")
    without, whole, parts = (
        run(tmp_path, f"name={name}", f"learner.rehearse={wanted}", *KNOBS, *frozen, *knobs)
        for name, wanted, knobs in (
            ("without", "false", ()),
            ("whole", "true", ()),
            ("parts", "true", ("steps=2",)),
        )
    )
    train(small(tmp_path, "name=parts", "learner.rehearse=true", *KNOBS, *frozen), resume=parts)
    for other in (whole, parts):
        assert same(end_of(other, 4), end_of(without, 4))
        assert rows(other) == rows(without)
        saved, expected = (
            torch.load(end_of(folder, 4) / "learner" / "optimizer.pt", weights_only=True)
            for folder in (other, without)
        )
        assert saved["schedule"] == expected["schedule"]
        torch.testing.assert_close(saved["optimizer"], expected["optimizer"], rtol=0, atol=0)


def rows(folder: Path) -> list[dict[str, float]]:
    found = metrics(folder)
    assert len(found) == 4
    assert any(row["skipped"] == 0.0 for row in found)
    return [{key: row[key] for key in row if not of_the_machine(key)} for row in found]


def test_the_batch_holds_as_many_of_the_longest_answers_as_may_come(made):
    run = made("learner.tokens_per_microbatch=300")
    prompts = rehearsal._longest_prompts(run)
    batch = rehearsal._largest_batch(run, prompts)
    longest = max(len(prompt.input_ids) for prompt in prompts)
    assert prompts[0] is batch[0].group.prompt
    assert len(prompts[0].input_ids) == longest
    each = longest + 4 * 8
    assert len(batch) == min(300 // each, 4)
    assert padded_tokens(batch) == len(batch) * each
    for item in batch:
        assert item.group.lengths == (8,) * 4
        ids = set(item.group.completions[0].token_ids)
        assert not ids & {*run.policy.banned_ids, *run.policy.end_ids}
    run.learner.tokens_per_microbatch = 1
    assert len(rehearsal._largest_batch(run, prompts)) == 1, "a group alone may be larger"
    run.learner.tokens_per_microbatch = 1 << 20
    assert len(rehearsal._largest_batch(run, prompts)) == 4, "groups_per_step"
    with_divergence = made("name=other", "estimator={kind: grpo, kl: 0.1}")
    assert len(rehearsal._largest_batch(with_divergence, prompts)) == 4 * 2, "of two rounds"


def test_moments_that_are_not_there_yet_take_their_place(made):
    run = made("optimizer.kind=adamw8bit")
    held = rehearsal._placeholders(run.learner)
    numbers = sum(parameter.numel() for parameter in run.learner.trained)
    assert sum(item.nbytes for item in held) == 2 * numbers
    for parameter in run.learner.trained:
        parameter.grad = torch.zeros_like(parameter)
    run.learner.optimizer.step()
    assert rehearsal._placeholders(run.learner) == []


def test_nothing_is_left_of_it(made):
    run = made()
    before = {name: item.clone() for name, item in run.policy.model.named_parameters()}
    cached = run.learner.forward.policy.vision
    state = torch.get_rng_state()
    rehearse(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert run.learner.forward.policy.vision is cached
    assert not run.learner.optimizer.state
    for name, item in run.policy.model.named_parameters():
        assert item.grad is None
        assert torch.equal(item, before[name])


def small_memory(monkeypatch: pytest.MonkeyPatch, fits: Callable[[int, int], bool]) -> list[int]:
    """Let a forward with a loss fail unless its (groups, tokens at once) fit."""
    honest, tried = GroupForward.forward, list[int]()

    def forward(self, asked, loss=None):
        if loss is not None:
            tried.append(len(asked))
            if not fits(len(asked), self.tokens_at_once):
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return honest(self, asked, loss)

    monkeypatch.setattr(GroupForward, "forward", forward)
    return tried


def test_out_of_memory_less_goes_through_at_once_and_the_run_says_so(made, monkeypatch):
    lines: list[str] = []
    run = made("learner.tokens_per_microbatch=400", log=lines.append)
    prompts = rehearsal._longest_prompts(run)
    tokens = len(prompts[0].input_ids) + 4 * 8
    tried = small_memory(monkeypatch, lambda groups, at_once: groups == 1 and at_once < tokens)
    lines.clear()
    rehearse(run)
    assert tried == [4, 2, 1, 1]
    assert [line.rpartition(": ")[0] for line in lines] == [
        "out of memory with the longest answers to the longest of the first prompts"
    ] * 3
    limits = [2 * tokens, tokens, max(tokens // 2, len(prompts[0].input_ids) + 8)]
    for limit, line in zip(limits, lines, strict=True):
        assert f"in this run, at most {limit} tokens go through the model at once" in line
    assert run.learner.tokens_per_microbatch == run.learner.forward.tokens_at_once == limits[2]
    assert train_step(run).metrics.get("memory_splits", 0.0) == 0.0


def test_moments_that_do_not_fit_end_the_run_with_what_makes_them_smaller(made, monkeypatch):
    """Also on a process without a prompt: smaller micro-batches would not help."""

    def no_room(learner: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    run = made()
    monkeypatch.setattr(rehearsal, "_placeholders", no_room)
    for prompts in (rehearsal._longest_prompts(run), []):
        monkeypatch.setattr(rehearsal, "_longest_prompts", lambda run, prompts=prompts: prompts)
        with pytest.raises(UserError, match="the optimizer's moments alone: set"):
            rehearse(run)


def test_what_one_of_several_processes_cannot_hold_is_less_for_all(made, monkeypatch):
    run = made("learner.tokens_per_microbatch=400")
    fails = [True, False]
    monkeypatch.setattr(Processes, "any", lambda processes, own: own or fails.pop(0))

    def gathered(processes: Processes, own: object) -> list[object]:
        """Return what both give: this one has enough memory."""
        return [own, 77]

    monkeypatch.setattr(Processes, "all_gather", gathered)
    monkeypatch.setattr(rehearsal, "raise_on_all_ranks", lambda gather: nullcontext())
    rehearse(run)
    assert run.learner.tokens_per_microbatch == run.learner.forward.tokens_at_once == 77


def test_what_one_of_several_processes_cannot_read_ends_all(made, monkeypatch):
    """Else the others would wait for it."""
    run = made()
    error = UserError("no verifier for this row")
    told: list[object] = []

    def prompt_at(index: int) -> object:
        raise error

    def gathered(processes: Processes, own: object) -> list[object]:
        told.append(own)
        return [own, None]

    monkeypatch.setattr(Processes, "all_gather", gathered)
    run.rollouts = replace(run.rollouts, prompt_at=prompt_at)
    with pytest.raises(UserError, match="no verifier for this row"):
        rehearse(run)
    assert told == [error]


def test_a_run_of_which_no_answer_fits_ends_before_its_first_step(tmp_path, monkeypatch):
    small_memory(monkeypatch, lambda groups, at_once: False)
    knobs = (*KNOBS, "warmup.steps=0", "rollout.gate.every=0")
    config = small(tmp_path, *knobs, "learner.rehearse=true")
    with pytest.raises(UserError, match=r"out of memory with one group of \d+ tokens; set learner"):
        train(config)
    assert metrics(tmp_path / "small") == []


@pytest.mark.parametrize(
    ("wanted", "device", "step", "happens"),
    [
        ("auto", "cpu", 0, False),
        ("auto", "cuda", 0, True),
        (True, "cpu", 3, True),
        (True, "cpu", 4, False),
        (False, "cuda", 0, False),
    ],
)
def test_it_is_for_gpus_and_for_runs_with_steps_left(wanted, device, step, happens, monkeypatch):
    asked = []
    monkeypatch.setattr(rehearsal, "_longest_prompts", lambda run: asked.append(run) or [])
    monkeypatch.setattr(rehearsal, "_largest_batch", lambda run, prompts: [])
    monkeypatch.setattr(rehearsal, "_fits", lambda learner, batch: True)
    run = SimpleNamespace(
        config=SimpleNamespace(steps=4, learner=SimpleNamespace(rehearse=wanted)),
        policy=SimpleNamespace(device=torch.device(device)),
        state=SimpleNamespace(step=step),
        processes=SimpleNamespace(all_gather=lambda own: [own], any=bool),
        engine=SimpleNamespace(release_memory=lambda: None),
        learner=None,
    )
    rehearse(run)
    assert bool(asked) == happens
