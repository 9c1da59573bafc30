"""Checkpoints: nothing half-written is taken as whole, what was whole stays so, and what is read
is what was written."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl import run_folder
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.training import checkpoint
from gpg_vl.training.checkpoint import State
from gpg_vl.types import Group, Prompt, Verdict
from tests.hand_made import completion, prompt

STATE = State(step=7, cursor=56, version=5, idle=2, unusable=3, bad=1)


def group(number: int) -> Group:
    """Two answers that differ in everything."""
    completions = [
        completion((number, 2, 3), (-0.1, -0.2, -0.3), text="left", version=4),
        completion((9,), (-1.5,), text="right", finish="length", version=5),
    ]
    verdicts = [
        Verdict(reward=0.75, parts={"accuracy": 0.5, "format": 1.0}, answer="3", reason="wrong"),
        Verdict(reward=1.0, parts={}, answer="4", reason="right"),
    ]
    return Group(
        prompt=prompt(number),
        completions=tuple(completions),
        verdicts=tuple(verdicts),
        prompt_index=number,
    )


def processes(rank: int = 0, every: list[Any] | None = None, count: int | None = None) -> Any:
    """One process of several; the values of all of them are given."""
    count = count or (len(every) if every else 1)
    return SimpleNamespace(rank=rank, count=count, all_gather=lambda own: every or [own])


class Writer:
    """Stands for policy and learner: writes known files, or fails at one of them."""

    def __init__(self, words: str = "new", fails: bool = False) -> None:
        self.words, self.fails = words, fails

    def save(self, folder: Path) -> None:
        (folder / "shards").mkdir(parents=True)
        (folder / "config.json").write_text(self.words)
        if self.fails:
            raise OSError(28, "No space left on device")
        (folder / "shards" / "model.safetensors").write_text(self.words)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": torch.arange(3.0), "words": self.words}


def save(
    run: Path, step: int, words: str = "new", *, score: float | None = None, fails: bool = False
) -> Path:
    state = {**checkpoint.state_row(replace(STATE, step=step), processes()), "score": score}
    policy: Any = Writer(words, fails)
    learner: Any = Writer(words)
    return checkpoint.save(run, step, state, policy, learner, f"card of {words}")


def test_a_checkpoint_that_is_saved_again_is_there_while_the_old_one_is_deleted(
    tmp_path, monkeypatch
):
    """Which takes seconds: a second Ctrl-C comes just then."""
    save(tmp_path, 7, "old")
    original = checkpoint.shutil.rmtree

    def killed(path: Path, **more: Any) -> None:
        if path.name == "000007.dropped" and path.exists():
            raise KeyboardInterrupt
        original(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 7, "new")
    assert names(tmp_path) == ["000007"]
    card = tmp_path / "checkpoints" / "000007" / "policy" / "README.md"
    assert card.read_text() == "card of new"
    checkpoint.prune(tmp_path, keep_last=1, keep_best=0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000007"]


def names(run: Path) -> list[str]:
    return [path.name for path in run_folder.complete_checkpoints(run)]


def below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- written aside --------------------------------------------------------------------------------

FILES = {
    "policy",
    "policy/shards",
    "policy/shards/model.safetensors",
    "policy/config.json",
    "policy/README.md",
}
FILES |= {"learner", "learner/optimizer.pt", "state.json"}


def test_a_checkpoint_holds_policy_card_optimizer_and_state(tmp_path):
    path = save(tmp_path, 50, score=0.5)
    assert path == tmp_path / "checkpoints" / "000050"
    assert below(path) == FILES
    assert (path / "policy" / "README.md").read_text() == "card of new"
    assert torch.load(path / "learner" / "optimizer.pt", weights_only=True)["words"] == "new"
    hand = {
        "step": 50,
        "cursor": 56,
        "version": 5,
        "idle": 2,
        "lost": 3,
        "bad": 1,
        "carried": [[]],
        "score": 0.5,
    }
    assert json.loads((path / "state.json").read_text()) == hand


def test_everything_is_on_the_disk_before_its_name_says_so(tmp_path, monkeypatch):
    """The order of events: every file and folder is flushed, then the folder gets its name, then
    that name is flushed."""
    events: list[tuple[str, str]] = []
    paths: dict[int, str] = {}
    opening, rename = os.open, Path.rename

    def opened(path: Any, flags: int, *more: Any) -> int:
        handle = opening(path, flags, *more)
        paths[handle] = str(Path(path).relative_to(tmp_path / "checkpoints"))
        return handle

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(("flushed", paths[handle])))
    monkeypatch.setattr(
        Path, "rename", lambda self, to: [events.append(("named", to.name)), rename(self, to)][1]
    )
    save(tmp_path, 3)
    at = events.index(("named", "000003"))
    before, after = events[:at], events[at + 1 :]
    assert {name for _, name in before} == {
        "000003.part",
        *(f"000003.part/{name}" for name in FILES),
    }
    assert ("flushed", ".") in after


def test_handles_are_given_back(tmp_path, monkeypatch):
    opened, closed, opening, closing = list[int](), list[int](), os.open, os.close
    monkeypatch.setattr(
        os,
        "open",
        lambda *given, **more: [opened.append(handle := opening(*given, **more)), handle][1],
    )
    monkeypatch.setattr(os, "close", lambda handle: [closed.append(handle), closing(handle)][1])
    save(tmp_path, 3)
    assert opened
    assert sorted(closed) == sorted(opened)


@pytest.mark.parametrize("broken", ["weights", "card", "optimizer", "state", "flush"])
def test_a_writer_that_fails_leaves_the_older_checkpoint_and_the_next_one_is_whole(
    broken, tmp_path, monkeypatch
):
    save(tmp_path, 1, "old")
    save(tmp_path, 2, "older")
    full = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        if broken == "optimizer":
            patch.setattr(
                torch,
                "save",
                lambda what, where: [
                    Path(where).write_bytes(b"half"),
                    exec("raise OSError(28, 'full')"),
                ],
            )
        if broken == "flush":
            patch.setattr(os, "fsync", lambda handle: exec("raise OSError(28, 'full')"))
        if broken in ("card", "state"):
            write, name = Path.write_text, {"card": "README.md", "state": "state.json"}[broken]

            def half(self: Path, words: str, **more: Any) -> int:
                if self.name == name:
                    write(self, words[: len(words) // 2])
                    raise full
                return write(self, words, **more)

            patch.setattr(Path, "write_text", half)
        for step in (2, 3):
            with pytest.raises(OSError, match=r"No space|full"):
                save(tmp_path, step, "new", fails=broken == "weights")
    assert names(tmp_path) == ["000001", "000002"]
    assert run_folder.newest_checkpoint(tmp_path).name == "000002"
    assert (tmp_path / "checkpoints" / "000002" / "policy" / "config.json").read_text() == "older"
    assert below(tmp_path / "checkpoints" / "000002") == FILES
    save(tmp_path, 3, "new")
    assert names(tmp_path) == ["000001", "000002", "000003"]
    assert (run_folder.newest_checkpoint(tmp_path) / "policy" / "config.json").read_text() == "new"


def test_what_lay_half_written_is_no_part_of_the_next(tmp_path):
    left = tmp_path / "checkpoints" / "000003.part"
    (left / "policy").mkdir(parents=True)
    (left / "policy" / "of_another_day").write_text("")
    (left / "state.json").write_text("{}")
    assert below(save(tmp_path, 3)) == FILES
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"000003"}


def test_a_step_that_is_saved_again_is_replaced_whole(tmp_path):
    (save(tmp_path, 3, "old") / "policy" / "old_shard").write_text("")
    assert below(save(tmp_path, 3, "new")) == FILES
    assert (run_folder.newest_checkpoint(tmp_path) / "policy" / "config.json").read_text() == "new"


def test_only_numbered_folders_with_a_state_are_whole_and_the_newest_is_the_last_step(tmp_path):
    for name in ("000010", "000009", "000100", "000020.part", "000020.old", "best", "policy"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "state.json").write_text("{}")
    (tmp_path / "checkpoints" / "000200" / "policy").mkdir(parents=True)
    assert names(tmp_path) == ["000009", "000010", "000100"]
    assert run_folder.newest_checkpoint(tmp_path).name == "000100"


def test_a_run_without_a_checkpoint_has_a_sentence(tmp_path):
    (tmp_path / "checkpoints" / "000001.part").mkdir(parents=True)
    (tmp_path / "checkpoints" / "000001.part" / "state.json").write_text("{}")
    with pytest.raises(UserError, match="holds no checkpoint to resume from"):
        run_folder.newest_checkpoint(tmp_path)
    assert run_folder.complete_checkpoints(tmp_path / "nowhere") == []


# --- what is kept ---------------------------------------------------------------------------------

SCORES = {1: 0.2, 2: 0.9, 3: None, 4: 0.9, 5: 0.5, 6: None}


@pytest.mark.parametrize(
    ("last", "best", "kept"),
    [
        (1, 0, [6]),
        (2, 0, [5, 6]),
        (1, 1, [4, 6]),  # of equal scores the later one
        (1, 2, [2, 4, 6]),
        (1, 3, [2, 4, 5, 6]),
        (2, 3, [2, 4, 5, 6]),
        (3, 1, [4, 5, 6]),
        (1, 9, [1, 2, 4, 5, 6]),  # what has no score is not among the best
        (9, 0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_newest_and_the_best_are_kept(last, best, kept, tmp_path):
    for step, score in SCORES.items():
        folder = tmp_path / "checkpoints" / f"{step:06d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"score": score}))
    (tmp_path / "checkpoints" / "000007.part").mkdir()
    checkpoint.prune(tmp_path, keep_last=last, keep_best=best)
    assert names(tmp_path) == [f"{step:06d}" for step in kept]
    assert (tmp_path / "checkpoints" / "000007.part").exists(), "somebody may be writing there"


# --- read again -----------------------------------------------------------------------------------


def written(folder: Path, state: State, groups_by_rank: list[list[Group]]) -> Path:
    """A state.json of several processes."""
    rows = [
        json.loads(
            json.dumps(checkpoint.state_row(State(carried=tuple(own)), processes())["carried"][0])
        )
        for own in groups_by_rank
    ]
    row = {**checkpoint.state_row(state, processes(every=rows)), "score": 0.5}
    (folder / "state.json").write_text(json.dumps(row))
    return folder


def test_a_run_begins_with_nothing_done():
    assert State() == State(step=0, cursor=0, version=0, idle=0, unusable=0, bad=0, carried=())


def test_a_state_comes_back_field_by_field(tmp_path):
    assert checkpoint.load_state(written(tmp_path, STATE, [[]]), prompt, processes()) == STATE


def test_every_process_gets_its_own_waiting_groups_back(tmp_path):
    path = written(tmp_path, STATE, [[group(11)], [group(12), group(13)], []])
    for rank, indices in enumerate(([11], [12, 13], [])):
        state = checkpoint.load_state(path, prompt, processes(rank, count=3))
        assert [it.prompt_index for it in state.carried] == indices
        assert [it.prompt.sample.id for it in state.carried] == [f"q{index}" for index in indices]
        assert replace(state, carried=()) == STATE
        for found in state.carried:
            assert (found.completions, found.verdicts) == (
                group(found.prompt_index).completions,
                group(found.prompt_index).verdicts,
            )
            assert isinstance(found.completions[0].token_ids, tuple)
            assert isinstance(found.completions[0].logprobs, tuple)


def test_a_waiting_group_whose_picture_has_vanished_is_left_out(tmp_path):
    def some(index: int) -> Prompt:
        if index == 11:
            raise UnusableSampleError("image a.png cannot be read")
        return prompt(index)

    path = written(tmp_path, STATE, [[group(11), group(12)]])
    lines: list[str] = []
    state = checkpoint.load_state(path, some, processes(), lines.append)
    assert [it.prompt_index for it in state.carried] == [12]
    assert lines == [
        "warning: a group that waited for the next step is left out: image a.png cannot be read"
    ]


@pytest.mark.parametrize("count", [1, 3])
def test_groups_that_wait_for_two_processes_cannot_be_dealt_to_others(count, tmp_path):
    path = written(tmp_path, STATE, [[], [group(12)]])
    with pytest.raises(
        UserError, match=f"its carried groups belong to 2 processes, got {count}; start as many"
    ):
        checkpoint.load_state(path, prompt, processes(count=count))


@pytest.mark.parametrize(("rank", "count"), [(0, 1), (2, 3)])
def test_where_none_waits_the_number_of_processes_may_change(rank, count, tmp_path):
    path = written(tmp_path, STATE, [[], []])
    assert checkpoint.load_state(path, prompt, processes(rank, count=count)).carried == ()


def test_the_learner_is_given_what_was_saved_and_whether_all_is_as_it_was(tmp_path):
    path, given = save(tmp_path, 1, "moments"), []
    learner: Any = SimpleNamespace(
        load_state_dict=lambda saved, *, unchanged: given.append((saved["words"], unchanged))
    )
    checkpoint.load_learner(path, learner, unchanged=True)
    checkpoint.load_learner(path, learner, unchanged=False)
    assert given == [("moments", True), ("moments", False)]


class Trap:
    """What a file of somebody else's may hold: to be unpickled is to be obeyed."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> Any:
        return (Path.touch, (self.touched,))


def test_the_words_of_an_optimizer_file_are_never_obeyed(tmp_path):
    path = save(tmp_path, 1)
    torch.save({"moments": Trap(tmp_path / "obeyed")}, path / "learner" / "optimizer.pt")
    learner: Any = SimpleNamespace(load_state_dict=lambda saved, *, unchanged: None)
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load_learner(path, learner, unchanged=True)
    assert not (tmp_path / "obeyed").exists()
