//! "Did you mean": the known word nearest to one that is not known.

/// The nearest of `known`, where it is near enough to be meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let word = word.to_ascii_lowercase();
    if word.is_empty() || word.len() > 64 {
        return None;
    }
    let near = |name: &&'k str| {
        let lower = name.to_ascii_lowercase();
        let distance = distance(word.as_bytes(), lower.as_bytes());
        let longer = word.len().max(lower.len());
        let stem = word
            .bytes()
            .zip(lower.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        let begins = word.len() >= 3
            && lower.len() >= 3
            && (lower.starts_with(&word) || word.starts_with(&lower));
        let ends = word.len() >= 4 && lower.ends_with(&word);
        let same_stem = stem >= 4 && distance <= 3;
        (distance <= (longer / 4).max(1) || same_stem || begins || ends)
            .then_some((distance, *name))
    };
    let mut names: Vec<_> = known.iter().filter_map(near).collect();
    names.sort();
    names.first().map(|(_, name)| *name)
}

/// Letters to put in, leave out, change or swap with their neighbour.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = change.min(last[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = last;
        last = next;
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_meant() {
        let known = ["request", "backendRequest", "matches", "hosts", "name"];
        for (word, meant) in [
            ("requst", Some("request")),
            ("reqeust", Some("request")),
            ("match", Some("matches")),
            ("host", Some("hosts")),
            ("Name", Some("name")),
            ("backend_request", Some("backendRequest")),
            ("kafka", None),
            ("hostess", Some("hosts")),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), meant, "{word}");
        }
    }
}
