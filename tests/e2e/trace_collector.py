"""A collector of traces: takes OTLP/HTTP as OpenTelemetry's own messages read it, and does what a test tells it to."""

import base64
import http.server
import json
import threading
import time

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2


def decoded(body):
    """The request. OTLP's JSON is protobuf's, but for ids, which are hexadecimal. Unknown fields are errors."""
    message = json.loads(body)
    for resource in message["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
                    span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    return json_format.ParseDict(message, trace_service_pb2.ExportTraceServiceRequest())


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind)


def attributes(holder):
    found = {attribute.key: value(attribute.value) for attribute in holder.attributes}
    assert len(found) == len(holder.attributes), "an attribute is there twice"
    return found


class Trace:
    """The spans of one completion."""

    def __init__(self, spans):
        roots = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
        assert len(roots) == 1, [span.name for span in spans]
        self.root = roots[0]
        self.parts = [span for span in spans if span is not self.root]
        self.facts = attributes(self.root)

    def names(self):
        return sorted(span.name for span in self.parts)

    def part(self, name):
        found = [span for span in self.parts if span.name == name]
        assert len(found) == 1, (name, self.names())
        return found[0]


def seconds(span):
    return (span.end_time_unix_nano - span.start_time_unix_nano) * 1e-9


class Collector:
    """A context manager. `status` and `delay` are of its next answers. `tls`: an ssl.SSLContext."""

    def __init__(self, port=0, tls=None):
        self.status, self.delay, self.answer = 200, 0, b"{}"
        self.requests, self.errors = [], []
        self._changed = threading.Condition()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                collector._take(self)

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.url = f"http{'' if tls is None else 's'}://localhost:{self.port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        status = self.status
        with self._changed:
            self.attempts = getattr(self, "attempts", 0) + 1
            try:
                assert (handler.path, handler.headers["Content-Type"]) == ("/v1/traces", "application/json")
                request = decoded(body)
                if status == 200:
                    self.requests.append(request)
            except Exception as error:  # noqa: BLE001: shown by the test, in its own thread
                self.errors.append(f"{error!r}: {body!r}")
            self._changed.notify_all()
        time.sleep(self.delay)
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(self.answer)))
        handler.end_headers()
        handler.wfile.write(self.answer)

    def spans(self):
        assert not self.errors, self.errors[0]
        return [span for request in self.requests for resource in request.resource_spans
                for scope in resource.scope_spans for span in scope.spans]

    def trace(self, trace_id, timeout_seconds=15):
        """The completion of that trace; waits for it. Of a completion, spans come all at once."""
        found = self.wait_for(lambda: [s for s in self.spans() if s.trace_id.hex() == trace_id], timeout_seconds)
        return Trace(found)

    def wait_for(self, what, timeout_seconds=15):
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while not (found := what()):
                assert self._changed.wait(deadline - time.monotonic()), "the collector waits in vain"
        return found
