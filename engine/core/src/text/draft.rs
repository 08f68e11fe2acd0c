//! Writes one attempt of a recipe, token by token: from logits to text, with everything the recipe asks for in between.

use std::sync::Arc;

use super::guard::{Guard, GuardTables, NoRepeat, SourceBoost};
use crate::{
    Result,
    recipes::{Attempt, DraftOptions},
    sampler::{Generated, LogitsProcessor, Sampler},
    tokenizer::{ChatFormat, Detokenizer, Tokenizer, ToolCall, VisibleText},
};

/// The prompt of an attempt as ids, up to where the model goes on: its turns, and the seed of its answer.
pub fn prompt(attempt: &Attempt, chat: &ChatFormat, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    chat.render_reply(tokenizer, &attempt.messages, &attempt.seed)
}

/// What one step of a [`Writer`] brought.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The token to run the model on next; `None` at the end.
    pub token: Option<u32>,
    /// Text that became complete, often none. The first step brings the seed as well.
    pub text: String,
    /// Tool calls that became complete. No tool is offered, so there is nobody to carry them out.
    pub calls: Vec<Result<ToolCall>>,
}

/// One answer while it is written.
pub struct Writer {
    options: DraftOptions,
    processors: Vec<Box<dyn LogitsProcessor>>,
    sampler: Sampler,
    visible: VisibleText,
    stop_ids: Vec<u32>,
    ids: Vec<u32>,
    text: String,
    shown: usize,
    ended: bool,
}

impl Writer {
    /// Prepares an answer. `stop_ids` end it; `tables` are the vocabulary's, made once per model and only for an attempt with a guard:
    /// of a large vocabulary they take tens of megabytes.
    pub fn new(
        attempt: &Attempt,
        tokenizer: &Tokenizer,
        stop_ids: &[u32],
        tables: &dyn Fn() -> Arc<GuardTables>,
    ) -> Result<Self> {
        let options = attempt.options.clone();
        let mut processors: Vec<Box<dyn LogitsProcessor>> = Vec::new();
        if options.boost != 0.0 {
            processors.push(Box::new(SourceBoost::new(tokenizer, &attempt.guard_source, options.boost)));
        }
        if options.ngram > 0 {
            processors.push(Box::new(NoRepeat { n: options.ngram }));
        }
        if options.guard {
            processors.push(Box::new(Guard::new(tables(), &attempt.guard_source)));
        }
        let sampler = Sampler::new(options.sampler.clone().unwrap_or_default())?;
        // After a seed, or a prompt, a leading space is text.
        let detokenizer =
            if attempt.seed.is_empty() { Detokenizer::new(tokenizer, true) } else { Detokenizer::continuing(true) };
        let visible = VisibleText::new(tokenizer, detokenizer);
        let (stop_ids, text) = (stop_ids.to_vec(), attempt.seed.clone());
        Ok(Self { options, processors, sampler, visible, stop_ids, ids: Vec::new(), text, shown: 0, ended: false })
    }

    /// Takes the logits after the last token, `[vocab]`, and chooses the next one.
    ///
    /// The repetition penalty counts the answer alone: counting the prompt drives a model away from its source.
    pub fn step(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Result<Step> {
        if self.ended || self.left() == 0 {
            return Ok(self.end());
        }
        for processor in &mut self.processors {
            processor.process(logits, Generated { ids: &self.ids, text: &self.text });
        }
        let id = self.sampler.sample(logits, &self.ids)?;
        Ok(self.push(id, tokenizer))
    }

    /// Takes a token that a device chose as [`Self::sampler`] would have.
    pub fn take(&mut self, id: u32, tokenizer: &Tokenizer) -> Step {
        self.sampler.skip();
        self.push(id, tokenizer)
    }

    /// What chooses the tokens, when nothing else has a say in it.
    pub fn sampler(&self) -> Option<&Sampler> {
        self.processors.is_empty().then_some(&self.sampler)
    }

    /// Tokens that may still be chosen.
    pub fn left(&self) -> usize {
        (self.options.max_tokens as usize).saturating_sub(self.ids.len())
    }

    fn push(&mut self, id: u32, tokenizer: &Tokenizer) -> Step {
        if self.stop_ids.contains(&id) {
            self.ended = true;
            return self.end();
        }
        self.ids.push(id);
        self.text.push_str(&self.visible.push(tokenizer, id));
        self.ended = self.options.stop.ends(&self.text);
        if self.ended || self.left() == 0 { self.end() } else { self.said(Some(id)) }
    }

    /// The answer so far, the seed in front.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The tokens chosen so far.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// True if the model or the stop rule ended it, and not the token limit or the user.
    pub fn ended(&self) -> bool {
        self.ended
    }

    fn end(&mut self) -> Step {
        self.text.push_str(&self.visible.flush());
        self.said(None)
    }

    fn said(&mut self, token: Option<u32>) -> Step {
        let text = self.text[self.shown..].to_owned();
        self.shown = self.text.len();
        Step { token, text, calls: self.visible.take_calls() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        recipes::{Action, ModelEntry, Subject, Verdict},
        tokenizer::{GgufTokenizer, Message, Role},
    };

    /// Words of byte-level BPE, where Ġ is a space and Ċ a line end; the last four are control tokens.
    const TOKENS: [&str; 14] = [
        "It",
        "Ġcost",
        "Ġ",
        "4",
        "2",
        ".",
        "ĠBob",
        "ĠElena",
        "Ċ",
        "Ġit",
        "<|im_start|>",
        "<|im_end|>",
        "<|channel>",
        "<channel|>",
    ];

    fn tokenizer() -> Tokenizer {
        let kinds: Vec<i32> = TOKENS.iter().map(|t| if t.starts_with('<') { 3 } else { 1 }).collect();
        let keys =
            GgufTokenizer { model: "gpt2", pre: Some("smollm"), token_types: &kinds, ..GgufTokenizer::default() };
        Tokenizer::from_gguf(TOKENS.iter().map(|t| t.as_bytes()), [], &keys).expect("it is well formed")
    }

    fn attempt(options: serde_json::Value) -> Attempt {
        let messages = vec![Message { role: Role::User, content: "It".into() }];
        let options = serde_json::from_value(options).expect("they are well formed");
        Attempt { messages, seed: "It".into(), guard_source: "Elena paid 42.".into(), options }
    }

    /// Writes with a model that always prefers these tokens, in this order, and returns ids, shown text and the writer.
    fn write(options: serde_json::Value, wishes: &[&str]) -> (Vec<u32>, String, Writer) {
        let tokenizer = tokenizer();
        let tables = Arc::new(GuardTables::new(&tokenizer));
        let mut writer = Writer::new(&attempt(options), &tokenizer, &[11], &|| Arc::clone(&tables)).unwrap();
        let mut shown = String::new();
        for wish in wishes {
            let mut logits = vec![0.0; TOKENS.len()];
            logits[TOKENS.iter().position(|t| t == wish).unwrap()] = 5.0;
            let step = writer.step(&mut logits, &tokenizer).unwrap();
            shown += &step.text;
            if step.token.is_none() {
                break;
            }
        }
        (writer.ids().to_vec(), shown, writer)
    }

    #[test]
    fn the_answer_streams_after_its_seed() {
        let (ids, shown, writer) =
            write(serde_json::json!({ "maxTokens": 9 }), &["Ġcost", "Ġ", "4", "<|im_end|>", "Ġit"]);
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!((shown.as_str(), writer.text(), writer.ended()), ("It cost 4", "It cost 4", true));
    }

    #[test]
    fn thinking_counts_as_tokens_and_not_as_text() {
        let options = || serde_json::json!({ "maxTokens": 9, "stop": "newline" });
        let (ids, shown, writer) =
            write(options(), &["<|channel>", "Ġcost", "Ċ", "4", "<channel|>", "Ġcost", "Ġ", "2", "<|im_end|>"]);
        assert_eq!((ids.len(), shown.as_str(), writer.text()), (8, "It cost 2", "It cost 2"));
        let (_, shown, writer) = write(serde_json::json!({ "maxTokens": 3 }), &["<|channel>", "Ġcost", "4", "2"]);
        assert_eq!((shown.as_str(), writer.ended()), ("It", false), "cut off while thinking");
    }

    #[test]
    fn the_token_limit_and_the_stop_rule_end_it() {
        let (ids, shown, writer) = write(serde_json::json!({ "maxTokens": 2 }), &["Ġcost", "Ġ", "4"]);
        assert_eq!((ids.len(), shown.as_str(), writer.ended()), (2, "It cost ", false));
        let (_, shown, writer) = write(serde_json::json!({ "maxTokens": 9, "stop": "newline" }), &["Ġcost", "Ċ", "4"]);
        assert_eq!((shown.as_str(), writer.ended()), ("It cost\n", true));
        let rule = serde_json::json!({ "maxTokens": 9, "stop": { "sentences": 1 } });
        let (_, shown, writer) = write(rule, &["Ġcost", ".", "Ġit"]);
        assert_eq!((shown.as_str(), writer.ended()), ("It cost.", true));
    }

    #[test]
    fn guard_boost_and_ban_are_applied() {
        let (ids, _, _) = write(serde_json::json!({ "maxTokens": 9, "guard": true }), &["Ġcost", "ĠBob"]);
        assert_eq!(ids.len(), 2);
        assert_ne!(ids[1], 6, "Bob is not in the source");
        let (ids, _, _) = write(serde_json::json!({ "maxTokens": 9, "guard": true }), &["Ġcost", "ĠElena"]);
        assert_eq!(ids, [1, 7]);
        // The source holds "." and not " it", so a boost above the wish decides.
        let (ids, _, _) = write(serde_json::json!({ "maxTokens": 9, "boost": 6.0 }), &["Ġit"]);
        assert_ne!(ids, [9]);
        let (ids, _, _) = write(serde_json::json!({ "maxTokens": 9, "ngram": 2 }), &["Ġcost", "Ġit", "Ġcost", "Ġit"]);
        assert_eq!(ids[..3], [1, 9, 1]);
        assert_ne!(ids[3], 9, "the pair came before");
    }

    #[test]
    fn tokens_that_a_device_chose_are_taken_like_its_own() {
        let tokenizer = tokenizer();
        let tables = Arc::new(GuardTables::new(&tokenizer));
        let writer = |options| Writer::new(&attempt(options), &tokenizer, &[11], &|| Arc::clone(&tables)).unwrap();
        let options = serde_json::json!({ "maxTokens": 4, "sampler": { "temperature": 1.0, "topK": 5, "seed": 3 } });
        let (mut own, mut other) = (writer(options.clone()), writer(options));
        for i in 0..4 {
            assert_eq!(other.left(), 4 - i);
            let step = own.step(&mut [0.0; TOKENS.len()], &tokenizer).unwrap();
            assert_eq!(other.take(own.ids()[i], &tokenizer), step);
        }
        let next = |writer: &Writer| writer.sampler().map(|s| s.random().next_u32());
        assert_eq!((next(&other), other.text(), other.left()), (next(&own), own.text(), 0));
        assert!(next(&own).is_some());
        assert_eq!(other.take(11, &tokenizer).token, None);
        assert!(other.ended());
        let guarded = writer(serde_json::json!({ "maxTokens": 4, "guard": true }));
        assert!(guarded.sampler().is_none(), "the guard has a say");
    }

    #[test]
    fn broken_logits_end_with_an_error() {
        let tokenizer = tokenizer();
        let tables = Arc::new(GuardTables::new(&tokenizer));
        let options = serde_json::json!({ "maxTokens": 9, "guard": true, "boost": 1.0 });
        let mut writer = Writer::new(&attempt(options), &tokenizer, &[11], &|| Arc::clone(&tables)).unwrap();
        assert!(writer.step(&mut [f32::NAN; 12], &tokenizer).is_err());
        assert!(writer.step(&mut [], &tokenizer).is_err());
        // Fewer logits than tokens, as of a damaged file: no panic.
        assert!(writer.step(&mut [0.0; 3], &tokenizer).is_ok());
    }

    #[test]
    fn the_prompt_ends_with_the_seed_and_holds_no_control_token_of_the_text() {
        let tokenizer = tokenizer();
        let mut attempt = attempt(serde_json::json!({ "maxTokens": 9 }));
        attempt.messages[0].content = "<|im_end|>4".into();
        attempt.seed = "42".into();
        let chat = ChatFormat::named("chatml").unwrap();
        let ids = prompt(&attempt, &chat, &tokenizer).unwrap();
        assert!(ids.ends_with(&[3, 4]), "{ids:?}");
        assert_eq!(ids.iter().filter(|&&id| id == 11).count(), 1, "the turn's own end alone");
    }

    #[test]
    fn a_plan_can_be_written_and_judged() {
        let subject = Subject { text: "It cost 42.", lang: "en", ..Subject::default() };
        let plan = ModelEntry::starter().unwrap().plan(&Action::Explain, subject, &[]);
        let tokenizer = tokenizer();
        let tables = Arc::new(GuardTables::new(&tokenizer));
        let mut writer = Writer::new(&plan.drafts[0].attempts[0], &tokenizer, &[11], &|| Arc::clone(&tables)).unwrap();
        for wish in [9, 1, 5] {
            let mut logits = vec![0.0; TOKENS.len()];
            logits[wish] = 5.0;
            writer.step(&mut logits, &tokenizer).unwrap();
        }
        let verdict = plan.drafts[0].judge(0, writer.text(), writer.ended());
        assert_eq!(verdict, Verdict::Show("In simple words, it cost.".into()));
    }
}
