"""What the check for the first GPU measures: each part is a function that tells numbers, run in a process of its own by `check.py`.

Everything here also goes its way on a CPU at toy size; what only a card can tell is then left out.
"""

import importlib.util
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))  # they import one another as scripts do

import shapes
import step_time
import torch
from meter import Meter, forget_peak, give_back_unused, memory, peak
from runner import SKIPPED, Numbers
from sides import Row, config_of, random_groups, trainer_of, update
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gpg_vl import loading
from gpg_vl.config import PolicyConfig
from gpg_vl.policy import shared_prefix
from gpg_vl.policy.decoding import begin
from gpg_vl.policy.encode import encode
from gpg_vl.policy.group_forward import GroupForward
from gpg_vl.policy.load import Policy, load_policy
from gpg_vl.policy.logprobs import Asked, PlainForward
from gpg_vl.prompts import AnswerOnly
from gpg_vl.recipes.digits import digits
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.transformers_engine import TransformersEngine
from gpg_vl.types import Completion, Prompt

ROOT = Path(__file__).parents[2]
LARGE, SMALL = "qwen2_5_vl_3b", "mid"
"""Shapes: what is timed, and what exactness is looked at with."""
GIGABYTE = 1e9
UNPROVOKED = 10
"""The group forward may be off from plain rows by so many times what plain rows are off from themselves in another batch."""

Told = Iterator[Numbers]


@dataclass(frozen=True, slots=True)
class Case:
    """Where and how large."""

    folder: Path
    """Kept while the check runs: weights that several parts read."""
    toy: bool

    @property
    def device(self) -> str:
        """The card, where there is one."""
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def row(self) -> Row:
        """A step of the large shape: a prompt of 1,250 tokens, 8 answers of 200."""
        (row,) = (row for row in step_time.CUDA_ROWS if row.shape == LARGE)
        return step_time.toy_of(replace(row, groups=2)) if self.toy else replace(row, laps=1, groups=4)

    def weights(self, shape: str) -> Path:
        """A checkpoint of random weights, written once; whole or not there."""
        folder = self.folder / shape
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=self.folder))
            shapes.write("tiny" if self.toy and shape == SMALL else shape, half, toy=self.toy)
            half.rename(folder)
        return folder

    def policy(self, shape: str, dtype: str) -> Policy:
        """Loaded, on the card, and its answers never end before their full length."""
        policy = load_policy(PolicyConfig(model=str(self.weights(shape)), dtype=dtype), seed=0)  # type: ignore[arg-type]
        policy.model.to(self.device)
        return replace(policy, end_ids=frozenset())


def card(case: Case) -> Told:
    """What there is, and how fast it multiplies."""
    if command := shutil.which("nvidia-smi"):
        query = "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm,power.limit"
        yield {"nvidia-smi": subprocess.check_output([command, query, "--format=csv,noheader"], text=True).strip()}
    if case.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        yield {"free GB": _gb(free), "of GB": _gb(total), "CUDA": torch.version.cuda, "capability": str(torch.cuda.get_device_capability())}
    yield {"bfloat16 matrix product TFLOP/s": step_time.matrix_rate()}


def train(case: Case, *, dtype: str) -> Told:
    """The default run, shortened: a tiny model warms up and takes real steps, with the vision gate on."""
    run = case.folder / f"train-{dtype}"
    own = ["tests/small.yaml", "steps=2", "warmup.steps=3"] if case.toy else ["digits", "steps=20", "warmup.steps=60"]
    given = [f"folder={case.folder}", f"name={run.name}", f"policy.dtype={dtype}", "evaluation.benchmark=null"]
    start = perf_counter()
    subprocess.run([sys.executable, "-m", "gpg_vl", "train", *own, *given], check=True, cwd=ROOT)
    seconds = perf_counter() - start
    steps = loading.read_rows(run / "metrics.jsonl")
    yield {"steps": len(steps), "s in all": round(seconds, 1), "last step s": round(steps[-1]["seconds"], 2), "reward": steps[-1]["reward"]}


def exactness(case: Case, *, dtype: str) -> Told:
    """The group forward against plain rows, beside what plain rows themselves are off in another batch.

    Raises:
        ArithmeticError: it is off by more than rounding explains.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    policy = case.policy(SMALL, dtype)
    asked = [(prompt, _drawn(policy, 4, 6 if case.toy else 48)) for prompt in _questions(policy, 1, "count", "add")]
    group, plain = GroupForward(policy, temperature=0.9), PlainForward(policy, temperature=0.9)
    expected = _scores_and_gradients(policy, plain, [asked])
    alone = _scores_and_gradients(policy, plain, [[(prompt, [each])] for prompt, completions in asked for each in completions])
    found = _scores_and_gradients(policy, group, [asked])
    eps = torch.finfo(policy.dtype).eps
    for what, mine, theirs, other in zip(("log-probabilities", "gradient"), found, expected, alone, strict=True):
        error, noise = _relative_error(mine, theirs), _relative_error(other, theirs)
        yield {f"{what}: relative error": error, f"{what}: of plain rows alone": noise}
        if not error <= UNPROVOKED * max(noise, eps):
            raise ArithmeticError(
                f"{what}: the group forward is off from plain rows by {error:.1e}, plain rows from themselves by {noise:.1e}; expected at "
                f"most {UNPROVOKED} times that. Train with learner.shared_prefix=false on this card, and report it"
            )


def _scores_and_gradients(policy: Policy, forward: Any, batches: Sequence[Sequence[Asked]]) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities, and the gradient of a sum of them in which each token has a sign and a weight of its own."""
    policy.model.zero_grad(set_to_none=True)
    values, start = list[Tensor](), 0
    for asked in batches:
        scores = forward(asked, lambda logprobs_n, line_n, start=start: (logprobs_n * torch.cos(1.0 + start + line_n)).sum())
        scores.loss.backward()
        values.append(scores.logprobs_N.detach())
        start += len(values[-1])
    return [torch.cat(values)], [parameter.grad for parameter in policy.model.parameters() if parameter.grad is not None]


def _relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Of all tensors as one vector."""
    off, size = (
        sum(float(tensor.double().square().sum()) for tensor in tensors)
        for tensors in ([mine.double() - theirs.double() for mine, theirs in zip(found, expected, strict=True)], expected)
    )
    return float(f"{(off / size) ** 0.5:.2e}")


def weights(case: Case) -> Told:
    """Random weights at the large shape, written as a checkpoint that the parts below read."""
    folder = case.weights(LARGE)
    yield {"GB": _gb(sum(file.stat().st_size for file in folder.rglob("*.safetensors"))), "shape": LARGE}


class _Telling(Meter):
    """A meter that tells the step that counts before the one whose operations are counted, which takes longest."""

    def __init__(self, laps: int) -> None:
        super().__init__(laps, count_operations=True)
        self.told: Callable[[Numbers], None] = lambda numbers: None

    def lap(self) -> None:
        super().lap()
        if len(self.done) == 1 + self.timed:
            self.told(_step_numbers(self.result()))


def step(case: Case, *, side: str, tell: Callable[[Numbers], None]) -> Told:
    """Whole training steps: ours, ours with plain rows, TRL's."""
    if side == "trl" and (missing := [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]):
        yield {SKIPPED: f"{' and '.join(missing)} not installed; pip install 'gpg-vl[bench]'"}
        return
    row, meter = case.row, _Telling(case.row.laps)
    meter.told = tell
    record = step_time.measure(row, side, case.weights(LARGE), cuda=True, meter=meter)
    seconds = record["wall"]["step"]
    rate = record["operations"] / seconds / 1e12
    yield {
        "completion tokens/s": round(row.groups * row.group_size * row.length / seconds, 1),
        "TFLOP/s": round(rate, 3),
        "of the matrix rate, %": round(100 * rate / record["matrix_tflops"], 1),
        "prompt tokens": record["prompt_tokens"],
        **({"plain rows, because": why} if (why := record.get("why_not_shared")) and side == "gpg_vl" else {}),
    }


def _step_numbers(result: Any) -> Numbers:
    """Wall seconds by phase; TRL's update is what its rollout leaves of a step."""
    wall = dict(result["wall"])
    if "rollout" in wall:
        wall["update"] = wall["step"] - wall.pop("rollout")
    return {**{f"{phase} s": round(seconds, 3) for phase, seconds in wall.items()}, "peak GB": _gb((result["loaded_mb"] + result["peak_mb"]) * 2**20)}


def attention(case: Case) -> Told:
    """FlexAttention, and two flash calls merged by their normalisers, over the same rows, forward and backward."""
    heads, key_heads, width, length, new = (4, 2, 16, 40, 6) if case.toy else (16, 2, 128, 1250, 200)
    prompts, rows = 2, 8
    make = partial(torch.randn, device=case.device, dtype=torch.bfloat16 if case.device == "cuda" else torch.float32)
    own, theirs = (prompts * rows, key_heads, new, width), (prompts, key_heads, length, width)
    states = [make(prompts * rows, heads, new, width), make(own), make(own), make(theirs), make(theirs)]
    visible = torch.ones(prompts, length, dtype=torch.bool, device=case.device)
    nothing = torch.zeros(prompts, device=case.device)
    prefix = shared_prefix.Prefix((), (), visible, False, nothing, nothing)
    ways = {"two flash calls": shared_prefix._in_two_flashes, "FlexAttention": shared_prefix._in_blocks}  # pyright: ignore[reportPrivateUsage]
    backward = case.device == "cuda"  # FlexAttention has none on a CPU
    outputs: dict[str, Tensor] = {}
    for name, attend in ways.items():
        leaves = [tensor.clone().requires_grad_(backward) for tensor in states]

        def once(attend: Any = attend, leaves: Any = leaves, name: str = name) -> None:
            query, key, value, *prompt = leaves
            outputs[name] = attend(query, key, value, tuple(prompt), prefix, width**-0.5, None)
            if backward:
                torch.autograd.grad(outputs[name].sum(), leaves)

        with _card_flashes() if case.device == "cuda" else nullcontext():
            once()
            forget_peak()
            before = memory()
            yield {f"{name}: ms": round(1000 * _best_of(once, 5), 3), f"{name}: peak MB": round((peak() - before) / 2**20)}
    yield {"relative difference": _relative_error(*([output.detach()] for output in outputs.values()))}


def _card_flashes() -> Any:
    """Let the two-call way use the card's flash kernels: the CPU's by another signature, and without a mask."""
    aten: Any = torch.ops.aten

    def flash(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: None = None, is_causal: bool = False, scale: float) -> Any:
        assert attn_mask is None
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, scale=scale)[:2]

    def flash_backward(slope: Tensor, *states: Any, attn_mask: None = None, scale: float) -> Any:
        *tensors, dropout, is_causal = states
        query, key = tensors[:2]
        unused = torch.zeros(2, dtype=torch.uint64, device=query.device)  # random state of a dropout that is none
        sizes = (None, None, query.shape[2], key.shape[2])
        return aten._scaled_dot_product_flash_attention_backward(
            slope, *tensors, *sizes, dropout, is_causal, unused, unused[0], scale=scale
        )

    return mock.patch.multiple(shared_prefix, _FLASH=flash, _FLASH_BACKWARD=flash_backward)


def compiles(case: Case) -> Told:
    """Micro-batches of many sizes: how often FlexAttention is compiled, and what the first of them take.

    Raises:
        torch._dynamo.exc.FailOnRecompileLimitHit: more often than dynamo does it; from then on scores would be held in memory.
    """
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # pyright: ignore[reportPrivateImportUsage]
    policy, draw = case.policy(SMALL, "bfloat16" if case.device == "cuda" else "float32"), random.Random(0)
    forward = GroupForward(policy, temperature=1.0)
    questions = _questions(policy, 2 if case.toy else 8, "count", "compare", "add")
    seconds = list[float]()
    for _ in range(3 if case.toy else 60):
        batch = draw.sample(questions, draw.randint(1, 5))
        asked = [(prompt, _drawn(policy, 8, 5 if case.toy else draw.randint(20, 200), draw)) for prompt in batch]
        start = perf_counter()
        forward(asked, lambda logprobs_n, line_n: logprobs_n.sum()).loss.backward()
        _wait()
        seconds.append(perf_counter() - start)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]  # pyright: ignore[reportPrivateImportUsage]
    usual = sorted(seconds)[len(seconds) // 2]
    slow = [place for place, each in enumerate(seconds) if each > 5 * usual]
    yield {"micro-batches": len(seconds), "compiles": graphs, "limit": torch._dynamo.config.recompile_limit, "first s": round(seconds[0], 2)}  # pyright: ignore[reportPrivateImportUsage]
    yield {"median s": round(usual, 4), "over 5 medians": str(slow)}


def decoding(case: Case) -> Told:
    """Tokens a second of our own sampling, kernels of a step, and pictures a second through the tower."""
    policy = case.policy(LARGE, "bfloat16")
    small, large, length = (1, 2, 4) if case.toy else (8, 32, 64)
    start = perf_counter()
    questions = _questions(policy, large, "count", side=case.row.pixels)
    yield {"pictures prepared/s": round(large / (perf_counter() - start), 1), "prompt tokens": len(questions[0].input_ids)}
    engine = TransformersEngine(policy)
    for prompts, tokens in ((1, 4), (small, length), (large, length)):
        start = perf_counter()
        engine.generate(questions[:prompts], Sampling(max_tokens=tokens, temperature=1.0), [range(8 * row, 8 * row + 8) for row in range(prompts)])
        _wait()
        if tokens == length:
            yield {f"{8 * prompts} rows: tokens/s": round(8 * prompts * length / (perf_counter() - start), 1)}
    yield _kernels(policy, questions[:small])

    @torch.no_grad()
    def look() -> None:
        with policy.autocast():
            policy.vision.inputs(questions)

    look()
    yield {"pictures through the tower/s": round(large / _best_of(look, 2), 1)}


@torch.no_grad()
def _kernels(policy: Policy, questions: Sequence[Prompt], steps: int = 3) -> Numbers:
    """How many kernels a step of decoding launches, and the share of its time in which one runs."""
    on_card = policy.device.type == "cuda"
    tokens = torch.zeros(len(questions), 8, dtype=torch.long, device=policy.device)
    with policy.autocast():
        rows = begin(policy, questions, 8)
        rows.append(tokens)
        _wait()
        start = perf_counter()
        for _ in range(steps):
            rows.append(tokens)
        _wait()
        seconds = (perf_counter() - start) / steps
        with profile(activities=[ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]) as profiler:
            for _ in range(steps):
                rows.append(tokens)
            _wait()
    events = profiler.events() or ()
    if not on_card:
        return {"ms a step": round(1000 * seconds, 2), "operators a step": sum(event.cpu_parent is None for event in events) // steps}
    kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    busy = sum(event.device_time for event in kernels) / 1e6 / steps
    return {"ms a step": round(1000 * seconds, 2), "kernels a step": len(kernels) // steps, "kernels run, %": round(100 * busy / seconds)}


@torch.no_grad()
def graph(case: Case) -> Told:
    """One step of decoding as a CUDA graph: what it would gain if launching kernels cost nothing.

    Only one: the rows' own keys and values grow with each step, so each has other shapes, and a graph replays the same.
    """
    if case.device != "cuda":
        yield {SKIPPED: "CUDA graphs need a card"}
        return
    policy = case.policy(LARGE, "bfloat16")
    questions = _questions(policy, 8, "count", side=case.row.pixels)
    tokens = torch.zeros(8, 8, dtype=torch.long, device="cuda")
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):  # a graph must not hold what autocast made outside of it
        rows = begin(policy, questions, 8)
        for _ in range(20):
            rows.append(tokens)

        def again() -> None:
            rows.append(tokens)

        yield {"ms a step, launched": round(1000 * _best_of(again, 5), 2)}
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            rows.append(tokens)
        yield {"ms a step, replayed": round(1000 * _best_of(captured.replay, 5), 2)}
    yield {"a whole answer": "no: shapes grow with each step"}


def held(case: Case) -> Told:
    """The peak of an update with answers of 200 and of 1,000 tokens, beside what `gpg-vl plan` says for such a run."""
    lengths = (6, 12) if case.toy else (200, 1000)
    row = case.row
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(row, case.weights(LARGE), Path(folder))
        update(trainer, random_groups(trainer, replace(row, length=2), 1))  # makes the moments
        for length in lengths:
            longer = replace(row, length=length)
            groups = random_groups(trainer, longer, 2)
            give_back_unused()
            forget_peak()
            update(trainer, groups)
            _wait()
            measured = peak()
            yield {f"C {length}: measured GB": _gb(measured)}
            said = plan_of(longer, case.weights(LARGE), Path(folder))
            yield {f"C {length}: plan": [line for line in said.splitlines() if line.strip()]}
            predicted = predicted_bytes(said)
            yield {f"C {length}: predicted GB": "plan names no memory" if predicted is None else _gb(predicted)}


def plan_of(row: Row, checkpoint: Path, folder: Path) -> str:
    """What `gpg-vl plan` prints for a row. It ends with 1 where a run does not fit, which is an answer too.

    Raises:
        RuntimeError: it could not answer.
    """
    config = folder / f"plan-{row.length}.yaml"
    config.write_text(loading.dump(config_of(row, checkpoint, folder)))
    done = subprocess.run([sys.executable, "-m", "gpg_vl", "plan", str(config)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        raise RuntimeError(f"gpg-vl plan ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return done.stdout + done.stderr


def predicted_bytes(said: str) -> float | None:
    """The bytes on a card that `gpg-vl plan` predicts: the first GiB of the line that begins with memory; None = it says none."""
    for line in said.splitlines():
        words = line.split()
        if words[:1] == ["memory:"] and "GiB" in words:
            return float(words[words.index("GiB") - 1].replace(",", "")) * 2**30
    return None


def _questions(policy: Policy, each: int, *tasks: Any, side: int | None = None) -> list[Prompt]:
    return [encode(sample, AnswerOnly(), policy) for task in tasks for sample in islice(digits(task, count=each, side=side), each)]


def _drawn(policy: Policy, count: int, longest: int, draw: random.Random | None = None) -> list[Completion]:
    """Random completions, one of the full length."""
    draw = draw or random.Random(0)
    last = policy.processor.tokenizer.vocab_size - 1
    lengths = [longest, *(draw.randint(1, longest) for _ in range(count - 1))]
    return [
        Completion(token_ids=tuple(draw.randint(0, last) for _ in range(length)), logprobs=(), text="", finish="length", version=0)
        for length in lengths
    ]


def _best_of(once: Callable[[], object], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        _wait()
        start = perf_counter()
        once()
        _wait()
        best = min(best, perf_counter() - start)
    return best


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _gb(count: float) -> float:
    return round(count / GIGABYTE, 2)
