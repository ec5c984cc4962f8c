"""`--endpoint`: against a server on this machine that speaks the protocol, and misbehaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from chat_server import HUB, Answer, ChatServer, width
from PIL import Image

from commonart.core.data.drops import Problem
from commonart.core.errors import CommonArtError, UsageError
from commonart.core.model.captioning.captioners import Captioner
from commonart.core.model.captioning.endpoint import Endpoint, EndpointOptions
from commonart.core.model.captioning.generate import Generated
from commonart.core.model.captioning.protocol import Limits, address

FAST = Limits(connect=2, start=2, answer=2, give_up=20, attempts=4, backoff=0.01, longest_pause=2)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as server:
        yield server


def engine(*servers: ChatServer, name: str = "qwen3-vl", role: str = "caption", **options: Any) -> Endpoint:
    given = {"limits": FAST, "in_flight": 4, **options}
    return Endpoint.open(name, role, EndpointOptions([server.url for server in servers], **given))


def images(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (20 + i, 16), (i, 0, 0)) for i in range(count)]


def ask(engine: Endpoint, count: int, **options: Any) -> list[str]:
    """The texts for so many pictures; a problem by its reason."""
    answers = engine.caption(images(count), "Describe this image.", **options)
    return [answer.reason if isinstance(answer, Problem) else answer.text for answer in answers]


def right(count: int) -> list[str]:
    return [f"A photograph of {20 + i} red dots on a white wall." for i in range(count)]


# -- requests ----------------------------------------------------------------------------------------------------------


def test_what_is_sent_and_what_comes_back(server: ChatServer) -> None:
    one = engine(server)
    answers = one.caption(images(1), "Describe this image.")
    assert answers == [Generated(right(1)[0], True, 12)]
    body = server.requests[0]
    content = body.pop("messages")
    assert body == {"model": HUB, "max_tokens": Captioner.MAX_NEW_TOKENS, "temperature": 0, "seed": 0}
    assert [part["type"] for part in content[0]["content"]] == ["image_url", "text"] and len(content) == 1
    assert content[0]["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert content[0]["content"][1]["text"] == "Describe this image."
    assert one.settings == {"max_new_tokens": Captioner.MAX_NEW_TOKENS, "engine": "vllm 0.11.0", "side": 768}
    assert (one.name, one.revision, one.license, one.accepted) == ("qwen3-vl", "", "Apache-2.0", False)


def test_each_image_has_its_own_seed_at_a_temperature(server: ChatServer) -> None:
    def seeds(seed: int, keys: list[str]) -> dict[str, int]:
        server.requests.clear()
        options = EndpointOptions([server.url], limits=FAST)
        one = Endpoint.open("qwen3-vl", "caption", options, temperature=0.7, seed=seed)
        assert one.settings["temperature"] == 0.7 and one.settings["seed"] == seed
        one.caption(images(len(keys)), "Describe this image.", keys=keys)
        assert {body["temperature"] for body in server.requests} == {0.7}
        return {keys[width(body) - 20]: body["seed"] for body in server.requests}

    first = seeds(0, ["a", "b", "c"])
    assert len(set(first.values())) == 3 and all(0 <= seed < 2**31 for seed in first.values())
    assert seeds(0, ["c", "a"]) == {key: first[key] for key in ("a", "c")}
    assert seeds(1, ["a"])["a"] != first["a"]


def test_order_is_kept_whatever_comes_first(server: ChatServer) -> None:
    server.choose = lambda body: Answer(seconds=0.3 - 0.03 * (width(body) - 20))
    assert ask(engine(server, in_flight=10), 10) == right(10)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_no_more_requests_at_once_than_allowed(server: ChatServer, in_flight: int) -> None:
    server.plan = [Answer(seconds=0.05)]
    assert ask(engine(server, in_flight=in_flight), 10) == right(10)
    assert server.most == in_flight


@pytest.mark.parametrize(
    "bad",
    [
        Answer(status=500), Answer(status=502), Answer(cut=True), Answer(body=b"{"), Answer(body=b""), Answer(body=b"[]"),
        Answer(body=b'{"choices":[]}'), Answer(body=b'{"choices":[{"message":{"content":3}}]}'), Answer(close=True),
        Answer(status=429), Answer(status=503), Answer(finish_reason="abort"), Answer(seconds=2.5),
    ],
    ids=["500", "502", "cut", "half_json", "empty", "array", "no_choice", "number", "closed", "429", "503", "abort", "silent"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(server: ChatServer, bad: Answer) -> None:
    server.plan = [bad, Answer()]
    assert ask(engine(server), 3) == right(3)
    assert len(server.requests) == 4


def test_what_does_not_pass_costs_that_input(server: ChatServer) -> None:
    """The fourth attempt is the last; the other inputs get their captions."""
    server.choose = lambda body: Answer(status=500) if width(body) == 21 else None
    one = engine(server)
    answers = one.caption(images(3), "Say!")
    assert isinstance(answers[1], Problem) and answers[1].reason == "endpoint_error"
    assert answers[1].detail == f"{server.url}/v1: HTTP 500 it went wrong"
    assert [answers[0], answers[2]] == [Generated(text, True, 12) for text in (right(3)[0], right(3)[2])]
    assert len(server.requests) == 2 + 4


def test_a_time_out_counts_twice(server: ChatServer) -> None:
    server.choose = lambda body: Answer(seconds=60) if width(body) == 20 else None
    assert ask(engine(server, limits=FAST._replace(answer=1)), 2) == ["endpoint_error", right(2)[1]]
    assert len(server.requests) == 3


def test_an_answer_without_end_costs_that_input_and_no_time(server: ChatServer) -> None:
    """The server is up: nothing waits until it comes back."""
    server.choose = lambda body: Answer(body=b"x" * 11_000_000) if width(body) == 21 else None
    assert ask(engine(server), 4) == [right(4)[0], "endpoint_error", *right(4)[2:]]
    assert len(server.requests) == 3 + 2


def test_an_answer_in_parts(server: ChatServer) -> None:
    parts = [{"type": "text", "text": "A red "}, {"type": "audio"}, {"type": "text", "text": "dot."}]
    server.plan = [Answer(body=json.dumps({"choices": [{"message": {"content": parts}}]}).encode())]
    assert engine(server).caption(images(1), "Say!") == [Generated("A red dot.", True, 0)]


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_input_costs_itself_and_is_asked_once(server: ChatServer, status: int) -> None:
    server.choose = lambda body: Answer(status=status) if width(body) == 22 else None
    assert ask(engine(server), 4) == [*right(2), "endpoint_refused", right(4)[3]]
    assert len(server.requests) == 4


@pytest.mark.parametrize("wait", ["1", "date"])
def test_retry_after_is_obeyed(server: ChatServer, wait: str) -> None:
    said = formatdate(time.time() + 3, usegmt=True) if wait == "date" else wait
    server.plan = [Answer(status=429, headers={"Retry_After": said}), Answer()]
    started = time.monotonic()
    assert ask(engine(server), 1) == right(1)
    assert time.monotonic() - started >= 1.0


def test_retry_after_is_bounded(server: ChatServer) -> None:
    server.plan = [Answer(status=503, headers={"Retry_After": "86400"}), Answer()]
    started = time.monotonic()
    assert ask(engine(server, limits=FAST._replace(longest_pause=0.2)), 1) == right(1)
    assert time.monotonic() - started < 60


def test_an_input_that_a_busy_server_never_takes(server: ChatServer) -> None:
    server.choose = lambda body: Answer(status=429) if width(body) == 20 else None
    assert ask(engine(server, limits=FAST._replace(give_up=3)), 2) == ["endpoint_error", right(2)[1]]


def test_length_is_not_finished_and_no_text_is_empty(server: ChatServer) -> None:
    server.plan = [
        Answer(finish_reason="length", text="A long"),
        Answer(body=b'{"choices":[{"message":{"content":null}}]}'),
    ]
    assert engine(server, in_flight=1).caption(images(2), "Say!") == [
        Generated("A long", False, 12),
        Generated("", True, 0),
    ]


def test_a_retry_decodes_in_another_way(server: ChatServer) -> None:
    ask(engine(server), 1, retry=True)
    assert server.requests[-1]["repetition_penalty"] == 1.2 and server.requests[-1]["temperature"] == 0
    server.pages.pop("/version")
    ask(engine(server), 1, retry=True)
    assert (server.requests[-1]["temperature"], server.requests[-1]["seed"]) == (0.3, 1)
    assert "repetition_penalty" not in server.requests[-1]


def test_a_picture_that_cannot_be_encoded_costs_itself(server: ChatServer) -> None:
    odd = Image.new("RGB", (70_000, 1))
    answers = engine(server).caption([odd, *images(1)], "Say!")
    assert isinstance(answers[0], Problem) and answers[0].reason == "model_error"
    assert answers[1] == Generated(right(1)[0], True, 12)


# -- several servers ---------------------------------------------------------------------------------------------------


def test_two_servers_share_the_work(server: ChatServer) -> None:
    with ChatServer() as other:
        server.plan, other.plan = [Answer(seconds=0.02)], [Answer(seconds=0.4)]
        assert ask(engine(server, other, in_flight=2), 24) == right(24)
        assert server.most == other.most == 2
        assert len(server.requests) > 2 * len(other.requests) > 0


def test_a_request_goes_where_the_fewest_are(server: ChatServer) -> None:
    with ChatServer() as other:
        server.plan = other.plan = [Answer(seconds=0.5)]
        assert ask(engine(server, other, in_flight=8), 8) == right(8)
        assert len(server.requests) == len(other.requests) == 4


def test_one_of_two_servers_dies_and_comes_back(server: ChatServer) -> None:
    with ChatServer() as other:
        both = engine(server, other)
        assert ask(both, 8) == right(8) and other.requests
    other.server.server_close()
    count = len(server.requests)
    assert ask(both, 12) == right(12) and len(server.requests) == count + 12
    with ChatServer(port=other.port) as again:
        time.sleep(0.1)
        server.plan = [Answer(seconds=0.05)]
        assert ask(both, 12) == right(12)
        assert again.requests, "it is tried again"


def test_a_server_that_only_fails_does_not_swallow_the_work(server: ChatServer) -> None:
    with ChatServer() as other:
        server.plan, other.plan = [Answer(seconds=0.02)], [Answer(close=True)]
        assert ask(engine(server, other), 60) == right(60)
        assert len(other.requests) < 20, "it is left alone, and probed"


def test_all_dead_ends_the_run_with_its_address() -> None:
    with ChatServer() as server:
        one = engine(server, limits=FAST._replace(give_up=0.4))
    started = time.monotonic()
    with pytest.raises(CommonArtError, match=rf"--endpoint {server.url}/v1 has not answered for \d+ s.") as caught:
        ask(one, 8)
    assert caught.value.code == 1 and time.monotonic() - started < 60


def test_one_that_never_answers_ends_the_run(server: ChatServer) -> None:
    server.plan = [Answer(seconds=60)]
    one = engine(server, limits=FAST._replace(answer=0.2, give_up=0.5))
    with pytest.raises(CommonArtError, match="has not answered for"):
        ask(one, 40)


def test_time_between_two_calls_is_not_silence(server: ChatServer) -> None:
    one = engine(server, limits=FAST._replace(give_up=0.3))
    ask(one, 1)
    time.sleep(0.5)
    server.plan = [Answer(close=True), Answer()]
    assert ask(one, 1) == right(1)


@pytest.mark.parametrize("status", [401, 403, 404, 302])
def test_what_no_request_would_get_past_ends_the_run(server: ChatServer, status: int) -> None:
    one = engine(server)
    server.plan = [Answer(status=status, headers={"Location": "http://127.0.0.1:9/"})]
    with pytest.raises(CommonArtError, match=f"--endpoint {server.url}/v1"):
        ask(one, 3)


# -- the start ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_v1_is_added_where_it_is_missing(url: str) -> None:
    assert address(url) == "http://h:1/v1"


def test_a_path_before_v1_stays() -> None:
    assert address("https://h/models/qwen") == "https://h/models/qwen/v1"


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://h", "http://me:secret@h", "http://h?key=secret", "http://"]
)
def test_other_addresses_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="--endpoint takes an address like") as caught:
        address(url)
    assert "secret" not in str(caught.value)


def test_a_server_with_another_model() -> None:
    with ChatServer(models=("llama", "mistral")) as server, pytest.raises(UsageError) as caught:
        engine(server)
    assert caught.value.what == f"--endpoint {server.url}/v1 does not serve Qwen/Qwen3-VL-2B-Instruct or qwen3-vl."
    assert "It serves llama, mistral; " in caught.value.fix


def test_a_service_whose_terms_forbid_it_is_refused_under_another_rows_name() -> None:
    with ChatServer(models=("gpt-4o",)) as server:
        with pytest.raises(UsageError, match="--endpoint-model gpt-4o is refused: its terms do not allow"):
            engine(server, model="gpt-4o")
        assert not server.gets


def test_a_model_under_another_name_is_written_down() -> None:
    with ChatServer(models=("qwen3-vl:2b-q4", "other")) as server:
        one = engine(server, model="qwen3-vl:2b-q4")
        ask(one, 1)
    assert server.requests[0]["model"] == one.settings["endpoint_model"] == "qwen3-vl:2b-q4"
    assert one.name == "qwen3-vl"


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/version", b'{"version":"0.11.0"}', "vllm 0.11.0"),
        ("/api/version", b'{"version":"0.13.5"}', "ollama 0.13.5"),
        ("/props", b'{"build_info":"b6900-abc"}', "llama.cpp b6900-abc"),
        ("/get_server_info", b'{"version":"0.5.4"}', "sglang 0.5.4"),
        ("/version", b"<html>", "uvicorn"),
        ("/version", b"[1]", "uvicorn"),
    ],
)
def test_the_version_of_the_server(path: str, body: bytes, expected: str) -> None:
    with ChatServer(version=None) as server:
        server.pages[path] = (200, body, {})
        assert engine(server).settings["engine"] == expected


def test_what_does_not_list_its_models(server: ChatServer) -> None:
    for status, body in ((200, b"hello"), (503, b'{"error":{"message":"Loading model"}}'), (200, b'{"data":3}')):
        server.pages["/v1/models"] = (status, body, {})
        with pytest.raises(CommonArtError, match="does not list its models"):
            engine(server)
    server.pages["/v1/models"] = (302, b"", {"Location": "http://127.0.0.1:9/"})
    with pytest.raises(CommonArtError, match="redirects to http://127.0.0.1:9/"):
        engine(server)


def test_nobody_there() -> None:
    with ChatServer() as server:
        pass
    with pytest.raises(CommonArtError, match=f"--endpoint {server.url}/v1 does not answer") as caught:
        engine(server)
    assert caught.value.code == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("florence2", "is not a chat model"), ("blip2", "is not a chat model"), ("nano", "is not a chat model"),
        ("blip2-opt", "is refused"), ("qwen2.5-vl-3b", "is refused"),
    ],
)  # fmt: skip
def test_rows_that_are_not_for_a_server(server: ChatServer, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        engine(server, name=name)
    assert server.gets == []


def test_the_chat_template_of_a_row_is_left_to_the_server() -> None:
    with ChatServer(models=("cyberagent/llava-calm2-siglip",)) as server:
        prompts = engine(server, name="llava-jp").model.prompts
    assert prompts[0].texts[0] == "この画像を説明してください。"
    assert not any(
        mark in text for prompt in prompts for text in prompt.texts for mark in ("USER", "<image>", "ASSISTANT")
    )


def test_a_model_outside_the_table() -> None:
    """By hub id, on the user's word; it is asked as any chat model is."""
    with ChatServer(models=("owner/vlm",)) as server:
        with pytest.raises(UsageError, match="is refused"):
            engine(server, name="owner/vlm")
        options = EndpointOptions([server.url], limits=FAST)
        captioner = Endpoint.open("owner/vlm", "caption", options, accept_terms=["owner/vlm"])
        translator = Endpoint.open("owner/vlm", "translate", options, accept_terms=["owner/vlm"])
        assert captioner.accepted and {prompt.lang for prompt in captioner.model.prompts} == {"en", "ja"}
        assert translator.translate(["3 dots"], "en", "ja") == [Generated("これは3個の点がある写真です。", True, 12)]
    assert "English image caption into natural Japanese" in server.requests[0]["messages"][0]["content"]


def test_the_key_is_sent_and_never_told(server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-very-secret\n")
    one = engine(server, key_file=str(tmp_path / "key"))
    server.choose = lambda body: Answer(status=400, body=b'{"error":{"message":"bad key sk-very-secret"}}')
    answers = one.caption(images(1), "Say!")
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert isinstance(answers[0], Problem) and "secret" not in answers[0].detail and "bad key ***" in answers[0].detail
    server.choose = lambda body: Answer(status=401, body=b'{"error":{"message":"bad key sk-very-secret"}}')
    with pytest.raises(CommonArtError, match="the key is missing or wrong") as caught:
        ask(one, 1)
    assert "secret" not in str(caught.value)


def test_a_redirect_gets_no_key(server: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-very-secret")
    with ChatServer() as other:
        one = engine(server, key_file=str(tmp_path / "key"))
        server.plan = [Answer(status=307, headers={"Location": f"{other.url}/v1/chat/completions"})]
        with pytest.raises(CommonArtError, match="redirects to"):
            ask(one, 1)
        assert other.requests == [] and other.gets == []


def test_a_file_without_a_key(server: ChatServer, tmp_path: Path) -> None:
    for content in ("", "two words", "鍵"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(UsageError, match="does not hold a key"):
            engine(server, key_file=str(tmp_path / "key"))


def test_options_of_a_local_model_are_refused(server: ChatServer) -> None:
    with pytest.raises(UsageError, match="--allow-pickle cannot be used with --endpoint"):
        Endpoint.open(
            "qwen3-vl", "caption", EndpointOptions([server.url]), allow_pickle=True, device="auto", quantize=None
        )
