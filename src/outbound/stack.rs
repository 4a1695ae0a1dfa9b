//! A request's path from the application to an upstream.
//!
//! In this order, each step for the reason beside it:
//! - the guard's verdict: a head that broke the rules is answered, never read;
//! - hygiene: what is between the caller and us is gone before anyone looks;
//! - target: read once, so that what is matched is what is forwarded;
//! - route: by the target alone;
//! - filters: after routing, so that they cannot change it;
//! - defer, or deadline and cluster: the deadline covers all tries and the waits between them;
//! - hygiene of the answer, then filters of the answer.

use std::{
    borrow::Cow,
    cell::RefCell,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;

use super::{
    Local, Unknown,
    cluster::{Call, Cluster},
    plan::Route,
};
use crate::{
    events::capture::{self, Capture},
    fault::{Fault, Reason},
    http::{
        Body, Connection, Cut, Door, Exchange, Handler,
        client::Outgoing,
        passage,
        target::{self, Form, Target},
        upgrade::{Far, Upgrade},
    },
    resilience::Deadline,
    route::{Found, RouteId, View},
};

/// The outbound half of one worker.
pub struct Stack {
    local: RefCell<Rc<Local>>,
    capture: Rc<Capture>,
}

impl Stack {
    pub fn new(local: Rc<Local>, capture: Rc<Capture>) -> Rc<Self> {
        Rc::new(Stack {
            local: RefCell::new(local),
            capture,
        })
    }

    /// Requests from now on follow the new plan; those under way end by the old one.
    pub fn follow(&self, local: Rc<Local>) {
        *self.local.borrow_mut() = local;
    }

    pub fn local(&self) -> Rc<Local> {
        self.local.borrow().clone()
    }
}

/// Where a request goes.
enum Way {
    Cluster(Rc<Cluster>),
    Answered(Box<Response<Body>>),
    Deferred,
    /// Somebody asks what became of a deferred call.
    Standing,
    Tunnel(Rc<Cluster>),
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
        let answered = match local.read(&mut exchange) {
            Ok((Way::Cluster(cluster), route)) => {
                local.forward(&cluster, &route, &mut exchange, body).await
            }
            Ok((way, route)) => {
                let capture = &self.capture;
                Box::pin(local.otherwise(way, &route, capture, &mut exchange, body)).await
            }
            Err(fault) => Err(fault),
        };
        Ok(passage::finish(answered, exchange))
    }
}

impl Local {
    /// Reads a request's head and decides where it goes; the head is then as it will be forwarded.
    fn read(&self, exchange: &mut Exchange) -> Result<(Way, Arc<Route>), Fault> {
        let connection = exchange.connection.clone();
        passage::receive(exchange)?;
        if exchange.head.method == Method::CONNECT {
            return self.read_connect(exchange);
        }
        let asks = exchange.upgrade.is_some();
        let head = &mut exchange.head;
        let (way, route) = {
            let target = target::read_target(&head.method, &head.uri, &head.headers, head.version)?;
            let host = match connection.door() {
                Door::Upstream(name) => &**name,
                _ => &*target.host,
            };
            let view = View {
                host,
                port: target.port,
                method: &head.method,
                path: &target.path,
                query: target.query,
                headers: &head.headers,
            };
            if target.path.starts_with(capture::EVENTS) && *view.method == Method::GET && !asks {
                return Ok((Way::Standing, self.plan.direct.clone()));
            }
            let found = self.plan.table.find(&view);
            if target.is_ambiguous() && self.plan.table.reads_path(host, target.port) {
                return Err(Target::ambiguous_path());
            }
            let original = connection.original();
            let (way, route) = self.way(found, host, &target, &head.method, original)?;
            let authority = authority(&connection, &target, host)?;
            let path = passage::rewritten(&target);
            passage::readdress(head, path, authority)?;
            (way, route)
        };
        exchange.routed(&route.meter);
        if let Some(upgrade) = &mut exchange.upgrade {
            upgrade.permit(&route.upgrades)?;
        }
        let head = &mut exchange.head;
        if route.filters.redirects() {
            let host = head
                .headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .unwrap_or("")
                .to_owned();
            let (host, port) = split_port(&host);
            let redirect = route.filters.redirect(head, host, port);
            if let Some(response) = redirect {
                return Ok((Way::Answered(Box::new(response)), route));
            }
        }
        route.filters.request(head)?;
        Ok((way, route))
    }

    fn way(
        &self,
        found: Found,
        host: &str,
        target: &Target<'_>,
        method: &Method,
        original: Option<SocketAddr>,
    ) -> Result<(Way, Arc<Route>), Fault> {
        let route = match found {
            Found::Route(RouteId(at)) => self.plan.routes.get(at as usize),
            Found::NoRoute | Found::UnknownHost => None,
        };
        let Some(route) = route else {
            return match (self.plan.upstream_of(host), found) {
                (Some(upstream), _) => Ok((
                    Way::Cluster(self.cluster(upstream)),
                    self.plan.direct.clone(),
                )),
                (None, Found::NoRoute) => Err(Fault::new(
                    Reason::NoRoute,
                    format!("no route of `{host}` matches this request"),
                )),
                (None, _) => self.elsewhere(target, original),
            };
        };
        if route.is_deferred() && capture::is_deferrable(method) {
            return Ok((Way::Deferred, route.clone()));
        }
        let chosen = route
            .backend(|total| self.draw(total))
            .or_else(|| self.plan.upstream_of(host));
        match chosen {
            Some(upstream) => Ok((Way::Cluster(self.cluster(upstream)), route.clone())),
            None if route.filters.redirects() => Ok((
                Way::Answered(Box::new(Response::new(Body::empty()))),
                route.clone(),
            )),
            None => {
                let (way, _) = self.elsewhere(target, original)?;
                Ok((way, route.clone()))
            }
        }
    }

    /// A host that the file does not name: a redirected call goes where it was going.
    fn elsewhere(
        &self,
        target: &Target<'_>,
        original: Option<SocketAddr>,
    ) -> Result<(Way, Arc<Route>), Fault> {
        let Some(original) = original else {
            return self.stranger(target);
        };
        if let Some(upstream) = self.upstream_at(original) {
            let way = Way::Cluster(self.cluster(upstream));
            return Ok((way, self.plan.direct.clone()));
        }
        if self.plan.unknown == Unknown::Deny {
            return Err(Self::denied(&target.host));
        }
        let (host, port) = (original.ip().to_string(), original.port());
        let way = Way::Cluster(self.stranger_cluster(&host, port));
        Ok((way, self.plan.passthrough.clone()))
    }

    #[cold]
    fn denied(host: &str) -> Fault {
        let words = format!(
            "`{host}` names no route and no upstream, and unknown hosts are denied (outbound.unknown)"
        );
        Fault::new(Reason::UnknownHost, words)
    }

    /// A host that the file does not name and that nothing else has said.
    fn stranger(&self, target: &Target<'_>) -> Result<(Way, Arc<Route>), Fault> {
        let host = &*target.host;
        if host.is_empty() {
            return Err(Fault::new(Reason::BadRequest, "the request names no host"));
        }
        if self.plan.unknown == Unknown::Deny {
            return Err(Self::denied(host));
        }
        let port = target.port.unwrap_or(80);
        if let Ok(ip) = host.parse::<IpAddr>()
            && self.plan.is_ours((ip, port).into())
        {
            return Err(Fault::new(
                Reason::Loop,
                format!("{host}:{port} is this sidecar itself"),
            ));
        }
        Ok((
            Way::Cluster(self.stranger_cluster(host, port)),
            self.plan.passthrough.clone(),
        ))
    }

    fn read_connect(&self, exchange: &mut Exchange) -> Result<(Way, Arc<Route>), Fault> {
        let head = &exchange.head;
        if exchange.connection.is_http2() {
            return Err(Fault::new(
                Reason::ConnectRefused,
                "CONNECT is tunnelled over HTTP/1.1 only",
            ));
        }
        if exchange.connection.original().is_some() {
            return Err(Fault::new(
                Reason::ConnectRefused,
                "CONNECT on a connection that was on its way elsewhere",
            ));
        }
        let target = target::read_target(&head.method, &head.uri, &head.headers, head.version)?;
        let (way, route) = match self.plan.upstream_of(&target.host) {
            Some(upstream) => (
                Way::Cluster(self.cluster(upstream)),
                self.plan.direct.clone(),
            ),
            None => self.stranger(&target)?,
        };
        exchange.routed(&route.meter);
        match way {
            Way::Cluster(cluster) => Ok((Way::Tunnel(cluster), route)),
            other => Ok((other, route)),
        }
    }

    async fn forward(
        &self,
        cluster: &Rc<Cluster>,
        route: &Route,
        exchange: &mut Exchange,
        body: Incoming,
    ) -> Result<Response<Body>, Fault> {
        exchange.trail.upstream = Some(cluster.upstream().name.clone());
        exchange.trail.exactly = exchange.connection.original();
        let http2 = exchange.connection.is_http2();
        let body = exchange.body(body);
        let grpc = exchange.grpc;
        let deadline = Deadline::of_call(
            exchange.started(),
            route.request,
            grpc.then_some(&mut exchange.head.headers),
        );
        let target = exchange
            .head
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let call = Call {
            outgoing: Outgoing {
                method: &exchange.head.method,
                target,
                headers: &exchange.head.headers,
            },
            wish: exchange.upgrade.as_deref().and_then(Upgrade::wish),
            body,
            http2,
            grpc: exchange.grpc,
            retry: &route.retry,
            backend_request: route.backend_request,
            deadline,
            trail: &mut exchange.trail,
        };
        let cut = (grpc && http2).then(|| Cut::new(exchange.connection.desk()));
        let answered = match (deadline.at(), &cut) {
            (None, None) => cluster.call(call).await,
            (at, cut) => {
                let call = cluster.call(call);
                Box::pin(passage::in_time(at, cut.as_ref(), call)).await
            }
        };
        let mut response = answered?;
        passage::answered(exchange, &mut response)?;
        route.filters.response(response.headers_mut());
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

    /// The ways that are not the hot one.
    async fn otherwise(
        &self,
        way: Way,
        route: &Arc<Route>,
        capture: &Capture,
        exchange: &mut Exchange,
        body: Incoming,
    ) -> Result<Response<Body>, Fault> {
        match way {
            Way::Cluster(cluster) => self.forward(&cluster, route, exchange, body).await,
            Way::Answered(response) => Ok(*response),
            Way::Deferred => self.defer(route, capture, exchange, body).await,
            Way::Standing => capture.standing(exchange.head.uri.path()).await,
            Way::Tunnel(cluster) => {
                exchange.trail.upstream = Some(cluster.upstream().name.clone());
                let dialled = cluster.tunnel(&mut exchange.trail).await?;
                if let Some(upgrade) = &mut exchange.upgrade {
                    upgrade.reaches(Far::socket(dialled.stream, Bytes::new()));
                }
                Ok(Response::new(Body::empty()))
            }
        }
    }

    /// Keeps the call for later, for an upstream of the file: whoever calls cannot make up names to store under.
    async fn defer(
        &self,
        route: &Route,
        capture: &Capture,
        exchange: &mut Exchange,
        body: Incoming,
    ) -> Result<Response<Body>, Fault> {
        let Some(plan) = &route.capture else {
            let words = format!("`{}` is no deferred route", route.name);
            return Err(Fault::new(Reason::Internal, words));
        };
        let host = exchange.head.headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or("");
        let host: Box<str> = match exchange.connection.door() {
            Door::Upstream(name) => (&**name).into(),
            _ => split_port(host).0.to_ascii_lowercase().into(),
        };
        let choose = |number: u64| {
            let chosen = route.backend(|total| number % total.max(1));
            match chosen.or_else(|| self.plan.upstream_of(&host)) {
                Some(upstream) => Ok(self.plan.upstreams[upstream].name.clone()),
                None => Err(Fault::new(
                    Reason::NotDeferrable,
                    format!("`{host}` names no upstream: nobody to keep this call for"),
                )),
            }
        };
        capture::capture(capture, plan, exchange, body, choose).await
    }
}

/// The `Host` to forward where it is not the one that came: from `:authority`, an absolute form, an upstream's own
/// port, or a name that hygiene changed.
fn authority(
    connection: &Connection,
    target: &Target<'_>,
    host: &str,
) -> Result<Option<HeaderValue>, Fault> {
    let text: Cow<'_, str> = match connection.door() {
        // An address of ours says nothing to the callee; a name that the application wrote does.
        Door::Upstream(_) if target.host.is_empty() || target.host.parse::<IpAddr>().is_ok() => {
            Cow::Borrowed(host)
        }
        _ if target.form == Form::Origin && !connection.is_http2() => return Ok(None),
        _ => target.authority(),
    };
    passage::host(&text).map(Some)
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// hyper boxes it once a connection and moves the request's parts through it: what is large and rare is boxed.
    #[test]
    fn the_future_of_a_request_stays_small() {
        let bytes = size(<Stack as Handler>::handle);
        assert!(bytes <= 2_048, "{bytes} bytes");
    }
}
