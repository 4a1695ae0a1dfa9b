//! A route's filters, compiled: what is changed of a request on its way out, and of the answer on its way back.

use http::{HeaderMap, HeaderName, HeaderValue, Response, header, request::Parts};

use super::{Filter, HeaderModifier, PathRewrite, RequestRedirect, Scheme};
use crate::{
    fault::{Fault, Reason},
    http::Body,
    route::{Match, PathMatch},
};

/// Compiled filters of one route; empty for most.
#[derive(Default)]
pub struct Filters {
    request: Vec<Change>,
    response: Vec<Modifier>,
    redirect: Option<Redirect>,
}

enum Change {
    Headers(Modifier),
    Host(HeaderValue),
    Path(Path),
}

#[derive(Default)]
struct Modifier {
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// What becomes of a path; a prefix is one of those that the route's matches name.
enum Path {
    Full(Box<str>),
    Prefix {
        matched: Vec<Box<str>>,
        with: Box<str>,
    },
}

struct Redirect {
    said: RequestRedirect,
    path: Option<Path>,
}

impl Filters {
    pub fn compile(filters: &[Filter], matches: &[Match]) -> Self {
        let mut compiled = Filters::default();
        for filter in filters {
            match filter {
                Filter::RequestHeaderModifier(modifier) => {
                    compiled
                        .request
                        .push(Change::Headers(Modifier::compile(modifier)));
                }
                Filter::ResponseHeaderModifier(modifier) => {
                    compiled.response.push(Modifier::compile(modifier))
                }
                Filter::UrlRewrite(rewrite) => {
                    if let Some(host) = rewrite
                        .hostname
                        .as_ref()
                        .and_then(|host| HeaderValue::from_str(host.as_str()).ok())
                    {
                        compiled.request.push(Change::Host(host));
                    }
                    if let Some(path) = &rewrite.path {
                        compiled
                            .request
                            .push(Change::Path(Path::compile(path, matches)));
                    }
                }
                Filter::RequestRedirect(redirect) => {
                    let path = redirect
                        .path
                        .as_ref()
                        .map(|path| Path::compile(path, matches));
                    compiled.redirect = Some(Redirect {
                        said: redirect.clone(),
                        path,
                    });
                }
            }
        }
        compiled
    }

    pub fn redirects(&self) -> bool {
        self.redirect.is_some()
    }

    /// Changes a request's head. A path that cannot be rewritten is the file's fault and says so.
    pub fn request(&self, head: &mut Parts) -> Result<(), Fault> {
        for change in &self.request {
            match change {
                Change::Headers(modifier) => modifier.apply(&mut head.headers),
                Change::Host(host) => {
                    head.headers.insert(header::HOST, host.clone());
                }
                Change::Path(path) => {
                    let rewritten = path.rewrite(head.uri.path(), head.uri.query());
                    head.uri = rewritten.parse().map_err(|_| {
                        Fault::new(
                            Reason::Internal,
                            "the route's urlRewrite made a path that is none",
                        )
                        .inside(rewritten)
                    })?;
                }
            }
        }
        Ok(())
    }

    pub fn response(&self, headers: &mut HeaderMap) {
        for modifier in &self.response {
            modifier.apply(headers);
        }
    }

    /// The redirect that answers a request for `host`, if the route has one.
    pub fn redirect(&self, head: &Parts, host: &str, port: Option<u16>) -> Option<Response<Body>> {
        let redirect = self.redirect.as_ref()?;
        let scheme = match redirect.said.scheme {
            Some(Scheme::Https) => "https",
            Some(Scheme::Http) | None => "http",
        };
        let host = redirect
            .said
            .hostname
            .as_ref()
            .map_or(host, |host| host.as_str());
        // A port that was only the old scheme's is not the new one's.
        let port = redirect
            .said
            .port
            .or(port.filter(|_| redirect.said.scheme.is_none()));
        let authority = match port {
            Some(port) if !is_default(scheme, port) => format!("{host}:{port}"),
            _ => host.to_owned(),
        };
        let path = match &redirect.path {
            Some(path) => path.rewrite(head.uri.path(), head.uri.query()),
            None => head
                .uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
        };
        let location = HeaderValue::from_str(&format!("{scheme}://{authority}{path}")).ok()?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = redirect.said.status_code.code();
        response.headers_mut().insert(header::LOCATION, location);
        self.response(response.headers_mut());
        Some(response)
    }
}

fn is_default(scheme: &str, port: u16) -> bool {
    matches!((scheme, port), ("http", 80) | ("https", 443))
}

impl Modifier {
    fn compile(said: &HeaderModifier) -> Self {
        let pairs = |fields: &std::collections::BTreeMap<_, _>| {
            let pair = |(name, value): (&crate::units::FieldName, &crate::units::FieldValue)| {
                (name.0.clone(), value.0.clone())
            };
            fields.iter().map(pair).collect()
        };
        Modifier {
            set: pairs(&said.set),
            add: pairs(&said.add),
            remove: said.remove.iter().map(|name| name.0.clone()).collect(),
        }
    }

    fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

impl Path {
    fn compile(said: &PathRewrite, matches: &[Match]) -> Self {
        match said {
            PathRewrite::ReplaceFullPath(path) => Path::Full((**path).into()),
            PathRewrite::ReplacePrefixMatch(path) => {
                let prefix = |matched: &Match| match &matched.path {
                    Some(PathMatch::Prefix(prefix)) => Some(prefix.trim_end_matches('/').into()),
                    _ => None,
                };
                let mut matched: Vec<Box<str>> = matches.iter().filter_map(prefix).collect();
                matched.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
                Path::Prefix {
                    matched,
                    with: path.trim_end_matches('/').into(),
                }
            }
        }
    }

    fn rewrite(&self, path: &str, query: Option<&str>) -> String {
        let mut rewritten = match self {
            Path::Full(full) => full.to_string(),
            Path::Prefix { matched, with } => {
                let rest = matched.iter().find_map(|prefix| {
                    let rest = path.strip_prefix(&**prefix)?;
                    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
                });
                format!("{with}{}", rest.unwrap_or(path))
            }
        };
        if !rewritten.starts_with('/') {
            rewritten.insert(0, '/');
        }
        if let Some(query) = query {
            rewritten.push('?');
            rewritten.push_str(query);
        }
        rewritten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_by_whole_segments_as_the_gateway_api_says() {
        let table = [
            (&["/foo"][..], "/xyz", "/foo/bar", "/xyz/bar"),
            (&["/foo"], "/xyz/", "/foo/bar", "/xyz/bar"),
            (&["/foo/"], "/xyz", "/foo/bar", "/xyz/bar"),
            (&["/foo"], "/xyz", "/foo", "/xyz"),
            (&["/foo"], "/xyz", "/foo/", "/xyz/"),
            (&["/foo"], "/", "/foo", "/"),
            (&["/foo"], "/", "/foo/bar", "/bar"),
            (&["/a", "/a/b"], "/x", "/a/b/c", "/x/c"),
        ];
        for (prefixes, with, path, expected) in table {
            let mut matched: Vec<Box<str>> = prefixes
                .iter()
                .map(|prefix| prefix.trim_end_matches('/').into())
                .collect();
            matched.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            let rewrite = Path::Prefix {
                matched,
                with: with.trim_end_matches('/').into(),
            };
            assert_eq!(rewrite.rewrite(path, None), expected);
            assert_eq!(
                rewrite.rewrite(path, Some("q=1")),
                format!("{expected}?q=1")
            );
        }
    }
}
