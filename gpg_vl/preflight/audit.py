"""Check before training whether a run can learn what it is meant to learn.

Without a model: the run fits its hardware; model and packages are there; every reference answer
scores 1; hostile answers earn no more than they may; no constant answer beats chance; no picture is
in both training and test; prompts fit into the window. With a model: what it answers, why answers
cannot be read, and how many groups are informative.
"""

import hashlib
import importlib.util
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from statistics import fmean
from types import SimpleNamespace
from typing import Any

from PIL import Image

from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import (
    SHOWN_CHARACTERS,
    UnusableSampleError,
    UserError,
    one_line,
    shown,
)
from gpg_vl.experiment import Experiment
from gpg_vl.policy.encode import encode, open_images
from gpg_vl.policy.model_folder import find_model, is_here, locate
from gpg_vl.policy.processor import LOCAL, choose_backend, limit_pixels, load_processor
from gpg_vl.preflight import data_checks, memory
from gpg_vl.preflight.finding import Finding, Level
from gpg_vl.preflight.learnability import MIN_INFORMATIVE
from gpg_vl.preflight.memory import Workload
from gpg_vl.preflight.plan import workload_of
from gpg_vl.preflight.try_rollout import sample_questions
from gpg_vl.report.left_out import by_reason, described
from gpg_vl.report.trackers import not_installed
from gpg_vl.rollout.collect import MIN_LOST, too_many_lost
from gpg_vl.types import Group, Sample
from gpg_vl.verifiers import exploits
from gpg_vl.verifiers.base import RuleVerifier
from gpg_vl.verifiers.dispatch import VerifierSet

EXPLOITED_QUESTIONS = 50
"""Questions of each kind that hostile answers are tried on."""
DECODED_ROWS = 1000
"""Rows whose pictures are decoded, at most about twice as many."""
MEASURED_PROMPTS = 64
"""Prompts that are counted in tokens."""
SAMPLED_GROUPS = 16
"""Groups that a model is asked for."""
HISTOGRAM_BINS = 10
"""Bins of the reward histogram."""


def audit(
    experiment: Experiment, *, model: str | None = None, head: int | None = None
) -> Iterator[Finding]:
    """Yield everything that can be known before training, sentence by sentence.

    Every row is read and checked by its own verifier; pictures are decoded, and prompts counted in
    tokens, of some of them.

    Args:
        model: policy to ask: a run folder, a checkpoint folder or a hub id; None = only a
            processor is loaded.
        head: rows of each source that are read; None = all.
    """
    config = experiment.config
    workload = None
    try:
        workload = workload_of(experiment)
    except UserError as error:
        yield Finding("stop", f"model: cannot be read: {error}")
    else:
        yield hardware(workload)
    yield from packages(config, _benchmark_sources(config))
    reader = None
    if workload is not None:  # a missing model has been reported above
        try:
            reader = _reader(experiment)
            experiment = experiment.for_processor(reader.processor, reader.window)
        except (OSError, ValueError, UserError) as error:
            yield Finding("stop", f"prompts: not checked: {one_line(error, SHOWN_CHARACTERS)}")
            reader = None
    try:
        dataset = read_dataset(
            _first_rows(config.data, head),
            experiment.verifiers,
            base_dir=config.base_dir,
            seed=config.seed,
            why_unaskable=experiment.why_unaskable,
        )
    except UserError as error:
        yield Finding("stop", f"data: {error}")
        return
    cut = _cut(config.data, dataset, head)
    yield from reference_answers(dataset, cut)
    yield from data_checks.of_rows(config.data, dataset, experiment.verifiers)
    decoded = _some(dataset.samples, DECODED_ROWS)
    trained_pictures, unreadable = _pictures(decoded)
    yield from pictures(config, dataset, unreadable, len(decoded))
    yield from data_checks.odd_pictures(_some(dataset.samples, MEASURED_PROMPTS))
    for kind, samples in _by_kind(dataset.samples).items():
        yield from rewards(kind, samples, experiment.verifiers)
    yield from data_checks.hidden_options(dataset.samples, experiment.style)
    if len(decoded) < len(dataset.samples):
        cut = f" (pictures of {len(decoded):,} of {len(dataset.samples):,} rows were looked at)"
    yield from overlap(experiment, trained_pictures, cut, head)
    yield from warmup_rows(experiment, head)
    if reader is not None:
        yield from lengths(experiment, dataset, reader)
    if model is not None:
        yield from answers_of(experiment, model, dataset)


def hardware(workload: Workload) -> Finding:
    """Judge whether the run fits its hardware."""
    found = memory.problems(workload)
    if found:
        return Finding("stop", f"memory: {found[0]}; change: {'; or '.join(found[1:])}")
    gpu = workload.machine.gb
    if gpu is None:
        is_tiny = workload.config.policy.model == "tiny"
        text = "memory: not judged: there is no GPU here, and hardware.gb names none"
        return Finding("fine" if is_tiny else "mind", text)
    needed = memory.needed(workload) / memory.GB
    text = f"memory: {needed:.1f} GB of {gpu:g} at the peak; gpg-vl plan has the items"
    return Finding("fine", text)


def packages(config: Config, benchmark_sources: Sequence[Source] = ()) -> Iterator[Finding]:
    """Yield optional packages that the config needs and that are not installed."""
    engine = config.rollout.engine
    kind = engine if isinstance(engine, str) else engine.get("kind")
    if kind == "vllm" and not _is_installed("vllm"):
        yield Finding(
            "stop",
            "rollout.engine: vllm is not installed; pip install 'gpg-vl[vllm]', or use engine: "
            "transformers",
        )
    for name in config.trackers:
        if not _is_installed(name):
            yield Finding("stop", not_installed(name))
    for source in (*config.data, *config.warmup.data, *benchmark_sources):
        if source.hub and not _is_installed("datasets"):
            yield Finding(
                "stop",
                f"data: {source.hub} is read with the package datasets, which is not installed; "
                "pip install datasets",
            )
            return


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _benchmark_sources(config: Config) -> Sequence[Source]:
    if not config.evaluation.benchmark:
        return ()
    return load_benchmark(config.evaluation.benchmark, config.base_dir).data


def _by_kind(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    by_kind: dict[str, list[Sample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.answer_kind, []).append(sample)
    return by_kind


def _first_rows(sources: Sequence[Source], head: int | None) -> Sequence[Source]:
    if head is None:
        return sources
    shortened: list[Source] = []
    for source in sources:
        rows = min(head, source.head or head)
        shortened.append(source.model_copy(update={"head": rows}))
    return shortened


def _cut(sources: Sequence[Source], dataset: Dataset, head: int | None) -> str:
    """Return words that say that only the first rows were read; empty if all were."""
    if head is None:
        return ""
    for source, rows in zip(sources, dataset.sources, strict=True):
        source_head = source.head or math.inf
        if source_head > head and len(rows) + len(dataset.left_out) >= head:
            return f" (only the first {head:,} rows of a source were read)"
    return ""


def reference_answers(dataset: Dataset, cut: str = "") -> Iterator[Finding]:
    """Yield how many rows are used, and why the others are not."""
    used = len(dataset.samples)
    yield Finding("fine", f"reference answers: {used} rows earn the full reward{cut}")
    yield from unused_rows(dataset)


def unused_rows(dataset: Dataset, where: str = "") -> Iterator[Finding]:
    """Yield why rows of a data set are not used, the most frequent reason first.

    Args:
        where: names the data set, if it is not that of the training.
    """
    used, left_out = len(dataset.samples), dataset.left_out
    if not left_out:
        return
    rows = used + len(left_out)
    used_ids = {sample.id for sample in dataset.samples}
    # two sources may read one file, each the rows of its own kind
    lost = [row for row in left_out if row.id not in used_ids]
    level: Level = "mind" if len(lost) < used else "stop"
    first, *others = by_reason(left_out)
    yield Finding(level, f"{where}left out: {len(left_out)} rows of {rows}; {first}")
    for line in others:
        yield Finding(level, f"{where}left out: {line}")


def warmup_rows(experiment: Experiment, head: int | None) -> Iterator[Finding]:
    """Yield why rows of the warm-up's own data are not used."""
    config = experiment.config
    if not config.warmup.steps or not config.warmup.data:
        return
    try:
        dataset = read_dataset(
            _first_rows(config.warmup.data, head),
            experiment.verifiers,
            base_dir=config.base_dir,
            seed=config.seed,
            key="warmup.data",
            why_unaskable=experiment.why_unaskable,
        )
    except UserError as error:
        yield Finding("stop", f"warmup: {error}")
        return
    yield from unused_rows(dataset, "warmup: ")


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
    yield _exploits(kind, samples, verifier)
    yield _constant(kind, samples, verifier)


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
    if not type(verifier).__module__.startswith("gpg_vl."):
        text = f"{kind}: {constant}; part marks can do that, a hole in the verifier too"
        return Finding("mind", text)
    return Finding(level, f"{kind}: a constant beats chance: {constant}")


def pictures(
    config: Config, dataset: Dataset, unreadable: Sequence[str], decoded: int
) -> Iterator[Finding]:
    """Yield questions that are asked without their picture, and pictures that cannot be read.

    Args:
        decoded: rows whose pictures were opened.
    """
    for source, rows in zip(config.data, dataset.sources, strict=True):
        bare = [sample.id for sample in rows if not sample.images]
        names_images = bool({"image", "images"} & set(source.columns))
        if bare and (len(bare) < len(rows) or names_images):
            yield Finding(
                "mind",
                f"pictures: {len(bare)} of {len(rows)} rows have no picture; "
                f"{one_line(bare[0])} is one",
            )
    if unreadable:
        too_many = _stops_a_run(config, len(unreadable), decoded, len(dataset.samples))
        yield Finding(
            "stop" if too_many else "mind",
            f"pictures: {len(unreadable)} of {decoded} rows have one that cannot be read; "
            f"{unreadable[0]}",
        )


def _stops_a_run(config: Config, lost: int, tried: int, rows: int) -> bool:
    """Return True if a run would lose too many samples, after several passes over all rows.

    Args:
        lost: rows that cannot become prompts, of those that were tried.
    """
    return too_many_lost(
        config.rollout.max_lost,
        lost=MIN_LOST * lost,
        drawn=MIN_LOST * tried,
        lost_rows=lost * rows // tried,
        rows=rows,
    )


def overlap(
    experiment: Experiment, trained: Mapping[str, str], cut: str, head: int | None
) -> Iterator[Finding]:
    """Yield pictures that are in both training and test.

    Args:
        trained: digests of the training pictures.
        cut: says how many rows they come from, if not from all.
    """
    name = experiment.config.evaluation.benchmark
    if name is None:
        text = "no evaluation.benchmark: the run will not know whether it learns"
        yield Finding("mind", text)
        return
    try:
        spec = load_benchmark(name, experiment.config.base_dir)
        style, verifiers = experiment.benchmark_parts(spec)
        held_out = read_dataset(
            _first_rows(spec.data, head),
            verifiers,
            base_dir=spec.base_dir,
            seed=0,
            why_unaskable=lambda sample: experiment.why_unaskable(sample, style),
        )
    except UserError as error:
        yield Finding("stop", f"evaluation.benchmark: {error}")
        return
    yield from unused_rows(held_out, "evaluation.benchmark: ")
    decoded = _some(held_out.samples, DECODED_ROWS)
    if not cut and len(decoded) < len(held_out.samples):
        cut = f" (pictures of {len(decoded):,} of {len(held_out.samples):,} tests were looked at)"
    tested, unreadable = _pictures(decoded)
    if unreadable:
        yield Finding(
            "mind",
            f"evaluation.benchmark: {len(unreadable)} rows have a picture that cannot be read; "
            f"{unreadable[0]}",
        )
    yield _shared_pictures(trained, tested, cut or _cut(spec.data, held_out, head))


def _shared_pictures(trained: Mapping[str, str], tested: Mapping[str, str], cut: str) -> Finding:
    shared = [question for digest, question in tested.items() if digest in trained]
    if not shared:
        return Finding(
            "fine",
            f"overlap: none of {len(tested)} test pictures is among {len(trained)} training "
            f"pictures{cut}",
        )
    counts = (
        f"overlap: {len(shared)} of {len(tested)} test pictures are also trained on, pixel for "
        f"pixel{cut}"
    )
    if len(shared) == len(tested):
        return Finding(
            "stop",
            f"{counts}: the benchmark would measure memory, not learning; hold other pictures out",
        )
    if 2 * len(shared) > len(tested):
        return Finding(
            "mind",
            f"{counts}, more than half: the benchmark measures mostly memory; "
            f"{one_line(shared[0])} is one",
        )
    return Finding("mind", f"{counts}; {one_line(shared[0])} is one")


def _pictures(samples: Sequence[Sample]) -> tuple[dict[str, str], list[str]]:
    """Return digest of a picture's pixels -> a question that shows it, and unreadable pictures."""
    by_digest: dict[str, str] = {}
    unreadable: list[str] = []
    for sample in samples:
        try:
            images = open_images(sample)
        except UnusableSampleError as error:
            unreadable.append(f"{one_line(sample.id)}: {error}")
            continue
        for image in images:
            by_digest.setdefault(_digest(image), sample.id)
    return by_digest, unreadable


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(str(image.size).encode() + image.tobytes()).hexdigest()


def lengths(experiment: Experiment, dataset: Dataset, reader: Any) -> Iterator[Finding]:
    """Compare prompts with the window, and reference answers with max_tokens.

    Args:
        reader: the model's processor and window.
    """
    config = experiment.config
    samples = _spread(dataset.samples, MEASURED_PROMPTS)
    counted: list[int] = []
    unusable: list[str] = []
    for sample in samples:
        try:
            counted.append(len(encode(sample, experiment.style, reader).input_ids))
        except UnusableSampleError as error:
            unusable.append(str(error))
    room = reader.window - config.rollout.max_tokens
    longest = max(counted, default=0)
    if unusable:
        rows = len(dataset.samples)
        is_stop = not counted or _stops_a_run(config, len(unusable), len(samples), rows)
        yield Finding(
            "stop" if is_stop else "mind",
            f"lengths: {len(unusable)} of {len(samples)} samples cannot become prompts; "
            f"{unusable[0]}",
        )
    if not counted:
        return
    if longest > room:
        yield Finding(
            "stop",
            f"lengths: the longest prompt has {longest} tokens; with max_tokens "
            f"{config.rollout.max_tokens} it outgrows the window of {reader.window}",
        )
    else:
        yield Finding(
            "fine",
            f"lengths: prompts of {min(counted)} to {longest} tokens, {room} are free of a window "
            f"of {reader.window}",
        )
    yield from _answer_lengths(experiment, samples, reader.processor.tokenizer)


def _reader(experiment: Experiment) -> Any:
    """Return a model's processor and window, without its weights."""
    config = experiment.config
    if config.policy.model == "tiny":
        return experiment.policy()
    from transformers import AutoConfig

    name = config.policy.model
    folder = find_model(name) if is_here(name) else locate(name, weights=False)
    processor = load_processor(folder, choose_backend(config.policy.image_backend))
    limit_pixels(processor, config.policy.min_pixels, config.policy.max_pixels)
    model_config = AutoConfig.from_pretrained(folder, **LOCAL)
    window = model_config.get_text_config().max_position_embeddings
    return SimpleNamespace(processor=processor, window=window)


def _spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """Return about `count` samples, evenly spaced, and the one with the longest question."""
    return [*_some(samples, count), max(samples, key=lambda sample: len(sample.question))]


def _some(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """Return `count` to twice as many samples, evenly spaced; all, where there are fewer."""
    return samples[:: max(1, len(samples) // count)]


def _answer_lengths(
    experiment: Experiment, samples: Sequence[Sample], tokenizer: Any
) -> Iterator[Finding]:
    max_tokens = experiment.config.rollout.max_tokens
    needed: list[int] = []
    for sample in samples:
        verifier = experiment.verifiers.by_kind[sample.answer_kind]
        if isinstance(verifier, RuleVerifier):
            text = experiment.style.write(verifier.perfect_answer(sample), thought="so")
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            needed.append(len(ids) + 1)  # the end id
    if not needed:
        return
    too_long = sum(length > max_tokens for length in needed)
    level: Level = "fine"
    if too_long:
        level = "stop" if 2 * too_long > len(needed) else "mind"
    yield Finding(
        level,
        f"answers: the shortest right answer takes {min(needed)} to {max(needed)} tokens, "
        f"rollout.max_tokens is {max_tokens}",
    )


def answers_of(experiment: Experiment, model: str, dataset: Dataset) -> Iterator[Finding]:
    """Ask a model: yield reasons, a reward histogram, informative groups, and some samples."""
    policy = experiment.policy_of(model)
    experiment = experiment.for_policy(policy)
    groups, unusable = sample_questions(experiment, policy, dataset, SAMPLED_GROUPS)
    if unusable:
        yield Finding(
            "mind" if groups else "stop",
            f"asked: {len(unusable)} of {SAMPLED_GROUPS} questions cannot be asked; "
            f"{described(unusable[0])}",
        )
    if groups:
        yield from findings_on(groups, experiment.config.rollout.groups_per_step)


def findings_on(groups: Sequence[Group], groups_per_step: int) -> Iterator[Finding]:
    """Yield the findings on sampled groups."""
    reasons: Counter[str] = Counter()
    values: list[float] = []
    for group in groups:
        for verdict in group.verdicts:
            reasons[_kind_of(verdict.reason)] += 1
            values.append(verdict.reward)
    counts = [f"{reason} {count}" for reason, count in reasons.most_common()]
    yield Finding("fine", f"reasons: {', '.join(counts)}")
    yield Finding("fine", f"rewards: {histogram(values)}")
    for group in islice(groups, 3):
        sample, text, verdict = group.prompt.sample, group.completions[0].text, group.verdicts[0]
        yield Finding(
            "fine",
            f"sample {one_line(sample.id)} (truth {shown(sample.answer)}): {text[:160]!r} earns "
            f"{verdict.reward:.2f}, {_kind_of(verdict.reason)}",
        )
    yield _informative(groups, groups_per_step, values)


def _informative(
    groups: Sequence[Group], groups_per_step: int, rewards: Sequence[float]
) -> Finding:
    share = fmean(group.informative for group in groups)
    text = (
        f"informative: {100 * share:.0f} % of {len(groups)} groups, so about "
        f"{share * groups_per_step:.1f} of {groups_per_step} in a round"
    )
    if share > 0:
        return Finding("mind" if share < MIN_INFORMATIVE else "fine", text)
    scored = [reward for reward in rewards if not math.isnan(reward)]
    if scored and fmean(scored) > 0.5:
        remedy = "it is solved already"
    else:
        remedy = "no answer earns anything: warm up, ask easier questions or mend the format"
    return Finding("stop", f"{text}; no group is informative, so there is no gradient: {remedy}")


def _kind_of(reason: str) -> str:
    """Return the kind of a reason, without the details of one answer."""
    kind, _, rest = reason.partition(":")
    if kind not in ("malformed", "unreadable"):
        return kind
    return f"{kind}: {rest.strip().split(',')[0][:40]}"


def histogram(values: Sequence[float]) -> str:
    """Return counts over ten equal parts of the range, from the lowest reward to the highest."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return f"none, {len(values)} faults"
    low, high = min(finite), max(finite)
    counts = str(len(finite))
    if high > low:
        width = (high - low) / HISTOGRAM_BINS
        bins: Counter[int] = Counter()
        for value in finite:
            bins[min(HISTOGRAM_BINS - 1, int((value - low) / width))] += 1
        counts = " ".join(str(bins[place]) for place in range(HISTOGRAM_BINS))
    return f"{low:.2f} [{counts}] {high:.2f}, mean {fmean(finite):.3f}"
