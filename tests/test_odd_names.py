"""Names of runs, folders and files as people write them: each works, or is refused with a sentence
before a model is loaded."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.config import loading
from gpg_vl.config.schema import LONGEST_NAME
from gpg_vl.errors import UserError
from gpg_vl.policy import load
from gpg_vl.training import setup
from tests.commands import gpg_vl

HERE = Path(__file__).parent
SMALL = str(HERE / "small.yaml")
QUICK = ("steps=1", "warmup.steps=0", "evaluation.benchmark=null", "rollout.gate.every=0")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working and the home directory: a file, and a link to nothing."""
    (tmp_path / "file").write_text("")
    (tmp_path / "lost").symlink_to(tmp_path / "unmounted")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


NAMES = [
    "two words",
    "sweep/lr 1",
    "Ü 模型",
    "a.b",
    ".hidden",
    "x" * LONGEST_NAME,
    "$HOME 'x'",
    "7",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_sensible_name_is_trained_resumed_and_asked(name, here):
    done = gpg_vl("train", SMALL, f"name={name}", *QUICK, cwd=Path())
    assert done.returncode == 0, done.printed
    run = here / "runs" / name
    assert loading.load_run(run).name == name
    resumed = gpg_vl("train", "--resume", f"runs/{name}", "steps=2", cwd=Path())
    assert resumed.returncode == 0, resumed.printed
    asked = gpg_vl("rollout", SMALL, "--groups", 1, "--model", f"runs/{name}", cwd=Path())
    assert asked.returncode == 0, asked.printed


BAD_NAMES = {
    "../up": "expected the name of a folder, or several with a slash",
    "..": "expected the name of a folder",
    ".": "expected the name of a folder",
    "a/../b": "expected the name of a folder",
    "/tmp/abs": "another place is set by folder=",
    "a//b": "expected the name of a folder",
    "a/": "expected the name of a folder",
    "''": "expected the name of a folder",
    "-rf": "it will be part of commands",
    "a/--resume": "it will be part of commands",
    "~/x": "it will be part of commands",
    "' x'": "it will be part of commands",
    "x" * (LONGEST_NAME + 1): f"got a name of {LONGEST_NAME + 1} bytes, expected at most",
    "模" * 100: "got a name of 300 bytes",
    '"a\\nb"': "without control characters",
    '"a\\u0000b"': "without control characters",
    '"a\\u001b[31mb"': "without control characters",
    "warmups": "a folder that all runs of `folder` share",
    "served/x": "a folder that all runs of `folder` share",
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name, here):
    done = gpg_vl("train", SMALL, f"name={name}", cwd=Path())
    assert done.returncode == 2
    assert done.stderr.startswith("gpg-vl: name: got ")
    assert BAD_NAMES[name] in done.stderr
    assert done.stderr.isascii() or "模" in done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["file", "lost"]


@given(st.text(max_size=80))
def test_a_name_is_a_folder_below_the_runs_or_a_sentence(name):
    with suppress(UserError):
        config = loading.load(SMALL, [f"name={json.dumps(name)}"])
        path = Path(os.path.abspath(config.run_path))  # noqa: PTH100  # without links
        assert path.is_relative_to(Path("runs").absolute())
        assert path != Path("runs").absolute()


# --- the folder of the runs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("file", "/file is a file; choose another"),
        ("file/runs", "/file is a file; choose another"),
        ("lost", "/lost is a link to nothing; choose another"),
        ("lost/runs", "/lost is a link to nothing"),
        ("/proc/runs", "folder: /proc/runs/small cannot be made: "),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_folder_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    command, folder, why, here, monkeypatch
):
    monkeypatch.setattr(load, "load_policy", lambda *_, **__: pytest.fail("a model is loaded"))
    done = gpg_vl(command, SMALL, f"folder={folder}", cwd=Path())
    assert done.returncode == 2
    assert why in done.stderr


def test_a_folder_with_a_tilde_is_in_the_home_folder(here):
    done = gpg_vl("train", SMALL, "folder=~/my runs", *QUICK, "steps=0", cwd=Path())
    assert done.returncode == 0, done.printed
    assert (here / "my runs" / "small" / "checkpoints" / "000000").is_dir()
    assert not (here / "~").exists()
    shown = gpg_vl("serve", SMALL, "folder=~/my runs", "name=a/b", "--show", cwd=Path())
    assert str(here / "my runs" / "served" / "a" / "b") in shown.stdout


def test_a_run_inside_a_run_is_refused(here):
    assert gpg_vl("train", SMALL, *QUICK, "steps=0", cwd=Path()).returncode == 0
    for knobs in (["name=small/checkpoints"], ["folder=runs/small", "name=inner"]):
        done = gpg_vl("train", SMALL, *QUICK, *knobs, cwd=Path())
        assert done.returncode == 2
        assert "is inside the run runs/small; choose another `name=`" in done.stderr


def test_a_run_that_cannot_be_written_any_more_is_not_resumed(here, monkeypatch):
    assert gpg_vl("train", SMALL, *QUICK, "steps=0", cwd=Path()).returncode == 0

    def read_only(folder: Path, key: str) -> None:
        raise UserError(f"{key}: {folder} cannot be made: Read-only file system; choose another")

    monkeypatch.setattr(setup, "check_writable", read_only)
    monkeypatch.setattr(load, "load_policy", lambda *_, **__: pytest.fail("a model is loaded"))
    done = gpg_vl("train", "--resume", "runs/small", "steps=1", cwd=Path())
    assert done.returncode == 2
    assert done.stderr.startswith("gpg-vl: --resume: runs/small cannot be made: Read-only")


def test_a_config_in_a_folder_with_blanks_and_its_parts_are_found(here):
    own = here / "my configs"
    own.mkdir()
    verifier = HERE.parent / "gpg_vl" / "verifiers" / "number.py"
    (own / "my rewards.py").write_text(verifier.read_text())
    text = Path(SMALL).read_text().replace("evaluation: {benchmark: small_benchmark.yaml", "#")
    (own / "my run.yaml").write_text(text + "verifiers: {number: './my rewards.py:Number'}\n")
    done = gpg_vl("train", "my configs/my run.yaml", *QUICK, "steps=0", cwd=Path())
    assert done.returncode == 0, done.printed
    resumed = gpg_vl("train", "--resume", "runs/small", "steps=1", cwd=Path())
    assert resumed.returncode == 0, resumed.printed


# --- --to -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("rollout", SMALL, "--to"),
        ("evaluate", "digits", "--model", "tiny", "--to"),
        ("compare", "a.jsonl", "b.jsonl", "--to"),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("folder", "is a folder"),
        ("file/a.jsonl", "file"),
        ("/proc/a.jsonl", "/proc cannot be made: "),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    command, to, why, here, monkeypatch
):
    (here / "folder").mkdir()
    monkeypatch.setattr(load, "load_policy", lambda *_, **__: pytest.fail("a model is loaded"))
    done = gpg_vl(*command, to, cwd=Path())
    assert done.returncode == 2
    assert "--to" in done.stderr
    assert why in done.stderr
