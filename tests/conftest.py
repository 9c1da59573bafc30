"""Share between all tests: one thread, no network, one tiny policy per family."""

import importlib.util
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before anything imports torch, or asks how wide the terminal is: pytest-xdist tells its workers
# its own width. The tests that want two threads would spin while they wait for a core that another
# worker has.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "COLUMNS": "200"}
# Under `nohup`, or behind a shell's `&`, commands would ignore a closed terminal and Ctrl-C; they
# inherit this.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Nor does a test read or write what the user's own runs keep; commands that it starts inherit this.
CACHES = tempfile.TemporaryDirectory(prefix="gpg_vl-caches-")
os.environ |= {"XDG_CACHE_HOME": CACHES.name, "HF_DATASETS_CACHE": f"{CACHES.name}/datasets"}

ROOT = Path(__file__).parent.parent
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile(
        "push", max_examples=50, deadline=None, derandomize=True, database=None
    )
    settings.register_profile(
        "nightly",
        settings.get_profile("push"),
        max_examples=2000,
        derandomize=False,
        print_blob=True,
    )
    settings.load_profile("push")  # pytest --hypothesis-profile=nightly takes the other


SLOWEST = (
    "test_kill",
    "test_vision_gate",
    "test_rounding",
    "test_train",
    "test_cli",
    "test_gate_and_pictures",
    "test_group_forward",
    "test_readme",
)
"""Files that two workers begin with, so that neither waits long for the other at the end."""


def pytest_configure(config: pytest.Config) -> None:
    """Let `pytest -n 2` give a worker a whole file, in the order below.

    So what the tests of a file share is made once.
    """
    if getattr(config.option, "numprocesses", None):
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


def pytest_unconfigure() -> None:
    """Remove the caches of this session."""
    CACHES.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first, each in its own order."""
    rank = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_the_repository() -> Iterator[None]:
    """Check that tests write into folders of their own."""
    watched = (ROOT, ROOT / "tests")  # commands run in tests/ unless a test says otherwise
    before = {path for folder in watched for path in folder.iterdir()}
    yield
    after = {path for folder in watched for path in folder.iterdir()}
    assert not {path.name for path in after - before} - {
        ".pytest_cache",
        ".hypothesis",
        "__pycache__",
    }


@cache
def _tiny_checkpoint(folder: Path, family: str) -> Path:
    from gpg_vl.config.schema import Tiny
    from gpg_vl.policy import tiny
    from gpg_vl.policy.processor import choose_backend

    shape = Tiny(family=family)  # type: ignore[arg-type]
    tokenizer = tiny.build_tokenizer()
    model = tiny.build_model(tokenizer, shape, seed=0)
    model.save_pretrained(folder / family)
    processor = tiny.build_processor(tokenizer, family, choose_backend("auto"))
    processor.save_pretrained(folder / family)
    return folder / family


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny checkpoint of a family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda family: _tiny_checkpoint(folder, family)


@pytest.fixture
def policy_of(checkpoints: Callable[[str], Path]) -> Callable[..., Any]:
    """Load a tiny policy anew: `policy_of("qwen2_vl", dtype="float64")`.

    Every part of it is trained, unless the arguments say otherwise.
    """
    from gpg_vl.config.schema import PolicyConfig
    from gpg_vl.policy.load import load_policy

    def load(family: str = "qwen2_5_vl", **config: Any) -> Any:
        return load_policy(
            PolicyConfig(**{"vision": "full", **config}), seed=0, path=checkpoints(family)
        )

    return load


@pytest.fixture(scope="session")
def sighted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a checkpoint whose answers depend on their pictures: a short warm-up on boxes."""
    from gpg_vl.config import loading
    from gpg_vl.experiment import Experiment
    from gpg_vl.training.loop import train

    knobs = [
        "steps=0",
        "data.0.options.count=40",
        "warmup.steps=100",
        "warmup.batch_size=16",
        "warmup.data.0.options.count=800",
        "evaluation.benchmark=null",
        "rollout.gate.every=0",
        f"folder={tmp_path_factory.mktemp('sighted')}",
    ]
    experiment = Experiment.resolve(loading.load("digits_box", knobs))
    run = train(experiment, log=lambda line: None)
    return run / "checkpoints" / "000000" / "policy"
