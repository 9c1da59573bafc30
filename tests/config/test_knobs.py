"""Knobs as a reader sees them: key, default as it is written, allowed values, sentence."""

import pytest

from gpg_vl import methods, prompts, rollout, verifiers
from gpg_vl.config.knobs import Knob, knobs_of, knobs_of_part, sections_of, summary_of_part
from gpg_vl.config.loading import override
from gpg_vl.config.schema import BenchmarkSpec, Config, Source
from tests.config.test_defaults import DEFAULTS

KNOBS = {knob.key: knob for knob in knobs_of(Config)}
PARTS = sorted(
    {
        *methods.ESTIMATORS.values(),
        *prompts.ALIASES.values(),
        *rollout.ALIASES.values(),
        *verifiers.ALIASES.values(),
    }
)


def test_knobs_are_flat_and_each_is_there_once():
    assert set(KNOBS) == set(DEFAULTS) | {"data"}
    assert len(list(knobs_of(Config))) == len(KNOBS)
    assert [knob.key for knob in KNOBS.values() if knob.required] == ["data"]


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_default_is_shown_as_it_would_be_written(key):
    """key=default on a command line gives the default, null where nothing is shown."""
    *sections, last = key.split(".")
    value = override(Config, {}, [f"{key}={KNOBS[key].default}"])
    for section in sections:
        value = value[section]
    expected = DEFAULTS[key]
    read = value[last]
    if isinstance(read, list):
        read = tuple(read)
    assert read == expected or (read is None and expected in ((), {}))


@pytest.mark.parametrize(
    ("key", "default", "allowed"),
    [
        ("warmup.optimizer.lr", "0.001", "number > 0"),
        ("warmup.optimizer.warmup_steps", "30", "whole number >= 0"),
        ("optimizer.lr", "1e-06", "number > 0"),
        ("optimizer.betas", "[0.9, 0.99]", "list of 2, each number >= 0, < 1"),
        ("optimizer.schedule", "constant", "constant | linear | cosine"),
        ("policy.tiny.hidden", "128", "whole number >= 32, a multiple of 32"),
        ("policy.vision", "frozen", "frozen | full | lora"),
        ("rollout.max_lost", "0.05", "number >= 0, <= 1"),
        ("learner.tokens_per_microbatch", "auto", "auto | whole number >= 1"),
        ("learner.shared_prefix", "true", "true | false"),
        ("learner.checkpointing", "auto", "auto | true | false"),
        ("hardware.gb", "", "number > 0"),
        ("estimator", "gpg", "name | {kind: NAME, ...}"),
    ],
)
def test_what_a_knob_takes(key, default, allowed):
    assert (KNOBS[key].default, KNOBS[key].allowed) == (default, allowed)


def test_trackers_are_named():
    assert KNOBS["trackers"].allowed.startswith("list of tensorboard | trackio | wandb")


@pytest.mark.parametrize("kind", [Config, Source, BenchmarkSpec])
def test_no_source_code_is_shown(kind):
    for knob in knobs_of(kind):
        assert knob.allowed != "any", knob
        assert knob.allowed, knob
        assert "Field(" not in str(knob), knob
        assert "typing" not in knob.allowed, knob


@pytest.mark.parametrize("path", PARTS)
def test_fields_of_a_shipped_part_have_sentences_values_and_no_source_code(path):
    assert summary_of_part(path).endswith(".")
    for knob in knobs_of_part(path):
        assert knob.sentence, f"{path}: no sentence under {knob.key}"
        assert knob.allowed, f"{path}: no values of {knob.key}"
        shown = f"{knob.default} {knob.allowed}"
        assert not {"field(", "Literal", "None", "True", "False"} & set(shown.split("|")), knob
        assert "(" not in knob.default, knob
        assert "Set by the run" not in knob.sentence
        assert "illed from" not in knob.sentence


def test_fields_of_a_part_are_those_of_its_class():
    """The source that is read agrees with the classes that are imported."""
    from dataclasses import MISSING, fields

    from gpg_vl.methods.grpo import DrGrpo
    from gpg_vl.verifiers.boxes import Boxes
    from gpg_vl.verifiers.choice import Choice

    for part in (DrGrpo, Boxes, Choice):
        own = {field.name: field.default for field in fields(part)}
        for knob in knobs_of_part(f"{part.__module__}:{part.__name__}"):
            assert own[knob.key] is not MISSING
            assert knob.default == ("" if own[knob.key] is None else str(own[knob.key])), knob


def test_fields_are_read_with_those_of_the_base():
    fields = {knob.key: knob for knob in knobs_of_part("gpg_vl.methods.grpo:DrGrpo")}
    assert fields["scale"].default == "none"
    assert fields["scale"].allowed == "none | std | batch_std"  # an alias of another module
    assert fields["clip_low"].default == "0.2"
    fields = {knob.key: knob for knob in knobs_of_part("gpg_vl.prompts:AnswerOnly", "prompt.")}
    assert fields["prompt.think"].default == "absent"
    assert fields["prompt.think"].sentence.startswith("required: words between the tags")


@pytest.mark.parametrize(
    ("path", "key", "default", "allowed"),
    [
        ("gpg_vl.rollout.vllm.in_process:VllmEngine", "options", "", "{key: value, ...}"),
        ("gpg_vl.rollout.vllm.in_process:VllmEngine", "images", "8", "whole number"),
        ("gpg_vl.rollout.vllm.in_process:VllmEngine", "cache_gib", "", "number"),
        ("gpg_vl.rollout.vllm.server_engine:ServerEngine", "sleep", "0", "0 | 1 | 2"),
        (
            "gpg_vl.rollout.vllm.server_engine:ServerEngine",
            "servers",
            "[http://127.0.0.1:8000]",
            "list of text",
        ),
        (
            "gpg_vl.rollout.vllm.server_engine:ServerEngine",
            "handover",
            "/dev/shm/gpg_vl-...",
            "text",
        ),
        ("gpg_vl.verifiers.choice:Choice", "authors", "mmmu", "mmmu | mmmu_pro | visual_thinker"),
        ("gpg_vl.verifiers.label:Label", "aliases", "", "{key: value, ...}"),
        ("gpg_vl.verifiers.value:Value", "prose", "false", "true | false"),
    ],
)
def test_a_field_by_hand(path, key, default, allowed):
    found = {knob.key: knob for knob in knobs_of_part(path)}[key]
    assert (found.default, found.allowed) == (default, allowed)


def test_sections_are_listed_with_those_inside():
    keys = [key for key, _ in sections_of(Config)]
    assert keys[:4] == ["policy", "policy.tiny", "policy.lora", "rollout"]
    assert "warmup.optimizer" in keys


def test_a_prefix_is_written_in_front():
    first = next(knobs_of(Source, "data.0."))
    assert first == Knob("data.0.recipe", "", "text", first.sentence)
