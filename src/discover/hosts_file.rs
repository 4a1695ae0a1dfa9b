//! `/etc/hosts`: names that need no name server.

use std::{collections::HashMap, net::IpAddr};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostsFile(HashMap<String, Vec<IpAddr>>);

impl HostsFile {
    pub(super) fn parse(text: &str) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_ascii_whitespace();
            let Some(Ok(ip)) = words.next().map(str::parse) else {
                continue;
            };
            for name in words {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                hosts.entry(name).or_default().push(ip);
            }
        }
        HostsFile(hosts)
    }

    /// Of a name in lower case, as it is: the search list is for name servers.
    pub(super) fn find(&self, host: &str) -> Option<&[IpAddr]> {
        self.0.get(host).map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_have_all_their_addresses() {
        let hosts = HostsFile::parse(
            "127.0.0.1 localhost\n::1 localhost ip6-localhost # six\n# 9.9.9.9 no\nbad line\n10.0.0.1 DB. db.shop\n",
        );
        let find = |host: &str| {
            hosts
                .find(host)
                .map(|ips| ips.iter().map(|ip| ip.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(find("localhost").unwrap(), ["127.0.0.1", "::1"]);
        assert_eq!(find("db").unwrap(), ["10.0.0.1"]);
        assert_eq!(find("db.shop").unwrap(), ["10.0.0.1"]);
        assert_eq!(find("no"), None);
        assert_eq!(find("line"), None);
    }
}
