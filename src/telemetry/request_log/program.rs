//! A compiled template: text, values to print, and jumps; made by the parser, run for each line.

use std::ops::Range;
use std::sync::Arc;

use super::tls::TlsField;
use super::value::Field;

/// A compiled template.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) ops: Vec<Op>,
    /// All text of the template; operations name ranges of it.
    pub(super) text: String,
}

#[derive(Debug)]
pub(super) enum Op {
    Text(Range<usize>),
    Print(Arc<Expr>),
    JumpUnless(Arc<Expr>, usize),
    Jump(usize),
}

#[derive(Debug, PartialEq)]
pub(super) enum Expr {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    Field(Field),
    /// A line fails that asks it of plaintext, as in Go.
    TlsField(TlsField),
    /// First line of a header, or "".
    HeaderGet(Arc<Expr>),
    /// All lines of a header.
    HeaderValues(Arc<Expr>),
    /// The same, absent if there is none.
    HeaderMember(String),
    Call(Function, Vec<Arc<Expr>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Print,
    Println,
    Printf,
    Js,
    Html,
    UrlQuery,
}

impl Program {
    /// Adds text to be printed.
    pub(super) fn add_text(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.ops.push(Op::Text(start..self.text.len()));
    }
}

impl Expr {
    /// How many functions of functions it is.
    pub(super) fn nesting(&self) -> usize {
        match self {
            Self::Call(_, arguments) => 1 + arguments.iter().map(|argument| argument.nesting()).max().unwrap_or(0),
            Self::HeaderGet(name) | Self::HeaderValues(name) => 1 + name.nesting(),
            _ => 0,
        }
    }
}

impl Function {
    /// The function that a template calls so.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Self::And,
            "or" => Self::Or,
            "not" => Self::Not,
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "len" => Self::Len,
            "index" => Self::Index,
            "print" => Self::Print,
            "println" => Self::Println,
            "printf" => Self::Printf,
            "js" => Self::Js,
            "html" => Self::Html,
            "urlquery" => Self::UrlQuery,
            _ => return None,
        })
    }
}
