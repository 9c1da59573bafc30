"""The commands that show runs as a page: report, watch."""

from pathlib import Path
from typing import Annotated

import typer

from gpg_vl.cli.application import app, print_line, with_sentences
from gpg_vl.errors import UserError


@app.command()
@with_sentences
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Run folders; with --compare two of them, or two evaluations."
        ),
    ],
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Two runs or evaluations: what became better and worse."),
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(help="The HTML file; without it RUN/report.html, of several ./report.html."),
    ] = None,
    no_pictures: Annotated[
        bool, typer.Option("--no-pictures", help="Leave the pictures out, to pass the page on.")
    ] = False,
) -> None:
    """One HTML file that shows runs: verdict, curves, answers, evaluation. No network, no server.

    It opens in any browser, also of a run that is running, crashed or of another machine.
    """
    from gpg_vl.report.page.write import (
        PAGE,
        check_replaceable,
        write_comparison,
        write_page,
    )

    if compare:
        if len(runs) != 2:
            raise UserError(
                f"--compare: got {len(runs)} of two; expected two run folders, or two files of "
                "records that `gpg-vl evaluate --to` wrote"
            )
        page = _checked(to, Path("comparison.html"))
        check_replaceable(page)
        write_comparison(runs[0], runs[1], page, pictures=not no_pictures)
    else:
        found = [_run(run) for run in runs]
        page = _checked(to, found[0] / PAGE if len(found) == 1 else Path(PAGE))
        check_replaceable(page)
        write_page(found, page, pictures=not no_pictures)
    print_line(f"open it in a browser: {page.absolute()}")


@app.command()
@with_sentences
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; the run may go on.")],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 = any that is free.")
    ] = 8765,
) -> None:
    """The page of a run, live, on this machine only, until Ctrl-C.

    The run itself is not touched: this reads its folder.
    """
    from gpg_vl.report.page.watch import serve

    serve(_run(run), port, log=print_line)


def _run(name: Path) -> Path:
    """Return a run folder, or the one that a checkpoint or another file is in.

    Raises:
        UserError: it is none; the sentence says what it is, and what is meant perhaps.
    """
    from gpg_vl.config.models import find_run, is_run
    from gpg_vl.config.paths import expanded

    for above in expanded(str(name)).resolve().parents:
        if is_run(above):
            return above
    return find_run(name, "RUN")


def _checked(to: Path | None, usual: Path) -> Path:
    """Return the file of a page, after checking that it can be written.

    Args:
        to: of the option --to.
        usual: the file without that option.

    Raises:
        UserError: it cannot be.
    """
    from gpg_vl.config.paths import check_new_file, expanded

    if to is not None:
        file = expanded(str(to))
        check_new_file(file, "--to")
        return file
    try:
        check_new_file(usual, "the page")
    except UserError as error:
        raise UserError(f"{error}; write it elsewhere with --to FILE") from None
    return usual
