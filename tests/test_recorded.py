"""What real models answered: the verifiers give the figures that a right evaluator gives, and in reference mode the authors' own."""

import re

import pytest

from gpg_vl.boxes import Frame
from gpg_vl.prompts import Style
from gpg_vl.verifiers.boxes import Boxes
from gpg_vl.verifiers.choice import Choice
from gpg_vl.verifiers.expression import Expression
from gpg_vl.verifiers.number import Number
from gpg_vl.verifiers.value import Value
from tests import recorded
from tests.recorded import read, reference, right, sample, verdicts

pytestmark = recorded.needed

VLM_R1 = "grounding/vlmr1/rec_results_"
PIXEL_LOGS = [
    "refcoco_val_qwen2_5vl_3b_instruct_baseline",
    "refcoco_val_qwen2_5vl_3b_instruct_r1_300",
    "refcoco_val_qwen2_5vl_3b_instruct_r1_600",
    "refcoco_val_qwen2_5vl_3b_instruct_sft_500",
    "refcocog_val_qwen2_5vl_3b_instruct_r1_300",
    "refcocog_val_qwen2_5vl_3b_instruct_sft_200",
    "refgta_subsample_qwen2_5vl_3b_instruct_baseline",
    "refgta_subsample_qwen2_5vl_3b_instruct_r1_100",
    "refgta_subsample_qwen2_5vl_3b_instruct_r1_300",
    "refgta_subsample_qwen2_5vl_3b_instruct_sft_500",
]
RESCALED_LOGS = {"refcoco_val_qwen2_5vl_3b_instruct_baseline", "refcocog_val_qwen2_5vl_3b_instruct_baseline"}
"""Logs whose authors rescaled boxes before they compared."""
GROUNDING = {"mode": "lenient", "policy": "first"}


def box_pairs(log, key="ground_truth"):
    return [(record["model_output"], sample("boxes", [record[key]])) for record in read(f"{VLM_R1}{log}.json")["results"]]


# --- grounding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", PIXEL_LOGS)
def test_grounding_logs_to_the_record(log):
    expected = reference(f"{VLM_R1}{log}.json")
    given = verdicts(Boxes(**GROUNDING, threshold=0.5), box_pairs(log))
    assert right(given) == expected["reference_correct"]
    assert [place for place, verdict in enumerate(given) if verdict.reason == "unreadable: no box"] == expected["no_box_records"]
    overlaps = [verdict.reward for verdict in verdicts(Boxes(**GROUNDING), box_pairs(log))]
    assert round(sum(overlaps) / len(overlaps), 4) == expected["mean_iou"]


@pytest.mark.parametrize("log", [log for log in PIXEL_LOGS if log not in RESCALED_LOGS])
def test_reference_mode_gives_the_recorded_verdict_of_every_grounding_answer(log):
    records = read(f"{VLM_R1}{log}.json")["results"]
    given = [verdict.reward for verdict in verdicts(Boxes(mode="reference"), box_pairs(log))]
    differ = [place for place, record in enumerate(records) if given[place] != record["correct"]]
    # two answers of one log end in a brace too many; the rule of that day refused them, the published one does not
    assert differ == ([183, 291] if log.endswith("r1_100") else [])


def span(shown, thousandths):
    """The image's side, from numbers in its pixels and what its authors made of them: floor(v / side * 1000)."""
    low = max((1000 * pixels / (floor + 1) for pixels, floor in zip(shown, thousandths, strict=True) if pixels), default=0)
    high = min((1000 * pixels / floor for pixels, floor in zip(shown, thousandths, strict=True) if floor), default=2 * low)
    return round((low + high) / 2) or 1


def seen_sizes(records):
    sizes = []
    for record in records:
        found = re.search(r"\[(\d+), (\d+), (\d+), (\d+)\]", record["model_output"])
        shown = [int(number) for number in found.groups()] if found else [1000] * 4
        floored = record["extracted_answer"] if found else [1000] * 4
        sizes.append((span(shown[::2], floored[::2]), span(shown[1::2], floored[1::2])))
    return sizes


def test_the_wrong_frame_reads_zero_and_the_right_one_the_truth():
    log = f"{VLM_R1}refcoco_val_qwen2_5vl_3b_instruct_baseline.json"
    records = read(log)["results"]
    sizes = seen_sizes(records)
    pairs = [(str(record["extracted_answer"]), record, size) for record, size in zip(records, sizes, strict=True)]
    asked = [(text, sample("boxes", [record["ground_truth"]], sizes=((4000, 4000),))) for text, record, _ in pairs]
    wrong = verdicts(Boxes(**GROUNDING, threshold=0.5, frame=Frame()), asked)
    assert 100 * right(wrong) / len(records) == reference(log)["recorded_accuracy"] == 0.0
    # the truth is stored in pixels of an image that may be a little larger than the recovered size, so it is handed over in thousandths
    asked = [
        (text, sample("boxes", [[1000 * edge / size[axis % 2] for axis, edge in enumerate(record["ground_truth"])]], frame="norm1000"))
        for text, record, size in pairs
    ]
    corrected = verdicts(Boxes(**GROUNDING, threshold=0.5, frame=Frame(kind="norm1000")), asked)
    assert right(corrected) == reference(log)["reference_correct"]


def test_a_truth_in_thousandths_and_answers_in_pixels_meet_in_the_frame_code():
    log = f"{VLM_R1}refcocog_val_qwen2_5vl_3b_instruct_baseline.json"
    records = read(log)["results"]
    asked = [
        (record["model_output"], sample("boxes", [record["ground_truth"]], frame="norm1000", sizes=(size,)))
        for record, size in zip(records, seen_sizes(records), strict=True)
    ]
    given = verdicts(Boxes(**GROUNDING, threshold=0.5, frame=Frame()), asked)
    assert right(given) == reference(log)["reference_correct"]
    assert right(verdicts(Boxes(**GROUNDING, threshold=0.5, frame=Frame(kind="norm1000")), asked)) < 50


def test_a_pair_of_corners_is_read_out_of_the_published_demonstration():
    demo = read("grounding/visual_rft_lisa_demo.json")
    text = demo["raw_text_with_prompt"]
    (corners,) = re.findall(r"<answer>\s*\((\d+),\s*(\d+)\),\s*\((\d+),\s*(\d+)\)\s*</answer>", text)
    truth = sample("boxes", [[int(edge) for edge in corners]], frame="norm1000", sizes=((267, 189),))
    assert Boxes(mode="lenient", frame=Frame(kind="norm1000"))(text, truth).reward == pytest.approx(1.0)


# --- counting and geometry --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["lenient", "reference"])
@pytest.mark.parametrize(("log", "correct"), [("instruct", 96), ("grpo100", 165)])
def test_superclevr_counts(mode, log, correct):
    name = f"counting/superclevr_200_qwen2vl_2b_{log}.json"
    given = verdicts(
        Number(mode=mode), [(record["model_output"], sample("number", record["ground_truth"])) for record in read(name)["results"]]
    )
    assert right(given) == correct == reference(name)["recorded_correct"]


def test_no_answer_without_a_think_block_is_well_formed():
    name = "counting/superclevr_200_qwen2vl_2b_grpo100.json"
    pairs = [(record["model_output"], sample("number", record["ground_truth"])) for record in read(name)["results"]]
    assert sum(verdict.parts["format"] for verdict in verdicts(Number(style=Style()), pairs)) == 0
    assert sum(verdict.reward for verdict in verdicts(Number(style=Style()), pairs)) == 0
    assert sum(verdict.reward for verdict in verdicts(Number(style=Style(think="absent")), pairs)) == 165


def geoqa():
    return [
        (record["model_output"], sample("value", record["ground_truth"]))
        for record in read("math/geoqa_test_qwen2vl_7b_instruct.json")["results"]
    ]


def test_geoqa_by_value():
    expected = reference("math/geoqa_test_qwen2vl_7b_instruct.json")
    given = verdicts(Value(mode="lenient"), geoqa())
    assert right(given) == expected["reference_correct_value_in_answer_tag"] == 199
    assert not [place for place in expected["no_answer_tag_but_recorded_correct"] if given[place].reward]
    assert not [place for place, _, _ in expected["recorded_false_positives"] if given[place].reward]
    assert all(given[place].reward for place, _, _ in expected["recorded_false_negatives"])
    assert all(given[place].reason == "unreadable: not one value" for place, _, _, _ in expected["answers_not_a_number"])


def test_every_geoqa_truth_is_a_value():
    for record in read("math/geoqa_test_prompts.jsonl"):
        assert Value().gold(sample("value", record["ground_truth"])) == record["ground_truth"]


@pytest.mark.parametrize("verifier", [Value, Expression])
def test_geoqa_by_the_authors_rule(verifier):
    records = read("math/geoqa_test_qwen2vl_7b_instruct.json")["results"]
    given = verdicts(verifier(mode="reference"), geoqa())
    assert [bool(verdict.reward) for verdict in given] == [record["is_correct"] for record in records]
    assert right(given) == 231


def test_the_library_agrees_with_its_own_cases():
    cases = read("math/math_verify_cases.jsonl")
    plain = [case for case in cases if not {"precision", "allow_set_relation_comp"} & case.keys()]
    assert len(plain) > 100
    verifier = Expression(mode="lenient")
    wrong = [case for case in plain if verifier(case["pred"], sample("expression", case["gold"])).reward != case["expected"]]
    assert [case["gold"] for case in wrong] == ["$9$"]  # math-verify 0.9.0 itself: 126 of 127


# --- choice -----------------------------------------------------------------------------------------------------------


def letters_given(texts, choices):
    verifier = Choice(mode="lenient")
    given = [verifier(text, sample("choice", options[0], choices=tuple(options))) for text, options in zip(texts, choices, strict=True)]
    return [
        "" if verdict.reason.startswith("unreadable") else chr(ord("A") + list(options).index(verdict.answer))
        for verdict, options in zip(given, choices, strict=True)
    ]


@pytest.mark.parametrize("model", ["GPT4o", "QwenVLMax", "MiniGPT-4-v2", "llava_v1.5_13b"])
def test_blink_letters_wherever_exactly_one_is_parenthesised(model):
    records = read(f"choice/blink_val/{model}.jsonl")
    texts = [record["full_prediction"] for record in records]
    alone = [set(re.findall(r"\(([A-Z])\)", text)) for text in texts]
    given = letters_given(texts, [tuple("ABCDE")] * len(texts))
    assert (
        sum(len(letters) == 1 for letters in alone)
        >= reference(f"choice/blink_val/{model}.jsonl")["records_with_exactly_one_parenthesised_letter"]
    )
    differ = [
        (text[-200:], letter)
        for text, letters, letter in zip(texts, alone, given, strict=True)
        if len(letters) == 1 and letter not in letters
    ]
    assert len(differ) <= 3, differ  # texts that go on to state another letter, or none of the options
