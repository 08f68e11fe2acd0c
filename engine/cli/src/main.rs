//! The engine natively: `check`, `generate`, `bench`, `inspect`, `synth`, `manifest`.

mod arguments;
mod check;
mod generate;
mod inspect;
mod load;
mod manifest;
mod synth;

use std::process::ExitCode;

const USAGE: &str = "\
sotto-cli runs the engine on this machine. MODEL is a GGUF file or a Hugging Face folder.

  sotto-cli check MODEL [--reference DIR] [--device cpu|gpu] [--path reference|fast] [--prompt NAME [--steps N]]
      compares the model with a reference made by transformers: one line a check, exit 1 on any FAIL;
      without a reference a device or the fast path is compared with the exact CPU path, on --tokens N ids;
      --top-1 SHARE sets how often an approximation, the fast path or --cache f16, must choose the exact one's id (0.97)
  sotto-cli generate MODEL --prompt TEXT | --chat TEXT [--max N] [--temperature T] [--top-k K] [--top-p P] [--min-p P]
      [--repetition-penalty R] [--seed S] [--device cpu|gpu] [--path reference|fast]
      streams the continuation, or the answer
      (generate and bench: --quantize int8|int4 turns matrices stored as floats into integers while they load)
  sotto-cli bench MODEL [--device cpu|gpu] [--path reference|fast] [--new N] [--profile POSITION]
      prints JSON: prefill and decode tokens/s at 128, 512 and 2,048 tokens of context, decode also with the choice left to
      the device, greedy and drawn; peak memory; --profile times each kernel of a decode step at a position, on a graphics
      device with timestamps
  sotto-cli greedy MODEL [--tokens N] [--new N] [--device cpu|gpu] [--path reference|fast] [--ranges kept|ignored]
      prints ids: what follows N ids spread over the vocabulary, and how far ahead each choice was; needs no tokenizer
      (check, generate, bench and greedy: --tables outside reads rows of tables that are only gathered from the model's files,
      when a step needs them; with --device gpu, --cache f32|f16 is how keys and values are stored there)
  sotto-cli inspect FILE
      says what a model file holds
  sotto-cli synth e2b-mobile|e4b-mobile|e2b-q4_0|tiny-mobile|tiny-q4_0 DIR [--tokenizer FILE] [--seed S]
      writes a checkpoint of Gemma 4's names, shapes, types and length with random weights, to measure size and speed;
      `synth tokenizer DIR` writes the tokenizer alone. FILE is Gemma's tokenizer.json; npm ci brings the usual one
  sotto-cli manifest DIR
      writes sotto-manifest.json beside a model's files: the hashes that Sotto checks them against when it gets them
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let run = match command.as_str() {
        "check" => check::run,
        "generate" => generate::run,
        "bench" => generate::bench,
        "greedy" => generate::greedy,
        "inspect" => inspect::run,
        "synth" => synth::run,
        "manifest" => manifest::run,
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
