"""Compute vision features once per unique picture.

Within a batch this is always so. Across batches it is so where vision tower and projector are
frozen. A picture is one input of the tower: an image of a Qwen-VL model, a tile of the other
families. It is named by a digest of its processed pixels, which depend on the image, the settings
of the processor and the image backend.

Shape letters: N visual tokens of a picture, D width.
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

from gpg_vl.config.paths import let_others_read
from gpg_vl.policy.families import TILE_ROWS
from gpg_vl.types import Prompt

Picture = Mapping[str, Tensor]
"""Inputs of one picture: pixel_values with image_grid_thw (Qwen-VL), with pixel_attention_mask
(SmolVLM, Idefics), or alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Output of tower and projector for one picture."""

    tokens_ND: Tensor
    """One row per visual token."""
    deep: tuple[Tensor, ...] = ()
    """Deepstack of Qwen3-VL: further rows, added after the first layers of the language model."""
    stacked: bool = False
    """True if the family returns pictures as one tensor [pictures, N, D] instead of a list."""


def pictures(features: Mapping[str, Tensor]) -> list[Picture]:
    """Split a prompt's processor output into pictures, in the order of their placeholders."""
    pixels = features.get("pixel_values")
    if pixels is None:
        return []
    found: list[Picture] = []
    if "image_grid_thw" in features:
        # The patches of all images are concatenated; an image has time * height * width of them.
        grids = features["image_grid_thw"]
        patches = pixels.split(grids.prod(-1).tolist())
        for own, grid in zip(patches, grids, strict=True):
            found.append({"pixel_values": own, "image_grid_thw": grid[None]})
        return found
    names = [name for name in ("pixel_values", "pixel_attention_mask") if name in features]
    tensors: list[Tensor] = []
    for name in names:
        tiles = features[name]
        if pixels.dim() == 5:  # [1, tiles, 3, height, width], the mask without colours
            tiles = tiles.flatten(0, 1)
        tensors.append(tiles)
    for values in zip(*tensors, strict=True):
        found.append(dict(zip(names, values, strict=True)))
    return found


def digest(picture: Picture) -> str:
    """Return a name for a picture that depends on its content alone."""
    hasher = hashlib.sha256()
    for name, value in sorted(picture.items()):
        hasher.update(f"{name}{tuple(value.shape)}".encode())
    for _, value in sorted(picture.items()):
        hasher.update(value.contiguous().numpy().data)
    return hasher.hexdigest()


class FeatureCache:
    """Features of a frozen tower and projector: a least-recently-used cache in memory.

    Optionally they are also stored in a folder, between runs.
    """

    def __init__(self, megabytes: int, folder: Path | None = None, weights: str = "") -> None:
        """
        Args:
            megabytes: largest memory to use, in MiB.
            folder: folder of the files, one per picture; None = no files.
            weights: digest of the weights and dtype that the features depend on; it is part of the
                path of every file.
        """
        self.max_bytes = megabytes << 20
        self.folder = folder
        self.weights = weights
        self.cached: OrderedDict[str, Features] = OrderedDict()
        self.size = 0

    def get(self, name: str, device: torch.device) -> Features | None:
        """Return the features of a picture, from memory or from its file; None if unknown."""
        if name in self.cached:
            self.cached.move_to_end(name)
            return self.cached[name]
        path = self._path(name)
        if path is None or not path.exists():
            return None
        with safe_open(path, framework="pt", device=str(device)) as file:
            tensors = [file.get_tensor(key) for key in sorted(file.keys())]
            stacked = file.metadata()["stacked"] == "1"
        found = Features(tensors[0], tuple(tensors[1:]), stacked=stacked)
        self._add(name, found)
        return found

    def put(self, name: str, features: Features) -> None:
        """Store a copy of the features of a picture; they are views of those of a whole batch."""
        features = Features(
            features.tokens_ND.clone(),
            tuple(layer.clone() for layer in features.deep),
            features.stacked,
        )
        self._add(name, features)
        path = self._path(name)
        if path is None or path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for place, tensor in enumerate((features.tokens_ND, *features.deep)):
            tensors[f"{place:03d}"] = tensor.contiguous()
        # Written under another name first, so that no process reads an incomplete file.
        partial = path.with_suffix(f".{os.getpid()}.half")
        save_file(tensors, partial, metadata={"stacked": str(int(features.stacked))})
        let_others_read(partial)
        partial.replace(path)

    def _add(self, name: str, features: Features) -> None:
        """Add features to the memory, and remove the least recently used ones if it is too full."""
        self.cached[name] = features
        self.size += _bytes(features)
        while self.size > self.max_bytes:
            _, oldest = self.cached.popitem(last=False)
            self.size -= _bytes(oldest)

    def _path(self, name: str) -> Path | None:
        """Return the file of a picture; None if there is no folder."""
        if self.folder is None:
            return None
        return self.folder / self.weights[:16] / f"{name}.safetensors"


class Vision:
    """Tower and projector of a model."""

    def __init__(self, model: Any, cache: FeatureCache | None) -> None:
        """
        Args:
            cache: given only where neither tower nor projector is trained.
        """
        self.model = model
        self.cache = cache
        self.accepts_features = (
            "mm_encoder_outputs" in inspect.signature(model.model.forward).parameters
        )
        """True if the model's forward takes features (transformers 5.18 and later). An older one
        takes the pixels of each prompt of a batch."""

    def inputs(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Return the model's inputs for the pictures of several prompts.

        Each unique picture goes through the tower once.
        """
        names: list[str] = []
        for prompt in prompts:
            names.extend(prompt.pictures)
        if not names:
            return {}
        if not self.accepts_features:
            return dict(tower_inputs(prompts, self.model))
        device = self.model.get_input_embeddings().weight.device
        known = self._cached(names, device)
        unknown: dict[str, Picture] = {}
        for prompt in prompts:
            if all(name in known for name in prompt.pictures):
                continue
            for name, picture in zip(prompt.pictures, pictures(prompt.features), strict=True):
                if name not in known:
                    unknown[name] = picture
        known |= self._compute(unknown, device)
        return {"mm_encoder_outputs": {"image": _join([known[name] for name in names])}}

    def _cached(self, names: Sequence[str], device: torch.device) -> dict[str, Features]:
        """Return the features of those pictures that are in the cache."""
        known: dict[str, Features] = {}
        if self.cache is None:
            return known
        for name in set(names):
            features = self.cache.get(name, device)
            if features is not None:
                known[name] = features
        return known

    def _compute(self, unknown: Mapping[str, Picture], device: torch.device) -> dict[str, Features]:
        """Compute the features of pictures; those of one shape go through the tower together."""
        found: dict[str, Features] = {}

        def shape(name: str) -> tuple[int, ...]:
            return _batch_shape(unknown[name])

        # Features that are cached are used in later steps too, so they must not carry a gradient.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.cache is None):
            for _, group in groupby(sorted(unknown, key=shape), key=shape):
                names = list(group)
                inputs = _batch([unknown[name] for name in names], self.model, device)
                output = self.model.model.get_image_features(**inputs, return_dict=True)
                found |= zip(names, _split(output, len(names)), strict=True)
        if self.cache is not None:
            for name, features in found.items():
                self.cache.put(name, features)
        return found


def tower_inputs(prompts: Sequence[Prompt], model: Any) -> dict[str, Tensor]:
    """Join the processors' picture inputs of several prompts, repeated pictures included."""
    device = model.get_input_embeddings().weight.device
    inputs: dict[str, Tensor] = {}
    for name in ("pixel_values", "image_grid_thw", "pixel_attention_mask"):
        given = [prompt.features[name] for prompt in prompts if name in prompt.features]
        if not given:
            continue
        if model.config.model_type in TILE_ROWS:
            # One row of tiles per prompt, [P, tiles, ...]; shorter rows are filled with zeros.
            no_tiles = given[0][:, :0]
            rows = [prompt.features.get(name, no_tiles)[0] for prompt in prompts]
            joined = pad_sequence(rows, batch_first=True)
        else:
            joined = torch.cat(given)
        inputs[name] = joined.to(device, model.dtype if joined.is_floating_point() else None)
    return inputs


def _batch_shape(picture: Picture) -> tuple[int, ...]:
    """Return the shape that pictures of one batch must share.

    For Qwen-VL there is none, because the patches of all pictures are concatenated.
    """
    if "image_grid_thw" in picture:
        return ()
    return tuple(picture["pixel_values"].shape)


def _batch(group: Sequence[Picture], model: Any, device: torch.device) -> dict[str, Tensor]:
    """Join the inputs of pictures of one shape into one input of the tower."""
    join: Any = torch.stack
    if "image_grid_thw" in group[0]:
        join = torch.cat
    joined: dict[str, Tensor] = {}
    for name in group[0]:
        value = join([picture[name] for picture in group]).to(device)
        if model.config.model_type in TILE_ROWS:  # here every tile is a row of its own
            value = value[:, None]
        joined[name] = value
    joined["pixel_values"] = joined["pixel_values"].to(model.dtype)
    return joined


def _split(output: Any, count: int) -> Iterable[Features]:
    """Split the output of a tower into pictures."""
    stacked = isinstance(output.pooler_output, Tensor)
    tokens = list(output.pooler_output)
    assert len(tokens) == count
    sizes = [len(own) for own in tokens]
    layers: list[Sequence[Tensor]] = []
    for layer in getattr(output, "deepstack_features", None) or []:
        # One tensor of all pictures, or a list with one tensor per picture.
        layers.append(layer.split(sizes) if isinstance(layer, Tensor) else layer)
    found: list[Features] = []
    for place, own in enumerate(tokens):
        deep = tuple(layer[place] for layer in layers)
        found.append(Features(own, deep, stacked))
    return found


def _join(features: Sequence[Features]) -> BaseModelOutputWithPooling:
    """Join the features of pictures, in the order of their placeholders, as model input."""
    tokens: Any = [each.tokens_ND for each in features]
    if features[0].stacked:
        tokens = torch.stack(tokens)
    output: Any = BaseModelOutputWithPooling(pooler_output=tokens)
    layers: list[list[Tensor]] = []
    for layer in zip(*(each.deep for each in features), strict=True):
        layers.append(list(layer))
    output.deepstack_features = layers
    return output


def _bytes(features: Features) -> int:
    """Return the memory of features, in bytes."""
    return sum(tensor.nbytes for tensor in (features.tokens_ND, *features.deep))
