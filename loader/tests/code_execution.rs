//! Rewritten code is executed, and must leave the processor as the original leaves it.
//!
//! Random fragments with one `syscall` are run twice at the same address: as they are (the number
//! is one that Linux does not know, so the kernel answers -ENOSYS), and patched, with a gate that
//! gives the same answer. All registers but r11, the flags and the memory must be equal after it.
//! Neighbours: `code_rules.rs` checks the same rules by decoding.

use std::arch::{asm, global_asm};
use std::sync::Mutex;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic, OpKind, Register};
use pegasus_loader::code::{self, Form, UNDEFINED_OPCODES, placements};

/// A number no kernel serves.
const NR: u64 = 0x1234;

const REGION: u64 = 0x2a00_0000_0000;
const REGION_LEN: u64 = 4 << 20;
/// Code is written here, far enough inside the region for trampolines on both sides.
const CODE: u64 = REGION + 0x20_0000;
/// What the fragment's pointers point to: the middle of some memory below 4 GiB.
const DATA: u64 = 0x1_6000_0000;
const DATA_LEN: usize = 0x4000;
const DATA_MIDDLE: u64 = DATA + DATA_LEN as u64 / 2;

const RCX: usize = 1;
const RSP: usize = 4;
const R11: usize = 11;

/// Registers in encoding order, then the flags. `run_state` in the assembly below has its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct State {
    registers: [u64; 16],
    flags: u64,
}

// loader_test_run: loads run_state, jumps to run_target; the fragment ends with a jump to
// loader_test_exit, which stores run_state and returns to the caller on the caller's stack.
global_asm!(
    r#"
    .local run_state, run_target, run_host_rsp, gate_rcx, gate_r11
    .comm run_state, 136, 16
    .comm run_target, 8, 8
    .comm run_host_rsp, 8, 8
    .comm gate_rcx, 8, 8
    .comm gate_r11, 8, 8
    .text
loader_test_run:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov [rip + run_target], rsi
    mov qword ptr [rip + gate_rcx], 0
    mov qword ptr [rip + gate_r11], 0
    mov [rip + run_host_rsp], rsp
    lea rsi, [rip + run_state]
    xchg rsi, rdi
    mov ecx, 17
    rep movsq
    push qword ptr [rip + run_state + 128]
    popfq
    mov rax, [rip + run_state]
    mov rcx, [rip + run_state + 8]
    mov rdx, [rip + run_state + 16]
    mov rbx, [rip + run_state + 24]
    mov rsp, [rip + run_state + 32]
    mov rbp, [rip + run_state + 40]
    mov rsi, [rip + run_state + 48]
    mov rdi, [rip + run_state + 56]
    mov r8, [rip + run_state + 64]
    mov r9, [rip + run_state + 72]
    mov r10, [rip + run_state + 80]
    mov r11, [rip + run_state + 88]
    mov r12, [rip + run_state + 96]
    mov r13, [rip + run_state + 104]
    mov r14, [rip + run_state + 112]
    mov r15, [rip + run_state + 120]
    jmp qword ptr [rip + run_target]
loader_test_exit:
    mov [rip + run_state], rax
    mov [rip + run_state + 8], rcx
    mov [rip + run_state + 16], rdx
    mov [rip + run_state + 24], rbx
    mov [rip + run_state + 32], rsp
    mov [rip + run_state + 40], rbp
    mov [rip + run_state + 48], rsi
    mov [rip + run_state + 56], rdi
    mov [rip + run_state + 64], r8
    mov [rip + run_state + 72], r9
    mov [rip + run_state + 80], r10
    mov [rip + run_state + 88], r11
    mov [rip + run_state + 96], r12
    mov [rip + run_state + 104], r13
    mov [rip + run_state + 112], r14
    mov [rip + run_state + 120], r15
    mov rsp, [rip + run_host_rsp]
    pushfq
    pop qword ptr [rip + run_state + 128]
    cld
    pop rdi
    lea rsi, [rip + run_state]
    mov ecx, 17
    rep movsq
    mov rax, [rip + gate_rcx]
    mov rdx, [rip + gate_r11]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
loader_test_gate:
    mov [rip + gate_rcx], rcx
    mov [rip + gate_r11], r11
    mov rax, -38
    jmp r11
"#
);

/// What the gate saw: rcx and r11. Zeros if it was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Seen {
    rcx: u64,
    r11: u64,
}

unsafe extern "C" {
    fn loader_test_run(state: *mut State, target: u64) -> Seen;
    fn loader_test_exit();
    fn loader_test_gate();
}

/// One user of the fixed addresses and of the assembly's variables at a time.
static MACHINE: Mutex<()> = Mutex::new(());

struct Machine {
    _only: std::sync::MutexGuard<'static, ()>,
}

impl Machine {
    fn new() -> Self {
        let only = MACHINE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        map(REGION, REGION_LEN as usize);
        map(DATA, DATA_LEN);
        Self { _only: only }
    }

    fn memory(&mut self, addr: u64, len: usize) -> &mut [u8] {
        let inside = |from: u64, size: u64| addr >= from && addr + len as u64 <= from + size;
        assert!(inside(REGION, REGION_LEN) || inside(DATA, DATA_LEN as u64));
        // SAFETY: `new` mapped this range readable and writable, nothing else uses it (the lock),
        // and the borrow of `self` keeps fragments from running meanwhile.
        unsafe { std::slice::from_raw_parts_mut(addr as *mut u8, len) }
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) {
        self.memory(addr, bytes.len()).copy_from_slice(bytes);
    }

    /// Runs the code at `target` from `state` with `data` as memory.
    fn run(&mut self, target: u64, mut state: State, data: &[u8]) -> (State, Vec<u8>, Seen) {
        self.write(DATA, data);
        // SAFETY: the fragment at `target` was chosen to touch only the data memory and to end in
        // a jump to `loader_test_exit`; the assembly saves what the C ABI wants saved.
        let seen = unsafe { loader_test_run(&raw mut state, target) };
        (state, self.memory(DATA, DATA_LEN).to_vec(), seen)
    }
}

/// Maps fresh anonymous memory, readable, writable and executable, at `addr`.
fn map(addr: u64, len: usize) {
    let (prot, flags) = (7u64, 0x22u64 | 0x10);
    let result: i64;
    // SAFETY: mmap(MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED) of addresses that only this test uses.
    unsafe {
        asm!("syscall", inlateout("rax") 9i64 => result, in("rdi") addr, in("rsi") len,
             in("rdx") prot, in("r10") flags, in("r8") -1i64, in("r9") 0,
             lateout("rcx") _, lateout("r11") _);
    }
    assert_eq!(result, addr as i64, "mmap failed");
}

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

    /// An instruction that `analyse` would move and that is harmless to run with registers that
    /// all point into the data memory.
    fn harmless_insn(&mut self) -> Vec<u8> {
        loop {
            let bytes = self.insn_bytes();
            let after = [&[0x0f, 0x05], &bytes[..]].concat();
            if let Ok(Form::DisplacedAfter { moved }) = code::analyse(&[], &after, NR)
                && is_harmless(moved.bytes())
            {
                return moved.bytes().to_vec();
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

struct Fragment {
    bytes: Vec<u8>,
    site: u64,
}

fn fragment(random: &mut Random, form: Kind) -> Fragment {
    let mut bytes = vec![0x90; 16];
    for _ in 0..random.below(3) {
        let insn = random.harmless_insn();
        if keeps_pointers(&insn) {
            bytes.extend(insn);
        }
    }
    match form {
        Kind::MovEax => bytes.extend([0xb8, NR as u8, (NR >> 8) as u8, 0, 0]),
        Kind::MovRax => bytes.extend([0x48, 0xc7, 0xc0, NR as u8, (NR >> 8) as u8, 0, 0]),
        // mov $0,%eax; mov $nr,%ax: a number that no form recognises.
        Kind::Displaced => {
            bytes.extend([0xb8, 0, 0, 0, 0, 0x66, 0xb8, NR as u8, (NR >> 8) as u8]);
        }
    }
    let site = CODE + bytes.len() as u64;
    bytes.extend([0x0f, 0x05]);
    // rax is no pointer after the call, so only what does not use it as one may follow.
    loop {
        let insn = random.harmless_insn();
        if !uses_rax_as_base(&insn) {
            bytes.extend(insn);
            break;
        }
    }
    bytes.extend([0xff, 0x25, 0, 0, 0, 0]);
    bytes.extend((loader_test_exit as *const () as u64).to_le_bytes());
    Fragment { bytes, site }
}

fn uses_rax_as_base(bytes: &[u8]) -> bool {
    let insn = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    let mut factory = InstructionInfoFactory::new();
    let memory = factory.info(&insn).used_memory();
    memory
        .iter()
        .any(|m| m.base().full_register() == Register::RAX)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    MovEax,
    MovRax,
    Displaced,
}

fn compare(machine: &mut Machine, random: &mut Random, kind: Kind) -> bool {
    let Fragment { bytes, site } = fragment(random, kind);
    let state = random.state();
    let data: Vec<u8> = (0..DATA_LEN).map(|_| random.next() as u8).collect();
    let offset = (site - CODE) as usize;
    let form = match code::analyse(&bytes[..offset], &bytes[offset..], NR) {
        Ok(form) => form,
        Err(refusal) => panic!("{refusal:?}: {bytes:02x?}"),
    };
    // The last byte of the instruction before may look like a prefix: then it is the other form.
    let as_wanted = matches!(form, Form::DisplacedAfter { .. }) == (kind == Kind::Displaced);

    machine.write(CODE, &bytes);
    let (original, original_data, unseen) = machine.run(CODE, state, &data);
    assert_eq!(unseen, Seen { rcx: 0, r11: 0 });
    assert_eq!(original.registers[RCX], site + 2, "the kernel's own rcx");

    let nth = random.below(60) as usize;
    let (low, high) = (REGION, REGION + REGION_LEN);
    // Not over the code itself.
    let free = |w: &code::Window| w.end + 64 <= CODE || w.start >= CODE + 0x1000;
    let all = placements(&form, site, low, high);
    let trampoline = match form {
        Form::MovBefore { .. } => REGION + random.below(0x1f_0000),
        Form::DisplacedAfter { .. } => {
            let window = all.filter(free).nth(nth).expect("a window");
            window.start + random.below(window.end - window.start)
        }
    };
    let gate = loader_test_gate as *const () as u64;
    let emitted = form.emit(site, trampoline, gate).unwrap();
    let patch = form.patch(site, trampoline).unwrap();
    let saved = form.original(site);
    assert_eq!(machine.memory(saved.addr, 5), saved.bytes);
    machine.write(trampoline, emitted.bytes());
    machine.write(patch.addr, &patch.bytes);
    let (rewritten, rewritten_data, seen) = machine.run(CODE, state, &data);

    let resume = emitted.displaced_at.unwrap_or(site + 2);
    assert_eq!(
        seen,
        Seen {
            rcx: site + 2,
            r11: resume
        },
        "{kind:?}: {bytes:02x?}"
    );
    let visible = |mut state: State| {
        state.registers[R11] = 0;
        state
    };
    assert_eq!(
        visible(original),
        visible(rewritten),
        "{kind:?}: {bytes:02x?}"
    );
    assert!(
        original_data == rewritten_data,
        "{kind:?}: memory differs: {bytes:02x?}"
    );
    assert_eq!(original.registers[RSP], state.registers[RSP]);
    as_wanted
}

#[test]
fn rewritten_fragments_behave_as_the_originals() {
    let mut machine = Machine::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for kind in [Kind::MovEax, Kind::MovRax, Kind::Displaced] {
        let rounds = if kind == Kind::Displaced { 4000 } else { 500 };
        let wanted = (0..rounds)
            .filter(|_| compare(&mut machine, &mut random, kind))
            .count();
        assert!(
            wanted * 2 > rounds,
            "{kind:?}: only {wanted} of {rounds} had this form"
        );
    }
}

#[test]
fn the_syscall_behind_a_patched_mov_still_is_one() {
    let mut machine = Machine::new();
    let mut random = Random(7);
    for _ in 0..20 {
        let Fragment { bytes, site } = fragment(&mut random, Kind::MovEax);
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
