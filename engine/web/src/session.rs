//! The extension's engine: takes messages, answers requests one at a time, keeps one model loaded at most.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::Serialize;
use sotto_core::Error;
use sotto_core::gpu::Found;
use sotto_core::recipes::ModelEntry;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;

use crate::answer;
use crate::browser::{graphics_name, now, sleep};
use crate::catalog::Catalog;
use crate::fit;
use crate::host::{Host, Preference};
use crate::hub::Hub;
use crate::protocol::{EngineState, Event, Failure, FailureCode, FromEngine, ToEngine};
use crate::settings::Settings;
use crate::store::Library;

/// Loading is reported whenever this much more has come.
const PROGRESS_BYTES: u64 = 2 << 20;

/// Everything that outlives a message. Cells are never borrowed across an await.
pub(crate) struct Shared {
    emit: js_sys::Function,
    hub: RefCell<Hub>,
    catalog: Catalog,
    /// The model that answers.
    entry: RefCell<Rc<ModelEntry>>,
    /// That model, if it is loaded. Taken out while a request runs.
    host: RefCell<Option<Host>>,
    settings: RefCell<Settings>,
    /// The settings' file was read.
    settled: Cell<bool>,
    busy: Cell<bool>,
    warm: Cell<bool>,
    /// A client wants another model: who, and which.
    switch: RefCell<Option<(String, String)>>,
    /// A client wants the model deleted that answers: who, and which. It happens once another is in its place, since its files
    /// may be open until then.
    delete: RefCell<Option<(String, String)>>,
    /// A client wants to write to the files of the model that is loaded: it must not have them open.
    put_away: Cell<bool>,
    /// New minutes after which an unused model is put away.
    idle: Cell<Option<f64>>,
    /// When the model was used last, and who watches that.
    used: Cell<f64>,
    watch: Cell<Watch>,
}

/// The task that waits for a model to be unused for long. Another number is another task; the one before ends.
#[derive(Debug, Clone, Copy, Default)]
struct Watch {
    number: u32,
    runs: bool,
}

impl Shared {
    pub(crate) fn entry(&self) -> Rc<ModelEntry> {
        Rc::clone(&self.entry.borrow())
    }

    pub(crate) fn event(&self, request: &str, event: Event) {
        self.hub.borrow_mut().event(request, event);
        self.flush();
    }

    pub(crate) fn should_stop(&self, request: &str) -> bool {
        self.hub.borrow().should_stop(request)
    }

    /// Delivers what the hub wants delivered.
    fn flush(&self) {
        let outgoing = self.hub.borrow_mut().take_outgoing();
        let serializer = serde_wasm_bindgen::Serializer::json_compatible();
        for out in outgoing {
            if let Ok(message) = out.message.serialize(&serializer) {
                // A client that is gone has nobody to tell.
                let _ = self.emit.call2(&JsValue::NULL, &out.client.into(), &message);
            }
        }
    }

    fn set_state(&self, state: EngineState) {
        self.hub.borrow_mut().set_state(state);
        self.flush();
    }

    /// Hears bytes done, and tells every client.
    pub(crate) fn progress(&self, total: u64) -> impl FnMut(u64) + '_ {
        let model = self.entry().name.clone();
        let loading = move |done: u64| EngineState::Loading {
            model: model.clone(),
            done_bytes: done as f64,
            total_bytes: total as f64,
        };
        self.set_state(loading(0));
        let mut told = 0;
        move |done| {
            // Less than before: it was begun anew.
            if done < told || done >= told + PROGRESS_BYTES {
                told = done;
                self.set_state(loading(done));
            }
        }
    }

    /// Tells every client that the model is ready, and where.
    pub(crate) fn ready(&self, host: &Host) {
        let entry = self.entry();
        self.set_state(EngineState::Ready {
            model: entry.name.clone(),
            device: host.device.name.clone(),
            device_reason: host.device.reason.clone(),
            advice: entry.advice.clone(),
        });
    }

    /// The model, loaded if it is not yet.
    pub(crate) async fn take_host(&self) -> Result<Host, Failure> {
        if let Some(host) = self.host.borrow_mut().take() {
            return Ok(host);
        }
        let entry = self.entry();
        let loaded = match self.catalog.source(&entry).await {
            Ok(source) => {
                let mut progress = self.progress(source.bytes());
                Host::load(source, entry.context as usize, Preference::Best, &mut progress).await
            }
            Err(error) => Err(error),
        };
        let loaded = loaded.and_then(|host| answer::chat(&entry, &host.model).map(|_| host));
        match loaded {
            Ok(host) => {
                self.ready(&host);
                Ok(host)
            }
            Err(error) => {
                let offer = self.catalog.smaller(&entry).map_or_else(
                    || "Try again; if it stays so, install the extension again.".to_owned(),
                    |name| format!("Try again, or choose {name}."),
                );
                let reason = match error {
                    Error::Unread { .. } => answer::unread(&entry, &error),
                    error => Failure {
                        code: FailureCode::ModelFailed,
                        message: format!("{} could not be loaded: {error}.", entry.name),
                        next_step: offer,
                    },
                };
                self.set_state(EngineState::Failed { reason: reason.clone() });
                Err(reason)
            }
        }
    }

    /// Puts the model back for the next request.
    pub(crate) fn return_host(&self, host: Host) {
        *self.host.borrow_mut() = Some(host);
    }

    /// A model that was taken does not come back.
    pub(crate) fn unloaded(&self) {
        self.set_state(EngineState::Idle);
    }

    /// Puts the model away, if it is loaded; it is loaded again when it is needed.
    fn unload(&self) {
        let unused = self.host.borrow_mut().take();
        if unused.is_some() {
            self.set_state(EngineState::Idle);
        }
    }

    fn set_entry(&self, entry: Rc<ModelEntry>) {
        if self.entry().id == entry.id {
            return;
        }
        self.catalog.library().set_current(&entry.id);
        *self.entry.borrow_mut() = entry;
        self.set_state(EngineState::Idle);
    }

    /// After the model failed: the packaged one answers until the browser starts again or the user chooses. Whoever waits is
    /// told so, in the words that come back; none if it was that one already.
    pub(crate) fn fall_back(&self, reason: &Failure) -> Option<String> {
        let (starter, failed) = (self.catalog.packaged(), self.entry());
        if failed.id == starter.id {
            return None;
        }
        drop(self.host.borrow_mut().take());
        let text = format!("{} {} answers instead of {}.", reason.message, starter.name, failed.name);
        self.set_entry(starter);
        self.hub.borrow_mut().notice_to_waiting(&text);
        self.flush();
        Some(text)
    }

    /// Changes to another model, as a client wishes. The browser may end while it loads: the wish is kept before.
    async fn switch_to(&self, client: &str, id: &str) {
        let settings = Settings { trying: Some(id.to_owned()), ..self.settings.borrow().clone() };
        self.keep(settings).await;
        self.change_to(client, id).await;
    }

    /// The old model goes before the new one comes. If that fails, the packaged one answers.
    async fn change_to(&self, client: &str, id: &str) {
        let settings = Settings { trying: None, ..self.settings.borrow().clone() };
        let entry = match self.catalog.entry(id).await {
            Ok(entry) => entry,
            Err(reason) => {
                self.keep(settings).await;
                return self.refuse(client, reason);
            }
        };
        if self.entry().id != entry.id {
            drop(self.host.borrow_mut().take());
        }
        self.set_entry(entry);
        match self.take_host().await {
            Ok(host) => {
                self.return_host(host);
                self.keep(Settings { model: id.to_owned(), ..settings }).await;
            }
            Err(reason) => {
                self.keep(settings).await;
                if self.fall_back(&reason).is_some()
                    && let Ok(host) = self.take_host().await
                {
                    self.return_host(host);
                }
                // Last: a state that follows takes its place on the screen.
                self.tell(reason);
            }
        }
    }

    fn refuse(&self, client: &str, reason: Failure) {
        self.hub.borrow_mut().refuse(client, reason);
        self.flush();
    }

    /// Tells every client of a failure that ends no request.
    fn tell(&self, reason: Failure) {
        self.hub.borrow_mut().tell(&FromEngine::Notice { reason });
        self.flush();
    }

    /// Reads what the user chose before, once.
    async fn settle(&self) {
        if self.settled.replace(true) {
            return;
        }
        let mut settings = self.catalog.settings().await;
        let chosen = settings.trying.take();
        if let Ok(entry) = self.catalog.entry(&settings.model).await {
            self.set_entry(entry);
        }
        self.catalog.library().set_idle(settings.idle_minutes);
        *self.settings.borrow_mut() = settings.clone();
        if let Some(id) = chosen {
            // Once: should it end the browser, the one before it answers at the next start.
            self.keep(settings).await;
            self.change_to("", &id).await;
        }
    }

    /// Takes new settings and stores them.
    async fn keep(&self, settings: Settings) {
        self.catalog.library().set_idle(settings.idle_minutes);
        *self.settings.borrow_mut() = settings.clone();
        self.catalog.keep(&settings).await;
    }

    /// Looks which graphics adapter there is, and says which models it can run.
    async fn look(&self) {
        let found = Found::in_browser(&graphics_name().await).await;
        let adapter = found.as_ref().map(Found::about);
        let library = self.catalog.library();
        let name = adapter.filter(|a| !a.software).map_or("", |a| &a.name);
        library.set_gpu(name);
        for entry in self.catalog.others() {
            library.set_fit(&entry.id, fit::before(entry, adapter, self.catalog.smaller(entry)));
        }
    }

    /// Works until nothing is due.
    fn pump(self: &Rc<Self>) {
        if self.busy.replace(true) {
            return;
        }
        let shared = Rc::clone(self);
        spawn_local(async move {
            shared.settle().await;
            loop {
                let switch = shared.switch.borrow_mut().take();
                if let Some((client, model)) = switch {
                    shared.switch_to(&client, &model).await;
                    let delete = shared.delete.borrow_mut().take();
                    if let Some((client, model)) = delete {
                        let delete = ToEngine::Delete { model };
                        // It may have been chosen anew meanwhile.
                        if !shared.wish(&client, &delete) {
                            shared.catalog.library().receive(&client, &delete);
                        }
                    }
                    continue;
                }
                if shared.put_away.take() {
                    shared.unload();
                    continue;
                }
                if let Some(minutes) = shared.idle.take() {
                    let settings = Settings { idle_minutes: minutes, ..shared.settings.borrow().clone() };
                    shared.keep(settings.mended()).await;
                    // The one that waits for the old time is replaced.
                    let number = shared.watch.get().number.wrapping_add(1);
                    shared.watch.set(Watch { number, runs: false });
                    continue;
                }
                let job = shared.hub.borrow_mut().next_job();
                if let Some(job) = job {
                    let request = job.request.clone();
                    if let Err(reason) = answer::run(&shared, job).await {
                        shared.event(&request, Event::Failed { reason });
                    }
                } else if shared.warm.take() {
                    if let Ok(host) = shared.take_host().await {
                        shared.return_host(host);
                    }
                } else {
                    break;
                }
            }
            shared.busy.set(false);
            shared.used.set(now());
            shared.watch_idle();
        });
    }

    /// Puts the model away once it has been unused for as long as the settings say.
    fn watch_idle(self: &Rc<Self>) {
        let watch = self.watch.get();
        if watch.runs {
            return;
        }
        self.watch.set(Watch { runs: true, ..watch });
        let shared = Rc::clone(self);
        spawn_local(async move {
            while shared.watch.get().number == watch.number {
                if shared.busy.get() {
                    shared.used.set(now());
                }
                let left = shared.settings.borrow().idle_left(shared.used.get(), now());
                match left {
                    Some(left) if left > 0.0 => sleep(left.ceil() as i32).await,
                    Some(_) => {
                        shared.unload();
                        break;
                    }
                    None => break,
                }
            }
            let now = shared.watch.get();
            if now.number == watch.number {
                shared.watch.set(Watch { runs: false, ..now });
            }
        });
    }

    /// Notes what a message wants of the session itself. True if nobody else has to hear of it now.
    fn wish(self: &Rc<Self>, client: &str, message: &ToEngine) -> bool {
        match message {
            // What is deleted cannot answer any longer.
            ToEngine::Delete { model } if *model == self.entry().id => {
                *self.switch.borrow_mut() = Some((client.to_owned(), String::new()));
                *self.delete.borrow_mut() = Some((client.to_owned(), model.clone()));
                return true;
            }
            ToEngine::ResumeGet { model } if *model == self.entry().id => self.put_away.set(true),
            ToEngine::Models => {
                let shared = Rc::clone(self);
                spawn_local(async move { shared.look().await });
            }
            ToEngine::Warm if self.host.borrow().is_none() => self.warm.set(true),
            ToEngine::Use { model } => *self.switch.borrow_mut() = Some((client.to_owned(), model.clone())),
            ToEngine::SetIdle { minutes } => self.idle.set(Some(*minutes)),
            _ => {}
        }
        false
    }
}

/// The engine as the worker sees it.
#[wasm_bindgen]
pub struct Session {
    shared: Rc<Shared>,
}

#[wasm_bindgen]
impl Session {
    /// `emit(client, message)` delivers a `FromEngine` to a client; `ask(what)` has the host document do it, and promises
    /// whether it did.
    #[wasm_bindgen(constructor)]
    pub fn new(
        #[wasm_bindgen(unchecked_param_type = "(client: string, message: FromEngine) => void")] emit: js_sys::Function,
        #[wasm_bindgen(unchecked_param_type = "(what: OfHost) => Promise<boolean>")] ask: js_sys::Function,
    ) -> Result<Session, JsError> {
        let wrong = |e: sotto_core::Error| JsError::new(&e.to_string());
        let entries = ModelEntry::all().map_err(wrong)?;
        let library = Library::new(emit.clone(), ask, &entries);
        let catalog = Catalog::new(entries, library).map_err(wrong)?;
        let shared = Shared {
            emit,
            hub: RefCell::new(Hub::default()),
            entry: RefCell::new(catalog.packaged()),
            catalog,
            host: RefCell::new(None),
            settings: RefCell::new(Settings::default()),
            settled: Cell::new(false),
            busy: Cell::new(false),
            warm: Cell::new(false),
            switch: RefCell::new(None),
            delete: RefCell::new(None),
            put_away: Cell::new(false),
            idle: Cell::new(None),
            used: Cell::new(0.0),
            watch: Cell::new(Watch::default()),
        };
        Ok(Session { shared: Rc::new(shared) })
    }

    /// A client's port opened.
    pub fn connect(&self, client: &str) {
        self.shared.hub.borrow_mut().connect(client);
        self.shared.flush();
    }

    /// A client's port closed.
    pub fn disconnect(&self, client: &str) {
        self.shared.catalog.library().disconnect(client);
        self.shared.hub.borrow_mut().disconnect(client);
    }

    /// The organisation's settings, before the first connection and whenever they may have changed.
    pub fn set_policy(&self, #[wasm_bindgen(unchecked_param_type = "Policy")] policy: JsValue) {
        // Settings that cannot be read allow what is allowed without any.
        if let Ok(policy) = serde_wasm_bindgen::from_value(policy) {
            self.shared.catalog.library().set_policy(policy);
        }
    }

    /// A client sent a message.
    pub fn receive(&self, client: &str, #[wasm_bindgen(unchecked_param_type = "ToEngine")] message: JsValue) {
        match serde_wasm_bindgen::from_value::<ToEngine>(message) {
            Ok(message) => {
                let is_heard = self.shared.wish(client, &message);
                if !is_heard && !self.shared.catalog.library().receive(client, &message) {
                    self.shared.hub.borrow_mut().receive(client, message);
                }
            }
            Err(error) => self.shared.hub.borrow_mut().refuse(
                client,
                Failure {
                    code: FailureCode::BadMessage,
                    message: format!("The engine did not understand a message: {error}."),
                    next_step: "Reload the extension: its parts may be of different versions.".to_owned(),
                },
            ),
        }
        self.shared.flush();
        self.shared.pump();
    }
}
