//! The engine natively: `check`, `generate`, `bench`, `inspect`.

mod arguments;
mod check;
mod generate;
mod inspect;
mod load;

use std::process::ExitCode;

const USAGE: &str = "\
sotto-cli runs the engine on this machine. MODEL is a GGUF file or a Hugging Face folder.

  sotto-cli check MODEL [--reference DIR] [--device cpu|gpu] [--path reference|fast] [--prompt NAME [--steps N]]
      compares the model with a reference made by transformers: one line a check, exit 1 on any FAIL;
      --top-1 SHARE sets how often the fast path must choose the exact one's id (0.97)
  sotto-cli generate MODEL --prompt TEXT | --chat TEXT [--max N] [--temperature T] [--top-k K] [--top-p P] [--min-p P]
      [--repetition-penalty R] [--seed S] [--device cpu|gpu] [--path reference|fast]
      streams the continuation, or the answer
  sotto-cli bench MODEL [--device cpu|gpu] [--path reference|fast] [--new N] [--profile POSITION]
      prints JSON: prefill and decode tokens/s at 128, 512 and 2,048 tokens of context, peak memory; --profile times each
      kernel of a decode step at a position, on a graphics device with timestamps
  sotto-cli inspect FILE
      says what a model file holds
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let run = match command.as_str() {
        "check" => check::run,
        "generate" => generate::run,
        "bench" => generate::bench,
        "inspect" => inspect::run,
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match arguments::Arguments::parse(words).and_then(|a| run(&a)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sotto-cli {command}: {error}");
            ExitCode::from(2)
        }
    }
}
