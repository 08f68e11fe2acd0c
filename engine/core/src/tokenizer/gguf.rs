//! The tokenizer in a GGUF file's metadata.

use super::{
    Scheme, SpacePrefix, Tokenizer,
    added::{AddedToken, AddedTokens},
    bpe::{Merges, PairTable},
    pre_tokenize::Split,
    spelling::{Builder, Spelling, quote},
    vocab::TokenKind,
};
use crate::{Error, Result};

/// The keys `tokenizer.ggml.*` that are not lists of strings.
#[derive(Debug, Clone, Copy, Default)]
pub struct GgufTokenizer<'a> {
    /// `model`: `gpt2`, `llama` or `gemma4`.
    pub model: &'a str,
    /// `pre`: how text is cut before merging.
    pub pre: Option<&'a str>,
    /// `token_type`: one number a token, or none at all.
    pub token_types: &'a [i32],
    /// `scores`: one number a token, for `llama`.
    pub scores: &'a [f32],
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<&'a str>,
}

impl Tokenizer {
    /// Builds the tokenizer from a GGUF file's `tokenizer.ggml.tokens` and `.merges` and the keys beside them.
    pub fn from_gguf<'t, 'm>(
        tokens: impl IntoIterator<Item = &'t [u8]>,
        merges: impl IntoIterator<Item = &'m [u8]>,
        keys: &GgufTokenizer,
    ) -> Result<Self> {
        let spelling = match keys.model {
            "gpt2" => Spelling::ByteLevel,
            "llama" | "gemma4" => Spelling::Spaced { byte_tokens: true },
            other => {
                return Err(Error::unsupported(
                    format!("tokenizer.ggml.model = {}", quote(other)),
                    "this engine reads gpt2, llama and gemma4",
                ));
            }
        };
        let mut builder = Builder::new(spelling);
        let mut count = 0;
        for (id, token) in tokens.into_iter().enumerate() {
            let what = || format!("tokenizer.ggml.tokens[{id}]");
            let text = std::str::from_utf8(token).map_err(|_| Error::format(what(), "it is not UTF-8"))?;
            put_token(&mut builder, id, text, keys.token_types, &what)?;
            count = id + 1;
        }
        for (key, len) in [("token_type", keys.token_types.len()), ("scores", keys.scores.len())] {
            if len != 0 && len != count {
                return Err(Error::format(
                    format!("tokenizer.ggml.{key}"),
                    format!("it has {len} entries for {count} tokens"),
                ));
            }
        }
        for (key, id) in [("bos", keys.bos), ("eos", keys.eos), ("unknown", keys.unknown)] {
            if id.is_some_and(|id| id as usize >= count) {
                return Err(Error::format(
                    format!("tokenizer.ggml.{key}_token_id"),
                    format!("there are only {count} tokens"),
                ));
            }
        }
        builder.index_added(&|| "tokenizer.ggml.tokens".into())?;

        let merges = if keys.model == "llama" {
            if keys.scores.is_empty() {
                return Err(Error::format("tokenizer.ggml.scores", "it is missing, and merging needs it"));
            }
            if let Some(bad) = keys.scores.iter().position(|score| score.is_nan()) {
                return Err(Error::format(format!("tokenizer.ggml.scores[{bad}]"), "it is not a number"));
            }
            Merges::Scored(keys.scores.to_vec())
        } else {
            let merges = merges.into_iter();
            let mut pairs = PairTable::with_room_for(merges.size_hint().0.min(count));
            for (rank, merge) in merges.enumerate() {
                let what = || format!("tokenizer.ggml.merges[{rank}]");
                let text = std::str::from_utf8(merge).map_err(|_| Error::format(what(), "it is not UTF-8"))?;
                let (left, right) = split_merge(text)
                    .ok_or_else(|| Error::format(what(), "it is not two tokens with a space between them"))?;
                builder.merge(&mut pairs, rank, left, right, &what)?;
            }
            Merges::Ranked(pairs)
        };

        let add_space = keys.add_space_prefix.unwrap_or(keys.model == "llama");
        let scheme = match spelling {
            Spelling::ByteLevel => {
                builder.find_bytes();
                let (splits, whole_pieces) = splits_of(keys.pre.unwrap_or("default"))?;
                Scheme::ByteLevel { splits, prefix_space: add_space, whole_pieces }
            }
            Spelling::Spaced { .. } => Scheme::Spaced {
                prepend_space: add_space,
                prefix: SpacePrefix::Never,
                split_words: false,
                joins_space: builder.joins_space(),
            },
        };
        Ok(Self {
            strip_first_space: add_space && spelling != Spelling::ByteLevel,
            add_bos: keys.add_bos.unwrap_or(keys.model != "gpt2"),
            // llama.cpp never falls back to an unknown token for byte-level text: such a byte is left out.
            unknown: keys.unknown.filter(|_| spelling != Spelling::ByteLevel),
            fuse_unknown: true,
            bos: keys.bos,
            eos: keys.eos,
            chat_template: keys.chat_template.map(str::to_owned),
            added: AddedTokens::new(builder.added)?,
            added_normalized: AddedTokens::new(Vec::new())?,
            vocab: builder.vocab,
            byte_ids: builder.byte_ids,
            merges,
            scheme,
        })
    }
}

fn put_token(
    builder: &mut Builder,
    id: usize,
    text: &str,
    token_types: &[i32],
    what: &dyn Fn() -> String,
) -> Result<()> {
    let kind = match token_types.get(id).copied().unwrap_or(1) {
        // Two tokens of one spelling occur in real files; as in llama.cpp the later one wins.
        1 | 6 => return builder.put(id, text, what).map(|_| ()),
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        other => {
            return Err(Error::format(format!("tokenizer.ggml.token_type[{id}]"), format!("{other} is no token type")));
        }
    };
    // An unused token keeps its place: nothing in text leads to it.
    if kind == TokenKind::Unused {
        return builder.put_raw(id, text, TokenKind::Control, what);
    }
    builder.put_raw(id, text, kind, what)?;
    let token = AddedToken {
        content: text.into(),
        id: id as u32,
        lstrip: false,
        rstrip: false,
        single_word: false,
        plain: false,
    };
    builder.add(token, kind, what)
}

/// Cuts `left right` at its space; either may itself start with one.
fn split_merge(text: &str) -> Option<(&str, &str)> {
    let from = text.chars().next()?.len_utf8();
    let at = from + text[from..].find(' ')?;
    Some((&text[..at], &text[at + 1..]))
}

/// The splitting rules named by `tokenizer.ggml.pre`, and whether a piece that is a token is never cut up.
fn splits_of(pre: &str) -> Result<(Vec<Split>, bool)> {
    Ok(match pre {
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            (vec![Split::SingleDigits, Split::Gpt2], false)
        }
        "gpt-2" | "gpt2" | "phi-2" | "olmo" | "jais" | "mpt" => (vec![Split::Gpt2], false),
        "llama-bpe" | "llama3" | "llama-v3" => (vec![Split::Llama3 { digits: 3 }], true),
        "qwen2" => (vec![Split::Llama3 { digits: 1 }], false),
        "default" => (vec![Split::Punctuation, Split::Gpt2, Split::DigitRuns, Split::DigitTriples], false),
        other => {
            return Err(Error::unsupported(
                format!("tokenizer.ggml.pre = {}", quote(other)),
                "this engine knows smollm, gpt-2, llama-bpe, qwen2 and default",
            ));
        }
    })
}
