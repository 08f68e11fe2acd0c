//! Files made to break the readers: the fuzz corpus again, and headers that claim more than they have. Nothing may panic,
//! and no header may cost more memory than its own length and a constant.
#![expect(clippy::unwrap_used, reason = "a test's own helpers may fail the test")]

#[path = "../../../tests/fuzz/bodies.rs"]
mod bodies;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use sotto_core::formats::{Gguf, Safetensors, safetensors};

/// Counts what the current thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // The thread's counters may be gone while it ends.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes on to the system's allocator with the caller's own arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory that `work` held at a time, beyond what was held before.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    work();
    (PEAK.get() - before) as usize
}

/// What a header may cost beyond its length.
const CONSTANT: usize = 8 << 20;

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(path).unwrap()))
        .collect();
    assert!(files.len() > 3, "the corpus of {target} is gone");
    files
}

#[test]
fn gguf_corpus() {
    for (name, file) in corpus("gguf") {
        let cost = peak(|| drop(Gguf::parse(&file, Some(file.len() as u64))));
        assert!(cost <= file.len() + CONSTANT, "{name}: {cost} bytes for a file of {}", file.len());
        bodies::gguf(&file);
    }
}

#[test]
fn safetensors_corpus() {
    for (name, file) in corpus("safetensors") {
        let cost = peak(|| bodies::safetensors(&file));
        assert!(cost <= file.len() + CONSTANT, "{name}: {cost} bytes for a file of {}", file.len());
    }
}

#[test]
fn tokenizer_corpus() {
    for (_, file) in corpus("tokenizer") {
        bodies::tokenizer(&file);
    }
}

#[test]
fn config_corpus() {
    for (name, file) in corpus("config") {
        let cost = peak(|| bodies::config(&file));
        assert!(cost <= file.len() + CONSTANT, "{name}: {cost} bytes for a file of {}", file.len());
        for at in (0..file.len()).step_by(7) {
            bodies::config(&file[..at]);
            let mut damaged = file.clone();
            damaged[at] = b"0-9]}e"[at % 6];
            bodies::config(&damaged);
        }
    }
}

#[test]
fn tool_call_corpus() {
    for (_, file) in corpus("tool_call") {
        bodies::tool_call(&file);
    }
}

#[test]
fn cut_and_damaged_checkpoints_never_panic() {
    for (_, file) in corpus("gguf").into_iter().filter(|(name, _)| name.contains("seed-Q")) {
        let header = file.len().min(2600);
        for at in (0..header).step_by(3) {
            bodies::gguf(&file[..at]);
            for bits in [0x01, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] ^= bits;
                bodies::gguf(&damaged);
            }
        }
    }
}

/// Little-endian GGUF with `keys` and `tensors` already laid out.
fn gguf(tensor_count: u64, tensors: &[u8], key_count: u64, keys: &[u8]) -> Vec<u8> {
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend(tensor_count.to_le_bytes());
    file.extend(key_count.to_le_bytes());
    file.extend(keys);
    file.extend(tensors);
    file
}

#[test]
fn the_largest_counts_of_the_smallest_entries_cost_a_constant() {
    let n = 1u64 << 14;
    let mut keys = Vec::new();
    let mut tensors = Vec::new();
    for i in 0..n {
        let name = [&8u64.to_le_bytes()[..], format!("{i:08}").as_bytes()].concat();
        let (u8_value, rank, dim, i8_tensor) = (0u32, 1u32, 1u64, 24u32);
        keys.extend([&name[..], &u8_value.to_le_bytes(), &[1]].concat());
        tensors.extend([&name[..], &rank.to_le_bytes(), &dim.to_le_bytes(), &i8_tensor.to_le_bytes()].concat());
        tensors.extend((32 * i).to_le_bytes());
    }
    let file = gguf(n, &tensors, n, &keys);
    let cost = peak(|| drop(Gguf::parse(&file, None).unwrap()));
    assert!(cost <= file.len() + CONSTANT, "{cost} bytes for a header of {}", file.len());

    let entries: Vec<String> =
        (0..n).map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[1],"data_offsets":[{i},{}]}}"#, i + 1)).collect();
    let json = format!("{{{}}}", entries.join(","));
    let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let cost = peak(|| drop(Safetensors::parse(&file, None).unwrap()));
    assert!(cost <= file.len() + CONSTANT, "{cost} bytes for a header of {}", file.len());

    let entries: Vec<String> = (0..1000).map(|i| format!(r#""":"{i}""#)).collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","));
    assert!(peak(|| drop(safetensors::index_files(&index).unwrap())) <= index.len() + CONSTANT);
}

#[test]
fn a_long_list_of_empty_strings_costs_less_than_its_bytes() {
    let count = 2_000_000u64;
    let mut keys =
        [&1u64.to_le_bytes()[..], b"k", &9u32.to_le_bytes(), &8u32.to_le_bytes(), &count.to_le_bytes()].concat();
    keys.resize(keys.len() + 8 * count as usize, 0);
    let file = gguf(0, &[], 1, &keys);
    let cost = peak(|| drop(Gguf::parse(&file, Some(file.len() as u64)).unwrap()));
    assert!(cost <= file.len(), "{cost} bytes for a header of {}", file.len());
    // The same claim without the bytes behind it costs nothing.
    for known in [None, Some(100)] {
        assert!(peak(|| drop(Gguf::parse(&file[..100], known))) < 4096);
    }
}
