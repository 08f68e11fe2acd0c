//! The tool calls that Gemma 4 writes: `call:NAME{key:<|"|>text<|"|>,n:3,flag:true}`.
//!
//! No tool is offered yet. A model may call one all the same; then the call is read, and not shown as text.

use serde_json::{Map, Number, Value};

use crate::{Error, Result};

/// What stands around a text; a token of its own in the vocabulary.
const QUOTE: &str = "<|\"|>";
/// Lists and objects inside of each other.
const MAX_DEPTH: usize = 16;
/// Longest name of a tool or an argument, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The tool.
    pub name: String,
    /// What it is given.
    pub arguments: Map<String, Value>,
}

impl ToolCall {
    /// Reads a call, the tokens around it left out. An argument that is named twice has its last value.
    pub fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader { text, at: 0 };
        reader.expect("call:")?;
        let name = reader.name()?;
        let arguments = reader.object(0)?;
        reader.skip_space();
        if reader.at < text.len() {
            return Err(reader.wrong("the end"));
        }
        Ok(Self { name, arguments })
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn wrong(&self, expected: &str) -> Error {
        Error::format("the model's tool call", format!("{expected} was expected at byte {}", self.at))
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, what: &str) -> bool {
        self.skip_space();
        let found = self.rest().starts_with(what);
        self.at += if found { what.len() } else { 0 };
        found
    }

    fn expect(&mut self, what: &str) -> Result<()> {
        if self.take(what) { Ok(()) } else { Err(self.wrong(what)) }
    }

    /// A word of letters, digits, `_`, `-` and `.`.
    fn word(&mut self) -> &str {
        self.skip_space();
        let rest = self.text.get(self.at..).unwrap_or_default();
        let len = rest.find(|c: char| !(c.is_alphanumeric() || "_-.+".contains(c))).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn name(&mut self) -> Result<String> {
        let name = if self.take(QUOTE) { self.quoted()? } else { self.word().to_owned() };
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(self.wrong("a name"));
        }
        Ok(name)
    }

    /// The text up to the closing quote.
    fn quoted(&mut self) -> Result<String> {
        let (text, _) = self.rest().split_once(QUOTE).ok_or_else(|| self.wrong("a closing quote"))?;
        let text = text.to_owned();
        self.at += text.len() + QUOTE.len();
        Ok(text)
    }

    fn object(&mut self, depth: usize) -> Result<Map<String, Value>> {
        self.expect("{")?;
        let mut object = Map::new();
        while !self.take("}") {
            if !object.is_empty() {
                self.expect(",")?;
            }
            let key = self.name()?;
            self.expect(":")?;
            let value = self.value(depth + 1)?;
            object.insert(key, value);
        }
        Ok(object)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value>> {
        self.expect("[")?;
        let mut list = Vec::new();
        while !self.take("]") {
            if !list.is_empty() {
                self.expect(",")?;
            }
            list.push(self.value(depth + 1)?);
        }
        Ok(list)
    }

    fn value(&mut self, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("less depth"));
        }
        self.skip_space();
        if self.take(QUOTE) {
            return self.quoted().map(Value::String);
        }
        match self.rest().chars().next() {
            Some('{') => self.object(depth).map(Value::Object),
            Some('[') => self.list(depth).map(Value::Array),
            _ => {
                let from = self.at;
                let value = match self.word() {
                    "true" => Some(Value::Bool(true)),
                    "false" => Some(Value::Bool(false)),
                    "null" | "none" | "None" => Some(Value::Null),
                    word => number(word).map(Value::Number),
                };
                value.ok_or_else(|| {
                    self.at = from;
                    self.wrong("a value")
                })
            }
        }
    }
}

fn number(word: &str) -> Option<Number> {
    match word.parse::<i64>() {
        Ok(whole) => Some(whole.into()),
        // "inf" and "nan" are numbers to Rust, and none to JSON.
        Err(_) => Number::from_f64(word.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_all_kinds_are_read() {
        let read =
            |text: &str| ToolCall::parse(text).map(|call| (call.name, Value::Object(call.arguments).to_string()));
        let ok = |name: &str, json: &str| Ok((name.to_owned(), json.to_owned()));
        assert_eq!(
            read(r#"call:look_up{k:<|"|>v<|"|>,n:3,flag:true}"#),
            ok("look_up", r#"{"flag":true,"k":"v","n":3}"#)
        );
        assert_eq!(read("call:now{}"), ok("now", "{}"));
        assert_eq!(
            read("call:f{ a : -1.5e3 , list:[1,[],{b:null}], <|\"|>a key<|\"|>:<|\"|>},{\"\n<|\"|> }\n"),
            ok("f", r#"{"a":-1500.0,"a key":"},{\"\n","list":[1,[],{"b":null}]}"#)
        );
        assert_eq!(read("call:f{a:1,a:2}"), ok("f", r#"{"a":2}"#));
        assert_eq!(read("call:größe{maß:9007199254740993}"), ok("größe", r#"{"maß":9007199254740993}"#));
    }

    #[test]
    fn broken_calls_say_where() {
        let at = |text: &str| ToolCall::parse(text).expect_err(text).to_string();
        assert!(at("look{}").contains("call: was expected at byte 0"));
        assert!(at("call:{}").contains("a name"));
        assert!(at("call:f").contains("{ was expected at byte 6"));
        assert!(at("call:f{a:<|\"|>x}").contains("a closing quote"));
        assert!(at("call:f{a:1 b:2}").contains(", was expected at byte 11"));
        assert!(at("call:f{a:word}").contains("a value was expected at byte 9"));
        assert!(at("call:f{a:inf}").contains("a value"));
        assert!(at("call:f{} and more").contains("the end"));
        assert!(at(&format!("call:f{{a:{}", "[".repeat(100_000))).contains("less depth"));
        assert!(at(&format!("call:{}{{}}", "x".repeat(1000))).contains("a name"));
        assert!(at("").contains("byte 0"));
    }

    /// Whatever is cut off where, there is an error and no panic.
    #[test]
    fn every_prefix_of_a_call_is_an_error() {
        let text = r#"call:größe{k:<|"|>é<|"|>,list:[1,{b:null}]}"#;
        for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
            assert!(ToolCall::parse(&text[..end]).is_err(), "{end}");
        }
    }
}
