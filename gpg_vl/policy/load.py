"""Load a policy: model, processor, properties of its family, and which parts are trained.

Every tensor comes from the files. A tensor that the files do not hold, or hold in another shape, is
an error; it is never initialised at random. Parts that are not trained are held in the type that is
computed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gpg_vl.boxes import FAMILIES, Frame
from gpg_vl.config.models import TINY
from gpg_vl.config.paths import let_others_read
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, one_line
from gpg_vl.policy import adapter_files, model_folder, quantised, tiny
from gpg_vl.policy.adapter_files import AdapterFiles, is_adapter
from gpg_vl.policy.model_folder import ModelFiles, check_base, find_model
from gpg_vl.policy.packages import check_packages, check_packages_of
from gpg_vl.policy.part_names import PARTS
from gpg_vl.policy.processor import (
    LOCAL,
    choose_backend,
    limit_pixels,
    load_processor,
    torchvision_works,
)

torchvision_works()  # a broken one must be hidden before transformers is imported

import torch  # noqa: E402
from transformers import AutoConfig, AutoModelForImageTextToText  # noqa: E402

from gpg_vl.policy.families import Sharing, parts, why_not_shared  # noqa: E402
from gpg_vl.policy.vision import FeatureCache, Vision  # noqa: E402

if TYPE_CHECKING:
    from gpg_vl.policy.adapters import Adapters


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
    adapters: Adapters | None = None
    """Adapters that are trained; None = parts are trained as a whole."""

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
        """Write a checkpoint: a model that `from_pretrained` loads, or an adapter of one.

        The adapter of a tiny model has that model in a folder inside, because it is nowhere else.
        """
        if self.adapters is None:
            _save_model(self.model, folder, self.model.state_dict())
        else:
            self.adapters.save(folder)
            if self.adapters.base == TINY:
                self.save_whole(folder / adapter_files.OWN_BASE, merged=False)
        self.processor.save_pretrained(folder)
        let_others_read(folder)

    def save_whole(self, folder: Path, *, merged: bool = True) -> None:
        """Write a model that plain `from_pretrained` loads, whatever is trained.

        Args:
            merged: with the adapters merged; else the model that they are on.
        """
        whole = self.model.state_dict()
        if self.adapters is not None:
            # Where the model is on a GPU, its merged matrices would be a second copy there.
            state = self.adapters.whole_state(merged=merged)
            whole = {name: tensor.cpu() for name, tensor in state}
        _save_model(self.model, folder, whole)
        self.processor.save_pretrained(folder)
        let_others_read(folder)


def _save_model(model: Any, folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a model whose config names the widest type of its tensors.

    transformers writes that of the first parameter, and plain `from_pretrained` reads all tensors
    in the type that the config names: trained weights in float32 would be rounded to bfloat16 where
    the tower, which comes first, is frozen and held so.
    """
    # First, because saving may empty the mapping.
    types = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    widest = reduce(torch.promote_types, types)
    model.save_pretrained(folder, state_dict=tensors)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["dtype"] = str(widest).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


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
    by_chance: bool = True,
) -> Policy:
    """Load the policy of a config, or the same policy with the weights of a checkpoint.

    Args:
        seed: seed of the tiny model's weights.
        path: a checkpoint folder to read instead of `config.model`.
        log: receives a line if the files hold tensors that the model does not use.
        key: config key or option that messages on `config.model` begin with.
        by_chance: round an adapter that is merged into bfloat16 by chance, so that small changes
            count on average; else to the nearest number.

    Raises:
        UserError: the checkpoint cannot be found, is not complete, or is of a family that is not
            supported.
    """
    check_packages(config)
    backend = choose_backend(config.image_backend)
    files, adapter, key = _find(config, path, key)
    if files is None:
        tokenizer = tiny.build_tokenizer()
        model = tiny.build_model(tokenizer, config.tiny, seed)
        _check_adapters(model, config, adapter, key)
        if config.dtype == "float64":
            model.to(torch.float64)
        processor = tiny.build_processor(tokenizer, config.tiny.family, backend)
    else:
        if config.trains_adapters or adapter is not None:
            _check_adapters(_skeleton(files.folder), config, adapter, key)
        processor = load_processor(_processor_folder(files, path), backend, key)
        model = _load_model(files.folder, _loaded_type(config), key, log)
        _check_fit(model, processor, f"{key}: {files.folder}")
    limit_pixels(processor, config.min_pixels, config.max_pixels)
    if adapter is not None and not config.trains_adapters:
        _merge(model, config, adapter, key, seed if by_chance else None)
    adapters = _train(model, config, seed, files, adapter, key)
    if adapter is not None and path is None:
        log(_about_adapter(adapter, adapters is not None))
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
        adapters=adapters,
    )


def fill(policy: Policy, values: Mapping[str, torch.Tensor], config: PolicyConfig) -> Policy:
    """Return a policy with other values of the parameters that are trained, in the same model.

    It is as if it had been loaded with them: no gradient, no cached feature, and no finding about
    prompt sharing is left of the training before. A second model would need memory for its frozen
    weights too.

    Args:
        values: by the names of the parameters.
    """
    parameters = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)
            parameters[name].grad = None
    return replace(
        policy,
        vision=Vision(policy.model, _feature_cache(policy.model, config)),
        sharing=Sharing(why_not_shared(policy.model)),
    )


def only_asked(config: PolicyConfig, key: str) -> PolicyConfig:
    """Return how a model is loaded that is asked and not trained.

    An adapter stays one, on its base as it was trained, whatever the config trains: sums of the two
    would be rounded where they are computed with in bfloat16. Only one that no config can train is
    merged. A model without an adapter gets none. Parts that are trained whole are held as the
    config holds them: a run's model is what was trained.
    """
    adapter = None
    if config.model != TINY:
        files = find_model(config.model, key)
        adapter = files.adapter
        asked = None if adapter is None else _with_adapter(config, files.folder, adapter, key)
        if asked is not None:
            return asked
    if adapter is None and not config.trains_adapters:
        return config
    plain = {"language": "full", "projector": "frozen", "vision": "frozen", "quantise": "none"}
    if config.dtype == "bfloat16":
        plain["weights"] = "bfloat16"
    return config.model_copy(update=plain)


def _with_adapter(
    config: PolicyConfig, base: Path, adapter: AdapterFiles, key: str
) -> PolicyConfig | None:
    """Return the config with the parts of an adapter; None = it has parts that are not trained so.

    Args:
        base: folder of its base model.
    """
    trained = adapter.trained_parts
    found = {**config.model_dump(), **trained, "quantise": adapter.quantise}
    if "full" not in trained.values():
        found["weights"] = "float32"  # that of parts which are trained whole
    try:
        asked = PolicyConfig.model_validate(found)
        _check_adapters(_skeleton(base), asked, adapter, key)
    except (ValidationError, UserError):
        return None
    return asked if asked.trains_adapters else None


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
    digest = name_of_weights(makers, config.dtype)
    return FeatureCache(config.feature_cache_mb, Path(config.feature_folder), digest)


def name_of_weights(parameters: Mapping[str, torch.nn.Parameter], dtype: str) -> str:
    """Return a name for weights and the type in which they compute."""
    hasher = hashlib.sha256(dtype.encode())
    for name, parameter in parameters.items():
        hasher.update(f"{name} {tuple(parameter.shape)}".encode())
        # numpy has no bfloat16
        numbers = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        hasher.update(numbers.numpy().data)
    return hasher.hexdigest()


def _find(
    config: PolicyConfig, path: Path | None, key: str
) -> tuple[ModelFiles | None, AdapterFiles | None, str]:
    """Find the files of a policy, before any weight is read.

    Returns:
        Those of the model (None = it is the tiny one), those of an adapter on it, and the config
        key that messages begin with.
    """
    if path is not None:
        key = "checkpoint"
        if not is_adapter(path):
            return find_model(str(path), key), None, key
    files = None
    if config.model != TINY:
        files = find_model(config.model, key)
    if path is None:
        return files, files.adapter if files else None, key
    adapter = adapter_files.read(path, key)
    if files is not None:
        check_base(adapter, files.folder, key)
    return files, adapter, key


def _processor_folder(files: ModelFiles, path: Path | None) -> Path:
    """Return the folder of the processor: a checkpoint holds its own."""
    return path if path is not None and path != files.folder else files.processor_folder


def _skeleton(folder: Path) -> Any:
    """Return the model of a folder without its weights."""
    with torch.device("meta"):
        model_config = AutoConfig.from_pretrained(folder, **LOCAL)
        return AutoModelForImageTextToText.from_config(model_config)


def _check_adapters(
    model: Any, config: PolicyConfig, adapter: AdapterFiles | None, key: str
) -> None:
    """Refuse adapters that do not fit a model, and targets that it does not have.

    Args:
        model: a model without adapters; its weights are not read.
    """
    if not config.trains_adapters and adapter is None:
        return
    if adapter is not None:
        check_packages_of(adapter, key)
    from gpg_vl.policy import adapters  # needs peft

    if adapter is None:
        adapters.targets(model, config)
    else:
        adapters.check_fit(adapter, model, config, key)


def _about_adapter(adapter: AdapterFiles, is_trained: bool) -> str:
    """Return a sentence on the adapter that a model begins with."""
    size = f"rank {adapter.rank}, {len(adapter.adapted)} matrices"
    if is_trained:
        return f"{adapter.folder}: its adapter ({size}) is trained on, in its own size"
    return f"{adapter.folder}: its adapter ({size}) is merged into its base model"


def _loaded_type(config: PolicyConfig) -> torch.dtype:
    """Return the type that the files are read in: the widest that a part is held in."""
    parts_in_full = [config.language, config.projector, config.vision].count("full")
    if config.dtype == "bfloat16" and parts_in_full and not config.trains_adapters:
        return getattr(torch, config.weights)
    return getattr(torch, config.dtype)


def _train(
    model: Any,
    config: PolicyConfig,
    seed: int,
    files: ModelFiles | None,
    adapter: AdapterFiles | None,
    key: str,
) -> Adapters | None:
    """Freeze what is not trained, hold each part in its type, and put adapters in.

    Args:
        adapter: files of the adapter; None = new ones, if the config trains any.

    Returns:
        The adapters; None = there are none, or they were merged for good.
    """
    _hold(model, config)
    if not config.trains_adapters:
        _freeze(model, config)
        return None
    from gpg_vl.policy import adapters

    if config.quantise != "none":
        quantised.quantise(model, getattr(torch, config.dtype))
    base = TINY if files is None else files.name
    digest = "" if files is None else model_folder.weights_digest(files.folder)
    made = adapters.add(model, config, base=base, base_digest=digest, seed=seed, files=adapter)
    if adapter is not None:
        made.load(adapter, key)
    return made


def _merge(
    model: Any, config: PolicyConfig, adapter: AdapterFiles, key: str, seed: int | None
) -> None:
    """Add an adapter to a model for good, stored as it was when the adapter was trained.

    Args:
        seed: of the rounding to bfloat16 by chance; None = to the nearest.
    """
    from gpg_vl.policy import adapters

    if adapter.quantise != "none":
        quantised.quantise(model, getattr(torch, adapter.about_base["dtype"]))
    made = adapters.add(model, config, base="", base_digest="", seed=0, files=adapter)
    made.load(adapter, key)
    made.merge({part: _held_type(config, part) for part in PARTS}, seed)
    _untie(model)


def _untie(model: Any) -> None:
    """Let the config of a model say that its head and its embedding are two tensors, if they are.

    Without this, a program that loads the saved checkpoint would tie them.
    """
    if model.lm_head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False


def _hold(model: Any, config: PolicyConfig) -> None:
    """Hold parts that are trained as a whole in the type of the weights, others in `dtype`."""
    for part, _, parameter in parts(model):
        parameter.data = parameter.data.to(_held_type(config, part))


def _held_type(config: PolicyConfig, part: str) -> torch.dtype:
    """Return the type in which the plain weights of a part are held."""
    is_whole = getattr(config, part) == "full" and not config.trains_adapters
    if is_whole and config.dtype != "float64":
        return getattr(torch, config.weights)
    return getattr(torch, config.dtype)


def _freeze(model: Any, config: PolicyConfig) -> None:
    """Freeze the parts of the model that the config does not train."""
    for part, _, parameter in parts(model):
        parameter.requires_grad_(getattr(config, part) == "full")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "policy.language, policy.projector and policy.vision are all frozen: nothing would be "
            "trained; set one to full or lora"
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
        with _without_adapter(folder) as model_folder:
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                model_folder,
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
    _untie(model)
    unknown = sorted(info["unexpected_keys"])
    if unknown:
        log(
            f"{folder}: its files hold {len(unknown)} tensors that the model does not use, first "
            f"{unknown[0]}; they are not saved again"
        )
    return model


@contextmanager
def _without_adapter(folder: Path) -> Generator[Path, None, None]:
    """Give a folder of links to a model's files without its adapter, if it has one.

    transformers would read another model, which the adapter names, in the place of this one.
    """
    if not is_adapter(folder):
        yield folder
        return
    with TemporaryDirectory(prefix="gpg_vl_model_") as links:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(links) / path.name).symlink_to(path.resolve())
        yield Path(links)


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
