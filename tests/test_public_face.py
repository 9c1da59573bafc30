"""The names that `import gpg_vl` offers: imported at their first use, and enough to train."""

import subprocess
import sys

import pytest

import gpg_vl
from tests.commands import HERE


def in_a_new_process(program: str) -> str:
    """Run a Python program without anything imported yet, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_heavy_library():
    printed = in_a_new_process(
        "import sys, gpg_vl; print({'torch', 'transformers', 'numpy', 'PIL'} & sys.modules.keys())"
    )
    assert printed == "set()\n"


@pytest.mark.parametrize("name", gpg_vl.__all__)
def test_every_public_name_is_imported_at_its_first_use(name):
    module, _, attribute = gpg_vl._HOMES[name].partition(":")
    assert getattr(gpg_vl, name) is getattr(sys.modules[module], attribute)


def test_the_public_names_are_listed_in_order_and_each_once():
    assert gpg_vl.__all__ == sorted(set(gpg_vl.__all__)) == sorted(gpg_vl._HOMES)


@pytest.mark.parametrize("name", ["Sample", "Verdict", "RuleVerifier", "Grade", "load_config"])
def test_types_verifiers_and_configs_need_no_torch(name):
    printed = in_a_new_process(
        f"import sys; from gpg_vl import {name}; "
        "print({'torch', 'transformers'} & sys.modules.keys())"
    )
    assert printed == "set()\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'gpg_vl' has no attribute 'trian'"):
        _ = gpg_vl.trian


def test_a_run_is_trained_by_public_names_alone(tmp_path):
    knobs = [
        f"folder={tmp_path}",
        "steps=1",
        "warmup.steps=1",
        "evaluation.benchmark=null",
        "rollout.gate.every=0",
    ]
    config = gpg_vl.load_config(str(HERE / "small.yaml"), knobs)
    lines: list[str] = []
    steps: list[int] = []
    run = gpg_vl.train(
        gpg_vl.Experiment.resolve(config),
        callbacks=[lambda step, metrics: steps.append(step)],
        log=lines.append,
    )
    assert run == tmp_path / "small"
    assert steps == [1]
    assert any(line.startswith("warm-up 1/1: loss") for line in lines)
    assert (run / "checkpoints" / "000001" / "policy" / "model.safetensors").is_file()
