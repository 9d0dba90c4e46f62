//! A template's text and the tokens of its actions.

use super::TemplateError;

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    Action(Vec<Token>),
}

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Byte position in the template.
    pub(super) at: usize,
    /// No space before it: `.A.B` is one operand, `.A .B` are two.
    pub(super) glued: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// `.Name`
    Field(String),
    /// `.`
    Dot,
    /// `$name`, without the dollar
    Variable(String),
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Open,
    Close,
    Pipe,
    /// `:=`
    Declare,
}

/// An error at a byte position.
pub(super) fn error(template: &str, at: usize, reason: impl Into<String>) -> TemplateError {
    let before = template.get(..at).unwrap_or(template);
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |newline| newline + 1) + 1;
    TemplateError { line, column, reason: reason.into() }
}

/// Splits a template into text and actions; comments vanish and trim markers are applied.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut trim_next = false;
    loop {
        let rest = template.get(at..).unwrap_or_default();
        let open = rest.find("{{");
        let mut text = rest.get(..open.unwrap_or(rest.len())).unwrap_or_default();
        if trim_next {
            text = text.trim_start_matches(SPACE);
        }
        let Some(open) = open else {
            push_text(&mut pieces, text);
            return Ok(pieces);
        };
        let start = at + open + 2;
        let mut inside = start;
        let body = template.get(start..).unwrap_or_default();
        if body.starts_with('-') && body.get(1..).unwrap_or_default().starts_with(SPACE) {
            text = text.trim_end_matches(SPACE);
            inside += 1;
        }
        push_text(&mut pieces, text);
        let mut lexer = Lexer { template, at: inside, glued: false };
        match lexer.comment(inside)? {
            Some(()) => {}
            None => pieces.push(Piece::Action(lexer.action(start)?)),
        }
        trim_next = lexer.close(start)?;
        at = lexer.at;
    }
}

const SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

fn push_text<'a>(pieces: &mut Vec<Piece<'a>>, text: &'a str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

struct Lexer<'a> {
    template: &'a str,
    at: usize,
    glued: bool,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.template.get(self.at..).unwrap_or_default()
    }

    fn error(&self, at: usize, reason: impl Into<String>) -> TemplateError {
        error(self.template, at, reason)
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        let space = rest.len() - rest.trim_start_matches(SPACE).len();
        self.at += space;
        self.glued = self.glued && space == 0;
    }

    /// Skips a comment that is the whole action.
    fn comment(&mut self, inside: usize) -> Result<Option<()>, TemplateError> {
        let rest = self.rest();
        let comment = rest.trim_start_matches(SPACE);
        let space = rest.len() - comment.len();
        if !comment.starts_with("/*") {
            return Ok(None);
        }
        match comment.find("*/") {
            Some(end) => {
                self.at += space + end + 2;
                Ok(Some(()))
            }
            None => Err(self.error(inside, "unclosed comment")),
        }
    }

    /// Takes the action's end; true if the text after it loses its leading space.
    fn close(&mut self, start: usize) -> Result<bool, TemplateError> {
        let before = self.at;
        self.skip_space();
        let trim = self.rest().starts_with("-}}") && self.at > before;
        self.at += usize::from(trim);
        if !self.rest().starts_with("}}") {
            return Err(self.error(start, "unclosed action"));
        }
        self.at += 2;
        Ok(trim)
    }

    /// The tokens up to the action's end, which stays.
    fn action(&mut self, start: usize) -> Result<Vec<Token>, TemplateError> {
        let mut tokens = Vec::new();
        loop {
            let before = self.at;
            self.skip_space();
            let spaced = self.at > before;
            let rest = self.rest();
            if rest.starts_with("}}") || (spaced && rest.starts_with("-}}")) {
                // The trim marker needs its space.
                self.at = before;
                return Ok(tokens);
            }
            let at = self.at;
            if rest.is_empty() {
                return Err(self.error(start, "unclosed action"));
            }
            let kind = self.token(at)?;
            tokens.push(Token { kind, at, glued: self.glued });
            self.glued = true;
        }
    }

    fn token(&mut self, at: usize) -> Result<Kind, TemplateError> {
        let rest = self.template.get(at..).unwrap_or_default();
        let first = rest.chars().next().unwrap_or_default();
        let (kind, length) = match first {
            '(' => (Kind::Open, 1),
            ')' => (Kind::Close, 1),
            '|' => (Kind::Pipe, 1),
            ':' if rest.starts_with(":=") => (Kind::Declare, 2),
            '"' => return self.quoted(at),
            '`' => {
                let raw = rest.get(1..).unwrap_or_default();
                let end = raw.find('`').ok_or_else(|| self.error(at, "unterminated raw quoted string"))?;
                (Kind::Text(raw.get(..end).unwrap_or_default().to_owned()), end + 2)
            }
            '.' if !rest.get(1..).unwrap_or_default().starts_with(|c: char| c.is_ascii_digit()) => {
                let name = word(rest.get(1..).unwrap_or_default());
                if name.is_empty() { (Kind::Dot, 1) } else { (Kind::Field(name.to_owned()), name.len() + 1) }
            }
            '$' => {
                let name = word(rest.get(1..).unwrap_or_default());
                (Kind::Variable(name.to_owned()), name.len() + 1)
            }
            '0'..='9' | '+' | '-' | '.' => {
                let number = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
                let length = rest.find(|c| !number(c)).unwrap_or(rest.len());
                let digits = rest.get(..length).unwrap_or_default();
                match (digits.parse(), digits.parse()) {
                    (Ok(int), _) => (Kind::Int(int), length),
                    (_, Ok(float)) => (Kind::Float(float), length),
                    _ => return Err(self.error(at, format!("bad number syntax: {digits:?}"))),
                }
            }
            c if c.is_alphabetic() || c == '_' => {
                let word = word(rest);
                (Kind::Word(word.to_owned()), word.len())
            }
            c => return Err(self.error(at, format!("unexpected {c:?} in an action"))),
        };
        self.at = at + length;
        Ok(kind)
    }

    /// A string with Go's escapes.
    fn quoted(&mut self, at: usize) -> Result<Kind, TemplateError> {
        let mut text = String::new();
        let mut chars = self.template.get(at + 1..).unwrap_or_default().char_indices();
        let unterminated = || error(self.template, at, "unterminated quoted string");
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = at + 1 + i + 1;
                    return Ok(Kind::Text(text));
                }
                '\n' => break,
                '\\' => {
                    let (_, escape) = chars.next().ok_or_else(unterminated)?;
                    let digits = match escape {
                        'n' => 0,
                        't' => 0,
                        'r' => 0,
                        '\\' | '"' | '\'' => 0,
                        'x' => 2,
                        'u' => 4,
                        'U' => 8,
                        _ => return Err(error(self.template, at + 1 + i, "unknown escape sequence")),
                    };
                    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                    text.push(match escape {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'x' | 'u' | 'U' => u32::from_str_radix(&hex, 16)
                            .ok()
                            .and_then(char::from_u32)
                            .ok_or_else(|| error(self.template, at + 1 + i, "bad escape sequence"))?,
                        other => other,
                    });
                }
                other => text.push(other),
            }
        }
        Err(unterminated())
    }
}

/// The letters, digits and underscores that `text` starts with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}
