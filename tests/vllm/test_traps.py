"""The ways in which a vLLM silently samples from another policy than the one that is trained, met
on the real thing.

For each: with the fix in place the gate opens; with the fix taken away, in the engine's own code,
it shuts and names the cause (or vLLM itself refuses).
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from gpg_vl.errors import EngineLostError, MismatchError
from gpg_vl.policy.encode import encode_text
from gpg_vl.report.export import export
from gpg_vl.rollout.engine import Sampling
from gpg_vl.rollout.gate.vision_gate import VisionGate
from gpg_vl.rollout.vllm import in_process, plugin, protocol, server_engine, weight_files
from gpg_vl.rollout.vllm.weights import HEAD, Weights, trainable_weights
from tests.adapted import TOWER
from tests.asking import prompts
from tests.vllm.conftest import IN_PROCESS, USUAL, build, move, server_spec
from tests.vllm.test_contract import ADAPTED, SERVED, WORST, seeds, worst_gap

SAMPLING = Sampling(max_tokens=10, temperature=0.7)
IN_4_BITS = {**TOWER, "language": "frozen", "quantise": "nf4"}
MODULES = {"vllm": in_process, "server": server_engine}
PACKERS = {"vllm": in_process, "server": weight_files}
"""Modules that select the weights that are sent."""


class Lab:
    """An engine of one kind, and the gate in front of it."""

    def __init__(self, kind: str, policy: Any, shared: Any) -> None:
        self.kind = kind
        self.module = MODULES[kind]
        self.policy = policy
        self.shared = shared
        self.gate = VisionGate(prompts=tuple(prompts(policy)), sampling=SAMPLING, seed=0)
        self.updates = 0

    def update_and_look(self) -> dict[str, float]:
        self.updates += 1
        move(self.policy, self.updates)
        return self.gate.check(
            self.shared.sampling_from(self.policy), self.policy, self.shared.version
        )


@pytest.fixture(params=MODULES)
def lab(request, policy_of, shared):
    made = Lab(request.param, policy_of("qwen2_5_vl"), shared(request.param, "qwen2_5_vl"))
    made.update_and_look()
    return made


@pytest.fixture
def broken(monkeypatch):
    """Takes a fix away until the test is over."""
    return monkeypatch


def all_but(forgotten):
    """Return a `trainable_weights` that leaves out tensors by name."""

    def some(policy, **more):
        weights = trainable_weights(policy, **more)
        return Weights(
            {name: tensor for name, tensor in weights.parameters.items() if not forgotten(name)},
            weights.dtype,
        )

    return some


def test_an_expanded_prompt_would_be_expanded_again(lab, broken):
    broken.setattr(lab.module, "unexpanded_ids", lambda policy, prompt: list(prompt.input_ids))
    with pytest.raises(MismatchError, match="an expanded placeholder was expanded again"):
        lab.update_and_look()


def test_image_embeddings_of_the_old_tower_would_be_used_again(lab, broken):
    forget_all_but_the_encoder_cache = {
        "vllm": lambda engine: engine._llm.reset_prefix_cache(),
        "server": lambda engine, server: server.post("/reset_prefix_cache"),
    }
    broken.setattr(
        type(lab.shared.engine), "_reset_caches", forget_all_but_the_encoder_cache[lab.kind]
    )
    with pytest.raises(MismatchError, match="stale encoder cache"):
        lab.update_and_look()


def test_keys_and_values_of_the_old_weights_would_be_used_again(lab, broken):
    forget_all_but_the_prefix_cache = {
        "vllm": lambda engine: engine._llm.llm_engine.reset_encoder_cache(),
        "server": lambda engine, server: server.post("/reset_encoder_cache"),
    }
    broken.setattr(
        type(lab.shared.engine), "_reset_caches", forget_all_but_the_prefix_cache[lab.kind]
    )
    with pytest.raises(MismatchError, match="stale prefix cache"):
        lab.update_and_look()


def test_a_tied_head_would_stay_what_it_was(lab, broken):
    broken.setattr(PACKERS[lab.kind], "trainable_weights", all_but(lambda name: name == HEAD))
    with pytest.raises(MismatchError, match=r"Cause unknown: .*tied head"):
        lab.update_and_look()


def test_a_placeholder_would_be_sampled(lab, broken):
    sampling_fields = lab.module.sampling_fields
    broken.setattr(
        lab.module, "sampling_fields", lambda *asked: {**sampling_fields(*asked), "logit_bias": {}}
    )
    with pytest.raises(
        MismatchError, match=r"the ban: the engine counts image|its ban is not obeyed"
    ):
        lab.update_and_look()
    with torch.no_grad():
        lab.policy.model.lm_head.weight[list(lab.policy.banned_ids)] *= 300
    with pytest.raises(MismatchError, match="image or video placeholders; its ban is not obeyed"):
        lab.shared.sampling_from(lab.policy).generate(
            prompts(lab.policy, ["add"], each=3), SAMPLING, [[1, 2, 3, 4]] * 3
        )


def test_the_checkpoints_own_sampling_would_be_obeyed(lab, broken):
    """As with an endpoint that fills in what is not stated: Qwen's checkpoints ask for top-k,
    top-p and a penalty."""
    sampling_fields = lab.module.sampling_fields
    for wish, cause in (
        ({"top_p": 0.4}, r"Cause: truncated sampling: top-p 0\.4"),
        ({"top_k": 5}, "Cause: truncated sampling: top-k 5"),
        ({"repetition_penalty": 1.3}, "Cause unknown: .* penalties"),
    ):
        broken.setattr(
            lab.module,
            "sampling_fields",
            lambda *asked, wish=wish: {**sampling_fields(*asked), **wish},
        )
        with pytest.raises(MismatchError, match=cause):
            lab.update_and_look()


def test_the_checkpoints_own_length_would_be_obeyed(shared, policy_of, broken):
    """The servers of these tests serve checkpoints that want three new tokens, and do so where
    no number is stated."""
    lab = Lab("server", policy_of("qwen2_5_vl"), shared("server", "qwen2_5_vl"))
    lab.update_and_look()
    sampling_fields = server_engine.sampling_fields

    def unsaid(*asked):
        return {
            name: value for name, value in sampling_fields(*asked).items() if name != "max_tokens"
        }

    broken.setattr(server_engine, "sampling_fields", unsaid)
    with pytest.raises(MismatchError, match="cut off after 3 tokens, 10 were allowed"):
        lab.update_and_look()


def test_a_server_without_tokens_in_and_out_says_how_to_start_it(serve, fork_server, policy_of):
    served = serve("qwen3_vl", "--generation-config", "vllm").wait()
    policy = policy_of("qwen3_vl")
    engine = build(policy, server_spec(fork_server, served))
    with closing(engine), pytest.raises(EngineLostError, match="start it with --enable-scale-out"):
        engine.generate(prompts(policy, ["add"]), SAMPLING, [[1]])
    served.kill()


# --- more of them ---------------------------------------------------------------------------------


def test_a_lost_picture_is_noticed(lab, broken):
    def grey(prompt):
        return [Image.new("RGB", image.size, (7, 7, 7)) for image in prompt.images]

    generate = type(lab.shared.engine).generate

    def forgetful(engine, asked, sampling, seeds):
        return generate(
            engine,
            [encode_text(prompt.text, grey(prompt), prompt.sample, lab.policy) for prompt in asked],
            sampling,
            seeds,
        )

    broken.setattr(type(lab.shared.engine), "generate", forgetful)
    with pytest.raises(
        MismatchError, match="image lost: the engine answers alike with and without the picture"
    ):
        lab.update_and_look()


def test_a_picture_of_another_size_is_noticed(lab, broken):
    def shrunk(policy, prompt):
        object.__setattr__(
            prompt, "images", tuple(image.resize((28, 28)) for image in prompt.images)
        )
        return protocol.unexpanded_ids(policy, prompt)

    broken.setattr(lab.module, "unexpanded_ids", shrunk)
    with pytest.raises(MismatchError, match="processor mismatch"):
        lab.update_and_look()


def test_an_update_that_did_not_arrive_is_noticed(lab, broken):
    async def forgotten(engine, *asked, **more):
        """Nothing is handed over, and nobody notices."""

    nothing = {"vllm": lambda engine, *asked, **more: None, "server": forgotten}
    broken.setattr(type(lab.shared.engine), "_sync_weights", nothing[lab.kind])
    if lab.kind == "server":  # a server says itself which weights it has
        lab.shared.engine.deadline = 0.5
        with pytest.raises(EngineLostError, match=r"it has weights gpg_vl/.*, expected gpg_vl/"):
            lab.update_and_look()
        lab.shared.engine.deadline = 900.0
    else:
        with pytest.raises(
            MismatchError, match="Cause: stale weights: the answers are those of the last check"
        ):
            lab.update_and_look()


# --- with engines of their own --------------------------------------------------------------------
# vLLM has one set of process groups per process, so closing one of two engines ends the other.


@pytest.mark.parametrize("kind", ["vllm", "server"])
def test_adapters_that_are_not_merged_are_noticed(kind, policy_of, shared, broken):
    """As with engines that are sent the trained tensors, or hold adapters and drop the tower's."""
    lab = Lab(kind, policy_of("qwen2_5_vl", **TOWER), shared(kind, "qwen2_5_vl"))
    lab.update_and_look()
    broken.setattr(PACKERS[kind], "trainable_weights", all_but(lambda name: ".visual." in name))
    with pytest.raises(MismatchError, match="vision gate"):
        lab.update_and_look()


@pytest.fixture
def own_engine(policy_of):
    """An engine in this process that a test may break."""
    with closing(build(policy_of("qwen3_vl"), IN_PROCESS)) as engine:
        engine.generate(prompts(engine.policy, ["add"]), SAMPLING, [[1]])
        yield engine


def test_raw_logprobs_are_those_of_another_temperature(policy_of):
    policy = policy_of("qwen2_vl")
    gate = VisionGate(prompts=tuple(prompts(policy)), sampling=SAMPLING, seed=0)
    engine = build(
        policy,
        {**IN_PROCESS, "options": {**IN_PROCESS["options"], "logprobs_mode": "raw_logprobs"}},
    )
    with (
        closing(engine),
        pytest.raises(
            MismatchError,
            match=r"temperature: it samples at 0\.7 and reports raw log-probabilities",
        ),
    ):
        gate.check(engine, policy, 0)


def test_raw_logprobs_of_a_server_are_too(serve, fork_server, policy_of):
    served, policy = (
        serve("qwen2_vl", *USUAL, "--logprobs-mode", "raw_logprobs").wait(),
        policy_of("qwen2_vl"),
    )
    gate = VisionGate(prompts=tuple(prompts(policy)), sampling=SAMPLING, seed=0)
    with (
        closing(build(policy, server_spec(fork_server, served))) as engine,
        pytest.raises(MismatchError, match="temperature: it samples at"),
    ):
        gate.check(engine, policy, 0)
    served.kill()


def test_weights_cannot_be_loaded_over_packed_ones(own_engine, policy_of, broken):
    """What other toolkits do, `model.load_weights` on the running model: the CPU backend has
    packed the weights and refuses."""
    broken.setattr(
        plugin.weight_receiver(),
        "receive_weights",
        lambda self, update: self.model.load_weights(update.tensors.items()),
    )
    own_engine.update_weights(policy_of("qwen3_vl"), 1)
    with pytest.raises(
        (AssertionError, AttributeError),
        match=r"Attempted to load weight|no attribute 'weight_loader'",
    ):
        own_engine.generate(prompts(own_engine.policy), SAMPLING, [[1]] * 5)


def test_half_a_layer_is_refused(own_engine, policy_of, broken):
    broken.setattr(
        in_process, "trainable_weights", all_but(lambda name: "layers.0.self_attn.q_" in name)
    )
    own_engine.update_weights(policy_of("qwen3_vl"), 1)
    with pytest.raises(ValueError, match=r"only \d+ of \d+ numbers of .*qkv_proj came"):
        own_engine.generate(prompts(own_engine.policy), SAMPLING, [[1]] * 5)


@pytest.mark.parametrize("knobs", [{}, {"weights": "bfloat16"}, TOWER, IN_4_BITS])
def test_in_bfloat16_too(knobs, policy_of):
    """What GPUs train in: held against the trainer's own rounding, in the engine's arithmetic."""
    policy = policy_of("qwen2_5_vl", dtype="bfloat16", **knobs)
    gate = VisionGate(prompts=tuple(prompts(policy)), sampling=SAMPLING, seed=0)
    with closing(build(policy, IN_PROCESS)) as engine:
        for update in (0, 1, 2):
            move(policy, update)
            engine.update_weights(policy, update)
            assert gate.check(engine, policy, update)["gate/excess"] < 0.6


@pytest.mark.parametrize("parts", ["in 4 bits", "language, projector whole"])
def test_vllm_starts_from_a_policy_with_adapters(parts, policy_of):
    """What it loads, and what it is sent afterwards, are equal to the last bit; it checks that."""
    policy = policy_of(SERVED, **ADAPTED[parts])
    move(policy, 0)
    asked = prompts(policy)
    with closing(build(policy, IN_PROCESS)) as engine:
        for version in (0, 1):
            engine.update_weights(policy, version)
            answers = engine.generate(asked, SAMPLING, seeds(len(asked), 4))
            assert worst_gap(policy, asked, answers) <= WORST
            move(policy, version)


def test_vllm_loads_what_export_wrote(policy_of, tmp_path, broken):
    policy = policy_of(SERVED, **ADAPTED["language, projector whole"])
    move(policy, 0)
    policy.save(tmp_path / "adapter")
    folder = export(str(tmp_path / "adapter"), tmp_path / "model", merged=True, log=print)
    load = in_process.VllmEngine._load
    loaded: list[Path] = []

    def of_the_export(engine: Any, own: Path) -> Any:
        loaded.append(own)
        return load(engine, folder)

    broken.setattr(in_process.VllmEngine, "_load", of_the_export)
    asked = prompts(policy)
    with closing(build(policy, IN_PROCESS)) as engine:
        answers = engine.generate(asked, SAMPLING, seeds(len(asked), 4))
        assert worst_gap(policy, asked, answers) <= WORST
    assert len(loaded) == 1
