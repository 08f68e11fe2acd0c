//! What a small model's correction or rewrite must pass before it is shown.
//!
//! A gate sees lost figures, lost or strange words, lost negations and outputs that answer the text instead of rewriting it. It
//! does not see small damage ("when they saw"); so what passes is still labelled.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{guard::numbers, words::Terms};

/// Longer texts are compared by their first words; the comparison is quadratic.
const MOST_WORDS: usize = 400;

/// Figures written out; "one" is a pronoun as often.
const NUMBER_WORDS: [&str; 31] = [
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "thousand",
    "million",
    "billion",
    "dozen",
];

/// The limits of one action. Lengths and shares are relative to the input, in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Gate {
    /// Shortest length.
    pub min_length: f64,
    /// Longest length.
    pub max_length: f64,
    /// Least [`similarity`].
    #[serde(default)]
    pub min_similarity: f64,
    /// Least share of the input's content words that must be in the output.
    #[serde(default)]
    pub min_kept: f64,
    /// Largest share of the output's content words that are not in the input.
    #[serde(default = "one")]
    pub max_new: f64,
}

fn one() -> f64 {
    1.0
}

/// Why an output was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no output.
    Empty,
    /// Figures, written out or not, were lost, changed or invented.
    Numbers,
    /// "not", "no", "never" and their like were lost or invented.
    Negations,
    /// Much shorter or longer than it may be.
    Length,
    /// Other words in another order.
    Similarity,
    /// Too many content words were lost.
    Lost,
    /// Too many content words are new.
    New,
}

impl Gate {
    /// Lets `output` pass as a version of `input`, or says why not.
    pub fn check(&self, input: &str, output: &str) -> Result<(), Refusal> {
        let (before, after) = (words(input), words(output));
        if after.is_empty() {
            return Err(Refusal::Empty);
        }
        let figures = |text: &str, words: &[String]| {
            let mut list: Vec<String> = numbers(text).map(str::to_owned).collect();
            list.extend(
                words.iter().flat_map(|w| w.split('-')).filter(|w| NUMBER_WORDS.contains(w)).map(str::to_owned),
            );
            list.sort_unstable();
            list
        };
        if figures(input, &before) != figures(output, &after) {
            return Err(Refusal::Numbers);
        }
        if negations(input) != negations(output) {
            return Err(Refusal::Negations);
        }
        let length = after.len() as f64 / before.len().max(1) as f64;
        if !(self.min_length..=self.max_length).contains(&length) {
            return Err(Refusal::Length);
        }
        if similarity(input, output) < self.min_similarity {
            return Err(Refusal::Similarity);
        }
        let terms = Terms::of(Some("eng"));
        let set = |text: &str| terms.list(text).into_iter().collect::<HashSet<_>>();
        let (had, has) = (set(input), set(output));
        let both = had.intersection(&has).count() as f64;
        if both < self.min_kept * had.len() as f64 {
            return Err(Refusal::Lost);
        }
        if has.len() as f64 - both > self.max_new * has.len() as f64 {
            return Err(Refusal::New);
        }
        Ok(())
    }
}

/// Words in lower case, without the punctuation around them.
fn words(text: &str) -> Vec<String> {
    let bare = |w: &str| w.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    text.split_whitespace().map(bare).filter(|w| !w.is_empty()).collect()
}

/// How alike two word sequences are, in lower case: 2 × words in matching blocks / words of both, from 0 to 1.
///
/// Matching blocks are those of Ratcliff and Obershelp, as in Python's difflib: the longest common run, then the same to its left
/// and right.
pub fn similarity(a: &str, b: &str) -> f64 {
    let (mut a, mut b) = (words(a), words(b));
    a.truncate(MOST_WORDS);
    b.truncate(MOST_WORDS);
    if a.is_empty() && b.is_empty() {
        return 1.0;
    }
    let mut matches = 0;
    let mut open = vec![(0..a.len(), 0..b.len())];
    while let Some((left, right)) = open.pop() {
        let (i, j, n) = longest_run(&a[left.clone()], &b[right.clone()]);
        if n > 0 {
            let (i, j) = (left.start + i, right.start + j);
            matches += n;
            open.push((left.start..i, right.start..j));
            open.push((i + n..left.end, j + n..right.end));
        }
    }
    2.0 * matches as f64 / (a.len() + b.len()) as f64
}

/// The first of the longest runs that `a` and `b` share: where it is in each, and its length.
fn longest_run(a: &[String], b: &[String]) -> (usize, usize, usize) {
    let mut best = (0, 0, 0);
    let mut before = vec![0; b.len() + 1];
    for (i, word) in a.iter().enumerate() {
        let mut lengths = vec![0; b.len() + 1];
        for (j, other) in b.iter().enumerate() {
            if word == other {
                let n = before[j] + 1;
                lengths[j + 1] = n;
                if n > best.2 {
                    best = (i + 1 - n, j + 1 - n, n);
                }
            }
        }
        before = lengths;
    }
    best
}

/// Counts words that deny, contractions with and without their apostrophe among them.
pub fn negations(text: &str) -> usize {
    let denies = |word: &String| {
        matches!(
            word.as_str(),
            "not"
                | "no"
                | "never"
                | "none"
                | "nothing"
                | "nobody"
                | "nowhere"
                | "neither"
                | "nor"
                | "cannot"
                | "without"
                | "unable"
                | "impossible"
        ) || word.ends_with("n't")
            || word.ends_with("n’t")
            || word.strip_suffix("nt").is_some_and(|stem| {
                matches!(
                    stem,
                    "do" | "does"
                        | "did"
                        | "ca"
                        | "wo"
                        | "is"
                        | "are"
                        | "was"
                        | "were"
                        | "has"
                        | "have"
                        | "had"
                        | "could"
                        | "should"
                        | "would"
                        | "must"
                        | "need"
                )
            })
    };
    words(text).iter().filter(|word| denies(word)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fix() -> Gate {
        Gate { min_length: 0.75, max_length: 1.3, min_similarity: 0.6, min_kept: 0.0, max_new: 1.0 }
    }

    fn rewrite(min_length: f64, max_length: f64, min_kept: f64) -> Gate {
        Gate { min_length, max_length, min_similarity: 0.0, min_kept, max_new: 0.45 }
    }

    #[test]
    fn corrections_pass_and_answers_do_not() {
        let input = "Their going to meet us at the airport, but they doesnt know witch terminal.";
        assert_eq!(
            fix().check(input, "They're going to meet us at the airport, but they don't know which terminal."),
            Ok(())
        );
        assert_eq!(fix().check(input, "I'm sorry for your loss."), Err(Refusal::Negations));
        assert_eq!(
            fix().check(input, "We will meet them at home, but nobody there has any idea when to arrive."),
            Err(Refusal::Similarity)
        );
        assert_eq!(fix().check(input, "They don't know which terminal."), Err(Refusal::Length));
        assert_eq!(fix().check("He arrive at 8 oclock.", "He arrives at 9 o'clock."), Err(Refusal::Numbers));
        assert_eq!(fix().check("He arrive at 8 oclock.", " \n"), Err(Refusal::Empty));
        assert_eq!(
            fix().check("It store ten million of them.", "It stores eight million of them."),
            Err(Refusal::Numbers)
        );
        assert_eq!(fix().check("It store twenty-one of them.", "It stores twenty-one of them."), Ok(()));
    }

    #[test]
    fn rewrites_keep_their_words() {
        let input = "At this point in time we are not in a position to be able to offer a refund for the tickets that you purchased, but what we \
            can do is to offer you a voucher of the same value that can be used at any time within the next 12 months.";
        let good = "At this point, we are not in a position to offer a refund for the tickets you purchased, but we can offer you a voucher of the \
            same value within the next 12 months.";
        let shorter = rewrite(0.2, 0.9, 0.4);
        assert_eq!(shorter.check(input, good), Ok(()));
        assert_eq!(shorter.check(input, &good.replace("not ", "")), Err(Refusal::Negations));
        assert_eq!(shorter.check(input, &good.replace("12", "24")), Err(Refusal::Numbers));
        assert_eq!(shorter.check(input, "We do not know within 12."), Err(Refusal::Length));
        assert_eq!(
            shorter.check(input, "Nothing is on sale in the theatre, and plays begin in autumn or 12."),
            Err(Refusal::Lost)
        );
        assert_eq!(shorter.check(input, input), Err(Refusal::Length));
        let formal = rewrite(0.6, 2.0, 0.6);
        assert_eq!(
            formal.check(
                "Can't make it Friday, my kid's sick. Can we do Monday instead?",
                "I am unable to fulfill the request for Monday."
            ),
            Err(Refusal::Lost)
        );
        assert_eq!(formal.check("Fix the invoice.", "Kindly fix the wrong invoice soon."), Err(Refusal::New));
    }

    #[test]
    fn similarity_is_that_of_matching_blocks() {
        assert_eq!(similarity("a b c d", "A, b c d!"), 1.0);
        assert_eq!(similarity("a b c d", "w x y z"), 0.0);
        assert_eq!(similarity("a b x c d e", "a b y c d"), 8.0 / 11.0);
        // The longest run wins, though a longer subsequence crosses it.
        assert_eq!(similarity("x y a b c", "a b c x y"), 6.0 / 10.0);
        assert_eq!(similarity("", ""), 1.0);
        assert_eq!(similarity("a", ""), 0.0);
        let long = "word other ".repeat(100_000);
        assert_eq!(similarity(&long, &long), 1.0);
    }

    #[test]
    fn negations_are_counted() {
        assert_eq!(negations("We can't, won’t and dont. Nothing is not no."), 6);
        assert_eq!(negations("The plant went on; a note, nine knots."), 0);
    }
}
