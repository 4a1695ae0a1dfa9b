//! What no room can see alone: names that name nothing, values against each other, ports that collide, routes that
//! never match. Every finding at its place in the file, all at once.
//!
//! A part of the file that has errors already is not judged: what is missing there may be what was wrong.

mod authorization;
mod identity;
mod ports;
mod routes;
mod values;

use super::{
    Config,
    diagnostic::{Level, Problem},
    origin::Origins,
    tree::Steps,
};

/// The findings that are given a place; more than are ever told.
const MAX_PLACED: usize = 512;

/// Adds what is wrong with a configuration as a whole.
pub fn check(config: &Config, origins: &Origins, problems: &mut Vec<Problem>) {
    let readable = problems.iter().all(|problem| problem.level != Level::Error);
    let mut lint = Lint {
        config,
        origins,
        found: Vec::new(),
    };
    values::check(&mut lint);
    identity::check(&mut lint);
    authorization::check(&mut lint);
    routes::check(&mut lint);
    ports::check(&mut lint);
    routes::check_table(&mut lint, readable);
    let told = |problem: &Problem| readable || problem.level == Level::Error;
    problems.extend(lint.found.into_iter().filter(told));
}

/// The findings so far, and what they are found in.
struct Lint<'c> {
    config: &'c Config,
    origins: &'c Origins,
    found: Vec<Problem>,
}

impl Lint<'_> {
    fn error(&mut self, at: &Steps, words: impl Into<String>) -> &mut Problem {
        let mut problem = Problem::whole(words);
        // What is not told needs no place: a place costs a walk through the tree.
        if self.found.len() < MAX_PLACED {
            problem.node = self.origins.nearest(at);
        }
        self.found.push(problem);
        self.found.last_mut().expect("one was pushed")
    }

    fn warning(&mut self, at: &Steps, words: impl Into<String>) -> &mut Problem {
        let problem = self.error(at, words);
        problem.level = Level::Warning;
        problem
    }

    fn is_right(&self) -> bool {
        self.found
            .iter()
            .all(|problem| problem.level != Level::Error)
    }

    fn is_whole(&self, at: &Steps) -> bool {
        self.origins.is_whole(at)
    }

    /// The line of a value, for "first in line".
    fn line(&self, at: &Steps) -> String {
        match self.origins.of(at) {
            super::Origin::File { line, .. } => format!("line {line}"),
            other => format!("the {other}"),
        }
    }
}
