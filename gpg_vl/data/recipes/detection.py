"""Yield COCO and LVIS: all objects of one class in an image, each with a confidence.

The cards are `data/coco.yaml` and `data/lvis.yaml`. Training rows are Visual-RFT's (image, problem,
solution in thousandths). Test rows are pairs (image, class) of the annotation files
(`instances_val2017.json`, `lvis_v1_val.json`): every class in the image, or those that a file
`exist_map_*.json` lists for the image.

Example row:
    {"id": "coco/val/397133/cat", "question": "Detect all objects belonging to the category 'cat' in
    the image, and provide ...", "answer_kind": "detection",
    "answer": [[217.6, 240.5, 256.4, 298.3]], "category_id": 17, "image_id": 397133}
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from gpg_vl.data.reading import formats
from gpg_vl.data.recipes.card import Published, answer_text, need, numbers
from gpg_vl.errors import UserError, shown
from gpg_vl.parsing import boxes as answer_boxes
from gpg_vl.types import LeftOut, Sample

ASKED = (
    "Detect all objects belonging to the category '{0}' in the image, and provide the bounding "
    "boxes (between 0 and 1000, integer) and confidence (between 0 and 1, with two decimal "
    "places).\nIf no object belonging to the category '{0}' in the image, return 'No Objects'."
)
"""Visual-RFT's wording."""
NEEDED = {
    "images": ("id", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
"""Parts of an annotation file that are read, and their columns."""
FORMAT = "\nOutput the thinking process in"
"""Beginning of the answer format in a published question; here the prompt style describes it."""
Pair = tuple[int, int]
"""An image and a class, as (image_id, category_id)."""


def _detection(
    name: str,
    split: str = "train",
    folder: str | None = None,
    classes: Sequence[str] | None = None,
    asked: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """Yield the rows of a training split, or the pairs of an annotation file.

    Args:
        name: name of its card.
        split: a split of the card.
        folder: folder of the files.
        classes: the classes to ask about; default: all.
        asked: a file {image number: [class, ...]} of the pairs to ask about, for example
            Visual-RFT's exist_map, in the folder of the data set or by path; default: the classes
            in each image.
        pictures: false = rows without images.
        complete: require the published number of rows.
    """
    found = Published.find(name, split, folder=folder, pictures=pictures, complete=complete)
    if split != "train":
        yield from _annotated(found, classes, asked)
        return
    if asked is not None or classes is not None:
        raise UserError(
            f"{found.name}: asked and classes choose among the pairs of split val; those of split "
            "train are asked as they stand"
        )
    yield from _solved(found)


coco = partial(_detection, "coco")
"""COCO: 80 classes."""
lvis = partial(_detection, "lvis")
"""LVIS: 1,203 classes, many of them rare."""


def _solved(found: Published) -> Iterator[Sample | LeftOut]:
    """Yield rows of a published training set, whose solutions are written as answers."""
    for number, row in found.rows():
        boxes: list[list[float]] = []
        for item in answer_boxes.find(answer_text(row["answer"])):
            boxes.append([item.box.x1, item.box.y1, item.box.x2, item.box.y2])
        says_none = "no objects" in str(row["answer"]).lower()
        if not boxes and not says_none:
            reason = f"its solution holds no box: {str(row['answer'])[:80]!r}"
            yield LeftOut(f"{found.name}/{found.split}/{number}", reason)
            continue
        question = str(row["question"]).partition(FORMAT)[0]
        yield found.sample(
            number, question=question, images=row["image"], answer=boxes, frame="norm1000"
        )


def _annotated(
    found: Published, classes: Sequence[str] | None, asked: str | None
) -> Iterator[Sample | LeftOut]:
    """Yield a sample for each pair of image and class of an annotation file."""
    file = found.files[0]
    truth = annotations(file)
    names = {item["id"]: str(item["name"]) for item in truth["categories"]}
    images = {item["id"]: item for item in truth["images"]}
    unknown = sorted(set(classes or ()) - set(names.values()))
    if unknown:
        raise UserError(
            f"{file}: no class {shown(unknown[0])}; it has "
            f"{', '.join(sorted(names.values())[:10])}..."
        )
    boxes, crowds = _boxes_and_crowds(truth, names, images, file)
    found.expect(len(truth["images"]))
    if asked:
        pairs = _pairs_of_map(_find_map(found, asked), names, images)
    else:
        pairs = sorted({*boxes, *crowds})
    for image_id, category in pairs:
        if classes is not None and names[category] not in classes:
            continue
        name = f"{image_id}/{names[category]}"
        if (image_id, category) in crowds and (image_id, category) not in boxes:
            yield LeftOut(
                f"{found.name}/{found.split}/{name}",
                "only a crowd region, which has no single objects",
            )
            continue
        # no entry: a class that the map asks about and the image does not contain
        of_pair = boxes.get((image_id, category), [])
        yield _detected(found, name, images[image_id], of_pair, category, names[category])


def _boxes_and_crowds(
    truth: Mapping[str, Any], names: Mapping[int, str], images: Mapping[int, Any], file: Path
) -> tuple[dict[Pair, list[Any]], set[Pair]]:
    """Return the boxes (x, y, width, height) of each pair, and the pairs with crowd regions."""
    boxes: dict[Pair, list[Any]] = {}
    crowds: set[Pair] = set()
    for item in truth["annotations"]:
        image_id, category = item["image_id"], item["category_id"]
        if image_id not in images or category not in names:
            raise UserError(
                f"{file}: an annotation of image {image_id} and category {category}, which the "
                "file does not list"
            )
        if item.get("iscrowd"):
            crowds.add((image_id, category))
        else:
            box = numbers(item["bbox"], 4, where=f"{file} bbox")
            boxes.setdefault((image_id, category), []).append(box)
    return boxes, crowds


def _detected(
    found: Published,
    name: str,
    image: Mapping[str, Any],
    boxes: Sequence[Any],
    category: int,
    label: str,
) -> Sample | LeftOut:
    """Return the sample of a pair; its boxes become corners, cut to the image."""
    size = (image["width"], image["height"])
    corners: list[list[float]] = []
    for x, y, width, height in boxes:
        corners.append([x, y, min(x + width, size[0]), min(y + height, size[1])])
    return found.sample(
        name,
        question=ASKED.format(label),
        images=[file_of(image)],
        base=_image_root(found.files[0]),
        sizes=[size],
        answer=corners,
        image_id=image["id"],
        category_id=category,
        truth_file=str(found.files[0].resolve()),
        tags={"task": "detection", "class": label},
    )


def annotations(path: Path) -> dict[str, Any]:
    """Read a COCO or LVIS annotation file.

    Raises:
        UserError: it is not such a file.
    """
    truth: dict[str, Any] = formats.json_file(path)
    what = "a COCO annotation file with images, annotations and categories"
    need(truth, *NEEDED, where=path, what=what)
    for part, columns in NEEDED.items():
        for item in truth[part]:
            need(item, *columns, where=f"{path} {part}", what=what)
    return truth


def file_of(image: Mapping[str, Any]) -> str:
    """Return the path of an image below the folder of images.

    This is the end of its address (val2017/000000397133.jpg), or its file name.
    """
    if "coco_url" in image:
        return "/".join(str(image["coco_url"]).split("/")[-2:])
    need(image, "file_name", where=f"image {image['id']}", what="a COCO annotation file")
    return str(image["file_name"])


def _image_root(file: Path) -> Path:
    """Return the folder that image paths are relative to."""
    if file.parent.name == "annotations":
        return file.parent.parent
    return file.parent


def _find_map(found: Published, asked: str) -> Path:
    """Return the file of the option `asked`."""
    assert found.base_dir is not None
    for path in (found.base_dir / asked, Path(asked)):
        if path.is_file():
            return path
    raise UserError(
        f"asked: {asked} does not exist, neither in {found.base_dir} nor in the working directory; "
        f"it is a .json file of {{image number: [class, ...]}}. {found.how}"
    )


def _pairs_of_map(file: Path, names: Mapping[int, str], images: Mapping[int, Any]) -> list[Pair]:
    """Read the pairs of a map from image numbers to class names; unknown names are ignored."""
    content = formats.json_file(file)
    malformed = UserError(f"{file}: expected {{image number: [class, ...]}}")
    if not isinstance(content, dict):
        raise malformed
    labels_of = cast(dict[str, Any], content)
    if not all(isinstance(labels, list) for labels in labels_of.values()):
        raise malformed
    category_of = {name: category for category, name in names.items()}
    image_of = {str(image): image for image in images}  # keys of JSON are text
    unknown = [image for image in labels_of if image not in image_of]
    if unknown:
        raise UserError(
            f"{file}: {len(unknown)} keys ({', '.join(unknown[:5])}) are not among the numbers "
            f"of the {len(images)} images"
        )
    pairs: list[Pair] = []
    for image, labels in labels_of.items():
        for label in dict.fromkeys(cast(list[str], labels)):  # each label once, in its order
            if label in category_of:
                pairs.append((image_of[image], category_of[label]))
    return pairs
