"""Faults in reading files and data sets as rows."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "data/reading/json_rows.py",
        "data/test_formats.py::test_a_broken_line_does_not_end_the_reading",
        {
            "of two values with one name the last is taken": (
                "if len(values) == len(pairs):",
                "if values is not None:",
            )
        },
    ),
    *within(
        "data/reading/json_rows.py",
        "data/test_formats.py::test_rows_by_id_get_their_keys_as_ids_unless_they_have_ids",
        {
            "the key of a row replaces its id": (
                'if not isinstance(row, BadRow) and row.get("id") is None:',
                "if not isinstance(row, BadRow):",
            )
        },
    ),
    *within(
        "data/reading/delimited.py",
        "data/test_formats.py::test_a_stray_quote_takes_no_other_row_with_it_unseen",
        {"a stray quote is read somehow": ("strict=True, skip", "strict=False, skip")},
    ),
    *within(
        "data/reading/delimited.py",
        "data/test_formats.py::test_headers_that_are_refused",
        {
            "of two columns with one name the last is read": (
                "if len(places) > 1:",
                "if len(places) > 2:",
            )
        },
    ),
    *within(
        "data/reading/tables.py",
        "data/test_formats.py::test_labels_that_datasets_wrote_as_numbers_become_names",
        {
            "no label is the last label": (
                "return names[number] if 0 <= number < len(names) else None",
                "return names[number] if number < len(names) else None",
            )
        },
    ),
    *within(
        "data/reading/hub.py",
        "data/test_hub_folders.py::test_an_archive_that_changed_is_read_again",
        {
            "a changed archive stays open": (
                "opened = _opened_archive(archive, Path(archive).stat().st_mtime_ns)",
                "opened = _opened_archive(archive, 0)",
            )
        },
    ),
    *within(
        "data/reading/hub.py",
        "data/test_hub_folders.py::test_a_name_that_is_a_path_is_not_asked_of_the_hub",
        {
            "a bare name is asked of the hub": (
                'if not owner or owner[0] in ".~" or not rest or "/" in rest or "\\\\" in name:',
                'if not owner or owner[0] in ".~" or "/" in rest or "\\\\" in name:',
            )
        },
    ),
    *within(
        "data/reading/files.py",
        "data/test_files.py::test_files_of_a_pattern_are_in_natural_order",
        {
            "part 10 is read before part 2": (
                "return sorted(readable, key=naturally)",
                "return sorted(readable)",
            )
        },
    ),
    *within(
        "data/reading/files.py",
        "data/test_files.py::test_files_that_may_not_all_be_meant_are_refused",
        {
            "a folder's test split is trained on": (
                '_expect_one(name, "splits", {path: _split_of(path) for path in readable})',
                "",
            )
        },
    ),
    *within(
        "data/columns/options.py",
        "data/test_options.py::test_words_that_only_look_like_letters_stay",
        {
            "E of E. coli is the letter of an option": (
                "return set(letters) <= first or run",
                "return True or run",
            )
        },
    ),
    *within(
        "data/columns/true_options.py",
        "data/test_options.py::test_a_question_that_letters_the_options_otherwise_is_refused",
        {
            "letters of a question are not compared with those of the options": (
                "if own not in listed[letter]:",
                "if False:",
            )
        },
    ),
    *within(
        "verifiers/expression.py",
        "verifiers/test_expressions.py::test_signs_between_digits_and_bases_count",
        {
            "a number of another base is right": (
                "if _BASE.findall(text) != _BASE.findall(truth):",
                "if False:",
            )
        },
    ),
    *within(
        "data/recognise/answers.py",
        "data/test_recognise.py::test_a_place_of_an_option_is_proved_by_its_smallest_or_largest",
        {
            "a place counted from 0 is proposed as counted from 1": (
                "= 0 if from_zero else 1",
                "= 1 if from_zero else 0",
            ),
        },
    ),
    *within(
        "data/recognise/answers.py",
        "data/test_recognise.py::test_a_number_that_is_the_words_of_an_option_proves_nothing",
        {
            "a number that is an option's own words counts as its place": (
                "and str(place) not in each.options.choices:",
                ":",
            ),
        },
    ),
    *within(
        "data/recognise/answers.py",
        "data/test_recognise.py::test_the_numbers_of_boxes_tell_their_format_and_frame",
        {
            "boxes may leave their pictures": (
                "is_inside = min(x1, y1)",
                "is_inside = True or min(x1, y1)",
            ),
        },
    ),
    *within(
        "data/sources.py",
        "preflight/test_first_config.py::test_no_row_is_in_both_parts_and_none_is_lost",
        {
            "rows that are held out are trained on": (
                "if is_test_row(row, source.test_share) == wants_test:",
                "if is_test_row(row, source.test_share) or not wants_test:",
            ),
        },
    ),
    *within(
        "data/sources.py",
        "preflight/test_first_config.py::test_rows_of_one_picture_are_in_one_part_wherever_it_lies",
        {
            "the part of a row depends on the folder of the user": (
                'content = "/".join(row.images[0].parts[-2:])',
                'content = "/".join(row.images[0].parts)',
            ),
        },
    ),
    *within(
        "data/sources.py",
        "data/test_rows.py::test_a_column_that_no_table_has_is_told_by_its_first_row",
        {
            "a field of a later row is missing": (
                "columns.found.update(_fields_of(_named_columns(source), row))",
                "pass",
            ),
        },
    ),
    *within(
        "preflight/first_config.py",
        "preflight/test_first_config.py::test_nothing_is_overwritten",
        {
            "only the config itself is looked for before it is written": (
                "paths = (to, _benchmark_beside(to))",
                "paths = (to,)",
            ),
        },
    ),
    *within(
        "preflight/first_config.py",
        "preflight/test_first_config.py::"
        "test_data_that_cannot_be_learnt_are_told_and_the_command_fails",
        {
            "a config that cannot learn is called ready": (
                'has_problem=any(finding.level == "stop" for finding in findings),',
                "has_problem=False,",
            ),
        },
    ),
    *within(
        "preflight/starting_settings.py",
        "preflight/test_first_config.py::test_the_style_fits_the_chat_template",
        {
            "a template that opens a thought gets a style without one": (
                'if model.thought == "<think>":\n        return [think]',
                'if model.thought == "<think>":\n        return [answer]',
            ),
        },
    ),
    *within(
        "preflight/starting_settings.py",
        "preflight/test_first_config.py::test_worked_solutions_decide_the_style_and_the_warm_up",
        {
            "solutions in another form are imitated, and the run stops": (
                "fitting += not verifiers.validation_error_of(sample.solution, sample)",
                "fitting += 1",
            ),
        },
    ),
    *within(
        "cli/prepare.py",
        "test_prepare_commands.py::"
        "test_a_closed_pipe_ends_a_command_quietly_and_nothing_is_half_written",
        {
            "a closed pipe leaves rows without their list of those left out": (
                "lines = list(lines)",
                "lines = iter(lines)",
            ),
        },
    ),
    *within(
        "preflight/propose_config.py",
        "preflight/test_propose_config.py::test_a_truth_that_its_own_verifier_cannot_read_is_left_out",
        {
            "rows that earn less than the full reward are counted as used": (
                "            if why:\n",
                "            if False:\n",
            ),
        },
    ),
    *within(
        "data/rows.py",
        "data/test_row_columns.py",
        {
            "a column of pictures of our name shows where the named one is empty": (
                "            others.pop(name, None)",
                "            pass",
            ),
            "a default fills columns that are not there, but no empty cells": (
                "if cells.is_missing(values.get(name)):",
                "if name not in values:",
            ),
            "a default replaces what the row says": (
                "if cells.is_missing(values.get(name)):",
                "if True:",
            ),
            "options in columns are also left among the others": (
                "            taken |= set(theirs)\n",
                "",
            ),
            "a chat wins over the question beside it": (
                'return "question" if chats.is_chat(question) else ""',
                "pass",
            ),
            "a system message in its own column comes twice": (
                'if isinstance(system, Turn) and not any(turn.role == "system" for turn in turns):',
                "if isinstance(system, Turn):",
            ),
            "pictures of a chat are taken before those of the row": (
                "if found and found != in_chat:",
                "if False:",
            ),
            "names of a label lose their letters": (
                'options.read_options(cell, lettered=kind == "choice")',
                "options.read_options(cell)",
            ),
            "the declared format of boxes is not used": (
                "true_boxes.read_boxes(answer, row_format.box_format)",
                'true_boxes.read_boxes(answer, "xyxy")',
            ),
            "the picture of a box is that of the column, whatever the box says": (
                "if declared and boxes.image and boxes.image != declared:",
                "if False:",
            ),
            "a comma that may be a decimal sign is a thousand": (
                "isinstance(answer, str) and _MAY_BE_DECIMAL.fullmatch(answer):",
                "False:",
            ),
            "a point stays where the decimal sign is a comma": (
                """number[1].replace(".", "")""",
                "number[1]",
            ),
        },
    ),
    *within(
        "data/rows.py",
        "data/test_rows.py",
        {
            "infinity is a size": (
                "(TypeError, ValueError, OverflowError)",
                "(TypeError, ValueError)",
            ),
            "of two columns of pictures one is taken": (
                "if one and several and one != several:",
                "if False:",
            ),
            "an empty list of pictures hides the picture beside it": (
                "if not several:",
                "if False:",
            ),
            "a relative path of the hub is read in the working folder": (
                "if root is None and not path.is_absolute():",
                "if False:",
            ),
        },
    ),
    *within(
        "data/rows.py",
        "data/test_sources.py",
        {
            "turns before the question are not written": ("if not sample.context:", "if True:"),
            "options that look lettered are written as a list": (
                " and options.from_columns(sample.choices) == Options(sample.choices):",
                ":",
            ),
            "the picture of the boxes is not written": (
                "    if sample.answer_image:\n",
                "    if False:\n",
            ),
            "sizes without pictures are not written": (
                "if sample.sizes and not sample.images:",
                "if False:",
            ),
            "pictures of a chat are not downloaded": (
                "found = _pictures(values, _chat(values))",
                "found = _pictures(values, None)",
            ),
        },
    ),
    *within(
        "data/sources.py",
        "data/test_sources.py",
        {
            "the first rows of every file are read": ("            left -= number\n", ""),
            "files after the first rows are opened": (
                "                break\n",
                "                pass\n",
            ),
            "rows are numbered anew in each file's rows that are read at once": (
                "            for row in rows:\n                number += 1\n",
                "            for number, row in enumerate(rows, 1):\n",
            ),
            "image_root is looked for beside the config alone": (
                "for folder in (base_dir / root, root):",
                "for folder in (base_dir / root,):",
            ),
            "an entry that is no host is a bug": (
                "    except ValueError as error:\n        raise UserError(str(error)) from None",
                "    except KeyError as error:\n        raise UserError(str(error)) from None",
            ),
        },
    ),
    *within(
        "data/sources.py",
        "data/test_rows.py",
        {
            "a row that cannot be read is called by its place": (
                "return LeftOut(_id_of(row, source, origin), why)",
                "return LeftOut(origin, why)",
            ),
            "a knob of rows is no matter for a recipe": ("    if given:\n", "    if False:\n"),
            "a column that no row has is missing in every row": (
                "    columns.check(one_line(name_of(source)))\n",
                "",
            ),
        },
    ),
    *within(
        "data/dataset.py",
        "data/test_dataset.py",
        {
            "two sources have one name": ('f"{name} ({times[name]})"', "name"),
            "rows with one id stay so": ("if ids[sample.id] == 1:", "if True:"),
            "a number of an id may be an id itself": (
                "    while ids[name]:\n",
                "    while False:\n",
            ),
            "rows that cannot be read belong to no source": (
                "reason = row._replace(source=name)",
                "reason = row",
            ),
            "a row that cannot be read is no reason to stop": (
                "            first = first or reason\n",
                "",
            ),
            "letters and context are no part of the data": (
                "in (sample.context, sample.letters, sample.answer_image) if value)",
                "in ())",
            ),
        },
    ),
    *within(
        "data/validation_cache.py",
        "data/test_validation_cache.py",
        {
            "a picture is known by its name": (
                "_digest(_code(), str(image), *stamp)",
                "_digest(_code(), str(image))",
            ),
            "a copy that keeps size and time is the file in its place": (
                "status.st_mtime_ns, status.st_ctime_ns)",
                "status.st_mtime_ns)",
            ),
            "a row that did not pass is never judged again": ("if not found:", "if True:"),
            "options of a verifier do not count": (
                "_digest(_code(), repr(verifier))",
                "_digest(_code(), type(verifier).__name__)",
            ),
            "the code does not count": (
                "_digest(_code(), repr(verifier))",
                "_digest(repr(verifier))",
            ),
            "truths do not count": ("        sample.answer,\n", ""),
            "letters do not count": ("        sample.letters,\n", ""),
            "the style of a user is one of ours": (
                "(type(verifier).__module__, type(verifier.style).__module__)",
                "(type(verifier).__module__,)",
            ),
            "a verifier of a user is one of ours": (
                "(type(verifier).__module__, type(verifier.style).__module__)",
                "(type(verifier.style).__module__,)",
            ),
            "a folder that cannot be made ends the run": (
                "except (OSError, UserError, sqlite3.Error):\n        return None",
                "except (OSError, sqlite3.Error):\n        return None",
            ),
            "a file that is no database ends the run": (
                "    except sqlite3.Error:\n        file.close()",
                "    except KeyError:\n        file.close()",
            ),
            "a damaged page ends the run": (
                "except sqlite3.Error:  # it is damaged",
                "except KeyError:  # it is damaged",
            ),
            "recipes are remembered": ("if is_used else None", "if True else None"),
            "every process writes": (
                'if not entries or os.environ.get("RANK", "0") != "0":',
                "if not entries:",
            ),
        },
    ),
    *within(
        "data/recipes/card.py",
        "data/test_recipe_rows.py",
        {
            "a row that cannot be read is left out of a complete set": (
                '        if self.complete:\n            raise UserError(f"{name}: {why}")\n',
                "",
            )
        },
    ),
]
