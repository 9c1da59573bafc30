"""Keep pictures beside the rollouts: each content once, within a bound on the size of all.

`images/` holds the files, named by their content; `pictures.jsonl` lists them with the step that
kept them. All processes take every decision together, in the order of the prompts, so that the
bound holds, no file is written twice, and a resumed run keeps what an undisturbed run keeps.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gpg_vl.run_folder.json_lines import append_row, read_rows, rewind_rows
from gpg_vl.types import Group, Sample

Choice = Literal["all", "informative", "sample"]
"""Groups whose pictures are kept: all | those whose rewards differ | the first two of a step."""
SAMPLED_GROUPS = 2
"""Groups of a step whose pictures `sample` keeps."""
LIST = "pictures.jsonl"
"""Name of the file that lists the kept pictures."""
FOLDER = "images"
"""Name of the folder of the kept pictures."""

IMAGE_KINDS = {b"\x89PNG": "png", b"\xff\xd8": "jpg", b"RIFF": "webp", b"GIF8": "gif"}
"""First bytes of a file -> its suffix."""


class _Content(NamedTuple):
    """Content of a picture: the name that it is kept under, and its size in bytes."""

    name: str
    size: int


class _Offer(NamedTuple):
    """Pictures of a group that should be kept, if there is room. Sorted as the prompts are."""

    prompt_index: int
    rank: int
    pictures: tuple[_Content, ...]


class KeptPictures:
    """Decides which pictures of a run are kept, and writes them."""

    def __init__(
        self,
        run: Path,
        *,
        choice: Choice,
        max_mb: float,
        rank: int = 0,
        all_gather: Callable[[Any], list[Any]] = lambda own: [own],
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start with no picture.

        Args:
            max_mb: largest size of all kept pictures, in MB (10^6 bytes).
            all_gather: returns one small value per process, in rank order.
            log: called once if a picture does not fit any more.
        """
        self._run = run
        self._folder = run / FOLDER
        self._choice: Choice = choice
        self._max_mb = max_mb
        self._rank = rank
        self._all_gather = all_gather
        self._log = log
        self._sizes: dict[str, int] = {}  # kept pictures; the same on every process
        self._total = 0
        self._no_room: set[str] = set()  # pictures of this step
        self._files: dict[Path, tuple[tuple[int, int], _Content]] = {}
        self._has_warned = False

    def begin(self) -> None:
        """Begin the list; only the main process does."""
        (self._run / LIST).write_text("")

    def rewind(self, step: int) -> None:
        """Forget what was kept after a step. Every process calls it; the main one deletes.

        A run of an older release has no list: what lies in its folder counts.
        """
        sizes: dict[str, int] = {}
        if not self._rank:
            path = self._run / LIST
            listed = {row["file"] for row in read_rows(path)}
            if path.exists():
                sizes = {row["file"]: row["bytes"] for row in rewind_rows(path, step)}
            else:
                sizes = {file.name: file.stat().st_size for file in self._folder.glob("*")}
            for name in listed - sizes.keys():
                (self._folder / name).unlink(missing_ok=True)
        self._sizes = self._all_gather(sizes)[0]
        self._total = sum(self._sizes.values())

    def keep(self, step: int, groups: Sequence[Group]) -> None:
        """Keep pictures of a step's groups, each content once, as long as there is room.

        Every process calls it with its own groups; the first in order that offers a picture
        writes it.
        """
        own: dict[str, bytes] = {}
        offers: list[_Offer] = []
        for group in self._chosen(groups):
            pictures = self._offered(group.prompt.sample, own)
            offers.append(_Offer(group.prompt_index, self._rank, tuple(pictures)))
        everyones: list[_Offer] = []
        for of_one_rank in self._all_gather(offers):
            everyones += [_Offer(*offer) for offer in of_one_rank]
        everyones.sort()
        if self._choice == "sample":
            everyones = everyones[:SAMPLED_GROUPS]
        self._no_room.clear()
        for offer in everyones:
            for name, size in offer.pictures:
                if name in self._sizes or not self._takes(step, name, size):
                    continue
                if offer.rank == self._rank:
                    self._write(name, own[name])

    def reference(self, image: Path | bytes) -> dict[str, Any]:
        """Return how to find a picture: the kept file, the file that it came from, or why neither.

        Example:
            {"file": "images/3f0c94b1d2a8e671.png", "original": "/data/cells/7.png"}
        """
        found: dict[str, Any] = {"file": None}
        content = self._content(image)
        if content is not None and content.name in self._sizes:
            found["file"] = f"{FOLDER}/{content.name}"
        if isinstance(image, Path):
            found["original"] = str(image.absolute())
        if not found["file"]:
            found["why"] = self._why_not(content)
        return found

    def _why_not(self, content: _Content | None) -> str:
        if content is None:
            return "it cannot be read any more"
        if content.name in self._no_room:
            return f"run_folder.pictures_mb = {self._max_mb:g} is reached"
        return f"run_folder.pictures = {self._choice}"

    def _chosen(self, groups: Sequence[Group]) -> list[Group]:
        if self._choice == "informative":
            return [group for group in groups if group.informative]
        if self._choice == "sample":
            return sorted(groups, key=lambda group: group.prompt_index)[:SAMPLED_GROUPS]
        return list(groups)

    def _offered(self, sample: Sample, own: dict[str, bytes]) -> Iterable[_Content]:
        """Yield the pictures of a sample that can be read.

        Args:
            own: gets the bytes of those that may have to be written.
        """
        for image in sample.images:
            content = self._content(image)
            if content is None:
                continue
            has_room = self._total + content.size <= self._max_mb * 1e6
            if content.name not in self._sizes and content.name not in own and has_room:
                try:
                    own[content.name] = _bytes(image)
                except OSError:  # it vanished since the prompt was made
                    continue
            yield content

    def _takes(self, step: int, name: str, size: int) -> bool:
        """Count a picture, if it fits, and list it before it is written."""
        if self._total + size > self._max_mb * 1e6:
            self._no_room.add(name)
            if not self._has_warned:
                self._has_warned = True
                self._log(
                    f"run_folder.pictures_mb: step {step}: kept pictures take "
                    f"{self._total / 1e6:.3g} of {self._max_mb:g} MB; what does not fit is not "
                    "kept, and the rows of rollouts say so"
                )
            return False
        self._sizes[name] = size
        self._total += size
        if not self._rank:
            append_row(self._run / LIST, {"step": step, "file": name, "bytes": size})
        return True

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(exist_ok=True)
        (self._folder / name).write_bytes(content)

    def _content(self, image: Path | bytes) -> _Content | None:
        """Return name and size of a picture; None if it cannot be read.

        A file that has not changed is read once.
        """
        if isinstance(image, bytes):
            return _Content(image_name(image), len(image))
        try:
            stat = image.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            known = self._files.get(image)
            if known is None or known[0] != stamp:
                content = image.read_bytes()
                known = stamp, _Content(image_name(content), len(content))
                self._files[image] = known
        except OSError:
            return None
        return known[1]


def image_name(image: bytes) -> str:
    """Return a file name made of the content, so that equal images are kept once."""
    suffix = "image"
    for first_bytes, kind in IMAGE_KINDS.items():
        if image.startswith(first_bytes):
            suffix = kind
    return f"{content_name(image)}.{suffix}"


def content_name(image: bytes) -> str:
    """Return a name made of the content of a picture, without the kind of its file."""
    return hashlib.sha256(image).hexdigest()[:16]


def _bytes(image: Path | bytes) -> bytes:
    return image if isinstance(image, bytes) else image.read_bytes()
