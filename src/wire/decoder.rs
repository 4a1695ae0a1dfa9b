//! An answer's body: bytes to frames.
//!
//! The state moves byte by byte through chunk framing, so what it decides never depends on how the bytes arrived.
//! After each frame it looks ahead through framing that is already there: the last data often ends the body as well.

use super::{
    Limits,
    head::{self, Flaw},
    incoming::may_end_section,
};
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

/// Bytes of extensions and padding behind one chunk's size. They mean nothing to us and are dropped.
const MOST_EXTENSION: u16 = 1024;
/// Digits of one chunk's size, leading zeros included.
const MOST_DIGITS: u8 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    /// So many bytes are still to come.
    Length(u64),
    UntilClose,
    Chunk(Chunk),
    Done,
    /// What follows can no longer be told apart.
    Broken(Flaw),
}

/// Where in chunk framing we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Size {
        size: u64,
        digits: u8,
    },
    /// Spaces behind a size: only an extension or the line's end may follow.
    Padding {
        size: u64,
        skipped: u16,
    },
    Extension {
        size: u64,
        skipped: u16,
    },
    LineFeed {
        size: u64,
    },
    Data(u64),
    AfterData,
    AfterDataLineFeed,
    /// So many bytes were looked at in vain.
    Trailers {
        seen: usize,
    },
}

#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    Trailers(HeaderMap),
    /// Nothing more can be said without more bytes.
    More,
    Done,
}

impl Decoder {
    pub(super) const CHUNKED: Decoder = Decoder::Chunk(Chunk::START);

    /// The next frame of what was read.
    pub(super) fn step(&mut self, bytes: &mut BytesMut, limits: &Limits) -> Result<Step, Flaw> {
        self.skip_framing(bytes);
        let data = match self {
            Decoder::Broken(flaw) => return Err(*flaw),
            Decoder::Done => return Ok(Step::Done),
            Decoder::Chunk(Chunk::Trailers { seen }) => {
                return match take_trailers(bytes, seen, limits) {
                    Ok(Some(fields)) => {
                        *self = Decoder::Done;
                        Ok(match fields.is_empty() {
                            true => Step::Done,
                            false => Step::Trailers(fields),
                        })
                    }
                    Ok(None) => Ok(Step::More),
                    Err(flaw) => {
                        *self = Decoder::Broken(flaw);
                        Err(flaw)
                    }
                };
            }
            _ if bytes.is_empty() => return Ok(Step::More),
            Decoder::UntilClose => bytes.split().freeze(),
            Decoder::Length(left) | Decoder::Chunk(Chunk::Data(left)) => {
                let now = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= now as u64;
                bytes.split_to(now).freeze()
            }
            Decoder::Chunk(_) => return Ok(Step::More),
        };
        self.skip_framing(bytes);
        Ok(Step::Data(data))
    }

    /// The peer closed. True when that is how this body ends.
    pub(super) fn close(&mut self, bytes: &mut BytesMut, limits: &Limits) -> Result<bool, Flaw> {
        match self {
            Decoder::UntilClose => *self = Decoder::Done,
            // Trailers that were not worth a look before may still say more than "closed".
            Decoder::Chunk(Chunk::Trailers { .. }) => {
                head::take_trailers(bytes, limits)?;
            }
            _ => {}
        }
        Ok(*self == Decoder::Done)
    }

    /// The most bytes still worth reading at once.
    pub(super) fn left(&self) -> u64 {
        match self {
            Decoder::Length(left) => *left,
            _ => u64::MAX,
        }
    }

    /// Moves over framing up to data, trailers, the end or a flaw. A flaw waits for the next step: the data before it
    /// is whole.
    fn skip_framing(&mut self, bytes: &mut BytesMut) {
        match self {
            Decoder::Length(0) => *self = Decoder::Done,
            Decoder::Chunk(chunk) => match chunk.skip(bytes) {
                Ok(false) => {}
                Ok(true) => *self = Decoder::Done,
                Err(flaw) => *self = Decoder::Broken(Flaw::Malformed(flaw)),
            },
            _ => {}
        }
    }
}

impl Chunk {
    const START: Chunk = Chunk::Size { size: 0, digits: 0 };

    /// True at the end of a body without trailers.
    fn skip(&mut self, bytes: &mut BytesMut) -> Result<bool, &'static str> {
        let mut at = 0;
        let ended = loop {
            match self {
                Chunk::Data(0) => *self = Chunk::AfterData,
                Chunk::Data(_) => break false,
                Chunk::Trailers { .. } if bytes[at..].starts_with(b"\r\n") => {
                    at += 2;
                    break true;
                }
                Chunk::Trailers { .. } => break false,
                _ => {
                    let Some(&byte) = bytes.get(at) else {
                        break false;
                    };
                    *self = self.after(byte)?;
                    at += 1;
                }
            }
        };
        bytes.advance(at);
        Ok(ended)
    }

    fn after(self, byte: u8) -> Result<Chunk, &'static str> {
        let skipping = |skipped: u16| {
            if skipped < MOST_EXTENSION {
                Ok(skipped + 1)
            } else {
                Err("a chunk extension that does not end")
            }
        };
        Ok(match (self, byte) {
            (Chunk::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == MOST_DIGITS {
                    return Err("a chunk size of too many digits");
                }
                let nibble = match byte {
                    b'0'..=b'9' => byte - b'0',
                    _ => (byte | 0x20) - b'a' + 10,
                };
                // Sixteen digits are 64 bits: nothing can overflow.
                Chunk::Size {
                    size: size << 4 | u64::from(nibble),
                    digits: digits + 1,
                }
            }
            (Chunk::Size { digits: 0, .. }, _) => return Err("a chunk without a size"),
            (Chunk::Size { size, .. } | Chunk::Padding { size, .. }, b'\r')
            | (Chunk::Extension { size, .. }, b'\r') => Chunk::LineFeed { size },
            (Chunk::Size { size, .. }, b' ' | b'\t') => Chunk::Padding { size, skipped: 1 },
            (Chunk::Size { size, .. }, b';') => Chunk::Extension { size, skipped: 1 },
            (Chunk::Size { .. }, _) => return Err("a chunk size that is no number"),
            (Chunk::Padding { size, skipped }, b' ' | b'\t') => Chunk::Padding {
                size,
                skipped: skipping(skipped)?,
            },
            (Chunk::Padding { size, skipped }, b';') => Chunk::Extension {
                size,
                skipped: skipping(skipped)?,
            },
            (Chunk::Padding { .. }, _) => return Err("a chunk size that is no number"),
            (Chunk::Extension { .. }, b'\n') => return Err("a bare line feed behind a chunk size"),
            (Chunk::Extension { size, skipped }, _) => Chunk::Extension {
                size,
                skipped: skipping(skipped)?,
            },
            (Chunk::LineFeed { size: 0 }, b'\n') => Chunk::Trailers { seen: 0 },
            (Chunk::LineFeed { size }, b'\n') => Chunk::Data(size),
            (Chunk::LineFeed { .. }, _) => {
                return Err("a bare carriage return behind a chunk size");
            }
            (Chunk::AfterData, b'\r') => Chunk::AfterDataLineFeed,
            (Chunk::AfterDataLineFeed, b'\n') => Chunk::START,
            (Chunk::AfterData | Chunk::AfterDataLineFeed, _) => {
                return Err("a chunk longer than its size");
            }
            (Chunk::Data(_) | Chunk::Trailers { .. }, _) => self,
        })
    }
}

fn take_trailers(
    bytes: &mut BytesMut,
    seen: &mut usize,
    limits: &Limits,
) -> Result<Option<HeaderMap>, Flaw> {
    // Two bytes tell whether there are any; then only a possible end is worth a look.
    let worth_it = *seen < 2 || bytes.len() >= limits.head || may_end_section(bytes, *seen);
    *seen = bytes.len();
    if worth_it {
        head::take_trailers(bytes, limits)
    } else {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Default)]
    struct Read {
        data: Vec<u8>,
        trailers: Option<HeaderMap>,
        flaw: Option<Flaw>,
        done: bool,
    }

    /// Decodes what comes in the given pieces.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let (mut decoder, mut bytes, mut read) =
            (Decoder::CHUNKED, BytesMut::new(), Read::default());
        for piece in pieces {
            bytes.extend_from_slice(piece);
            loop {
                match decoder.step(
                    &mut bytes,
                    &Limits {
                        head: 256,
                        fields: 4,
                    },
                ) {
                    Ok(Step::Data(data)) => read.data.extend_from_slice(&data),
                    Ok(Step::Trailers(fields)) => read.trailers = Some(fields),
                    Ok(Step::More) => break,
                    Ok(Step::Done) => {
                        read.done = true;
                        break;
                    }
                    Err(flaw) => {
                        read.flaw = Some(flaw);
                        return read;
                    }
                }
            }
        }
        read
    }

    fn bytewise(text: &[u8]) -> Read {
        decode(text.chunks(1))
    }

    #[test]
    fn chunks_come_out_whole() {
        let read = decode([&b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0  ;z\r\n\r\n"[..]]);
        assert_eq!(read.data, b"abc0123456789");
        assert!(read.done && read.trailers.is_none());
    }

    #[test]
    fn the_last_data_ends_the_body_when_the_end_is_there() {
        let mut decoder = Decoder::CHUNKED;
        let mut bytes = BytesMut::from(&b"2\r\nhi\r\n0\r\n\r\n"[..]);
        let step = decoder.step(&mut bytes, &Limits::default());
        assert!(matches!(step, Ok(Step::Data(_))));
        assert_eq!(decoder, Decoder::Done);
    }

    #[test]
    fn trailers_come_last() {
        let read = bytewise(b"1\r\nx\r\n0\r\ndigest: y\r\n\r\n");
        assert_eq!(read.trailers.unwrap()["digest"], "y");
        assert!(read.done);
    }

    #[test]
    fn flaws_are_found_however_the_bytes_come() {
        let long_extension = format!("1;{}\r\nx\r\n", "e".repeat(2000));
        let long_padding = format!("1{}\r\nx\r\n", " ".repeat(2000));
        let corpus: &[&[u8]] = &[
            b"\r\n",
            b"x\r\n",
            b" 1\r\nx\r\n",
            b"-1\r\nx\r\n",
            b"0x1\r\nx\r\n",
            b"1 1\r\nx\r\n",
            b"1\nx\r\n",
            b"1\rx",
            b"1;a\nx\r\n",
            b"1;a\rx",
            b"1\r\nxy\r\n",
            b"1\r\nx\n",
            b"1\r\nx\rx",
            b"00000000000000001\r\nx\r\n",
            b"fffffffffffffffff\r\nx\r\n",
            b";a\r\n",
            long_extension.as_bytes(),
            long_padding.as_bytes(),
            b"0\r\n\n",
            b"0\r\na: b\n\n",
            b"0\r\na : b\r\n\r\n",
            b"0\r\na: b\r\n c\r\n\r\n",
        ];
        for text in corpus {
            let (once, bytewise) = (decode([*text]), bytewise(text));
            assert!(
                matches!(once.flaw, Some(Flaw::Malformed(_))),
                "{}: {once:?}",
                text.escape_ascii()
            );
            assert_eq!(once, bytewise, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn trailers_are_bounded() {
        let many = format!("0\r\n{}\r\n", "a: b\r\n".repeat(5));
        let large = format!("0\r\na: {}\r\n\r\n", "b".repeat(300));
        assert_eq!(bytewise(many.as_bytes()).flaw, Some(Flaw::TooManyFields));
        assert_eq!(bytewise(large.as_bytes()).flaw, Some(Flaw::TooLarge));
    }

    #[test]
    fn data_before_a_flaw_is_delivered() {
        let read = decode([&b"2\r\nhi\r\nzz"[..]]);
        assert_eq!(read.data, b"hi");
        assert!(read.flaw.is_some());
    }

    proptest! {
        #[test]
        fn splits_decide_nothing(
            text in "([0-9a-f]{1,2}|0|;x| |\r\n|\n|abc|a: b\r\n|\r\n\r\n){0,24}",
            cuts in prop::collection::vec(1usize..6, 1..60),
        ) {
            let (text, mut pieces, mut rest) = (text.as_bytes(), vec![], text.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, more) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = more;
            }
            // A flaw in trailers is noticed once they may have ended, or earlier: both are right.
            let (once, split) = (decode([text]), decode(pieces));
            prop_assert_eq!(&once.data, &split.data);
            prop_assert_eq!(once.done, split.done);
            prop_assert_eq!(once.trailers, split.trailers);
            if split.flaw.is_some() {
                prop_assert_eq!(once.flaw, split.flaw);
            }
        }
    }
}
