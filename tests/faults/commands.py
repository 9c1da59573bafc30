"""Faults in the pages and messages of the commands, one line each, that the suite must see."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "config/schema.py",
        "config/test_schema.py::test_a_section_keeps_its_own_defaults_beside_a_key_that_is_set",
        {
            "the warm-up falls back to the defaults of the other optimizer": (
                "optimizer: WarmupOptimizerConfig = WarmupOptimizerConfig()",
                "optimizer: OptimizerConfig = WarmupOptimizerConfig()",
            )
        },
    ),
    *within(
        "config/loading.py",
        "config/test_schema.py::test_each_mistake_has_its_line_up_to_five",
        {
            "only the first mistake is named": (
                "for steps, found in errors.items():",
                "for steps, found in list(errors.items())[:1]:",
            ),
            "mistakes beyond the fifth are not counted": (
                "if len(mistakes) > MAX_MISTAKES:",
                "if len(mistakes) > 100:",
            ),
        },
    ),
    *within(
        "config/loading.py",
        "config/test_mistakes.py::test_what_was_typed_gets_plain_words_and_no_file",
        {
            "the file is blamed for what was typed": (
                "mistakes.append(_Mistake(sentence, bool(typed)))",
                "mistakes.append(_Mistake(sentence, False))",
            ),
            "a typed list is not looked into": (
                "own == [str(step) for step in steps[: len(own)]]",
                "own == [str(step) for step in steps]",
            ),
            "an item of a default list cannot be set": (
                'return part.model_dump(mode="json") if isinstance(part, Section) else part',
                'return part.model_dump(mode="json")',
            ),
        },
    ),
    *within(
        "config/loading.py",
        "config/test_mistakes.py::test_a_file_that_cannot_be_read_is_refused_with_its_name",
        {
            "the last of two equal keys counts": ("if key.value in seen:", "if False:"),
            "a file in another encoding is a bug": (
                "except UnicodeDecodeError as error:",
                "except RecursionError as error:",
            ),
        },
    ),
    *within(
        "config/mistakes.py",
        "config/test_mistakes.py::test_no_knob_answers_in_the_words_of_pydantic",
        {
            "a kind of mistake has no plain words": ('    "bool_parsing": _TRUTH,\n', ""),
            "names of pydantic's validators are shown": ('"tuple[", ', ""),
        },
    ),
    *within(
        "config/loading.py",
        "config/test_schema.py::test_a_mistake_names_file_key_got_and_expected",
        {
            "a list is called too short because of the mistake inside it": (
                "        if inner:\n",
                "        if False:\n",
            )
        },
    ),
    *within(
        "config/knobs.py",
        "config/test_knobs.py::test_what_a_knob_takes",
        {
            "truth values are shown in Python's spelling": (
                "    if isinstance(value, bool):\n        return str(value).lower()\n",
                "",
            )
        },
    ),
    *within(
        "config/knobs.py",
        "config/test_schema.py::test_every_knob_has_a_sentence",
        {
            "fields that a section inherits have no sentence": (
                "for owner in reversed(kind.__mro__):",
                "for owner in (kind,):",
            )
        },
    ),
    *within(
        "config/knobs.py",
        "config/test_knobs.py::test_a_field_by_hand",
        {
            "names of constants are shown for their values": (
                "found, home = _definition(node.id, module)\n        return _value_in_source",
                "return node.id\n        return _value_in_source",
            )
        },
    ),
    *within(
        "config/commented.py",
        "cli/test_configs.py::test_what_is_shown_loads_as_the_config_itself",
        {
            "a config is shown that does not load": (
                "default_flow_style=None if value and is_short else False,",
                "default_flow_style=None,",
            )
        },
    ),
    *within(
        "cli/hints.py",
        "cli/test_hints.py::test_what_was_meant",
        {
            "a knob is found by its whole key alone": (
                'if key.endswith(f".{name}")), "")',
                'if key == f".{name}"), "")',
            ),
            "a value behind a blank is lost": (
                'elif "=" not in following[0]:\n            value = following[0]',
                'elif "=" not in following[0]:\n            value = ""',
            ),
        },
    ),
    *within(
        "cli/completion.py",
        "cli/test_completion.py::test_a_shell_completes_configs_and_knobs",
        {
            "a shell writes a blank behind the sign": (
                "return [word, *(word + value for value in _values(ctx, word[:-1]))]",
                "return [word]",
            ),
            "a word that bash splits at the sign is not put together": (
                'if before and before[-1] == "=":',
                'if before and before[-1] == "?":',
            ),
        },
    ),
    *within(
        "cli/pages.py",
        "cli/test_pages.py::test_a_mistake_is_one_sentence_on_stderr_without_a_box",
        {
            "a mistake shows typer's message": (
                'becomes a sentence."""\n        given = list(args)\n        try:\n'
                "            return super().parse_args(ctx, args)\n"
                "        except typer.TyperException as error:",
                'becomes a sentence."""\n        given = list(args)\n        try:\n'
                "            return super().parse_args(ctx, args)\n"
                "        except typer.Abort as error:",
            )
        },
    ),
]
