//! Carries out a request: the page's own sentences at once, then what the model writes. What is asked of the model, and
//! what its writing must pass, is the plan of its entry; nothing here decides it.

use std::rc::Rc;

use sotto_core::Error;
use sotto_core::cpu::CpuPath;
use sotto_core::generate::Progress;
use sotto_core::model::Model;
use sotto_core::recipes::{Action, Attempt, DraftStep, ModelEntry, Plan, Style, Subject, Turn, Verdict, replace_all};
use sotto_core::text::words::count_words;
use sotto_core::text::{draft, utf16_ranges};
use sotto_core::tokenizer::ChatFormat;

use crate::browser::{Pause, now, random_seed};
use crate::host::{Host, Preference};
use crate::hub::Job;
use crate::protocol::{Event, Failure, FailureCode, Passage, RewriteStyle, SourceKind, Stats, Task};
use crate::session::Shared;

/// Text is sent at most this often: faster than an eye reads, slower than a page repaints.
const TEXT_EVERY_MS: f64 = 25.0;
/// Devices that a request may lose and go on with another.
const MOST_RESTARTS: u32 = 2;
/// Progress is sent at most this often.
const PROGRESS_EVERY_MS: f64 = 100.0;

fn action(task: &Task) -> Action {
    match task {
        Task::Summarize => Action::Summarize,
        Task::Explain => Action::Explain,
        Task::Question { question } => Action::Question(question.clone()),
        Task::Rewrite { style } => Action::Rewrite(match style {
            RewriteStyle::Clearer => Style::Clearer,
            RewriteStyle::Shorter => Style::Shorter,
            RewriteStyle::Formal => Style::Formal,
            RewriteStyle::Friendly => Style::Friendly,
            RewriteStyle::FixGrammar => Style::FixGrammar,
        }),
    }
}

/// How turns are laid out: the entry's way, else that of the model's own files.
pub(crate) fn chat(entry: &ModelEntry, model: &Model) -> sotto_core::Result<ChatFormat> {
    if entry.chat.is_empty() { model.chat_format() } else { ChatFormat::named(&entry.chat) }
}

/// Answers a request up to its terminal event; an error is that event's content.
pub(crate) async fn run(shared: &Rc<Shared>, job: Job) -> Result<(), Failure> {
    let started = now();
    loop {
        let reason = match round(shared, &job, started).await {
            Ok(()) => return Ok(()),
            Err(Broken::Request(reason)) => return Err(reason),
            Err(Broken::Model(reason)) => reason,
        };
        let Some(text) = shared.fall_back(&reason) else { return Err(reason) };
        // What the other model wrote does not belong to the answer that follows.
        shared.event(&job.request, Event::Rewritten { text: String::new() });
        shared.event(&job.request, Event::Notice { text });
    }
}

/// Why an answer broke off.
enum Broken {
    /// This request cannot be answered.
    Request(Failure),
    /// The model cannot answer any; it is unloaded.
    Model(Failure),
}

/// Answers with the model that is current.
async fn round(shared: &Rc<Shared>, job: &Job, started: f64) -> Result<(), Broken> {
    let text = &job.source.text;
    let subject = Subject {
        text,
        title: &job.source.title,
        lang: &job.source.lang,
        is_page: job.source.kind == SourceKind::Page,
    };
    let history: Vec<Turn> =
        job.turns.iter().map(|t| Turn { action: action(&t.task), answer: t.answer.clone() }).collect();
    let entry = shared.entry();
    let mut plan = entry.plan(&action(&job.task), subject, &history);
    if let Some(passages) = &plan.passages {
        let units = utf16_ranges(text, &passages.ranges);
        let items = passages.ranges.iter().zip(units).map(|(bytes, units)| Passage {
            text: text.get(bytes.clone()).unwrap_or_default().to_owned(),
            start: units.start as u32,
            end: units.end as u32,
        });
        let event = Event::Passages { label: passages.label.to_owned(), items: items.collect(), note: String::new() };
        shared.event(&job.request, event);
    }
    let tell = |plan: &Plan| {
        for notice in &plan.notices {
            shared.event(&job.request, Event::Notice { text: notice.clone() });
        }
    };
    if plan.drafts.is_empty() {
        tell(&plan);
        shared.event(&job.request, Event::Done { stats: Stats::default() });
        return Ok(());
    }
    if !plan.leads {
        tell(&plan);
    }
    let mut host = shared.take_host().await.map_err(Broken::Model)?;
    if shared.should_stop(&job.request) {
        shared.return_host(host);
        shared.event(&job.request, Event::Stopped { stats: Stats::default() });
        return Ok(());
    }
    if plan.leads {
        let tokens =
            |attempt: &Attempt| Ok(draft::prompt(attempt, &chat(&entry, &host.model)?, &host.model.tokenizer)?.len());
        let context = host.generator.context();
        match entry.plan_within(&action(&job.task), subject, &history, context, &tokens) {
            Ok(fitting) => plan = fitting,
            Err(error) => {
                shared.return_host(host);
                return Err(Broken::Request(could_not_go_on(&entry, &error)));
            }
        }
        tell(&plan);
    }
    let mut writer = Writer::new(shared, &entry, job, &mut host, started);
    let result = writer.write(&plan).await;
    let stats = writer.stats();
    let lost = writer.lost;
    if lost || matches!(result, Err(Error::Unread { .. })) {
        // Its device is gone and could not be had again; or its file, which the next request opens anew.
        drop(host);
        shared.unloaded();
    } else {
        shared.return_host(host);
    }
    match result {
        Ok(end) => end.map(|end| shared.event(&job.request, end(stats))).map_err(Broken::Request),
        Err(error) if lost => Err(Broken::Model(Failure {
            code: FailureCode::DeviceFailed,
            message: format!("{} could not go on: {error}.", entry.name),
            next_step: "Try again; if it stays so, restart the browser.".to_owned(),
        })),
        Err(error) => Err(Broken::Request(could_not_go_on(&entry, &error))),
    }
}

fn could_not_go_on(entry: &ModelEntry, error: &Error) -> Failure {
    let code = match error {
        Error::Unread { .. } => return unread(entry, error),
        Error::ContextFull { .. } => FailureCode::TooLong,
        _ => FailureCode::ModelFailed,
    };
    Failure {
        code,
        message: format!("The model could not go on: {error}."),
        next_step: "Try again with a shorter text.".to_owned(),
    }
}

/// A model's file could not be read, which is an [`Error::Unread`].
pub(crate) fn unread(entry: &ModelEntry, error: &Error) -> Failure {
    Failure {
        code: FailureCode::StorageFailed,
        message: format!("The file of {} on this computer could not be read ({error}).", entry.name),
        next_step:
            "Try again; if it stays so, check the model on the models page: only what is damaged is fetched again."
                .to_owned(),
    }
}

/// A request's terminal event, given its numbers.
type End = fn(Stats) -> Event;

/// Lets a model write, and sends what it writes.
struct Writer<'a> {
    shared: &'a Rc<Shared>,
    entry: &'a ModelEntry,
    job: &'a Job,
    host: &'a mut Host,
    /// Devices lost on the way, and whether the last one could not be replaced.
    losses: u32,
    lost: bool,
    pause: Pause,
    started: f64,
    /// When the first text of the model's was there.
    first_text: Option<f64>,
    /// Milliseconds of decoding, and tokens decoded in them.
    decode_ms: f64,
    written: u32,
    read: u32,
    /// Text not sent yet, and when text was sent last.
    unsent: String,
    sent: f64,
    told: f64,
}

/// An attempt's output.
struct Output {
    text: String,
    /// False when it was cut off by the token limit.
    ended: bool,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Rc<Shared>, entry: &'a ModelEntry, job: &'a Job, host: &'a mut Host, started: f64) -> Self {
        Self {
            shared,
            entry,
            job,
            host,
            losses: 0,
            lost: false,
            pause: Pause::new(),
            started,
            first_text: None,
            decode_ms: 0.0,
            written: 0,
            read: 0,
            unsent: String::new(),
            sent: 0.0,
            told: 0.0,
        }
    }

    fn event(&self, event: Event) {
        self.shared.event(&self.job.request, event);
    }

    fn say(&mut self, text: &str) {
        self.first_text.get_or_insert_with(now);
        self.unsent.push_str(text);
        if now() - self.sent >= TEXT_EVERY_MS {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.unsent.is_empty() {
            self.sent = now();
            let text = core::mem::take(&mut self.unsent);
            self.event(Event::Text { text });
        }
    }

    fn stats(&self) -> Stats {
        let rate = if self.decode_ms > 0.0 { f64::from(self.written) / self.decode_ms * 1000.0 } else { 0.0 };
        Stats {
            model: self.entry.name.clone(),
            device: self.host.device.name.clone(),
            prompt_tokens: self.read,
            written_tokens: self.written,
            tokens_per_second: rate as f32,
            first_text_seconds: self.first_text.map_or(0.0, |at| ((at - self.started) / 1000.0) as f32),
            context_used: self.host.generator.used() as u32,
            context_size: self.host.generator.context() as u32,
        }
    }

    /// Carries out a plan's drafts, and answers how the request ends.
    async fn write(&mut self, plan: &Plan) -> sotto_core::Result<Result<End, Failure>> {
        self.event(Event::Writing { label: plan.label.clone() });
        let mut results = Vec::new();
        let (mut shown, mut refused, mut unchanged) = (0, 0, 0);
        for step in &plan.drafts {
            let Some(verdict) = self.step(step).await? else {
                self.send();
                return Ok(Ok(|stats| Event::Stopped { stats }));
            };
            match (verdict, &step.replaces) {
                (Verdict::Show(text), Some(range)) => {
                    results.push((range.clone(), text));
                    shown = self.show_replaced(&results, range.end, shown);
                }
                (Verdict::Show(text), None) if step.waits() => self.say(&text),
                (Verdict::Show(_), None) => {}
                (verdict, range) => {
                    if verdict == Verdict::Unchanged {
                        unchanged += 1;
                    } else {
                        refused += 1;
                    }
                    if let Some(range) = range.as_ref().filter(|_| !results.is_empty()) {
                        shown = self.show_replaced(&results, range.end, shown);
                    }
                }
            }
        }
        if !results.is_empty() {
            self.show_replaced(&results, self.job.source.text.len(), shown);
        }
        self.send();
        if unchanged == plan.drafts.len() {
            let text = self.entry.unchanged();
            self.event(Event::Notice { text });
        }
        if refused > 0 && refused + unchanged == plan.drafts.len() {
            let message = self.entry.refusal();
            let (what, next) = message.split_once(". ").unwrap_or((&message, "Try a shorter piece."));
            let next_step = next.to_owned();
            return Ok(Err(Failure { code: FailureCode::Unreliable, message: format!("{what}."), next_step }));
        }
        if refused > 0 {
            let text = self.entry.partly(refused, plan.drafts.len());
            self.event(Event::Notice { text });
        }
        Ok(Ok(|stats| Event::Done { stats }))
    }

    /// Sends the source's text up to byte `end` with the results in place, less the `shown` bytes that were sent before.
    fn show_replaced(&mut self, results: &[(core::ops::Range<usize>, String)], end: usize, shown: usize) -> usize {
        let head = self.job.source.text.get(..end).unwrap_or_default();
        let whole = replace_all(head, results);
        if let Some(more) = whole.get(shown..) {
            self.say(more);
        }
        whole.len()
    }

    /// Tries a step's attempts in turn, and answers the last one's verdict; `None` when the user stopped it.
    async fn step(&mut self, step: &DraftStep) -> sotto_core::Result<Option<Verdict>> {
        for (number, attempt) in step.attempts.iter().enumerate() {
            let streams = !step.waits();
            let Some(output) = self.attempt(attempt, streams).await? else { return Ok(None) };
            let verdict = step.judge(number, &output.text, output.ended);
            if streams {
                self.send();
                match &verdict {
                    Verdict::Show(text) if *text == output.text => {}
                    Verdict::Show(text) => self.event(Event::Rewritten { text: text.clone() }),
                    _ => self.event(Event::Rewritten { text: String::new() }),
                }
            }
            if verdict != Verdict::TryNext {
                return Ok(Some(verdict));
            }
        }
        Ok(Some(Verdict::Refuse))
    }

    /// Generates one attempt's output, the seed in front; `None` when the user stopped it.
    async fn attempt(&mut self, attempt: &Attempt, streams: bool) -> sotto_core::Result<Option<Output>> {
        let prompt = draft::prompt(attempt, &self.chat()?, &self.host.model.tokenizer)?;
        let (stop_ids, host) = (self.stop_ids()?, &self.host);
        // Another try is another answer, where the recipe leaves room for one.
        let mut attempt = attempt.clone();
        if let Some(sampler) = attempt.options.sampler.as_mut().filter(|s| s.temperature > 0.0) {
            sampler.seed = random_seed();
        }
        let mut writer = draft::Writer::new(&attempt, &host.model.tokenizer, &stop_ids, &|| host.guard_tables())?;
        let words: usize = attempt.messages.iter().map(|m| count_words(&m.content)).sum();
        let Some(logits) = self.read_prompt(&prompt, words).await? else { return Ok(None) };
        let from = now();
        let is_whole = self.write_on(&mut writer, &prompt, words, logits, streams).await;
        self.host.generator.stop_decoding();
        self.decode_ms += now() - from;
        Ok(is_whole?.then(|| Output { text: writer.text().to_owned(), ended: writer.ended() }))
    }

    /// Writes to the answer's end, from the logits after its prompt; false when the user stopped it.
    async fn write_on(
        &mut self,
        writer: &mut draft::Writer,
        prompt: &[u32],
        words: usize,
        mut logits: Vec<f32>,
        streams: bool,
    ) -> sotto_core::Result<bool> {
        let mut step = writer.step(&mut logits, &self.host.model.tokenizer)?;
        self.start_decoding(writer, &step);
        let mut counted = 0;
        loop {
            self.written += (writer.ids().len() - counted) as u32;
            counted = writer.ids().len();
            if streams {
                self.say(&step.text);
            }
            let Some(id) = step.token else { return Ok(true) };
            self.pause.wait().await;
            if self.shared.should_stop(&self.job.request) {
                return Ok(false);
            }
            step = match self.next_step(writer, id).await {
                Err(Error::Gpu(why)) => {
                    self.restart(why).await?;
                    // The draw's state is the writer's, so the answer goes on as it would have.
                    let read = self.read;
                    let all = [prompt, writer.ids()].concat();
                    let Some(mut logits) = self.read_prompt(&all, words).await? else { return Ok(false) };
                    self.read = read;
                    let step = writer.step(&mut logits, &self.host.model.tokenizer)?;
                    self.start_decoding(writer, &step);
                    step
                }
                step => match step? {
                    Some(step) => step,
                    None => return Ok(true),
                },
            };
        }
    }

    /// Leaves what follows a step to the graphics device, if nothing but the sampler has a say in it.
    fn start_decoding(&mut self, writer: &draft::Writer, step: &draft::Step) {
        let generator = &mut self.host.generator;
        if let (Some(id), Some(sampler)) = (step.token, writer.sampler().filter(|s| generator.can_choose(s.options())))
        {
            generator.start_decoding(sampler, id, writer.left());
        }
    }

    /// The step after token `id`; `None` when the context is full.
    async fn next_step(&mut self, writer: &mut draft::Writer, id: u32) -> sotto_core::Result<Option<draft::Step>> {
        let generator = &mut self.host.generator;
        if generator.is_decoding() {
            let id = generator.next_token().await?;
            return Ok(id.map(|id| writer.take(id, &self.host.model.tokenizer)));
        }
        if !generator.accept(id) {
            return Ok(None);
        }
        let mut logits = self.next_logits().await?;
        writer.step(&mut logits, &self.host.model.tokenizer).map(Some)
    }

    fn chat(&self) -> sotto_core::Result<ChatFormat> {
        chat(self.entry, &self.host.model)
    }

    fn stop_ids(&self) -> sotto_core::Result<Vec<u32>> {
        let mut ids = self.chat()?.stop_ids(&self.host.model.tokenizer);
        ids.extend(&self.host.model.eos);
        Ok(ids)
    }

    async fn next_logits(&mut self) -> sotto_core::Result<Vec<f32>> {
        loop {
            if let Progress::Logits(logits) = self.host.generator.advance().await? {
                return Ok(logits);
            }
        }
    }

    /// Gets the model back after its device failed: on a graphics device again, and when that failed too often on the CPU.
    async fn restart(&mut self, why: String) -> sotto_core::Result<()> {
        self.send();
        self.losses += 1;
        let preference = match self.losses {
            ..=MOST_RESTARTS => Preference::Best,
            _ => Preference::Cpu(CpuPath::Fast),
        };
        let was = self.host.device.name.clone();
        let restarted = match preference {
            Preference::Cpu(_) => {
                self.host.fits_cpu().map_err(|slow| Error::Gpu(format!("{why}. {}", slow.trim_end_matches('.'))))
            }
            _ => Ok(()),
        };
        let mut progress = self.shared.progress(self.host.bytes());
        let restarted = match restarted {
            Ok(()) => self.host.restart(preference, &mut progress).await,
            error => error,
        };
        self.lost = restarted.is_err();
        restarted?;
        self.shared.ready(self.host);
        if self.host.device.name != was {
            let text =
                format!("The graphics device failed: {}. The answer goes on, on the {}.", why, self.host.device.name);
            self.event(Event::Notice { text });
        }
        Ok(())
    }

    /// Reads the prompt and tells how far it is, over lost devices if need be; `None` when the user stopped it.
    async fn read_prompt(&mut self, prompt: &[u32], words: usize) -> sotto_core::Result<Option<Vec<f32>>> {
        loop {
            match self.try_prompt(prompt, words).await {
                Err(Error::Gpu(why)) => self.restart(why).await?,
                read => return read,
            }
        }
    }

    async fn try_prompt(&mut self, prompt: &[u32], words: usize) -> sotto_core::Result<Option<Vec<f32>>> {
        let total = self.host.generator.start(prompt)?;
        let from = now();
        self.reading(0, total, prompt.len(), words, from);
        loop {
            self.pause.wait().await;
            if self.shared.should_stop(&self.job.request) {
                return Ok(None);
            }
            match self.host.generator.advance().await? {
                Progress::Read { left } => {
                    if now() - self.told >= PROGRESS_EVERY_MS {
                        self.reading(total - left, total, prompt.len(), words, from);
                    }
                }
                Progress::Logits(logits) => {
                    self.read += total as u32;
                    return Ok(Some(logits));
                }
            }
        }
    }

    /// Says how many words are read: what was cached counts as read, and time left follows the rate so far.
    fn reading(&mut self, done: usize, total: usize, prompt: usize, words: usize, from: f64) {
        self.told = now();
        let cached = prompt - total;
        let seconds_left = (done > 0).then(|| ((now() - from) / done as f64 * (total - done) as f64 / 1000.0) as f32);
        self.event(Event::Reading {
            done_words: (words * (cached + done) / prompt.max(1)) as u32,
            total_words: words as u32,
            seconds_left,
        });
    }
}
