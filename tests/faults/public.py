"""Faults in what `import gpg_vl` offers, in samples by hand, and in rewards for TRL."""

from tests.faults.fault import Fault, within

FAULTS: list[Fault] = [
    *within(
        "types.py",
        "test_types.py",
        {
            "samples that differ in their pictures share an id": (
                "    for image in sample.images:\n",
                "    for image in tuple[bytes | Path]():\n",
            ),
            "a text is taken as a list of options": (
                "if not isinstance(value, tuple | list):",
                "if not isinstance(value, tuple | list | str):",
            ),
        },
    ),
    *within(
        "short_repr.py",
        "test_types.py",
        {
            "a mapping of another type shows its bytes": (
                "if isinstance(x, Mapping):",
                "if isinstance(x, dict):",
            ),
        },
    ),
    *within(
        "verifiers/base.py",
        "verifiers/test_lone_verifiers.py",
        {
            "an error of a verifier is the answer's": (
                'return Verdict(reward=math.nan, reason=f"fault',
                'return Verdict(reward=0.0, reason=f"fault',
            ),
            "a missing library is an answer that cannot be scored": (
                "except UserError:  # something that only the user can mend",
                "except ZeroDivisionError:  # something that only the user can mend",
            ),
        },
    ),
    *within(
        "verifiers/boxes.py",
        "verifiers/test_lone_verifiers.py",
        {
            "a box that leaves an image of unknown size is paid for": (
                "return box if min(box.x1, box.y1) >= 0 else Box(0, 0, 0, 0)",
                "return box",
            ),
            "rows of boxes without pictures are trained on": (
                '        if self.mode == "strict":\n            check_size(sample)\n        spelt',
                "        spelt",
            ),
        },
    ),
    *within(
        "verifiers/exploits.py",
        "verifiers/test_lone_verifiers.py",
        {
            "a verifier that fails on an exploit looks safe": (
                "return verifier.verdict_of(text, sample).parts",
                "return verifier(text, sample).parts",
            ),
        },
    ),
    *within(
        "api.py",
        "test_public_face.py",
        {
            "questions that could not be asked are not told": (
                "for line in (asked.not_asked, ",
                "for line in (",
            ),
            "the bar of another library breaks the display": (
                "    transformers_logging.disable_progress_bar()\n",
                "    pass\n",
            ),
            "a file that cannot be written costs all answers": (
                '    check_writable(path.parent, "to")\n',
                "",
            ),
        },
    ),
    *within(
        "experiment.py",
        "test_public_face.py::test_a_given_verifier_takes_what_is_named_beside_it_and_keeps_the_rest",
        {
            "a mode that is named loses against that of a described verifier": (
                "for key, value in given.items() if key not in asked}",
                "for key, value in given.items()}",
            ),
        },
    ),
    *within(
        "evaluation/recorded_answers.py",
        "evaluation/test_recorded_answers.py::test_a_strict_record_says_by_which_grammar_it_was_read",
        {
            "recorded answers do not say by which style they were read": (
                'if benchmark.spec.mode == "strict":  # how they',
                "if False:  # how they",
            ),
        },
    ),
    *within(
        "config/python_values.py",
        "test_public_face.py::test_knobs_of_a_program_are_those_of_the_command_line",
        {
            "a section of a program takes the place of the config's": (
                'if isinstance(value, Mapping) and value and "kind" not in value:',
                "if False:",
            ),
        },
    ),
    *within(
        "integrations/trl.py",
        "integrations/test_trl.py",
        {
            "a row that cannot be scored is a wrong answer": (
                "return [None if math.isnan(each.reward)",
                "return [0.0 if math.isnan(each.reward)",
            ),
            "a missing column costs every reward": (
                "if unreadable and not self._has_read:",
                "if False:",
            ),
            "a verifier of one's own needs a column of kinds": (
                "elif self.settings.verifier is not None and cells",
                "elif self.settings.verifier is None and cells",
            ),
            "one broken row ends a training": (
                "self._has_read |= len(unreadable) < len(verdicts)",
                "self._has_read = len(unreadable) < len(verdicts)",
            ),
            "pictures of a chat are in the order of the sample": (
                "return [images[number - 1] for number in numbers]",
                "return list(images)",
            ),
        },
    ),
]
