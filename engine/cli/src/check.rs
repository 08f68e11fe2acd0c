//! `check`: the model against its reference.

use std::path::Path;

use sotto_core::Result;
use sotto_core::check::fixture::{self, Ranges};
use sotto_core::check::{self, Line};
use sotto_core::cpu::CpuPath;
use sotto_core::model::Stages;

use crate::arguments::{Arguments, DeviceChoice};
use crate::load;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let device = arguments.device(CpuPath::Reference)?;
    let mut failed = 0;
    let mut report = |line: Line| {
        failed += u32::from(!line.pass);
        println!("{line}");
    };
    // A folder made as a fixture holds its reference beside its weights.
    let folder = arguments.text("reference").map_or(arguments.model()?, Path::new);
    let fixture = std::fs::read(folder.join("reference.json")).ok().and_then(|json| fixture::parse(&json));
    if let Some(fixture) = fixture {
        let weights = load::Weights::open(arguments.model()?, arguments.tables()?)?;
        let tensors = check::parse_tensors(&load::read(&folder.join("reference.safetensors"))?)?;
        if device == DeviceChoice::Cpu(CpuPath::Fast) {
            if weights.has_ranges()? {
                let mut open = async |stages, ranges| weights.generator(device, stages, ranges);
                pollster::block_on(fixture::with_ranges(&mut open, &fixture, &tensors, &mut report))?;
            }
            let top_1 = arguments.number("top-1", check::TOP_1)?;
            let open = |path| weights.generator(DeviceChoice::Cpu(path), Stages::Dropped, Ranges::Kept);
            let (mut fast, mut exact) = (open(CpuPath::Fast)?, open(CpuPath::Reference)?);
            pollster::block_on(check::fast(&mut fast, &mut exact, &fixture.into(), top_1, &mut report))?;
            return Ok(summary(failed));
        }
        let open = async |stages, ranges| weights.generator(device, stages, ranges);
        pollster::block_on(fixture::check(open, &fixture, &tensors, &mut report))?;
        return Ok(summary(failed));
    }
    if arguments.text("reference").is_none() && device != DeviceChoice::Cpu(CpuPath::Reference) {
        // Without a reference the exact CPU path is the reference.
        let weights = load::Weights::open(arguments.model()?, arguments.tables()?)?;
        let ranges = arguments.ranges()?;
        let mut exact = weights.generator(DeviceChoice::Cpu(CpuPath::Reference), Stages::Kept, ranges)?;
        let mut other = weights.generator(device, Stages::Kept, ranges)?;
        let tokens = arguments.number("tokens", 8)?;
        pollster::block_on(fixture::against(&mut exact, &mut other, tokens, &mut report))?;
        return Ok(summary(failed));
    }
    let model = load::open(arguments.model()?, arguments.tables()?)?;
    let mut generator = load::generator(&model, device, Stages::Kept, None)?;
    report(Line {
        name: "weights".into(),
        error: None,
        detail: format!("{} tensors", model.model.weights.len()),
        pass: true,
    });
    if let Some(dir) = arguments.text("reference") {
        let file = |name: &str| load::read(&Path::new(dir).join(name));
        let mut reference = check::parse_reference(&file("reference.json")?)?;
        let tensors = check::parse_tensors(&file("reference.safetensors")?)?;
        if let Some(prompt) = arguments.text("prompt") {
            reference.shorten(prompt, arguments.number("steps", usize::MAX)?)?;
        }
        check::tokenization(&model.model.tokenizer, &reference, &mut report);
        if device == DeviceChoice::Cpu(CpuPath::Fast) {
            let top_1 = arguments.number("top-1", check::TOP_1)?;
            let mut exact = load::generator(&model, DeviceChoice::Cpu(CpuPath::Reference), Stages::Dropped, None)?;
            pollster::block_on(check::fast(&mut generator, &mut exact, &reference, top_1, &mut report))?;
        } else {
            pollster::block_on(check::exact(&mut generator, &reference, &tensors, &mut report))?;
        }
    }
    Ok(summary(failed))
}

fn summary(failed: u32) -> bool {
    match failed {
        0 => println!("all checks passed"),
        n => println!("{n} checks FAILED"),
    }
    failed == 0
}
