//! Tokenizer: real vocabularies against their reference implementations.

mod gemma;
mod gguf_metadata;
mod hostile;
mod oracle;
mod starter;
mod strings;
