//! The code of a trampoline, and what its addresses mean to the program.
//!
//! Key type: [`Trampoline`]. One per site:
//!
//! ```text
//! MovBefore                          DisplacedAfter
//!   mov  $nr,%eax    (the moved one)   lea  site+2(%rip),%rcx
//!   lea  site+2(%rip),%rcx             lea  displaced(%rip),%r11
//!   mov  %rcx,%r11                     jmp  *literal(%rip)
//!   jmp  *literal(%rip)              displaced:
//! literal:                             <moved instructions>
//!   .quad gate                       back:        (unless the last one ends the flow)
//!                                      jmp  site+2+len
//!                                    literal:
//!                                      .quad gate
//! ```
//!
//! The moved instructions are copies, but for distances: memory relative to the instruction
//! pointer gets a new one, and jumps are written with 32-bit ones.
//!
//! Nothing is pushed (the program's red zone is below `rsp`), no flag changes, only `rcx` and `r11`
//! are written. The gate's address is a literal, because the gate may be further than 2 GiB away.
//!
//! Neighbours: the parent module's contract with the gate; the vkernel's signal code, which uses
//! [`translate`] so that no program sees an address inside a trampoline.
//!
//! Never contains a `syscall` instruction.

use super::movable::Relocation;
use super::moved::{Displaced, Moved};
use super::{Form, JMP_LEN, SYSCALL_LEN, displacement};

/// Bytes of a trampoline at most.
pub const TRAMPOLINE_LEN_MAX: usize = 64;

const LEA_LEN: u64 = 7;
const MOV_RCX_R11_LEN: u64 = 3;
const JMP_LITERAL_LEN: u64 = 6;
const LITERAL_LEN: u64 = 8;

const LEA_RCX: [u8; 3] = [0x48, 0x8d, 0x0d];
const LEA_R11: [u8; 3] = [0x4c, 0x8d, 0x1d];
const MOV_RCX_R11: [u8; 3] = [0x49, 0x89, 0xcb];
const JMP_LITERAL: [u8; 2] = [0xff, 0x25];
const JMP: [u8; 1] = [0xe9];
/// The second byte of `jcc rel32` without the condition in its low half; the first is `0f`.
const JCC: u8 = 0x80;

/// The code for one site, to be copied to the address it was made for and executed only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trampoline {
    bytes: [u8; TRAMPOLINE_LEN_MAX],
    len: usize,
    /// Address of the first moved instruction, for [`Form::DisplacedAfter`].
    pub displaced_at: Option<u64>,
    /// Address of the final jump back, for [`Form::DisplacedAfter`] unless the flow ends before.
    pub back_at: Option<u64>,
}

impl Trampoline {
    /// The code and its literal.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }

    /// Appends an instruction whose last four bytes are the distance to `target`.
    fn push_relative(&mut self, begin: u64, opcode: &[u8], target: u64) -> Option<()> {
        let end = begin.wrapping_add(self.len as u64 + opcode.len() as u64 + 4);
        self.push(opcode);
        self.push(&displacement(target, end)?);
        Some(())
    }

    /// Appends the copy of an instruction that stood behind `site`.
    fn push_moved(&mut self, begin: u64, site: u64, displaced: &Displaced) -> Option<()> {
        let insn = displaced.insn.bytes();
        let Some(target) = displaced.target(site) else {
            self.push(insn);
            return Some(());
        };
        match displaced.relocation {
            Relocation::Copy | Relocation::Return => self.push(insn),
            Relocation::Jump { .. } => self.push_relative(begin, &JMP, target)?,
            Relocation::Branch { condition, .. } => {
                self.push_relative(begin, &[0x0f, JCC | condition], target)?;
            }
            Relocation::Memory { at, .. } => {
                let end = begin.wrapping_add(self.len as u64 + displaced.insn.len());
                let (head, tail) = insn.split_at_checked(usize::from(at))?;
                self.push(head);
                self.push(&displacement(target, end)?);
                self.push(tail.get(4..)?);
            }
        }
        Some(())
    }
}

/// Offsets from the beginning of a trampoline, in bytes.
struct Layout {
    /// After the jump to the gate.
    gate_end: u64,
    /// Address of the literal.
    literal: u64,
}

impl Form {
    fn layout(&self) -> Layout {
        match self {
            Self::MovBefore { mov } => {
                let gate_end = mov.len() + LEA_LEN + MOV_RCX_R11_LEN + JMP_LITERAL_LEN;
                Layout {
                    gate_end,
                    literal: gate_end,
                }
            }
            Self::DisplacedAfter { moved } => {
                let gate_end = 2 * LEA_LEN + JMP_LITERAL_LEN;
                Layout {
                    gate_end,
                    literal: gate_end + moved.copies_len() + back_len(moved),
                }
            }
        }
    }

    /// Bytes that this form's trampoline takes, at most [`TRAMPOLINE_LEN_MAX`].
    #[must_use]
    pub fn trampoline_len(&self) -> u64 {
        self.layout().literal + LITERAL_LEN
    }

    /// Where, in a trampoline at `trampoline`, a thread has to continue that faulted with `#UD` at
    /// `site + offset_in_site`: the address of the moved instruction that began there. `None` if
    /// none did.
    #[must_use]
    pub fn displaced_at(&self, trampoline: u64, offset_in_site: u64) -> Option<u64> {
        let Self::DisplacedAfter { moved } = self else {
            return None;
        };
        let displaced = moved.iter().find(|d| d.start == offset_in_site)?;
        Some(trampoline.wrapping_add(self.layout().gate_end + displaced.copy))
    }

    /// The code of a trampoline for `site` at `trampoline` that enters the vkernel at `gate`.
    /// `None` exactly where [`Form::patch`] gives `None`: out of reach, or not in a window.
    #[must_use]
    pub fn emit(&self, site: u64, trampoline: u64, gate: u64) -> Option<Trampoline> {
        self.patch(site, trampoline)?;
        let layout = self.layout();
        let literal = trampoline.wrapping_add(layout.literal);
        let after_site = site.wrapping_add(SYSCALL_LEN);
        let mut code = Trampoline {
            bytes: [0; TRAMPOLINE_LEN_MAX],
            len: 0,
            displaced_at: None,
            back_at: None,
        };
        match self {
            Self::MovBefore { mov } => {
                code.push(mov.bytes());
                code.push_relative(trampoline, &LEA_RCX, after_site)?;
                code.push(&MOV_RCX_R11);
                code.push_relative(trampoline, &JMP_LITERAL, literal)?;
            }
            Self::DisplacedAfter { moved } => {
                let displaced_at = trampoline.wrapping_add(layout.gate_end);
                code.push_relative(trampoline, &LEA_RCX, after_site)?;
                code.push_relative(trampoline, &LEA_R11, displaced_at)?;
                code.push_relative(trampoline, &JMP_LITERAL, literal)?;
                for displaced in moved.iter() {
                    code.push_moved(trampoline, site, &displaced)?;
                }
                code.displaced_at = Some(displaced_at);
                if !moved.ends_flow() {
                    code.back_at = Some(displaced_at.wrapping_add(moved.copies_len()));
                    code.push_relative(trampoline, &JMP, after_site.wrapping_add(moved.len()))?;
                }
            }
        }
        code.push(&gate.to_le_bytes());
        Some(code)
    }
}

/// Length of the jump back.
fn back_len(moved: &Moved) -> u64 {
    if moved.ends_flow() { 0 } else { JMP_LEN }
}

/// What `rip` inside a trampoline is in the original program, or `None` if it is not inside.
///
/// * Before the gate is entered: the beginning of what the patch replaced (the `mov`, or the
///   `syscall`). `rcx` and `r11` may have changed already, as they would have by the `syscall`.
/// * At a moved instruction: where it began.
/// * At the jump back: after the last moved instruction.
#[must_use]
pub fn translate(form: &Form, site: u64, trampoline: u64, rip: u64) -> Option<u64> {
    let offset = rip.checked_sub(trampoline)?;
    let layout = form.layout();
    if offset < layout.gate_end {
        return Some(form.patch_at(site));
    }
    let Form::DisplacedAfter { moved } = form else {
        return None;
    };
    let into = offset - layout.gate_end;
    let copies_len = moved.copies_len();
    if into >= copies_len + back_len(moved) {
        return None;
    }
    let here = moved.iter().find(|d| into < d.copy + d.copy_len());
    let original = here.map_or(SYSCALL_LEN + moved.len(), |displaced| displaced.start);
    Some(site.wrapping_add(original))
}
