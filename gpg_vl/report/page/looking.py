"""Judge whether a model looks at its pictures: by a control on grey ones, else by the gate."""

from pathlib import Path
from statistics import fmean

from gpg_vl.errors import command
from gpg_vl.report.page.contents import EvaluationChange, RunContents, change_between
from gpg_vl.report.page.finding import (
    EXAMPLES,
    Finding,
    change_of,
    column,
    has_pictures,
    listed,
    percent,
    points,
    setting,
    several,
)
from gpg_vl.report.page.learning import reward_ends

AS_GOOD_BLIND = 0.05
"""Upper end of what the pictures add to the accuracy, below which the model does without them."""
CLEARLY_LOOKS = 0.1
"""Lower end of what the pictures add, from which the model clearly looks at them."""
GUESSES_MOST = 0.1
"""Accuracy below which an evaluation says nothing about looking: there is little to lose."""
NO_RELIANCE = 0.2
"""Nats per answer that the picture adds, below which it hardly matters: such an answer is 1.2 times
as likely with its picture. Of a whole answer and not per token: a long one has many tokens that
need no picture. In healthy runs of the tiny model it is 10 to 20 nats."""
RELIED = 1.0
"""Nats per answer from which a model relied on its pictures, so that it can stop to."""
RELIANCE_CHECKS = 3
"""Checks at the beginning and at the end that are compared."""
RELIANCE_FALLS = 0.5
"""Share of its first value to which the reliance on pictures falls when a model turns to guessing.
"""


def blind(run: RunContents) -> Finding | None:
    """Say whether the model does as well without its pictures: by a control, else by the gate."""
    if not has_pictures(run):
        return None
    return _by_control(run) or _by_reliance(run)


def _by_control(run: RunContents) -> Finding | None:
    """Compare the newest evaluation with the one on grey pictures."""
    for control in run.evaluations:
        seen = run.newest_evaluation(control.benchmark) if control.blank else None
        change = change_between(control, seen) if seen else None
        if change is None or change.all.second.mean < GUESSES_MOST:
            continue
        return _control_finding(change, run)
    return None


def _control_finding(change: EvaluationChange, run: RunContents) -> Finding | None:
    row = change.all
    grey, shown = row.first.mean, row.second.mean
    gain = row.difference
    evidence = (
        f"{percent(shown)} with the pictures, {percent(grey)} with grey ones, paired over "
        f"{several(gain.count, 'held-out question')}: the pictures add {100 * gain.mean:+.1f} "
        f"points, {points(gain.low, gain.high)}."
    )
    guessed = [after.key for before, after in change.pairs if before.greedy >= after.greedy > 0]
    if gain.high < AS_GOOD_BLIND:
        return Finding(
            level="bad",
            title="It does not look at the pictures: it answers as well when they are all grey.",
            evidence=evidence,
            advice=(
                "Take questions that cannot be answered without the picture: balance the truths, "
                "shuffle the options, drop questions that are right on grey pictures; in the "
                f"training rows, in those of the warm-up and in the benchmark.{_train_eyes(run)}"
            ),
            section="evaluation",
            chart="visual_reliance",
            items=guessed[:EXAMPLES],
            clause="it does not look at the pictures",
            is_shortcut=True,
        )
    if gain.low > CLEARLY_LOOKS:
        return Finding(
            level="good",
            title=f"It looks at the pictures: without them it falls to {percent(grey)}.",
            evidence=evidence,
            section="evaluation",
            clause="it looks at the pictures",
        )
    return Finding(
        level="note",
        title=f"The pictures help little: {percent(grey)} are right without them.",
        evidence=evidence,
        advice="Many questions can be guessed; take some that need the picture.",
        section="evaluation",
        items=guessed[:EXAMPLES],
        clause="the pictures help little",
    )


def _train_eyes(run: RunContents) -> str:
    """Return the advice to train the parts that see, if they are frozen."""
    frozen: list[str] = []
    for part in ("vision", "projector"):
        if setting(run, "policy", part) == "frozen":
            frozen.append(f"`policy.{part}: full`")
    return f" Train the parts that see: {listed(frozen)}." if frozen else ""


def _by_reliance(run: RunContents) -> Finding | None:
    """Judge by how much likelier the answers are with their picture, in the steps with a check."""
    values = _reliance(run)
    if len(values) < RELIANCE_CHECKS:
        return None
    first, last = fmean(values[:RELIANCE_CHECKS]), fmean(values[-RELIANCE_CHECKS:])
    evidence = (
        "Its answers are likelier with their picture than with a grey one, by "
        f"{first:.2f} nats an answer in the first {RELIANCE_CHECKS} checks and by {last:.2f} in "
        f"the last {RELIANCE_CHECKS} (`visual_reliance` times `length`)."
    )
    ends = reward_ends(run)
    rises = ends is not None and change_of(*ends)[0] > 0
    gone = last < NO_RELIANCE
    looked = len(values) >= 2 * RELIANCE_CHECKS and first >= RELIED
    falls = looked and rises and last < RELIANCE_FALLS * first
    if gone or falls:
        return Finding(
            level="bad" if gone and rises else "warning",
            title=(
                "It hardly looks at the pictures any more: it guesses."
                if falls
                else "The pictures hardly matter for its answers: it guesses."
            ),
            evidence=evidence,
            advice=f"See how far guessing goes: {_control_command(run)}.",
            section="curves",
            chart="visual_reliance",
            clause="it hardly looks at the pictures",
            is_shortcut=gone and rises,
        )
    return None


def _reliance(run: RunContents) -> list[float]:
    """Return how much likelier an answer is with its picture, in nats, for each check."""
    found: list[float] = []
    for row in run.steps:
        nats, length = column([row], "visual_reliance"), column([row], "length")
        if nats and length:
            found.append(nats[0] * length[0])
    return found


def no_control(run: RunContents) -> Finding | None:
    """Say that nothing proves that the model looks at the pictures: there is no control.

    Its visual reliance is no proof: a grey picture may disturb a model that does not need any.
    """
    controls = [evaluation for evaluation in run.evaluations if evaluation.blank]
    evaluated = run.held_out_change is not None and has_pictures(run)
    if run.state == "running" or controls or not evaluated or blind(run):
        return None
    values = _reliance(run)[-RELIANCE_CHECKS:]
    measured = ""
    if values and fmean(values) > RELIED:
        measured = (
            f" Its answers are likelier with their picture than with a grey one, by "
            f"{fmean(values):.2f} nats an answer (`visual_reliance` times `length`), which speaks "
            "for it."
        )
    return Finding(
        level="note",
        title="Nothing proves yet that it looks at the pictures.",
        evidence=f"There is no evaluation on grey pictures.{measured}",
        advice=f"Make one, and the page again: {_control_command(run)}.",
        section="evaluation",
        chart="visual_reliance",
    )


def _control_command(run: RunContents) -> str:
    """Return the command of the control whose result the page shows."""
    benchmark = setting(run, "evaluation", "benchmark")
    if not benchmark:
        return "`gpg-vl evaluate BENCHMARK --model RUN --blank`"
    where: object = benchmark
    if str(benchmark).endswith((".yaml", ".yml")):
        where = Path(str(run.environment.get("config_folder", "."))) / str(benchmark)
    stem = str(benchmark).rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml")
    to = run.path / "evaluation" / f"{stem}-blank.jsonl"
    words = ("evaluate", where, "--model", run.path, "--blank", "--to", to)
    return f"`{command('gpg-vl', *words)}`"
