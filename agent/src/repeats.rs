//! Failures that repeat: each text is logged once until things go well again, then at debug level only.
//!
//! A set and not the last text, because what is tried every second often fails in two ways in turn.

use std::collections::BTreeSet;

/// Texts that are remembered; beyond it all are forgotten, so that a text with a number in it costs no memory.
const TEXTS_MAX: usize = 16;

/// What was said already.
#[derive(Debug, Default)]
pub struct Repeats {
    said: BTreeSet<String>,
}

impl Repeats {
    /// Whether this is to be said: it was not since things last went well.
    pub fn is_news(&mut self, text: &str) -> bool {
        if self.said.contains(text) {
            return false;
        }
        if self.said.len() == TEXTS_MAX {
            self.said.clear();
        }
        self.said.insert(text.to_owned())
    }

    /// Things went well: whatever fails from now on is news.
    pub fn forget(&mut self) {
        self.said.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_failures_in_turn_are_each_said_once_until_it_goes_well() {
        let mut repeats = Repeats::default();
        let said = |repeats: &mut Repeats| ["a", "b", "a", "b"].map(|text| repeats.is_news(text));
        assert_eq!(said(&mut repeats), [true, true, false, false]);
        repeats.forget();
        assert_eq!(said(&mut repeats), [true, true, false, false]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut repeats = Repeats::default();
        assert!((0..1000).all(|n| repeats.is_news(&n.to_string())));
        assert!(repeats.said.len() <= TEXTS_MAX);
    }
}
