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
    the_rest()
    size = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    print(f"{sum(1 for path in CORPUS.rglob('*') if path.is_file())} files, {size} bytes")


if __name__ == "__main__":
    main()
