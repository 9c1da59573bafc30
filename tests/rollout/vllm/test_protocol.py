"""What a vLLM is asked word for word, what its answers must be, and with which words it is
started. No vLLM, and hardly a model."""

import json
import math
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpg_vl.config import loading
from gpg_vl.config.schema import PolicyConfig
from gpg_vl.errors import MismatchError, UnusableSampleError, UserError
from gpg_vl.policy import model_folder
from gpg_vl.policy.adapter_files import AdapterFiles
from gpg_vl.policy.model_folder import ModelFiles
from gpg_vl.rollout.engine import RolloutEngine, Sampling, ensure_fits
from gpg_vl.rollout.vllm import launch, protocol
from gpg_vl.rollout.vllm.launch import Command, server_options, vllm_command
from gpg_vl.rollout.vllm.protocol import (
    Answer,
    check_policy,
    check_prompt_ids,
    check_version,
    completion,
    completions,
    sampling_fields,
    unexpanded_ids,
    whole_prompts,
)
from gpg_vl.rollout.vllm.weight_files import HANDOVER
from gpg_vl.types import Completion, Prompt
from tests.adapted import LANGUAGE, moved, tiny
from tests.asking import prompts
from tests.conftest import FAMILIES, ROOT
from tests.hand_made import prompt

IMAGE, VIDEO, END, STOP = 11, 12, 3, 7
SAMPLING = Sampling(max_tokens=4, temperature=0.75)


def policy(**more: Any) -> Any:
    tokenizer = SimpleNamespace(
        tokenizer=lambda text: {"input_ids": [len(text), IMAGE], "attention_mask": [1, 1]}
    )
    model = SimpleNamespace(config=SimpleNamespace(model_type="qwen2_5_vl"))
    known = {
        "banned_ids": (IMAGE, VIDEO),
        "end_ids": {END, STOP},
        "decode": lambda ids: f"<{ids}>",
        "processor": tokenizer,
    }
    return SimpleNamespace(**{**known, "model": model, "dtype": torch.bfloat16, **more})


def asked_of(*input_ids: int) -> Prompt:
    return replace(prompt(tokens=input_ids), text="word")


# --- asking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("greedy", [False, True])
def test_every_field_of_a_request_is_stated(greedy):
    """The list is vLLM's; whatever is left out, a checkpoint's own generation config would
    decide."""
    sampling = Sampling(max_tokens=4, temperature=0.75, greedy=greedy)
    assert sampling_fields(policy(), sampling, [5, 6, 7]) == {
        "n": 3,
        "seed": 5,
        "temperature": 0.0 if greedy else 0.75,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": 4,
        "min_tokens": 0,
        "logprobs": 0,
        "stop_token_ids": [3, 7],
        "ignore_eos": False,
        "detokenize": False,
        "logit_bias": {11: -1e9, 12: -1e9},
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [(0, 0), (2**62 - 1, 2**62 - 1), (2**62, 0), (2**62 + 5, 5), (2**63 - 1, 2**62 - 1)],
)
def test_a_seed_leaves_room_for_the_number_of_the_answer(own, expected):
    assert sampling_fields(policy(), SAMPLING, [own, 1])["seed"] == expected


@pytest.mark.parametrize(
    ("temperature", "greedy", "fine"),
    [(2.0, False, True), (2.01, False, False), (2.01, True, True), (0.01, False, True)],
)
def test_a_temperature_that_vllm_refuses_is_refused_before(temperature, greedy, fine):
    sampling = Sampling(max_tokens=1, temperature=temperature, greedy=greedy)
    if fine:
        assert sampling_fields(policy(), sampling, [1])["temperature"] == (
            0.0 if greedy else temperature
        )
        return
    with pytest.raises(
        UserError, match=r"rollout\.temperature: got 2\.01, vLLM samples at most at 2"
    ):
        sampling_fields(policy(), sampling, [1])


def test_a_prompt_is_tokenized_as_text():
    assert unexpanded_ids(policy(), asked_of(1)) == [4, IMAGE]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_goes_in_with_one_placeholder_a_picture(family, policy_of):
    policy = policy_of(family)
    for asked in prompts(policy):
        short = unexpanded_ids(policy, asked)
        assert short.count(policy.banned_ids[0]) == len(asked.images) == len(asked.sample.images)
        assert [image.size for image in asked.images] == list(asked.sample.sizes)


def test_on_a_cpu_a_prompt_is_read_in_one_piece():
    assert whole_prompts(77) == {"enable_chunked_prefill": False, "max_num_batched_tokens": 77}


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("0.29.9", False),
        ("0.30.0", True),
        ("0.30.0rc1", False),
        ("0.30.1.dev3", True),
        ("0.32.9", True),
        ("0.32.9+cu129", True),
        ("0.33.0", False),
        ("0.33.0+cpu", False),
        ("1.0", False),
        ("0.3.0", False),
    ],
)
def test_releases_are_known_from_the_first_to_the_last(version, fine):
    if fine:
        check_version(version, "it")
        return
    with pytest.raises(
        UserError,
        match=(
            r"rollout\.engine: it is vLLM .*, expected >=0\.30,<0\.33; pip install 'gpg-vl\[vllm\]'"
        ),
    ):
        check_version(version, "it")


def test_the_range_of_releases_is_that_of_the_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["vllm"] == [f"vllm{protocol.SUPPORTED_VLLM}"]


@pytest.mark.parametrize(
    ("family", "dtype", "expected"),
    [
        ("qwen2_vl", torch.bfloat16, "bfloat16"),
        ("qwen2_5_vl", torch.float32, "float32"),
        ("qwen3_vl", torch.float32, "float32"),
        (
            "gemma3",
            torch.float32,
            "gemma3 is not tested with vLLM, only qwen2_vl, qwen2_5_vl, qwen3_vl",
        ),
        ("qwen2_vl", torch.float64, "vLLM knows no float64"),
    ],
)
def test_only_what_is_tested_with_vllm_is_sampled_by_it(family, dtype, expected):
    given = policy(dtype=dtype, model=SimpleNamespace(config=SimpleNamespace(model_type=family)))
    if " " not in expected:
        assert check_policy(given) == expected
        return
    with pytest.raises(UserError, match=expected):
        check_policy(given)


# --- answers --------------------------------------------------------------------------------------

READ = (5, IMAGE, IMAGE, 6, IMAGE, 5)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (READ, ""),
        (
            (5, IMAGE, IMAGE, IMAGE, 6, IMAGE, 5),
            (
                "q1: the engine read 7 prompt tokens, the trainer 6; the images are 4 tokens there "
                "and 3 here"
            ),
        ),
        ((5, IMAGE, 6, IMAGE, 5), "the images are 2 tokens there and 3 here: processor mismatch"),
        # each of another size
        ((5, IMAGE, 6, IMAGE, IMAGE, 5), "the images are 3 tokens there and 3 here"),
        ((5, IMAGE, IMAGE, 6, IMAGE, 6), "and their text differs: tokenizer mismatch"),
        (
            (5, IMAGE, IMAGE, 6, IMAGE, 5, 5),
            "the engine read 7 prompt tokens, the trainer 6, and their text differs",
        ),
        ((5, IMAGE, IMAGE, 6, 5), "their text differs"),
        ((5, VIDEO, VIDEO, 6, IMAGE, 5), "their text differs"),
        ((5, 5, IMAGE, IMAGE, 6, IMAGE, 5), "their text differs"),  # only placeholders run together
        ((), "their text differs"),
    ],
)
def test_the_ids_of_a_prompt_are_the_trainers(got, message):
    if not message:
        check_prompt_ids(policy(), asked_of(*READ), list(got))
        return
    with pytest.raises(MismatchError, match=message):
        check_prompt_ids(policy(), asked_of(*READ), list(got))


@pytest.mark.parametrize(
    ("ids", "logprobs", "finish", "message"),
    [
        ((5, END), (-1.0, -2.0), "stop", ""),
        ((5, STOP), (-1.0, -2.0), "stop", ""),
        ((END,), (0.0,), "stop", ""),
        ((5, 5, 5, END), (-1.0,) * 4, "stop", ""),  # an end at the limit is an end
        ((5, 5, 5, 5), (-1.0,) * 4, "length", ""),
        ((5, 5, 5), (-1.0,) * 3, "length", "cut off after 3 tokens, 4 were allowed"),
        ((5,) * 5, (-1.0,) * 5, "length", "cut off after 5 tokens, 4 were allowed"),
        (
            (5, END),
            (-1.0, -2.0),
            "length",
            "reports finish 'length' after token 3, expected 'stop'",
        ),
        (
            (5, 5, 5, 5),
            (-1.0,) * 4,
            "stop",
            "reports finish 'stop' after token 5, expected 'length'",
        ),
        ((5, END), (-1.0, -2.0), "abort", "reports finish 'abort'"),
        ((5, END), (-1.0, -2.0), None, "reports finish None"),
        ((END, 5, 5, 5), (-1.0,) * 4, "stop", "reports finish 'stop'"),
        ((), (), "stop", "0 tokens came with log-probabilities"),
        ((5, END), (-1.0,), "stop", "2 tokens came with log-probabilities"),
        ((5, END), (-1.0, -2.0, -3.0), "stop", "2 tokens came with log-probabilities"),
        (
            (5, END),
            (-1.0, math.nan),
            "stop",
            r"2 tokens came with log-probabilities \(-1\.0, nan\)",
        ),
        ((5, END), (-math.inf, -1.0), "stop", "2 tokens came with log-probabilities"),
        ((IMAGE, END), (-1.0, -2.0), "stop", r"the engine sampled \[11\]"),
        ((5, VIDEO, END), (-1.0,) * 3, "stop", r"the engine sampled \[12\]"),
    ],
)
def test_an_answer_becomes_a_completion_only_where_all_of_it_is_right(
    ids, logprobs, finish, message
):
    answer = Answer(token_ids=ids, logprobs=logprobs, finish=finish)
    if not message:
        made = completion(policy(), asked_of(5), answer, SAMPLING, 9)
        assert made == Completion(
            token_ids=ids, logprobs=logprobs, text=f"<{ids}>", finish=finish, version=9
        )
        return
    with pytest.raises(MismatchError, match=f"q1: .*{message}"):
        completion(policy(), asked_of(5), answer, SAMPLING, 9)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_as_many_answers_are_taken_as_were_asked_for_in_their_order(count):
    first = Answer(token_ids=(5, END), logprobs=(-1.0, -2.0), finish="stop")
    second = replace(first, token_ids=(6, END))
    if count == 2:
        made = completions(policy(), asked_of(5), [first, second], count, SAMPLING, 9)
        assert [(said.token_ids, said.version) for said in made] == [((5, END), 9), ((6, END), 9)]
        return
    with pytest.raises(MismatchError, match=f"q1: asked for {count} completions, got 2"):
        completions(policy(), asked_of(5), [first, second], count, SAMPLING, 9)


@pytest.mark.parametrize(("window", "fine"), [(7, True), (8, True), (6, False)])
def test_prompt_and_answer_must_fit_the_window(window, fine):
    """Three tokens and four."""
    engine: Any = SimpleNamespace(max_model_len=lambda: window, max_images=lambda: 9)
    asked = asked_of(1, 2, 3)
    if fine:
        assert ensure_fits(asked, engine, 4) is asked
        return
    with pytest.raises(
        UnusableSampleError,
        match="q1: prompt and answer may have 7 tokens, the engine's window is 6",
    ):
        ensure_fits(asked, engine, 4)


def test_an_engine_of_ones_own_has_no_limit_one_copy_and_nothing_to_give_back():
    class Own(RolloutEngine):
        def generate(self, prompts, sampling, seeds):
            return []

        def update_weights(self, policy, version):
            pass

    own = Own()
    assert own.max_model_len() == sys.maxsize
    assert (own.num_replicas, own.narrow, own.needs_verification) == (1, False, False)
    own.release_memory()
    own.close()


# --- starting a server ----------------------------------------------------------------------------


def started(knobs: dict[str, Any] | None = None, **more: Any) -> tuple[list[str], dict[str, str]]:
    asked = {
        "seed": 3,
        "folder": Path("served"),
        "host": "127.0.0.1",
        "port": 8000,
        "window": 4096,
        "transfer": "file",
        "handover": "/h",
    }
    made = vllm_command(
        PolicyConfig(**{"model": "some/model", **(knobs or {})}), **{**asked, **more}
    )
    return list(made.arguments), made.environment


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_a_server_is_started_word_for_word(no_gpu):
    arguments, environment = started({"dtype": "bfloat16"}, more=("--seed", "1"))
    assert arguments == [
        *(
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            "some/model",
            "--host",
            "127.0.0.1",
            "--port",
            "8000",
        ),
        *(
            "--dtype",
            "bfloat16",
            "--max-model-len",
            "4096",
            "--limit-mm-per-prompt",
            '{"image": 8, "video": 0}',
        ),
        *(
            "--logprobs-mode",
            "processed_logprobs",
            "--generation-config",
            "vllm",
            "--enable-scale-out",
        ),
        *(
            "--weight-transfer-config",
            '{"backend": "gpg_vl"}',
            "--no-enable-chunked-prefill",
            "--max-num-batched-tokens",
            "4096",
        ),
        *("--seed", "1"),
    ]
    assert environment == {
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "GPG_VL_HANDOVER": "/h",
    }


def test_an_adapter_of_the_hub_is_served_by_its_base_model(no_gpu, tmp_path, monkeypatch):
    """vLLM does not take the id of an adapter for a model."""
    moved(tiny(**LANGUAGE, dtype="float32")).save(tmp_path / "fetched")
    monkeypatch.setattr(model_folder, "_fetch", lambda name, weights: tmp_path / "fetched")
    parts = {"model": "some/lora", "language": "lora", "projector": "frozen"}
    arguments, _ = started(parts)
    assert arguments[arguments.index("--model") + 1] == str(tmp_path / "fetched" / "base")
    arguments, _ = started({"model": "some/lora"}, folder=tmp_path / "served")
    assert arguments[arguments.index("--model") + 1] == str(tmp_path / "served")
    assert (tmp_path / "served" / "model.safetensors").is_file()


def test_serving_listens_to_this_machine_and_passes_the_pixel_limits_on():
    given = loading.load(
        "digits",
        [
            "policy.model=Qwen/Qwen2.5-VL-3B-Instruct",
            "policy.max_pixels=200000",
            "policy.dtype=bfloat16",
        ],
    )
    command = vllm_command(
        given.policy,
        seed=0,
        folder=Path(),
        host="127.0.0.1",
        port=8000,
        window=4096,
        transfer="nccl",
        handover="h",
        more=("--seed", "1"),
    )
    options = dict(zip(command.arguments, command.arguments[1:], strict=False))
    assert options["--model"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert options["--host"] == "127.0.0.1"
    assert json.loads(options["--mm-processor-kwargs"]) == {"max_pixels": 200000}
    assert json.loads(options["--weight-transfer-config"]) == {"backend": "nccl"}
    assert options["--seed"] == "1"
    assert str(command).startswith("VLLM_SERVER_DEV_MODE=1 ")


def test_on_a_gpu_prompts_may_be_read_in_pieces(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert not {"--no-enable-chunked-prefill", "--max-num-batched-tokens"} & set(started()[0])


def option(arguments: list[str], name: str) -> Any:
    return json.loads(arguments[arguments.index(name) + 1]) if name in arguments else None


@pytest.mark.parametrize(
    ("knobs", "expected"),
    [
        ({}, None),
        ({"min_pixels": 100}, {"min_pixels": 100}),
        ({"max_pixels": 900}, {"max_pixels": 900}),
        ({"min_pixels": 100, "max_pixels": 900}, {"min_pixels": 100, "max_pixels": 900}),
    ],
)
def test_pictures_are_resized_there_as_here(knobs, expected, no_gpu):
    assert option(started(knobs)[0], "--mm-processor-kwargs") == expected


@pytest.mark.parametrize(("transfer", "backend"), [("file", "gpg_vl"), ("nccl", "nccl")])
def test_weights_are_received_as_the_run_sends_them(transfer, backend, no_gpu):
    assert option(started(transfer=transfer)[0], "--weight-transfer-config") == {"backend": backend}


@pytest.fixture
def written(monkeypatch) -> list[Any]:
    """What is loaded and written: model and seed, folder and options."""
    made: list[Any] = []
    policy = SimpleNamespace(save_whole=lambda folder, **more: made.append((folder, more)))

    def load(config: PolicyConfig, *, seed: int) -> Any:
        made.append((config.model, seed))
        return policy

    monkeypatch.setattr(launch, "load_policy", load)
    return made


def test_a_tiny_model_is_written_first_with_the_pixel_limits_in_it(no_gpu, written, tmp_path):
    """Without the adapters that are trained on it: they come with the first weight sync."""
    for knobs in ({}, {"language": "lora", "projector": "frozen"}):
        written.clear()
        given = {"model": "tiny", "max_pixels": 900, **knobs}
        arguments, _ = started(given, folder=tmp_path / "tiny")
        assert written == [("tiny", 3), (tmp_path / "tiny", {"merged": False})]
        assert arguments[arguments.index("--model") + 1] == str(tmp_path / "tiny")
        assert "--mm-processor-kwargs" not in arguments


def test_a_folder_is_looked_through_and_a_hub_id_is_passed_on(no_gpu, monkeypatch):
    monkeypatch.setattr(launch, "is_here", lambda model: model == "here")
    found = ModelFiles(name="here", folder=Path("/models/here"))
    monkeypatch.setattr(launch, "find_model", lambda model: found)
    for model, expected in (("here", "/models/here"), ("some/hub", "some/hub")):
        arguments, _ = started({"model": model})
        assert arguments[arguments.index("--model") + 1] == expected


@pytest.mark.parametrize(
    ("beside", "language", "served"),
    [
        (False, "lora", "/base"),  # the adapter is trained on, and sent merged
        (False, "frozen", "written"),  # it is merged into the base model for good
        (True, "lora", "written"),  # vLLM would read its files too
        (True, "frozen", "written"),
    ],
)
def test_of_a_model_with_an_adapter_the_server_gets_what_it_will_not_be_sent(
    beside, language, served, no_gpu, written, monkeypatch, tmp_path
):
    own = Path("/base" if beside else "/adapter")
    files = AdapterFiles(folder=own, settings={}, shapes={})
    found = ModelFiles(name="/base", folder=Path("/base"), adapter=files)
    monkeypatch.setattr(launch, "is_here", lambda model: True)
    monkeypatch.setattr(launch, "find_model", lambda model: found)
    knobs = {"model": "/adapter", "language": language, "projector": "full"}
    arguments, _ = started(knobs, folder=tmp_path / "written")
    model = arguments[arguments.index("--model") + 1]
    assert model == (served if served == "/base" else str(tmp_path / "written"))
    assert len(written) == (0 if served == "/base" else 2)


def test_a_command_can_be_pasted_into_a_shell(monkeypatch):
    command = Command(
        arguments=("python", "-m", "vllm", "--x", '{"a": 1}'),
        environment={"A": "1", "B": "two words"},
    )
    assert str(command) == """A=1 B='two words' python -m vllm --x '{"a": 1}'"""
    became: list[Any] = []
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: object() if name == "vllm" else None
    )
    monkeypatch.setattr("os.execve", lambda *given: became.append(given))
    monkeypatch.setenv("A", "0")
    monkeypatch.setenv("OTHER", "kept")
    command.replace_this_process()
    ((program, arguments, environment),) = became
    assert (program, arguments) == ("python", ("python", "-m", "vllm", "--x", '{"a": 1}'))
    assert {"A": "1", "B": "two words", "OTHER": "kept"}.items() <= environment.items()


def test_without_vllm_no_server_can_be_started(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = vllm_command(
        loading.load("digits", []).policy,
        seed=0,
        folder=tmp_path,
        host="h",
        port=1,
        window=1,
        transfer="file",
        handover="x",
    )
    with pytest.raises(UserError, match=r"pip install 'gpg-vl\[vllm\]'"):
        command.replace_this_process()


@pytest.mark.parametrize(
    ("engine", "wishes"),
    [
        ("server", ("file", HANDOVER, 8, ())),
        ("vllm", ("file", HANDOVER, 8, ())),
        ({"kind": "server"}, ("file", HANDOVER, 8, ())),
        ({"kind": "server", "transfer": "nccl"}, ("nccl", HANDOVER, 8, ())),
        ({"kind": "server", "handover": "/a"}, ("file", "/a", 8, ())),
        ({"kind": "server", "images": 20}, ("file", HANDOVER, 20, ())),
        ({"kind": "server", "sleep": 1}, ("file", HANDOVER, 8, ("--enable-sleep-mode",))),
        ({"kind": "server", "sleep": 2}, ("file", HANDOVER, 8, ("--enable-sleep-mode",))),
        ({"kind": "server", "sleep": 0}, ("file", HANDOVER, 8, ())),
        (
            {"kind": "server", "sleep": 2, "transfer": "nccl", "handover": "/a"},
            ("nccl", "/a", 8, ("--enable-sleep-mode",)),
        ),
        (
            {"kind": "vllm", "sleep": 1, "transfer": "nccl", "handover": "/a", "images": 20},
            ("file", HANDOVER, 8, ()),
        ),
    ],
)
def test_what_a_config_wishes_of_its_servers(engine, wishes):
    assert server_options(engine) == wishes
