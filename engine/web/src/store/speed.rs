//! How fast bytes come, and how long the rest takes.

/// Estimates over about this many milliseconds.
const WINDOW_MS: f64 = 5000.0;

/// Bytes per second over the last seconds.
#[derive(Debug, Clone, Default)]
pub struct Speed {
    /// Time in milliseconds and bytes so far, oldest first.
    seen: std::collections::VecDeque<(f64, u64)>,
}

impl Speed {
    /// Takes down that `bytes` have come in all at `now` milliseconds. Fewer than before (a chunk that has to come again) starts
    /// the estimate anew.
    pub fn see(&mut self, now: f64, bytes: u64) {
        if self.seen.back().is_some_and(|(_, last)| *last > bytes) {
            self.seen.clear();
        }
        self.seen.push_back((now, bytes));
        while self.seen.len() > 2 && self.seen.get(1).is_some_and(|(at, _)| now - at >= WINDOW_MS) {
            self.seen.pop_front();
        }
    }

    /// Bytes per second; 0 until two moments were seen.
    pub fn bytes_per_second(&self) -> f64 {
        match (self.seen.front(), self.seen.back()) {
            (Some((from, first)), Some((to, last))) if to > from => (last - first) as f64 * 1000.0 / (to - from),
            _ => 0.0,
        }
    }

    /// Seconds for `left` bytes more, if that can be said.
    pub fn seconds_left(&self, left: u64) -> Option<f64> {
        let speed = self.bytes_per_second();
        let spans = matches!((self.seen.front(), self.seen.back()), (Some(a), Some(b)) if b.0 - a.0 >= 1000.0);
        (speed > 0.0 && spans).then(|| left as f64 / speed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_seconds_count() {
        let mut speed = Speed::default();
        assert_eq!((speed.bytes_per_second(), speed.seconds_left(5)), (0.0, None));
        for second in 0..20 {
            speed.see(f64::from(second) * 1000.0, 100 * second as u64);
        }
        assert!((speed.bytes_per_second() - 100.0).abs() < 1.0);
        // It stalls: the estimate follows within seconds.
        for second in 20..30 {
            speed.see(f64::from(second) * 1000.0, 1900);
        }
        assert_eq!((speed.bytes_per_second(), speed.seconds_left(5)), (0.0, None));
        for second in 30..40 {
            speed.see(f64::from(second) * 1000.0, 1900 + 50 * (second as u64 - 29));
        }
        assert!((speed.seconds_left(500).unwrap() - 10.0).abs() < 1.0);
        speed.see(41_000.0, 10);
        assert_eq!(speed.bytes_per_second(), 0.0);
    }
}
