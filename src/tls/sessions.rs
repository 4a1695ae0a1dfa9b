//! Where a client keeps the tickets with which it may resume: few, and gone with their generation.
//!
//! rustls' own store takes its whole memory at once; this one takes what is used.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};

/// Callees whose tickets are kept; one more empties the store.
const CALLEES: usize = 1024;
/// Tickets of one callee. Each is used once.
const TICKETS: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<ServerName<'static>, Known>>);

#[derive(Debug, Default)]
struct Known {
    group: Option<NamedGroup>,
    older: Option<Tls12ClientSessionValue>,
    tickets: Vec<Tls13ClientSessionValue>,
}

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, callee: ServerName<'static>, change: impl FnOnce(&mut Known)) {
        let mut all = self.all();
        if all.len() >= CALLEES && !all.contains_key(&callee) {
            all.clear();
        }
        change(all.entry(callee).or_default());
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, callee: ServerName<'static>, group: NamedGroup) {
        self.change(callee, |known| known.group = Some(group));
    }

    fn kx_hint(&self, callee: &ServerName<'_>) -> Option<NamedGroup> {
        self.all().get(callee)?.group
    }

    fn set_tls12_session(&self, callee: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.change(callee, |known| known.older = Some(session));
    }

    fn tls12_session(&self, callee: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.all().get(callee)?.older.clone()
    }

    fn remove_tls12_session(&self, callee: &ServerName<'static>) {
        if let Some(known) = self.all().get_mut(callee) {
            known.older = None;
        }
    }

    fn insert_tls13_ticket(&self, callee: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        self.change(callee, |known| {
            if known.tickets.len() >= TICKETS {
                known.tickets.remove(0);
            }
            known.tickets.push(ticket);
        });
    }

    fn take_tls13_ticket(&self, callee: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.all().get_mut(callee)?.tickets.pop()
    }
}
