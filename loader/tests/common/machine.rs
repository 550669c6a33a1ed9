//! Runs machine code from a given state of the processor, and sees what it leaves.
//!
//! Neighbours: `code_execution.rs`. The code, its trampolines and its data are at fixed addresses.
#![allow(dead_code)] // each test program uses its part

use std::arch::{asm, global_asm};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub const REGION: u64 = 0x2a00_0000_0000;
pub const REGION_LEN: u64 = 2 << 30;
/// Code is written here, far enough inside the region for all trampolines, on both sides.
pub const CODE: u64 = REGION + REGION_LEN / 2;
/// What the fragment's pointers point to: the middle of some memory.
pub const DATA: u64 = 0x1_6000_0000;
pub const DATA_LEN: usize = 0x4000;
pub const DATA_MIDDLE: u64 = DATA + DATA_LEN as u64 / 2;

pub const RCX: usize = 1;
pub const RSP: usize = 4;
pub const R11: usize = 11;

/// Registers in encoding order, then the flags. `run_state` in the assembly below has its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    pub registers: [u64; 16],
    pub flags: u64,
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
    .globl loader_test_run, loader_test_exit, loader_test_gate
    .hidden loader_test_run, loader_test_exit, loader_test_gate
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
pub struct Seen {
    pub rcx: u64,
    pub r11: u64,
}

unsafe extern "C" {
    fn loader_test_run(state: *mut State, target: u64) -> Seen;
    pub fn loader_test_exit();
    pub fn loader_test_gate();
}

/// One user of the fixed addresses and of the assembly's variables at a time.
static MACHINE: Mutex<()> = Mutex::new(());

pub struct Machine {
    _only: std::sync::MutexGuard<'static, ()>,
}

impl Machine {
    pub fn new() -> Self {
        let only = MACHINE
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        map(REGION, REGION_LEN as usize);
        map(DATA, DATA_LEN);
        catch_sigill();
        Self { _only: only }
    }

    pub fn memory(&mut self, addr: u64, len: usize) -> &mut [u8] {
        let inside = |from: u64, size: u64| addr >= from && addr + len as u64 <= from + size;
        assert!(inside(REGION, REGION_LEN) || inside(DATA, DATA_LEN as u64));
        // SAFETY: `new` mapped this range readable and writable, nothing else uses it (the lock),
        // and the borrow of `self` keeps fragments from running meanwhile.
        unsafe { std::slice::from_raw_parts_mut(addr as *mut u8, len) }
    }

    pub fn write(&mut self, addr: u64, bytes: &[u8]) {
        self.memory(addr, bytes.len()).copy_from_slice(bytes);
    }

    /// Runs the code at `target` from `state` with `data` as memory.
    pub fn run(&mut self, target: u64, mut state: State, data: &[u8]) -> (State, Vec<u8>, Seen) {
        self.write(DATA, data);
        // SAFETY: the fragment at `target` was chosen to touch only the data memory and to end in
        // a jump to `loader_test_exit`; the assembly saves what the C ABI wants saved.
        let seen = unsafe { loader_test_run(&raw mut state, target) };
        (state, self.memory(DATA, DATA_LEN).to_vec(), seen)
    }
}

/// Maps fresh anonymous memory, readable, writable and executable, at `addr`.
fn map(addr: u64, len: usize) {
    // MAP_PRIVATE, MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE
    let (prot, flags) = (7u64, 0x22u64 | 0x10 | 0x4000);
    let result: i64;
    // SAFETY: mmap(MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED) of addresses that only this test uses.
    unsafe {
        asm!("syscall", inlateout("rax") 9i64 => result, in("rdi") addr, in("rsi") len,
             in("rdx") prot, in("r10") flags, in("r8") -1i64, in("r9") 0,
             lateout("rcx") _, lateout("r11") _);
    }
    assert_eq!(result, addr as i64, "mmap failed");
}

/// Where threads come that fault with `#UD` at `from`; as the vkernel's handler does it.
#[derive(Clone, Copy, Debug)]
pub struct Landing {
    pub from: u64,
    pub to: u64,
}

static LANDING: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static LANDED: AtomicU64 = AtomicU64::new(0);

impl Machine {
    /// As [`Machine::run`], from an address that faults and is resumed elsewhere.
    pub fn land(&mut self, landing: Landing, state: State, data: &[u8]) -> (State, Vec<u8>) {
        LANDING[0].store(landing.from, Ordering::SeqCst);
        LANDING[1].store(landing.to, Ordering::SeqCst);
        let before = LANDED.load(Ordering::SeqCst);
        let (state, data, _) = self.run(landing.from, state, data);
        let landed = LANDED.load(Ordering::SeqCst) - before;
        LANDING[0].store(0, Ordering::SeqCst);
        assert_eq!(landed, 1, "did not fault at {:#x}", landing.from);
        (state, data)
    }
}

const SIGILL: i32 = 4;
const SA_SIGINFO: i32 = 4;
const SA_ONSTACK: i32 = 0x0800_0000;
/// Offset of `uc_mcontext.gregs[REG_RIP]` in glibc's `ucontext_t`.
const UC_RIP: usize = 40 + 16 * 8;

#[repr(C)]
struct Action {
    handler: usize,
    mask: [u64; 16],
    flags: i32,
    restorer: usize,
}

#[repr(C)]
struct Stack {
    sp: *mut u8,
    flags: i32,
    size: usize,
}

unsafe extern "C" {
    fn sigaction(signal: i32, action: *const Action, old: *mut Action) -> i32;
    fn sigaltstack(stack: *const Stack, old: *mut Stack) -> i32;
}

extern "C" fn on_sigill(signal: i32, _info: usize, context: *mut u8) {
    // SAFETY: the kernel passes a `ucontext_t`, which has this field; nothing else refers to it.
    let rip = unsafe { &mut *context.add(UC_RIP).cast::<u64>() };
    if *rip == LANDING[0].load(Ordering::SeqCst) {
        *rip = LANDING[1].load(Ordering::SeqCst);
        LANDED.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let default = Action {
        handler: 0,
        mask: [0; 16],
        flags: 0,
        restorer: 0,
    };
    // SAFETY: the default action; the instruction faults again and ends the process.
    unsafe { sigaction(signal, &raw const default, std::ptr::null_mut()) };
}

/// On a stack of its own: the fragments' stack pointers point into their data.
fn catch_sigill() {
    const STACK_LEN: usize = 64 << 10;
    let stack = Stack {
        sp: Box::leak(vec![0u8; STACK_LEN].into_boxed_slice()).as_mut_ptr(),
        flags: 0,
        size: STACK_LEN,
    };
    let action = Action {
        handler: on_sigill as *const () as usize,
        mask: [0; 16],
        flags: SA_SIGINFO | SA_ONSTACK,
        restorer: 0,
    };
    // SAFETY: the stack is leaked, so it outlives the thread; the handler is async-signal-safe.
    let results = unsafe {
        [
            sigaltstack(&raw const stack, std::ptr::null_mut()),
            sigaction(SIGILL, &raw const action, std::ptr::null_mut()),
        ]
    };
    assert_eq!(results, [0, 0]);
}
