//! The tokenizer in a Hugging Face folder's `tokenizer.json`.
//!
//! The file is read in place: tokens and merges go straight into their tables, so that reading 33 MB of JSON takes
//! no more memory than the tables and the text itself.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::{
    Scheme, SpacePrefix, Tokenizer,
    added::{AddedToken, AddedTokens},
    bpe::{Merges, PairTable},
    pre_tokenize::Split,
    spelling::{Builder, Spelling, quote},
    vocab::TokenKind,
};
use crate::{Error, Result};

/// Longest description of a normalizer, pre-tokenizer, decoder or post-processor, in bytes of JSON.
const MAX_NODE_BYTES: usize = 1 << 16;

/// About how many bytes of JSON a merge takes.
const BYTES_PER_MERGE: usize = 40;
/// Most splitting rules in a row, and most added tokens that are matched after normalization.
const MAX_SPLITS: usize = 8;
const MAX_NORMALIZED: usize = 1 << 16;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    added_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow, default)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow, default)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    unk_token: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: &'a RawValue,
    #[serde(borrow, default)]
    merges: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Added<'a> {
    id: u64,
    #[serde(borrow)]
    content: Cow<'a, str>,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
    #[serde(default)]
    special: bool,
}

/// What matters of `tokenizer_config.json`.
#[derive(Deserialize, Default)]
struct Config {
    #[serde(default)]
    bos_token: Option<ConfigToken>,
    #[serde(default)]
    eos_token: Option<ConfigToken>,
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(default)]
    chat_template: Option<ConfigTemplate>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigToken {
    Text(String),
    Token { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigTemplate {
    One(String),
    Several(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// What normalizer, pre-tokenizer and decoder come to.
#[derive(Default)]
struct Pipeline {
    replaces_space: bool,
    prepends_space: bool,
    byte_level: bool,
    prefix_space: bool,
    splits: Vec<Split>,
    metaspace: Option<(SpacePrefix, bool)>,
    strips_space: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where there is one, `tokenizer_config.json`.
    pub fn from_json(json: &[u8], config: Option<&[u8]>) -> Result<Self> {
        let document: Document = parse("tokenizer.json", json)?;
        let config: Config = config.map_or(Ok(Config::default()), |config| parse("tokenizer_config.json", config))?;
        let model = &document.model;
        check_model(model)?;
        let pipeline = Pipeline::read(&document)?;

        let spelling = if pipeline.byte_level {
            Spelling::ByteLevel
        } else {
            Spelling::Spaced { byte_tokens: model.byte_fallback }
        };
        let mut builder = Builder::new(spelling);
        parse_seed("tokenizer.json model.vocab", model.vocab, VocabSeed(&mut builder))?;
        let mut normalized = Vec::new();
        if let Some(added) = document.added_tokens {
            parse_seed("tokenizer.json added_tokens", added, AddedSeed(&mut builder, &mut normalized))?;
        }
        let mut pairs = PairTable::with_room_for(model.merges.map_or(0, |merges| merges.get().len() / BYTES_PER_MERGE));
        if let Some(merges) = model.merges {
            parse_seed("tokenizer.json model.merges", merges, MergesSeed(&mut builder, &mut pairs))?;
        }

        let unknown = match &model.unk_token {
            None => None,
            Some(text) => Some(builder.find(text).ok_or_else(|| {
                Error::format("tokenizer.json model.unk_token", format!("{} is not in the vocabulary", quote(text)))
            })?),
        };
        let template_bos = match document.post_processor {
            Some(node) => first_special(&node_value("post_processor", node)?),
            None => None,
        };
        // A configuration may name a token that the vocabulary lacks; then there is none.
        let mut named = |text: Option<&str>| text.and_then(|text| builder.find(text));
        let bos = named(config.bos_token.as_ref().map(ConfigToken::text).or(template_bos.as_deref()));
        let eos = named(config.eos_token.as_ref().map(ConfigToken::text));

        let scheme = match spelling {
            Spelling::ByteLevel => {
                builder.find_bytes();
                Scheme::ByteLevel {
                    splits: pipeline.splits,
                    prefix_space: pipeline.prefix_space,
                    whole_pieces: model.ignore_merges,
                }
            }
            Spelling::Spaced { .. } => {
                let (prefix, split_words) = pipeline.metaspace.unwrap_or((SpacePrefix::Never, false));
                let joins_space = builder.joins_space();
                Scheme::Spaced { prepend_space: pipeline.prepends_space, prefix, split_words, joins_space }
            }
        };
        for token in &mut normalized {
            token.content = scheme.normalize(&token.content).into();
        }
        Ok(Self {
            unknown,
            fuse_unknown: model.fuse_unk,
            bos,
            eos,
            add_bos: config.add_bos_token.unwrap_or(template_bos.is_some()) && bos.is_some(),
            strip_first_space: pipeline.strips_space,
            chat_template: config.chat_template.and_then(ConfigTemplate::text),
            added: AddedTokens::new(builder.added)?,
            added_normalized: AddedTokens::new(normalized)?,
            vocab: builder.vocab,
            byte_ids: builder.byte_ids,
            merges: Merges::Ranked(pairs),
            scheme,
        })
    }
}

fn parse<'a, T: Deserialize<'a>>(what: &str, json: &'a [u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| malformed(what, &error))
}

/// The parser's complaint, shortened: it may quote a value of the file's choosing.
fn malformed(what: &str, error: &serde_json::Error) -> Error {
    const LONGEST: usize = 300;
    let mut reason = error.to_string();
    if let Some((end, _)) = reason.char_indices().nth(LONGEST) {
        reason.truncate(end);
        reason.push_str(&format!("… at line {} column {}", error.line(), error.column()));
    }
    Error::format(what, reason)
}

fn parse_seed<'a>(what: &str, json: &'a RawValue, seed: impl DeserializeSeed<'a, Value = ()>) -> Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(json.get());
    seed.deserialize(&mut deserializer).map_err(|error| malformed(what, &error))
}

fn node_value(key: &str, node: &RawValue) -> Result<Value> {
    let what = format!("tokenizer.json {key}");
    if node.get().len() > MAX_NODE_BYTES {
        return Err(Error::format(
            what,
            format!("it has {} bytes, at most {MAX_NODE_BYTES} make sense", node.get().len()),
        ));
    }
    serde_json::from_str(node.get()).map_err(|error| malformed(&what, &error))
}

fn check_model(model: &Model) -> Result<()> {
    let what = |key: &str| format!("tokenizer.json model.{key}");
    if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(Error::unsupported(what(&format!("type = {}", quote(kind))), "this engine reads BPE"));
    }
    let affixes = [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ];
    for (key, affix) in affixes {
        if affix.as_deref().is_some_and(|affix| !affix.is_empty()) {
            return Err(Error::unsupported(what(key), "this engine reads vocabularies without word affixes"));
        }
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(Error::unsupported(what("dropout"), "encoding must not be random"));
    }
    Ok(())
}

impl Pipeline {
    fn read(document: &Document) -> Result<Self> {
        let mut pipeline = Self::default();
        for (key, node) in [
            ("normalizer", document.normalizer),
            ("pre_tokenizer", document.pre_tokenizer),
            ("decoder", document.decoder),
        ] {
            let Some(node) = node else { continue };
            let node = node_value(key, node)?;
            let mut leaves = Vec::new();
            flatten(key, &node, &mut leaves);
            for (path, leaf) in leaves {
                let known = match key {
                    "normalizer" => pipeline.normalizer(leaf),
                    "pre_tokenizer" => pipeline.pre_tokenizer(leaf),
                    _ => pipeline.decoder(leaf),
                };
                if !known || pipeline.splits.len() > MAX_SPLITS {
                    return Err(Error::unsupported(
                        format!("tokenizer.json {path} = {}", short(leaf)),
                        "this engine knows the tokenizers of Llama, Mistral, SmolLM, GPT-2 and Gemma",
                    ));
                }
            }
        }
        if pipeline.byte_level && (pipeline.replaces_space || pipeline.prepends_space || pipeline.metaspace.is_some()) {
            return Err(Error::unsupported("tokenizer.json", "ByteLevel together with ▁ for spaces"));
        }
        if !pipeline.byte_level && !pipeline.replaces_space && pipeline.metaspace.is_none() {
            return Err(Error::unsupported(
                "tokenizer.json pre_tokenizer",
                "this engine knows ByteLevel, Metaspace, and a normalizer that replaces spaces by ▁",
            ));
        }
        Ok(pipeline)
    }

    fn normalizer(&mut self, node: &Value) -> bool {
        match text(node, "type") {
            "Replace" => {
                self.replaces_space = pattern(node) == Some(" ") && text(node, "content") == "▁";
                self.replaces_space
            }
            "Prepend" => {
                self.prepends_space = text(node, "prepend") == "▁";
                self.prepends_space
            }
            _ => false,
        }
    }

    fn pre_tokenizer(&mut self, node: &Value) -> bool {
        if self.byte_level {
            return false;
        }
        let flag = |key: &str, default: bool| node.get(key).and_then(Value::as_bool).unwrap_or(default);
        match text(node, "type") {
            "ByteLevel" => {
                self.byte_level = true;
                self.prefix_space = flag("add_prefix_space", true);
                let first = self.splits.is_empty();
                if flag("use_regex", true) {
                    self.splits.push(Split::Gpt2);
                }
                // A space before each of several pieces is something no known model wants.
                first || !self.prefix_space
            }
            "Digits" => {
                self.splits.push(if flag("individual_digits", false) { Split::SingleDigits } else { Split::DigitRuns });
                true
            }
            "Split" => {
                let isolated = match text(node, "behavior") {
                    "Isolated" => true,
                    "Removed" => flag("invert", false),
                    // The normalizer has left no space to split at.
                    "MergedWithPrevious" => return self.replaces_space && pattern(node) == Some(" "),
                    _ => false,
                };
                let split = match pattern(node) {
                    Some(GPT2) => Split::Gpt2,
                    Some(LLAMA3) => Split::Llama3 { digits: 3 },
                    Some(QWEN2) => Split::Llama3 { digits: 1 },
                    _ => return false,
                };
                self.splits.push(split);
                isolated
            }
            "Metaspace" => {
                let prefix = match (text(node, "prepend_scheme"), flag("add_prefix_space", true)) {
                    ("always", _) | ("", true) => SpacePrefix::Always,
                    ("never", _) | ("", false) => SpacePrefix::Never,
                    ("first", _) => SpacePrefix::First,
                    _ => return false,
                };
                self.metaspace = Some((prefix, flag("split", true)));
                self.splits.is_empty() && text(node, "replacement") == "▁"
            }
            _ => false,
        }
    }

    fn decoder(&mut self, node: &Value) -> bool {
        match text(node, "type") {
            "ByteLevel" => self.byte_level,
            "ByteFallback" | "Fuse" => true,
            "Replace" => pattern(node) == Some("▁") && text(node, "content") == " ",
            "Strip" => {
                self.strips_space = node.get("start").and_then(Value::as_u64) == Some(1);
                text(node, "content") == " " && node.get("stop").and_then(Value::as_u64) == Some(0)
            }
            "Metaspace" => {
                self.strips_space = text(node, "prepend_scheme") != "never"
                    && node.get("add_prefix_space").and_then(Value::as_bool) != Some(false);
                text(node, "replacement") == "▁"
            }
            _ => false,
        }
    }
}

/// Lists the nodes of nested sequences in order, each with its place in the file.
fn flatten<'a>(path: &str, node: &'a Value, leaves: &mut Vec<(String, &'a Value)>) {
    let children = ["normalizers", "pretokenizers", "decoders"].iter().find_map(|key| node.get(key)?.as_array());
    match children {
        Some(children) if text(node, "type") == "Sequence" => {
            for (index, child) in children.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), child, leaves);
            }
        }
        _ if node.is_null() => {}
        _ => leaves.push((path.to_owned(), node)),
    }
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn pattern(node: &Value) -> Option<&str> {
    let pattern = node.get("pattern")?;
    pattern.get("String").or_else(|| pattern.get("Regex"))?.as_str()
}

fn short(node: &Value) -> String {
    let json = node.to_string();
    match json.char_indices().nth(120) {
        None => json,
        Some((end, _)) => format!("{}…", &json[..end]),
    }
}

/// The token that a template puts before a single text.
fn first_special(node: &Value) -> Option<String> {
    match text(node, "type") {
        "TemplateProcessing" => {
            let special = node.get("single")?.get(0)?.get("SpecialToken")?;
            Some(text(special, "id").to_owned())
        }
        "Sequence" => node.get("processors")?.as_array()?.iter().find_map(first_special),
        _ => None,
    }
}

impl ConfigToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Token { content: text } => text,
        }
    }
}

impl ConfigTemplate {
    fn text(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Several(all) => all.into_iter().find(|named| named.name == "default").map(|named| named.template),
        }
    }
}

struct VocabSeed<'b>(&'b mut Builder);

impl<'de> DeserializeSeed<'de> for VocabSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for VocabSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map from token to id")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((Text(token), id)) = map.next_entry::<Text, u64>()? {
            let what = || format!("token {}", quote(&token));
            let id = usize::try_from(id).unwrap_or(usize::MAX);
            if self.0.put(id, &token, &what).map_err(A::Error::custom)?.is_some() {
                return Err(A::Error::custom(format!("{} is listed twice", what())));
            }
        }
        Ok(())
    }
}

/// A string that is borrowed from the JSON text where it has no escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct AddedSeed<'b>(&'b mut Builder, &'b mut Vec<AddedToken>);

impl<'de> DeserializeSeed<'de> for AddedSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for AddedSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of added tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self(builder, normalized) = self;
        while let Some(added) = list.next_element::<Added>()? {
            let what = || format!("token {}", quote(&added.content));
            let kind = if added.special { TokenKind::Control } else { TokenKind::UserDefined };
            // As in the tokenizers library, a token that the vocabulary has keeps the vocabulary's id.
            let id = match builder.find(&added.content) {
                Some(id) => id,
                None => {
                    let id = usize::try_from(added.id).unwrap_or(usize::MAX);
                    builder.put_raw(id, &added.content, kind, &what).map_err(A::Error::custom)?;
                    builder.vocab.index(id as u32, &what).map_err(A::Error::custom)?;
                    id as u32
                }
            };
            let token = AddedToken {
                content: added.content.as_ref().into(),
                id,
                lstrip: added.lstrip,
                rstrip: added.rstrip,
                single_word: added.single_word,
                plain: false,
            };
            builder.add(token, kind, &what).map_err(A::Error::custom)?;
            if added.normalized {
                normalized.extend(builder.added.pop());
            }
            if normalized.len() > MAX_NORMALIZED {
                return Err(A::Error::custom(format!("more than {MAX_NORMALIZED} added tokens are normalized")));
            }
        }
        Ok(())
    }
}

struct MergesSeed<'b>(&'b mut Builder, &'b mut PairTable);

impl<'de> DeserializeSeed<'de> for MergesSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for MergesSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Self(builder, pairs) = self;
        let mut rank = 0;
        while let Some(pair) = list.next_element::<Pair>()? {
            let what = || format!("merge {rank}");
            builder.merge(pairs, rank, &pair.left, &pair.right, &what).map_err(A::Error::custom)?;
            rank += 1;
        }
        Ok(())
    }
}

/// One merge: `"left right"` or `["left", "right"]`.
struct Pair<'a> {
    left: Cow<'a, str>,
    right: Cow<'a, str>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Pair<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PairVisitor)
    }
}

struct PairVisitor;

impl<'de> Visitor<'de> for PairVisitor {
    type Value = Pair<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("two tokens, in a list or with a space between them")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        let (left, right) =
            text.split_once(' ').ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        Ok(Pair { left: left.into(), right: right.into() })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        let (left, right) =
            text.split_once(' ').ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        Ok(Pair { left: left.to_owned().into(), right: right.to_owned().into() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let wrong = |got: usize| A::Error::invalid_length(got, &"two tokens");
        let Text(left) = list.next_element()?.ok_or_else(|| wrong(0))?;
        let Text(right) = list.next_element()?.ok_or_else(|| wrong(1))?;
        match list.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(Pair { left, right }),
            Some(_) => Err(wrong(3)),
        }
    }
}
