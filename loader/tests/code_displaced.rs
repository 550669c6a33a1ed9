//! Several instructions displaced by one jump: what is taken, where the trampoline may be, what it
//! holds.

#[path = "common/code.rs"]
mod common;

use std::time::Instant;

use common::{
    GATE, SITE, analyse_behind, bytes_of, check_moved, check_patch, decode, moved_behind,
};
use pegasus_loader::code::{
    self, Form, JMP_LEN, Refusal, TRAMPOLINE_LEN_MAX, UNDEFINED_OPCODES, placements, translate,
};
use proptest::prelude::*;

/// The lengths of the instructions that are moved.
fn lens(behind: &[u8]) -> Vec<u64> {
    let moved = moved_behind(behind);
    check_moved(&moved);
    assert!(behind.starts_with(&bytes_of(&moved)));
    moved.insns().map(|insn| insn.len()).collect()
}

#[test]
fn short_instructions_are_taken_until_the_jump_is_covered() {
    let rest = [0x90; 16];
    let cases: [(&[u8], &[u64]); 14] = [
        (&[0x85, 0xc0, 0x75, 0x24], &[2, 2]), // test %eax,%eax; jne
        (&[0x85, 0xc0, 0x0f, 0x88, 0, 1, 0, 0], &[2, 6]), // test; js
        (&[0xf7, 0xd8, 0xc3], &[2, 1]),       // neg %eax; ret
        (&[0x89, 0xc3, 0x48, 0x83, 0xc4, 0x18], &[2, 4]), // mov %eax,%ebx; add $24,%rsp
        (&[0x5b, 0x48, 0x98, 0xc3], &[1, 2]), // pop %rbx; cltq
        (&[0x5b, 0x5d, 0xc3], &[1, 1, 1]),    // pop; pop; ret
        (&[0x41, 0x5c, 0x5d, 0xc3], &[2, 1]), // pop %r12; pop %rbp
        (&[0xc9, 0xc3, 0x90], &[1, 1, 1]),    // leave; ret; nop
        (&[0xeb, 0xe0, 0x31, 0xc0], &[2, 2]), // jmp; xor %eax,%eax
        (&[0xe9, 0, 1, 0, 0], &[5]),          // jmp
        (&[0xf3, 0xc3, 0x66, 0x90], &[2, 2]), // rep ret; nop
        (&[0xc3, 0xcc, 0xcc], &[1, 1, 1]),    // ret; int3; int3
        (&[0xc3, 0x0f, 0x1f, 0x00], &[1, 3]), // ret; nopl
        (
            &[0xc3, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[1, 11],
        ),
    ];
    for (behind, expected) in cases {
        assert_eq!(lens(&[behind, &rest].concat()), expected, "{behind:02x?}");
    }
}

#[test]
fn musl_cancellable_calls_can_be_rewritten() {
    // __cp_begin … syscall; __cp_end: ret; __cp_cancel: jmp __cancel
    let before = [
        0x8b, 0x07, 0x85, 0xc0, 0x75, 0x24, 0x49, 0x89, 0xfb, 0x48, 0x89, 0xf0, 0x48, 0x89, 0xd7,
        0x48, 0x89, 0xce, 0x4c, 0x89, 0xc2, 0x4d, 0x89, 0xca, 0x4c, 0x8b, 0x44, 0x24, 0x08, 0x4c,
        0x8b, 0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08,
    ];
    let cancel = SITE + 8 - 0x1234;
    let mut after = vec![0x0f, 0x05, 0xc3, 0xe9];
    after.extend((-0x1234i32).to_le_bytes());
    let form = code::analyse(&before, &after, 0).unwrap();
    assert_eq!(form.displaced_starts().collect::<Vec<_>>(), [2, 3]);
    let window = placements(&form, SITE, 0, u64::MAX).next().unwrap();
    let at = window.start;
    check_patch(&form, SITE, at);
    let trampoline = form.emit(SITE, at, GATE).unwrap();
    assert_eq!(trampoline.back_at, None);
    let code = trampoline.bytes();
    let ret_at = form.displaced_at(at, 2).unwrap();
    let jmp_at = form.displaced_at(at, 3).unwrap();
    assert_eq!(code[(ret_at - at) as usize], 0xc3);
    let jmp = decode(&code[(jmp_at - at) as usize..], jmp_at);
    assert_eq!(jmp.near_branch_target(), cancel);
    assert_eq!(translate(&form, SITE, at, ret_at), Some(SITE + 2));
    assert_eq!(translate(&form, SITE, at, jmp_at), Some(SITE + 3));
}

#[test]
fn a_return_at_the_end_of_a_function_can_be_rewritten() {
    // glibc: syscall; ret and the alignment of the next function.
    let form = analyse_behind(&[0xc3, 0x66, 0x0f, 0x1f, 0x44, 0, 0]).unwrap();
    assert_eq!(form.displaced_starts().collect::<Vec<_>>(), [2, 3]);
    // syscall; ret and, without alignment, push %rbp; mov %rsp,%rbp.
    let form = analyse_behind(&[0xc3, 0x55, 0x48, 0x89, 0xe5]).unwrap();
    assert_eq!(form.displaced_starts().collect::<Vec<_>>(), [2, 3, 4]);
    // The last bytes of the text.
    assert_eq!(analyse_behind(&[0xc3]), Err(Refusal::Truncated));
    assert_eq!(analyse_behind(&[0xc3, 0x90]), Err(Refusal::Truncated));
    // What fills the gap is no code.
    for fill in [[0, 0], [0x90, 0]] {
        let behind = [&[0xc3], &fill[..], &[0x48, 0x89, 0xe5]].concat();
        assert_eq!(analyse_behind(&behind), Err(Refusal::NotCode));
    }
}

#[test]
fn jumps_into_the_overwritten_bytes_are_refused() {
    let short = |distance: i8| [0x85, 0xc0, 0x75, distance as u8];
    for distance in i8::MIN..=i8::MAX {
        // The jne ends at site + 6.
        let target = 6 + i64::from(distance);
        let expected = (1..5).contains(&target).then_some(Refusal::IntoPatch);
        assert_eq!(analyse_behind(&short(distance)).err(), expected, "{target}");
    }
    let mut to_itself = vec![0xe9];
    to_itself.extend((-5i32).to_le_bytes());
    assert_eq!(analyse_behind(&to_itself), Err(Refusal::IntoPatch));
    // Back to the syscall is back to the jump.
    let mut again = vec![0xe9];
    again.extend((-7i32).to_le_bytes());
    assert!(analyse_behind(&again).is_ok());
}

/// One form for each set of bytes that have to be undefined opcodes: 2; 2 and 3; 2 and 4; 2 to 4.
fn constrained() -> [Form; 4] {
    [
        analyse_behind(&[0x48, 0x85, 0xc0]),
        analyse_behind(&[0xc3, 0x66, 0x90]),
        analyse_behind(&[0x85, 0xc0, 0x31, 0xd2]),
        analyse_behind(&[0x5b, 0x5d, 0xc3]),
    ]
    .map(Result::unwrap)
}

#[test]
fn windows_are_complete_ordered_and_safe() {
    let [one, near, far, all] = constrained();
    // Ranges around the site, and where the further bytes have their first values.
    for (form, low, high) in [
        (one, -0x4_0000, 0x5_0000),
        (near, 0x6_0000, 0x8_0000),
        (near, -0x32_0000, -0x30_0000),
        (far, 0x6ff_0000, 0x701_0000),
        (far, -0x3200_0000, -0x31ff_0000),
        (all, 0x606_0000, 0x608_0000),
        (all, -0x31fa_0000, -0x31f8_0000),
    ] {
        check_windows(
            &form,
            SITE.wrapping_add_signed(low),
            SITE.wrapping_add_signed(high),
        );
    }
}

fn check_windows(form: &Form, low: u64, high: u64) {
    let windows: Vec<_> = placements(form, SITE, low, high).collect();
    assert!(windows.len() > 1, "{form:?} {low:#x}");
    let distance = |w: &code::Window| (w.start + (w.end - w.start) / 2).abs_diff(SITE);
    assert!(
        windows
            .iter()
            .zip(&windows[1..])
            .all(|(a, b)| distance(a) <= distance(b) + 256)
    );
    let last_start = high - TRAMPOLINE_LEN_MAX as u64;
    let mut found = 0;
    for trampoline in low - 100..high + 100 {
        let bytes = trampoline.wrapping_sub(SITE + JMP_LEN).to_le_bytes();
        let mut starts = form.displaced_starts();
        let safe = starts.all(|start| UNDEFINED_OPCODES.contains(&bytes[start as usize - 1]));
        assert_eq!(form.patch(SITE, trampoline).is_some(), safe);
        assert_eq!(form.emit(SITE, trampoline, GATE).is_some(), safe);
        let inside = windows
            .iter()
            .filter(|w| (w.start..w.end).contains(&trampoline))
            .count();
        let in_range = (low..=last_start).contains(&trampoline);
        assert_eq!(inside, usize::from(safe && in_range), "{trampoline:#x}");
        found += inside;
    }
    let total: u64 = windows.iter().map(|w| w.end - w.start).sum();
    assert_eq!(found as u64, total);
}

#[test]
fn ranges_out_of_reach_or_too_small_have_no_windows() {
    for form in constrained() {
        let count = |low, high| placements(&form, SITE, low, high).count();
        assert_eq!(count(SITE, SITE), 0);
        assert_eq!(count(SITE, SITE + 63), 0);
        assert_eq!(count(SITE + 5, SITE), 0);
        assert_eq!(count(SITE + (1 << 31), u64::MAX), 0);
        assert_eq!(count(0, SITE - (1 << 31)), 0);
        for site in [0x1000, SITE, u64::MAX - 0x1000] {
            assert!(placements(&form, site, 0, u64::MAX).next().is_some());
        }
        assert!(form.patch(SITE, SITE + (1 << 31)).is_none());
        assert!(form.patch(SITE, 0).is_none());
        assert!(!code::reachable(SITE, SITE + (1 << 31)));
    }
    // Choices of the constrained bytes times those of the free ones; the ends of the reach are cut.
    let [one, near, far, all] = constrained();
    let count = |form| placements(&form, SITE, 0, u64::MAX).count();
    assert!((14 * 65535..=14 * 65536).contains(&count(one)));
    assert_eq!(count(near), 14 * 14 * 256);
    assert_eq!(count(far), 14 * 256 * 14);
    assert_eq!(count(all), 14 * 14 * 14);
}

#[test]
fn targets_bound_the_windows() {
    // test %eax,%eax; jne 1.9 GiB above: nothing below is near enough to it.
    let mut behind = vec![0x85, 0xc0, 0x0f, 0x85];
    behind.extend(0x7a00_0000i32.to_le_bytes());
    let form = analyse_behind(&behind).unwrap();
    let target = SITE + 10 + 0x7a00_0000;
    let windows: Vec<_> = placements(&form, SITE, 0, u64::MAX).collect();
    assert!(!windows.is_empty());
    for window in windows {
        assert!(window.start > SITE);
        assert!(code::reachable(target, window.start));
        assert!(code::reachable(SITE, window.end));
        check_patch(&form, SITE, window.start);
        check_patch(&form, SITE, window.end - 1);
    }
    let below = SITE + 5 - 0x3200_0000 + 0x600;
    assert!(form.patch(SITE, below).is_none());
    assert!(form.emit(SITE, below, GATE).is_none());
    // The same for memory: mov 1.9 GiB below(%rip),%rax.
    let mut behind = vec![0x48, 0x8b, 0x05];
    behind.extend((-0x7a00_0000i32).to_le_bytes());
    let form = analyse_behind(&behind).unwrap();
    for window in placements(&form, SITE, SITE, u64::MAX) {
        check_patch(&form, SITE, window.end - 1);
        assert!(window.end < SITE + 0x700_0000);
    }
}

#[test]
fn the_first_window_is_found_at_once() {
    // Nothing to do with the distance of the range, and no walk to get there. The bound is a
    // hundred times what it takes, for slow machines.
    let begin = Instant::now();
    let mut found = 0;
    for form in constrained() {
        for distance in (0..0x7000_0000).step_by(0x10_0000) {
            let low = SITE + distance;
            found += placements(&form, SITE, low, u64::MAX).take(1).count();
            let high = SITE - distance;
            found += placements(&form, SITE, 0, high).take(1).count();
        }
    }
    assert!(found > 10_000, "{found}");
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

/// Instructions of every kind, many of them short.
fn insn() -> impl Strategy<Value = Vec<u8>> {
    let small = prop_oneof![Just(0i32), -300..300i32, any::<i32>()];
    let with = |opcode: &'static [u8], distance: i32| {
        let mut bytes = opcode.to_vec();
        bytes.extend(distance.to_le_bytes());
        bytes
    };
    prop_oneof![
        proptest::sample::select(vec![
            vec![0xc3],
            vec![0xf3, 0xc3],
            vec![0x90],
            vec![0xcc],
            vec![0x66, 0x90],
            vec![0x0f, 0x1f, 0x40, 0x00],
            vec![0x50],
            vec![0x41, 0x5f],
            vec![0xc9],
            vec![0x98],
            vec![0x48, 0x98],
            vec![0x85, 0xc0],
            vec![0x31, 0xff],
            vec![0x48, 0x89, 0xc7],
        ]),
        any::<i8>().prop_map(|d| vec![0xeb, d as u8]),
        (0x70..0x80u8, any::<i8>()).prop_map(|(o, d)| vec![o, d as u8]),
        small.clone().prop_map(move |d| with(&[0xe9], d)),
        small.clone().prop_map(move |d| with(&[0x0f, 0x8f], d)),
        small.clone().prop_map(move |d| with(&[0x8b, 0x05], d)),
        small
            .clone()
            .prop_map(move |d| with(&[0x48, 0x8d, 0x15], d)),
        small
            .clone()
            .prop_map(move |d| with(&[0x64, 0x4c, 0x8b, 0x3d], d)),
        small
            .clone()
            .prop_map(move |d| with(&[0x0f, 0xb6, 0x1d], d)),
        // With an immediate behind the distance: movw $0x1234, cmpl $4, movq $1.
        small
            .clone()
            .prop_map(move |d| [with(&[0x66, 0xc7, 0x05], d), vec![0x34, 0x12]].concat()),
        small
            .clone()
            .prop_map(move |d| [with(&[0x83, 0x3d], d), vec![4]].concat()),
        small.prop_map(move |d| [with(&[0x48, 0xc7, 0x05], d), vec![1, 0, 0, 0]].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6000))]

    #[test]
    fn every_sequence_gives_a_sound_patch(
        sequence in proptest::collection::vec(insn(), 3),
        site in 0x1_0000_0000u64..0x7f00_0000_0000,
        low in -0x8000_0000i64..0x6000_0000,
        skip in 0usize..40,
        pick in any::<u64>(),
    ) {
        let behind = sequence.concat();
        match analyse_behind(&behind) {
            Ok(form) => {
                if let Form::DisplacedAfter { moved } = form {
                    check_moved(&moved);
                }
                let low = site.wrapping_add_signed(low);
                for window in placements(&form, site, low, u64::MAX).skip(skip).take(3) {
                    let trampoline = window.start + pick % (window.end - window.start);
                    check_patch(&form, site, trampoline);
                }
            }
            // These sequences have no other flaw; int3 is taken only as padding.
            Err(refusal) => prop_assert!(
                refusal == Refusal::IntoPatch
                    || (refusal == Refusal::NotPlain && behind.contains(&0xcc)),
                "{:?}: {:02x?}", refusal, behind
            ),
        }
    }
}
