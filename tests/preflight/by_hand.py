"""Write configs, samples and data sets by hand, for the findings of an audit."""

from typing import Any

from gpg_vl.config.schema import Config
from gpg_vl.data.dataset import Dataset
from gpg_vl.experiment import Experiment
from gpg_vl.types import LeftOut, Sample

DATA: dict[str, Any] = {"name": "x", "data": [{"files": "a.jsonl"}]}


def config(**changed: Any) -> Config:
    return Config.model_validate(DATA | changed)


def experiment(**changed: Any) -> Experiment:
    return Experiment.resolve(config(**changed))


def question(name: str, answer: object = 3, **fields: Any) -> Sample:
    return Sample(
        **{"id": name, "question": "How many?", "answer_kind": "number", "answer": answer} | fields
    )


def questions(*sources: list[Sample], left_out: tuple[LeftOut, ...] = ()) -> Dataset:
    weights = (1,) * len(sources)
    return Dataset(sources=sources, weights=weights, seed=0, left_out=left_out)
