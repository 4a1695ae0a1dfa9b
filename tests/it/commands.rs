//! The commands, as a user types them: what they print, where, and how they exit.

use std::process::Output;

use crate::harness::Weft;

const FILE: &str = r#"
    outbound:
      listen: "127.0.0.1:0"
      unknown: deny
      routes:
        - name: notify
          hosts: [email]
          matches: [{ method: POST, path: { prefix: /v1/send } }]
          defer: { expiry: 24h }
        - name: charge
          hosts: [payments]
          matches: [{ headers: { x-tier: gold } }]
          timeouts: { request: 3s }
          backends: [{ upstream: payments, weight: 95 }, { upstream: canary, weight: 5 }]
    upstreams:
      email: { endpoints: { dns: "email.shop:8025" } }
      payments: { endpoints: { static: ["127.0.0.1:7001", "127.0.0.1:7002"] } }
      canary: { endpoints: { static: ["127.0.0.1:7003"] } }
"#;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn printed(weft: &Weft, arguments: &[&str]) -> String {
    let output = weft.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", err(&output));
    out(&output)
}

#[track_caller]
fn holds(text: &str, parts: &[&str]) {
    // Columns are as wide as their widest value: only their order matters here.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in parts {
        assert!(words(text).contains(&words(part)), "no {part:?} in\n{text}");
    }
}

#[test]
fn check_says_what_a_good_file_holds() {
    let weft = Weft::folder(FILE);
    let text = printed(&weft, &["check", "-c", "weft.yaml"]);
    holds(&text, &["ok: 2 routes, 3 upstreams", "will be made"]);
    assert!(
        !weft.path().join("outbox").exists(),
        "check changes nothing"
    );
}

#[test]
fn check_tells_every_error_at_once_and_fails() {
    let weft = Weft::folder("outbound: { unknwn: deny }\nworkers: 0\n");
    let output = weft.run(&["check", "-c", "weft.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    holds(
        &err(&output),
        &[
            "weft.yaml:1:13: error: outbound.unknwn",
            "did you mean `unknown`?",
            "workers",
            "2 errors",
        ],
    );
}

#[test]
fn check_warns_and_succeeds() {
    let weft = Weft::folder(
        r#"
        outbound:
          listen: "127.0.0.1:0"
          routes: [{ name: all, hosts: [a], timeouts: { request: 1s, backendRequest: 3s } }]
        upstreams:
          a: { endpoints: { static: ["127.0.0.1:7001"] } }
        "#,
    );
    let output = weft.run(&["check", "-c", "weft.yaml"]);
    assert!(output.status.success());
    holds(&err(&output), &["warning", "backendRequest"]);
    holds(&out(&output), &["ok: 1 route, 1 upstream"]);
}

#[test]
fn check_fails_on_a_damaged_store() {
    let weft = Weft::folder(FILE);
    let outbox = weft.path().join("outbox");
    std::fs::create_dir(&outbox).unwrap();
    std::fs::write(outbox.join("lock"), "").unwrap();
    std::fs::write(outbox.join("store.db"), "this is no database".repeat(500)).unwrap();
    let output = weft.run(&["check", "-c", "weft.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
    holds(&err(&output), &["error: outbox.path:", "store.db"]);
}

#[test]
fn run_with_a_wrong_file_says_all_and_exits_2() {
    let failed = Weft::try_start("outbound: { unknwn: deny }\nworkers: 0\n", &[])
        .err()
        .expect("it is wrong");
    assert_eq!(failed.status.and_then(|status| status.code()), Some(2));
    holds(&failed.stderr, &["outbound.unknwn", "workers", "2 errors"]);
}

#[test]
fn a_missing_file_is_named() {
    let weft = Weft::folder("");
    let output = weft.run(&["run", "-c", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    holds(&err(&output), &["nowhere.yaml: error: cannot be read"]);
}

#[test]
fn explain_says_which_route_why_and_with_which_lines() {
    let weft = Weft::folder(FILE);
    let text = printed(
        &weft,
        &[
            "explain",
            "GET",
            "http://payments/charge",
            "-H",
            "x-tier: gold",
        ],
    );
    holds(
        &text,
        &[
            "route `charge`, match 1",
            "it wins",
            "route charge (weft.yaml:10)",
            "95 of 100: upstream payments: 127.0.0.1:7001, 127.0.0.1:7002 (weft.yaml:17)",
            "5 of 100: upstream canary: 127.0.0.1:7003",
            "deferred no",
            "timeouts.request 3s weft.yaml:13",
            "retry.attempts 2 default",
            "upstreams.payments.outlier.consecutiveFailures 5 default",
        ],
    );
}

#[test]
fn explain_says_what_is_deferred_and_what_cannot_be() {
    let weft = Weft::folder(FILE);
    let text = printed(&weft, &["explain", "POST", "email/v1/send"]);
    holds(
        &text,
        &[
            "route notify",
            "email.shop:8025 (DNS)",
            "deferred yes",
            "defer.expiry 1d weft.yaml:9",
        ],
    );
    let text = printed(&weft, &["explain", "POST", "email/other"]);
    holds(
        &text,
        &[
            "no route of `email` takes this request",
            "the host names the upstream",
        ],
    );
}

#[test]
fn explain_says_what_would_be_refused() {
    let weft = Weft::folder(FILE);
    let text = printed(&weft, &["explain", "GET", "http://nobody/"]);
    holds(
        &text,
        &[
            "host `nobody` is under no route's hosts",
            "403 unknown_host",
        ],
    );
    let wrong = weft.run(&["explain", "GET", "http://payments/", "-H", "no field"]);
    assert!(!wrong.status.success());
    holds(&err(&wrong), &["`no field` is no header field"]);
}

#[test]
fn the_effective_file_has_every_default_and_its_origin() {
    let weft = Weft::folder(FILE);
    let text = printed(&weft, &["config", "--effective"]);
    holds(
        &text,
        &[
            "unknown: deny # weft.yaml:4",
            "profile: mesh # default",
            "path: ",
            "# env WEFT_DIR",
        ],
    );
    // It is a routing file itself.
    std::fs::write(weft.path().join("again.yaml"), &text).unwrap();
    printed(&weft, &["check", "-c", "again.yaml"]);
}

#[test]
fn the_schema_is_the_committed_one() {
    let weft = Weft::folder("");
    let committed = include_str!("../../config/weft.schema.json");
    assert!(
        printed(&weft, &["schema"]) == committed,
        "config/weft.schema.json is stale"
    );
}

#[test]
fn the_version_is_the_packages() {
    let weft = Weft::folder("");
    let version = concat!("weft ", env!("CARGO_PKG_VERSION"));
    holds(&printed(&weft, &["version"]), &[version]);
    holds(&printed(&weft, &["--version"]), &[version]);
}

#[test]
fn every_shell_completes_the_commands() {
    let weft = Weft::folder("");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        holds(&printed(&weft, &["completions", shell]), &["explain"]);
    }
}
