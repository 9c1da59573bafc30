"""Small data sets in the published form: the same files, columns and nesting, with pictures of a
few pixels."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tests.hand_made import encoded, png

SIDE = 56


def picture(path: Path, colour: Any = "red", size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        encoded(Image.new("RGB", size, colour), "JPEG" if path.suffix == ".jpg" else "PNG")
    )


def parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As `datasets` uploads them: an image is a struct of bytes and path."""
    import pyarrow
    from pyarrow import parquet as files

    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def written(path: Path, content: Any, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    text = (
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        if lines
        else json.dumps(content, ensure_ascii=False)
    )
    path.write_text(text, encoding=encoding)


def inside(colour: Any = "red") -> dict[str, Any]:
    return {"bytes": png((SIDE, SIDE), colour), "path": None}


def sat(folder: Path) -> None:
    rows = [
        {
            "image_bytes": [inside()] * count,
            "question": f"Is the chair left of table {count}?",
            "answers": ["yes, it is", "no"],
            "question_type": "obj_movement",
            "correct_answer": "yes, it is",
        }
        for count in (1, 2, 1)
    ]
    parquet(folder / "SAT_train.parquet", rows)


def cv_bench(folder: Path) -> None:
    for kind, sources in (("2d", ("ADE20K", "COCO")), ("3d", ("Omni3D",))):
        rows = [
            {
                "idx": place,
                "type": kind.upper(),
                "task": "Count" if kind == "2d" else "Depth",
                "image": inside(),
                "question": "How many?",
                "choices": ["0", "1", "2"],
                "answer": "(B)",
                "prompt": "How many? Select from the following choices.\n(A) 0\n(B) 1\n(C) 2",
                "source": source,
            }
            for place, source in enumerate(sources)
        ]
        parquet(folder / f"test_{kind}.parquet", rows)


def lisa(folder: Path) -> None:
    """Three pictures: a target of two polygons after an ignored one; a note in Windows'
    encoding; nothing to find."""
    shapes = {
        "a": [
            ("ignore", [[0, 0], [10, 0], [10, 10]]),
            ("target", [[8, 20], [40, 20], [40, 30]]),
            ("target", [[20, 12], [60, 50]]),
        ],
        "b": [("target", [[5.5, 6], [30, 44], [7, 44]])],
        "c": [("ignore", [[0, 0], [10, 0], [10, 10]])],
    }
    for name, polygons in shapes.items():
        picture(folder / "ReasonSeg" / "val" / f"{name}.jpg")
        listed = [
            {"label": label, "labels": [label], "shape_type": "polygon", "points": points}
            for label, points in polygons
        ]
        texts = {"text": ["the café", "where to eat"], "is_sentence": name == "a", "shapes": listed}
        written(
            folder / "ReasonSeg" / "val" / f"{name}.json",
            texts,
            encoding="cp1252" if name == "b" else "utf-8",
        )


def refcoco(folder: Path) -> None:
    """VLM-R1's lists."""
    picture(folder / "train2014" / "COCO_train2014_000000000009.jpg")
    asked = (
        "Please provide the bounding box coordinate of the region this sentence describes: left "
        "man."
    )
    row = {
        "image": "train2014/COCO_train2014_000000000009.jpg",
        "problem": asked,
        "solution": [4.5, 6, 30.25, 50],
    }
    written(folder / "refcoco_val.json", [row, {**row, "solution": [0, 0, 20, 20]}])


def refcoco_parquet(folder: Path) -> None:
    """lmms-lab's rows."""
    row = {
        "question_id": "1",
        "image": inside(),
        "question": "...",
        "answer": ["left man", "him."],
        "bbox": [4.0, 6.0, 20.0, 30.0],
    }
    parquet(
        folder / "data" / "testA-00000-of-00001.parquet",
        [{**row, "segmentation": [1.0], "iscrowd": 0, "file_name": "x.jpg"}],
    )


def geoqa(folder: Path) -> None:
    solved = [f"<answer> {value} </answer>" for value in ("145°", "2√3", "?")]
    train = [
        {"image": inside(), "problem": "How large is angle A?", "solution": solution}
        for solution in solved
    ]
    parquet(folder / "data" / "train-00000-of-00001.parquet", train)
    rows = [
        {
            "image_path": f"./Geo170K/images/test/{place}.png",
            "question": "How large?",
            "ground_truth": value,
        }
        for place, value in enumerate(["140°", "5cm"])
    ]
    written(folder / "geoqa_test_prompts.jsonl", rows)
    for place in range(2):
        picture(folder / "Geo170K" / "images" / "test" / f"{place}.png")


def clevr(folder: Path) -> None:
    solutions = ["<answer> 3 </answer>", "<answer> 10 </answer>", "<answer> yes </answer>"]
    rows = [
        {
            "image": inside(),
            "problem": "How many items are there in the image?",
            "solution": solution,
        }
        for solution in solutions
    ]
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def superclevr(folder: Path) -> None:
    question = "How many different items are there in the image?"
    rows = [
        {
            "image_path": f"./images/superCLEVR_new_{25000 + place:06d}.png",
            "question": question,
            "ground_truth": place + 3,
        }
        for place in range(4)
    ]
    written(folder / "superclevr_test200_counting_problems.jsonl", rows)
    for row in rows:
        picture(folder / row["image_path"])


def four_shot(folder: Path) -> None:
    """Visual-RFT's rows; pictures with an alpha channel."""
    alpha = {"bytes": png((SIDE, SIDE), (255, 0, 0, 128), "RGBA"), "path": "a.png"}
    problem = (
        "This is an image containing a plant. Please identify the species of the plant based on the"
        " image.\nOutput the"
    )
    rows = [
        {"image": alpha, "problem": problem, "solution": f"<answer>{label}</answer>"}
        for label in ("rose", "pink primrose") * 2
    ]
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


def flower102(folder: Path) -> None:
    four_shot(folder)
    pairs = [["image_00001.jpg", 0, "rose"], ["image_00002.jpg", 1, "pink primrose"]]
    written(
        folder / "split_zhou_OxfordFlowers.json", {"train": pairs[:1], "val": [], "test": pairs}
    )
    for name, _, _ in pairs:
        picture(folder / "jpg" / str(name))


def fgvc_aircraft(folder: Path) -> None:
    four_shot(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images_variant_test.txt").write_text("0034309 737-300\n0056978 Cessna 172\n")
    for name in ("0034309", "0056978"):
        picture(folder / "images" / f"{name}.jpg")


def coco(folder: Path) -> None:
    """Two pictures, two classes, a crowd, and a training part."""
    url = "http://images.cocodataset.org/val2017/{:012d}.jpg"
    images = [
        {
            "id": name,
            "width": SIDE,
            "height": SIDE,
            "file_name": f"{name:012d}.jpg",
            "coco_url": url.format(name),
        }
        for name in (7, 9)
    ]
    boxes = [
        (1, 7, 3, [4, 5, 20, 30], 0),
        (2, 7, 3, [30, 5, 30, 30], 0),
        (3, 9, 5, [0, 0, 50, 50], 1),
        (4, 9, 3, [1, 1, 20, 20], 0),
    ]
    annotations = [
        {
            "id": name,
            "image_id": image,
            "category_id": category,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": crowd,
        }
        for name, image, category, box, crowd in boxes
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}]
    written(
        folder / "annotations" / "instances_val2017.json",
        {"images": images, "annotations": annotations, "categories": categories},
    )
    for image in images:
        picture(folder / "val2017" / str(image["file_name"]))
    problem = (
        "Detect all objects belonging to the category 'cat' in the image.\nOutput the thinking "
        "process in <think> </think>"
    )
    solutions = [
        "<answer>[{'Position': [10, 20, 300, 400], 'Confidence': 1.0}]</answer>",
        "<answer>No Objects</answer>",
        "<answer>?</answer>",
    ]
    rows = [{"image": inside(), "problem": problem, "solution": solution} for solution in solutions]
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows)


MADE: dict[str, Callable[[Path], None]] = {
    "sat": sat,
    "cv_bench": cv_bench,
    "lisa": lisa,
    "refcoco": refcoco,
    "geoqa": geoqa,
    "clevr": clevr,
    "superclevr": superclevr,
    "flower102": flower102,
    "fgvc_aircraft": fgvc_aircraft,
    "coco": coco,
}
"""Recipe -> what writes a small folder of its published files."""
