//! The layout of `google/gemma-4-E{2,4}B-it-qat-mobile-transformers`: linears of 2, 4 and 8 bits with a scale a row, static
//! ranges for what goes in and out of each, towers included.
//!
//! Names, shapes and types predict the published files' headers and lengths to the byte. Ranges and scales are chosen so that
//! each activation has a size of about one and hardly ever leaves its range: norms of one, a residual stream in which every layer's
//! share is half of that and fades.

use super::sizes::{Sizes, Towers, is_control};
use super::tensor::{Dtype, Fill, Tensor};

const LANGUAGE: &str = "model.language_model";

/// How large the activations of a linear are: the steps of their 8-bit ranges.
struct Ranges {
    input: f32,
    output: f32,
}

/// All tensors, in the order of the file: by type, then by name.
pub(crate) fn tensors(sizes: &Sizes) -> Vec<Tensor> {
    let mut list = List(Vec::new());
    list.text(sizes);
    if let Some(towers) = &sizes.towers {
        list.vision(towers);
        list.audio(towers);
        let spread = |width: u64| 1.7 / (width as f32).sqrt();
        for (name, width) in [("vision", towers.vision_hidden), ("audio", towers.audio_output)] {
            let name = format!("model.embed_{name}.embedding_projection.weight");
            list.numbers(name, Dtype::F32, &[sizes.hidden, width], 0.0, spread(width));
        }
    }
    let mut tensors = list.0;
    tensors.sort_by(|a, b| (a.dtype, &a.name).cmp(&(b.dtype, &b.name)));
    tensors
}

/// The standard deviation of random codes.
pub(super) fn deviation(bits: u64) -> f32 {
    match bits {
        2 => 1.0,
        4 => 4.18,
        _ => 73.9,
    }
}

/// What a weight's scale must be for outputs as large as the inputs.
pub(super) fn scale_for(bits: u64, width: u64) -> f32 {
    1.0 / (deviation(bits) * (width as f32).sqrt())
}

struct List(Vec<Tensor>);

impl List {
    fn add(&mut self, name: String, dtype: Dtype, shape: &[u64], fill: Fill) {
        self.0.push(Tensor::new(name, dtype, shape, fill));
    }

    fn numbers(&mut self, name: String, dtype: Dtype, shape: &[u64], middle: f32, spread: f32) {
        self.add(name, dtype, shape, Fill::Numbers { middle, spread });
    }

    fn scalar(&mut self, name: String, value: f32) {
        self.numbers(name, Dtype::F32, &[], value, 0.0);
    }

    /// A norm's weight, about `middle`.
    fn norm(&mut self, name: &str, dtype: Dtype, width: u64, middle: f32) {
        self.numbers(format!("{name}.weight"), dtype, &[width], middle, 0.1 * middle);
    }

    /// A quantized linear: codes, a scale a row, the ranges of its input and output.
    fn linear(&mut self, module: &str, outputs: u64, inputs: u64, bits: u64, ranges: &Ranges) {
        let dtype = if bits == 8 { Dtype::I8 } else { Dtype::U8 };
        self.add(format!("{module}.weight"), dtype, &[outputs, inputs * bits / 8], Fill::Codes { bits });
        let scale = scale_for(bits, inputs);
        self.numbers(format!("{module}.weight_scale"), Dtype::F32, &[outputs, 1], scale, 0.25 * scale);
        self.scalar(format!("{module}.input_activation_scale"), ranges.input);
        self.scalar(format!("{module}.output_activation_scale"), ranges.output);
    }

    fn text(&mut self, s: &Sizes) {
        // Embedding and head are the same bytes under two names.
        let scale = Fill::RowScales { middle: scale_for(2, s.hidden), quiet: is_control };
        let table = format!("{LANGUAGE}.embed_tokens");
        let from = self.0.len();
        self.add(format!("{table}.embedding_quantized"), Dtype::U8, &[s.vocab, s.hidden / 4], Fill::Codes { bits: 2 });
        self.add(format!("{table}.embedding_scale"), Dtype::F32, &[s.vocab, 1], scale);
        let seeds: Vec<u64> = self.0[from..].iter().map(|t| t.seed).collect();
        self.add("lm_head.weight".into(), Dtype::U8, &[s.vocab, s.hidden / 4], Fill::Codes { bits: 2 });
        self.add("lm_head.weight_scale".into(), Dtype::F32, &[s.vocab, 1], scale);
        for (tensor, seed) in self.0[from + 2..].iter_mut().zip(seeds) {
            tensor.seed = seed;
        }
        self.scalar("lm_head.input_activation_scale".into(), 0.0);
        self.scalar("lm_head.output_activation_scale".into(), 0.0);

        let (table, width) = (format!("{LANGUAGE}.embed_tokens_per_layer"), s.per_layer * s.layers);
        let bits = s.per_layer_bits;
        self.add(format!("{table}.embedding_quantized"), Dtype::U8, &[s.vocab, width * bits / 8], Fill::Codes { bits });
        // The model multiplies what it looks up by the root of the width.
        let scale = scale_for(bits, s.per_layer);
        self.numbers(format!("{table}.embedding_scale"), Dtype::F32, &[s.vocab, s.layers], scale, 0.25 * scale);
        let projection = format!("{LANGUAGE}.per_layer_model_projection.weight");
        self.numbers(projection, Dtype::Bf16, &[width, s.hidden], 0.0, 1.7);
        self.norm(&format!("{LANGUAGE}.per_layer_projection_norm"), Dtype::Bf16, s.per_layer, 1.0);
        self.norm(&format!("{LANGUAGE}.norm"), Dtype::Bf16, s.hidden, 2.0);
        (0..s.layers).for_each(|layer| self.layer(s, layer));
    }

    fn layer(&mut self, s: &Sizes, layer: u64) {
        let at = format!("{LANGUAGE}.layers.{layer}");
        for (norm, middle) in [
            ("input_layernorm", 1.0),
            ("post_attention_layernorm", 0.5),
            ("pre_feedforward_layernorm", 1.0),
            ("post_feedforward_layernorm", 0.5),
            ("post_per_layer_input_norm", 0.5),
        ] {
            self.norm(&format!("{at}.{norm}"), Dtype::Bf16, s.hidden, middle);
        }
        self.numbers(format!("{at}.layer_scalar"), Dtype::Bf16, &[1], s.fade(), 0.05);

        let (d, attention) = (s.head_dim(layer), format!("{at}.self_attn"));
        // There is no other scale in attention: queries and keys are so long that a score is about two.
        self.norm(&format!("{attention}.q_norm"), Dtype::Bf16, d, 1.0);
        if !s.is_shared(layer) {
            self.norm(&format!("{attention}.k_norm"), Dtype::Bf16, d, 0.125);
        }
        self.scalar(format!("{attention}.k_cache_scale"), 0.005);
        self.scalar(format!("{attention}.v_cache_scale"), 0.04);
        let normed = Ranges { input: 0.04, output: 0.04 };
        self.linear(&format!("{attention}.q_proj"), s.heads * d, s.hidden, 4, &normed);
        // Layers that share have these as well, unread.
        self.linear(&format!("{attention}.k_proj"), s.kv_heads * d, s.hidden, 4, &normed);
        self.linear(&format!("{attention}.v_proj"), s.kv_heads * d, s.hidden, 4, &normed);
        let mixed = Ranges { input: 0.03, output: 0.03 };
        self.linear(&format!("{attention}.o_proj"), s.hidden, s.heads * d, 4, &mixed);

        let (width, bits) = (s.mlp(layer), if layer < s.wide_mlp_layers { 4 } else { 2 });
        self.linear(&format!("{at}.mlp.gate_proj"), width, s.hidden, bits, &normed);
        self.linear(&format!("{at}.mlp.up_proj"), width, s.hidden, bits, &normed);
        let gated = Ranges { input: 0.06, output: 0.04 };
        self.linear(&format!("{at}.mlp.down_proj"), s.hidden, width, bits, &gated);
        let raw = Ranges { input: 0.06, output: 0.06 };
        self.linear(&format!("{at}.per_layer_input_gate"), s.per_layer, s.hidden, 8, &raw);
        self.linear(&format!("{at}.per_layer_projection"), s.hidden, s.per_layer, 8, &gated);
    }

    fn vision(&mut self, t: &Towers) {
        let (h, ranges) = (t.vision_hidden, Ranges { input: 0.04, output: 0.04 });
        for layer in 0..t.vision_layers {
            let at = format!("model.vision_tower.encoder.layers.{layer}");
            for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                self.linear(&format!("{at}.self_attn.{name}.linear"), h, h, 8, &ranges);
            }
            for name in ["q_norm", "k_norm"] {
                self.norm(&format!("{at}.self_attn.{name}"), Dtype::Bf16, h / t.vision_heads, 1.0);
            }
            for name in ["gate_proj", "up_proj"] {
                self.linear(&format!("{at}.mlp.{name}.linear"), t.vision_intermediate, h, 8, &ranges);
            }
            self.linear(&format!("{at}.mlp.down_proj.linear"), h, t.vision_intermediate, 8, &ranges);
            for norm in [
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ] {
                self.norm(&format!("{at}.{norm}"), Dtype::Bf16, h, 1.0);
            }
        }
        let (at, pixels) = ("model.vision_tower.patch_embedder", 3 * t.patch * t.patch);
        self.numbers(format!("{at}.input_proj.weight"), Dtype::Bf16, &[h, pixels], 0.0, 0.06);
        self.numbers(format!("{at}.position_embedding_table"), Dtype::Bf16, &[2, t.vision_positions, h], 0.0, 0.03);
    }

    fn audio(&mut self, t: &Towers) {
        let (h, ranges) = (t.audio_hidden, Ranges { input: 0.04, output: 0.04 });
        for layer in 0..t.audio_layers {
            let at = format!("model.audio_tower.layers.{layer}");
            for part in ["feed_forward1", "feed_forward2"] {
                self.linear(&format!("{at}.{part}.ffw_layer_1.linear"), 4 * h, h, 2, &ranges);
                self.linear(&format!("{at}.{part}.ffw_layer_2.linear"), h, 4 * h, 2, &ranges);
                self.norm(&format!("{at}.{part}.pre_layer_norm"), Dtype::F32, h, 1.0);
                self.norm(&format!("{at}.{part}.post_layer_norm"), Dtype::F32, h, 1.0);
            }
            for name in ["q_proj", "k_proj", "v_proj", "post"] {
                self.linear(&format!("{at}.self_attn.{name}.linear"), h, h, 2, &ranges);
            }
            self.numbers(format!("{at}.self_attn.relative_k_proj.weight"), Dtype::F32, &[h, h], 0.0, 0.05);
            self.numbers(format!("{at}.self_attn.per_dim_scale"), Dtype::F32, &[h / t.audio_heads], 0.0, 0.1);
            self.linear(&format!("{at}.lconv1d.linear_start.linear"), 2 * h, h, 4, &ranges);
            self.linear(&format!("{at}.lconv1d.linear_end.linear"), h, h, 2, &ranges);
            let kernel = [h, 1, t.audio_kernel];
            self.numbers(format!("{at}.lconv1d.depthwise_conv1d.weight"), Dtype::F32, &kernel, 0.0, 0.7);
            for norm in ["lconv1d.pre_layer_norm", "lconv1d.conv_norm", "norm_pre_attn", "norm_post_attn", "norm_out"] {
                self.norm(&format!("{at}.{norm}"), Dtype::F32, h, 1.0);
            }
        }
        let (at, [first, second]) = ("model.audio_tower.subsample_conv_projection", t.audio_channels);
        for (layer, outputs, inputs) in [("layer0", first, 1), ("layer1", second, first)] {
            let conv = format!("{at}.{layer}.conv.weight");
            self.numbers(conv, Dtype::F32, &[outputs, inputs, 3, 3], 0.0, 0.05);
            self.norm(&format!("{at}.{layer}.norm"), Dtype::F32, outputs, 1.0);
        }
        // Two strides of two over the mel bands leave a quarter as many as the first layer has channels.
        let inputs = first / 4 * second;
        self.numbers(format!("{at}.input_proj_linear.weight"), Dtype::F32, &[h, inputs], 0.0, 0.05);
        let output = "model.audio_tower.output_proj";
        self.numbers(format!("{output}.weight"), Dtype::F32, &[t.audio_output, h], 0.0, 0.05);
        self.numbers(format!("{output}.bias"), Dtype::F32, &[t.audio_output], 0.0, 0.05);
    }
}

#[cfg(test)]
mod tests {
    use super::super::safetensors::header;
    use super::*;

    fn laid_out(sizes: &Sizes) -> (usize, usize, u64) {
        let tensors = tensors(sizes);
        let data: u64 = tensors.iter().map(Tensor::bytes).sum();
        (tensors.len(), header(&tensors).len(), data)
    }

    /// The lengths of the published files, and where in them some tensors begin.
    #[test]
    fn the_published_files_are_predicted_to_the_byte() {
        let (count, header, data) = laid_out(&Sizes::E2B);
        assert_eq!((count, header, data), (2780, 8 + 375_392, 2_457_736_446));
        assert_eq!(header as u64 + data, 2_458_111_846);
        let (_, header, data) = laid_out(&Sizes::E4B);
        assert_eq!((header, data), (8 + 418_608, 3_524_675_900));
        assert_eq!(header as u64 + data, 3_525_094_516);

        let tensors = tensors(&Sizes::E2B);
        let begins = |name: &str| {
            let at = tensors.iter().position(|t| t.name == name).expect("it is there");
            tensors[..at].iter().map(Tensor::bytes).sum::<u64>()
        };
        assert_eq!(begins("lm_head.weight_scale"), 8);
        assert_eq!(begins("model.language_model.embed_tokens.embedding_scale"), 77_711_432);
        assert_eq!(begins("lm_head.weight"), 359_273_726);
        assert_eq!(begins("model.language_model.embed_tokens.embedding_quantized"), 538_580_222);
    }

    #[test]
    fn the_head_is_a_copy_of_the_embedding() {
        let tensors = tensors(&Sizes { vocab: 300, ..Sizes::TINY });
        let bytes = |name: &str| {
            let mut bytes = Vec::new();
            let tensor = tensors.iter().find(|t| t.name == name).expect("it is there");
            tensor.write(5, &mut bytes).expect("memory takes everything");
            bytes
        };
        let table = "model.language_model.embed_tokens";
        assert_eq!(bytes("lm_head.weight"), bytes(&format!("{table}.embedding_quantized")));
        assert_eq!(bytes("lm_head.weight_scale"), bytes(&format!("{table}.embedding_scale")));
        assert_ne!(
            bytes("model.language_model.layers.0.mlp.gate_proj.weight"),
            bytes("model.language_model.layers.0.mlp.up_proj.weight")
        );
    }
}
