//! `weft explain`: where a call would go, why, and under which policies, without making it.

mod caller;

use std::{fmt::Write, net::IpAddr, process::ExitCode, sync::Arc};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header};
use prometheus::Registry;
use serde_json::Value;

use super::{File, print};
use crate::{
    config::{Loaded, Steps, path, values},
    discover::Source,
    events::{
        self,
        capture::{self, Author},
    },
    fault::{Fault, Reason},
    http::{Metrics, headers::clean_request, respond::statuses, target},
    outbound::{self, Plan, Strangers, Unknown, Upstream, UpstreamSettings, secure::Security},
    route::{Found, View},
};

/// Tells which route a call takes and why, where it goes, and which policies count, with their lines.
///
/// Nothing is sent. The call is taken as one of the application's, on `outbound.listen`; with `--as`, as one to the
/// application: then it tells which rule of `inbound.authorization` decides, and why.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// GET, POST, ...
    method: Method,
    /// http://host/path?query; the scheme may be left out.
    url: String,
    /// A header field, `name: value`; may be given several times.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// The identity of a peer that calls the application: a SPIFFE id, or `none` for a caller in plaintext.
    #[arg(long = "as", value_name = "IDENTITY")]
    caller: Option<caller::As>,
    /// The address that this peer calls from, where rules ask for it.
    #[arg(long = "ip", value_name = "ADDRESS", requires = "caller")]
    ip: Option<IpAddr>,
    #[command(flatten)]
    file: File,
}

impl Explain {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = self.file.load()?;
        let call = Call::read(&self.method, &self.url, &self.headers)?;
        match &self.caller {
            Some(caller) => print(&caller::explain(&loaded, &call, caller, self.ip)?),
            None => print(&explain(&loaded, &call)?),
        }
    }
}

/// A call that is not made.
struct Call {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Call {
    fn read(method: &Method, url: &str, fields: &[String]) -> anyhow::Result<Self> {
        let url = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let uri: Uri = url.parse().with_context(|| format!("`{url}` is no URL"))?;
        let mut headers = HeaderMap::new();
        for field in fields {
            let (name, value) = field
                .split_once(':')
                .with_context(|| format!("`{field}` is no header field: write `name: value`"))?;
            let name: HeaderName = name
                .trim()
                .parse()
                .with_context(|| format!("`{name}` is no header field's name"))?;
            let value = HeaderValue::from_str(value.trim())
                .with_context(|| format!("`{name}` cannot have this value"))?;
            headers.append(name, value);
        }
        // The URL says whom it is for, as in a proxy's absolute-form request.
        let authority = uri
            .authority()
            .with_context(|| format!("`{url}` names no host"))?;
        let host = HeaderValue::from_str(authority.as_str())?;
        headers.insert(header::HOST, host);
        Ok(Call {
            method: method.clone(),
            uri,
            headers,
        })
    }
}

/// Where a call goes.
enum Way {
    /// A route of the file, by its place.
    Route(usize),
    /// No route: the upstream that the host names.
    Direct(String),
    /// No route and no upstream: where `Host` says.
    Passthrough(String),
}

fn explain(loaded: &Loaded, call: &Call) -> anyhow::Result<String> {
    let config = &loaded.config;
    if call.method == Method::CONNECT {
        bail!("CONNECT takes no route; explain the call that goes through the tunnel");
    }
    let mut headers = call.headers.clone();
    let mut text = format!("{} {}\n", call.method, call.uri);
    if let Err(fault) = clean_request(&mut headers, Version::HTTP_11) {
        return Ok(text + &refused(&fault));
    }
    let target = match target::read_target(&call.method, &call.uri, &headers, Version::HTTP_11) {
        Ok(target) => target,
        Err(fault) => return Ok(text + &refused(&fault)),
    };
    let plan = plan(loaded)?;
    let view = View {
        host: &target.host,
        port: target.port,
        method: &call.method,
        path: &target.path,
        query: target.query,
        headers: &headers,
    };
    let name =
        |route: crate::route::RouteId| config.outbound.routes[route.index()].name.to_string();
    section(&mut text, "why", &plan.table.explain(&view, name));
    if target.is_ambiguous() && plan.table.reads_path(&target.host, target.port) {
        return Ok(text + &refused(&target::Target::ambiguous_path()));
    }
    let named = plan
        .upstream_of(&target.host)
        .map(|at| plan.upstreams[at].name.to_string());
    let stranger = format!("{}:{}", target.host, target.port.unwrap_or(80));
    let way = match (plan.table.find(&view), named.clone()) {
        (Found::Route(route), _) => Way::Route(route.index()),
        (_, Some(upstream)) => Way::Direct(upstream),
        (Found::NoRoute, None) => {
            let words = format!("no route of `{}` matches this request", target.host);
            return Ok(text + &refused(&Fault::new(Reason::NoRoute, words)));
        }
        (Found::UnknownHost, None) => match config.outbound.unknown {
            Unknown::Passthrough => Way::Passthrough(stranger.clone()),
            Unknown::Deny => {
                let words = format!("`{}` names no route and no upstream", target.host);
                return Ok(text + &refused(&Fault::new(Reason::UnknownHost, words)));
            }
        },
    };
    let page = Page {
        loaded,
        values: values(loaded),
    };
    match way {
        Way::Route(route) => page.route(&mut text, route, call, named, &stranger),
        Way::Direct(upstream) => {
            let words = "none; the host names the upstream, and default policies count";
            section(&mut text, "route", &[words.to_owned()]);
            section(&mut text, "goes to", &[page.upstream(&upstream)]);
            page.policies(&mut text, None, &[upstream]);
        }
        Way::Passthrough(stranger) => {
            let words = "none; the file does not name the host, and default policies count";
            section(&mut text, "route", &[words.to_owned()]);
            section(&mut text, "goes to", &[page.stranger(&stranger)]);
        }
    }
    Ok(text)
}

/// The plan that `weft run` would make, of upstreams that nobody calls.
fn plan(loaded: &Loaded) -> anyhow::Result<Plan> {
    let registry = Registry::new();
    let metrics = outbound::Metrics::new(&registry)?;
    let upstreams = loaded
        .config
        .upstreams
        .iter()
        .map(|(name, settings)| {
            let upstream = Upstream::new(name, name, settings, Security::Plain, &metrics);
            (upstream, settings.clone())
        })
        .collect();
    let http = Metrics::new(&registry)?;
    Plan::compile(
        &loaded.config.outbound,
        upstreams,
        Arc::new(Nobody(metrics)),
        Arc::new([]),
        &Author::new("", "", &events::Metrics::new(&registry)?),
        &http,
    )
    .map_err(|problems| anyhow!("{problems:?}"))
}

/// Hosts that the file does not name: no call goes to one here.
struct Nobody(outbound::Metrics);

impl Strangers for Nobody {
    fn upstream(&self, host: &str, _: u16) -> Arc<Upstream> {
        let settings = UpstreamSettings::to(Source::Static(Vec::new()));
        Upstream::new(host, "passthrough", &settings, Security::Plain, &self.0)
    }
}

fn refused(fault: &Fault) -> String {
    let (status, grpc) = statuses(fault.reason());
    let mut text = String::new();
    let words = format!(
        "{} {} (gRPC {grpc}): {}",
        status.as_u16(),
        fault.reason(),
        fault.public_words()
    );
    section(&mut text, "refused", &[words]);
    text
}

fn section(text: &mut String, title: &str, lines: &[String]) {
    for (nth, line) in lines.iter().enumerate() {
        let title = if nth == 0 { title } else { "" };
        let _ = writeln!(text, "{title:<10}{line}");
    }
}

/// The file's values, and where each comes from.
struct Page<'a> {
    loaded: &'a Loaded,
    values: Value,
}

impl Page<'_> {
    fn route(
        &self,
        text: &mut String,
        index: usize,
        call: &Call,
        named: Option<String>,
        stranger: &str,
    ) {
        let route = &self.loaded.config.outbound.routes[index];
        let at = Steps::of(&["outbound", "routes"]).index(index);
        section(
            text,
            "route",
            &[format!("{}  ({})", route.name, self.loaded.origins.of(&at))],
        );
        let total: u64 = route.backends.iter().map(|one| u64::from(one.weight)).sum();
        let mut upstreams: Vec<String> = Vec::new();
        let mut goes = Vec::new();
        for backend in &route.backends {
            let share = match route.backends.len() {
                1 => String::new(),
                _ => format!("{} of {total}: ", backend.weight),
            };
            goes.push(share + &self.upstream(&backend.upstream));
            upstreams.push(backend.upstream.to_string());
        }
        if route.backends.is_empty() {
            goes.push(match &named {
                Some(upstream) => self.upstream(upstream),
                None => self.stranger(stranger),
            });
            upstreams.extend(named);
        }
        section(text, "goes to", &goes);
        let deferred = match (&route.defer, &call.method) {
            (None, _) => "no".to_owned(),
            (Some(_), method) if !capture::is_deferrable(method) => {
                format!("no: {method} passes at once, its caller needs the answer")
            }
            (Some(_), _) => "yes: answered once the call is on disk, delivered later".to_owned(),
        };
        section(text, "deferred", &[deferred]);
        self.policies(text, Some(index), &upstreams);
    }

    /// An upstream and where its endpoints come from.
    fn upstream(&self, name: &str) -> String {
        let at = Steps::of(&["upstreams", name]);
        let origin = self.loaded.origins.of(&at);
        let found = self
            .loaded
            .config
            .upstreams
            .iter()
            .find(|(own, _)| own.as_str() == name);
        let endpoints = match found.map(|(_, settings)| &settings.endpoints) {
            Some(Source::Static(addresses)) => {
                let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                all.join(", ")
            }
            Some(Source::Dns(address)) => format!("every address of {address} (DNS)"),
            None => "nothing".to_owned(),
        };
        format!("upstream {name}: {endpoints}  ({origin})")
    }

    fn stranger(&self, address: &str) -> String {
        let origin = self.loaded.origins.of(&Steps::of(&["outbound", "unknown"]));
        format!("{address} itself  (outbound.unknown: passthrough, {origin})")
    }

    /// Every policy that counts for the call, with its origin.
    fn policies(&self, text: &mut String, route: Option<usize>, upstreams: &[String]) {
        let mut rows = Vec::new();
        if let Some(index) = route {
            let at = Steps::of(&["outbound", "routes"]).index(index);
            let route = &self.values["outbound"]["routes"][index];
            // A delivery is tried again as `defer.deliver` says, and nobody waits for it.
            let own = match self.loaded.config.outbound.routes[index].defer {
                None => ["timeouts", "retry", "filters"],
                Some(_) => ["filters", "defer", "idempotency"],
            };
            for key in own.into_iter().chain(["reply"]) {
                if let Some(value) = route.get(key) {
                    self.leaves(value, &at.key(key), key, &mut rows);
                }
            }
        }
        for name in upstreams {
            let at = Steps::of(&["upstreams", name]);
            let Some(settings) = self.values["upstreams"]
                .get(name)
                .and_then(Value::as_object)
            else {
                continue;
            };
            for (key, value) in settings.iter().filter(|(key, _)| *key != "endpoints") {
                let shown = path(&at.key(key));
                self.leaves(value, &at.key(key), &shown, &mut rows);
            }
        }
        let name = rows.iter().map(|row| row[0].len()).max().unwrap_or(0);
        let value = rows
            .iter()
            .map(|row| row[1].len())
            .max()
            .unwrap_or(0)
            .min(40);
        let lines: Vec<String> = rows
            .iter()
            .map(|[key, found, origin]| format!("{key:<name$}  {found:<value$}  {origin}"))
            .collect();
        section(text, "policies", &lines);
    }

    /// The values under `at` one by one: their names from `shown` on, themselves, their origins.
    fn leaves(&self, value: &Value, at: &Steps, shown: &str, rows: &mut Vec<[String; 3]>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, value) in map {
                    self.leaves(value, &at.key(key), &format!("{shown}.{key}"), rows);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for (nth, value) in items.iter().enumerate() {
                    self.leaves(value, &at.index(nth), &format!("{shown}[{nth}]"), rows);
                }
            }
            Value::Array(items) if items.is_empty() => {}
            leaf => {
                let found = match leaf {
                    Value::Array(items) => {
                        let items: Vec<String> = items.iter().map(plain).collect();
                        items.join(", ")
                    }
                    other => plain(other),
                };
                let origin = self.loaded.origins.of(at).to_string();
                rows.push([shown.to_owned(), found, origin]);
            }
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
