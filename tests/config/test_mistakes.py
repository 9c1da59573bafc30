"""Values that a config cannot hold: each kind of mistake in plain words, blamed on who made it."""

import datetime
import re
from typing import Any

import pytest

from gpg_vl.config import loading
from gpg_vl.config.knobs import knobs_of
from gpg_vl.config.schema import Config, Source
from gpg_vl.errors import UserError

TYPED = {
    "steps=ten": "steps: got 'ten', expected a whole number",
    "steps=1.5": "steps: got 1.5, expected a whole number",
    "steps=-1": "steps: got -1, expected at least 0",
    "steps=.inf": "steps: got inf, expected a finite number",
    "optimizer.lr=big": "optimizer.lr: got 'big', expected a number",
    "optimizer.lr=0": "optimizer.lr: got 0, expected a number above 0",
    "optimizer.betas=[0.9, 1]": "optimizer.betas.1: got 1, expected a number below 1",
    "optimizer.betas=[0.5]": "optimizer.betas: got [0.5], expected a longer list",
    "optimizer.betas=[]": "optimizer.betas: got [], expected a longer list",
    "optimizer.betas=[0, 0, 0]": ("optimizer.betas: got [0, 0, 0], expected a list of at most 2"),
    "rollout.max_lost=2": "rollout.max_lost: got 2, expected at most 1",
    "policy.tiny.hidden=33": "policy.tiny.hidden: got 33, expected a multiple of 32",
    "learner.shared_prefix=maybe": ("learner.shared_prefix: got 'maybe', expected true or false"),
    "learner.tokens_per_microbatch=x": (
        "learner.tokens_per_microbatch: got 'x', expected 'auto' or a whole number"
    ),
    "policy.dtype=bfloat": (
        "policy.dtype: got 'bfloat', expected 'float32', 'bfloat16' or 'float64'; did you mean "
        "bfloat16?"
    ),
    "optimizer.lrr=1": "optimizer.lrr=1: no such key; did you mean lr?",
    "stepps.every=4": "stepps.every=4: no such key; did you mean steps?",
    "policy.vision=froze": (
        "policy.vision: got 'froze', expected 'frozen', 'full' or 'lora'; did you mean frozen?"
    ),
    "name=null": (
        "name: got nothing, expected a text; give it a value, or leave the key out where it has a "
        "default"
    ),
    "name=2026-11-30": "name: got 2026-11-30, expected a text; in quotes it is one: '2026-11-30'",
    "tracking.tags=[1]": "tracking.tags.0: got 1, expected a text; in quotes it is one: '1'",
    "trackers=wandb": "trackers: got 'wandb', expected a list: ['wandb']",
    "data={recipe: digits}": (
        "data: got {'recipe': 'digits'}, expected a list; in brackets it is one"
    ),
    "data=[]": "data: got [], expected a list of at least 1",
    "data=[digits]": (
        "data.0: got 'digits', expected keys with their values; gpg-vl knobs source lists them"
    ),
    "data=[{recpe: digits}]": "data.0.recpe: no such key; did you mean recipe?",
    "data.0.hub=x": ("data.0: a source needs exactly one of recipe, files, hub; got recipe, hub"),
    "data.0.columns={answer: 3}": (
        "data.0.columns.answer: got 3, expected a text or a list; in quotes it is one: '3'"
    ),
    "data.0.columns={answer: [a, 3]}": (
        "data.0.columns.answer.1: got 3, expected a text; in quotes it is one: '3'"
    ),
    "data.0.options={1: 2}": ("data.0.options.1: got 1, expected a text; in quotes it is one: '1'"),
    "policy={min_pixels: 9, max_pixels: 4}": (
        "policy: got min_pixels 9 above max_pixels 4; exchange them"
    ),
    "rollout=5": (
        "rollout: got 5, expected keys with their values; gpg-vl knobs rollout lists them"
    ),
    "optimizer=": (
        "optimizer: got nothing, expected keys with their values; give it a value, or leave the "
        "key out where it has a default"
    ),
    "estimator=3": "estimator: got 3, expected a text or keys with their values",
    "optimizer.betas.0.x=1": (
        "optimizer.betas.0.x=1: optimizer.betas.0 is 0.9, which has no keys; set optimizer.betas.0 "
        "itself"
    ),
}


@pytest.mark.parametrize("item", TYPED)
def test_what_was_typed_gets_plain_words_and_no_file(item):
    with pytest.raises(UserError, match=f"^{re.escape(TYPED[item])}$"):
        loading.load("digits", [item])


@pytest.mark.parametrize("item", ["trackers.0.x=1", "data.0.x=1"])
def test_an_item_of_a_list_that_has_no_keys_is_refused(item, tmp_path):
    (tmp_path / "mine.yaml").write_text("data: [digits]\ntrackers: [wandb]")
    with pytest.raises(UserError, match="which has no keys; set "):
        loading.load(str(tmp_path / "mine.yaml"), [item])


def test_an_item_of_a_default_list_is_set():
    assert loading.load("digits", ["optimizer.betas.0=0.5"]).optimizer.betas == (0.5, 0.99)


ODD = [
    *(None, True, 3, -1, 0.5, float("nan"), float("inf"), "x", "", [], ["x"], [1], [[]], {}),
    *({"a": 1}, {1: 2}, datetime.date(2026, 11, 30), 10**400, b"x"),
]
KEYS = [knob.key for knob in knobs_of(Config)]


@pytest.mark.parametrize("key", [*KEYS, *(f"data.0.{knob.key}" for knob in knobs_of(Source))])
def test_no_knob_answers_in_the_words_of_pydantic(key):
    messages: list[str] = []
    for odd in ODD:
        values: dict[str, Any] = {"data": [{"recipe": "digits"}]}
        section = values["data"][0] if key.startswith("data.0.") else values
        *sections, last = key.removeprefix("data.0.").split(".")
        for step in sections:
            section = section.setdefault(step, {})
        section[last] = odd
        try:
            loading.parse(Config, values, "mine.yaml")
        except UserError as error:
            messages.append(str(error))
    assert not re.search(r"[Ii]nput|should|valid|instance|[Tt]uple|dict", " ".join(messages))
    assert messages or key.endswith("options") or key.endswith("defaults")


# --- who made the mistake -------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: [{recipe: digits}]\nstepz: 3\n")
    return str(tmp_path / "mine.yaml")


def test_typed_mistakes_are_not_headed_by_the_file():
    lines = [
        "2 mistakes",
        "  steps: got 'ten', expected a whole number",
        "  rollout.group_size: got 1, expected at least 2",
    ]
    with pytest.raises(UserError, match=f"^{re.escape(chr(10).join(lines))}$"):
        loading.load("digits", ["steps=ten", "rollout.group_size=1"])


def test_a_mistake_of_the_file_beside_a_typed_one_names_the_file(mine):
    lines = [
        "2 mistakes",
        "  seed: got 'x', expected a whole number",
        f"  {mine}: stepz: no such key; did you mean steps?",
    ]
    with pytest.raises(UserError, match=f"^{re.escape(chr(10).join(lines))}$"):
        loading.load(mine, ["seed=x"])


# --- files that cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"steps: 1\nname: a\nsteps: 2\n", "not YAML: the key steps stands twice at line 3"),
        (b"optimizer: {lr: 1, lr: 2}\n", "not YAML: the key lr stands twice at line 1"),
        (b"name: caf\xe9\n", "not UTF-8 (byte 9: invalid continuation byte); save it as UTF-8"),
        ("name: é\n".encode("utf-16"), "not UTF-8 (byte 0: invalid start byte); save it as UTF-8"),
        (b"name: 2026-02-30\n", "not YAML: day is out of range for month"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_name(content, sentence, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(f'{file}: {sentence}')}"):
        loading.load(str(file))


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.yaml").write_text("")
    monkeypatch.setattr(type(tmp_path), "read_text", refuse)
    with pytest.raises(UserError, match=r"mine\.yaml: cannot be read: Permission denied$"):
        loading.load(str(tmp_path / "mine.yaml"))


def test_keys_that_are_merged_in_may_be_set_again(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "data:\n- &a {recipe: digits, weight: 2, options: {task: add}}\n"
        "- &b {<<: *a, weight: 3}\n- {<<: *b, options: {task: count}}\n"
    )
    sources = loading.load(str(file)).data
    assert [source.weight for source in sources] == [2, 3, 3]
    assert sources[2].options == {"task": "count"}
