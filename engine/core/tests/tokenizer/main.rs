//! Tokenizer: real vocabularies against their reference implementations.

mod gguf_metadata;
mod starter;
