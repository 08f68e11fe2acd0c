//! The evaluation set of the starter model, for tests.

use serde::Deserialize;

#[derive(Deserialize)]
pub(crate) struct Set {
    pub(crate) texts: Vec<Text>,
    pub(crate) questions: Vec<Question>,
}

#[derive(Deserialize)]
pub(crate) struct Text {
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) fact_patterns: Vec<String>,
}

#[derive(Deserialize)]
pub(crate) struct Question {
    pub(crate) text: String,
    pub(crate) q: String,
    pub(crate) answer: Option<String>,
}

pub(crate) fn load() -> Set {
    serde_json::from_str(include_str!("../../../../tests/golden/starter/eval.json")).unwrap()
}

/// A page of at least `words` words with hardly a sentence twice.
pub(crate) fn long_page(words: usize) -> String {
    let set = load();
    let mut page = String::new();
    let mut have = 0;
    for round in 0.. {
        for text in &set.texts {
            // A new figure in every sentence keeps the copies apart.
            page += &text.text.replace(". ", &format!(" {round}. "));
            page += "\n\n";
            have += text.text.split_whitespace().count();
            if have >= words {
                return page;
            }
        }
    }
    page
}
