"""Offer train, evaluate, export, score and load_config to a program or a notebook: `import gpg_vl`.

    run = gpg_vl.train("digits", steps=50)
    print(gpg_vl.evaluate("digits", run))
    gpg_vl.export(run, "digits_model", dtype="bfloat16")
    gpg_vl.score("<think>one, two</think><answer>2</answer>", sample)

Nothing heavy is imported before a function needs it: `score` and `load_config` need no torch.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.models import find_run
from gpg_vl.config.paths import check_writable, expanded
from gpg_vl.config.python_values import Overrides, as_key_values
from gpg_vl.config.schema import Config, Part
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.evaluation.results import Results
from gpg_vl.experiment import Experiment, check_benchmarks, kind_of, lone_verifier
from gpg_vl.pictures import picture_size
from gpg_vl.prompts import Style
from gpg_vl.run_folder import Callback
from gpg_vl.types import Mode, Sample, Verdict
from gpg_vl.verifiers import ALIASES
from gpg_vl.verifiers.base import RuleVerifier, Verifier


def load_config(config: str | Path, overrides: Overrides = (), **knobs: Any) -> Config:
    """Load a config by shipped name or YAML file.

    Args:
        config: a shipped config ("digits") or a file ("mine.yaml").
        overrides: knobs that differ: ["steps=50"] or {"steps": 50, "optimizer.lr": 1e-5}.
        knobs: the same as keywords: steps=50, optimizer={"lr": 1e-5}; they win.

    Raises:
        UserError: no such config or knob, or a value of the wrong type.
    """
    if not isinstance(config, str | Path):
        raise UserError(
            f"load_config: got {shown(config, 80)} ({type(config).__name__}), expected the name of "
            "a shipped config or a YAML file"
        )
    return loading.load(str(config), as_key_values(overrides, knobs))


def train(
    experiment: Experiment | Config | str | Path | None = None,
    overrides: Overrides = (),
    *,
    resume: str | Path | None = None,
    from_step: int | None = None,
    callbacks: Sequence[Callback] = (),
    log: Callable[[str], None] | None = None,
    allow_changed: bool = False,
    **knobs: Any,
) -> Path:
    """Train a policy, and return its run folder.

    Args:
        experiment: a shipped config by name, a YAML file, a loaded config, or an `Experiment`; None
            with `resume`: the run's own config.
        overrides: knobs that differ: ["steps=50"] or {"steps": 50, "optimizer.lr": 1e-5}.
        resume: run folder that goes on from its newest checkpoint.
        from_step: with `resume`: from this earlier checkpoint; what came after it is dropped.
        callbacks: called with the number and the metrics of each step.
        log: called with each line for the user; None = lines and progress are printed.
        allow_changed: resume although config, data or verifiers have changed.
        knobs: knobs as keywords: steps=50, optimizer={"lr": 1e-5}; they win.

    Raises:
        UserError: a mistake in config or data, or a reason to stop that only the user can mend.
        KeyboardInterrupt: Ctrl-C; the step has been finished and saved.

    Example:
        train("digits", steps=50)
    """
    folder = None if resume is None else find_run(Path(resume), "resume")
    chosen = experiment_of(experiment, folder, as_key_values(overrides, knobs))
    run_it = partial(
        _trained, chosen, resume=folder, from_step=from_step, allow_changed=allow_changed
    )
    if log is not None:
        return run_it(callbacks=callbacks, log=log)
    from rich.console import Console

    from gpg_vl.report.display import Display

    with Display(Console()) as display:
        display.phase("loading libraries")
        return run_it(callbacks=[*callbacks, display.step], log=display.log)


def _trained(experiment: Experiment, **how: Any) -> Path:
    """Train without the lines of other libraries."""
    from gpg_vl.training.loop import train as run

    with _no_foreign_lines():
        return run(experiment, **how)


@contextmanager
def _no_foreign_lines() -> Generator[None, None, None]:
    """Hide progress bars and hints of other libraries, which break ours, while the block lasts."""
    from transformers.utils import logging as transformers_logging

    were_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    # imported by peft, it asks on a CPU for kernels of a hub, which are not needed
    of_4_bits = logging.getLogger("bitsandbytes")
    level = of_4_bits.level
    of_4_bits.setLevel(logging.ERROR)
    try:
        yield
    finally:
        of_4_bits.setLevel(level)
        if were_shown:
            transformers_logging.enable_progress_bar()


def experiment_of(
    given: Experiment | Config | str | Path | None, resume: Path | None, key_values: Sequence[str]
) -> Experiment:
    """Return the experiment that was named, with its overrides."""
    if given is None:
        if resume is None:
            raise UserError(
                "train: got no config, expected a name, a file or a config: train('digits')"
            )
        return Experiment.resolve(loading.load_run(resume, key_values))
    if isinstance(given, Experiment):
        if not key_values:
            return given
        return given.with_config(_changed(given.config, key_values))
    if isinstance(given, Config):
        return Experiment.resolve(_changed(given, key_values))
    if not isinstance(given, str | Path):
        raise UserError(
            f"train: got {shown(given)}, expected the name of a config, a YAML file, a config of "
            "load_config, or an Experiment"
        )
    return Experiment.resolve(loading.load(str(given), key_values))


def _changed(config: Config, key_values: Sequence[str]) -> Config:
    """Return a config with overrides, which reads its files from where it did."""
    if not key_values:
        return config
    values = loading.override(Config, config.model_dump(mode="json"), key_values)
    return loading.parse(Config, values, "overrides").at(config.base_dir)


def evaluate(
    benchmark: str | Path,
    model: str | Path,
    overrides: Overrides = (),
    *,
    blank: bool = False,
    to: str | Path | None = None,
    log: Callable[[str], None] | None = None,
    **knobs: Any,
) -> Results:
    """Ask a model the questions of a benchmark, and return a record of each.

    Args:
        benchmark: a shipped benchmark by name, or a YAML file.
        model: a run folder, a checkpoint folder or a hub id.
        overrides: knobs of the run's config; those of the benchmark begin with `benchmark.`:
            {"benchmark.samples": 0}.
        blank: show grey pictures instead: what is left is guessing.
        to: file (.jsonl) for the records; the same call again goes on from it.
        log: called with each line for the user, such as what of the benchmark is left out; None =
            lines and progress are printed.
        knobs: knobs as keywords; they win.

    Raises:
        UserError: the benchmark or the model cannot be used, or `to` cannot be written.

    Example:
        print(evaluate("digits", "runs/digits"))
    """
    key_values = as_key_values(overrides, knobs)
    path = None if to is None else _record_file(to)
    check_benchmarks([str(benchmark)], str(model), key_values)
    ask = partial(_evaluated, str(benchmark), str(model), key_values, blank, path)
    if log is not None:
        return ask(log)
    from rich.console import Console

    from gpg_vl.report.display import Counting

    with Counting(Console()) as counting:
        counting.phase("loading libraries")
        return ask(counting.log, on_progress=counting.progress)


def _record_file(to: str | Path) -> Path:
    """Return the file of the records; refuse what cannot be written before anything is asked."""
    path = expanded(str(to))
    if path.is_dir():
        raise UserError(f"to: {path} is a folder, expected a file such as records.jsonl")
    check_writable(path.parent, "to")
    return path


def _evaluated(
    benchmark: str,
    model: str,
    key_values: Sequence[str],
    blank: bool,
    path: Path | None,
    log: Callable[[str], None],
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> Results:
    """Evaluate without the lines of other libraries, and say what the figures do not."""
    from gpg_vl.evaluation.evaluate import evaluate_benchmarks

    with _no_foreign_lines():
        evaluated = evaluate_benchmarks(
            [benchmark],
            model,
            key_values,
            blank=blank,
            on_progress=on_progress,
            path_of=lambda _: path,
            log=log,
        )
        # to its end: the engine is closed there
        ((asked, records),) = evaluated
    for line in (asked.not_asked, asked.format_advice(records, loading.BENCHMARK_PREFIX)):
        if line:
            log(line)
    return Results(asked.spec.name, records, blank=blank)


def export(
    model: str | Path,
    to: str | Path,
    *,
    merged: bool = False,
    dtype: str | None = None,
    log: Callable[[str], None] = print,
) -> Path:
    """Write a trained model as a folder that others load, with its model card, and return it.

    Args:
        model: a run (its newest checkpoint), a checkpoint, a folder of a model or of an adapter.
        to: new folder that is written.
        merged: write one plain model; else a run with adapters gives the adapter, for peft.
        dtype: data type of the tensors: bfloat16 | float32; None = as they are stored.
        log: called with each line for the user.

    Raises:
        UserError: there is no such model, or the folder cannot be written.

    Example:
        export("runs/digits", "digits_model", dtype="bfloat16")
    """
    from gpg_vl.report.export import export as write

    run_it = partial(write, str(model), Path(to), merged=merged, dtype=dtype, log=log)
    if not (merged or dtype):  # copied, without the libraries
        return run_it()
    with _no_foreign_lines():
        return run_it()


def score(
    text: str,
    sample: Sample,
    *,
    mode: Mode | None = None,
    style: Part | Style | None = None,
    frame: str | Frame | None = None,
    verifier: Part | Verifier | None = None,
) -> Verdict:
    """Score one answer as a run would, without a model and without torch.

    Args:
        text: the whole answer.
        sample: the question and its true answer.
        mode: strict (as in training) | lenient (answers in any format) | reference (the authors'
            published rule); None = strict.
        style: prompt style, which says what a well-formed answer is: "think" | "answer" | your own;
            None = think.
        frame: coordinate frame of the boxes in the answer: pixels | norm1 | norm1000 | resized, or
            a model family such as qwen2_5_vl; None = pixels.
        verifier: "boxes", "./rewards.py:Stars", {"kind": "boxes", "measure": "giou"}, or a
            verifier; the last two keep their own mode, style and frame where none is named here;
            None = that of the sample's answer_kind.

    Raises:
        UserError: the text is none, or the sample's true answer cannot be scored.

    Example:
        score("The answer is 3.", sample, mode="lenient").reward == 1.0
    """
    if not isinstance(text, str):
        raise UserError(f"score: text: got {shown(text)} ({type(text).__name__}), expected a text")
    if not isinstance(sample, Sample):
        raise UserError(
            f"score: sample: got {shown(sample)} ({type(sample).__name__}), expected a "
            "gpg_vl.Sample(question=..., answer_kind='number', answer=3)"
        )
    judge = _judge(kind_of(sample) if verifier is None else verifier, mode, style, frame)
    sample = _with_sizes(sample, judge)
    _check_truth(sample, judge)
    return judge(text, sample)


def _judge(
    chosen: Part | Verifier,
    mode: Mode | None,
    style: Part | Style | None,
    frame: str | Frame | None,
) -> Verifier:
    """Return the verifier that was chosen; a shipped one is made once."""
    names = all(isinstance(each, str | None) for each in (mode, frame))
    if isinstance(chosen, str) and chosen in ALIASES and isinstance(style, str | None) and names:
        return _shipped(chosen, mode=mode, style=style, frame=frame)
    return lone_verifier(chosen, mode=mode, style=style, frame=frame)


_shipped = lru_cache(maxsize=64)(lone_verifier)


def _with_sizes(sample: Sample, verifier: Verifier) -> Sample:
    """Return the sample with the sizes of its pictures, where its verifier compares boxes."""
    if sample.sizes or not sample.images or not hasattr(verifier, "frame"):
        return sample
    try:
        return replace(sample, sizes=tuple(map(picture_size, sample.images)))
    except ValueError as error:
        raise UserError(f"score: {one_line(sample.id)}: {error}") from None


def _check_truth(sample: Sample, verifier: Verifier) -> None:
    """Refuse a sample whose true answer the verifier cannot score, whatever the text is."""
    if not isinstance(verifier, RuleVerifier):
        return
    try:
        # leniently: a published rule need not pay for our spelling of the truth
        replace(verifier, mode="lenient").perfect_answer(sample)
    except ValueError as error:
        raise UserError(f"score: {one_line(sample.id)}: {error}") from None
