//! `weft check`: whether `weft run` would take this file, and this machine's outbox.

use std::{path::Path, process::ExitCode};

use clap::Args;

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
                store.close().await;
                Ok(format!(
                    "outbox {}: {} pending, {} in all, {} bytes\n",
                    path.display(),
                    figures.ledger[0].1,
                    figures.events,
                    figures.bytes
                ))
            }
            // Beside a running sidecar of this very file the store is as it should be.
            Err(OpenError::Held { holder, .. }) if is_own(config, path).await => Ok(format!(
                "outbox {}: held by the sidecar that answers at {} ({holder})\n",
                path.display(),
                config.admin.listen
            )),
            Err(error) => Err(error.to_string()),
        }
    });
    looked.map_err(|error| error.to_string())?
}

/// Whether the sidecar that this file is for runs, on this store.
async fn is_own(config: &Config, path: &Path) -> bool {
    let sidecar = Sidecar {
        address: config.admin.listen.0,
    };
    match sidecar.get("/outbox").await {
        Ok(page) => page["path"].as_str() == path.to_str(),
        Err(_) => false,
    }
}
