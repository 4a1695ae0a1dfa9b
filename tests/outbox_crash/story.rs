//! The story that is disturbed: five callers append, one consumer delivers, slower than they append.
//!
//! It says on its standard output what a caller or a consumer would know: `A key n id` acknowledged, `D key n id`
//! arrived, `F key n id` finished, `E key n` refused. Each line is one write, at the moment it is true.

use std::{cell::Cell, collections::VecDeque, io::Write, path::Path, rc::Rc, time::Duration};

use bytes::Bytes;
use weft::outbox::{
    Appender, DeadReason, Failure, Health, Metrics, News, Options, Outcome, Pending, Record, Seq,
    Store, Wall,
};

const KEYS: usize = 5;
const APPENDS: usize = 200;

pub fn options() -> Options {
    // A short log, so that it is moved into the database several times a story.
    Options {
        log_pages: 40,
        ..Options::default()
    }
}

pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}

pub fn tell(dir: &Path) {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let backlog = number("WEFT_STORY_BACKLOG");
    let from = number("WEFT_STORY_FROM").unwrap_or(1000);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap()
        .block_on(async {
            // The harness has written the test's name without an end of line.
            say("");
            let store = match Store::open(dir, &options(), Metrics::default()) {
                Ok(store) => store,
                Err(error) => return say(&format!("X {error}")),
            };
            match backlog {
                Some(events) => {
                    append_all(&store, 0, events).await;
                    kill();
                }
                None => live(&store, from).await,
            }
        });
}

fn kill() {
    let this = rustix::process::getpid();
    let _ = rustix::process::kill_process(this, rustix::process::Signal::KILL);
}

async fn live(store: &Store, from: usize) {
    let mut news = store.announcements().unwrap();
    let mut queue = VecDeque::new();
    let mut after = Seq::START;
    while let Ok(chunk) = store.pending(after, 50).await
        && let Some(last) = chunk.last()
    {
        after = last.seq;
        queue.extend(chunk);
    }
    let appended = Rc::new(Cell::new(false));
    let consumer = tokio::task::spawn_local({
        let (store, appended) = (store.clone(), appended.clone());
        async move {
            let mut turn = 0;
            while !appended.get() {
                let heard = tokio::select! {
                    biased;
                    heard = news.next() => heard,
                    () = std::future::ready(()) => None,
                };
                if let Some(News::Batch(batch)) = heard {
                    queue.extend(batch.into_iter().filter(|p| p.seq > after));
                }
                if let Some(next) = queue.front() {
                    turn += 1;
                    if deliver(&store, next, turn).await {
                        queue.pop_front();
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    });
    append_all(store, from, APPENDS).await;
    appended.set(true);
    consumer.await.unwrap();
    store.close().await;
    say("END");
}

/// Each key's caller waits for one answer before it asks again: so `n` is the order of appending.
async fn append_all(store: &Store, from: usize, events: usize) {
    let appender = store.appender();
    let callers: Vec<_> = (0..KEYS)
        .map(|key| {
            tokio::task::spawn_local(call(
                store.clone(),
                appender.clone(),
                key,
                from,
                events / KEYS,
            ))
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
}

async fn call(store: Store, appender: Appender, key: usize, from: usize, events: usize) {
    for n in from..from + events {
        let record = Record {
            upstream: format!("upstream-{}", key % 2).into(),
            route: "story".into(),
            key: Some(Bytes::from(key.to_string())),
            due: Wall::now(),
            expiry: None,
            head: Bytes::from(format!("{key} {n}")),
            body: Bytes::from(vec![b'0' + key as u8; 300 + 97 * (n % 40)]),
            idempotency: None,
        };
        match appender.append(record).await {
            Ok(appended) => say(&format!("A {key} {n} {}", appended.receipt().id)),
            Err(error) => {
                say(&format!("E {key} {n} {error}"));
                // Or all that is left of the story would be refused while the store moves.
                while store.health() == Health::Recovering {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }
}

/// Delivers one event, the way the turn says. True when it is finished.
async fn deliver(store: &Store, next: &Pending, turn: usize) -> bool {
    let courier = store.courier();
    let Ok(Some(event)) = courier.load(next.seq).await else {
        return false;
    };
    let who = format!("{} {}", String::from_utf8_lossy(&event.head), event.id);
    say(&format!("D {who}"));
    let (outcome, finished) = match turn % 7 {
        3 => {
            let error = "503".to_owned();
            (
                Outcome::Retry {
                    attempts: event.attempts + 1,
                    due: Wall::now(),
                    error,
                },
                false,
            )
        }
        5 => (
            Outcome::Dead(Failure {
                reason: DeadReason::Rejected,
                attempts: event.attempts + 1,
                status: Some(422),
                error: "no".to_owned(),
                excerpt: Bytes::from_static(b"why"),
            }),
            true,
        ),
        _ => (
            Outcome::Delivered {
                attempts: event.attempts + 1,
                status: 200,
            },
            true,
        ),
    };
    let done = courier.finish(next.seq, outcome).await.is_ok();
    if done && finished {
        say(&format!("F {who}"));
    }
    done && finished
}

/// How many storage operations a logged story did until a sync failed.
pub fn operations_until_failure(log: &Path) -> Option<usize> {
    let ops = super::disk::read(log);
    let at = ops.iter().position(|op| op.is_failed_sync())?;
    Some(ops[..at].iter().filter(|op| op.is_counted()).count())
}
