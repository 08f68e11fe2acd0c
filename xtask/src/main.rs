//! Build, demo, read, test, bench: every command of the project, with nothing to install by hand.

mod browser;
mod bundle;
mod lints;
mod model;
mod setup;
mod shell;
mod steps;

use bundle::Pace;
use shell::Result;

const HELP: &str = "\
cargo xtask COMMAND

  build [--quick]             makes dist/, which Chrome and Edge load unpacked; quick: modules that run slower, in a fraction of the time
  model                       fetches and checks the starter model, prints its path
  demo [--page URL] [--shots DIR] [--gpu]
                              right-click, Summarize, on an article, in a real browser; with a display the browser stays open
  read URL                    prints the text the engine would get from a page, and how much of it was read
  test [--only NAME] [--list] every check there is, or those whose name contains NAME
  bench [--against wllama] [--json FILE] [--gpu]
                              tokens per second in the browser

Environment: SOTTO_MODELS=DIR  a folder that holds the starter's GGUF file, used instead of pip
             SOTTO_CHROMIUM=FILE  the browser to use
             SOTTO_NO_SANDBOX=1  for containers that allow no user namespaces (root implies it)";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Err(message) = dispatch(&arguments) {
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((command, rest)) = arguments.split_first() else {
        println!("{HELP}");
        return Ok(());
    };
    match command.as_str() {
        "build" => match rest {
            [quick] if quick == "--quick" => bundle::build(Pace::Quick),
            _ => no_more(rest).and_then(|()| bundle::build(Pace::Shipped)),
        },
        "model" => no_more(rest).and_then(|()| model::fetch()).map(|path| println!("{}", path.display())),
        "demo" => browser::demo(rest),
        "read" => browser::read(rest),
        "test" => steps::test(rest),
        "bench" => browser::bench(rest),
        "help" | "--help" | "-h" => no_more(rest).map(|()| println!("{HELP}")),
        other => Err(format!("there is no command `{other}`.\n\n{HELP}")),
    }
}

fn no_more(rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(extra) => Err(format!("`{extra}` is not understood here.\n\n{HELP}")),
    }
}
