//! futex(2): private futexes are the vkernel's ([`crate::futex`]), all others are Linux's.
//!
//! A wait looks at the word before it joins the queue: until then it is as if the call had come a little later, and whoever changes
//! the word finds nobody to wake. The semantics and the order of checks are those of Linux's kernel/futex/.

use crate::deadline::Deadline;
use crate::entry::Call;
use crate::futex::{Key, Move, Release, Second, Table};
use crate::syscall::table::{forward, forward_as};
use crate::task::Thread;
use crate::usermem::UserPtr;
use pegasus_abi::futex::{
    FUTEX_BITSET_MATCH_ANY, FUTEX_CLOCK_REALTIME, FUTEX_CMD_MASK, FUTEX_CMP_REQUEUE, FUTEX_OP_ADD,
    FUTEX_OP_ANDN, FUTEX_OP_CMP_EQ, FUTEX_OP_CMP_GE, FUTEX_OP_CMP_GT, FUTEX_OP_CMP_LE,
    FUTEX_OP_CMP_LT, FUTEX_OP_CMP_NE, FUTEX_OP_OPARG_SHIFT, FUTEX_OP_OR, FUTEX_OP_SET,
    FUTEX_OP_XOR, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE,
    FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};
use pegasus_abi::poll::Timespec;
use pegasus_abi::{Errno, Result, nr};
use pegasus_contract::layout::USER_END;

const NS_PER_SEC: u64 = 1_000_000_000;

pub fn futex(call: &Call) -> Result {
    let op = call.args[1] as u32;
    let table = call.thread.process().futexes;
    if op & FUTEX_PRIVATE_FLAG == 0 || table.is_retired() {
        return forward(call);
    }
    let command = op & FUTEX_CMD_MASK;
    let bitset = call.args[5] as u32;
    let has_clock = op & FUTEX_CLOCK_REALTIME != 0;
    match command {
        FUTEX_WAIT if !has_clock => wait(call, table, FUTEX_BITSET_MATCH_ANY),
        FUTEX_WAIT_BITSET => wait(call, table, bitset),
        FUTEX_WAIT | FUTEX_WAKE | FUTEX_WAKE_BITSET | FUTEX_REQUEUE | FUTEX_CMP_REQUEUE
        | FUTEX_WAKE_OP
            if has_clock =>
        {
            Err(Errno::ENOSYS)
        }
        FUTEX_WAKE => wake(call, table, FUTEX_BITSET_MATCH_ANY),
        FUTEX_WAKE_BITSET => wake(call, table, bitset),
        FUTEX_REQUEUE => requeue(call, table, None),
        FUTEX_CMP_REQUEUE => requeue(call, table, Some(bitset)),
        FUTEX_WAKE_OP => wake_op(call, table),
        _ => forward(call),
    }
}

/// futex_waitv(2), futex_wake(2), futex_wait(2), futex_requeue(2): Linux's, and with them all private futexes of the process.
pub fn futex2(call: &Call) -> Result {
    call.thread.process().futexes.retire();
    forward(call)
}

/// Linux's `get_futex_key` for a private futex.
fn word_at(address: usize) -> Result<UserPtr> {
    if !address.is_multiple_of(size_of::<u32>()) {
        return Err(Errno::EINVAL);
    }
    if address >= USER_END {
        return Err(Errno::EFAULT);
    }
    Ok(UserPtr(address))
}

fn key_of(address: usize, bitset: u32) -> Result<Key> {
    if bitset == 0 {
        return Err(Errno::EINVAL);
    }
    let address = word_at(address)?.0;
    Ok(Key { address, bitset })
}

/// How long a wait may take, as futex(2) is to be told for the sleep.
struct Limit {
    op: u32,
    time: Option<Timespec>,
    is_zero: bool,
}

impl Limit {
    fn of(call: &Call) -> Result<Limit> {
        let op = call.args[1] as u32;
        if call.args[3] == 0 {
            return Ok(Limit {
                op,
                time: None,
                is_zero: false,
            });
        }
        let time: Timespec = UserPtr(call.args[3]).read()?;
        if time.sec < 0 || !(0..NS_PER_SEC as i64).contains(&time.nsec) {
            return Err(Errno::EINVAL);
        }
        let is_relative = op & FUTEX_CMD_MASK == FUTEX_WAIT;
        let is_zero = is_relative && time.sec == 0 && time.nsec == 0;
        // Absolute from here on: the sleep may begin late, and more than once. Under a filter of its own the program may not be
        // allowed to read the clock; then the call stays as it is.
        if is_relative && !call.thread.process().has_filter() {
            return Ok(Limit {
                op: FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG,
                time: Some(from_now(&time)),
                is_zero,
            });
        }
        Ok(Limit {
            op,
            time: Some(time),
            is_zero,
        })
    }

    /// When the wait is over, for who only looks; at once if it is a time of day.
    fn deadline(&self) -> Deadline {
        match self.time {
            None => Deadline::NEVER,
            Some(time) if self.op & FUTEX_CLOCK_REALTIME == 0 && self.is_absolute() => {
                Deadline::at(
                    (time.sec as u64)
                        .saturating_mul(NS_PER_SEC)
                        .saturating_add(time.nsec as u64),
                )
            }
            Some(_) => Deadline::at(0),
        }
    }

    fn is_absolute(&self) -> bool {
        self.op & FUTEX_CMD_MASK != FUTEX_WAIT
    }

    /// For a wait that is given up for a signal.
    fn interruption(&self) -> Errno {
        match self.time {
            None => Errno::ERESTART_IF_ASKED,
            Some(_) => Errno::ERESTARTNOHAND,
        }
    }
}

fn from_now(time: &Timespec) -> Timespec {
    let ns = (time.sec as u64)
        .saturating_mul(NS_PER_SEC)
        .saturating_add(time.nsec as u64)
        .saturating_add(pegasus_host::process::monotonic_ns());
    Timespec {
        sec: (ns / NS_PER_SEC) as i64,
        nsec: (ns % NS_PER_SEC) as i64,
    }
}

fn wait(call: &Call, table: &Table, bitset: u32) -> Result {
    let thread = call.thread;
    let limit = Limit::of(call)?;
    let key = key_of(call.args[0], bitset)?;
    let word = UserPtr(key.address);
    let expected = call.args[2] as u32;
    let is_as_expected = || match word.load_word() {
        Ok(value) if value == expected => Ok(()),
        Ok(_) => Err(Errno::EAGAIN),
        Err(errno) => Err(errno),
    };
    is_as_expected()?;
    // Looking needs calls of the vkernel's own, which a filter of the program's may forbid.
    if !limit.is_zero && !thread.process().has_filter() {
        let is_over = || is_as_expected().is_err();
        thread
            .futex_patience
            .look(thread, limit.deadline(), &table.lookers, is_over);
        is_as_expected()?;
    }
    if thread.has_pending() {
        return Err(limit.interruption());
    }
    if !table.enter(thread, key, expected)? {
        return forward(call);
    }
    match sleep(thread, table, &limit)? {
        Release::Woken => Ok(0),
        Release::SentAway => forward(call),
    }
}

/// Sleeps until somebody takes the caller out of its queue. It is in none afterwards in any case.
fn sleep(thread: &'static Thread, table: &Table, limit: &Limit) -> Result<Release> {
    let time = limit.time.as_ref();
    let time_at = time.map_or(0, |time| &raw const *time as usize);
    while let Some((word, asleep)) = thread.waiter.fall_asleep() {
        let args = [
            word.as_ptr() as usize,
            limit.op as usize,
            asleep as usize,
            time_at,
            0,
            FUTEX_BITSET_MATCH_ANY as usize,
        ];
        let errno = match forward_as(nr::FUTEX, &args) {
            Ok(_) | Err(Errno::EAGAIN) => continue,
            Err(Errno::EINTR | Errno::ERESTARTSYS) if !thread.has_pending() => continue,
            Err(Errno::EINTR | Errno::ERESTARTSYS) => limit.interruption(),
            Err(errno) => errno,
        };
        return table.give_up(thread).ok_or(errno);
    }
    thread.waiter.released().ok_or(Errno::EAGAIN)
}

/// A count of waiters: an `int`, of which one is woken even if it is not positive.
fn count_of(argument: usize) -> usize {
    usize::try_from(argument as i32).unwrap_or(0)
}

fn wake(call: &Call, table: &Table, bitset: u32) -> Result {
    let key = key_of(call.args[0], bitset)?;
    let wake_max = count_of(call.args[2]);
    table.wake(key, wake_max).map_or_else(|| forward(call), Ok)
}

fn requeue(call: &Call, table: &Table, expected: Option<u32>) -> Result {
    let [from, _, wake_max, move_max, to, _] = call.args;
    if (wake_max as i32) < 0 || (move_max as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let wanted = Move {
        from: word_at(from)?,
        to: word_at(to)?,
        wake_max: count_of(wake_max),
        move_max: count_of(move_max),
        expected,
    };
    match table.requeue(call.thread, &wanted)? {
        Some(count) => Ok(count),
        None => forward(call),
    }
}

fn wake_op(call: &Call, table: &Table) -> Result {
    let [first, _, wake_max, wake_max_second, second, operation] = call.args;
    let first = key_of(first, FUTEX_BITSET_MATCH_ANY)?;
    let word = word_at(second)?;
    let operation = Operation::decode(operation as u32);
    let second = Second {
        word,
        change: &|| operation.run(word),
        wake_max: count_of(wake_max_second),
    };
    let done = table.wake_and_change(call.thread, first, count_of(wake_max), &second)?;
    match done {
        Some(woken) => Ok(woken),
        None => forward(call),
    }
}

/// What a FUTEX_WAKE_OP does with its second word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operation {
    kind: u32,
    operand: u32,
    comparison: u32,
    compared: i32,
}

impl Operation {
    fn decode(code: u32) -> Operation {
        let signed_12_bits = |value: u32| (value << 20) as i32 >> 20;
        let operand = signed_12_bits(code >> 12) as u32;
        let is_shift = code >> 28 & FUTEX_OP_OPARG_SHIFT != 0;
        Operation {
            kind: code >> 28 & !FUTEX_OP_OPARG_SHIFT,
            operand: if is_shift {
                1 << (operand & 31)
            } else {
                operand
            },
            comparison: code >> 24 & 0xf,
            compared: signed_12_bits(code),
        }
    }

    fn apply(&self, old: u32) -> Result<u32> {
        Ok(match self.kind {
            FUTEX_OP_SET => self.operand,
            FUTEX_OP_ADD => old.wrapping_add(self.operand),
            FUTEX_OP_OR => old | self.operand,
            FUTEX_OP_ANDN => old & !self.operand,
            FUTEX_OP_XOR => old ^ self.operand,
            _ => return Err(Errno::ENOSYS),
        })
    }

    fn compare(&self, old: u32) -> Result<bool> {
        let old = old as i32;
        Ok(match self.comparison {
            FUTEX_OP_CMP_EQ => old == self.compared,
            FUTEX_OP_CMP_NE => old != self.compared,
            FUTEX_OP_CMP_LT => old < self.compared,
            FUTEX_OP_CMP_LE => old <= self.compared,
            FUTEX_OP_CMP_GT => old > self.compared,
            FUTEX_OP_CMP_GE => old >= self.compared,
            _ => return Err(Errno::ENOSYS),
        })
    }

    /// Changes the word at once; tells what comparing what was there gives.
    fn run(&self, word: UserPtr) -> Result<bool> {
        let mut old = word.load_word()?;
        loop {
            let seen = word.exchange_word(old, self.apply(old)?)?;
            if seen == old {
                return self.compare(old);
            }
            old = seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Errno, Operation, count_of};
    use pegasus_abi::futex::{
        FUTEX_OP_ADD, FUTEX_OP_ANDN, FUTEX_OP_CMP_GE, FUTEX_OP_CMP_LT, FUTEX_OP_OPARG_SHIFT,
        FUTEX_OP_OR, FUTEX_OP_SET, FUTEX_OP_XOR,
    };

    fn operation(kind: u32, operand: i32, comparison: u32, compared: i32) -> Operation {
        let low = |value: i32| value as u32 & 0xfff;
        Operation::decode(kind << 28 | comparison << 24 | low(operand) << 12 | low(compared))
    }

    #[test]
    fn operations_change_the_word_as_linux_does() {
        let apply = |kind, operand, old| operation(kind, operand, 0, 0).apply(old);
        assert_eq!(apply(FUTEX_OP_SET, -3, 7), Ok(-3i32 as u32));
        assert_eq!(apply(FUTEX_OP_ADD, -3, 2), Ok(u32::MAX));
        assert_eq!(apply(FUTEX_OP_OR, 6, 9), Ok(15));
        assert_eq!(apply(FUTEX_OP_ANDN, 6, 15), Ok(9));
        assert_eq!(apply(FUTEX_OP_XOR, 6, 15), Ok(9));
        let shift = FUTEX_OP_OPARG_SHIFT;
        assert_eq!(apply(FUTEX_OP_OR | shift, 31, 0), Ok(1 << 31));
        assert_eq!(apply(FUTEX_OP_SET | shift, 33, 0), Ok(2));
        assert_eq!(apply(5, 0, 0), Err(Errno::ENOSYS));
    }

    #[test]
    fn comparisons_are_signed() {
        let compare = |comparison, compared, old: i32| {
            operation(FUTEX_OP_SET, 0, comparison, compared).compare(old as u32)
        };
        assert_eq!(compare(FUTEX_OP_CMP_LT, 0, -1), Ok(true));
        assert_eq!(compare(FUTEX_OP_CMP_GE, -2048, -2048), Ok(true));
        assert_eq!(compare(FUTEX_OP_CMP_GE, 2047, 2046), Ok(false));
        assert_eq!(compare(6, 0, 0), Err(Errno::ENOSYS));
    }

    #[test]
    fn a_count_is_an_int() {
        assert_eq!(count_of(3), 3);
        assert_eq!(count_of(u32::MAX as usize), 0);
        assert_eq!(count_of(0x7fff_ffff), 0x7fff_ffff);
    }
}
