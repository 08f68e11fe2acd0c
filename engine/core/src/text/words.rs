//! Words, content words and terms, in any language.
//!
//! A term is a content word in lower case with its commonest endings cut. Chinese, Japanese, Thai and their like have no spaces:
//! there a term is a pair of neighbouring characters. The rules for English are those that the starter's recipes were measured with.

use std::collections::{HashMap, HashSet};

use unicode_segmentation::UnicodeSegmentation;

/// The words of English that say nothing about the subject.
const ENGLISH: &str = "a an the of to in on at for and or but is are was were be been it its this that these those with as by from which who whom what \
    how much many when where why does do did than then there their his her he she they them not no so if has have had can could will would may might \
    must about into over more most other some such only also very one two up out after before between during each both";

/// The same for other languages, by the three-letter code of ISO 639-3.
const OTHERS: [(&str, &str); 11] = [
    (
        "deu",
        "der die das den dem des ein eine einer eines einem einen und oder aber ist sind war waren wird werden wurde wurden hat haben hatte nicht \
        auch auf aus bei bis durch für gegen im in mit nach noch nur ob ohne sehr sich sie so um unter von vor was wer wie wo wann warum zu zum zur \
        über er es ich wir ihr als am an dass man mehr kann können soll welche welcher welches dies diese dieser dieses sein seine ihre",
    ),
    (
        "fra",
        "le la les l un une des du de d et ou mais est sont était être a ont avait ne pas plus dans en au aux par pour sur avec sans sous ce cet \
        cette ces que qui quoi quel quelle quels quelles où quand comment pourquoi il elle ils elles on nous vous je se sa son ses leur leurs qu n s y \
        comme aussi très tout tous si",
    ),
    (
        "spa",
        "el la los las un una unos unas de del al a y o u pero es son era fue ser está no sí más en por para con sin sobre entre que quien quién \
        qué cuál cómo cuándo dónde cuánto se su sus lo le les como también muy todo todos ha han había este esta estos estas ese esa si ya",
    ),
    (
        "ita",
        "il lo la i gli le l un uno una di del della dei delle dello degli da dal dalla a al alla ai e ed o ma è sono era essere non più in nel \
        nella nei con per su tra fra che chi cosa quale come quando dove perché si suo sua suoi loro anche molto questo questa questi ha hanno aveva",
    ),
    (
        "por",
        "o a os as um uma de do da dos das no na nos nas ao à e ou mas é são era foi ser não mais em por para com sem sobre entre que quem qual \
        como quando onde porque se seu sua seus suas também muito este esta isso ele ela eles há tem",
    ),
    (
        "nld",
        "de het een en of maar is zijn was waren wordt worden werd niet ook op in aan met van voor naar bij uit door over om te tot als dan dat die \
        dit deze er wie wat hoe waar wanneer waarom hij zij ze we ik je meer heeft hebben had kan kunnen zich nog",
    ),
    (
        "swe",
        "en ett den det de och eller men är var vara blir inte även på i av med till från för om som att vid under över vem vad hur när var varför \
        han hon de vi jag sig sin sitt sina har hade kan mer än",
    ),
    (
        "dan",
        "en et den det de og eller men er var være bliver ikke også på i af med til fra for om som at ved under over hvem hvad hvordan hvornår hvor \
        hvorfor han hun vi jeg sig sin har havde kan mere end",
    ),
    (
        "nob",
        "en et ei den det de og eller men er var være blir ikke også på i av med til fra for om som at ved under over hvem hva hvordan når hvor \
        hvorfor han hun vi jeg seg sin har hadde kan mer enn",
    ),
    (
        "pol",
        "i a o w z ze na do od za po przez dla nie tak że to ten ta te jest są był była było być się jak kiedy gdzie kto co czy który która które \
        ale lub oraz jego jej ich u przy nad pod już tylko może",
    ),
    (
        "rus",
        "и в во не на с со что как а то он она они мы вы я его ее её их но да по из за у от к о об для при это этот эта эти был была было были \
        быть есть или если же бы так уже только кто где когда почему который которая которые чем до",
    ),
];

/// How a text's words become terms.
#[derive(Debug, Clone)]
pub struct Terms {
    stop: Option<HashSet<&'static str>>,
    english: bool,
    characters: bool,
}

impl Terms {
    /// Rules for a language by its three-letter code; without a list of its own, words of one or two letters are
    /// left out (in Korean of one).
    pub fn of(language: Option<&str>) -> Self {
        let list = match language {
            None | Some("eng") => Some(ENGLISH),
            Some(code) => OTHERS.iter().find(|l| l.0 == code).map(|l| l.1),
        };
        let stop = list.map(|list| list.split_whitespace().collect());
        Self { stop, english: matches!(language, None | Some("eng")), characters: false }
    }

    /// Makes single Han characters terms too: right for finding, where a question and its answer seldom share a pair.
    pub fn with_characters(self) -> Self {
        Self { characters: true, ..self }
    }

    /// Calls `found` with each term of `text`, in order.
    pub fn each(&self, text: &str, mut found: impl FnMut(&str)) {
        let mut cut = String::new();
        let mut unspaced: Option<(usize, &str)> = None;
        each_word(text, |at, word| {
            let first = word.chars().next().unwrap_or(' ');
            if is_unspaced(first) {
                if self.characters && is_han(first) && !HAN_GRAMMAR.contains(first) {
                    found(word);
                }
                if let Some((before, previous)) = unspaced
                    && before + previous.len() == at
                    && !(is_grammar(previous) && is_grammar(word))
                {
                    cut.clear();
                    cut.push_str(previous);
                    cut.push_str(word);
                    found(&cut);
                }
                unspaced = Some((at, word));
                return;
            }
            cut.clear();
            for c in word.chars() {
                cut.extend(c.to_lowercase());
            }
            let is_stop = match &self.stop {
                Some(stop) => stop.contains(cut.as_str()),
                None => {
                    let shortest = if ('\u{AC00}'..='\u{D7A3}').contains(&first) { 2 } else { 3 };
                    cut.chars().take(shortest).count() < shortest && !first.is_numeric()
                }
            };
            if !is_stop {
                found(self.stem(&cut));
            }
        });
    }

    /// The terms of `text`.
    pub fn list(&self, text: &str) -> Vec<String> {
        let mut out = Vec::new();
        self.each(text, |term| out.push(term.to_owned()));
        out
    }

    fn stem<'a>(&self, word: &'a str) -> &'a str {
        let (endings, keep): (&[&str], usize) = if self.english {
            (&["ings", "ing", "edly", "ed", "es", "s", "ly"], 3)
        } else {
            (
                &[
                    "en", "es", "er", "em", "os", "as", "e", "n", "s", "o", "a", "i", "y", "ы", "и", "а", "я", "у",
                    "е", "о",
                ],
                4,
            )
        };
        for ending in endings {
            if let Some(stem) = word.strip_suffix(ending)
                && stem.chars().take(keep).count() >= keep
            {
                return stem;
            }
        }
        word
    }
}

/// Term numbers, given out in order of appearance.
#[derive(Debug, Default)]
pub struct Vocabulary {
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    /// The number of `term`, a new one if it is unknown.
    pub fn id(&mut self, term: &str) -> u32 {
        match self.ids.get(term) {
            Some(&id) => id,
            None => {
                let id = self.ids.len() as u32;
                self.ids.insert(term.to_owned(), id);
                id
            }
        }
    }

    /// The number of `term`, if it has one.
    pub fn get(&self, term: &str) -> Option<u32> {
        self.ids.get(term).copied()
    }

    /// How many terms there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True while there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// Calls `found` with the byte offset and text of each word; parts of "don't" and "3.5" are words of their own.
pub fn each_word<'a>(text: &'a str, mut found: impl FnMut(usize, &'a str)) {
    let mut parts = |at: usize, word: &'a str| {
        let mut start = at;
        for part in word.split(|c: char| (c.is_ascii() && !c.is_ascii_alphanumeric()) || c == '’') {
            if !part.is_empty() {
                found(start, part);
            }
            start = at + (part.as_ptr() as usize - word.as_ptr() as usize) + part.len() + separator_len(word, part);
        }
    };
    if text.is_ascii() {
        // No rule of Unicode joins ASCII letters across anything but these separators.
        parts(0, text);
    } else {
        for (at, word) in text.unicode_word_indices() {
            parts(at, word);
        }
    }
}

/// The share of words that are among the commonest of English; two fifths in ordinary prose.
pub fn english_share(text: &str) -> f64 {
    let common: HashSet<&str> = ENGLISH.split_whitespace().collect();
    let (mut hits, mut all) = (0, 0);
    each_word(text, |_, word| {
        all += 1;
        if word.len() < 8 && common.contains(word.to_lowercase().as_str()) {
            hits += 1;
        }
    });
    f64::from(hits) / f64::from(all.max(1))
}

/// Bytes of the separator that follows `part` inside `word`.
fn separator_len(word: &str, part: &str) -> usize {
    let end = part.as_ptr() as usize - word.as_ptr() as usize + part.len();
    word[end..].chars().next().map_or(0, char::len_utf8)
}

/// Counts words as a reader does: runs between spaces, and half the characters where there are no spaces.
pub fn count_words(text: &str) -> usize {
    let (mut words, mut characters, mut inside) = (0usize, 0usize, false);
    for c in text.chars() {
        let unspaced = is_unspaced(c);
        if unspaced {
            characters += 1;
        }
        let part = !c.is_whitespace() && !unspaced && (inside || c.is_alphanumeric());
        if part && !inside {
            words += 1;
        }
        inside = part;
    }
    words + characters.div_ceil(2)
}

/// True for letters of scripts that are written without spaces between words.
pub fn is_unspaced(c: char) -> bool {
    matches!(c as u32,
        0x0E00..=0x0EFF | 0x1000..=0x109F | 0x1780..=0x17FF  // Thai, Lao, Myanmar, Khmer
        | 0x3041..=0x30FF | 0x31F0..=0x31FF                  // kana
        | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

fn is_han(c: char) -> bool {
    matches!(c as u32, 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

/// Han characters that say nothing about the subject, alone or paired with one another.
const HAN_GRAMMAR: &str = "的了是在和有我你他她它这那不就也都而及与着或什么时候怎哪谁为何吗呢吧们个一這與為麼個們誰嗎";

/// True for Hiragana and empty Han characters: a pair of them is grammar more often than meaning.
fn is_grammar(word: &str) -> bool {
    word.chars().all(|c| ('\u{3041}'..='\u{309F}').contains(&c) || HAN_GRAMMAR.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn english_terms_are_cut_as_measured() {
        let terms = Terms::of(Some("eng"));
        assert_eq!(
            terms.list("The Wikis' meetings didn't settle 3.5 things (libjpeg-turbo)"),
            ["wiki", "meet", "didn", "t", "settle", "3", "5", "thing", "libjpeg", "turbo"]
        );
        // The same words beside a character outside of ASCII.
        assert_eq!(terms.list("“Don’t” walked 3.5 km — quickly"), ["don", "t", "walk", "3", "5", "km", "quick"]);
    }

    #[test]
    fn other_languages_have_terms() {
        assert_eq!(Terms::of(Some("deu")).list("Die Brücken über den Fluss"), ["brück", "flus"]);
        assert_eq!(Terms::of(Some("cmn")).list("大桥将关闭。桥"), ["大桥", "桥将", "将关", "关闭"]);
        assert_eq!(Terms::of(Some("cmn")).with_characters().list("这是大桥"), ["大", "是大", "桥", "大桥"]);
        assert_eq!(Terms::of(Some("jpn")).list("橋は閉じる"), ["橋は", "は閉", "閉じ"]);
        assert_eq!(Terms::of(Some("kor")).list("오래된 다리를 닫는다"), ["오래된", "다리를", "닫는다"]);
        assert_eq!(Terms::of(Some("arb")).list("أغلقت المدينة الجسر في 2029"), ["أغلقت", "المدينة", "الجسر", "2029"]);
        // A virama or vowel sign does not cut a word.
        assert_eq!(Terms::of(Some("hin")).list("पुराना हिन्दी"), ["पुराना", "हिन्दी"]);
    }

    #[test]
    fn offsets_point_at_the_words() {
        for text in ["it's 3.5 km, isn’t it", "plain ascii, it's 1,000", "日本語 text"] {
            let mut n = 0;
            each_word(text, |at, word| {
                assert_eq!(&text[at..at + word.len()], word);
                n += 1;
            });
            assert!(n > 3);
        }
    }

    #[test]
    fn words_are_counted_as_readers_do() {
        assert_eq!(count_words("One two — three, 4.5 (six)!"), 5);
        assert_eq!(count_words("大桥将于明年关闭。"), 4);
        assert_eq!(count_words(" \n "), 0);
    }
}
