//! The README's first command, played once.

use std::process::Command;

#[test]
fn the_demo_tells_its_whole_story_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["demo", "--once"])
        .env("TMPDIR", folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{complaints}");
    for line in [
        "30 calls of POST /charge. Answers by status: {200: 30}",
        "x-weft-durability: disk",
        "24 delivered, none lost, and in order for each of the 4 customers",
        "payments answered 422",
        "Delivered, under a new id that names the old one as its cause",
        "weft_events_ledger{state=\"edited\"} 1",
    ] {
        assert!(told.contains(line), "`{line}` is not told:\n{told}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
