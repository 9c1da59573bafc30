"""The parts of a config that need no model: prompt style, verifiers, method, ruler. Nothing heavy is imported: a plan answers at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpg_vl import plugins, prompts, verifiers
from gpg_vl.config import BenchmarkSpec, Config, Part, RewardConfig
from gpg_vl.estimators import Estimator
from gpg_vl.prompts import Style
from gpg_vl.training import ESTIMATORS
from gpg_vl.types import UserError
from gpg_vl.verifiers.verifier import Verifier, Verifiers


def build_style(part: Part, folder: Path) -> Style:
    """The prompt style of a config."""
    return plugins.build(part, prompts.ALIASES, folder=folder, key="prompt", given={})


def build_verifiers(parts: Mapping[str, Part], style: Style, policy_frame: Any, reward: RewardConfig, folder: Path) -> Verifiers:
    """One verifier per answer kind: the shipped ones, and whatever the config names."""
    given = {
        "style": style,
        "frame": policy_frame,
        "mode": reward.mode,
        "combine": reward.combine,
        "accuracy_weight": reward.accuracy,
        "format_weight": reward.format,
    }
    wanted: dict[str, Part] = {kind: kind for kind in verifiers.ALIASES} | dict(parts)
    built: dict[str, Verifier] = {
        kind: plugins.build(part, verifiers.ALIASES, folder=folder, key=f"verifiers.{kind}", given=given) for kind, part in wanted.items()
    }
    return Verifiers(by_kind=built, truncated=reward.truncated)


def build_estimator(config: Config, folder: Path) -> Estimator:
    """The method of a config.

    Raises:
        UserError: several updates per rollout for a method without a ratio.
    """
    given = {"groups_per_step": config.rollout.groups_per_step, "max_tokens": config.rollout.max_tokens}
    estimator: Estimator = plugins.build(config.estimator, ESTIMATORS, folder=folder, key="estimator", given=given)
    if config.learner.updates_per_rollout > 1 and not estimator.has_ratio:
        name = type(estimator).__name__
        raise UserError(
            f"learner.updates_per_rollout: {config.learner.updates_per_rollout} with estimator {name}: {name} has no ratio, so a second "
            "update would train on another policy's samples; set it to 1 or use estimator grpo"
        )
    if config.rollout.carry_over and not estimator.min_informative:
        raise UserError(
            f"rollout.carry_over: 1 with estimator {type(estimator).__name__} and min_informative 0: a step then draws one round, without "
            "surplus; set carry_over to 0, or use estimator gpg with min_informative above 0"
        )
    return estimator


def build_ruler(spec: BenchmarkSpec, home: Path, config: Config, folder: Path, policy_frame: Any) -> tuple[Style, Verifiers]:
    """How a benchmark asks and scores: by its own prompt and verifiers; asked as the run asks where it does not say.

    Args:
        home: the benchmark's folder.
        folder: the config's.
    """
    style = build_style(spec.prompt or config.prompt, home if spec.prompt else folder)
    checks = build_verifiers(spec.verifiers, style, policy_frame, RewardConfig(mode=spec.mode), home)
    return style, checks.in_mode(spec.mode)
