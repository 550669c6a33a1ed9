//! Where a trampoline may be, so that the jump to it reaches and is safe to run into.
//!
//! Key types: [`Window`], [`Placements`]. The jump over a `syscall` and its successors is the
//! bytes `e9 d0 d1 d2 d3`. The first successor began where `d1` is, others may have begun at `d2`
//! and `d3`; each of these bytes has to be one of the [`UNDEFINED_OPCODES`]. The choices for `d1`,
//! `d2` and `d3` are the digits of a number, and each number is 256 consecutive addresses: `d0` is
//! free.
//!
//! Neighbours: `patch` in the parent module refuses what is not in a window.
//!
//! Never knows which memory is free: the caller takes the first window in which it has room.

use super::{Form, JMP_LEN, Moved, TRAMPOLINE_LEN_MAX};

/// Bytes that raise `#UD` in 64-bit mode as the first byte of an instruction, whatever follows.
///
/// They are the one-byte instructions that AMD64 removed: push and pop of ES, CS, SS and DS
/// (`06 07 0e 16 17 1e 1f`), the decimal adjustments (`27 2f 37 3f`), `pusha`/`popa` (`60 61`) and
/// `into` (`ce`). Source: AMD64 APM volume 3, table "Invalid Instructions in 64-Bit Mode"; Intel
/// SDM volume 2, opcode map A-2 ("i64").
///
/// Left out on purpose: `62 c4 c5 d5` were removed too but came back as prefixes (EVEX, VEX,
/// REX2), `82 9a d4 ea` take operands, so a decoder may fetch those first, and `d6` is an
/// undocumented instruction of old.
///
/// In ascending order.
pub const UNDEFINED_OPCODES: [u8; 14] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0xce,
];

/// How far a trampoline may be from the site, in bytes: 2 GiB less room for both ends' lengths, so
/// that every displacement between the two fits.
const REACH: u64 = (1 << 31) - 256;

/// Addresses at which a trampoline may begin: from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub start: u64,
    /// First address after.
    pub end: u64,
}

/// Whether a trampoline that begins at `trampoline` is within reach of `site`.
#[must_use]
pub fn reachable(site: u64, trampoline: u64) -> bool {
    site.abs_diff(trampoline) <= REACH
}

/// Whether a trampoline for this form may begin at `trampoline`.
pub(super) fn is_allowed(form: &Form, site: u64, trampoline: u64) -> bool {
    let distance = trampoline.wrapping_sub(form.patch_at(site).wrapping_add(JMP_LEN));
    let bytes = distance.to_le_bytes();
    let mut starts = form.displaced_starts();
    starts.all(|start| UNDEFINED_OPCODES.contains(&bytes[start as usize - 1]))
        && reachable(site, trampoline)
        && targets(form, site).all(|target| reachable(target, trampoline))
}

/// The addresses that the code of the trampoline has to reach, beside the site.
fn targets(form: &Form, site: u64) -> impl Iterator<Item = u64> {
    let moved = match form {
        Form::MovBefore { .. } => None,
        Form::DisplacedAfter { moved } => Some(moved),
    };
    let displaced = moved.into_iter().flat_map(Moved::iter);
    displaced.filter_map(move |displaced| displaced.target(site))
}

/// The windows for a trampoline inside `[low, high)`, those nearest to the site first. The whole
/// trampoline lies in the range, up to [`TRAMPOLINE_LEN_MAX`] bytes from its beginning.
#[must_use]
pub fn placements(form: &Form, site: u64, low: u64, high: u64) -> Placements {
    let mut low = low;
    let mut high = high.saturating_sub(TRAMPOLINE_LEN_MAX as u64 - 1);
    for target in core::iter::once(site).chain(targets(form, site)) {
        low = low.max(target.saturating_sub(REACH));
        high = high.min(target.saturating_add(REACH).saturating_add(1));
    }
    let high = high.max(low);
    match form {
        Form::MovBefore { .. } => Placements::any(low, high),
        Form::DisplacedAfter { .. } => {
            let mut is_start = [false; JMP_LEN as usize];
            for start in form.displaced_starts() {
                is_start[start as usize] = true;
            }
            let [_, _, d1, d2, d3] = is_start;
            Placements::safe(site, low, high, Digits::new(d1, d2, d3))
        }
    }
}

/// Addresses of a window: those that differ in `d0`.
const WINDOW_LEN: i128 = 256;

/// The numbers that `d3 d2 d1` of a displacement may be, in ascending order, by their index.
#[derive(Clone, Copy, Debug)]
struct Digits {
    /// How many choices there are for each.
    low: i32,
    middle: i32,
    high: i32,
}

const ALL_BYTES: i32 = 256;

impl Digits {
    fn new(d1: bool, d2: bool, d3: bool) -> Self {
        let choices = |constrained: bool| {
            if constrained {
                UNDEFINED_OPCODES.len() as i32
            } else {
                ALL_BYTES
            }
        };
        Self {
            low: choices(d1),
            middle: choices(d2),
            high: choices(d3),
        }
    }

    fn count(self) -> i32 {
        self.low * self.middle * self.high
    }

    /// The displacement of number `index`, with `d0` zero.
    fn displacement(self, index: i32) -> i64 {
        let byte = |choices: i32, digit: i32| {
            if choices == ALL_BYTES {
                digit
            } else {
                i32::from(UNDEFINED_OPCODES[digit as usize])
            }
        };
        let d1 = byte(self.low, index % self.low);
        let index = index / self.low;
        let d2 = byte(self.middle, index % self.middle);
        let index = index / self.middle;
        // The top byte has the sign: negative ones come first.
        let d3 = if self.high == ALL_BYTES {
            index - ALL_BYTES / 2
        } else {
            i32::from(SIGNED_UNDEFINED_OPCODES[index as usize])
        };
        (i64::from(d3) << 24) + (i64::from(d2) << 16) + (i64::from(d1) << 8)
    }
}

/// The same as [`UNDEFINED_OPCODES`], in ascending order as signed bytes.
const SIGNED_UNDEFINED_OPCODES: [i8; UNDEFINED_OPCODES.len()] = {
    let negative = UNDEFINED_OPCODES.len() - 1;
    let mut signed = [0; UNDEFINED_OPCODES.len()];
    let mut index = 0;
    while index < signed.len() {
        let from = (index + negative) % signed.len();
        signed[index] = UNDEFINED_OPCODES[from] as i8;
        assert!(index == 0 || signed[index - 1] < signed[index]);
        index += 1;
    }
    signed
};

/// Iterator over [`Window`]s; see [`placements`].
#[derive(Clone, Debug)]
pub struct Placements {
    /// What displacements count from.
    base: i128,
    site: i128,
    low: i128,
    high: i128,
    digits: Digits,
    /// Index of the next candidate above and of the next one below, which may be -1.
    up: i32,
    down: i32,
    /// The one window of a form that has no constraint.
    single: Option<Window>,
}

impl Placements {
    fn any(low: u64, high: u64) -> Self {
        let window = Window {
            start: low,
            end: high,
        };
        Self {
            single: (low < high).then_some(window),
            ..Self::safe(0, 0, 0, Digits::new(false, false, false))
        }
    }

    fn safe(site: u64, low: u64, high: u64, digits: Digits) -> Self {
        let nearest = i128::from(site.clamp(low, high));
        let mut placements = Self {
            base: i128::from(site) + i128::from(JMP_LEN),
            site: i128::from(site),
            low: i128::from(low),
            high: i128::from(high),
            digits,
            up: 0,
            down: -1,
            single: None,
        };
        // Start at the nearest address of the range, so that a distant range costs no walk.
        let (mut from, mut to) = (0, digits.count());
        while from < to {
            let middle = from + (to - from) / 2;
            if placements.start(middle) + WINDOW_LEN > nearest {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        placements.up = from;
        placements.down = from - 1;
        placements
    }

    /// Where candidate `index` begins.
    fn start(&self, index: i32) -> i128 {
        self.base + i128::from(self.digits.displacement(index))
    }

    /// Where the next candidate above begins, unless it is beyond the range.
    fn above(&self) -> Option<i128> {
        let start = (self.up < self.digits.count()).then(|| self.start(self.up))?;
        (start < self.high).then_some(start)
    }

    /// Where the next candidate below begins, unless it is beyond the range.
    fn below(&self) -> Option<i128> {
        let start = (self.down >= 0).then(|| self.start(self.down))?;
        (start + WINDOW_LEN > self.low).then_some(start)
    }

    /// What of a candidate is inside the range.
    fn clip(&self, start: i128) -> Option<Window> {
        let end = (start + WINDOW_LEN).min(self.high);
        let start = start.max(self.low);
        (start < end).then_some(Window {
            start: start as u64,
            end: end as u64,
        })
    }
}

impl Iterator for Placements {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        if let Some(window) = self.single.take() {
            return Some(window);
        }
        let from_site = |start: i128| (start + WINDOW_LEN / 2 - self.site).abs();
        loop {
            let (above, below) = (self.above(), self.below());
            let take_above = match (above, below) {
                (Some(above), Some(below)) => from_site(above) <= from_site(below),
                (Some(_), None) => true,
                _ => false,
            };
            let start = if take_above {
                self.up += 1;
                above?
            } else {
                self.down -= 1;
                below?
            };
            let window = self.clip(start);
            if window.is_some() {
                return window;
            }
        }
    }
}
