"""Send trackers more than figures: a table of answers, and the page of the run.

Each function makes the one call that its tracker has for it. A tracker that is missing here has no
place for it: those of DVCLive and TensorBoard are files beside the page.
"""

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpg_vl.report.answer_table import AnswerTable, as_markdown

STEP = "step"
"""Axis of the figures of the run."""
ANSWERS = "answers"
"""Name of the table in every tracker."""
WITH_PICTURES = ("tensorboard", "trackio", "wandb")
"""Trackers that show pictures with the table."""


def _wandb_table(tracker: Any, table: AnswerTable) -> None:
    package = import_module("wandb")
    columns, rows = table.with_pictures(package.Image)
    tracker.log({STEP: table.step, ANSWERS: package.Table(columns=columns, data=rows)})


def _trackio_table(tracker: Any, table: AnswerTable) -> None:
    package = import_module("trackio")
    columns, rows = table.with_pictures(package.Image)
    tracker.log({ANSWERS: package.Table(columns=columns, data=rows)}, step=table.step)


def _tensorboard_table(tracker: Any, table: AnswerTable) -> None:
    """Write the table as text; its pictures are under Images, and cells hold their names."""
    names: list[str] = []

    def write(picture: Image.Image) -> str:
        names.append(f"{ANSWERS}/picture_{len(names) + 1}")
        tracker.writer.add_image(
            names[-1], np.asarray(picture), global_step=table.step, dataformats="HWC"
        )
        return names[-1]

    columns, rows = table.with_pictures(write)
    tracker.log({ANSWERS: as_markdown(columns, rows)}, step=table.step)


def _mlflow_table(tracker: Any, table: AnswerTable) -> None:
    """Write a file of each step: MLflow would read an older one again to append to it."""
    del tracker
    cells = zip(*table.rows, strict=True)
    columns = {name: list(own) for name, own in zip(table.columns, cells, strict=True)}
    import_module("mlflow").log_table(columns, f"{ANSWERS}/{table.step:06d}.json")


def _comet_table(tracker: Any, table: AnswerTable) -> None:
    tracker.writer.log_table(
        f"{ANSWERS}-{table.step:06d}.csv", tabular_data=table.rows, headers=table.columns
    )


def _clearml_table(tracker: Any, table: AnswerTable) -> None:
    tracker.log_table(ANSWERS, columns=table.columns, data=table.rows, step=table.step)


def _aim_table(tracker: Any, table: AnswerTable) -> None:
    tracker.log({ANSWERS: import_module("aim").Text(table.as_csv())}, step=table.step)


def _swanlab_table(tracker: Any, table: AnswerTable) -> None:
    tracker.log({ANSWERS: import_module("swanlab").Text(table.as_csv())}, step=table.step)


SEND_TABLE: dict[str, Callable[[Any, AnswerTable], None]] = {
    "wandb": _wandb_table,
    "trackio": _trackio_table,
    "tensorboard": _tensorboard_table,
    "mlflow": _mlflow_table,
    "comet_ml": _comet_table,
    "clearml": _clearml_table,
    "aim": _aim_table,
    "swanlab": _swanlab_table,
}
"""Trackers that get the table of answers."""


def _artifact(tracker: Any, page: Path, label: str) -> None:
    """Keep the page as a versioned file of the project, under the name of the run."""
    name = "report-" + re.sub(r"[^A-Za-z0-9_.-]", "-", label)[:100]
    tracker.tracker.log_artifact(str(page), name=name, type="report")


def _mlflow_page(tracker: Any, page: Path, label: str) -> None:
    del label
    tracker.log_artifact(str(page))


def _comet_page(tracker: Any, page: Path, label: str) -> None:
    del label
    tracker.writer.log_asset(str(page), file_name=page.name)


def _clearml_page(tracker: Any, page: Path, label: str) -> None:
    del label
    tracker.tracker.upload_artifact("report", artifact_object=page, wait_on_upload=True)


SEND_PAGE: dict[str, Callable[[Any, Path, str], None]] = {
    "wandb": _artifact,
    "trackio": _artifact,
    "mlflow": _mlflow_page,
    "comet_ml": _comet_page,
    "clearml": _clearml_page,
}
"""Trackers that get the page."""
