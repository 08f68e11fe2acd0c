//! The passages of a text that are closest to a question, word for word.

use std::ops::Range;

use super::{
    language,
    sentences::{Kind, sentences},
    words::{Terms, Vocabulary},
};

/// How soon further occurrences of a term stop counting.
const K1: f64 = 1.2;
/// How much long sentences are held back.
const B: f64 = 0.5;
/// What a question's term in the heading above counts, compared with one occurrence in an average sentence.
const HEADING: f64 = 0.5;

/// What a sentence has of the score of a question that stands just before it.
const ANSWER: f64 = 0.7;

/// What was found for a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closest {
    /// The closest sentences, as byte ranges in the order of the page; at least one.
    Passages(Vec<Range<usize>>),
    /// No word of the question occurs on the page: the only case in which an answer may be reported as missing.
    NoWordOccurs,
    /// The question has no word to look for ("What is this about?").
    NothingToLookFor,
}

/// Finds the `k` sentences of `text` that are closest to `question`, by BM25 over sentences, items, rows and lines of code.
///
/// Terms that occur in a heading count half for the sentences below it, and what follows a question counts as its answer. Linear in the text's length.
pub fn closest_passages(question: &str, text: &str, k: usize) -> Closest {
    let terms = Terms::of(language::code(text)).with_characters();
    let mut vocabulary = Vocabulary::default();
    let mut asked = Vec::new();
    terms.each(question, |term| asked.push(vocabulary.id(term)));
    asked.sort_unstable();
    asked.dedup();
    if asked.is_empty() {
        return Closest::NothingToLookFor;
    }

    let all = sentences(text);
    let mut heading: Vec<bool> = vec![false; asked.len()];
    let mut documents: Vec<f64> = vec![0.0; asked.len()];
    let mut rows = Vec::new();
    let mut occurs = false;
    for sentence in &all {
        let mut counts = vec![0.0; asked.len()];
        let mut length = 0;
        terms.each(&text[sentence.range.clone()], |term| {
            length += 1;
            if let Some(slot) = vocabulary.get(term) {
                counts[slot as usize] += 1.0;
            }
        });
        occurs |= counts.iter().any(|&n| n > 0.0);
        if sentence.kind == Kind::Heading {
            heading = counts.iter().map(|&n| n > 0.0).collect();
            continue;
        }
        for (df, &n) in documents.iter_mut().zip(&counts) {
            *df += f64::from(u8::from(n > 0.0));
        }
        rows.push((sentence, counts, f64::from(length), heading.clone()));
    }
    if !occurs {
        return Closest::NoWordOccurs;
    }
    if rows.is_empty() {
        // Nothing but headings.
        let found = all.into_iter().map(|s| s.range).take(k).collect();
        return Closest::Passages(found);
    }

    let n = rows.len() as f64;
    let mean = (rows.iter().map(|r| r.2).sum::<f64>() / n).max(1.0);
    let idf: Vec<f64> = documents.iter().map(|df| (1.0 + (n - df + 0.5) / (df + 0.5)).ln()).collect();
    let mut scores: Vec<f64> = rows
        .iter()
        .map(|(_, counts, length, heading)| {
            let score = (0..idf.len()).map(|t| {
                let own = idf[t] * counts[t] * (K1 + 1.0) / (counts[t] + K1 * (1.0 - B + B * length / mean));
                own + if heading[t] { HEADING * idf[t] } else { 0.0 }
            });
            score.sum()
        })
        .collect();
    // Lists of questions: what follows one is its answer, in whatever words.
    for i in (1..rows.len()).rev() {
        if text[rows[i - 1].0.range.clone()].ends_with(['?', '？', '؟']) {
            scores[i] += ANSWER * scores[i - 1];
        }
    }
    let mut scored: Vec<(f64, usize)> = scores.into_iter().zip(0..).filter(|s| s.0 > 0.0).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scored.truncate(k);
    scored.sort_unstable_by_key(|s| s.1);
    if scored.is_empty() {
        // The words stand in headings with nothing below them.
        let found = all.iter().filter(|s| s.kind == Kind::Heading).map(|s| s.range.clone()).take(k).collect();
        return Closest::Passages(found);
    }
    Closest::Passages(scored.into_iter().map(|(_, i)| rows[i].0.range.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::eval;
    use super::*;

    fn shown<'a>(question: &str, text: &'a str, k: usize) -> Vec<&'a str> {
        match closest_passages(question, text, k) {
            Closest::Passages(ranges) => ranges.into_iter().map(|r| &text[r]).collect(),
            other => panic!("{question}: {other:?}"),
        }
    }

    #[test]
    fn quotes_hold_the_answers_of_the_evaluation_set() {
        let set = eval::load();
        for (k, least) in [(1, 9), (2, 11), (3, 11)] {
            let asked = set.questions.iter().filter_map(|q| Some((q, q.answer.as_ref()?)));
            let held = asked.filter(|(q, answer)| {
                let text = &set.texts.iter().find(|t| t.id == q.text).unwrap().text;
                regex::Regex::new(answer).unwrap().is_match(&shown(&q.q, text, k).join(" "))
            });
            let held = held.count();
            assert!(held >= least, "{k} quotes hold {held} answers, measured {least}");
        }
    }

    #[test]
    fn nothing_is_reported_as_missing_while_a_word_occurs() {
        let text = "# Prices\n\nTea is cheap. Coffee costs 3 euros.\n\n# Opening hours\n\nDaily from nine.";
        assert_eq!(closest_passages("Is there parking?", text, 2), Closest::NoWordOccurs);
        assert_eq!(closest_passages("What is this about?", text, 2), Closest::NothingToLookFor);
        assert_eq!(closest_passages("parking?", "", 2), Closest::NoWordOccurs);
        assert_eq!(shown("What does coffee cost?", text, 1), ["Coffee costs 3 euros."]);
        // Found by the heading above.
        assert_eq!(shown("When does it open?", text, 1), ["Daily from nine."]);
        assert_eq!(shown("The hours?", "# Tea\n# Hours", 1).len(), 1);
    }

    #[test]
    fn rows_code_and_items_are_passages() {
        let text = "Intro text here.\n\n| Part | Weight |\n|---|---|\n| Handle | 300 g |\n\n- Install it with pip.\n\n```\npip install kettle\n```";
        assert_eq!(shown("What is the weight of the handle?", text, 2), ["Part | Weight", "Handle | 300 g"]);
        assert_eq!(shown("How do I install the kettle?", text, 2), ["Install it with pip.", "pip install kettle"]);
    }

    #[test]
    fn answers_follow_their_questions() {
        let text =
            "What does it cost? Adults pay 6 francs. Is it open in winter? Only on Sundays.\n\nDogs stay outside.";
        assert_eq!(shown("How much does a ticket cost?", text, 2), ["What does it cost?", "Adults pay 6 francs."]);
    }

    #[test]
    fn other_languages_have_passages() {
        assert_eq!(shown("桥什么时候建的？", "天气很好。这座桥建于1931年。他走了。", 1), ["这座桥建于1931年。"]);
        let german =
            "Das Wetter war schön an diesem Tag. Die Brücke wurde 1931 gebaut. Der Rat hat gestern lange getagt.";
        assert_eq!(shown("Wann wurde die Brücke gebaut?", german, 1), ["Die Brücke wurde 1931 gebaut."]);
    }

    #[test]
    fn a_long_page_takes_linear_time() {
        let page = eval::long_page(100_000);
        let start = std::time::Instant::now();
        assert_eq!(shown("Who voted against the closure of the bridge?", &page, 3).len(), 3);
        assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
        println!("100,000 words: {:?}", start.elapsed());
        let hostile = "a".repeat(1 << 20);
        assert_eq!(closest_passages("parking", &hostile, 3), Closest::NoWordOccurs);
    }
}
