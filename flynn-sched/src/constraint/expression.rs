//! Conditions on hosts as people write them.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Host, constraint::parse};

pub use parse::ParseExpressionError;

/// A condition on hosts, parsed once from text such as
/// `zone in (a, b) and tag.ssd = true and not rack = r7 and memory >= 32GiB`.
///
/// ```text
/// condition  = any ; any = all { "or" all } ; all = one { "and" one }
/// one        = "not" one | "(" any ")" | "has" attribute | attribute test
/// test       = ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value | [ "not" ] "in" "(" value { "," value } ")"
///            | "matches" value
/// attribute  = "id" | "zone" | "rack" | "cpu" | "memory" | "disk" | "named." name | "tag." key
/// value      = letters, digits and any of _ . / : * ? + - @ % | "anything in double quotes, with \" and \\"
/// ```
///
/// * `id`, `zone`, `rack` and tags are text; `=`, `!=` and `in` compare it exactly. `matches` takes a pattern in which `*`
///   is any text and `?` any one character.
/// * `<`, `<=`, `>` and `>=` compare text as versions: numbers between dots, one by one, so that `5.10 > 5.9`; what is
///   missing is 0, and what has a `-suffix` comes before what has none. Text that is no version is neither less nor
///   more.
/// * `cpu` (in thousandths of a core), `memory` and `disk` (in bytes, or with a unit: `KiB`, `MiB`, `GiB`, `TiB`, `KB`,
///   `MB`, `GB`, `TB`) are the host's capacity, `named.gpu` is how many GPUs it has: 0 if it has none.
/// * Every test of a tag, zone or rack that the host does not have is false, `!=` and `not in` too. `not tag.a = b` is
///   true where there is no tag `a`; `has tag.a` asks for it.
///
/// ```
/// use flynn_sched::{Constraint, Expression};
///
/// let expression: Expression = "named.gpu >= 2 and (tag.kernel >= 5.10 or tag.kernel matches 4.19.*)".parse().unwrap();
/// let constraint = Constraint::Expression(expression);
/// let error = "zone in (a, b and has tag.ssd".parse::<Expression>().unwrap_err();
/// assert_eq!(error.to_string(), "at 14: expected ',' or ')', found 'and'
///   zone in (a, b and has tag.ssd
///                 ^");
/// ```
///
/// Its text form is canonical: parsing it gives the same expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression(pub(super) Node);

impl Expression {
    /// The longest text that is parsed, in bytes.
    pub const MAX_LENGTH: usize = 4096;
    /// How deep parentheses and `not`s may be nested.
    pub const MAX_DEPTH: usize = 32;

    /// Is it true of the host?
    #[must_use]
    pub fn admits(&self, host: &Host) -> bool {
        self.0.admits(host)
    }

    /// Which part of it is not true of the host, in a sentence fragment; empty if it is true.
    #[must_use]
    pub fn lack(&self, host: &Host) -> String {
        self.0.lack(host).unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// At least two, none of which is `Any`.
    Any(Vec<Self>),
    /// At least two, none of which is `All`.
    All(Vec<Self>),
    Not(Box<Self>),
    Test(Attribute, Test),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Id,
    Zone,
    Rack,
    Cpu,
    Memory,
    Disk,
    Named(String),
    Tag(String),
}

/// What is asked of an attribute. Tests of amounts are only asked of amounts, tests of texts only of texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Test {
    Present,
    Amount(Comparison, u64),
    AmountIn(In, Vec<u64>),
    Text(Comparison, String),
    TextIn(In, Vec<String>),
    Matches(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum In {
    In,
    NotIn,
}

/// What a host has of an attribute.
enum Has<'h> {
    Amount(u64),
    Text(Option<&'h str>),
}

impl Attribute {
    pub(super) fn is_amount(&self) -> bool {
        matches!(self, Self::Cpu | Self::Memory | Self::Disk | Self::Named(_))
    }

    pub(super) fn is_bytes(&self) -> bool {
        matches!(self, Self::Memory | Self::Disk)
    }

    fn of<'h>(&self, host: &'h Host) -> Has<'h> {
        match self {
            Self::Id => Has::Text(Some(host.id.as_str())),
            Self::Zone => Has::Text(host.zone.as_deref()),
            Self::Rack => Has::Text(host.rack.as_deref()),
            Self::Cpu => Has::Amount(host.capacity.cpu_millis),
            Self::Memory => Has::Amount(host.capacity.memory_bytes),
            Self::Disk => Has::Amount(host.capacity.disk_bytes),
            Self::Named(name) => Has::Amount(host.named.amount(name)),
            Self::Tag(key) => Has::Text(host.tags.get(key).map(String::as_str)),
        }
    }
}

impl Node {
    fn admits(&self, host: &Host) -> bool {
        match self {
            Self::Any(nodes) => nodes.iter().any(|node| node.admits(host)),
            Self::All(nodes) => nodes.iter().all(|node| node.admits(host)),
            Self::Not(node) => !node.admits(host),
            Self::Test(attribute, test) => test.admits(&attribute.of(host)),
        }
    }

    fn lack(&self, host: &Host) -> Option<String> {
        if self.admits(host) {
            return None;
        }
        let lacks = |nodes: &[Self], word| {
            let lacks: Vec<String> = nodes.iter().filter_map(|node| node.lack(host)).collect();
            lacks.join(word)
        };
        Some(match self {
            Self::Any(nodes) => lacks(nodes, " or "),
            Self::All(nodes) => lacks(nodes, " and "),
            Self::Not(node) => match &**node {
                Self::Test(attribute, _) => format!("needs {self}, {}", said(attribute, host)),
                _ => format!("needs {self}"),
            },
            Self::Test(attribute, _) => format!("needs {self}, {}", said(attribute, host)),
        })
    }
}

/// What a host has, as people read it.
fn said(attribute: &Attribute, host: &Host) -> String {
    match attribute.of(host) {
        Has::Amount(amount) => format!("it is {}", Amount(attribute, amount)),
        Has::Text(Some(text)) => format!("it is {}", Quoted(text)),
        Has::Text(None) => "there is none".to_owned(),
    }
}

impl Test {
    fn admits(&self, has: &Has<'_>) -> bool {
        match (self, has) {
            (Self::Present, Has::Amount(amount)) => *amount > 0,
            (Self::Present, Has::Text(text)) => text.is_some(),
            (Self::Amount(comparison, than), Has::Amount(amount)) => {
                comparison.admits(amount.cmp(than))
            }
            (Self::AmountIn(within, list), Has::Amount(amount)) => {
                list.contains(amount) == (*within == In::In)
            }
            (Self::Text(comparison, than), Has::Text(Some(text))) => match comparison {
                Comparison::Equal => text == than,
                Comparison::NotEqual => text != than,
                ordered => by_version(text, than).is_some_and(|order| ordered.admits(order)),
            },
            (Self::TextIn(within, list), Has::Text(Some(text))) => {
                list.iter().any(|value| value == text) == (*within == In::In)
            }
            (Self::Matches(pattern), Has::Text(Some(text))) => matches(pattern, text),
            _ => false,
        }
    }
}

impl Comparison {
    fn admits(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

/// The order of two versions; `None` if one of them is none.
fn by_version(a: &str, b: &str) -> Option<Ordering> {
    let parts = |text: &str| -> Option<(Vec<u64>, Option<String>)> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let (numbers, suffix) = match text.split_once('-') {
            Some((numbers, suffix)) => (numbers, Some(suffix.to_owned())),
            None => (text, None),
        };
        let numbers: Result<Vec<u64>, _> = numbers.split('.').map(str::parse).collect();
        let mut numbers = numbers.ok()?;
        while numbers.last() == Some(&0) {
            numbers.pop();
        }
        Some((numbers, suffix))
    };
    let (a, b) = (parts(a)?, parts(b)?);
    let by_suffix = match (&a.1, &b.1) {
        (None, None) => Ordering::Equal,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(a), Some(b)) => a.cmp(b),
    };
    Some(a.0.cmp(&b.0).then(by_suffix))
}

/// Does the text match a pattern with `*` and `?`? Takes at most the product of their lengths.
fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // After the last star: where the pattern goes on, and from where in the text it is tried.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut retry {
                Some((after, from)) => {
                    *from += 1;
                    (p, t) = (*after, *from);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

impl FromStr for Expression {
    type Err = ParseExpressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::parse(text).map(Self)
    }
}

impl TryFrom<String> for Expression {
    type Error = ParseExpressionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.to_string()
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, nodes: &[Self], word| {
            for (n, node) in nodes.iter().enumerate() {
                f.write_str(if n == 0 { "" } else { word })?;
                match node {
                    Self::Any(_) => write!(f, "({node})"),
                    node => node.fmt(f),
                }?;
            }
            Ok(())
        };
        match self {
            Self::Any(nodes) => list(f, nodes, " or "),
            Self::All(nodes) => list(f, nodes, " and "),
            Self::Not(node) => match &**node {
                Self::Any(_) | Self::All(_) => write!(f, "not ({node})"),
                node => write!(f, "not {node}"),
            },
            Self::Test(attribute, Test::Present) => write!(f, "has {attribute}"),
            Self::Test(attribute, test) => {
                write!(f, "{attribute} ")?;
                test.show(attribute, f)
            }
        }
    }
}

impl Test {
    fn show(&self, attribute: &Attribute, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |values: Vec<String>| values.join(", ");
        match self {
            Self::Present => Ok(()),
            Self::Amount(comparison, amount) => {
                write!(f, "{comparison} {}", Amount(attribute, *amount))
            }
            Self::Text(comparison, text) => write!(f, "{comparison} {}", Quoted(text)),
            Self::Matches(pattern) => write!(f, "matches {}", Quoted(pattern)),
            Self::AmountIn(within, list) => {
                let values = list.iter().map(|n| Amount(attribute, *n).to_string());
                write!(f, "{within} ({})", joined(values.collect()))
            }
            Self::TextIn(within, list) => {
                let values = list.iter().map(|text| Quoted(text).to_string());
                write!(f, "{within} ({})", joined(values.collect()))
            }
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("id"),
            Self::Zone => f.write_str("zone"),
            Self::Rack => f.write_str("rack"),
            Self::Cpu => f.write_str("cpu"),
            Self::Memory => f.write_str("memory"),
            Self::Disk => f.write_str("disk"),
            Self::Named(name) => write!(f, "named.{}", Quoted(name)),
            Self::Tag(key) => write!(f, "tag.{}", Quoted(key)),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        })
    }
}

impl fmt::Display for In {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::NotIn => "not in",
        })
    }
}

/// An amount of an attribute, with the largest unit of which it is a multiple.
struct Amount<'a>(&'a Attribute, u64);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(attribute, amount) = self;
        let mut units = parse::UNITS.iter().filter(|(unit, _)| unit.contains('i'));
        let unit = units.find(|(_, size)| *amount > 0 && amount.is_multiple_of(*size));
        match unit.filter(|_| attribute.is_bytes()) {
            Some((unit, size)) => write!(f, "{}{unit}", amount / size),
            None => write!(f, "{amount}"),
        }
    }
}

/// A text, in quotes where it would not be read as one word.
struct Quoted<'t>(&'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if parse::is_word(self.0) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str("\"")
    }
}
