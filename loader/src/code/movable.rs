//! Which instructions may be executed at another address, and what that takes.
//!
//! Key type: [`Relocation`]. Lengths and operands are decoded by `yaxpeax-x86`. What may be moved
//! is a list of plain integer instructions, because the compilers' code after a system call is a
//! compare, a test or a move, and the few instructions that change the flow without leaving a
//! trace of where they stood: `ret`, direct jumps, conditional jumps.
//!
//! Neighbours: [`moved`](super::moved) collects the instructions behind a site with it.
//!
//! Never accepts what it does not know: an instruction is moved only if its prefixes, opcode and
//! every operand are on a list. Never accepts a `call`, which would push an address inside the
//! trampoline.

use yaxpeax_x86::long_mode::register_class;
use yaxpeax_x86::long_mode::{DecodeError, InstDecoder, Instruction, Opcode, Operand, RegSpec};

use super::Refusal;
use super::insn::{INSN_LEN_MAX, Insn, is_prefix_or_escape};

const INT3: u8 = 0xcc;
const NOP: u8 = 0x90;
/// `0f 1f`, the NOP with a ModRM byte.
const LONG_NOP: [u8; 2] = [0x0f, 0x1f];

/// How an instruction is written down at another address. Distances count from the end of the
/// instruction where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relocation {
    /// As it is.
    Copy,
    /// As it is; it ends the flow.
    Return,
    /// As it is but for the four bytes from `at` on, which are the distance to what it accesses.
    Memory { at: u8, distance: i32 },
    /// As `jmp rel32`; it ends the flow.
    Jump { distance: i32 },
    /// As `jcc rel32`.
    Branch { condition: u8, distance: i32 },
}

impl Relocation {
    pub(super) fn distance(self) -> Option<i32> {
        match self {
            Self::Copy | Self::Return => None,
            Self::Memory { distance, .. }
            | Self::Jump { distance }
            | Self::Branch { distance, .. } => Some(distance),
        }
    }

    pub(super) fn ends_flow(self) -> bool {
        matches!(self, Self::Return | Self::Jump { .. })
    }
}

/// What is known about how a run of instructions is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// The instruction before runs into it.
    FromAbove,
    /// The instruction before ends the flow: this is padding, a label or the next function.
    Unknown,
}

/// The instruction at the start of `code`, if it may be executed at another address instead.
pub(super) fn movable(code: &[u8], reached: Reached) -> Result<(Insn, Relocation), Refusal> {
    if reached == Reached::Unknown {
        match code.first() {
            // Some linkers fill with zeros, which decode, but to an instruction as wrong as its
            // length.
            Some(0) => return Err(Refusal::NotCode),
            Some(&INT3) => return Ok((Insn::new(&[INT3]), Relocation::Copy)),
            _ => {}
        }
    }
    if let Some(found) = flow_change(code) {
        return Ok(found);
    }
    if let Some(insn) = long_nop(code)? {
        return Ok((insn, Relocation::Copy));
    }
    check_prefixes(code)?;
    let (insn, decoded) = decode(code)?;
    if !is_plain(&decoded) {
        return Err(Refusal::NotPlain);
    }
    let mut is_relative = false;
    for index in 0..decoded.operand_count() {
        is_relative |= check_operand(&decoded.operand(index))?;
    }
    let relocation = if is_relative {
        relative_memory(&insn)?
    } else {
        Relocation::Copy
    };
    Ok((insn, relocation))
}

/// `ret`, `jmp` and `jcc` in the encodings without prefixes (but for `rep ret`). Others are left to
/// the decoder, whose list has none of them.
fn flow_change(code: &[u8]) -> Option<(Insn, Relocation)> {
    let short = |distance: u8| i32::from(distance as i8);
    let jump = |distance| Relocation::Jump { distance };
    let branch = |opcode: u8, distance| Relocation::Branch {
        condition: opcode & 0xf,
        distance,
    };
    let (len, relocation) = match *code {
        [0xc3, ..] => (1, Relocation::Return),
        [0xf3, 0xc3, ..] => (2, Relocation::Return),
        [0xeb, distance, ..] => (2, jump(short(distance))),
        [0xe9, a, b, c, d, ..] => (5, jump(i32::from_le_bytes([a, b, c, d]))),
        [opcode @ 0x70..=0x7f, distance, ..] => (2, branch(opcode, short(distance))),
        [0x0f, opcode @ 0x80..=0x8f, a, b, c, d, ..] => {
            (6, branch(opcode, i32::from_le_bytes([a, b, c, d])))
        }
        _ => return None,
    };
    Some((Insn::new(&code[..len]), relocation))
}

/// The NOPs that assemblers align with: `90` or `0f 1f /0` behind any number of `66` and `2e`.
fn long_nop(code: &[u8]) -> Result<Option<Insn>, Refusal> {
    let prefixes = code
        .iter()
        .take_while(|byte| matches!(byte, 0x66 | 0x2e))
        .count();
    let rest = &code[prefixes..];
    if rest.first() == Some(&NOP) && prefixes < INSN_LEN_MAX {
        return Ok(Some(Insn::new(&code[..=prefixes])));
    }
    if !rest.starts_with(&LONG_NOP) {
        return Ok(None);
    }
    let (insn, decoded) = decode(code)?;
    Ok((decoded.opcode() == Opcode::NOP).then_some(insn))
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

fn is_plain_prefix(byte: u8) -> bool {
    matches!(byte, 0x64..=0x66)
}

fn is_rex(byte: u8) -> bool {
    matches!(byte, 0x40..=0x4f)
}

/// Allows one operand-size prefix, one FS or GS override and one REX, the REX last, and no
/// encoding that begins with another prefix (VEX, XOP, EVEX, REX2).
fn check_prefixes(code: &[u8]) -> Result<(), Refusal> {
    let legacy = code.iter().take_while(|&&b| is_plain_prefix(b)).count();
    let (prefixes, rest) = code.split_at(legacy);
    let sizes = prefixes.iter().filter(|&&b| b == 0x66).count();
    let rest = match rest {
        [rex, rest @ ..] if is_rex(*rex) => rest,
        _ => rest,
    };
    let opcode = *rest.first().ok_or(Refusal::Truncated)?;
    let is_prefix = opcode != 0x0f && is_prefix_or_escape(Some(opcode));
    if sizes > 1 || legacy - sizes > 1 || is_prefix {
        return Err(Refusal::Prefix);
    }
    Ok(())
}

/// Instructions that compute or move integers, or push and pop them, and do nothing else.
fn is_plain(decoded: &Instruction) -> bool {
    use Opcode::{
        ADC, ADD, AND, BSWAP, BT, CDQ, CDQE, CMP, CQO, CWDE, DEC, IMUL, INC, LEA, LEAVE, MOV,
        MOVSX, MOVSXD, MOVZX, NEG, NOP, NOT, OR, POP, PUSH, ROL, ROR, SAR, SBB, SHL, SHR, SUB,
        TEST, XCHG, XOR,
    };
    let listed = matches!(
        decoded.opcode(),
        MOV | MOVZX
            | MOVSX
            | MOVSXD
            | CDQE
            | CWDE
            | CDQ
            | CQO
            | LEA
            | XCHG
            | BSWAP
            | PUSH
            | POP
            | LEAVE
            | TEST
            | CMP
            | ADD
            | ADC
            | SUB
            | SBB
            | IMUL
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

/// Tells whether the operand is memory relative to the instruction pointer.
fn check_operand(operand: &Operand) -> Result<bool, Refusal> {
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
        | Operand::AbsoluteU64 { .. } => Ok(false),
        Operand::MemDeref { base } | Operand::Disp { base, .. }
            if base.class() == register_class::RIP =>
        {
            Ok(true)
        }
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

/// General-purpose registers only: no segment, control or debug register. Never relative.
fn check_registers(registers: &[RegSpec]) -> Result<bool, Refusal> {
    use register_class::{B, D, Q, RB, W};
    let is_general = |register: &RegSpec| [Q, D, W, B, RB].contains(&register.class());
    if registers.iter().all(is_general) {
        Ok(false)
    } else {
        Err(Refusal::NotPlain)
    }
}

/// Finds the displacement of an instruction that [`check_prefixes`] let pass and whose memory
/// operand is relative to the instruction pointer.
fn relative_memory(insn: &Insn) -> Result<Relocation, Refusal> {
    let bytes = insn.bytes();
    let legacy = bytes.iter().take_while(|&&b| is_plain_prefix(b)).count();
    let rex = usize::from(bytes.get(legacy).is_some_and(|&b| is_rex(b)));
    let opcode_at = legacy + rex;
    let opcode_len = match bytes.get(opcode_at..) {
        Some([0x0f, 0x38 | 0x3a, ..]) => return Err(Refusal::Relative),
        Some([0x0f, ..]) => 2,
        _ => 1,
    };
    let is_relative = |modrm: u8| modrm & 0xc7 == 0x05;
    match bytes.get(opcode_at + opcode_len..) {
        Some([modrm, a, b, c, d, ..]) if is_relative(*modrm) => Ok(Relocation::Memory {
            at: (opcode_at + opcode_len + 1) as u8,
            distance: i32::from_le_bytes([*a, *b, *c, *d]),
        }),
        _ => Err(Refusal::Relative),
    }
}
