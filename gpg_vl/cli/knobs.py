"""The command that explains knobs: sections, the knobs of one, one knob, the fields of a part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gpg_vl.cli.application import app, with_sentences
from gpg_vl.cli.completion import complete_page_of_knobs

if TYPE_CHECKING:
    from gpg_vl.cli.knob_pages import Page, PageOfPart
    from gpg_vl.config.knobs import Knob


@app.command()
@with_sentences
def knobs(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="A section (rollout), a knob (optimizer.lr, lr), a part (gpg, boxes, server), "
            "source or benchmark; none lists them.",
            show_default=False,
            autocompletion=complete_page_of_knobs,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every knob, a line or two each.")] = (
        False
    ),
) -> None:
    """Every setting of a config, with its default, its values and a sentence.

    A knob is written key=value behind a config, or as YAML in one. Piped, each knob is one line:
    gpg-vl knobs --all | grep memory
    """
    from gpg_vl.cli.knob_pages import all_pages, every_knob, look_up
    from gpg_vl.cli.listing import print_entries, print_names, print_remark

    pages = all_pages()
    if everything:
        print_entries(_entries(every_knob(pages)))
        return
    if not names:
        print_remark(
            "A knob is written key=value: gpg-vl train digits steps=50 optimizer.lr=1e-4\n"
        )
        print_names([(page.name, page.summary) for page in pages.values() if page.is_listed])
        print_remark(
            "\ngpg-vl knobs rollout lists the knobs of a section, gpg-vl knobs lr explains one."
        )
        return
    for name in names:
        _print_page(look_up(name, pages), pages)


def _print_page(page: Page | PageOfPart, pages: Mapping[str, Page | PageOfPart]) -> None:
    """Print the knobs of a page, and the parts that it offers."""
    from gpg_vl.cli.listing import print_entries, print_line, print_names, print_remark

    if page.title:
        print_remark(f"{page.title}\n")
    print_entries(_entries(page.knobs))
    if not page.knobs:
        print_line(f"{page.name} has no knobs")
    if page.kinds:
        print_remark("\nShipped; gpg-vl knobs NAME lists the knobs of one:")
        print_names([(kind, pages[kind].summary) for kind in page.kinds])


def _entries(found: Sequence[Knob]) -> Iterator[tuple[str, str, str]]:
    """Yield what is written, the values and the sentence of each knob."""
    for knob in found:
        note = f"required: {knob.allowed}" if knob.required else knob.allowed
        yield f"{knob.key}={knob.default}", note, " ".join(knob.sentence.split())
