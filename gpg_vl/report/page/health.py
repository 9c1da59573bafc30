"""Judge the numbers of training: the signal, lengths, entropy, steps, the gate, time and data."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from gpg_vl.errors import one_line, train_command
from gpg_vl.report.page.contents import GroupRow, Row, RunContents
from gpg_vl.report.page.finding import (
    QUOTED,
    Finding,
    answers_of,
    column,
    first_steps,
    last_steps,
    mean_of,
    percent,
    places,
    recent_groups,
    setting,
    several,
)
from gpg_vl.report.page.learning import fooled

FEW_INFORMATIVE = 0.1
"""Share of informative groups below which nine of ten questions teach nothing; 0.2 to 0.9 is
healthy (docs/reading_a_run.md)."""
HEALTHY_INFORMATIVE = 0.2
"""Share of informative groups from which the signal is a healthy one."""
ALL_ONE_WAY = 0.75
"""Share of the groups that are all right, or all wrong, from which that is the cause."""
TRUNCATED = 0.1
"""Share of truncated answers above which it matters; below it is healthy."""
MOSTLY_TRUNCATED = 0.5
"""Share of truncated answers above which the length limit, not the task, decides the reward."""
COLLAPSED = 0.5
"""Share of its first length to which a long answer shrinks when the thought is dropped."""
LONG_ANSWER = 40
"""Tokens of an answer that holds a thought; shorter ones have nothing to lose."""
ENTROPY_GONE = 0.05
"""Entropy in nats below which samples of one question are nearly all equal."""
ENTROPY_FELL = 0.2
"""Share of its first value: an entropy that began low has not been lost."""
ALWAYS_CLIPPED = 0.95
"""Share of clipped steps that is as good as always: half is seen in healthy runs."""
GROWN = 10.0
"""Factor by which the norm of the gradient may grow; the same order of magnitude is healthy."""
SKIPPED = 0.1
"""Share of skipped steps above which much sampling was for nothing."""
GATE_NEAR = 0.8
"""Share of its limit from which the gate is about to stop the run; 0.5 is seen in healthy runs."""
GATE_ROSE = 0.6
"""Share of its limit from which a rising gate is worth a note: a few figures of healthy runs lie
near 0.5 by chance."""
GATE_CHECKS = 3
"""Checks at the beginning and at the end that are compared."""
LARGE_ALPHA = 4.0
"""Factor of the step from which a quarter of the groups or fewer decide it; 1 to 2 is healthy."""
MOSTLY = 0.5
"""Share of the seconds of a step from which a phase that is no work of the model is too slow."""
LEAST_SECONDS = 0.5
"""Seconds of a step below which its phases are not worth a word."""
LOST = 0.01
"""Share of the draws without a prompt from which the data need a look; above
`rollout.max_lost` (0.05) the run stops."""


# --- the signal -----------------------------------------------------------------------------------


def signal(run: RunContents) -> Finding | None:
    """Say whether enough groups are informative, and why not."""
    rows = last_steps(run)
    informative = mean_of(rows, "informative")
    if informative is None:
        return None
    right, wrong = mean_of(rows, "all_max") or 0.0, mean_of(rows, "all_min") or 0.0
    evidence = (
        f"Over the last {len(rows)} steps {percent(informative)} of the groups had rewards that "
        f"differ; {percent(right)} were all right, {percent(wrong)} earned nothing at all."
    )
    zero = [group for group in recent_groups(run) if group.rewards and not group.spread]
    if informative >= FEW_INFORMATIVE:
        return _healthy(run, rows, informative, evidence)
    if right >= ALL_ONE_WAY:
        title = "Nearly every training question earns the full reward in all its answers."
        advice = (
            "If held-out accuracy rose too, it is learnt: stop, or take harder data. If it did "
            "not, see what the answers are paid for."
        )
        level, clause = "note", "nearly nothing is left to learn from"
    elif wrong >= ALL_ONE_WAY:
        title = (
            "Nearly every training question earns nothing in all its answers: nothing is learnt."
        )
        advice = "`gpg-vl audit` finds the cause; then more `warmup.steps`, or easier data."
        level, clause = "bad", "nearly no answer earns anything"
    else:
        title = "Nearly all groups have equal rewards: little can be learnt from them."
        advice = "A larger `rollout.group_size`, a higher `rollout.temperature`, or other data."
        level, clause = "warning", "few groups teach anything"
    return Finding(
        level=level,
        title=title,
        evidence=evidence,
        advice=advice,
        section="curves",
        chart="informative",
        groups=places(zero),
        clause=clause,
    )


def _healthy(
    run: RunContents, rows: Sequence[Row], informative: float, evidence: str
) -> Finding | None:
    """Return the good news if no other number of the last steps speaks against it."""
    truncated = mean_of(rows, "truncated") or 0.0
    skipped = mean_of(rows, "skipped") or 0.0
    others = (fooled(run), entropy(run), gradients(run), gate(run), bad_numbers(run))
    if informative < HEALTHY_INFORMATIVE or truncated > TRUNCATED or skipped or any(others):
        return None
    return Finding(
        level="good",
        title="The training signal is healthy.",
        evidence=(
            f"{evidence} {percent(truncated)} of the answers ran into the length limit, no step "
            "was skipped."
        ),
        section="curves",
        chart="informative",
    )


def alpha(run: RunContents) -> Finding | None:
    """Say whether few groups decide the step."""
    mean = mean_of(last_steps(run), "alpha")
    if mean is None or mean < LARGE_ALPHA:
        return None
    return Finding(
        level="note",
        title="Few informative groups decide each step.",
        evidence=f"Mean of `alpha` over the last steps: {mean:.1f}; 1 to 2 is healthy.",
        advice="More `rollout.groups_per_step`, or data of another difficulty.",
        section="curves",
        chart="alpha",
    )


# --- answers: lengths and entropy -----------------------------------------------------------------


def truncated(run: RunContents) -> Finding | None:
    """Say whether answers run into the length limit."""
    share = mean_of(last_steps(run), "truncated")
    if share is None or share <= TRUNCATED:
        return None
    limit = setting(run, "rollout", "max_tokens")
    at = f" of {limit} tokens" if limit else ""
    cut: list[GroupRow] = []
    for group, answer in answers_of(recent_groups(run)):
        if answer.get("finish") == "length":
            cut.append(group)
    return Finding(
        level="bad" if share > MOSTLY_TRUNCATED else "warning",
        title=f"{percent(share)} of its answers run into the length limit{at}.",
        evidence=f"Mean `truncated` of the last steps: {share:.3f}; healthy is below {TRUNCATED}.",
        advice="Raise `rollout.max_tokens`; if they never end, more `warmup.steps`.",
        section="curves",
        chart="truncated",
        groups=places(cut),
        clause="many answers run into the length limit",
    )


def lengths(run: RunContents) -> Finding | None:
    """Say whether long answers became short ones."""
    first, last = mean_of(first_steps(run), "length"), mean_of(last_steps(run), "length")
    if first is None or last is None or first < LONG_ANSWER or last > COLLAPSED * first:
        return None
    return Finding(
        level="warning",
        title=f"Its answers became short: {first:.0f} tokens at first, {last:.0f} now.",
        evidence=f"Mean of `length` over the first and the last steps: {first:.1f} and {last:.1f}.",
        advice="The reward needs no thought: see whether short answers are right by looking.",
        section="curves",
        chart="length",
        groups=places(recent_groups(run)),
        clause="its answers shrink",
    )


def entropy(run: RunContents) -> Finding | None:
    """Say whether the policy has become certain of everything."""
    first, last = mean_of(first_steps(run), "entropy"), mean_of(last_steps(run), "entropy")
    if first is None or last is None or last > min(ENTROPY_GONE, ENTROPY_FELL * first):
        return None
    below = [row["step"] for row in run.steps if _is_below(row.get("entropy"), ENTROPY_GONE)]
    return Finding(
        level="warning",
        title="Its entropy is gone: it samples nearly the same answer every time.",
        evidence=(
            f"Mean entropy {first:.3f} nats over the first steps, {last:.3f} over the last; below "
            f"{ENTROPY_GONE} for the first time in step {below[0]}."
        ),
        advice=(
            "If the task is learnt, stop here. Else lower `optimizer.lr`, raise "
            "`rollout.temperature`, or use `estimator: {kind: grpo, kl: 0.01}`."
        ),
        section="curves",
        chart="entropy",
        clause="its entropy is gone",
    )


def _is_below(value: object, limit: float) -> bool:
    return isinstance(value, int | float) and value < limit


# --- steps ----------------------------------------------------------------------------------------


def gradients(run: RunContents) -> Finding | None:
    """Say whether the gradient grows, or is longer than allowed in every step."""
    first, last = column(first_steps(run), "grad_norm"), column(last_steps(run), "grad_norm")
    if first and last and median(last) > GROWN * median(first) > 0:
        return Finding(
            level="warning",
            title=f"The gradient grew {median(last) / median(first):.0f} times.",
            evidence=f"Median norm {median(first):.3g} in the first steps, {median(last):.3g} now.",
            advice="Lower `optimizer.lr`.",
            section="curves",
            chart="grad_norm",
            clause="the gradient grows",
        )
    share = mean_of(last_steps(run), "clipped")
    if share is None or share < ALWAYS_CLIPPED or (mean_of(run.steps, "clipped") or 0) < 0.5:
        return None
    norm = setting(run, "optimizer", "clip_norm")
    return Finding(
        level="note",
        title="The gradient is clipped in nearly every step.",
        evidence=f"{percent(share)} of the last steps; `optimizer.clip_norm` is {norm}.",
        advice="Lower `optimizer.lr`, or accept that the clipped norm is the step.",
        section="curves",
        chart="clipped",
    )


def bad_numbers(run: RunContents) -> Finding | None:
    """Say whether a loss or a gradient was not finite."""
    bad: list[int] = []
    for row in run.steps:
        if any(key in row and row[key] is None for key in ("loss", "grad_norm")):
            bad.append(row["step"])
    if not bad:
        return None
    recent = bool(run.steps) and bad[-1] >= run.steps[-1]["step"] - 2
    return Finding(
        level="bad" if recent else "note",
        title=f"The loss or the gradient was not finite in {several(len(bad), 'step')}.",
        evidence=f"Of {several(len(run.steps), 'step')}; the last one is step {bad[-1]}.",
        advice="Lower `optimizer.lr`; `bad_steps/` in the run folder holds their groups.",
        section="curves",
        chart="grad_norm",
        clause="the gradient is not finite",
    )


def skipped(run: RunContents) -> Finding | None:
    """Say whether many steps moved no weight."""
    share = mean_of(run.steps, "skipped")
    if share is None or len(run.steps) < 10 or share <= SKIPPED:
        return None
    return Finding(
        level="warning",
        title=f"{percent(share)} of the steps moved no weight.",
        evidence=f"{int(sum(column(run.steps, 'skipped')))} of {several(len(run.steps), 'step')}.",
        advice="Nothing was informative in them: data of another difficulty, or more warm-up.",
        section="curves",
        chart="skipped",
        clause="many steps moved no weight",
    )


def gate(run: RunContents) -> Finding | None:
    """Say whether engine and trainer drift apart."""
    values = column(run.steps, "gate/excess")
    if not values:
        return None
    last = values[-GATE_CHECKS:]
    early = max(values[:GATE_CHECKS])
    rose = len(values) >= 2 * GATE_CHECKS and max(last) > max(GATE_ROSE, 2 * early)
    if max(last) < GATE_NEAR and not rose:
        return None
    return Finding(
        level="bad" if max(last) > 1 else "warning" if max(last) >= GATE_NEAR else "note",
        title="Engine and trainer drift apart: the vision gate is near its limit.",
        evidence=(
            f"Largest `gate/excess` of the first {GATE_CHECKS} checks {early:.2f}, of the last "
            f"{max(last):.2f}; above 1 the run stops."
        ),
        advice="`docs/vllm.md`, The vision gate, lists the causes.",
        section="curves",
        chart="gate/excess",
        clause="engine and trainer drift apart",
    )


def slow_phase(run: RunContents) -> Finding | None:
    """Say whether most time goes into pictures or verifiers."""
    rows = last_steps(run)
    total = mean_of(rows, "seconds")
    if not total or total < LEAST_SECONDS:
        return None
    advices = {
        "encode": "Smaller pictures: `policy.max_pixels`.",
        "score": "Make the verifier faster.",
    }
    for phase, advice in advices.items():
        share = (mean_of(rows, f"seconds/{phase}") or 0.0) / total
        if share > MOSTLY:
            return Finding(
                level="note",
                title=f"Most of a step's time, {percent(share)}, goes into `{phase}`.",
                evidence=f"Of {total:.2f} seconds a step, over the last {len(rows)} steps.",
                advice=advice,
                section="curves",
                chart=f"seconds/{phase}",
            )
    return None


def memory(run: RunContents) -> Finding | None:
    """Say whether updates were taken again in smaller pieces."""
    splits = int(sum(column(run.steps, "memory_splits")))
    if not splits:
        return None
    return Finding(
        level="note",
        title=f"The update ran out of memory {several(splits, 'time')} and was split.",
        evidence="Sum of `memory_splits`; the result is the same, the time is lost.",
        advice="Lower `learner.tokens_per_microbatch`; `gpg-vl plan` computes what fits.",
        section="curves",
        chart="memory_splits",
    )


# --- the run folder -------------------------------------------------------------------------------


def left_out(run: RunContents) -> Finding | None:
    """Say how many rows of the data are not used, and the most frequent reason."""
    if not run.left_out:
        return None
    reasons = Counter(one_line(row.get("why", ""), 2 * QUOTED) for row in run.left_out)
    reason, count = reasons.most_common(1)[0]
    total = len(run.left_out)
    lost = sum(1 for row in run.left_out if row.get("step"))
    draws = max((group.row.get("draw") or 0 for group in run.groups), default=0) + 1
    often = lost > LOST * draws and lost > 1
    later = (
        f" {lost:,} of them while training, {percent(lost / draws)} of {draws:,} draws."
        if lost
        else ""
    )
    return Finding(
        level="warning" if often else "note",
        title=f"{several(total, 'row')} of the data {'is' if total == 1 else 'are'} not used.",
        evidence=f"The most frequent reason, {several(count, 'row')}: {reason}.{later}",
        advice="`left_out.jsonl` lists all; `gpg-vl audit` finds them before a run.",
        section="run",
        clause="many rows of the data are not used" if often else "",
    )


def stopped(run: RunContents) -> Finding | None:
    """Say that a run was left before its last step, and how it goes on."""
    if run.state != "stopped":
        return None
    of = f" of {run.total_steps}" if run.total_steps else ""
    saved = f"Step {run.checkpoints[-1]} is saved." if run.checkpoints else "No step is saved."
    return Finding(
        level="warning",
        title=f"It stopped at step {run.last_step}{of}.",
        evidence=f"Nothing was written for a long time. {saved}",
        advice=f"It goes on with `{train_command('--resume', Path(run.path))}`.",
        section="run",
        clause=f"it stopped at step {run.last_step}{of}",
    )


def unreadable_files(run: RunContents) -> Finding | None:
    """Name the files that could not be read."""
    if not run.problems:
        return None
    shown = "; ".join(one_line(problem, 200) for problem in run.problems[:5])
    more = f"; and {len(run.problems) - 5} more" if len(run.problems) > 5 else ""
    return Finding(
        level="note",
        title=f"{several(len(run.problems), 'file')} of the run could not be read.",
        evidence=f"{shown}{more}.",
        advice="The page shows what the other files hold.",
        section="run",
    )
