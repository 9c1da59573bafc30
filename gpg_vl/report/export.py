"""Write a trained model as a folder that others load: an adapter, or one plain model.

The folder is written aside and renamed, so that an export that is killed leaves no half of one.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from gpg_vl.config import models
from gpg_vl.config.paths import (
    NO_SPACE,
    check_writable,
    expanded,
    folder_aside,
    is_folder,
    let_others_read,
)
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import UserError, shown
from gpg_vl.policy import adapter_files
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.model_folder import (
    BYTES,
    LAW,
    ModelFiles,
    find_model,
    holds_weights,
    locate,
    name_of_base,
    numbers_by_type,
    tensor_types,
)
from gpg_vl.policy.packages import check_packages_of
from gpg_vl.report.model_card import exported_card

Log = Callable[[str], None]

TYPES = ("bfloat16", "float32")
"""Data types that a model is exported in."""
_CARD = "README.md"
_COPIED = (".json", ".jinja", ".txt", ".model", ".safetensors", ".md")
"""Ends of the names of files that belong to a model."""
_SPARE = 1 << 20
"""Bytes for files beside the weights."""


def export(
    name: str, to: Path, *, merged: bool = False, dtype: str | None = None, log: Log = print
) -> Path:
    """Write the model of a name into a new folder, and return that folder.

    A model with adapters becomes an adapter that `peft.PeftModel.from_pretrained` loads onto its
    base model, or with `merged` one model that plain `from_pretrained` loads.

    Args:
        name: a run (its newest checkpoint), a checkpoint, a folder of a model or of an adapter, or
            a hub id.
        to: folder that does not exist, or is empty.
        merged: add the adapter to its base model; one that was trained on a base model in 4 bits is
            added to what these 4 bits stand for, because that was trained.
        dtype: data type of the tensors, bfloat16 | float32; None = as they are stored.
        log: called with lines for the user.

    Raises:
        UserError: there is no such model, or the folder cannot be written.
    """
    if dtype is not None and dtype not in TYPES:
        raise UserError(f"--dtype: got {shown(dtype)}, expected {' or '.join(TYPES)}")
    to = _new_folder(to)
    if name == models.TINY:
        raise UserError(f"{name} is made on the spot with random weights; name a run that began so")
    files = _find(name, merged=merged)
    origin = files.adapter.folder if files.adapter else files.folder
    _check_form(files, origin, merged=merged, log=log)
    _check_space(files, to, merged=merged, dtype=dtype)
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        with folder_aside(to.parent) as aside:
            made = aside / "model"
            made.mkdir()
            if files.adapter is not None and not merged:
                _copy_adapter(files.adapter, made, dtype)
            elif files.adapter is None and dtype is None:
                _copy(origin, made)
            else:
                _write_whole(origin, made, dtype or _stored_type(files.folder), log)
                for folder in dict.fromkeys((files.folder, origin)):
                    _copy_law(folder, made)
            _write_card(origin, made, merged=merged and files.adapter is not None)
            made.rename(to)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise UserError(
            f"--to {to}: the disk is full; nothing is left there. Choose another"
        ) from None
    for line in _summary(files, to, merged=merged):
        log(line)
    return to


def _find(name: str, *, merged: bool) -> ModelFiles:
    """Find what is exported; the base model of an adapter only if it is merged or lies inside."""
    if merged:
        return find_model(name, "export")
    folder = locate(name, "export")
    if not adapter_files.is_adapter(folder) or holds_weights(folder):
        return find_model(name, "export")
    adapter = adapter_files.read(folder, "export")
    if adapter.has_own_base:
        return find_model(name, "export")
    return ModelFiles(name=name_of_base(adapter, "export"), folder=folder, adapter=adapter)


def _new_folder(to: Path) -> Path:
    """Return the whole path of the folder that is written; refuse one that holds something."""
    to = expanded(str(to)).resolve()
    check_writable(to, "--to")
    for above in (to, *to.parents):
        if above.name == "checkpoints" and models.is_run(above.parent):
            raise UserError(
                f"--to {to}: is among the checkpoints of the run {above.parent}, which deletes old "
                "ones; choose another folder"
            )
    if is_folder(to) and any(to.iterdir()):
        raise UserError(f"--to {to}: holds something already; choose a new folder")
    return to


def _check_form(files: ModelFiles, origin: Path, *, merged: bool, log: Log) -> None:
    """Refuse a form that a model cannot be written in."""
    if files.adapter is None:
        if merged:
            log(f"{origin}: has no adapter to merge; it is one plain model as it is")
        return
    if merged:
        check_packages_of(files.adapter, "export")
    elif holds_weights(origin):
        raise UserError(
            f"export: {origin}: holds a whole model and an adapter on it, and other programs load "
            "one of them; add --merged"
        )


# --- space ----------------------------------------------------------------------------------------


def _check_space(files: ModelFiles, to: Path, *, merged: bool, dtype: str | None) -> None:
    """Refuse a disk that has not enough room."""
    existing = to
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    needed = _needed_bytes(files, merged=merged, dtype=dtype) + _SPARE
    if needed > free:
        smaller = ""
        if dtype != "bfloat16":
            smaller = ", or add --dtype bfloat16"
        raise UserError(
            f"--to {to}: needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there; make "
            f"room, choose another disk{smaller}"
        )


def _needed_bytes(files: ModelFiles, *, merged: bool, dtype: str | None) -> int:
    """Return the bytes of the weights that will be written."""
    if files.adapter is None or merged:
        return _bytes(files.folder, dtype)
    needed = (files.adapter.folder / adapter_files.TENSORS).stat().st_size
    if files.adapter.has_own_base:
        needed += _bytes(files.folder, None)
    return needed


def _bytes(folder: Path, dtype: str | None) -> int:
    """Return the bytes of a model's weights in a data type; None = as they are stored."""
    total = 0
    for kind, count in numbers_by_type(folder).items():
        total += count * BYTES.get(dtype or kind, 4)
    return total


def _stored_type(folder: Path) -> str:
    """Return the data type of most of a model's numbers."""
    ((kind, _),) = numbers_by_type(folder).most_common(1)
    return kind


# --- files ----------------------------------------------------------------------------------------


def _files_of(folder: Path) -> Iterator[Path]:
    """Yield the files of a model or an adapter; what a training left beside them is none."""
    is_safe = any(folder.glob("*.safetensors"))
    for path in sorted(folder.iterdir()):
        is_old_weights = path.name.startswith("pytorch_model") and not is_safe
        belongs = path.suffix in _COPIED or path.name.startswith(LAW) or is_old_weights
        if path.is_file() and belongs:
            yield path


def _copy(origin: Path, made: Path) -> None:
    for path in _files_of(origin):
        shutil.copyfile(path, made / path.name)


def _copy_adapter(adapter: AdapterFiles, made: Path, dtype: str | None) -> None:
    """Copy an adapter, and its base model if that lies in its folder."""
    _copy(adapter.folder, made)
    if adapter.has_own_base:
        (made / adapter.base).mkdir(parents=True)
        _copy(adapter.folder / adapter.base, made / adapter.base)
    if dtype is None:
        return
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter.folder / adapter_files.TENSORS)
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(getattr(torch, dtype))
    save_file(tensors, made / adapter_files.TENSORS, metadata={"format": "pt"})
    let_others_read(made)


def _write_whole(origin: Path, made: Path, dtype: str, log: Log) -> None:
    """Load a model, with its adapter merged if it has one, and write it in a data type."""
    import torch

    from gpg_vl.policy.load import load_policy

    # Half-size weights are loaded in half the memory, all others in the type of the sum.
    held = dtype if dtype in ("bfloat16", "float64") else "float32"
    config = PolicyConfig(
        model=str(origin),
        language="full",
        projector="full",
        vision="full",
        dtype=held,
        weights="bfloat16" if held == "bfloat16" else "float32",
        feature_cache_mb=0,
    )
    policy = load_policy(config, seed=0, log=log, key="export", by_chance=False)
    policy.model.to(getattr(torch, dtype))
    policy.save(made)


def _copy_law(origin: Path, made: Path) -> None:
    """Copy the terms under which a model or an adapter was given, beside others of that name."""
    for path in _files_of(origin):
        if path.name.startswith(LAW):
            target = made / path.name
            if target.exists():
                target = made / f"{path.name}.adapter"
            shutil.copyfile(path, target)


def _write_card(origin: Path, made: Path, *, merged: bool) -> None:
    """Let the model card say what the folder holds now."""
    card = origin / _CARD
    if not card.is_file():
        return
    form = "a whole model"
    if merged:
        form = "a whole model, with its LoRA adapter merged into the base model"
    elif adapter_files.is_adapter(made):
        form = "a LoRA adapter"
    form += f", in {_types_in_words(made)}"
    text = card.read_text(encoding="utf-8", errors="replace")
    (made / _CARD).write_text(exported_card(text, form, merged=merged), encoding="utf-8")


def _types_in_words(made: Path) -> str:
    """Return the data types of the tensors of a folder."""
    if adapter_files.is_adapter(made):
        return " and ".join(tensor_types(made / adapter_files.TENSORS))
    return " and ".join(numbers_by_type(made))


def _summary(files: ModelFiles, to: Path, *, merged: bool) -> Iterator[str]:
    """Yield lines on what was written, and on what else its users need."""
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) / 1e6
    adapter = files.adapter
    if adapter is None or merged:
        types = _types_in_words(to)
        yield f"exported: {to}: a whole model in {types}, {size:,.1f} MB"
        if adapter is not None and "bfloat16" in types:
            yield (
                "mind: sums in bfloat16 lose small changes of a weight, which much of an adapter "
                "may be; without --merged it is exact, and --dtype float32 keeps its digits"
            )
        return
    base = f"the model in its folder {adapter.base}" if adapter.has_own_base else files.name
    yield f"exported: {to}: an adapter of rank {adapter.rank} on {base}, {size:,.1f} MB"
    if adapter.has_own_base:
        return
    if Path(files.name).is_absolute():
        yield (
            f"mind: its base model is a folder of this machine, {files.name}; others need that "
            "model too, or export with --merged"
        )
