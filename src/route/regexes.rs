//! Regexes: the paths of one host as a single automaton, one pass over a path, however many there are.
//!
//! A regex must match a whole path or value. Classes are ASCII (`\d` is `[0-9]`), as in RE2: what comes in is bytes.

use std::cell::RefCell;

use regex_automata::{Input, MatchKind, PatternSet, meta, nfa::thompson, util::syntax};
use regex_syntax::hir::{Hir, Look};

/// One regex's automaton may take this much; a bigger one is a mistake or an attack on ourselves.
const LARGEST: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(super) struct Regexes {
    set: meta::Regex,
}

/// A regex that is known to compile alone.
#[derive(Debug, Clone)]
pub(super) struct Parsed(Hir);

/// Says what is wrong with `text` in one line.
pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let config = syntax::Config::new().unicode(false).utf8(false);
    let hir = syntax::parse_with(text, &config).map_err(|error| one_line(&error.to_string()))?;
    let whole = Hir::concat(vec![Hir::look(Look::Start), hir, Hir::look(Look::End)]);
    thompson::Compiler::new()
        .configure(thompson::Config::new().nfa_size_limit(Some(LARGEST)))
        .build_from_hir(&whole)
        .map_err(|error| error.to_string())?;
    Ok(Parsed(whole))
}

/// The parser draws a picture over several lines; its last line says it in words.
fn one_line(picture: &str) -> String {
    let last = picture.lines().last().unwrap_or(picture);
    last.trim().trim_start_matches("error: ").to_owned()
}

impl Parsed {
    /// To match one value as a whole.
    pub(super) fn alone(&self) -> Result<meta::Regex, String> {
        build(&[&self.0], MatchKind::LeftmostFirst)
    }
}

/// A regex that a whole value must match, as in a route, for those who match something else than routes.
#[derive(Debug, Clone)]
pub struct Whole(meta::Regex);

impl Whole {
    /// Says what is wrong with `text` in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        parse(text)?.alone().map(Whole)
    }

    pub fn is_match(&self, value: &[u8]) -> bool {
        self.0.is_match(value)
    }
}

fn build(patterns: &[&Hir], kind: MatchKind) -> Result<meta::Regex, String> {
    let config = meta::Config::new()
        .match_kind(kind)
        .utf8_empty(false)
        .nfa_size_limit(Some(LARGEST.saturating_mul(patterns.len())));
    meta::Builder::new()
        .configure(config)
        .build_many_from_hir(patterns)
        .map_err(|error| error.to_string())
}

impl Regexes {
    /// Patterns are numbered in the order given.
    pub(super) fn new(patterns: &[Parsed]) -> Result<Self, String> {
        let hirs: Vec<&Hir> = patterns.iter().map(|parsed| &parsed.0).collect();
        build(&hirs, MatchKind::All).map(|set| Regexes { set })
    }

    /// Calls `each` with the number of every pattern that matches the whole of `path`, lowest first.
    #[inline]
    pub(super) fn matching(&self, path: &str, mut each: impl FnMut(usize)) {
        // A thread keeps one set of hits, so that a request allocates none.
        thread_local!(static HITS: RefCell<PatternSet> = RefCell::new(PatternSet::new(0)));
        HITS.with_borrow_mut(|hits| {
            if hits.capacity() < self.set.pattern_len() {
                *hits = PatternSet::new(self.set.pattern_len());
            }
            hits.clear();
            self.set.which_overlapping_matches(&Input::new(path), hits);
            if !hits.is_empty() {
                hits.iter().for_each(|pattern| each(pattern.as_usize()));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(patterns: &[&str], path: &str) -> Vec<usize> {
        let parsed: Vec<Parsed> = patterns.iter().map(|text| parse(text).unwrap()).collect();
        let mut hits = Vec::new();
        Regexes::new(&parsed)
            .unwrap()
            .matching(path, |pattern| hits.push(pattern));
        hits
    }

    #[test]
    fn a_regex_matches_the_whole_path() {
        assert_eq!(hits(&["/users/[0-9]+"], "/users/17"), [0]);
        assert!(hits(&["/users/[0-9]+"], "/users/17/orders").is_empty());
        assert!(hits(&["/users/[0-9]+"], "/v1/users/17").is_empty());
        assert!(
            hits(&["/a|/b"], "/bc").is_empty(),
            "an alternative does not escape the anchors"
        );
    }

    #[test]
    fn every_pattern_that_matches_is_told() {
        assert_eq!(
            hits(
                &["/a/.*", "/b/.*", "/a/[0-9]+", "(?x) /a/ \\d+ # a comment"],
                "/a/7"
            ),
            [0, 2, 3]
        );
    }

    #[test]
    fn a_smaller_set_after_a_larger_one_sees_only_its_own_hits() {
        assert_eq!(hits(&["/x", "/x", "/x"], "/x"), [0, 1, 2]);
        assert!(hits(&["/y"], "/x").is_empty());
    }

    #[test]
    fn classes_are_ascii() {
        assert!(hits(&[r"/\d"], "/٣").is_empty());
    }

    #[test]
    fn a_bad_regex_is_told_in_one_line() {
        assert_eq!(parse("/a(").unwrap_err(), "unclosed group");
        assert!(
            parse("/a)|(?:b").is_err(),
            "a parenthesis cannot close ours"
        );
        assert!(parse("(/[a-z]{1000}){1000}").unwrap_err().contains("limit"));
    }
}
