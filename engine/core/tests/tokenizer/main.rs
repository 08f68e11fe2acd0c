//! Tokenizer: real vocabularies against their reference implementations.

#![expect(clippy::expect_used, reason = "a test's helpers may panic")]

mod gemma;
mod gguf_metadata;
mod hostile;
mod oracle;
mod starter;
mod strings;
