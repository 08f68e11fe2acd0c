//! Chat formats as data, rendered to ids: scaffolding may hold control tokens, contents never do.

use super::{Part, Segment, Specials, Tokenizer};
use crate::{Error, Result};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sets the task before the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What they say: plain text, whatever it looks like.
    pub content: String,
}

/// What stands before and after a turn's content.
type Frame = (&'static str, &'static str);

/// How a model wants a conversation laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatFormat {
    /// Its name, as a model's entry gives it.
    pub name: &'static str,
    /// The system turn that is used when the conversation has none.
    pub default_system: Option<String>,
    /// Tokens that end the model's turn.
    pub stops: &'static [&'static str],
    start: &'static str,
    system: System,
    user: Frame,
    assistant: Frame,
    generation: &'static str,
    trims: bool,
    /// What frames thinking in the model's turns: earlier turns are repeated without it.
    thinking: Option<Frame>,
    /// Tokens that the vocabulary must have, else the format is not the model's.
    needs: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    /// A turn of its own.
    Turn(Frame),
    /// Inside the first user turn, before its content.
    InFirstUser(Frame),
}

const CHATML: ChatFormat = ChatFormat {
    name: "chatml",
    default_system: None,
    stops: &["<|im_end|>", "<|endoftext|>"],
    start: "",
    system: System::Turn(("<|im_start|>system\n", "<|im_end|>\n")),
    user: ("<|im_start|>user\n", "<|im_end|>\n"),
    assistant: ("<|im_start|>assistant\n", "<|im_end|>\n"),
    generation: "<|im_start|>assistant\n",
    trims: false,
    thinking: None,
    needs: &["<|im_start|>", "<|im_end|>"],
};

const LLAMA2: ChatFormat = ChatFormat {
    name: "llama2",
    default_system: None,
    stops: &["</s>"],
    start: "",
    system: System::InFirstUser(("<<SYS>>\n", "\n<</SYS>>\n\n")),
    user: ("<s>[INST] ", " [/INST]"),
    assistant: (" ", " </s>"),
    generation: "",
    trims: true,
    thinking: None,
    needs: &["<s>", "</s>"],
};

const LLAMA3: ChatFormat = ChatFormat {
    name: "llama3",
    default_system: None,
    stops: &["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"],
    start: "<|begin_of_text|>",
    system: System::Turn(("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>")),
    user: ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    assistant: ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    generation: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    trims: true,
    thinking: None,
    needs: &["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
};

const MISTRAL: ChatFormat = ChatFormat {
    name: "mistral",
    default_system: None,
    stops: &["</s>"],
    start: "<s>",
    system: System::InFirstUser(("", "\n\n")),
    user: (" [INST] ", " [/INST]"),
    assistant: (" ", "</s>"),
    generation: "",
    trims: false,
    thinking: None,
    needs: &["<s>", "</s>"],
};

const ZEPHYR: ChatFormat = ChatFormat {
    name: "zephyr",
    default_system: None,
    stops: &["</s>"],
    start: "",
    system: System::Turn(("<|system|>\n", "</s>\n")),
    user: ("<|user|>\n", "</s>\n"),
    assistant: ("<|assistant|>\n", "</s>\n"),
    generation: "<|assistant|>\n",
    trims: false,
    thinking: None,
    needs: &["</s>"],
};

const GEMMA3: ChatFormat = ChatFormat {
    name: "gemma3",
    default_system: None,
    stops: &["<end_of_turn>", "<eos>"],
    start: "<bos>",
    system: System::InFirstUser(("", "\n\n")),
    user: ("<start_of_turn>user\n", "<end_of_turn>\n"),
    assistant: ("<start_of_turn>model\n", "<end_of_turn>\n"),
    generation: "<start_of_turn>model\n",
    trims: true,
    thinking: None,
    needs: &["<bos>", "<start_of_turn>", "<end_of_turn>"],
};

const GEMMA4: ChatFormat = ChatFormat {
    name: "gemma4",
    default_system: None,
    stops: &["<turn|>", "<eos>", "<|tool_response>"],
    start: "<bos>",
    system: System::Turn(("<|turn>system\n", "<turn|>\n")),
    user: ("<|turn>user\n", "<turn|>\n"),
    assistant: ("<|turn>model\n", "<turn|>\n"),
    generation: "<|turn>model\n",
    trims: true,
    thinking: Some(("<|channel>", "<channel|>")),
    needs: &["<bos>", "<|turn>", "<turn|>"],
};

const ALL: [ChatFormat; 7] = [CHATML, LLAMA2, LLAMA3, MISTRAL, ZEPHYR, GEMMA3, GEMMA4];

impl ChatFormat {
    /// The format of this name.
    pub fn named(name: &str) -> Result<Self> {
        ALL.into_iter().find(|format| format.name == name).ok_or_else(|| {
            let known = ALL.map(|format| format.name).join(", ");
            Error::unsupported(format!("chat format {name:?}"), format!("this engine knows {known}"))
        })
    }

    /// Recognizes the format behind a model's Jinja template by the tokens that it writes.
    pub fn of_template(template: &str) -> Result<Self> {
        let marks = [
            ("<|im_start|>", CHATML),
            ("<|start_header_id|>", LLAMA3),
            ("<|turn>", GEMMA4),
            ("<start_of_turn>", GEMMA3),
            ("<<SYS>>", LLAMA2),
            ("[INST]", MISTRAL),
            ("<|user|>", ZEPHYR),
        ];
        let known = marks.into_iter().find(|(mark, _)| template.contains(mark));
        let (_, mut format) = known.ok_or_else(|| {
            Error::unsupported("tokenizer.chat_template", "it writes none of the turns that this engine knows")
        })?;
        if let System::Turn((before, after)) = format.system {
            format.default_system = literal_system(template, before, after);
        }
        Ok(format)
    }

    /// The conversation as ids, up to where the model goes on when `add_generation_prompt` is set.
    pub fn render(&self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        self.segments(tokenizer, messages, add_generation_prompt).map(|segments| tokenizer.encode_segments(segments))
    }

    /// The conversation as ids, with the words that the model's answer begins with.
    pub fn render_reply(&self, tokenizer: &Tokenizer, messages: &[Message], reply_start: &str) -> Result<Vec<u32>> {
        let mut segments = self.segments(tokenizer, messages, true)?;
        segments.push(Segment::Text(reply_start));
        Ok(tokenizer.encode_segments(segments))
    }

    fn segments<'a>(
        &'a self,
        tokenizer: &Tokenizer,
        messages: &'a [Message],
        add_generation_prompt: bool,
    ) -> Result<Vec<Segment<'a>>> {
        if let Some(missing) = self.needs.iter().find(|token| tokenizer.control_id(token).is_none()) {
            return Err(Error::format(
                "tokenizer",
                format!("the chat format {} needs the token {missing}, which the vocabulary lacks", self.name),
            ));
        }
        let mut segments = Vec::new();
        self.lay_out(messages, add_generation_prompt, &mut |text, is_content| {
            if is_content {
                segments.push(Segment::Text(text));
            } else {
                tokenizer.added.cut(text, true, Specials::On, |part| {
                    segments.push(match part {
                        Part::Token(id) => Segment::Token(id),
                        Part::Text(text, _) => Segment::Text(text),
                    });
                });
            }
        });
        Ok(segments)
    }

    /// The conversation as text, for a person to read.
    pub fn render_text(&self, messages: &[Message], add_generation_prompt: bool) -> String {
        let mut text = String::new();
        self.lay_out(messages, add_generation_prompt, &mut |part, _| text.push_str(part));
        text
    }

    /// Ids that end the model's turn.
    pub fn stop_ids(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        self.stops.iter().filter_map(|stop| tokenizer.control_id(stop)).collect()
    }

    /// Hands out the text's parts in order, and whether each is a message's content.
    fn lay_out<'a>(
        &'a self,
        messages: &'a [Message],
        add_generation_prompt: bool,
        emit: &mut dyn FnMut(&'a str, bool),
    ) {
        let trimmed = |content: &'a str| if self.trims { content.trim() } else { content };
        let emit_all = |emit: &mut dyn FnMut(&'a str, bool), before: &'a str, content: &'a str, after: &'a str| {
            emit(before, false);
            emit(trimmed(content), true);
            emit(after, false);
        };
        let given = messages.iter().find(|message| message.role == Role::System).map(|message| &message.content);
        let mut system = given.or(self.default_system.as_ref()).map(String::as_str);
        emit_all(emit, self.start, "", "");
        if let (System::Turn((before, after)), Some(content)) = (self.system, system) {
            emit_all(emit, before, content, after);
        }
        for message in messages {
            match message.role {
                Role::System => {}
                Role::User => match (self.system, system.take()) {
                    (System::InFirstUser((before, after)), Some(content)) => {
                        emit_all(emit, self.user.0, "", before);
                        emit_all(emit, "", content, after);
                        emit_all(emit, "", &message.content, self.user.1);
                    }
                    _ => emit_all(emit, self.user.0, &message.content, self.user.1),
                },
                Role::Assistant => {
                    emit(self.assistant.0, false);
                    spoken(&message.content, self.thinking, self.trims).into_iter().for_each(|part| emit(part, true));
                    emit(self.assistant.1, false);
                }
            }
        }
        if add_generation_prompt {
            emit_all(emit, self.generation, "", "");
        }
    }
}

impl Tokenizer {
    /// Id of a control token by its literal.
    pub(super) fn control_id(&self, content: &str) -> Option<u32> {
        self.added.find(content).or_else(|| self.added_normalized.find(content)).filter(|&id| self.is_special(id))
    }
}

/// What a model's turn says without its thinking, as its templates strip it: what was never closed goes as well.
fn spoken<'a>(content: &'a str, thinking: Option<Frame>, trims: bool) -> Vec<&'a str> {
    let mut parts: Vec<&str> = match thinking {
        Some((open, close)) => content.split(close).map(|part| part.split(open).next().unwrap_or(part)).collect(),
        None => vec![content],
    };
    if trims {
        while parts.last().is_some_and(|part| part.trim().is_empty()) {
            parts.pop();
        }
        let blank = parts.iter().take_while(|part| part.trim().is_empty()).count();
        parts.drain(..blank);
        if let Some(first) = parts.first_mut() {
            *first = first.trim_start();
        }
        if let Some(last) = parts.last_mut() {
            *last = last.trim_end();
        }
    }
    parts
}

/// The system text that a template holds as a literal for conversations without one.
fn literal_system(template: &str, before: &str, after: &str) -> Option<String> {
    let template = template.replace("\\n", "\n");
    let text = template.split(before).nth(1)?.split(after.trim_end()).next()?;
    (!text.is_empty() && !text.contains(['\'', '"', '{', '}'])).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(turns: &[(Role, &str)]) -> Vec<Message> {
        turns.iter().map(|&(role, content)| Message { role, content: content.to_owned() }).collect()
    }

    #[test]
    fn every_format_lays_out_a_conversation() {
        let turns = messages(&[
            (Role::System, "Be kind."),
            (Role::User, "Hi"),
            (Role::Assistant, "Hello"),
            (Role::User, "Go on"),
        ]);
        let expected = [
            (
                "chatml",
                "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                 <|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n",
            ),
            ("llama2", "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Go on [/INST]"),
            (
                "llama3",
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>\
                 <|start_header_id|>user<|end_header_id|>\n\nGo on<|eot_id|>\
                 <|start_header_id|>assistant<|end_header_id|>\n\n",
            ),
            ("mistral", "<s> [INST] Be kind.\n\nHi [/INST] Hello</s> [INST] Go on [/INST]"),
            (
                "zephyr",
                "<|system|>\nBe kind.</s>\n<|user|>\nHi</s>\n<|assistant|>\nHello</s>\n<|user|>\nGo on</s>\n<|assistant|>\n",
            ),
            (
                "gemma3",
                "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n\
                 <start_of_turn>user\nGo on<end_of_turn>\n<start_of_turn>model\n",
            ),
            (
                "gemma4",
                "<bos><|turn>system\nBe kind.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\nHello<turn|>\n\
                 <|turn>user\nGo on<turn|>\n<|turn>model\n",
            ),
        ];
        assert_eq!(expected.len(), ALL.len());
        for (name, text) in expected {
            let format = ChatFormat::named(name).expect("it is known");
            assert_eq!(format.render_text(&turns, true), text);
            let open = format.render_text(&turns, false);
            assert_eq!(text.strip_suffix(format.generation), Some(open.as_str()));
        }
        assert!(ChatFormat::named("other").is_err());
    }

    #[test]
    fn thinking_of_earlier_turns_is_not_repeated() {
        let format = ChatFormat::named("gemma4").expect("it is known");
        let said = |content: &str| {
            let text = format.render_text(&messages(&[(Role::Assistant, content)]), false);
            text.strip_prefix("<bos><|turn>model\n").and_then(|t| t.strip_suffix("<turn|>\n")).map(str::to_owned)
        };
        let cases = [
            ("<|channel>thought\nHm.<channel|> Yes. ", "Yes."),
            (" Yes, <|channel>thought\nHm.<channel|>and <|channel>no<channel|>more.", "Yes, and more."),
            ("Yes.<|channel>thought\nnever closed", "Yes."),
            ("\n<|channel><channel|>\n", ""),
            ("no <thinking>", "no <thinking>"),
        ];
        for (content, expected) in cases {
            assert_eq!(said(content).as_deref(), Some(expected), "{content:?}");
        }
        let other = ChatFormat::named("chatml").expect("it is known");
        let kept = other.render_text(&messages(&[(Role::Assistant, "<|channel>a<channel|> ")]), false);
        assert_eq!(kept, "<|im_start|>assistant\n<|channel>a<channel|> <|im_end|>\n");
    }

    #[test]
    fn a_template_is_recognized_and_its_system_text_found() {
        let template = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are Sotto.<|im_end|>\\n' }}{% endif %}\
                        {{'<|im_start|>' + message['role'] + '\\n'}}";
        let format = ChatFormat::of_template(template).expect("it is known");
        assert_eq!((format.name, format.default_system.as_deref()), ("chatml", Some("You are Sotto.")));
        let without = ChatFormat::of_template("{{'<|im_start|>' + role + '<|im_end|>'}}").expect("it is known");
        assert_eq!(without.default_system, None);
        assert!(ChatFormat::of_template("{{ content }}").is_err());
    }
}
