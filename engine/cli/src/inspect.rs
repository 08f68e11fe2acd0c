//! `inspect`: what a model file holds.

use std::path::Path;

use sotto_core::Result;
use sotto_core::formats::TensorList;
use sotto_core::formats::gguf::Value;

use crate::arguments::Arguments;
use crate::load;

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let path = arguments.model()?;
    let is_safetensors = path.extension().is_some_and(|e| e == "safetensors");
    let tensors = if is_safetensors { load::safetensors_header(path)?.tensors } else { gguf(path)? };
    for t in tensors.iter() {
        println!("{:<48} {:<16} {:?} at byte {}", t.name, format!("{:?}", t.shape), t.dtype, t.location.offset);
    }
    let bytes: u64 = tensors.iter().map(|t| t.location.len).sum();
    println!("{} tensors, {bytes} bytes", tensors.len());
    Ok(true)
}

fn gguf(path: &Path) -> Result<TensorList> {
    let gguf = load::gguf(path)?;
    for (key, value) in gguf.metadata.iter() {
        match value {
            Value::Texts(list) => println!("{key}: {} strings", list.len()),
            Value::Numbers(list) => println!("{key}: {} numbers", list.len()),
            other => println!("{key}: {other:?}"),
        }
    }
    Ok(gguf.tensors)
}
