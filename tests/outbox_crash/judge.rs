//! What must be true of a store, given what was said while it was used.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use weft::outbox::{EventId, Metrics, Seq, State, Store};

use crate::story::options;

/// A caller's key and its number.
pub type Call = (u32, u32);

/// What callers and consumer know.
#[derive(Clone, Default)]
pub struct Said {
    pub acknowledged: Vec<(Call, EventId)>,
    pub arrived: Vec<(Call, EventId)>,
    pub finished: HashSet<EventId>,
    pub refused: usize,
    pub acknowledged_after_refusal: usize,
}

impl Said {
    pub fn read(text: &str) -> Self {
        let mut said = Said::default();
        // A line that the death cut off was not said.
        for line in text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            said.hear(line.trim_end());
        }
        said
    }

    pub fn hear(&mut self, line: &str) {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let mut number = || words.next()?.parse::<u32>().ok();
        let (Some(key), Some(n)) = (number(), number()) else {
            return;
        };
        let id = words.next().and_then(|id| id.parse().ok());
        match (verb, id) {
            ("A", Some(id)) => {
                self.acknowledged.push(((key, n), id));
                self.acknowledged_after_refusal += usize::from(self.refused > 0);
            }
            ("D", Some(id)) => self.arrived.push(((key, n), id)),
            ("F", Some(id)) => drop(self.finished.insert(id)),
            ("E", _) => self.refused += 1,
            _ => {}
        }
    }

    pub fn extend(&mut self, more: Said) {
        self.acknowledged.extend(more.acknowledged);
        self.arrived.extend(more.arrived);
        self.finished.extend(more.finished);
        self.refused += more.refused;
        self.acknowledged_after_refusal += more.acknowledged_after_refusal;
    }
}

/// Opens the store as the next process would, delivers what is left, and compares.
pub fn judge(dir: &Path, said: &Said, what: &str) {
    let left = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .unwrap()
        .block_on(read(dir, said, what));
    let mut arrived = said.arrived.clone();
    arrived.extend(left);
    in_order(&arrived, what);
    one_id_each(said.acknowledged.iter().chain(&arrived), what);
}

async fn read(dir: &Path, said: &Said, what: &str) -> Vec<(Call, EventId)> {
    let store = Store::open(dir, &options(), Metrics::default())
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let wrong = store.recount().await.unwrap();
    assert!(wrong.is_empty(), "{what}: {wrong:?}");

    let (mut left, mut after) = (Vec::new(), Seq::START);
    let courier = store.courier();
    while let chunk = store.pending(after, 1000).await.unwrap()
        && let Some(last) = chunk.last()
    {
        after = last.seq;
        for pending in &chunk {
            let event = courier.load(pending.seq).await.unwrap().unwrap();
            let head = String::from_utf8(event.head.to_vec()).unwrap();
            let (key, n) = head.split_once(' ').unwrap();
            let call: Call = (key.parse().unwrap(), n.parse().unwrap());
            assert!(
                event.body.iter().all(|b| *b == b'0' + call.0 as u8),
                "{what}: {call:?} is torn"
            );
            left.push((call, event.id));
        }
    }
    let there: HashSet<_> = left.iter().map(|(_, id)| *id).collect();
    for (call, id) in &said.acknowledged {
        let standing = store.standing(*id).await.unwrap();
        let state = standing
            .unwrap_or_else(|| panic!("{what}: {call:?} {id} was acknowledged and is lost"))
            .state;
        let finished = said.finished.contains(id);
        assert_eq!(
            state == State::Pending,
            there.contains(id),
            "{what}: {call:?} {id}"
        );
        assert!(
            !(finished && state == State::Pending),
            "{what}: {call:?} {id} was finished and is pending again"
        );
        let arrived = || said.arrived.iter().any(|(_, arrived)| arrived == id);
        assert!(
            state == State::Pending || arrived(),
            "{what}: {call:?} {id} is {state:?} and never arrived"
        );
    }
    store.close().await;
    left
}

/// The first arrivals of a key come in the order of its calls.
fn in_order(arrived: &[(Call, EventId)], what: &str) {
    let mut seen = HashSet::new();
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    for ((key, n), id) in arrived {
        if seen.insert(*id) {
            let before = last.insert(*key, *n);
            assert!(
                before.is_none_or(|before| before < *n),
                "{what}: key {key}: {n} arrived after {before:?}"
            );
        }
    }
}

/// A call has one id for ever, and an id one call.
fn one_id_each<'a>(pairs: impl Iterator<Item = &'a (Call, EventId)>, what: &str) {
    let (mut ids, mut calls) = (HashMap::new(), HashMap::new());
    for (call, id) in pairs {
        assert_eq!(
            *ids.entry(call).or_insert(id),
            id,
            "{what}: {call:?} has two ids"
        );
        assert_eq!(
            *calls.entry(id).or_insert(call),
            call,
            "{what}: {id} is two calls"
        );
    }
}
