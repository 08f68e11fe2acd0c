//! Text to token ids and back: byte-pair encoding as byte-level and as SentencePiece-like models use it.
//!
//! Tokens are kept as the bytes they decode to, so a space is a space here, whether the file spells it `Ġ` or `▁`.
//! Splitting rules are matchers over Unicode's general categories; there is no regular-expression engine. A text may
//! have up to 4 GiB.

mod added;
mod bpe;
mod chat;
mod detokenize;
mod gguf;
mod json;
mod pre_tokenize;
mod spelling;
mod tool_call;
mod visible;
mod vocab;

use added::{AddedTokens, Part};
use bpe::{Merger, Merges, NO_TOKEN};
pub use chat::{ChatFormat, Message, Role};
pub use detokenize::Detokenizer;
pub use gguf::GgufTokenizer;
use pre_tokenize::{Split, split};
pub use tool_call::ToolCall;
pub use visible::VisibleText;
use vocab::{TokenKind, Vocab};

/// Whether the literal of a control token in the text becomes that token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// It does: for text that the engine itself wrote.
    On,
    /// It stays plain text: for every word of a page or a user.
    Off,
}

/// A stretch of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'a> {
    /// A token by its id.
    Token(u32),
    /// Text, encoded with [`Specials::Off`]. Neighbouring texts are encoded as one.
    Text(&'a str),
}

/// Turns text into token ids and ids into bytes.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    vocab: Vocab,
    /// Id of each byte's token, `NO_TOKEN` where the vocabulary has none.
    byte_ids: [u32; 256],
    merges: Merges,
    added: AddedTokens,
    /// Added tokens that are looked for after normalization.
    added_normalized: AddedTokens,
    scheme: Scheme,
    unknown: Option<u32>,
    fuse_unknown: bool,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    strip_first_space: bool,
    chat_template: Option<String>,
}

/// How text becomes the first symbols.
#[derive(Debug, Clone)]
enum Scheme {
    /// Every byte is a symbol; the rules cut the text into pieces first.
    ByteLevel { splits: Vec<Split>, prefix_space: bool, whole_pieces: bool },
    /// Every character is a symbol, or its bytes where the vocabulary lacks it.
    Spaced {
        /// The normalizer puts a space before each text between added tokens.
        prepend_space: bool,
        /// The pre-tokenizer puts a space before a text that has none.
        prefix: SpacePrefix,
        /// A word never merges with the next one.
        split_words: bool,
        /// Bytes that some token has right before a space: no cut between them.
        joins_space: Box<[bool; 256]>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SpacePrefix {
    Never,
    First,
    Always,
}

/// Whether page and user text must never become this kind of token.
fn is_control(kind: TokenKind) -> bool {
    matches!(kind, TokenKind::Control | TokenKind::Unknown)
}

impl Tokenizer {
    /// Encodes a text. Adds neither a first nor a last token.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut encoder = Encoder::new(self);
        encoder.text(text, true, specials);
        encoder.ids
    }

    /// Encodes scaffolding given by id and text given as text, in one go.
    pub fn encode_segments<'a>(&self, segments: impl IntoIterator<Item = Segment<'a>>) -> Vec<u32> {
        let mut encoder = Encoder::new(self);
        let mut run = String::new();
        let mut at_start = true;
        for segment in segments {
            match segment {
                Segment::Text(text) => run.push_str(text),
                Segment::Token(id) => {
                    encoder.text(&run, at_start, Specials::Off);
                    encoder.ids.push(id);
                    run.clear();
                    at_start = false;
                }
            }
        }
        encoder.text(&run, at_start, Specials::Off);
        encoder.ids
    }

    /// Decodes ids to text, control tokens included.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut detokenizer = Detokenizer::new(self, false);
        let mut text: String = ids.iter().map(|&id| detokenizer.push(self, id)).collect();
        text.push_str(&detokenizer.flush());
        text
    }

    /// Bytes that the token decodes to; none for an id that is not in use.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// The token as text; U+FFFD stands for bytes that are no character by themselves.
    pub fn token_text(&self, id: u32) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.vocab.bytes(id))
    }

    /// Id of the token that decodes to this text; of two, the added one.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.added.find(text).or_else(|| self.added_normalized.find(text)).or_else(|| self.vocab.find(text.as_bytes()))
    }

    /// Number of ids, unused ones included.
    pub fn vocab_len(&self) -> usize {
        self.vocab.len()
    }

    /// Whether the token steers the model and is not part of its text.
    pub fn is_special(&self, id: u32) -> bool {
        is_control(self.vocab.kind(id))
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a text without a chat format starts with [`Self::bos`].
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// The chat template that came with the tokenizer, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The same with the chat template of a file beside it.
    pub fn with_chat_template(self, template: String) -> Self {
        Self { chat_template: Some(template), ..self }
    }

    fn strips_first_space(&self) -> bool {
        self.strip_first_space
    }
}

/// One call's scratch space and output.
struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    merger: Merger,
    ids: Vec<u32>,
}

impl<'a> Encoder<'a> {
    fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, merger: Merger::default(), ids: Vec::new() }
    }

    fn text(&mut self, text: &str, at_start: bool, specials: Specials) {
        let tokenizer = self.tokenizer;
        tokenizer.added.cut(text, at_start, specials, |part| match part {
            Part::Token(id) => self.ids.push(id),
            Part::Text(text, at_start) => self.normalize(text, at_start, specials),
        });
    }

    fn normalize(&mut self, text: &str, at_start: bool, specials: Specials) {
        let tokenizer = self.tokenizer;
        let text = tokenizer.scheme.normalize(text);
        tokenizer.added_normalized.cut(&text, at_start, specials, |part| match part {
            Part::Token(id) => self.ids.push(id),
            Part::Text(text, at_start) => self.pre_tokenize(text, at_start, specials),
        });
    }

    fn pre_tokenize(&mut self, text: &str, at_start: bool, specials: Specials) {
        let spaced;
        let text = if !text.starts_with(' ') && self.tokenizer.scheme.wants_space(at_start) {
            spaced = format!(" {text}");
            &spaced
        } else {
            text
        };
        match &self.tokenizer.scheme {
            Scheme::ByteLevel { splits, whole_pieces, .. } => split(splits, text, &mut |piece| {
                self.byte_level_piece(piece.as_bytes(), *whole_pieces, specials);
            }),
            Scheme::Spaced { split_words, joins_space, .. } => {
                let bytes = text.as_bytes();
                let mut start = 0;
                for at in 1..bytes.len() {
                    let before = bytes[at - 1];
                    if bytes[at] == b' ' && (*split_words || before != b' ' && !joins_space[before as usize]) {
                        self.spaced_piece(&text[start..at], specials);
                        start = at;
                    }
                }
                self.spaced_piece(&text[start..], specials);
            }
        }
    }

    fn byte_level_piece(&mut self, piece: &[u8], whole_pieces: bool, specials: Specials) {
        let tokenizer = self.tokenizer;
        if whole_pieces
            && let Some(id) = tokenizer.vocab.find(piece)
            && !tokenizer.is_special(id)
        {
            self.ids.push(id);
            return;
        }
        self.merger.clear();
        let mut unknown_before = false;
        for (at, &byte) in piece.iter().enumerate() {
            let id = tokenizer.byte_ids[byte as usize];
            if id == NO_TOKEN {
                self.unknown(at, at + 1, unknown_before);
            } else {
                self.merger.push(id, at, at + 1);
            }
            unknown_before = id == NO_TOKEN;
        }
        self.merge(piece, specials);
    }

    fn spaced_piece(&mut self, piece: &str, specials: Specials) {
        let tokenizer = self.tokenizer;
        // Merging by score may join characters that are no tokens by themselves; only what is left over at the end
        // falls back to bytes. Ranked merges name tokens, so there the bytes come first.
        let late_fallback = matches!(tokenizer.merges, Merges::Scored(_));
        self.merger.clear();
        let mut unknown_before = false;
        for (at, c) in piece.char_indices() {
            let end = at + c.len_utf8();
            let bytes = &piece.as_bytes()[at..end];
            let id = tokenizer.char_id(bytes);
            let unknown = id == NO_TOKEN && !late_fallback && !tokenizer.has_bytes(bytes);
            if unknown {
                self.unknown(at, end, unknown_before);
            } else if id != NO_TOKEN || late_fallback {
                self.merger.push(id, at, end);
            } else {
                for (at, &byte) in (at..).zip(bytes) {
                    self.merger.push(tokenizer.byte_ids[byte as usize], at, at + 1);
                }
            }
            unknown_before = unknown;
        }
        self.merge(piece.as_bytes(), specials);
    }

    /// Marks bytes that the vocabulary cannot spell, so that what stands around them does not merge.
    fn unknown(&mut self, start: usize, end: usize, unknown_before: bool) {
        if let Some(id) = self.tokenizer.unknown
            && !(unknown_before && self.tokenizer.fuse_unknown)
        {
            self.merger.push(id, start, end);
        }
    }

    fn merge(&mut self, piece: &[u8], specials: Specials) {
        let (tokenizer, ids) = (self.tokenizer, &mut self.ids);
        let unknown = tokenizer.unknown;
        let allowed = |id| specials == Specials::On || !tokenizer.is_special(id);
        self.merger.run(piece, &tokenizer.vocab, &tokenizer.merges, |id, bytes| {
            if id != NO_TOKEN {
                ids.extend((Some(id) != unknown || allowed(id)).then_some(id));
            } else if tokenizer.has_bytes(bytes) {
                ids.extend(bytes.iter().map(|&byte| tokenizer.byte_ids[byte as usize]));
            } else {
                ids.extend(unknown.filter(|&id| allowed(id)));
            }
        });
    }
}

impl Tokenizer {
    fn has_bytes(&self, bytes: &[u8]) -> bool {
        bytes.iter().all(|&byte| self.byte_ids[byte as usize] != NO_TOKEN)
    }

    fn char_id(&self, bytes: &[u8]) -> u32 {
        self.vocab.find(bytes).filter(|&id| !self.is_special(id)).unwrap_or(NO_TOKEN)
    }
}

impl Scheme {
    fn normalize<'a>(&self, text: &'a str) -> std::borrow::Cow<'a, str> {
        let Self::Spaced { prepend_space, .. } = self else { return text.into() };
        if !prepend_space && !text.contains('▁') {
            return text.into();
        }
        let mut normal = String::with_capacity(text.len() + 1);
        normal.extend(prepend_space.then_some(' '));
        normal.extend(text.chars().map(|c| if c == '▁' { ' ' } else { c }));
        normal.into()
    }

    fn wants_space(&self, at_start: bool) -> bool {
        match self {
            Self::ByteLevel { prefix_space, .. } => *prefix_space,
            Self::Spaced { prefix: SpacePrefix::Never, .. } => false,
            Self::Spaced { prefix: SpacePrefix::First, .. } => at_start,
            Self::Spaced { prefix: SpacePrefix::Always, .. } => true,
        }
    }
}
