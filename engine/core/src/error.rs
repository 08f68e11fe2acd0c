//! What can go wrong in the engine, in words a person can act on.

/// An error of the engine.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// A model file says something it must not: `what` names the tensor or key, `reason` says what is wrong.
    #[error("{what}: {reason}")]
    Format {
        /// The tensor, key or part of the file.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is well formed, but asks for something this engine does not do.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The tensor, key or feature.
        what: String,
        /// What would be supported instead.
        reason: String,
    },
    /// A stored file of the model could not be read: what it says is unknown.
    #[error("{what} could not be read: {reason}")]
    Unread {
        /// The part of the file.
        what: String,
        /// What the storage says.
        reason: String,
    },
    /// A kernel was given a tensor of the wrong shape.
    #[error("{op}: {what} is {got:?}, expected {expected:?}")]
    Shape {
        /// The kernel.
        op: &'static str,
        /// The argument.
        what: String,
        /// The shape it has.
        got: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// The prompt does not fit the model's context.
    #[error("the prompt has {tokens} tokens, and the model reads at most {limit}: shorten the text")]
    ContextFull {
        /// Tokens asked for.
        tokens: usize,
        /// The context's length.
        limit: usize,
    },
    /// The graphics device refused, ran out of memory, or was lost.
    #[error("the graphics device failed: {0}")]
    Gpu(String),
}

impl Error {
    /// Makes a [`Error::Format`].
    pub fn format(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format { what: what.into(), reason: reason.into() }
    }

    /// Makes a [`Error::Unsupported`].
    pub fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), reason: reason.into() }
    }

    /// Makes a [`Error::Unread`].
    pub fn unread(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unread { what: what.into(), reason: reason.into() }
    }
}

/// The engine's result.
pub type Result<T, E = Error> = core::result::Result<T, E>;
