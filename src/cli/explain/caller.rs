//! `weft explain --as`: whether a peer may make a call to the application, and by which rule.

use std::{net::IpAddr, str::FromStr};

use anyhow::{anyhow, bail};
use http::{Method, Version};
use prometheus::Registry;

use super::{Call, refused, section};
use crate::{
    config::{Loaded, Steps},
    fault::{Fault, Reason},
    http::{headers::clean_request, target},
    inbound::{
        Action, TlsMode,
        authorize::{self, Caller, Home, Metrics, Outcome, Policy, Says, Step, View},
    },
    units::SpiffeId,
};

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum As {
    Peer(SpiffeId),
    /// In plaintext.
    Nobody,
}

impl FromStr for As {
    type Err = crate::units::SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(As::Nobody),
            id => SpiffeId::parse(id).map(As::Peer),
        }
    }
}

pub(super) fn explain(
    loaded: &Loaded,
    call: &Call,
    caller: &As,
    ip: Option<IpAddr>,
) -> anyhow::Result<String> {
    let config = &loaded.config;
    if call.method == Method::CONNECT {
        bail!("CONNECT is not for callers of the application");
    }
    let (identity, who) = match caller {
        As::Peer(id) => (Some(id), id.as_str()),
        As::Nobody => (None, "a caller without an identity"),
    };
    let mut text = format!("{} {}\n", call.method, call.uri);
    let mut headers = call.headers.clone();
    if let Err(fault) = clean_request(&mut headers, Version::HTTP_11) {
        return Ok(text + &refused(&fault));
    }
    let target = match target::read_target(&call.method, &call.uri, &headers, Version::HTTP_11) {
        Ok(target) => target,
        Err(fault) => return Ok(text + &refused(&fault)),
    };
    let port = match (target.port, config.inbound.app) {
        (Some(port), _) => port,
        (None, Some(app)) => app.port(),
        (None, None) => 80,
    };
    section(&mut text, "caller", &[who.to_owned()]);
    section(&mut text, "port", &[format!("{port} of the application")]);
    if identity.is_none()
        && let Some(words) = unproven(loaded, call, &target, port)
    {
        return Ok(text + &words);
    }
    let Some(said) = &config.inbound.authorization else {
        let words = "without inbound.authorization everyone may call".to_owned();
        section(&mut text, "allowed", &[words]);
        return Ok(text);
    };
    let metrics = Metrics::new(&Registry::new())?;
    let home = Home::new(config.service.trust_domain.as_str(), None);
    let policy = Policy::compile(said, &home, &metrics).map_err(|problem| anyhow!("{problem}"))?;
    if policy.reads_ip() && ip.is_none() {
        bail!("rules of inbound.authorization ask where the caller is: say it with --ip ADDRESS");
    }
    let caller = Caller {
        identity,
        ip: ip.unwrap_or(IpAddr::from([0, 0, 0, 0])),
        port,
    };
    let view = View {
        method: &call.method,
        host: &target.host,
        host_port: target.port,
        path: &target.path,
        ambiguous: target.is_ambiguous(),
        headers: &headers,
    };
    let page = Page { loaded };
    let steps = policy.explain(&caller, &view);
    let lines: Vec<String> = steps.iter().flat_map(|step| page.step(step)).collect();
    section(&mut text, "why", &lines);
    let verdict = policy.request(&caller, &view);
    let rule = page.rule(verdict.place());
    for tried in verdict.tried() {
        section(
            &mut text,
            "dry run",
            &[format!("`{tried}` would decide otherwise")],
        );
    }
    match verdict.says {
        Says::Pass => section(&mut text, "allowed", &[format!("by {rule}")]),
        Says::Refuse => {
            let fault = Fault::new(Reason::Denied, format!("by {rule}"));
            text += &refused(&fault);
        }
        Says::Ambiguous => text += &refused(&target::Target::ambiguous_path()),
    }
    Ok(text)
}

/// What becomes of a call in plaintext before any rule is asked: a probe passes, where proof is asked for all else is
/// refused. None: the rules say.
fn unproven(
    loaded: &Loaded,
    call: &Call,
    target: &target::Target<'_>,
    port: u16,
) -> Option<String> {
    let inbound = &loaded.config.inbound;
    let asks = matches!(call.method, Method::GET | Method::HEAD) && !target.is_ambiguous();
    let probes = || inbound.probes.iter();
    let probe = probes().position(|own| own.port == port && own.path.as_str() == target.path);
    let mut text = String::new();
    if let Some(nth) = probe.filter(|_| asks) {
        let at = Steps::of(&["inbound", "probes"]).index(nth);
        let words = format!(
            "as a probe, of which no rule is asked ({})",
            loaded.origins.of(&at)
        );
        section(&mut text, "allowed", &[words]);
        return Some(text);
    }
    if inbound.mode(port) != TlsMode::Strict {
        return None;
    }
    let own = inbound
        .ports
        .get(&port)
        .is_some_and(|own| own.tls.is_some());
    let at = match own {
        true => Steps::of(&["inbound", "ports", &port.to_string(), "tls"]),
        false => Steps::of(&["inbound", "tls", "mode"]),
    };
    let why = format!("the port is strict ({})", loaded.origins.of(&at));
    section(&mut text, "why", &[why]);
    Some(text + &refused(&authorize::unproven()))
}

struct Page<'a> {
    loaded: &'a Loaded,
}

impl Page<'_> {
    /// A rule by its name and line; the default by its line.
    fn rule(&self, place: Option<usize>) -> String {
        let at = Steps::of(&["inbound", "authorization"]);
        let said = self.loaded.config.inbound.authorization.as_ref();
        let name = place.and_then(|place| Some(&said?.rules.get(place)?.name));
        let (words, at) = match (place, name) {
            (Some(place), Some(name)) => (format!("rule `{name}`"), at.key("rules").index(place)),
            _ => ("the default".to_owned(), at.key("default")),
        };
        format!("{words} ({})", self.loaded.origins.of(&at))
    }

    /// What a rule said, a line for each thing that is missing.
    fn step(&self, step: &Step) -> Vec<String> {
        let action = match (step.action, step.dry_run) {
            (Action::Allow, false) => "allows",
            (Action::Deny, false) => "denies",
            (Action::Allow, true) => "would allow, a dry run",
            (Action::Deny, true) => "would deny, a dry run",
        };
        let who = format!("{}, {action}", self.rule(step.place));
        match &step.outcome {
            Outcome::Unmet(lacks) => lacks.iter().map(|lack| format!("{who}: {lack}")).collect(),
            Outcome::Perhaps => vec![format!("{who}: it depends on how the path is read")],
            Outcome::Holds(from, to) => {
                let entries: Vec<String> = [("from", from), ("to", to)]
                    .into_iter()
                    .filter_map(|(key, entry)| Some(self.entry(step.place?, key, (*entry)?)))
                    .collect();
                let by = match entries.is_empty() {
                    true => "it is about every call".to_owned(),
                    false => format!("met by {}", entries.join(" and ")),
                };
                vec![format!("{who}: {by}")]
            }
        }
    }

    fn entry(&self, place: usize, key: &str, nth: usize) -> String {
        let at = Steps::of(&["inbound", "authorization", "rules"]);
        let at = at.index(place).key(key).index(nth);
        format!("{key}[{nth}] ({})", self.loaded.origins.of(&at))
    }
}
