"""Facts about a model, held against literals: ids, parts, positions, sizes, limits, and what names
its remembered features."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn

from gpg_vl.config import models
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy import families, load, model_folder, processor, sizes
from gpg_vl.policy.families import (
    parts,
    picture_tokens,
    prompt_positions,
    row_positions,
    token_inputs,
    why_not_shared,
)
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import name_of_weights
from gpg_vl.policy.model_folder import config_file, find_model, locate
from gpg_vl.policy.sizes import Matrix, Size, Stack
from tests.asking import prompts
from tests.conftest import FAMILIES
from tests.hand_made import completion

# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_of_the_tiny_tokenizer_by_name(family, policy_of):
    policy = policy_of(family)
    names = {
        policy.processor.tokenizer.convert_ids_to_tokens(token): token for token in range(353, 365)
    }
    assert policy.banned_ids == (names["<|image_pad|>"], names["<|video_pad|>"]) == (359, 360)
    assert policy.end_ids == {names["<|im_end|>"], names["<|endoftext|>"]} == {355, 353}
    assert policy.pad_id == names["<|endoftext|>"] == 353
    assert policy.window == 8192


@pytest.mark.parametrize(
    ("listed", "own", "expected"),
    [
        ([7, 8], 8, {7, 8}),
        ([7, 8], 9, {7, 8, 9}),
        ([7, 8], None, {7, 8}),
        (7, 9, {7, 9}),
        (7, None, {7}),
        (None, 9, {9}),
        (None, None, set()),
        (0, 0, {0}),
    ],
)
def test_end_ids_are_those_of_the_files_and_of_the_tokenizer(listed, own, expected):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=listed))
    assert load._end_ids(model, SimpleNamespace(eos_token_id=own)) == expected


def test_a_model_without_videos_bans_only_its_picture():
    assert load.placeholder_ids(SimpleNamespace(config=SimpleNamespace(image_token_id=0))) == [0]
    assert load.placeholder_ids(
        SimpleNamespace(config=SimpleNamespace(image_token_id=5, video_token_id=None))
    ) == [5]
    assert load.placeholder_ids(
        SimpleNamespace(config=SimpleNamespace(image_token_id=5, video_token_id=6))
    ) == [5, 6]


def test_decoding_drops_one_end_of_either_kind_and_nothing_else(policy_of):
    policy = policy_of()
    three = policy.processor.tokenizer("3")["input_ids"][0]
    for end, word in ((355, "<|im_end|>"), (353, "<|endoftext|>")):
        assert policy.decode((three, end)) == "3"
        assert policy.decode((end, three)) == f"{word}3"
        assert policy.decode((end,)) == ""
    assert policy.decode(()) == ""


@pytest.mark.parametrize(
    ("dtype", "computes"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float64", torch.float64)],
)
def test_weights_are_kept_wide_and_only_bfloat16_computes_in_another_type(
    dtype, computes, policy_of
):
    policy = policy_of(dtype=dtype)
    assert policy.dtype == computes
    assert {parameter.dtype for parameter in policy.model.parameters()} == {
        torch.float64 if dtype == "float64" else torch.float32
    }
    with policy.autocast():
        assert torch.is_autocast_enabled("cpu") == (dtype == "bfloat16")
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == (
            torch.bfloat16 if dtype == "bfloat16" else torch.float32
        )
    assert not policy.model.training


@pytest.mark.parametrize(
    ("family", "factor"), [("qwen2_vl", 28), ("qwen2_5_vl", 28), ("qwen3_vl", 32)]
)
def test_frames_are_of_the_processor_s_own_pixels(family, factor, policy_of):
    frame = policy_of(family, min_pixels=2000, max_pixels=9000).frame
    assert (frame.factor, frame.min_pixels, frame.max_pixels) == (factor, 2000, 9000)
    assert (policy_of(family).frame.min_pixels, policy_of(family).frame.max_pixels) == (
        28**2,
        1024**2,
    )


def fitting(**changed):
    """A model and a processor that fit, or nearly."""
    given = {
        "rows": 10,
        "highest": 9,
        "ours": 5,
        "theirs": 5,
        "before": None,
        "end": 3,
        "patch": 14,
        "merge": 2,
        "frames": 2,
        **changed,
    }
    model = SimpleNamespace(
        get_input_embeddings=lambda: SimpleNamespace(num_embeddings=given["rows"]),
        config=SimpleNamespace(
            image_token_id=given["ours"],
            vision_config=SimpleNamespace(
                patch_size=14, spatial_merge_size=2, temporal_patch_size=2
            ),
        ),
        generation_config=SimpleNamespace(eos_token_id=None),
    )
    tokenizer = SimpleNamespace(
        get_vocab=lambda: {"a": given["highest"], "b": 0},
        image_token_id=given["before"],
        eos_token_id=given["end"],
    )
    images = {
        "patch_size": given["patch"],
        "merge_size": given["merge"],
        "temporal_patch_size": given["frames"],
    }
    shower = SimpleNamespace(**{name: value for name, value in images.items() if value is not None})
    return model, SimpleNamespace(
        tokenizer=tokenizer, image_processor=shower, image_token_id=given["theirs"]
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, ""),
        ({"rows": 9}, "it: its tokenizer has a token 9, its model embeds 9; take both"),
        ({"rows": 100}, ""),
        ({"theirs": 6}, "it: a picture is token 6 for its processor and 5 for its model"),
        ({"theirs": 6, "before": 5}, ""),
        ({"end": None}, "it: names no end token"),
        ({"end": 0}, ""),
        ({"patch": 16}, "it: its processor has patch_size 16, its model 14"),
        ({"merge": 1}, "it: its processor has merge_size 1, its model 2"),
        ({"frames": 1}, "it: its processor has temporal_patch_size 1, its model 2"),
        ({"patch": None, "merge": None, "frames": None}, ""),
    ],
)
def test_a_processor_of_another_model_is_refused_whatever_differs(changed, words):
    model, shower = fitting(**changed)
    if not words:
        load._check_fit(model, shower, "it")
        return
    with pytest.raises(UserError) as caught:
        load._check_fit(model, shower, "it")
    assert str(caught.value).startswith(words)


def test_a_frame_is_what_the_config_says_else_what_the_family_was_taught_else_nobody_knows():
    plain = SimpleNamespace()
    shower = SimpleNamespace(
        patch_size=14, merge_size=3, size={"shortest_edge": 5, "longest_edge": 6}
    )
    auto, said = SimpleNamespace(frame="auto"), SimpleNamespace(frame="norm1")
    assert load._frame(auto, "qwen2_5_vl", shower).kind == "resized"
    assert load._frame(said, "qwen2_5_vl", shower).kind == "norm1"
    assert load._frame(auto, "llava", plain).kind == "undeclared"
    assert load._frame(said, "llava", plain).kind == "norm1"
    frame = load._frame(auto, "qwen3_vl", shower)
    assert (frame.kind, frame.factor, frame.min_pixels, frame.max_pixels) == ("norm1000", 42, 5, 6)


# --- limits, backends, videos ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [(None, None, (3, 9)), (4, None, (4, 9)), (None, 8, (3, 8)), (5, 7, (5, 7))],
)
def test_a_pixel_limit_that_is_not_given_is_the_checkpoint_s_own(least, most, expected):
    made = SimpleNamespace(
        image_processor=SimpleNamespace(size={"shortest_edge": 3, "longest_edge": 9})
    )
    processor.limit_pixels(made, least, most)
    assert (
        made.image_processor.size["shortest_edge"],
        made.image_processor.size["longest_edge"],
    ) == expected


@pytest.mark.parametrize(
    "size", [{"shortest_edge": 3}, {"longest_edge": 9}, {"height": 3, "width": 9}]
)
def test_limits_need_both_edges(size):
    made = SimpleNamespace(image_processor=SimpleNamespace(size=size))
    processor.limit_pixels(made, None, None)
    assert made.image_processor.size == size
    for limits in ((4, None), (None, 4)):
        with pytest.raises(UserError, match="belong to Qwen-VL"):
            processor.limit_pixels(made, *limits)


@pytest.mark.parametrize(
    ("wanted", "works", "chosen"),
    [
        ("auto", True, "torchvision"),
        ("auto", False, "pil"),
        ("pil", True, "pil"),
        ("pil", False, "pil"),
        ("torchvision", True, "torchvision"),
    ],
)
def test_who_resizes(wanted, works, chosen, monkeypatch):
    monkeypatch.setattr(processor, "torchvision_works", lambda: works)
    assert processor.choose_backend(wanted) == chosen


@pytest.mark.parametrize(
    ("raised", "works", "message"),
    [
        (
            ImportError("no module"),
            False,
            r"key: folder: this processor needs torchvision; install the torchvision that matches",
        ),
        (
            ImportError("no module"),
            True,
            r"key: folder: its processor cannot be loaded: ImportError: no module$",
        ),
        (
            ValueError("two\n words"),
            False,
            r"key: folder: its processor cannot be loaded: ValueError: two words$",
        ),
    ],
)
def test_a_missing_torchvision_is_named_only_where_it_is_missing(
    raised, works, message, monkeypatch
):
    import transformers

    def fails(*given: Any, **more: Any) -> Any:
        raise raised

    monkeypatch.setattr(processor, "torchvision_works", lambda: works)
    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", fails)
    with pytest.raises(UserError, match=message):
        processor.load_processor(Path("folder"), "pil", "key")


def test_what_is_said_of_videos_is_looked_for_in_two_files(tmp_path):
    assert processor._video_settings(tmp_path) is None
    (tmp_path / "video_preprocessor_config.json").write_text('{"max_frames": 1}')
    assert processor._video_settings(tmp_path) == {"max_frames": 1}
    (tmp_path / "processor_config.json").write_text('{"image_processor": {}}')
    assert processor._video_settings(tmp_path) == {"max_frames": 1}
    (tmp_path / "processor_config.json").write_text('{"video_processor": {"max_frames": 2}}')
    assert processor._video_settings(tmp_path) == {"max_frames": 2}


# --- parts and positions --------------------------------------------------------------------------


def test_parts_by_name():
    names = {
        "model.visual.patch_embed.proj.weight": "vision",
        "model.visual.blocks.0.mlp.up_proj.weight": "vision",
        "model.visual.merger.ln_q.weight": "projector",
        "model.visual.deepstack_merger_list.0.norm.bias": "projector",
        "model.language_model.embed_tokens.weight": "language",
        "model.language_model.layers.0.self_attn.q_proj.weight": "language",
        "lm_head.weight": "language",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": "vision",
        "model.multi_modal_projector.linear_1.weight": "projector",
        "model.vision_model.embeddings.patch_embedding.weight": "vision",
        "model.connector.modality_projection.proj.weight": "projector",
        "model.text_model.layers.0.mlp.up_proj.weight": "language",
    }
    model = SimpleNamespace(named_parameters=lambda: [(name, name.upper()) for name in names])
    assert list(parts(model)) == [(part, name, name.upper()) for name, part in names.items()]


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (None, ""),
        ([], ""),
        (["full_attention"], ""),
        (["sliding_attention", "full_attention"], ""),
        (["full_attention", "linear_attention"], "mine has layers of linear_attention, which keep"),
        (
            ["mamba", "linear_attention", "mamba"],
            "mine has layers of linear_attention and mamba, which keep",
        ),
    ],
)
def test_only_layers_that_attend_share_a_prompt(kinds, words):
    text = SimpleNamespace() if kinds is None else SimpleNamespace(layer_types=kinds)
    reason = why_not_shared(
        SimpleNamespace(config=SimpleNamespace(model_type="mine", get_text_config=lambda: text))
    )
    assert reason.startswith(words)
    assert bool(reason) == bool(words)


def test_positions_of_padded_prompts_and_of_the_rows_that_follow_by_hand():
    visible = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ids, types = torch.zeros_like(visible), torch.zeros_like(visible)
    positions, following = prompt_positions(SimpleNamespace(), ids, visible, types, None)
    assert positions[0, 2:].tolist() == [0, 1, 2]
    assert positions[1].tolist() == [0, 1, 2, 3, 4]
    assert following.tolist() == [3, 5]
    assert row_positions(SimpleNamespace(), following, 4, 3).tolist() == [[7, 8, 9], [9, 10, 11]]


def test_positions_where_a_picture_takes_fewer_places_than_tokens():
    given = {}

    def index(ids, types, *, image_grid_thw, attention_mask):
        given.update(types=types, grids=image_grid_thw, visible=attention_mask)
        return torch.zeros(3, 2, 5), torch.tensor([[-2], [-1]])

    core = SimpleNamespace(get_rope_index=index)
    visible = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    grids, types = torch.tensor([[1, 2, 4]]), torch.ones_like(visible)
    positions, following = prompt_positions(core, visible, visible, types, grids)
    assert positions.shape == (3, 2, 5)
    assert following.tolist() == [3 - 2, 5 - 1]
    assert (given["types"] is types, given["grids"] is grids, given["visible"] is visible) == (
        True,
        True,
        True,
    )
    assert row_positions(core, following, 0, 2).tolist() == [[[1, 2], [4, 5]]] * 3


def test_which_tokens_are_of_a_picture_and_who_is_reported():
    model = SimpleNamespace(
        config=SimpleNamespace(image_token_id=7, model_type="qwen2_5_vl"),
        model=SimpleNamespace(get_rope_index=None),
    )
    types = picture_tokens(model, torch.tensor([[7, 1], [0, 7]]))
    assert (types.tolist(), types.dtype) == ([[1, 0], [0, 1]], torch.long)
    assert token_inputs(model, types) == {"mm_token_type_ids": types}
    model.config.model_type = "gemma3"
    assert token_inputs(model, types) == {"token_type_ids": types}
    model.config.model_type, model.model = "llava", SimpleNamespace()
    assert token_inputs(model, types) == {}


def test_a_cache_is_handed_over_by_the_name_that_the_module_knows():
    class Old(nn.Module):
        def forward(self, past_key_values): ...

    class New(nn.Module):
        def forward(self, cache): ...

    assert families.cache_input(Old(), 5) == {"past_key_values": 5}
    assert families.cache_input(New(), 5) == {"cache": 5}


# --- remembered features --------------------------------------------------------------------------


def test_every_ingredient_is_in_the_digest_of_weights():
    def one(name="a", values=(1.0, 2.0, 3.0, 4.0), shape=(4,), dtype="float32", more=()):
        made = {
            name: nn.Parameter(torch.tensor(values).view(shape)),
            **{key: nn.Parameter(torch.ones(2)) for key in more},
        }
        return name_of_weights(made, dtype)

    digests = [
        one(),
        one("b"),
        one(values=(1.0, 2.0, 3.0, 4.5)),
        one(values=(2.0, 1.0, 3.0, 4.0)),
        one(shape=(2, 2)),
        one(dtype="bfloat16"),
    ]
    digests += [one(dtype="float64"), one(more=("z",)), one(more=("y",))]
    assert len(set(digests)) == len(digests)
    assert one() == digests[0]


def test_features_of_another_type_or_of_other_weights_are_looked_at_anew(policy_of, tmp_path):
    def looks(other=None, **config):
        policy = policy_of(
            vision="frozen", projector="frozen", feature_folder=str(tmp_path), **config
        )
        if other:
            with torch.no_grad():
                next(parameter for part, _, parameter in parts(policy.model) if part == other).view(
                    -1
                )[0] += 1
            policy = replace(
                policy,
                vision=load.Vision(
                    policy.model, load._feature_cache(policy.model, config_of(policy, tmp_path))
                ),
            )
        seen = []
        policy.model.model.visual.register_forward_pre_hook(
            lambda *_, **__: seen.append(1), with_kwargs=True
        )
        (prompt,) = prompts(policy, ["count"])
        GroupForward(policy, 1.0)([(prompt, [completion([5])])])
        return len(seen)

    assert [looks(), looks()] == [1, 0]
    assert [looks(dtype="bfloat16"), looks(dtype="bfloat16"), looks()] == [1, 0, 0]
    assert [looks("vision"), looks("projector"), looks("language"), looks()] == [1, 1, 0, 0]


def config_of(policy, folder):
    return SimpleNamespace(
        feature_folder=str(folder),
        feature_cache_mb=1,
        dtype=str(policy.dtype).removeprefix("torch."),
    )


def test_the_memory_is_as_large_as_was_said(policy_of):
    for megabytes in (0, 3):
        cache = policy_of(
            vision="frozen", projector="frozen", feature_cache_mb=megabytes
        ).vision.cache
        assert (cache.max_bytes, cache.folder) == (megabytes * 1024 * 1024, None)


@pytest.mark.parametrize("part", ["language", "projector", "vision"])
def test_exactly_the_named_part_is_trained(part, policy_of):
    frozen = {"language": "frozen", "projector": "frozen", "vision": "frozen"}
    for words, expected in (
        ({**frozen, part: "full"}, {part}),
        ({**dict.fromkeys(frozen, "full"), part: "frozen"}, set(frozen) - {part}),
    ):
        policy = policy_of(**words)
        trained = {own for own, _, parameter in parts(policy.model) if parameter.requires_grad}
        assert trained == expected
        assert {
            own for own, _, parameter in parts(policy.model) if not parameter.requires_grad
        } == set(frozen) - expected
        assert (policy.vision.cache is None) == bool(expected & {"projector", "vision"})


# --- sizes ----------------------------------------------------------------------------------------

TEXT = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 10,
}
GRID = {"patch_size": 2, "spatial_merge_size": 2, "temporal_patch_size": 2, "depth": 3}
SAID = {
    "qwen2_vl": {
        **TEXT,
        "tie_word_embeddings": False,
        "vision_config": {**GRID, "embed_dim": 4, "mlp_ratio": 1.5, "hidden_size": 8},
    },
    "qwen2_5_vl": {
        "text_config": TEXT,
        "tie_word_embeddings": True,
        "vision_config": {**GRID, "hidden_size": 4, "intermediate_size": 6, "out_hidden_size": 8},
    },
    "qwen3_vl": {
        "text_config": {**TEXT, "head_dim": 6},
        "tie_word_embeddings": True,
        "vision_config": {
            **GRID,
            "hidden_size": 4,
            "intermediate_size": 6,
            "out_hidden_size": 8,
            "num_position_embeddings": 5,
            "deepstack_visual_indexes": [0, 2],
        },
    },
}
# A layer of Qwen2's language model: queries 8*8 + 8, keys and values 2 * (8*4 + 4), output 8*8,
# feed-forward 3*8*16, norms 2*8: 608. A layer of Qwen3's: queries and output 2 * 8*12, keys and
# values 2 * 8*6, norms of heads 2*6, feed-forward 384, norms 16: 700. A layer of the tower: 4*12 +
# 12, 4*4 + 4, up 4*6 + 6, down 6*4 + 4, two layer norms 2*2*4: 154; Qwen2.5's: two ups, RMS norms
# 2*4: 176. Patches: 3 colours * 2 frames * 2*2 pixels * 4 = 96; Qwen3's have a bias of 4 and 5
# places * 4 more. The merger: 16*16 + 16, 16*8 + 8 and a norm of 4 (RMS) or 8: 412 or 416;
# deepstack's each 408 and a norm of 2*16: 440.
COUNTS = {
    "qwen2_vl": {"language": 2 * 608 + 8 + 80 + 80, "projector": 416, "vision": 3 * 154 + 96},
    "qwen2_5_vl": {"language": 2 * 608 + 8 + 80, "projector": 412, "vision": 3 * 176 + 96},
    "qwen3_vl": {
        "language": 2 * 700 + 8 + 80,
        "projector": 416 + 2 * 440,
        "vision": 3 * 154 + 96 + 4 + 20,
    },
}


_ATTENTION = (Matrix("proj", 4, 4), Matrix("qkv", 4, 12))
TOWERS = {
    "qwen2_vl": (Matrix("fc1", 4, 6), Matrix("fc2", 6, 4), *_ATTENTION),
    "qwen2_5_vl": (
        Matrix("down_proj", 6, 4),
        Matrix("gate_proj", 4, 6),
        *_ATTENTION,
        Matrix("up_proj", 4, 6),
    ),
    "qwen3_vl": (Matrix("linear_fc1", 4, 6), Matrix("linear_fc2", 6, 4), *_ATTENTION),
}
PROJECTORS = {
    "qwen2_vl": (Matrix("0", 16, 16), Matrix("2", 16, 8)),
    "qwen2_5_vl": (Matrix("0", 16, 16), Matrix("2", 16, 8)),
    # one beside each of two deepstack layers
    "qwen3_vl": (Matrix("linear_fc1", 16, 16),) * 3 + (Matrix("linear_fc2", 16, 8),) * 3,
}
"""Matrices of a layer of the tower, and of the projector."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_size_by_hand(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **SAID[family]}))
    size = sizes.size_of(PolicyConfig(model=str(tmp_path)))
    third = family == "qwen3_vl"
    assert size == Size(
        parameters=COUNTS[family],
        projector=PROJECTORS[family],
        language=Stack(
            layers=2,
            matrices=(
                Matrix("down_proj", 16, 8),
                Matrix("gate_proj", 8, 16),
                Matrix("k_proj", 8, 6 if third else 4),
                Matrix("o_proj", 12 if third else 8, 8),
                Matrix("q_proj", 8, 12 if third else 8),
                Matrix("up_proj", 8, 16),
                Matrix("v_proj", 8, 6 if third else 4),
            ),
            width=8,
            inner=16,
            queries=12 if third else 8,
            keys=6 if third else 4,
            normed=third,
        ),
        tower=Stack(
            layers=3,
            matrices=TOWERS[family],
            width=4,
            inner=6,
            queries=4,
            keys=4,
            inner_kept={"qwen2_vl": 3, "qwen2_5_vl": 4, "qwen3_vl": 2}[family],
            is_tower=True,
            layer_norm=family != "qwen2_5_vl",
        ),
        vocabulary=10,
        tied=family != "qwen2_vl",
        patches=4,
        patch=2,
    )
    assert (size.total, size.head) == (sum(COUNTS[family].values()), 80)


def test_a_bias_of_qwen3_s_attention_counts():
    said = {
        "model_type": "qwen3_vl",
        **SAID["qwen3_vl"],
        "text_config": {**TEXT, "head_dim": 6, "attention_bias": True},
    }
    # queries 12, keys and values 6 each, output 8: 32 more in each of two layers
    assert sizes._qwen(said).parameters["language"] == COUNTS["qwen3_vl"]["language"] + 2 * 32


@pytest.mark.parametrize(
    ("config", "patches"),
    [
        (
            SimpleNamespace(
                model_type="gemma3",
                mm_tokens_per_image=4,
                vision_config=SimpleNamespace(image_size=32, patch_size=8),
            ),
            4,
        ),
        (
            SimpleNamespace(
                model_type="internvl", downsample_ratio=0.5, vision_config=SimpleNamespace()
            ),
            4,
        ),
        (SimpleNamespace(model_type="smolvlm", scale_factor=3, vision_config=SimpleNamespace()), 9),
        (SimpleNamespace(model_type="llava", vision_config=SimpleNamespace()), 1),
        (
            SimpleNamespace(
                model_type="qwen3_vl",
                scale_factor=5,
                vision_config=SimpleNamespace(spatial_merge_size=2),
            ),
            4,
        ),
    ],
)
def test_patches_of_one_visual_token(config, patches):
    assert sizes._merged(config) == patches


# --- the folder of a model ------------------------------------------------------------------------


def header(**tensors) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def tensor(dtype: str, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": [end - begin], "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", ["I8", "U8", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3"])
def test_quantised_types_are_refused_wherever_they_stand(dtype, tmp_path):
    content = header(a=tensor("BF16", 0, 4), b=tensor(dtype, 4, 6))
    (tmp_path / "w.safetensors").write_bytes(content + b"123456")
    assert list(model_folder._file_problems(tmp_path / "w.safetensors")) == [
        f"b is stored as {dtype}: quantised, so it cannot be trained; use what it was made from"
    ]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "I64", "BOOL", "U16"])
def test_weights_that_are_not_quantised_are_accepted(dtype, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(
        header(__metadata__={"format": "pt"}, a=tensor(dtype, 0, 4)) + b"1234"
    )
    assert list(model_folder._file_problems(tmp_path / "w.safetensors")) == []


@pytest.mark.parametrize("body", [b"1234567", b"123456789", b""])
def test_a_file_is_as_long_as_its_header_promises_to_the_byte(body, tmp_path):
    # the last tensor need not be named last
    start = header(b=tensor("F32", 4, 8), a=tensor("F32", 0, 4))
    (tmp_path / "w.safetensors").write_bytes(start + body)
    (problem,) = model_folder._file_problems(tmp_path / "w.safetensors")
    assert (
        problem
        == f"w.safetensors is cut or damaged ({len(start) + len(body):,} bytes, its header promises"
        f" {len(start) + 8:,}); download it again"
    )


@pytest.mark.parametrize(
    ("content", "whole"),
    [(b"\x80\x02anything", True), (b"PK\x03\x04cut", False), (b"", False), (b"\x80\x03", False)],
)
def test_an_old_pickle_is_taken_and_a_cut_zip_is_not(content, whole, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert (list(model_folder._file_problems(tmp_path / "pytorch_model.bin")) == []) == whole


def test_weights_are_looked_for_in_transformers_order(tmp_path):
    for name in (
        "pytorch_model.bin.index.json",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "model.safetensors",
    ):
        (tmp_path / name).write_bytes(b"nothing")
        problem, *_ = model_folder._weight_problems(tmp_path)
        assert problem.startswith(f"{name} ")


def test_every_shard_is_looked_at_and_every_missing_one_counted(tmp_path):
    of = {"a": "1.safetensors", "b": "2.safetensors", "c": "3.safetensors", "d": "1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": of}))
    (tmp_path / "1.safetensors").write_bytes(header(a=tensor("F32", 0, 4)) + b"1234")
    problem, *_ = model_folder._weight_problems(tmp_path)
    assert problem.startswith(
        "lacks 2 of the 3 weight files that model.safetensors.index.json names, first "
        "2.safetensors;"
    )
    (tmp_path / "2.safetensors").write_bytes(header(a=tensor("F32", 0, 4)) + b"1234")
    (tmp_path / "3.safetensors").write_bytes(header(a=tensor("F32", 0, 4)) + b"123")
    (problem,) = model_folder._weight_problems(tmp_path)
    assert problem.startswith("3.safetensors is cut")


def test_the_newest_checkpoint_of_a_run_is_named_and_a_checkpoint_names_its_model(tmp_path):
    for step in ("000004", "000012", "000008"):
        (tmp_path / "checkpoints" / step / "policy").mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "policy" / "config.json").write_text("{}")
    (tmp_path / "checkpoints" / "000016" / "policy").mkdir(parents=True)  # not finished
    with pytest.raises(
        UserError,
        match=(r"is no model, it holds some; its newest checkpoint is .*/checkpoints/000012$"),
    ):
        find_model(str(tmp_path))
    step_8 = tmp_path / "checkpoints" / "000008"
    assert models.find(str(step_8)).name == str(step_8 / "policy")


def test_a_long_folder_is_listed_in_part(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.txt").touch()
    assert model_folder._listed(tmp_path) == "0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt"
    (tmp_path / "6.txt").touch()
    assert model_folder._listed(tmp_path).endswith("5.txt and 1 more")


def test_old_weights_are_fetched_only_where_there_are_no_others(tmp_path, monkeypatch):
    asked = []

    def snapshot(name, allow_patterns, ignore_patterns, **limits):
        asked.append((set(allow_patterns), ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert locate("lab/tiny") == tmp_path
    plain = {"*.json", "*.jinja", "*.txt", "*.model"}
    terms = {"LICENSE", "LICENSE.md", "NOTICE", "COPYING"}
    whole = plain | terms | {"*.safetensors"}
    assert [patterns for patterns, _ in asked] == [whole, {"*.bin"}]
    assert all("*/*" in ignored for _, ignored in asked)
    asked.clear()
    locate("lab/tiny", weights=False)
    (tmp_path / "model.safetensors").touch()
    locate("lab/tiny")
    assert [patterns for patterns, _ in asked] == [plain, whole]


def test_a_config_that_the_hub_s_cache_holds_is_not_asked_for_again(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: str(tmp_path / file)
    )
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("a hub was asked")
    )
    assert config_file("lab/tiny") == tmp_path / "config.json"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert config_file("lab/tiny") == tmp_path / "config.json"
    assert config_file(str(tmp_path)) == tmp_path / "config.json"
