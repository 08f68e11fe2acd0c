//! Whether a device can run a model: by the limits it states, never by its name. Pure.

use std::collections::BTreeSet;

use sotto_core::gpu::{Adapter, CacheFormat};
use sotto_core::model::Network;
use sotto_core::recipes::ModelEntry;
use sotto_core::requantize::Target;
use sotto_core::weights::{WeightId, WeightRole, WeightSpec, WeightTable};

use crate::protocol::Fit;

/// What a model asks of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Bytes of the longest row of a weight, as the file stores it: a row is never divided between bindings.
    pub longest_row: u64,
    /// Bytes of the weights in the CPU's layout.
    pub cpu_bytes: u64,
    /// Of those, bytes that each token reads on the fast path, in blocks that hold their scales, or as floats.
    pub cpu_bytes_per_token: u64,
    /// Weights that each token reads on the fast path as packed codes.
    pub packed_weights_per_token: u64,
    /// Weights that each token reads and whose type the fast path does not have.
    pub slow_weights_per_token: u64,
    /// Values of a position in the largest cache of keys or values.
    pub largest_position: u64,
}

/// What a graphics device states about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `maxStorageBufferBindingSize`.
    pub binding: u64,
    /// `maxBufferSize`.
    pub buffer: u64,
}

/// WebGPU's own minimum of `maxStorageBufferBindingSize`: weights are cut to it.
const LEAST_BINDING: u64 = 128 << 20;
/// A page and a short answer: with fewer positions a model is of no use.
const LEAST_CONTEXT: usize = 1024;
/// What the CPU path reads while it decodes, in bytes a second: docs/performance.md, 96 MB at 49 to 66 tokens a second,
/// rounded down.
const CPU_BYTES_PER_SECOND: f64 = 4e9;
/// Weights of packed codes that the CPU path multiplies in a second while it decodes, whatever their bits: docs/performance.md.
const CPU_PACKED_WEIGHTS_PER_SECOND: f64 = 1.3e10;
/// Weights a second that the plain loop gets through at the very most: its decoding of a code takes several instructions.
const SLOW_WEIGHTS_PER_SECOND: f64 = 2e8;
/// Slower than this is not offered.
const LEAST_TOKENS_PER_SECOND: f64 = 1.0;
/// WebAssembly addresses 4 GiB; a long context's keys and values (0.3 GB for Gemma 4 E2B, 0.9 GB for E4B) and all else have to fit
/// beside the weights.
const CPU_MOST_BYTES: u64 = 3000 << 20;

impl Sizes {
    /// The sizes of a model, without the weights that stay `outside` of the device.
    pub fn of(model: &Network, outside: &BTreeSet<WeightId>) -> Self {
        let largest = model.recording.kv.iter().map(|kv| (kv.heads * kv.head_dim) as u64).max();
        Self { largest_position: largest.unwrap_or(0), ..Self::of_weights(&model.weights, outside) }
    }

    fn of_weights(weights: &WeightTable, outside: &BTreeSet<WeightId>) -> Self {
        let mut sizes = Self::default();
        for (_, spec) in weights.iter().filter(|(id, _)| !outside.contains(id)) {
            let bytes = cpu_bytes(spec);
            sizes.longest_row = sizes.longest_row.max(spec.row_bytes() as u64);
            sizes.cpu_bytes += bytes;
            match spec.role {
                WeightRole::Gathered => {}
                _ if spec.quant.has_own_scales() => {
                    let one_scale_a_row = spec.scales.is_some_and(|scales| weights.get(scales).cols == 1);
                    *match one_scale_a_row {
                        true => &mut sizes.packed_weights_per_token,
                        false => &mut sizes.slow_weights_per_token,
                    } += spec.rows as u64 * spec.cols as u64;
                }
                _ => sizes.cpu_bytes_per_token += bytes,
            }
        }
        sizes
    }
}

/// A weight's bytes on the fast path: codes of 4 or 8 bits with a scale and a minimum for each 32. Packed codes keep the file's
/// size, fast or not. The few floats beside them, which stay floats, are counted as if they did not.
fn cpu_bytes(spec: &WeightSpec) -> u64 {
    if spec.quant.has_own_scales() {
        return spec.location.len;
    }
    let elements = spec.rows as u64 * spec.cols as u64;
    let codes = if spec.quant.fits_4_bits() { elements / 2 } else { elements };
    codes + elements / 8
}

/// Bytes that all caches of keys and values may take as f32 on a graphics device. The product's models stay below at the context that they
/// are given (Gemma 4 E2B 151 MB, E4B 436): with static ranges a value that is rounded can fall on another code, and everything
/// after it moves, so that f16 is for models and contexts that would otherwise take more than their weights are worth.
pub const F32_CACHES: u64 = 512 << 20;

/// What a graphics device has for a model's context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The positions that the model can use.
    pub context: usize,
    /// How its keys and values are stored.
    pub cache: CacheFormat,
}

/// The room that a model has on a graphics device, for at most `context` positions; or why it cannot run there, in a sentence
/// without its full stop. `f32_bytes` are those of all caches for so many positions, and `most` is what they may take.
///
/// Keys and values stay f32, as they were computed, while that costs little: rounding them moves logits, hardly in most models,
/// and by whole codes of activations in one with static ranges. It is worth that where a long context's caches would crowd out the
/// weights and other programs, or be cut by the limit of a binding: f16 take half, so a token that looks far back also reads half
/// as much. Where memory was short already, `most` is 0.
pub fn on_gpu(
    sizes: &Sizes,
    limits: Limits,
    context: usize,
    f32_bytes: impl Fn(usize) -> u64,
    most: u64,
) -> Result<Room, String> {
    let longest = positions(sizes, limits, context, CacheFormat::F16)?;
    let is_as_long = positions(sizes, limits, context, CacheFormat::F32) == Ok(longest);
    let cache = if is_as_long && f32_bytes(longest) <= most { CacheFormat::F32 } else { CacheFormat::F16 };
    Ok(Room { context: longest, cache })
}

/// Positions that fit the device's limits, at most `context`.
fn positions(sizes: &Sizes, limits: Limits, context: usize, cache: CacheFormat) -> Result<usize, String> {
    let binding = limits.binding.min(limits.buffer);
    if sizes.longest_row > binding {
        return Err(format!(
            "a row of this model's weights takes {}, and the graphics device binds at most {}",
            in_words(sizes.longest_row),
            in_words(binding)
        ));
    }
    let position = sizes.largest_position * cache.value_bytes();
    let room = binding.checked_div(position).map_or(context, |n| usize::try_from(n).unwrap_or(usize::MAX));
    let fitting = context.min(room);
    if fitting < LEAST_CONTEXT.min(context) {
        return Err(format!("the graphics device has room for {room} tokens at once, too few to read a page"));
    }
    Ok(fitting)
}

/// Tokens a second that the CPU would write with a model, estimated; or why it is not tried, in a sentence.
pub fn on_cpu(sizes: &Sizes) -> Result<f64, String> {
    let seconds = sizes.cpu_bytes_per_token as f64 / CPU_BYTES_PER_SECOND
        + sizes.packed_weights_per_token as f64 / CPU_PACKED_WEIGHTS_PER_SECOND
        + sizes.slow_weights_per_token as f64 / SLOW_WEIGHTS_PER_SECOND;
    if seconds > 1.0 / LEAST_TOKENS_PER_SECOND {
        return Err(format!("Without it this model would take about {seconds:.1} seconds for each piece of a word."));
    }
    if sizes.cpu_bytes > CPU_MOST_BYTES {
        return Err(format!(
            "Without it this model would need {} of memory for its weights alone, and a browser gives its engine at most 4 GB.",
            in_words(sizes.cpu_bytes)
        ));
    }
    Ok(1.0 / seconds.max(1e-6))
}

/// Whether a model that is not here yet would run, as far as its entry tells: limits of rows and caches show when its headers
/// are here, and memory when it is loaded.
pub fn before(entry: &ModelEntry, adapter: Option<&Adapter>, smaller: Option<&str>) -> Fit {
    let offer = smaller.map_or(String::new(), |name| format!(" {name} runs here."));
    let why = match adapter {
        Some(adapter) if !adapter.software => {
            let limits = Limits { binding: adapter.binding_bytes, buffer: adapter.buffer_bytes };
            match limits.binding.min(limits.buffer) >= LEAST_BINDING {
                true => return Fit { fits: true, reason: String::new() },
                false => format!(
                    "The graphics device binds at most {} at once, which is too little.",
                    in_words(limits.binding.min(limits.buffer))
                ),
            }
        }
        Some(_) => "The only graphics device is a software one.".to_owned(),
        None => "This browser offers no graphics device.".to_owned(),
    };
    let in_blocks = if entry.packed_weights > 0 { 0 } else { entry.bytes };
    let sizes = Sizes {
        cpu_bytes: entry.bytes.saturating_sub(entry.table_bytes),
        cpu_bytes_per_token: in_blocks,
        packed_weights_per_token: entry.packed_weights,
        ..Sizes::default()
    };
    match on_cpu(&sizes) {
        Ok(rate) => {
            let tokens = if rate < 1.5 { "1 token".to_owned() } else { format!("{rate:.0} tokens") };
            Fit { fits: true, reason: format!("{why} The processor would write about {tokens} a second.") }
        }
        Err(slow) => Fit { fits: false, reason: format!("{why} {slow}{offer}") },
    }
}

/// Bytes of float matrices that a graphics device is given as they are.
pub const FLOATS_KEPT: u64 = 512 << 20;
/// Values of float matrices that may take a byte each; of more, each takes half a byte.
const BYTES_MOST: u64 = 4 << 30;

/// What float matrices become on their way to a graphics device: nothing if they have at most `kept` bytes. Larger ones are read
/// whole for every token, so that fewer bits are faster as well as smaller.
pub fn rounded(weights: &WeightTable, kept: u64) -> Option<Target> {
    let is_float =
        |spec: &&WeightSpec| matches!(spec.role, WeightRole::Matrix | WeightRole::Gathered) && spec.quant.is_float();
    let floats = || weights.iter().map(|(_, spec)| spec).filter(is_float);
    let bytes: u64 = floats().map(|spec| spec.location.len).sum();
    let values: u64 = floats().map(|spec| spec.rows as u64 * spec.cols as u64).sum();
    match bytes <= kept {
        true => None,
        false if values <= BYTES_MOST => Some(Target::Int8),
        false => Some(Target::Int4),
    }
}

/// The name to offer instead of a model of `bytes` bytes: the largest that is smaller. `others` are names and sizes.
pub fn next_smaller<'a>(bytes: u64, others: impl IntoIterator<Item = (&'a str, u64)>) -> Option<&'a str> {
    others.into_iter().filter(|(_, size)| *size < bytes).max_by_key(|(_, size)| *size).map(|(name, _)| name)
}

/// "98 MB", "2.1 GB".
fn in_words(bytes: u64) -> String {
    let mb = bytes as f64 / 1e6;
    if mb < 1000.0 { format!("{mb:.0} MB") } else { format!("{:.1} GB", mb / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sotto_core::gpu::all_caches_bytes;
    use sotto_core::kernels::Attention;
    use sotto_core::quant::QuantType;
    use sotto_core::recording::{KvInfo, Recording, Rows};
    use sotto_core::weights::Location;

    const MIB: u64 = 1 << 20;

    fn limits(mib: u64) -> Limits {
        Limits { binding: mib * MIB, buffer: 256 * MIB }
    }

    fn weight(rows: usize, cols: usize, quant: QuantType, role: WeightRole) -> WeightSpec {
        let len = (cols / quant.block_len() * quant.block_bytes() * rows) as u64;
        WeightSpec {
            name: "w".into(),
            rows,
            cols,
            quant,
            role,
            location: Location { file: 0, offset: 0, len },
            scales: None,
            adapter: None,
        }
    }

    fn sizes(weights: Vec<WeightSpec>) -> Sizes {
        let mut table = WeightTable::default();
        for weight in weights {
            table.add(weight).unwrap();
        }
        Sizes::of_weights(&table, &BTreeSet::new())
    }

    #[test]
    fn a_context_is_cut_to_what_a_binding_holds_and_refused_when_too_short() {
        let sizes = Sizes { longest_row: 8960, largest_position: 1024, ..Sizes::default() };
        for (cache, mib) in [(CacheFormat::F32, 1), (CacheFormat::F16, 2)] {
            let positions = |limits, context| positions(&sizes, limits, context, cache);
            assert_eq!(positions(limits(128), 8192), Ok(8192));
            assert_eq!(positions(limits(16 / mib), 8192), Ok(4096));
            let refusal = positions(limits(2 / mib), 8192).unwrap_err();
            assert!(refusal.contains("512"), "{refusal}");
            // A model that was made for less is not refused for it.
            assert_eq!(positions(limits(2 / mib), 256), Ok(256));
            // The smaller limit counts.
            assert_eq!(positions(Limits { binding: 1 << 40, buffer: 16 / mib * MIB }, 8192), Ok(4096));
        }
    }

    #[test]
    fn caches_are_f32_while_they_are_small_and_no_shorter_for_it() {
        // 32 caches of 4 KiB a position as f32.
        let sizes = Sizes { longest_row: 8960, largest_position: 1024, ..Sizes::default() };
        let bytes = |positions: usize| 32 * 4096 * positions as u64;
        let room = |mib, context, most| on_gpu(&sizes, limits(mib), context, bytes, most);
        let (f32, f16) = (CacheFormat::F32, CacheFormat::F16);
        assert_eq!(room(128, 4096, F32_CACHES), Ok(Room { context: 4096, cache: f32 }));
        assert_eq!(room(128, 4097, F32_CACHES), Ok(Room { context: 4097, cache: f16 }));
        // The context that the device leaves counts, and not the one that the model was made for.
        assert_eq!(room(8, 65536, F32_CACHES), Ok(Room { context: 4096, cache: f16 }));
        assert_eq!(room(16, 4096, F32_CACHES), Ok(Room { context: 4096, cache: f32 }));
        // f32 would be cut to 2048.
        assert_eq!(room(8, 3000, F32_CACHES), Ok(Room { context: 3000, cache: f16 }));
        // Memory was short.
        assert_eq!(room(128, 2048, 0), Ok(Room { context: 2048, cache: f16 }));
    }

    #[test]
    fn the_caches_of_rings_count_as_they_are() {
        let mut recording = Recording::default();
        let slots = [(); 2].map(|()| recording.kv_slot(KvInfo { heads: 1, head_dim: 256 }));
        let q = recording.buffer("q", Rows::PerToken, 256).unwrap();
        for (slot, window) in slots.into_iter().zip([Some(512), None]) {
            recording.push(Attention { q, slot, out: q, heads: 1, scale: 1.0, window });
        }
        let bytes = |positions, format| all_caches_bytes(&recording, 256, positions, format);
        // A ring of 2048 rows: three windows and a step.
        assert_eq!(bytes(1000, CacheFormat::F32), 2 * 1024 * (1000 + 1000));
        assert_eq!(bytes(8192, CacheFormat::F32), 2 * 1024 * (2048 + 8192));
        assert_eq!(bytes(8192, CacheFormat::F16), 2 * 512 * (2048 + 8192));
    }

    #[test]
    fn a_row_that_no_binding_holds_is_refused_with_both_sizes() {
        let sizes = Sizes { longest_row: 200 * MIB, ..Sizes::default() };
        let refusal = on_gpu(&sizes, limits(128), 8192, |_| 0, F32_CACHES).unwrap_err();
        assert!(refusal.contains("210 MB") && refusal.contains("134 MB"), "{refusal}");
    }

    #[test]
    fn what_is_only_gathered_costs_memory_and_no_time() {
        let matrix = weight(1024, 1024, QuantType::Q4_0, WeightRole::Matrix);
        let table = weight(4096, 1024, QuantType::Q8_0, WeightRole::Gathered);
        let both = sizes(vec![matrix.clone(), table]);
        assert_eq!(both.cpu_bytes_per_token, sizes(vec![matrix]).cpu_bytes_per_token);
        assert_eq!(both.cpu_bytes_per_token, 5 * (1 << 20) / 8);
        assert_eq!(both.cpu_bytes, both.cpu_bytes_per_token + 4 * (1 << 20) * 9 / 8);
        assert_eq!(both.longest_row, 1088);
    }

    #[test]
    fn what_stays_outside_costs_nothing() {
        let mut table = WeightTable::default();
        table.add(weight(1024, 1024, QuantType::Q4_0, WeightRole::Matrix)).unwrap();
        let rest = Sizes::of_weights(&table, &BTreeSet::new());
        // 9.7 GB: more than WebAssembly can hold, in rows of 38 KB.
        let gathered = table.add(weight(262_144, 34_816, QuantType::Q8_0, WeightRole::Gathered)).unwrap();
        assert!(on_cpu(&Sizes::of_weights(&table, &BTreeSet::new())).is_err());
        assert_eq!(Sizes::of_weights(&table, &BTreeSet::from([gathered])), rest);
    }

    #[test]
    fn packed_codes_are_fast_where_a_row_has_one_scale() {
        for (scales_of_row, packed) in [(1, 64 * 128), (4, 0)] {
            let mut table = WeightTable::default();
            let scales = weight(64, scales_of_row, QuantType::F32, WeightRole::Scales);
            let scales = table.add(scales).unwrap();
            let codes = weight(64, 128, QuantType::Int2, WeightRole::Matrix);
            table.add(WeightSpec { scales: Some(scales), ..codes }).unwrap();
            let sizes = Sizes::of_weights(&table, &BTreeSet::new());
            assert_eq!(sizes.packed_weights_per_token, packed);
            assert_eq!(sizes.slow_weights_per_token, 64 * 128 - packed);
        }
    }

    #[test]
    fn the_cpu_refuses_what_it_would_run_too_slowly_or_cannot_hold() {
        let starter = Sizes { cpu_bytes: 96 << 20, cpu_bytes_per_token: 96 << 20, ..Sizes::default() };
        assert!(on_cpu(&starter).unwrap() > 30.0);
        let slow = Sizes { cpu_bytes_per_token: 8_000_000_000, ..starter };
        assert!(on_cpu(&slow).unwrap_err().contains("2.0 seconds"));
        let grouped = Sizes { slow_weights_per_token: 2_280_000_000, ..Sizes::default() };
        assert!(on_cpu(&grouped).unwrap_err().contains("11.4 seconds"));
        let packed = Sizes { packed_weights_per_token: 2_280_000_000, ..Sizes::default() };
        assert!((4.0..12.0).contains(&on_cpu(&packed).unwrap()));
        let large = Sizes { cpu_bytes: 4_900_000_000, ..starter };
        assert!(on_cpu(&large).unwrap_err().contains("4.9 GB"));
    }

    #[test]
    fn before_a_model_is_here_its_entry_and_the_adapter_decide() {
        let entries = ModelEntry::all().unwrap();
        let adapter =
            |software, binding_bytes| Adapter { name: "Any".into(), software, binding_bytes, buffer_bytes: 256 * MIB };
        let on = |adapter: Option<&Adapter>| before(&entries[1], adapter, Some("Starter"));
        assert!(on(Some(&adapter(false, 128 * MIB))).fits);
        for (adapter, word) in [
            (Some(adapter(false, 64 * MIB)), "67 MB"),
            (Some(adapter(true, 128 * MIB)), "software"),
            (None, "no graphics"),
        ] {
            let fit = on(adapter.as_ref());
            assert!(fit.fits && fit.reason.contains(word), "{}", fit.reason);
            assert!(fit.reason.contains("The processor would write about "), "{}", fit.reason);
            assert!(before(&entries[2], adapter.as_ref(), None).fits, "its tables stay in storage");
            let large = ModelEntry { bytes: 4_948_683_264, ..entries[2].clone() };
            let fit = before(&large, adapter.as_ref(), Some("Gemma 4 E2B"));
            assert!(
                !fit.fits && fit.reason.contains(word) && fit.reason.contains("4.2 GB of memory"),
                "{}",
                fit.reason
            );
            assert!(fit.reason.contains("Gemma 4 E2B runs here"), "{}", fit.reason);
        }
        assert!(before(&entries[0], None, None).fits);
        let slow = ModelEntry { packed_weights: 12_000_000_000, ..entries[1].clone() };
        assert!(before(&slow, None, None).reason.contains("about 1 token a second"));
    }

    #[test]
    fn large_float_matrices_are_rounded() {
        let table = |rows, quant| {
            let mut table = WeightTable::default();
            table.add(weight(rows, 1024, quant, WeightRole::Matrix)).unwrap();
            table
        };
        assert_eq!(rounded(&table(1 << 18, QuantType::BF16), FLOATS_KEPT), None);
        assert_eq!(rounded(&table(1 << 19, QuantType::BF16), FLOATS_KEPT), Some(Target::Int8));
        assert_eq!(rounded(&table(1 << 23, QuantType::BF16), FLOATS_KEPT), Some(Target::Int4));
        assert_eq!(rounded(&table(1 << 23, QuantType::Q8_0), FLOATS_KEPT), None);
        assert_eq!(rounded(&table(32, QuantType::F32), 0), Some(Target::Int8));
    }

    #[test]
    fn the_next_smaller_model_is_offered() {
        let all = [("Starter", 98), ("E2B", 2100), ("E4B", 4000)];
        assert_eq!(next_smaller(4000, all), Some("E2B"));
        assert_eq!(next_smaller(98, all), None);
    }
}
