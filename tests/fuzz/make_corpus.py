"""Makes tests/fuzz/corpus from what the tests have: the golden models' files, the broken ones, the API's cases, requests.

    tests/fuzz/make_corpus.py      replaces the seeds that it makes (seed-*) and leaves others alone
"""

import json
import pathlib
import pickle
import struct
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/data"
CORRUPT = DATA / "golden/corrupt"
CORPUS = ROOT / "tests/fuzz/corpus"
MAX_SEED_BYTES = 12_000

HOST = b"Host: a\r\n"
REQUESTS = {
    "get": b"GET /livez HTTP/1.1\r\nHost: localhost:8000\r\n\r\n",
    "post": b"POST /v1/completions?a=b HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello",
    "chunked": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nA: b\r\n\r\n",
    "pipelined": b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\r\nGET http://b:80/c?d HTTP/1.1\r\nHost: [::1]:9\r\n\r\n" * 2,
    "http10": b"GET /a HTTP/1.0\r\nConnection: keep-alive, x\r\n\r\n",
    "continue": b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    "options": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "two_lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "list_of_lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 5\r\n\r\nhello",
    "cl_te": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    "te_cl": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST",
    "te_te": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "te_case": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "fold": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
    "bare_lf": b"GET / HTTP/1.1\nHost: a\n\n",
    "bare_cr": b"GET / HTTP/1.1\r\nHost: a\rB: c\r\n\r\n",
    "space_colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "chunk_sign": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    "chunk_large": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    "one_byte_chunks": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 40 + b"0\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "http2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "two_hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "nul": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
}


class Seeds:
    """Writes the seeds of one target, each content once and none that is too long."""

    def __init__(self, target):
        self.folder = CORPUS / target
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("seed-*"):
            old.unlink()
        self.seen = set()

    def add(self, name, content):
        if len(content) <= MAX_SEED_BYTES and content not in self.seen:
            self.seen.add(content)
            (self.folder / f"seed-{name}").write_bytes(content)


# Protobuf's wire format, by hand: a few messages do not need its library.
def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value & (1 << 64) - 1)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def files_of(pattern):
    return [(path.name.split(".")[0], path.read_bytes()) for path in sorted(CORRUPT.glob(pattern))]


def checkpoints():
    safetensors, archives, pickles, torch = Seeds("safetensors"), Seeds("zip"), Seeds("pickle"), Seeds("torch")
    for name, content in files_of("*.safetensors"):
        safetensors.add(name, content)
    # These refuse each other's files by content, so a file's kind decides where it is of use.
    for name, content in files_of("*.bin") + files_of("*.pt"):
        if content.startswith(b"PK"):
            archives.add(name, content)
        torch.add(name, content)
        try:
            with zipfile.ZipFile(CORRUPT / next(p.name for p in CORRUPT.iterdir() if p.read_bytes() == content)) as archive:
                for member in archive.namelist():
                    if member.endswith("data.pkl"):
                        pickles.add(name, archive.read(member))
        except (zipfile.BadZipFile, OSError, NotImplementedError, EOFError, zlib_error()):
            if content.startswith(b"\x80"):
                pickles.add(name, content)
    pickles.add("plain", pickle.dumps({"a": (1, -2, 1.5, None, True), "b": ["x", 1 << 70, {2}]}, protocol=2))
    for shard in sorted((DATA / "golden/models/metaseq_fsdp").glob("*part-0-shard0.pt")):
        (torch.folder / "seed-fsdp").write_bytes(shard.read_bytes())  # the one seed that may be longer
        with zipfile.ZipFile(shard) as archive:
            for member in archive.namelist():
                if member.endswith("data.pkl"):
                    pickles.add("fsdp", archive.read(member))


def zlib_error():
    import zlib

    return zlib.error


def configs():
    config, index = Seeds("config"), Seeds("index")
    for name, content in files_of("*.config.json"):
        config.add(name, content)
    for model in sorted((DATA / "golden/models").iterdir()):
        generation = model / "generation_config.json"
        behind = b"\0" + generation.read_bytes() if generation.exists() else b""
        if (model / "config.json").exists():
            config.add(model.name, (model / "config.json").read_bytes() + behind)
        for path in model.glob("*.index.json"):
            index.add(model.name, path.read_bytes())
    for name, content in files_of("index_*.json"):
        index.add(name, content)
    index.add("values", b'[1, -2.5e3, "\\ud83d\\ude00\\n", {"a": {"b": [null, true, false]}}, 18446744073709551615]')


def tokenizers():
    files, text = Seeds("tokenizer_files"), Seeds("text")
    # Bytes 33..126 and the rest of GPT-2's alphabet, then two merges.
    visible = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = {byte: chr(byte) for byte in visible}
    letters.update({byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in visible)})
    vocab = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    for letter in letters.values():
        vocab[letter] = len(vocab)
    merges = ["C a", "l l", "Ca ll", "\u0120 m"]
    for merge in merges:
        vocab[merge.replace(" ", "")] = len(vocab)
    parts = [
        json.dumps(vocab, ensure_ascii=False).encode(),
        ("#version: 0.2\n" + "\n".join(merges) + "\n").encode(),
        json.dumps({"add_bos_token": True, "bos_token": {"content": "</s>"}, "unk_token": "</s>", "pad_token": "<pad>",
                    "added_tokens_decoder": {str(vocab["Ca"]): {"content": "Ca", "special": False}}}).encode(),
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}).encode(),
    ]
    for count in range(1, 5):
        files.add(f"{count}_files", b"\0".join(parts[:count]))
    for name, content in files_of("tokenizer_*"):
        files.add(name, content)
    for i, sample in enumerate([
            "\nCall me Ishmael. Some years ago", "me|\n|agoago\nCall me agoago", "x\n a  b\t\n\u00e9\u4e2d\U0001f600",
            "aab|aaab|b\naaaaaab", "</s>\n</s><pad> don't WE'LL 12345 \u0660", "\n\u00e9" * 20]):
        text.add(str(i), sample.encode())
    text.add("ids", b"\n" + struct.pack("<40H", *range(0, 50280, 1257)))
    text.add("broken", b"\xff|\xc3\n\xc3\x28\xf0\x9f\x98\xed\xa0\x80")


def requests():
    http, bodies, messages = Seeds("http_request"), Seeds("json_codec"), Seeds("proto_codec")
    for i, (name, content) in enumerate(REQUESTS.items()):
        http.add(name, bytes([i]) + content)
    for path in sorted((ROOT / "tests/api/cases").glob("*.json")):
        for i, case in enumerate(json.loads(path.read_text())["cases"]):
            if "body" in case:
                body = json.dumps(case["body"]).encode()
            elif "text" in case:
                body = case["text"].encode("utf-8", "surrogatepass")
            elif "hex" in case:
                body = bytes.fromhex(case["hex"])
            else:
                continue
            if len(body) < 600:
                bodies.add(f"{path.stem}_{i}", body)
    bodies.add("tokenize", b'{"model":"m","prompt":"a","add_special_tokens":false,"parse_special_tokens":true}')
    bodies.add("detokenize", b'{"tokens":[1,2,50271]}')

    text, ids = field(2, field(1, b"Call me")), field(2, field(2, field(1, varint(2) + varint(50271))))
    fields = [field(3, 8), field(5, 0.5), field(7, -1), field(12, 1.5), field(14, field(1, 5) + field(2, -1.0)),
              field(15, -3), field(16, 2), field(17, 2), field(18, b"\n"), field(20, varint(7)), field(22, 3),
              field(23, 1), field(31, b"ana"), field(32, field(1, b"k") + field(2, b"v")), field(33, -1),
              varint(35 << 3 | 1) + struct.pack("<d", 1.5)]
    for stream in (0, 1):
        messages.add(f"text_{stream}", bytes([stream]) + text)
        messages.add(f"ids_{stream}", bytes([stream]) + ids + field(36, field(1, 1)))
        messages.add(f"all_{stream}", bytes([stream]) + text + ids + b"".join(fields))
    for i, one in enumerate(fields):
        messages.add(f"field_{i}", b"\0" + text + one)
    messages.add("unknown", b"\0" + text + field(99, 1))
    messages.add("tokenize", b"\2" + field(1, b"a") + field(2, b"b"))
    messages.add("detokenize", b"\3" + field(1, varint(1) + varint(2)) + field(2, b"m"))


def client_answers():
    """Behind a byte that says where it is cut: streams, whole answers and errors, ours and other servers'."""
    answers = Seeds("client_answer")
    choice = {"index": 0, "text": "a\u00e9", "logprobs": None, "finish_reason": None, "stop_reason": None}
    scored = {**choice, "finish_reason": "length", "token_ids": [5], "prompt_token_ids": [2, 7],
              "logprobs": {"tokens": ["a", "bytes:\\xc3"], "token_logprobs": [None, -0.5], "text_offset": [0, 1],
                           "top_logprobs": [None, {"a": -0.5, "token_id:7": -9999.0}]},
              "prompt_logprobs": [None, {"7": {"logprob": -1.5, "decoded_token": "b"}}]}
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}
    whole = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "system_fingerprint": None}
    error = {"error": {"message": "no", "type": "server_error", "param": None, "code": "engine_dead"}}

    def stream(*events, end="\n"):
        return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}{end}{end}" for event in events).encode()

    for i, (name, content) in enumerate({
            "stream": stream({**whole, "choices": [choice]}, {**whole, "choices": [], "usage": usage}, "[DONE]"),
            "scored": stream({**whole, "choices": [scored]}, "[DONE]", end="\r\n"),
            "failed": stream({**whole, "choices": [choice]}, error, "[DONE]"),
            "frames": b": comment\nevent: x\nid: 1\ndata: a\rdata:b\r\n\r\ndata\n\ndata:  \n\n\n",
            "whole": json.dumps({**whole, "choices": [scored], "usage": usage}).encode(),
            "models": b'{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"x","max_model_len":9}]}',
            "tokens": b'{"tokens":[2,50271],"count":2,"max_model_len":2048}', "text": b'{"prompt":"Call me"}',
            "error": json.dumps(error).encode(), "bare_error": b'{"error":"text"}', "number": b'{"error":{"code":429}}',
            "page": b"<html>\r\n<head><title>502 Bad Gateway</title></head>"}.items()):
        answers.add(name, bytes([i]) + content)


def server_answers():
    """Behind a byte that says where it is cut: the whole of HTTP, as a server's bytes."""
    http = Seeds("client_http")
    json_head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    body = b'{"choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":"stop"}]}'
    event = b'data: {"choices":[{"index":0,"text":"a","logprobs":null,"finish_reason":null}]}\n\n'
    stream_head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n"

    def chunk(content):
        return b"%x\r\n%s\r\n" % (len(content), content)

    for i, (name, content) in enumerate({
            "whole": json_head + b"Content-Length: %d\r\n\r\n" % len(body) + body,
            "to_the_end": json_head + b"Connection: close\r\n\r\n" + body,
            "chunked": json_head + chunked + chunk(body[:9]) + chunk(body[9:]) + b"0\r\nA: b\r\n\r\n",
            "stream": stream_head + chunked + chunk(event) + chunk(event + b"data: [DONE]\n\n") + b"0\r\n\r\n",
            "stream_cut": stream_head + chunked + chunk(event) + b"ffffff\r\n" + event,
            "stream_to_the_end": stream_head + b"\r\n" + event + b"data: [DONE]\n\n",
            "refusal": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nx-should-retry: false\r\nx-request-id: r7\r\n"
                       b"Content-Length: 19\r\n\r\n{\"error\":{\"code\":1}}"[:-1],
            "date": b"HTTP/1.1 503 x\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 0\r\n\r\n",
            "huge_length": json_head + b"Content-Length: 1099511627776\r\n\r\n{",
            "long_length": json_head + b"Content-Length: 18446744073709551615\r\n\r\n{",
            "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + json_head + b"Content-Length: 2\r\n\r\n{}",
            "no_content": b"HTTP/1.1 204 No Content\r\n\r\n", "http10": b"HTTP/1.0 200 OK\r\n\r\n{}",
            "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
            "two_lengths": json_head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
            "chunk_sizes": json_head + chunked + b"ffffffffffffffffff\r\n{}", "head": b"HTTP/1.1 200", "ssh": b"SSH-2.0-x\r\n",
            "http2": b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x80"}.items()):
        http.add(name, bytes([i]) + content)


def telemetry():
    """What a server's metrics look like, and traces' fields."""
    pages, traces = Seeds("metrics_page"), Seeds("trace_context")
    buckets = "".join(f'a_seconds_bucket{{le="{bound}"}} {count}\n' for bound, count in (("0.1", 1), ("5e1", 3), ("+Inf", 4)))
    page = f"# HELP a b\n# TYPE a histogram\n{buckets}a_seconds_sum 7.5\na_seconds_count 4\nidle -1e-3\nb{{c=\"d e\"}} NaN\n"
    phases = ("weights", "attention", "all_reduce", "kernels", "sampling", "gaps", "device", "host")
    demands = ("weight_bytes", "kv_bytes", "weight_flops", "attention_flops")
    account = "".join(f'optserve_{of}_phase_seconds_total{{phase="{phase}"}} 1.5\n' for of in ("step", "request") for phase in phases)
    account += "".join(f'optserve_{of}_demand_total{{kind="{kind}"}} 7\n' for of in ("step", "request") for kind in demands)
    sums = "".join(f"optserve_{name} 2\n" for name in ("request_queue_seconds_sum", "step_seconds_count",
                                                      "request_engine_seconds_total", "request_serving_seconds_total"))
    pages.add("page", page.encode())
    pages.add("two", f"{page}\0{page}".replace("+Inf\"}} 4", "+Inf\"}} 9").encode())
    pages.add("account", f"{account}{sums}\0{account}{sums}".encode())
    step = {"step": 4, "replica": 1, "begin_ns": 2000000000, "tokens": 12, "sequences": 3, "phase_ns": dict.fromkeys(phases, 5),
            **dict.fromkeys(demands, 7)}
    pages.add("steps", b"\0" + json.dumps({"steps": [step, step]}).encode())
    pages.add("bad", b'a_bucket{le="x"} 1\n\0a 1 2\n')
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for name, content in {
            "plain": f"{parent}\0shop=42\0{{}}", "states": f"{parent}\0a=1,b@c=2 , ,\nd_-*/e=3~\0",
            "twice": f"{parent}\n{parent}\0", "zeros": "00-" + "0" * 32 + "-" + "0" * 16 + "-00\0",
            "later": parent.replace("00-", "cc-", 1) + "-what\0a=b\0", "version": parent.replace("00-", "ff-", 1) + "\0",
            "upper": parent.upper() + "\0", "long": f"{parent}\0" + ",".join(f"k{i}={'x' * 9}" for i in range(40)),
            "rejected": f'{parent}\0\0{{"partialSuccess":{{"rejectedSpans":"7","errorMessage":"no"}}}}',
            "number": f'{parent}\0\0{{"partialSuccess":{{"rejectedSpans":-3}}}}', "text": f"{parent}\0a=b\0\u00e9\"\\\x7f"}.items():
        traces.add(name, content.encode())


def the_rest():
    frames, channel, keys, log = Seeds("process_frames"), Seeds("frame_channel"), Seeds("api_keys"), Seeds("log")
    sampling = field(1, 0.5) + field(9, varint(5)) + field(10, struct.pack("<f", -1.0))
    submit = field(1, 7) + field(2, varint(2) + varint(9)) + field(3, 5) + field(4, sampling) + field(11, b"key") + field(13, b"\xff")
    status = field(1, 3) + field(2, b"why\xff") + field(3, field(1, b"p") + field(2, b"v"))
    score = field(1, 4) + field(2, -0.5) + field(3, varint(1)) + field(4, struct.pack("<f", -2.0))
    event = field(1, 7) + field(2, 1) + field(3, score) + field(4, 2) + field(5, score) + field(8, status)
    frames.add("submit", b"\0" + field(2, submit))
    frames.add("start", b"\0" + field(1, field(1, b"{}")))
    frames.add("cancel", b"\0" + field(3, field(1, 7) + field(2, 1)))
    frames.add("events", b"\1" + field(4, field(1, event) + field(1, event)))
    frames.add("ready", b"\1" + field(2, field(1, field(1, 50272) + field(3, varint(2))) + field(2, field(1, 1))))
    frames.add("death", b"\1" + field(6, status))
    channel.add("two", struct.pack("<I", 3) + b"abc" + struct.pack("<I", 0))
    channel.add("cut", struct.pack("<I", 9) + b"abc")
    channel.add("huge", b"\xff\xff\xff\xff")
    line = f"key-0123abcd {'0f' * 32} 2026-01-31T12:00:00Z"
    keys.add("one", f"# ours\n{line} Ana's notebook\n\n".encode())
    keys.add("two", f"{line}\n{line.replace('abcd', 'abce')} b".encode())
    keys.add("twice", f"{line}\n{line}\n".encode())
    keys.add("short", b"key-1 00 now x\n")
    log.add("plain", b"word")
    log.add("quoted", 'a "b" \\ = \n\r\t\x1b[31m\x7f\0 \u00e9\u2028'.encode())
    log.add("broken", b"\xff\xc3(\xed\xa0\x80")


def main():
    checkpoints()
    configs()
    tokenizers()
    requests()
    client_answers()
    server_answers()
    telemetry()
    the_rest()
    size = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    print(f"{sum(1 for path in CORPUS.rglob('*') if path.is_file())} files, {size} bytes")


if __name__ == "__main__":
    main()
