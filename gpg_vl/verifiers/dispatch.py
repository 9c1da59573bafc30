"""Send each answer to the verifier of its kind, and handle unfinished answers and failing verifiers."""

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from gpg_vl.types import Completion, Mode, Sample, Verdict
from gpg_vl.verifiers.base import MalformedTruthError, RuleVerifier, Verifier


@dataclass(frozen=True, kw_only=True)
class VerifierSet:
    """One verifier per answer kind, behind one call."""

    by_kind: Mapping[str, Verifier]
    """answer_kind -> verifier."""
    truncated: Literal["zero", "score", "drop"] = "zero"
    """What a completion that ran into the length limit earns."""
    whole: bool = False
    """Whether a text is scored as it stands, wherever it ended: readings that require no format do not ask how it came to its end."""

    def __call__(self, text: str, sample: Sample) -> Verdict:
        return self.by_kind[sample.answer_kind](text, sample)

    def in_mode(self, mode: Mode) -> "VerifierSet":
        """The same verifiers reading in another way; those of another make stay as they are.

        Only the strict reading looks at how a text ended: published evaluations score what was decoded.
        """
        by_kind = {kind: _in_mode(verifier, mode) for kind, verifier in self.by_kind.items()}
        return replace(self, by_kind=by_kind, whole=mode != "strict")

    def judge(self, completion: Completion, sample: Sample) -> Verdict:
        """The verdict on a completion, its unfinished end and the verifier's own faults included."""
        try:
            return self._judge(completion, sample)
        except Exception as fault:  # a plug-in's bug must not end the run: NaN, counted, and told in the reason
            trace = "".join(traceback.format_exception(fault))
            return Verdict(reward=math.nan, reason=f"fault: {type(fault).__name__}: {fault}\n{trace}")

    def _judge(self, completion: Completion, sample: Sample) -> Verdict:
        if completion.finish == "stop" or self.whole:
            return self(completion.text, sample)
        if self.truncated == "score":
            verifier = self.by_kind[sample.answer_kind]
            unfinished = getattr(verifier, "unfinished", verifier)
            return unfinished(completion.text, sample)
        return Verdict(reward=math.nan if self.truncated == "drop" else 0.0, parts={"accuracy": 0.0, "format": 0.0}, reason="truncated")

    def complaint(self, sample: Sample) -> str:
        """Why a sample cannot be trained on: its own gold answer does not earn full marks. Empty = fine."""
        verifier = self.by_kind.get(sample.answer_kind)
        if verifier is None:
            return f"answer_kind {sample.answer_kind!r} has no verifier; known: {', '.join(sorted(self.by_kind))}"
        if not isinstance(verifier, RuleVerifier):
            return ""
        try:
            gold = (replace(verifier, mode="lenient") if verifier.mode == "reference" else verifier).gold(sample)
        except ValueError as error:
            return str(error)
        try:
            return self.complaint_about(verifier.style.write(gold, thought="gold"), sample)
        except MalformedTruthError as error:
            return str(error)

    def complaint_about(self, text: str, sample: Sample) -> str:
        """Why a text that ought to be perfect is not; empty = it earns full marks."""
        verifier = self.by_kind[sample.answer_kind]
        if not isinstance(verifier, RuleVerifier):
            return ""
        if verifier.mode == "reference":  # the truth must be sound, whatever the authors' rule makes of our spelling of it
            verifier = replace(verifier, mode="lenient")
        verdict, full = verifier(text, sample), verifier.accuracy_weight + verifier.format_weight
        enough = full - verifier.spelling_loss * verifier.accuracy_weight
        return "" if verdict.reward >= enough else f"its own answer {text!r} earns {verdict.reward:.3g} of {full:.3g} ({verdict.reason})"


def _in_mode(verifier: Verifier, mode: Mode) -> Verifier:
    return replace(verifier, mode=mode) if isinstance(verifier, RuleVerifier) else verifier
