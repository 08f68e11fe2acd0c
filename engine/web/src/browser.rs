//! The few things the engine needs from the browser: time, a pause, and the bytes of a packaged file.

use std::cell::RefCell;

use js_sys::{Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{MessageChannel, ReadableStreamDefaultReader, Response, WorkerGlobalScope};

use sotto_core::{Error, Result};

/// What a thrown value says.
pub(crate) fn words(thrown: &JsValue) -> String {
    thrown
        .dyn_ref::<js_sys::Error>()
        .map(|e| String::from(e.message()))
        .or_else(|| thrown.as_string())
        .unwrap_or_else(|| format!("{thrown:?}"))
}

fn scope() -> Result<WorkerGlobalScope> {
    js_sys::global().dyn_into().map_err(|_| Error::format("engine", "it must run in a worker"))
}

/// Milliseconds since the worker started.
pub(crate) fn now() -> f64 {
    scope().ok().and_then(|s| s.performance()).map_or(0.0, |p| p.now())
}

/// Marks a point of a load in the browser's own timeline, for its profiler and for measurements.
pub(crate) fn mark(name: &str) {
    if let Some(performance) = scope().ok().and_then(|s| s.performance()) {
        // A timeline that is full loses a mark.
        let _ = performance.mark(&format!("sotto:{name}"));
    }
}

/// A start for random numbers that need not be secret.
pub(crate) fn random_seed() -> u64 {
    (js_sys::Math::random() * 2f64.powi(53)) as u64
}

/// Lets waiting messages in: a Stop, another request. A message channel is the one way to yield that is neither
/// throttled nor clamped to 4 ms.
pub(crate) struct Pause {
    channel: Option<MessageChannel>,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self { channel: MessageChannel::new().ok() }
    }

    pub(crate) async fn wait(&self) {
        let Some(channel) = &self.channel else { return };
        let promise = Promise::new(&mut |resolve, _| {
            channel.port1().set_onmessage(Some(&resolve));
            if channel.port2().post_message(&JsValue::NULL).is_err() {
                let _ = resolve.call0(&JsValue::NULL);
            }
        });
        let _ = JsFuture::from(promise).await;
    }
}

/// Waits.
pub(crate) async fn sleep(ms: i32) {
    let Ok(scope) = scope() else { return };
    let promise = Promise::new(&mut |resolve, _| {
        if scope.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, ms).is_err() {
            let _ = resolve.call0(&JsValue::NULL);
        }
    });
    let _ = JsFuture::from(promise).await;
}

thread_local! {
    /// What [`graphics_name`] was told.
    static NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Maker and family of the graphics adapter, such as "NVIDIA hopper"; empty if the browser says neither. Browsers often keep
/// a card's name to themselves, and these are all that is left of it. The browser is asked once.
pub(crate) async fn graphics_name() -> String {
    if let Some(name) = NAME.with_borrow(Clone::clone) {
        return name;
    }
    let name = ask_graphics_name().await;
    NAME.set(name.clone());
    name.unwrap_or_default()
}

/// After a loss the adapter may be another.
pub(crate) fn forget_graphics_name() {
    NAME.set(None);
}

/// `None` if there is no adapter. What opens one does not tell these two: another has to be asked for.
async fn ask_graphics_name() -> Option<String> {
    let get = |of: &JsValue, key: &str| Reflect::get(of, &key.into()).ok().filter(|value| !value.is_undefined());
    let gpu = get(&get(&js_sys::global(), "navigator")?, "gpu")?;
    let ask: Function = get(&gpu, "requestAdapter")?.dyn_into().ok()?;
    let wish = js_sys::Object::new();
    Reflect::set(&wish, &"powerPreference".into(), &"high-performance".into()).ok()?;
    let answer: Promise = ask.call1(&gpu, &wish).ok()?.dyn_into().ok()?;
    let info = get(&JsFuture::from(answer).await.ok().filter(|adapter| !adapter.is_null())?, "info")?;
    let text = |key| get(&info, key).and_then(|value| value.as_string()).unwrap_or_default();
    Some(maker_and_family(&text("vendor"), &text("architecture")))
}

/// As people write them: browsers say "nvidia" and "hopper".
fn maker_and_family(vendor: &str, architecture: &str) -> String {
    let maker = match vendor {
        "nvidia" | "amd" | "arm" => vendor.to_uppercase(),
        _ => vendor.split('-').map(capitalized).collect::<Vec<_>>().join(" "),
    };
    format!("{maker} {architecture}").trim().to_owned()
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// A file of the extension's own package, read as a stream.
pub(crate) struct PackagedFile {
    reader: ReadableStreamDefaultReader,
}

impl PackagedFile {
    /// Opens `url`, which the page's security policy limits to the package itself.
    pub(crate) async fn open(url: &str) -> Result<Self> {
        let missing = |e: String| {
            Error::format(url, format!("this file of the extension cannot be read ({e}): install it again"))
        };
        let response = JsFuture::from(scope()?.fetch_with_str(url)).await.map_err(|e| missing(words(&e)))?;
        let response: Response = response.dyn_into().map_err(|e| missing(words(&e)))?;
        if !response.ok() {
            return Err(missing(format!("status {}", response.status())));
        }
        let body = response.body().ok_or_else(|| missing("no body".to_owned()))?;
        let reader = body.get_reader().dyn_into().map_err(|e| missing(words(&e.into())))?;
        Ok(Self { reader })
    }

    /// The next bytes, or none at the end.
    pub(crate) async fn next(&self) -> Result<Option<Vec<u8>>> {
        let failed = |e: JsValue| Error::format("package", format!("reading stopped ({}): try again", words(&e)));
        let step = JsFuture::from(self.reader.read()).await.map_err(failed)?;
        let done = Reflect::get(&step, &"done".into()).map_err(failed)?.is_truthy();
        if done {
            return Ok(None);
        }
        let value: Uint8Array = Reflect::get(&step, &"value".into()).map_err(failed)?.dyn_into().map_err(failed)?;
        Ok(Some(value.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::maker_and_family;

    #[test]
    fn a_card_without_a_name_is_called_by_its_maker_and_family() {
        assert_eq!(maker_and_family("nvidia", "hopper"), "NVIDIA hopper");
        assert_eq!(maker_and_family("apple", "metal-3"), "Apple metal-3");
        assert_eq!(maker_and_family("imagination-technologies", ""), "Imagination Technologies");
        assert_eq!(maker_and_family("", ""), "");
    }
}
