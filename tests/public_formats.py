"""Small files in public formats, each with the samples that it holds."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpg_vl.config.schema import Source
from gpg_vl.data.sources import read_source
from gpg_vl.preflight.prepare_data import verifiers_of
from gpg_vl.types import LeftOut, Sample, Turn
from tests.hand_made import png
from tests.published import parquet, picture, written

SIZE = (80, 60)
BOX = [8, 6, 40, 30]
"""Corners of a box in a picture of that size."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a row must become."""

    question: str
    answer: Any
    choices: tuple[str, ...] = ()
    pictures: int = 1
    context: tuple[Turn, ...] = ()
    images: tuple[str, ...] = ()
    """Names of the pictures' files, for those that are files."""


@dataclass(frozen=True, slots=True)
class Format:
    """A maker of small files in a public format, and the samples that they hold."""

    make: Callable[[Path], None]
    expected: Sequence[Expected]
    left_out: Sequence[str] = field(default_factory=tuple)
    """Beginnings of the reasons of the rows that are left out."""


def struct(colour: str = "red") -> dict[str, Any]:
    return {"bytes": png(SIZE, colour), "path": None}


def jpg(path: Path) -> None:
    picture(path, size=SIZE)


def llava(folder: Path) -> None:
    jpg(folder / "images/coco/train2017/000000033471.jpg")
    turns = [
        {"from": "human", "value": "<image>\nWhat is it?"},
        {"from": "gpt", "value": "a bus"},
        {"from": "human", "value": "Which colour has it?"},
        {"from": "gpt", "value": "red"},
    ]
    image = "coco/train2017/000000033471.jpg"
    written(folder / "llava.json", [{"id": "000000033471", "image": image, "conversations": turns}])


def vlm_r1(folder: Path) -> None:
    names = ["a/CLEVR_1.png", "a/CLEVR_2.png"]
    for name in names:
        jpg(folder / "images" / name)
    question = "What number of purple metallic balls are there?"
    rows = [
        {
            "id": 1,
            "image": names[0],
            "conversations": [
                {"from": "human", "value": f"<image>{question}"},
                {"from": "gpt", "value": "0"},
            ],
        },
        {
            "id": 2,
            "image": names,
            "conversations": [
                {"from": "human", "value": "<image><image>How many in total?"},
                {"from": "gpt", "value": "3"},
            ],
        },
    ]
    written(folder / "clevr.jsonl", rows)


def sharegpt(folder: Path) -> None:
    jpg(folder / "mllm_demo_data/1.jpg")
    rows = [
        {
            "conversations": [
                {"from": "human", "value": "<image>Who are they?"},
                {"from": "gpt", "value": "Kane and Gretzka"},
            ],
            "system": "You know football.",
            "images": ["mllm_demo_data/1.jpg"],
        },
        {
            "messages": [
                {"content": "<image>Who is he?", "role": "user"},
                {"content": "Thomas Muller", "role": "assistant"},
            ],
            "images": ["mllm_demo_data/1.jpg"],
        },
    ]
    written(folder / "mllm.json", rows)


def alpaca(folder: Path) -> None:
    jpg(folder / "1.jpg")
    row = {"instruction": "What is it?", "input": "", "output": "a bus", "images": ["1.jpg"]}
    written(folder / "alpaca.json", [row])


def openai(folder: Path) -> None:
    address = "data:image/png;base64," + base64.b64encode(png(SIZE, "red")).decode()
    content = [
        {"type": "text", "text": "How many squares?"},
        {"type": "image_url", "image_url": {"url": address, "detail": "auto"}},
    ]
    messages = [
        {"role": "system", "content": "Count."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": "4"},
    ]
    written(folder / "messages.jsonl", [{"messages": messages}])


def trl(folder: Path) -> None:
    prompt = [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": "How many?"}],
        }
    ]
    parquet(folder / "trl.parquet", [{"prompt": prompt, "images": [struct()], "solution": "4"}])


def verl(folder: Path) -> None:
    row = {
        "data_source": "hiyouga/geometry3k",
        "prompt": [{"role": "user", "content": "<image>Find x."}],
        "images": [struct()],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2 \\sqrt { 221 }"},
        "extra_info": {"split": "train", "index": 0, "answer": "9", "question": "<image>Find x."},
    }
    parquet(folder / "train.parquet", [row])


def easyr1(folder: Path) -> None:
    row = {"images": [struct()], "problem": "<image>Find x.", "answer": "3"}
    parquet(folder / "geometry3k.parquet", [row])


def r1v(folder: Path) -> None:
    row = {"image": struct(), "problem": "How many items?", "solution": "<answer> 3 </answer>"}
    parquet(folder / "clevr.parquet", [row])


def visual_rft(folder: Path) -> None:
    solution = "<answer>sweet pea</answer>"
    row = {"image": struct(), "problem": "Which flower is it?", "solution": solution}
    parquet(folder / "flowers.parquet", [row])


def swift(folder: Path) -> None:
    jpg(folder / "x.jpg")
    messages = [{"role": "system", "content": "Count."}, {"role": "user", "content": "<image>How?"}]
    written(folder / "swift.jsonl", [{"messages": messages, "images": ["x.jpg"], "solution": "4"}])


def swift_grounding(folder: Path) -> None:
    jpg(folder / "x.jpg")
    messages = [
        {"role": "user", "content": "<image>Find the <ref-object> in the image"},
        {"role": "assistant", "content": "<bbox>"},
    ]
    objects = {"ref": ["sheep"], "bbox": [BOX]}
    row = {"messages": messages, "images": ["x.jpg"], "objects": objects}
    written(folder / "grounding.jsonl", [row])


def mmmu(folder: Path) -> None:
    pictures: dict[str, Any] = {f"image_{number}": None for number in range(3, 8)}
    shared = {"image_1": struct("red"), "image_2": struct("blue"), **pictures, "explanation": ""}
    rows = [
        {
            "id": "validation_Art_1",
            "question": "Is <image 1> or <image 2> older?",
            "options": "['the first', 'the second']",
            "answer": "B",
            "question_type": "multiple-choice",
            **shared,
        },
        {
            "id": "validation_Art_2",
            "question": "Which year is <image 1> of, which <image 2>?",
            "options": "[]",
            "answer": "1984",
            "question_type": "open",
            **shared,
        },
    ]
    parquet(folder / "mmmu.parquet", rows)


def scienceqa(folder: Path) -> None:
    row = {
        "image": struct(),
        "question": "Which is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona"],
        "answer": 0,
        "hint": "",
        "task": "closed choice",
        "lecture": "Maps have four cardinal directions.",
        "solution": "To find the answer, look at the compass rose.",
    }
    parquet(folder / "scienceqa.parquet", [row])


def aokvqa(folder: Path) -> None:
    row = {
        "image": struct(),
        "question_id": "22MexNkBPpdZGX6sxbxVBH",
        "question": "What is the man by the bags awaiting?",
        "choices": ["skateboarder", "train", "delivery", "cab"],
        "correct_choice_idx": 3,
        "direct_answers": "['ride', 'bus', 'taxi']",
        "difficult_direct_answer": False,
        "rationales": ["A train would not be on the street."],
    }
    parquet(folder / "aokvqa.parquet", [row])


def mathvista(folder: Path) -> None:
    jpg(folder / "images/1.jpg")
    shared = {"image": "images/1.jpg", "precision": None, "unit": None, "metadata": {"task": "x"}}
    rows = {
        "1": {
            "pid": "1",
            "question": "When does the function reach its maximum?",
            "choices": None,
            "answer": "1.2",
            "question_type": "free_form",
            "answer_type": "float",
            **shared,
        },
        "2": {
            "pid": "2",
            "question": "Is it odd or even?",
            "choices": ["odd", "even"],
            "answer": "even",
            "question_type": "multi_choice",
            "answer_type": "text",
            **shared,
        },
    }
    written(folder / "testmini.json", rows)


def chartqa(folder: Path) -> None:
    jpg(folder / "png/41699051005347.png")
    row = {"imgname": "41699051005347.png", "query": "How many food items?", "label": "14"}
    written(folder / "train_human.json", [row])


def docvqa(folder: Path) -> None:
    row = {
        "questionId": "337",
        "question": "what is the date mentioned in this letter?",
        "image": struct(),
        "docId": 279,
        "answers": ["1/8/93", "January 8"],
    }
    parquet(folder / "docvqa.parquet", [row])


def vqav2(folder: Path) -> None:
    row = {
        "question_type": "what is this",
        "multiple_choice_answer": "net",
        "answers": [{"answer": "net", "answer_confidence": "yes", "answer_id": 1}],
        "image_id": 458752,
        "answer_type": "other",
        "question_id": 458752000,
        "question": "What is this photo taken looking through?",
        "image": struct(),
    }
    parquet(folder / "vqav2.parquet", [row])


def refcoco(folder: Path) -> None:
    row = {
        "question_id": "469306",
        "image": struct(),
        "question": "Please carefully observe the area circled in the image.",
        "answer": ["the man in red", "left guy"],
        "segmentation": [8.0, 6.0, 40.0, 6.0, 40.0, 30.0],
        "bbox": [8.0, 6.0, 32.0, 24.0],
        "iscrowd": 0,
        "file_name": "COCO_train2014_000000581857_16.jpg",
    }
    parquet(folder / "refcoco.parquet", [row])


def screenspot(folder: Path) -> None:
    jpg(folder / "screenspotv2_image/pc_1.png")
    row = {
        "img_filename": "pc_1.png",
        "bbox": [8, 6, 32, 24],
        "instruction": "close this window",
        "data_type": "icon",
        "data_source": "windows",
    }
    written(folder / "screenspot_desktop_v2.json", [row])


def coco(folder: Path) -> None:
    jpg(folder / "1.jpg")
    row = {"file_name": "1.jpg", "caption": "the red car", "bbox": [8, 6, 32, 24]}
    written(folder / "boxes.jsonl", [row])


def yolo(folder: Path) -> None:
    jpg(folder / "1.jpg")
    row = {"image": "1.jpg", "question": "Where is the car?", "bbox": [0.3, 0.3, 0.4, 0.4]}
    written(folder / "yolo.jsonl", [row])


def open_images(folder: Path) -> None:
    jpg(folder / "1.jpg")
    names = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded"
    (folder / "open_images.csv").write_text(
        f"{names}\n1.jpg,xclick,/m/01g317,1,0.1,0.5,0.2,0.9,0\n"
    )


def vlmevalkit(folder: Path) -> None:
    encoded = base64.b64encode(png(SIZE, "red")).decode()
    lines = [
        ("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image"),
        ("241", "Which is it?", "", "cat", "dog", "", "", "B", "animals", encoded),
        ("242", "What else?", "", "car", "bus", "van", "cab", "C", "cars", "241"),
    ]
    path = folder / "MMBench.tsv"
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def excel(folder: Path) -> None:
    jpg(folder / "a.png")
    text = "photo;question;answer\r\na.png;How long is it, in cm?;12,5\r\n"
    (folder / "excel.csv").write_text(text, encoding="utf-8-sig")


def pandas(folder: Path) -> None:
    """As pandas writes whole numbers beside an empty cell: as floats."""
    jpg(folder / "a.png")
    rows = [
        {"image": "a.png", "question": "How many?", "answer": 3.0},
        {"image": "a.png", "question": "How many?", "answer": float("nan")},
    ]
    parquet(folder / "table.parquet", rows)


def classes(folder: Path) -> None:
    jpg(folder / "flowers/rose/1.png")
    jpg(folder / "flowers/tulip/2.png")


def metadata(folder: Path) -> None:
    jpg(folder / "pictures/0001.png")
    row = {"file_name": "0001.png", "question": "How many?", "answer": 3}
    written(folder / "pictures/metadata.jsonl", [row])


def saved(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    row = {"image": struct(), "question": "How many?", "answer": 3}
    table = datasets.Dataset.from_list([row]).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": table}).save_to_disk(str(folder / "saved"))


def configs(folder: Path) -> None:
    card = """---
configs:
- config_name: easy
  data_files: [{split: test, path: easy.parquet}]
- config_name: hard
  data_files: [{split: test, path: hard.parquet}]
---
"""
    for name, answer in (("easy", 1), ("hard", 7)):
        row = {"image": struct(), "question": "How many?", "answer": answer}
        parquet(folder / "cloned" / f"{name}.parquet", [row])
    (folder / "cloned/README.md").write_text(card)


def shards(folder: Path) -> None:
    for number in range(2):
        row = {"images": [struct()], "problem": f"How many in {number}?", "answer": str(number)}
        parquet(folder / f"data/train-0000{number}-of-00002.parquet", [row])
    parquet(folder / "data/test-00000-of-00001.parquet", [{"problem": "?", "answer": "9"}])


def own(folder: Path) -> None:
    jpg(folder / "a.png")
    written(folder / "rows.jsonl", [{"problem": "How many?", "solution": 3, "img": "a.png"}])


SYSTEM = (Turn("system", "Count."),)
FORMATS = {
    "Data": Format(own, [Expected("How many?", 3, images=("a.png",))]),
    "LLaVA conversations": Format(
        llava,
        [
            Expected(
                "Which colour has it?",
                "red",
                context=(Turn("user", "<image>\nWhat is it?"), Turn("assistant", "a bus")),
                images=("000000033471.jpg",),
            )
        ],
    ),
    "VLM-R1 lines": Format(
        vlm_r1,
        [
            Expected("<image>What number of purple metallic balls are there?", "0"),
            Expected("<image><image>How many in total?", "3", pictures=2),
        ],
    ),
    "ShareGPT of LLaMA-Factory": Format(
        sharegpt,
        [
            Expected(
                "<image>Who are they?",
                "Kane and Gretzka",
                context=(Turn("system", "You know football."),),
            ),
            Expected("<image>Who is he?", "Thomas Muller"),
        ],
    ),
    "Alpaca of LLaMA-Factory": Format(alpaca, [Expected("What is it?", "a bus")]),
    "OpenAI messages": Format(openai, [Expected("How many squares?<image>", "4", context=SYSTEM)]),
    "TRL prompts": Format(trl, [Expected("<image>How many?", "4")]),
    "verl": Format(verl, [Expected("<image>Find x.", "2 \\sqrt { 221 }")]),
    "EasyR1": Format(easyr1, [Expected("<image>Find x.", "3")]),
    "R1-V": Format(r1v, [Expected("How many items?", "3")]),
    "Visual-RFT classification": Format(visual_rft, [Expected("Which flower is it?", "sweet pea")]),
    "ms-swift": Format(swift, [Expected("<image>How?", "4", context=SYSTEM)]),
    "ms-swift grounding": Format(
        swift_grounding, [Expected("<image>Find the sheep in the image", [BOX])]
    ),
    "MMMU": Format(
        mmmu,
        [
            Expected(
                "Is <image 1> or <image 2> older?",
                "B",
                choices=("the first", "the second"),
                pictures=2,
            )
        ],
        ["not one of the choices"],
    ),
    "ScienceQA": Format(
        scienceqa,
        [
            Expected(
                "Which is farthest north?", "A", choices=("West Virginia", "Louisiana", "Arizona")
            )
        ],
    ),
    "A-OKVQA": Format(
        aokvqa,
        [
            Expected(
                "What is the man by the bags awaiting?",
                "D",
                choices=("skateboarder", "train", "delivery", "cab"),
            )
        ],
    ),
    "MathVista": Format(
        mathvista,
        [
            Expected("Is it odd or even?", "even", choices=("odd", "even")),
            Expected("When does the function reach its maximum?", "1.2"),
        ],
        ["not one of the choices", "is not a value"],
    ),
    "ChartQA": Format(chartqa, [Expected("How many food items?", "14")]),
    "DocVQA and TextVQA": Format(
        docvqa,
        [Expected("what is the date mentioned in this letter?", ["1/8/93", "January 8"])],
    ),
    "VQAv2": Format(vqav2, [Expected("What is this photo taken looking through?", "net")]),
    "RefCOCO of lmms-lab": Format(refcoco, [Expected("the man in red", [BOX])]),
    "ScreenSpot": Format(screenspot, [Expected("close this window", [BOX], images=("pc_1.png",))]),
    "COCO boxes in rows": Format(coco, [Expected("the red car", [BOX], images=("1.jpg",))]),
    "YOLO boxes": Format(yolo, [Expected("Where is the car?", [[0.1, 0.1, 0.5, 0.5]])]),
    "Open Images": Format(
        open_images, [Expected("Where is it?", [[0.1, 0.2, 0.5, 0.9]], images=("1.jpg",))]
    ),
    "VLMEvalKit TSV": Format(
        vlmevalkit, [Expected("Which is it?", "B", choices=("cat", "dog"))], ["image"]
    ),
    "Excel": Format(excel, [Expected("How long is it, in cm?", "12.5", images=("a.png",))]),
    "pandas": Format(pandas, [Expected("How many?", 3)], ["answer"]),
    "A folder of classes": Format(
        classes,
        [Expected("Which flower is it?", "rose"), Expected("Which flower is it?", "tulip")],
    ),
    "A folder with metadata": Format(metadata, [Expected("How many?", 3, images=("0001.png",))]),
    "save_to_disk": Format(saved, [Expected("How many?", 3)]),
    "A data set with configs": Format(configs, [Expected("How many?", 7)]),
    "Shards": Format(shards, [Expected("How many in 0?", "0"), Expected("How many in 1?", "1")]),
}


def samples_and_reasons(sources: Sequence[Source], folder: Path) -> tuple[list[Sample], list[str]]:
    """The samples of some sources that earn the full reward, and why the other rows do not."""
    verifiers = verifiers_of(None)
    samples: list[Sample] = []
    reasons: list[str] = []
    for source in sources:
        for row in read_source(source, base_dir=folder, key="data.0"):
            why = row.why if isinstance(row, LeftOut) else verifiers.validation_error(row)
            if isinstance(row, Sample) and not why:
                samples.append(row)
            else:
                reasons.append(why)
    return samples, reasons


def _told(answer: Any) -> Any:
    """An answer without its type: 3 is a number where the kind is number, else a text."""
    return str(answer) if isinstance(answer, int | float) else answer


def check_samples(samples: Sequence[Sample], expected: Sequence[Expected]) -> None:
    """Compare every part of the samples with what their rows must become."""
    got = [(each.question, _told(each.answer), each.choices, each.context) for each in samples]
    assert got == [(row.question, _told(row.answer), row.choices, row.context) for row in expected]
    for sample, row in zip(samples, expected, strict=True):
        assert len(sample.images) == row.pictures
        assert set(sample.sizes) == {SIZE}
        if row.images:
            assert tuple(Path(str(image)).name for image in sample.images) == row.images
