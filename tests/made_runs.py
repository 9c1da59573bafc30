"""Write run folders of every kind without a model, with the package's own writers.

The questions are real scenes of digits, the answers come from a pretended model that gets better,
and the verdicts from the real verifiers: a page that reads such a folder reads what `train` writes.
"""

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from gpg_vl.boxes import FAMILIES, Box, Frame, write
from gpg_vl.config import loading
from gpg_vl.data.recipes.digits import digits
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.prompts import AnswerOnly
from gpg_vl.run_folder import RunFolder, environment, evaluation_path, image_name, write_header
from gpg_vl.training.metrics import held_out_figures, step_metrics, step_statistics
from gpg_vl.types import Completion, Group, LeftOut, Prompt, Sample, Update, Verdict
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.dispatch import VerifierSet
from gpg_vl.verifiers.label import Label
from gpg_vl.verifiers.number import Number
from tests import drawn_scenes
from tests.hostile_texts import HOSTILE

SECONDS = 8.0
"""Seconds that a step of a made run took."""
MOMENTS = ("before", "000020", "after", "blank")
"""Evaluations of a finished run: the last is a control with grey pictures."""
LARGE_STEPS, LARGE_GROUPS, LARGE_ANSWERS = 3000, 32, 8
"""Size of the large run."""
WORDS = ("the", "digit", "in", "this", "picture", "looks", "like", "a", "loop")
VARIANTS = 100
"""Different files of answers of the large run; the others are links to them."""


# --- kinds of run ---------------------------------------------------------------------------------


def finished(folder: Path, name: str = "made") -> Path:
    """Write a finished run of 40 steps with evaluations before, within and after it."""
    return make(folder, name)


def running(folder: Path) -> Path:
    """Write a run that is at step 24 of 80: the last line of two files is not whole yet."""
    run = make(folder, "running", steps=24, total=80, moments=MOMENTS[:2], seconds_ago=1)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "time": "2026-')
    written = (run / "rollouts" / "000024.jsonl.gz").read_bytes()
    (run / "rollouts" / "000025.jsonl.gz").write_bytes(written[: len(written) // 2])
    return run


def crashed(folder: Path) -> Path:
    """Write a run that ended two days ago at step 17 of 80, with the batch that went wrong."""
    run = make(folder, "crashed", steps=17, total=80, moments=["before"], seconds_ago=2 * 86400)
    groups = groups_of(samples(), 18, 0.3)
    RunFolder(run).dump(18, "non-finite gradient", groups, weights_of(groups))
    return run


def without_evaluation(folder: Path) -> Path:
    """Write a finished run that evaluated nothing."""
    return make(folder, "unevaluated", steps=10, moments=[])


def text_only(folder: Path) -> Path:
    """Write a finished run about sums: there is no picture."""
    return make(folder, "sums", steps=10, asked=list(digits("add", count=60)))


def several_pictures(folder: Path) -> Path:
    """Write a finished run whose questions are about two pictures each."""
    return make(folder, "pairs", steps=10, asked=list(digits("compare", count=40)), pictures="all")


def several_processes(folder: Path) -> Path:
    """Write a finished run of three processes, each with files of its own."""
    return make(folder, "processes", steps=10, processes=3, pictures="all")


def copied(folder: Path) -> Path:
    """Write a finished run elsewhere and move it: no path in it leads anywhere any more."""
    made = make(folder / "elsewhere", "copied", steps=10)
    shutil.move(made, folder / "copied")
    shutil.rmtree(folder / "elsewhere")
    return folder / "copied"


def old(folder: Path) -> Path:
    """Write a run as the first release did.

    Pictures are bare names, boxes are not given in pixels, rows have no time and no source, NaN is
    a token of JSON, and there is neither a list of pictures nor one of starts.
    """
    run = make(folder, "old", steps=10, moments=["before", "after"])
    for file in (run / "rollouts").iterdir():
        rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
        lines = [json.dumps(_aged(row), ensure_ascii=False) + "\n" for row in rows]
        file.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    lines = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        del row["time"]
        if "warmup/step" not in row:
            lines.append(json.dumps({**row, "alpha": float("nan")}) + "\n")
    (run / "metrics.jsonl").write_text("".join(lines))
    packages = json.loads((run / "environment.json").read_text())["packages"]
    (run / "environment.json").write_text(json.dumps({"python": "3.11.7", "packages": packages}))
    (run / "pictures.jsonl").unlink()
    return run


NEW = ("boxes_pixels", "weight")
"""Columns of an answer that the first release did not have."""


def _aged(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of answers as the first release wrote it."""
    aged = {key: row[key] for key in ("draw", "used", "id", "question", "truth", "tags")}
    aged["images"] = [Path(image["file"] or "0.png").name for image in row["images"]]
    aged["answers"] = []
    for answer in row["answers"]:
        aged["answers"].append({key: answer[key] for key in answer if key not in NEW})
    return aged


def drawn(folder: Path) -> tuple[Path, list[drawn_scenes.Scene]]:
    """Write a run of one step that asks about drawn scenes; all pictures are kept."""
    scenes = list(drawn_scenes.scenes())
    groups: list[Group] = []
    for draw, scene in enumerate(scenes):
        judges = verifiers(scene.model_frame)
        answers = [completion(scene.text), completion("<answer>nowhere</answer>")]
        groups.append(group(scene.sample, draw, answers, judges))
    run = _begin(folder, "drawn", total=1)
    _log(run, "all").rollouts(1, groups, groups, weights_of(groups))
    _log(run).metrics(1, numbers(1, groups))
    return run, scenes


def hostile(folder: Path) -> Path:
    """Write a run whose every text is one that a careless page trips over."""
    run = _begin(folder, "hostile", total=1, hostile=True)
    groups: list[Group] = []
    for draw, (name, text) in enumerate(HOSTILE.items()):
        sample = replace(
            samples()[draw], id=f"{name} {text}", question=text, source=text, answer=text
        )
        sample = replace(sample, answer_kind="label", tags={"task": text[:200], text[:99]: text})
        answers = tuple(completion(written) for written in (text, f"<answer>{text}</answer>"))
        verdicts = (
            Verdict(reward=0.0, parts={text[:50]: 0.0}, answer=text, reason=f"malformed: {text}"),
            Verdict(reward=1.0, parts={text[:50]: 1.0}, answer=text, reason="right"),
        )
        asked = Prompt(sample=sample, text=text, input_ids=(1,), features={})
        groups.append(
            Group(prompt=asked, completions=answers, verdicts=verdicts, prompt_index=draw)
        )
    log = _log(run, "all")
    log.rollouts(1, groups, groups, weights_of(groups))
    log.metrics(1, {**numbers(1, groups), f"reward/{HOSTILE['script']}": 0.5})
    log.unused_rows([LeftOut(text, text, text) for text in HOSTILE.values()])
    for when, greedy in (("before", 0.0), ("after", 1.0)):
        made = [_hostile_record(name, text, greedy) for name, text in HOSTILE.items()]
        records.save(made, evaluation_path(run, "hostile", when))
    return run


def _hostile_record(name: str, text: str, greedy: float) -> Record:
    return Record(
        id=f"{name} {text}",
        source=text,
        tag=text,
        question=text,
        truth=text,
        images=[text[:200]],
        greedy=greedy,
        text=text,
        answer=text,
        reason=f"malformed: {text}",
        texts=[text],
        each=[greedy],
        tags={"task": text},
        about={"model": text},
    )


def large(folder: Path) -> Path:
    """Write a run of 3,000 steps with 32 questions of 8 answers of 300 characters each.

    Its files of answers are links to a hundred different ones.
    """
    run = _begin(folder, "large", total=LARGE_STEPS)
    log = _log(run)
    rows: list[dict[str, float]] = []
    for step in range(1, VARIANTS + 1):
        groups = _large_groups(step)
        log.rollouts(step, groups, groups, weights_of(groups))
        rows.append(numbers(step, groups, steps=VARIANTS))
    files = [run / "rollouts" / f"{step:06d}.jsonl.gz" for step in range(1, LARGE_STEPS + 1)]
    for place, file in enumerate(files[VARIANTS:]):
        os.link(files[place % VARIANTS], file)
    for step in range(1, LARGE_STEPS + 1):
        log.metrics(step, rows[(step - 1) * VARIANTS // LARGE_STEPS])
    for when, step in (("before", 0), ("001000", 1000), ("002000", 2000), ("after", LARGE_STEPS)):
        _evaluate(run, when, step, LARGE_STEPS, samples() * 8)
    return run


def _large_groups(step: int) -> list[Group]:
    """Return a step of the large run; the first two questions have pictures of their own."""
    rng = random.Random(step)
    known = samples()
    groups: list[Group] = []
    for place in range(LARGE_GROUPS):
        draw = (step - 1) * LARGE_GROUPS + place
        sample = known[draw % len(known)]
        if place < 2:
            sample = replace(sample, images=(photograph(draw),), sizes=((640, 480),))
        completions, verdicts = [], []
        for _ in range(LARGE_ANSWERS):
            right = rng.random() < 0.2 + 0.6 * step / VARIANTS
            words = " ".join(
                rng.choices(
                    ["the", "digit", "in", "this", "picture", "looks", "like", "a", "loop"], k=55
                )
            )
            text = f"<think>{words}</think><answer>{sample.answer if right else 'no'}</answer>"
            completions.append(completion(text))
            verdicts.append(Verdict(reward=float(right), answer="no", reason="wrong"))
        groups.append(
            Group(
                prompt=_prompt(sample),
                completions=tuple(completions),
                verdicts=tuple(verdicts),
                prompt_index=draw,
            )
        )
    return groups


def photograph(number: int) -> bytes:
    """Return a JPEG of 640 x 480 pixels with as much detail as a photograph has."""
    noise = random.Random(number).randbytes(160 * 120 * 3)
    picture = Image.frombytes("RGB", (160, 120), noise).resize((640, 480))
    return drawn_scenes.encoded(picture, "JPEG", quality=80)


# --- a run, step by step --------------------------------------------------------------------------


def make(
    folder: Path,
    name: str,
    *,
    steps: int = 40,
    total: int | None = None,
    asked: Sequence[Sample] = (),
    moments: Iterable[str] = MOMENTS,
    pictures: Any = "sample",
    processes: int = 1,
    seconds_ago: float = 3600,
) -> Path:
    """Write a run whose pretended model gets better from step to step.

    Args:
        folder: folder of the run folders.
        steps: steps that were taken.
        total: steps that the config asks for; None = those that were taken.
        asked: questions; empty = those of `samples`.
        moments: evaluations: before, after, blank, or the number of a step.
        processes: each writes a file of answers per step.
        seconds_ago: time since the last row was written.
    """
    asked = list(asked) or samples()
    total = total or steps
    run = _begin(folder, name, total=total)
    logs = [_log(run, pictures, rank) for rank in range(processes)]
    logs[0].unused_rows([LeftOut("digits/17", "its picture cannot be read", "digits")])
    moments = list(moments)
    if "before" in moments:
        logs[0].held_out(0, _evaluate(run, "before", 0, total, asked))
    for step in range(1, steps + 1):
        groups = groups_of(asked, step, 0.1 + 0.8 * step / total)
        for rank, log in enumerate(logs):
            own = groups[rank::processes]
            log.rollouts(step, own, own, weights_of(own))
        logs[0].metrics(step, numbers(step, groups, steps=total))
        if f"{step:06d}" in moments:
            logs[0].held_out(step, _evaluate(run, f"{step:06d}", step, total, asked))
            _checkpoint(run, step)
    for when in ("after", "blank"):
        if when in moments:
            figures = _evaluate(run, when, steps, total, asked)
            if when == "after":
                logs[0].held_out(steps, figures)
    _checkpoint(run, steps)
    _set_times(run, datetime.now(UTC) - timedelta(seconds=seconds_ago))
    return run


def _begin(folder: Path, name: str, *, total: int, hostile: bool = False) -> Path:
    """Begin a run folder with a config, an environment and the losses of a warm-up."""
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / name
    config = loading.load("digits", [f"name={name}", f"steps={total}", f"folder={folder}"])
    written = loading.dump(config)
    machine = environment(
        threads=1, device="cpu", processes=1, config_folder=str(config.base_dir), gpus=[], cuda=None
    )
    if hostile:
        text = HOSTILE["script"] + HOSTILE["attribute"]
        written = yaml.safe_dump({**yaml.safe_load(written), "name": text})
        machine["starts"][0]["command"] = f"gpg-vl train 'name={text}'"
    write_header(run, written, machine)
    warmup: list[Mapping[str, Any]] = []
    for step in range(1, 11):
        loss = {"warmup/loss": 3 / step, "warmup/grad_norm": 2 / step, "warmup/lr": 0.001}
        warmup.append({"time": datetime.now(UTC).isoformat(), "warmup/step": step, **loss})
    _log(run).begin(warmup)
    return run


def _log(run: Path, pictures: Any = "sample", rank: int = 0) -> RunFolder:
    return RunFolder(run, rank=rank, pictures=pictures, true_boxes=verifiers().true_boxes)


def _checkpoint(run: Path, step: int) -> None:
    """Write as much of a checkpoint as a report looks at."""
    folder = run / "checkpoints" / f"{step:06d}"
    (folder / "policy").mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"step": step, "score": None, "lost": 0}))


def _set_times(run: Path, last: datetime) -> None:
    """Date the rows of `metrics.jsonl` so that the last was written at a given time."""
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    steps = rows[-1]["step"]
    lines: list[str] = []
    for row in rows:
        time = last - timedelta(seconds=SECONDS * (steps - row["step"]))
        lines.append(json.dumps({**row, "time": time.isoformat(timespec="milliseconds")}) + "\n")
    path.write_text("".join(lines))


def numbers(step: int, groups: Sequence[Group], *, steps: int = 40) -> dict[str, float]:
    """Return the numbers of a step: those of the answers are counted, the others made up."""
    rng = random.Random(step)
    update = {
        "loss": rng.gauss(0, 0.05),
        "grad_norm": rng.uniform(0.5, 1.5),
        "entropy": 0.6 - 0.4 * step / steps,
        "trained_tokens": 900.0,
        "lr": 1e-4,
        "clipped": float(rng.random() < 0.2),
        "memory_splits": 0.0,
    }
    shares = {"encode": 0.05, "sample": 0.6, "score": 0.05, "update": 0.3}
    row = step_metrics(
        step_statistics(groups, groups, 1.0),
        Update(metrics=update),
        rounds=1,
        alpha=1.0,
        seconds={phase: SECONDS * share for phase, share in shares.items()},
    )
    if step % 20 == 0:
        row |= {"gate/mean": 1e-7, "gate/allowed": 1e-5, "gate/worst": 1e-6, "gate/excess": 0.1}
        row |= {"gate/allowed_worst": 1e-4, "visual_reliance": 0.4 + 0.5 * step / steps}
    return {**row, "lost": 0.0}


# --- questions, answers, verdicts -----------------------------------------------------------------


@cache
def _digit_scenes() -> tuple[Sample, ...]:
    tasks = [
        [replace(one, source="digits") for one in digits("count", count=20, difficulty=12)],
        [replace(one, source="digits (2)") for one in digits("choice", count=20, difficulty=3)],
        [replace(one, source="digits (3)") for one in digits("box", count=20, difficulty=1)],
    ]
    return tuple(sample for turn in zip(*tasks, strict=True) for sample in turn)


def samples() -> list[Sample]:
    """Return 60 questions of the tasks count, choice and box in turn."""
    return list(_digit_scenes())


@cache
def verifiers(frame: Frame = FAMILIES["qwen2_5_vl"]) -> VerifierSet:
    """Return the verifiers of a model that writes boxes in a frame."""
    style = AnswerOnly()
    return VerifierSet(
        by_kind={
            "number": Number(style=style),
            "choice": Choice(style=style),
            "boxes": Boxes(style=style, frame=frame),
            "label": Label(style=style),
        }
    )


def groups_of(asked: Sequence[Sample], step: int, skill: float, count: int = 8) -> list[Group]:
    """Return the groups of a step: four answers to each of some questions.

    Args:
        skill: share of the answers that are right.
    """
    rng = random.Random(step)
    groups: list[Group] = []
    for place in range(count):
        draw = (step - 1) * count + place
        sample = asked[draw % len(asked)]
        answers = [completion(answer_to(sample, skill, rng)) for _ in range(4)]
        groups.append(group(sample, draw, answers, verifiers()))
    return groups


def answer_to(sample: Sample, skill: float, rng: random.Random) -> str:
    """Return an answer of the pretended model: right, wrong, or without its tags."""
    if rng.random() < 0.05:
        return f"<answer><answer>{rng.randint(0, 9)}</answer>"
    if sample.answer_kind == "boxes":
        shift = 0 if rng.random() < skill else rng.randint(4, 16)
        box = Box(*(min(edge + shift, 56) for edge in sample.answer[0]))
        return f"<answer>{write(box)}</answer>"
    if rng.random() < skill:
        return f"<answer>{sample.answer}</answer>"
    wrong = rng.choice(sample.choices) if sample.choices else str(rng.randint(0, 9))
    return f"<answer>{wrong}</answer>"


def completion(text: str) -> Completion:
    """Return an answer with a token for every four characters."""
    length = min(len(text), 4000) // 4 + 1
    return Completion(
        token_ids=tuple(range(300, 300 + length)),
        logprobs=(-0.25,) * length,
        text=text,
        finish="stop",
        version=0,
    )


def group(sample: Sample, draw: int, answers: Sequence[Completion], judges: VerifierSet) -> Group:
    """Return a group whose verdicts are those of the real verifiers."""
    verdicts = tuple(judges.judge(answer, sample) for answer in answers)
    return Group(
        prompt=_prompt(sample),
        completions=tuple(answers),
        verdicts=verdicts,
        prompt_index=draw,
    )


def weights_of(groups: Iterable[Group]) -> list[list[float]]:
    """Return the weights of the answers: reward less the mean of the group."""
    weights: list[list[float]] = []
    for one in groups:
        mean = sum(one.rewards) / len(one.rewards)
        weights.append([reward - mean for reward in one.rewards])
    return weights


def _prompt(sample: Sample) -> Prompt:
    return Prompt(sample=sample, text=sample.question, input_ids=(1,), features={})


def _evaluate(
    run: Path, when: str, step: int, total: int, asked: Sequence[Sample]
) -> dict[str, float]:
    """Write the records of an evaluation, and return the figures of `metrics.jsonl`."""
    is_blank = when == "blank"
    skill = 0.15 if is_blank else 0.15 + 0.7 * step / total
    made: list[Record] = []
    for place, sample in enumerate(asked):
        made.append(_record(sample, place, skill, step, is_blank))
    records.save(made, evaluation_path(run, "digits", when))
    return held_out_figures(made, None)


def _record(sample: Sample, place: int, skill: float, step: int, is_blank: bool) -> Record:
    """Return the record of a question; with more skill the same questions stay right."""
    rng = random.Random(place)
    text = answer_to(sample, float(rng.random() < skill), rng)
    verdict = verifiers().judge(completion(text), sample)
    return Record(
        id=f"{sample.id}/{place}",
        source=sample.source,
        tag=sample.tags["task"],
        question=sample.question,
        choices=sample.choices,
        kind=sample.answer_kind,
        truth=sample.answer,
        images=[image_name(image) for image in sample.images if isinstance(image, bytes)],
        greedy=verdict.parts["accuracy"],
        sampled=verdict.reward,
        text=text,
        answer=verdict.answer,
        reason=verdict.reason,
        well_formed=verdict.parts["format"],
        each=[verdict.reward],
        texts=[text],
        tags=sample.tags,
        settings={"benchmark": "digits", "mode": "strict", "blank": is_blank},
        about={"model": f"made, step {step}", "seed": 0},
    )


KINDS: dict[str, Callable[[Path], Path]] = {
    "finished": finished,
    "running": running,
    "crashed": crashed,
    "without_evaluation": without_evaluation,
    "text_only": text_only,
    "several_pictures": several_pictures,
    "several_processes": several_processes,
    "copied": copied,
    "old": old,
    "hostile": hostile,
}
"""Name of a kind -> what writes such a run into a folder."""
