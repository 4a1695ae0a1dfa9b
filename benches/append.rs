//! Durable appends a second, on one core: ours against a bare group commit of the same bytes in the same database.
//!
//! `cargo bench --bench append [directory]`. The bare one is a loop of `BEGIN`, n `INSERT`s, `COMMIT` in one thread, with
//! the same pragmas, no ids, no limits, no ledger, nobody to answer. Turns alternate, so that both see the same machine.

use std::{
    cell::Cell,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rusqlite::Connection;
use weft::{
    outbox::{Limits, Metrics, Options, Outcome, Pending, Record, Seq, Store, Wall},
    units::Percent,
};

const TURN: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;
const PAYLOAD: usize = 1024;

fn main() {
    let root = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let root = tempfile::tempdir_in(root.unwrap_or_else(|| ".".to_owned())).expect("a directory");
    on_one_core();
    println!("durable appends of {PAYLOAD} B a second on one core, median of {ROUNDS}");
    for callers in [64, 512] {
        let mut rates = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let dir = root.path().join(format!("{callers}-{round}"));
            rates.0.push(ours(&dir.join("ours"), callers));
            rates.1.push(bare(&dir.join("bare"), callers));
        }
        let (ours, bare) = (median(rates.0), median(rates.1));
        println!(
            "{callers:>4} callers: {ours:>8.0} ours {bare:>8.0} bare, ratio {:.2}",
            ours / bare
        );
    }
    let (rate, appended, delivered) = delivery(&root.path().join("delivery"));
    println!("delivery: {rate:.0} loaded and finished a second, 64 at a time");
    println!("CPU an event: {appended:.1} µs appended, {delivered:.1} µs loaded and finished");
}

/// CPU that this process has used, in the kernel's ticks of 10 ms: enough for runs of seconds.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = |at: usize| {
        fields
            .split_whitespace()
            .nth(at)
            .and_then(|t| t.parse::<u64>().ok())
    };
    Duration::from_millis(10 * (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)))
}

fn on_one_core() {
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &one) {
        println!("not on one core: {error}");
    }
}

fn record() -> Record {
    Record {
        upstream: "email".into(),
        route: "notify".into(),
        key: Some(Bytes::from_static(b"customer-1")),
        due: Wall::now(),
        expiry: None,
        head: Bytes::from_static(&[b'h'; 128]),
        body: Bytes::from_static(&[b'b'; PAYLOAD - 128]),
        idempotency: None,
    }
}

fn open(dir: &Path) -> Store {
    let limits = Limits {
        per_upstream: Percent::new(100).expect("a share"),
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    Store::open(dir, &options, Metrics::default()).expect("a store")
}

fn local<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime")
        .block_on(work)
}

fn ours(dir: &Path, callers: usize) -> f64 {
    local(async {
        let store = open(dir);
        let appender = store.appender();
        let done = Rc::new(Cell::new(0u64));
        let (began, first) = (Instant::now(), record());
        let callers: Vec<_> = (0..callers)
            .map(|_| {
                let (appender, done, record) = (appender.clone(), done.clone(), first.clone());
                tokio::task::spawn_local(async move {
                    while began.elapsed() < TURN {
                        appender.append(record.clone()).await.expect("durable");
                        done.set(done.get() + 1);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("no panic");
        }
        let rate = done.get() as f64 / began.elapsed().as_secs_f64();
        store.close().await;
        rate
    })
}

fn bare(dir: &Path, batch: usize) -> f64 {
    std::fs::create_dir_all(dir).expect("a directory");
    let db = Connection::open(dir.join("bare.db")).expect("a database");
    db.execute_batch(
        "PRAGMA locking_mode = EXCLUSIVE; PRAGMA page_size = 16384; PRAGMA cache_size = -8192;
         PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 5000;
         CREATE TABLE event (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;",
    )
    .expect("a table");
    let (began, payload, mut done) = (Instant::now(), [b'b'; PAYLOAD], 0u64);
    while began.elapsed() < TURN {
        db.execute_batch("BEGIN IMMEDIATE").expect("begun");
        for _ in 0..batch {
            db.prepare_cached("INSERT INTO event (body) VALUES (?)")
                .and_then(|mut insert| insert.execute([&payload[..]]))
                .expect("inserted");
        }
        db.execute_batch("COMMIT").expect("durable");
        done += batch as u64;
    }
    done as f64 / began.elapsed().as_secs_f64()
}

/// Delivered a second, and the CPU µs of an append and of a delivery, both in batches of 64.
fn delivery(dir: &Path) -> (f64, f64, f64) {
    const EVENTS: usize = 64 * 600;
    local(async {
        let store = open(dir);
        let appender = store.appender();
        let first = record();
        let before = cpu();
        for _ in 0..EVENTS / 64 {
            let all: Vec<_> = (0..64)
                .map(|_| {
                    let (appender, record) = (appender.clone(), first.clone());
                    tokio::task::spawn_local(async move { appender.append(record).await })
                })
                .collect();
            for one in all {
                one.await.expect("no panic").expect("durable");
            }
        }
        let appended = cpu() - before;
        let mut all: Vec<Pending> = Vec::new();
        let mut after = Seq::START;
        while let chunk = store.pending(after, 4096).await.expect("read")
            && let Some(last) = chunk.last()
        {
            after = last.seq;
            all.extend(chunk);
        }
        let (courier, began, before) = (store.courier(), Instant::now(), cpu());
        let queue = Rc::new(std::cell::RefCell::new(all.into_iter()));
        let hands: Vec<_> = (0..64)
            .map(|_| {
                let (courier, queue) = (courier.clone(), queue.clone());
                tokio::task::spawn_local(async move {
                    while let Some(next) = { queue.borrow_mut().next() } {
                        let event = courier.load(next.seq).await.expect("read");
                        assert!(event.is_some());
                        let done = Outcome::Delivered {
                            attempts: 1,
                            status: 200,
                        };
                        courier.finish(next.seq, done).await.expect("durable");
                    }
                })
            })
            .collect();
        for hand in hands {
            hand.await.expect("no panic");
        }
        let rate = EVENTS as f64 / began.elapsed().as_secs_f64();
        let each = |spent: Duration| spent.as_secs_f64() * 1e6 / EVENTS as f64;
        let spent = (each(appended), each(cpu() - before));
        store.close().await;
        (rate, spent.0, spent.1)
    })
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
