"""COCO and LVIS: all objects of one class in a picture, each with a confidence. The cards are `data/coco.yaml` and `data/lvis.yaml`.

Training rows are Visual-RFT's (image, problem, solution in thousandths). Test rows are pairs (picture, class) out of the annotation files
(`instances_val2017.json`, `lvis_v1_val.json`): of every class that is there, or those that a file `exist_map_*.json` names for a picture.

Example row:
    {"id": "coco/val/397133/cat", "question": "Detect all objects belonging to the category 'cat' in the image, and provide ...",
     "answer_kind": "detection", "answer": [{"box": [217.6, 240.5, 256.4, 298.3], "label": ""}], "category_id": 17, "image_id": 397133}
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from gpg_vl.data import formats
from gpg_vl.data.recipes.card import Published, answer_text, need, numbers
from gpg_vl.errors import UserError
from gpg_vl.parsing import boxes as answer_boxes
from gpg_vl.types import LeftOut, Sample

ASKED = (
    "Detect all objects belonging to the category '{0}' in the image, and provide the bounding boxes (between 0 and 1000, integer) "
    "and confidence (between 0 and 1, with two decimal places).\n"
    "If no object belonging to the category '{0}' in the image, return 'No Objects'."
)
"""Visual-RFT's wording."""
NEEDED = {"images": ("id", "width", "height"), "annotations": ("image_id", "category_id", "bbox"), "categories": ("id", "name")}
"""What is read of an annotation file."""
FORMAT = "\nOutput the thinking process in"
"""Where the published question goes on with its answer format, which here belongs to the prompt style."""


def coco(
    split: str = "train",
    folder: str | None = None,
    classes: Sequence[str] | None = None,
    asked: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """COCO: 80 classes.

    Args:
        classes: only these; default: all.
        asked: a file {image number: [class, ...]} of what is asked about, for instance Visual-RFT's exist_map, in the folder of the set or
            by path; default: what is there.
    """
    found = Published.find("coco", split, folder=folder, pictures=pictures, complete=complete)
    yield from _detection(found, classes, asked)


def lvis(
    split: str = "train",
    folder: str | None = None,
    classes: Sequence[str] | None = None,
    asked: str | None = None,
    pictures: bool = True,
    complete: bool = False,
) -> Iterator[Sample | LeftOut]:
    """LVIS: 1,203 classes, with few examples of many of them. Options as for `coco`."""
    found = Published.find("lvis", split, folder=folder, pictures=pictures, complete=complete)
    yield from _detection(found, classes, asked)


def _detection(found: Published, classes: Sequence[str] | None, asked: str | None) -> Iterator[Sample | LeftOut]:
    if found.split != "train":
        return _annotated(found, classes, asked)
    if asked is not None or classes is not None:
        raise UserError(
            f"{found.name}: asked and classes choose among the pairs of split val; those of split train are asked as they stand"
        )
    return _solved(found)


def _solved(found: Published) -> Iterator[Sample | LeftOut]:
    """Rows of a published training set: the truth is written as an answer."""
    for number, row in found.rows():
        boxes = [[item.box.x1, item.box.y1, item.box.x2, item.box.y2] for item in answer_boxes.found(answer_text(row["answer"]))]
        empty = "no objects" in str(row["answer"]).lower()
        if not boxes and not empty:
            yield LeftOut(f"{found.name}/{found.split}/{number}", f"its solution holds no box: {str(row['answer'])[:80]!r}")
            continue
        asked = str(row["question"]).partition(FORMAT)[0]
        yield found.sample(number, question=asked, images=row["image"], answer=boxes, frame="norm1000")


def _annotated(found: Published, classes: Sequence[str] | None, asked: str | None) -> Iterator[Sample | LeftOut]:
    """A sample per picture and class of an annotation file."""
    truth = annotations(found.files[0])
    names = {item["id"]: str(item["name"]) for item in truth["categories"]}
    images = {item["id"]: item for item in truth["images"]}
    if unknown := sorted(set(classes or ()) - set(names.values())):
        raise UserError(f"{found.files[0]}: no class {unknown[0]!r}; it has {', '.join(sorted(names.values())[:10])}...")
    boxes: dict[tuple[int, int], list[Any]] = defaultdict(list)
    crowds: set[tuple[int, int]] = set()
    for item in truth["annotations"]:
        pair = (item["image_id"], item["category_id"])
        if pair[0] not in images or pair[1] not in names:
            raise UserError(f"{found.files[0]}: an annotation of image {pair[0]} and category {pair[1]}, which the file does not list")
        if item.get("iscrowd"):
            crowds.add(pair)
        else:
            boxes[pair].append(numbers(item["bbox"], 4, where=f"{found.files[0]} bbox"))
    found.expect(len(truth["images"]))
    wanted = _wanted(_map_of(found, asked), names, images) if asked else sorted({*boxes, *crowds})
    for image_id, category in wanted:
        if classes is not None and names[category] not in classes:
            continue
        name = f"{image_id}/{names[category]}"
        if (image_id, category) in crowds and (image_id, category) not in boxes:
            yield LeftOut(f"{found.name}/{found.split}/{name}", "only a crowd region, which has no single objects")
            continue
        yield _detected(found, name, images[image_id], boxes[image_id, category], category, names[category])


def _detected(found: Published, name: str, image: Mapping[str, Any], boxes: Sequence[Any], category: int, label: str) -> Sample:
    size = (image["width"], image["height"])
    return found.sample(
        name,
        question=ASKED.format(label),
        images=[file_of(image)],
        base=_root(found.files[0]),
        sizes=[size],
        answer=[[x, y, min(x + width, size[0]), min(y + height, size[1])] for x, y, width, height in boxes],
        image_id=image["id"],
        category_id=category,
        truth_file=str(found.files[0].resolve()),
        tags={"task": "detection", "class": label},
    )


def annotations(path: Path) -> dict[str, Any]:
    """A COCO or LVIS annotation file.

    Raises:
        UserError: it is not one.
    """
    truth: dict[str, Any] = formats.json_file(path)
    what = "a COCO annotation file with images, annotations and categories"
    need(truth, *NEEDED, where=path, what=what)
    for part, columns in NEEDED.items():
        for item in truth[part]:
            need(item, *columns, where=f"{path} {part}", what=what)
    return truth


def file_of(image: Mapping[str, Any]) -> str:
    """Where a picture stands below the folder of pictures: the end of its address (val2017/000000397133.jpg), else its file name."""
    if "coco_url" in image:
        return "/".join(str(image["coco_url"]).split("/")[-2:])
    need(image, "file_name", where=f"image {image['id']}", what="a COCO annotation file")
    return str(image["file_name"])


def _root(file: Path) -> Path:
    return file.parent.parent if file.parent.name == "annotations" else file.parent


def _map_of(found: Published, asked: str) -> Path:
    assert found.home is not None
    for path in (found.home / asked, Path(asked)):
        if path.is_file():
            return path
    where = f"{asked} does not exist, neither in {found.home} nor in the working directory"
    raise UserError(f"asked: {where}; it is a .json file of {{image number: [class, ...]}}. {found.how}")


def _wanted(file: Path, names: Mapping[int, str], images: Mapping[int, Any]) -> list[tuple[int, int]]:
    """(image, class) pairs of a map from image numbers to class names; names that are no class are passed over."""
    content = formats.json_file(file)
    if not isinstance(content, dict) or not all(isinstance(labels, list) for labels in cast(dict[str, Any], content).values()):
        raise UserError(f"{file}: expected {{image number: [class, ...]}}")
    by_name, by_text = {label: number for number, label in names.items()}, {str(number): number for number in images}
    if strangers := [image for image in cast(dict[str, Any], content) if image not in by_text]:
        raise UserError(f"{file}: {len(strangers)} keys ({', '.join(strangers[:5])}) are not among the numbers of the {len(images)} images")
    pairs = ((by_text[image], label) for image, labels in cast(dict[str, list[str]], content).items() for label in dict.fromkeys(labels))
    return [(image, by_name[label]) for image, label in pairs if label in by_name]
