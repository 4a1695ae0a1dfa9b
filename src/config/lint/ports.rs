//! Listeners against each other, against what they lead to, and against strangers.

use std::net::{IpAddr, SocketAddr};

use super::Lint;
use crate::{
    config::{settings::Unsafe, tree::Steps},
    discover::Source,
    inbound,
    outbound::Unknown,
    units::Listen,
};

/// One address that we listen on.
struct Listener {
    /// The setting that says it; addresses of one setting share their ports on purpose.
    setting: Steps,
    at: Steps,
    address: SocketAddr,
}

pub(super) fn check(lint: &mut Lint<'_>) {
    let config = lint.config;
    let listeners = listeners(lint);
    for (nth, later) in listeners.iter().enumerate() {
        let earlier = listeners[..nth]
            .iter()
            .find(|earlier| collide(earlier, later));
        if let Some(earlier) = earlier {
            let (at, other) = match lint.origins.node(&later.at) {
                Some(_) => (later, earlier),
                None => (earlier, later),
            };
            let words = format!(
                "{} collides with {} of `{}` ({})",
                at.address,
                other.address,
                crate::config::path(&other.setting),
                lint.line(&other.at)
            );
            lint.error(&at.at, words);
        }
    }
    loops(lint, &listeners);
    let outbound = Steps::of(&["outbound", "listen"]);
    let open = config.outbound.unknown == Unknown::Passthrough
        && !config.allow_unsafe.contains(&Unsafe::OpenProxy);
    for (nth, address) in config.outbound.listen.addresses().enumerate() {
        if open && !address.ip().is_loopback() {
            let words = format!(
                "{address} is not loopback: with `unknown: passthrough` it is an open proxy"
            );
            let problem = lint.error(&outbound.index(nth), words);
            problem.help = Some(
                "listen on loopback, set `unknown: deny`, or allow it: `allowUnsafe: [openProxy]`"
                    .into(),
            );
        }
    }
    if !config.admin.listen.ip().is_loopback() {
        let words = format!(
            "{} is not loopback: who reaches it commands this sidecar",
            config.admin.listen
        );
        lint.error(&Steps::of(&["admin", "listen"]), words);
    }
    for (port, settings) in &config.inbound.ports {
        let at = Steps::of(&["inbound", "ports", &port.to_string()]);
        if *port == 0 {
            lint.error(&at, "0 is not a port of an application");
        }
        let bytes = matches!(
            settings.protocol,
            inbound::Protocol::Tcp | inbound::Protocol::Tls
        );
        if settings.opaque && !bytes && settings.protocol != inbound::Protocol::Auto {
            lint.error(
                &at.key("opaque"),
                "nobody looks at an opaque port: it cannot have a protocol of HTTP's",
            );
        }
    }
}

fn listeners(lint: &Lint<'_>) -> Vec<Listener> {
    let config = lint.config;
    let mut all = Vec::new();
    let mut add = |setting: Steps, listen: &Listen| {
        for (nth, address) in listen.addresses().enumerate() {
            let listed = setting.index(nth);
            let in_list = lint.origins.node(&listed).is_some();
            all.push(Listener {
                at: if in_list { listed } else { setting.clone() },
                setting: setting.clone(),
                address,
            });
        }
    };
    add(Steps::of(&["inbound", "listen"]), &config.inbound.listen);
    for (port, settings) in &config.inbound.ports {
        let at = Steps::of(&["inbound", "ports", &port.to_string(), "listen"]);
        add(at, &settings.listen);
    }
    add(Steps::of(&["outbound", "listen"]), &config.outbound.listen);
    for (name, upstream) in &config.upstreams {
        add(Steps::of(&["upstreams", name, "listen"]), &upstream.listen);
    }
    add(
        Steps::of(&["admin", "listen"]),
        &Listen::new([*config.admin.listen]),
    );
    add(
        Steps::of(&["admin", "metrics"]),
        &Listen::new([*config.admin.metrics]),
    );
    all
}

/// Whether the system would refuse the second one, or give each a part of the other's callers.
fn collide(a: &Listener, b: &Listener) -> bool {
    let (one, other) = (a.address.ip(), b.address.ip());
    let covers = |wide: IpAddr, ip: IpAddr| match wide {
        IpAddr::V4(any) => any.is_unspecified() && ip.is_ipv4(),
        // `[::]` takes IPv4 as well, except beside an IPv4 address of the same setting.
        IpAddr::V6(any) => any.is_unspecified() && (ip.is_ipv6() || a.setting != b.setting),
    };
    a.address.port() != 0
        && a.address.port() == b.address.port()
        && (one == other || covers(one, other) || covers(other, one))
}

/// Targets that are our own listeners: every call would come back.
fn loops(lint: &mut Lint<'_>, listeners: &[Listener]) {
    let config = lint.config;
    let mut targets = Vec::new();
    if let Some(app) = config.inbound.app {
        targets.push((Steps::of(&["inbound", "app"]), *app));
    }
    for (port, settings) in &config.inbound.ports {
        if let Some(app) = settings.app {
            targets.push((
                Steps::of(&["inbound", "ports", &port.to_string(), "app"]),
                *app,
            ));
        }
    }
    for (name, upstream) in &config.upstreams {
        if let Source::Static(addresses) = &upstream.endpoints {
            let at = Steps::of(&["upstreams", name, "endpoints", "static"]);
            let addresses = addresses.iter().enumerate();
            targets.extend(addresses.map(|(nth, address)| (at.index(nth), **address)));
        }
    }
    for (at, target) in targets {
        if target.port() == 0 {
            lint.error(&at, "port 0 is no port to call");
            continue;
        }
        let ours = |listener: &&Listener| {
            let listens = listener.address;
            listens.port() == target.port()
                && (listens.ip() == target.ip()
                    || (listens.ip().is_unspecified() && target.ip().is_loopback()))
        };
        if let Some(listener) = listeners.iter().find(ours) {
            let setting = crate::config::path(&listener.setting);
            lint.error(
                &at,
                format!("{target} is our own `{setting}`: every call would come back"),
            );
        }
    }
}
