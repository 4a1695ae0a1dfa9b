//! Peers that speak bytes: a client that sends what it is told, an origin that follows a script and keeps what came.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Answer, Call,
    call::{dial, patiently, prepare, read_answer},
    wait_for,
};

/// One TCP connection under a test's hand.
pub struct RawClient {
    stream: TcpStream,
    kept: Vec<u8>,
}

impl RawClient {
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        RawClient::try_connect(address).unwrap_or_else(|error| panic!("connect {address}: {error}"))
    }

    pub fn try_connect(address: &str) -> io::Result<Self> {
        Ok(RawClient {
            stream: dial(address)?,
            kept: Vec::new(),
        })
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer reads");
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Sends the call and reads its answer; the connection stays open.
    #[track_caller]
    pub fn call(&mut self, call: &Call, host: &str) -> Answer {
        self.send(call.bytes(host));
        self.answer()
    }

    /// The next answer, to anything but HEAD and CONNECT.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// The next answer, framed as one to `method` is.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer_to(method).expect("an answer")
    }

    pub fn try_answer_to(&mut self, method: &str) -> io::Result<Answer> {
        read_answer(&mut self.stream, &mut self.kept, method)
    }

    /// Reads until `end` has come, and returns all up to there with it.
    #[track_caller]
    pub fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let found = self.kept.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                return self.kept.drain(..at + end.len()).collect();
            }
            let mut buffer = [0; 16_384];
            let count = patiently(|| self.stream.read(&mut buffer));
            let count = count.expect("bytes before the deadline");
            assert!(
                count > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&self.kept)
            );
            self.kept.extend_from_slice(&buffer[..count]);
        }
    }

    /// Everything until the peer closes; a reset ends it as well.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.kept);
        match self.stream.read_to_end(&mut all) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                panic!("still open at the deadline: {error}")
            }
            _ => all,
        }
    }

    /// True when the peer closes, or has closed, without another byte.
    #[track_caller]
    pub fn is_closed_by_peer(&mut self) -> bool {
        self.read_to_end().is_empty()
    }

    /// True while nothing has come and nothing is closed. Says how it is now; it does not wait.
    pub fn is_quiet(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket");
        let quiet = matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.stream.set_nonblocking(false).expect("a socket");
        quiet && self.kept.is_empty()
    }

    pub fn close_write(&self) {
        // Already closed by the peer is as good.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Closes with RST instead of FIN.
    pub fn reset(self) {
        reset(&self.stream);
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("connected")
    }
}

fn reset(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    socket
        .set_linger(Some(Duration::ZERO))
        .expect("a socket lingers");
}

/// An origin whose every connection runs a script on a thread of its own. It keeps each byte that it reads.
pub struct RawOrigin {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: Arc<AtomicBool>,
}

/// The origin's end of one connection.
pub struct RawConnection {
    stream: TcpStream,
    /// Which connection this is, from 0.
    pub number: usize,
    read: usize,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl RawOrigin {
    /// Runs `script` for every connection; an error in it just ends the connection, as a peer's fault would.
    pub fn start(
        script: impl Fn(&mut RawConnection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        RawOrigin::at(([127, 0, 0, 1], 0).into(), script)
    }

    /// The same at an address of our choice.
    pub fn at(
        address: SocketAddr,
        script: impl Fn(&mut RawConnection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let kept = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let script = Arc::new(script);
        let (connections, stopped) = (Arc::clone(&kept), Arc::clone(&stop));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                if stopped.load(Ordering::SeqCst) || prepare(&stream).is_err() {
                    return;
                }
                connections.lock().expect("no panic here").push(Vec::new());
                let mut connection = RawConnection {
                    stream,
                    number,
                    read: 0,
                    kept: Arc::clone(&connections),
                };
                let script = Arc::clone(&script);
                thread::spawn(move || script(&mut connection));
            }
        });
        RawOrigin {
            address,
            kept,
            stop,
        }
    }

    /// Answers these bytes to every request (a head, and a body as its `content-length` or chunks have it).
    pub fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        RawOrigin::start(move |connection| {
            loop {
                connection.read_request()?;
                connection.write(&bytes)?;
            }
        })
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What has come so far, connection by connection.
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.kept.lock().expect("no panic here").clone()
    }

    /// What has come on one connection, as text.
    pub fn text(&self, connection: usize) -> String {
        let all = self.received();
        String::from_utf8_lossy(all.get(connection).map_or(&[][..], Vec::as_slice)).into_owned()
    }

    pub fn connections(&self) -> usize {
        self.kept.lock().expect("no panic here").len()
    }

    /// Waits until a connection's bytes hold `part`, and returns them all.
    #[track_caller]
    pub fn wait_for_bytes(&self, connection: usize, part: &str) -> String {
        wait_for(&format!("{part:?} at the origin"), || {
            Some(self.text(connection)).filter(|text| text.contains(part))
        })
    }
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

impl RawConnection {
    /// Reads some bytes; none means that the peer has closed.
    pub fn read(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16_384];
        let count = patiently(|| self.stream.read(&mut buffer))?;
        let mut kept = self.kept.lock().expect("no panic here");
        kept[self.number].extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Reads until the bytes not yet taken hold `end`; takes and returns them up to there.
    pub fn read_until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            {
                let kept = self.kept.lock().expect("no panic here");
                let open = &kept[self.number][self.read..];
                if let Some(at) = open.windows(end.len()).position(|part| part == end) {
                    let taken = open[..at + end.len()].to_vec();
                    self.read += taken.len();
                    return Ok(taken);
                }
            }
            if self.read()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes exactly `count` bytes.
    pub fn read_exact(&mut self, count: usize) -> io::Result<Vec<u8>> {
        loop {
            {
                let kept = self.kept.lock().expect("no panic here");
                let open = &kept[self.number][self.read..];
                if open.len() >= count {
                    self.read += count;
                    return Ok(open[..count].to_vec());
                }
            }
            if self.read()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub fn read_head(&mut self) -> io::Result<String> {
        let head = self.read_until(b"\r\n\r\n")?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// One request: its head and its body's bytes, framing included.
    pub fn read_request(&mut self) -> io::Result<(String, Vec<u8>)> {
        let head = self.read_head()?;
        let lower = head.to_ascii_lowercase();
        let value = |name: &str| {
            let line = lower.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        let body = if value("transfer-encoding:").is_some() {
            self.read_until(b"0\r\n\r\n")?
        } else {
            let length = value("content-length:").and_then(|length| length.parse().ok());
            self.read_exact(length.unwrap_or(0))?
        };
        Ok((head, body))
    }

    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Returns when the peer has closed; what comes until then is kept.
    pub fn until_closed(&mut self) -> io::Result<()> {
        while self.read()? > 0 {}
        Ok(())
    }

    pub fn close_write(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Makes the close at the script's end an RST.
    pub fn reset(&self) {
        reset(&self.stream);
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
