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
//! literal:                             <moved instruction>
//!   .quad gate                       back:
//!                                      jmp  site+2+len
//!                                    literal:
//!                                      .quad gate
//! ```
//!
//! Nothing is pushed (the program's red zone is below `rsp`), no flag changes, only `rcx` and `r11`
//! are written. The gate's address is a literal, because the gate may be further than 2 GiB away.
//!
//! Neighbours: the parent module's contract with the gate; the vkernel's signal code, which uses
//! [`translate`] so that no program sees an address inside a trampoline.
//!
//! Never contains a `syscall` instruction.

use super::{Form, JMP_LEN, SYSCALL_LEN, displacement, placement};

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

/// The code for one site, to be copied to the address it was made for and executed only there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trampoline {
    bytes: [u8; TRAMPOLINE_LEN_MAX],
    len: usize,
    /// Address of the moved instruction, for [`Form::DisplacedAfter`].
    pub displaced_at: Option<u64>,
    /// Address of the final jump back, for [`Form::DisplacedAfter`].
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
                    literal: gate_end + moved.len() + JMP_LEN,
                }
            }
        }
    }

    /// Bytes that this form's trampoline takes, at most [`TRAMPOLINE_LEN_MAX`].
    #[must_use]
    pub fn trampoline_len(&self) -> u64 {
        self.layout().literal + LITERAL_LEN
    }

    /// Address of the moved instruction in a trampoline at `trampoline`: where a thread has to
    /// continue that faulted with `#UD` at `site + 2`. `None` for [`Form::MovBefore`], which moves
    /// nothing that is behind the site.
    #[must_use]
    pub fn displaced_at(&self, trampoline: u64) -> Option<u64> {
        match self {
            Self::MovBefore { .. } => None,
            Self::DisplacedAfter { .. } => Some(trampoline.wrapping_add(self.layout().gate_end)),
        }
    }

    /// The code of a trampoline for `site` at `trampoline` that enters the vkernel at `gate`.
    /// `None` exactly where [`Form::patch`] gives `None`: out of reach, or not in a window.
    #[must_use]
    pub fn emit(&self, site: u64, trampoline: u64, gate: u64) -> Option<Trampoline> {
        self.patch(site, trampoline)?;
        if !placement::is_allowed(self, site, trampoline) {
            return None;
        }
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
                code.push(moved.bytes());
                code.push_relative(trampoline, &JMP, after_site.wrapping_add(moved.len()))?;
                code.displaced_at = Some(displaced_at);
                code.back_at = Some(displaced_at.wrapping_add(moved.len()));
            }
        }
        code.push(&gate.to_le_bytes());
        Some(code)
    }
}

/// What `rip` inside a trampoline is in the original program, or `None` if it is not inside.
///
/// * Before the gate is entered: the beginning of what the patch replaced (the `mov`, or the
///   `syscall`). `rcx` and `r11` may have changed already, as they would have by the `syscall`.
/// * At the moved instruction: right after the `syscall`.
/// * At the jump back: after the moved instruction.
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
    let after_site = site.wrapping_add(SYSCALL_LEN);
    let into = offset - layout.gate_end;
    if into < moved.len() {
        Some(after_site)
    } else if into < moved.len() + JMP_LEN {
        Some(after_site.wrapping_add(moved.len()))
    } else {
        None
    }
}
