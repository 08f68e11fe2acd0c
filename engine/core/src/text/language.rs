//! Which language a text is in.

use whatlang::{Lang, Script};

use super::words::count_words;

/// Shorter texts say too little: there the page's own language tag is believed.
const FEW_WORDS: usize = 20;
/// Characters looked at; more would not change the answer.
const SAMPLE: usize = 4_000;

/// The three-letter code (ISO 639-3) of the language that `text` looks like; English for Latin letters in doubt.
pub fn code(text: &str) -> Option<&'static str> {
    let info = whatlang::detect(&sample(text))?;
    let doubtful = info.script() == Script::Latin && !info.is_reliable();
    Some(if doubtful { Lang::Eng.code() } else { info.lang().code() })
}

/// Pieces from the beginning, middle and end of a text: pages open with menus and close with legal notes.
fn sample(text: &str) -> String {
    if text.len() <= SAMPLE {
        return text.to_owned();
    }
    let mut out = String::with_capacity(SAMPLE + 16);
    for part in 0..4 {
        let mut start = text.len() / 4 * part;
        let mut end = start + SAMPLE / 4;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        while !text.is_char_boundary(end) {
            end += 1;
        }
        out.push_str(&text[start..end]);
        out.push('\n');
    }
    out
}
