//! Writes a safetensors file a piece at a time.

use std::io::{self, Write};

use super::tensor::Tensor;

/// The file's head: the length of its JSON in eight bytes, then the JSON, padded to a multiple of eight.
///
/// Without a metadata entry, as the published files are.
pub(crate) fn header(tensors: &[Tensor]) -> Vec<u8> {
    let mut json = String::from("{");
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        if offset > 0 {
            json.push(',');
        }
        json.push_str(&format!(
            r#""{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{offset},{end}]}}"#,
            tensor.name,
            tensor.dtype.name(),
            shape.join(",")
        ));
        offset = end;
    }
    json.push('}');
    json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes
}

/// Writes head and tensors.
pub(crate) fn write(tensors: &[Tensor], seed: u64, out: &mut impl Write) -> io::Result<()> {
    out.write_all(&header(tensors))?;
    tensors.iter().try_for_each(|tensor| tensor.write(seed, out))
}
