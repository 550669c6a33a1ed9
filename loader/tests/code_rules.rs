//! Which sites are rewritten and to which bytes; a second decoder checks what the first accepted.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpKind,
    Register,
};
use pegasus_loader::code::{
    self, Form, JMP_LEN, Refusal, TRAMPOLINE_LEN_MAX, UNDEFINED_OPCODES, placements, translate,
};
use proptest::prelude::*;

const SITE: u64 = 0x7f12_3456_789a;
const GATE: u64 = 0x1000_0000_0000;

fn decode(bytes: &[u8], ip: u64) -> Instruction {
    Decoder::with_ip(64, bytes, ip, DecoderOptions::NONE).decode()
}

fn site_with(behind: &[u8]) -> Vec<u8> {
    let mut after = vec![0x0f, 0x05];
    after.extend_from_slice(behind);
    after
}

fn analyse_behind(behind: &[u8]) -> Result<Form, Refusal> {
    code::analyse(&[0x90; 16], &site_with(behind), 1)
}

#[test]
fn mov_before_is_recognised() {
    let form_of = |before: &[u8], nr: u64| match code::analyse(before, &[0x0f, 0x05], nr) {
        Ok(Form::MovBefore { mov }) => Some(mov.bytes().to_vec()),
        other => {
            assert_eq!(other, Err(Refusal::Truncated));
            None
        }
    };
    let mov_eax = [0x90, 0xb8, 39, 0, 0, 0];
    let mov_rax = [0x90, 0x48, 0xc7, 0xc0, 39, 0, 0, 0];
    assert_eq!(form_of(&mov_eax, 39), Some(mov_eax[1..].to_vec()));
    assert_eq!(form_of(&mov_rax, 39), Some(mov_rax[1..].to_vec()));
    assert_eq!(form_of(&mov_eax, 38), None);
    assert_eq!(form_of(&mov_rax, 38), None);
    // Without anything before it, its first byte cannot be known to be the first.
    assert_eq!(form_of(&mov_eax[1..], 39), None);
    assert_eq!(form_of(&mov_rax[1..], 39), None);
    assert_eq!(form_of(&[], 39), None);
    assert_eq!(form_of(&[0, 0, 0], 0), None);
    // Zero extension and sign extension.
    let all = [0x90, 0xb8, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(form_of(&all, u64::MAX), None);
    assert!(form_of(&all, 0xffff_ffff).is_some());
    let all = [0x90, 0x48, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff];
    assert!(form_of(&all, u64::MAX).is_some());
    assert_eq!(form_of(&all, 0xffff_ffff), None);
    // xor %eax,%eax is no mov.
    assert_eq!(form_of(&[0x90, 0x90, 0x90, 0x31, 0xc0], 0), None);
    // What stands before would change the instruction.
    let prefixes =
        (0x40..=0x4f).chain([0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x65, 0x0f, 0xc5]);
    for prefix in prefixes {
        assert_eq!(
            form_of(&[0x90, prefix, 0xb8, 39, 0, 0, 0], 39),
            None,
            "{prefix:#x}"
        );
        let before = [0x90, prefix, 0x48, 0xc7, 0xc0, 39, 0, 0, 0];
        assert_eq!(form_of(&before, 39), None, "{prefix:#x}");
    }
}

#[test]
fn a_mov_that_is_part_of_another_instruction_is_refused() {
    let swallowing: [&[u8]; 10] = [
        &[0x90, 0xc7, 0x45, 0xb8, 39, 0, 0, 0], // movl $39,-0x48(%rbp)
        &[0x90, 0x81, 0x7d, 0xb8, 39, 0, 0, 0], // cmpl $39,-0x48(%rbp)
        &[0x90, 0xc7, 0x44, 0x24, 0xb8, 39, 0, 0, 0], // movl $39,-0x48(%rsp)
        &[0x90, 0x69, 0x45, 0xb8, 39, 0, 0, 0], // imul $39,-0x48(%rbp),%eax
        &[0x90, 0xf7, 0x45, 0xb8, 39, 0, 0, 0], // testl $39,-0x48(%rbp)
        &[0xc7, 0x85, 0, 0, 0, 0xb8, 39, 0, 0, 0], // movl $39,-0x48000000(%rbp)
        &[0xc7, 0x84, 0x24, 0, 0, 0, 0xb8, 39, 0, 0, 0], // the same with a SIB byte
        &[0x90, 0x8d, 0xb8, 39, 0, 0, 0],       // lea 39(%rax),%edi
        &[0x90, 0x0f, 0x1f, 0xb8, 39, 0, 0, 0], // nopl 39(%rax)
        &[0x90, 0x0f, 0x18, 0xb8, 39, 0, 0, 0], // a prefetch hint
    ];
    for before in swallowing {
        assert!(
            code::analyse(before, &[0x0f, 0x05], 39).is_err(),
            "{before:02x?}"
        );
    }
    // Common neighbours do no harm.
    let neighbours: [&[u8]; 7] = [
        &[0x48, 0x89, 0xc7],             // mov %rax,%rdi
        &[0x89, 0xf7],                   // mov %esi,%edi
        &[0xbf, 1, 0, 0, 0],             // mov $1,%edi
        &[0x31, 0xff],                   // xor %edi,%edi
        &[0x48, 0x8b, 0x7c, 0x24, 0x08], // mov 8(%rsp),%rdi
        &[0x49, 0x89, 0xca],             // mov %rcx,%r10
        &[0xf3, 0x0f, 0x1e, 0xfa],       // endbr64
    ];
    for neighbour in neighbours {
        let before = [neighbour, &[0xb8, 39, 0, 0, 0]].concat();
        let form = code::analyse(&before, &[0x0f, 0x05], 39);
        assert!(
            matches!(form, Ok(Form::MovBefore { .. })),
            "{neighbour:02x?}: {form:?}"
        );
    }
}

#[test]
fn the_instruction_after_is_moved_or_refused() {
    let accepted: [&[u8]; 14] = [
        &[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff], // cmp $-4095,%rax
        &[0x3d, 0x00, 0xf0, 0xff, 0xff],       // cmp $-4096,%eax
        &[0x48, 0x89, 0xc7],                   // mov %rax,%rdi
        &[0x89, 0x44, 0x24, 0x08],             // mov %eax,8(%rsp)
        &[0x48, 0x89, 0x44, 0x24, 0x28],       // mov %rax,0x28(%rsp)
        &[0x48, 0x85, 0xc0],                   // test %rax,%rax
        &[0x48, 0x83, 0xf8, 0xfc],             // cmp $-4,%rax
        &[0x48, 0x8d, 0x64, 0x24, 0x08],       // lea 8(%rsp),%rsp
        &[0x0f, 0xb6, 0xc0],                   // movzbl %al,%eax
        &[0x0f, 0x94, 0xc0],                   // sete %al
        &[0x48, 0xf7, 0xd8],                   // neg %rax
        &[0x48, 0x0f, 0x44, 0xc2],             // cmove %rdx,%rax
        &[0x64, 0x89, 0x04, 0x25, 0, 0, 0, 0], // mov %eax,%fs:0
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00], // nopw 0(%rax,%rax)
    ];
    for behind in accepted {
        let form = analyse_behind(&[behind, &[0x90; 10]].concat());
        let Ok(Form::DisplacedAfter { moved }) = form else {
            panic!("{behind:02x?}: {form:?}")
        };
        assert_eq!(moved.bytes(), behind);
        // Exactly enough bytes are enough, one less is not.
        assert!(analyse_behind(behind).is_ok());
        assert_eq!(
            analyse_behind(&behind[..behind.len() - 1]),
            Err(Refusal::Truncated)
        );
    }
    let refused: [(&[u8], Refusal); 21] = [
        (&[0xc3], Refusal::NotPlain),                         // ret
        (&[0x89, 0xc7], Refusal::TooShort),                   // mov %eax,%edi
        (&[0x85, 0xc0], Refusal::TooShort),                   // test %eax,%eax
        (&[0x48, 0x8b, 0x05, 0, 0, 0, 0], Refusal::Relative), // mov 0(%rip),%rax
        (&[0x48, 0x8d, 0x0d, 0, 0, 0, 0], Refusal::Relative), // lea 0(%rip),%rcx
        (&[0xe8, 0, 0, 0, 0], Refusal::NotPlain),             // call
        (&[0xe9, 0, 0, 0, 0], Refusal::NotPlain),             // jmp
        (&[0x0f, 0x84, 0, 0, 0, 0], Refusal::NotPlain),       // je
        (&[0xff, 0x50, 0x10], Refusal::NotPlain),             // call *16(%rax)
        (&[0x41, 0x0f, 0x05], Refusal::NotPlain),             // syscall
        (&[0xcd, 0x80, 0x90], Refusal::NotPlain),             // int $0x80
        (&[0xf0, 0x48, 0x01, 0x07], Refusal::Prefix),         // lock add
        (&[0xf3, 0x48, 0xa5], Refusal::Prefix),               // rep movs
        (&[0xf3, 0x0f, 0x1e, 0xfa], Refusal::Prefix),         // endbr64
        (&[0x67, 0x8b, 0x04, 0x24], Refusal::Prefix),         // mov (%esp),%eax
        (&[0xc5, 0xf8, 0x77], Refusal::Prefix),               // vzeroupper
        (&[0x0f, 0x20, 0xc0], Refusal::NotPlain),             // mov %cr0,%rax
        (&[0x48, 0x8e, 0xd8], Refusal::NotPlain),             // mov %rax,%ds
        (&[0x0f, 0x01, 0xef], Refusal::NotPlain),             // wrpkru
        (&[0x41, 0xff, 0x36], Refusal::NotPlain),             // push (%r14)
        (&[], Refusal::Truncated),
    ];
    for (behind, expected) in refused {
        assert_eq!(analyse_behind(behind), Err(expected), "{behind:02x?}");
    }
    assert_eq!(
        code::analyse(&[], &[0x0f, 0x04, 0x90], 0),
        Err(Refusal::NotSyscall)
    );
    assert_eq!(code::analyse(&[], &[0x0f], 0), Err(Refusal::NotSyscall));
    assert_eq!(code::analyse(&[], &[], 0), Err(Refusal::NotSyscall));
}

/// What must hold for an instruction that runs at another address.
fn check_moved(bytes: &[u8]) {
    let insn = decode(bytes, SITE + 2);
    let shown = format!("{bytes:02x?} = {insn}");
    assert!(!insn.is_invalid(), "{shown}");
    assert_eq!(insn.len(), bytes.len(), "{shown}");
    assert!(insn.len() >= 3, "{shown}");
    assert!(!insn.is_ip_rel_memory_operand(), "{shown}");
    assert_eq!(insn.flow_control(), FlowControl::Next, "{shown}");
    assert!(!insn.is_privileged(), "{shown}");
    assert!(!insn.is_stack_instruction(), "{shown}");
    assert!(!insn.is_string_instruction(), "{shown}");
    assert!(!insn.is_save_restore_instruction(), "{shown}");
    assert!(!insn.has_lock_prefix() && !insn.has_any_rep(), "{shown}");
    for index in 0..insn.op_count() {
        if insn.op_kind(index) == OpKind::Register {
            let register = insn.op_register(index);
            assert!(register.is_gpr(), "{shown}");
        }
    }
    let mut factory = InstructionInfoFactory::new();
    for used in factory.info(&insn).used_registers() {
        let register = used.register();
        let only_read = used.access() == iced_x86::OpAccess::Read;
        assert!(
            register.is_gpr() || (register.is_segment_register() && only_read),
            "{shown}"
        );
        assert_ne!(register.full_register(), Register::RIP, "{shown}");
    }
}

trait HasAnyRep {
    fn has_any_rep(&self) -> bool;
}

impl HasAnyRep for Instruction {
    fn has_any_rep(&self) -> bool {
        self.has_rep_prefix() || self.has_repne_prefix()
    }
}

/// Every opcode of the first two maps with every ModRM byte, some SIB bytes and prefixes.
#[test]
fn all_accepted_opcodes_satisfy_a_second_decoder() {
    let prefixes: [&[u8]; 9] = [
        &[],
        &[0x48],
        &[0x41],
        &[0x4f],
        &[0x66],
        &[0x66, 0x48],
        &[0x64],
        &[0x66, 0x65, 0x45],
        &[0x44],
    ];
    let mut accepted = 0u32;
    for prefix in prefixes {
        for (escape, opcode) in (0..=255u8).flat_map(|o| [(false, o), (true, o)]) {
            for modrm in 0..=255u8 {
                // Without a SIB byte, the next byte is a displacement or an immediate.
                let sibs: &[u8] = if modrm & 7 == 4 {
                    &[0x24, 0x25, 0x05, 0x98]
                } else {
                    &[0x24]
                };
                for &sib in sibs {
                    let mut bytes = prefix.to_vec();
                    bytes.extend(escape.then_some(0x0f));
                    bytes.extend([
                        opcode, modrm, sib, 0x11, 0x82, 0x13, 0x74, 0x55, 0x66, 0x17, 0x38, 0x09,
                    ]);
                    if let Ok(Form::DisplacedAfter { moved }) = analyse_behind(&bytes) {
                        check_moved(moved.bytes());
                        accepted += 1;
                    }
                }
            }
        }
    }
    assert!(accepted > 100_000, "only {accepted}");
}

#[test]
fn undefined_opcodes_are_undefined_whatever_follows() {
    for opcode in UNDEFINED_OPCODES {
        for next in 0..=255u8 {
            for fill in [0x00, 0x24, 0x90, 0xc0, 0xff] {
                let insn = decode(&[opcode, next, fill, fill, fill, fill, fill, fill], SITE);
                assert_eq!(insn.code(), Code::INVALID, "{opcode:#x} {next:#x}");
            }
        }
    }
}

fn form_b() -> Form {
    analyse_behind(&[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]).unwrap()
}

fn form_a(before: &[u8]) -> Form {
    code::analyse(before, &[0x0f, 0x05], 39).unwrap()
}

fn both_forms() -> [Form; 3] {
    [
        form_a(&[0x90, 0xb8, 39, 0, 0, 0]),
        form_a(&[0x90, 0x48, 0xc7, 0xc0, 39, 0, 0, 0]),
        form_b(),
    ]
}

/// A patch must be a jump to the trampoline; behind a displaced site it must fault.
fn check_patch(form: &Form, site: u64, trampoline: u64) {
    let patch = form.patch(site, trampoline).unwrap();
    let jump = decode(&patch.bytes, patch.addr);
    assert_eq!(jump.near_branch_target(), trampoline);
    assert_eq!(jump.len() as u64, JMP_LEN);
    match form {
        Form::MovBefore { .. } => assert!(patch.addr + JMP_LEN <= site),
        Form::DisplacedAfter { moved } => {
            assert_eq!(patch.addr, site);
            let mut code = site_with(moved.bytes());
            code[..5].copy_from_slice(&patch.bytes);
            code.extend([0x90; 8]);
            assert!(decode(&code[2..], site + 2).is_invalid());
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
    match form {
        Form::MovBefore { mov } => {
            assert_eq!(&code[..mov.len() as usize], mov.bytes());
            let lea = format!("lea rcx,[{after:X}h]");
            assert_eq!(text[1..], [lea, "mov r11,rcx".to_owned(), jump_gate]);
            assert_eq!((trampoline.displaced_at, trampoline.back_at), (None, None));
        }
        Form::DisplacedAfter { moved } => {
            let displaced = trampoline.displaced_at.unwrap();
            let leas = [
                format!("lea rcx,[{after:X}h]"),
                format!("lea r11,[{displaced:X}h]"),
            ];
            assert_eq!(text[..3], [leas[0].clone(), leas[1].clone(), jump_gate]);
            assert_eq!(insns[3].ip(), displaced);
            assert_eq!(form.displaced_at(at), Some(displaced));
            assert_eq!(insns[4].ip(), trampoline.back_at.unwrap());
            assert_eq!(insns[4].near_branch_target(), after + moved.len());
            assert_eq!(insns.len(), 5);
        }
    }
    for insn in &insns {
        let expected = match (form, Some(insn.ip())) {
            (_, ip) if ip == trampoline.displaced_at => after,
            (Form::DisplacedAfter { moved }, ip) if ip == trampoline.back_at => after + moved.len(),
            _ => form.patch_at(site),
        };
        assert_eq!(translate(form, site, at, insn.ip()), Some(expected));
    }
    assert_eq!(translate(form, site, at, literal_at), None);
    assert_eq!(translate(form, site, at, at - 1), None);
    assert_eq!(translate(form, site, at, at + bytes.len() as u64), None);
}

#[test]
fn originals_can_be_put_back() {
    let [short, long, behind] = both_forms();
    assert_eq!(short.original(SITE).addr, SITE - 5);
    assert_eq!(short.original(SITE).bytes, [0xb8, 39, 0, 0, 0]);
    assert_eq!(long.original(SITE).addr, SITE - 7);
    assert_eq!(long.original(SITE).bytes, [0x48, 0xc7, 0xc0, 39, 0]);
    assert_eq!(behind.original(SITE).addr, SITE);
    assert_eq!(behind.original(SITE).bytes, [0x0f, 0x05, 0x48, 0x3d, 0x01]);
}

#[test]
fn windows_are_complete_ordered_and_safe() {
    let (low, high) = (SITE - 0x4_0000, SITE + 0x5_0000);
    let form = form_b();
    let windows: Vec<_> = placements(&form, SITE, low, high).collect();
    let distance = |w: &code::Window| (w.start + (w.end - w.start) / 2).abs_diff(SITE);
    assert!(
        windows
            .iter()
            .zip(&windows[1..])
            .all(|(a, b)| distance(a) <= distance(b) + 256)
    );
    let last_start = high - TRAMPOLINE_LEN_MAX as u64;
    for trampoline in low - 100..high + 100 {
        let inside = windows
            .iter()
            .filter(|w| (w.start..w.end).contains(&trampoline))
            .count();
        let safe = form.patch(SITE, trampoline).is_some();
        let in_range = (low..=last_start).contains(&trampoline);
        assert_eq!(inside, usize::from(safe && in_range), "{trampoline:#x}");
        assert_eq!(form.emit(SITE, trampoline, GATE).is_some(), safe);
    }
}

#[test]
fn ranges_out_of_reach_or_too_small_have_no_windows() {
    for form in both_forms() {
        let count = |low, high| placements(&form, SITE, low, high).count();
        assert_eq!(count(SITE, SITE), 0);
        assert_eq!(count(SITE, SITE + 63), 0);
        assert_eq!(count(SITE + 5, SITE), 0);
        assert_eq!(count(SITE + (1 << 31), u64::MAX), 0);
        assert_eq!(count(0, SITE - (1 << 31)), 0);
        assert!(placements(&form, SITE, 0, u64::MAX).next().is_some());
        assert!(placements(&form, 0x1000, 0, u64::MAX).next().is_some());
        assert!(
            placements(&form, u64::MAX - 0x1000, 0, u64::MAX)
                .next()
                .is_some()
        );
        assert!(form.patch(SITE, SITE + (1 << 31)).is_none());
        assert!(form.patch(SITE, 0).is_none());
        assert!(!code::reachable(SITE, SITE + (1 << 31)));
    }
    // The whole reach has 14 windows for each 64 KiB, the two cut ends aside.
    let all = placements(&form_b(), SITE, 0, u64::MAX).count();
    assert!((14 * 65535..=14 * 65536 + 2).contains(&all), "{all}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_placement_gives_a_sound_patch(
        site in 0x1_0000_0000u64..0x7f00_0000_0000,
        low in -0x9000_0000i64..0x9000_0000,
        len in 0u64..0x4000_0000,
        pick in any::<u64>(),
        skip in 0usize..40,
    ) {
        let low = site.wrapping_add_signed(low);
        let high = low + len;
        for form in both_forms() {
            for window in placements(&form, site, low, high).skip(skip).take(3) {
                prop_assert!(window.start < window.end);
                let trampoline = window.start + pick % (window.end - window.start);
                prop_assert!(trampoline >= low && trampoline + TRAMPOLINE_LEN_MAX as u64 <= high);
                check_patch(&form, site, trampoline);
            }
        }
    }

    #[test]
    fn random_code_never_panics_and_moves_soundly(
        before in proptest::collection::vec(any::<u8>(), 0..24),
        behind in proptest::collection::vec(any::<u8>(), 0..24),
        nr in prop_oneof![0u64..500, any::<u64>()],
        site in any::<u64>(),
        trampoline in any::<u64>(),
        with_mov in any::<bool>(),
    ) {
        let mut before = before;
        if with_mov {
            before.push(0xb8);
            before.extend((nr as u32).to_le_bytes());
        }
        let _ = code::analyse(&before, &behind, nr);
        if let Ok(form) = code::analyse(&before, &site_with(&behind), nr) {
            if let Form::DisplacedAfter { moved } = form {
                check_moved(moved.bytes());
            }
            let patch = form.patch(site, trampoline);
            prop_assert_eq!(patch.is_some(), form.emit(site, trampoline, GATE).is_some());
            let _ = translate(&form, site, trampoline, site ^ trampoline);
            let _ = placements(&form, site, trampoline, u64::MAX).next();
            let _ = form.original(site);
        }
    }
}
