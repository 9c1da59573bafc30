"""The warnings before the first step: which tasks reinforcement has little to learn from."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UnusableSampleError
from gpg_vl.preflight import learnability
from gpg_vl.types import Group, Prompt, Sample
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import completion, group, prompt


def sample(name: str) -> Sample:
    return Sample(id=name, question="?", answer_kind="number", answer=3)


INFORMATIVE, WRONG, RIGHT = [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]
BOX = prompt(kind="boxes", task="box")


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([group(INFORMATIVE)] * 5, ""),
        ([group(INFORMATIVE)] + [group(WRONG)] * 4, ""),  # 20 %
        (
            [group(INFORMATIVE)] + [group(WRONG)] * 5,
            "add: only 17 % of its groups are informative (mean accuracy 0.08); it is too hard",
        ),
        (
            [group(RIGHT)] * 3,
            (
                "add: only 0 % of its groups are informative (mean accuracy 1.00); it is solved: "
                "take harder questions"
            ),
        ),
        (
            [group([0.91, 0.91])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.91); it is solved",
        ),
        (
            [group(RIGHT)] * 9 + [group(WRONG)] * 3,
            (
                "add: only 0 % of its groups are informative (mean accuracy 0.75); the answers to "
                "one question are nearly all alike: raise rollout.temperature or"
            ),
        ),
        (
            [group([0.1, 0.1])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.10); the answers to one",
        ),
        (
            [group([0.09, 0.09])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.09); it is too hard",
        ),
        (
            [group([1.5, 1.5], parts=[{"accuracy": 0.25}] * 2)] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 0.25); the answers",
        ),
        (
            [group([1.0, math.nan])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy 1.00); it is solved",
        ),
        (
            [group([math.nan, math.nan])] * 3,
            "add: only 0 % of its groups are informative (mean accuracy nan); it is too hard as",
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


def test_a_weak_task_is_reported_in_one_sentence():
    assert learnability.warning_for([group(WRONG)] * 10) == (
        "add: only 0 % of its groups are informative (mean accuracy 0.00); "
        "it is too hard as yet: raise warmup.steps or take easier questions"
    )


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
        engine=SimpleNamespace(max_model_len=lambda: 50, max_images=lambda: 9),
        config=SimpleNamespace(max_tokens=8),
        verifiers=VerifierSet(by_kind={}),
        timer=SimpleNamespace(read=lambda: reads.append(1)),
    )
    data = Dataset(([sample("a")], [sample("b")], [sample("c")]), (5, 6, 7), seed=0)
    parts: Any = SimpleNamespace(train_data=data, prompt_at=prompts_of)
    policy: Any = None
    warnings = list(learnability.learnability_warnings(context, parts, policy))
    assert asked == [[-1, -2, *range(-4, -13, -1)], list(range(-1, -13, -1))]
    assert [line.partition(":")[0] for line in warnings] == ["a", "c"]
    assert reads == [1], "these seconds belong to no step"


def test_answers_without_the_format_are_explained_before_the_first_step(monkeypatch):
    asked = replace(prompt(), sample=sample("a"))
    said = [completion(text="The answer is 3.")] * 2
    malformed = group(WRONG, said, asked=asked, parts=[{"format": 0.0}] * 2)
    monkeypatch.setattr(learnability, "sample_groups", lambda context, given: [malformed])
    monkeypatch.setattr(learnability, "_prompts", lambda *given: ["a prompt"])
    context: Any = SimpleNamespace(
        config=SimpleNamespace(max_tokens=8),
        timer=SimpleNamespace(read=lambda: None),
        verifiers=VerifierSet(by_kind={"number": Number()}),
    )
    data = Dataset(([sample("a")],), (1,), seed=0)
    parts: Any = SimpleNamespace(train_data=data)
    policy: Any = None
    _, advice = learnability.learnability_warnings(context, parts, policy)
    assert advice.startswith("2 of 2 answers do not have the format of the prompt style; lenient")
