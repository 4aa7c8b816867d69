//! Words and signs of a configuration file, before anybody knows what they mean together.

use std::iter::Peekable;
use std::str::Chars;

/// Deepest nesting of words in words, and of commands in commands: real files have three levels.
pub(super) const MAX_DEPTH: usize = 32;
/// What is wrong with a file that is nested more deeply.
pub(super) const TOO_DEEP: &str = "words or commands are nested too deeply";

/// A word as it was written, in pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Word(pub(super) Vec<Piece>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// Text that stands for itself.
    Text { text: String, quoted: bool },
    /// The value of a variable, or another word in its place.
    Variable { name: String, otherwise: Option<Otherwise>, quoted: bool },
    /// What only a shell can evaluate.
    Foreign(&'static str),
}

/// `${NAME:-WORD}` and its kin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Otherwise {
    /// `-`, `=` or `+`.
    pub(super) kind: char,
    /// With a colon, an empty value counts as none.
    pub(super) or_empty: bool,
    pub(super) word: Word,
}

impl Word {
    /// Returns the text of a word that was written without any quote or variable.
    pub(super) fn plain(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Piece::Text { text, quoted: false }] => Some(text),
            _ => None,
        }
    }
}

/// A word, or a sign between words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(Word),
    /// `;`, `;;`, `&`, `&&`, `|`, `||`, `(`, `)`, `<`, `>` or a line break.
    Sign(&'static str),
}

/// Why a file cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) line: u32,
    pub(super) what: &'static str,
    /// A limit is exceeded; else it is no sentence of the language.
    pub(super) exceeds: bool,
}

/// Cuts a text into at most `most` tokens with the lines on which they begin, as far as it can be understood.
pub(super) fn tokens(text: &str, most: usize) -> (Vec<(Token, u32)>, Option<Broken>) {
    let mut reader = Reader { chars: text.chars().peekable(), line: 1 };
    let mut found = Vec::new();
    loop {
        let line = reader.line;
        match reader.token() {
            Ok(Some(_)) if found.len() >= most => {
                let what = "the file has more words and signs than a configuration needs";
                return (found, Some(Broken { line, what, exceeds: true }));
            }
            Ok(Some(token)) => found.push((token, line)),
            Ok(None) => return (found, None),
            Err(what) => {
                return (found, Some(Broken { line, what, exceeds: what == TOO_DEEP }));
            }
        }
    }
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: u32,
}

/// What ends an unquoted word.
fn ends_word(c: char) -> bool {
    c.is_ascii_whitespace() || ";&|()<>".contains(c)
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += u32::from(next == Some('\n'));
        next
    }

    fn next_is(&mut self, expected: char) -> bool {
        let is = self.chars.peek() == Some(&expected);
        if is {
            self.next();
        }
        is
    }

    fn token(&mut self) -> Result<Option<Token>, &'static str> {
        loop {
            let Some(&c) = self.chars.peek() else { return Ok(None) };
            match c {
                '\n' => {
                    self.next();
                    return Ok(Some(Token::Sign("\n")));
                }
                '#' => {
                    while self.chars.peek().is_some_and(|&c| c != '\n') {
                        self.next();
                    }
                }
                '\\' => {
                    let mut ahead = self.chars.clone();
                    ahead.next();
                    if ahead.peek() != Some(&'\n') {
                        break;
                    }
                    self.next();
                    self.next();
                }
                c if c.is_ascii_whitespace() => {
                    self.next();
                }
                _ => break,
            }
        }
        let sign = match self.chars.peek() {
            Some(';') => [";", ";;"],
            Some('&') => ["&", "&&"],
            Some('|') => ["|", "||"],
            Some('(') => ["(", "("],
            Some(')') => [")", ")"],
            Some('<') => ["<", "<"],
            Some('>') => [">", ">"],
            _ => return self.word(ends_word, 0).map(|word| Some(Token::Word(word))),
        };
        let first = self.next();
        let is_double = sign[0] != sign[1] && first.is_some_and(|c| self.next_is(c));
        Ok(Some(Token::Sign(sign[usize::from(is_double)])))
    }

    /// Reads until an unquoted character that `ends`, which stays.
    fn word(&mut self, ends: fn(char) -> bool, depth: usize) -> Result<Word, &'static str> {
        if depth > MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        let mut pieces = Vec::new();
        while let Some(&c) = self.chars.peek() {
            if ends(c) {
                break;
            }
            self.next();
            match c {
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(c) => push(&mut pieces, c, true),
                    None => return Err("a backslash at the end"),
                },
                '\'' => self.single(&mut pieces)?,
                '"' => self.double(&mut pieces, depth)?,
                '$' => self.dollar(&mut pieces, false, depth)?,
                '`' => self.backticks(&mut pieces)?,
                c => push(&mut pieces, c, false),
            }
        }
        Ok(Word(pieces))
    }

    fn single(&mut self, pieces: &mut Vec<Piece>) -> Result<(), &'static str> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some('\'') => break,
                Some(c) => text.push(c),
                None => return Err("a quote is not closed"),
            }
        }
        pieces.push(Piece::Text { text, quoted: true });
        Ok(())
    }

    fn double(&mut self, pieces: &mut Vec<Piece>, depth: usize) -> Result<(), &'static str> {
        // An empty pair of quotes is a word, too.
        pieces.push(Piece::Text { text: String::new(), quoted: true });
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`')) => push(pieces, c, true),
                    Some(c) => {
                        push(pieces, '\\', true);
                        push(pieces, c, true);
                    }
                    None => return Err("a quote is not closed"),
                },
                Some('$') => self.dollar(pieces, true, depth)?,
                Some('`') => self.backticks(pieces)?,
                Some(c) => push(pieces, c, true),
                None => return Err("a quote is not closed"),
            }
        }
    }

    fn dollar(
        &mut self,
        pieces: &mut Vec<Piece>,
        quoted: bool,
        depth: usize,
    ) -> Result<(), &'static str> {
        let is_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        match self.chars.peek() {
            Some('(') => {
                self.next();
                self.parentheses()?;
                pieces.push(Piece::Foreign("a command in $( )"));
            }
            Some('{') => {
                self.next();
                let name = self.name(is_name);
                if self.next_is('}') && !name.is_empty() {
                    pieces.push(Piece::Variable { name, otherwise: None, quoted });
                    return Ok(());
                }
                let or_empty = self.next_is(':');
                let kind = self.chars.peek().copied().filter(|c| "-=+".contains(*c));
                let Some(kind) = kind.filter(|_| !name.is_empty()) else {
                    self.until_brace()?;
                    pieces.push(Piece::Foreign("this form of ${ }"));
                    return Ok(());
                };
                self.next();
                let word = match quoted {
                    // Within double quotes, single ones and blanks stand for themselves.
                    true => self.quoted_until_brace(depth + 1)?,
                    false => self.word(|c| c == '}', depth + 1)?,
                };
                if !self.next_is('}') {
                    return Err("a brace is not closed");
                }
                let otherwise = Some(Otherwise { kind, or_empty, word });
                pieces.push(Piece::Variable { name, otherwise, quoted });
            }
            Some(c) if c.is_ascii_alphabetic() || *c == '_' => {
                let name = self.name(is_name);
                pieces.push(Piece::Variable { name, otherwise: None, quoted });
            }
            Some(c) if c.is_ascii_digit() || "@*#?$!-".contains(*c) => {
                self.next();
                pieces.push(Piece::Foreign("a parameter of the shell"));
            }
            _ => push(pieces, '$', quoted),
        }
        Ok(())
    }

    fn name(&mut self, is_name: fn(&char) -> bool) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.peek().copied().filter(is_name) {
            self.next();
            name.push(c);
        }
        name
    }

    fn quoted_until_brace(&mut self, depth: usize) -> Result<Word, &'static str> {
        if depth > MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        let mut pieces = Vec::new();
        while let Some(&c) = self.chars.peek() {
            if c == '}' {
                break;
            }
            self.next();
            match c {
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('"' | '\\' | '$' | '`' | '}')) => push(&mut pieces, c, true),
                    Some(c) => {
                        push(&mut pieces, '\\', true);
                        push(&mut pieces, c, true);
                    }
                    None => return Err("a brace is not closed"),
                },
                '$' => self.dollar(&mut pieces, true, depth)?,
                // Shells do not agree about quotes within quotes.
                '"' | '`' => return Err("a quote in ${ } within quotes"),
                c => push(&mut pieces, c, true),
            }
        }
        Ok(Word(pieces))
    }

    fn until_brace(&mut self) -> Result<(), &'static str> {
        while let Some(c) = self.next() {
            if c == '}' {
                return Ok(());
            }
        }
        Err("a brace is not closed")
    }

    /// Skips what stands in parentheses, whatever it means.
    fn parentheses(&mut self) -> Result<(), &'static str> {
        let (mut open, mut quote) = (1_usize, None);
        while let Some(c) = self.next() {
            match (c, quote) {
                ('\\', None | Some('"')) => {
                    self.next();
                }
                (c, Some(quoted)) if c == quoted => quote = None,
                ('\'' | '"', None) => quote = Some(c),
                ('(', None) => open += 1,
                (')', None) => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
        Err("a parenthesis is not closed")
    }

    fn backticks(&mut self, pieces: &mut Vec<Piece>) -> Result<(), &'static str> {
        loop {
            match self.next() {
                Some('`') => break,
                Some('\\') => {
                    self.next();
                }
                Some(_) => {}
                None => return Err("a backtick is not closed"),
            }
        }
        pieces.push(Piece::Foreign("a command in backticks"));
        Ok(())
    }
}

fn push(pieces: &mut Vec<Piece>, c: char, is_quoted: bool) {
    match pieces.last_mut() {
        Some(Piece::Text { text, quoted }) if *quoted == is_quoted => text.push(c),
        _ => pieces.push(Piece::Text { text: c.into(), quoted: is_quoted }),
    }
}
