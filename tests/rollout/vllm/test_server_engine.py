"""vLLM servers, played by a few lines here: what they are asked, in which order, what of their
answers is believed and what asked again."""

import asyncio
import base64
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from torch import nn

from gpg_vl.errors import EngineLostError, MismatchError, UnusableSampleError, UserError
from gpg_vl.policy.adapters import WholeWeight
from gpg_vl.rollout.engine import Sampling, ensure_fits
from gpg_vl.rollout.vllm import plugin, server_engine
from gpg_vl.rollout.vllm.http_client import RetryableError, Server, server_at
from gpg_vl.rollout.vllm.server_engine import ServerEngine, data_url, gather_all
from gpg_vl.rollout.vllm.weight_files import HANDOVER
from gpg_vl.rollout.vllm.weights import Weights
from gpg_vl.types import Prompt
from tests.hand_made import names, prompt

END, PLACEHOLDER = 9, 8
SAMPLING = Sampling(max_tokens=3, temperature=0.5)


def policy() -> Any:
    """A model of three tensors, of which the tower's is frozen."""
    model = nn.Module()
    model.tower, model.embedding, model.lm_head = (
        nn.Linear(2, 2, bias=False),
        nn.Embedding(3, 2),
        nn.Linear(2, 3, bias=False),
    )
    model.tower.requires_grad_(False)
    model.config = SimpleNamespace(model_type="qwen2_5_vl")
    model.get_input_embeddings = lambda: model.embedding
    tokenizer = SimpleNamespace(
        tokenizer=lambda text: {"input_ids": [int(text.removeprefix("q")), PLACEHOLDER]}
    )
    return SimpleNamespace(
        adapters=None,
        model=model,
        dtype=torch.float32,
        banned_ids=(PLACEHOLDER,),
        end_ids={END},
        processor=tokenizer,
        decode=lambda ids: str(ids),
    )


TRAINED, EVERY = (
    {"embedding.weight", "lm_head.weight"},
    {"embedding.weight", "lm_head.weight", "tower.weight"},
)


def asked_of(number: int, *, images: int = 0) -> Prompt:
    return prompt(number, tokens=(number, PLACEHOLDER, PLACEHOLDER), images=images)


Reply = tuple[int, Any] | None
"""A status and a message; None = no connection."""


class Vllm:
    """What a server does; `calls` is what it was asked, and of `odd[path]` each reply is given
    once in place of its own."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.odd: dict[str, list[Reply | Callable[[], None]]] = {}
        self.release, self.window, self.weights, self.asleep = "0.31.0", 100, "default", False
        self.spans = True
        """Whether answers say which weights gave them, as from 0.32 on."""
        self.seen: list[bool] = []
        """Whether the file was there when the weights were to be taken."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode()
        body = json.loads(request.content) if request.content else None
        self.calls.append((path, body))
        for odd in self.odd.get(path.partition("?")[0], [])[:1]:
            self.odd[path.partition("?")[0]].pop(0)
            if odd is None:
                raise httpx.ConnectError("refused")
            if not callable(odd):
                return httpx.Response(
                    odd[0], **({"text": odd[1]} if isinstance(odd[1], str) else {"json": odd[1]})
                )
            odd()
        return httpx.Response(200, json=self.answer(path, body))

    def answer(self, path: str, body: Any) -> Any:
        if path == "/update_weight_version":
            self.weights = body["new_version"]
        if path == "/update_weights":
            self.seen.append(Path(body["update_info"]["path"]).exists())
        if path.startswith("/sleep"):
            self.asleep = True
        if path.startswith("/wake_up"):
            self.asleep = False
        known = {
            "/version": {"version": self.release},
            "/v1/models": {"data": [{"max_model_len": self.window}]},
            "/is_sleeping": {"is_sleeping": self.asleep},
            "/weight_info": {"weight_version": self.weights},
            "/reset_prefix_cache": {"success": True},
        }
        return self.generated(body) if path == "/inference/v1/generate" else known.get(path, {})

    def generated(self, body: Any) -> Any:
        """The answers' first token is the question's, the second the number of the answer; told
        last first."""
        number, fields = body["token_ids"][0], body["sampling_params"]
        choices = [
            {
                "index": index,
                "token_ids": [number, index, END],
                "logprobs": {
                    "content": [{"logprob": -number}, {"logprob": -index}, {"logprob": -0.5}]
                },
                "finish_reason": "stop",
                **({"weight_versions": [{"version": self.weights}]} if self.spans else {}),
            }
            for index in range(fields["n"])
        ]
        return {"prompt_token_ids": [number, PLACEHOLDER, PLACEHOLDER], "choices": choices[::-1]}

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]

    def bodies(self, path: str) -> list[Any]:
        return [body for name, body in self.calls if name == path]


@pytest.fixture
def engine_of(tmp_path, monkeypatch) -> Iterator[Callable[..., tuple[ServerEngine, list[Vllm]]]]:
    """An engine and its servers, which are close at hand and need no pauses."""
    monkeypatch.setattr(server_engine, "FIRST_PAUSE", 0.0)
    made: list[ServerEngine] = []

    def build(count: int = 1, **knobs: Any) -> tuple[ServerEngine, list[Vllm]]:
        played = {f"http://127.0.0.1:{8000 + number}": Vllm() for number in range(count)}
        client = httpx.AsyncClient

        def connected(*, base_url: str, **more: Any) -> httpx.AsyncClient:
            return client(
                base_url=base_url, transport=httpx.MockTransport(played[base_url]), **more
            )

        with monkeypatch.context() as patch:
            patch.setattr(httpx, "AsyncClient", connected)
            engine = ServerEngine(
                **{
                    "policy": policy(),
                    "servers": tuple(played),
                    "handover": str(tmp_path / "weights"),
                    "log": lambda line: None,
                    **knobs,
                }
            )
        made.append(engine)
        return engine, list(played.values())

    yield build
    for engine in made:
        engine.close()


def ask(engine: ServerEngine, count: int = 1, answers: int = 2) -> list[list[tuple[int, ...]]]:
    """The ids of what is answered to questions 1, 2 and so on."""
    groups = engine.generate(
        [asked_of(1 + number) for number in range(count)],
        SAMPLING,
        [[number] * answers for number in range(count)],
    )
    return [[said.token_ids for said in group] for group in groups]


def test_a_prompt_of_more_images_than_its_servers_take_is_left_out(engine_of):
    """A server refuses it, which would end the run."""
    engine, _ = engine_of()
    eight = asked_of(1, images=8)
    assert ensure_fits(eight, engine, max_tokens=1) is eight
    with pytest.raises(UnusableSampleError, match=r"it has 9 images, rollout\.engine\.images is 8"):
        ensure_fits(asked_of(1, images=9), engine, max_tokens=1)
    more, _ = engine_of(images=9)
    ensure_fits(asked_of(1, images=9), more, max_tokens=1)


WEIGHT_SYNC = [
    "/pause?mode=abort&clear_cache=false",
    "/update_weight_version",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "/reset_encoder_cache",
    "/resume",
    "/update_weight_version",
]
CONNECT = ["/version", "/get_world_size", "/resume", "/v1/models"]
GENERATE = ["/inference/v1/generate", "/weight_info"]


# --- what a server is asked -----------------------------------------------------------------------


def test_a_server_is_checked_once_gets_the_weights_once_and_samples(engine_of):
    engine, (server,) = engine_of()
    assert ask(engine) == [[(1, 0, END), (1, 1, END)]]
    assert server.paths == [*CONNECT, "/is_sleeping", "/weight_info", *WEIGHT_SYNC, *GENERATE]
    assert [body["new_version"] for body in server.bodies("/update_weight_version")] == [
        "gpg_vl/under way",
        engine._weight_version,
    ]
    server.calls.clear()
    ask(engine)
    assert server.paths == ["/is_sleeping", "/weight_info", *GENERATE]
    engine.update_weights(engine.policy, 1)
    server.calls.clear()
    ask(engine)
    assert server.paths == ["/is_sleeping", "/weight_info", *WEIGHT_SYNC, *GENERATE]
    assert server.weights.endswith("/1")


def test_what_comes_back_is_in_order_with_its_numbers_and_its_version(engine_of):
    engine, _ = engine_of()
    engine.update_weights(engine.policy, 7)
    ((first, second, third),) = engine.generate([asked_of(4)], SAMPLING, [[5, 6, 7]])
    assert [said.token_ids for said in (first, second, third)] == [
        (4, 0, END),
        (4, 1, END),
        (4, 2, END),
    ]
    assert second.logprobs == (-4, -1, -0.5)
    assert (second.finish, second.version, second.text) == ("stop", 7, "(4, 1, 9)")


def test_a_question_goes_with_its_pictures_its_seeds_and_one_placeholder(engine_of):
    engine, (server,) = engine_of()
    engine.generate([asked_of(1), asked_of(2, images=2)], SAMPLING, [[11, 12], [13, 14]])
    words, shown = sorted(
        server.bodies("/inference/v1/generate"), key=lambda body: body["token_ids"]
    )
    assert words["token_ids"] == [1, PLACEHOLDER]
    assert "content_parts" not in words
    assert (
        words["sampling_params"]["n"],
        words["sampling_params"]["seed"],
        words["return_token_ids"],
    ) == (2, 11, True)
    assert shown["sampling_params"]["seed"] == 13
    assert [part["type"] for part in shown["content_parts"]] == ["image_url"] * 2
    assert [part["url"] for part in shown["content_parts"]] == [
        data_url(image) for image in asked_of(2, images=2).images
    ]


def test_a_picture_is_sent_without_loss():
    image = Image.effect_noise((5, 3), 90).convert("RGB")
    start, _, encoded = data_url(image).partition(",")
    assert start == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as back:
        assert (back.size, back.tobytes()) == ((5, 3), image.tobytes())


def test_questions_are_dealt_in_turn_and_answers_come_back_in_order(engine_of):
    engine, played = engine_of(3)
    assert engine.num_replicas == 3
    assert [group[0][0] for group in ask(engine, 7)] == [1, 2, 3, 4, 5, 6, 7]
    dealt = [
        sorted(body["token_ids"][0] for body in server.bodies("/inference/v1/generate"))
        for server in played
    ]
    assert dealt == [[1, 4, 7], [2, 5], [3, 6]]


def test_a_server_without_a_question_is_left_alone(engine_of):
    engine, played = engine_of(2)
    ask(engine, 1)
    assert played[1].paths == CONNECT


@pytest.mark.parametrize(
    ("rank", "ranks", "own"),
    [(0, 2, [0, 2, 4]), (1, 2, [1, 3]), (2, 3, [2]), (0, 1, [0, 1, 2, 3, 4])],
)
def test_every_process_has_servers_of_its_own(rank, ranks, own, engine_of):
    engine, _ = engine_of(5, rank=rank, ranks=ranks)
    assert [server.url for server in engine.own_servers] == [
        f"http://127.0.0.1:{8000 + number}" for number in own
    ]
    assert engine.num_replicas == len(own)


def test_one_server_for_each_process_is_enough_and_fewer_are_refused(engine_of):
    engine_of(2, ranks=2)
    with pytest.raises(UserError, match="got 1 for 2 processes, expected one for each at least"):
        engine_of(1, ranks=2)


def test_a_config_of_servers_that_cannot_work_is_refused(build, policy_of):
    wide = policy_of(dtype="float64")
    with pytest.raises(UserError, match="vLLM knows no float64"):
        build(wide, "server")
    with pytest.raises(UserError, match="got 1 for 4 processes, expected one for each"):
        build(policy_of(), "server", ranks=4)
    with pytest.raises(
        UserError, match=r"10\.0\.0\.1 is not this machine.*set rollout\.engine\.remote: true"
    ):
        build(policy_of(), {"kind": "server", "servers": ["http://10.0.0.1:8000"]})
    for wrong in ("localhost", "http://127.0.0.1:abc", "ftp://127.0.0.1:8000"):
        with pytest.raises(UserError, match="expected an address such as"):
            build(policy_of(), {"kind": "server", "servers": [wrong]})
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:8000 is named twice"):
        build(
            policy_of(),
            {"kind": "server", "servers": ["http://127.0.0.1:8000", "http://127.0.0.1:8000/"]},
        )
    with pytest.raises(
        UserError, match=r"rollout\.engine\.severs: no such key; did you mean servers\?"
    ):
        build(policy_of(), {"kind": "server", "severs": []})


def test_the_shortest_window_counts(engine_of):
    engine, played = engine_of(3)
    for server, window in zip(played, (90, 70, 80), strict=True):
        server.window = window
    assert engine.max_model_len() == 70


# --- weights --------------------------------------------------------------------------------------


def sent(server: Vllm) -> tuple[set[str], bool]:
    """Return the names of the tensors sent last, and whether they had checksums."""
    update = server.bodies("/update_weights")[-1]["update_info"]
    assert not update["checksums"] or set(update["checksums"]) == set(update["names"])
    return set(update["names"]), bool(update["checksums"])


def test_the_first_weight_sync_has_checksums_and_later_ones_have_none(engine_of, tmp_path):
    engine, (server,) = engine_of()
    ask(engine)
    assert sent(server) == (TRAINED, True)
    engine.update_weights(engine.policy, 1)
    ask(engine)
    assert sent(server) == (TRAINED, False)
    assert server.seen == [True, True]
    assert list((tmp_path / "weights").iterdir()) == [], "what has been taken is removed"


def test_a_weight_sync_that_was_not_acknowledged_is_followed_by_one_with_checksums(engine_of):
    """The version is set, but the answer to that is lost: then the weights are not sent again,
    and the next ones have checksums once more."""
    engine, (server,) = engine_of()

    def lost() -> None:
        server.weights = engine._weight_version
        raise httpx.ReadTimeout("late")

    server.odd["/update_weight_version"] = [lambda: None, lost]
    ask(engine)
    assert server.paths.count("/update_weights") == 1
    syncs: list[tuple[set[str], bool]] = []
    for version in (1, 2):
        engine.update_weights(engine.policy, version)
        ask(engine)
        syncs.append(sent(server))
    assert syncs == [(TRAINED, True), (TRAINED, False)]


@pytest.mark.parametrize(
    ("theirs", "names"),
    [
        ("default", TRAINED),
        ("gpg_vl/other/3", EVERY),
        ("gpg_vl/under way", EVERY),
        ("gpg_vlx/1", TRAINED),
    ],
)
def test_a_server_that_has_served_somebody_else_gets_all_tensors(theirs, names, engine_of):
    """One that begins with the checkpoint's own has the frozen ones."""
    engine, (server,) = engine_of()
    server.weights = theirs
    ask(engine)
    assert sent(server) == (names, True)


def test_a_restarted_server_gets_checksums_and_needs_verification(engine_of):
    engine, (server,) = engine_of()
    assert engine.needs_verification
    ask(engine)
    engine.needs_verification = False
    engine.update_weights(engine.policy, 1)
    ask(engine)
    assert not engine.needs_verification, "new weights in a server that has been looked at"
    server.weights = "default"
    ask(engine)
    assert engine.needs_verification
    assert sent(server) == (TRAINED, True)


def test_another_policy_is_another_run(engine_of):
    engine, (server,) = engine_of()
    ask(engine)
    engine.update_weights(engine.policy, 1)
    run = engine._run_id
    engine.update_weights(policy(), 1)
    assert engine._run_id != run
    ask(engine)
    assert sent(server)[0] == EVERY


def test_two_runs_have_two_names(engine_of):
    assert engine_of()[0]._run_id != engine_of()[0]._run_id


@pytest.mark.parametrize(("status", "again"), [(500, True), (503, False)])
def test_an_update_that_was_cut_off_is_ended_first(status, again, engine_of):
    engine, (server,) = engine_of()
    server.odd["/start_weight_update"] = [(status, "already")]
    ask(engine)
    at = server.paths.index("/start_weight_update")
    ended = ["/finish_weight_update", "/start_weight_update", "/update_weights"]
    assert server.paths[at + 1 : at + 4] == (
        ended if again else ["/health", "/is_sleeping", "/weight_info"]
    )
    assert server.weights == engine._weight_version


def test_weights_that_could_not_be_taken_end_the_run_and_no_answer_is_another_try(
    engine_of, tmp_path
):
    engine, (server,) = engine_of()
    server.odd["/update_weights"] = [(500, "checksum differs")]
    with pytest.raises(
        EngineLostError,
        match=r"could not take the weights \(.*HTTP 500: checksum differs\); start it again",
    ):
        ask(engine)
    assert server.weights == "gpg_vl/under way"
    assert list((tmp_path / "weights").iterdir()) == []
    server.odd["/update_weights"] = [(503, "busy")]
    assert ask(engine) == [[(1, 0, END), (1, 1, END)]]


def test_a_prefix_cache_that_is_not_emptied_fails_the_weight_sync(engine_of):
    engine, (server,) = engine_of()
    server.odd["/reset_prefix_cache"] = [(200, {"success": False})]
    ask(engine)
    assert server.paths.count("/reset_prefix_cache") == 2
    assert server.paths.count("/update_weights") == 2


# --- sleep ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sleep", "names"), [(1, None), (2, EVERY)])
def test_a_server_sleeps_and_is_woken_with_what_it_has_lost(sleep, names, engine_of):
    engine, (server,) = engine_of(sleep=sleep)
    ask(engine)
    engine.release_memory()
    assert server.paths[-1] == f"/sleep?level={sleep}"
    server.calls.clear()
    ask(engine)
    weight_sync = WEIGHT_SYNC if names else []
    wake = ["/is_sleeping", "/wake_up?tags=weights", "/weight_info"]
    assert server.paths == [*wake, *weight_sync, "/wake_up?tags=kv_cache", *GENERATE]
    assert names is None or sent(server)[0] == names


def test_one_that_sleeps_with_weights_of_somebody_else_has_lost_them_all(engine_of):
    engine, (server,) = engine_of(sleep=1)
    server.asleep = True
    ask(engine)
    assert sent(server)[0] == EVERY


@pytest.mark.parametrize(("sleep", "woken"), [(0, False), (1, True), (2, False)])
def test_servers_go_on_when_the_run_ends(sleep, woken, engine_of):
    """Awake, unless their weights have been dropped."""
    engine, (server,) = engine_of(sleep=sleep)
    ask(engine)
    engine.release_memory()
    assert any(path.startswith("/sleep") for path in server.paths) == bool(sleep)
    server.calls.clear()
    engine.close()
    engine.close()
    assert server.paths == ["/wake_up"] * woken
    assert engine.own_servers[0].client.is_closed


def test_a_server_that_is_gone_needs_no_sleep_and_no_waking(engine_of):
    engine, (server,) = engine_of(sleep=1)
    ask(engine)
    server.odd = {"/sleep": [None], "/wake_up": [None]}
    engine.release_memory()
    engine.close()


# --- what is asked again --------------------------------------------------------------------------


def counted(server: Vllm, number: int) -> int:
    return sum(body["token_ids"][0] == number for body in server.bodies("/inference/v1/generate"))


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_request_that_may_do_better_is_repeated_and_what_was_answered_is_kept(status, engine_of):
    engine, (server,) = engine_of()
    server.odd["/inference/v1/generate"] = [(status, "busy")]
    assert [group[0][0] for group in ask(engine, 3)] == [1, 2, 3]
    assert sorted(counted(server, number) for number in (1, 2, 3)) == [1, 1, 2]
    repeated = max((1, 2, 3), key=lambda number: counted(server, number))
    asked = [
        body for body in server.bodies("/inference/v1/generate") if body["token_ids"][0] == repeated
    ]
    assert asked[0] == asked[1], "with the same seed"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 422, 501, 505])
def test_a_refusal_ends_the_run(status, engine_of):
    engine, (server,) = engine_of()
    server.odd["/inference/v1/generate"] = [(status, "no")]
    with pytest.raises(
        EngineLostError, match=rf"/inference/v1/generate refuses \(HTTP {status}: no\)"
    ):
        ask(engine)


def test_a_server_that_is_restarted_while_it_answers_is_asked_everything_again(engine_of):
    """Before 0.32 answers do not say which weights gave them."""
    engine, (server,) = engine_of()
    server.spans = False
    server.odd["/inference/v1/generate"] = [lambda: setattr(server, "weights", "default")]
    ask(engine, 2)
    assert [counted(server, number) for number in (1, 2)] == [2, 2]
    assert server.paths.count("/update_weights") == 2
    assert engine.needs_verification


@pytest.mark.parametrize("place", [0, 1])
def test_answers_of_other_weights_are_asked_again(place, engine_of):
    engine, (server,) = engine_of()
    ask(engine)
    other = server.generated({"token_ids": [1, PLACEHOLDER], "sampling_params": {"n": 2}})
    other["choices"][place]["weight_versions"].append({"version": "gpg_vl/other/0"})
    server.odd["/inference/v1/generate"] = [(200, other)]
    server.calls.clear()
    ask(engine)
    assert counted(server, 1) == 2


@pytest.mark.parametrize("place", [0, 1])
def test_an_answer_that_was_broken_off_is_asked_again(place, engine_of):
    engine, (server,) = engine_of()
    ask(engine)
    other = server.generated({"token_ids": [1, PLACEHOLDER], "sampling_params": {"n": 2}})
    other["choices"][place]["finish_reason"] = "abort"
    server.odd["/inference/v1/generate"] = [(200, other)]
    server.calls.clear()
    assert ask(engine) == [[(1, 0, END), (1, 1, END)]]
    assert counted(server, 1) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answer: answer["choices"].pop(), "q1: asked for 2 completions, got 1"),
        (
            lambda answer: answer["choices"].append({**answer["choices"][0], "index": 2}),
            "q1: asked for 2 completions, got 3",
        ),
        (lambda answer: answer["prompt_token_ids"].append(5), "tokenizer mismatch"),
        (
            lambda answer: answer["prompt_token_ids"].append(PLACEHOLDER),
            "the images are 3 tokens there and 2 here",
        ),
        (
            lambda answer: answer["choices"][0]["token_ids"].insert(0, PLACEHOLDER),
            "its ban is not obeyed",
        ),
        (
            lambda answer: answer["choices"][1].update(logprobs=None),
            r"q1: 3 tokens came with log-probabilities \(\)",
        ),
        (
            lambda answer: answer["choices"][1].update(logprobs={"content": None}),
            r"q1: 3 tokens came with log-probabilities \(\)",
        ),
    ],
)
def test_what_is_not_what_was_asked_stops_the_run(change, message, engine_of):
    engine, (server,) = engine_of()
    ask(engine)
    other = server.generated({"token_ids": [1, PLACEHOLDER], "sampling_params": {"n": 2}})
    change(other)
    server.odd["/inference/v1/generate"] = [(200, other)]
    with pytest.raises(MismatchError, match=message):
        ask(engine)


def test_a_server_that_is_up_and_keeps_failing_is_tried_six_times(engine_of):
    engine, (server,) = engine_of()
    server.odd["/inference/v1/generate"] = [(503, "busy")] * 5
    ask(engine)
    server.calls.clear()
    server.odd["/inference/v1/generate"] = [(503, "busy")] * 6
    with pytest.raises(
        EngineLostError,
        match=(
            r"no answer in 0 s \(http://127\.0\.0\.1:8000/inference/v1/generate: HTTP 503: busy\)"
        ),
    ):
        ask(engine)
    assert counted(server, 1) == 6


def test_one_that_is_down_is_waited_for_and_not_counted(engine_of):
    engine, (server,) = engine_of()
    ask(engine)
    server.odd = {"/weight_info": [None] * 9, "/health": [None] * 9}
    assert ask(engine) == [[(1, 0, END), (1, 1, END)]]


def test_one_that_stays_down_is_waited_for_until_the_deadline(engine_of):
    log: list[str] = []
    engine, (server,) = engine_of(deadline=0.05, log=log.append)
    server.odd = {"/version": [None] * 999, "/health": [None] * 999}
    with pytest.raises(EngineLostError, match=r"no answer in 0 s .*ConnectError refused"):
        ask(engine)
    assert log[0].startswith(
        "waiting for a server, 0 of at most 0 s: http://127.0.0.1:8000/version: ConnectError "
        "refused"
    )
    assert len(log) == 1, "once in fifteen seconds"


def test_a_server_that_never_comes_is_waited_for_and_reported(build, policy_of):
    lines: list[str] = []
    spec = {"kind": "server", "servers": ["http://127.0.0.1:9"], "deadline": 0.5}
    engine = build(policy_of(), spec, log=lines.append)
    with (
        closing(engine),
        pytest.raises(
            EngineLostError, match=r"no answer in \d s .*Connect.*start the server again"
        ),
    ):
        engine.max_model_len()
    assert lines[0].startswith("waiting for a server, 0 of at most 0 s")


def test_a_release_that_is_not_known_is_refused(engine_of):
    engine, (server,) = engine_of()
    server.release = "0.33.0"
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:8000 is vLLM 0\.33\.0"):
        ask(engine)


def test_one_bad_server_of_two_fails_the_whole_generation(engine_of, tmp_path):
    engine, (_, second) = engine_of(2)
    second.odd["/inference/v1/generate"] = [(400, "no")]
    with pytest.raises(EngineLostError):
        ask(engine, 4)
    assert list((tmp_path / "weights").iterdir()) == []


def test_the_first_error_ends_the_others():
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("waiting")
            raise

    async def fails() -> None:
        raise EngineLostError("gone")

    async def right(number: int) -> int:
        return number

    with pytest.raises(EngineLostError, match="gone"):
        asyncio.run(gather_all(waits(), fails()))
    assert ended == ["waiting"]
    assert asyncio.run(gather_all(right(1), right(2))) == [1, 2]


def test_the_pauses_between_tries_double_up_to_a_quarter_of_a_minute(engine_of, monkeypatch):
    """And end at the deadline: the clock is played too."""
    now, pauses, log = [100.0], list[float](), list[str]()

    async def sleep(seconds: float) -> None:
        pauses.append(round(seconds - 0.01, 9))
        now[0] += seconds

    engine, (server,) = engine_of(deadline=100.0, log=log.append)
    monkeypatch.setattr(server_engine, "FIRST_PAUSE", 0.25)
    monkeypatch.setattr(server_engine, "asyncio", Played(asyncio, sleep=sleep))
    monkeypatch.setattr(server_engine, "time", SimpleNamespace(monotonic=lambda: now[0]))
    server.odd = {"/version": [None] * 99, "/health": [None] * 99}
    with pytest.raises(EngineLostError, match="no answer in 100 s"):
        ask(engine)
    assert pauses[:9] == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]
    assert sum(pauses) == pytest.approx(100, abs=0.2)
    assert [line.partition(",")[2].partition(" of")[0] for line in log] == [
        " 0",
        " 16",
        " 31",
        " 46",
        " 61",
        " 76",
        " 91",
    ]


class Played:
    """A module, some of whose words are others."""

    def __init__(self, module: Any, **others: Any) -> None:
        self.module, self.others = module, others

    def __getattr__(self, name: str) -> Any:
        return self.others[name] if name in self.others else getattr(self.module, name)


def test_what_is_not_said_of_servers_is_the_safe_thing():
    known = {field.name: field.default for field in fields(ServerEngine)}
    del known["policy"]
    assert known == {
        "rank": 0,
        "ranks": 1,
        "log": print,
        "servers": ("http://127.0.0.1:8000",),
        "handover": HANDOVER,
        "transfer": "file",
        "deadline": 900.0,
        "timeout": 600.0,
        "at_once": 64,
        "images": 8,
        "sleep": 0,
        "remote": False,
    }
    assert ServerEngine.narrow
    assert (
        server_engine.FIRST_PAUSE,
        server_engine.MAX_PAUSE,
        server_engine.LOG_INTERVAL,
        server_engine.HEALTH_INTERVAL,
    ) == (0.25, 15, 15, 5)


# --- from GPU to GPU ------------------------------------------------------------------------------


@pytest.fixture
def nccl(monkeypatch) -> list[Any]:
    """vLLM's transfer, played: what is made and what is sent."""
    events: list[Any] = []

    def sender(url: str, workers: int, device: Any) -> Any:
        events.append(("group", url, workers, device))
        return SimpleNamespace(shutdown=lambda: events.append("shutdown"))

    def send(sender: Any, tensors: Any, device: Any) -> None:
        events.append(("send", set(tensors), device))

    monkeypatch.setattr(server_engine.plugin, "nccl_sender", sender)
    monkeypatch.setattr(server_engine.plugin, "send", send)
    return events


def on_gpu() -> Any:
    return SimpleNamespace(**vars(policy()), device="cuda:0")


def test_one_group_serves_all_weight_syncs_to_one_start_of_a_server(engine_of, nccl, tmp_path):
    engine, (server,) = engine_of(policy=on_gpu(), transfer="nccl")
    server.odd["/get_world_size"] = [(200, {"world_size": 2}), (200, {"world_size": 2})]
    ask(engine)
    engine.update_weights(engine.policy, 1)
    ask(engine)
    group, sent = ("group", "http://127.0.0.1:8000", 2, "cuda:0"), ("send", TRAINED, "cuda:0")
    assert nccl == [group, sent, sent]
    assert not (tmp_path / "weights").exists(), "no folder is needed"
    assert not {"/update_weights", "/start_weight_update"} & set(server.paths)
    server.odd["/get_world_size"] = [(200, {"world_size": 4})]
    server.weights = "default"  # restarted: the old group has lost its other half
    ask(engine)
    assert nccl[3:] == ["shutdown", ("group", "http://127.0.0.1:8000", 4, "cuda:0"), sent]


@pytest.mark.parametrize("fault", [RuntimeError("NCCL error"), OSError("refused")])
def test_a_transfer_that_fails_is_tried_again_with_a_new_group(fault, engine_of, nccl, monkeypatch):
    engine, (server,) = engine_of(policy=on_gpu(), transfer="nccl")
    server.odd["/get_world_size"] = [(200, {"world_size": 1})] * 3
    send, failures = server_engine.plugin.send, [fault]

    def failing(*given: Any) -> None:
        if failures:
            raise failures.pop()
        send(*given)

    monkeypatch.setattr(server_engine.plugin, "send", failing)
    ask(engine)
    assert names(nccl) == ["group", "group", "send"]


def vllms_own(name: str) -> Any:
    """vLLM's modules, played: each object only keeps what it was given."""

    class Engine(SimpleNamespace):
        @classmethod
        def trainer_init(cls, init: Any, *, client: Any, source: Any) -> "Engine":
            return cls(init=init, client=client, source=source, sent=[])

        def send_weights(self) -> None:
            self.sent.append((self.source.metadata(), list(self.source)))

    return {
        "vllm.distributed.weight_transfer.nccl_engine": SimpleNamespace(
            NCCLTrainerInitInfo=dict, NCCLTrainerWeightTransferEngine=Engine
        ),
        "vllm.distributed.weight_transfer.clients": SimpleNamespace(
            HTTPVLLMWeightSyncClient=lambda url: f"client of {url}"
        ),
        "vllm.distributed.weight_transfer.base": SimpleNamespace(
            WeightSource=object, ParamMeta=lambda *given: given
        ),
        "torch": SimpleNamespace(float32=torch.float32, cuda=SimpleNamespace(device=nullcontext)),
    }[name]


def test_the_trainer_is_the_first_of_its_group_at_the_address_that_the_server_sees(monkeypatch):
    monkeypatch.setattr(plugin, "import_module", vllms_own)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        sender = plugin.nccl_sender(url, workers=4, device="cuda:1")
        port = sender.init.pop("master_port")
        assert sender.init == {"master_address": "127.0.0.1", "world_size": 5, "rank": 0}
        assert port not in {0, server.getsockname()[1]}
    assert (sender.client, list(sender.source)) == (f"client of {url}", [])
    merged: list[str] = []

    def read() -> torch.Tensor:
        merged.append("a")
        return torch.ones(4)

    adapted = WholeWeight(shape=torch.Size([4]), read=read, is_changed=True)
    weights = Weights({"b": torch.zeros(2, 3), "a": adapted}, torch.bfloat16)
    plugin.send(sender, weights, "cuda:1")
    ((said, sent),) = sender.sent
    assert said == [("b", torch.bfloat16, (2, 3)), ("a", torch.bfloat16, (4,))]
    assert [name for name, _ in sent] == ["b", "a"]
    assert all(tensor.dtype == torch.bfloat16 for _, tensor in sent)
    assert merged == ["a"], "once: to merge a matrix takes time"


def test_a_transfer_without_an_end_stops_the_run(engine_of, nccl, monkeypatch):
    engine, (server,) = engine_of(policy=on_gpu(), transfer="nccl", timeout=0.05)
    server.odd["/get_world_size"] = [(200, {"world_size": 1})] * 2
    end = threading.Event()
    monkeypatch.setattr(server_engine.plugin, "send", lambda *given: end.wait(20))
    try:
        with pytest.raises(
            EngineLostError, match=r"NCCL: no end in 0 s; start server and run again"
        ):
            ask(engine)
    finally:
        end.set()


# --- one server -----------------------------------------------------------------------------------


def answered(reply: Reply, path: str = "/x", *, method: str = "get") -> Any:
    """What a server's reply is taken for."""

    def handle(request: httpx.Request) -> httpx.Response:
        if reply is None:
            raise httpx.ReadTimeout("too long")
        return httpx.Response(
            reply[0],
            **({"content": reply[1]} if isinstance(reply[1], bytes) else {"json": reply[1]}),
        )

    async def asked() -> Any:
        async with httpx.AsyncClient(
            base_url="http://h", transport=httpx.MockTransport(handle)
        ) as client:
            server = Server(url="http://h", client=client, at_once=asyncio.Semaphore(1))
            return await getattr(server, method)(path)

    return asyncio.run(asked())


def test_an_answer_is_json_or_nothing():
    assert answered((200, {"a": 1})) == {"a": 1}
    assert answered((201, [1])) == [1]
    assert answered((200, b"")) == {}
    with pytest.raises(EngineLostError, match="http://h/x is no vLLM: it answers HTTP 200: hello"):
        answered((200, b"hello"))


@pytest.mark.parametrize(
    ("status", "path", "remedy"),
    [
        (
            404,
            "/inference/v1/generate",
            "; start it with --enable-scale-out, as `gpg-vl serve` does",
        ),
        (405, "/inference/v1/generate", "; start it with --enable-scale-out"),
        (
            404,
            "/weight_info",
            "; start it with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config",
        ),
        (403, "/pause", "; start it with VLLM_SERVER_DEV_MODE=1"),
        (400, "/inference/v1/generate", ""),
        (301, "/x", ""),
    ],
)
def test_a_refusal_says_how_to_start_the_server(status, path, remedy):
    with pytest.raises(EngineLostError) as caught:
        answered((status, b"two\n words"), path)
    assert str(caught.value).startswith(
        f"rollout.engine: http://h{path} refuses (HTTP {status}: two words){remedy}"
    )
    assert ("start it" in str(caught.value)) == bool(remedy)


@pytest.mark.parametrize("status", sorted({408, 425, 429, 500, 502, 503, 504}))
def test_what_may_be_another_answer_the_next_time_keeps_its_status(status):
    with pytest.raises(RetryableError) as caught:
        answered((status, b"busy"))
    assert caught.value.status == status


def test_no_connection_has_no_status():
    with pytest.raises(RetryableError, match="http://h/x: ReadTimeout too long") as caught:
        answered(None)
    assert caught.value.status is None


@pytest.mark.parametrize(
    ("url", "remote", "fine"),
    [
        ("http://127.0.0.1:8000", False, True),
        ("http://localhost:8000", False, True),
        ("http://127.8.9.1", False, True),
        ("http://[::1]:8000", False, True),
        ("https://127.0.0.1", False, True),
        ("http://10.0.0.1:8000", False, False),
        ("http://10.0.0.1:8000", True, True),
        ("http://localhost.evil.org", False, False),
        ("http://127.0.0.1.evil.org", False, False),
        ("http://0.0.0.0:8000", False, False),
        ("http://gpu7:8000", False, False),
        ("http://gpu7:8000", True, True),
    ],
)
def test_a_server_is_on_this_machine_unless_others_are_allowed(url, remote, fine):
    if fine:
        assert server_at(url, remote=remote, at_once=1, timeout=1).url == url
        return
    with pytest.raises(UserError, match=r"is not this machine.*set rollout\.engine\.remote: true"):
        server_at(url, remote=remote, at_once=1, timeout=1)


@pytest.mark.parametrize(
    "url",
    [
        "localhost",
        "127.0.0.1:8000",
        "http://",
        "ftp://127.0.0.1",
        "http://127.0.0.1:abc",
        "http://[::1",
        "",
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_what_is_no_address_is_refused_wherever_it_may_lead(url, remote):
    with pytest.raises(UserError, match=r"expected an address such as http://127\.0\.0\.1:8000"):
        server_at(url, remote=remote, at_once=1, timeout=1)


def test_an_address_may_end_in_a_slash(engine_of):
    engine, _ = engine_of(servers=("http://127.0.0.1:8000/",))
    assert [server.url for server in engine.own_servers] == ["http://127.0.0.1:8000"]


def test_no_more_requests_are_on_the_way_than_allowed_and_no_proxy_is_in_between():
    server = server_at("http://127.0.0.1:8000", remote=False, at_once=3, timeout=7)
    assert server.at_once._value == 3
    assert server.client.timeout == httpx.Timeout(7, connect=10)
    assert not server.client.trust_env


def test_a_connection_that_the_server_is_about_to_close_takes_no_second_request():
    """What uvicorn does after an exception: it answers 500, and closes without having said so."""
    served: list[bytes] = []
    serving: list[Any] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        served.append(await reader.readuntil(b"\r\n\r\n"))
        status = b"500 Internal Server Error" if len(served) == 1 else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
        await reader.read(1)  # the next request on this connection, or its end
        writer.close()
        await writer.wait_closed()

    async def ask_twice() -> Any:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        server = server_at(f"http://127.0.0.1:{port}", remote=False, at_once=64, timeout=5)
        async with listening:
            with pytest.raises(RetryableError) as caught:
                await server.get("/start")
            assert caught.value.status == 500
            answer = await server.get("/finish")
            await server.client.aclose()
            await asyncio.gather(*serving)
            return answer

    assert asyncio.run(ask_twice()) == {}
    assert [request.split(b" ")[1] for request in served] == [b"/start", b"/finish"]


def test_taking_weights_is_told_from_not_answering():
    async def take(status: int) -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(status, text="no"))
        async with httpx.AsyncClient(base_url="http://h", transport=transport) as client:
            await Server(url="http://h", client=client, at_once=asyncio.Semaphore(1)).load_weights(
                {"names": []}
            )

    with pytest.raises(EngineLostError, match="could not take the weights"):
        asyncio.run(take(500))
    for status in (502, 503):
        with pytest.raises(RetryableError):
            asyncio.run(take(status))


def test_a_health_check_takes_half_a_minute_at_most():
    felt: list[tuple[str, float]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        felt.append((request.url.path, request.extensions["timeout"]["read"]))
        return httpx.Response(200)

    async def feel() -> None:
        async with httpx.AsyncClient(
            base_url="http://h", transport=httpx.MockTransport(handle), timeout=600
        ) as client:
            server = Server(url="http://h", client=client, at_once=asyncio.Semaphore(1))
            await server.check_health()
            await server.get("/version")

    asyncio.run(feel())
    assert felt == [("/health", 30), ("/version", 600)]


def test_an_engine_is_closed_twice_in_peace(engine_of):
    engine, _ = engine_of()
    with closing(engine):
        ask(engine)
    engine.close()
