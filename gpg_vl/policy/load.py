"""Load a policy: model, processor, what its family speaks, and which parts are trained.

Loading tells the truth: a tensor that the files do not hold, or hold in another shape, is refused and never drawn at random.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpg_vl.boxes import FAMILIES, Frame
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError
from gpg_vl.policy import tiny
from gpg_vl.policy.model_folder import find_model
from gpg_vl.policy.processor import LOCAL, choose_backend, limit_pixels, load_processor, torchvision_works

torchvision_works()  # a broken one must be hidden before transformers is imported

import torch  # noqa: E402
from transformers import AutoModelForImageTextToText  # noqa: E402

from gpg_vl.policy.families import Sharing, parts, why_not_shared  # noqa: E402
from gpg_vl.policy.vision import FeatureCache, Vision  # noqa: E402


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
    vision: Vision
    """Tower and projector, each unique picture once."""
    sharing: Sharing
    """Changes once at most: when the group forward turns out to disagree with plain rows."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def autocast(self) -> torch.autocast:
        """Where a forward computes in `dtype`."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def decode(self, token_ids: list[int] | tuple[int, ...]) -> str:
        """Text with special tokens, less the one final end id."""
        spoken = token_ids[:-1] if token_ids and token_ids[-1] in self.end_ids else token_ids
        return self.processor.tokenizer.decode(list(spoken), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def save(self, folder: Path) -> None:
        """Write a checkpoint that plain `from_pretrained` loads."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def load_policy(config: PolicyConfig, *, seed: int, path: Path | None = None, say: Callable[[str], None] = print) -> Policy:
    """The policy of a config, or the same policy with the weights of a checkpoint.

    Args:
        seed: draws the tiny model's weights.
        path: a checkpoint folder to read instead of `config.model`.
        say: told what the files hold beyond the model.

    Raises:
        UserError: the checkpoint cannot be found, is not whole, or is of a family that is not supported.
    """
    masters = torch.float64 if config.dtype == "float64" else torch.float32
    backend = choose_backend(config.image_backend)
    if path is None and config.model == "tiny":
        tokenizer = tiny.build_tokenizer()
        model = tiny.build_model(tokenizer, config.tiny, seed).to(masters)
        processor = tiny.build_processor(tokenizer, config.tiny.family, backend)
    else:
        key = "policy.model" if path is None else "checkpoint"
        folder = find_model(str(path or config.model), key)
        processor = load_processor(folder, backend, key)
        model = _load_model(folder, masters, key, say)
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
    """Ids that stand for pictures and videos."""
    ids = (getattr(model.config, f"{kind}_token_id", None) for kind in ("image", "video"))
    return [token for token in ids if token is not None]


def _feature_cache(model: Any, config: PolicyConfig) -> FeatureCache | None:
    """A memory of vision features, where they cannot change."""
    makers = {name: parameter for part, name, parameter in parts(model) if part != "language"}
    if any(parameter.requires_grad for parameter in makers.values()):
        return None
    folder = Path(config.feature_folder) if config.feature_folder else None
    return FeatureCache(config.feature_cache_mb, folder, weights_digest(makers, config.dtype) if folder else "")


def weights_digest(parameters: Mapping[str, torch.nn.Parameter], dtype: str) -> str:
    """Names weights and the type they compute in."""
    told = hashlib.sha256(dtype.encode())
    for name, parameter in parameters.items():
        told.update(f"{name} {tuple(parameter.shape)}".encode())
        told.update(parameter.detach().cpu().contiguous().numpy().data)
    return told.hexdigest()


def _freeze(model: Any, config: PolicyConfig) -> None:
    for part, _, parameter in parts(model):
        parameter.requires_grad_(getattr(config, part) == "full")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError("policy.language, policy.projector and policy.vision are all frozen: nothing would be trained; set one to full")


def _load_model(folder: Path, masters: torch.dtype, key: str, say: Callable[[str], None]) -> Any:
    """The model of a folder, every tensor of it from the files.

    Raises:
        UserError: a tensor is missing or has another shape, or the files cannot be read.
    """
    truth = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # told below, where transformers would draw or raise
    try:
        read: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=masters, attn_implementation="sdpa", **truth, **LOCAL)
    except Exception as error:  # whatever transformers raises for files that it cannot use: a KeyError, an AssertionError...
        raise UserError(f"{key}: {folder}: cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from error
    model, loaded = read
    unknown, total = sorted(loaded["unexpected_keys"]), len(list(model.named_parameters()))
    if missing := sorted(set(loaded["missing_keys"]) - set(getattr(model, "all_tied_weights_keys", {}))):
        others = f"{len(unknown)} that the model does not know, first {unknown[0]}" if unknown else "no others"
        raise UserError(
            f"{key}: {folder}: {len(missing)} of {total} tensors are missing, first {missing[0]}; its files hold {others}. The model "
            "would be random in part; use a complete checkpoint whose tensors are named as its config.json wants"
        )
    if mismatched := sorted(loaded["mismatched_keys"]):
        name, theirs, ours = mismatched[0]
        raise UserError(
            f"{key}: {folder}: {len(mismatched)} of {total} tensors have another shape than config.json says, first {name}: "
            f"{list(theirs)} in the files, {list(ours)} expected; config and weights are of different models"
        )
    broken = next((name for name, parameter in model.named_parameters() if not parameter.detach().sum().isfinite()), None)
    if broken is not None:
        raise UserError(f"{key}: {folder}: {broken} holds a NaN or an infinity: it was saved after a training that diverged, or is damaged")
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False  # two different tensors in the files: whoever loads what is saved must not tie them
    if unknown:
        say(f"{folder}: its files hold {len(unknown)} tensors that the model does not use, first {unknown[0]}; they are not saved again")
    return model


def _check_fit(model: Any, processor: Any, origin: str) -> None:
    """Refuse a processor that was made for another model.

    Raises:
        UserError: no end token, tokens without an embedding, another placeholder for pictures, patches of another size.
    """
    rows, highest = model.get_input_embeddings().num_embeddings, max(processor.tokenizer.get_vocab().values())
    if highest >= rows:
        raise UserError(f"{origin}: its tokenizer has a token {highest}, its model embeds {rows}; take both from the same model")
    ours, theirs = model.config.image_token_id, processor.image_token_id
    if ours not in {theirs, getattr(processor.tokenizer, "image_token_id", None)}:  # Gemma 3's processor names the token before a picture
        raise UserError(f"{origin}: a picture is token {theirs} for its processor and {ours} for its model; take both from the same model")
    if not _end_ids(model, processor.tokenizer):
        raise UserError(f"{origin}: names no end token, so no answer would end; set eos_token_id in generation_config.json")
    vision = model.config.vision_config
    for part, own in (("patch_size", "patch_size"), ("merge_size", "spatial_merge_size"), ("temporal_patch_size", "temporal_patch_size")):
        wanted, given = getattr(vision, own, None), getattr(processor.image_processor, part, None)
        if wanted is not None and given is not None and given != wanted:
            raise UserError(f"{origin}: its processor has {part} {given}, its model {wanted}; take both from the same model")


def _frame(config: PolicyConfig, family: str, image_processor: Any) -> Frame:
    taught = FAMILIES[family].kind if family in FAMILIES else "undeclared"
    kind = taught if config.frame == "auto" else config.frame
    if not hasattr(image_processor, "merge_size"):
        return Frame(kind=kind)
    return Frame(
        kind=kind,
        factor=image_processor.patch_size * image_processor.merge_size,
        min_pixels=image_processor.size["shortest_edge"],
        max_pixels=image_processor.size["longest_edge"],
    )


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in [*listed, tokenizer.eos_token_id] if end is not None)
