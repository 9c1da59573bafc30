"""Load a policy: model, processor, properties of its family, and which parts are trained.

Every tensor comes from the files. A tensor that the files do not hold, or hold in another shape, is
an error; it is never initialised at random.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.boxes import FAMILIES, Frame
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, one_line
from gpg_vl.policy import tiny
from gpg_vl.policy.model_folder import find_model
from gpg_vl.policy.processor import (
    LOCAL,
    choose_backend,
    limit_pixels,
    load_processor,
    torchvision_works,
)

torchvision_works()  # a broken one must be hidden before transformers is imported

import torch  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from gpg_vl.policy.families import Sharing, parts, why_not_shared  # noqa: E402
from gpg_vl.policy.vision import FeatureCache, Vision  # noqa: E402


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Policy:
    """Model with everything that is needed to sample from it and to score completions."""

    model: Any
    """A transformers model for conditional generation, in evaluation mode unless it is being
    trained."""
    processor: Any
    """Chat template, tokenizer and image processor."""
    frame: Frame
    """Coordinate frame of the boxes that the model writes."""
    end_ids: frozenset[int]
    """Token ids that end a completion; any of them does."""
    banned_ids: tuple[int, ...]
    """Placeholders for images and videos: impossible in sampling, scoring and entropy alike."""
    pad_id: int
    """Token id that fills rows; it is never attended to and never scored."""
    window: int
    """Largest number of tokens of prompt and completion together."""
    dtype: torch.dtype
    """Type in which the forward computes."""
    image_backend: str
    """Library that resizes images: pil | torchvision."""
    vision: Vision
    """Vision tower and projector; each unique picture goes through them once."""
    sharing: Sharing
    """State of prompt sharing. It changes once at most: when the group forward turns out to
    disagree with plain rows."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """Return the context in which a forward computes in `dtype`."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Decode to text with special tokens, without the one final end token."""
        text_ids = list(token_ids)
        if text_ids and text_ids[-1] in self.end_ids:
            text_ids.pop()
        return self.processor.tokenizer.decode(
            text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain `from_pretrained` loads."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def compute_dtype(states: torch.Tensor) -> torch.dtype:
    """Return the type in which a forward computes: that of autocast, if enabled, or the states'."""
    kind = states.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return states.dtype


def load_policy(
    config: PolicyConfig,
    *,
    seed: int,
    path: Path | None = None,
    log: Callable[[str], None] = print,
    key: str = "policy.model",
) -> Policy:
    """Load the policy of a config, or the same policy with the weights of a checkpoint.

    Args:
        seed: seed of the tiny model's weights.
        path: a checkpoint folder to read instead of `config.model`.
        log: receives a line if the files hold tensors that the model does not use.
        key: config key or option that messages on `config.model` begin with.

    Raises:
        UserError: the checkpoint cannot be found, is not complete, or is of a family that is not
            supported.
    """
    # The weights that the optimizer updates are float32 or wider, whatever the forward computes in.
    weights_type = torch.float32
    if config.dtype == "float64":
        weights_type = torch.float64
    backend = choose_backend(config.image_backend)
    if path is None and config.model == "tiny":
        tokenizer = tiny.build_tokenizer()
        model = tiny.build_model(tokenizer, config.tiny, seed).to(weights_type)
        processor = tiny.build_processor(tokenizer, config.tiny.family, backend)
    else:
        if path is not None:
            key = "checkpoint"
        folder = find_model(str(path or config.model), key)
        processor = load_processor(folder, backend, key)
        model = _load_model(folder, weights_type, key, log)
        _check_fit(model, processor, f"{key}: {folder}")
    limit_pixels(processor, config.min_pixels, config.max_pixels)
    _freeze(model, config)
    return Policy(
        model=model.eval(),
        processor=processor,
        frame=_frame(config, model.config.model_type, processor.image_processor),
        end_ids=_end_ids(model, processor.tokenizer),
        banned_ids=tuple(placeholder_ids(model)),
        pad_id=processor.tokenizer.pad_token_id,
        window=model.config.get_text_config().max_position_embeddings,
        dtype=getattr(torch, config.dtype),
        image_backend=backend,
        vision=Vision(model, _feature_cache(model, config)),
        sharing=Sharing(why_not_shared(model)),
    )


def placeholder_ids(model: Any) -> list[int]:
    """Return the ids that stand for pictures and videos."""
    ids: list[int] = []
    for kind in ("image", "video"):
        token = getattr(model.config, f"{kind}_token_id", None)
        if token is not None:
            ids.append(token)
    return ids


def _feature_cache(model: Any, config: PolicyConfig) -> FeatureCache | None:
    """Return a cache of vision features; None if training changes them."""
    makers: dict[str, torch.nn.Parameter] = {}
    for part, name, parameter in parts(model):
        if part != "language":
            makers[name] = parameter
    if any(parameter.requires_grad for parameter in makers.values()):
        return None
    if not config.feature_folder:
        return FeatureCache(config.feature_cache_mb)
    digest = weights_digest(makers, config.dtype)
    return FeatureCache(config.feature_cache_mb, Path(config.feature_folder), digest)


def weights_digest(parameters: Mapping[str, torch.nn.Parameter], dtype: str) -> str:
    """Return a name for weights and the type in which they compute."""
    hasher = hashlib.sha256(dtype.encode())
    for name, parameter in parameters.items():
        hasher.update(f"{name} {tuple(parameter.shape)}".encode())
        hasher.update(parameter.detach().cpu().contiguous().numpy().data)
    return hasher.hexdigest()


def _freeze(model: Any, config: PolicyConfig) -> None:
    """Freeze the parts of the model that the config does not train."""
    for part, _, parameter in parts(model):
        parameter.requires_grad_(getattr(config, part) == "full")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "policy.language, policy.projector and policy.vision are all frozen: nothing would be "
            "trained; set one to full"
        )


def _load_model(
    folder: Path, weights_type: torch.dtype, key: str, log: Callable[[str], None]
) -> Any:
    """Load the model of a folder; every tensor of it comes from the files.

    Raises:
        UserError: a tensor is missing or has another shape, or the files cannot be read.
    """
    try:
        # Missing and mismatched tensors are reported below. transformers would initialise the
        # former at random, and raise for the latter.
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=weights_type,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **LOCAL,
        )
    except Exception as error:  # for files that it cannot use, transformers raises any exception
        raise UserError(
            f"{key}: {folder}: cannot be loaded: {type(error).__name__}: {one_line(error)}"
        ) from error
    model, info = loaded
    _check_tensors(model, info, f"{key}: {folder}")
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        # The files hold two different tensors. Without this, a program that loads the saved
        # checkpoint would tie them.
        model.config.tie_word_embeddings = False
    unknown = sorted(info["unexpected_keys"])
    if unknown:
        log(
            f"{folder}: its files hold {len(unknown)} tensors that the model does not use, first "
            f"{unknown[0]}; they are not saved again"
        )
    return model


def _check_tensors(model: Any, info: Mapping[str, Any], origin: str) -> None:
    """Refuse a model of which a tensor is missing, has another shape, or is not finite.

    Args:
        info: the loading info of transformers.
    """
    total = len(list(model.named_parameters()))
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    missing = sorted(set(info["missing_keys"]) - tied)
    if missing:
        unknown = sorted(info["unexpected_keys"])
        others = "no others"
        if unknown:
            others = f"{len(unknown)} that the model does not know, first {unknown[0]}"
        raise UserError(
            f"{origin}: {len(missing)} of {total} tensors are missing, first {missing[0]}; "
            f"its files hold {others}. The model would be random in part; use a complete "
            "checkpoint whose tensors are named as its config.json requires"
        )
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, file_shape, model_shape = mismatched[0]
        raise UserError(
            f"{origin}: {len(mismatched)} of {total} tensors have another shape than "
            f"config.json says, first {name}: {list(file_shape)} in the files, "
            f"{list(model_shape)} expected; config and weights are of different models"
        )
    for name, parameter in model.named_parameters():
        if not parameter.detach().sum().isfinite():
            raise UserError(
                f"{origin}: {name} holds a NaN or an infinity: it was saved after a training "
                "that diverged, or is damaged"
            )


def _check_fit(model: Any, processor: Any, origin: str) -> None:
    """Refuse a processor that was made for another model.

    Raises:
        UserError: there is no end token, a token has no embedding, the placeholder for pictures or
            the size of patches is another.
    """
    embedded = model.get_input_embeddings().num_embeddings
    highest = max(processor.tokenizer.get_vocab().values())
    if highest >= embedded:
        raise UserError(
            f"{origin}: its tokenizer has a token {highest}, its model embeds {embedded}; take both"
            " from the same model"
        )
    model_image_id = model.config.image_token_id
    processor_image_id = processor.image_token_id
    # Gemma 3's processor names the token that begins a picture; its tokenizer names the right one.
    tokenizer_image_id = getattr(processor.tokenizer, "image_token_id", None)
    if model_image_id not in {processor_image_id, tokenizer_image_id}:
        raise UserError(
            f"{origin}: a picture is token {processor_image_id} for its processor and "
            f"{model_image_id} for its model; take both from the same model"
        )
    if not _end_ids(model, processor.tokenizer):
        raise UserError(
            f"{origin}: names no end token, so no answer would end; set eos_token_id in "
            "generation_config.json"
        )
    for processor_name, model_name in (
        ("patch_size", "patch_size"),
        ("merge_size", "spatial_merge_size"),
        ("temporal_patch_size", "temporal_patch_size"),
    ):
        expected = getattr(model.config.vision_config, model_name, None)
        given = getattr(processor.image_processor, processor_name, None)
        if expected is not None and given is not None and given != expected:
            raise UserError(
                f"{origin}: its processor has {processor_name} {given}, its model {expected}; take "
                "both from the same model"
            )


def _frame(config: PolicyConfig, family: str, image_processor: Any) -> Frame:
    """Return the coordinate frame of the config, else that of the family's training data."""
    if config.frame != "auto":
        kind = config.frame
    elif family in FAMILIES:
        kind = FAMILIES[family].kind
    else:
        kind = "undeclared"
    if not hasattr(image_processor, "merge_size"):
        return Frame(kind=kind)
    return Frame(
        kind=kind,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=image_processor.size["shortest_edge"],
        max_pixels=image_processor.size["longest_edge"],
    )


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the end tokens of the generation config and of the tokenizer."""
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    found: set[int] = set()
    for end in [*listed, tokenizer.eos_token_id]:
        if end is not None:
            found.add(end)
    return frozenset(found)
