//! The descriptor table of a process: which numbers stand for sockets and epoll sets that the vkernel knows.
//!
//! Linux's table stays the truth about what is open. An entry here is set when the vkernel sees a number come into being and
//! taken away before Linux closes it; so a number that Linux gives out anew never has an old entry.
//!
//! Unsafe here: it makes references out of addresses.
#![allow(unsafe_code)]

use crate::epoll;
use crate::socket::lifecycle::{self, Leave};
use crate::socket::pools::Pooled;
use crate::task::{Process, Thread, header};
use core::sync::atomic::{AtomicU32, Ordering};
use pegasus_contract::layout::{DESCRIPTORS_MAX, PROCESSES_MAX, descriptors_base};
use pegasus_contract::socket::{SetRecord, SocketRecord, descriptor, socket_flags};

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

    /// A call uses it, and no other number stands for it.
    fn is_in_a_last_call(self) -> bool {
        let (pins, descriptors) = match self {
            Entry::None => return false,
            Entry::Socket(socket) => (&socket.pins, &socket.descriptors),
            Entry::Set(set) => (&set.pins, &set.descriptors),
        };
        pins.load(Ordering::SeqCst) != 0 && descriptors.load(Ordering::SeqCst) == 1
    }

    /// A child has numbers for it as well.
    fn note_inherited(self) {
        match self {
            Entry::None => {}
            Entry::Socket(socket) => {
                socket
                    .flags
                    .fetch_or(socket_flags::INHERITED, Ordering::Relaxed);
            }
            Entry::Set(set) => set.inherited.store(1, Ordering::Relaxed),
        }
    }

    fn is_inherited(self) -> bool {
        match self {
            Entry::None => false,
            Entry::Socket(socket) => {
                socket.flags.load(Ordering::Relaxed) & socket_flags::INHERITED != 0
            }
            Entry::Set(set) => set.inherited.load(Ordering::Relaxed) != 0,
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

    /// One number less stands for it.
    fn let_go(self, leave: Leave) {
        match self {
            Entry::None => {}
            Entry::Socket(socket) => {
                if socket.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
                    lifecycle::close(socket, leave);
                }
            }
            Entry::Set(set) => {
                if set.descriptors.fetch_sub(1, Ordering::AcqRel) == 1 {
                    epoll::set::destroy(set, leave);
                }
            }
        }
    }
}

/// See [`Table::abandon`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Others {
    None,
    Some,
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

    /// The terms on which a call lets go of what `fd` stands for.
    fn closing(self, fd: usize) -> Leave {
        Leave {
            fd: Some(fd),
            // See [`Thread::claimant`].
            holder: self.record as u32 + 1,
            pins_are_dead: false,
        }
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
        before.let_go(self.closing(fd));
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
            entry.let_go(self.closing(fd));
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
                entry.note_inherited();
                child.set(fd, entry);
            }
        }
    }

    /// Empties the table of a process that ends itself: its peers are told at once. What its other threads are in a call
    /// with stays for who frees the process's record: they do not come back from it.
    pub fn close_all(self) {
        let mut is_empty = true;
        for (fd, entry) in self.entries() {
            if entry.is_in_a_last_call() {
                is_empty = false;
                if let Entry::Socket(socket) = entry {
                    lifecycle::say_end(socket, Some(fd));
                }
            } else {
                self.clear(fd);
            }
        }
        if is_empty {
            self.lower_high();
        }
    }

    /// Empties the table of a process that is gone: Linux has told its peers. `holder`: by which name claims are taken.
    /// `others`: whether there are processes that could be in a call with what this one has inherited or passed on.
    pub fn abandon(self, holder: u32, others: Others) {
        let high = self.high().map_or(0, |high| high.load(Ordering::Acquire));
        for word in (0..high as usize).filter_map(|fd| self.word(fd)) {
            if word.load(Ordering::Relaxed) != descriptor::NONE {
                let entry = Entry::of(word.swap(descriptor::NONE, Ordering::AcqRel));
                entry.let_go(Leave {
                    fd: None,
                    holder,
                    pins_are_dead: others == Others::None || !entry.is_inherited(),
                });
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
