//! The weights' table: what a model needs, where it lies in its files, and the stream from file to executor.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::quant::{QuantType, check_block_scales};

/// A weight of a model, an index into its [`WeightTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// Where a weight's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Which file of the model (0 for a single file).
    pub file: usize,
    /// First byte in that file.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// What a weight is for; decides how an executor stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightRole {
    /// `[N, K]`, the right side of a matrix product; may also be gathered by row (tied embedding).
    Matrix,
    /// `[V, D]`, only ever gathered by row.
    Gathered,
    /// `[1, D]`: a norm's weight or a bias; read as f32.
    Vector,
    /// `[1, 1]`: an activation's scale or a layer's gain; read as f32.
    Scalar,
    /// `[N, g]`: scales of a matrix whose codes lie in another tensor, each for `K / g` columns of its row; read as f32.
    Scales,
}

/// One weight: shape `[rows, cols]`, stored type, place in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSpec {
    /// The name in the file, for messages.
    pub name: String,
    /// Rows N (1 for a vector).
    pub rows: usize,
    /// Columns K.
    pub cols: usize,
    /// How the file stores it.
    pub quant: QuantType,
    /// What it is for.
    pub role: WeightRole,
    /// Its bytes.
    pub location: Location,
    /// Where the scales are, for types that have them in a tensor of their own.
    pub scales: Option<WeightId>,
    /// A low-rank correction added to the product, `y += B·(A·x)`: A is `[r, K]`, B is `[N, r]`.
    pub adapter: Option<(WeightId, WeightId)>,
}

impl WeightSpec {
    /// Bytes of one row in the file.
    pub fn row_bytes(&self) -> usize {
        self.cols / self.quant.block_len() * self.quant.block_bytes()
    }
}

/// All weights of a model.
#[derive(Debug, Clone, Default)]
pub struct WeightTable {
    specs: Vec<WeightSpec>,
}

impl WeightTable {
    /// Adds a weight after checking that its location holds exactly its shape.
    pub fn add(&mut self, spec: WeightSpec) -> Result<WeightId> {
        let row = spec.quant.row_bytes(&spec.name, spec.cols)? as u64;
        let want = row.checked_mul(spec.rows as u64);
        if want != Some(spec.location.len) {
            return Err(Error::format(
                &spec.name,
                format!(
                    "shape [{}, {}] of {:?} does not fill its {} bytes",
                    spec.rows, spec.cols, spec.quant, spec.location.len
                ),
            ));
        }
        self.specs.push(spec);
        Ok(WeightId(self.specs.len() as u32 - 1))
    }

    /// The weight `id`.
    pub fn get(&self, id: WeightId) -> &WeightSpec {
        &self.specs[id.0 as usize]
    }

    /// Every weight with its id.
    pub fn iter(&self) -> impl Iterator<Item = (WeightId, &WeightSpec)> {
        self.specs.iter().enumerate().map(|(i, s)| (WeightId(i as u32), s))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.specs.len()
    }

    /// True when empty.
    pub fn is_empty(&self) -> bool {
        self.specs.is_empty()
    }

    /// Bytes of all weights in their files.
    pub fn total_bytes(&self) -> u64 {
        self.specs.iter().map(|s| s.location.len).sum()
    }
}

/// Takes weights as they stream in. Executors implement it.
pub trait WeightSink {
    /// Whole rows of a weight, in file order, starting at `first_row`. Rows of one weight come in order; weights come in
    /// file order.
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()>;
}

/// Hands weights on, some of them as zeros: a static range of 0 leaves activations as they are.
pub struct Zeroed<'a> {
    /// Where they go.
    pub sink: &'a mut dyn WeightSink,
    /// Those that become zeros.
    pub weights: BTreeSet<WeightId>,
}

impl WeightSink for Zeroed<'_> {
    fn rows(&mut self, id: WeightId, spec: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
        match self.weights.contains(&id) {
            true => self.sink.rows(id, spec, first_row, &vec![0; bytes.len()]),
            false => self.sink.rows(id, spec, first_row, bytes),
        }
    }
}

/// Rows handed to a sink at once are at most this many bytes (or one row, if that is longer).
pub const PIECE: usize = 4 << 20;

/// Rows that a [`WeightStream`] passed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The weight.
    pub weight: WeightId,
    /// The first of its rows.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Where the file holds them.
    pub bytes: Range<u64>,
}

/// Cuts a model file's byte stream into whole rows of the weights it holds, and hands them on. Keeps at most [`PIECE`]
/// bytes (or one row). A scale that is NaN or infinite stops it.
pub struct WeightStream<'a> {
    table: &'a WeightTable,
    /// Weights of this file by offset.
    order: Vec<WeightId>,
    next: usize,
    /// Position in the file of the next byte to come.
    position: u64,
    partial: Vec<u8>,
    row: usize,
}

impl<'a> WeightStream<'a> {
    /// Starts at byte `position` of file number `file`.
    pub fn new(table: &'a WeightTable, file: usize, position: u64) -> Self {
        let mut order: Vec<WeightId> = table.iter().filter(|(_, s)| s.location.file == file).map(|(i, _)| i).collect();
        order.sort_by_key(|&i| table.get(i).location.offset);
        Self { table, order, next: 0, position, partial: Vec::new(), row: 0 }
    }

    /// Leaves these weights out: they are neither wanted nor handed on.
    pub fn without(mut self, weights: &BTreeSet<WeightId>) -> Self {
        self.order.retain(|id| !weights.contains(id));
        self
    }

    /// True when every weight of the file has been handed on.
    pub fn is_done(&self) -> bool {
        self.next == self.order.len()
    }

    /// The bytes of the file that the next weight still needs; `None` when nothing is missing.
    pub fn wanted(&self) -> Option<Range<u64>> {
        let at = &self.table.get(*self.order.get(self.next)?).location;
        Some(self.position.max(at.offset)..at.offset + at.len)
    }

    /// Goes on at byte `position`, for a reader that leaves out what no weight needs. Fails inside of a weight.
    pub fn skip_to(&mut self, position: u64) -> Result<()> {
        if position == self.position {
            return Ok(());
        }
        let wanted = self.wanted().map_or(position, |w| w.start);
        if !self.partial.is_empty() || self.row > 0 || position < self.position || position > wanted {
            return Err(Error::format("weights", format!("byte {wanted} is wanted, not {position}")));
        }
        self.position = position;
        Ok(())
    }

    /// The weight whose rows come next, if the stream stands between two rows.
    pub fn next_weight(&self) -> Option<WeightId> {
        self.order.get(self.next).copied().filter(|_| self.partial.is_empty())
    }

    /// Passes whole rows by, those of [`Self::next_weight`] within `most` bytes, for a reader that hands them on by itself: their
    /// weight, the first of them, how many, and where the file holds them. `None` inside a row, when a row is longer than `most`,
    /// and for types that keep scales among their codes, which have to be looked at.
    pub fn pass_rows(&mut self, most: u64) -> Option<Passed> {
        let weight = self.next_weight()?;
        let spec = self.table.get(weight);
        let row_bytes = spec.row_bytes() as u64;
        let rows = ((spec.rows - self.row) as u64).min(most.checked_div(row_bytes)?) as usize;
        if rows == 0 || !spec.quant.has_own_scales() {
            return None;
        }
        let (first_row, len) = (self.row, rows as u64 * row_bytes);
        self.position = self.position.max(spec.location.offset);
        let bytes = self.position..self.position + len;
        self.advance(rows, len as usize, spec.rows);
        Some(Passed { weight, first_row, rows, bytes })
    }

    /// Takes the next bytes of the file.
    pub fn push(&mut self, mut bytes: &[u8], sink: &mut dyn WeightSink) -> Result<()> {
        while let Some(&id) = self.order.get(self.next) {
            let spec = self.table.get(id);
            if self.position < spec.location.offset {
                let skip = (spec.location.offset - self.position).min(bytes.len() as u64) as usize;
                bytes = &bytes[skip..];
                self.position += skip as u64;
                if bytes.is_empty() {
                    return Ok(());
                }
            }
            let row_bytes = spec.row_bytes();
            let rows_left = spec.rows - self.row;
            // The common case hands rows on straight from the caller's bytes; only a row cut by a boundary is copied.
            if self.partial.is_empty() && bytes.len() >= row_bytes {
                let rows = (bytes.len() / row_bytes).min(rows_left).min((PIECE / row_bytes).max(1));
                let (whole, rest) = bytes.split_at(rows * row_bytes);
                check_block_scales(spec.quant, &spec.name, whole)?;
                sink.rows(id, spec, self.row, whole)?;
                bytes = rest;
                self.advance(rows, whole.len(), spec.rows);
            } else {
                let take = (row_bytes - self.partial.len()).min(bytes.len());
                self.partial.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if self.partial.len() < row_bytes {
                    self.position += take as u64;
                    return Ok(());
                }
                let row = core::mem::take(&mut self.partial);
                check_block_scales(spec.quant, &spec.name, &row)?;
                sink.rows(id, spec, self.row, &row)?;
                self.advance(1, take, spec.rows);
            }
        }
        Ok(())
    }

    fn advance(&mut self, rows: usize, bytes: usize, of: usize) {
        self.position += bytes as u64;
        self.row += rows;
        if self.row == of {
            self.row = 0;
            self.next += 1;
        }
    }

    /// Fails when the file ended early, naming the first weight that is missing bytes.
    pub fn finish(self) -> Result<()> {
        match self.order.get(self.next) {
            None => Ok(()),
            Some(&id) => Err(Error::format(
                &self.table.get(id).name,
                format!("the file ended at byte {}, before this tensor was complete", self.position),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Collect(Vec<(u32, usize, Vec<u8>)>);
    impl WeightSink for Collect {
        fn rows(&mut self, id: WeightId, _: &WeightSpec, first_row: usize, bytes: &[u8]) -> Result<()> {
            self.0.push((id.0, first_row, bytes.to_vec()));
            Ok(())
        }
    }

    fn spec(name: &str, rows: usize, cols: usize, offset: u64) -> WeightSpec {
        WeightSpec {
            name: name.into(),
            rows,
            cols,
            quant: QuantType::F32,
            role: WeightRole::Matrix,
            location: Location { file: 0, offset, len: rows.wrapping_mul(cols).wrapping_mul(4) as u64 },
            scales: None,
            adapter: None,
        }
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_rows() {
        let mut table = WeightTable::default();
        table.add(spec("b", 3, 5, 70)).unwrap();
        table.add(spec("a", 2, 4, 10)).unwrap();
        let file: Vec<u8> = (0..140).collect();
        for cut in 1..=140 {
            let mut got = Collect(Vec::new());
            let mut stream = WeightStream::new(&table, 0, 0);
            for piece in file.chunks(cut) {
                stream.push(piece, &mut got).unwrap();
            }
            assert!(stream.is_done(), "cut {cut}");
            stream.finish().unwrap();
            for (id, from, len) in [(1, 10, 32), (0, 70, 60)] {
                let bytes: Vec<u8> = got.0.iter().filter(|g| g.0 == id).flat_map(|g| g.2.clone()).collect();
                assert_eq!(bytes, file[from..from + len], "cut {cut}");
            }
        }
    }

    #[test]
    fn a_reader_may_leave_out_what_no_weight_needs() {
        let mut table = WeightTable::default();
        table.add(spec("b", 3, 5, 70)).unwrap();
        table.add(spec("a", 2, 4, 10)).unwrap();
        let file: Vec<u8> = (0..140).collect();
        for most in [1, 7, 16, 60] {
            let mut got = Collect(Vec::new());
            let mut stream = WeightStream::new(&table, 0, 0);
            let mut read = 0;
            while let Some(wanted) = stream.wanted() {
                let end = wanted.end.min(wanted.start + most);
                stream.skip_to(wanted.start).unwrap();
                stream.push(&file[wanted.start as usize..end as usize], &mut got).unwrap();
                read += end - wanted.start;
            }
            assert_eq!((read, stream.is_done()), (92, true));
        }
        let mut got = Collect(Vec::new());
        let mut stream = WeightStream::new(&table, 0, 0).without(&BTreeSet::from([WeightId(1)]));
        assert_eq!(stream.wanted(), Some(70..130));
        stream.push(&file, &mut got).unwrap();
        assert!(stream.is_done() && got.0.iter().all(|g| g.0 == 0), "one weight is left out");
        let mut stream = WeightStream::new(&table, 0, 0);
        assert!(stream.skip_to(11).is_err(), "into a weight");
        stream.push(&file[..27], &mut Collect(Vec::new())).unwrap();
        stream.skip_to(27).unwrap();
        assert!(stream.skip_to(42).is_err() && stream.skip_to(10).is_err(), "past a weight begun, and back");
    }

    #[test]
    fn rows_that_are_passed_by_are_not_handed_on_and_all_others_are() {
        let mut table = WeightTable::default();
        let codes = WeightSpec { quant: QuantType::Int8, ..spec("codes", 4, 3, 20) };
        table.add(WeightSpec { location: Location { file: 0, offset: 20, len: 12 }, ..codes }).unwrap();
        table.add(spec("floats", 2, 2, 40)).unwrap();
        let file: Vec<u8> = (0..60).collect();
        let mut stream = WeightStream::new(&table, 0, 0);
        let mut got = Collect(Vec::new());
        assert_eq!(stream.pass_rows(2), None, "a row has three bytes");
        let passed = |first_row, rows, bytes| Some(Passed { weight: WeightId(0), first_row, rows, bytes });
        assert_eq!(stream.pass_rows(8), passed(0, 2, 20..26));
        // One row by the other way, in two pieces; inside of it nothing can be passed by.
        stream.push(&file[26..28], &mut got).unwrap();
        assert_eq!((stream.next_weight(), stream.pass_rows(8)), (None, None));
        stream.push(&file[28..29], &mut got).unwrap();
        assert_eq!(stream.pass_rows(8), passed(3, 1, 29..32));
        assert_eq!((stream.next_weight(), stream.pass_rows(64)), (Some(WeightId(1)), None), "floats are looked at");
        assert_eq!(stream.wanted(), Some(40..56));
        stream.skip_to(40).unwrap();
        stream.push(&file[40..56], &mut got).unwrap();
        assert!(stream.is_done());
        assert_eq!(got.0, [(0, 2, file[26..29].to_vec()), (1, 0, file[40..56].to_vec())]);
    }

    #[test]
    fn a_short_file_names_the_tensor() {
        let mut table = WeightTable::default();
        table.add(spec("blk.0.attn_q.weight", 3, 5, 0)).unwrap();
        let mut stream = WeightStream::new(&table, 0, 0);
        stream.push(&[0; 59], &mut Collect(Vec::new())).unwrap();
        assert!(stream.finish().unwrap_err().to_string().contains("blk.0.attn_q.weight"));
    }

    #[test]
    fn a_shape_that_does_not_fill_its_bytes_is_refused() {
        let mut bad = spec("x", 3, 5, 0);
        bad.location.len = 61;
        assert!(WeightTable::default().add(bad).is_err());
        let mut huge = spec("x", usize::MAX, usize::MAX, 0);
        huge.location.len = 61;
        assert!(WeightTable::default().add(huge).is_err());
    }
}
