//! The size of a ring, checked once where it is made.

use std::fmt;

/// A ring's capacity in bytes: a power of two from 4 KiB to 64 MiB. The default is 256 KiB.
///
/// 256 KiB is where three pass-through sandboxed stages were fastest; 64 KiB is enough when both halves share a thread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capacity(usize);

/// The capacity asked for is no power of two, too small or too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring's capacity is a power of two from 4096 to 67108864 bytes, not {asked}")]
pub struct CapacityError {
    /// The capacity asked for, in bytes.
    pub asked: usize,
}

impl Capacity {
    /// 4 KiB.
    pub const MIN: Self = Self(4 << 10);
    /// 64 MiB.
    pub const MAX: Self = Self(64 << 20);

    /// Checks a capacity given in bytes.
    ///
    /// # Errors
    ///
    /// [`CapacityError`] when `bytes` is no power of two or outside [`Capacity::MIN`] to [`Capacity::MAX`].
    pub const fn new(bytes: usize) -> Result<Self, CapacityError> {
        if bytes.is_power_of_two() && bytes >= Self::MIN.0 && bytes <= Self::MAX.0 {
            Ok(Self(bytes))
        } else {
            Err(CapacityError { asked: bytes })
        }
    }

    /// Rounds a wish in bytes up to the nearest capacity there is.
    pub const fn at_least(bytes: usize) -> Self {
        if bytes <= Self::MIN.0 {
            Self::MIN
        } else if bytes >= Self::MAX.0 {
            Self::MAX
        } else {
            Self(bytes.next_power_of_two())
        }
    }

    /// The capacity in bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// A capacity of a few bytes, so that the model checker's state space stays small.
    #[cfg(all(test, loom))]
    pub(crate) const fn tiny(bytes: usize) -> Self {
        Self(bytes)
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self(256 << 10)
    }
}

impl fmt::Debug for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capacity({})", self.0)
    }
}
