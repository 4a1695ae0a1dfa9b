//! `weft dlq`: dead letters, and what a person decides about them.

use std::{io::Read, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    place::{Place, Whose, escaped},
    print,
    table::{cell, table, time},
};
use crate::events::Message;

/// Shows dead letters and decides about them: of a running sidecar, else of the store that a stopped one left.
#[derive(Debug, Args)]
pub(super) struct Dlq {
    #[command(flatten)]
    whose: Whose,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists dead letters, oldest first.
    Ls {
        #[command(flatten)]
        filter: Filter,
        /// Those as well that were decided already.
        #[arg(long)]
        all: bool,
        /// As JSON: a list.
        #[arg(long)]
        json: bool,
    },
    /// Shows one, whole: the call as it was made, and what the callee said.
    Show { id: String },
    /// Puts a changed copy in its place, which is delivered at once: a new id, with the old one as its cause.
    Edit(Edit),
    /// Delivers dead letters again.
    Replay {
        #[command(flatten)]
        which: Which,
        /// At most so many a second.
        #[arg(long, value_name = "A_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
    },
    /// Gives dead letters up.
    Discard {
        #[command(flatten)]
        which: Which,
    },
}

/// Which dead letters; what is not said does not matter.
#[derive(Debug, Args)]
struct Filter {
    /// rejected, exhausted, expired, crash or damaged.
    #[arg(long)]
    reason: Option<String>,
    /// The callee's last answer.
    #[arg(long)]
    status: Option<u16>,
    /// Last failure at or after: 2026-11-21T13:00:00Z, or how long ago: 90m.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Last failure before.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    #[arg(long)]
    key: Option<String>,
    #[arg(long)]
    route: Option<String>,
    #[arg(long)]
    upstream: Option<String>,
    /// dev.weft.http.request.v1 or dev.weft.grpc.request.v1.
    #[arg(long)]
    r#type: Option<String>,
}

/// Which dead letters are decided about: by id, by a filter, or every one.
#[derive(Debug, Args)]
struct Which {
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Every one that waits.
    #[arg(long)]
    every: bool,
    /// Only says what would be done.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct Edit {
    id: String,
    /// The new body: a file, or `-` for what comes in.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Sets a header field: `name: value`.
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    headers: Vec<String>,
    /// Removes a header field.
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    #[arg(long)]
    method: Option<String>,
    /// The new path and query.
    #[arg(long)]
    path: Option<String>,
}

impl Dlq {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.whose.ask(async |place| act(self.verb, place).await)
    }
}

async fn act(verb: Verb, place: &Place) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Ls { filter, all, json } => {
            let letters = collect(place, &filter, all).await?;
            if json {
                return print(&format!("{:#}\n", Value::Array(letters)));
            }
            print(&list(&letters))
        }
        Verb::Show { id } => {
            let page = place.get(&format!("/deadletters/{}", escaped(&id))).await?;
            print(&format!("{page:#}\n"))
        }
        Verb::Edit(edit) => {
            let path = format!("/deadletters/{}/edit", escaped(&edit.id));
            let changes = edit.read()?;
            let page = place.post(&path, changes).await?;
            print(&format!(
                "edited {}: now {}\n",
                cell(&page["causationid"]),
                cell(&page["id"])
            ))
        }
        Verb::Replay { which, rate } => {
            let pause = rate.map(|rate| Duration::from_secs(1) / rate);
            decide(place, &which, "replay", pause).await
        }
        Verb::Discard { which } => decide(place, &which, "discard", None).await,
    }
}

impl Filter {
    fn query(&self) -> String {
        let status = self.status.map(|status| status.to_string());
        let said = [
            ("reason", &self.reason),
            ("status", &status),
            ("since", &self.since),
            ("until", &self.until),
            ("key", &self.key),
            ("route", &self.route),
            ("upstream", &self.upstream),
            ("type", &self.r#type),
        ];
        said.into_iter()
            .filter_map(|(name, value)| Some(format!("&{name}={}", escaped(value.as_ref()?))))
            .collect()
    }
}

/// Every dead letter that passes, page by page.
async fn collect(place: &Place, filter: &Filter, all: bool) -> anyhow::Result<Vec<Value>> {
    let query = format!("/deadletters?limit=1000&all={all}{}", filter.query());
    let (mut letters, mut after) = (Vec::new(), String::new());
    loop {
        let page = place.get(&format!("{query}{after}")).await?;
        letters.extend(page["letters"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", escaped(next)),
            None => return Ok(letters),
        }
    }
}

fn list(letters: &[Value]) -> String {
    if letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let row = |one: &Value| {
        vec![
            cell(&one["id"]),
            cell(&one["state"]),
            cell(&one["reason"]),
            cell(&one["status"]),
            cell(&one["attempts"]),
            cell(&one["route"]),
            cell(&one["key"]),
            time(&one["lastFailure"]),
            cell(&one["error"]),
        ]
    };
    let names = [
        "ID",
        "STATE",
        "REASON",
        "STATUS",
        "ATTEMPTS",
        "ROUTE",
        "KEY",
        "LAST FAILURE",
        "ERROR",
    ];
    table(&names, letters.iter().map(row).collect())
}

/// Does it to each; one that cannot be is told, and the others go on.
async fn decide(
    place: &Place,
    which: &Which,
    action: &str,
    pause: Option<Duration>,
) -> anyhow::Result<ExitCode> {
    let filter = which.filter.query();
    let ids = match (which.ids.is_empty(), which.every || !filter.is_empty()) {
        (false, false) => which.ids.clone(),
        (true, true) => {
            let waits = |letter: &&Value| letter["state"] == "pending";
            let letters = collect(place, &which.filter, false).await?;
            letters
                .iter()
                .filter(waits)
                .map(|letter| cell(&letter["id"]))
                .collect()
        }
        (true, false) => bail!("name dead letters by id or by a filter, or say --every"),
        (false, true) => bail!("name dead letters by id or by a filter, not by both"),
    };
    let mut failed = 0;
    for (nth, id) in ids.iter().enumerate() {
        if which.dry_run {
            print(&format!("would {action} {id}\n"))?;
            continue;
        }
        if let Some(pause) = pause.filter(|_| nth > 0) {
            tokio::time::sleep(pause).await;
        }
        let path = format!("/deadletters/{}/{action}", escaped(id));
        match place.post(&path, Bytes::new()).await {
            Ok(page) => {
                print(&format!("{id} {}\n", cell(&page["state"])))?;
            }
            Err(error) => {
                eprintln!("weft: {id}: {error:#}");
                failed += 1;
            }
        }
    }
    if ids.is_empty() {
        print("no dead letters\n")?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Edit {
    /// The changes as the admin port takes them.
    fn read(&self) -> anyhow::Result<Bytes> {
        let mut changes = Map::new();
        if let Some(file) = &self.body {
            let mut bytes = Vec::new();
            if file.as_os_str() == "-" {
                std::io::stdin().read_to_end(&mut bytes)?;
            } else {
                bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
            }
            let body = Message(bytes.into()).to_string();
            changes.insert("bodyBase64".to_owned(), json!(body));
        }
        let mut headers = Map::new();
        for field in &self.headers {
            let (name, value) = field
                .split_once(':')
                .with_context(|| format!("`{field}` is no header field: write `name: value`"))?;
            headers.insert(name.trim().to_lowercase(), json!(value.trim()));
        }
        for name in &self.remove {
            headers.insert(name.to_lowercase(), Value::Null);
        }
        changes.insert("headers".to_owned(), Value::Object(headers));
        let texts = [("method", &self.method), ("path", &self.path)];
        for (name, value) in texts {
            if let Some(value) = value {
                changes.insert(name.to_owned(), json!(value));
            }
        }
        Ok(Value::Object(changes).to_string().into())
    }
}
