"""Share between the tests of vLLM's engines: how a config names them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpg_vl import rollout
from gpg_vl.config import plugins


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Any]:
    """Engines as a config names them; servers take weights from a folder of the test's own."""

    def made(policy: Any, engine: str | dict[str, Any], **given: Any) -> Any:
        spec = {"kind": engine} if isinstance(engine, str) else engine
        spec = (
            {"handover": str(tmp_path / "handover"), **spec} if spec["kind"] == "server" else spec
        )
        return plugins.build(
            spec,
            rollout.ALIASES,
            base_dir=Path(),
            key="rollout.engine",
            given={"policy": policy, **given},
        )

    return made
