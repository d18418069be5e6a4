"""The real server's page in front of answers that a test writes: what a real server does rarely, late, or never."""

import contextlib
import http.server
import json
import socket
import threading
import time

import requests

READY = "optserve_requests_running 0\noptserve_generation_tokens_total 0\n"


def chunk(text, *, tokens=None, offset=0, index=0, finish=None, ids=None, prompt_ids=None):
    """One event's JSON, as the server writes it, for a choice whose text so far ends at `offset`."""
    tokens = [text] if tokens is None else tokens
    choice = {"index": index, "text": text, "finish_reason": finish, "stop_reason": None,
              "token_ids": ids or [100] * len(tokens),
              "logprobs": {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens),
                           "top_logprobs": [{token: -0.5, "<u>other</u>": -1.5} for token in tokens], "text_offset": [offset] * len(tokens)}}
    if prompt_ids:
        choice["prompt_token_ids"] = prompt_ids
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": [choice], "usage": None}


USAGE = {"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5,
                                                  "prompt_tokens_details": {"cached_tokens": 0}}}


def event(data):
    return f"data: {data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)}\n\n".encode()


def error_body(message, code=None, param=None):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        scripted = self.server.scripts.get(self.path)
        if self.server.is_gone:
            self.hang_up()
        elif scripted:
            scripted(self)
        elif self.path == "/metrics":
            self.send(200, READY.encode(), "text/plain")
        elif self.path == "/readyz":
            self.send(200, b"ok\n", "text/plain")
        else:
            original = requests.get(self.server.original + self.path, timeout=10)
            fields = {name: value for name, value in original.headers.items() if name == "Content-Security-Policy"}
            self.send(original.status_code, original.content, original.headers["Content-Type"], fields)

    def do_POST(self):
        if self.server.is_gone:
            self.hang_up()
            return
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.scripts.get(self.path, lambda request: request.send(404, error_body("not scripted")))(self)

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def send(self, status, body, content_type="application/json", fields=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in dict(fields).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *parts, pause=0.05):
        """Sends each part of bytes as a chunk of its own, with time between; the connection ends with the last."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()
            time.sleep(pause)


class ScriptedServer:
    """Scripts are functions of the handler, by path; what has none is the real server's."""

    def __init__(self, original):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.original, self.http.scripts, self.http.is_gone = original.url, {}, False
        self.scripts = self.http.scripts
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        self.http.is_gone = True  # for the connections that are still open
        if self.thread.is_alive():
            self.http.shutdown()
            self.thread.join()
            with contextlib.suppress(OSError):
                self.http.server_close()
