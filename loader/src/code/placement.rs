//! Where a trampoline may be, so that the jump to it reaches and is safe to run into.
//!
//! Key types: [`Window`], [`Placements`]. The jump over a `syscall` and its successor is the bytes
//! `e9 d0 d1 d2 d3`; the old address of the successor is that of `d1`, bits 8 to 15 of the
//! distance. So each of the [`UNDEFINED_OPCODES`], for each value of the upper 16 bits, gives 256
//! consecutive addresses.
//!
//! Neighbours: `patch` in the parent module refuses what is not in a window.
//!
//! Never knows which memory is free: the caller takes the first window in which it has room.

use super::{Form, JMP_LEN, TRAMPOLINE_LEN_MAX};

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
    let is_safe = match form {
        Form::MovBefore { .. } => true,
        Form::DisplacedAfter { .. } => {
            let distance = trampoline.wrapping_sub(site.wrapping_add(JMP_LEN));
            UNDEFINED_OPCODES.contains(&distance.to_le_bytes()[1])
        }
    };
    is_safe && reachable(site, trampoline)
}

/// The windows for a trampoline inside `[low, high)`, those nearest to the site first. The whole
/// trampoline lies in the range, up to [`TRAMPOLINE_LEN_MAX`] bytes from its beginning.
#[must_use]
pub fn placements(form: &Form, site: u64, low: u64, high: u64) -> Placements {
    let low = low.max(site.saturating_sub(REACH));
    let high = high
        .saturating_sub(TRAMPOLINE_LEN_MAX as u64 - 1)
        .min(site.saturating_add(REACH).saturating_add(1));
    let high = high.max(low);
    match form {
        Form::MovBefore { .. } => Placements::any(low, high),
        Form::DisplacedAfter { .. } => Placements::safe(site, low, high),
    }
}

/// Iterator over [`Window`]s; see [`placements`].
#[derive(Clone, Debug)]
pub struct Placements {
    site: u64,
    low: u64,
    high: u64,
    /// The candidates are numbered by address: for the upper half `h` of the distance and the
    /// `i`-th opcode it is `h * 14 + i`. These are the next one above and the next one below.
    up: i64,
    down: i64,
    /// The one window of a form that has no constraint.
    single: Option<Window>,
}

const PER_BLOCK: i64 = UNDEFINED_OPCODES.len() as i64;

impl Placements {
    fn any(low: u64, high: u64) -> Self {
        let window = Window {
            start: low,
            end: high,
        };
        let single = (low < high).then_some(window);
        Self {
            site: 0,
            low: 0,
            high: 0,
            up: 0,
            down: 0,
            single,
        }
    }

    fn safe(site: u64, low: u64, high: u64) -> Self {
        // Start at the block of the nearest address of the range, so that a distant range costs
        // no walk.
        let nearest = site.clamp(low, high);
        let block = (i128::from(nearest) - i128::from(site)) >> 16;
        let up = (block as i64) * PER_BLOCK;
        Self {
            site,
            low,
            high,
            up,
            down: up - 1,
            single: None,
        }
    }

    /// Where candidate `number` begins, and what of it is inside the range.
    fn candidate(&self, number: i64) -> (i128, Option<Window>) {
        let block = i128::from(number.div_euclid(PER_BLOCK));
        let opcode = UNDEFINED_OPCODES[number.rem_euclid(PER_BLOCK) as usize];
        let base = i128::from(self.site) + i128::from(JMP_LEN);
        let start = base + (block << 16) + (i128::from(opcode) << 8);
        let clipped_start = start.max(i128::from(self.low));
        let clipped_end = (start + 256).min(i128::from(self.high));
        let window = (clipped_start < clipped_end).then_some(Window {
            start: clipped_start as u64,
            end: clipped_end as u64,
        });
        (start, window)
    }
}

impl Iterator for Placements {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        if let Some(window) = self.single.take() {
            return Some(window);
        }
        loop {
            let (above, above_window) = self.candidate(self.up);
            let (below, below_window) = self.candidate(self.down);
            let above_over = above >= i128::from(self.high);
            let below_over = below + 256 <= i128::from(self.low);
            let from_site = |start: i128| (start + 128 - i128::from(self.site)).abs();
            let take_above = match (above_over, below_over) {
                (true, true) => return None,
                (false, true) => true,
                (true, false) => false,
                (false, false) => from_site(above) <= from_site(below),
            };
            let window = if take_above {
                self.up += 1;
                above_window
            } else {
                self.down -= 1;
                below_window
            };
            if window.is_some() {
                return window;
            }
        }
    }
}
