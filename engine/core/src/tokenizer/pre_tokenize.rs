//! Cuts text into the pieces that merging may not cross: the known splitting rules, written as matchers.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// One rule that cuts text into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// Every numeric character alone.
    SingleDigits,
    /// Runs of numeric characters.
    DigitRuns,
    /// Threes of ASCII digits.
    DigitTriples,
    /// Runs of punctuation and of the ASCII symbols `$+<=>^~|`.
    Punctuation,
    /// Words with the space before them, numbers, other runs, white space.
    Gpt2,
    /// As GPT-2, but any one character may lead a word, contractions match in any case, line ends stick to
    /// punctuation, and numbers have at most so many digits.
    Llama3 {
        /// Digits to a piece.
        digits: usize,
    },
}

/// Calls `emit` for each piece, in order; together the pieces are the text.
pub(super) fn split(rules: &[Split], text: &str, emit: &mut dyn FnMut(&str)) {
    let Some((rule, later)) = rules.split_first() else {
        if !text.is_empty() {
            emit(text);
        }
        return;
    };
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(rule.piece_len(rest));
        split(later, piece, emit);
        rest = tail;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Other,
}

fn class(c: char) -> Class {
    if c.is_ascii() {
        return match c {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            // `is_ascii_whitespace` leaves out the vertical tab.
            ' ' | '\t'..='\r' => Class::Space,
            _ => Class::Other,
        };
    }
    if c.is_whitespace() {
        return Class::Space;
    }
    match get_general_category(c) {
        Category::UppercaseLetter
        | Category::LowercaseLetter
        | Category::TitlecaseLetter
        | Category::ModifierLetter
        | Category::OtherLetter => Class::Letter,
        Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber => Class::Number,
        _ => Class::Other,
    }
}

fn is_punctuation(c: char) -> bool {
    matches!(c, '$' | '+' | '<' | '=' | '>' | '^' | '~' | '|')
        || matches!(
            get_general_category(c),
            Category::ConnectorPunctuation
                | Category::DashPunctuation
                | Category::OpenPunctuation
                | Category::ClosePunctuation
                | Category::InitialPunctuation
                | Category::FinalPunctuation
                | Category::OtherPunctuation
        )
}

impl Split {
    /// Length in bytes of the piece that starts `text`, which is not empty.
    fn piece_len(self, text: &str) -> usize {
        let number = |c: char| class(c) == Class::Number;
        match self {
            Self::SingleDigits => match text.chars().next() {
                Some(c) if number(c) => c.len_utf8(),
                _ => run_len(text, |c| !number(c)),
            },
            Self::DigitRuns => either_run(text, number),
            Self::Punctuation => either_run(text, is_punctuation),
            Self::DigitTriples => {
                let triple_at = |at: usize| {
                    text.as_bytes().get(at..at + 3).is_some_and(|three| three.iter().all(u8::is_ascii_digit))
                };
                if triple_at(0) { 3 } else { (1..text.len()).find(|&at| triple_at(at)).unwrap_or(text.len()) }
            }
            Self::Gpt2 => gpt2_len(text),
            Self::Llama3 { digits } => llama3_len(text, digits),
        }
    }
}

fn gpt2_len(text: &str) -> usize {
    if let Some(len) = contraction_len(text, |byte| byte) {
        return len;
    }
    // One space joins whatever run follows it, unless that is white space too.
    let lead = usize::from(text.starts_with(' '));
    match text[lead..].chars().next().map(class) {
        Some(kind) if kind != Class::Space => lead + run_len(&text[lead..], |c| class(c) == kind),
        _ => white_space_len(text),
    }
}

fn llama3_len(text: &str, digits: usize) -> usize {
    let folded = |byte: u8| byte.to_ascii_lowercase();
    if let Some(len) = contraction_len(text, folded) {
        return len;
    }
    // U+017F is the one character beyond ASCII that equals a letter of the contractions without regard to case.
    if text.starts_with("'\u{17f}") {
        return "'\u{17f}".len();
    }
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let kind = class(first);
    let letter = |c| class(c) == Class::Letter;
    if kind == Class::Letter {
        return run_len(text, letter);
    }
    if kind == Class::Number {
        return text.chars().take(digits).take_while(|&c| class(c) == Class::Number).map(char::len_utf8).sum();
    }
    if !matches!(first, '\r' | '\n') && chars.next().is_some_and(letter) {
        return first.len_utf8() + run_len(&text[first.len_utf8()..], letter);
    }
    let lead = usize::from(first == ' ');
    let other = lead + run_len(&text[lead..], |c| class(c) == Class::Other);
    if other > lead {
        return other + run_len(&text[other..], |c| matches!(c, '\r' | '\n'));
    }
    let space = run_len(text, |c| class(c) == Class::Space);
    match text[..space].rfind(['\r', '\n']) {
        Some(line_end) => line_end + 1,
        None => white_space_len(text),
    }
}

/// Length of an English contraction's tail (`'s`, `'re` …) at the start of the text.
fn contraction_len(text: &str, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let tail = text.as_bytes().strip_prefix(b"'")?;
    let one = fold(*tail.first()?);
    if matches!(one, b's' | b't' | b'm' | b'd') {
        return Some(2);
    }
    matches!((one, fold(*tail.get(1)?)), (b'r' | b'v', b'e') | (b'l', b'l')).then_some(3)
}

/// Length of the white space at the start, less its last character when a word follows to take that.
fn white_space_len(text: &str) -> usize {
    let run = run_len(text, |c| class(c) == Class::Space);
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    if run == text.len() || run == last { run } else { run - last }
}

fn either_run(text: &str, inside: impl Fn(char) -> bool) -> usize {
    let first = text.chars().next().is_some_and(&inside);
    run_len(text, |c| inside(c) == first)
}

fn run_len(text: &str, inside: impl Fn(char) -> bool) -> usize {
    text.find(|c| !inside(c)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces<'a>(rules: &[Split], text: &'a str) -> Vec<&'a str> {
        let mut ends = vec![0];
        split(rules, text, &mut |piece| ends.push(ends[ends.len() - 1] + piece.len()));
        assert_eq!(ends.last(), Some(&text.len()));
        ends.windows(2).map(|w| &text[w[0]..w[1]]).collect()
    }

    #[test]
    fn gpt2_keeps_one_space_with_the_word() {
        assert_eq!(
            pieces(&[Split::Gpt2], "I'll go  to 10km,\n\n it's  "),
            ["I", "'ll", " go", " ", " to", " 10", "km", ",", "\n\n", " it", "'s", "  "]
        );
        assert_eq!(pieces(&[Split::Gpt2], "'S\u{a0}x\tx"), ["'", "S", "\u{a0}", "x", "\t", "x"]);
    }

    #[test]
    fn smollm_sets_digits_apart_first() {
        assert_eq!(pieces(&[Split::SingleDigits, Split::Gpt2], "a 12½Ⅳb"), ["a", " ", "1", "2", "½", "Ⅳ", "b"]);
    }

    #[test]
    fn llama3_folds_case_and_counts_digits() {
        assert_eq!(
            pieces(&[Split::Llama3 { digits: 3 }], "WE'LL (say) 12345.\r\n\n  x \n y"),
            ["WE", "'LL", " (", "say", ")", " ", "123", "45", ".\r\n\n", " ", " x", " \n", " y"]
        );
        assert_eq!(pieces(&[Split::Llama3 { digits: 1 }], "12\tx"), ["1", "2", "\tx"]);
    }

    #[test]
    fn the_default_cuts_punctuation_numbers_and_triples() {
        let rules = [Split::Punctuation, Split::Gpt2, Split::DigitRuns, Split::DigitTriples];
        assert_eq!(pieces(&rules, "x <=12345!? y"), ["x", " ", "<=", "123", "45", "!?", " y"]);
    }
}
