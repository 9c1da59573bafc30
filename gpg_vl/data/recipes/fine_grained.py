"""Four-shot fine-grained classification: flowers, pets, aircraft, cars. The cards are `data/flower102.yaml` and its siblings.

Training rows are Visual-RFT's (image, problem, solution); test rows are the lists of the sets themselves, in CoOp's form
(`split_zhou_*.json`: [file, number, class]) or FGVC-Aircraft's (`images_variant_test.txt`: file and class).

Example row:
    {"id": "flower102/test/0", "question": "This is an image containing a plant. Please identify the species of the plant based on the
     image.", "answer_kind": "label", "answer": "passion flower", "choices": ["alpine sea holly", ...]}
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from gpg_vl.data import formats
from gpg_vl.data.recipes.card import Published, answer_text, need
from gpg_vl.errors import UserError
from gpg_vl.types import Sample

WHAT = {
    "flower102": ("a plant", "species of the plant"),
    "pets37": ("a pet", "species of the pet"),
    "fgvc_aircraft": ("an aircraft", "model of the aircraft"),
    "cars196": ("a car", "model of the car"),
}
"""Visual-RFT's words for the thing and for its class."""
PICTURES = {"flower102": "jpg", "pets37": "images", "fgvc_aircraft": "images", "cars196": ""}
"""Where the pictures stand, beside the list."""
SplitName = Literal["train", "test"]


def _classes(name: str, split: str, folder: str | None, pictures: bool, complete: bool) -> Iterator[Sample]:
    found = Published.find(name, split, folder=folder, pictures=pictures, complete=complete)
    thing, kind = WHAT[name]
    asked = f"This is an image containing {thing}. Please identify the {kind} based on the image."
    if split == "train":
        rows = [(row["image"], answer_text(row["answer"])) for _, row in found.rows()]
    else:
        rows = [(str(Path(PICTURES[name]) / image), label) for image, label in _listed(found.files[0], split)]
        found.expect(len(rows))
    closed = sorted({label for _, label in rows})
    base = found.files[0].parent if split == "test" else None
    for number, (image, label) in enumerate(rows):
        yield found.sample(number, question=asked, images=image, base=base, answer=label, choices=closed)


def _listed(path: Path, split: str) -> list[tuple[str, str]]:
    """(picture, class) of a published list of the test pictures."""
    if path.suffix == ".json":
        content: Any = formats.json_file(path)
        need(content, split, where=path, what="one of CoOp's split_zhou files")
        for item in content[split]:
            if not isinstance(item, list) or len(cast(list[Any], item)) != 3:
                raise UserError(f"{path}: {split} holds {item!r}, expected [FILE, NUMBER, CLASS]")
        return [(str(image), str(label)) for image, _, label in content[split]]
    pairs = [line.partition(" ") for line in formats.lines(path)]
    if wrong := [image for image, _, label in pairs if not label]:
        raise UserError(f"{path}: line {wrong[0]!r} names no class; expected NUMBER CLASS")
    return [(f"{image}.jpg", label) for image, _, label in pairs]


def flower102(split: SplitName = "train", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Oxford Flowers: 102 species."""
    return _classes("flower102", split, folder, pictures, complete)


def pets37(split: SplitName = "train", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Oxford-IIIT Pets: 37 breeds."""
    return _classes("pets37", split, folder, pictures, complete)


def fgvc_aircraft(split: SplitName = "train", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """FGVC-Aircraft: 100 variants."""
    return _classes("fgvc_aircraft", split, folder, pictures, complete)


def cars196(split: SplitName = "train", folder: str | None = None, pictures: bool = True, complete: bool = False) -> Iterator[Sample]:
    """Stanford Cars: 196 makes, models and years."""
    return _classes("cars196", split, folder, pictures, complete)
