//! `check`: the model against its reference.

use std::path::Path;

use sotto_core::Result;
use sotto_core::check::fixture::{self, Ranges};
use sotto_core::check::{self, Line, Nearness, Reference};
use sotto_core::cpu::CpuPath;
use sotto_core::gpu::CacheFormat;
use sotto_core::model::Stages;

use crate::arguments::{Arguments, DeviceChoice};
use crate::load;

const EXACT: DeviceChoice = DeviceChoice::Cpu(CpuPath::Reference);

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let device = arguments.device(CpuPath::Reference)?;
    // An approximation is compared with the exact path.
    let nearness = match device {
        DeviceChoice::Cpu(CpuPath::Fast) => Some(check::FAST),
        DeviceChoice::Gpu(CacheFormat::F16) => Some(check::F16_CACHES),
        _ => None,
    };
    let nearness = match nearness {
        Some(bounds) => Some(Nearness { top_1: arguments.number("top-1", bounds.top_1)?, ..bounds }),
        None => None,
    };
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
        let mut open = async |stages, ranges| weights.generator(device, stages, ranges);
        let Some(bounds) = nearness else {
            pollster::block_on(fixture::check(open, &fixture, &tensors, &mut report))?;
            return Ok(summary(failed));
        };
        let has_ranges = weights.has_ranges()?;
        let is_cpu = matches!(device, DeviceChoice::Cpu(_));
        if has_ranges && is_cpu {
            pollster::block_on(fixture::with_ranges(&mut open, &fixture, &tensors, &mut report))?;
        }
        let reference = fixture.into();
        let mut compare = |ranges, bounds: &Nearness| {
            let mut near = weights.generator(device, Stages::Dropped, ranges)?;
            let mut exact = weights.generator(EXACT, Stages::Dropped, ranges)?;
            pollster::block_on(check::near(&mut near, &mut exact, &reference, bounds, &mut report))
        };
        match has_ranges && !is_cpu {
            // What ranges make of the smallest difference says little about its size.
            true => {
                compare(Ranges::Ignored, &bounds)?;
                compare(Ranges::Kept, &check::F16_CACHES_AND_RANGES)?;
            }
            false => compare(Ranges::Kept, &bounds)?,
        }
        return Ok(summary(failed));
    }
    if arguments.text("reference").is_none() && device != EXACT {
        // Without a reference the exact CPU path is the reference.
        let weights = load::Weights::open(arguments.model()?, arguments.tables()?)?;
        let ranges = arguments.ranges()?;
        let mut exact = weights.generator(EXACT, Stages::Kept, ranges)?;
        let mut other = weights.generator(device, Stages::Kept, ranges)?;
        let tokens = arguments.number("tokens", 8)?;
        match nearness {
            Some(bounds) if matches!(device, DeviceChoice::Gpu(_)) => {
                let recording = exact.recording();
                let reference = Reference::spread(recording.logits.map_or(1, |id| recording.info(id).cols), tokens);
                pollster::block_on(check::near(&mut other, &mut exact, &reference, &bounds, &mut report))?;
            }
            _ => pollster::block_on(fixture::against(&mut exact, &mut other, tokens, &mut report))?,
        }
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
        match nearness {
            Some(bounds) => {
                let mut exact = load::generator(&model, EXACT, Stages::Dropped, None)?;
                pollster::block_on(check::near(&mut generator, &mut exact, &reference, &bounds, &mut report))?;
            }
            None => pollster::block_on(check::exact(&mut generator, &reference, &tensors, &mut report))?,
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
