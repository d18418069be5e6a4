"""R1, R2: clients that leave give everything back."""

import concurrent.futures
import json
import socket
import time

import pytest

from faulty import FaultyServer, answer_of, body_of


def leave(url, body, after_events, wait_seconds):
    """Sends a request and closes the socket after so many events, or after so much time without reading any."""
    host, port = url.removeprefix("http://").split(":")
    payload = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n%s" % (len(payload), payload))
        if after_events == 0:
            time.sleep(wait_seconds)
            return
        seen = b""
        while seen.count(b"data: ") < after_events:
            piece = connection.recv(65536)
            if not piece:
                return
            seen += piece


LONG_PROMPT = " ".join(f"Number {i} of the sea." for i in range(120))
LEAVING = {
    "in_the_queue": ({"prompt": "Call me", "max_tokens": 400}, 0, 0.0),
    "in_prefill": ({"prompt": LONG_PROMPT, "max_tokens": 100}, 0, 0.02),
    "in_the_stream": ({"prompt": "Call me", "max_tokens": 400, "n": 2}, 5, 0),
    "at_the_last_token": ({"prompt": "Call me", "max_tokens": 8}, 8, 0),
}


@pytest.mark.parametrize("point", LEAVING)
def test_r1_200_clients_leave(point, tmp_path, record_property):
    fields, after_events, wait_seconds = LEAVING[point]
    with FaultyServer("--max-num-seqs", 32, log=tmp_path / "log") as server:
        staying = body_of(3, max_tokens=300)
        expected = answer_of(server, staying)
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            stays = pool.submit(answer_of, server, staying)
            bodies = [{**fields, "stream": True, "ignore_eos": True, "temperature": 1, "seed": i} for i in range(200)]
            list(pool.map(lambda body: leave(server.url, body, after_events, wait_seconds), bodies))
            left = time.monotonic()
            assert stays.result() == expected
        server.wait_until_idle(timeout_seconds=10)
        seconds = time.monotonic() - left
        record_property("idle_seconds", round(seconds, 3))
        print(f"{point}: idle {seconds:.2f} s after the last had left (aim: 2 s)")
        assert answer_of(server, staying) == expected
        server.wait_until_idle(timeout_seconds=10)


def test_r2_200_time_out_then_one_asks(tmp_path, record_property):
    with FaultyServer("--max-num-seqs", 16, log=tmp_path / "log") as server:
        bodies = [{**body_of(0), "stream": False, "max_tokens": 900, "timeout": 0.5, "seed": i} for i in range(200)]
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda body: answer_of(server, body), bodies))
        assert any("error" in answer for answer in answers)
        begin = time.monotonic()
        assert "error" not in answer_of(server, body_of(0))
        seconds = time.monotonic() - begin
        record_property("answered_seconds", round(seconds, 3))
        print(f"answered after {seconds:.2f} s (aim: 5 s)")
