"""Trackers before a run: what its user can mend refuses it, what he cannot is a warning."""

import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from gpg_vl.config.schema import TrackerName, TrackingConfig
from gpg_vl.errors import UserError
from gpg_vl.report import tracker_checks
from gpg_vl.report.tracker_checks import TAKEN, check_ready

NO_ANSWER = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""
VARIABLES = (
    *("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "CLEARML_OFFLINE_MODE", "CLEARML_CONFIG_FILE"),
    *("CLEARML_API_ACCESS_KEY", "CLEARML_AUTH_TOKEN", "SWANLAB_MODE", "SWANLAB_ROOT"),
    *("SWANLAB_SAVE_DIR", "SWANLAB_API_KEY", "SWANLAB_API_HOST"),
)


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path) -> None:
    """A user without accounts, in an empty folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server():
    """A server that answers every request with 403."""

    class Forbidding(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *given: Any) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Forbidding)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **parts: Any) -> None:
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**parts))


def check(*names: Any, **tracking: Any) -> list[str]:
    """Return the lines of a check that lets the run go on."""
    lines: list[str] = []
    check_ready(names, TrackingConfig(**tracking), lines.append)
    return lines


def refused(name: str) -> str:
    with pytest.raises(UserError) as raised:
        check(name)
    return str(raised.value)


class AuthenticationError(Exception):
    """As W&B raises it."""


def wandb(monkeypatch: pytest.MonkeyPatch, login: Callable[..., bool], mode: str = "online") -> Any:
    stand_in(
        monkeypatch,
        "wandb",
        login=login,
        setup=lambda: SimpleNamespace(settings=SimpleNamespace(mode=mode)),
        errors=SimpleNamespace(AuthenticationError=AuthenticationError),
    )


WANDB_OUT = (
    "trackers: wandb is not logged in; run `wandb login`, or set WANDB_MODE=offline to write files "
    "only, or leave it out"
)


def test_wandb_without_a_login_refuses_the_run_and_asks_nothing(monkeypatch):
    asked: list[Any] = []
    wandb(monkeypatch, lambda **given: asked.append(given) or False)
    assert refused("wandb") == WANDB_OUT
    assert all(given["prompt"] is False for given in asked)


@pytest.mark.parametrize("mode", ["offline", "disabled", "dryrun"])
def test_wandb_offline_needs_no_login(mode, monkeypatch):
    wandb(monkeypatch, lambda **given: pytest.fail("asked"), mode)
    assert check("wandb") == []


def test_a_key_that_can_be_none_refuses_the_run(monkeypatch):
    def login(**given: Any) -> bool:
        raise AuthenticationError("API key must have 40+ characters, has 3.")

    wandb(monkeypatch, login)
    assert "API key must have 40+ characters, has 3.: run `wandb login`" in refused("wandb")


def test_a_server_that_is_away_is_a_warning(monkeypatch):
    def login(*, prompt: bool, verify: bool) -> bool:
        if verify:
            raise AuthenticationError("Failed to authenticate with https://api.wandb.ai")
        return True

    wandb(monkeypatch, login)
    assert check("wandb") == [
        "warning: tracker wandb: AuthenticationError: Failed to authenticate with "
        "https://api.wandb.ai; the run goes on, and all its figures are in metrics.jsonl"
    ]


def test_the_real_wandb_is_asked_as_it_expects(monkeypatch):
    """Its own package, without a key and with one that can be none; no server is asked."""
    pytest.importorskip("wandb")
    for variable in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", "nowhere")
    assert refused("wandb") == WANDB_OUT
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    assert refused("wandb").startswith("trackers: wandb is not logged in; WANDB_API_KEY invalid")


def test_a_check_that_never_ends_is_a_warning_and_costs_no_more_than_its_limit(monkeypatch):
    monkeypatch.setattr(tracker_checks, "CHECK_SECONDS", 0.05)
    released = threading.Event()
    wandb(monkeypatch, lambda **given: released.wait())
    (line,) = check("wandb")
    assert line.startswith("warning: tracker wandb: no answer within 0.05 seconds; the run goes on")
    released.set()


def test_a_package_that_exits_does_not_end_the_run(monkeypatch):
    def login(**given: Any) -> bool:
        raise SystemExit("no terminal")

    wandb(monkeypatch, login)
    assert check("wandb")[0].startswith("warning: tracker wandb: SystemExit: no terminal; ")


def comet(monkeypatch: pytest.MonkeyPatch, address: str = "", **settings: Any) -> None:
    values = {"comet.start.online": None, "comet.api_key": None, **settings}
    config = SimpleNamespace(
        get_config=lambda: values, get_backend_address=lambda config: address or NO_ANSWER
    )
    stand_in(monkeypatch, "comet_ml", config=config)


def test_comet_needs_a_key_unless_it_is_offline(monkeypatch, server):
    comet(monkeypatch)
    assert refused("comet_ml").startswith(
        "trackers: comet_ml is not logged in; run `comet login`, set COMET_API_KEY, or "
    )
    comet(monkeypatch, **{"comet.start.online": False})
    assert check("comet_ml") == []
    comet(monkeypatch, server, **{"comet.api_key": "k"})
    assert check("comet_ml") == []
    comet(monkeypatch, **{"comet.api_key": "k"})
    assert "does not answer" in check("comet_ml")[0]


def test_mlflow_with_a_server_that_is_away_is_a_warning(monkeypatch, server):
    for address, problem in ((NO_ANSWER, True), (server, False), ("sqlite:///mlflow.db", False)):
        stand_in(monkeypatch, "mlflow", get_tracking_uri=lambda address=address: address)
        lines = check("mlflow")
        assert bool(lines) == problem
        if problem:
            assert lines[0].startswith(
                f"warning: tracker mlflow: ConnectionError: {NO_ANSWER} does not answer ("
            )


def test_clearml_needs_credentials_unless_it_is_offline(monkeypatch, tmp_path):
    stand_in(monkeypatch, "clearml")
    assert refused("clearml").startswith("trackers: clearml is not logged in; run `clearml-init`")
    monkeypatch.setenv("CLEARML_OFFLINE_MODE", "1")
    assert check("clearml") == []
    monkeypatch.delenv("CLEARML_OFFLINE_MODE")
    monkeypatch.setenv("CLEARML_API_ACCESS_KEY", "k")
    assert check("clearml") == []
    monkeypatch.delenv("CLEARML_API_ACCESS_KEY")
    (tmp_path / "clearml.conf").write_text("api {}")
    assert check("clearml") == []


def test_swanlab_needs_a_key_unless_it_is_offline(monkeypatch, server, tmp_path):
    stand_in(monkeypatch, "swanlab")
    assert refused("swanlab").startswith("trackers: swanlab is not logged in; run `swanlab login`")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    assert check("swanlab") == []
    monkeypatch.setenv("SWANLAB_MODE", "online")
    (tmp_path / ".swanlab").mkdir()
    (tmp_path / ".swanlab" / ".netrc").write_text("machine")
    monkeypatch.setenv("SWANLAB_API_HOST", server)
    assert check("swanlab") == []
    monkeypatch.setenv("SWANLAB_API_HOST", NO_ANSWER)
    assert "does not answer" in check("swanlab")[0]


def test_trackio_is_checked_only_where_it_does_not_write_files(monkeypatch, server):
    stand_in(monkeypatch, "trackio")
    assert check("trackio") == []
    monkeypatch.setenv("TRACKIO_SERVER_URL", NO_ANSWER)
    assert "does not answer" in check("trackio")[0]
    monkeypatch.setenv("TRACKIO_SPACE_ID", "who/space")
    hub = SimpleNamespace(ENDPOINT=server)
    stand_in(monkeypatch, "huggingface_hub", get_token=lambda: None, constants=hub)
    assert refused("trackio").startswith("trackers: trackio is not logged in; run `hf auth login`")
    stand_in(monkeypatch, "huggingface_hub", get_token=lambda: "t", constants=hub)
    assert check("trackio") == []


def test_a_knob_that_a_tracker_has_no_place_for_is_named(monkeypatch):
    for name in ("tensorboard", "dvclive"):
        stand_in(monkeypatch, name)
    assert check("tensorboard", "dvclive", project="gpg_vl") == []
    assert check("tensorboard", "dvclive", entity="team", tags=["a"], project="mine") == [
        "tracking.project: no place for it in tensorboard, dvclive",
        "tracking.entity: no place for it in tensorboard, dvclive",
        "tracking.tags: no place for it in tensorboard, dvclive",
    ]
    comet(monkeypatch, **{"comet.start.online": False})
    assert check("comet_ml", "tensorboard", entity="team") == [
        "tracking.entity: no place for it in tensorboard"
    ]
    assert set(TAKEN) == set(get_args(TrackerName))


@pytest.mark.parametrize(
    ("name", "package"), [("wandb", r"'gpg-vl\[trackers\]'"), ("comet_ml", "comet_ml")]
)
def test_every_tracker_that_is_named_must_be_there(name, package, monkeypatch):
    for there in ("trackio", "tensorboard"):
        stand_in(monkeypatch, there)
    monkeypatch.setitem(sys.modules, name, None)
    assert check("trackio", "tensorboard") == []
    sentence = f"trackers: {name} is not installed; pip install {package}, or leave it out"
    with pytest.raises(UserError, match=f"^{sentence}$"):
        check("trackio", name)
