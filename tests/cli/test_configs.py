"""gpg-vl configs, show and schema: what is shipped, a config with its sentences, a JSON schema."""

import json

import pytest
import yaml

from gpg_vl.cli.configs import json_schema
from gpg_vl.config import loading, resources
from gpg_vl.config.knobs import knobs_of
from gpg_vl.config.loading import read_yaml
from gpg_vl.config.schema import Config
from tests.commands import HERE, gpg_vl
from tests.terminal import on_terminal

# --- configs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "kind"), [((), "configs"), (("--benchmarks",), "evaluation")])
def test_every_shipped_file_has_a_line_with_its_promise(options, kind):
    done = gpg_vl("configs", *options)
    assert done.returncode == 0
    rows = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert rows[0][0] == "digits", "the ones that run offline come first"
    assert sorted(name for name, _ in rows) == resources.names(kind)
    for name, promise in rows:
        assert promise == resources.summary_line(kind, name)


def test_the_promise_of_a_config_is_short():
    for name in resources.names("configs"):
        assert len(resources.summary_line("configs", name)) <= 100


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
def test_a_terminal_has_the_whole_promise_and_what_to_do(columns):
    code, shown = on_terminal("configs", columns=columns)
    assert code == 0
    assert max(map(len, shown.splitlines())) <= columns
    words = " ".join(shown.split())
    for name in resources.names("configs"):
        assert f"{name} {resources.summary_line('configs', name)}" in words
    assert words.endswith(
        "Look at one with gpg-vl show NAME, train with gpg-vl train NAME. "
        "The benchmarks: gpg-vl configs --benchmarks"
    )


def test_a_pipe_is_told_of_the_benchmarks_beside_its_lines():
    done = gpg_vl("configs")
    assert "--benchmarks" not in done.stdout
    assert done.stderr == "The benchmarks: gpg-vl configs --benchmarks\n"
    assert gpg_vl("configs", "--benchmarks").stderr == ""


# --- show -----------------------------------------------------------------------------------------


def shown(tmp_path, *arguments: object) -> Config:
    """What is printed, loaded again."""
    done = gpg_vl("show", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "shown.yaml").write_text(done.stdout)
    return loading.load(str(tmp_path / "shown.yaml"))


@pytest.mark.parametrize("options", [(), ("--all",)])
@pytest.mark.parametrize("name", resources.names("configs"))
def test_what_is_shown_loads_as_the_config_itself(name, options, tmp_path):
    again = shown(tmp_path, name, *options)
    assert again.model_dump() == loading.load(name).model_dump()


def test_strange_values_survive(tmp_path):
    knobs = [
        "name=yes",
        "folder=a b #c",
        "estimator={kind: gpg, scale: 'no'}",
        "prompt={kind: think, instruction: \"long line \\n\\n with 'quotes', ünïcode and # signs"
        + 60 * " x"
        + '"}',
        "data=[{files: [a.jsonl, 'b c.csv'], columns: {answer: 'null', choices: [A, B]}}]",
        "tracking.tags=['1', on]",
        "optimizer.lr=1e-7",
        "verifiers={boxes: {kind: boxes}, stars: './r.py:Stars'}",
        "trackers=[wandb]",
    ]
    for options in ((), ("--all",)):
        again = shown(tmp_path, "digits", *knobs, *options)
        assert again.model_dump() == loading.load("digits", knobs).model_dump()


def test_the_config_of_a_run_folder_is_shown_too(tmp_path):
    config = loading.load("digits", ["steps=7"])
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(loading.dump(config))
    again = shown(tmp_path, run)
    assert again.model_dump() == config.model_dump()
    text = gpg_vl("show", run).stdout
    assert "steps: 7" in text
    assert "temperature" not in text, "at its default"


def test_a_run_with_a_sign_in_its_name_is_shown(tmp_path):
    run = tmp_path / "lr=1e-4"
    run.mkdir()
    (run / "config.yaml").write_text(loading.dump(loading.load("digits", ["steps=7"])))
    assert shown(tmp_path, run, "seed=3").seed == 3
    assert shown(tmp_path, run).steps == 7


def test_only_what_differs_is_shown_each_with_its_sentence():
    text = gpg_vl("show", "digits_count", "steps=9").stdout
    assert text.startswith(f"# {resources.summary_line('configs', 'digits_count')}\n")
    assert "# Everything else is at its default; --all shows it.\n" in text
    assert "\n# Number of optimizer steps, including skipped ones.\nsteps: 9\n" in text
    assert "seed:" not in text
    assert "  optimizer:\n    # Peak learning rate.\n    lr: 0.0005\n" in text


def test_everything_is_every_knob_with_its_sentence():
    text = gpg_vl("show", "digits", "--all").stdout
    assert "Everything else" not in text
    words = " ".join(line.strip().removeprefix("#").strip() for line in text.splitlines())
    for knob in knobs_of(Config):
        assert f"{knob.key.rpartition('.')[2]}:" in text
        assert " ".join(knob.sentence.split()) in words


def test_a_config_of_ones_own_keeps_its_promise_and_one_without_has_none(tmp_path):
    (tmp_path / "a.yaml").write_text("# Mine.\ndata: [{recipe: digits}]\n")
    (tmp_path / "b.yaml").write_text("data: [{recipe: digits}]\n")
    first = "# Everything else is at its default; --all shows it.\n"
    assert gpg_vl("show", "a.yaml", cwd=tmp_path).stdout.startswith(f"# Mine.\n{first}")
    assert gpg_vl("show", "b.yaml", cwd=tmp_path).stdout.startswith(first)
    assert gpg_vl("show", "steps=3").stdout.startswith(first)


@pytest.mark.parametrize("name", ["digist", "x" * 300])
def test_show_refuses_what_load_refuses(name):
    done = gpg_vl("show", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gpg-vl: configs: got '{name}', which is neither shipped")


# --- schema ---------------------------------------------------------------------------------------

TYPES = {
    "string": str,
    "integer": int,
    "number": int | float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def fits(value, schema, whole) -> bool:
    """A small check of the words that pydantic writes into a schema."""
    if "$ref" in schema:
        return fits(value, whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        return any(fits(value, one, whole) for one in schema["anyOf"])
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return False
    kind = schema.get("type")
    if kind and (
        not isinstance(value, TYPES[kind]) or isinstance(value, bool) != (kind == "boolean")
    ):
        return False
    if kind in ("integer", "number"):
        least, above = schema.get("minimum", value), schema.get("exclusiveMinimum", value - 1)
        return least <= value and above < value
    if kind == "array":
        items = [fits(item, schema.get("items", {}), whole) for item in value]
        return len(items) >= schema.get("minItems", 0) and all(items)
    return kind != "object" or object_fits(value, schema, whole)


def object_fits(value, schema, whole) -> bool:
    others = schema.get("additionalProperties", True)
    if not set(schema.get("required", ())) <= set(value):
        return False
    for key, item in value.items():
        inner = schema.get("properties", {}).get(key, others)
        if inner is False or (isinstance(inner, dict) and not fits(item, inner, whole)):
            return False
    return True


@pytest.mark.parametrize("name", resources.names("configs"))
def test_shipped_configs_fit_the_schema(name):
    schema = json_schema()
    assert fits(read_yaml(resources.find("configs", name)), schema, schema)


@pytest.mark.parametrize("name", resources.names("evaluation"))
def test_shipped_benchmarks_fit_theirs(name):
    schema = json_schema(benchmark=True)
    assert fits(read_yaml(resources.find("evaluation", name)), schema, schema)


@pytest.mark.parametrize(
    "text",
    [
        "stepz: 3",
        "steps: many",
        "steps: -1",
        "policy: {vision: melted}",
        "optimizer: {lrr: 3}",
        "rollout: {temperature: 0}",
        "data: []",
        "data: [{recpe: digits}]",
        "trackers: [tensorbord]",
        "learner: {tokens_per_microbatch: lots}",
    ],
)
def test_a_mistake_does_not_fit(text):
    schema = json_schema()
    right = {"data": [{"recipe": "digits"}]}
    assert fits(right, schema, schema)
    assert not fits({**right, **yaml.safe_load(text)}, schema, schema)


def test_the_schema_is_json_with_sentences_and_names_of_parts():
    done = gpg_vl("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert schema == json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["properties"]["steps"]["description"].startswith("Number of optimizer steps")
    assert schema["properties"]["estimator"]["anyOf"][0]["enum"][0] == "gpg"
    engine = schema["$defs"]["RolloutConfig"]["properties"]["engine"]
    assert engine["anyOf"][0]["enum"] == ["server", "transformers", "vllm"]
    assert json.loads(gpg_vl("schema", "--benchmark").stdout)["title"] == "BenchmarkSpec"


def test_a_config_with_a_line_for_the_editor_still_loads(tmp_path):
    line = "# yaml-language-server: $schema=gpg_vl.schema.json\n"
    (tmp_path / "mine.yaml").write_text(line + (HERE / "small.yaml").read_text())
    assert loading.load(str(tmp_path / "mine.yaml")).name == "small"
