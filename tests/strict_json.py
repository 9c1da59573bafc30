"""Read JSON lines as strictly as the standard has them: no NaN, no Infinity."""

import json
from pathlib import Path
from typing import Any


def strict_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file; a token that is no JSON fails."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{path}: {token} is no JSON")

    lines = path.read_text("utf-8").split("\n")
    assert lines.pop() == "", "the last line is whole"
    return [json.loads(line, parse_constant=refuse) for line in lines]
