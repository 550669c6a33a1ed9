//! Which addresses a process has, and where new mappings go.
//!
//! The vkernel chooses every address: in a shared instance the kernel would otherwise place a container's
//! mappings anywhere between its neighbours'. What is mapped at an address, and with which
//! protection, only the kernel knows.
//!
//! Lock order: [`crate::rewrite::Rewriter`] before [`Space`]. The lock is held across the host's mmap(2), which is
//! serialised by the kernel anyway.
#![allow(unsafe_code)]

use crate::mm::RangeSet;
use alloc::collections::BTreeMap;
use core::ops::Range;
use pegasus_abi::mman::{
    MADV_DOFORK, MADV_DONTFORK, MAP_32BIT, MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE,
    MAP_HUGE_MASK, MAP_HUGE_SHIFT, MAP_HUGETLB, MAP_PRIVATE, MAP_TYPE, PAGE_LEN, PROT_EXEC,
    PROT_WRITE, is_page_aligned, page_up,
};
use pegasus_abi::{Errno, Result};
use pegasus_contract::layout::{SLOT_LEN, USER_END, VKERNEL_BASE, VKERNEL_END, slot_base};
use pegasus_host::memory;
use pegasus_sync::{Lock, LockGuard};

/// First address a program may map (`vm.mmap_min_addr` as distributions set it).
const LOW_WINDOW_START: usize = 0x1_0000;
/// MAP_32BIT means the first 2 GiB.
const LOW_WINDOW_32BIT_END: usize = 0x8000_0000;
/// In a shared instance the low window is this long and has one owner.
pub const LOW_WINDOW_END: usize = 0x1_0000_0000;
/// Large anonymous mappings start at a multiple of this, so that transparent huge pages fit.
const HUGE_PAGE_LEN: usize = 2 << 20;

/// The parts of the user address space that a process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All of it, but the vkernel's range: an own instance.
    Whole,
    /// One slot of a shared instance.
    Slot(usize),
}

impl Layout {
    /// Where the kernel's defaults would put things: programs low, then mappings, stack on top.
    pub fn main_range(self) -> Range<usize> {
        match self {
            Layout::Whole => 0x4000_0000_0000..0x7ff0_0000_0000,
            Layout::Slot(index) => {
                let base = slot_base(index).unwrap_or(USER_END - SLOT_LEN);
                base..base + SLOT_LEN
            }
        }
    }

    /// Where position-independent programs are loaded, before randomisation.
    pub fn program_base(self) -> usize {
        match self {
            Layout::Whole => 0x5555_0000_0000,
            Layout::Slot(_) => self.main_range().start + 0x100_0000,
        }
    }

    /// How many pages a load address may be shifted by.
    pub fn random_pages(self) -> usize {
        match self {
            Layout::Whole => 1 << 28,
            Layout::Slot(_) => 1 << 25,
        }
    }
}

pub struct Inner {
    layout: Layout,
    taken: RangeSet,
    /// What of `taken` is not this process's: the vdso, whatever else the kernel mapped.
    foreign: RangeSet,
    /// File-backed private text, not writable: where sites may be rewritten.
    text: RangeSet,
    /// Top of the area that new mappings are taken from.
    top: usize,
    /// Whether the low window is this process's.
    low_window: bool,
    /// In the instance's own address space, not a forked child's.
    is_resident: bool,
    pub brk_start: usize,
    pub brk: usize,
    /// mlockall(MCL_FUTURE): flags to add to each mapping.
    pub future_flags: usize,
    /// Where the stack may still grow to: taken, but not mapped yet.
    stack_growth: (usize, usize),
    /// System V segments by address: shmdt(2) does not say how long they are.
    segments: BTreeMap<usize, usize>,
}

pub struct Space {
    inner: Lock<Inner>,
}

impl Space {
    pub fn new(layout: Layout) -> Space {
        Space {
            inner: Lock::new(Inner::new(layout)),
        }
    }

    pub fn lock(&self) -> LockGuard<'_, Inner> {
        self.inner.lock()
    }
}

/// EINVAL or ENOMEM, as Linux has it, for a range that a container may not name.
pub fn checked_range(address: usize, len: usize) -> Result<Range<usize>> {
    let len = page_up(len).ok_or(Errno::ENOMEM)?;
    let end = address.checked_add(len).ok_or(Errno::ENOMEM)?;
    let in_vkernel = address < VKERNEL_END && end > VKERNEL_BASE;
    if end > USER_END || in_vkernel {
        Err(Errno::ENOMEM)
    } else {
        Ok(address..end)
    }
}

impl Inner {
    fn new(layout: Layout) -> Inner {
        // Allocates nothing: the first space of a process is made before its allocator can be used.
        Inner {
            layout,
            taken: RangeSet::new(),
            foreign: RangeSet::new(),
            text: RangeSet::new(),
            top: layout.main_range().end,
            low_window: layout == Layout::Whole,
            is_resident: true,
            brk_start: 0,
            brk: 0,
            future_flags: 0,
            stack_growth: (0, 0),
            segments: BTreeMap::new(),
        }
    }

    /// A child's copy, for `fork`.
    pub fn duplicate(&self) -> Space {
        Space {
            inner: Lock::new(Inner {
                layout: self.layout,
                taken: self.taken.clone(),
                foreign: self.foreign.clone(),
                text: self.text.clone(),
                segments: self.segments.clone(),
                is_resident: false,
                // Locks of memory are not inherited, mlock(2).
                future_flags: 0,
                ..*self
            }),
        }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Lowers the area for new mappings to below `top` (the stack, for example).
    pub fn set_top(&mut self, top: usize) {
        self.top = top;
    }

    /// Whether `range` lies where this process may map.
    pub fn allows(&self, range: &Range<usize>) -> bool {
        let main = match self.layout {
            Layout::Whole => 0..USER_END,
            Layout::Slot(_) => self.layout.main_range(),
        };
        let within = |window: &Range<usize>| window.start <= range.start && range.end <= window.end;
        let low = self.low_window && within(&(LOW_WINDOW_START..LOW_WINDOW_END));
        let vkernel = range.start < VKERNEL_END && range.end > VKERNEL_BASE;
        (within(&main) || low) && !vkernel
    }

    /// Makes the low window this process's, if it is free.
    pub fn claim_low_window(&mut self, record: u32) -> bool {
        use core::sync::atomic::Ordering;
        if !self.is_resident {
            // A child's address space is its own.
            self.low_window = true;
        }
        if !self.low_window {
            let owner = &crate::task::header().low_window_owner;
            self.low_window = owner
                .compare_exchange(0, record + 1, Ordering::AcqRel, Ordering::Relaxed)
                .map_or_else(|owner| owner == record + 1, |_| true);
        }
        self.low_window
    }

    /// Notes that `range` has been mapped. What neighbours must not inherit when they fork is marked so; the owner's own `fork`
    /// turns that round for a moment ([`Inner::with_inheritable`]).
    pub fn note_mapped(&mut self, range: Range<usize>, is_text: bool) {
        if self.has_neighbours() {
            advise(&range, MADV_DONTFORK);
        }
        if is_text {
            self.text.insert(range.clone());
        } else {
            self.text.remove(range.clone());
        }
        // Whatever the kernel had there has made room for it.
        self.foreign.remove(range.clone());
        self.taken.insert(range);
    }

    /// Whether other containers' processes share the address space.
    fn has_neighbours(&self) -> bool {
        self.is_resident && matches!(self.layout, Layout::Slot(_))
    }

    /// Runs `fork` while the kernel lets this process's mappings be inherited.
    pub fn with_inheritable<T>(&self, fork: impl FnOnce() -> T) -> T {
        if !self.has_neighbours() {
            return fork();
        }
        self.mapped()
            .iter()
            .for_each(|range| advise(&range, MADV_DOFORK));
        let forked = fork();
        self.mapped()
            .iter()
            .for_each(|range| advise(&range, MADV_DONTFORK));
        forked
    }

    /// Marks code that the kernel mapped as text whose sites may be rewritten.
    pub fn note_text(&mut self, range: Range<usize>) {
        self.text.insert(range);
    }

    /// Notes that `range` has been unmapped.
    pub fn note_unmapped(&mut self, range: Range<usize>) {
        self.text.remove(range.clone());
        self.taken.remove(range);
    }

    /// Notes a change of protection.
    pub fn note_protected(&mut self, range: Range<usize>, prot: usize) {
        if prot & PROT_WRITE != 0 || prot & PROT_EXEC == 0 {
            self.text.remove(range);
        }
    }

    pub fn is_text(&self, range: &Range<usize>) -> bool {
        self.text.covers(range)
    }

    /// The text range around `address`, at most `reach` bytes to either side.
    pub fn text_around(&self, address: usize, reach: usize) -> Range<usize> {
        self.text
            .iter()
            .find(|range| range.contains(&address))
            .map_or(address..address, |range| {
                range.start.max(address.saturating_sub(reach))..range.end.min(address + reach)
            })
    }

    pub fn is_taken(&self, range: &Range<usize>) -> bool {
        self.taken.overlaps(range)
    }

    /// All ranges mapped for this process.
    pub fn mapped(&self) -> RangeSet {
        let mut own = self.taken.clone();
        self.foreign.iter().for_each(|range| own.remove(range));
        own
    }

    /// Notes how far the stack, as it was mapped, may grow down.
    pub fn note_stack_growth(&mut self, range: Range<usize>) {
        self.stack_growth = (range.start, range.end);
    }

    /// [`Inner::mapped`] without the room that the stack has not grown into.
    pub fn occupied(&self) -> RangeSet {
        let mut occupied = self.mapped();
        occupied.remove(self.stack_growth.0..self.stack_growth.1);
        occupied
    }

    /// Marks a range as never to be used: the kernel has something of its own there.
    pub fn note_foreign(&mut self, range: Range<usize>) {
        self.foreign.insert(range.clone());
        self.taken.insert(range);
    }

    /// An address for a new mapping: the highest free one, or in the low window for MAP_32BIT.
    pub fn pick(&self, len: usize, flags: usize) -> Result<usize> {
        let main = self.layout.main_range();
        if flags & MAP_32BIT != 0 {
            let low = LOW_WINDOW_START..LOW_WINDOW_32BIT_END;
            let place = self
                .low_window
                .then(|| self.taken.find_free_high(len, PAGE_LEN, &low));
            return place.flatten().ok_or(Errno::ENOMEM);
        }
        let area = main.start..self.top;
        let aligned = match alignment(len, flags) {
            PAGE_LEN => None,
            align => self.taken.find_free_high(len, align, &area),
        };
        aligned
            .filter(|_| flags & MAP_HUGETLB != 0 || len >= HUGE_PAGE_LEN)
            .or_else(|| self.taken.find_free_high(len, PAGE_LEN, &area))
            .ok_or(Errno::ENOMEM)
    }

    /// mmap(2) as a container means it.
    pub fn map(
        &mut self,
        address: usize,
        len: usize,
        prot: usize,
        flags: usize,
        fd: usize,
        offset: usize,
    ) -> Result {
        let reserved = reserved_len(len, flags)?;
        let flags = flags | self.future_flags;
        let is_text = prot & PROT_EXEC != 0
            && prot & PROT_WRITE == 0
            && flags & MAP_ANONYMOUS == 0
            && flags & MAP_TYPE == MAP_PRIVATE;
        if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            if !is_page_aligned(address) {
                return Err(Errno::EINVAL);
            }
            let range = checked_range(address, reserved)?;
            if !self.allows(&range) {
                return Err(Errno::ENOMEM);
            }
            // SAFETY: the range is the container's own.
            let at = unsafe { memory::mmap(address, len, prot, flags, fd, offset)? };
            self.note_mapped(range, is_text);
            return Ok(at);
        }
        let hint = self.usable_hint(address, reserved, flags);
        loop {
            let place = match hint {
                Some(hint) if !self.is_taken(&(hint..hint + reserved)) => hint,
                _ => self.pick(reserved, flags)?,
            };
            let fixed = (flags & !MAP_32BIT) | MAP_FIXED_NOREPLACE;
            // SAFETY: NOREPLACE: nothing mapped is touched.
            match unsafe { memory::mmap(place, len, prot, fixed, fd, offset) } {
                // Something of the kernel's own (vdso, a stack that grew): not to be used.
                Err(Errno::EEXIST) => self.note_foreign(place..place + reserved),
                Err(Errno::EINVAL) if self.layout == Layout::Whole => {
                    return self.map_anywhere(len, prot, flags, fd, offset);
                }
                Err(error) => return Err(error),
                Ok(at) => {
                    self.note_mapped(at..at + reserved, is_text);
                    return Ok(at);
                }
            }
        }
    }

    /// mmap(2) at an address of the kernel's choice: some drivers (io_uring) take no other.
    fn map_anywhere(
        &mut self,
        len: usize,
        prot: usize,
        flags: usize,
        fd: usize,
        offset: usize,
    ) -> Result {
        // SAFETY: without MAP_FIXED nothing mapped is touched.
        let at = unsafe { memory::mmap(0, len, prot, flags, fd, offset)? };
        let range = at..at + page_up(len).ok_or(Errno::ENOMEM)?;
        if !self.allows(&range) {
            // SAFETY: just mapped, and known to nobody.
            let _ = unsafe { memory::munmap(at, len) };
            return Err(Errno::EINVAL);
        }
        self.note_mapped(range, false);
        Ok(at)
    }

    /// The hint of mmap(2), if it may be followed.
    fn usable_hint(&self, address: usize, len: usize, flags: usize) -> Option<usize> {
        let hint = pegasus_abi::mman::page_down(address);
        if hint < LOW_WINDOW_START || flags & MAP_32BIT != 0 {
            return None;
        }
        let hint = if flags & MAP_HUGETLB != 0 {
            page_up_to(hint, alignment(len, flags))?
        } else {
            hint
        };
        let range = checked_range(hint, len).ok()?;
        (self.allows(&range) && !self.is_taken(&range)).then_some(hint)
    }

    /// munmap(2).
    pub fn unmap(&mut self, address: usize, len: usize) -> Result {
        if !is_page_aligned(address) || len == 0 {
            return Err(Errno::EINVAL);
        }
        let range = checked_range(address, len).map_err(|_| Errno::EINVAL)?;
        if !self.allows(&range) {
            // Nothing of this container's is there; Linux succeeds for unmapped ranges.
            return Ok(0);
        }
        // SAFETY: the range is the container's own.
        let done = unsafe { memory::munmap(address, len)? };
        self.note_unmapped(range);
        Ok(done)
    }

    /// brk(2): the new break, or the old one when it cannot be moved.
    pub fn set_brk(&mut self, wanted: usize) -> usize {
        let (old_end, Some(new_end)) = (page_up(self.brk).unwrap_or(self.brk), page_up(wanted))
        else {
            return self.brk;
        };
        if wanted < self.brk_start {
            return self.brk;
        }
        let moved = if new_end > old_end {
            let grown = old_end..new_end;
            if self.is_taken(&grown) || !self.allows(&grown) {
                return self.brk;
            }
            let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | self.future_flags;
            let prot = pegasus_abi::mman::PROT_READ | PROT_WRITE;
            // SAFETY: NOREPLACE: nothing mapped is touched.
            unsafe { memory::mmap(old_end, grown.len(), prot, flags, usize::MAX, 0) }
                .map(|_| self.note_mapped(grown, false))
        } else if new_end < old_end {
            // SAFETY: the range is the heap of this container.
            unsafe { memory::munmap(new_end, old_end - new_end) }
                .map(|_| self.note_unmapped(new_end..old_end))
        } else {
            Ok(())
        };
        if moved.is_ok() {
            self.brk = wanted;
        }
        self.brk
    }

    /// Where the heap begins from now on.
    pub fn start_brk(&mut self, address: usize) {
        self.brk_start = address;
        self.brk = address;
    }

    /// Notes a System V segment, so that [`Inner::take_segment`] knows its length.
    pub fn note_segment(&mut self, address: usize, len: usize) {
        self.segments.insert(address, len);
        self.note_mapped(address..address + len, false);
    }

    /// Forgets the segment at `address`.
    pub fn take_segment(&mut self, address: usize) {
        if let Some(len) = self.segments.remove(&address) {
            self.note_unmapped(address..address + len);
        }
    }

    /// Unmaps everything of this process's and forgets it: the program is being replaced.
    pub fn unmap_all(&mut self) {
        for range in self.mapped().iter() {
            // SAFETY: the ranges are the container's own, and its program runs no more.
            let _ = unsafe { memory::munmap(range.start, range.len()) };
        }
        let foreign = core::mem::take(&mut self.foreign);
        let (layout, low_window) = (self.layout, self.low_window);
        let is_resident = self.is_resident;
        *self = Inner {
            low_window,
            is_resident,
            taken: foreign.clone(),
            foreign,
            ..Inner::new(layout)
        };
    }

    /// The first free page at or after `from`, before `end`.
    pub fn free_from(&self, from: usize, end: usize) -> Option<usize> {
        self.taken.find_free_low(PAGE_LEN, PAGE_LEN, &(from..end))
    }

    /// Takes a page within `within` for the vkernel's own use beside the program, if it is free.
    pub fn map_trampoline_page(&mut self, address: usize) -> Result<()> {
        let range = checked_range(address, PAGE_LEN)?;
        if !self.allows(&range) || self.is_taken(&range) {
            return Err(Errno::EEXIST);
        }
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        let prot = pegasus_abi::mman::PROT_READ | PROT_EXEC;
        // SAFETY: NOREPLACE: nothing mapped is touched.
        let mapped = unsafe { memory::mmap(address, PAGE_LEN, prot, flags, usize::MAX, 0) };
        match mapped {
            Ok(_) => self.note_mapped(range, false),
            Err(_) => self.note_foreign(range),
        }
        mapped.map(|_| ())
    }
}

fn advise(range: &Range<usize>, advice: usize) {
    // SAFETY: advice about inheritance changes no contents.
    let _ = unsafe { memory::madvise(range.start, range.len(), advice) };
}

fn page_up_to(value: usize, align: usize) -> Option<usize> {
    value.checked_add(align - 1).map(|sum| sum & !(align - 1))
}

/// The alignment that a mapping needs or wants.
fn alignment(len: usize, flags: usize) -> usize {
    if flags & MAP_HUGETLB != 0 {
        match (flags >> MAP_HUGE_SHIFT) & MAP_HUGE_MASK {
            0 => HUGE_PAGE_LEN,
            shift if shift < 40 => 1 << shift,
            _ => HUGE_PAGE_LEN,
        }
    } else if flags & MAP_ANONYMOUS != 0 && len >= HUGE_PAGE_LEN {
        HUGE_PAGE_LEN
    } else {
        PAGE_LEN
    }
}

/// What a mapping of `len` bytes takes of the address space. EINVAL and ENOMEM as mmap(2) has them.
fn reserved_len(len: usize, flags: usize) -> Result {
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    let align = if flags & MAP_HUGETLB != 0 {
        alignment(len, flags)
    } else {
        PAGE_LEN
    };
    page_up_to(len, align)
        .filter(|&len| len < USER_END)
        .ok_or(Errno::ENOMEM)
}
