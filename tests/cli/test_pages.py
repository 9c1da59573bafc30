"""Pages of --help: they fit a screen, name every command, and say what to type."""

import shlex
import subprocess
import sys

import pytest
import typer

import gpg_vl as package
from gpg_vl.cli import app
from gpg_vl.cli.pages import EXAMPLES, GROUPS, in_lines
from tests.commands import gpg_vl, gpg_vl_process
from tests.terminal import on_terminal

COMMANDS = [str(info.name or info.callback.__name__) for info in app.registered_commands]  # pyright: ignore[reportOptionalMemberAccess, reportFunctionMemberAccess]
LISTED = [name for sentences in GROUPS.values() for name in sentences]


def page_of(command: str) -> str:
    """The page of a command as wide as COLUMNS says; typer's runner of tests is always as wide."""
    root = typer.main.get_command(app)
    with root.make_context("gpg-vl", [command]) as ctx:
        _, found, _ = root.resolve_command(ctx, [command])  # pyright: ignore[reportAttributeAccessIssue]
        with found.make_context(command, [], parent=ctx, resilient_parsing=True) as inner:
            return found.get_help(inner)


def test_every_command_is_in_one_group_and_has_examples():
    assert sorted(COMMANDS) == sorted(set(LISTED) & set(COMMANDS))
    assert len(LISTED) == len(set(LISTED))
    for name in COMMANDS:
        assert EXAMPLES[name], name


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_first_page_fits_a_screen_with_options_last(option):
    code, shown = on_terminal(option, columns=80)
    assert code == 0
    lines = shown.splitlines()
    assert len(lines) <= 23  # and the prompt
    assert max(map(len, lines)) <= 80
    named = [line[8:18].strip() for line in lines if line[8:18].strip() in COMMANDS]
    assert named == [name for name in LISTED if name in COMMANDS]
    assert "--install-completion" in lines[-1]
    assert shown.count("completion") == 1


def test_no_words_at_all_ask_for_the_first_page():
    assert gpg_vl() == gpg_vl("--help")
    assert gpg_vl().returncode == 0


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_a_command_fits_a_screen(command, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    page = page_of(command)
    lines = page.splitlines()
    if columns >= 80:
        assert len(lines) <= 24, page
    examples = [f"  {line}" for line in EXAMPLES[command]]
    assert max(len(line) for line in lines if line not in examples) <= columns
    assert set(examples) <= set(lines)
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Examples:"
    assert headings[-1] == "Options:"
    assert "│" not in page
    if "KEY=VALUE..." in page and command != "data":
        assert "gpg-vl knobs" in page


@pytest.mark.parametrize("command", COMMANDS)
def test_both_options_print_the_page(command):
    done = gpg_vl(command, "-h")
    assert done.returncode == 0
    assert done == gpg_vl(command, "--help")
    assert done.stdout.startswith(f"Usage: gpg-vl {command} ")


@pytest.mark.parametrize("example", [line for name in COMMANDS for line in EXAMPLES[name]], ids=str)
def test_an_example_is_a_command_that_can_be_read(example):
    """Its words are read by the parser; nothing is run."""
    words = shlex.split(example.partition(" > ")[0], comments=True)[1:]
    root = typer.main.get_command(app)
    with root.make_context("gpg-vl", list(words)) as ctx:
        _, command, rest = root.resolve_command(ctx, list(words))
        with command.make_context(words[0], list(rest), parent=ctx):
            pass


def test_the_version():
    done = gpg_vl("--version")
    assert (done.returncode, done.stdout) == (0, f"gpg-vl {package.__version__}\n")
    assert package.__version__ == "0.1.0"


def test_a_mistake_is_one_sentence_on_stderr_without_a_box():
    done = gpg_vl_process("train", "--steps", "10")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gpg-vl: --steps is no option; a knob is written steps=10\n"


def test_a_reader_that_leaves_is_no_error():
    program = f"{sys.executable} -m gpg_vl knobs --all | head -1"
    done = subprocess.run(program, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("name=run  [text]  ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        ("steps=x: a long word here", ["steps=x: a long", "word here"]),
        ("see /home/me/runs/digits/x now", ["see", "/home/me/runs/digits/x", "now"]),
        ("go on: `gpg-vl train --resume x`, or", ["go on:", "`gpg-vl train --resume x`,", "or"]),
        ("2 mistakes\n  steps: a word too many", ["2 mistakes", "  steps: a word", "  too many"]),
        ("it is 'well-formed text", ["it is", "'well-formed text"]),
    ],
)
def test_a_message_is_broken_between_words_only(message, lines):
    assert in_lines(message, 17).split("\n") == lines
