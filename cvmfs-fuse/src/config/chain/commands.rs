//! Commands of a configuration file: from words to what they say together.

use super::words::{Broken, MAX_DEPTH, TOO_DEEP, Token, Word, tokens};

/// Commands one after the other.
pub(super) type List = Vec<Chain>;

/// Commands with `&&` and `||` between them.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) first: Item,
    /// True for `&&`.
    pub(super) rest: Vec<(bool, Item)>,
}

/// A command, maybe with `!` in front.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) negated: bool,
    pub(super) command: Command,
    pub(super) line: u32,
}

/// What can be said.
#[derive(Debug)]
pub(super) enum Command {
    /// Assignments, or a command with its arguments.
    Simple { assignments: Vec<(String, Word)>, words: Vec<Word> },
    /// Conditions with what follows from them, and the rest.
    If { branches: Vec<(List, List)>, otherwise: List },
    /// Patterns with what follows from them.
    Case { subject: Word, arms: Vec<(Vec<Word>, List)> },
    /// Commands in braces.
    Group(List),
    /// What only a shell can do; skipped.
    Foreign { what: &'static str },
}

/// Parses a file of at most `most` words and signs as far as it can be understood.
pub(super) fn parse(text: &str, most: usize) -> (List, Option<Broken>) {
    let (tokens, broken) = tokens(text, most);
    let mut parser = Parser { tokens: &tokens, at: 0 };
    let mut list = Vec::new();
    loop {
        parser.skip_breaks();
        if parser.at == tokens.len() {
            return (list, broken);
        }
        match parser.chain(0) {
            Ok(chain) => list.push(chain),
            Err(what) => {
                let end = tokens.len().saturating_sub(1);
                let line = tokens.get(parser.at.min(end)).map_or(1, |token| token.1);
                // What the text breaks off in is the reason.
                let exceeds = what == TOO_DEEP;
                return (list, broken.or(Some(Broken { line, what, exceeds })));
            }
        }
    }
}

struct Parser<'a> {
    tokens: &'a [(Token, u32)],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at).map(|token| &token.0)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).map_or(0, |token| token.1)
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Sign(found)) if *found == sign);
        self.at += usize::from(is);
        is
    }

    fn is_keyword(&self, keyword: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(word)) if word.plain() == Some(keyword))
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let is = self.is_keyword(keyword);
        self.at += usize::from(is);
        is
    }

    fn skip_breaks(&mut self) {
        while self.sign("\n") || self.sign(";") {}
    }

    fn skip_lines(&mut self) {
        while self.sign("\n") {}
    }

    /// Reads commands until one of these words, which stays.
    fn list(&mut self, ends: &[&str], depth: usize) -> Result<List, &'static str> {
        let mut list = Vec::new();
        loop {
            self.skip_breaks();
            if ends.iter().any(|end| self.is_keyword(end)) {
                return Ok(list);
            }
            if matches!(self.peek(), Some(Token::Sign(";;"))) && ends.contains(&"esac") {
                return Ok(list);
            }
            if self.peek().is_none() {
                return Err("the file ends within a command");
            }
            list.push(self.chain(depth)?);
        }
    }

    fn chain(&mut self, depth: usize) -> Result<Chain, &'static str> {
        let first = self.item(depth)?;
        let mut rest = Vec::new();
        loop {
            let and = self.sign("&&");
            if !and && !self.sign("||") {
                break;
            }
            self.skip_lines();
            rest.push((and, self.item(depth)?));
        }
        match self.peek() {
            None | Some(Token::Sign("\n" | ";" | ";;")) => Ok(Chain { first, rest }),
            Some(Token::Sign("&")) => {
                let line = self.line();
                self.at += 1;
                Ok(foreign("a command in the background", line))
            }
            _ => Err("a command ends with a word that does not belong here"),
        }
    }

    fn item(&mut self, depth: usize) -> Result<Item, &'static str> {
        let negated = self.keyword("!");
        let line = self.line();
        let mut command = self.command(depth)?;
        while self.sign("|") {
            self.skip_lines();
            self.command(depth)?;
            command = Command::Foreign { what: "a pipe" };
        }
        Ok(Item { negated, command, line })
    }

    fn command(&mut self, depth: usize) -> Result<Command, &'static str> {
        // Each way into something else comes through here.
        if depth > MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        if self.keyword("if") {
            return self.conditions(depth);
        }
        if self.keyword("case") {
            return self.cases(depth);
        }
        if self.keyword("{") {
            let list = self.list(&["}"], depth + 1)?;
            self.at += 1;
            return Ok(Command::Group(list));
        }
        for (begin, end) in [("for", "done"), ("while", "done"), ("until", "done")] {
            if self.keyword(begin) {
                self.skip_nested(end)?;
                return Ok(Command::Foreign { what: "a loop" });
            }
        }
        if self.sign("(") {
            let mut open = 1_usize;
            while open > 0 {
                match self.peek() {
                    Some(Token::Sign("(")) => open += 1,
                    Some(Token::Sign(")")) => open -= 1,
                    None => return Err("a parenthesis is not closed"),
                    _ => {}
                }
                self.at += 1;
            }
            return Ok(Command::Foreign { what: "commands in parentheses" });
        }
        for word in ["then", "elif", "else", "fi", "esac", "do", "done", "}", "in"] {
            if self.is_keyword(word) {
                return Err("a word of a condition where none begins");
            }
        }
        self.simple(depth)
    }

    fn simple(&mut self, depth: usize) -> Result<Command, &'static str> {
        let (mut assignments, mut words) = (Vec::new(), Vec::<Word>::new());
        let mut redirected = false;
        loop {
            match self.peek() {
                Some(Token::Word(word)) => {
                    self.at += 1;
                    match assignment(word).filter(|_| words.is_empty()) {
                        Some(found) => assignments.push(found),
                        None => words.push(word.clone()),
                    }
                }
                Some(Token::Sign("<" | ">")) => {
                    // The number of a descriptor in front.
                    if words
                        .last()
                        .and_then(Word::plain)
                        .is_some_and(|word| word == "2" || word == "1")
                    {
                        words.pop();
                    }
                    self.at += 1;
                    while self.sign(">") || self.sign("&") {}
                    let target = match self.peek() {
                        Some(Token::Word(word)) => word.plain(),
                        _ => return Err("a redirection to nowhere"),
                    };
                    redirected |= !matches!(target, Some("/dev/null" | "1" | "2"));
                    self.at += 1;
                }
                Some(Token::Sign("(")) if words.len() == 1 && assignments.is_empty() => {
                    self.at += 1;
                    if !self.sign(")") {
                        return Err("a parenthesis where none may be");
                    }
                    self.skip_lines();
                    self.command(depth + 1)?;
                    return Ok(Command::Foreign { what: "a function" });
                }
                _ => break,
            }
        }
        if assignments.is_empty() && words.is_empty() {
            return Err("a sign where a command should begin");
        }
        if redirected {
            return Ok(Command::Foreign { what: "a redirection" });
        }
        Ok(Command::Simple { assignments, words })
    }

    fn conditions(&mut self, depth: usize) -> Result<Command, &'static str> {
        let mut branches = Vec::new();
        let mut otherwise = List::new();
        loop {
            let condition = self.list(&["then"], depth + 1)?;
            self.at += 1;
            let body = self.list(&["elif", "else", "fi"], depth + 1)?;
            branches.push((condition, body));
            if self.keyword("elif") {
                continue;
            }
            if self.keyword("else") {
                otherwise = self.list(&["fi"], depth + 1)?;
            }
            self.at += 1;
            return Ok(Command::If { branches, otherwise });
        }
    }

    fn cases(&mut self, depth: usize) -> Result<Command, &'static str> {
        let Some(Token::Word(subject)) = self.peek() else { return Err("a case of nothing") };
        self.at += 1;
        self.skip_lines();
        if !self.keyword("in") {
            return Err("a case without 'in'");
        }
        let mut arms = Vec::new();
        loop {
            self.skip_lines();
            if self.keyword("esac") {
                return Ok(Command::Case { subject: subject.clone(), arms });
            }
            self.sign("(");
            let mut patterns = Vec::new();
            loop {
                let Some(Token::Word(pattern)) = self.peek() else {
                    return Err("a case without a pattern");
                };
                patterns.push(pattern.clone());
                self.at += 1;
                if self.sign(")") {
                    break;
                }
                if !self.sign("|") {
                    return Err("a pattern without its parenthesis");
                }
            }
            let body = self.list(&["esac"], depth + 1)?;
            arms.push((patterns, body));
            self.sign(";;");
        }
    }

    fn skip_nested(&mut self, end: &str) -> Result<(), &'static str> {
        let mut open = 1_usize;
        while open > 0 {
            if self.peek().is_none() {
                return Err("a loop is not closed");
            }
            open += usize::from(["for", "while", "until"].iter().any(|word| self.is_keyword(word)));
            open -= usize::from(self.is_keyword(end));
            self.at += 1;
        }
        Ok(())
    }
}

fn foreign(what: &'static str, line: u32) -> Chain {
    let command = Command::Foreign { what };
    Chain { first: Item { negated: false, command, line }, rest: Vec::new() }
}

/// Takes `NAME=WORD` apart.
pub(super) fn assignment(word: &Word) -> Option<(String, Word)> {
    use super::words::Piece;
    let Piece::Text { text, quoted: false } = word.0.first()? else { return None };
    let (name, begin) = text.split_once('=')?;
    if !is_name(name) {
        return None;
    }
    let mut pieces = word.0.clone();
    match begin {
        "" => {
            pieces.remove(0);
        }
        begin => *pieces.first_mut()? = Piece::Text { text: begin.to_owned(), quoted: false },
    }
    Some((name.to_owned(), Word(pieces)))
}

/// Tells whether this can be the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
