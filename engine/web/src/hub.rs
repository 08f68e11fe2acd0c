//! Who hears what: requests, their logs, the queue, and the clients that follow them. Pure: no engine, no browser.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::protocol::{EngineState, Event, Failure, FailureCode, FromEngine, Source, Stats, Task, ToEngine};

/// Conversations kept; the one unused longest goes first.
const KEPT_CONVERSATIONS: usize = 24;

/// A message for a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// The client's id.
    pub client: String,
    /// The message.
    pub message: FromEngine,
}

/// A request that is due.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The request.
    pub request: String,
    /// Its conversation.
    pub conversation: String,
    /// What to do.
    pub task: Task,
    /// What with.
    pub source: Source,
    /// Questions and answers before it in the conversation, oldest first.
    pub turns: Vec<Turn>,
}

/// A finished exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// What was asked.
    pub task: Task,
    /// What the model wrote.
    pub answer: String,
}

struct Request {
    conversation: String,
    task: Task,
    source: Source,
    log: Vec<Event>,
    text: String,
    stop: bool,
    ended: bool,
}

#[derive(Default)]
struct Conversation {
    source: Option<Source>,
    requests: Vec<String>,
    used: u64,
}

/// All requests of all clients.
pub struct Hub {
    clients: BTreeMap<String, BTreeSet<String>>,
    conversations: BTreeMap<String, Conversation>,
    requests: BTreeMap<String, Request>,
    queue: VecDeque<String>,
    running: Option<String>,
    state: EngineState,
    clock: u64,
    out: Vec<Outgoing>,
}

impl Default for Hub {
    fn default() -> Self {
        Self {
            clients: BTreeMap::new(),
            conversations: BTreeMap::new(),
            requests: BTreeMap::new(),
            queue: VecDeque::new(),
            running: None,
            state: EngineState::Idle,
            clock: 0,
            out: Vec::new(),
        }
    }
}

fn failure(code: FailureCode, message: &str, next_step: &str) -> Failure {
    Failure { code, message: message.to_owned(), next_step: next_step.to_owned() }
}

/// "162 words", or "5,812 of 14,020 words".
pub fn coverage(source: &Source) -> String {
    let (read, total) = (grouped(source.words_read), grouped(source.words_total));
    let mut words = match (source.words_read < source.words_total, source.words_read) {
        (true, _) => format!("{read} of {total} words"),
        (false, 1) => "1 word".to_owned(),
        (false, _) => format!("{read} words"),
    };
    for part in &source.unread {
        words.push_str("; not read: ");
        words.push_str(part);
    }
    words
}

/// A number with commas between thousands.
fn grouped(n: u32) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

impl Hub {
    /// A client connected: it hears the engine's state.
    pub fn connect(&mut self, client: &str) {
        self.clients.insert(client.to_owned(), BTreeSet::new());
        self.send(client, FromEngine::Status { engine: self.state.clone() });
    }

    /// A client went away. Its requests go on: it, or another, may come back for them.
    pub fn disconnect(&mut self, client: &str) {
        self.clients.remove(client);
    }

    /// Acts on a client's message.
    pub fn receive(&mut self, client: &str, message: ToEngine) {
        match message {
            ToEngine::Ask { request, conversation, task, source } => {
                self.ask(client, request, conversation, task, source)
            }
            ToEngine::Attach { conversation } => {
                self.follow(client, &conversation);
                let requests = self.conversations.get(&conversation).map(|c| c.requests.clone()).unwrap_or_default();
                self.send(client, FromEngine::Attached { conversation, requests: requests.clone() });
                for request in requests {
                    self.replay(client, &request, 0);
                }
            }
            ToEngine::Resume { request, after_seq } => match self.requests.get(&request) {
                Some(r) => {
                    let conversation = r.conversation.clone();
                    self.follow(client, &conversation);
                    self.replay(client, &request, after_seq as usize + 1);
                }
                None => self.refuse(
                    client,
                    failure(
                        FailureCode::ConversationGone,
                        "This answer is no longer kept.",
                        "Ask again to get a new one.",
                    ),
                ),
            },
            ToEngine::Stop { request } => self.stop(&request),
            ToEngine::Forget { conversation } => self.forget(&conversation),
            ToEngine::Warm => self.send(client, FromEngine::Status { engine: self.state.clone() }),
            // The model store's, and the session's.
            ToEngine::Models
            | ToEngine::Get { .. }
            | ToEngine::GetFrom { .. }
            | ToEngine::PauseGet { .. }
            | ToEngine::ResumeGet { .. }
            | ToEngine::CancelGet { .. }
            | ToEngine::Delete { .. }
            | ToEngine::Check { .. }
            | ToEngine::Use { .. }
            | ToEngine::SetIdle { .. } => {}
        }
    }

    /// Answers a message that could not be understood.
    pub fn refuse(&mut self, client: &str, reason: Failure) {
        self.send(client, FromEngine::Refused { reason });
    }

    fn ask(&mut self, client: &str, request: String, conversation: String, task: Task, source: Option<Source>) {
        if self.requests.contains_key(&request) {
            let reason =
                failure(FailureCode::BadMessage, "This request was sent twice.", "Use a new id for every request.");
            return self.refuse(client, reason);
        }
        self.follow(client, &conversation);
        self.clock += 1;
        let entry = self.conversations.entry(conversation.clone()).or_default();
        entry.used = self.clock;
        if let Some(source) = source {
            entry.source = Some(source);
        }
        let Some(source) = entry.source.clone() else {
            self.conversations.remove(&conversation);
            let reason = failure(
                FailureCode::ConversationGone,
                "The page this conversation was about is no longer kept.",
                "Open the page again and ask once more.",
            );
            return self.refuse(client, reason);
        };
        entry.requests.push(request.clone());
        self.drop_oldest(&conversation);
        let started = Event::Started {
            task: task.clone(),
            source_kind: source.kind,
            title: source.title.clone(),
            url: source.url.clone(),
            coverage: coverage(&source),
        };
        let ahead = self.queue.len() as u32 + u32::from(self.running.is_some());
        let entry =
            Request { conversation, task, source, log: Vec::new(), text: String::new(), stop: false, ended: false };
        self.requests.insert(request.clone(), entry);
        self.event(&request, started);
        if ahead > 0 {
            self.event(&request, Event::Queued { ahead });
        }
        self.queue.push_back(request);
    }

    fn stop(&mut self, request: &str) {
        let Some(r) = self.requests.get_mut(request) else { return };
        r.stop = true;
        if let Some(at) = self.queue.iter().position(|q| q == request) {
            self.queue.remove(at);
            self.event(request, Event::Stopped { stats: Stats::default() });
            self.tell_queue();
        } else if self.running.as_deref() == Some(request) && matches!(self.state, EngineState::Loading { .. }) {
            // The load goes on, for the next one; nobody has to wait for its end.
            self.event(request, Event::Stopped { stats: Stats::default() });
        }
    }

    fn forget(&mut self, conversation: &str) {
        let Some(gone) = self.conversations.remove(conversation) else { return };
        for request in gone.requests {
            if let Some(r) = self.requests.get_mut(&request) {
                r.stop = true;
            }
            self.queue.retain(|q| *q != request);
            if self.running.as_deref() != Some(&*request) {
                self.requests.remove(&request);
            }
        }
        for followed in self.clients.values_mut() {
            followed.remove(conversation);
        }
        self.tell_queue();
    }

    fn drop_oldest(&mut self, keep: &str) {
        while self.conversations.len() > KEPT_CONVERSATIONS {
            let busy = |c: &Conversation| c.requests.iter().any(|r| self.requests.get(r).is_some_and(|r| !r.ended));
            let oldest =
                self.conversations.iter().filter(|(id, c)| *id != keep && !busy(c)).min_by_key(|(_, c)| c.used);
            match oldest.map(|(id, _)| id.clone()) {
                Some(id) => self.forget(&id),
                None => return,
            }
        }
    }

    /// Tells everyone who waits what they are to know before their turn comes.
    pub fn notice_to_waiting(&mut self, text: &str) {
        for request in self.queue.iter().cloned().collect::<Vec<_>>() {
            self.event(&request, Event::Notice { text: text.to_owned() });
        }
    }

    /// Tells everyone who waits how many are before them.
    fn tell_queue(&mut self) {
        let busy = u32::from(self.running.is_some());
        let waiting: Vec<String> = self.queue.iter().cloned().collect();
        for (i, request) in waiting.iter().enumerate() {
            let ahead = i as u32 + busy;
            if ahead > 0 {
                self.event(request, Event::Queued { ahead });
            }
        }
    }

    /// Takes the next request, if none runs.
    pub fn next_job(&mut self) -> Option<Job> {
        if self.running.is_some() {
            return None;
        }
        let request = self.queue.pop_front()?;
        let r = self.requests.get(&request)?;
        let turns = self.conversations.get(&r.conversation).map(|c| self.turns(&c.requests)).unwrap_or_default();
        let job = Job {
            request: request.clone(),
            conversation: r.conversation.clone(),
            task: r.task.clone(),
            source: r.source.clone(),
            turns,
        };
        self.running = Some(request);
        Some(job)
    }

    fn turns(&self, requests: &[String]) -> Vec<Turn> {
        requests
            .iter()
            .filter_map(|r| self.requests.get(r))
            .filter(|r| r.ended)
            .map(|r| Turn { task: r.task.clone(), answer: r.text.clone() })
            .collect()
    }

    /// True when the running request should end.
    pub fn should_stop(&self, request: &str) -> bool {
        self.requests.get(request).is_none_or(|r| r.stop)
    }

    /// Records a step of a request and sends it to everyone who follows its conversation. A terminal event frees the
    /// engine for the next request.
    pub fn event(&mut self, request: &str, event: Event) {
        let terminal = matches!(event, Event::Done { .. } | Event::Stopped { .. } | Event::Failed { .. });
        if let Some(r) = self.requests.get_mut(request).filter(|r| !r.ended) {
            match &event {
                Event::Text { text } => r.text.push_str(text),
                Event::Rewritten { text } => r.text.clone_from(text),
                _ => {}
            }
            r.ended = terminal;
            r.log.push(event);
            let (seq, conversation) = (r.log.len() - 1, r.conversation.clone());
            let followers: Vec<String> =
                self.clients.iter().filter(|(_, f)| f.contains(&conversation)).map(|(c, _)| c.clone()).collect();
            for client in followers {
                self.update(&client, request, seq);
            }
        }
        if terminal && self.running.as_deref() == Some(request) {
            self.running = None;
            let kept = self.requests.get(request).is_some_and(|r| self.conversations.contains_key(&r.conversation));
            if !kept {
                self.requests.remove(request);
            }
            self.tell_queue();
        }
    }

    /// The engine's state changed: every client hears it.
    pub fn set_state(&mut self, state: EngineState) {
        self.state = state;
        self.tell(&FromEngine::Status { engine: self.state.clone() });
    }

    /// Every client hears this.
    pub fn tell(&mut self, message: &FromEngine) {
        let clients: Vec<String> = self.clients.keys().cloned().collect();
        for client in clients {
            self.send(&client, message.clone());
        }
    }

    /// The messages to deliver now.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        core::mem::take(&mut self.out)
    }

    fn follow(&mut self, client: &str, conversation: &str) {
        self.clients.entry(client.to_owned()).or_default().insert(conversation.to_owned());
    }

    fn replay(&mut self, client: &str, request: &str, from: usize) {
        let len = self.requests.get(request).map_or(0, |r| r.log.len());
        for seq in from..len {
            self.update(client, request, seq);
        }
    }

    fn update(&mut self, client: &str, request: &str, seq: usize) {
        let Some(r) = self.requests.get(request) else { return };
        let message = FromEngine::Update {
            request: request.to_owned(),
            conversation: r.conversation.clone(),
            seq: seq as u32,
            event: r.log[seq].clone(),
        };
        self.send(client, message);
    }

    fn send(&mut self, client: &str, message: FromEngine) {
        self.out.push(Outgoing { client: client.to_owned(), message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::SourceKind;

    fn source(text: &str) -> Source {
        Source {
            kind: SourceKind::Page,
            text: text.into(),
            title: "T".into(),
            url: "https://a.test/".into(),
            lang: "en".into(),
            words_read: 5812,
            words_total: 14020,
            unread: vec![],
            incognito: false,
        }
    }

    fn ask(request: &str, conversation: &str, text: Option<&str>) -> ToEngine {
        ToEngine::Ask {
            request: request.into(),
            conversation: conversation.into(),
            task: Task::Summarize,
            source: text.map(source),
        }
    }

    fn seqs(out: &[Outgoing], client: &str, of: &str) -> Vec<u32> {
        out.iter()
            .filter(|o| o.client == client)
            .filter_map(|o| match &o.message {
                FromEngine::Update { request, seq, .. } if request == of => Some(*seq),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn requests_queue_and_no_text_crosses() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.connect("b");
        hub.receive("a", ask("r1", "tab1", Some("canary one")));
        hub.receive("b", ask("r2", "tab2", Some("canary two")));
        let job = hub.next_job().unwrap();
        assert_eq!((job.request.as_str(), job.source.text.as_str()), ("r1", "canary one"));
        assert_eq!(hub.next_job(), None, "one at a time");
        hub.event("r1", Event::Text { text: "one".into() });
        hub.event("r1", Event::Done { stats: Stats::default() });
        let out = hub.take_outgoing();
        assert_eq!(seqs(&out, "a", "r1"), [0, 1, 2]);
        assert!(seqs(&out, "a", "r2").is_empty() && seqs(&out, "b", "r1").is_empty());
        assert!(out.iter().any(|o| matches!(&o.message, FromEngine::Update { event: Event::Queued { ahead: 1 }, .. })));
        let job = hub.next_job().unwrap();
        assert_eq!(job.source.text, "canary two");
        assert!(job.turns.is_empty(), "another conversation's turns");
    }

    #[test]
    fn a_client_that_comes_back_gets_the_rest_once_and_in_order() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.receive("a", ask("r", "c", Some("text")));
        hub.next_job().unwrap();
        hub.event("r", Event::Text { text: "x".into() });
        hub.disconnect("a");
        hub.event("r", Event::Text { text: "y".into() });
        hub.take_outgoing();
        hub.connect("b");
        hub.receive("b", ToEngine::Resume { request: "r".into(), after_seq: 1 });
        hub.event("r", Event::Done { stats: Stats::default() });
        assert_eq!(seqs(&hub.take_outgoing(), "b", "r"), [2, 3]);
        hub.connect("c");
        hub.receive("c", ToEngine::Attach { conversation: "c".into() });
        assert_eq!(seqs(&hub.take_outgoing(), "c", "r"), [0, 1, 2, 3]);
    }

    #[test]
    fn stop_reaches_waiting_and_running_requests() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.receive("a", ask("r1", "c", Some("text")));
        hub.receive("a", ask("r2", "c", None));
        hub.next_job().unwrap();
        assert!(!hub.should_stop("r1"));
        hub.receive("a", ToEngine::Stop { request: "r1".into() });
        hub.receive("a", ToEngine::Stop { request: "r2".into() });
        assert!(hub.should_stop("r1"));
        hub.event("r1", Event::Stopped { stats: Stats::default() });
        assert_eq!(hub.next_job(), None);
    }

    #[test]
    fn a_request_that_waits_for_its_model_is_stopped_at_once() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.receive("a", ask("r", "c", Some("text")));
        hub.next_job().unwrap();
        let loading = EngineState::Loading { model: "M".into(), done_bytes: 1.0, total_bytes: 2.0 };
        hub.set_state(loading);
        hub.receive("a", ToEngine::Stop { request: "r".into() });
        let stopped = Event::Stopped { stats: Stats::default() };
        let ends = |o: &Outgoing| matches!(&o.message, FromEngine::Update { event, .. } if *event == stopped);
        assert!(hub.take_outgoing().iter().any(ends));
        assert!(hub.should_stop("r"), "whoever loads for it goes on to write");
        hub.event("r", Event::Text { text: "late".into() });
        assert!(hub.take_outgoing().is_empty());
    }

    #[test]
    fn those_who_wait_hear_what_becomes_of_the_model() {
        let mut hub = Hub::default();
        hub.connect("a");
        for (request, conversation) in [("r1", "c1"), ("r2", "c2"), ("r3", "c3")] {
            hub.receive("a", ask(request, conversation, Some("text")));
        }
        hub.next_job().unwrap();
        hub.take_outgoing();
        hub.notice_to_waiting("Another model answers.");
        let heard = hub.take_outgoing().into_iter().map(|out| match out.message {
            FromEngine::Update { request, event: Event::Notice { .. }, .. } => request,
            other => panic!("{other:?}"),
        });
        assert_eq!(heard.collect::<Vec<_>>(), ["r2", "r3"]);
        assert_eq!(hub.requests["r2"].text, "", "it became the answer's");
    }

    #[test]
    fn nothing_follows_a_terminal_event() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.receive("a", ask("r", "c", Some("text")));
        hub.next_job().unwrap();
        hub.event("r", Event::Done { stats: Stats::default() });
        hub.take_outgoing();
        hub.event("r", Event::Text { text: "late".into() });
        assert!(hub.take_outgoing().is_empty());
    }

    #[test]
    fn a_forgotten_conversation_is_gone() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.receive("a", ask("r", "c", Some("secret")));
        hub.next_job().unwrap();
        hub.receive("a", ToEngine::Forget { conversation: "c".into() });
        assert!(hub.should_stop("r"));
        hub.event("r", Event::Stopped { stats: Stats::default() });
        hub.take_outgoing();
        hub.receive("a", ask("r3", "c", None));
        let out = hub.take_outgoing();
        assert!(
            matches!(&out[0].message, FromEngine::Refused { reason } if reason.code == FailureCode::ConversationGone)
        );
    }

    #[test]
    fn a_follow_up_sees_its_own_turns() {
        let mut hub = Hub::default();
        hub.connect("a");
        hub.receive("a", ask("r1", "c", Some("text")));
        hub.next_job().unwrap();
        hub.event("r1", Event::Text { text: "answer".into() });
        hub.event("r1", Event::Done { stats: Stats::default() });
        hub.receive("a", ask("r2", "c", None));
        let job = hub.next_job().unwrap();
        assert_eq!(job.turns, [Turn { task: Task::Summarize, answer: "answer".into() }]);
        assert_eq!(job.source.text, "text");
    }

    #[test]
    fn coverage_in_words() {
        assert_eq!(coverage(&source("")), "5,812 of 14,020 words");
        let mut whole = source("");
        whole.words_read = 14020;
        assert_eq!(coverage(&whole), "14,020 words");
    }
}
