"""Peak memory of log-probabilities and their gradient at a vocabulary of 152k, each form in a fresh process.

python benchmarks/head_memory.py

`group forward` and `plain rows` are gpg_vl's update; `logits of completions` and `logits everywhere` are the usual form, which holds
[tokens, vocabulary] as one tensor: model(...).logits.log_softmax(-1).gather(...), then backward. One group, every form over the same
prompt and completions. Megabytes are the peak above what was there once model and optimizer were loaded.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import model_shapes
import torch
from frameworks import Row, random_groups, trainer_of, update
from fresh_process import Record, markdown, record, run
from profiler import Meter
from torch import Tensor

from gpg_vl.policy.families import picture_tokens, token_inputs
from gpg_vl.policy.load import Policy
from gpg_vl.policy.vision import tower_inputs
from gpg_vl.types import Group

FORMS = ("group forward", "plain rows", "logits of completions", "logits everywhere")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--one", nargs=2, metavar=("FORM", "CHECKPOINT"), help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    given = parser.parse_args()
    row = Row(name="head", shape="tiny_152k", pixels=given.pixels, group_size=given.group_size, length=given.length, laps=1)
    if given.build:
        model_shapes.write(row.shape, Path(given.build))
    elif given.one:
        print(json.dumps(measure(row, given.one[0], Path(given.one[1]))))
    else:
        sizes = ["--pixels", str(given.pixels), "--group-size", str(given.group_size), "--length", str(given.length)]
        with tempfile.TemporaryDirectory() as checkpoint:
            run(__file__, ["--build", checkpoint])
            print(table({form: record(__file__, ["--one", form, checkpoint, *sizes]) for form in FORMS}))


def measure(row: Row, form: str, checkpoint: Path) -> Record:
    """One form, in this process. A small update before it makes the optimizer's moments, which belong to no form."""
    meter = Meter(row.laps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(row, checkpoint, Path(folder), shared=form == "group forward")
        groups = random_groups(trainer, row, 1)
        update(trainer, random_groups(trainer, Row(name="small", group_size=2, length=2), 1))
        meter.start()
        for _ in range(meter.laps):
            if form in ("group forward", "plain rows"):
                update(trainer, groups)
            else:
                full_logits(trainer.policy, groups[0], everywhere=form == "logits everywhere")
            meter.lap()
    return meter.result()


def full_logits(policy: Policy, group: Group, *, everywhere: bool) -> None:
    """The usual form: every completion a row with its prompt, logits of whole rows or of completions as one tensor, backward."""
    rows, length = len(group.completions), group.lengths[0]
    input_ids = torch.tensor([group.prompt.input_ids + completion.token_ids for completion in group.completions])
    told = token_inputs(policy.model, picture_tokens(policy.model, input_ids))
    features: dict[str, Any] = {**told, **tower_inputs([group.prompt] * rows, policy.model)}
    policy.model.zero_grad(set_to_none=True)
    output = policy.model(input_ids=input_ids, use_cache=False, logits_to_keep=0 if everywhere else length + 1, **features)
    logprobs_RL: Tensor = output.logits[:, :-1].log_softmax(-1).gather(-1, input_ids[:, -output.logits.shape[1] + 1 :, None]).squeeze(-1)
    advantages_R = torch.tensor(group.rewards) - 0.5
    (-(advantages_R[:, None] * logprobs_RL[:, -length:]).sum()).backward()


def table(results: dict[str, Record]) -> str:
    """Markdown, each form against the one that holds the logits of completions."""
    usual = results["logits of completions"]["peak_mb"]
    lines = [
        (form, f"{result['peak_mb']:,.0f}", f"{result['peak_mb'] / usual:.2f}", f"{result['cpu']['step']:.2f}")
        for form, result in results.items()
    ]
    return markdown(("form", "peak MB", "of logits of completions", "CPU s"), lines)


if __name__ == "__main__":
    main()
