"""Print lists: wrapped on a terminal, one line each where they are piped, so that grep works."""

from collections.abc import Iterable, Sequence

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gpg_vl.cli.application import console, print_line


def print_names(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and what each is, in two columns."""
    if not console.is_terminal:
        width = max(len(name) for name, _ in rows)
        for name, sentence in rows:
            print_line(f"{name:<{width}}  {sentence}".rstrip())
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, sentence in rows:
        table.add_row(Text(name, style="bold"), Text(sentence))
    console.print(table)


def print_entries(entries: Iterable[tuple[str, str, str]]) -> None:
    """Print entries: what is written, a note on it, and a sentence below."""
    for written, note, sentence in entries:
        if not console.is_terminal:
            noted = f"[{note}]  " if note else ""
            print_line(f"{written}  {noted}{sentence}".rstrip())
            continue
        console.print(Text.assemble((written, "bold"), "  ", (note, "dim")))
        console.print(Padding(Text(sentence), (0, 0, 0, 4)))


def print_remark(text: str) -> None:
    """Print a remark for a reader at a terminal; a pipe gets none."""
    if console.is_terminal:
        console.print(Text(text))
