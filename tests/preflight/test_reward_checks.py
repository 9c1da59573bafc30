"""What a policy could earn without looking, by hand."""

from dataclasses import dataclass

from gpg_vl.preflight import reward_checks
from gpg_vl.preflight.finding import Finding
from gpg_vl.types import Verdict
from gpg_vl.verifiers.base import Grade
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.number import Number
from tests.preflight.by_hand import question


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
    return list(reward_checks.rewards("number", samples, VerifierSet(by_kind={"number": verifier})))


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

    assert list(
        reward_checks.rewards("own", [question("a")], VerifierSet(by_kind={"own": Own()}))
    ) == [
        Finding(
            "mind", "own: Own has no reference answer and no exploit suite; nothing was checked"
        )
    ]
