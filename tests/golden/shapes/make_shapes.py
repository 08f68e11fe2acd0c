"""Tiny random checkpoints of every shape of the llama family, and what transformers computes from them in f32.

    pip install torch transformers accelerate gguf safetensors tokenizers numpy
    python make_shapes.py

Each folder holds a checkpoint (a Hugging Face folder, or model.gguf) with reference.json and reference.safetensors in the
layout of ../starter/make_reference.py. The vocabulary has 1,024 entries, so that ids 1000..1015 exist. `ids` are what the
tokenizer gives with special tokens matched and added (a leading BOS where the model has one), `ids_specials_off` with
neither. Weights are random: nothing here was ever trained, and the text of the vocabulary was written for this file.
"""
import json, pathlib, shutil
import gguf, numpy as np, torch
from gguf import GGMLQuantizationType as Q
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
VOCAB, GREEDY = 1024, 24
WORDS = """The harbour at Vellin lies where two rivers meet the grey water of the gulf, and for three hundred years its people have counted
everything that came ashore. In the long room above the customs house there are ledgers bound in green cloth: barrels of salted herring,
coils of tarred rope, window glass packed in straw, oranges wrapped one by one in thin paper. A clerk named Odile Marrant began to copy
them in 1911, because the damp had reached the lower shelves, and her neat upright hand fills forty volumes. She wrote down the weather
as well. When the wind stood in the north for a week she noted which captains complained, how much each lost, and whether the bread was
late. Nobody asked her to do it. Today her notes are the best record of storms on that coast, and two universities keep students there
every summer to read them into a machine. The work is slow. One page holds about fifty lines, and a careful reader finishes nine pages
before the light goes; mistakes are easy, since sevens look like ones and the same ship may be spelled four different ways. Still, they
have found that the worst gales came not in winter but in the last days of October, that the price of coal rose by a third after every
one, and that the old lighthouse was dark on exactly eleven nights. What happened on those nights is a question for someone else, says
the woman who leads the project; she only wants the numbers to be right. Visitors may climb the stairs on Thursdays, hold a lamp over
the desk, and turn the pages themselves, provided they wash their hands first. I'm told that it's worth the walk. You'll smell salt, dust
and a little smoke; you won't hear anything except gulls, the clock, and somebody reading figures aloud: 12, 48, 305, 1,250, 96, 7.
Across the square a baker keeps older habits. Before dawn he sets out three bowls, weighs rye against barley, and argues with his nephew
about yeast, politics, football, or the proper thickness of crust. Neither of them has ever persuaded the other. Customers queue beneath a
striped awning while swallows dive through the arcade, and by nine every shelf stands empty except for one loaf saved, by long agreement,
for whichever fisherman returns last. Strangers suppose this is charity; regulars know it began as a wager in 1874, that nobody remembers
its terms, and that stopping now would surely bring bad luck upon both families, their boats, and possibly the whole eastern quay.
Further inland, terraces of walnut, quince and almond climb toward a ruined chapel, where jackdaws quarrel over mossy crevices."""
WORDS = " ".join(WORDS.split())
TEXTS = ["The harbour holds 1,250 barrels; it's dark on October 31.", "Café déjà vu — 123 😊\n\n\tx = 10_000;  # ok",
         "</s> hello <|eot_id|> <|im_end|>\nworld <s>", "  two  spaces 3 4   ", "日本語のテキスト", "don't WON'T we'll I'M", "\r\n\r\n\u00a0\u200bend", ""]
PROMPTS = [("short", "The lighthouse keeper counted"),
           ("long", " ".join(WORDS.split()[:75]))]


# Tokenizers --------------------------------------------------------------------------------------------------------------

def trained(pre_tokenizer, size, alphabet):
    """Merges learned from WORDS: the pairs, and the pieces they make, in order."""
    t = Tokenizer(models.BPE()); t.pre_tokenizer = pre_tokenizer
    t.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=1))
    spec = json.loads(t.to_str())["model"]
    return [tuple(m) for m in spec["merges"]], [k for k, _ in sorted(spec["vocab"].items(), key=lambda kv: kv[1])]


def byte_level(pre, specials, first, bos):
    """Byte-level BPE; `first`: the special tokens come before the ordinary ones. Returns the tokenizer and its GGUF keys."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    digits = pre_tokenizers.Digits(individual_digits=True)
    llama3 = pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated")
    split = {"smollm": [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)],
             "llama-bpe": [llama3, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]}[pre]
    merges, pieces = trained(pre_tokenizers.Sequence(split), VOCAB - len(specials), alphabet)
    tokens = specials + pieces if first else pieces + specials
    assert len(tokens) == VOCAB, len(tokens)
    t = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=pre == "llama-bpe"))
    t.pre_tokenizer = pre_tokenizers.Sequence(split); t.decoder = decoders.ByteLevel()
    plain = Tokenizer.from_str(t.to_str())
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    if bos: t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))])
    keys = dict(model="gpt2", pre=pre, tokens=tokens, types=[3 if s in specials else 1 for s in tokens], merges=[" ".join(m) for m in merges], add_bos=bool(bos))
    return t, plain, keys


def sentencepiece(_=None):
    """BPE over whole words with byte fallback, laid out as in Llama 2: specials, 256 bytes, merges by rank, characters."""
    specials = ["<unk>", "<s>", "</s>"]; bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    characters = sorted(set(WORDS.replace(" ", "▁")))
    merges, pieces = trained(pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"), VOCAB - 259, characters)
    ranked = [p for p in pieces if len(p) > 1]; single = [p for p in pieces if len(p) == 1]
    tokens = specials + bytes_ + ranked + single
    assert len(tokens) == VOCAB, len(tokens)
    # As when a SentencePiece model is converted: every way to split a piece is a merge, ranked by the piece.
    merges = [(p[:i], p[i:]) for p in ranked for i in range(1, len(p)) if p[:i] in pieces and p[i:] in pieces]
    t = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    plain = Tokenizer.from_str(t.to_str())
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    keys = dict(model="llama", pre="default", tokens=tokens, types=[2, 3, 3] + [6] * 256 + [1] * (VOCAB - 259),
                scores=[0.0] * 259 + [-float(i) for i in range(VOCAB - 259)], add_bos=True)
    return t, plain, keys


def smollm(): return byte_level("smollm", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], True, None)
def llama3(): return byte_level("llama-bpe", ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], False, "<|begin_of_text|>")


# Weights -----------------------------------------------------------------------------------------------------------------

def permute(w, heads):
    """Hugging Face rows (pairs i, i+d/2) to GGUF rows (pairs 2i, 2i+1), as llama.cpp's converter does."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def unpermute(w, heads):
    return w.reshape(heads, w.shape[0] // heads // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def random_weight(rng, name, shape):
    if "norm" in name: return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("bias"): return rng.normal(0, 0.3, shape).astype(np.float32)
    if "embed" in name: return rng.normal(0, 0.7, shape).astype(np.float32)
    return rng.normal(0, 1.2 / np.sqrt(shape[-1]), shape).astype(np.float32)


def random_k_blocks(rng, shape, kind):
    """Valid blocks, any bits in their codes and 6-bit scales, with f16 scales that make values of the size of a weight."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n = shape[0] * shape[1] // block_len
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    half = lambda v: np.asarray(v, np.float16).reshape(-1, 1).view(np.uint8)
    size = rng.uniform(0.5, 1.5, n) / np.sqrt(shape[1])
    if kind == Q.Q6_K:
        blocks[:, 208:210] = half(size / 1400 * rng.choice([-1, 1], n))
    else:
        codes = 15 if kind == Q.Q4_K else 31
        blocks[:, 0:2], blocks[:, 2:4] = half(size / (12 * codes)), half(size / 24)
    return blocks.reshape(shape[0], -1)


def encode(rng, values, kind):
    """A tensor's bytes in the file, `[rows, bytes]`, and the values they stand for."""
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K): raw = random_k_blocks(rng, values.shape, kind)
    elif kind == Q.F32: return values, values
    elif kind == Q.F16: return values.astype(np.float16), values.astype(np.float16).astype(np.float32)
    else: raw = gguf.quants.quantize(values, kind)
    return raw, gguf.quants.dequantize(raw, kind).reshape(values.shape).astype(np.float32)


GGUF_NAMES = [("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output."), ("model.layers.", "blk."),
              ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
              ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"), ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")]


def write_gguf(path, config, keys, weights, kinds, rng):
    """Writes the file, and returns the weights as it holds them."""
    w = gguf.GGUFWriter(path, "llama")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    kv = config["num_key_value_heads"]; head_dim = config.get("head_dim", hidden // heads)
    w.add_name(path.parent.name); w.add_block_count(config["num_hidden_layers"]); w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(hidden); w.add_feed_forward_length(config["intermediate_size"]); w.add_head_count(heads); w.add_head_count_kv(kv)
    w.add_rope_freq_base(config["rope_theta"]); w.add_layer_norm_rms_eps(config["rms_norm_eps"]); w.add_vocab_size(VOCAB); w.add_rope_dimension_count(head_dim)
    w.add_tokenizer_model(keys["model"]); w.add_tokenizer_pre(keys["pre"]); w.add_token_list(keys["tokens"]); w.add_token_types(keys["types"])
    if "scores" in keys: w.add_token_scores(keys["scores"])
    if "merges" in keys: w.add_token_merges(keys["merges"])
    w.add_add_bos_token(keys["add_bos"]); w.add_bos_token_id(config["bos_token_id"]); w.add_eos_token_id(config["eos_token_id"])
    if (scaling := config.get("rope_scaling")) is not None:
        f = 1.0 / config["rope_theta"] ** (np.arange(0, head_dim, 2) / head_dim)
        turns = scaling["original_max_position_embeddings"] * f / (2 * np.pi)
        keep = np.clip((turns - scaling["low_freq_factor"]) / (scaling["high_freq_factor"] - scaling["low_freq_factor"]), 0, 1)
        w.add_tensor("rope_freqs.weight", (1 / (keep + (1 - keep) / scaling["factor"])).astype(np.float32))
    held = {}
    for name, value in weights.items():
        short = name
        for a, b in GGUF_NAMES: short = short.replace(a, b)
        n = {"attn_q.": heads, "attn_k.": kv}.get(next((k for k in ("attn_q.", "attn_k.") if k in short), ""), 0)
        kind = next((k for part, k in kinds if part in short), Q.F32) if value.ndim == 2 else Q.F32
        raw, read = encode(rng, permute(value, n) if n else value, kind)
        w.add_tensor(short, raw, raw_dtype=kind)
        held[name] = unpermute(read, n) if n else read
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()
    return held


def write_folder(out, config, tokenizer, weights, dtype, shards):
    tensors = {k: torch.from_numpy(v).to(dtype) for k, v in weights.items()}
    (out / "config.json").write_text(json.dumps(config | {"torch_dtype": str(dtype).removeprefix("torch.")}, indent=1) + "\n")
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    if shards == 1:
        save_torch(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    else:
        names = list(tensors); where = {}
        for i in range(shards):
            file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = {n: tensors[n] for n in names[i::shards]}
            save_torch(part, str(out / file), metadata={"format": "pt"}); where |= {n: file for n in part}
        total = sum(t.numel() * t.element_size() for t in tensors.values())
        (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1) + "\n")
    return {k: t.float().numpy() for k, t in tensors.items()}


# Reference ---------------------------------------------------------------------------------------------------------------

def reference(out, model, tok, plain, eos):
    doc = {"model": out.name, "texts": [], "prompts": []}; tensors = {}
    for t in TEXTS:
        doc["texts"].append({"text": t, "ids": tok.encode(t).ids, "ids_specials_off": plain.encode(t, add_special_tokens=False).ids})
    for name, text in PROMPTS:
        ids = tok.encode(text).ids
        with torch.no_grad():
            pre = {}
            hook = model.model.layers[-1].register_forward_hook(lambda m, i, y: pre.setdefault("x", y[0] if isinstance(y, tuple) else y))
            o = model(torch.tensor([ids]), output_hidden_states=True, use_cache=True); hook.remove()
            h, x = o.hidden_states, pre["x"]
            x = x[0, -1] if x.dim() == 3 else x[-1]
            tensors[f"{name}.hidden"] = np.stack([v[0, -1].numpy() for v in h[:-1]] + [x.numpy(), h[-1][0, -1].numpy()]).astype(np.float32)
            tensors[f"{name}.layer0"] = h[1][0].numpy().astype(np.float32)
            tensors[f"{name}.logits"] = o.logits[0, -1].numpy().astype(np.float32)
            greedy, tops, steps, seq, cur = [], [], [], list(ids), o.logits[0, -1]
            for _ in range(GREEDY):
                v, i = cur.topk(5); tops.append([[int(a), round(float(b), 4)] for a, b in zip(i, v)])
                steps.append(cur[1000:1016].numpy().copy()); greedy.append(int(i[0]))
                if greedy[-1] in eos: break
                # The whole sequence again: slow, and free of any doubt about a windowed cache.
                seq.append(greedy[-1]); cur = model(torch.tensor([seq])).logits[0, -1]
            tensors[f"{name}.steps"] = np.stack(steps).astype(np.float32)
        doc["prompts"].append({"name": name, "rendered": text, "ids": ids, "greedy": greedy, "greedy_text": tok.decode(greedy, skip_special_tokens=False), "top5": tops})
        gaps = [t[0][1] - t[1][1] for t in tops]
        print(f"  {name}: {len(ids)} ids, {len(greedy)} greedy, logits std {cur.std():.2f}, closest top two {min(gaps):.4f}")
    (out / "reference.json").write_text(json.dumps(doc, ensure_ascii=False, separators=(",", ":")) + "\n")
    save_numpy(tensors, str(out / "reference.safetensors"))


def make(name, seed, tokenizer, config, *, gguf_kinds=None, dtype=None, shards=1):
    out = HERE / name; shutil.rmtree(out, ignore_errors=True); out.mkdir()
    rng = np.random.default_rng(seed); tok, plain, keys = tokenizer()
    eos = config["eos_token_id"]; eos = eos if isinstance(eos, list) else [eos]
    config = {"architectures": ["MistralForCausalLM" if config["model_type"] == "mistral" else "LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_act": "silu"} | config
    blank = AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(json.dumps(config))), dtype=torch.float32)
    tied = config.get("tie_word_embeddings", False)
    weights = {k: random_weight(rng, k, tuple(p.shape)) for k, p in blank.state_dict().items() if not (tied and k == "lm_head.weight")}
    if dtype is None:
        held = write_gguf(out / "model.gguf", config, keys, weights, gguf_kinds, rng)
        blank.load_state_dict({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in held.items()}, strict=not tied)
        blank.tie_weights(); model = blank
        if all(k not in (Q.Q4_K, Q.Q5_K, Q.Q6_K) for _, k in gguf_kinds):
            # transformers' own GGUF reader must find the same weights.
            other = AutoModelForCausalLM.from_pretrained(out, gguf_file="model.gguf", dtype=torch.float32).state_dict()
            assert all(torch.equal(other[k], p) for k, p in model.state_dict().items())
    else:
        held = write_folder(out, config, tok, weights, dtype, shards)
        model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        assert all(np.array_equal(model.state_dict()[k].numpy(), v) for k, v in held.items())
    model.set_attn_implementation("eager")
    print(name); reference(out, model.eval(), tok, plain, eos)


SPM = dict(bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(bos_token_id=1019)
LLAMA3_ROPE = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)

make("llama2-gguf", 1, sentencepiece,                # heads of their own for keys and values, no sharing; every type of 32
     dict(model_type="llama", hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
          max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, **SPM),
     gguf_kinds=[("token_embd", Q.Q5_1), ("output.", Q.Q8_0), ("attn_q", Q.Q4_0), ("attn_k", Q.Q4_1), ("attn_v", Q.Q5_0), ("attn_output", Q.Q5_1),
                 ("ffn_gate", Q.Q4_0), ("ffn_up", Q.Q4_1), ("ffn_down", Q.Q5_0)])
make("llama3-gguf", 2, llama3,                       # shared key/value heads, tied, stretched frequencies as a tensor; blocks of 256, plain types
     dict(model_type="llama", hidden_size=256, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
          max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True, eos_token_id=1020,
          rope_scaling=dict(rope_type="llama3", **LLAMA3_ROPE), **LLAMA3),
     gguf_kinds=[("token_embd", Q.Q4_K), ("attn_q", Q.Q5_K), ("blk.0.attn_k", Q.BF16), ("blk.0.attn_v", Q.F16), ("attn_k", Q.Q4_K), ("attn_v", Q.Q6_K),
                 ("attn_output", Q.Q4_K), ("ffn_gate", Q.Q5_K), ("ffn_up", Q.Q6_K), ("ffn_down", Q.Q4_K)])
make("llama3-hf", 3, llama3,                         # two files, several stop ids, stretched frequencies in the newer config layout
     dict(model_type="llama", hidden_size=32, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
          max_position_embeddings=512, rms_norm_eps=1e-5, eos_token_id=[1020, 1023],
          rope_parameters=dict(rope_type="llama3", rope_theta=500000.0, **LLAMA3_ROPE), **LLAMA3),
     dtype=torch.float16, shards=2)
make("mistral-hf", 4, sentencepiece,                 # a window far shorter than the long prompt; heads wider than width / heads
     dict(model_type="mistral", hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
          max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=12, **SPM), dtype=torch.bfloat16)
make("smollm-hf", 5, smollm,                         # tied, an odd number of heads that share keys and values
     dict(model_type="llama", hidden_size=48, intermediate_size=128, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1,
          max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2),
     dtype=torch.bfloat16)
make("tinyllama-hf", 6, sentencepiece,               # eight query heads to a key/value head, f32
     dict(model_type="llama", hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1,
          max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=None, tie_word_embeddings=False, **SPM),
     dtype=torch.float32)
make("biases-hf", 7, smollm,                         # every bias there is, frequencies scaled evenly
     dict(model_type="llama", hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, attention_bias=True, mlp_bias=True,
          max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, rope_scaling=dict(type="linear", factor=4.0), tie_word_embeddings=True, bos_token_id=1, eos_token_id=2),
     dtype=torch.float16)
