"""The command `report`: where the page is written, and what is said of a mistake."""

import pytest

from tests import made_runs
from tests.commands import gpg_vl


def test_the_page_of_a_run_is_in_its_folder(tmp_path):
    run = made_runs.finished(tmp_path)
    done = gpg_vl("report", run)
    assert done.returncode == 0
    assert done.stdout == f"open it in a browser: {run / 'report.html'}\n"
    assert (run / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert gpg_vl("report", run).returncode == 0, "a page is written over"


def test_a_checkpoint_leads_to_its_run(tmp_path):
    run = made_runs.finished(tmp_path)
    done = gpg_vl("report", run / "checkpoints" / "000040", "--no-pictures")
    assert done.stdout.strip().endswith(str(run / "report.html"))


def test_several_runs_are_one_page_here(tmp_path):
    runs = [made_runs.finished(tmp_path, name) for name in ("one", "two")]
    assert gpg_vl("report", *runs, cwd=tmp_path).returncode == 0
    assert "<title>one, two</title>" in (tmp_path / "report.html").read_text("utf-8")
    assert gpg_vl("report", "--compare", *runs, cwd=tmp_path).returncode == 0
    assert "<title>one and two</title>" in (tmp_path / "comparison.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("made2",), "RUN made2: there is no such folder"),
        (("--compare", "made"), "--compare: got 1 of two"),
        (("--compare", "made", "made", "made"), "--compare: got 3 of two"),
        (("made", "--to", "no/page.html"), "--to no/page.html: there is no folder no"),
        (("made", "--to", "notes.txt"), "--to notes.txt: is there and no page of gpg-vl report"),
    ],
)
def test_a_mistake_is_a_sentence(words, said, tmp_path):
    made_runs.finished(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    done = gpg_vl("report", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpg-vl: {said}")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_written_names_the_option(tmp_path, monkeypatch):
    run = made_runs.finished(tmp_path)
    (run / "report.html").mkdir()
    done = gpg_vl("report", run)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("write it elsewhere with --to FILE")
