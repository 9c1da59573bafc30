"""Metrics to TensorBoard, trackio and Weights & Biases: a small sink each, imported only where a config names it.

All work offline: TensorBoard and trackio write local files, and W&B does where WANDB_MODE=offline says so.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from gpg_vl.errors import UserError
from gpg_vl.run_folder import Callback


def check_installed(names: Sequence[str]) -> None:
    """Make sure that every tracker can be imported, before anything is trained.

    Raises:
        UserError: one cannot; says which extra to install.
    """
    for name in names:
        _package(name)


def open_tracker(name: str, run: Path, config: Mapping[str, Any]) -> Callback:
    """The sink of a tracker by name.

    Raises:
        UserError: the package is not installed; says which extra to install.
    """
    return {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}[name](run, config)


def _tensorboard(run: Path, config: Mapping[str, Any]) -> Callback:
    del config  # config.yaml lies beside the event file
    _package("tensorboard")
    writer: Any = import_module("torch.utils.tensorboard").SummaryWriter(str(run / "tensorboard"))

    def sink(step: int, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            writer.add_scalar(key, value, step)
        writer.flush()

    return sink


def _trackio(run: Path, config: Mapping[str, Any]) -> Callback:
    trackio = _package("trackio")
    trackio.init(project="gpg_vl", name=run.name, config=dict(config), resume="allow")
    return lambda step, metrics: trackio.log(dict(metrics), step=step)


def _wandb(run: Path, config: Mapping[str, Any]) -> Callback:
    wandb = _package("wandb")
    tracked = wandb.init(project="gpg_vl", name=run.name, dir=str(run), config=dict(config), resume="allow", id=run.name)
    return lambda step, metrics: tracked.log(dict(metrics), step=step)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UserError(f"trackers: {name} is not installed; pip install 'gpg-vl[trackers]', or leave it out") from None
