//! A YAML text as a tree in which every node knows its place: the source of all positions in diagnostics.
//!
//! `build` makes one from a text and keeps it within bounds; `read` turns it into values.

use std::borrow::Cow;

/// A node's number in its tree.
pub type Id = usize;

/// A YAML document.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    root: Option<Id>,
}

#[derive(Debug)]
pub struct Node {
    pub kind: Kind,
    pub place: Place,
    /// The node around it, and how to get here from there. A key's step is that of its value.
    pub up: Option<(Id, Step)>,
    pub is_key: bool,
    /// The key that it stands under, if it does.
    pub key: Option<Id>,
}

#[derive(Debug)]
pub enum Kind {
    Scalar(Scalar),
    List(Vec<Id>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub struct Scalar {
    pub text: String,
    /// Not quoted, so that it may be a number, a boolean or nothing.
    pub plain: bool,
    /// The environment variables it was made of, and its text before.
    pub from: Option<Reference>,
}

/// A scalar as it stood in the file, with `${NAME}` in it.
#[derive(Debug, Clone)]
pub struct Reference {
    pub written: String,
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub key: Id,
    pub value: Id,
}

/// One step down a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// Where in the text: line and column from 1, width in characters within that line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
    pub width: usize,
}

impl From<saphyr_parser::Span> for Place {
    fn from(span: saphyr_parser::Span) -> Self {
        let one_line = span.start.line() == span.end.line();
        Place {
            line: span.start.line(),
            column: span.start.col() + 1,
            width: if one_line { span.len().max(1) } else { 1 },
        }
    }
}

/// What a plain scalar means, by YAML 1.2's core schema. Numbers are only those written without sign, leading zeros or
/// fraction: everything else stays the text it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Meaning<'t> {
    Nothing,
    Bool(bool),
    Number(u64),
    Text(&'t str),
}

impl Scalar {
    pub fn meaning(&self) -> Meaning<'_> {
        if !self.plain {
            return Meaning::Text(&self.text);
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Nothing,
            "true" | "True" | "TRUE" => Meaning::Bool(true),
            "false" | "False" | "FALSE" => Meaning::Bool(false),
            text => match text.parse::<u64>() {
                Ok(number) if number.to_string() == text => Meaning::Number(number),
                _ => Meaning::Text(text),
            },
        }
    }
}

impl Tree {
    pub(super) fn empty() -> Self {
        Tree {
            nodes: Vec::new(),
            root: None,
        }
    }

    /// Adds a node; the first one is the root.
    pub(super) fn add(&mut self, kind: Kind, place: Place) -> Id {
        let id = self.nodes.len();
        self.nodes.push(Node {
            kind,
            place,
            up: None,
            is_key: false,
            key: None,
        });
        self.root.get_or_insert(id);
        id
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id]
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn root(&self) -> Option<Id> {
        self.root
    }

    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    /// The scalars that are values.
    pub fn scalars_mut(&mut self) -> impl Iterator<Item = (Id, &mut Scalar)> {
        let nodes = self.nodes.iter_mut().enumerate();
        nodes.filter_map(|(id, node)| match &mut node.kind {
            Kind::Scalar(scalar) if !node.is_key => Some((id, scalar)),
            _ => None,
        })
    }

    /// The text of a scalar; empty for what is none.
    pub fn text(&self, id: Id) -> &str {
        match &self.nodes[id].kind {
            Kind::Scalar(scalar) => &scalar.text,
            _ => "",
        }
    }

    /// The key that a value stands under, if it stands under one.
    pub fn key_of(&self, id: Id) -> Option<Id> {
        self.nodes[id].key
    }

    /// Where to point for a node: a scalar's own text; a collection's key, or its beginning.
    pub fn place(&self, id: Id) -> Place {
        match (&self.nodes[id].kind, self.key_of(id)) {
            (Kind::Scalar(scalar), Some(key)) if scalar.text.is_empty() && scalar.plain => {
                self.nodes[key].place
            }
            (Kind::Map(_) | Kind::List(_), Some(key)) => self.nodes[key].place,
            (Kind::Map(entries), None) => match entries.first() {
                Some(first) => self.nodes[first.key].place,
                None => self.nodes[id].place,
            },
            _ => self.nodes[id].place,
        }
    }

    /// A node, the one around it, and so on to the root.
    pub fn ancestors(&self, id: Id) -> impl Iterator<Item = Id> {
        std::iter::successors(Some(id), |id| {
            self.nodes[*id].up.as_ref().map(|(up, _)| *up)
        })
    }

    /// The steps from the root.
    pub fn steps(&self, id: Id) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut at = id;
        while let Some((parent, step)) = &self.nodes[at].up {
            steps.push(step.clone());
            at = *parent;
        }
        steps.reverse();
        steps
    }
}

/// Steps to a value, put together on the way down.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    pub fn of(keys: &[&str]) -> Self {
        Steps(
            keys.iter()
                .map(|key| Step::Key((*key).to_owned()))
                .collect(),
        )
    }

    pub fn key(&self, key: &str) -> Self {
        self.and(Step::Key(key.to_owned()))
    }

    pub fn index(&self, index: usize) -> Self {
        self.and(Step::Index(index))
    }

    fn and(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Steps(steps)
    }
}

impl std::ops::Deref for Steps {
    type Target = [Step];

    fn deref(&self) -> &[Step] {
        &self.0
    }
}

/// Steps as an operator reads them: `outbound.routes[1].timeouts`.
pub fn path(steps: &[Step]) -> String {
    let mut path = String::new();
    for step in steps {
        let plain = |key: &str| {
            key.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'/'))
        };
        match step {
            Step::Index(index) => path.push_str(&format!("[{index}]")),
            Step::Key(key) if !plain(key) || key.is_empty() => {
                path.push_str(&format!("[{:?}]", short(key)));
            }
            Step::Key(key) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&short(key));
            }
        }
    }
    path
}

/// A text as it may stand in a message: at most 60 characters.
pub fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(60) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// A text without anything that a terminal obeys: control characters, and those that turn the direction of writing.
pub fn safe(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let safe = |c: char| match c.is_control() || turns(c) {
        true => '\u{fffd}',
        false => c,
    };
    text.chars().map(safe).collect()
}
