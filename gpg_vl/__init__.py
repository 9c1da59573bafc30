"""Reinforcement-learning fine-tuning of vision-language models with Group Policy Gradient.

The method is in arXiv 2504.02546.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpg_vl.config.loading import load as load_config
    from gpg_vl.evaluation.evaluate import evaluate
    from gpg_vl.experiment import Experiment
    from gpg_vl.methods.estimator import Estimator
    from gpg_vl.rollout.engine import RolloutEngine
    from gpg_vl.training.loop import train
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
    "Verdict",
    "evaluate",
    "load_config",
    "train",
]

_HOMES = {
    "Estimator": "gpg_vl.methods.estimator:Estimator",
    "Experiment": "gpg_vl.experiment:Experiment",
    "Grade": "gpg_vl.verifiers.base:Grade",
    "RolloutEngine": "gpg_vl.rollout.engine:RolloutEngine",
    "RuleVerifier": "gpg_vl.verifiers.base:RuleVerifier",
    "Sample": "gpg_vl.types:Sample",
    "Verdict": "gpg_vl.types:Verdict",
    "evaluate": "gpg_vl.evaluation.evaluate:evaluate",
    "load_config": "gpg_vl.config.loading:load",
    "train": "gpg_vl.training.loop:train",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import gpg_vl` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gpg_vl' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """List the public names too, for completion."""
    return sorted({*globals(), *__all__})
