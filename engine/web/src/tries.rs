//! The tries of one load to get onto a graphics device: whether there is another after one failed, and what is said in the end.
//! Pure.

use sotto_core::gpu::Fault;

/// Devices that a load may try after the first.
const MOST_MORE: usize = 2;

/// Where a graphics device is given the tables that are only gathered. A CPU never holds those that can stay in storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// With the other weights; in storage once that has failed.
    Inside,
    /// In storage.
    Outside,
}

/// What one load tried.
#[derive(Debug)]
pub struct Tries {
    tables: Tables,
    failed: Vec<String>,
    was_lost: bool,
}

impl Tries {
    /// Before the first.
    pub fn new(tables: Tables) -> Self {
        Self { tables, failed: Vec::new(), was_lost: false }
    }

    /// Where the next try has the tables.
    pub fn tables(&self) -> Tables {
        self.tables
    }

    /// True once a device was lost.
    pub fn was_lost(&self) -> bool {
        self.was_lost
    }

    /// Counts a try that failed for `why`, on a device that `fault` befell. True if another one may succeed: on a device that is
    /// spared it, or without tables, if there are any that `can_stay` in storage. What a device refuses otherwise it refuses
    /// again.
    pub fn again(&mut self, why: &str, fault: Option<Fault>, can_stay: bool) -> bool {
        let is_lost = fault == Some(Fault::Lost);
        self.was_lost |= is_lost;
        self.failed.push(if is_lost { "it was lost while the model was loading".to_owned() } else { why.to_owned() });
        let needs_less = can_stay && self.tables == Tables::Inside;
        self.tables = Tables::Outside;
        self.failed.len() <= MOST_MORE && (fault.is_some() || needs_less)
    }

    /// What happened, in order: sentences without the last full stop. `end` is why there was no further device to try.
    pub fn words(mut self, end: Option<String>) -> String {
        let tries = self.failed.len();
        self.failed.dedup();
        if let ([_], 2..) = (self.failed.as_slice(), tries) {
            let times = if tries == 2 { "twice".to_owned() } else { format!("{tries} times") };
            self.failed.iter_mut().for_each(|why| *why = format!("{why}, {times}"));
        }
        self.failed.extend(end);
        self.failed.join(". Then ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Option<Fault> = Some(Fault::Lost);
    const FULL: Option<Fault> = Some(Fault::NoMemory);

    #[test]
    fn a_lost_device_is_replaced_twice_and_then_given_up() {
        let mut tries = Tries::new(Tables::Inside);
        assert!(tries.again("x", LOST, false) && tries.was_lost());
        assert!(tries.again("x", LOST, false));
        assert!(!tries.again("x", LOST, false));
        assert_eq!(tries.words(None), "it was lost while the model was loading, 3 times");
    }

    #[test]
    fn after_any_failure_tables_stay_in_storage() {
        for fault in [LOST, FULL, None] {
            let mut tries = Tries::new(Tables::Inside);
            assert!(tries.again("no room", fault, true), "{fault:?}");
            assert_eq!(tries.tables(), Tables::Outside);
            assert_eq!(tries.again("no room", fault, true), fault.is_some());
            assert!(fault.is_none() || !tries.again("no room", fault, true));
        }
    }

    #[test]
    fn what_is_refused_for_another_reason_is_refused_again() {
        assert!(!Tries::new(Tables::Inside).again("a shader was refused", None, false));
        assert!(!Tries::new(Tables::Outside).again("a shader was refused", None, true));
    }

    #[test]
    fn the_words_say_all_that_happened() {
        let mut tries = Tries::new(Tables::Inside);
        tries.again("no room", FULL, true);
        tries.again("x", LOST, true);
        let words = tries.words(Some("there is no adapter".to_owned()));
        assert_eq!(words, "no room. Then it was lost while the model was loading. Then there is no adapter");
        let mut twice = Tries::new(Tables::Inside);
        twice.again("no room", FULL, false);
        twice.again("no room", FULL, false);
        assert_eq!(twice.words(None), "no room, twice");
        assert_eq!(Tries::new(Tables::Inside).words(Some("there is none".to_owned())), "there is none");
    }
}
