//! Follows a chunked body without touching it, and says where it ends or breaks.
//!
//! Stricter than hyper: lines end in CRLF, a size is hexadecimal digits and nothing else, extensions are at most
//! 1 KiB in all, trailers are well-formed fields. The data itself is skipped, never looked at.

use super::{
    head::{MAX_FIELDS, MAX_HEAD},
    octets::{self, TOKEN},
};

/// Longest sum of extensions a body may carry.
const MAX_EXTENSIONS: u32 = 1 << 10;
/// So many digits a size: the rest of a `u64` is never needed.
const MAX_DIGITS: u8 = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataEnded,
    Line,
    Name,
    Value,
    LineEnd,
    End,
}

/// The place in a chunked body.
#[derive(Debug)]
pub(super) struct Chunks {
    at: At,
    /// The size being read, then what is left of that chunk.
    left: u64,
    digits: u8,
    extensions: u32,
    trailer_bytes: u32,
    trailer_fields: u32,
}

/// What a stretch of bytes was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// So many bytes of it belong to the body and are sound.
    pub(super) len: usize,
    /// How many of these are data.
    pub(super) data: u64,
    pub(super) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The body goes on.
    More,
    Whole,
    Broken(&'static str),
}

impl Chunks {
    pub(super) fn new() -> Self {
        Chunks {
            at: At::Size,
            left: 0,
            digits: 0,
            extensions: 0,
            trailer_bytes: 0,
            trailer_fields: 0,
        }
    }

    /// Follows the body through its next bytes.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Stretch {
        let mut at = 0;
        let mut data = 0;
        while at < bytes.len() {
            if self.at == At::Data {
                let here = self.left.min((bytes.len() - at) as u64);
                self.left -= here;
                at += here as usize;
                data += here;
                if self.left == 0 {
                    self.at = At::DataEnd;
                }
                continue;
            }
            match self.framing(bytes[at]) {
                End::More => at += 1,
                End::Whole => {
                    return Stretch {
                        len: at + 1,
                        data,
                        end: End::Whole,
                    };
                }
                broken => {
                    return Stretch {
                        len: at,
                        data,
                        end: broken,
                    };
                }
            }
        }
        Stretch {
            len: at,
            data,
            end: End::More,
        }
    }

    fn framing(&mut self, byte: u8) -> End {
        self.at = match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => {
                if self.digits == MAX_DIGITS {
                    return End::Broken("a chunk size out of range");
                }
                self.digits += 1;
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                At::Size
            }
            (At::Size, b'\r') if self.digits > 0 => At::SizeEnd,
            (At::Size, b';') if self.digits > 0 => At::Extension,
            (At::Size, _) => return End::Broken("a chunk size that is not a hexadecimal number"),
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return End::Broken("more than 1 KiB of chunk extensions");
                }
                At::Extension
            }
            (At::Extension, _) => return End::Broken("a control byte in a chunk extension"),
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::Line } else { At::Data }
            }
            (At::DataEnd, b'\r') => At::DataEnded,
            (At::DataEnded, b'\n') => At::Size,
            (At::DataEnd | At::DataEnded, _) => {
                return End::Broken("a chunk longer than its size says");
            }
            (At::Line, b'\r') => At::End,
            (At::End, b'\n') => return End::Whole,
            (At::Line, _) if octets::is(byte, TOKEN) => {
                self.trailer_fields += 1;
                if self.trailer_fields as usize > MAX_FIELDS {
                    return End::Broken("more than 100 trailer fields");
                }
                At::Name
            }
            (At::Name, b':') => At::Value,
            (At::Name, _) if octets::is(byte, TOKEN) => At::Name,
            (At::Value, b'\r') => At::LineEnd,
            (At::Value, b'\t' | b' '..=b'~' | 0x80..) => At::Value,
            (At::LineEnd, b'\n') => At::Line,
            (At::SizeEnd | At::LineEnd | At::End, _) => {
                return End::Broken("a carriage return without a line feed in a chunked body");
            }
            (At::Line | At::Name, _) => {
                return End::Broken("a trailer line without a valid name and a colon");
            }
            (At::Value, _) => return End::Broken("a control byte in a trailer"),
            (At::Data, _) => return End::More,
        };
        if matches!(self.at, At::Name | At::Value) {
            self.trailer_bytes += 1;
            if self.trailer_bytes as usize > MAX_HEAD {
                return End::Broken("trailers larger than 64 KiB");
            }
        }
        End::More
    }
}
