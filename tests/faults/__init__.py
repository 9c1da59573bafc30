"""One-line faults of the project's own that the suite must see; `python -m tests.faults.run`
makes them one by one."""

from tests.faults.commands import FAULTS as COMMANDS
from tests.faults.fault import Fault
from tests.faults.pages import FAULTS as PAGES
from tests.faults.public import FAULTS as PUBLIC
from tests.faults.reading import FAULTS as READING
from tests.faults.runs import FAULTS as RUNS
from tests.faults.scores import FAULTS as SCORES
from tests.faults.tensors import FAULTS as TENSORS

FAULTS: list[Fault] = [*TENSORS, *READING, *SCORES, *RUNS, *PUBLIC, *COMMANDS, *PAGES]
