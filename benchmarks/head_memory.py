"""Measure the peak memory of log-probabilities and their gradient at a vocabulary of 152k.

    python benchmarks/head_memory.py

`group forward` and `plain rows` are gpg_vl's update. `logits of completions` and `logits
everywhere` are the usual form, which holds [tokens, vocabulary] as one tensor:
model(...).logits.log_softmax(-1).gather(...), then backward. All forms have one group with the same
prompt and completions, each in a fresh process. Megabytes are the peak above what was in use once
model and optimizer were loaded.
"""

import argparse
import json
import tempfile
from pathlib import Path

import model_shapes
import torch
from frameworks import Row, random_groups, run_of, update
from fresh_process import Record, markdown, record, run
from profiler import Profiler

from gpg_vl.policy.families import picture_tokens, token_inputs
from gpg_vl.policy.load import Policy
from gpg_vl.policy.vision import tower_inputs
from gpg_vl.types import Group

FORMS = ("group forward", "plain rows", "logits of completions", "logits everywhere")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--one", nargs=2, metavar=("FORM", "CHECKPOINT"), help=argparse.SUPPRESS)
    parser.add_argument("--build", help=argparse.SUPPRESS)
    options = parser.parse_args()
    row = Row(
        name="head",
        shape="tiny_152k",
        pixels=options.pixels,
        group_size=options.group_size,
        length=options.length,
        laps=1,
    )
    if options.build:
        model_shapes.write(row.shape, Path(options.build))
    elif options.one:
        form, checkpoint = options.one
        print(json.dumps(measure(row, form, Path(checkpoint))))
    else:
        print(table(measure_all(row)))


def measure_all(row: Row) -> dict[str, Record]:
    """Measure every form, each in a fresh process."""
    size = ["--pixels", str(row.pixels), "--group-size", str(row.group_size)]
    results: dict[str, Record] = {}
    with tempfile.TemporaryDirectory() as checkpoint:
        run(__file__, ["--build", checkpoint])
        for form in FORMS:
            arguments = ["--one", form, checkpoint, *size, "--length", str(row.length)]
            results[form] = record(__file__, arguments)
    return results


def measure(row: Row, form: str, checkpoint: Path) -> Record:
    """Measure one form, in this process.

    A small update comes first: it makes the optimizer's moments, which belong to no form.
    """
    profiler = Profiler(row.laps)
    with tempfile.TemporaryDirectory() as folder:
        training = run_of(row, checkpoint, Path(folder), shared=form == "group forward")
        groups = random_groups(training, row, 1)
        update(training, random_groups(training, Row(name="small", group_size=2, length=2), 1))
        profiler.start()
        for _ in range(profiler.laps):
            if form in ("group forward", "plain rows"):
                update(training, groups)
            else:
                full_logits(training.policy, groups[0], everywhere=form == "logits everywhere")
            profiler.lap()
    return profiler.result()


def full_logits(policy: Policy, group: Group, *, everywhere: bool) -> None:
    """Run the usual form forward and backward: every completion is a row with its prompt.

    Args:
        everywhere: hold the logits of whole rows as one tensor; else those of completions.
    """
    length = group.lengths[0]
    rows = [group.prompt.input_ids + completion.token_ids for completion in group.completions]
    input_ids = torch.tensor(rows)
    inputs = token_inputs(policy.model, picture_tokens(policy.model, input_ids))
    images = tower_inputs([group.prompt] * len(rows), policy.model)
    policy.model.zero_grad(set_to_none=True)
    output = policy.model(
        input_ids=input_ids,
        use_cache=False,
        logits_to_keep=0 if everywhere else length + 1,
        **inputs,
        **images,
    )
    next_ids = input_ids[:, -output.logits.shape[1] + 1 :, None]
    # No name for the whole tensor of log-probabilities: autograd alone holds it.
    logprobs_RL = output.logits[:, :-1].log_softmax(-1).gather(-1, next_ids).squeeze(-1)
    advantages_R = torch.tensor(group.rewards) - 0.5
    (-(advantages_R[:, None] * logprobs_RL[:, -length:]).sum()).backward()


def table(results: dict[str, Record]) -> str:
    """Return a Markdown table; each form is compared with `logits of completions`."""
    usual = results["logits of completions"]["peak_mb"]
    lines: list[tuple[str, ...]] = []
    for form, result in results.items():
        peak = result["peak_mb"]
        lines.append((form, f"{peak:,.0f}", f"{peak / usual:.2f}", f"{result['cpu']['step']:.2f}"))
    return markdown(("form", "peak MB", "of logits of completions", "CPU s"), lines)


if __name__ == "__main__":
    main()
