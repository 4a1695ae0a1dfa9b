//! Where deferred calls are asked about: a sidecar that runs, else the store that a stopped one left.

use std::{env, net::SocketAddr};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::{
    File,
    sidecar::{Failure, Sidecar, block_on},
};
use crate::{
    admin::store,
    config::Config,
    events::Events,
    outbox::{self, OpenError, Options, Store},
};

/// Whose deferred calls.
#[derive(Debug, Args)]
pub(super) struct Whose {
    #[command(flatten)]
    file: File,
    /// The admin port of a running sidecar, in place of the file's `admin.listen`.
    #[arg(long, global = true, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
}

/// Where they are.
pub(super) enum Place {
    Running(Sidecar),
    Stopped(Store, Events),
}

impl Whose {
    /// Asks there, and lets go of it whatever the answers were.
    pub fn ask<T>(
        &self,
        questions: impl AsyncFnOnce(&Place) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        block_on(async {
            let place = self.find().await?;
            let told = questions(&place).await;
            place.leave().await;
            told
        })?
    }

    async fn find(&self) -> anyhow::Result<Place> {
        if let Some(address) = self.admin {
            return Ok(Place::Running(Sidecar { address }));
        }
        let loaded = self.file.load()?;
        let config = &loaded.config;
        let sidecar = Sidecar {
            address: config.admin.listen.0,
        };
        // Port 0 says that nobody knows the address beforehand.
        let asked = match sidecar.address.port() {
            0 => None,
            _ => Some(sidecar.get("/outbox?limit=1").await),
        };
        let why = match asked {
            Some(Ok(page)) => {
                let own = config.outbox.path.display().to_string();
                if page["open"] != true {
                    let why = page["why"].as_str().unwrap_or("no reason");
                    bail!("the sidecar at {} has no outbox: {why}", sidecar.address);
                }
                return match page["path"].as_str() {
                    Some(path) if path == own => Ok(Place::Running(sidecar)),
                    path => bail!(
                        "the sidecar at {} keeps its calls in {}, not in {own}: name another file with -c, or a port with --admin",
                        sidecar.address,
                        path.unwrap_or("no outbox"),
                    ),
                };
            }
            Some(Err(absent @ Failure::Absent { .. })) => absent.to_string(),
            Some(Err(other)) => {
                return Err(other).with_context(|| format!("the sidecar at {}", sidecar.address));
            }
            None => "admin.listen has port 0, so no sidecar can be asked (say --admin)".to_owned(),
        };
        open(config, &why)
    }
}

fn open(config: &Config, why: &str) -> anyhow::Result<Place> {
    let path = &config.outbox.path;
    if !path.join("lock").exists() {
        bail!("{why}, and there is no store at {}", path.display());
    }
    let options = Options {
        limits: config.outbox.limits,
        ..Options::default()
    };
    match Store::open(path, &options, outbox::Metrics::default()) {
        Ok(store) => Ok(Place::Stopped(store.clone(), Events::over(store))),
        Err(OpenError::Held { dir, holder }) => Err(anyhow!(
            "{why}, and the store at {} is held by {holder}",
            dir.display()
        )),
        Err(error) => Err(error).with_context(|| why.to_owned()),
    }
}

impl Place {
    pub async fn get(&self, target: &str) -> anyhow::Result<Value> {
        match self {
            Place::Running(sidecar) => Ok(sidecar.get(target).await?),
            Place::Stopped(_, events) => Ok(store::ask(events, &Method::GET, target, b"").await?),
        }
    }

    /// Asks for a change, in the name of whoever types.
    pub async fn post(&self, path: &str, body: Bytes) -> anyhow::Result<Value> {
        let target = format!("{path}?who={}", escaped(&user()));
        match self {
            Place::Running(sidecar) => Ok(sidecar.post(&target, body).await?),
            Place::Stopped(_, events) => {
                Ok(store::ask(events, &Method::POST, &target, &body).await?)
            }
        }
    }

    /// Lets go of the store, if it was opened.
    async fn leave(self) {
        if let Place::Stopped(store, _) = self {
            store.close().await;
        }
    }
}

fn user() -> String {
    let said = ["SUDO_USER", "USER", "LOGNAME"].into_iter();
    let found = said.filter_map(|name| env::var(name).ok());
    found
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown user".to_owned())
}

/// A value for a query.
pub(super) fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
