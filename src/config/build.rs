//! YAML text to tree, within bounds: 1 MiB of text, 64 levels, 100,000 nodes (an alias counts as what it stands for),
//! one document.
//!
//! A text that is no YAML stops at its first error; keys said twice and tags are told beside the tree they leave.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::{
    diagnostic::Problem,
    tree::{Entry, Id, Kind, Place, Scalar, Step, Tree, short},
};

const MAX_BYTES: usize = 1 << 20;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 100_000;

/// Reads a text into a tree, as far as it goes, with every problem of the text itself.
pub fn build(text: &str) -> (Tree, Vec<Problem>) {
    let mut builder = Builder {
        tree: Tree::empty(),
        problems: Vec::new(),
        anchors: HashMap::new(),
        open: Vec::new(),
    };
    if let Err(stop) = builder.all(text) {
        builder.problems.push(stop);
    }
    (builder.tree, builder.problems)
}

struct Builder {
    tree: Tree,
    problems: Vec<Problem>,
    /// What each anchor stands for, once it is whole.
    anchors: HashMap<usize, Id>,
    open: Vec<Open>,
}

/// A collection that is not whole yet.
struct Open {
    id: Id,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<Id>,
    /// The keys so far.
    keys: HashMap<String, Place>,
}

impl Builder {
    fn all(&mut self, text: &str) -> Result<(), Problem> {
        within_bounds(text)?;
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                let place = Place::from(Span::empty(*error.marker()));
                let problem = Problem::at(place, format!("this is not YAML: {}", error.info()));
                let line = text.lines().nth(place.line.saturating_sub(1));
                match line.is_some_and(|line| line.contains("${")) {
                    true => problem
                        .help("between `{ }` or `[ ]`, `${NAME}` stands in quotes: \"${NAME}\""),
                    false => problem,
                }
            })?;
            let place = Place::from(span);
            match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Problem::at(place, "a second document; one file holds one"));
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    let said_text = self.tagged_text(tag.as_deref(), place);
                    let scalar = Scalar {
                        text: text.into_owned(),
                        plain: style == ScalarStyle::Plain && !said_text,
                        from: None,
                    };
                    let id = self.add(Kind::Scalar(scalar), place)?;
                    self.anchors.insert(anchor, id);
                    self.place_in_parent(id)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.tagged_text(tag.as_deref(), place);
                    self.begin(Kind::List(Vec::new()), anchor, place)?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.tagged_text(tag.as_deref(), place);
                    self.begin(Kind::Map(Vec::new()), anchor, place)?;
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    if let Some(done) = self.open.pop() {
                        self.anchors.insert(done.anchor, done.id);
                        self.place_in_parent(done.id)?;
                    }
                }
                Event::Alias(anchor) => {
                    let Some(source) = self.anchors.get(&anchor).copied() else {
                        return Err(Problem::at(place, "an alias of what it stands in"));
                    };
                    let id = self.copy(source, place, self.open.len())?;
                    self.place_in_parent(id)?;
                }
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: Kind, anchor: usize, place: Place) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::at(
                place,
                format!("nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        let id = self.add(kind, place)?;
        self.open.push(Open {
            id,
            anchor,
            key: None,
            keys: HashMap::new(),
        });
        Ok(())
    }

    fn add(&mut self, kind: Kind, place: Place) -> Result<Id, Problem> {
        if self.tree.len() >= MAX_NODES {
            return Err(Problem::at(
                place,
                format!("more than {MAX_NODES} values, aliases counted as what they stand for"),
            ));
        }
        Ok(self.tree.add(kind, place))
    }

    /// Puts a whole node where it stands: into the list, as the next key, or as the value of the last one.
    fn place_in_parent(&mut self, id: Id) -> Result<(), Problem> {
        let Some(parent) = self.open.last_mut() else {
            return Ok(());
        };
        let place = self.tree.node(id).place;
        let step = match (&mut self.tree.node_mut(parent.id).kind, parent.key.take()) {
            (Kind::List(items), _) => {
                items.push(id);
                Step::Index(items.len() - 1)
            }
            (Kind::Map(_), None) => {
                let Kind::Scalar(key) = &self.tree.node(id).kind else {
                    return Err(Problem::at(
                        place,
                        "a key is a text, not a list or a mapping",
                    ));
                };
                let text = key.text.clone();
                self.tree.node_mut(id).is_key = true;
                parent.key = Some(id);
                Step::Key(text)
            }
            (Kind::Map(entries), Some(key)) => {
                entries.push(Entry { key, value: id });
                self.tree.node_mut(id).key = Some(key);
                let text = self.tree.text(key).to_owned();
                let key_place = self.tree.node(key).place;
                match parent.keys.get(&text) {
                    Some(first) => {
                        let words = format!(
                            "`{}` is said twice; first in line {}",
                            short(&text),
                            first.line
                        );
                        self.problems.push(Problem::at(key_place, words).node(id));
                    }
                    None => {
                        parent.keys.insert(text.clone(), key_place);
                    }
                }
                Step::Key(text)
            }
            (Kind::Scalar(_), _) => return Ok(()),
        };
        self.tree.node_mut(id).up = Some((parent.id, step));
        Ok(())
    }

    /// A copy of a whole node, for an alias. Its positions are those of what it stands for.
    fn copy(&mut self, source: Id, alias: Place, depth: usize) -> Result<Id, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::at(
                alias,
                format!("nested deeper than {MAX_DEPTH} levels"),
            ));
        }
        let place = self.tree.node(source).place;
        let children: Vec<(Option<Id>, Id)> = match &self.tree.node(source).kind {
            Kind::Scalar(scalar) => {
                let scalar = scalar.clone();
                return self.add_for(Kind::Scalar(scalar), place, alias);
            }
            Kind::List(items) => items.iter().map(|item| (None, *item)).collect(),
            Kind::Map(entries) => entries.iter().map(|e| (Some(e.key), e.value)).collect(),
        };
        let list = matches!(self.tree.node(source).kind, Kind::List(_));
        let kind = if list {
            Kind::List(Vec::new())
        } else {
            Kind::Map(Vec::new())
        };
        let id = self.add_for(kind, place, alias)?;
        for (index, (key, value)) in children.into_iter().enumerate() {
            let value = self.copy(value, alias, depth + 1)?;
            let step = match key {
                Some(key) => {
                    let step = Step::Key(self.tree.text(key).to_owned());
                    let key = self.copy(key, alias, depth + 1)?;
                    self.tree.node_mut(key).up = Some((id, step.clone()));
                    self.tree.node_mut(key).is_key = true;
                    self.tree.node_mut(value).key = Some(key);
                    if let Kind::Map(entries) = &mut self.tree.node_mut(id).kind {
                        entries.push(Entry { key, value });
                    }
                    step
                }
                None => {
                    if let Kind::List(items) = &mut self.tree.node_mut(id).kind {
                        items.push(value);
                    }
                    Step::Index(index)
                }
            };
            self.tree.node_mut(value).up = Some((id, step));
        }
        Ok(id)
    }

    fn add_for(&mut self, kind: Kind, place: Place, alias: Place) -> Result<Id, Problem> {
        self.add(kind, alias)?;
        let id = self.tree.len() - 1;
        self.tree.node_mut(id).place = place;
        Ok(id)
    }

    /// Whether a tag says that this is a text; any tag but YAML's own is a problem.
    fn tagged_text(&mut self, tag: Option<&Tag>, place: Place) -> bool {
        let Some(tag) = tag else { return false };
        if !tag.is_yaml_core_schema() {
            let words = format!("the tag `{}` means nothing here", short(&tag.to_string()));
            self.problems.push(Problem::at(place, words));
        }
        tag.is_yaml_core_schema() && tag.suffix == "str"
    }
}

/// Refuses what no parser should be shown: a text that is too long, or characters that YAML does not allow. The
/// parser itself takes a NUL for the end, and would say nothing of what follows.
fn within_bounds(text: &str) -> Result<(), Problem> {
    if text.len() > MAX_BYTES {
        return Err(Problem::whole(format!(
            "{} bytes; a routing file has at most {MAX_BYTES}",
            text.len()
        )));
    }
    let forbidden = |c: char| c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    for (index, line) in text.split('\n').enumerate() {
        if let Some(column) = line.chars().position(forbidden) {
            let place = Place {
                line: index + 1,
                column: column + 1,
                width: 1,
            };
            return Err(Problem::at(place, "a control character"));
        }
    }
    Ok(())
}
