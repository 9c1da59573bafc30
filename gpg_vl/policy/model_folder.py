"""Find the folder of a model, or fetch it from the hub, and check its files.

The check reads no tensor: only names, sizes, JSON files and headers. It reports one problem in one
sentence. Problems that only loading can find (tensors that are missing or have another shape) are
reported by `load`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import is_zipfile

from gpg_vl.config.models import find, hint
from gpg_vl.errors import UserError, one_line, shown

SUPPORTED = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "smolvlm",
    "idefics3",
    "llava",
    "gemma3",
)
"""Families whose gradients the tests compare with those of plain rows."""

HUB_SECONDS = 8.0
"""Seconds without a byte after which the hub is given up. The hub's own client would wait for
ever."""
_POINTER = b"version https://git-lfs"
"""First bytes of a file that Git LFS has not replaced by its content."""
_OLD_PICKLE = b"\x80\x02"
"""First bytes of a .bin file of torch before 1.6. Later ones are zip files, whose end shows whether
they are complete."""
_QUANTISED = ("I8", "U8", "F8_", "F6_", "F4")
"""Beginnings of the names of safetensors types that are quantised and cannot be trained."""

WHOLE_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files in which transformers looks for weights, in its order."""
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""Files of a processor; one of them must exist."""
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model", "vocab.txt")
"""Files of a tokenizer; one of them must exist."""
OTHERS = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "video_preprocessor_config.json",
)
"""Files that may be absent. If one cannot be read, that is an error here, because transformers
ignores some of them without a warning."""
ADAPTER = "adapter_config.json"
"""File of a LoRA adapter."""


def find_model(name: str, key: str = "policy.model") -> Path:
    """Return the folder of a model after checking its files.

    Args:
        name: a run, a checkpoint, a folder, or a hub id, which is fetched (or read from the hub's
            cache where the machine is offline).
        key: config key that messages begin with.

    Raises:
        UserError: there is no such model, or its files cannot be trained.
    """
    folder = locate(name, key)
    problem = next(_problems(folder), None)
    if problem is not None:
        raise UserError(f"{key}: {folder}: {problem}")
    return folder


def is_here(name: str) -> bool:
    """Return True if a model's name is a folder on this machine, and not a hub id."""
    return find(name).folder is not None


def locate(name: str, key: str = "policy.model", *, weights: bool = True) -> Path:
    """Return the folder of a model without checking its files.

    Args:
        weights: fetch them too, if the model is on the hub.

    Raises:
        UserError: there is no such model.
    """
    folder = find(name, key).folder
    if folder is not None:
        return folder
    try:
        return _fetch(name, weights)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{key}: {shown(name)} cannot be loaded: no folder of that name is here, "
            f"and {_answer_of_hub(error)}{hint(Path(name))}"
        ) from None


def config_file(name: str, key: str = "policy.model") -> Path:
    """Return the path of a model's config.json, of a folder or a hub id.

    A file in the hub's cache is used without a request to the hub.

    Raises:
        UserError: there is no such model, or the file is not there, or is no JSON mapping.
    """
    file = None
    if not is_here(name):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            file = Path(cached)
    if file is None:
        file = locate(name, key, weights=False) / "config.json"
    if not file.is_file():
        raise UserError(f"{key}: {file.parent}: {_describe_other_folder(file.parent)}")
    problem = _unreadable(file)
    if problem:
        raise UserError(f"{key}: {file.parent}: {problem}")
    return file


def _fetch(name: str, weights: bool) -> Path:
    """Fetch the files of a model from the hub, or from its cache where the machine is offline.

    Weights are fetched as safetensors if there are any.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    unreachable = _unreachable_hub(name)

    def fetch(*patterns: str) -> Path:
        try:
            # Without folders inside, and without Mistral's own format of the same weights.
            folder = snapshot_download(
                name,
                allow_patterns=[*patterns],
                ignore_patterns=["*/*", "consolidated*"],
                local_files_only=unreachable is not None,
            )
        except LocalEntryNotFoundError as error:
            raise error from (unreachable or error.__cause__)
        return Path(folder)

    settings = ("*.json", "*.jinja", "*.txt", "*.model")
    if not weights:
        return fetch(*settings)
    folder = fetch(*settings, "*.safetensors")
    if any(folder.glob("*.safetensors")):
        return folder
    return fetch("*.bin")


def _unreachable_hub(name: str) -> Exception | None:
    """Ask the hub for a model; return why nothing answers, None = something does.

    An answer such as "no such model", and a machine that must not ask, are left to the download.
    """
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (OSError, ValueError):  # an answer
        return None
    except Exception as error:
        if not type(error).__module__.startswith("httpx"):  # httpx or httpx2, by the hub's version
            raise
        return error
    return None


def _answer_of_hub(error: OSError | ValueError) -> str:
    """Return what a hub says that did not give a model, or why it says nothing."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    cause = error.__cause__
    if isinstance(cause, OfflineModeIsEnabled):
        return "it is not in the hub's cache; the hub was not asked, because HF_HUB_OFFLINE is set"
    if not isinstance(error, LocalEntryNotFoundError) or cause is None:
        return f"the hub says: {one_line(error)}"
    if isinstance(cause, HfHubHTTPError):
        return f"the hub says: {one_line(cause)}"
    return (
        f"it is not in the hub's cache, and the hub at {constants.ENDPOINT} cannot be reached: "
        f"{type(cause).__name__}: {one_line(cause)}"
    )


def _problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with a model's files, causes before their consequences.

    Later checks rely on the earlier ones: read the first problem only.
    """
    if not (folder / "config.json").is_file():
        yield _describe_other_folder(folder)
    for name in ("config.json", *PROCESSORS, *TOKENIZERS, *OTHERS):
        problem = _unreadable(folder / name)
        if problem:
            yield problem
    config = json.loads((folder / "config.json").read_text())
    if (folder / ADAPTER).exists():
        yield (
            f"has a LoRA adapter beside its model ({ADAPTER}): transformers would train and save "
            f"only the adapter. {_how_to_merge(folder)}"
        )
    yield from _quantisation_problems(config)
    yield from family_problems(config)
    yield from _weight_problems(folder)
    if not any((folder / name).exists() for name in PROCESSORS):
        yield f"has no processor ({' or '.join(PROCESSORS)}); copy it from the base model's folder"
    if not any((folder / name).exists() for name in TOKENIZERS):
        yield (
            "has no tokenizer (tokenizer.json or the like); copy its tokenizer files from the base "
            "model's folder"
        )


def _describe_other_folder(folder: Path) -> str:
    """Describe a folder without config.json, and where the model may be."""
    if (folder / ADAPTER).exists():
        return f"is a LoRA adapter without its model. {_how_to_merge(folder)}"
    checkpoints = [*folder.glob("*/policy/config.json"), *folder.glob("*/*/policy/config.json")]
    if checkpoints:  # checkpoints/ of a run, or a run folder of which a file is missing
        return f"is no model, it holds some; its newest checkpoint is {max(checkpoints).parents[1]}"
    if any(folder.glob("*.gguf")):
        return (
            "holds GGUF files, which are quantised and cannot be trained; use the checkpoint that "
            "they were made from"
        )
    return f"has no config.json, so it is no model; it holds {_listed(folder)}"


def _how_to_merge(folder: Path) -> str:
    """Describe how to merge a LoRA adapter into its base model, which is named if it is known."""
    try:
        base = json.loads((folder / ADAPTER).read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    name = f" ({base})" if base else ""
    return (
        f"Merge it into its base model{name} first: "
        "peft.PeftModel.from_pretrained(base, "
        "adapter).merge_and_unload().save_pretrained(folder), with the base's processor beside it"
    )


def _quantisation_problems(config: dict[str, Any]) -> Iterator[str]:
    """Yield the problem of a model, or of a language model in it, that is quantised."""
    quantised = config.get("quantization_config")
    text = config.get("text_config")
    if not quantised and isinstance(text, dict):
        quantised = text.get("quantization_config")
    if not quantised:
        return
    method = "unknown method"
    if isinstance(quantised, dict):
        method = quantised.get("quant_method", method)
    yield (
        f"is quantised ({method}), so its weights cannot be trained; use the checkpoint that it "
        "was made from"
    )


def family_problems(config: dict[str, Any]) -> Iterator[str]:
    """Yield the problem of a model of another family, or without a vision tower."""
    family = config.get("model_type")
    if family in SUPPORTED:
        if not isinstance(config.get("vision_config"), dict):
            yield (
                "has no vision_config in its config.json; copy config.json from the model that its "
                "weights are of"
            )
        return
    if not family:
        yield "has no model_type in its config.json"
        return
    own_code = ""
    if "auto_map" in config:
        own_code = "; it needs code of its own (auto_map), which is never run"
    yield f"is a {family}{own_code}; expected one of {', '.join(SUPPORTED)}"


def _weight_problems(folder: Path) -> Iterator[str]:
    """Yield the problems of weight files: missing, Git LFS pointers, or cut."""
    name = _weights_name(folder)
    if name is None:
        yield (
            f"has no weights; expected {WHOLE_WEIGHTS[0]} or shards with {WHOLE_WEIGHTS[1]}; it "
            f"holds {_listed(folder)}"
        )
        return
    if not name.endswith(".index.json"):
        yield from _file_problems(folder / name)
        return
    problem = _unreadable(folder / name)
    if problem:
        yield problem
        return
    weight_map = json.loads((folder / name).read_text()).get("weight_map")
    shards: list[str] = []
    if isinstance(weight_map, dict):  # from the name of each tensor to its file
        shards = sorted({str(shard) for shard in weight_map.values()})
    if not shards:
        yield f"has no weights: {name} names no files; download it again"
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        yield (
            f"lacks {len(missing)} of the {len(shards)} weight files that {name} names, first "
            f"{missing[0]}; download them again"
        )
    for shard in shards:
        yield from _file_problems(folder / shard)


def _weights_name(folder: Path) -> str | None:
    """Return the name of the file that transformers would read weights from; None = there is none.

    A broken link counts: it is the reason why the weights are missing.
    """
    for name in WHOLE_WEIGHTS:
        path = folder / name
        if path.exists() or path.is_symlink():
            return name
    return None


def _file_problems(weights: Path) -> Iterator[str]:
    """Yield the reasons why one weight file cannot be complete."""
    if not weights.exists():
        yield f"{weights.name} is a link to nothing; download it again"
        return
    size = weights.stat().st_size
    with weights.open("rb") as file:
        start = file.read(len(_POINTER))
        if start == _POINTER:
            yield _pointer(weights)
        elif weights.suffix == ".safetensors":
            yield from _safetensors_problems(weights.name, file, size)
        elif not (is_zipfile(file) or start.startswith(_OLD_PICKLE)):
            yield f"{weights.name} is cut or damaged ({size:,} bytes, no end); download it again"


def _safetensors_problems(name: str, file: BinaryIO, size: int) -> Iterator[str]:
    """Yield the problems of a safetensors file, from its header and its size in bytes."""
    types, expected_size = _header(file, size)
    # 8 bytes hold the length of the header. A file of the right size with an unreadable header is
    # not cut, it is something else.
    if not types and size > 8 and size >= expected_size:
        yield (
            f"{name} is no safetensors file, or damaged: its header cannot be read; "
            "download it again"
        )
    if size != expected_size:
        yield (
            f"{name} is cut or damaged ({size:,} bytes, its header promises {expected_size:,}); "
            "download it again"
        )
    for tensor, dtype in types.items():
        if dtype.startswith(_QUANTISED):
            yield (
                f"{tensor} is stored as {dtype}: quantised, so it cannot be trained; "
                "use what it was made from"
            )
            return


def _header(file: BinaryIO, size: int) -> tuple[dict[str, str], int]:
    """Read the header of a safetensors file.

    The format is: 8 bytes with the length of the header, the header as JSON, the tensors.

    Returns:
        The type of each tensor (none if the header cannot be read), and the size in bytes that the
        file must have.
    """
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > size:
        return {}, 8 + length
    types: dict[str, str] = {}
    end = 0  # of the last tensor, from the end of the header
    try:
        for name, entry in json.loads(file.read(length)).items():
            if name == "__metadata__":
                continue
            end = max(end, entry["data_offsets"][1])
            types[name] = entry["dtype"]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):  # no header at all
        return {}, 8 + length
    return types, 8 + length + end


def _unreadable(path: Path) -> str:
    """Return why a JSON or vocabulary file cannot be read; empty = it can, or does not exist."""
    if not path.exists():
        if path.is_symlink():
            return f"{path.name} is a link to nothing; download it again"
        return ""
    content = path.read_bytes()
    if content.startswith(_POINTER):
        return _pointer(path)
    if path.suffix != ".json":
        return "" if content else f"{path.name} is empty; download it again"
    try:
        # Strictly as UTF-8: transformers cannot read a file with a byte order mark.
        plain = json.loads(content.decode())
    except ValueError as error:
        return f"{path.name} is not JSON ({error}): cut or damaged; download it again"
    if isinstance(plain, dict):
        return ""
    return f"{path.name} holds a {type(plain).__name__}, expected a mapping; download it again"


def _pointer(path: Path) -> str:
    """Describe a file that Git LFS has not replaced by its content."""
    return (
        f"{path.name} is a Git LFS pointer, not the file itself; run `git lfs pull` there, or "
        "download it again"
    )


def _listed(folder: Path) -> str:
    """List the first few names in a folder."""
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return "nothing"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
