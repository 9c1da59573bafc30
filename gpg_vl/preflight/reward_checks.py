"""Check what a policy could earn without looking: by hostile answers, by one constant answer."""

from collections.abc import Iterator, Sequence

from gpg_vl.errors import UserError
from gpg_vl.preflight.finding import Finding, Level
from gpg_vl.types import Sample
from gpg_vl.verifiers import exploits
from gpg_vl.verifiers.base import RuleVerifier
from gpg_vl.verifiers.dispatch import VerifierSet, place_of

EXPLOITED_QUESTIONS = 50
"""Questions of each kind that hostile answers are tried on."""


def rewards(kind: str, samples: Sequence[Sample], verifiers: VerifierSet) -> Iterator[Finding]:
    """Yield what a policy could earn without seeing: by hostile answers, by one constant answer."""
    verifier = verifiers.by_kind[kind]
    if not isinstance(verifier, RuleVerifier):
        yield Finding(
            "mind",
            f"{kind}: {type(verifier).__name__} has no reference answer and no exploit suite; "
            "nothing was checked",
        )
        return
    try:
        yield _exploits(kind, samples, verifier)
        yield _constant(kind, samples, verifier)
    except UserError:  # math-verify is not installed
        raise
    except Exception as error:
        if _is_shipped(verifier):
            raise
        yield Finding(
            "stop",
            f"{kind}: {type(verifier).__name__} fails where hostile or constant answers are tried: "
            f"{place_of(error, verifier)}; for an answer that it cannot read, `grade` returns "
            "Grade(0.0, answer, 'unreadable')",
        )


def _is_shipped(verifier: RuleVerifier) -> bool:
    return type(verifier).__module__.startswith("gpg_vl.")


def _hole_level(verifier: RuleVerifier) -> Level:
    """Return how bad a hole is: a published rule is reproduced with the holes that it has."""
    return "mind" if verifier.mode == "reference" else "stop"


def _exploits(kind: str, samples: Sequence[Sample], verifier: RuleVerifier) -> Finding:
    tried = samples[:EXPLOITED_QUESTIONS]
    offences: list[str] = []
    for sample in tried:
        offences += exploits.working_exploits(sample, verifier)
    if not offences:
        text = f"{kind}: the exploit suite earns what it may on {len(tried)} questions"
        return Finding("fine", text)
    why = "the reward can be fooled"
    if verifier.mode == "reference":
        why = "the authors' rule has holes"
    return Finding(
        _hole_level(verifier),
        f"{kind}: {why}: {len(offences)} exploits earn more than they may; {offences[0]}",
    )


def _constant(kind: str, samples: Sequence[Sample], verifier: RuleVerifier) -> Finding:
    constant = exploits.best_constant(samples, verifier)
    always_right = constant.reward > 0.99
    if always_right and constant.fair and len(samples) > 1:
        return Finding(
            "stop",
            f"{kind}: one answer is always right, so there is nothing to learn: {constant}",
        )
    if constant.fair:
        return Finding("fine", f"{kind}: {constant}")
    level = _hole_level(verifier)
    if always_right:
        return Finding(
            level, f"{kind}: one answer is always right, whatever the truth is: {constant}"
        )
    if not _is_shipped(verifier):
        text = f"{kind}: {constant}; part marks can do that, a hole in the verifier too"
        return Finding("mind", text)
    return Finding(level, f"{kind}: a constant beats chance: {constant}")
