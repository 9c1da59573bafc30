"""The page as a file: well-formed, whole, bounded, and never in the place of another file."""

import base64
import gzip
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from gpg_vl.errors import UserError
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.report.page import write
from gpg_vl.report.page.write import GENERATOR, check_replaceable, write_comparison, write_page
from tests import made_runs
from tests.hostile_texts import HACK


class Parsed(HTMLParser):
    """Ids, links within a page, and its scripts."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.targets, self.scripts = [], set(), []
        self.attributes = []
        self._in_script = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.attributes += given
        if "id" in given:
            self.ids.append(given["id"])
        if (given.get("href") or "").startswith("#"):
            self.targets.add(given["href"][1:])
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data


def page_of(run, **options):
    return write_page([run], run / "report.html", **options).read_text("utf-8")


def data_of(html):
    (packed, _) = Parsed(html).scripts
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def record_files(folder, *greedy, **fields):
    files = []
    for number, value in enumerate(greedy):
        given = {"id": "1", "tag": "t", "text": "", "answer": "", "reason": "", **fields}
        files.append(folder / f"{number}.jsonl")
        records.save([Record(greedy=value, **given)], files[-1])
    return files


@pytest.mark.parametrize("kind", made_runs.KINDS)
def test_every_kind_of_run_has_a_page_whose_links_lead_somewhere(kind, tmp_path):
    html = page_of(made_runs.KINDS[kind](tmp_path))
    parsed = Parsed(html)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.targets <= {*parsed.ids}
    assert len(parsed.scripts) == 2, "the data and the script of the page, and no other"
    assert not [name for name in parsed.attributes if name.startswith("on")]
    data = data_of(html)
    assert len(data["runs"][0]["groups"]) > 0
    shown = {image["key"] for group in data["runs"][0]["groups"] for image in group["images"]}
    assert shown - {""} <= {*data["pictures"]}


def test_the_policy_lets_the_script_of_the_page_run_and_no_other(tmp_path):
    html = page_of(made_runs.hostile(tmp_path))
    digest = base64.b64encode(hashlib.sha256(Parsed(html).scripts[1].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy, "a page that is not live asks nobody"


def test_hostile_texts_are_text(tmp_path):
    html = page_of(made_runs.hostile(tmp_path))
    without_data = html.replace(Parsed(html).scripts[0], "")
    assert f"<script>{HACK}" not in without_data
    assert "<img src=x" not in without_data
    assert "<iframe" not in without_data
    assert HACK in json.dumps(data_of(html)), "it is shown, as a text"


def test_a_page_without_pictures_has_none(tmp_path):
    run = made_runs.finished(tmp_path)
    assert "data:image/webp" in json.dumps(data_of(page_of(run)))
    data = data_of(page_of(run, pictures=False))
    assert data["pictures"] == {}
    entries = [*data["runs"][0]["groups"], *data["benchmarks"][0]["items"]]
    assert {image["key"] for entry in entries for image in entry["images"]} == {""}
    assert not [image["full"] for entry in entries for image in entry["images"] if image["full"]]


def test_a_page_that_would_be_too_large_shows_fewer_groups_up_to_the_last_step(
    tmp_path, monkeypatch
):
    run = made_runs.finished(tmp_path)
    whole = page_of(run)
    monkeypatch.setattr(write, "MAX_BYTES", int(0.8 * len(whole.encode())))
    html = page_of(run)
    assert len(html.encode()) <= write.MAX_BYTES
    (all_groups, fewer) = (data_of(page)["runs"][0]["groups"] for page in (whole, html))
    assert 0 < len(fewer) < len(all_groups)
    assert fewer[-1]["step"] == all_groups[-1]["step"] == 40
    assert f"{len(fewer)} of the {len(all_groups)} groups" in data_of(html)["runs"][0]["note"]
    assert len(data_of(html)["benchmarks"][0]["items"]) < len(
        data_of(whole)["benchmarks"][0]["items"]
    )


def test_two_runs_share_a_page(tmp_path):
    runs = [made_runs.finished(tmp_path, name) for name in ("one", "two")]
    html = write_page(runs, tmp_path / "both.html").read_text("utf-8")
    data = data_of(html)
    assert [run["name"] for run in data["runs"]] == ["one", "two"]
    assert "<title>one, two</title>" in html
    assert all(len(run["groups"]) <= 1000 for run in data["runs"])


def test_two_files_of_records_are_compared(tmp_path):
    files = record_files(tmp_path, 0.0, 1.0)
    html = write_comparison(*files, tmp_path / "c.html").read_text("utf-8")
    parsed = Parsed(html)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert parsed.targets <= {*parsed.ids}
    (part,) = data_of(html)["benchmarks"]
    assert part["changes"] == {"turned right": 1}
    assert [answer["score"] for answer in part["items"][0]["answers"]] == [0.0, 1.0]


def test_other_questions_are_not_compared(tmp_path):
    (first,) = record_files(tmp_path, 0.0, digest="a")
    first.rename(tmp_path / "first.jsonl")
    (second,) = record_files(tmp_path, 1.0, digest="b")
    with pytest.raises(UserError, match="with another question or truth"):
        write_comparison(tmp_path / "first.jsonl", second, tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_the_old_page_stays_where_a_new_one_fails(tmp_path, monkeypatch):
    run = made_runs.finished(tmp_path)
    before = page_of(run)
    monkeypatch.setattr(write, "charts", lambda runs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        page_of(run)
    assert (run / "report.html").read_text("utf-8") == before


def test_only_pages_of_this_program_and_empty_files_are_written_over(tmp_path):
    file = tmp_path / "page.html"
    check_replaceable(file)
    file.write_text("")
    check_replaceable(file)
    file.write_text(f"<!doctype html>{GENERATOR}")
    check_replaceable(file)
    file.write_text("<p>my own</p>")
    with pytest.raises(UserError, match="not written over"):
        check_replaceable(file)


def test_no_torch_is_needed():
    program = (
        "import sys, gpg_vl.report.page.write, gpg_vl.report.page.watch\n"
        "assert not {'torch', 'transformers'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
