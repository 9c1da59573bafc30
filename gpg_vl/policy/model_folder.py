"""Find the folder of a model, or fetch it from the hub, and check its files.

The check reads no tensor: only names, sizes, JSON files and headers. It reports one problem in one
sentence. Problems that only loading can find (tensors that are missing or have another shape) are
reported by `load`. The name may be that of a LoRA adapter: then its base model is found too.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from gpg_vl.config.models import find, hint
from gpg_vl.errors import UserError, one_line, shown
from gpg_vl.policy import adapter_files
from gpg_vl.policy.adapter_files import AdapterFiles, is_adapter
from gpg_vl.policy.tensor_files import read_header

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
_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Data type as safetensors writes it -> its name."""
_DIGEST_BYTES = 1 << 14
"""Bytes of each tensor that a digest covers."""
_DIGEST_PLACES = 256
"""Places in a file of weights older than safetensors that a digest covers."""
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
"""Data type -> bytes of a number."""
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
LAW = ("LICENSE", "NOTICE", "COPYING")
"""Beginnings of the names of files that go wherever a model goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model on this machine, and its adapter."""

    name: str
    """Name under which the model without its adapter is found again: an absolute path or a hub
    id."""
    folder: Path
    """Folder of the model without its adapter."""
    adapter: AdapterFiles | None = None
    """Adapter that belongs on the model; None = there is none."""

    @property
    def processor_folder(self) -> Path:
        """Folder of the processor: that of the adapter if it holds one."""
        if self.adapter is None or missing_processor(self.adapter.folder):
            return self.folder
        has_family = (self.adapter.folder / "config.json").is_file()
        return self.adapter.folder if has_family else self.folder


def find_model(name: str, key: str = "policy.model") -> ModelFiles:
    """Find a model and check its files.

    Args:
        name: a run, a checkpoint, a folder of a model or of an adapter, or a hub id, which is
            fetched (or read from the hub's cache where the machine is offline).
        key: config key that messages begin with.

    Raises:
        UserError: there is no such model, or its files cannot be trained.
    """
    folder = locate(name, key)
    if not is_adapter(folder):
        _check(folder, key)
        return ModelFiles(name=find(name, key).name, folder=folder)
    adapter = adapter_files.read(folder, key)
    if _weights_name(folder) is not None:  # a whole model, and an adapter of it beside
        _check(folder, key)
        check_base(adapter, folder, key)
        return ModelFiles(name=str(folder.resolve()), folder=folder, adapter=adapter)
    base_name = name_of_base(adapter, key)
    try:
        base = locate(base_name, f"{key}: {folder}: its base model")
    except UserError as error:
        raise UserError(
            f"{error}; if it has moved, write its place into {adapter_files.SETTINGS} as "
            "base_model_name_or_path"
        ) from None
    if is_adapter(base) and _weights_name(base) is None:
        raise UserError(
            f"{key}: {folder}: its base model {base} is an adapter itself; merge that one first "
            "(gpg-vl export --merged)"
        )
    _check(base, key)
    check_base(adapter, base, key)
    return ModelFiles(name=find(base_name, key).name, folder=base, adapter=adapter)


def name_of_base(adapter: AdapterFiles, key: str) -> str:
    """Return the name of the base model of an adapter, to be found from the working directory.

    Raises:
        UserError: the adapter names none, or one revision of a model on the hub.
    """
    if adapter.has_own_base:
        return str(adapter.folder / adapter.base)
    revision = adapter.settings.get("revision") or "main"
    if revision != "main" and adapter.base and not is_here(adapter.base):
        raise UserError(
            f"{key}: {adapter.folder}: was trained on revision {shown(revision)} of {adapter.base},"
            f" and names on the hub mean its newest; fetch that one (hf download {adapter.base} "
            f"--revision {revision} --local-dir FOLDER), write FOLDER as base_model_name_or_path "
            f"into {adapter_files.SETTINGS}, and remove its revision"
        )
    if adapter.base:
        return adapter.base
    raise UserError(
        f"{key}: {adapter.folder}: its {adapter_files.SETTINGS} names no base model; write its "
        "folder or hub id there as base_model_name_or_path"
    )


def _check(folder: Path, key: str) -> None:
    """Refuse a folder whose model cannot be trained."""
    problem = next(_problems(folder), None)
    if problem is not None:
        raise UserError(f"{key}: {folder}: {problem}")


def check_base(adapter: AdapterFiles, base: Path, key: str) -> None:
    """Refuse a base model whose weights are not those that an adapter was trained on.

    Only adapters that gpg_vl saved tell their weights; for others names and shapes are compared
    later.

    Args:
        base: folder of a model that was checked.

    Raises:
        UserError: they are others.
    """
    begun = adapter.about_base.get("weights")
    if begun and begun != weights_digest(base):
        raise UserError(
            f"{key}: {adapter.folder}: its adapter was trained on other weights than those in "
            f"{base}; give the base model that it began with, in that folder"
        )


def weights_digest(folder: Path) -> str:
    """Return a digest of the weights of a model that was checked.

    It covers the name, the type and the shape of each tensor and some of its bytes: a training may
    have changed a few tensors only. In how many files they lie makes no difference. Files of
    weights older than safetensors are covered by their names, their sizes and some bytes.
    """
    digests: dict[str, bytes] = {}
    for path in _weight_files(folder):
        with path.open("rb") as file:
            for about, start, end in _samples(path):
                file.seek(start)
                digests[about] = hashlib.sha256(file.read(end - start)).digest()
    hasher = hashlib.sha256()
    for about in sorted(digests):
        hasher.update(about.encode() + digests[about])
    return hasher.hexdigest()[:16]


def _samples(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield samples of a weight file: the middle of each tensor, or places at equal distances where
    no tensor is known.

    Yields:
        What it is of, and the places where it begins and ends.
    """
    if path.suffix == ".safetensors":
        for name, tensor in read_header(path).tensors.items():
            # never beyond its ends, where other tensors may lie
            middle, half = (tensor.start + tensor.end) // 2, _DIGEST_BYTES // 2
            start, end = max(tensor.start, middle - half), min(tensor.end, middle + half)
            yield f"{name} {tensor.dtype} {tensor.shape}", start, end
        return
    size = path.stat().st_size
    for number in range(_DIGEST_PLACES):
        start = size * number // _DIGEST_PLACES
        yield f"{path.name} {size} {number}", start, min(size, start + _DIGEST_BYTES)


def missing_processor(folder: Path) -> str:
    """Return what of a processor a folder lacks; empty = nothing."""
    if not any((folder / name).exists() for name in PROCESSORS):
        return f"has no processor ({' or '.join(PROCESSORS)}); copy it from the base model's folder"
    if not any((folder / name).exists() for name in TOKENIZERS):
        return (
            "has no tokenizer (tokenizer.json or the like); copy its tokenizer files from the base "
            "model's folder"
        )
    return ""


def holds_weights(folder: Path) -> bool:
    """Return True if a folder holds the weights of a whole model."""
    return _weights_name(folder) is not None


def numbers_by_type(folder: Path) -> Counter[str]:
    """Count the numbers of each data type in the weight files of a model that was checked.

    Files of weights older than safetensors do not tell the type: there it is that of config.json.
    """
    counts: Counter[str] = Counter()
    for path in _weight_files(folder):
        if path.suffix == ".safetensors":
            counts += tensor_types(path)
            continue
        config: Any = json.loads((folder / "config.json").read_text())
        kind = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        counts[kind] += path.stat().st_size // BYTES.get(kind, 4)
    return counts


def tensor_types(path: Path) -> Counter[str]:
    """Count the numbers of each data type in a safetensors file."""
    counts: Counter[str] = Counter()
    for tensor in read_header(path).tensors.values():
        counts[_TYPES.get(tensor.dtype, tensor.dtype)] += prod(tensor.shape)
    return counts


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model that was checked."""
    name = _weights_name(folder)
    assert name is not None
    if not name.endswith(".index.json"):
        return [folder / name]
    weight_map = json.loads((folder / name).read_text())["weight_map"]
    return [folder / shard for shard in sorted(set(weight_map.values()))]


def adapter_here(name: str, key: str = "policy.model") -> AdapterFiles | None:
    """Return the adapter that a model's name means; None = it means none, or one on the hub.

    Raises:
        UserError: the adapter cannot be read.
    """
    folder = find(name, key).folder
    if folder is None or not is_adapter(folder):
        return None
    return adapter_files.read(folder, key)


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
        folder = locate(name, key, weights=False)
        file = folder / "config.json"
        if is_adapter(folder) and not file.is_file():
            # of an adapter on the hub, the tensors are fetched only with the weights
            base_name = name_of_base(adapter_files.read_settings(folder, key), key)
            file = locate(base_name, key, weights=False) / "config.json"
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
    settings += (*LAW, "LICENSE.md")
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
    yield from _quantisation_problems(config)
    yield from family_problems(config)
    yield from _weight_problems(folder)
    problem = missing_processor(folder)
    if problem:
        yield problem


def _describe_other_folder(folder: Path) -> str:
    """Describe a folder without config.json, and where the model may be."""
    checkpoints = [*folder.glob("*/policy/config.json"), *folder.glob("*/*/policy/config.json")]
    if checkpoints:  # checkpoints/ of a run, or a run folder of which a file is missing
        return f"is no model, it holds some; its newest checkpoint is {max(checkpoints).parents[1]}"
    if any(folder.glob("*.gguf")):
        return (
            "holds GGUF files, which are quantised and cannot be trained; use the checkpoint that "
            "they were made from"
        )
    return f"has no config.json, so it is no model; it holds {_listed(folder)}"


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
            yield from _safetensors_problems(weights)
        elif not (is_zipfile(file) or start.startswith(_OLD_PICKLE)):
            yield f"{weights.name} is cut or damaged ({size:,} bytes, no end); download it again"


def _safetensors_problems(path: Path) -> Iterator[str]:
    """Yield the problems of a safetensors file, from its header and its size in bytes."""
    size = path.stat().st_size
    header = read_header(path)
    # 8 bytes hold the length of the header. A file of the right size with an unreadable header is
    # not cut, it is something else.
    if not header.tensors and size > 8 and size >= header.size:
        yield (
            f"{path.name} is no safetensors file, or damaged: its header cannot be read; "
            "download it again"
        )
    if size != header.size:
        yield (
            f"{path.name} is cut or damaged ({size:,} bytes, its header promises {header.size:,}); "
            "download it again"
        )
    for name, tensor in header.tensors.items():
        if tensor.dtype.startswith(_QUANTISED):
            yield (
                f"{name} is stored as {tensor.dtype}: quantised, so it cannot be trained; "
                "use what it was made from"
            )
            return


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
