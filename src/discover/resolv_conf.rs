//! `/etc/resolv.conf`, read as glibc reads it: what cannot be understood is passed over.
//!
//! One thing more than glibc: a name server may carry a port, `127.0.0.1:5353` or `[::1]:5353`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_resolver::proto::rr::Name;

const DNS: u16 = 53;
/// glibc's `MAXNS`: further servers are not asked.
const SERVERS: usize = 3;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// At least one.
    pub(super) servers: Vec<SocketAddr>,
    pub(super) search: Vec<Name>,
    /// A name with so many dots is first looked up as it is; at most 15.
    pub(super) ndots: usize,
    /// Of one attempt, 1 to 30 s.
    pub(super) timeout: Duration,
    /// In all, 1 to 5.
    pub(super) attempts: usize,
    pub(super) rotate: bool,
    pub(super) tcp_only: bool,
}

impl ResolvConf {
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = ResolvConf {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            tcp_only: false,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                // The last of these lines counts, whichever it is.
                Some("search") => conf.search = words.filter_map(domain).collect(),
                Some("domain") => conf.search = words.take(1).filter_map(domain).collect(),
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf.servers.truncate(SERVERS);
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, DNS).into());
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (name, number) = word.split_once(':').unwrap_or((word, ""));
        match (name, number.parse::<u8>()) {
            ("ndots", Ok(dots)) => self.ndots = usize::from(dots.min(15)),
            ("timeout", Ok(seconds)) => {
                self.timeout = Duration::from_secs(seconds.clamp(1, 30).into())
            }
            ("attempts", Ok(attempts)) => self.attempts = usize::from(attempts.clamp(1, 5)),
            ("rotate", _) => self.rotate = true,
            ("use-vc", _) => self.tcp_only = true,
            _ => {}
        }
    }

    /// The names to look up for `host`, in order.
    pub(super) fn candidates(&self, host: &str) -> Vec<Name> {
        let Ok(mut name) = Name::from_str_relaxed(host) else {
            return Vec::new();
        };
        let below = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = below.collect();
        name.set_fqdn(true);
        if host.matches('.').count() >= self.ndots {
            names.insert(0, name);
        } else {
            names.push(name);
        }
        names
    }
}

fn server(word: &str) -> Option<SocketAddr> {
    word.parse()
        .ok()
        .or_else(|| Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, DNS)))
}

fn domain(word: &str) -> Option<Name> {
    let mut name = Name::from_str_relaxed(word).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_file_is_read() {
        let conf = ResolvConf::parse(
            "# made by kubelet\nsearch shop.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\
             options ndots:5 timeout:2 attempts:3 ; more\n",
        );
        assert_eq!(conf.servers, ["10.96.0.10:53".parse().unwrap()]);
        assert_eq!(
            (conf.ndots, conf.timeout, conf.attempts),
            (5, Duration::from_secs(2), 3)
        );
        let names = |host: &str| {
            conf.candidates(host)
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("payments"),
            [
                "payments.shop.svc.cluster.local.",
                "payments.svc.cluster.local.",
                "payments."
            ]
        );
        assert_eq!(names("a.b.c.d.e.f")[0], "a.b.c.d.e.f.");
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        let conf = ResolvConf::parse(
            "nameserver\nnameserver x\nnameserver fe80::1%eth0\noptions ndots:x ndots:99 timeout:0\nsortlist 1.2.3.4\n",
        );
        assert_eq!(
            conf.servers,
            ["127.0.0.1:53".parse().unwrap()],
            "glibc's default"
        );
        assert_eq!((conf.ndots, conf.timeout), (15, Duration::from_secs(1)));
    }

    #[test]
    fn three_servers_are_asked_and_ports_may_be_named() {
        let conf = ResolvConf::parse(
            "nameserver 127.0.0.1:5353\nnameserver [::1]:54\nnameserver ::1\nnameserver 1.1.1.1\n",
        );
        let expected =
            ["127.0.0.1:5353", "[::1]:54", "[::1]:53"].map(|server| server.parse().unwrap());
        assert_eq!(conf.servers, expected);
    }

    #[test]
    fn the_last_of_search_and_domain_counts() {
        let search = |text: &str| {
            ResolvConf::parse(text)
                .search
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(search("search a b\ndomain c d\n"), ["c."]);
        assert_eq!(search("domain c\nsearch a b.\n"), ["a.", "b."]);
    }
}
