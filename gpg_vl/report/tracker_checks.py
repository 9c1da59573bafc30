"""Find a tracker that cannot work before weights are loaded.

What its user can mend in a minute refuses the run: a package that is not installed, an account that
is not logged in. A server that does not answer refuses nothing: there is a warning, and the run
goes on. Nothing here asks for input or waits longer than `CHECK_SECONDS`.
"""

import os
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from gpg_vl.config.schema import TrackerName, TrackingConfig
from gpg_vl.errors import UserError, one_line

CHECK_SECONDS = 10.0
"""Longest time that the check of one tracker takes."""
CONNECT_SECONDS = 5.0
"""Longest wait for the first answer of a server."""
NOT_ONLINE = ("offline", "dryrun", "local", "disabled")
"""Modes of W&B and SwanLab that need no login."""
TAKEN: dict[TrackerName, tuple[str, ...]] = {
    "tensorboard": (),
    "trackio": ("project",),
    "wandb": ("project", "entity", "tags"),
    "comet_ml": ("project", "entity", "tags"),
    "aim": ("project", "tags"),
    "mlflow": ("project", "tags"),
    "clearml": ("project", "tags"),
    "dvclive": (),
    "swanlab": ("project", "entity", "tags"),
}
"""Knobs of `tracking` that a tracker has a place for."""
_IN_EXTRA = ("tensorboard", "trackio", "wandb")


def check_ready(
    names: Sequence[TrackerName], tracking: TrackingConfig, log: Callable[[str], None]
) -> None:
    """Check that every tracker can be imported and is logged in, and that its server answers.

    Args:
        tracking: project, entity and tags; a tracker that has no place for one is named.
        log: receives a warning for each tracker whose server does not answer.

    Raises:
        UserError: a package is missing, or a tracker is not logged in.
    """
    check_installed(names)
    for line in without_place(names, tracking):
        log(line)
    for name in names:
        check = _CHECKS.get(name)
        problem = _problem_within_limit(name, check) if check is not None else ""
        if problem:
            log(
                f"warning: tracker {name}: {problem}; the run goes on, and all its figures are in "
                "metrics.jsonl"
            )


def check_installed(names: Sequence[str]) -> None:
    """Check that every tracker can be imported, before anything is trained.

    Raises:
        UserError: one cannot; the message contains the command that installs it.
    """
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise UserError(not_installed(name)) from None


def not_installed(name: str) -> str:
    """Return the sentence that says how to install a tracker."""
    package = "'gpg-vl[trackers]'" if name in _IN_EXTRA else name
    return f"trackers: {name} is not installed; pip install {package}, or leave it out"


def without_place(names: Sequence[TrackerName], tracking: TrackingConfig) -> list[str]:
    """Return a line for each knob that is set and that some of the trackers cannot take."""
    lines: list[str] = []
    for knob, default in TrackingConfig():
        missing = [name for name in names if knob not in TAKEN[name]]
        if missing and getattr(tracking, knob) != default:
            lines.append(f"tracking.{knob}: no place for it in {', '.join(missing)}")
    return lines


def _problem_within_limit(name: str, check: Callable[[Any], None]) -> str:
    """Run a check in a thread of its own; return what is wrong with the tracker.

    A thread that never returns ends with the program.

    Raises:
        UserError: the tracker is not logged in.
    """
    raised: list[BaseException] = []

    def work() -> None:
        try:
            check(import_module(name))
        # also SystemExit: some trackers exit the program when a login fails
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, name=f"check of {name}", daemon=True)
    thread.start()
    thread.join(CHECK_SECONDS)
    for error in raised:
        if isinstance(error, UserError):
            raise error
        return one_line(f"{type(error).__name__}: {error}")
    return f"no answer within {CHECK_SECONDS:g} seconds" if thread.is_alive() else ""


def _logged_out(name: str, remedy: str) -> UserError:
    return UserError(f"trackers: {name} is not logged in; {remedy}, or leave it out")


def _reach(address: str) -> None:
    """Check that a server answers, through the proxies of the environment; any answer will do.

    Raises:
        ConnectionError: it does not.
    """
    try:
        urlopen(address, timeout=CONNECT_SECONDS).close()
    except HTTPError as error:
        error.close()
    except OSError as error:
        raise ConnectionError(f"{address} does not answer ({error})") from None


def _wandb(package: Any) -> None:
    """Check the account of Weights & Biases, its key included."""
    if package.setup().settings.mode in NOT_ONLINE:
        return
    remedy = "run `wandb login`, or set WANDB_MODE=offline to write files only"
    try:
        is_logged_in = package.login(prompt=False, verify=True)
    except package.errors.AuthenticationError:
        # the same error for a key that can be none and for a server that is away
        try:
            package.login(prompt=False, verify=False)
        except package.errors.AuthenticationError as error:
            raise _logged_out("wandb", f"{one_line(error)}: {remedy}") from None
        raise
    if not is_logged_in:
        raise _logged_out("wandb", remedy)


def _trackio(package: Any) -> None:
    """Check trackio where it does not write local files."""
    del package
    if os.environ.get("TRACKIO_SPACE_ID"):
        hub: Any = import_module("huggingface_hub")
        if not hub.get_token():
            raise _logged_out(
                "trackio", "run `hf auth login`, or unset TRACKIO_SPACE_ID to write files only"
            )
        _reach(hub.constants.ENDPOINT)
    elif os.environ.get("TRACKIO_SERVER_URL"):
        _reach(os.environ["TRACKIO_SERVER_URL"])


def _comet(package: Any) -> None:
    config = package.config.get_config()
    if config["comet.start.online"] is False:
        return
    if not config["comet.api_key"]:
        raise _logged_out(
            "comet_ml",
            "run `comet login`, set COMET_API_KEY, or COMET_START_ONLINE=0 to write files only",
        )
    _reach(package.config.get_backend_address(config))


def _mlflow(package: Any) -> None:
    address = package.get_tracking_uri()
    if address.startswith(("http://", "https://")):
        _reach(address)


def _clearml(package: Any) -> None:
    """Check that there are credentials for ClearML, which asks for none by itself."""
    del package
    if os.environ.get("CLEARML_OFFLINE_MODE"):
        return
    home = Path.home()
    named = os.environ.get("CLEARML_CONFIG_FILE")
    files = [Path(named)] if named else [home / "clearml.conf", home / "trains.conf"]
    keys = "CLEARML_API_ACCESS_KEY", "CLEARML_AUTH_TOKEN"
    if not any(map(os.environ.get, keys)) and not any(file.is_file() for file in files):
        raise _logged_out(
            "clearml",
            "run `clearml-init`, set CLEARML_API_ACCESS_KEY and CLEARML_API_SECRET_KEY, or "
            "CLEARML_OFFLINE_MODE=1 to write files only",
        )


def _swanlab(package: Any) -> None:
    """Check that there is a key for SwanLab, which would ask for one on a terminal."""
    del package
    if os.environ.get("SWANLAB_MODE") in NOT_ONLINE:
        return
    named = os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR")
    root = Path(named) if named else Path.home() / ".swanlab"
    files = (root / ".netrc", Path.cwd() / ".swanlab" / ".netrc")
    if not os.environ.get("SWANLAB_API_KEY") and not any(file.is_file() for file in files):
        raise _logged_out(
            "swanlab",
            "run `swanlab login`, set SWANLAB_API_KEY, or SWANLAB_MODE=offline to write files only",
        )
    _reach(os.environ.get("SWANLAB_API_HOST", "https://api.swanlab.cn"))


_CHECKS: dict[str, Callable[[Any], None]] = {
    "trackio": _trackio,
    "wandb": _wandb,
    "comet_ml": _comet,
    "mlflow": _mlflow,
    "clearml": _clearml,
    "swanlab": _swanlab,
}
"""Checks of the trackers that have an account or a server; the others write local files."""
