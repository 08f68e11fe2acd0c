//! The origin private file system: folders, small documents that are replaced whole, and data files with synchronous access.

use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    DomException, FileSystemDirectoryHandle, FileSystemGetDirectoryOptions, FileSystemGetFileOptions,
    FileSystemReadWriteOptions, FileSystemRemoveOptions, FileSystemSyncAccessHandle,
};

use sotto_core::{Error, Result as CoreResult};

use super::page::{scope, sleep, storage_trouble};
use super::stored::{Data, Stored};
use super::trouble::Trouble;
use crate::browser::words;

#[wasm_bindgen]
extern "C" {
    /// A file, with the two methods that `web-sys` does not offer.
    type FileHandle;

    #[wasm_bindgen(method, catch, js_name = createSyncAccessHandle)]
    async fn open(this: &FileHandle, options: &JsValue) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch, js_name = move)]
    async fn rename(this: &FileHandle, name: &str) -> Result<JsValue, JsValue>;
}

/// How often a file that someone has open is asked for before it is not to be had, and the pause between.
const ALONE_TRIES: usize = 50;
const ALONE_PAUSE_MS: f64 = 100.0;

/// Whether something may be made that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Make {
    Yes,
    No,
}

/// A folder.
#[derive(Clone)]
pub(super) struct Folder(FileSystemDirectoryHandle);

impl Folder {
    /// The folder of all models.
    pub(super) async fn models() -> Result<Self, Trouble> {
        let root = JsFuture::from(scope()?.navigator().storage().get_directory()).await.map_err(storage_trouble)?;
        let models = Self(root.unchecked_into()).folder("models", Make::Yes).await?;
        models.ok_or_else(|| Trouble::Storage { detail: "no folder could be made".to_owned() })
    }

    /// The folder in it of that name.
    pub(super) async fn folder(&self, name: &str, make: Make) -> Result<Option<Self>, Trouble> {
        let options = FileSystemGetDirectoryOptions::new();
        options.set_create(make == Make::Yes);
        let found = JsFuture::from(self.0.get_directory_handle_with_options(name, &options)).await;
        Ok(present(found)?.map(|handle| Self(handle.unchecked_into())))
    }

    /// The names of what is in it.
    pub(super) async fn names(&self) -> Result<Vec<String>, Trouble> {
        let keys = self.0.keys();
        let mut names = Vec::new();
        loop {
            let step = JsFuture::from(keys.next().map_err(storage_trouble)?).await.map_err(storage_trouble)?;
            let step: js_sys::IteratorNext = step.unchecked_into();
            if step.done() {
                return Ok(names);
            }
            names.extend(step.value().as_string());
        }
    }

    /// Deletes what has that name, with all that is in it.
    pub(super) async fn remove(&self, name: &str) -> Result<(), Trouble> {
        let options = FileSystemRemoveOptions::new();
        options.set_recursive(true);
        present(JsFuture::from(self.0.remove_entry_with_options(name, &options)).await).map(drop)
    }

    async fn file(&self, name: &str, make: Make) -> Result<Option<FileHandle>, Trouble> {
        let options = FileSystemGetFileOptions::new();
        options.set_create(make == Make::Yes);
        let found = JsFuture::from(self.0.get_file_handle_with_options(name, &options)).await;
        Ok(present(found)?.map(JsCast::unchecked_into))
    }

    /// A small document; none if it is not there.
    pub(super) async fn document(&self, name: &str, most: usize) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(file) = self.open(name, Access::Read).await? else { return Ok(None) };
        let len = file.len()?;
        if len > most as u64 {
            return Err(Trouble::Storage { detail: format!("{name} has {len} bytes") });
        }
        let mut bytes = vec![0; len as usize];
        file.read(0, &mut bytes).map_err(|e| Trouble::Storage { detail: e.to_string() })?;
        Ok(Some(bytes))
    }

    /// Writes a small document so that there is always either the old or the new one: into another file, which then takes its
    /// name.
    pub(super) async fn replace(&self, name: &str, text: &str) -> Result<(), Trouble> {
        let new = format!("{name}.new");
        let written = self.open(&new, Access::Write).await?;
        let written = written.ok_or_else(|| Trouble::Storage { detail: format!("{new} could not be made") })?;
        written.truncate()?;
        written.write(0, &Uint8Array::from(text.as_bytes()))?;
        written.flush()?;
        drop(written);
        self.rename(&new, name).await
    }

    /// Gives a file another name; what had that name before is gone.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Trouble> {
        let file = self.file(from, Make::No).await?;
        let file = file.ok_or_else(|| Trouble::Storage { detail: format!("{from} is gone") })?;
        file.rename(to).await.map(drop).map_err(storage_trouble)
    }

    /// Opens a file to write to it, once nobody else has it open: one who looks at its headers, or a model that is being put away.
    pub(super) async fn open_alone(&self, name: &str) -> Result<Option<DataFile>, Trouble> {
        let mut tries = 1;
        loop {
            match self.open(name, Access::Write).await {
                Err(Trouble::InUse) if tries < ALONE_TRIES => sleep(ALONE_PAUSE_MS).await,
                opened => return opened,
            }
            tries += 1;
        }
    }

    /// Opens a file; none if it is only to be read and is not there.
    pub(super) async fn open(&self, name: &str, access: Access) -> Result<Option<DataFile>, Trouble> {
        let make = if access == Access::Write { Make::Yes } else { Make::No };
        let Some(file) = self.file(name, make).await? else { return Ok(None) };
        let options = js_sys::Object::new();
        let mode = if access == Access::Write { "readwrite" } else { "read-only" };
        js_sys::Reflect::set(&options, &"mode".into(), &mode.into()).map_err(storage_trouble)?;
        let handle = file.open(&options).await.map_err(storage_trouble)?;
        Ok(Some(DataFile(handle.unchecked_into())))
    }
}

/// None in place of a `NotFoundError`.
fn present(outcome: Result<JsValue, JsValue>) -> Result<Option<JsValue>, Trouble> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(thrown) if thrown.dyn_ref::<DomException>().is_some_and(|e| e.name() == "NotFoundError") => Ok(None),
        Err(thrown) => Err(storage_trouble(thrown)),
    }
}

/// What a file is opened for. Many may read at once; one alone may write, and then nobody reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// An open file; closed when dropped.
pub(crate) struct DataFile(FileSystemSyncAccessHandle);

fn at(offset: u64) -> FileSystemReadWriteOptions {
    let options = FileSystemReadWriteOptions::new();
    options.set_at(offset as f64);
    options
}

impl DataFile {
    pub(super) fn len(&self) -> Result<u64, Trouble> {
        self.0.get_size().map(|size| size as u64).map_err(storage_trouble)
    }

    pub(super) fn write(&self, offset: u64, bytes: &Uint8Array) -> Result<(), Trouble> {
        let written = self.0.write_with_js_u8_array_and_options(bytes, &at(offset)).map_err(storage_trouble)?;
        // A disk that runs full in the middle of a write shows in the count.
        if written as u64 == u64::from(bytes.length()) { Ok(()) } else { Err(Trouble::NoRoom { missing: None }) }
    }

    pub(super) fn truncate(&self) -> Result<(), Trouble> {
        self.0.truncate_with_u32(0).map_err(storage_trouble)
    }

    /// Returns when what was written is on the disk.
    pub(super) fn flush(&self) -> Result<(), Trouble> {
        self.0.flush().map_err(storage_trouble)
    }

    /// Fills a JavaScript array from byte `offset`: the bytes never pass through WebAssembly's memory.
    pub(crate) fn read_outside(&self, offset: u64, into: &Uint8Array) -> CoreResult<()> {
        let read = self.0.read_with_js_u8_array_and_options(into, &at(offset));
        whole(read, u64::from(into.length()))
    }
}

impl Stored<DataFile> {
    /// [`Self::read`] into a JavaScript array: the bytes never pass through WebAssembly's memory.
    pub(crate) fn read_outside(&self, file: usize, offset: u64, into: &Uint8Array) -> CoreResult<()> {
        let mut begin = 0;
        for (at, len) in self.places(file, offset, u64::from(into.length()))? {
            let end = begin + len as u32;
            self.data.read_outside(at, &into.subarray(begin, end))?;
            begin = end;
        }
        Ok(())
    }
}

impl Data for DataFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> CoreResult<()> {
        let len = into.len() as u64;
        whole(self.0.read_with_u8_array_and_options(into, &at(offset)), len)
    }
}

fn whole(read: Result<f64, JsValue>, len: u64) -> CoreResult<()> {
    let failed = |why: String| Error::unread("the browser's storage", why);
    match read {
        Ok(read) if read as u64 == len => Ok(()),
        Ok(read) => Err(failed(format!("{read} of {len} bytes came"))),
        Err(thrown) => Err(failed(words(&thrown))),
    }
}

impl Drop for DataFile {
    fn drop(&mut self) {
        self.0.close();
    }
}
