//! Every message between a page of the extension and the engine, defined once. `offscreen/pkg/engine.d.ts` is generated
//! from these types, and `tests/protocol/wire/*.json` pins their form on both sides.
//!
//! Messages are JSON-safe: no `u64`, no byte arrays, no maps; what is not there is left out, never null. A request is a stream of [`Update`]s with rising `seq`, and
//! ends with exactly one of [`Event::Done`], [`Event::Stopped`] or [`Event::Failed`].

use serde::{Deserialize, Serialize};
use tsify::Tsify;

/// What a popup or card says to the engine, over a port named `sotto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ToEngine {
    /// Start a request. Answered by updates for `request`, on this port and on any that attaches to the conversation.
    Ask {
        /// Chosen by the sender, unique.
        request: String,
        /// Requests of one conversation share its turns; one tab's document (or one card) is one conversation.
        conversation: String,
        /// What to do.
        task: Task,
        /// The text to do it with. `None` in a follow-up: the conversation's document is used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<Source>,
    },
    /// Send everything of a conversation (turns so far, then live updates): after a popup opens again.
    Attach {
        /// The conversation.
        conversation: String,
    },
    /// Send the updates of a request after `seq` again, then live ones: after a port broke.
    Resume {
        /// The request.
        request: String,
        /// The last one received.
        after_seq: u32,
    },
    /// Stop a request and keep its text.
    Stop {
        /// The request.
        request: String,
    },
    /// Forget a conversation: its tab closed or went elsewhere, or the user starts over.
    Forget {
        /// The conversation.
        conversation: String,
    },
    /// Ask for [`FromEngine::Status`]; loads the model if it is not loaded.
    Warm,
    /// Ask for [`FromEngine::Models`], now and whenever it changes. This and all that follow are for the extension's own
    /// pages: a card in a web page may not send them.
    Models,
    /// Fetch a model: only ever sent because the user clicked. Does nothing while it is being fetched or is here.
    Get {
        /// Which.
        model: String,
        /// The address of a folder that holds the model's files, instead of the model hub. If it sends no CORS headers, the
        /// page has asked for the permission to read that origin before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mirror: Option<String>,
    },
    /// Fetch a model of the user's own from an address: of a GGUF file, or of a folder with `config.json`, `tokenizer.json` and
    /// safetensors.
    GetFrom {
        /// The address, http or https.
        address: String,
    },
    /// Stop fetching for now; what has come stays.
    PauseGet {
        /// Which.
        model: String,
    },
    /// Go on where a fetch was paused, failed, or was cut by the end of the browser: from the same source.
    ResumeGet {
        /// Which.
        model: String,
    },
    /// Stop fetching and delete what has come. A model that was here before stays.
    CancelGet {
        /// Which.
        model: String,
    },
    /// Delete a model from this computer.
    Delete {
        /// Which.
        model: String,
    },
    /// Hash a stored model again. Damaged chunks are forgotten, and [`ToEngine::ResumeGet`] fetches just them.
    Check {
        /// Which.
        model: String,
    },
    /// Answer with this model from now on: after the request that runs, before those that wait. A model that cannot be
    /// loaded is answered with [`FromEngine::Notice`], and the packaged one serves.
    Use {
        /// Which.
        model: String,
    },
    /// Put a loaded model away when it was not used for so long; it is loaded again when it is needed.
    SetIdle {
        /// Minutes, in parts if need be; 0 for never.
        minutes: f64,
    },
}

/// What the engine asks of its host document, because a worker cannot do it. Each is answered with true or false.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum OfHost {
    /// Open the network lock for the fetches that the user asked for, GET only and only to these; closed if there are none.
    Network {
        /// Where to.
        to: Vec<Destination>,
    },
    /// Ask the browser to keep what is stored even when the disk runs full.
    Persist,
}

/// What the organisation has set for its users (`extension/managed-schema.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// False if nothing may be downloaded; files may still be imported.
    pub downloads_allowed: bool,
    /// The folder on its own server that holds one folder a model, named by the model's id.
    pub mirror: Option<String>,
}

/// Where an opened lock leads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Destination {
    /// The model hub, and whatever hosts it sends on to; always over TLS.
    Hub,
    /// One origin.
    Origin {
        /// Such as `https://models.example.org:8443`.
        origin: String,
    },
}

/// What a page of the extension posts on the channel [`IMPORT_CHANNEL`]: files cannot travel over a port. Not JSON.
///
/// `model` is the id of the model that the files are; without it they are a model of the user's own, named after its file or
/// folder. `name` is the folder's, which dropped files don't know. `files` are `File` objects in any order, of one GGUF file or one folder.
pub const IMPORT_CHANNEL: &str = "sotto-import";

/// What a user asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Task {
    /// Summarize the source.
    Summarize,
    /// Say it in other words.
    Rewrite {
        /// How.
        style: RewriteStyle,
    },
    /// Explain it simply.
    Explain,
    /// Answer a question about it.
    Question {
        /// The user's words.
        question: String,
    },
}

/// How to rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub enum RewriteStyle {
    /// Easier to follow.
    Clearer,
    /// Fewer words.
    Shorter,
    /// For a formal occasion.
    Formal,
    /// Warmer.
    Friendly,
    /// Only mistakes mended.
    FixGrammar,
}

/// Text read from a page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// What was read.
    pub kind: SourceKind,
    /// Light Markdown: `# ` headings, `- ` items, `| ` tables, fenced code; paragraphs apart by an empty line.
    pub text: String,
    /// The page's title.
    pub title: String,
    /// The page's address; shown, never fetched.
    pub url: String,
    /// The page's own language tag, or empty.
    pub lang: String,
    /// Words in `text`.
    pub words_read: u32,
    /// Words on the page; more than `words_read` when some were left out.
    pub words_total: u32,
    /// Parts that could not be read, in words ("2 frames of other sites").
    pub unread: Vec<String>,
    /// True for a tab of an incognito window: nothing of it is stored.
    pub incognito: bool,
}

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub enum SourceKind {
    /// The whole page.
    Page,
    /// The selection.
    Selection,
    /// A selection in a text field that can be replaced.
    Field,
}

/// What the engine says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FromEngine {
    /// The engine's state; sent on connect and whenever it changes.
    Status {
        /// The state.
        engine: EngineState,
    },
    /// One step of a request.
    Update {
        /// The request.
        request: String,
        /// Its conversation.
        conversation: String,
        /// 0, 1, 2 … without gaps.
        seq: u32,
        /// What happened.
        event: Event,
    },
    /// The answer to [`ToEngine::Attach`]: the updates of these requests follow, in order.
    Attached {
        /// The conversation.
        conversation: String,
        /// Its requests, oldest first.
        requests: Vec<String>,
    },
    /// A message that the engine could not read or act on.
    Refused {
        /// Why, and what to do.
        reason: Failure,
    },
    /// Something failed that ends no request, such as a change to another model.
    Notice {
        /// What, and what to do.
        reason: Failure,
    },
    /// The models and the machine: the answer to [`ToEngine::Models`], and sent again whenever it changes, at most four
    /// times a second.
    Models {
        /// Those that Sotto knows and the user's own: the packaged one first, then by size.
        models: Vec<ModelState>,
        /// What there is to run them.
        machine: Machine,
        /// The id of the one that answers.
        current: String,
    },
}

/// A model, and how it stands with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct ModelState {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its licence, as an SPDX expression; empty for a file of the user's own.
    pub licence: String,
    /// Bytes that a fetch brings, or brought. Before the source was asked it is the entry's estimate.
    pub fetch_bytes: f64,
    /// Bytes it takes on this computer now, unfinished ones included.
    pub disk_bytes: f64,
    /// What kind of model it is.
    pub origin: ModelOrigin,
    /// Where it comes from, in words: "huggingface.co/google/…", "models.example.org", "a file on this computer".
    pub source: String,
    /// How it stands.
    pub status: ModelStatus,
    /// Whether this machine can run it.
    pub fit: Fit,
}

/// Kinds of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub enum ModelOrigin {
    /// Comes with the extension: always here, cannot be deleted.
    Packaged,
    /// An entry of Sotto's list, to be fetched or imported.
    Known,
    /// A file of the user's own.
    Own,
}

/// How it stands with a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ModelStatus {
    /// Nothing of it is on this computer.
    NotHere,
    /// It is coming, from the network or from a file.
    Getting {
        /// Bytes so far.
        done: f64,
        /// Bytes in all; an estimate until the source has been asked.
        total: f64,
        /// Speed over the last seconds.
        bytes_per_second: f64,
        /// Estimate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds_left: Option<f64>,
        /// Why it does not move just now ("The server asks to wait 30 s"), or empty.
        waiting: String,
    },
    /// A part is here, and goes on when asked.
    Paused {
        /// Bytes so far.
        done: f64,
        /// Bytes in all.
        total: f64,
    },
    /// The stored bytes are being hashed again.
    Checking {
        /// Bytes so far.
        done: f64,
        /// Bytes in all.
        total: f64,
    },
    /// All of it is here.
    Here {
        /// What its chunks were compared with.
        verified_against: Verified,
    },
    /// It could not be fetched or checked. What has come is kept: [`ToEngine::ResumeGet`] tries again.
    Failed {
        /// Why.
        reason: Failure,
        /// Bytes that are here.
        done: f64,
        /// Bytes in all.
        total: f64,
    },
}

/// What the chunks of a stored model were compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub enum Verified {
    /// Hashes known beforehand: of the model's entry, or of the mirror's `sotto-manifest.json`.
    Pinned,
    /// No hash was known: those of this first download were taken down, and later checks compare with them.
    FirstDownload,
    /// No hash was known: those of the imported file were taken down.
    Import,
}

/// Whether this machine can run a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Fit {
    /// True if it can, as far as is known.
    pub fits: bool,
    /// Why not, or what to expect; may be empty if it fits.
    pub reason: String,
}

/// What there is to keep and run models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Bytes that the browser lets Sotto store in addition, if it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<f64>,
    /// Bytes that Sotto has stored.
    pub used_bytes: f64,
    /// True if the browser keeps them even when the disk runs full.
    pub persisted: bool,
    /// The graphics adapter's name, or empty.
    pub gpu: String,
    /// False if the organisation has switched downloads off.
    pub downloads_allowed: bool,
    /// The mirror that the organisation has set, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<String>,
    /// Minutes without use after which a loaded model is put away; 0 for never.
    pub idle_minutes: f64,
}

/// The state of the engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum EngineState {
    /// Nothing loaded.
    Idle,
    /// Weights are streaming in.
    Loading {
        /// The model's name.
        model: String,
        /// Bytes so far.
        done_bytes: f64,
        /// Bytes in all.
        total_bytes: f64,
    },
    /// Ready for requests.
    Ready {
        /// The model's name.
        model: String,
        /// "CPU (WASM SIMD)" or the graphics adapter's name.
        device: String,
        /// Why this device, in a sentence.
        device_reason: String,
        /// What the interface says about the model's limits, or empty.
        advice: String,
    },
    /// Could not load.
    Failed {
        /// Why.
        reason: Failure,
    },
}

/// A step of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// Always first: what is being done, so that a view can be rebuilt from updates alone.
    Started {
        /// The task.
        task: Task,
        /// What it is done with.
        source_kind: SourceKind,
        /// The source's title.
        title: String,
        /// Its address.
        url: String,
        /// "5,812 of 14,020 words", or "162 words".
        coverage: String,
    },
    /// Others are before it.
    Queued {
        /// How many.
        ahead: u32,
    },
    /// The page's own sentences, word for word.
    Passages {
        /// Heading, such as "Key sentences from this page".
        label: String,
        /// In page order.
        items: Vec<Passage>,
        /// A sentence about them, or empty ("No word of your question occurs on this page").
        note: String,
    },
    /// The model reads.
    Reading {
        /// Words read.
        done_words: u32,
        /// Words to read.
        total_words: u32,
        /// Estimate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds_left: Option<f32>,
    },
    /// What follows was written by the model.
    Writing {
        /// Heading, such as "Draft by Starter: check it against the page", or empty for a model that leads.
        label: String,
    },
    /// More text.
    Text {
        /// Append this.
        text: String,
    },
    /// Replaces all text written so far (a rewrite that was tried again, or cut back to its last whole sentence).
    Rewritten {
        /// The whole text.
        text: String,
    },
    /// Something the reader should know, such as why no draft is offered.
    Notice {
        /// In words.
        text: String,
    },
    /// Finished. Terminal.
    Done {
        /// For the details line.
        stats: Stats,
    },
    /// Stopped by the user; the text stays. Terminal.
    Stopped {
        /// For the details line.
        stats: Stats,
    },
    /// Could not be done; text so far stays. Terminal.
    Failed {
        /// Why.
        reason: Failure,
    },
}

/// A sentence of the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Passage {
    /// Word for word.
    pub text: String,
    /// Where it begins in [`Source::text`], in UTF-16 units.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
}

/// Numbers of the details line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// The model's name, or empty when no model ran.
    pub model: String,
    /// The device's name.
    pub device: String,
    /// Tokens read before the first one written (those already cached left out).
    pub prompt_tokens: u32,
    /// Tokens written.
    pub written_tokens: u32,
    /// Tokens per second while writing.
    pub tokens_per_second: f32,
    /// Seconds from the request's start to its first written text.
    pub first_text_seconds: f32,
    /// Positions of the context in use.
    pub context_used: u32,
    /// Positions there are.
    pub context_size: u32,
}

/// Why something could not be done, and what to do about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// For code: stable.
    pub code: FailureCode,
    /// What happened, in a sentence.
    pub message: String,
    /// What to do, in a sentence.
    pub next_step: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase")]
pub enum FailureCode {
    /// A message was malformed.
    BadMessage,
    /// The page has no text to work with.
    NothingToRead,
    /// The page cannot be read by extensions.
    PageNotReadable,
    /// The conversation has no document any more.
    ConversationGone,
    /// The model could not be loaded.
    ModelFailed,
    /// The graphics device failed.
    DeviceFailed,
    /// The text is too long for this task.
    TooLong,
    /// The model's writing did not pass its checks.
    Unreliable,
    /// The engine stopped.
    EngineStopped,
    /// No connection, or one that broke: the network, a name, TLS.
    NetworkFailed,
    /// The server, or a proxy before it, does not let this through.
    Blocked,
    /// The server does not have the file.
    NotFound,
    /// The server is too busy.
    ServerBusy,
    /// The server does not send parts of files.
    NoRanges,
    /// The source's files changed while they were fetched, or are not what was expected.
    SourceChanged,
    /// A chunk has not the hash it must have.
    WrongBytes,
    /// There is no room.
    DiskFull,
    /// Another window is at work on the same model.
    AtWorkElsewhere,
    /// The model is in use.
    ModelInUse,
    /// These files are no model that Sotto can run.
    NotAModel,
    /// The organisation's policy forbids it.
    ForbiddenByPolicy,
    /// The browser's storage failed.
    StorageFailed,
}
