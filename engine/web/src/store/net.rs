//! One ranged request: a chunk of a file, streamed into a JavaScript buffer.

use std::cell::Cell;

use js_sys::{Reflect, Uint8Array};
use sotto_core::formats::pinned::CHUNK;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, Headers, ReadableStreamDefaultReader, ReferrerPolicy, RequestCache, RequestCredentials,
    RequestInit, Response,
};

use super::page::scope;
use super::trouble::{Trouble, content_range, retry_after_ms};
use crate::browser::{now, words};

/// A request under way; may be ended from outside.
pub(super) struct Request {
    abort: AbortController,
    /// Bytes that have come.
    pub(super) received: Cell<u64>,
    /// When the last ones came.
    heard: Cell<f64>,
    silent: Cell<bool>,
}

/// What a source gave.
pub(super) struct Part {
    /// The bytes.
    pub(super) bytes: Uint8Array,
    /// The length of the whole file, if the source said so.
    pub(super) total: Option<u64>,
    /// The source's name for this version of the file.
    pub(super) etag: Option<String>,
}

impl Request {
    pub(super) fn new() -> Result<Self, Trouble> {
        let abort = AbortController::new().map_err(broken)?;
        Ok(Self { abort, received: Cell::new(0), heard: Cell::new(now()), silent: Cell::new(false) })
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.abort.abort();
    }

    /// Ends it if nothing came for `ms`.
    pub(super) fn end_if_silent(&self, ms: f64) {
        if now() - self.heard.get() > ms {
            self.silent.set(true);
            self.end();
        }
    }

    /// Bytes `offset` to `offset + len` of a file, or fewer if it ends before. `len` is at most [`CHUNK`].
    pub(super) async fn get(&self, url: &str, offset: u64, len: u64) -> Result<Part, Trouble> {
        let outcome = self.exchange(url, offset, len).await;
        if self.silent.get() { Err(Trouble::Silent) } else { outcome }
    }

    async fn exchange(&self, url: &str, offset: u64, len: u64) -> Result<Part, Trouble> {
        let response = JsFuture::from(scope()?.fetch_with_str_and_init(url, &self.init(offset, len)?)).await;
        let response: Response = response.map_err(broken)?.dyn_into().map_err(broken)?;
        self.heard.set(now());
        let headers = response.headers();
        let header = |name: &str| headers.get(name).ok().flatten();
        if !response.ok() {
            let retry_after_ms = header("retry-after").as_deref().and_then(retry_after_ms);
            self.end();
            return Err(Trouble::Status { status: response.status(), retry_after_ms });
        }
        if header("content-type").is_some_and(|kind| kind.trim_start().starts_with("text/html")) {
            self.end();
            return Err(Trouble::Page);
        }
        let range = header("content-range").as_deref().and_then(content_range);
        let is_part = response.status() == 206;
        if range.is_some_and(|(from, _, _)| is_part && from != offset) || (!is_part && offset != 0) {
            self.end();
            return Err(Trouble::WholeFile);
        }
        let bytes = self.body(&response, len).await.inspect_err(|_| self.end())?;
        let got = u64::from(bytes.length());
        let total = match (is_part, range) {
            // A server that ignores ranges is good enough for a file of one chunk.
            (false, _) => Some(got),
            (true, Some((_, _, total))) => Some(total),
            // The header is hidden from us, but the file ended before the part did.
            (true, None) if got < len => Some(offset + got),
            (true, None) => None,
        };
        let expected = total.map_or(len, |total| total.saturating_sub(offset).min(len));
        if got != expected {
            return Err(Trouble::Length { got, expected });
        }
        Ok(Part { bytes, total, etag: header("etag") })
    }

    fn init(&self, offset: u64, len: u64) -> Result<RequestInit, Trouble> {
        let headers = Headers::new().map_err(broken)?;
        let last = offset + len.saturating_sub(1);
        headers.set("range", &format!("bytes={offset}-{last}")).map_err(broken)?;
        let init = RequestInit::new();
        init.set_headers_headers(&headers);
        // Nothing about the user goes along, and nothing of the model is stored twice.
        init.set_credentials(RequestCredentials::Omit);
        init.set_referrer_policy(ReferrerPolicy::NoReferrer);
        init.set_cache(RequestCache::NoStore);
        init.set_signal(Some(&self.abort.signal()));
        Ok(init)
    }

    /// The body, which must not have more than `len` bytes.
    async fn body(&self, response: &Response, len: u64) -> Result<Uint8Array, Trouble> {
        let body = response.body().ok_or(Trouble::Length { got: 0, expected: len })?;
        let reader: ReadableStreamDefaultReader = body.get_reader().unchecked_into();
        let buffer = Uint8Array::new_with_length(len.min(CHUNK) as u32);
        let mut got: u32 = 0;
        loop {
            let step = JsFuture::from(reader.read()).await.map_err(broken)?;
            if Reflect::get(&step, &"done".into()).map_err(broken)?.is_truthy() {
                return Ok(if got == buffer.length() { buffer } else { buffer.slice(0, got) });
            }
            let piece: Uint8Array = Reflect::get(&step, &"value".into()).map_err(broken)?.unchecked_into();
            if piece.length() > buffer.length() - got {
                return Err(Trouble::WholeFile);
            }
            buffer.set(&piece, got);
            got += piece.length();
            self.received.set(u64::from(got));
            self.heard.set(now());
        }
    }
}

fn broken(thrown: JsValue) -> Trouble {
    Trouble::Broken { detail: words(&thrown) }
}
