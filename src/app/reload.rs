//! A changed file is read whole, checked whole, and taken over whole or not at all.

use std::{path::Path, rc::Rc, time::Duration};

use notify::Watcher;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    House,
    worker::{Order, Worker},
};
use crate::config::{Config, Loaded, restart_only_changes};

/// A file that is written in pieces settles within this time.
const SETTLE: Duration = Duration::from_millis(100);

pub struct Metrics {
    reloads: IntCounterVec,
    last: IntGauge,
}

impl Metrics {
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let reloads = IntCounterVec::new(
            Opts::new(
                "weft_config_reload_total",
                "Times that the routing file was read again, by result.",
            ),
            &["result"],
        )?;
        let last = IntGauge::new(
            "weft_config_last_reload_successful",
            "1 where the file as it stands is in force, 0 where its last change was refused.",
        )?;
        last.set(1);
        registry.register(Box::new(reloads.clone()))?;
        registry.register(Box::new(last.clone()))?;
        Ok(Metrics { reloads, last })
    }

    fn count(&self, result: &str, in_force: bool) {
        self.reloads.with_label_values(&[result]).inc();
        self.last.set(in_force.into());
    }
}

impl House {
    /// Reads the file again. The words say what is in force now.
    pub fn reload_now(&self) -> Result<String, String> {
        let result = self.try_reload();
        match &result {
            Ok(words) => {
                self.reloads.count("success", true);
                tracing::info!(file = %self.file.display(), "{words}");
            }
            Err(why) => {
                self.reloads.count("failure", false);
                tracing::error!(file = %self.file.display(), "reload refused, the last good file stays in force:\n{why}");
            }
        }
        result
    }

    /// Returns once every worker has done what it was ordered so far.
    pub async fn workers_follow(&self) {
        let asked: Vec<_> = self.workers.borrow().iter().map(Worker::done).collect();
        for done in asked {
            // An error says that the worker has ended.
            let _ = done.await;
        }
    }

    fn try_reload(&self) -> Result<String, String> {
        let loaded = Config::load(&self.file).map_err(|diagnostics| diagnostics.to_string())?;
        if loaded.config == self.loaded.borrow().config {
            *self.loaded.borrow_mut() = loaded;
            // The files that it names may have changed.
            let renewed = self
                .upstreams
                .renew()
                .map_err(|error| format!("{error}; the last good files of that upstream go on"))?;
            let renewed: Vec<_> = renewed.iter().map(|name| name.as_str()).collect();
            return Ok(match renewed.is_empty() {
                true => "reloaded: nothing changed".to_owned(),
                false => format!("reloaded: new TLS files of {}", renewed.join(", ")),
            });
        }
        let fixed = restart_only_changes(&self.loaded.borrow().config, &loaded.config);
        if !fixed.is_empty() {
            return Err(format!(
                "{} cannot change without a restart",
                fixed.join(", ")
            ));
        }
        self.take_over(loaded)?;
        Ok("reloaded".to_owned())
    }

    fn take_over(&self, loaded: Loaded) -> Result<(), String> {
        let workers = self.workers.borrow().len();
        let opened = self
            .listeners
            .borrow_mut()
            .follow(&loaded.config, workers)
            .map_err(|error| error.to_string())?;
        self.upstreams
            .own(self.listeners.borrow().addresses().into());
        let plans = match self.plans(&loaded.config) {
            Ok(plans) => plans,
            Err(error) => {
                self.listeners.borrow_mut().forget(&opened);
                return Err(error.to_string());
            }
        };
        self.access.want(loaded.config.telemetry.access_log);
        self.vault.retune(loaded.config.outbox.limits);
        self.open_outbox(&plans);
        for worker in self.workers.borrow().iter() {
            worker.give(Order::Follow(plans.clone()));
        }
        if let Some(deliverer) = &*self.deliverer.borrow() {
            deliverer.follow(&plans.outbound);
        }
        self.deal(opened);
        for address in self.listeners.borrow_mut().drop_others(&loaded.config) {
            for worker in self.workers.borrow().iter() {
                worker.give(Order::Close(address));
            }
        }
        *self.loaded.borrow_mut() = loaded;
        Ok(())
    }
}

/// Reloads on SIGHUP and when the file changes, a ConfigMap's symlink swap included.
pub async fn watch(house: Rc<House>) {
    let (changed, mut changes) = mpsc::channel(1);
    let _watcher = match watcher(&house.file, changed) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "the file is not watched; SIGHUP and POST /reload still read it");
            None
        }
    };
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        return;
    };
    // Of a file that was refused: it is not read again because something beside it changes.
    let mut refused = None;
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            Some(()) = changes.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                let text = std::fs::read_to_string(&house.file).ok();
                let in_force = text.as_deref() == Some(&*house.loaded.borrow().text);
                if in_force || text.is_some() && text == refused {
                    continue;
                }
            }
        }
        let before = std::fs::read_to_string(&house.file).ok();
        refused = house.reload_now().err().and(before);
    }
}

/// Watches the folder: a rename or a symlink swap leaves nothing of the old file to watch.
fn watcher(file: &Path, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full means that a reload is due already.
            let _ = changed.try_send(());
        }
    })?;
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
