//! The policy in force on one worker, and where callers must prove who they are: what a request or a connection is
//! answered, and who is told when it changes.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use http::{HeaderMap, Method, request::Parts};

use tokio::sync::Notify;

use super::{Caller, Policy, Says, Standing, Verdict, View};
use crate::{
    fault::{Fault, Reason},
    http::{Connection, target::Target},
};

/// Where a worker's connections ask that are no HTTP, or no longer. Requests ask the plan that they follow.
#[derive(Default)]
pub struct Gate {
    policy: RefCell<Option<Arc<Policy>>>,
    strict: RefCell<Arc<Strict>>,
    changed: Notify,
}

/// The ports of the application that take nobody who proves nothing.
#[derive(Debug, Default)]
pub struct Strict {
    /// Those that the file names.
    pub ports: BTreeMap<u16, bool>,
    pub others: bool,
}

impl Strict {
    fn refuses(&self, caller: &Caller<'_>) -> bool {
        let strict = self.ports.get(&caller.port).unwrap_or(&self.others);
        *strict && caller.identity.is_none()
    }
}

impl Gate {
    /// Takes over another policy, or none, and other modes; whoever waits asks them at once.
    pub fn follow(&self, policy: Option<Arc<Policy>>, strict: Arc<Strict>) {
        *self.policy.borrow_mut() = policy;
        *self.strict.borrow_mut() = strict;
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

    /// Waits until the policy or the port's mode says no to this connection, beside what relays its bytes. For ever
    /// where neither does.
    ///
    /// A dropped future leaves nothing behind.
    pub async fn until_denied(&self, caller: &Caller<'_>) -> Fault {
        self.until(caller, |policy| {
            let verdict = policy.connection(caller);
            (!verdict.passes()).then(|| {
                verdict.note(caller, None);
                refusal(&verdict, caller)
            })
        })
        .await
    }

    /// The same for what a request has become that has left HTTP: it asks no more, so it is asked for again.
    pub async fn until_refused(self: Rc<Self>, asked: Asked) -> Fault {
        let (caller, view) = (asked.caller(), asked.view());
        self.until(&caller, |policy| {
            let verdict = policy.request(&caller, &view);
            (!verdict.passes()).then(|| {
                verdict.note(&caller, Some(&view));
                refusal(&verdict, &caller)
            })
        })
        .await
    }

    async fn until(&self, caller: &Caller<'_>, judge: impl Fn(&Policy) -> Option<Fault>) -> Fault {
        loop {
            // Listens before it asks, so that no change falls between.
            let changed = self.changed.notified();
            if self.strict.borrow().refuses(caller) {
                return unproven();
            }
            match self.policy().and_then(|policy| judge(&policy)) {
                Some(fault) => return fault,
                None => changed.await,
            }
        }
    }
}

/// A request that is remembered for as long as its connection belongs to it.
pub struct Asked {
    connection: Rc<Connection>,
    port: u16,
    method: Method,
    host: Box<str>,
    host_port: Option<u16>,
    path: Box<str>,
    ambiguous: bool,
    headers: HeaderMap,
}

impl Asked {
    pub fn new(connection: &Rc<Connection>, port: u16, view: &View<'_>) -> Self {
        Asked {
            connection: connection.clone(),
            port,
            method: view.method.clone(),
            host: view.host.into(),
            host_port: view.host_port,
            path: view.path.into(),
            ambiguous: view.ambiguous,
            headers: view.headers.clone(),
        }
    }

    fn caller(&self) -> Caller<'_> {
        Caller::of(&self.connection, self.port)
    }

    fn view(&self) -> View<'_> {
        View {
            method: &self.method,
            host: &self.host,
            host_port: self.host_port,
            path: &self.path,
            ambiguous: self.ambiguous,
            headers: &self.headers,
        }
    }
}

impl<'a> Caller<'a> {
    /// Who is at the other end of a connection that is for `port` of the application.
    pub fn of(connection: &'a Connection, port: u16) -> Self {
        Caller {
            identity: connection.identity(),
            ip: connection.peer().ip(),
            port,
        }
    }
}

impl<'a> View<'a> {
    /// A request whose head has been through hygiene.
    pub fn of(head: &'a Parts, target: &'a Target<'_>) -> Self {
        View {
            method: &head.method,
            host: &target.host,
            host_port: target.port,
            path: &target.path,
            ambiguous: target.is_ambiguous(),
            headers: &head.headers,
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

/// Of a caller that proves nothing, where callers must.
#[cold]
pub fn unproven() -> Fault {
    Fault::new(
        Reason::PlaintextRefused,
        "callers must prove who they are (inbound.tls is strict)",
    )
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
