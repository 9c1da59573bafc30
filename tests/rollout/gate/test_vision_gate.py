"""The vision gate in front of the transformers engine, and of engines that lie to it."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpg_vl.api import evaluate
from gpg_vl.config import loading
from gpg_vl.errors import EngineLostError, MismatchError, UserError
from gpg_vl.experiment import Experiment
from gpg_vl.policy.plain_forward import allowed_logits
from gpg_vl.preflight.try_rollout import sample_and_score
from gpg_vl.rollout import transformers_engine
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate import rounding
from gpg_vl.rollout.gate.altered_prompts import with_grey_pictures
from gpg_vl.rollout.gate.vision_gate import GateCheck, VisionGate
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.run_folder import metric_rows
from gpg_vl.training.loop import train
from tests.asking import prompts
from tests.conftest import FAMILIES
from tests.training.test_train import HERE, metrics, of_the_machine

SAMPLING = Sampling(max_tokens=8, temperature=0.7)
MEASURED = {
    *(
        "gate/mean",
        "gate/worst",
        "gate/noise",
        "gate/noise_worst",
        "gate/allowed",
        "gate/allowed_worst",
        "gate/excess",
        "gate/carriers",
    )
}


def small(knobs: list[str]) -> Experiment:
    """The experiment of small.yaml with these knobs."""
    return Experiment.resolve(loading.load(str(HERE / "small.yaml"), knobs))


def gate(policy, **more) -> VisionGate:
    return VisionGate(
        **{
            "prompts": tuple(prompts(policy, ["count", "compare", "add"])),
            "sampling": SAMPLING,
            "seed": 0,
            **more,
        }
    )


class Lying(TransformersEngine):
    """Changes prompts before, or completions after, it samples."""

    def __init__(
        self,
        policy,
        *,
        before: Callable = lambda prompt: prompt,
        after: Callable = lambda said: said,
    ) -> None:
        super().__init__(policy)
        self.before = before
        self.after = after

    def generate(self, asked, sampling, seeds):
        answers = super().generate([self.before(prompt) for prompt in asked], sampling, seeds)
        return [[self.after(said) for said in group] for group in answers]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_opens_for_an_engine_that_is_the_trainers_own(family, dtype, policy_of):
    policy = policy_of(family, dtype=dtype)
    measured = gate(policy).check(TransformersEngine(policy), policy, 0)
    assert set(measured) == MEASURED | {"gate/blind_worst", "visual_reliance"}
    assert measured["gate/excess"] < 0.5
    assert measured["gate/mean"] < measured["gate/allowed"]
    assert measured["gate/worst"] < measured["gate/allowed_worst"]


def test_text_alone_needs_no_blind_test(policy_of):
    policy = policy_of()
    measured = gate(policy, prompts=tuple(prompts(policy, ["add"]))).check(
        TransformersEngine(policy), policy, 0
    )
    assert set(measured) == MEASURED


def test_visual_reliance_is_the_mean_drop_of_a_tokens_logprob(policy_of):
    """By hand: with an all-zero head every token is as likely as any, with and without the
    picture."""
    policy = policy_of()
    with torch.no_grad():
        policy.model.lm_head.weight.zero_()
    assert gate(policy).check(TransformersEngine(policy), policy, 0)["visual_reliance"] == 0


def more(amount):
    """Every token so much likelier."""
    return lambda said: replace(said, logprobs=tuple(it + amount for it in said.logprobs))


LIES = {
    "another scale": (
        lambda policy: {
            "after": lambda said: replace(said, logprobs=tuple(2 * it for it in said.logprobs))
        },
        "Cause unknown: it is not the temperature, .* tied head, lm_head, that has not landed",
    ),
    "lost pictures": (
        lambda policy: {"before": lambda prompt: with_grey_pictures(prompt, policy)},
        "Cause: image lost",
    ),
    "other weights": (lambda policy: {"after": more(0.1)}, "Cause unknown"),
    "hardly more than rounding": (
        lambda policy: {"after": more(1.1e-6)},
        "Cause unknown: .* too little to tell one from another",
    ),
    "old weights": (
        lambda policy: {"after": lambda said: replace(said, version=3)},
        "the engine samples with weights 3, the trainer has weights 0",
    ),
    "a NaN": (lambda policy: {"after": more(float("nan"))}, "mean nan, .* Cause unknown"),
}


@pytest.mark.parametrize("lie", LIES)
def test_shuts_before_a_lie_and_names_it_only_where_an_experiment_does(lie, policy_of):
    policy = policy_of()
    lies, cause = LIES[lie]
    with pytest.raises(MismatchError, match=cause):
        gate(policy).check(Lying(policy, **lies(policy)), policy, 0)


def test_an_experiment_that_could_not_have_shown_the_fault_explains_nothing(policy_of):
    """Placeholders are impossible anyway, so scoring without the ban changes nothing and does
    not explain an engine that is noisy."""
    policy = policy_of(dtype="bfloat16")
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(6)
        policy.model.lm_head.weight[list(policy.banned_ids)] = 0
    draw = random.Random(0)

    def noisy(said):
        return replace(said, logprobs=tuple(it * (1 + draw.gauss(0, 0.1)) for it in said.logprobs))

    sampling = Sampling(max_tokens=8, temperature=1.0)
    with pytest.raises(MismatchError, match="Cause unknown"):
        gate(policy, prompts=tuple(prompts(policy, ["count", "add"])), sampling=sampling).check(
            Lying(policy, after=noisy), policy, 0
        )


class Cut(TransformersEngine):
    """Draws from a part of the distribution, as a checkpoint's own top-k and top-p do."""

    def __init__(self, policy, keep: Callable) -> None:
        super().__init__(policy)
        self.keep = keep

    def _draw(self, *asked):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                transformers_engine,
                "allowed_logits",
                lambda *given: self.keep(allowed_logits(*given)),
            )
            return super()._draw(*asked)


def top_k(logits, k):
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf)


def top_p(logits, p):
    ordered, places = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return logits.masked_fill((before >= p).gather(-1, places.argsort(-1)), -torch.inf)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("keep", "words"),
    [(lambda it: top_k(it, 5), "top-k 5"), (lambda it: top_p(it, 0.4), r"top-p 0\.4")],
)
def test_a_cut_distribution_is_named_with_its_size(keep, words, dtype, policy_of):
    policy = policy_of(dtype=dtype)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(2)  # so that a few tokens hold much of it
    with pytest.raises(
        MismatchError, match=rf"Cause: truncated sampling: {words} is on and explains all of it"
    ):
        gate(policy).check(Cut(policy, keep), policy, 0)


def test_raw_logprobs_are_named(policy_of):
    """The engine samples at the temperature and reports what the model says at temperature 1."""
    policy = policy_of()

    class Raw(TransformersEngine):
        def generate(self, asked, sampling, seeds):
            groups = super().generate(asked, sampling, seeds)
            free = replace(self.policy, banned_ids=())
            return [
                [
                    replace(
                        said, logprobs=tuple(rounding.score(free, [(prompt, [said])], 1.0).tolist())
                    )
                    for said in group
                ]
                for prompt, group in zip(asked, groups, strict=True)
            ]

    with pytest.raises(
        MismatchError,
        match=r"Cause: temperature: it samples at 0\.7 and reports raw log-probabilities",
    ):
        gate(policy).check(Raw(policy), policy, 0)


def test_an_engine_that_was_not_updated_says_what_it_said_before_and_is_named(policy_of):
    policy, old = policy_of(), policy_of()
    engine, watch = TransformersEngine(old), gate(policy)
    watch.check(engine, policy, 0)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(1.02)
    engine.version = 1
    with pytest.raises(
        MismatchError, match="Cause: stale weights: the answers are those of the last check"
    ):
        watch.check(engine, policy, 1)
    with torch.no_grad():
        for parameter in old.model.parameters():
            parameter.mul_(1.01)
    with pytest.raises(MismatchError, match="Cause unknown"):
        watch.check(engine, policy, 1)


def test_a_run_logs_the_curve_and_a_wrong_engine_stops_it_before_the_first_step(tmp_path):
    knobs = [
        f"folder={tmp_path}",
        "steps=4",
        "warmup.steps=20",
        "evaluation.benchmark=null",
        "rollout.gate.every=2",
        "rollout.gate.prompts=6",
    ]
    run = train(small(knobs), log=lambda line: None)
    assert [("visual_reliance" in row, "gate/worst" in row) for row in metrics(run)] == [
        (True, True),
        (False, False),
    ] * 2
    blind = [
        *knobs,
        "name=blind",
        f"rollout.engine={Path(__file__).parents[2] / 'blind_engine.py'}:Blind",
    ]
    with pytest.raises(UserError, match=r"vision gate, weights 0: .* Cause: image lost"):
        train(small(blind), log=lambda line: None)
    assert metric_rows(tmp_path / "blind") == []


def test_a_kernel_that_fails_leaves_the_gate_another_way_to_measure_rounding(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no kernel image is available for execution on the device")

    monkeypatch.setattr("gpg_vl.policy.group_forward.prefill", broken)
    knobs = [f"folder={tmp_path}", "steps=1", "warmup.steps=5", "evaluation.benchmark=null"]
    log: list[str] = []
    run = train(small(knobs), log=log.append)
    assert any(
        "the group forward does not run here (no kernel image is available" in line for line in log
    )
    assert metrics(run)[0]["gate/excess"] < 0.5


def test_an_engine_that_is_gone_leaves_a_checkpoint_and_the_run_goes_on_from_it(
    tmp_path, monkeypatch
):
    knobs = [
        f"folder={tmp_path}",
        "steps=4",
        "warmup.steps=20",
        "evaluation.benchmark=null",
        "checkpoint.every=100",
    ]
    whole = train(small([*knobs, "name=whole"]), log=lambda line: None)
    generate, calls = TransformersEngine.generate, []

    def dies(self, *asked):
        calls.append(self.version)
        if self.version == 2:
            raise EngineLostError("no answer in 900 s")
        return generate(self, *asked)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "generate", dies)
        with pytest.raises(
            UserError,
            match=(
                r"stopped after step \d: no answer in 900 s\. Then go on with gpg-vl train --resume"
            ),
        ):
            train(small(knobs), log=lambda line: None)
    run = train(small(knobs), resume=tmp_path / "small", log=lambda line: None)
    course = [
        [{key: row[key] for key in row if not of_the_machine(key)} for row in metrics(path)]
        for path in (whole, run)
    ]
    assert course[0] == course[1]


def test_every_copy_of_the_weights_is_shown_every_question(policy_of):
    """Two copies that answer in turn; one of them has lost its eyes."""

    class OneOfTwoIsBlind(TransformersEngine):
        num_replicas = 2

        def generate(self, asked, sampling, seeds):
            seen = [
                with_grey_pictures(prompt, self.policy) if place % 2 else prompt
                for place, prompt in enumerate(asked)
            ]
            return super().generate(seen, sampling, seeds)

    policy = policy_of()
    with pytest.raises(MismatchError, match="vision gate"):
        gate(policy, prompts=tuple(prompts(policy, ["count"]))).check(
            OneOfTwoIsBlind(policy), policy, 0
        )


@pytest.mark.parametrize("wrong", [None, 2])
def test_one_wrong_copy_of_four_does_not_hide_among_the_others(wrong, policy_of):
    """All four together are off by hardly more than rounding."""

    class Four(TransformersEngine):
        num_replicas = 4

        def generate(self, asked, sampling, seeds):
            answers = super().generate(asked, sampling, seeds)
            return [
                [more(2e-6)(said) for said in group] if place % 4 == wrong else group
                for place, group in enumerate(answers)
            ]

    policy = policy_of()
    check = GateCheck(gate(policy), Four(policy), policy, 0)
    side = check.compare(check.gate.prompts)
    assert side.gap.within_limits
    assert [gap.within_limits for gap in check.gaps_per_replica(side)] == [
        copy != wrong for copy in range(4)
    ]
    if wrong is not None:
        with pytest.raises(MismatchError, match="vision gate"):
            gate(policy).check(Four(policy), policy, 0)


def test_questions_with_pictures_come_first():
    experiment = small(["rollout.gate.prompts=2"])
    asked = [
        (
            SimpleNamespace(images=(), input_ids=(), number=index)
            if index < 5
            else SimpleNamespace(images=("picture",), input_ids=(), number=index)
        )
        for index in range(8)
    ]
    made = experiment.gate(
        asked.__getitem__, SimpleNamespace(max_model_len=lambda: 99, max_images=lambda: 9)
    )
    assert [prompt.number for prompt in made.prompts] == [5, 6]
    assert [prompt.number for prompt in made.spare] == [7, 0, 1, 2, 3, 4]


def test_a_policy_whose_answers_are_all_alike_is_asked_other_questions(policy_of):
    """Sixteen equal answers are one observation: their places count, not their tokens, and the
    spare questions bring new ones."""
    policy = policy_of(dtype="bfloat16")
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(50)
    first, *others = prompts(policy)
    asked = []

    class Counting(TransformersEngine):
        def generate(self, prompts, sampling, seeds):
            asked.append(len(prompts))
            return super().generate(prompts, sampling, seeds)

    def compared(*spare):
        asked.clear()
        return GateCheck(gate(policy), Counting(policy), policy, 0).compare([first], spare)

    alone, together = compared(), compared(*others)
    assert len(alone.gap.gap_N) > 4 * len(alone.gap.places_N.unique())
    assert alone.gap.carriers <= len(alone.gap.places_N.unique())
    assert len(together.gap.places_N.unique()) > 2 * len(alone.gap.places_N.unique())
    assert asked == [1, len(others)], "more answers to all five would be more than sixteen"
    assert sum(len(group) for _, group in together.answered) <= 16


def test_the_gate_scores_no_more_than_a_piece_of_long_answers(policy_of, monkeypatch):
    policy, lengths = policy_of(), []
    generate = TransformersEngine.generate
    monkeypatch.setattr(
        TransformersEngine,
        "generate",
        lambda self, *asked: [lengths.append(asked[1].max_tokens), generate(self, *asked)][1],
    )
    monkeypatch.setattr("gpg_vl.rollout.gate.vision_gate.MAX_TOKENS", 4)
    gate(policy).check(TransformersEngine(policy), policy, 0)
    assert set(lengths) == {4}


def test_what_has_no_room_is_left_out_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(TransformersEngine, "max_model_len", lambda self: 20)
    knobs = [
        f"folder={tmp_path}",
        "steps=4",
        "warmup.steps=1",
        "evaluation.benchmark=null",
        "rollout.gate.every=0",
    ]
    with pytest.raises(
        UserError,
        match=(
            r"could not become prompts.*prompt and answer may have \d+ tokens, the engine's window "
            "is 20"
        ),
    ):
        train(small(knobs), log=lambda line: None)


def test_a_gate_that_shuts_in_mid_run_saves_nothing_and_names_the_checkpoint_to_go_on_from(
    tmp_path, monkeypatch
):
    check, looks = VisionGate.check, []

    def shut(self, engine, policy, version):
        looks.append(version)
        if len(looks) == 4:  # one before each step
            raise MismatchError("vision gate: stale weights")
        return check(self, engine, policy, version)

    monkeypatch.setattr(VisionGate, "check", shut)
    knobs = [
        f"folder={tmp_path}",
        "steps=4",
        "warmup.steps=20",
        "evaluation.benchmark=null",
        "rollout.gate.every=1",
        "checkpoint.every=2",
    ]
    with pytest.raises(
        MismatchError,
        match=r"stale weights\. Mend it, then go on from step 2 with gpg-vl train --resume .*small",
    ):
        train(small(knobs), log=lambda line: None)
    assert {path.name for path in (tmp_path / "small" / "checkpoints").iterdir()} == {
        "000000",
        "000002",
    }


def test_a_restarted_engine_is_checked_before_anything_is_learnt_from_it(tmp_path, monkeypatch):
    looks: list[int] = []
    check, generate = VisionGate.check, TransformersEngine.generate

    def needs_verification(self, *asked):
        self.needs_verification = self.needs_verification or (self.version == 2 and looks[-1] != 2)
        return generate(self, *asked)

    monkeypatch.setattr(TransformersEngine, "generate", needs_verification)
    monkeypatch.setattr(
        VisionGate,
        "check",
        lambda self, engine, policy, version: [
            looks.append(version),
            check(self, engine, policy, version),
        ][1],
    )
    knobs = [
        f"folder={tmp_path}",
        "steps=4",
        "warmup.steps=20",
        "evaluation.benchmark=null",
        "rollout.gate.every=100",
    ]
    train(small(knobs), log=lambda line: None)
    assert looks == [0, 2]


def test_without_training_too_an_engine_is_checked_before_its_answers_are_used(tmp_path):
    blind = [
        f"folder={tmp_path}",
        f"rollout.engine={Path(__file__).parents[2] / 'blind_engine.py'}:Blind",
    ]
    experiment = small(blind)
    with pytest.raises(MismatchError, match="image lost"):
        list(sample_and_score(experiment, model=None, count=1, to=None))
    experiment.policy().save(tmp_path / "model")
    with pytest.raises(MismatchError, match="image lost"):
        evaluate(str(HERE / "small_benchmark.yaml"), str(tmp_path / "model"), blind)


def test_an_engine_lost_in_the_last_evaluation_leaves_a_run_that_still_makes_it(
    tmp_path, monkeypatch
):
    knobs = [f"folder={tmp_path}", "steps=2", "warmup.steps=20", "checkpoint.every=100"]
    generate = TransformersEngine.generate
    before, after = (
        tmp_path / "small" / "evaluation" / f"small-{when}.jsonl" for when in ("before", "after")
    )

    def dies(self, asked, sampling, seeds):
        if before.exists() and sampling.greedy:
            raise EngineLostError("no answer in 900 s")
        return generate(self, asked, sampling, seeds)

    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "generate", dies)
        with pytest.raises(UserError, match="stopped after step 2: no answer"):
            train(small(knobs), log=lambda line: None)
    assert not after.exists()
    train(small(knobs), resume=tmp_path / "small", log=lambda line: None)
    assert after.exists()


def test_what_is_no_engine_is_refused(policy_of, tmp_path):
    (tmp_path / "mine.py").write_text(
        "class Mine:\n    def generate(self, prompts, sampling, seeds): ...\n"
    )
    config = loading.load("digits", ["rollout.engine=./mine.py:Mine"]).at(tmp_path)
    experiment = Experiment.resolve(config)
    with pytest.raises(UserError, match=r"rollout\.engine: Mine is no engine; derive it from"):
        experiment.engine(policy_of())
