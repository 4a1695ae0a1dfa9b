//! The binary under test, as a process with a folder of its own.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::chown,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, Call, DEADLINE, POLL, wait_for};

/// Keys that a story need not write, so that two stories never meet on a port or in a store.
///
/// A story that writes `outbound:` or `inbound:` itself says `listen: "127.0.0.1:0"` as well.
const UNSAID: &[(&str, &str)] = &[
    ("version", "version: weft/v1"),
    ("workers", "workers: 2"),
    ("inbound", "inbound: { listen: \"127.0.0.1:0\" }"),
    ("outbound", "outbound: { listen: \"127.0.0.1:0\" }"),
    ("outbox", "outbox: { path: \"${WEFT_DIR}/outbox\" }"),
    (
        "admin",
        "admin: { listen: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\" }",
    ),
    ("shutdown", "shutdown: { lameDuck: 100ms, grace: 5s }"),
    ("telemetry", "telemetry: { accessLog: all }"),
];

const BINARY: &str = env!("CARGO_BIN_EXE_weft");

/// A running sidecar. Dropping it kills the process and removes the folder; a failing test shows its logs first.
pub struct Weft {
    folder: TempDir,
    environment: Vec<(String, String)>,
    process: Option<Process>,
    addresses: BTreeMap<String, Value>,
    descriptors: Option<u32>,
    user: Option<u32>,
    unread: bool,
    /// The most that [`Weft::peak_memory`] has told of this process.
    peak: AtomicU64,
}

struct Process {
    child: Child,
    /// The access log's end of the pipe, where nobody reads it.
    _unread: Option<ChildStdout>,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<thread::JoinHandle<()>>,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A start that did not come to readiness.
#[derive(Debug)]
pub struct Failed {
    /// None: it neither got ready nor ended.
    pub status: Option<ExitStatus>,
    pub stderr: String,
}

impl Weft {
    /// Starts with this file and returns when `/ready` says 200. Common indentation and unsaid keys are no matter.
    ///
    /// `${WEFT_DIR}` in the file is a folder of this sidecar's own.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Weft::start_with(yaml, &[])
    }

    /// The same with environment variables.
    #[track_caller]
    pub fn start_with(yaml: &str, environment: &[(&str, &str)]) -> Self {
        match Weft::try_start(yaml, environment) {
            Ok(weft) => weft,
            Err(failed) => panic!("weft did not start: {:?}\n{}", failed.status, failed.stderr),
        }
    }

    /// The next start has no environment variables but those of every test.
    pub fn disarm(&mut self) {
        self.environment.clear();
    }

    /// The same for a start that may fail.
    pub fn try_start(yaml: &str, environment: &[(&str, &str)]) -> Result<Self, Failed> {
        let mut weft = Weft::folder(yaml);
        for (name, value) in environment {
            weft.environment
                .push(((*name).to_owned(), (*value).to_owned()));
        }
        weft.launch()?;
        Ok(weft)
    }

    /// The same with at most so many file descriptors, and no right to more.
    #[track_caller]
    pub fn start_within(descriptors: u32, yaml: &str) -> Self {
        let mut weft = Weft::folder(yaml);
        weft.descriptors = Some(descriptors);
        if let Err(failed) = weft.launch() {
            panic!("weft did not start: {:?}\n{}", failed.status, failed.stderr);
        }
        weft
    }

    /// The same with an access log that nobody reads: its pipe fills.
    #[track_caller]
    pub fn start_unread(yaml: &str) -> Self {
        let mut weft = Weft::folder(yaml);
        weft.unread = true;
        if let Err(failed) = weft.launch() {
            panic!("weft did not start: {:?}\n{}", failed.status, failed.stderr);
        }
        weft
    }

    /// A folder with a routing file and no process yet: for commands, and for a later [`Weft::launch`].
    pub fn folder(yaml: &str) -> Self {
        let weft = Weft {
            folder: tempfile::Builder::new()
                .prefix("weft-test-")
                .tempdir()
                .expect("a temporary folder"),
            environment: Vec::new(),
            process: None,
            addresses: BTreeMap::new(),
            descriptors: None,
            user: None,
            unread: false,
            peak: AtomicU64::new(0),
        };
        weft.write_config(yaml);
        weft
    }

    /// Starts with this file and returns when it listens, though `/ready` may say 503: for want of an identity, say.
    #[track_caller]
    pub fn start_unready(yaml: &str) -> Self {
        let mut weft = Weft::folder(yaml);
        match weft.launch_until(|_| true) {
            Ok(()) => weft,
            Err(failed) => panic!(
                "weft does not listen: {:?}\n{}",
                failed.status, failed.stderr
            ),
        }
    }

    /// Starts the process in its folder and waits until it is ready.
    pub fn launch(&mut self) -> Result<(), Failed> {
        self.launch_until(Weft::is_ready)
    }

    fn launch_until(&mut self, so: impl Fn(&Weft) -> bool) -> Result<(), Failed> {
        assert!(self.process.is_none(), "it runs already");
        let ready = self.folder.path().join("ready.json");
        self.peak.store(0, Ordering::Relaxed);
        // A file of the run before would tell its addresses.
        let _ = fs::remove_file(&ready);
        let run = ["run", "-c", "weft.yaml"];
        let mut command = match self.descriptors {
            None => self.command(&run),
            Some(most) => {
                // The shell lowers the hard limit too, then becomes the binary.
                let mut shell = self.dressed(Path::new("sh"));
                let words = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
                shell.args(["-c", &words, BINARY]).args(run);
                shell
            }
        };
        let mut child = command
            .env("WEFT_READY_FILE", &ready)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary under test runs");
        let (stderr, reader) = follow(child.stderr.take().expect("piped"));
        let (mut readers, mut stdout) = (vec![reader], Lines::default());
        let mut unread = child.stdout.take();
        if !self.unread {
            let (lines, reader) = follow(unread.take().expect("piped"));
            readers.push(reader);
            stdout = lines;
        }
        self.process = Some(Process {
            child,
            _unread: unread,
            stdout,
            stderr,
            readers,
        });
        let begin = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                let process = self.process.take().expect("just started");
                return Err(process.failed(Some(status)));
            }
            if self.addresses_from(&ready) && so(self) {
                return Ok(());
            }
            if begin.elapsed() > DEADLINE {
                let mut process = self.process.take().expect("just started");
                process.kill();
                return Err(process.failed(None));
            }
            thread::sleep(POLL);
        }
    }

    /// The binary with these arguments, in this sidecar's folder and environment; for commands other than `run`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match self.user {
            None => self.dressed(BINARY.as_ref()),
            Some(user) => {
                let mut command = self.dressed(&self.copy());
                command.uid(user).gid(user);
                command
            }
        };
        command.args(arguments);
        command
    }

    fn dressed(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env("WEFT_DIR", self.folder.path())
            .env("XDG_STATE_HOME", self.folder.path().join("state"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// From now on it runs as this user, which takes root to say, and in a folder of that user's.
    ///
    /// Runs a copy of the binary: its own folder may be closed to others.
    #[track_caller]
    pub fn run_as(&mut self, user: u32) {
        // Not by our own hand: a process that another test starts meanwhile would hold the copy open for writing, and it
        // could not be run (ETXTBSY).
        let copied = Command::new("cp")
            .args([BINARY.as_ref(), self.copy().as_path()])
            .status();
        assert!(
            copied.is_ok_and(|status| status.success()),
            "no room for a copy"
        );
        for path in [self.folder.path(), &self.config_path()] {
            chown(path, Some(user), Some(user)).expect("only root may run as another");
        }
        self.user = Some(user);
    }

    fn copy(&self) -> PathBuf {
        self.folder.path().join("weft")
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn config_path(&self) -> PathBuf {
        self.folder.path().join("weft.yaml")
    }

    /// Writes the routing file as an editor would: whole, in one step.
    pub fn write_config(&self, yaml: &str) {
        let draft = self.folder.path().join("weft.yaml.draft");
        fs::write(&draft, completed(yaml)).expect("the folder can be written");
        fs::rename(draft, self.config_path()).expect("one file system");
    }

    fn addresses_from(&mut self, ready: &Path) -> bool {
        let Ok(text) = fs::read(ready) else {
            return false;
        };
        let listeners =
            serde_json::from_slice(&text).expect("the ready file is written in one step");
        self.addresses = listeners;
        true
    }

    /// The address of a listener by its name in `GET /listeners`: `upstreams.payments`, `inbound.ports.7000`.
    #[track_caller]
    pub fn address(&self, name: &str) -> String {
        let found = match self.addresses.get(name) {
            Some(Value::Array(several)) => several.first(),
            found => found,
        };
        match found.and_then(Value::as_str) {
            Some(address) => address.to_owned(),
            None => panic!("no listener `{name}` among {:?}", self.addresses),
        }
    }

    #[track_caller]
    pub fn outbound(&self) -> String {
        self.address("outbound")
    }

    #[track_caller]
    pub fn inbound(&self) -> String {
        self.address("inbound")
    }

    /// The `listen` of an upstream.
    #[track_caller]
    pub fn upstream(&self, name: &str) -> String {
        self.address(&format!("upstreams.{name}"))
    }

    #[track_caller]
    pub fn admin(&self) -> String {
        self.address("admin")
    }

    #[track_caller]
    pub fn metrics_address(&self) -> String {
        self.address("metrics")
    }

    /// What admin says, as JSON.
    #[track_caller]
    pub fn admin_get(&self, path: &str) -> Value {
        let answer = Call::get(path).send(&self.admin());
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    #[track_caller]
    pub fn admin_post(&self, path: &str, body: &str) -> Answer {
        Call::post(path, body).send(&self.admin())
    }

    pub fn is_ready(&self) -> bool {
        let answer = Call::get("/ready").try_send(&self.metrics_address());
        answer.is_ok_and(|answer| answer.status == 200)
    }

    #[track_caller]
    pub fn metrics(&self) -> String {
        let answer = Call::get("/metrics").send(&self.metrics_address());
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// A metric's value: `weft_requests_total{route="charge"}`. Labels left out match any; what matches is summed.
    #[track_caller]
    pub fn metric(&self, wanted: &str) -> f64 {
        value_of(&self.metrics(), wanted)
    }

    /// Waits until a metric has a value that will do.
    #[track_caller]
    pub fn wait_for_metric(&self, wanted: &str, mut will_do: impl FnMut(f64) -> bool) {
        wait_for(wanted, || will_do(self.metric(wanted)).then_some(()));
    }

    /// Waits until a metric has exactly this value: some are counted a moment after the client has its bytes.
    #[track_caller]
    pub fn assert_metric(&self, wanted: &str, value: f64) {
        let begin = Instant::now();
        loop {
            let last = self.metric(wanted);
            if last == value {
                return;
            }
            assert!(
                begin.elapsed() < DEADLINE,
                "{wanted} is {last}, not {value}\n{}",
                self.logs()
            );
            thread::sleep(POLL);
        }
    }

    /// Our own logs so far (stderr).
    pub fn logs(&self) -> String {
        self.process
            .as_ref()
            .map_or_else(String::new, |process| joined(&process.stderr))
    }

    /// Waits for a line of the logs that holds `part`.
    #[track_caller]
    pub fn wait_for_log(&self, part: &str) -> String {
        wait_for(&format!("a log line with {part:?}"), || {
            let logs = self.logs();
            let line = logs.lines().find(|line| line.contains(part));
            line.map(str::to_owned)
        })
    }

    /// The access log so far (stdout), line by line.
    pub fn access_log(&self) -> Vec<Value> {
        let Some(process) = &self.process else {
            return Vec::new();
        };
        let lines = process.stdout.lock().expect("no panic here");
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for an access-log line that will do.
    #[track_caller]
    pub fn wait_for_access(&self, will_do: impl Fn(&Value) -> bool) -> Value {
        wait_for("an access-log line", || {
            self.access_log().into_iter().find(&will_do)
        })
    }

    #[track_caller]
    pub fn pid(&self) -> Pid {
        let process = self.process.as_ref().expect("it runs");
        Pid::from_child(&process.child)
    }

    /// Peak resident memory in bytes, as far as it was asked for.
    ///
    /// Linux counts pages by processor and adds up roughly: now and then it tells a little less than before.
    #[track_caller]
    pub fn peak_memory(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        let bytes = kib.expect("Linux tells the peak") * 1024;
        self.peak.fetch_max(bytes, Ordering::Relaxed).max(bytes)
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// SIGTERM; see [`Weft::wait_for_exit`].
    #[track_caller]
    pub fn term(&self) {
        self.signal(Signal::TERM);
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        let process = self.process.as_mut()?;
        process.child.try_wait().expect("our own child")
    }

    #[track_caller]
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        wait_for("the exit", || self.exited())
    }

    /// Waits until it has ended by itself; [`Weft::launch`] may follow.
    #[track_caller]
    pub fn wait_until_gone(&mut self) {
        self.wait_for_exit();
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGKILL, as the kernel's out-of-memory killer would. The folder stays.
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill();
        let status = process.child.wait().expect("our own child");
        assert_eq!(status.signal(), Some(9), "it had ended before: {status}");
    }

    /// Starts again in the same folder; what still runs is killed first. Port 0 means new addresses.
    #[track_caller]
    pub fn restart(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
        if let Err(failed) = self.launch() {
            panic!(
                "weft did not start again: {:?}\n{}",
                failed.status, failed.stderr
            );
        }
    }

    /// Writes the file and asks for a reload, which must succeed.
    #[track_caller]
    pub fn reload(&mut self, yaml: &str) {
        let answer = self.try_reload(yaml);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The same for a reload that may be refused; the answer says why.
    #[track_caller]
    pub fn try_reload(&mut self, yaml: &str) -> Answer {
        self.write_config(yaml);
        let answer = self.admin_post("/reload", "");
        let listeners = Call::get("/listeners").send(&self.admin());
        if let Ok(listeners) = serde_json::from_slice(&listeners.body) {
            self.addresses = listeners;
        }
        answer
    }
}

impl Drop for Weft {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        process.kill();
        if thread::panicking() {
            eprintln!("--- weft's access log\n{}", joined(&process.stdout));
            eprintln!("--- weft's log\n{}", joined(&process.stderr));
        }
    }
}

impl Process {
    /// Ends it for certain, and reads what it said last.
    fn kill(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    fn failed(mut self, status: Option<ExitStatus>) -> Failed {
        self.kill();
        Failed {
            status,
            stderr: joined(&self.stderr),
        }
    }
}

fn follow(output: impl Read + Send + 'static) -> (Lines, thread::JoinHandle<()>) {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            kept.lock().expect("no panic here").push(line);
        }
    });
    (lines, reader)
}

fn joined(lines: &Lines) -> String {
    lines.lock().expect("no panic here").join("\n")
}

/// The file with its common indentation off and what it does not say added.
fn completed(yaml: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let full = || yaml.lines().filter(|line| !line.trim().is_empty());
    let margin = full().map(indent).min().unwrap_or(0);
    let mut lines: Vec<String> = yaml
        .lines()
        .map(|line| line.get(margin..).unwrap_or_default().to_owned())
        .collect();
    for (key, text) in UNSAID {
        let key = format!("{key}:");
        if !lines.iter().any(|line| line.starts_with(&key)) {
            lines.push((*text).to_owned());
        }
    }
    lines.join("\n") + "\n"
}

fn value_of(metrics: &str, wanted: &str) -> f64 {
    let (name, labels) = parts_of(wanted);
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(sample, _)| {
            let (found, has) = parts_of(sample);
            found == name && labels.iter().all(|label| has.contains(label))
        })
        .map(|(_, value)| value.parse::<f64>().expect("a sample is a number"))
        .sum()
}

/// A sample's name and its `label="value"` pairs. Values with a comma in them are not expected here.
fn parts_of(sample: &str) -> (&str, Vec<&str>) {
    let Some((name, rest)) = sample.split_once('{') else {
        return (sample, Vec::new());
    };
    (
        name,
        rest.trim_end_matches('}')
            .split(',')
            .map(str::trim)
            .collect(),
    )
}

#[test]
fn a_metric_is_summed_over_the_labels_left_out() {
    let text = "# HELP a A\na{x=\"1\",y=\"2\"} 3\na{x=\"1\",y=\"3\"} 4\nab 9\n";
    assert_eq!(value_of(text, "a{x=\"1\"}"), 7.0);
    assert_eq!(value_of(text, "a{y=\"3\",x=\"1\"}"), 4.0);
    assert_eq!(value_of(text, "ab"), 9.0);
    assert_eq!(value_of(text, "b"), 0.0);
}

#[test]
fn a_file_is_completed_with_what_it_does_not_say() {
    let file = completed("\n    admin: { listen: here }\n    outbound:\n      unknown: deny\n");
    assert!(file.contains("\noutbound:\n  unknown: deny\n"), "{file}");
    assert_eq!(file.matches("admin:").count(), 1);
    assert!(file.contains("version: weft/v1"));
}
