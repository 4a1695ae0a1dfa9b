//! The machine's own way of looking up names: its name servers and its hosts file, read again when they change.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{
        ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use tracing::{info, warn};

use super::{answer::Outcome, hosts_file::HostsFile, resolv_conf::ResolvConf};

/// Where the machine says how names are looked up.
#[derive(Debug, Clone)]
pub struct Files {
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Files {
            resolv_conf: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
        }
    }
}

/// The two files and what they said last.
pub struct System {
    resolv_conf: Mutex<Kept<Resolvers>>,
    hosts: Mutex<Kept<HostsFile>>,
}

/// Name servers that can be asked.
pub(super) struct Resolvers {
    conf: ResolvConf,
    resolver: TokioResolver,
}

impl System {
    /// Reads both files. One that cannot be read counts as empty: then 127.0.0.1 is asked, as glibc does.
    pub fn new(files: Files) -> Result<Self, NetError> {
        let conf = Kept::new(files.resolv_conf, |text| {
            Resolvers::new(ResolvConf::parse(text))
        })?;
        let hosts = Kept::new(files.hosts, |text| {
            Ok::<_, NetError>(HostsFile::parse(text))
        })?;
        Ok(System {
            resolv_conf: Mutex::new(conf),
            hosts: Mutex::new(hosts),
        })
    }

    pub(super) fn resolvers(&self) -> Arc<Resolvers> {
        let mut kept = self
            .resolv_conf
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.current(|text| Resolvers::new(ResolvConf::parse(text)))
    }

    pub(super) fn hosts(&self) -> Arc<HostsFile> {
        let mut kept = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        kept.current(|text| Ok::<_, NetError>(HostsFile::parse(text)))
    }
}

impl Resolvers {
    fn new(conf: ResolvConf) -> Result<Self, NetError> {
        let servers = conf.servers.iter().map(|server| {
            let on_port = |mut connection: ConnectionConfig| {
                connection.port = server.port();
                connection
            };
            // TCP takes over when a UDP answer is cut short.
            let connections = match conf.tcp_only {
                true => vec![on_port(ConnectionConfig::tcp())],
                false => vec![
                    on_port(ConnectionConfig::udp()),
                    on_port(ConnectionConfig::tcp()),
                ],
            };
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut options = ResolverOpts::default();
        options.timeout = conf.timeout;
        // The library counts the tries after the first.
        options.attempts = conf.attempts.saturating_sub(1);
        // Answers are kept here, for as long as they hold; a second cache could only make them late.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.server_ordering_strategy = match conf.rotate {
            true => ServerOrderingStrategy::RoundRobin,
            false => ServerOrderingStrategy::QueryStatistics,
        };
        let resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
        Ok(Resolvers {
            resolver: resolver.with_options(options).build()?,
            conf,
        })
    }

    pub(super) fn candidates(&self, host: &str) -> Vec<Name> {
        self.conf.candidates(host)
    }

    /// Asks one question about a full name. Takes at most `timeout` for each of the attempts that the file allows.
    pub(super) async fn ask(&self, name: &Name, kind: RecordType) -> Outcome {
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(lookup) => {
                let records = lookup.answers();
                let addresses: Vec<_> = records
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect();
                // An alias may hold for less long than what it leads to.
                let ttl = records.iter().map(|record| record.ttl).min();
                let ttl = ttl.map(|seconds| Duration::from_secs(seconds.into()));
                match addresses.is_empty() {
                    true => Outcome::None(ttl),
                    false => Outcome::Found(addresses, ttl.unwrap_or_default()),
                }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NXDomain | ResponseCode::NoError,
                negative_ttl,
                ..
            }))) => Outcome::None(negative_ttl.map(|seconds| Duration::from_secs(seconds.into()))),
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }
}

/// A file's meaning, made anew when the file has changed.
struct Kept<T> {
    path: PathBuf,
    stamp: Option<Stamp>,
    meaning: Arc<T>,
}

/// Tells a changed file from an unchanged one without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

impl<T> Kept<T> {
    fn new<E>(path: PathBuf, meaning: impl Fn(&str) -> Result<T, E>) -> Result<Self, E> {
        let stamp = Stamp::of(&path);
        let text = fs::read(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "file cannot be read, it counts as empty");
            Vec::new()
        });
        let meaning = Arc::new(meaning(&String::from_utf8_lossy(&text))?);
        Ok(Kept {
            path,
            stamp,
            meaning,
        })
    }

    /// A file that is gone or cannot be read keeps its last meaning: it may be in the middle of being replaced.
    fn current<E: std::fmt::Display + From<io::Error>>(
        &mut self,
        meaning: impl Fn(&str) -> Result<T, E>,
    ) -> Arc<T> {
        let stamp = Stamp::of(&self.path);
        if stamp.is_some() && stamp != self.stamp {
            let read = fs::read(&self.path).map_err(E::from);
            match read.and_then(|text| meaning(&String::from_utf8_lossy(&text))) {
                Ok(meaning) => {
                    info!(path = %self.path.display(), "file has changed");
                    self.meaning = Arc::new(meaning);
                }
                Err(error) => {
                    warn!(path = %self.path.display(), %error, "changed file cannot be read")
                }
            }
            self.stamp = stamp;
        }
        Arc::clone(&self.meaning)
    }
}
