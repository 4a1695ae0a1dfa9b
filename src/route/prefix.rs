//! Path prefixes in a radix tree.
//!
//! A prefix counts in whole segments, as in the Gateway API: `/charge` holds `/charge` and `/charge/…`, not
//! `/charger`, and a slash at its end says nothing. One walk down the path finds the longest; from there, links lead
//! to the shorter ones without a second walk.

use std::collections::VecDeque;

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(super) struct Prefixes {
    nodes: Box<[Node]>,
    /// Of every node, the first byte of its label: children lie side by side and are searched here.
    firsts: Box<[u8]>,
    labels: Box<[u8]>,
}

#[derive(Debug, Clone)]
struct Node {
    label: (u32, u32),
    children: (u32, u32),
    /// Bytes from the root to the end of the label.
    depth: u32,
    /// What the caller stored for this very prefix, or `NONE`.
    value: u32,
    /// The nearest node above that has a value, or `NONE`.
    above: u32,
}

/// The prefix as it is stored and compared: without the slash at its end.
pub(super) fn trimmed(prefix: &str) -> &str {
    prefix.strip_suffix('/').unwrap_or(prefix)
}

/// Whether `path` lies within the trimmed `prefix`.
#[cfg(test)]
pub(super) fn holds(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Prefixes {
    /// Of trimmed prefixes, each given once.
    pub(super) fn new(mut prefixes: Vec<(&str, u32)>) -> Self {
        prefixes.sort_unstable();
        let mut tree = Build {
            nodes: vec![Node::new((0, 0), 0, NONE)],
            firsts: vec![0],
            labels: Vec::new(),
        };
        let mut todo = VecDeque::from([(0usize, &prefixes[..])]);
        while let Some((at, within)) = todo.pop_front() {
            tree.grow(at, within, &mut todo);
        }
        Prefixes {
            nodes: tree.nodes.into(),
            firsts: tree.firsts.into(),
            labels: tree.labels.into(),
        }
    }

    /// The values of the prefixes that hold `path`, longest first.
    #[inline]
    pub(super) fn holding<'a>(&'a self, path: &'a str) -> impl Iterator<Item = u32> + 'a {
        let path = path.as_bytes();
        let mut at = self.deepest(path);
        std::iter::from_fn(move || {
            while at != NONE {
                let node = &self.nodes[at as usize];
                at = node.above;
                if node.value != NONE && matches!(path.get(node.depth as usize), None | Some(b'/'))
                {
                    return Some(node.value);
                }
            }
            None
        })
    }

    fn deepest(&self, path: &[u8]) -> u32 {
        let mut at = 0u32;
        let mut rest = path;
        loop {
            let (from, to) = self.nodes[at as usize].children;
            let Some(&first) = rest.first() else {
                return at;
            };
            let Some(nth) = memchr::memchr(first, &self.firsts[from as usize..to as usize]) else {
                return at;
            };
            let child = from + nth as u32;
            let (from, to) = self.nodes[child as usize].label;
            let Some(below) = rest.strip_prefix(&self.labels[from as usize..to as usize]) else {
                return at;
            };
            rest = below;
            at = child;
        }
    }
}

impl Node {
    fn new(label: (u32, u32), depth: u32, above: u32) -> Self {
        Node {
            label,
            children: (0, 0),
            depth,
            value: NONE,
            above,
        }
    }
}

struct Build {
    nodes: Vec<Node>,
    firsts: Vec<u8>,
    labels: Vec<u8>,
}

impl Build {
    /// Gives node `at` its value and its children; `within` are the sorted prefixes that begin with the node's text.
    fn grow<'a>(
        &mut self,
        at: usize,
        mut within: &'a [(&'a str, u32)],
        todo: &mut VecDeque<(usize, &'a [(&'a str, u32)])>,
    ) {
        let depth = self.nodes[at].depth as usize;
        if let [(text, value), longer @ ..] = within
            && text.len() == depth
        {
            self.nodes[at].value = *value;
            within = longer;
        }
        let above = if self.nodes[at].value == NONE {
            self.nodes[at].above
        } else {
            at as u32
        };
        let children = self.nodes.len() as u32;
        for group in within.chunk_by(|(a, _), (b, _)| a.as_bytes()[depth] == b.as_bytes()[depth]) {
            // Sorted: what the first and the last share, all share.
            let (first, last) = (group[0].0.as_bytes(), group[group.len() - 1].0.as_bytes());
            let end = first.iter().zip(last).take_while(|(a, b)| a == b).count();
            let label = (
                self.labels.len() as u32,
                (self.labels.len() + end - depth) as u32,
            );
            self.labels.extend_from_slice(&first[depth..end]);
            self.firsts.push(first[depth]);
            todo.push_back((self.nodes.len(), group));
            self.nodes.push(Node::new(label, end as u32, above));
        }
        self.nodes[at].children = (children, self.nodes.len() as u32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tree(prefixes: &[&str]) -> Prefixes {
        Prefixes::new(
            prefixes
                .iter()
                .enumerate()
                .map(|(n, &text)| (trimmed(text), n as u32))
                .collect(),
        )
    }

    #[test]
    fn a_prefix_counts_in_whole_segments() {
        let tree = tree(&["/charge/", "/", "/charge/v1", "/charge-back"]);
        for (path, holding) in [
            ("/charge", vec![0, 1]),
            ("/charge/", vec![0, 1]),
            ("/charge/v1/x", vec![2, 0, 1]),
            ("/charger", vec![1]),
            ("/charge-back", vec![3, 1]),
            ("/charg", vec![1]),
            ("*", vec![]),
        ] {
            assert_eq!(tree.holding(path).collect::<Vec<_>>(), holding, "{path}");
        }
    }

    #[test]
    fn no_prefix_holds_nothing() {
        assert_eq!(tree(&[]).holding("/a").count(), 0);
    }

    proptest! {
        #[test]
        fn the_tree_says_what_a_list_says(
            prefixes in proptest::collection::btree_set("(/[ab]{0,3}){1,4}", 0..40),
            path in "(/[ab]{0,3}){1,6}",
        ) {
            let trimmed: std::collections::BTreeSet<&str> = prefixes.iter().map(|text| trimmed(text)).collect();
            let list: Vec<&str> = trimmed.into_iter().collect();
            let tree = Prefixes::new(list.iter().enumerate().map(|(n, &text)| (text, n as u32)).collect());
            let mut expected: Vec<&str> = list.iter().copied().filter(|prefix| holds(prefix, &path)).collect();
            expected.sort_by_key(|prefix| std::cmp::Reverse(prefix.len()));
            let found: Vec<&str> = tree.holding(&path).map(|n| list[n as usize]).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
