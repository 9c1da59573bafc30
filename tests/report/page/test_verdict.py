"""The verdict: each rule speaks on its case, with its numbers, and is silent on a good run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.evaluation.compare import compare
from gpg_vl.evaluation.records import Record
from gpg_vl.report.page import answers_seen, contents, health, learning, looking
from gpg_vl.report.page.contents import Evaluation, GroupRow, RunContents
from gpg_vl.report.page.finding import Finding
from gpg_vl.report.page.loopholes import loopholes
from gpg_vl.report.page.verdict import RULES, verdict

CONFIG: dict[str, Any] = {
    "name": "small",
    "data": [
        {"recipe": "digits", "options": {"task": "count", "count": 2000}},
        {"files": ["mine.jsonl"], "hub": None, "recipe": None, "options": {}},
    ],
    "policy": {
        "model": "tiny",
        "tiny": {"family": "qwen2_5_vl"},
        "language": "lora",
        "projector": "full",
        "vision": "frozen",
    },
    "rollout": {"max_tokens": 18},
    "reward": {"mode": "strict", "combine": "gate", "accuracy": 1.0, "format": 0.0},
    "estimator": "gpg",
    "optimizer": {"clip_norm": 1.0},
    "evaluation": {"benchmark": "digits"},
}
STEPS = 100


def steps(count: int = STEPS, /, **columns: Any) -> list[dict[str, Any]]:
    """Rows of healthy steps; a column is a value, or a function of the step."""

    def wobble(step: int) -> float:
        return 0.02 * (step % 3)

    healthy: dict[str, Any] = {
        "time": lambda step: f"2026-12-01T02:{step // 60:02d}:{step % 60:02d}+00:00",
        "reward": lambda step: 0.3 + 0.4 * step / count + wobble(step),
        "reward/count": lambda step: 0.3 + 0.4 * step / count,
        "part/format": 0.98,
        "informative": 0.5,
        "all_max": 0.4,
        "all_min": 0.1,
        "alpha": 1.4,
        "faults": 0.0,
        "length": 7.0,
        "truncated": 0.01,
        "skipped": 0.0,
        "loss": -0.1,
        "grad_norm": 1.0,
        "clipped": lambda step: float(step % 2),
        "entropy": 0.3,
        "memory_splits": 0.0,
        "seconds": 1.0,
        "seconds/encode": 0.2,
        "seconds/score": 0.1,
        "gate/excess": lambda step: 0.3 if step % 10 == 1 else None,
        "visual_reliance": lambda step: 2.0 if step % 10 == 1 else None,
    }
    rows: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        row: dict[str, Any] = {"step": step}
        for key, value in {**healthy, **columns}.items():
            row[key] = value(step) if callable(value) else value
        rows.append(
            {key: value for key, value in row.items() if value is not None or key == "loss"}
        )
    return rows


def answer(text: str, reward: float, **fields: Any) -> dict[str, Any]:
    inside = text.rpartition("<answer>")[2].partition("</answer>")[0]
    parts = {"accuracy": reward, "format": 1.0}
    reason = "right" if reward else "wrong"
    own = {"text": text, "reward": reward, "parts": parts, "answer": inside, "reason": reason}
    return {**own, "finish": "stop", **fields}


def unscored(reason: str) -> dict[str, Any]:
    return {**answer("4", 0.0), "reward": None, "reason": reason}


def group(step: int, draw: int, truth: Any, *answers: dict[str, Any], **fields: Any) -> GroupRow:
    row = {"draw": draw, "truth": truth, "tags": {"task": "count"}, "question": "How many?"}
    images = [{"file": None, "size": [56, 56]}]
    return GroupRow(step=step, row={**row, "images": images, "answers": answers, **fields})


def groups(given: Any, truth: Any = lambda n: n % 6 + 1, **fields: Any) -> list[GroupRow]:
    """Ten groups in each of ten steps, with two answers each.

    Args:
        given: number of the group -> its answers.
        truth: number of the group -> its truth.
    """
    found: list[GroupRow] = []
    for n in range(100):
        found.append(group(1 + 10 * (n // 10), n, truth(n), *given(n), **fields))
    return found


def one_right(n: int) -> tuple[dict[str, Any], ...]:
    right, wrong = n % 6 + 1, (n + 1) % 6 + 1
    return answer(f"<answer>{right}</answer>", 1.0), answer(f"<answer>{wrong}</answer>", 0.0)


def records(right: int, count: int = 200, **fields: Any) -> tuple[Record, ...]:
    """Records of which the first ones are right."""
    found: list[Record] = []
    for n in range(count):
        own = {"id": f"q{n}", "source": "digits", "tag": "count", "text": "", "answer": ""}
        row: dict[str, Any] = {**own, "reason": "", "images": ("a.png",), **fields}
        found.append(Record(greedy=float(n < right), **row))
    return tuple(found)


def evaluation(when: str, rows: Sequence[Record], step: int = 0, **fields: Any) -> Evaluation:
    return Evaluation(benchmark="digits", when=when, step=step, records=rows, **fields)


def run_of(**changes: Any) -> RunContents:
    """A healthy, finished run; the changes make another of it."""
    shown = groups(one_right)
    healthy: dict[str, Any] = {
        "path": Path("/runs/small"),
        "name": "small",
        "state": "finished",
        "total_steps": STEPS,
        "config": CONFIG,
        "environment": {},
        "steps": steps(),
        "held_out": [],
        "warmup": [],
        "groups": shown,
        "group_count": len(shown),
        "sampled_steps": 10,
        "read_steps": 10,
        "evaluations": [
            evaluation("before", records(100)),
            evaluation("after", records(160), STEPS),
            evaluation("blank", records(60), STEPS, blank=True),
        ],
        "left_out": [],
        "checkpoints": [50, 100],
    }
    return RunContents(**{**healthy, **changes})


def compared(before: int, after: int, **fields: Any) -> list[Evaluation]:
    first, second = records(before, **fields), records(after, **fields)
    return [evaluation("before", first), evaluation("after", second, STEPS)]


def of(rule: Any, **changes: Any) -> Finding:
    """What a rule says of a changed run. Of the healthy one it says nothing, or what is good."""
    own = rule(run_of())
    assert own is None or own.level == "good"
    finding = rule(run_of(**changes))
    assert finding is not None
    return finding


# --- the whole verdict ----------------------------------------------------------------------------


def test_a_healthy_run_gets_good_news_only():
    said = verdict(run_of())
    assert [finding.level for finding in said.findings] == ["good"] * 3
    assert said.headline == "It learns and it looks at the pictures; nothing looks wrong."
    assert said.subject == (
        "A tiny model of the family qwen2_5_vl (language model with LoRA, projector in full, "
        "vision tower frozen) trained with GPG on digits count (2,000 rows) and mine.jsonl: "
        "100 of 100 steps in 99 s, finished on 2026-12-01 at 02:01 UTC."
    )


def test_the_worst_comes_first_and_names_the_headline():
    blind = [*compared(100, 160), evaluation("blank", records(160), STEPS, blank=True)]
    said = verdict(run_of(evaluations=blind, left_out=[{"step": 0, "why": "no image"}]))
    assert said.headline == "It learns, but it does not look at the pictures."
    levels = [finding.level for finding in said.findings]
    # what it gained is no praise beside the shortcut, and nothing else is either
    assert levels == ["bad", "note", "note"]
    gain = next(finding for finding in said.findings if finding.chart == "held_out")
    assert gain.title == (
        "What it gained is the shortcut: held-out accuracy rose from 50.0 % to 80.0 %."
    )


def test_a_run_without_anything_is_described():
    empty = run_of(config={}, steps=[], groups=[], evaluations=[], checkpoints=[], state="running")
    said = verdict(empty)
    assert not said.findings
    assert said.headline == "No training step has been taken yet."
    assert said.subject == "small: 0 of 100 steps, running."


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "Too early to say: 2 steps."), ("finished", "Too few steps to say anything: 2.")],
)
def test_two_steps_say_nothing(state, words):
    short = run_of(steps=steps(2), evaluations=[], groups=[], state=state, total_steps=2)
    said = verdict(short)
    assert [(finding.level, finding.title) for finding in said.findings] == []
    assert said.headline.startswith(words.rstrip(".0123456789"))


def test_old_rows_without_any_field_break_no_rule():
    bare = [{"step": step} for step in range(1, 101)]
    empty_rows = [GroupRow(step=n, row={}) for n in range(1, 101)]
    odd = [GroupRow(step=n, row={"answers": [{}], "tags": None}) for n in range(1, 101)]
    for shown in (empty_rows, odd):
        said = verdict(run_of(steps=bare, groups=shown, evaluations=[], config={}))
        assert not [finding for finding in said.findings if finding.level != "good"]


def test_hostile_answers_are_short_plain_text():
    hostile = "<answer>" + "</answer><script>alert(1)</script>\0\u202e" * 3000
    shown = groups(lambda n: (answer(hostile, 1.0, answer="1 2 3 4 5 6"),) * 2)
    finding = of(learning.fooled, groups=shown)
    assert "<script>" in finding.evidence  # as text: the page escapes it
    assert "\0" not in finding.evidence
    assert "\u202e" not in finding.evidence
    assert len(finding.evidence) < 1500


def test_no_rule_stands_there_twice():
    assert len(set(RULES)) == len(RULES)


def test_the_change_on_held_out_questions_is_computed_once(monkeypatch):
    """With graded scores its interval takes 10,000 draws, and five rules ask for it."""
    compared: list[int] = []

    def counted(first: Sequence[Record], second: Sequence[Record]) -> Any:
        compared.append(len(first))
        return compare(first, second)

    monkeypatch.setattr(contents, "compare", counted)
    verdict(run_of())
    assert compared == [200, 200], "before against after, and the control"


# --- learning -------------------------------------------------------------------------------------


def test_learning_is_a_paired_difference():
    finding = learning.learning(run_of())
    assert finding is not None
    assert finding.title == "It is learning: held-out accuracy rose from 50.0 % to 80.0 %."
    # Bonett and Price with (60 + 1) / 202 and (0 + 1) / 202
    assert finding.evidence == (
        "Before against after training, paired over 200 held-out questions: +30.0 points, 95 % "
        "interval +23.3 to +36.2 points; 60 answered better, 0 worse."
    )
    assert finding.items[0] == ("digits", "q100")


def test_getting_worse_is_bad():
    finding = of(learning.learning, evaluations=compared(160, 100))
    assert (finding.level, finding.items[0]) == ("bad", ("digits", "q100"))
    assert finding.title == "It gets worse: held-out accuracy fell from 80.0 % to 50.0 %."


def test_no_gain_is_a_warning_at_the_end_and_a_note_before():
    same = compared(100, 102)
    assert of(learning.learning, evaluations=same).level == "warning"
    assert of(learning.learning, evaluations=same, state="running").level == "note"
    assert of(learning.learning, evaluations=same, steps=steps(4)).level == "note"


def test_all_right_before_leaves_nothing_to_gain():
    finding = of(learning.learning, evaluations=compared(196, 197))
    assert finding.level == "note"
    assert finding.title == "Nearly all held-out questions were right before training: 98.0 %."


def test_a_running_run_is_judged_on_the_questions_that_both_asked():
    short = evaluation("000050", records(64, 64), 50)
    finding = of(
        learning.learning, evaluations=[evaluation("before", records(30)), short], state="running"
    )
    assert finding.title == "It is learning: held-out accuracy rose from 46.9 % to 100.0 %."
    assert finding.evidence.startswith("Before against at step 50, paired over 64 held-out")


def test_other_questions_are_not_compared():
    first, second = records(100, digest="y"), records(160, digest="x")
    others = [evaluation("before", first), evaluation("after", second)]
    assert learning.learning(run_of(evaluations=others)) is None


def test_a_task_that_falls_while_others_rise():
    before = [*records(10, 100, tag="count"), *records(80, 100, tag="box", source="boxes")]
    after = [*records(90, 100, tag="count"), *records(50, 100, tag="box", source="boxes")]
    both = [evaluation("before", before), evaluation("after", after)]
    finding = of(learning.a_task_falls, evaluations=both)
    assert finding.title == "box got worse on held-out questions, while others did not."
    assert finding.evidence.startswith("box: 80.0 % to 50.0 %")
    assert finding.items[0] == ("boxes", "q50")


@pytest.mark.parametrize(
    ("reward", "level"),
    [
        (lambda step: 0.2 + step / 200 + 0.01 * (step % 3), "good"),
        (lambda step: 0.9 - step / 200 + 0.01 * (step % 3), "warning"),
        (lambda step: 0.5 + 0.01 * (step % 3), "note"),
    ],
)
def test_the_course_of_the_reward_without_a_benchmark(reward, level):
    finding = of(learning.reward_course, evaluations=[], steps=steps(reward=reward))
    assert finding.level == level
    assert "not held-out accuracy" in finding.evidence


def test_a_reward_has_fifty_steps_to_move():
    flat = run_of(evaluations=[], steps=steps(49, reward=lambda step: 0.5 + 0.01 * (step % 3)))
    assert learning.reward_course(flat) is None


def test_a_benchmark_is_asked_for_where_there_is_none():
    asked = learning.reward_course(run_of(evaluations=[], config={}))
    known = learning.reward_course(run_of(evaluations=[]))
    assert asked is not None
    assert known is not None
    assert "`evaluation.benchmark`" in asked.advice
    assert known.advice == ""


# --- the reward -----------------------------------------------------------------------------------


def test_a_reward_that_rises_alone():
    finding = of(learning.fooled, evaluations=compared(100, 90))
    assert finding.level == "bad"
    assert finding.title == "The reward is fooled, or the training questions are learnt by heart."
    # 0.3 + 0.4 x 0.055 + 0.02, and 0.3 + 0.4 x 0.955 + 0.02
    assert "rose from 0.342 to 0.702" in finding.evidence
    assert "from 50.0 % to 45.0 %" in finding.evidence


def test_listing_all_numbers_fools_the_reward():
    listing = groups(lambda n: (answer("<answer>1 2 3 4 5 6</answer>", 1.0),) * 2)
    finding = of(learning.fooled, evaluations=compared(100, 90), groups=listing)
    assert finding.title == "The reward is being fooled: it rises, but held-out accuracy does not."
    # recent are the last five of ten steps: 50 groups of two answers
    assert "100.0 % of 100 recent answers with the full reward hold another number" in (
        finding.evidence
    )
    assert "'<answer>1 2 3 4 5 6</answer>' where 4 is the truth" in finding.evidence
    assert "earns the full reward for 6 different truths (1, 2, 3, 4, 5): 100.0 %" in (
        finding.evidence
    )
    assert finding.groups[0] == (91, 99)
    assert of(learning.fooled, groups=listing).level == "warning"  # held-out accuracy rises


def test_several_options_and_several_tags_are_loopholes():
    options = groups(
        lambda n: (answer("<answer>cat, dog, cow</answer>", 1.0),) * 2, lambda n: "cat"
    )
    tags = groups(lambda n: (answer("<answer>2</answer><answer>1</answer>", 1.0),) * 2, lambda n: 1)
    assert "offer several answers at once" in loopholes(run_of(groups=options))[0].text
    assert "more than one answer tag" in loopholes(run_of(groups=tags))[0].text


@pytest.mark.parametrize(
    ("truth", "text"),
    [
        (4, "4.0"),
        (4, "four"),
        (1234, "1,234"),
        ("5", "5 cm"),
        (3.14, "3.1416"),
        ("red, green and blue", "red, green and blue"),
        ("\\sqrt{2}", "2^{1/2}"),
        (0.5, "1/2"),
        (0.5, "\\frac{1}{2}"),
        (8, "2^3"),
        (1000, "1e3"),
        (5, "5 cm^2"),
        (5, "5 m2"),
        ([[1, 2, 30, 40]], "[1,2,31,40]"),
        (True, "1"),
    ],
)
def test_right_answers_in_other_words_are_no_loopholes(truth, text):
    fair = groups(lambda n: (answer(f"<answer>{text}</answer>", 1.0),) * 2, lambda n: truth)
    assert loopholes(run_of(groups=fair)) == []


@pytest.mark.parametrize(("truth", "text"), [(2010, "2011"), (3, "33O43343"), (3, "1 2 3 4")])
def test_another_number_is_a_loophole_however_near(truth, text):
    odd = groups(lambda n: (answer(f"<answer>{text}</answer>", 1.0),) * 2, lambda n: truth)
    assert loopholes(run_of(groups=odd))


def test_a_letter_is_right_for_several_truths():
    for given, truth in (("(A)", "word {}"), ("yes", "{}")):
        letters = groups(
            lambda n: (answer(f"<answer>{given}</answer>", 1.0),) * 2,  # noqa: B023  # used at once
            lambda n: truth.format("BCDEFG"[n % 6]),  # noqa: B023
        )
        assert loopholes(run_of(groups=letters)) == []
    assert loopholes(run_of(groups=groups(lambda n: (answer("yes", 1.0),) * 2))) == []


def test_malformed_answers_that_a_weak_rule_pays():
    paid = groups(lambda n: (answer("4", 1.0, parts={"accuracy": 1.0, "format": 0.0}),) * 2)
    weak = {**CONFIG, "reward": {"mode": "reference", "combine": "gate"}}
    finding = of(answers_seen.weak_rule, groups=paid, config=weak)
    assert finding.evidence == (
        "100.0 % of 100 recent answers with a reward are malformed; `reward.mode: reference` "
        "allows it."
    )
    assert answers_seen.weak_rule(run_of(groups=paid)) is None


# --- pictures -------------------------------------------------------------------------------------


def with_control(grey: int) -> list[Evaluation]:
    return [*compared(100, 160), evaluation("blank", records(grey), STEPS, blank=True)]


@pytest.mark.parametrize(("grey", "level"), [(160, "bad"), (140, "note"), (60, "good")])
def test_the_control_says_whether_it_looks(grey, level):
    finding = looking.blind(run_of(evaluations=with_control(grey)))
    assert finding is not None
    assert finding.level == level


def test_numbers_of_a_blind_run():
    finding = of(looking.blind, evaluations=with_control(160))
    # Bonett and Price with 1 / 202 twice
    assert finding.evidence == (
        "80.0 % with the pictures, 80.0 % with grey ones, paired over 200 held-out questions: the "
        "pictures add +0.0 points, 95 % interval -1.4 to +1.4 points."
    )


def every_tenth(first: float, last: float) -> Any:
    return lambda step: (first if step < 50 else last) if step % 10 == 1 else None


@pytest.mark.parametrize(
    ("first", "last", "level"),
    [(0.01, 0.0, "bad"), (2.0, 0.5, "warning"), (2.0, 1.5, None), (0.1, 0.05, None)],
)
def test_reliance_on_pictures_without_a_control(first, last, level):
    rows = steps(visual_reliance=every_tenth(first, last))
    finding = looking.blind(run_of(steps=rows, evaluations=compared(100, 160)))
    assert (finding and finding.level) == level


def test_questions_of_words_only_have_no_pictures_to_miss():
    words = groups(one_right, images=[])
    rows = steps(visual_reliance=every_tenth(0.0, 0.0))
    same = [
        *compared(100, 160, images=()),
        evaluation("blank", records(160, images=()), blank=True),
    ]
    text_only = run_of(steps=rows, groups=words, evaluations=same)
    assert looking.blind(text_only) is None
    assert looking.no_control(text_only) is None


def test_a_run_without_control_is_told_how_to_make_one():
    finding = of(looking.no_control, evaluations=compared(100, 160))
    assert finding.level == "note"
    assert "by 14.00 nats an answer" in finding.evidence
    assert (
        "`gpg-vl evaluate digits --model /runs/small --blank --to "
        "/runs/small/evaluation/digits-blank.jsonl`" in finding.advice
    )
    running = run_of(evaluations=compared(100, 160), state="running")
    assert looking.no_control(running) is None


# --- answers --------------------------------------------------------------------------------------


def test_one_answer_to_everything():
    same = groups(lambda n: (answer("<answer>4</answer>", float(n % 6 == 3)),) * 2)
    finding = of(answers_seen.one_answer, groups=same)
    assert finding.level == "bad"
    assert finding.title == "It gives one answer, '4', to nearly all questions."
    # 50 recent questions with six truths: nine of the most frequent one
    assert finding.evidence == (
        "count: '4' is 100.0 % of 100 recent answers, while the most frequent truth is that of "
        "18.0 % of 50 questions."
    )


def test_one_answer_is_right_where_the_truth_is_mostly_that():
    shown = groups(lambda n: (answer("<answer>4</answer>", 1.0),) * 2, lambda n: 4 if n % 5 else 3)
    assert answers_seen.one_answer(run_of(groups=shown)) is None


def test_one_place_of_the_options():
    def options(n: int, given: str) -> Record:
        own = {"id": f"q{n}", "tag": "a", "text": "", "reason": "", "choices": ("x", "y", "z")}
        return Record(greedy=1.0, truth="x" if n % 10 else "z", answer=given, **own)

    first = tuple(options(n, "x" if n % 2 else "A") for n in range(100))
    finding = of(answers_seen.one_place, evaluations=[evaluation("after", first)])
    assert finding.title == "It names option 1 in 100.0 % of the questions."
    assert (
        "number 1 in 90.0 % of them, which is what naming it always scores; evenly it would be "
        "33.3 %" in finding.evidence
    )
    assert (finding.level, finding.is_shortcut) == ("bad", True)
    assert finding.advice.startswith("Shuffle the options")
    fair = tuple(options(n, "xyz"[n % 3]) for n in range(100))
    assert answers_seen.one_place(run_of(evaluations=[evaluation("after", fair)])) is None


def test_malformed_answers_with_their_reason():
    bad = groups(lambda n: (answer("4", 0.0, reason="malformed: no answer tag\nmore"),) * 2)
    finding = of(answers_seen.malformed, groups=bad, steps=steps(**{"part/format": 0.4}))
    assert (finding.level, finding.groups[0]) == ("bad", (91, 99))
    assert finding.title == "60.0 % of its answers do not have the required format."
    assert finding.evidence == (
        "Mean of `part/format` over the last steps: 0.400. The most frequent reason: malformed: no "
        "answer tag."
    )


def test_faults_with_their_reason():
    broken = groups(lambda n: (unscored("fault: KeyError: 'a'\nx"),))
    rows = steps(faults=lambda step: float(step in (98, 99)))
    finding = of(answers_seen.faults, groups=broken, steps=rows)
    assert (finding.level, finding.title) == ("warning", "2 answers could not be scored.")
    assert finding.evidence == (
        "In 2 steps, the last one 99. The most frequent reason: fault: KeyError: 'a'."
    )
    early = steps(faults=lambda step: float(step == 3))
    assert of(answers_seen.faults, steps=early).level == "note"


def test_a_task_without_any_reward():
    finding = of(answers_seen.a_task_earns_nothing, steps=steps(**{"reward/count": 0.0}))
    assert finding.title == "count earns nothing, while others do."
    assert finding.chart == "reward/count"


# --- health ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "wrong", "level"), [(0.95, 0.0, "note"), (0.0, 0.97, "bad"), (0.5, 0.47, "warning")]
)
def test_groups_without_a_difference(right, wrong, level):
    rows = steps(informative=0.03, all_max=right, all_min=wrong)
    assert of(health.signal, steps=rows).level == level


def test_a_signal_is_not_called_healthy_beside_a_fooled_reward():
    assert health.signal(run_of(evaluations=compared(100, 90))) is None


CASES: list[tuple[Any, dict[str, Any], str, str]] = [
    (health.alpha, {"alpha": 6.0}, "note", "Few informative groups decide each step."),
    (
        health.truncated,
        {"truncated": 0.25},
        "warning",
        "25.0 % of its answers run into the length limit of 18 tokens.",
    ),
    (
        health.truncated,
        {"truncated": 0.6},
        "bad",
        "60.0 % of its answers run into the length limit of 18 tokens.",
    ),
    (
        health.lengths,
        {"length": lambda step: 200.0 if step < 50 else 20.0},
        "warning",
        "Its answers became short: 200 tokens at first, 20 now.",
    ),
    (
        health.entropy,
        {"entropy": lambda step: 0.4 if step < 50 else 0.01},
        "warning",
        "Its entropy is gone: it samples nearly the same answer every time.",
    ),
    (
        health.gradients,
        {"grad_norm": lambda step: 1.0 if step < 50 else 20.0},
        "warning",
        "The gradient grew 20 times.",
    ),
    (health.gradients, {"clipped": 1.0}, "note", "The gradient is clipped in nearly every step."),
    (
        health.bad_numbers,
        {"loss": lambda step: None if step in (7, 99) else 0.1},
        "bad",
        "The loss or the gradient was not finite in 2 steps.",
    ),
    (
        health.bad_numbers,
        {"loss": lambda step: None if step == 7 else 0.1},
        "note",
        "The loss or the gradient was not finite in 1 step.",
    ),
    (
        health.skipped,
        {"skipped": lambda step: float(step % 4 == 0)},
        "warning",
        "25.0 % of the steps moved no weight.",
    ),
    (
        health.gate,
        {"gate/excess": 0.9},
        "warning",
        "Engine and trainer drift apart: the vision gate is near its limit.",
    ),
    (
        health.gate,
        {"gate/excess": lambda step: 0.2 if step < 50 else 0.7},
        "note",
        "Engine and trainer drift apart: the vision gate is near its limit.",
    ),
    (
        health.slow_phase,
        {"seconds/score": 0.7},
        "note",
        "Most of a step's time, 70.0 %, goes into `score`.",
    ),
    (
        health.memory,
        {"memory_splits": lambda step: float(step == 9)},
        "note",
        "The update ran out of memory 1 time and was split.",
    ),
]


@pytest.mark.parametrize(("rule", "columns", "level", "title"), CASES)
def test_numbers_of_the_steps(rule, columns, level, title):
    finding = of(rule, steps=steps(**columns))
    assert (finding.level, finding.title) == (level, title)


def test_an_entropy_that_began_low_is_not_lost():
    assert health.entropy(run_of(steps=steps(entropy=0.02))) is None


def test_short_answers_have_nothing_to_lose():
    rows = steps(length=lambda step: 20.0 if step < 50 else 5.0)
    assert health.lengths(run_of(steps=rows)) is None


def test_rows_that_are_not_used():
    reading = [{"step": 0, "why": "no image"}] * 3 + [{"step": 0, "why": "too long"}]
    finding = of(health.left_out, left_out=reading)
    assert (finding.level, finding.title) == ("note", "4 rows of the data are not used.")
    assert finding.evidence == "The most frequent reason, 3 rows: no image."
    later = of(health.left_out, left_out=[*reading, *[{"step": 5, "why": "no image"}] * 4])
    assert later.level == "warning"
    assert later.evidence.endswith("4 of them while training, 4.0 % of 100 draws.")


def test_a_run_that_stopped_says_how_it_goes_on():
    finding = of(health.stopped, state="stopped", steps=steps(70), checkpoints=[50])
    assert finding.title == "It stopped at step 70 of 100."
    assert finding.evidence.endswith("Step 50 is saved.")
    assert finding.advice == "It goes on with `gpg-vl train --resume /runs/small`."


def test_files_that_could_not_be_read():
    finding = of(
        health.unreadable_files, problems=[f"rollouts/{n} cannot be read" for n in range(7)]
    )
    assert finding.title == "7 files of the run could not be read."
    assert finding.evidence.endswith("rollouts/4 cannot be read; and 2 more.")


def test_evidence_is_the_same_for_equal_runs():
    run = run_of()
    assert verdict(run) == verdict(replace(run))


# --- not one word too early -----------------------------------------------------------------------


QUIET: list[tuple[Any, dict[str, Any]]] = [
    # a little less than what speaks
    (health.alpha, {"alpha": 3.5}),
    (health.truncated, {"truncated": 0.09}),
    (health.lengths, {"length": lambda step: 200.0 if step < 50 else 120.0}),
    (health.entropy, {"entropy": lambda step: 0.4 if step < 50 else 0.07}),
    (health.entropy, {"entropy": lambda step: 0.1 if step < 50 else 0.04}),
    (health.gradients, {"grad_norm": lambda step: 1.0 if step < 50 else 8.0}),
    (health.gradients, {"clipped": lambda step: float(step % 5 > 0)}),
    (health.skipped, {"skipped": lambda step: float(step % 12 == 0)}),
    (health.gate, {"gate/excess": 0.7}),
    (health.slow_phase, {"seconds/score": 0.45}),
    (health.slow_phase, {"seconds": 0.1, "seconds/score": 0.09}),
    (answers_seen.malformed, {"part/format": 0.85}),
    (answers_seen.a_task_earns_nothing, {"reward/count": 0.02}),
    (answers_seen.a_task_earns_nothing, {"reward": 0.03, "reward/count": 0.0}),
]


@pytest.mark.parametrize(("rule", "columns"), QUIET)
def test_numbers_near_a_limit_say_nothing(rule, columns):
    assert rule(run_of(steps=steps(**columns))) is None


def test_a_signal_between_healthy_and_poor_says_nothing():
    assert health.signal(run_of(steps=steps(informative=0.15))) is None


@pytest.mark.parametrize(("share", "level"), [(0.75, "warning"), (0.4, "bad")])
def test_how_bad_malformed_answers_are(share, level):
    finding = answers_seen.malformed(run_of(steps=steps(**{"part/format": share})))
    assert finding is not None
    assert finding.level == level


def rising_by(gain: float) -> list[dict[str, Any]]:
    return steps(reward=lambda step: 0.4 + gain * step / STEPS + 0.001 * (step % 3))


def test_a_reward_that_rises_alone_must_rise_clearly():
    worse = compared(100, 80)
    assert learning.fooled(run_of(evaluations=worse, steps=rising_by(0.04))) is None
    assert learning.fooled(run_of(evaluations=worse, steps=rising_by(0.12))) is not None


@pytest.mark.parametrize(("after", "is_fooled"), [(95, True), (99, True), (101, False)])
def test_a_gain_that_may_be_worth_having_is_not_called_fooled(after, is_fooled):
    """Bonett and Price: the interval of 1 more of 200 reaches +2.2 points, of 1 fewer +1.2."""
    said = learning.fooled(run_of(evaluations=compared(100, after)))
    assert (said is not None) == is_fooled


def test_what_pictures_add_must_be_clear():
    finding = looking.blind(run_of(evaluations=with_control(130)))
    assert finding is not None
    assert finding.level == "note"  # +15 points, the interval begins at +9.9
    finding = looking.blind(run_of(evaluations=with_control(120)))
    assert finding is not None
    assert finding.level == "good"


def test_a_model_that_knows_nothing_is_not_called_blind():
    knows_nothing = [*compared(8, 8), evaluation("blank", records(8), STEPS, blank=True)]
    assert looking.blind(run_of(evaluations=knows_nothing)) is None
    knows_little = [*compared(30, 30), evaluation("blank", records(30), STEPS, blank=True)]
    assert looking.blind(run_of(evaluations=knows_little)) is not None


@pytest.mark.parametrize(("count", "speaks"), [(19, False), (20, True)])
def test_few_held_out_questions_say_nothing(count, speaks):
    few = [evaluation("before", records(0, count)), evaluation("after", records(count, count))]
    assert (learning.learning(run_of(evaluations=few)) is not None) == speaks


def odd_share(share: float) -> list[GroupRow]:
    """Groups of which a share is paid for a list of numbers."""
    listing = (answer("<answer>1 2 3</answer>", 1.0),) * 2
    return groups(lambda n: listing if n % 10 < 10 * share else one_right(n)[:1] * 2)


def test_rare_slips_of_the_verifier_are_no_loophole():
    assert loopholes(run_of(groups=odd_share(0.1))) == []
    assert "30.0 % of 100 recent" in loopholes(run_of(groups=odd_share(0.3)))[0].text


def test_few_paid_answers_are_not_judged():
    def paid(n: int) -> Any:
        return (answer("<answer>1 2 3</answer>", float(n % 6 == 0)),) * 2

    assert loopholes(run_of(groups=groups(paid))) == []  # 8 groups of two among the recent 50


def test_a_long_text_may_hold_commas():
    long = groups(lambda n: (answer("<answer>a, b, c</answer>", 1.0),) * 2, lambda n: "word " * 20)
    assert loopholes(run_of(groups=long)) == []


@pytest.mark.parametrize(("often", "level"), [(0.5, None), (0.7, "warning"), (1.0, "bad")])
def test_how_often_one_answer_is_too_often(often, level):
    shown = groups(
        lambda n: (answer(f"<answer>{4 if n % 10 < 10 * often else n}</answer>", 0.0),) * 2
    )
    finding = answers_seen.one_answer(run_of(groups=shown))
    assert (finding and finding.level) == level


def at_first(share: float, count: int = 100) -> tuple[Record, ...]:
    found: list[Record] = []
    for n in range(count):
        own = {"id": f"q{n}", "tag": "a", "text": "", "reason": "", "choices": ("x", "y")}
        given = "x" if n % 10 < 10 * share else "y"
        found.append(Record(greedy=1.0, truth="x", answer=given, **own))
    return tuple(found)


def test_a_place_must_be_named_clearly_more_often_than_evenly():
    def says(rows: Sequence[Record]) -> bool:
        return answers_seen.one_place(run_of(evaluations=[evaluation("after", rows)])) is not None

    assert not says(at_first(0.7))
    assert says(at_first(0.8))
    assert not says(at_first(0.8, count=39))


def test_few_malformed_paid_answers_are_no_note():
    odd = answer("4", 1.0, parts={"accuracy": 1.0, "format": 0.0})
    shown = groups(lambda n: (odd if n == 60 else one_right(n)[0],) * 2)
    weak = {**CONFIG, "reward": {"combine": "sum"}}
    assert answers_seen.weak_rule(run_of(groups=shown, config=weak)) is None
