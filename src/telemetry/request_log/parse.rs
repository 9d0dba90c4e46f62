//! From tokens to a flat program: text, values to print, and jumps.
//!
//! Since values have no side effects, the dot of a `with` and variables are replaced by their expressions here; at run
//! time there is neither a stack nor a scope.
//!
//! Functions: `and or not eq ne lt le gt ge len index print println printf js html urlquery`.

use std::sync::Arc;

use super::TemplateError;
use super::lex::{self, Kind, Piece, Token};
use super::program::{Expr, Function, Op, Program};
use super::tls::TlsField;
use super::value::Field;

/// Parts of an expression at most, after variables were replaced: a template can't grow by naming itself.
const MAX_PARTS: usize = 4096;
/// Parentheses in parentheses at most.
const MAX_DEPTH: usize = 32;
/// Functions of functions at most, pipelines and variables included: rendering goes as deep on a worker's small stack.
const MAX_NESTING: usize = 64;

impl Program {
    pub(super) fn parse(template: &str) -> Result<Self, TemplateError> {
        let mut parser = Parser {
            template,
            program: Self::default(),
            blocks: Vec::new(),
            variables: vec![("".to_owned(), Term::Object(Object::Root))],
        };
        for piece in lex::pieces(template)? {
            match piece {
                Piece::Text(text) => parser.program.add_text(text),
                Piece::Action(tokens) => parser.action(&tokens)?,
            }
        }
        match parser.blocks.last() {
            Some(block) => Err(lex::error(template, block.at, "unclosed action: missing {{end}}")),
            None => Ok(parser.program),
        }
    }
}

/// What an operand is while it is parsed.
#[derive(Clone)]
enum Term {
    Object(Object),
    Value(Arc<Expr>, usize),
    /// `.Request.Header`
    Header,
    /// `.Request.Header.Get` and `.Values`: want a name.
    HeaderMethod(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Object {
    Root,
    Request,
    Response,
    Revision,
    Url,
}

struct Block {
    at: usize,
    dot: Term,
    variables: usize,
    /// Where the condition jumps if it is false: patched at `else` or `end`.
    condition: Option<usize>,
    /// Ends of branches, patched at `end`.
    exits: Vec<usize>,
    with: bool,
}

struct Parser<'a> {
    template: &'a str,
    program: Program,
    blocks: Vec<Block>,
    variables: Vec<(String, Term)>,
}

type Tokens<'a> = std::iter::Peekable<std::slice::Iter<'a, Token>>;

impl Parser<'_> {
    fn error(&self, at: usize, reason: impl Into<String>) -> TemplateError {
        lex::error(self.template, at, reason)
    }

    fn action(&mut self, tokens: &[Token]) -> Result<(), TemplateError> {
        let Some(first) = tokens.first() else {
            return Err(self.error(self.template.len().min(2), "missing value for command"));
        };
        let rest = tokens.get(1..).unwrap_or_default();
        match &first.kind {
            Kind::Word(word) => match word.as_str() {
                "if" | "with" => {
                    let dot = self.dot();
                    let variables = self.variables.len();
                    let with = word == "with";
                    let block = Block { at: first.at, dot, variables, condition: None, exits: Vec::new(), with };
                    self.blocks.push(block);
                    self.condition(first, rest)
                }
                "else" => self.otherwise(first, rest),
                "end" => self.end(first, rest),
                "range" | "define" | "block" | "template" | "break" | "continue" => {
                    Err(self.error(first.at, format!("{word:?} is not supported in a request log")))
                }
                _ => self.print(tokens),
            },
            _ => self.print(tokens),
        }
    }

    fn print(&mut self, tokens: &[Token]) -> Result<(), TemplateError> {
        let declared = self.declaration(tokens)?;
        if let Some((name, term)) = declared {
            self.variables.push((name, term));
            return Ok(());
        }
        let at = tokens.first().map_or(0, |token| token.at);
        let term = self.whole_pipeline(tokens)?;
        let (expr, _) = self.value(term, at)?;
        self.program.ops.push(Op::Print(expr));
        Ok(())
    }

    /// `$x := pipeline`
    fn declaration(&mut self, tokens: &[Token]) -> Result<Option<(String, Term)>, TemplateError> {
        let [Token { kind: Kind::Variable(name), at, .. }, Token { kind: Kind::Declare, .. }, rest @ ..] = tokens
        else {
            return Ok(None);
        };
        if name.is_empty() {
            return Err(self.error(*at, "a variable needs a name"));
        }
        if rest.is_empty() {
            return Err(self.error(*at, "missing value for command"));
        }
        Ok(Some((name.clone(), self.whole_pipeline(rest)?)))
    }

    fn condition(&mut self, keyword: &Token, tokens: &[Token]) -> Result<(), TemplateError> {
        if tokens.is_empty() {
            return Err(self.error(keyword.at, "missing value for condition"));
        }
        let declared = self.declaration(tokens)?;
        let term = match &declared {
            Some((_, term)) => term.clone(),
            None => self.whole_pipeline(tokens)?,
        };
        self.variables.extend(declared);
        let expr = match &term {
            // An object is always there.
            Term::Object(_) => Arc::new(Expr::Bool(true)),
            other => self.value(other.clone(), keyword.at)?.0,
        };
        self.program.ops.push(Op::JumpUnless(expr, 0));
        let condition = self.program.ops.len() - 1;
        if let Some(block) = self.blocks.last_mut() {
            block.condition = Some(condition);
            if block.with {
                block.dot = term;
            }
        }
        Ok(())
    }

    fn otherwise(&mut self, keyword: &Token, rest: &[Token]) -> Result<(), TemplateError> {
        let outer = self.blocks.len().checked_sub(2).and_then(|i| self.blocks.get(i)).map(|block| block.dot.clone());
        let here = self.program.ops.len();
        let Some(block) = self.blocks.last_mut() else {
            return Err(self.error(keyword.at, "unexpected {{else}}"));
        };
        let Some(condition) = block.condition.take() else {
            return Err(self.error(keyword.at, "a second {{else}}"));
        };
        block.exits.push(here);
        block.dot = outer.unwrap_or(Term::Object(Object::Root));
        let variables = block.variables;
        let with = block.with;
        self.program.ops.push(Op::Jump(0));
        self.patch(condition);
        self.variables.truncate(variables);
        let Some(next) = rest.first() else { return Ok(()) };
        match &next.kind {
            Kind::Word(word) if (word == "with") == with && (word == "if" || word == "with") => {
                self.condition(next, rest.get(1..).unwrap_or_default())
            }
            _ => Err(self.error(next.at, "unexpected token after {{else}}")),
        }
    }

    fn end(&mut self, keyword: &Token, rest: &[Token]) -> Result<(), TemplateError> {
        if let Some(token) = rest.first() {
            return Err(self.error(token.at, "unexpected token after {{end}}"));
        }
        let Some(block) = self.blocks.pop() else {
            return Err(self.error(keyword.at, "unexpected {{end}}"));
        };
        block.condition.into_iter().chain(block.exits).for_each(|op| self.patch(op));
        self.variables.truncate(block.variables);
        Ok(())
    }

    /// Lets the jump at `op` lead to what comes next.
    fn patch(&mut self, op: usize) {
        let here = self.program.ops.len();
        if let Some(Op::JumpUnless(_, target) | Op::Jump(target)) = self.program.ops.get_mut(op) {
            *target = here;
        }
    }

    fn dot(&self) -> Term {
        self.blocks.last().map_or(Term::Object(Object::Root), |block| block.dot.clone())
    }

    fn whole_pipeline(&self, tokens: &[Token]) -> Result<Term, TemplateError> {
        let mut tokens = tokens.iter().peekable();
        let term = self.pipeline(&mut tokens, 0)?;
        match tokens.next() {
            Some(token) => Err(self.error(token.at, "unexpected token in an action")),
            None => Ok(term),
        }
    }

    fn pipeline(&self, tokens: &mut Tokens<'_>, depth: usize) -> Result<Term, TemplateError> {
        let mut piped = None;
        loop {
            let at = tokens.peek().map_or(self.template.len(), |token| token.at);
            let term = self.command(tokens, piped.take(), depth)?;
            match tokens.peek().map(|token| &token.kind) {
                Some(Kind::Pipe) => {
                    tokens.next();
                    piped = Some(self.value(term, at)?);
                }
                _ => return Ok(term),
            }
        }
    }

    /// A function or a value, and what follows up to `|` or `)`.
    fn command(
        &self,
        tokens: &mut Tokens<'_>,
        piped: Option<(Arc<Expr>, usize)>,
        depth: usize,
    ) -> Result<Term, TemplateError> {
        let Some(first) = tokens.peek().copied() else {
            return Err(self.error(self.template.len(), "missing value for command"));
        };
        let function = match &first.kind {
            Kind::Word(word) => Function::named(word),
            _ => None,
        };
        let head = match function {
            Some(_) => {
                tokens.next();
                None
            }
            None => Some(self.operand(tokens, depth)?),
        };
        let mut arguments = Vec::new();
        let mut parts = 1;
        while let Some(token) = tokens.peek().copied() {
            if matches!(token.kind, Kind::Pipe | Kind::Close) {
                break;
            }
            let term = self.operand(tokens, depth)?;
            let (argument, size) = self.value(term, token.at)?;
            arguments.push(argument);
            parts += size;
        }
        if let Some((argument, size)) = piped {
            arguments.push(argument);
            parts += size;
        }
        if parts > MAX_PARTS {
            return Err(self.error(first.at, "expression too large"));
        }
        if arguments.iter().any(|argument| argument.nesting() >= MAX_NESTING) {
            return Err(self.error(first.at, "expression too deep"));
        }
        match (function, head) {
            (Some(function), _) => {
                self.check_arguments(function, arguments.len(), first.at)?;
                Ok(Term::Value(Arc::new(Expr::Call(function, arguments)), parts))
            }
            (None, Some(Term::HeaderMethod(all))) => match <[Arc<Expr>; 1]>::try_from(arguments) {
                Ok([name]) => {
                    let expr = if all { Expr::HeaderValues(name) } else { Expr::HeaderGet(name) };
                    Ok(Term::Value(Arc::new(expr), parts))
                }
                Err(_) => Err(self.error(first.at, "expected one header name")),
            },
            (None, Some(head)) if arguments.is_empty() => Ok(head),
            _ => Err(self.error(first.at, "can't give argument to non-function")),
        }
    }

    fn check_arguments(&self, function: Function, given: usize, at: usize) -> Result<(), TemplateError> {
        let (least, most) = match function {
            Function::Not | Function::Len => (1, 1),
            Function::Ne | Function::Lt | Function::Le | Function::Gt | Function::Ge => (2, 2),
            Function::Eq => (2, usize::MAX),
            Function::And | Function::Or | Function::Index | Function::Printf => (1, usize::MAX),
            Function::Print | Function::Println => (0, usize::MAX),
            Function::Js | Function::Html | Function::UrlQuery => (1, usize::MAX),
        };
        if (least..=most).contains(&given) {
            Ok(())
        } else {
            Err(self.error(at, format!("wrong number of args: want at least {least}, got {given}")))
        }
    }

    /// One operand with the fields that are glued to it.
    fn operand(&self, tokens: &mut Tokens<'_>, depth: usize) -> Result<Term, TemplateError> {
        let Some(token) = tokens.next() else {
            return Err(self.error(self.template.len(), "missing value for command"));
        };
        let value = |expr| Term::Value(Arc::new(expr), 1);
        let mut term = match &token.kind {
            Kind::Dot => self.dot(),
            Kind::Field(name) => self.member(&self.dot(), name, token.at)?,
            Kind::Variable(name) => match self.variables.iter().rev().find(|(known, _)| known == name) {
                Some((_, term)) => term.clone(),
                None => return Err(self.error(token.at, format!("undefined variable \"${name}\""))),
            },
            Kind::Text(text) => value(Expr::Text(text.clone())),
            Kind::Int(n) => value(Expr::Int(*n)),
            Kind::Float(n) => value(Expr::Float(*n)),
            Kind::Word(word) => match (word.as_str(), Function::named(word)) {
                ("true", _) => value(Expr::Bool(true)),
                ("false", _) => value(Expr::Bool(false)),
                (_, Some(_)) => {
                    return Err(self.error(token.at, format!("function {word:?} needs parentheses here")));
                }
                _ => return Err(self.error(token.at, format!("function {word:?} not defined"))),
            },
            Kind::Open if depth >= MAX_DEPTH => return Err(self.error(token.at, "too many parentheses")),
            Kind::Open => {
                let term = self.pipeline(tokens, depth + 1)?;
                match tokens.next() {
                    Some(Token { kind: Kind::Close, .. }) => term,
                    _ => return Err(self.error(token.at, "unclosed left paren")),
                }
            }
            Kind::Close | Kind::Pipe | Kind::Declare => {
                return Err(self.error(token.at, "unexpected token in an action"));
            }
        };
        while let Some(Token { kind: Kind::Field(name), at, glued: true }) = tokens.peek() {
            term = self.member(&term, name, *at)?;
            tokens.next();
        }
        Ok(term)
    }

    fn member(&self, term: &Term, name: &str, at: usize) -> Result<Term, TemplateError> {
        let field = |field| Ok(Term::Value(Arc::new(Expr::Field(field)), 1));
        let object = match term {
            Term::Object(object) => *object,
            Term::Header => {
                return Ok(match name {
                    "Get" => Term::HeaderMethod(false),
                    "Values" => Term::HeaderMethod(true),
                    name => Term::Value(Arc::new(Expr::HeaderMember(name.to_owned())), 1),
                });
            }
            Term::Value(expr, _)
                if **expr == Expr::Field(Field::Tls)
                    && let Some(field) = TlsField::named(name) =>
            {
                return Ok(Term::Value(Arc::new(Expr::TlsField(field)), 1));
            }
            _ => return Err(self.error(at, format!("can't evaluate field {name}"))),
        };
        match (object, name) {
            (Object::Root, "Request") => Ok(Term::Object(Object::Request)),
            (Object::Root, "Response") => Ok(Term::Object(Object::Response)),
            (Object::Root, "Revision") => Ok(Term::Object(Object::Revision)),
            (Object::Root, "TraceID") => field(Field::TraceId),
            (Object::Request, "Method") => field(Field::Method),
            (Object::Request, "RequestURI") => field(Field::RequestUri),
            (Object::Request, "URL") => Ok(Term::Object(Object::Url)),
            (Object::Request, "Proto") => field(Field::Proto),
            (Object::Request, "ProtoMajor") => field(Field::ProtoMajor),
            (Object::Request, "ProtoMinor") => field(Field::ProtoMinor),
            (Object::Request, "Host") => field(Field::Host),
            (Object::Request, "RemoteAddr") => field(Field::RemoteAddr),
            (Object::Request, "ContentLength") => field(Field::ContentLength),
            (Object::Request, "UserAgent") => field(Field::UserAgent),
            (Object::Request, "Referer") => field(Field::Referer),
            (Object::Request, "Header") => Ok(Term::Header),
            (Object::Request, "TLS") => field(Field::Tls),
            (Object::Url, "Path") => field(Field::UrlPath),
            (Object::Url, "RawQuery") => field(Field::UrlRawQuery),
            (Object::Url, "Host") => field(Field::UrlHost),
            (Object::Url, "Scheme") => field(Field::UrlScheme),
            (Object::Url, "String" | "RequestURI") => field(Field::RequestUri),
            (Object::Response, "Code") => field(Field::Code),
            (Object::Response, "Size") => field(Field::Size),
            (Object::Response, "Latency") => field(Field::Latency),
            (Object::Revision, "Name") => field(Field::RevisionName),
            (Object::Revision, "Namespace") => field(Field::RevisionNamespace),
            (Object::Revision, "Service") => field(Field::RevisionService),
            (Object::Revision, "Configuration") => field(Field::RevisionConfiguration),
            (Object::Revision, "PodName") => field(Field::RevisionPodName),
            (Object::Revision, "PodIP") => field(Field::RevisionPodIp),
            _ => Err(self.error(at, format!("can't evaluate field {name} of {object:?}"))),
        }
    }

    /// What can be printed or given to a function, and its size.
    fn value(&self, term: Term, at: usize) -> Result<(Arc<Expr>, usize), TemplateError> {
        match term {
            Term::Value(expr, parts) => Ok((expr, parts)),
            Term::Header => Ok((Arc::new(Expr::Field(Field::Header)), 1)),
            Term::Object(Object::Url) => Ok((Arc::new(Expr::Field(Field::RequestUri)), 1)),
            Term::Object(object) => Err(self.error(at, format!("{object:?} is not a value; name one of its fields"))),
            Term::HeaderMethod(_) => Err(self.error(at, "expected one header name")),
        }
    }
}
