"""Small copies of pictures, to show a question on a page, also on another machine.

Those of held-out questions are kept as `evaluation/pictures/NAME.webp` of a run folder. NAME is
made of the content of the picture: a record of an evaluation has it (`Record.picture_names`).
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gpg_vl.config.paths import folder_aside
from gpg_vl.errors import UnusableSampleError
from gpg_vl.pictures import open_picture
from gpg_vl.types import Size

FOLDER = Path("evaluation", "pictures")
"""Folder of the kept small pictures, in a run folder."""
LONGEST = 320
"""Longest side of a kept small picture, in pixels."""
MOST = 2000
"""Largest number of small pictures that a run keeps."""
QUALITY = 80
"""Quality of the WebP files: letters and edges of boxes stay clear, at about 5 kB a picture."""


class SmallPicture(NamedTuple):
    """A small copy of a picture.

    Example:
        SmallPicture(b"RIFF...", (4000, 3000))
    """

    webp: bytes
    """A WebP file of eight bits RGB, upright."""
    size: Size
    """Width and height in pixels of the picture that it was made of, as a person sees it."""


def small_picture(image: Path | bytes, longest: int) -> SmallPicture:
    """Make a small copy of a picture as a person sees it; one that is small stays as large.

    Args:
        longest: longest side of the copy, in pixels.

    Raises:
        UnusableSampleError: the picture cannot be read.
    """
    picture = open_picture(image)
    size = picture.size
    picture.thumbnail((longest, longest))  # never enlarges, keeps the shape
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=QUALITY)
    return SmallPicture(encoded.getvalue(), size)


def small_picture_path(run: Path, name: str) -> Path:
    """Return where the small copy of a picture of held-out questions is, if it is kept.

    Args:
        name: of its content, as a record has it.
    """
    return run / FOLDER / f"{name}.webp"


def keep_small_pictures(run: Path, images: Mapping[str, Path | bytes]) -> None:
    """Keep small copies of pictures of held-out questions, those that are not there yet.

    Of more than MOST pictures those are kept whose names come first: names are made of contents,
    so they are a sample of all questions, and the same in every evaluation.

    Args:
        images: name of its content -> picture. One that cannot be read is not kept: a question that
            shows it is listed as one that cannot be asked.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    kept = {path.stem for path in folder.glob("*.webp")}
    new = [name for name in sorted(images.keys())[:MOST] if name not in kept]
    with folder_aside(folder) as aside:
        for name in new[: max(0, MOST - len(kept))]:
            try:
                small = small_picture(images[name], LONGEST)
            except UnusableSampleError:
                continue
            (aside / name).write_bytes(small.webp)
            (aside / name).replace(small_picture_path(run, name))
