"""From a name in a config to an object: aliases, import paths, files beside the config, and the
sentence each mistake earns."""

import re
import sys
from pathlib import Path

import pytest

from gpg_vl.config import plugins
from gpg_vl.config.schema import Source
from gpg_vl.data import sources
from gpg_vl.data.recipes import ALIASES as RECIPES
from gpg_vl.errors import UserError
from gpg_vl.methods.gpg import Gpg
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.verifiers import ALIASES
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.number import Number

STARS = """
from abc import ABC, abstractmethod
from dataclasses import dataclass

@dataclass(frozen=True)
class Stars:
    best: int = 5

class Own(Stars):
    def __init__(self, depth=1):
        super().__init__(best=depth + 1)
        object.__setattr__(self, "depth", depth)

class Plain:
    def __init__(self, depth=1):
        self.depth = depth

class Unfinished(ABC):
    @abstractmethod
    def rate(self): ...

def counted(start: int, step: int = 1, most: int | str = 9):
    return start + step
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A config's folder with a file of the user's in it; sys.path and sys.modules are as before
    afterwards."""
    (tmp_path / "my_rewards.py").write_text(STARS)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def build(spec, folder=Path(), aliases=ALIASES, **given):
    return plugins.build(spec, aliases, base_dir=folder, key="verifiers.stars", given=given)


def refused(sentence):
    return pytest.raises(UserError, match=f"^{re.escape(sentence)}$")


# --- names ----------------------------------------------------------------------------------------


def test_an_alias_is_an_import_path():
    assert plugins.resolve("boxes", ALIASES, Path()) is Boxes


def test_an_import_path_needs_no_alias():
    assert plugins.resolve("gpg_vl.verifiers.number:Number", {}, Path()) is Number


def test_a_file_is_looked_for_beside_the_config(folder):
    stars = plugins.resolve("./my_rewards.py:Stars", ALIASES, folder)
    assert stars().best == 5
    assert plugins.resolve("./my_rewards.py:Stars", ALIASES, folder) is stars


def test_a_file_of_the_users_is_importable_for_worker_processes(folder):
    stars = plugins.resolve("./my_rewards.py:Stars", ALIASES, folder)
    assert stars.__module__ == "my_rewards"
    assert str(folder) in sys.path


def test_two_files_of_one_name_do_not_mix(folder):
    other = folder / "other"
    other.mkdir()
    (other / "my_rewards.py").write_text(STARS.replace("5", "10"))
    assert plugins.resolve("./my_rewards.py:Stars", {}, folder)().best == 5
    assert plugins.resolve("./my_rewards.py:Stars", {}, other)().best == 10


def test_a_file_may_be_called_like_a_library(folder):
    (folder / "json.py").write_text(STARS)
    assert plugins.resolve("./json.py:Stars", {}, folder)().best == 5


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "boxs",
            (
                "got 'boxs', expected a known name or an import path such as my_lab.rewards:Stars; "
                "did you mean boxes?"
            ),
        ),
        (
            "zzz",
            (
                "got 'zzz', expected a known name or an import path such as my_lab.rewards:Stars; "
                "known: boxes, choice, number"
            ),
        ),
        (
            "nowhere_at_all:Stars",
            (
                "no module named 'nowhere_at_all'; is it installed, or does it stand beside the "
                "config as ./nowhere_at_all.py:Name?"
            ),
        ),
        (
            "gpg_vl.verifiers.number:Numbr",
            (
                "gpg_vl.verifiers.number:Numbr: gpg_vl.verifiers.number has no 'Numbr'; it is the "
                "name of a class or function defined there"
            ),
        ),
    ],
)
def test_names_that_lead_nowhere(name, sentence):
    aliases = {name: ALIASES[name] for name in ("boxes", "choice", "number")}
    with refused(sentence):
        plugins.resolve(name, aliases, Path())


def test_a_missing_file(folder):
    with refused(
        f"{folder / 'missing.py'}: no such file; a path with ./ is looked for beside the config"
    ):
        plugins.resolve("./missing.py:Stars", ALIASES, folder)
    (folder / "neighbours.py").write_text("")
    with refused(f"{folder / 'neighbour.py'}: no such file; did you mean {folder}/neighbours.py?"):
        plugins.resolve("./neighbour.py:Close", ALIASES, folder)


@pytest.mark.parametrize(
    "name", ["./my_rewards:Stars", ":Stars", "gpg_vl.verifiers.number:", "./my_rewards.py:"]
)
def test_a_path_that_is_none_gets_a_sentence(folder, name):
    with pytest.raises(UserError):
        plugins.resolve(name, ALIASES, folder)


# --- parts ----------------------------------------------------------------------------------------


def test_the_keys_beside_kind_are_the_fields():
    assert build({"kind": "boxes", "threshold": 0.5, "measure": "giou"}) == Boxes(
        threshold=0.5, measure="giou"
    )
    assert build("number") == build({"kind": "number"}) == Number()


def test_what_the_run_knows_fills_the_fields_that_the_spec_leaves_open():
    assert build("number", style=AnswerOnly(), combine="sum", unheard_of=1) == Number(
        style=AnswerOnly(), combine="sum"
    )
    assert build({"kind": "number", "combine": "gate"}, combine="sum").combine == "gate"


def test_a_given_style_keeps_its_own_class():
    assert type(build("number", style=AnswerOnly()).style) is AnswerOnly
    assert type(build("number", style=Style()).style) is Style


def test_classes_and_functions_of_the_users_are_built_like_ours(folder):
    assert build({"kind": "./my_rewards.py:Stars", "best": 3}, folder).best == 3
    assert build({"kind": "./my_rewards.py:Plain", "depth": 2}, folder).depth == 2
    assert build({"kind": "./my_rewards.py:counted", "start": 2}, folder) == 3


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            "boxs",
            (
                "got 'boxs', expected a known name or an import path such as my_lab.rewards:Stars; "
                "did you mean boxes?"
            ),
        ),
        ({"best": 3}, "got {'best': 3}, expected a name or a mapping with `kind: NAME`"),
        ({"kind": 5}, "got {'kind': 5}, expected a name or a mapping with `kind: NAME`"),
        (
            {"kind": "boxes", "threshold": "high"},
            "threshold: got 'high', expected a number",
        ),
        (
            {"kind": "boxes", "measure": "iuo"},
            "measure: got 'iuo', expected 'iou' or 'giou'; did you mean iou?",
        ),
        (
            {"kind": "./my_rewards.py:counted", "start": "two"},
            "start: got 'two', expected a whole number",
        ),
        (
            {"kind": "./my_rewards.py:counted", "start": 1, "most": [1]},
            "most: got [1], expected a whole number or a text",
        ),
        ({"kind": "./my_rewards.py:Unfinished"}, "Unfinished does not define rate"),
    ],
)
def test_a_mistake_in_a_part_names_key_got_and_expected(folder, spec, sentence):
    with refused(f"verifiers.stars: {sentence}"):
        build(spec, folder)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"kind": "boxes", "treshold": 0.5}, "treshold: no such key; did you mean threshold?"),
        ({"kind": "./my_rewards.py:Stars", "zzz": 1}, "zzz: no such key; known here: best"),
        (
            {"kind": "./my_rewards.py:counted", "strat": 1},
            "strat: no such key; did you mean start?",
        ),
    ],
)
def test_an_unknown_key_names_its_neighbour(folder, spec, sentence):
    with refused(f"verifiers.stars.{sentence}"):
        build(spec, folder)


def test_a_part_may_refuse_in_its_own_words():
    with refused("estimator.min_informative: got 2.0, expected a share from 0 to 1"):
        build({"kind": "gpg_vl.methods.gpg:Gpg", "min_informative": 2})
    assert build({"kind": "gpg_vl.methods.gpg:Gpg", "groups_per_step": 4}) == Gpg(groups_per_step=4)


def test_a_forgotten_argument_is_reported_in_words_of_the_config():
    with pytest.raises(UserError, match=r"^data\.0: task\b.*missing") as caught:
        plugins.build("digits", RECIPES, base_dir=Path(), key="data.0", given={})
    assert "ArgsKwargs" not in str(caught.value)


def test_a_recipes_options_are_checked():
    with refused(
        "data.0: task: got 'cuont', expected 'count', 'count_of', 'choice', 'box', 'compare'"
        " or 'add'; did you mean count?"
    ):
        plugins.build(
            {"kind": "digits", "task": "cuont"}, RECIPES, base_dir=Path(), key="data.0", given={}
        )


# --- the source of a part ------------------------------------------------------------------------


def test_a_source_hash_follows_the_file(folder):
    stars = plugins.resolve("./my_rewards.py:Stars", {}, folder)
    first = plugins.source_hash(stars)
    assert first == plugins.source_hash(stars())
    (folder / "my_rewards.py").write_text(STARS + "\n# changed\n")
    assert plugins.source_hash(stars) != first


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def squares(:\n    pass\n", r"squares.py line 1: invalid syntax"),
        (
            "import no_such_module_anywhere\n",
            r"squares.py line 1: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        ),
        (
            "def squares():\n    yield 1 / 0\n",
            r"squares.py line 2: ZeroDivisionError: division by zero",
        ),
    ],
)
def test_a_mistake_in_a_file_of_the_users_is_reported_with_file_and_line(source, message, tmp_path):
    (tmp_path / "squares.py").write_text(source)
    with pytest.raises(UserError, match=message):
        list(
            sources.read_source(
                Source(recipe="./squares.py:squares"), base_dir=tmp_path, key="data.0"
            )
        )


def test_a_class_derived_from_a_dataclass_may_have_an_init_of_its_own(folder):
    made = build({"kind": "./my_rewards.py:Own", "depth": 3}, folder)
    assert (made.depth, made.best) == (3, 4)
    assert build("./my_rewards.py:Own", folder, depth=2).depth == 2
    with refused("verifiers.stars.best: no such key; known here: depth"):
        build({"kind": "./my_rewards.py:Own", "best": 3}, folder)
