//! How the house empties: say so, let callers go, finish what is under way, then force.

use std::{rc::Rc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::House;
use crate::{
    drain::{Drain, Stage},
    telemetry::Direction,
};

/// After force: the time connections have to notice.
const LAST: Duration = Duration::from_millis(500);

/// Waits for SIGTERM, SIGINT or POST /drain, then leaves; a second signal forces.
pub async fn when_told(house: &Rc<House>) {
    let (Ok(mut term), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return house.leave.notified().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        () = house.leave.notified() => {}
    }
    tokio::select! {
        () = leave(house) => return,
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::warn!("told twice: leaving at once");
    cut(house).await;
}

/// What is left is cut, and told so as far as its protocol can tell it.
async fn cut(house: &House) {
    for direction in [Direction::Inbound, Direction::Outbound] {
        house.enter(direction, Stage::Forced);
    }
    house.outbox_drain.enter(Stage::Forced);
    let empty = async {
        house.inbound_drain.empty().await;
        house.outbound_drain.empty().await;
    };
    let _ = tokio::time::timeout(LAST, empty).await;
}

async fn leave(house: &Rc<House>) {
    let shutdown = house.loaded.borrow().config.shutdown;
    house.stage.set(Stage::LameDuck);
    tracing::info!(lame_duck = %shutdown.lame_duck, grace = %shutdown.grace, "leaving");
    for direction in [Direction::Inbound, Direction::Outbound] {
        house.enter(direction, Stage::LameDuck);
    }
    tokio::time::sleep(shutdown.lame_duck.duration()).await;
    let end = tokio::time::Instant::now() + shutdown.grace.duration();
    // Callers first: while they finish, the application still needs its way out.
    empty(house, Direction::Inbound, &house.inbound_drain, end).await;
    // Deliveries under way end; what is not started waits for the next process on this disk.
    house.outbox_drain.enter(Stage::Draining);
    if tokio::time::timeout_at(end, house.outbox_drain.empty())
        .await
        .is_err()
    {
        tracing::warn!("grace is over: deliveries under way are cut and will come again");
        house.outbox_drain.enter(Stage::Forced);
    }
    empty(house, Direction::Outbound, &house.outbound_drain, end).await;
    tracing::info!("left");
}

async fn empty(house: &House, direction: Direction, drain: &Drain, end: tokio::time::Instant) {
    house.enter(direction, Stage::Draining);
    if tokio::time::timeout_at(end, drain.empty()).await.is_ok() {
        return;
    }
    tracing::warn!(
        direction = direction.word(),
        connections = drain.held(),
        "grace is over: cutting what is left"
    );
    house.enter(direction, Stage::Forced);
    let _ = tokio::time::timeout(LAST, drain.empty()).await;
}
