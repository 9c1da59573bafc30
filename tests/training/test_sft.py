"""The supervised warm-up without a model: what is imitated, by which process, what it weighs,
and what stops it."""

from collections.abc import Iterator, Set
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.config.schema import WarmupConfig
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.methods.supervised import Likelihood
from gpg_vl.preflight.memory import Limits
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.training import sft
from gpg_vl.training.sft import Imitation, solution, warm_up
from gpg_vl.types import Completion, LeftOut, Prompt, Sample
from gpg_vl.verifiers.number import Number
from tests.hand_made import prompt

# --- solutions ------------------------------------------------------------------------------------


def imitation(
    monkeypatch: pytest.MonkeyPatch,
    max_tokens: int,
    validation_error: str = "",
    banned: tuple[int, ...] = (7,),
) -> Imitation:
    """Solutions of the length that their index says, and an end."""

    def tokenizer(text: str, *, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [5] * len(text)}

    tokenizer.eos_token_id = 2
    tokenizer.decode = lambda ids: f"<{ids[0]}>"
    processor = SimpleNamespace(tokenizer=tokenizer)
    policy: Any = SimpleNamespace(processor=processor, banned_ids=banned, end_ids=frozenset({2}))
    dataset: Any = [
        Sample(id=f"q{index}", question="?", answer_kind="number", answer=3, solution="x" * index)
        for index in range(9)
    ]
    verifiers: Any = SimpleNamespace(validation_error_of=lambda text, it: validation_error)

    def encode(it: Sample, style: Any, policy: Any) -> Prompt:
        if it.id == "q3":
            raise UnusableSampleError("gone")
        return prompt(int(it.id[1:]))

    monkeypatch.setattr(sft, "encode", encode)
    return Imitation(
        dataset=dataset,
        style=Style(),
        policy=policy,
        verifiers=verifiers,
        max_tokens=max_tokens,
        max_lost=0.05,
    )


def asked(**more: Any) -> Sample:
    return Sample(**{"id": "q1", "question": "?", "answer_kind": "number", "answer": 3, **more})


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
    assert solution(asked(**given), style, verifiers) == text


def test_a_thought_is_made_up_for_nobody():
    with pytest.raises(
        UserError,
        match="the prompt style requires a thought, but q1 has no `solution` column to imitate",
    ):
        solution(asked(), Style(think="required"), SimpleNamespace())


def test_a_solution_is_imitated_as_if_it_had_been_said(monkeypatch):
    made = imitation(monkeypatch, max_tokens=3)(2)
    (imitated,) = made.completions
    assert imitated == Completion(
        token_ids=(5, 5, 2), logprobs=(0.0,) * 3, text="xx", finish="stop", version=0
    )
    assert (made.prompt_index, made.rewards, made.prompt.sample.id) == (2, (1.0,), "q2")


def test_what_could_not_be_said_or_would_earn_nothing_is_not_taught(monkeypatch):
    with pytest.raises(
        UserError, match=r"the solution of q2 has 3 tokens, rollout\.max_tokens is 2"
    ):
        imitation(monkeypatch, max_tokens=2)(2)
    with pytest.raises(UserError, match="the solution of q2 would teach what earns nothing: wrong"):
        imitation(monkeypatch, max_tokens=9, validation_error="wrong")(2)
    with pytest.raises(UserError, match="the solution of q2 holds <5>, a special token that no"):
        imitation(monkeypatch, max_tokens=9, banned=(7, 5))(2)


def test_what_cannot_be_imitated_is_left_out_with_its_reason(monkeypatch):
    lost: list[LeftOut] = []
    made = imitation(monkeypatch, max_tokens=9).usable([4, 3, 1], lost)
    assert [group.prompt_index for group in made] == [4, 1]
    assert lost == [LeftOut("q3", "gone")]
    made = imitation(monkeypatch, max_tokens=4).usable([1, 4], lost)
    assert [group.prompt_index for group in made] == [1]
    assert lost[1] == LeftOut("q4", "the solution of q4 has 5 tokens, rollout.max_tokens is 4")


def test_too_many_that_cannot_be_imitated_stop_the_warm_up():
    def gone(*names: object) -> list[LeftOut]:
        return [LeftOut(f"q{name}", "gone") for name in names]

    few = sft._Lost(max_lost=0.05, rows=100)
    for step in range(50):
        few.add(8, gone(*[step % 9]))  # nine bad rows
    assert (few.drawn, few.count, len(few.by_key)) == (400, 50, 9)
    with pytest.raises(
        UserError,
        match=(
            r"^warm-up: 51 of 408 samples cannot be imitated, more than rollout\.max_lost = 0\.05; "
            r"the first: q0: gone$"
        ),
    ):
        few.add(8, gone(99))
    with pytest.raises(UserError, match="48 of 48 samples cannot be imitated"):
        sft._Lost(max_lost=0.05, rows=100).add(48, gone(*range(48)))


def test_a_step_of_which_nothing_can_be_imitated_is_passed_over_and_reported(monkeypatch):
    warmup = Warmup(monkeypatch, lost={2, 3})
    assert warmup(3, 2) == [(0, 1), (4, 5)]
    assert warmup.events == [1, 3, "memory freed"]
    assert warmup.lines == ["warm-up: left out: 2 rows", "warm-up:   2 like 2: gone"]


def test_every_token_of_every_solution_weighs_the_same():
    """Three solutions of 1, 2 and 5 tokens: an eighth each, whatever they earn."""
    method = Likelihood()
    rewards_BG, lengths_BG = torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([[1], [2], [5]])
    assert method.weights(rewards_BG, lengths_BG).tolist() == [[0.125]] * 3
    assert method.alpha(rewards_BG) == 1
    assert (method.min_informative, method.kl, method.has_ratio) == (0, 0, False)
    logprobs_N, weight_N = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0.5, 0.25, 0.125])
    assert float(method.objective(logprobs_N, torch.zeros(3), weight_N)) == 0.5 + 0.5 + 0.5


# --- steps ----------------------------------------------------------------------------------------


class Warmup:
    """A warm-up whose learner only writes down what it is given."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        rank: int = 0,
        count: int = 1,
        skipped: dict[int, str] | None = None,
        lost: Set[int] = frozenset(),
    ) -> None:
        self.lost = lost
        self.updates: list[Any] = []
        self.made: dict[str, Any] = {}
        self.events: list[Any] = []
        self.lines: list[str] = []
        processes = SimpleNamespace(rank=rank, count=count, all_gather=lambda own: [own])

        def gather(groups: Any, all_gather: Any, own_rank: int) -> Any:
            assert (all_gather, own_rank) == (processes.all_gather, rank)
            groups = tuple(groups)
            ones_BG = torch.ones(len(groups), 1)
            return SimpleNamespace(groups=groups, rewards_BG=ones_BG, lengths_BG=2 * ones_BG)

        def update(batch: Any, weights_BG: Any, *, version: int) -> Any:
            self.updates.append((batch.groups, weights_BG.tolist(), version))
            return SimpleNamespace(skipped=(skipped or {}).get(len(self.updates), ""))

        def learner(
            forward: Any, estimator: Any, optimizer: Any, accelerator: Any, **more: Any
        ) -> Any:
            assert isinstance(estimator, Likelihood)
            self.made = {"forward": forward, "lr": optimizer.lr, **more}
            return SimpleNamespace(processes=processes, update=update)

        monkeypatch.setattr(
            sft,
            "GroupForward",
            lambda policy, temperature, checkpointing: (policy, temperature, checkpointing),
        )
        monkeypatch.setattr(sft, "gather_batch", gather)
        monkeypatch.setattr(sft, "Learner", learner)

    def _usable(self, indices: range, lost: list[LeftOut]) -> Iterator[int]:
        for index in indices:
            if index in self.lost:
                lost.append(LeftOut(str(index), "gone"))
            else:
                yield index

    def __call__(self, steps: int, batch_size: int) -> list[tuple[int, ...]]:
        """The indices that were imitated, step by step."""
        spec = {
            "steps": steps,
            "batch_size": batch_size,
            "data": [{"recipe": "digits"}],
            "optimizer": {"lr": 0.25},
        }
        imitation: Any = SimpleNamespace(
            policy="policy",
            usable=self._usable,
            max_lost=0.5,
            dataset=SimpleNamespace(samples=range(99)),
        )
        accelerator: Any = SimpleNamespace(free_memory=lambda: self.events.append("memory freed"))
        limits = Limits(tokens=77, checkpointing=True)
        config = WarmupConfig.model_validate(spec)
        warm_up(
            imitation,
            config,
            accelerator,
            limits,
            7,
            lambda step, update: self.events.append(step),
            self.lines.append,
        )
        return [groups for groups, *_ in self.updates]


@pytest.mark.parametrize(
    ("count", "shares"),
    [
        (1, [(0, 1, 2, 3)]),
        (2, [(0, 2), (1, 3)]),
        (3, [(0, 3), (1,), (2,)]),
        (4, [(0,), (1,), (2,), (3,)]),
    ],
)
def test_every_solution_of_a_step_is_imitated_by_one_process(count, shares, monkeypatch):
    assert [Warmup(monkeypatch, rank=rank, count=count)(1, 4) for rank in range(count)] == [
        [share] for share in shares
    ]


def test_every_step_has_the_next_solutions(monkeypatch):
    assert Warmup(monkeypatch, rank=1, count=2)(3, 5) == [(1, 3), (6, 8), (11, 13)]


def test_steps_are_reported_by_their_number_and_what_was_held_is_given_back_at_the_end(monkeypatch):
    warmup = Warmup(monkeypatch)
    warmup(3, 2)
    assert warmup.events == [1, 2, 3, "memory freed"]
    # two solutions of two tokens each: every token weighs a quarter
    assert [rest for _, *rest in warmup.updates] == [[[[0.25]] * 2, 0]] * 3


def test_the_learner_has_the_warm_ups_own_optimizer_and_the_runs_limits(monkeypatch):
    warmup = Warmup(monkeypatch)
    warmup(3, 2)
    log = warmup.made.pop("log")
    assert warmup.made == {
        "forward": ("policy", 1.0, True),
        "lr": 0.25,
        "seed": 7,
        "total_steps": 3,
        "tokens_per_microbatch": 77,
    }
    for line in ("image and prompt are computed once per group", "warning: not here"):
        log(line)
    assert warmup.lines == ["warning: not here"]


def test_a_step_that_is_no_number_stops_with_its_step_and_what_to_lower(monkeypatch):
    warmup = Warmup(monkeypatch, skipped={2: "non-finite loss"})
    with pytest.raises(
        UserError,
        match=r"^warm-up step 2: non-finite loss; lower warmup\.optimizer\.lr \(now 0\.25\)$",
    ):
        warmup(3, 2)
    assert warmup.events == [1]


@pytest.mark.parametrize(
    ("batch", "count", "fine"), [(2, 2, True), (3, 2, True), (1, 2, False), (2, 3, False)]
)
def test_every_process_needs_a_solution_in_a_step(batch, count, fine, monkeypatch):
    warmup = Warmup(monkeypatch, count=count)
    if fine:
        assert len(warmup(1, batch)) == 1
        return
    with pytest.raises(
        UserError,
        match=(
            rf"warmup\.batch_size: got {batch}, expected at least one sample for each of {count} "
            r"processes"
        ),
    ):
        warmup(1, batch)
