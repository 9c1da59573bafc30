"""The commands of README and docs that need vLLM, run as printed, shortened like the others; many
servers under `accelerate launch`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gpg_vl.run_folder import metric_rows
from tests.commands import gpg_vl, gpg_vl_process
from tests.conftest import ROOT
from tests.test_readme import QUICK, commands, few_questions, needs_vllm
from tests.vllm.conftest import ARGUMENTS, USUAL, Served

CPU = ("--vllm", "--enforce-eager --kv-cache-memory-bytes 67108864 --skip-mm-profiling")
SMALL = ("policy.tiny.layers=1",)
LORA = ["policy.language=lora"]
SHORT = [*QUICK["train"], *few_questions("digits"), *SMALL]


def rows(run: Path) -> list[dict]:
    return metric_rows(run)


def test_every_printed_command_that_needs_vllm_is_one_of_these():
    assert [command for command in commands() if needs_vllm(command)] == [
        ["train", "digits", "rollout.engine=vllm"],
        ["serve", "digits", "--port", "8000"],
        ["train", "digits", "name=from_server", "rollout.engine=server"],
        ["serve", "digits", *LORA],
        ["train", "digits", "name=adapter", *LORA, "rollout.engine=server"],
    ]


def test_one_machine(tmp_path):
    knobs = ["rollout.engine={kind: vllm, cache_gib: 0.0625}", *SHORT]
    done = gpg_vl_process("train", "digits", *knobs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "runs" / "digits")[0]["gate/worst"] <= 2e-5


@pytest.mark.parametrize(
    ("name", "knobs"),
    [("from_server", []), pytest.param("adapter", LORA, marks=pytest.mark.nightly)],
)
def test_a_server_and_a_trainer(name, knobs, tmp_path):
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "gpg_vl",
        "serve",
        "digits",
        "--port",
        "8000",
        *knobs,
        *SMALL,
        *CPU,
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, env=environment)
        try:
            engine = "rollout.engine=server"
            done = gpg_vl_process(
                "train", "digits", f"name={name}", *knobs, engine, *SHORT, cwd=tmp_path
            )
        finally:
            server.terminate()
            server.wait(30)
    assert done.returncode == 0, (done.stderr, (tmp_path / "log").read_text()[-2000:])
    assert "waiting for a server" in done.stdout
    assert rows(tmp_path / "runs" / name)[0]["gate/worst"] <= 2e-5


def test_many_processes_with_a_server_each(tmp_path, fork_server):
    shown = gpg_vl("serve", "digits", "--show", *SMALL, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    servers = [
        Served(fork_server, tmp_path / "runs" / "served" / "digits", USUAL) for _ in range(2)
    ]
    for served in servers:
        served.start()
    urls = ", ".join(served.wait().url for served in servers)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "gpg_vl",
    ]
    engine = f"rollout.engine={{kind: server, servers: [{urls}], handover: {fork_server.handover}}}"
    options = ["train", "digits", engine, *SHORT, "rollout.gate.every=1", "rollout.max_tokens=16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*launch, *options], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "digits"
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert rows(run)[0]["gate/worst"] <= 2e-5
    for served in servers:
        assert (
            httpx.get(f"{served.url}/weight_info", trust_env=False)
            .json()["weight_version"]
            .startswith("gpg_vl/")
        )
        served.kill()


def test_servers_of_these_tests_are_started_as_serve_starts_them(tmp_path):
    """What the contract is tested with is what users get, but for sizes."""
    shown = gpg_vl("serve", "digits", "--show", cwd=tmp_path).stdout
    for option in (
        "--logprobs-mode processed_logprobs",
        "--generation-config vllm",
        "--enable-scale-out",
    ):
        assert option in shown
        assert option in " ".join([*ARGUMENTS, *USUAL])
