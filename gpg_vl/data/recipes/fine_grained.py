"""Yield four-shot fine-grained classification: flowers, pets, aircraft, cars.

The cards are `data/flower102.yaml`, `pets37`, `fgvc_aircraft` and `cars196`. Training rows are
Visual-RFT's (image, problem, solution). Test rows are the lists of the data sets themselves, in
CoOp's form (`split_zhou_*.json`: [file, number, class]) or FGVC-Aircraft's
(`images_variant_test.txt`: file and class).

Example row:
    {"id": "flower102/test/0", "question": "This is an image containing a plant. Please identify
    the species of the plant based on the image.", "answer_kind": "label",
    "answer": "passion flower", "choices": ["alpine sea holly", ...]}
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from gpg_vl.data.reading import formats
from gpg_vl.data.recipes.card import Published, answer_text, need
from gpg_vl.errors import UserError, shown
from gpg_vl.types import LeftOut, Sample

SUBJECTS = {
    "flower102": ("a plant", "species of the plant"),
    "pets37": ("a pet", "species of the pet"),
    "fgvc_aircraft": ("an aircraft", "model of the aircraft"),
    "cars196": ("a car", "model of the car"),
}
"""Visual-RFT's words for the object and for its class."""
IMAGE_FOLDERS = {"flower102": "jpg", "pets37": "images", "fgvc_aircraft": "images", "cars196": ""}
"""Folder of the test images, beside the list."""
SplitName = Literal["train", "test"]


def _fine_grained(
    name: str,
    split: SplitName = "train",
    folder: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield the images of a data set; the choices are all classes of its split.

    Args:
        name: name of its card.
        split: train or test.
        folder: folder of the files.
        pictures: false = rows without images.
        complete: require the published number of rows.
    """
    found = Published.find(name, split, folder=folder, pictures=pictures, complete=complete)
    subject, kind = SUBJECTS[name]
    question = (
        f"This is an image containing {subject}. Please identify the {kind} based on the image."
    )
    rows: list[tuple[Any, str]] = []
    base: Path | None = None
    if split == "train":
        for _, row in found.rows():
            rows.append((row["image"], answer_text(row["answer"])))
    else:
        for image, label in _listed(found.files[0], split):
            rows.append((str(Path(IMAGE_FOLDERS[name]) / image), label))
        found.expect(len(rows))
        base = found.files[0].parent
    choices = sorted({label for _, label in rows})
    for number, (image, label) in enumerate(rows):
        yield found.sample(
            number, question=question, images=image, base=base, answer=label, choices=choices
        )


def _listed(path: Path, split: str) -> list[tuple[str, str]]:
    """Read (image, class) from a published list of the test images."""
    pairs: list[tuple[str, str]] = []
    if path.suffix == ".json":
        content: Any = formats.json_file(path)
        need(content, split, where=path, what="one of CoOp's split_zhou files")
        for item in content[split]:
            if not isinstance(item, list) or len(cast(list[Any], item)) != 3:
                got = shown(cast(Any, item))
                raise UserError(f"{path}: {split} holds {got}, expected [FILE, NUMBER, CLASS]")
            image, _, label = cast(list[Any], item)
            pairs.append((str(image), str(label)))
        return pairs
    for line in formats.lines(path):
        # "1514522 707-320": the number of an image and its class
        number, _, label = line.partition(" ")
        if not label:
            raise UserError(f"{path}: line {shown(number)} names no class; expected NUMBER CLASS")
        pairs.append((f"{number}.jpg", label))
    return pairs


flower102 = partial(_fine_grained, "flower102")
"""Recipe of Oxford Flowers: 102 species."""
pets37 = partial(_fine_grained, "pets37")
"""Recipe of Oxford-IIIT Pets: 37 breeds."""
fgvc_aircraft = partial(_fine_grained, "fgvc_aircraft")
"""Recipe of FGVC-Aircraft: 100 variants."""
cars196 = partial(_fine_grained, "cars196")
"""Recipe of Stanford Cars: 196 makes, models and years."""
