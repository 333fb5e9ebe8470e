//! How many rules have which priority: the highest one at once, and a change that copies little.

use std::sync::Arc;

/// Counts by priority, in pages by its high byte.
#[derive(Debug, Clone, Default)]
pub(super) struct Priorities {
    pages: Vec<Arc<Page>>,
}

/// Counts by the low byte, lowest first, none of them zero.
#[derive(Debug, Clone)]
struct Page {
    high: u8,
    counts: Vec<(u8, u32)>,
}

impl Priorities {
    /// The highest.
    pub(super) fn max(&self) -> Option<u16> {
        let page = self.pages.last()?;
        page.counts.last().map(|(low, _)| u16::from_be_bytes([page.high, *low]))
    }

    /// One more rule of this priority.
    pub(super) fn add(&mut self, priority: u16) {
        let [high, low] = priority.to_be_bytes();
        let place = self.pages.partition_point(|page| page.high < high);
        if self.pages.get(place).is_none_or(|page| page.high != high) {
            self.pages.insert(place, Arc::new(Page { high, counts: Vec::new() }));
        }
        let counts = &mut Arc::make_mut(&mut self.pages[place]).counts;
        match counts.binary_search_by_key(&low, |(low, _)| *low) {
            Ok(at) => counts[at].1 += 1,
            Err(at) => counts.insert(at, (low, 1)),
        }
    }

    /// One rule of this priority less.
    pub(super) fn remove(&mut self, priority: u16) {
        let [high, low] = priority.to_be_bytes();
        let Ok(place) = self.pages.binary_search_by_key(&high, |page| page.high) else { return };
        let counts = &mut Arc::make_mut(&mut self.pages[place]).counts;
        let Ok(at) = counts.binary_search_by_key(&low, |(low, _)| *low) else { return };
        counts[at].1 -= 1;
        if counts[at].1 == 0 {
            counts.remove(at);
        }
        if counts.is_empty() {
            self.pages.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::Dice;

    #[test]
    fn it_counts_as_a_plain_map_does() {
        let mut dice = Dice::new(1);
        let (mut priorities, mut plain) = (Priorities::default(), BTreeMap::<u16, u32>::new());
        for round in 0..20_000 {
            let priority = (dice.below(40) * 199) as u16;
            if dice.below(20_000) > round {
                priorities.add(priority);
                *plain.entry(priority).or_default() += 1;
            } else if let Some(count) = plain.get_mut(&priority) {
                priorities.remove(priority);
                *count -= 1;
                plain.retain(|_, count| *count > 0);
            }
            assert_eq!(priorities.max(), plain.keys().next_back().copied());
        }
    }
}
