"""The README stays true: its commands run, its examples work, its tree is the tree."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from gpg_vl.config.loading import load
from tests.commands import HERE, gpg_vl
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else ""
SMALL = ["rollout.groups_per_step=4", "rollout.group_size=4"]
SHORT = ["warmup.steps=1", "warmup.batch_size=4", "evaluation.benchmark=null", *SMALL]
QUICK = {
    "train": ["steps=1", "rollout.max_rounds=1", *SHORT],
    "sft": SHORT,
    "evaluate": [f"benchmark.data.{place}.options.count=8" for place in range(3)],
}
"""Command -> knobs that make it short."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "\n".join(blocks("bash")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gpg-vl ")]


def needs_vllm(command: list[str]) -> bool:
    """Those are run where vLLM is: tests/vllm/test_readme.py."""
    return command[0] == "serve" or any(word.startswith("rollout.engine=") for word in command)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with a run named `digits` in it, as the README's commands find it."""
    folder = tmp_path_factory.mktemp("readme")
    done = gpg_vl("train", "small.yaml", f"folder={folder / 'runs'}", "name=digits", cwd=HERE)
    assert done.returncode == 0, done.stderr
    return folder


def few_questions(config: str) -> list[str]:
    """Knobs that make forty questions of every source of a shipped config: thousands are drawn in seconds."""
    given = load(config)
    sources = {"data": given.data, "warmup.data": given.warmup.data}
    return [f"{key}.{place}.options.count=40" for key, listed in sources.items() for place in range(len(listed))]


def shortened(command: list[str]) -> list[str]:
    """What is added to a command of the README so that it takes seconds."""
    if {"--help", "--resume"} & set(command):
        return []
    own = QUICK.get(command[0], [])
    if command[0] not in {"train", "sft", "rollout"}:
        return own
    config = next((word for word in command[1:] if "=" not in word and not word.startswith("-")), "digits")
    return [*own, *few_questions(config)]


@pytest.mark.parametrize("command", [command for command in commands() if not needs_vllm(command)], ids=" ".join)
def test_command_runs(command, workplace):
    options = shortened(command)
    if command == ["train"]:
        options = [*options, "name=fresh"]  # runs/digits is taken by now
    done = gpg_vl(*command, *options, cwd=workplace)
    assert done.returncode == 0, done.stderr


def test_exactly_two_commands_install():
    installs = [line for block in blocks("bash") for line in block.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert installs[0].endswith("gpg-vl train")
    assert installs[1].endswith("-m pytest -n logical")


def test_own_verifier_and_data_set_train(tmp_path):
    for block in [*blocks("python"), *blocks("yaml")]:
        if named := re.match(r"# (\S+\.(?:py|yaml))\n", block):
            (tmp_path / named[1]).write_text(block.removeprefix(named[0]))
    assert {path.name for path in tmp_path.iterdir()} == {"rewards.py", "squares.py", "mine.yaml"}
    done = gpg_vl("train", "mine.yaml", "data.0.options.count=40", "warmup.steps=10", "rollout.idle_steps=9", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "mine" / "checkpoints" / "000004").is_dir()


def test_every_other_config_in_it_is_valid():
    import yaml

    from gpg_vl.config.loading import parse
    from gpg_vl.config.schema import Config

    for block in blocks("yaml"):
        parse(Config, yaml.safe_load(block), "README")


def test_tree_names_every_module():
    (tree,) = re.findall(r"^```\n(gpg_vl/\n.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    for path in sorted((ROOT / "gpg_vl").iterdir()):
        if path.suffix == ".py" and not path.name.startswith("__"):
            assert f"\n  {path.name} " in tree, f"{path.name} is missing in the README's tree"
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"\n  {path.name}/ " in tree, f"{path.name}/ is missing in the README's tree"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_every_shipped_config_starts_with_its_promise():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.read_text().startswith("# "), path


def test_empty_folder_needs_no_checkout(tmp_path):
    shutil.copy(HERE / "small.yaml", tmp_path)
    shutil.copy(HERE / "small_benchmark.yaml", tmp_path)
    done = gpg_vl("train", "small.yaml", "steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "small" / "metrics.jsonl").is_file()
