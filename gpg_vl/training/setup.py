"""Set a run up: model, data, engine, learner and run folder; warmed up, or resumed.

The order matters. A run folder that is taken is refused before anything is loaded; the engine has
the warmed-up weights before the vision gate checks it; a checkpoint is restored last, into parts
that are complete.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from gpg_vl import progress, run_folder
from gpg_vl.config.loading import dump, read_yaml
from gpg_vl.config.models import TINY, checkpoint_of, find, find_run, is_run, is_same
from gpg_vl.config.paths import check_writable
from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UserError, raise_on_all_ranks
from gpg_vl.evaluation.benchmark import Benchmark
from gpg_vl.experiment import Experiment, Log
from gpg_vl.methods.estimator import Estimator, min_informative_groups
from gpg_vl.policy import adapter_files
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy, fill
from gpg_vl.policy.model_folder import adapter_here, check_base, find_model
from gpg_vl.policy.packages import check_optimizers
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.reference import Reference, first_values
from gpg_vl.policy.sizes import size_of
from gpg_vl.preflight import data_checks
from gpg_vl.preflight.learnability import learnability_warnings
from gpg_vl.preflight.memory import Machine, Workload, default_limits, gpu_here, settle
from gpg_vl.preflight.remedies import problems
from gpg_vl.randomness import seed
from gpg_vl.report import left_out
from gpg_vl.report.tracker_checks import check_ready
from gpg_vl.report.trackers import open_tracker
from gpg_vl.rollout.collect import RolloutContext
from gpg_vl.rollout.engine import RolloutEngine
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.rollout.timer import Timer
from gpg_vl.run_folder import Callback, RunFolder, Tracker
from gpg_vl.training import checkpoint, resume_check, sft, warmup_cache
from gpg_vl.training.checkpoint import State
from gpg_vl.training.learner import Forward, Learner
from gpg_vl.training.processes import Processes, start_accelerator
from gpg_vl.training.rewind import Rewind
from gpg_vl.training.signals import StopRequest
from gpg_vl.types import LeftOut, Update

MIN_MEMORY_SHARE = 0.9
"""A GPU with less than this share of hardware.gb is another GPU: the size printed on its box and
the size it reports differ by less than a tenth."""

Losses = Sequence[Mapping[str, Any]]
"""A row of each step of a warm-up."""


@dataclass(slots=True, kw_only=True)
class TrainingRun:
    """All parts of a run. Only `state` and `gate_figures` change."""

    experiment: Experiment
    processes: Processes
    policy: Policy
    rollouts: RolloutContext
    learner: Learner
    folder: RunFolder
    benchmark: Benchmark | None
    gate: VisionGate | None
    log: Log
    state: State = field(default_factory=State)
    stop: StopRequest = field(default_factory=StopRequest)
    """Request to stop, which may come at any time."""
    gate_figures: dict[str, float] = field(default_factory=dict[str, float])
    """Figures of the last check of the vision gate, until the weights change."""

    @property
    def config(self) -> Config:
        """Knobs of the run."""
        return self.experiment.config

    @property
    def estimator(self) -> Estimator:
        """Method: from rewards to weights."""
        return self.experiment.estimator

    @property
    def engine(self) -> RolloutEngine:
        """Engine that samples answers."""
        return self.rollouts.engine

    @property
    def timer(self) -> Timer:
        """Seconds by phase."""
        return self.rollouts.timer


def set_up(
    experiment: Experiment,
    *,
    resume: Path | None = None,
    from_step: int | None = None,
    callbacks: Sequence[Callback] = (),
    log: Log = print,
    allow_changed: bool = False,
    stop: StopRequest | None = None,
) -> TrainingRun:
    """Make every part of a run.

    Args:
        resume: run folder to continue from its newest checkpoint.
        from_step: step of an earlier checkpoint to continue from; what came after it is dropped.
        stop: request to stop; None = there is never one.
    """
    processes = Processes(start_accelerator())
    log = log if processes.is_main else _no_log
    _check_divisible(experiment.config, processes)
    _check_trackers(experiment.config, processes, log)
    _check_optimizers(experiment.config, processes)
    start = _start(experiment.config, resume, from_step)
    experiment = _with_plain_values(experiment, start, processes, log)
    policy = _load_policy(experiment, start, processes, log)
    experiment = experiment.for_policy(policy)
    unused, benchmark = _read_data(experiment, policy, start.run, processes, log)
    origin = _origin(experiment, policy, processes)
    is_unchanged = start.saved is None or _report_differences(
        start.run, origin, unused, allow_changed=allow_changed, log=log
    )
    engine = _start_engine(experiment, policy, processes, log)
    with ExitStack() as on_failure:
        on_failure.callback(engine.close)
        policy, losses = _first_weights(experiment, policy, start, processes, log)
        folder = _open_folder(experiment, start.run, origin, callbacks, processes, log, losses)
        on_failure.callback(folder.close)
        folder.unused_rows(unused, is_resumed=start.saved is not None)
        run = _put_together(
            experiment, policy, engine, folder, benchmark, processes, log, stop or StopRequest()
        )
        if start.saved:
            _restore(run, start.saved, is_unchanged, start.rewind)
        elif run.config.steps:
            _warn_about_weak_tasks(run)
        on_failure.pop_all()  # from here on, the caller closes both
    return run


def _put_together(
    experiment: Experiment,
    policy: Policy,
    engine: RolloutEngine,
    folder: RunFolder,
    benchmark: Benchmark | None,
    processes: Processes,
    log: Log,
    stop: StopRequest,
) -> TrainingRun:
    """Return the run at its beginning, whose engine has the weights of the policy."""
    engine.update_weights(policy, 0)
    rollouts = _rollout_context(experiment, policy, engine, processes)
    with raise_on_all_ranks(processes.all_gather):
        gate = experiment.gate(rollouts.prompt_at, engine)
    return TrainingRun(
        experiment=experiment,
        processes=processes,
        policy=policy,
        rollouts=rollouts,
        learner=_learner(experiment, policy, processes, log),
        folder=folder,
        benchmark=benchmark,
        gate=gate,
        log=log,
        stop=stop,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """Place that a run begins at."""

    run: Path
    """Run folder."""
    saved: Path | None = None
    """Checkpoint that it continues from; None = a new run."""
    rewind: Rewind | None = None
    """Drops what came after the checkpoint; None = it is the newest."""


def _start(config: Config, resume: Path | None, from_step: int | None) -> _Start:
    """Find the place that a run begins at, before anything is loaded.

    Raises:
        UserError: the run folder is taken or cannot be written, or there is no such checkpoint.
    """
    if resume is not None:
        run = find_run(resume)
        check_writable(run, "--resume")
        if from_step is None:
            return _Start(run, run_folder.newest_checkpoint(run))
        return _Start(run, checkpoint_of(run, from_step), Rewind.to(run, from_step))
    if from_step is not None:
        raise UserError(
            f"from_step={from_step} names a checkpoint of a run that goes on: give resume= too"
        )
    run = config.run_path
    for above in run.parents:
        if above.is_relative_to(config.runs_path) and is_run(above):
            raise UserError(f"{run} is inside the run {above}; choose another `name=`")
    check_writable(run, "folder")
    run_folder.refuse_to_overwrite(run)
    return _Start(run)


def _with_plain_values(
    experiment: Experiment, start: _Start, processes: Processes, log: Log
) -> Experiment:
    """Return the experiment whose config names a model that stays the same, and has no `auto`."""
    resume = start.run if start.saved else None
    experiment = experiment.with_config(_with_model(experiment.config, resume, processes, log))
    return experiment.with_config(_settled(experiment, resume, processes, log))


def _load_policy(experiment: Experiment, start: _Start, processes: Processes, log: Log) -> Policy:
    progress.phase("loading the model")
    policy = experiment.policy(start.saved / "policy" if start.saved else None, log=log)
    policy.model.to(processes.accelerator.device)
    return policy


def _start_engine(
    experiment: Experiment, policy: Policy, processes: Processes, log: Log
) -> RolloutEngine:
    progress.phase("starting the engine")
    with raise_on_all_ranks(processes.all_gather):
        return experiment.engine(policy, rank=processes.rank, ranks=processes.count, log=log)


def _no_log(line: str) -> None:
    """Drop a line: only the main process writes to the terminal."""


def _check_divisible(config: Config, processes: Processes) -> None:
    groups = config.rollout.groups_per_step
    if groups % processes.count:
        raise UserError(
            f"rollout.groups_per_step: {groups} cannot be shared by {processes.count} processes; "
            "make it a multiple"
        )


def _check_trackers(config: Config, processes: Processes, log: Log) -> None:
    """Refuse trackers that are not installed or not logged in; the main process uses them."""
    with raise_on_all_ranks(processes.all_gather):
        if processes.is_main:
            check_ready(config.trackers, config.tracking, log)


def _check_optimizers(config: Config, processes: Processes) -> None:
    """Refuse optimizers that cannot be made here, before weights are loaded."""
    with raise_on_all_ranks(processes.all_gather):
        check_optimizers(config)


def _settled(experiment: Experiment, resume: Path | None, processes: Processes, log: Log) -> Config:
    """Return the config with the learner's `auto` resolved.

    A resumed run takes the values of the run that it continues; else they are what fits the
    smallest GPU. All that follows, also the run's config.yaml, sees plain values, so that a resumed
    run cannot resolve them otherwise.
    """
    config = experiment.config
    learner = config.learner
    if resume is not None:
        begun = read_yaml(resume / "config.yaml").get("learner", {})
        auto = [key for key, value in learner if value == "auto" and key in begun]
        learner = learner.model_copy(update={key: begun[key] for key in auto})
    sizes = [gb for gb in processes.all_gather(gpu_here()) if gb]
    smallest = min(sizes, default=None)
    machine = Machine(gb=config.hardware.gb or smallest, processes=processes.count)
    limits = default_limits(learner)
    if machine.gb is not None and not (resume and learner.is_settled):
        workload = Workload(
            config=config.model_copy(update={"learner": learner}),
            size=size_of(config.policy),
            machine=machine,
            kl=experiment.estimator.kl,
            adapter=adapter_here(config.policy.model),
        )
        limits = settle(workload)
        for problem in problems(workload)[:1]:
            log(f"warning: {problem}; gpg-vl plan says what to change")
        if smallest and smallest < MIN_MEMORY_SHARE * machine.gb:
            log(
                f"warning: hardware.gb is {machine.gb:g}, the smallest GPU here has "
                f"{smallest:.0f}; leave hardware.gb out to go by what is here"
            )
    settled = learner.model_copy(
        update={
            "tokens_per_microbatch": limits.tokens,
            "checkpointing": limits.checkpointing,
        }
    )
    return config.model_copy(update={"learner": settled})


def _with_model(config: Config, resume: Path | None, processes: Processes, log: Log) -> Config:
    """Return the config with the name of its model as the run folder keeps it.

    A run as a model is its newest checkpoint, now; a resumed run keeps to that one, though the
    other run may have saved more.
    """
    name = config.policy.model
    begun = None
    if resume is not None:
        begun = read_yaml(resume / "config.yaml").get("policy", {}).get("model", name)
    if name != begun:
        found = find(name)
        if begun is not None and is_same(begun, found, config.base_dir):
            name = begun
        else:
            name = found.name
            if found.run is not None:
                log(f"policy.model: {config.policy.model} means {name}")
    # the main process decides: a run may save a checkpoint between two looks
    policy = config.policy.model_copy(update={"model": processes.all_gather(name)[0]})
    return config.model_copy(update={"policy": policy})


def _read_data(
    experiment: Experiment, policy: Policy, run: Path, processes: Processes, log: Log
) -> tuple[Sequence[LeftOut], Benchmark | None]:
    """Read training data and benchmark, and report what is left out of them.

    Returns:
        The rows that are left out of the training data, and the benchmark.

    Raises:
        UserError: something cannot be read, or the processes read different rows.
    """
    progress.phase("reading the data")
    with raise_on_all_ranks(processes.all_gather):
        unused = _read_rows(experiment, run, log)
        benchmark = None
        if experiment.config.evaluation.benchmark:
            benchmark = experiment.benchmark(policy)
            if benchmark.missing:
                log(benchmark.missing)
    _check_same_rows(experiment.train_data, processes)
    return unused, benchmark


def _read_rows(experiment: Experiment, run: Path, log: Log) -> Sequence[LeftOut]:
    """Read the training data, report what is odd about them, and return what is left out."""
    data = experiment.train_data
    for line in left_out.lines(data.left_out, run / "left_out.jsonl"):
        log(line)
    for finding in data_checks.of_rows(experiment.config.data, data, experiment.verifiers):
        log(f"warning: {finding.text}" if finding.level == "stop" else finding.text)
    return data.left_out


def _check_same_rows(data: Dataset, processes: Processes) -> None:
    """Refuse processes that read different rows: each would train on another one at an index.

    Raises:
        UserError: a file is only on one machine, or a row took too long on one of them.
    """
    names = [(sample.source, sample.id) for sample in data.samples]
    digest = hashlib.sha256(repr(names).encode()).hexdigest()
    if len(set(processes.all_gather(digest))) == 1:
        return
    unused = processes.all_gather({(row.source, row.id): row for row in data.left_out})
    rows = processes.all_gather(len(names))
    differing: list[str] = []
    for rank, own in enumerate(unused):
        for key, row in own.items():
            if any(key not in other for other in unused):
                differing.append(f"; process {rank} leaves out {left_out.described(row)}")
    raise UserError(
        f"data: the processes read different rows ({' and '.join(map(str, rows))} of them)"
        f"{''.join(differing[:1])}; make the same files readable for all of them"
    )


@dataclass(frozen=True, slots=True)
class _Origin:
    """Parts that a resumed run is compared by with the run that was begun."""

    fingerprint: Mapping[str, Any]
    """Config, data and sources of the verifiers."""
    environment: Mapping[str, Any]
    """Versions and machine."""


def _origin(experiment: Experiment, policy: Policy, processes: Processes) -> _Origin:
    return _Origin(
        resume_check.run_fingerprint(experiment),
        _environment(policy, processes, experiment.config.base_dir),
    )


def _environment(policy: Policy, processes: Processes, base_dir: Path) -> dict[str, Any]:
    """Return where this run runs, with the name of each process's GPU."""
    on_gpu = torch.device(policy.device).type == "cuda"
    names = processes.all_gather(torch.cuda.get_device_name(policy.device) if on_gpu else None)
    gpus = [name for name in names if name]
    return run_folder.environment(
        threads=torch.get_num_threads(),
        device=str(policy.device),
        processes=processes.count,
        image_backend=policy.image_backend,
        config_folder=str(base_dir.resolve()),
        gpus=gpus,
        cuda=torch.version.cuda if gpus else None,
    )


def _report_differences(
    run: Path, origin: _Origin, unused: Sequence[LeftOut], *, allow_changed: bool, log: Log
) -> bool:
    """Refuse a run that is not the one that was begun, and report other differences.

    Args:
        unused: rows that reading left out.

    Returns:
        True if there is no difference at all.
    """
    changed = resume_check.check(
        run, origin.fingerprint, allow_changed=allow_changed, unused=unused
    )
    for difference in changed:
        log(f"changed, as allowed: {difference}")
    begun = run_folder.read_environment(run)
    elsewhere = list(resume_check.environment_differences(begun, origin.environment))
    for difference in elsewhere:
        log(f"not as it was, so the last bits may differ: {difference}")
    return not changed and not elsewhere


def _open_folder(
    experiment: Experiment,
    path: Path,
    origin: _Origin,
    callbacks: Sequence[Callback],
    processes: Processes,
    log: Log,
    losses: Losses | None,
) -> RunFolder:
    """Begin the run folder and open the trackers, on the main process.

    Args:
        losses: those of the warm-up of a new run; None = the run goes on.
    """
    config = experiment.config
    trackers: list[Tracker] = []
    if processes.is_main:
        run_folder.make_parent(path)
        environment = run_folder.write_header(
            path, dump(config), origin.environment, is_resumed=losses is None
        )
        resume_check.write(path, origin.fingerprint)
        known = {**config.model_dump(mode="json"), "environment": environment}
        for name in config.trackers:  # all are installed: that was checked before
            tracker = open_tracker(
                name,
                path,
                known,
                tracking=config.tracking,
                pictures=config.trackers_pictures,
                log=log,
            )
            trackers.append(tracker)
    processes.accelerator.wait_for_everyone()
    folder = RunFolder(
        path,
        callbacks,
        rank=processes.rank,
        trackers=trackers,
        pictures=config.run_folder.pictures,
        pictures_mb=config.run_folder.pictures_mb,
        answers_every=config.report.every,
        true_boxes=experiment.verifiers.true_boxes,
        all_gather=processes.all_gather,
        log=log,
    )
    if losses is not None:
        folder.begin(losses)
    return folder


def _rollout_context(
    experiment: Experiment, policy: Policy, engine: RolloutEngine, processes: Processes
) -> RolloutContext:
    config = experiment.config
    return RolloutContext(
        engine=engine,
        prompt_at=experiment.prompt_at(policy, experiment.train_data),
        verifiers=experiment.verifiers,
        config=config.rollout,
        min_informative_groups=min_informative_groups(
            experiment.estimator.min_informative, config.rollout.groups_per_step
        ),
        seed=config.seed,
        rank=processes.rank,
        ranks=processes.count,
        all_gather=processes.all_gather,
    )


def _learner(experiment: Experiment, policy: Policy, processes: Processes, log: Log) -> Learner:
    config = experiment.config
    if policy.sharing.why_not:
        log(f"{policy.sharing.why_not}: every answer is a row of its own")
    forward = _forward(config, policy)
    reference = None
    if experiment.estimator.kl > 0:
        reference = _reference(experiment, forward, processes)
    return Learner(
        forward,
        experiment.estimator,
        config.optimizer,
        processes.accelerator,
        seed=config.seed,
        total_steps=config.steps,
        tokens_per_microbatch=default_limits(config.learner).tokens,
        updates_per_rollout=config.learner.updates_per_rollout,
        reference=reference,
        log=log,
    )


def _forward(config: Config, policy: Policy) -> Forward:
    if not config.learner.shared_prefix:
        return UnsharedForward(policy, config.rollout.temperature)
    limits = default_limits(config.learner)
    return GroupForward(
        policy,
        config.rollout.temperature,
        tokens_at_once=limits.tokens,
        checkpointing=limits.checkpointing,
    )


def _reference(experiment: Experiment, forward: Forward, processes: Processes) -> Reference:
    """Return the policy as it was before the first step, also for a resumed run."""
    config = experiment.config
    start = None
    if config.warmup.steps:
        start = _warmup_path(experiment, processes)
        if not warmup_cache.is_cached(start):
            raise UserError(
                f"{start}: the warmed-up policy, which estimator.kl compares with, is gone; start "
                "the run anew"
            )
    values = _starting_values(experiment, forward.policy, start)
    if values is None:
        return Reference(forward, None)
    device = processes.accelerator.device
    return Reference(forward, {name: value.to(device) for name, value in values.items()})


def _starting_values(
    experiment: Experiment, policy: Policy, start: Path | None
) -> dict[str, Tensor] | None:
    """Read the parameters that are trained, with the values that a run begins with, by name.

    Of adapters only their own file is read: the model that they are on is in memory already.

    Args:
        policy: the policy of the run, whatever its values are.
        start: folder of the warmed-up policy; None = there is no warm-up.

    Returns:
        None = new adapters, which begin at zero.
    """
    if policy.adapters is None:
        return first_values(experiment.policy(start, log=_no_log))
    if start is not None:
        kept = _kept_adapter(experiment.config, start)
        return dict(policy.adapters.read(kept, "checkpoint"))
    files = _starting_adapter(experiment.config)
    if files is None:
        return None
    return dict(policy.adapters.read(files, "policy.model"))


def _kept_adapter(config: Config, start: Path) -> AdapterFiles:
    """Return the adapter of a warmed-up policy; its base model is that of the config.

    Raises:
        UserError: it was trained on another one.
    """
    kept = adapter_files.read(start, "checkpoint")
    if config.policy.model != TINY:
        check_base(kept, find_model(config.policy.model).folder, "checkpoint")
    return kept


def _starting_adapter(config: Config) -> AdapterFiles | None:
    """Return the adapter, of a folder or of the hub, that a run goes on with; None = no adapter."""
    model = config.policy.model
    return None if model == TINY else find_model(model).adapter


def _first_weights(
    experiment: Experiment, policy: Policy, start: _Start, processes: Processes, log: Log
) -> tuple[Policy, Losses | None]:
    """Return the policy that a run begins with, and the losses of its warm-up.

    Returns:
        The policy, and a row of each step of the warm-up; None = the run goes on.
    """
    if start.saved is not None:
        return policy, None
    if not experiment.config.warmup.steps:
        return policy, ()
    return _warmed_up(experiment, policy, processes, log)


def _warmed_up(
    experiment: Experiment, policy: Policy, processes: Processes, log: Log
) -> tuple[Policy, Losses]:
    """Return the policy after the supervised warm-up, trained now or read from the cache.

    Returns:
        The policy, and a row of each step of the warm-up.
    """
    path = _warmup_path(experiment, processes)
    # another run may keep one just now, and all processes have to decide alike
    if processes.all_gather(warmup_cache.is_cached(path))[0]:
        log(f"warm-up: read from {path}")
    else:
        losses = warm_up(experiment, policy, processes, log)
        if processes.is_main:
            warmup_cache.store(policy, path, losses)
        processes.accelerator.wait_for_everyone()
    # Also after a training here: a run begins with what the file holds, wherever it was trained.
    if policy.adapters is None:
        warmed_up = experiment.policy(path)
        policy.model.to("cpu")  # the device may have no room for both
        warmed_up.model.to(processes.accelerator.device)
    else:
        values = _starting_values(experiment, policy, path)
        assert values is not None
        warmed_up = fill(policy, values, experiment.config.policy)
    return warmed_up, warmup_cache.losses(path)


def _warmup_path(experiment: Experiment, processes: Processes) -> Path:
    """Return where the warmed-up policy is kept, as the main process finds it."""
    own = warmup_cache.cache_path(experiment.config, experiment.warmup_data)
    return processes.all_gather(own)[0]


def warm_up(
    experiment: Experiment, policy: Policy, processes: Processes, log: Log
) -> list[dict[str, Any]]:
    """Train the policy on solutions, so that it learns the answer format.

    Returns:
        A row of each step, with its time and loss.
    """
    config = experiment.config
    data = experiment.warmup_data  # read before the warm-up is shown
    progress.phase("warm-up", config.warmup.steps)
    if config.warmup.data:
        for line in left_out.lines(data.left_out):
            log(f"warm-up: {line}")
    imitation = sft.Imitation(
        dataset=data,
        style=experiment.style,
        policy=policy,
        verifiers=experiment.verifiers,
        max_tokens=config.rollout.max_tokens,
        max_lost=config.rollout.max_lost,
    )
    rows: list[dict[str, Any]] = []
    show = _log_about_ten_times(config.warmup.steps, log)

    def on_step(step: int, update: Update) -> None:
        rows.append(_warmup_row(step, update))
        show(step, update)

    sft.warm_up(
        imitation,
        config.warmup,
        processes.accelerator,
        default_limits(config.learner),
        seed(config.seed, "warm-up"),
        on_step,
        log,
    )
    return rows


def _warmup_row(step: int, update: Update) -> dict[str, Any]:
    """Return what is written down of a step of the warm-up."""
    shown = ("loss", "grad_norm", "lr")
    figures = {f"warmup/{name}": value for name, value in update.metrics.items() if name in shown}
    return {"time": run_folder.now(), "warmup/step": step, **figures}


def _log_about_ten_times(steps: int, log: Log) -> Callable[[int, Update], None]:
    """Return a function that shows a step's loss.

    It logs the last one, or about ten of them where there is no display.
    """
    start = perf_counter()

    def on_step(step: int, update: Update) -> None:
        loss = f"loss {update.metrics['loss']:.3f}"
        progress.count(step, note=loss)
        often = step % max(1, steps // 10) == 0 and not progress.is_shown()
        if often or step == steps:
            log(f"warm-up {step}/{steps}: {loss}, {perf_counter() - start:.1f} s")

    return on_step


def _restore(
    run: TrainingRun, saved: Path, is_unchanged: bool, rewind: Rewind | None = None
) -> None:
    """Bring a run to where a checkpoint left it."""
    progress.phase("resuming")
    run.state = checkpoint.load_state(saved, run.rollouts.prompt_at, run.processes, run.log)
    checkpoint.load_learner(saved, run.learner, unchanged=is_unchanged)
    run.engine.update_weights(run.policy, run.state.version)
    idle = run_folder.idle_steps_at_end(run.folder.path) if is_unchanged else 0
    if idle >= run.config.rollout.idle_steps:
        run.log(
            f"warning: this run stopped after {idle} steps without an informative group; config "
            "and data are the same, so it will take the same steps again"
        )
    if rewind is not None and run.processes.is_main:
        run.log(f"dropped, because later than step {rewind.step}: {rewind.described()}")
        rewind.drop()
    run.folder.rewind(run.state.step)
    run.log(
        f"resumed from step {run.state.step} of {run.config.steps} (weights, optimizer, schedule, "
        f"{run.state.cursor} prompts used, {len(run.state.carried)} groups waiting): {saved}"
    )


def _warn_about_weak_tasks(run: TrainingRun) -> None:
    progress.phase("trying the tasks")
    with raise_on_all_ranks(run.processes.all_gather):
        warnings = list(learnability_warnings(run.rollouts, run.experiment, run.policy))
    for warning in warnings:
        run.log(f"warning: {warning}")
