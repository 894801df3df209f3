//! A bounded number of scenarios at work at a time; one that only waits gives its slot to another meanwhile.

use std::{
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

/// The slots.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A slot in use; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Slot<'a>(&'a Slots);

impl Slots {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            free: Mutex::new(number.max(1)),
            returned: Condvar::new(),
        }
    }

    /// Waits for a free slot.
    pub(crate) fn take(&self) -> Slot<'_> {
        self.occupy();
        Slot(self)
    }

    fn occupy(&self) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .returned
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
    }

    fn release(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.returned.notify_one();
    }
}

impl Slot<'_> {
    /// Lets `time` pass without the slot.
    pub(crate) fn idle(&self, time: Duration) {
        self.0.release();
        thread::sleep(time);
        self.0.occupy();
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_slots_are_at_work() {
        let (slots, now, most) = (Slots::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let slot = slots.take();
                    for _ in 0..20 {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        slot.idle(Duration::from_micros(50));
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert_eq!(*slots.free.lock().unwrap(), 2, "all were given back");
    }
}
