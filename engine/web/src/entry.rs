//! First form of the model's entry.
use sotto_core::{Error, Result};
#[derive(serde::Deserialize)]
pub struct Entry {
    #[serde(default = "starter")]
    pub name: String,
    pub bytes: u64,
    #[serde(default)]
    pub advice: String,
    #[serde(default = "context")]
    pub context: u32,
}
fn starter() -> String {
    "Starter".into()
}
fn context() -> u32 {
    8192
}
impl Entry {
    pub fn starter() -> Result<Self> {
        serde_json::from_str(include_str!("../../../models/starter.json"))
            .map_err(|e| Error::format("models/starter.json", e.to_string()))
    }
}
