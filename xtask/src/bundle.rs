//! `dist/`: the only thing Chrome loads, made anew each time so that nothing stale stays in it.

use crate::model;
use crate::setup::{self, folder};
use crate::shell::{Result, at, cargo, read, read_json, root, run};
use std::path::{Path, PathBuf};
use wasm_bindgen_cli_support::Bindgen;

/// The rooms that ship, and what may ship from them.
const ROOMS: &[&str] = &["popup", "extension", "offscreen"];
const SHIPPED: &[&str] = &["js", "html", "css", "json", "wasm", "png", "svg", "woff2"];

/// The engine is built twice: relaxed SIMD is used where the browser validates it, the plain module elsewhere.
struct Variant {
    /// Name of the module under `offscreen/pkg/`.
    name: &'static str,
    /// `None`: the flags of `.cargo/config.toml`.
    rust_flags: Option<&'static str>,
    target_dir: &'static str,
}

const VARIANTS: [Variant; 2] = [
    Variant { name: "engine", rust_flags: None, target_dir: "target" },
    Variant { name: "engine_plain", rust_flags: Some("-C target-feature=+simd128"), target_dir: "target/plain" },
];

/// How the modules are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As they ship.
    Shipped,
    /// In a fraction of the time, for work on pages and protocols: optimized piece by piece, and one module under both names.
    Quick,
}

/// Where the extension is put together.
pub(crate) fn dist() -> PathBuf {
    root().join("dist")
}

/// Builds everything and puts `dist/` together.
pub(crate) fn build(pace: Pace) -> Result<()> {
    modules(pace)?;
    let weights = model::fetch()?;
    let (dist, next) = (dist(), root().join("dist.next"));
    empty(&next)?;
    at(&next.join("manifest.json"), std::fs::copy(root().join("manifest.json"), next.join("manifest.json")))?;
    for room in ROOMS {
        copy_room(&root().join(room), &next.join(room))?;
    }
    locales(&next)?;
    folder(&next.join("models"))?;
    for file in files(&root().join("models"))? {
        if file.extension().is_some_and(|kind| kind == "json") {
            place(&file, &next.join("models").join(file.file_name().unwrap_or_default()))?;
        }
    }
    let shipped = next.join("models/starter.gguf");
    // A link costs nothing; another file system needs a copy.
    std::fs::hard_link(&weights, &shipped).or_else(|_| at(&shipped, std::fs::copy(&weights, &shipped)).map(|_| ()))?;
    for notice in ["LICENSE", "THIRD_PARTY.md"] {
        if root().join(notice).is_file() {
            place(&root().join(notice), &next.join(notice))?;
        }
    }
    named_files_exist(&next)?;
    if dist.exists() {
        at(&dist, std::fs::remove_dir_all(&dist))?;
    }
    at(&dist, std::fs::rename(&next, &dist))?;
    let bytes: u64 = files(&dist)?.iter().filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum();
    println!("dist/: {:.1} MB, load it unpacked in Chrome or Edge", bytes as f64 / 1e6);
    Ok(())
}

/// Builds the wasm modules and their JavaScript into `offscreen/pkg/`.
pub(crate) fn modules(pace: Pace) -> Result<()> {
    setup::wasm_target()?;
    let pkg = root().join("offscreen/pkg");
    folder(&pkg)?;
    // What one pace left is newer than what the other compiled before.
    let mark = pkg.join("quick");
    if mark.exists() != (pace == Pace::Quick) {
        empty(&pkg)?;
    }
    if pace == Pace::Quick {
        at(&mark, std::fs::write(&mark, ""))?;
    }
    for variant in &VARIANTS {
        let wasm = compile(if pace == Pace::Quick { &VARIANTS[0] } else { variant }, pace)?;
        bind(variant, &wasm, &pkg)?;
    }
    Ok(())
}

fn compile(variant: &Variant, pace: Pace) -> Result<PathBuf> {
    let profile = if pace == Pace::Quick { "tools" } else { "release" };
    let target_dir = root().join(variant.target_dir);
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "sotto-web", "--lib", "--profile", profile]);
    command.args(["--target", setup::WASM, "--target-dir"]).arg(&target_dir);
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    if let Some(flags) = variant.rust_flags {
        command.env("RUSTFLAGS", flags);
    }
    run(&mut command)?;
    Ok(target_dir.join(setup::WASM).join(profile).join("sotto_web.wasm"))
}

fn bind(variant: &Variant, wasm: &Path, pkg: &Path) -> Result<()> {
    let output = pkg.join(format!("{}_bg.wasm", variant.name));
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if changed(&output).is_some_and(|made| changed(wasm).is_some_and(|built| built <= made)) {
        return Ok(());
    }
    let mut bindgen = Bindgen::new();
    bindgen.input_path(wasm).out_name(variant.name).typescript(true);
    bindgen.remove_name_section(true).remove_producers_section(true);
    // The module finds its .wasm beside itself.
    bindgen.omit_default_module_path(false);
    let problem = |error: &dyn std::fmt::Display| format!("wasm-bindgen on {}: {error}", wasm.display());
    bindgen.web(true).map_err(|error| problem(&format!("{error:#}")))?;
    bindgen.generate(pkg).map_err(|error| problem(&format!("{error:#}")))
}

/// Chrome wants `_locales` at the extension's root; in the repository it belongs to the extension's room.
fn locales(next: &Path) -> Result<()> {
    let inside = next.join("extension/_locales");
    if inside.is_dir() {
        let outside = next.join("_locales");
        return at(&outside, std::fs::rename(&inside, &outside));
    }
    Ok(())
}

fn copy_room(from: &Path, to: &Path) -> Result<()> {
    for file in files(from)? {
        let kind = file.extension().unwrap_or_default().to_string_lossy().into_owned();
        let relative = file.strip_prefix(from).unwrap_or(&file);
        if SHIPPED.contains(&kind.as_str()) {
            place(&file, &to.join(relative))?;
        }
    }
    Ok(())
}

/// A file that the manifest or a page names and `dist/` lacks is a broken extension: said now, not by the browser.
fn named_files_exist(dist: &Path) -> Result<()> {
    let manifest = read_json(&dist.join("manifest.json"))?;
    let mut missing = Vec::new();
    strings(&manifest, &mut |text| {
        let path = text.trim_start_matches('/');
        let kind = Path::new(path).extension().unwrap_or_default().to_string_lossy().into_owned();
        let is_path = SHIPPED.contains(&kind.as_str()) && !path.contains([' ', ':', '*']);
        if is_path && !dist.join(path).is_file() {
            missing.push(format!("manifest.json names {path}"));
        }
    });
    for page in files(dist)?.iter().filter(|file| file.extension().is_some_and(|kind| kind == "html")) {
        for named in references(&read(page)?) {
            let inside = page.parent().unwrap_or(dist).join(&named);
            let target = named.strip_prefix('/').map_or(inside, |rest| dist.join(rest));
            if !target.is_file() {
                missing.push(format!("{} names {named}", page.strip_prefix(dist).unwrap_or(page).display()));
            }
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("files missing from dist/: {}", missing.join(", "))) }
}

fn references(html: &str) -> Vec<String> {
    ["src=\"", "href=\""]
        .into_iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .map(|value| value.split(['?', '#']).next().unwrap_or_default().to_string())
        .filter(|value| !value.is_empty() && !value.contains(':'))
        .collect()
}

fn strings(value: &serde_json::Value, visit: &mut impl FnMut(&str)) {
    match value {
        serde_json::Value::String(text) => visit(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| strings(item, visit)),
        serde_json::Value::Object(map) => map.values().for_each(|item| strings(item, visit)),
        _ => {}
    }
}

/// Every file below a folder, in a fixed order.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(next) = open.pop() {
        for item in at(&next, std::fs::read_dir(&next))? {
            let path = at(&next, item)?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

fn place(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        folder(parent)?;
    }
    at(from, std::fs::copy(from, to)).map(|_| ())
}

fn empty(path: &Path) -> Result<()> {
    if path.exists() {
        at(path, std::fs::remove_dir_all(path))?;
    }
    folder(path)
}
