"""Supervised fine-tuning before RL, so that the model learns the answer format.

It is the same update with uniform weights, on solutions instead of samples.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from accelerate import Accelerator

from gpg_vl.config.schema import WarmupConfig
from gpg_vl.data.dataset import Dataset
from gpg_vl.errors import UnusableSampleError, UserError, one_line
from gpg_vl.methods.supervised import Likelihood
from gpg_vl.policy.encode import encode
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.preflight.memory import Limits
from gpg_vl.prompts import Style
from gpg_vl.report import left_out
from gpg_vl.report.left_out import described
from gpg_vl.rollout.collect import gather_batch, too_many_lost
from gpg_vl.training.learner import Learner
from gpg_vl.types import Completion, Group, LeftOut, Sample, Update, Verdict
from gpg_vl.verifiers.base import RuleVerifier
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """The solutions to imitate, in the endless order of their data set."""

    dataset: Dataset
    style: Style
    policy: Policy
    verifiers: VerifierSet
    max_tokens: int
    """Length limit of sampling: a longer solution could never be sampled."""
    max_lost: float
    """Largest share of samples that cannot be imitated, as in rollout.max_lost."""

    def __call__(self, index: int) -> Group:
        """Return a group of one completion: the solution of the sample at an index.

        Raises:
            UnusableSampleError: the sample cannot become a prompt, sampling could not produce the
                solution, or the verifier would not give it the full reward.
        """
        sample = self.dataset[index]
        text = solution(sample, self.style, self.verifiers)
        completion = _completion(text, self.policy)
        error = self.verifiers.validation_error_of(text, sample)
        if error:
            raise UnusableSampleError(
                f"the solution of {one_line(sample.id)} would teach what earns nothing: {error}"
            )
        why = _why_never_sampled(completion, self.policy)
        if why:
            raise UnusableSampleError(f"the solution of {one_line(sample.id)} {why}")
        if len(completion.token_ids) > self.max_tokens:
            raise UnusableSampleError(
                f"the solution of {one_line(sample.id)} has {len(completion.token_ids)} tokens, "
                f"rollout.max_tokens is {self.max_tokens}"
            )
        return Group(
            prompt=encode(sample, self.style, self.policy),
            completions=(completion,),
            verdicts=(Verdict(reward=1.0),),
            prompt_index=index,
        )

    def usable(self, indices: Iterable[int], lost: list[LeftOut]) -> Iterator[Group]:
        """Yield the groups at these indices.

        Args:
            lost: gets the samples that cannot be imitated.
        """
        for index in indices:
            try:
                yield self(index)
            except UnusableSampleError as error:
                lost.append(LeftOut.of(self.dataset[index], str(error)))


@dataclass(slots=True, kw_only=True)
class _Lost:
    """Samples of the warm-up that could not be imitated, on all processes."""

    max_lost: float
    rows: int
    """Rows in the data."""
    drawn: int = 0
    count: int = 0
    by_key: dict[tuple[str, str], LeftOut] = field(default_factory=dict[tuple[str, str], LeftOut])
    """Source and id -> the row, each once."""

    def add(self, drawn: int, lost: Iterable[LeftOut]) -> None:
        """Count what a step drew and lost.

        Raises:
            UserError: too many are lost.
        """
        self.drawn += drawn
        for row in lost:
            self.count += 1
            self.by_key[row.source, row.id] = row
        if too_many_lost(
            self.max_lost,
            lost=self.count,
            drawn=self.drawn,
            lost_rows=len(self.by_key),
            rows=self.rows,
        ):
            first = next(iter(self.by_key.values()))
            raise UserError(
                f"warm-up: {self.count} of {self.drawn} samples cannot be imitated, more than "
                f"rollout.max_lost = {self.max_lost:g}; the first: {described(first)}"
            )


def solution(sample: Sample, style: Style, verifiers: VerifierSet) -> str:
    """Return the text to imitate: the worked solution, or the reference answer in the style.

    Raises:
        UnusableSampleError: the style demands a thought, which only a worked solution has.
    """
    if sample.solution:
        return sample.solution.removeprefix(style.opening)
    if style.think == "required":
        raise UnusableSampleError(
            f"the prompt style requires a thought, but {one_line(sample.id)} has no `solution` "
            "column to imitate; add one, or set prompt.think"
        )
    verifier: Any = verifiers.by_kind[sample.answer_kind]
    if isinstance(verifier, RuleVerifier):
        return style.write(verifier.perfect_answer(sample))
    if hasattr(verifier, "reference_answer"):  # also a verifier that is no RuleVerifier
        return style.write(verifier.reference_answer(sample))
    return style.write(str(sample.answer))


def warm_up(
    imitation: Imitation,
    config: WarmupConfig,
    accelerator: Accelerator,
    limits: Limits,
    seed: int,
    on_step: Callable[[int, Update], None],
    log: Callable[[str], None],
) -> None:
    """Imitate for `config.steps` steps, within the memory limits of the learner.

    Args:
        seed: seed of the warm-up, for what the learner draws.
        on_step: called after each step.
        log: called if the group forward does not work here (the run itself says that it does),
            and with the samples that cannot be imitated.

    Raises:
        UserError: the loss is not finite (the learning rate is too high), too many samples cannot
            be imitated, or there are more processes than samples in a step.
    """
    estimator = Likelihood()
    learner = _learner(imitation.policy, estimator, config, accelerator, limits, seed, log)
    processes = learner.processes
    if config.batch_size < processes.count:
        raise UserError(
            f"warmup.batch_size: got {config.batch_size}, expected at least one sample for each "
            f"of {processes.count} processes"
        )
    lost = _Lost(max_lost=imitation.max_lost, rows=len(imitation.dataset.samples))
    for step in range(config.steps):
        first = step * config.batch_size
        own_indices = range(first + processes.rank, first + config.batch_size, processes.count)
        own_lost: list[LeftOut] = []
        groups = imitation.usable(own_indices, own_lost)
        batch = gather_batch(groups, processes.all_gather, processes.rank)
        lost.add(config.batch_size, chain.from_iterable(processes.all_gather(own_lost)))
        if not len(batch.rewards_BG):  # no sample of this step can be imitated
            continue
        weights_BG = estimator.weights(batch.rewards_BG, batch.lengths_BG)
        update = learner.update(batch, weights_BG, version=0)
        if update.skipped:
            raise UserError(
                f"warm-up step {step + 1}: {update.skipped}; lower warmup.optimizer.lr (now "
                f"{config.optimizer.lr:g})"
            )
        on_step(step + 1, update)
    for line in left_out.lines(list(lost.by_key.values())):
        log(f"warm-up: {line}")
    del learner  # its schedule and its optimizer refer to each other, so only a collection frees it
    accelerator.free_memory()


def _learner(
    policy: Policy,
    estimator: Likelihood,
    config: WarmupConfig,
    accelerator: Accelerator,
    limits: Limits,
    seed: int,
    log: Callable[[str], None],
) -> Learner:
    """Return the learner of a warm-up, of which only warnings are logged."""

    def log_warning(line: str) -> None:
        if line.startswith("warning"):
            log(line)

    return Learner(
        GroupForward(policy, temperature=1.0, checkpointing=limits.checkpointing),
        estimator,
        config.optimizer,
        accelerator,
        seed=seed,
        total_steps=config.steps,
        tokens_per_microbatch=limits.tokens,
        log=log_warning,
    )


def _why_never_sampled(completion: Completion, policy: Policy) -> str:
    """Return why the model could not sample a text; empty = it could.

    Without this, one row would have a loss near infinity: placeholders have no probability.
    """
    *words, _ = completion.token_ids
    never = {*policy.banned_ids, *policy.end_ids}.intersection(words)
    if not never:
        return ""
    token = policy.processor.tokenizer.decode([min(never)])
    return f"holds {token}, a special token that no answer can hold; write it in another way"


def _completion(text: str, policy: Policy) -> Completion:
    """Return a text as if the policy had sampled it, its end id included."""
    tokenizer = policy.processor.tokenizer
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    token_ids = (*ids, tokenizer.eos_token_id)
    return Completion(
        token_ids=token_ids,
        logprobs=(0.0,) * len(token_ids),
        text=text,
        finish="stop",
        version=0,
    )
