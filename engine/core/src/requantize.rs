//! Floats that become integers on their way from the file to the executor: a checkpoint in BF16 takes a half or a quarter of
//! its size on the device, and is never whole in memory.
//!
//! Every row, or every stretch of 32 values of it, gets a scale of its own: `code = round(value / scale)`, `scale = max|value| /
//! largest code`. What that costs is bounded by half a scale in every value.

use crate::error::{Error, Result};
use crate::quant::QuantType;
use crate::weights::{Location, WeightId, WeightRole, WeightSink, WeightSpec, WeightTable};

/// What float matrices become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Signed bytes, a scale for each row.
    Int8,
    /// 4-bit codes, a scale for each 32 values.
    Int4,
}

impl Target {
    const fn quant(self) -> QuantType {
        match self {
            Self::Int8 => QuantType::Int8,
            Self::Int4 => QuantType::Int4,
        }
    }

    /// Scales of a row of `cols` values.
    const fn groups(self, cols: usize) -> usize {
        match self {
            Self::Int4 if cols.is_multiple_of(GROUP) => cols / GROUP,
            _ => 1,
        }
    }

    const fn largest(self) -> f32 {
        match self {
            Self::Int8 => 127.0,
            Self::Int4 => 7.0,
        }
    }
}

/// Values of a 4-bit group.
const GROUP: usize = 32;

/// The weights' table of an executor, made from that of the files. Ids stay as they are; the scales' come after them.
#[derive(Debug, Clone)]
pub struct Requantized {
    /// What the executor is made with.
    pub table: WeightTable,
    /// Of each weight of the files: what it becomes, and where its scales go.
    targets: Vec<Option<(Target, WeightId)>>,
}

impl Requantized {
    /// Turns every float matrix of `files` into `target`. Vectors, and matrices that are integers already, stay.
    pub fn new(files: &WeightTable, target: Target) -> Result<Self> {
        let mut specs: Vec<WeightSpec> = files.iter().map(|(_, spec)| spec.clone()).collect();
        let mut targets = vec![None; specs.len()];
        for (i, target_of) in targets.iter_mut().enumerate() {
            let spec = &mut specs[i];
            let is_matrix = matches!(spec.role, WeightRole::Matrix | WeightRole::Gathered);
            if !(is_matrix && spec.quant.is_float() && spec.cols.is_multiple_of(target.quant().block_len())) {
                continue;
            }
            spec.quant = target.quant();
            // These bytes are in no file: they are made while the weight streams past.
            spec.location = made(spec.row_bytes(), spec.rows);
            let (rows, cols) = (spec.rows, target.groups(spec.cols));
            let scales = WeightSpec {
                name: format!("{} (scales)", spec.name),
                rows,
                cols,
                quant: QuantType::F32,
                role: WeightRole::Scales,
                location: made(4 * cols, rows),
                scales: None,
                adapter: None,
            };
            let id = WeightId(specs.len() as u32);
            specs[i].scales = Some(id);
            specs.push(scales);
            *target_of = Some((target, id));
        }
        let mut table = WeightTable::default();
        for spec in specs {
            table.add(spec)?;
        }
        Ok(Self { table, targets })
    }

    /// Where the files' rows go, on their way to `sink`, an executor made with [`Self::table`].
    pub fn sink<'a>(&'a self, sink: &'a mut dyn WeightSink) -> Quantizer<'a> {
        Quantizer { requantized: self, sink, values: Vec::new(), codes: Vec::new(), scales: Vec::new() }
    }
}

fn made(row_bytes: usize, rows: usize) -> Location {
    Location { file: usize::MAX, offset: 0, len: row_bytes as u64 * rows as u64 }
}

/// Quantizes rows as they stream past.
pub struct Quantizer<'a> {
    requantized: &'a Requantized,
    sink: &'a mut dyn WeightSink,
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl WeightSink for Quantizer<'_> {
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
        let Some((target, scales)) = self.requantized.targets.get(id.0 as usize).copied().flatten() else {
            return self.sink.rows(id, spec, first_row, bytes);
        };
        let row_bytes = spec.row_bytes();
        if row_bytes == 0 {
            return Err(Error::format(&spec.name, "its rows are empty"));
        }
        self.values.resize(spec.cols, 0.0);
        self.codes.clear();
        self.scales.clear();
        for row in bytes.chunks_exact(row_bytes) {
            spec.quant.dequantize(row, &mut self.values);
            for group in self.values.chunks_exact(spec.cols / target.groups(spec.cols)) {
                let largest = group.iter().fold(0.0f32, |a, v| a.max(v.abs()));
                let scale = largest / target.largest();
                let code = |v: f32| if scale > 0.0 { (v / scale).round_ties_even() as i8 } else { 0 };
                match target {
                    Target::Int8 => self.codes.extend(group.iter().map(|v| code(*v) as u8)),
                    Target::Int4 => self.codes.extend(
                        group.chunks_exact(2).map(|pair| (code(pair[0]) + 8) as u8 | ((code(pair[1]) + 8) as u8) << 4),
                    ),
                }
                self.scales.extend(scale.to_le_bytes());
            }
        }
        let table = &self.requantized.table;
        self.sink.rows(id, table.get(id), first_row, &self.codes)?;
        self.sink.rows(scales, table.get(scales), first_row, &self.scales)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::apply_scales;

    /// Keeps what it gets.
    #[derive(Default)]
    struct Kept(std::collections::BTreeMap<WeightId, Vec<u8>>);
    impl WeightSink for Kept {
        fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
            let rows = self.0.entry(id).or_default();
            assert_eq!(rows.len(), first_row * spec.row_bytes(), "{}", spec.name);
            rows.extend_from_slice(bytes);
            Ok(())
        }
    }

    #[test]
    fn every_value_comes_back_within_half_a_scale() {
        for (target, cols) in [(Target::Int8, 24), (Target::Int8, 64), (Target::Int4, 64), (Target::Int4, 24)] {
            let rows = 5;
            let mut files = WeightTable::default();
            let spec = |name: &str, rows: usize, role| WeightSpec {
                name: name.to_owned(),
                rows,
                cols,
                quant: QuantType::F32,
                role,
                location: made(4 * cols, rows),
                scales: None,
                adapter: None,
            };
            let matrix = files.add(spec("w", rows, WeightRole::Matrix)).unwrap();
            let vector = files.add(spec("v", 1, WeightRole::Vector)).unwrap();
            // One row of zeros, one of tiny numbers.
            let values: Vec<f32> = (0..rows * cols)
                .map(|i| ((i * 37 % 101) as f32 - 50.0) * [1.0, 0.0, 1e-30, 0.03, 7.0][i / cols])
                .collect();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();

            let requantized = Requantized::new(&files, target).unwrap();
            let mut kept = Kept::default();
            let mut sink = requantized.sink(&mut kept);
            let (first, rest) = bytes.split_at(2 * 4 * cols);
            sink.rows(matrix, files.get(matrix), 0, first).unwrap();
            sink.rows(matrix, files.get(matrix), 2, rest).unwrap();
            sink.rows(vector, files.get(vector), 0, &bytes[..4 * cols]).unwrap();

            assert_eq!(kept.0[&vector], &bytes[..4 * cols]);
            let spec = requantized.table.get(matrix);
            let scale_id = spec.scales.unwrap();
            let groups = requantized.table.get(scale_id).cols;
            assert_eq!(groups, if target == Target::Int4 && cols == 64 { 2 } else { 1 });
            let mut scales = vec![0.0; rows * groups];
            QuantType::F32.dequantize(&kept.0[&scale_id], &mut scales);
            for row in 0..rows {
                let mut got = vec![0.0; cols];
                spec.quant.dequantize(&kept.0[&matrix][row * spec.row_bytes()..][..spec.row_bytes()], &mut got);
                let of_row = &scales[row * groups..(row + 1) * groups];
                apply_scales(&mut got, of_row);
                for (i, (g, v)) in got.iter().zip(&values[row * cols..]).enumerate() {
                    let half = of_row[i * groups / cols] * 0.5001;
                    assert!((g - v).abs() <= half, "{target:?} row {row} column {i}: {g} for {v}");
                }
            }
        }
    }
}
