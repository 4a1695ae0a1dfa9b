//! What is wrong with a routing file, as its author reads it: where, in which key, what, and what may be meant.
//!
//! Plain text, no colours; nothing from the file reaches the terminal that it would obey.

use std::{error, fmt};

use super::tree::{Id, Place, safe};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The file is refused.
    Error,
    /// The file is taken; `weft check` says it.
    Warning,
}

/// A finding while the file is read, before the text is at hand to quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub level: Level,
    pub place: Option<Place>,
    pub node: Option<Id>,
    pub words: String,
    pub help: Option<String>,
}

impl Problem {
    /// An error about the file as a whole.
    pub fn whole(words: impl Into<String>) -> Self {
        Problem {
            level: Level::Error,
            place: None,
            node: None,
            words: words.into(),
            help: None,
        }
    }

    pub fn at(place: Place, words: impl Into<String>) -> Self {
        Problem {
            place: Some(place),
            ..Self::whole(words)
        }
    }

    /// Names the value it is about, for its path.
    pub fn node(mut self, id: Id) -> Self {
        self.node = Some(id);
        self
    }

    pub fn help(mut self, words: impl Into<String>) -> Self {
        self.help = Some(words.into());
        self
    }

    pub fn warning(mut self) -> Self {
        self.level = Level::Warning;
        self
    }
}

/// One finding, ready to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub level: Level,
    pub file: String,
    pub place: Option<Place>,
    /// The YAML path, `outbound.routes[1].timeouts`; empty for the file as a whole.
    pub path: String,
    pub words: String,
    pub help: Option<String>,
    excerpt: Option<Excerpt>,
}

/// The part of a line that a terminal shows, and what is meant in it: characters from, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    text: String,
    from: usize,
    width: usize,
}

impl Diagnostic {
    pub(super) fn new(problem: Problem, path: String, file: &str, text: &str) -> Self {
        let excerpt = problem.place.and_then(|place| {
            let line = text.lines().nth(place.line - 1)?;
            Some(Excerpt::of(line, place))
        });
        Diagnostic {
            level: problem.level,
            file: safe(file),
            place: problem.place,
            path: safe(&path),
            words: safe(&problem.words),
            help: problem.help.map(|help| safe(&help)),
            excerpt,
        }
    }
}

impl Excerpt {
    /// The longest part that is shown, and how much of it stands before what is meant.
    const SHOWN: usize = 110;
    const BEFORE: usize = 60;

    fn of(line: &str, place: Place) -> Self {
        let at = place.column - 1;
        let start = match at < Self::SHOWN - 20 {
            true => 0,
            false => at - Self::BEFORE,
        };
        let shown: String = line.chars().skip(start).take(Self::SHOWN).collect();
        let shown = shown.trim_end();
        let from = (at - start).min(shown.chars().count() + 1);
        let meant: String = shown.chars().skip(from).take(place.width).collect();
        Excerpt {
            text: safe(&shown.replace('\t', " ")),
            from,
            width: meant.trim_end().chars().count().max(1),
        }
    }
}

/// Everything that is wrong with a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub(super) fn new(all: Vec<Diagnostic>) -> Self {
        Diagnostics(all)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn errors(&self) -> usize {
        self.count(Level::Error)
    }

    pub fn warnings(&self) -> usize {
        self.count(Level::Warning)
    }

    fn count(&self, level: Level) -> usize {
        self.0.iter().filter(|one| one.level == level).count()
    }
}

impl error::Error for Diagnostics {}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Error => "error",
            Level::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for one in &self.0 {
            writeln!(f, "{one}")?;
        }
        let several = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            n => format!("{n} {word}s"),
        };
        match (self.errors(), self.warnings()) {
            (0, warnings) => f.write_str(&several(warnings, "warning")),
            (errors, 0) => f.write_str(&several(errors, "error")),
            (errors, warnings) => write!(
                f,
                "{}, {}",
                several(errors, "error"),
                several(warnings, "warning")
            ),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(place) => write!(f, "{}:{}:{}: ", self.file, place.line, place.column)?,
            None => write!(f, "{}: ", self.file)?,
        }
        write!(f, "{}: ", self.level)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        writeln!(f, "{}", self.words)?;
        if let (Some(place), Some(excerpt)) = (self.place, &self.excerpt) {
            let (blank, carets) = (" ".repeat(excerpt.from), "^".repeat(excerpt.width));
            writeln!(f, "{:>5} | {}", place.line, excerpt.text)?;
            writeln!(f, "      | {blank}{carets}")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "      = {help}")?;
        }
        Ok(())
    }
}
