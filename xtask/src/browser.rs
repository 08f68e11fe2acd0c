//! The commands that drive a browser: each is a script under `tests/`, told by environment where things are.

use crate::shell::{Result, program, run};
use crate::{bundle, setup};
use std::path::Path;
use std::process::Command;

/// A script that finds the browser and the built extension by `SOTTO_CHROMIUM` and `SOTTO_DIST`.
pub(crate) fn script(path: &str, chromium: &Path) -> Command {
    let mut node = program("node");
    node.arg("--disable-warning=ExperimentalWarning").arg(path);
    node.env("SOTTO_CHROMIUM", chromium).env("SOTTO_DIST", bundle::dist());
    node
}

/// The main job, shown: a right-click on an article becomes a streamed summary.
pub(crate) fn demo(arguments: &[String]) -> Result<()> {
    setup::node()?;
    setup::gestures()?;
    let chromium = setup::chromium()?;
    bundle::build(bundle::Pace::Shipped)?;
    run(script("tests/browser/demo.mjs", &chromium).args(arguments))
}

/// What the engine would get from a page.
pub(crate) fn read(arguments: &[String]) -> Result<()> {
    let [url] = arguments else {
        return Err("usage: cargo xtask read URL (http:, https: or file:)".into());
    };
    setup::node()?;
    let chromium = setup::chromium()?;
    run(script("tests/pages/read.mjs", &chromium).arg(url))
}

/// Ours, and a rival on request, in the same browser.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    setup::node_modules()?;
    let chromium = setup::chromium()?;
    bundle::build(bundle::Pace::Shipped)?;
    run(script("tests/bench/run.mjs", &chromium).args(arguments))
}
