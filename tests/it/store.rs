//! A store that cannot be had: deferred calls are refused, the rest goes on, and what was accepted is still there.

use std::{fs, path::PathBuf};

use crate::harness::{Answer, Call, Origin, Weft, dead_address, parts, wait_until};

/// A sidecar whose POSTs to `email` are deferred; `more` is the file's further keys.
fn file(endpoint: &str, more: &str) -> String {
    format!(
        r#"
outbound:
  listen: "127.0.0.1:0"
  routes:
    - name: notify
      hosts: [email]
      matches: [{{ method: POST }}]
      defer: {{ deliver: {{ backoff: {{ base: 10ms, max: 50ms }} }} }}
upstreams:
  email: {{ endpoints: {{ static: ["{endpoint}"] }} }}
{more}
"#
    )
}

fn defer(weft: &Weft, body: &str) -> Answer {
    let call = Call::post("/v1/send", body).host("email");
    call.send(&weft.outbound())
}

/// A sidecar that was killed with these many accepted calls in its log, each in a commit of its own.
fn with_backlog(calls: usize) -> Weft {
    let mut weft = Weft::start(&file(&dead_address(), ""));
    for number in 0..calls {
        assert_eq!(defer(&weft, &number.to_string()).status, 202);
    }
    weft.kill9();
    weft
}

fn database(weft: &Weft) -> PathBuf {
    weft.path().join("outbox/store.db")
}

/// It starts all the same: calls that nobody defers pass, deferred ones are refused with `words` as the cause,
/// `check` fails by the same words, and not a byte of the file changes.
#[track_caller]
fn is_refused(weft: &mut Weft, touched: &PathBuf, words: &str) {
    let bytes = fs::read(touched).expect("the store's file");
    let origin = Origin::start();
    weft.write_config(&file(&origin.address(), ""));
    weft.restart();
    let line = weft.wait_for_log("store_unavailable");
    assert!(line.contains(words), "{line}");
    let refused = defer(weft, "new");
    assert_eq!(
        (refused.status, refused.reason()),
        (503, Some("store_unavailable"))
    );
    assert!(refused.header("retry-after").is_some());
    assert!(refused.text().contains(words), "{}", refused.text());
    let passed = Call::get("/now").host("email").send(&weft.outbound());
    assert_eq!(passed.status, 200);
    weft.term();
    weft.wait_until_gone();
    assert_eq!(fs::read(touched).expect("it is still there"), bytes);
    let check = weft.run(&["check", "-c", "weft.yaml"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains(words), "{said}");
    assert_eq!(origin.count(), 1, "nothing was delivered from it");
}

/// Once the store is whole again, everything that was accepted is delivered.
#[track_caller]
fn is_delivered(weft: &mut Weft, calls: usize) {
    let origin = Origin::start();
    weft.write_config(&file(&origin.address(), ""));
    weft.restart();
    let mut bodies: Vec<String> = origin
        .wait_for_requests(calls)
        .iter()
        .map(|seen| seen.text())
        .collect();
    bodies.sort();
    let accepted: Vec<String> = (0..calls).map(|number| number.to_string()).collect();
    assert_eq!(bodies, accepted);
}

#[test]
fn a_store_of_a_newer_version_is_left_alone_and_the_rest_goes_on() {
    let mut weft = with_backlog(3);
    let file = database(&weft);
    let has_format = |format: i64| {
        let db = rusqlite::Connection::open(&file).unwrap();
        db.pragma_update(None, "user_version", format).unwrap();
    };
    has_format(2);
    is_refused(&mut weft, &file, "has format 2; this weft reads up to 1");
    has_format(1);
    is_delivered(&mut weft, 3);
}

#[test]
fn a_damaged_store_is_left_alone_and_the_rest_goes_on() {
    let mut weft = with_backlog(3);
    // Closing it moves the log into the file.
    drop(
        rusqlite::Connection::open(database(&weft)).and_then(|db| {
            db.query_row("SELECT count(*) FROM event", [], |row| row.get::<_, i64>(0))
        }),
    );
    let file = database(&weft);
    let whole = fs::read(&file).unwrap();
    let mut broken = whole.clone();
    broken[16_384..].chunks_mut(16_384).for_each(|page| {
        page[..64].fill(0xFF);
    });
    fs::write(&file, broken).unwrap();
    is_refused(&mut weft, &file, "is damaged");
    fs::write(&file, whole).unwrap();
    is_delivered(&mut weft, 3);
}

/// SQLite itself would take what stands before the damage and pass over the rest without a word.
#[test]
fn a_log_damaged_in_its_middle_is_not_shortened_in_silence() {
    let mut weft = with_backlog(8);
    let log = database(&weft).with_extension("db-wal");
    let whole = fs::read(&log).unwrap();
    let mut broken = whole.clone();
    broken[whole.len() / 2] ^= 1;
    fs::write(&log, broken).unwrap();
    is_refused(&mut weft, &log, "events that were accepted stand behind it");
    fs::write(&log, whole).unwrap();
    is_delivered(&mut weft, 8);
}

/// The outbox's files on a disk that has no space for its writes from the 200th to the 260th.
#[test]
fn a_full_disk_refuses_deferred_calls_alone_and_is_survived() {
    let disk = tempfile::tempdir().expect("a temporary folder");
    let path = disk.path().to_str().expect("a plain path");
    let shim = parts::fault_shim();
    let origin = Origin::start();
    let outbox = format!("outbox: {{ path: \"{path}\" }}");
    let no_space = format!("{}:write:200:60", rustix::io::Errno::NOSPC.raw_os_error());
    let weft = Weft::start_with(
        &file(&origin.address(), &outbox),
        &[
            ("LD_PRELOAD", shim.to_str().expect("a plain path")),
            ("SHIM_DIR", path),
            ("SHIM_FAIL", &no_space),
        ],
    );
    let mut accepted = Vec::new();
    let mut call = |number: usize| {
        let answer = defer(&weft, &number.to_string());
        if answer.status == 202 {
            accepted.push(number.to_string());
        }
        answer
    };
    let refused = (0..400).map(&mut call).find(|answer| answer.status != 202);
    let refused = refused.expect("the disk is full by then");
    assert_eq!(
        (refused.status, refused.reason()),
        (503, Some("store_unavailable"))
    );
    assert!(refused.header("retry-after").is_some());
    weft.wait_for_log("disk full");
    let passed = Call::get("/now").host("email").send(&weft.outbound());
    assert_eq!(passed.status, 200);
    let mut number = 1000;
    wait_until("space again", || {
        number += 1;
        call(number).status == 202
    });
    let arrived = || -> Vec<String> {
        let all = origin.requests();
        let posts = all.iter().filter(|seen| seen.method == "POST");
        posts.map(|seen| seen.text()).collect()
    };
    wait_until("all that was accepted", || {
        let arrived = arrived();
        accepted.iter().all(|body| arrived.contains(body))
    });
}

#[test]
fn limits_of_the_outbox_change_with_a_reload() {
    let dead = dead_address();
    let limits = |limits: &str| {
        let outbox =
            format!("outbox: {{ path: \"${{WEFT_DIR}}/outbox\", limits: {{ {limits} }} }}");
        file(&dead, &outbox)
    };
    let mut weft = Weft::start(&limits("count: 1, perUpstream: 100"));
    assert_eq!(defer(&weft, "x").status, 202);
    assert_eq!(defer(&weft, "x").reason(), Some("outbox_full"));
    weft.reload(&limits("count: 2, perUpstream: 100, event: 4KiB"));
    let large = "x".repeat(5_000);
    wait_until("the smaller event", || {
        defer(&weft, &large).reason() == Some("body_too_large")
    });
    assert_eq!(defer(&weft, "x").status, 202);
    assert_eq!(defer(&weft, "x").reason(), Some("outbox_full"));
}
