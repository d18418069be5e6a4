"""R28: the wall clock leaps by an hour, either way, under a running server. Only the wall clock: Linux does not let the
monotonic one leap."""

import contextlib
import glob
import os
import threading
import time

import requests

from faulty import FaultyServer, answer_of, body_of


@contextlib.contextmanager
def environment(**variables):
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def test_r28_a_clock_that_leaps_moves_no_deadline(tmp_path):
    library, = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    with environment(LD_PRELOAD=library, FAKETIME_TIMESTAMP_FILE=str(clock), FAKETIME_NO_CACHE="1",
                     FAKETIME_DONT_FAKE_MONOTONIC="1", DONT_FAKE_MONOTONIC="1"):
        server = FaultyServer("--step-timeout", 3, log=tmp_path / "log")
    with server:
        expected = answer_of(server, body_of(1, 40))
        stream, got = body_of(0, max_tokens=700), []
        undisturbed = answer_of(server, stream)
        for leap in ("+3600", "-3600"):
            reader = threading.Thread(target=lambda: got.append(answer_of(server, {**stream, "timeout": 60})))
            reader.start()
            clock.write_text(leap)
            created = server.post({"prompt": "x", "max_tokens": 1}).json()["created"]
            assert abs(created - time.time() - int(leap)) < 120  # the server did see it
            reader.join()
            assert answer_of(server, body_of(1, 40)) == expected
            begin = time.monotonic()
            late = answer_of(server, {**body_of(0, 900), "stream": False, "timeout": 0.2, "n": 8})
            assert late["error"]["code"] in ("timeout", "deadline_exceeded")
            assert time.monotonic() - begin < 5
            server.engines()[0].kill()
            assert answer_of(server, body_of(1, 40)) == expected
            assert requests.get(server.url + "/readyz", timeout=10).status_code == 200
            for line in requests.get(server.url + "/metrics", timeout=10).text.splitlines():
                assert line.startswith("#") or float(line.rsplit(" ", 1)[1]) >= 0, line
        assert got == [undisturbed] * 2
        assert len(server.events("engine_died")) == 2
