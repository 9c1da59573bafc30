"""Real weights, for the tests below only where GPG_VL_REAL names a folder to fetch them into;
there their absence is a failure."""

import os
from pathlib import Path

import pytest

FOLDER = os.environ.get("GPG_VL_REAL")
collect_ignore_glob = [] if FOLDER else ["test_*.py"]


@pytest.fixture(scope="session")
def smolqwen() -> Path:
    """The folder of SmolLM2-135M-Instruct as a Qwen2-VL."""
    from tests.real.smollm2 import checkpoint

    assert FOLDER
    return checkpoint(Path(FOLDER))
