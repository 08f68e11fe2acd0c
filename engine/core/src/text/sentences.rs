//! Sentences of a page's text, as byte ranges into it.
//!
//! The text is light Markdown: `# ` headings, `- ` items, `| ` rows, fenced code, paragraphs apart by an empty line. Markers are
//! never part of a range. Boundaries are those of Unicode (UAX #29), less those after abbreviations and inside quotations.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

/// A sentence, or what stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentence {
    /// Its place in the text, in bytes.
    pub range: Range<usize>,
    /// What it is part of.
    pub kind: Kind,
    /// True if it opens a paragraph.
    pub opens: bool,
}

/// What a sentence is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A paragraph.
    Prose,
    /// An item of a list.
    Item,
    /// A row of a table; the whole row is one sentence.
    Row,
    /// A heading; the whole line is one sentence.
    Heading,
    /// A line of code.
    Code,
}

/// Longer runs without a boundary are cut, so that what is shown stays a passage and not a page.
const LONGEST: usize = 1_200;
/// A line must be this long for its end to count as wrapped rather than meant.
const WRAPPED: usize = 40;
/// More characters in a row that are neither letter nor digit are a boundary; also bounds the look-ahead of UAX #29's rule SB8.
const LONGEST_GAP: usize = 16;

/// Splits `text` into sentences, in order; linear in its length.
pub fn sentences(text: &str) -> Vec<Sentence> {
    let mut out = Vec::new();
    let mut opens = true;
    let mut fence: Option<&str> = None;
    let mut prose: Option<Range<usize>> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let trimmed = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| trimmed.starts_with(mark));
        if let Some(open) = fence {
            if mark == Some(open) {
                fence = None;
                opens = true;
            } else {
                push(text, start..at, Kind::Code, &mut opens, &mut out);
            }
            continue;
        }
        let (kind, skip) = marker(line);
        if let Some(before) = &prose {
            if kind == Kind::Prose && skip == 0 && wraps(&text[before.clone()], trimmed) {
                prose = Some(before.start..at);
                continue;
            }
            split(text, before.clone(), Kind::Prose, &mut opens, &mut out);
            prose = None;
        }
        if mark.is_some() {
            fence = mark;
        } else if trimmed.is_empty() {
            opens = true;
        } else {
            match kind {
                Kind::Prose => prose = Some(start + skip..at),
                Kind::Item => split(text, start + skip..at, kind, &mut opens, &mut out),
                _ => push(text, start + skip..at, kind, &mut opens, &mut out),
            }
            if kind == Kind::Heading {
                opens = true;
            }
        }
    }
    if let Some(before) = prose {
        split(text, before, Kind::Prose, &mut opens, &mut out);
    }
    out
}

/// What a line is, and the bytes of its marker.
fn marker(line: &str) -> (Kind, usize) {
    let indent = line.len() - line.trim_start().len();
    let rest = &line[indent..];
    let after = |kind, marker: &str| {
        let skip = marker.len() + rest[marker.len()..].len() - rest[marker.len()..].trim_start().len();
        (kind, indent + skip)
    };
    let spaced = |marker: &str| rest[marker.len()..].starts_with([' ', '\t']);
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if (1..=6).contains(&hashes) && spaced(&rest[..hashes]) {
        return after(Kind::Heading, &rest[..hashes]);
    }
    for bullet in ["-", "*", "+", "•", "◦", "‣"] {
        if rest.starts_with(bullet) && spaced(bullet) {
            return after(Kind::Item, bullet);
        }
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if (1..=3).contains(&digits) && rest[digits..].starts_with(['.', ')']) && spaced(&rest[..digits + 1]) {
        return after(Kind::Item, &rest[..digits + 1]);
    }
    if rest.starts_with('|') {
        return after(Kind::Row, "|");
    }
    if rest.starts_with("> ") {
        let inner = rest.trim_start_matches(['>', ' ', '\t']);
        let (kind, skip) = marker(inner);
        return (kind, line.len() - inner.len() + skip);
    }
    (Kind::Prose, 0)
}

/// True if `next` goes on with the line that ends `before`: the break was the page's width, not the writer's will.
fn wraps(before: &str, next: &str) -> bool {
    let last = before.trim_end().rsplit('\n').next().unwrap_or("");
    last.len() >= WRAPPED && next.starts_with(char::is_lowercase) && !last.ends_with(['.', '!', '?', ':', ';'])
}

/// Adds one sentence, trimmed, if it holds a letter or digit.
fn push(text: &str, range: Range<usize>, kind: Kind, opens: &mut bool, out: &mut Vec<Sentence>) {
    let piece = &text[range.clone()];
    let space = |c: char| c.is_whitespace() || c == '\u{feff}';
    let mut start = range.start + piece.len() - piece.trim_start_matches(space).len();
    let mut end = range.end - (piece.len() - piece.trim_end_matches(space).len());
    if kind == Kind::Row && start < end {
        end = start + text[start..end].trim_end_matches(['|', ' ']).len();
    }
    if kind == Kind::Heading && start < end {
        end = start + text[start..end].trim_end_matches(['#', ' ']).len();
    }
    start = start.min(end);
    if text[start..end].contains(char::is_alphanumeric) {
        out.push(Sentence { range: start..end, kind, opens: *opens });
        *opens = false;
    }
}

/// Splits a paragraph or item.
fn split(text: &str, range: Range<usize>, kind: Kind, opens: &mut bool, out: &mut Vec<Sentence>) {
    for part in parts(&text[range.clone()]) {
        let mut open = range.start + part.start;
        let end = range.start + part.end;
        let mut bounds =
            text[open..end].split_sentence_bound_indices().map(|(at, s)| open + at + s.len()).collect::<Vec<_>>();
        bounds.dedup();
        for mut bound in bounds {
            // UAX #29 gives an opening bracket that follows without a space to the sentence before it.
            while bound < end && text[open..bound].ends_with(['「', '『', '（', '《', '〈', '【', '“']) {
                bound -= text[open..bound].chars().next_back().map_or(0, char::len_utf8);
            }
            if bound <= open {
                continue;
            }
            if bound < end && joins(text[open..bound].trim_end(), &text[open..bound], text[bound..end].trim_start()) {
                continue;
            }
            for piece in pieces(&text[open..bound]) {
                push(text, open + piece.start..open + piece.end, kind, opens, out);
            }
            open = bound;
        }
    }
}

/// Cuts at long runs of characters that are neither letters nor digits, such as the dots of a table of contents.
fn parts(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut gap_start, mut gap) = (0, 0, 0);
    for (at, c) in text.char_indices() {
        if c.is_alphanumeric() {
            if gap > LONGEST_GAP {
                out.push(start..gap_start);
                start = at;
            }
            gap = 0;
        } else {
            if gap == 0 {
                gap_start = at;
            }
            gap += 1;
        }
    }
    out.push(start..if gap > LONGEST_GAP { gap_start } else { text.len() });
    out.retain(|r| !r.is_empty());
    out
}

/// Cuts a sentence that is too long at spaces or commas, or anywhere if it has none.
fn pieces(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = 0;
    while text.len() - start > LONGEST {
        let mut most = start + LONGEST;
        while !text.is_char_boundary(most) {
            most -= 1;
        }
        let least = start + LONGEST / 2;
        let place =
            text[start..most].char_indices().rev().map(|(at, c)| (start + at, c)).take_while(|(at, _)| *at > least);
        let cut = place.into_iter().find(|(_, c)| c.is_whitespace() || matches!(c, '、' | '，' | '；' | '،'));
        let cut = cut.map_or(most, |(at, c)| at + c.len_utf8());
        out.push(start..cut);
        start = cut;
    }
    out.push(start..text.len());
    out
}

/// Abbreviations that a name, place or figure follows, so that a boundary after them is none. Lower case; without the last dot.
const ABBREVIATIONS: [&str; 66] = [
    "e.g", "i.e", "mr", "mrs", "ms", "dr", "vs", "prof", "st", "cf", "viz", "gen", "col", "lt", "sgt", "capt", "rev",
    "hon", "gov", "sen", "rep", "mt", "messrs", "approx", "z.b", "d.h", "u.a", "bzw", "hr", "fr", "evtl", "ggf",
    "inkl", "vgl", "sog", "geb", "gest", "ca", "sr", "sra", "srta", "ud", "uds", "p.ej", "mme", "mlle", "mm", "mgr",
    "p.ex", "sig", "dott", "ing", "avv", "exmo", "dhr", "mevr", "bijv", "o.a", "tzw", "np", "ul", "им", "ул", "т.е",
    "др", "проф",
];
/// Abbreviations that a number follows.
const BEFORE_NUMBERS: [&str; 19] = [
    "no", "nos", "nr", "art", "fig", "figs", "abs", "p", "pp", "s", "vol", "ch", "sec", "eq", "núm", "nº", "стр",
    "рис", "bd",
];
/// What follows an ordinal in German, where other words have no capital.
const AFTER_ORDINALS: [&str; 14] = [
    "Januar",
    "Jänner",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
    "Jahrhundert",
];

/// True if the boundary between `before` and `next` is none. `raw` is `before` with its spaces.
fn joins(before: &str, raw: &str, next: &str) -> bool {
    let Some(first) = next.chars().next() else { return true };
    if let Some(stem) = before.strip_suffix('.') {
        let word = stem
            .rsplit(|c: char| c.is_whitespace() || matches!(c, '(' | '[' | '"' | '“' | '„' | '«' | '\'' | '‘'))
            .next()
            .unwrap_or("");
        let letter = word.rsplit('.').next().unwrap_or("");
        let mut letters = letter.chars();
        if letters.next().is_some_and(char::is_uppercase) && letters.next().is_none() {
            return true;
        }
        // Written apart: z. B., d. h., i. e.
        if word.chars().count() == 1 && word.starts_with(char::is_lowercase) && next.chars().nth(1) == Some('.') {
            return true;
        }
        let lower = word.to_lowercase();
        if ABBREVIATIONS.contains(&lower.as_str()) || (first.is_numeric() && BEFORE_NUMBERS.contains(&lower.as_str())) {
            return true;
        }
        if (1..=2).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_digit()) {
            return AFTER_ORDINALS.iter().any(|&m| next.starts_with(m));
        }
        return false;
    }
    // A question or exclamation inside of a sentence: "Why?" he asked.
    let closers = |c| matches!(c, '"' | '”' | '’' | '\'' | '»' | '“' | ')' | ']');
    if before.trim_end_matches(closers).ends_with(['!', '?']) {
        return first.is_lowercase();
    }
    // A line end inside of a wrapped paragraph, which UAX #29 takes for a paragraph's.
    raw.ends_with(['\n', '\r']) && !before.trim_end_matches(closers).ends_with(|c: char| ends_sentence(c) || c == ':')
}

/// True if a sentence ends like one, closing quotes and brackets aside.
pub fn is_finished(sentence: &str) -> bool {
    let closers =
        |c: char| matches!(c, '"' | '”' | '’' | '\'' | '»' | '«' | ')' | ']' | '」' | '』' | '）' | '*' | '_');
    sentence.trim_end_matches(closers).ends_with(ends_sentence)
}

/// True if `text` ends in an abbreviation, so that the sentence goes on.
pub fn ends_unfinished(text: &str) -> bool {
    text.ends_with('.') && joins(text, text, "A")
}

/// True for characters that end a sentence.
pub fn ends_sentence(c: char) -> bool {
    matches!(
        c,
        '.' | '!'
            | '?'
            | '…'
            | '。'
            | '！'
            | '？'
            | '｡'
            | '．'
            | '؟'
            | '۔'
            | '।'
            | '॥'
            | '።'
            | '։'
            | '။'
            | '។'
            | '‼'
            | '⁇'
            | '⁈'
            | '⁉'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).iter().map(|s| &text[s.range.clone()]).collect()
    }

    #[test]
    fn abbreviations_do_not_end_sentences() {
        assert_eq!(
            split("Dr. Smith met J. R. Jones, e.g. Tom, at No. 10. They talked. Mr. Big left."),
            ["Dr. Smith met J. R. Jones, e.g. Tom, at No. 10.", "They talked.", "Mr. Big left."]
        );
        assert_eq!(
            split("It cost $3.5 million. See https://a.example/b.c?d=E. Done!"),
            ["It cost $3.5 million.", "See https://a.example/b.c?d=E.", "Done!"]
        );
        assert_eq!(
            split("The U.S. Congress met. Is it so? No. The end."),
            ["The U.S. Congress met.", "Is it so?", "No.", "The end."]
        );
    }

    #[test]
    fn quotations_stay_whole() {
        assert_eq!(
            split("\"Why?\" he asked. \"Because.\" She left."),
            ["\"Why?\" he asked.", "\"Because.\"", "She left."]
        );
        assert_eq!(split("He said “It is late.” Then he went."), ["He said “It is late.”", "Then he went."]);
    }

    #[test]
    fn markers_are_not_part_of_sentences() {
        let text = "# The title #\n\nFirst one. Second one.\n\n- item one. With two.\n* item two\n  1. nested item\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n\
                    > Quoted text.\n\n```sh\n# not a heading\nls -l\n```\n\n---\n\nLast.";
        let got: Vec<_> = sentences(text).iter().map(|s| (&text[s.range.clone()], s.kind, s.opens)).collect();
        assert_eq!(
            got,
            [
                ("The title", Kind::Heading, true),
                ("First one.", Kind::Prose, true),
                ("Second one.", Kind::Prose, false),
                ("item one.", Kind::Item, true),
                ("With two.", Kind::Item, false),
                ("item two", Kind::Item, false),
                ("nested item", Kind::Item, false),
                ("a | b", Kind::Row, true),
                ("1 | 2", Kind::Row, false),
                ("Quoted text.", Kind::Prose, true),
                ("# not a heading", Kind::Code, true),
                ("ls -l", Kind::Code, false),
                ("Last.", Kind::Prose, true),
            ]
        );
    }

    #[test]
    fn wrapped_lines_are_joined_and_meant_ones_are_not() {
        let wrapped = "The city council of Riverton voted on Tuesday to\nclose the old Harbour Bridge to cars from next spring.\nIt was late.";
        assert_eq!(split(wrapped).len(), 2);
        assert_eq!(split(wrapped)[1], "It was late.");
        assert_eq!(split("Roses\nviolets\nand more"), ["Roses", "violets", "and more"]);
        assert_eq!(
            split("A line that is long enough to have been wrapped by width\r\nand goes on here."),
            ["A line that is long enough to have been wrapped by width\r\nand goes on here."]
        );
    }

    #[test]
    fn other_languages_are_split() {
        assert_eq!(
            split("大桥将关闭。为什么？因为“太旧了。”完。"),
            ["大桥将关闭。", "为什么？", "因为“太旧了。”", "完。"]
        );
        assert_eq!(split("橋は古い。「閉じよう。」と言った。"), ["橋は古い。", "「閉じよう。」", "と言った。"]);
        assert_eq!(
            split("Am 3. Oktober wurde z. B. Dr. Kurz gewählt. Das war gut."),
            ["Am 3. Oktober wurde z. B. Dr. Kurz gewählt.", "Das war gut."]
        );
        assert_eq!(split("أغلقت المدينة الجسر. لماذا؟ لأنه قديم."), ["أغلقت المدينة الجسر.", "لماذا؟", "لأنه قديم."]);
        assert_eq!(split("पुल बंद है। क्यों?"), ["पुल बंद है।", "क्यों?"]);
        assert_eq!(split("Мост закрыт. См. рис. 3. Он стар."), ["Мост закрыт.", "См. рис. 3.", "Он стар."]);
    }

    #[test]
    fn ranges_are_trimmed_and_in_order() {
        for text in [
            "",
            "\n\n",
            "  a. \u{a0} B. \r\n\r\n\tc",
            "```\nnever closed",
            "- \n-\n#\n|",
            "|||",
            "> > x",
            "\u{feff}Hi.",
        ] {
            let mut end = 0;
            for s in sentences(text) {
                let piece = &text[s.range.clone()];
                assert_eq!(piece.trim(), piece);
                assert!(s.range.start >= end && !piece.is_empty());
                end = s.range.end;
            }
        }
    }

    #[test]
    fn hostile_text_is_cut_in_linear_time() {
        let start = std::time::Instant::now();
        let megabyte = 1 << 20;
        let cases = [
            "a".repeat(megabyte),
            "日".repeat(megabyte / 3),
            format!(". {}", " ".repeat(megabyte)),
            format!(".{}", ")".repeat(megabyte)),
            format!(".{}{}", ") ".repeat(8), "1".repeat(megabyte)),
            ".\u{301}".repeat(megabyte / 3),
            "A. ".repeat(megabyte / 3),
            "> ".repeat(megabyte / 2),
            "\n".repeat(megabyte),
            "e.g. ".repeat(megabyte / 5),
            format!("{}\n", "x".repeat(50)).repeat(megabyte / 51),
        ];
        for text in &cases {
            for s in sentences(text) {
                assert!(s.range.len() <= LONGEST);
            }
        }
        // Far above what a linear pass takes even in a debug build on a busy machine, far below what a quadratic one would.
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }
}
