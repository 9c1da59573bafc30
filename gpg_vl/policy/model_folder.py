"""The folder of a model: found, or fetched from the hub, and checked before anything large is read.

What can be wrong with it is seen here from names, sizes, JSON and headers alone, in a moment, and said in a sentence. What only loading can
show (tensors that are missing or have another shape) is seen in `load`.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import is_zipfile

from gpg_vl.errors import UserError

SUPPORTED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "idefics3", "llava", "gemma3")
"""Families whose gradients are held against plain rows in the tests."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_POINTER = b"version https://git-lfs"
"""What a file begins with that Git LFS has not replaced by its content."""
_OLD_PICKLE = b"\x80\x02"
"""What a .bin file of torch before 1.6 begins with; later ones are zip files, whose end says whether they are whole."""
_QUANTISED = ("I8", "U8", "F8_", "F6_", "F4")
"""How the types of safetensors begin that no trained weight has."""

WHOLE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Where transformers looks for weights, in its order."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
OTHERS = (
    *("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("chat_template.json", "chat_template.jinja", "video_preprocessor_config.json"),
)
"""What may be absent, but is wrong where it cannot be read: transformers passes over some of it without a word."""
ADAPTER = "adapter_config.json"


def find_model(name: str, key: str = "policy.model") -> Path:
    """The folder of a model, checked.

    Args:
        name: a folder, or a hub id, which is fetched (or read from the hub's cache where the machine is offline).
        key: whom to blame in messages.

    Raises:
        UserError: there is no such model, or its files cannot be trained.
    """
    folder = locate(name, key)
    if fault := next(_faults(folder), None):
        raise UserError(f"{key}: {folder}: {fault}")
    return folder


def is_here(name: str) -> bool:
    """Whether a model's name is that of a folder, and not a hub's."""
    return bool(name) and Path(os.path.expanduser(name)).is_dir()  # noqa: PTH111


def locate(name: str, key: str = "policy.model", *, weights: bool = True) -> Path:
    """The folder of a model, not looked into yet.

    Args:
        weights: fetch them too, where the model lies on the hub.

    Raises:
        UserError: there is no such model.
    """
    folder = Path(os.path.expanduser(name))  # noqa: PTH111 (pathlib's raises for a user that is not there)
    if name and folder.is_dir():
        return folder
    if folder.is_file():
        raise UserError(f"{key}: {name!r} is a file; expected the folder that holds it with its config.json, or a hub id")
    if not _HUB_ID.fullmatch(name):
        raise UserError(f"{key}: {name!r} cannot be loaded: there is no such folder")
    try:
        return _fetch(name, weights)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{key}: {name!r} cannot be loaded: no folder of that name is here, and the hub says: {why}") from None


def config_file(name: str, key: str = "policy.model") -> Path:
    """A model's config.json, of a folder or a hub id; what the hub's cache holds is not asked for again.

    Raises:
        UserError: there is no such model, or the file is not there, or is no JSON mapping.
    """
    file = None
    if not is_here(name) and _HUB_ID.fullmatch(name):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json")
        file = Path(cached) if isinstance(cached, str) else None
    file = file or locate(name, key, weights=False) / "config.json"
    if not file.is_file():
        raise UserError(f"{key}: {file.parent}: {_what_it_is_instead(file.parent)}")
    if fault := _unreadable(file):
        raise UserError(f"{key}: {file.parent}: {fault}")
    return file


def _fetch(name: str, weights: bool) -> Path:
    """The hub's files of a model, weights as safetensors where there are any; out of its cache where the machine is offline."""
    from huggingface_hub import snapshot_download

    def fetch(*patterns: str) -> Path:
        return Path(snapshot_download(name, allow_patterns=[*patterns], ignore_patterns=["*/*", "consolidated*"]))

    folder = fetch("*.json", "*.jinja", "*.txt", "*.model", *(["*.safetensors"] if weights else []))
    return folder if not weights or any(folder.glob("*.safetensors")) else fetch("*.bin")


def _faults(folder: Path) -> Iterator[str]:
    """What is wrong with a model's files, the cause before its consequences."""
    if not (folder / "config.json").is_file():
        yield _what_it_is_instead(folder)
    yield from (fault for name in ("config.json", *PROCESSORS, *TOKENIZERS, *OTHERS) if (fault := _unreadable(folder / name)))
    config = json.loads((folder / "config.json").read_text())
    if (folder / ADAPTER).exists():
        yield f"has a LoRA adapter beside its model ({ADAPTER}): transformers would train and save only the adapter. {_merge(folder)}"
    text = config.get("text_config")
    if quantised := config.get("quantization_config") or (isinstance(text, dict) and text.get("quantization_config")):
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else "unknown method"
        yield f"is quantised ({method}), so its weights cannot be trained; use the checkpoint that it was made from"
    yield from _family_faults(config)
    yield from _weight_faults(folder)
    if not any((folder / name).exists() for name in PROCESSORS):
        yield f"has no processor ({' or '.join(PROCESSORS)}); copy it from the base model's folder"
    if not any((folder / name).exists() for name in TOKENIZERS):
        yield "has no tokenizer (tokenizer.json or the like); copy its tokenizer files from the base model's folder"


def _what_it_is_instead(folder: Path) -> str:
    """Why a folder without config.json is no model, and where the model may be."""
    if (folder / ADAPTER).exists():
        return f"is a LoRA adapter without its model. {_merge(folder)}"
    if nested := next((path.parent for path in sorted(folder.glob("checkpoints/*/policy/config.json"), reverse=True)), None):
        return f"is a run folder, not a model; its newest checkpoint is {nested}"
    if (folder / "policy" / "config.json").exists():
        return f"is a checkpoint of a run; its model is {folder / 'policy'}"
    if any(folder.glob("*.gguf")):
        return "holds GGUF files, which are quantised and cannot be trained; use the checkpoint that they were made from"
    return f"has no config.json, so it is no model; it holds {_listed(folder)}"


def _merge(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    return (
        f"Merge it into its base model{f' ({base})' if base else ''} first: peft.PeftModel.from_pretrained(base, adapter)"
        ".merge_and_unload().save_pretrained(folder), with the base's processor beside it"
    )


def _family_faults(config: dict[str, Any]) -> Iterator[str]:
    family = config.get("model_type")
    if family in SUPPORTED:
        if not isinstance(config.get("vision_config"), dict):
            yield "has no vision_config in its config.json; copy config.json from the model that its weights are of"
        return
    own_code = "; it needs code of its own (auto_map), which is never run" if "auto_map" in config else ""
    yield f"is a {family}{own_code}; expected one of {', '.join(SUPPORTED)}" if family else "has no model_type in its config.json"


def _weight_faults(folder: Path) -> Iterator[str]:
    """Weight files that are missing, pointers, or cut."""
    found = next((name for name in WHOLE_WEIGHTS if (folder / name).exists() or (folder / name).is_symlink()), None)
    if found is None:
        yield f"has no weights; expected {WHOLE_WEIGHTS[0]} or shards with {WHOLE_WEIGHTS[1]}; it holds {_listed(folder)}"
        return
    if not found.endswith(".index.json"):
        yield from _broken(folder / found)
        return
    if fault := _unreadable(folder / found):
        yield fault
        return
    files = json.loads((folder / found).read_text()).get("weight_map")
    shards = sorted(set(map(str, files.values()))) if isinstance(files, dict) else []
    missing = [name for name in shards if not (folder / name).exists()]
    if not shards:
        yield f"has no weights: {found} names no files; download it again"
    if missing:
        yield f"lacks {len(missing)} of the {len(shards)} weight files that {found} names, first {missing[0]}; download them again"
    for name in shards:
        yield from _broken(folder / name)


def _broken(weights: Path) -> Iterator[str]:
    """Why one weight file cannot be whole."""
    if not weights.exists():
        yield f"{weights.name} is a link to nothing; download it again"
        return
    size = weights.stat().st_size
    with weights.open("rb") as file:
        start = file.read(len(_POINTER))
        if start == _POINTER:
            yield _pointer(weights)
        elif weights.suffix == ".safetensors":
            tensors, promised = _header(file, size)
            if not tensors and size > 8 and size >= promised:
                yield f"{weights.name} is no safetensors file, or damaged: its header cannot be read; download it again"
            if size != promised:
                yield f"{weights.name} is cut or damaged ({size:,} bytes, its header promises {promised:,}); download it again"
            if packed := next((name for name, dtype in tensors.items() if dtype.startswith(_QUANTISED)), None):
                yield f"{packed} is stored as {tensors[packed]}: quantised, so it cannot be trained; use what it was made from"
        elif not (is_zipfile(file) or start.startswith(_OLD_PICKLE)):
            yield f"{weights.name} is cut or damaged ({size:,} bytes, no end); download it again"


def _header(file: BinaryIO, size: int) -> tuple[dict[str, str], int]:
    """The types of the tensors that a safetensors file's header names, and the bytes that the file must have by it."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > size:
        return {}, 8 + length
    try:
        entries = {name: entry for name, entry in json.loads(file.read(length)).items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        return {name: entry["dtype"] for name, entry in entries.items()}, 8 + length + end
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # no header at all
        return {}, 8 + length


def _unreadable(path: Path) -> str:
    """Why a JSON or vocabulary file, if it is there, cannot be read; empty = it can."""
    if not path.exists():
        return f"{path.name} is a link to nothing; download it again" if path.is_symlink() else ""
    content = path.read_bytes()
    if content.startswith(_POINTER):
        return _pointer(path)
    if path.suffix != ".json":
        return "" if content else f"{path.name} is empty; download it again"
    try:
        plain = json.loads(content.decode())  # strictly: what begins with a byte order mark is read by nobody else
    except ValueError as error:
        return f"{path.name} is not JSON ({error}): cut or damaged; download it again"
    return "" if isinstance(plain, dict) else f"{path.name} holds a {type(plain).__name__}, expected a mapping; download it again"


def _pointer(path: Path) -> str:
    return f"{path.name} is a Git LFS pointer, not the file itself; run `git lfs pull` there, or download it again"


def _listed(folder: Path) -> str:
    """The first few names in a folder."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "nothing"
