//! The bytes of an instruction, and the `mov $nr` before a `syscall`.
//!
//! Key type: [`Insn`]. Neighbours: `analyse` in the parent module looks for the `mov` first;
//! [`movable`](super::movable) judges what is after the `syscall`.
//!
//! Never decodes backwards: the `mov` is recognised by its bytes and the number it must load, and
//! refused where these can be read in another way.

/// Longest x86 instruction, in bytes.
pub const INSN_LEN_MAX: usize = 15;

/// The bytes of one instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    bytes: [u8; INSN_LEN_MAX],
    len: u8,
}

impl Insn {
    /// Takes at most [`INSN_LEN_MAX`] bytes.
    pub(super) fn new(source: &[u8]) -> Self {
        let mut bytes = [0; INSN_LEN_MAX];
        let len = source.len().min(INSN_LEN_MAX);
        bytes[..len].copy_from_slice(&source[..len]);
        Self {
            bytes,
            len: len as u8,
        }
    }

    /// The instruction.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }

    /// Its length, in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // no instruction is empty
    pub fn len(&self) -> u64 {
        u64::from(self.len)
    }

    pub(super) fn first_five(&self) -> [u8; 5] {
        let [a, b, c, d, e, ..] = self.bytes;
        [a, b, c, d, e]
    }
}

impl core::fmt::Debug for Insn {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Insn({:02x?})", self.bytes())
    }
}

/// The `mov $nr,%eax` or `mov $nr,%rax` that ends at the end of `before`.
///
/// Backwards, x86 cannot be decoded with certainty. What makes the guess safe is `nr`: any other
/// reading of the bytes would have to end in the number that happens to be in `rax`, and whatever
/// reads them as a memory operand would use `rax` or a displacement as small as `nr` as address.
/// The readings that remain possible are refused here.
pub(super) fn mov_before(before: &[u8], nr: u64) -> Option<Insn> {
    let imm_at = before.len().checked_sub(4)?;
    let (code, imm) = before.split_at(imm_at);
    let imm = u32::from_le_bytes(imm.try_into().ok()?);
    match code {
        [head @ .., 0x48, 0xc7, 0xc0] => {
            let sign_extended = i64::from(imm as i32) as u64;
            let fits = sign_extended == nr && !is_prefix_or_escape(head.last().copied());
            fits.then(|| Insn::new(&before[imm_at - 3..]))
        }
        [head @ .., 0xb8] => {
            let fits = u64::from(imm) == nr
                && !is_prefix_or_escape(head.last().copied())
                && !swallows_the_mov(head);
            fits.then(|| Insn::new(&before[imm_at - 1..]))
        }
        _ => None,
    }
}

/// Whether a byte can change the meaning of the opcode after it: a REX or legacy prefix, the
/// two-byte escape, or the start of a VEX, XOP, EVEX or REX2 prefix. It may as well be the end of
/// the previous instruction; that is not decidable, so the site is refused. `None` (nothing is
/// known about what is before) counts as harmful.
pub(super) fn is_prefix_or_escape(byte: Option<u8>) -> bool {
    byte.is_none_or(|b| {
        matches!(
            b,
            0x40..=0x4f
                | 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67
                | 0xf0 | 0xf2 | 0xf3
                | 0x0f | 0x62 | 0x8f | 0xc4 | 0xc5 | 0xd5
        )
    })
}

/// Whether `b8 imm32` may be the tail of a longer instruction that ends in `head`, one that can be
/// executed without a fault while `rax` already is `nr`:
///
/// * `b8` as displacement and imm32 as immediate: `movl $nr,-0x48(%rbp)`, and the same for
///   `cmpl`, `imul` and `testl`, with a base register, a base and index, or a 32-bit displacement
///   whose top byte is `b8`;
/// * `b8` as ModRM and imm32 as displacement: `lea nr(%rax),%edi`, or a `nop` or prefetch, which
///   do not touch the memory they name.
fn swallows_the_mov(head: &[u8]) -> bool {
    let takes_imm32 = |opcode: u8| matches!(opcode, 0x69 | 0x81 | 0xc7 | 0xf7);
    let is_mod = |modrm: u8, value: u8| modrm >> 6 == value;
    let has_sib = |modrm: u8| modrm & 7 == 4;
    match head {
        [.., 0x8d] | [.., 0x0f, 0x0d | 0x18..=0x1f] => true,
        [.., opcode, modrm] if takes_imm32(*opcode) && is_mod(*modrm, 1) && !has_sib(*modrm) => {
            true
        }
        [.., opcode, modrm, _] if takes_imm32(*opcode) && is_mod(*modrm, 1) && has_sib(*modrm) => {
            true
        }
        [.., opcode, modrm, _, _, _] if takes_imm32(*opcode) && is_mod(*modrm, 2) => true,
        [.., opcode, modrm, _, _, _, _] if takes_imm32(*opcode) && is_mod(*modrm, 2) => true,
        _ => false,
    }
}
