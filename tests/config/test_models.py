"""Names of models and runs: what each means, and the sentence for one that means nothing."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpg_vl.config import loading, models
from gpg_vl.config.models import NamedModel, find, find_run
from gpg_vl.errors import UserError
from tests.commands import gpg_vl

HERE = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory: runs/digits with steps 2 and 10, a half-written one, models/qwen."""
    run = tmp_path / "runs" / "digits"
    for name in ("000002", "000010", "000012.part", "000001.dropped"):
        policy = run / "checkpoints" / name / "policy"
        policy.mkdir(parents=True)
        (policy / "config.json").write_text("{}")
        (policy.parent / "state.json").write_text("{}")
    text = loading.dump(loading.load(str(HERE / "small.yaml"), ["seed=5", "prompt=answer"]))
    (run / "config.yaml").write_text(text)
    (run / "environment.json").write_text(json.dumps({"config_folder": str(HERE)}))
    (tmp_path / "runs" / "warmups" / "abc").mkdir(parents=True)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    (tmp_path / "models" / "qwen" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


# --- what a name means ----------------------------------------------------------------------------

STEP_2, STEP_10 = "runs/digits/checkpoints/000002", "runs/digits/checkpoints/000010"


@pytest.mark.parametrize(
    ("name", "folder", "is_newest"),
    [
        ("runs/digits", f"{STEP_10}/policy", True),
        ("runs/digits/", f"{STEP_10}/policy", True),
        ("./runs/../runs/digits", f"{STEP_10}/policy", True),
        ("~/runs/digits", f"{STEP_10}/policy", True),
        (STEP_2, f"{STEP_2}/policy", False),
        (f"{STEP_2}/", f"{STEP_2}/policy", False),
        (f"{STEP_2}/policy", f"{STEP_2}/policy", False),
        (f"{STEP_2}/policy/.", f"{STEP_2}/policy", False),
    ],
)
def test_a_run_its_checkpoints_and_their_policies_are_models_of_that_run(
    name, folder, is_newest, here
):
    found = find(name)
    assert found.run is not None
    assert found.run.resolve() == here / "runs" / "digits"
    assert (found.name, found.is_newest) == (str(here / folder), is_newest)
    assert loading.load_for_model(name).seed == 5, "the run's own config, with its prompt style"


def test_a_link_to_a_checkpoint_belongs_to_its_run(here):
    (here / "best").symlink_to(here / STEP_2 / "policy")
    assert find("best").run == here / "runs" / "digits"
    assert find("best").name == str(here / STEP_2 / "policy")


def test_a_checkpoint_that_was_copied_elsewhere_is_a_model_of_no_run(here):
    (here / STEP_2).rename(here / "kept")
    assert find("kept") == NamedModel(str(here / "kept" / "policy"), Path("kept/policy"))
    assert loading.load_for_model("kept").seed == 0


def test_other_names_are_folders_hub_ids_and_tiny(here):
    assert find("models/qwen") == NamedModel(str(here / "models/qwen"), Path("models/qwen"))
    for name in ("Qwen/Qwen2.5-VL-3B-Instruct", "gpt2", "models/another", "tiny"):
        assert find(name) == NamedModel(name)
    (here / "tiny").mkdir()
    assert find("tiny").folder is None, "always the model that is made on the spot"
    assert find("./tiny").folder == Path("tiny")


def test_the_model_of_a_config_may_lie_beside_it(here):
    (here / "my configs").mkdir()
    (here / "models").rename(here / "my configs" / "models")
    config = here / "my configs" / "an own.yaml"
    config.write_text("data: [{recipe: digits}]\npolicy: {model: models/qwen}\n")
    expected = str(here / "my configs" / "models" / "qwen")
    assert loading.load(str(config)).policy.model == expected
    assert Path(loading.load("my configs/an own.yaml").policy.model).resolve() == Path(expected)
    (here / "models" / "qwen").mkdir(parents=True)
    name = loading.load(str(config)).policy.model
    assert name == "models/qwen", "the working directory comes first, as for key=value"


# --- what a name does not mean --------------------------------------------------------------------

NOWHERE = {
    "./nothing": "there is no such folder",
    "/a/b": "there is no such folder",
    "a/b/c": "there is no such folder",
    "owner/name/": "there is no such folder",
    "~/x": "there is no such folder",
    "": "there is no such folder",
    "..": "is no model",
    "two words": "there is no such folder",
    "runs/digit": "there is no such folder; did you mean runs/digits?",
    "runs/typo": "there is no such folder; runs holds the runs digits",
    "runs/digits/checkpoint/000002": "did you mean runs/digits/checkpoints?",
    "runs/digits/checkpoints/000050": "runs/digits/checkpoints holds 000002, 000010",
    "runs/digits/checkpoints/000050/policy": "runs/digits/checkpoints holds 000002, 000010",
    "runs/digits/checkpoints/000012.part": "was not written to its end, or is half deleted",
    "runs/digits/checkpoints/000012.part/policy": "was not written to its end",
    "runs/digits/checkpoints/000001.dropped": "holds 000002, 000010",
    "runs/digits/config.yaml": "is a file; expected the folder that holds it",
    "runs/digits/checkpoints": "is no model, it holds some; its newest checkpoint is",
    "runs/digits/evaluation/": "there is no such folder",
}


@pytest.mark.parametrize("name", NOWHERE)
def test_a_path_that_leads_nowhere_says_so_without_asking_a_hub(name, here, monkeypatch):
    import huggingface_hub

    from gpg_vl.policy.model_folder import find_model

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked"))
    (here.parent / "models").mkdir(exist_ok=True)
    with pytest.raises(UserError) as refused:
        find_model(name, "--model")
    assert str(refused.value).startswith("--model: ")
    if name != "..":
        assert NOWHERE[name] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_hub_id_that_is_nearly_a_folder_is_asked_for_and_the_folder_named(here):
    from gpg_vl.policy.model_folder import find_model

    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set; did you mean models/qwen\?$"):
        find_model("models/qwen3")


def test_a_run_without_a_checkpoint_has_no_model(here):
    for path in (here / "runs" / "digits" / "checkpoints").glob("*/state.json"):
        path.unlink()
    with pytest.raises(UserError, match="is a run that has saved no checkpoint yet"):
        find("runs/digits")


def test_a_name_in_a_folder_of_runs_is_no_hub_id_though_it_looks_like_one(here):
    (here / "out").mkdir()
    assert find("out/new") == NamedModel("out/new")
    (here / "runs" / "digits").rename(here / "out" / "digits")
    with pytest.raises(UserError, match=r"out holds the runs digits$"):
        find("out/new")


@given(st.text(max_size=300))
def test_any_text_is_a_model_or_a_sentence(name):
    with suppress(UserError):
        found = find(name)
        assert found.folder is None or found.folder.is_dir()


COMMANDS = [
    ("train", "digits", "policy.model={}"),
    ("sft", "digits", "policy.model={}"),
    ("plan", "digits", "policy.model={}"),
    ("serve", "digits", "policy.model={}", "--show"),
    ("rollout", "digits", "--model", "{}"),
    ("audit", "digits", "--model", "{}"),
    ("evaluate", "digits", "--model", "{}"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_it_before_torch_is_imported(command, here):
    program = (
        "import sys\nfrom gpg_vl.cli import main\n"
        "try:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    )
    words = [word.format("runs/digit") for word in command]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    key = "--model" if "--model" in command else "policy.model"
    assert done.stderr == (
        f"gpg-vl: {key}: 'runs/digit' cannot be loaded: there is no such folder; did you mean "
        "runs/digits?\n"
    )


# --- a hub that does not answer -------------------------------------------------------------------


@pytest.fixture
def mute_hub() -> Iterator[str]:
    """A server that takes every connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            try:
                while True:
                    taken.append(server.accept()[0])
            except OSError:  # closed at the end of the test
                pass

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


def ask(endpoint: str, name: str, folder: Path) -> str:
    """The sentence of a process that may ask a hub for a model."""
    program = (
        "import sys\nfrom gpg_vl.policy import model_folder\nfrom gpg_vl.errors import UserError\n"
        "model_folder.HUB_SECONDS = 0.5\n"
        "try:\n    model_folder.find_model(sys.argv[1])\n"
        "except UserError as error:\n    print(error)"
    )
    online = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder)}
    del online["HF_HUB_OFFLINE"]
    command = [sys.executable, "-c", program, name]
    done = subprocess.run(command, capture_output=True, text=True, env=online, check=True)
    return done.stdout


def test_a_hub_that_cannot_be_reached_is_named_with_what_was_tried(tmp_path):
    nobody = "http://127.0.0.1:9"
    told = ask(nobody, "lab/tiny", tmp_path)
    assert told.startswith(
        "policy.model: 'lab/tiny' cannot be loaded: no folder of that name is here, and it is not "
        f"in the hub's cache, and the hub at {nobody} cannot be reached: "
    )
    assert "./nothing" in ask(nobody, "./nothing", tmp_path)


def test_a_hub_that_takes_the_question_and_never_answers_is_given_up(mute_hub, tmp_path):
    told = ask(mute_hub, "lab/tiny", tmp_path)
    assert f"the hub at {mute_hub} cannot be reached: ReadTimeout" in told


# --- what is resumed ------------------------------------------------------------------------------

NO_RUN = {
    "runs/digit": "there is no such folder; did you mean runs/digits?",
    "digits": "there is no such folder; did you mean runs/digits?",
    "runs": "holds runs and is none itself; name one of them: digits",
    "models/qwen": "is a model, not a run folder; train it with policy.model=models/qwen",
    "models": "no config.yaml there, so it is not a run folder",
    "own.txt": "is a file, expected a run folder",
    STEP_2: "with --from 2 from this one, and what came after it is dropped",
    f"{STEP_2}/policy": "with --from 2 from this one",
    "runs/digits/config.yaml": "/runs/digits continues it",
    "runs/digits/checkpoints": "/runs/digits continues it",
    "runs/digits/checkpoints/000050": "runs/digits/checkpoints holds 000002, 000010",
    "x" * 300: "there is no such folder",
}


@pytest.mark.parametrize("name", NO_RUN)
def test_what_is_no_run_says_what_it_is_and_what_is_meant(name, here):
    (here / "own.txt").write_text("")
    with pytest.raises(UserError, match=re.escape(NO_RUN[name])) as refused:
        find_run(Path(name))
    assert str(refused.value).startswith("--resume ")


def test_a_run_is_found_with_a_tilde_and_with_blanks(here):
    assert find_run(Path("~/runs/digits")) == here / "runs" / "digits"
    (here / "runs" / "digits").rename(here / "runs" / "my digits")
    assert find_run(Path("runs/my digits")) == Path("runs/my digits")
    with pytest.raises(UserError, match=r"gpg-vl train --resume '.*/runs/my digits' continues it"):
        find_run(Path("runs/my digits/checkpoints"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--from", 2), "--from 2 names a checkpoint of a run that goes on: give --resume RUN too"),
        (("digits", "--from", 2), "give --resume RUN too"),
        (
            ("--resume", "runs/digits", "--from", 3),
            "runs/digits holds no checkpoint of step 3; it holds 2, 10",
        ),
    ],
)
def test_an_earlier_step_needs_a_run_that_holds_it(words, sentence, here):
    done = gpg_vl("train", *words, cwd=Path())
    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_name_given_again_is_the_model_that_a_run_began_with(here):
    begun = find("runs/digits").name
    newer = here / "runs" / "digits" / "checkpoints" / "000020"
    (newer / "policy").mkdir(parents=True)
    (newer / "state.json").write_text("{}")
    assert find("runs/digits").name != begun
    assert models.is_same(begun, find("runs/digits"), Path())
    assert not models.is_same(begun, find(STEP_2), Path())
    assert models.is_same(begun, find(STEP_10), Path())
    assert models.is_same("models/qwen", find("./models/qwen"), Path()), "of an older run folder"
    assert models.is_same("lab/a", find("lab/a"), Path())
    assert not models.is_same("tiny", find("models/qwen"), Path())
