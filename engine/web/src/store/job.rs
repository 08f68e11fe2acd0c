//! Brings one model, chunk by chunk: asks what it needs, fetches it in a few lanes, hashes each chunk before it counts, and
//! keeps the manifest up to date, so that it may be stopped at any moment and go on later.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use futures_util::future::join_all;
use js_sys::Uint8Array;
use sotto_core::formats::pinned::{CHUNK, PINNED_NAME, PinnedManifest, Sha256, chunk_count};
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;

use super::manifest::{Manifest, Piece, needed_chunks, pinned_hash};
use super::net::{Part, Request};
use super::opfs::{DataFile, Folder};
use super::page::{estimate, sha256, sleep};
use super::stored::{Described, Stored, holds_weights};
use super::trouble::{Tries, Trouble};
use crate::browser::{now, words};
use crate::protocol::{Failure, FailureCode};

/// Chunks fetched at once; each holds one chunk in memory.
const LANES: usize = 4;
/// The manifest is written this often at most while chunks come.
const SAVE_MS: f64 = 1000.0;
/// A request that brings nothing for this long is ended.
const SILENCE_MS: f64 = 60_000.0;
/// The manifest of a model that is not complete.
pub(super) const PART: &str = "part.json";

/// Where the bytes come from.
pub(super) enum Feed {
    /// The addresses of the manifest's source.
    Net,
    /// Files that the user chose, by name.
    Files(BTreeMap<String, web_sys::File>),
}

/// What is known of a file before it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<Sha256>,
}

/// How a job ended.
pub(super) enum End {
    Complete,
    Paused,
    Cancelled,
    Failed(Failure),
}

/// Why a job has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Pause,
    Cancel,
    /// Another lane failed.
    Failed,
}

/// Ends the work inside of a job: stopped, or failed.
enum Ended {
    Stopped,
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A model on its way. Cells are never borrowed across an await.
pub(super) struct Job {
    folder: Folder,
    feed: Feed,
    /// By path, from the model's entry.
    expected: BTreeMap<String, Expected>,
    stored: RefCell<Stored<DataFile>>,
    pinned: RefCell<Option<PinnedManifest>>,
    active: RefCell<Vec<Rc<Request>>>,
    /// Chunks that came damaged once while they were looked at.
    damaged: RefCell<BTreeSet<u64>>,
    /// Why nothing moves, or empty.
    pub(super) waiting: RefCell<String>,
    stop: Cell<Option<Stop>>,
    reached: Cell<bool>,
    unsaved: Cell<bool>,
    saved: Cell<f64>,
    saving: Cell<bool>,
}

impl Job {
    /// Of a manifest and its data file, new or half done.
    pub(super) async fn new(
        folder: Folder,
        manifest: Manifest,
        feed: Feed,
        expected: BTreeMap<String, Expected>,
    ) -> Result<Self, Trouble> {
        let data = folder.open_alone(&manifest.data).await?;
        let data = data.ok_or_else(|| Trouble::Storage { detail: "the data file could not be made".to_owned() })?;
        Ok(Self {
            folder,
            feed,
            expected,
            stored: RefCell::new(Stored { manifest, data }),
            pinned: RefCell::new(None),
            active: RefCell::default(),
            damaged: RefCell::default(),
            waiting: RefCell::default(),
            stop: Cell::new(None),
            reached: Cell::new(false),
            unsaved: Cell::new(false),
            saved: Cell::new(0.0),
            saving: Cell::new(false),
        })
    }

    /// Asks it to stop; [`Job::run`] returns soon.
    pub(super) fn stop(&self, why: Stop) {
        if self.stop.get().is_none() || why == Stop::Cancel {
            self.stop.set(Some(why));
        }
        self.active.borrow().iter().for_each(|request| request.end());
    }

    /// Ends requests that bring nothing.
    pub(super) fn watch(&self) {
        self.active.borrow().iter().for_each(|request| request.end_if_silent(SILENCE_MS));
    }

    /// Bytes that have come, chunks under way included, and bytes needed as far as is known.
    pub(super) fn progress(&self) -> (u64, u64) {
        let (done, total) = self.stored.borrow().manifest.progress();
        let coming: u64 = self.active.borrow().iter().map(|request| request.received.get()).sum();
        ((done + coming).min(total.max(done)), total)
    }

    /// True when the total is known.
    pub(super) fn is_planned(&self) -> bool {
        self.stored.borrow().manifest.planned
    }

    /// The model's name, and where it comes from in words.
    pub(super) fn about(&self) -> (String, String) {
        let stored = self.stored.borrow();
        (stored.manifest.name.clone(), stored.manifest.source.words())
    }

    /// The manifest as it stands.
    pub(super) fn manifest(&self) -> Manifest {
        self.stored.borrow().manifest.clone()
    }

    /// Works until the model is complete, the job is stopped, or something fails for good. The manifest is saved in each case.
    pub(super) async fn run(&self) -> End {
        let outcome = self.bring().await;
        let end = match (outcome, self.stop.get()) {
            (_, Some(Stop::Cancel)) => return End::Cancelled,
            (Ok(()), _) => End::Complete,
            (Err(Ended::Failed(failure)), _) => End::Failed(failure),
            (Err(Ended::Stopped), _) => End::Paused,
        };
        match self.save().await {
            Ok(()) => end,
            Err(trouble) => End::Failed(self.failure(&trouble, PART, None)),
        }
    }

    async fn bring(&self) -> Result<(), Ended> {
        let mut absent = BTreeSet::new();
        self.load_pinned().await?;
        loop {
            self.bring_missing().await?;
            if self.is_planned() {
                break;
            }
            let described = self.stored.borrow().describe(&absent, false);
            match described.map_err(|e| not_a_model(&e))? {
                Described::NeedFile { path, optional } => {
                    if !self.look(&path, optional).await? {
                        absent.insert(path);
                    }
                }
                Described::NeedChunks { file, chunks } => chunks.into_iter().for_each(|chunk| self.need(file, chunk)),
                Described::Model { description, files } => {
                    for (number, &file) in files.iter().enumerate() {
                        needed_chunks(&description.weights, number)
                            .into_iter()
                            .for_each(|chunk| self.need(file, chunk));
                    }
                    self.stored.borrow_mut().manifest.planned = true;
                    self.check_room().await?;
                }
            }
        }
        self.check_whole_files().await
    }

    /// Reads `sotto-manifest.json` beside the files, if there is one. On the hub there is none, and the entry is trusted.
    async fn load_pinned(&self) -> Result<(), Ended> {
        let part = match &self.feed {
            Feed::Net if self.is_hub() => return Ok(()),
            Feed::Files(files) if !files.contains_key(PINNED_NAME) => return Ok(()),
            _ => self.part_with_patience(PINNED_NAME, true).await?,
        };
        let Some(part) = part else { return Ok(()) };
        // Its length is looked at before its bytes come into the engine's memory.
        let pinned = PinnedManifest::check_len(part.bytes.length() as usize)
            .and_then(|()| PinnedManifest::parse(&part.bytes.to_vec()));
        *self.pinned.borrow_mut() = Some(pinned.map_err(|e| Failure {
            code: FailureCode::SourceChanged,
            message: format!("The list of hashes beside the model's files cannot be read: {e}."),
            next_step: "Have it made anew, or remove it from the folder.".to_owned(),
        })?);
        Ok(())
    }

    fn is_hub(&self) -> bool {
        matches!(self.stored.borrow().manifest.source, super::manifest::Source::Hub { .. })
    }

    /// The length that a file must have.
    fn expected_bytes(&self, path: &str) -> Option<u64> {
        let pinned = self.pinned.borrow().as_ref().map(|p| p.file(path).map(|f| f.bytes));
        // A mirror's list, where there is one, speaks for its files; else the model's entry does.
        pinned.unwrap_or_else(|| self.expected.get(path).and_then(|e| e.bytes))
    }

    /// The hash that a chunk must have.
    fn expected_hash(&self, path: &str, bytes: u64, index: u64) -> Option<Sha256> {
        let pinned = self.pinned.borrow();
        match pinned.as_ref() {
            Some(pinned) => pinned_hash(Some(pinned), path, index),
            None => self.expected.get(path).and_then(|e| e.sha256).filter(|_| bytes <= CHUNK),
        }
    }

    fn need(&self, file: usize, index: u64) {
        let found = self.stored.borrow().manifest.files.get(file).map(|f| (f.path.clone(), f.bytes));
        let Some((path, bytes)) = found else { return };
        let hash = self.expected_hash(&path, bytes, index);
        self.stored.borrow_mut().manifest.need(file, index, hash);
    }

    /// Takes a file up by its first chunk. False if the source does not have it and it is optional.
    async fn look(&self, path: &str, optional: bool) -> Result<bool, Ended> {
        let Some(part) = self.part_with_patience(path, optional).await? else { return Ok(false) };
        let expected = self.expected_bytes(path);
        let failed = |trouble: Trouble| Ended::Failed(self.failure(&trouble, path, None));
        let total = part.total.or(expected).ok_or_else(|| failed(Trouble::NoLength))?;
        if let Some(expected) = expected.filter(|expected| *expected != total) {
            return Err(failed(Trouble::Changed { how: format!("it has {total} bytes and should have {expected}") }));
        }
        let is_pinned = self.expected_hash(path, total, 0).is_some();
        let number = self.stored.borrow_mut().manifest.add_file(path, total, part.etag.clone(), is_pinned);
        let number = number.map_err(|e| not_a_model(&e))?;
        let needed = if holds_weights(path) { chunk_count(total).min(1) } else { chunk_count(total) };
        (0..needed).for_each(|index| self.need(number, index));
        let first = self.stored.borrow().manifest.missing().into_iter().find(|p| p.file == number && p.chunk == 0);
        if let Some(piece) = first {
            match self.store(piece, &part.bytes).await {
                Ok(()) => {}
                Err(Trouble::WrongHash) => drop(self.damaged.borrow_mut().insert(piece.at)),
                Err(trouble) => return Err(self.failure(&trouble, path, None).into()),
            }
        }
        Ok(true)
    }

    /// The first chunk of a file of which nothing is known; none if it is optional and the source does not have it.
    async fn part_with_patience(&self, path: &str, optional: bool) -> Result<Option<Part>, Ended> {
        let mut failed = 0;
        loop {
            let trouble = match self.part(path, 0, CHUNK).await {
                Ok(part) => return Ok(Some(part)),
                Err(trouble) => trouble,
            };
            // Stores of static files answer 403, or their start page, for what they do not have; 416 is an empty file.
            let lacks = matches!(trouble, Trouble::Page | Trouble::Status { status: 403 | 404 | 410 | 416, .. });
            if optional && lacks && (self.reached.get() || !self.is_hub()) {
                return Ok(None);
            }
            self.wait_or_fail(trouble, path, None, &mut failed).await?;
        }
    }

    /// Fetches all chunks that are needed and not stored.
    async fn bring_missing(&self) -> Result<(), Ended> {
        let queue: RefCell<VecDeque<Piece>> = RefCell::new(self.stored.borrow().manifest.missing().into());
        let lane = async || {
            loop {
                let Some(piece) = queue.borrow_mut().pop_front() else { return Ok(()) };
                if let Err(ended) = self.bring_piece(piece).await {
                    if matches!(ended, Ended::Failed(_)) {
                        self.stop(Stop::Failed);
                    }
                    return Err(ended);
                }
            }
        };
        let lanes: Vec<_> = (0..LANES).map(|_| lane()).collect();
        let mut outcome = if self.stop.get().is_some() { Err(Ended::Stopped) } else { Ok(()) };
        for ended in join_all(lanes).await {
            // A failure says more than the stop that it caused in the other lanes.
            if outcome.is_ok() || matches!(ended, Err(Ended::Failed(_))) {
                outcome = ended;
            }
        }
        outcome
    }

    async fn bring_piece(&self, piece: Piece) -> Result<(), Ended> {
        let (path, bytes, etag, pinned) = {
            let stored = self.stored.borrow();
            let Some(file) = stored.manifest.files.get(piece.file) else { return Ok(()) };
            (file.path.clone(), file.bytes, file.etag.clone(), file.pinned)
        };
        let mut failed = u32::from(self.damaged.borrow().contains(&piece.at));
        loop {
            let outcome = match self.part(&path, piece.offset, piece.len).await {
                Ok(part) => match changed(&part, bytes, etag.as_deref().filter(|_| !pinned)) {
                    Some(trouble) => Err(trouble),
                    None => self.store(piece, &part.bytes).await,
                },
                Err(trouble) => Err(trouble),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(trouble) => {
                    let span = (piece.offset, piece.offset + piece.len - 1);
                    self.wait_or_fail(trouble, &path, Some(span), &mut failed).await?;
                }
            }
        }
    }

    /// Waits before the next try, or ends with words.
    async fn wait_or_fail(
        &self,
        trouble: Trouble,
        path: &str,
        span: Option<(u64, u64)>,
        failed: &mut u32,
    ) -> Result<(), Ended> {
        if self.stop.get().is_some() {
            return Err(Ended::Stopped);
        }
        let tries = Tries { failed: *failed, reached: self.reached.get() };
        let Some(wait) = trouble.wait(tries) else { return Err(self.failure(&trouble, path, span).into()) };
        *failed += 1;
        *self.waiting.borrow_mut() = trouble.waiting_words(&self.host(), wait);
        let until = now() + wait;
        while now() < until {
            sleep((until - now()).min(200.0)).await;
            if self.stop.get().is_some() {
                return Err(Ended::Stopped);
            }
        }
        Ok(())
    }

    /// Bytes of a file from the feed.
    async fn part(&self, path: &str, offset: u64, len: u64) -> Result<Part, Trouble> {
        if self.stop.get().is_some() {
            return Err(Trouble::Silent);
        }
        let files = match &self.feed {
            Feed::Files(files) => files,
            Feed::Net => {
                let url = self.stored.borrow().manifest.source.address(path).unwrap_or_default();
                let request = Rc::new(Request::new()?);
                self.active.borrow_mut().push(Rc::clone(&request));
                let part = request.get(&url, offset, len).await;
                self.active.borrow_mut().retain(|other| !Rc::ptr_eq(other, &request));
                if part.is_ok() {
                    self.reached.set(true);
                    self.waiting.borrow_mut().clear();
                }
                return part;
            }
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        let file = files.get(name).ok_or(Trouble::Status { status: 404, retry_after_ms: None })?;
        let gone = |e: wasm_bindgen::JsValue| Trouble::FileGone { detail: words(&e) };
        let total = file.size() as u64;
        let end = (offset + len).min(total);
        let slice = file.slice_with_f64_and_f64(offset as f64, end as f64).map_err(gone)?;
        let buffer = JsFuture::from(slice.array_buffer()).await.map_err(gone)?;
        // A file that is changed in the middle is another file.
        let etag = Some(format!("\"{}\"", file.last_modified()));
        Ok(Part { bytes: Uint8Array::new(buffer.unchecked_ref()), total: Some(total), etag })
    }

    /// Hashes a chunk, and stores it if the hash is right.
    async fn store(&self, piece: Piece, bytes: &Uint8Array) -> Result<(), Trouble> {
        if u64::from(bytes.length()) != piece.len {
            return Err(Trouble::Length { got: bytes.length().into(), expected: piece.len });
        }
        let hash = sha256(bytes).await?;
        if piece.expected.is_some_and(|expected| expected != hash) {
            return Err(Trouble::WrongHash);
        }
        let mut stored = self.stored.borrow_mut();
        stored.data.write(piece.at, bytes)?;
        stored.manifest.set_done(piece, hash);
        self.unsaved.set(true);
        Ok(())
    }

    /// Files of several chunks whose hash is known only as a whole: texts, which are small enough to be hashed at once.
    async fn check_whole_files(&self) -> Result<(), Ended> {
        if self.pinned.borrow().is_some() {
            return Ok(());
        }
        for (path, expected) in &self.expected {
            let Some(hash) = expected.sha256 else { continue };
            let number = self.stored.borrow().manifest.find(path).filter(|_| !holds_weights(path));
            let Some(number) = number else { continue };
            let pieces: Vec<Piece> =
                self.stored.borrow().manifest.stored().into_iter().filter(|p| p.file == number).collect();
            let len: u64 = pieces.iter().map(|p| p.len).sum();
            let whole = Uint8Array::new_with_length(u32::try_from(len).unwrap_or(0));
            for piece in &pieces {
                let into = whole.subarray(piece.offset as u32, (piece.offset + piece.len) as u32);
                self.stored.borrow().data.read_outside(piece.at, &into).map_err(|e| not_a_model(&e))?;
            }
            let trouble = match sha256(&whole).await {
                Ok(found) if found == hash => continue,
                Ok(_) => Trouble::WrongHash,
                Err(trouble) => trouble,
            };
            pieces.into_iter().for_each(|piece| self.stored.borrow_mut().manifest.forget(piece));
            return Err(self.failure(&trouble, path, None).into());
        }
        Ok(())
    }

    /// Fails early where the disk cannot hold the rest.
    async fn check_room(&self) -> Result<(), Ended> {
        let (done, total) = self.stored.borrow().manifest.progress();
        let (used, quota, _) = estimate().await;
        let Some(quota) = quota else { return Ok(()) };
        let free = (quota - used).max(0.0) as u64;
        match (total - done).checked_sub(free) {
            Some(missing) if missing > 0 => {
                Err(self.failure(&Trouble::NoRoom { missing: Some(missing) }, "the model", None).into())
            }
            _ => Ok(()),
        }
    }

    /// Writes the manifest if chunks have come since the last time, and that is a while ago. If it fails, the next time or the
    /// job's end will tell.
    pub(super) async fn save_sometimes(&self) {
        if self.unsaved.get() && !self.saving.get() && now() - self.saved.get() >= SAVE_MS {
            let _ = self.save().await;
        }
    }

    /// Writes the manifest. What it says is stored is on the disk before.
    async fn save(&self) -> Result<(), Trouble> {
        while self.saving.replace(true) {
            sleep(5.0).await;
        }
        self.unsaved.set(false);
        let text = {
            let stored = self.stored.borrow();
            stored
                .data
                .flush()
                .and_then(|()| stored.manifest.text().map_err(|e| Trouble::Storage { detail: e.to_string() }))
        };
        let outcome = match text {
            Ok(text) => self.folder.replace(PART, &text).await,
            Err(trouble) => Err(trouble),
        };
        self.saving.set(false);
        self.unsaved.set(outcome.is_err() || self.unsaved.get());
        self.saved.set(now());
        outcome
    }

    fn host(&self) -> String {
        self.stored.borrow().manifest.source.host()
    }

    fn failure(&self, trouble: &Trouble, path: &str, span: Option<(u64, u64)>) -> Failure {
        trouble.failure(&self.host(), path, span)
    }
}

/// What is wrong with a part that is not of the file as it was when it was first looked at.
fn changed(part: &Part, bytes: u64, etag: Option<&str>) -> Option<Trouble> {
    let how = match (part.total, &part.etag, etag) {
        (Some(total), _, _) if total != bytes => format!("it has {total} bytes now and had {bytes}"),
        (_, Some(now), Some(before)) if now != before => {
            "it was replaced by another version (its ETag changed)".to_owned()
        }
        _ => return None,
    };
    Some(Trouble::Changed { how })
}

fn not_a_model(error: &sotto_core::Error) -> Failure {
    Failure {
        code: FailureCode::NotAModel,
        message: format!("This is no model that Sotto can run: {error}."),
        next_step:
            "Choose a supported model: a GGUF file, or a folder with config.json, tokenizer.json and safetensors."
                .to_owned(),
    }
}
