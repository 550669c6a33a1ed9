//! Plans of real programs: against the bytes of the file, against `readelf`, and against what the
//! kernel did when it loaded this very test.

mod common;

use std::collections::BTreeMap;
use std::process::Command;

use common::read_or_skip;
use pegasus_loader::elf::{
    self, FileRange, Header, Image, Kind, MapStep, PAGE_LEN, PROT_EXEC, PROT_READ, PROT_WRITE,
};

const PROGRAMS: [&str; 6] = [
    "/bin/ls",
    "/bin/bash",
    "/lib64/ld-linux-x86-64.so.2",
    "/usr/bin/python3",
    "/usr/bin/gcc",
    "/sbin/ldconfig",
];

fn slice(file: &[u8], range: FileRange) -> &[u8] {
    &file[range.offset as usize..(range.offset + range.len) as usize]
}

fn parse(file: &[u8]) -> (Header, Image) {
    let header = Header::parse(file).unwrap();
    let image = Image::parse(&header, slice(file, header.phdrs), file.len() as u64).unwrap();
    (header, image)
}

/// Carries a plan out on a model of memory: page address to bytes and protection.
fn carry_out(steps: &[MapStep], file: &[u8]) -> BTreeMap<u64, (Vec<u8>, u32)> {
    let mut memory = BTreeMap::new();
    for step in steps {
        match *step {
            MapStep::File {
                addr,
                len,
                offset,
                prot,
            } => {
                assert!(addr % PAGE_LEN == 0 && len % PAGE_LEN == 0 && len > 0);
                assert_eq!(offset % PAGE_LEN, 0);
                for page in (0..len).step_by(PAGE_LEN as usize) {
                    let begin = ((offset + page) as usize).min(file.len());
                    let end = (begin + PAGE_LEN as usize).min(file.len());
                    assert!(end > begin, "a page beyond the file");
                    let mut bytes = file[begin..end].to_vec();
                    bytes.resize(PAGE_LEN as usize, 0);
                    memory.insert(addr + page, (bytes, prot));
                }
            }
            MapStep::Zero { addr, len } => {
                let page = addr & !(PAGE_LEN - 1);
                let from = (addr - page) as usize;
                let (bytes, prot) = memory.get_mut(&page).expect("zeroes an unmapped page");
                assert!(*prot & PROT_WRITE != 0, "zeroes a read-only page");
                assert_eq!(addr + len, page + PAGE_LEN);
                bytes[from..].fill(0);
            }
            MapStep::Anonymous { addr, len, prot } => {
                assert!(addr % PAGE_LEN == 0 && len % PAGE_LEN == 0 && len > 0);
                for page in (0..len).step_by(PAGE_LEN as usize) {
                    memory.insert(addr + page, (vec![0; PAGE_LEN as usize], prot));
                }
            }
        }
    }
    memory
}

#[test]
fn memory_after_the_plan_is_what_the_headers_promise() {
    for path in PROGRAMS {
        let Some(file) = read_or_skip(path) else {
            continue;
        };
        let (_, image) = parse(&file);
        let bias = if image.kind == Kind::Dyn {
            0x5555_5555_4000
        } else {
            0
        };
        let memory = carry_out(&image.plan(bias).unwrap(), &file);
        for segment in &image.segments {
            for i in 0..segment.memsz {
                let addr = segment.vaddr + bias + i;
                let (page, prot) = &memory[&(addr & !(PAGE_LEN - 1))];
                let expected = match i < segment.filesz {
                    true => file[(segment.offset + i) as usize],
                    false => 0,
                };
                assert_eq!(
                    page[(addr % PAGE_LEN) as usize],
                    expected,
                    "{path} at {addr:#x}"
                );
                let from_file = i < segment.filesz;
                assert!(!from_file || *prot == segment.prot, "{path} at {addr:#x}");
            }
        }
        let span = image.span();
        let (first, last) = (memory.keys().next().unwrap(), memory.keys().last().unwrap());
        assert_eq!(*first, span.start + bias, "{path}");
        assert_eq!(last + PAGE_LEN, span.start + span.len + bias, "{path}");
        assert_eq!(image.brk_start(bias), last + PAGE_LEN, "{path}");
        assert_eq!(image.bias_for(span.start + bias), bias);
    }
}

#[test]
fn program_headers_lie_where_phdr_vaddr_says() {
    for path in PROGRAMS {
        let Some(file) = read_or_skip(path) else {
            continue;
        };
        let (header, image) = parse(&file);
        let bias = 0x7000_0000_0000;
        let bias = if image.kind == Kind::Dyn { bias } else { 0 };
        let memory = carry_out(&image.plan(bias).unwrap(), &file);
        let at = image.phdr_vaddr + bias;
        let page = &memory[&(at & !(PAGE_LEN - 1))].0;
        let from = (at % PAGE_LEN) as usize;
        let table = slice(&file, header.phdrs);
        assert_eq!(&page[from..from + table.len()], table, "{path}");
    }
}

#[test]
fn segments_are_those_of_readelf() {
    for path in PROGRAMS {
        let Some(file) = read_or_skip(path) else {
            continue;
        };
        let Ok(output) = Command::new("readelf").args(["-lW", path]).output() else {
            eprintln!("SKIPPED: no readelf");
            return;
        };
        let (_, image) = parse(&file);
        let text = String::from_utf8(output.stdout).unwrap();
        let hex = |s: &str| u64::from_str_radix(s.trim_start_matches("0x"), 16).unwrap();
        let loads: Vec<_> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.first() == Some(&"LOAD"))
            .collect();
        assert_eq!(loads.len(), image.segments.len(), "{path}");
        for (words, segment) in loads.iter().zip(&image.segments) {
            assert_eq!(hex(words[1]), segment.offset);
            assert_eq!(hex(words[2]), segment.vaddr);
            assert_eq!(hex(words[4]), segment.filesz);
            assert_eq!(hex(words[5]), segment.memsz);
            let flags = words[6..words.len() - 1].concat();
            for (letter, bit) in [('R', PROT_READ), ('W', PROT_WRITE), ('E', PROT_EXEC)] {
                assert_eq!(
                    flags.contains(letter),
                    segment.prot & bit != 0,
                    "{path}: {flags}"
                );
            }
        }
        let named = image.interpreter.map(|range| {
            let path = elf::interpreter_path(slice(&file, range)).unwrap();
            String::from_utf8(path.to_vec()).unwrap()
        });
        let expected = text
            .split_once("interpreter: ")
            .map(|(_, rest)| rest.split(']').next().unwrap().to_owned());
        assert_eq!(named, expected, "{path}");
        let stack_line = text
            .lines()
            .find(|l| l.contains("GNU_STACK"))
            .unwrap_or_default();
        assert_eq!(image.stack_executable, stack_line.contains("RWE"), "{path}");
    }
}

/// The kernel has loaded this test: its plan for the same file must be the kernel's mappings.
#[test]
fn the_plan_of_this_program_is_what_the_kernel_mapped() {
    let exe = std::env::current_exe().unwrap();
    let file = std::fs::read(&exe).unwrap();
    let (_, image) = parse(&file);
    let auxv = std::fs::read("/proc/self/auxv").unwrap();
    let words: Vec<u64> = auxv
        .chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect();
    let aux = |tag| words.chunks_exact(2).find(|pair| pair[0] == tag).unwrap()[1];
    let bias = aux(3).wrapping_sub(image.phdr_vaddr);
    assert_eq!(aux(9), image.entry.wrapping_add(bias));
    assert_eq!(aux(5), u64::from(image.phnum));

    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    // Address to offset in the file; anonymous pages have none.
    let mut pages = BTreeMap::new();
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let (start, end) = words[0].split_once('-').unwrap();
        let hex = |s: &str| u64::from_str_radix(s, 16).unwrap();
        let of_exe = words
            .get(5)
            .is_some_and(|path| *path == exe.to_str().unwrap());
        for page in (hex(start)..hex(end)).step_by(PAGE_LEN as usize) {
            let offset = of_exe.then(|| hex(words[2]) + page - hex(start));
            pages.insert(page, offset);
        }
    }
    for step in image.plan(bias).unwrap() {
        match step {
            MapStep::File {
                addr, len, offset, ..
            } => {
                for page in (0..len).step_by(PAGE_LEN as usize) {
                    assert_eq!(pages[&(addr + page)], Some(offset + page), "{step:x?}");
                }
            }
            MapStep::Anonymous { addr, len, .. } => {
                for page in (0..len).step_by(PAGE_LEN as usize) {
                    assert_eq!(pages[&(addr + page)], None, "{step:x?}");
                }
            }
            MapStep::Zero { .. } => {}
        }
    }
}
