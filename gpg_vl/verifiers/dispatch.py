"""Send each answer to the verifier of its kind; handle unfinished answers and verifier errors."""

import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.types import Completion, Corners, Mode, Sample, Verdict
from gpg_vl.verifiers.base import RuleVerifier, Verifier, fault

FAILS = " fails on it: "
"""Words by which the reason is told that a verifier raised an error on a row."""


@dataclass(frozen=True, kw_only=True)
class VerifierSet:
    """One verifier per answer kind, behind one call."""

    by_kind: Mapping[str, Verifier]
    """answer_kind -> verifier."""
    truncated: Literal["zero", "score", "drop"] = "zero"
    """Treatment of a completion that ran into the length limit."""
    whole: bool = False
    """True: a text is scored as it stands, also where it ran into the length limit. For modes that
    require no format."""

    def __call__(self, text: str, sample: Sample) -> Verdict:
        return self.by_kind[sample.answer_kind](text, sample)

    def in_mode(self, mode: Mode) -> "VerifierSet":
        """Return the same verifiers in another mode; those that are no `RuleVerifier` unchanged.

        Only strict mode checks how a text ended: published evaluations score what was decoded.
        """
        by_kind = {kind: _in_mode(verifier, mode) for kind, verifier in self.by_kind.items()}
        return replace(self, by_kind=by_kind, whole=mode != "strict")

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """Score a completion, also where it is unfinished or the verifier raises an error."""
        try:
            return self._judge(completion, sample)
        except Exception as error:  # an error in a plug-in must not end the run
            return fault(error)

    def _judge(self, completion: Completion, sample: Sample) -> Verdict:
        if completion.finish == "stop" or self.whole:
            return self(completion.text, sample)
        if self.truncated == "score":
            verifier = self.by_kind[sample.answer_kind]
            # a plug-in need not have `unfinished`; then it scores the text as any other
            unfinished = getattr(verifier, "unfinished", verifier)
            return unfinished(completion.text, sample)
        return Verdict(
            reward=math.nan if self.truncated == "drop" else 0.0,
            parts={"accuracy": 0.0, "format": 0.0},
            reason="truncated",
        )

    def true_boxes(self, sample: Sample) -> Sequence[Corners] | None:
        """Return the true boxes of a sample in pixels of its picture, to draw them.

        None = its answers are no boxes, or its verifier cannot read them: then every answer to it
        is a fault already.
        """
        verifier = self.by_kind.get(sample.answer_kind)
        if not isinstance(verifier, RuleVerifier):
            return None
        try:
            return verifier.true_boxes(sample)
        except ValueError:
            return None

    def validation_error(self, sample: Sample) -> str:
        """Check that a sample can be trained on: its reference answer earns the full reward.

        Returns:
            The reason why it cannot; empty = it can.
        """
        verifier = self.by_kind.get(sample.answer_kind)
        if verifier is None:
            return (
                f"answer_kind {shown(sample.answer_kind)} has no verifier; known: "
                f"{', '.join(sorted(self.by_kind))}"
            )
        if not isinstance(verifier, RuleVerifier):
            return ""

        def check() -> str:
            answer = _without_reference_mode(verifier).perfect_answer(sample)
            # any thought that is not blank will do
            return _error_of(verifier.style.write(answer, thought="so"), sample, verifier)

        return _error_or_failure(check, verifier)

    def validation_error_of(self, text: str, sample: Sample) -> str:
        """Check that a text, written as a perfect completion, earns the full reward.

        Returns:
            The reason why it does not; empty = it does.
        """
        verifier = self.by_kind[sample.answer_kind]
        if not isinstance(verifier, RuleVerifier):
            return ""
        return _error_or_failure(lambda: _error_of(text, sample, verifier), verifier)


def _error_of(text: str, sample: Sample, verifier: RuleVerifier) -> str:
    """Return why a text does not earn the full reward; empty = it does."""
    verifier = _without_reference_mode(verifier)
    verdict = verifier.verdict_of(text, sample)
    full_reward = verifier.accuracy_weight + verifier.format_weight
    required = full_reward - verifier.spelling_loss * verifier.accuracy_weight
    if verdict.reward >= required:
        return ""
    return (
        f"its own answer {shown(text)} earns {verdict.reward:.3g} of {full_reward:.3g} "
        f"({verdict.reason})"
    )


def _error_or_failure(check: Callable[[], str], verifier: RuleVerifier) -> str:
    """Return the validation error that a check finds, or what the verifier raised on the row."""
    try:
        return check()
    except UserError:  # math-verify is not installed: no row can be scored
        raise
    except ValueError as error:
        return str(error)
    except Exception as error:  # one row that a verifier stumbles over ends no run
        return f"{type(verifier).__name__}{FAILS}{place_of(error, verifier)}"


def _in_mode(verifier: Verifier, mode: Mode) -> Verifier:
    return replace(verifier, mode=mode) if isinstance(verifier, RuleVerifier) else verifier


def place_of(error: Exception, verifier: RuleVerifier) -> str:
    """Return an error and the line of the verifier that raised it, for a sentence.

    The line is the last one in the verifier's own file; where there is none, the last of all.
    """
    text = f"{type(error).__name__}: {one_line(error)}"
    frames = traceback.extract_tb(error.__traceback__)
    own_file = getattr(sys.modules.get(type(verifier).__module__), "__file__", None)
    own = [frame for frame in frames if frame.filename == own_file] or list(frames)
    if own:
        text += f" ({Path(own[-1].filename).name} line {own[-1].lineno})"
    return text


def _without_reference_mode(verifier: RuleVerifier) -> RuleVerifier:
    """Replace reference mode by lenient mode, to check a sample's truth.

    The truth must be valid, whatever the authors' rule gives for our spelling of it.
    """
    return replace(verifier, mode="lenient") if verifier.mode == "reference" else verifier
