"""Run folders of real runs: valid JSON in every file, pictures that are there, and the page that
explains every number, compared in both directions."""

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from gpg_vl.config.schema import Source
from gpg_vl.data import rows as sample_rows
from gpg_vl.data.recipes.digits import digits
from gpg_vl.errors import UserError
from gpg_vl.evaluation.records import Record
from gpg_vl.run_folder import metric_rows
from tests.conftest import ROOT
from tests.training.test_train import run, small, train

PAGE = ROOT / "docs" / "reading_a_run.md"
OF_A_RUN = {
    "TASK": r"[^/]+",
    "PART": "(accuracy|format)",
    "PHASE": "(encode|sample|score|update|gate)",
}
"""Words of the page in capitals -> what stands in their place in a run."""
KL = ("estimator.kind=grpo", "estimator.kl=0.1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """Runs of the small config: as it is, with a divergence, on files, with steps that are not
    finite, and with a verifier that fails. The warm-up is made once."""
    folder = tmp_path_factory.mktemp("runs")
    whole = run(folder, "name=whole", "run_folder.pictures=all")
    with_kl = run(folder, "name=kl", "steps=1", *KL)
    sample_rows.write(digits("box", count=8, difficulty=1), folder / "rows")
    knobs = ("name=files", "steps=1", "warmup.steps=0", "evaluation.benchmark=null")
    source = Source(files=str(folder / "rows" / "samples.jsonl"))
    on_files = train(small(folder, *knobs).model_copy(update={"data": (source,)}))
    with pytest.MonkeyPatch.context() as patch:
        nan = torch.tensor(float("nan"))
        patch.setattr("gpg_vl.training.learner._clip", lambda *given: nan)
        with pytest.raises(UserError, match="non-finite"):
            run(folder, "name=bad", "steps=20", "rollout.idle_steps=20", "rollout.carry_over=1")
    (folder / "broken.py").write_text(
        "def broken(text, sample):\n    raise TypeError('no such column')\n\n\n"
        "def build():\n    return broken\n"
    )
    broken = {"kind": f"{folder / 'broken.py'}:build"}
    failing = small(
        folder, "name=failing", "steps=2", "evaluation.benchmark=null", "rollout.max_faults=1"
    )
    failing = failing.model_copy(update={"verifiers": dict.fromkeys(("boxes", "choice"), broken)})
    return {
        "whole": whole,
        "kl": with_kl,
        "files": on_files,
        "bad": folder / "bad",
        "failing": train(failing),
    }


def documents(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every text of JSON below a folder, line by line where a file has lines."""
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(".jsonl.gz"):
            for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]:
                yield path, line
        elif path.suffix == ".jsonl":
            for line in path.read_text("utf-8").split("\n")[:-1]:
                yield path, line
        elif path.suffix == ".json":
            yield path, path.read_text("utf-8")


def test_every_file_is_json_for_every_parser(runs):
    def refuse(token: str) -> None:
        raise ValueError(token)

    read: set[str] = set()
    offences: list[str] = []
    for folder in runs.values():
        for path, text in documents(folder):
            read.add(path.name)
            try:
                json.loads(text, parse_constant=refuse)
            except ValueError as error:
                offences.append(f"{path.relative_to(folder.parent)}: {error}")
    assert offences == []
    assert {
        "metrics.jsonl",
        "000001.jsonl.gz",
        "000001.json",
        "environment.json",
        "identity.json",
        "state.json",
        "pictures.jsonl",
        "small-before.jsonl",
    } <= read


def test_what_is_not_finite_or_not_scored_is_null(runs):
    assert [row["grad_norm"] for row in metric_rows(runs["bad"])][-1] is None
    rewards: list[Any] = []
    for path, text in documents(runs["failing"] / "rollouts"):
        del path
        rewards += [answer["reward"] for answer in json.loads(text)["answers"]]
    assert None in rewards


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for _, text in documents(folder / "rollouts")]


def test_a_row_names_only_pictures_that_are_there(runs):
    named: set[str] = set()
    for folder in runs.values():
        for row in rows_of(folder):
            for image in row["images"]:
                if image["file"]:
                    assert (folder / image["file"]).is_file()
                    named.add(image["file"])
                else:
                    assert image["why"] == "run_folder.pictures = sample"
    assert named
    rows = rows_of(runs["whole"])
    assert all(image["file"] for row in rows for image in row["images"]), "all are kept"
    listed = (runs["whole"] / "pictures.jsonl").read_text().splitlines()
    assert {json.loads(line)["file"] for line in listed} == {
        path.name for path in (runs["whole"] / "images").iterdir()
    }
    originals = [image["original"] for row in rows_of(runs["files"]) for image in row["images"]]
    assert originals
    assert all(Path(name).is_absolute() and Path(name).is_file() for name in originals)


def test_boxes_of_drawn_scenes_are_where_they_were_drawn(runs):
    """Scenes keep their truth in pixels."""
    boxed = [row for row in rows_of(runs["whole"]) if row["tags"]["task"] == "box"]
    assert boxed
    for row in boxed:
        assert row["truth_pixels"] == row["truth"]
        assert all("boxes_pixels" in answer for answer in row["answers"])
    others = [row for row in rows_of(runs["whole"]) if row["tags"]["task"] != "box"]
    assert others
    assert not any("truth_pixels" in row for row in others)


def test_each_kind_of_row_is_written_at_its_step(runs):
    whole = runs["whole"]
    assert [row["step"] for row in metric_rows(whole)] == [1, 2, 3, 4]
    held_out = metric_rows(whole, "held_out")
    assert [row["step"] for row in held_out] == [0, 2, 4]
    assert [row["held_out/questions"] for row in held_out] == [20, 8, 20]
    warmup = metric_rows(whole, "warmup")
    assert [row["warmup/step"] for row in warmup] == [*range(1, 41)]
    assert warmup[-1]["warmup/loss"] < warmup[0]["warmup/loss"]
    read_from_the_cache = metric_rows(runs["kl"], "warmup")
    assert read_from_the_cache == warmup
    assert metric_rows(runs["files"], "warmup") == []
    for kind in ("step", "held_out", "warmup"):
        assert all(row["time"].endswith("+00:00") for row in metric_rows(whole, kind))


def test_the_score_of_a_checkpoint_is_in_its_row(runs):
    for row in metric_rows(runs["whole"], "held_out")[1:]:
        state = runs["whole"] / "checkpoints" / f"{row['step']:06d}" / "state.json"
        assert json.loads(state.read_text())["score"] == row["held_out/score"]


# --- the page -------------------------------------------------------------------------------------


def first_column(begin: str, end: str) -> list[str]:
    """Return the names in the first column of the tables of a part of the page."""
    part = PAGE.read_text().split(f"\n{begin}\n")[1].split(f"\n{end}\n")[0]
    names: list[str] = []
    for line in part.splitlines():
        if line.startswith("| `"):
            names += re.findall(r"`([^`]+)`", line.split("|")[1])
    return names


def written_metrics(runs: dict[str, Path]) -> set[str]:
    names: set[str] = set()
    for folder in runs.values():
        for line in (folder / "metrics.jsonl").read_text().splitlines():
            names |= json.loads(line).keys()
    return names - {"step", "time"}


def pattern(name: str) -> str:
    for word, meaning in OF_A_RUN.items():
        name = name.replace(word, meaning)
    return name


def test_every_metric_is_explained_and_every_explained_one_is_written(runs):
    explained = first_column("## metrics.jsonl", "## rollouts")
    assert len(explained) == len(set(explained)), "each once"
    written = written_metrics(runs)
    by_name = {name for name in explained if name in written}
    patterns = [pattern(name) for name in explained if name not in by_name]
    unexplained = [
        name
        for name in written - by_name
        if not any(re.fullmatch(known, name) for known in patterns)
    ]
    assert unexplained == [], f"explain them in {PAGE.name}"
    never_written = [
        known for known in patterns if not any(re.fullmatch(known, name) for name in written)
    ]
    assert never_written == [], f"take them out of {PAGE.name}"


def test_every_field_of_the_state_of_a_checkpoint_is_explained(runs):
    explained = first_column("## state.json", "nothing follows")
    states = [path for folder in runs.values() for path in folder.glob("checkpoints/*/state.json")]
    assert states
    for path in states:
        assert sorted(json.loads(path.read_text())) == sorted(explained)


def test_every_field_of_a_row_of_rollouts_is_explained(runs):
    explained = set(first_column("## rollouts", "## evaluation"))
    written: set[str] = set()
    images: set[str] = set()
    for folder in runs.values():
        for row in rows_of(folder):
            written |= row.keys()
            for answer in row["answers"]:
                written |= answer.keys()
            for image in row["images"]:
                images |= image.keys()
    assert written == explained
    assert images == {"file", "original", "why", "size"}
    about_images = next(line for line in PAGE.read_text().splitlines() if "| `images` |" in line)
    assert all(f"`{name}`" in about_images for name in images)


def test_every_field_of_a_record_is_explained():
    explained = first_column("## evaluation", "## state.json")
    assert sorted(explained) == sorted(field.name for field in fields(Record))


def test_every_file_of_a_run_folder_is_explained(runs):
    explained = " ".join(first_column("## The files", "## metrics.jsonl"))
    found: set[str] = set()
    for folder in runs.values():
        found |= {path.name for path in folder.iterdir()}
    assert {name for name in found if name not in explained} == set()
