//! A file becomes a checked `Config`, or every diagnostic at once.
//!
//! serde stops at its first error. Here each error drops what it is about and the tree is read again, until nothing
//! is wrong with the rest; at most 64 are told.

use std::{collections::HashSet, fs::File, io::Read, path::Path, sync::Arc};

use serde::Deserialize;

use super::{
    Config,
    build::build,
    cause::{About, Cause},
    diagnostic::{Diagnostic, Diagnostics, Level, Problem},
    expand::expand,
    lint,
    nearest::nearest,
    origin::Origins,
    read::{Reading, Value},
    tree::{Id, Kind, Step, Tree, path, short},
};

/// The most errors that are told of one file, and the most warnings.
const MAX_TOLD: usize = 64;
/// The most bytes that are read of a file: one more than is allowed, so that too many are noticed.
const MAX_READ: u64 = (1 << 20) + 1;

/// A file that may be run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// What is taken but may not be meant.
    pub warnings: Diagnostics,
    /// Where each value comes from.
    pub origins: Arc<Origins>,
    pub text: Arc<str>,
}

impl Config {
    /// Reads a file, at most 1 MiB. Blocks on the file system.
    pub fn load(file: &Path) -> Result<Loaded, Diagnostics> {
        let name = file.display().to_string();
        let mut bytes = Vec::new();
        let read = File::open(file).and_then(|file| file.take(MAX_READ).read_to_end(&mut bytes));
        if let Err(error) = read {
            let problem = Problem::whole(format!("cannot be read: {error}"));
            return Err(told(vec![problem], &Tree::empty(), &name, ""));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&text, &name),
            Err(error) => {
                let valid = error.utf8_error().valid_up_to();
                let line = error.as_bytes()[..valid]
                    .iter()
                    .filter(|b| **b == b'\n')
                    .count()
                    + 1;
                let problem = Problem::whole(format!("line {line} is not UTF-8"));
                Err(told(vec![problem], &Tree::empty(), &name, ""))
            }
        }
    }

    /// Reads a text that stands in the file `name`, with this process's environment.
    pub fn parse(text: &str, name: &str) -> Result<Loaded, Diagnostics> {
        Self::parse_with(text, name, &|variable| std::env::var(variable).ok())
    }

    /// Reads a text with an environment of its own.
    pub fn parse_with(
        text: &str,
        name: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded, Diagnostics> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (mut tree, mut problems) = build(text);
        if problems.iter().any(|problem| problem.node.is_none()) {
            return Err(told(problems, &tree, name, text));
        }
        problems.extend(expand(&mut tree, environment));
        let mut dropped: HashSet<Id> = problems.iter().filter_map(|problem| problem.node).collect();
        let mut config = read(&tree, &mut dropped, &mut problems);
        config.inbound.name_apps();
        let origins = Origins::new(name, tree, dropped);
        lint::check(&config, &origins, &mut problems);
        let all = told(problems, origins.tree(), name, text);
        if all.errors() > 0 {
            return Err(all);
        }
        Ok(Loaded {
            config,
            warnings: all,
            origins: Arc::new(origins),
            text: text.into(),
        })
    }
}

/// Reads the tree as far as it makes sense, with every problem found on the way.
fn read(tree: &Tree, dropped: &mut HashSet<Id>, problems: &mut Vec<Problem>) -> Config {
    let Some(root) = tree.root() else {
        return Config::default();
    };
    // Each round drops a value, or the value around one that is dropped; the bound is far above what 64 errors need.
    for _ in 0..MAX_TOLD * 16 {
        let reading = Reading {
            tree,
            dropped,
            doubtful: Default::default(),
        };
        let value = Value {
            reading: &reading,
            id: root,
        };
        match Config::deserialize(value) {
            Ok(config) => {
                let doubtful = reading.doubtful.into_inner();
                problems.extend(doubtful.into_iter().map(|id| doubt(tree, id)));
                return config;
            }
            Err(error) => {
                let (about, cause) = error.into_parts();
                let about = about.unwrap_or(About {
                    value: root,
                    on_key: false,
                });
                if !follows(tree, dropped, about, &cause) {
                    problems.push(describe(tree, about, cause));
                }
                if about.value == root {
                    return Config::default();
                }
                dropped.insert(about.value);
                if problems.len() > MAX_TOLD {
                    return Config::default();
                }
            }
        }
    }
    Config::default()
}

/// Whether an error only follows from one that was told: what is missing was dropped, or is what a wrong key meant.
fn follows(tree: &Tree, dropped: &HashSet<Id>, about: About, cause: &Cause) -> bool {
    let Kind::Map(entries) = &tree.node(about.value).kind else {
        return false;
    };
    let gone = entries
        .iter()
        .filter(|entry| dropped.contains(&entry.value));
    let gone: Vec<&str> = gone.map(|entry| tree.text(entry.key)).collect();
    match cause {
        Cause::Missing(key) => gone
            .iter()
            .any(|gone| gone == key || nearest(gone, &[key]).is_some()),
        Cause::OneKey(0) => !gone.is_empty(),
        // What a type says of its own accord of a mapping that lost every key.
        Cause::Words(_) => !gone.is_empty() && gone.len() == entries.len(),
        _ => false,
    }
}

/// An error in words.
fn describe(tree: &Tree, about: About, cause: Cause) -> Problem {
    let key = tree.key_of(about.value).filter(|_| about.on_key);
    let place = match key {
        Some(key) => tree.node(key).place,
        None => tree.place(about.value),
    };
    let (words, help) = match cause {
        Cause::Words(words) => (words, None),
        Cause::UnknownKey { found, known } => (
            format!("unknown key `{}`", short(&found)),
            meant(&found, known),
        ),
        Cause::UnknownWord { found, known } => (
            format!("`{}` is not known here", short(&found)),
            meant(&found, known),
        ),
        Cause::Missing(key) => (format!("the key `{key}` is missing"), None),
        Cause::Type(expected, found) => {
            let help = quoting(tree, about.value, &expected);
            (format!("expected {expected}, found {found}"), help)
        }
        Cause::OneKey(0) => ("one key is needed here".into(), None),
        Cause::OneKey(count) => (format!("one key stands here, not {count}"), None),
    };
    let problem = Problem::at(place, words).node(about.value);
    match help {
        Some(help) => problem.help(help),
        None => problem,
    }
}

fn meant(found: &str, known: &[&str]) -> Option<String> {
    let nothing = matches!(
        found,
        "off" | "no" | "null" | "false" | "disabled" | "never"
    );
    match nearest(found, known) {
        Some(near) => Some(format!("did you mean `{near}`?")),
        None if nothing && known.contains(&"none") => Some("the word for nothing is `none`".into()),
        None if known.is_empty() => None,
        None => Some(format!("known here: {}", known.join(", "))),
    }
}

/// What to do where quotes, or their absence, make the difference.
fn quoting(tree: &Tree, id: Id, expected: &str) -> Option<String> {
    let Kind::Scalar(scalar) = &tree.node(id).kind else {
        return None;
    };
    let number = expected.contains("number") && scalar.text.parse::<u64>().is_ok();
    let word = scalar.text.to_ascii_lowercase();
    match word.as_str() {
        "true" | "false" if scalar.plain => {
            Some(format!("quoted it is a text: \"{}\"", scalar.text))
        }
        "yes" | "on" if expected == "true or false" => Some("write true".into()),
        "no" | "off" if expected == "true or false" => Some("write false".into()),
        _ if number && !scalar.plain => Some("without quotes it is a number".into()),
        _ => None,
    }
}

/// The warning about an unquoted word that YAML 1.1 takes for a boolean.
fn doubt(tree: &Tree, id: Id) -> Problem {
    let word = tree.text(id);
    Problem::at(
        tree.node(id).place,
        format!("`{word}` without quotes is a boolean to YAML 1.1 readers"),
    )
    .node(id)
    .help(format!(
        "it is read as the text \"{word}\"; write the quotes"
    ))
    .warning()
}

/// Problems as their author reads them: in the order of the file, with path and line, no more than can be read.
fn told(mut problems: Vec<Problem>, tree: &Tree, name: &str, text: &str) -> Diagnostics {
    for problem in &mut problems {
        problem.place = problem.place.or(problem.node.map(|id| tree.place(id)));
    }
    problems.sort_by_key(|problem| (problem.place.is_none(), problem.place));
    let mut all = Vec::new();
    for level in [Level::Error, Level::Warning] {
        let mut of_level = problems.iter().filter(|problem| problem.level == level);
        all.extend(of_level.by_ref().take(MAX_TOLD).cloned());
        if of_level.next().is_some() {
            let words = format!("more than {MAX_TOLD} of these; the rest is not told");
            all.push(Problem {
                level,
                ..Problem::whole(words)
            });
        }
    }
    all.sort_by_key(|problem| (problem.place.is_none(), problem.place));
    all.dedup();
    let tell = |problem: Problem| {
        let steps: Vec<Step> = problem.node.map_or_else(Vec::new, |id| tree.steps(id));
        Diagnostic::new(problem, path(&steps), name, text)
    };
    Diagnostics::new(all.into_iter().map(tell).collect())
}
