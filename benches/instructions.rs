//! What one proxied request costs in instructions: a figure that hardly moves, whatever else the machine is doing.
//!
//! `cargo bench --bench instructions` runs the release build under callgrind (Debian's package `valgrind`) and fails
//! where the figure is more than 2 % from the one in `benches/instructions.txt`; `-- --write` replaces that one.
//! `BENCH_CONTENDER=PATH` counts another adapter of the side-by-side benchmark, and compares with nothing.
//!
//! Sixteen keep-alive connections ask in step for 128 bytes. A short and a long run differ in requests alone, so what
//! starting and leaving cost falls out of their difference. User instructions of all threads and processes count; the
//! kernel's, and what a cache miss costs, do not.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    thread,
    time::{Duration, Instant},
};

const CONNECTIONS: usize = 16;
const SHORT: usize = 500;
const LONG: usize = SHORT + 3_000;
/// Their median counts: how many requests one wake of the proxy finds differs from run to run.
const ROUNDS: usize = 5;
const TOLERANCE: f64 = 0.02;

/// What an application's client sends: four fields, 154 bytes.
const REQUEST: &[u8] =
    b"GET /orders/4711 HTTP/1.1\r\nhost: app:8080\r\nuser-agent: orders/1.4.2\r\naccept: */*\r\n\
traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let origin = origin()?;
    let foreign = env::var_os("BENCH_CONTENDER").map(PathBuf::from);
    let benches = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let contender = foreign.clone().unwrap_or_else(|| benches.join("contender"));
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let short = count(&contender, origin, SHORT)?;
        let long = count(&contender, origin, LONG)?;
        rounds.push(long.saturating_sub(short) as f64 / (LONG - SHORT) as f64);
    }
    rounds.sort_by(f64::total_cmp);
    let each = rounds[ROUNDS / 2];
    println!("{each:.0} instructions a proxied request");
    if foreign.is_some() {
        return Ok(());
    }
    let committed = benches.join("instructions.txt");
    if env::args().any(|argument| argument == "--write") {
        return fs::write(committed, format!("{each:.0}\n"));
    }
    let text = fs::read_to_string(&committed)?;
    let expected: f64 = text.trim().parse().map_err(io::Error::other)?;
    let off = each / expected - 1.0;
    println!("{:+.2} % from the committed {expected:.0}", off * 100.0);
    if off.abs() > TOLERANCE {
        return Err(io::Error::other(
            "more than 2 % from benches/instructions.txt: find out why, or replace it with `-- --write`",
        ));
    }
    Ok(())
}

/// Instructions of one run, from the first of its start to the last of its exit.
fn count(contender: &Path, origin: SocketAddr, requests: usize) -> io::Result<u64> {
    let scratch = tempfile::tempdir()?;
    let listen = free()?;
    let mut proxy = start(contender, origin, listen, scratch.path())?;
    let load = await_ready(listen).and_then(|()| load(listen, requests));
    // Asked to leave, not killed: callgrind writes its count at the exit.
    let stopped = Command::new("kill").arg(proxy.id().to_string()).status();
    proxy.wait()?;
    load?;
    stopped?;
    let mut total = 0;
    for file in fs::read_dir(scratch.path())? {
        let path = file?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("callgrind."))
        {
            total += counted(&fs::read_to_string(&path)?);
        }
    }
    if total == 0 {
        return Err(io::Error::other("callgrind counted nothing"));
    }
    Ok(total)
}

fn start(
    contender: &Path,
    origin: SocketAddr,
    listen: SocketAddr,
    scratch: &Path,
) -> io::Result<Child> {
    Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--quiet",
            "--vgdb=no",
            "--trace-children=yes",
        ])
        .arg(format!(
            "--callgrind-out-file={}/callgrind.%p",
            scratch.display()
        ))
        .arg(contender)
        .env(
            "WEFT_BIN",
            env::var_os("WEFT_BIN").unwrap_or(env!("CARGO_BIN_EXE_weft").into()),
        )
        .env("BENCH_ROLE", "single")
        .env("BENCH_PROTO", "http1")
        .env("BENCH_THREADS", "1")
        .env("BENCH_ROUTES", "1")
        .env("BENCH_LISTEN", listen.to_string())
        .env("BENCH_TARGET", origin.to_string())
        .env("BENCH_ADMIN", free()?.port().to_string())
        .env("BENCH_DIR", scratch)
        .spawn()
}

/// The sum line of one of callgrind's files; each process has its own.
fn counted(file: &str) -> u64 {
    let line = |name| file.lines().find_map(move |line| line.strip_prefix(name));
    line("totals:")
        .and_then(|total| total.trim().parse().ok())
        .unwrap_or(0)
}

/// Asks over all connections, then reads all answers, until so many were given.
fn load(proxy: SocketAddr, requests: usize) -> io::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(connect(proxy)?);
    }
    let mut left = requests;
    let mut answer = [0; 4096];
    while left > 0 {
        let batch = left.min(CONNECTIONS);
        for connection in &mut connections[..batch] {
            connection.write_all(REQUEST)?;
        }
        for connection in &mut connections[..batch] {
            let mut read = 0;
            while !answer[..read].ends_with(&[b'x'; 128]) {
                match connection.read(&mut answer[read..])? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    n => read += n,
                }
            }
            if !answer.starts_with(b"HTTP/1.1 200") {
                return Err(io::Error::other("an answer that is not 200"));
            }
        }
        left -= batch;
    }
    Ok(())
}

fn connect(proxy: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Waits until it answers: it may listen, and leave again, before it serves.
fn await_ready(proxy: SocketAddr) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    let ask = || {
        let mut connection = connect(proxy)?;
        connection.write_all(REQUEST)?;
        connection.read_exact(&mut [0])
    };
    loop {
        match ask() {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// An application that answers everything with 128 bytes.
fn origin() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let body = "x".repeat(128);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
Content-Type: text/plain\r\nContent-Length: 128\r\nConnection: keep-alive\r\n\r\n{body}"
    );
    let mut read = Vec::new();
    let mut piece = [0; 4096];
    stream.set_nodelay(true)?;
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => read.extend_from_slice(&piece[..n]),
        }
        if read.ends_with(b"\r\n\r\n") {
            read.clear();
            stream.write_all(answer.as_bytes())?;
        }
    }
}

fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
