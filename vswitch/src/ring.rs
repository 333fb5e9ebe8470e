//! A bounded queue that keeps the memory of what passes through it: once each slot was used, nothing is allocated.

/// At most as many items as it has slots; a slot keeps its last item until another one takes its place.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    slots: Vec<T>,
    first: usize,
    len: usize,
}

impl<T: Default> Ring<T> {
    /// An empty queue of `len_max` items.
    pub(crate) fn new(len_max: usize) -> Self {
        Self { slots: (0..len_max).map(|_| T::default()).collect(), first: 0, len: 0 }
    }

    /// Places for further items.
    pub(crate) const fn room(&self) -> usize {
        self.slots.len() - self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slot behind the last item, to be filled over what it held before; `None` when the queue is full.
    #[inline]
    pub(crate) fn push(&mut self) -> Option<&mut T> {
        if self.room() == 0 {
            return None;
        }
        let at = self.index(self.len);
        self.len += 1;
        Some(&mut self.slots[at])
    }

    /// Takes the first item out, whose memory stays with the queue.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<&mut T> {
        if self.is_empty() {
            return None;
        }
        let at = self.first;
        (self.first, self.len) = (self.index(1), self.len - 1);
        Some(&mut self.slots[at])
    }

    #[inline]
    const fn index(&self, behind_first: usize) -> usize {
        let at = self.first + behind_first;
        if at < self.slots.len() { at } else { at - self.slots.len() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_bounded_queue(len_max in 0usize..5, pushes in prop::collection::vec(any::<bool>(), 0..40)) {
            let (mut ring, mut twin) = (Ring::<usize>::new(len_max), VecDeque::new());
            for (item, push) in pushes.into_iter().enumerate() {
                if push {
                    let slot = ring.push();
                    prop_assert_eq!(slot.is_some(), twin.len() < len_max);
                    if let Some(slot) = slot {
                        *slot = item;
                        twin.push_back(item);
                    }
                } else {
                    prop_assert_eq!(ring.pop().copied(), twin.pop_front());
                }
                prop_assert_eq!((ring.room(), ring.is_empty()), (len_max - twin.len(), twin.is_empty()));
            }
        }
    }
}
