//! Which models can answer, where each is kept, and the user's settings beside them.

use std::rc::Rc;

use sotto_core::recipes::ModelEntry;
use sotto_core::{Error, Result};

use crate::fit;
use crate::protocol::{Failure, FailureCode};
use crate::settings::Settings;
use crate::source::Source;
use crate::store::Library;

/// Where the build puts the packaged model's weights, seen from the worker.
const PACKAGED_URL: &str = "../models/starter.gguf";
/// Tokens that a model of the user's own may read and write in all, if it was made for as many.
const OWN_CONTEXT: u32 = 8192;

/// The models that Sotto knows, the packaged one first, and those in the store.
pub(crate) struct Catalog {
    packaged: Rc<ModelEntry>,
    others: Vec<Rc<ModelEntry>>,
    library: Rc<Library>,
}

impl Catalog {
    pub(crate) fn new(entries: Vec<ModelEntry>, library: Rc<Library>) -> Result<Self> {
        let mut entries = entries.into_iter().map(Rc::new);
        let packaged = entries.next().ok_or_else(|| Error::format("models", "there is none"))?;
        Ok(Self { packaged, others: entries.collect(), library })
    }

    /// The model store.
    pub(crate) fn library(&self) -> &Rc<Library> {
        &self.library
    }

    /// The model that comes with the extension.
    pub(crate) fn packaged(&self) -> Rc<ModelEntry> {
        Rc::clone(&self.packaged)
    }

    /// Those that do not.
    pub(crate) fn others(&self) -> &[Rc<ModelEntry>] {
        &self.others
    }

    /// The model of an id, if all of it is here; "" is the packaged one.
    pub(crate) async fn entry(&self, id: &str) -> Result<Rc<ModelEntry>, Failure> {
        if id.is_empty() || id == self.packaged.id {
            return Ok(self.packaged());
        }
        let stored = self.library.open(id).await?;
        if let Some(entry) = self.others.iter().find(|e| e.id == id) {
            return Ok(Rc::clone(entry));
        }
        let template = self.others.first().ok_or_else(|| unknown(id))?;
        Ok(Rc::new(own(template, id, &stored.manifest.name, stored.manifest.progress().0)))
    }

    /// Where a model's bytes are.
    pub(crate) async fn source(&self, entry: &ModelEntry) -> Result<Source> {
        if entry.id == self.packaged.id {
            return Ok(Source::Packaged { url: PACKAGED_URL.to_owned(), bytes: entry.bytes });
        }
        Source::stored(&self.library, &entry.id).await
    }

    /// The name of the next smaller model.
    pub(crate) fn smaller(&self, entry: &ModelEntry) -> Option<&str> {
        let all = core::iter::once(&self.packaged).chain(&self.others);
        fit::next_smaller(entry.bytes, all.map(|e| (e.name.as_str(), e.bytes)))
    }

    /// What the user chose before.
    pub(crate) async fn settings(&self) -> Settings {
        self.library.settings().await.as_deref().map(Settings::parse).unwrap_or_default()
    }

    /// Keeps what the user chose.
    pub(crate) async fn keep(&self, settings: &Settings) {
        if let Ok(text) = serde_json::to_string(settings) {
            self.library.keep_settings(&text).await;
        }
    }
}

/// The entry of a model of the user's own: it leads, is asked like those that Sotto knows, and its files say how it chats.
fn own(template: &ModelEntry, id: &str, name: &str, bytes: u64) -> ModelEntry {
    ModelEntry {
        id: id.to_owned(),
        name: name.to_owned(),
        spoken: name.to_owned(),
        bytes,
        packed_weights: 0,
        table_bytes: 0,
        sha256: None,
        licence: String::new(),
        chat: String::new(),
        context: OWN_CONTEXT,
        adapters: Vec::new(),
        advice: "This is a model of your own, which Sotto was not tried with: check what it writes against the page."
            .to_owned(),
        ..template.clone()
    }
}

fn unknown(id: &str) -> Failure {
    Failure {
        code: FailureCode::NotFound,
        message: format!("{id} is not on this computer."),
        next_step: "Get it on the models page.".to_owned(),
    }
}
