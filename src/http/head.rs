//! Reads one HTTP/1 request head strictly, in place, and says how its body is framed.
//!
//! Stricter than hyper where two readers could differ: CRLF only, no folding, one `Host`, one way to say a
//! body's length. What passes here passes hyper's parser as well, so hyper's own wordless 400 is never seen.
//! It goes on where it stopped when bytes are missing, so a head sent byte by byte costs no more.

use super::{
    octets::{self, PATH, QUERY, TOKEN},
    watch::Violation,
};
use crate::fault::Reason;

/// At most so many bytes a head.
pub const MAX_HEAD: usize = 64 << 10;
/// At most so many bytes a request target.
pub const MAX_TARGET: usize = 8 << 10;
/// At most so many fields a head.
pub const MAX_FIELDS: usize = 100;
/// Longest method read: the registered ones have at most 17 letters.
const MAX_METHOD: usize = 32;

/// How the bytes after a head are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// `CONNECT`, or `Upgrade` to more than `h2c`: what follows may be no HTTP at all.
    Undecided,
}

/// How far a head has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is not whole yet.
    More,
    /// Whole: so many bytes, leading empty line included.
    Done { len: usize, framing: Framing },
    /// It breaks a rule.
    Bad(Violation),
}

/// The reading of one head.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Where the line being read begins.
    line: usize,
    /// Up to where it is known to hold no control byte.
    seen: usize,
    lines: usize,
    skipped: bool,
    old: bool,
    connect: bool,
    upgrade: bool,
    hosts: u8,
    codings: u8,
    length: Option<u64>,
}

type Checked<T = ()> = Result<T, Violation>;

#[cold]
fn bad<T>(words: &'static str) -> Checked<T> {
    Err(Violation {
        reason: Reason::BadRequest,
        words,
    })
}

#[cold]
fn long<T>(reason: Reason, words: &'static str) -> Checked<T> {
    Err(Violation { reason, words })
}

impl Head {
    /// Reads on. `bytes` begin where the head does: those of earlier calls, and more.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Step {
        match self.lines_of(bytes) {
            Ok(Some((len, framing))) => Step::Done { len, framing },
            Ok(None) => Step::More,
            Err(violation) => Step::Bad(violation),
        }
    }

    /// Something of the head is there, beyond an empty line before it.
    pub(super) fn has_begun(&self, bytes: &[u8]) -> bool {
        self.lines > 0
            || bytes
                .get(self.line..)
                .is_some_and(|rest| !rest.is_empty() && rest != b"\r")
    }

    fn lines_of(&mut self, bytes: &[u8]) -> Checked<Option<(usize, Framing)>> {
        loop {
            let Some(end) = octets::find_control(bytes, self.seen) else {
                self.seen = bytes.len();
                return self.fits(bytes.len()).map(|()| None);
            };
            match (bytes[end], bytes.get(end + 1)) {
                (b'\r', Some(b'\n')) => {}
                (b'\r', None) => {
                    self.seen = end;
                    return self.fits(bytes.len()).map(|()| None);
                }
                (b'\t', _) => {
                    self.seen = end + 1;
                    continue;
                }
                (b'\r', Some(_)) => {
                    return bad("a carriage return without a line feed in the head");
                }
                (b'\n', _) => return bad("a line feed without a carriage return in the head"),
                _ => return bad("a control byte in the head"),
            }
            let line = &bytes[self.line..end];
            self.line = end + 2;
            self.seen = end + 2;
            if line.is_empty() {
                if self.lines > 0 {
                    self.fits(end + 2)?;
                    return self.framing().map(|framing| Some((end + 2, framing)));
                }
                // RFC 9112 §2.2: one empty line before the request is forgiven.
                if self.skipped {
                    return bad("empty lines before the request line");
                }
                self.skipped = true;
            } else if self.lines == 0 {
                self.request_line(line)?;
                self.lines = 1;
            } else {
                self.field(line)?;
                self.lines += 1;
            }
        }
    }

    /// Bounds what was not decided by a whole line.
    fn fits(&self, len: usize) -> Checked {
        if self.lines == 0 && len - self.line > MAX_TARGET + MAX_METHOD + 16 {
            return long(
                Reason::UriTooLong,
                "the request target is longer than 8 KiB",
            );
        }
        if len > MAX_HEAD {
            return long(Reason::HeadTooLarge, "the head is larger than 64 KiB");
        }
        Ok(())
    }

    fn request_line(&mut self, line: &[u8]) -> Checked {
        let method = octets::run(line, TOKEN);
        if method == 0 || method > MAX_METHOD || line.get(method) != Some(&b' ') {
            return bad("the request line does not begin with a method and one space");
        }
        let Some((rest, version)) = line[method + 1..].split_last_chunk::<9>() else {
            return bad("the request line does not end in HTTP/1.1 or HTTP/1.0");
        };
        self.old = match version {
            b" HTTP/1.1" => false,
            b" HTTP/1.0" => true,
            _ => return bad("the request line does not end in HTTP/1.1 or HTTP/1.0"),
        };
        if rest.len() > MAX_TARGET {
            return long(
                Reason::UriTooLong,
                "the request target is longer than 8 KiB",
            );
        }
        self.connect = &line[..method] == b"CONNECT";
        if rest.first() != Some(&b'/') || self.connect {
            return other_form(&line[..method], rest);
        }
        let path = octets::run(rest, PATH);
        match rest.get(path..) {
            None | Some([]) => Ok(()),
            Some([b'?', query @ ..]) if octets::run(query, QUERY) == query.len() => Ok(()),
            _ => bad("a byte in the request target that must be escaped"),
        }
    }

    fn field(&mut self, line: &[u8]) -> Checked {
        let name = octets::run(line, TOKEN);
        if self.lines > MAX_FIELDS {
            return long(Reason::HeadTooLarge, "more than 100 fields in the head");
        }
        match line.get(name) {
            Some(b':') if name > 0 => {}
            Some(b' ' | b'\t') if name == 0 => return bad("a folded field line"),
            Some(b' ' | b'\t') => return bad("a space before a field's colon"),
            _ => return bad("a field line without a valid name and a colon"),
        }
        match name {
            4 if line[..name].eq_ignore_ascii_case(b"host") => {
                self.hosts = self.hosts.saturating_add(1)
            }
            7 if line[..name].eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade |= !offers_h2c_alone(&line[name + 1..])
            }
            14 if line[..name].eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return bad("more than one content-length");
                }
                self.length = Some(length_of(line[name + 1..].trim_ascii())?);
            }
            17 if line[..name].eq_ignore_ascii_case(b"transfer-encoding") => {
                self.codings = self.codings.saturating_add(1);
                if !line[name + 1..]
                    .trim_ascii()
                    .eq_ignore_ascii_case(b"chunked")
                {
                    return bad("a transfer-encoding that is not chunked alone");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn framing(&self) -> Checked<Framing> {
        match self.hosts {
            1 => {}
            0 if self.old => {}
            0 => return bad("no host"),
            _ => return bad("more than one host"),
        }
        match (self.codings, self.length) {
            (0, None | Some(0)) if self.connect => Ok(Framing::Undecided),
            _ if self.connect => bad("a body on CONNECT"),
            // With a body, or in HTTP/1.0, `Upgrade` leads nowhere (`upgrade::read`).
            (0, None | Some(0)) if self.upgrade && !self.old => Ok(Framing::Undecided),
            (0, None | Some(0)) => Ok(Framing::Empty),
            (0, Some(length)) => Ok(Framing::Length(length)),
            (1, None) if !self.old => Ok(Framing::Chunked),
            (_, Some(_)) => bad("both content-length and transfer-encoding"),
            (1, None) => bad("a transfer-encoding in HTTP/1.0"),
            (_, None) => bad("more than one transfer-encoding"),
        }
    }
}

/// The targets that do not begin with `/`: of proxies, of `CONNECT` and of `OPTIONS *`.
#[cold]
fn other_form(method: &[u8], target: &[u8]) -> Checked {
    if !target.iter().all(|&b| octets::is(b, PATH | QUERY)) {
        return bad("a byte in the request target that must be escaped");
    }
    let Ok(uri) = http::Uri::try_from(target) else {
        return bad("a request target that is no URI");
    };
    let fits = match method {
        b"CONNECT" => uri.scheme().is_none() && uri.port_u16().is_some() && uri.path().is_empty(),
        b"OPTIONS" if target == b"*" => true,
        _ => uri.scheme().is_some() && uri.authority().is_some(),
    };
    if fits {
        Ok(())
    } else {
        bad("a request target of no known form")
    }
}

/// Some clients offer `h2c` with every request, and are content with an answer in HTTP/1.1.
pub(super) fn offers_h2c_alone(upgrade: &[u8]) -> bool {
    let mut tokens = upgrade.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    tokens.all(|token| token.eq_ignore_ascii_case(b"h2c"))
}

/// A `Content-Length`: digits only, at most 19 of them.
pub(super) fn length_of(value: &[u8]) -> Checked<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return bad("a content-length that is not a number");
    }
    Ok(value
        .iter()
        .fold(0, |sum, &digit| sum * 10 + u64::from(digit - b'0')))
}
