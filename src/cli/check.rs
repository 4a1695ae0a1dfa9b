//! `weft check`: whether `weft run` would take this file, and this machine's outbox.

use std::{path::Path, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    File, print,
    sidecar::{Sidecar, block_on},
};
use crate::{
    config::{Config, Diagnostics},
    outbox::{self, OpenError},
};

/// Checks a routing file, and the outbox it names.
///
/// Every error and warning is told with its place. Exit code 1 where `weft run` would refuse the file, or could not
/// keep deferred calls.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: File,
}

impl Check {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = match Config::load(&self.file.config) {
            Ok(loaded) => loaded,
            Err(diagnostics) => return failed(&diagnostics),
        };
        if !loaded.warnings.is_empty() {
            eprintln!("{}", loaded.warnings);
        }
        let config = &loaded.config;
        let mut words = format!(
            "ok: {}, {}\n",
            counted(config.outbound.routes.len(), "route"),
            counted(config.upstreams.len(), "upstream")
        );
        let defers = config
            .outbound
            .routes
            .iter()
            .any(|route| route.defer.is_some());
        if defers {
            match store(config) {
                Ok(told) => words += &told,
                Err(why) => {
                    eprintln!("{}: error: outbox.path: {why}", self.file.config.display());
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        print(&words)
    }
}

fn failed(diagnostics: &Diagnostics) -> anyhow::Result<ExitCode> {
    eprintln!("{diagnostics}");
    Ok(ExitCode::FAILURE)
}

fn counted(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        many => format!("{many} {word}s"),
    }
}

/// What is known of the store without changing it; an error where it could not be used.
fn store(config: &Config) -> Result<String, String> {
    let path = &config.outbox.path;
    if !path.join("lock").exists() {
        return Ok(format!("outbox {}: will be made\n", path.display()));
    }
    let options = outbox::Options {
        limits: config.outbox.limits,
        ..outbox::Options::default()
    };
    let looked = block_on(async {
        match outbox::Store::open(path, &options, outbox::Metrics::default()) {
            Ok(store) => {
                let figures = store.figures();
                let holders = store.holders().await;
                store.close().await;
                let mut told = format!(
                    "outbox {}: {} pending, {} in all, {} bytes\n",
                    path.display(),
                    figures.ledger[0].1,
                    figures.events,
                    figures.bytes
                );
                let known = |name: &str| config.upstreams.keys().any(|key| key.as_str() == name);
                for (name, _) in holders.unwrap_or_default() {
                    if !known(&name) {
                        told += &parked(&name);
                    }
                }
                Ok(told)
            }
            // Beside a running sidecar of this very file the store is as it should be.
            Err(OpenError::Held { dir, holder }) => match own(config, path).await {
                Some(page) => {
                    let mut told = format!(
                        "outbox {}: held by the sidecar that answers at {} ({holder})\n",
                        path.display(),
                        config.admin.listen
                    );
                    let names = page["parkedUpstreams"].as_array();
                    let names = names.into_iter().flatten();
                    told.extend(names.filter_map(Value::as_str).map(parked));
                    Ok(told)
                }
                None => Err(OpenError::Held { dir, holder }.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    });
    looked.map_err(|error| error.to_string())?
}

fn parked(upstream: &str) -> String {
    format!("outbox: calls for `{upstream}` are parked: the file names no such upstream\n")
}

/// What the sidecar that this file is for says of its outbox, where it runs on this store.
async fn own(config: &Config, path: &Path) -> Option<Value> {
    let sidecar = Sidecar {
        address: config.admin.listen.0,
    };
    let page = sidecar.get("/outbox").await.ok()?;
    (page["path"].as_str() == path.to_str()).then_some(page)
}
