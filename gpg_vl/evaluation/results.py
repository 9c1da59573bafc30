"""The records of an evaluation, which show their figures in one line."""

from collections.abc import Sequence

from gpg_vl.evaluation.records import Record, by_tag, failures
from gpg_vl.evaluation.statistics import Interval, interval


class Results(list[Record]):
    """A record of each question. Printed, it is the accuracy and that of each task.

    Example:
        print(results) -> "digits: 87.1 % [83.9, 89.7], 512 questions; ..."
    """

    def __init__(self, name: str, records: Sequence[Record], *, blank: bool = False) -> None:
        super().__init__(records)
        self.name = name
        """Name of the benchmark."""
        self.blank = blank
        """True: the questions were asked with grey pictures."""

    @property
    def accuracy(self) -> Interval:
        """Mean accuracy of the greedy answers, with its 95 % interval."""
        return interval([record.greedy for record in self])

    @property
    def by_task(self) -> dict[str, Interval]:
        """Accuracy of each task, with its 95 % interval."""
        tasks: dict[str, Interval] = {}
        for task, records in by_tag(self).items():
            tasks[task] = interval([record.greedy for record in records])
        return tasks

    def __repr__(self) -> str:
        name = f"{self.name} on blank pictures" if self.blank else self.name
        if not self:
            return f"{name}: no questions"
        parts = [f"{name}: {_figure(self.accuracy)}, {len(self):,} questions"]
        tasks = self.by_task
        if len(tasks) > 1:
            parts += [f"{task} {_figure(figure)}" for task, figure in tasks.items()]
        if failures(self):
            parts.append(failures(self))
        return "; ".join(parts)

    __str__ = __repr__


def _figure(figure: Interval) -> str:
    """Return mean and interval in percent: `84.8 % [81.4, 87.6]`."""
    mean, _, bounds = str(figure).partition(" ")
    return f"{mean} % {bounds}"
