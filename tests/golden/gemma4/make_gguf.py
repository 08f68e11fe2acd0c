"""Writes a tiny random Gemma 4 model as GGUF, and what it must compute: python make_gguf.py OUT [--seed N]

Linears are Q4_0 and both tables Q6_K, the types of the published q4_0 file; the per-layer projection is BF16, norms F32. The
reference is the numpy decoder beside this file on the very numbers that the quantized blocks stand for, so nothing is left of
the quantization's error. Metadata keys and tensor names are those of the public converters. Needs: pip install numpy gguf safetensors
"""
import argparse, json, os
import gguf, numpy as np
from safetensors.numpy import save_file
import reference_numpy as ref

ap = argparse.ArgumentParser()
ap.add_argument("out")
ap.add_argument("--seed", type=int, default=0)
a = ap.parse_args()
os.makedirs(a.out, exist_ok=True)
rng = np.random.default_rng(a.seed)
Q = gguf.GGMLQuantizationType

# Q6_K comes in blocks of 256: the model's width and a row of the per-layer table are multiples of it.
S, F = ref.SLIDE, ref.FULL
V, H, I, P, W, L, SHARED = 320, 256, 128, 64, 8, 4, 1
types = [S, F, S, F]
cfg = dict(vocab_size=V, hidden_size=H, hidden_size_per_layer_input=P, num_hidden_layers=L, num_attention_heads=4,
    num_key_value_heads=1, head_dim=32, global_head_dim=64, layer_types=types, sliding_window=W, num_kv_shared_layers=SHARED,
    rms_norm_eps=1e-6, final_logit_softcapping=30.0, rope_parameters={
        S: {"rope_type": "default", "rope_theta": 1e4},
        F: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}})
w = gguf.GGUFWriter(f"{a.out}/model.gguf", "gemma4")
w.add_block_count(L)
w.add_context_length(1024)
w.add_embedding_length(H)
w.add_feed_forward_length([I if i < L - SHARED else 2 * I for i in range(L)])
w.add_head_count(4)
w.add_head_count_kv([1] * L)
w.add_layer_norm_rms_eps(1e-6)
w.add_vocab_size(V)
for key, value in [("attention.key_length", 64), ("attention.value_length", 64), ("attention.key_length_swa", 32),
                   ("attention.value_length_swa", 32), ("attention.sliding_window", W), ("attention.shared_kv_layers", SHARED),
                   ("embedding_length_per_layer_input", P), ("rope.dimension_count", 64), ("rope.dimension_count_swa", 32)]:
    w.add_uint32(f"gemma4.{key}", value)
for key, value in [("rope.freq_base", 1e6), ("rope.freq_base_swa", 1e4), ("final_logit_softcapping", 30.0)]:
    w.add_float32(f"gemma4.{key}", value)
w.add_array("gemma4.attention.sliding_window_pattern", [t == S for t in types])

def q6_k_blocks(shape, scale):
    """Random blocks: the package decodes this type and does not encode it. Values spread by about `scale`."""
    n = shape[0] * shape[1] // 256
    low, high = rng.integers(0, 256, (n, 128), np.uint8), rng.integers(0, 256, (n, 64), np.uint8)
    scales = rng.integers(-64, 65, (n, 16), np.int8).view(np.uint8)
    d = np.full((n, 1), scale / 684, np.float16).view(np.uint8)
    return np.concatenate([low, high, scales, d], 1).reshape(shape[0], -1)

values = {}
def add(name, short, shape, quant, scale=None, around=0.0):
    x = (around + rng.standard_normal(shape) * (1.3 / shape[-1] ** 0.5 if scale is None else scale)).astype(np.float32)
    data = q6_k_blocks(shape, scale) if quant == Q.Q6_K else gguf.quants.quantize(x, quant)
    values[name] = gguf.quants.dequantize(data, quant).reshape(shape)
    w.add_tensor(short, data, raw_dtype=quant)
add("embed_tokens", "token_embd.weight", (V, H), Q.Q6_K, 0.06)
add("embed_tokens_per_layer", "per_layer_token_embd.weight", (V, L * P), Q.Q6_K, 0.25)
add("per_layer_model_projection", "per_layer_model_proj.weight", (L * P, H), Q.BF16)
add("per_layer_projection_norm.weight", "per_layer_proj_norm.weight", (P,), Q.F32, 0.3, 1.0)
add("norm.weight", "output_norm.weight", (H,), Q.F32, 0.6, 2.0)
# The share of pairs that rotate, as divisors: 1, then a number so large that the rest stand still.
w.add_tensor("rope_freqs.weight", np.array([1.0] * 8 + [1e30] * 24, np.float32))
for i in range(L):
    d, f = (64 if types[i] == F else 32), (I if i < L - SHARED else 2 * I)
    for name, short in [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm"),
                        ("pre_feedforward_layernorm", "ffn_norm"), ("post_feedforward_layernorm", "post_ffw_norm"),
                        ("post_per_layer_input_norm", "post_norm")]:
        add(f"layers.{i}.{name}.weight", f"blk.{i}.{short}.weight", (H,), Q.F32, 0.3, 1.0)
    add(f"layers.{i}.layer_scalar", f"blk.{i}.layer_output_scale.weight", (1,), Q.F32, 0.2, 1.0)
    linears = [("self_attn.q_proj", "attn_q", (4 * d, H)), ("self_attn.o_proj", "attn_output", (H, 4 * d)),
               ("mlp.gate_proj", "ffn_gate", (f, H)), ("mlp.up_proj", "ffn_up", (f, H)), ("mlp.down_proj", "ffn_down", (H, f)),
               ("per_layer_input_gate", "inp_gate", (P, H)), ("per_layer_projection", "proj", (H, P))]
    norms = [("self_attn.q_norm", "attn_q_norm")]
    if i < L - SHARED:
        linears += [("self_attn.k_proj", "attn_k", (d, H)), ("self_attn.v_proj", "attn_v", (d, H))]
        norms += [("self_attn.k_norm", "attn_k_norm")]
    for name, short, shape in linears:
        add(f"layers.{i}.{name}", f"blk.{i}.{short}.weight", shape, Q.Q4_0)
    for name, short in norms:
        add(f"layers.{i}.{name}.weight", f"blk.{i}.{short}.weight", (d,), Q.F32, 0.2, 0.5)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()

model = ref.Gemma4(cfg, lambda n: values[n], lambda n: ref.Linear(values["embed_tokens" if n == "lm_head" else n]))
ids = [2] + rng.integers(3, V, 39).tolist()
prefill = model.forward(ids)
greedy, decode = [int(prefill[-1].argmax())], []
for _ in range(23):
    decode.append(model.forward([greedy[-1]])[0])
    greedy.append(int(decode[-1].argmax()))
save_file({"prefill_logits": prefill.astype(np.float32), "decode_logits": np.stack(decode).astype(np.float32)},
    f"{a.out}/reference.safetensors")
json.dump(dict(kind="gguf", prompt_ids=ids, greedy_ids=greedy, max_abs_logit=float(abs(prefill).max())),
    open(f"{a.out}/reference.json", "w"), indent=1)
print("wrote", a.out, "max|logit|", abs(prefill).max(), "distinct", len(set(greedy)))
