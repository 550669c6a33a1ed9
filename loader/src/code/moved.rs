//! The instructions behind a `syscall` that a jump over it displaces.
//!
//! Key type: [`Moved`]. The jump overwrites three bytes behind the `syscall`. Every instruction
//! that begins in them moves, even behind a `ret`: what stands there is another label, the next
//! function or padding, and only the padding is known not to be executed.
//!
//! Neighbours: [`movable`](super::movable) judges each instruction; the trampoline is made from
//! the list; `placement` turns its starts into constraints.
//!
//! Never moves an instruction that jumps into the overwritten bytes.

use super::insn::Insn;
use super::movable::{Reached, Relocation, movable};
use super::{JMP_LEN, Refusal, SYSCALL_LEN};

/// Bytes behind the `syscall` that the jump overwrites.
const OVERWRITTEN_LEN: u64 = JMP_LEN - SYSCALL_LEN;
/// As many instructions as begin in the overwritten bytes at most.
const MOVED_MAX: usize = OVERWRITTEN_LEN as usize;

const JMP_CODE_LEN: u64 = 5;
const JCC_CODE_LEN: u64 = 6;

/// The displaced instructions of one site: one to three, in order and without a gap.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    list: [(Insn, Relocation); MOVED_MAX],
    count: u8,
}

/// One of them, and where it was and will be.
pub(super) struct Displaced {
    pub(super) insn: Insn,
    pub(super) relocation: Relocation,
    /// Where it begins, as an offset from the site.
    pub(super) start: u64,
    /// Where its copy begins, as an offset from the copy of the first one.
    pub(super) copy: u64,
}

impl Displaced {
    /// Where it ended, as an offset from the site: what its distance counts from.
    pub(super) fn end(&self) -> u64 {
        self.start + self.insn.len()
    }

    /// Length of the copy.
    pub(super) fn copy_len(&self) -> u64 {
        match self.relocation {
            Relocation::Copy | Relocation::Return | Relocation::Memory { .. } => self.insn.len(),
            Relocation::Jump { .. } => JMP_CODE_LEN,
            Relocation::Branch { .. } => JCC_CODE_LEN,
        }
    }

    /// The address that it jumps to or accesses relative to its own.
    pub(super) fn target(&self, site: u64) -> Option<u64> {
        let distance = i64::from(self.relocation.distance()?);
        Some(site.wrapping_add(self.end()).wrapping_add_signed(distance))
    }
}

impl Moved {
    /// The instructions at the start of `behind`, the bytes after the `syscall`.
    pub(super) fn collect(behind: &[u8]) -> Result<Self, Refusal> {
        let mut moved = Self {
            list: [(Insn::new(&[]), Relocation::Copy); MOVED_MAX],
            count: 0,
        };
        let mut reached = Reached::FromAbove;
        while moved.len() < OVERWRITTEN_LEN {
            let rest = behind.get(moved.len() as usize..).unwrap_or_default();
            let (insn, relocation) = movable(rest, reached)?;
            if relocation.ends_flow() {
                reached = Reached::Unknown;
            }
            moved.push(insn, relocation);
        }
        let jumps_inside = moved.iter().any(|displaced| {
            let is_jump = !matches!(displaced.relocation, Relocation::Memory { .. });
            let overwritten = 1..JMP_LEN;
            is_jump
                && displaced
                    .target(0)
                    .is_some_and(|t| overwritten.contains(&t))
        });
        if jumps_inside {
            return Err(Refusal::IntoPatch);
        }
        Ok(moved)
    }

    fn push(&mut self, insn: Insn, relocation: Relocation) {
        if let Some(slot) = self.list.get_mut(usize::from(self.count)) {
            *slot = (insn, relocation);
            self.count += 1;
        }
    }

    /// The instructions as they stood behind the `syscall`.
    pub fn insns(&self) -> impl Iterator<Item = &Insn> {
        let count = usize::from(self.count);
        self.list.iter().take(count).map(|(insn, _)| insn)
    }

    /// Bytes that they took behind the `syscall`, at least 3.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> u64 {
        self.insns().map(Insn::len).sum()
    }

    /// Where they began, as offsets from the site, ascending: 2 and perhaps 3 and 4.
    pub fn starts(&self) -> impl Iterator<Item = u64> {
        self.iter().map(|displaced| displaced.start)
    }

    /// Whether nothing runs from the last one into what follows.
    #[must_use]
    pub fn ends_flow(&self) -> bool {
        let last = usize::from(self.count).checked_sub(1);
        last.and_then(|last| self.list.get(last))
            .is_some_and(|(_, relocation)| relocation.ends_flow())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Displaced> {
        let list = self.list.into_iter().take(usize::from(self.count));
        list.scan((SYSCALL_LEN, 0), |(start, copy), (insn, relocation)| {
            let displaced = Displaced {
                insn,
                relocation,
                start: *start,
                copy: *copy,
            };
            *start = displaced.end();
            *copy += displaced.copy_len();
            Some(displaced)
        })
    }

    /// Length of all the copies.
    pub(super) fn copies_len(&self) -> u64 {
        self.iter().map(|displaced| displaced.copy_len()).sum()
    }

    /// The first three bytes, which the jump overwrites.
    pub(super) fn overwritten(&self) -> [u8; OVERWRITTEN_LEN as usize] {
        let mut bytes = self.insns().flat_map(|insn| insn.bytes().iter().copied());
        core::array::from_fn(|_| bytes.next().unwrap_or_default())
    }
}

impl core::fmt::Debug for Moved {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.insns()).finish()
    }
}
