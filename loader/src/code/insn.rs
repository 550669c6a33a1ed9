//! Recognises the two kinds of instruction that may be overwritten next to a `syscall`.
//!
//! Key type: [`Insn`]. The length and operands of the instruction after a site are decoded by
//! `yaxpeax-x86`; what may be moved is a short list of plain integer instructions, because the
//! compilers' code after a system call is a compare, a test or a move.
//!
//! Neighbours: `analyse` in the parent module.
//!
//! Never accepts what it does not know: an instruction is moved only if its prefixes, opcode and
//! every operand are on a list.

use yaxpeax_x86::long_mode::register_class;
use yaxpeax_x86::long_mode::{DecodeError, InstDecoder, Instruction, Opcode, Operand, RegSpec};

use super::Refusal;

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
    fn new(source: &[u8]) -> Self {
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
fn is_prefix_or_escape(byte: Option<u8>) -> bool {
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

/// The instruction at the start of `code`, if it may be executed at another address instead.
pub(super) fn movable(code: &[u8]) -> Result<Insn, Refusal> {
    check_prefixes(code)?;
    let (insn, decoded) = decode(code)?;
    if !is_plain(&decoded) {
        return Err(Refusal::NotPlain);
    }
    for index in 0..decoded.operand_count() {
        check_operand(&decoded.operand(index))?;
    }
    if insn.len < 3 {
        return Err(Refusal::TooShort);
    }
    Ok(insn)
}

/// Decodes one instruction. Its length is the shortest run of bytes that decodes: the decoder
/// reads byte by byte, so fewer bytes exhaust it and more change nothing.
fn decode(code: &[u8]) -> Result<(Insn, Instruction), Refusal> {
    let decoder = InstDecoder::default();
    for len in 1..=code.len().min(INSN_LEN_MAX) {
        match decoder.decode_slice(&code[..len]) {
            Ok(decoded) => return Ok((Insn::new(&code[..len]), decoded)),
            Err(DecodeError::ExhaustedInput) => {}
            Err(_) => return Err(Refusal::Undecodable),
        }
    }
    Err(Refusal::Truncated)
}

/// Allows one operand-size prefix, one FS or GS override and one REX, the REX last, and no
/// encoding that begins with another prefix (VEX, XOP, EVEX, REX2).
fn check_prefixes(code: &[u8]) -> Result<(), Refusal> {
    let (mut sizes, mut segments) = (0, 0);
    let mut rest = code.iter().copied();
    let mut next = rest.next();
    loop {
        match next {
            Some(0x66) => sizes += 1,
            Some(0x64 | 0x65) => segments += 1,
            _ => break,
        }
        next = rest.next();
    }
    if matches!(next, Some(0x40..=0x4f)) {
        next = rest.next();
    }
    let opcode = next.ok_or(Refusal::Truncated)?;
    if sizes > 1 || segments > 1 || (opcode != 0x0f && is_prefix_or_escape(Some(opcode))) {
        return Err(Refusal::Prefix);
    }
    Ok(())
}

/// Instructions that compute or move integers, and do nothing else.
fn is_plain(decoded: &Instruction) -> bool {
    use Opcode::{
        ADC, ADD, AND, BT, CMP, DEC, INC, LEA, MOV, MOVSX, MOVSXD, MOVZX, NEG, NOP, NOT, OR, ROL,
        ROR, SAR, SBB, SHL, SHR, SUB, TEST, XOR,
    };
    let listed = matches!(
        decoded.opcode(),
        MOV | MOVZX
            | MOVSX
            | MOVSXD
            | LEA
            | TEST
            | CMP
            | ADD
            | ADC
            | SUB
            | SBB
            | AND
            | OR
            | XOR
            | NEG
            | NOT
            | INC
            | DEC
            | SHL
            | SHR
            | SAR
            | ROL
            | ROR
            | BT
            | NOP
    );
    listed || decoded.opcode().is_cmovcc() || decoded.opcode().is_setcc()
}

fn check_operand(operand: &Operand) -> Result<(), Refusal> {
    match operand {
        Operand::ImmediateI8 { .. }
        | Operand::ImmediateU8 { .. }
        | Operand::ImmediateI16 { .. }
        | Operand::ImmediateU16 { .. }
        | Operand::ImmediateI32 { .. }
        | Operand::ImmediateU32 { .. }
        | Operand::ImmediateI64 { .. }
        | Operand::ImmediateU64 { .. }
        | Operand::AbsoluteU32 { .. }
        | Operand::AbsoluteU64 { .. } => Ok(()),
        Operand::Register { reg } => check_registers(&[*reg]),
        Operand::MemDeref { base } | Operand::Disp { base, .. } => check_registers(&[*base]),
        Operand::MemIndexScale { index, .. } | Operand::MemIndexScaleDisp { index, .. } => {
            check_registers(&[*index])
        }
        Operand::MemBaseIndexScale { base, index, .. }
        | Operand::MemBaseIndexScaleDisp { base, index, .. } => check_registers(&[*base, *index]),
        _ => Err(Refusal::NotPlain),
    }
}

/// General-purpose registers only: no instruction pointer, segment, control or debug register.
fn check_registers(registers: &[RegSpec]) -> Result<(), Refusal> {
    use register_class::{B, D, EIP, Q, RB, RIP, W};
    for register in registers {
        let class = register.class();
        if class == RIP || class == EIP {
            return Err(Refusal::Relative);
        }
        if ![Q, D, W, B, RB].contains(&class) {
            return Err(Refusal::NotPlain);
        }
    }
    Ok(())
}
