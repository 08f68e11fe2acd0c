//! The messages' form on the wire: for every variant in `engine/web/src/protocol.rs` there is at least one file
//! `wire/<Type>.<variant>[.<case>].json` (`wire/<Type>.json`, a list, for types that are plain names), which Rust reads and
//! writes back as it was. `wire.test.mjs` holds the same files against the generated TypeScript and the built engine.

#![expect(clippy::expect_used, reason = "a test's own helpers may fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::Path;

use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, Error, IntoDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sotto_web::protocol::*;

/// What reading a variant that does not exist says: the names of those that do.
#[derive(Debug)]
struct Names(Vec<&'static str>);

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Names {}

impl Error for Names {
    fn custom<T: std::fmt::Display>(other: T) -> Self {
        panic!("asked for the names of variants, serde says: {other}")
    }

    fn unknown_variant(_: &str, names: &'static [&'static str]) -> Self {
        Self(names.to_vec())
    }
}

fn expected<T: Debug>(answer: Result<T, Names>) -> BTreeSet<String> {
    answer.expect_err("no variant has this name").0.into_iter().map(str::to_owned).collect()
}

/// The fixtures of a type, by what stands between its name and `.json`.
fn fixtures(name: &str) -> BTreeMap<String, Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("protocol/wire");
    let mut found = BTreeMap::new();
    for entry in folder.read_dir().expect("tests/protocol/wire") {
        let path = entry.expect("a folder's entry").path();
        let stem = path.file_stem().and_then(|s| s.to_str()).expect("a name").to_owned();
        let Some(rest) = stem.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('.')) else {
            continue;
        };
        let text = std::fs::read_to_string(&path).expect("a file");
        let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        found.insert(rest.trim_start_matches('.').to_owned(), value);
    }
    found
}

/// Every variant of an enum whose `tag` names it has a fixture, and each fixture comes back as it was.
fn tagged<T: Debug + PartialEq + Serialize + DeserializeOwned>(name: &str, tag: &str) {
    let unknown = MapDeserializer::new([(tag, "no such variant")].into_iter());
    let variants = expected(T::deserialize(unknown));
    let fixtures = fixtures(name);
    let covered: BTreeSet<String> =
        fixtures.keys().map(|key| key.split('.').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(covered, variants, "tests/protocol/wire/{name}.*.json (left) against the variants of {name} (right)");
    for (key, value) in fixtures {
        let message: T =
            serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{name}.{key}.json: {error}"));
        assert_eq!(value[tag].as_str(), key.split('.').next(), "{name}.{key}.json is another variant");
        let written = serde_json::to_value(&message).unwrap_or_else(|error| panic!("{name}.{key}.json: {error}"));
        assert_eq!(written, value, "{name}.{key}.json: what Rust writes (left) is not what the file says (right)");
    }
}

/// The one fixture of an enum without fields lists all its names.
fn named<T: Debug + PartialEq + Serialize + for<'a> Deserialize<'a>>(name: &str) {
    let unknown: StrDeserializer<'_, Names> = "no such variant".into_deserializer();
    let variants = expected(T::deserialize(unknown));
    let fixture = fixtures(name).remove("").unwrap_or_else(|| panic!("tests/protocol/wire/{name}.json is missing"));
    let values: Vec<T> = serde_json::from_value(fixture.clone()).unwrap_or_else(|error| panic!("{name}.json: {error}"));
    assert_eq!(serde_json::to_value(&values).expect("names are strings"), fixture, "{name}.json");
    let covered: BTreeSet<String> = serde_json::from_value(fixture).expect("names are strings");
    assert_eq!(covered, variants, "tests/protocol/wire/{name}.json (left) against the variants of {name} (right)");
}

#[test]
fn messages_keep_their_form() {
    tagged::<ToEngine>("ToEngine", "type");
    tagged::<FromEngine>("FromEngine", "type");
    tagged::<Task>("Task", "kind");
    tagged::<Event>("Event", "kind");
    tagged::<EngineState>("EngineState", "state");
    tagged::<ModelStatus>("ModelStatus", "state");
    tagged::<OfHost>("OfHost", "kind");
    tagged::<Destination>("Destination", "kind");
    named::<RewriteStyle>("RewriteStyle");
    named::<SourceKind>("SourceKind");
    named::<FailureCode>("FailureCode");
    named::<ModelOrigin>("ModelOrigin");
    named::<Verified>("Verified");
}
