"""Seeds of the fuzz corpus: one small file of each kind that a target reads.

    pip install gguf numpy
    python make_seeds.py
"""
import json, pathlib, struct
import gguf, numpy as np

HERE = pathlib.Path(__file__).parent / "corpus"
Q = gguf.GGMLQuantizationType
rng = np.random.default_rng(4)


def model(name, kind, spm, extra):
    d, f, heads, kv, vocab = (32, 32, 2, 1, 16) if kind not in (Q.Q4_K, Q.Q5_K, Q.Q6_K) else (256, 256, 4, 1, 16)
    path = HERE / "gguf" / name
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1); w.add_context_length(32); w.add_embedding_length(d); w.add_feed_forward_length(f); w.add_head_count(heads); w.add_head_count_kv(kv)
    w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(10000.0)
    if spm:
        tokens = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "c", "ab", "▁ab", "▁a", "bc", "é", "d", "e", "f"]
        w.add_tokenizer_model("llama"); w.add_token_list(tokens); w.add_token_scores([-float(i) for i in range(16)]); w.add_token_types([2, 3, 3, 6] + [1] * 12)
    else:
        tokens = ["<|a|>", "<|b|>", "Ġ", "a", "b", "c", "ab", "Ġa", "abc", "1", "2", "d", "e", "f", "g", "h"]
        w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("smollm"); w.add_token_list(tokens); w.add_token_merges(["a b", "Ġ a", "ab c"]); w.add_token_types([3, 3] + [1] * 14)
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_add_bos_token(True)
    if extra:
        w.add_sliding_window(8); w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR); w.add_rope_scaling_factor(2.0); w.add_custom_alignment(64)
        w.add_tensor("rope_freqs.weight", np.ones(d // heads // 2, np.float32)); w.add_tensor("blk.0.attn_q.bias", np.ones(d, np.float32))
    h = d // heads * kv
    for tensor, shape in [("token_embd", (vocab, d)), ("blk.0.attn_q", (d, d)), ("blk.0.attn_k", (h, d)), ("blk.0.attn_v", (h, d)), ("blk.0.attn_output", (d, d)),
                          ("blk.0.ffn_gate", (f, d)), ("blk.0.ffn_up", (f, d)), ("blk.0.ffn_down", (d, f)), ("blk.0.attn_norm", (d,)), ("blk.0.ffn_norm", (d,)), ("output_norm", (d,))]:
        v = rng.normal(0, 0.3, shape).astype(np.float32)
        if len(shape) == 1 or kind == Q.F32: w.add_tensor(f"{tensor}.weight", v)
        elif kind == Q.F16: w.add_tensor(f"{tensor}.weight", v.astype(np.float16))
        else: w.add_tensor(f"{tensor}.weight", gguf.quants.quantize(v, kind), raw_dtype=kind)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


for i, kind in enumerate([Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.F16, Q.BF16, Q.F32]):
    model(f"seed-{kind.name}", kind, i % 2 == 0, i in (1, 4))

st = HERE / "safetensors"
shapes = {"model.embed_tokens.weight": [4, 4], "model.norm.weight": [4]}
for n in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
    shapes[f"model.layers.0.{n}.weight"] = [4, 4]
for n in ("input_layernorm", "post_attention_layernorm"): shapes[f"model.layers.0.{n}.weight"] = [4]
header, at = {"__metadata__": {"format": "pt"}}, 0
for n, s in shapes.items():
    size = 2 * int(np.prod(s)); header[n] = {"dtype": "F16", "shape": s, "data_offsets": [at, at + size]}; at += size
text = json.dumps(header).encode()
(st / "seed-file").write_bytes(b"0" + struct.pack("<Q", len(text)) + text + bytes(at))
text = json.dumps({"a": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}, "b": {"dtype": "U8", "shape": [0], "data_offsets": [8, 8]}}).encode()
(st / "seed-small").write_bytes(b"0" + struct.pack("<Q", len(text)) + text + bytes(8))
(st / "seed-index").write_bytes(b"1" + json.dumps({"metadata": {"total_size": 3}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}).encode())
config = dict(model_type="mistral", hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, vocab_size=4, sliding_window=4, eos_token_id=[1, 2],
              rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64))
(st / "seed-config").write_bytes(b"2" + json.dumps(config).encode())

tk = HERE / "tokenizer"
byte_level = b"\n".join(t.encode() for t in ["<|a|>", "<|b|>", "<|c|>", "Ġ", "a", "b", "c", "ab", "Ġa", "abc", "1", "2", "[X]", "Ċ"])
spaced = b"\n".join(t.encode() for t in ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "c", "ab", "▁ab", "▁a", "bc", "é", "[X]"])
for kind in (4, 8, 12, 3 + 4): (tk / f"seed-bytes-{kind}").write_bytes(bytes([kind]) + byte_level + b"\0" + "a b\nĠ a\nab c".encode() + b"\0" + "<|a|> abc [X] 12\n é".encode())
for kind in (1, 2, 129, 65): (tk / f"seed-spaces-{kind}").write_bytes(bytes([kind]) + spaced + b"\0" + (b"a b\n" if kind == 2 else b"") + b"\0" + "<s> ab abc A é [X]".encode())


def tokenizer_json(**parts):
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [{"id": 0, "content": "<s>", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}],
            "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    return json.dumps(base | parts, ensure_ascii=False).encode()


bl = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
bpe = lambda vocab, merges, **more: {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                                     "byte_fallback": False, "vocab": {t: i for i, t in enumerate(vocab)}, "merges": merges} | more
(tk / "seed-json-bytes").write_bytes(b"j" + tokenizer_json(model=bpe(["<s>", "a", "b", "c", "Ġ", "ab", "Ġa"], [["a", "b"], ["Ġ", "a"]]), decoder=bl,
                                     pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bl]}) + b"\0{\"add_bos_token\":true}\0<s> abc ab 12")
(tk / "seed-json-old").write_bytes(b"j" + tokenizer_json(model=bpe(["<s>", "a", "b", "c", "Ġ", "ab"], ["a b"]), pre_tokenizer=bl, decoder=bl) + b"\0\0abc")
(tk / "seed-json-spaces").write_bytes(b"j" + tokenizer_json(model=bpe(["<s>", "<unk>", "▁", "a", "b", "▁a", "ab"], [["▁", "a"], ["a", "b"]], unk_token="<unk>", byte_fallback=True),
                                      normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                                      decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                                      post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}) + b"\0\0 ab <s> a")

golden = HERE.parent.parent / "golden" / "gemma4"
generation = json.dumps({"eos_token_id": [1, 106, 50], "bos_token_id": 2, "temperature": 1.0, "top_k": 64, "top_p": 0.95}).encode()
(HERE / "config").mkdir(exist_ok=True)
for kind in ("text-e2b", "mm-e4b", "mobile-e2b", "mobile-e4b"):
    config = json.dumps(json.loads((golden / kind / "config.json").read_text()), separators=(",", ":")).encode()
    (HERE / "config" / f"seed-{kind}").write_bytes(config + b"\0" + generation)
(HERE / "config" / "seed-llama").write_bytes(json.dumps(dict(model_type="llama", hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, vocab_size=4)).encode())
(HERE / "tool_call").mkdir(exist_ok=True)
calls = ['call:f{k:<|"|>v<|"|>,n:3,flag:true}', 'call:now{}', 'call:f{list:[1,[-2.5e3],{b:null}],<|"|>a key<|"|>:<|"|>}<|"|>}', "call:f{a:[[[[[[[[[[[[[[[[[[1]]]]"]
for number, call in enumerate(calls): (HERE / "tool_call" / f"seed-{number}").write_bytes(call.encode())
