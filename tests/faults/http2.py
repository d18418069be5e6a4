"""HTTP/2 by hand: frames in any order, number and state, as no client library makes them."""

import socket
import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
GOAWAY = 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name, value):
    """A header field that no table keeps (RFC 7541, 6.2.2), without Huffman's code."""
    return b"\0" + string(name) + string(value)


def string(text):
    text = text.encode() if isinstance(text, str) else text
    return integer(len(text), 7, 0) + text


def integer(value, bits, first):
    """RFC 7541, 5.1."""
    if value < (1 << bits) - 1:
        return bytes([first | value])
    out, value = [first | ((1 << bits) - 1)], value - ((1 << bits) - 1)
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    return bytes(out + [value])


def grpc_headers(path, *more):
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("te", "trailers"),
              ("content-type", "application/grpc"), *more]
    return b"".join(literal(name, value) for name, value in fields)


def grpc_message(payload):
    return b"\0" + struct.pack(">I", len(payload)) + payload


class Peer:
    """A connection that has said hello."""

    def __init__(self, address, settings=b"", timeout=20):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=timeout)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.socket.close()

    def send(self, data):
        """False: the server has closed the connection, or takes no more."""
        try:
            self.socket.sendall(data)
            return True
        except OSError:
            return False

    def frames(self):
        """What the server sends, as (kind, flags, stream, payload), until it closes the connection or is silent."""
        rest = b""
        while True:
            while len(rest) < 9 or len(rest) < 9 + int.from_bytes(rest[:3], "big"):
                try:
                    piece = self.socket.recv(65536)
                except OSError:
                    return
                if not piece:
                    return
                rest += piece
            size = int.from_bytes(rest[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", rest[3:9])
            yield kind, flags, stream, rest[9:9 + size]
            rest = rest[9 + size:]
