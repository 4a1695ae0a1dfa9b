//! From what the file says to what the table compares.

use super::{
    GrpcMatch, Match, PathMatch, Problem, RouteId, ValueMatch, regexes,
    rule::{Asks, Path, Rule, Value},
};

/// A route's matches; without any, the one that takes every request.
pub(super) fn rules(
    route: RouteId,
    matches: &[Match],
    problems: &mut Vec<Problem>,
) -> Vec<(Path, Rule)> {
    let all = [Match::default()];
    let matches = if matches.is_empty() { &all } else { matches };
    let mut rules = Vec::with_capacity(matches.len());
    for (match_index, one) in matches.iter().enumerate() {
        match rule(one) {
            Ok((path, asks)) => rules.push((
                path,
                Rule {
                    route,
                    match_index: match_index as u32,
                    asks,
                },
            )),
            Err(what) => problems.push(Problem {
                route,
                match_index,
                what,
            }),
        }
    }
    rules
}

fn rule(one: &Match) -> Result<(Path, Asks), String> {
    let path = match (&one.path, &one.grpc) {
        (Some(_), Some(_)) => {
            return Err("`grpc` says what the path is: leave `path` out".to_owned());
        }
        (None, Some(grpc)) => grpc_path(grpc)?,
        (Some(PathMatch::Exact(path)), None) => Path::Exact((**path).into()),
        (Some(PathMatch::Prefix(path)), None) => Path::prefix(path),
        (Some(PathMatch::Regex(pattern)), None) => {
            regexes::parse(pattern).map_err(|error| format!("regex `{pattern}`: {error}"))?;
            Path::Regex((**pattern).into())
        }
        (None, None) => Path::Any,
    };
    let headers = one
        .headers
        .iter()
        .map(|(name, wanted)| Ok((name.0.clone(), value(wanted)?)));
    let query = one
        .query
        .iter()
        .map(|(name, wanted)| Ok((name.as_str().into(), value(wanted)?)));
    let asks = Asks {
        method: one.method.as_ref().map(|method| method.0.clone()),
        grpc: one.grpc.is_some(),
        headers: headers.collect::<Result<_, String>>()?,
        query: query.collect::<Result<_, String>>()?,
    };
    Ok((path, asks))
}

/// A gRPC call's path is `/service/method`.
fn grpc_path(grpc: &GrpcMatch) -> Result<Path, String> {
    match (&grpc.service, &grpc.method) {
        (Some(service), Some(method)) => Ok(Path::Exact(format!("/{service}/{method}").into())),
        (Some(service), None) => Ok(Path::prefix(&format!("/{service}"))),
        (None, Some(method)) => Ok(Path::Regex(
            format!("/[^/]+/{}", regex_syntax::escape(method.as_str())).into(),
        )),
        (None, None) => Err("`grpc` needs a service, a method or both".to_owned()),
    }
}

fn value(wanted: &ValueMatch) -> Result<Value, String> {
    match wanted {
        ValueMatch::Exact(text) => Ok(Value::Exact(text.as_str().into())),
        ValueMatch::Regex(pattern) => regexes::parse(pattern)
            .and_then(|parsed| parsed.alone())
            .map(|regex| Value::Regex((**pattern).into(), regex))
            .map_err(|error| format!("regex `{pattern}`: {error}")),
    }
}
