//! safetensors files: 8 bytes of header length, a JSON header, then the tensors' bytes. The header is read from a growing
//! prefix, so that weights can stream in behind it.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::{Dtype, TensorInfo, TensorList, shown};
use crate::error::{Error, Result};
use crate::quant::QuantType;
use crate::weights::Location;

/// The longest header read, in bytes.
pub const MAX_HEADER: u64 = 32 << 20;

/// Most tensors in one file. With it, what is kept besides names stays under a constant.
const MAX_TENSORS: usize = 1 << 14;

/// Most files of one model.
const MAX_FILES: usize = 1 << 10;

/// Most axes of a tensor.
const MAX_RANK: usize = 8;

/// What a prefix of the file gave.
#[derive(Debug)]
pub enum Parsed {
    /// The header goes on: call again with at least this many bytes of the file, from its start.
    NeedMore(u64),
    /// The whole header.
    Safetensors(Safetensors),
}

/// The header of a safetensors file.
#[derive(Debug, Clone)]
pub struct Safetensors {
    /// Tensors, their locations counted from the file's first byte, in file number 0.
    pub tensors: TensorList,
    /// Where the tensors' bytes start.
    pub data_start: u64,
}

impl Safetensors {
    /// Reads the header from `prefix`, the file's first bytes. `file_len` is the file's length where it is known: then
    /// tensors that reach past it are found here, and not when the bytes run out.
    pub fn parse(prefix: &[u8], file_len: Option<u64>) -> Result<Parsed> {
        const WHAT: &str = "the safetensors header";
        let missing = |need: u64| match file_len {
            Some(len) if need > len => {
                Err(Error::format(WHAT, format!("it needs {need} bytes, but the file has only {len}: it is cut short")))
            }
            _ => Ok(Parsed::NeedMore(need)),
        };
        let Some((length, rest)) = prefix.split_first_chunk::<8>() else { return missing(8) };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            let reason = format!("it claims {length} bytes, more than {MAX_HEADER}: this is not a safetensors file");
            return Err(Error::format(WHAT, reason));
        }
        let data_start = 8 + length;
        let Some(json) = rest.get(..length as usize) else { return missing(data_start) };
        let Header(mut tensors) =
            serde_json::from_slice(json).map_err(|e| Error::format(WHAT, format!("its JSON is wrong: {e}")))?;
        for t in &mut tensors {
            t.location.offset = t
                .location
                .offset
                .checked_add(data_start)
                .filter(|o| o.checked_add(t.location.len).is_some())
                .ok_or_else(|| Error::format(shown(&t.name), "its data_offsets are absurd"))?;
        }
        let tensors = TensorList::new(tensors)?;
        if let Some(len) = file_len {
            tensors.check_end(0, len)?;
        }
        Ok(Parsed::Safetensors(Self { tensors, data_start }))
    }
}

/// The entries of the JSON header. Read as a stream, so that nothing but the tensors is kept.
struct Header(Vec<TensorInfo>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one entry for each tensor")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    if tensors.len() == MAX_TENSORS {
                        return Err(M::Error::custom(format!("more than {MAX_TENSORS} tensors")));
                    }
                    let entry: Entry =
                        map.next_value().map_err(|e| M::Error::custom(format!("{}: {e}", shown(&name))))?;
                    tensors.push(entry.tensor(name).map_err(M::Error::custom)?);
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(serde::Deserialize)]
struct Entry {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// At most [`MAX_RANK`] axes.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Axes;
        impl<'de> Visitor<'de> for Axes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} sizes")
            }

            fn visit_seq<S: serde::de::SeqAccess<'de>>(self, mut seq: S) -> Result<Shape, S::Error> {
                let mut shape = Vec::new();
                while let Some(dim) = seq.next_element::<usize>()? {
                    if shape.len() == MAX_RANK {
                        return Err(S::Error::custom(format!("more than {MAX_RANK} dimensions")));
                    }
                    shape.push(dim);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Axes)
    }
}

impl Entry {
    fn tensor(self, name: String) -> Result<TensorInfo> {
        let dtype = match self.dtype.as_str() {
            "F32" => Dtype::Number(QuantType::F32),
            "F16" => Dtype::Number(QuantType::F16),
            "BF16" => Dtype::Number(QuantType::BF16),
            "F64" => Dtype::F64,
            "U8" => Dtype::U8,
            "I8" => Dtype::I8,
            "I16" => Dtype::I16,
            "I32" => Dtype::I32,
            "I64" => Dtype::I64,
            "BOOL" => Dtype::Bool,
            other => {
                let what = format!("{} of type {:?}", shown(&name), shown(other));
                return Err(Error::unsupported(what, "F32, F16, BF16 and whole numbers are read"));
            }
        };
        let Shape(shape) = self.shape;
        let (start, end) = self.data_offsets;
        let want = dtype.bytes(&name, &shape)?;
        if end.checked_sub(start) != Some(want) {
            let reason = format!("its data_offsets [{start}, {end}] do not hold {shape:?} of {dtype:?}, {want} bytes");
            return Err(Error::format(shown(&name), reason));
        }
        Ok(TensorInfo { name, shape, dtype, location: Location { file: 0, offset: start, len: want } })
    }
}

/// Distinct file names of an index's `weight_map`; the tensors' names are passed over.
struct FileNames(BTreeSet<String>);

impl<'de> Deserialize<'de> for FileNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = FileNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object that gives each tensor's file")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<FileNames, M::Error> {
                let mut files = BTreeSet::new();
                while let Some((IgnoredAny, file)) = map.next_entry::<IgnoredAny, String>()? {
                    files.insert(file);
                    if files.len() > MAX_FILES {
                        return Err(M::Error::custom(format!("more than {MAX_FILES} files")));
                    }
                }
                Ok(FileNames(files))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

/// The files that a `model.safetensors.index.json` names, sorted, each once.
pub fn index_files(index: &str) -> Result<Vec<String>> {
    const WHAT: &str = "model.safetensors.index.json";
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: FileNames,
    }
    let index: Index =
        serde_json::from_str(index).map_err(|e| Error::format(WHAT, format!("its JSON is wrong: {e}")))?;
    let FileNames(files) = index.weight_map;
    // The names are joined to the model's folder, and must stay in it.
    if let Some(bad) = files.iter().find(|f| f.is_empty() || f.starts_with('.') || f.contains(['/', '\\', ':', '\0'])) {
        return Err(Error::format(WHAT, format!("{:?} is not a plain file name", shown(bad))));
    }
    if files.is_empty() {
        return Err(Error::format(WHAT, "it names no file"));
    }
    Ok(files.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut out = (json.len() as u64).to_le_bytes().to_vec();
        out.extend(json.as_bytes());
        out.resize(out.len() + data, 0);
        out
    }

    fn parse(file: &[u8]) -> Result<Safetensors> {
        match Safetensors::parse(file, Some(file.len() as u64))? {
            Parsed::Safetensors(header) => Ok(header),
            Parsed::NeedMore(n) => panic!("asks for {n} bytes of a file of {}", file.len()),
        }
    }

    const GOOD: &str = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
        "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "empty":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]},
        "c":{"dtype":"U8","shape":[5],"data_offsets":[16,21]}}"#;

    #[test]
    fn a_header_gives_its_tensors() {
        let file = file(GOOD, 21);
        let header = parse(&file).unwrap();
        assert_eq!(header.data_start as usize, file.len() - 21);
        assert_eq!(header.tensors.len(), 4);
        let b = header.tensors.get("b").unwrap();
        assert_eq!((&b.shape[..], b.dtype), (&[2, 3][..], Dtype::Number(QuantType::BF16)));
        assert_eq!(b.location, Location { file: 0, offset: header.data_start + 4, len: 12 });
        assert_eq!(header.tensors.get("c").unwrap().dtype, Dtype::U8);
        assert!(header.tensors.get("__metadata__").is_none());
    }

    #[test]
    fn the_header_is_read_from_a_growing_prefix() {
        let file = file(GOOD, 21);
        for have in 0..file.len() - 21 {
            let Parsed::NeedMore(need) = Safetensors::parse(&file[..have], None).unwrap() else { panic!("at {have}") };
            assert_eq!(need, if have < 8 { 8 } else { file.len() as u64 - 21 });
            assert!(Safetensors::parse(&file[..have], Some(have as u64)).is_err(), "cut at {have}");
        }
        for have in file.len() - 21..file.len() {
            assert!(matches!(Safetensors::parse(&file[..have], None), Ok(Parsed::Safetensors(_))));
            let error = Safetensors::parse(&file[..have], Some(have as u64)).unwrap_err().to_string();
            assert!(error.contains("ends at byte"), "{error}");
        }
    }

    #[test]
    fn damaged_headers_are_refused_by_name() {
        let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let two = |name: &str, offsets: &str| {
            let second = entry(name, "F32", "[2]", offsets);
            format!("{},{}", entry("w", "F32", "[2]", "[0,8]").trim_end_matches('}'), &second[1..])
                .replacen("[0,8],", "[0,8]},", 1)
        };
        let ranks = format!("[{}1]", "1,".repeat(20));
        for (json, what, says) in [
            (String::new(), "header", "JSON"),
            ("[]".to_owned(), "header", "an object"),
            ("{\"w\":7}".to_owned(), "w", "JSON"),
            ("[".repeat(100_000), "header", "JSON"),
            (entry("w", "F32", "[2]", "[0,7]"), "w", "8 bytes"),
            (entry("w", "F32", "[2]", "[8,0]"), "w", "do not hold"),
            (entry("w", "F32", "[2]", "[0,8,9]"), "w", "JSON"),
            (entry("w", "F32", "[-1]", "[0,8]"), "w", "JSON"),
            (entry("w", "F32", "[2.5]", "[0,8]"), "w", "JSON"),
            (entry("w", "F32", "[4294967296,4294967296]", "[0,0]"), "w", "absurd"),
            (entry("w", "F32", &ranks, "[0,4]"), "w", "dimensions"),
            (entry("w", "F32", "[2]", "[18446744073709551600,18446744073709551608]"), "w", "absurd"),
            (entry("w", "F32", "[2]", "[80,88]"), "w", "ends at byte"),
            (entry("w", "F8_E4M3", "[8]", "[0,8]"), "F8_E4M3", "not supported"),
            (two("w", "[8,16]"), "w", "twice"),
            (two("v", "[4,12]"), "v", "overlaps w"),
        ] {
            let error = parse(&file(&json, 16)).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(says), "{json:.80}: {error}");
        }
        let error = parse(&[0xff; 16]).unwrap_err().to_string();
        assert!(error.contains("not a safetensors file"), "{error}");
    }

    #[test]
    fn an_index_names_each_file_once_and_none_outside_its_folder() {
        let files = index_files(
            r#"{"metadata":{},"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"1.safetensors"}}"#,
        );
        assert_eq!(files.unwrap(), ["1.safetensors", "2.safetensors"]);
        for bad in ["../secret", "/etc/passwd", "a/b", "C:\\\\x", ".", ""] {
            let error = index_files(&format!(r#"{{"weight_map":{{"a":"{bad}"}}}}"#)).unwrap_err().to_string();
            assert!(error.contains("plain file name"), "{error}");
        }
        assert!(index_files(r#"{"weight_map":{}}"#).is_err());
        assert!(index_files("{}").unwrap_err().to_string().contains("weight_map"));
    }
}
