//! What a mutual TLS handshake costs the side that is called: full and resumed, weft beside nginx.
//!
//! `cargo bench --bench handshakes` needs nginx and two cores: the server has the first, the callers the rest. Each
//! connection shakes hands with certificates on both sides (P-256), asks once for what the server answers by itself
//! (weft: 403 of its rules, nginx: 403), and closes. CPU is the server's whole; a second of it divided by one handshake
//! is the rate of a core. Callers offer X25519 alone, or X25519MLKEM768 first, which nginx's OpenSSL may not know.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use weft::{tls::issue::Authority, units::SpiffeId};

const ROUNDS: usize = 5;
const HANDSHAKES: usize = 3_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
const ID: &str = "spiffe://cluster.local/ns/bench/sa/app";

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let day = Duration::from_secs(24 * 3600);
    let authority = Authority::new("cluster.local", "bench", day).expect("a root");
    let id = SpiffeId::parse(ID).expect("a constant that is one");
    let leaf = authority.issue(&id, day).expect("a leaf");
    for (name, text) in [
        ("ca.pem", authority.certificate()),
        ("leaf.pem", &leaf.certificate),
        ("leaf.key", &leaf.key),
    ] {
        fs::write(folder.path().join(name), text).expect("the folder can be written");
    }
    println!("handshakes, CPU of the server: median of {ROUNDS} rounds of {HANDSHAKES}");
    let hybrid = Caller::new(folder.path(), aws_lc_rs::default_provider());
    let plain = CryptoProvider {
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let plain = Caller::new(folder.path(), plain);
    let rows: [(&str, Start, &Caller, bool); 6] = [
        ("nginx  full    X25519", nginx, &plain, false),
        ("weft   full    X25519", weft, &plain, false),
        ("weft   full    X25519MLKEM768", weft, &hybrid, false),
        ("nginx  resumed X25519", nginx, &plain, true),
        ("weft   resumed X25519", weft, &plain, true),
        ("weft   resumed X25519MLKEM768", weft, &hybrid, true),
    ];
    let mut costs = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for (row, costs) in rows.iter().zip(&mut costs) {
            let (_, start, caller, resumed) = row;
            costs.push(round(*start, folder.path(), caller, *resumed));
        }
    }
    for ((name, ..), mut costs) in rows.into_iter().zip(costs) {
        costs.sort_by(f64::total_cmp);
        let each = costs[ROUNDS / 2];
        println!(
            "{name:<30} {each:>7.1} µs {:>7.0} a second of a core",
            1e6 / each
        );
    }
}

type Start = fn(&Path, SocketAddr) -> Child;

/// CPU microseconds of the server for each connection.
fn round(start: Start, folder: &Path, caller: &Caller, resumed: bool) -> f64 {
    let address = free();
    let mut server = start(folder, address);
    let end = Instant::now() + Duration::from_secs(20);
    while let Err(error) = caller.call(address, &caller.config(true)) {
        assert!(Instant::now() < end, "no answer: {error}");
        thread::sleep(Duration::from_millis(20));
    }
    let callers =
        thread::available_parallelism().map_or(1, |cores| cores.get().saturating_sub(1).max(1)) * 4;
    let before = cpu(server.id());
    thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let config = caller.config(resumed);
                // The first of each caller has no ticket yet.
                for nth in 0..HANDSHAKES / callers + usize::from(resumed) {
                    let kind = caller.call(address, &config).expect("an answer");
                    let expected = match resumed && nth > 0 {
                        true => HandshakeKind::Resumed,
                        false => HandshakeKind::Full,
                    };
                    assert_eq!(kind, expected);
                }
            });
        }
    });
    let spent = cpu(server.id()) - before;
    let _ = Command::new("kill").arg(server.id().to_string()).status();
    let _ = server.wait();
    spent.as_secs_f64() * 1e6 / (HANDSHAKES / callers * callers) as f64
}

struct Caller {
    provider: Arc<CryptoProvider>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    verifier: Arc<Named>,
}

impl Caller {
    fn new(folder: &Path, provider: CryptoProvider) -> Self {
        let provider = Arc::new(provider);
        let chain = CertificateDer::pem_file_iter(folder.join("leaf.pem")).expect("a file");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_file(folder.join("ca.pem")).expect("a file");
        roots.add(root).expect("a root");
        let inner = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        Caller {
            chain: chain.collect::<Result<_, _>>().expect("certificates"),
            key: PrivateKeyDer::from_pem_file(folder.join("leaf.key")).expect("a key"),
            verifier: Arc::new(Named(inner.build().expect("a verifier"))),
            provider,
        }
    }

    fn config(&self, resumes: bool) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .expect("a certificate and its key");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Arc::new(config)
    }

    fn call(&self, address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<HandshakeKind> {
        let name = ServerName::try_from("app.bench").expect("a name");
        let mut session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let mut stream = Stream::new(&mut session, &mut socket);
        stream.write_all(REQUEST)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
        if !answer.starts_with(b"HTTP/1.1 403") {
            return Err(io::Error::other("an answer that is not 403"));
        }
        session
            .handshake_kind()
            .ok_or_else(|| io::Error::other("no handshake"))
    }
}

/// Checks the chain, and leaves the name: the certificate has an identity and no host's name.
#[derive(Debug)]
struct Named(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        match self
            .0
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
        {
            Err(rustls::Error::InvalidCertificate(
                NotValidForName | NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

fn weft(folder: &Path, address: SocketAddr) -> Child {
    let at = folder.display();
    let yaml = format!(
        "workers: 1
identity: {{ files: {{ certificate: {at}/leaf.pem, key: {at}/leaf.key, roots: {at}/ca.pem }} }}
inbound:
  listen: \"{address}\"
  app: \"127.0.0.1:1\"
  ports: {{ 1: {{ protocol: http }} }}
  tls: {{ mode: strict }}
  authorization: {{ default: deny }}
outbound: {{ listen: none }}
telemetry: {{ accessLog: none }}
admin: {{ listen: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\" }}
shutdown: {{ lameDuck: 0s, grace: 1s }}
"
    );
    let file = folder.join("weft.yaml");
    fs::write(&file, yaml).expect("the folder can be written");
    let binary = env::var_os("WEFT_BIN").unwrap_or(env!("CARGO_BIN_EXE_weft").into());
    on_the_first_core()
        .arg(binary)
        .args(["run", "--log-level", "error", "-c"])
        .arg(file)
        .spawn()
        .expect("weft starts")
}

fn nginx(folder: &Path, address: SocketAddr) -> Child {
    let at = folder.display();
    let text = format!(
        "daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error crit; master_process off;
events {{ worker_connections 4096; }}
http {{ access_log off; client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3;
  uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5;
  server {{ listen {address} ssl backlog=4096; ssl_certificate {at}/leaf.pem; ssl_certificate_key {at}/leaf.key;
    ssl_client_certificate {at}/ca.pem; ssl_verify_client on; ssl_protocols TLSv1.3; return 403; }} }}
"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text).expect("the folder can be written");
    on_the_first_core()
        .args(["nginx", "-e"])
        .arg(folder.join("error"))
        .arg("-c")
        .arg(file)
        .spawn()
        .expect("nginx starts: apt-get install nginx-light")
}

fn on_the_first_core() -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).stdout(Stdio::null());
    command
}

/// CPU of a process, in the kernel's ticks of 10 ms.
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("procfs");
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
    Duration::from_millis(10 * ticks)
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    listener.local_addr().expect("bound")
}
