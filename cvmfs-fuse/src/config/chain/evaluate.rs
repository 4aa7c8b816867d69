//! What a configuration file says: its commands, carried out without a shell and without doing
//! anything to this machine but looking at files.
//!
//! Files of the machine and of a configuration repository are evaluated by the same code, with two differences:
//! what they may set and see (`foreign`), and which limits they have (`budget`).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::budget::{Account, Exceeded, Limits, MACHINE, REPOSITORY};
use super::commands::{Command, Item, List, assignment, is_name, parse};
use super::foreign::{READABLE, Standing, standing};
use super::pattern::{Sign, matches, push_signs};
use super::tree::Tree;
use super::words::{Broken, Piece, Word};

/// Remarks that are kept for each author.
const MAX_REMARKS: usize = 256;
/// Characters of a remark: it can repeat what a file says.
const MAX_REMARK: usize = 400;

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
    /// A configuration repository said it.
    pub foreign: bool,
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

/// Whose file is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// Root, or the user.
    Machine,
    /// Whoever may publish in the configuration repository.
    Repository,
}

/// What all files said so far.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) values: BTreeMap<String, Value>,
    /// Keys that the configuration repository adds, by the parameter that names them.
    pub(super) added: BTreeMap<String, Value>,
    pub(super) remarks: Vec<Remark>,
    /// Files that were read, in their order.
    pub(super) files: Vec<PathBuf>,
    /// The files of the configuration repository.
    pub(super) tree: Option<Arc<Tree>>,
    /// These are not changed any more, and the attempt is told.
    pub(super) protected: BTreeSet<String>,
    /// Limits that were exceeded; nothing of that author counts.
    pub(super) over_machine: Option<Remark>,
    pub(super) over_repository: Option<Remark>,
    read_only: BTreeSet<String>,
    /// What the configuration repository set, whether it holds or not: all that its files see of it.
    said: BTreeMap<String, String>,
    /// Its files are not to change these again.
    said_read_only: BTreeSet<String>,
    machine: Account,
    repository: Account,
    /// Remarks about files of the configuration repository.
    foreign_remarks: usize,
    depth: usize,
}

/// What keeps a file from being carried out.
pub(super) enum Stop {
    /// The rest of this file is left out.
    File,
    /// So is everything of this author: a limit was exceeded.
    All,
}

impl State {
    /// Carries out one file of the machine; false if there is none.
    pub(super) fn file(&mut self, file: &Path) -> bool {
        self.carry_out(file, Author::Machine, super::read_local)
    }

    /// Carries out one file that the user named, which may be a pipe; false if there is none.
    pub(super) fn given(&mut self, file: &Path) -> bool {
        self.carry_out(file, Author::Machine, super::super::read_bounded)
    }

    /// Carries out bytes as a file of the machine.
    #[cfg(feature = "fuzzing")]
    pub(super) fn fuzz(&mut self, file: &Path, bytes: &[u8]) {
        self.carry_out(file, Author::Machine, |_, _| Ok(bytes.to_vec()));
    }

    /// Carries out a file of the configuration repository, if there is such a repository and file.
    pub(super) fn foreign_file(&mut self, name: &str) {
        if let Some(tree) = self.tree.clone() {
            let file = tree.place().join(name);
            self.carry_out(&file, Author::Repository, |file, limit| tree.read(file, limit));
        }
    }

    fn carry_out(
        &mut self,
        file: &Path,
        author: Author,
        read: impl FnOnce(&Path, u64) -> io::Result<Vec<u8>>,
    ) -> bool {
        let mut run = Run { state: self, file, author, sources: 0 };
        if run.over().is_some() {
            return true;
        }
        match read(file, run.limits().file) {
            Ok(bytes) => {
                let _ = run.text(&bytes);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                if error.kind() == io::ErrorKind::FileTooLarge {
                    run.exceed(1, format!("the file has {error}"));
                } else {
                    run.remark(1, format!("cannot be read: {error}"));
                }
                false
            }
        }
    }

    /// Sets a variable as an assignment of a file of the machine would.
    pub(super) fn assign(&mut self, file: &Path, line: u32, name: &str, text: String) {
        let mut run = Run { state: self, file, author: Author::Machine, sources: 0 };
        run.set(name, text, line);
    }
}

/// Evaluation of one file.
pub(super) struct Run<'a> {
    pub(super) state: &'a mut State,
    pub(super) file: &'a Path,
    pub(super) author: Author,
    /// Files that name each other, down to this one.
    sources: usize,
}

impl Run<'_> {
    fn limits(&self) -> &'static Limits {
        match self.author {
            Author::Machine => &MACHINE,
            Author::Repository => &REPOSITORY,
        }
    }

    fn account(&mut self) -> &mut Account {
        match self.author {
            Author::Machine => &mut self.state.machine,
            Author::Repository => &mut self.state.repository,
        }
    }

    fn over(&mut self) -> &mut Option<Remark> {
        match self.author {
            Author::Machine => &mut self.state.over_machine,
            Author::Repository => &mut self.state.over_repository,
        }
    }

    /// Notes which limit is exceeded where.
    pub(super) fn exceed(&mut self, line: u32, what: String) -> Stop {
        let origin = Origin { file: self.file.to_owned(), line };
        let remark = Remark { origin, text: what };
        self.over().get_or_insert_with(|| remark.clone());
        self.state.remarks.push(remark);
        Stop::All
    }

    fn spend(&mut self, line: u32, steps: u64) -> Result<(), Stop> {
        let limits = self.limits();
        let spent = self.account().spend(limits, steps);
        self.booked(line, spent)
    }

    fn produce(&mut self, line: u32, bytes: usize) -> Result<(), Stop> {
        let limits = self.limits();
        let produced = self.account().produce(limits, bytes);
        self.booked(line, produced)
    }

    fn booked(&mut self, line: u32, outcome: Result<(), Exceeded>) -> Result<(), Stop> {
        outcome.map_err(|what| self.exceed(line, what))
    }

    fn text(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let limits = self.limits();
        self.account().files += 1;
        if self.account().files > limits.files {
            return Err(self.exceed(1, format!("more than {} files are read", limits.files)));
        }
        self.state.files.push(self.file.to_owned());
        let (list, broken) = parse(&String::from_utf8_lossy(bytes), limits.tokens);
        match broken {
            Some(Broken { line, what, exceeds: true }) => Err(self.exceed(line, what.to_owned())),
            Some(Broken { line, what, exceeds: false }) => {
                let outcome = self.list(&list);
                self.remark(line, format!("{what}; the rest of the file is left out"));
                outcome.map(|_| ())
            }
            None => self.list(&list).map(|_| ()),
        }
    }

    pub(super) fn remark(&mut self, line: u32, text: impl AsRef<str>) {
        let mut text: String = text.as_ref().chars().take(MAX_REMARK).collect();
        if text.contains(char::is_control) {
            // It is shown on terminals.
            text = text.escape_debug().collect();
        }
        let remark = Remark { origin: Origin { file: self.file.to_owned(), line }, text };
        let foreign = self.state.foreign_remarks;
        let kept = match self.author {
            Author::Machine => self.state.remarks.len() - foreign.min(self.state.remarks.len()),
            Author::Repository => foreign,
        };
        if kept < MAX_REMARKS && !self.state.remarks.contains(&remark) {
            self.state.remarks.push(remark);
            self.state.foreign_remarks += usize::from(self.author == Author::Repository);
        }
    }

    /// Carries out commands; returns whether the last one succeeded.
    fn list(&mut self, list: &List) -> Result<bool, Stop> {
        let mut success = true;
        for chain in list {
            success = self.item(&chain.first)?;
            for (and, item) in &chain.rest {
                if *and == success {
                    success = self.item(item)?;
                }
            }
        }
        Ok(success)
    }

    fn item(&mut self, item: &Item) -> Result<bool, Stop> {
        let line = item.line;
        self.spend(line, 1)?;
        let success = match &item.command {
            Command::Group(list) => self.nested(line, |run| run.list(list))?,
            Command::If { branches, otherwise } => {
                self.nested(line, |run| run.conditional(branches, otherwise))?
            }
            Command::Case { subject, arms } => {
                self.nested(line, |run| run.case(subject, arms, line))?
            }
            Command::Foreign { what } => {
                self.remark(line, format!("{what} is for a shell, and is passed over"));
                false
            }
            Command::Simple { assignments, words } if words.is_empty() => {
                for (name, word) in assignments {
                    self.assign(name, word, line)?;
                }
                true
            }
            Command::Simple { words, .. } => self.named(words, line)?,
        };
        Ok(success != item.negated)
    }

    /// Carries out what is inside something else, over all files that name each other.
    fn nested(
        &mut self,
        line: u32,
        inside: impl FnOnce(&mut Self) -> Result<bool, Stop>,
    ) -> Result<bool, Stop> {
        let depth = self.limits().depth;
        if self.state.depth >= depth {
            return Err(self.exceed(line, format!("commands are nested more than {depth} deep")));
        }
        self.state.depth += 1;
        let outcome = inside(self);
        self.state.depth -= 1;
        outcome
    }

    fn conditional(&mut self, branches: &[(List, List)], otherwise: &List) -> Result<bool, Stop> {
        for (condition, body) in branches {
            if self.list(condition)? {
                return self.list(body);
            }
        }
        self.list(otherwise)
    }

    fn case(
        &mut self,
        subject: &Word,
        arms: &[(Vec<Word>, List)],
        line: u32,
    ) -> Result<bool, Stop> {
        let Some(subject) = self.expand(subject, line)? else { return Ok(false) };
        let subject: Vec<_> = subject.chars().collect();
        for (patterns, body) in arms {
            for pattern in patterns {
                let Some(pattern) = self.pattern(pattern, line)? else { continue };
                if self.fits(&pattern, &subject, line)? {
                    return self.list(body);
                }
            }
        }
        Ok(true)
    }

    fn fits(&mut self, pattern: &[Sign], subject: &[char], line: u32) -> Result<bool, Stop> {
        let limits = self.limits();
        let before = self.account().left(limits);
        let mut left = before;
        let fits = matches(pattern, subject, &mut left);
        // One more than there are, where there were too few.
        self.spend(line, before - left + u64::from(fits.is_none()) * (left + 1))?;
        Ok(fits.unwrap_or_default())
    }

    /// Carries out what is no assignment.
    fn named(&mut self, words: &[Word], line: u32) -> Result<bool, Stop> {
        let name = words.first().and_then(Word::plain).unwrap_or_default();
        let rest = words.get(1..).unwrap_or_default();
        match name {
            ":" => {
                // For the sake of ${NAME:=WORD}.
                for word in rest {
                    self.expand(word, line)?;
                }
                Ok(true)
            }
            "true" => Ok(true),
            "false" => Ok(false),
            "export" | "readonly" | "eval" => self.declare(name, rest, line),
            "unset" => {
                for name in rest.iter().filter_map(Word::plain) {
                    self.spend(line, 1)?;
                    self.unset(name);
                }
                Ok(true)
            }
            "[" | "test" => self.test(name, rest, line),
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

    fn declare(&mut self, command: &str, words: &[Word], line: u32) -> Result<bool, Stop> {
        for word in words {
            self.spend(line, 1)?;
            let found = assignment(word);
            let variable = found.as_ref().map(|(name, _)| name.clone());
            match found {
                Some((variable, value)) => self.assign(&variable, &value, line)?,
                None if command == "eval" => {
                    self.remark(line, "eval is for a shell, except with assignments");
                    return Ok(false);
                }
                None => {}
            }
            if command == "readonly" {
                let variable = variable.or_else(|| word.plain().map(str::to_owned));
                let fixed = match self.author {
                    Author::Machine => &mut self.state.read_only,
                    // It binds its own files only: the site has the last word.
                    Author::Repository => &mut self.state.said_read_only,
                };
                fixed.extend(variable.filter(|name| is_name(name)));
            }
        }
        Ok(true)
    }

    fn unset(&mut self, name: &str) {
        let state = &mut *self.state;
        if state.read_only.contains(name) || state.protected.contains(name) {
            return;
        }
        match self.author {
            Author::Machine => drop(state.values.remove(name)),
            Author::Repository if state.said_read_only.contains(name) => {}
            // What the machine said is not its to take away.
            Author::Repository => {
                state.said.remove(name);
                state.added.remove(name);
                if state.values.get(name).is_some_and(|value| value.foreign) {
                    state.values.remove(name);
                }
            }
        }
    }

    fn assign(&mut self, name: &str, word: &Word, line: u32) -> Result<(), Stop> {
        if let Some(text) = self.expand(word, line)? {
            self.set(name, text, line);
        }
        Ok(())
    }

    fn set(&mut self, name: &str, text: String, line: u32) {
        let limit = self.limits().value;
        let is_other = self.state.values.get(name).is_none_or(|value| value.text != text);
        if self.state.protected.contains(name) {
            if is_other {
                self.remark(line, format!("{name} cannot be changed here, and is passed over"));
            }
            return;
        }
        if self.state.read_only.contains(name) {
            if is_other {
                self.remark(line, format!("{name} is read-only since an earlier file"));
            }
            return;
        }
        if text.len() > limit {
            self.remark(line, format!("{name} is longer than {limit} bytes"));
            return;
        }
        let origin = Some(Origin { file: self.file.to_owned(), line });
        let value = Value { text, origin, foreign: self.author == Author::Repository };
        match self.author {
            Author::Machine => drop(self.state.values.insert(name.to_owned(), value)),
            Author::Repository => self.set_foreign(name, value, line),
        }
    }

    /// Takes a value of a configuration repository for what it may be.
    fn set_foreign(&mut self, name: &str, value: Value, line: u32) {
        let Some(standing) = standing(name) else {
            self.remark(line, format!("{name} is not for a configuration repository to say"));
            return;
        };
        if self.state.said_read_only.contains(name) {
            if self.state.said.get(name) != Some(&value.text) {
                self.remark(line, format!("{name} is read-only since an earlier file"));
            }
            return;
        }
        if let Standing::InTurn(form) | Standing::WhereUnset(form) = standing
            && let Err(what) = form.refuse(&value.text)
        {
            let text = format!("{name} {what}, which is not for a configuration repository to say");
            self.remark(line, text);
            return;
        }
        let state = &mut *self.state;
        state.said.insert(name.to_owned(), value.text.clone());
        let is_free = state.values.get(name).is_none_or(|present| present.foreign);
        match standing {
            Standing::Added => drop(state.added.insert(name.to_owned(), value)),
            Standing::WhereUnset(_) if !is_free => {}
            Standing::InTurn(_) | Standing::WhereUnset(_) => {
                state.values.insert(name.to_owned(), value);
            }
        }
    }

    /// Returns the value of a variable as the author of this file may see it.
    fn get(&mut self, name: &str, line: u32) -> Option<String> {
        let of_machine = self.state.values.get(name);
        if self.author == Author::Machine || READABLE.contains(&name) {
            return of_machine.map(|value| value.text.clone());
        }
        let is_hidden = of_machine.is_some_and(|value| !value.foreign && !value.text.is_empty());
        let said = self.state.said.get(name).cloned();
        if said.is_none() && is_hidden {
            self.remark(
                line,
                format!("{name} of this machine is not for a configuration repository to read, and is empty for it"),
            );
        }
        said
    }

    fn source(&mut self, words: &[Word], line: u32) -> Result<bool, Stop> {
        let Some(word) = words.first() else { return Ok(false) };
        let Some(target) = self.expand(word, line)? else { return Ok(false) };
        let limits = self.limits();
        if self.sources >= limits.sources {
            let what = format!("files name each other more than {} deep", limits.sources);
            return Err(self.exceed(line, what));
        }
        let beside = self.file.parent().unwrap_or(Path::new("/"));
        let path = beside.join(&target);
        let tree = self.state.tree.clone();
        // A file of the configuration repository is one whoever names it.
        let (author, read) =
            match tree.filter(|tree| self.author == Author::Repository || tree.names(&path)) {
                Some(tree) => (Author::Repository, tree.read(&path, REPOSITORY.file)),
                None if self.author == Author::Repository => return Ok(false),
                None => (Author::Machine, super::read_local(&path, MACHINE.file)),
            };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(self.exceed(line, format!("{target} has {error}")));
            }
            Err(error) => {
                self.remark(line, format!("{target} cannot be read: {error}"));
                return Ok(false);
            }
        };
        let sources = self.sources + 1;
        let is_ours = author == self.author;
        let state = &mut *self.state;
        let outcome = Run { state, file: &path, author, sources }.text(&bytes);
        match outcome {
            Ok(()) | Err(Stop::File) => Ok(true),
            Err(Stop::All) if is_ours => Err(Stop::All),
            Err(Stop::All) => Ok(false),
        }
    }

    /// Returns what a word stands for, unsplit; `None`, with a remark, if only a shell knows.
    fn expand(&mut self, word: &Word, line: u32) -> Result<Option<String>, Stop> {
        let parts = self.parts(word, line)?;
        Ok(parts.map(|parts| parts.into_iter().map(|part| part.0).collect()))
    }

    /// Returns the pieces of what a word stands for: text, whether it was quoted, and whether it
    /// is the value of a variable.
    fn parts(&mut self, word: &Word, line: u32) -> Result<Option<Vec<Part>>, Stop> {
        let limit = self.limits().value;
        let mut parts = Vec::new();
        let mut length = 0_usize;
        for piece in &word.0 {
            match piece {
                Piece::Text { text, quoted } => parts.push((text.clone(), *quoted, false)),
                Piece::Foreign(what) => {
                    self.remark(line, format!("{what} is for a shell, and is passed over"));
                    return Ok(None);
                }
                Piece::Variable { name, otherwise, quoted } => {
                    let value = self.get(name, line);
                    let Some(otherwise) = otherwise else {
                        parts.push((value.unwrap_or_default(), *quoted, true));
                        self.produce(line, parts.last().map_or(0, |part| part.0.len()))?;
                        continue;
                    };
                    let counts =
                        value.as_ref().is_some_and(|v| !(otherwise.or_empty && v.is_empty()));
                    match (otherwise.kind, counts) {
                        ('+', false) => parts.push((String::new(), *quoted, true)),
                        ('+', true) | ('-', false) => {
                            let Some(inner) = self.parts(&otherwise.word, line)? else {
                                return Ok(None);
                            };
                            for part in inner {
                                parts.push((part.0, part.1 || *quoted, true));
                            }
                        }
                        ('=', false) => {
                            let Some(text) = self.expand(&otherwise.word, line)? else {
                                return Ok(None);
                            };
                            self.set(name, text.clone(), line);
                            parts.push((text, *quoted, true));
                        }
                        _ => parts.push((value.unwrap_or_default(), *quoted, true)),
                    }
                }
            }
            let last = parts.last().map_or(0, |part| part.0.len());
            self.produce(line, last)?;
            length += last;
            if length > limit {
                self.remark(line, format!("longer than {limit} bytes"));
                return Ok(None);
            }
        }
        Ok(Some(parts))
    }

    /// Returns the fields that a word becomes as an argument: unquoted values are split at blanks.
    pub(super) fn fields(&mut self, word: &Word, line: u32) -> Result<Option<Vec<String>>, Stop> {
        let mut fields = Vec::new();
        let mut field: Option<String> = None;
        let Some(parts) = self.parts(word, line)? else { return Ok(None) };
        for (text, quoted, is_value) in parts {
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
        Ok(Some(fields))
    }

    /// Returns a pattern: quoted characters stand for themselves.
    fn pattern(&mut self, word: &Word, line: u32) -> Result<Option<Vec<Sign>>, Stop> {
        let Some(parts) = self.parts(word, line)? else { return Ok(None) };
        let mut signs = Vec::new();
        for (text, quoted, _) in parts {
            push_signs(&mut signs, &text, quoted);
        }
        Ok(Some(signs))
    }
}

/// Text, whether it was quoted, and whether it is the value of a variable.
type Part = (String, bool, bool);
