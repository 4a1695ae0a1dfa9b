//! The alert rules, asked of Prometheus' own tool.

use std::{fs, path::Path, process::Command};

fn promtool(folder: &Path, arguments: &[&str]) {
    let asked = Command::new("promtool")
        .current_dir(folder)
        .args(arguments)
        .output();
    let said = asked.expect("promtool is missing: apt-get install prometheus (`make test` does)");
    let words =
        String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{words}");
}

#[test]
fn every_alert_speaks_when_it_should_and_only_then() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().unwrap();
    fs::copy(
        root.join("config/prometheus/alerts.yaml"),
        folder.path().join("alerts.yaml"),
    )
    .unwrap();
    fs::copy(
        root.join("tests/it/parts/alerts.yaml"),
        folder.path().join("tests.yaml"),
    )
    .unwrap();
    promtool(folder.path(), &["check", "rules", "alerts.yaml"]);
    promtool(folder.path(), &["test", "rules", "tests.yaml"]);
}
