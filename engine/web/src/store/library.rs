//! All models and how it stands with each: carries out what the user asks, and tells whoever listens.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use serde::Serialize;
use sotto_core::formats::pinned::{CHUNK, Sha256};
use sotto_core::recipes::{ModelEntry, Source as EntrySource};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{BroadcastChannel, File, MessageEvent};

use super::job::{End, Expected, Feed, Job, PART, Stop};
use super::manifest::{MAX_MANIFEST, Manifest, Source};
use super::opfs::{Access, DataFile, Folder, Make};
use super::own_id;
use super::page::{Lock, estimate, sha256, sleep};
use super::source::split_address;
use super::speed::Speed;
use super::stored::Stored;
use super::trouble::{Trouble, bytes_in_words};
use crate::browser::now;
use crate::protocol::{
    Destination, Failure, FailureCode, Fit, FromEngine, IMPORT_CHANNEL, Machine, ModelOrigin, ModelState, ModelStatus,
    OfHost, Policy, ToEngine, Verified,
};

/// The manifest of a complete model.
/// Whether the models on this computer have been looked through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scan {
    Never,
    Running,
    Done,
}

const SCAN_PAUSE_MS: f64 = 10.0;

const MANIFEST: &str = "manifest.json";
/// The user's settings, in the folder of models.
const SETTINGS: &str = "settings.json";
const MAX_SETTINGS: usize = 64 << 10;
/// Listeners hear of changes this often at most.
const TELL_MS: f64 = 250.0;
/// Most files of one import.
const MAX_IMPORT: u32 = 1024;

/// What is being done with a model; one thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Getting,
    Checking,
    Deleting,
}

/// What was asked for when a job began: what "again" means.
#[derive(Clone)]
struct Wish {
    name: String,
    weights: Option<String>,
    source: Source,
    files: Option<BTreeMap<String, File>>,
}

/// A model, as far as the store is concerned.
#[derive(Default)]
struct Item {
    /// Of a model that Sotto knows.
    entry: Option<ModelEntry>,
    here: Option<Manifest>,
    part: Option<Manifest>,
    job: Option<Rc<Job>>,
    /// From the click until all is tidied up: nothing else may begin.
    work: Option<Work>,
    speed: Speed,
    failure: Option<Failure>,
    checking: Option<(u64, u64)>,
    /// The last one, until it is fulfilled. Chosen files are in it: they can be read for as long as this worker lives.
    wish: Option<Wish>,
    fit: Option<Fit>,
}

/// The channel on which pages hand over files.
struct Imports {
    _channel: BroadcastChannel,
    _heard: Closure<dyn FnMut(MessageEvent)>,
}

/// All models. Cells are never borrowed across an await.
pub(crate) struct Library {
    emit: Function,
    ask: Function,
    items: RefCell<BTreeMap<String, Item>>,
    listeners: RefCell<BTreeSet<String>>,
    machine: RefCell<Machine>,
    current: RefCell<String>,
    /// What the network lock is open for: one for each job that needs it.
    online: RefCell<Vec<Destination>>,
    telling: Cell<bool>,
    told: Cell<f64>,
    /// The folder of models has been read.
    scanned: Cell<Scan>,
    /// Kept alive for as long as imports are heard.
    imports: RefCell<Option<Imports>>,
}

impl Library {
    /// `emit(client, message)` reaches a client; `ask(what)` has the host document do an [`OfHost`], and promises whether it did.
    pub(crate) fn new(emit: Function, ask: Function, entries: &[ModelEntry]) -> Rc<Self> {
        let items =
            entries.iter().map(|e| (e.id.clone(), Item { entry: Some(e.clone()), ..Item::default() })).collect();
        let machine = Machine {
            free_bytes: None,
            used_bytes: 0.0,
            persisted: false,
            gpu: String::new(),
            downloads_allowed: true,
            mirror: None,
            idle_minutes: 0.0,
        };
        let library = Rc::new(Self {
            emit,
            ask,
            items: RefCell::new(items),
            listeners: RefCell::default(),
            machine: RefCell::new(machine),
            current: RefCell::new(entries.first().map(|e| e.id.clone()).unwrap_or_default()),
            online: RefCell::default(),
            telling: Cell::new(false),
            told: Cell::new(0.0),
            scanned: Cell::new(Scan::Never),
            imports: RefCell::new(None),
        });
        library.listen_for_imports();
        library
    }

    /// A client's port closed.
    pub(crate) fn disconnect(&self, client: &str) {
        self.listeners.borrow_mut().remove(client);
    }

    /// Says which model answers.
    pub(crate) fn set_current(self: &Rc<Self>, model: &str) {
        *self.current.borrow_mut() = model.to_owned();
        self.changed();
    }

    /// Takes in what the organisation has set.
    pub(crate) fn set_policy(self: &Rc<Self>, policy: Policy) {
        {
            let mut machine = self.machine.borrow_mut();
            machine.downloads_allowed = policy.downloads_allowed;
            machine.mirror = policy.mirror.map(|m| m.trim_end_matches('/').to_owned()).filter(|m| !m.is_empty());
        }
        self.changed();
    }

    /// Says whether the machine can run a model.
    pub(crate) fn set_fit(self: &Rc<Self>, model: &str, fit: Fit) {
        self.with(model, |item| item.fit = Some(fit));
        self.changed();
    }

    /// Does what a client asks, if it is the store's to do: false otherwise.
    pub(crate) fn receive(self: &Rc<Self>, client: &str, message: &ToEngine) -> bool {
        let library = Rc::clone(self);
        match message.clone() {
            ToEngine::Models => {
                self.listeners.borrow_mut().insert(client.to_owned());
                spawn_local(async move { library.greet().await });
            }
            ToEngine::Get { model, mirror } => spawn_local(async move { library.get(&model, mirror).await }),
            ToEngine::GetFrom { address } => spawn_local(async move { library.get_from(&address).await }),
            ToEngine::ResumeGet { model } => spawn_local(async move { library.resume(&model).await }),
            ToEngine::PauseGet { model } => self.stop(&model, Stop::Pause),
            ToEngine::CancelGet { model } => spawn_local(async move { library.cancel(&model).await }),
            ToEngine::Delete { model } => spawn_local(async move { library.delete(&model).await }),
            ToEngine::Check { model } => spawn_local(async move { library.check(&model).await }),
            _ => return false,
        }
        true
    }

    /// Says when an unused model is put away.
    pub(crate) fn set_idle(self: &Rc<Self>, minutes: f64) {
        self.machine.borrow_mut().idle_minutes = minutes;
        self.changed();
    }

    /// Says which graphics adapter there is, or none.
    pub(crate) fn set_gpu(self: &Rc<Self>, gpu: &str) {
        self.machine.borrow_mut().gpu = gpu.to_owned();
        self.changed();
    }

    /// The stored text of the user's settings.
    pub(crate) async fn settings(&self) -> Option<String> {
        let bytes = Folder::models().await.ok()?.document(SETTINGS, MAX_SETTINGS).await.ok()??;
        String::from_utf8(bytes).ok()
    }

    /// Stores it. Where that fails the next start has the settings of before: nothing that a user would want to hear of now.
    pub(crate) async fn keep_settings(&self, text: &str) {
        if let Ok(models) = Folder::models().await {
            let _ = models.replace(SETTINGS, text).await;
        }
    }

    /// Opens a stored model for loading; errors have a next step.
    pub(crate) async fn open(&self, model: &str) -> Result<Stored<DataFile>, Failure> {
        let failed = |trouble: Trouble| trouble.failure("", model, None);
        let folder = Folder::models().await.map_err(failed)?.folder(model, Make::No).await.map_err(failed)?;
        let manifest = match &folder {
            Some(folder) => read_manifest(folder, MANIFEST).await.map_err(failed)?,
            None => None,
        };
        let (Some(folder), Some(manifest)) = (folder, manifest) else {
            return Err(Failure {
                code: FailureCode::NotFound,
                message: format!("{model} is not on this computer, or not complete."),
                next_step: "Get it on the models page.".to_owned(),
            });
        };
        let data = folder.open(&manifest.data, Access::Read).await.map_err(failed)?;
        let gone = || failed(Trouble::Storage { detail: "the data file is gone".to_owned() });
        Ok(Stored { manifest, data: data.ok_or_else(gone)? })
    }

    // ---- what a user asks ----

    /// Gets a model that Sotto knows.
    async fn get(self: &Rc<Self>, id: &str, mirror: Option<String>) {
        self.scan().await;
        let organisation = self.machine.borrow().mirror.clone();
        let mirror = mirror.map(|m| m.trim().trim_end_matches('/').to_owned()).filter(|m| !m.is_empty());
        let mirror = match (mirror, organisation) {
            (Some(given), Some(base)) if given != base => Some(given),
            (_, Some(base)) => Some(format!("{base}/{id}")),
            (given, None) => given,
        };
        let begin = || {
            let items = self.items.borrow();
            let item = items.get(id)?;
            let entry = item.entry.as_ref()?;
            let EntrySource::Hub { repository, revision, .. } = &entry.source else { return None };
            let hub = || Ok(Source::Hub { repository: repository.clone(), revision: revision.clone() });
            let source = mirror.as_deref().map_or_else(hub, Source::mirror);
            Some((entry.name.clone(), entry.file.clone(), source, item.here.is_some() && item.part.is_none()))
        };
        let Some((name, file, source, here)) = begin() else { return };
        match source {
            _ if here => {}
            Ok(source) => self.begin(id, Wish { name, weights: Some(file), source, files: None }).await,
            Err(error) => self.fail(id, bad_address(&error)),
        }
    }

    /// Gets a model of the user's own from an address: of a GGUF file, or of a folder.
    async fn get_from(self: &Rc<Self>, address: &str) {
        self.scan().await;
        let (source, weights, name) = match split_address(address) {
            Ok((folder, name)) if name.ends_with(".gguf") => (folder, Some(name.clone()), name),
            Ok((_, name)) => match Source::mirror(address) {
                Ok(folder) => (folder, None, name),
                Err(error) => return self.refuse(bad_address(&error)),
            },
            Err(error) => return self.refuse(bad_address(&error)),
        };
        self.begin(&own_id(&name), Wish { name, weights, source, files: None }).await;
    }

    /// Goes on with what was begun.
    async fn resume(self: &Rc<Self>, id: &str) {
        self.scan().await;
        let wish = self.with(id, |item| {
            let part = item.part.as_ref().map(|part| Wish {
                name: part.name.clone(),
                weights: part.weights.clone(),
                source: part.source.clone(),
                files: None,
            });
            item.wish.clone().or(part)
        });
        let Some(wish) = wish.flatten() else { return };
        if matches!(wish.source, Source::Files { .. }) && wish.files.is_none() {
            return self.fail(
                id,
                Failure {
                    code: FailureCode::StorageFailed,
                    message: "Sotto does not keep access to a file that you chose.".to_owned(),
                    next_step: "Choose the same file or folder again: what has come is kept.".to_owned(),
                },
            );
        }
        self.begin(id, wish).await;
    }

    /// Imports files that the user chose, in a folder called `folder`. They are a model that Sotto knows, or one of the user's own.
    async fn import(self: &Rc<Self>, model: Option<String>, folder: Option<String>, files: Vec<File>) {
        self.scan().await;
        let files: BTreeMap<String, File> = files.into_iter().map(|f| (f.name(), f)).collect();
        let known = model.as_deref().and_then(|id| self.with(id, |item| item.entry.clone())).flatten();
        let mut gguf = files.keys().filter(|name| name.ends_with(".gguf")).cloned();
        let (first, more) = (gguf.next(), gguf.next());
        if more.is_some() {
            return self.refuse(Failure {
                code: FailureCode::NotAModel,
                message: "There are several GGUF files.".to_owned(),
                next_step: "Choose one of them.".to_owned(),
            });
        }
        drop(gguf);
        let chosen = first.clone().or(folder).unwrap_or_else(|| "folder".to_owned());
        let (id, name, usual) = match known {
            Some(entry) => (entry.id, entry.name, Some(entry.file)),
            None => (own_id(&chosen), chosen.clone(), None),
        };
        let (weights, source) = (first.or(usual), Source::Files { name: chosen });
        self.begin(&id, Wish { name, weights, source, files: Some(files) }).await;
    }

    fn stop(&self, id: &str, why: Stop) {
        if let Some(job) = self.with(id, |item| item.job.clone()).flatten() {
            job.stop(why);
        }
    }

    /// Stops a job and deletes what it brought.
    async fn cancel(self: &Rc<Self>, id: &str) {
        self.scan().await;
        if self.with(id, |item| item.job.is_some()) == Some(true) {
            // The job itself tidies up when it has ended.
            return self.stop(id, Stop::Cancel);
        }
        if self.enter(id, Work::Deleting) {
            let outcome = match self.lock(id).await {
                Ok(_lock) => self.discard_part(id).await.map_err(|trouble| trouble.failure("", id, None)),
                Err(failure) => Err(failure),
            };
            self.leave(id, outcome);
        }
    }

    async fn delete(self: &Rc<Self>, id: &str) {
        self.scan().await;
        self.stop(id, Stop::Cancel);
        while self.with(id, |item| item.job.is_some()) == Some(true) {
            sleep(20.0).await;
        }
        let is_packaged =
            |item: &mut Item| matches!(item.entry.as_ref().map(|e| &e.source), Some(EntrySource::Pypi { .. }));
        if self.with(id, is_packaged) != Some(false) || !self.enter(id, Work::Deleting) {
            return;
        }
        let outcome = self.remove(id).await;
        if outcome.is_ok() {
            self.with(id, |item| (item.here, item.part, item.wish) = (None, None, None));
        }
        self.leave(id, outcome);
        self.measure().await;
    }

    async fn remove(&self, id: &str) -> Result<(), Failure> {
        let failed = |trouble: Trouble| trouble.failure("", id, None);
        let _lock = self.lock(id).await?;
        // Fails while the file is open for loading or answering: then nothing is deleted. One who only looks at its headers
        // is done in a moment.
        let models = Folder::models().await.map_err(failed)?;
        let folder = models.folder(id, Make::No).await.map_err(failed)?;
        if let (Some(folder), Some(here)) = (&folder, self.with(id, |item| item.here.clone()).flatten()) {
            drop(folder.open_alone(&here.data).await.map_err(failed)?);
        }
        models.remove(id).await.map_err(failed)
    }

    /// Hashes every stored chunk again.
    async fn check(self: &Rc<Self>, id: &str) {
        self.scan().await;
        let Some(manifest) = self.with(id, |item| item.here.clone()).flatten() else { return };
        if self.with(id, |item| item.part.is_some()) == Some(true) || !self.enter(id, Work::Checking) {
            return;
        }
        let outcome = self.check_chunks(id, manifest).await;
        self.with(id, |item| item.checking = None);
        self.leave(id, outcome);
    }

    async fn check_chunks(self: &Rc<Self>, id: &str, mut manifest: Manifest) -> Result<(), Failure> {
        let failed = |trouble: Trouble| trouble.failure("", id, None);
        let _lock = self.lock(id).await?;
        let stored = self.open(id).await?;
        let (mut done, total) = (0, manifest.progress().0);
        let mut damaged = Vec::new();
        for piece in manifest.stored() {
            self.with(id, |item| item.checking = Some((done, total)));
            self.changed();
            let bytes = Uint8Array::new_with_length(piece.len as u32);
            let is_right = match stored.data.read_outside(piece.at, &bytes) {
                Ok(()) => Some(sha256(&bytes).await.map_err(failed)?) == piece.expected,
                Err(_) => false,
            };
            if !is_right {
                damaged.push(piece);
            }
            done += piece.len;
            // Timers and messages get their turn between two chunks: hashes alone come too quickly for them.
            sleep(0.0).await;
        }
        drop(stored);
        let Some(first) = damaged.first().copied() else { return Ok(()) };
        let path = manifest.files.get(first.file).map(|f| f.path.clone()).unwrap_or_default();
        damaged.iter().for_each(|piece| manifest.set_lost(*piece));
        let folder = self.folder(id).await.map_err(failed)?;
        let text = manifest.text().map_err(|e| failed(Trouble::Storage { detail: e.to_string() }))?;
        folder.replace(PART, &text).await.map_err(failed)?;
        folder.remove(MANIFEST).await.map_err(failed)?;
        self.with(id, |item| (item.here, item.part) = (None, Some(manifest)));
        let bytes: u64 = damaged.iter().map(|piece| piece.len).sum();
        Err(Failure {
            code: FailureCode::WrongBytes,
            message: format!(
                "{} of this model are damaged on this computer, the first in {path} at byte {}.",
                bytes_in_words(bytes),
                first.offset
            ),
            next_step: "Resume: only the damaged part is fetched again.".to_owned(),
        })
    }

    // ---- a job from its beginning to its end ----

    async fn begin(self: &Rc<Self>, id: &str, wish: Wish) {
        if !self.enter(id, Work::Getting) {
            return;
        }
        self.with(id, |item| item.wish = Some(wish.clone()));
        let outcome = self.begin_alone(id, wish).await;
        self.leave(id, outcome);
        self.measure().await;
    }

    /// With the model's lock held and, for as long as it takes, the network lock open.
    async fn begin_alone(self: &Rc<Self>, id: &str, wish: Wish) -> Result<(), Failure> {
        let _lock = self.lock(id).await?;
        self.persist().await;
        let Some(to) = wish.source.destination() else { return self.run(id, wish).await };
        self.online.borrow_mut().push(to.clone());
        let outcome = match self.set_network().await {
            true => self.run(id, wish).await,
            false => Err(Failure {
                code: FailureCode::ForbiddenByPolicy,
                message: "The network lock stays closed: your organisation does not allow this download.".to_owned(),
                next_step: "Choose the model's files on this computer, or ask your administrator.".to_owned(),
            }),
        };
        {
            let mut online = self.online.borrow_mut();
            if let Some(at) = online.iter().position(|other| *other == to) {
                online.swap_remove(at);
            }
        }
        self.set_network().await;
        outcome
    }

    /// Sets the network lock to what the jobs need.
    async fn set_network(&self) -> bool {
        let to = self.online.borrow().clone();
        self.ask_host(&OfHost::Network { to }).await
    }

    async fn run(self: &Rc<Self>, id: &str, wish: Wish) -> Result<(), Failure> {
        let Wish { name, weights, source, files } = wish;
        let failed = |trouble: Trouble| trouble.failure(&source.host(), &name, None);
        let folder = self.folder(id).await.map_err(failed)?;
        let manifest = self.manifest_to_fill(id, &folder, &name, weights, &source).await.map_err(failed)?;
        let expected = self.with(id, |item| item.expected()).unwrap_or_default();
        let feed = files.map_or(Feed::Net, Feed::Files);
        let job = Rc::new(Job::new(folder.clone(), manifest, feed, expected).await.map_err(failed)?);
        self.with(id, |item| {
            item.job = Some(Rc::clone(&job));
            item.speed = Speed::default();
        });
        self.follow(id, &job);
        let end = job.run().await;
        let manifest = job.manifest();
        self.with(id, |item| (item.job, item.part) = (None, Some(manifest.clone())));
        drop_when_alone(job).await;
        match end {
            End::Complete => {
                folder.rename(PART, MANIFEST).await.map_err(failed)?;
                self.with(id, |item| (item.here, item.part, item.wish) = (Some(manifest.clone()), None, None));
                // What is still open for an answer is tidied up when the store is read again.
                let _ = self.tidy(&folder, &[&manifest.data]).await;
                Ok(())
            }
            End::Paused => Ok(()),
            End::Cancelled => self.discard_part(id).await.map_err(failed),
            End::Failed(failure) => Err(failure),
        }
    }

    /// The manifest of what is half here, if it is from the same source or can be checked chunk by chunk; else a new one.
    async fn manifest_to_fill(
        &self,
        id: &str,
        folder: &Folder,
        name: &str,
        weights: Option<String>,
        source: &Source,
    ) -> Result<Manifest, Trouble> {
        if let Some(mut part) = read_manifest(folder, PART).await? {
            let is_pinned = part.planned && part.files.iter().all(|f| f.pinned);
            if part.source == *source || is_pinned {
                if part.source != *source {
                    part.source = source.clone();
                    part.files.iter_mut().for_each(|file| file.etag = None);
                }
                return Ok(part);
            }
            self.discard_part(id).await?;
        }
        let here = read_manifest(folder, MANIFEST).await?;
        // Beside the old one, until the new one is complete.
        let data = if here.is_some_and(|here| here.data == "data-1") { "data-2" } else { "data-1" };
        folder.remove(data).await?;
        Ok(Manifest::new(name, weights, source.clone(), data))
    }

    /// Follows a job: its speed, its silence, and whoever listens.
    fn follow(self: &Rc<Self>, id: &str, job: &Rc<Job>) {
        let (library, id, job) = (Rc::clone(self), id.to_owned(), Rc::downgrade(job));
        spawn_local(async move {
            loop {
                match job.upgrade() {
                    None => break,
                    Some(job) => {
                        job.watch();
                        library.with(&id, |item| item.speed.see(now(), job.progress().0));
                        job.save_sometimes().await;
                    }
                }
                library.changed();
                sleep(TELL_MS).await;
            }
        });
    }

    /// Deletes an unfinished attempt; a complete model beside it stays.
    async fn discard_part(&self, id: &str) -> Result<(), Trouble> {
        let models = Folder::models().await?;
        if let Some(folder) = models.folder(id, Make::No).await? {
            match read_manifest(&folder, MANIFEST).await? {
                Some(here) => {
                    folder.remove(PART).await?;
                    self.tidy(&folder, &[&here.data]).await?;
                }
                None => models.remove(id).await?,
            }
        }
        self.with(id, |item| (item.part, item.wish) = (None, None));
        Ok(())
    }

    /// Deletes data files that no manifest names.
    async fn tidy(&self, folder: &Folder, keep: &[&str]) -> Result<(), Trouble> {
        for name in folder.names().await? {
            if name.starts_with("data-") && !keep.contains(&name.as_str()) {
                folder.remove(&name).await?;
            }
        }
        Ok(())
    }

    /// Claims a model for one piece of work; false if another is at it.
    fn enter(self: &Rc<Self>, id: &str, work: Work) -> bool {
        let free = self.with_new(id, |item| {
            let free = item.work.is_none();
            if free {
                (item.work, item.failure) = (Some(work), None);
            }
            free
        });
        self.changed();
        free
    }

    fn leave(self: &Rc<Self>, id: &str, outcome: Result<(), Failure>) {
        self.with(id, |item| (item.work, item.failure) = (None, outcome.err()));
        self.forget_nothings();
        self.changed();
    }

    /// Drops models of the user's own of which nothing is left.
    fn forget_nothings(&self) {
        self.items.borrow_mut().retain(|_, item| item.entry.is_some() || item.is_something());
    }

    fn fail(self: &Rc<Self>, id: &str, failure: Failure) {
        self.with(id, |item| item.failure = Some(failure));
        self.changed();
    }

    async fn lock(&self, id: &str) -> Result<Lock, Failure> {
        match Lock::take(&format!("sotto-model-{id}")).await {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(Failure {
                code: FailureCode::AtWorkElsewhere,
                message: "Another window of Sotto is at work on this model.".to_owned(),
                next_step: "Go on in that window, or close it and try again.".to_owned(),
            }),
            Err(trouble) => Err(trouble.failure("", id, None)),
        }
    }

    async fn folder(&self, id: &str) -> Result<Folder, Trouble> {
        let folder = Folder::models().await?.folder(id, Make::Yes).await?;
        folder.ok_or_else(|| Trouble::Storage { detail: "no folder could be made".to_owned() })
    }

    // ---- imports ----

    fn listen_for_imports(self: &Rc<Self>) {
        let Ok(channel) = BroadcastChannel::new(IMPORT_CHANNEL) else { return };
        let library = Rc::clone(self);
        let heard = Closure::new(move |event: MessageEvent| {
            let data = event.data();
            let get = |key: &str| Reflect::get(&data, &key.into()).unwrap_or_default();
            let model = get("model").as_string();
            let folder = get("name").as_string().filter(|name| !name.is_empty());
            let files: Vec<File> = match get("files").dyn_into::<Array>() {
                Ok(list) if list.length() <= MAX_IMPORT => list.iter().filter_map(|f| f.dyn_into().ok()).collect(),
                _ => Vec::new(),
            };
            let library = Rc::clone(&library);
            spawn_local(async move {
                match files.is_empty() {
                    true => library.refuse(Failure {
                        code: FailureCode::NotAModel,
                        message: format!("No files came, or more than {MAX_IMPORT}."),
                        next_step: "Choose one GGUF file, or one folder with a model's files.".to_owned(),
                    }),
                    false => library.import(model, folder, files).await,
                }
            });
        });
        channel.set_onmessage(Some(heard.as_ref().unchecked_ref()));
        *self.imports.borrow_mut() = Some(Imports { _channel: channel, _heard: heard });
    }

    // ---- what is known, and who hears it ----

    /// Reads what is stored, once.
    async fn scan(self: &Rc<Self>) {
        match self.scanned.get() {
            Scan::Done => return,
            // Another message began it: what this one asks for is known only once that is through.
            Scan::Running => {
                while self.scanned.get() == Scan::Running {
                    sleep(SCAN_PAUSE_MS).await;
                }
                return;
            }
            Scan::Never => self.scanned.set(Scan::Running),
        }
        self.scan_folders().await;
        self.scanned.set(Scan::Done);
    }

    async fn scan_folders(self: &Rc<Self>) {
        let Ok(models) = Folder::models().await else { return };
        for id in models.names().await.unwrap_or_default() {
            let Ok(Some(folder)) = models.folder(&id, Make::No).await else { continue };
            let here = read_manifest(&folder, MANIFEST).await;
            let part = read_manifest(&folder, PART).await;
            if let (Ok(here), Ok(part)) = (&here, &part) {
                let keep: Vec<&str> = [here, part].into_iter().flatten().map(|m| m.data.as_str()).collect();
                // In use in another window, it stays until the next time.
                let _ = self.tidy(&folder, &keep).await;
            }
            self.with_new(&id, |item| match (here, part) {
                (Ok(here), Ok(part)) => (item.here, item.part) = (here, part),
                (Err(trouble), _) | (_, Err(trouble)) => item.failure = Some(trouble.failure("", &id, None)),
            });
        }
        self.forget_nothings();
    }

    async fn greet(self: &Rc<Self>) {
        self.scan().await;
        self.measure().await;
    }

    /// Asks the browser for room and use.
    async fn measure(self: &Rc<Self>) {
        let (used, quota, persisted) = estimate().await;
        {
            let mut machine = self.machine.borrow_mut();
            machine.used_bytes = used;
            machine.free_bytes = quota.map(|quota| (quota - used).max(0.0));
            machine.persisted = persisted;
        }
        self.changed();
    }

    async fn persist(self: &Rc<Self>) {
        if !self.machine.borrow().persisted {
            let kept = self.ask_host(&OfHost::Persist).await;
            self.machine.borrow_mut().persisted = kept;
        }
    }

    async fn ask_host(&self, what: &OfHost) -> bool {
        let serializer = serde_wasm_bindgen::Serializer::json_compatible();
        let Ok(what) = what.serialize(&serializer) else { return false };
        let Ok(promise) = self.ask.call1(&JsValue::UNDEFINED, &what) else { return false };
        JsFuture::from(Promise::resolve(&promise)).await.is_ok_and(|answer| answer.is_truthy())
    }

    fn with<T>(&self, id: &str, change: impl FnOnce(&mut Item) -> T) -> Option<T> {
        self.items.borrow_mut().get_mut(id).map(change)
    }

    fn with_new<T>(&self, id: &str, change: impl FnOnce(&mut Item) -> T) -> T {
        change(self.items.borrow_mut().entry(id.to_owned()).or_default())
    }

    /// Tells every listener, at once or a little later.
    fn changed(self: &Rc<Self>) {
        if self.telling.replace(true) {
            return;
        }
        let library = Rc::clone(self);
        spawn_local(async move {
            let wait = library.told.get() + TELL_MS - now();
            if wait > 0.0 {
                sleep(wait).await;
            }
            library.telling.set(false);
            library.told.set(now());
            let state = library.state();
            library.listeners.borrow().iter().for_each(|client| library.send(client, &state));
        });
    }

    /// Tells every listener that something could not even begin.
    fn refuse(&self, reason: Failure) {
        let message = FromEngine::Refused { reason };
        self.listeners.borrow().iter().for_each(|client| self.send(client, &message));
    }

    fn send(&self, client: &str, message: &FromEngine) {
        let serializer = serde_wasm_bindgen::Serializer::json_compatible();
        if let Ok(message) = message.serialize(&serializer) {
            // A client that is gone has nobody to tell.
            let _ = self.emit.call2(&JsValue::NULL, &client.into(), &message);
        }
    }

    fn state(&self) -> FromEngine {
        let machine = self.machine.borrow().clone();
        let mut models: Vec<ModelState> =
            self.items.borrow().iter().map(|(id, item)| item.state(id, &machine)).collect();
        models.sort_by(|a, b| {
            let packaged = |m: &ModelState| m.origin != ModelOrigin::Packaged;
            packaged(a).cmp(&packaged(b)).then(a.fetch_bytes.total_cmp(&b.fetch_bytes))
        });
        FromEngine::Models { models, machine, current: self.current.borrow().clone() }
    }
}

impl Item {
    /// True if anything of it is stored or under way, or there is something to tell.
    fn is_something(&self) -> bool {
        self.here.is_some()
            || self.part.is_some()
            || self.job.is_some()
            || self.work.is_some()
            || self.failure.is_some()
    }

    /// What the entry knows of the files.
    fn expected(&self) -> BTreeMap<String, Expected> {
        let Some(EntrySource::Hub { files, .. }) = self.entry.as_ref().map(|e| &e.source) else {
            return BTreeMap::new();
        };
        files
            .iter()
            .map(|f| {
                let sha256 = f.sha256.as_deref().and_then(Sha256::parse);
                (f.path.clone(), Expected { bytes: f.bytes, sha256 })
            })
            .collect()
    }

    /// Bytes that a fetch of a known model brings, before its source was asked: whole chunks of weights, and texts.
    fn estimate(&self) -> u64 {
        let Some(entry) = &self.entry else { return 0 };
        let EntrySource::Hub { files, .. } = &entry.source else { return entry.bytes };
        let texts: u64 = files.iter().filter(|f| f.path != entry.file).filter_map(|f| f.bytes).sum();
        entry.bytes.div_ceil(CHUNK) * CHUNK + texts
    }

    fn state(&self, id: &str, machine: &Machine) -> ModelState {
        // What is on its way has its manifest with it.
        let coming = self.job.as_ref().map(|job| job.about());
        let stored = self.part.as_ref().or(self.here.as_ref());
        let about = coming.or(stored.map(|m| (m.name.clone(), m.source.words())));
        let origin = match self.entry.as_ref().map(|e| &e.source) {
            Some(EntrySource::Pypi { .. }) => ModelOrigin::Packaged,
            Some(EntrySource::Hub { .. }) => ModelOrigin::Known,
            None => ModelOrigin::Own,
        };
        let job = self.job.as_ref().map(|job| job.progress());
        let (done, known) = job.or(self.part.as_ref().map(Manifest::progress)).unwrap_or((0, 0));
        let is_planned =
            self.job.as_ref().map_or(self.part.as_ref().is_some_and(|p| p.planned), |job| job.is_planned());
        let fetch = match (is_planned, &self.here) {
            (true, _) => known,
            (false, Some(here)) if self.part.is_none() && self.job.is_none() => here.progress().1,
            _ => self.estimate().max(known),
        };
        let here_bytes = self.here.as_ref().map_or(0, |m| m.progress().0);
        let (done_f, total_f) = (done as f64, fetch as f64);
        let status = match (&self.failure, &self.job, self.checking) {
            (_, _, Some((done, total))) => ModelStatus::Checking { done: done as f64, total: total as f64 },
            (_, Some(job), _) => ModelStatus::Getting {
                done: done_f,
                total: total_f,
                bytes_per_second: self.speed.bytes_per_second(),
                seconds_left: self.speed.seconds_left(fetch.saturating_sub(done)),
                waiting: job.waiting.borrow().clone(),
            },
            (None, None, None) if self.work == Some(Work::Getting) => ModelStatus::Getting {
                done: done_f,
                total: total_f,
                bytes_per_second: 0.0,
                seconds_left: None,
                waiting: String::new(),
            },
            (Some(reason), ..) => ModelStatus::Failed { reason: reason.clone(), done: done_f, total: total_f },
            (None, None, None) => match (&self.part, &self.here) {
                (Some(_), _) => ModelStatus::Paused { done: done_f, total: total_f },
                (None, Some(here)) => ModelStatus::Here { verified_against: here.verified() },
                (None, None) if origin == ModelOrigin::Packaged => {
                    ModelStatus::Here { verified_against: Verified::Pinned }
                }
                (None, None) => ModelStatus::NotHere,
            },
        };
        let source = match (&about, self.entry.as_ref().map(|e| &e.source)) {
            (Some((_, words)), _) => words.clone(),
            (None, Some(EntrySource::Hub { repository, revision, .. })) => {
                Source::Hub { repository: repository.clone(), revision: revision.clone() }.words()
            }
            _ => "comes with Sotto".to_owned(),
        };
        let missing = fetch.saturating_sub(done) as f64 - machine.free_bytes.unwrap_or(f64::INFINITY);
        let fit = match (&self.fit, &status) {
            (Some(fit), _) if !fit.fits => fit.clone(),
            (_, ModelStatus::NotHere | ModelStatus::Paused { .. }) if missing > 0.0 => Fit {
                fits: false,
                reason: format!("There is too little room on the disk: free {} first.", bytes_in_words(missing as u64)),
            },
            (Some(fit), _) => fit.clone(),
            (None, _) => Fit { fits: true, reason: String::new() },
        };
        let packaged_bytes = if origin == ModelOrigin::Packaged { fetch } else { 0 };
        ModelState {
            id: id.to_owned(),
            name: self
                .entry
                .as_ref()
                .map(|e| e.name.clone())
                .or(about.map(|(name, _)| name))
                .unwrap_or_else(|| id.to_owned()),
            licence: self.entry.as_ref().map(|e| e.licence.clone()).unwrap_or_default(),
            fetch_bytes: total_f,
            disk_bytes: (here_bytes + done + packaged_bytes) as f64,
            origin,
            source,
            status,
            fit,
        }
    }
}

/// Reads and checks a manifest; none if it is not there.
async fn read_manifest(folder: &Folder, name: &str) -> Result<Option<Manifest>, Trouble> {
    let Some(text) = folder.document(name, MAX_MANIFEST).await? else { return Ok(None) };
    Manifest::parse(&text).map(Some).map_err(|e| Trouble::Storage { detail: e.to_string() })
}

/// Waits for the follower to let go of a job, so that its data file is closed.
async fn drop_when_alone(mut job: Rc<Job>) {
    loop {
        match Rc::try_unwrap(job) {
            Ok(_alone) => return,
            Err(shared) => job = shared,
        }
        sleep(5.0).await;
    }
}

fn bad_address(error: &sotto_core::Error) -> Failure {
    Failure { code: FailureCode::NotFound, message: format!("{error}."), next_step: "Check the address.".to_owned() }
}
