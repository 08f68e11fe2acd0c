//! GGUF files, versions 2 and 3: reads the header from a growing prefix, so that weights can stream in behind it.
//!
//! Nothing a file claims is believed before its bytes are there: a count or length that cannot fit in the file is an error
//! that names the key or tensor, and memory stays near the bytes read. Long arrays keep their file layout.

use std::collections::BTreeMap;

use super::{Dtype, TensorInfo, TensorList, shown};
use crate::error::{Error, Result};
use crate::quant::QuantType;
use crate::weights::Location;

/// The longest header read, in bytes: vocabularies of half a million tokens take a tenth of it.
pub const MAX_HEADER: u64 = 128 << 20;

/// Most keys and most tensors in one file. With it, what is kept besides names and values stays under a constant.
const MAX_ENTRIES: u64 = 1 << 14;

/// The longest key or tensor name, in bytes.
const MAX_NAME: u64 = 1 << 10;

/// What a prefix of the file gave.
#[derive(Debug)]
pub enum Parsed {
    /// The header goes on: call again with at least this many bytes of the file, from its start.
    NeedMore(u64),
    /// The whole header.
    Gguf(Gguf),
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct Gguf {
    /// Keys and values.
    pub metadata: Metadata,
    /// Tensors, their locations counted from the file's first byte.
    pub tensors: TensorList,
    /// Where the tensors' bytes start.
    pub data_start: u64,
}

impl Gguf {
    /// Reads the header from `prefix`, the file's first bytes. `file_len` is the file's length where it is known: then
    /// tensors that reach past it are found here, and not when the bytes run out.
    pub fn parse(prefix: &[u8], file_len: Option<u64>) -> Result<Parsed> {
        let limit = file_len.unwrap_or(MAX_HEADER).min(MAX_HEADER);
        let visible = prefix.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
        let mut cursor = Cursor { bytes: &prefix[..visible], at: 0, limit, file_len };
        match read_header(&mut cursor) {
            Ok(gguf) => Ok(Parsed::Gguf(gguf)),
            Err(Stop::Bad(error)) => Err(error),
            // Doubling bounds the work of starting over: all attempts together read at most twice the header.
            Err(Stop::Short { need }) => Ok(Parsed::NeedMore(need.max(2 * visible as u64).min(limit))),
        }
    }
}

/// A GGUF header's keys and values, with getters that name the key when something is wrong.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    entries: BTreeMap<String, Value>,
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// Any float.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(Box<str>),
    /// Many strings.
    Texts(TextArray),
    /// Many numbers.
    Numbers(NumberArray),
}

/// Strings kept as one run of bytes. They are not checked to be UTF-8: tokens need not be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextArray {
    bytes: Box<[u8]>,
    /// End of each string in `bytes`.
    ends: Box<[u32]>,
}

impl TextArray {
    /// How many strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True when empty.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// String `i`.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)? as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        self.bytes.get(start..end)
    }

    /// Every string in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i).unwrap_or_default())
    }
}

/// Numbers kept as the file's own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberArray {
    kind: Scalar,
    bytes: Box<[u8]>,
}

impl NumberArray {
    /// How many numbers.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.size()
    }

    /// True when empty.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// True when the numbers are integers or truth values.
    pub fn is_integer(&self) -> bool {
        !matches!(self.kind, Scalar::F32 | Scalar::F64)
    }

    /// Every number as a float (exact for all but 64-bit integers above 2^53).
    pub fn floats(&self) -> impl ExactSizeIterator<Item = f64> {
        self.bytes.chunks_exact(self.kind.size()).map(|b| match self.kind.value(b) {
            Value::Unsigned(v) => v as f64,
            Value::Signed(v) => v as f64,
            Value::Float(v) => v,
            Value::Bool(v) => f64::from(u8::from(v)),
            Value::Text(_) | Value::Texts(_) | Value::Numbers(_) => 0.0,
        })
    }

    /// Every number as an integer; floats and values beyond i64 become `None`.
    pub fn integers(&self) -> impl ExactSizeIterator<Item = Option<i64>> {
        self.bytes.chunks_exact(self.kind.size()).map(|b| match self.kind.value(b) {
            Value::Unsigned(v) => i64::try_from(v).ok(),
            Value::Signed(v) => Some(v),
            Value::Bool(v) => Some(i64::from(v)),
            Value::Float(_) | Value::Text(_) | Value::Texts(_) | Value::Numbers(_) => None,
        })
    }
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Self::Unsigned(v) => format!("the number {v}"),
            Self::Signed(v) => format!("the number {v}"),
            Self::Float(v) => format!("the number {v}"),
            Self::Bool(v) => format!("{v}"),
            Self::Text(_) => "text".to_owned(),
            Self::Texts(a) => format!("a list of {} strings", a.len()),
            Self::Numbers(a) => format!("a list of {} numbers", a.len()),
        }
    }
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(key)
    }

    /// Every key with its value, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    fn typed<'a, T>(&'a self, key: &str, kind: &str, get: impl FnOnce(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        get(value)
            .map(Some)
            .ok_or_else(|| Error::format(shown(key), format!("it is {}, expected {kind}", value.describe())))
    }

    fn required<T>(key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.ok_or_else(|| Error::format(shown(key), "the file does not have this key"))
    }

    /// A whole number from 0 to 2^32 − 1, of any integer type, if the key is there.
    pub fn opt_u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "a whole number of at most 32 bits", |v| match v {
            Value::Unsigned(v) => u32::try_from(*v).ok(),
            Value::Signed(v) => u32::try_from(*v).ok(),
            _ => None,
        })
    }

    /// A whole number from 0 to 2^32 − 1, of any integer type.
    pub fn get_u32(&self, key: &str) -> Result<u32> {
        Self::required(key, self.opt_u32(key))
    }

    /// A float, if the key is there.
    pub fn opt_f64(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |v| match v {
            Value::Float(v) => Some(*v).filter(|v| v.is_finite()),
            Value::Unsigned(v) => Some(*v as f64),
            Value::Signed(v) => Some(*v as f64),
            _ => None,
        })
    }

    /// A float.
    pub fn get_f64(&self, key: &str) -> Result<f64> {
        Self::required(key, self.opt_f64(key))
    }

    /// True or false, if the key is there.
    pub fn opt_bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |v| match v {
            Value::Bool(v) => Some(*v),
            _ => None,
        })
    }

    /// Text, if the key is there.
    pub fn opt_str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "text", |v| match v {
            Value::Text(v) => Some(&**v),
            _ => None,
        })
    }

    /// Text.
    pub fn get_str(&self, key: &str) -> Result<&str> {
        Self::required(key, self.opt_str(key))
    }

    /// A list of strings, if the key is there.
    pub fn opt_texts(&self, key: &str) -> Result<Option<&TextArray>> {
        self.typed(key, "a list of strings", |v| match v {
            Value::Texts(v) => Some(v),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn get_texts(&self, key: &str) -> Result<&TextArray> {
        Self::required(key, self.opt_texts(key))
    }

    /// A list of numbers, if the key is there.
    pub fn opt_numbers(&self, key: &str) -> Result<Option<&NumberArray>> {
        self.typed(key, "a list of numbers", |v| match v {
            Value::Numbers(v) => Some(v),
            _ => None,
        })
    }
}

/// Why reading stopped.
enum Stop {
    /// The prefix ended; the file must be read up to byte `need`.
    Short {
        need: u64,
    },
    Bad(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Bad(error)
    }
}

type Read<T> = Result<T, Stop>;

/// Number types of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scalar {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

impl Scalar {
    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// Reads `b`, which is `size` long.
    fn value(self, b: &[u8]) -> Value {
        let mut wide = [0u8; 8];
        wide[..b.len().min(8)].copy_from_slice(&b[..b.len().min(8)]);
        let bits = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Value::Unsigned(bits),
            Self::I8 => Value::Signed(i64::from(bits as i8)),
            Self::I16 => Value::Signed(i64::from(bits as i16)),
            Self::I32 => Value::Signed(i64::from(bits as i32)),
            Self::I64 => Value::Signed(bits as i64),
            Self::F32 => Value::Float(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Value::Float(f64::from_bits(bits)),
            Self::Bool => Value::Bool(bits != 0),
        }
    }
}

enum ValueType {
    Scalar(Scalar),
    Text,
    Array,
}

impl ValueType {
    fn from_code(key: &str, code: u32) -> Result<Self> {
        Ok(match code {
            0 => Self::Scalar(Scalar::U8),
            1 => Self::Scalar(Scalar::I8),
            2 => Self::Scalar(Scalar::U16),
            3 => Self::Scalar(Scalar::I16),
            4 => Self::Scalar(Scalar::U32),
            5 => Self::Scalar(Scalar::I32),
            6 => Self::Scalar(Scalar::F32),
            7 => Self::Scalar(Scalar::Bool),
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::Scalar(Scalar::U64),
            11 => Self::Scalar(Scalar::I64),
            12 => Self::Scalar(Scalar::F64),
            _ => return Err(Error::format(shown(key), format!("value type {code} is not one of GGUF's (0 to 12)"))),
        })
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// No header may reach past this byte.
    limit: u64,
    file_len: Option<u64>,
}

impl<'a> Cursor<'a> {
    /// Fails unless `len` more bytes are there; asks for them if the file may still have them.
    fn expect(&self, what: &str, len: u64) -> Read<()> {
        let need = (self.at as u64).saturating_add(len);
        if need <= self.bytes.len() as u64 {
            return Ok(());
        }
        if need <= self.limit {
            return Err(Stop::Short { need });
        }
        let reason = match self.file_len {
            Some(total) if need > total => {
                format!("it needs {len} bytes, but the file ends {} bytes on", total.saturating_sub(self.at as u64))
            }
            _ => format!("it needs {len} bytes, past the longest header that is read ({MAX_HEADER} bytes)"),
        };
        Err(Error::format(shown(what), reason).into())
    }

    fn take(&mut self, what: &str, len: u64) -> Read<&'a [u8]> {
        self.expect(what, len)?;
        let bytes = &self.bytes[self.at..self.at + len as usize];
        self.at += len as usize;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Read<u32> {
        let b = self.take(what, 4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self, what: &str) -> Read<u64> {
        let b = self.take(what, 8)?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
    }

    fn string(&mut self, what: &str) -> Read<&'a [u8]> {
        let len = self.u64(what)?;
        self.take(what, len)
    }

    fn name(&mut self, what: &str) -> Read<String> {
        let len = self.u64(what)?;
        if len == 0 || len > MAX_NAME {
            return Err(Error::format(what, format!("its name is {len} bytes long, expected 1 to {MAX_NAME}")).into());
        }
        let bytes = self.take(what, len)?;
        match core::str::from_utf8(bytes) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => Err(Error::format(what, "its name is not UTF-8").into()),
        }
    }

    fn value(&mut self, key: &str) -> Read<Value> {
        let code = self.u32(key)?;
        match ValueType::from_code(key, code)? {
            ValueType::Scalar(kind) => Ok(kind.value(self.take(key, kind.size() as u64)?)),
            ValueType::Text => match core::str::from_utf8(self.string(key)?) {
                Ok(text) => Ok(Value::Text(text.into())),
                Err(_) => Err(Error::format(shown(key), "its text is not UTF-8").into()),
            },
            ValueType::Array => {
                let (code, count) = (self.u32(key)?, self.u64(key)?);
                match ValueType::from_code(key, code)? {
                    ValueType::Scalar(kind) => {
                        let bytes = self.take(key, count.saturating_mul(kind.size() as u64))?;
                        Ok(Value::Numbers(NumberArray { kind, bytes: bytes.into() }))
                    }
                    ValueType::Text => self.texts(key, count).map(Value::Texts),
                    ValueType::Array => Err(Error::unsupported(shown(key), "lists of lists are not read").into()),
                }
            }
        }
    }

    /// Walks the strings once to learn their extent, so that exactly that much is allocated.
    fn texts(&mut self, key: &str, count: u64) -> Read<TextArray> {
        self.expect(key, count.saturating_mul(8))?;
        let start = self.at;
        let mut total = 0;
        for _ in 0..count {
            total += self.string(key)?.len();
        }
        self.at = start;
        let mut bytes = Vec::with_capacity(total);
        let mut ends = Vec::with_capacity(count as usize);
        for _ in 0..count {
            bytes.extend_from_slice(self.string(key)?);
            ends.push(bytes.len() as u32);
        }
        Ok(TextArray { bytes: bytes.into(), ends: ends.into() })
    }
}

fn read_header(cursor: &mut Cursor<'_>) -> Read<Gguf> {
    let start = "the file's start";
    if cursor.take(start, 4)? != b"GGUF" {
        return Err(Error::format(start, "this is not a GGUF file (it does not begin with the letters GGUF)").into());
    }
    match cursor.u32(start)? {
        2 | 3 => {}
        v if v.swap_bytes() <= 0xffff => {
            return Err(Error::unsupported("a big-endian GGUF file", "convert it to little-endian").into());
        }
        v => return Err(Error::unsupported(format!("GGUF version {v}"), "versions 2 and 3 are read").into()),
    }
    let (tensors, keys) = (cursor.u64("the number of tensors")?, cursor.u64("the number of keys")?);
    for (what, count, smallest) in [("the number of tensors", tensors, 24), ("the number of keys", keys, 13)] {
        if count > MAX_ENTRIES {
            return Err(Error::format(what, format!("{count} is absurd; at most {MAX_ENTRIES} are read")).into());
        }
        if let Err(Stop::Bad(error)) = cursor.expect(what, count * smallest) {
            return Err(error.into());
        }
    }

    let mut metadata = Metadata::default();
    for i in 0..keys {
        let key = cursor.name(&format!("key number {i}"))?;
        let value = cursor.value(&key)?;
        if metadata.entries.insert(key.clone(), value).is_some() {
            return Err(Error::format(shown(&key), "the file has this key twice").into());
        }
    }
    let alignment = match metadata.opt_u32("general.alignment")? {
        None => 32,
        Some(a) if a.is_power_of_two() && a <= 1 << 20 => u64::from(a),
        Some(a) => {
            return Err(Error::format("general.alignment", format!("{a} is not a power of two up to 2^20")).into());
        }
    };

    let mut list = Vec::new();
    for i in 0..tensors {
        list.push(read_tensor(cursor, i, alignment)?);
    }
    let data_start = (cursor.at as u64).next_multiple_of(alignment);
    for tensor in &mut list {
        tensor.location.offset = tensor.location.offset.checked_add(data_start).ok_or_else(|| {
            Error::format(shown(&tensor.name), format!("its offset {} is absurd", tensor.location.offset))
        })?;
    }
    let tensors = TensorList::new(list)?;
    if let Some(len) = cursor.file_len {
        tensors.check_end(0, len)?;
    }
    Ok(Gguf { metadata, tensors, data_start })
}

fn read_tensor(cursor: &mut Cursor<'_>, number: u64, alignment: u64) -> Read<TensorInfo> {
    let name = cursor.name(&format!("tensor number {number}"))?;
    let rank = cursor.u32(&name)?;
    if !(1..=4).contains(&rank) {
        return Err(Error::format(shown(&name), format!("it has {rank} dimensions, expected 1 to 4")).into());
    }
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        let dim = cursor.u64(&name)?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.push(dim),
            _ => return Err(Error::format(shown(&name), format!("it has a dimension of {dim}")).into()),
        }
    }
    // The file counts the fastest axis first.
    shape.reverse();
    let dtype = dtype(&name, cursor.u32(&name)?)?;
    let offset = cursor.u64(&name)?;
    if !offset.is_multiple_of(alignment) {
        let reason = format!("its offset {offset} is not a multiple of the file's alignment, {alignment}");
        return Err(Error::format(shown(&name), reason).into());
    }
    let len = dtype.bytes(&name, &shape)?;
    Ok(TensorInfo { name, shape, dtype, location: Location { file: 0, offset, len } })
}

/// The file's tensor type number.
fn dtype(name: &str, code: u32) -> Result<Dtype> {
    let known = match code {
        0 => return Ok(Dtype::Number(QuantType::F32)),
        1 => return Ok(Dtype::Number(QuantType::F16)),
        2 => return Ok(Dtype::Number(QuantType::Q4_0)),
        3 => return Ok(Dtype::Number(QuantType::Q4_1)),
        6 => return Ok(Dtype::Number(QuantType::Q5_0)),
        7 => return Ok(Dtype::Number(QuantType::Q5_1)),
        8 => return Ok(Dtype::Number(QuantType::Q8_0)),
        12 => return Ok(Dtype::Number(QuantType::Q4_K)),
        13 => return Ok(Dtype::Number(QuantType::Q5_K)),
        14 => return Ok(Dtype::Number(QuantType::Q6_K)),
        24 => return Ok(Dtype::I8),
        25 => return Ok(Dtype::I16),
        26 => return Ok(Dtype::I32),
        27 => return Ok(Dtype::I64),
        28 => return Ok(Dtype::F64),
        30 => return Ok(Dtype::Number(QuantType::BF16)),
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return Err(Error::format(shown(name), format!("its type {code} is unknown"))),
    };
    Err(Error::unsupported(
        format!("{} of type {known}", shown(name)),
        "use a file in Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16 or F32",
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes GGUF files, right or wrong.
    pub(crate) struct Writer {
        pub(crate) keys: Vec<(Vec<u8>, Vec<u8>)>,
        /// Name, dimensions (fastest first), type, offset.
        pub(crate) tensors: Vec<(Vec<u8>, Vec<u64>, u32, u64)>,
        pub(crate) data: usize,
    }

    pub(crate) fn string(s: &[u8]) -> Vec<u8> {
        [&(s.len() as u64).to_le_bytes()[..], s].concat()
    }

    pub(crate) fn u32_value(v: u32) -> Vec<u8> {
        [4u32.to_le_bytes(), v.to_le_bytes()].concat()
    }

    pub(crate) fn f32_value(v: f32) -> Vec<u8> {
        [6u32.to_le_bytes(), v.to_le_bytes()].concat()
    }

    pub(crate) fn text_value(v: &str) -> Vec<u8> {
        [&8u32.to_le_bytes()[..], &string(v.as_bytes())].concat()
    }

    fn list_value(code: u32, count: u64, items: &[u8]) -> Vec<u8> {
        [&9u32.to_le_bytes()[..], &code.to_le_bytes(), &count.to_le_bytes(), items].concat()
    }

    impl Writer {
        fn new() -> Self {
            let texts: Vec<u8> =
                [&b"<s>"[..], b"", b"\xff\xfe", "é".as_bytes()].iter().flat_map(|s| string(s)).collect();
            let numbers: Vec<u8> = [-1i32, 0, 7].iter().flat_map(|v| v.to_le_bytes()).collect();
            Self {
                keys: vec![
                    (b"general.architecture".to_vec(), text_value("llama")),
                    (b"a.number".to_vec(), u32_value(7)),
                    (b"a.float".to_vec(), f32_value(0.5)),
                    (b"a.bool".to_vec(), [&7u32.to_le_bytes()[..], &[1]].concat()),
                    (b"a.negative".to_vec(), [&1u32.to_le_bytes()[..], &[0xfe]].concat()),
                    (b"a.big".to_vec(), [&10u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat()),
                    (b"texts".to_vec(), list_value(8, 4, &texts)),
                    (b"numbers".to_vec(), list_value(5, 3, &numbers)),
                ],
                tensors: vec![(b"one.weight".to_vec(), vec![64, 3], 8, 0), (b"two.weight".to_vec(), vec![5], 0, 224)],
                data: 244,
            }
        }

        pub(crate) fn header(&self) -> Vec<u8> {
            let mut out = b"GGUF".to_vec();
            out.extend(3u32.to_le_bytes());
            out.extend((self.tensors.len() as u64).to_le_bytes());
            out.extend((self.keys.len() as u64).to_le_bytes());
            for (key, value) in &self.keys {
                out.extend(string(key));
                out.extend(value);
            }
            for (name, dims, kind, offset) in &self.tensors {
                out.extend(string(name));
                out.extend((dims.len() as u32).to_le_bytes());
                dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
                out.extend(kind.to_le_bytes());
                out.extend(offset.to_le_bytes());
            }
            out
        }

        pub(crate) fn file(&self) -> Vec<u8> {
            let mut out = self.header();
            out.resize(out.len().next_multiple_of(32) + self.data, 0);
            out
        }
    }

    fn parse(file: &[u8]) -> Result<Gguf> {
        match Gguf::parse(file, Some(file.len() as u64))? {
            Parsed::Gguf(gguf) => Ok(gguf),
            Parsed::NeedMore(n) => panic!("asks for {n} bytes of a file of {}", file.len()),
        }
    }

    #[test]
    fn a_header_gives_its_keys_and_tensors() {
        let file = Writer::new().file();
        let gguf = parse(&file).unwrap();
        let meta = &gguf.metadata;
        assert_eq!(meta.get_str("general.architecture").unwrap(), "llama");
        assert_eq!(meta.get_u32("a.number").unwrap(), 7);
        assert_eq!(meta.get_f64("a.float").unwrap(), 0.5);
        assert_eq!(meta.opt_bool("a.bool").unwrap(), Some(true));
        assert_eq!(meta.get("a.negative"), Some(&Value::Signed(-2)));
        assert_eq!(meta.opt_u32("not.there").unwrap(), None);
        let texts: Vec<&[u8]> = meta.get_texts("texts").unwrap().iter().collect();
        assert_eq!(texts, [&b"<s>"[..], b"", b"\xff\xfe", "é".as_bytes()]);
        assert_eq!(meta.get_texts("texts").unwrap().get(4), None);
        let numbers = meta.opt_numbers("numbers").unwrap().unwrap();
        assert_eq!(numbers.integers().collect::<Vec<_>>(), [Some(-1), Some(0), Some(7)]);
        assert_eq!(numbers.floats().collect::<Vec<_>>(), [-1.0, 0.0, 7.0]);

        assert_eq!(gguf.data_start, file.len() as u64 - 244);
        let one = gguf.tensors.get("one.weight").unwrap();
        assert_eq!((&one.shape[..], one.dtype), (&[3, 64][..], Dtype::Number(QuantType::Q8_0)));
        assert_eq!(one.location, Location { file: 0, offset: gguf.data_start, len: 204 });
        assert_eq!(gguf.tensors.get("two.weight").unwrap().location.offset, gguf.data_start + 224);
    }

    #[test]
    fn getters_name_the_key_and_what_is_wrong() {
        let gguf = parse(&Writer::new().file()).unwrap();
        let meta = &gguf.metadata;
        for (error, key, says) in [
            (meta.get_u32("gone").unwrap_err(), "gone", "does not have this key"),
            (meta.get_u32("a.float").unwrap_err(), "a.float", "0.5"),
            (meta.get_u32("a.negative").unwrap_err(), "a.negative", "-2"),
            (meta.get_u32("a.big").unwrap_err(), "a.big", "18446744073709551615"),
            (meta.get_str("texts").unwrap_err(), "texts", "a list of 4 strings"),
            (meta.get_texts("numbers").unwrap_err(), "numbers", "a list of 3 numbers"),
            (meta.opt_bool("a.number").unwrap_err(), "a.number", "expected true or false"),
        ] {
            let error = error.to_string();
            assert!(error.contains(key) && error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_header_is_read_from_a_growing_prefix() {
        let writer = Writer::new();
        let (file, header) = (writer.file(), writer.header().len());
        for known in [None, Some(file.len() as u64)] {
            for have in 0..file.len() {
                match Gguf::parse(&file[..have], known).unwrap() {
                    Parsed::NeedMore(need) => {
                        assert!(have < header && need > have as u64, "{have}: {need}");
                        assert!(known.is_none_or(|len| need <= len), "{have}: {need}");
                    }
                    Parsed::Gguf(gguf) => assert!(have >= header && gguf.tensors.len() == 2, "{have}"),
                }
            }
            let (mut have, mut rounds) = (0, 0);
            while let Parsed::NeedMore(need) = Gguf::parse(&file[..have.min(file.len())], known).unwrap() {
                have = need as usize;
                rounds += 1;
            }
            assert!(rounds <= 12, "{rounds} rounds");
        }
    }

    #[test]
    fn a_file_cut_short_is_an_error_wherever_the_cut_is() {
        let file = Writer::new().file();
        for len in 0..file.len() {
            assert!(Gguf::parse(&file[..len], Some(len as u64)).is_err(), "cut at {len}");
        }
        let error = parse(&file[..file.len() - 1]).unwrap_err().to_string();
        assert!(error.contains("two.weight"), "{error}");
    }

    #[test]
    fn damaged_files_are_refused_by_name() {
        type Damage = fn(&mut Writer);
        let cases: &[(&str, &str, Damage)] = &[
            ("two.weight", "twice", |w| w.tensors[0].0 = b"two.weight".to_vec()),
            ("two.weight", "overlaps one.weight", |w| w.tensors[1].3 = 192),
            ("one.weight", "ends at byte", |w| w.tensors[0].3 = 1 << 40),
            ("one.weight", "absurd", |w| w.tensors[0].3 = u64::MAX - 31),
            ("one.weight", "alignment", |w| w.tensors[0].3 = 8),
            ("one.weight", "blocks of 32", |w| w.tensors[0].1 = vec![65, 3]),
            ("one.weight", "dimension of 0", |w| w.tensors[0].1 = vec![64, 0]),
            ("one.weight", "absurd", |w| w.tensors[0].1 = vec![1 << 32, 1 << 31, 1 << 31, 1 << 31]),
            ("one.weight", "0 dimensions", |w| w.tensors[0].1 = vec![]),
            ("one.weight", "5 dimensions", |w| w.tensors[0].1 = vec![32, 1, 1, 1, 1]),
            ("one.weight", "type 4 is unknown", |w| w.tensors[0].2 = 4),
            ("one.weight of type Q2_K", "not supported", |w| w.tensors[0].2 = 10),
            ("tensor number 1", "0 bytes long", |w| w.tensors[1].0.clear()),
            ("tensor number 1", "UTF-8", |w| w.tensors[1].0 = vec![0xff]),
            ("tensor number 1", "2000 bytes long", |w| w.tensors[1].0 = vec![b'x'; 2000]),
            ("general.architecture", "twice", |w| w.keys[1].0 = b"general.architecture".to_vec()),
            ("a.number", "value type 13", |w| w.keys[1].1[0] = 13),
            ("key number 2", "UTF-8", |w| w.keys[2].0 = vec![0xc0]),
            ("general.architecture", "UTF-8", |w| w.keys[0].1[12] = 0xff),
            ("general.architecture", "needs", |w| w.keys[0].1[9] = 0xff),
            ("general.architecture", "needs 18446744073709551615", |w| w.keys[0].1[4..12].fill(0xff)),
            ("texts", "needs", |w| w.keys[6].1[8..16].fill(0xff)),
            ("texts", "needs", |w| w.keys[6].1[8..16].copy_from_slice(&(1u64 << 40).to_le_bytes())),
            ("texts", "needs", |w| w.keys[6].1[16..24].fill(0x7f)),
            ("numbers", "needs", |w| w.keys[7].1[8..16].fill(0xff)),
            ("numbers", "lists of lists", |w| w.keys[7].1[4] = 9),
            ("numbers", "value type 99", |w| w.keys[7].1[4] = 99),
            ("general.alignment", "power of two", |w| w.keys.push((b"general.alignment".to_vec(), u32_value(24)))),
            ("general.alignment", "power of two", |w| w.keys.push((b"general.alignment".to_vec(), u32_value(0)))),
            ("general.alignment", "power of two", |w| w.keys.push((b"general.alignment".to_vec(), u32_value(1 << 31)))),
            ("general.alignment", "text", |w| w.keys.push((b"general.alignment".to_vec(), text_value("32")))),
            ("general.alignment", "224 is not a multiple", |w| {
                w.keys.push((b"general.alignment".to_vec(), u32_value(64)));
            }),
        ];
        for (what, says, damage) in cases {
            let mut writer = Writer::new();
            damage(&mut writer);
            let error = parse(&writer.file()).unwrap_err().to_string();
            let named = error.contains(what) || *what == "general.alignment" && error.contains("alignment");
            assert!(named && error.contains(says), "{what}, {says}: {error}");
        }
    }

    #[test]
    fn absurd_counts_and_foreign_files_are_refused() {
        let good = Writer::new().file();
        let patched = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            parse(&file).unwrap_err().to_string()
        };
        for (error, says) in [
            (patched(0, b"GGML"), "not a GGUF file"),
            (patched(0, b"\x08\0\0\0\0\0\0\0{\"__metadata__"), "not a GGUF file"),
            (patched(4, &[1]), "version 1"),
            (patched(4, &[4]), "version 4"),
            (patched(4, &[0, 0, 0, 3]), "big-endian"),
            (patched(8, &[0xff; 8]), "the number of tensors"),
            (patched(8, &16_000u64.to_le_bytes()), "the number of tensors"),
            (patched(16, &[0xff; 8]), "the number of keys"),
            (patched(16, &16_000u64.to_le_bytes()), "the number of keys"),
        ] {
            assert!(error.contains(says), "{says}: {error}");
        }
        // Without the file's length, the longest header bounds what may be asked for.
        let mut endless = good;
        endless[16..24].copy_from_slice(&16_000u64.to_le_bytes());
        assert!(matches!(Gguf::parse(&endless, None), Err(_) | Ok(Parsed::NeedMore(..=MAX_HEADER))));
    }

    #[test]
    fn names_in_messages_are_short_and_printable() {
        let mut writer = Writer::new();
        writer.tensors[0].0 = [&b"\x1b[31m\n"[..], &[b'x'; 900]].concat();
        writer.tensors[0].2 = 77;
        let error = parse(&writer.file()).unwrap_err().to_string();
        assert!(error.len() < 200 && !error.contains(char::is_control), "{error}");
    }
}
