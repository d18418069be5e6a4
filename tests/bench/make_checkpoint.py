"""Writes a checkpoint of an OPT's shape with random f16 weights, for measuring:

    python tests/bench/make_checkpoint.py 1.3b safetensors DIRECTORY      or: torch, for a zip as torch.save writes it

Weights are written as they are made: memory does not grow with the model.
"""

import collections
import json
import os
import pathlib
import pickle
import struct
import sys
import types
import zipfile

# layers, hidden size, heads
SHAPES = {"125m": (12, 768, 12), "1.3b": (24, 2048, 32)}
VOCABULARY, POSITIONS = 50272, 2048
BLOCK = 8 << 20


def tensors(layers, hidden):
    """(name, shape) of each, by Hugging Face's names."""
    ffn = 4 * hidden
    yield "embed_tokens.weight", (VOCABULARY, hidden)
    yield "embed_positions.weight", (POSITIONS + 2, hidden)
    for layer in range(layers):
        prefix = f"layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{prefix}self_attn.{name}.weight", (hidden, hidden)
            yield f"{prefix}self_attn.{name}.bias", (hidden,)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{prefix}{name}.weight", (hidden,)
            yield f"{prefix}{name}.bias", (hidden,)
        yield f"{prefix}fc1.weight", (ffn, hidden)
        yield f"{prefix}fc1.bias", (ffn,)
        yield f"{prefix}fc2.weight", (hidden, ffn)
        yield f"{prefix}fc2.bias", (hidden,)
    yield "final_layer_norm.weight", (hidden,)
    yield "final_layer_norm.bias", (hidden,)


def count(shape):
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def random_block():
    """Finite f16 numbers of about the size of weights: any sign and fraction, exponents of 2^-7 and 2^-6."""
    block = bytearray(os.urandom(BLOCK))
    block[1::2] = bytes((byte & 0x87) | 0x20 for byte in block[1::2])
    return bytes(block)


def write_numbers(file, block, numbers):
    left = 2 * numbers
    while left:
        left -= file.write(block[:left])


def write_safetensors(path, listed, block):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in listed:
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + 2 * count(shape)]}
        at += 2 * count(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in listed:
            write_numbers(file, block, count(shape))


class Tensor:
    """Pickles as torch's do."""

    def __init__(self, key, shape):
        self.key, self.shape = key, shape

    def __reduce__(self):
        strides = (self.shape[1], 1) if len(self.shape) > 1 else (1,)
        return (sys.modules["torch._utils"]._rebuild_tensor_v2,
                (Storage(self.key, count(self.shape)), 0, self.shape, strides, False, collections.OrderedDict()))


Storage = collections.namedtuple("Storage", "key numbers")


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, Storage):
            return ("storage", sys.modules["torch"].HalfStorage, value.key, "cpu", value.numbers)
        return None


def name_torch():
    """The two names that a file of tensors has of torch, so that it need not be installed."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch.HalfStorage = type("HalfStorage", (), {"__module__": "torch"})

    def rebuild():
        raise NotImplementedError

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    torch._utils, utils._rebuild_tensor_v2 = utils, rebuild
    sys.modules["torch"], sys.modules["torch._utils"] = torch, utils


def write_torch(path, listed, block):
    name_torch()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("archive/data.pkl", "w") as file:
            Pickler(file, protocol=2).dump(
                collections.OrderedDict((name, Tensor(str(i), shape)) for i, (name, shape) in enumerate(listed)))
        for i, (_, shape) in enumerate(listed):
            with archive.open(f"archive/data/{i}", "w") as file:
                write_numbers(file, block, count(shape))
        archive.writestr("archive/version", "3\n")


def main():
    shape, form, target = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    layers, hidden, heads = SHAPES[shape]
    target.mkdir(parents=True, exist_ok=True)
    listed = [(f"model.decoder.{name}", dims) for name, dims in tensors(layers, hidden)]
    if form == "safetensors":
        write_safetensors(target / "model.safetensors", listed, random_block())
    else:
        write_torch(target / "pytorch_model.bin", listed, random_block())
    (target / "config.json").write_text(json.dumps({
        "model_type": "opt", "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "ffn_dim": 4 * hidden, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS,
        "word_embed_proj_dim": hidden, "do_layer_norm_before": True}))


if __name__ == "__main__":
    main()
