//! `cargo xtask test`: every check there is, one line each. It goes on after a failure and says all of them at the end.

use crate::shell::{Result, at, cargo, program, root};
use crate::{browser, bundle, lints, model, setup};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One check.
struct Step {
    name: String,
    what: What,
    limit: Duration,
}

enum What {
    Run(Box<dyn Fn() -> Result<Command>>),
    Do(fn() -> Result<String>),
}

const LINES_SHOWN: usize = 40;

/// Runs the steps, or those whose name contains the word after `--only`.
pub(crate) fn test(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let only = match words.as_slice() {
        [] | ["--list"] => "",
        ["--only", name] => name,
        _ => return Err("usage: cargo xtask test [--only NAME] [--list]".into()),
    };
    let steps = steps()?;
    if words == ["--list"] {
        steps.iter().for_each(|step| println!("{}", step.name));
        return Ok(());
    }
    let chosen: Vec<&Step> = steps.iter().filter(|step| step.name.contains(only)).collect();
    if chosen.is_empty() {
        return Err(format!("no step's name contains `{only}`; `cargo xtask test --list` names them"));
    }
    let logs = root().join("out/test");
    setup::folder(&logs)?;
    let start = Instant::now();
    let mut failed = Vec::new();
    for step in &chosen {
        let begun = Instant::now();
        let log = logs.join(format!("{}.log", step.name.replace([' ', '/', ':'], "-")));
        let outcome = step.run(&log);
        let time = begun.elapsed().as_secs_f32();
        match outcome {
            Ok(note) => println!("pass  {:<44} {time:>7.1} s  {note}", step.name),
            Err(problem) => {
                println!("FAIL  {:<44} {time:>7.1} s\n{}", step.name, indented(&problem));
                failed.push(step.name.as_str());
            }
        }
    }
    let minutes = start.elapsed().as_secs_f32() / 60.0;
    if failed.is_empty() {
        println!("\nall {} steps passed in {minutes:.1} min", chosen.len());
        return Ok(());
    }
    Err(format!("{} of {} steps FAILED in {minutes:.1} min: {}", failed.len(), chosen.len(), failed.join(", ")))
}

impl Step {
    fn run(&self, log: &Path) -> Result<String> {
        match &self.what {
            What::Do(check) => check(),
            What::Run(command) => watched(&mut command()?, log, self.limit),
        }
    }
}

/// Runs a command into a log, ends it when it takes too long, and answers the last line it printed.
fn watched(command: &mut Command, log: &Path, limit: Duration) -> Result<String> {
    let file = at(log, File::create(log))?;
    let errors = at(log, file.try_clone())?;
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("{name} did not start: {error}"))?;
    let start = Instant::now();
    let mut asked_to_end = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if start.elapsed() > limit && !asked_to_end {
            // A polite signal: the scripts then end the browsers they started.
            let _ = program("kill").arg(child.id().to_string()).status();
            asked_to_end = true;
        }
        if start.elapsed() > limit + Duration::from_secs(10) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = String::from_utf8_lossy(&at(log, std::fs::read(log))?).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if status.success() {
        return Ok(lines.last().map(|line| line.chars().take(100).collect()).unwrap_or_default());
    }
    let shown = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default().join("\n");
    let why = if asked_to_end { format!("no end after {} s", limit.as_secs()) } else { status.to_string() };
    Err(format!("{shown}\n{why}; everything it said: {}", log.strip_prefix(root()).unwrap_or(log).display()))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect()
}

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

fn run(name: impl Into<String>, limit: Duration, command: impl Fn() -> Result<Command> + 'static) -> Step {
    Step { name: name.into(), what: What::Run(Box::new(command)), limit }
}

fn check(name: &str, what: fn() -> Result<String>) -> Step {
    Step { name: name.into(), what: What::Do(what), limit: minutes(5) }
}

fn cargo_step(name: &str, arguments: &'static [&'static str]) -> Step {
    run(name, minutes(25), move || {
        let mut command = cargo();
        command.args(arguments);
        Ok(command)
    })
}

fn steps() -> Result<Vec<Step>> {
    let mut steps = vec![
        cargo_step("format", &["fmt", "--all", "--check"]),
        cargo_step("clippy host", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        run("clippy wasm32", minutes(25), || {
            setup::wasm_target()?;
            let mut command = cargo();
            command.args(["clippy", "--quiet", "-p", "sotto-web", "--target", setup::WASM, "--", "-D", "warnings"]);
            Ok(command)
        }),
        run("build dist", minutes(25), || Ok(ourselves("build"))),
        check("shipped code calls no network", lints::banned_calls),
        check("wasm imports", lints::wasm_imports),
        check("wasm size", lints::wasm_size),
        check("licences", lints::licences),
        run("types", minutes(5), || tsc("tsconfig.json")),
        run("types of the tests", minutes(5), || tsc("tests/tsconfig.json")),
    ];
    steps.push(rust_tests("rust tests, lavapipe", Driver::Lavapipe, &["--workspace", "--exclude", "xtask"]));
    steps.push(cargo_step("rust tests, xtask", &["test", "--quiet", "--profile", "xtask", "-p", "xtask"]));
    // Another implementation with other limits: no f16, subgroups of four.
    steps.push(rust_tests("gpu tests, swiftshader", Driver::SwiftShader, &["-p", "sotto-core", "--lib", "gpu::"]));
    reference_checks(&mut steps)?;
    for folder in ["protocol", "interface", "pages"] {
        node_tests(&mut steps, folder)?;
    }
    for (name, script, arguments) in [
        ("shaders in chromium", "tests/browser/shaders.mjs", [""; 0].as_slice()),
        ("tokenizer in chromium", "tests/browser/tokenizer.mjs", &[]),
        ("starter in chromium, cpu", "tests/browser/check.mjs", &["cpu"]),
        ("starter in chromium, reference", "tests/browser/check.mjs", &["reference"]),
        ("starter in chromium, gpu", "tests/browser/check.mjs", &["gpu"]),
        ("gemma 4 in chromium, reference", "tests/browser/fixtures.mjs", &["reference"]),
        ("gemma 4 mobile in chromium, cpu", "tests/browser/fixtures.mjs", &["cpu", "mobile"]),
        ("gemma 4 in chromium, gpu", "tests/browser/fixtures.mjs", &["gpu"]),
        ("gemma 4 in chromium, gpu, f16 caches", "tests/browser/fixtures.mjs", &["gpu-f16", "mobile-e2b"]),
        ("tables outside in chromium", "tests/browser/outside.mjs", &[]),
        ("end to end", "tests/e2e/run.mjs", &[]),
    ] {
        steps.push(run(name, minutes(25), move || {
            setup::node_modules()?;
            setup::gestures()?;
            let mut node = browser::script(script, &setup::chromium()?);
            node.args(arguments);
            Ok(node)
        }));
    }
    Ok(steps)
}

/// We are a program of this workspace: one command of ours runs another as the user would.
fn ourselves(command: &str) -> Command {
    let mut step = program(std::env::current_exe().unwrap_or_default());
    step.arg(command);
    step
}

fn tsc(project: &'static str) -> Result<Command> {
    setup::node_modules()?;
    let mut command = program("node");
    command.args(["node_modules/typescript/bin/tsc", "--project", project]);
    Ok(command)
}

/// Which software implementation of Vulkan the kernels run on.
#[derive(Clone, Copy)]
enum Driver {
    Lavapipe,
    SwiftShader,
}

impl Driver {
    /// The loader reads only the driver it is told; a machine's own GPU is left alone, so that results are the same everywhere.
    fn file(self) -> Result<PathBuf> {
        setup::vulkan()?;
        let found = match self {
            Self::Lavapipe => ["lvp_icd.x86_64.json", "lvp_icd.aarch64.json", "lvp_icd.json"]
                .map(|name| Path::new("/usr/share/vulkan/icd.d").join(name))
                .into_iter()
                .find(|path| path.is_file()),
            // Chromium brings its own.
            Self::SwiftShader => setup::chromium()?
                .parent()
                .map(|folder| folder.join("vk_swiftshader_icd.json"))
                .filter(|path| path.is_file()),
        };
        found.ok_or_else(|| match self {
            Self::Lavapipe => "no lavapipe driver under /usr/share/vulkan/icd.d: install mesa-vulkan-drivers".into(),
            Self::SwiftShader => {
                "no vk_swiftshader_icd.json beside the browser: set SOTTO_CHROMIUM to one that has it".into()
            }
        })
    }

    fn set(self, command: &mut Command) -> Result<()> {
        let file = self.file()?;
        // The same setting under its old and its new name.
        command.env("VK_ICD_FILENAMES", &file).env("VK_DRIVER_FILES", &file);
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
        Ok(())
    }
}

fn rust_tests(name: &str, driver: Driver, arguments: &'static [&'static str]) -> Step {
    run(name, minutes(30), move || {
        let mut command = cargo();
        command.args(["test", "--quiet"]).args(arguments).env("SOTTO_MODELS", weights_folder()?);
        driver.set(&mut command)?;
        Ok(command)
    })
}

fn weights_folder() -> Result<PathBuf> {
    let weights = model::fetch()?;
    Ok(weights.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// `sotto-cli check` on every checkpoint under `tests/golden` that has a reference, on every path and device, and with either
/// format of a graphics device's caches.
fn reference_checks(steps: &mut Vec<Step>) -> Result<()> {
    let mut models: Vec<(String, PathBuf, PathBuf)> = Vec::new();
    for file in bundle::files(&root().join("tests/golden"))? {
        let (Some(folder), true) = (file.parent(), file.ends_with("reference.json")) else { continue };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gguf = folder.join("model.gguf");
        // An empty path stands for the starter's weights, which are not in git.
        let weights = match name.as_str() {
            "starter" => PathBuf::new(),
            _ if gguf.is_file() => gguf,
            _ => folder.to_path_buf(),
        };
        models.push((name, weights, folder.to_path_buf()));
    }
    for (device, way) in [("cpu", "reference"), ("cpu", "fast"), ("gpu", "f32"), ("gpu", "f16")] {
        for (name, weights, folder) in models.clone() {
            // The fast path's 8-bit activations are an approximation for models that the CPU serves: at a width of 64 with random
            // weights in bf16 it says nothing about those. Static ranges are 8-bit activations by definition, and blocks of 32
            // come near enough.
            let is_float = folder.join("config.json").is_file() && !name.starts_with("mobile");
            if way == "fast" && is_float && folder.parent().is_some_and(|parent| parent.ends_with("gemma4")) {
                continue;
            }
            let title = match (device, way) {
                ("gpu", "f16") => format!("check {name}, gpu, f16 caches"),
                ("gpu", _) => format!("check {name}, gpu"),
                _ => format!("check {name}, {way}"),
            };
            steps.push(run(title, minutes(15), move || {
                let weights = if weights.as_os_str().is_empty() { model::fetch()? } else { weights.clone() };
                let mut command = cargo();
                command.args(["run", "--quiet", "--profile", "tools", "-p", "sotto-cli", "--", "check"]).arg(weights);
                command.arg("--reference").arg(&folder).args(["--device", device]);
                if device == "cpu" {
                    command.args(["--path", way]);
                    if way == "fast" && !folder.ends_with("starter") {
                        // Random weights give nearly flat logits, whose near ties any rounding reorders: there the
                        // divergence is the test, and the choice only a coarse one.
                        command.args(["--top-1", "0.85"]);
                    }
                } else {
                    command.args(["--cache", way]);
                    if folder.ends_with("starter") {
                        // A software device takes minutes for the long prompts; a real one runs them all.
                        command.args(["--prompt", "plain", "--steps", if way == "f16" { "4" } else { "8" }]);
                    }
                }
                Driver::Lavapipe.set(&mut command)?;
                Ok(command)
            }));
        }
    }
    // Rows of gathered tables read from the files, on either device.
    for (name, device) in [("mobile-e2b", "gpu"), ("mobile-e4b", "cpu")] {
        steps.push(run(format!("check {name}, {device}, tables outside"), minutes(15), move || {
            let folder = root().join("tests/golden/gemma4").join(name);
            let mut command = cargo();
            command.args(["run", "--quiet", "--profile", "tools", "-p", "sotto-cli", "--", "check"]).arg(&folder);
            command.arg("--reference").arg(&folder).args(["--device", device, "--tables", "outside"]);
            Driver::Lavapipe.set(&mut command)?;
            Ok(command)
        }));
    }
    Ok(())
}

/// Node scripts named `*.test.mjs`, and `run.mjs`, of a folder under `tests/`.
fn node_tests(steps: &mut Vec<Step>, folder: &'static str) -> Result<()> {
    let path = root().join("tests").join(folder);
    if !path.is_dir() {
        return Ok(());
    }
    let named = |file: &Path, end: &str| file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(end));
    let scripts: Vec<PathBuf> = bundle::files(&path)?.into_iter().filter(|file| named(file, ".test.mjs")).collect();
    if !scripts.is_empty() {
        steps.push(run(format!("node tests, {folder}"), minutes(10), move || {
            setup::node_modules()?;
            let mut node = program("node");
            node.args(["--test", "--test-reporter=spec"]).args(&scripts);
            node.env("SOTTO_CHROMIUM", setup::chromium()?).env("SOTTO_DIST", bundle::dist());
            Ok(node)
        }));
    }
    if path.join("run.mjs").is_file() {
        steps.push(run(folder, minutes(15), move || {
            Ok(browser::script(&format!("tests/{folder}/run.mjs"), &setup::chromium()?))
        }));
    }
    Ok(())
}
