"""Loading, freezing, encoding: the tiny families go through the same code as any checkpoint."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from gpg_vl.boxes import resized
from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.data.recipes.digits import digits
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.policy import processor, tiny
from gpg_vl.policy.encode import encode, encode_messages
from gpg_vl.policy.families import parts
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.plain_forward import UnsharedForward
from gpg_vl.policy.processor import choose_backend
from gpg_vl.prompts import AnswerOnly, Style
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.types import Sample
from tests.conftest import FAMILIES
from tests.hand_made import png
from tests.other_checkpoint import other_checkpoint


def asked(
    *images: bytes, sizes=((56, 56),), question="How many digits are there in the image?"
) -> Sample:
    return Sample(
        id="q", question=question, images=images, sizes=sizes, answer_kind="number", answer=1
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_policy_loads_with_plain_transformers_and_says_the_same(family, policy_of, tmp_path):
    policy = policy_of(family)
    policy.save(tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        assert torch.equal(plain(**inputs).logits, policy.model(**inputs).logits)
    again = load_policy(PolicyConfig(vision="full"), seed=1, path=tmp_path)
    for mine, theirs in zip(policy.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_same_seed_same_weights_and_the_global_generator_is_left_alone(tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    tokenizer = tiny.build_tokenizer()
    first, second, other = (tiny.build_model(tokenizer, Tiny(), seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_freezing_is_one_word_per_part(policy_of):
    policy = policy_of(vision="frozen", projector="full", language="frozen")
    trained = {part for part, _, parameter in parts(policy.model) if parameter.requires_grad}
    assert trained == {"projector"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_three_parts(family, policy_of):
    assert {part for part, _, _ in parts(policy_of(family).model)} == {
        "language",
        "projector",
        "vision",
    }


def test_freezing_everything_is_refused(policy_of):
    with pytest.raises(UserError, match="nothing would be trained"):
        policy_of(vision="frozen", projector="frozen", language="frozen")


def test_unknown_model_gets_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"policy.model: .*nowhere.* cannot be loaded"):
        load_policy(PolicyConfig(model=str(tmp_path / "nowhere")), seed=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_frame_is_what_the_family_was_taught(family, policy_of):
    kinds = {"qwen2_vl": "norm1000", "qwen2_5_vl": "resized", "qwen3_vl": "norm1000"}
    assert policy_of(family).frame.kind == kinds[family]
    assert policy_of(family, frame="pixels").frame.kind == "pixels"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(56, 56), (112, 84), (157, 123), (30, 300), (29, 29)])
def test_our_resized_frame_is_the_processors_own(family, size, policy_of):
    policy = policy_of(family, max_pixels=100 * 28 * 28)
    prompt = encode(asked(png(size, "white"), sizes=(size,)), AnswerOnly(), policy)
    _, rows, columns = prompt.features["image_grid_thw"][0].tolist()
    patch, frame = tiny.PATCH[family], policy.frame
    expected = resized(
        size, factor=frame.factor, min_pixels=frame.min_pixels, max_pixels=frame.max_pixels
    )
    assert (columns * patch, rows * patch) == expected


def test_prompt_expands_each_image_to_its_visual_tokens(policy_of):
    policy = policy_of()
    sample = asked(png((112, 112), "white"), png((56, 84), "white"), sizes=((112, 112), (56, 84)))
    prompt = encode(sample, AnswerOnly(), policy)
    assert prompt.text.count("<|image_pad|>") == 2
    assert prompt.input_ids.count(policy.model.config.image_token_id) == 16 + 6
    assert prompt.features["mm_token_type_ids"].shape == (1, len(prompt.input_ids))
    assert int(prompt.features["mm_token_type_ids"].sum()) == 22


def test_text_only_prompt_has_no_pixels(policy_of):
    prompt = encode(next(digits("add", count=1)), AnswerOnly(), policy_of())
    assert set(prompt.features) == {"mm_token_type_ids"}


def test_a_question_with_more_placeholders_than_pictures_is_left_out(policy_of):
    with pytest.raises(UnusableSampleError, match=r"2 marks of pictures .* 1 pictures"):
        encode(
            asked(png((56, 56), "white"), question="<|image_pad|> what is <|image_pad|>?"),
            AnswerOnly(),
            policy_of(),
        )


def test_transparent_pixels_are_white_not_what_lies_beneath(policy_of):
    policy = policy_of()
    see_through = encode(asked(png((56, 56), (255, 0, 0, 0), "RGBA")), AnswerOnly(), policy)
    white = encode(asked(png((56, 56), "white")), AnswerOnly(), policy)
    assert torch.equal(see_through.features["pixel_values"], white.features["pixel_values"])


def test_an_opened_think_ends_the_prompt(policy_of):
    prompt = encode(next(digits("add", count=1)), Style(think="opened"), policy_of())
    assert prompt.text.endswith("<think>")


def test_decode_drops_the_one_final_end_and_keeps_other_special_tokens(policy_of):
    policy = policy_of()
    tokenizer = policy.processor.tokenizer
    end, pad, image = (
        tokenizer.convert_tokens_to_ids(token)
        for token in ("<|im_end|>", "<|endoftext|>", "<|vision_start|>")
    )
    three = tokenizer("3")["input_ids"][0]
    assert policy.end_ids == {end, pad}
    assert policy.decode([image, three, end]) == "<|vision_start|>3"
    assert policy.decode([three, end, end]) == "3<|im_end|>"


def test_vision_that_only_qwen_vl_utils_can_fetch_needs_torchvision(policy_of, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwen_vl_utils", None)  # what a missing torchvision does to it
    messages = [
        {"role": "user", "content": [{"type": "image", "image": "https://example.com/a.png"}]}
    ]
    with pytest.raises(UserError, match="install the torchvision that matches"):
        encode_messages(messages, asked(), policy_of())


def test_asking_for_a_missing_torchvision_says_what_to_install(monkeypatch):
    monkeypatch.setattr(processor, "torchvision_works", lambda: False)
    with pytest.raises(UserError, match=r"policy.image_backend: got torchvision"):
        choose_backend("torchvision")


def test_message_style_vision_goes_through_qwen_vl_utils(policy_of, monkeypatch):
    fetched = [Image.new("RGB", (56, 56), "white")]
    monkeypatch.setitem(
        sys.modules,
        "qwen_vl_utils",
        SimpleNamespace(process_vision_info=lambda messages: (fetched, None)),
    )
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": "data:image;base64,..."},
                {"type": "text", "text": "?"},
            ],
        }
    ]
    prompt = encode_messages(messages, asked(), policy_of())
    assert torch.equal(
        prompt.features["pixel_values"],
        encode(asked(png((56, 56), "white")), AnswerOnly(), policy_of()).features["pixel_values"],
    )


def test_a_broken_torchvision_is_hidden_and_images_still_work(tmp_path: Path):
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")\n'
    )
    (tmp_path / "torchvision-0.28.0.dist-info").mkdir()
    (tmp_path / "torchvision-0.28.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n"
    )
    script = (
        "from gpg_vl.config.schema import PolicyConfig; from gpg_vl.policy.load import load_policy;"
        " from gpg_vl.policy.encode import encode;from gpg_vl.prompts import AnswerOnly; from "
        "gpg_vl.data.recipes.digits import digits;policy = load_policy(PolicyConfig(), "
        "seed=0);print(policy.image_backend, len(encode(next(digits('box', count=1)), "
        "AnswerOnly(), policy).features['pixel_values']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        cwd=Path.cwd(),
    )
    assert done.stdout.split() == ["pil", "16"], done.stderr


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_another_familys_checkpoint_is_loaded_asked_and_scored(family, tmp_path):
    policy = load_policy(
        PolicyConfig(model=str(other_checkpoint(family, tmp_path)), vision="full"), seed=0
    )
    assert {part for part, _, _ in parts(policy.model)} == {"language", "projector", "vision"}
    prompts = [
        encode(asked(png((40, 30), "white"), sizes=((40, 30),)), AnswerOnly(), policy),
        encode(next(digits("add", count=1)), AnswerOnly(), policy),
    ]
    assert prompts[0].input_ids.count(policy.banned_ids[0]) == {"llava": 16, "gemma3": 4}[family]
    answers = TransformersEngine(policy).generate(
        prompts, Sampling(max_tokens=6, temperature=1.0), [[1, 2], [3, 4]]
    )
    pairs = list(zip(prompts, answers, strict=True))
    shared, plain = GroupForward(policy, 1.0)(pairs), UnsharedForward(policy, 1.0)(pairs)
    torch.testing.assert_close(shared.logprobs_N, plain.logprobs_N.detach(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="not known in which frame"):
        policy.frame.units((40, 30))


def test_pixel_limits_of_a_processor_that_has_none_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"policy.min_pixels and policy.max_pixels belong to Qwen-VL"
    ):
        load_policy(
            PolicyConfig(model=str(other_checkpoint("gemma3", tmp_path)), max_pixels=1000), seed=0
        )
