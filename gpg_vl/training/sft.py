"""Supervised warm-up: the same update with uniform weights, on solutions instead of samples."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from accelerate import Accelerator

from gpg_vl.config.schema import WarmupConfig
from gpg_vl.data.dataset import Stream
from gpg_vl.errors import UnusableSampleError, UserError
from gpg_vl.experiment import solution
from gpg_vl.methods.supervised import Likelihood
from gpg_vl.policy.encode import encode
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy
from gpg_vl.preflight.memory import Limits
from gpg_vl.prompts import Style
from gpg_vl.training.learner import Learner
from gpg_vl.types import Completion, Group, Update, Verdict
from gpg_vl.verifiers.dispatch import VerifierSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """The endless order of solutions: what to imitate at an index."""

    stream: Stream
    style: Style
    policy: Policy
    checks: VerifierSet
    max_tokens: int
    """The length limit of sampling: a longer text could never be said."""

    def __call__(self, index: int) -> Group:
        """A group of one: the prompt and its solution.

        Raises:
            UserError: the solution is not one that sampling could say and the verifier would give full marks.
        """
        sample = self.stream[index]
        said = _spoken(solution(sample, self.style, self.checks), self.policy)
        if complaint := self.checks.complaint_about(said.text, sample):
            raise UserError(f"warm-up: the solution of {sample.id} would teach what earns nothing: {complaint}")
        if len(said.token_ids) > self.max_tokens:
            raise UserError(
                f"warm-up: the solution of {sample.id} has {len(said.token_ids)} tokens, rollout.max_tokens is {self.max_tokens}"
            )
        prompt = encode(sample, self.style, self.policy)
        return Group(prompt=prompt, completions=(said,), verdicts=(Verdict(reward=1.0),), draw=index)

    def usable(self, indices: Iterable[int]) -> Iterator[Group]:
        """The groups at these indices, less those whose sample cannot be asked."""
        for index in indices:
            with suppress(UnusableSampleError):  # the run itself counts and tells it
                yield self(index)


def warm_up(
    policy: Policy,
    imitation: Imitation,
    config: WarmupConfig,
    accelerator: Accelerator,
    told: Callable[[int, Update], None],
    limits: Limits,
    say: Callable[[str], None],
) -> None:
    """Imitate for `config.steps` steps, within the limits of the learner.

    Args:
        say: is told where the group forward does not work here; the run itself tells that it does.

    Raises:
        UserError: the loss is not a number (the learning rate is too high), or there are more processes than samples in a step.
    """
    forward = GroupForward(policy, temperature=1.0, checkpointing=limits.checkpointing)
    learner = Learner(
        forward,
        config.optimizer,
        accelerator,
        total_steps=config.steps,
        tokens_per_microbatch=limits.tokens,
        say=lambda line: say(line) if line.startswith("warning") else None,
    )
    ranks = learner.ranks
    if config.batch_size < ranks.count:
        raise UserError(f"warmup.batch_size: got {config.batch_size}, expected at least one sample for each of {ranks.count} processes")
    for step in range(config.steps):
        first = step * config.batch_size
        groups = tuple(imitation.usable(range(first + ranks.rank, first + config.batch_size, ranks.count)))
        update = learner.update(groups, Likelihood(), *ranks.matrices(groups), version=0)
        if update.skipped:
            raise UserError(f"warm-up step {step + 1}: {update.skipped}; lower warmup.optimizer.lr (now {config.optimizer.lr:g})")
        told(step + 1, update)
    accelerator.free_memory()


def _spoken(text: str, policy: Policy) -> Completion:
    """A text as if the policy had said it, its end id included."""
    token_ids = (*policy.processor.tokenizer(text, add_special_tokens=False)["input_ids"], policy.processor.tokenizer.eos_token_id)
    return Completion(token_ids=token_ids, logprobs=(0.0,) * len(token_ids), text=text, finish="stop", version=0)
