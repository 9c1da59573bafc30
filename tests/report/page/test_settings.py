"""What a page says of how a run was made."""

from dataclasses import replace

import pytest

from gpg_vl.config.loading import load
from gpg_vl.report.page.read import read_run
from gpg_vl.report.page.settings import differences, leaves, moment, run_part
from tests import made_runs


def test_only_what_differs_from_the_defaults_is_a_setting():
    config = load("digits", ["steps=7", "rollout.group_size=4"]).model_dump(mode="json")
    found = {setting.key: setting for setting in differences(config)}
    assert (found["steps"].value, found["steps"].default) == ("7", "100")
    assert (found["rollout.group_size"].value, found["rollout.group_size"].default) == ("4", "8")
    assert "seed" not in found
    assert not {"name", "folder", "data"} & {*found}
    assert "split" not in found["warmup.data"].value, "sources are shown without their defaults"
    assert "difficulty: 12" in found["warmup.data"].value


def test_a_setting_of_another_release_has_no_default():
    (setting,) = differences({"lost_knob": 3, "steps": 100})
    assert (setting.key, setting.value, setting.default) == ("lost_knob", "3", "")
    assert differences({}) == []


def test_settings_have_the_names_that_are_typed():
    assert dict(leaves({"a": {"b": {"c": 1}, "d": {}}, "e": [1]})) == {
        "a.b.c": 1,
        "a.d": {},
        "e": [1],
    }


def test_rows_that_are_left_out_are_grouped_by_their_reason(tmp_path):
    run = read_run(made_runs.finished(tmp_path))
    rows = [{"why": "no image", "source": "s", "id": str(n)} for n in range(5)]
    part = run_part(replace(run, left_out=[*rows, {"why": "too long", "id": "x"}]))
    assert part.left_out_count == 6
    first, second = part.left_out
    assert (first.why, first.count, list(first.examples)) == ("no image", 5, ["s 0", "s 1", "s 2"])
    assert (second.why, second.count, list(second.examples)) == ("too long", 1, ["x"])


def test_phases_by_hand(tmp_path):
    run = read_run(made_runs.finished(tmp_path))
    steps = [
        {"step": 1, "seconds": 4.0, "seconds/sample": 3.0, "seconds/update": 1.0},
        {"step": 2, "seconds": 4.0, "seconds/sample": 3.0, "seconds/update": None},
    ]
    part = run_part(replace(run, steps=steps))
    assert [(phase.name, phase.seconds) for phase in part.phases] == [
        ("sample", "6 s"),
        ("update", "1 s"),
    ]
    assert [phase.share for phase in part.phases] == pytest.approx([6 / 7, 1 / 7])
    assert dict(part.figures)["seconds per step"] == "4"


def test_a_run_that_is_not_finished_says_how_it_goes_on(tmp_path):
    uses = [words for _, words in run_part(read_run(made_runs.crashed(tmp_path))).uses]
    assert uses[0].startswith("gpg-vl train --resume ")
    done = made_runs.finished(tmp_path)
    finished = [words for _, words in run_part(read_run(done)).uses]
    assert not [words for words in finished if "--resume" in words]
    assert any(words.startswith("gpg-vl export ") for words in finished)


def test_a_run_without_anything_has_nothing_to_say(tmp_path):
    run = read_run(made_runs.finished(tmp_path))
    empty = replace(run, config={}, environment={}, steps=[], left_out=[], warmup=[], held_out=[])
    part = run_part(empty)
    assert (part.settings, part.data, part.left_out, part.phases, part.starts) == ([],) * 5


def test_a_moment_is_in_utc():
    assert moment("2026-12-01T02:06:30+02:00") == "2026-12-01 00:06"
    assert moment("yesterday") == "yesterday"
