//! Owns the metrics of the process and writes them as Prometheus text.
//!
//! A room registers its collectors once, when `app` builds it. What only the system knows (memory, open files) is
//! read when somebody asks, never before.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{
    Counter, Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

/// The metrics of the process. Clones are the same registry.
#[derive(Clone)]
pub struct Registry {
    all: prometheus::Registry,
}

impl Registry {
    /// A registry that tells of the process itself.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry {
            all: prometheus::Registry::new(),
        };
        registry.register(Box::new(build_info(version)?))?;
        registry.register(Box::new(Process::new()?))?;
        Ok(registry)
    }

    /// The registry itself, for rooms that declare their metrics.
    pub fn inner(&self) -> &prometheus::Registry {
        &self.all
    }

    /// Adds a collector; an error when one of its names is taken.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        self.all.register(collector)
    }

    /// Everything, in the text format that Prometheus scrapes.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.all.gather())
    }

    /// The type of what [`Registry::text`] returns, for a `content-type` header.
    pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;
}

/// A family of counters that is declared at once; an error means that its name is there already.
pub fn counters(
    registry: &prometheus::Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn build_info(version: &str) -> Result<IntGaugeVec, prometheus::Error> {
    let info = IntGaugeVec::new(
        Opts::new("weft_build_info", "Always 1; the label tells the version"),
        &["version"],
    )?;
    info.with_label_values(&[version]).set(1);
    Ok(info)
}

/// What the system knows of us, under the names that every Prometheus client uses.
struct Process {
    start_time: Gauge,
    cpu: Counter,
    open_fds: IntGauge,
    max_fds: IntGauge,
    resident: IntGauge,
}

impl Process {
    fn new() -> Result<Self, prometheus::Error> {
        let process = Process {
            start_time: Gauge::new(
                "process_start_time_seconds",
                "When the process began, in seconds since 1970",
            )?,
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Processor time spent, user and system",
            )?,
            open_fds: IntGauge::new("process_open_fds", "Open file descriptors")?,
            max_fds: IntGauge::new("process_max_fds", "How many file descriptors may be open")?,
            resident: IntGauge::new("process_resident_memory_bytes", "Memory resident in RAM")?,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        process
            .start_time
            .set(now.map_or(0.0, |since| since.as_secs_f64()));
        Ok(process)
    }

    fn parts(&self) -> [&dyn Collector; 5] {
        [
            &self.start_time,
            &self.cpu,
            &self.open_fds,
            &self.max_fds,
            &self.resident,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().iter().flat_map(|part| part.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(seconds) = cpu_seconds() {
            // A counter can only be added to, and never goes back.
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
        }
        if let Some(bytes) = resident_bytes() {
            self.resident.set(bytes);
        }
        if let Some(count) = open_fds() {
            self.open_fds.set(count);
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds
            .set(limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX)));
        self.parts()
            .iter()
            .flat_map(|part| part.collect())
            .collect()
    }
}

fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn open_fds() -> Option<i64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // Reading the folder opens one more.
    Some(entries as i64 - 1)
}

fn cpu_seconds() -> Option<f64> {
    /// USER_HZ, which Linux shows to programs as 100 whatever the kernel's own tick is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, our name, may hold spaces and brackets; the rest is counted behind its last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::telemetry::{AccessLog, settings};

    fn value(text: &str, name: &str) -> f64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .parse()
            .unwrap()
    }

    #[test]
    fn the_process_is_told_as_it_is() {
        let text = Registry::new("1.2.3").unwrap().text().unwrap();
        assert_eq!(value(&text, "weft_build_info{version=\"1.2.3\"}"), 1.0);
        assert!(value(&text, "process_resident_memory_bytes") > 100_000.0);
        assert!(value(&text, "process_start_time_seconds") > 1.7e9);
        assert!(value(&text, "process_max_fds") >= value(&text, "process_open_fds"));
    }

    #[test]
    fn an_opened_file_is_counted() {
        // Other tests open files as well: as many as this are only ours.
        let files: Vec<_> = (0..200)
            .map(|_| std::fs::File::open("/dev/null").unwrap())
            .collect();
        let text = Registry::new("1").unwrap().text().unwrap();
        assert!(value(&text, "process_open_fds") >= 200.0);
        drop(files);
    }

    #[test]
    fn a_name_is_taken_once() {
        let registry = Registry::new("1").unwrap();
        let gauge = || Box::new(IntGauge::new("weft_a", "A").unwrap());
        registry.register(gauge()).unwrap();
        assert!(registry.register(gauge()).is_err());
    }

    #[test]
    fn promtool_finds_no_fault() {
        let registry = Registry::new("1.2.3").unwrap();
        let (_log, _guard) =
            AccessLog::start(settings::AccessLog::None, &registry, std::io::sink()).unwrap();
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is missing: apt-get install prometheus (`make test` does)");
        let text = registry.text().unwrap();
        let mut stdin = promtool.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let said = promtool.wait_with_output().unwrap();
        assert!(said.status.success(), "{said:?}\n{text}");
    }
}
