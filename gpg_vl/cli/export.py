"""The command that hands a model on: export."""

from pathlib import Path
from typing import Annotated

import typer

from gpg_vl.cli.application import app, print_line, silence_libraries, with_sentences


@app.command()
@with_sentences
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run (its newest checkpoint), a checkpoint or a model's folder."
        ),
    ],
    to: Annotated[Path, typer.Option(help="New folder that is written.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="One plain model: the adapter is added to its base.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="bfloat16 or float32; without it, as it is stored."),
    ] = None,
) -> None:
    """A folder that plain transformers, peft and vLLM load, with its model card.

    A run with adapters gives the adapter, for peft; with --merged one model. An adapter that was
    trained on a base in 4 bits is merged with what the 4 bits stand for: that was trained.
    """
    from gpg_vl.report.export import export as write

    if merged or dtype:
        silence_libraries()
    write(model, to, merged=merged, dtype=dtype, log=print_line)
