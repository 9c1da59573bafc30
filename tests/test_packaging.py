"""What is installed is what was tested: pins, ranges and the stages of CI agree with each other."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from tests.conftest import ROOT

PINS = {
    name: ROOT / name
    for name in ("constraints.txt", ".ci/constraints-oldest.txt", ".ci/constraints-vllm.txt")
}


def pinned(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {_plain(name): version for name, version in (line.split("==") for line in lines)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [
        project["dependencies"],
        *(project["optional-dependencies"][extra] for extra in extras),
    ]
    return [Requirement(line) for group in groups for line in group]


@pytest.mark.parametrize("name", PINS)
def test_every_dependency_is_pinned_within_its_range(name):
    extras = {
        "constraints.txt": ["lora", "bench", "math", "detection", "trackers", "browser", "dev"],
        ".ci/constraints-oldest.txt": ["dev"],
    }.get(name, [])
    pins = pinned(PINS[name])
    for wanted in requirements(*extras):
        if wanted.name in {"torch", "gpg-vl"}:
            continue
        assert wanted.specifier.contains(pins[_plain(wanted.name)], prereleases=True), (
            f"{name}: {wanted}"
        )


@pytest.mark.parametrize("name", PINS)
def test_torch_and_what_belongs_to_a_card_stay_apart(name):
    pins = pinned(PINS[name])
    assert "torch" not in pins
    assert not [package for package in pins if package.startswith("nvidia")]
    assert name != "constraints.txt" or not {"torchvision", "triton"} & pins.keys()


def test_the_oldest_pins_hold_the_oldest_transformers_that_is_promised():
    (floor,) = (
        spec.version
        for wanted in requirements()
        if wanted.name == "transformers"
        for spec in wanted.specifier
        if spec.operator == ">="
    )
    assert pinned(PINS[".ci/constraints-oldest.txt"])["transformers"].startswith(f"{floor}.")


def test_both_commands_of_the_readme_install_the_pins():
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert all("-c constraints.txt -c constraints-cpu.txt" in command for command in commands)


def stages(listed: str) -> list[str]:
    """The names in one of the lists at the top of `.ci/run`."""
    return re.findall(rf"^{listed}=\((.*?)\)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)[
        0
    ].split()


@pytest.mark.parametrize(("listed", "workflow"), [("stages", "ci.yml"), ("nightly", "nightly.yml")])
def test_every_stage_is_a_function_and_has_a_job(listed, workflow):
    script = (ROOT / ".ci" / "run").read_text()
    assert all(re.search(rf"^{stage}\(\) ", script, re.MULTILINE) for stage in stages(listed))
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / workflow).read_text())["jobs"]
    alone = set(jobs) - {"stage"}
    assert sorted([*jobs["stage"]["strategy"]["matrix"]["stage"], *alone]) == sorted(stages(listed))
    assert all(jobs[name]["continue-on-error"] for name in alone), "what decides is in the matrix"


def test_what_runs_beside_the_others_is_a_stage_of_either_list():
    assert set(stages("beside")) <= set(stages("stages")) | set(stages("nightly"))
    assert not set(stages("stages")) & set(stages("nightly"))


def test_nothing_but_these_stands_at_the_top():
    folders = {
        *("configs", "data", "evaluation", "gpg_vl", "tests", ".ci", ".github"),
        *("docs", "examples", "benchmarks"),
    }
    files = {
        "CHANGELOG.md",
        "CITATION.cff",
        "LICENSE",
        "README.md",
        "constraints-cpu.txt",
        "constraints.txt",
        "justfile",
        "pyproject.toml",
        ".gitignore",
        ".pre-commit-config.yaml",
    }
    kept = {
        line.split("/")[0]
        for line in subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
        ).stdout.splitlines()
    }
    assert kept <= folders | files


def test_everything_at_the_top_is_in_the_source_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = set(project["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    kept = {
        line.split("/")[0]
        for line in subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
        ).stdout.splitlines()
    }
    # hatch always adds pyproject.toml and .gitignore
    assert {f"/{name}" for name in kept} - included <= {
        "/pyproject.toml",
        "/.gitignore",
        "/.pre-commit-config.yaml",
    }


def test_the_package_says_that_it_is_typed_and_how_it_is_cited():
    import gpg_vl

    assert (ROOT / "gpg_vl" / "py.typed").is_file()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == gpg_vl.__version__
    assert f"\n## {gpg_vl.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_no_index_is_named_but_torchs_own_in_the_workflow():
    for path in [
        ROOT / "README.md",
        ROOT / "pyproject.toml",
        *PINS.values(),
        *(ROOT / ".ci").iterdir(),
        ROOT / "constraints-cpu.txt",
    ]:
        assert not re.search(
            r"index-url|find-links|https?://\S*(?:whl|simple)", path.read_text()
        ), path
    named = re.findall(r"https?://\S+", (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert named == ["https://download.pytorch.org/whl/cpu"]
