//! The count of dead letters that wait, kept in step with what people decide about them.

use std::time::Duration;

use crate::{
    events::metrics::Metrics,
    outbox::{LetterFilter, LetterState, Seq, State, Store},
};

/// How often the count of dead letters is compared with the ledger.
const COUNT_AGAIN: Duration = Duration::from_secs(2);

/// Counts the dead letters that wait, in pages.
pub(super) async fn count_letters(store: &Store, metrics: &Metrics) {
    let mut after = Seq::START;
    while let Ok(page) = store.letters(LetterFilter::default(), after, 1000).await
        && let Some(last) = page.last()
    {
        after = last.id.seq();
        for letter in &page {
            if letter.state == LetterState::Pending {
                let dead = &metrics.dead;
                dead.add(&letter.route, letter.id.seq(), letter.last_failure);
            }
        }
    }
}

/// What people decided about dead letters is told by the ledger alone: where it says otherwise, they are counted anew.
pub(super) async fn follow_letters(store: &Store, metrics: &Metrics) {
    let waiting = || {
        let ledger = store.figures().ledger;
        let waits = |state: &State| matches!(state, State::Dead | State::Expired);
        let counts = ledger.iter().filter(|(state, _)| waits(state));
        counts.map(|(_, count)| *count).sum::<u64>()
    };
    loop {
        tokio::time::sleep(COUNT_AGAIN).await;
        if waiting() != metrics.dead.count() {
            metrics.dead.clear();
            count_letters(store, metrics).await;
        }
    }
}
