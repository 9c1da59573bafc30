"""Resolve a config into its parts, once. Only this file makes parts from names.

Programs (train, evaluate, audit...) take an `Experiment`. What needs torch is imported where it is
used, so that commands without a model answer in a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from gpg_vl import prompts, rollout, verifiers
from gpg_vl.boxes import FAMILIES, Frame, frame_named
from gpg_vl.config import plugins
from gpg_vl.config.loading import load_benchmark, load_for_model, split_knobs
from gpg_vl.config.schema import BenchmarkSpec, Config, Part, RewardConfig
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UnusableSampleError, UserError, one_line, shown
from gpg_vl.evaluation import average_precision
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.methods import ESTIMATORS
from gpg_vl.methods.estimator import Estimator
from gpg_vl.prompts import Style
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.types import Mode
from gpg_vl.verifiers.base import Verifier
from gpg_vl.verifiers.dispatch import VerifierSet

if TYPE_CHECKING:
    from gpg_vl.policy.askable import Limits
    from gpg_vl.policy.load import Policy
    from gpg_vl.rollout.gate.vision_gate import VisionGate
    from gpg_vl.types import Prompt, Sample

Log = Callable[[str], None]
"""Called with a line for the user."""

SPARE_QUESTIONS = 3
"""Spare questions of the vision gate for each question that every check asks."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """Every part of a config, each made once.

    Example:
        Experiment.resolve(load_config("digits", ["steps=50"]))
    """

    config: Config
    """Knobs, and the folder that they were read from."""
    frame: Frame
    """Coordinate frame in which the model writes boxes."""
    limits: Limits | None = None
    """What the model's processor can take; None = not known, and no sample is left out for it."""

    @classmethod
    def of(cls, config: Config, frame: Frame | None = None) -> Experiment:
        """Return an experiment whose parts are made at their first use.

        Args:
            frame: None = as far as the config tells it, without its model.
        """
        return cls(config, frame or declared_frame(config))

    @classmethod
    def resolve(cls, config: Config) -> Experiment:
        """Make prompt style, verifiers and method at once, so that a mistake in them shows early.

        No model is loaded and no data is read.

        Raises:
            UserError: a part cannot be made, or two parts do not fit together.
        """
        experiment = cls.of(config)
        _ = experiment.style, experiment.verifiers, experiment.estimator
        return experiment

    def for_policy(self, policy: Policy) -> Experiment:
        """Return the same experiment for a loaded model, which writes boxes in its own frame.

        Raises:
            UserError: the model's chat template does not fit the prompt style.
        """
        return self.for_processor(policy.processor, policy.window, policy.frame)

    def for_processor(self, processor: Any, window: int, frame: Frame | None = None) -> Experiment:
        """Return the same experiment for a model of which only the processor is loaded.

        Args:
            window: the model's, in tokens.
            frame: coordinate frame of the model's boxes; None = as before.

        Raises:
            UserError: the model's chat template does not fit the prompt style.
        """
        from gpg_vl.policy.askable import Limits

        check_template(self.style, processor)
        return self._changed(self.config, frame or self.frame, Limits.of(processor, window))

    def with_config(self, config: Config) -> Experiment:
        """Return the experiment of a changed config."""
        return self._changed(config, self.frame, self.limits)

    def _changed(self, config: Config, frame: Frame, limits: Limits | None) -> Experiment:
        """Return another experiment, with the parts that the change does not touch."""
        changed, old = type(self)(config, frame, limits), self.config
        same = {key for key, value in config if value == getattr(old, key)}
        kept: set[str] = set()
        if config.base_dir == old.base_dir and "prompt" in same:
            kept.add("style")
            if same >= {"verifiers", "reward"} and frame == self.frame:
                kept.add("verifiers")
        same_updates = config.learner.updates_per_rollout == old.learner.updates_per_rollout
        if config.base_dir == old.base_dir and same >= {"estimator", "rollout"} and same_updates:
            kept.add("estimator")
        for part in kept & self.__dict__.keys():  # cached_property keeps what was made there
            changed.__dict__[part] = self.__dict__[part]
        return changed

    @cached_property
    def style(self) -> Style:
        """Prompt style: how a question is asked and what an answer looks like."""
        return build_style(self.config.prompt, self.config.base_dir)

    @cached_property
    def verifiers(self) -> VerifierSet:
        """One verifier per answer kind, reading boxes in `frame`."""
        config = self.config
        return build_verifiers(
            config.verifiers, self.style, self.frame, config.reward, config.base_dir
        )

    @cached_property
    def estimator(self) -> Estimator:
        """Method: from rewards to weights."""
        return build_estimator(self.config)

    @cached_property
    def train_data(self) -> Dataset:
        """Training samples, validated, in the order of the run."""
        config = self.config
        return read_dataset(
            config.data,
            self.verifiers,
            base_dir=config.base_dir,
            seed=config.seed,
            phase="training data",
            why_unaskable=self.why_unaskable,
        )

    @cached_property
    def warmup_data(self) -> Dataset:
        """Samples of the supervised warm-up; the training samples if it names none."""
        config = self.config
        if not config.warmup.data:
            return self.train_data.for_purpose("warmup")
        return read_dataset(
            config.warmup.data,
            self.verifiers,
            base_dir=config.base_dir,
            seed=config.seed,
            key="warmup.data",
            purpose="warmup",
            phase="warm-up data",
            why_unaskable=self.why_unaskable,
        )

    def why_unaskable(self, sample: Sample, style: Style | None = None) -> str:
        """Return why the model cannot be asked a sample; empty = as far as is known, it can.

        Args:
            style: None = the experiment's own.
        """
        from gpg_vl.policy.askable import why_unaskable

        return why_unaskable(sample, style or self.style, self.limits) if self.limits else ""

    def benchmark_parts(self, spec: BenchmarkSpec) -> tuple[Style, VerifierSet]:
        """Return how a benchmark asks and scores.

        It has its own verifiers. It is asked in the run's own style if it names none.
        """
        if spec.prompt is None:
            style = self.style
        else:
            style = build_style(spec.prompt, spec.base_dir)
        return style, benchmark_verifiers(spec, style, self.frame)

    def benchmark(
        self, policy: Policy, name: str | None = None, overrides: Sequence[str] = ()
    ) -> Benchmark:
        """Read the held-out questions of the config's benchmark, or of another by name.

        Accuracy is measured by the benchmark's own verifiers, whatever the run is rewarded for.

        Args:
            overrides: key=value knobs of the benchmark.
        """
        name = name or self.config.evaluation.benchmark
        assert name is not None
        spec = load_benchmark(name, self.config.base_dir, overrides)
        style, verifiers = self.benchmark_parts(spec)
        check_template(style, policy.processor, f"{name}: prompt")
        return read_benchmark(spec, style, verifiers, seed=self.config.seed)

    def policy(self, checkpoint: Path | None = None, *, log: Log = print) -> Policy:
        """Load the model of the config, or the weights of one of its checkpoints."""
        from gpg_vl.policy.load import load_policy

        return load_policy(self.config.policy, seed=self.config.seed, path=checkpoint, log=log)

    def policy_of(self, model: str, *, log: Log = print) -> Policy:
        """Load another model to ask it: a run's newest, a checkpoint, a model's or an adapter's
        folder, or a hub id.
        """
        from gpg_vl.policy.load import load_policy, only_asked

        policy_config = only_asked(self.config.policy.model_copy(update={"model": model}), "model")
        return load_policy(policy_config, seed=self.config.seed, log=log, key="model")

    def prompt_at(
        self, policy: Policy, dataset: Dataset, style: Style | None = None
    ) -> Callable[[int], Prompt]:
        """Return a function from an index of a data set to its prompt.

        Args:
            style: None = the experiment's own.
        """
        from gpg_vl.policy.encode import encode

        own_style = style or self.style
        return lambda index: encode(dataset[index], own_style, policy)

    def engine(
        self, policy: Policy, *, rank: int = 0, ranks: int = 1, log: Log = print
    ) -> RolloutEngine:
        """Make what samples answers on this process.

        Raises:
            UserError: the config names something that is no engine.
        """
        given = {"policy": policy, "rank": rank, "ranks": ranks, "log": log}
        engine = plugins.build(
            self.config.rollout.engine,
            rollout.ALIASES,
            base_dir=self.config.base_dir,
            key="rollout.engine",
            given=given,
        )
        if not isinstance(engine, RolloutEngine):
            raise UserError(
                f"rollout.engine: {type(engine).__name__} is no engine; derive it from "
                "gpg_vl.RolloutEngine"
            )
        return engine

    def gate(self, prompt_at: Callable[[int], Prompt], engine: RolloutEngine) -> VisionGate | None:
        """Make the vision gate over early questions, those with pictures first; None = no gate."""
        from gpg_vl.rollout.gate.vision_gate import VisionGate

        gate, rollout_config = self.config.rollout.gate, self.config.rollout
        if not gate.every:
            return None
        questions: list[Prompt] = []
        for index in range((1 + SPARE_QUESTIONS) * gate.prompts):
            with suppress(UnusableSampleError):  # the run itself counts and reports it
                prompt = ensure_fits(prompt_at(index), engine, rollout_config.max_tokens)
                questions.append(prompt)
        if not questions:  # then there is nothing to train on either, and the run says so
            return None
        questions.sort(key=lambda prompt: not prompt.images)
        return VisionGate(
            prompts=tuple(questions[: gate.prompts]),
            spare=tuple(questions[gate.prompts :]),
            sampling=Sampling(
                max_tokens=rollout_config.max_tokens, temperature=rollout_config.temperature
            ),
            seed=self.config.seed,
            mean=gate.mean,
            worst=gate.worst,
        )

    def verify_engine(
        self, engine: RolloutEngine, policy: Policy, prompt_at: Callable[[int], Prompt]
    ) -> None:
        """Check an engine that holds weights of its own before its answers are used."""
        if not engine.needs_verification:
            return
        gate = self.gate(prompt_at, engine)
        if gate is not None:
            gate.check(engine, policy, 0)


def check_benchmarks(names: Sequence[str], model: str, overrides: Sequence[str]) -> None:
    """Refuse benchmarks that do not exist or cannot be scored, before a model is loaded.

    Args:
        model: a run, a checkpoint, a folder of a model or a hub id.
        overrides: key=value knobs of the run's config; those of the benchmarks begin with
            `benchmark.`.
    """
    run_overrides, knobs = split_knobs(overrides)
    experiment = Experiment.of(load_for_model(model, run_overrides))
    for name in names:
        spec = load_benchmark(name, experiment.config.base_dir, knobs)
        experiment.benchmark_parts(spec)


def benchmark_for_recorded_answers(name: str, overrides: Sequence[str] = ()) -> Benchmark:
    """Read a benchmark whose answers were recorded elsewhere: no config and no model.

    Args:
        name: a shipped benchmark or a YAML file.
        overrides: key=value knobs of the benchmark: mode=lenient, frame=qwen2_5_vl...
    """
    spec = load_benchmark(name, overrides=overrides)
    if spec.average_precision:
        average_precision.check_installed()
    frame = build_frame(spec.frame)
    style = build_style(spec.prompt or "think", spec.base_dir)
    return read_benchmark(spec, style, benchmark_verifiers(spec, style, frame), seed=0)


def benchmark_verifiers(spec: BenchmarkSpec, style: Style, frame: Frame) -> VerifierSet:
    """Make the verifiers of a benchmark; all read in its mode."""
    reward = RewardConfig(mode=spec.mode)
    made = build_verifiers(spec.verifiers, style, frame, reward, spec.base_dir)
    return made.in_mode(spec.mode)


def read_benchmark(
    spec: BenchmarkSpec, style: Style, verifiers: VerifierSet, *, seed: int
) -> Benchmark:
    """Read the questions of a benchmark."""
    questions = read_dataset(
        spec.data, verifiers, base_dir=spec.base_dir, seed=seed, phase="held-out questions"
    )
    return Benchmark(
        spec=spec,
        questions=questions.samples,
        style=style,
        verifiers=verifiers,
        seed=seed,
        left_out=questions.left_out,
    )


def declared_frame(config: Config) -> Frame:
    """Return the frame of a model's boxes as far as the config tells it.

    Without its checkpoint at hand: thousandths, in which any box can be written.
    """
    if config.policy.frame != "auto":
        return Frame(kind=config.policy.frame)
    if config.policy.model == "tiny":
        return FAMILIES[config.policy.tiny.family]
    return Frame(kind="norm1000")


def build_frame(name: str) -> Frame:
    """Make a coordinate frame by its own name or that of a model family."""
    frame = frame_named(name) if isinstance(name, str) else None  # a program may give anything
    if frame is None:
        raise UserError(
            f"frame: got {shown(name)}, expected pixels, norm1, norm1000, resized or a family: "
            f"{', '.join(FAMILIES)}"
        )
    return frame


def build_style(part: Part, base_dir: Path) -> Style:
    """Make a prompt style."""
    return plugins.build(part, prompts.ALIASES, base_dir=base_dir, key="prompt", given={})


def build_verifiers(
    parts: Mapping[str, Part], style: Style, frame: Frame, reward: RewardConfig, base_dir: Path
) -> VerifierSet:
    """Make one verifier per answer kind: the shipped ones, and those that a config names."""
    specs: dict[str, Part] = {kind: kind for kind in verifiers.ALIASES} | dict(parts)
    by_kind: dict[str, Verifier] = {}
    for kind, part in specs.items():
        if isinstance(part, dict) and "kind" not in part and kind in verifiers.ALIASES:
            part = {"kind": kind, **part}  # verifiers.boxes.measure=giou alone
        by_kind[kind] = build_verifier(part, f"verifiers.{kind}", style, frame, reward, base_dir)
    return VerifierSet(by_kind=by_kind, truncated=reward.truncated)


def build_verifier(
    part: Part, key: str, style: Style, frame: Frame, reward: RewardConfig, base_dir: Path
) -> Verifier:
    """Make one verifier.

    Args:
        key: key of the part in the config, for messages.
    """
    given = {
        "style": style,
        "frame": frame,
        "mode": reward.mode,
        "combine": reward.combine,
        "accuracy_weight": reward.accuracy,
        "format_weight": reward.format,
    }
    built: Any = plugins.build(
        part, verifiers.ALIASES, base_dir=base_dir, key=key, given=given, what=_A_VERIFIER
    )
    if not callable(built):
        raise UserError(f"{key}: {shown(part)} makes {shown(built)}, expected {_A_VERIFIER}")
    return cast(Verifier, built)


_A_VERIFIER = (
    "a class derived from gpg_vl.RuleVerifier, or a function that makes one (docs/extending.md)"
)


def kind_of(sample: Sample) -> str:
    """Return the kind of a sample's answer, for which there is a shipped verifier.

    Raises:
        UserError: there is none; the message contains the nearest.
    """
    kind = sample.answer_kind
    if kind in verifiers.ALIASES:
        return kind
    nearest = get_close_matches(kind, verifiers.ALIASES, n=1)
    hint = f"known: {', '.join(verifiers.ALIASES)}. For"
    if nearest:
        hint = f"did you mean {nearest[0]}? For"
    raise UserError(
        f"answer_kind: got {shown(kind)}, which no shipped verifier scores; {hint} a kind of your "
        "own, name its verifier: verifier='./rewards.py:Stars'"
    )


def lone_verifier(
    given: Part | Verifier,
    *,
    mode: Mode | None = None,
    style: Part | Style | None = None,
    frame: str | Frame | None = None,
    base_dir: Path = Path(),
) -> Verifier:
    """Make a verifier outside of any config.

    Args:
        given: "boxes", "./rewards.py:Stars", a mapping {"kind": "boxes", "measure": "giou"}, or a
            verifier; the last two keep their own mode, style and frame where none is named here.
        mode: None = strict.
        style: prompt style; None = think.
        frame: coordinate frame of the boxes in answers, or a model family; None = pixels.

    Raises:
        UserError: there is no such verifier, mode, style or frame, or the verifier takes none.
    """
    if mode not in (None, *get_args(Mode)):
        nearest = get_close_matches(str(mode), get_args(Mode), n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise UserError(f"mode: got {shown(mode)}, expected {', '.join(get_args(Mode))}{hint}")
    if not isinstance(style, Style):
        style = build_style(style, base_dir) if style else None
    if not isinstance(frame, Frame):
        frame = build_frame(frame) if frame else None
    asked = {"mode": mode, "style": style, "frame": frame}
    asked = {key: value for key, value in asked.items() if value}
    if not isinstance(given, str | Mapping):
        if isinstance(given, type) or not callable(given):
            raise UserError(
                f"verifier: got {shown(given)}, expected a name such as 'boxes', or a verifier "
                "such as Boxes()"
            )
        return _with_fields(given, asked)
    if isinstance(given, Mapping):
        given = {key: value for key, value in given.items() if key not in asked}
    style, frame = style or build_style("think", base_dir), frame or Frame()
    reward = RewardConfig(mode=mode or "strict")
    return build_verifier(given, "verifier", style, frame, reward, base_dir)


def _with_fields(given: Verifier, asked: Mapping[str, Any]) -> Verifier:
    """Return a verifier with other values of its own fields.

    Raises:
        UserError: it has no such field.
    """
    if not asked:
        return given
    part: Any = given
    own = {field.name for field in fields(part)} if is_dataclass(given) else set[str]()
    for key in asked:
        if key not in own:
            name = getattr(given, "__name__", type(given).__name__)
            raise UserError(
                f"verifier: {one_line(name)} has no field {key} that {key}= could set; leave it out"
            )
    return replace(part, **asked)


def build_estimator(config: Config) -> Estimator:
    """Make the method of a config.

    Raises:
        UserError: it is no estimator, or does not fit the knobs of learner and rollout.
    """
    given = {
        "groups_per_step": config.rollout.groups_per_step,
        "max_tokens": config.rollout.max_tokens,
    }
    estimator: Any = plugins.build(
        config.estimator, ESTIMATORS, base_dir=config.base_dir, key="estimator", given=given
    )
    name = type(estimator).__name__
    if not isinstance(estimator, Estimator):
        raise UserError(f"estimator: {name} is no method; derive it from gpg_vl.Estimator")
    updates = config.learner.updates_per_rollout
    if updates > 1 and not estimator.has_ratio:
        raise UserError(
            f"learner.updates_per_rollout: {updates} with estimator {name}: {name} has no ratio, "
            "so a second update would train on another policy's samples; set it to 1 or use "
            "estimator grpo"
        )
    if config.rollout.carry_over and not estimator.min_informative:
        raise UserError(
            f"rollout.carry_over: 1 with estimator {name} and min_informative 0: a step then "
            "samples one round, without surplus; set carry_over to 0, or use estimator gpg with "
            "min_informative above 0"
        )
    return estimator


def check_template(style: Style, processor: Any, key: str = "prompt") -> None:
    """Refuse a prompt style whose grammar the model's chat template breaks.

    Raises:
        UserError: the template opens or closes a thought that the style does not expect; the
            sentence says which style does.
    """
    from gpg_vl.policy.encode import template_thought

    misfit = style.misfit(template_thought(processor))
    if misfit:
        raise UserError(f"{key}: {misfit}")
