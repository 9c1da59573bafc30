"""Reinforcement-learning fine-tuning of vision-language models with Group Policy Gradient.

The method is in arXiv 2504.02546. From Python:

    import gpg_vl

    run = gpg_vl.train("digits", steps=50)         # a run folder
    print(gpg_vl.evaluate("digits", run))          # accuracy with its 95 % interval
    gpg_vl.score("<answer>3</answer>", sample, style="answer")   # no model needed

Functions: train, evaluate, export, score, load_config. A question is a Sample, a score a Verdict.
To extend it, derive from RuleVerifier (whose `grade` returns a Grade), Estimator or RolloutEngine;
a config's parts together are an Experiment. A mistake of the user's raises UserError. Rewards for
TRL are in gpg_vl.integrations.trl. What costs time to import is imported when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpg_vl.api import evaluate, export, load_config, score, train
    from gpg_vl.errors import UserError
    from gpg_vl.experiment import Experiment
    from gpg_vl.methods.estimator import Estimator
    from gpg_vl.rollout.engine import RolloutEngine
    from gpg_vl.types import Sample, Verdict
    from gpg_vl.verifiers.base import Grade, RuleVerifier

__version__ = "0.1.0"

__all__ = [
    "Estimator",
    "Experiment",
    "Grade",
    "RolloutEngine",
    "RuleVerifier",
    "Sample",
    "UserError",
    "Verdict",
    "evaluate",
    "export",
    "load_config",
    "score",
    "train",
]

_HOMES = {
    "Estimator": "gpg_vl.methods.estimator:Estimator",
    "Experiment": "gpg_vl.experiment:Experiment",
    "Grade": "gpg_vl.verifiers.base:Grade",
    "RolloutEngine": "gpg_vl.rollout.engine:RolloutEngine",
    "RuleVerifier": "gpg_vl.verifiers.base:RuleVerifier",
    "Sample": "gpg_vl.types:Sample",
    "UserError": "gpg_vl.errors:UserError",
    "Verdict": "gpg_vl.types:Verdict",
    "evaluate": "gpg_vl.api:evaluate",
    "export": "gpg_vl.api:export",
    "load_config": "gpg_vl.api:load_config",
    "score": "gpg_vl.api:score",
    "train": "gpg_vl.api:train",
}


if not TYPE_CHECKING:  # a type checker would take every name for one of them

    def __getattr__(name: str) -> Any:
        """Import a public name at its first use, so that `import gpg_vl` costs nothing."""
        if name not in _HOMES:
            raise AttributeError(f"module 'gpg_vl' has no attribute {name!r}")
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names too, for completion."""
    return sorted({*globals(), *__all__})
