//! Where each value of a `Config` comes from: a line of the file, the environment, or nowhere: a default.

use std::{collections::HashSet, fmt};

use super::tree::{Entry, Id, Kind, Step, Tree};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file does not say it.
    Default,
    /// A default, or a scalar of the file, that was read from these environment variables.
    Environment(String),
    /// The file says it in this line.
    File { file: String, line: usize },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Environment(names) => write!(f, "env {names}"),
            Origin::File { file, line } => write!(f, "{file}:{line}"),
        }
    }
}

/// The tree a `Config` was made of.
#[derive(Debug)]
pub struct Origins {
    file: String,
    tree: Tree,
    dropped: HashSet<Id>,
}

impl Origins {
    pub(super) fn new(file: &str, tree: Tree, dropped: HashSet<Id>) -> Self {
        Origins {
            file: file.to_owned(),
            tree,
            dropped,
        }
    }

    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The node at these steps, counted as in the `Config`: what was dropped does not count.
    pub(super) fn node(&self, steps: &[Step]) -> Option<Id> {
        let mut at = self.tree.root()?;
        for step in steps {
            at = self.child(at, step)?;
        }
        Some(at)
    }

    /// The node at these steps, or the last one on the way to it.
    pub(super) fn nearest(&self, steps: &[Step]) -> Option<Id> {
        let mut at = self.tree.root()?;
        for step in steps {
            match self.child(at, step) {
                Some(child) => at = child,
                None => break,
            }
        }
        Some(at)
    }

    fn child(&self, at: Id, step: &Step) -> Option<Id> {
        let kept = |id: &Id| !self.dropped.contains(id);
        match (&self.tree.node(at).kind, step) {
            (Kind::List(items), Step::Index(index)) => {
                items.iter().copied().filter(kept).nth(*index)
            }
            // Names of header fields are kept in lower case, numbers without their quotes.
            (Kind::Map(entries), Step::Key(key)) => {
                let text = |entry: &Entry| self.tree.text(entry.key);
                let mut kept = entries.iter().filter(|entry| kept(&entry.value));
                let exact = kept.clone().find(|entry| text(entry) == key);
                let entry = exact.or_else(|| kept.find(|e| text(e).eq_ignore_ascii_case(key)));
                entry.map(|entry| entry.value)
            }
            _ => None,
        }
    }

    /// The keys of a mapping, those included whose values are in error.
    pub(super) fn keys(&self, steps: &[Step]) -> Vec<&str> {
        match self.node(steps).map(|id| &self.tree.node(id).kind) {
            Some(Kind::Map(entries)) => entries.iter().map(|e| self.tree.text(e.key)).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether nothing at or under these steps was in error.
    pub(super) fn is_whole(&self, steps: &[Step]) -> bool {
        let Some(top) = self.node(steps) else {
            return true;
        };
        let within = |id: &Id| self.tree.ancestors(*id).any(|around| around == top);
        !self.dropped.iter().any(within)
    }

    /// A scalar as the file has it, where the environment made another of it.
    pub(super) fn written(&self, steps: &[Step]) -> Option<&str> {
        match &self.tree.node(self.node(steps)?).kind {
            Kind::Scalar(scalar) => scalar.from.as_ref().map(|from| from.written.as_str()),
            _ => None,
        }
    }

    /// Where the value at these steps comes from.
    pub fn of(&self, steps: &[Step]) -> Origin {
        let Some(id) = self.node(steps) else {
            return match super::settings::environment_of(steps) {
                Some(name) => Origin::Environment(name.to_owned()),
                None => Origin::Default,
            };
        };
        if let Kind::Scalar(scalar) = &self.tree.node(id).kind
            && let Some(reference) = &scalar.from
        {
            return Origin::Environment(reference.names.join(" "));
        }
        Origin::File {
            file: self.file.clone(),
            line: self.tree.place(id).line,
        }
    }
}
