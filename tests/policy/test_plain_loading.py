"""A checkpoint is used without gpg_vl: plain transformers loads model, processor and pipeline, and
the model card's program asks it.

In transformers a Qwen-VL processor needs torchvision, which a CPU machine may lack: there the
card's program takes gpg_vl's processor, and a pipeline says what it lacks. `.ci/run` has a stage
that runs this file where torchvision works, and another with the oldest transformers that is
supported.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from gpg_vl.config import loading
from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.policy import adapter_files, quantised
from gpg_vl.policy.encode import encode
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.policy.processor import torchvision_works
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.report.export import export
from gpg_vl.report.model_card import model_card
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.training.milestones import adapter_of
from gpg_vl.types import Sample
from tests.adapted import moved, tiny
from tests.conftest import FAMILIES
from tests.other_checkpoint import other_checkpoint

QUESTION = "How many digits are there in the image?"
"""The card's own."""
STYLES = {
    "plain": AnswerOnly(),
    "words": Style(system="You count."),
    "opened": Style(think="opened"),
}
ALL = [*FAMILIES, "llava", "gemma3"]
PIPELINE = f"""\
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers import pipeline
content = [
    {{"type": "image", "image": Image.open("picture.png")}},
    {{"type": "text", "text": "{QUESTION}"}},
]
messages = [{{"role": "user", "content": content}}]
options = {{"max_new_tokens": 8, "do_sample": False, "return_full_text": False}}
asked = pipeline("image-text-to-text", model=".")
print(asked(text=messages, **options)[0]["generated_text"])
"""
STRANGER = """\
import contextlib, importlib.util, io, json, os, sys
replies = []
for folder, program in json.load(sys.stdin):
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            exec(program, {})
            replies.append([True, printed.getvalue()])
        except ImportError as error:
            replies.append([False, str(error)])
if importlib.util.find_spec("torchvision"):
    assert "gpg_vl" not in sys.modules
print(json.dumps(replies))
"""
"""Runs each program in its folder: one process for all of them, because importing transformers
takes seconds."""


class Saved(NamedTuple):
    """A policy and the folder that it was saved to, with its card and a picture."""

    policy: Policy
    folder: Path

    @property
    def program(self) -> str:
        (found,) = re.findall(
            r"```python\n(.*?)```", (self.folder / "README.md").read_text(), re.DOTALL
        )
        return found


@pytest.fixture(scope="module")
def saved(checkpoints, tmp_path_factory) -> dict[tuple[str, str], Saved]:
    made = {}
    for family in ALL:
        folder = tmp_path_factory.mktemp(family)
        start = (
            checkpoints(family)
            if family in FAMILIES
            else other_checkpoint(family, folder / "start")
        )
        policy = load_policy(PolicyConfig(model=str(start), vision="full"), seed=0)
        config = loading.load("digits_count", ["rollout.max_tokens=8", f"policy.model={start}"])
        for name, style in STYLES.items():
            policy.save(folder / name)
            (folder / name / "README.md").write_text(
                model_card(config, 0, folder, style, policy.frame, question=QUESTION)
            )
            Image.radial_gradient("L").resize((112, 84)).convert("RGB").save(
                folder / name / "picture.png"
            )
            made[family, name] = Saved(policy, folder / name)
        adapted = PolicyConfig(model=str(start), language="lora", projector="full")
        save_adapter(moved(load_policy(adapted, seed=0)), folder / "adapter", made, family)
    save_adapter(moved(tiny(dtype="float32")), tmp_path_factory.mktemp("own"), made, "own base")
    return made


def save_adapter(policy, folder, made, name, *knobs: str) -> None:
    """Save an adapter with its card, and export it merged."""
    adapter = adapter_of(policy)
    config = loading.load("digits_count", ["rollout.max_tokens=8", "policy.language=lora", *knobs])
    policy.save(folder)
    (folder / "README.md").write_text(
        model_card(
            config, 0, folder, AnswerOnly(), policy.frame, question=QUESTION, adapter=adapter
        )
    )
    export(str(folder), folder / "merged", merged=True, log=lambda line: None)
    for each, form in ((folder, "adapter"), (folder / "merged", "merged")):
        Image.radial_gradient("L").resize((112, 84)).convert("RGB").save(each / "picture.png")
        made[name, form] = Saved(policy, each)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_program_loads_a_base_in_4_bits_as_it_was_in_training(family, tmp_path, monkeypatch):
    tiny(family, language="full", dtype="float32").save(tmp_path / "start")
    knobs = {"model": str(tmp_path / "start"), "dtype": "float32"}
    policy = moved(tiny(family, quantise="nf4", **knobs))
    made: dict[tuple[str, str], Saved] = {}
    save_adapter(policy, tmp_path / "adapter", made, "nf4", "policy.quantise=nf4")
    monkeypatch.chdir(made["nf4", "adapter"].folder)
    loading, _, _ = made["nf4", "adapter"].program.partition("\ntry:")
    variables: dict[str, Any] = {}
    exec(loading, variables)
    found = set(quantised.weights(variables["base"]))
    assert found == set(quantised.weights(policy.model))  # both are inside adapters
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    other = tiny(family, **knobs)
    other.adapters.load(adapter_files.read(tmp_path / "adapter", ""), "")
    with torch.no_grad():
        expected = policy.model(**inputs).logits
        worst = (variables["model"].eval()(**inputs).logits - expected).abs().max()
        control = (other.model(**inputs).logits - expected).abs().max()
    # for inference bitsandbytes computes in half the digits on some CPUs
    assert worst < control / 4
    text = (made["nf4", "merged"].folder / "README.md").read_text()
    assert "4_bits" not in text
    assert "BitsAndBytes" not in text
    assert "bitsandbytes" not in text
    monkeypatch.chdir(made["nf4", "merged"].folder)
    exec(made["nf4", "merged"].program.partition("\ntry:")[0], {})


@pytest.fixture(scope="module")
def reports(saved) -> dict[tuple[str, str], tuple[bool, str]]:
    """What the card's program (or, under "pipeline", a pipeline) prints of each checkpoint, and
    whether it ran, without gpg_vl."""
    programs = {place: (str(each.folder), each.program) for place, each in saved.items()}
    programs |= {
        (family, "pipeline"): (str(saved[family, "plain"].folder), PIPELINE) for family in ALL
    }
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    given = json.dumps(list(programs.values()))
    done = subprocess.run(
        [sys.executable, "-c", STRANGER],
        input=given,
        env=offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(programs, json.loads(done.stdout.splitlines()[-1]), strict=True))


def own_greedy_answer(policy: Policy, style: Style, picture: Path) -> str:
    sample = Sample(
        id="q",
        question=QUESTION,
        images=(picture,),
        sizes=((112, 84),),
        answer_kind="number",
        answer=1,
    )
    sampling = Sampling(max_tokens=8, temperature=1.0, greedy=True)
    ((answer,),) = TransformersEngine(policy).generate(
        [encode(sample, style, policy)], sampling, [[0]]
    )
    return policy.processor.tokenizer.decode(list(answer.token_ids), skip_special_tokens=True)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("family", ALL)
def test_the_cards_program_gets_the_answer_that_gpg_vl_gets(family, style, saved, reports):
    ran, printed = reports[family, style]
    assert ran, printed
    policy, folder = saved[family, style]
    assert printed == own_greedy_answer(policy, STYLES[style], folder / "picture.png") + "\n"


@pytest.mark.parametrize("form", ["adapter", "merged"])
@pytest.mark.parametrize("name", [*ALL, "own base"])
def test_the_program_of_an_adapter_and_of_its_merged_model_get_that_answer(
    name, form, saved, reports
):
    ran, printed = reports[name, form]
    assert ran, printed
    policy, folder = saved[name, form]
    assert printed == own_greedy_answer(policy, AnswerOnly(), folder / "picture.png") + "\n"
    assert ("PeftModel" in saved[name, form].program) == (form == "adapter")


@pytest.mark.parametrize("family", ALL)
def test_a_pipeline_reads_it(family, reports):
    ran, printed = reports[family, "pipeline"]
    assert ran == (family not in FAMILIES or torchvision_works()), printed


def test_the_card_names_words_form_and_coordinates(saved):
    card = (saved["qwen2_5_vl", "words"].folder / "README.md").read_text()
    assert '"You count."' in card
    assert f"{QUESTION} {STYLES['words'].instruction}" in card
    assert "`<think>...</think><answer>4</answer>`" in card
    assert (
        "pixels of the picture as the processor resizes it (each side a multiple of 28, the area "
        "from 784 to 1,048,576 pixels)" in card
    )


@pytest.mark.parametrize(
    ("knobs", "kind"),
    [
        ({}, "float32"),
        ({"weights": "bfloat16"}, "bfloat16"),
        ({"language": "frozen", "projector": "full"}, "float32"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_read_trained_weights_as_they_are_stored(family, knobs, kind, tmp_path):
    """Also where the tower, whose type transformers would write, is frozen and held in bfloat16."""
    policy = load_policy(PolicyConfig(dtype="bfloat16", tiny=Tiny(family=family), **knobs), seed=0)
    policy.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == kind
    plain = dict(AutoModelForImageTextToText.from_pretrained(tmp_path).named_parameters())
    for name, parameter in policy.model.named_parameters():
        assert plain[name].dtype == getattr(torch, kind)
        assert torch.equal(plain[name], parameter.to(plain[name].dtype)), name
