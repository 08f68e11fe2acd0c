//! Which of a model's tokens a reader sees: thinking stays hidden, tool calls become events.
//!
//! Decided by the control tokens' ids, never by text: a page that spells `<|channel>` hides nothing, and an answer that is cut off
//! inside of a thinking block shows nothing of it.

use super::{Detokenizer, Tokenizer, tool_call::ToolCall};
use crate::{Error, Result};

/// Longest tool call that is kept, in bytes.
const MAX_CALL_BYTES: usize = 1 << 16;

/// Ids of the tokens that frame what is not for reading; `None` where the vocabulary lacks them.
#[derive(Debug, Clone, Copy)]
struct Marks {
    thinking: Option<(u32, u32)>,
    call: Option<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Answer,
    Thinking,
    Call,
}

/// Turns a model's answer into the text to show, token by token.
#[derive(Debug, Clone)]
pub struct VisibleText {
    marks: Marks,
    detokenizer: Detokenizer,
    inside: Inside,
    call: Vec<u8>,
    calls: Vec<Result<ToolCall>>,
}

impl VisibleText {
    /// Starts an answer whose text `detokenizer` makes.
    pub fn new(tokenizer: &Tokenizer, detokenizer: Detokenizer) -> Self {
        let pair = |open, close| Some((tokenizer.control_id(open)?, tokenizer.control_id(close)?));
        let marks = Marks { thinking: pair("<|channel>", "<channel|>"), call: pair("<|tool_call>", "<tool_call|>") };
        Self { marks, detokenizer, inside: Inside::Answer, call: Vec::new(), calls: Vec::new() }
    }

    /// Takes the next id and returns the text to show that is now complete, often none.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let opens = |mark: Option<(u32, u32)>| mark.is_some_and(|(open, _)| open == id);
        let closes = |mark: Option<(u32, u32)>| mark.is_some_and(|(_, close)| close == id);
        match self.inside {
            Inside::Answer if opens(self.marks.thinking) => self.inside = Inside::Thinking,
            Inside::Answer if opens(self.marks.call) => self.inside = Inside::Call,
            Inside::Answer => return self.detokenizer.push(tokenizer, id),
            Inside::Thinking if closes(self.marks.thinking) => self.inside = Inside::Answer,
            Inside::Thinking => return String::new(),
            Inside::Call if closes(self.marks.call) => {
                self.inside = Inside::Answer;
                self.calls.push(read_call(&std::mem::take(&mut self.call)));
            }
            Inside::Call => {
                // One byte more than is read, so that a call that is too long is seen to be.
                let room = MAX_CALL_BYTES + 1 - self.call.len().min(MAX_CALL_BYTES + 1);
                let bytes = tokenizer.token_bytes(id);
                self.call.extend_from_slice(&bytes[..bytes.len().min(room)]);
                return String::new();
            }
        }
        // A control token ends the bytes before it.
        self.detokenizer.flush()
    }

    /// Ends the answer: bytes that never became a character turn into U+FFFD.
    pub fn flush(&mut self) -> String {
        self.detokenizer.flush()
    }

    /// The tool calls that were completed since the last time, and what is wrong with those that cannot be read.
    pub fn take_calls(&mut self) -> Vec<Result<ToolCall>> {
        std::mem::take(&mut self.calls)
    }
}

fn read_call(bytes: &[u8]) -> Result<ToolCall> {
    if bytes.len() > MAX_CALL_BYTES {
        return Err(Error::format("the model's tool call", format!("it has more than {MAX_CALL_BYTES} bytes")));
    }
    ToolCall::parse(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::GgufTokenizer;

    /// The last five are control tokens; `Ã` and `©` are the two bytes of an é.
    const TOKENS: [&str; 14] = [
        "thought",
        "Ċ",
        "Yes",
        ".",
        "Ã",
        "©",
        "call:f",
        "{",
        "}",
        "<|channel>",
        "<channel|>",
        "<|tool_call>",
        "<tool_call|>",
        "<|\"|>",
    ];

    fn tokenizer() -> Tokenizer {
        let kinds: Vec<i32> = TOKENS.iter().map(|t| if t.starts_with('<') { 3 } else { 1 }).collect();
        let keys = GgufTokenizer { model: "gpt2", pre: Some("gpt-2"), token_types: &kinds, ..GgufTokenizer::default() };
        Tokenizer::from_gguf(TOKENS.iter().map(|t| t.as_bytes()), [], &keys).expect("it is well formed")
    }

    fn shown(ids: &[u32]) -> (Vec<String>, VisibleText) {
        let tokenizer = tokenizer();
        let mut visible = VisibleText::new(&tokenizer, Detokenizer::new(&tokenizer, true));
        (ids.iter().map(|&id| visible.push(&tokenizer, id)).collect(), visible)
    }

    #[test]
    fn thinking_is_hidden_wherever_it_is_cut_off() {
        let ids = [9, 0, 1, 2, 4, 5, 10, 2, 3];
        for end in 0..=ids.len() {
            let (pieces, mut visible) = shown(&ids[..end]);
            let expected = match end {
                9 => "Yes.",
                8 => "Yes",
                _ => "",
            };
            assert_eq!(pieces.concat() + &visible.flush(), expected, "after {end}");
        }
        let (pieces, _) = shown(&[2, 9, 0, 10, 3]);
        assert_eq!(pieces, ["Yes", "", "", "", "."]);
    }

    #[test]
    fn half_a_character_does_not_wait_through_a_block() {
        let (pieces, mut visible) = shown(&[4, 9, 5, 10, 2]);
        assert_eq!(pieces, ["", "\u{fffd}", "", "", "Yes"]);
        assert_eq!(visible.flush(), "");
        let (pieces, _) = shown(&[4, 5, 9]);
        assert_eq!(pieces, ["", "é", ""]);
    }

    #[test]
    fn marks_without_their_partner_are_no_text() {
        let (pieces, _) = shown(&[10, 2, 12, 3, 13]);
        assert_eq!(pieces.concat(), "Yes.");
        let (pieces, _) = shown(&[9, 9, 10, 2]);
        assert_eq!(pieces.concat(), "Yes");
    }

    #[test]
    fn calls_become_events_and_are_not_shown() {
        let (pieces, mut visible) = shown(&[2, 11, 6, 7, 8, 12, 3, 11, 6, 12, 11, 6, 7]);
        assert_eq!(pieces.concat(), "Yes.");
        let calls = visible.take_calls();
        assert_eq!(calls[0].as_ref().map(|call| call.name.as_str()), Ok("f"));
        assert!(calls[1].is_err(), "it has no arguments");
        assert_eq!((calls.len(), visible.take_calls().len()), (2, 0), "the last one was cut off");
    }

    #[test]
    fn an_endless_call_takes_no_memory() {
        let tokenizer = tokenizer();
        let mut visible = VisibleText::new(&tokenizer, Detokenizer::new(&tokenizer, true));
        visible.push(&tokenizer, 11);
        for _ in 0..MAX_CALL_BYTES {
            visible.push(&tokenizer, 0);
        }
        assert_eq!(visible.call.len(), MAX_CALL_BYTES + 1);
        visible.push(&tokenizer, 12);
        assert!(visible.take_calls()[0].is_err());
    }

    #[test]
    fn a_vocabulary_without_marks_hides_nothing() {
        let keys = GgufTokenizer { model: "gpt2", pre: Some("gpt-2"), ..GgufTokenizer::default() };
        let tokenizer = Tokenizer::from_gguf(["Yes", "."].map(str::as_bytes), [], &keys).expect("it is well formed");
        let mut visible = VisibleText::new(&tokenizer, Detokenizer::new(&tokenizer, true));
        assert_eq!(visible.push(&tokenizer, 0) + &visible.push(&tokenizer, 1) + &visible.push(&tokenizer, 9), "Yes.");
    }
}
