//! What needs an identity of ours and has none, and what stays in plaintext though we have one.

use super::Lint;
use crate::{config::tree::Steps, tls::Towards};

pub(super) fn check(lint: &mut Lint<'_>) {
    let config = lint.config;
    let ours = config.identity.is_some();
    for (name, upstream) in &config.upstreams {
        let at = Steps::of(&["upstreams", name]);
        match (&upstream.tls, &upstream.identity) {
            (Towards::Mesh, _) if !ours => {
                let problem = lint.error(&at.key("tls"), "mutual TLS needs an identity of ours");
                problem.help = Some("say where it comes from: `identity: { files: … }`".into());
            }
            (Towards::Auto, Some(_)) if !ours => {
                let problem = lint.error(
                    &at.key("identity"),
                    "its endpoints are to prove an identity, and we have none to show",
                );
                problem.help = Some("say where it comes from: `identity: { files: … }`".into());
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
