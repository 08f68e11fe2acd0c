//! What makes one Gemma 4 text decoder differ from another, layer by layer, and its weights by role.
//!
//! Shapes: `D` model width, `H`/`K` query and key/value heads, `d` head width of the layer, `F` its feed-forward width, `P`
//! width of a layer's own input, `V` vocabulary.

use super::llama_config::MAX_HEAD_DIM;
use super::mapper::{Linear, Mapper};
use crate::error::{Error, Result};
use crate::formats::{TensorList, shown};
use crate::weights::{WeightId, WeightRole, WeightTable};

/// Sizes and constants of a Gemma 4 text decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Gemma4Config {
    /// One for each decoder layer; those that own keys and values come first.
    pub layers: Vec<Gemma4Layer>,
    /// Model width D.
    pub hidden: usize,
    /// Query heads H, the same in every layer.
    pub heads: usize,
    /// Width P of the input that each layer gets of its own.
    pub ple: usize,
    /// Vocabulary V.
    pub vocab: usize,
    /// Tokens the model was made to read at most.
    pub context: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Soft bound of the logits.
    pub soft_cap: Option<f32>,
    /// Rotary frequencies in radians per position, `[d/2]` each; layers name one.
    pub rope: Vec<Vec<f64>>,
    /// True when the head is the embedding.
    pub tied: bool,
}

/// What a layer does differently from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemma4Layer {
    /// Head width d.
    pub head_dim: usize,
    /// Key/value heads K; divides H.
    pub kv_heads: usize,
    /// Positions a token sees, its own included; none means all before it.
    pub window: Option<usize>,
    /// Its table in [`Gemma4Config::rope`].
    pub rope: usize,
    /// Feed-forward width F.
    pub ffn: usize,
    /// The layer whose keys and values it reads: itself, or an earlier one of its kind.
    pub kv_source: usize,
}

impl Gemma4Config {
    /// Layers that own keys and values.
    pub fn owners(&self) -> usize {
        self.layers.iter().enumerate().take_while(|(i, layer)| layer.kv_source == *i).count()
    }

    /// Fails on sizes that no model has, before anything is computed from them.
    pub(crate) fn check(&self) -> Result<()> {
        let absurd = |what: &str, got: usize, most: usize| match got {
            0 => Err(Error::format(what, "it is 0")),
            n if n > most => Err(Error::format(what, format!("{n} is absurd, expected at most {most}"))),
            _ => Ok(()),
        };
        absurd("the number of layers", self.layers.len(), 1 << 12)?;
        absurd("the model's width", self.hidden, 1 << 20)?;
        absurd("the number of query heads", self.heads, 1 << 12)?;
        absurd("the width of per-layer inputs", self.ple, 1 << 16)?;
        absurd("the vocabulary", self.vocab, 1 << 24)?;
        absurd("the context", self.context, 1 << 28)?;
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            return Err(Error::format("rms_norm_eps", format!("{} is not a small number", self.norm_eps)));
        }
        if let Some(cap) = self.soft_cap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return Err(Error::format("final_logit_softcapping", format!("{cap} is not above 0")));
        }
        if self.rope.iter().flatten().any(|f| !f.is_finite() || f.abs() > 1e6) {
            return Err(Error::format("the rotary frequencies", "one of them is not a usable number"));
        }
        let owners = self.owners();
        for (i, layer) in self.layers.iter().enumerate() {
            absurd("the width of a head", layer.head_dim, MAX_HEAD_DIM)?;
            absurd("the number of key/value heads", layer.kv_heads, 1 << 12)?;
            absurd("the feed-forward width", layer.ffn, 1 << 22)?;
            let source = self.layers.get(layer.kv_source);
            let fits = source.is_some_and(|s| (s.head_dim, s.kv_heads) == (layer.head_dim, layer.kv_heads));
            if (layer.kv_source >= owners && layer.kv_source != i) || (i >= owners && layer.kv_source == i) || !fits {
                return Err(Error::format(
                    "num_kv_shared_layers",
                    format!("layer {i} has no earlier layer of its kind whose keys and values it could read"),
                ));
            }
            if !self.heads.is_multiple_of(layer.kv_heads) {
                return Err(Error::format(
                    "num_key_value_heads",
                    format!("{} query heads do not share {} key/value heads evenly", self.heads, layer.kv_heads),
                ));
            }
            let pairs = self.rope.get(layer.rope).map_or(0, Vec::len);
            if !layer.head_dim.is_multiple_of(2) || pairs != layer.head_dim / 2 {
                return Err(Error::format("head_dim", format!("heads of width {} do not pair up", layer.head_dim)));
            }
            if layer.window == Some(0) {
                return Err(Error::format("sliding_window", "a window of 0 positions sees nothing"));
            }
        }
        if owners == 0 {
            return Err(Error::format("num_kv_shared_layers", "no layer would own keys and values"));
        }
        Ok(())
    }
}

/// Which layer's keys and values each layer reads: its own, or, in the last `shared` layers, those of the last layer before
/// them that is of its kind. `full` says of each layer whether it sees all positions.
pub(crate) fn kv_sources(full: &[bool], shared: usize) -> Result<Vec<usize>> {
    let Some(owners) = full.len().checked_sub(shared) else {
        let reason = format!("{shared} of {} layers cannot share", full.len());
        return Err(Error::format("num_kv_shared_layers", reason));
    };
    let source = |i: usize| match i < owners {
        true => Ok(i),
        false => full[..owners].iter().rposition(|kind| *kind == full[i]).ok_or_else(|| {
            let reason = format!("layer {i} has no earlier layer of its kind whose keys and values it could read");
            Error::format("num_kv_shared_layers", reason)
        }),
    };
    (0..full.len()).map(source).collect()
}

/// Keys and values of a layer that owns them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnKv {
    /// `[K·d, D]`.
    pub k: Linear,
    /// `[K·d, D]`.
    pub v: Linear,
    /// `[1, d]`, of each key head.
    pub k_norm: WeightId,
}

/// Weights of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gemma4LayerTensors {
    /// `[1, D]`, before attention.
    pub input_norm: WeightId,
    /// `[H·d, D]`.
    pub q: Linear,
    /// `[1, d]`, of each query head.
    pub q_norm: WeightId,
    /// Absent in a layer that reads another's.
    pub kv: Option<OwnKv>,
    /// `[D, H·d]`.
    pub o: Linear,
    /// `[1, D]`, after attention.
    pub post_attention_norm: WeightId,
    /// `[1, D]`, before the feed-forward block.
    pub pre_feed_forward_norm: WeightId,
    /// `[F, D]`.
    pub gate: Linear,
    /// `[F, D]`.
    pub up: Linear,
    /// `[D, F]`.
    pub down: Linear,
    /// `[1, D]`, after the feed-forward block.
    pub post_feed_forward_norm: WeightId,
    /// `[P, D]`.
    pub ple_gate: Linear,
    /// `[D, P]`.
    pub ple_projection: Linear,
    /// `[1, D]`, after the branch of per-layer inputs.
    pub post_ple_norm: WeightId,
    /// `[1]`, multiplies the residual stream at the layer's end.
    pub scalar: WeightId,
}

/// Weights of a Gemma 4 text decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gemma4Tensors {
    /// `[V, D]`.
    pub embedding: WeightId,
    /// `[V, layers·P]`, only ever gathered by row.
    pub ple_table: WeightId,
    /// `[n·P, D]` of the n layers that own keys and values.
    pub ple_projection: Linear,
    /// `[m·P, D]` of the others.
    pub ple_projection_shared: Option<Linear>,
    /// `[1, P]`.
    pub ple_norm: WeightId,
    /// One for each layer, in order.
    pub layers: Vec<Gemma4LayerTensors>,
    /// `[1, D]`, before the head.
    pub output_norm: WeightId,
    /// `[V, D]`; the embedding when tied.
    pub head: Linear,
}

/// What a checkpoint calls its modules.
pub(crate) struct ModuleNames {
    /// The vocabulary's table, and its codes' and scales' names if packed.
    pub(crate) embedding: String,
    /// The per-layer inputs' table.
    pub(crate) ple_table: String,
    /// The per-layer inputs' projection, with its ending.
    pub(crate) ple_projection: String,
    pub(crate) ple_norm: String,
    pub(crate) output_norm: String,
    /// The head, when it is not the embedding.
    pub(crate) head: String,
    /// What stands before every layer's modules, given its number.
    pub(crate) layer: fn(&str, usize) -> String,
    /// The prefix that `layer` is given.
    pub(crate) prefix: String,
    pub(crate) modules: LayerModules,
}

/// A layer's modules, without prefix and without `.weight`.
pub(crate) struct LayerModules {
    pub(crate) input_norm: &'static str,
    pub(crate) q: &'static str,
    pub(crate) q_norm: &'static str,
    pub(crate) k: &'static str,
    pub(crate) v: &'static str,
    pub(crate) k_norm: &'static str,
    pub(crate) o: &'static str,
    pub(crate) post_attention_norm: &'static str,
    pub(crate) pre_feed_forward_norm: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) post_feed_forward_norm: &'static str,
    pub(crate) ple_gate: &'static str,
    pub(crate) ple_projection: &'static str,
    pub(crate) post_ple_norm: &'static str,
    /// With its ending: Hugging Face's has none.
    pub(crate) scalar: &'static str,
}

const HUGGING_FACE: LayerModules = LayerModules {
    input_norm: "input_layernorm",
    q: "self_attn.q_proj",
    q_norm: "self_attn.q_norm",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    k_norm: "self_attn.k_norm",
    o: "self_attn.o_proj",
    post_attention_norm: "post_attention_layernorm",
    pre_feed_forward_norm: "pre_feedforward_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    post_feed_forward_norm: "post_feedforward_layernorm",
    ple_gate: "per_layer_input_gate",
    ple_projection: "per_layer_projection",
    post_ple_norm: "post_per_layer_input_norm",
    scalar: "layer_scalar",
};

const GGUF: LayerModules = LayerModules {
    input_norm: "attn_norm",
    q: "attn_q",
    q_norm: "attn_q_norm",
    k: "attn_k",
    v: "attn_v",
    k_norm: "attn_k_norm",
    o: "attn_output",
    post_attention_norm: "post_attention_norm",
    pre_feed_forward_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    post_feed_forward_norm: "post_ffw_norm",
    ple_gate: "inp_gate",
    ple_projection: "proj",
    post_ple_norm: "post_norm",
    scalar: "layer_output_scale.weight",
};

impl ModuleNames {
    /// Those of a Hugging Face folder: the text model stands alone, inside the multimodal one, or as MLX re-saves it.
    pub(crate) fn hugging_face(tensors: &TensorList) -> Self {
        let prefixes = ["model.language_model.", "language_model.model.", "model."];
        let has = |prefix: &&str| tensors.get(&format!("{prefix}norm.weight")).is_some();
        let prefix = prefixes.into_iter().find(has).unwrap_or("model.");
        Self {
            embedding: format!("{prefix}embed_tokens"),
            ple_table: format!("{prefix}embed_tokens_per_layer"),
            ple_projection: format!("{prefix}per_layer_model_projection.weight"),
            ple_norm: format!("{prefix}per_layer_projection_norm.weight"),
            output_norm: format!("{prefix}norm.weight"),
            head: "lm_head".to_owned(),
            layer: |prefix, i| format!("{prefix}layers.{i}."),
            prefix: prefix.to_owned(),
            modules: HUGGING_FACE,
        }
    }

    /// Those of a GGUF file.
    pub(crate) fn gguf() -> Self {
        Self {
            embedding: "token_embd".to_owned(),
            ple_table: "per_layer_token_embd".to_owned(),
            ple_projection: "per_layer_model_proj.weight".to_owned(),
            ple_norm: "per_layer_proj_norm.weight".to_owned(),
            output_norm: "output_norm.weight".to_owned(),
            head: "output".to_owned(),
            layer: |_, i| format!("blk.{i}."),
            prefix: String::new(),
            modules: GGUF,
        }
    }

    /// Tensors that published files carry and the text decoder does not read.
    fn is_known_extra(&self, name: &str, config: &Gemma4Config) -> bool {
        // Scales of the published cache quantization, which the reference ignores, and tables that the config determines.
        if name.ends_with("_cache_scale") || name == "rope_freqs.weight" || name.ends_with(".rotary_emb.inv_freq") {
            return true;
        }
        // The other senses of a multimodal checkpoint.
        if ["vision_tower.", "audio_tower.", "embed_vision.", "embed_audio.", "multi_modal_projector."]
            .iter()
            .any(|part| name.starts_with(part) || name.contains(&format!(".{part}")))
        {
            return true;
        }
        // A copy of the embedding.
        if config.tied && name.strip_prefix(self.head.as_str()).is_some_and(|rest| rest.starts_with('.')) {
            return true;
        }
        // Keys and values that layers which read another's were trained with and never use.
        (config.owners()..config.layers.len()).any(|i| {
            let rest = name.strip_prefix(&(self.layer)(&self.prefix, i));
            let dead = [self.modules.k, self.modules.v, self.modules.k_norm];
            rest.is_some_and(|rest| {
                dead.iter().any(|module| rest.strip_prefix(module).is_some_and(|r| r.starts_with('.')))
            })
        })
    }
}

impl Gemma4Tensors {
    /// Finds every weight of the model in `tensors`, checks its shape against `config`, and adds it to `table`. A tensor
    /// that is missing, or one that this decoder does not have, is an error that names it.
    pub(crate) fn map(
        config: &Gemma4Config,
        names: &ModuleNames,
        tensors: &TensorList,
        table: &mut WeightTable,
    ) -> Result<Self> {
        config.check()?;
        let (d, p) = (config.hidden, config.ple);
        let mut m = Mapper::new(tensors, table);
        let role = if config.tied { WeightRole::Matrix } else { WeightRole::Gathered };
        let embedding = embedding(&mut m, &names.embedding, config.vocab, d, role)?;
        let columns = config.layers.len() * p;
        let ple_table = self::embedding(&mut m, &names.ple_table, config.vocab, columns, WeightRole::Gathered)?;
        let (ple_projection, rest) = m.split(&names.ple_projection, config.owners() * p, columns, d)?;
        let ple_norm = m.vector(&names.ple_norm, p)?;

        let mut layers = Vec::new();
        for (i, layer) in config.layers.iter().enumerate() {
            let prefix = (names.layer)(&names.prefix, i);
            let n = &names.modules;
            let module = |module: &str| format!("{prefix}{module}");
            let norm = |m: &mut Mapper<'_>, name: &str, width| m.vector(&format!("{prefix}{name}.weight"), width);
            let (q_width, kv_width) = (config.heads * layer.head_dim, layer.kv_heads * layer.head_dim);
            layers.push(Gemma4LayerTensors {
                input_norm: norm(&mut m, n.input_norm, d)?,
                q: m.linear(&module(n.q), q_width, d)?,
                q_norm: norm(&mut m, n.q_norm, layer.head_dim)?,
                kv: match layer.kv_source == i {
                    true => Some(OwnKv {
                        k: m.linear(&module(n.k), kv_width, d)?,
                        v: m.linear(&module(n.v), kv_width, d)?,
                        k_norm: norm(&mut m, n.k_norm, layer.head_dim)?,
                    }),
                    false => None,
                },
                o: m.linear(&module(n.o), d, q_width)?,
                post_attention_norm: norm(&mut m, n.post_attention_norm, d)?,
                pre_feed_forward_norm: norm(&mut m, n.pre_feed_forward_norm, d)?,
                gate: m.linear(&module(n.gate), layer.ffn, d)?,
                up: m.linear(&module(n.up), layer.ffn, d)?,
                down: m.linear(&module(n.down), d, layer.ffn)?,
                post_feed_forward_norm: norm(&mut m, n.post_feed_forward_norm, d)?,
                ple_gate: m.linear(&module(n.ple_gate), p, d)?,
                ple_projection: m.linear(&module(n.ple_projection), d, p)?,
                post_ple_norm: norm(&mut m, n.post_ple_norm, d)?,
                scalar: m.scalar(&module(n.scalar))?,
            });
        }
        let output_norm = m.vector(&names.output_norm, d)?;
        let head = if config.tied { embedding.into() } else { m.linear(&names.head, config.vocab, d)? };
        // A tensor left over means that the model computes something that this forward pass would leave out.
        match m.unused(|name| names.is_known_extra(name, config)) {
            Some(t) => Err(Error::unsupported(
                shown(&t.name),
                format!("a Gemma 4 text decoder of {} layers does not have this tensor", config.layers.len()),
            )),
            None => Ok(Self {
                embedding,
                ple_table,
                ple_projection: ple_projection.into(),
                ple_projection_shared: rest.map(Linear::from),
                ple_norm,
                layers,
                output_norm,
                head,
            }),
        }
    }
}

/// A table of rows: `name.weight`, or codes and scales.
fn embedding(m: &mut Mapper<'_>, name: &str, rows: usize, cols: usize, role: WeightRole) -> Result<WeightId> {
    let codes = format!("{name}.embedding_quantized");
    match m.has(&codes) {
        true => m.packed(&codes, &format!("{name}.embedding_scale"), rows, cols, role),
        false => m.add(&format!("{name}.weight"), rows, cols, role),
    }
}
