"""Judge the answers of the last steps: one for everything, malformed, without any reward."""

from collections import Counter
from collections.abc import Sequence

from gpg_vl.errors import one_line
from gpg_vl.evaluation.records import Record
from gpg_vl.parsing.letters import letters_of
from gpg_vl.report.page.contents import GroupRow, RunContents
from gpg_vl.report.page.finding import (
    EXAMPLES,
    MIN_GROUPS,
    QUOTED,
    Finding,
    answers_of,
    by_task,
    commonest,
    last_steps,
    listed,
    mean_of,
    percent,
    places,
    quoted,
    recent_groups,
    several,
    truth_of,
)
from gpg_vl.report.page.loopholes import weak_settings

MOST = 0.6
"""Share of a task's answers from which one answer is given to most of its questions."""
NEARLY_ALL = 0.9
"""Share from which it is given to nearly all."""
ABOVE_TRUTHS = 0.25
"""How much more frequent the answer must be than the most frequent truth: where most truths are
"yes", answering "yes" mostly is right."""
WELL_FORMED = 0.8
"""Share of well-formed answers below which the format costs much of the reward."""
HARDLY_FORMED = 0.5
"""Share of well-formed answers below which the format is the trouble, not the task."""
EARNS_NOTHING = 0.01
"""Mean reward of a task that earns nothing."""
OTHERS_EARN = 0.05
"""Mean reward of the whole run from which a task without any stands out."""
PAID_MALFORMED = 0.05
"""Share of the rewarded answers from which malformed ones are worth a note."""
REASONS = {"malformed", "unreadable", "truncated", "fault"}
"""First words of the reasons of answers from which nothing was read."""
ONE_PLACE = 0.6
"""Share of the answers that name the option at one place, from which the place counts."""
ALWAYS = 0.9
"""Share of one place that no longer depends on the question."""
ABOVE_EVEN = 0.25
"""How much more often than evenly that option is named: one of three evenly gives 0.33."""
LEAST_CHOICES = 40
"""Fewest questions with options that are judged."""


def one_answer(run: RunContents) -> Finding | None:
    """Say for which tasks one answer is given to most questions although their truths differ."""
    courses: list[str] = []
    groups: list[GroupRow] = []
    highest, named = 0.0, ""
    for task, asked in by_task(recent_groups(run)).items():
        truths = [truth_of(group) for group in asked]
        given = [str(answer.get("answer") or "") for _, answer in answers_of(asked)]
        text, share = commonest(given)
        true_share = commonest(truths)[1]
        if len(asked) < MIN_GROUPS or not text or share < max(MOST, true_share + ABOVE_TRUTHS):
            continue
        courses.append(
            f"{task or 'all questions'}: {quoted(text)} is {percent(share)} of {len(given):,} "
            f"recent answers, while the most frequent truth is that of {percent(true_share)} of "
            f"{len(asked)} questions"
        )
        groups += asked
        if share > highest:
            highest, named = share, text
    if not courses:
        return None
    amount = "nearly all" if highest >= NEARLY_ALL else "most"
    return Finding(
        level="bad" if highest >= NEARLY_ALL else "warning",
        title=f"It gives one answer, {quoted(named)}, to {amount} questions.",
        evidence="; ".join(courses) + ".",
        advice=(
            "Balance the truths in `data`, raise `rollout.temperature`, lower `optimizer.lr`; see "
            "whether the reward pays for this answer more often than it is true."
        ),
        section="answers",
        groups=places(groups),
        clause=f"it gives one answer to {amount} questions",
    )


def one_place(run: RunContents) -> Finding | None:
    """Say whether it picks options by their place, in the newest evaluation with options."""
    for evaluation in reversed(run.evaluations):
        asked = [record for record in evaluation.records if len(record.choices) > 1]
        if evaluation.blank or evaluation.when == "before" or len(asked) < LEAST_CHOICES:
            continue
        given = [_place(record, record.answer) for record in asked]
        true = [_place(record, str(record.truth)) for record in asked]
        place, share = commonest(given)
        even = sum(1 / len(record.choices) for record in asked) / len(asked)
        if not place or share < max(ONE_PLACE, even + ABOVE_EVEN):
            return None
        there = true.count(place) / len(true)
        is_biased = there > even + ABOVE_EVEN / 2
        return Finding(
            level="bad" if is_biased and share >= ALWAYS else "warning",
            title=f"It names option {place} in {percent(share)} of the questions.",
            evidence=(
                f"Over {len(asked):,} held-out questions with options; the right one is number "
                f"{place} in {percent(there)} of them, which is what naming it always scores; "
                f"evenly it would be {percent(even)}."
            ),
            advice=(
                "Shuffle the options of the training rows, of those of the warm-up and of the "
                "benchmark: the place of the right one can be learnt without the picture."
                if is_biased
                else "The place earns nothing here: lower `optimizer.lr`, or more `warmup.steps`."
            ),
            section="evaluation",
            items=[record.key for record in asked[:EXAMPLES]],
            clause=f"it mostly names option {place}",
            is_shortcut=is_biased and share >= ALWAYS,
        )
    return None


def _place(record: Record, answer: str) -> str:
    """Return the number of the option that an answer is, from 1; empty = none."""
    if answer in record.choices:
        return str(list(record.choices).index(answer) + 1)
    letters = list(letters_of(record.choices, record.letters))
    return str(letters.index(answer) + 1) if answer in letters else ""


def malformed(run: RunContents) -> Finding | None:
    """Say whether many answers lack the format, with the most frequent reason."""
    share = mean_of(last_steps(run), "part/format")
    if share is None or share >= WELL_FORMED:
        return None
    reason, groups = _frequent_reason(recent_groups(run), REASONS)
    why = f" The most frequent reason: {reason}." if reason else ""
    return Finding(
        level="bad" if share < HARDLY_FORMED else "warning",
        title=f"{percent(1 - share)} of its answers do not have the required format.",
        evidence=f"Mean of `part/format` over the last steps: {share:.3f}.{why}",
        advice="More `warmup.steps`, or another `prompt`; read such answers.",
        section="answers",
        chart="part/format",
        groups=places(groups),
        clause="many answers lack the required format",
    )


def _frequent_reason(
    groups: Sequence[GroupRow], first_words: set[str]
) -> tuple[str, list[GroupRow]]:
    """Return the most frequent reason that begins with one of these words, and its groups.

    Only the first line of a reason is shown: a fault has a trace below it.
    """
    by_reason: dict[str, list[GroupRow]] = {}
    for group, answer in answers_of(groups):
        reason = str(answer.get("reason") or "")
        if reason.partition(":")[0].strip() in first_words:
            first_line = one_line(reason.partition("\n")[0], 2 * QUOTED)
            by_reason.setdefault(first_line, []).append(group)
    counts = Counter({reason: len(found) for reason, found in by_reason.items()})
    if not counts:
        return "", []
    reason = counts.most_common(1)[0][0]
    return reason, by_reason[reason]


def faults(run: RunContents) -> Finding | None:
    """Say whether answers could not be scored."""
    rows = [row for row in run.steps if (row.get("faults") or 0) > 0]
    count = int(sum(row["faults"] for row in rows))
    if not count:
        return None
    reason, groups = _frequent_reason(run.groups, {"fault"})
    recent = bool(set(map(id, rows)) & set(map(id, run.steps[-5:])))
    why = f" The most frequent reason: {reason}." if reason else ""
    return Finding(
        level="warning" if recent else "note",
        title=f"{several(count, 'answer')} could not be scored.",
        evidence=f"In {several(len(rows), 'step')}, the last one {rows[-1]['step']}.{why}",
        advice=(
            "Mend the verifier (`gpg-vl audit` tries it); above `rollout.max_faults` the run stops."
        ),
        section="answers",
        chart="faults",
        groups=places(groups),
        clause="answers could not be scored",
    )


def a_task_earns_nothing(run: RunContents) -> Finding | None:
    """Say which tasks earn nothing while others do."""
    rows = last_steps(run)
    overall = mean_of(rows, "reward")
    if overall is None or overall < OTHERS_EARN:
        return None
    poor: list[str] = []
    for key in sorted(set().union(*rows)):
        mean = mean_of(rows, key) if key.startswith("reward/") else None
        if mean is not None and mean < EARNS_NOTHING:
            poor.append(key.removeprefix("reward/"))
    if not poor:
        return None
    asked = [group for group in recent_groups(run) if group.task in poor]
    return Finding(
        level="warning",
        title=f"{listed(poor)} earns nothing, while others do.",
        evidence=(
            f"Its mean reward over the last steps is below {EARNS_NOTHING}, that of all tasks "
            f"{overall:.3f}."
        ),
        advice="Read its answers; warm-up rows of this task, easier ones, or another verifier.",
        section="answers",
        chart=f"reward/{poor[0]}",
        groups=places(asked),
        clause=f"{listed(poor)} earns nothing",
    )


def weak_rule(run: RunContents) -> Finding | None:
    """Say whether a weak rule of the reward pays malformed answers."""
    weak = weak_settings(run)
    paid: list[GroupRow] = []
    rewarded = 0
    for group, answer in answers_of(recent_groups(run)):
        if (answer.get("reward") or 0) > 0:
            rewarded += 1
            if (answer.get("parts") or {}).get("format") == 0:
                paid.append(group)
    if not weak or not rewarded or len(paid) < PAID_MALFORMED * rewarded:
        return None
    return Finding(
        level="note",
        title="Answers without the required format earn reward.",
        evidence=(
            f"{percent(len(paid) / rewarded)} of {rewarded:,} recent answers with a reward are "
            f"malformed; {listed(weak)} allows it."
        ),
        advice="`reward.mode: strict` with `reward.combine: gate` pays well-formed answers only.",
        section="answers",
        groups=places(paid),
    )
