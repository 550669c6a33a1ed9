//! Lazy rewriting of `syscall` sites.
//!
//! Only a site that has trapped is ever looked at, and only in file-backed private text that is not writable. How a site
//! can be rewritten, and the code of its trampoline, is `pegasus_loader::code`'s; here are the pages and the order of
//! stores. A site that cannot be rewritten keeps trapping: correct, and counted.
//!
//! **Invariant.** At every moment, a thread whose next instruction lies in or before a site either runs the old
//! bytes, or runs the jump, or faults (`int3`, or the invalid opcode that the placement of the trampoline puts
//! after it) and is sent to the place that means the same: [`Rewriter::resume_at_patched`].
//!
//! Lock order: [`Rewriter`], then [`crate::mm::Space`].
#![allow(unsafe_code)]

use crate::limits::TRAPS_BEFORE_REWRITE;
use crate::mm::Space;
use crate::task::Process;
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
/// Candidate windows looked at before a site is given up.
const WINDOWS_MAX: usize = 20_000;

#[derive(Debug, Clone, Copy)]
enum Site {
    /// Trapped so many times.
    Counting(u32),
    Rewritten {
        form: Form,
        trampoline: usize,
        patch: Patch,
    },
    Refused,
}

/// A page of trampolines and how much of it is used, as a list of taken ranges.
#[derive(Debug, Clone)]
struct Page {
    base: usize,
    taken: Vec<Range<usize>>,
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

    /// Forgets the sites in `range`, which is about to be unmapped or replaced.
    pub fn forget(&self, range: Range<usize>) {
        let mut inner = self.inner.lock();
        let gone: Vec<usize> = inner.sites.range(range).map(|(&site, _)| site).collect();
        for site in gone {
            if let Some(Site::Rewritten { trampoline, .. }) = inner.sites.remove(&site) {
                inner.trampolines.remove(&trampoline);
                inner.release_room(trampoline);
            }
        }
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
            Site::Rewritten { .. } | Site::Refused => return,
        }
        let rewritten = inner.rewrite(process, site, nr);
        let counter = if rewritten.is_some() {
            &process.record().sites_rewritten
        } else {
            &process.record().sites_refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let state = match rewritten {
            Some((form, trampoline, patch)) => {
                self.lowest.fetch_min(trampoline, Ordering::Relaxed);
                self.highest
                    .fetch_max(trampoline + TRAMPOLINE_LEN_MAX, Ordering::Relaxed);
                inner.trampolines.insert(trampoline, site);
                Site::Rewritten {
                    form,
                    trampoline,
                    patch,
                }
            }
            None => Site::Refused,
        };
        inner.sites.insert(site, state);
    }

    /// A thread faulted at `rip` with `signal`. If that is inside the bytes of a rewritten site: where it shall go on.
    pub fn resume_at_patched(&self, rip: usize, signal: u32) -> Option<usize> {
        let inner = self.inner.lock();
        if signal == SIGTRAP {
            // The int3 that stands at the start of a patch while it is being written.
            let at = rip.wrapping_sub(1);
            return inner
                .sites
                .range(at..at + 16)
                .find_map(|(_, state)| match state {
                    Site::Rewritten { patch, .. } if patch.addr as usize == at => Some(at),
                    _ => None,
                });
        }
        inner.displaced(rip)
    }

    /// Where to go on for a program that is to continue at `rip`: the same, but for the instruction after a
    /// rewritten site that was moved away.
    pub fn resume_address(&self, rip: usize) -> usize {
        self.inner.lock().displaced(rip).unwrap_or(rip)
    }

    /// The address in the program that `rip`, in a trampoline, stands for; else `rip`.
    pub fn original_address(&self, rip: usize) -> usize {
        if rip < self.lowest.load(Ordering::Relaxed) || rip >= self.highest.load(Ordering::Relaxed)
        {
            return rip;
        }
        let inner = self.inner.lock();
        let Some((&trampoline, site)) = inner.trampolines.range(..=rip).next_back() else {
            return rip;
        };
        match inner.sites.get(site) {
            Some(Site::Rewritten { form, .. }) => {
                translate(form, *site as u64, trampoline as u64, rip as u64)
                    .map_or(rip, |original| original as usize)
            }
            _ => rip,
        }
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
    /// For an address just after a rewritten `syscall` whose next instruction was moved: the moved one.
    fn displaced(&self, rip: usize) -> Option<usize> {
        match self.sites.get(&rip.wrapping_sub(SYSCALL_LEN as usize))? {
            Site::Rewritten {
                form, trampoline, ..
            } => form
                .displaced_at(*trampoline as u64)
                .map(|address| address as usize),
            _ => None,
        }
    }

    fn rewrite(
        &mut self,
        process: &Process,
        site: usize,
        nr: usize,
    ) -> Option<(Form, usize, Patch)> {
        let around = process.space.lock().text_around(site, PAGE_LEN);
        let before = site.saturating_sub(BEFORE_LEN).max(around.start)..site;
        let after = site..(site + AFTER_LEN).min(around.end);
        if !around.contains(&site) {
            return None;
        }
        let form = analyse(&read(before)?, &read(after)?, nr as u64).ok()?;
        let trampoline = self.place(process.space, &form, site)?;
        let code = form.emit(
            site as u64,
            trampoline as u64,
            pegasus_arch::gate::entry() as u64,
        )?;
        let patch = form.patch(site as u64, trampoline as u64)?;
        let patched = patch.addr as usize..patch.addr as usize + JMP_LEN as usize;
        if !process.space.lock().is_text(&patched) {
            return None;
        }
        write_trampoline(&code, trampoline)?;
        write_patch(&patch, site, process.is_single_threaded())?;
        Some((form, trampoline, patch))
    }

    /// Finds and takes room for the trampoline of `site`.
    fn place(&mut self, space: &Space, form: &Form, site: usize) -> Option<usize> {
        let low = site.saturating_sub(REACH) as u64;
        let high = site.saturating_add(REACH) as u64;
        for window in placements(form, site as u64, low, high).take(WINDOWS_MAX) {
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

    fn release_room(&mut self, trampoline: usize) {
        if let Some(page) = self
            .pages
            .iter_mut()
            .find(|page| page.base == page_down(trampoline))
        {
            page.taken.retain(|taken| taken.start != trampoline);
        }
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

/// Replaces the code at a site by the jump, while other threads may be executing it.
///
/// The order of Linux's `text_poke_bp`, with one step before: the byte that a thread may come to after the `syscall` becomes
/// its invalid opcode on its own, so that nobody ever decodes a mixture.
fn write_patch(patch: &Patch, site: usize, alone: bool) -> Option<()> {
    const INT3: u8 = 0xcc;
    let at = patch.addr as usize;
    if !alone && memory::sync_core().is_err() {
        return None;
    }
    let byte = |offset: usize| {
        // SAFETY: one byte of container text, made writable around this; an atomic for the other threads' sake.
        unsafe { AtomicU8::from_ptr((at + offset) as *mut u8) }
    };
    let put = |offset: usize, value: u8| byte(offset).store(value, Ordering::SeqCst);
    let settle = || {
        if !alone {
            let _ = memory::sync_core();
        }
    };
    with_writable(at..at + patch.bytes.len(), || {
        put(0, INT3);
        settle();
        if at == site {
            put(SYSCALL_LEN as usize, patch.bytes[SYSCALL_LEN as usize]);
            settle();
        }
        for (offset, &value) in patch.bytes.iter().enumerate().skip(1) {
            put(offset, value);
        }
        settle();
        put(0, patch.bytes[0]);
        settle();
    })
}
