//! `inspect`: what a model file holds.

use sotto_core::Result;
use sotto_core::formats::disk;
use sotto_core::formats::gguf::Value;

use crate::arguments::Arguments;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let path = arguments.model()?;
    let (tensors, metadata) = disk::inspect(path)?;
    for (key, value) in metadata.iter() {
        match value {
            Value::Texts(list) => println!("{key}: {} strings", list.len()),
            Value::Numbers(list) => println!("{key}: {} numbers", list.len()),
            other => println!("{key}: {other:?}"),
        }
    }
    for t in tensors.iter() {
        println!("{:<48} {:<16} {:?} at byte {}", t.name, format!("{:?}", t.shape), t.dtype, t.location.offset);
    }
    let bytes: u64 = tensors.iter().map(|t| t.location.len).sum();
    println!("{} tensors, {bytes} bytes", tensors.len());
    Ok(true)
}
