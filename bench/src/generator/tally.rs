//! What became of numbered frames: which came, which came twice, which came late.

/// Flows that the generator sends: frame `n` belongs to flow `n % FLOWS_MAX` at most, so that order is judged per flow.
pub(crate) const FLOWS_MAX: u64 = 65_536;
/// Numbers above are nobody's: the bitmap stays below 32 MiB.
const NUMBERS_MAX: u64 = 1 << 28;

/// Counts by number.
#[derive(Debug)]
pub(crate) struct Tally {
    seen: Vec<u64>,
    /// Per flow, one more than the highest number that came.
    highest: Vec<u64>,
    /// Frames that came, each number once.
    pub(crate) delivered: u64,
    /// Frames that came again.
    pub(crate) duplicated: u64,
    /// Frames that came behind a later one of their flow (RFC 4737, type-P-reordered).
    pub(crate) reordered: u64,
}

impl Tally {
    /// For frames of that many flows.
    ///
    /// # Panics
    /// When `flows` is zero or above [`FLOWS_MAX`]: the caller's bug.
    pub(crate) fn new(flows: u64) -> Self {
        assert!((1..=FLOWS_MAX).contains(&flows), "{flows} flows");
        Self { seen: Vec::new(), highest: vec![0; flows as usize], delivered: 0, duplicated: 0, reordered: 0 }
    }

    /// A frame came.
    pub(crate) fn push(&mut self, number: u64) {
        if number >= NUMBERS_MAX {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.delivered += 1;
        let flows = self.highest.len() as u64;
        let highest = &mut self.highest[(number % flows) as usize];
        if number < *highest {
            self.reordered += 1;
        } else {
            *highest = number + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at everything that came before, each time.
    fn slow(flows: u64, numbers: &[u64]) -> (u64, u64, u64) {
        let (mut delivered, mut duplicated, mut reordered) = (0, 0, 0);
        for (at, number) in numbers.iter().enumerate() {
            let before = &numbers[..at];
            if before.contains(number) {
                duplicated += 1;
                continue;
            }
            delivered += 1;
            reordered += u64::from(before.iter().any(|b| b % flows == number % flows && b > number));
        }
        (delivered, duplicated, reordered)
    }

    #[test]
    fn counts_are_those_of_the_slow_twin() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..200 {
            let flows = 1 + random(5);
            let span = 1 + random(300);
            let numbers: Vec<u64> = (0..random(200)).map(|_| random(span)).collect();
            let mut tally = Tally::new(flows);
            numbers.iter().for_each(|n| tally.push(*n));
            assert_eq!((tally.delivered, tally.duplicated, tally.reordered), slow(flows, &numbers), "{numbers:?}");
        }
    }

    #[test]
    fn frames_in_order_are_neither_late_nor_twice() {
        let mut tally = Tally::new(FLOWS_MAX);
        (0..200_000).for_each(|n| tally.push(n));
        assert_eq!((tally.delivered, tally.duplicated, tally.reordered), (200_000, 0, 0));
    }

    #[test]
    fn a_number_that_no_sender_reaches_takes_no_memory() {
        let mut tally = Tally::new(1);
        tally.push(u64::MAX);
        assert_eq!((tally.delivered, tally.seen.len()), (0, 0));
    }
}
