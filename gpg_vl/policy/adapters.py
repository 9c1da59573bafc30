"""Put LoRA adapters into a model, turn them off, merge them for a while, save and load them.

An adapter adds a product of two small matrices to a frozen one: W + alpha / rank * B A (LoRA, arXiv
2106.09685). peft replaces each adapted layer in place. A part that is trained as a whole beside
adapters is one of peft's modules to save: the original stays, and a copy is trained.

This module is imported only where a policy has adapters, because it needs peft.
"""

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import peft
import torch
import transformers
from peft.tuners.lora import Linear, LoraLayer
from peft.utils.other import ModulesToSaveWrapper, get_pattern_key
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, shown
from gpg_vl.policy import adapter_files, quantised
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.adapter_parts import check_parts, check_targets, meant, refuse_lack
from gpg_vl.policy.part_names import PARTS, part_of, part_of_module
from gpg_vl.policy.rounding import rounded_by_chance
from gpg_vl.policy.widened import NARROW
from gpg_vl.randomness import seed as addressed_seed

NAME = "default"
"""Name that peft gives the one adapter."""
_TRAINED = (".lora_A.", ".lora_B.", ".modules_to_save.")
"""Parts of the names of trained parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeWeight:
    """A tensor of the model as a whole, computed when it is read."""

    shape: torch.Size
    read: Callable[[], Tensor]
    """Returns it: merged, or read back from 4 bits."""
    is_changed: bool
    """True if an engine that has loaded the base model must be sent it: training changes it, it is
    stored in 4 bits here, or engines may fuse it with such a one (q, k, v; gate, up)."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapters:
    """The adapters in a model."""

    model: Any
    settings: peft.LoraConfig
    base: str
    """Name of the model that they are on: an absolute path, a hub id, or tiny."""
    base_digest: str = ""
    """Digest of the weights of that model; empty = they are in no files."""

    @property
    def is_quantised(self) -> bool:
        """True if matrices of the model are stored in 4 bits."""
        return any(map(quantised.is_quantised, self.model.modules()))

    def layers(self) -> Iterator[tuple[str, Linear]]:
        """Yield the name and the layer of each adapted matrix."""
        for name, module in self.model.named_modules():
            if isinstance(module, LoraLayer):
                yield name, cast(Linear, module)

    @contextmanager
    def off(self) -> Generator[None, None, None]:
        """Compute with the base model alone, for a while."""
        switched = [
            module
            for module in self.model.modules()
            if isinstance(module, LoraLayer | ModulesToSaveWrapper)
        ]
        trained = [(each, each.requires_grad) for each in self.model.parameters()]
        try:
            for module in switched:
                module.enable_adapters(False)
            yield
        finally:
            for module in switched:
                module.enable_adapters(True)
            for parameter, is_trained in trained:  # peft freezes them with the switch
                parameter.requires_grad_(is_trained)

    @contextmanager
    def merged(self, dtype: torch.dtype, *, at_each_use: bool = False) -> Generator[None]:
        """Compute with one plain matrix in the place of each adapted one, for a while.

        The adapted layers themselves come back afterwards, unchanged to the last bit.

        Args:
            dtype: type in which the sum of base and adapter is held; it is summed in the type of
                the adapter.
            at_each_use: compute the sum at each use, and hold one matrix at a time.
        """
        replaced = [(*_place(self.model, name), layer) for name, layer in self.layers()]
        try:
            for parent, child, layer in replaced:
                setattr(parent, child, _Merged(layer, dtype, at_each_use=at_each_use))
            yield
        finally:
            for parent, child, layer in replaced:
                setattr(parent, child, layer)

    def merge(self, dtypes: Mapping[str, torch.dtype], seed: int | None) -> None:
        """Put one plain matrix in the place of each adapted one, for good.

        Args:
            dtypes: type in which the sums of each part are held. That of a base in 4 bits may be
                narrower: it computes in bfloat16, and a sum would be rounded to it.
            seed: of the rounding to bfloat16 by chance, which leaves small adapters what they are
                on average; None = it is to the nearest number, where most of such a one is lost.
        """
        for name, layer in [*self.layers()]:
            parent, child = _place(self.model, name)
            own_seed = None if seed is None else addressed_seed(seed, "merging", name)
            dtype = dtypes[part_of(f"{name}.weight")]
            setattr(parent, child, _plain(layer, dtype, own_seed))
        for name, module in [*self.model.named_modules()]:
            if isinstance(module, ModulesToSaveWrapper):
                parent, child = _place(self.model, name)
                setattr(parent, child, module.modules_to_save[NAME])
        quantised.read_back(self.model)
        del self.model.peft_config

    def whole_state(self, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the model under its name in a checkpoint of the whole model.

        Args:
            merged: with the adapters merged; else the model that they are on.
        """
        for name, weight in self.whole_weights(merged=merged).items():
            yield name, weight.read()

    def whole_weights(self, *, merged: bool = True) -> dict[str, WholeWeight]:
        """Return the same tensors, of which none is computed yet."""
        adapted = {f"{name}.base_layer.weight": layer for name, layer in self.layers()}
        quantised_layers = quantised.weights(self.model)
        stored_apart = [*adapted, *quantised_layers]
        fused = {_owner(name.replace(".base_layer.", ".")) for name in stored_apart}
        weights: dict[str, WholeWeight] = {}
        for name, parameter in self.model.named_parameters():
            own_name = checkpoint_name(name) if merged else base_name(name)
            if own_name is None:
                continue
            shape, read = parameter.shape, parameter.detach
            if name in quantised_layers:
                layer = quantised_layers[name]
                shape = torch.Size((layer.out_features, layer.in_features))
                read = partial(quantised.plain_weight, layer)
            if merged and name in adapted:
                read = partial(_merged_in_own_type, adapted[name])
            is_changed = is_trained_name(name) or _owner(own_name) in fused
            weights[own_name] = WholeWeight(shape=shape, read=read, is_changed=is_changed)
        return weights

    def state(self) -> dict[str, Tensor]:
        """Return the trained tensors, by their names in the file of an adapter."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if is_trained_name(name):
                tensors[adapter_files.PREFIX + _name_in_file(name)] = parameter.detach()
        return tensors

    def save(self, folder: Path) -> None:
        """Write a folder that `peft.PeftModel.from_pretrained` loads onto the base model."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.settings
        settings.inference_mode = True
        settings.base_model_name_or_path = self.base
        if self.base == "tiny":
            settings.base_model_name_or_path = adapter_files.OWN_BASE
        settings.save_pretrained(str(folder))
        self.model.config.save_pretrained(folder)
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.state().items()}
        save_file(tensors, folder / adapter_files.TENSORS, metadata={"format": "pt"})
        if self.base_digest:
            about = {"model": self.base, "weights": self.base_digest, **self._storage()}
            (folder / adapter_files.BASE).write_text(json.dumps(about, indent=1) + "\n")

    def _storage(self) -> dict[str, str]:
        """Return how the base model is stored, where that is not plain."""
        for layer in quantised.weights(self.model).values():
            dtype = str(quantised.compute_dtype(layer)).removeprefix("torch.")
            return {"quantise": "nf4", "dtype": dtype}
        return {}

    def load(self, files: AdapterFiles, key: str) -> None:
        """Fill the adapters from files that were checked against the model.

        Raises:
            UserError: a tensor is missing, or is not finite.
        """
        parameters = dict(self.model.named_parameters())
        for name, tensor in self.read(files, key):
            with torch.no_grad():
                parameters[name].copy_(tensor)

    def read(self, files: AdapterFiles, key: str) -> Iterator[tuple[str, Tensor]]:
        """Yield the trained parameters as files hold them, by their names in the model.

        They are copies, each in the type and on the device of the parameter that it is for.

        Raises:
            UserError: a tensor is missing, or is not finite.
        """
        origin = f"{key}: {files.folder}"
        expected = dict(self.model.named_parameters())
        missing = {name for name in expected if is_trained_name(name)}
        modules = dict(self.model.named_modules())
        for name, tensor in load_file(files.folder / adapter_files.TENSORS).items():
            if adapter_files.is_of_base(name):
                continue
            own = _name_in_model(name, modules)
            if own not in missing:
                raise UserError(
                    f"{origin}: holds {shown(name)}, which the model does not have; name the model "
                    "that it was trained on"
                )
            if not tensor.isfinite().all():
                raise UserError(
                    f"{origin}: {name} holds a NaN or an infinity: it was saved after a training "
                    "that diverged (then name an earlier checkpoint), or is damaged: copy it again"
                )
            if tensor.shape != expected[own].shape:
                raise UserError(
                    f"{origin}: {name} is {list(tensor.shape)}, expected "
                    f"{list(expected[own].shape)} by its {adapter_files.SETTINGS}; the two files "
                    "are of different adapters: copy both again"
                )
            missing.remove(own)
            yield own, tensor.to(expected[own], copy=True)
        if missing:
            raise UserError(
                f"{origin}: lacks {len(missing)} tensors that the config trains, first "
                f"{_name_in_file(min(missing))}; copy it again, or merge it first (gpg-vl export "
                "--merged)"
            )


class _Merged(nn.Module):
    """An adapted layer as one plain matrix."""

    def __init__(self, layer: Linear, dtype: torch.dtype, *, at_each_use: bool) -> None:
        super().__init__()
        self.dtype = dtype
        # In a tuple, so that its parameters are not counted as those of this module.
        self.layer = (layer,)
        self.weight: Tensor | None = None
        if not at_each_use:
            self.weight = merged_weight(layer).to(dtype)

    def forward(self, states: Tensor) -> Tensor:
        (layer,) = self.layer
        weight = self.weight
        if weight is None:
            weight = merged_weight(layer).to(self.dtype)
        bias: Any = layer.get_base_layer().bias
        if bias is not None:
            bias = bias.to(self.dtype)
        return nn.functional.linear(states, weight, bias)


@torch.no_grad()
def merged_weight(layer: Linear) -> Tensor:
    """Return base plus adapter of a layer, [outputs, inputs], in the type of the adapter."""
    base = base_weight(layer)
    with torch.autocast(base.device.type, enabled=False):  # it would round the product
        return layer.get_delta_weight(NAME).add_(base)


def _merged_in_own_type(layer: Linear) -> Tensor:
    """Return the same in the type of the base."""
    base: Any = layer.get_base_layer()
    dtype = quantised.compute_dtype(base) if quantised.is_quantised(base) else base.weight.dtype
    return merged_weight(layer).to(dtype)


def base_weight(layer: Linear) -> Tensor:
    """Return the frozen matrix of a layer, [outputs, inputs]; one in 4 bits is read back."""
    base: Any = layer.get_base_layer()
    return quantised.plain_weight(base) if quantised.is_quantised(base) else base.weight.detach()


def _plain(layer: Linear, dtype: torch.dtype, seed: int | None) -> nn.Linear:
    """Return the merged layer.

    Args:
        seed: of the rounding to bfloat16; None = to the nearest.
    """
    base: Any = layer.get_base_layer()
    has_bias = base.bias is not None
    plain = nn.Linear(base.in_features, base.out_features, bias=has_bias, device="meta")
    merged = merged_weight(layer)
    if dtype == NARROW and seed is not None:
        merged = rounded_by_chance(merged, seed)
    plain.weight = nn.Parameter(merged.to(dtype), requires_grad=False)
    if has_bias:
        plain.bias = base.bias
    return plain


def _place(model: Any, name: str) -> tuple[Any, str]:
    """Return the module that holds another one by name, and the last part of the name."""
    parent, _, child = name.rpartition(".")
    return model.get_submodule(parent), child


# --- names ----------------------------------------------------------------------------------------


def is_trained_name(name: str) -> bool:
    """Return True if a parameter of a model with adapters is trained."""
    return any(part in name for part in _TRAINED)


def checkpoint_name(name: str) -> str | None:
    """Return the name of a parameter in the checkpoint of the base model; None = it has none.

    Those of an adapter have none, nor has the original of a part that is trained as a whole.
    """
    if ".lora_" in name or ".original_module." in name:
        return None
    return name.replace(".base_layer.", ".").replace(f".modules_to_save.{NAME}.", ".")


def base_name(name: str) -> str | None:
    """Return the same name, where the model is meant as it was before training."""
    if ".lora_" in name or ".modules_to_save." in name:
        return None
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _owner(name: str) -> str:
    """Return the module that holds a layer and those that engines may fuse with it.

    Example:
        _owner("layers.0.self_attn.q_proj.weight") == "layers.0.self_attn"
    """
    return name.rsplit(".", 2)[0]


def _name_in_file(name: str) -> str:
    """Return the name of a trained parameter in the file of an adapter."""
    return name.replace(f".modules_to_save.{NAME}.", ".").replace(f".{NAME}.", ".")


def _name_in_model(name: str, modules: Mapping[str, Any]) -> str:
    """Return the name of a trained parameter, from that of its tensor in a file."""
    name = name.removeprefix(adapter_files.PREFIX)
    for matrix in ("lora_A", "lora_B"):
        module, is_here, rest = name.partition(f".{matrix}.")
        if is_here:
            module = adapter_files.current_name(module, modules)
            return f"{module}.{matrix}.{NAME}.{rest}"
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = adapter_files.current_name(".".join(parts[:end]), modules)
        if isinstance(modules.get(module), ModulesToSaveWrapper):
            return ".".join([module, "modules_to_save", NAME, *parts[end:]])
    return name


# --- making them ----------------------------------------------------------------------------------


def targets(model: Any, config: PolicyConfig) -> list[str]:
    """Return the names of the matrices that get an adapter.

    By default they are all matrices of the layers of a part, never the head and the embedding.

    Args:
        model: a model without adapters; its weights are not read.

    Raises:
        UserError: a part set to lora has no such matrix, or a name of `policy.lora.targets` matches
            nothing.
    """
    possible = _possible_targets(model, config)
    by_part = {part: list[str]() for part in PARTS if getattr(config, part) == "lora"}
    for name in possible:
        by_part[part_of_module(name)].append(name)
    check_targets(by_part, config)
    wanted = config.lora.targets
    return meant(wanted, possible) if wanted else possible


def _possible_targets(model: Any, config: PolicyConfig) -> list[str]:
    """Return the names of the matrices of all layers of the parts set to lora."""
    found: list[str] = []
    in_layers: set[str] = set()
    for name, module in model.named_modules():
        if isinstance(module, GradientCheckpointingLayer):
            in_layers |= {f"{name}.{inner}" for inner, _ in module.named_modules()}
    for name, module in model.named_modules():
        part = part_of(f"{name}.weight")
        is_in_layer = part == "projector" or name in in_layers
        if isinstance(module, nn.Linear) and is_in_layer and getattr(config, part) == "lora":
            found.append(name)
    return found


def whole_modules(model: Any, config: PolicyConfig) -> list[str]:
    """Return the names of the largest modules that hold parameters of parts set to full alone."""

    def inside(module: Any, prefix: str) -> Iterator[str]:
        parts = {part_of(f"{prefix}{name}") for name, _ in module.named_parameters()}
        if not parts:
            return
        is_list = isinstance(module, nn.ModuleList)  # peft cannot wrap one: it is iterated over
        if prefix and not is_list and all(getattr(config, part) == "full" for part in parts):
            yield prefix.removesuffix(".")
            return
        for name, child in module.named_children():
            yield from inside(child, f"{prefix}{name}.")

    return [*inside(model, "")]


def pattern(names: Sequence[str]) -> str:
    """Return a regular expression that matches these names of modules and their like in all layers.

    Example:
        pattern(["layers.0.mlp.up", "layers.1.mlp.up"]) == r"layers\\.\\d+\\.mlp\\.up"
    """
    distinct = dict.fromkeys(re.sub(r"\\?\b\d+\b", r"\\d+", re.escape(name)) for name in names)
    return "|".join(distinct)


def add(
    model: Any,
    config: PolicyConfig,
    *,
    base: str,
    base_digest: str,
    seed: int,
    files: AdapterFiles | None,
) -> Adapters:
    """Put adapters into a model: new ones, or those of files in their own size.

    New ones begin with B = 0, so that the model computes what it did. All else is frozen.

    Args:
        seed: seed of A.
    """
    modules = dict(model.named_modules())
    if files is None:
        names = targets(model, config)
        rank, alpha = config.lora.rank, config.lora.alpha
        ranks, alphas, is_rooted = {}, {}, False
        whole = whole_modules(model, config)
    else:
        own_names = {name: adapter_files.current_name(name, modules) for name in files.adapted}
        names = [*own_names.values()]
        rank, alpha = files.rank, files.alpha
        ranks = _by_matrix(files.settings.get("rank_pattern"), own_names)
        alphas = _by_matrix(files.settings.get("alpha_pattern"), own_names)
        is_rooted = bool(files.settings.get("use_rslora"))
        whole = _whole_modules_of(files, model, config)
    chosen: list[str] | str = pattern(names)
    if _matched(chosen, modules) != set(names):
        chosen = names
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=cast(int, alpha),
        lora_dropout=config.lora.dropout,
        target_modules=chosen,
        modules_to_save=whole or None,
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_rslora=is_rooted,
    )
    # The caller's generators are not changed: torch.manual_seed would seed those of GPUs too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(addressed_seed(seed, "adapters"))
        peft.inject_adapter_in_model(settings, model)
    wide = torch.float64 if config.dtype == "float64" else torch.float32
    for name, parameter in model.named_parameters():
        is_adapter = ".lora_" in name
        if is_adapter or (".modules_to_save." in name and config.weights == "float32"):
            parameter.data = parameter.data.to(wide)
        if parameter.is_floating_point():  # not one in 4 bits
            parameter.requires_grad_(is_trained_name(name))
    return Adapters(model=model, settings=settings, base=base, base_digest=base_digest)


def _by_matrix(
    by_pattern: Mapping[str, float] | None, own_names: Mapping[str, str]
) -> dict[str, Any]:
    """Return the ranks or scales that a setting gives to single matrices, by their names here.

    Args:
        by_pattern: from a pattern of names to a number. It was written for the names that the
            matrices had where the adapter was made.
        own_names: those names -> their names in the model.
    """
    numbers = by_pattern or {}
    found: dict[str, Any] = {}
    for name, own in own_names.items():
        key = get_pattern_key([*numbers], name)  # the name itself, if no pattern matches
        if key in numbers:
            found[own] = numbers[key]
    return found


def _whole_modules_of(files: AdapterFiles, model: Any, config: PolicyConfig) -> list[str]:
    """Return the modules that an adapter holds as a whole: those of the config if it trains them,
    else the smallest ones, for merging.
    """
    if config.trains_adapters:
        return whole_modules(model, config)
    modules = dict(model.named_modules())
    owners: dict[str, None] = {}
    for name in files.whole:
        owners[adapter_files.current_name(name.rpartition(".")[0], modules)] = None
    # a module may hold numbers itself and in a module inside it
    outermost: list[str] = []
    for owner in sorted(owners):
        if not outermost or not owner.startswith(f"{outermost[-1]}."):
            outermost.append(owner)
    return outermost


def _matched(expression: str, modules: Mapping[str, Any]) -> set[str]:
    """Return the modules whose whole name matches a regular expression."""
    return {name for name in modules if re.fullmatch(expression, name)}


# --- checking files against a model -----------------------------------------------------------


def _check_family(files: AdapterFiles, model: Any, key: str) -> None:
    """Refuse an adapter of another family, whose matrices may have the same names and sizes.

    gpg_vl saves the config of the model beside an adapter, peft the name of its class.
    """
    family = model.config.model_type
    theirs = adapter_files.family_of(files, key) or family
    name = (files.settings.get("auto_mapping") or {}).get("base_model_class")
    known = getattr(transformers, name, None) if name else None
    if known is not None and not isinstance(model, known):
        theirs = name
    if theirs != family:
        raise UserError(
            f"{key}: {files.folder}: its adapter is not of this base model: it is for a {theirs}, "
            f"and that is a {family}; name the model that it was trained on"
        )


def check_fit(files: AdapterFiles, model: Any, config: PolicyConfig, key: str) -> None:
    """Refuse an adapter of another model, or of other parts than the config trains.

    Args:
        model: the base model; its weights are not read.

    Raises:
        UserError: the adapter does not fit.
    """
    origin = f"{key}: {files.folder}"
    _check_family(files, model, key)
    modules = dict(model.named_modules())
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):  # a tied head, too
        shapes[name] = tuple(parameter.shape)
    adapted: set[str] = set()
    for name, shape in files.adapted.items():
        own = f"{adapter_files.current_name(name, modules)}.weight"
        found = shapes.get(own)
        if found != shape or not isinstance(modules[own.removesuffix(".weight")], nn.Linear):
            has = "no such matrix" if found is None else f"{list(found)} there"
            raise UserError(
                f"{origin}: its adapter is not of this base model: it is for {name} "
                f"{list(shape)}, and {model.config.model_type} has {has}; name the model that it "
                "was trained on"
            )
        adapted.add(own.removesuffix(".weight"))
    whole: set[str] = set()
    for name, shape in [*files.whole.items(), *files.of_base.items()]:
        module, _, last = name.rpartition(".")
        own = f"{adapter_files.current_name(module, modules)}.{last}"
        found = shapes.get(own)
        if found != shape:
            has = "no such tensor" if found is None else f"{list(found)} there"
            raise UserError(
                f"{origin}: its adapter is not of this base model: it holds {name} "
                f"{list(shape)}, and {model.config.model_type} has {has}; name the model that it "
                "was trained on"
            )
        if name in files.whole:
            whole.add(own)
    if config.trains_adapters:
        check_parts(adapted, whole, config, origin)
        _check_whole(whole, model, config, origin)


def _check_whole(whole: set[str], model: Any, config: PolicyConfig, origin: str) -> None:
    """Refuse an adapter that lacks a tensor of a part that the config trains as a whole.

    Args:
        whole: parameters of the model that the files hold as a whole.
    """
    for module in whole_modules(model, config):
        for name, _ in model.get_submodule(module).named_parameters(prefix=module):
            if name not in whole:
                refuse_lack(name, part_of(name), origin)
