//! What needs an identity of ours and has none, and what stays in plaintext though we have one.

use super::Lint;
use crate::{config::tree::Steps, inbound::TlsMode, tls::Towards};

const FROM_WHERE: &str = "say where it comes from: `identity: { files: … }`";

pub(super) fn check(lint: &mut Lint<'_>) {
    let config = lint.config;
    let ours = config.identity.is_some();
    if !ours {
        let inbound = &config.inbound;
        let modes = inbound.ports.iter().filter_map(|(port, said)| {
            Some((
                Steps::of(&["inbound", "ports", &port.to_string()]).key("tls"),
                said.tls?,
            ))
        });
        let all = (Steps::of(&["inbound", "tls", "mode"]), inbound.tls.mode);
        for (at, _) in modes
            .chain([all])
            .filter(|(_, mode)| *mode == TlsMode::Strict)
        {
            let words =
                "callers are to prove who they are, and we have no identity to meet them with";
            lint.error(&at, words).help = Some(FROM_WHERE.into());
        }
    }
    for (name, upstream) in &config.upstreams {
        let at = Steps::of(&["upstreams", name]);
        match (&upstream.tls, &upstream.identity) {
            (Towards::Mesh, _) if !ours => {
                let problem = lint.error(&at.key("tls"), "mutual TLS needs an identity of ours");
                problem.help = Some(FROM_WHERE.into());
            }
            (Towards::Auto, Some(_)) if !ours => {
                let problem = lint.error(
                    &at.key("identity"),
                    "its endpoints are to prove an identity, and we have none to show",
                );
                problem.help = Some(FROM_WHERE.into());
            }
            (Towards::None | Towards::Ordinary(_), Some(_)) => {
                let words = "only mutual TLS asks for an identity: `tls: mesh` or `tls: auto`";
                lint.error(&at.key("identity"), words);
            }
            (Towards::Auto, None) if ours => {
                let problem = lint.warning(&at, "calls go in plaintext");
                problem.help = Some(
                    "say whom to expect (`identity: spiffe://…`), `tls: mesh`, or `tls: none` where that is meant"
                        .into(),
                );
            }
            _ => {}
        }
    }
}
