//! Which models there are, where each is kept, and the user's settings beside them.

use std::rc::Rc;

use sotto_core::recipes::ModelEntry;
use sotto_core::{Error, Result};

use crate::fit;
use crate::protocol::{Failure, FailureCode};
use crate::settings::Settings;
use crate::source::Source;

/// Where the build puts the packaged model's weights, seen from the worker.
const PACKAGED_URL: &str = "../models/starter.gguf";

/// The models that Sotto knows, the packaged one first.
pub(crate) struct Catalog {
    packaged: Rc<ModelEntry>,
    others: Vec<Rc<ModelEntry>>,
}

impl Catalog {
    pub(crate) fn new() -> Result<Self> {
        let mut entries = ModelEntry::all()?.into_iter().map(Rc::new);
        let packaged = entries.next().ok_or_else(|| Error::format("models", "there is none"))?;
        Ok(Self { packaged, others: entries.collect() })
    }

    /// The model that comes with the extension.
    pub(crate) fn packaged(&self) -> Rc<ModelEntry> {
        Rc::clone(&self.packaged)
    }

    /// The model of an id, if it is here; "" is the packaged one.
    pub(crate) async fn entry(&self, id: &str) -> Result<Rc<ModelEntry>, Failure> {
        if id.is_empty() || id == self.packaged.id {
            return Ok(self.packaged());
        }
        Err(Failure {
            code: FailureCode::NotFound,
            message: format!("{} is not on this computer.", self.name(id)),
            next_step: "Get it first, on the models page.".to_owned(),
        })
    }

    /// Where a model's bytes are.
    pub(crate) async fn source(&self, entry: &ModelEntry) -> Result<Source> {
        if entry.id == self.packaged.id {
            return Ok(Source::Packaged { url: PACKAGED_URL.to_owned(), bytes: entry.bytes });
        }
        Err(Error::format(&entry.name, "it is not on this computer"))
    }

    /// The name of the next smaller model.
    pub(crate) fn smaller(&self, entry: &ModelEntry) -> Option<&str> {
        let all = core::iter::once(&self.packaged).chain(&self.others);
        fit::next_smaller(entry.bytes, all.map(|e| (e.name.as_str(), e.bytes)))
    }

    /// What the user chose before.
    pub(crate) async fn settings(&self) -> Settings {
        Settings::default()
    }

    /// Keeps what the user chose.
    pub(crate) async fn keep(&self, _settings: &Settings) -> Result<()> {
        Ok(())
    }

    fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.others.iter().find(|e| e.id == id).map_or(id, |e| &e.name)
    }
}
