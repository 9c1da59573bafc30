"""Before any GPU time is spent: can this run learn what it is meant to learn?

Without a model: the run fits its hardware, model and packages are there, every gold answer scores 1, the exploit suite earns what it may,
no constant answer beats chance, no picture is in both training and test, prompts fit into the window. With one: what it answers, why
answers are not read, and how many groups will speak.
"""

import hashlib
import importlib.util
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, Literal

from PIL import Image

from gpg_vl.boxes import FAMILIES, Frame, frame_named
from gpg_vl.config.loading import load_benchmark
from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import Dataset, read_dataset
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.experiment import Asker, build_engine, build_estimator, build_ruler, build_style, build_verifiers, check_template
from gpg_vl.policy.encode import encode, read_images
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.model_folder import find_model, is_here, locate
from gpg_vl.policy.processor import LOCAL, choose_backend, limit_pixels, load_processor
from gpg_vl.preflight import memory
from gpg_vl.preflight.memory import Workload
from gpg_vl.preflight.plan import run_of
from gpg_vl.prompts import Style
from gpg_vl.rollout.collect import RolloutContext, sample_round
from gpg_vl.types import Group, Sample
from gpg_vl.verifiers import exploits
from gpg_vl.verifiers.base import RuleVerifier
from gpg_vl.verifiers.dispatch import VerifierSet

EXPLOITED = 50
"""Questions of each kind that the exploit suite is tried on."""
MEASURED = 64
"""Prompts that are counted in tokens."""
PROBED = 16
"""Groups that a model is asked."""
BARS = 10
"""Of the reward histogram."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of the audit."""

    level: Literal["fine", "mind", "stop"]
    """fine | mind: worth knowing | stop: the run cannot learn what it is meant to."""
    text: str


def audit(config: Config, folder: Path, *, model: str | None = None, head: int = 1000) -> Iterator[Finding]:
    """Everything that can be known before training, sentence by sentence.

    Args:
        model: a policy to ask; None = nothing is loaded but a processor.
        head: rows of each source that are looked at.
    """
    style = build_style(config.prompt, folder)
    checks = build_verifiers(config.verifiers, style, _frame(config), config.reward, folder)
    estimator = build_estimator(config, folder)
    try:
        run = run_of(config, estimator)
    except UserError as error:
        run = None
        yield Finding("stop", f"model: cannot be read: {error}")
    else:
        yield hardware(run)
    yield from packages(config, _asked(config, folder))
    try:
        questions = read_dataset(_first(config.data, head), checks, folder=folder)
    except UserError as error:
        yield Finding("stop", f"data: {error}")
        return
    yield from golds(questions, _cut(config.data, questions, head))
    trained, lost = _pictures(questions)
    yield from pictures(config, questions, lost)
    by_kind = _by_kind([sample for source in questions.sources for sample in source])
    for kind, samples in by_kind.items():
        yield from rewards(kind, samples, checks)
    yield from overlap(config, folder, trained, _cut(config.data, questions, head), head)
    if run is not None:  # a model that is not to be had was found above
        yield from lengths(config, style, checks, questions)
    if model is not None:
        yield from asked(config, folder, model, style, questions)


def hardware(run: Workload) -> Finding:
    """Judge whether the run fits its hardware."""
    if found := memory.problems(run):
        return Finding("stop", f"memory: {found[0]}; change: {'; or '.join(found[1:])}")
    if run.machine.gb is None:
        level = "fine" if run.config.policy.model == "tiny" else "mind"
        return Finding(level, "memory: not judged: there is no GPU here, and hardware.gb names none")
    used = f"{memory.needed(run) / memory.GB:.1f} GB of {run.machine.gb:g}"
    return Finding("fine", f"memory: {used} at the peak; gpg-vl plan has the items")


def packages(config: Config, asked: Sequence[Source] = ()) -> Iterator[Finding]:
    """Optional packages that the config needs and that are not installed.

    Args:
        asked: the sources of its benchmark.
    """
    engine = config.rollout.engine if isinstance(config.rollout.engine, str) else config.rollout.engine.get("kind")
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        yield Finding("stop", "rollout.engine: vllm is not installed; pip install 'gpg-vl[vllm]', or use engine: transformers")
    for name in config.trackers:
        if importlib.util.find_spec(name) is None:
            yield Finding("stop", f"trackers: {name} is not installed; pip install 'gpg-vl[trackers]', or leave it out")
    hubs = [source.hub for source in (*config.data, *config.warmup.data, *asked) if source.hub]
    if hubs and importlib.util.find_spec("datasets") is None:
        yield Finding("stop", f"data: {hubs[0]} is read with the package datasets, which is not installed; pip install datasets")


def _asked(config: Config, folder: Path) -> Sequence[Source]:
    return load_benchmark(config.evaluation.benchmark, folder)[0].data if config.evaluation.benchmark else ()


def _frame(config: Config) -> Frame:
    """What the model's numbers mean; without its checkpoint at hand thousandths, which any box can be written in."""
    if config.policy.frame != "auto":
        return frame_named(config.policy.frame) or Frame()
    family = config.policy.tiny.family if config.policy.model == "tiny" else ""
    return FAMILIES.get(family, Frame(kind="norm1000"))


def _by_kind(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.answer_kind, []).append(sample)
    return groups


def _first(sources: Sequence[Source], head: int) -> list[Source]:
    return [source.model_copy(update={"head": min(head, source.head or head)}) for source in sources]


def _cut(sources: Sequence[Source], questions: Dataset, head: int) -> str:
    """Says that there may be more rows than were looked at; empty where all were."""
    looked_at = [len(rows) + len(questions.left_out) for rows in questions.sources]
    more = any((source.head or math.inf) > head and count >= head for source, count in zip(sources, looked_at, strict=True))
    return f" (only the first {head:,} rows of a source were looked at)" if more else ""


def golds(questions: Dataset, cut: str = "") -> Iterator[Finding]:
    """How many rows are used, and why the others are not."""
    used = sum(map(len, questions.sources))
    yield Finding("fine", f"gold answers: {used} rows earn full marks{cut}")
    if questions.left_out:
        first = questions.left_out[0]
        level = "mind" if len(questions.left_out) < used else "stop"
        yield Finding(level, f"left out: {len(questions.left_out)} rows of {used + len(questions.left_out)}; {first.id}: {first.why}")


def rewards(kind: str, samples: Sequence[Sample], checks: VerifierSet) -> Iterator[Finding]:
    """What a policy could earn without looking: by exploits, and by one constant answer."""
    verifier = checks.by_kind[kind]
    if not isinstance(verifier, RuleVerifier):
        yield Finding("mind", f"{kind}: {type(verifier).__name__} has no gold answer and no exploit suite; nothing was checked")
        return
    holes = "mind" if verifier.mode == "reference" else "stop"
    offences = [told for sample in samples[:EXPLOITED] for told in exploits.offences(sample, verifier)]
    if offences:
        why = "the authors' rule has holes" if verifier.mode == "reference" else "the reward can be fooled"
        yield Finding(holes, f"{kind}: {why}: {len(offences)} exploits earn more than they may; {offences[0]}")
    else:
        yield Finding("fine", f"{kind}: the exploit suite earns what it may on {min(EXPLOITED, len(samples))} questions")
    constant = exploits.best_constant(samples, verifier)
    if constant.reward > 0.99 and constant.fair and len(samples) > 1:
        yield Finding("stop", f"{kind}: one answer is always right, so there is nothing to learn: {constant}")
    elif constant.reward > 0.99 and not constant.fair:
        yield Finding(holes, f"{kind}: one answer is always right, whatever the truth is: {constant}")
    elif not constant.fair and not type(verifier).__module__.startswith("gpg_vl."):
        yield Finding("mind", f"{kind}: {constant}; part marks can do that, a hole in the verifier too")
    elif not constant.fair:
        yield Finding(holes, f"{kind}: a constant beats chance: {constant}")
    else:
        yield Finding("fine", f"{kind}: {constant}")


def pictures(config: Config, questions: Dataset, lost: Sequence[str]) -> Iterator[Finding]:
    """Questions that go out without their picture, and pictures that cannot be read."""
    for source, rows in zip(config.data, questions.sources, strict=True):
        bare = [sample.id for sample in rows if not sample.images]
        if bare and (len(bare) < len(rows) or {"image", "images"} & set(source.columns)):
            yield Finding("mind", f"pictures: {len(bare)} of {len(rows)} rows have no picture; {bare[0]} is one")
    if lost:
        count = sum(map(len, questions.sources))
        level = "stop" if len(lost) > config.rollout.max_lost * count else "mind"
        yield Finding(level, f"pictures: {len(lost)} of {count} rows have one that cannot be read; {lost[0]}")


def overlap(config: Config, folder: Path, trained: Mapping[str, str], cut: str, head: int) -> Iterator[Finding]:
    """Pictures that are in training and test.

    Args:
        trained: digests of the training pictures.
        cut: says how many rows they come from, where not from all.
    """
    if config.evaluation.benchmark is None:
        yield Finding("mind", "no evaluation.benchmark: the run will not know whether it learns")
        return
    try:
        spec, home = load_benchmark(config.evaluation.benchmark, folder)
        _, checks = build_ruler(spec, home, config, folder, _frame(config))
        held_out = read_dataset(_first(spec.data, head), checks, folder=home)
    except UserError as error:
        yield Finding("stop", f"evaluation.benchmark: {error}")
        return
    tested, lost = _pictures(held_out)
    if lost:
        yield Finding("mind", f"evaluation.benchmark: {len(lost)} rows have a picture that cannot be read; {lost[0]}")
    yield _shared(trained, tested, cut or _cut(spec.data, held_out, head))


def _shared(trained: Mapping[str, str], tested: Mapping[str, str], cut: str) -> Finding:
    shared = [tested[digest] for digest in tested if digest in trained]
    told = f"overlap: {len(shared)} of {len(tested)} test pictures are also trained on, pixel for pixel{cut}"
    if not shared:
        return Finding("fine", f"overlap: none of {len(tested)} test pictures is among {len(trained)} training pictures{cut}")
    if len(shared) == len(tested):
        return Finding("stop", f"{told}: the benchmark would measure memory, not learning; hold other pictures out")
    if 2 * len(shared) > len(tested):
        return Finding("mind", f"{told}, more than half: the benchmark measures mostly memory; {shared[0]} is one")
    return Finding("mind", f"{told}; {shared[0]} is one")


def _pictures(questions: Dataset) -> tuple[dict[str, str], list[str]]:
    """Digest of a picture's pixels -> a question that shows it; and why the pictures of other questions cannot be read."""
    seen: dict[str, str] = {}
    lost: list[str] = []
    for sample in (sample for source in questions.sources for sample in source):
        try:
            shown = read_images([{"role": "user", "content": [{"type": "image", "image": image} for image in sample.images]}])
        except UnusableSampleError as error:
            lost.append(f"{sample.id}: {error}")
            continue
        for image in shown:
            seen.setdefault(_digest(image), sample.id)
    return seen, lost


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(str(image.size).encode() + image.tobytes()).hexdigest()


def lengths(config: Config, style: Style, checks: VerifierSet, questions: Dataset) -> Iterator[Finding]:
    """Prompts against the window, gold answers against max_tokens."""
    try:
        reader: Any = load_policy(config.policy, seed=0) if config.policy.model == "tiny" else _reader(config)
    except (OSError, ValueError, UserError) as error:
        yield Finding("stop", f"lengths: not counted, because the model cannot be loaded: {' '.join(str(error).split())[:300]}")
        return
    try:
        check_template(style, reader.processor)
    except UserError as error:
        yield Finding("stop", str(error))
        return
    samples = _spread([sample for source in questions.sources for sample in source])
    counted: list[int] = []
    lost: list[str] = []
    for sample in samples:
        try:
            counted.append(len(encode(sample, style, reader).input_ids))
        except UnusableSampleError as error:
            lost.append(str(error))
    room, longest = reader.window - config.rollout.max_tokens, max(counted, default=0)
    if len(lost) > config.rollout.max_lost * len(samples):
        yield Finding("stop", f"lengths: {len(lost)} of {len(samples)} prompts cannot be asked; {lost[0]}")
    elif longest > room:
        told = f"the longest prompt has {longest} tokens; with max_tokens {config.rollout.max_tokens}"
        yield Finding("stop", f"lengths: {told} it outgrows the window of {reader.window}")
    else:
        yield Finding("fine", f"lengths: prompts of {min(counted)} to {longest} tokens, {room} are free of a window of {reader.window}")
    yield from _answer_lengths(config, style, checks, samples, reader.processor.tokenizer)


def _reader(config: Config) -> Any:
    """A model's processor and window, without its weights."""
    from transformers import AutoConfig

    name = config.policy.model
    folder = find_model(name) if is_here(name) else locate(name, weights=False)
    processor = load_processor(folder, choose_backend(config.policy.image_backend))
    limit_pixels(processor, config.policy.min_pixels, config.policy.max_pixels)
    window = AutoConfig.from_pretrained(folder, **LOCAL).get_text_config().max_position_embeddings
    return SimpleNamespace(processor=processor, window=window)


def _spread(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Some of them, evenly, and the longest question."""
    step = max(1, len(samples) // MEASURED)
    return [*samples[::step], max(samples, key=lambda sample: len(sample.question))]


def _answer_lengths(config: Config, style: Style, checks: VerifierSet, samples: Sequence[Sample], tokenizer: Any) -> Iterator[Finding]:
    verifiers = [(sample, checks.by_kind[sample.answer_kind]) for sample in samples]
    texts = [style.write(verifier.gold(sample), thought="so") for sample, verifier in verifiers if isinstance(verifier, RuleVerifier)]
    needed = sorted(1 + len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    if not needed:
        return
    over = sum(length > config.rollout.max_tokens for length in needed)
    told = f"the barest right answer takes {needed[0]} to {needed[-1]} tokens, rollout.max_tokens is {config.rollout.max_tokens}"
    yield Finding("stop" if 2 * over > len(needed) else "mind" if over else "fine", f"answers: {told}")


def asked(config: Config, folder: Path, model: str, style: Style, questions: Dataset) -> Iterator[Finding]:
    """What a model answers: reasons, reward histogram, how many groups will speak, some samples."""
    from gpg_vl.experiment import chosen_policy, verify_engine

    policy = chosen_policy(config, model)
    checks = build_verifiers(config.verifiers, style, policy.frame, config.reward, folder)
    ask = Asker(questions.stream(config.seed, "data"), style, policy)
    engine, lost = build_engine(config.rollout.engine, policy, folder), list[str]()
    probed = config.rollout.model_copy(update={"groups_per_step": PROBED})
    drawing = RolloutContext(engine=engine, ask=ask, verifiers=checks, config=probed, wanted=0, seed=config.seed)
    with closing(engine):
        verify_engine(engine, config, ask, policy)
        groups = sample_round(drawing, 0, lost)
    if lost:
        yield Finding("mind" if groups else "stop", f"asked: {len(lost)} of {PROBED} questions cannot be asked; {lost[0]}")
    if groups:
        yield from told_of(groups, config.rollout.groups_per_step)


def told_of(groups: Sequence[Group], groups_per_step: int) -> Iterator[Finding]:
    """The findings about sampled groups."""
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    reasons = Counter(_short(verdict.reason) for verdict in verdicts)
    yield Finding("fine", "reasons: " + ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()))
    yield Finding("fine", f"rewards: {histogram([verdict.reward for verdict in verdicts])}")
    for group in islice(groups, 3):
        sample, text, verdict = group.prompt.sample, group.completions[0].text, group.verdicts[0]
        told = f"{text[:160]!r} earns {verdict.reward:.2f}, {_short(verdict.reason)}"
        yield Finding("fine", f"sample {sample.id} (truth {sample.answer!r}): {told}")
    share = fmean(group.informative for group in groups)
    told = (
        f"informative: {100 * share:.0f} % of {len(groups)} groups, so about {share * groups_per_step:.1f} of {groups_per_step} in a round"
    )
    if share == 0:
        mean = fmean(verdict.reward for verdict in verdicts if not math.isnan(verdict.reward)) if verdicts else 0.0
        remedy = "it is solved already" if mean > 0.5 else "no answer earns anything: warm up, ask easier questions or mend the format"
        yield Finding("stop", f"{told}; no group speaks, so there is no gradient: {remedy}")
    else:
        yield Finding("mind" if share < 0.2 else "fine", told)


def _short(reason: str) -> str:
    """The kind of a reason, without the particulars of one answer."""
    kind, _, rest = reason.partition(":")
    return f"{kind}: {rest.strip().split(',')[0][:40]}" if kind in ("malformed", "unreadable") else kind


def histogram(values: Sequence[float]) -> str:
    """Counts over ten equal parts of the range, from the lowest reward to the highest."""
    finite = [value for value in values if not math.isnan(value)]
    if not finite:
        return f"none, {len(values)} faults"
    low, high = min(finite), max(finite)
    width = (high - low) / BARS or 1.0
    bins: Mapping[int, int] = Counter(min(BARS - 1, int((value - low) / width)) for value in finite)
    bars = " ".join(str(bins.get(place, 0)) for place in range(BARS)) if high > low else str(len(finite))
    return f"{low:.2f} [{bars}] {high:.2f}, mean {fmean(finite):.3f}"
