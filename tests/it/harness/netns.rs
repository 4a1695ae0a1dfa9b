//! Pods without a cluster: network namespaces, joined by a cable, that vanish with the test however it ends.
//!
//! A namespace lives as long as a process that waits for the end of its input, and that input is ours. Threads enter
//! it, so every tool of the harness works inside. Needs root, as nothing else here does.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rustix::{
    net::{Shutdown, shutdown, sockopt},
    process::{Gid, Uid},
    thread::{
        LinkNameSpaceType, move_into_link_name_space, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{DEADLINE, Weft, wait_until};

/// The user that sidecars run as.
pub const SIDECAR: u32 = 15001;
/// The user that applications run as.
pub const APPLICATION: u32 = 1000;

/// A network namespace with an address of each family on `eth0`.
pub struct Pod {
    /// Ends when its input does: with this handle, or with our process.
    holder: Child,
    namespace: File,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Pod {
    /// Two pods on one cable.
    #[track_caller]
    pub fn pair() -> (Pod, Pod) {
        let (one, two) = (Pod::numbered(1), Pod::numbered(2));
        let peer = two.holder.id().to_string();
        one.ip(&[
            "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &peer,
        ]);
        for pod in [&one, &two] {
            pod.ip(&["link", "set", "lo", "up"]);
            pod.ip(&["address", "add", &format!("{}/24", pod.v4), "dev", "eth0"]);
            // Without the wait for others that have the same address.
            pod.ip(&[
                "address",
                "add",
                &format!("{}/64", pod.v6),
                "dev",
                "eth0",
                "nodad",
            ]);
            pod.ip(&["link", "set", "eth0", "up"]);
        }
        for pod in [&one, &two] {
            // An address of IPv6 is not yet one's own when its command is done.
            let route = ["-6", "route", "get", &pod.v6.to_string()];
            wait_until("the pod's own address", || {
                pod.run("ip", &route).stdout.starts_with(b"local ")
            });
        }
        // A cable carries a moment after both its ends are up; a neighbour that was asked too early is asked again
        // after a second, which is all that a sidecar waits.
        for address in [two.at(0), two.at_v6(0)] {
            let listener = two.inside(|| TcpListener::bind(address)).expect("a port");
            let address = listener.local_addr().expect("bound");
            let patience = Duration::from_secs(3);
            wait_until("the cable", || {
                one.inside(|| TcpStream::connect_timeout(&address, patience).is_ok())
            });
        }
        (one, two)
    }

    #[track_caller]
    fn numbered(number: u8) -> Pod {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("unshare: install it with `apt-get install util-linux`");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        assert_eq!(
            line, "ready\n",
            "no network namespace can be made here: this test needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN)"
        );
        let namespace =
            File::open(format!("/proc/{}/ns/net", holder.id())).expect("the holder runs");
        Pod {
            holder,
            namespace,
            v4: Ipv4Addr::new(10, 66, 0, number),
            v6: Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, u16::from(number)),
        }
    }

    /// Does something inside, as root. Threads and processes that it starts stay inside.
    #[track_caller]
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("the holder runs, and we are root");
                work()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The same as this user: without any privilege.
    #[track_caller]
    pub fn inside_as<T: Send>(&self, user: u32, work: impl FnOnce() -> T + Send) -> T {
        self.inside(|| {
            let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
            set_thread_res_gid(gid, gid, gid).expect("we are root");
            set_thread_res_uid(uid, uid, uid).expect("we are root");
            work()
        })
    }

    /// Runs a command inside, as root, to its end.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(super::parts::program(program));
        command.args(arguments).stdin(Stdio::null());
        match self.inside(|| command.output()) {
            Ok(output) => output,
            Err(error) => panic!("{program}: {error}; `make test` installs what is missing"),
        }
    }

    /// What a command prints, which must succeed.
    #[track_caller]
    pub fn prints(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.run(program, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn ip(&self, arguments: &[&str]) {
        self.prints("ip", arguments);
    }

    /// `weft redirect …`, which must succeed; what it prints.
    #[track_caller]
    pub fn redirect(&self, arguments: &[&str]) -> String {
        let mut all = vec!["redirect"];
        all.extend(arguments);
        self.prints(env!("CARGO_BIN_EXE_weft"), &all)
    }

    /// Starts a sidecar inside, as its own user and with no privilege, and returns when it is ready.
    #[track_caller]
    pub fn sidecar(&self, yaml: &str) -> Weft {
        let mut weft = Weft::folder(yaml);
        weft.run_as(SIDECAR);
        if let Err(failed) = self.inside(|| weft.launch()) {
            panic!("weft did not start: {:?}\n{}", failed.status, failed.stderr);
        }
        weft
    }

    /// An address in this pod.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.v4, port).into()
    }

    pub fn at_v6(&self, port: u16) -> SocketAddr {
        (self.v6, port).into()
    }

    /// Connects as this user and returns what the other end says until it closes.
    pub fn hears(&self, user: u32, address: SocketAddr) -> Result<String, io::ErrorKind> {
        self.inside_as(user, || listen_to(address, None))
    }

    /// The same from an address of our choice.
    pub fn hears_from(
        &self,
        user: u32,
        from: IpAddr,
        address: SocketAddr,
    ) -> Result<String, io::ErrorKind> {
        self.inside_as(user, || listen_to(address, Some(from)))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn listen_to(address: SocketAddr, from: Option<IpAddr>) -> Result<String, io::ErrorKind> {
    let said = || -> io::Result<String> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into())?;
        }
        socket.connect_timeout(&address.into(), DEADLINE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    said().map_err(|error| error.kind())
}

/// Accepts connections in a pod and tells each, in one line, its own name and the address that the caller meant.
pub struct Greeter {
    listener: TcpListener,
    thread: Option<thread::JoinHandle<()>>,
}

impl Greeter {
    #[track_caller]
    pub fn start(pod: &Pod, address: &str, name: &'static str) -> Self {
        pod.inside(|| {
            let listener = listen(address).expect("the pod is new");
            let own = listener.try_clone().expect("a socket");
            let accept = move || {
                while let Ok((stream, _)) = own.accept() {
                    // A caller that has left again is no matter.
                    let _ = greet(stream, name);
                }
            };
            Greeter {
                listener,
                thread: Some(thread::spawn(accept)),
            }
        })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        let _ = shutdown(&self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An address of IPv6 takes nothing of IPv4.
fn listen(address: &str) -> io::Result<TcpListener> {
    let address: SocketAddr = address.parse().expect("an address");
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn greet(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let meant = match stream.local_addr()? {
        SocketAddr::V4(_) => sockopt::ip_original_dst(&stream).map(SocketAddr::from),
        SocketAddr::V6(_) => sockopt::ipv6_original_dst(&stream).map(SocketAddr::from),
    };
    let meant = meant.or_else(|_| stream.local_addr())?;
    stream.write_all(format!("{name} for {meant}").as_bytes())
}

/// What passes over a pod's `eth0`, both ways, from the moment it is there.
pub struct Capture {
    tcpdump: Child,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Capture {
    #[track_caller]
    pub fn on(pod: &Pod) -> Self {
        let mut command = Command::new(super::parts::program("tcpdump"));
        command
            .args([
                "-i",
                "eth0",
                "-U",
                "--immediate-mode",
                "-s",
                "0",
                // KiB that may wait while the machine is busy; what does not fit is lost.
                "-B",
                "32768",
                "-Z",
                "root",
                "-w",
                "-",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut tcpdump = pod
            .inside(|| command.spawn())
            .expect("tcpdump: install it with `apt-get install tcpdump`");
        let stderr = BufReader::new(tcpdump.stderr.take().expect("piped"));
        let mut lines = stderr.lines().map_while(Result::ok);
        let listens = lines.any(|line| line.contains("listening on"));
        assert!(listens, "tcpdump ended");
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        let (kept, stdout) = (Arc::clone(&seen), tcpdump.stdout.take().expect("piped"));
        thread::spawn(move || keep(stdout, &kept));
        Capture { tcpdump, seen }
    }

    /// Whether these bytes passed within one packet.
    pub fn holds(&self, bytes: impl AsRef<[u8]>) -> bool {
        let seen = self.seen.lock().expect("no panic here");
        memchr::memmem::find(&seen, bytes.as_ref()).is_some()
    }

    /// How much passed, heads of packets included.
    pub fn size(&self) -> usize {
        self.seen.lock().expect("no panic here").len()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

fn keep(mut from: ChildStdout, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 65536];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        kept.lock()
            .expect("no panic here")
            .extend_from_slice(&buffer[..length]);
    }
}
