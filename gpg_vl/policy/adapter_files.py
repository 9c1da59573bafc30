"""Read the files of a LoRA adapter, as peft writes them, without reading a tensor. No torch.

An adapter is a folder with `adapter_config.json` (rank, scale, the name of its base model) and
`adapter_model.safetensors` (two matrices A and B for each adapted matrix, and whole modules that
were trained beside them).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpg_vl.config.paths import is_folder
from gpg_vl.errors import UserError, shown
from gpg_vl.policy.part_names import PARTS, is_head, part_of_module
from gpg_vl.policy.tensor_files import read_header

SETTINGS = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
BASE = "base.json"
"""File of an adapter that gpg_vl saved: a digest of its base model's weights, and their storage."""
OWN_BASE = "base"
"""Folder in an adapter that holds its base model, where that has no other folder."""
PREFIX = "base_model.model."
"""Beginning of the names of tensors in an adapter."""
_OF_BASE = ".base_layer."
"""Part of the names of tensors that are the base model's own."""
_OTHER_KINDS = {
    "init_lora_weights": True,
    "use_dora": False,
    "use_qalora": False,
    "lora_bias": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
    "use_bdlora": None,
    "kasa_config": None,
    "monteclora_config": None,
    "arrow_config": None,
    "ensure_weight_tying": False,
}
"""Setting of peft -> its value in a plain LoRA adapter."""
_PLAIN_STARTS = ("gaussian", "eva", "orthogonal")
"""First values of A and B (init_lora_weights) that leave the base model as it is; others (PiSSA,
OLoRA, CorDA, LoftQ...) subtract them from it, so that such an adapter is not for the model that it
names. A truth value is plain too."""
OLD_NAMES = (
    ("model.", "model.language_model."),
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("language_model.", "model.language_model."),
    ("visual.", "model.visual."),
    ("vision_tower.vision_model.", "model.vision_tower."),
    ("model.vision_tower.vision_model.", "model.vision_tower."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
"""Beginning of the name of a module before transformers 5 -> since then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFiles:
    """An adapter on disk."""

    folder: Path
    settings: Mapping[str, Any]
    """Content of adapter_config.json."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    """Shape of each tensor, by its name in the file; empty = only the settings were read."""
    about_base: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Content of base.json; empty = it was not saved by gpg_vl, or holds its base model."""

    @property
    def quantise(self) -> str:
        """Storage of the base model that it was trained on: none | nf4."""
        return self.about_base.get("quantise", "none")

    @property
    def base(self) -> str:
        """Name of the base model: a folder or a hub id; empty = it names none."""
        return self.settings.get("base_model_name_or_path") or ""

    @property
    def has_own_base(self) -> bool:
        """True if the folder of the adapter holds its base model."""
        base = Path(self.base)
        is_inside = base.parts and not base.is_absolute() and ".." not in base.parts
        return bool(is_inside) and is_folder(self.folder / base)

    @property
    def rank(self) -> int:
        """Rank of the matrices A and B."""
        return int(self.settings.get("r", 8))

    @property
    def alpha(self) -> float:
        """Scale of the adapter."""
        return float(self.settings.get("lora_alpha", 8))

    @property
    def adapted(self) -> dict[str, tuple[int, int]]:
        """Names of the adapted matrices in the file, each with its outputs and inputs."""
        found: dict[str, tuple[int, int]] = {}
        for name, shape in self.shapes.items():
            module, is_a, _ = name.partition(".lora_A.")
            if is_a:
                outputs = self.shapes.get(f"{module}.lora_B.weight", (0,))[0]
                found[module.removeprefix(PREFIX)] = (outputs, shape[-1])
        return found

    @property
    def whole(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the tensors of modules that were trained beside the adapter."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            if ".lora_" not in name and not is_of_base(name):
                found[name.removeprefix(PREFIX)] = shape
        return found

    @property
    def of_base(self) -> dict[str, tuple[int, ...]]:
        """Names in the base model, and shapes, of its own tensors that the file holds too."""
        found: dict[str, tuple[int, ...]] = {}
        for name, shape in self.shapes.items():
            if is_of_base(name):
                found[name.removeprefix(PREFIX).replace(_OF_BASE, ".")] = shape
        return found

    @property
    def adapts_head(self) -> bool:
        """True if it has matrices for the head, which training does not take."""
        return any(is_head(name) for name in self.adapted)

    @property
    def trained_parts(self) -> dict[str, str]:
        """Training of each part of the model: frozen, lora or full."""
        found = dict.fromkeys(PARTS, "frozen")
        for name in self.whole:
            found[part_of_module(name)] = "full"
        for name in self.adapted:
            found[part_of_module(name)] = "lora"
        return found


def is_of_base(name: str) -> bool:
    """Return True if a tensor in the file of an adapter is one of the base model.

    peft writes a copy of the frozen matrix of a head that is adapted. The base model's own file
    holds it too, and is the one that is read.
    """
    return _OF_BASE in name


def is_adapter(folder: Path) -> bool:
    """Return True if a folder holds an adapter."""
    return (folder / SETTINGS).is_file()


def read(folder: Path, key: str) -> AdapterFiles:
    """Read the settings of an adapter and the names and shapes of its tensors.

    Args:
        key: config key that messages begin with.

    Raises:
        UserError: a file is missing or damaged, or it is no plain LoRA adapter.
    """
    origin = f"{key}: {folder}"
    adapter = replace(read_settings(folder, key), shapes=_shapes(folder, origin))
    _check_matrices(adapter, origin)
    return adapter


def read_settings(folder: Path, key: str) -> AdapterFiles:
    """Read the settings of an adapter alone, whose tensors need not be here.

    Raises:
        UserError: a file is missing or damaged, or it is no plain LoRA adapter.
    """
    origin = f"{key}: {folder}"
    settings = _mapping(folder / SETTINGS, origin)
    about_base: dict[str, Any] = {}
    if (folder / BASE).is_file():
        about_base = _mapping(folder / BASE, origin)
        _check_storage(about_base, origin)
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise UserError(
            f"{origin}: is an adapter of kind {shown(kind)}, expected LORA; merge it into its base "
            "model first (peft: merge_and_unload), and name that folder"
        )
    for name, plain in _OTHER_KINDS.items():
        value = settings.get(name) or plain
        if name == "init_lora_weights" and value in _PLAIN_STARTS:
            continue
        if value != plain:
            raise UserError(
                f"{origin}: its {SETTINGS} has {name}: {shown(value)}, which is no plain LoRA; "
                "merge it into its base model first (peft: merge_and_unload), and name that folder"
            )
    _check_values(settings, origin)
    return AdapterFiles(folder=folder, settings=settings, about_base=about_base)


def _check_storage(about_base: Mapping[str, Any], origin: str) -> None:
    """Refuse a storage of the base model that is not known."""
    kind, dtype = about_base.get("quantise", "none"), about_base.get("dtype")
    if kind not in ("none", "nf4"):
        raise UserError(
            f"{origin}: {BASE}: quantise: got {shown(kind)}, expected nf4; copy it again"
        )
    if kind == "nf4" and dtype not in ("float32", "bfloat16"):
        raise UserError(
            f"{origin}: {BASE}: dtype: got {shown(dtype)}, expected float32 or bfloat16; copy it "
            "again"
        )


def _check_values(settings: Mapping[str, Any], origin: str) -> None:
    """Refuse a rank, a scale or a base model that is none."""
    numbers = {name: settings.get(name, 8) for name in ("r", "lora_alpha")}
    for name in ("rank_pattern", "alpha_pattern"):
        by_pattern = settings.get(name) or {}
        if not isinstance(by_pattern, Mapping):
            raise UserError(
                f"{origin}: its {SETTINGS} has {name}: {shown(by_pattern)}, expected a mapping; "
                "copy it again"
            )
        numbers |= {f"{name}: {pattern}": value for pattern, value in by_pattern.items()}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(
                f"{origin}: its {SETTINGS} has {name}: {shown(value)}, expected a number above 0; "
                "copy it again"
            )
    base = settings.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        raise UserError(
            f"{origin}: its {SETTINGS} has base_model_name_or_path: {shown(base)}, expected a "
            "folder or a hub id; copy it again, or write its base model there"
        )


def _check_matrices(adapter: AdapterFiles, origin: str) -> None:
    """Refuse matrices that do not belong together, or are not those of a matrix's adapter."""
    patterns = adapter.settings.get("rank_pattern") or {}
    ranks = {adapter.rank, *patterns.values()}
    matrices = {name: shape for name, shape in adapter.shapes.items() if ".lora_" in name}
    for name in matrices:
        if ".lora_A." not in name and ".lora_B." not in name:
            raise UserError(
                f"{origin}: {TENSORS} holds {name}, which is not of the adapter of a matrix; merge "
                "it into its base model first (peft: merge_and_unload), and name that folder"
            )
    for name, shape in matrices.items():
        other, own_rank, its_rank = name.replace(".lora_A.", ".lora_B."), shape[0], -1
        if ".lora_B." in name:
            other, own_rank, its_rank = name.replace(".lora_B.", ".lora_A."), shape[-1], 0
        partner = adapter.shapes.get(other)
        if partner is None or partner[its_rank] != own_rank:
            has = "no such matrix" if partner is None else list(partner)
            raise UserError(
                f"{origin}: {TENSORS} holds {name} {list(shape)}, and {has} as {other}; copy it "
                "again"
            )
        if own_rank not in ranks:
            raise UserError(
                f"{origin}: {name} is {list(shape)}, and {SETTINGS} has r: {adapter.rank}; the two "
                "files are of different adapters: copy both again"
            )


def family_of(adapter: AdapterFiles, key: str) -> str:
    """Return the family that a config.json beside an adapter names; empty = it names none.

    Raises:
        UserError: the file cannot be read.
    """
    path = adapter.folder / "config.json"
    if not path.is_file():
        return ""
    return str(_mapping(path, f"{key}: {adapter.folder}").get("model_type") or "")


def _mapping(path: Path, origin: str) -> dict[str, Any]:
    """Return the mapping of a JSON file."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{origin}: {path.name} cannot be read ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{origin}: {path.name} holds no mapping; copy it again")
    return content


def _shapes(folder: Path, origin: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in the file of an adapter, from its header."""
    path = folder / TENSORS
    if not path.is_file():
        raise UserError(
            f"{origin}: has no {TENSORS}, so it is no complete adapter; load it with peft where it "
            "was made, and save it again (save_pretrained)"
        )
    header = read_header(path)
    if not header.is_readable or path.stat().st_size < header.size:
        raise UserError(f"{origin}: {TENSORS} is cut or damaged; copy it again")
    if not header.tensors:
        raise UserError(f"{origin}: {TENSORS} holds no tensor; copy it again")
    return {name: tensor.shape for name, tensor in header.tensors.items()}


def current_name(module: str, modules: Mapping[str, Any]) -> str:
    """Return the name that a module of an adapter has in the model; its own if there is none."""
    if module in modules:
        return module
    for old, new in OLD_NAMES:
        renamed = new + module.removeprefix(old)
        if module.startswith(old) and renamed in modules:
            return renamed
    return module
