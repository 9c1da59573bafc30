"""Resolve a config into its parts, once: data, prompt style, verifiers, method, benchmark, policy, engine."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl import prompts, rollout, run_folder, verifiers
from gpg_vl.config import loading, plugins
from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.schema import BenchmarkSpec, Config, Part, PolicyConfig, RewardConfig, Source
from gpg_vl.data.dataset import Stream, read_dataset
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.methods import ESTIMATORS
from gpg_vl.methods.estimator import Estimator
from gpg_vl.policy.encode import encode, template_thought
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.types import Prompt, Sample
from gpg_vl.verifiers.base import Verifier
from gpg_vl.verifiers.dispatch import VerifierSet

SPARE = 3
"""Spare questions of the gate for each one that is asked at every look."""


def check_template(style: Style, processor: Any, key: str = "prompt") -> None:
    """Refuse a prompt style whose grammar the model's chat template breaks.

    Raises:
        UserError: the template opens or closes a thought that the style does not expect; the sentence says which style does.
    """
    if misfit := style.misfit(template_thought(processor)):
        raise UserError(f"{key}: {misfit}")


def build_engine(
    part: Part, policy: Policy, folder: Path, *, rank: int = 0, ranks: int = 1, say: Callable[[str], None] = print
) -> RolloutEngine:
    """Who samples on this rank.

    Raises:
        UserError: the config names something that is no engine.
    """
    given = {"policy": policy, "rank": rank, "ranks": ranks, "say": say}
    engine = plugins.build(part, rollout.ALIASES, folder=folder, key="rollout.engine", given=given)
    if not isinstance(engine, RolloutEngine):
        name = type(engine).__name__
        raise UserError(f"rollout.engine: {name} is no engine; derive it from gpg_vl.rollout.engine.RolloutEngine")
    return engine


def build_gate(config: Config, ask: Callable[[int], Prompt], engine: RolloutEngine) -> VisionGate | None:
    """The vision gate of a config, over early questions of the data, those with pictures first; None = it is never looked through."""
    wanted, prompts = config.rollout.gate, list[Prompt]()
    if not wanted.every:
        return None
    for index in range((1 + SPARE) * wanted.prompts):
        with suppress(UnusableSampleError):  # the run itself counts and tells it
            prompts.append(ensure_fits(ask(index), engine, config.rollout.max_tokens))
    prompts.sort(key=lambda prompt: not prompt.images)
    if not prompts:  # then there is nothing to train on either, and the run says so
        return None
    return VisionGate(
        prompts=tuple(prompts[: wanted.prompts]),
        spare=tuple(prompts[wanted.prompts :]),
        sampling=Sampling(max_tokens=config.rollout.max_tokens, temperature=config.rollout.temperature),
        seed=config.seed,
        mean=wanted.mean,
        worst=wanted.worst,
    )


@dataclass(frozen=True, slots=True)
class Asker:
    """Prompts by index of an endless order."""

    stream: Stream
    style: Style
    policy: Policy

    def __call__(self, index: int) -> Prompt:
        """The prompt at an index."""
        return encode(self.stream[index], self.style, self.policy)


def solution(sample: Sample, style: Style, checks: VerifierSet) -> str:
    """The text that the warm-up imitates: the sample's worked solution, or its gold answer in the prompt's style.

    Raises:
        UserError: the style demands a thought, which only a worked solution can give.
    """
    if sample.solution:
        return sample.solution.removeprefix(style.opening)
    if style.think == "required":
        raise UserError(
            f"warm-up: prompt style wants a thought, but {sample.id} has no `solution` column to imitate; add one, or set prompt.think"
        )
    verifier: Any = checks.by_kind[sample.answer_kind]
    return style.write(verifier.gold(sample) if hasattr(verifier, "gold") else str(sample.answer))


def examination(config: Config, folder: Path, policy: Policy, name: str | None = None, overrides: Sequence[str] = ()) -> Benchmark:
    """The held-out questions of a config's benchmark, or of a benchmark by name.

    Accuracy is measured by the benchmark's own verifiers, gated by format, whatever the run is rewarded for.

    Args:
        overrides: key=value knobs of the benchmark.
    """
    wanted = name or config.evaluation.benchmark
    assert wanted is not None
    spec, home = load_benchmark(wanted, folder, overrides)
    style, checks = build_ruler(spec, home, config, folder, policy.frame)
    check_template(style, policy.processor, f"{wanted}: prompt")
    questions = read_dataset(spec.data, checks, folder=home)
    flat = [sample for source in questions.sources for sample in source]
    return Benchmark(spec=spec, questions=flat, style=style, checks=checks, seed=config.seed, left_out=questions.left_out)


def build_style(part: Part, folder: Path) -> Style:
    """The prompt style of a config."""
    return plugins.build(part, prompts.ALIASES, folder=folder, key="prompt", given={})


def build_verifiers(parts: Mapping[str, Part], style: Style, policy_frame: Any, reward: RewardConfig, folder: Path) -> VerifierSet:
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
    return VerifierSet(by_kind=built, truncated=reward.truncated)


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


def build_ruler(spec: BenchmarkSpec, home: Path, config: Config, folder: Path, policy_frame: Any) -> tuple[Style, VerifierSet]:
    """How a benchmark asks and scores: by its own prompt and verifiers; asked as the run asks where it does not say.

    Args:
        home: the benchmark's folder.
        folder: the config's.
    """
    style = build_style(spec.prompt or config.prompt, home if spec.prompt else folder)
    checks = build_verifiers(spec.verifiers, style, policy_frame, RewardConfig(mode=spec.mode), home)
    return style, checks.in_mode(spec.mode)


def verify_engine(engine: RolloutEngine, given: Config, ask: Callable[[int], Prompt], policy: Policy) -> None:
    """Look through the vision gate at an engine with weights of its own, before its answers are believed."""
    if engine.renewed and (gate := build_gate(given, ask, engine)):
        gate.look(engine, policy, 0)


def config_of(model: str, overrides: Sequence[str]) -> tuple[Config, Path]:
    """A run's own config and its folder, or defaults around a checkpoint."""
    for run in (Path(model), *Path(model).parents[1:3]):  # a run, or a policy of one of its checkpoints
        if (run / "config.yaml").is_file() and (run / "environment.json").is_file():
            return loading.load(str(run / "config.yaml"), overrides), run_folder.config_folder(run)
    bare = Config(data=(Source(recipe="digits"),), policy=PolicyConfig(model=model))
    return loading.parse(Config, loading.override(Config, bare.model_dump(mode="json"), overrides), model), Path()


def chosen_policy(given: Config, model: str, *, say: Callable[[str], None] = print) -> Policy:
    """A run's newest policy, or the one of a checkpoint folder or a hub id."""
    run = Path(model)
    path = run_folder.newest_checkpoint(run) / "policy" if (run / "config.yaml").is_file() else None
    chosen = given.policy if path else given.policy.model_copy(update={"model": model})
    return load_policy(chosen, seed=given.seed, path=path, say=say)
