"""The list of faults stays true to the code: each can still be made, and the test that must see
it is there."""

import ast
from collections import Counter
from functools import cache

import pytest

from tests.conftest import ROOT
from tests.faults import FAULTS
from tests.faults.fault import Fault


@cache
def names_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_made_and_names_a_test_that_exists(fault: Fault):
    source = (ROOT / "gpg_vl" / fault.file).read_text()
    assert source.count(fault.right) == 1
    assert fault.right != fault.wrong
    ast.parse(source.replace(fault.right, fault.wrong))  # a syntax error would be seen by any test
    file, _, name = fault.seen_by.partition("::")
    assert not name or name in names_in(file)
    assert names_in(file)


def test_no_two_faults_of_a_file_have_one_name():
    doubled = [
        name
        for name, count in Counter((fault.file, fault.name) for fault in FAULTS).items()
        if count > 1
    ]
    assert not doubled
