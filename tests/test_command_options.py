"""Options, exit codes and sentences of the commands; the functions that they call are replaced
by fakes of one line."""

import importlib.util
import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import typer

from gpg_vl import run_folder
from gpg_vl.cli import application, evaluate, train
from gpg_vl.config import loading, resources
from gpg_vl.errors import UserError
from tests.commands import HERE, gpg_vl


@pytest.mark.parametrize(
    ("names", "model", "answers", "columns", "blank"),
    [
        (["a"], "m", None, None, False),
        (["a", "b"], "m", None, None, True),
        (["a"], None, Path("x"), ["id=i"], False),
    ],
)
def test_options_that_go_together_are_taken(names, model, answers, columns, blank):
    evaluate._check_evaluation(names, model, answers, columns, blank)


@pytest.mark.parametrize(
    ("names", "model", "answers", "columns", "blank", "message"),
    [
        ([], "m", None, None, False, "no benchmark named; shipped: "),
        (["a"], None, None, None, False, "expected exactly one of --model"),
        (["a"], "m", Path("x"), None, False, "expected exactly one of --model"),
        (["a"], None, Path("x"), None, True, "--blank shows a model grey pictures"),
        (
            ["a", "b"],
            None,
            Path("x"),
            None,
            False,
            "--answers belongs to one benchmark, got 2: name one",
        ),
        (
            ["a"],
            "m",
            None,
            ["id=i"],
            False,
            "--map names the columns of an --answers file; there is none",
        ),
    ],
)
def test_options_that_do_not_go_together_are_reported(
    names, model, answers, columns, blank, message
):
    with pytest.raises(UserError, match=message):
        evaluate._check_evaluation(names, model, answers, columns, blank)


def test_records_of_one_benchmark_are_a_file_and_of_several_a_folder_of_files(tmp_path):
    assert evaluate._record_paths(["a", "b"], None)("a") is None
    assert evaluate._record_paths(["a"], tmp_path / "x.jsonl")("a") == tmp_path / "x.jsonl"
    several = evaluate._record_paths(["a", "dir/b.yaml"], tmp_path / "new")
    assert [several("a"), several("dir/b.yaml")] == [
        tmp_path / "new" / "a.jsonl",
        tmp_path / "new" / "b.jsonl",
    ]
    (tmp_path / "file").write_text("")
    for names, to, message in (
        (["a"], tmp_path / "file" / "x.jsonl", "a folder above it is a file"),
        (
            ["a"],
            tmp_path,
            r"is a folder, expected a \.jsonl file for one benchmark, for instance .*/a\.jsonl",
        ),
        (["a", "b"], tmp_path / "file", "is a file, expected a folder for 2 benchmarks"),
        (["a", "dir/a.yaml"], tmp_path, r"several benchmarks would be written to a\.jsonl"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate._record_paths(names, to)


def test_a_config_is_named_or_left_out_or_that_of_the_run(tmp_path):
    shipped = resources.folder("configs")
    config = application.load_config("", ["steps=7"], None)
    assert (config.name, config.steps, config.base_dir) == ("digits", 7, shipped)
    config = application.load_config("steps=7", ["seed=3"], None)
    assert (config.name, config.steps, config.seed) == ("digits", 7, 3)
    config = application.load_config(str(HERE / "small.yaml"), [], None)
    assert (config.name, config.base_dir) == ("small", HERE)
    with pytest.raises(
        UserError, match=r"--resume .*: no config\.yaml there, so it is not a run folder"
    ):
        application.load_config("", [], tmp_path)
    run_folder.write_header(tmp_path, loading.dump(config), {"config_folder": str(HERE)})
    config = application.load_config("", ["steps=9"], tmp_path)
    assert (config.name, config.steps, config.base_dir) == ("small", 9, HERE)
    with pytest.raises(
        UserError,
        match=r"got both CONFIG 'digits' and --resume .*; a run goes on with its own config",
    ):
        application.load_config("digits", [], tmp_path)


def test_a_mistake_is_a_sentence_and_a_bug_keeps_its_trace(capsys):
    def mistaken() -> None:
        raise UserError("[a] mistake")

    def broken() -> None:
        raise KeyError("bug")

    with pytest.raises(typer.Exit) as left:
        application.with_sentences(mistaken)()
    assert left.value.exit_code == 2
    assert capsys.readouterr().err == "gpg-vl: [a] mistake\n"
    with pytest.raises(KeyError):
        application.with_sentences(broken)()
    assert application.with_sentences(lambda number: number + 1)(2) == 3


@pytest.mark.parametrize("rank", ["0", "1"])
def test_results_are_reported_by_the_main_process(rank, tmp_path, monkeypatch):
    from gpg_vl.training import loop

    monkeypatch.setenv("RANK", rank)
    printed: list[Any] = []
    asked: list[Any] = []
    monkeypatch.setattr(train, "silence_libraries", lambda: None)
    monkeypatch.setattr(train, "_print_results", lambda run, config: printed.append(run))
    monkeypatch.setattr(
        loop, "train", lambda *given, **more: asked.append((given, more)) or tmp_path
    )
    train.train(str(HERE / "small.yaml"), ["steps=3"], allow_changed=True)
    assert printed == [tmp_path] * (rank == "0")
    ((experiment,), more) = asked[0]
    assert (experiment.config.steps, experiment.config.base_dir) == (3, HERE)
    assert (more["resume"], more["allow_changed"], len(more["callbacks"])) == (None, True, 1)


def test_another_model_needs_no_package_of_the_config_s_own(tmp_path, monkeypatch):
    config = loading.load("digits", ["policy.language=lora"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    application.check_model(config, "tiny")
    with pytest.raises(UserError, match="policy: lora needs peft"):
        application.check_model(config)


def test_before_and_after_are_compared_where_both_are_there(tmp_path, monkeypatch):
    (tmp_path / "evaluation").mkdir()
    for name in ("a-before", "a-after", "b-before", "a-000002"):
        (tmp_path / "evaluation" / f"{name}.jsonl").write_text(json.dumps({"id": "q1"}))
    compared: list[Any] = []
    monkeypatch.setattr("gpg_vl.evaluation.records.load", lambda path: path.stem)
    monkeypatch.setattr(
        "gpg_vl.report.console.comparison_table",
        lambda before, after: compared.append((before, after)) or "table",
    )
    monkeypatch.setattr("gpg_vl.report.last_screen.last_lines", lambda run, config: [])
    train._print_results(tmp_path, loading.load(str(HERE / "small.yaml")))
    assert compared == [("a-before", "a-after")]


@pytest.mark.parametrize("resume", ["", "{}/other", "~/other"])
def test_a_run_that_is_stopped_says_how_to_go_on_and_ends_with_130(resume, tmp_path, monkeypatch):
    """A shell leaves the ~ of `--resume=~/other` as it is."""
    from gpg_vl.training import loop

    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "other" if resume else tmp_path / "small"

    def stopped(*given: Any, **more: Any) -> Path:
        (run / "checkpoints" / "000003").mkdir(parents=True)
        (run / "checkpoints" / "000003" / "state.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "silence_libraries", lambda: None)
    monkeypatch.setattr(loop, "train", stopped)
    run_folder.write_header(
        run, loading.dump(loading.load(str(HERE / "small.yaml"))), {"config_folder": str(HERE)}
    )
    how = ("small.yaml", f"folder={tmp_path}")
    if resume:
        how = (f"--resume={resume.format(tmp_path)}",)
    done = gpg_vl("train", *how)
    assert done.returncode == 130
    assert "stopped; step 3 is saved. Go on with:\n" in done.stdout
    assert f"  gpg-vl train --resume ~/{run.name}\n" in done.stdout


def test_sft_makes_no_step_and_says_where_the_policy_is(tmp_path, monkeypatch):
    from gpg_vl.training import loop

    asked: list[Any] = []
    monkeypatch.setattr(
        loop,
        "train",
        lambda experiment, **more: asked.append(experiment.config) or tmp_path,
    )
    saved = tmp_path / "checkpoints" / "000000"
    saved.mkdir(parents=True)
    (saved / "state.json").write_text("{}")
    done = gpg_vl("sft", HERE / "small.yaml", "steps=9")
    assert done.returncode == 0
    assert [(config.steps, config.base_dir) for config in asked] == [(0, HERE)]
    assert f"\n  {saved / 'policy'}\n" in done.stdout


def test_rollout_does_not_look_at_the_configs_model_where_another_is_asked(tmp_path, monkeypatch):
    from gpg_vl.preflight import try_rollout

    asked: list[Any] = []
    monkeypatch.setattr(
        try_rollout,
        "sample_and_score",
        lambda experiment, **more: asked.append(more) or ["a line"],
    )
    command = (
        "rollout",
        "small.yaml",
        f"policy.model={tmp_path / 'nowhere'}",
        "--groups",
        3,
        "--to",
        tmp_path / "a.jsonl",
    )
    other, own = gpg_vl(*command, "--model", "tiny"), gpg_vl(*command)
    assert (other.returncode, other.stdout) == (0, "a line\n")
    assert own.returncode == 2
    assert f"{tmp_path / 'nowhere'}" in own.stderr
    assert asked == [{"model": "tiny", "count": 3, "to": tmp_path / "a.jsonl"}]


@pytest.mark.parametrize("command", [("rollout", "small.yaml"), ("compare", "a.jsonl", "b.jsonl")])
def test_a_file_in_a_folder_that_is_not_there_is_reported_before_anything_is_done(
    command, tmp_path
):
    done = gpg_vl(*command, "--to", tmp_path / "nowhere" / "a.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"gpg-vl: --to {tmp_path / 'nowhere' / 'a.jsonl'}: there is no folder "
        f"{tmp_path / 'nowhere'}\n"
    )


def test_serve_shows_the_command_that_it_would_become(tmp_path):
    engine = "rollout.engine={kind: server, sleep: 1, handover: /weights}"
    words = [
        "--port",
        9000,
        "--window",
        512,
        "--vllm",
        "--tensor-parallel-size 2 --revision 'a b'",
        "--show",
    ]
    done = gpg_vl("serve", "digits", f"folder={tmp_path}", "name=mine", engine, *words)
    assert done.returncode == 0, done.stderr
    shown = shlex.split(done.stdout)
    assert "GPG_VL_HANDOVER=/weights" in shown
    assert shown[-5:] == ["--enable-sleep-mode", "--tensor-parallel-size", "2", "--revision", "a b"]
    assert {
        name: shown[shown.index(name) + 1]
        for name in ("--model", "--host", "--port", "--max-model-len")
    } == {
        "--model": str(tmp_path / "served" / "mine"),
        "--host": "127.0.0.1",
        "--port": "9000",
        "--max-model-len": "512",
    }


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("--model", "tiny"), "nothing is kept without --to; start again"),
        (
            ("--model", "tiny", "steps=2", "--blank", "--to", "out of 2.jsonl"),
            "the same command goes on from there: gpg-vl evaluate digits --model tiny steps=2 "
            "--blank --to '{folder}/out of 2.jsonl'",
        ),
        (("--answers", "a.jsonl"), "nothing is kept; start again"),
        (("--answers", "a.jsonl", "--to", "out.jsonl"), "nothing is kept; start again"),
    ],
)
def test_an_evaluation_that_is_stopped_says_what_is_kept_and_ends_with_130(
    words, kept, tmp_path, monkeypatch
):
    def stopped(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpg_vl.evaluation.evaluate.evaluate_benchmarks", stopped)
    monkeypatch.setattr("gpg_vl.evaluation.recorded_answers.read_answers", stopped)
    monkeypatch.chdir(tmp_path)
    done = gpg_vl("evaluate", "digits", *words, cwd=Path())
    assert done.returncode == 130
    assert done.stdout.endswith(f"stopped; {kept.format(folder=tmp_path)}\n")


def test_ctrl_c_is_answered_before_an_evaluation_has_closed_its_parts(monkeypatch):
    def closing_slowly(*given: Any, **more: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            yield from ()
        finally:
            print("closed")

    monkeypatch.setattr("gpg_vl.evaluation.evaluate.evaluate_benchmarks", closing_slowly)
    before = signal.getsignal(signal.SIGINT)
    done = gpg_vl("evaluate", "digits", "--model", "tiny")
    assert done.returncode == 130
    sentence = "stopped; nothing is kept without --to; start again"
    assert done.stdout.splitlines() == [sentence, "closed"]
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_is_answered_while_an_evaluation_loads(monkeypatch):
    def loading_slowly() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr("gpg_vl.cli.evaluate.silence_libraries", loading_slowly)
    done = gpg_vl("evaluate", "digits", "--model", "tiny")
    assert done.returncode == 130
    assert done.stdout == "stopped; nothing is kept without --to; start again\n"


def test_a_command_that_goes_on_can_be_pasted_anywhere(tmp_path, monkeypatch):
    def stopped(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpg_vl.evaluation.evaluate.evaluate_benchmarks", stopped)
    monkeypatch.setattr("gpg_vl.cli.evaluate.check_named_model", lambda name, key: None)
    folder = tmp_path / "my runs"
    (folder / "a run").mkdir(parents=True)
    (folder / "own one.yaml").write_text("name: own")
    monkeypatch.chdir(folder)
    words = ["own one.yaml", "digits", "benchmark.data=[{files: a b}]", "--model", "a run"]
    done = gpg_vl("evaluate", *words, "--to", "out", cwd=Path())
    _, command = done.stdout.splitlines()[-1].split("there: ")
    assert shlex.split(command) == [
        *("gpg-vl", "evaluate", str(folder / "own one.yaml"), "digits"),
        *("--model", str(folder / "a run"), "benchmark.data=[{files: a b}]"),
        *("--to", str(folder / "out")),
    ]


def test_a_benchmark_that_is_named_twice_is_taken_once(monkeypatch):
    def asked(names: list[str], model: str, knobs: list[str], **more: Any) -> Any:
        raise UserError(f"asked {model} for {names} with {knobs}")

    monkeypatch.setattr("gpg_vl.evaluation.evaluate.evaluate_benchmarks", asked)
    done = gpg_vl("evaluate", "geoqa", "digits", "geoqa", "steps=3", "--model", "tiny")
    assert done.returncode == 2
    assert done.stderr == "gpg-vl: asked tiny for ['geoqa', 'digits'] with ['steps=3']\n"


def test_data_is_read_with_what_was_told(tmp_path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(
        "gpg_vl.preflight.prepare_data.prepare",
        lambda recipe, options, **more: asked.append((recipe, options, more)) or ["a [line]"],
    )
    done = gpg_vl(
        "data",
        "clevr",
        "split=test",
        "--from",
        "here",
        "--to",
        "there",
        "--head",
        3,
        "--config",
        "mine",
    )
    assert (done.returncode, done.stdout) == (0, "a [line]\n")
    assert asked == [
        (
            "clevr",
            ["split=test"],
            {"source": Path("here"), "to": Path("there"), "head": 3, "config": "mine"},
        )
    ]
