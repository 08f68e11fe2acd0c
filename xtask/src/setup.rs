//! What must be on the machine, and how it gets there.

use crate::shell::{Result, at, capture, find, has, is_root, program, root, run};
use std::path::{Path, PathBuf};

/// A Debian or Ubuntu package and the sign that it is installed.
struct Package {
    name: &'static str,
    sign: Sign,
}

enum Sign {
    Program(&'static str),
    AnyFile(&'static [&'static str]),
}

impl Package {
    fn is_installed(&self) -> bool {
        match self.sign {
            Sign::Program(name) => has(name),
            Sign::AnyFile(files) => files.iter().any(|file| Path::new(file).exists()),
        }
    }
}

/// Real clicks on a display of our own: the native context menu exists only with one.
const GESTURES: &[Package] = &[
    Package { name: "xvfb", sign: Sign::Program("Xvfb") },
    Package { name: "xdotool", sign: Sign::Program("xdotool") },
    Package { name: "x11-utils", sign: Sign::Program("xwininfo") },
    Package { name: "imagemagick", sign: Sign::Program("import") },
    Package { name: "openbox", sign: Sign::Program("openbox") },
];

/// A Vulkan device on the CPU, for the kernels' native tests.
const VULKAN: &[Package] = &[
    Package {
        name: "libvulkan1",
        sign: Sign::AnyFile(&[
            "/usr/lib/x86_64-linux-gnu/libvulkan.so.1",
            "/usr/lib/aarch64-linux-gnu/libvulkan.so.1",
            "/usr/lib64/libvulkan.so.1",
        ]),
    },
    Package {
        name: "mesa-vulkan-drivers",
        sign: Sign::AnyFile(&[
            "/usr/share/vulkan/icd.d/lvp_icd.x86_64.json",
            "/usr/share/vulkan/icd.d/lvp_icd.aarch64.json",
            "/usr/share/vulkan/icd.d/lvp_icd.json",
        ]),
    },
];

/// The programs for gestures on a virtual display.
pub(crate) fn gestures() -> Result<()> {
    packages("real clicks in a browser", GESTURES)
}

/// A Vulkan loader and a software driver.
pub(crate) fn vulkan() -> Result<()> {
    packages("the kernels' native tests", VULKAN)
}

/// The standard library for WebAssembly. rust-toolchain.toml names it, but rustup leaves it out when it may not install on
/// its own (`RUSTUP_AUTO_INSTALL=0`) or when the toolchain was there before.
pub(crate) fn wasm_target() -> Result<()> {
    let libraries = capture(program("rustc").args(["--print", "target-libdir", "--target", WASM]))?;
    if Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    run(program("rustup").args(["target", "add", WASM]))
        .map_err(|error| format!("{error}; Rust's standard library for {WASM} is missing: install it with rustup"))
}

/// What the shipped modules are compiled for.
pub(crate) const WASM: &str = "wasm32-unknown-unknown";

/// Python's pip, for the starter model.
pub(crate) fn pip() -> Result<()> {
    if capture(program("python3").args(["-m", "pip", "--version"])).is_ok() {
        return Ok(());
    }
    install("the starter model", &["python3", "python3-pip"])
}

/// Node, 20 or newer.
pub(crate) fn node() -> Result<()> {
    const ADVICE: &str =
        "install Node 20 or newer (Debian 13, Ubuntu 25.04: apt-get install nodejs npm; else nodejs.org)";
    let version = capture(program("node").arg("--version")).map_err(|_| format!("Node is missing: {ADVICE}"))?;
    let major = version.trim().trim_start_matches('v').split('.').next().and_then(|part| part.parse::<u32>().ok());
    if major.is_some_and(|major| major >= 20) {
        return Ok(());
    }
    Err(format!("Node {} is too old: {ADVICE}", version.trim()))
}

/// The development dependencies of package-lock.json.
pub(crate) fn node_modules() -> Result<()> {
    node()?;
    let (lock, installed) = (root().join("package-lock.json"), root().join("node_modules/.package-lock.json"));
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    if changed(&installed).is_some_and(|there| changed(&lock).is_none_or(|wanted| wanted <= there)) {
        return Ok(());
    }
    eprintln!("node_modules: npm ci");
    run(program("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]))
        .map_err(|error| format!("{error}; the tests need the development dependencies of package.json"))
}

/// The browser's executable, installed when it is missing and we may.
pub(crate) fn chromium() -> Result<PathBuf> {
    if let Some(chosen) = std::env::var_os("SOTTO_CHROMIUM") {
        let path = PathBuf::from(chosen);
        return if path.is_file() { Ok(path) } else { Err(format!("SOTTO_CHROMIUM: no file {}", path.display())) };
    }
    if let Some(path) = find_chromium() {
        return Ok(path);
    }
    install("a browser", &["chromium"])?;
    find_chromium().ok_or_else(|| {
        "apt-get's chromium gave no browser that runs (on Ubuntu it is a snap): install Google Chrome's .deb, \
         or set SOTTO_CHROMIUM to a Chrome or Chromium executable"
            .into()
    })
}

/// The real executables come first: the wrapper scripts of distributions add flags of their own.
fn find_chromium() -> Option<PathBuf> {
    let fixed = ["/usr/lib/chromium/chromium", "/opt/google/chrome/chrome"].map(PathBuf::from);
    let named = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "microsoft-edge"];
    fixed
        .into_iter()
        .filter(|path| path.is_file())
        .chain(named.into_iter().filter_map(find))
        .find(|path| capture(program(path).arg("--version")).is_ok())
}

fn packages(purpose: &str, wanted: &[Package]) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().filter(|item| !item.is_installed()).map(|item| item.name).collect();
    if missing.is_empty() { Ok(()) } else { install(purpose, &missing) }
}

fn install(purpose: &str, names: &[&str]) -> Result<()> {
    let list = names.join(" ");
    if !is_root() || !has("apt-get") {
        return Err(format!("{purpose} needs: {list}. Install with: sudo apt-get install {list}"));
    }
    eprintln!("installing for {purpose}: {list}");
    let apt = |arguments: &[&str]| {
        capture(program("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]).args(arguments))
    };
    let mut arguments = vec!["install", "--no-install-recommends"];
    arguments.extend(names);
    // The package lists of a fresh container are empty, those of an old one stale.
    apt(&arguments).or_else(|_| apt(&["update"]).and_then(|_| apt(&arguments)))?;
    Ok(())
}

/// Makes a folder and those above it.
pub(crate) fn folder(path: &Path) -> Result<()> {
    at(path, std::fs::create_dir_all(path))
}
