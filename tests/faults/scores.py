"""Faults in scores, one line each, that the suite must see: verifiers, boxes, records,
comparisons, the audit, data sets."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "data/columns/true_boxes.py",
        "data/test_true_boxes.py::test_the_declared_format_is_read_without_errors_of_rounding",
        {
            "the middle of a box is read as its corner": (
                'is_middle=box_format == "cxcywh")\n\n\ndef _of_size',
                "is_middle=False)\n\n\ndef _of_size",
            ),
            "the bounds of parts are those of the first": (
                "        corners += [left, top, right, top, right, bottom]",
                "        corners = corners or [left, top, right, top, right, bottom]",
            ),
        },
    ),
    *within(
        "data/columns/true_boxes.py",
        "data/test_true_boxes.py::test_what_is_no_box_is_refused_with_the_value_and_the_reason",
        {
            "boxes in different pictures are one answer": ("if len(images) > 1:", "if False:"),
            "a record may hold two boxes": ("if reading != readings[0]:", "if False:"),
            "an area of width and height says nothing": (
                "if is_area_of_sides(area, box.corners):",
                "if False:",
            ),
        },
    ),
    *within(
        "preflight/size_checks.py",
        "preflight/test_size_checks.py",
        {
            "a size of another thing is that of the picture": (
                "return bool(inside) and all(inside)",
                "return True",
            ),
            "a picture on its side is of the same size": (
                'if sample.frame == "pixels":\n        return max(',
                'if sample.frame == "pixels":\n        return 0 * max(',
            ),
        },
    ),
    *within(
        "preflight/box_checks.py",
        "preflight/test_box_checks.py",
        {
            "boxes of width and height are not told from corners": (
                "return Box(x, y, x + width, y + height)",
                "return Box(x, y, width, height)",
            ),
            "small pictures make thousandths of everything": (
                "if _changes(other, counts.declared) == 2 and not counts.is_mostly_wrong:",
                "if False:",
            ),
        },
    ),
    *within(
        "verifiers/detection.py",
        "verifiers/test_box_verifiers.py::test_a_detection_by_hand",
        {
            "the IoU threshold of a pair is dropped": (
                "return iou if iou >= self.threshold else 0.0",
                "return iou",
            ),
            "a pair exactly at the threshold is none": (
                "return iou if iou >= self.threshold else 0.0",
                "return iou if iou > self.threshold else 0.0",
            ),
            "recall counts the boxes given": (
                "sure = (1 - brier) * len(pairs) / len(truths)",
                "sure = (1 - brier) * len(pairs) / len(given)",
            ),
            "localisation counts the truths alone": (
                "localised = sum(iou for _, iou in pairs) / max(len(given), len(truths))",
                "localised = sum(iou for _, iou in pairs) / len(truths)",
            ),
            "the shares of confidence and localisation are swapped": (
                (
                    "accuracy = (1 - self.confidence_weight) * localised + self.confidence_weight *"
                    " sure"
                ),
                (
                    "accuracy = self.confidence_weight * localised + (1 - self.confidence_weight) *"
                    " sure"
                ),
            ),
        },
    ),
    *within(
        "verifiers/detection.py",
        "verifiers/test_box_verifiers.py::"
        "test_where_the_truth_names_classes_each_box_must_name_its_own",
        {
            "a box without a name has any name": (
                "return not true or",
                "return not true or not given or",
            ),
            "names are not looked at": ("return not true or", "return True or not true or"),
        },
    ),
    *within(
        "verifiers/detection.py",
        "verifiers/test_box_verifiers.py::"
        "test_one_box_without_a_sound_confidence_spoils_the_answer",
        {
            "one sound confidence is enough": (
                "not all(map(_has_confidence, given))",
                "not any(map(_has_confidence, given))",
            )
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_box_verifiers.py::"
        "test_a_box_may_leave_the_picture_by_a_hundredth_of_that_side_and_is_cut",
        {
            "the excess on the right is a share of the height": (
                "(box.x2 - width) / width",
                "(box.x2 - width) / height",
            ),
            "the excess below is not looked at": (", (box.y2 - height) / height", ""),
            "the excess above is a share of the width": ("-box.y1 / height", "-box.y1 / width"),
            "the tolerance is never reached": (
                "if excess <= TOLERANCE:",
                "if excess < TOLERANCE:",
            ),
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_box_verifiers.py::"
        "test_a_truth_outside_the_picture_or_without_area_is_refused",
        {
            "a truth is held against the other side": (
                "box.x2 <= width + x_slack and box.y2 <= height + y_slack",
                "box.x2 <= height + x_slack and box.y2 <= width + y_slack",
            ),
            "a truth may begin above the picture": (
                "box.x1 >= -x_slack and box.y1 >= -y_slack",
                "box.x1 >= -x_slack",
            ),
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_box_verifiers.py::test_a_truth_rounded_beyond_the_edge_is_cut_off",
        {
            "a truth beyond the edge is not cut off": (
                "min(box.x2, width), min(box.y2, height))\n\n\ndef stored_boxes",
                "box.x2, box.y2)\n\n\ndef stored_boxes",
            ),
            "a rounded pixel leaves the truth out": (
                "TRUTH_ROUNDING = 1.0",
                "TRUTH_ROUNDING = 0.0",
            ),
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_box_verifiers.py::test_boxes_of_several_pictures_name_theirs",
        {
            "a box of any picture is held against the first": (
                "if sample.answer_image == 0 and count > 1:",
                "if False:",
            ),
            "a picture that is not there may be named": (
                "if not 0 <= sample.answer_image <= count:",
                "if sample.answer_image < 0:",
            ),
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_box_verifiers.py::test_several_boxes_share_what_the_larger_number_allows",
        {
            "boxes too many cost nothing": (
                "total / max(len(given), len(truths))",
                "total / max(1, len(truths))",
            )
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_box_verifiers.py::"
        "test_an_answer_may_hold_as_many_boxes_as_said_and_no_more",
        {
            "one box fewer may be held": (
                "if len(given) > self.most:",
                "if len(given) >= self.most:",
            )
        },
    ),
    *within(
        "verifiers/choice.py",
        "verifiers/test_verifiers.py::test_of_two_options_that_read_alike_either_is_right",
        {
            "the letter of a doubled option is wrong": (
                "return len(given) == len(truths) and given_words == true_words",
                "return given == truths",
            )
        },
    ),
    *within(
        "verifiers/choice.py",
        "verifiers/test_verifiers.py::test_a_letter_may_count_only_where_it_was_shown",
        {"one letter in the question shows all": ("return all(_shows(", "return any(_shows(")},
    ),
    *within(
        "verifiers/label.py",
        "verifiers/test_verifiers.py::test_a_class_is_named_by_its_name_or_an_alias",
        {
            "an alias takes a class's own name": (
                "return others | classes",
                "return classes | others",
            )
        },
    ),
    *within(
        "verifiers/value.py",
        "verifiers/test_verifiers.py::test_a_value_within_its_tolerance",
        {
            "whole numbers may differ": (
                "self.tolerance, whole=self.whole)",
                "self.tolerance, whole=False)",
            )
        },
    ),
    *within(
        "verifiers/dispatch.py",
        "verifiers/test_verifiers.py::test_a_reference_answer_may_lose_a_millionth_and_no_more",
        {
            "a reference answer that earns anything will do": (
                "if verdict.reward >= required:",
                "if verdict.reward > 0:",
            )
        },
    ),
    *within(
        "verifiers/base.py",
        "verifiers/test_verifiers.py::test_the_format_is_paid_in_every_mode_and_required_in_one",
        {
            "the gate stands in every mode": (
                'gated = self.combine == "gate" and self.mode == "strict"',
                'gated = self.combine == "gate"',
            )
        },
    ),
    *within(
        "verifiers/base.py",
        "verifiers/test_accepted_answers.py::"
        "test_any_of_the_accepted_answers_is_right_and_two_of_them_are_none",
        {
            "only the first accepted answer counts": (
                "if best is None or grade.accuracy > best.accuracy:",
                "if best is None:",
            )
        },
    ),
    *within(
        "verifiers/chance.py",
        "verifiers/test_accepted_answers.py::"
        "test_chance_counts_every_accepted_answer_and_every_row_once",
        {
            "two accepted answers of one row count twice": (
                "largest = max(largest, len(in_window))",
                "largest = max(largest, in_window.total())",
            )
        },
    ),
    *within(
        "data/columns/truths.py",
        "data/test_truths.py::test_the_wrapping_of_published_sets_is_taken_off",
        {
            "an amount in dollars is a formula": (
                "if inside.strip() and inside[0].isspace() == inside[-1].isspace():",
                "if inside.strip():",
            )
        },
    ),
    *within(
        "verifiers/expression.py",
        "verifiers/test_expressions.py::test_an_equation_has_one_symbol_on_its_left",
        {"an answer may state two things": ("if not _is_single(bare, truth):", "if False:")},
    ),
    *within(
        "verifiers/math_worker.py",
        "verifiers/test_expressions.py::"
        "test_an_answer_of_the_math_process_to_another_request_is_a_fault_and_ends_it",
        {
            "the answer to another request is taken": (
                'if reply["id"] != self.last_id:',
                "if False:",
            )
        },
    ),
    *within(
        "verifiers/published_rules.py",
        "verifiers/test_published_rules.py::test_the_detection_rule_by_hand",
        {
            "an overlap of exactly one half is a find": (
                "overlaps[best] > 0.5",
                "overlaps[best] >= 0.5",
            )
        },
    ),
    *within(
        "parsing/markup.py",
        "parsing/test_markup.py::test_the_only_answer_of_a_malformed_text",
        {
            "a doubled opening tag is one": (
                'text.count("<answer>") != 1 or',
                'text.count("<answer>") < 1 or',
            ),
            "a doubled closing tag is one": (
                'text.count("</answer>") != 1:',
                'text.count("</answer>") < 1:',
            ),
        },
    ),
    *within(
        "prompts.py",
        "test_prompts.py::test_a_question_is_asked_as_it_stands_whatever_braces_it_holds",
        {
            "the instruction is put into the question": (
                'template.partition("{question}")',
                (
                    'template.replace("{question}", _words_of(question))'
                    '.replace("{instruction}", self.instruction).partition("{question}")'
                ),
            )
        },
    ),
    *within(
        "boxes.py",
        "test_boxes.py::test_resizing_at_its_borders",
        {
            "a picture exactly as large as may be is shrunk": (
                "if new_width * new_height > max_pixels:",
                "if new_width * new_height >= max_pixels:",
            ),
            "a picture exactly as small as may be is grown": (
                "elif new_width * new_height < min_pixels:",
                "elif new_width * new_height <= min_pixels:",
            ),
        },
    ),
    *within(
        "data/columns/picture_cells.py",
        "data/test_rows.py::test_a_sibling_folder_whose_name_begins_alike_is_outside",
        {
            "a folder whose name begins alike is inside": (
                "if not path.is_relative_to(folder):",
                "if not str(path).startswith(str(folder)):",
            )
        },
    ),
    *within(
        "data/columns/picture_cells.py",
        "data/test_rows.py::test_a_link_that_leads_out_of_the_data_folder_is_refused",
        {
            "links are not followed before the folder is checked": (
                "return in_folder.resolve() if is_link else in_folder",
                "return in_folder",
            )
        },
    ),
    *within(
        "data/rows.py",
        "data/test_rows.py::test_rows_that_stop_coming_leave_no_file_that_looks_whole",
        {
            "rows are written in place": (
                'unfinished = folder / "samples.jsonl.part"',
                'unfinished = folder / "samples.jsonl"',
            )
        },
    ),
    *within(
        "evaluation/evaluate.py",
        "evaluation/test_records.py::"
        "test_every_draw_of_every_question_has_a_seed_of_its_own_and_the_same_one_each_time",
        {
            "all draws of a question have one seed": (
                '"evaluate", *address, n)',
                '"evaluate", *address)',
            ),
            "all questions have one seed": ('"evaluate", *address, n)', '"evaluate", n)'),
            "the seed of the run is left out": (
                "addressed_seed(benchmark.seed, ",
                "addressed_seed(",
            ),
        },
    ),
    *within(
        "evaluation/records.py",
        "evaluation/test_records.py::"
        "test_one_answer_of_another_evaluation_is_enough_to_refuse_a_file",
        {
            "one answer of its own makes a file its own": (
                "if any(record.evaluation != self.fingerprint",
                "if all(record.evaluation != self.fingerprint",
            )
        },
    ),
    *within(
        "evaluation/benchmark.py",
        "evaluation/test_records.py::test_a_short_evaluation_asks_the_first_so_many_of_every_row",
        {
            "a row of the table loses its last question": (
                "if seen[self.tag(sample)] <= head:",
                "if seen[self.tag(sample)] < head:",
            )
        },
    ),
    *within(
        "evaluation/evaluate.py",
        "evaluation/test_records.py::test_a_blank_question_shows_grey_pictures_of_the_same_sizes",
        {
            "grey pictures lie on their side": (
                'Image.new("RGB", size, (128, 128, 128))',
                'Image.new("RGB", size[::-1], (128, 128, 128))',
            )
        },
    ),
    *within(
        "evaluation/records.py",
        "evaluation/test_records.py::test_a_disk_that_fills_up_leaves_the_old_file_whole",
        {
            "records are written in place": (
                'aside = path.with_name(path.name + ".new")',
                "aside = path",
            )
        },
    ),
    *within(
        "evaluation/compare.py",
        "evaluation/test_compare.py::test_how_likely_so_large_a_difference_is_by_hand",
        {"only larger differences are as far from zero": ("* (1 - 1e-9)", "* (1 + 1e-9)")},
    ),
    *within(
        "evaluation/statistics.py",
        "evaluation/test_compare.py::test_an_interval_never_leaves_what_is_possible",
        {
            "the interval of shares leaves what is possible": (
                "low=max(0.0, own.low), high=min(1.0, own.high)",
                "low=own.low, high=own.high",
            )
        },
    ),
    *within(
        "evaluation/compare.py",
        "evaluation/test_compare.py::"
        "test_the_records_say_their_benchmark_and_the_name_of_their_file_does_not",
        {
            "a file is called as its benchmark": (
                "return own or _name_of(path)",
                "return _name_of(path)",
            )
        },
    ),
    *within(
        "evaluation/compare.py",
        "evaluation/test_compare.py::"
        "test_only_files_of_its_folder_evaluation_are_the_evaluations_of_a_run",
        {
            "metrics of a run are an evaluation": (
                'if is_run(path) or (path / "evaluation").is_dir():',
                'if (path / "evaluation").is_dir():',
            )
        },
    ),
    *within(
        "evaluation/statistics.py",
        "evaluation/test_compare.py::test_a_weighted_sum_adds_distances_as_standard_errors_do",
        {
            "the distance above is the one below": (
                "weight * (part.high - part.mean)",
                "weight * (part.mean - part.low)",
            )
        },
    ),
    *within(
        "verifiers/exploits.py",
        "verifiers/test_exploits.py::test_every_exploit_is_tried_and_reads_as_it_should",
        {
            "no grid of boxes is tried": (
                '        ("a grid of boxes", "[" + ",".join(_grid(whole)) + "]"),\n',
                "",
            ),
            "stated letters are not tried": (
                (
                    '        ("every letter stated", " ".join(f"The answer is ({letter})." for '
                    "letter in letters)),\n"
                ),
                "",
            ),
        },
    ),
    *within(
        "preflight/model_checks.py",
        "preflight/test_model_checks.py::"
        "test_a_prompt_and_the_longest_answer_must_fit_into_the_window_together",
        {
            "the answer needs no room in the window": (
                "if longest > room:",
                "if longest > reader.window:",
            )
        },
    ),
    *within(
        "preflight/picture_checks.py",
        "preflight/test_picture_checks.py::test_pictures_are_equal_when_size_and_every_pixel_are",
        {
            "pictures of equal bytes are equal": (
                "str(image.size).encode() + image.tobytes()",
                "image.tobytes()",
            )
        },
    ),
    *within(
        "evaluation/average_precision.py",
        "evaluation/test_average_precision.py::"
        "test_of_a_picture_the_three_hundred_surest_count_all_classes_together",
        {
            "the least sure detections count": (
                'key=lambda item: -item["score"]',
                'key=lambda item: item["score"]',
            )
        },
    ),
    *within(
        "data/recipes/detection.py",
        "data/test_recipe_rows.py::test_a_box_of_an_annotation_is_cut_to_a_wide_picture",
        {
            "a box is cut at the height across": (
                "min(x + width, size[0])",
                "min(x + width, size[1])",
            )
        },
    ),
    *within(
        "data/recipes/lisa.py",
        "data/test_recipe_rows.py::test_the_box_of_a_region_is_cut_to_a_wide_picture",
        {
            "a region is cut by the other side": (
                "min(float(width), max(x for",
                "min(float(height), max(x for",
            )
        },
    ),
    *within(
        "data/recipes/refcoco.py",
        "data/test_recipe_rows.py::test_a_box_of_corner_and_sides_becomes_two_corners",
        {
            "the sides of a box are taken for its corner": (
                "box = [x, y, x + width, y + height]",
                "box = [x, y, width, height]",
            )
        },
    ),
    *within(
        "verifiers/math_worker.py",
        "verifiers/test_expressions.py::"
        "test_an_answer_on_which_the_library_fails_is_wrong_and_the_next_one_is_compared",
        {
            "what the library fails on is right": (
                'return {"right": False, "read": message',
                'return {"right": True, "read": message',
            )
        },
    ),
    *within(
        "verifiers/math_worker.py",
        "verifiers/test_expressions.py::test_what_math_verify_does_not_read_is_said_and_no_failure",
        {
            "what is not read is a failure": (
                'str(given[0])[:MAX_READ] if given else ""',
                "str(given[0])[:MAX_READ]",
            )
        },
    ),
]
