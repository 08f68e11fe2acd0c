//! The files beside the weights: configs, the tokenizer, a chat template.

use serde_json::{Value, json};

use super::sizes::{Sizes, Towers};

/// Gemma 4's turns, without tools and pictures.
pub(crate) const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ '<|turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' + message['content'] | trim + '<turn|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|turn>model\\n' }}{% endif %}";

/// `config.json`.
pub(crate) fn config(sizes: &Sizes) -> Value {
    let kind = |layer| if sizes.is_full(layer) { "full_attention" } else { "sliding_attention" };
    let layer_types: Vec<&str> = (0..sizes.layers).map(kind).collect();
    let text = json!({
        "model_type": "gemma4_text",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "attention_k_eq_v": false,
        "bos_token_id": 2,
        "dtype": "bfloat16",
        "enable_moe_block": false,
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "global_head_dim": sizes.global_head_dim,
        "head_dim": sizes.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": sizes.hidden,
        "hidden_size_per_layer_input": sizes.per_layer,
        "initializer_range": 0.02,
        "intermediate_size": sizes.intermediate,
        "layer_types": layer_types,
        "max_position_embeddings": sizes.positions,
        "num_attention_heads": sizes.heads,
        "num_global_key_value_heads": null,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "num_kv_shared_layers": sizes.shared,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": { "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0, "rope_type": "proportional" },
            "sliding_attention": { "rope_theta": 10_000.0, "rope_type": "default" },
        },
        "sliding_window": sizes.window,
        "tie_word_embeddings": false,
        "use_bidirectional_attention": null,
        "use_cache": true,
        "use_double_wide_mlp": sizes.double_wide,
        "vocab_size": sizes.vocab,
        "vocab_size_per_layer_input": sizes.vocab,
    });
    json!({
        "architectures": ["Gemma4ForConditionalGeneration"],
        "model_type": "gemma4",
        "dtype": "bfloat16",
        "audio_config": sizes.towers.as_ref().map(audio),
        "vision_config": sizes.towers.as_ref().map(vision),
        "text_config": text,
        "eos_token_id": [1, 106, 50],
        "audio_token_id": 258_881,
        "image_token_id": 258_880,
        "video_token_id": 258_884,
        "quantization_config": quantization(sizes),
        "tie_word_embeddings": false,
    })
}

fn quantization(sizes: &Sizes) -> Value {
    let mut modules = serde_json::Map::new();
    let mut set = |pattern: &str, bits: u64| modules.insert(pattern.to_owned(), json!({ "num_bits": bits }));
    set("^lm_head$", 2);
    set(r"audio_tower(?!.*lconv1d\.linear_start)", 2);
    set(r"audio_tower\.layers\.\d+\.lconv1d\.linear_start\.", 4);
    set(r"language_model\.embed_tokens$", 2);
    set(r"language_model\.embed_tokens_per_layer$", sizes.per_layer_bits);
    // The first pattern that matches counts, so the layers with 4 bits stand before all of them.
    match sizes.wide_mlp_layers {
        all if all >= sizes.layers => _ = set(r"language_model\.layers\.\d+\.mlp\.", 4),
        some => {
            let last = some.saturating_sub(1);
            let numbers = if last < 10 { format!("[0-{last}]") } else { format!(r"(\d|1[0-{}])", last - 10) };
            set(&format!(r"language_model\.layers\.{numbers}\.mlp\."), 4);
            set(r"language_model\.layers\.\d+\.mlp\.", 2);
        }
    }
    set(r"language_model\.layers\.\d+\.per_layer_input_gate$", 8);
    set(r"language_model\.layers\.\d+\.per_layer_projection$", 8);
    set(r"language_model\.layers\.\d+\.self_attn\.", 4);
    set("vision_tower", 8);
    json!({
        "quant_method": "gemma",
        "num_bits": 4,
        "quantize_embeddings": true,
        "module_quant_configs": modules,
        "modules_to_not_convert": [
            "model.vision_tower.patch_embedder",
            "model.audio_tower.subsample_conv_projection",
            "model.audio_tower.output_proj",
            "relative_k_proj",
            "model.embed_audio",
            "model.embed_vision",
            "per_layer_model_projection",
        ],
    })
}

fn vision(t: &Towers) -> Value {
    json!({
        "model_type": "gemma4_vision",
        "hidden_size": t.vision_hidden,
        "intermediate_size": t.vision_intermediate,
        "num_hidden_layers": t.vision_layers,
        "num_attention_heads": t.vision_heads,
        "num_key_value_heads": t.vision_heads,
        "head_dim": t.vision_hidden / t.vision_heads,
        "patch_size": t.patch,
        "pooling_kernel_size": 3,
        "position_embedding_size": t.vision_positions,
        "rms_norm_eps": 1e-6,
        "use_clipped_linears": false,
    })
}

fn audio(t: &Towers) -> Value {
    json!({
        "model_type": "gemma4_audio",
        "hidden_size": t.audio_hidden,
        "num_hidden_layers": t.audio_layers,
        "num_attention_heads": t.audio_heads,
        "conv_kernel_size": t.audio_kernel,
        "subsampling_conv_channels": t.audio_channels,
        "output_proj_dims": t.audio_output,
        "rms_norm_eps": 1e-6,
        "use_clipped_linears": false,
    })
}

/// `generation_config.json`.
pub(crate) fn generation() -> Value {
    json!({
        "bos_token_id": 2,
        "do_sample": true,
        "eos_token_id": [1, 106, 50],
        "pad_token_id": 0,
        "temperature": 1.0,
        "top_k": 64,
        "top_p": 0.95,
    })
}

/// `tokenizer_config.json`.
pub(crate) fn tokenizer_config() -> Value {
    json!({
        "add_bos_token": true,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "tokenizer_class": "GemmaTokenizer",
    })
}
