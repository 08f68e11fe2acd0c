//! The border between the engine and the extension: wasm entry points, messages, storage.

pub mod hub;
pub mod protocol;
