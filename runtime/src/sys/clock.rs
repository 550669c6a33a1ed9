//! The processor's time-stamp counter.

use std::time::{Duration, Instant};

/// How fast the counter runs.
#[derive(Debug, Clone, Copy)]
pub struct CycleClock {
    cycles_per_microsecond: f64,
}

impl CycleClock {
    /// Compares the counter with the system clock for a few milliseconds.
    pub fn measure() -> Self {
        const SPAN: Duration = Duration::from_millis(5);
        let (start, start_cycles) = (Instant::now(), counter());
        std::thread::sleep(SPAN);
        let cycles = counter().wrapping_sub(start_cycles);
        let microseconds = start.elapsed().as_secs_f64() * 1e6;
        CycleClock {
            cycles_per_microsecond: (cycles as f64 / microseconds).max(f64::MIN_POSITIVE),
        }
    }

    pub fn microseconds(self, cycles: u64) -> f64 {
        cycles as f64 / self.cycles_per_microsecond
    }
}

fn counter() -> u64 {
    // SAFETY: x86-64 processors have the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_become_time() {
        let clock = CycleClock {
            cycles_per_microsecond: 2000.0,
        };
        assert!((clock.microseconds(5000) - 2.5).abs() < 1e-9);
        assert!(CycleClock::measure().cycles_per_microsecond > 1.0);
    }
}
