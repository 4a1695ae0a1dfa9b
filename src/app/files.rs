//! What the operating system allows us: threads, file descriptors, a file written whole.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    thread,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{config::Workers, discover};

/// Of the file descriptors, this share may be accepted connections: the rest is for upstreams and files.
const SHARE: u64 = 80;

/// How many worker threads: as said, or the CPU limit rounded up, or without a limit the affinity, at most 2.
pub fn workers(said: Workers) -> usize {
    match said {
        Workers::Count(count) => count.get() as usize,
        Workers::Auto => {
            let affinity = thread::available_parallelism().map_or(1, usize::from);
            fitting(cpu_limit(), affinity)
        }
    }
}

/// `available_parallelism` knows cgroup quotas but rounds down.
fn fitting(limit: Option<f64>, affinity: usize) -> usize {
    match limit {
        Some(limit) => (limit.ceil() as usize).max(1),
        None => affinity.min(2),
    }
}

/// The cgroup's CPU limit in cores, of version 2 or 1; none where there is none.
fn cpu_limit() -> Option<f64> {
    let ratio = |quota: &str, period: &str| {
        let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
        (quota > 0.0 && period > 0.0).then_some(quota / period)
    };
    if let Ok(text) = fs::read_to_string("/sys/fs/cgroup/cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        return ratio(quota, period);
    }
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}")).ok();
    ratio(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}

/// Raises the soft limit of file descriptors to the hard one; returns how many connections may be accepted.
pub fn raise() -> io::Result<usize> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum || limit.maximum.is_none() {
        let wanted = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, "the soft limit of file descriptors stays as it is");
        }
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    Ok((files.saturating_mul(SHARE) / 100).max(1) as usize)
}

/// Writes a file so that a reader sees all of it or none.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}

/// Where names are looked up: `WEFT_RESOLV_CONF` and `WEFT_HOSTS` stand in for the files of the machine.
pub fn name_service() -> discover::Files {
    let file = |variable: &str, usual: &str| {
        env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from)
    };
    discover::Files {
        resolv_conf: file("WEFT_RESOLV_CONF", "/etc/resolv.conf"),
        hosts: file("WEFT_HOSTS", "/etc/hosts"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_the_limit_rounded_up_or_two_at_most() {
        for (limit, affinity, workers) in [
            (Some(0.1), 64, 1),
            (Some(1.0), 64, 1),
            (Some(1.5), 1, 2),
            (Some(7.2), 64, 8),
            (None, 1, 1),
            (None, 64, 2),
        ] {
            assert_eq!(fitting(limit, affinity), workers, "{limit:?}, {affinity}");
        }
    }
}
