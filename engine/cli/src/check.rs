//! `check`: the model against its reference.

use std::path::Path;

use sotto_core::check::{self, Line};
use sotto_core::cpu::CpuPath;
use sotto_core::{Error, Result};

use crate::arguments::{Arguments, DeviceChoice};
use crate::load;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let model = load::open(arguments.model()?)?;
    let device = arguments.device(CpuPath::Reference)?;
    let mut failed = 0;
    let mut report = |line: Line| {
        failed += u32::from(!line.pass);
        println!("{line}");
    };
    let mut generator = load::generator(&model, device)?;
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
            let mut exact = load::generator(&model, DeviceChoice::Cpu(CpuPath::Reference))?;
            pollster::block_on(check::fast(&mut generator, &mut exact, &reference, top_1, &mut report))?;
        } else {
            pollster::block_on(check::exact(&mut generator, &reference, &tensors, &mut report))?;
        }
    } else if device != DeviceChoice::Cpu(CpuPath::Reference) {
        // Without a reference the exact CPU path is the reference.
        return Err(Error::format("--reference", "is missing: name the folder that holds reference.json"));
    }
    match failed {
        0 => println!("all checks passed"),
        n => println!("{n} checks FAILED"),
    }
    Ok(failed == 0)
}
