"""Judge whether a run learns, and whether its reward is earned by what was meant."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from gpg_vl.errors import one_line
from gpg_vl.evaluation.statistics import Interval, interval
from gpg_vl.report.page.contents import EvaluationChange, GroupRow, RunContents
from gpg_vl.report.page.finding import (
    EXAMPLES,
    Finding,
    change_of,
    column,
    first_steps,
    last_steps,
    listed,
    percent,
    places,
    points,
    setting,
    several,
)
from gpg_vl.report.page.loopholes import loopholes, weak_settings

BLOCKS = 5
"""Parts of neighbouring steps whose means are taken as independent."""
NEARLY_ALL_RIGHT = 0.95
"""Accuracy before training from which no gain can be expected."""
CLEAR_RISE = 0.05
"""Lower end of the interval of a rise of the training reward, from which it is a clear one."""
NO_GAIN = 0.02
"""Upper end of the interval of the held-out gain, below which the gain is none worth having."""
MOVES_WITHIN = 50
"""Steps within which the reward should move (docs/reading_a_run.md)."""

# --- held-out questions ---------------------------------------------------------------------------


def learning(run: RunContents) -> Finding | None:
    """Say whether the accuracy on held-out questions rose."""
    change = run.held_out_change
    if change is None:
        return None
    row = change.all
    course = f"from {percent(row.first.mean)} to {percent(row.second.mean)}"
    if row.difference.low > 0:
        gained = [after.key for before, after in change.pairs if after.greedy > before.greedy]
        return Finding(
            level="good",
            title=f"It is learning: held-out accuracy rose {course}.",
            evidence=_held_out_evidence(change) + _unmoved_tasks(change),
            section="evaluation",
            chart="held_out",
            items=gained[:EXAMPLES],
            clause="it learns",
        )
    if row.difference.high < 0:
        lost = [after.key for before, after in change.pairs if after.greedy < before.greedy]
        return Finding(
            # looked at again and again while it runs, a fall is seen by chance at some step
            level="warning" if run.state == "running" else "bad",
            title=f"It gets worse: held-out accuracy fell {course}.",
            evidence=_held_out_evidence(change),
            advice=(
                "Do not use its newest checkpoint. Read what it answers now: the questions that "
                "turned wrong. If the training reward rises meanwhile, mend the reward; if it "
                "falls too, lower `optimizer.lr`."
            ),
            section="evaluation",
            chart="held_out",
            items=lost[:EXAMPLES],
            clause="held-out accuracy fell",
        )
    return _no_difference(run, change)


def _no_difference(run: RunContents, change: EvaluationChange) -> Finding:
    row = change.all
    if row.first.mean >= NEARLY_ALL_RIGHT:
        share = percent(row.first.mean)
        title = f"Nearly all held-out questions were right before training: {share}."
        advice, clause = "Take harder questions, for `data` and for the benchmark.", ""
    else:
        title = (
            f"No gain is seen on held-out questions: {percent(row.first.mean)} before, "
            f"{percent(row.second.mean)} now."
        )
        advice = (
            "See whether the training reward rises. If it does not: more steps, or a higher "
            "`optimizer.lr`. If the interval is wide: more questions in the benchmark."
        )
        clause = "no gain is seen on held-out questions"
    early = run.state == "running" or not last_steps(run) or not clause
    return Finding(
        level="note" if early else "warning",
        title=title,
        evidence=_held_out_evidence(change),
        advice=advice,
        section="evaluation",
        chart="held_out",
        clause=clause,
    )


def _held_out_evidence(change: EvaluationChange) -> str:
    row = change.all
    when = "after training" if change.second.when == "after" else f"at step {change.second.step}"
    return (
        f"Before against {when}, paired over {several(row.difference.count, 'held-out question')}: "
        f"{100 * row.difference.mean:+.1f} points, "
        f"{points(row.difference.low, row.difference.high)}; {row.gained:,} answered better, "
        f"{row.lost:,} worse."
    )


def _unmoved_tasks(change: EvaluationChange) -> str:
    """Return a sentence on the tasks in which no gain is seen, which a mean over all hides."""
    unmoved = [one_line(row.name, 60) for row in change.rows[1:] if row.difference.low <= 0]
    return f" No gain is seen in {listed(unmoved)}." if unmoved else ""


def a_task_falls(run: RunContents) -> Finding | None:
    """Say which tasks got worse on held-out questions while all together did not.

    The more tasks, the clearer a fall must be: one of twenty would show one by chance.
    """
    change = run.held_out_change
    if change is None or change.all.difference.high < 0:
        return None
    tasks = change.rows[1:]
    fallen = [row for row in tasks if row.difference.high < 0 and row.p < 0.05 / len(tasks)]
    if not fallen:
        return None
    names = {row.name for row in fallen}
    lost: list[tuple[str, str]] = []
    for before, after in change.pairs:
        if after.tag in names and after.greedy < before.greedy:
            lost.append(after.key)
    courses: list[str] = []
    for row in fallen:
        ends = points(row.difference.low, row.difference.high)
        courses.append(
            f"{row.name}: {percent(row.first.mean)} to {percent(row.second.mean)}, {ends}, "
            f"{several(row.difference.count, 'question')}"
        )
    words = listed([row.name for row in fallen])
    return Finding(
        level="warning",
        title=f"{words} got worse on held-out questions, while others did not.",
        evidence="; ".join(courses) + ".",
        advice="Give it more `weight` in `data`, and read the questions that turned wrong.",
        section="evaluation",
        chart=f"held_out/{fallen[0].name}",
        items=lost[:EXAMPLES],
        clause=f"{words} got worse",
    )


# --- the training reward --------------------------------------------------------------------------


def reward_ends(run: RunContents) -> tuple[Interval, Interval] | None:
    """Return the reward of the first and of the last tenth of the steps, over steps."""
    first = column(first_steps(run), "reward")
    last = column(last_steps(run), "reward")
    if len(first) < 2 or len(last) < 2:
        return None
    return interval(_block_means(first)), interval(_block_means(last))


def _block_means(values: Sequence[float]) -> Sequence[float]:
    """Return means of BLOCKS parts of neighbouring steps; of few values the values themselves.

    Neighbouring steps are of nearly the same policy, so they are not independent.
    """
    size = len(values) // BLOCKS
    if size < 2:
        return values
    return [fmean(values[size * n : size * (n + 1)]) for n in range(BLOCKS)]


def reward_course(run: RunContents) -> Finding | None:
    """Say how the training reward went, where nothing is known of held-out questions."""
    ends = reward_ends(run)
    if ends is None or run.held_out_change is not None:
        return None
    first, last = ends
    low, high = change_of(first, last)
    if low <= 0 <= high and len(run.steps) < MOVES_WITHIN:
        return None
    steps_count = len(last_steps(run))
    caution = "This is the reward of sampled answers to training questions, not held-out accuracy."
    evidence = (
        f"Mean of the first and of the last {steps_count} steps: {first.mean:.3f} and "
        f"{last.mean:.3f}; 95 % interval of the difference over steps {low:+.3f} to {high:+.3f}. "
        f"{caution}"
    )
    advice = ""
    if not setting(run, "evaluation", "benchmark"):
        advice = "Name a benchmark (`evaluation.benchmark`): held-out questions say what it learns."
    course = f"from {first.mean:.3f} to {last.mean:.3f}"
    if low > 0:
        title, clause = f"The training reward rose {course}.", "its training reward rises"
    elif high < 0:
        title, clause = f"The training reward fell {course}.", "its training reward falls"
        advice = "Lower `optimizer.lr`, and read its answers of the last steps."
    else:
        title = f"The training reward did not move clearly: {first.mean:.3f}, then {last.mean:.3f}."
        advice = "More steps, or a higher `optimizer.lr`; see the share of informative groups."
        clause = "its training reward does not move"
    level = "good" if low > 0 else "warning" if high < 0 else "note"
    return Finding(
        level=level,
        title=title,
        evidence=evidence,
        advice=advice,
        section="curves",
        chart="reward",
        clause=clause,
    )


def fooled(run: RunContents) -> Finding | None:
    """Say whether the reward is earned by answers that are not right.

    Two signs: the reward rises while held-out accuracy does not, and answers that are paid although
    they are not the truth. Both together leave little doubt.
    """
    signs = loopholes(run)
    parted = _reward_alone_rises(run)
    if not signs and not parted:
        return None
    evidence = " ".join(filter(None, [parted, *(sign.text for sign in signs)]))
    groups: list[GroupRow] = []
    for sign in signs:
        groups += sign.groups
    advice = (
        "Read the answers that earn the full reward. Make the verifier refuse them: one answer, "
        "the exact one, nothing beside it; `gpg-vl audit` tries such answers on a reward."
    )
    verifiers = setting(run, "verifiers")
    if isinstance(verifiers, Mapping):
        for kind, verifier in verifiers.items():
            advice += f" Here `verifiers.{kind}` is `{one_line(verifier, 80)}`."
    if weak_settings(run):
        advice += " `reward.mode: strict` with `reward.combine: gate` is the strict rule."
    if signs and parted:
        title = "The reward is being fooled: it rises, but held-out accuracy does not."
        clause = "the reward is being fooled"
    elif parted:
        title = "The reward is fooled, or the training questions are learnt by heart."
        clause = "its reward rises without any gain on held-out questions"
        advice += " If they are right, it learns by heart: more training questions, fewer steps."
    else:
        title = "The reward pays for answers that are not the truth."
        clause = "it is paid for answers that are not the truth"
    return Finding(
        level="bad" if parted else "warning",
        title=title,
        evidence=evidence,
        advice=advice,
        section="answers",
        chart="reward",
        groups=places(groups),
        clause=clause,
        is_shortcut=bool(parted),
    )


def _reward_alone_rises(run: RunContents) -> str:
    """Return a sentence if the reward rises clearly and held-out accuracy does not; else none."""
    ends, change = reward_ends(run), run.held_out_change
    if ends is None or change is None or change.all.first.mean >= NEARLY_ALL_RIGHT:
        return ""
    low, high = change_of(*ends)
    gain = change.all.difference
    if low < CLEAR_RISE or gain.high >= NO_GAIN:
        return ""
    return (
        f"The training reward rose from {ends[0].mean:.3f} to {ends[1].mean:.3f} (95 % interval of "
        f"the difference {low:+.3f} to {high:+.3f}), while held-out accuracy went from "
        f"{percent(change.all.first.mean)} to {percent(change.all.second.mean)} "
        f"({points(gain.low, gain.high)})."
    )
