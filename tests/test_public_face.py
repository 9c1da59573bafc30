"""The names that `import gpg_vl` offers: imported at their first use, and enough to train."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import gpg_vl
from gpg_vl import Sample, UserError
from gpg_vl.api import experiment_of
from gpg_vl.config.python_values import as_key_values
from gpg_vl.evaluation.records import Record, load
from gpg_vl.evaluation.results import Results
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.number import Number
from tests.commands import HERE
from tests.hand_made import png


def in_a_new_process(program: str) -> str:
    """Run a Python program without anything imported yet, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_heavy_library():
    printed = in_a_new_process(
        "import sys, gpg_vl; heavy = {'torch', 'pydantic', 'transformers', 'numpy', 'PIL'}; "
        "print(heavy & sys.modules.keys())"
    )
    assert printed == "set()\n"


@pytest.mark.parametrize("name", gpg_vl.__all__)
def test_every_public_name_is_imported_at_its_first_use(name):
    module, _, attribute = gpg_vl._HOMES[name].partition(":")
    assert getattr(gpg_vl, name) is getattr(sys.modules[module], attribute)


def test_the_public_names_are_listed_in_order_and_each_once():
    assert gpg_vl.__all__ == sorted(set(gpg_vl.__all__)) == sorted(gpg_vl._HOMES)


@pytest.mark.parametrize(
    "name",
    [
        "Sample",
        "Verdict",
        "RuleVerifier",
        "Grade",
        "UserError",
        "load_config",
        "score",
        "train",
        "evaluate",
    ],
)
def test_types_verifiers_and_configs_need_no_torch(name):
    printed = in_a_new_process(
        f"import sys; from gpg_vl import {name}; "
        "print({'torch', 'transformers'} & sys.modules.keys())"
    )
    assert printed == "set()\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'gpg_vl' has no attribute 'trian'"):
        _ = gpg_vl.trian


def test_a_run_is_trained_by_public_names_alone(tmp_path):
    knobs = [
        f"folder={tmp_path}",
        "steps=1",
        "warmup.steps=1",
        "evaluation.benchmark=null",
        "rollout.gate.every=0",
    ]
    config = gpg_vl.load_config(str(HERE / "small.yaml"), knobs)
    lines: list[str] = []
    steps: list[int] = []
    run = gpg_vl.train(
        gpg_vl.Experiment.resolve(config),
        callbacks=[lambda step, metrics: steps.append(step)],
        log=lines.append,
    )
    assert run == tmp_path / "small"
    assert steps == [1]
    assert any(line.startswith("warm-up 1/1: loss") for line in lines)
    assert (run / "checkpoints" / "000001" / "policy" / "model.safetensors").is_file()


# --- three lines ----------------------------------------------------------------------------------

SHORT = {
    "steps": 1,
    "warmup.steps": 1,
    "evaluation.benchmark": None,
    "rollout": {"gate": {"every": 0}},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The run folder of a config file, trained with knobs in both forms."""
    folder = tmp_path_factory.mktemp("runs")
    return gpg_vl.train(HERE / "small.yaml", SHORT, folder=folder, log=lambda line: None)


def test_a_config_file_is_trained_with_knobs_as_a_mapping_and_as_keywords(trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows if "reward" in row} == {1}


def test_a_run_goes_on_by_its_folder_and_shows_its_progress(trained, capsys):
    seen: list[int] = []
    more = {"steps": 2, "callbacks": [lambda step, metrics: seen.append(step)]}
    assert gpg_vl.train(resume=str(trained), **more) == trained
    assert seen == [2]
    assert "reward" in capsys.readouterr().out


def test_a_run_goes_on_from_an_earlier_checkpoint(tmp_path):
    knobs = {**SHORT, "steps": 2, "checkpoint": {"every": 1}}
    run = gpg_vl.train(HERE / "small.yaml", knobs, folder=tmp_path, log=lambda line: None)
    seen: list[int] = []
    gpg_vl.train(
        resume=run,
        from_step=1,
        callbacks=[lambda step, metrics: seen.append(step)],
        log=lambda line: None,
    )
    assert seen == [2]
    with pytest.raises(gpg_vl.UserError, match="checkpoint"):
        gpg_vl.train(resume=run, from_step=7, log=lambda line: None)


def test_a_run_that_goes_on_with_fewer_steps_than_it_has_takes_none(tmp_path):
    knobs = {**SHORT, "steps": 2}
    run = gpg_vl.train(HERE / "small.yaml", knobs, folder=tmp_path, log=lambda line: None)

    def refuse(step: int, metrics: Mapping[str, float]) -> None:
        pytest.fail(f"step {step} was taken")

    assert gpg_vl.train(resume=run, steps=1, callbacks=[refuse], log=lambda line: None) == run


def test_a_run_is_evaluated_and_its_figures_are_one_line(trained, tmp_path, capsys):
    knobs = {f"benchmark.data.{place}.options.count": 4 for place in range(3)}
    records = tmp_path / "digits.jsonl"
    results = gpg_vl.evaluate("digits", trained, {**knobs, "benchmark.samples": 0}, to=records)
    assert len(results) == 12
    assert [record.key for record in load(records)] == [record.key for record in results]
    assert repr(results).startswith("digits: ")
    assert "12 questions; count " in repr(results)
    assert "\n" not in repr(results)
    printed = capsys.readouterr()
    phases = ("loading libraries", "loading the model", "evaluating digits: 12 questions")
    assert [phase for phase in phases if phase not in printed.out] == []
    assert "Loading weights" not in printed.err, "the bar of transformers is hidden"


def test_what_the_figures_do_not_say_is_logged(monkeypatch):
    asked = SimpleNamespace(
        spec=SimpleNamespace(name="own"),
        not_asked="own: 1 of 2 questions could not be asked",
        format_advice=lambda records, prefix: f"own: set {prefix}mode=lenient",
    )
    monkeypatch.setattr(
        "gpg_vl.evaluation.evaluate.evaluate_benchmarks",
        lambda *given, **more: iter([(asked, [record("count", 1)])]),
    )
    lines: list[str] = []
    results = gpg_vl.evaluate("digits", "tiny", log=lines.append)
    assert lines == [asked.not_asked, "own: set benchmark.mode=lenient"]
    assert len(results) == 1


def test_a_wrong_benchmark_is_refused_before_torch_is_imported():
    printed = in_a_new_process(
        "import sys, gpg_vl\n"
        "try:\n    gpg_vl.evaluate('digts', 'tiny')\n"
        "except gpg_vl.UserError as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    assert printed.endswith("Did you mean digits? False\n")


def test_an_experiment_and_a_loaded_config_take_overrides_too(tmp_path):
    config = gpg_vl.load_config(HERE / "small.yaml", "seed=3")
    for given in (config, gpg_vl.Experiment.of(config)):
        changed = experiment_of(given, None, ["steps=7"]).config
        assert (changed.steps, changed.seed, changed.base_dir) == (7, 3, config.base_dir)
    same = gpg_vl.Experiment.of(config)
    assert experiment_of(same, None, []) is same


@pytest.mark.parametrize(
    ("given", "knobs", "written"),
    [
        ((), {}, []),
        ("steps=5", {}, ["steps=5"]),
        (["a=1"], {"steps": 5}, ["a=1", "steps=5"]),
        ({"optimizer.lr": 1e-5}, {}, ["optimizer.lr=1e-05"]),
        ({}, {"warmup": {"optimizer": {"lr": 1}}}, ["warmup.optimizer.lr=1"]),
        ({}, {"estimator": {"kind": "grpo", "scale": "std"}},
         ['estimator={"kind": "grpo", "scale": "std"}']),
        ({}, {"verifiers": {"own": {"kind": "number"}}}, ['verifiers.own={"kind": "number"}']),
        ({}, {"warmup": {}}, ["warmup={}"]),
        ({"name": "yes: [no]", "evaluation.benchmark": None, "policy": {"frame": True}}, {},
         ['name="yes: [no]"', "evaluation.benchmark=null", "policy.frame=true"]),
        ({}, {"folder": Path("a b"), "trackers": ("x",)}, ['folder="a b"', 'trackers=["x"]']),
    ],
)  # fmt: skip
def test_knobs_of_a_program_are_those_of_the_command_line(given, knobs, written):
    assert as_key_values(given, knobs) == written


def test_knobs_mean_what_their_values_are():
    config = gpg_vl.load_config(
        "digits",
        {"optimizer.lr": 1e-5, "data.0.options.count": 9},
        name="é: 'x' # y",
        estimator={"kind": "grpo"},
        warmup={"steps": 2},
    )
    assert (config.name, config.optimizer.lr, config.estimator) == (
        "é: 'x' # y", 1e-5, {"kind": "grpo"},
    )  # fmt: skip
    assert config.data[0].options["count"] == 9
    shipped = gpg_vl.load_config("digits")
    assert config.warmup == shipped.warmup.model_copy(update={"steps": 2})


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: gpg_vl.load_config("digits", [("steps", 5)]), r"overrides: got \('steps', 5\)"),
        (lambda: gpg_vl.load_config("digits", {5: 1}), "overrides: got the key 5, expected a key"),
        (lambda: gpg_vl.load_config("digits", {"a=b": 1}), "overrides: got the key 'a=b'"),
        (lambda: gpg_vl.load_config("digits", steps={1}), r"steps: got \{1\} \(set\), expected"),
        (lambda: gpg_vl.load_config("digits", step=5), "step=5: no such key; did you mean steps?"),
        (lambda: gpg_vl.load_config("digts"), "Did you mean digits?"),
        (lambda: gpg_vl.load_config(None), r"load_config: got None \(NoneType\), expected"),
        (lambda: gpg_vl.train(), "train: got no config, expected a name, a file or a config"),
        (lambda: gpg_vl.train(5), "train: got 5, expected the name of a config"),
        (lambda: gpg_vl.train("digits", steps="many"), "steps: got 'many', expected"),
        (lambda: gpg_vl.train(resume="nowhere"), "resume nowhere: there is no such folder"),
        (lambda: gpg_vl.evaluate("digits", "tiny", to=HERE), "to: .*tests is a folder, expected a"),
        (lambda: gpg_vl.evaluate("digits", "tiny", to=HERE / "small.yaml" / "a.jsonl"),
         "to: .*small.yaml cannot be made: .* is a file; choose another"),
    ],
)  # fmt: skip
def test_wrong_calls_are_sentences(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        wrong()


def record(task: str, greedy: float, fault: str = "") -> Record:
    return Record(
        id="a", tag=task, greedy=greedy, sampled=math.nan, text="", answer="", reason="",
        fault=fault,
    )  # fmt: skip


def test_results_show_accuracy_and_tasks_by_hand():
    # Wilson: 3 of 4 is 75.0 [30.1, 95.4], 1 of 2 is 50.0 [9.5, 90.5]
    mixed = [record("count", 1), record("count", 0), record("box", 1), record("box", 1)]
    results = Results("own", mixed)
    assert (
        str(results)
        == repr(results)
        == (
            "own: 75.0 % [30.1, 95.4], 4 questions; count 50.0 % [9.5, 90.5]; "
            "box 100.0 % [34.2, 100.0]"
        )
    )
    assert results.accuracy.mean == 0.75
    assert results.by_task["count"].count == 2
    assert results == mixed
    assert repr(Results("own", mixed[2:], blank=True)) == (
        "own on blank pictures: 100.0 % [34.2, 100.0], 2 questions"
    )
    assert repr(Results("own", [])) == "own: no questions"
    assert "the verifier failed on answers to 1 question of 1" in repr(
        Results("own", [record("count", 0, "fault: KeyError: 'a'")])
    )


# --- score ----------------------------------------------------------------------------------------

THREE = Sample(question="How many dogs?", answer_kind="number", answer=3)
BOX = Sample(question="Where is the dog?", answer_kind="boxes", answer=[[10, 20, 50, 60]])


def test_an_answer_is_scored_as_in_a_run():
    verdict = gpg_vl.score("<think>one, two, three</think><answer>3</answer>", THREE)
    assert (verdict.reward, verdict.answer, verdict.reason) == (1.0, "3", "right")
    assert gpg_vl.score("3", THREE).reason.startswith("malformed: expected the tags <think>")
    assert gpg_vl.score("<answer>3</answer>", THREE, style="answer").reward == 1.0
    assert gpg_vl.score("The answer is 3.", THREE, mode="lenient").reward == 1.0
    assert gpg_vl.score("<answer>3</answer>", THREE, mode="reference").reward == 1.0
    assert gpg_vl.score("<answer>4</answer>", THREE, style={"kind": "answer"}).reward == 0.0


def test_the_verifier_may_be_named_described_or_given():
    near = {"kind": "number", "tolerance": 1}
    assert gpg_vl.score("<answer>4</answer>", THREE, style="answer", verifier=near).reward == 1.0
    assert gpg_vl.score("It is 3.", THREE, mode="lenient", verifier="value").reward == 1.0
    giou = Boxes(mode="lenient", measure="giou")
    assert gpg_vl.score("[10,20,50,60]", BOX, verifier=giou).reward == 1.0
    own = replace(THREE, answer_kind="own")

    def polite(text, sample):
        return gpg_vl.Verdict(reward=float("please" in text))

    assert gpg_vl.score("please", own, verifier=polite).reward == 1.0
    example = str(HERE.parent / "examples" / "own_verifier.py")
    found = gpg_vl.score("<answer>4</answer>", THREE, style="answer", verifier=f"{example}:Near")
    assert found.reward == 0.5


def test_a_given_verifier_takes_what_is_named_beside_it_and_keeps_the_rest():
    close = Number(tolerance=1, mode="lenient")
    assert gpg_vl.score("It is 4.", THREE, verifier=close).reward == 1.0
    assert gpg_vl.score("It is 4.", THREE, mode="strict", verifier=close).reward == 0.0
    tagged = {"mode": "strict", "verifier": close}
    assert gpg_vl.score("<answer>4</answer>", THREE, style="answer", **tagged).reward == 1.0
    assert gpg_vl.score("<answer>4</answer>", THREE, style="think", **tagged).reward == 0.0
    described = {"kind": "number", "tolerance": 1, "mode": "lenient"}
    assert gpg_vl.score("It is 4.", THREE, verifier=described).reward == 1.0
    assert gpg_vl.score("It is 4.", THREE, mode="strict", verifier=described).reward == 0.0
    shares = {"mode": "lenient", "frame": "norm1", "verifier": Boxes()}
    box = replace(BOX, answer=[[0.1, 0.2, 0.5, 0.6]], frame="norm1")
    assert gpg_vl.score("[0.1,0.2,0.5,0.6]", box, **shares).reward == pytest.approx(1.0)


def test_the_size_of_a_box_s_picture_is_read_from_the_picture():
    text = "[100,100,500,500]"  # in thousandths of 200 x 100 pixels
    box = replace(BOX, answer=[[20, 10, 100, 50]])
    shown = replace(box, images=(png((200, 100)),))
    assert gpg_vl.score(text, shown, mode="lenient", frame="norm1000").reward == 1.0
    assert gpg_vl.score(text, shown, mode="lenient", frame="internvl").reward == 1.0
    with pytest.raises(UserError, match=r"a box needs an image: .* sizes=\(\(640, 480\),\)"):
        gpg_vl.score(text, box, mode="lenient", frame="norm1000")
    with pytest.raises(UserError, match=f"score: {box.id}: image no.png does not exist"):
        gpg_vl.score(text, replace(box, images=(Path("no.png"),)), frame="norm1000")
    # in pixels no size is needed, and a picture that no box is in is not opened
    assert gpg_vl.score("[20,10,100,50]", box, mode="lenient").reward == 1.0
    counted = replace(THREE, images=(Path("no.png"),))
    assert gpg_vl.score("3", counted, mode="lenient").reward == 1.0


@pytest.mark.parametrize(
    ("text", "sample", "options", "sentence"),
    [
        (3, THREE, {}, r"score: text: got 3 \(int\), expected a text"),
        (b"3", THREE, {}, "score: text: got b'3' .bytes., expected a text"),
        ("3", {"answer": 3}, {}, r"score: sample: got \{'answer': 3\} \(dict\), expected a gpg_vl"),
        ("3", replace(THREE, answer_kind="nubmer"), {}, "answer_kind: got 'nubmer', which no "
         "shipped verifier scores; did you mean number?"),
        ("3", replace(THREE, answer_kind="os:system"), {}, "no shipped verifier scores; known"),
        ("x", replace(THREE, answer="many"), {}, "score: .*: answer 'many' is not a number"),
        ("x", replace(THREE, answer=[[1]]), {}, "is not a text or a number"),
        ("x", replace(THREE, answer_kind="choice"), {}, "is not one of the choices"),
        ("x", replace(BOX, answer=5), {}, "answer 5 is not one box"),
        ("3", THREE, {"mode": "easy"}, "mode: got 'easy', expected strict, lenient, reference"),
        ("3", THREE, {"style": "thnk"}, "prompt: got 'thnk'.*did you mean think?"),
        ("3", THREE, {"frame": "mm"}, "frame: got 'mm', expected pixels, norm1"),
        ("3", THREE, {"verifier": Boxes}, "verifier: got <class .*or a verifier such as Boxes"),
        ("3", THREE, {"mode": ["strict"]}, r"mode: got \['strict'\], expected strict, lenient"),
        ("3", THREE, {"style": ["think"]}, r"prompt: got \['think'\], expected a name or a mapp"),
        ("3", THREE, {"style": 5}, "prompt: got 5, expected a name or a mapping"),
        ("3", THREE, {"frame": ["pixels"]}, r"frame: got \['pixels'\], expected pixels, norm1"),
        ("3", THREE, {"mode": "lenint"}, "mode: got 'lenint', .*; did you mean lenient?"),
        ("3", THREE, {"verifier": Number(), "frame": "pixels"}, "Number has no field frame"),
        ("3", THREE, {"verifier": print, "style": "think"}, "verifier: print has no field style"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_a_sentence(text, sample, options, sentence):
    with pytest.raises(UserError, match=sentence):
        gpg_vl.score(text, sample, **options)


def test_help_shows_the_three_lines_and_the_names():
    assert gpg_vl.__doc__ is not None
    for name in ("train", "evaluate", "score", "load_config", "Sample", "Verdict", "UserError"):
        assert name in gpg_vl.__doc__
        assert name in dir(gpg_vl)
    assert max(map(len, gpg_vl.__doc__.splitlines())) <= 100
