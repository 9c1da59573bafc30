"""Every YAML block of docs/data.md reads a file of exactly the format that it is about."""

import re
from pathlib import Path

import pytest
import yaml

from gpg_vl.config.loading import parse
from gpg_vl.config.schema import Source
from tests.public_formats import FORMATS, check_samples, samples_and_reasons

PAGE = Path(__file__).parent.parent / "docs" / "data.md"


def blocks() -> list[tuple[str, str]]:
    """Every YAML block of the page with the heading above it."""
    found: list[tuple[str, str]] = []
    heading = ""
    for part in re.split(r"^(#+ [^\n]*|```yaml\n.*?^```)$", PAGE.read_text(), flags=re.S | re.M):
        if part.startswith("#"):
            heading = part.lstrip("# ")
        elif part.startswith("```yaml"):
            found.append((heading, part.removeprefix("```yaml\n").removesuffix("```")))
    return found


def sources_of(block: str) -> list[Source]:
    values = yaml.safe_load(block)
    listed = values["data"] if isinstance(values, dict) else values
    return [parse(Source, source, "docs/data.md") for source in listed]


def test_each_format_of_the_page_is_tried_and_each_tried_format_is_on_the_page():
    assert [heading for heading, _ in blocks()] == list(FORMATS)


@pytest.mark.parametrize(("heading", "block"), blocks(), ids=[heading for heading, _ in blocks()])
def test_the_yaml_reads_the_format(heading, block, tmp_path):
    made = FORMATS[heading]
    made.make(tmp_path)
    samples, reasons = samples_and_reasons(sources_of(block), tmp_path)
    check_samples(samples, made.expected)
    assert len(reasons) == len(made.left_out), reasons
    for why, words in zip(reasons, made.left_out, strict=True):
        assert words in why
