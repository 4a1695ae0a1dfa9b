//! The documentation's tables say what the code does: metrics, reasons, admin pages.

use std::{fs, path::Path};

use weft::{admin::PAGES, fault::Reason, http::respond::statuses};

use crate::metrics::CATALOGUE;

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of a page's tables whose first cell is code, as their cells without backquotes.
fn rows(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().replace('`', "")).collect()
        })
        .collect()
}

#[test]
fn every_metric_is_explained() {
    let told: Vec<_> = rows(&page("metrics.md"))
        .into_iter()
        .map(|row| {
            (
                row[0].clone(),
                row[1].clone(),
                row[2].clone(),
                !row[3].is_empty(),
            )
        })
        .collect();
    let wanted: Vec<_> = CATALOGUE
        .iter()
        .map(|(name, kind, labels)| {
            (
                (*name).to_owned(),
                (*kind).to_owned(),
                (*labels).to_owned(),
                true,
            )
        })
        .collect();
    assert_eq!(
        told, wanted,
        "docs/metrics.md (left) and the catalogue (right) differ"
    );
}

#[test]
fn every_reason_is_in_the_table() {
    let told: Vec<_> = rows(&page("reasons.md"))
        .into_iter()
        .map(|row| format!("{} {} {}", row[0], row[1], row[2]))
        .collect();
    let wanted: Vec<_> = Reason::ALL
        .iter()
        .map(|reason| {
            let (status, grpc) = statuses(*reason);
            format!("{reason} {} {grpc} {}", status.as_u16(), name(grpc))
        })
        .collect();
    assert_eq!(
        told, wanted,
        "docs/reasons.md (left) and the code (right) differ"
    );
}

/// gRPC's own names (grpc/doc/statuscodes.md).
fn name(code: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES[usize::from(code)]
}

#[test]
fn every_admin_page_is_documented() {
    let told: Vec<_> = rows(&page("admin.md"))
        .into_iter()
        .map(|row| row[0].clone())
        .collect();
    let wanted: Vec<_> = PAGES
        .iter()
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    assert_eq!(
        told, wanted,
        "docs/admin.md (left) and the code (right) differ"
    );
}

/// The tests that a page names, each as it names it: `room::name` of `tests/it/room.rs`, or a file of `src/` and a name.
fn tests_named(page: &str) -> Vec<(String, String)> {
    page.split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|word| word.split_once("::"))
        .filter(|(file, name)| {
            let plain = |text: &str, more: &str| {
                !text.is_empty()
                    && text
                        .chars()
                        .all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter))
            };
            plain(file, "_/.") && plain(name, "_")
        })
        .map(|(file, name)| (file.to_owned(), name.to_owned()))
        .collect()
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let named = tests_named(&page("security.md"));
    assert!(!named.is_empty(), "the page names no test");
    for (file, name) in named {
        let path = match file.starts_with("src/") {
            true => file.clone(),
            false => format!("tests/it/{file}.rs"),
        };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let code =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        // Some stand in a table, by name.
        let there = [format!("fn {name}("), format!("\n    {name}: r#")]
            .iter()
            .any(|sign| code.contains(sign));
        assert!(there, "there is no {file}::{name}");
    }
}
