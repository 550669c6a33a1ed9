//! Broken, hostile and unusual ELF files: the right error, never a panic, never a bad plan.

mod common;

use common::read_or_skip;
use common::{ET_DYN, ET_EXEC, PT_GNU_STACK, PT_INTERP, PT_LOAD, PT_PHDR, Phdr, elf_file};
use pegasus_loader::elf::{
    self, ElfError, FileRange, Foreign, HEADER_LEN, Header, Image, Kind, MapStep, PAGE_LEN,
    PROT_EXEC, PROT_READ, PROT_WRITE, USER_END,
};
use proptest::prelude::*;

const R: u32 = 4;
const W: u32 = 2;
const X: u32 = 1;

const ENOEXEC: i32 = 8;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;
const EIO: i32 = 5;
const ELIBBAD: i32 = 80;

/// Reads a file as a loader would: no more than what each step asks for.
fn load(file: &[u8], file_len: u64) -> Result<Image, ElfError> {
    let header = Header::parse(&file[..file.len().min(256)])?;
    let from = usize::try_from(header.phdrs.offset)
        .unwrap_or(usize::MAX)
        .min(file.len());
    let to = from
        .saturating_add(header.phdrs.len as usize)
        .min(file.len());
    Image::parse(&header, &file[from..to], file_len)
}

fn load_phdrs(e_type: u16, phdrs: &[Phdr]) -> Result<Image, ElfError> {
    load(&elf_file(e_type, 0x401000, phdrs), 0x10_0000)
}

/// A plan must stay in the span and in the user address space, whatever the file says.
fn check_plan(image: &Image, bias: u64, file_len: u64) {
    let Ok(steps) = image.plan(bias) else { return };
    let span = image.span();
    let start = span.start.wrapping_add(bias);
    let end = start + span.len;
    assert!(end <= USER_END);
    for step in steps {
        let (addr, len) = match step {
            MapStep::File {
                addr, len, offset, ..
            } => {
                assert!(addr % PAGE_LEN == 0 && len % PAGE_LEN == 0 && offset % PAGE_LEN == 0);
                assert!(offset + len - PAGE_LEN < file_len);
                (addr, len)
            }
            MapStep::Zero { addr, len } => {
                assert!(len < PAGE_LEN && (addr + len) % PAGE_LEN == 0);
                (addr, len)
            }
            MapStep::Anonymous { addr, len, .. } => {
                assert!(addr % PAGE_LEN == 0 && len % PAGE_LEN == 0);
                (addr, len)
            }
        };
        assert!(len > 0 && start <= addr && addr + len <= end);
    }
    assert_eq!(image.brk_start(bias), end);
}

#[test]
fn a_real_program_cut_at_every_length_is_an_error_or_a_sound_plan() {
    let Some(file) = read_or_skip("/bin/true") else {
        return;
    };
    for len in 0..file.len() {
        let cut = &file[..len];
        match load(cut, len as u64) {
            Ok(image) => check_plan(&image, 0x5555_5555_4000, len as u64),
            Err(error) => {
                let expected = [ENOEXEC, EIO];
                assert!(expected.contains(&error.errno()), "{len}: {error:?}");
            }
        }
    }
    assert_eq!(Header::parse(&[]), Err(ElfError::NotElf));
    assert_eq!(Header::parse(&file[..3]), Err(ElfError::NotElf));
    for len in 4..HEADER_LEN {
        assert_eq!(Header::parse(&file[..len]), Err(ElfError::TooShort));
    }
    assert_eq!(ElfError::TooShort.errno(), ENOEXEC);
    assert_eq!(ElfError::TooShort.errno_as_interpreter(), EIO);
    assert_eq!(ElfError::NotElf.errno_as_interpreter(), ELIBBAD);
}

#[test]
fn foreign_programs_are_told_apart() {
    let good = elf_file(ET_DYN, 0, &[Phdr::load(R | X, 0, 0, 0x1000, 0x1000)]);
    let with = |changes: &[(usize, u8)]| {
        let mut file = good.clone();
        for (at, value) in changes {
            file[*at] = *value;
        }
        Header::parse(&file)
    };
    assert!(with(&[]).is_ok());
    let foreign = |f| Err(ElfError::NotX86_64(f));
    assert_eq!(with(&[(4, 1), (18, 3)]), foreign(Foreign::I386));
    assert_eq!(with(&[(18, 3)]), foreign(Foreign::I386));
    assert_eq!(with(&[(4, 1)]), foreign(Foreign::X32));
    assert_eq!(with(&[(18, 183)]), foreign(Foreign::Machine(183)));
    assert_eq!(with(&[(5, 2)]), foreign(Foreign::Ident));
    assert_eq!(with(&[(4, 0)]), foreign(Foreign::Ident));
    assert_eq!(with(&[(16, 1)]), Err(ElfError::NotExecutable(1)));
    assert_eq!(with(&[(16, 4)]), Err(ElfError::NotExecutable(4)));
    assert_eq!(with(&[(0, 0)]), Err(ElfError::NotElf));
    assert_eq!(with(&[(54, 57)]), Err(ElfError::PhdrTable));
    assert_eq!(with(&[(56, 0)]), Err(ElfError::PhdrTable));
    assert_eq!(with(&[(56, 74)]), Err(ElfError::PhdrTable));
    assert!(with(&[(56, 73)]).is_ok());
    assert_eq!(with(&[(39, 0xff)]), Err(ElfError::PhdrsBeyondFile));
    for error in [
        ElfError::NotX86_64(Foreign::X32),
        ElfError::PhdrTable,
        ElfError::NotElf,
    ] {
        assert_eq!(error.errno(), ENOEXEC);
    }
}

#[test]
fn the_program_header_table_must_be_in_the_file() {
    let file = elf_file(ET_DYN, 0, &[Phdr::load(R, 0, 0, 100, 100)]);
    let header = Header::parse(&file).unwrap();
    assert_eq!(
        header.phdrs,
        FileRange {
            offset: 64,
            len: 56
        }
    );
    let table = &file[64..];
    assert!(Image::parse(&header, table, 120).is_ok());
    assert_eq!(
        Image::parse(&header, table, 119),
        Err(ElfError::PhdrsBeyondFile)
    );
    assert_eq!(
        Image::parse(&header, &table[..55], 120),
        Err(ElfError::PhdrsBeyondFile)
    );
}

#[test]
fn segments_are_refused_with_linux_errnos() {
    let huge = USER_END;
    let table = [
        (
            Phdr::load(R, 0, 0x400000, 0x1001, 0x1000),
            ElfError::FileLargerThanMemory,
            EINVAL,
        ),
        (
            Phdr::load(R, 1, 0x400000, 0x1000, 0x1000),
            ElfError::Misaligned,
            EINVAL,
        ),
        (
            Phdr::load(R, 0x234, 0x400235, 1, 1),
            ElfError::Misaligned,
            EINVAL,
        ),
        (Phdr::load(R, 0, huge, 0, 1), ElfError::AddressRange, ENOMEM),
        (
            Phdr::load(R, 0, huge - 0xfff, 0, 0x1000),
            ElfError::AddressRange,
            ENOMEM,
        ),
        (
            Phdr::load(R, 0, u64::MAX, 0, 1),
            ElfError::AddressRange,
            ENOMEM,
        ),
        (
            Phdr::load(R, 0, 0, 0, huge + 1),
            ElfError::AddressRange,
            ENOMEM,
        ),
        (
            Phdr::load(R, 0, 0x1000, 0, u64::MAX),
            ElfError::AddressRange,
            ENOMEM,
        ),
        (
            Phdr::load(R, 0, 0, u64::MAX, u64::MAX),
            ElfError::AddressRange,
            ENOMEM,
        ),
        (
            Phdr::load(R, 0x10_0000, 0x400000, 1, 1),
            ElfError::SegmentBeyondFile,
            ENOEXEC,
        ),
        (
            Phdr::load(R, 0xf_f000, 0x400000, 0x1001, 0x2000),
            ElfError::SegmentBeyondFile,
            ENOEXEC,
        ),
        (
            Phdr::load(R, !0xfff, 0x400000, 0x1000, 0x1000),
            ElfError::SegmentBeyondFile,
            ENOEXEC,
        ),
        (
            Phdr::load(R, !0xfff, 0x400000, 0x2000, 0x2000),
            ElfError::SegmentBeyondFile,
            ENOEXEC,
        ),
    ];
    for (phdr, expected, errno) in table {
        let error = load_phdrs(ET_EXEC, &[phdr]).unwrap_err();
        assert_eq!((error, error.errno()), (expected, errno), "{phdr:x?}");
    }
    assert_eq!(
        load_phdrs(ET_DYN, &[Phdr::default()]),
        Err(ElfError::NoSegments)
    );
    assert_eq!(ElfError::NoSegments.errno_as_interpreter(), EINVAL);
    // One inside each bound.
    assert!(load_phdrs(ET_EXEC, &[Phdr::load(R, 0, huge - 0x1000, 0, 0x1000)]).is_ok());
    assert!(
        load_phdrs(
            ET_EXEC,
            &[Phdr::load(R, 0xf_f000, 0x400000, 0x1000, 0x1000)]
        )
        .is_ok()
    );
}

#[test]
fn a_partial_last_page_of_the_file_is_mapped() {
    let file = elf_file(
        ET_EXEC,
        0x400000,
        &[Phdr::load(R | X, 0, 0x400000, 0x800, 0x800)],
    );
    let image = load(&file, file.len() as u64).unwrap();
    let step = MapStep::File {
        addr: 0x400000,
        len: 0x1000,
        offset: 0,
        prot: PROT_READ | PROT_EXEC,
    };
    assert_eq!(image.plan(0).unwrap(), [step]);
}

#[test]
fn bss_is_cleared_and_mapped_as_linux_does() {
    let rw = PROT_READ | PROT_WRITE;
    // File bytes end in the middle of a page, memory ends two pages later.
    let image = load_phdrs(
        ET_EXEC,
        &[Phdr::load(R | W, 0x1e10, 0x403e10, 0x230, 0x2000)],
    )
    .unwrap();
    let expected = [
        MapStep::File {
            addr: 0x403000,
            len: 0x2000,
            offset: 0x1000,
            prot: rw,
        },
        MapStep::Zero {
            addr: 0x404040,
            len: 0xfc0,
        },
        MapStep::Anonymous {
            addr: 0x405000,
            len: 0x1000,
            prot: rw,
        },
    ];
    assert_eq!(image.plan(0).unwrap(), expected);
    assert_eq!(image.brk_start(0), 0x406000);

    // Memory ends in the same page: cleared to the page's end, nothing more to map.
    let image = load_phdrs(ET_EXEC, &[Phdr::load(R | W, 0x1000, 0x403000, 0x10, 0x20)]).unwrap();
    assert_eq!(
        image.plan(0).unwrap()[1..],
        [MapStep::Zero {
            addr: 0x403010,
            len: 0xff0
        }]
    );

    // File bytes end at a page's end.
    let image = load_phdrs(
        ET_EXEC,
        &[Phdr::load(R | W, 0x1000, 0x403000, 0x1000, 0x1001)],
    )
    .unwrap();
    let rest = [MapStep::Anonymous {
        addr: 0x404000,
        len: 0x1000,
        prot: rw,
    }];
    assert_eq!(image.plan(0).unwrap()[1..], rest);

    // Not writable: the tail of the file page stays, the pages after it are zero and writable.
    let image = load_phdrs(
        ET_EXEC,
        &[Phdr::load(R | X, 0x1000, 0x403000, 0x10, 0x2000)],
    )
    .unwrap();
    let rest = [MapStep::Anonymous {
        addr: 0x404000,
        len: 0x1000,
        prot: rw | PROT_EXEC,
    }];
    assert_eq!(image.plan(0).unwrap()[1..], rest);

    // No file bytes at all: no file mapping, and the offset means nothing.
    let image = load_phdrs(ET_EXEC, &[Phdr::load(R | W, u64::MAX, 0x403010, 0, 0x10)]).unwrap();
    let only = [MapStep::Anonymous {
        addr: 0x403000,
        len: 0x1000,
        prot: rw,
    }];
    assert_eq!(image.plan(0).unwrap(), only);
}

#[test]
fn overlapping_segments_keep_the_order_of_the_file() {
    let first = Phdr::load(R | X, 0, 0x400000, 0x2000, 0x2000);
    let second = Phdr::load(R, 0x8000, 0x401000, 0x1000, 0x1000);
    let plan = load_phdrs(ET_EXEC, &[first, second])
        .unwrap()
        .plan(0)
        .unwrap();
    let addresses: Vec<_> = plan
        .iter()
        .map(|step| match step {
            MapStep::File { addr, offset, .. } => (*addr, *offset),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(addresses, [(0x400000, 0), (0x401000, 0x8000)]);
    let swapped = load_phdrs(ET_EXEC, &[second, first]).unwrap();
    assert_eq!(
        swapped.span(),
        load_phdrs(ET_EXEC, &[first, second]).unwrap().span()
    );
}

#[test]
fn interpreter_and_stack_flags() {
    let load = Phdr::load(R, 0, 0x400000, 0x1000, 0x1000);
    let interp = |offset, filesz| Phdr {
        kind: PT_INTERP,
        offset,
        filesz,
        ..Phdr::default()
    };
    let parsed = |phdr| load_phdrs(ET_EXEC, &[phdr, load]).map(|image| image.interpreter);
    assert_eq!(
        parsed(interp(0x200, 28)),
        Ok(Some(FileRange {
            offset: 0x200,
            len: 28
        }))
    );
    assert_eq!(parsed(interp(0x200, 1)), Err(ElfError::InterpreterLen));
    assert_eq!(parsed(interp(0x200, 4097)), Err(ElfError::InterpreterLen));
    assert!(parsed(interp(0x200, 4096)).is_ok());
    assert_eq!(
        parsed(interp(0x10_0000 - 9, 10)),
        Err(ElfError::InterpreterBeyondFile)
    );
    assert_eq!(
        parsed(interp(u64::MAX, 10)),
        Err(ElfError::InterpreterBeyondFile)
    );
    assert_eq!(ElfError::InterpreterBeyondFile.errno(), EIO);
    // The first one counts, and only its faults do.
    let both = load_phdrs(ET_EXEC, &[interp(0x200, 28), interp(0, 1), load]).unwrap();
    assert_eq!(both.interpreter.unwrap().len, 28);

    assert_eq!(
        elf::interpreter_path(b"/lib/ld.so\0"),
        Ok(&b"/lib/ld.so"[..])
    );
    assert_eq!(elf::interpreter_path(b"/lib/ld\0so\0"), Ok(&b"/lib/ld"[..]));
    assert_eq!(elf::interpreter_path(b"\0\0"), Ok(&b""[..]));
    assert_eq!(
        elf::interpreter_path(b"/lib/ld.so"),
        Err(ElfError::InterpreterUnterminated)
    );
    assert_eq!(elf::interpreter_path(b"\0"), Err(ElfError::InterpreterLen));
    assert_eq!(
        elf::interpreter_path(&[0; 4097]),
        Err(ElfError::InterpreterLen)
    );

    let stack = |flags| {
        let phdr = Phdr {
            kind: PT_GNU_STACK,
            flags,
            ..Phdr::default()
        };
        load_phdrs(ET_EXEC, &[phdr, load]).unwrap().stack_executable
    };
    assert!(stack(R | W | X) && !stack(R | W));
    assert!(!load_phdrs(ET_EXEC, &[load]).unwrap().stack_executable);
}

#[test]
fn phdr_address_alignment_and_bias() {
    let phdr = Phdr {
        kind: PT_PHDR,
        vaddr: 0x123,
        ..Phdr::default()
    };
    let text = Phdr::load(R, 0x1000, 0x401000, 0x1000, 0x1000);
    let head = Phdr {
        align: 0x20_0000,
        ..Phdr::load(R, 0, 0x400000, 0x1000, 0x1000)
    };
    assert_eq!(load_phdrs(ET_EXEC, &[phdr, text]).unwrap().phdr_vaddr, 0);
    let image = load_phdrs(ET_DYN, &[phdr, head, text]).unwrap();
    assert_eq!((image.phdr_vaddr, image.align_max), (0x400040, 0x20_0000));
    // A power of two or nothing.
    let odd = Phdr {
        align: 0x3000,
        ..head
    };
    assert_eq!(load_phdrs(ET_DYN, &[odd]).unwrap().align_max, PAGE_LEN);

    assert_eq!(image.plan(1), Err(ElfError::Bias));
    assert_eq!(image.plan(USER_END - 0x401000), Err(ElfError::AddressRange));
    assert!(image.plan(USER_END - 0x402000).is_ok());
    // Linked high, loaded low: the bias wraps.
    let bias = image.bias_for(0x10000);
    assert!(bias > USER_END);
    assert!(matches!(
        image.plan(bias).unwrap()[0],
        MapStep::File { addr: 0x10000, .. }
    ));
    let fixed = load_phdrs(ET_EXEC, &[head]).unwrap();
    assert_eq!(fixed.kind, Kind::Exec);
    assert_eq!(fixed.plan(0x1000), Err(ElfError::Bias));

    let wild = elf_file(ET_EXEC, USER_END, &[head]);
    assert_eq!(
        load(&wild, 0x10_0000).unwrap().plan(0),
        Err(ElfError::Entry)
    );
}

fn any_phdr() -> impl Strategy<Value = Phdr> {
    let kind = prop_oneof![4 => Just(PT_LOAD), 1 => Just(PT_INTERP), 1 => any::<u32>()];
    let number = || {
        prop_oneof![
            4 => 0u64..0x10_0000,
            2 => (0u64..0x100).prop_map(|n| n << 12),
            1 => any::<u64>(),
            1 => (0u64..0x3000).prop_map(|n| u64::MAX - n),
            1 => (0u64..0x3000).prop_map(|n| USER_END.wrapping_sub(n)),
        ]
    };
    (
        kind,
        any::<u32>(),
        number(),
        number(),
        number(),
        number(),
        number(),
    )
        .prop_map(|(kind, flags, offset, vaddr, filesz, memsz, align)| Phdr {
            kind,
            flags,
            // Congruent half of the time, or every file would be refused for that.
            offset: if flags & 8 == 0 {
                (offset & !0xfff) | (vaddr & 0xfff)
            } else {
                offset
            },
            vaddr,
            filesz,
            memsz: if flags & 16 == 0 {
                memsz.saturating_add(filesz)
            } else {
                memsz
            },
            align,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn absurd_headers_never_panic_and_never_plan_outside(
        phdrs in proptest::collection::vec(any_phdr(), 1..6),
        e_type in prop_oneof![Just(ET_EXEC), Just(ET_DYN)],
        entry in any::<u64>(),
        bias in any::<u64>(),
        file_len in prop_oneof![0u64..0x20_0000, any::<u64>()],
    ) {
        if let Ok(image) = load(&elf_file(e_type, entry, &phdrs), file_len) {
            check_plan(&image, 0, file_len);
            check_plan(&image, bias & !0xfff, file_len);
            check_plan(&image, bias, file_len);
            check_plan(&image, image.bias_for(0x5555_5555_4000), file_len);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        with_magic in any::<bool>(),
        changes in proptest::collection::vec((0usize..120, any::<u8>()), 0..8),
    ) {
        let _ = load(&bytes, bytes.len() as u64);
        if with_magic {
            let head = elf_file(ET_DYN, 0, &[Phdr::load(R, 0, 0, 0x100, 0x100)]);
            bytes.splice(0..0, head);
            for (at, value) in changes {
                bytes[at] = value;
            }
            if let Ok(image) = load(&bytes, bytes.len() as u64) {
                check_plan(&image, 0x7f00_0000_0000, bytes.len() as u64);
            }
        }
        let _ = elf::interpreter_path(&bytes);
    }
}
