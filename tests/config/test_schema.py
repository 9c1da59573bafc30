"""The page of knobs: shipped files load, overrides are read, and every mistake gets a sentence
with file, key, got and expected."""

import re
from pathlib import Path

import pytest

from gpg_vl.config import loading, resources
from gpg_vl.config.knobs import knobs_of
from gpg_vl.config.schema import BenchmarkSpec, Config, Source, Tiny
from gpg_vl.errors import UserError


@pytest.fixture
def written(tmp_path):
    """Writes a YAML file; returns its name."""

    def write(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return str(path)

    return write


def refused(sentence):
    return pytest.raises(UserError, match=f"^{re.escape(sentence)}$")


# --- resources ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", resources.names("configs"))
def test_every_shipped_config_loads_and_promises_something(name):
    loaded = loading.load(name)
    assert loaded.name == name
    assert resources.find("configs", name).read_text().startswith("# ")


@pytest.mark.parametrize("name", resources.names("evaluation"))
def test_every_shipped_benchmark_loads(name):
    spec = loading.load_benchmark(name)
    assert spec.data
    assert spec.base_dir == resources.folder("evaluation")


def test_a_benchmark_may_stand_beside_its_config(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\ndata: [{recipe: digits}]")
    assert loading.load_benchmark("mine.yaml", tmp_path).base_dir == tmp_path


def test_an_unknown_name_gets_its_neighbour():
    with refused(
        "configs: got 'digit', which is neither shipped nor a YAML file. Did you mean digits?"
    ):
        loading.load("digit")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("digits.yaml", "digits is shipped; its name is written without .yaml"),
        ("configs/digits.yml", "digits is shipped; its name is written without .yml"),
        ("mnie.yaml", "Did you mean mine.yaml?"),
        ("mine.yml", "Did you mean mine.yaml?"),
        ("mine", "Did you mean mine.yaml?"),
        ("run", "The config of a run folder is run/config.yaml"),
        ("my rows.csv", "Of rows, gpg-vl init 'my rows.csv' writes a config"),
    ],
)
def test_a_name_that_is_almost_a_file_gets_it(tmp_path, monkeypatch, name, hint):
    (tmp_path / "mine.yaml").write_text(DATA)
    (tmp_path / "my rows.csv").write_text("question,answer\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(DATA)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"{re.escape(hint)}$"):
        loading.load(name)


def test_a_missing_file_gets_the_shipped_names():
    with pytest.raises(
        UserError, match=r"^no/such\.yaml: no such file\. Shipped configs: .*digits"
    ):
        loading.load("no/such.yaml")


# --- mistakes -------------------------------------------------------------------------------------

DATA = "data: [{recipe: digits}]\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (DATA + "stepz: 3", "stepz: no such key; did you mean steps?"),
        (DATA + "optimizer: {lrr: 3}", "optimizer.lrr: no such key; did you mean lr?"),
        (
            DATA + "policy: {tiny: {hiden: 3}}",
            "policy.tiny.hiden: no such key; did you mean hidden?",
        ),
        ("data: [{recpe: digits}]", "data.0.recpe: no such key; did you mean recipe?"),
        (
            DATA + "warmup: {data: [{recipe: digits, weigth: 2}]}",
            "warmup.data.0.weigth: no such key; did you mean weight?",
        ),
        (
            DATA + "optimizer: {zzz: 3}",
            (
                "optimizer.zzz: no such key; known here: kind, lr, betas, weight_decay, language, "
                "projector, vision, warmup_steps, "
                "schedule, clip_norm"
            ),
        ),
        (
            DATA + "steps: many",
            "steps: got 'many', expected a whole number",
        ),
        (DATA + "steps: -1", "steps: got -1, expected at least 0"),
        (
            DATA + "policy: 5",
            "policy: got 5, expected keys with their values; gpg-vl knobs policy lists them",
        ),
        (
            DATA + "policy: {vision: froze}",
            "policy.vision: got 'froze', expected 'frozen', 'full' or 'lora'; did you mean frozen?",
        ),
        (
            DATA + "rollout: {group_size: 1}",
            "rollout.group_size: got 1, expected at least 2",
        ),
        ("steps: 3", "data: missing; this key must be set"),
        ("data: [{}]", "data.0: a source needs exactly one of recipe, files, hub; got none"),
        (
            "data: [{recipe: digits, hub: x}]",
            "data.0: a source needs exactly one of recipe, files, hub; got recipe, hub",
        ),
        (
            "data: [{recipe: a, files: b, hub: c}]",
            "data.0: a source needs exactly one of recipe, files, hub; got recipe, files, hub",
        ),
    ],
)
def test_a_mistake_names_file_key_got_and_expected(written, text, sentence):
    name = written(text)
    with refused(f"{name}: {sentence}"):
        loading.load(name)


def test_each_mistake_has_its_line_up_to_five(written):
    text = DATA + "optimizer: {lrr: 3}\nsteps: many\n"
    name = written(text)
    lines = [
        f"{name}: 2 mistakes",
        "steps: got 'many', expected a whole number",
        "optimizer.lrr: no such key; did you mean lr?",
    ]
    with refused("\n  ".join(lines)):
        loading.load(name)
    name = written(text + "".join(f"zzz{number}: 1\n" for number in range(5)))
    with pytest.raises(UserError, match=r": 7 mistakes\n") as raised:
        loading.load(name)
    given = str(raised.value).splitlines()
    assert len(given) == 7
    assert given[-1] == "  and 2 more"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("group_size: 3", "rollout.group_size"),
        ("grop_size: 3", "rollout.group_size"),
        ("lr: 3", "optimizer.lr"),
        ("optimizer: {temperature: 3}", "rollout.temperature"),
    ],
)
def test_a_key_in_the_wrong_section_is_told_its_own(written, text, meant):
    name = written(DATA + text)
    with pytest.raises(UserError, match=rf": no such key; did you mean {re.escape(meant)}\?$"):
        loading.load(name)


@pytest.mark.parametrize(
    "text",
    ["warmup: {optimizer: {lr: 2.0e-3}}", "warmup: {steps: 3}", "warmup: {optimizer: {}}"],
)
def test_a_section_keeps_its_own_defaults_beside_a_key_that_is_set(written, text):
    optimizer = loading.load(written(DATA + text)).warmup.optimizer
    assert optimizer.warmup_steps == 30
    assert optimizer.lr == (2e-3 if "lr" in text else 1e-3)


@pytest.mark.parametrize("key", ["prompt", "estimator"])
def test_a_part_of_the_wrong_type_is_named_by_its_own_key(written, key):
    name = written(DATA + f"{key}: 5")
    with pytest.raises(UserError, match=rf"^{re.escape(name)}: {key}: got 5, expected"):
        loading.load(name)


def test_a_file_that_is_not_a_mapping(written):
    name = written("- 1\n- 2")
    with refused(f"{name}: got list, expected a mapping of keys to values"):
        loading.load(name)


def test_a_file_that_is_not_yaml(written):
    name = written("steps: [1")
    with pytest.raises(UserError, match=f"^{re.escape(name)}: not YAML: "):
        loading.load(name)


# --- overrides ------------------------------------------------------------------------------------


def overridden(*items):
    return loading.load("digits", items)


def test_overrides_reach_into_sections():
    loaded = overridden("steps=7", "optimizer.lr=1e-5", "policy.tiny.hidden=64", "name=mine")
    assert (loaded.steps, loaded.optimizer.lr, loaded.policy.tiny.hidden, loaded.name) == (
        7,
        1e-5,
        64,
        "mine",
    )
    assert loaded.warmup == loading.load("digits").warmup


def test_an_override_leaves_the_rest_of_its_section_alone():
    before, after = loading.load("digits"), overridden("rollout.temperature=0.5")
    assert after.rollout == before.rollout.model_copy(update={"temperature": 0.5})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1.0e-05", 1e-5), ("1E-5", 1e-5), ("0.00001", 1e-5), ("2", 2.0)],
)
def test_numbers_may_be_written_in_any_way(text, value):
    assert overridden(f"optimizer.lr={text}").optimizer.lr == value


def test_lists_and_mappings_are_yaml():
    loaded = overridden(
        "optimizer.betas=[0.8, 0.9]", "data=[{recipe: digits, options: {task: add}, weight: 2}]"
    )
    assert loaded.optimizer.betas == (0.8, 0.9)
    assert loaded.data == (Source(recipe="digits", options={"task": "add"}, weight=2),)


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (
            "learner.tokens_per_microbatch=0",
            "got 0, expected 'auto' or at least 1",
        ),
        (
            "learner.checkpointing=maybe",
            "got 'maybe', expected 'auto' or true or false",
        ),
    ],
)
def test_a_knob_that_takes_a_word_or_a_value_names_both(item, sentence):
    with pytest.raises(UserError, match=f"{item.partition('=')[0]}: {sentence}"):
        overridden(item)
    assert overridden("learner.tokens_per_microbatch=77").learner.tokens_per_microbatch == 77
    assert overridden().learner.checkpointing == "auto"


def test_truth_values_and_nothing():
    assert overridden("learner.shared_prefix=false").learner.shared_prefix is False
    assert overridden("evaluation.benchmark=").evaluation.benchmark is None
    assert overridden("evaluation.benchmark=null").evaluation.benchmark is None


def test_a_value_may_hold_an_equals_sign():
    assert overridden("prompt={kind: answer, instruction: 'x=1'}").prompt == {
        "kind": "answer",
        "instruction": "x=1",
    }


def test_a_part_named_in_the_file_takes_keys():
    assert overridden("prompt.system=Be brief.").prompt == {"kind": "answer", "system": "Be brief."}


def test_a_part_left_at_its_default_takes_keys():
    assert overridden("estimator.min_informative=0.4").estimator == {
        "kind": "gpg",
        "min_informative": 0.4,
    }


@pytest.mark.parametrize("item", ["steps", "=3", ""])
def test_an_override_without_key_or_value_is_refused(item):
    with refused(f"got {item!r}, expected key=value, for instance steps=100 or optimizer.lr=1e-5"):
        overridden(item)


def test_a_mistake_of_the_file_is_not_blamed_on_what_was_typed(written):
    name = written(DATA + "optimizer: {lrr: 3}")
    with pytest.raises(UserError, match=f"^{re.escape(name)}: optimizer.lrr: no such key"):
        loading.load(name, ["optimizer.lr=1", "steps=2"])


@pytest.mark.parametrize("item", ["steps.many=1", "optimizer.lr.peak=1"])
def test_an_override_into_something_that_is_no_section_is_refused(item):
    with pytest.raises(UserError, match=item.split("=")[0].rpartition(".")[0]):
        overridden(item)


@pytest.mark.parametrize(
    ("item", "part", "value"),
    [
        (
            "rollout.engine.prompts_at_once=2",
            lambda it: it.rollout.engine,
            {"kind": "transformers", "prompts_at_once": 2},
        ),
        ("rollout.gate.every=7", lambda it: it.rollout.gate.every, 7),
        ("policy.tiny.hidden=64", lambda it: it.policy.tiny.hidden, 64),
        (
            "warmup.optimizer.lr=0.5",
            lambda it: (it.warmup.optimizer.lr, it.warmup.optimizer.warmup_steps),
            (0.5, 30),  # the default of its own section, not that of `optimizer`
        ),
        ("verifiers.number.kind=value", lambda it: it.verifiers["number"], {"kind": "value"}),
        ("verifiers.number=value", lambda it: it.verifiers["number"], "value"),
        ("data.1.weight=2", lambda it: [source.weight for source in it.data], [1, 2]),
        ("data.0.options.count=1e1", lambda it: it.data[0].options["count"], 10.0),
        ("name=e10", lambda it: it.name, "e10"),
        ("name=3 pieces", lambda it: it.name, "3 pieces"),
        ("name=1e5", lambda it: it.name, "100000.0"),  # what looks like a number is one
        ("data.0.options={task: add}", lambda it: it.data[0].options, {"task": "add"}),
    ],
)
def test_an_override_reaches_the_knob_that_it_names_and_no_other(written, item, part, value):
    name = written("data: [{recipe: digits}, {recipe: digits, options: {task: add}}]")
    assert part(loading.load(name, [item])) == value


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        ("data.2.weight=2", "data.2.weight=2: '2' is no item of a list of 2; items count from 0"),
        (
            "data.first.weight=2",
            "data.first.weight=2: 'first' is no item of a list of 2; items count from 0",
        ),
        (
            "data.-1.weight=2",
            "data.-1.weight=2: '-1' is no item of a list of 2; items count from 0",
        ),
        (
            "data.2={recipe: digits}",
            "data.2={recipe: digits}: '2' is no item of a list of 2; items count from 0",
        ),
        (
            "warmup.data.0.weight=2",
            "warmup.data.0.weight=2: '0' is no item of a list of 0; items count from 0",
        ),
        ("trackers.0=wandb", "trackers.0=wandb: '0' is no item of a list of 0; items count from 0"),
    ],
)
def test_an_item_that_a_list_does_not_have_is_reported(written, item, sentence):
    name = written("data: [{recipe: digits}, {recipe: digits}]")
    with refused(sentence):
        loading.load(name, [item])


def test_a_mistake_of_the_whole_has_no_key_and_one_of_a_part_its_own():
    with refused("mine: a source needs exactly one of recipe, files, hub; got none"):
        loading.parse(Source, {}, "mine")
    for kind in ("number", "interval", "strength"):  # names that begin like a type of pydantic's
        values = {"data": [{"recipe": "digits"}], "verifiers": {kind: 5}}
        with pytest.raises(UserError, match=rf"^mine: verifiers\.{kind}: got 5, expected"):
            loading.parse(Config, values, "mine")


def test_letters_stay_letters_in_what_a_run_keeps():
    kept = loading.dump(
        loading.parse(Config, {"data": [{"recipe": "digits"}], "name": "Größe"}, "mine")
    )
    assert "name: Größe" in kept
    assert kept.index("name:") < kept.index("folder:") < kept.index("data:"), (
        "in the order of the page"
    )


# --- the page itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Config, Source, BenchmarkSpec, Tiny])
def test_every_knob_has_a_sentence(kind):
    dumb = [knob.key for knob in knobs_of(kind) if not knob.sentence.strip()]
    assert not dumb, f"no sentence under {dumb}"


def test_the_folder_of_a_config_is_no_key_of_it(tmp_path):
    config = loading.load("digits")
    assert Config(data=config.data).base_dir == Path()
    moved = config.at(tmp_path)
    assert (moved.base_dir, config.base_dir) == (tmp_path, resources.folder("configs"))
    assert moved.model_dump() == config.model_dump()
    assert moved != config
    assert "base_dir" not in {knob.key for knob in knobs_of(Config)}
    assert moved.model_copy(update={"steps": 3}).base_dir == tmp_path
    with pytest.raises(UserError, match=r"^base_dir=/: no such key"):
        loading.load("digits", ["base_dir=/"])


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        loading.load("digits").steps = 3


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        (
            ["policy.vision=frozen", "optimizer.vision.lr=1e-5"],
            "optimizer.vision: got values of its own with policy.vision: frozen, which nothing "
            "uses; set policy.vision to full or lora, or leave them out",
        ),
        (
            ["policy.projector=frozen", "warmup.optimizer.projector.weight_decay=0.1"],
            "warmup.optimizer.projector: got values of its own with policy.projector: frozen, which"
            " nothing uses; set policy.projector to full or lora, or leave them out",
        ),
        (
            [
                "policy.language=lora",
                "policy.projector=frozen",
                "policy.vision=frozen",
                "policy.dtype=bfloat16",
                "policy.weights=bfloat16",
            ],
            "policy: got weights: bfloat16, and no part is full, so it is used for nothing "
            "(adapters are float32); set weights to float32, or a part to full",
        ),
    ],
)
def test_values_that_nothing_uses_are_refused(knobs, why):
    with pytest.raises(UserError, match=f"{re.escape(why)}$"):
        loading.load("digits", knobs)


def test_values_of_a_part_that_is_trained_are_taken():
    knobs = ["policy.vision=full", "optimizer.vision.lr=1e-5", "policy.dtype=bfloat16"]
    assert loading.load("digits", [*knobs, "policy.weights=bfloat16"]).optimizer.vision.lr == 1e-5
