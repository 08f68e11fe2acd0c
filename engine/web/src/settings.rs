//! What the user chose: which model answers, and when an unused one is put away. Pure; the session keeps it in a file.

use serde::{Deserialize, Serialize};
use tsify::Tsify;

/// The user's choices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Tsify)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// The id of the model that answers; empty for the packaged one.
    pub model: String,
    /// The id of a model that was chosen and is still loading; empty for the packaged one.
    pub trying: Option<String>,
    /// Minutes without a request after which a loaded model is put away; 0 for never. Parts of a minute are allowed.
    pub idle_minutes: f64,
}

/// A day: longer is never.
const MOST_MINUTES: f64 = 24.0 * 60.0;
/// Longer is no model's id.
const LONGEST_ID: usize = 200;

impl Default for Settings {
    fn default() -> Self {
        Self { model: String::new(), trying: None, idle_minutes: 15.0 }
    }
}

impl Settings {
    /// Reads stored settings. What is missing or makes no sense, as in a damaged file, is the default.
    pub fn parse(text: &str) -> Self {
        serde_json::from_str::<Self>(text).unwrap_or_default().mended()
    }

    /// Settings that can be followed.
    pub fn mended(mut self) -> Self {
        if !(0.0..=MOST_MINUTES).contains(&self.idle_minutes) {
            self.idle_minutes = Self::default().idle_minutes;
        }
        if self.model.len() > LONGEST_ID {
            self.model.clear();
        }
        self.trying = self.trying.filter(|id| id.len() <= LONGEST_ID);
        self
    }

    /// Milliseconds until a model that was used at `used` is put away, 0 when it is due; `None` for never.
    pub fn idle_left(&self, used: f64, now: f64) -> Option<f64> {
        let after = self.idle_minutes * 60_000.0;
        (after > 0.0).then(|| (used + after - now).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        assert_eq!(Settings::parse(""), Settings::default());
        assert_eq!(Settings::parse("[1]"), Settings::default());
        assert_eq!(Settings::parse(r#"{"idleMinutes":-3,"model":"e2b"}"#).idle_minutes, 15.0);
        assert_eq!(Settings::parse(r#"{"idleMinutes":1e9}"#).idle_minutes, 15.0);
        // Of a later version.
        assert_eq!(Settings::parse(r#"{"model":"e2b","colour":"red"}"#).model, "e2b");
    }

    #[test]
    fn what_was_written_is_read() {
        let settings = Settings { model: "own-model".into(), trying: Some("e2b".into()), idle_minutes: 0.05 };
        assert_eq!(Settings::parse(&serde_json::to_string(&settings).unwrap()), settings);
    }

    #[test]
    fn an_unused_model_is_put_away_when_its_time_is_over_and_never_at_zero() {
        let settings = Settings { idle_minutes: 1.0, ..Settings::default() };
        assert_eq!(settings.idle_left(1000.0, 1000.0), Some(60_000.0));
        assert_eq!(settings.idle_left(1000.0, 51_000.0), Some(10_000.0));
        assert_eq!(settings.idle_left(1000.0, 99_000.0), Some(0.0));
        assert_eq!(Settings { idle_minutes: 0.0, ..settings }.idle_left(0.0, 1e12), None);
    }
}
