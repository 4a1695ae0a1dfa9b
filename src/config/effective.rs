//! The whole configuration as YAML, every default included, each value marked with where it comes from.
//!
//! What is printed can be loaded again. Credentials are not printed: a header's value from the environment stands as
//! its `${NAME}`, and `authorization`, `cookie` and the like as `***`.

use std::{fmt::Write, net::SocketAddrV4};

use serde_json::{Map, Value};

use super::{
    load::Loaded,
    tree::{Step, Steps},
};

/// The values that count, without credentials.
pub fn values(loaded: &Loaded) -> Value {
    let mut value = serde_json::to_value(&loaded.config).unwrap_or_default();
    hide(&mut value, &Steps::default(), loaded);
    value
}

/// The values that count as YAML, each with its origin in a comment.
pub fn effective(loaded: &Loaded) -> String {
    let mut text = String::new();
    if let Value::Object(map) = values(loaded) {
        Printer {
            text: &mut text,
            loaded,
        }
        .map(&map, &Steps::default(), 0);
    }
    text
}

fn hide(value: &mut Value, at: &Steps, loaded: &Loaded) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                hide(value, &at.key(key), loaded);
            }
        }
        Value::Array(items) => {
            for (nth, item) in items.iter_mut().enumerate() {
                hide(item, &at.index(nth), loaded);
            }
        }
        Value::String(text) => {
            if !is_field(at) {
                return;
            }
            let Some(Step::Key(name)) = at.last() else {
                return;
            };
            let secret = [
                "authorization",
                "cookie",
                "token",
                "secret",
                "password",
                "api-key",
            ];
            if let Some(written) = loaded.origins.written(at) {
                written.clone_into(text);
            } else if secret.iter().any(|word| name.contains(word)) {
                "***".clone_into(text);
            }
        }
        _ => {}
    }
}

/// Whether a value is that of a header field, where credentials stand.
fn is_field(at: &Steps) -> bool {
    let [.., Step::Key(group), Step::Key(_)] = &**at else {
        return false;
    };
    matches!(group.as_str(), "set" | "add" | "headers")
}

struct Printer<'a> {
    text: &'a mut String,
    loaded: &'a Loaded,
}

impl Printer<'_> {
    fn map(&mut self, map: &Map<String, Value>, at: &Steps, indent: usize) {
        for (key, value) in map {
            let _ = write!(
                self.text,
                "{:indent$}{}:",
                "",
                scalar(&Value::from(key.as_str()))
            );
            self.value(value, &at.key(key), indent + 2);
        }
    }

    /// What stands after a `:` or a `-`: on its line, or below it.
    fn value(&mut self, value: &Value, at: &Steps, indent: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                self.text.push('\n');
                self.map(map, at, indent);
            }
            Value::Array(items) if items.iter().any(|item| item.is_object()) => {
                self.text.push('\n');
                for (nth, item) in items.iter().enumerate() {
                    self.item(item, &at.index(nth), indent);
                }
            }
            flat => {
                let origin = self.loaded.origins.of(at);
                let mut shown = scalar(flat);
                // A text that has `${` in it is not a reference, unless it is one.
                if !is_field(at) || self.loaded.origins.written(at).is_none() {
                    shown = shown.replace("${", "$${");
                }
                let _ = writeln!(self.text, " {shown}  # {origin}");
            }
        }
    }

    /// An item of a list; a mapping's first key stands beside the dash.
    fn item(&mut self, item: &Value, at: &Steps, indent: usize) {
        match item {
            Value::Object(map) if !map.is_empty() => {
                let start = self.text.len();
                self.map(map, at, indent + 2);
                self.text
                    .replace_range(start + indent..start + indent + 1, "-");
            }
            flat => {
                let _ = write!(self.text, "{:indent$}-", "");
                self.value(flat, at, indent + 2);
            }
        }
    }
}

/// A value on one line. Strings that YAML could take for anything else stand in JSON's quotes, which are YAML's as well.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(scalar).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether a text is itself without quotes, for readers of YAML 1.1 and 1.2.
fn is_plain(text: &str) -> bool {
    let inner =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if text.parse::<SocketAddrV4>().is_ok() {
        return true;
    }
    // A number and a unit is a text; a number, or what some reader takes for one, is not.
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .map(|at| &text[at..]);
    let time = matches!(
        unit,
        Some("ms" | "s" | "m" | "h" | "d" | "B" | "KiB" | "MiB" | "GiB" | "TiB")
    );
    let begins = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'/');
    (time || begins)
        && text.bytes().all(inner)
        && !words.contains(&text.to_ascii_lowercase().as_str())
}
