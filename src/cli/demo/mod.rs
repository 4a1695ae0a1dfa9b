//! `weft demo`: two small services with their sidecars on this machine, and the main job told in the terminal.
//!
//! Everything shown happens: services and sidecars are processes of this same binary, calls go through real sockets,
//! what dies is killed. Nothing is left behind when it ends.

mod cast;
mod service;
mod web;

use std::{collections::BTreeMap, io::Write, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;

pub use service::serve;

use cast::Cast;

/// Orders of the deferred act, and the customers that they belong to.
const CALLS: usize = 24;
const CUSTOMERS: usize = 4;
/// The longest that any one thing may take to show.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays the demo; stays up afterwards unless `once`.
pub fn play(once: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut cast = Cast::assemble().await?;
        let told = tell(&mut cast).await;
        if told.is_err() {
            cast.show_logs();
        }
        told?;
        if !once {
            curtain(&cast);
            tokio::signal::ctrl_c()
                .await
                .context("waiting for Ctrl-C")?;
        }
        Ok(())
    })
}

async fn tell(cast: &mut Cast) -> anyhow::Result<()> {
    title("The stage");
    say(&format!(
        "`orders` calls `payments`. payments runs three times; behind each an unmodified HTTP service.\n\
         Every process here is this binary: `weft run -c …` as a sidecar, a small HTTP server as a service.\n\
         orders' sidecar takes calls on {}; its whole file is {}",
        cast.outbound(),
        cast.file().display()
    ));
    forward(cast).await?;
    defer(cast).await?;
    poison(cast).await?;
    figures(cast).await
}

/// Act one: a call now.
async fn forward(cast: &mut Cast) -> anyhow::Result<()> {
    title("1. A call now: balanced, and one replica of three fails");
    cast.replica_fails(1);
    let mut answered = BTreeMap::<u16, usize>::new();
    for number in 0..30 {
        let answer = cast.charge("warm-up", number, "10").await?;
        *answered.entry(answer.status).or_default() += 1;
    }
    let by_replica =
        cast.charged()
            .iter()
            .fold(BTreeMap::<usize, usize>::new(), |mut counts, charge| {
                *counts.entry(charge.replica).or_default() += 1;
                counts
            });
    say(&format!(
        "30 calls of POST /charge. Answers by status: {answered:?}. Charged by replica: {by_replica:?}"
    ));
    ensure!(
        answered.keys().eq([&200]),
        "a caller saw the failing replica: {answered:?}"
    );
    let metrics = cast.metrics().await?;
    let retries = metrics
        .lines()
        .find(|line| line.starts_with("weft_retries_total{"))
        .unwrap_or("no retry");
    say(&format!("  {retries}"));
    say(
        "The route retries 503 for POST (payments says that it may), at another replica and within a budget. Balancing \
         takes a failure for a long latency and turns away; five in a row would eject the replica.",
    );
    cast.replica_recovers(1);
    Ok(())
}

/// Act two: the same call, kept for later.
async fn defer(cast: &mut Cast) -> anyhow::Result<()> {
    title("2. The same call, deferred: five lines of YAML, no change to any application");
    cast.defer().await?;
    say(&cast.deferral()?);
    say("Reloaded. Now payments is killed, all of it (kill -9), and orders goes on calling:");
    cast.kill_payments();
    cast.forget_charges();
    let begun = std::time::Instant::now();
    for number in 0..CALLS {
        let answer = cast.charge(&customer(number), number, "10").await?;
        ensure!(
            answer.status == 202,
            "deferred, but answered {}: {}",
            answer.status,
            answer.body
        );
        if number == 0 {
            let header = |name: &str| answer.headers.get(name).cloned().unwrap_or_default();
            say(&format!(
                "  HTTP/1.1 202 Accepted\n  location: {}\n  x-weft-durability: {}",
                header("location"),
                header("x-weft-durability")
            ));
        }
    }
    say(&format!(
        "{CALLS} calls answered 202 in {:?}, each on disk before its answer.",
        begun.elapsed()
    ));
    let outbox: Value = cast.admin_json("/outbox").await?;
    say(&format!(
        "GET /outbox says: {} events, {} bytes, ledger {}",
        outbox["events"], outbox["bytes"], outbox["ledger"]
    ));
    say("payments comes back:");
    cast.start_payments().await?;
    cast.until("every deferred call is delivered", PATIENCE, |cast| {
        cast.delivered() >= CALLS
    })
    .await?;
    let order = cast.in_order_by_customer();
    ensure!(order.is_ok(), "order within a key was lost: {order:?}");
    say(&format!(
        "{CALLS} delivered, none lost, and in order for each of the {CUSTOMERS} customers:"
    ));
    for (customer, numbers) in order.unwrap_or_default() {
        say(&format!("  {customer}: {numbers:?}"));
    }
    Ok(())
}

/// Act three: a call that payments will never take.
async fn poison(cast: &mut Cast) -> anyhow::Result<()> {
    title("3. A poisoned call: a dead letter, edited and replayed");
    cast.forget_charges();
    let poisoned = cast.charge("ada", 900, "ten euros").await?;
    ensure!(poisoned.status == 202, "answered {}", poisoned.status);
    for number in 901..904 {
        cast.charge("ada", number, "10").await?;
    }
    cast.until("the calls behind it are delivered", PATIENCE, |cast| {
        cast.delivered() >= 3
    })
    .await?;
    say(
        "payments answered 422 to `ten euros`: no retry could cure that. ada's next three calls went on.",
    );
    let letters = cast.weft(&["dlq", "ls"]).await?;
    say(&format!("$ weft dlq ls\n{}", letters.trim_end()));
    let id = cast.dead_letter().await?;
    say(&format!(
        "$ weft dlq show {id}\n{}",
        cast.weft(&["dlq", "show", &id]).await?.trim_end()
    ));
    let body = cast.body_file("ada 900 10")?;
    let edited = cast.weft(&["dlq", "edit", &id, "--body", &body]).await?;
    say(&format!(
        "$ weft dlq edit {id} --body fixed.txt\n{}",
        edited.trim_end()
    ));
    cast.until("the edited call is delivered", PATIENCE, |cast| {
        cast.has_charged(900)
    })
    .await?;
    say("Delivered, under a new id that names the old one as its cause.");
    Ok(())
}

async fn figures(cast: &mut Cast) -> anyhow::Result<()> {
    title("4. What Prometheus sees");
    let metrics = cast.metrics().await?;
    let wanted = [
        "weft_requests_total{",
        "weft_retries_total{",
        "weft_endpoint_ejections_total{",
        "weft_events_captured_total{",
        "weft_events_delivered_total{",
        "weft_dead_letters_added_total{",
        "weft_events_ledger{",
    ];
    let moved =
        |line: &&str| wanted.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0");
    for line in metrics.lines().filter(moved) {
        say(&format!("  {line}"));
    }
    Ok(())
}

fn curtain(cast: &Cast) {
    title("It stays up: try it");
    let (outbound, admin) = (cast.outbound(), cast.admin());
    say(&format!(
        "curl -i -H 'Host: payments' -H 'x-customer: you' --data 'you 1 10' http://{outbound}/charge\n\
         curl -x http://{outbound} http://payments/health\n\
         curl http://{admin}/upstreams\n\
         curl http://{admin}/outbox\n\
         curl http://{admin}/metrics | grep weft_\n\
         $EDITOR {}     (it reloads by itself)\n\
         Ctrl-C ends it.",
        cast.file().display()
    ));
}

fn customer(number: usize) -> String {
    ["ada", "grace", "edsger", "barbara"][number % CUSTOMERS].to_owned()
}

fn title(words: &str) {
    let mut out = anstream::stdout();
    let _ = writeln!(out, "\n\u{1b}[1m{words}\u{1b}[0m");
}

fn say(words: &str) {
    let mut out = anstream::stdout();
    for line in words.lines() {
        let _ = writeln!(out, "  {line}");
    }
}
