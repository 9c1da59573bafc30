"""Pictures on their way into the model: opened as a person sees them, split, named, remembered
and written so that nothing half is read."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gpg_vl.errors import UnusableSampleError
from gpg_vl.policy import encode as encoding
from gpg_vl.policy import vision
from gpg_vl.policy.encode import encode, read_images
from gpg_vl.policy.vision import FeatureCache, Features, Vision, digest, pictures, tower_inputs
from gpg_vl.prompts import AnswerOnly
from gpg_vl.types import Prompt, Sample
from tests.any_family import hand_made, policy_of_family
from tests.hand_made import encoded, png

CPU = torch.device("cpu")


def shown_as(content: object) -> dict[str, object]:
    return {"type": "image", "image": content}


def opened(content: Path | bytes) -> Image.Image:
    (image,) = read_images([{"role": "user", "content": [shown_as(content)]}])
    return image


# --- opening --------------------------------------------------------------------------------------


def palette(transparent: int | None) -> bytes:
    """Left pixel red, right pixel blue, one of them perhaps see-through."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image) if transparent is None else encoded(image, transparency=transparent)


RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (png((2, 1), RED), [RED, RED]),
        (png((2, 1), (*RED, 0), "RGBA"), [WHITE, WHITE]),
        (png((2, 1), (*RED, 255), "RGBA"), [RED, RED]),
        (png((2, 1), (0, 0, 0, 51), "RGBA"), [(204, 204, 204)] * 2),  # a fifth of black on white
        (png((2, 1), (0, 0), "LA"), [WHITE, WHITE]),
        (png((2, 1), (9, 255), "LA"), [(9, 9, 9)] * 2),
        (png((2, 1), 9, "L"), [(9, 9, 9)] * 2),
        (png((2, 1), 0, "1"), [(0, 0, 0)] * 2),
        (palette(None), [RED, BLUE]),
        (palette(0), [WHITE, BLUE]),
        (palette(1), [RED, WHITE]),
    ],
    ids=[
        "RGB",
        "clear",
        "opaque",
        "a fifth",
        "clear grey",
        "opaque grey",
        "grey",
        "bits",
        "palette",
        "palette 0 clear",
        "palette 1 clear",
    ],
)
def test_a_picture_of_every_mode_is_what_a_person_sees_on_white(content, pixels, tmp_path):
    (tmp_path / "it.png").write_bytes(content)
    for shown in (opened(content), opened(tmp_path / "it.png")):
        assert shown.mode == "RGB"
        assert [shown.getpixel((x, 0)) for x in range(2)] == pixels


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    whole = png((64, 64), RED)
    (tmp_path / "cut.png").write_bytes(whole[:60])
    for content, words in (
        (tmp_path / "cut.png", "cut.png cannot be read"),
        (whole[:60], "its bytes cannot be read"),
    ):
        with pytest.raises(UnusableSampleError, match=words):
            opened(content)
    with pytest.raises(UnusableSampleError, match=r"nowhere.png does not exist"):
        opened(tmp_path / "nowhere.png")


def test_pictures_come_in_the_order_of_the_messages_and_text_is_none():
    first, second, third = (png((width, 1), RED) for width in (1, 2, 3))
    messages = [
        {"role": "system", "content": "no picture"},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": third},
                {"type": "text", "text": "and"},
                {"type": "image", "image": first},
            ],
        },
        {"role": "user", "content": [{"type": "image", "image": second}]},
    ]
    assert [image.size for image in read_images(messages)] == [(3, 1), (1, 1), (2, 1)]
    assert read_images(messages[:1]) == []


def test_only_what_is_no_path_and_no_bytes_is_fetched_elsewhere(monkeypatch):
    still, frame = Image.new("RGB", (2, 1)), Image.new("RGB", (3, 1))
    utils = SimpleNamespace(process_vision_info=lambda messages: ([still], [[frame, frame]]))
    monkeypatch.setattr(encoding, "import_module", lambda name: utils)
    link, own = shown_as("https://example.com/a.png"), shown_as(encoded(still))
    clip = {"type": "video", "video": "a.mp4"}
    for parts in ([link], [own, link], [own, clip]):
        assert [image.size for image in read_images([{"role": "user", "content": parts}])] == [
            (2, 1),
            (3, 1),
            (3, 1),
        ]


# --- the window -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "fits"), [(1, True), (0, False), (-1, False)])
def test_a_prompt_must_leave_room_for_at_least_one_token(room, fits, policy_of):
    policy = policy_of()
    sample = Sample(
        id="q",
        question="How many?",
        images=(png((84, 56)),),
        sizes=((84, 56),),
        answer_kind="number",
        answer=1,
    )
    tokens = len(encode(sample, AnswerOnly(), policy).input_ids)
    narrow = replace(policy, window=tokens + room)
    if fits:
        assert len(encode(sample, AnswerOnly(), narrow).input_ids) == tokens
        return
    with pytest.raises(
        UnusableSampleError,
        match=rf"^q: its prompt has {tokens} tokens, the model's window is {tokens + room}$",
    ):
        encode(sample, AnswerOnly(), narrow)


def test_a_prompt_holds_what_the_processor_was_shown_and_no_mask(policy_of):
    wide, high = png((112, 56), RED), png((56, 84), BLUE)
    sample = Sample(
        id="q",
        question="?",
        images=(wide, high),
        sizes=((112, 56), (56, 84)),
        answer_kind="number",
        answer=1,
    )
    prompt = encode(sample, AnswerOnly(), policy_of())
    assert prompt.sample is sample
    assert [(image.size, image.getpixel((0, 0))) for image in prompt.images] == [
        ((112, 56), RED),
        ((56, 84), BLUE),
    ]
    # rows, then columns, of 14 pixels
    assert prompt.features["image_grid_thw"].tolist() == [
        [1, 4, 8],
        [1, 6, 4],
    ]
    assert set(prompt.features) == {"mm_token_type_ids", "pixel_values", "image_grid_thw"}
    left, right = pictures(prompt.features)
    assert [picture["image_grid_thw"].tolist() for picture in (left, right)] == [
        [[1, 4, 8]],
        [[1, 6, 4]],
    ]
    assert [len(picture["pixel_values"]) for picture in (left, right)] == [32, 24]
    assert torch.equal(left["pixel_values"], prompt.features["pixel_values"][:32])
    assert prompt.pictures == (digest(left), digest(right))


# --- the name of a picture ------------------------------------------------------------------------


def test_every_ingredient_is_in_the_name_of_a_picture():
    pixels = torch.arange(24.0).view(8, 3)
    own = {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 4]])}
    others = [
        {**own, "image_grid_thw": torch.tensor([[1, 4, 2]])},  # width and height
        {**own, "pixel_values": pixels.view(4, 6)},
        {**own, "pixel_values": pixels.flip(0)},
        {"pixel_values": pixels},
        {"pixel_values": pixels, "pixel_attention_mask": own["image_grid_thw"]},
        {**own, "pixel_values": pixels + torch.tensor([0.0, 0.0, 1e-6])},
    ]
    assert len({digest(picture) for picture in (own, *others)}) == 7
    assert digest(dict(reversed(own.items()))) == digest(own)
    # another memory layout, the same picture
    assert digest({**own, "pixel_values": pixels.t().contiguous().t()}) == digest(own)


def test_tiles_come_with_their_own_masks_in_order():
    pixels, mask = (
        torch.arange(3.0).view(1, 3, 1, 1, 1).expand(1, 3, 3, 4, 6),
        torch.arange(3).view(1, 3, 1, 1).expand(1, 3, 4, 6),
    )
    for own, name in zip(
        pictures({"pixel_values": pixels, "pixel_attention_mask": mask}), range(3), strict=True
    ):
        assert (own["pixel_values"].shape, own["pixel_attention_mask"].shape) == ((3, 4, 6), (4, 6))
        assert (
            own["pixel_values"].unique().tolist()
            == own["pixel_attention_mask"].unique().tolist()
            == [name]
        )
    flat = pictures({"pixel_values": pixels[0]})
    assert [float(own["pixel_values"][0, 0, 0]) for own in flat] == [0, 1, 2]
    assert pictures({"mm_token_type_ids": torch.zeros(1, 4)}) == []


# --- the memory -----------------------------------------------------------------------------------


def features(number: float, layers: int = 0, *, stacked: bool = False) -> Features:
    """Each layer another number; 4 bytes a number."""
    return Features(
        torch.full((4, 8), number),
        tuple(torch.full((4, 8), number + 100 * (place + 1)) for place in range(layers)),
        stacked,
    )


def same(found: Features | None, expected: Features) -> bool:
    assert found is not None
    pairs = zip((found.tokens_ND, *found.deep), (expected.tokens_ND, *expected.deep), strict=True)
    return (
        all(torch.equal(mine, theirs) for mine, theirs in pairs)
        and found.stacked == expected.stacked
    )


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("layers", [0, 1, 12])
def test_what_was_remembered_comes_back_whole_from_memory_and_from_the_folder(
    layers, stacked, tmp_path
):
    put = features(3.0, layers, stacked=stacked)
    cache = FeatureCache(1, tmp_path, "w" * 64)
    cache.put("a", put)
    assert same(cache.get("a", CPU), put)
    assert same(FeatureCache(1, tmp_path, "w" * 64).get("a", CPU), put)
    assert cache.get("b", CPU) is None
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.safetensors")] == [
        f"{'w' * 16}/a.safetensors"
    ]


def test_what_is_remembered_is_a_copy():
    whole = torch.zeros(8, 8)
    cache = FeatureCache(1)
    cache.put("a", Features(whole[:4], (whole[4:],)))
    whole += 1
    assert cache.get("a", CPU).tokens_ND.sum() == 0
    assert cache.get("a", CPU).deep[0].sum() == 0


def test_other_weights_are_other_files(tmp_path):
    one, other = (
        FeatureCache(1, tmp_path, "1" + "0" * 63),
        FeatureCache(1, tmp_path, "2" + "0" * 63),
    )
    one.put("a", features(1.0))
    assert other.get("a", CPU) is None
    other.put("a", features(2.0))
    assert same(FeatureCache(1, tmp_path, one.weights).get("a", CPU), features(1.0))


def test_a_memory_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FeatureCache(1).put("a", features(1.0))
    assert not list(tmp_path.iterdir())


def test_a_memory_that_is_exactly_full_keeps_all_and_one_byte_more_is_too_much():
    mib = 1 << 20
    cache = FeatureCache(1)
    half = Features(
        torch.zeros(mib // 4, dtype=torch.uint8), (torch.zeros(mib // 4, dtype=torch.uint8),)
    )
    cache.put("a", half)
    cache.put("b", half)
    assert (list(cache.cached), cache.size) == (["a", "b"], mib)  # deep layers count
    cache.put("c", Features(torch.zeros(1, dtype=torch.uint8)))
    assert (list(cache.cached), cache.size) == (["b", "c"], mib // 2 + 1)


def test_what_is_read_from_the_folder_counts_and_is_held(tmp_path, monkeypatch):
    FeatureCache(1, tmp_path, "w").put("a", features(1.0, 2))
    cache = FeatureCache(1, tmp_path, "w")
    assert cache.get("a", CPU) is not None
    assert cache.size == 3 * 4 * 8 * 4
    monkeypatch.setattr(
        vision, "safe_open", lambda *_, **__: pytest.fail("the file was read again")
    )
    assert same(cache.get("a", CPU), features(1.0, 2))


def test_a_writer_that_fails_midway_leaves_nothing_that_is_taken_as_whole(tmp_path, monkeypatch):
    def cut(tensors, path, metadata):
        save_file(tensors, path, metadata=metadata)
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])
        raise OSError("No space left on device")

    monkeypatch.setattr(vision, "save_file", cut)
    with pytest.raises(OSError, match="No space left"):
        FeatureCache(1, tmp_path, "w").put("a", features(1.0))
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.safetensors"))
    cache = FeatureCache(1, tmp_path, "w")
    assert cache.get("a", CPU) is None
    cache.put("a", features(1.0))  # the rest of the failed one is in nobody's way
    assert same(FeatureCache(1, tmp_path, "w").get("a", CPU), features(1.0))


def test_two_processes_write_files_of_their_own_before_one_is_the_whole(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        vision,
        "save_file",
        lambda tensors, path, metadata: (
            seen.append(path) or save_file(tensors, path, metadata=metadata)
        ),
    )
    pids = itertools.count(10)
    monkeypatch.setattr(vision.os, "getpid", lambda: next(pids))
    for name in "ab":
        FeatureCache(1, tmp_path, "w").put(name, features(1.0))
    FeatureCache(1, tmp_path, "w").put("a", features(2.0))  # there already: not written again
    assert [path.name for path in seen] == ["a.10.half", "b.11.half"]
    assert same(FeatureCache(1, tmp_path, "w").get("a", CPU), features(1.0))


# --- through the tower ----------------------------------------------------------------------------


def shown(family: str, *seeds: int, counts=None) -> list[Prompt]:
    return [
        hand_made(family, count, 3, seed)
        for seed, count in zip(seeds, counts or [1] * len(seeds), strict=True)
    ]


def looked_at(sight: Vision, *asked: Prompt):
    """Features of the pictures of several prompts."""
    return sight.inputs(asked)["mm_encoder_outputs"]["image"].pooler_output


@pytest.mark.parametrize("family", ["qwen3_5", "smolvlm", "llava", "gemma3"])
@torch.no_grad()
def test_features_stand_in_the_order_of_their_placeholders_seen_before_or_not(family):
    """Prompts of two, no and one picture, one picture in two of them; whatever is remembered,
    each place gets its own picture."""
    policy = policy_of_family(family)
    a, b = shown(family, 1, 2, counts=[2, 1])
    empty = hand_made(family, 0, 3, 3)
    asked = [b, empty, a, b]
    cached = Vision(policy.model, FeatureCache(1))
    cached.inputs([a])  # pictures of a are known, that of b is not
    alone = [own for prompt in (b, a, b) for own in looked_at(Vision(policy.model, None), prompt)]
    for sight in (Vision(policy.model, None), cached, cached):
        found = looked_at(sight, *asked)
        assert len(found) == len(alone) == 4
        for mine, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)
    assert not torch.equal(alone[0], alone[1])
    assert cached.inputs([empty]) == {}


@pytest.mark.parametrize("known", [0, 1])
@torch.no_grad()
def test_of_a_prompt_of_which_one_picture_is_known_only_the_other_is_looked_at(known):
    policy = policy_of_family("llava")
    two = hand_made("llava", 2, 3, 1)
    one = slice(known, known + 1)
    alone = replace(
        two,
        features={"pixel_values": two.features["pixel_values"][one]},
        pictures=two.pictures[one],
    )
    sight, seen = Vision(policy.model, FeatureCache(1)), []
    sight.inputs([alone])
    policy.model.model.vision_tower.register_forward_pre_hook(
        lambda tower, args, said: seen.append(args[0] if args else said["pixel_values"]),
        with_kwargs=True,
    )
    found = looked_at(sight, two)
    (pixels,) = seen
    assert torch.equal(pixels.float(), two.features["pixel_values"][1 - known][None])
    for mine, theirs in zip(found, looked_at(Vision(policy.model, None), two), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_only_a_tower_that_remembers_nothing_passes_a_gradient_on():
    for cache, carries in ((None, True), (FeatureCache(1), False)):
        policy = policy_of_family("llava")
        found = looked_at(Vision(policy.model, cache), *shown("llava", 1))
        assert found[0].requires_grad == carries


def test_deepstack_features_stay_with_their_pictures_and_layers():
    one, two = torch.zeros(2, 4), torch.ones(3, 4)
    layers = [torch.cat([one + 10 * place, two + 10 * place]) for place in (1, 2)]
    output = SimpleNamespace(pooler_output=(one, two), deepstack_features=layers)
    first, second = vision._split(output, 2)
    assert [own[0, 0].item() for own in first.deep] == [10, 20]
    assert [(own[0, 0].item(), len(own)) for own in second.deep] == [(11, 3), (21, 3)]
    assert (first.stacked, second.stacked) == (False, False)
    joined: BaseModelOutputWithPooling = vision._join([second, first])
    assert [len(own) for own in joined.pooler_output] == [3, 2]
    assert [[own[0, 0].item() for own in layer] for layer in joined.deepstack_features] == [
        [11, 10],
        [21, 20],
    ]


def test_stacked_features_stay_stacked():
    output = SimpleNamespace(pooler_output=torch.arange(2.0)[:, None, None].expand(2, 3, 4))
    first, second = vision._split(output, 2)
    assert first.stacked
    assert vision._join([second, first]).pooler_output[:, 0, 0].tolist() == [1, 0]


def test_a_row_of_tiles_is_filled_up_and_a_prompt_without_pictures_is_all_empty():
    policy = policy_of_family("smolvlm", torch.float32)
    one, none, two = shown("smolvlm", 1, 2, 3, counts=[1, 0, 2])
    pixels = tower_inputs([one, none, two], policy.model)["pixel_values"]
    assert pixels.shape == (3, 2, 3, 32, 32)
    assert torch.equal(pixels[0, 0], one.features["pixel_values"][0, 0])
    assert torch.equal(pixels[2], two.features["pixel_values"][0])
    assert not pixels[0, 1].any()
    assert not pixels[1].any()
    assert tower_inputs([none], policy.model) == {}


def test_patches_of_several_prompts_are_one_line_in_their_order_and_of_the_models_type():
    policy = policy_of_family("qwen3_5")
    one, none, two = shown("qwen3_5", 1, 2, 3, counts=[1, 0, 2])
    inputs = tower_inputs([two, none, one], policy.model)
    assert inputs["pixel_values"].dtype == torch.float64
    assert inputs["image_grid_thw"].dtype == torch.long
    assert torch.equal(
        inputs["pixel_values"].float(),
        torch.cat([two.features["pixel_values"], one.features["pixel_values"]]),
    )
    assert len(inputs["image_grid_thw"]) == 3


def test_a_style_that_names_images_itself_is_shown_those(policy_of):
    """A prompt style of your own may add pictures, for instance of worked examples."""

    class WithExample(AnswerOnly):
        def messages(self, sample: Sample) -> list[Any]:
            (message,) = super().messages(sample)
            _, *words = message["content"]
            images = [png((84, 56)), *sample.images]
            shown = [{"type": "image", "image": image} for image in images]
            return [{"role": "user", "content": [*shown, *words]}]

    sample = Sample(
        id="a",
        question="?",
        images=(png((56, 56)),),
        sizes=((56, 56),),
        answer_kind="number",
        answer=1,
    )
    policy = policy_of()
    assert [image.size for image in encode(sample, AnswerOnly(), policy).images] == [(56, 56)]
    shown = encode(sample, WithExample(), policy).images
    assert [image.size for image in shown] == [(84, 56), (56, 56)]
