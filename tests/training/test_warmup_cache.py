"""Where a warmed-up policy is kept: what belongs to its path, and that it is whole or absent."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

from gpg_vl.config.schema import Config, Source
from gpg_vl.data.dataset import Dataset
from gpg_vl.policy import adapter_files
from gpg_vl.training import warmup_cache
from gpg_vl.types import Sample
from tests.adapted import LANGUAGE, tiny

ROW = Sample(id="a", question="?", answer_kind="number", answer=3)


def place(folder: Path, row: Sample = ROW, **more: Any) -> str:
    knobs = {"data": (Source(recipe="digits"),), "warmup": {"steps": 3}, "folder": "runs", **more}
    return warmup_cache.cache_path(Config(**knobs).at(folder), Dataset(((row,),), (1,), 0)).name


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": (Source(recipe="digits", weight=2),)},
        {"prompt": "answer"},
        {"policy": {"vision": "full"}},
        {"verifiers": {"number": "value"}},
        {"reward": {"format": 0.5}},
        {"warmup": {"steps": 4}},
        {"warmup": {"steps": 3, "batch_size": 7}},
        {"warmup": {"steps": 3, "optimizer": {"lr": 0.5}}},
        {"warmup": {"steps": 3, "data": [{"recipe": "digits"}]}},
        {"rollout": {"max_tokens": 7}},
        {"row": replace(ROW, solution="<think>so</think><answer>3</answer>")},
        {"row": replace(ROW, images=(b"picture",))},
    ],
    ids=str,
)
def test_another_warm_up_is_kept_elsewhere(change, tmp_path):
    assert place(tmp_path, **change) != place(tmp_path)


def test_what_a_warm_up_does_not_depend_on_finds_the_kept_one(tmp_path):
    for change in (
        {"name": "other"},
        {"steps": 7},
        {"estimator": "grpo"},
        {"rollout": {"group_size": 4}},
        {"optimizer": {"lr": 0.5}},
    ):
        assert place(tmp_path, **change) == place(tmp_path)
    own = Config(data=(Source(recipe="digits"),), folder=str(tmp_path / "mine"))
    found = warmup_cache.cache_path(own.at(tmp_path), Dataset(((ROW,),), (1,), 0))
    assert found.parent == tmp_path / "mine" / "warmups"
    assert len(found.name) == 12


def test_the_order_in_which_verifiers_are_named_is_no_difference(tmp_path):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(name)
    parts = {"number": "./two.py:Two", "box": "./one.py:One"}
    assert place(tmp_path, verifiers=parts) == place(
        tmp_path, verifiers=dict(reversed(parts.items()))
    )


def test_a_warm_up_of_another_release_is_not_used(tmp_path, monkeypatch):
    before = place(tmp_path)
    monkeypatch.setattr(warmup_cache, "__version__", "0.0.0")
    assert place(tmp_path) != before


@pytest.mark.parametrize(
    "named",
    [
        {"data": (Source(files="rows.jsonl"),)},
        {"data": (Source(recipe="./rows.jsonl:scenes"),)},
        {"data": (Source(recipe="digits", options={"deep": [{"er": "rows.jsonl"}]}),)},
        {"verifiers": {"number": {"kind": "./rows.jsonl:Mine"}}},
        {"prompt": "./rows.jsonl:Style"},
        {"warmup": {"steps": 3, "data": [{"files": "rows.jsonl"}]}},
    ],
    ids=str,
)
def test_a_file_that_is_named_anywhere_counts_by_its_content(named, tmp_path):
    (tmp_path / "rows.jsonl").write_text("one")
    before = place(tmp_path, **named)
    assert before == place(tmp_path, **named)
    (tmp_path / "rows.jsonl").write_text("two")
    assert place(tmp_path, **named) != before


def train(folder: Path) -> None:
    """Other weights in a file of the same size and time."""
    path = folder / "model.safetensors"
    before = path.stat()
    tensors = load_file(path)
    next(iter(tensors.values())).add_(1)
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def test_rows_of_a_pattern_and_a_model_that_is_trained_on_count_too(checkpoints, tmp_path):
    """The knobs stay the same where files behind them change."""
    (tmp_path / "a.png").write_bytes(b"one")
    model = Path(shutil.copytree(checkpoints("qwen2_5_vl"), tmp_path / "model"))
    shown = replace(ROW, images=(tmp_path / "a.png",))
    named = {"row": shown, "policy": {"model": str(model)}}
    seen = {place(tmp_path, **named)}
    (tmp_path / "a.png").write_bytes(b"another")
    seen.add(place(tmp_path, **named))
    (model / "generation_config.json").write_text('{"eos_token_id": 1}')
    seen.add(place(tmp_path, **named))
    train(model)
    seen.add(place(tmp_path, **named))
    assert len(seen) == 4


@pytest.mark.parametrize("is_on_hub", [False, True])
def test_the_base_model_of_an_adapter_counts_too(is_on_hub, checkpoints, tmp_path, monkeypatch):
    """It lies elsewhere, and the kept adapter is of use on that one alone."""
    base = Path(shutil.copytree(checkpoints("qwen2_5_vl"), tmp_path / "base"))
    folder, name = tmp_path / "adapter", str(tmp_path / "adapter")
    tiny(model=str(base), dtype="float32").save(folder)
    (folder / adapter_files.BASE).unlink()  # it was saved by another program
    if is_on_hub:
        name = "lab/adapter"
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    named = {"policy": {"model": name, **LANGUAGE}}
    seen = {place(tmp_path, **named), place(tmp_path, **named)}
    train(base)
    seen.add(place(tmp_path, **named))
    (folder / "adapter_config.json").touch()
    seen.add(place(tmp_path, **named))
    assert len(seen) == 3


class Weights:
    """Stands for a policy."""

    def __init__(self, words: str = "new", fails: bool = False) -> None:
        self.words, self.fails = words, fails

    def save(self, folder: Path) -> None:
        (folder / "model.safetensors").write_text(self.words[: 2 if self.fails else None])
        if self.fails:
            raise OSError(28, "No space left on device")
        (folder / "config.json").write_text(self.words)


def keep(kept: Path, words: str = "new", *, fails: bool = False) -> None:
    policy: Any = Weights(words, fails)
    warmup_cache.store(policy, kept)


def test_a_warm_up_is_written_beside_its_place(tmp_path):
    """On the same disk: only there a renaming is whole or not at all."""
    kept, where = tmp_path / "runs" / "warmups" / "abc", []
    policy: Any = SimpleNamespace(
        save=lambda folder: [where.append(folder), Weights().save(folder)]
    )
    warmup_cache.store(policy, kept)
    assert [folder.parent for folder in where] == [kept.parent]
    assert where[0].name.startswith("abc.")


def test_a_warm_up_is_kept_whole_or_not_at_all(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    assert not warmup_cache.is_cached(kept)
    with pytest.raises(OSError, match="No space"):
        keep(kept, fails=True)
    assert not warmup_cache.is_cached(kept)
    assert not kept.exists()
    keep(kept)
    assert warmup_cache.is_cached(kept)
    assert (kept / "model.safetensors").read_text() == "new"


def test_the_losses_of_a_warm_up_are_kept_with_it(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    rows = [{"time": "T", "warmup/step": 1, "warmup/loss": float("nan")}]
    policy: Any = Weights()
    warmup_cache.store(policy, kept, rows)
    assert warmup_cache.losses(kept) == [{"time": "T", "warmup/step": 1, "warmup/loss": None}]
    (kept / "warmup.jsonl").unlink()
    assert warmup_cache.losses(kept) == [], "kept by an older release"


def test_of_two_runs_the_faster_one_keeps_its_warm_up(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    keep(kept, "first")
    keep(kept, "second")
    assert (kept / "config.json").read_text() == "first"
    assert [path.name for path in kept.parent.iterdir()] == ["abc"], "nothing is left beside it"


def test_something_else_in_its_place_is_no_warm_up(tmp_path):
    kept = tmp_path / "warmups" / "abc"
    kept.mkdir(parents=True)
    (kept / "model.safetensors").write_text("half")
    assert not warmup_cache.is_cached(kept)
    with pytest.raises(OSError, match="not empty"):
        keep(kept)
