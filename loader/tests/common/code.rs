//! What must hold for every patch and trampoline, checked with a second decoder (iced-x86).
#![allow(dead_code)] // each test program uses its part

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic,
    OpKind, Register,
};
use pegasus_loader::code::{
    self, Form, JMP_LEN, Moved, Refusal, TRAMPOLINE_LEN_MAX, UNDEFINED_OPCODES, translate,
};

pub const SITE: u64 = 0x7f12_3456_789a;
pub const GATE: u64 = 0x1000_0000_0000;

pub fn decode(bytes: &[u8], ip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode()
}

pub fn site_with(behind: &[u8]) -> Vec<u8> {
    let mut after = vec![0x0f, 0x05];
    after.extend_from_slice(behind);
    after
}

pub fn analyse_behind(behind: &[u8]) -> Result<Form, Refusal> {
    code::analyse(&[0x90; 16], &site_with(behind), 1)
}

pub fn moved_behind(behind: &[u8]) -> Moved {
    match analyse_behind(behind) {
        Ok(Form::DisplacedAfter { moved }) => moved,
        other => panic!("{behind:02x?}: {other:?}"),
    }
}

pub fn bytes_of(moved: &Moved) -> Vec<u8> {
    moved
        .insns()
        .flat_map(|insn| insn.bytes().to_vec())
        .collect()
}

/// What must hold for instructions that run at another address.
pub fn check_moved(moved: &Moved) {
    let mut at = 2;
    let starts: Vec<u64> = moved.starts().collect();
    let lens = moved.insns().map(|insn| insn.len());
    let mut is_reached = true;
    for ((bytes, len), start) in moved.insns().map(|i| i.bytes()).zip(lens).zip(&starts) {
        assert_eq!(at, *start);
        // The one before ends inside the jump.
        assert!(at < JMP_LEN, "{moved:?}");
        let insn = decode(bytes, SITE + at);
        assert_eq!(insn.len(), bytes.len(), "{moved:?}");
        check_one(&insn, is_reached);
        is_reached &= !matches!(
            insn.flow_control(),
            FlowControl::Return | FlowControl::UnconditionalBranch
        );
        at += len;
    }
    assert!(at >= JMP_LEN, "{moved:?}");
    assert_eq!(at, 2 + moved.len());
}

fn check_one(insn: &Instruction, is_reached: bool) {
    let shown = format!("{insn}");
    assert!(!insn.is_invalid(), "{shown}");
    assert!(!insn.is_privileged(), "{shown}");
    assert!(!insn.is_string_instruction(), "{shown}");
    assert!(!insn.is_save_restore_instruction(), "{shown}");
    assert!(!insn.has_lock_prefix(), "{shown}");
    match insn.flow_control() {
        FlowControl::Next => {
            assert!(
                !insn.has_rep_prefix() && !insn.has_repne_prefix(),
                "{shown}"
            );
            let stack = [Mnemonic::Push, Mnemonic::Pop, Mnemonic::Leave];
            assert!(
                !insn.is_stack_instruction() || stack.contains(&insn.mnemonic()),
                "{shown}"
            );
            check_registers(insn, &shown);
        }
        FlowControl::Return => assert_eq!(insn.code(), Code::Retnq, "{shown}"),
        FlowControl::UnconditionalBranch => {
            assert!(insn.is_jmp_short_or_near(), "{shown}");
            check_target(insn, &shown);
        }
        FlowControl::ConditionalBranch => {
            assert!(insn.is_jcc_short_or_near(), "{shown}");
            check_target(insn, &shown);
        }
        FlowControl::Interrupt => {
            assert!(insn.code() == Code::Int3 && !is_reached, "{shown}");
        }
        other => panic!("{shown}: {other:?}"),
    }
}

fn check_target(insn: &Instruction, shown: &str) {
    let inside = SITE + 1..SITE + JMP_LEN;
    assert!(!inside.contains(&insn.near_branch_target()), "{shown}");
}

fn check_registers(insn: &Instruction, shown: &str) {
    for index in 0..insn.op_count() {
        if insn.op_kind(index) == OpKind::Register {
            assert!(insn.op_register(index).is_gpr(), "{shown}");
        }
    }
    assert_ne!(insn.memory_base(), Register::EIP, "{shown}");
    let mut factory = InstructionInfoFactory::new();
    for used in factory.info(insn).used_registers() {
        let register = used.register();
        let only_read = used.access() == iced_x86::OpAccess::Read;
        assert!(
            register.is_gpr() || (register.is_segment_register() && only_read),
            "{shown}"
        );
    }
}

/// A patch must be a jump to the trampoline; where an instruction was displaced it must fault.
pub fn check_patch(form: &Form, site: u64, trampoline: u64) {
    let patch = form.patch(site, trampoline).unwrap();
    let jump = decode(&patch.bytes, patch.addr);
    assert_eq!(jump.near_branch_target(), trampoline);
    assert_eq!(jump.len() as u64, JMP_LEN);
    match form {
        Form::MovBefore { .. } => assert!(patch.addr + JMP_LEN <= site),
        Form::DisplacedAfter { moved } => {
            assert_eq!(patch.addr, site);
            let mut code = site_with(&bytes_of(moved));
            code[..5].copy_from_slice(&patch.bytes);
            code.extend([0x90; 8]);
            for start in moved.starts() {
                let here = &code[start as usize..];
                assert!(UNDEFINED_OPCODES.contains(&here[0]));
                assert!(decode(here, site + start).is_invalid());
            }
        }
    }
    check_trampoline(form, site, trampoline);
}

fn check_trampoline(form: &Form, site: u64, at: u64) {
    let trampoline = form.emit(site, at, GATE).unwrap();
    let bytes = trampoline.bytes();
    assert!(bytes.len() <= TRAMPOLINE_LEN_MAX);
    assert_eq!(bytes.len() as u64, form.trampoline_len());
    let (code, literal) = bytes.split_at(bytes.len() - 8);
    assert_eq!(literal, GATE.to_le_bytes());
    let mut decoder = Decoder::with_ip(64, code, at, DecoderOptions::NONE);
    let insns: Vec<Instruction> = decoder.iter().collect();
    assert!(insns.iter().all(|i| !i.is_invalid()));
    let text: Vec<String> = insns
        .iter()
        .map(|i| i.to_string().replace("[0", "["))
        .collect();
    let literal_at = at + code.len() as u64;
    let after = site + 2;
    let jump_gate = format!("jmp qword ptr [{literal_at:X}h]");
    let mut meanings = vec![form.patch_at(site); 4];
    match form {
        Form::MovBefore { mov } => {
            assert_eq!(&code[..mov.len() as usize], mov.bytes());
            let lea = format!("lea rcx,[{after:X}h]");
            assert_eq!(text[1..], [lea, "mov r11,rcx".to_owned(), jump_gate]);
            assert_eq!((trampoline.displaced_at, trampoline.back_at), (None, None));
            assert_eq!(form.displaced_starts().count(), 0);
        }
        Form::DisplacedAfter { moved } => {
            let displaced = trampoline.displaced_at.unwrap();
            let leas = [
                format!("lea rcx,[{after:X}h]"),
                format!("lea r11,[{displaced:X}h]"),
            ];
            assert_eq!(text[..3], [leas[0].clone(), leas[1].clone(), jump_gate]);
            assert_eq!(form.displaced_at(at, 2), Some(displaced));
            meanings.truncate(3);
            meanings.extend(check_copies(form, moved, site, at, &insns[3..]));
            let back = insns.get(3 + moved.starts().count());
            assert_eq!(back.map(|i| i.ip()), trampoline.back_at);
            if let Some(back) = back {
                assert_eq!(back.near_branch_target(), after + moved.len());
                meanings.push(after + moved.len());
            }
        }
    }
    assert_eq!(insns.len(), meanings.len());
    for (insn, meaning) in insns.iter().zip(meanings) {
        assert_eq!(translate(form, site, at, insn.ip()), Some(meaning));
    }
    assert_eq!(translate(form, site, at, literal_at), None);
    assert_eq!(translate(form, site, at, at - 1), None);
    assert_eq!(translate(form, site, at, at + bytes.len() as u64), None);
}

/// Each copy must mean what the original meant. Gives the originals' addresses.
fn check_copies(
    form: &Form,
    moved: &Moved,
    site: u64,
    trampoline: u64,
    copies: &[Instruction],
) -> Vec<u64> {
    let starts: Vec<u64> = moved.starts().collect();
    for ((insn, start), copy) in moved.insns().zip(&starts).zip(copies) {
        let original = decode(insn.bytes(), site + start);
        assert_eq!(form.displaced_at(trampoline, *start), Some(copy.ip()));
        assert_eq!(copy.mnemonic(), original.mnemonic());
        if copy.is_jcc_near() || copy.is_jmp_near() {
            assert_eq!(copy.near_branch_target(), original.near_branch_target());
        } else {
            assert_eq!(copy.to_string(), original.to_string());
            assert_eq!(copy.code(), original.code());
        }
        if original.is_ip_rel_memory_operand() {
            let address = original.ip_rel_memory_address();
            assert_eq!(copy.ip_rel_memory_address(), address);
        }
    }
    for offset in (0..32).filter(|offset| !starts.contains(offset)) {
        assert_eq!(form.displaced_at(trampoline, offset), None);
    }
    starts.iter().map(|start| site + start).collect()
}
