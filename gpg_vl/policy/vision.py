"""Vision features once per unique picture: of a batch always, across batches where tower and projector are frozen.

A picture is what the tower sees as one: an image of a Qwen-VL model, a tile of the others. It is known by a digest of its processed pixels,
in which image content, processor settings and backend are all contained.
"""

import hashlib
import inspect
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPooling

from gpg_vl.policy.families import TILE_ROWS
from gpg_vl.types import Prompt

Picture = Mapping[str, Tensor]
"""Inputs of one picture: pixel_values with image_grid_thw (Qwen-VL) or with pixel_attention_mask (SmolVLM, Idefics) or alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What tower and projector make of one picture."""

    tokens_ND: Tensor
    """One row per visual token."""
    deep: tuple[Tensor, ...] = ()
    """Qwen3-VL's deepstack: further rows, added behind the first layers of the language model."""
    stacked: bool = False
    """Whether the family hands pictures on as one tensor [pictures, N, D] instead of a list."""


def pictures(features: Mapping[str, Tensor]) -> list[Picture]:
    """A prompt's processor output, picture by picture, in the order of their placeholders."""
    pixels = features.get("pixel_values")
    if pixels is None:
        return []
    if "image_grid_thw" in features:
        grids = features["image_grid_thw"]
        patches = pixels.split(grids.prod(-1).tolist())
        return [{"pixel_values": own, "image_grid_thw": grid[None]} for own, grid in zip(patches, grids, strict=True)]
    names = [name for name in ("pixel_values", "pixel_attention_mask") if name in features]
    tiles = [features[name].flatten(0, 1) if pixels.dim() == 5 else features[name] for name in names]
    return [dict(zip(names, tile, strict=True)) for tile in zip(*tiles, strict=True)]


def digest(picture: Picture) -> str:
    """Names a picture by its content."""
    told = hashlib.sha256(b"".join(f"{name}{tuple(value.shape)}".encode() for name, value in sorted(picture.items())))
    for _, value in sorted(picture.items()):
        told.update(value.contiguous().numpy().data)
    return told.hexdigest()


class FeatureCache:
    """Features of a frozen tower and projector, least recently used first out; optionally kept in a folder between runs."""

    def __init__(self, megabytes: int, folder: Path | None = None, weights: str = "") -> None:
        """
        Args:
            megabytes: most memory to hold, in MiB.
            folder: where files are kept, one per picture; None = nowhere.
            weights: digest of the weights and dtype that make the features: part of every file's name.
        """
        self.room = megabytes << 20
        self.folder = folder
        self.weights = weights
        self.held: OrderedDict[str, Features] = OrderedDict()
        self.size = 0

    def get(self, name: str, device: torch.device) -> Features | None:
        """The features of a picture, if they are known."""
        if name in self.held:
            self.held.move_to_end(name)
            return self.held[name]
        path = self._path(name)
        if path is None or not path.exists():
            return None
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = [file.get_tensor(key) for key in sorted(file.keys())]
            found = Features(tensors[0], tuple(tensors[1:]), stacked=file.metadata()["stacked"] == "1")
        self._hold(name, found)
        return found

    def put(self, name: str, features: Features) -> None:
        """Remember the features of a picture; copied, for they are views of a whole batch's."""
        features = Features(features.tokens_ND.clone(), tuple(layer.clone() for layer in features.deep), features.stacked)
        self._hold(name, features)
        path = self._path(name)
        if path is None or path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"{place:03d}": tensor.contiguous() for place, tensor in enumerate((features.tokens_ND, *features.deep))}
        half = path.with_suffix(f".{os.getpid()}.half")
        save_file(tensors, half, metadata={"stacked": str(int(features.stacked))})
        half.replace(path)

    def _hold(self, name: str, features: Features) -> None:
        self.held[name] = features
        self.size += _bytes(features)
        while self.size > self.room:
            self.size -= _bytes(self.held.popitem(last=False)[1])

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / self.weights[:16] / f"{name}.safetensors"


class Vision:
    """Tower and projector of a model."""

    def __init__(self, model: Any, cache: FeatureCache | None) -> None:
        """
        Args:
            cache: only where neither tower nor projector is trained.
        """
        self.model = model
        self.cache = cache
        self.hands_over = "mm_encoder_outputs" in inspect.signature(model.model.forward).parameters
        """Since transformers 5.18 a model takes features in; an older one is shown the pixels of each prompt of a batch."""

    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """The model's inputs for the pictures of several prompts; each unique one goes through the tower once."""
        wanted = [name for prompt in prompts for name in prompt.pictures]
        if not wanted:
            return {}
        if not self.hands_over:
            return dict(tower_inputs(prompts, self.model))
        device = self.model.get_input_embeddings().weight.device
        seen = {name: found for name in set(wanted) if self.cache and (found := self.cache.get(name, device))}
        unseen: dict[str, Picture] = {}
        for prompt in prompts:
            if any(name not in seen for name in prompt.pictures):
                unseen |= {name: own for name, own in zip(prompt.pictures, pictures(prompt.features), strict=True) if name not in seen}
        seen |= self._look(unseen, device)
        return {"mm_encoder_outputs": {"image": _joined([seen[name] for name in wanted])}}

    def _look(self, unseen: Mapping[str, Picture], device: torch.device) -> dict[str, Features]:
        """Features of pictures that are not known yet; those of one shape go through the tower together."""
        found: dict[str, Features] = {}
        by_shape = sorted(unseen, key=lambda name: _shape(unseen[name]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.cache is None):
            for _, names in groupby(by_shape, key=lambda name: _shape(unseen[name])):
                alike = list(names)
                inputs = _batch([unseen[name] for name in alike], self.model, device)
                output = self.model.model.get_image_features(**inputs, return_dict=True)
                found |= zip(alike, _apart(output, len(alike)), strict=True)
        if self.cache:
            for name in found:
                self.cache.put(name, found[name])
        return found


def tower_inputs(prompts: Sequence[Prompt], model: Any) -> dict[str, Tensor]:
    """The processors' picture inputs of several prompts as one model input, no picture left out."""
    device = model.get_input_embeddings().weight.device
    inputs: dict[str, Tensor] = {}
    for name in ("pixel_values", "image_grid_thw", "pixel_attention_mask"):
        shown = [prompt.features[name] for prompt in prompts if name in prompt.features]
        if not shown:
            continue
        if model.config.model_type in TILE_ROWS:  # a row of tiles per prompt, filled up with empty ones
            tiles = [prompt.features.get(name, shown[0][:, :0])[0] for prompt in prompts]
            joined = pad_sequence(tiles, batch_first=True)
        else:
            joined = torch.cat(shown)
        inputs[name] = joined.to(device, model.dtype if joined.is_floating_point() else None)
    return inputs


def _shape(picture: Picture) -> tuple[int, ...]:
    """What pictures of one batch have in common: nothing for Qwen-VL, whose patches are one long line; else height and width."""
    return () if "image_grid_thw" in picture else tuple(picture["pixel_values"].shape)


def _batch(alike: Sequence[Picture], model: Any, device: torch.device) -> dict[str, Tensor]:
    line = "image_grid_thw" in alike[0]
    joined = {name: (torch.cat if line else torch.stack)([picture[name] for picture in alike]).to(device) for name in alike[0]}
    if model.config.model_type in TILE_ROWS:  # here every tile is a row of its own
        joined = {name: value[:, None] for name, value in joined.items()}
    return joined | {"pixel_values": joined["pixel_values"].to(model.dtype)}


def _apart(output: Any, count: int) -> Iterable[Features]:
    """The output of a tower, picture by picture."""
    stacked = isinstance(output.pooler_output, Tensor)
    tokens = list(output.pooler_output)
    assert len(tokens) == count
    sizes = [len(own) for own in tokens]
    deep = [layer.split(sizes) if isinstance(layer, Tensor) else layer for layer in getattr(output, "deepstack_features", None) or []]
    return [Features(own, tuple(layer[place] for layer in deep), stacked) for place, own in enumerate(tokens)]


def _joined(each: Sequence[Features]) -> BaseModelOutputWithPooling:
    """Features of pictures in the order of their placeholders, as the model's forward takes them."""
    tokens = [features.tokens_ND for features in each]
    output: Any = BaseModelOutputWithPooling(pooler_output=torch.stack(tokens) if each[0].stacked else tokens)  # type: ignore[arg-type]
    output.deepstack_features = [list(layer) for layer in zip(*(features.deep for features in each), strict=True)]
    return output


def _bytes(features: Features) -> int:
    return sum(tensor.nbytes for tensor in (features.tokens_ND, *features.deep))
