//! A request's path from a peer to the application.
//!
//! The guard's verdict and hygiene first, then the target, whether this caller may ask for it, the caller's deadline,
//! and the application: at most two tries, the second only where the first provably never reached it, or where an
//! idempotent request met a pooled connection that was closing (RFC 9112 §9.3.1).

use std::{cell::RefCell, convert::Infallible, rc::Rc};

use http::{Method, Request, Response, request::Parts};
use hyper::body::Incoming;

use super::{
    Local, Protocol, TlsMode, Way,
    authorize::{self, Asked, Gate, View},
    secure::Told,
};
use crate::{
    fault::{Fault, Reason},
    http::{
        Body, Connection, Cut, Exchange, Handler, RequestBody,
        client::{self, Outgoing},
        headers, passage,
        target::{self, Target},
        upgrade::{
            Upgrade,
            ask::{self, Over},
        },
    },
    resilience::{Deadline, is_idempotent},
};

/// The inbound half of one worker.
pub struct Stack {
    local: RefCell<Rc<Local>>,
    gate: Rc<Gate>,
    pub(super) told: Told,
}

impl Stack {
    pub fn new(local: Rc<Local>) -> Rc<Self> {
        let stack = Rc::new(Stack {
            local: RefCell::new(local.clone()),
            gate: Rc::default(),
            told: Told::default(),
        });
        stack.follow(local);
        stack
    }

    /// Requests to come go by `local`, those of open connections too; connections that are no HTTP and that it denies
    /// are closed.
    pub fn follow(&self, local: Rc<Local>) {
        self.gate.follow(local.policy.clone(), local.strict.clone());
        *self.local.borrow_mut() = local;
    }

    /// Where connections that are no HTTP ask whether they may pass.
    pub fn gate(&self) -> &Rc<Gate> {
        &self.gate
    }

    pub fn local(&self) -> Rc<Local> {
        self.local.borrow().clone()
    }
}

impl Handler for Stack {
    async fn handle(
        self: Rc<Self>,
        connection: Rc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let (head, body) = request.into_parts();
        let mut exchange = Exchange::new(head, connection);
        let local = self.local();
        let answered = match read(&local, &self.gate, &mut exchange) {
            Ok(way) => forward(&way, &mut exchange, body).await,
            Err(fault) => Err(fault),
        };
        Ok(passage::finish(answered, exchange))
    }
}

fn read(local: &Local, gate: &Rc<Gate>, exchange: &mut Exchange) -> Result<Rc<Way>, Fault> {
    let connection = exchange.connection.clone();
    passage::receive(exchange)?;
    let head = &mut exchange.head;
    if head.method == Method::CONNECT {
        return Err(Fault::new(
            Reason::ConnectRefused,
            "CONNECT is not for callers of the application",
        ));
    }
    let way = local.way(&connection);
    let (host, path, admitted) = {
        let target = target::read_target(&head.method, &head.uri, &head.headers, head.version)?;
        let switches = (exchange.upgrade.as_deref()).is_some_and(|asked| asked.wish().is_some());
        let admitted = way.as_deref().map_or(Ok(()), |way| {
            admit(local, way, &connection, switches, head, &target)
        });
        if let (Some(upgrade), Some(way)) = (&mut exchange.upgrade, &way)
            && switches
        {
            let asked = Asked::new(&connection, way.app.port, &View::of(head, &target));
            upgrade.ends_with(Box::pin(gate.clone().until_refused(asked)));
        }
        let absolute = target.form == target::Form::Absolute;
        let host = (absolute || connection.is_http2())
            .then(|| passage::host(&target.authority()))
            .transpose()?;
        (host, passage::rewritten(&target), admitted)
    };
    passage::readdress(head, path, host)?;
    let Some(way) = way else {
        return Err(Fault::new(
            Reason::NoApp,
            "no application is configured behind this port (inbound.app)",
        ));
    };
    if let Some(credential) = connection.credential() {
        let headers = &mut exchange.head.headers;
        headers.insert(headers::CLIENT_CERT, credential.header().clone());
    }
    exchange.routed(&way.app.meter);
    admitted?;
    if let Some(upgrade) = &mut exchange.upgrade {
        upgrade.permit(&local.upgrades)?;
    }
    Ok(way)
}

/// Whether this caller may ask for this: a probe passes; who proves nothing does not where that is asked, be it of a
/// connection that is older than the file that asks; the rules say the rest.
fn admit(
    local: &Local,
    way: &Way,
    connection: &Connection,
    switches: bool,
    head: &Parts,
    target: &Target<'_>,
) -> Result<(), Fault> {
    if connection.identity().is_none() {
        if !switches && way.is_probe(head, target) {
            return Ok(());
        }
        if local.trust.is_some() && way.app.tls == TlsMode::Strict {
            return Err(authorize::unproven());
        }
    }
    match &local.policy {
        None => Ok(()),
        Some(policy) => {
            let caller = way.caller(connection);
            authorize::admit(policy, connection, &caller, &View::of(head, target))
        }
    }
}

impl Way {
    /// Whether a request asks for nothing but the application's health, on a path that the file leaves open.
    fn is_probe(&self, head: &Parts, target: &Target<'_>) -> bool {
        !self.app.probes.is_empty()
            && matches!(head.method, Method::GET | Method::HEAD)
            && !target.is_ambiguous()
            && self
                .app
                .probes
                .iter()
                .any(|path| path.as_str() == target.path)
    }
}

async fn forward(
    way: &Way,
    exchange: &mut Exchange,
    body: Incoming,
) -> Result<Response<Body>, Fault> {
    let http2 = exchange.connection.is_http2();
    let body = exchange.body(body);
    let grpc = exchange.grpc;
    let deadline = Deadline::of_call(
        exchange.started(),
        None,
        grpc.then_some(&mut exchange.head.headers),
    );
    exchange.trail.endpoint = Some(way.peer.address());
    let cut = (grpc && http2).then(|| Cut::new(exchange.connection.desk()));
    let answered = match (deadline.at(), &cut) {
        (None, None) => tries(way, exchange, body, http2).await,
        (at, cut) => {
            let call = tries(way, exchange, body, http2);
            Box::pin(passage::in_time(at, cut.as_ref(), call)).await
        }
    };
    let mut response = answered?;
    passage::answered(exchange, &mut response)?;
    if let Some(upgrade) = &mut exchange.upgrade {
        upgrade.answered(&mut response)?;
    }
    if let Some(at) = deadline.at() {
        response.body_mut().ends_by(at);
    }
    if let Some(cut) = cut {
        response.body_mut().ends_by_cut(cut);
    }
    Ok(response)
}

async fn tries(
    way: &Way,
    exchange: &mut Exchange,
    mut body: RequestBody,
    caller_http2: bool,
) -> Result<Response<Body>, Fault> {
    let (http2, over) = match way.app.protocol {
        Protocol::Auto | Protocol::Tcp | Protocol::Tls => {
            (caller_http2, Over::of_caller(caller_http2))
        }
        Protocol::Http => (false, Over::Http1),
        Protocol::Http2 | Protocol::Grpc => (true, Over::Http2),
    };
    let bodiless = body.is_empty();
    loop {
        exchange.trail.tries += 1;
        let wish = exchange.upgrade.as_deref().and_then(Upgrade::wish);
        let lease = match wish {
            Some(wish) => {
                let dial = async |http2| way.peer.dial(http2, Box::new(())).await;
                Box::pin(ask::connection(wish, over, &way.peer, dial)).await?
            }
            None => match way.peer.ready(http2) {
                Some(lease) => lease,
                None => Box::pin(way.peer.dial(http2, Box::new(()))).await?,
            },
        };
        let target = exchange
            .head
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let outgoing = Outgoing {
            method: &exchange.head.method,
            target,
            headers: &exchange.head.headers,
        };
        let switches = wish.is_some();
        let sent = match wish {
            None => client::send(lease, outgoing, body, &way.peer).await,
            Some(wish) => Box::pin(ask::send(lease, outgoing, wish, &way.peer)).await,
        };
        let failed = match sent {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        let idempotent = !switches && is_idempotent(&exchange.head.method);
        let repeatable = failed.fault.is_unprocessed() || failed.stale && idempotent;
        body = match failed.body {
            Some(untouched) if repeatable && exchange.trail.tries < 2 => untouched,
            None if repeatable && bodiless && exchange.trail.tries < 2 => RequestBody::Empty,
            _ => return Err(failed.fault),
        };
    }
}
