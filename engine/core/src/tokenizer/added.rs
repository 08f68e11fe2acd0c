//! Tokens that are cut out of the text before anything else looks at it.

use super::Specials;
use crate::{Error, Result};

/// Longest added token in bytes; bounds the work at each position of a text.
const MAX_BYTES: usize = 256;

/// HTML elements that a vocabulary may spell as one token of ordinary text.
const HTML_ELEMENTS: [&str; 40] = [
    "a",
    "b",
    "bbox",
    "blockquote",
    "body",
    "br",
    "caption",
    "code",
    "div",
    "em",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "html",
    "i",
    "iframe",
    "img",
    "li",
    "ol",
    "p",
    "pre",
    "s",
    "span",
    "strong",
    "sub",
    "sup",
    "table",
    "tbody",
    "td",
    "tfoot",
    "th",
    "thead",
    "tr",
    "u",
    "ul",
];

/// A token that is matched as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub(super) content: Box<str>,
    pub(super) id: u32,
    /// Swallows the white space before it.
    pub(super) lstrip: bool,
    /// Swallows the white space after it.
    pub(super) rstrip: bool,
    /// Matches only where no letter, digit or underscore touches it.
    pub(super) single_word: bool,
    /// Is text, not control: matched in page and user text too.
    pub(super) plain: bool,
}

/// Whether an added token that the file does not call special is nothing but text.
///
/// Deny by default: a file may leave the special mark off a token that steers the model.
pub(super) fn is_plain_text(content: &str) -> bool {
    let tag = content.strip_prefix('<').and_then(|tag| tag.strip_suffix('>'));
    let element = tag.map(|tag| tag.strip_prefix('/').unwrap_or(tag));
    content.chars().all(|c| c.is_whitespace() || c == '▁')
        || element.is_some_and(|element| HTML_ELEMENTS.contains(&element))
}

/// Whether a token looks like one that steers the model, whatever its file says.
pub(super) fn looks_like_control(content: &str) -> bool {
    content.len() > 3
        && (content.starts_with("<|") && content.ends_with('>')
            || content.starts_with('<') && content.ends_with("|>")
            || content.starts_with("<｜") && content.ends_with("｜>"))
}

/// All added tokens, sorted by content.
#[derive(Debug, Clone)]
pub(super) struct AddedTokens {
    sorted: Vec<AddedToken>,
    /// Bytes that start a token.
    starts: [bool; 256],
}

/// A stretch of text, or an added token in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Text and whether it starts the whole text.
    Text(&'a str, bool),
    /// An added token's id.
    Token(u32),
}

impl AddedTokens {
    /// Sorts the tokens. Of two with one content, the later wins.
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Result<Self> {
        let mut starts = [false; 256];
        for token in &tokens {
            if token.content.len() > MAX_BYTES {
                return Err(Error::format(
                    format!("added token {}", token.id),
                    format!("it has {} bytes, at most {MAX_BYTES} make sense", token.content.len()),
                ));
            }
            if let Some(&first) = token.content.as_bytes().first() {
                starts[first as usize] = true;
            }
        }
        tokens.retain(|token| !token.content.is_empty());
        tokens.reverse();
        tokens.sort_by(|a, b| a.content.cmp(&b.content));
        tokens.dedup_by(|later, first| later.content == first.content);
        Ok(Self { sorted: tokens, starts })
    }

    pub(super) fn find(&self, content: &str) -> Option<u32> {
        let at = self.sorted.binary_search_by(|token| (*token.content).cmp(content)).ok()?;
        self.sorted.get(at).map(|token| token.id)
    }

    /// Cuts the text at added tokens, the leftmost and longest first.
    pub(super) fn cut<'a>(&self, text: &'a str, at_start: bool, specials: Specials, mut emit: impl FnMut(Part<'a>)) {
        let bytes = text.as_bytes();
        let (mut done, mut at) = (0, 0);
        while at < bytes.len() {
            let found = if self.starts[bytes[at] as usize] { self.longest(text, at, specials) } else { None };
            let Some(token) = found else {
                at += 1;
                continue;
            };
            let mut end = at + token.content.len();
            let mut text_end = at;
            if token.lstrip {
                text_end = done + text[done..at].trim_end().len();
            }
            if token.rstrip {
                end = bytes.len() - text[end..].trim_start().len();
            }
            if text_end > done {
                emit(Part::Text(&text[done..text_end], at_start && done == 0));
            }
            emit(Part::Token(token.id));
            (done, at) = (end, end);
        }
        if done < text.len() {
            emit(Part::Text(&text[done..], at_start && done == 0));
        }
    }

    /// The longest token that stands at this byte.
    fn longest(&self, text: &str, at: usize, specials: Specials) -> Option<&AddedToken> {
        let rest = &text.as_bytes()[at..];
        let mut candidates = &self.sorted[..];
        let mut best = None;
        for (depth, &byte) in rest.iter().enumerate().take(MAX_BYTES) {
            let byte_of = |token: &AddedToken| token.content.as_bytes().get(depth).copied();
            let from = candidates.partition_point(|token| byte_of(token) < Some(byte));
            let to = candidates.partition_point(|token| byte_of(token) <= Some(byte));
            candidates = &candidates[from..to];
            let Some(first) = candidates.first() else { break };
            if first.content.len() == depth + 1 && first.may_match(text, at, specials) {
                best = Some(first);
            }
            if candidates.len() == 1 && first.content.len() == depth + 1 {
                break;
            }
        }
        best
    }
}

impl AddedToken {
    fn may_match(&self, text: &str, at: usize, specials: Specials) -> bool {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let touched = text[..at].chars().next_back().is_some_and(word)
            || text[at + self.content.len()..].chars().next().is_some_and(word);
        (specials == Specials::On || self.plain) && !(self.single_word && touched)
    }
}
