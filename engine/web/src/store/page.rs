//! The few things that the store needs of the worker it runs in.

use js_sys::{Function, Promise, Reflect, Uint8Array};
use sotto_core::formats::pinned::Sha256;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{DomException, WorkerGlobalScope};

use super::trouble::Trouble;
use crate::browser::words;

/// The worker's global scope.
pub(super) fn scope() -> Result<WorkerGlobalScope, Trouble> {
    js_sys::global().dyn_into().map_err(|_| Trouble::Storage { detail: "not in a worker".to_owned() })
}

/// Waits.
pub(super) async fn sleep(ms: f64) {
    let promise = Promise::new(&mut |resolve, _| {
        let timeout = Reflect::get(&js_sys::global(), &"setTimeout".into()).and_then(|f| f.dyn_into::<Function>());
        let set = timeout.and_then(|f| f.call2(&JsValue::UNDEFINED, &resolve, &ms.into()));
        if set.is_err() {
            // Without a timer there is no waiting.
            let _ = resolve.call0(&JsValue::UNDEFINED);
        }
    });
    let _ = JsFuture::from(promise).await;
}

/// What a failed call on the store means.
pub(super) fn storage_trouble(thrown: JsValue) -> Trouble {
    match thrown.dyn_ref::<DomException>().map(|e| e.name()).as_deref() {
        Some("QuotaExceededError") => Trouble::NoRoom { missing: None },
        Some("NoModificationAllowedError" | "InvalidStateError") => Trouble::InUse,
        Some(name) => Trouble::Storage { detail: name.to_owned() },
        None => Trouble::Storage { detail: words(&thrown) },
    }
}

/// SHA-256 by the browser, at native speed and off this thread.
pub(super) async fn sha256(bytes: &Uint8Array) -> Result<Sha256, Trouble> {
    let trouble = |e: JsValue| Trouble::Storage { detail: format!("hashing: {}", words(&e)) };
    let subtle = scope()?.crypto().map_err(trouble)?.subtle();
    let digest = subtle.digest_with_str_and_js_u8_array("SHA-256", bytes).map_err(trouble)?;
    let digest = Uint8Array::new(&JsFuture::from(digest).await.map_err(trouble)?);
    let mut hash = [0; 32];
    if digest.length() as usize != hash.len() {
        return Err(Trouble::Storage { detail: "hashing: no SHA-256".to_owned() });
    }
    digest.copy_to(&mut hash);
    Ok(Sha256(hash))
}

/// What the browser's storage says of itself: bytes used, bytes allowed in all, and whether it keeps them.
pub(super) async fn estimate() -> (f64, Option<f64>, bool) {
    let Ok(storage) = scope().map(|s| s.navigator().storage()) else { return (0.0, None, false) };
    let ask = async |promise: Result<Promise, JsValue>| JsFuture::from(promise.ok()?).await.ok();
    let persisted = ask(storage.persisted()).await.is_some_and(|v| v.is_truthy());
    let Some(found) = ask(storage.estimate()).await else { return (0.0, None, persisted) };
    let number = |key: &str| Reflect::get(&found, &key.into()).ok().and_then(|v| v.as_f64());
    (number("usage").unwrap_or(0.0), number("quota"), persisted)
}

#[wasm_bindgen]
extern "C" {
    type Locks;

    #[wasm_bindgen(method, catch)]
    fn request(
        this: &Locks,
        name: &str,
        options: &JsValue,
        callback: &Closure<dyn FnMut(JsValue) -> Promise>,
    ) -> Result<Promise, JsValue>;
}

/// A Web Lock that this worker holds: no other context of the extension, and no other window, holds the same one.
pub(super) struct Lock {
    release: Function,
    _granted: Closure<dyn FnMut(JsValue) -> Promise>,
}

impl Lock {
    /// Takes the lock if it is free.
    pub(super) async fn take(name: &str) -> Result<Option<Self>, Trouble> {
        let navigator: JsValue = scope()?.navigator().into();
        let locks: Locks = Reflect::get(&navigator, &"locks".into()).map_err(storage_trouble)?.unchecked_into();
        let mut release = None;
        let held = Promise::new(&mut |resolve, _| release = Some(resolve));
        let Some(release) = release else { return Ok(None) };
        let mut tell = None;
        let granted = Promise::new(&mut |resolve, _| tell = Some(resolve));
        let callback = Closure::new(move |lock: JsValue| {
            if let Some(tell) = &tell {
                let _ = tell.call1(&JsValue::UNDEFINED, &lock.is_truthy().into());
            }
            if lock.is_truthy() { held.clone() } else { Promise::resolve(&JsValue::UNDEFINED) }
        });
        let options = js_sys::Object::new();
        Reflect::set(&options, &"ifAvailable".into(), &true.into()).map_err(storage_trouble)?;
        // Its promise settles when the lock is given back.
        let _ = locks.request(name, &options, &callback).map_err(storage_trouble)?;
        let granted = JsFuture::from(granted).await.map_err(storage_trouble)?;
        Ok(granted.is_truthy().then_some(Self { release, _granted: callback }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.release.call0(&JsValue::UNDEFINED);
    }
}
