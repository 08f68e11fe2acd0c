//! Descriptions of models that have no file: for tests of what is computed from a header alone.

use super::{Dtype, HuggingFaceTexts, ModelDescription, Safetensors, TensorInfo, TensorList};
use crate::error::Result;
use crate::weights::Location;

/// A tensor of one file, at `offset`.
pub(crate) fn tensor(name: &str, shape: &[usize], dtype: Dtype, offset: u64) -> TensorInfo {
    let len = dtype.bytes(name, shape).unwrap();
    TensorInfo { name: name.to_owned(), shape: shape.to_vec(), dtype, location: Location { file: 0, offset, len } }
}

/// What a Hugging Face folder of this config and these tensors describes.
pub(crate) fn described_hugging_face(config: &str, tensors: Vec<TensorInfo>) -> Result<ModelDescription> {
    let texts = HuggingFaceTexts { config: config.to_owned(), ..HuggingFaceTexts::default() };
    let header = Safetensors { tensors: TensorList::new(tensors)?, data_start: 8 };
    ModelDescription::from_hugging_face(texts, vec![("model.safetensors".to_owned(), header)])
}
