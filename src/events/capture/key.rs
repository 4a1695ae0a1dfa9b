//! The key of a call: order is kept among calls of the same one.
//!
//! What nearly every file says, `request.headers["x"]`, is read straight from the map; any other expression runs as
//! CEL over a copy of the request's head.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use bytes::Bytes;
use cel::{Context, ExecutionError, Program, Value};
use http::{HeaderName, request};

use super::super::Expression;
use crate::fault::{Fault, Reason};

pub enum Key {
    Header(HeaderName),
    Program(Program),
    /// An expression that compiled when the file was read and does not now: every call fails.
    Broken,
}

impl Key {
    pub fn compile(said: &Expression) -> Self {
        if let Some(name) = header_alone(said.as_str()) {
            return Key::Header(name);
        }
        Program::compile(said.as_str()).map_or(Key::Broken, Key::Program)
    }

    /// The call's key; none where what it is made of is missing or empty: such calls have no order.
    pub fn of(&self, head: &request::Parts, host: &str) -> Result<Option<Bytes>, Fault> {
        let key = match self {
            Key::Header(name) => {
                let value = head.headers.get(name);
                value.map(|value| Bytes::copy_from_slice(value.as_bytes()))
            }
            Key::Program(program) => run(program, head, host)?,
            Key::Broken => return Err(failed("its expression does not compile")),
        };
        Ok(key.filter(|key| !key.is_empty()))
    }
}

/// The name in `request.headers["name"]`, where the expression is just that.
fn header_alone(text: &str) -> Option<HeaderName> {
    let inner = text.trim().strip_prefix("request.headers[")?;
    let inner = inner.strip_suffix(']')?.trim();
    let name = ['"', '\'']
        .into_iter()
        .find_map(|quote| inner.strip_prefix(quote)?.strip_suffix(quote))?;
    // An upper-case name finds nothing in CEL's map, and must find nothing here.
    let plain = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    plain.then(|| HeaderName::from_bytes(name.as_bytes()).ok())?
}

fn run(program: &Program, head: &request::Parts, host: &str) -> Result<Option<Bytes>, Fault> {
    let mut context = Context::default();
    context.add_variable_from_value("request", facts(head, host));
    match program.execute(&context) {
        Ok(Value::String(text)) => Ok(Some(Bytes::copy_from_slice(text.as_bytes()))),
        Ok(Value::Bytes(bytes)) => Ok(Some(Bytes::copy_from_slice(&bytes))),
        Ok(Value::Int(number)) => Ok(Some(number.to_string().into())),
        Ok(Value::UInt(number)) => Ok(Some(number.to_string().into())),
        Ok(Value::Bool(is)) => Ok(Some(is.to_string().into())),
        Ok(Value::Null) | Err(ExecutionError::NoSuchKey(_)) => Ok(None),
        Ok(other) => Err(failed(&format!("it is {other:?}, not a text"))),
        Err(error) => Err(failed(&error.to_string())),
    }
}

#[cold]
fn failed(why: &str) -> Fault {
    Fault::new(
        Reason::KeyFailed,
        "the key of this deferred call cannot be computed; nothing is stored",
    )
    .inside(why)
}

/// `request` as expressions see it. Of several fields of one name the first counts.
fn facts(head: &request::Parts, host: &str) -> Value {
    let text = |text: &str| Value::String(Arc::new(text.to_owned()));
    let mut headers: HashMap<String, Value> = HashMap::new();
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let slot = headers.entry(name.as_str().to_owned());
        slot.or_insert_with(|| text(&value));
    }
    let mut query: HashMap<String, Value> = HashMap::new();
    for pair in head.uri.query().unwrap_or("").split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !name.is_empty() {
            let slot = query.entry(decoded(name).into_owned());
            slot.or_insert_with(|| text(&decoded(value)));
        }
    }
    let facts: HashMap<String, Value> = HashMap::from([
        ("method".to_owned(), text(head.method.as_str())),
        ("path".to_owned(), text(head.uri.path())),
        ("host".to_owned(), text(host)),
        ("headers".to_owned(), Value::from(headers)),
        ("query".to_owned(), Value::from(query)),
    ]);
    Value::from(facts)
}

/// A query's name or value as the application reads it.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (
            bytes[at],
            digit(bytes.get(at + 1)),
            digit(bytes.get(at + 2)),
        ) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', ..) => {
                out.push(b' ');
                at += 1;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(expression: &str) -> Result<Option<String>, Reason> {
        let key = Key::compile(&expression.parse().unwrap());
        let request = http::Request::post("http://email/v1/send?to=a%20b&n=7")
            .header("x-customer-id", "c1")
            .header("x-empty", "")
            .body(())
            .unwrap();
        let (head, ()) = request.into_parts();
        let found = key.of(&head, "email").map_err(|fault| fault.reason())?;
        Ok(found.map(|key| String::from_utf8(key.to_vec()).unwrap()))
    }

    #[test]
    fn a_key_is_read_from_the_request() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(key(r#"request.headers["x-customer-id"]"#), some("c1"));
        assert_eq!(
            key(r#"request.method + request.headers["x-customer-id"]"#),
            some("POSTc1")
        );
        assert_eq!(key("request.query.to"), some("a b"));
        assert_eq!(key("request.host + request.path"), some("email/v1/send"));
        assert_eq!(key("size(request.path)"), some("8"));
    }

    #[test]
    fn what_is_missing_is_no_key_and_what_fails_is_told() {
        assert_eq!(key("request.headers['x-none']"), Ok(None));
        assert_eq!(key("request.headers['x-empty']"), Ok(None));
        assert_eq!(key("request.headers['x-none'] + 'a'"), Ok(None));
        assert_eq!(key("request.headers"), Err(Reason::KeyFailed));
        assert_eq!(key("request.path + 1"), Err(Reason::KeyFailed));
        assert_eq!(key("int(request.path)"), Err(Reason::KeyFailed));
    }

    #[test]
    fn the_short_way_and_the_long_way_agree() {
        for name in ["x-customer-id", "X-Customer-Id", "x-none"] {
            let short = key(&format!("request.headers[\"{name}\"]"));
            let long = key(&format!("string(request.headers[\"{name}\"])"));
            assert_eq!(short, long, "{name}");
        }
    }
}
