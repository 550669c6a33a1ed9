//! Initial stacks: read back as a C library would, held against Linux's limits and order.

use pegasus_loader::stack::{self, StackError, StackImage, StackInput};
use proptest::prelude::*;

const TOP: u64 = 0x7fff_ffff_e000;
const MIB: u64 = 1 << 20;

fn input<'a>(argv: &'a [&'a [u8]], envp: &'a [&'a [u8]], aux: &'a [(u64, u64)]) -> StackInput<'a> {
    StackInput {
        argv,
        envp,
        execfn: b"/bin/prog",
        platform: b"x86_64",
        random: *b"0123456789abcdef",
        aux,
        top: TOP,
        stack_limit: 8 * MIB,
    }
}

/// Reads a stack image as the program will, through its stack pointer only.
struct Reader<'a>(&'a StackImage);

impl Reader<'_> {
    fn at(&self, addr: u64) -> &[u8] {
        &self.0.bytes[usize::try_from(addr - self.0.sp).unwrap()..]
    }

    fn word(&self, addr: u64) -> u64 {
        u64::from_le_bytes(self.at(addr)[..8].try_into().unwrap())
    }

    fn string(&self, addr: u64) -> Vec<u8> {
        self.at(addr)
            .iter()
            .copied()
            .take_while(|b| *b != 0)
            .collect()
    }

    /// The strings of a NULL-terminated array, and the address after its NULL.
    fn strings(&self, mut addr: u64) -> (Vec<Vec<u8>>, u64) {
        let mut strings = Vec::new();
        while self.word(addr) != 0 {
            strings.push(self.string(self.word(addr)));
            addr += 8;
        }
        (strings, addr + 8)
    }
}

struct Parsed {
    argv: Vec<Vec<u8>>,
    envp: Vec<Vec<u8>>,
    aux: Vec<(u64, u64)>,
}

fn parse(image: &StackImage) -> Parsed {
    let reader = Reader(image);
    assert_eq!(image.sp % 16, 0);
    assert_eq!(image.sp + image.bytes.len() as u64, TOP);
    let (argv, env_at) = reader.strings(image.sp + 8);
    assert_eq!(reader.word(image.sp), argv.len() as u64);
    let (envp, aux_at) = reader.strings(env_at);
    assert_eq!(aux_at, image.auxv_start);
    let mut aux = Vec::new();
    let mut addr = aux_at;
    while reader.word(addr) != stack::AT_NULL {
        aux.push((reader.word(addr), reader.word(addr + 8)));
        addr += 16;
    }
    assert_eq!((addr + 16 - aux_at) as usize, image.auxv_len);
    Parsed { argv, envp, aux }
}

fn joined(strings: &[&[u8]]) -> Vec<u8> {
    strings
        .iter()
        .flat_map(|s| s.iter().copied().chain([0]))
        .collect()
}

#[test]
fn a_program_reads_back_what_was_put_in() {
    let argv: [&[u8]; 3] = [b"prog", b"", b"x y"];
    let envp: [&[u8]; 2] = [b"A=1", b"LONGER=value"];
    let aux = [(stack::AT_ENTRY, 0x1234), (stack::AT_PAGESZ, 4096)];
    let image = stack::build(&input(&argv, &envp, &aux)).unwrap();
    let parsed = parse(&image);
    assert_eq!(parsed.argv, argv);
    assert_eq!(parsed.envp, envp);
    let reader = Reader(&image);
    let aux_of = |tag| parsed.aux.iter().find(|(t, _)| *t == tag).unwrap().1;
    assert_eq!(reader.string(aux_of(stack::AT_EXECFN)), b"/bin/prog");
    assert_eq!(reader.string(aux_of(stack::AT_PLATFORM)), b"x86_64");
    assert_eq!(
        &reader.at(aux_of(stack::AT_RANDOM))[..16],
        b"0123456789abcdef"
    );
    assert_eq!(aux_of(stack::AT_ENTRY), 0x1234);
    let range = |from, to| &reader.at(from)[..(to - from) as usize];
    assert_eq!(range(image.argv_start, image.argv_end), joined(&argv));
    assert_eq!(range(image.env_start, image.env_end), joined(&envp));
    assert_eq!(image.env_end, aux_of(stack::AT_EXECFN));
    assert!(reader.at(TOP - 8).iter().all(|b| *b == 0));
}

#[test]
fn aux_entries_are_in_the_kernels_order() {
    // What the kernel gave this process, shuffled, must come out as it came in.
    let auxv = std::fs::read("/proc/self/auxv").unwrap();
    let words: Vec<u64> = auxv
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let kernel: Vec<(u64, u64)> = words
        .chunks_exact(2)
        .map(|p| (p[0], p[1]))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let made = [stack::AT_EXECFN, stack::AT_PLATFORM, stack::AT_RANDOM];
    let mut given: Vec<_> = kernel
        .iter()
        .copied()
        .filter(|(t, _)| !made.contains(t))
        .collect();
    given.sort_by_key(|(tag, _)| tag.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let image = stack::build(&input(&[b"x"], &[], &given)).unwrap();
    let tags: Vec<u64> = parse(&image).aux.iter().map(|(tag, _)| *tag).collect();
    let expected: Vec<u64> = kernel.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, expected);
}

#[test]
fn unknown_tags_follow_in_the_callers_order() {
    let aux = [
        (999, 1),
        (stack::AT_RSEQ_ALIGN, 32),
        (998, 2),
        (stack::AT_HWCAP, 3),
    ];
    let image = stack::build(&input(&[b"x"], &[], &aux)).unwrap();
    let tags: Vec<u64> = parse(&image).aux.iter().map(|(tag, _)| *tag).collect();
    let expected = [
        stack::AT_HWCAP,
        stack::AT_RANDOM,
        stack::AT_EXECFN,
        stack::AT_PLATFORM,
        stack::AT_RSEQ_ALIGN,
        999,
        998,
    ];
    assert_eq!(tags, expected);
}

#[test]
fn no_arguments_become_one_empty_one() {
    let image = stack::build(&input(&[], &[], &[])).unwrap();
    let parsed = parse(&image);
    assert_eq!(parsed.argv, [b""]);
    assert!(parsed.envp.is_empty());
}

#[test]
fn no_platform_no_entry() {
    let image = stack::build(&StackInput {
        platform: b"",
        ..input(&[b"x"], &[], &[])
    })
    .unwrap();
    assert!(
        parse(&image)
            .aux
            .iter()
            .all(|(tag, _)| *tag != stack::AT_PLATFORM)
    );
}

#[test]
fn limits_are_linuxs() {
    assert_eq!(stack::args_len_limit(8 * MIB), 2 * MIB);
    assert_eq!(stack::args_len_limit(u64::MAX), 6 * MIB);
    assert_eq!(stack::args_len_limit(24 * MIB + 8), 6 * MIB);
    assert_eq!(stack::args_len_limit(0), 128 * 1024);
    assert_eq!(stack::args_len_limit(512 * 1024 + 4), 128 * 1024 + 1);

    let longest = vec![b'a'; stack::STRING_LEN_MAX - 1];
    let too_long = vec![b'a'; stack::STRING_LEN_MAX];
    assert!(stack::build(&input(&[&longest], &[], &[])).is_ok());
    let build = |argv: &[&[u8]], envp: &[&[u8]]| stack::build(&input(argv, envp, &[])).map(|_| ());
    assert_eq!(build(&[&too_long], &[]), Err(StackError::StringTooLong));
    assert_eq!(build(&[b"x"], &[&too_long]), Err(StackError::StringTooLong));
    assert_eq!(StackError::StringTooLong.errno(), 7);
    assert_eq!(StackError::ArgumentsTooLong.errno(), 7);

    // 128 KiB in all: one argument, its pointer, and the program's path.
    let total = |len: usize| {
        let argument = vec![b'a'; len - 1];
        let argv = [&argument[..]];
        let small = StackInput {
            stack_limit: 4096,
            ..input(&argv, &[], &[])
        };
        stack::build(&small).map(|_| ())
    };
    let exact = 128 * 1024 - 8 - b"/bin/prog\0".len();
    assert_eq!(total(exact), Ok(()));
    assert_eq!(total(exact + 1), Err(StackError::ArgumentsTooLong));

    // Pointers alone can be too much.
    let many = vec![&b""[..]; 16 * 1024];
    let small = StackInput {
        stack_limit: 4096,
        ..input(&many, &[], &[])
    };
    assert_eq!(stack::build(&small), Err(StackError::ArgumentsTooLong));
}

#[test]
fn impossible_inputs_are_refused() {
    let base = input(&[b"x"], &[], &[]);
    let refused = |input: &StackInput| stack::build(input).unwrap_err();
    assert_eq!(
        refused(&input(&[b"a\0b"], &[], &[])),
        StackError::StringWithNul
    );
    assert_eq!(
        refused(&StackInput {
            execfn: b"\0",
            ..base.clone()
        }),
        StackError::StringWithNul
    );
    for tag in [
        stack::AT_NULL,
        stack::AT_EXECFN,
        stack::AT_PLATFORM,
        stack::AT_RANDOM,
    ] {
        assert_eq!(refused(&input(&[b"x"], &[], &[(tag, 1)])), StackError::Aux);
    }
    let many = vec![(stack::AT_IGNORE, 0); stack::AUX_LEN_MAX + 1];
    assert_eq!(refused(&input(&[b"x"], &[], &many)), StackError::Aux);
    assert_eq!(
        refused(&StackInput {
            top: TOP + 8,
            ..base.clone()
        }),
        StackError::Top
    );
    for top in (0..400).step_by(16) {
        let low = StackInput {
            top,
            ..base.clone()
        };
        if let Ok(image) = stack::build(&low) {
            assert_eq!(image.bytes.len() as u64, top - image.sp);
        }
    }
    assert_eq!(refused(&StackInput { top: 0, ..base }), StackError::NoRoom);
}

proptest! {
    #[test]
    fn any_strings_read_back(
        argv in proptest::collection::vec(proptest::collection::vec(1u8.., 0..40), 0..9),
        envp in proptest::collection::vec(proptest::collection::vec(1u8.., 0..40), 0..9),
        aux in proptest::collection::vec((40u64..200, any::<u64>()), 0..20),
        platform in proptest::collection::vec(1u8.., 0..20),
        execfn in proptest::collection::vec(1u8.., 0..40),
    ) {
        let argv: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        let envp: Vec<&[u8]> = envp.iter().map(Vec::as_slice).collect();
        let base = input(&argv, &envp, &aux);
        let given = StackInput { platform: &platform, execfn: &execfn, ..base };
        let image = stack::build(&given).unwrap();
        let parsed = parse(&image);
        if argv.is_empty() {
            prop_assert_eq!(parsed.argv, [b""]);
        } else {
            prop_assert_eq!(parsed.argv, argv);
        }
        prop_assert_eq!(parsed.envp, envp);
        let reader = Reader(&image);
        for (tag, value) in &parsed.aux {
            match *tag {
                stack::AT_EXECFN => prop_assert_eq!(reader.string(*value), &execfn[..]),
                stack::AT_PLATFORM => prop_assert_eq!(reader.string(*value), &platform[..]),
                stack::AT_RANDOM => prop_assert_eq!(&reader.at(*value)[..16], b"0123456789abcdef"),
                _ => prop_assert!(aux.contains(&(*tag, *value))),
            }
        }
    }
}
