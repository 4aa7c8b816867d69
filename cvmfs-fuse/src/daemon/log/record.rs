//! One message as data, and as a line.

use std::fmt::Write as _;
use std::time::SystemTime;

use serde_json::{Map, Value as Json, json};
use tracing::Level;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};

use super::masked;
use crate::escape::one_line;

/// Bytes of a message, and of the value of a field; the rest is left out.
const MAX_TEXT: usize = 8 << 10;

/// The value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// A string; quoted in text.
    Text(String),
    /// What something shows of itself.
    Shown(String),
    /// A number, or yes and no.
    Plain(Json),
}

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: &'static str,
    /// The place in the program that it comes from.
    pub(super) origin: Option<Identifier>,
    /// What was going on, outermost first: `NAME{FIELDS}:`.
    pub(super) context: String,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
    /// Equal ones that were not written since the one before.
    pub(super) repeated: u64,
}

impl Record {
    /// Makes a message that is filled by visiting the fields of an event.
    pub(super) fn new(level: Level, target: &'static str) -> Self {
        Self {
            time: SystemTime::now(),
            level,
            target,
            origin: None,
            context: String::new(),
            message: String::new(),
            fields: Vec::new(),
            repeated: 0,
        }
    }

    /// Returns the repository that it is about, where it says so.
    pub(super) fn repository(&self) -> Option<&str> {
        let named = |(name, _): &&(&str, Value)| ["fqrn", "repository"].contains(name);
        match &self.fields.iter().find(named)?.1 {
            Value::Text(name) | Value::Shown(name) => Some(name),
            Value::Plain(_) => None,
        }
    }

    /// Returns message and fields in one line, as people read it.
    pub(super) fn text(&self) -> String {
        let mut text = single_line(&self.message);
        for (name, value) in &self.fields {
            let _ = match value {
                Value::Text(value) => write!(text, " {name}={value:?}"),
                Value::Shown(value) => write!(text, " {name}={}", single_line(value)),
                Value::Plain(value) => write!(text, " {name}={value}"),
            };
        }
        if self.repeated > 0 {
            let _ = write!(text, " repeated={}", self.repeated);
        }
        text
    }

    /// Returns the line of a log file.
    pub(super) fn line(&self) -> String {
        let time = shown(self.time);
        let Self { level, target, context, .. } = self;
        let space = if context.is_empty() { "" } else { " " };
        format!("{time} {level:>5} {context}{space}{target}: {}\n", self.text())
    }

    /// Returns the line of a log that programs read. `process` is the repository of messages that
    /// name none.
    pub(super) fn json(&self, process: Option<&str>) -> String {
        let mut object = Map::new();
        object.insert("time".to_owned(), shown(self.time).into());
        object.insert("level".to_owned(), self.level.as_str().into());
        if let Some(repository) = self.repository().or(process) {
            object.insert("repository".to_owned(), repository.into());
        }
        object.insert("target".to_owned(), self.target.into());
        object.insert("message".to_owned(), self.message.as_str().into());
        if !self.context.is_empty() {
            object.insert("context".to_owned(), self.context.as_str().into());
        }
        if !self.fields.is_empty() {
            let fields = self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.json()));
            object.insert("fields".to_owned(), Json::Object(fields.collect()));
        }
        if self.repeated > 0 {
            object.insert("repeated".to_owned(), json!(self.repeated));
        }
        // Strings are keys of the object, so that it can always be written.
        format!("{}\n", crate::escape::json(&Json::Object(object)).unwrap_or_default())
    }

    /// Adds a number to the fields.
    pub(super) fn note(&mut self, name: &'static str, number: u64) {
        self.fields.push((name, Value::Plain(number.into())));
    }

    fn take(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text) | Value::Shown(text)) => self.message = text,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Value {
    fn json(&self) -> Json {
        match self {
            Self::Text(text) | Self::Shown(text) => text.as_str().into(),
            Self::Plain(value) => value.clone(),
        }
    }
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.take(field, Value::Shown(bounded(&format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, Value::Text(bounded(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.take(field, Value::Plain(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.take(field, Value::Plain(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.take(field, Value::Plain(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.take(field, Value::Plain(value.into()));
    }
}

/// Returns a text without secrets, and not longer than it may be.
fn bounded(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT.min(text.len()));
    masked(&text[..end]).into_owned()
}

/// Returns text of somebody else as it may be shown: without control characters, and cut.
pub(crate) fn printable(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most.min(text.len()));
    single_line(text.get(..end).unwrap_or_default())
}

/// Names of files may hold anything; no line may look like two.
fn single_line(text: &str) -> String {
    one_line(text).into_owned()
}

fn shown(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    format!("{time:.6}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_is_one_line_in_every_form() {
        let mut record = Record::new(Level::WARN, "cvmfs_fuse::x");
        record.time = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        record.message = "line\nbreak \"quoted\"".to_owned();
        record.fields = vec![
            ("fqrn", Value::Shown("a.b.c".to_owned())),
            ("path", Value::Text("/x\ny".to_owned())),
            ("count", Value::Plain(3.into())),
        ];
        assert_eq!(
            record.line(),
            "1970-01-01T00:00:01.500000Z  WARN cvmfs_fuse::x: line\\nbreak \"quoted\" fqrn=a.b.c \
             path=\"/x\\ny\" count=3\n"
        );
        record.repeated = 7;
        let text = record.json(Some("other"));
        assert_eq!(text.matches('\n').count(), 1);
        assert_eq!(
            serde_json::from_str::<Json>(&text).unwrap(),
            json!({
                "time": "1970-01-01T00:00:01.500000Z", "level": "WARN", "repository": "a.b.c",
                "target": "cvmfs_fuse::x", "message": "line\nbreak \"quoted\"",
                "fields": {"fqrn": "a.b.c", "path": "/x\ny", "count": 3}, "repeated": 7,
            })
        );
        record.fields.clear();
        assert!(record.json(Some("d.e.f")).contains("\"repository\":\"d.e.f\""));
    }
}
