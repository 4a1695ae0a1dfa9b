//! The store from outside: what was accepted is there, what was decided stays so, what does not fit is refused.

use std::{future::Future, path::Path, time::Duration};

use bytes::Bytes;
use weft::{
    outbox::{
        Appended, Bound, DeadReason, Failure, Health, Idempotency, LetterFilter, LetterState,
        Limits, Metrics, News, OpenError, Options, OutboxError, Outcome, Receipt, Record, Seq,
        State, Store, Wall,
    },
    units::{ByteSize, Percent, Time},
};

fn local<T>(story: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap()
        .block_on(story)
}

fn open(dir: &Path) -> Store {
    open_with(dir, Options::default())
}

fn open_with(dir: &Path, options: Options) -> Store {
    Store::open(dir, &options, Metrics::default()).unwrap()
}

fn limited(limits: Limits) -> Options {
    Options {
        limits,
        ..Options::default()
    }
}

fn record(upstream: &str, body: &str) -> Record {
    Record {
        upstream: upstream.into(),
        route: "notify".into(),
        key: Some(Bytes::from_static(b"customer-1")),
        due: Wall::now(),
        expiry: None,
        head: Bytes::from_static(b"POST /v1/send"),
        body: Bytes::copy_from_slice(body.as_bytes()),
        idempotency: None,
    }
}

fn keyed(key: &str, payload: u8) -> Record {
    Record {
        idempotency: Some(Idempotency {
            scope: "notify".into(),
            key: Bytes::copy_from_slice(key.as_bytes()),
            fingerprint: [payload; 32],
            window: Duration::from_secs(3600),
        }),
        ..record("email", "once")
    }
}

fn failure(reason: DeadReason) -> Outcome {
    Outcome::Dead(Failure {
        reason,
        attempts: 5,
        status: Some(422),
        error: "the application said no".to_owned(),
        excerpt: Bytes::from_static(b"{\"error\":\"no such customer\"}"),
    })
}

async fn append(store: &Store, record: Record) -> Receipt {
    store.appender().append(record).await.unwrap().receipt()
}

async fn finish(store: &Store, receipt: Receipt, outcome: Outcome) {
    store.courier().finish(receipt.seq, outcome).await.unwrap();
}

async fn state(store: &Store, receipt: Receipt) -> State {
    store.standing(receipt.id).await.unwrap().unwrap().state
}

const DELIVERED: Outcome = Outcome::Delivered {
    attempts: 1,
    status: 200,
};

#[test]
fn what_was_accepted_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = local(async {
        let store = open(dir.path());
        let receipt = append(&store, record("email", "hello")).await;
        store.close().await;
        receipt
    });
    local(async {
        let store = open(dir.path());
        let pending = store.pending(Seq::START, 10).await.unwrap();
        assert_eq!(
            pending.iter().map(|p| p.seq).collect::<Vec<_>>(),
            [first.seq]
        );
        let event = store.courier().load(first.seq).await.unwrap().unwrap();
        assert_eq!(
            (event.id, &*event.body, &*event.head),
            (first.id, &b"hello"[..], &b"POST /v1/send"[..])
        );
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn many_callers_share_commits_and_each_gets_its_own_event() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let appender = store.appender();
        let callers: Vec<_> = (0..200)
            .map(|n| {
                let appender = appender.clone();
                tokio::task::spawn_local(async move {
                    let receipt = appender
                        .append(record("email", &n.to_string()))
                        .await
                        .unwrap()
                        .receipt();
                    (n, receipt)
                })
            })
            .collect();
        let courier = store.courier();
        for caller in callers {
            let (n, receipt) = caller.await.unwrap();
            let event = courier.load(receipt.seq).await.unwrap().unwrap();
            assert_eq!(event.body, n.to_string());
        }
        assert_eq!(store.figures().accepted, 200);
    });
}

#[test]
fn a_second_opening_is_told_who_holds_the_store() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let _store = open(dir.path());
        let refused = Store::open(dir.path(), &Options::default(), Metrics::default())
            .err()
            .unwrap();
        assert!(matches!(refused, OpenError::Held { .. }));
        assert!(
            refused
                .to_string()
                .contains(&format!("pid {}", std::process::id())),
            "{refused}"
        );
    });
}

#[test]
fn a_closed_store_lets_go_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let appender = store.appender();
        store.close().await;
        let again = open(dir.path());
        assert!(matches!(
            appender.append(record("email", "late")).await,
            Err(OutboxError::Closed)
        ));
        assert_eq!(again.figures().accepted, 0);
    });
}

#[test]
fn a_retry_waits_for_its_time_and_keeps_its_count() {
    let dir = tempfile::tempdir().unwrap();
    let due = Wall::now().after(Duration::from_secs(600));
    let receipt = local(async {
        let store = open(dir.path());
        let receipt = append(&store, record("email", "hello")).await;
        let outcome = Outcome::Retry {
            attempts: 3,
            due,
            error: "503".to_owned(),
        };
        finish(&store, receipt, outcome).await;
        store.close().await;
        receipt
    });
    local(async {
        let store = open(dir.path());
        let pending = store.pending(Seq::START, 1).await.unwrap().remove(0);
        assert_eq!((pending.attempts, pending.due), (3, due));
        let event = store.courier().load(receipt.seq).await.unwrap().unwrap();
        assert_eq!(
            (event.attempts, event.last_error.as_deref()),
            (3, Some("503"))
        );
    });
}

#[test]
fn what_is_delivered_is_known_for_a_while_and_then_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open_with(
            dir.path(),
            Options {
                keep: Duration::ZERO,
                ..Options::default()
            },
        );
        let first = append(&store, record("email", "1")).await;
        finish(&store, first, DELIVERED).await;
        assert_eq!(store.figures().ledger[1], (State::Delivered, 1));
        // Each commit sweeps; the clock has to pass the millisecond of the delivery.
        let second = append(&store, record("email", "2")).await;
        while store.standing(first.id).await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        finish(&store, second, DELIVERED).await;
        assert_eq!(store.figures().ledger[1], (State::Delivered, 2));
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn an_id_is_never_given_twice_even_when_all_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        keep: Duration::ZERO,
        ..Options::default()
    };
    let mut seen = std::collections::HashSet::new();
    for _ in 0..3 {
        local(async {
            let store = open_with(dir.path(), options);
            for _ in 0..3 {
                let receipt = append(&store, record("email", "x")).await;
                assert!(seen.insert(receipt.id));
                finish(&store, receipt, DELIVERED).await;
            }
            store.close().await;
        });
    }
}

#[test]
fn a_full_store_refuses_the_producer_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let limits = Limits {
            count: 4,
            ..Limits::default()
        };
        let store = open_with(dir.path(), limited(limits));
        let appender = store.appender();
        let (a, _) = (
            append(&store, record("a", "1")).await,
            append(&store, record("a", "2")).await,
        );
        let refused = appender.append(record("a", "3")).await;
        assert!(
            matches!(
                refused,
                Err(OutboxError::Full {
                    bound: Bound::PerUpstream
                })
            ),
            "{refused:?}"
        );
        append(&store, record("b", "1")).await;
        append(&store, record("b", "2")).await;
        let refused = appender.append(record("c", "1")).await;
        assert!(
            matches!(
                refused,
                Err(OutboxError::Full {
                    bound: Bound::Count
                })
            ),
            "{refused:?}"
        );
        finish(&store, a, DELIVERED).await;
        append(&store, record("a", "3")).await;
        assert_eq!(store.pending(Seq::START, 100).await.unwrap().len(), 4);
    });
}

#[test]
fn bytes_are_bounded_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        bytes: ByteSize::kib(4),
        per_upstream: Percent::new(100).unwrap(),
        ..Limits::default()
    };
    let big = "x".repeat(1500);
    local(async {
        let store = open_with(dir.path(), limited(limits));
        append(&store, record("email", &big)).await;
        append(&store, record("email", &big)).await;
        store.close().await;
    });
    local(async {
        let store = open_with(dir.path(), limited(limits));
        let refused = store.appender().append(record("email", &big)).await;
        assert!(
            matches!(
                refused,
                Err(OutboxError::Full {
                    bound: Bound::Bytes
                })
            ),
            "{refused:?}"
        );
    });
}

#[test]
fn an_event_over_its_size_is_too_large() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let limits = Limits {
            event: ByteSize::kib(1),
            ..Limits::default()
        };
        let store = open_with(dir.path(), limited(limits));
        let refused = store
            .appender()
            .append(record("email", &"x".repeat(1024)))
            .await;
        assert!(
            matches!(
                refused,
                Err(OutboxError::TooLarge {
                    size: 1037,
                    limit: 1024
                })
            ),
            "{refused:?}"
        );
    });
}

#[test]
fn an_upstream_whose_oldest_waits_too_long_is_refused_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        append(&store, record("dead", "old")).await;
        store.close().await;
    });
    local(async {
        let limits = Limits {
            age: Time::millis(1),
            ..Limits::default()
        };
        let store = open_with(dir.path(), limited(limits));
        let appender = store.appender();
        // The walk over ages is the writer's, once a second.
        let refused = loop {
            match appender.append(record("dead", "new")).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(refused) => break refused,
            }
        };
        assert!(
            matches!(refused, OutboxError::Full { bound: Bound::Age }),
            "{refused:?}"
        );
        append(&store, record("alive", "new")).await;
    });
}

#[test]
fn the_same_idempotency_key_is_the_same_event() {
    let dir = tempfile::tempdir().unwrap();
    let first = local(async {
        let store = open(dir.path());
        let first = append(&store, keyed("k", 1)).await;
        assert_eq!(
            store.appender().append(keyed("k", 1)).await.unwrap(),
            Appended::Existing(first, State::Pending)
        );
        store.close().await;
        first
    });
    local(async {
        let store = open(dir.path());
        finish(&store, first, DELIVERED).await;
        assert_eq!(
            store.appender().append(keyed("k", 1)).await.unwrap(),
            Appended::Existing(first, State::Delivered)
        );
        assert!(
            matches!(store.appender().append(keyed("k", 2)).await, Err(OutboxError::Mismatch { id }) if id == first.id)
        );
        assert_ne!(append(&store, keyed("other", 2)).await, first);
        assert_eq!(store.figures().accepted, 2);
    });
}

#[test]
fn two_calls_with_one_key_in_one_commit_are_one_event() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let appender = store.appender();
        let (a, b) = tokio::join!(
            appender.append(keyed("k", 1)),
            appender.append(keyed("k", 1))
        );
        assert_eq!(a.unwrap().receipt(), b.unwrap().receipt());
        assert_eq!(store.figures().accepted, 1);
    });
}

#[test]
fn an_idempotency_key_is_free_again_after_its_window() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let mut short = keyed("k", 1);
        short.idempotency.as_mut().unwrap().window = Duration::ZERO;
        let first = append(&store, short).await;
        assert_ne!(append(&store, keyed("k", 2)).await, first);
    });
}

#[test]
fn a_dead_letter_shows_what_failed_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let receipt = local(async {
        let store = open(dir.path());
        let receipt = append(&store, record("email", "poison")).await;
        finish(&store, receipt, failure(DeadReason::Rejected)).await;
        store.close().await;
        receipt
    });
    local(async {
        let store = open(dir.path());
        let letter = store.letter(receipt.id).await.unwrap().unwrap();
        assert_eq!(letter.state, LetterState::Pending);
        assert_eq!(
            (&*letter.body, letter.failure.status),
            (&b"poison"[..], Some(422))
        );
        assert_eq!(letter.failure.excerpt, "{\"error\":\"no such customer\"}");
        assert!(!letter.damaged);
        assert_eq!(state(&store, receipt).await, State::Dead);
        assert_eq!(store.pending(Seq::START, 10).await.unwrap().len(), 0);
    });
}

#[test]
fn letters_are_found_by_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        for (upstream, reason) in [
            ("a", DeadReason::Rejected),
            ("b", DeadReason::Exhausted),
            ("a", DeadReason::Expired),
        ] {
            let receipt = append(&store, record(upstream, "x")).await;
            finish(&store, receipt, failure(reason)).await;
        }
        let count = async |filter| store.letters(filter, Seq::START, 100).await.unwrap().len();
        let all = LetterFilter::default();
        assert_eq!(count(all.clone()).await, 3);
        assert_eq!(
            count(LetterFilter {
                reason: Some(DeadReason::Expired),
                ..all.clone()
            })
            .await,
            1
        );
        assert_eq!(
            count(LetterFilter {
                upstream: Some("a".into()),
                ..all.clone()
            })
            .await,
            2
        );
        assert_eq!(
            count(LetterFilter {
                status: Some(500),
                ..all.clone()
            })
            .await,
            0
        );
        assert_eq!(
            count(LetterFilter {
                since: Some(Wall(i64::MAX)),
                ..all.clone()
            })
            .await,
            0
        );
        assert_eq!(
            count(LetterFilter {
                key: Some(Bytes::from_static(b"other")),
                ..all.clone()
            })
            .await,
            0
        );
        assert_eq!(store.letters(all, Seq::START, 2).await.unwrap().len(), 2);
    });
}

#[test]
fn a_replay_keeps_the_id_and_a_delivered_one_resolves_the_letter() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let receipt = append(&store, record("email", "poison")).await;
        finish(&store, receipt, failure(DeadReason::Exhausted)).await;
        assert_eq!(store.replay(receipt.id, "ada").await.unwrap(), receipt);
        let event = store.courier().load(receipt.seq).await.unwrap().unwrap();
        assert_eq!(
            (event.id, event.replays, event.attempts),
            (receipt.id, 1, 0)
        );
        let again = store.replay(receipt.id, "ada").await;
        assert!(
            matches!(
                again,
                Err(OutboxError::NotWaiting {
                    state: "replaying",
                    ..
                })
            ),
            "{again:?}"
        );

        finish(&store, receipt, failure(DeadReason::Exhausted)).await;
        assert_eq!(state(&store, receipt).await, State::Dead);
        store.replay(receipt.id, "ada").await.unwrap();
        finish(&store, receipt, DELIVERED).await;
        assert_eq!(state(&store, receipt).await, State::Delivered);
        let letter = store.letter(receipt.id).await.unwrap().unwrap();
        assert_eq!(
            (letter.state, letter.replays, letter.damaged),
            (LetterState::Replayed, 2, false)
        );
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn an_edited_letter_is_a_new_event_that_names_the_old() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let old = append(&store, record("email", "poison")).await;
        finish(&store, old, failure(DeadReason::Rejected)).await;
        let new = store
            .edit(
                old.id,
                Bytes::from_static(b"POST /v1/send"),
                Bytes::from_static(b"cure"),
                "ada",
            )
            .await
            .unwrap();
        assert_ne!(new.id, old.id);
        let event = store.courier().load(new.seq).await.unwrap().unwrap();
        assert_eq!((event.cause, &*event.body), (Some(old.id), &b"cure"[..]));
        let letter = store.letter(old.id).await.unwrap().unwrap();
        assert_eq!(
            (letter.state, &*letter.body),
            (LetterState::EditedAs(new.id), &b"poison"[..])
        );
        assert_eq!(state(&store, old).await, State::Edited);
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn what_people_do_leaves_a_trail() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let receipt = append(&store, record("email", "poison")).await;
        finish(&store, receipt, failure(DeadReason::Rejected)).await;
        store.discard(receipt.id, "ada").await.unwrap();
        assert!(store.discard(receipt.id, "bob").await.is_err());
        let trail = store.audit(10).await.unwrap();
        let lines: Vec<_> = trail
            .iter()
            .map(|l| (l.who.as_str(), l.what.as_str(), l.id))
            .collect();
        assert_eq!(lines, [("ada", "discard", receipt.id)]);
        assert_eq!(state(&store, receipt).await, State::Discarded);
        assert_eq!(store.figures().events, 0);
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn an_event_of_another_store_is_unknown() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    local(async {
        let (one, two) = (open(one.path()), open(two.path()));
        let receipt = append(&one, record("email", "x")).await;
        assert!(two.standing(receipt.id).await.unwrap().is_none());
        assert!(matches!(
            two.replay(receipt.id, "ada").await,
            Err(OutboxError::Unknown { .. })
        ));
    });
}

#[test]
fn what_becomes_pending_is_announced_with_its_order() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let store = open(dir.path());
        let mut news = store.announcements().unwrap();
        assert!(store.announcements().is_none());
        let first = append(&store, record("email", "1")).await;
        let second = append(
            &store,
            Record {
                key: None,
                ..record("email", "2")
            },
        )
        .await;
        let third = append(&store, record("email", "3")).await;
        let mut heard = Vec::new();
        while heard.len() < 3 {
            match news.next().await.unwrap() {
                News::Batch(batch) => heard.extend(batch),
                News::Gap => unreachable!("three fit"),
            }
        }
        assert_eq!(
            heard.iter().map(|p| p.seq).collect::<Vec<_>>(),
            [first.seq, second.seq, third.seq]
        );
        assert!(heard[0].key.is_some() && heard[1].key.is_none());
        assert_eq!(heard[0].key, heard[2].key);
        let listed = store.pending(Seq::START, 10).await.unwrap();
        assert_eq!(listed[0].key, heard[0].key);
    });
}

#[test]
fn a_damaged_record_becomes_a_dead_letter_and_the_rest_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let (bad, good) = local(async {
        let store = open(dir.path());
        let pair = (
            append(&store, record("email", "bad")).await,
            append(&store, record("email", "good")).await,
        );
        store.close().await;
        pair
    });
    let rows = rusqlite::Connection::open(dir.path().join("store.db"))
        .unwrap()
        .execute(
            "UPDATE event SET body = x'626564' WHERE body = x'626164'",
            [],
        );
    assert_eq!(rows.unwrap(), 1);
    local(async {
        let store = open(dir.path());
        let courier = store.courier();
        assert!(
            matches!(courier.load(bad.seq).await, Err(OutboxError::Damaged { id }) if id == bad.id)
        );
        assert_eq!(courier.load(good.seq).await.unwrap().unwrap().body, "good");
        let letter = store.letter(bad.id).await.unwrap().unwrap();
        assert_eq!(
            (letter.failure.reason, letter.damaged),
            (DeadReason::Damaged, true)
        );
        assert!(matches!(
            store.replay(bad.id, "ada").await,
            Err(OutboxError::Damaged { .. })
        ));
        assert_eq!(store.recount().await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn what_was_alone_in_flight_at_a_death_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let receipt = local(async {
        let store = open(dir.path());
        let receipt = append(&store, record("email", "poison")).await;
        store.close().await;
        receipt
    });
    for deaths in 1..=3 {
        local(async {
            let store = open(dir.path());
            let alone: Vec<_> = store.suspects().iter().map(|s| (s.seq, s.alone)).collect();
            assert_eq!(alone.first().map_or(0, |s| s.1), deaths - 1);
            // A ticket that is never dropped is what a death leaves.
            std::mem::forget(store.flight().depart(receipt.seq));
            store.close().await;
        });
    }
    local(async {
        let store = open(dir.path());
        assert_eq!(store.suspects().len(), 1);
        assert_eq!(
            (store.suspects()[0].seq, store.suspects()[0].alone),
            (receipt.seq, 3)
        );
        finish(&store, receipt, failure(DeadReason::Crash)).await;
        store.close().await;
    });
    local(async { assert_eq!(open(dir.path()).suspects(), []) });
}

#[test]
fn the_files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("outbox");
    local(async {
        let store = open(&dir);
        append(&store, record("email", "secret")).await;
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            names.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        names.sort();
        assert_eq!(names, ["flight", "lock", "store.db", "store.db-wal"]);
        assert_eq!(store.health(), Health::Open);
    });
}

#[test]
fn metrics_say_what_the_store_holds() {
    let dir = tempfile::tempdir().unwrap();
    local(async {
        let (metrics, registry) = (Metrics::default(), prometheus::Registry::new());
        metrics.register(&registry).unwrap();
        let store = Store::open(dir.path(), &Options::default(), metrics).unwrap();
        let receipt = append(&store, record("email", "x")).await;
        append(&store, record("email", "y")).await;
        finish(&store, receipt, DELIVERED).await;
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "weft_outbox_events 1",
            "weft_outbox_bytes 99",
            "weft_outbox_oldest_age_seconds ",
            "weft_outbox_fsync_seconds_count 3",
            "weft_events_ledger{state=\"pending\"} 1",
            "weft_events_ledger{state=\"delivered\"} 1",
            "weft_events_ledger{state=\"dead_lettered\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    });
}
