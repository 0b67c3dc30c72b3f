//! The stock stages, built into the binary.
//!
//! The components are built from `stages/` by `scripts/build-guests.sh stock` and kept beside a manifest of digests; a
//! test fails when their sources changed and they were not rebuilt.

/// A stage that ships with the host.
#[derive(Clone, Copy, Debug)]
pub struct StockStage {
    /// Its name, as in `builtin:NAME`.
    pub name: &'static str,
    /// The component.
    pub wasm: &'static [u8],
}

macro_rules! stock {
    ($($name:literal),* $(,)?) => {
        &[$(StockStage { name: $name, wasm: include_bytes!(concat!("../../stages/built/", $name, ".wasm")) }),*]
    };
}

/// All stock stages, by name.
pub const STOCK: &[StockStage] = stock!["cat", "count", "grep", "head", "lower", "replace", "wc", "words"];

/// The stock stage of that name.
pub fn find(name: &str) -> Option<&'static StockStage> {
    STOCK.iter().find(|stage| stage.name == name)
}
