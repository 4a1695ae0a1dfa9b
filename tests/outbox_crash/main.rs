//! The store under a process that dies and a disk that fails, at every storage operation, always with a backlog.
//!
//! A story of 200 appends, with deliveries, retries and dead letters beside them, runs in a process of its own: this
//! test binary again, over a shim under libc's file calls (`tests/shim/fault.c`). What it was told and what it told is
//! read from its output; then the store is opened as the next process would, and nothing acknowledged may be missing.

mod disk;
mod judge;
mod story;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use judge::{Said, judge};
use rustix::io::Errno;

/// Runs only when the tests below start it.
#[test]
fn story() {
    if let Ok(dir) = std::env::var("WEFT_STORY") {
        story::tell(Path::new(&dir));
    }
}

/// A directory in memory where there is one: what a sync means is the shim's to say, not the disk's.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// The shim, compiled once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-{}.so", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim/fault.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status()
            .expect("a C compiler");
        assert!(compiled.success());
        library
    })
}

/// A store with a hundred events that nobody has delivered yet, left by a process that was killed.
fn backlog() -> &'static (tempfile::TempDir, Said) {
    static BACKLOG: OnceLock<(tempfile::TempDir, Said)> = OnceLock::new();
    BACKLOG.get_or_init(|| {
        let dir = scratch();
        let said = run(dir.path(), &[("WEFT_STORY_BACKLOG", "100")]).said;
        assert_eq!(said.acknowledged.len(), 100);
        (dir, said)
    })
}

/// One run of the story over a copy of the backlog.
struct Run {
    dir: tempfile::TempDir,
    said: Said,
    ended: bool,
}

fn again(env: &[(&str, &str)]) -> Run {
    let (from, said) = backlog();
    let dir = scratch();
    for entry in std::fs::read_dir(from.path()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let Told { said: more, ended } = run(dir.path(), env);
    let mut said = said.clone();
    said.extend(more);
    Run { dir, said, ended }
}

struct Told {
    said: Said,
    ended: bool,
}

fn run(dir: &Path, env: &[(&str, &str)]) -> Told {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["story", "--exact", "--nocapture", "--test-threads=1"])
        .env("WEFT_STORY", dir)
        .env("LD_PRELOAD", shim())
        .env("SHIM_DIR", dir)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    Told {
        said: Said::read(&text),
        ended: text.lines().any(|line| line == "END"),
    }
}

/// Tries every `step`th number from 1 on two threads until the story comes to its end undisturbed.
fn sweep(step: usize, most: usize, trial: impl Fn(usize) -> bool + Sync) -> usize {
    let (next, tried) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while over.load(Ordering::Relaxed) < 3 {
                    let nth = 1 + step * next.fetch_add(1, Ordering::Relaxed);
                    if nth > most {
                        break;
                    }
                    if trial(nth) {
                        over.fetch_add(1, Ordering::Relaxed);
                    } else {
                        tried.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    tried.into_inner()
}

/// Kills by `how`; true when the story ended before that.
fn killed(how: String) -> bool {
    let run = again(&[("SHIM_KILL", &how)]);
    judge(run.dir.path(), &run.said, &how);
    run.ended
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_dies_before_any_storage_operation() {
    let tried = sweep(1, usize::MAX, |nth| killed(format!("before:{nth}")));
    assert!(tried > 300, "{tried} operations");
}

/// After a write is before the next operation; what can be seen outside between the two follows a sync.
#[test]
fn nothing_acknowledged_is_lost_when_the_process_dies_after_any_sync() {
    let tried = sweep(1, usize::MAX, |nth| killed(format!("sync:{nth}")));
    assert!(tried > 40, "{tried} syncs");
}

#[test]
fn nothing_acknowledged_is_lost_at_the_named_crash_points() {
    let times = ["1", "2", "9"].into_iter();
    let points = ["append-before-fsync", "after-fsync"];
    let mut all: Vec<_> = points
        .iter()
        .flat_map(|p| times.clone().map(move |n| format!("{p}:{n}")))
        .collect();
    all.push("after-dead-letter:1".to_owned());
    for at in all {
        let run = again(&[("WEFT_CRASH_AT", &at)]);
        assert!(!run.ended, "{at} was not passed");
        judge(run.dir.path(), &run.said, &at);
    }
}

/// The process dies while it recovers from a death.
#[test]
fn nothing_acknowledged_is_lost_when_recovery_is_killed() {
    let first = again(&[("SHIM_KILL", "before:400")]);
    sweep(1, 40, |nth| {
        let dir = scratch();
        for entry in std::fs::read_dir(first.dir.path()).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let how = format!("before:{nth}");
        let more = run(
            dir.path(),
            &[("SHIM_KILL", &how), ("WEFT_STORY_FROM", "2000")],
        );
        let mut said = first.said.clone();
        said.extend(more.said);
        judge(dir.path(), &said, &format!("400, then {how}"));
        more.ended
    });
}

/// The syncs of an undisturbed story, and its writes.
fn calls() -> (usize, usize) {
    let count = tempfile::NamedTempFile::new().unwrap();
    assert!(again(&[("SHIM_COUNT", count.path().to_str().unwrap())]).ended);
    let text = std::fs::read_to_string(count.path()).unwrap();
    let numbers: Vec<usize> = text
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    (numbers[1], numbers[2])
}

fn failing(kind: &str, errno: rustix::io::Errno, nth: usize, times: usize) -> String {
    format!("{}:{kind}:{nth}:{times}", errno.raw_os_error())
}

/// An error at opening is an error to whoever opens; later ones are survived.
fn survived(run: &Run) -> bool {
    run.ended || run.said.acknowledged.len() == 100
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_the_store_goes_on() {
    let (syncs, _) = calls();
    assert!(syncs > 40, "{syncs}");
    let refused = AtomicUsize::new(0);
    sweep(1, syncs, |nth| {
        let how = failing("sync", Errno::IO, nth, 1);
        let run = again(&[("SHIM_FAIL", &how)]);
        judge(run.dir.path(), &run.said, &how);
        assert!(survived(&run), "{how}: the story broke off");
        if run.said.refused > 0 {
            refused.fetch_add(1, Ordering::Relaxed);
            assert!(
                nth > syncs - 20 || run.said.acknowledged_after_refusal > 0,
                "{how}: it never took again"
            );
        }
        false
    });
    assert!(refused.into_inner() > 20);
}

#[test]
fn a_failed_write_acknowledges_nothing_and_the_store_goes_on() {
    let (_, writes) = calls();
    sweep(7, writes, |nth| {
        let how = failing("write", Errno::IO, nth, 1);
        let run = again(&[("SHIM_FAIL", &how)]);
        judge(run.dir.path(), &run.said, &how);
        assert!(survived(&run), "{how}: the story broke off");
        false
    });
}

#[test]
fn a_disk_that_keeps_failing_makes_the_store_read_only() {
    let (syncs, _) = calls();
    sweep(5, syncs, |nth| {
        let how = failing("sync", Errno::IO, nth, usize::MAX >> 1);
        let run = again(&[("SHIM_FAIL", &how)]);
        judge(run.dir.path(), &run.said, &how);
        assert_eq!(run.said.acknowledged_after_refusal, 0, "{how}");
        false
    });
}

/// A story in which a commit's sync fails, the `nth` or one of the next: some syncs are a checkpoint's, and refuse none.
fn failed_commit(nth: usize) -> (String, Run, tempfile::NamedTempFile) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut tries = (nth..nth + 20).map(|nth| {
        let fail = failing("sync", Errno::IO, nth, 1);
        let run = again(&[
            ("SHIM_FAIL", &fail),
            ("SHIM_LOG", log.path().to_str().unwrap()),
        ]);
        (fail, run)
    });
    let refused = |(_, run): &(String, Run)| run.ended && run.said.refused > 0;
    let (fail, run) = tries.find(refused).expect("a commit's sync");
    drop(tries);
    (fail, run, log)
}

/// The sync fails, the store moves to a new file, and on that way the process dies.
#[test]
fn nothing_acknowledged_is_lost_when_the_move_to_a_new_file_is_killed() {
    let (fail, _, log) = failed_commit(20);
    let at = story::operations_until_failure(log.path()).unwrap();
    sweep(1, 60, |nth| {
        let how = format!("before:{}", at + nth);
        let run = again(&[("SHIM_FAIL", &fail), ("SHIM_KILL", &how)]);
        judge(run.dir.path(), &run.said, &format!("{fail}, {how}"));
        false
    });
}

#[test]
fn a_full_disk_refuses_and_touches_nothing_and_later_takes_again() {
    let (_, writes) = calls();
    let refused = AtomicUsize::new(0);
    sweep(5, writes, |nth| {
        let how = failing("write", Errno::NOSPC, nth, 8);
        let run = again(&[("SHIM_FAIL", &how)]);
        judge(run.dir.path(), &run.said, &how);
        assert!(survived(&run), "{how}: the story broke off");
        if run.said.refused > 0 {
            refused.fetch_add(1, Ordering::Relaxed);
            assert!(
                nth > writes / 2 || run.said.acknowledged_after_refusal > 0,
                "{how}: it never took again"
            );
        }
        false
    });
    assert!(refused.into_inner() > 20);
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let run = again(&[("SHIM_LOG", log.path().to_str().unwrap())]);
    assert!(run.ended);
    let images = disk::fail_everywhere(backlog(), run.dir.path(), log.path());
    assert!(images > 400, "{images} images");
}

/// What the failed sync covered is gone, however often the file is synced again.
#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails_after_a_failed_sync() {
    let (_, run, log) = failed_commit(30);
    let images = disk::fail_everywhere(backlog(), run.dir.path(), log.path());
    assert!(images > 400, "{images} images");
}
