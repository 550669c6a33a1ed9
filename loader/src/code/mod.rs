//! Rewriting of `syscall` instructions: which sites can become a jump, and to what code.
//!
//! A `syscall` that keeps trapping is replaced by a 5-byte `jmp rel32` into a trampoline of its
//! own, which jumps to the gate. `syscall` is 2 bytes long, so three more have to be found:
//!
//! * [`Form::MovBefore`] – the instruction before is `mov $nr,%eax` (5 bytes) or `mov $nr,%rax`
//!   (7 bytes). The jump replaces it. The `syscall` bytes stay, and still trap for code that jumps
//!   straight to them, so no thread is ever inside the patched bytes.
//! * [`Form::DisplacedAfter`] – the jump replaces the `syscall` and the three bytes after it. The
//!   instructions that begin in them move into the trampoline. A thread that comes to one of them
//!   by another way (it was inside the call, or jumps there) meets a byte of the jump's
//!   displacement. [`placements`] only offers trampoline addresses that make each such byte one of
//!   [`UNDEFINED_OPCODES`], so the thread faults with `#UD` right there and can be sent to
//!   [`Form::displaced_at`].
//!
//! Contract with the gate. On entry `rax` is the number, `rcx` the address after the `syscall` as
//! the program sees it, `r11` the address to resume at; everything else, flags and red zone
//! included, is the program's. The gate resumes with a jump to that address. `syscall` itself
//! destroys `rcx` and `r11`, so nobody misses them.
//!
//! Key types: [`Form`], [`Moved`], [`Patch`], [`Trampoline`], [`Window`]. Neighbours: the vkernel's trap
//! handler calls [`analyse`] with bytes around a site that trapped, finds room, and patches.
//!
//! Never searches for `syscall` bytes (only executed sites are rewritten), never writes code, never
//! moves a `call`.

mod insn;
mod movable;
mod moved;
mod placement;
mod trampoline;

pub use insn::{INSN_LEN_MAX, Insn};
pub use moved::Moved;
pub use placement::{Placements, UNDEFINED_OPCODES, Window, placements, reachable};
pub use trampoline::{TRAMPOLINE_LEN_MAX, Trampoline, translate};

/// Length of `syscall` (`0f 05`), in bytes.
pub const SYSCALL_LEN: u64 = 2;
/// Length of `jmp rel32`, in bytes.
pub const JMP_LEN: u64 = 5;
/// How many bytes before a site [`analyse`] looks at, at most.
pub const BEFORE_LEN: usize = 16;
/// How many bytes from a site on [`analyse`] looks at, at most: the last instruction that is moved
/// begins in the last byte of the jump.
pub const AFTER_LEN: usize = JMP_LEN as usize - 1 + INSN_LEN_MAX;

const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// How a site can be rewritten. Holds the original bytes, so it can also undo the patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The `mov $nr` before the site is replaced.
    MovBefore {
        /// The `mov`, 5 or 7 bytes.
        mov: Insn,
    },
    /// The site and the instructions after it are replaced.
    DisplacedAfter {
        /// The instructions after the `syscall`, together at least 3 bytes.
        moved: Moved,
    },
}

/// Why a site cannot be rewritten and keeps trapping. All but the first speak of one of the
/// instructions after the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes at the site are not `0f 05`.
    NotSyscall,
    /// It does not end within the bytes given.
    Truncated,
    /// It does not decode.
    Undecodable,
    /// It has an unusual prefix (lock, rep, address size, several).
    Prefix,
    /// It is relative to its own address in a way that cannot be corrected.
    Relative,
    /// It jumps into the bytes that the patch would overwrite.
    IntoPatch,
    /// It follows a `ret` or `jmp` and does not look like code.
    NotCode,
    /// It is not one of the instructions that are known to be movable.
    NotPlain,
}

/// Five bytes to be written over the program's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Address of the first byte.
    pub addr: u64,
    /// What to write there.
    pub bytes: [u8; JMP_LEN as usize],
}

/// Decides how the `syscall` at a site can be rewritten.
///
/// `before` are the bytes that end right before the site (any number; [`BEFORE_LEN`] suffice),
/// `after` those from the site on ([`AFTER_LEN`] suffice), `nr` is `rax` as seen when the site
/// trapped: it tells a real `mov $nr` from bytes that look like one.
///
/// # Errors
/// See [`Refusal`]; it speaks of the instructions after, the last thing that was tried.
pub fn analyse(before: &[u8], after: &[u8], nr: u64) -> Result<Form, Refusal> {
    let behind = after.strip_prefix(&SYSCALL).ok_or(Refusal::NotSyscall)?;
    if let Some(mov) = insn::mov_before(before, nr) {
        return Ok(Form::MovBefore { mov });
    }
    let moved = Moved::collect(behind)?;
    Ok(Form::DisplacedAfter { moved })
}

impl Form {
    /// Address where the patch begins.
    #[must_use]
    pub fn patch_at(&self, site: u64) -> u64 {
        match self {
            Self::MovBefore { mov } => site.wrapping_sub(mov.len()),
            Self::DisplacedAfter { .. } => site,
        }
    }

    /// Offsets from the site of the bytes that the patch has to make undefined opcodes, ascending:
    /// there the displaced instructions began. None for [`Form::MovBefore`].
    pub fn displaced_starts(&self) -> impl Iterator<Item = u64> {
        let moved = match self {
            Self::MovBefore { .. } => None,
            Self::DisplacedAfter { moved } => Some(moved),
        };
        moved.into_iter().flat_map(Moved::starts)
    }

    /// The jump to the trampoline, or `None` if it is out of reach or (for
    /// [`Form::DisplacedAfter`]) at an address that no [`Window`] of [`placements`] holds.
    #[must_use]
    pub fn patch(&self, site: u64, trampoline: u64) -> Option<Patch> {
        let addr = self.patch_at(site);
        if !placement::is_allowed(self, site, trampoline) {
            return None;
        }
        let [d0, d1, d2, d3] = displacement(trampoline, addr.wrapping_add(JMP_LEN))?;
        Some(Patch {
            addr,
            bytes: [0xe9, d0, d1, d2, d3],
        })
    }

    /// The bytes that the patch replaces: to verify them before patching, and to undo it.
    #[must_use]
    pub fn original(&self, site: u64) -> Patch {
        let bytes = match self {
            Self::MovBefore { mov } => mov.first_five(),
            Self::DisplacedAfter { moved } => {
                let [m0, m1, m2] = moved.overwritten();
                [SYSCALL[0], SYSCALL[1], m0, m1, m2]
            }
        };
        Patch {
            addr: self.patch_at(site),
            bytes,
        }
    }
}

/// `target - from` as the little-endian rel32 of an instruction that ends at `from`.
fn displacement(target: u64, from: u64) -> Option<[u8; 4]> {
    let distance = target.wrapping_sub(from) as i64;
    i32::try_from(distance).ok().map(i32::to_le_bytes)
}
