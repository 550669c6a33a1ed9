//! The descriptor table of a process: which numbers stand for sockets and epoll sets that the vkernel knows.
//!
//! Linux's table stays the truth about what is open. An entry here is set when the vkernel sees a number come into being and
//! taken away before Linux closes it; so a number that Linux gives out anew never has an old entry.
//!
//! Unsafe here: it makes references out of addresses.
#![allow(unsafe_code)]

use crate::epoll;
use crate::socket::lifecycle;
use crate::socket::pools::Pooled;
use crate::task::{Process, Thread, header};
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_contract::layout::{DESCRIPTORS_MAX, PROCESSES_MAX, descriptors_base};
use pegasus_contract::socket::{SetRecord, SocketRecord, descriptor};

/// What a number stands for.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Linux's alone.
    None,
    Socket(&'static SocketRecord),
    Set(&'static SetRecord),
}

impl Entry {
    fn of(word: u32) -> Entry {
        let index = word & !descriptor::KIND;
        match word & descriptor::KIND {
            descriptor::SOCKET => SocketRecord::at(index).map_or(Entry::None, Entry::Socket),
            descriptor::SET => SetRecord::at(index).map_or(Entry::None, Entry::Set),
            _ => Entry::None,
        }
    }

    fn word(self) -> u32 {
        match self {
            Entry::None => descriptor::NONE,
            Entry::Socket(socket) => descriptor::SOCKET | socket.index(),
            Entry::Set(set) => descriptor::SET | set.index(),
        }
    }

    /// One more number stands for it.
    fn hold(self) {
        match self {
            Entry::None => {}
            Entry::Socket(socket) => {
                socket.descriptors.fetch_add(1, Ordering::Relaxed);
            }
            Entry::Set(set) => {
                set.descriptors.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One number less stands for it. `fd` is one that still does, for Linux, if the caller has it.
    /// `holder`: see [`lifecycle::take_as`].
    fn let_go(self, fd: Option<usize>, holder: u32) {
        match self {
            Entry::None => {}
            Entry::Socket(socket) => {
                if socket.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
                    lifecycle::close(socket, fd, holder);
                }
            }
            Entry::Set(set) => {
                if set.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
                    epoll::set::destroy(set, holder);
                }
            }
        }
    }
}

/// The table of the process with this record.
#[derive(Clone, Copy)]
pub struct Table {
    record: usize,
}

impl Table {
    /// The table for a record index; a process without a record of its own has an empty one.
    pub fn of_record(index: u32) -> Table {
        Table {
            record: (index as usize).min(PROCESSES_MAX),
        }
    }

    pub fn of(process: &Process) -> Table {
        Self::of_record(process.record_index())
    }

    pub fn current() -> Table {
        Self::of(Thread::current().process())
    }

    /// By which name claims are taken for this table's process. See [`Thread::claimant`].
    fn claimant(self) -> u32 {
        self.record as u32 + 1
    }

    pub fn address(self) -> usize {
        descriptors_base(self.record)
    }

    /// Whether entries can be made.
    pub fn is_usable(self) -> bool {
        self.record < PROCESSES_MAX
    }

    fn word(self, fd: usize) -> Option<&'static AtomicU32> {
        let address = self.address() + fd * size_of::<AtomicU32>();
        // SAFETY: within the table, which is atomics.
        (fd < DESCRIPTORS_MAX).then(|| unsafe { &*(address as *const AtomicU32) })
    }

    /// What `fd` stands for. Linux looks at the low half of the number only.
    pub fn get(self, fd: usize) -> Entry {
        let word = self.word(fd & 0xffff_ffff);
        Entry::of(word.map_or(0, |word| word.load(Ordering::Acquire)))
    }

    /// Makes `fd` stand for `entry`, and no longer for what it did.
    pub fn set(self, fd: usize, entry: Entry) {
        let Some(word) = self.word(fd).filter(|_| self.is_usable()) else {
            return;
        };
        self.raise_high(fd);
        entry.hold();
        let before = Entry::of(word.swap(entry.word(), Ordering::AcqRel));
        before.let_go(Some(fd), self.claimant());
    }

    /// Whether `fd` can have an entry.
    pub fn has_room_for(self, fd: usize) -> bool {
        self.is_usable() && fd < DESCRIPTORS_MAX
    }

    /// `fd` is about to be closed.
    pub fn clear(self, fd: usize) {
        let Some(word) = self.word(fd & 0xffff_ffff) else {
            return;
        };
        if word.load(Ordering::Relaxed) != descriptor::NONE {
            let entry = Entry::of(word.swap(descriptor::NONE, Ordering::AcqRel));
            entry.let_go(Some(fd), self.claimant());
        }
    }

    fn high(self) -> Option<&'static AtomicU32> {
        let record = header().processes.get(self.record)?;
        Some(&record.descriptors_high)
    }

    fn raise_high(self, fd: usize) {
        if let Some(high) = self.high()
            && fd as u32 >= high.load(Ordering::Relaxed)
        {
            high.fetch_max(fd as u32 + 1, Ordering::AcqRel);
        }
    }

    /// Every number with an entry.
    pub fn entries(self) -> impl Iterator<Item = (usize, Entry)> {
        let high = self.high().map_or(0, |high| high.load(Ordering::Acquire));
        (0..high as usize)
            .map(move |fd| (fd, self.get(fd)))
            .filter(|(_, entry)| !matches!(entry, Entry::None))
    }

    /// Gives a child's table, which must be empty, the entries of this one.
    pub fn copy_to(self, child: Table) {
        if child.is_usable() {
            for (fd, entry) in self.entries() {
                child.set(fd, entry);
            }
        }
    }

    /// Empties the table of a process that ends itself: its peers are told at once.
    pub fn close_all(self) {
        for (fd, _) in self.entries() {
            self.clear(fd);
        }
        self.lower_high();
    }

    /// Empties the table of a process that is gone: Linux has told its peers.
    pub fn abandon(self) {
        let high = self.high().map_or(0, |high| high.load(Ordering::Acquire));
        for word in (0..high as usize).filter_map(|fd| self.word(fd)) {
            if word.load(Ordering::Relaxed) != descriptor::NONE {
                let entry = Entry::of(word.swap(descriptor::NONE, Ordering::AcqRel));
                entry.let_go(None, self.claimant());
            }
        }
        self.lower_high();
    }

    fn lower_high(self) {
        if let Some(high) = self.high() {
            high.store(0, Ordering::Release);
        }
    }
}
