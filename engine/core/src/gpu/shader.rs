//! What the kernels say about their shaders: files, entry point, bindings, constants, grid. Plain data, no device.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::recording::{BufferId, KvSlot, Recording, RopeTable, Rows, Step};
use crate::weights::{WeightId, WeightTable};

use super::cache::CacheFormat;
use super::layout::Packing;

/// Every shader file, by its path under `shaders/`. A module is whole files, one after the other.
pub const FILES: [(&str, &str); 23] = [
    ("lib/activation.wgsl", include_str!("../../../../shaders/lib/activation.wgsl")),
    ("lib/cache_f16.wgsl", include_str!("../../../../shaders/lib/cache_f16.wgsl")),
    ("lib/cache_f32.wgsl", include_str!("../../../../shaders/lib/cache_f32.wgsl")),
    ("lib/grid.wgsl", include_str!("../../../../shaders/lib/grid.wgsl")),
    ("lib/matrix.wgsl", include_str!("../../../../shaders/lib/matrix.wgsl")),
    ("lib/rank.wgsl", include_str!("../../../../shaders/lib/rank.wgsl")),
    ("lib/step.wgsl", include_str!("../../../../shaders/lib/step.wgsl")),
    ("argmax.wgsl", include_str!("../../../../shaders/argmax.wgsl")),
    ("attention.wgsl", include_str!("../../../../shaders/attention.wgsl")),
    ("embed.wgsl", include_str!("../../../../shaders/embed.wgsl")),
    ("gated_activation.wgsl", include_str!("../../../../shaders/gated_activation.wgsl")),
    ("grouped_attention.wgsl", include_str!("../../../../shaders/grouped_attention.wgsl")),
    ("head_norms.wgsl", include_str!("../../../../shaders/head_norms.wgsl")),
    ("kv_append.wgsl", include_str!("../../../../shaders/kv_append.wgsl")),
    ("last_row.wgsl", include_str!("../../../../shaders/last_row.wgsl")),
    ("matmul.wgsl", include_str!("../../../../shaders/matmul.wgsl")),
    ("norm_chain.wgsl", include_str!("../../../../shaders/norm_chain.wgsl")),
    ("packed_matmul.wgsl", include_str!("../../../../shaders/packed_matmul.wgsl")),
    ("quantize.wgsl", include_str!("../../../../shaders/quantize.wgsl")),
    ("rms_norm.wgsl", include_str!("../../../../shaders/rms_norm.wgsl")),
    ("rope.wgsl", include_str!("../../../../shaders/rope.wgsl")),
    ("sample.wgsl", include_str!("../../../../shaders/sample.wgsl")),
    ("soft_cap.wgsl", include_str!("../../../../shaders/soft_cap.wgsl")),
];

/// Where the fields of uniform parameters lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Bytes of them all.
    pub size: usize,
    /// Name and first byte of each.
    pub fields: &'static [(&'static str, usize)],
}

/// Declares uniform parameters and their [`Layout`], which a test compares with the shader's.
macro_rules! params {
    ($(#[$meta:meta])* pub struct $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        pub struct $name {
            $($field: $type),*
        }

        impl $name {
            /// Where its fields lie.
            pub const LAYOUT: $crate::gpu::shader::Layout = $crate::gpu::shader::Layout {
                size: size_of::<$name>(),
                fields: &[$((stringify!($field), core::mem::offset_of!($name, $field))),*],
            };
        }
    };
}
pub(crate) use params;

/// How an entry point uses a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

/// An entry point. Binding 0 is always its uniform parameters, binding 1 the step.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// The module: whole files of [`FILES`], in order.
    pub files: &'static [&'static str],
    /// The entry point.
    pub entry: &'static str,
    /// Its uniform parameters.
    pub params: Layout,
    /// Storage buffers: binding number and access.
    pub bindings: &'static [(u32, Access)],
}

impl Shader {
    /// The module's text.
    pub fn source(&self) -> String {
        self.files.iter().filter_map(|f| FILES.iter().find(|(name, _)| name == f)).map(|(_, text)| *text).collect()
    }

    /// The kernel's file and the entry point, for messages; and that its caches hold f16.
    pub fn name(&self) -> String {
        let cache = if self.files.contains(&CACHE_F16) { " f16" } else { "" };
        format!("{}:{}{cache}", self.files.last().copied().unwrap_or_default(), self.entry)
    }
}

const CACHE_F16: &str = "lib/cache_f16.wgsl";

/// An entry point that binds caches, for each format that they may have.
pub struct ByCache {
    f32: Shader,
    f16: Shader,
}

impl ByCache {
    /// `files` with `lib/cache_f32.wgsl`, and with `lib/cache_f16.wgsl`.
    pub const fn new(
        files: [&'static [&'static str]; 2],
        entry: &'static str,
        params: Layout,
        bindings: &'static [(u32, Access)],
    ) -> Self {
        let [f32, f16] = files;
        Self {
            f32: Shader { files: f32, entry, params, bindings },
            f16: Shader { files: f16, entry, params, bindings },
        }
    }

    /// The one for caches of a format.
    pub const fn of(&self, cache: CacheFormat) -> &Shader {
        match cache {
            CacheFormat::F32 => &self.f32,
            CacheFormat::F16 => &self.f16,
        }
    }
}

/// A buffer of activations as codes: see [`crate::kernels::quantize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GridId(pub u32);

/// A buffer that a dispatch binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// An activation.
    Buffer(BufferId),
    /// The whole buffer that an activation shares with others: see [`Planner::offset`].
    Shared(BufferId),
    /// A shard of the matrix that a weight's rows are part of: codes or floats.
    Codes(WeightId, usize),
    /// The same: scales and minimums.
    Scales(WeightId, usize),
    /// A vector of f32.
    Vector(WeightId),
    /// Activations as codes.
    Grid(GridId),
    /// Every scalar: see [`Planner::scalar`].
    Scalars,
    /// Biases of a matrix's rows.
    Bias(WeightId),
    /// Cached keys.
    Keys(KvSlot),
    /// Cached values.
    Values(KvSlot),
    /// Cosines and sines of the step's angles.
    Angles(RopeTable),
    /// The step's token ids.
    Tokens,
    /// How a token is drawn.
    Wish,
    /// Scratch of at least so many bytes at the longest context; its contents live until the next dispatch.
    Scratch,
    /// A binding that the dispatch neither reads nor writes.
    Unused,
}

/// How many workgroups one side of a grid has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Fixed(u32),
    /// `ceil(T · each / per_group)`.
    Tokens {
        /// Items of a token.
        each: u32,
        /// Items a workgroup takes.
        per_group: u32,
    },
    /// `ceil(positions the step's first token sees / part)`.
    Parts {
        /// The attention window, or `u32::MAX`.
        window: u32,
        /// Positions of a part.
        part: u32,
    },
    /// `min(ceil(positions the step's last token sees / block), most)`.
    Split {
        /// The attention window, or `u32::MAX`.
        window: u32,
        /// Positions that are not divided.
        block: u32,
        /// Most workgroups.
        most: u32,
    },
}

impl Count {
    /// Workgroups in a step.
    pub fn of(self, step: Step) -> u64 {
        match self {
            Self::Fixed(n) => u64::from(n),
            Self::Tokens { each, per_group } => (step.tokens as u64 * u64::from(each)).div_ceil(u64::from(per_group)),
            Self::Split { window, block, most } => {
                let seen = (step.position as u64 + step.tokens as u64).min(u64::from(window));
                seen.div_ceil(u64::from(block)).min(u64::from(most))
            }
            Self::Parts { window, part } => (step.position as u64 + 1).min(u64::from(window)).div_ceil(u64::from(part)),
        }
    }
}

/// In which steps a dispatch runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// In all.
    Always,
    /// When the step's tokens see so many positions or more by then: `min(position + 1, window)` is in the range.
    Sees {
        /// The attention window, or `u32::MAX`.
        window: u32,
        /// Positions.
        range: Range<u32>,
    },
}

impl When {
    /// True when the dispatch runs in `step`.
    pub fn runs(&self, step: Step) -> bool {
        match self {
            Self::Always => true,
            Self::Sees { window, range } => {
                range.contains(&u32::try_from(step.position + 1).unwrap_or(u32::MAX).min(*window))
            }
        }
    }
}

/// Workgroups of a dispatch. A long x is folded over y when y is 1; shaders take `x + y · count.x` for their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Along x.
    pub x: Count,
    /// Along y.
    pub y: Count,
    /// Along z.
    pub z: Count,
    /// In which steps.
    pub when: When,
}

/// WebGPU's limit of workgroups along a side, the same everywhere.
const MAX_SIDE: u64 = 65535;

impl Grid {
    /// A row of workgroups.
    pub const fn line(x: Count) -> Self {
        Self { x, y: Count::Fixed(1), z: Count::Fixed(1), when: When::Always }
    }

    /// One invocation in 64 for each of `each` items of a token.
    pub const fn items(each: u32, tokens: Tokens) -> Self {
        match tokens {
            Tokens::Step => Self::line(Count::Tokens { each, per_group: 64 }),
            Tokens::One => Self::line(Count::Fixed(each.div_ceil(64))),
        }
    }

    /// Workgroups in `step`, or none when the dispatch does not run in it.
    pub fn of(&self, step: Step) -> Result<Option<[u32; 3]>> {
        if !self.when.runs(step) {
            return Ok(None);
        }
        let (mut x, mut y, z) = (self.x.of(step), self.y.of(step), self.z.of(step));
        if x > MAX_SIDE && y == 1 {
            y = x.div_ceil(MAX_SIDE);
            x = x.div_ceil(y);
        }
        if x > MAX_SIDE || y > MAX_SIDE || z > MAX_SIDE {
            return Err(Error::Gpu(format!("a step would need {x}×{y}×{z} workgroups, more than WebGPU allows")));
        }
        Ok(if x * y * z == 0 { None } else { Some([x as u32, y as u32, z as u32]) })
    }
}

/// The tokens of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens {
    /// The step's T.
    Step,
    /// One.
    One,
}

impl Tokens {
    /// What shaders take for `tokens`: 0 means the step's.
    pub const fn own(self) -> u32 {
        match self {
            Self::Step => 0,
            Self::One => 1,
        }
    }
}

/// Values of a shader's `override` constants, by name.
pub type Constants = Vec<(&'static str, f64)>;

/// An entry point with constants.
#[cfg(test)]
pub(crate) type Variant = (&'static Shader, Constants);

/// Every entry point with every combination of constants that a recording can ask for (of head widths, the usual).
#[cfg(test)]
pub(crate) fn variants() -> Vec<Variant> {
    use crate::kernels::{
        argmax, attention, embed, gated_activation, grouped_attention, head_norms, kv_append, last_row, matmul,
        norm_chain, packed_matmul, quantize, rms_norm, rope, sample, soft_cap,
    };
    let plain = [
        &argmax::SHADER,
        &argmax::PART,
        &argmax::JOIN,
        &gated_activation::SHADER,
        &last_row::SHADER,
        &quantize::SHADER,
        &rope::SHADER,
        &sample::PART,
        &sample::JOIN,
        &sample::DRAW,
        &soft_cap::SHADER,
    ];
    let mut all: Vec<Variant> = plain.into_iter().map(|shader| (shader, Vec::new())).collect();
    for cache in CacheFormat::ALL {
        all.extend([&kv_append::SHADER, &kv_append::ROTATE_AND_APPEND].map(|shader| (shader.of(cache), Vec::new())));
    }
    all.extend(attention::variants());
    all.extend(embed::variants());
    all.extend(grouped_attention::variants());
    all.extend(matmul::variants());
    all.extend(head_norms::variants());
    all.extend(norm_chain::variants());
    all.extend(packed_matmul::variants());
    all.extend(rms_norm::variants());
    all
}

/// One dispatch of an executor's plan.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// The entry point.
    pub shader: &'static Shader,
    /// Its constants.
    pub constants: Constants,
    /// Its uniform parameters.
    pub params: Vec<u8>,
    /// What is bound, in the order of [`Shader::bindings`].
    pub resources: Vec<Resource>,
    /// Its workgroups.
    pub grid: Grid,
}

/// Which steps a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One token.
    Decode,
    /// Any number.
    Prefill,
}

/// What a kernel says of an operation that only the CPU runs.
pub(crate) fn unsupported(what: &str) -> Error {
    Error::unsupported(what, "the graphics device does not run it yet; run this model on the CPU")
}

/// Uniform parameters as bytes.
pub fn params_bytes<P: bytemuck::Pod>(params: P) -> Vec<u8> {
    bytemuck::bytes_of(&params).to_vec()
}

/// What kernels ask while they plan their dispatches.
pub struct Planner<'a> {
    /// The recording.
    pub recording: &'a Recording,
    /// The weights.
    pub table: &'a WeightTable,
    /// Where the rows of matrices lie.
    pub matrices: &'a dyn MatrixPlaces,
    /// For each activation the buffer it shares with others, and where it begins there, in values.
    pub places: &'a [(usize, u32)],
    /// What a position is masked with to find its row in a cache, by slot.
    pub rings: &'a [u32],
    /// How caches are stored.
    pub cache: CacheFormat,
    /// The plan's steps.
    pub mode: Mode,
}

/// Where the rows of matrices lie on the device.
pub trait MatrixPlaces {
    /// A weight's first row in the matrix it is part of.
    fn first_row(&self, id: WeightId) -> usize;
    /// Row ranges of the shards of the matrix that a weight is part of.
    fn shards(&self, id: WeightId) -> Vec<Range<usize>>;
    /// A scalar's place in [`Resource::Scalars`].
    fn scalar(&self, id: WeightId) -> Option<usize>;
}

impl Planner<'_> {
    /// Rows of a buffer.
    pub fn tokens(&self, id: BufferId) -> Tokens {
        match self.recording.info(id).rows {
            Rows::PerToken => Tokens::Step,
            Rows::One => Tokens::One,
        }
    }

    /// Fails unless a buffer has a row for each token of the step.
    pub fn per_token(&self, op: &'static str, id: BufferId) -> Result<()> {
        match self.tokens(id) {
            Tokens::Step => Ok(()),
            Tokens::One => Err(Error::unsupported(
                format!("{op} of {}", self.recording.info(id).name),
                "the graphics device takes one row for each token here",
            )),
        }
    }

    /// True when products of a buffer run for a single token.
    pub fn is_single(&self, id: BufferId) -> bool {
        self.mode == Mode::Decode || self.tokens(id) == Tokens::One
    }

    /// True when two activations lie in one buffer.
    pub fn share(&self, a: BufferId, b: BufferId) -> bool {
        let buffer = |id: BufferId| self.places.get(id.0 as usize).map(|place| place.0);
        buffer(a) == buffer(b)
    }

    /// Columns of a buffer.
    pub fn cols(&self, id: BufferId) -> u32 {
        self.recording.info(id).cols as u32
    }

    /// What a position is masked with to find its row in a cache.
    pub fn ring(&self, slot: KvSlot) -> u32 {
        self.rings.get(slot.0 as usize).copied().unwrap_or(u32::MAX)
    }

    /// Where an activation begins in [`Resource::Shared`], in values.
    pub fn offset(&self, id: BufferId) -> u32 {
        self.places.get(id.0 as usize).map_or(0, |place| place.1)
    }

    /// A scalar's place in [`Resource::Scalars`].
    pub fn scalar(&self, id: WeightId) -> Result<u32> {
        let missing = || Error::Gpu(format!("the scalar {} has no place", self.table.get(id).name));
        self.matrices.scalar(id).map(|place| place as u32).ok_or_else(missing)
    }

    /// How a matrix is stored.
    pub fn packing(&self, id: WeightId) -> Packing {
        Packing::of_weight(self.table, id)
    }

    /// Fails unless `n` is a multiple of 4: what it counts is read as vec4.
    pub fn quads(&self, op: &'static str, what: &str, n: usize) -> Result<u32> {
        if n == 0 || !n.is_multiple_of(4) {
            return Err(Error::unsupported(
                format!("{op}: {what} of {n} values"),
                "the graphics device reads four at a time; run this model on the CPU",
            ));
        }
        Ok((n / 4) as u32)
    }
}
