//! From the application beside us to its upstreams.

mod settings;

pub use settings::{
    Backend, ConnectTimeout, Filter, HeaderModifier, Panic, PathRewrite, Protocol, RedirectStatus,
    RequestRedirect, RouteSettings, Scheme, Settings, Tls, Unknown, UpstreamSettings, UrlRewrite,
};
