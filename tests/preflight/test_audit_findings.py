"""The findings of an audit by hand: every level on both sides of its border, counts to the one,
pictures that are not square."""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl.boxes import Frame
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.experiment import Experiment
from gpg_vl.preflight import audit
from gpg_vl.preflight.audit import Finding
from gpg_vl.types import Group, LeftOut, Sample, Verdict
from gpg_vl.verifiers.base import Grade
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.hand_made import completion, group, png

DATA: dict[str, Any] = {"name": "x", "data": [{"files": "a.jsonl"}]}


def config(**changed: Any) -> Config:
    return Config.model_validate(DATA | changed)


def experiment(**changed: Any) -> Experiment:
    return Experiment.resolve(config(**changed))


def question(name: str, answer: object = 3, **fields: Any) -> Sample:
    return Sample(
        **{"id": name, "question": "How many?", "answer_kind": "number", "answer": answer} | fields
    )


def questions(*sources: list[Sample], left_out: tuple[LeftOut, ...] = ()) -> Dataset:
    weights = (1,) * len(sources)
    return Dataset(sources=sources, weights=weights, seed=0, left_out=left_out)


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "lost", "level"), [(3, 2, "mind"), (2, 2, "stop"), (1, 2, "stop"), (3, 0, "")]
)
def test_rows_that_are_left_out_stop_a_run_when_they_are_half(used, lost, level):
    left_out = tuple(LeftOut(f"lost {place}", "why not") for place in range(lost))
    found = list(
        audit.reference_answers(
            questions(
                [question("a")],
                [question(str(place)) for place in range(used - 1)],
                left_out=left_out,
            ),
            " (cut)",
        )
    )
    assert found[0] == Finding("fine", f"reference answers: {used} rows earn the full reward (cut)")
    expected = (
        [Finding(level, f"left out: {lost} rows of {used + lost}; {lost} like lost 0: why not")]
        if level
        else []
    )
    assert found[1:] == expected


def test_rows_that_another_source_of_the_same_file_uses_are_not_lost():
    left_out = tuple(LeftOut(str(place), "no number") for place in range(4))
    sources = [question("7")], [question(str(place)) for place in range(4)]
    levels = [finding.level for finding in audit.unused_rows(questions(*sources))]
    assert levels == []
    (finding,) = audit.unused_rows(questions(*sources, left_out=left_out * 2))
    assert finding.level == "mind"
    (finding,) = audit.unused_rows(questions([question("7")], left_out=left_out))
    assert finding.level == "stop"


def test_the_most_frequent_reason_is_told_first():
    left_out = (LeftOut("a", "no picture"), LeftOut("b", "too long"), LeftOut("c", "too long"))
    found = audit.reference_answers(questions([question("d")] * 4, left_out=left_out))
    assert [finding.text for finding in found][1:] == [
        "left out: 3 rows of 7; 2 like b: too long",
        "left out: 1 like a: no picture",
    ]


@pytest.mark.parametrize(
    ("head", "wanted", "rows", "cut"),
    [
        (5, None, 5, True),
        (5, None, 4, False),
        (5, 5, 5, False),
        (5, 6, 5, True),
        (5, 3, 3, False),
        (1000, None, 1000, True),
    ],
)
def test_more_rows_than_were_read_are_reported(head, wanted, rows, cut):
    sources = config(data=[{"files": "a.jsonl"} | ({"head": wanted} if wanted else {})]).data
    note = audit._cut(sources, questions([question("a")] * rows), head)
    assert note == (f" (only the first {head:,} rows of a source were read)" if cut else "")
    assert [source.head for source in audit._first_rows(sources, head)] == [
        min(head, wanted or head)
    ]


def test_rows_left_out_were_read_too():
    sources = config().data
    assert (
        audit._cut(sources, questions([question("a")] * 4, left_out=(LeftOut("b", "why"),)), 5)
        != ""
    )
    assert (
        audit._cut(sources, questions([question("a")] * 3, left_out=(LeftOut("b", "why"),)), 5)
        == ""
    )


# --- pictures -------------------------------------------------------------------------------------


def test_pictures_are_equal_when_size_and_every_pixel_are():
    # the first three have the same bytes
    pictures = [
        png((4, 3)),
        png((3, 4)),
        png((12, 1)),
        png((4, 3), (0, 0, 1)),
    ]
    seen, lost = audit._pictures(
        questions(
            [question(str(place), images=(picture,)) for place, picture in enumerate(pictures)]
        ).samples
    )
    assert (sorted(seen.values()), lost) == (["0", "1", "2", "3"], [])
    again, _ = audit._pictures(questions([question("again", images=(png((4, 3)),))]).samples)
    assert [seen[digest] for digest in again] == ["0"]


def test_a_picture_is_known_by_the_first_question_that_shows_it_and_all_of_a_question_count():
    a, b, c = png((4, 3), (1, 0, 0)), png((4, 3), (2, 0, 0)), png((4, 3), (3, 0, 0))
    seen, _ = audit._pictures(
        questions(
            [question("first", images=(a, b))],
            [question("second", images=(b, c)), question("bare")],
        ).samples
    )
    assert sorted(seen.values()) == ["first", "first", "second"]


def test_a_picture_that_cannot_be_read_is_reported_and_the_others_are_looked_at():
    broken = png((600, 600), (9, 9, 9))[:300]
    seen, lost = audit._pictures(
        questions([question("a", images=(broken,)), question("b", images=(png((4, 3)),))]).samples
    )
    assert list(seen.values()) == ["b"]
    assert len(lost) == 1
    assert lost[0].startswith("a: ")


@pytest.mark.parametrize(
    ("trained", "tested", "level", "text"),
    [
        (
            "abc",
            "xyz",
            "fine",
            "overlap: none of 3 test pictures is among 3 training pictures (cut)",
        ),
        (
            "abc",
            "axyz",
            "mind",
            (
                "overlap: 1 of 4 test pictures are also trained on, pixel for pixel (cut); test a "
                "is one"
            ),
        ),
        (
            "abc",
            "abxy",
            "mind",
            (
                "overlap: 2 of 4 test pictures are also trained on, pixel for pixel (cut); test a "
                "is one"
            ),
        ),
        (
            "abc",
            "xabcy",
            "mind",
            (
                "overlap: 3 of 5 test pictures are also trained on, pixel for pixel (cut), more "
                "than half: the benchmark measures mostly memory; test a is one"
            ),
        ),
        (
            "abcdef",
            "abxy",
            "mind",
            (
                "overlap: 2 of 4 test pictures are also trained on, pixel for pixel (cut); test a "
                "is one"
            ),
        ),
        (
            "abc",
            "ab",
            "stop",
            (
                "overlap: 2 of 2 test pictures are also trained on, pixel for pixel (cut): the "
                "benchmark would measure memory, not learning; hold other pictures out"
            ),
        ),
        ("", "ab", "fine", "overlap: none of 2 test pictures is among 0 training pictures (cut)"),
    ],
)
def test_how_much_of_the_test_is_trained_on(trained, tested, level, text):
    def by_digest(letters: str, where: str) -> dict[str, str]:
        return {letter: f"{where} {letter}" for letter in letters}

    assert audit._shared_pictures(
        by_digest(trained, "train"), by_digest(tested, "test"), " (cut)"
    ) == Finding(level, text)


def test_a_run_without_a_benchmark_is_reported():
    text = "no evaluation.benchmark: the run will not know whether it learns"
    assert list(audit.overlap(experiment(evaluation={"benchmark": None}), {}, "", 9)) == [
        Finding("mind", text)
    ]


@pytest.mark.parametrize(("lost", "level"), [(1, "mind"), (2, "mind"), (5, "mind"), (6, "stop")])
def test_lost_pictures_stop_a_run_when_they_are_more_than_it_bears(lost, level):
    rows = questions([question(str(place), images=(b"x",)) for place in range(10)])
    found = list(audit.pictures(config(rollout={"max_lost": 0.2}), rows, ["so"] * lost, 10))
    assert found == [
        Finding(level, f"pictures: {lost} of 10 rows have one that cannot be read; so")
    ]


@pytest.mark.parametrize(
    ("lost", "tried", "rows", "stops"),
    [
        (3, 65, 2000, False),  # below 5 %
        (4, 65, 2000, True),  # 123 of 2000 are to be expected
        (4, 65, 65, False),  # there are no others
        (10, 65, 65, True),
        (1, 1, 1, True),
    ],
)
def test_a_sample_of_the_rows_stands_for_all_of_them(lost, tried, rows, stops):
    given = config(rollout={"max_lost": 0.05})
    assert audit._stops_a_run(given, lost, tried, rows) is stops


def test_rows_without_a_picture_are_reported_source_by_source():
    seen, bare = question("seen", images=(b"x",)), question("bare")
    two = config(data=[{"files": "a.jsonl"}, {"files": "b.jsonl", "columns": {"image": "picture"}}])

    def told(*rows: list[Sample]) -> list[str]:
        found = audit.pictures(two, questions(*rows), unreadable=[], decoded=3)
        return [finding.text for finding in found]

    assert told([seen, bare], [seen]) == ["pictures: 1 of 2 rows have no picture; bare is one"]
    assert told([bare, bare], [seen]) == []  # words alone
    assert told([seen], [bare, bare]) == ["pictures: 2 of 2 rows have no picture; bare is one"]


# --- rewards --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Paying(Number):
    """Pays for every number alike, or for one exploit."""

    always: float = 0.0
    exploit: str = "no exploit"

    def grade(self, answer, sample):
        verdict = super().grade(answer, sample)
        return Grade(
            max(
                verdict.accuracy,
                self.always * (verdict.reason != "unreadable: not one number"),
                float(answer == self.exploit),
            ),
            *verdict[1:],
        )


def judged(verifier: Number, *truths: object) -> list[Finding]:
    samples = [question(str(place), truth) for place, truth in enumerate(truths)]
    return list(audit.rewards("number", samples, VerifierSet(by_kind={"number": verifier})))


def test_what_a_policy_can_earn_without_looking():
    fine = Finding("fine", "number: the exploit suite earns what it may on 4 questions")
    half = "number: best constant of those tried, '3', earns 0.5000, chance level 0.5000"
    assert judged(Number(), 3, 3, 4, 5) == [fine, Finding("fine", half)]
    same = "best constant of those tried, '3', earns 1.0000, chance level 1.0000"
    assert judged(Number(), 3, 3, 3, 3) == [
        fine,
        Finding(
            "stop", f"number: one answer is always right, so there is nothing to learn: {same}"
        ),
    ]
    assert judged(Number(), 3)[1].level == "fine"  # of a single question nothing can be said


def test_a_reward_that_can_be_fooled_stops_a_run_unless_it_is_the_authors():
    finding = judged(Paying(exploit="0-100"), 3, 3, 4, 5)[0]
    assert finding.level == "stop"
    assert finding.text.startswith(
        "number: the reward can be fooled: 4 exploits earn more than they may; 0: a range "
    )
    every = judged(Paying(always=1.0), 3, 3, 4, 5)
    assert every[1].text.startswith(
        "number: one answer is always right, whatever the truth is: best constant"
    )
    assert every[1].level == "stop"
    part = judged(Paying(always=0.6), 3, 3, 4, 5)[1]
    assert part.level == "mind"  # a verifier of one's own may give part marks
    # 0.5 + 0.5 x 0.6
    assert part.text.endswith(
        "'3', earns 0.8000, chance level 0.5000; part marks can do that, a hole in the verifier too"
    )


def test_the_exploit_suite_is_tried_on_the_first_fifty_questions():
    finding = judged(Paying(exploit="0-100"), *range(60))[0]
    assert "50 exploits earn more than they may" in finding.text
    assert (
        judged(Number(), *range(60))[0].text
        == "number: the exploit suite earns what it may on 50 questions"
    )


def test_a_verifier_that_has_no_reference_answer_is_told_to_be_unchecked():
    class Own:
        def __call__(self, text, sample):
            return Verdict(reward=1.0)

    assert list(audit.rewards("own", [question("a")], VerifierSet(by_kind={"own": Own()}))) == [
        Finding(
            "mind", "own: Own has no reference answer and no exploit suite; nothing was checked"
        )
    ]


def test_the_frame_of_an_audit_without_a_model():
    def frame(**policy: Any) -> Frame:
        return experiment(policy=policy).frame

    assert frame(frame="norm1").kind == "norm1"
    assert frame(tiny={"family": "qwen2_5_vl"}).kind == "resized"
    assert frame(tiny={"family": "qwen2_vl"}).kind == "norm1000"
    assert frame(model="who/knows").kind == "norm1000"
    assert frame(model="who/knows", tiny={"family": "qwen2_5_vl"}).kind == "norm1000"


@pytest.mark.parametrize(
    ("changed", "lost", "start"),
    [
        ({"rollout": {"engine": "vllm"}}, "vllm", "rollout.engine: vllm is not installed"),
        (
            {"rollout": {"engine": {"kind": "vllm"}}},
            "vllm",
            "rollout.engine: vllm is not installed",
        ),
        ({"rollout": {"engine": "transformers"}}, "vllm", None),
        ({"trackers": ["wandb"]}, "wandb", "trackers: wandb is not installed"),
        ({"trackers": ["wandb"]}, "trackio", None),
        (
            {"data": [{"hub": "who/what"}]},
            "datasets",
            "data: who/what is read with the package datasets",
        ),
        (
            {"warmup": {"data": [{"hub": "warm/up"}]}},
            "datasets",
            "data: warm/up is read with the package datasets",
        ),
        (
            {"evaluation": {"benchmark": "test.yaml"}},
            "datasets",
            "data: held/out is read with the package datasets",
        ),
        ({}, "datasets", None),
    ],
)
def test_a_package_is_missed_only_where_it_is_needed(changed, lost, start, tmp_path, monkeypatch):
    (tmp_path / "test.yaml").write_text("name: test\ndata: [{hub: held/out}]\n")
    monkeypatch.setattr(
        audit.importlib.util, "find_spec", lambda name: None if name == lost else name
    )
    given = config(**changed).at(tmp_path)
    found = list(audit.packages(given, audit._benchmark_sources(given)))
    assert [each.level for each in found] == (["stop"] if start else [])
    assert all(each.text.startswith(str(start)) for each in found)


# --- lengths --------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """The findings about prompts as long as said and a window of 100 tokens; a length of 0 = it
    cannot be asked."""

    def tokenizer(text, add_special_tokens):
        return {"input_ids": text}  # a letter a token

    reader = SimpleNamespace(window=100, processor=SimpleNamespace(tokenizer=tokenizer))

    def encode(sample, style, policy):
        if not int(sample.id):
            raise UnusableSampleError("too long")
        return SimpleNamespace(input_ids=[0] * int(sample.id))

    monkeypatch.setattr(audit, "encode", encode)

    def measure(
        *lengths: int, max_tokens: int = 30, truths: Any = (), **rollout: Any
    ) -> list[Finding]:
        rollout = {"max_tokens": max_tokens} | rollout
        samples = [
            question(str(length), truth)
            for length, truth in zip(lengths, truths or [3] * len(lengths), strict=True)
        ]
        asked = experiment(rollout=rollout, prompt="answer")
        return list(audit.lengths(asked, questions(samples), reader))

    return measure


@pytest.mark.parametrize(
    ("longest", "max_tokens", "fits"),
    [(70, 30, True), (71, 30, False), (99, 30, False), (99, 1, True), (60, 40, True)],
)
def test_a_prompt_and_the_longest_answer_must_fit_into_the_window_together(
    longest, max_tokens, fits, measured
):
    finding = measured(20, longest, 40, max_tokens=max_tokens)[0]
    if fits:
        free = 100 - max_tokens
        assert finding == Finding(
            "fine",
            f"lengths: prompts of 20 to {longest} tokens, {free} are free of a window of 100",
        )
    else:
        text = (
            f"lengths: the longest prompt has {longest} tokens; with max_tokens {max_tokens} it "
            "outgrows the window of 100"
        )
        assert finding == Finding("stop", text)


@pytest.mark.parametrize(("lost", "stops"), [(1, False), (2, False), (5, False), (6, True)])
def test_samples_that_cannot_become_prompts_stop_a_run_when_they_are_more_than_it_bears(
    lost, stops, measured
):
    # the longest question of the ten, here the first, is looked at twice: 11
    finding = measured(*[20] * (10 - lost), *[0] * lost, max_lost=0.2)[0]
    assert (
        finding == Finding("stop", f"lengths: {lost} of 11 samples cannot become prompts; too long")
    ) is stops


@pytest.mark.parametrize(
    ("truths", "level", "longest"),
    [
        # <answer>3</answer> has 18 letters, and one token ends it; the first question stands for
        # the longest and counts twice
        ((3, 4, 5), "fine", 19),
        ((3, 4, 55), "mind", 20),  # 1 of 4 is over
        ((3, 55, 66), "mind", 20),  # 2 of 4
        ((3, 44, 55, 666), "stop", 21),  # 3 of 5
        ((33, 4), "stop", 20),  # 2 of 3
    ],
)
def test_answers_that_do_not_fit_stop_a_run_when_they_are_most(truths, level, longest, measured):
    found = measured(*[20] * len(truths), max_tokens=19, truths=truths)[1]
    assert found == Finding(
        level,
        f"answers: the shortest right answer takes 19 to {longest} tokens, "
        "rollout.max_tokens is 19",
    )


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (UserError("the template thinks"), "the template thinks"),
        (OSError("no\n  such file"), "no such file"),
        (ValueError("no such class"), "no such class"),
    ],
)
def test_a_template_that_does_not_fit_and_a_model_that_is_not_there_are_reported(
    error, why, monkeypatch, tmp_path
):
    """The rows are checked all the same, without a model."""

    def fails(given):
        raise error

    monkeypatch.setattr(audit, "_reader", fails)
    row = '{"question": "How many?", "answer_kind": "number", "answer": %d}\n'
    (tmp_path / "a.jsonl").write_text("".join(row % answer for answer in range(9)))
    given = Experiment.resolve(config(evaluation={"benchmark": None}).at(tmp_path))
    found = list(audit.audit(given))
    assert Finding("stop", f"prompts: not checked: {why}") in found
    assert Finding("fine", "reference answers: 9 rows earn the full reward") in found
    assert not [finding for finding in found if finding.text.startswith("lengths")]


@pytest.mark.parametrize(
    ("rows", "looked_at"), [(1, 2), (64, 65), (127, 128), (128, 65), (640, 65)]
)
def test_prompts_are_measured_evenly_and_the_longest_question_among_them(rows, looked_at):
    samples = [question(str(place)) for place in range(rows - 1)] + [
        question("longest", question="How many are there?")
    ]
    spread = audit._spread(samples, 64)
    assert len(spread) == looked_at
    assert spread[-1].id == "longest"
    assert spread[0] is samples[0]


# --- what a model answers -------------------------------------------------------------------------


def answered(*rewards: float, reason: str = "wrong") -> Group:
    return group(rewards, [completion(text="4")] * len(rewards), reason=reason)


@pytest.mark.parametrize(
    ("informative", "zero_variance", "level", "text"),
    [
        (1, 4, "fine", "informative: 20 % of 5 groups, so about 1.6 of 8 in a round"),
        (1, 5, "mind", "informative: 17 % of 6 groups, so about 1.3 of 8 in a round"),
        (2, 0, "fine", "informative: 100 % of 2 groups, so about 8.0 of 8 in a round"),
    ],
)
def test_how_many_groups_are_informative(informative, zero_variance, level, text):
    groups = [answered(0.0, 1.0)] * informative + [answered(0.0, 0.0)] * zero_variance
    assert list(audit.findings_on(groups, 8))[-1] == Finding(level, text)


@pytest.mark.parametrize(
    ("reward", "remedy"),
    [
        (0.0, "no answer earns anything: warm up, ask easier questions or mend the format"),
        (0.5, "no answer earns anything: warm up, ask easier questions or mend the format"),
        (1.0, "it is solved already"),
    ],
)
def test_where_no_group_is_informative_there_is_a_remedy(reward, remedy):
    finding = list(
        audit.findings_on([answered(reward, reward), answered(reward, reward, math.nan)], 8)
    )[-1]
    text = (
        "informative: 0 % of 2 groups, so about 0.0 of 8 in a round; no group is informative, so "
        f"there is no gradient: {remedy}"
    )
    assert finding == Finding("stop", text)


def test_what_was_answered_is_reported_by_reasons_rewards_and_three_examples():
    long = "unreadable: " + "x" * 50
    groups = [
        answered(0.0, 1.0, reason="right: IoU 0.9"),
        *[answered(0.0, 0.0, reason="malformed: expected a, got b")] * 2,
        answered(0.0, reason=long),
    ]
    texts = [finding.text for finding in audit.findings_on(groups, 8)]
    assert texts[0] == f"reasons: malformed: expected a 4, right 2, unreadable: {'x' * 40} 1"
    assert texts[1] == "rewards: 0.00 [6 0 0 0 0 0 0 0 0 1] 1.00, mean 0.143"
    assert texts[2:5] == [
        "sample q0 (truth 1): '4' earns 0.00, right",
        *["sample q0 (truth 1): '4' earns 0.00, malformed: expected a"] * 2,
    ]
    assert len(texts) == 6


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.0, 0.1, 0.2, 1.0], "0.00 [1 1 1 0 0 0 0 0 0 1] 1.00, mean 0.325"),
        ([0.0, 0.05, 0.95, 1.0], "0.00 [2 0 0 0 0 0 0 0 0 2] 1.00, mean 0.500"),
        ([-1.0, 0.0, 1.0], "-1.00 [1 0 0 0 0 1 0 0 0 1] 1.00, mean 0.000"),
        ([2.0, math.nan], "2.00 [1] 2.00, mean 2.000"),
        ([math.nan] * 3, "none, 3 faults"),
    ],
)
def test_a_histogram_has_ten_equal_parts_from_the_lowest_to_the_highest(values, shown):
    assert audit.histogram(values) == shown
