//! `${NAME}` in scalars, by the environment.
//!
//! It happens after the text has become a tree, so that no value of a variable can add a key or a list.

use super::{
    diagnostic::Problem,
    tree::{Reference, Tree},
};

/// How long all scalars together may grow, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Puts the environment's values in the place of `${NAME}` and `${NAME:-otherwise}`; `$${` is a plain `${`.
pub fn expand(tree: &mut Tree, environment: &dyn Fn(&str) -> Option<String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut room = MAX_BYTES;
    for (id, scalar) in tree.scalars_mut() {
        if !scalar.text.contains("${") {
            continue;
        }
        match resolve(&scalar.text, room, environment) {
            Ok((text, names)) => {
                room -= text.len();
                let written = std::mem::replace(&mut scalar.text, text);
                if !names.is_empty() {
                    scalar.from = Some(Reference { written, names });
                }
            }
            Err(words) => problems.push(Problem::whole(words).node(id)),
        }
    }
    problems
}

fn resolve(
    text: &str,
    room: usize,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<(String, Vec<String>), String> {
    let mut made = String::new();
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        let (before, reference) = (&rest[..start], &rest[start + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            made.push_str(before);
            made.push_str("${");
            rest = reference;
            continue;
        }
        made.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err("`${` without its `}`; a plain `${` is written `$${`".into());
        };
        let inner = &reference[..end];
        let (name, otherwise) = match inner.split_once(":-") {
            Some((name, otherwise)) => (name, Some(otherwise)),
            None => (inner, None),
        };
        if !is_name(name) {
            return Err(format!(
                "`${{{inner}}}` is not `${{NAME}}` or `${{NAME:-otherwise}}`; a plain `${{` is written `$${{`"
            ));
        }
        let set = environment(name).filter(|value| !value.is_empty() || otherwise.is_none());
        match (set, otherwise) {
            (Some(value), _) => made.push_str(&value),
            (None, Some(otherwise)) => made.push_str(otherwise),
            (None, None) => return Err(format!("the environment variable `{name}` is not set")),
        }
        names.push(name.to_owned());
        rest = &reference[end + 1..];
        if made.len() > room {
            return Err("the values of the environment's variables are more than 1 MiB".into());
        }
    }
    made.push_str(rest);
    if made.len() > room {
        return Err("the values of the environment's variables are more than 1 MiB".into());
    }
    Ok((made, names))
}

fn is_name(name: &str) -> bool {
    let first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    name.as_bytes().first().is_some_and(first)
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<String, String> {
        let environment = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        resolve(text, 100, &environment).map(|(text, _)| text)
    }

    #[test]
    fn names_become_their_values() {
        for (text, made) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${B:-2}", "2"),
            ("${EMPTY}", ""),
            ("${EMPTY:-3}", "3"),
            ("$${A}", "${A}"),
            ("$A $", "$A $"),
        ] {
            assert_eq!(said(text).unwrap(), made, "{text}");
        }
    }

    #[test]
    fn what_is_not_set_is_an_error() {
        assert_eq!(
            said("${B}").unwrap_err(),
            "the environment variable `B` is not set"
        );
        for bad in ["${", "${}", "${1}", "${a b}"] {
            assert!(said(bad).is_err(), "{bad}");
        }
        assert!(resolve(&"${A}".repeat(101), 100, &|_| Some("1".into())).is_err());
    }
}
