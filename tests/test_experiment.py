"""An experiment makes each part once, and says early what does not fit."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpg_vl import experiment as experiments
from gpg_vl.boxes import Frame
from gpg_vl.config import loading
from gpg_vl.config.schema import Config
from gpg_vl.errors import UserError
from gpg_vl.experiment import Experiment

HERE = Path(__file__).parent


def small(*knobs: str) -> Config:
    return loading.load(str(HERE / "small.yaml"), list(knobs))


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """Parts in the order in which they were made."""
    parts: list[str] = []
    for name in ("style", "verifiers", "estimator"):
        build = getattr(experiments, f"build_{name}")

        def counted(*given: Any, name: str = name, build: Any = build) -> Any:
            parts.append(name)
            return build(*given)

        monkeypatch.setattr(experiments, f"build_{name}", counted)
    monkeypatch.setattr(experiments, "check_template", lambda style, processor, key="prompt": None)
    return parts


def policy_in(frame: Frame) -> Any:
    return SimpleNamespace(frame=frame, processor="processor")


def test_each_part_is_made_once_on_the_way_to_a_run(made):
    experiment = Experiment.resolve(small())
    settled = experiment.config.learner.model_copy(update={"tokens_per_microbatch": 77})
    config = experiment.config.model_copy(update={"learner": settled})
    ready = experiment.with_config(config).for_policy(policy_in(experiment.frame))
    assert (ready.style, ready.estimator) == (experiment.style, experiment.estimator)
    assert ready.verifiers is experiment.verifiers
    assert sorted(made) == ["estimator", "style", "verifiers"]


def test_only_verifiers_are_made_again_for_a_model_with_another_frame(made):
    experiment = Experiment.resolve(small())
    ready = experiment.for_policy(policy_in(Frame(kind="norm1")))
    assert ready.verifiers is not experiment.verifiers
    assert ready.verifiers.by_kind["boxes"].frame == Frame(kind="norm1")  # type: ignore[attr-defined]
    assert ready.style is experiment.style
    assert sorted(made) == ["estimator", "style", "verifiers", "verifiers"]


@pytest.mark.parametrize(
    ("knob", "again"),
    [
        ("prompt=think", {"style", "verifiers"}),
        ("reward.format=0.5", {"verifiers"}),
        ("estimator=rloo", {"estimator"}),
        ("rollout.groups_per_step=8", {"estimator"}),
        ("learner.updates_per_rollout=1", set()),
        ("steps=1", set()),
    ],
)
def test_a_changed_config_has_the_parts_that_the_change_touches_anew(knob, again, made):
    experiment = Experiment.resolve(small())
    made.clear()
    changed = experiment.with_config(small(knob))
    _ = changed.style, changed.verifiers, changed.estimator
    assert set(made) == again


def test_parts_of_another_folder_are_others(made, tmp_path):
    experiment = Experiment.resolve(small())
    made.clear()
    moved = experiment.with_config(experiment.config.at(tmp_path))
    _ = moved.style, moved.verifiers, moved.estimator
    assert set(made) == {"style", "verifiers", "estimator"}


def test_nothing_is_made_before_it_is_used(made):
    assert Experiment.of(small()).config.name == "small"
    assert made == []


def test_a_mistake_in_a_part_shows_when_it_is_resolved():
    with pytest.raises(UserError, match="estimator: got 'gpgg'"):
        Experiment.resolve(small("estimator=gpgg"))
    Experiment.of(small("estimator=gpgg"))  # rollout and evaluate need no method


def test_the_config_in_a_run_folder_knows_where_the_run_was_started(tmp_path):
    """So the command that a run prints at its end finds ./rewards.py again."""
    own, run = tmp_path / "own", tmp_path / "runs" / "mine"
    own.mkdir()
    run.mkdir(parents=True)
    (own / "own.yaml").write_text("data: [{recipe: digits}]\n")
    config = loading.load(str(own / "own.yaml"))
    assert config.base_dir == own
    (run / "config.yaml").write_text(loading.dump(config))
    (run / "environment.json").write_text(f'{{"config_folder": "{own}"}}')
    assert loading.load(str(run / "config.yaml")).base_dir == own
    assert loading.load_run(run).base_dir == own
    assert loading.load_for_model(str(run)).base_dir == own


def test_the_folder_of_a_config_is_no_key_of_it():
    config = small()
    assert "base_dir" not in config.model_dump()
    assert config.model_copy(update={"steps": 1}).base_dir == config.base_dir == HERE
    assert config.at(Path("/elsewhere")) != config
