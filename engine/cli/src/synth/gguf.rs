//! The layout of `gemma-4-E2B_q4_0-it.gguf`: linears in Q4_0, both tables in Q6_K, the text decoder alone.
//!
//! Names and types follow the published file as far as it is known; its length is not predicted to the byte, since the order of its
//! metadata and the exact text of its template are not known.

use std::io::{self, Write};

use super::mobile::scale_for;
use super::sizes::{Sizes, is_control};
use super::tensor::{Dtype, Fill, Random, hash, write as write_fill};
use super::texts::TEMPLATE;
use super::tokenizer::Lists;

const ALIGNMENT: u64 = 32;
/// Divisors of the frequencies of full attention: a quarter of the pairs turn, the others hardly.
static DIVISORS: [f32; 256] = {
    let mut divisors = [1e30; 256];
    let mut at = 0;
    while at < 64 {
        divisors[at] = 1.0;
        at += 1;
    }
    divisors
};

/// A GGUF tensor type, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Kind {
    F32 = 0,
    Q4 = 2,
    Q6 = 14,
    Bf16 = 30,
}

struct Entry {
    name: String,
    kind: Kind,
    /// The fastest-changing dimension first.
    shape: Vec<u64>,
    fill: Fill,
}

impl Entry {
    fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().product();
        match self.kind {
            Kind::F32 => elements * 4,
            Kind::Bf16 => elements * 2,
            Kind::Q4 => elements / 32 * 18,
            Kind::Q6 => elements / 256 * 210,
        }
    }
}

/// The tensors, in the order of the file.
fn entries(s: &Sizes) -> Vec<Entry> {
    let mut list = Vec::new();
    let mut add =
        |name: String, kind, shape: &[u64], fill| list.push(Entry { name, kind, shape: shape.to_vec(), fill });
    let norm = |middle: f32| Fill::Numbers { middle, spread: 0.1 * middle };
    let linear = |inputs| Fill::Q4Blocks { scale: scale_for(4, inputs) };
    // Codes of 6 bits have a standard deviation of 18.5, their groups' scales are about 63.5.
    let table = |width: u64, row: u64, quiet| Fill::Q6Blocks {
        scale: 1.0 / (18.5 * 63.5 * (width as f32).sqrt()),
        row: row / 256,
        quiet,
    };
    let width = s.per_layer * s.layers;
    add("rope_freqs.weight".into(), Kind::F32, &[s.global_head_dim / 2], Fill::Given(&DIVISORS));
    add("token_embd.weight".into(), Kind::Q6, &[s.hidden, s.vocab], table(s.hidden, s.hidden, is_control));
    add("per_layer_token_embd.weight".into(), Kind::Q6, &[width, s.vocab], table(s.per_layer, width, |_| false));
    let projection = Fill::Numbers { middle: 0.0, spread: 1.7 };
    add("per_layer_model_proj.weight".into(), Kind::Bf16, &[s.hidden, width], projection);
    add("per_layer_proj_norm.weight".into(), Kind::F32, &[s.per_layer], norm(1.0));
    add("output_norm.weight".into(), Kind::F32, &[s.hidden], norm(2.0));
    for layer in 0..s.layers {
        let at = |name: &str| format!("blk.{layer}.{name}.weight");
        let (d, mlp) = (s.head_dim(layer), s.mlp(layer));
        add(at("attn_norm"), Kind::F32, &[s.hidden], norm(1.0));
        add(at("attn_q"), Kind::Q4, &[s.hidden, s.heads * d], linear(s.hidden));
        add(at("attn_q_norm"), Kind::F32, &[d], norm(1.0));
        if !s.is_shared(layer) {
            add(at("attn_k"), Kind::Q4, &[s.hidden, s.kv_heads * d], linear(s.hidden));
            add(at("attn_k_norm"), Kind::F32, &[d], norm(0.125));
            add(at("attn_v"), Kind::Q4, &[s.hidden, s.kv_heads * d], linear(s.hidden));
        }
        add(at("attn_output"), Kind::Q4, &[s.heads * d, s.hidden], linear(s.heads * d));
        add(at("post_attention_norm"), Kind::F32, &[s.hidden], norm(0.5));
        add(at("ffn_norm"), Kind::F32, &[s.hidden], norm(1.0));
        add(at("ffn_gate"), Kind::Q4, &[s.hidden, mlp], linear(s.hidden));
        add(at("ffn_up"), Kind::Q4, &[s.hidden, mlp], linear(s.hidden));
        add(at("ffn_down"), Kind::Q4, &[mlp, s.hidden], linear(mlp));
        add(at("post_ffw_norm"), Kind::F32, &[s.hidden], norm(0.5));
        add(at("inp_gate"), Kind::Q4, &[s.hidden, s.per_layer], linear(s.hidden));
        add(at("proj"), Kind::Q4, &[s.per_layer, s.hidden], linear(s.per_layer));
        add(at("post_norm"), Kind::F32, &[s.hidden], norm(0.5));
        add(at("layer_output_scale"), Kind::F32, &[1], Fill::Numbers { middle: s.fade(), spread: 0.05 });
    }
    list
}

/// A metadata value.
enum Value<'a> {
    U32(u64),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    U32s(Vec<u64>),
    Bools(Vec<bool>),
    I32s(&'a [i32]),
    Scores(usize),
    Texts(&'a [String]),
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Value<'_> {
    /// The number of its type in GGUF.
    fn kind(&self) -> u32 {
        match self {
            Self::U32(_) => 4,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            _ => 9,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, kind: u32, len: usize| {
            out.extend(kind.to_le_bytes());
            out.extend((len as u64).to_le_bytes());
        };
        match self {
            Self::U32(n) => out.extend((*n as u32).to_le_bytes()),
            Self::F32(x) => out.extend(x.to_le_bytes()),
            Self::Bool(b) => out.push(u8::from(*b)),
            Self::Text(text) => put_text(out, text),
            Self::U32s(all) => {
                list(out, 4, all.len());
                all.iter().for_each(|n| out.extend((*n as u32).to_le_bytes()));
            }
            Self::Bools(all) => {
                list(out, 7, all.len());
                out.extend(all.iter().map(|b| u8::from(*b)));
            }
            Self::I32s(all) => {
                list(out, 5, all.len());
                all.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Scores(len) => {
                list(out, 6, *len);
                (0..*len).for_each(|id| out.extend((-(id as f32)).to_le_bytes()));
            }
            Self::Texts(all) => {
                list(out, 8, all.len());
                all.iter().for_each(|text| put_text(out, text));
            }
        }
    }
}

fn metadata<'a>(s: &Sizes, lists: &'a Lists) -> Vec<(&'a str, Value<'a>)> {
    let layers = || 0..s.layers;
    vec![
        ("general.architecture", Value::Text("gemma4")),
        ("general.name", Value::Text("Synthetic Gemma 4")),
        ("general.file_type", Value::U32(2)),
        ("general.quantization_version", Value::U32(2)),
        ("gemma4.block_count", Value::U32(s.layers)),
        ("gemma4.context_length", Value::U32(s.positions)),
        ("gemma4.embedding_length", Value::U32(s.hidden)),
        ("gemma4.embedding_length_per_layer_input", Value::U32(s.per_layer)),
        ("gemma4.feed_forward_length", Value::U32s(layers().map(|l| s.mlp(l)).collect())),
        ("gemma4.attention.head_count", Value::U32(s.heads)),
        ("gemma4.attention.head_count_kv", Value::U32(s.kv_heads)),
        ("gemma4.attention.key_length", Value::U32(s.global_head_dim)),
        ("gemma4.attention.value_length", Value::U32(s.global_head_dim)),
        ("gemma4.attention.key_length_swa", Value::U32(s.head_dim)),
        ("gemma4.attention.value_length_swa", Value::U32(s.head_dim)),
        ("gemma4.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("gemma4.attention.sliding_window", Value::U32(s.window)),
        ("gemma4.attention.sliding_window_pattern", Value::Bools(layers().map(|l| !s.is_full(l)).collect())),
        ("gemma4.attention.shared_kv_layers", Value::U32(s.shared)),
        ("gemma4.rope.freq_base", Value::F32(1e6)),
        ("gemma4.rope.freq_base_swa", Value::F32(1e4)),
        ("gemma4.rope.dimension_count", Value::U32(s.global_head_dim)),
        ("gemma4.rope.dimension_count_swa", Value::U32(s.head_dim)),
        ("gemma4.final_logit_softcapping", Value::F32(30.0)),
        ("tokenizer.ggml.model", Value::Text("gemma4")),
        ("tokenizer.ggml.tokens", Value::Texts(&lists.tokens)),
        ("tokenizer.ggml.scores", Value::Scores(lists.tokens.len())),
        ("tokenizer.ggml.token_type", Value::I32s(&lists.kinds)),
        ("tokenizer.ggml.merges", Value::Texts(&lists.merges)),
        ("tokenizer.ggml.bos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eos_token_id", Value::U32(106)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(3)),
        ("tokenizer.ggml.padding_token_id", Value::U32(0)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
        ("tokenizer.chat_template", Value::Text(TEMPLATE)),
    ]
}

/// Everything before the tensors' data.
fn head(s: &Sizes, lists: &Lists, entries: &[Entry]) -> Vec<u8> {
    let metadata = metadata(s, lists);
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        put_text(&mut out, key);
        out.extend(value.kind().to_le_bytes());
        value.put(&mut out);
    }
    let mut offset = 0u64;
    for entry in entries {
        put_text(&mut out, &entry.name);
        out.extend((entry.shape.len() as u32).to_le_bytes());
        entry.shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend((entry.kind as u32).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + entry.bytes()).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

/// Writes the file.
pub(crate) fn write(s: &Sizes, lists: &Lists, seed: u64, out: &mut impl Write) -> io::Result<()> {
    let entries = entries(s);
    out.write_all(&head(s, lists, &entries))?;
    for entry in &entries {
        let dtype = if entry.kind == Kind::Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        write_fill(entry.fill, dtype, entry.bytes(), &mut Random(hash(&entry.name) ^ seed), out)?;
        let padding = entry.bytes().next_multiple_of(ALIGNMENT) - entry.bytes();
        out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_and_linears_have_the_published_sizes() {
        let entries = entries(&Sizes::E2B);
        let bytes = |name: &str| entries.iter().find(|e| e.name == name).map(Entry::bytes);
        assert_eq!(bytes("token_embd.weight"), Some(330_301_440));
        assert_eq!(bytes("per_layer_token_embd.weight"), Some(1_926_758_400));
        let linears: u64 = entries.iter().filter(|e| e.kind == Kind::Q4).map(Entry::bytes).sum();
        assert_eq!(linears, 1_863_057_408 / 32 * 18);
        // The published file has 3,349,516,256 bytes: what is left must be metadata, nearly all of it the tokenizer.
        let data: u64 = entries.iter().map(|e| e.bytes().next_multiple_of(ALIGNMENT)).sum();
        assert!((15_000_000..16_500_000).contains(&(3_349_516_256 - data)), "{data}");
    }
}
