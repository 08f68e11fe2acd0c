//! Promises about what ships, checked on what ships: no way to the network, no surprise in the wasm module, no licence that
//! was not agreed to.

use crate::bundle::{dist, files};
use crate::shell::{Result, at, capture, cargo, read, read_json, root};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A way out of the machine or into the page's HTML, and the files that may use it.
struct Ban {
    word: &'static str,
    allowed_in: &'static [&'static str],
}

/// The generated modules fetch one thing: the wasm file and the model beside them. The page's policy allows no other origin.
const PACKAGE: &[&str] = &["offscreen/pkg/engine.js", "offscreen/pkg/engine_plain.js"];

const BANS: &[Ban] = &[
    Ban { word: "fetch", allowed_in: PACKAGE },
    Ban { word: "XMLHttpRequest", allowed_in: &[] },
    Ban { word: "WebSocket", allowed_in: &[] },
    Ban { word: "WebSocketStream", allowed_in: &[] },
    Ban { word: "WebTransport", allowed_in: &[] },
    Ban { word: "EventSource", allowed_in: &[] },
    Ban { word: "sendBeacon", allowed_in: &[] },
    Ban { word: "RTCPeerConnection", allowed_in: &[] },
    Ban { word: "importScripts", allowed_in: &[] },
    Ban { word: "window.open", allowed_in: &[] },
    Ban { word: "tabs.create", allowed_in: &[] },
    Ban { word: "tabs.update", allowed_in: &[] },
    Ban { word: "sendNativeMessage", allowed_in: &[] },
    Ban { word: "connectNative", allowed_in: &[] },
    Ban { word: "innerHTML", allowed_in: &[] },
    Ban { word: "outerHTML", allowed_in: &[] },
    Ban { word: "insertAdjacentHTML", allowed_in: &[] },
    Ban { word: "setHTMLUnsafe", allowed_in: &[] },
    Ban { word: "document.write", allowed_in: &[] },
    Ban { word: "DOMParser", allowed_in: &[] },
    Ban { word: "createContextualFragment", allowed_in: &[] },
    Ban { word: "eval", allowed_in: &[] },
    Ban { word: "Function", allowed_in: PACKAGE },
];

/// Addresses that name something and are never fetched.
const NAMES: &[&str] = &[
    "http://www.w3.org/1999/xhtml",
    "http://www.w3.org/2000/svg",
    "http://www.w3.org/1998/Math/MathML",
    // Compared with the address of a page, to say why it cannot be read.
    "https?:",
    "https:\\/\\/(chromewebstore",
    // Schemes: what the page's policy and an optional permission may allow, and what the network lock opens for the hub.
    "https: http:;",
    "http:;",
    "https://*/*\"",
    "http://*/*\"",
    "https:'",
];

/// No file of `dist/` names an API that could send anything anywhere, nor an address to send it to.
pub(crate) fn banned_calls() -> Result<String> {
    let (dist, mut found, mut scanned) = (dist(), Vec::new(), 0);
    for file in files(&dist)? {
        let kind = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        if !["js", "html", "css", "json", "svg"].contains(&kind.as_str()) {
            continue;
        }
        scanned += 1;
        let name = file.strip_prefix(&dist).unwrap_or(&file).to_string_lossy().into_owned();
        let text = read(&file)?;
        let code = if kind == "js" { without_comments(&text) } else { text };
        for (number, line) in code.lines().enumerate() {
            if kind == "js" {
                for ban in BANS.iter().filter(|ban| !ban.allowed_in.contains(&name.as_str())) {
                    if holds_word(line, ban.word) {
                        found.push(format!("{name}:{}: {}", number + 1, ban.word));
                    }
                }
            }
            let is_entry = name.starts_with("models/");
            if !is_entry && line.contains("http") && addresses(line).any(|address| !named(address)) {
                found.push(format!(
                    "{name}:{}: an address: {}",
                    number + 1,
                    line.trim().chars().take(120).collect::<String>()
                ));
            }
        }
    }
    match (scanned, found.is_empty()) {
        (0, _) => Err("dist/ is empty: run `cargo xtask build` first".into()),
        (_, true) => Ok(format!("{scanned} files")),
        (_, false) => Err(found.join("\n")),
    }
}

fn named(address: &str) -> bool {
    NAMES.iter().any(|name| address.starts_with(name))
}

/// What follows each "http" that looks like the beginning of an address.
fn addresses(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("http").map(|(start, _)| line.get(start..).unwrap_or_default()).filter(|rest| {
        let after = rest.trim_start_matches("http").trim_start_matches('s').trim_start_matches('?');
        after.starts_with(':')
    })
}

fn holds_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    line.match_indices(word).any(|(start, _)| {
        let before = line.get(..start).and_then(|text| text.chars().next_back());
        let after = line.get(start + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// Drops whole-line comments and block comments that begin a line: enough for our style, and a ban in a trailing comment is
/// merely reported.
fn without_comments(code: &str) -> String {
    let mut inside = false;
    code.lines()
        .map(|line| {
            let text = line.trim_start();
            if inside || text.starts_with("/*") {
                let end = text.find("*/");
                inside = end.is_none();
                return end.and_then(|at| text.get(at + 2..)).unwrap_or_default();
            }
            if text.starts_with("//") { "" } else { line }
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// The module can do only what it imports: the list is in git, so that a new ability is seen in review.
pub(crate) fn wasm_imports() -> Result<String> {
    let mut lists = BTreeMap::new();
    for variant in ["engine", "engine_plain"] {
        let path = dist().join(format!("offscreen/pkg/{variant}_bg.wasm"));
        let bytes = at(&path, std::fs::read(&path))?;
        let names = imports(&bytes).ok_or_else(|| format!("{}: no import section could be read", path.display()))?;
        lists.insert(variant, names);
    }
    let now = lists.values().flatten().cloned().collect::<BTreeSet<_>>();
    let snapshot = root().join("tests/wasm-imports.txt");
    let text = now.iter().map(|name| format!("{name}\n")).collect::<String>();
    if std::env::var_os("SOTTO_BLESS").is_some() {
        at(&snapshot, std::fs::write(&snapshot, &text))?;
    }
    let before: BTreeSet<String> = read(&snapshot)?.lines().map(String::from).collect();
    let added = now.difference(&before).map(|name| format!("+ {name}"));
    let gone = before.difference(&now).map(|name| format!("- {name}"));
    let changes: Vec<String> = added.chain(gone).collect();
    if changes.is_empty() {
        return Ok(format!("{} names", now.len()));
    }
    Err(format!(
        "the module's imports changed; if that is meant, SOTTO_BLESS=1 cargo xtask test --only 'wasm imports' writes {}\n{}",
        "tests/wasm-imports.txt",
        changes.join("\n")
    ))
}

/// Names in a wasm module's import section, without the hashes that wasm-bindgen adds.
fn imports(wasm: &[u8]) -> Option<Vec<String>> {
    let mut at = 8;
    while at < wasm.len() {
        let id = *wasm.get(at)?;
        at += 1;
        let size = number(wasm, &mut at)?;
        if id != 2 {
            at = at.checked_add(size)?;
            continue;
        }
        let mut names = Vec::new();
        for _ in 0..number(wasm, &mut at)? {
            let _module = text(wasm, &mut at)?;
            let name = text(wasm, &mut at)?;
            match *wasm.get(at)? {
                0 => {
                    at += 1;
                    number(wasm, &mut at)?;
                }
                // Tables, memories, globals and tags are not abilities; wasm-bindgen imports none of them.
                _ => return None,
            }
            names.push(without_hash(&name));
        }
        return Some(names);
    }
    None
}

fn number(wasm: &[u8], at: &mut usize) -> Option<usize> {
    let (mut value, mut shift) = (0_usize, 0);
    loop {
        let byte = *wasm.get(*at)?;
        *at += 1;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        shift += 7;
    }
}

fn text(wasm: &[u8], at: &mut usize) -> Option<String> {
    let len = number(wasm, at)?;
    let end = at.checked_add(len)?;
    let found = String::from_utf8_lossy(wasm.get(*at..end)?).into_owned();
    *at = end;
    Some(found)
}

fn without_hash(name: &str) -> String {
    match name.rsplit_once('_') {
        Some((stem, hash)) if hash.len() == 16 && hash.chars().all(|c| c.is_ascii_hexdigit()) => stem.into(),
        _ => name.into(),
    }
}

/// What a user downloads has a budget: `tests/budgets.json`.
pub(crate) fn wasm_size() -> Result<String> {
    let budgets = read_json(&root().join("tests/budgets.json"))?;
    let mut said = Vec::new();
    for (file, budget) in budgets.as_object().into_iter().flatten() {
        let path = dist().join(file);
        let (size, budget) = (at(&path, path.metadata())?.len(), budget.as_u64().unwrap_or_default());
        if size > budget {
            return Err(format!("{file} has {size} bytes, {} over its budget in tests/budgets.json", size - budget));
        }
        said.push(format!("{} {} KiB of {}", name(&path), size / 1024, budget / 1024));
    }
    if said.is_empty() { Err("tests/budgets.json names no file".into()) } else { Ok(said.join(", ")) }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Licences whose terms are met by keeping their notices.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "CC0-1.0",
    "BSL-1.0",
    "MIT-0",
];

/// Every crate, and every npm package of the lock file, is under a licence of the list, or offers one as a choice.
pub(crate) fn licences() -> Result<String> {
    let json = capture(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&json).map_err(|error| format!("cargo metadata: {error}"))?;
    let mut wrong = Vec::new();
    let crates = metadata.get("packages").and_then(Value::as_array).cloned().unwrap_or_default();
    for item in &crates {
        let word = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or("none");
        if !is_allowed(word("license")) {
            wrong.push(format!("crate {} {}: {}", word("name"), word("version"), word("license")));
        }
    }
    let lock = read_json(&root().join("package-lock.json"))?;
    let packages = lock.get("packages").and_then(Value::as_object).cloned().unwrap_or_default();
    for (path, item) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        let licence = item.get("license").and_then(Value::as_str).unwrap_or("none");
        let test_only = item.get("dev").and_then(Value::as_bool).unwrap_or(false);
        // axe-core's licence asks for notices only where its files are shipped, and nothing of npm ships.
        let is_fine = is_allowed(licence) || (test_only && licence == "MPL-2.0");
        if !is_fine {
            wrong.push(format!("npm {path}: {licence}"));
        }
    }
    match (crates.len(), wrong.is_empty()) {
        (0, _) => Err("cargo metadata named no crate".into()),
        (n, true) => Ok(format!("{n} crates, {} npm packages", packages.len().saturating_sub(1))),
        (_, false) => Err(wrong.join("\n")),
    }
}

/// Reads the licence expressions that occur: `A OR B`, `A AND B`, `A/B`, one level of brackets.
fn is_allowed(expression: &str) -> bool {
    split_outside(&expression.replace('/', " OR "), " OR ")
        .iter()
        .any(|choice| split_outside(choice, " AND ").iter().all(|part| allows(part.trim())))
}

fn allows(part: &str) -> bool {
    match part.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => is_allowed(inner),
        None => LICENCES.contains(&part),
    }
}

fn split_outside(text: &str, separator: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if depth == 0 && rest.starts_with(separator) {
            parts.push(String::new());
            rest = rest.get(separator.len()..).unwrap_or_default();
            continue;
        }
        depth += i32::from(next == '(') - i32::from(next == ')');
        if let Some(last) = parts.last_mut() {
            last.push(next);
        }
        rest = rest.get(next.len_utf8()..).unwrap_or_default();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        assert!(is_allowed("MIT OR Apache-2.0"));
        assert!(is_allowed("MIT/Apache-2.0"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_allowed("GPL-3.0 OR MIT"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
        assert!(!is_allowed("(MIT OR Apache-2.0) AND GPL-3.0"));
        assert!(!is_allowed("none"));
    }

    #[test]
    fn banned_words_are_whole_words() {
        assert!(holds_word("await fetch(url)", "fetch"));
        assert!(!holds_word("prefetched(url)", "fetch"));
        assert!(!holds_word("node.evaluate()", "eval"));
        assert!(holds_word("a.innerHTML = b", "innerHTML"));
    }

    #[test]
    fn comments_do_not_count() {
        let code = "// fetch\n/** fetch\n * fetch */ a\n/* fetch */ fetch()\nb";
        assert_eq!(without_comments(code), "\n\n a\n fetch()\nb");
    }

    #[test]
    fn addresses_are_seen() {
        assert!(addresses("x = 'https://example.org/'").next().is_some());
        assert!(addresses("x = 'http://' + host").next().is_some());
        assert!(addresses("httpResponse").next().is_none());
    }

    #[test]
    fn import_section() {
        // A module that imports the function "a"."b_0123456789abcdef" of type 0.
        let mut wasm = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x18\x01\x01a\x12b_0123456789abcdef\0\0".to_vec();
        assert_eq!(imports(&wasm), Some(vec!["b".to_string()]));
        wasm.truncate(30);
        assert_eq!(imports(&wasm), None);
    }
}
