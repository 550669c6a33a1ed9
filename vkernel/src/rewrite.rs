//! Lazy rewriting of `syscall` sites.
//!
//! Only a site that has trapped is ever looked at, and only in file-backed private text that is not writable. How a site
//! can be rewritten, and the code of its trampoline, is `pegasus_loader::code`'s; here are the pages and the order of
//! stores. A site that cannot be rewritten keeps trapping: correct, and counted.
//!
//! **Invariant.** At every moment, a thread whose next instruction lies in or before a site either runs the old
//! bytes, or runs the jump, or faults (`int3`, or an invalid opcode: the placement of the trampoline puts one wherever
//! an instruction was displaced) and is sent to the place that means the same: [`Rewriter::resume_at_patched`].
//! Such a landing costs more than a trap, so a site where they outweigh the calls is restored.
//!
//! Lock order: [`Rewriter`], then [`crate::mm::Space`].
#![allow(unsafe_code)]

use crate::limits::TRAPS_BEFORE_REWRITE;
use crate::mm::Space;
use crate::task::{Process, Thread};
use crate::usermem::UserPtr;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use pegasus_abi::mman::{PAGE_LEN, PROT_EXEC, PROT_READ, PROT_WRITE, page_down};
use pegasus_abi::signal::SIGTRAP;
use pegasus_host::memory;
use pegasus_loader::code::{
    AFTER_LEN, BEFORE_LEN, Form, JMP_LEN, Patch, SYSCALL_LEN, TRAMPOLINE_LEN_MAX, Trampoline,
    analyse, placements, translate,
};
use pegasus_sync::{Lock, LockGuard};

/// How far from a site its trampoline may be: less than 2 GiB.
const REACH: usize = 0x7000_0000;
/// Trampolines stay above the addresses that Linux keeps free (`vm.mmap_min_addr`), so that null pointers fault.
const LOWEST_TRAMPOLINE: usize = 0x1_0000;
/// Candidate windows looked at before a site is given up.
const WINDOWS_MAX: usize = 20_000;
/// Trampolines stay out of so many bytes above the start of the heap as long as there is another place: brk(2) cannot
/// grow across one.
const HEAP_ROOM: usize = 1 << 30;
/// Every so many landings at a site it is asked whether rewriting it pays.
const LANDINGS_PER_REVIEW: u64 = 1024;
/// A landing costs about as much as so many calls gain: `#UD` and the signal, in a guest also the hypervisor's part.
const CALLS_PER_LANDING: u64 = 4;

#[derive(Debug, Clone, Copy)]
struct Rewritten {
    form: Form,
    trampoline: usize,
    patch: Patch,
    /// How many threads have come to a displaced instruction in another way than through the call.
    landings: u64,
    /// Calls from all rewritten sites of the process when the landings were last reviewed.
    calls: u64,
    /// The original bytes have been put back. The trampoline stays for who is inside, or has just faulted.
    is_restored: bool,
}

#[derive(Debug, Clone, Copy)]
enum Site {
    /// Trapped so many times.
    Counting(u32),
    Rewritten(Rewritten),
    Refused,
}

impl Rewritten {
    /// What `rip` stands for, if it is in the trampoline.
    fn original_address(&self, site: usize, rip: usize) -> Option<usize> {
        let trampoline = self.trampoline as u64;
        translate(&self.form, site as u64, trampoline, rip as u64).map(|address| address as usize)
    }

    /// Puts the original code back, if it is still there.
    fn restore(&mut self, process: &Process, site: usize) -> Option<()> {
        if self.is_restored || !is_text(process, &self.patch) {
            return None;
        }
        let original = self.form.original(site as u64);
        write_original(&original, process.is_single_threaded())?;
        self.is_restored = true;
        Some(())
    }
}

impl Site {
    fn rewritten(&self) -> Option<&Rewritten> {
        match self {
            Site::Rewritten(rewritten) => Some(rewritten),
            Site::Counting(_) | Site::Refused => None,
        }
    }
}

/// A page of trampolines and how much of it is used, as a list of taken ranges.
#[derive(Debug, Clone)]
struct Page {
    base: usize,
    taken: Vec<Range<usize>>,
}

impl Page {
    /// Its address, unless it is full.
    fn with_room(&self) -> Option<usize> {
        (self.taken.len() < PAGE_LEN / TRAMPOLINE_LEN_MAX).then_some(self.base)
    }
}

#[derive(Default)]
pub struct Inner {
    sites: BTreeMap<usize, Site>,
    /// Trampoline address → its site.
    trampolines: BTreeMap<usize, usize>,
    pages: Vec<Page>,
}

pub struct Rewriter {
    inner: Lock<Inner>,
    /// Bounds of all trampolines, so that most addresses can be told not to be one without the lock.
    lowest: AtomicUsize,
    highest: AtomicUsize,
    /// The program has installed a seccomp filter: it may kill whoever makes a call that the program itself does not.
    frozen: AtomicBool,
}

impl Rewriter {
    pub fn new() -> Rewriter {
        Self::with(Inner::default(), usize::MAX, 0)
    }

    fn with(inner: Inner, lowest: usize, highest: usize) -> Rewriter {
        Rewriter {
            inner: Lock::new(inner),
            lowest: AtomicUsize::new(lowest),
            highest: AtomicUsize::new(highest),
            frozen: AtomicBool::new(false),
        }
    }

    pub fn lock(&self) -> LockedRewriter<'_> {
        LockedRewriter {
            inner: self.inner.lock(),
            rewriter: self,
        }
    }

    /// Rewrites no further site: from now on the vkernel makes only the calls that the program makes.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Forgets everything: the program has been replaced, its pages are gone.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
        self.lowest.store(usize::MAX, Ordering::Relaxed);
        self.highest.store(0, Ordering::Relaxed);
    }

    /// Forgets what is in `range`, which is about to be unmapped or replaced, and what needs a trampoline in it. The
    /// original code is put back everywhere: the range may stay after all, when the call fails.
    ///
    /// The calling thread itself may have come from such a site, and goes on in the original code. Another thread that
    /// is in a call from a trampoline that goes is lost: a program has to replace, by MAP_FIXED, what it never mapped.
    ///
    /// A trampoline's room is not used again: a program may have copied the jump to it along with its own text.
    pub fn forget(&self, range: Range<usize>) {
        let range =
            page_down(range.start)..range.end.saturating_add(PAGE_LEN - 1) & !(PAGE_LEN - 1);
        let thread = Thread::current();
        let process = thread.process();
        let mut inner = self.inner.lock();
        let code = inner.sites.range(range.clone()).map(|(&site, _)| site);
        let reaching_in = range.start.saturating_sub(TRAMPOLINE_LEN_MAX)..range.end;
        let trampolines = inner.trampolines.range(reaching_in).map(|(_, &site)| site);
        let gone: Vec<usize> = code.chain(trampolines).collect();
        for site in gone {
            if let Some(Site::Rewritten(mut gone)) = inner.sites.remove(&site) {
                let _ = gone.restore(process, site);
                let resume = &mut thread.regs().resume;
                *resume = gone.original_address(site, *resume).unwrap_or(*resume);
                inner.trampolines.remove(&gone.trampoline);
            }
        }
        inner
            .pages
            .retain(|page| range.end <= page.base || page.base + PAGE_LEN <= range.start);
    }

    /// A call came in by a trap from the `syscall` at `site`: counts it, and rewrites the site when it is worth it.
    pub fn note_trap(&self, process: &Process, site: usize, nr: usize) {
        if self.frozen.load(Ordering::Relaxed) {
            return;
        }
        let mut inner = self.inner.lock();
        let entry = inner.sites.entry(site).or_insert(Site::Counting(0));
        match entry {
            Site::Counting(traps) if *traps < TRAPS_BEFORE_REWRITE => {
                *traps += 1;
                return;
            }
            Site::Counting(_) => {}
            Site::Rewritten(_) | Site::Refused => return,
        }
        let rewritten = inner.rewrite(process, site, nr);
        let counter = if rewritten.is_some() {
            &process.record().sites_rewritten
        } else {
            &process.record().sites_refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let state = match rewritten {
            Some(rewritten) => {
                let trampoline = rewritten.trampoline;
                self.lowest.fetch_min(trampoline, Ordering::Relaxed);
                self.highest
                    .fetch_max(trampoline + TRAMPOLINE_LEN_MAX, Ordering::Relaxed);
                inner.trampolines.insert(trampoline, site);
                Site::Rewritten(rewritten)
            }
            None => Site::Refused,
        };
        inner.sites.insert(site, state);
    }

    /// A thread faulted at `rip` with `signal`. If that is inside the bytes of a rewritten site: where it shall go on.
    pub fn resume_at_patched(&self, rip: usize, signal: u32) -> Option<usize> {
        let mut inner = self.inner.lock();
        if signal == SIGTRAP {
            // The int3 that stands at the start of a patch while it is being written.
            let at = rip.wrapping_sub(1);
            let mut near = inner.sites.range(at..at + 16);
            return near
                .find_map(|(_, site)| (site.rewritten()?.patch.addr as usize == at).then_some(at));
        }
        let (site, resume) = inner.displaced(rip)?;
        inner.note_landing(Thread::current().process(), site);
        Some(resume)
    }

    /// Where to go on for a program that is to continue at `rip`: the same, but for the instructions after a
    /// rewritten site that were moved away.
    pub fn resume_address(&self, rip: usize) -> usize {
        let displaced = self.inner.lock().displaced(rip);
        displaced.map_or(rip, |(_, resume)| resume)
    }

    /// The address in the program that `rip`, in a trampoline, stands for; else `rip`.
    pub fn original_address(&self, rip: usize) -> usize {
        if rip < self.lowest.load(Ordering::Relaxed) || rip >= self.highest.load(Ordering::Relaxed)
        {
            return rip;
        }
        let inner = self.inner.lock();
        let Some((_, site)) = inner.trampolines.range(..=rip).next_back() else {
            return rip;
        };
        let rewritten = inner.sites.get(site).and_then(Site::rewritten);
        rewritten
            .and_then(|rewritten| rewritten.original_address(*site, rip))
            .unwrap_or(rip)
    }
}

/// The rewriter with its lock held.
pub struct LockedRewriter<'a> {
    inner: LockGuard<'a, Inner>,
    rewriter: &'a Rewriter,
}

impl LockedRewriter<'_> {
    /// A child's copy, after `fork`: its memory has the same patches and trampolines.
    pub fn duplicate(&self) -> Rewriter {
        let copy = Inner {
            sites: self.inner.sites.clone(),
            trampolines: self.inner.trampolines.clone(),
            pages: self.inner.pages.clone(),
        };
        let duplicate = Rewriter::with(
            copy,
            self.rewriter.lowest.load(Ordering::Relaxed),
            self.rewriter.highest.load(Ordering::Relaxed),
        );
        duplicate.frozen.store(
            self.rewriter.frozen.load(Ordering::Relaxed),
            Ordering::Relaxed,
        );
        duplicate
    }
}

impl Inner {
    /// For the old address of an instruction that a rewritten site has displaced: the site, and the moved one.
    fn displaced(&self, rip: usize) -> Option<(usize, usize)> {
        (SYSCALL_LEN..JMP_LEN).find_map(|offset| {
            let site = rip.checked_sub(offset as usize)?;
            let rewritten = self.sites.get(&site)?.rewritten()?;
            let trampoline = rewritten.trampoline as u64;
            let moved = rewritten.form.displaced_at(trampoline, offset)?;
            Some((site, moved as usize))
        })
    }

    /// A thread has faulted at an instruction that `site` displaced. If that costs more than the calls from all sites
    /// together gain, rewriting this one is a loss for certain.
    fn note_landing(&mut self, process: &Process, site: usize) {
        let Some(Site::Rewritten(rewritten)) = self.sites.get_mut(&site) else {
            return;
        };
        rewritten.landings += 1;
        if rewritten.is_restored || !rewritten.landings.is_multiple_of(LANDINGS_PER_REVIEW) {
            return;
        }
        let calls = calls_from_rewritten(process);
        let pays = calls.wrapping_sub(rewritten.calls) >= CALLS_PER_LANDING * LANDINGS_PER_REVIEW;
        rewritten.calls = calls;
        if !pays && rewritten.restore(process, site).is_some() {
            let record = process.record();
            record.sites_refused.fetch_add(1, Ordering::Relaxed);
            record.sites_rewritten.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn rewrite(&mut self, process: &Process, site: usize, nr: usize) -> Option<Rewritten> {
        let around = process.space.lock().text_around(site, PAGE_LEN);
        let before = site.saturating_sub(BEFORE_LEN).max(around.start)..site;
        let after = site..(site + AFTER_LEN).min(around.end);
        if !around.contains(&site) {
            return None;
        }
        let form = analyse(&read(before)?, &read(after)?, nr as u64).ok()?;
        if self.touches_patch(&form, site) {
            return None;
        }
        let trampoline = self.place(process.space, &form, site)?;
        let code = form.emit(
            site as u64,
            trampoline as u64,
            pegasus_arch::gate::entry() as u64,
        )?;
        let patch = form.patch(site as u64, trampoline as u64)?;
        if !is_text(process, &patch) {
            return None;
        }
        write_trampoline(&code, trampoline)?;
        write_patch(&form, &patch, process.is_single_threaded())?;
        Some(Rewritten {
            form,
            trampoline,
            patch,
            landings: 0,
            calls: calls_from_rewritten(process),
            is_restored: false,
        })
    }

    /// Whether any of the instructions that `form` replaces is another site's patch: its bytes are not the program's.
    fn touches_patch(&self, form: &Form, site: usize) -> bool {
        let moved_len = match form {
            Form::MovBefore { .. } => 0,
            Form::DisplacedAfter { moved } => moved.len() as usize,
        };
        let start = form.patch_at(site as u64) as usize;
        let end = site + SYSCALL_LEN as usize + moved_len;
        // A patch begins at its site or a few bytes before.
        let near = start.saturating_sub(JMP_LEN as usize)..end + BEFORE_LEN;
        let mut others = self.sites.range(near).filter_map(|(_, s)| s.rewritten());
        others.any(|other| {
            let at = other.patch.addr as usize;
            at < end && start < at + JMP_LEN as usize
        })
    }

    /// Finds and takes room for the trampoline of `site`: in a page there is, or in a new one.
    fn place(&mut self, space: &Space, form: &Form, site: usize) -> Option<usize> {
        let bases: Vec<usize> = self.pages.iter().filter_map(Page::with_room).collect();
        for base in bases {
            let windows = placements(form, site as u64, base as u64, (base + PAGE_LEN) as u64);
            for window in windows {
                let place = self.room_in_page(space, window.start as usize, window.end as usize);
                if place.is_some() {
                    return place;
                }
            }
        }
        let low = site.saturating_sub(REACH).max(LOWEST_TRAMPOLINE);
        let high = site.saturating_add(REACH);
        let heap = space.lock().brk_start;
        let heap_end = heap.saturating_add(HEAP_ROOM);
        [
            low..heap.clamp(low, high),
            heap_end.clamp(low, high)..high,
            low..high,
        ]
        .into_iter()
        .find_map(|within| self.place_within(space, form, site, within))
    }

    fn place_within(
        &mut self,
        space: &Space,
        form: &Form,
        site: usize,
        within: Range<usize>,
    ) -> Option<usize> {
        let windows = placements(form, site as u64, within.start as u64, within.end as u64);
        for window in windows.take(WINDOWS_MAX) {
            // For a form without constraint the window is all there is in reach: look page by page.
            let mut start = window.start as usize;
            let end = window.end as usize;
            let mut pages = 0;
            while start < end && pages < WINDOWS_MAX {
                if let Some(place) =
                    self.room_in_page(space, start, end.min(page_down(start) + PAGE_LEN))
                {
                    return Some(place);
                }
                start = self.next_candidate(space, page_down(start) + PAGE_LEN, end);
                pages += 1;
            }
        }
        None
    }

    /// The next page start that is worth a look: skips what is mapped in one step.
    fn next_candidate(&self, space: &Space, from: usize, end: usize) -> usize {
        if end.saturating_sub(from) <= PAGE_LEN || self.pages.iter().any(|page| page.base == from) {
            return from;
        }
        space.lock().free_from(from, end).unwrap_or(end)
    }

    /// Room for a trampoline that starts in `start..end`, all of one page.
    fn room_in_page(&mut self, space: &Space, start: usize, end: usize) -> Option<usize> {
        let base = page_down(start);
        let last = end.min(base + PAGE_LEN + 1 - TRAMPOLINE_LEN_MAX);
        if last <= start {
            return None;
        }
        let index = match self.pages.iter().position(|page| page.base == base) {
            Some(index) => index,
            None => {
                space.lock().map_trampoline_page(base).ok()?;
                self.pages.push(Page {
                    base,
                    taken: Vec::new(),
                });
                self.pages.len() - 1
            }
        };
        let page = &mut self.pages[index];
        let fits = |at: usize| {
            let room = at..at + TRAMPOLINE_LEN_MAX;
            !page
                .taken
                .iter()
                .any(|taken| taken.start < room.end && room.start < taken.end)
        };
        let place = (start..last).step_by(16).find(|&at| fits(at))?;
        page.taken.push(place..place + TRAMPOLINE_LEN_MAX);
        Some(place)
    }
}

fn read(range: Range<usize>) -> Option<Vec<u8>> {
    let mut bytes = alloc::vec![0; range.len()];
    UserPtr(range.start).read_bytes(&mut bytes).ok()?;
    Some(bytes)
}

/// Makes the pages of `range` writable around `write`, without ever making them inexecutable.
fn with_writable(range: Range<usize>, write: impl FnOnce()) -> Option<()> {
    let start = page_down(range.start);
    let len = page_down(range.end + PAGE_LEN - 1) - start;
    // SAFETY: container text or trampolines; other threads may go on executing it.
    unsafe { memory::mprotect(start, len, PROT_READ | PROT_WRITE | PROT_EXEC) }.ok()?;
    write();
    // SAFETY: as above; this was the protection before.
    let _ = unsafe { memory::mprotect(start, len, PROT_READ | PROT_EXEC) };
    Some(())
}

fn write_trampoline(code: &Trampoline, at: usize) -> Option<()> {
    let bytes = code.bytes();
    with_writable(at..at + bytes.len(), || {
        // SAFETY: room taken for this trampoline alone; nothing jumps there yet.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) }
    })
}

/// Calls that came in from rewritten sites since the process began.
fn calls_from_rewritten(process: &Process) -> u64 {
    let shards = process.record().counters.iter();
    shards
        .map(|shard| shard.rewritten.load(Ordering::Relaxed))
        .fold(0, u64::wrapping_add)
}

fn is_text(process: &Process, patch: &Patch) -> bool {
    let start = patch.addr as usize;
    process
        .space
        .lock()
        .is_text(&(start..start + JMP_LEN as usize))
}

/// Code that is changed while other threads may be executing it, one byte at a time.
struct LiveCode {
    at: usize,
    alone: bool,
}

impl LiveCode {
    const INT3: u8 = 0xcc;

    /// `None` if the other CPUs cannot be made to see new code.
    fn new(patch: &Patch, alone: bool) -> Option<LiveCode> {
        if !alone && memory::sync_core().is_err() {
            return None;
        }
        Some(LiveCode {
            at: patch.addr as usize,
            alone,
        })
    }

    /// The page must be writable.
    fn put(&self, offset: usize, value: u8) {
        // SAFETY: one byte of container text, made writable around this; an atomic for the other threads' sake.
        unsafe { AtomicU8::from_ptr((self.at + offset) as *mut u8) }.store(value, Ordering::SeqCst);
    }

    /// Returns when no CPU executes what stood there before.
    fn settle(&self) {
        if !self.alone {
            let _ = memory::sync_core();
        }
    }

    fn put_and_settle(&self, offset: usize, value: u8) {
        self.put(offset, value);
        self.settle();
    }
}

/// Replaces the code at a site by the jump.
///
/// The order of Linux's `text_poke_bp`, with steps before: each byte at which a displaced instruction begins becomes
/// its invalid opcode on its own, so that nobody ever decodes a mixture.
fn write_patch(form: &Form, patch: &Patch, alone: bool) -> Option<()> {
    let code = LiveCode::new(patch, alone)?;
    with_writable(code.at..code.at + patch.bytes.len(), || {
        code.put_and_settle(0, LiveCode::INT3);
        for start in form.displaced_starts() {
            let start = start as usize;
            code.put_and_settle(start, patch.bytes[start]);
        }
        for (offset, &value) in patch.bytes.iter().enumerate().skip(1) {
            code.put(offset, value);
        }
        code.settle();
        code.put_and_settle(0, patch.bytes[0]);
    })
}

/// Puts the original code back: from its end, so that what follows a byte is complete when it appears.
fn write_original(original: &Patch, alone: bool) -> Option<()> {
    let code = LiveCode::new(original, alone)?;
    with_writable(code.at..code.at + original.bytes.len(), || {
        code.put_and_settle(0, LiveCode::INT3);
        for (offset, &value) in original.bytes.iter().enumerate().rev() {
            code.put_and_settle(offset, value);
        }
    })
}
