//! The new program: everything of the old one goes, its image is mapped and its stack built.
#![allow(unsafe_code)]

use crate::exec::Prepared;
use crate::exec::image::OpenImage;
use crate::limits::{STACK_GUARD_LEN, STACK_LEN_MAX, STACK_LEN_MIN};
use crate::mm::{Layout, SpaceInner};
use crate::signal::is_kept;
use crate::socket::descriptors::Table;
use crate::task::{Process, Thread, header, instance_kind};
use crate::usermem::UserPtr;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use pegasus_abi::clone::CLONE_FILES;
use pegasus_abi::mman::{
    MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_PRIVATE, MAP_STACK, PAGE_LEN, PROT_EXEC,
    PROT_READ, PROT_WRITE, page_down, page_up,
};
use pegasus_abi::prctl::{
    ADDR_NO_RANDOMIZE, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NAME, PrctlMmMap, RLIMIT_STACK,
};
use pegasus_abi::signal::{SIG_DFL, SIG_IGN, SIGNALS_MAX, SigAction, StackT};
use pegasus_abi::{Errno, Result};
use pegasus_arch::regs::Regs;
use pegasus_contract::boot::InstanceKind;
use pegasus_host::{file, memory, process as host};
use pegasus_loader::elf::Kind;
use pegasus_loader::stack::{self, StackImage, StackInput};

/// RFLAGS of a new program: only the always-set bit and interrupts.
const FLAGS_AT_START: usize = 0x202;
/// Bytes of stack mapped at first beyond what the arguments take; the kernel grows it.
const STACK_HEADROOM: usize = 128 << 10;
/// How far the top of the area for mappings is moved down at random, in pages: up to 64 GiB.
const TOP_RANDOM_PAGES: usize = 1 << 24;
/// How far the top of the stack is moved down at random, in pages.
const STACK_RANDOM_PAGES: usize = 1 << 14;

/// Replaces the calling thread's program, which must be the only thread. From here on, failure kills.
pub fn load(thread: &'static Thread, program: Prepared) {
    let process = thread.process();
    // Linux closes in a table of the process's own, too. Not shared: nothing to do; forbidden: then it stays shared.
    let _ = host::unshare(CLONE_FILES);
    close_on_exec(&program);
    reset_signals(thread);
    process.delete_timers();
    host::forget_thread_memory();
    process.rewriter.clear();
    process.futexes.reset(process.has_filter());
    process.space.lock().unmap_all();
    match try_load(process, &program) {
        Ok((entry, sp)) => {
            set_identity(process, &program);
            enter(thread, entry, sp);
        }
        Err(_) => {
            // Linux, past the point of no return: SIGSEGV, whatever its action.
            crate::signal::deliver::force_segv(thread, pegasus_abi::signal::SIGSEGV);
            pegasus_host::signal::set_mask(0);
            host::exit_group(127);
        }
    }
}

/// Prepares the saved registers so that the way out of the vkernel leads into the program.
fn enter(thread: &'static Thread, entry: usize, sp: usize) {
    *thread.regs() = Regs {
        rip: entry,
        resume: entry,
        rsp: sp,
        flags: FLAGS_AT_START,
        ..Regs::default()
    };
    // SAFETY: this thread's own; no Rust code relies on FPU registers across this point.
    unsafe {
        *thread.area.xmm.get() = [0; 16];
        pegasus_arch::task::reset_fpu();
    }
    pegasus_arch::task::clear_fs();
}

fn close_on_exec(program: &Prepared) {
    let keep = [Some(&program.main), program.interpreter.as_ref()]
        .map(|image| image.map(|image| image.file.number()));
    for fd in crate::procfs::open_descriptors() {
        let is_ours = keep.contains(&Some(fd));
        if !is_ours && file::descriptor_flags(fd).is_ok_and(|flags| flags & 1 != 0) {
            Table::current().clear(fd);
            file::close(fd);
        }
    }
}

/// Handlers become the default action; ignored signals stay ignored.
fn reset_signals(thread: &Thread) {
    let mut actions = thread.process().actions.lock();
    for signal in 1..=SIGNALS_MAX {
        let action = &mut actions[signal as usize - 1];
        let ignored = action.handler == SIG_IGN;
        if !ignored && action.handler != SIG_DFL && !is_kept(signal) {
            // SAFETY: the default action runs no code.
            let _ =
                unsafe { pegasus_host::signal::action(signal, Some(&SigAction::default()), None) };
        }
        *action = SigAction {
            handler: if ignored { SIG_IGN } else { SIG_DFL },
            ..SigAction::default()
        };
    }
    thread.altstack.set(StackT::DISABLED);
}

/// Maps everything; gives entry point and stack pointer.
fn try_load(process: &'static Process, program: &Prepared) -> Result<(usize, usize)> {
    let mut space = process.space.lock();
    let main = space.layout().main_range();
    space.set_top(main.end - PAGE_LEN * random_below(TOP_RANDOM_PAGES));
    let bias = place(&mut space, &program.main, process.record_index())?;
    program.main.map(&mut space, bias)?;
    let (entry, interpreter_base) = match &program.interpreter {
        None => (program.main.elf.entry.wrapping_add(bias), 0),
        Some(interpreter) => {
            let range = interpreter.range(0);
            let base = space.pick(range.len(), 0)?;
            let bias = interpreter.elf.bias_for(base as u64);
            interpreter.map(&mut space, bias)?;
            (interpreter.elf.entry.wrapping_add(bias), base as u64)
        }
    };
    let brk = program.main.elf.brk_start(bias) as usize;
    space.start_brk(brk + PAGE_LEN * random_below(0x2000));
    let built = build_stack(&mut space, program, bias, interpreter_base)?;
    note_vdso(&mut space);
    let range = program.main.range(bias);
    process.program.set(PrctlMmMap {
        start_code: range.start as u64,
        end_code: range.end as u64,
        start_data: range.start as u64,
        end_data: range.end as u64,
        start_brk: space.brk_start as u64,
        brk: space.brk as u64,
        start_stack: built.sp,
        arg_start: built.argv_start,
        arg_end: built.argv_end,
        env_start: built.env_start,
        env_end: built.env_end,
        auxv: built.auxv_start,
        auxv_size: built.auxv_len as u32,
        exe_fd: u32::MAX,
    });
    Ok((entry as usize, built.sp as usize))
}

/// Without a usable clock source, the vdso's clocks make system calls: those sites may be rewritten too. Not in a shared
/// instance, where the vdso is common and out of reach of a slot's trampolines.
fn note_vdso(space: &mut SpaceInner) {
    const VDSO_TEXT_LEN: usize = 2 * PAGE_LEN;
    let vdso = header()
        .auxv
        .iter()
        .find(|pair| pair[0].load(Ordering::Relaxed) == stack::AT_SYSINFO_EHDR);
    if let (Some(vdso), Layout::Whole) = (vdso, space.layout()) {
        let start = vdso[1].load(Ordering::Relaxed) as usize;
        space.note_text(start..start + VDSO_TEXT_LEN);
    }
}

/// Chooses where the main program goes; gives its bias.
fn place(space: &mut SpaceInner, main: &OpenImage, record: u32) -> Result<u64> {
    if main.elf.kind == Kind::Exec {
        let range = main.range(0);
        let low = range.end <= crate::mm::LOW_WINDOW_END;
        if (low && !space.claim_low_window(record))
            || !space.allows(&range)
            || space.is_taken(&range)
        {
            return Err(Errno::ENOMEM);
        }
        return Ok(0);
    }
    let layout: Layout = space.layout();
    let align = main.elf.align_max as usize;
    let wanted = layout.program_base() + PAGE_LEN * random_below(layout.random_pages());
    let base = wanted & !(align - 1);
    Ok(main.elf.bias_for(base as u64))
}

/// Whether the fixed addresses of an image are free to this process.
pub fn fits(process: &Process, main: &OpenImage) -> bool {
    if main.elf.kind == Kind::Dyn {
        return true;
    }
    let mut space = process.space.lock();
    let range = main.range(0);
    let low = range.end <= crate::mm::LOW_WINDOW_END;
    (!low || space.claim_low_window(process.record_index())) && space.allows(&range)
}

fn random_below(bound: usize) -> usize {
    if host::personality() & ADDR_NO_RANDOMIZE != 0 {
        return 0;
    }
    let mut bytes = [0; 8];
    host::random(&mut bytes);
    usize::from_le_bytes(bytes) % bound
}

/// Maps the stack and writes its first contents.
fn build_stack(
    space: &mut SpaceInner,
    program: &Prepared,
    bias: u64,
    interpreter_base: u64,
) -> Result<StackImage> {
    let limit = host::limit(0, RLIMIT_STACK)?.soft;
    let reserved = limit.clamp(STACK_LEN_MIN as u64, STACK_LEN_MAX as u64) as usize;
    let reserved = page_up(reserved).ok_or(Errno::ENOMEM)?;
    let whole = reserved + STACK_GUARD_LEN;
    let place = space.pick(whole, 0)?;
    let top =
        place + whole - PAGE_LEN * random_below(STACK_RANDOM_PAGES.min(reserved / PAGE_LEN / 8));

    let image = stack_image(program, bias, interpreter_base, top as u64, limit)?;
    let needed = page_up(image.bytes.len() + STACK_HEADROOM).ok_or(Errno::ENOMEM)?;
    let bottom = page_down(top - needed.min(reserved - PAGE_LEN));
    let exec = if program.main.elf.stack_executable {
        PROT_EXEC
    } else {
        0
    };
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE: nothing mapped is touched.
    unsafe {
        memory::mmap(
            bottom,
            page_up(top).unwrap_or(top) - bottom,
            PROT_READ | PROT_WRITE | exec,
            flags,
            usize::MAX,
            0,
        )?;
    }
    space.note_mapped(place..place + whole, false);
    space.note_stack_growth(place..bottom);
    space.set_top(place);
    UserPtr(image.sp as usize).write_bytes(&image.bytes)?;
    Ok(image)
}

fn stack_image(
    program: &Prepared,
    bias: u64,
    interpreter_base: u64,
    top: u64,
    limit: u64,
) -> Result<StackImage> {
    let elf = &program.main.elf;
    let (uid, euid, _) = host::user_ids();
    let (gid, egid, _) = host::group_ids();
    let mut aux: Vec<(u64, u64)> = header()
        .auxv
        .iter()
        .map(|pair| {
            (
                pair[0].load(Ordering::Relaxed),
                pair[1].load(Ordering::Relaxed),
            )
        })
        .take_while(|(kind, _)| *kind != 0)
        .filter(|(kind, _)| is_from_host(*kind))
        .collect();
    aux.extend([
        (stack::AT_PHDR, elf.phdr_vaddr.wrapping_add(bias)),
        (stack::AT_PHENT, 56),
        (stack::AT_PHNUM, u64::from(elf.phnum)),
        (stack::AT_BASE, interpreter_base),
        (stack::AT_FLAGS, 0),
        (stack::AT_ENTRY, elf.entry.wrapping_add(bias)),
        (stack::AT_UID, u64::from(uid)),
        (stack::AT_EUID, u64::from(euid)),
        (stack::AT_GID, u64::from(gid)),
        (stack::AT_EGID, u64::from(egid)),
        (stack::AT_SECURE, 0),
    ]);
    let mut random = [0; 16];
    host::random(&mut random);
    let argv: Vec<&[u8]> = program.strings.argv.iter().map(Vec::as_slice).collect();
    let envp: Vec<&[u8]> = program.strings.envp.iter().map(Vec::as_slice).collect();
    stack::build(&StackInput {
        argv: &argv,
        envp: &envp,
        execfn: &program.exec_name,
        platform: b"x86_64",
        random,
        aux: &aux,
        top,
        stack_limit: limit,
    })
    .map_err(|error| Errno(error.errno()))
}

/// Entries that describe the machine, not the program. Not AT_RSEQ_*: rseq is not offered.
fn is_from_host(kind: u64) -> bool {
    matches!(
        kind,
        stack::AT_SYSINFO_EHDR
            | stack::AT_MINSIGSTKSZ
            | stack::AT_HWCAP
            | stack::AT_HWCAP2
            | stack::AT_HWCAP3
            | stack::AT_HWCAP4
            | stack::AT_PAGESZ
            | stack::AT_CLKTCK
    )
}

/// Makes `/proc/pid/exe` name the program. Linux allows that once nothing of the old file is mapped, with CAP_CHECKPOINT_RESTORE,
/// which the runtime leaves a first process until its capabilities are set; a later program keeps the old name.
fn name_file(process: &Process, program: &Prepared) {
    let mut map = process.program.get();
    map.exe_fd = program.main.file.number() as u32;
    let _ = host::set_mm_map(&map);
}

/// Name, capabilities and what `/proc` shows.
fn set_identity(process: &Process, program: &Prepared) {
    if instance_kind() == InstanceKind::Own {
        name_file(process, program);
    }
    let _ = host::set_capabilities(&program.capabilities);
    let name = program
        .exec_name
        .rsplit(|&byte| byte == b'/')
        .next()
        .unwrap_or(b"");
    let mut comm = [0u8; 16];
    let len = name.len().min(15);
    comm[..len].copy_from_slice(&name[..len]);
    // SAFETY: the kernel reads 16 bytes of `comm`; the other options take plain values.
    unsafe {
        let _ = host::prctl(PR_SET_NAME, comm.as_ptr() as usize, 0, 0, 0);
        let _ = host::prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
        if process.has_neighbours() {
            process.dumpable.store(1, Ordering::Relaxed);
        } else {
            let _ = host::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
        }
    }
    process.set_exe(&program.exe_path);
    show_program(process);
}

/// Tells the kernel where the program's strings lie, for `/proc/pid/cmdline` and its like.
pub fn show_program(process: &Process) {
    if !process.has_neighbours() {
        let _ = host::set_mm_map(&process.program.get());
    }
}

/// The length that arguments may have, so that execve(2) can refuse before the point of no return.
pub fn check_args(program: &Prepared) -> Result<()> {
    let limit = host::limit(0, RLIMIT_STACK)?.soft;
    let top = pegasus_contract::layout::USER_END as u64 & !0xf;
    stack_image(program, 0, 0, top, limit).map(|_| ())
}
