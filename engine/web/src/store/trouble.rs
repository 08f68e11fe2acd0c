//! What can go wrong while a model comes, when it is tried again, and what the user is told.

use crate::protocol::{Failure, FailureCode};

/// The longest wait that a server may ask for; beyond it the user is told.
const LONGEST_WAIT_MS: f64 = 120_000.0;

/// The first wait before a request is sent again; each further one is twice as long.
const FIRST_WAIT_MS: f64 = 500.0;

/// What went wrong with one request.
#[derive(Debug, Clone, PartialEq)]
pub enum Trouble {
    /// No answer, or one that broke off: the browser does not say why.
    Broken {
        /// Its words.
        detail: String,
    },
    /// Nothing came for a long time.
    Silent,
    /// A status that is not success.
    Status {
        /// The status.
        status: u16,
        /// Milliseconds that the server asks to wait.
        retry_after_ms: Option<f64>,
    },
    /// A web page in place of the file.
    Page,
    /// The whole file was sent where a part was asked for.
    WholeFile,
    /// Fewer or more bytes than asked for.
    Length {
        /// What came.
        got: u64,
        /// What was asked for.
        expected: u64,
    },
    /// The file is another than before, or than it should be.
    Changed {
        /// In words, such as "it has 12 bytes and should have 15".
        how: String,
    },
    /// The hash is not the pinned one.
    WrongHash,
    /// The browser has no room left.
    NoRoom {
        /// Bytes that are missing, if that is known.
        missing: Option<u64>,
    },
    /// Storing failed.
    Storage {
        /// The browser's words.
        detail: String,
    },
    /// The stored file is open elsewhere: the model answers, or another window is at work.
    InUse,
    /// The server does not let the file's length be known.
    NoLength,
    /// A chosen file can no longer be read.
    FileGone {
        /// The browser's words.
        detail: String,
    },
}

/// How often a request failed before, in a way that counts for [`Trouble::wait`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Tries {
    /// Requests of this chunk that failed.
    pub failed: u32,
    /// True once the source has sent anything at all.
    pub reached: bool,
}

impl Trouble {
    /// Milliseconds to wait before asking again; none if that would be of no use.
    pub fn wait(&self, tries: Tries) -> Option<f64> {
        let longer = FIRST_WAIT_MS * f64::from(1u32 << tries.failed.min(10));
        // A source that never answered is told of soon; one that did may have a bad minute.
        let most = if tries.reached { 5 } else { 2 };
        match self {
            Self::Broken { .. } | Self::Silent | Self::Length { .. } if tries.failed < most => Some(longer),
            Self::Status { status: 408 | 425 | 429 | 500 | 502 | 503 | 504, retry_after_ms } if tries.failed < 5 => {
                Some(retry_after_ms.unwrap_or(longer)).filter(|wait| *wait <= LONGEST_WAIT_MS)
            }
            Self::WrongHash if tries.failed < 1 => Some(0.0),
            _ => None,
        }
    }

    /// Why nothing moves while [`Trouble::wait`] passes.
    pub fn waiting_words(&self, host: &str, wait_ms: f64) -> String {
        let seconds = (wait_ms / 1000.0).ceil();
        match self {
            Self::Status { .. } => format!("{host} is busy; asking again in {seconds} s"),
            Self::WrongHash => "A part arrived damaged; it is fetched again".to_owned(),
            _ => format!("The connection to {host} broke; trying again in {seconds} s"),
        }
    }

    /// What the user is told: `file` with, for a part of it, `bytes` from and to.
    pub fn failure(&self, host: &str, file: &str, bytes: Option<(u64, u64)>) -> Failure {
        let part = match bytes {
            Some((from, to)) => format!("{file} (bytes {from} to {to})"),
            None => file.to_owned(),
        };
        let (code, message, next_step) = self.words(host, file, &part);
        Failure { code, message, next_step: next_step.to_owned() }
    }

    fn words(&self, host: &str, file: &str, part: &str) -> (FailureCode, String, &'static str) {
        use FailureCode as Code;
        match self {
            Self::Broken { detail } => (
                Code::NetworkFailed,
                format!(
                    "{host} could not be reached, or the connection broke ({detail}). A proxy, a firewall or a certificate may be the cause."
                ),
                "Check the connection and resume: what has come is kept. Where this address is blocked, use your organisation's mirror or choose a file.",
            ),
            Self::Silent => (
                Code::NetworkFailed,
                format!("{host} sent nothing for a minute."),
                "Check the connection and resume: what has come is kept.",
            ),
            Self::Status { status: status @ (401 | 402 | 403 | 407 | 451), .. } => (
                Code::Blocked,
                format!(
                    "{host} does not give out {file} (status {status}). It may need a sign-in, or a proxy blocks it."
                ),
                "Use your organisation's mirror or choose a file; or ask whoever runs the network to allow this address, then resume.",
            ),
            Self::Status { status: status @ (404 | 410), .. } => (
                Code::NotFound,
                format!("{host} does not have {file} (status {status})."),
                "Check the address: it must be the folder that holds the model's files.",
            ),
            Self::Status { status: 416, .. } => (
                Code::SourceChanged,
                format!("{file} on {host} is shorter than it was, or empty (status 416)."),
                "Cancel and get the model anew.",
            ),
            Self::Status { status: status @ (429 | 503), retry_after_ms } => {
                let minutes = retry_after_ms.map(|ms| (ms / 60_000.0).ceil()).filter(|m| *m > 1.0);
                let asks = minutes.map(|m| format!(" It asks to wait {m} minutes.")).unwrap_or_default();
                (
                    Code::ServerBusy,
                    format!("{host} is too busy (status {status}).{asks}"),
                    "Resume later: what has come is kept.",
                )
            }
            Self::Status { status, .. } => (
                Code::NetworkFailed,
                format!("{host} answered with status {status} when asked for {file}."),
                "Resume later: what has come is kept.",
            ),
            Self::Page => (
                Code::Blocked,
                format!("A web page came in place of {file} from {host}: a proxy or a sign-in page stands in between."),
                "Sign in to the network, or use your organisation's mirror or a file, then resume.",
            ),
            Self::WholeFile => (
                Code::NoRanges,
                format!("{host} sends files only whole: it does not answer requests for a part (Range)."),
                "Serve the files with a web server that answers range requests, or choose the files from this computer.",
            ),
            Self::Length { got, expected } => (
                Code::NetworkFailed,
                format!("{host} sent {got} bytes in place of {expected} of {part}."),
                "Resume; if it stays so, the server or a proxy damages what it sends: use another source.",
            ),
            Self::Changed { how } => (
                Code::SourceChanged,
                format!("{file} on {host} is not the file it should be: {how}."),
                "Cancel and get the model anew; if it stays so, the source has another version of it.",
            ),
            Self::WrongHash => (
                Code::WrongBytes,
                format!("{part} from {host} is damaged: its SHA-256 was wrong twice."),
                "Resume to fetch this part again; if it stays so, the source holds a damaged copy: use another one.",
            ),
            Self::NoRoom { missing } => {
                let much = missing.map(|bytes| format!(": {} more are needed", bytes_in_words(bytes)));
                (
                    Code::DiskFull,
                    format!("There is no room left on the disk{}.", much.unwrap_or_default()),
                    "Free some space, then resume: what has come is kept.",
                )
            }
            Self::Storage { detail } => (
                Code::StorageFailed,
                format!("The browser's storage failed ({detail})."),
                "Try again; if it stays so, restart the browser.",
            ),
            Self::InUse => (
                Code::ModelInUse,
                "The model is in use.".to_owned(),
                "Wait until it has answered, or close other windows of Sotto, and try again.",
            ),
            Self::NoLength => (
                Code::NoRanges,
                format!("{host} does not say how long {file} is: it hides the header Content-Range."),
                "Allow Sotto to read this address when it asks, or have the server send Access-Control-Expose-Headers: Content-Range, ETag.",
            ),
            Self::FileGone { detail } => (
                Code::StorageFailed,
                format!("{part} can no longer be read ({detail}): it was changed or moved."),
                "Choose the file again: what has come is kept.",
            ),
        }
    }
}

/// "2.1 GB".
pub fn bytes_in_words(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.0} KB", (b / 1e3).max(1.0)),
    }
}

/// Milliseconds of a `Retry-After` of seconds. A date is not read: the usual wait applies.
pub fn retry_after_ms(header: &str) -> Option<f64> {
    let seconds: u32 = header.trim().parse().ok()?;
    Some(f64::from(seconds) * 1000.0)
}

/// First byte, last byte and length of the whole file from `Content-Range: bytes 0-9/100`.
pub fn content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    let (from, to, total) = (from.trim().parse().ok()?, to.trim().parse().ok()?, total.trim().parse().ok()?);
    (from <= to && to < total).then_some((from, to, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after_ms: Option<f64>) -> Trouble {
        Trouble::Status { status, retry_after_ms }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_not_for_ever() {
        let broken = Trouble::Broken { detail: "x".into() };
        let waits: Vec<_> = (0..7).map(|failed| broken.wait(Tries { failed, reached: true })).collect();
        assert_eq!(waits, [Some(500.0), Some(1000.0), Some(2000.0), Some(4000.0), Some(8000.0), None, None]);
        assert_eq!(broken.wait(Tries { failed: 2, reached: false }), None);
        let first = Tries::default();
        assert_eq!(status(429, Some(3000.0)).wait(first), Some(3000.0));
        assert_eq!(status(503, None).wait(first), Some(500.0));
        assert_eq!(status(429, Some(600_000.0)).wait(first), None);
        assert_eq!(status(429, Some(1.0)).wait(Tries { failed: 5, reached: true }), None);
        for useless in [status(403, None), status(404, None), status(416, None), Trouble::WholeFile, Trouble::Page] {
            assert_eq!(useless.wait(first), None);
        }
        assert_eq!(Trouble::WrongHash.wait(first), Some(0.0));
        assert_eq!(Trouble::WrongHash.wait(Tries { failed: 1, reached: true }), None);
    }

    #[test]
    fn every_trouble_has_words_and_a_next_step() {
        let troubles = [
            Trouble::Broken { detail: "Failed to fetch".into() },
            Trouble::Silent,
            status(403, None),
            status(404, None),
            status(416, None),
            status(429, Some(600_000.0)),
            status(500, None),
            Trouble::Page,
            Trouble::WholeFile,
            Trouble::Length { got: 1, expected: 2 },
            Trouble::Changed { how: "its ETag changed".into() },
            Trouble::WrongHash,
            Trouble::NoRoom { missing: Some(1_300_000_000) },
            Trouble::Storage { detail: "x".into() },
            Trouble::InUse,
            Trouble::NoLength,
            Trouble::FileGone { detail: "x".into() },
        ];
        for trouble in troubles {
            let failure = trouble.failure("models.example", "model.safetensors", Some((8388608, 16777215)));
            assert!(failure.message.ends_with('.') && failure.next_step.ends_with('.'), "{failure:?}");
        }
        let named = Trouble::WrongHash.failure("h", "m.gguf", Some((0, 9))).message;
        assert!(named.contains("m.gguf (bytes 0 to 9)"), "{named}");
        assert!(status(429, Some(600_000.0)).failure("h", "m", None).message.contains("wait 10 minutes"));
        assert!(
            Trouble::NoRoom { missing: Some(1_300_000_000) }.failure("h", "m", None).message.contains("1.3 GB more")
        );
    }

    #[test]
    fn headers_are_read_strictly() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 9, 100)));
        for bad in ["bytes */100", "bytes 0-9/*", "bytes 9-0/100", "bytes 0-100/100", "0-9/100", "bytes 0-9"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(retry_after_ms(" 3 "), Some(3000.0));
        assert_eq!(retry_after_ms("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(retry_after_ms("-3"), None);
        assert_eq!((bytes_in_words(2_100_000_000), bytes_in_words(98_362_432)), ("2.1 GB".into(), "98 MB".into()));
    }
}
