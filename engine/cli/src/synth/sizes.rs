//! The sizes of Gemma 4's published models, and of a tiny one with every kind of part.

/// What the tensors' names and shapes follow from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sizes {
    pub(crate) hidden: u64,
    pub(crate) layers: u64,
    /// Every so many layers, the last one attends to everything; the others to a window.
    pub(crate) period: u64,
    pub(crate) window: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) global_head_dim: u64,
    pub(crate) intermediate: u64,
    /// Layers at the end that have no keys and values of their own.
    pub(crate) shared: u64,
    /// Whether those have an MLP of twice the width.
    pub(crate) double_wide: bool,
    /// Width of a per-layer input.
    pub(crate) per_layer: u64,
    pub(crate) per_layer_bits: u64,
    /// Layers at the start whose MLP has 4 bits; the others have 2.
    pub(crate) wide_mlp_layers: u64,
    pub(crate) vocab: u64,
    pub(crate) positions: u64,
    pub(crate) towers: Option<Towers>,
}

/// The vision and audio encoders, which are in the files and not read for text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Towers {
    pub(crate) vision_hidden: u64,
    pub(crate) vision_intermediate: u64,
    pub(crate) vision_layers: u64,
    pub(crate) vision_heads: u64,
    pub(crate) patch: u64,
    pub(crate) vision_positions: u64,
    pub(crate) audio_hidden: u64,
    pub(crate) audio_layers: u64,
    pub(crate) audio_heads: u64,
    pub(crate) audio_kernel: u64,
    pub(crate) audio_channels: [u64; 2],
    pub(crate) audio_output: u64,
}

const TOWERS: Towers = Towers {
    vision_hidden: 768,
    vision_intermediate: 3072,
    vision_layers: 16,
    vision_heads: 12,
    patch: 16,
    vision_positions: 10_240,
    audio_hidden: 1024,
    audio_layers: 12,
    audio_heads: 8,
    audio_kernel: 5,
    audio_channels: [128, 32],
    audio_output: 1536,
};

impl Sizes {
    pub(crate) const E2B: Self = Self {
        hidden: 1536,
        layers: 35,
        period: 5,
        window: 512,
        heads: 8,
        kv_heads: 1,
        head_dim: 256,
        global_head_dim: 512,
        intermediate: 6144,
        shared: 20,
        double_wide: true,
        per_layer: 256,
        per_layer_bits: 4,
        wide_mlp_layers: 15,
        vocab: 262_144,
        positions: 131_072,
        towers: Some(TOWERS),
    };

    pub(crate) const E4B: Self = Self {
        hidden: 2560,
        layers: 42,
        period: 6,
        kv_heads: 2,
        intermediate: 10_240,
        shared: 18,
        double_wide: false,
        per_layer_bits: 2,
        wide_mlp_layers: 42,
        ..Self::E2B
    };

    /// A model of a few megabytes for tests of the way from a server to an answer.
    pub(crate) const TINY: Self = Self {
        hidden: 256,
        layers: 6,
        period: 3,
        window: 32,
        heads: 4,
        kv_heads: 1,
        head_dim: 64,
        global_head_dim: 128,
        intermediate: 512,
        shared: 2,
        double_wide: true,
        per_layer: 128,
        per_layer_bits: 4,
        wide_mlp_layers: 4,
        vocab: 0,
        positions: 4096,
        towers: Some(Towers {
            vision_hidden: 32,
            vision_intermediate: 64,
            vision_layers: 1,
            vision_heads: 2,
            patch: 4,
            vision_positions: 64,
            audio_hidden: 32,
            audio_layers: 1,
            audio_heads: 2,
            audio_kernel: 3,
            audio_channels: [8, 4],
            audio_output: 48,
        }),
    };

    /// Whether the layer attends to everything.
    pub(crate) fn is_full(&self, layer: u64) -> bool {
        (layer + 1).is_multiple_of(self.period)
    }

    /// Width of the layer's heads.
    pub(crate) fn head_dim(&self, layer: u64) -> u64 {
        if self.is_full(layer) { self.global_head_dim } else { self.head_dim }
    }

    /// Whether the layer reads another one's keys and values.
    pub(crate) fn is_shared(&self, layer: u64) -> bool {
        layer >= self.layers - self.shared
    }

    /// What each layer multiplies the residual stream by: at the end, a hundredth of the embedding is left. With more, a random model
    /// would repeat the token that it was given.
    pub(crate) fn fade(&self) -> f32 {
        0.01f32.powf(1.0 / self.layers as f32).min(0.8)
    }

    /// Width of the layer's MLP.
    pub(crate) fn mlp(&self, layer: u64) -> u64 {
        if self.double_wide && self.is_shared(layer) { 2 * self.intermediate } else { self.intermediate }
    }
}

/// Tokens that steer a model: rows that are made quiet, so that a random model does not end its answer at once.
pub(crate) fn is_control(id: u64) -> bool {
    id < 107 || (255_999..=256_000).contains(&id) || id >= 258_880
}
