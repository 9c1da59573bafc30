"""Write the page of one or several runs, or of a comparison: one HTML file, whole in itself.

The page holds its style, its script, its curves, small pictures and all texts, and asks nobody for
anything. Its policy (Content-Security-Policy) lets no other script run, whatever a model wrote.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gpg_vl import __version__
from gpg_vl.config.paths import write_whole
from gpg_vl.errors import UserError
from gpg_vl.report.page.comparison import ComparisonView, comparison_view, runs_of
from gpg_vl.report.page.contents import evenly
from gpg_vl.report.page.curves import Section, charts
from gpg_vl.report.page.evaluations import BenchmarkPart
from gpg_vl.report.page.glossary import Term, term_of, terms, word
from gpg_vl.report.page.pictures import PagePictures
from gpg_vl.report.page.read import MAX_GROUPS, read_run
from gpg_vl.report.page.texts import single_line
from gpg_vl.report.page.views import RunView, view_of

MAX_BYTES = 15_000_000
"""Largest size of a page. Where all groups and questions do not fit, half of them are shown..."""
LEAST_PART = 1 / 256
"""Smallest part of them that is tried."""
ITEM_PICTURE_BYTES = 3_000_000
"""Largest size of the pictures of held-out questions, as base64."""
GROUP_PICTURE_BYTES = 5_000_000
"""Largest size of the pictures of training questions, as base64."""
PAGE = "report.html"
"""Name of the page in a run folder."""
GENERATOR = '<meta name="generator" content="gpg_vl">'
"""Line by which a page is known as one of this program."""
LEVEL_WORDS = {"good": "good", "note": "note", "warning": "warning", "bad": "trouble"}
"""Level of a finding -> its word: nothing is said by a colour alone."""
_ASSETS = Path(__file__).parent / "assets"


def write_page(
    runs: Sequence[Path], to: Path, *, pictures: bool = True, has_ended: bool = False
) -> Path:
    """Write the page of runs, and return its file.

    Args:
        runs: run folders; several lie over each other in the curves.
        to: the HTML file. It appears when it is complete.
        pictures: False = no picture is in the page, for a page that leaves the machine.
        has_ended: True if it is known that the runs do not go on.

    Raises:
        UserError: a folder holds no run.
    """
    write_whole(to, _page_that_fits(runs, to.parent, pictures=pictures, has_ended=has_ended))
    return to


def write_comparison(first: Path, second: Path, to: Path, *, pictures: bool = True) -> Path:
    """Write the page of two evaluations of the same questions, and return its file.

    Args:
        first: a run folder, a file of records, or a folder of them, as `gpg-vl compare` takes.
        second: the same of another model.
        to: the HTML file. It appears when it is complete.
        pictures: False = no picture is in the page.

    Raises:
        UserError: there is nothing that both were asked.
    """
    runs, compared = runs_of(first, second), (first, second)
    write_whole(to, _page_that_fits(runs, to.parent, compared=compared, pictures=pictures))
    return to


def check_replaceable(file: Path) -> None:
    """Check that a file is not there, or is a page of this program: other files stay.

    Raises:
        UserError: it is something else.
    """
    if not file.is_file():
        return
    with file.open("rb") as opened:
        beginning = opened.read(2000)
    if beginning and GENERATOR.encode() not in beginning:
        raise UserError(
            f"--to {file}: is there and no page of gpg-vl report, so it is not written over; "
            "choose another name, or delete it"
        )


def live_page_of(run: Path, version: str) -> str:
    """Return the page of a run that looks for what is new, at the server that it comes from.

    Args:
        version: text by which the page knows that there is something newer; not empty.

    Raises:
        UserError: the folder holds no run.
    """
    return _page_that_fits([run], run, live=version)


def _page_that_fits(
    runs: Sequence[Path],
    folder: Path,
    *,
    compared: tuple[Path, Path] | None = None,
    pictures: bool = True,
    has_ended: bool = False,
    live: str = "",
) -> str:
    """Return a page that is not too large: with a part of the groups and questions if need be."""
    shelf = PagePictures(folder, wanted=pictures)
    shelf.allow(ITEM_PICTURE_BYTES)
    comparison = comparison_view(*compared, shelf) if compared else None
    shelf.allow(GROUP_PICTURE_BYTES)
    views: list[RunView] = []
    for index, run in enumerate(runs):
        contents = read_run(run, has_ended=has_ended)
        # answers of all runs together are as many as those of one
        views.append(view_of(contents, index, shelf, most=MAX_GROUPS // len(runs)))
    part = 1.0
    while True:
        html = _page(views, comparison, shelf, part=part, live=live)
        if len(html.encode()) <= MAX_BYTES or part <= LEAST_PART:
            return html
        part /= 2


def _page(
    views: Sequence[RunView],
    comparison: ComparisonView | None,
    pictures: PagePictures,
    *,
    part: float,
    live: str,
) -> str:
    """Return the page as HTML, with a part of its groups and of its questions."""
    parts = charts([view.contents for view in views])
    script = _asset("page.js")
    data: dict[str, Any] = {
        "runs": [_run_data(view, part) for view in views],
        "benchmarks": list(_benchmark_data(views, comparison, part)),
        "charts": _chart_data(parts),
    }
    shown = _picture_keys(data)
    data["pictures"] = {key: url for key, url in pictures.data.items() if key in shown}
    names = [single_line(view.contents.name, 60) for view in views]
    if comparison is not None:
        names = list(comparison.sides)
    html = (
        _templates()
        .get_template("page.html")
        .render(
            generator=Markup(GENERATOR),
            title=(" and " if comparison else ", ").join(names),
            sections=list(_sections(views, comparison)),
            runs=views,
            comparison=comparison,
            charts=parts,
            chart_of=_chart_of(parts),
            terms=terms(),
            data=_packed(data),
            style=Markup(_asset("page.css") + _asset("curves.css")),
            script=Markup(script),
            policy=_policy(script, live=bool(live)),
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            version=__version__,
            level_words=LEVEL_WORDS,
            live=live,
        )
    )
    # half a surrogate pair, in the name of a file or a setting, becomes a question mark
    return html.encode("utf-8", "replace").decode()


def _sections(
    views: Sequence[RunView], comparison: ComparisonView | None
) -> Iterator[tuple[str, str]]:
    """Yield the id and the name of each section that the page has."""
    if comparison is not None:
        yield "comparison", "comparison"
    for name in ("verdict", "curves", "answers", "evaluation", "run", "glossary"):
        if views or name in ("evaluation", "glossary"):
            yield name, name


def _run_data(view: RunView, part: float) -> dict[str, Any]:
    groups = evenly(view.groups, max(1, round(part * len(view.groups))))
    name, note = single_line(view.contents.name, 60), view.note(len(groups))
    return {"name": name, "groups": groups, "note": note}


def _picture_keys(data: dict[str, Any]) -> set[str]:
    """Return the keys of the pictures that groups and questions show."""
    entries: list[dict[str, Any]] = []
    for run in data["runs"]:
        entries += run["groups"]
    for benchmark in data["benchmarks"]:
        entries += benchmark["items"]
    keys: set[str] = set()
    for entry in entries:
        keys.update(image["key"] for image in entry["images"])
    return keys


def _benchmark_data(
    views: Sequence[RunView], comparison: ComparisonView | None, share: float
) -> Iterator[dict[str, Any]]:
    """Yield the questions of each benchmark, one by one: of the comparison, then of the runs."""
    if comparison is not None:
        for compared in comparison.parts:
            yield _items_data(compared.part, f"{compared.part.name}, both", share)
    for view in views:
        for part in view.benchmarks:
            run = f" ({single_line(view.contents.name, 60)})" if len(views) > 1 else ""
            yield _items_data(part, f"{part.name}{run}", share)


def _items_data(part: BenchmarkPart, name: str, share: float) -> dict[str, Any]:
    return {
        "name": name,
        "columns": part.columns,
        "blank": part.blank,
        "changes": part.changes,
        "items": evenly(part.items, max(1, round(share * len(part.items)))),
    }


def _chart_data(parts: Sequence[Section]) -> dict[str, Any]:
    """Return what the page says of a chart below the pointer."""
    data: dict[str, Any] = {}
    for part in parts:
        for chart in part.charts:
            data[chart.id] = chart.points
    return data


def _chart_of(parts: Sequence[Section]) -> dict[str, str]:
    """Return the id of the first chart that shows a metric, by the metric."""
    ids: dict[str, str] = {}
    for part in parts:
        for chart in part.charts:
            for metric in chart.terms:
                ids.setdefault(metric, chart.id)
    return ids


def _packed(data: dict[str, Any]) -> str:
    """Return data as gzip in base64: small, and free of every sign that HTML could read."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode("ascii")


def _policy(script: str, *, live: bool) -> str:
    """Return the policy of the page: its own script and nothing else, pictures, no requests.

    A script is known by its digest, so that no text of a model can become one.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    rules = [
        "default-src 'none'",
        f"script-src 'sha256-{digest}'",
        "style-src 'unsafe-inline'",
        "img-src 'self' data: file:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if live:
        rules.append("connect-src 'self'")
    return "; ".join(rules)


@cache
def _templates() -> Environment:
    """Return the templates, in which every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _with_code
    environment.filters["sentence"] = _sentence
    environment.globals["term"] = _term
    environment.globals["word"] = _word
    return environment


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text("utf-8")


def _with_code(text: str) -> Markup:
    """Return a sentence whose parts in backticks are shown as code."""
    pieces = re.split(r"`([^`]+)`", text)
    html = Markup("")
    for place, piece in enumerate(pieces):
        html += Markup("<code>{}</code>").format(piece) if place % 2 else escape(piece)
    return html


def _sentence(text: str) -> str:
    """Return words as a sentence."""
    return f"{text[:1].upper()}{text[1:].removesuffix('.')}."


def _term(metric: str, text: str) -> Markup:
    """Return the name of a metric with its explanation: on hover, and by a link."""
    term = term_of(metric)
    return escape(text) if term is None else _link(term, text)


def _word(name: str, text: str = "") -> Markup:
    """Return a word of the page with its explanation: on hover, and by a link."""
    return _link(word(name), text or name)


def _link(term: Term, text: str) -> Markup:
    """Return a link into the glossary."""
    return Markup('<a class="term" href="#{}" title="{}">{}</a>').format(
        term.anchor, term.what, text
    )
