"""Words on the command line that cannot be read, and what was meant by them."""

import pytest

from tests.commands import gpg_vl

MEANT = {
    "train --steps 10": "--steps is no option; a knob is written steps=10",
    "train --steps=10": "--steps is no option; a knob is written steps=10",
    "train -steps 10": "-steps is no option; a knob is written steps=10",
    "train digits --steps": "--steps is no option; a knob is written steps=VALUE",
    "train --optimizer.lr 1e-5": "--optimizer.lr is no option; a knob is written optimizer.lr=1e-5",
    "audit --lr 1e-5": "--lr is no option; a knob is written optimizer.lr=1e-5",
    "sft --group-size 4": "--group-size is no option; a knob is written rollout.group_size=4",
    "train --model x": "--model is no option; a knob is written policy.model=x",
    "show --stpes 10": ("--stpes is no option of gpg-vl show; did you mean the knob steps=10?"),
    "train --resme x": "--resme is no option of gpg-vl train; did you mean --resume?",
    "evaluate digits --samples 8": (
        "--samples is no option; a knob is written benchmark.samples=8"
    ),
    "train --epochs 3": (
        "--epochs is no option of gpg-vl train, which has --resume, --from, --allow-changed, "
        "--help; gpg-vl knobs lists the knobs"
    ),
    "data digits --split test": (
        "--split is no option of gpg-vl data, which has --from, --to, --head, --config, --help; "
        "a key is written split=test"
    ),
    "compare a b --frist c": (
        "--frist is no option of gpg-vl compare, which has --changed, --to, --help"
    ),
    "--steps 10": "a command comes first, for instance: gpg-vl train steps=10",
    "train steps 10": "a knob is written without blanks: steps=10",
    "train steps = 10": "a knob is written without blanks: steps=10",
    "train steps= 10": "a knob is written without blanks: steps=10",
    "train steps =10": "a knob is written without blanks: steps=10",
    "train digits seed=3 optimizer.lr 1e-5": (
        "a knob is written without blanks: optimizer.lr=1e-5"
    ),
    "train digits steps": (
        "got 'steps', expected key=value, for instance steps=100 or optimizer.lr=1e-5"
    ),
    "trian": "'trian' is no command; did you mean train?",
    "evalute digits": "'evalute' is no command; did you mean evaluate?",
    "digits steps=3": "a command comes first, for instance: gpg-vl train digits steps=3",
    "steps=3": "a command comes first, for instance: gpg-vl train steps=3",
    "mine.yaml": "a command comes first, for instance: gpg-vl train mine.yaml",
    "fly": "'fly' is no command; gpg-vl --help lists them",
    "compare a": "SECOND is missing; see gpg-vl compare --help",
    "train --resume": "option '--resume' requires an argument; see gpg-vl train --help",
    "audit --head 0": "--head: got '0', expected at least 1; see gpg-vl audit --help",
    "audit --head ten": "--head: got 'ten', expected a whole number; see gpg-vl audit --help",
    "serve --port 70000": "--port: got '70000', expected at most 65535; see gpg-vl serve --help",
    "serve --vllm 'a": ('--vllm: got "\'a", expected words as in a shell: no closing quotation'),
    "evaluate digits --model tiny samples=2": (
        "samples=2: no such key of a run; did you mean benchmark.samples?"
    ),
    "configs digits": "got unexpected extra argument (digits); see gpg-vl configs --help",
    "train digits.yaml": (
        "digits.yaml: no such file. digits is shipped; its name is written without .yaml"
    ),
}


@pytest.mark.parametrize("words", MEANT)
def test_what_was_meant(words, tmp_path):
    done = gpg_vl(*words.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpg-vl: {MEANT[words]}\n"
    assert not list(tmp_path.iterdir())


def test_every_knob_as_an_option_gets_its_way_to_be_written():
    from gpg_vl.config.knobs import knobs_of
    from gpg_vl.config.schema import Config

    for knob in knobs_of(Config):
        done = gpg_vl("train", f"--{knob.key}", "7")
        assert done.stderr == (
            f"gpg-vl: --{knob.key} is no option; a knob is written {knob.key}=7\n"
        )


def test_long_and_strange_words_stay_one_line():
    for word in ("--" + "x" * 5000, "--a\nb", "--\x1b[31m", "-", "--=", "=", "==", "\n"):
        done = gpg_vl("train", word)
        assert done.returncode == 2, word
        assert len(done.stderr.splitlines()) == 1, word
        assert len(done.stderr) < 1500, word


def test_two_mistakes_in_a_config_are_both_named(tmp_path):
    (tmp_path / "mine.yaml").write_text("data: [{recipe: digits}]\nstepz: 3\n")
    done = gpg_vl("train", "mine.yaml", "rollout.gruop_size=3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "gpg-vl: 2 mistakes",
        "  rollout.gruop_size=3: no such key; did you mean group_size?",
        "  mine.yaml: stepz: no such key; did you mean steps?",
    ]
