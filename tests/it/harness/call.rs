//! One HTTP/1.1 call, blocking, on a connection of its own; and an answer as it came.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use super::{DEADLINE, RawClient};

/// A request to be sent.
#[derive(Debug, Clone)]
pub struct Call {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Call {
    /// `target` goes into the request line as it is: `/path`, or `http://host/path` as a proxy's client has it.
    pub fn new(method: &str, target: &str) -> Self {
        Call {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn get(target: &str) -> Self {
        Call::new("GET", target)
    }

    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Call::new("POST", target).body(body)
    }

    /// The `host` header; without it, the address that is called.
    pub fn host(self, host: &str) -> Self {
        self.header("host", host)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// The bytes that go out; for [`RawClient`], which keeps its connection.
    pub fn bytes(&self, default_host: &str) -> Vec<u8> {
        let has = |name: &str| {
            self.headers
                .iter()
                .any(|(n, _)| n.eq_ignore_ascii_case(name))
        };
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !has("host") {
            out += &format!("host: {default_host}\r\n");
        }
        for (name, value) in &self.headers {
            out += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = &self.body
            && !has("content-length")
            && !has("transfer-encoding")
        {
            out += &format!("content-length: {}\r\n", body.len());
        }
        let mut out = (out + "\r\n").into_bytes();
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
        out
    }

    /// Sends to `address` and waits for the whole answer.
    #[track_caller]
    pub fn send(&self, address: &str) -> Answer {
        match self.try_send(address) {
            Ok(answer) => answer,
            Err(error) => panic!("{} {} to {address}: {error}", self.method, self.target),
        }
    }

    /// The same, for calls that may get no answer.
    pub fn try_send(&self, address: &str) -> io::Result<Answer> {
        // A long body takes its time to be put together, which a connection would not be given.
        let bytes = self.clone().header("connection", "close").bytes(address);
        let mut client = RawClient::try_connect(address)?;
        client.try_send(bytes)?;
        client.try_answer_to(&self.method)
    }
}

/// An HTTP/1.1 answer, its body without framing.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub version: u8,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// Why weft answered itself.
    pub fn reason(&self) -> Option<&str> {
        self.header("x-weft-reason")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text()))
    }
}

/// Reads one answer from `input`; what was read beyond it stays in `kept`.
///
/// Answers 1xx are passed over, but for 101.
pub(super) fn read_answer(
    input: &mut impl Read,
    kept: &mut Vec<u8>,
    method: &str,
) -> io::Result<Answer> {
    loop {
        let mut answer = read_head(input, kept)?;
        if answer.status < 200 && answer.status != 101 {
            continue;
        }
        let bodiless = method == "HEAD" || matches!(answer.status, 101 | 204 | 304);
        if bodiless || (method == "CONNECT" && answer.status < 300) {
            return Ok(answer);
        }
        let chunked = answer
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        if chunked {
            (answer.body, answer.trailers) = read_chunks(input, kept)?;
        } else if let Some(length) = answer.header("content-length") {
            let length = length.parse().map_err(broken)?;
            answer.body = take(input, kept, length)?;
        } else {
            answer.body = std::mem::take(kept);
            input.read_to_end(&mut answer.body)?;
        }
        return Ok(answer);
    }
}

fn read_head(input: &mut impl Read, kept: &mut Vec<u8>) -> io::Result<Answer> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 256];
        let mut parsed = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(length) = parsed.parse(kept).map_err(broken)? {
            let answer = Answer {
                status: parsed.code.unwrap_or_default(),
                version: parsed.version.unwrap_or_default(),
                headers: owned(parsed.headers),
                body: Vec::new(),
                trailers: Vec::new(),
            };
            kept.drain(..length);
            return Ok(answer);
        }
        more(input, kept)?;
    }
}

type Fields = Vec<(String, String)>;

fn owned(headers: &[httparse::Header<'_>]) -> Fields {
    headers
        .iter()
        .map(|field| {
            let value = String::from_utf8_lossy(field.value).into_owned();
            (field.name.to_ascii_lowercase(), value)
        })
        .collect()
}

fn read_chunks(input: &mut impl Read, kept: &mut Vec<u8>) -> io::Result<(Vec<u8>, Fields)> {
    let mut body = Vec::new();
    loop {
        match httparse::parse_chunk_size(kept).map_err(|_| broken("no chunk size"))? {
            httparse::Status::Complete((start, 0)) => {
                kept.drain(..start);
                return Ok((body, read_trailers(input, kept)?));
            }
            httparse::Status::Complete((start, size)) => {
                kept.drain(..start);
                let size = usize::try_from(size).map_err(broken)?;
                body.extend(take(input, kept, size)?);
                take(input, kept, 2)?;
            }
            httparse::Status::Partial => more(input, kept)?,
        }
    }
}

fn read_trailers(input: &mut impl Read, kept: &mut Vec<u8>) -> io::Result<Fields> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        if let httparse::Status::Complete((length, fields)) =
            httparse::parse_headers(kept, &mut fields).map_err(broken)?
        {
            let trailers = owned(fields);
            kept.drain(..length);
            return Ok(trailers);
        }
        more(input, kept)?;
    }
}

fn take(input: &mut impl Read, kept: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while kept.len() < length {
        more(input, kept)?;
    }
    Ok(kept.drain(..length).collect())
}

fn more(input: &mut impl Read, kept: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 16_384];
    match patiently(|| input.read(&mut buffer))? {
        0 => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!(
                "closed in the middle of an answer; so far {:?}",
                String::from_utf8_lossy(&kept[..kept.len().min(512)])
            ),
        )),
        count => {
            kept.extend_from_slice(&buffer[..count]);
            Ok(())
        }
    }
}

/// A read with a deadline is interrupted where a process is stopped and goes on (signal(7)).
pub(super) fn patiently(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

fn broken(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// Connects with the deadline on every read and write, so that no test hangs.
pub(super) fn dial(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    prepare(&stream)?;
    Ok(stream)
}

pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))
}
