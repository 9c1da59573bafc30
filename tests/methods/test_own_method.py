"""A method of a user's own, in a file beside the config: it writes `weights` and nothing else."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gpg_vl.config import loading
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment
from gpg_vl.run_folder import metric_rows
from gpg_vl.training.loop import train

SMALL = Path(__file__).parents[1] / "small.yaml"

METHOD = '''\
from gpg_vl import Estimator


class Centred(Estimator):
    """Reward less the mean of the group; every token of the step counts the same."""

    def weights(self, rewards_BG, lengths_BG):
        advantages_BG = rewards_BG - rewards_BG.nanmean(1, keepdim=True)
        return advantages_BG.nan_to_num(0.0) / lengths_BG.sum()


class NoMethod:
    """Has `weights`, and is no estimator."""

    def weights(self, rewards_BG, lengths_BG):
        return rewards_BG


class WithoutWeights(Estimator):
    """Forgot to write `weights`."""
'''


def experiment_with(method: str, folder: Path) -> Experiment:
    """The small config and a method of its own file, both in a folder that is not the present."""
    (folder / "mine.py").write_text(METHOD)
    (folder / "mine.yaml").write_text(SMALL.read_text())
    knobs = (f"folder={folder}", f"estimator=./mine.py:{method}", "steps=2", "checkpoint.every=1")
    overrides = [*knobs, "evaluation.benchmark=null", "checkpoint.keep_last=3"]
    return Experiment.resolve(loading.load(str(folder / "mine.yaml"), overrides))


def test_a_method_of_ten_lines_trains(tmp_path):
    run = train(experiment_with("Centred", tmp_path), log=lambda line: None)
    rows = metric_rows(run)
    assert [row["step"] for row in rows] == [1, 2]
    assert [row["alpha"] for row in rows] == [1.0, 1.0], "the default"
    assert [row["rounds"] for row in rows] == [1.0, 1.0], "it waits for no informative group"
    assert [row["skipped"] for row in rows] == [0.0, 0.0]
    saved = [
        load_file(run / "checkpoints" / f"{step:06d}" / "policy" / "model.safetensors")
        for step in range(3)
    ]
    for before, after in pairwise(saved):
        assert any(not torch.equal(before[name], after[name]) for name in before)


def test_what_is_no_estimator_is_refused(tmp_path):
    sentence = r"^estimator: NoMethod is no method; derive it from gpg_vl\.Estimator$"
    with pytest.raises(UserError, match=sentence):
        experiment_with("NoMethod", tmp_path)


def test_an_estimator_without_weights_cannot_be_made(tmp_path):
    sentence = r"^estimator: WithoutWeights does not define weights$"
    with pytest.raises(UserError, match=sentence):
        experiment_with("WithoutWeights", tmp_path)
