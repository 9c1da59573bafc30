"""The page as a file: well-formed, complete, and never in the place of another file."""

from html.parser import HTMLParser

import pytest

from gpg_vl.errors import UserError
from gpg_vl.evaluation import records
from gpg_vl.evaluation.records import Record
from gpg_vl.report.page.write import GENERATOR, check_replaceable, write_comparison


class Links(HTMLParser):
    """Ids and links within a page."""

    def __init__(self, html):
        super().__init__()
        self.ids, self.targets = [], set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if "id" in given:
            self.ids.append(given["id"])
        if (given.get("href") or "").startswith("#"):
            self.targets.add(given["href"][1:])


def test_every_link_of_a_page_of_two_files_of_records_has_its_target(tmp_path):
    for name, greedy in (("a", 0.0), ("b", 1.0)):
        made = [Record(id="1", tag="t", greedy=greedy, text="", answer="", reason="")]
        records.save(made, tmp_path / f"{name}.jsonl")
    files = (tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    links = Links(write_comparison(*files, tmp_path / "c.html").read_text("utf-8"))
    assert len(links.ids) == len(set(links.ids))
    assert links.targets <= {*links.ids}


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
