"""A verifier by itself, made by hand without arguments: it returns a verdict for any text and any
sample that can be made, and never raises."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl import Grade, RuleVerifier, Sample, UserError, Verdict, verifiers
from gpg_vl.boxes import Frame
from gpg_vl.config import plugins
from gpg_vl.verifiers import math_worker
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.detection import Detection
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.number import Number
from tests.verifiers.test_accepted_answers import TRUTHS
from tests.verifiers.test_verifiers import KINDS, TEXTS, said, sample_of, verifier_of

WORDS = st.text(max_size=8) | st.sampled_from(["cat", "A", "3", "<image>", "\ud800", ""])
SIZES = st.lists(st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)), max_size=3)
SAMPLES = st.builds(
    Sample,
    question=WORDS,
    context=st.lists(st.tuples(st.sampled_from(["system", "user"]), WORDS), max_size=2),
    images=st.lists(st.just(b"png") | st.just(Path("a.png")), max_size=2),
    sizes=SIZES,
    answer_kind=st.sampled_from(KINDS) | WORDS,
    answer=TRUTHS,
    choices=st.lists(WORDS, max_size=4),
    letters=st.lists(WORDS, max_size=4),
    frame=st.sampled_from(["pixels", "norm1", "norm1000", "resized", "of a video"]),
    answer_image=st.integers(-2, 10),
)
FRAMES = [Frame(), Frame(kind="norm1"), Frame(kind="norm1000"), Frame(kind="resized")]
FRAMES += [Frame(kind="undeclared")]


def made_by_hand(kind):
    """The class of a kind, called without an argument."""
    return plugins.resolve(kind, verifiers.ALIASES, Path())()


def is_verdict(verdict):
    """True for a reward in [0, 1], or for NaN with its reason."""
    assert isinstance(verdict, Verdict)
    if math.isnan(verdict.reward):
        return verdict.verifier_error.startswith("fault: ")
    return 0 <= verdict.reward <= 1 and not verdict.verifier_error


@pytest.fixture(autouse=True, scope="module")
def no_math_process():
    """Comparisons of math-verify are tested elsewhere; thousands of them take minutes."""
    ask, math_worker.WORKER.ask = math_worker.WORKER.ask, lambda *_, **__: None  # type: ignore[assignment]
    yield
    math_worker.WORKER.ask = ask


@pytest.mark.parametrize("mode", ["strict", "lenient", "reference"])
@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, sample=SAMPLES)
def test_any_text_and_any_sample_give_a_verdict(kind, mode, text, sample):
    verifier = replace(made_by_hand(kind), mode=mode)
    assert is_verdict(verifier(text, sample))
    with_truth = replace(sample_of(kind), sizes=sample.sizes, frame=sample.frame)
    assert is_verdict(verifier(text, replace(with_truth, answer_image=sample.answer_image)))


@pytest.mark.parametrize("kind", ["boxes", "detection"])
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.kind)
@given(text=TEXTS, sample=SAMPLES)
def test_any_frame_gives_a_verdict(kind, frame, text, sample):
    for mode in ("strict", "lenient", "reference"):
        assert is_verdict(verifier_of(kind, frame=frame, mode=mode)(text, sample))


@pytest.mark.parametrize("kind", KINDS)
def test_made_by_hand_it_pays_for_the_truth(kind, monkeypatch):
    monkeypatch.undo()
    if kind == "expression":
        pytest.skip("its process is off in this file")
    sample, verifier = sample_of(kind), made_by_hand(kind)
    assert verifier(said(verifier.perfect_answer(sample)), sample).reward == 1.0


# --- boxes without the size of their picture ------------------------------------------------------

BARE = Sample(question="Where?", answer_kind="boxes", answer=[[10, 20, 50, 60]])


def test_in_pixels_a_box_needs_no_size():
    for mode in ("strict", "lenient"):
        verifier = Boxes(mode=mode)
        assert verifier(said("[10,20,50,60]"), BARE).reward == 1.0
        assert verifier(said("[10,20,50,40]"), BARE).reward == 0.5  # 40 x 20 of 40 x 40
        assert verifier(said("[50,60,10,20]"), BARE).reward == 0.0
    # the left and the upper edge are known
    assert Boxes()(said("[-1,20,50,60]"), BARE).reward == 0.0
    sure = '[{"bbox_2d": [10, 20, 50, 60], "confidence": 1.0}]'
    assert Detection()(said(sure), BARE).reward == 1.0
    assert Detection()(said("No Objects"), BARE).reward == 0.0


def test_shares_of_the_picture_need_no_size_where_the_truth_has_them_too():
    shares = replace(BARE, answer=[[0.1, 0.2, 0.5, 0.6]], frame="norm1")
    verifier = Boxes(frame=Frame(kind="norm1"))
    assert verifier(said("[0.1,0.2,0.5,0.6]"), shares).reward == pytest.approx(1.0)
    assert verifier(said("[0.1,0.2,0.5,1.2]"), shares).reward == 0.0  # it leaves the picture


@pytest.mark.parametrize("kind", ["norm1", "norm1000", "resized"])
@pytest.mark.parametrize("verifier", [Boxes, Detection])
def test_where_a_size_is_needed_the_answer_is_not_scored_and_the_reason_says_so(verifier, kind):
    answer = (
        '[{"bbox_2d": [1, 2, 3, 4], "confidence": 1.0}]' if verifier is Detection else "[1,2,3,4]"
    )
    verdict = verifier(frame=Frame(kind=kind))(said(answer), BARE)
    assert math.isnan(verdict.reward)
    assert verdict.verifier_error == (
        "fault: ValueError: a box needs an image: width and height in pixels, sizes=((640, 480),)"
    )


def test_rows_of_boxes_without_a_size_are_still_not_trained_on():
    checks = VerifierSet(by_kind={"boxes": Boxes(), "detection": Detection()})
    for kind in ("boxes", "detection"):
        assert "a box needs an image" in checks.validation_error(replace(BARE, answer_kind=kind))


# --- errors of a verifier -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Buggy(RuleVerifier):
    """Divides by the length of the answer's digits."""

    def grade(self, answer: str, sample: Sample) -> Grade:
        return Grade(1 / len(re.sub(r"\D", "", answer)), answer, "right")

    def reference_answer(self, sample: Sample) -> str:
        return "1"


def test_a_bug_in_grade_is_nan_with_its_trace_and_shows_where_it_is_looked_for():
    verdict = Buggy()(said("x"), sample_of("number"))
    assert math.isnan(verdict.reward)
    assert verdict.verifier_error == "fault: ZeroDivisionError: division by zero"
    assert "in grade" in verdict.reason
    with pytest.raises(ZeroDivisionError):
        Buggy().verdict_of(said("x"), sample_of("number"))


def test_a_bug_on_an_exploit_is_no_exploit_that_earns_nothing():
    """The audit tries hostile texts: a verifier that fails on them must not look safe."""
    from gpg_vl.verifiers import exploits

    with pytest.raises(ZeroDivisionError):
        exploits.working_exploits(sample_of("number"), Buggy())


def test_a_library_that_is_missing_is_the_users_to_mend(monkeypatch):
    def missing(*_, **__):
        raise UserError("math-verify is not installed")

    monkeypatch.setattr(math_worker.WORKER, "ask", missing)
    with pytest.raises(UserError, match="math-verify is not installed"):
        Expression()(said("x"), sample_of("expression", answer="x"))


def test_a_truth_that_cannot_be_read_is_no_mistake_of_the_answer():
    verdict = Number()(said("3"), sample_of("number", answer="many"))
    assert math.isnan(verdict.reward)
    assert verdict.verifier_error == "fault: ValueError: answer 'many' is not a number"
    assert Number()("3", sample_of("number", answer="many")).reward == 0.0  # malformed anyway
