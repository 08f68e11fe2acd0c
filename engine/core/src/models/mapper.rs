//! From the tensors of a file to the weights' table: finds them by name, checks their shapes, and knows what was left over.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::formats::{Dtype, TensorInfo, TensorList, shown};
use crate::kernels::StaticRange;
use crate::quant::QuantType;
use crate::weights::{WeightId, WeightRole, WeightSpec, WeightTable};

/// A matrix, and the static ranges that its checkpoint gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// `[N, K]`.
    pub weight: WeightId,
    /// Of its input and output.
    pub range: Option<StaticRange>,
}

impl From<WeightId> for Linear {
    fn from(weight: WeightId) -> Self {
        Self { weight, range: None }
    }
}

/// Moves tensors of a list into the weights' table, checking shapes on the way.
pub(super) struct Mapper<'a> {
    tensors: &'a TensorList,
    table: &'a mut WeightTable,
    /// Names of those moved.
    used: BTreeSet<String>,
}

impl<'a> Mapper<'a> {
    pub(super) fn new(tensors: &'a TensorList, table: &'a mut WeightTable) -> Self {
        Self { tensors, table, used: BTreeSet::new() }
    }

    /// True when the files have a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.get(name).is_some()
    }

    fn find(&self, name: &str) -> Result<&'a TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::format(shown(name), "the model's files do not have this tensor"))
    }

    fn expect_shape(info: &TensorInfo, expected: &[usize]) -> Result<()> {
        if info.shape == expected {
            return Ok(());
        }
        let reason = format!("its shape is {:?}, but the model's config asks for {expected:?}", info.shape);
        Err(Error::format(shown(&info.name), reason))
    }

    fn number(info: &TensorInfo) -> Result<QuantType> {
        match info.dtype {
            Dtype::Number(quant) => Ok(quant),
            other => Err(Error::unsupported(
                shown(&info.name),
                format!("a weight stored as {other:?}; F32, F16, BF16 or a quantized type would do"),
            )),
        }
    }

    fn push(&mut self, info: &TensorInfo, spec: WeightSpec) -> Result<WeightId> {
        self.used.insert(info.name.clone());
        self.table.add(spec)
    }

    /// A tensor `[rows, cols]`, or `[cols]` of a vector.
    pub(super) fn add(&mut self, name: &str, rows: usize, cols: usize, role: WeightRole) -> Result<WeightId> {
        let info = self.find(name)?;
        let expected: &[usize] = if role == WeightRole::Vector { &[cols] } else { &[rows, cols] };
        Self::expect_shape(info, expected)?;
        let quant = Self::number(info)?;
        self.push(info, spec(info, rows, cols, quant, role))
    }

    pub(super) fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<WeightId> {
        self.add(name, rows, cols, WeightRole::Matrix)
    }

    pub(super) fn vector(&mut self, name: &str, cols: usize) -> Result<WeightId> {
        self.add(name, 1, cols, WeightRole::Vector)
    }

    pub(super) fn opt_vector(&mut self, name: &str, cols: usize) -> Result<Option<WeightId>> {
        if self.has(name) { self.vector(name, cols).map(Some) } else { Ok(None) }
    }

    /// One number, of shape `[]` or `[1]`.
    pub(super) fn scalar(&mut self, name: &str) -> Result<WeightId> {
        let info = self.find(name)?;
        if !info.shape.is_empty() {
            Self::expect_shape(info, &[1])?;
        }
        let quant = Self::number(info)?;
        self.push(info, spec(info, 1, 1, quant, WeightRole::Scalar))
    }

    /// A matrix cut after `first` rows into two weights: those below, and the rest if there is one.
    pub(super) fn split(
        &mut self,
        name: &str,
        first: usize,
        rows: usize,
        cols: usize,
    ) -> Result<(WeightId, Option<WeightId>)> {
        let info = self.find(name)?;
        Self::expect_shape(info, &[rows, cols])?;
        let mut head = spec(info, first, cols, Self::number(info)?, WeightRole::Matrix);
        let mut tail = head.clone();
        head.location.len = (head.row_bytes() * first) as u64;
        tail.rows = rows - first;
        tail.location.offset += head.location.len;
        tail.location.len -= head.location.len;
        let head = self.push(info, head)?;
        let tail = if rows > first { Some(self.push(info, tail)?) } else { None };
        Ok((head, tail))
    }

    /// A matrix of packed codes `[rows, cols · bits / 8]` and its scales `[rows, g]`. The bits follow from the shape.
    pub(super) fn packed(
        &mut self,
        codes: &str,
        scales: &str,
        rows: usize,
        cols: usize,
        role: WeightRole,
    ) -> Result<WeightId> {
        let info = self.find(codes)?;
        let quant = match (info.dtype, info.shape.as_slice()) {
            (Dtype::I8, [_, stored]) if *stored == cols => QuantType::Int8,
            (Dtype::U8, [_, stored]) if cols.is_multiple_of(4) && *stored == cols / 4 => QuantType::Int2,
            (Dtype::U8, [_, stored]) if cols.is_multiple_of(2) && *stored == cols / 2 => QuantType::Int4,
            (dtype, shape) => {
                let reason = format!("it is {dtype:?} {shape:?}: no packing of [{rows}, {cols}] in 2, 4 or 8 bits");
                return Err(Error::format(shown(codes), reason));
            }
        };
        Self::expect_shape(info, &[rows, info.shape[1]])?;
        let at = self.find(scales)?;
        let groups = match at.shape.as_slice() {
            [n, g] if *n == rows && *g > 0 && cols.is_multiple_of(*g) => *g,
            shape => {
                let reason = format!("its shape is {shape:?}: no scales for the rows of [{rows}, {cols}]");
                return Err(Error::format(shown(scales), reason));
            }
        };
        let scale_quant = Self::number(at)?;
        if !scale_quant.is_float() {
            return Err(Error::unsupported(shown(scales), format!("scales stored as {scale_quant:?}")));
        }
        let scales = self.push(at, spec(at, rows, groups, scale_quant, WeightRole::Scales))?;
        let mut codes = spec(info, rows, cols, quant, role);
        codes.scales = Some(scales);
        self.push(info, codes)
    }

    /// The linear layer `module`: `module.weight`, plain or packed with `module.weight_scale`, and its static ranges.
    pub(super) fn linear(&mut self, module: &str, rows: usize, cols: usize) -> Result<Linear> {
        let (weight, scales) = (format!("{module}.weight"), format!("{module}.weight_scale"));
        if !self.has(&scales) {
            return self.matrix(&weight, rows, cols).map(Linear::from);
        }
        let weight = self.packed(&weight, &scales, rows, cols, WeightRole::Matrix)?;
        let input = format!("{module}.input_activation_scale");
        let range = match self.has(&input) {
            true => Some(StaticRange {
                input: self.scalar(&input)?,
                output: self.scalar(&format!("{module}.output_activation_scale"))?,
            }),
            false => None,
        };
        Ok(Linear { weight, range })
    }

    /// The first tensor that was not moved and that `known` does not excuse.
    pub(super) fn unused(&self, known: impl Fn(&str) -> bool) -> Option<&'a TensorInfo> {
        self.tensors.iter().find(|t| !self.used.contains(&t.name) && !known(&t.name))
    }
}

fn spec(info: &TensorInfo, rows: usize, cols: usize, quant: QuantType, role: WeightRole) -> WeightSpec {
    let (name, location) = (info.name.clone(), info.location.clone());
    WeightSpec { name, rows, cols, quant, role, location, scales: None, adapter: None }
}
