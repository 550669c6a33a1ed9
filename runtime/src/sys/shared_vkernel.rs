//! The vkernel of a shared instance, in whose process this code runs: its home tasks, its records and
//! the memory that dead containers leave.

use super::futex;
use super::vkernel::{Vkernel, check, pointers};
use crate::anchor::plan::JoinPlan;
use crate::anchor::program::Program;
use crate::network;
use nix::errno::Errno;
use nix::sys::mman::{MmapAdvise, madvise, munmap};
use nix::unistd::Pid;
use pegasus_contract::boot::{self, BuryArgs, Operation, ReleaseHomeArgs, SpawnHomeArgs};
use pegasus_contract::layout::{ARENA_LEN, HEAP_BASE, SLOT_LEN, SLOTS_MAX, arena_base, slot_base};
use pegasus_contract::network::NetworkRecord;
use pegasus_contract::record::{
    ContainerRecord, ContainerState, HeapHeader, ProcessRecord, ProcessState,
};
use pegasus_contract::schedule::WorkerRecord;
use std::ffi::{CStr, CString, NulError, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a shared instance does with its vkernel. Exists only where image and heap are mapped.
#[derive(Debug, Clone, Copy)]
pub struct SharedVkernel {
    vkernel: Vkernel,
}

/// A home task that has just been cloned.
#[derive(Debug, Clone, Copy)]
pub struct Home {
    pub pid: Pid,
    /// Of the container's record.
    pub container: usize,
    pub slot: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewPidNamespace {
    Yes,
    No,
}

/// Descriptors that a home task takes over.
#[derive(Debug)]
pub struct JoinDescriptors<'a> {
    pub anchor: BorrowedFd<'a>,
    /// Become 0, 1, 2, 3 …; at least three.
    pub inherited: Vec<BorrowedFd<'a>>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("a text has a NUL inside")]
    Nul(#[from] NulError),
    #[error("fewer than three descriptors for the program")]
    Descriptors,
    #[error("the home task failed")]
    Home(#[source] Errno),
}

/// Where fixed-address programs of one container at a time are loaded.
const LOW_WINDOW: std::ops::Range<usize> = 0x1_0000..0x1_0000_0000;

impl SharedVkernel {
    /// `vkernel` must have been started in this process.
    pub fn new(vkernel: Vkernel) -> Self {
        SharedVkernel { vkernel }
    }

    pub fn header(&self) -> &'static HeapHeader {
        // SAFETY: the heap is mapped for as long as this process lives, and its header consists of
        // atomics only.
        unsafe { &*(HEAP_BASE as *const HeapHeader) }
    }

    pub fn container(&self, index: usize) -> &'static ContainerRecord {
        &self.header().containers[index]
    }

    pub fn network(&self, container: usize) -> &'static NetworkRecord {
        &self.header().networks[container]
    }

    /// Clones a home task. It dies with the calling thread.
    pub fn spawn_home(&self, id: &CStr, namespace: NewPidNamespace) -> Result<Home, Errno> {
        let mut arguments = SpawnHomeArgs {
            container_id: id.as_ptr().cast(),
            container_index: 0,
            new_pid_namespace: u32::from(namespace == NewPidNamespace::Yes),
        };
        let pid = check(self.vkernel.call(Operation::SpawnHome, &mut arguments))?;
        let container = arguments.container_index as usize;
        // What lies in the heap may have been written by container code.
        let process = self.container(container).process.load(Ordering::Relaxed);
        let process = self.header().processes.get(process as usize);
        let slot = process.map(|process| process.slot.load(Ordering::Relaxed) as usize);
        let slot = slot.filter(|slot| *slot < SLOTS_MAX).ok_or(Errno::EIO)?;
        Ok(Home {
            pid: Pid::from_raw(pid),
            container,
            slot,
        })
    }

    /// Lets a home task join its container and load the program; returns when it has.
    pub fn release_home(
        &self,
        container: usize,
        plan: &JoinPlan,
        program: &Program,
        descriptors: &JoinDescriptors<'_>,
    ) -> Result<(), ReleaseError> {
        let strings = |list: &[String]| -> Result<Vec<CString>, NulError> {
            list.iter()
                .map(|text| CString::new(text.as_str()))
                .collect()
        };
        let path = CString::new(program.path.as_str())?;
        let (argv, envp) = (strings(&program.argv)?, strings(&program.envp)?);
        let (argv, envp) = (pointers(&argv), pointers(&envp));
        let cwd = CString::new(plan.cwd.as_str())?;
        let profile = plan.apparmor_profile.as_deref().map(CString::new);
        let profile = profile.transpose()?;
        self.container(container)
            .stays_home
            .store(u32::from(plan.stays_home), Ordering::Relaxed);
        let numbers: Vec<RawFd> = descriptors
            .inherited
            .iter()
            .map(AsRawFd::as_raw_fd)
            .collect();
        let (stdio, preserved) = numbers
            .split_first_chunk::<3>()
            .ok_or(ReleaseError::Descriptors)?;
        let limits = limits(plan);
        let mut join = join_plan(plan, descriptors.anchor, &cwd, *stdio, preserved, &limits);
        join.apparmor_profile = profile
            .as_ref()
            .map_or(ptr::null(), |profile| profile.as_ptr().cast());
        let mut arguments = ReleaseHomeArgs {
            container_index: container as u32,
            _reserved: 0,
            program: boot::Program {
                path: path.as_ptr().cast(),
                argv: argv.as_ptr().cast(),
                envp: envp.as_ptr().cast(),
            },
            join: &raw const join,
        };
        check(self.vkernel.call(Operation::ReleaseHome, &mut arguments))
            .map(drop)
            .map_err(ReleaseError::Home)
    }

    /// Lets a home task that has announced its end go.
    pub fn let_go(&self, container: usize) {
        let release = &self.container(container).release;
        release.store(1, Ordering::Release);
        futex::wake_all(release);
    }

    /// Gives back what a container had whose processes are all gone.
    pub fn reclaim(&self, home: &Home) {
        let header = self.header();
        if !self.evict(home.container) {
            // A worker still uses that memory: better lost than torn away.
            tracing::error!(
                "slot {}: a worker does not let go of the container's threads; its memory is not used again",
                home.slot
            );
            return;
        }
        self.bury(home.container);
        unmap_slot(home.slot);
        for (index, process) in header.processes.iter().enumerate() {
            if is_of(process, home.container) {
                self.free_low_window(index);
                forget_arena(index);
                process
                    .state
                    .store(ProcessState::Free as u32, Ordering::Release);
            }
        }
        network::record::clear(self.network(home.container));
        header.slots.fetch_and(!(1 << home.slot), Ordering::AcqRel);
        self.container(home.container)
            .state
            .store(ContainerState::Free as u32, Ordering::Release);
    }

    /// Closes the sockets and sets that processes had which were killed. Their records have been marked as gone.
    fn bury(&self, container: usize) {
        let mut arguments = BuryArgs {
            container_index: container as u32,
        };
        if let Err(errno) = check(self.vkernel.call(Operation::Bury, &mut arguments)) {
            tracing::error!("container record {container}: its connections stay: {errno}");
        }
    }

    /// Makes the workers forget the threads of a container whose home tasks are gone. Tells whether they have.
    fn evict(&self, container: usize) -> bool {
        const PAUSE: Duration = Duration::from_micros(50);
        const PATIENCE: Duration = Duration::from_secs(5);
        /// One may have begun before the mark was set, and the last one may end without having looked at the mark again.
        const ROUNDS: u64 = 3;
        let header = self.header();
        let records = || {
            let all = header.processes.iter().enumerate();
            all.filter(|(_, process)| is_of(process, container))
        };
        for (_, process) in records() {
            process.is_gone.store(1, Ordering::SeqCst);
        }
        let arenas: Vec<_> = records()
            .map(|(index, _)| arena_base(index) as u64..(arena_base(index) + ARENA_LEN) as u64)
            .collect();
        let start = Instant::now();
        let lets_go = |worker: &WorkerRecord| {
            // What the worker has taken just now it finds marked.
            worker.inbox.withdraw(&arenas);
            let seen = worker.rounds.load(Ordering::Acquire);
            while worker.is_at_work()
                && !worker.inbox.is_asleep()
                && worker.rounds.load(Ordering::Acquire).wrapping_sub(seen) < ROUNDS
            {
                if start.elapsed() > PATIENCE {
                    return false;
                }
                worker.attention.store(1, Ordering::Release);
                header.schedule.doorbell.fetch_add(1, Ordering::Release);
                futex::wake_all(&header.schedule.doorbell);
                std::thread::sleep(PAUSE);
            }
            true
        };
        header.schedule.workers.iter().all(|worker| {
            worker.hurry.store(1, Ordering::Relaxed);
            let done = lets_go(worker);
            worker.hurry.store(0, Ordering::Relaxed);
            done
        })
    }

    fn free_low_window(&self, process: usize) {
        let owner = &self.header().low_window_owner;
        if owner.load(Ordering::Acquire) == process as u32 + 1 {
            unmap(LOW_WINDOW.start, LOW_WINDOW.len());
            owner.store(0, Ordering::Release);
        }
    }
}

fn is_of(process: &ProcessRecord, container: usize) -> bool {
    process.state.load(Ordering::Acquire) != ProcessState::Free as u32
        && process.container.load(Ordering::Relaxed) as usize == container
}

fn limits(plan: &JoinPlan) -> Vec<boot::Rlimit> {
    plan.limits
        .iter()
        .map(|limit| boot::Rlimit {
            resource: limit.resource,
            _reserved: 0,
            soft: limit.soft,
            hard: limit.hard,
        })
        .collect()
}

/// The plan as the vkernel takes it; it points into the arguments.
fn join_plan(
    plan: &JoinPlan,
    anchor: BorrowedFd<'_>,
    cwd: &CStr,
    stdio: [RawFd; 3],
    preserved: &[RawFd],
    limits: &[boot::Rlimit],
) -> boot::JoinPlan {
    /// Of its pid namespace a task is a member from birth; user and time namespaces are never fused.
    const NAMESPACES: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWCGROUP;
    let filter = plan.filter.as_ref();
    let instructions = filter.map_or(&[][..], |filter| &filter.instructions);
    boot::JoinPlan {
        anchor_pidfd: anchor.as_raw_fd(),
        namespaces: NAMESPACES.cast_unsigned(),
        stdio,
        preserved_fds_len: preserved.len() as u32,
        preserved_fds: preserved.as_ptr(),
        terminal: u32::from(plan.terminal),
        umask: plan.umask,
        cwd: cwd.as_ptr().cast(),
        uid: plan.uid,
        gid: plan.gid,
        groups_len: plan.groups.len() as u32,
        no_new_privileges: u32::from(plan.no_new_privileges),
        groups: plan.groups.as_ptr(),
        cap_bounding: plan.capabilities.bounding,
        cap_permitted: plan.capabilities.permitted,
        cap_effective: plan.capabilities.effective,
        cap_inheritable: plan.capabilities.inheritable,
        cap_ambient: plan.capabilities.ambient,
        rlimits: limits.as_ptr(),
        rlimits_len: limits.len() as u32,
        seccomp_flags: filter.map_or(0, |filter| filter.flags),
        seccomp_filter: instructions.as_ptr(),
        seccomp_filter_len: instructions.len() as u32,
        _reserved: 0,
        apparmor_profile: ptr::null(),
    }
}

fn unmap_slot(slot: usize) {
    if let Some(base) = slot_base(slot) {
        unmap(base, SLOT_LEN);
    }
}

/// Unmaps a range that belonged to a container.
fn unmap(start: usize, len: usize) {
    let Some(address) = NonNull::new(start as *mut c_void) else {
        return;
    };
    // SAFETY: only container code and its vkernel threads used the range, and they are gone; nothing
    // of this program is ever mapped there.
    if let Err(errno) = unsafe { munmap(address, len) } {
        tracing::warn!("cannot unmap {start:#x}: {errno}");
    }
}

/// Gives the pages of a process's arena back to the host.
fn forget_arena(process: usize) {
    let Some(address) = NonNull::new(arena_base(process) as *mut c_void) else {
        return;
    };
    // SAFETY: the arena belonged to a process that is gone; the next owner starts with zeros.
    if let Err(errno) = unsafe { madvise(address, ARENA_LEN, MmapAdvise::MADV_REMOVE) } {
        tracing::warn!("cannot empty arena {process}: {errno}");
    }
}
