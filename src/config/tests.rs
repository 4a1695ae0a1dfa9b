//! Files in, words out: what an operator is told of each mistake, and that what is printed can be loaded.

mod authorization;
mod mistakes;

use std::{collections::BTreeSet, fmt::Write};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// An environment of two variables; deferring examples keep their calls in the second one's directory.
fn environment(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("8080".into()),
        "TRICK" => Some("a: [b]\nc: d".into()),
        "WEFT_OUTBOX" => Some(std::env::temp_dir().display().to_string()),
        _ => None,
    }
}

fn load(text: &str) -> Result<Loaded, Diagnostics> {
    Config::parse_with(text, "weft.yaml", &environment)
}

/// Findings in one line each: place, level where it is a warning, path, words, help.
fn told(text: &str) -> String {
    let all = load(text).map_or_else(|errors| errors, |loaded| loaded.warnings);
    let mut lines = String::new();
    for one in all.iter() {
        if let Some(place) = one.place {
            let _ = write!(lines, "{}:{}: ", place.line, place.column);
        }
        if one.level == Level::Warning {
            lines.push_str("warning: ");
        }
        if !one.path.is_empty() {
            let _ = write!(lines, "{}: ", one.path);
        }
        lines.push_str(&one.words);
        if let Some(help) = &one.help {
            let _ = write!(lines, " [{help}]");
        }
        lines.push('\n');
    }
    lines
}

#[test]
fn an_empty_file_is_a_working_one() {
    for empty in [
        "",
        "# nothing\n",
        "---\n",
        "{}",
        "version: weft/v1",
        "\u{feff}",
        "outbound:\nupstreams:\n",
    ] {
        assert_eq!(load(empty).unwrap().config, Config::default(), "{empty}");
    }
}

#[test]
fn a_finding_shows_its_line_and_points_at_it() {
    let text = "outbound:\n  routes:\n    - name: charge\n      timeouts: { requst: 3s }\n";
    assert_eq!(
        load(text).unwrap_err().to_string(),
        "\
weft.yaml:4:19: error: outbound.routes[0].timeouts.requst: unknown key `requst`
    4 |       timeouts: { requst: 3s }
      |                   ^^^^^^
      = did you mean `request`?

1 error"
    );
}

#[test]
fn nothing_in_a_finding_commands_the_terminal() {
    let text = format!("\"a\\u001b[2J\u{202e}\": {}\n", "x".repeat(5_000));
    let words = load(&text).unwrap_err().to_string();
    assert!(words.chars().all(|c| c == '\n' || !c.is_control()) && !words.contains('\u{202e}'));
    assert!(words.len() < 1_000, "{words}");
}

#[test]
fn an_unreadable_file_is_told() {
    let missing = Config::load(std::path::Path::new("/no/such/weft.yaml")).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "/no/such/weft.yaml: error: cannot be read: No such file or directory (os error 2)\n\n1 error"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weft.yaml");
    std::fs::write(&file, b"a: 1\nb: \xff\n").unwrap();
    let words = Config::load(&file).unwrap_err().to_string();
    assert!(words.contains("error: line 2 is not UTF-8"), "{words}");
    std::fs::write(&file, "#".repeat((1 << 20) + 1)).unwrap();
    let words = Config::load(&file).unwrap_err().to_string();
    assert!(
        words.contains("a routing file has at most 1048576"),
        "{words}"
    );
}

#[test]
fn a_bomb_of_aliases_is_refused_before_it_grows() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (one, next) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        let _ = writeln!(
            bomb,
            "{next}: &{next} [*{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}, *{one}]"
        );
    }
    assert!(told(&bomb).contains("more than 100000 values"));
}

#[test]
fn depth_is_bounded() {
    for deep in [
        "[".repeat(200_000),
        "a: {".repeat(100_000),
        "- ".repeat(100_000),
        "? ".repeat(5_000),
    ] {
        let words = told(&deep);
        assert!(
            words.contains("deeper than 64") || words.contains("not YAML"),
            "{words}"
        );
    }
}

#[test]
fn errors_beyond_the_sixty_fourth_are_not_told() {
    let text: String = (0..200).fold(String::new(), |text, n| text + &format!("key{n}: 1\n"));
    let all = load(&text).unwrap_err();
    assert_eq!(all.errors(), 65);
    assert!(
        all.to_string()
            .contains("more than 64 of these; the rest is not told")
    );
}

#[test]
fn an_environment_variable_is_a_scalar_and_nothing_else() {
    let loaded = load("workers: ${WORKERS:-3}\nservice: { name: \"a-${PORT}\" }\ntelemetry: { accessLog: \"${LOG:-all}\" }").unwrap();
    assert_eq!(loaded.config.service.name.as_str(), "a-8080");
    assert_eq!(told("service:\n  name: ${TRICK}\n").lines().count(), 1);
    let shown = effective(&loaded);
    assert!(
        shown.contains("workers: 3  # env WORKERS") && shown.contains("accessLog: all  # env LOG"),
        "{shown}"
    );
}

#[test]
fn origins_are_marked() {
    let shown = effective(
        &load("service:\n  name: \"x${PORT}\"\nadmin: { metrics: 127.0.0.1:1 }\n").unwrap(),
    );
    for line in [
        "  name: x8080  # env PORT",
        "  metrics: 127.0.0.1:1  # weft.yaml:3",
        "  listen: 127.0.0.1:15000  # default",
        "upstreams: {}  # default",
    ] {
        assert!(
            shown.lines().any(|shown| shown == line),
            "{line} not in\n{shown}"
        );
    }
}

#[test]
fn credentials_are_not_shown() {
    let text = "outbound:\n  routes:\n    - name: a\n      filters:\n        - requestHeaderModifier:\n            set: { authorization: Bearer s3cret, x-port: \"${PORT}\" }\n";
    let shown = effective(&load(text).unwrap());
    assert!(
        shown.contains("authorization: \"***\"") && shown.contains("x-port: \"${PORT}\""),
        "{shown}"
    );
}

/// What stands in `config/`, by name; with an outbox that whoever tests may write.
fn examples() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let yaml = files.filter(|file| file.extension().is_some_and(|end| end == "yaml"));
    let read = |file: std::path::PathBuf| {
        let mut text = std::fs::read_to_string(&file).unwrap();
        if !text.contains("outbox:") {
            text.push_str("\noutbox: { path: \"${WEFT_OUTBOX}\" }\n");
        }
        (file.display().to_string(), text)
    };
    yaml.map(read).collect()
}

#[test]
fn every_example_loads_without_a_warning() {
    let examples = examples();
    assert!(examples.len() >= 5);
    for (name, text) in examples {
        assert_eq!(told(&text), "", "{name}");
    }
}

#[test]
fn what_is_printed_loads_as_the_same() {
    for (name, text) in examples() {
        let loaded = load(&text).unwrap();
        let again = load(&effective(&loaded)).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!(loaded.config, again.config, "{name}");
    }
}

fn reference() -> &'static str {
    include_str!("../../config/reference.yaml")
}

#[test]
fn the_reference_says_every_key() {
    fn keys(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::Object(properties)) = map.get("properties") {
                    into.extend(properties.keys().cloned());
                }
                map.values().for_each(|value| keys(value, into));
            }
            Value::Array(items) => items.iter().for_each(|item| keys(item, into)),
            _ => {}
        }
    }
    let mut known = BTreeSet::new();
    keys(&schema(), &mut known);
    let said = |key: &String| {
        reference().contains(&format!("{key}:")) || reference().contains(&format!("| {key} }}"))
    };
    let missing: Vec<_> = known.iter().filter(|key| !said(key)).collect();
    assert!(known.len() > 80 && missing.is_empty(), "{missing:?}");
}

#[test]
fn the_reference_says_the_defaults() {
    let said = load(reference()).unwrap().config;
    let default = Config::default();
    assert_eq!(said.inbound.listen, default.inbound.listen);
    assert_eq!(said.inbound.timers, default.inbound.timers);
    assert_eq!(said.outbound.listen, default.outbound.listen);
    assert_eq!(said.outbound.unknown, default.outbound.unknown);
    assert_eq!(said.outbound.timers, default.outbound.timers);
    assert_eq!(said.outbox.limits, default.outbox.limits);
    assert_eq!(
        (said.telemetry, said.admin, said.shutdown),
        (default.telemetry, default.admin, default.shutdown)
    );
    let [charge, _, notify] = said.outbound.routes.as_slice() else {
        panic!("three routes");
    };
    assert_eq!(charge.retry, Default::default());
    assert_eq!(notify.idempotency, Some(Default::default()));
    let defer = notify.defer.clone().unwrap();
    assert_eq!((defer.deliver, defer.delay), Default::default());
    let (full, least) = (&said.upstreams["payments"], &said.upstreams["email"]);
    assert_eq!(
        (full.protocol, full.timeouts, &full.tls),
        (least.protocol, least.timeouts, &least.tls)
    );
    assert_eq!(
        (full.limits, full.outlier, full.panic),
        (least.limits, least.outlier, least.panic)
    );
    assert_eq!(full.load_balancing, least.load_balancing);
}

/// Pieces of routing files, right and wrong, to be put together at random.
fn piece() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "outbound:",
        "routes:",
        "- ",
        "name: a",
        "hosts: [",
        "]",
        "{",
        "}",
        "\n",
        "\n  ",
        "\n    ",
        "defer: ",
        "matches:",
        "upstreams:",
        "endpoints: {static: [127.0.0.1:1]}",
        "*a",
        "&a ",
        "? ",
        "!!str ",
        "|\n",
        ">-\n",
        "\"",
        "'",
        "${A}",
        "<<: ",
        "\t",
        "#",
        ": ",
        ", ",
        "---\n",
        "retry: {attempts: 0}",
        "\u{85}",
        "\u{feff}",
        "\\",
        "%YAML 1.2\n",
        "null",
        "listen: 0.0.0.0:15001",
        "filters: [{urlRewrite: {path: {replaceFullPath: /}}}]",
    ];
    proptest::sample::select(PIECES).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = load(&text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_pieces_make_it_panic(pieces in proptest::collection::vec(piece(), 0..40)) {
        match load(&pieces.concat()) {
            Ok(loaded) => drop(effective(&loaded)),
            Err(errors) => prop_assert!(errors.errors() > 0 && !errors.to_string().is_empty()),
        }
    }

    #[test]
    fn any_text_survives_being_printed(body in "\\PC{0,40}") {
        let quoted = serde_json::to_string(&body).unwrap();
        let text = format!("outbound: {{ routes: [{{ name: a, matches: [{{ query: {{ q: {quoted} }} }}] }}] }}");
        let loaded = load(&text.replace("${", "$${")).unwrap();
        let again = load(&effective(&loaded)).unwrap();
        prop_assert_eq!(loaded.config, again.config);
    }
}
