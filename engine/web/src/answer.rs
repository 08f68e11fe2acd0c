//! Carries out a request: the page's own sentences at once, then what the model writes.

use std::rc::Rc;

use sotto_core::generate::Progress;
use sotto_core::sampler::{Sampler, SamplerOptions};
use sotto_core::text::{quotes, summary, utf16_ranges};
use sotto_core::tokenizer::{Detokenizer, Message, Role};

use crate::browser::{Pause, now};
use crate::host::Host;
use crate::hub::Job;
use crate::protocol::{Event, Failure, FailureCode, Passage, Stats, Task};
use crate::session::Shared;

/// Answers a request up to its terminal event; an error becomes that event.
pub(crate) async fn run(shared: &Rc<Shared>, job: Job) -> Result<(), Failure> {
    let started = now();
    let text = &job.source.text;
    let (label, ranges) = match &job.task {
        Task::Question { question } => match quotes::closest_passages(question, text, 2) {
            quotes::Closest::Passages(p) => ("Closest passages", p),
            _ => ("Closest passages", vec![]),
        },
        _ => ("Key sentences from this page", summary::key_sentences(text, 3)),
    };
    let units = utf16_ranges(text, &ranges);
    let items = ranges
        .iter()
        .zip(units)
        .map(|(b, u)| Passage { text: text[b.clone()].to_owned(), start: u.start as u32, end: u.end as u32 })
        .collect();
    shared.event(&job.request, Event::Passages { label: label.into(), items, note: String::new() });
    let mut host = shared.take_host().await?;
    let result = draft(shared, &job, &mut host, started).await;
    shared.return_host(host);
    let (stats, stopped) = result.map_err(|e| Failure {
        code: FailureCode::DeviceFailed,
        message: e.to_string(),
        next_step: "Try again.".into(),
    })?;
    shared.event(&job.request, if stopped { Event::Stopped { stats } } else { Event::Done { stats } });
    Ok(())
}

async fn draft(shared: &Rc<Shared>, job: &Job, host: &mut Host, started: f64) -> sotto_core::Result<(Stats, bool)> {
    let content =
        format!("Summarize the following text:\n\n{}", job.source.text.chars().take(2000).collect::<String>());
    let ids =
        host.model.chat_format()?.render(&host.model.tokenizer, &[Message { role: Role::User, content }], true)?;
    let g = &mut host.generator;
    let total = g.start(&ids)?;
    shared.event(&job.request, Event::Writing { label: "Draft by Starter: check it against the page".into() });
    let pause = Pause::new();
    let mut sampler = Sampler::new(SamplerOptions::default())?;
    let mut detok = Detokenizer::new(&host.model.tokenizer, true);
    let mut history = ids.clone();
    let (mut written, mut first) = (0, None);
    let mut stopped = false;
    while written < 90 {
        pause.wait().await;
        if shared.should_stop(&job.request) {
            stopped = true;
            break;
        }
        match g.advance().await? {
            Progress::Read { left } => shared.event(
                &job.request,
                Event::Reading { done_words: (total - left) as u32, total_words: total as u32, seconds_left: None },
            ),
            Progress::Logits(mut logits) => {
                let id = sampler.sample(&mut logits, &history)?;
                if host.model.eos.contains(&id) || !g.accept(id) {
                    break;
                }
                first.get_or_insert_with(now);
                written += 1;
                history.push(id);
                let text = detok.push(&host.model.tokenizer, id);
                if !text.is_empty() {
                    shared.event(&job.request, Event::Text { text });
                }
            }
        }
    }
    let first = first.unwrap_or_else(now);
    Ok((
        Stats {
            model: shared.entry().name.clone(),
            device: host.device.name.clone(),
            prompt_tokens: total as u32,
            written_tokens: written,
            tokens_per_second: (f64::from(written) / (now() - first) * 1000.0) as f32,
            first_text_seconds: ((first - started) / 1000.0) as f32,
            context_used: g.used() as u32,
            context_size: g.context() as u32,
        },
        stopped,
    ))
}
