"""What a page reads of run folders of every kind."""

import gzip
import json
import time
from dataclasses import replace

import pytest

from gpg_vl.errors import UserError
from gpg_vl.evaluation.records import load, save
from gpg_vl.report.page.read import read_run
from gpg_vl.run_folder.json_lines import read_rows
from tests import made_runs
from tests.hostile_texts import HOSTILE


@pytest.mark.parametrize("kind", made_runs.KINDS)
def test_every_kind_of_run_is_read_without_a_problem(kind, tmp_path):
    contents = read_run(made_runs.KINDS[kind](tmp_path))
    assert not contents.problems
    assert contents.steps
    assert contents.groups
    assert contents.group_count == len(contents.groups)
    assert all(group.answers and group.row["images"] is not None for group in contents.groups)


def test_a_finished_run_has_its_evaluations_in_their_order(tmp_path):
    contents = read_run(made_runs.finished(tmp_path))
    assert contents.state == "finished"
    assert [one.when for one in contents.evaluations] == ["before", "000020", "after", "blank"]
    assert [one.step for one in contents.evaluations] == [0, 20, 40, 40]
    assert contents.checkpoints == [20, 40]
    assert {group.task for group in contents.groups} == {"count", "choice", "box"}
    assert len(contents.warmup) == 10
    assert contents.left_out[0]["id"] == "digits/17"


@pytest.mark.parametrize(
    ("kind", "state", "step"), [("running", "running", 24), ("crashed", "stopped", 17)]
)
def test_a_run_that_is_not_done_is_running_or_stopped(kind, state, step, tmp_path):
    contents = read_run(made_runs.KINDS[kind](tmp_path))
    assert (contents.state, contents.last_step, contents.total_steps) == (state, step, 80)


def test_a_file_that_is_cut_off_is_a_problem_unless_it_is_the_last(tmp_path):
    run = made_runs.running(tmp_path)
    whole = (run / "rollouts" / "000003.jsonl.gz").read_bytes()
    (run / "rollouts" / "000003.jsonl.gz").write_bytes(whole[:100])
    (problem,) = read_run(run).problems
    assert problem.startswith("rollouts/000003.jsonl.gz cannot be read: ")


def test_files_of_all_processes_are_read(tmp_path):
    run = made_runs.several_processes(tmp_path)
    assert len(list((run / "rollouts").glob("000001*"))) == 3
    assert [group.row["draw"] for group in read_run(run).groups] == list(range(80))


def test_pictures_of_an_old_run_are_found_where_they_are(tmp_path):
    run = made_runs.old(tmp_path)
    files = [group.row["images"][0]["file"] for group in read_run(run).groups]
    kept = [file for file in files if file]
    assert len(kept) >= 20, "two of each step are kept"
    assert len(kept) < len(files), "the others are not"
    assert all((run / file).is_file() for file in kept)


def test_pictures_of_a_copied_run_are_found(tmp_path):
    run = made_runs.copied(tmp_path)
    files = [image["file"] for group in read_run(run).groups for image in group.row["images"]]
    assert [file for file in files if file]
    assert all((run / file).is_file() for file in files if file)


def test_boxes_of_drawn_scenes_are_those_of_the_pictures(tmp_path):
    run, scenes = made_runs.drawn(tmp_path)
    groups = read_run(run).groups
    assert [group.row["question"] for group in groups] == [one.sample.question for one in scenes]
    for group, scene in zip(groups, scenes, strict=True):
        (true,) = group.row["truth_pixels"]
        (answered,) = group.answers[0]["boxes_pixels"]
        assert true == pytest.approx(scene.true, abs=0.01)
        assert answered == pytest.approx(scene.answered, abs=0.01)
        shown = group.row["images"][group.row["boxed_image"] - 1]
        assert tuple(shown["size"]) == scene.size


def test_hostile_texts_are_read_as_they_were_written(tmp_path):
    groups = read_run(made_runs.hostile(tmp_path)).groups
    assert [group.row["question"] for group in groups] == list(HOSTILE.values())


@pytest.mark.nightly
def test_a_large_run_is_written_and_sampled_in_seconds(tmp_path):
    start = time.monotonic()
    run = made_runs.large(tmp_path)
    assert time.monotonic() - start < 60
    with gzip.open(run / "rollouts" / "002999.jsonl.gz") as file:
        row = json.loads(file.readline())
    assert (len(row["answers"]), len(row["answers"][0]["text"]) > 250) == (8, True)
    contents = read_run(run)
    assert (contents.sampled_steps, contents.read_steps) == (3000, 250)
    assert len(contents.groups) == 2000
    assert (contents.groups[0].step, contents.groups[-1].step) == (1, 3000)
    assert len(read_rows(run / "metrics.jsonl")) == 3000 + 10


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        read_run(tmp_path)


def test_a_small_sample_reaches_the_last_step(tmp_path):
    run = made_runs.finished(tmp_path)
    steps = [group.step for group in read_run(run, max_groups=5).groups]
    assert (steps[0], steps[-1], len(steps)) == (1, 40, 5)


def test_a_run_that_is_known_to_have_ended_does_not_run(tmp_path):
    run = made_runs.running(tmp_path)
    assert read_run(run).state == "running"
    assert read_run(run, has_ended=True).state == "stopped"
    assert read_run(made_runs.finished(tmp_path), has_ended=True).state == "finished"


def test_tokens_are_counted_and_not_kept(tmp_path):
    run = made_runs.finished(tmp_path)
    answers = [answer for group in read_run(run).groups for answer in group.answers]
    assert all(answer["tokens"] > 0 for answer in answers)
    assert not any("token_ids" in answer or "logprobs" in answer for answer in answers)


def test_where_pictures_of_informative_groups_are_kept_they_choose_nothing(tmp_path):
    run = made_runs.finished(tmp_path)
    first = [group.row["draw"] for group in read_run(run, max_groups=40).groups]
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("pictures: sample", "pictures: informative"))
    assert "pictures: informative" in config.read_text()
    second = [group.row["draw"] for group in read_run(run, max_groups=40).groups]
    lowest = [min(row["draw"] for row in rows_of(run, step)) for step in range(1, 41)]
    assert second == lowest
    assert len(first) == len(second)


def rows_of(run, step):
    """The rows of a step as they were written."""
    with gzip.open(run / "rollouts" / f"{step:06d}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def test_an_evaluation_of_the_end_keeps_its_step_when_the_run_goes_on(tmp_path):
    run = made_runs.finished(tmp_path)
    for when, step in (("after", 40), ("000020", 20)):
        (file,) = (run / "evaluation").glob(f"*-{when}.jsonl")
        about = {"model": f"finished, step {step}"}
        save([replace(record, about=about) for record in load(file)], file)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 60, "time": "2026-12-01T00:00:00+00:00"}) + "\n")
    after = next(one for one in read_run(run).evaluations if one.when == "after")
    assert after.step == 40
