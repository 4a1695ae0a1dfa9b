//! Holds the source to the floor plan of `docs/ARCHITECTURE.md`: imports go down only.
//!
//! Reads every path that starts at `crate` (or climbs there by `super`) in every file under `src/`: `use`
//! trees, nested groups, paths written inline. Strings and comments do not count. No compiler is asked, so a
//! path made by a macro of another crate would escape; there are none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which floor a room stands on; a room that is not here has no place in the house.
const FLOORS: &[(u8, &[&str])] = &[
    (5, &["main", "cli", "app", "config"]),
    (4, &["admin", "k8s"]),
    (3, &["inbound", "outbound", "events"]),
    (
        2,
        &[
            "net",
            "tls",
            "http",
            "route",
            "resilience",
            "balance",
            "discover",
            "outbox",
            "broker",
            "telemetry",
            "wire",
        ],
    ),
    (1, &["fault", "drain", "units"]),
];

/// The only imports between rooms of one floor: who, whom, through which module (empty: any).
///
/// Where a door is open, settings may hold the other room's settings too.
const DOORS: &[(&str, &str, &str)] = &[
    ("main", "cli", ""),
    ("cli", "app", ""),
    ("cli", "config", ""),
    ("app", "config", ""),
    ("outbound", "events", "capture"),
    ("inbound", "events", "capture"),
    ("balance", "discover", ""),
    ("http", "net", ""),
    ("http", "telemetry", ""),
    ("http", "tls", ""),
    ("http", "wire", ""),
];

/// What `config` takes besides settings: the table knows which routes can never match.
const CONFIG_ALSO: &[(&str, &str)] = &[("route", "Table")];

/// `k8s` sees less than its floor would let it.
const K8S_MAY_IMPORT: &[&str] = &["http", "tls", "fault", "drain", "units"];

#[test]
fn imports_go_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports = Vec::new();
    let mut settings = Settings::default();
    for file in rust_files(&root) {
        let place = Place::of(file.strip_prefix(&root).expect("found under src"));
        let source = fs::read_to_string(&file).expect("a source file is UTF-8");
        imports.extend(imports_of(&place, &source));
        settings.read(&place, &source);
    }
    assert!(!imports.is_empty(), "the reader found no import at all");
    let complaints = complaints(&imports, &settings);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_room_is_on_the_plan() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let plan = fs::read_to_string(root.join("../docs/ARCHITECTURE.md")).expect("the plan is there");
    for entry in fs::read_dir(&root).expect("src is a folder").flatten() {
        let name = entry.file_name().to_string_lossy().replace(".rs", "");
        if name == "lib" {
            continue;
        }
        assert!(floor(&name).is_some(), "`{name}` stands on no floor");
        assert!(
            plan.contains(&format!("`{name}`")),
            "docs/ARCHITECTURE.md does not name `{name}`"
        );
    }
}

/// One path from a file to a room: `crate::http::respond::status` is `["http", "respond", "status"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Import {
    room: String,
    file: String,
    line: usize,
    path: Vec<String>,
}

fn floor(room: &str) -> Option<u8> {
    FLOORS
        .iter()
        .find(|(_, rooms)| rooms.contains(&room))
        .map(|(floor, _)| *floor)
}

/// The types that rooms define in their `settings` modules, by room.
#[derive(Default)]
struct Settings(BTreeSet<(String, String)>);

impl Settings {
    fn read(&mut self, place: &Place, source: &str) {
        if !place.modules.iter().any(|module| module == "settings") {
            return;
        }
        for pair in tokens(source).windows(2) {
            if matches!(pair[0].text.as_str(), "struct" | "enum" | "type") {
                self.0.insert((place.room.clone(), pair[1].text.clone()));
            }
        }
    }

    fn has(&self, path: &[String]) -> bool {
        let defined = |name: &String| self.0.contains(&(path[0].clone(), name.clone()));
        path[1..]
            .iter()
            .any(|name| name == "settings" || defined(name))
    }
}

/// What the plan forbids, one line each.
fn complaints(imports: &[Import], settings: &Settings) -> Vec<String> {
    let mut found: Vec<String> = imports
        .iter()
        .filter_map(|import| complaint(import, settings))
        .collect();
    found.extend(circles(imports));
    found
}

fn complaint(import: &Import, settings: &Settings) -> Option<String> {
    let (from, to) = (import.room.as_str(), import.path.first()?.as_str());
    if from == to || from == "lib" {
        return None;
    }
    let at = format!(
        "{}:{}: `crate::{}`",
        import.file,
        import.line,
        import.path.join("::")
    );
    let (Some(upper), Some(lower)) = (floor(from), floor(to)) else {
        return Some(format!("{at}: a room that is not on the plan"));
    };
    if upper < lower {
        return Some(format!("{at}: {from} reaches up to {to}"));
    }
    let behind = import.path.get(1).map_or("", String::as_str);
    if upper == lower {
        let open = DOORS.iter().any(|(who, whom, through)| {
            (*who, *whom) == (from, to)
                && (through.is_empty() || behind == *through || settings.has(&import.path))
        });
        if !open {
            return Some(format!("{at}: no door from {from} to {to}"));
        }
    }
    if from == "k8s" && !K8S_MAY_IMPORT.contains(&to) {
        return Some(format!("{at}: k8s needs only {}", K8S_MAY_IMPORT.join(" ")));
    }
    let allowed = settings.has(&import.path) || CONFIG_ALSO.contains(&(to, behind));
    if from == "config" && (2..5).contains(&lower) && !allowed {
        return Some(format!("{at}: config takes only settings"));
    }
    None
}

/// Rooms that reach themselves again.
fn circles(imports: &[Import]) -> Vec<String> {
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in imports {
        let (from, to) = (import.room.as_str(), import.path[0].as_str());
        if from != to && from != "lib" {
            edges.entry(from).or_default().insert(to);
        }
    }
    let reaches_itself = |start: &str| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = edges[start].iter().copied().collect();
        while let Some(room) = open.pop() {
            if seen.insert(room) {
                open.extend(edges.get(room).into_iter().flatten());
            }
        }
        seen.contains(start)
    };
    edges
        .keys()
        .filter(|room| reaches_itself(room))
        .map(|room| format!("{room} is part of a circle"))
        .collect()
}

/// Where a file stands: its room and its path of modules from the crate's root.
struct Place {
    room: String,
    file: String,
    modules: Vec<String>,
}

impl Place {
    fn of(file: &Path) -> Self {
        let mut modules: Vec<String> = file
            .with_extension("")
            .iter()
            .map(|part| part.to_string_lossy().into_owned())
            .collect();
        let room = modules[0].clone();
        if modules.last().is_some_and(|last| last == "mod") || room == "lib" || room == "main" {
            modules.pop();
        }
        Place {
            room,
            file: format!("src/{}", file.display()),
            modules,
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn imports_of(place: &Place, source: &str) -> Vec<Import> {
    let tokens = tokens(source);
    let is_bare = |import: &Import| import.path[1..].iter().all(|name| name == "self");
    let (bare, mut found): (Vec<Import>, Vec<Import>) =
        paths_of(place, &tokens).into_iter().partition(is_bare);
    // `use crate::admin;` and then `admin::Settings`: what stands behind the room's name is what is imported.
    for import in bare {
        let mut spoken = Vec::new();
        for at in 1..tokens.len().saturating_sub(1) {
            let here = tokens[at].text == import.path[0] && tokens[at + 1].text == "::";
            if here && tokens[at - 1].text != "::" {
                tree(&tokens, at, &[], place, &mut spoken);
            }
        }
        spoken.retain(|import| !is_bare(import) && !found.contains(import));
        if spoken.is_empty() {
            spoken.push(import);
        }
        found.append(&mut spoken);
    }
    found
}

fn paths_of(place: &Place, tokens: &[Token]) -> Vec<Import> {
    let mut found = Vec::new();
    let mut modules = place.modules.clone();
    // For each open brace, how many modules were open before it.
    let mut braces = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let word = |ahead: usize| {
            tokens
                .get(at + ahead)
                .map_or("", |token| token.text.as_str())
        };
        match word(0) {
            "mod" if word(2) == "{" => {
                braces.push(modules.len());
                modules.push(word(1).to_owned());
                at += 3;
                continue;
            }
            "{" => braces.push(modules.len()),
            "}" => modules.truncate(braces.pop().unwrap_or(modules.len())),
            // The library as its own binary sees it.
            "weft" if place.room == "main" && word(1) == "::" => {
                at = tree(tokens, at + 2, &[], place, &mut found);
                continue;
            }
            "crate" if word(1) == "::" => {
                at = tree(tokens, at + 2, &[], place, &mut found);
                continue;
            }
            "super" if word(1) == "::" => {
                let mut base = modules.clone();
                while tokens.get(at).is_some_and(|token| token.text == "super")
                    && tokens.get(at + 1).is_some_and(|token| token.text == "::")
                {
                    base.pop();
                    at += 2;
                }
                at = tree(tokens, at, &base, place, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads a path or a group of paths that starts at `at` below `base`; returns the first token after it.
fn tree(
    tokens: &[Token],
    mut at: usize,
    base: &[String],
    place: &Place,
    found: &mut Vec<Import>,
) -> usize {
    let mut path = base.to_vec();
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        if token.text == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.text != "}") {
                at = tree(tokens, at, &path, place, found);
                while tokens
                    .get(at)
                    .is_some_and(|token| token.text != "," && token.text != "}")
                {
                    at += 1; // `as name`
                }
                if tokens.get(at).is_some_and(|token| token.text == ",") {
                    at += 1;
                }
            }
            return at + 1;
        }
        path.push(token.text.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    if !path.is_empty() {
        found.push(Import {
            room: place.room.clone(),
            file: place.file.clone(),
            line,
            path,
        });
    }
    at
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

/// Words, `::` and single signs; comments, strings and characters are left out.
fn tokens(source: &str) -> Vec<Token> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let length = match rest {
            [b'/', b'/', ..] => until(rest, b"\n"),
            [b'/', b'*', ..] => block_comment(rest),
            [b'"', ..] => quoted(rest),
            [b'r' | b'b', ..] if raw_hashes(rest).is_some() && !after_word(bytes, at) => {
                raw_string(rest, raw_hashes(rest).expect("just seen"))
            }
            [b'\'', ..] => character(rest),
            [b':', b':', ..] => {
                push(&mut found, "::", line);
                2
            }
            [first, ..] if first.is_ascii_alphanumeric() || *first == b'_' => {
                let end = rest
                    .iter()
                    .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
                let end = end.unwrap_or(rest.len());
                push(&mut found, &source[at..at + end], line);
                end
            }
            [first, ..] => {
                if first.is_ascii() && !first.is_ascii_whitespace() {
                    push(&mut found, &source[at..at + 1], line);
                }
                1
            }
            [] => break,
        };
        line += rest[..length].iter().filter(|byte| **byte == b'\n').count();
        at += length;
    }
    found
}

fn push(found: &mut Vec<Token>, text: &str, line: usize) {
    found.push(Token {
        text: text.to_owned(),
        line,
    });
}

fn until(rest: &[u8], end: &[u8]) -> usize {
    rest.windows(end.len())
        .position(|window| window == end)
        .map_or(rest.len(), |found| found + end.len())
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"`, `r##"`, `br"`: how many hashes, if this opens a raw string.
fn raw_hashes(rest: &[u8]) -> Option<usize> {
    let rest = rest.strip_prefix(b"b").unwrap_or(rest).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|byte| **byte == b'#').count();
    (rest.get(hashes) == Some(&b'"')).then_some(hashes)
}

fn after_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn raw_string(rest: &[u8], hashes: usize) -> usize {
    let open = until(rest, b"\"");
    let mut end = vec![b'"'];
    end.resize(1 + hashes, b'#');
    open + until(&rest[open..], &end)
}

/// A character literal, or the apostrophe of a lifetime.
fn character(rest: &[u8]) -> usize {
    match rest {
        [_, b'\\', _, tail @ ..] => 3 + until(tail, b"'"),
        [_, first, ..] => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            if rest.get(1 + width) == Some(&b'\'') {
                width + 2
            } else {
                1
            }
        }
        _ => 1,
    }
}

mod self_test {
    use super::*;

    fn read(file: &str, source: &str) -> Vec<Import> {
        imports_of(&Place::of(Path::new(file)), source)
    }

    fn settings() -> Settings {
        let mut settings = Settings::default();
        let mut read =
            |file: &str, source: &str| settings.read(&Place::of(Path::new(file)), source);
        read("http/settings.rs", "pub struct Timers {}");
        read("admin/settings.rs", "pub struct Settings {}");
        read("events/settings/message.rs", "pub struct Message;");
        settings
    }

    fn complaints_about(file: &str, source: &str) -> Vec<String> {
        complaints(&read(file, source), &settings())
    }

    fn paths(file: &str, source: &str) -> Vec<String> {
        read(file, source)
            .iter()
            .map(|import| import.path.join("::"))
            .collect()
    }

    #[test]
    fn groups_and_inline_paths_are_read() {
        let source = r##"
            //! crate::app in a comment
            use crate::{fault::{Fault, Reason as Why}, http::{self, respond}};
            fn f<'a>(c: char) -> &'a str { let _ = ('"', '\'', r#"crate::cli"#, "crate::app"); crate::net::dial(c) }
            macro_rules! m { () => { $crate::units::Time::ZERO } }
            /* crate::events /* nested */ crate::events */
            mod tests { use super::super::outbox::Store; use super::*; }
        "##;
        assert_eq!(
            paths("balance/pick.rs", source),
            [
                "fault::Fault",
                "fault::Reason",
                "http::respond",
                "net::dial",
                "units::Time::ZERO",
                "balance::outbox::Store",
                "balance::pick::*",
                "http::self",
            ]
        );
    }

    #[test]
    fn climbing_by_super_counts() {
        let found = complaints_about("net/listener.rs", "use super::super::cli::run;");
        assert!(found[0].contains("net reaches up to cli"), "{found:?}");
    }

    #[test]
    fn an_upward_import_is_refused() {
        let found = complaints_about(
            "outbox/mod.rs",
            "use crate::fault::Fault;\n\nfn f() { crate::events::capture::go() }",
        );
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("src/outbox/mod.rs:3:"), "{found:?}");
        assert!(found[0].contains("outbox reaches up to events"));
    }

    #[test]
    fn a_wall_between_parts_stands_but_for_the_doors() {
        assert_eq!(
            complaints_about("route/mod.rs", "use crate::http::x;").len(),
            1
        );
        assert!(complaints_about("http/mod.rs", "use crate::{telemetry::A, wire::B};").is_empty());
        assert!(complaints_about("balance/mod.rs", "use crate::discover::A;").is_empty());
    }

    #[test]
    fn flows_meet_only_at_capture_and_in_settings() {
        assert!(complaints_about("outbound/settings.rs", "use crate::events::Message;").is_empty());
        assert!(complaints_about("inbound/mod.rs", "use crate::events::capture::A;").is_empty());
        assert_eq!(
            complaints_about("inbound/mod.rs", "use crate::events::deliver;").len(),
            1
        );
        assert_eq!(
            complaints_about("inbound/mod.rs", "use crate::outbound;").len(),
            1
        );
    }

    #[test]
    fn config_takes_only_settings_and_only_app_and_cli_take_config() {
        assert!(
            complaints_about(
                "config/mod.rs",
                "use crate::{units::Time, http::Timers, route::settings::Rule};"
            )
            .is_empty()
        );
        let inline = |room: &str| {
            let source = format!("use crate::{{{room}}};\nstruct A {{ b: {room}::Settings }}");
            complaints_about("config/mod.rs", &source).len()
        };
        assert_eq!((inline("admin"), inline("net")), (0, 1));
        assert_eq!(
            complaints_about("config/mod.rs", "use crate::http::respond;").len(),
            1
        );
        assert!(complaints_about("app/mod.rs", "use crate::config::Config;").is_empty());
        assert_eq!(
            complaints_about("admin/mod.rs", "use crate::config::Config;").len(),
            1
        );
    }

    #[test]
    fn a_circle_is_refused() {
        let mut imports = read("cli/mod.rs", "use crate::app::A;");
        imports.extend(read("app/mod.rs", "use crate::cli::B;"));
        let found = complaints(&imports, &settings());
        assert!(
            found.iter().any(|line| line == "cli is part of a circle"),
            "{found:?}"
        );
    }

    #[test]
    fn a_room_without_a_place_is_refused() {
        assert_eq!(
            complaints_about("net/mod.rs", "use crate::helpers::A;").len(),
            1
        );
    }
}
