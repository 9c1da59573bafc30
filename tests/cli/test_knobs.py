"""gpg-vl knobs: sections, the knobs of one, one knob, the fields of a shipped part."""

import pytest

from gpg_vl.cli.knob_pages import all_pages
from gpg_vl.config.knobs import knobs_of
from gpg_vl.config.schema import Config
from tests.commands import gpg_vl
from tests.terminal import on_terminal


def lines_of(*names: str) -> list[str]:
    done = gpg_vl("knobs", *names)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_sections_have_a_line_each():
    lines = lines_of()
    names = [line.split()[0] for line in lines]
    assert names[:3] == ["config", "policy", "policy.tiny"]
    assert {"rollout", "warmup.optimizer", "estimator", "verifiers", "source", "benchmark"} <= set(
        names
    )
    assert all(len(line.split()) > 1 for line in lines)


def test_a_section_lists_its_knobs_one_line_each():
    lines = lines_of("rollout")
    own = [knob.key for knob in knobs_of(Config) if knob.key.startswith("rollout.")]
    assert [line.partition("=")[0] for line in lines] == own
    assert (
        "rollout.group_size=8  [whole number >= 2]  Number of completions per prompt (G)." in lines
    )


def test_every_knob_is_listed_once_with_values_and_sentence():
    lines = lines_of("--all")
    assert len(lines) == len(set(lines))
    for knob in knobs_of(Config):
        found = [line for line in lines if line.startswith(f"{knob.key}={knob.default}  [")]
        assert len(found) == 1 or knob.key == "rollout.engine", knob.key
    text = "\n".join(lines)
    for leaked in ("default_factory", "Field(", "field(", "Literal", "PydanticUndefined"):
        assert leaked not in text
    assert "estimator.min_informative=0.6" in text
    assert "tensorboard | trackio | wandb" in text
    assert "constant | linear | cosine" in text
    assert "server | transformers | vllm" in text


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("optimizer.lr", ["optimizer.lr=1e-06  [number > 0]"]),
        ("optimizer.lr=3", ["optimizer.lr=1e-06  [number > 0]"]),
        ("warmup.optimizer.lr", ["warmup.optimizer.lr=0.001  [number > 0]"]),
        (
            "warmup_steps",
            [
                "optimizer.warmup_steps=10  [whole number >= 0]",
                "warmup.optimizer.warmup_steps=30  [whole number >= 0]",
            ],
        ),
        ("optimizer.vision.lr", ["optimizer.vision.lr=  [number > 0]"]),
        ("kl", ["estimator.kl=0.0  [number; of grpo]", "estimator.kl=0.0  [number; of dr_grpo]"]),
        ("verifiers.boxes.most", ["verifiers.boxes.most=100  [whole number; of boxes]"]),
        ("data.0.weight", ["data.0.weight=1  [whole number >= 1]"]),
        ("warmup.data.0.weight", ["data.0.weight=1  [whole number >= 1]"]),
        ("benchmark.samples", ["benchmark.samples=4  [whole number >= 0]"]),
        ("data", ["data=  [required: list of {...} (gpg-vl knobs source)]"]),
        ("rloo", ["rloo has no knobs"]),
    ],
)
def test_one_knob(name, begins):
    lines = lines_of(name)
    assert len(lines) == len(begins)
    for line, begin in zip(lines, begins, strict=True):
        assert line.startswith(begin)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("gpg", "estimator.scale=none"),
        ("boxes", "verifiers.boxes.measure=iou"),
        ("verifiers.boxes", "verifiers.boxes.measure=iou"),
        ("think", "prompt.think=required"),
        ("server", "rollout.engine.servers=[http://127.0.0.1:8000]"),
        ("source", "data.0.recipe="),
        ("benchmark", "benchmark.name="),
    ],
)
def test_a_part_has_its_fields_as_they_are_written(name, first):
    assert lines_of(name)[0].startswith(first)


def test_several_names_are_listed_in_their_order():
    assert lines_of("lr", "gpg") == [*lines_of("lr"), *lines_of("gpg")]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("rolout", "did you mean rollout?"),
        ("optimiser.lr", "did you mean optimizer.lr?"),
        ("temprature", "did you mean temperature?"),
        ("boxs", "did you mean boxes?"),
        ("qqqq", "gpg-vl knobs lists the sections"),
        ("", "gpg-vl knobs lists the sections"),
    ],
)
def test_a_typo_gets_the_nearest(name, hint):
    done = gpg_vl("knobs", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpg-vl: got '{name}', which is no section, knob or part; {hint}\n"


def test_every_page_can_be_asked_for():
    for name in all_pages():
        assert lines_of(name)


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
@pytest.mark.parametrize("names", [(), ("rollout",), ("server",), ("estimator",)])
def test_a_terminal_shows_words_that_are_not_cut(names, columns):
    code, shown = on_terminal("knobs", *names, columns=columns)
    assert code == 0
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= columns
    plain = " ".join(shown.split())
    for page in [all_pages()[name] for name in names]:
        for knob in page.knobs:
            assert f"{knob.key}={knob.default} {knob.allowed}" in plain
            assert " ".join(knob.sentence.split()) in plain
