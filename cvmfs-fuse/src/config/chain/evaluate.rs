//! What a configuration file says: its commands, carried out without a shell and without doing
//! anything to this machine but looking at files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::commands::{Chain, Command, Item, List, assignment, is_name, parse};
use super::words::{Broken, Piece, Word};

/// Deepest nesting of files that name each other: real ones have two levels.
const MAX_SOURCES: usize = 16;
/// Files read for one repository, so that a circle of them ends.
const MAX_FILES: usize = 256;
/// Commands carried out for one repository: real ones need some hundreds.
const MAX_COMMANDS: usize = 100_000;
/// Longest value in bytes: the longest lists of servers have 2 KiB.
const MAX_VALUE: usize = 1 << 16;
/// Largest file.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A variable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Value {
    /// What it holds.
    pub text: String,
    /// Where it got that; `None` for what was there from the beginning.
    pub origin: Option<Origin>,
}

/// Something in a file that was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Where.
    pub origin: Origin,
    /// What is wrong there.
    pub text: String,
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// What all files said so far.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) remarks: Vec<Remark>,
    /// Files that were read, in their order.
    pub(super) files: Vec<PathBuf>,
    read_only: BTreeSet<String>,
    /// These are not changed any more, and the attempt is told.
    pub(super) protected: BTreeSet<String>,
    commands: usize,
}

/// What keeps a file from being carried out.
enum Stop {
    /// The rest of this file is left out.
    File,
    /// So is everything else.
    All,
}

impl State {
    /// Carries out one file; false if there is none. `accepts` says which variables it may set,
    /// `root` limits the files that it may name.
    pub(super) fn file(
        &mut self,
        file: &Path,
        accepts: fn(&str) -> bool,
        root: Option<&Path>,
    ) -> bool {
        match super::super::read_bounded(file, MAX_FILE_SIZE) {
            Ok(bytes) => {
                let mut run = Run { state: self, file, accepts, root, depth: 0 };
                let _ = run.text(&String::from_utf8_lossy(&bytes));
                true
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => {
                let origin = Origin { file: file.to_owned(), line: 1 };
                self.remarks.push(Remark { origin, text: format!("cannot be read: {error}") });
                false
            }
        }
    }

    /// Sets a variable as an assignment of a file would.
    pub(super) fn assign(&mut self, file: &Path, line: u32, name: &str, text: String) {
        let mut run = Run { state: self, file, accepts: |_| true, root: None, depth: 0 };
        run.set(name, text, line);
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(|value| value.text.as_str())
    }
}

struct Run<'a> {
    state: &'a mut State,
    file: &'a Path,
    accepts: fn(&str) -> bool,
    root: Option<&'a Path>,
    depth: usize,
}

impl Run<'_> {
    fn text(&mut self, text: &str) -> Result<(), Stop> {
        if self.state.files.len() >= MAX_FILES {
            self.remark(1, format!("more than {MAX_FILES} files; the rest is left out"));
            return Err(Stop::All);
        }
        self.state.files.push(self.file.to_owned());
        let (list, broken) = parse(text);
        let outcome = self.list(&list).map(|_| ());
        if let Some(Broken { line, what }) = broken {
            self.remark(line, format!("{what}; the rest of the file is left out"));
        }
        outcome
    }

    fn remark(&mut self, line: u32, text: impl Into<String>) {
        let origin = Origin { file: self.file.to_owned(), line };
        let remark = Remark { origin, text: text.into() };
        if self.state.remarks.len() < MAX_FILES && !self.state.remarks.contains(&remark) {
            self.state.remarks.push(remark);
        }
    }

    /// Carries out commands; returns whether the last one succeeded.
    fn list(&mut self, list: &List) -> Result<bool, Stop> {
        let mut success = true;
        for chain in list {
            success = self.chain(chain)?;
        }
        Ok(success)
    }

    fn chain(&mut self, chain: &Chain) -> Result<bool, Stop> {
        let mut success = self.item(&chain.first)?;
        for (and, item) in &chain.rest {
            if *and == success {
                success = self.item(item)?;
            }
        }
        Ok(success)
    }

    fn item(&mut self, item: &Item) -> Result<bool, Stop> {
        self.state.commands += 1;
        if self.state.commands > MAX_COMMANDS {
            self.remark(1, "too many commands; the rest is left out");
            return Err(Stop::All);
        }
        Ok(self.command(&item.command)? != item.negated)
    }

    fn command(&mut self, command: &Command) -> Result<bool, Stop> {
        match command {
            Command::Group(list) => self.list(list),
            Command::If { branches, otherwise } => {
                for (condition, body) in branches {
                    if self.list(condition)? {
                        return self.list(body);
                    }
                }
                self.list(otherwise)
            }
            Command::Case { subject, arms, line } => self.case(subject, arms, *line),
            Command::Foreign { what, line } => {
                self.remark(*line, format!("{what} is for a shell, and is passed over"));
                Ok(false)
            }
            Command::Simple { assignments, words, line } => {
                if words.is_empty() {
                    for (name, word) in assignments {
                        self.assign(name, word, *line);
                    }
                    return Ok(true);
                }
                self.named(words, *line)
            }
        }
    }

    fn case(
        &mut self,
        subject: &Word,
        arms: &[(Vec<Word>, List)],
        line: u32,
    ) -> Result<bool, Stop> {
        let Some(subject) = self.expand(subject, line) else { return Ok(false) };
        for (patterns, body) in arms {
            for pattern in patterns {
                let Some(pattern) = self.pattern(pattern, line) else { continue };
                if matches(&pattern, &subject.chars().collect::<Vec<_>>()) {
                    return self.list(body);
                }
            }
        }
        Ok(true)
    }

    /// Carries out what is no assignment.
    fn named(&mut self, words: &[Word], line: u32) -> Result<bool, Stop> {
        let name = words.first().and_then(Word::plain).unwrap_or_default();
        let rest = words.get(1..).unwrap_or_default();
        match name {
            ":" => {
                // For the sake of ${NAME:=WORD}.
                for word in rest {
                    self.expand(word, line);
                }
                Ok(true)
            }
            "true" => Ok(true),
            "false" => Ok(false),
            "export" | "readonly" | "eval" => {
                for word in rest {
                    match assignment(word) {
                        Some((variable, value)) => self.assign(&variable, &value, line),
                        None if name == "eval" => {
                            self.remark(line, "eval is for a shell, except with assignments");
                            return Ok(false);
                        }
                        None => {}
                    }
                    if name == "readonly" {
                        let variable = assignment(word).map(|found| found.0);
                        let variable = variable.or_else(|| word.plain().map(str::to_owned));
                        let may = |name: &String| is_name(name) && (self.accepts)(name);
                        self.state.read_only.extend(variable.filter(may));
                    }
                }
                Ok(true)
            }
            "unset" => {
                for word in rest {
                    let Some(name) = word.plain() else { continue };
                    let is_kept = self.state.read_only.contains(name)
                        || self.state.protected.contains(name)
                        || !(self.accepts)(name);
                    if !is_kept {
                        self.state.values.remove(name);
                    }
                }
                Ok(true)
            }
            "[" | "test" => Ok(self.test(name, rest, line)),
            "." | "source" => self.source(rest, line),
            // Said to people, not to us.
            "echo" | "printf" | "logger" => Ok(true),
            "return" | "exit" => Err(Stop::File),
            _ => {
                let shown = if name.is_empty() { "this command" } else { name };
                self.remark(line, format!("{shown:?} is for a shell, and is passed over"));
                Ok(false)
            }
        }
    }

    fn assign(&mut self, name: &str, word: &Word, line: u32) {
        let Some(text) = self.expand(word, line) else { return };
        self.set(name, text, line);
    }

    fn set(&mut self, name: &str, text: String, line: u32) {
        if self.state.protected.contains(name) {
            if self.state.get(name) != Some(text.as_str()) {
                self.remark(line, format!("{name} cannot be changed here, and is passed over"));
            }
            return;
        }
        if self.state.read_only.contains(name) {
            if self.state.get(name) != Some(text.as_str()) {
                self.remark(line, format!("{name} is read-only since an earlier file"));
            }
            return;
        }
        if !(self.accepts)(name) {
            self.remark(line, format!("{name} is not for a configuration repository to say"));
            return;
        }
        if text.len() > MAX_VALUE {
            self.remark(line, format!("{name} is longer than {MAX_VALUE} bytes"));
            return;
        }
        let origin = Some(Origin { file: self.file.to_owned(), line });
        self.state.values.insert(name.to_owned(), Value { text, origin });
    }

    fn source(&mut self, words: &[Word], line: u32) -> Result<bool, Stop> {
        let Some(target) = words.first().and_then(|word| self.expand(word, line)) else {
            return Ok(false);
        };
        if self.depth >= MAX_SOURCES {
            self.remark(line, format!("files name each other more than {MAX_SOURCES} deep"));
            return Err(Stop::All);
        }
        let beside = self.file.parent().unwrap_or(Path::new("/"));
        let path = beside.join(&target);
        if let Some(root) = self.root {
            let inside = path.canonicalize().is_ok_and(|path| path.starts_with(root));
            if !inside {
                self.remark(line, format!("{target} is outside of {}", root.display()));
                return Ok(false);
            }
        }
        let bytes = match super::super::read_bounded(&path, MAX_FILE_SIZE) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.remark(line, format!("{target} cannot be read: {error}"));
                return Ok(false);
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let mut inner = Run {
            state: self.state,
            file: &path,
            accepts: self.accepts,
            root: self.root,
            depth: self.depth + 1,
        };
        match inner.text(&text) {
            Ok(()) | Err(Stop::File) => Ok(true),
            Err(Stop::All) => Err(Stop::All),
        }
    }

    /// `[ ... ]`.
    fn test(&mut self, name: &str, words: &[Word], line: u32) -> bool {
        let mut fields = Vec::new();
        for word in words {
            let Some(more) = self.fields(word, line) else { return false };
            fields.extend(more);
        }
        if name == "[" && fields.pop().as_deref() != Some("]") {
            self.remark(line, "a [ without its ]");
            return false;
        }
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        self.condition(&fields).unwrap_or_else(|| {
            self.remark(line, format!("a condition that is not understood: {}", fields.join(" ")));
            false
        })
    }

    fn condition(&self, fields: &[&str]) -> Option<bool> {
        match *fields {
            [] => Some(false),
            [one] => Some(!one.is_empty()),
            ["!", one] => Some(one.is_empty()),
            [test, one] => {
                let path = || self.file.parent().unwrap_or(Path::new("/")).join(one);
                let metadata = || std::fs::metadata(path());
                Some(match test {
                    "-n" => !one.is_empty(),
                    "-z" => one.is_empty(),
                    // An empty name is no file; the directory joined with it would be one.
                    "-e" | "-f" | "-d" | "-r" | "-s" | "-L" | "-h" | "-x" | "-w"
                        if one.is_empty() =>
                    {
                        false
                    }
                    "-e" => metadata().is_ok(),
                    "-f" => metadata().is_ok_and(|found| found.is_file()),
                    "-d" => metadata().is_ok_and(|found| found.is_dir()),
                    "-s" => metadata().is_ok_and(|found| found.len() > 0),
                    "-L" | "-h" => {
                        std::fs::symlink_metadata(path()).is_ok_and(|found| found.is_symlink())
                    }
                    "-r" | "-w" | "-x" => {
                        use rustix::fs::Access;
                        let access = match test {
                            "-r" => Access::READ_OK,
                            "-w" => Access::WRITE_OK,
                            _ => Access::EXEC_OK,
                        };
                        rustix::fs::access(path(), access).is_ok()
                    }
                    _ => return None,
                })
            }
            [left, "=" | "==", right] => Some(left == right),
            [left, "!=", right] => Some(left != right),
            [left, operator @ ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge"), right] => {
                let (left, right) = (left.parse::<i64>().ok()?, right.parse::<i64>().ok()?);
                Some(match operator {
                    "-eq" => left == right,
                    "-ne" => left != right,
                    "-lt" => left < right,
                    "-le" => left <= right,
                    "-gt" => left > right,
                    _ => left >= right,
                })
            }
            ["!", ref rest @ ..] => self.condition(rest).map(|found| !found),
            _ => {
                let at = |sign| fields.iter().position(|field| *field == sign);
                let (position, or) =
                    at("-o").map(|at| (at, true)).or(at("-a").map(|at| (at, false)))?;
                let left = self.condition(fields.get(..position)?)?;
                let right = self.condition(fields.get(position + 1..)?)?;
                Some(if or { left || right } else { left && right })
            }
        }
    }

    /// Returns what a word stands for, unsplit; `None`, with a remark, if only a shell knows.
    fn expand(&mut self, word: &Word, line: u32) -> Option<String> {
        let parts = self.parts(word, line)?;
        Some(parts.into_iter().map(|part| part.0).collect())
    }

    /// Returns the pieces of what a word stands for: text, whether it was quoted, and whether it
    /// is the value of a variable.
    fn parts(&mut self, word: &Word, line: u32) -> Option<Vec<(String, bool, bool)>> {
        let mut parts = Vec::new();
        let mut length = 0_usize;
        for piece in &word.0 {
            match piece {
                Piece::Text { text, quoted } => parts.push((text.clone(), *quoted, false)),
                Piece::Foreign(what) => {
                    self.remark(line, format!("{what} is for a shell, and is passed over"));
                    return None;
                }
                Piece::Variable { name, otherwise, quoted } => {
                    let value = self.state.get(name).map(str::to_owned);
                    let Some(otherwise) = otherwise else {
                        parts.push((value.unwrap_or_default(), *quoted, true));
                        continue;
                    };
                    let counts =
                        value.as_ref().is_some_and(|v| !(otherwise.or_empty && v.is_empty()));
                    match (otherwise.kind, counts) {
                        ('+', false) => parts.push((String::new(), *quoted, true)),
                        ('+', true) | ('-', false) => {
                            for part in self.parts(&otherwise.word, line)? {
                                parts.push((part.0, part.1 || *quoted, true));
                            }
                        }
                        ('=', false) => {
                            let text = self.expand(&otherwise.word, line)?;
                            self.set(name, text.clone(), line);
                            parts.push((text, *quoted, true));
                        }
                        _ => parts.push((value.unwrap_or_default(), *quoted, true)),
                    }
                }
            }
            length += parts.last().map_or(0, |part| part.0.len());
            if length > MAX_VALUE {
                self.remark(line, format!("longer than {MAX_VALUE} bytes"));
                return None;
            }
        }
        Some(parts)
    }

    /// Returns the fields that a word becomes as an argument: unquoted values are split at blanks.
    fn fields(&mut self, word: &Word, line: u32) -> Option<Vec<String>> {
        let mut fields = Vec::new();
        let mut field: Option<String> = None;
        for (text, quoted, is_value) in self.parts(word, line)? {
            if quoted || !is_value {
                field.get_or_insert_default().push_str(&text);
                continue;
            }
            for c in text.chars() {
                match c {
                    ' ' | '\t' | '\n' => fields.extend(field.take()),
                    c => field.get_or_insert_default().push(c),
                }
            }
        }
        fields.extend(field);
        Some(fields)
    }

    /// Returns a pattern: quoted characters stand for themselves.
    fn pattern(&mut self, word: &Word, line: u32) -> Option<Vec<Sign>> {
        let mut signs = Vec::new();
        for (text, quoted, _) in self.parts(word, line)? {
            let mut chars = text.chars().peekable();
            while let Some(c) = chars.next() {
                signs.push(match c {
                    '*' if !quoted => Sign::Any,
                    '?' if !quoted => Sign::One,
                    '[' if !quoted => {
                        let negated = chars.next_if(|&c| c == '!').is_some();
                        let mut set = Vec::new();
                        for c in chars.by_ref() {
                            if c == ']' && !set.is_empty() {
                                break;
                            }
                            set.push(c);
                        }
                        Sign::Of { set, negated }
                    }
                    c => Sign::Is(c),
                });
            }
        }
        Some(signs)
    }
}

/// One sign of a pattern.
enum Sign {
    Is(char),
    One,
    Any,
    Of { set: Vec<char>, negated: bool },
}

fn matches(pattern: &[Sign], text: &[char]) -> bool {
    // The last star, and how far the text was when it was met.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        let fits = match pattern.get(p) {
            Some(Sign::Any) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(Sign::One) => true,
            Some(Sign::Is(c)) => *c == text[t],
            Some(Sign::Of { set, negated }) => is_in(set, text[t]) != *negated,
            None => false,
        };
        if fits {
            (p, t) = (p + 1, t + 1);
        } else if let Some((at, from)) = star {
            star = Some((at, from + 1));
            (p, t) = (at + 1, from + 1);
        } else {
            return false;
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|sign| matches!(sign, Sign::Any))
}

fn is_in(set: &[char], c: char) -> bool {
    let mut rest = set;
    loop {
        match *rest {
            [from, '-', to, ref more @ ..] => {
                if (from..=to).contains(&c) {
                    return true;
                }
                rest = more;
            }
            [one, ref more @ ..] => {
                if one == c {
                    return true;
                }
                rest = more;
            }
            [] => return false,
        }
    }
}
