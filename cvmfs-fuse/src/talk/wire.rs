//! Requests and replies as bytes.
//!
//! Upstream's `cvmfs_talk` sends a command without an end and then reads, so a command ends with
//! a line, a NUL, the stream, or when nothing more comes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest request: a command with a path, or a list of servers.
pub const MAX_REQUEST: usize = 16 * 1024;
/// How long a peer may take to say something.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// Silence after which a command without an end is taken as it is.
const PAUSE: Duration = Duration::from_millis(150);

/// What somebody is told who may not ask.
pub const REFUSAL: &str = "only root and the user who mounted may ask for that";

/// What somebody is told who does not see the mount.
pub const UNSEEN: &str = "the mount is not seen where this command runs: neither the request nor the process \
     proves it; ask where the mount is mounted";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// As `cvmfs_talk` has it, such as `cache size`.
    pub command: String,
    /// Which repository, where a mount has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether what was asked for was done.
    pub ok: bool,
    /// As `cvmfs_talk` prints it, without the last line end.
    pub text: String,
    /// The same as data, where there is more to it than the text.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
}

impl Reply {
    /// It was done.
    pub fn ok() -> Self {
        Self::text("OK")
    }

    /// An answer.
    pub fn text(text: impl Into<String>) -> Self {
        Self { ok: true, text: text.into(), data: Value::Null }
    }

    /// It was not done.
    pub fn failed(text: impl Into<String>) -> Self {
        Self { ok: false, text: text.into(), data: Value::Null }
    }

    /// Says the same as data.
    #[must_use]
    pub fn with(mut self, data: impl Serialize) -> Self {
        self.data = serde_json::to_value(data).unwrap_or(Value::Null);
        self
    }

    /// Returns the bytes to send.
    pub fn encode(&self, form: Form) -> Vec<u8> {
        let mut bytes = match form {
            Form::Text => self.text.clone().into_bytes(),
            Form::Json => serde_json::to_vec(self).unwrap_or_default(),
        };
        bytes.push(b'\n');
        bytes
    }
}

/// How somebody talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As upstream's tool.
    Text,
    /// One object.
    Json,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nothing came, or the stream ended.
    #[error("no command")]
    Nothing,
    /// Longer than [`MAX_REQUEST`].
    #[error("command too long")]
    TooLong,
    /// Not what it should be.
    #[error("cannot understand that: {0}")]
    Malformed(String),
}

/// Reads one request.
pub async fn read_request(
    peer: &mut (impl AsyncRead + Unpin),
) -> Result<(Request, Form), RequestError> {
    let mut bytes = Vec::new();
    let mut limit = FIRST_WORD;
    // Not by the byte: that peer has its pauses used up at some time.
    let deadline = tokio::time::Instant::now() + FIRST_WORD;
    loop {
        let mut piece = [0; 1024];
        let end = deadline.min(tokio::time::Instant::now() + limit);
        match tokio::time::timeout_at(end, peer.read(&mut piece)).await {
            Ok(Ok(0) | Err(_)) | Err(_) => break,
            Ok(Ok(len)) => bytes.extend_from_slice(&piece[..len]),
        }
        if bytes.iter().any(|byte| matches!(byte, b'\n' | 0)) {
            break;
        }
        if bytes.len() > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        limit = PAUSE;
    }
    parse(&bytes)
}

/// Input of the fuzz target `talk_request`: what was understood is said and understood again as the same.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    if let Ok((request, _)) = parse(data) {
        let text = serde_json::to_vec(&request).expect("text");
        if text.len() <= MAX_REQUEST {
            let (again, form) = parse(&text).expect("it was just written");
            assert_eq!((again, form), (request, Form::Json));
        }
    }
    let _ = serde_json::from_slice::<Reply>(data);
}

fn parse(bytes: &[u8]) -> Result<(Request, Form), RequestError> {
    let line = bytes.split(|byte| matches!(byte, b'\n' | 0)).next().unwrap_or_default();
    if line.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let malformed = |error: &dyn std::fmt::Display| RequestError::Malformed(error.to_string());
    let text = std::str::from_utf8(line).map_err(|error| malformed(&error))?.trim();
    if text.is_empty() {
        return Err(RequestError::Nothing);
    }
    if text.starts_with('{') {
        let request = serde_json::from_str(text).map_err(|error| malformed(&error))?;
        return Ok((request, Form::Json));
    }
    Ok((Request { command: text.to_owned(), repository: None }, Form::Text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_they_come() {
        let text =
            |command: &str| (Request { command: command.into(), repository: None }, Form::Text);
        for (bytes, command) in [
            (&b"cache size"[..], "cache size"),
            (b" cache size \r\nrest", "cache size"),
            (b"pid\0junk", "pid"),
            ("evict /\u{e9} x".as_bytes(), "evict /\u{e9} x"),
        ] {
            assert_eq!(parse(bytes).unwrap(), text(command));
        }
        let (request, form) = parse(br#"{"command":"pid","repository":"a.b.c","more":1}"#).unwrap();
        assert_eq!((request.command.as_str(), form), ("pid", Form::Json));
        assert_eq!(request.repository.as_deref(), Some("a.b.c"));
        for bad in
            [&b""[..], b"\n", b"\0", b"{", b"{\"x\":1}", b"\xff\xfe", &[b'x'; MAX_REQUEST + 1]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn replies() {
        let reply = Reply::text("1").with([1]);
        assert_eq!(reply.encode(Form::Text), b"1\n");
        assert_eq!(reply.encode(Form::Json), b"{\"ok\":true,\"text\":\"1\",\"data\":[1]}\n");
        let back: Reply = serde_json::from_slice(&Reply::failed("no").encode(Form::Json)).unwrap();
        assert_eq!(back, Reply::failed("no"));
    }

    #[test]
    fn m1_deep_requests_and_replies_are_refused_in_a_small_stack() {
        let run = || {
            for inner in ["[", "{\"a\":"] {
                let deep = inner.repeat(MAX_REQUEST / 8);
                assert!(parse(format!("{{\"command\":\"pid\",\"x\":{deep}").as_bytes()).is_err());
                let reply =
                    format!("{{\"ok\":true,\"text\":\"\",\"data\":{}", inner.repeat(100_000));
                assert!(serde_json::from_str::<Reply>(&reply).is_err());
            }
        };
        let small = std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap();
        small.join().unwrap();
    }
}
