//! A map whose texts are all known at load: hosts and exact paths.
//!
//! Open addressing at half load, so a miss costs a hash and a look at one slot, whether there is one text or a
//! thousand. The hash is unkeyed on purpose: what a stranger sends is only looked up, never stored.

/// Texts to numbers; `FOLD` ignores ASCII case.
#[derive(Debug, Clone)]
pub(super) struct Keys<const FOLD: bool> {
    slots: Box<[Slot]>,
    texts: Box<[(Box<str>, u32)]>,
    longest: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The upper half of the text's hash.
    tag: u32,
    /// One more than the place in `texts`; 0 is an empty slot.
    place: u32,
}

impl<const FOLD: bool> Keys<FOLD> {
    /// Later duplicates are ignored: the caller has merged them.
    pub(super) fn new(texts: impl IntoIterator<Item = (Box<str>, u32)>) -> Self {
        let texts: Box<[_]> = texts.into_iter().collect();
        let mut slots = vec![Slot::default(); (texts.len() * 2).next_power_of_two().max(2)];
        let mask = slots.len() - 1;
        for (place, (text, _)) in texts.iter().enumerate() {
            let hash = hash::<FOLD>(text.as_bytes());
            let mut at = hash as usize & mask;
            while slots[at].place != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = Slot {
                tag: (hash >> 32) as u32,
                place: place as u32 + 1,
            };
        }
        Keys {
            slots: slots.into(),
            longest: texts.iter().map(|(text, _)| text.len()).max().unwrap_or(0),
            texts,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    #[inline]
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        let hash = hash::<FOLD>(text.as_bytes());
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let slot = self.slots[at];
            let (known, value) = &self.texts[(slot.place as usize).checked_sub(1)?];
            if slot.tag == (hash >> 32) as u32 && same::<FOLD>(known, text) {
                return Some(*value);
            }
            at = (at + 1) & mask;
        }
    }
}

#[inline]
fn same<const FOLD: bool>(a: &str, b: &str) -> bool {
    a == b || (FOLD && a.eq_ignore_ascii_case(b))
}

/// Eight bytes a step. Folding sets bit 5 of every byte: letters lose their case, and the few other bytes that
/// then look alike are told apart by `same`.
#[inline]
fn hash<const FOLD: bool>(text: &[u8]) -> u64 {
    let fold = if FOLD { 0x2020_2020_2020_2020 } else { 0 };
    let mix = |state: u64, word: u64| {
        let product = u128::from(state ^ (word | fold)) * 0x9E37_79B9_7F4A_7C15;
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = text.len() as u64 ^ 0x2545_F491_4F6C_DD1D;
    let (words, rest) = text.as_chunks::<8>();
    for word in words {
        state = mix(state, u64::from_le_bytes(*word));
    }
    if rest.is_empty() {
        return state;
    }
    let last = match text.last_chunk::<8>() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest
            .iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    mix(state, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys<const FOLD: bool>(texts: &[&str]) -> Keys<FOLD> {
        Keys::new(
            texts
                .iter()
                .enumerate()
                .map(|(n, &text)| (text.into(), n as u32)),
        )
    }

    #[test]
    fn every_text_is_found_and_no_other() {
        let texts: Vec<String> = (0..1000).map(|n| format!("/orders/{n}")).collect();
        let keys = keys::<false>(&texts.iter().map(String::as_str).collect::<Vec<_>>());
        for (n, text) in texts.iter().enumerate() {
            assert_eq!(keys.find(text), Some(n as u32));
            assert_eq!(keys.find(&format!("{text}x")), None);
        }
        assert_eq!(keys.find("/ORDERS/1"), None);
        assert_eq!(keys.find(""), None);
    }

    #[test]
    fn folding_ignores_case_and_nothing_else() {
        let keys = keys::<true>(&["payments.shop", "a[b", "x"]);
        for text in ["payments.shop", "PAYMENTS.shop", "Payments.Shop"] {
            assert_eq!(keys.find(text), Some(0));
        }
        assert_eq!(keys.find("X"), Some(2));
        assert_eq!(
            keys.find("a{b"),
            None,
            "differs in bit 5 alone, but is no letter"
        );
    }

    #[test]
    fn nothing_is_found_among_no_texts() {
        assert_eq!(keys::<true>(&[]).find(""), None);
        assert_eq!(keys::<true>(&[]).find("a"), None);
        assert_eq!(keys::<true>(&[""]).find(""), Some(0));
    }
}
