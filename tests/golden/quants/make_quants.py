"""What every stored type decodes to, from the `gguf` package: a few random blocks of each, and their values in f32.

    pip install gguf numpy
    python make_quants.py

TYPE.bin: u32 element count, then the blocks, then the values (all little-endian). Codes are random bytes; scales are random
f16 of both signs over their whole range, subnormal and zero included, NaN and infinity left out.
"""
import pathlib, struct
import gguf, numpy as np

rng = np.random.default_rng(20261121)
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0]}


def finite_halves(n):
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    bits[(bits & 0x7C00) == 0x7C00] &= 0xBFFF
    return bits.view(np.uint8).reshape(n, 2)


for name in ["F32", "F16", "BF16", *[n for n in HALVES if n != "F16"]]:
    kind = gguf.GGMLQuantizationType[name]
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n = 1024 // block_len
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    for at in HALVES.get(name, []):
        blocks[:, at : at + 2] = finite_halves(n)
    if name in ("F32", "BF16"):
        blocks[:, -1] &= 0xBF
    values = gguf.quants.dequantize(blocks.reshape(-1), kind) if name not in ("F32", "F16") else blocks.reshape(-1).view(np.float32 if name == "F32" else np.float16)
    values = np.asarray(values, dtype=np.float32).reshape(-1)
    assert np.isfinite(values).all() and len(values) == n * block_len
    path = pathlib.Path(__file__).parent / f"{name}.bin"
    path.write_bytes(struct.pack("<I", len(values)) + blocks.tobytes() + values.astype("<f4").tobytes())
