"""The supervised warm-up without a model: which solutions each process imitates, what they weigh, and what stops it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.config import WarmupConfig
from gpg_vl.training import sft
from gpg_vl.training.memory import Limits
from gpg_vl.training.sft import Likelihood, warm_up
from gpg_vl.types import UnusableSampleError, UserError


class Warmup:
    """A warm-up whose learner only writes down what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rank: int = 0, count: int = 1, skipped: dict[int, str] | None = None) -> None:
        self.updates: list[Any] = []
        self.made: dict[str, Any] = {}
        self.told: list[int] = []
        self.said: list[str] = []
        ranks = SimpleNamespace(rank=rank, count=count, matrices=lambda groups: ("rewards", "lengths"))

        def update(groups: Any, estimator: Any, rewards: Any, lengths: Any, *, version: int) -> Any:
            self.updates.append((groups, type(estimator), rewards, lengths, version))
            return SimpleNamespace(skipped=(skipped or {}).get(len(self.updates), ""))

        def learner(forward: Any, optimizer: Any, accelerator: Any, **more: Any) -> Any:
            self.made = {"forward": forward, "optimizer": optimizer, **more}
            return SimpleNamespace(ranks=ranks, update=update)

        monkeypatch.setattr(sft, "GroupForward", lambda policy, temperature, checkpointing: (policy, temperature, checkpointing))
        monkeypatch.setattr(sft, "Learner", learner)

    def __call__(self, steps: int, batch_size: int) -> list[tuple[int, ...]]:
        """The indices that were imitated, step by step."""
        config = WarmupConfig.model_validate({"steps": steps, "batch_size": batch_size, "data": [{"recipe": "digits"}]})
        accelerator = SimpleNamespace(free_memory=lambda: self.told.append(-1))
        imitation = SimpleNamespace(usable=iter)
        limits = Limits(tokens=77, checkpointing=True)
        warm_up("policy", imitation, config, accelerator, lambda step, update: self.told.append(step), limits, self.said.append)
        return [groups for groups, *_ in self.updates]


@pytest.mark.parametrize(
    ("rank", "count", "imitated"),
    [
        (0, 1, [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]),
        (0, 2, [(0, 2), (4, 6), (8, 10)]),
        (1, 2, [(1, 3), (5, 7), (9, 11)]),
        (2, 3, [(2,), (6,), (10,)]),
        (3, 4, [(3,), (7,), (11,)]),
    ],
)
def test_every_solution_is_imitated_once_by_one_process(rank, count, imitated, monkeypatch):
    assert Warmup(monkeypatch, rank=rank, count=count)(3, 4) == imitated


def test_steps_are_told_by_their_number_and_what_was_held_is_given_back_at_the_end(monkeypatch):
    warmup = Warmup(monkeypatch)
    warmup(3, 2)
    assert warmup.told == [1, 2, 3, -1]
    assert {tuple(rest) for _, *rest in warmup.updates} == {(Likelihood, "rewards", "lengths", 0)}


def test_the_learner_has_the_warm_ups_own_optimizer_and_the_runs_limits(monkeypatch):
    warmup = Warmup(monkeypatch)
    warmup(3, 2)
    say = warmup.made.pop("say")
    optimizer = warmup.made.pop("optimizer")
    assert optimizer == WarmupConfig.model_validate({"data": [{"recipe": "digits"}]}).optimizer
    assert warmup.made == {"forward": ("policy", 1.0, True), "total_steps": 3, "tokens_per_microbatch": 77}
    for line in ("image and prompt are computed once per group", "warning: not here"):
        say(line)
    assert warmup.said == ["warning: not here"]


def test_a_step_that_is_no_number_stops_with_its_step_and_what_to_lower(monkeypatch):
    warmup = Warmup(monkeypatch, skipped={2: "loss is nan"})
    with pytest.raises(UserError, match=r"^warm-up step 2: loss is nan; lower warmup\.optimizer\.lr \(now \S+\)$"):
        warmup(3, 2)
    assert warmup.told == [1]


def test_every_process_needs_a_solution_in_a_step(monkeypatch):
    assert Warmup(monkeypatch, count=2)(1, 2) == [(0,)]
    with pytest.raises(UserError, match=r"warmup\.batch_size: got 2, expected at least one sample for each of 3 processes"):
        Warmup(monkeypatch, count=3)(1, 2)


def test_every_token_weighs_the_same_and_nothing_else_counts():
    estimator = Likelihood()
    lengths_BG = torch.tensor([[2], [6]])
    assert estimator.weights(torch.tensor([[1.0], [0.0]]), lengths_BG).tolist() == [[0.125], [0.125]]
    assert (estimator.alpha(lengths_BG), estimator.kl, estimator.min_informative, estimator.has_ratio) == (1, 0, 0, False)
    logprobs_N, weight_N = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0.5, 0.25, 0.125])
    assert estimator.objective(logprobs_N, torch.zeros(3), weight_N) == 1.5


def test_a_question_that_cannot_be_asked_is_passed_over_and_a_mistake_is_not(monkeypatch):
    def at(imitation: Any, index: int) -> int:
        if index == 9:
            raise UserError("the solution would teach what earns nothing")
        if index % 2:
            raise UnusableSampleError("its picture is gone")
        return index

    monkeypatch.setattr(sft.Imitation, "__call__", at)
    imitation: Any = sft.Imitation(stream=None, style=None, policy=None, checks=None, max_tokens=1)
    assert list(imitation.usable(range(6))) == [0, 2, 4]
    with pytest.raises(UserError, match="would teach"):
        list(imitation.usable(range(8, 12)))
