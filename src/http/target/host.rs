//! Reads `host[:port]`: the same in a `Host`, an `:authority` and an absolute target.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::bad;
use crate::{
    fault::Fault,
    http::octets::{self, LABEL, NAME},
};

/// Longest host name DNS knows, its final dot not counted.
const MAX_HOST: usize = 253;

/// A host, and the port if one was written.
pub(super) type Authority<'a> = (Cow<'a, str>, Option<u16>);

/// Reads `host[:port]`.
pub(super) fn read_authority(bytes: &[u8]) -> Result<Authority<'_>, Fault> {
    let end = octets::run(bytes, NAME);
    let port = match &bytes[end..] {
        [] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        [b'[', address @ ..] if end == 0 => return self::address(address),
        _ => return Err(bad("a host with a byte that no host has")),
    };
    Ok((name(&bytes[..end])?, port))
}

fn name(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    let bytes = bytes.strip_suffix(b".").unwrap_or(bytes);
    if bytes.is_empty() || bytes.len() > MAX_HOST {
        return Err(bad("a host that is empty or longer than 253 bytes"));
    }
    let mut label = 0;
    let mut upper = false;
    loop {
        let rest = &bytes[label..];
        let mut len = octets::run(rest, LABEL);
        if !matches!(rest.get(len), None | Some(b'.')) {
            upper = true;
            len = rest
                .iter()
                .position(|&byte| byte == b'.')
                .unwrap_or(rest.len());
        }
        if len == 0 {
            return Err(bad("a host with an empty label"));
        }
        if len == rest.len() {
            break;
        }
        label += len + 1;
    }
    let last = &bytes[label..];
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(bad("a host with a byte that no host has"));
    };
    if last[0].is_ascii_digit() && is_number(last) && text.parse::<Ipv4Addr>().is_err() {
        return Err(bad("a host that is a number and no IPv4 address"));
    }
    Ok(match upper {
        true => Cow::Owned(text.to_ascii_lowercase()),
        false => Cow::Borrowed(text),
    })
}

/// What resolvers of old read as a part of an address.
fn is_number(label: &[u8]) -> bool {
    match label {
        [b'0', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// The rest of `[address]` or `[address]:port`.
#[cold]
fn address(bytes: &[u8]) -> Result<Authority<'_>, Fault> {
    let refused = || bad("a host in brackets that is no IPv6 address");
    let end = bytes
        .iter()
        .position(|&byte| byte == b']')
        .ok_or_else(refused)?;
    let text = str::from_utf8(&bytes[..end]).map_err(|_| refused())?;
    let address: Ipv6Addr = text.parse().map_err(|_| refused())?;
    let port = match &bytes[end + 1..] {
        [] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        _ => return Err(refused()),
    };
    // One address, one text.
    Ok((Cow::Owned(address.to_string()), port))
}

fn port(digits: &[u8]) -> Result<u16, Fault> {
    let all = !digits.is_empty()
        && digits.len() <= 5
        && digits[0] != b'0'
        && digits.iter().all(u8::is_ascii_digit);
    let value = digits.iter().fold(0, |sum, &digit| {
        sum * 10 + u32::from(digit.wrapping_sub(b'0'))
    });
    match u16::try_from(value) {
        Ok(port) if all => Ok(port),
        _ => Err(bad("a port that is not between 1 and 65535")),
    }
}
