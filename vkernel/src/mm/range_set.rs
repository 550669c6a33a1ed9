//! A set of page ranges: which addresses of a process's space are taken.
//!
//! Neighbouring ranges melt into one, so the set stays small however many mappings there are.
//! Attributes of mappings are the kernel's to know.

use alloc::collections::BTreeMap;
use core::ops::Range;

#[derive(Debug, Clone, Default)]
pub struct RangeSet {
    /// start → end, disjoint and not touching.
    ranges: BTreeMap<usize, usize>,
}

impl RangeSet {
    pub const fn new() -> Self {
        Self {
            ranges: BTreeMap::new(),
        }
    }

    /// Adds `range`, whatever of it is in the set already.
    pub fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.ranges.range(..=start).next_back()
            && e >= start
        {
            start = s;
            end = end.max(e);
        }
        while let Some((&s, &e)) = self.ranges.range(start..=end).next() {
            self.ranges.remove(&s);
            end = end.max(e);
        }
        self.ranges.insert(start, end);
    }

    /// Takes `range` out, whatever of it is in the set.
    pub fn remove(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if let Some((&s, &e)) = self.ranges.range(..range.start).next_back()
            && e > range.start
        {
            self.ranges.insert(s, range.start);
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
        }
        while let Some((&s, &e)) = self.ranges.range(range.start..range.end).next() {
            self.ranges.remove(&s);
            if e > range.end {
                self.ranges.insert(range.end, e);
            }
        }
    }

    /// Whether any address of `range` is in the set.
    pub fn overlaps(&self, range: &Range<usize>) -> bool {
        self.ranges
            .range(..range.end)
            .next_back()
            .is_some_and(|(_, &end)| end > range.start && !range.is_empty())
    }

    /// Whether all of `range` is in the set.
    pub fn covers(&self, range: &Range<usize>) -> bool {
        self.ranges
            .range(..=range.start)
            .next_back()
            .is_some_and(|(_, &end)| end >= range.end)
    }

    pub fn contains(&self, address: usize) -> bool {
        self.covers(&(address..address + 1))
    }

    /// The highest free `len` bytes within `within` that start at a multiple of `align` (a power of two).
    pub fn find_free_high(&self, len: usize, align: usize, within: &Range<usize>) -> Option<usize> {
        let mut top = within.end;
        loop {
            let start = top.checked_sub(len)? & !(align - 1);
            if start < within.start {
                return None;
            }
            match self.ranges.range(..start + len).next_back() {
                Some((&taken, &end)) if end > start => top = taken,
                _ => return Some(start),
            }
        }
    }

    /// The lowest free `len` bytes within `within` that start at a multiple of `align`.
    pub fn find_free_low(&self, len: usize, align: usize, within: &Range<usize>) -> Option<usize> {
        let mut bottom = within.start;
        loop {
            let start = bottom.checked_add(align - 1)? & !(align - 1);
            let end = start.checked_add(len)?;
            if end > within.end {
                return None;
            }
            match self.ranges.range(..end).next_back() {
                Some((_, &taken_end)) if taken_end > start => bottom = taken_end,
                _ => return Some(start),
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }

    /// Sum of the lengths.
    pub fn total_len(&self) -> usize {
        self.iter().map(|range| range.len()).sum()
    }

    pub fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::RangeSet;
    use proptest::prelude::*;
    use std::vec::Vec;

    const END: usize = 64;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(usize, usize),
        Remove(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        (any::<bool>(), 0..END, 0..END).prop_map(|(insert, a, b)| {
            let (start, end) = (a.min(b), a.max(b));
            if insert {
                Step::Insert(start, end)
            } else {
                Step::Remove(start, end)
            }
        })
    }

    proptest! {
        /// The set against an array of booleans.
        #[test]
        fn behaves_like_a_bitmap(steps in proptest::collection::vec(step(), 1..60),
                                 len in 1usize..20, probe in 0..END) {
            let mut set = RangeSet::new();
            let mut bits = [false; END];
            for step in steps {
                match step {
                    Step::Insert(a, b) => { set.insert(a..b); bits[a..b].fill(true); }
                    Step::Remove(a, b) => { set.remove(a..b); bits[a..b].fill(false); }
                }
            }
            let taken: Vec<usize> = set.iter().flatten().collect();
            let expected: Vec<usize> = (0..END).filter(|&i| bits[i]).collect();
            prop_assert_eq!(taken, expected);
            let end = (probe + len).min(END);
            prop_assert_eq!(set.overlaps(&(probe..end)), bits[probe..end].iter().any(|&b| b));
            let free = |start: usize| !bits[start..start + len].iter().any(|&b| b);
            let starts = || (0..=END - len).filter(|s| s % 4 == 0).filter(|&s| free(s));
            prop_assert_eq!(set.find_free_high(len, 4, &(0..END)), starts().next_back());
            prop_assert_eq!(set.find_free_low(len, 4, &(0..END)), starts().next());
            let mut ends = set.iter();
            let mut last = ends.next();
            for range in ends {
                prop_assert!(last.unwrap().end < range.start, "neighbours melt");
                last = Some(range);
            }
        }
    }
}
