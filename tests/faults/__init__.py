"""One-line faults of the project's own that the suite must see; `python -m tests.faults.run` makes them one by one."""

from .fault import Fault
from .runs import FAULTS as RUNS
from .scores import FAULTS as SCORES
from .tensors import FAULTS as TENSORS

FAULTS: list[Fault] = [*TENSORS, *SCORES, *RUNS]
