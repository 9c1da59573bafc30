"""Every shipped experiment and benchmark: loads, resolves, is planned; what it promises and what
it asks."""

from pathlib import Path

import pytest
import yaml

from gpg_vl.boxes import Frame
from gpg_vl.config import loading, resources
from gpg_vl.config.schema import Config, RewardConfig
from gpg_vl.data.recipes import ALIASES
from gpg_vl.experiment import build_estimator, build_style, build_verifiers
from gpg_vl.methods.gpg import Gpg
from gpg_vl.types import Sample
from tests.commands import gpg_vl
from tests.published_sizes import write

PAPER = ["sat", "lisa", "geoqa", "clevr", "flower102", "pets37", "fgvc_aircraft", "cars196"]
EXPERIMENTS = [name for name in resources.names("configs") if not name.startswith("digits")]


def test_the_experiments_of_the_paper_are_there():
    assert set(EXPERIMENTS) == {
        *PAPER,
        "sat_recommended",
        "lisa_recommended",
        "geoqa_recommended",
        "geoqa_lora",
        "flower102_recommended",
    }


@pytest.mark.parametrize("name", resources.names("configs"))
def test_every_config_resolves_to_itself_and_its_parts_are_built(name):
    config = loading.load(name)
    again = loading.parse(Config, yaml.safe_load(loading.dump(config)), name)
    assert again.at(config.base_dir) == config
    folder = resources.folder("configs")
    build_verifiers(
        config.verifiers, build_style(config.prompt, folder), Frame(), config.reward, folder
    )
    build_estimator(config)
    assert all(source.recipe in ALIASES for source in config.data)
    if config.evaluation.benchmark:
        loading.load_benchmark(config.evaluation.benchmark)


@pytest.mark.parametrize("name", [*EXPERIMENTS, "digits"])
def test_every_config_is_planned(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = gpg_vl("plan", name)
    assert done.returncode == 0, done.printed
    output = " ".join(done.stdout.split())
    config = loading.load(name)
    answers = config.rollout.groups_per_step * config.rollout.group_size
    assert f"{answers} answers a round, {config.steps * answers:,} in all" in output
    assert ("MB in a process" if name == "digits" else "unknown until Qwen/") in output
    assert max(map(len, done.printed.splitlines())) <= 80


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_fits_the_hardware_that_it_names(name, tmp_path):
    """By its model's published config.json alone, with nothing else of it at hand."""
    model = loading.load(name).policy.model.removeprefix("Qwen/").removesuffix("-Instruct")
    done = gpg_vl("plan", name, f"policy.model={write(model, tmp_path)}")
    assert done.returncode == 0, done.printed
    is_for_small = name.endswith("_lora")
    assert f"GB on a GPU of {24 if is_for_small else 80} GB" in done.stdout
    *report, command = done.printed.splitlines()
    assert max(map(len, report)) <= 80
    assert command.startswith("next:     gpg-vl train ")  # stays whole, so that it can be pasted
    if is_for_small:
        return
    small = gpg_vl("plan", name, f"policy.model={tmp_path / model}", "hardware.gb=24")
    assert small.returncode == 1, small.printed
    assert "too much: " in small.stdout
    assert "change:   " in small.stdout
    assert "hardware.gb=" in small.stdout


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["data=[{recipe: nonsense}]"],
            "data.0: got 'nonsense', expected a known name or an import path",
        ),
        (["data.0.options.spilt=test"], "data.0.spilt: no such key; did you mean split?"),
        (["data.0.options.task=smell"], "data.0: task: got 'smell'"),
        (["data=[{files: nowhere.jsonl}]"], "files: nowhere.jsonl does not exist"),
        (["warmup.data=[{recipe: nonsense}]"], "warmup.data.0: got 'nonsense'"),
        (
            ["evaluation.benchmark=nonsense"],
            "evaluation: got 'nonsense', which is neither shipped nor a YAML file",
        ),
        (
            ["evaluation.benchmark=wrong.yaml"],
            "verifiers.number: got 'none', expected a known name",
        ),
        (["evaluation.benchmark=empty.yaml"], "evaluation.benchmark: data.0: got 'nonsense'"),
    ],
)
def test_a_plan_shows_mistakes(overrides, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, more in (
        ("wrong", "[{recipe: digits, options: {task: count}}]\nverifiers: {number: none}"),
        ("empty", "[{recipe: nonsense}]"),
    ):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\ndata: {more}\n")
    done = gpg_vl("plan", "digits", *overrides, cwd=Path())
    assert done.returncode == 2, done.printed
    assert sentence in done.stderr


def test_a_plan_needs_no_published_files_and_says_what_it_does_not_count(tmp_path, monkeypatch):
    monkeypatch.setenv("GPG_VL_DATA", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = gpg_vl("plan", "digits", "data=[{recipe: coco}]", "evaluation.benchmark=lvis")
    assert done.returncode == 0, done.printed
    assert "their tokens and those of their pictures are not counted here" in done.stdout


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_experiments_have_the_papers_hyperparameters(name):
    config = loading.load(name)
    first, second = (resources.folder("configs") / f"{name}.yaml").read_text().splitlines()[:2]
    assert "as published" in first
    assert (
        "the paper gives no number of GPUs, this config assumes 8 x 80 GB" in second
        or name == "clevr"
    )
    estimator = build_estimator(config)
    assert isinstance(estimator, Gpg)
    assert (estimator.aggregation, estimator.min_informative, estimator.scale) == (
        "completion",
        0.4,
        "none",
    )
    assert {config.policy.language, config.policy.projector, config.policy.vision} == {"full"}
    assert (config.policy.min_pixels, config.policy.max_pixels) == (3136, 401408)
    assert (config.optimizer.lr, config.optimizer.betas, config.optimizer.schedule) == (
        1e-6,
        (0.9, 0.999),
        "linear",
    )
    assert (config.optimizer.warmup_steps, config.optimizer.clip_norm, config.seed) == (0, 1.0, 42)
    assert (config.rollout.group_size, config.rollout.temperature, config.rollout.max_rounds) == (
        8,
        1.0,
        20,
    )
    assert (config.reward.mode, config.reward.combine, config.reward.format) == (
        "reference",
        "sum",
        1.0,
    )


def test_the_recommended_variants_are_strict_and_freeze_the_tower():
    for name in EXPERIMENTS:
        if name.endswith("_recommended"):
            config = loading.load(name)
            assert (config.reward.mode, config.reward.combine, config.policy.vision) == (
                "strict",
                "gate",
                "frozen",
            )


QUESTION = Sample(id="a", question="Is it left?", answer_kind="label", answer="yes")


def words(name: str, kind: str = "configs") -> str:
    folder = resources.folder("configs")
    spec = loading.load(name) if kind == "configs" else loading.load_benchmark(name)
    part = spec.prompt
    assert part is not None
    return build_style(part, folder).messages(QUESTION)[-1]["content"][-1]["text"]


def test_prompts_are_the_published_ones():
    base = words("sat")
    assert base.startswith(
        "A conversation between User and Assistant. The user asks a question about the image, and "
        "the Assistant solves it."
    )
    assert base.endswith(
        "with the answer.\nUser: Is it left? \nAssistant: Let me solve this step by step.\n"
    )
    assert build_style(loading.load("sat").prompt, resources.folder("configs")).opening == "<think>"
    geoqa = (
        "Output the thinking process in <think> </think> and final answer (number) in <answer> "
        "</answer> tags."
    )
    assert words("geoqa") == f"Is it left?  {geoqa}"  # two spaces in training
    assert words("geoqa", "evaluation") == f"Is it left? {geoqa}"
    lisa = (
        'Output the thinking process in <think> </think> and your grouding box. Following "<think> '
        "thinking process </think>\n"
    )
    assert words("lisa") == f'Is it left? {lisa}<answer>(x1,y1),(x2,y2)</answer>)" format.'
    assert (
        words("lisa_val", "evaluation")
        == f'Is it left?. {lisa}<answer>(x1,y1),(x2,y2)</answer>)" format.'
    )
    assert words("flower102").startswith(
        "Is it left? \nOutput the thinking process in <think> </think> and final answer in <answer>"
    )
    assert "<answer>species name</answer>\nPlease strictly follow the format." in words("pets37")
    assert "<answer>model name</answer>\nPlease strictly follow the format." in words(
        "cars196", "evaluation"
    )


@pytest.mark.parametrize("name", resources.names("evaluation"))
def test_every_benchmark_resolves_and_reads_a_shipped_set(name):
    spec = loading.load_benchmark(name)
    home = spec.base_dir
    build_verifiers(
        spec.verifiers,
        build_style(spec.prompt or "think", home),
        Frame(),
        RewardConfig(mode=spec.mode),
        home,
    )
    assert all(source.recipe in ALIASES for source in spec.data)
    assert spec.name == name


def test_the_reward_of_lisa_is_the_published_one_clamped():
    """GIoU + 1 of the parity vectors: a far box earns 0.2513, the truth 2, a reversed one no
    more than 2."""
    config, folder = loading.load("lisa"), resources.folder("configs")
    verifiers = build_verifiers(
        config.verifiers,
        build_style(config.prompt, folder),
        Frame(kind="norm1000"),
        config.reward,
        folder,
    )
    truth = Sample(
        id="a",
        question="?",
        answer_kind="boxes",
        answer=[[200, 300, 500, 700]],
        sizes=((1000, 1000),),
    )
    earned = {
        # less the format
        answer: (verifiers(f"<think>so</think><answer>{answer}</answer>", truth).reward - 1.0)
        for answer in (
            "(200,300),(500,700)",
            "(210,300),(500,700)",
            "(900,900),(950,950)",
            "(9999,9999),(0,0)",
        )
    }
    assert list(earned.values()) == pytest.approx([2.0, 1.966667, 0.251282, 2.0], abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "right"), [("left", 1), ("Left", 0), ("left.", 0), ("(B) left", 0), ("\nleft\n", 0)]
)
def test_the_published_rule_of_sat_wants_the_very_words(answer, right):
    from gpg_vl.verifiers.choice import Choice

    sample = Sample(
        id="a", question="?", answer_kind="choice", answer="left", choices=("left", "right")
    )
    rule = Choice(mode="reference", authors="visual_thinker")
    assert rule(f"<answer>{answer}</answer>", sample).parts["accuracy"] == right
    assert rule("left", sample).parts["accuracy"] == 1
    lettered = Sample(
        id="a", question="?", answer_kind="choice", answer="B", choices=("left", "right")
    )
    assert rule("<answer>A or (B)</answer>", lettered).parts["accuracy"] == 1
    assert rule("<answer>Both</answer>", lettered).parts["accuracy"] == 0
