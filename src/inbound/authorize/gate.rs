//! The policy in force on one worker: what a request or a connection is answered, and who is told when it changes.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use tokio::sync::Notify;

use super::{Caller, Policy, Says, Standing, Verdict, View};
use crate::{
    fault::{Fault, Reason},
    http::{Connection, target::Target},
};

/// Where a worker's connections that are no HTTP ask. Requests ask the plan that they follow.
#[derive(Default)]
pub struct Gate {
    policy: RefCell<Option<Arc<Policy>>>,
    changed: Notify,
}

impl Gate {
    /// Takes over another policy, or none; whoever waits asks it at once.
    pub fn follow(&self, policy: Option<Arc<Policy>>) {
        *self.policy.borrow_mut() = policy;
        self.changed.notify_waiters();
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Arc<Policy>> {
        self.policy.borrow().clone()
    }

    /// Whether a connection that is no HTTP, or stays silent, may go to the application; `denied` if not.
    ///
    /// Counted and told.
    pub fn connection(&self, caller: &Caller<'_>) -> Result<(), Fault> {
        let Some(policy) = self.policy() else {
            return Ok(());
        };
        let verdict = policy.connection(caller);
        verdict.note(caller, None);
        match verdict.passes() {
            true => Ok(()),
            false => Err(refusal(&verdict, caller)),
        }
    }

    /// Waits until the policy says no to this connection, beside what relays its bytes. For ever where it never does.
    ///
    /// A dropped future leaves nothing behind.
    pub async fn until_denied(&self, caller: &Caller<'_>) -> Fault {
        loop {
            // Listens before it asks, so that no change falls between.
            let changed = self.changed.notified();
            let denied = self.policy().and_then(|policy| {
                let verdict = policy.connection(caller);
                (!verdict.passes()).then(|| {
                    verdict.note(caller, None);
                    refusal(&verdict, caller)
                })
            });
            match denied {
                Some(fault) => return fault,
                None => changed.await,
            }
        }
    }
}

/// Lets a request pass, or says why not: `denied`, or `ambiguous_path` where the answer depends on how the path is read.
///
/// Counted and told.
pub fn admit(
    policy: &Arc<Policy>,
    connection: &Connection,
    caller: &Caller<'_>,
    view: &View<'_>,
) -> Result<(), Fault> {
    let standing = match connection.kept::<Standing>() {
        Some(standing) if standing.is_of(policy) => standing,
        _ => {
            let standing = Rc::new(Standing::new(policy, caller));
            connection.keep(standing.clone());
            standing
        }
    };
    let verdict = standing.request(view);
    verdict.note(caller, Some(view));
    match verdict.says {
        Says::Pass => Ok(()),
        Says::Refuse => Err(refusal(&verdict, caller)),
        Says::Ambiguous => Err(Target::ambiguous_path()),
    }
}

/// The rule's name is for who is known, and for callers on loopback; a stranger learns nothing of the rules.
#[cold]
fn refusal(verdict: &Verdict<'_>, caller: &Caller<'_>) -> Fault {
    let why = match verdict.place() {
        Some(_) => format!(
            "the rule `{}` of inbound.authorization denies this",
            verdict.rule()
        ),
        None => "no rule of inbound.authorization allows this".to_owned(),
    };
    match caller.identity {
        Some(_) => Fault::new(Reason::Denied, why),
        None => Fault::new(Reason::Denied, "this call is not allowed").inside(why),
    }
}
