//! `weft outbox`: deferred calls that wait.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    place::{Place, Whose, escaped},
    print,
    table::{cell, table, time},
};

/// Shows deferred calls: of a running sidecar, else of the store that a stopped one left.
#[derive(Debug, Args)]
pub(super) struct Outbox {
    #[command(flatten)]
    whose: Whose,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Lists what waits, oldest first, and why.
    Ls {
        /// The most that are listed.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Begins behind this event.
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Says where one deferred call stands, whatever became of it.
    Show { id: String },
}

impl Outbox {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let told = self.whose.ask(async |place| tell(&self.verb, place).await);
        print(&told?)
    }
}

async fn tell(verb: &Verb, place: &Place) -> anyhow::Result<String> {
    match verb {
        Verb::Show { id } => {
            let page = place.get(&format!("/outbox/{}", escaped(id))).await?;
            Ok(format!("{page:#}\n"))
        }
        Verb::Ls { limit, after, json } => {
            let mut target = format!("/outbox?limit={limit}");
            if let Some(after) = after {
                target += &format!("&after={}", escaped(after));
            }
            let page = place.get(&target).await?;
            Ok(match json {
                true => format!("{page:#}\n"),
                false => list(&page),
            })
        }
    }
}

fn list(page: &Value) -> String {
    if page["open"] != true {
        return format!("the outbox is not open: {}\n", cell(&page["why"]));
    }
    let mut text = format!(
        "outbox {}: {} pending, {} dead letters, {} bytes, {}\n",
        cell(&page["path"]),
        cell(&page["ledger"]["pending"]),
        page["ledger"]["dead_lettered"].as_u64().unwrap_or(0)
            + page["ledger"]["expired"].as_u64().unwrap_or(0),
        cell(&page["bytes"]),
        cell(&page["health"]),
    );
    let pending = page["pending"].as_array().map_or(&[][..], Vec::as_slice);
    if pending.is_empty() {
        return text;
    }
    let row = |one: &Value| {
        vec![
            cell(&one["id"]),
            cell(&one["route"]),
            cell(&one["upstream"]),
            time(&one["accepted"]),
            time(&one["due"]),
            cell(&one["attempts"]),
            cell(&one["error"]),
        ]
    };
    let names = [
        "ID",
        "ROUTE",
        "UPSTREAM",
        "ACCEPTED",
        "DUE",
        "ATTEMPTS",
        "LAST ERROR",
    ];
    text += &table(&names, pending.iter().map(row).collect());
    if let Some(next) = page["next"].as_str() {
        text += &format!("more: --after {next}\n");
    }
    text
}
