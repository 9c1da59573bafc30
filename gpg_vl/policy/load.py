"""Load a policy: model, processor, what its family speaks, and which parts are trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.boxes import FAMILIES, Frame, FrameKind
from gpg_vl.config import PolicyConfig
from gpg_vl.policy import tiny
from gpg_vl.policy.processor import choose_backend, limit_pixels, load_processor, torchvision_works
from gpg_vl.types import UserError

torchvision_works()  # a broken one must be hidden before transformers is imported

import torch  # noqa: E402
from torch import nn  # noqa: E402
from transformers import AutoConfig, AutoModelForImageTextToText  # noqa: E402

FAMILY_FRAMES: dict[str, FrameKind] = {family: FAMILIES[family].kind for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")}
"""The boxes that each family that can be trained was taught to write."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """A model with everything needed to ask it and to score it."""

    model: Any
    """A transformers model for conditional generation, in evaluation mode unless it is being trained."""
    processor: Any
    """Chat template, tokenizer and image processor."""
    frame: Frame
    """What the numbers of its boxes mean."""
    end_ids: frozenset[int]
    """Any of these ends a completion."""
    banned_ids: tuple[int, ...]
    """Placeholders for images and videos: impossible in sampling, scoring and entropy alike."""
    pad_id: int
    """Fills rows; never attended to, never scored."""
    window: int
    """Most tokens of prompt and completion together."""
    dtype: torch.dtype
    """What the forward computes in."""
    image_backend: str
    """pil | torchvision."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Text with special tokens, less the one final end id."""
        spoken = token_ids[:-1] if token_ids and token_ids[-1] in self.end_ids else token_ids
        return self.processor.tokenizer.decode(list(spoken), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain `from_pretrained` loads."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def load_policy(config: PolicyConfig, *, seed: int, path: Path | None = None) -> Policy:
    """The policy of a config, or the same policy with the weights of a checkpoint.

    Args:
        seed: draws the tiny model's weights.
        path: a checkpoint folder to read instead of `config.model`.

    Raises:
        UserError: the checkpoint cannot be found or is of a family that is not supported.
    """
    masters = torch.float64 if config.dtype == "float64" else torch.float32
    backend = choose_backend(config.image_backend)
    if path is None and config.model == "tiny":
        tokenizer = tiny.build_tokenizer()
        model = tiny.build_model(tokenizer, config.tiny, seed).to(masters)
        processor = tiny.build_processor(tokenizer, config.tiny.family, backend)
    else:
        name = str(path or config.model)
        _check_family(name)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=masters, attn_implementation="sdpa")
        processor = load_processor(name, backend)
    limit_pixels(processor, config.min_pixels, config.max_pixels)
    _freeze(model, config)
    return Policy(
        model=model.eval(),
        processor=processor,
        frame=_frame(config, model.config.model_type, processor.image_processor),
        end_ids=_end_ids(model, processor.tokenizer),
        banned_ids=(model.config.image_token_id, model.config.video_token_id),
        pad_id=processor.tokenizer.pad_token_id,
        window=model.config.get_text_config().max_position_embeddings,
        dtype=getattr(torch, config.dtype),
        image_backend=backend,
    )


def parts(model: Any) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every parameter as (part, name, parameter), part being language, projector or vision."""
    for name, parameter in model.named_parameters():
        if ".visual." not in name:
            yield "language", name, parameter
        else:
            yield "projector" if ".merger." in name or ".deepstack_merger_list." in name else "vision", name, parameter


def _freeze(model: Any, config: PolicyConfig) -> None:
    for part, _, parameter in parts(model):
        parameter.requires_grad_(getattr(config, part) == "full")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("policy.language, policy.projector and policy.vision are all frozen: nothing would be trained; set one to full")


def _check_family(name: str) -> None:
    try:
        family = AutoConfig.from_pretrained(name).model_type
    except (OSError, ValueError) as error:
        raise UserError(f"policy.model: {name!r} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    if family not in FAMILY_FRAMES:
        raise UserError(f"policy.model: {name!r} is a {family}; expected one of {', '.join(FAMILY_FRAMES)}")


def _frame(config: PolicyConfig, family: str, image_processor: Any) -> Frame:
    return Frame(
        kind=FAMILY_FRAMES[family] if config.frame == "auto" else config.frame,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=image_processor.size["shortest_edge"],
        max_pixels=image_processor.size["longest_edge"],
    )


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in [*listed, tokenizer.eos_token_id] if end is not None)
