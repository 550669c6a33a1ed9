//! Which sites are rewritten and to which bytes; a second decoder checks what the first accepted.

#[path = "common/code.rs"]
mod common;

use common::{GATE, SITE, analyse_behind, bytes_of, check_moved, check_patch, decode, site_with};
use iced_x86::Code;
use pegasus_loader::code::{
    self, Form, Refusal, TRAMPOLINE_LEN_MAX, UNDEFINED_OPCODES, placements, translate,
};
use proptest::prelude::*;

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
fn one_long_instruction_after_is_moved() {
    let accepted: [&[u8]; 17] = [
        &[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff],    // cmp $-4095,%rax
        &[0x3d, 0x00, 0xf0, 0xff, 0xff],          // cmp $-4096,%eax
        &[0x48, 0x89, 0xc7],                      // mov %rax,%rdi
        &[0x89, 0x44, 0x24, 0x08],                // mov %eax,8(%rsp)
        &[0x48, 0x89, 0x44, 0x24, 0x28],          // mov %rax,0x28(%rsp)
        &[0x48, 0x85, 0xc0],                      // test %rax,%rax
        &[0x48, 0x83, 0xf8, 0xfc],                // cmp $-4,%rax
        &[0x48, 0x8d, 0x64, 0x24, 0x08],          // lea 8(%rsp),%rsp
        &[0x0f, 0xb6, 0xc0],                      // movzbl %al,%eax
        &[0x0f, 0x94, 0xc0],                      // sete %al
        &[0x48, 0xf7, 0xd8],                      // neg %rax
        &[0x48, 0x0f, 0x44, 0xc2],                // cmove %rdx,%rax
        &[0x64, 0x89, 0x04, 0x25, 0, 0, 0, 0],    // mov %eax,%fs:0
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],    // nopw 0(%rax,%rax)
        &[0x41, 0xff, 0x36],                      // push (%r14)
        &[0x0f, 0x84, 0, 1, 0, 0],                // je
        &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x40, 0], // data16 cs nopw 0(%rax)
    ];
    for behind in accepted {
        let form = analyse_behind(&[behind, &[0x90; 10]].concat());
        let Ok(Form::DisplacedAfter { moved }) = form else {
            panic!("{behind:02x?}: {form:?}")
        };
        assert_eq!(bytes_of(&moved), behind);
        check_moved(&moved);
        // Exactly enough bytes are enough, one less is not.
        assert!(analyse_behind(behind).is_ok());
        assert_eq!(
            analyse_behind(&behind[..behind.len() - 1]),
            Err(Refusal::Truncated)
        );
    }
}

#[test]
fn what_cannot_be_moved_is_refused() {
    let refused: [(&[u8], Refusal); 18] = [
        (&[0xe8, 0, 0, 0, 0], Refusal::NotPlain),     // call
        (&[0xff, 0x50, 0x10], Refusal::NotPlain),     // call *16(%rax)
        (&[0xff, 0xe0, 0x90], Refusal::NotPlain),     // jmp *%rax
        (&[0xc2, 8, 0], Refusal::NotPlain),           // ret $8
        (&[0xe3, 0x10, 0x90], Refusal::NotPlain),     // jrcxz
        (&[0x41, 0x0f, 0x05], Refusal::NotPlain),     // syscall
        (&[0xcd, 0x80, 0x90], Refusal::NotPlain),     // int $0x80
        (&[0xcc, 0x90, 0x90], Refusal::NotPlain),     // int3
        (&[0xf0, 0x48, 0x01, 0x07], Refusal::Prefix), // lock add
        (&[0xf3, 0x48, 0xa5], Refusal::Prefix),       // rep movs
        (&[0xf3, 0x0f, 0x1e, 0xfa], Refusal::Prefix), // endbr64
        (&[0xf2, 0xe9, 0, 0, 0, 0], Refusal::Prefix), // bnd jmp
        (&[0x67, 0x8b, 0x04, 0x24], Refusal::Prefix), // mov (%esp),%eax
        (&[0xc5, 0xf8, 0x77], Refusal::Prefix),       // vzeroupper
        (&[0x0f, 0x20, 0xc0], Refusal::NotPlain),     // mov %cr0,%rax
        (&[0x48, 0x8e, 0xd8], Refusal::NotPlain),     // mov %rax,%ds
        (&[0x0f, 0x01, 0xef], Refusal::NotPlain),     // wrpkru
        (&[], Refusal::Truncated),
    ];
    for (behind, expected) in refused {
        assert_eq!(analyse_behind(behind), Err(expected), "{behind:02x?}");
        // Nor behind others, as long as it begins in the bytes that the jump overwrites.
        for before in [&[0x90][..], &[0x85, 0xc0]] {
            let behind = [before, behind].concat();
            assert_eq!(analyse_behind(&behind), Err(expected), "{behind:02x?}");
        }
    }
    assert_eq!(
        code::analyse(&[], &[0x0f, 0x04, 0x90], 0),
        Err(Refusal::NotSyscall)
    );
    assert_eq!(code::analyse(&[], &[0x0f], 0), Err(Refusal::NotSyscall));
    assert_eq!(code::analyse(&[], &[], 0), Err(Refusal::NotSyscall));
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
                        check_moved(&moved);
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

fn form_a(before: &[u8]) -> Form {
    code::analyse(before, &[0x0f, 0x05], 39).unwrap()
}

fn forms() -> [Form; 6] {
    [
        form_a(&[0x90, 0xb8, 39, 0, 0, 0]),
        form_a(&[0x90, 0x48, 0xc7, 0xc0, 39, 0, 0, 0]),
        analyse_behind(&[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff]).unwrap(),
        // One byte, then more: ret; jmp.
        analyse_behind(&[0xc3, 0xe9, 0, 1, 0, 0]).unwrap(),
        // Two bytes, then more: test %eax,%eax; jne.
        analyse_behind(&[0x85, 0xc0, 0x75, 0x10]).unwrap(),
        // nop; cwde; mov 16(%rip),%eax.
        analyse_behind(&[0x90, 0x98, 0x8b, 0x05, 16, 0, 0, 0]).unwrap(),
    ]
}

#[test]
fn originals_can_be_put_back() {
    let [short, long, behind, ret, test, nop] = forms();
    assert_eq!(short.original(SITE).addr, SITE - 5);
    assert_eq!(short.original(SITE).bytes, [0xb8, 39, 0, 0, 0]);
    assert_eq!(long.original(SITE).addr, SITE - 7);
    assert_eq!(long.original(SITE).bytes, [0x48, 0xc7, 0xc0, 39, 0]);
    assert_eq!(behind.original(SITE).addr, SITE);
    assert_eq!(behind.original(SITE).bytes, [0x0f, 0x05, 0x48, 0x3d, 0x01]);
    assert_eq!(ret.original(SITE).bytes, [0x0f, 0x05, 0xc3, 0xe9, 0]);
    assert_eq!(test.original(SITE).bytes, [0x0f, 0x05, 0x85, 0xc0, 0x75]);
    assert_eq!(nop.original(SITE).bytes, [0x0f, 0x05, 0x90, 0x98, 0x8b]);
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
        for form in forms() {
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
                check_moved(&moved);
            }
            if let Some(window) = placements(&form, SITE, 0, u64::MAX).next() {
                check_patch(&form, SITE, window.start);
            }
            let patch = form.patch(site, trampoline);
            prop_assert_eq!(patch.is_some(), form.emit(site, trampoline, GATE).is_some());
            let _ = translate(&form, site, trampoline, site ^ trampoline);
            let _ = placements(&form, site, trampoline, u64::MAX).next();
            let _ = form.original(site);
        }
    }
}
