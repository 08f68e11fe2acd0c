//! The extension's engine: takes messages, answers requests one at a time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde::Serialize;
use sotto_core::generate::Executor;
use sotto_core::recipes::ModelEntry;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;

use crate::answer;
use crate::host::{Host, Preference};
use crate::hub::Hub;
use crate::protocol::{EngineState, Event, Failure, FailureCode, ToEngine};
use crate::store::Library;

/// Where the build puts the starter's weights, seen from the worker.
const STARTER_URL: &str = "../models/starter.gguf";
/// Loading is reported whenever this much more has come.
const PROGRESS_BYTES: u64 = 2 << 20;

/// Everything that outlives a message. Cells are never borrowed across an await.
pub(crate) struct Shared {
    emit: js_sys::Function,
    hub: RefCell<Hub>,
    /// Taken out while a request runs.
    host: RefCell<Option<Host>>,
    entry: ModelEntry,
    library: Rc<Library>,
    busy: Cell<bool>,
    warm: Cell<bool>,
    /// Set after a graphics device failed: the CPU serves from then on.
    cpu_only: Cell<bool>,
}

impl Shared {
    pub(crate) fn entry(&self) -> &ModelEntry {
        &self.entry
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

    /// The model, loaded if it is not yet.
    pub(crate) async fn take_host(&self) -> Result<Host, Failure> {
        if let Some(host) = self.host.borrow_mut().take() {
            return Ok(host);
        }
        let model = self.entry.name.clone();
        let total = self.entry.bytes;
        let loading = |done: u64| EngineState::Loading {
            model: model.clone(),
            done_bytes: done as f64,
            total_bytes: total as f64,
        };
        self.set_state(loading(0));
        let mut told = 0;
        let mut progress = |done: u64| {
            if done >= told + PROGRESS_BYTES {
                told = done;
                self.set_state(loading(done));
            }
        };
        let preference = match self.cpu_only.get() {
            true => Preference::Cpu(sotto_core::cpu::CpuPath::Fast),
            false => Preference::Best,
        };
        let context = self.entry.context as usize;
        match Host::load(STARTER_URL, total, context, preference, &mut progress).await {
            Ok(mut host) => {
                let on_gpu = matches!(host.generator.executor(), Executor::Gpu(_));
                self.library.set_running(&self.entry.id, if on_gpu { &host.device.name } else { "" });
                self.set_state(EngineState::Ready {
                    model: self.entry.name.clone(),
                    device: host.device.name.clone(),
                    device_reason: host.device.reason.clone(),
                    advice: self.entry.advice.clone(),
                });
                Ok(host)
            }
            Err(error) => {
                let reason = Failure {
                    code: FailureCode::ModelFailed,
                    message: format!("The model could not be loaded: {error}."),
                    next_step: "Try again; if it stays so, install the extension again.".to_owned(),
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

    /// Drops a model whose graphics device failed; the next request loads it on the CPU.
    pub(crate) fn device_failed(&self) {
        self.cpu_only.set(true);
        self.set_state(EngineState::Idle);
    }

    /// Works until nothing is due.
    fn pump(self: &Rc<Self>) {
        if self.busy.replace(true) {
            return;
        }
        let shared = Rc::clone(self);
        spawn_local(async move {
            loop {
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
        });
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
        let entry = ModelEntry::starter().map_err(wrong)?;
        let library = Library::new(emit.clone(), ask, &ModelEntry::all().map_err(wrong)?);
        let shared = Shared {
            emit,
            library,
            hub: RefCell::new(Hub::default()),
            host: RefCell::new(None),
            entry,
            busy: Cell::new(false),
            warm: Cell::new(false),
            cpu_only: Cell::new(false),
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
        self.shared.library.disconnect(client);
        self.shared.hub.borrow_mut().disconnect(client);
    }

    /// The organisation's settings, before the first connection and whenever they may have changed.
    pub fn set_policy(&self, #[wasm_bindgen(unchecked_param_type = "Policy")] policy: JsValue) {
        // Settings that cannot be read allow what is allowed without any.
        if let Ok(policy) = serde_wasm_bindgen::from_value(policy) {
            self.shared.library.set_policy(policy);
        }
    }

    /// A client sent a message.
    pub fn receive(&self, client: &str, #[wasm_bindgen(unchecked_param_type = "ToEngine")] message: JsValue) {
        match serde_wasm_bindgen::from_value::<ToEngine>(message) {
            Ok(message) => {
                if matches!(message, ToEngine::Warm) && self.shared.host.borrow().is_none() {
                    self.shared.warm.set(true);
                }
                if !self.shared.library.receive(client, &message) {
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
