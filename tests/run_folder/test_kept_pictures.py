"""Pictures beside the rollouts: which are kept, each content once, within the bound, by all
processes together, and the same after a run was killed."""

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.run_folder import RunFolder, image_name
from gpg_vl.types import Sample
from tests.hand_made import group as scored
from tests.hand_made import prompt

PNG = b"\x89PNG\r\n"


def picture(number: int, size: int = 10) -> bytes:
    return PNG + bytes([number]) * (size - len(PNG))


def group(draw: int, *images: bytes | Path, informative: bool = False, sizes: Any = ()) -> Any:
    sample = Sample(
        id=f"q{draw}",
        source="rows.jsonl",
        question="?",
        answer_kind="number",
        answer=1,
        images=images,
        sizes=sizes,
    )
    asked = prompt(draw)
    object.__setattr__(asked, "sample", sample)
    return scored([1.0, 0.0 if informative else 1.0], asked=asked, draw=draw)


def kept(run: Path) -> set[str]:
    return {path.name for path in (run / "images").glob("*")}


def begun(run: Path, **options: Any) -> RunFolder:
    run.mkdir(exist_ok=True)
    folder = RunFolder(run, **options)
    folder.begin()
    return folder


def images_of(run: Path, step: int) -> dict[int, list[dict[str, Any]]]:
    rows: dict[int, list[dict[str, Any]]] = {}
    for path in (run / "rollouts").glob(f"{step:06d}*"):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            row = json.loads(line)
            rows[row["draw"]] = row["images"]
    return rows


ONE, TWO, THREE = picture(1), picture(2), picture(3)


@pytest.mark.parametrize(
    ("choice", "draws"), [("all", {3, 5, 8}), ("informative", {5}), ("sample", {3, 5})]
)
def test_the_pictures_of_the_groups_that_are_chosen_are_kept(choice, draws, tmp_path):
    """The order of a step is that of its prompts, not that in which groups are handed over."""
    shown = {8: ONE, 3: TWO, 5: THREE}
    groups = [group(draw, shown[draw], informative=draw == 5) for draw in shown]
    begun(tmp_path, pictures=choice).rollouts(1, [], groups)
    assert kept(tmp_path) == {image_name(shown[draw]) for draw in draws}
    for draw, (image,) in images_of(tmp_path, 1).items():
        if draw in draws:
            assert image == {"file": f"images/{image_name(shown[draw])}"}
            assert (tmp_path / image["file"]).read_bytes() == shown[draw]
        else:
            assert image == {"file": None, "why": f"run_folder.pictures = {choice}"}


def test_files_are_kept_as_bytes_are_and_their_path_stays(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(ONE)
    (tmp_path / "b.png").write_bytes(ONE)
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    begun(run).rollouts(
        1,
        [],
        [
            group(0, Path("a.png"), tmp_path / "b.png", sizes=((4, 3), (4, 3))),
            group(1, ONE),
            group(2, tmp_path / "b.png"),
            group(3, tmp_path / "c.png"),
        ],
    )
    assert kept(run) == {image_name(ONE)}, "one content"
    name = f"images/{image_name(ONE)}"
    assert images_of(run, 1) == {
        0: [
            {"file": name, "original": str(tmp_path / "a.png"), "size": [4, 3]},
            {"file": name, "original": str(tmp_path / "b.png"), "size": [4, 3]},
        ],
        1: [{"file": name}],
        # its group is not among the two, and its content is there all the same
        2: [{"file": name, "original": str(tmp_path / "b.png")}],
        3: [
            {
                "file": None,
                "original": str(tmp_path / "c.png"),
                "why": "it cannot be read any more",
            }
        ],
    }


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(ONE)
    read: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or read_bytes(self))
    run = tmp_path / "run"
    folder = begun(run, pictures_mb=0)
    for step in (1, 2, 3):
        folder.rollouts(step, [], [group(step, path)])
    assert read == [path]
    path.write_bytes(picture(2, size=11))
    folder.rollouts(4, [], [group(4, path)])
    assert read == [path, path]


def test_what_does_not_fit_is_not_kept_and_that_is_said_once(tmp_path):
    """25 bytes: the first two of ten fit, not the third; a smaller one of five does."""
    lines: list[str] = []
    folder = begun(tmp_path, pictures="all", pictures_mb=25e-6, log=lines.append)
    small = PNG[:5]
    folder.rollouts(1, [], [group(0, ONE), group(1, TWO), group(2, THREE), group(3, small)])
    folder.rollouts(2, [], [group(4, THREE), group(5, ONE)])
    assert kept(tmp_path) == {image_name(ONE), image_name(TWO), image_name(small)}
    full = {"file": None, "why": "run_folder.pictures_mb = 2.5e-05 is reached"}
    assert images_of(tmp_path, 1)[2] == [full]
    assert images_of(tmp_path, 2) == {4: [full], 5: [{"file": f"images/{image_name(ONE)}"}]}
    assert len(lines) == 1
    assert lines[0].startswith(
        "run_folder.pictures_mb: step 1: kept pictures take 2e-05 of 2.5e-05"
    )


def test_the_room_that_is_taken_is_counted_again_when_a_run_goes_on(tmp_path):
    knobs = {"pictures": "all", "pictures_mb": 25e-6}
    folder = begun(tmp_path, **knobs)
    folder.rollouts(1, [], [group(0, ONE)])
    folder.rollouts(2, [], [group(1, TWO)])
    (tmp_path / "images" / "mine.png").write_bytes(b"precious")
    again = RunFolder(tmp_path, **knobs)
    again.rewind(1)
    assert kept(tmp_path) == {image_name(ONE), "mine.png"}, "only what the run wrote is deleted"
    again.rollouts(2, [], [group(1, THREE), group(2, ONE), group(3, TWO)])
    assert kept(tmp_path) == {image_name(ONE), image_name(THREE), "mine.png"}
    assert [
        json.loads(line) for line in (tmp_path / "pictures.jsonl").read_text().splitlines()
    ] == [
        {"step": 1, "file": image_name(ONE), "bytes": 10},
        {"step": 2, "file": image_name(THREE), "bytes": 10},
    ]


def test_a_run_of_an_older_release_keeps_its_pictures_and_they_count(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / image_name(ONE)).write_bytes(ONE)
    folder = RunFolder(tmp_path, pictures="all", pictures_mb=15e-6)
    folder.rewind(0)
    folder.rollouts(1, [], [group(0, ONE), group(1, TWO)])
    assert kept(tmp_path) == {image_name(ONE)}
    assert images_of(tmp_path, 1)[0] == [{"file": f"images/{image_name(ONE)}"}]


def test_a_new_run_lists_no_picture_of_one_that_was_killed(tmp_path):
    begun(tmp_path).rollouts(1, [], [group(0, ONE)])
    begun(tmp_path)
    assert (tmp_path / "pictures.jsonl").read_text() == ""


class Ranks:
    """Threads that gather values as processes do."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count)
        self.values: list[Any] = [None] * count

    def all_gather(self, rank: int) -> Any:
        def gather(own: Any) -> list[Any]:
            self.values[rank] = own
            self.barrier.wait()
            everyones = list(self.values)
            self.barrier.wait()
            return everyones

        return gather


def on_two_ranks(run: Path, own_groups: list[list[Any]], steps: int = 1, **knobs: Any) -> None:
    run.mkdir()
    RunFolder(run).begin()
    ranks = Ranks(2)

    def work(rank: int) -> None:
        folder = RunFolder(run, rank=rank, all_gather=ranks.all_gather(rank), **knobs)
        for step in range(1, steps + 1):
            folder.rollouts(step, [], own_groups[rank])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("knobs", "pictures"),
    [
        ({"pictures": "all", "pictures_mb": 35e-6}, {1, 2, 3}),
        ({"pictures": "sample"}, {1, 2}),
        ({"pictures": "all", "pictures_mb": 15e-6}, {1}),
    ],
)
def test_two_processes_keep_what_one_keeps(knobs, pictures, tmp_path):
    """Prompts 0 and 2 are the first one's, 1 and 3 the other one's; 0 and 3 show one picture."""
    shown = {0: ONE, 1: TWO, 2: THREE, 3: ONE, 4: picture(4)}
    of_two = [[group(draw, shown[draw]) for draw in draws] for draws in ((0, 2), (1, 3, 4))]
    on_two_ranks(tmp_path / "two", of_two, steps=2, **knobs)
    one = begun(tmp_path / "one", **knobs)
    for step in (1, 2):
        one.rollouts(step, [], [*of_two[0], *of_two[1]])
    assert kept(tmp_path / "two") == {image_name(picture(number)) for number in pictures}
    assert kept(tmp_path / "one") == kept(tmp_path / "two")
    for step in (1, 2):
        assert images_of(tmp_path / "one", step) == images_of(tmp_path / "two", step)
    lists = [(tmp_path / name / "pictures.jsonl").read_text() for name in ("one", "two")]
    assert lists[0] == lists[1]
