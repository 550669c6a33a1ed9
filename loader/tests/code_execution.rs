//! Rewritten code is executed, and must leave the processor as the original leaves it.
//!
//! Random fragments with one `syscall` are run twice at the same address: as they are (the number
//! is one that Linux does not know, so the kernel answers -ENOSYS), and patched, with a gate that
//! gives the same answer. All registers, the flags and the memory must be equal after it, and so
//! when a thread does not come through the call but to one of the instructions behind it.
//! Neighbours: `code_rules.rs` and `code_displaced.rs` check the same rules by decoding.

#[path = "common/machine.rs"]
mod machine;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpKind, Register,
};
use machine::{
    CODE, DATA, DATA_LEN, DATA_MIDDLE, Landing, Machine, RCX, REGION, REGION_LEN, RSP, Seen, State,
    loader_test_exit, loader_test_gate,
};
use pegasus_loader::code::{self, Form, UNDEFINED_OPCODES, placements};

/// A number no kernel serves.
const NR: u64 = 0x1234;

/// A small generator: the same fragments in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Bytes that are likely to begin with a plain integer instruction.
    fn insn_bytes(&mut self) -> [u8; 15] {
        let mut bytes = Vec::new();
        if self.below(8) == 0 {
            bytes.push(0x66);
        }
        if self.below(3) > 0 {
            bytes.push(0x40 | self.below(16) as u8);
        }
        if self.below(4) == 0 {
            bytes.push(0x0f);
        }
        bytes.extend([self.next() as u8, self.next() as u8]);
        if self.below(2) == 0 {
            bytes.push(self.pick(&[0x24, 0x23, 0x27, 0x65]));
        }
        while bytes.len() < 15 {
            // Mostly small displacements.
            bytes.extend([self.pick(&[0x08, 0x70, 0xf0, self.0 as u8]), 0, 0, 0]);
        }
        bytes.truncate(15);
        bytes.try_into().unwrap()
    }

    /// A long instruction that `analyse` would move and that is harmless to run with registers
    /// that all point into the data memory.
    fn harmless_insn(&mut self) -> Vec<u8> {
        loop {
            let bytes = self.insn_bytes();
            let after = [&[0x0f, 0x05], &bytes[..]].concat();
            if let Ok(Form::DisplacedAfter { moved }) = code::analyse(&[], &after, NR)
                && let Some(first) = moved.insns().next()
                && first.len() >= 3
                && is_harmless(first.bytes())
            {
                return first.bytes().to_vec();
            }
        }
    }

    fn state(&mut self) -> State {
        let registers = std::array::from_fn(|_| DATA_MIDDLE + (self.below(256) & !7));
        // Reserved bit 1 and IF are set in user mode; CF PF AF ZF SF OF are free.
        State {
            registers,
            flags: 0x202 | (self.next() & 0x8d5),
        }
    }
}

/// Memory operands are [register + small]; rsp stays; r11, which `syscall` and the gate leave
/// different, is not touched, nor rcx, which is the address of the code.
fn is_harmless(bytes: &[u8]) -> bool {
    let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    if insn.flow_control() != FlowControl::Next {
        return false;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&insn);
    let registers_fit = info.used_registers().iter().all(|used| {
        let full = used.register().full_register();
        let written = used.access() != iced_x86::OpAccess::Read;
        full != Register::R11 && full != Register::RCX && !(full == Register::RSP && written)
    });
    let has_memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
    let memory_fits = !has_memory
        || info.used_memory().is_empty()
        || (insn.memory_index() == Register::None
            && insn.memory_base().is_gpr64()
            && insn.segment_prefix() == Register::None
            && (insn.memory_displacement64() as i64).abs() <= 0x400);
    let absolute = has_memory && insn.memory_base() == Register::None;
    // bt with a register addresses memory as far away as the register says.
    let far = insn.mnemonic() == Mnemonic::Bt && has_memory;
    registers_fit && memory_fits && !absolute && !far
}

/// Whether an instruction may run before another one that uses memory: it writes no 64-bit
/// register, so that pointers stay pointers.
fn keeps_pointers(bytes: &[u8]) -> bool {
    let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    let mut factory = InstructionInfoFactory::new();
    let uses = factory.info(&insn).used_registers();
    uses.iter()
        .all(|used| used.access() == iced_x86::OpAccess::Read)
}

/// Code with one site. Every way out of it goes through a block that sets r11 to a mark of its own.
struct Fragment {
    bytes: Vec<u8>,
    entry: u64,
    site: u64,
    /// The way out that a `ret` is to take.
    return_to: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    MovEax,
    MovRax,
    /// One long instruction after the site.
    One,
    /// Several instructions after the site.
    Several,
}

const EXIT_LEN: u64 = 20;
/// The first instruction; before it is a way out.
const ENTRY: u64 = CODE + 0x20;
/// What instructions with memory relative to themselves use: some bytes before the code.
const RELATIVE: u64 = CODE - 0x1000;
const RELATIVE_LEN: usize = 64;

/// Sets r11 to `mark` and leaves.
fn exit_block(mark: u32) -> Vec<u8> {
    let mut bytes = vec![0x41, 0xbb];
    bytes.extend(mark.to_le_bytes());
    bytes.extend([0xff, 0x25, 0, 0, 0, 0]);
    bytes.extend((loader_test_exit as *const () as u64).to_le_bytes());
    assert_eq!(bytes.len() as u64, EXIT_LEN);
    bytes
}

fn fragment(random: &mut Random, kind: Kind) -> Fragment {
    let mut bytes = exit_block(1);
    bytes.resize((ENTRY - CODE) as usize + 16, 0x90);
    // Not where a `ret` may follow, whose address on the stack they might overwrite.
    let before = if kind == Kind::Several { 0 } else { 3 };
    for _ in 0..random.below(before.max(1)) {
        let insn = random.harmless_insn();
        if keeps_pointers(&insn) {
            bytes.extend(insn);
        }
    }
    match kind {
        Kind::MovEax => bytes.extend([0xb8, NR as u8, (NR >> 8) as u8, 0, 0]),
        Kind::MovRax => bytes.extend([0x48, 0xc7, 0xc0, NR as u8, (NR >> 8) as u8, 0, 0]),
        // mov $0,%eax; mov $nr,%ax: a number that no form recognises.
        Kind::One | Kind::Several => {
            bytes.extend([0xb8, 0, 0, 0, 0, 0x66, 0xb8, NR as u8, (NR >> 8) as u8]);
        }
    }
    let site = CODE + bytes.len() as u64;
    bytes.extend([0x0f, 0x05]);
    if kind == Kind::Several {
        bytes.extend(several(random, site));
    } else {
        // rax is no pointer after the call, so only what does not use it as one may follow.
        bytes.extend(long_insn(random, &[Register::RAX]));
    }
    bytes.extend(exit_block(2));
    let return_to = CODE + bytes.len() as u64;
    bytes.extend(exit_block(3));
    Fragment {
        bytes,
        entry: ENTRY,
        site,
        return_to,
    }
}

/// A long harmless instruction that does not use the memory that `no_pointers` point to.
fn long_insn(random: &mut Random, no_pointers: &[Register]) -> Vec<u8> {
    loop {
        let bytes = random.harmless_insn();
        let insn = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
        let mut factory = InstructionInfoFactory::new();
        let mut memory = factory.info(&insn).used_memory().iter();
        if !memory.any(|m| no_pointers.contains(&m.base().full_register())) {
            return bytes;
        }
    }
}

/// What may stand behind a site: bytes, and perhaps a distance to be filled in.
enum Piece {
    Plain(Vec<u8>),
    /// An opcode, the length of the distance, and what the distance is to.
    Jump(Vec<u8>, usize, Exit),
    /// An opcode and a ModRM byte, and the immediate after the distance to [`RELATIVE`].
    Relative(Vec<u8>, Vec<u8>),
}

#[derive(Clone, Copy)]
enum Exit {
    Before,
    Behind,
    FurtherBehind,
}

impl Piece {
    fn len(&self) -> u64 {
        let len = match self {
            Piece::Plain(bytes) => bytes.len(),
            Piece::Jump(opcode, distance_len, _) => opcode.len() + distance_len,
            Piece::Relative(opcode, immediate) => opcode.len() + 4 + immediate.len(),
        };
        len as u64
    }

    fn random(random: &mut Random) -> Piece {
        let condition = random.below(16) as u8;
        let exit = random.pick(&[Exit::Before, Exit::Behind, Exit::FurtherBehind]);
        match random.below(12) {
            0 => Piece::Plain(vec![0xc3]),
            1 => Piece::Jump(vec![0x70 | condition], 1, Exit::FurtherBehind),
            2 => Piece::Jump(vec![0x0f, 0x80 | condition], 4, exit),
            3 => Piece::Jump(vec![0xeb], 1, Exit::FurtherBehind),
            4 => Piece::Jump(vec![0xe9], 4, exit),
            5 => Piece::Relative(random.pick(&RELATIVES).to_vec(), vec![]),
            6 => Piece::Relative(vec![0x66, 0xc7, 0x05], vec![0x34, 0x12]),
            7 => Piece::Relative(vec![0x83, 0x3d], vec![0x04]),
            8 => Piece::Plain(long_insn(random, &CLOBBERED)),
            _ => Piece::Plain(random.pick(&SHORTS).to_vec()),
        }
    }
}

/// mov …(%rip),%eax; mov %rsi,…(%rip); lea …(%rip),%rdx; movzbl …(%rip),%edi.
const RELATIVES: [&[u8]; 4] = [
    &[0x8b, 0x05],
    &[0x48, 0x89, 0x35],
    &[0x48, 0x8d, 0x15],
    &[0x0f, 0xb6, 0x3d],
];
/// Instructions of one or two bytes that use registers only.
const SHORTS: [&[u8]; 12] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x98],
    &[0x99],
    &[0x48, 0x98],
    &[0x89, 0xc7],
    &[0x85, 0xc0],
    &[0xf7, 0xd8],
    &[0x31, 0xd2],
    &[0x3c, 0xda],
    &[0x53],
    &[0x5b],
];
/// What the above change.
const CLOBBERED: [Register; 4] = [Register::RAX, Register::RDX, Register::RDI, Register::RBX];

/// Two or three instructions that are displaced together.
fn several(random: &mut Random, site: u64) -> Vec<u8> {
    loop {
        let mut pieces = Vec::new();
        let mut len = 0;
        while len < 3 {
            let piece = Piece::random(random);
            len += piece.len();
            pieces.push(piece);
        }
        let has = |byte: u8| {
            let mut plain = pieces.iter();
            plain.any(|p| matches!(p, Piece::Plain(bytes) if bytes[0] == byte))
        };
        let returns_to_a_push = has(0xc3) && (has(0x53) || has(0x5b));
        let bytes = laid_out(&pieces, site + 2, len);
        let after = [&[0x0f, 0x05], &bytes[..]].concat();
        if pieces.len() > 1 && !returns_to_a_push && code::analyse(&[], &after, NR).is_ok() {
            return bytes;
        }
    }
}

fn laid_out(pieces: &[Piece], begin: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let end = begin + bytes.len() as u64 + piece.len();
        match piece {
            Piece::Plain(plain) => bytes.extend(plain),
            Piece::Jump(opcode, distance_len, exit) => {
                let to = match exit {
                    Exit::Before => CODE,
                    Exit::Behind => begin + len,
                    Exit::FurtherBehind => begin + len + EXIT_LEN,
                };
                bytes.extend(opcode);
                bytes.extend(&to.wrapping_sub(end).to_le_bytes()[..*distance_len]);
            }
            Piece::Relative(opcode, immediate) => {
                bytes.extend(opcode);
                bytes.extend(&RELATIVE.wrapping_sub(end).to_le_bytes()[..4]);
                bytes.extend(immediate);
            }
        }
    }
    assert_eq!(bytes.len() as u64, len);
    bytes
}

/// What a run leaves: registers and flags, memory, and what the gate saw.
type Outcome = (State, Vec<u8>, Vec<u8>, Seen);

/// One fragment with everything it starts from.
struct Trial {
    fragment: Fragment,
    state: State,
    data: Vec<u8>,
    relative: Vec<u8>,
}

impl Trial {
    fn new(random: &mut Random, kind: Kind) -> Trial {
        let fragment = fragment(random, kind);
        let state = random.state();
        let mut data: Vec<u8> = (0..DATA_LEN).map(|_| random.next() as u8).collect();
        let top = (state.registers[RSP] - DATA) as usize;
        data[top..top + 8].copy_from_slice(&fragment.return_to.to_le_bytes());
        let relative = (0..RELATIVE_LEN).map(|_| random.next() as u8).collect();
        Trial {
            fragment,
            state,
            data,
            relative,
        }
    }

    /// Through the call.
    fn run(&self, machine: &mut Machine) -> Outcome {
        machine.write(RELATIVE, &self.relative);
        let (state, data, seen) = machine.run(self.fragment.entry, self.state, &self.data);
        let relative = machine.memory(RELATIVE, RELATIVE_LEN).to_vec();
        (state, data, relative, seen)
    }

    /// To an address behind the call; if it has been patched, `to` is where that resumes.
    fn land(&self, machine: &mut Machine, from: u64, to: Option<u64>) -> Outcome {
        let mut state = self.state;
        // As after a call.
        state.registers[0] = -38i64 as u64;
        machine.write(RELATIVE, &self.relative);
        let (state, data) = match to {
            Some(to) => machine.land(Landing { from, to }, state, &self.data),
            None => {
                let (state, data, _) = machine.run(from, state, &self.data);
                (state, data)
            }
        };
        let relative = machine.memory(RELATIVE, RELATIVE_LEN).to_vec();
        (state, data, relative, Seen { rcx: 0, r11: 0 })
    }
}

/// Runs a random fragment as it is and rewritten, and gives its form.
fn compare(machine: &mut Machine, random: &mut Random, kind: Kind) -> Form {
    let trial = Trial::new(random, kind);
    let Fragment { bytes, site, .. } = &trial.fragment;
    let (bytes, site) = (bytes.as_slice(), *site);
    let offset = (site - CODE) as usize;
    let form = match code::analyse(&bytes[..offset], &bytes[offset..], NR) {
        Ok(form) => form,
        Err(refusal) => panic!("{refusal:?}: {bytes:02x?}"),
    };

    machine.write(CODE, bytes);
    let mut original = trial.run(machine);
    assert_eq!(original.3, Seen { rcx: 0, r11: 0 });
    assert_eq!(original.0.registers[RCX], site + 2, "the kernel's own rcx");
    let starts: Vec<u64> = form.displaced_starts().collect();
    let landed: Vec<Outcome> = starts
        .iter()
        .map(|start| trial.land(machine, site + start, None))
        .collect();

    let trampoline = some_place(random, &form, site);
    let gate = loader_test_gate as *const () as u64;
    let emitted = form.emit(site, trampoline, gate).unwrap();
    let patch = form.patch(site, trampoline).unwrap();
    let saved = form.original(site);
    assert_eq!(machine.memory(saved.addr, 5), saved.bytes);
    machine.write(trampoline, emitted.bytes());
    machine.write(patch.addr, &patch.bytes);
    let resume = emitted.displaced_at.unwrap_or(site + 2);
    original.3 = Seen {
        rcx: site + 2,
        r11: resume,
    };
    let rewritten = trial.run(machine);
    assert!(
        original == rewritten,
        "{form:?}: {:x?}, {:x?}: {bytes:02x?}",
        original.0,
        rewritten.0
    );
    for (start, original) in starts.iter().zip(landed) {
        let to = form.displaced_at(trampoline, *start);
        let rewritten = trial.land(machine, site + start, to);
        assert!(
            original == rewritten,
            "{form:?} at {start}: {:x?}, {:x?}: {bytes:02x?}",
            original.0,
            rewritten.0
        );
    }
    form
}

/// An address for a trampoline, not over the code itself.
fn some_place(random: &mut Random, form: &Form, site: u64) -> u64 {
    let nth = random.below(60) as usize;
    let free = |w: &code::Window| w.end + 64 <= CODE - 0x2000 || w.start >= CODE + 0x1000;
    match form {
        Form::MovBefore { .. } => REGION + random.below(REGION_LEN / 2 - 0x1_0000),
        Form::DisplacedAfter { .. } => {
            let all = placements(form, site, REGION, REGION + REGION_LEN);
            let window = all.filter(free).nth(nth).expect("a window");
            window.start + random.below(window.end - window.start)
        }
    }
}

#[test]
fn rewritten_fragments_behave_as_the_originals() {
    let mut machine = Machine::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for kind in [Kind::MovEax, Kind::MovRax, Kind::One] {
        let rounds = if kind == Kind::One { 4000 } else { 500 };
        let wanted = (0..rounds)
            .filter(|_| {
                let form = compare(&mut machine, &mut random, kind);
                // The last byte of the instruction before may look like a prefix: then it is the
                // other form.
                matches!(form, Form::DisplacedAfter { .. }) == (kind == Kind::One)
            })
            .count();
        assert!(
            wanted * 2 > rounds,
            "{kind:?}: only {wanted} of {rounds} had this form"
        );
    }
}

#[test]
fn displaced_sequences_behave_as_the_originals() {
    let mut machine = Machine::new();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..6000 {
        let form = compare(&mut machine, &mut random, Kind::Several);
        let starts: Vec<u64> = form.displaced_starts().collect();
        *seen.entry(starts).or_insert(0) += 1;
    }
    for starts in [&[2, 3][..], &[2, 4], &[2, 3, 4]] {
        assert!(seen.get(starts).is_some_and(|n| *n > 300), "{seen:?}");
    }
}

#[test]
fn the_syscall_behind_a_patched_mov_still_is_one() {
    let mut machine = Machine::new();
    let mut random = Random(7);
    for _ in 0..20 {
        let Fragment { bytes, site, .. } = fragment(&mut random, Kind::MovEax);
        let offset = (site - CODE) as usize;
        let form = code::analyse(&bytes[..offset], &bytes[offset..], NR).unwrap();
        if !matches!(form, Form::MovBefore { .. }) {
            continue;
        }
        machine.write(CODE, &bytes);
        let patch = form.patch(site, REGION).unwrap();
        machine.write(patch.addr, &patch.bytes);
        let mut state = random.state();
        state.registers[0] = NR;
        let data = vec![0; DATA_LEN];
        let (after, _, seen) = machine.run(site, state, &data);
        assert_eq!(seen, Seen { rcx: 0, r11: 0 }, "went through the gate");
        assert_eq!(after.registers[RCX], site + 2);
    }
}

/// The processor itself must refuse the bytes that keep threads out of patched code. Executed in a
/// child (this same test, told by the environment), which has to die of SIGILL.
#[test]
fn the_processor_refuses_the_undefined_opcodes() {
    const VARIABLE: &str = "PEGASUS_TEST_UNDEFINED";
    if let Ok(text) = std::env::var(VARIABLE) {
        let bytes: Vec<u8> = text.split(' ').map(|b| b.parse().unwrap()).collect();
        let mut machine = Machine::new();
        machine.write(CODE, &bytes);
        let exit = loader_test_exit as *const () as u64;
        // Were it an instruction, the child would leave by one of these jumps, and exit with 0.
        for offset in 16..32 {
            machine.write(CODE + offset, &[0x90]);
        }
        machine.write(CODE + 32, &[0xff, 0x25, 0, 0, 0, 0]);
        machine.write(CODE + 38, &exit.to_le_bytes());
        machine.run(CODE, Random(3).state(), &[0; DATA_LEN]);
        return;
    }
    let run = |bytes: [u8; 16]| {
        use std::os::unix::process::ExitStatusExt;
        let text: Vec<String> = bytes.iter().map(u8::to_string).collect();
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_processor_refuses_the_undefined_opcodes"])
            .env(VARIABLE, text.join(" "))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        status.signal()
    };
    assert_eq!(
        run([0x90; 16]),
        None,
        "nops do not run: the test proves nothing"
    );
    const SIGILL: i32 = 4;
    for opcode in UNDEFINED_OPCODES {
        for fill in [0x00, 0x90, 0xc0, 0xff] {
            let mut bytes = [fill; 16];
            bytes[0] = opcode;
            assert_eq!(
                run(bytes),
                Some(SIGILL),
                "{opcode:#x} followed by {fill:#x}"
            );
        }
    }
}
