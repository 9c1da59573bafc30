"""Pictures are looked at once: known by their content, remembered only where nothing that sees
them is trained."""

from dataclasses import replace

import pytest
import torch

from gpg_vl.config.schema import PolicyConfig, Tiny
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import load_policy
from gpg_vl.policy.vision import FeatureCache, Features, digest, pictures
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine
from tests.asking import prompts
from tests.conftest import FAMILIES
from tests.hand_made import completion


def looks(policy):
    """Patches that the tower is shown, look by look."""
    seen: list[int] = []
    policy.model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0])), with_kwargs=True
    )
    return seen


def frozen(policy_of, family="qwen2_5_vl", **config):
    return policy_of(family, vision="frozen", projector="frozen", **config)


def test_pictures_of_a_prompt_by_hand(policy_of):
    (two,) = prompts(policy_of(), ["compare"])
    left, right = pictures(two.features)
    assert torch.equal(
        torch.cat([left["pixel_values"], right["pixel_values"]]), two.features["pixel_values"]
    )
    assert two.pictures == (digest(left), digest(right))
    assert digest(left) != digest(right)
    assert digest(left) == digest({name: value.clone() for name, value in left.items()})
    assert digest({**left, "pixel_values": left["pixel_values"] + 1e-7}) != digest(left)


def test_tiles_are_pictures_of_their_own():
    tiles = pictures(
        {"pixel_values": torch.randn(1, 3, 3, 8, 8), "pixel_attention_mask": torch.ones(1, 3, 8, 8)}
    )
    assert [tile["pixel_values"].shape for tile in tiles] == [(3, 8, 8)] * 3
    assert tiles[0]["pixel_attention_mask"].shape == (8, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_tower_looks_at_a_picture_once_in_rollout_and_all_updates(family, policy_of):
    policy = frozen(policy_of, family)
    seen = looks(policy)
    asked = prompts(policy, ["count", "compare", "add"])
    engine = TransformersEngine(policy)
    forward = GroupForward(policy, 1.0)
    fresh = GroupForward(frozen(policy_of, family), 1.0)
    for _ in range(3):
        engine.generate(asked, Sampling(max_tokens=3, temperature=1.0), [[1, 2]] * 3)
        remembered = forward([(prompt, [completion([5, 6])]) for prompt in asked])
    assert sum(seen) == sum(
        len(prompt.features["pixel_values"]) for prompt in asked if prompt.pictures
    )
    expected = fresh([(prompt, [completion([5, 6])]) for prompt in asked])
    torch.testing.assert_close(remembered.logprobs_N, expected.logprobs_N, rtol=0, atol=1e-5)


@pytest.mark.parametrize("trained", [{"vision": "full"}, {"projector": "full"}])
def test_what_is_trained_is_never_remembered(trained, policy_of):
    policy = policy_of(**{"vision": "frozen", "projector": "frozen", **trained})
    assert policy.vision.cache is None
    seen = looks(policy)
    forward = GroupForward(policy, 1.0)
    for _ in range(2):
        forward([(prompt, [completion([5])]) for prompt in prompts(policy, ["count"])])
    assert seen == [64, 64]


def test_memory_is_bounded_and_the_least_recently_used_leaves():
    one = Features(torch.zeros(256, 1024))  # a MiB
    cache = FeatureCache(2)
    for name in "ab":
        cache.put(name, one)
    assert cache.get("a", torch.device("cpu")) is not None
    cache.put("c", one)
    assert [cache.get(name, torch.device("cpu")) is not None for name in "abc"] == [
        True,
        False,
        True,
    ]
    assert cache.size == 2 << 20
    cache.put("huge", Features(torch.zeros(3 * 256, 1024)))
    assert cache.size == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_features_on_disk_serve_another_process_with_the_same_weights_only(
    family, policy_of, tmp_path
):
    folder = str(tmp_path / "features")
    first = frozen(policy_of, family, feature_folder=folder)
    asked = [(prompt, [completion([5, 6])]) for prompt in prompts(first, ["compare"])]
    expected = GroupForward(first, 1.0)(asked)
    again = frozen(policy_of, family, feature_folder=folder)
    seen = looks(again)
    torch.testing.assert_close(
        GroupForward(again, 1.0)(asked).logprobs_N, expected.logprobs_N, rtol=0, atol=1e-6
    )
    assert seen == []
    other = load_policy(
        PolicyConfig(
            model="tiny",
            tiny=Tiny(family=family),
            vision="frozen",
            projector="frozen",
            feature_folder=folder,
        ),
        seed=5,
    )
    seen = looks(other)
    GroupForward(other, 1.0)(asked)
    assert len(seen) == 1
    assert not list((tmp_path / "features").rglob("*.half"))
    (tmp_path / "new").touch()
    for path in (tmp_path / "features").rglob("*.safetensors"):
        assert path.stat().st_mode == (tmp_path / "new").stat().st_mode, "others may share it"


def test_a_blanked_picture_is_another_picture(policy_of):
    policy = frozen(policy_of)
    (prompt,) = prompts(policy, ["count"])
    grey = {**prompt.features, "pixel_values": torch.zeros_like(prompt.features["pixel_values"])}
    blank = replace(prompt, features=grey, pictures=tuple(map(digest, pictures(grey))))
    forward = GroupForward(policy, 1.0)
    seen, blind = (forward([(own, [completion([5, 6, 7])])]).logprobs_N for own in (prompt, blank))
    assert (seen - blind).abs().max() > 1e-4


def test_a_picture_is_named_by_its_patches_and_by_how_they_stand():
    """A grey picture of 2 x 4 patches and one of 4 x 2 have equal patches: only the grid tells
    them apart."""
    grey, grid = torch.zeros(8, 12), torch.tensor([[1, 2, 4]])
    digests = [
        digest({"pixel_values": grey, "image_grid_thw": grid}),
        digest({"pixel_values": grey, "image_grid_thw": torch.tensor([[1, 4, 2]])}),
        digest({"pixel_values": grey + 1e-7, "image_grid_thw": grid}),
        digest({"pixel_values": grey.view(12, 8), "image_grid_thw": grid}),
        digest({"pixel_values": grey}),
        digest({"pixel_values": grey, "pixel_attention_mask": grid}),
    ]
    assert len(set(digests)) == len(digests)
    assert digest({"image_grid_thw": grid.clone(), "pixel_values": grey.clone()}) == digests[0]
