//! The demo's processes: three replicas of a service, each with its sidecar, and the caller's sidecar.
//!
//! Children write their charges to one pipe, so that the order of its lines is the order of the charges. Dropping
//! the cast kills every child and removes the folder.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader, PipeWriter},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use http::Method;
use serde_json::{Value, json};

use super::web::{self, Answer};

const REPLICAS: usize = 3;
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a child may take to stand.
const START: Duration = Duration::from_secs(15);

/// One charge that a replica made.
#[derive(Debug, Clone)]
pub struct Charge {
    pub replica: usize,
    pub customer: String,
    pub number: usize,
}

/// What the children said.
#[derive(Default)]
struct Heard {
    charges: Vec<Charge>,
    services: BTreeMap<usize, SocketAddr>,
}

pub struct Cast {
    folder: Folder,
    binary: PathBuf,
    heard: Arc<Mutex<Heard>>,
    pipe: PipeWriter,
    replicas: Vec<Replica>,
    orders: Option<Running>,
    listeners: Value,
}

/// One pod of payments: the service and its sidecar, on ports that stay over restarts.
struct Replica {
    running: Vec<Running>,
    service: Option<SocketAddr>,
    sidecar: Option<SocketAddr>,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Cast {
    pub async fn assemble() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("weft-demo-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let (reader, pipe) = std::io::pipe()?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let ear = heard.clone();
        std::thread::spawn(move || listen(BufReader::new(reader), &ear));
        let mut cast = Cast {
            folder: Folder(folder),
            binary: std::env::current_exe().context("where this binary is")?,
            heard,
            pipe,
            replicas: (0..REPLICAS)
                .map(|_| Replica {
                    running: Vec::new(),
                    service: None,
                    sidecar: None,
                })
                .collect(),
            orders: None,
            listeners: Value::Null,
        };
        cast.start_payments().await?;
        cast.start_orders().await?;
        Ok(cast)
    }

    pub fn file(&self) -> PathBuf {
        self.path("orders.yaml")
    }

    pub fn outbound(&self) -> SocketAddr {
        self.address("outbound")
    }

    pub fn admin(&self) -> SocketAddr {
        self.address("admin")
    }

    fn address(&self, name: &str) -> SocketAddr {
        let said = match &self.listeners[name] {
            Value::Array(several) => several.first().and_then(Value::as_str),
            one => one.as_str(),
        };
        said.and_then(|text| text.parse().ok())
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.0.join(name)
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts every replica that does not run, where it ran before.
    pub async fn start_payments(&mut self) -> anyhow::Result<()> {
        for number in 0..REPLICAS {
            if !self.replicas[number].running.is_empty() {
                continue;
            }
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let at = self.replicas[number].service.unwrap_or(any);
            self.heard().services.remove(&number);
            let service = self.service(number, at)?;
            let address = self.stands(number).await?;
            let listen = self.replicas[number].sidecar.unwrap_or(any);
            let yaml = serde_yaml::to_string(&json!({
                "service": { "name": "payments" },
                "workers": 1,
                "admin": { "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0" },
                "outbound": { "listen": "none" },
                "inbound": { "listen": listen, "app": address },
            }))?;
            let (sidecar, listeners) = self.sidecar(&format!("payments-{number}"), &yaml).await?;
            let real = listeners["inbound"][0]
                .as_str()
                .and_then(|text| text.parse().ok());
            let replica = &mut self.replicas[number];
            replica.running = vec![service, sidecar];
            replica.service = Some(address);
            replica.sidecar =
                Some(real.ok_or_else(|| {
                    anyhow!("a sidecar without an inbound listener: {listeners}")
                })?);
        }
        Ok(())
    }

    async fn start_orders(&mut self) -> anyhow::Result<()> {
        let yaml = self.orders_yaml(false)?;
        let (running, listeners) = self.sidecar("orders", &yaml).await?;
        self.orders = Some(running);
        self.listeners = listeners;
        Ok(())
    }

    fn orders_yaml(&self, deferred: bool) -> anyhow::Result<String> {
        let endpoints: Vec<_> = self
            .replicas
            .iter()
            .filter_map(|replica| replica.sidecar)
            .collect();
        let mut route = json!({
            "name": "charge",
            "hosts": ["payments"],
            "matches": [{ "method": "POST", "path": { "exact": "/charge" } }],
            "retry": { "attempts": 3, "conditions": ["connect", "refused", "503"], "methods": ["POST"] },
            "backends": [{ "upstream": "payments" }],
        });
        if deferred {
            route["defer"] = deferral();
        }
        let file = json!({
            "version": "weft/v1",
            "service": { "name": "orders" },
            "workers": 1,
            "admin": { "listen": "127.0.0.1:0", "metrics": "127.0.0.1:0" },
            "inbound": { "listen": "none" },
            "outbox": { "path": self.path("outbox") },
            "outbound": { "listen": "127.0.0.1:0", "routes": [route] },
            "upstreams": {
                "payments": {
                    "endpoints": { "static": endpoints },
                },
            },
        });
        Ok(serde_yaml::to_string(&file)?)
    }

    /// What is added to the route, as it stands in the file.
    pub fn deferral(&self) -> anyhow::Result<String> {
        Ok(serde_yaml::to_string(&json!({ "defer": deferral() }))?)
    }

    /// Adds `defer` to the route and waits until the running sidecar has taken it over.
    pub async fn defer(&mut self) -> anyhow::Result<()> {
        let yaml = self.orders_yaml(true)?;
        fs::write(self.file(), yaml)?;
        let answer = web::ask(
            self.admin(),
            Method::POST,
            &self.admin().to_string(),
            "/reload",
            &[],
            "",
        )
        .await?;
        if answer.status != 200 {
            bail!("the reload was refused: {}", answer.body);
        }
        Ok(())
    }

    pub fn kill_payments(&mut self) {
        for replica in &mut self.replicas {
            replica.running.clear();
        }
    }

    pub fn replica_fails(&self, number: usize) {
        let _ = File::create(self.fails(number));
    }

    pub fn replica_recovers(&self, number: usize) {
        let _ = fs::remove_file(self.fails(number));
    }

    fn fails(&self, number: usize) -> PathBuf {
        self.path(&format!("payments-{number}.fails"))
    }

    fn service(&self, number: usize, at: SocketAddr) -> anyhow::Result<Running> {
        let child = Command::new(&self.binary)
            .arg("demo-service")
            .args([number.to_string(), at.to_string()])
            .arg(self.fails(number))
            .stdin(Stdio::null())
            .stdout(self.pipe.try_clone()?)
            .spawn()
            .context("starting a service")?;
        Ok(Running(child))
    }

    async fn stands(&self, number: usize) -> anyhow::Result<SocketAddr> {
        self.until("a service listens", START, |cast| {
            cast.heard().services.contains_key(&number)
        })
        .await?;
        self.heard()
            .services
            .get(&number)
            .copied()
            .context("a service that listened is gone")
    }

    async fn sidecar(&self, name: &str, yaml: &str) -> anyhow::Result<(Running, Value)> {
        let file = self.path(&format!("{name}.yaml"));
        fs::write(&file, yaml)?;
        let ready = self.path(&format!("{name}.ready"));
        let _ = fs::remove_file(&ready);
        let log = File::create(self.path(&format!("{name}.log")))?;
        let child = Command::new(&self.binary)
            .arg("run")
            .arg("-c")
            .arg(&file)
            .env("WEFT_READY_FILE", &ready)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting a sidecar")?;
        let running = Running(child);
        self.until(&format!("the sidecar of {name} listens"), START, |_| {
            ready.exists()
        })
        .await?;
        let listeners = serde_json::from_slice(&fs::read(&ready)?)?;
        Ok((running, listeners))
    }

    /// Looks until `holds`, at most `patience`.
    pub async fn until(
        &self,
        what: &str,
        patience: Duration,
        holds: impl Fn(&Self) -> bool,
    ) -> anyhow::Result<()> {
        let look = async {
            while !holds(self) {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(patience, look)
            .await
            .map_err(|_| anyhow!("not within {patience:?}: {what}"))
    }

    /// The call that orders makes.
    pub async fn charge(
        &self,
        customer: &str,
        number: usize,
        amount: &str,
    ) -> anyhow::Result<Answer> {
        let body = format!("{customer} {number} {amount}");
        let headers = [("x-customer", customer), ("content-type", "text/plain")];
        web::ask(
            self.outbound(),
            Method::POST,
            "payments",
            "/charge",
            &headers,
            &body,
        )
        .await
    }

    pub async fn admin_json(&self, path: &str) -> anyhow::Result<Value> {
        let admin = self.admin();
        let answer = web::ask(admin, Method::GET, &admin.to_string(), path, &[], "").await?;
        serde_json::from_str(&answer.body).with_context(|| format!("GET {path}: {}", answer.body))
    }

    pub async fn metrics(&self) -> anyhow::Result<String> {
        let metrics = self.address("metrics");
        Ok(web::ask(
            metrics,
            Method::GET,
            &metrics.to_string(),
            "/metrics",
            &[],
            "",
        )
        .await?
        .body)
    }

    /// Runs a command of this binary against orders' sidecar.
    pub async fn weft(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(&self.binary)
            .args(words)
            .args(["--admin", &self.admin().to_string()])
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            bail!(
                "weft {}: {}",
                words.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The id of the one dead letter.
    pub async fn dead_letter(&self) -> anyhow::Result<String> {
        let letters = self.weft(&["dlq", "ls", "--json"]).await?;
        let listed: Value = serde_json::from_str(&letters)?;
        let id = listed[0]["id"].as_str();
        id.map(str::to_owned)
            .with_context(|| format!("no dead letter: {letters}"))
    }

    pub fn body_file(&self, body: &str) -> anyhow::Result<String> {
        let path = self.path("fixed.txt");
        fs::write(&path, body)?;
        Ok(path.display().to_string())
    }

    pub fn charged(&self) -> Vec<Charge> {
        self.heard().charges.clone()
    }

    pub fn forget_charges(&self) {
        self.heard().charges.clear();
    }

    pub fn delivered(&self) -> usize {
        self.heard().charges.len()
    }

    pub fn has_charged(&self, number: usize) -> bool {
        self.heard()
            .charges
            .iter()
            .any(|charge| charge.number == number)
    }

    /// Each customer's numbers as they were charged; an error where one came before an earlier one.
    pub fn in_order_by_customer(
        &self,
    ) -> Result<BTreeMap<String, Vec<usize>>, BTreeMap<String, Vec<usize>>> {
        let mut by_customer = BTreeMap::<String, Vec<usize>>::new();
        for charge in &self.heard().charges {
            by_customer
                .entry(charge.customer.clone())
                .or_default()
                .push(charge.number);
        }
        match by_customer.values().all(|numbers| numbers.is_sorted()) {
            true => Ok(by_customer),
            false => Err(by_customer),
        }
    }

    /// The sidecars' logs, for when something went wrong.
    pub fn show_logs(&self) {
        let logs = fs::read_dir(&self.folder.0)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for log in logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        {
            print_tail(&log);
        }
    }
}

fn deferral() -> Value {
    json!({ "key": "request.headers[\"x-customer\"]", "deliver": { "attempts": 5, "timeout": "5s" } })
}

fn print_tail(log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("{}:", log.display());
    for line in &lines[lines.len().saturating_sub(20)..] {
        eprintln!("  {line}");
    }
}

/// Reads what services say: `listening REPLICA ADDRESS`, `charged REPLICA CUSTOMER NUMBER`.
fn listen(lines: impl BufRead, heard: &Mutex<Heard>) {
    for line in lines.lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        match words.as_slice() {
            ["listening", replica, address] => {
                if let (Ok(replica), Ok(address)) = (replica.parse(), address.parse()) {
                    heard.services.insert(replica, address);
                }
            }
            ["charged", replica, customer, number] => {
                if let (Ok(replica), Ok(number)) = (replica.parse(), number.parse()) {
                    heard.charges.push(Charge {
                        replica,
                        customer: (*customer).to_owned(),
                        number,
                    });
                }
            }
            _ => {}
        }
    }
}
