//! `weft certs show`: what a file, a Workload API or a live peer presents, and when it ends.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail};
use clap::Args;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    cli::{print, sidecar::block_on},
    tls::{
        settings::Socket,
        show::{Certificate, Contents, Given, List, Presented, contents, given, presented, said},
    },
};

/// A peer or an agent has this long.
const ANSWER: Duration = Duration::from_secs(5);

/// Shows what is presented: whose it is, who vouches for it, when it ends, what is wrong with it. Never a key.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// A file, the socket of a Workload API (unix:///run/agent.sock), or a live peer (HOST:PORT).
    #[arg(value_name = "FILE|SOCKET|HOST:PORT")]
    what: String,
    /// The server name that a live peer is asked for.
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
}

impl Show {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut text = String::new();
        if let Ok(socket) = self.what.parse::<Socket>() {
            let answer = block_on(async { timeout(ANSWER, given(&socket)).await })?;
            let given = answer.with_context(|| format!("{socket} does not answer"))?;
            tell_given(&mut text, &given.with_context(|| socket.to_string())?);
        } else if Path::new(&self.what).exists() || !self.what.contains(':') {
            let read = fs::read(&self.what).with_context(|| self.what.clone())?;
            let found = contents(&read).with_context(|| self.what.clone())?;
            tell_file(&mut text, Path::new(&self.what), &found);
        } else {
            let peer = block_on(self.peer())??;
            tell_peer(&mut text, &peer);
        }
        print(&text)
    }

    async fn peer(&self) -> anyhow::Result<Presented> {
        let asked = async {
            let stream = TcpStream::connect(&self.what)
                .await
                .with_context(|| self.what.clone())?;
            presented(stream, self.sni.as_deref())
                .await
                .with_context(|| self.what.clone())
        };
        match timeout(ANSWER, asked).await {
            Ok(answer) => answer,
            Err(_) => bail!("{} does not answer within 5 s", self.what),
        }
    }
}

fn tell_file(text: &mut String, file: &Path, found: &Contents) {
    tell(text, &found.certificates);
    tell_lists(text, &found.lists);
    match &found.key {
        None => {}
        Some(Err(why)) => put(text, "a private key", &[("warning", why.to_string())]),
        Some(Ok(())) => {
            let mode = fs::metadata(file).map_or(0, |data| data.permissions().mode() & 0o777);
            let mut lines = vec![("mode", format!("{mode:04o}"))];
            if mode & 0o077 != 0 {
                lines.push(("warning", "others may read it: chmod 600".to_owned()));
            }
            put(text, "a private key", &lines);
        }
    }
}

fn tell_given(text: &mut String, given: &Given) {
    for (at, chain) in given.identities.iter().enumerate() {
        let default = if at == 0 {
            ", the one that weft uses"
        } else {
            ""
        };
        let _ = writeln!(text, "identity {}{default}:", at + 1);
        tell(text, chain);
    }
    for (domain, roots) in &given.bundles {
        let _ = writeln!(text, "roots of {}:", clean(domain));
        tell(text, roots);
    }
    tell_lists(text, &given.lists);
}

fn tell_peer(text: &mut String, peer: &Presented) {
    let _ = writeln!(
        text,
        "{}, {}, protocol {}:",
        peer.version,
        peer.group,
        clean(&peer.alpn)
    );
    tell(text, &peer.chain);
}

fn tell(text: &mut String, certificates: &[Certificate]) {
    for shown in certificates {
        let kind = if shown.is_authority {
            " (authority)"
        } else {
            ""
        };
        let mut lines = vec![
            ("signed by", shown.issuer.clone()),
            ("from", said(shown.from)),
            (
                "until",
                format!("{} ({})", said(shown.until), left(shown.until)),
            ),
            ("serial", shown.serial.clone()),
        ];
        lines.extend(
            shown
                .warnings
                .iter()
                .map(|warning| ("warning", warning.clone())),
        );
        put(text, &format!("{}{kind}", shown.name), &lines);
    }
}

fn tell_lists(text: &mut String, lists: &[List]) {
    for list in lists {
        let mut lines = vec![
            ("signed by", list.issuer.clone()),
            ("revokes", list.revoked.to_string()),
        ];
        if let Some(next) = list.next_update {
            lines.push(("replaced", format!("{} ({})", said(next), left(next))));
            if next < SystemTime::now() {
                lines.push((
                    "warning",
                    "it is past its date; what it revokes stays revoked".to_owned(),
                ));
            }
        }
        put(text, "a revocation list", &lines);
    }
}

fn put(text: &mut String, name: &str, lines: &[(&str, String)]) {
    let _ = writeln!(text, "{}", clean(name));
    for (word, value) in lines {
        let _ = writeln!(text, "  {word:<9}  {}", clean(value));
    }
}

/// What a stranger wrote, without what would move a terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn left(until: SystemTime) -> String {
    let now = SystemTime::now();
    let (words, span) = match until.duration_since(now) {
        Ok(left) => ("in", left),
        Err(over) => ("over since", over.duration()),
    };
    let seconds = span.as_secs();
    let span = match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    };
    format!("{words} {span}")
}
