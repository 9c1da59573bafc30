"""What a fault is: one place of the code, made wrong, and the test that must see it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`right` occurs once in `gpg_vl/FILE`; with `wrong` in its place, `seen_by` must fail."""

    name: str
    file: str
    right: str
    wrong: str
    seen_by: str  # "methods/test_gpg.py" or "methods/test_gpg.py::test_name", below tests/


def within(file: str, seen_by: str, changes: dict[str, tuple[str, str]]) -> list[Fault]:
    """The faults of one file that one test sees: name -> (right, wrong)."""
    return [
        Fault(name=name, file=file, right=right, wrong=wrong, seen_by=seen_by)
        for name, (right, wrong) in changes.items()
    ]
