//! YAML as a tree in which every node knows where it stands.
//!
//! A small language on purpose: one document, no anchors, aliases or tags. An alias can make a
//! kilobyte mean a terabyte, and no configuration is clearer with one.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::problem::Place;

/// How deep lists and maps may be nested: twice what any key needs.
const DEEPEST: usize = 16;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Place,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `null` or `~`.
    Nothing,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Place,
    pub(crate) value: Node,
}

/// Why a text is no tree.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: Place,
    pub(crate) what: String,
}

impl Node {
    /// What kind of value it is, for people.
    pub(crate) fn kind(&self) -> String {
        match &self.value {
            Value::Nothing => "nothing".to_owned(),
            Value::Text(text) => format!("`{text}`"),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// What it says, in one way however it was written.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Nothing => f.write_str("~"),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(items) => {
                f.write_str("[")?;
                items.iter().try_for_each(|item| write!(f, "{item},"))?;
                f.write_str("]")
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                entries.iter().try_for_each(|of| write!(f, "{:?}:{},", of.key, of.value))?;
                f.write_str("}")
            }
        }
    }
}

/// The tree of a text; an empty one is nothing.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    let mut tree = Tree { parser: Parser::new_from_str(text) };
    let mut root = None;
    loop {
        let (event, at) = tree.next()?;
        match event {
            Event::StreamEnd => break,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if root.is_some() => {
                return Err(fault(at, "a second document; a configuration is one"));
            }
            event => root = Some(tree.node(event, at, 0)?),
        }
    }
    let start = Place { line: 1, column: 1 };
    Ok(root.unwrap_or(Node { at: start, value: Value::Nothing }))
}

struct Tree<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
}

impl<'t> Tree<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Place), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(&span))),
            Some(Err(error)) => {
                let marker = error.marker();
                let at = Place { line: marker.line(), column: marker.col() + 1 };
                Err(match error.info() {
                    info if info.ends_with("unknown anchor") => fault(at, ALIAS),
                    info => Fault { at, what: format!("not YAML: {info}") },
                })
            }
            None => Ok((Event::StreamEnd, Place { line: 1, column: 1 })),
        }
    }

    fn node(&mut self, event: Event<'t>, at: Place, depth: usize) -> Result<Node, Fault> {
        if depth > DEEPEST {
            return Err(fault(at, "nested too deep; no key needs that"));
        }
        let value = match event {
            Event::Scalar(text, style, 0, None) => scalar(&text, style),
            Event::SequenceStart(0, None) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Value::List(items),
                        (event, at) => items.push(self.node(event, at, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(0, None) => self.map(depth)?,
            Event::Alias(_) => return Err(fault(at, ALIAS)),
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err(fault(at, "anchors, aliases and tags are not read; write it out"));
            }
            _ => return Err(fault(at, "the text ends within a value")),
        };
        Ok(Node { at, value })
    }

    fn map(&mut self, depth: usize) -> Result<Value, Fault> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        loop {
            let (event, key_at) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(entries));
            }
            let key = self.node(event, key_at, depth + 1)?;
            let Value::Text(key) = key.value else {
                return Err(fault(key_at, "a key is a text"));
            };
            if let Some(line) = lines.insert(key.clone(), key_at.line) {
                let what = format!("the key `{key}` stands in line {line} already");
                return Err(Fault { at: key_at, what });
            }
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            entries.push(Entry { key, key_at, value });
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    match (style, text) {
        (ScalarStyle::Plain, "" | "~" | "null") => Value::Nothing,
        _ => Value::Text(text.to_owned()),
    }
}

fn place(span: &Span) -> Place {
    Place { line: span.start.line(), column: span.start.col() + 1 }
}

const ALIAS: &str = "`*` begins an alias in YAML, and none are read; write it out, and a name such \
                     as '*.example.com' in quotes";

fn fault(at: Place, what: &str) -> Fault {
    Fault { at, what: what.to_owned() }
}
