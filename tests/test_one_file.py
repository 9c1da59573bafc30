"""The whole idea on one page, examples/gpg_in_one_file.py: it learns something, and its weights,
its loss and its gradient are those of the package."""

import importlib.util
import sys

import pytest
import torch

from gpg_vl.methods.gpg import Gpg
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.plain_forward import UnsharedForward
from tests.asking import prompts, random_completions
from tests.conftest import ROOT

REWARDS = [
    [[1.0, 0.0, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0]],
    [[0.1, 0.1, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2]],  # 0.1 four times is no exact mean
    [[1.0, 0.0, 0.0, 0.0]],
]
"""Steps of three, two and one groups; one zero-variance group, only such, none."""


@pytest.fixture(scope="module")
def one_file():
    path = ROOT / "examples" / "gpg_in_one_file.py"
    spec = importlib.util.spec_from_file_location("gpg_in_one_file", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpg_in_one_file"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def rewards_of(step):
    return torch.tensor(step, dtype=torch.float64)


def lengths_of(rewards_BG):
    """Lengths from 1 to 7, all mixed."""
    count = rewards_BG.numel()
    return (torch.arange(count) * 3 % 7 + 1).reshape(rewards_BG.shape)


def test_it_imports_nothing_of_the_package():
    text = (ROOT / "examples" / "gpg_in_one_file.py").read_text()
    imported = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert {line.split()[1].split(".")[0] for line in imported} == {
        *("argparse", "random", "dataclasses", "torch", "PIL", "transformers")
    }


@pytest.mark.parametrize("step", REWARDS)
def test_its_weights_are_those_of_the_package(one_file, step):
    rewards_BG = rewards_of(step)
    lengths_BG = lengths_of(rewards_BG)
    found = one_file.gpg_weights(rewards_BG, lengths_BG)
    expected = Gpg(min_informative=0.0).weights(rewards_BG, lengths_BG)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert ((found != 0).any(1) == (rewards_BG.amax(1) > rewards_BG.amin(1))).all()


def test_its_weights_by_hand(one_file):
    """Two groups of two, the second without variance: alpha is 2. Advantages 1/2 and -1/2, 4 tokens
    in the group, mean over 2 groups: 2 * 1/2 * 1/4 * 1/2 = 1/8."""
    found = one_file.gpg_weights(
        rewards_of([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[1, 3], [2, 2]])
    )
    assert found.tolist() == [[0.125, -0.125], [0.0, 0.0]]


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in named.items() if gradient is not None}


@pytest.mark.parametrize(("forward", "bound"), [(GroupForward, 1e-6), (UnsharedForward, 1e-9)])
def test_its_loss_and_gradient_are_those_of_the_package(one_file, policy_of, forward, bound):
    policy = policy_of("qwen2_5_vl", dtype="float64")
    asked = prompts(policy, ["count", "box", "choice"])
    completions = [random_completions(4, longest=7, seed=index) for index in range(3)]
    rewards_BG = rewards_of(REWARDS[0])
    lengths_BG = torch.tensor([[len(own.token_ids) for own in group] for group in completions])

    questions = [
        one_file.Question(
            prompt.input_ids,
            prompt.features["pixel_values"],
            prompt.features["image_grid_thw"],
            truth=0,
        )
        for prompt in asked
    ]
    answers = [[list(own.token_ids) for own in group] for group in completions]
    weights_BG = one_file.gpg_weights(rewards_BG, lengths_BG)
    loss = one_file.gpg_loss(policy.model, questions, answers, weights_BG, policy.banned_ids)
    expected = gradients(policy.model, loss)

    method = Gpg(min_informative=0.0)
    weight_N = method.weights(rewards_BG, lengths_BG).flatten()
    weight_N = weight_N.repeat_interleave(lengths_BG.flatten())

    def token_loss(logprobs_n, index_n):
        return method.objective(logprobs_n, logprobs_n.detach(), weight_N[index_n])

    scores = forward(policy, 1.0)(list(zip(asked, completions, strict=True)), token_loss)
    found = gradients(policy.model, scores.loss)

    assert float(scores.loss.detach()) == pytest.approx(float(loss.detach()), rel=1e-9)
    assert float(loss.detach()) != 0
    assert found.keys() == expected.keys()
    size = sum(float(gradient.norm()) ** 2 for gradient in expected.values()) ** 0.5
    off = sum(float((found[name] - expected[name]).norm()) ** 2 for name in expected) ** 0.5
    assert off <= bound * size


def test_a_group_without_variance_costs_no_forward(one_file, monkeypatch):
    seen = []
    monkeypatch.setattr(
        one_file,
        "answer_logprobs",
        lambda model, question, group, banned: seen.append(question) or [torch.zeros(1)] * 2,
    )
    weights_BG = one_file.gpg_weights(rewards_of([[1.0, 0.0], [1.0, 1.0]]), torch.ones(2, 2))
    one_file.gpg_loss(None, ["first", "second"], [[[5], [6]]] * 2, weights_BG)
    assert seen == ["first"]


def test_it_runs_and_the_reward_rises(one_file, capsys):
    history = one_file.main(["--steps", "20", "--groups", "8", "--lr", "3e-3"])
    assert len(history) == 20
    assert sum(history[-5:]) > 2 * sum(history[:5])
    assert "step  19  mean reward" in capsys.readouterr().out
