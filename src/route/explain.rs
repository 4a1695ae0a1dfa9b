//! Why a request goes where it goes, in words, for `weft explain`.

use super::{RouteId, Table, View, matcher::HostRules};

/// Of matches for other paths only so many are listed: a host may have thousands.
const OTHERS: usize = 8;

impl Table {
    /// The steps of `find`, one a line: the host entry, then each match whose path fits, in order, with what it lacks,
    /// until one wins.
    ///
    /// `name` says what the operator calls a route.
    pub fn explain(&self, view: &View<'_>, name: impl Fn(RouteId) -> String) -> Vec<String> {
        let host = match view.port {
            Some(port) => format!("{}:{port}", view.host),
            None => view.host.to_owned(),
        };
        let Some(entry) = self.hosts.find(view.host, view.port) else {
            return vec![format!("host `{host}` is under no route's hosts")];
        };
        let entry = &self.entries[entry as usize];
        let rules = &self.rules[entry.rules as usize];
        let mut steps = vec![match entry.text == host {
            true => format!("host `{host}` has its own entry"),
            false => format!("host `{host}` falls under the entry `{}`", entry.text),
        }];
        if rules.steps(view, &name, &mut steps) {
            return steps;
        }
        steps.push(format!("no route of `{}` takes this request", entry.text));
        steps
    }
}

impl HostRules {
    /// True when a rule has won.
    fn steps(
        &self,
        view: &View<'_>,
        name: &impl Fn(RouteId) -> String,
        steps: &mut Vec<String>,
    ) -> bool {
        let tried = self.tried(view.path);
        for together in &tried {
            let mut rules: Vec<_> = Vec::new();
            for &bucket in together {
                let bucket = &self.buckets[bucket as usize];
                rules.extend(self.within(bucket).iter().map(|rule| (&bucket.path, rule)));
            }
            rules.sort_by_key(|(_, rule)| rule.precedence());
            for (path, rule) in rules {
                let who = format!(
                    "route `{}`, match {} ({path})",
                    name(rule.route),
                    rule.match_index + 1
                );
                match rule.asks.unmet(view) {
                    Some(lack) => steps.push(format!("{who}: {lack}")),
                    None => {
                        steps.push(format!("{who}: all holds, it wins"));
                        return true;
                    }
                }
            }
        }
        let others = (0u32..)
            .zip(&self.buckets)
            .filter(|(place, _)| !tried.iter().flatten().any(|seen| seen == place));
        let (mut listed, mut left) = (0, 0);
        for (path, rule) in others
            .flat_map(|(_, bucket)| self.within(bucket).iter().map(|rule| (&bucket.path, rule)))
        {
            if listed < OTHERS {
                listed += 1;
                steps.push(format!(
                    "route `{}`, match {} ({path}): path is `{}`",
                    name(rule.route),
                    rule.match_index + 1,
                    view.path
                ));
            } else {
                left += 1;
            }
        }
        if left > 0 {
            steps.push(format!("and {left} more matches that ask for another path"));
        }
        false
    }
}
