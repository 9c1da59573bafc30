"""What a shell offers behind TAB, asked in a process of its own: typer's protocol."""

import subprocess
import sys

import pytest

from tests.commands import HERE


def completed(words: str, place: int, cwd) -> list[str]:
    """What a bash would offer, from a process of its own: the protocol of typer's completion."""
    done = subprocess.run(
        [sys.executable, "-m", "gpg_vl"],
        cwd=cwd,
        env={
            "PATH": "/usr/bin",
            "PYTHONPATH": str(HERE.parent),
            "_GPG_VL_COMPLETE": "complete_bash",
            "COMP_WORDS": f"gpg-vl {words}",
            "COMP_CWORD": str(place),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "place", "expected"),
    [
        ("tr", 1, ["train"]),
        ("train dig", 2, ["digits", "digits_box", "digits_choice", "digits_count"]),
        ("train mi", 2, ["mine.yaml"]),
        ("train ste", 2, ["steps=", "steps=100"]),
        (
            "train digits policy.vis",
            3,
            [
                "policy.vision=",
                "policy.vision=frozen",
                "policy.vision=full",
                "policy.vision=lora",
            ],
        ),
        # bash splits words at the sign
        ("train digits policy.vision = fr", 5, ["frozen"]),
        ("train digits policy.vision =", 4, ["frozen", "full", "lora"]),
        ("train digits seed = 3 hardware.gp", 6, ["hardware.gpus=", "hardware.gpus=1"]),
        ("train digits hardware.g", 3, ["hardware.gpus=", "hardware.gb="]),
        ("train digits dat", 3, ["data=", "data=["]),
        ("train --res", 2, ["--resume"]),
        ("show sat_", 2, ["sat_recommended"]),
        ("evaluate superc", 2, ["superclevr"]),
        ("evaluate digits benchmark.samp", 3, ["benchmark.samples=", "benchmark.samples=4"]),
        ("knobs optimizer.cl", 2, ["optimizer.clip_norm"]),
        ("train digits nonsense", 3, []),
    ],
)
def test_a_shell_completes_configs_and_knobs(words, place, expected, tmp_path):
    (tmp_path / "mine.yaml").write_text("")
    assert completed(words, place, tmp_path) == expected


def test_a_section_is_completed_before_its_knobs(tmp_path):
    found = completed("train digits ", 3, tmp_path)
    assert "steps=" in found
    assert "policy." in found
    assert not any(word.startswith("policy.v") for word in found)
    assert "policy.tiny." in completed("train digits policy.", 3, tmp_path)


def test_the_script_for_a_shell_is_printed():
    done = subprocess.run(
        [sys.executable, "-m", "gpg_vl"],
        env={
            "PYTHONPATH": str(HERE.parent),
            "_GPG_VL_COMPLETE": "source_bash",
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "complete -o default -F" in done.stdout
    assert "gpg-vl" in done.stdout
