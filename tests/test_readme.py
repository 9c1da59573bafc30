"""README.md and docs/ stay true: every command runs, every example works, every link leads
somewhere, and the tree is the tree."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

import gpg_vl as package
from gpg_vl.config.loading import load, parse
from gpg_vl.config.schema import Config
from tests import published
from tests.commands import HERE, gpg_vl
from tests.conftest import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKDOWN = (
    *PAGES,
    *(ROOT / "data").glob("*.md"),
    *(ROOT / "evaluation").glob("*.md"),
    ROOT / "CHANGELOG.md",
    ROOT / ".github" / "CONTRIBUTING.md",
)
"""Whatever else has links."""
TUTORIAL = ROOT / "docs" / "tutorial.md"
"""Its blocks are one story, which tests/test_tutorial.py runs."""
DATA = ROOT / "docs" / "data.md"
"""Its YAML blocks are sources, which tests/test_data_docs.py reads."""
EXTENDING = ROOT / "docs" / "extending.md"
EXAMPLES = ROOT / "examples"

SMALL = ["rollout.groups_per_step=4", "rollout.group_size=4"]
SHORT = ["warmup.steps=1", "warmup.batch_size=4", "evaluation.benchmark=null", *SMALL]
QUICK = {
    "train": ["steps=1", "rollout.max_rounds=1", *SHORT],
    "sft": SHORT,
    "evaluate": [f"benchmark.data.{place}.options.count=8" for place in range(3)],
}
"""Command -> settings that make it short."""
TINY = ["policy.model=tiny", "policy.dtype=float32", "policy.tiny.layers=1"]
WITHOUT_THE_HUB = ["data.0.options.folder=downloads/geoqa", "evaluation.benchmark=null"]
"""What the commands on GEOQA get here beside a tiny model: files as they are published."""


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every code block of a page, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)


def blocks(language: str, pages=PAGES) -> list[str]:
    """The code blocks of a language, page by page, without the tutorial's."""
    return [
        text
        for page in pages
        if page != TUTORIAL
        for named, text in fences(page)
        if named == language
    ]


def prose(page: Path) -> str:
    """A page without its code blocks and without code in backticks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    return re.sub(r"`[^`]*`", "", text)


def commands() -> list[list[str]]:
    """Every `gpg-vl` command that is printed, each once."""
    lines = "\n".join(blocks("bash")).splitlines()
    words = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gpg-vl ")]
    return [list(command) for command in dict.fromkeys(map(tuple, words))]


def needs_vllm(command: list[str]) -> bool:
    """Those are run where vLLM is: tests/vllm/test_readme.py."""
    return command[0] == "serve" or any(word.startswith("rollout.engine=") for word in command)


def few_questions(config: str) -> list[str]:
    """Settings that make forty questions of every source of a shipped config, since thousands take
    seconds to draw."""
    given = load(config)
    sources = {"data": given.data, "warmup.data": given.warmup.data}
    return [
        f"{key}.{place}.options.count=40"
        for key, listed in sources.items()
        for place in range(len(listed))
    ]


def config_of(command: list[str]) -> str:
    named = [word for word in command[1:] if "=" not in word and not word.startswith("-")]
    return named[0] if named else "digits"


def shortened(command: list[str]) -> list[str]:
    """What is added to a command so that it takes seconds and needs no hub; the last setting of a
    key counts."""
    if {"--help", "--resume"} & set(command):
        return []
    own = QUICK.get(command[0], [])
    if config_of(command) in {"geoqa", "geoqa_recommended"}:
        tiny = TINY if config_of(command) == "geoqa" else [TINY[0], TINY[2]]  # in bfloat16
        return [*own, *tiny, *WITHOUT_THE_HUB, "rollout.max_tokens=16", "warmup.steps=0"]
    if command[0] in {"train", "sft", "rollout"}:
        return [*own, *few_questions(config_of(command))]
    return own


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with a run named `digits` and the files of GEOQA in it, as the commands find it."""
    folder = tmp_path_factory.mktemp("readme")
    done = gpg_vl("train", "small.yaml", f"folder={folder / 'runs'}", "name=digits", cwd=HERE)
    assert done.returncode == 0, done.stderr
    adapters = ["name=mine", "steps=1", "policy.language=lora", "policy.projector=frozen"]
    done = gpg_vl("train", "small.yaml", f"folder={folder / 'runs'}", *adapters, cwd=HERE)
    assert done.returncode == 0, done.stderr
    published.geoqa(folder / "downloads" / "geoqa")
    published.picture(folder / "a.png")
    row = {"img": "a.png", "problem": "How many?", "solution": "3", "gold": 3}
    published.written(folder / "rows.jsonl", [row])
    return folder


def needs_ctrl_c(command: list[str]) -> bool:
    """It serves until Ctrl-C."""
    return command[0] == "watch"


@pytest.mark.parametrize(
    "command",
    [command for command in commands() if not needs_vllm(command) and not needs_ctrl_c(command)],
    ids=" ".join,
)
def test_command_runs(command, workplace):
    options = shortened(command)
    if command == ["train"]:
        options = [*options, "name=fresh"]  # runs/digits is taken by now
    if "name=mine" in command:
        options = [*options, "name=fresh_mine"]
    done = gpg_vl(*command, *options, cwd=workplace)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command", [command for command in commands() if needs_ctrl_c(command)], ids=" ".join
)
def test_a_page_is_served_until_ctrl_c(command, workplace):
    words = [sys.executable, "-B", "-m", "gpg_vl", *command, "--port", "0"]
    with subprocess.Popen(words, cwd=workplace, stdout=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stdout is not None
            lines = iter(watching.stdout.readline, "")
            (address,) = re.findall(r"http://\S+", next(line for line in lines if "http" in line))
            with urllib.request.urlopen(address, timeout=60) as page:
                assert b"<title>digits</title>" in page.read()
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=60) == 0


def test_every_kind_of_command_is_printed_somewhere():
    printed = {command[0] for command in commands()}
    assert printed >= {
        "train",
        "sft",
        "rollout",
        "serve",
        "evaluate",
        "compare",
        "report",
        "watch",
        "export",
        "audit",
        "plan",
    }


def test_no_command_hides_in_a_block_of_another_language():
    """data/README.md and evaluation/README.md may: theirs need published files."""
    for page in PAGES:
        for language, text in fences(page):
            hidden = language != "bash" and re.search(r"^gpg-vl ", text, re.M)
            assert not hidden, f"{page.name}: mark the block as bash"


def test_exactly_two_commands_install():
    installs = [
        line for block in blocks("bash") for line in block.splitlines() if "pip install" in line
    ]
    assert len(installs) == 2
    assert installs[0].endswith("gpg-vl train")
    assert installs[1].endswith("-m pytest -n logical")
    text = (ROOT / "README.md").read_text()
    assert all(f"\n{line}\n" in text for line in installs)  # .ci/run looks for them there


def test_the_program_in_the_readme_runs(tmp_path, monkeypatch, capsys):
    (program,) = blocks("python", [ROOT / "README.md"])
    shortened = {
        "steps=50": [*QUICK["train"], *few_questions("digits"), *TINY],
        "run))": QUICK["evaluate"],
    }
    for written, settings in shortened.items():
        assert written in program
        short = f"overrides={settings!r}"
        program = program.replace(written, f"run, {short}))" if written == "run))" else short)
    monkeypatch.chdir(tmp_path)
    exec(program, {"__name__": "program"})
    assert (tmp_path / "runs" / "digits" / "checkpoints" / "000001").is_dir()
    evaluated, scored = capsys.readouterr().out.splitlines()[-2:]
    assert evaluated.startswith("digits: ")
    assert scored.startswith("Verdict(reward=1.0, ")


def test_the_program_that_reads_a_run_runs(workplace, monkeypatch, capsys):
    (program,) = blocks("python", [ROOT / "docs" / "reading_a_run.md"])
    monkeypatch.chdir(workplace)
    exec(program, {"__name__": "program"})
    steps = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert steps[0] == "1"
    assert "0" in steps, "the evaluation before the first step"


def test_every_config_on_the_pages_is_valid():
    for block in blocks("yaml", [page for page in PAGES if page != DATA]):
        assert block.startswith("# "), "line 1 of a config says what it promises"
        parse(Config, yaml.safe_load(block), "docs")


# --- docs/extending.md and examples/ --------------------------------------------------------------


def test_the_page_shows_the_files_as_they_are():
    shown = [*blocks("python", [EXTENDING]), *blocks("yaml", [EXTENDING])]
    files = {path.name: path.read_text() for path in sorted(EXAMPLES.glob("own*"))}
    assert sorted(shown) == sorted(files.values())
    assert set(files) == {
        *("own.yaml", "own_data.py", "own_engine.py", "own_method.py", "own_verifier.py"),
        *("own_scores.py", "own_trl.py"),  # the latter is run by tests/integrations
    }
    for name, text in files.items():
        before, _, _ = EXTENDING.read_text().partition(text)
        assert before.splitlines()[-3].startswith(f"[`examples/{name}`]"), f"{name}: its title"


def test_the_page_names_every_public_function():
    _, _, section = EXTENDING.read_text().partition("## From Python\n")
    section, _, _ = section.partition("\n## ")
    for name in filter(str.islower, package.__all__):
        assert re.search(rf"`(gpg_vl\.)?{name}\b", section), name


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["estimator=./own_method.py:BestOfGroup"],
        ["rollout.engine=./own_engine.py:OneByOne", "rollout.gate.prompts=1"],
    ],
    ids=["verifier and data set", "method", "engine"],
)
def test_own_parts_train(more, tmp_path):
    for path in EXAMPLES.glob("own*"):
        shutil.copy(path, tmp_path)
    short = ["data.0.options.count=40", "warmup.steps=10", "rollout.idle_steps=9"]
    done = gpg_vl("train", "own.yaml", *short, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "own" / "checkpoints" / "000004").is_dir()


def test_the_own_scores_are_printed():
    done = subprocess.run(
        [sys.executable, "-B", "own_scores.py"], cwd=EXAMPLES, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    earned = [line.partition(",")[0] for line in done.stdout.splitlines()]
    assert earned == ["Verdict(reward=1.0", "Verdict(reward=1.0", "Verdict(reward=0.5"]


def test_the_own_verifier_by_hand():
    from gpg_vl.config import plugins
    from gpg_vl.types import Sample

    near = plugins.build(
        "./own_verifier.py:Near", {}, base_dir=EXAMPLES, key="verifiers.number", given={}
    )
    sample = Sample(id="a", question="?", answer_kind="number", answer=3)
    earned = {text: near.grade(text, sample).accuracy for text in ("3", "2", "5", "3 4", "")}
    assert earned == {"3": 1.0, "2": 0.5, "5": 0.0, "3 4": 0.0, "": 0.0}
    assert near.reference_answer(sample) == "3"


def test_the_own_engine_is_exact(policy_of):
    """Its samples have the log-probabilities of the plain forward and depend on seeds alone."""
    from gpg_vl.config import plugins
    from gpg_vl.policy.plain_forward import UnsharedForward
    from gpg_vl.rollout.engine import Sampling
    from tests.asking import prompts

    policy = policy_of("qwen2_5_vl", dtype="float64")
    engine = plugins.build(
        "./own_engine.py:OneByOne",
        {},
        base_dir=EXAMPLES,
        key="rollout.engine",
        given={"policy": policy},
    )
    asked = prompts(policy, ["count", "box"])
    sampling = Sampling(max_tokens=5, temperature=0.8)
    groups = engine.generate(asked, sampling, [[1, 2, 3], [2, 1, 1]])
    found = [logprob for group in groups for own in group for logprob in own.logprobs]
    expected = UnsharedForward(policy, 0.8)(list(zip(asked, groups, strict=True))).logprobs_N
    assert found == pytest.approx(expected.tolist(), abs=1e-9)
    assert groups[1][1].token_ids == groups[1][2].token_ids
    (again,) = engine.generate(asked[:1], sampling, [[3, 1, 2]])
    assert [own.token_ids for own in again] == [groups[0][place].token_ids for place in (2, 0, 1)]
    greedy = Sampling(max_tokens=5, temperature=0.8, greedy=True)
    ((one, two),) = engine.generate(asked[:1], greedy, [[1, 2]])
    assert one == two


def test_the_own_method_by_hand():
    import torch

    from gpg_vl.config import plugins

    method = plugins.build(
        "./own_method.py:BestOfGroup", {}, base_dir=EXAMPLES, key="estimator", given={}
    )
    rewards_BG = torch.tensor([[1.0, 0.0, 1.0], [0.5, 0.5, 0.5], [0.0, float("nan"), 0.2]])
    lengths_BG = torch.tensor([[2, 9, 3], [4, 4, 4], [1, 1, 5]])
    expected = torch.tensor([[0.1, 0.0, 0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.1]])  # 2 + 3 + 5 tokens
    torch.testing.assert_close(method.weights(rewards_BG, lengths_BG), expected)
    assert (method.kl, method.alpha(rewards_BG), method.has_ratio) == (0.0, 1.0, False)


# --- the tree, links, words -----------------------------------------------------------------------


def tree() -> dict[str, str]:
    """Every path of the tree in docs/architecture.md, with its description; folders end in /."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    (drawn,) = re.findall(r"^```\n(gpg_vl/\n.*?)^```$", page, re.S | re.M)
    paths, above = dict[str, str](), list[str]()
    for line in drawn.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, what = line.strip().partition(" ")
        above = [*above[:depth], name]
        paths["".join(above)] = what.strip()
    return paths


def test_the_tree_names_every_module_and_nothing_else():
    package = ROOT / "gpg_vl"
    modules = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*.py")
        if path.name != "__init__.py" or path.parent == package
    }
    folders = {
        f"{path.parent.relative_to(ROOT)}/"
        for path in package.rglob("__init__.py")
        if path.parent != package
    }
    drawn = {path for path in tree() if path.startswith("gpg_vl/")} - {"gpg_vl/"}
    others = {path for path in drawn if path.endswith("/") and (ROOT / path).is_dir()}
    assert drawn - modules - others == set(), "in the tree of docs/architecture.md, but not here"
    assert (modules | folders) - drawn == set(), "missing in the tree of docs/architecture.md"


def test_the_tree_says_of_every_file_what_it_is():
    assert [path for path, what in tree().items() if not path.endswith("/") and not what] == []


def test_every_folder_of_the_repository_is_in_the_tree():
    named = {path for path in tree() if path.count("/") == 1 and path.endswith("/")}
    here = {
        f"{path.name}/"
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith((".", "_"))
    }
    assert named <= here
    assert here - named <= {"runs/", "dist/", "downloads/", "shared/"}


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name}" not in text] == []


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    """Paths of the repository in backticks: `benchmarks/step_time.py`, `python tests/gpu/check.py
    --toy`."""
    folders = "gpg_vl|tests|benchmarks|examples|docs|configs|evaluation|data"
    code = " ".join(re.findall(r"`([^`\n]*)`", page.read_text()))
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]+\.\w+", code)
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_as_wide_as_a_reader_likes(page):
    """Tables, commands and pictures aside."""
    wide = [
        line
        for line in re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M).splitlines()
        if len(line) > 120 and not line.startswith(("|", "!["))
    ]
    assert wide == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_is_wrapped_where_it_renders_alike(page):
    """No line begins a bullet that is none, and no code span is split over two lines."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    lines = text.splitlines()
    assert [line for line in lines if re.match(r"\s*[*+] ", line)] == []
    assert [line for line in lines if line.count("`") % 2] == []


OURS_ALONE = r"speaks?|silent|told|gold|parcels?|hand-?over|shel(?:f|ves)|nobody|knobs?"
"""Words that this project once used and its field does not; the field's own are in docs/."""


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_words_are_those_of_the_field(page):
    assert re.findall(rf"\b(?:{OURS_ALONE})\b", prose(page), re.IGNORECASE) == []


def test_the_readme_is_for_one_minute():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_every_shipped_config_starts_with_its_promise():
    for path in (ROOT / "configs").glob("*.yaml"):
        assert path.read_text().startswith("# "), path


def test_empty_folder_needs_no_checkout(tmp_path):
    shutil.copy(HERE / "small.yaml", tmp_path)
    shutil.copy(HERE / "small_benchmark.yaml", tmp_path)
    done = gpg_vl("train", "small.yaml", "steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "small" / "metrics.jsonl").is_file()
