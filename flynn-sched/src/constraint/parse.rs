//! Reads expressions: a recursive descent over tokens that know where they stand.

use std::fmt;

use crate::constraint::expression::{Attribute, Comparison, Expression, In, Node, Test};

/// Why a text is no expression: where, what was expected there, and what is there. Shown with the place marked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseExpressionError {
    text: String,
    at: usize,
    expected: String,
    found: String,
}

impl ParseExpressionError {
    /// Where the text goes wrong, in bytes from its beginning.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// What would be right there.
    #[must_use]
    pub fn expected(&self) -> &str {
        &self.expected
    }
}

impl std::error::Error for ParseExpressionError {}

impl fmt::Display for ParseExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            text,
            at,
            expected,
            found,
        } = self;
        let before: Vec<char> = text[..*at].chars().rev().take(SHOWN).collect();
        let after: String = text[*at..].chars().take(SHOWN).collect();
        let line: String = before.iter().rev().collect::<String>() + &after;
        let line: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let column = before.len();
        write!(
            f,
            "at {at}: expected {expected}, found {found}\n  {line}\n  {:column$}^",
            ""
        )
    }
}

/// How many characters are shown on each side of an error.
const SHOWN: usize = 60;

/// Units of bytes.
pub(super) const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "has", "matches"];

/// Is the text read as one word that is no keyword?
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_of_word) && !KEYWORDS.contains(&text)
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || "_./:*?+-@%".contains(c)
}

pub(super) fn parse(text: &str) -> Result<Node, ParseExpressionError> {
    if text.len() > Expression::MAX_LENGTH {
        return Err(ParseExpressionError {
            at: 0,
            expected: format!("at most {} bytes", Expression::MAX_LENGTH),
            found: format!("{} bytes", text.len()),
            text: text.chars().take(SHOWN).collect(),
        });
    }
    let mut parser = Parser { text, at: 0 };
    let node = parser.any(0)?;
    match parser.peek()? {
        Token::End => Ok(node),
        _ => Err(parser.expected("'and', 'or' or the end")),
    }
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Compare(Comparison),
    Open,
    Close,
    Comma,
    End,
}

impl Parser<'_> {
    fn any(&mut self, depth: usize) -> Result<Node, ParseExpressionError> {
        let mut nodes = Vec::new();
        loop {
            match self.all(depth)? {
                Node::Any(more) => nodes.extend(more),
                node => nodes.push(node),
            }
            if !self.takes("or")? {
                break;
            }
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Node, ParseExpressionError> {
        let mut nodes = Vec::new();
        loop {
            match self.one(depth)? {
                Node::All(more) => nodes.extend(more),
                node => nodes.push(node),
            }
            if !self.takes("and")? {
                break;
            }
        }
        Ok(one_or(nodes, Node::All))
    }

    fn one(&mut self, depth: usize) -> Result<Node, ParseExpressionError> {
        let (token, start) = (self.peek()?, self.at);
        if depth > Expression::MAX_DEPTH {
            return Err(self.expected(&format!(
                "at most {} nested parentheses and 'not's",
                Expression::MAX_DEPTH
            )));
        }
        match token {
            Token::Open => {
                self.next()?;
                let node = self.any(depth + 1)?;
                self.take(&Token::Close, "'and', 'or' or ')'")?;
                Ok(node)
            }
            Token::Word(word) if word == "not" => {
                self.next()?;
                Ok(Node::Not(Box::new(self.one(depth + 1)?)))
            }
            Token::Word(word) if word == "has" => {
                self.next()?;
                self.peek()?;
                Ok(Node::Test(self.attribute()?, Test::Present))
            }
            Token::Word(_) => {
                let attribute = self.attribute()?;
                let test = self.test(&attribute)?;
                Ok(Node::Test(attribute, test))
            }
            _ => {
                self.at = start;
                Err(self.expected("a condition"))
            }
        }
    }

    /// An attribute; the parser stands at its beginning.
    fn attribute(&mut self) -> Result<Attribute, ParseExpressionError> {
        let (token, start) = (self.peek()?, self.at);
        let Token::Word(word) = token else {
            return Err(self.expected(ATTRIBUTES));
        };
        self.next()?;
        Ok(match word.as_str() {
            "id" => Attribute::Id,
            "zone" => Attribute::Zone,
            "rack" => Attribute::Rack,
            "cpu" => Attribute::Cpu,
            "memory" => Attribute::Memory,
            "disk" => Attribute::Disk,
            "tag." | "named." if self.text[self.at..].starts_with('"') => {
                match (word.as_str(), self.next()?) {
                    ("tag.", Token::Quoted(key)) => Attribute::Tag(key),
                    (_, Token::Quoted(name)) => Attribute::Named(name),
                    _ => return Err(self.expected("a quoted name")),
                }
            }
            word => match (word.strip_prefix("tag."), word.strip_prefix("named.")) {
                (Some(key), _) if !key.is_empty() => Attribute::Tag(key.to_owned()),
                (_, Some(name)) if !name.is_empty() => Attribute::Named(name.to_owned()),
                _ => {
                    self.at = start;
                    return Err(self.expected(ATTRIBUTES));
                }
            },
        })
    }

    fn test(&mut self, of: &Attribute) -> Result<Test, ParseExpressionError> {
        let (token, start) = (self.peek()?, self.at);
        match token {
            Token::Compare(comparison) => {
                self.next()?;
                if of.is_amount() {
                    return Ok(Test::Amount(comparison, self.amount(of)?));
                }
                Ok(Test::Text(comparison, self.value()?))
            }
            Token::Word(word) if word == "in" => {
                self.next()?;
                self.list(of, In::In)
            }
            Token::Word(word) if word == "not" => {
                self.next()?;
                if !self.takes("in")? {
                    return Err(self.expected("'in'"));
                }
                self.list(of, In::NotIn)
            }
            Token::Word(word) if word == "matches" && !of.is_amount() => {
                self.next()?;
                Ok(Test::Matches(self.value()?))
            }
            _ => {
                self.at = start;
                let text = if of.is_amount() { "" } else { ", 'matches'" };
                Err(self.expected(&format!("=, !=, <, <=, >, >=, 'in', 'not in'{text}")))
            }
        }
    }

    fn list(&mut self, of: &Attribute, within: In) -> Result<Test, ParseExpressionError> {
        self.take(&Token::Open, "'('")?;
        let (mut amounts, mut texts) = (Vec::new(), Vec::new());
        loop {
            if of.is_amount() {
                amounts.push(self.amount(of)?);
            } else {
                texts.push(self.value()?);
            }
            match self.peek()? {
                Token::Comma => self.next()?,
                Token::Close => break,
                _ => return Err(self.expected("',' or ')'")),
            };
        }
        self.next()?;
        Ok(if of.is_amount() {
            Test::AmountIn(within, amounts)
        } else {
            Test::TextIn(within, texts)
        })
    }

    fn value(&mut self) -> Result<String, ParseExpressionError> {
        match self.peek()? {
            Token::Word(word) if is_word(&word) => {
                self.next()?;
                Ok(word)
            }
            Token::Quoted(text) => {
                self.next()?;
                Ok(text)
            }
            _ => Err(self.expected("a value (keywords in double quotes)")),
        }
    }

    fn amount(&mut self, of: &Attribute) -> Result<u64, ParseExpressionError> {
        let (token, start) = (self.peek()?, self.at);
        let amount = match &token {
            Token::Word(word) => {
                let unit = UNITS
                    .iter()
                    .find_map(|(unit, size)| Some((word.strip_suffix(unit)?, *size)))
                    .filter(|_| of.is_bytes());
                let (digits, size) = unit.unwrap_or((word, 1));
                let number: Option<u64> = digits.parse().ok();
                number.and_then(|number| number.checked_mul(size))
            }
            _ => None,
        };
        if let Some(amount) = amount {
            self.next()?;
            return Ok(amount);
        }
        self.at = start;
        Err(self.expected(if of.is_bytes() {
            "a whole number of bytes, such as 1073741824 or 32GiB"
        } else {
            "a whole number, such as 4000"
        }))
    }

    fn takes(&mut self, keyword: &str) -> Result<bool, ParseExpressionError> {
        let is_it = matches!(self.peek()?, Token::Word(word) if word == keyword);
        if is_it {
            self.next()?;
        }
        Ok(is_it)
    }

    fn take(&mut self, token: &Token, expected: &str) -> Result<(), ParseExpressionError> {
        if self.peek()? != *token {
            return Err(self.expected(expected));
        }
        self.next()?;
        Ok(())
    }

    /// The next token, and the parser at its beginning.
    fn peek(&mut self) -> Result<Token, ParseExpressionError> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        let start = self.at;
        let token = self.next();
        self.at = if token.is_ok() { start } else { self.at };
        token
    }

    fn next(&mut self) -> Result<Token, ParseExpressionError> {
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else {
            return Ok(Token::End);
        };
        let (token, len) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            '"' => return self.quoted(),
            '=' if rest.starts_with("==") => (Token::Compare(Comparison::Equal), 2),
            '=' => (Token::Compare(Comparison::Equal), 1),
            '!' if rest.starts_with("!=") => (Token::Compare(Comparison::NotEqual), 2),
            '<' if rest.starts_with("<=") => (Token::Compare(Comparison::AtMost), 2),
            '<' => (Token::Compare(Comparison::Less), 1),
            '>' if rest.starts_with(">=") => (Token::Compare(Comparison::AtLeast), 2),
            '>' => (Token::Compare(Comparison::More), 1),
            c if is_of_word(c) => {
                let len = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                (Token::Word(rest[..len].to_owned()), len)
            }
            _ => return Err(self.expected("a word, a quoted text, a comparison or '('")),
        };
        self.at += len;
        Ok(token)
    }

    fn quoted(&mut self) -> Result<Token, ParseExpressionError> {
        let mut text = String::new();
        let mut chars = self.text[self.at..].char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(Token::Quoted(text));
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    _ => {
                        self.at += at;
                        return Err(self.expected("\\\" or \\\\"));
                    }
                },
                c => text.push(c),
            }
        }
        Err(self.expected("a second \" somewhere"))
    }

    /// The error that something else is here.
    fn expected(&self, what: &str) -> ParseExpressionError {
        let rest = &self.text[self.at..];
        let word = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let found: String = match rest[..word].chars().take(SHOWN).collect::<String>() {
            word if !word.is_empty() => format!("'{word}'"),
            _ => match rest.chars().next() {
                Some(c) => format!("'{c}'"),
                None => "the end".to_owned(),
            },
        };
        ParseExpressionError {
            text: self.text.to_owned(),
            at: self.at,
            expected: what.to_owned(),
            found,
        }
    }
}

const ATTRIBUTES: &str = "one of id, zone, rack, cpu, memory, disk, named.<name>, tag.<key>";

fn one_or(mut nodes: Vec<Node>, list: fn(Vec<Node>) -> Node) -> Node {
    if nodes.len() == 1 {
        nodes.swap_remove(0)
    } else {
        list(nodes)
    }
}
